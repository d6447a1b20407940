/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() among the fork handlers of others. A handler that was registered before the first
 * pool was made runs while the forking thread holds the locks of pools and queues. A check that
 * fails in the child aborts it, and the parent sees that.
 */
#include <criterion/criterion.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callbacks.h"

TestSuite(atfork, .timeout = 60);

static cq_producer_t *second;

/* What the handlers of another library do; nothing by default. */
static void (*in_prepare)(void), (*in_parent)(void), (*in_child)(void);

static void call(void (*hook)(void))
{
	if (hook != NULL)
		hook();
}

static void prepare(void) { call(in_prepare); }
static void parent(void) { call(in_parent); }
static void child(void) { call(in_child); }

static void register_others(void)
{
	CHECK(pthread_atfork(prepare, parent, child) == 0);
}

/* All is on one processor: a shared producer that was there is found again. */
uint32_t __wrap_cq_cpu(void);
uint32_t __wrap_cq_cpu(void)
{
	return 0;
}

/* Not on the fake park: its condition counts waiters that a child doesn't have. */
static void make_on(unsigned flags)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = flags, .workers_max = 1,
	    .idle_ns = CQ_FOREVER, .park = cq_park_default() });
	CHECK(cq_producer_attach(q, NULL, &second) == 0);
}

static void make_after_others(void)
{
	register_others();
	make_on(0);
}

static void make_before_others(void)
{
	make_on(0);
	register_others();
}

/* 0 .. want-1 have run in this process, once. */
static void end_queue(unsigned want)
{
	cq_producer_detach(p);
	cq_producer_detach(second);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	CHECK(each_once(want));
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
}

static pid_t forked(void)
{
	pid_t pid;

	alarm(30); /* for a hang in a handler */
	pid = fork();
	CHECK(pid >= 0);
	return pid;
}

static void check_child(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Ends the queue in both. */
static void end_both(pid_t pid, unsigned want)
{
	end_queue(want);
	if (pid == 0)
		_exit(0);
	check_child(pid);
}

/* ------------------------------------------------------- between prepare and its end */

static void what_needs_a_lock_is_refused(void)
{
	const cq_cleanup_config_t on_its_pool = { .pool = cq_cleanup_pool(q) };
	cq_cleanup_t *other;
	cq_producer_t *producer;
	cq_callback_t *slots;
	size_t n;

	CHECK(cq_cleanup_create(NULL, &other) == EDEADLK);
	CHECK(cq_cleanup_create(&on_its_pool, &other) == EDEADLK);
	CHECK(cq_producer_attach(q, NULL, &producer) == EDEADLK);
	CHECK(cq_producer_enqueue(second, run_it, NULL) == EDEADLK); /* it has no open block */
	CHECK(cq_cleanup_enqueue(q, run_it, NULL) == EDEADLK); /* nor has the queue a producer for it */
	CHECK(cq_producer_span(second, &slots, &n) == EDEADLK);
	CHECK(cq_producer_reserve(p, 100) == EDEADLK);
	CHECK(cq_producer_flush(p) == EDEADLK);
	CHECK(cq_cleanup_flush(q) == EDEADLK);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK);
	CHECK(cq_cleanup_wait_for_room(q, CQ_FOREVER) == EDEADLK);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == EDEADLK);
	CHECK(cq_cleanup_trim(q, &n) == EDEADLK);
	CHECK(cq_cleanup_destroy(q) == EDEADLK);
	CHECK(cq_cleanup_run_some(q, 1) == 0);
	CHECK(stats().producers == 2 && stats().queued == 1); /* statistics go on */
}

Test(atfork, earlier_handlers_are_refused_what_needs_a_lock, .init = make_after_others)
{
	in_prepare = in_parent = in_child = what_needs_a_lock_is_refused;
	put(p, 0, 1);
	end_both(forked(), 1);
}

static void put_two(void)
{
	put(p, 1, 2);
}

/* In prepare: they are accepted once, and are in both processes. */
Test(atfork, what_earlier_handlers_enqueue_into_a_block_runs_in_each_process, .init = make_after_others)
{
	in_prepare = put_two;
	put(p, 0, 1);
	end_both(forked(), 3);
}

static void put_one_more(void)
{
	put(p, 1, 1);
}

/* The clock is none of what a handler may touch: it is made up for. */
Test(atfork, what_an_earlier_handler_enqueues_is_published_by_time)
{
	int status;
	pid_t pid;

	register_others();
	make_with((cq_cleanup_config_t){ .flush_ns = CQ_FLUSH_NS_MIN },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
	put(p, 0, 1);
	for (unsigned i = 0; i < 3; i++) {
		fake_advance(&park, CQ_FLUSH_NS_MIN);
		cq_pool_run_some(cq_cleanup_pool(q), 1);
	}
	cr_assert_eq(q->ticking, 0);
	in_prepare = put_one_more;
	pid = forked();
	fake_advance(&park, CQ_FLUSH_NS_MIN);
	cq_pool_run_some(cq_cleanup_pool(q), 1);
	CHECK(runs == (pid != 0 ? 2 : 1));
	finish(2);
	if (pid == 0)
		_exit(0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void share_until_the_block_is_full(void)
{
	for (uintptr_t i = 1; i < SLOTS; i++)
		CHECK(cq_cleanup_enqueue(q, run_it, (void *)i) == 0);
	CHECK(cq_cleanup_enqueue(q, run_it, (void *)SLOTS) == EDEADLK);
}

Test(atfork, earlier_handlers_enqueue_without_a_producer_into_a_block_that_is_open, .init = make_after_others)
{
	in_parent = in_child = share_until_the_block_is_full;
	cr_assert_eq(cq_cleanup_enqueue(q, run_it, NULL), 0);
	end_both(forked(), SLOTS);
}

static void fill_the_block(void)
{
	put(p, 1, SLOTS - 1);
}

/* The parent's workers get it, with no other call. In the child it waits for the next. */
Test(atfork, a_block_that_an_earlier_handler_fills_is_run, .init = make_after_others)
{
	pid_t pid;

	in_parent = in_child = fill_the_block;
	put(p, 0, 1);
	if ((pid = forked()) == 0)
		CHECK(waiting() == 1);
	else
		AWAIT(runs == SLOTS);
	end_both(pid, SLOTS);
}

static void detach_second(void)
{
	cq_producer_detach(second);
	second = NULL;
}

Test(atfork, earlier_handlers_may_detach_a_producer, .init = make_after_others)
{
	in_parent = in_child = detach_second;
	put(second, 0, 2);
	end_both(forked(), 2);
}

Test(atfork, earlier_handlers_may_detach_a_producer_in_prepare, .init = make_after_others)
{
	in_prepare = detach_second;
	put(second, 0, 2);
	end_both(forked(), 2);
}

Test(atfork, what_an_earlier_handler_detaches_is_in_a_polled_queue_of_each_process)
{
	pid_t pid;

	register_others();
	make_on(CQ_POOL_POLLED | CQ_POOL_HOSTED);
	in_prepare = detach_second;
	put(second, 0, 2);
	pid = forked();
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 2);
	end_both(pid, 2);
}

static gate_t begun = GATE_INITIALIZER, let = GATE_INITIALIZER;

static void stuck(void *arg)
{
	gate_open(&begun);
	gate_wait(&let);
	run_it(arg);
}

/* For ever: at the end of a deadline it would look once more. */
static void *hand_back(void *unused)
{
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == 0);
	return unused;
}

static bool shutdown_sleeps(void)
{
	bool sleeps;

	pthread_mutex_lock(&q->drains.lock);
	sleeps = q->drains.newest != NULL;
	pthread_mutex_unlock(&q->drains.lock);
	return sleeps;
}

/* The block that the handler closes is counted, though it is empty: all else is finished before. */
static void let_all_finish(void *unused)
{
	(void)unused;
	gate_open(&let);
	AWAIT(cq_u64_load_relaxed(&q->first.unfinished[0]) + cq_u64_load_relaxed(&q->first.unfinished[1]) == 1);
}

Test(atfork, who_shuts_down_is_woken_for_what_an_earlier_handler_closes, .init = make_after_others)
{
	pthread_t closer;
	pid_t pid;

	put(second, 0, 1);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0); /* which claims it */
	cr_assert_eq(cq_producer_enqueue(p, stuck, (void *)1), 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	gate_wait(&begun);
	closer = start(hand_back, NULL);
	AWAIT(shutdown_sleeps());
	in_prepare = detach_second;
	at_point("producer.counted", let_all_finish, NULL);
	if ((pid = forked()) == 0)
		_exit(0);
	join(closer);
	end_both(pid, 2);
}

static void *run_stuck(void *unused)
{
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	return unused;
}

static void *drain_all(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	return unused;
}

/* In a polled pool nobody else has a worker come for it. */
Test(atfork, who_drains_a_polled_queue_is_woken_for_what_an_earlier_handler_publishes)
{
	pthread_t runner, drainer;
	pid_t pid;

	register_others();
	make_on(CQ_POOL_POLLED);
	cr_assert_eq(cq_producer_enqueue(p, stuck, (void *)0), 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	runner = start(run_stuck, NULL);
	gate_wait(&begun);
	drainer = start(drain_all, NULL);
	AWAIT(shutdown_sleeps());
	put(second, 1, 1);
	in_prepare = detach_second;
	if ((pid = forked()) == 0)
		_exit(0);
	AWAIT(runs == 1);
	gate_open(&let);
	join(runner);
	join(drainer);
	end_both(pid, 2);
}

/* ------------------------------------------------------------- the order of locks */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool stop;

static void take_lock(void) { pthread_mutex_lock(&lock); }
static void give_lock(void) { pthread_mutex_unlock(&lock); }

static void *use_the_queue_under_the_lock(void *unused)
{
	while (!stop) {
		cq_producer_t *mine;

		pthread_mutex_lock(&lock);
		CHECK(cq_producer_attach(q, NULL, &mine) == 0);
		cq_producer_detach(mine);
		pthread_mutex_unlock(&lock);
		turn();
	}
	return unused;
}

/* The recipe of doc/process.md: the handlers of a lock under which the queue is called come later. */
Test(atfork, a_lock_whose_handlers_are_registered_later_is_taken_first, .init = make_before_others)
{
	pthread_t user;

	in_prepare = take_lock;
	in_parent = in_child = give_lock;
	user = start(use_the_queue_under_the_lock, NULL);
	for (int i = 0; i < 100; i++) {
		pid_t pid = forked();

		if (pid == 0)
			_exit(0);
		check_child(pid);
	}
	stop = true;
	join(user);
}

static unsigned used;

static void use_everything(void)
{
	put(second, used++, 1);
	CHECK(cq_producer_flush(second) == 0);
	CHECK(cq_cleanup_flush(q) == 0);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	(void)cq_cleanup_trim(q, NULL);
}

Test(atfork, later_handlers_may_call_anything, .init = make_before_others)
{
	in_prepare = in_parent = in_child = use_everything;
	end_both(forked(), 2);
}

static void *fork_some(void *unused)
{
	for (int i = 0; i < 50; i++) {
		pid_t pid = forked();

		if (pid == 0)
			_exit(cq_cleanup_drain(q, wait_limit()));
		check_child(pid);
	}
	return unused;
}

Test(atfork, two_threads_may_fork_at_once, .init = make_before_others)
{
	pthread_t other = start(fork_some, NULL);

	put(p, 0, SLOTS + 1);
	fork_some(NULL);
	join(other);
	end_queue(SLOTS + 1);
}

/* ------------------------------------------------------------------ twice, and by hand */

static bool twice;

/* As two threads do that make the first pools at once. */
int __real_pthread_atfork(void (*)(void), void (*)(void), void (*)(void));
int __wrap_pthread_atfork(void (*)(void), void (*)(void), void (*)(void));
int __wrap_pthread_atfork(void (*before)(void), void (*in_the_parent)(void), void (*in_the_child)(void))
{
	if (twice)
		CHECK(__real_pthread_atfork(before, in_the_parent, in_the_child) == 0);
	return __real_pthread_atfork(before, in_the_parent, in_the_child);
}

Test(atfork, handlers_that_two_threads_register_are_as_good_as_those_of_one)
{
	twice = true;
	make_on(0);
	put(p, 0, SLOTS + 1);
	end_both(forked(), SLOTS + 1);
}

Test(atfork, by_hand_around_the_handlers_it_is_one_fork, .init = make_before_others)
{
	pid_t pid;

	put(p, 0, 1);
	cq_fork(CQ_FORK_PREPARE);
	CHECK(cq_producer_flush(p) == EDEADLK);
	pid = forked();
	CHECK(cq_producer_flush(p) == EDEADLK);
	cq_fork(pid == 0 ? CQ_FORK_CHILD : CQ_FORK_PARENT);
	CHECK(cq_producer_flush(p) == 0);
	end_both(pid, 1);
}
