/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain and shutdown. In most tests the thread that drains is alone: what the
 * workers and producers would do while it sleeps is done by the script of the
 * fake park table, from inside its park.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>

#include "cleanup/producer.h"
#include "support.h"

TestSuite(drain, .timeout = 60);

enum { SLOTS = 4, MANY = 1 << 16, STEPS = 1000 };

static test_alloc_t mem;
static fake_park_t park;
static cq_cleanup_t *q;
static cq_producer_t *p;

/* Callback i runs or is handed back: once in all. */
static atomic_uint ran[MANY], runs, given_back;

static void run_it(void *arg)
{
	ran[(uintptr_t)arg]++;
	runs++;
}

static void take_back(void *unused, cq_callback_fn *fn, void *arg)
{
	(void)unused;
	CHECK(fn == run_it);
	ran[(uintptr_t)arg]++;
	given_back++;
}

static void put(cq_producer_t *to, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		CHECK(cq_producer_enqueue(to, run_it, (void *)(uintptr_t)i) == 0);
}

static bool each_once(unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		if (ran[i] != 1)
			return false;
	return true;
}

static void out_of_memory(bool yes)
{
	mem.fail_on = yes;
	mem.fail_in = yes;
}

static void make_with(cq_cleanup_config_t config)
{
	test_alloc_init(&mem);
	fake_init(&park);
	config.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);
	if (config.park == NULL)
		config.park = &park.ops;
	config.allocator = &mem.allocator;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, &p) == 0);
}

static void make_alone(void)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
}

/* As if another thread were in run_some all the time: scripts are what it does. */
static void make(void)
{
	make_alone();
	q->serving = 1;
}

/* Real threads and real time. */
static void make_managed(unsigned workers)
{
	make_with((cq_cleanup_config_t){ .max_workers = workers, .park = cq_park_default() });
}

static int shut_down(cq_shutdown_how_t how, uint64_t deadline)
{
	return cq_cleanup_shutdown(q, how, deadline, take_back, NULL);
}

/* All of [0, n) ran or was handed back, and all memory is back. */
static void finish(unsigned n)
{
	out_of_memory(false);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	cr_assert(each_once(0, n));
	cr_assert_eq(runs + given_back, n);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

/* A script for the park of a drain. */
static void run_one(void *unused)
{
	(void)unused;
	CHECK(park.parks < STEPS);
	cq_cleanup_run_some(q, 1);
}

/* ------------------------------------------------------------- what it covers */

Test(drain, nothing_to_wait_for_is_no_wait, .init = make)
{
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	put(p, 0, 1);
	cq_cleanup_flush_all(q);
	cq_cleanup_run_some(q, 1);
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	cr_assert_eq(park.parks, 0);
	finish(1);
}

Test(drain, covers_full_and_partial_blocks_of_all_producers, .init = make)
{
	cq_producer_t *third;

	cr_assert_eq(cq_producer_attach(q, &third), 0);
	put(p, 0, SLOTS + 1);
	put(third, SLOTS + 1, SLOTS + 2);
	park.script = run_one;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert(each_once(0, 2 * SLOTS + 3));
	cr_assert_leq(park.parks, 2 * SLOTS + 3, "woken by its last block");
	cq_producer_detach(third);
	finish(2 * SLOTS + 3);
}

Test(drain, covers_a_producer_that_is_gone, .init = make)
{
	cq_producer_t *third;

	cr_assert_eq(cq_producer_attach(q, &third), 0);
	put(third, 0, SLOTS + 1);
	cq_producer_detach(third);
	cr_assert_eq(cq_cleanup_drain(q, 0), ETIMEDOUT);
	park.script = run_one;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(SLOTS + 1);
}

/* Each time it sleeps, as much is enqueued as is run, on top of what there is. */
static unsigned next_put;

static void enqueue_as_much_as_is_run(void *unused)
{
	(void)unused;
	CHECK(park.parks < STEPS);
	put(p, next_put, SLOTS);
	next_put += SLOTS;
	cq_cleanup_run_some(q, SLOTS);
}

Test(drain, returns_however_much_is_enqueued_meanwhile, .init = make)
{
	for (unsigned round = 0; round < 5; round++) {
		unsigned before = next_put += SLOTS;

		put(p, before - SLOTS, SLOTS);
		park.script = enqueue_as_much_as_is_run;
		cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
		cr_assert(each_once(0, before));
		cr_assert_neq(cq_cleanup_units(q), 0, "it did not wait for those");
	}
	park.script = run_one;
	park.parks = 0;
	finish(next_put);
}

/* A block that stays open through two drains belongs to a past epoch. */
Test(drain, covers_a_block_opened_long_before, .init = make)
{
	put(p, 0, 1);
	park.script = run_one;
	for (unsigned i = 1; i < SLOTS; i++) {
		cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
		cr_assert(each_once(0, i));
		put(p, i, 1);
	}
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert(each_once(0, SLOTS));
	finish(SLOTS);
}

Test(drain, sums_may_wrap, .init = make)
{
	p->published[0] = p->published[1] = UINT64_MAX - 1;
	q->executed[0] = q->executed[1] = UINT64_MAX - 1;
	put(p, 0, 2 * SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, 0), ETIMEDOUT);
	park.script = run_one;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(2 * SLOTS);
}

/* ------------------------------------------------------------ blocks in flight */

static gate_t stopped = GATE_INITIALIZER, go_on = GATE_INITIALIZER;
static pthread_t other;

static void hold(void *unused)
{
	(void)unused;
	gate_open(&stopped);
	gate_wait(&go_on);
}

/* Starts a thread that stops at the point; the script of a drain lets it go on. */
static void stop_at(const char *point, void *(*body)(void *arg), void *arg)
{
	at_point(point, hold, NULL);
	other = start(body, arg);
	gate_wait(&stopped);
}

static void let_go(void *unused)
{
	(void)unused;
	CHECK(park.parks == 1); /* woken by what that thread does */
	gate_open(&go_on);
	join(other);
}

static void let_go_and_run(void *unused)
{
	if (park.parks == 1)
		let_go(unused);
	run_one(unused);
}

static void *put_a_block(void *unused)
{
	put(p, 0, SLOTS);
	return unused;
}

static void *run_a_block(void *unused)
{
	CHECK(cq_cleanup_run_some(q, SLOTS) == SLOTS);
	return unused;
}

static void wait_for_a_publisher_at(const char *point)
{
	stop_at(point, put_a_block, NULL);
	park.script = let_go_and_run;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert(each_once(0, SLOTS));
	finish(SLOTS);
}

Test(drain, waits_for_a_block_that_is_closed_and_not_counted, .init = make)
{
	wait_for_a_publisher_at("producer.closed");
}

Test(drain, waits_for_a_block_that_is_counted_and_not_pushed, .init = make)
{
	wait_for_a_publisher_at("producer.counted");
}

Test(drain, waits_for_a_block_that_is_linked_and_has_no_unit, .init = make)
{
	wait_for_a_publisher_at("workq.linked");
}

Test(drain, waits_for_a_block_whose_unit_is_taken, .init = make)
{
	put(p, 0, SLOTS);
	stop_at("workq.taken", run_a_block, NULL);
	park.script = let_go;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert(each_once(0, SLOTS));
	finish(SLOTS);
}

/*
 * The owner closes a block that a gatherer has claimed to its end, and publishes
 * nothing that could wake a drain which saw it closed.
 */
static void claim_it_all_and_run(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush_all(q) == 0);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
}

static void *put_the_last(void *unused)
{
	at_point("producer.stored", claim_it_all_and_run, NULL);
	put(p, SLOTS - 1, 1);
	return unused;
}

Test(drain, is_woken_by_a_close_that_publishes_nothing, .init = make)
{
	put(p, 0, SLOTS - 1);
	stop_at("producer.closed", put_the_last, NULL);
	park.script = let_go;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(SLOTS);
}

/* --------------------------------------------------- when it does not succeed */

static gate_t began = GATE_INITIALIZER, may_end = GATE_INITIALIZER;

static void stuck(void *arg)
{
	gate_open(&began);
	gate_wait(&may_end);
	run_it(arg);
}

static void put_stuck(unsigned i)
{
	CHECK(cq_producer_enqueue(p, stuck, (void *)(uintptr_t)i) == 0);
}

Test(drain, deadline_passes_while_a_callback_is_stuck)
{
	make_managed(1);
	put_stuck(0);
	cr_assert_eq(cq_cleanup_drain(q, 0), ETIMEDOUT);
	gate_wait(&began);
	cr_assert_eq(cq_cleanup_drain(q, cq_deadline_in(2000000)), ETIMEDOUT);
	cr_assert_eq(runs, 0);
	gate_open(&may_end);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	finish(1);
}

Test(drain, of_a_polled_queue_that_nobody_serves_says_so, .init = make_alone)
{
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	put(p, 0, SLOTS + 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(park.parks, 0);
	finish(SLOTS + 1);
}

static atomic_int drained; /* 1 + what the drain returned */

static void *drain_beside(void *unused)
{
	drained = 1 + cq_cleanup_drain(q, wait_limit());
	return unused;
}

/* It has left the crew, and has yet to look whether it comes back. */
static void publish_and_drain(void *unused)
{
	(void)unused;
	put(p, 0, SLOTS);
	other = start(drain_beside, NULL);
	AWAIT(drained != 0 || q->drainers.asleep != 0);
}

static void *work_a_while(void *unused)
{
	CHECK(cq_cleanup_work(q) == ETIMEDOUT);
	return unused;
}

Test(drain, a_worker_that_may_come_back_is_waited_for)
{
	pthread_t worker;

	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .idle_ns = 1, .park = cq_park_default() });
	at_point("worker.retiring", publish_and_drain, NULL);
	worker = start(work_a_while, NULL);
	join(worker);
	join(other);
	cr_assert_eq(drained, 1 + 0);
	finish(SLOTS);
}

static void *run_one_block(void *unused)
{
	cq_cleanup_run_some(q, SLOTS);
	return unused;
}

static void let_the_poller_go(void *unused)
{
	(void)unused;
	CHECK(park.parks == 1 && park.unparks == 0);
	gate_open(&may_end);
	join(other);
	CHECK(park.unparks != 0);
}

Test(drain, of_a_polled_queue_ends_with_the_last_run_some, .init = make_alone)
{
	put(p, 1, SLOTS);
	put_stuck(0); /* in the newer block, which is taken first */
	put(p, SLOTS + 1, SLOTS - 1);
	other = start(run_one_block, NULL);
	gate_wait(&began);
	park.script = let_the_poller_go;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	finish(2 * SLOTS);
}

Test(drain, of_a_polled_queue_succeeds_though_the_last_run_some_leaves, .init = make_alone)
{
	put_stuck(0);
	put(p, 1, SLOTS - 1);
	other = start(run_one_block, NULL);
	gate_wait(&began);
	park.script = let_the_poller_go;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(SLOTS);
}

static void detach_it(void *w)
{
	CHECK(park.parks == 1);
	cq_worker_detach(w);
}

Test(drain, of_a_polled_queue_ends_with_the_last_worker, .init = make_alone)
{
	cq_worker_t *w;

	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	put(p, 0, 1);
	park.script = detach_it;
	park.ctx = w;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	finish(1);
}

static void pass_the_deadline(void *unused)
{
	(void)unused;
	CHECK(park.parks == 1 && park.deadline == 1000 && park.host == NULL);
	fake_advance(&park, 1000);
}

Test(drain, deadline_is_absolute_on_the_clock_of_the_table, .init = make)
{
	put(p, 0, 1);
	park.script = pass_the_deadline;
	cr_assert_eq(cq_cleanup_drain(q, 1000), ETIMEDOUT);
	cr_assert_eq(park.parks, 1);
	park.script = run_one;
	finish(1);
}

static void drains_and_shuts_down(void *of)
{
	CHECK(cq_cleanup_drain(of, CQ_FOREVER) == EDEADLK);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER) == EDEADLK);
	CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER) == EDEADLK);
	runs++;
}

Test(drain, of_its_own_queue_is_refused_to_a_callback)
{
	make_managed(1);
	cr_assert_eq(cq_producer_enqueue(p, drains_and_shuts_down, q), 0);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert_eq(cq_producer_enqueue(p, drains_and_shuts_down, q), 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert_eq(runs, 2);
	cq_producer_detach(p);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* A callback of q, in run_some, runs a callback of the second queue, which drains q. */
static cq_cleanup_t *second;

static void drains_the_first(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK);
	CHECK(cq_cleanup_drain(second, CQ_FOREVER) == EDEADLK);
	runs++;
}

static void runs_the_second(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_run_some(second, SIZE_MAX) == 1);
	CHECK(cq_cleanup_drain(second, CQ_FOREVER) == 0);
	runs++;
}

Test(drain, of_another_queue_is_allowed_to_a_callback, .init = make)
{
	cq_cleanup_config_t polled = { .flags = CQ_POLLED };
	cq_producer_t *to;

	cr_assert_eq(cq_cleanup_create(&polled, &second), 0);
	cr_assert_eq(cq_producer_attach(second, &to), 0);
	cr_assert_eq(cq_producer_enqueue(to, drains_the_first, NULL), 0);
	cq_producer_detach(to);
	cr_assert_eq(cq_producer_enqueue(p, runs_the_second, NULL), 0);
	park.script = run_one;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(runs, 2);
	cr_assert_eq(cq_cleanup_destroy(second), 0);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

static int no_workers(void *unused, void (*body)(void *), void *arg)
{
	(void)unused;
	(void)body;
	(void)arg;
	return EAGAIN;
}

Test(drain, of_a_stalled_queue_says_so)
{
	make_with((cq_cleanup_config_t){ .spawn = no_workers });
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(1);
}

/* What is enqueued as the last callback returns is not the drain's to wait for. */
static void let_go_and_stall(void *unused)
{
	let_go(unused);
	put(p, SLOTS, SLOTS);
	CHECK(cq_cleanup_stalled(q));
}

Test(drain, that_has_run_all_succeeds_though_the_queue_has_stalled_since)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = no_workers });
	put(p, 0, SLOTS);
	stop_at("workq.taken", run_a_block, NULL);
	q->config.flags = 0;
	park.script = let_go_and_stall;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert(each_once(0, SLOTS));
	cr_assert_eq(runs, SLOTS);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	finish(2 * SLOTS);
}

Test(drain, without_memory_for_the_flush_fails_and_loses_nothing, .init = make)
{
	put(p, 0, 1);
	out_of_memory(true);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), ENOMEM);
	out_of_memory(false);
	park.script = run_one;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(1);
}

/* ----------------------------------------------------------- many at once */

enum { THREADS = 4, EACH = MANY / THREADS };

static uint64_t end;
static unsigned put_by[THREADS];

static void put_and_drain(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	unsigned n = 0, covered = 0;

	(void)unused;
	CHECK(cq_producer_attach(q, &mine) == 0);
	while (n + 3 * SLOTS <= EACH && cq_now() < end) {
		unsigned k = (unsigned)rng_below(&r, 3 * SLOTS);

		put(mine, index * EACH + n, k);
		n += k;
		if (rng_below(&r, 4) != 0)
			continue;
		CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
		CHECK(each_once(index * EACH + covered, n - covered));
		covered = n;
	}
	cq_producer_detach(mine);
	put_by[index] = n;
}

Test(drain, many_at_once_each_cover_what_came_before)
{
	unsigned n = 0;

	make_managed(2);
	end = run_until(0.3);
	run_threads(THREADS, put_and_drain, NULL);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		cr_assert(each_once(i * EACH, put_by[i]));
		n += put_by[i];
	}
	cr_assert_eq(runs, n);
	cq_producer_detach(p);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, wait_limit()), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

/* ------------------------------------------------------------------ shutdown */

Test(drain, shutdown_of_a_queue_that_never_had_a_worker)
{
	make_managed(1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "the producer is attached");
	finish(0);
}

Test(drain, shutdown_runs_all_and_ends_the_workers)
{
	cq_cleanup_stats_t stats;

	make_managed(2);
	put(p, 0, 10 * SLOTS + 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL), 0);
	cr_assert(each_once(0, 10 * SLOTS + 1));
	cq_cleanup_stats(q, &stats);
	cr_assert_eq(stats.workers_live, 0);
	cr_assert_eq(stats.handed_back, 0);
	cr_assert_eq(stats.executed, 10 * SLOTS + 1);
	finish(10 * SLOTS + 1);
}

Test(drain, hand_back_gives_all_back_that_did_not_run, .init = make)
{
	cq_cleanup_stats_t stats;

	put(p, 0, 2 * SLOTS + 1);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 2);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(given_back, 2 * SLOTS - 1);
	cq_cleanup_stats(q, &stats);
	cr_assert_eq(stats.executed, 2);
	cr_assert_eq(stats.handed_back, 2 * SLOTS - 1);
	cr_assert_eq(stats.queued, 2 * SLOTS + 1);
	finish(2 * SLOTS + 1);
}

static pthread_t caller;

static bool is_free(pthread_mutex_t *lock)
{
	return pthread_mutex_trylock(lock) == 0 && pthread_mutex_unlock(lock) == 0;
}

static void take_back_and_look(void *ctx, cq_callback_fn *fn, void *arg)
{
	CHECK(pthread_equal(pthread_self(), caller));
	CHECK(is_free(&q->registry) && is_free(&q->idle.lock) && is_free(&q->drainers.lock) &&
	    is_free(&q->exits.lock) && is_free(&q->threads.lock));
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK);
	CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER) == EDEADLK);
	take_back(ctx, fn, arg);
}

Test(drain, give_back_is_called_by_the_caller_with_no_lock_held_and_may_not_drain, .init = make)
{
	caller = pthread_self();
	put(p, 0, SLOTS + 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back_and_look, NULL), 0);
	cr_assert_eq(given_back, SLOTS + 1);
	finish(SLOTS + 1);
}

Test(drain, hand_back_to_nobody_is_refused, .init = make)
{
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, NULL, NULL), EINVAL);
	put(p, 1, 1); /* it did not even close the queue */
	park.script = run_one;
	finish(2);
}

static void *hand_back(void *unused)
{
	CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER) == 0);
	return unused;
}

/* A callback, in run_some, while another thread's shutdown waits for it. */
static void begin_a_hand_back(void *arg)
{
	other = start(hand_back, NULL);
	fake_wait_blocked(&park, 1);
	/* It is told of the end with no lock held: cf. cq/park.h. */
	park.free_lock = &q->registry;
	run_it(arg);
}

Test(drain, hand_back_stops_in_the_middle_of_a_block, .init = make)
{
	put(p, 0, 1);
	cr_assert_eq(cq_producer_enqueue(p, begin_a_hand_back, (void *)1), 0);
	put(p, 2, SLOTS - 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 2);
	join(other);
	cr_assert_eq(runs, 2);
	cr_assert_eq(given_back, SLOTS - 1);
	finish(SLOTS + 1);
}

Test(drain, worker_that_ends_tells_the_shutdown_with_no_lock_held, .init = make)
{
	cq_worker_t *w;

	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	other = start(hand_back, NULL);
	fake_wait_blocked(&park, 1);
	park.free_lock = &q->registry;
	cq_worker_detach(w);
	join(other);
	finish(0);
}

Test(drain, shutdown_by_two_threads_is_the_business_of_the_first)
{
	make_managed(1);
	put_stuck(0);
	put(p, 1, SLOTS);
	gate_wait(&began);
	other = start(hand_back, NULL);
	while (cq_producer_reserve(p, 0) == 0)
		sched_yield(); /* until it has closed the queue */
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EALREADY);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), EALREADY);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	gate_open(&may_end);
	join(other);
	finish(SLOTS + 1);
}

Test(drain, shutdown_that_timed_out_leaves_the_workers_at_it)
{
	make_managed(1);
	put_stuck(0);
	put(p, 1, SLOTS);
	gate_wait(&began);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, cq_now()), ETIMEDOUT);
	cr_assert_eq(cq_producer_enqueue(p, run_it, NULL), ESHUTDOWN);
	gate_open(&may_end);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert_eq(runs, SLOTS + 1);
	finish(SLOTS + 1);
}

Test(drain, hand_back_that_timed_out_stops_the_workers)
{
	make_managed(1);
	put_stuck(0);
	put(p, 1, SLOTS);
	gate_wait(&began);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, cq_now()), ETIMEDOUT);
	cr_assert_eq(given_back, 0);
	gate_open(&may_end);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, wait_limit()), 0);
	cr_assert_eq(runs, 1);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS + 1);
}

Test(drain, hand_back_that_timed_out_gives_out_no_block, .init = make)
{
	cq_worker_t *w;

	put(p, 0, SLOTS);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), ETIMEDOUT);
	cr_assert_eq(cq_cleanup_units(q), 1);
	cr_assert_null(cq_worker_try_dequeue(w));
	cr_assert_null(cq_worker_dequeue(w));
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 0);
	cq_worker_detach(w);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS);
}

/* What an earlier HAND_BACK has left can't run any more; also where it isn't published. */
Test(drain, callbacks_left_by_a_hand_back_are_not_dropped, .init = make)
{
	cq_worker_t *w;

	put(p, 0, 1);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), ETIMEDOUT);
	cq_worker_detach(w);
	cr_assert_eq(cq_cleanup_units(q), 0);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), EINVAL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), EINVAL);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(given_back, 1);
	finish(1);
}

Test(drain, hand_back_without_memory_loses_nothing, .init = make)
{
	cq_producer_t *third;

	cr_assert_eq(cq_producer_attach(q, &third), 0);
	put(p, 0, 1);
	put(third, 1, 1);
	out_of_memory(true);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), ENOMEM);
	cr_assert_eq(given_back, 0);
	out_of_memory(false);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cq_producer_detach(third);
	finish(2);
}

Test(drain, hand_back_gathers_into_the_blocks_that_it_has_emptied, .init = make)
{
	put(p, 0, SLOTS + 1);
	out_of_memory(true);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, SLOTS + 1);
	finish(SLOTS + 1);
}

/* The same block in flight, seen by a shutdown: the gate was open when it was filled. */
static void hand_back_waits_for_a_publisher_at(const char *point)
{
	stop_at(point, put_a_block, NULL);
	park.script = let_go;
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS);
}

Test(drain, hand_back_waits_for_a_block_that_is_closed_and_not_counted, .init = make)
{
	hand_back_waits_for_a_publisher_at("producer.closed");
}

Test(drain, hand_back_waits_for_a_block_that_is_counted_and_not_pushed, .init = make)
{
	hand_back_waits_for_a_publisher_at("producer.counted");
}

/* The block is of the second page, so that both pages are looked at. */
Test(drain, hand_back_that_timed_out_before_a_block_in_flight_may_be_called_again, .init = make)
{
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	stop_at("producer.closed", put_a_block, NULL);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), ETIMEDOUT);
	cr_assert_eq(given_back, 0);
	gate_open(&go_on);
	join(other);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS);
}

static void *drain_it(void *unused)
{
	int err = cq_cleanup_drain(q, CQ_FOREVER);

	/* 0 if it looks when all has been given back. */
	CHECK(err == ESHUTDOWN || err == 0);
	return unused;
}

Test(drain, is_ended_by_a_hand_back, .init = make)
{
	put(p, 0, 1);
	other = start(drain_it, NULL);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	join(other);
	finish(1);
}

Test(drain, of_a_queue_that_a_hand_back_has_stopped_says_so, .init = make)
{
	cq_worker_t *w;

	put(p, 0, 1);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), ETIMEDOUT);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), ESHUTDOWN);
	cq_worker_detach(w);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(1);
}

/* All has run, and an owner has yet to leave the block whose callbacks were claimed. */
static void claim_run_and_shut_down(void *unused)
{
	claim_it_all_and_run(unused);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER) == 0);
}

static void *put_the_last_of_all(void *unused)
{
	at_point("producer.stored", claim_run_and_shut_down, NULL);
	put(p, SLOTS - 1, 1);
	return unused;
}

Test(drain, of_a_queue_that_was_shut_down_has_nothing_to_miss, .init = make)
{
	put(p, 0, SLOTS - 1);
	stop_at("producer.closed", put_the_last_of_all, NULL);
	park.script = let_go;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(SLOTS);
}

/* An enqueue that the gate will refuse, a flush_all beside it, and the workers gone. */
static void flush_all(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush_all(q) == 0);
}

Test(drain, nothing_is_accepted_after_the_last_gathering, .init = make)
{
	put(p, 0, 1);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	at_point("producer.stored", flush_all, NULL);
	cr_assert_eq(cq_producer_enqueue(p, run_it, (void *)1), ESHUTDOWN);
	finish(1);
}

/* The same while the drain of a shutdown sleeps: what it doesn't cover is refused. */
static int late_enqueue = -1;

static void enqueue_late_and_run_one(void *unused)
{
	if (late_enqueue == -1) {
		at_point("producer.stored", flush_all, NULL);
		late_enqueue = cq_producer_enqueue(p, run_it, (void *)1);
	}
	run_one(unused);
}

Test(drain, nothing_is_accepted_that_the_drain_of_a_shutdown_does_not_cover, .init = make)
{
	put(p, 0, 1);
	park.script = enqueue_late_and_run_one;
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(late_enqueue, ESHUTDOWN);
	finish(1);
}

/* ------------------------------------------- shutdown against running producers */

static void put_until_refused(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	unsigned n = 0, err = 0;

	(void)unused;
	if (cq_producer_attach(q, &mine) != 0)
		return;
	while (n < EACH && err == 0) {
		err = (unsigned)cq_producer_enqueue(mine, run_it,
		    (void *)(uintptr_t)(index * EACH + n));
		n += err == 0;
		if (rng_below(&r, 8) == 0)
			(void)cq_producer_flush(mine);
		if (rng_below(&r, 8) == 0)
			(void)cq_cleanup_flush_all(q);
	}
	CHECK(n == EACH || err == ESHUTDOWN);
	cq_producer_detach(mine);
	put_by[index] = n;
}

static void put_or_shut_down(void *how, unsigned index)
{
	rng_t r = rng_for(index);

	if (index < THREADS - 1) {
		put_until_refused(NULL, index);
		return;
	}
	for (uint64_t spin = rng_below(&r, 200000); spin > 0; spin--)
		__asm__ volatile("");
	CHECK(shut_down(*(cq_shutdown_how_t *)how, wait_limit()) == 0);
}

/* Many short lives, since each has only one moment that counts. */
static void shut_down_running_producers(cq_shutdown_how_t how)
{
	end = run_until(0.3);
	do {
		unsigned n = 0;

		make_managed(2);
		run_threads(THREADS, put_or_shut_down, &how);
		for (unsigned i = 0; i < THREADS - 1; i++) {
			cr_assert(each_once(i * EACH, put_by[i]));
			n += put_by[i];
			for (unsigned k = 0; k < put_by[i]; k++)
				ran[i * EACH + k] = 0;
			put_by[i] = 0;
		}
		cr_assert_eq(runs + given_back, n);
		cr_assert(how == CQ_SHUTDOWN_HAND_BACK || given_back == 0);
		runs = given_back = 0;
		cq_producer_detach(p);
		cr_assert_eq(cq_cleanup_destroy(q), 0);
		cr_assert_eq(mem.live_bytes, 0);
	} while (cq_now() < end);
}

Test(drain, shutdown_against_running_producers_runs_what_was_accepted)
{
	shut_down_running_producers(CQ_SHUTDOWN_DRAIN);
}

Test(drain, hand_back_against_running_producers_gives_back_what_did_not_run)
{
	shut_down_running_producers(CQ_SHUTDOWN_HAND_BACK);
}
