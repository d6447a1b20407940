/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is published by time, and who is woken for it. Time is the test's: a fake park. In most tests nobody runs
 * anything but who polls the pool, so that a tick is a call; where it is about who is woken there are threads.
 */
#include <criterion/criterion.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/barrier.h"
#include "callbacks.h"

TestSuite(tick, .timeout = 60);

enum { TICK = 1000000, FLUSH = 2 * TICK, BLOCK_BYTES = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t) };

static atomic_uint barriers;

void __real_cq_barrier_heavy(void);
void __wrap_cq_barrier_heavy(void);
void __wrap_cq_barrier_heavy(void)
{
	barriers++;
	__real_cq_barrier_heavy();
}

/* -------------------------------------------------------------- the queue, and time */

static void make_timed(cq_cleanup_config_t config, cq_pool_config_t pool_config)
{
	config.flush_ns = FLUSH;
	pool_config.spin_ns = CQ_POOL_NO_SPIN;
	pool_config.idle_ns = CQ_FOREVER;
	make_with(config, pool_config);
}

/* A tick is a call of poll. */
static void make_polled(void)
{
	make_timed((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
}

/* A clock, and so many workers. Full blocks wake nobody. */
static void make_managed(uint32_t workers)
{
	make_timed((cq_cleanup_config_t){ .wake_bytes = SIZE_MAX }, (cq_pool_config_t){ .workers_max = workers });
}

static size_t poll_pool(void)
{
	return cq_pool_run_some(cq_cleanup_pool(q), SIZE_MAX);
}

/* Until the next tick, and that. */
static void tick(void)
{
	fake_advance(&park, TICK - park.now % TICK);
	(void)poll_pool();
}

static bool is_armed(void)
{
	CHECK((q->ticking != 0) == (q->task->at != 0));
	return q->ticking != 0;
}

/* Ticks of workers, until n callbacks have run: two, where nothing hangs. */
static void ticks_until_ran(unsigned n)
{
	uint64_t limit = wait_limit();

	while (runs < n) {
		CHECK(test_now() < limit);
		fake_advance(&park, TICK);
		turn();
	}
}

/* Nothing is enqueued meanwhile. */
static unsigned ticks_until_quiet(void)
{
	unsigned n;

	for (n = 0; is_armed(); n++) {
		CHECK(n < 10);
		tick();
	}
	return n;
}

static bool is_signalled(void)
{
	return (cq_u64_load_relaxed(&q->task->word) & TASK_IN) != 0;
}

static void put_shared(unsigned i)
{
	CHECK(cq_cleanup_enqueue(q, run_it, (void *)(uintptr_t)i) == 0);
}

static void put_by_span(unsigned i)
{
	cq_callback_t *slots;
	size_t n;

	CHECK(cq_producer_span(p, &slots, &n) == 0);
	*slots = (cq_callback_t){ run_it, (void *)(uintptr_t)i };
	CHECK(cq_producer_commit(p, 1, &n) == 0);
}

static void put_one(unsigned i)
{
	put(p, i, 1);
}

static void put_reserved(unsigned i)
{
	CHECK(cq_producer_reserve(p, 3 * SLOTS) == 0);
	put(p, i, 1);
}

/* ---------------------------------------------------------------------- the limit */

Test(tick, flush_ns_is_a_time_or_for_ever)
{
	static const struct { uint64_t flush_ns; int err; } all[] = {
		{ 1, EINVAL }, { CQ_FLUSH_NS_MIN - 1, EINVAL }, { CQ_FLUSH_NS_MIN, 0 }, { CQ_FOREVER - 1, 0 },
		{ CQ_FOREVER, 0 }, { 0, 0 }
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		cq_cleanup_config_t c = { .flush_ns = all[i].flush_ns };

		cr_assert_eq(cq_cleanup_create(&c, &q), all[i].err);
		if (all[i].err == 0)
			cr_assert_eq(cq_cleanup_destroy(q), 0);
	}
}

/* However it is enqueued, and whenever. */
Test(tick, what_nobody_flushes_runs_within_flush_ns)
{
	static void (*const puts[])(unsigned) = { put_one, put_by_span, put_reserved, put_shared };
	enum { PHASES = 5 };

	for (unsigned i = 0; i < sizeof(puts) / sizeof(*puts); i++)
		for (unsigned phase = 0; phase < PHASES; phase++) {
			uint64_t since;

			make_polled();
			fake_advance(&park, phase * TICK / PHASES);
			puts[i](0);
			since = park.now;
			cr_assert_eq(poll_pool(), 0);
			while (runs == 0) {
				cr_assert_lt(park.now, since + FLUSH);
				tick();
			}
			cr_assert_leq(park.now, since + FLUSH);
			finish(1);
		}
}

/* Written at any time between two ticks, into a block that another one has found open or not. */
Test(tick, each_of_many_runs_within_flush_ns, .init = make_polled)
{
	enum { N = 200, STEP = TICK / 7 };
	static uint64_t since[N];
	unsigned n = 0, oldest = 0;
	rng_t chance = { 7 };

	while (oldest < N) {
		if (n < N && rng_below(&chance, 3) == 0) {
			since[n] = park.now;
			put_one(n++);
		}
		fake_advance(&park, STEP);
		(void)poll_pool();
		for (; oldest < N && ran[oldest] != 0; oldest++)
			;
		cr_assert(oldest >= n || park.now <= since[oldest] + FLUSH + STEP);
	}
	finish(N);
}

Test(tick, by_default_there_are_none)
{
	cq_pool_config_t pool_config = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED, .park = &park.ops };
	cq_cleanup_config_t config = { .pool_config = &pool_config };

	fake_init(&park);
	test_alloc_init(&mem);
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0);
	put_one(0);
	fake_advance(&park, UINT64_C(3600000000000));
	cr_assert_eq(poll_pool(), 0);
	run_all(NULL);
	cr_assert_eq(runs, 0);
	finish(1);
}

Test(tick, for_ever_is_not_by_time_and_makes_no_clock)
{
	make_with((cq_cleanup_config_t){ .flush_ns = CQ_FOREVER },
	    (cq_pool_config_t){ .workers_max = 1, .spin_ns = CQ_POOL_NO_SPIN });
	put(p, 0, SLOTS + 1);
	AWAIT(runs == SLOTS);
	cr_assert_eq(q->ticking, 0);
	cr_assert_eq(q->pool->earliest, CQ_FOREVER);
	cr_assert_eq(q->pool->has_clock, 0);
	fake_advance(&park, UINT64_C(3600) * 1000000000);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	put_one(SLOTS + 1);
	fake_advance(&park, UINT64_C(3600) * 1000000000);
	cr_assert_eq(q->task->at, 0);
	finish(SLOTS + 2);
}

/* ------------------------------------------------------------- what a tick leaves alone */

/* Its owner pays for neither: there is no claim, and no barrier. */
Test(tick, a_block_that_is_filled_between_ticks_is_not_touched, .init = make_polled)
{
	unsigned n = SLOTS + 1;

	put(p, 0, n);
	for (unsigned i = 0; i < 100; i++) {
		tick();
		cr_assert_eq(state_claimed(p->state), 0);
		cr_assert_eq(runs, n - 1);
		put(p, n, SLOTS);
		n += SLOTS;
	}
	cr_assert_eq(barriers, 0);
	cr_assert_eq(stats().flushes, 0);
	tick();
	cr_assert_eq(state_claimed(p->state), 0);
	tick();
	cr_assert(each_once(n), "the second one takes it");
	finish(n);
}

/* And a flush between them makes nothing young again. */
Test(tick, two_ticks_publish_all_that_was_there_before, .init = make_polled)
{
	put(p, 0, SLOTS + 1);
	tick();
	cr_assert_eq(runs, SLOTS);
	put_one(SLOTS + 1);
	tick();
	cr_assert_eq(runs, SLOTS + 2);
	put_one(SLOTS + 2);
	put_one(SLOTS + 3);
	put_one(SLOTS + 4);
	tick();
	cr_assert_eq(runs, SLOTS + 4, "what filled the old one, and not yet what is in the new");
	tick();
	cr_assert_eq(runs, SLOTS + 5);
	finish(SLOTS + 5);
}

/* -------------------------------------------------------------------------- quiet */

Test(tick, after_quiet_none_is_armed_and_the_next_callback_arms_one, .init = make_polled)
{
	cr_assert(!is_armed());
	for (unsigned i = 0; i < SLOTS - 1; i++) {
		put_one(i);
		cr_assert(is_armed());
		cr_assert_eq(ticks_until_quiet(), 2, "one that publishes, and one that finds nothing");
		cr_assert_eq(runs, i + 1);
		cr_assert_eq(q->pool->earliest, CQ_FOREVER);
		cr_assert_eq(q->writers, NULL);
		fake_advance(&park, 100 * TICK);
		cr_assert_not(cq_pool_needs_wake(cq_cleanup_pool(q)));
	}
	finish(SLOTS - 1);
}

/* Its block is open, and it is no writer: it writes up to a limit, and the limit is gone. */
Test(tick, who_was_let_go_arms_by_its_next_callback, .init = make_polled)
{
	put_one(0);
	(void)ticks_until_quiet();
	cr_assert_neq(p->block, NULL);
	cr_assert_eq(p->listed, UNLISTED);
	put_one(1);
	cr_assert(is_armed());
	tick();
	cr_assert_eq(runs, 2);
	finish(2);
}

/* Each, at each tick: they are let go together. */
Test(tick, those_who_enqueue_now_and_then_cost_a_barrier_a_tick, .init = make_polled)
{
	enum { N = 10, TICKS = 50 };
	cq_producer_t *each[N];
	unsigned n = 0;

	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(cq_producer_attach(q, NULL, &each[i]), 0);
	for (unsigned t = 0; t < TICKS; t++) {
		for (unsigned i = 0; i < N; i++)
			if ((t + i) % 3 == 0)
				put(each[i], n++, 1);
		barriers = 0;
		tick();
		cr_assert_leq(barriers, 1);
	}
	(void)ticks_until_quiet();
	cr_assert(each_once(n));
	for (unsigned i = 0; i < N; i++)
		cq_producer_detach(each[i]);
	finish(n);
}

Test(tick, time_alone_does_nothing_between_ticks)
{
	make_timed((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = CQ_POOL_POLLED, .workers_max = 1 });
	put_one(0);
	fake_advance(&park, TICK - 1);
	cr_assert_not(cq_pool_needs_wake(cq_cleanup_pool(q)));
	cr_assert_eq(poll_pool(), 0);
	run_all(NULL);
	cr_assert_eq(runs, 0);
	fake_advance(&park, 1);
	cr_assert(cq_pool_needs_wake(cq_cleanup_pool(q)));
	(void)poll_pool();
	cr_assert_eq(runs, 1);
	finish(1);
}

/* ------------------------------------------------------------ against come_in, let_go */

/* Where the queue's lock may be held. */
static void writes_one(void *i)
{
	put_one((unsigned)(uintptr_t)i);
}

/* The tick has found nobody, and says so as a producer lists itself. */
Test(tick, who_comes_as_the_last_tick_ends_is_published_by_time, .init = make_polled)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	put(other, 0, 1);
	tick();
	at_point("collect.unlisted", writes_one, (void *)1);
	tick();
	cr_assert(is_armed());
	(void)ticks_until_quiet();
	cr_assert_eq(runs, 2);
	cq_producer_detach(other);
	finish(2);
}

/* The one that is let go, at that instant. */
Test(tick, who_writes_as_it_is_let_go_is_published_by_time, .init = make_polled)
{
	put_one(0);
	tick();
	at_point("collect.unlisted", writes_one, (void *)1);
	tick();
	cr_assert(is_armed());
	(void)ticks_until_quiet();
	cr_assert_eq(runs, 2);
	finish(2);
}

/* Listed, and not yet pushed: the tick that comes then doesn't find it. */
static void all_ticks(void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < 3; i++)
		tick();
}

Test(tick, ticks_may_end_before_who_is_coming_has_come, .init = make_polled)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	put(other, 0, 1);
	at_point("producer.coming", all_ticks, NULL);
	put_one(1);
	cr_assert_eq(ran[0], 1);
	cr_assert(is_armed());
	(void)ticks_until_quiet();
	cr_assert_eq(runs, 2);
	cq_producer_detach(other);
	finish(2);
}

/* ------------------------------------------------------------------------ the run */

static cq_producer_t *busy;
static unsigned blocks;

static void nothing(void *unused)
{
	(void)unused;
}

/* A block of it, and the next before it has run. */
static void goes_on(void *unused)
{
	CHECK(blocks++ < 100);
	fake_advance(&park, TICK / 2);
	for (unsigned i = 0; i < SLOTS && runs == 0; i++)
		CHECK(cq_producer_enqueue(busy, i == 0 ? goes_on : nothing, unused) == 0);
}

Test(tick, a_queue_that_is_never_empty_publishes_by_time, .init = make_polled)
{
	cr_assert_eq(cq_producer_attach(q, NULL, &busy), 0);
	put_one(0);
	goes_on(NULL);
	fake_advance(&park, TICK);
	(void)cq_pool_needs_wake(cq_cleanup_pool(q));
	run_all(NULL);
	cr_assert_eq(runs, 1);
	cr_assert_leq(blocks, 30, "10 ms later it is the oldest");
	cq_producer_detach(busy);
	finish(1);
}

/* -------------------------------------------------------------------- no memory */

Test(tick, what_a_tick_has_no_memory_for_is_in_the_next, .init = make_polled)
{
	put_one(0);
	out_of_memory(true);
	tick();
	tick();
	cr_assert_eq(runs, 0);
	cr_assert(is_armed());
	out_of_memory(false);
	tick();
	cr_assert_eq(runs, 1);
	finish(1);
}

/* ----------------------------------------------------------------- several queues */

Test(tick, queues_of_a_pool_tick_at_the_same_moments, .init = make_polled)
{
	cq_cleanup_config_t config = { .pool = cq_cleanup_pool(q), .flush_ns = FLUSH, .allocator = &mem.allocator };
	cq_cleanup_t *other;
	unsigned before;

	cr_assert_eq(cq_cleanup_create(&config, &other), 0);
	fake_advance(&park, TICK / 3);
	put_one(0);
	fake_advance(&park, TICK / 3);
	cr_assert_eq(cq_cleanup_enqueue(other, run_it, (void *)1), 0);
	cr_assert_eq(q->task->at, TICK);
	cr_assert_eq(other->task->at, TICK);
	before = park.parks;
	tick();
	cr_assert_eq(runs, 2);
	tick();
	cr_assert_eq(q->pool->earliest, CQ_FOREVER);
	cr_assert_eq(park.parks, before);
	cr_assert_eq(cq_cleanup_shutdown(other, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(other), 0);
	finish(2);
}

/* One is gone with a tick to come. Its record is the next one's. */
Test(tick, a_queue_may_be_destroyed_with_a_tick_to_come, .init = make_polled)
{
	cq_cleanup_config_t config = { .pool = cq_cleanup_pool(q), .flush_ns = FLUSH, .allocator = &mem.allocator };
	cq_cleanup_t *other;

	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(cq_cleanup_create(&config, &other), 0);
		cr_assert_eq(cq_cleanup_enqueue(other, run_it, (void *)(uintptr_t)i), 0);
		cr_assert_neq(other->task->at, 0);
		cr_assert_eq(cq_cleanup_flush(other), 0);
		cr_assert_eq(cq_cleanup_run_some(other, SIZE_MAX), 1);
		cr_assert_eq(cq_cleanup_destroy(other), 0);
		if (i == 0)
			tick();
	}
	cr_assert_eq(cq_cleanup_create(&config, &other), 0);
	tick();
	cr_assert_eq(cq_cleanup_enqueue(other, run_it, (void *)2), 0);
	tick();
	cr_assert_eq(runs, 3);
	cr_assert_eq(cq_cleanup_destroy(other), 0);
	finish(3);
}

/* --------------------------------------------------------------------- how it ends */

Test(tick, a_detach_publishes_what_a_tick_was_to_come_for, .init = make_polled)
{
	put_one(0);
	cq_producer_detach(p);
	cr_assert_eq(poll_pool(), 1);
	cr_assert_eq(runs, 1);
	cr_assert_eq(ticks_until_quiet(), 1);
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0);
	finish(1);
}

/* All that is left then is refused: no tick may take it. */
Test(tick, a_shutdown_ends_the_ticks)
{
	static const cq_shutdown_how_t hows[] = { CQ_SHUTDOWN_DRAIN, CQ_SHUTDOWN_HAND_BACK };

	for (unsigned i = 0; i < 2; i++) {
		cq_pool_config_t pool_config = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED, .park = &park.ops };
		cq_pool_t *pool;

		fake_init(&park);
		cr_assert_eq(cq_pool_create(&pool_config, &pool), 0);
		make_timed((cq_cleanup_config_t){ .pool = pool }, (cq_pool_config_t){ 0 });
		put(p, 0, SLOTS + 2);
		while (cq_cleanup_shutdown(q, hows[i], CQ_FOREVER, take_back, NULL) == EAGAIN)
			run_all(NULL);
		cr_assert(each_once(SLOTS + 2));
		cr_assert(is_armed(), "as it was");
		cr_assert_eq(try_put(p, 0), ESHUTDOWN);
		tick();
		cr_assert_eq(q->task->at, 0);
		cr_assert_eq(pool->earliest, CQ_FOREVER);
		cr_assert_eq(try_put(p, 0), ESHUTDOWN);
		cr_assert_eq(q->task->at, 0);
		finish(SLOTS + 2);
		cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
	}
}

/* It claims what a shutdown without memory has left, as that goes on to accept it. */
Test(tick, a_shutdown_that_failed_is_helped_by_ticks, .init = make_polled)
{
	put_one(0);
	out_of_memory(true);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), ENOMEM);
	out_of_memory(false);
	tick();
	cr_assert_eq(runs, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	finish(1);
}

/* ------------------------------------------------------------------------- workers */

static gate_t hung, hangs_now;

static void hangs(void *arg)
{
	gate_open(&hangs_now);
	gate_wait(&hung);
	run_it(arg);
}

static void make_gates(void)
{
	hung = hangs_now = (gate_t)GATE_INITIALIZER;
}

/* One of them runs a callback that doesn't return. */
static void hang_one(void)
{
	make_gates();
	CHECK(cq_producer_enqueue(p, hangs, (void *)0) == 0);
	CHECK(cq_producer_flush(p) == 0);
	gate_wait(&hangs_now);
}

/* The clock is woken by none but the time, and wakes a worker. */
Test(tick, a_clock_publishes_what_nobody_flushes)
{
	make_managed(1);
	put_one(0);
	cr_assert(is_armed());
	cr_assert_eq(pool_stats().workers_live, 0);
	fake_advance(&park, TICK);
	AWAIT(runs == 1);
	put_one(1);
	ticks_until_ran(2);
	cr_assert_eq(pool_stats().workers_live, 1);
	finish(2);
}

Test(tick, nobody_wakes_while_nothing_is_enqueued)
{
	unsigned parks;

	make_managed(1);
	put_one(0);
	do {
		fake_wait_blocked(&park, runs == 0 ? 1 : 2);
		fake_advance(&park, TICK);
		AWAIT(runs == 1);
		fake_wait_blocked(&park, 2);
	} while (cq_u32_load_relaxed(&q->ticking) != 0);
	parks = park.parks;
	fake_advance(&park, 1000 * TICK);
	fake_wait_blocked(&park, 2);
	cr_assert_eq(park.parks, parks);
	finish(1);
}

/* The task is signalled all the same: whoever is there next runs it. */
Test(tick, behind_a_callback_that_hangs_it_waits_for_a_worker)
{
	make_managed(1);
	hang_one();
	put_one(1);
	for (unsigned i = 0; i < 2; i++) {
		fake_advance(&park, TICK);
		AWAIT(is_signalled());
		cr_assert_eq(runs, 0);
		cr_assert_eq(poll_pool(), i, "a worker that comes");
	}
	cr_assert_eq(ran[1], 1);
	gate_open(&hung);
	finish(2);
}

Test(tick, beside_a_callback_that_hangs_another_worker_publishes_it)
{
	make_managed(2);
	hang_one();
	put_one(1);
	ticks_until_ran(1);
	AWAIT(ran[1] == 1); /* behind `runs` */
	gate_open(&hung);
	finish(2);
}

/* The run that goes on takes it, as its callback has returned. */
Test(tick, one_run_at_a_time_publishes_too)
{
	make_timed((cq_cleanup_config_t){ .parallel = 1 }, (cq_pool_config_t){ .workers_max = 2 });
	hang_one();
	put_one(1);
	fake_advance(&park, FLUSH);
	AWAIT((cq_u64_load_relaxed(&q->task->word) & TASK_MORE) != 0);
	cr_assert_eq(ran[1], 0);
	gate_open(&hung);
	ticks_until_ran(2);
	finish(2);
}

static atomic_uint told;

static void tell(void *unused)
{
	(void)unused;
	told++;
}

Test(tick, an_owner_is_told_by_time)
{
	make_timed((cq_cleanup_config_t){ .parallel = CQ_BY_OWNER, .wake_owner = tell }, (cq_pool_config_t){ 0 });
	put_one(0);
	cr_assert_eq(told, 0);
	fake_advance(&park, TICK);
	AWAIT(told == 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1, "it publishes and runs it");
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 0);
	finish(1);
}

/* What it has collected waits for the owner, who doesn't know. */
Test(tick, a_drain_tells_an_owner_of_what_it_has_published)
{
	told = 0;
	make_timed((cq_cleanup_config_t){ .parallel = CQ_BY_OWNER, .wake_owner = tell }, (cq_pool_config_t){ 0 });
	put_one(0);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(told, 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	put(p, 1, SLOTS);
	told = 0;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(told, 1, "a block that was left to the tick");
	run_all(NULL);
	finish(SLOTS + 1);
}

/* --------------------------------------------------------------------- lazy wakes */

enum { FEW_BLOCKS = 4 };

static void make_lazy_of(size_t wake_bytes)
{
	make_timed((cq_cleanup_config_t){ .wake_bytes = wake_bytes }, (cq_pool_config_t){ .workers_max = 1 });
}

static void make_lazy(void)
{
	make_lazy_of((size_t)FEW_BLOCKS * BLOCK_BYTES);
}

/* Also the first ones after quiet, before any worker. */
Test(tick, few_full_blocks_wake_nobody_until_the_tick, .init = make_lazy)
{
	for (unsigned i = 1; i < FEW_BLOCKS; i++) {
		put(p, (i - 1) * SLOTS, SLOTS);
		cr_assert_eq(waiting(), i);
		cr_assert(!is_signalled());
	}
	cr_assert_eq(pool_stats().wakes + pool_stats().workers_created, 0);
	fake_advance(&park, TICK);
	AWAIT(runs == (FEW_BLOCKS - 1) * SLOTS);
	finish((FEW_BLOCKS - 1) * SLOTS);
}

Test(tick, the_first_full_block_after_quiet_is_left_to_a_tick_too, .init = make_lazy)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 3; i++) {
		put(p, n, SLOTS);
		n += SLOTS;
		cr_assert_eq(runs, n - SLOTS);
		while (runs != n || cq_u32_load_relaxed(&q->ticking) != 0) {
			fake_advance(&park, TICK);
			turn();
		}
		fake_wait_blocked(&park, 2);
	}
	finish(n);
}

Test(tick, at_wake_bytes_one_is_woken, .init = make_lazy)
{
	put(p, 0, FEW_BLOCKS * SLOTS);
	AWAIT(runs == FEW_BLOCKS * SLOTS);
	finish(FEW_BLOCKS * SLOTS);
}

Test(tick, with_wake_bytes_of_1_each_block_wakes)
{
	make_lazy_of(1);
	for (unsigned i = 1; i < 4; i++) {
		put(p, (i - 1) * SLOTS, SLOTS);
		AWAIT(runs == i * SLOTS);
	}
	finish(3 * SLOTS);
}

Test(tick, by_default_32_kib_wait)
{
	make_timed((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES }, (cq_pool_config_t){ .workers_max = 1 });
	put(p, 0, 7 * p->slots);
	cr_assert_eq(waiting(), 7);
	cr_assert(!is_signalled());
	put(p, 7 * p->slots, p->slots);
	AWAIT(runs == 8 * p->slots);
	finish(8 * p->slots);
}

Test(tick, with_a_bound_a_worker_is_woken_long_before_it)
{
	unsigned n;

	make_timed((cq_cleanup_config_t){ .wake_bytes = SIZE_MAX, .max_waiting = 64 }, (cq_pool_config_t){ .workers_max = 1 });
	n = 64 / 4 / p->slots * p->slots;
	put(p, 0, n);
	AWAIT(runs == n);
	finish(n);
}

/* Without ticks nobody would come. */
Test(tick, without_ticks_each_block_wakes)
{
	make_with((cq_cleanup_config_t){ .flush_ns = CQ_FOREVER }, (cq_pool_config_t){ .workers_max = 1 });
	put(p, 0, SLOTS);
	AWAIT(runs == SLOTS);
	finish(SLOTS);
}

/* Nobody is woken there, but may be told, or polls. */
Test(tick, in_a_hosted_or_polled_pool_each_block_signals)
{
	static const uint32_t flags[] = { CQ_POOL_HOSTED, CQ_POOL_POLLED, CQ_POOL_POLLED | CQ_POOL_HOSTED };

	for (unsigned i = 0; i < 3; i++) {
		make_timed((cq_cleanup_config_t){ .wake_bytes = SIZE_MAX }, (cq_pool_config_t){ .flags = flags[i] });
		put(p, 0, SLOTS);
		cr_assert(is_signalled());
		run_all(NULL);
		finish(SLOTS);
	}
}

static void *drains(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	return unused;
}

static void drain_it(void *unused)
{
	(void)drains(unused);
}

static void flush_one_more(void *unused)
{
	(void)unused;
	put(p, SLOTS, 1);
	CHECK(cq_producer_flush(p) == 0);
	AWAIT(runs == SLOTS + 1);
}

static void flush_all(void *unused)
{
	flush(unused);
	AWAIT(runs == SLOTS);
}

static void detach_one(void *unused)
{
	cq_producer_t *other;

	(void)unused;
	CHECK(cq_producer_attach(q, NULL, &other) == 0);
	put(other, SLOTS, 1);
	cq_producer_detach(other);
	AWAIT(runs == SLOTS + 1);
}

static void shut_it_down(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
}

static void hand_it_back(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == 0);
	CHECK(given_back == SLOTS);
}

Test(tick, who_waits_or_publishes_otherwise_waits_for_no_tick)
{
	static const struct { test_act_fn *act; unsigned n; } all[] = {
		{ drain_it, SLOTS }, { flush_all, SLOTS }, { flush_one_more, SLOTS + 1 }, { detach_one, SLOTS + 1 },
		{ shut_it_down, SLOTS }, { hand_it_back, SLOTS }
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		make_lazy();
		put(p, 0, SLOTS);
		cr_assert_eq(waiting(), 1);
		all[i].act(NULL);
		finish(all[i].n);
	}
}

static void push_one_of_two(void *unused)
{
	drain_it(unused);
	CHECK(runs == SLOTS);
}

/* Its owner stands still behind the push, and has not looked who waits. */
Test(tick, a_drain_that_begins_behind_the_push_waits_for_no_tick, .init = make_lazy)
{
	at_point("producer.pushed", push_one_of_two, NULL);
	put(p, 0, SLOTS);
	cr_assert_eq(runs, SLOTS);
	finish(SLOTS);
}

static pthread_t drainer;

static void drain_until_asleep(void *unused)
{
	drainer = start(drains, unused);
	AWAIT(asleep_in(&q->drains));
}

/* The block is counted, and nobody finds it. */
Test(tick, a_drain_that_sleeps_before_the_push_waits_for_no_tick, .init = make_lazy)
{
	at_point("producer.counted", drain_until_asleep, NULL);
	put(p, 0, SLOTS);
	join(drainer);
	cr_assert_eq(runs, SLOTS);
	finish(SLOTS);
}

static void *hands_back(void *unused)
{
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == 0);
	return unused;
}

static void hand_back_until_asleep(void *unused)
{
	drainer = start(hands_back, unused);
	AWAIT(asleep_in(&q->drains));
}

Test(tick, a_hand_back_that_sleeps_before_the_push_gets_the_block, .init = make_lazy)
{
	at_point("producer.counted", hand_back_until_asleep, NULL);
	put(p, 0, SLOTS);
	join(drainer);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS);
}

static void *waits_for_room(void *unused)
{
	CHECK(cq_cleanup_wait_for_room(q, CQ_FOREVER) == 0);
	return unused;
}

static void make_lazy_and_bounded(void)
{
	make_timed((cq_cleanup_config_t){ .max_waiting = 8 * SLOTS, .wake_bytes = SIZE_MAX },
	    (cq_pool_config_t){ .workers_max = 1 });
	q->wake_blocks = UINT64_MAX; /* create sees to it that the bound comes later */
}

/* Or, at the bound, it could wait for flush_ns again and again. */
Test(tick, who_is_refused_for_want_of_room_waits_for_no_tick, .init = make_lazy_and_bounded)
{
	put(p, 0, 8 * SLOTS);
	cr_assert_eq(runs, 0);
	cr_assert_eq(try_put(p, 8 * SLOTS), ENOBUFS);
	AWAIT(runs == 8 * SLOTS);
	put_one(8 * SLOTS);
	finish(8 * SLOTS + 1);
}

Test(tick, who_waits_for_room_waits_for_no_tick, .init = make_lazy_and_bounded)
{
	put(p, 0, 8 * SLOTS);
	cr_assert_eq(runs, 0);
	(void)waits_for_room(NULL);
	AWAIT(runs == 8 * SLOTS);
	finish(8 * SLOTS);
}

/* ---------------------------------------------------------------- a clock that isn't */

static atomic_bool no_clock, no_worker;
static atomic_uint clocks_tried;

static void *body_of(void *of)
{
	void **pair = of;

	((void (*)(void *))(uintptr_t)pair[0])(pair[1]);
	free(pair);
	return NULL;
}

/* A spawn: the clock's, or a worker's. */
static int spawn(void *host, void (*body)(void *), void *arg)
{
	bool is_clock = ((cq_run_t *)arg)->count == 0;
	pthread_t thread;
	void **pair;

	(void)host;
	clocks_tried += is_clock;
	if (is_clock ? no_clock : no_worker)
		return EAGAIN;
	pair = malloc(2 * sizeof(*pair));
	CHECK(pair != NULL);
	pair[0] = (void *)(uintptr_t)body;
	pair[1] = arg;
	CHECK(pthread_create(&thread, NULL, body_of, pair) == 0);
	CHECK(pthread_detach(thread) == 0);
	return 0;
}

static void make_spawned(void)
{
	no_clock = true;
	clocks_tried = 0;
	make_timed((cq_cleanup_config_t){ .wake_bytes = SIZE_MAX },
	    (cq_pool_config_t){ .workers_max = 1, .spawn = spawn });
}

Test(tick, without_a_clock_callbacks_are_accepted_and_each_block_tries_again, .init = make_spawned)
{
	put_one(0);
	cr_assert_eq(clocks_tried, q->fences ? 2 : 1, "where each enqueue looks: as the block is opened, and then");
	cr_assert(!is_armed());
	put(p, 1, SLOTS - 1);
	cr_assert_gt(clocks_tried, 1);
	AWAIT(runs == SLOTS);
	no_clock = false;
	put_one(SLOTS);
	cr_assert(is_armed());
	ticks_until_ran(SLOTS + 1);
	finish(SLOTS + 1);
}

static void fill_a_block(void *other)
{
	put(other, 0, SLOTS);
	CHECK(!is_signalled());
	CHECK(waiting() == 1);
}

/* Another relies on the clock that p is about to find it can't have. */
static int spawn_beside(void *other, void (*body)(void *), void *arg)
{
	if (((cq_run_t *)arg)->count == 0 && clocks_tried == 0)
		fill_a_block(*(cq_producer_t **)other);
	return spawn(NULL, body, arg);
}

Test(tick, blocks_that_were_left_to_a_tick_are_signalled_if_there_is_no_clock)
{
	static cq_producer_t *other;

	no_clock = true;
	make_timed((cq_cleanup_config_t){ .wake_bytes = SIZE_MAX },
	    (cq_pool_config_t){ .workers_max = 1, .spawn = spawn_beside, .host = &other });
	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	put_one(SLOTS);
	cr_assert_geq(clocks_tried, 1);
	AWAIT(runs == SLOTS);
	cq_producer_detach(other);
	finish(SLOTS + 1);
}

/* --------------------------------------------------------------------------- fork */

static void publishes_by_time_in_a_child(void)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (child == 0) {
		CHECK(!is_armed());
		put_one(1);
		CHECK(is_armed());
		(void)ticks_until_quiet();
		CHECK(each_once(2));
		finish(2);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What lay in its open block as well. */
Test(tick, a_child_publishes_by_time_after_its_first_enqueue, .init = make_polled)
{
	put_one(0);
	publishes_by_time_in_a_child();
	cr_assert(is_armed(), "the parent goes on");
	tick();
	cr_assert_eq(runs, 1);
	finish(1);
}

/* Between two ticks, behind a block that is young. */
Test(tick, a_child_of_who_was_let_go_publishes_by_time_too, .init = make_polled)
{
	put_one(0);
	(void)ticks_until_quiet();
	cr_assert_eq(runs, 1);
	publishes_by_time_in_a_child();
	put_one(1);
	tick();
	cr_assert_eq(runs, 2);
	finish(2);
}

/* With threads, and in real time. */
Test(tick, a_child_makes_a_clock_of_its_own)
{
	pid_t child;
	int status;

	make_with((cq_cleanup_config_t){ .flush_ns = CQ_FLUSH_NS_MIN },
	    (cq_pool_config_t){ .workers_max = 1, .idle_ns = CQ_FOREVER, .park = cq_park_default() });
	put_one(0);
	AWAIT(runs == 1);
	child = fork();
	cr_assert_geq(child, 0);
	put_one(1);
	AWAIT(runs == 2);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	if (child == 0)
		_exit(0);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	finish(2);
}
