/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() in a process with cleanup queues. The child has its own copy of `ran`, so each process
 * checks for itself that the callbacks which are its business ran once there. A check that fails in
 * the child aborts it, and the parent sees that.
 */
#include <criterion/criterion.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callbacks.h"

TestSuite(fork, .timeout = 60);

enum { POLLED = CQ_POOL_POLLED | CQ_POOL_HOSTED };


/* The fake park's condition counts waiters that a child doesn't have. */
static void make_on(unsigned pool_flags, unsigned flags)
{
	make_with((cq_cleanup_config_t){ .flags = flags }, (cq_pool_config_t){ .flags = pool_flags,
	    .workers_max = 1, .idle_ns = CQ_FOREVER, .park = cq_park_default() });
}

static void make_polled(void) { make_on(POLLED, 0); }
static void make_managed(void) { make_on(0, 0); }

static bool hosted(void)
{
	return (q->pool->config.flags & CQ_POOL_HOSTED) != 0;
}

/* All but the shared ones, which nobody has attached. */
static void detach_all(void)
{
	for (cq_producer_t *each = q->producers, *next; each != NULL; each = next) {
		bool shared = false;

		next = each->next;
		for (unsigned i = 0; q->shared != NULL && i < 64; i++)
			shared |= q->shared[i] == each;
		if (!shared)
			cq_producer_detach(each);
	}
}

/* All that is left runs, or is given back if a shutdown has begun with that; and the sums agree. */
static void shut_down(void)
{
	cq_cleanup_stats_t s;

	detach_all();
	if (q->shared != NULL)
		CHECK(cq_cleanup_flush(q) == 0);
	if (hosted())
		run_all(NULL);
	if (q->stop == 0)
		CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	CHECK(cq_cleanup_shutdown(q, q->stop != 0 ? CQ_SHUTDOWN_HAND_BACK : CQ_SHUTDOWN_DRAIN,
	    wait_limit(), take_back, NULL) == 0);
	s = stats();
	CHECK(s.executed + s.handed_back == s.queued && s.blocks_waiting == 0);
}

/* And no run is left, and no block forgotten, but for one that was with a thread which a child doesn't have. */
static void end_queue(void)
{
	shut_down();
	AWAIT(cq_cleanup_trim(q, NULL) == 0); /* a worker may have yet to find that nothing is left */
	CHECK(stats().blocks_made <= (test_child == 0));
	CHECK(cq_cleanup_destroy(q) == 0);
}

/* A child leaves the memory of the worker that its parent was just making. */
static void end_with(unsigned n)
{
	bool leaves = test_child == 0 && !hosted();

	end_queue();
	CHECK(each_once(n));
	CHECK(leaves || mem.live_bytes == 0);
}

/* ------------------------------------------------------------------------ children */

static void in_a_child(void (*body)(void))
{
	if (test_forked()) {
		body();
		_exit(0);
	}
	CHECK(test_child_ended());
}

/* After a fork in a callback or hook, which goes on in both. */
static void end_both_with(unsigned n)
{
	end_with(n);
	if (test_child == 0)
		_exit(0);
	CHECK(test_child_ended());
}

/* --------------------------------------------------------------- what a child has */

enum { QUEUED = 2 * SLOTS + 1 };

static void run_all_once(void)
{
	end_with(QUEUED);
}

Test(fork, child_runs_what_was_queued_and_so_does_the_parent, .init = make_polled)
{
	put(p, 0, QUEUED);
	in_a_child(run_all_once);
	cr_assert_eq(runs, 0);
	run_all_once();
}

/* Of two handlers the later comes first: when this one is called, the queue's has been. */
static void is_prepared(void)
{
	CHECK(q == NULL || pthread_mutex_trylock(&q->lock) == EBUSY);
}

static void make_workers_and_run_all_once(void)
{
	CHECK(test_child != 0 || pool_stats().workers_live == 0);
	put(p, QUEUED - 2, 2);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	run_all_once();
	CHECK(mem.live_bytes == 0); /* that of its parent's worker, too */
}

Test(fork, managed_child_makes_workers_of_its_own_and_needs_no_call)
{
	cr_assert_eq(pthread_atfork(is_prepared, NULL, NULL), 0);
	make_managed();
	put(p, 0, SLOTS + 1);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	/* Less than fills the open block: none of it is in a worker's hand at the fork. */
	put(p, SLOTS + 1, SLOTS - 2);
	in_a_child(make_workers_and_run_all_once);
	make_workers_and_run_all_once();
	q = NULL;
	if (test_forked()) /* the queue is gone, and no one's business */
		_exit(0);
	cr_assert(test_child_ended());
}

Test(fork, queues_may_go_in_any_order)
{
	cq_cleanup_t *older;

	cr_assert_eq(cq_cleanup_create(NULL, &older), 0);
	make_polled();
	cr_assert_eq(cq_cleanup_destroy(older), 0);
	put(p, 0, QUEUED);
	in_a_child(run_all_once);
	run_all_once();
}

static void runs_the_rest_and_more(void)
{
	CHECK(stats().executed == 2);
	put(p, QUEUED, 1);
	end_with(QUEUED + 1);
}

Test(fork, child_does_not_run_again_what_ran, .init = make_polled)
{
	put(p, 0, QUEUED);
	cr_assert_eq(cq_cleanup_run_some(q, 2), 2);
	in_a_child(runs_the_rest_and_more);
	cr_assert_eq(runs, 2);
	runs_the_rest_and_more();
}

static void has_nothing_and_works(void)
{
	CHECK(waiting() == 0 && cq_cleanup_run_some(q, SIZE_MAX) == 0);
	CHECK(cq_cleanup_drain(q, 0) == 0);
	put(p, QUEUED, SLOTS + 1);
	end_queue();
	CHECK(ran[0] + ran[QUEUED - 1] == 0 && runs == SLOTS + 1);
}

Test(fork, child_that_discards_has_nothing_and_works)
{
	make_on(POLLED, CQ_CLEANUP_FORK_DISCARD);
	put(p, 0, QUEUED);
	in_a_child(has_nothing_and_works);
	run_all_once();
}

static void again_in_a_child(void)
{
	put(p, QUEUED - 1, 1);
	in_a_child(run_all_once);
	run_all_once();
}

Test(fork, children_may_fork, .init = make_polled)
{
	put(p, 0, QUEUED - 1);
	in_a_child(again_in_a_child);
	again_in_a_child();
}

static cq_producer_t *others;

/* Another producer has taken all blocks that are free. */
static void reservation_holds(void)
{
	unsigned n = 1 + 2 * SLOTS;

	out_of_memory(true);
	while (try_put(others, n) == 0)
		n++;
	put(p, 1, 2 * SLOTS);
	out_of_memory(false);
	end_with(n);
}

Test(fork, reservation_survives_in_the_child, .init = make_polled)
{
	cr_assert_eq(cq_producer_attach(q, run_it, &others), 0);
	put(p, 0, 1);
	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0);
	in_a_child(reservation_holds);
	reservation_holds();
}

static cq_callback_t *slots;
static size_t nslots;

static void commit_it(void)
{
	size_t accepted;

	CHECK(nslots == SLOTS - 1);
	for (unsigned i = 0; i < nslots; i++)
		slots[i] = (cq_callback_t){ run_it, (void *)(uintptr_t)(i + 1) };
	CHECK(cq_producer_commit(p, nslots, &accepted) == 0);
	end_with(SLOTS);
}

static void run_both_once(void)
{
	CHECK(cq_producer_flush(p) == 0);
	end_with(2);
}

/* It is larger, and waits, in both; and a child's flush makes another. */
Test(fork, partial_block_is_in_both)
{
	make_with((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES }, (cq_pool_config_t){ .flags = POLLED,
	    .park = cq_park_default() });
	put(p, 0, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	put(p, 1, 1);
	cr_assert_not_null(q->partial);
	in_a_child(run_both_once);
	run_both_once();
}

static void *try_the_lock(void *lock)
{
	return pthread_mutex_trylock(lock) == 0 ? lock : NULL;
}

/* Nobody is at it when the memory is copied. */
Test(fork, waits_for_who_has_the_partial_block, .init = make_polled)
{
	void *locked;

	cq_fork(CQ_FORK_PREPARE);
	cr_assert_eq(pthread_join(start(try_the_lock, &q->partial_lock), &locked), 0);
	cq_fork(CQ_FORK_PARENT);
	cr_assert_null(locked);
	end_with(0);
}

Test(fork, span_of_the_parent_is_the_childs_too, .init = make_polled)
{
	put(p, 0, 1);
	cr_assert_eq(cq_producer_span(p, &slots, &nslots), 0);
	in_a_child(commit_it);
	commit_it();
}

/* ---------------------------------------------------------------- shared pools, by hand */

static cq_pool_t *pool;
static cq_cleanup_t *second;

static void make_pool(unsigned flags)
{
	cq_pool_config_t config = { .flags = flags, .workers_max = 2 };

	CHECK(cq_pool_create(&config, &pool) == 0);
}

static void make_two_on_a_pool(unsigned flags)
{
	cq_cleanup_config_t config = { .pool = pool };

	make_pool(flags);
	config.pool = pool;
	CHECK(cq_cleanup_create(&config, &second) == 0);
	make_with(config, (cq_pool_config_t){ 0 });
}

static void put_to(cq_cleanup_t *to, cq_callback_fn *fn, unsigned i)
{
	cq_producer_t *one;

	CHECK(cq_producer_attach(to, fn, &one) == 0);
	CHECK(cq_producer_put(one, (void *)(uintptr_t)i) == 0);
	cq_producer_detach(one);
}

static void end_second(void)
{
	CHECK(cq_cleanup_shutdown(second, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(second) == 0);
}

static void end_two(void)
{
	CHECK(cq_cleanup_drain(second, wait_limit()) == 0);
	end_queue();
	end_second();
	CHECK(cq_pool_destroy(pool, wait_limit()) == 0);
	CHECK(each_once(QUEUED));
	CHECK(mem.live_bytes == 0);
}

static void put_more_to_both(void)
{
	put(p, 1, QUEUED - 2);
	put_to(second, run_it, QUEUED - 1);
	end_two();
}

Test(fork, two_queues_on_a_pool_go_on_in_both)
{
	make_two_on_a_pool(0);
	put_to(second, run_it, 0);
	cr_assert_eq(cq_cleanup_drain(second, wait_limit()), 0);
	in_a_child(put_more_to_both);
	put_more_to_both();
}

static void fork_by_hand(void)
{
	cq_fork(CQ_FORK_PREPARE);
	CHECK(cq_producer_flush(p) == EDEADLK && cq_cleanup_flush(second) == EDEADLK);
	test_child = fork();
	CHECK(test_child >= 0);
	cq_fork(test_child == 0 ? CQ_FORK_CHILD : CQ_FORK_PARENT);
}

Test(fork, by_hand_queues_are_prepared_with_their_pool)
{
	make_two_on_a_pool(CQ_POOL_NO_ATFORK);
	put_to(second, run_it, 0);
	cr_assert_eq(cq_cleanup_drain(second, wait_limit()), 0);
	put(p, 1, 1);
	fork_by_hand();
	put(p, 2, QUEUED - 3);
	put_to(second, run_it, QUEUED - 1);
	end_two();
	if (test_child == 0)
		_exit(0);
	cr_assert(test_child_ended());
}

/* The handlers of one pool are for all. */
Test(fork, pool_with_handlers_prepares_the_queues_of_one_without)
{
	cq_pool_t *other;

	make_two_on_a_pool(CQ_POOL_NO_ATFORK);
	cr_assert_eq(cq_pool_create(NULL, &other), 0);
	put_to(second, run_it, 0);
	cr_assert_eq(cq_cleanup_drain(second, wait_limit()), 0);
	in_a_child(put_more_to_both);
	cr_assert_eq(cq_pool_destroy(other, CQ_FOREVER), 0);
	put_more_to_both();
}

/* ------------------------------------------------ another thread, stopped anywhere */

/*
 * The subject is a thread that is stopped at each point that it passes with no lock held for which
 * a fork would wait, and in each callback. There the process forks. In each child every callback that
 * was accepted has begun before, or runs there, and the sums agree.
 */
static sem_t here, go_on;
static bool ended;
static __thread bool is_subject;
static const char *cuts[256], *last_cut;
static atomic_uint ncuts;

static bool locks_of_are_free(cq_cleanup_t *queue)
{
	pthread_mutex_t *const all[] = { &queue->lock, &queue->partial_lock, &queue->drains.lock, &queue->pool->lock,
		&queue->pool->idle.lock, &queue->pool->closers.lock };

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		if (pthread_mutex_trylock(all[i]) != 0)
			return false;
		pthread_mutex_unlock(all[i]);
	}
	return true;
}

static bool locks_are_free(void)
{
	return locks_of_are_free(q) && (second == NULL || locks_of_are_free(second));
}

static void stop_here(void)
{
	CHECK(sem_post(&here) == 0);
	while (sem_wait(&go_on) != 0)
		CHECK(errno == EINTR);
}

static void subject_ends(void)
{
	is_subject = false;
	ended = true;
	CHECK(sem_post(&here) == 0);
}

static void cut(const char *where, void *unused)
{
	(void)unused;
	/* While it parks it may have a lock of park_condvar.c's. */
	if (!is_subject || strncmp(where, "park.", 5) == 0 || !locks_are_free())
		return;
	CHECK(ncuts < 256);
	cuts[ncuts++] = where;
	stop_here();
	if (last_cut != NULL && strcmp(where, last_cut) == 0)
		subject_ends();
}

/* What has become of a callback that the subject enqueues. */
enum { UNUSED, BEING_PUT, ACCEPTED, REFUSED };
static atomic_uint fate[64];
static unsigned nfates;

static void run_and_cut(void *arg)
{
	run_it(arg);
	cut("callback", NULL);
}

/* By `to`, or without a producer. */
static int put_next(cq_producer_t *to)
{
	void *arg = (void *)(uintptr_t)nfates;
	int err;

	fate[nfates] = BEING_PUT;
	err = to == NULL ? cq_cleanup_enqueue(q, run_and_cut, arg) :
	    to->fn != NULL ? cq_producer_put(to, arg) : cq_producer_enqueue(to, run_and_cut, arg);
	fate[nfates++] = err == 0 ? ACCEPTED : REFUSED;
	return err;
}

static void put_some(cq_producer_t *to, unsigned n)
{
	while (n-- > 0)
		CHECK(put_next(to) == 0);
}

static void check_fates(void)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < 64; i++) {
		CHECK(fate[i] != ACCEPTED || ran[i] == 1);
		CHECK(fate[i] != BEING_PUT || ran[i] <= 1);
		CHECK(fate[i] == ACCEPTED || fate[i] == BEING_PUT || ran[i] == 0);
		sum += ran[i];
	}
	CHECK(stats().queued == sum && runs == sum);
}

static bool sealed_at_the_start;

/* Works on, if the queue is open, and ends. */
static void goes_on_as_if_alone(void)
{
	cq_cleanup_stats_t s;
	cq_producer_t *one;

	nfates += fate[nfates] == BEING_PUT;
	CHECK(cq_producer_attach(q, NULL, &one) == (q->closed != 0 ? ESHUTDOWN : 0));
	if (q->closed == 0)
		CHECK(cq_producer_reserve(one, 3 * SLOTS) == 0);
	for (cq_producer_t *to = q->closed == 0 ? q->producers : NULL; to != NULL; to = to->next)
		put_some(to, SLOTS + 1);
	for (unsigned i = 0; q->shared != NULL && i < 64; i++)
		CHECK(q->shared[i] == NULL || q->shared[i]->taken == 0);
	CHECK(q->shared == NULL || put_next(NULL) == (q->closed != 0 ? ESHUTDOWN : 0));
	s = stats();
	if (q->stop != 0 && s.queued != s.executed + s.handed_back) { /* what is left can only be given back */
		CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == EINVAL);
		CHECK(cq_cleanup_destroy(q) == EBUSY);
	}
	detach_all();
	shut_down();
	check_fates();
	for (unsigned i = 0; sealed_at_the_start && i < 64; i++)
		CHECK(fate[i] != BEING_PUT || ran[i] == 0);
	end_queue();
}

static void *subject(void *arg)
{
	void (*script)(void) = *(void (**)(void))arg;

	is_subject = true;
	script();
	subject_ends();
	return NULL;
}

static bool was_cut_at(const char *where)
{
	for (unsigned i = 0; i < ncuts; i++)
		if (strcmp(cuts[i], where) == 0)
			return true;
	return false;
}

/* What the thread that forks does before, at each cut; or NULL. */
static void (*meanwhile)(void *unused);

/* Until the subject has ended. */
static void fork_at_each_cut(void)
{
	for (;;) {
		while (sem_wait(&here) != 0)
			CHECK(errno == EINTR);
		if (ended)
			return;
		if (meanwhile != NULL)
			meanwhile(NULL);
		if (test_forked()) {
			goes_on_as_if_alone();
			_exit(0);
		}
		if (!test_child_ended()) {
			fprintf(stderr, "cut %u, at %s\n", ncuts, cuts[ncuts - 1]);
			CHECK(!"the child has ended well");
		}
		CHECK(sem_post(&go_on) == 0);
	}
}

static void begin_to_cut(void)
{
	CHECK(sem_init(&here, 0, 0) == 0 && sem_init(&go_on, 0, 0) == 0);
	at_every_point(cut, NULL);
}

/* Where must the subject have been cut? */
static void end_of_cuts(const char *const *expected)
{
	at_every_point(NULL, NULL);
	for (; *expected != NULL; expected++)
		if (!was_cut_at(*expected)) {
			fprintf(stderr, "no cut at %s\n", *expected);
			CHECK(!"it is passed");
		}
	goes_on_as_if_alone();
	CHECK(mem.live_bytes == 0);
}

static void cut_all_along(void (*script)(void), const char *const *expected)
{
	pthread_t thread;

	begin_to_cut();
	thread = start(subject, &script);
	fork_at_each_cut();
	join(thread);
	end_of_cuts(expected);
}

static cq_producer_t *attached(cq_callback_fn *fn)
{
	cq_producer_t *to;

	CHECK(cq_producer_attach(q, fn, &to) == 0);
	return to;
}

static void produce(cq_producer_t *to, unsigned room)
{
	put_some(to, 1);
	CHECK(cq_cleanup_flush(q) == 0);	/* claims it */
	put_some(to, room - 1);			/* full, part of it claimed */
	put_some(to, room);			/* full */
	put_some(to, 2);
	CHECK(cq_producer_flush(to) == 0);	/* a part */
	CHECK(cq_producer_reserve(to, 2 * room) == 0);
	put_some(to, 1);
	CHECK(cq_cleanup_flush(q) == 0);
	cq_producer_detach(to);			/* all is claimed */
}

static const char *const of_a_producer[] = { "producer.dummy", "producer.gets", "producer.stored", "producer.closed",
	"producer.counted", "workq.link", "workq.linked", NULL };

static void produce_pairs(void) { produce(attached(NULL), SLOTS); }
static void produce_arguments(void) { produce(attached(run_and_cut), 2 * SLOTS); }

Test(fork, while_a_producer_is_at_any_point, .init = make_polled)
{
	put_some(p, 2);
	cut_all_along(produce_pairs, of_a_producer);
}

Test(fork, while_a_producer_of_one_function_is_at_any_point, .init = make_polled)
{
	put_some(p, 2);
	cut_all_along(produce_arguments, of_a_producer);
}

static void fork_and_trim(void *unused)
{
	(void)unused;
	if (!test_forked())
		return;
	CHECK(cq_cleanup_trim(q, NULL) == 0);
	_exit(0);
}

Test(fork, while_a_producer_gets_a_block_the_child_may_trim, .init = make_polled)
{
	put_some(p, SLOTS); /* so that there is a slab */
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	at_point("producer.gets", fork_and_trim, NULL);
	put_some(p, 1);
	cr_assert(test_child_ended());
	end_with(SLOTS + 1);
}

/* Two blocks are full, of the first of which a part is claimed. */
static void share_some(void)
{
	put_some(NULL, 1);
	CHECK(cq_cleanup_flush(q) == 0);
	put_some(NULL, 2 * SLOTS);
}

/* In the child it is in nobody's hand, and goes on. */
Test(fork, while_an_enqueue_without_a_producer_is_at_any_point, .init = make_polled)
{
	put_some(p, 2);
	cut_all_along(share_some, of_a_producer);
}

/* At some cuts, lest nothing be left for the producer. */
static void flush_now_and_then(void *unused)
{
	if (ncuts % 3 == 0)
		flush(unused);
}

Test(fork, while_a_producer_is_at_any_point_and_flushes_claim, .init = make_polled)
{
	put_some(p, 2);
	meanwhile = flush_now_and_then;
	cut_all_along(produce_pairs, of_a_producer);
}

Test(fork, while_a_producer_of_one_function_is_at_any_point_and_flushes_claim, .init = make_polled)
{
	put_some(p, 2);
	meanwhile = flush_now_and_then;
	cut_all_along(produce_arguments, of_a_producer);
}

static void run_one(void *unused)
{
	(void)unused;
	(void)cq_cleanup_run_some(q, 1);
}

Test(fork, while_a_producer_is_at_any_point_and_some_have_run, .init = make_polled)
{
	put_some(p, SLOTS + 1);
	meanwhile = run_one;
	cut_all_along(produce_pairs, of_a_producer);
}

static void run_them(void)
{
	CHECK(cq_cleanup_run_some(q, 3) == 3); /* the rest of the last block waits again */
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == nfates - 4);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 1);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
}

static const char *const of_a_run[] = { "callback", "tasks.ended", "workq.take", "workq.taken",
	"stack.walked", "workq.link", "workq.linked", "sleepers.prepared", NULL };

Test(fork, while_callbacks_run_and_are_at_any_point, .init = make_polled)
{
	cq_producer_t *to = attached(run_and_cut);

	put_some(p, SLOTS);
	put_some(to, SLOTS);
	cr_assert_eq(cq_producer_flush(to), 0);
	put_some(p, 2);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	put_some(p, 1);
	cut_all_along(run_them, of_a_run);
}

static void hand_them_back(void)
{
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == 0);
}

static const char *const of_a_shutdown[] = { "callback", "workq.taken", "sleepers.prepared", NULL };

/* A block that waits, and more in open ones than is claimed at once. */
Test(fork, while_a_shutdown_hands_back_and_is_at_any_point, .init = make_polled)
{
	cq_producer_t *to = attached(run_and_cut);

	put_some(p, SLOTS + 2);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	put_some(to, 2 * SLOTS - 1);
	cut_all_along(hand_them_back, of_a_shutdown);
}

static void drain_and_shut_down(void)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == EAGAIN);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == nfates - 1);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
}

Test(fork, while_a_drain_and_a_shutdown_are_at_any_point, .init = make_polled)
{
	put_some(p, SLOTS + 2);
	cut_all_along(drain_and_shut_down, of_a_shutdown);
}

static void be_refused(void)
{
	CHECK(put_next(p) == ESHUTDOWN);
	CHECK(put_next(p) == ESHUTDOWN);
	cq_producer_detach(p);
}

static const char *const of_a_refusal[] = { "producer.stored", "producer.retracting", "producer.retracted",
	"producer.closed", "producer.counted", NULL };

/* It has collected all, so what the child may find written is nobody's. */
Test(fork, while_an_enqueue_is_refused_after_a_shutdown, .init = make_polled)
{
	put_some(p, 1);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	sealed_at_the_start = true;
	cut_all_along(be_refused, of_a_refusal);
}

/* Closed, and for want of memory not the last collection: there may be one more. */
Test(fork, while_an_enqueue_is_refused_by_a_shutdown_that_has_failed, .init = make_polled)
{
	put_some(p, 1);
	out_of_memory(true);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), ENOMEM);
	out_of_memory(false);
	cut_all_along(be_refused, of_a_refusal);
}

static void claim(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush(q) == 0);
}

static void find_it_claimed(void)
{
	CHECK(put_next(p) == 0);
	CHECK(put_next(p) == ESHUTDOWN);
}

static const char *const of_a_claim[] = { "producer.retracting", NULL };

/* The owner has lowered write, and has yet to see that the callback was claimed. */
Test(fork, while_an_enqueue_retracts_what_was_claimed, .init = make_polled)
{
	put_some(p, 1);
	out_of_memory(true);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), ENOMEM);
	out_of_memory(false);
	at_point("producer.stored", claim, NULL);
	cut_all_along(find_it_claimed, of_a_claim);
}

static int become_the_subject(void *unused)
{
	(void)unused;
	is_subject = test_child != 0; /* the parent's first */
	return 0;
}

static const char *const of_a_worker[] = { "callback", "workers.arrived", "tasks.begin", "tasks.ended",
	"workq.taken", "worker.found_nothing", "sleepers.prepared", "sleepers.listing", NULL };

/* A managed worker: it comes, finds work, and goes to sleep. */
Test(fork, while_a_worker_is_at_any_point)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1,
	    .idle_ns = CQ_FOREVER, .park = cq_park_default(), .worker_start = become_the_subject });
	begin_to_cut();
	last_cut = "sleepers.listed";
	put_some(p, SLOTS + 1);
	fork_at_each_cut();
	end_of_cuts(of_a_worker);
}

/*
 * The subject makes another queue, with a pool and a worker of its own, and destroys it. It is stopped where
 * memory is allocated or freed, too, and before the queue and the pool leave the list of those who are told of forks.
 * The child has no use for what it finds of them.
 */
static bool cuts_in_the_allocator;
static gate_t ran_there = GATE_INITIALIZER;

static void *allocate_and_cut(void *host, size_t bytes, size_t align)
{
	void *memory = mem.allocator.alloc(host, bytes, align);

	if (cuts_in_the_allocator)
		cut("allocated", NULL);
	return memory;
}

static void free_and_cut(void *host, void *memory, size_t bytes)
{
	if (cuts_in_the_allocator)
		second = NULL; /* and none of its locks is taken any more */
	mem.allocator.free(host, memory, bytes);
	if (cuts_in_the_allocator)
		cut("freed", NULL);
}

void __real_cq_fork_unregister(struct cq_fork_client *client);
void __wrap_cq_fork_unregister(struct cq_fork_client *client);
void __wrap_cq_fork_unregister(struct cq_fork_client *client)
{
	cut("unregistering", NULL);
	__real_cq_fork_unregister(client);
}

static void make_and_destroy_another(void)
{
	const cq_allocator_t allocator = { allocate_and_cut, free_and_cut, &mem };
	const cq_pool_config_t own = { .workers_max = 1, .allocator = &allocator };
	const cq_cleanup_config_t config = { .pool_config = &own };
	cq_cleanup_t *another;

	cuts_in_the_allocator = true;
	CHECK(cq_cleanup_create(&config, &another) == 0);
	cuts_in_the_allocator = false; /* some of what follows is with a lock held */
	second = another;
	CHECK(cq_cleanup_enqueue(another, gate_open, &ran_there) == 0);
	CHECK(cq_cleanup_drain(another, wait_limit()) == 0);
	AWAIT(asleep_in(&another->pool->idle));
	cuts_in_the_allocator = true;
	CHECK(cq_cleanup_destroy(another) == 0);
	cuts_in_the_allocator = false;
}

static const char *const of_another[] = { "allocated", "freed", "tasks.closed", "unregistering", NULL };

Test(fork, while_another_queue_is_made_and_destroyed, .init = make_polled)
{
	put_some(p, SLOTS + 2);
	cut_all_along(make_and_destroy_another, of_another);
}

static bool lost_it;

static void forks_with_a_piece(cq_run_t *run, void *arg)
{
	cq_run_piece(run, arg);
	if (test_forked()) {
		CHECK(!lost_it);
		_exit(0);
	}
	cq_run_piece(run, NULL);
}

static void lose_it(void *arg, void *piece)
{
	(void)arg;
	(void)piece;
	lost_it = true;
}

static void destroy_second(void)
{
	CHECK(cq_cleanup_destroy(second) == 0);
}

/* The record of its task is another's by then, which has a piece in hand, and goes on with it in the child. */
Test(fork, in_a_run_of_a_task_whose_record_was_that_of_a_queue_which_is_being_destroyed)
{
	static const cq_task_ops_t ops = { forks_with_a_piece, lose_it, NULL };
	void (*script)(void) = destroy_second;
	cq_task_t *task, *former;
	pthread_t thread;

	make_two_on_a_pool(POLLED);
	former = second->task;
	begin_to_cut();
	thread = start(subject, &script);
	do {
		while (sem_wait(&here) != 0)
			CHECK(errno == EINTR);
		if (!was_cut_at("unregistering"))
			CHECK(sem_post(&go_on) == 0);
	} while (!was_cut_at("unregistering"));
	at_every_point(NULL, NULL);
	cr_assert_eq(cq_task_create(pool, &ops, &ran_there, 0, &task), 0);
	cr_assert_eq(task, former);
	cr_assert_eq(cq_task_run_some(task, 1), 1);
	cr_assert(test_child_ended());
	CHECK(sem_post(&go_on) == 0);
	join(thread);
	cr_assert_eq(cq_task_close(task, CQ_FOREVER), 0);
	end_queue();
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

/* ------------------------------------------------------------- in a callback that forks */

/*
 * Callback 1 of a full block forks, and a partial block follows. The child goes on in that callback
 * and in the block.
 */
enum { FORKING = SLOTS + 2 };

static void forks(void *arg)
{
	(void)test_forked();
	run_it(arg);
}

static void put_block_that(cq_callback_fn *does)
{
	put(p, 0, 1);
	CHECK(cq_producer_enqueue(p, does, (void *)1) == 0);
	put(p, 2, FORKING - 2);
}

Test(fork, in_a_callback_of_run_some_goes_on_in_both, .init = make_polled)
{
	put_block_that(forks);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
	CHECK(stats().executed == SLOTS);
	end_both_with(FORKING);
}

Test(fork, in_a_callback_whose_budget_ends_in_it_goes_on_in_both, .init = make_polled)
{
	put_block_that(forks);
	CHECK(cq_cleanup_run_some(q, 2) == 2);
	CHECK(stats().executed == 2 && waiting() == 1);
	end_both_with(FORKING);
}

Test(fork, in_a_callback_after_drains_have_advanced_the_epoch, .init = make_polled)
{
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	put_block_that(forks);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
	end_both_with(FORKING);
}

Test(fork, in_a_callback_of_a_queue_that_discards_drops_the_rest)
{
	size_t n;

	make_on(POLLED, CQ_CLEANUP_FORK_DISCARD);
	put_block_that(forks);
	n = cq_cleanup_run_some(q, SIZE_MAX);
	CHECK(n == (test_child == 0 ? 2 : SLOTS));
	end_both_with(test_child == 0 ? 2 : FORKING);
}

/* In a callback of q, within one of `second`, within one of q. */
static void runs_a_block_that_forks(void *arg)
{
	CHECK(cq_cleanup_run_some(q, SLOTS) == SLOTS);
	run_it(arg);
}

static void runs_the_second(void *arg)
{
	put_block_that(forks);
	CHECK(cq_cleanup_run_some(second, 1) == 1);
	run_it(arg);
}

static void fork_within_callbacks(cq_pool_t *of_the_second)
{
	cq_pool_config_t polled = { .flags = POLLED };
	cq_cleanup_config_t config = { .pool = of_the_second };

	if (of_the_second == NULL)
		config.pool_config = &polled;
	CHECK(cq_cleanup_create(&config, &second) == 0);
	put_to(second, runs_a_block_that_forks, FORKING);
	put_to(q, runs_the_second, FORKING + 1);
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	CHECK(stats().executed == SLOTS + 1);
	end_second();
	end_both_with(FORKING + 2);
}

Test(fork, in_a_callback_within_callbacks_goes_on_in_both, .init = make_polled)
{
	fork_within_callbacks(NULL);
}

Test(fork, in_a_callback_within_callbacks_of_one_pool_goes_on_in_both, .init = make_polled)
{
	fork_within_callbacks(q->pool);
}

/* ------------------------------------------------------- in a callback on another thread */

static gate_t began = GATE_INITIALIZER, may_end = GATE_INITIALIZER;
static pthread_t other;

/* In the child the thread that forked can't be joined, with some C libraries. */
static pthread_t forker;
int __real_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result)
{
	CHECK(test_child != 0 || !pthread_equal(thread, forker));
	return __real_pthread_join(thread, result);
}

/* In the child only the thread that forked is left: another ends the queue there. */
static void *end_in_the_child(void *unused)
{
	end_with(FORKING);
	_exit(0);
	return unused;
}

static void forks_and_starts_a_thread(void *arg)
{
	gate_wait(&may_end); /* until all are enqueued */
	forker = pthread_self();
	if (test_forked())
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

static void end_in_the_parent(void)
{
	gate_open(&may_end);
	gate_wait(&began);
	end_with(FORKING);
	CHECK(test_child_ended());
}

Test(fork, in_a_callback_of_a_managed_worker_goes_on_in_both, .init = make_managed)
{
	put_block_that(forks_and_starts_a_thread);
	end_in_the_parent();
}

Test(fork, in_a_callback_of_a_managed_worker_blocks_its_signals_in_both, .init = make_managed)
{
	put_block_that(forks_with_its_signals_blocked);
	end_in_the_parent();
}

/* A host's thread in a pool that would make its own. */
static void *work(void *unused)
{
	CHECK(cq_pool_work(q->pool, NULL, CQ_FOREVER) == 0);
	if (test_child == 0)
		pthread_exit(NULL);
	return unused;
}

Test(fork, in_a_callback_of_a_thread_in_work_goes_on_in_both, .init = make_managed)
{
	other = start(work, NULL);
	AWAIT(pool_stats().workers_idle == 1);
	put_block_that(forks_and_starts_a_thread);
	end_in_the_parent();
	join(other);
}

/* The child's other thread needs a worker once that one is gone. */
static void *end_after_its_retirement(void *unused)
{
	AWAIT(pool_stats().workers_live == 0);
	q->pool->config.idle_ns = CQ_FOREVER;
	put(p, FORKING, SLOTS);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	CHECK(pool_stats().workers_created == 2);
	end_with(FORKING + SLOTS);
	_exit(0);
	return unused;
}

static void forks_and_is_to_retire(void *arg)
{
	gate_wait(&may_end);
	forker = pthread_self();
	if (test_forked()) {
		q->pool->config.idle_ns = 1;
		start(end_after_its_retirement, NULL);
	} else {
		gate_open(&began);
	}
	run_it(arg);
}

Test(fork, worker_that_forked_retires_in_the_child_and_another_follows, .init = make_managed)
{
#ifndef __GLIBC__
	cr_skip("with musl 1.2.3 no thread of the child can end once the one that forked has");
#endif
	put_block_that(forks_and_is_to_retire);
	end_in_the_parent();
}

static int start_forks(void *unused)
{
	(void)unused;
	if (test_child == -1) {
		gate_wait(&may_end);
		forker = pthread_self();
		if (test_forked())
			start(end_in_the_child, NULL);
	}
	return 0;
}

/* The child's first worker is the one that is being made. */
Test(fork, in_worker_start_goes_on_in_both)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1,
	    .idle_ns = CQ_FOREVER, .park = cq_park_default(), .worker_start = start_forks });
	put(p, 0, FORKING); /* the full block makes it */
	gate_open(&may_end);
	AWAIT(runs >= SLOTS);
	end_with(FORKING);
	cr_assert(test_child_ended());
}

static void stuck(void *arg)
{
	gate_open(&began);
	gate_wait(&may_end);
	run_it(arg);
}

static void all_but_the_running_one(void)
{
	CHECK(pool_stats().workers_live == 0 && pool_stats().workers_running == 0);
	CHECK(stats().executed == 1);
	put(p, SLOTS, SLOTS);
	end_queue();
	CHECK(ran[0] == 0 && runs == 2 * SLOTS - 1);
}

Test(fork, callback_that_runs_is_the_parents_alone, .init = make_managed)
{
	cr_assert_eq(cq_producer_enqueue(p, stuck, NULL), 0);
	put(p, 1, SLOTS - 1);
	gate_wait(&began);
	in_a_child(all_but_the_running_one);
	gate_open(&may_end);
	put(p, SLOTS, SLOTS);
	end_with(2 * SLOTS);
}

/* -------------------------------------------------- while others drain and shut down */

/* A drain or a shutdown. */
static bool drain_sleeps(void)
{
	bool sleeps;

	pthread_mutex_lock(&q->drains.lock);
	sleeps = q->drains.newest != NULL;
	pthread_mutex_unlock(&q->drains.lock);
	return sleeps;
}

static void *drain(void *unused)
{
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	return unused;
}

static void drains_by_itself(void)
{
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	end_queue();
	CHECK(ran[0] == 0 && runs == SLOTS);
}

Test(fork, child_of_a_queue_that_drains_can_drain, .init = make_managed)
{
	cr_assert_eq(cq_producer_enqueue(p, stuck, NULL), 0);
	put(p, 1, SLOTS);
	gate_wait(&began);
	other = start(drain, NULL);
	AWAIT(drain_sleeps());
	in_a_child(drains_by_itself);
	gate_open(&may_end);
	join(other);
	end_with(SLOTS + 1);
}

static gate_t fails = GATE_INITIALIZER, told = GATE_INITIALIZER, goes_on = GATE_INITIALIZER;

static int fails_once(void *unused)
{
	static atomic_uint calls;

	(void)unused;
	gate_wait(&fails);
	return calls++ == 0 ? EPERM : 0;
}

static void stop_while_telling(void *unused)
{
	(void)unused;
	gate_open(&told);
	gate_wait(&goes_on);
}

static void drains_and_ends(void)
{
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	end_with(1);
}

/* Who tells them holds no lock, and isn't in the child, where destroy would wait for it. */
Test(fork, while_drains_are_told_that_no_worker_could_be_made)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1,
	    .idle_ns = CQ_FOREVER, .park = cq_park_default(), .worker_start = fails_once });
	put(p, 0, 1);
	other = start(drain, NULL);
	AWAIT(drain_sleeps());
	at_point("sleepers.taken", stop_while_telling, NULL);
	gate_open(&fails);
	gate_wait(&told);
	in_a_child(drains_and_ends);
	gate_open(&goes_on);
	join(other);
	end_with(1);
}

static void *shut_down_as(void *how)
{
	CHECK(cq_cleanup_shutdown(q, *(cq_shutdown_how_t *)how, wait_limit(), take_back, NULL) == 0);
	return NULL;
}

static void shuts_down_by_itself(void)
{
	CHECK(cq_producer_enqueue(p, run_it, NULL) == ESHUTDOWN);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, wait_limit(), take_back, NULL) == 0);
	end_queue();
	CHECK(ran[0] == 0 && runs == SLOTS);
}

static void fork_in_a_shutdown(cq_shutdown_how_t how)
{
	CHECK(cq_producer_enqueue(p, stuck, NULL) == 0);
	put(p, 1, SLOTS);
	gate_wait(&began);
	other = start(shut_down_as, &how);
	AWAIT(drain_sleeps());
	in_a_child(shuts_down_by_itself);
	gate_open(&may_end);
	join(other);
	end_with(SLOTS + 1);
}

Test(fork, child_of_a_queue_that_shuts_down_can_shut_down, .init = make_managed)
{
	fork_in_a_shutdown(CQ_SHUTDOWN_DRAIN);
}

Test(fork, child_of_a_queue_that_hands_back_can_hand_back, .init = make_managed)
{
	fork_in_a_shutdown(CQ_SHUTDOWN_HAND_BACK);
}

static void is_refused(void)
{
	CHECK(try_put(p, 1) == ESHUTDOWN);
	end_with(1);
}

/* The shutdown has closed the queue, and has yet to lower the producers' limits. */
Test(fork, child_of_a_queue_that_is_just_closed_refuses, .init = make_polled)
{
	put(p, 0, 1);
	q->closed = 1;
	in_a_child(is_refused);
	cq_producers_see(q);
	is_refused();
}

static void forks_when_others_hand_back(void *arg)
{
	AWAIT(drain_sleeps()); /* it waits for this callback, and all else is given */
	forks_and_starts_a_thread(arg);
}

/* The rest of its block is given back in both. */
Test(fork, in_a_callback_while_others_hand_back_goes_on_in_both, .init = make_managed)
{
	cq_shutdown_how_t how = CQ_SHUTDOWN_HAND_BACK;

	put_block_that(forks_when_others_hand_back);
	AWAIT(ran[0] == 1); /* the block is in a worker's hand */
	other = start(shut_down_as, &how);
	gate_open(&may_end);
	join(other);
	CHECK(given_back == FORKING - 2);
	end_with(FORKING);
	CHECK(test_child_ended());
}

static unsigned forks_at;

static void *shuts_down_beside_it(void *unused)
{
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL) == EALREADY);
	CHECK(cq_cleanup_destroy(q) == EBUSY);
	return unused;
}

static void forks_in_give_back(void *unused, cq_callback_fn *fn, void *arg)
{
	if (arg == (void *)(uintptr_t)forks_at)
		if (test_forked())
			join(start(shuts_down_beside_it, NULL)); /* one goes on here */
	take_back(unused, fn, arg);
}

static void fork_in_give_back(unsigned at)
{
	forks_at = at;
	put(p, 0, QUEUED);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, forks_in_give_back, NULL) == 0);
	CHECK(stats().handed_back == QUEUED && given_back == QUEUED);
	end_both_with(QUEUED);
}

Test(fork, in_give_back_of_a_block_goes_on_in_both, .init = make_polled)
{
	fork_in_give_back(1);
}

Test(fork, in_give_back_of_an_open_block_goes_on_in_both, .init = make_polled)
{
	fork_in_give_back(QUEUED - 1);
}

/* ------------------------------------------------ in proportion to what is queued */

/* Each block in pages of its own. */
static struct {
	char *pages;
	size_t page, used;
} arena;

enum { ARENA = 64 };

static void *arena_alloc(void *host, size_t bytes, size_t align)
{
	void *memory;

	(void)host;
	if (bytes == sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t))
		return arena.used < ARENA ? arena.pages + arena.used++ * arena.page : NULL;
	return posix_memalign(&memory, align, bytes) == 0 ? memory : NULL;
}

static void arena_free(void *host, void *memory, size_t bytes)
{
	(void)host;
	if (bytes != sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t))
		free(memory);
}

/* But for blocks that hold something. */
static void protect_arena(void)
{
	for (size_t i = 0; i < arena.used; i++) {
		cq_block_t *b = (cq_block_t *)(void *)(arena.pages + i * arena.page);

		if (b->begin == b->end && b != p->block)
			CHECK(mprotect(b, arena.page, PROT_NONE) == 0);
	}
}

static void open_arena(void)
{
	CHECK(mprotect(arena.pages, ARENA * arena.page, PROT_READ | PROT_WRITE) == 0);
}

static void open_arena_and_run_all_once(void)
{
	open_arena();
	end_with(22 * SLOTS + 1);
}

static void make_in_the_arena(void)
{
	static const cq_allocator_t allocator = { arena_alloc, arena_free, NULL };
	cq_pool_config_t polled = { .flags = POLLED };
	cq_cleanup_config_t config = { .block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t),
		.allocator = &allocator, .pool_config = &polled };

	arena.page = (size_t)sysconf(_SC_PAGESIZE);
	CHECK(posix_memalign((void **)&arena.pages, arena.page, ARENA * arena.page) == 0);
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
}

/* That would end a child which touches one. */
Test(fork, child_touches_no_block_that_holds_nothing, .init = make_in_the_arena)
{
	put(p, 0, 20 * SLOTS);
	run_all(NULL);
	put(p, 20 * SLOTS, 2 * SLOTS + 1);
	cr_assert_geq(arena.used, 20);
	protect_arena();
	in_a_child(open_arena_and_run_all_once);
	open_arena_and_run_all_once();
}

static void forks_with_the_rest_protected(void *arg)
{
	protect_arena();
	(void)test_forked();
	open_arena();
	run_it(arg);
}

/* The callback's own block is found as well, and two that wait. */
Test(fork, child_of_a_callback_touches_no_block_that_holds_nothing, .init = make_in_the_arena)
{
	put(p, 0, 20 * SLOTS);
	run_all(NULL);
	CHECK(cq_producer_enqueue(p, forks_with_the_rest_protected, (void *)(uintptr_t)(20 * SLOTS)) == 0);
	put(p, 20 * SLOTS + 1, 3 * SLOTS);
	run_all(NULL);
	end_both_with(23 * SLOTS + 1);
}

static void gives_back_a_fork(void *unused, cq_callback_fn *fn, void *arg)
{
	if (runs == 20 * SLOTS) {
		protect_arena();
		(void)test_forked();
		open_arena();
	}
	take_back(unused, fn, arg);
}

/* What is in hand there is found too. */
Test(fork, child_of_a_give_back_touches_no_block_that_holds_nothing, .init = make_in_the_arena)
{
	put(p, 0, 20 * SLOTS);
	run_all(NULL);
	put(p, 20 * SLOTS, 3 * SLOTS);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, gives_back_a_fork, NULL), 0);
	end_both_with(23 * SLOTS);
}

static void pops_and_ends(void)
{
	put(p, 3 * SLOTS, 2 * SLOTS);
	end_with(5 * SLOTS);
}

/* Where pops have a lock, it is the word beside the head. */
Test(fork, child_pops_though_a_lost_thread_was_popping, .init = make_polled)
{
	char *generation;

	put(p, 0, 3 * SLOTS);
	run_all(NULL);
	generation = q->first.free[0].generation;
	q->first.free[0].generation = (char *)(uintptr_t)1;
	in_a_child(pops_and_ends);
	q->first.free[0].generation = generation;
	pops_and_ends();
}
