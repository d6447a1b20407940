/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain and shutdown. In most tests the thread that drains is alone: what the
 * workers and producers would do while it sleeps is done by the script of the
 * fake park table, from inside its park.
 */
#include <criterion/criterion.h>
#include <sched.h>

#include "callbacks.h"

TestSuite(drain, .timeout = 60);

enum { STEPS = 1000 };

/* Nothing runs but in run_some, and a signal finds that out. */
static void make_parallel(unsigned parallel)
{
	make_with((cq_cleanup_config_t){ .parallel = parallel }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
}

static void make_hosted(void)
{
	make_parallel(0);
}

/* As if another thread were in cq_pool_run_some all the time: scripts are what it does. */
static void make_served(void)
{
	make_hosted();
	q->pool->serving = 1;
}

/* Real threads and real time. */
static void make_managed(unsigned workers)
{
	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = workers, .park = cq_park_default() });
}

static bool each_of(unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		if (ran[i] != 1)
			return false;
	return true;
}

static int shut_down(cq_shutdown_how_t how, uint64_t deadline)
{
	return cq_cleanup_shutdown(q, how, deadline, take_back, NULL);
}

static int drain(void)
{
	return cq_cleanup_drain(q, CQ_FOREVER);
}

/* A script for the park of a drain. */
static void run_one(void *unused)
{
	(void)unused;
	CHECK(park.parks < STEPS);
	cq_cleanup_run_some(q, 1);
}

/* ------------------------------------------------------------- what it covers */

Test(drain, nothing_to_wait_for_is_no_wait, .init = make_served)
{
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	put(p, 0, 1);
	flush(NULL);
	cq_cleanup_run_some(q, 1);
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	cr_assert_eq(park.parks, 0);
	finish(1);
}

Test(drain, covers_full_and_partial_blocks_of_all_producers, .init = make_served)
{
	cq_producer_t *of_one;

	cr_assert_eq(cq_producer_attach(q, run_it, &of_one), 0);
	put(p, 0, SLOTS + 1);
	put(of_one, SLOTS + 1, 2 * SLOTS + 2);
	park.script = run_one;
	cr_assert_eq(drain(), 0);
	cr_assert(each_once(3 * SLOTS + 3));
	cr_assert_leq(park.parks, 3 * SLOTS + 3, "woken by its last block");
	cq_producer_detach(of_one);
	finish(3 * SLOTS + 3);
}

Test(drain, covers_a_producer_that_is_gone, .init = make_served)
{
	cq_producer_t *third;

	cr_assert_eq(cq_producer_attach(q, NULL, &third), 0);
	put(third, 0, SLOTS + 1);
	cq_producer_detach(third);
	cr_assert_eq(cq_cleanup_drain(q, 0), ETIMEDOUT);
	park.script = run_one;
	cr_assert_eq(drain(), 0);
	finish(SLOTS + 1);
}

/* A block that stays open through several drains: its callbacks are claimed one by one. */
Test(drain, covers_a_block_opened_long_before, .init = make_served)
{
	put(p, 0, 1);
	park.script = run_one;
	for (unsigned i = 1; i < SLOTS; i++) {
		cr_assert_eq(drain(), 0);
		cr_assert(each_once(i));
		put(p, i, 1);
	}
	cr_assert_eq(drain(), 0);
	finish(SLOTS);
}

/* --------------------------------------------------------------- how it ends */

/* Each time it sleeps, as much is enqueued as is run, on top of what there is. */
static unsigned next_put;

static void enqueue_as_much_as_is_run(void *unused)
{
	(void)unused;
	CHECK(park.parks < STEPS);
	put(p, next_put, SLOTS + 1);
	next_put += SLOTS + 1;
	flush(NULL);
	cq_cleanup_run_some(q, SLOTS + 1);
}

/* The clock stands still: it is not age that brings the old ones to their turn. */
Test(drain, returns_however_much_is_enqueued_and_flushed_meanwhile, .init = make_served)
{
	for (unsigned round = 0; round < 5; round++) {
		unsigned before = next_put += 3 * SLOTS;

		put(p, before - 3 * SLOTS, 3 * SLOTS);
		park.script = enqueue_as_much_as_is_run;
		cr_assert_eq(drain(), 0);
		cr_assert(each_of(0, before));
		cr_assert_neq(waiting(), 0, "it did not wait for those");
	}
	finish(next_put);
}

/* What hangs until its gate is opened. */
static struct stuck {
	gate_t began, may_end;
	pthread_t thread;
} stuck[3] = {
	{ GATE_INITIALIZER, GATE_INITIALIZER, 0 },
	{ GATE_INITIALIZER, GATE_INITIALIZER, 0 },
	{ GATE_INITIALIZER, GATE_INITIALIZER, 0 },
};

/* Callback i, which hangs. */
static void hang(void *arg)
{
	struct stuck *s = &stuck[(uintptr_t)arg];

	gate_open(&s->began);
	gate_wait(&s->may_end);
	run_it(arg);
}

static void put_stuck(unsigned i)
{
	CHECK(cq_producer_enqueue(p, hang, (void *)(uintptr_t)i) == 0);
}

static void *run_a_block(void *unused)
{
	CHECK(cq_cleanup_run_some(q, SLOTS) == SLOTS);
	return unused;
}

static void *run_one_callback(void *unused)
{
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	return unused;
}

/* Callback i hangs in a thread of its own, in a full block with three more from `rest` on. */
static void hang_in_a_thread(unsigned i, unsigned rest, void *(*body)(void *unused))
{
	put_stuck(i);
	put(p, rest, SLOTS - 1);
	stuck[i].thread = start(body, NULL);
	gate_wait(&stuck[i].began);
}

static void let_end(unsigned i)
{
	gate_open(&stuck[i].may_end);
	join(stuck[i].thread);
}

static void *drain_beside(void *err)
{
	CHECK(drain() == (int)(intptr_t)err);
	return NULL;
}

/* It is going to return err. `asleep`: with those before. */
static pthread_t start_drain(unsigned asleep, int err)
{
	pthread_t thread = start(drain_beside, (void *)(intptr_t)err);

	fake_wait_blocked(&park, asleep);
	return thread;
}

Test(drain, waits_for_what_came_before_it_and_not_for_what_came_after, .init = make_served)
{
	pthread_t first, second;

	hang_in_a_thread(0, 3, run_a_block);
	first = start_drain(1, 0);
	hang_in_a_thread(1, 6, run_a_block);
	second = start_drain(2, 0);
	let_end(0);
	join(first);
	fake_wait_blocked(&park, 1);
	hang_in_a_thread(2, 9, run_a_block);
	let_end(1);
	join(second);
	let_end(2);
	finish(3 * SLOTS);
}

/* The first has begun an epoch, in which nothing was published. */
Test(drain, a_second_one_waits_for_what_the_first_waits_for, .init = make_served)
{
	pthread_t drains[3];

	hang_in_a_thread(0, 1, run_a_block);
	for (unsigned i = 0; i < 3; i++)
		drains[i] = start_drain(i + 1, 0);
	let_end(0);
	for (unsigned i = 0; i < 3; i++)
		join(drains[i]);
	finish(SLOTS);
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

static void *flush_p(void *unused)
{
	CHECK(cq_producer_flush(p) == 0);
	return unused;
}

static void *put_a_block(void *unused)
{
	put(p, 0, SLOTS);
	return unused;
}

/* For the next queue of a test. */
static void begin_anew(void)
{
	forget_callbacks();
	park.parks = park.unparks = 0;
	stopped = go_on = (gate_t)GATE_INITIALIZER;
}

static const char *const publishing[] = { "producer.closed", "producer.counted", "workq.linked" };

Test(drain, waits_for_a_block_that_is_being_published)
{
	for (size_t i = 0; i < sizeof(publishing) / sizeof(*publishing); i++) {
		make_served();
		stop_at(publishing[i], put_a_block, NULL);
		park.script = let_go_and_run;
		cr_assert_eq(drain(), 0);
		finish(SLOTS);
		begin_anew();
	}
}

Test(drain, waits_for_a_block_whose_unit_is_taken, .init = make_served)
{
	put(p, 0, SLOTS);
	stop_at("workq.taken", run_a_block, NULL);
	park.script = let_go;
	cr_assert_eq(drain(), 0);
	finish(SLOTS);
}

/*
 * The owner closes a block that a collector has claimed to its end, and publishes
 * nothing that could wake a drain which found it counted.
 */
static void claim_it_all_and_run(void *unused)
{
	flush(unused);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
}

static void *put_the_last(void *unused)
{
	at_point("producer.stored", claim_it_all_and_run, NULL);
	put(p, SLOTS - 1, 1);
	return unused;
}

Test(drain, is_woken_by_a_close_that_publishes_nothing, .init = make_served)
{
	put(p, 0, SLOTS - 1);
	stop_at("producer.closed", put_the_last, NULL);
	park.script = let_go;
	cr_assert_eq(drain(), 0);
	finish(SLOTS);
}

/*
 * A collector has counted a block, and every claim has failed: it is the last to count down, and wakes a
 * drain, but not under the lock (cf. unpark in cq/park.h).
 */
static void fill_and_run(void *unused)
{
	(void)unused;
	put(p, 2 * SLOTS - 1, 1);
	CHECK(cq_cleanup_run_some(q, SLOTS) == SLOTS);
}

Test(drain, is_woken_by_a_collector_that_claims_nothing_with_no_lock_held, .init = make_served)
{
	pthread_t sleeps;

	hang_in_a_thread(0, 1, run_a_block);
	sleeps = start_drain(1, 0);
	put(p, SLOTS, SLOTS - 1);
	park.free_lock = &q->lock;
	at_point("collect.copied", fill_and_run, NULL);
	flush(NULL);
	cr_assert_neq(park.unparks, 0);
	fake_wait_blocked(&park, 1);
	let_end(0);
	join(sleeps);
	finish(2 * SLOTS);
}

/* --------------------------------------------------- when it does not succeed */

Test(drain, deadline_passes_while_a_callback_is_stuck)
{
	make_managed(1);
	put_stuck(0);
	cr_assert_eq(cq_cleanup_drain(q, 0), ETIMEDOUT);
	gate_wait(&stuck[0].began);
	cr_assert_eq(cq_cleanup_drain(q, cq_deadline_in(2000000)), ETIMEDOUT);
	cr_assert_eq(runs, 0);
	gate_open(&stuck[0].may_end);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	finish(1);
}

static void pass_the_deadline(void *unused)
{
	(void)unused;
	CHECK(park.parks == 1 && park.deadline == 1000 && park.host == NULL);
	fake_advance(&park, 1000);
}

Test(drain, deadline_is_absolute_on_the_clock_of_the_table, .init = make_served)
{
	put(p, 0, 1);
	park.script = pass_the_deadline;
	cr_assert_eq(cq_cleanup_drain(q, 1000), ETIMEDOUT);
	cr_assert_eq(park.parks, 1);
	finish(1);
}

Test(drain, without_memory_for_the_flush_fails_and_loses_nothing, .init = make_served)
{
	put(p, 0, 1);
	out_of_memory(true);
	cr_assert_eq(drain(), ENOMEM);
	cr_assert_eq(waiting(), 0);
	out_of_memory(false);
	park.script = run_one;
	cr_assert_eq(drain(), 0);
	finish(1);
}

/* What it could publish doesn't wait for another's signal. */
Test(drain, without_memory_for_all_has_what_it_could_publish_run)
{
	cq_producer_t *third;

	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_min = 1, .workers_max = 1, .park = cq_park_default() });
	cr_assert_eq(cq_producer_attach(q, NULL, &third), 0);
	put(p, 0, SLOTS - 1);
	put(third, SLOTS - 1, SLOTS - 1);
	mem.fail_on = true;
	mem.fail_in = 2; /* one block can be had */
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), ENOMEM);
	out_of_memory(false);
	AWAIT(runs == SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cq_producer_detach(third);
	finish(2 * (SLOTS - 1));
}

static void waits_for_its_pool(void *of)
{
	CHECK(cq_cleanup_drain(of, CQ_FOREVER) == EDEADLK);
	CHECK(cq_cleanup_shutdown(of, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, take_back, NULL) == EDEADLK);
	CHECK(cq_cleanup_shutdown(of, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == EDEADLK);
	CHECK(cq_cleanup_destroy(of) == EDEADLK);
	run_it(NULL);
}

Test(drain, of_its_own_queue_is_refused_to_a_callback)
{
	make_managed(1);
	cr_assert_eq(cq_producer_enqueue(p, waits_for_its_pool, q), 0);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	finish(1);
}

/* ------------------------------------------------------------ nobody is there */

Test(drain, of_a_hosted_pool_that_nobody_serves_says_so, .init = make_hosted)
{
	cr_assert_eq(drain(), 0);
	put(p, 0, SLOTS + 1);
	cr_assert_eq(drain(), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
	cr_assert_eq(drain(), EAGAIN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(drain(), 0);
	cr_assert_eq(park.parks, 0);
	finish(SLOTS + 1);
}

/* As cq/cleanup.h has it for who waits for a pool that it serves itself. */
static void serve_and_wait(cq_cleanup_config_t config, cq_pool_config_t pool_config)
{
	int err;

	make_with(config, pool_config);
	put(p, 0, 3 * SLOTS + 1);
	while ((err = cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL)) == EAGAIN)
		cr_assert_eq(cq_pool_run_some(cq_cleanup_pool(q), 1), 1);
	cr_assert_eq(err, 0);
	cr_assert_eq(park.parks, 0);
	finish(3 * SLOTS + 1);
	begin_anew();
}

Test(drain, who_serves_a_hosted_pool_itself_loops_with_run_some)
{
	for (unsigned parallel = 0; parallel < 2; parallel++) {
		serve_and_wait((cq_cleanup_config_t){ .parallel = parallel },
		    (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
		serve_and_wait((cq_cleanup_config_t){ .parallel = parallel },
		    (cq_pool_config_t){ .flags = CQ_POOL_HOSTED | CQ_POOL_POLLED });
	}
}

/* It sleeps, as the block is on its way; and when that comes nobody is there for it. */
Test(drain, asleep_in_a_hosted_pool_is_told_of_a_block_that_comes_to_nobody)
{
	for (size_t i = 0; i < sizeof(publishing) / sizeof(*publishing); i++) {
		make_hosted();
		park.script = let_go;
		stop_at(publishing[i], put_a_block, NULL);
		cr_assert_eq(drain(), EAGAIN);
		cr_assert_eq(park.parks, 1);
		cr_assert_neq(park.unparks, 0);
		finish(SLOTS);
		begin_anew();
	}
}

static void let_stuck_end(void *unused)
{
	(void)unused;
	CHECK(park.parks == 1 && park.unparks == 0);
	let_end(0);
	CHECK(park.unparks != 0);
}

static void *run_one_piece(void *unused)
{
	CHECK(cq_pool_run_some(cq_cleanup_pool(q), 1) == 1);
	return unused;
}

/* Callback 0, which waits, hangs in a thread that runs body: until a drain sleeps. */
static void hang_in(void *(*body)(void *unused))
{
	stuck[0].thread = start(body, NULL);
	gate_wait(&stuck[0].began);
	park.script = let_stuck_end;
}

Test(drain, asleep_in_a_hosted_pool_ends_as_the_last_one_leaves_with_work_left, .init = make_hosted)
{
	put(p, 1, SLOTS);
	put_stuck(0); /* in the newer block, which is taken first */
	put(p, SLOTS + 1, SLOTS - 1);
	hang_in(run_one_piece);
	cr_assert_eq(drain(), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	finish(2 * SLOTS);
}

Test(drain, asleep_in_a_hosted_pool_succeeds_as_the_last_one_leaves_with_all_done, .init = make_hosted)
{
	put_stuck(0);
	put(p, 1, SLOTS - 1);
	hang_in(run_one_piece);
	cr_assert_eq(drain(), 0);
	finish(SLOTS);
}

/* A block in hand is waited for, whoever has it; its rest goes back, and nobody is there. */
static void a_run_some_leaves_a_rest(unsigned parallel)
{
	make_parallel(parallel);
	put_stuck(0);
	put(p, 1, SLOTS - 1);
	hang_in(run_one_callback);
	cr_assert_eq(cq_pool_run_some(cq_cleanup_pool(q), 1), 0); /* at the limit it finds that out */
	cr_assert_eq(drain(), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS - 1);
	finish(SLOTS);
}

Test(drain, asleep_in_a_hosted_pool_ends_as_a_run_some_leaves_a_rest)
{
	a_run_some_leaves_a_rest(0);
}

Test(drain, asleep_in_a_hosted_pool_ends_as_a_run_some_at_the_limit_leaves_a_rest)
{
	a_run_some_leaves_a_rest(1);
}

/*
 * Two blocks are to be waited for: one in the hand of a run, and one on its way. That comes at the limit of runs, and
 * is the business of the run, which ends.
 */
static void *put_another_block(void *unused)
{
	put(p, SLOTS, SLOTS);
	return unused;
}

static void let_go_and_let_stuck_end(void *unused)
{
	let_go(unused);
	let_stuck_end(unused);
}

Test(drain, asleep_in_a_hosted_pool_ends_as_a_run_some_at_the_limit_leaves_a_block)
{
	make_parallel(1);
	put_stuck(0);
	put(p, 1, SLOTS - 1);
	hang_in(run_a_block);
	cr_assert_eq(cq_pool_run_some(cq_cleanup_pool(q), 1), 0);
	stop_at("producer.counted", put_another_block, NULL);
	park.script = let_go_and_let_stuck_end;
	cr_assert_eq(drain(), EAGAIN);
	finish(2 * SLOTS);
}

/* Asleep, as the block is on its way, whose signal wakes nobody: the drain does, which nobody else may. */
static void *drain_really(void *unused)
{
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	return unused;
}

Test(drain, asleep_in_a_polled_pool_wakes_a_worker_for_a_block_that_comes)
{
	pthread_t drains;

	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED, .park = cq_park_default() });
	stop_at("producer.counted", put_a_block, NULL);
	drains = start(drain_really, NULL);
	AWAIT(asleep_in(&q->drains));
	gate_open(&go_on);
	join(other);
	join(drains);
	finish(SLOTS);
}

/* The rest's record is about to be pushed by a caller's run, which has had its piece: nobody comes but for the drain. */
Test(drain, asleep_in_a_polled_pool_wakes_a_worker_for_what_a_run_some_leaves)
{
	pthread_t drains;

	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED, .park = cq_park_default() });
	put(p, 0, 2 * SLOTS);
	stop_at("tasks.push", run_one_piece, NULL);
	drains = start(drain_really, NULL);
	AWAIT(asleep_in(&q->drains));
	gate_open(&go_on);
	join(other);
	join(drains);
	finish(2 * SLOTS);
}

/* What came at the limit of runs is a caller's business, and he looks for no other block. The drain, which the block before
   has woken, looks before its record is there. */
static void a_polled_run_some_leaves_a_block(void *(*body)(void *unused))
{
	pthread_t drains;

	make_with((cq_cleanup_config_t){ .parallel = 1 },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED, .park = cq_park_default() });
	put_stuck(0);
	flush(NULL);
	stuck[0].thread = start(body, NULL);
	gate_wait(&stuck[0].began);
	put(p, 1, SLOTS);
	drains = start(drain_really, NULL);
	AWAIT(asleep_in(&q->drains) && pool_stats().tasks_waiting == 0);
	at_point("tasks.push", hold, NULL);
	gate_open(&stuck[0].may_end);
	gate_wait(&stopped);
	AWAIT(asleep_in(&q->drains));
	gate_open(&go_on);
	join(stuck[0].thread);
	join(drains);
	finish(SLOTS + 1);
}

Test(drain, asleep_in_a_polled_pool_wakes_a_worker_for_what_a_run_some_at_the_limit_leaves)
{
	a_polled_run_some_leaves_a_block(run_one_callback);
}

Test(drain, asleep_in_a_polled_pool_wakes_a_worker_for_what_a_run_some_of_the_pool_leaves)
{
	a_polled_run_some_leaves_a_block(run_one_piece);
}

static int spawn_error;

static int no_workers(void *unused, void (*body)(void *), void *arg)
{
	(void)unused;
	(void)body;
	(void)arg;
	return spawn_error;
}

Test(drain, of_a_stalled_pool_says_so)
{
	static const int errors[][2] = { { EAGAIN, EAGAIN }, { ENOMEM, EAGAIN }, { EPERM, EPERM } };

	for (unsigned i = 0; i < 3; i++) {
		spawn_error = errors[i][0];
		make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .spawn = no_workers });
		put(p, 0, 1);
		cr_assert_eq(drain(), errors[i][1]);
		cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), errors[i][1]);
		cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
		cr_assert_eq(drain(), 0);
		finish(1);
		begin_anew();
	}
}

static int refuse_to_start(void *unused)
{
	static atomic_uint starts;

	(void)unused;
	CHECK(++starts < 10); /* each attempt is a thread */
	return spawn_error;
}

/* The thread is made, and then it turns out to be none. Asleep or not, the drain is told. */
Test(drain, of_a_pool_whose_workers_refuse_to_start_says_so)
{
	spawn_error = EPERM;
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){
	    .park = cq_park_default(), .worker_start = refuse_to_start });
	put(p, 0, 1);
	cr_assert_eq(drain(), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	finish(1);
}

/* Asleep, as the block is on its way; the signal that follows finds that no worker can be made. */
Test(drain, asleep_is_told_that_the_pool_has_stalled_with_no_lock_held)
{
	spawn_error = EAGAIN;
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .spawn = no_workers });
	stop_at("producer.counted", put_a_block, NULL);
	park.free_lock = &q->pool->lock;
	park.script = let_go;
	cr_assert_eq(drain(), EAGAIN);
	cr_assert_eq(park.parks, 1);
	cr_assert_neq(park.unparks, 0);
	run_all(NULL);
	finish(SLOTS);
}

/* What is enqueued as the last callback returns is not the drain's to wait for. */
static void let_go_and_stall(void *unused)
{
	let_go(unused);
	put(p, SLOTS, SLOTS);
	q->pool->serving = 0;
	CHECK(cq_pool_wake(q->pool) == EAGAIN);
}

Test(drain, that_has_run_all_succeeds_though_the_pool_has_stalled_since, .init = make_served)
{
	put(p, 0, SLOTS);
	stop_at("workq.taken", run_a_block, NULL);
	park.script = let_go_and_stall;
	cr_assert_eq(drain(), 0);
	cr_assert(each_once(SLOTS));
	finish(2 * SLOTS);
}

/* ------------------------------------------------------------ queues on one pool */

static cq_pool_t *shared;
static cq_cleanup_t *second;
static cq_producer_t *to_second;

static void make_two(cq_pool_config_t config)
{
	cq_cleanup_config_t on_it = { .block_bytes = CQ_BLOCK_BYTES_MIN };

	config.park = cq_park_default();
	cr_assert_eq(cq_pool_create(&config, &shared), 0);
	on_it.pool = shared;
	cr_assert_eq(cq_cleanup_create(&on_it, &second), 0);
	cr_assert_eq(cq_producer_attach(second, NULL, &to_second), 0);
	make_with(on_it, (cq_pool_config_t){ 0 });
}

static void end_second(void)
{
	cq_producer_detach(to_second);
	cr_assert_eq(cq_cleanup_shutdown(second, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(second), 0);
}

Test(drain, of_a_queue_on_the_same_pool_is_refused_to_a_callback)
{
	make_two((cq_pool_config_t){ .workers_max = 2 });
	cr_assert_eq(cq_producer_enqueue(to_second, waits_for_its_pool, q), 0);
	cr_assert_eq(cq_cleanup_drain(second, wait_limit()), 0);
	end_second();
	finish(1);
	cr_assert_eq(cq_pool_destroy(shared, CQ_FOREVER), 0);
}

static void drains_another(void *of)
{
	CHECK(cq_cleanup_drain(of, wait_limit()) == 0);
	run_it(NULL);
}

Test(drain, of_a_queue_on_another_pool_is_allowed_to_a_callback)
{
	make_managed(1);
	cr_assert_eq(cq_cleanup_create(NULL, &second), 0);
	cr_assert_eq(cq_producer_attach(second, NULL, &to_second), 0);
	put(p, 1, 1);
	cr_assert_eq(cq_producer_enqueue(to_second, drains_another, q), 0);
	cr_assert_eq(cq_cleanup_drain(second, wait_limit()), 0);
	cr_assert_eq(runs, 2);
	end_second();
	finish(2);
}

/* ----------------------------------------------------------- many at once */

enum { THREADS = 4, EACH = MANY / THREADS };

static uint64_t end;
static unsigned put_by[THREADS];

/* Of callbacks that are not numbered in one row. */
static void end_all(void)
{
	cq_producer_detach(p);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN, wait_limit()) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
}

static void put_and_drain(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	unsigned n = 0, covered = 0;

	(void)unused;
	CHECK(cq_producer_attach(q, index % 2 == 0 ? run_it : NULL, &mine) == 0);
	while (n + 3 * SLOTS <= EACH && test_now() < end) {
		unsigned k = (unsigned)rng_below(&r, 3 * SLOTS);

		put(mine, index * EACH + n, k);
		n += k;
		if (rng_below(&r, 4) != 0)
			continue;
		CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
		CHECK(each_of(index * EACH + covered, n - covered));
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
		cr_assert(each_of(i * EACH, put_by[i]));
		n += put_by[i];
	}
	cr_assert_eq(runs, n);
	end_all();
}

static atomic_bool flooding;

static void count(void *counter)
{
	(*(atomic_uint *)counter)++;
}

/* Something waits all the time. */
static void flood_or_drain(void *unused, unsigned index)
{
	atomic_uint done = 0, flooded = 0;
	cq_producer_t *mine;

	(void)unused;
	CHECK(cq_producer_attach(q, NULL, &mine) == 0);
	if (index == 0) {
		for (unsigned i = 1; i <= 20; i++) {
			CHECK(cq_producer_enqueue(mine, count, &done) == 0);
			CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
			CHECK(done == i);
		}
		flooding = false;
	}
	for (unsigned i = 0; flooding; i++) {
		CHECK(cq_producer_enqueue(mine, count, &flooded) == 0);
		CHECK(i % 7 != 0 || cq_producer_flush(mine) == 0);
		CHECK(i % 31 != 0 || cq_cleanup_flush(q) == 0);
		while (flooding && waiting() > 32)
			sched_yield();
	}
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	cq_producer_detach(mine);
}

Test(drain, ends_while_others_enqueue_and_flush_for_ever)
{
	make_managed(1);
	flooding = true;
	run_threads(THREADS, flood_or_drain, NULL);
	end_all();
}

/* ------------------------------------------------------------------ shutdown */

Test(drain, shutdown_of_a_queue_that_never_had_a_worker)
{
	make_managed(1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "the producer is attached");
	cr_assert_eq(pool_stats().workers_created, 0);
	finish(0);
}

Test(drain, shutdown_runs_all_and_ends_the_workers)
{
	make_managed(2);
	put(p, 0, 10 * SLOTS + 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL), 0);
	cr_assert(each_once(10 * SLOTS + 1));
	cr_assert_eq(stats().handed_back, 0);
	cr_assert_eq(stats().executed, 10 * SLOTS + 1);
	cr_assert_eq(pool_stats().workers_live, 0);
	cr_assert_eq(try_put(p, 0), ESHUTDOWN);
	finish(10 * SLOTS + 1);
}

Test(drain, hand_back_gives_all_back_that_did_not_run, .init = make_hosted)
{
	cq_producer_t *of_one;

	cr_assert_eq(cq_producer_attach(q, run_it, &of_one), 0);
	put(p, 0, 2 * SLOTS + 1);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 2);
	put(of_one, 2 * SLOTS + 1, 2 * SLOTS + 3);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	cr_assert_eq(given_back, 4 * SLOTS + 2);
	cr_assert_eq(stats().executed, 2);
	cr_assert_eq(stats().handed_back, 4 * SLOTS + 2);
	cr_assert_eq(stats().queued, 4 * SLOTS + 4);
	cq_producer_detach(of_one);
	finish(4 * SLOTS + 4);
}

Test(drain, hand_back_needs_no_memory, .init = make_hosted)
{
	cq_producer_t *third;

	cr_assert_eq(cq_producer_attach(q, NULL, &third), 0);
	put(p, 0, 2 * SLOTS + 1);
	put(third, 2 * SLOTS + 1, SLOTS - 1);
	out_of_memory(true);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, 3 * SLOTS);
	cq_producer_detach(third);
	finish(3 * SLOTS);
}

/* More than it takes at a time. */
Test(drain, hand_back_of_a_large_open_block_needs_no_memory)
{
	make_with((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES },
	    (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
	put(p, 0, 100);
	out_of_memory(true);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, 100);
	finish(100);
}

static pthread_t caller;

static bool is_free(pthread_mutex_t *lock)
{
	return pthread_mutex_trylock(lock) == 0 && pthread_mutex_unlock(lock) == 0;
}

static void take_back_and_look(void *ctx, cq_callback_fn *fn, void *arg)
{
	CHECK(pthread_equal(pthread_self(), caller));
	CHECK(is_free(&q->lock) && is_free(&q->drains.lock) && is_free(&q->pool->lock) &&
	    is_free(&q->pool->idle.lock) && is_free(&q->pool->closers.lock));
	CHECK(drain() == EDEADLK);
	CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER) == EALREADY);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER) == EALREADY);
	CHECK(cq_cleanup_destroy(q) == EBUSY);
	CHECK(cq_cleanup_run_some(q, 1) == 0);
	/* What is in the caller's hand has neither run, nor been given back. */
	join(start(drain_beside, (void *)(intptr_t)ESHUTDOWN));
	take_back(ctx, fn, arg);
}

Test(drain, give_back_is_called_by_the_caller_with_no_lock_held_and_may_not_wait, .init = make_hosted)
{
	caller = pthread_self();
	put(p, 0, SLOTS + 2);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back_and_look, NULL), 0);
	cr_assert_eq(given_back, SLOTS + 2);
	cr_assert_eq(drain(), 0);
	finish(SLOTS + 2);
}

Test(drain, shutdown_is_one_of_two, .init = make_hosted)
{
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, (cq_shutdown_how_t)2, CQ_FOREVER, take_back_and_look, NULL), EINVAL);
	put(p, 1, 1); /* it did not even close the queue */
	finish(2);
}

Test(drain, hand_back_to_nobody_is_refused, .init = make_hosted)
{
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, NULL, NULL), EINVAL);
	put(p, 1, 1); /* it did not even close the queue */
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
	park.free_lock = &q->lock;
	run_it(arg);
}

Test(drain, hand_back_stops_in_the_middle_of_a_block, .init = make_served)
{
	put(p, 0, 1);
	cr_assert_eq(cq_producer_enqueue(p, begin_a_hand_back, (void *)1), 0);
	put(p, 2, SLOTS - 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 2);
	join(other);
	cr_assert_eq(runs, SLOTS + 1);
	cr_assert_eq(given_back, SLOTS - 1);
	finish(SLOTS + 1);
}

Test(drain, shutdown_by_two_threads_is_the_business_of_the_first)
{
	make_managed(1);
	put_stuck(0);
	put(p, 1, SLOTS);
	gate_wait(&stuck[0].began);
	other = start(hand_back, NULL);
	AWAIT(given_back == 1);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EALREADY);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), EALREADY);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	gate_open(&stuck[0].may_end);
	join(other);
	finish(SLOTS + 1);
}

/* ------------------------------------------------------- after one that timed out */

/* A worker hangs in callback 0 of a block; a second one waits, and a third is open: 2 * SLOTS + 1 in all. */
static void hang_and_time_out(cq_shutdown_how_t how)
{
	make_managed(1);
	put_stuck(0);
	put(p, 1, SLOTS - 1);
	gate_wait(&stuck[0].began);
	put(p, SLOTS, SLOTS + 1);
	cr_assert_eq(shut_down(how, cq_now()), ETIMEDOUT);
	cr_assert_eq(try_put(p, MANY - 1), ESHUTDOWN);
	/* What is in no worker's hand is given back at once. */
	cr_assert_eq(given_back, how == CQ_SHUTDOWN_DRAIN ? 0 : SLOTS + 1);
	cr_assert_eq(runs, given_back);
}

enum { ALL = 2 * SLOTS + 1 };

Test(drain, shutdown_that_timed_out_leaves_the_workers_at_it)
{
	hang_and_time_out(CQ_SHUTDOWN_DRAIN);
	gate_open(&stuck[0].may_end);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert_eq(given_back, 0);
	finish(ALL);
}

Test(drain, shutdown_after_one_that_timed_out_runs_all)
{
	hang_and_time_out(CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, cq_now(), NULL, NULL), ETIMEDOUT);
	gate_open(&stuck[0].may_end);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL), 0);
	cr_assert_eq(given_back, 0);
	finish(ALL);
}

static void *shut_down_beside(void *how)
{
	CHECK(shut_down(*(cq_shutdown_how_t *)how, CQ_FOREVER) == 0);
	return NULL;
}

static void shut_down_as_it_ends(cq_shutdown_how_t how, unsigned given_before)
{
	pthread_t thread = start(shut_down_beside, &how);

	AWAIT(given_back == given_before);
	gate_open(&stuck[0].may_end);
	join(thread);
	cr_assert_eq(given_back, ALL - 1);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(stats().handed_back, ALL - 1);
	finish(ALL);
}

/* Before the hung callback returns, all but the rest of its block is given back. */
Test(drain, hand_back_after_a_shutdown_that_timed_out_gives_back_what_did_not_run)
{
	hang_and_time_out(CQ_SHUTDOWN_DRAIN);
	shut_down_as_it_ends(CQ_SHUTDOWN_HAND_BACK, SLOTS + 1);
}

Test(drain, hand_back_after_one_that_timed_out_gives_back_the_rest)
{
	hang_and_time_out(CQ_SHUTDOWN_HAND_BACK);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, cq_now()), ETIMEDOUT);
	shut_down_as_it_ends(CQ_SHUTDOWN_HAND_BACK, SLOTS + 1);
}

Test(drain, shutdown_after_a_hand_back_that_timed_out_gives_back_the_rest)
{
	hang_and_time_out(CQ_SHUTDOWN_HAND_BACK);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, cq_now()), ETIMEDOUT);
	shut_down_as_it_ends(CQ_SHUTDOWN_DRAIN, SLOTS + 1);
}

/* What an earlier HAND_BACK has left can't run any more. */
Test(drain, callbacks_left_by_a_hand_back_are_not_dropped)
{
	hang_and_time_out(CQ_SHUTDOWN_HAND_BACK);
	gate_open(&stuck[0].may_end);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL), EINVAL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL), EINVAL);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 0);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), ESHUTDOWN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, wait_limit()), 0);
	cr_assert_eq(given_back, ALL - 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(ALL);
}

Test(drain, of_a_queue_that_a_hand_back_has_stopped_says_so)
{
	hang_and_time_out(CQ_SHUTDOWN_HAND_BACK);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), ESHUTDOWN);
	shut_down_as_it_ends(CQ_SHUTDOWN_HAND_BACK, SLOTS + 1);
}

Test(drain, asleep_is_ended_by_a_hand_back, .init = make_served)
{
	hang_in_a_thread(0, 1, run_one_callback);
	other = start_drain(1, ESHUTDOWN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), ETIMEDOUT);
	join(other);
	let_end(0);
	finish(SLOTS);
}

/* It leaves its park when all has been given back: by the counts, all is done. */
Test(drain, asleep_beside_a_hand_back_says_so_though_nothing_is_left, .init = make_served)
{
	put(p, 0, SLOTS + 1);
	park.leave = &go_on;
	other = start_drain(1, ESHUTDOWN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	gate_open(&go_on);
	join(other);
	cr_assert_eq(drain(), 0);
	finish(SLOTS + 1);
}

/* ------------------------------------------------------------- and blocks in flight */

/* The gate was open when it was filled. */
Test(drain, hand_back_waits_for_a_block_that_is_being_published)
{
	for (size_t i = 0; i < sizeof(publishing) / sizeof(*publishing); i++) {
		make_served();
		stop_at(publishing[i], put_a_block, NULL);
		park.script = let_go;
		cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
		cr_assert_eq(given_back, SLOTS);
		finish(SLOTS);
		begin_anew();
	}
}

/* What little is flushed is claimed, and the block that it is in is not seen yet. */
static void stop_as_few_are_flushed(void)
{
	make_with((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
	q->pool->serving = 1;
	put(p, 0, 1);
	stop_at("collect.claimed", flush_p, NULL);
}

Test(drain, hand_back_waits_for_few_that_are_being_flushed, .init = stop_as_few_are_flushed)
{
	park.script = let_go;
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, 1);
	finish(1);
}

Test(drain, covers_few_that_are_being_flushed, .init = stop_as_few_are_flushed)
{
	park.script = let_go_and_run;
	cr_assert_eq(drain(), 0);
	cr_assert_eq(ran[0], 1);
	finish(1);
}

static void hand_back_at_once(void *unused)
{
	(void)unused;
	CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK, 0) == ETIMEDOUT);
	CHECK(given_back == 1);
}

/* The owner has counted a block for what another claims. */
Test(drain, hand_back_waits_for_a_block_that_no_claim_of_the_owner_fills)
{
	make_with((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
	put(p, 0, 1);
	at_point("collect.copied", hand_back_at_once, NULL);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), 0);
	finish(1);
}

Test(drain, hand_back_that_timed_out_before_a_block_in_flight_may_be_called_again, .init = make_served)
{
	stop_at("producer.closed", put_a_block, NULL);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 0), ETIMEDOUT);
	cr_assert_eq(given_back, 0);
	gate_open(&go_on);
	join(other);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS);
}

/* All has run, and an owner has yet to leave the block whose callbacks were claimed. */
static void claim_run_and_shut_down(void *unused)
{
	claim_it_all_and_run(unused);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN, 0) == 0);
}

static void *put_the_last_of_all(void *unused)
{
	at_point("producer.stored", claim_run_and_shut_down, NULL);
	put(p, SLOTS - 1, 1);
	return unused;
}

Test(drain, of_a_queue_that_was_shut_down_has_nothing_to_miss, .init = make_served)
{
	put(p, 0, SLOTS - 1);
	stop_at("producer.closed", put_the_last_of_all, NULL);
	park.script = let_go;
	cr_assert_eq(drain(), 0);
	finish(SLOTS);
}

/* An enqueue that is going to be refused, a flush beside it, and nobody who would run it. */
Test(drain, nothing_is_accepted_after_the_last_collection, .init = make_hosted)
{
	put(p, 0, 1);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	at_point("producer.stored", flush, NULL);
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	cr_assert_eq(waiting(), 0);
	finish(1);
}

/* The same while the drain of a shutdown sleeps: what it doesn't cover is refused. */
static int late_enqueue = -1;

static void enqueue_late_and_run_one(void *unused)
{
	if (late_enqueue == -1) {
		at_point("producer.stored", flush, NULL);
		late_enqueue = try_put(p, 1);
	}
	run_one(unused);
}

Test(drain, nothing_is_accepted_that_the_drain_of_a_shutdown_does_not_cover, .init = make_served)
{
	put(p, 0, 1);
	park.script = enqueue_late_and_run_one;
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	cr_assert_eq(late_enqueue, ESHUTDOWN);
	finish(1);
}

/* ------------------------------------------- shutdown against running producers */

static void put_until_refused(unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	unsigned n = 0;
	int err = 0;

	if (cq_producer_attach(q, index % 2 == 0 ? run_it : NULL, &mine) != 0)
		return;
	while (n < EACH && err == 0) {
		err = try_put(mine, index * EACH + n);
		n += err == 0;
		if (rng_below(&r, 8) == 0)
			(void)cq_producer_flush(mine);
		if (rng_below(&r, 8) == 0)
			(void)cq_cleanup_flush(q);
	}
	CHECK(n == EACH || err == ESHUTDOWN);
	cq_producer_detach(mine);
	put_by[index] = n;
}

static void put_or_shut_down(void *how, unsigned index)
{
	rng_t r = rng_for(index);

	if (index < THREADS - 1) {
		put_until_refused(index);
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
			cr_assert(each_of(i * EACH, put_by[i]));
			n += put_by[i];
			put_by[i] = 0;
		}
		cr_assert_eq(runs, n);
		cr_assert(how == CQ_SHUTDOWN_HAND_BACK || given_back == 0);
		forget_callbacks();
		end_all();
	} while (test_now() < end);
}

Test(drain, shutdown_against_running_producers_runs_what_was_accepted)
{
	shut_down_running_producers(CQ_SHUTDOWN_DRAIN);
}

Test(drain, hand_back_against_running_producers_gives_back_what_did_not_run)
{
	shut_down_running_producers(CQ_SHUTDOWN_HAND_BACK);
}
