/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Callbacks at their run, src/cleanup/run.c: which blocks wait for which others, callbacks that
 * hang or end their thread, run_some and its budget, what a callback may not wait for; and one
 * body for queues on all kinds of pools.
 */
#define _GNU_SOURCE /* pthread_getname_np */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callbacks.h"

TestSuite(run, .timeout = 60);

static void enqueue(cq_callback_fn *fn, unsigned i)
{
	CHECK(cq_producer_enqueue(p, fn, (void *)(uintptr_t)i) == 0);
}

/* Callbacks that stay inside until the gate is opened. */
static struct {
	atomic_uint inside;
	gate_t leave;
} room = { 0, GATE_INITIALIZER };

static void stay(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	run_it(arg);
}

static void open_managed(uint32_t workers)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = workers });
}

/* On the system's park: the fake is a cancellation point, and no child can use it. */
static void open_really(uint32_t workers)
{
	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = workers, .park = cq_park_default() });
}

/* ------------------------------------------------------------- which blocks wait for which */

Test(run, blocks_of_one_flush_are_run_by_as_many_workers_as_there_are)
{
	enum { WORKERS = 4, N = WORKERS * SLOTS };
	cq_producer_t *each[N];

	open_managed(WORKERS);
	for (unsigned i = 0; i < N; i++) {
		CHECK(cq_producer_attach(q, NULL, &each[i]) == 0);
		CHECK(cq_producer_enqueue(each[i], stay, (void *)(uintptr_t)i) == 0);
	}
	cr_assert_eq(cq_cleanup_flush(q), 0);
	AWAIT(room.inside == WORKERS);
	cr_assert_eq(waiting(), 0);
	gate_open(&room.leave);
	for (unsigned i = 0; i < N; i++)
		cq_producer_detach(each[i]);
	finish(N);
}

Test(run, callbacks_that_hang_hold_back_no_other_block)
{
	enum { WORKERS = 3, N = 50 * SLOTS };

	open_managed(WORKERS);
	for (unsigned i = 1; i < WORKERS; i++) {
		enqueue(stay, N + i - 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		AWAIT(room.inside == i);
	}
	put(p, 0, N);
	AWAIT(runs == N);
	gate_open(&room.leave);
	finish(N + WORKERS - 1);
}

Test(run, no_more_blocks_run_at_once_than_parallel_says)
{
	make_with((cq_cleanup_config_t){ .parallel = 2 }, (cq_pool_config_t){ .workers_min = 3,
	    .workers_max = 3 });
	for (unsigned i = 0; i < 2; i++) {
		enqueue(stay, i);
		cr_assert_eq(cq_producer_flush(p), 0);
		AWAIT(room.inside == i + 1);
	}
	fake_wait_blocked(&park, 1);
	put(p, 2, SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(runs, 0);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 0); /* nor in a caller */
	gate_open(&room.leave);
	AWAIT(runs == 2 + SLOTS);
	finish(2 + SLOTS);
}

Test(run, queues_on_one_pool_take_turns)
{
	cq_pool_config_t config = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };
	cq_cleanup_t *other;
	cq_pool_t *pool;

	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	make_with((cq_cleanup_config_t){ .pool = pool }, config);
	put(p, 0, 8 * SLOTS);
	cq_producer_detach(p);
	other = q;
	make_with((cq_cleanup_config_t){ .pool = pool }, config);
	put(p, 8 * SLOTS, 8 * SLOTS);
	cr_assert_eq(cq_pool_run_some(pool, 8), 8); /* blocks */
	cr_assert_eq(stats().executed, 4 * SLOTS);
	cr_assert_eq(runs, 8 * SLOTS);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 8);
	cr_assert_eq(cq_cleanup_shutdown(other, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(other), 0);
	finish(16 * SLOTS);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

Test(run, who_loses_a_block_to_another_takes_none)
{
	make();
	put(p, 0, SLOTS);
	at_point("workq.take", run_all, NULL);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 0);
	cr_assert_eq(runs, SLOTS);
	finish(SLOTS);
}

static char name[16];

static void look_at_name(void *arg)
{
	CHECK(pthread_getname_np(pthread_self(), name, sizeof(name)) == 0);
	run_it(arg);
}

Test(run, workers_of_a_queues_own_pool_have_its_name)
{
	open_managed(1);
	enqueue(look_at_name, 0);
	finish(1);
	cr_assert_str_eq(name, "cq-cleanup");
}

/* ------------------------------------------------------- callbacks that end their thread */

/*
 * AddressSanitizer doesn't see how a cancellation leaves the frames of a stack (as it
 * sees it of pthread_exit), and would take the next use of that memory for an overflow.
 */
void __asan_handle_no_return(void) __attribute__((weak));

static void end_thread(void *arg)
{
	run_it(arg);
	pthread_exit(NULL);
}

static void cancel_thread(void *arg)
{
	int old;

	run_it(arg);
	if (__asan_handle_no_return != NULL)
		__asan_handle_no_return();
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	pthread_cancel(pthread_self());
	pthread_testcancel();
	CHECK(false);
}

/* Block after block with a callback that ends its thread, at each place in turn. */
static void costs_nothing_but_threads(cq_callback_fn *end)
{
	enum { BLOCKS = 24 };

	open_really(1);
	for (unsigned i = 0; i < BLOCKS * SLOTS; i++) {
		enqueue(i % SLOTS == i / SLOTS % SLOTS ? end : run_it, i);
		if (i % (8 * SLOTS) == 0)
			cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	}
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert(each_once(BLOCKS * SLOTS));
	cr_assert_eq(stats().executed, BLOCKS * SLOTS);
	AWAIT(pool_stats().workers_retired == BLOCKS);
	cr_assert_leq(pool_stats().workers_live, 1);
	finish(BLOCKS * SLOTS);
}

Test(run, a_callback_that_ends_its_thread_costs_no_other_callback)
{
	costs_nothing_but_threads(end_thread);
}

Test(run, a_callback_whose_thread_is_cancelled_costs_no_other_callback)
{
	costs_nothing_but_threads(cancel_thread);
}

static void stay_and_end_thread(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	end_thread(arg);
}

static void *drain(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	return unused;
}

static void *shut_down(void *how)
{
	CHECK(cq_cleanup_shutdown(q, *(const cq_shutdown_how_t *)how, CQ_FOREVER, take_back, NULL) == 0);
	return NULL;
}

/* The second callback of a block ends its thread while `wait` waits: what is left is in nobody's hand then. */
static void end_while_another(void *(*wait)(void *), cq_shutdown_how_t how)
{
	pthread_t waiter;

	open_managed(1);
	put(p, 0, 1);
	enqueue(stay_and_end_thread, 1);
	put(p, 2, SLOTS - 2);
	AWAIT(room.inside == 1);
	waiter = start(wait, &how);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(waiter);
	cr_assert(each_once(SLOTS));
	cr_assert_eq(stats().executed + stats().handed_back, SLOTS);
}

Test(run, a_drain_goes_on_when_a_callback_ends_its_thread)
{
	end_while_another(drain, CQ_SHUTDOWN_DRAIN);
	finish(SLOTS);
}

Test(run, a_shutdown_that_drains_goes_on_when_a_callback_ends_its_thread)
{
	end_while_another(shut_down, CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(given_back, 0);
	finish(SLOTS);
}

Test(run, a_shutdown_that_hands_back_gets_what_an_ended_thread_has_left)
{
	end_while_another(shut_down, CQ_SHUTDOWN_HAND_BACK);
	cr_assert_eq(given_back, SLOTS - 2);
	cr_assert_eq(stats().handed_back, SLOTS - 2);
	finish(SLOTS);
}

/* Run as a callback within another one. */
static void stay_and_run_others(void *arg)
{
	run_it(arg);
	room.inside++;
	gate_wait(&room.leave);
	while (cq_cleanup_run_some(q, 1) != 0)
		;
}

Test(run, a_callback_within_a_run_some_of_a_callback_ends_both_and_costs_no_other)
{
	for (unsigned i = 0; i < 20; i++) {
		open_managed(1);
		enqueue(stay_and_run_others, 0);
		put(p, 1, SLOTS - 1);
		AWAIT(room.inside == i + 1);
		enqueue(end_thread, SLOTS);
		put(p, SLOTS + 1, SLOTS - 1);
		gate_open(&room.leave);
		cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
		cr_assert(each_once(2 * SLOTS));
		fake_wait_blocked(&park, 1);
		cr_assert_eq(pool_stats().workers_running, 0);
		AWAIT(pool_stats().workers_retired == 1);
		finish(2 * SLOTS);
		room.leave.open = false;
		runs = 0;
		memset(ran, 0, sizeof(ran));
	}
}

static atomic_int child; /* the process; 0 in the child itself */

static void fork_and_end_thread(void *arg)
{
	run_it(arg);
	child = fork();
	CHECK(child >= 0);
	if (child != 0)
		return;
	alarm(30);
	pthread_exit(NULL);
}

static void end_child(void *arg)
{
	run_it(arg);
	if (child == 0)
		_exit(each_once(SLOTS) && stats().executed == 1 ? 0 : 1); /* the rest is not over */
}

static int status_of(pid_t process)
{
	int status = -1;

	CHECK(waitpid(process, &status, 0) == process);
	return status;
}

Test(run, in_a_child_a_callback_may_end_the_thread_that_has_forked)
{
	open_really(1);
	enqueue(fork_and_end_thread, 0);
	put(p, 1, SLOTS - 2);
	enqueue(end_child, SLOTS - 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(status_of(child), 0);
	finish(SLOTS);
}

/* --------------------------------------------------------------------------- run_some */

Test(run, run_some_keeps_to_its_budget_and_what_a_block_has_left_goes_back)
{
	make();
	put(p, 0, SLOTS + 3);
	flush(NULL);
	cr_assert_eq(cq_cleanup_run_some(q, 0), 0);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(waiting(), 2);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS); /* of both blocks */
	cr_assert_eq(stats().executed, SLOTS + 1);
	cr_assert_eq(waiting(), 1);
	cr_assert_eq(cq_cleanup_run_some(q, 100), 2);
	cr_assert_eq(cq_cleanup_run_some(q, 100), 0);
	cr_assert_eq(waiting(), 0);
	finish(SLOTS + 3);
}

Test(run, what_a_budget_has_left_is_handed_back)
{
	make();
	put(p, 0, SLOTS + 3);
	cr_assert_eq(cq_cleanup_run_some(q, 3), 3);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert_eq(given_back, SLOTS);
	finish(SLOTS + 3);
}

static gate_t taken = GATE_INITIALIZER;

/* The only worker was on the way for the block that is in the caller's hand. */
static void let_the_worker_find_nothing(void *arg)
{
	gate_open(&taken);
	fake_wait_blocked(&park, 1);
	run_it(arg);
}

Test(run, what_a_budget_has_left_wakes_a_worker)
{
	open_managed(1);
	at_point("tasks.begin", gate_wait, &taken);
	enqueue(let_the_worker_find_nothing, 0);
	put(p, 1, SLOTS - 1);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 2);
	AWAIT(runs == SLOTS);
	finish(SLOTS);
}

static void run_two_more(void *arg)
{
	CHECK(cq_cleanup_run_some(q, 2) == 2);
	run_it(arg);
}

Test(run, a_run_some_in_a_callback_has_a_budget_of_its_own)
{
	make();
	put(p, 0, SLOTS);
	enqueue(run_two_more, SLOTS); /* in the newer block, which is run first */
	put(p, SLOTS + 1, SLOTS - 1);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 2);
	cr_assert_eq(runs, 4);
	cr_assert_eq(cq_cleanup_run_some(q, 100), 2 * SLOTS - 4);
	finish(2 * SLOTS);
}

static void run_one_more(void *arg)
{
	CHECK(cq_cleanup_run_some(q, 1) <= 1);
	run_it(arg);
}

Test(run, a_run_some_in_a_workers_callback_limits_no_run_after_it)
{
	open_managed(1);
	enqueue(run_one_more, 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(runs == 1);
	put(p, 1, SLOTS); /* for the same worker */
	AWAIT(runs == 1 + SLOTS);
	cr_assert_eq(pool_stats().workers_created, 1);
	finish(1 + SLOTS);
}

/* What runs within by other ways: a block of the pool's, and another queue on it. */
static void run_others(void *other)
{
	CHECK(cq_cleanup_run_some(other, 100) == SLOTS);
	CHECK(cq_pool_run_some(cq_cleanup_pool(q), 1) == 1);
	CHECK(runs == 2 * SLOTS);
	run_it((void *)0);
}

Test(run, what_other_calls_run_in_a_callback_is_not_in_the_budget)
{
	cq_pool_config_t config = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };
	cq_cleanup_t *other;
	cq_pool_t *pool;

	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	make_with((cq_cleanup_config_t){ .pool = pool }, config);
	put(p, 1, SLOTS);
	cq_producer_detach(p);
	other = q;
	make_with((cq_cleanup_config_t){ .pool = pool }, config);
	put(p, 1 + SLOTS, SLOTS);
	CHECK(cq_producer_enqueue(p, run_others, other) == 0);
	put(p, 1 + 2 * SLOTS, SLOTS - 1);
	cr_assert_eq(cq_cleanup_run_some(q, 3), 3);
	cr_assert_eq(runs, 2 * SLOTS + 3);
	cr_assert_eq(cq_cleanup_run_some(q, 100), SLOTS - 3);
	cr_assert_eq(cq_cleanup_shutdown(other, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(other), 0);
	finish(3 * SLOTS);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

/* -------------------------------------------------------- what a callback may not wait for */

static atomic_uint refused;
static cq_cleanup_t *beside; /* a queue on the same pool */

static void wait_for_my_pool(void *arg)
{
	cq_cleanup_t *const both[] = { q, beside };

	for (int i = 0; i < 2; i++) {
		refused += cq_cleanup_drain(both[i], CQ_FOREVER) == EDEADLK;
		refused += cq_cleanup_shutdown(both[i], CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == EDEADLK;
		refused += cq_cleanup_shutdown(both[i], CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) ==
		    EDEADLK;
		refused += cq_cleanup_destroy(both[i]) == EDEADLK;
	}
	run_it(arg);
}

static void run_one_and_wait(void *arg)
{
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	wait_for_my_pool(arg); /* it is still inside of this one */
}

Test(run, a_callback_may_not_wait_for_its_own_pool_wherever_it_runs)
{
	cq_cleanup_config_t config = { 0 };

	open_managed(1);
	config.pool = cq_cleanup_pool(q);
	cr_assert_eq(cq_cleanup_create(&config, &beside), 0);
	enqueue(wait_for_my_pool, 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(runs == 1);
	cr_assert_eq(refused, 8);
	at_point("tasks.begin", gate_wait, &taken); /* the worker lets the caller be faster */
	enqueue(wait_for_my_pool, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	enqueue(run_one_and_wait, 2);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 1); /* the other one within it */
	gate_open(&taken);
	cr_assert_eq(refused, 24);
	cr_assert_eq(cq_cleanup_destroy(beside), 0);
	finish(3);
}

static void end_a_queue_of_another_pool(void *arg)
{
	cq_cleanup_t *another;

	CHECK(cq_cleanup_create(NULL, &another) == 0);
	CHECK(cq_cleanup_drain(another, CQ_FOREVER) == 0);
	CHECK(cq_cleanup_shutdown(another, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(another) == 0);
	run_it(arg);
}

Test(run, a_callback_may_end_a_queue_of_another_pool)
{
	open_managed(1);
	enqueue(end_a_queue_of_another_pool, 0);
	finish(1);
}

/* ------------------------------------------------------------- threads and processes that end */

static atomic_uint ends;
static gate_t may_end = GATE_INITIALIZER;

static void end_slowly(void *unused)
{
	(void)unused;
	gate_wait(&may_end);
	ends++;
}

Test(run, a_shutdown_waits_for_worker_end_until_its_deadline)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_min = 2, .workers_max = 2,
	    .worker_end = end_slowly });
	put(p, 0, SLOTS);
	AWAIT(runs == SLOTS);
	fake_advance(&park, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 1, NULL, NULL), ETIMEDOUT);
	gate_open(&may_end);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(ends, 2);
	cr_assert_eq(pool_stats().workers_live, 0);
	finish(SLOTS);
}

/* It has been cancelled, and nobody wakes it. */
static void *drain_and_test(void *result)
{
	CHECK(pthread_cancel(pthread_self()) == 0);
	*(int *)result = cq_cleanup_drain(q, cq_deadline_in(300000000)); /* it comes to park */
	pthread_testcancel();
	CHECK(false);
	return result;
}

Test(run, a_thread_that_is_cancelled_in_a_drain_leaves_it_first)
{
	int result = -1;

	open_really(1);
	enqueue(stay, 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(join(start(drain_and_test, &result)), PTHREAD_CANCELED);
	cr_assert_eq(result, ETIMEDOUT);
	gate_open(&room.leave);
	finish(1);
}

static void shut_down_and_destroy(void)
{
	bool inside = room.leave.open;

	cq_producer_detach(p);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == (inside ? EDEADLK : 0));
	CHECK(cq_cleanup_destroy(q) == (inside ? EDEADLK : 0));
}

static void stay_and_exit(void *arg)
{
	stay(arg);
	exit(0);
}

/* A process with a worker inside of the first callback, and one that has run the others. */
static pid_t fork_busy(void (*at_exit)(void))
{
	pid_t process = fork();

	CHECK(process >= 0);
	if (process != 0)
		return process;
	alarm(30);
	if (at_exit != NULL)
		atexit(at_exit);
	open_really(2);
	enqueue(stay_and_exit, 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(room.inside == 1);
	put(p, 1, SLOTS);
	AWAIT(runs == SLOTS);
	return 0;
}

Test(run, a_process_exits_whatever_callbacks_run)
{
	pid_t process = fork_busy(NULL);

	if (process == 0)
		exit(0);
	cr_assert_eq(status_of(process), 0);
}

Test(run, a_callback_may_exit_and_handlers_are_refused_to_wait_for_it)
{
	pid_t process = fork_busy(shut_down_and_destroy);

	if (process == 0) {
		gate_open(&room.leave);
		pause();
	}
	cr_assert_eq(status_of(process), 0);
}

/* ----------------------------------------------------------------- the same for all pools */

enum { PRODUCERS = 3, EACH = 1500, BUDGET = 5 };

static atomic_bool served;
static atomic_uint next_callback;

static void have_a_child(void *arg)
{
	cq_producer_t *mine;

	CHECK(cq_producer_attach(q, run_it, &mine) == 0);
	CHECK(cq_producer_put(mine, (void *)(uintptr_t)next_callback++) == 0);
	cq_producer_detach(mine);
	run_it(arg);
}

static void produce(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;

	for (unsigned i = 0; i < EACH; ) {
		CHECK(cq_producer_attach(q, rng_below(&r, 2) != 0 ? run_it : NULL, &mine) == 0);
		for (uint64_t n = 1 + rng_below(&r, 200); n > 0 && i < EACH; n--, i++) {
			if (mine->fn == NULL && rng_below(&r, 8) == 0)
				CHECK(cq_producer_enqueue(mine, have_a_child,
				    (void *)(uintptr_t)next_callback++) == 0);
			else
				CHECK(try_put(mine, next_callback++) == 0);
			if (rng_below(&r, 50) == 0)
				CHECK(cq_producer_flush(mine) == 0);
		}
		cq_producer_detach(mine);
	}
	(void)unused;
}

/* The host's threads may not have come yet, or be between two calls. */
static void drain_all(void)
{
	int err;

	while ((err = cq_cleanup_drain(q, CQ_FOREVER)) == EAGAIN)
		sched_yield();
	CHECK(err == 0);
}

static void *poll(void *unused)
{
	while (served) {
		CHECK(cq_cleanup_run_some(q, BUDGET) <= BUDGET);
		sched_yield();
	}
	return unused;
}

static void *ask(void *unused)
{
	while (served) {
		if (cq_pool_needs_wake(cq_cleanup_pool(q)))
			CHECK(cq_pool_wake(cq_cleanup_pool(q)) == 0);
		sched_yield();
	}
	return unused;
}

static void *lend(void *unused)
{
	CHECK(cq_pool_work(cq_cleanup_pool(q), NULL, CQ_FOREVER) == 0);
	return unused;
}

static struct spawned {
	void (*body)(void *arg);
	void *arg;
	pthread_t thread;
} spawned[8];
static atomic_uint nspawned;

static void *be_worker(void *arg)
{
	struct spawned *s = arg;

	s->body(s->arg);
	return NULL;
}

static int spawn(void *unused, void (*body)(void *arg), void *arg)
{
	struct spawned *s = &spawned[nspawned++];

	(void)unused;
	CHECK(s < spawned + 8);
	*s = (struct spawned){ .body = body, .arg = arg };
	s->thread = start(be_worker, s);
	return 0;
}

/* Two threads of the host's in `serve`, or none. Once all have run, what comes then is handed back. */
static void conforms(cq_pool_config_t config, void *(*serve)(void *))
{
	pthread_t threads[2];
	cq_producer_t *last;

	config.workers_max = 3;
	config.park = cq_park_default();
	make_with((cq_cleanup_config_t){ 0 }, config);
	served = true;
	for (int i = 0; serve != NULL && i < 2; i++)
		threads[i] = start(serve, NULL);
	AWAIT(serve != lend || pool_stats().workers_live == 2);
	run_threads(PRODUCERS, produce, NULL);
	do
		drain_all();
	while (runs < next_callback);
	cr_assert(each_once(next_callback));
	cr_assert_eq(stats().executed, next_callback);

	CHECK(cq_producer_attach(q, run_it, &last) == 0);
	put(last, next_callback, 100);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert(each_once(next_callback + 100));
	cr_assert_eq(stats().handed_back, given_back);
	cq_producer_detach(last);
	cq_producer_detach(p);
	served = false;
	for (int i = 0; serve != NULL && serve != lend && i < 2; i++)
		join(threads[i]);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	for (int i = 0; serve == lend && i < 2; i++)
		join(threads[i]);
	for (unsigned i = 0; i < nspawned; i++)
		join(spawned[i].thread);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(run, conforms_when_the_library_makes_the_workers)
{
	conforms((cq_pool_config_t){ 0 }, NULL);
}

Test(run, conforms_when_the_host_makes_the_workers)
{
	conforms((cq_pool_config_t){ .spawn = spawn }, NULL);
}

Test(run, conforms_when_threads_are_lent)
{
	conforms((cq_pool_config_t){ .flags = CQ_POOL_HOSTED }, lend);
}

Test(run, conforms_when_the_host_asks_and_wakes)
{
	conforms((cq_pool_config_t){ .flags = CQ_POOL_POLLED }, ask);
}

Test(run, conforms_when_the_host_polls)
{
	conforms((cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED }, poll);
}

/* ------------------------------------------------- the pool of a queue that is shut down */

static pthread_key_t key;
static atomic_bool returned;
static atomic_uint destroyed;

/* Long enough to be seen by a shutdown that doesn't wait for it. */
static void destroy_slowly(void *unused)
{
	(void)unused;
	for (int i = 0; i < 1000 && !returned; i++)
		sched_yield();
	destroyed++;
}

static void set_value(void *arg)
{
	CHECK(pthread_setspecific(key, &key) == 0);
	run_it(arg);
}

Test(run, a_shutdown_waits_for_the_destructors_of_its_workers_threads)
{
	cr_assert_eq(pthread_key_create(&key, destroy_slowly), 0);
	open_really(1);
	enqueue(set_value, 0);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	returned = true;
	cr_assert_eq(destroyed, 1);
	finish(1);
	pthread_key_delete(key);
}

Test(run, new_limits_make_nobody_once_the_queue_is_shut_down)
{
	open_managed(1);
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_pool_set_workers(cq_cleanup_pool(q), 2, 3), ESHUTDOWN);
	cr_assert_eq(pool_stats().workers_max, 3);
	cr_assert_eq(pool_stats().workers_live, 0);
	finish(SLOTS);
}

/* Nor would those that come again at once ever let the shutdown see none. */
Test(run, who_lends_itself_once_the_queue_is_shut_down_is_no_worker)
{
	make();
	put(p, 0, SLOTS);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_pool_work(cq_cleanup_pool(q), NULL, CQ_FOREVER), 0);
	cr_assert_eq(pool_stats().workers_peak, 0);
	finish(SLOTS);
}
