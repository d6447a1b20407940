/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() among the fork handlers of others. A handler that was registered before the first
 * queue was made runs while the forking thread holds the queue's locks. A check that
 * fails in the child aborts it, and the parent sees that.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup/producer.h"
#include "support.h"

TestSuite(atfork, .timeout = 60);

enum { SLOTS = 4 };

static cq_cleanup_t *q;
static cq_producer_t *p, *second;
static cq_worker_t *w;
static atomic_uint ran;

static void count(void *unused)
{
	(void)unused;
	ran++;
}

static void take_back(void *unused, cq_callback_fn *fn, void *arg)
{
	(void)unused;
	fn(arg);
}

/* What the handlers of another library do; nothing by default. */
static void (*in_prepare)(void), (*in_parent)(void), (*in_child)(void);

static void call(void (**hook)(void))
{
	if (*hook != NULL)
		(*hook)();
}

static void prepare(void) { call(&in_prepare); }
static void parent(void) { call(&in_parent); }
static void child(void) { call(&in_child); }

static void register_others(void)
{
	CHECK(pthread_atfork(prepare, parent, child) == 0);
}

static void make(unsigned flags)
{
	cq_cleanup_config_t config = { .flags = flags, .max_workers = 1,
		.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t) };

	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, &p) == 0);
	CHECK(cq_producer_attach(q, &second) == 0);
}

static void make_after_others(void)
{
	register_others();
	make(0);
}

static void make_before_others(void)
{
	make(0);
	register_others();
}

static void put(cq_producer_t *to, unsigned n)
{
	while (n-- > 0)
		CHECK(cq_producer_enqueue(to, count, NULL) == 0);
}

static void end_queue(unsigned want)
{
	cq_producer_detach(p);
	cq_producer_detach(second);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	CHECK(ran == want);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
}

static void check_child(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Forks, and ends the queue in both: `want` callbacks have run by then, or want_in_child. */
static void fork_and_end(unsigned want, unsigned want_in_child)
{
	pid_t pid;

	alarm(30); /* for a hang in a handler */
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		alarm(30);
		end_queue(want_in_child);
		_exit(0);
	}
	end_queue(want);
	check_child(pid);
}

/* ------------------------------------------------------- between prepare and its end */

static void every_call_that_needs_a_lock_says_so(void)
{
	cq_cleanup_t *other;
	cq_producer_t *producer;
	cq_worker_t *worker;
	cq_callback_t *slots;
	size_t n;

	CHECK(cq_cleanup_create(NULL, &other) == EDEADLK);
	CHECK(cq_producer_attach(q, &producer) == EDEADLK);
	CHECK(cq_worker_attach(q, NULL, &worker) == EDEADLK);
	CHECK(cq_producer_enqueue(second, count, NULL) == EDEADLK);
	CHECK(cq_producer_span(second, &slots, &n) == EDEADLK);
	CHECK(cq_producer_reserve(p, 100) == EDEADLK);
	CHECK(cq_producer_flush(p) == EDEADLK);
	CHECK(cq_cleanup_flush_all(q) == EDEADLK);
	CHECK(cq_cleanup_wake(q) == EDEADLK);
	CHECK(cq_cleanup_work(q) == EDEADLK);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == EDEADLK);
	CHECK(cq_cleanup_trim(q, &n) == EDEADLK);
	CHECK(cq_cleanup_destroy(q) == EDEADLK);
	CHECK(cq_cleanup_run_some(q, 1) == 0);
	CHECK(cq_worker_try_dequeue(w) == NULL);
	CHECK(cq_worker_dequeue(w) == NULL);
}

static void statistics_go_on(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	CHECK(s.producers == 2);
	CHECK(cq_cleanup_units(q) == s.blocks_waiting);
	CHECK(!cq_cleanup_stalled(q));
	(void)cq_cleanup_needs_wake(q);
}

static void refused(void)
{
	every_call_that_needs_a_lock_says_so();
	statistics_go_on();
}

static void fork_with_a_handle(void (*handler)(void))
{
	in_prepare = in_parent = in_child = handler;
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	put(p, 1);
}

static void end_with_a_handle(void)
{
	pid_t pid;

	alarm(30); /* for a hang in a handler */
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		alarm(30);
		end_queue(1);
		_exit(0);
	}
	cq_worker_detach(w);
	end_queue(1);
	check_child(pid);
}

Test(atfork, earlier_handlers_are_refused_what_needs_a_lock, .init = make_after_others)
{
	fork_with_a_handle(refused);
	end_with_a_handle();
}

static void enqueue_two(void)
{
	put(p, 2);
}

/* In prepare: they are accepted once, and are in both processes. */
Test(atfork, what_earlier_handlers_enqueue_into_a_block_runs_in_each_process, .init = make_after_others)
{
	in_prepare = enqueue_two;
	put(p, 1);
	fork_and_end(3, 3);
}

static void fill_the_block(void)
{
	put(p, SLOTS - 1);
}

static void put_one(void)
{
	put(p, 1);
}

static gate_t begun = GATE_INITIALIZER, let = GATE_INITIALIZER;

static void count_when_let(void *arg)
{
	gate_open(&begun);
	gate_wait(&let);
	count(arg);
}

/* Without a flush: the worker sleeps, so it is the producer that hands over. */
Test(atfork, what_an_earlier_handler_enqueues_is_handed_over_in_the_parent)
{
	pid_t pid;

	register_others();
	make(CQ_HANDOVER);
	CHECK(cq_producer_enqueue(p, count_when_let, NULL) == 0);
	gate_wait(&begun);
	put(p, 1); /* the worker takes it from the block, which stays open */
	gate_open(&let);
	AWAIT(ran == 2);
	AWAIT(q->idle.asleep != 0);
	cr_assert_not_null(p->block);
	in_prepare = put_one;
	alarm(30);
	if ((pid = fork()) == 0)
		_exit(0);
	AWAIT(ran == 3);
	end_queue(3);
	check_child(pid);
}

/* The parent's workers get it, with no other call. In the child it waits for the next. */
Test(atfork, a_block_that_an_earlier_handler_fills_is_run, .init = make_after_others)
{
	pid_t pid;

	in_parent = in_child = fill_the_block;
	put(p, 1);
	alarm(30);
	if ((pid = fork()) == 0) {
		alarm(30);
		CHECK(cq_cleanup_units(q) == 1);
		end_queue(SLOTS);
		_exit(0);
	}
	AWAIT(ran == SLOTS);
	end_queue(SLOTS);
	check_child(pid);
}

static void detach_second(void)
{
	cq_producer_detach(second);
	second = NULL;
}

Test(atfork, earlier_handlers_may_detach_a_producer, .init = make_after_others)
{
	in_parent = in_child = detach_second;
	put(second, 2);
	fork_and_end(2, 2);
}

Test(atfork, earlier_handlers_may_detach_a_producer_in_prepare, .init = make_after_others)
{
	in_prepare = detach_second;
	put(second, 2);
	fork_and_end(2, 2);
}

Test(atfork, what_an_earlier_handler_detaches_is_in_a_polled_queue_of_each_process)
{
	pid_t pid;

	register_others();
	make(CQ_POLLED);
	in_prepare = detach_second;
	put(second, 2);
	alarm(30);
	pid = fork();
	CHECK(pid >= 0);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 2);
	end_queue(2);
	if (pid == 0)
		_exit(0);
	check_child(pid);
}

static void detach_the_handle(void)
{
	cq_worker_detach(w);
}

Test(atfork, a_handle_that_an_earlier_handler_detaches_is_gone_in_the_parent, .init = make_after_others)
{
	cq_cleanup_stats_t s;
	pid_t pid;

	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	in_prepare = detach_the_handle;
	alarm(30);
	if ((pid = fork()) == 0) {
		end_queue(0);
		_exit(0);
	}
	cq_cleanup_stats(q, &s);
	cr_assert_eq(s.workers_live, 0);
	end_queue(0);
	check_child(pid);
}

static unsigned forks;

static void fork_once_more(void)
{
	if (forks++ != 0)
		return;
	CHECK(fork() >= 0);
	CHECK(cq_producer_flush(p) == EDEADLK); /* the outer fork goes on */
}

/* Each process that there is then ends the queue, and sees its children do so. */
static void fork_in(void (**handler)(void))
{
	pid_t me = getpid();
	int status;

	*handler = fork_once_more;
	put(p, SLOTS);
	AWAIT(ran == SLOTS); /* there is a worker, in this process */
	put(p, SLOTS - 1);
	alarm(30);
	CHECK(fork() >= 0);
	alarm(30);
	end_queue(2 * SLOTS - 1);
	while (wait(&status) > 0)
		CHECK(status == 0);
	CHECK(errno == ECHILD);
	if (getpid() != me)
		_exit(0);
}

/* The inner child makes the outer fork as well, and is the parent of one. */
Test(atfork, an_earlier_prepare_handler_may_fork, .init = make_after_others)
{
	fork_in(&in_prepare);
}

Test(atfork, an_earlier_parent_handler_may_fork, .init = make_after_others)
{
	fork_in(&in_parent);
}

Test(atfork, an_earlier_child_handler_may_fork, .init = make_after_others)
{
	fork_in(&in_child);
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
		CHECK(cq_producer_attach(q, &mine) == 0);
		cq_producer_detach(mine);
		pthread_mutex_unlock(&lock);
		turn();
	}
	return unused;
}

/* The recipe of cq/cleanup.h: the handlers of a lock under which the queue is called come later. */
Test(atfork, a_lock_whose_handlers_are_registered_later_is_taken_first, .init = make_before_others)
{
	pthread_t user;

	in_prepare = take_lock;
	in_parent = in_child = give_lock;
	user = start(use_the_queue_under_the_lock, NULL);
	alarm(60);
	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0)
			_exit(0);
		check_child(pid);
	}
	stop = true;
	join(user);
}

static void use_everything(void)
{
	size_t freed;

	put(second, 1);
	CHECK(cq_producer_flush(second) == 0);
	CHECK(cq_cleanup_flush_all(q) == 0);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	(void)cq_cleanup_trim(q, &freed);
}

Test(atfork, later_handlers_may_call_anything, .init = make_before_others)
{
	in_prepare = in_parent = in_child = use_everything;
	fork_and_end(2, 2);
}

static void *fork_some(void *unused)
{
	for (int i = 0; i < 50; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0) {
			alarm(30);
			_exit(cq_cleanup_drain(q, wait_limit()));
		}
		check_child(pid);
	}
	return unused;
}

Test(atfork, two_threads_may_fork_at_once, .init = make_before_others)
{
	pthread_t other = start(fork_some, NULL);

	put(p, SLOTS + 1);
	fork_some(NULL);
	join(other);
	end_queue(SLOTS + 1);
}

static bool twice;

/* As two threads do that make the first queues at once. */
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
	if (strcmp(cq_build_info()->park, "condvar") == 0)
		cr_skip("the handlers of this build's parking would be there twice too");
	twice = true;
	make(0);
	put(p, SLOTS + 1);
	fork_and_end(SLOTS + 1, SLOTS + 1);
}

/* ------------------------------------------------------------------------- by hand */

static void make_by_hand(void)
{
	make(CQ_NO_ATFORK);
}

Test(atfork, between_prepare_and_parent_by_hand_that_queue_alone_refuses, .init = make_by_hand)
{
	cq_cleanup_t *other;

	cr_assert_eq(cq_cleanup_create(NULL, &other), 0);
	put(p, 1);
	cq_cleanup_fork_prepare(q);
	cq_cleanup_fork_prepare(q); /* a fork within */
	cr_assert_eq(cq_producer_flush(p), EDEADLK);
	cr_assert_eq(cq_cleanup_drain(other, 0), 0);
	cr_assert_eq(cq_cleanup_destroy(other), 0);
	cq_cleanup_fork_parent(q);
	cr_assert_eq(cq_producer_flush(p), EDEADLK);
	cq_cleanup_fork_parent(q);
	cr_assert_eq(cq_producer_flush(p), 0);
	end_queue(1);
}

Test(atfork, by_hand_a_queue_with_handlers_is_left_to_them, .init = make_before_others)
{
	put(p, 1);
	cq_cleanup_fork_prepare(q);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(ran == 1);
	cq_cleanup_fork_child(q);
	cq_cleanup_fork_parent(q);
	end_queue(1);
}
