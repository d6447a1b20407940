/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork(). The child has its own copy of `ran`, so each process checks for itself
 * that the callbacks which are its business ran once there. A check that fails
 * in the child aborts it, and the parent sees that.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup/producer.h"
#include "support.h"

TestSuite(fork, .timeout = 60);

enum { SLOTS = 4, MANY = 64 };

static test_alloc_t mem;
static fake_park_t park;
static cq_cleanup_t *q;
static cq_producer_t *p;

/* Callback i runs or is handed back: once in all, in each process that has it. */
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
	given_back++;
	fn(arg);
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

/* As most programs do. */
static void make_to_be_forked(cq_cleanup_config_t config)
{
	test_alloc_init(&mem);
	config.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);
	config.allocator = &mem.allocator;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, &p) == 0);
}

/* For forked(), which makes the calls itself. */
static void make_with(cq_cleanup_config_t config)
{
	config.flags |= CQ_NO_ATFORK;
	make_to_be_forked(config);
}

static void make(void)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
}

static void make_managed(void)
{
	make_with((cq_cleanup_config_t){ .max_workers = 1, .idle_ns = CQ_FOREVER });
}

/* The statistics say that as much has run as was queued. */
static void check_sums(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	CHECK(s.executed + s.handed_back == s.queued);
	CHECK(s.blocks_waiting == 0);
}

/* Runs what is left, and ends the queue. */
static void end_queue(void)
{
	cq_producer_detach(p);
	if ((q->config.flags & CQ_POLLED) != 0)
		cq_cleanup_run_some(q, SIZE_MAX);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	check_sums();
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
}

/* Forks; true in the child. */
static bool forked(pid_t *child)
{
	cq_cleanup_fork_prepare(q);
	*child = fork();
	CHECK(*child >= 0);
	if (*child != 0) {
		cq_cleanup_fork_parent(q);
		return false;
	}
	alarm(30);
	fake_init(&park); /* its condition counts waiters that the child doesn't have */
	cq_cleanup_fork_child(q);
	return true;
}

/* The child came to its _exit(0). */
static void check_child(pid_t child)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The same in a child, with a body of its own. */
static void in_child(void (*body)(void))
{
	pid_t child;

	if (forked(&child)) {
		body();
		_exit(0);
	}
	check_child(child);
}

/* ------------------------------------------------------------- what it inherits */

enum { QUEUED = 2 * SLOTS + 1 };

static void run_all_once(void)
{
	end_queue();
	CHECK(each_once(0, QUEUED) && runs == QUEUED);
}

Test(fork, child_runs_what_was_queued_and_so_does_the_parent, .init = make)
{
	put(p, 0, QUEUED);
	in_child(run_all_once);
	cr_assert_eq(runs, 0);
	run_all_once();
}

static void put_more_and_run_all_once(void)
{
	put(p, QUEUED - 1, 1);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	run_all_once();
}

Test(fork, managed_child_makes_workers_of_its_own)
{
	cq_worker_t *w;

	/* The parent's worker is outside the queue, so that nothing runs yet. */
	make_with((cq_cleanup_config_t){ .max_workers = 1, .flags = CQ_POLLED });
	q->config.spawn = cq_threads_spawn;
	q->spawn_host = &q->threads;
	cq_threads_note_creator(&q->threads);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	put(p, 0, QUEUED - 1);
	q->config.flags = CQ_NO_ATFORK;
	in_child(put_more_and_run_all_once);
	cq_worker_detach(w);
	put_more_and_run_all_once();
}

static void runs_what_its_parent_had_not(void)
{
	end_queue();
	CHECK(each_once(2, QUEUED - 2) && runs == QUEUED);
}

Test(fork, child_does_not_run_again_what_ran, .init = make)
{
	put(p, 0, QUEUED);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 2);
	in_child(runs_what_its_parent_had_not);
	cr_assert_eq(runs, 2);
	run_all_once();
}

static void of_a_claimed_prefix(void)
{
	put(p, 2, 1);
	end_queue();
	CHECK(each_once(0, 3) && runs == 3);
}

Test(fork, child_runs_what_was_claimed_and_what_was_not, .init = make)
{
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	put(p, 1, 1);
	in_child(of_a_claimed_prefix);
	of_a_claimed_prefix();
}

static void has_nothing_and_works(void)
{
	CHECK(cq_cleanup_units(q) == 0);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 0);
	CHECK(cq_cleanup_drain(q, 0) == 0);
	put(p, QUEUED, SLOTS + 1);
	end_queue();
	CHECK(each_once(QUEUED, SLOTS + 1) && runs == SLOTS + 1);
}

Test(fork, child_that_discards_has_nothing_and_works)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED | CQ_FORK_DISCARD });
	put(p, 0, QUEUED);
	in_child(has_nothing_and_works);
	run_all_once();
}

/* Of two handlers the later comes first: when this one is called, the queue's has been. */
static void is_prepared(void)
{
	CHECK(q == NULL || pthread_mutex_trylock(&q->registry) == EBUSY);
}

Test(fork, queues_need_no_calls)
{
	cq_cleanup_stats_t s;
	pid_t child;

	cr_assert_eq(pthread_atfork(is_prepared, NULL, NULL), 0);
	make_to_be_forked((cq_cleanup_config_t){ .max_workers = 1 });
	put(p, 0, SLOTS + 1);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	/* Less than a block: none of it is in a worker's hand at the fork. */
	put(p, SLOTS + 1, QUEUED - SLOTS - 2);
	if ((child = fork()) == 0) {
		alarm(30);
		cq_cleanup_stats(q, &s);
		CHECK(s.workers_live == 0);
		put_more_and_run_all_once();
		_exit(0);
	}
	check_child(child);
	put_more_and_run_all_once();
	q = NULL;
	child = fork(); /* the queue is gone, and no one's business */
	if (child == 0)
		_exit(0);
	check_child(child);
}

static void run_all_and_end(void)
{
	end_queue();
	CHECK(each_once(0, QUEUED) && runs == QUEUED);
}

Test(fork, queues_may_go_in_any_order)
{
	cq_cleanup_config_t config = { .flags = CQ_POLLED };
	cq_cleanup_t *older;
	pid_t child;

	cr_assert_eq(cq_cleanup_create(&config, &older), 0);
	make_to_be_forked(config);
	cr_assert_eq(cq_cleanup_destroy(older), 0);
	put(p, 0, QUEUED);
	if ((child = fork()) == 0) {
		alarm(30);
		run_all_and_end();
		_exit(0);
	}
	check_child(child);
	run_all_and_end();
}

static void enqueue_drain_and_end(void)
{
	put(p, SLOTS, SLOTS + 1);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	run_all_once();
}

Test(fork, child_of_an_idle_queue_with_parked_workers_works)
{
	fake_init(&park);
	make_with((cq_cleanup_config_t){ .max_workers = 1, .park = &park.ops });
	put(p, 0, SLOTS);
	fake_wait_blocked(&park, 1);
	in_child(enqueue_drain_and_end);
	enqueue_drain_and_end();
}

static void again_in_a_child(void)
{
	put(p, 1, 1);
	in_child(of_a_claimed_prefix);
	of_a_claimed_prefix();
}

Test(fork, children_may_fork, .init = make)
{
	put(p, 0, 1);
	in_child(again_in_a_child);
	again_in_a_child();
}

/* -------------------------------------------------- other threads, stopped midway */

static gate_t stopped = GATE_INITIALIZER, go_on = GATE_INITIALIZER;
static cq_producer_t *others;
static pthread_t other;

static void hold(void *unused)
{
	(void)unused;
	gate_open(&stopped);
	gate_wait(&go_on);
}

/*
 * Another thread does body and stops at the point, before it has ended. Callbacks
 * [0, n) are its, and [n, n + 2) are in the block of the thread that forks.
 */
static unsigned its;

static void all_ran_once(void)
{
	/* A full block that stayed open would be written beyond its end. */
	CHECK(others->block == NULL || written(others) < SLOTS);
	cq_producer_detach(others);
	end_queue();
	CHECK(each_once(0, its + 2) && runs == its + 2);
}

static void fork_while_it_is_at(const char *point, void *(*body)(void *), unsigned n)
{
	its = n;
	put(p, n, 2);
	at_point(point, hold, NULL);
	other = start(body, NULL);
	gate_wait(&stopped);
	in_child(all_ran_once);
	gate_open(&go_on);
	join(other);
	all_ran_once();
}

static void make_two(void)
{
	make();
	CHECK(cq_producer_attach(q, &others) == 0);
}

/* Another producer has taken all blocks that are free. */
static void reservation_holds(void)
{
	unsigned n = QUEUED;

	mem.fail_on = true;
	mem.fail_in = 1;
	while (cq_producer_enqueue(others, run_it, (void *)(uintptr_t)n) == 0)
		n++;
	put(p, 1, 2 * SLOTS);
	mem.fail_on = false;
	mem.fail_in = 0;
	cq_producer_detach(others);
	end_queue();
	CHECK(each_once(0, n) && runs == n);
}

Test(fork, reservation_survives_in_the_child, .init = make_two)
{
	put(p, 0, 1);
	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0);
	in_child(reservation_holds);
	reservation_holds();
}

static void *put_one(void *unused)
{
	put(others, 0, 1);
	return unused;
}

static void *put_the_last(void *unused)
{
	put(others, SLOTS - 1, 1);
	return unused;
}

static void all_but_the_first_ran_once(void)
{
	cq_producer_detach(others);
	end_queue();
	CHECK(each_once(1, 2) && runs == 2);
}

/* No block was open: the callback is not accepted yet, and its thread is not in the child. */
Test(fork, while_a_callback_has_no_block, .init = make_two)
{
	put(p, 1, 2);
	at_point("producer.nowhere", hold, NULL);
	other = start(put_one, NULL);
	gate_wait(&stopped);
	in_child(all_but_the_first_ran_once);
	gate_open(&go_on);
	join(other);
	its = 1;
	all_ran_once();
}

static void *put_another(void *unused)
{
	put(others, 1, 1);
	return unused;
}

Test(fork, while_a_callback_has_just_been_stored, .init = make_two)
{
	put(others, 0, 1);
	fork_while_it_is_at("producer.stored", put_another, 2);
}

Test(fork, while_the_last_slot_has_just_been_stored, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	fork_while_it_is_at("producer.stored", put_the_last, SLOTS);
}

Test(fork, while_the_last_slot_is_stored_and_part_is_claimed, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	fork_while_it_is_at("producer.stored", put_the_last, SLOTS);
}

Test(fork, while_a_block_is_closed_and_not_counted, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	fork_while_it_is_at("producer.closed", put_the_last, SLOTS);
}

Test(fork, while_a_block_is_closed_and_part_is_claimed, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	fork_while_it_is_at("producer.closed", put_the_last, SLOTS);
}

Test(fork, while_a_block_is_counted_and_not_pushed, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	fork_while_it_is_at("producer.counted", put_the_last, SLOTS);
}

Test(fork, while_a_block_is_about_to_be_linked, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	fork_while_it_is_at("workq.link", put_the_last, SLOTS);
}

Test(fork, while_a_block_is_linked_and_has_no_unit, .init = make_two)
{
	put(others, 0, SLOTS - 1);
	fork_while_it_is_at("workq.linked", put_the_last, SLOTS);
}

static void *flush_it(void *unused)
{
	CHECK(cq_producer_flush(others) == 0);
	return unused;
}

Test(fork, while_a_partial_block_is_flushed, .init = make_two)
{
	put(others, 0, 2);
	fork_while_it_is_at("producer.closed", flush_it, 2);
}

static void *run_a_block(void *unused)
{
	CHECK(cq_cleanup_run_some(q, SLOTS) == SLOTS);
	return unused;
}

Test(fork, while_a_unit_is_taken_and_its_block_not_popped, .init = make_two)
{
	put(others, 0, SLOTS);
	fork_while_it_is_at("workq.taken", run_a_block, SLOTS);
}

Test(fork, while_a_pop_is_under_way, .init = make_two)
{
	if (strcmp(cq_build_info()->pop, "locked") != 0)
		cr_skip("the pop of this build holds nothing");
	put(others, 0, SLOTS);
	fork_while_it_is_at("stack.walked", run_a_block, SLOTS);
}

/* A part is given back in another thread's run: it has begun none of that. */
static void *run_half_a_block(void *unused)
{
	CHECK(cq_cleanup_run_some(q, 2) == 2);
	return unused;
}

static void all_but_two_ran_once(void)
{
	cq_producer_detach(others);
	end_queue();
	/* The first two had run before. */
	CHECK(each_once(0, its + 2) && runs == its + 2);
}

Test(fork, while_the_rest_of_a_block_is_queued_again, .init = make_two)
{
	put(others, 0, SLOTS);
	its = SLOTS;
	put(p, its, 2);
	at_point("workq.link", hold, NULL);
	other = start(run_half_a_block, NULL);
	gate_wait(&stopped);
	in_child(all_but_two_ran_once);
	gate_open(&go_on);
	join(other);
	all_but_two_ran_once();
}

/* ------------------------------------------------------------- running callbacks */

static gate_t began = GATE_INITIALIZER, may_end = GATE_INITIALIZER;

static void stuck(void *arg)
{
	gate_open(&began);
	gate_wait(&may_end);
	run_it(arg);
}

static void all_but_the_running_one(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	CHECK(s.workers_live == 0 && s.workers_running == 0 && s.executed == 1);
	put(p, SLOTS, SLOTS);
	end_queue();
	CHECK(ran[0] == 0 && each_once(1, 2 * SLOTS - 1) && runs == 2 * SLOTS - 1);
}

Test(fork, callback_that_runs_is_the_parents_alone, .init = make_managed)
{
	cr_assert_eq(cq_producer_enqueue(p, stuck, NULL), 0);
	put(p, 1, SLOTS - 1);
	gate_wait(&began);
	in_child(all_but_the_running_one);
	gate_open(&may_end);
	put(p, SLOTS, SLOTS);
	end_queue();
	cr_assert(each_once(0, 2 * SLOTS));
	cr_assert_eq(runs, 2 * SLOTS);
}

/*
 * Callback 1 of a full block forks, and a partial block follows. The child goes on
 * in that callback and in the block. What runs in both must not use Criterion.
 */
enum { FORKING = SLOTS + 2 };
static pid_t child_of_callback;
static bool is_child;
static pthread_t forker;

/* In the child the thread that forked can't be joined, with some C libraries. */
int __real_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result)
{
	CHECK(!is_child || !pthread_equal(thread, forker));
	return __real_pthread_join(thread, result);
}

static void forks(void *arg)
{
	is_child = forked(&child_of_callback);
	run_it(arg);
}

static void put_a_block_that_forks(void)
{
	put(p, 0, 1);
	CHECK(cq_producer_enqueue(p, forks, (void *)1) == 0);
	put(p, 2, FORKING - 2);
}

static void each_process_runs_the_rest_once(void)
{
	end_queue();
	CHECK(each_once(0, FORKING) && runs == FORKING);
	if (is_child)
		_exit(0);
	check_child(child_of_callback);
}

Test(fork, in_a_callback_of_run_some_goes_on_in_both, .init = make)
{
	put_a_block_that_forks();
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
	each_process_runs_the_rest_once();
}

Test(fork, in_a_callback_whose_budget_ends_in_it_goes_on_in_both, .init = make)
{
	put_a_block_that_forks();
	CHECK(cq_cleanup_run_some(q, 2) == 2);
	each_process_runs_the_rest_once();
}

Test(fork, in_a_callback_of_a_hosts_worker_goes_on_in_both, .init = make)
{
	cq_worker_t *w;

	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	put_a_block_that_forks();
	cq_worker_run(w, cq_worker_try_dequeue(w));
	cq_worker_detach(w);
	each_process_runs_the_rest_once();
}

static void put_a_block_that_forks_meanwhile(void *unused)
{
	(void)unused;
	put_a_block_that_forks();
}

static bool one_sleep_has_failed(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s.failed_sleeps == 1;
}

/* The worker and what it has counted are in both; it is counted once. */
Test(fork, in_a_callback_keeps_the_counts_of_its_worker, .init = make)
{
	cq_worker_t *w;

	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	at_point("worker.found_nothing", put_a_block_that_forks_meanwhile, NULL);
	cq_worker_run(w, cq_worker_dequeue(w));
	CHECK(one_sleep_has_failed());
	cq_worker_detach(w);
	CHECK(one_sleep_has_failed());
	each_process_runs_the_rest_once();
}

static cq_cleanup_t *second;

static void runs_a_block(void *w)
{
	cq_worker_run(w, cq_worker_try_dequeue(w));
}

static void polls_the_second(void *arg)
{
	CHECK(cq_cleanup_run_some(second, 1) == 1);
	run_it(arg);
}

static void make_second(cq_worker_t *w)
{
	cq_cleanup_config_t config = { .flags = CQ_POLLED };
	cq_producer_t *to;

	CHECK(cq_cleanup_create(&config, &second) == 0);
	CHECK(cq_producer_attach(second, &to) == 0);
	CHECK(cq_producer_enqueue(to, runs_a_block, w) == 0);
	cq_producer_detach(to);
}

static void end_second(void)
{
	CHECK(cq_cleanup_shutdown(second, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(second) == 0);
}

/* Of one worker, within one of another queue, within one of another worker. */
Test(fork, in_a_callback_within_callbacks_goes_on_in_both, .init = make)
{
	cq_worker_t *inner, *outer;

	CHECK(cq_worker_attach(q, NULL, &inner) == 0);
	CHECK(cq_worker_attach(q, NULL, &outer) == 0);
	make_second(inner);
	put_a_block_that_forks();
	CHECK(cq_producer_flush(p) == 0);
	CHECK(cq_cleanup_run_some(q, FORKING - SLOTS) == FORKING - SLOTS);
	CHECK(cq_producer_enqueue(p, polls_the_second, (void *)FORKING) == 0);
	CHECK(cq_producer_flush(p) == 0);
	cq_worker_run(outer, cq_worker_try_dequeue(outer));
	cq_worker_detach(inner);
	cq_worker_detach(outer);
	end_second();
	CHECK(ran[FORKING] == 1);
	runs--;
	each_process_runs_the_rest_once();
}

Test(fork, in_a_callback_after_drains_have_turned_the_page, .init = make)
{
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	put_a_block_that_forks();
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
	each_process_runs_the_rest_once();
}

/* A host's thread in cq_cleanup_work, in a queue that would make its own. */
static void *work(void *unused)
{
	CHECK(cq_cleanup_work(q) == 0);
	if (is_child)
		pthread_exit(NULL);
	return unused;
}

/* In the child only the thread that forked is left: another ends the queue there. */
static void *end_in_the_child(void *unused)
{
	end_queue();
	CHECK(each_once(0, FORKING) && runs == FORKING);
	_exit(0);
	return unused;
}

static void forks_and_starts_a_thread(void *arg)
{
	gate_wait(&may_end); /* until all are enqueued */
	forker = pthread_self();
	is_child = forked(&child_of_callback);
	if (is_child)
		start(end_in_the_child, NULL);
	else
		gate_open(&began);
	run_it(arg);
}

static void forks_with_its_signals_blocked(void *arg)
{
	sigset_t before, after;

	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
	forks_and_starts_a_thread(arg);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
	CHECK(sigismember(&after, SIGTERM) == 1);
	for (int i = 1; i < SIGRTMAX; i++)
		CHECK(sigismember(&before, i) == sigismember(&after, i));
}

static void put_a_block_that_forks_and_starts(cq_callback_fn *fn)
{
	put(p, 0, 1);
	CHECK(cq_producer_enqueue(p, fn, (void *)1) == 0);
	put(p, 2, FORKING - 2);
}

static void end_in_the_parent(void)
{
	gate_open(&may_end);
	gate_wait(&began);
	end_queue();
	CHECK(each_once(0, FORKING) && runs == FORKING);
	check_child(child_of_callback);
}

Test(fork, in_a_callback_of_a_managed_worker_goes_on_in_both, .init = make_managed)
{
	put_a_block_that_forks_and_starts(forks_and_starts_a_thread);
	end_in_the_parent();
}

Test(fork, in_a_callback_of_a_managed_worker_blocks_its_signals_in_both, .init = make_managed)
{
	put_a_block_that_forks_and_starts(forks_with_its_signals_blocked);
	end_in_the_parent();
}

Test(fork, in_a_callback_of_a_thread_in_work_goes_on_in_both)
{
	fake_init(&park);
	make_with((cq_cleanup_config_t){ .max_workers = 1, .park = &park.ops });
	other = start(work, NULL);
	fake_wait_blocked(&park, 1);
	put_a_block_that_forks_and_starts(forks_and_starts_a_thread);
	end_in_the_parent();
	join(other);
}

Test(fork, in_a_callback_of_a_queue_that_discards_drops_the_rest)
{
	size_t n;

	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED | CQ_FORK_DISCARD });
	put_a_block_that_forks();
	n = cq_cleanup_run_some(q, SIZE_MAX);
	CHECK(n == (is_child ? 2 : SLOTS));
	if (is_child) {
		end_queue();
		CHECK(each_once(0, 2) && runs == 2);
		_exit(0);
	}
	each_process_runs_the_rest_once();
}

/* give_back is called by the library as well. */
static void forks_in_give_back(void *unused, cq_callback_fn *fn, void *arg)
{
	if (arg == (void *)1)
		is_child = forked(&child_of_callback);
	take_back(unused, fn, arg);
}

Test(fork, in_give_back_goes_on_in_both, .init = make)
{
	put(p, 0, 2 * SLOTS + 1);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, forks_in_give_back, NULL) == 0);
	CHECK(each_once(0, 2 * SLOTS + 1) && given_back == 2 * SLOTS + 1);
	cq_producer_detach(p);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
	if (is_child)
		_exit(0);
	check_child(child_of_callback);
}

/* ---------------------------------------------------------- fork during a shutdown */

static void *shut_down(void *unused)
{
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	return unused;
}

static void shuts_down_by_itself(void)
{
	CHECK(cq_producer_enqueue(p, run_it, NULL) == ESHUTDOWN);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, wait_limit(), take_back, NULL) == 0);
	CHECK(ran[0] == 0 && each_once(1, SLOTS) && given_back == SLOTS);
	check_sums();
	cq_producer_detach(p);
	CHECK(cq_cleanup_destroy(q) == 0);
}

Test(fork, child_of_a_queue_that_shuts_down_can_shut_down)
{
	fake_init(&park);
	make_with((cq_cleanup_config_t){ .max_workers = 1, .park = &park.ops });
	cr_assert_eq(cq_producer_enqueue(p, stuck, NULL), 0);
	put(p, 1, SLOTS);
	gate_wait(&began);
	other = start(shut_down, NULL);
	fake_wait_blocked(&park, 1);
	in_child(shuts_down_by_itself);
	gate_open(&may_end);
	join(other);
	cr_assert(each_once(0, SLOTS + 1));
	check_sums();
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

static void is_refused(void)
{
	CHECK(cq_producer_enqueue(p, run_it, (void *)1) == ESHUTDOWN);
	end_queue();
	CHECK(each_once(0, 1) && runs == 1);
}

/* The shutdown has closed the gate, and has yet to stop the producers at it. */
Test(fork, while_the_gate_is_being_closed, .init = make)
{
	put(p, 0, 1);
	q->gate |= GATE_CLOSED;
	in_child(is_refused);
	cq_producers_look(q);
	is_refused();
}

static void *put_refused(void *unused)
{
	CHECK(cq_producer_enqueue(p, run_it, (void *)1) == ESHUTDOWN);
	return unused;
}

static void end_after_shutdown(void)
{
	check_sums();
	cq_producer_detach(p);
	CHECK(cq_cleanup_units(q) == 0);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
	CHECK(each_once(0, 1) && runs == 1);
}

/* In the child nobody takes the callback back. */
Test(fork, while_an_enqueue_is_being_refused, .init = make)
{
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	at_point("producer.stored", hold, NULL);
	other = start(put_refused, NULL);
	gate_wait(&stopped);
	in_child(end_after_shutdown);
	gate_open(&go_on);
	join(other);
	end_after_shutdown();
}

static void claim(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush_all(q) == 0);
	at_point("producer.retracting", hold, NULL);
}

static void *put_claimed(void *unused)
{
	at_point("producer.stored", claim, NULL);
	put(p, 1, 1);
	return unused;
}

static void both_ran_once(void)
{
	end_queue();
	CHECK(each_once(0, 2) && runs == 2);
}

/* The owner has lowered write, and has yet to see that the callback was claimed. */
Test(fork, while_an_enqueue_retracts_what_was_claimed, .init = make)
{
	put(p, 0, 1);
	mem.fail_on = true;
	mem.fail_in = 1;
	/* Closed, and for want of memory not the last gathering. */
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), ENOMEM);
	mem.fail_on = false;
	mem.fail_in = 0;
	other = start(put_claimed, NULL);
	gate_wait(&stopped);
	in_child(both_ran_once);
	gate_open(&go_on);
	join(other);
	both_ran_once();
}
