/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 4: drain and shutdown, against all that may run beside them. Each
 * ends by destroying the queue as soon as the shutdown has returned.
 */
#include <errno.h>
#include <sched.h>
#include <stddef.h>

#include "cleanup/cleanup_priv.h"
#include "jobs.h"
#include "pool/pool_priv.h"

static void enqueuer(void *arg)
{
	for (int i = 0; i < 3; i++)
		if (enqueue(arg, i) != 0)
			return;
}

static void enqueuer_of_1(void *arg)
{
	enqueue(arg, 0);
}

static void enqueuer_of_another(void *arg)
{
	enqueue(arg, 1);
}

static void enqueuer_who_detaches(void *arg)
{
	enqueuer(arg);
	cq_producer_detach(arg);
	producers[0] = NULL;
}

static void enqueuer_who_flushes(void *arg)
{
	enqueue(arg, 0);
	cq_producer_flush(arg);
	enqueue(arg, 1);
}

static void publisher_of_0(void *arg)
{
	publish(arg, 0);
}

static void publisher_of_2(void *arg)
{
	publish(arg, 2);
}

/* Publishes the block, with what was there before. */
static void enqueuer_of_the_second(void *arg)
{
	enqueue_some(arg, 1, 1);
}

static void runner_of_1(void *unused)
{
	(void)unused;
	cq_cleanup_run_some(q, 1);
}

/* ----------------------------------------------------------------------- drain */

/* What was before has run, to the caller: nothing else orders the two. Out of line, or the compiler reads
   `ran` whatever the drain says. */
static __attribute__((noinline)) void drained(int first, int n)
{
	for (int i = first; i < first + n; i++)
		CHECK(jobs[i].ran);
}

static void drains(int first, int n)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	drained(first, n);
}

static void drain_of_a_full_block(void)
{
	begin(HOSTED, 0, 1);
	serve();
	publish(producers[0], 0);
	drains(0, 2);
	end_calmly();
}

/* Nobody serves yet: the first block makes a worker. */
static void drain_in_a_pool_that_makes_workers(void)
{
	begin(0, 1, 1);
	enqueue_some(producers[0], 0, 1);
	drains(0, 1);
	end_calmly();
}

/* Another's enqueues go on. */
static void drain_waits_for_what_was_before(void)
{
	begin(HOSTED, 0, 2);
	serve();
	enqueue_some(producers[1], 4, 1);
	run_beside(publisher_of_0, producers[0]);
	drains(4, 1);
	join_beside();
	end_calmly();
}

/* Another thread publishes the block. */
static void drain_of_a_block_on_its_way(void)
{
	begin(HOSTED, 0, 1);
	serve();
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_the_second, producers[0]);
	drains(0, 1);
	join_beside();
	end_calmly();
}

/* The drain that comes later may find the block claimed, and nothing to collect. */
static void drainer_of_1(void *unused)
{
	(void)unused;
	drains(0, 1);
}

static void two_drains(void)
{
	begin(HOSTED, 0, 1);
	serve();
	enqueue_some(producers[0], 0, 1);
	run_beside(drainer_of_1, NULL);
	drains(0, 1);
	join_beside();
	end_calmly();
}

/* The same where another collects, and where the caller may see what has run. */
static void drain_against_flush(void)
{
	begin(HOSTED, 0, 1);
	serve();
	enqueue_some(producers[0], 0, 1);
	run_beside(flusher, NULL);
	drains(0, 1);
	join_beside();
	end_calmly();
}

/* A signal wakes nobody there: who publishes sees that another waits, or that one finds the block's task. */
static void drain_in_a_polled_pool(void)
{
	begin(POLLED, 1, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(drainer_of_1, NULL);
	enqueuer_of_the_second(producers[0]);
	join_beside();
	end_calmly();
}

/* A block of the epoch before this one's is still to run, while that of the other is done. */
static void drainer_of_none(void *unused)
{
	(void)unused;
	drains(0, 0);
}

static void drain_behind_an_earlier_epoch(void)
{
	begin(HOSTED, 0, 2);
	serve();
	publish(producers[0], 0);
	run_beside(drainer_of_none, NULL);
	enqueue_some(producers[1], 4, 1);
	drains(0, 2);
	drained(4, 1);
	join_beside();
	end_calmly();
}

static void drain_against_the_flush_of_a_producer(void)
{
	begin(HOSTED, 0, 2);
	serve();
	enqueue_some(producers[1], 4, 1);
	run_beside(enqueuer_who_flushes, producers[0]);
	drains(4, 1);
	join_beside();
	end_calmly();
}

static void flusher_of(void *producer)
{
	CHECK(cq_producer_flush(producer) == 0);
}

/* It is open, claimed by its owner, or in the partial block, which nobody runs. */
static void drain_against_a_flush_of_few(void)
{
	begin(CALLED | ONE_IS_FEW, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(flusher_of, producers[0]);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	join_beside();
	end_calmly();
}

static void drain_against_detach(void)
{
	begin(HOSTED, 0, 1);
	serve();
	enqueue_some(producers[0], 4, 1);
	run_beside(enqueuer_who_detaches, producers[0]);
	drains(4, 1);
	end_calmly();
}

/* By a producer that the drain may have to find, and which others go on with. */
static void drain_against_enqueues_without_a_producer(void)
{
	begin(HOSTED, 0, 0);
	serve();
	enqueue_some(NULL, 4, 1);
	run_beside(publisher_of_0, NULL);
	drains(4, 1);
	join_beside();
	end_calmly();
}

/* The block is full as the drain begins, and left to a tick that doesn't come. */
static void drain_against_a_lazy_block(void)
{
	begin(HOSTED | LAZY, 0, 1);
	serve();
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_the_second, producers[0]);
	drains(0, 1);
	join_beside();
	end_calmly();
}

/* ---------------------------------------------------------- drain, and nobody serves */

/* It says so, or the other has run all. */
static void drain_where_nobody_serves(int first, int n)
{
	int err = cq_cleanup_drain(q, CQ_FOREVER);

	CHECK(err == 0 || err == EAGAIN);
	if (err == 0)
		drained(first, n);
}

static void drain_against_run_some(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	drain_where_nobody_serves(0, 2);
	join_beside();
	drains(0, 2);
	end_calmly();
}

/* What has run is counted by then, too. */
static void drain_against_a_count(void)
{
	cq_cleanup_stats_t stats;
	int err;

	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	err = cq_cleanup_drain(q, CQ_FOREVER);
	cq_cleanup_stats(q, &stats);
	CHECK(err == 0 || err == EAGAIN);
	CHECK(err != 0 || stats.executed == 2);
	join_beside();
	end_calmly();
}

/* It sleeps while the only thread that ran callbacks puts the rest of its block back. */
static void drain_against_the_last_run_some(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner_of_1, NULL);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	join_beside();
	end_calmly();
}

static void pool_runner_of_1(void *unused)
{
	(void)unused;
	cq_pool_run_some(cq_cleanup_pool(q), 1);
}

static void drain_against_the_last_thread_of_the_host(void)
{
	begin(HOSTED, 0, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	run_beside(pool_runner_of_1, NULL);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	join_beside();
	end_calmly();
}

/* The drain looks while the record is in the runner's hand, and sleeps; the runner has had its piece, and leaves one. */
static void polled_drain_against_pool_runner(void)
{
	begin(POLLED, 1, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	run_beside(pool_runner_of_1, NULL);
	drains(0, 4);
	join_beside();
	end_calmly();
}

/* The drain finds the block counted, but not there, and sleeps. */
static void block_published_against_a_drain_in_an_unserved_pool(void)
{
	begin(HOSTED, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_the_second, producers[0]);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	join_beside();
	end_calmly();
}

/* The same, and the block's task is signalled by another, who has yet to push it. */
static void two_blocks_published_against_a_drain_in_an_unserved_pool(void)
{
	begin(HOSTED, 0, 2);
	enqueue_some(producers[0], 4, 1);
	run_beside(publisher_of_0, producers[0]);
	run_beside(publisher_of_2, producers[1]);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	join_beside();
	end_calmly();
}

/* The same, where it would be the owner's to run. */
static void block_published_against_a_drain_of_an_owners_queue(void)
{
	begin(BY_OWNER, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_the_second, producers[0]);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	join_beside();
	end_calmly();
}

/* The same, and its publisher makes the worker, or can't. */
static void block_published_against_a_drain_where_making_may_fail(void)
{
	begin(MAY_FAIL, 1, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_the_second, producers[0]);
	drain_where_nobody_serves(0, 1);
	join_beside();
	end_calmly();
}

/* -------------------------------------------------------------------- shutdown */

static void shutdown_drain_against(unsigned how, void (*body)(void *))
{
	begin(how, 0, 1);
	run_beside(body, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void shutdown_drain_against_enqueue(void)
{
	shutdown_drain_against(CALLED, enqueuer);
}

static void shutdown_drain_against_put(void)
{
	shutdown_drain_against(CALLED | PUTS, enqueuer);
}

static void shutdown_drain_against_detach(void)
{
	shutdown_drain_against(CALLED, enqueuer_who_detaches);
}

static void shutdown_drain_against_the_flush_of_a_producer(void)
{
	shutdown_drain_against(CALLED, enqueuer_who_flushes);
}

static void shutdown_drain_against_a_flush_of_few(void)
{
	shutdown_drain_against(CALLED | ONE_IS_FEW, enqueuer_who_flushes);
}

/* One of the two may go on with the producer that the other leaves. */
static void shutdown_against_enqueues_without_a_producer(cq_shutdown_how_t how, bool one_is_there)
{
	begin(CALLED, 0, 0);
	if (one_is_there)
		enqueue_some(NULL, 4, 1);
	run_beside(enqueuer_of_1, NULL);
	run_beside(enqueuer_of_another, NULL);
	end(how);
}

static void shutdown_drain_against_enqueues_without_a_producer(void)
{
	shutdown_against_enqueues_without_a_producer(CQ_SHUTDOWN_DRAIN, true);
}

static void shutdown_drain_against_the_first_without_a_producer(void)
{
	shutdown_against_enqueues_without_a_producer(CQ_SHUTDOWN_DRAIN, false);
}

static void hand_back_against_enqueues_without_a_producer(void)
{
	shutdown_against_enqueues_without_a_producer(CQ_SHUTDOWN_HAND_BACK, true);
}

/* The producer lists itself anew, or is refused. */
static void enqueuer_of_1_more(void *arg)
{
	enqueue(arg, 1);
}

static void shutdown_drain_against_enqueue_of_who_was_let_go(void)
{
	cq_block_t *empty;

	begin(CALLED | TWO_LINES, 0, 1);
	enqueue_some(producers[0], 0, 1);
	for (int i = 0; i < 2; i++) {
		pthread_mutex_lock(&q->lock);
		CHECK(cq_collect(q, true, &empty) == 0);
		pthread_mutex_unlock(&q->lock);
		CHECK(empty == NULL);
	}
	CHECK(producers[0]->listed == UNLISTED);
	run_beside(enqueuer_of_1_more, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void shutdown_drain_against_enqueue_and_a_worker(void)
{
	begin(HOSTED, 0, 1);
	serve();
	run_beside(enqueuer, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void hand_back_against(unsigned how, void (*body)(void *))
{
	begin(CALLED | how, 0, 1);
	run_beside(body, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_enqueue(void)
{
	hand_back_against(0, enqueuer);
}

static void enqueuer_of_one_more(void *arg)
{
	enqueue(arg, 1);
}

/* Its block is open: the claim may come at any point of the refusal. */
static void hand_back_against_one_more(void)
{
	begin(CALLED, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_one_more, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void enqueuer_of_5(void *arg)
{
	for (int i = 0; i < 5; i++)
		if (enqueue(arg, i) != 0)
			return;
}

static void hand_back_against_put(void)
{
	hand_back_against(PUTS, enqueuer_of_5);
}

static void spanner(void *arg)
{
	span_some(arg, 0, 1);
	span_some(arg, 1, 1);
}

static void hand_back_against_spans(void)
{
	hand_back_against(0, spanner);
}

static void spanner_of_two(void *arg)
{
	span_some(arg, 0, 2);
}

/* The other's callback takes half of the first block: the two may be claimed one by one. */
static void shutdown_against_a_span_claimed_in_halves(void)
{
	begin(CALLED, 0, 2);
	enqueue_some(producers[1], 4, 1);
	run_beside(spanner_of_two, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void hand_back_against_the_flush_of_a_producer(void)
{
	hand_back_against(0, enqueuer_who_flushes);
}

static void hand_back_against_a_flush_of_few(void)
{
	hand_back_against(ONE_IS_FEW, enqueuer_who_flushes);
}

static void hand_back_against_flush(void)
{
	begin(CALLED, 0, 1);
	run_beside(enqueuer_of_1, producers[0]);
	run_beside(flusher, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* A run that stops puts back what it has not run; one that is at its end has nothing. */
static void hand_back_against_run_some(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	enqueue_some(producers[0], 2, 1);
	run_beside(runner, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_a_worker(void)
{
	begin(HOSTED, 0, 1);
	serve();
	publish(producers[0], 0);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_a_lazy_block(void)
{
	begin(CALLED | LAZY, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_another, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* A tick takes what a shutdown has sealed, or is the last. */
static void shutdown_against_a_tick(cq_shutdown_how_t how)
{
	begin(CALLED | TIMED, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_another, producers[0]);
	run_beside(pass_tick, NULL);
	CHECK(shut_down(how) == 0);
	join_beside();
	pass_tick(NULL);
	CHECK(q->task->at == 0);
	end(how);
}

static void shutdown_drain_against_a_tick(void)
{
	shutdown_against_a_tick(CQ_SHUTDOWN_DRAIN);
}

static void hand_back_against_a_tick(void)
{
	shutdown_against_a_tick(CQ_SHUTDOWN_HAND_BACK);
}

/* No signal of theirs says that nobody serves: who hands back is told of a block by who puts it there. */
static void hand_back_against_enqueue_and_a_worker(void)
{
	begin(HOSTED, 0, 1);
	serve();
	run_beside(enqueuer, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* One puts a rest back, the other finds it, and the shutdown may do so too. */
static void hand_back_against_two_runs(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	run_beside(runner_of_1, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* What is handed back was queued, to somebody who learns of both by the statistics alone. */
static void statistician(void *unused)
{
	cq_cleanup_stats_t stats;

	(void)unused;
	cq_cleanup_stats(q, &stats);
	CHECK(stats.executed + stats.handed_back <= stats.queued);
}

static void enqueuer_of_2(void *arg)
{
	if (enqueue(arg, 0) == 0)
		enqueue(arg, 1);
}

static void hand_back_against_statistics(void)
{
	begin(CALLED, 0, 1);
	run_beside(enqueuer_of_2, producers[0]);
	run_beside(statistician, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* The blocks are of both epochs. */
static void hand_back_of_two_epochs(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	run_beside(runner, NULL);
	publish(producers[0], 2);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* ------------------------------------------------------------ beside another that waits */

static void shuts_down(void *unused)
{
	int err = shut_down(CQ_SHUTDOWN_DRAIN);

	(void)unused;
	CHECK(err == 0 || err == EALREADY);
}

static void shutdown_against_shutdown(void)
{
	begin(HOSTED, 0, 1);
	serve();
	publish(producers[0], 0);
	run_beside(shuts_down, NULL);
	shuts_down(NULL);
	end_of_shut_down();
}

static void do_nothing(cq_run_t *run, void *unused)
{
	(void)run, (void)unused;
}

/* While its task is open the pool has not ended. */
static void maker_of_a_task(void *unused)
{
	static const cq_task_ops_t ops = { .run = do_nothing };
	cq_task_t *task;
	int err = cq_task_create(q->pool, &ops, NULL, 0, &task);

	(void)unused;
	CHECK(err == 0 || err == ESHUTDOWN);
	if (err == 0) {
		CHECK(!cq_pool_stopped(q->pool));
		CHECK(cq_task_close(task, CQ_FOREVER) == 0);
	}
}

static void shutdown_against_a_new_task_of_its_pool(void)
{
	begin(CALLED, 0, 1);
	run_beside(maker_of_a_task, NULL);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN) == 0);
	join_beside();
	end_of_shut_down();
}

static void drainer_until_the_end(void *unused)
{
	int err = cq_cleanup_drain(q, CQ_FOREVER);

	(void)unused;
	CHECK(err == 0 || err == ESHUTDOWN);
	if (err == 0)
		drained(0, 1);
}

static void drain_against_a_shutdown_that_drains(void)
{
	begin(HOSTED, 0, 1);
	serve();
	enqueue_some(producers[0], 0, 1);
	run_beside(drainer_until_the_end, NULL);
	CHECK(shut_down(CQ_SHUTDOWN_DRAIN) == 0);
	drained(0, 1);
	end_of_shut_down();
}

/* It began before the shutdown: it does not take what is handed back for run. */
static uint32_t drain_ended;

static void drainer_until_it_is_handed_back(void *unused)
{
	int err = cq_cleanup_drain(q, CQ_FOREVER);

	(void)unused;
	CHECK(err == 0 || err == ESHUTDOWN);
	if (err == 0)
		drained(0, 2);
	cq_u32_store_relaxed(&drain_ended, 1);
}

static void drain_against_hand_back(void)
{
	begin(HOSTED, 0, 1);
	serve();
	publish(producers[0], 0);
	run_beside(drainer_until_it_is_handed_back, NULL);
	while (cq_u32_load_relaxed(&q->draining) == 0 && cq_u32_load_relaxed(&drain_ended) == 0)
		sched_yield();
	CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK) == 0);
	end_of_shut_down();
}

/* ------------------------------------------------------------------------ room */

/* A bound of one block, below what create lets pass: jobs[0] and [1] wait. */
static void begin_full(unsigned how, int n)
{
	begin(how, 0, n);
	serve();
	q->max_waiting = ONE_BLOCK;
	publish(producers[0], 0);
}

static void waiter_for(int i, cq_producer_t *p)
{
	CHECK(cq_cleanup_wait_for_room(q, CQ_FOREVER) == 0);
	/* None of those who wait publishes a block before: so there is room still. */
	enqueue_some(p, i, 1);
}

static void waiter_of_another(void *unused)
{
	(void)unused;
	waiter_for(4, producers[1]);
}

static void room_against_a_worker(void)
{
	begin_full(HOSTED, 1);
	waiter_for(2, producers[0]);
	end_calmly();
}

static void room_for_two(void)
{
	begin_full(HOSTED, 2);
	run_beside(waiter_of_another, NULL);
	waiter_for(2, producers[0]);
	join_beside();
	end_calmly();
}

/* With a bound; a thread of the host's that serves is counted, and does nothing. */
static void begin_bounded(size_t max_waiting)
{
	begin(HOSTED, 0, 1);
	q->pool->serving = 1;
	q->max_waiting = max_waiting;
}

static void end_bounded(void)
{
	q->pool->serving = 0;
	end_calmly();
}

/* There is room all the time, whoever runs a block that is just being published. */
static void room_beside_a_block_that_is_published_and_run(void)
{
	begin_bounded(ONE_BLOCK + 1);
	run_beside(publisher_of_0, producers[0]);
	run_beside(runner, NULL);
	CHECK(cq_cleanup_wait_for_room(q, CQ_FOREVER) == 0);
	join_beside();
	end_bounded();
}

/* Nobody runs all: what one leaves of the block is room. */
static void room_of_the_rest_of_a_block(void)
{
	begin_bounded(ONE_BLOCK);
	publish(producers[0], 0);
	run_beside(runner_of_1, NULL);
	waiter_for(2, producers[0]);
	join_beside();
	end_bounded();
}

/* Two take some off, and neither leaves room alone. */
static void room_made_by_two(void)
{
	begin_bounded(3);
	publish(producers[0], 0);
	publish(producers[0], 2);
	run_beside(runner_of_1, NULL);
	run_beside(runner_of_1, NULL);
	waiter_for(4, producers[0]);
	join_beside();
	end_bounded();
}

/* A callback hangs: nothing but the end of the queue ends the wait. */
static void waiter_until_the_end(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_wait_for_room(q, CQ_FOREVER) == ESHUTDOWN);
	let_the_first_go();
}

static void room_against_a_shutdown(void)
{
	first_waits_for = 1;
	begin_full(HOSTED | AWAITED, 1);
	run_beside(waiter_until_the_end, NULL);
	end(CQ_SHUTDOWN_DRAIN);
}

/* Who serves leaves: who waits is told. */
static void waiter_where_nobody_serves(void)
{
	int err = cq_cleanup_wait_for_room(q, CQ_FOREVER);

	CHECK(err == 0 || err == EAGAIN);
}

static void room_against_a_block_published_in_an_unserved_pool(void)
{
	begin(HOSTED, 0, 1);
	q->max_waiting = ONE_BLOCK;
	run_beside(publisher_of_0, producers[0]);
	waiter_where_nobody_serves();
	join_beside();
	end_calmly();
}

const struct scenario shutdown_scenarios[] = {
	{ "drain_of_a_full_block", drain_of_a_full_block, SOME(2, 1), SOME(3, 2) },
	{ "drain_in_a_pool_that_makes_workers", drain_in_a_pool_that_makes_workers,
	    SOME(1, 1), SOME(3, 2) },
	{ "drain_in_a_polled_pool", drain_in_a_polled_pool, SOME(1, 1), SOME(3, 2) },
	{ "drain_waits_for_what_was_before", drain_waits_for_what_was_before, SOME(1, 1), SOME(3, 2) },
	{ "drain_of_a_block_on_its_way", drain_of_a_block_on_its_way, SOME(1, 1), SOME(2, 2) },
	{ "drain_against_another_drain", two_drains, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_flush", drain_against_flush, SOME(1, 1), SOME(3, 2) },
	{ "drain_behind_an_earlier_epoch", drain_behind_an_earlier_epoch, SOME(1, 0), SOME(2, 1) },
	{ "drain_against_the_flush_of_a_producer", drain_against_the_flush_of_a_producer,
	    SOME(1, 1), SOME(3, 2) },
	{ "drain_against_a_flush_of_few", drain_against_a_flush_of_few, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_detach", drain_against_detach, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_enqueues_without_a_producer", drain_against_enqueues_without_a_producer,
	    SOME(1, 1), SOME(3, 2) },
	{ "drain_against_a_lazy_block", drain_against_a_lazy_block, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_run_some", drain_against_run_some, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_a_count", drain_against_a_count, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_the_last_run_some", drain_against_the_last_run_some, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_the_last_thread_of_the_host", drain_against_the_last_thread_of_the_host,
	    SOME(2, 1), SOME(3, 2) },
	{ "drain_against_a_block_published_in_an_unserved_pool",
	    block_published_against_a_drain_in_an_unserved_pool, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_two_blocks_published_in_an_unserved_pool",
	    two_blocks_published_against_a_drain_in_an_unserved_pool, SOME(1, 1), SOME(2, 1) },
	{ "drain_polled_against_pool_runner", polled_drain_against_pool_runner, SOME(1, 1), SOME(2, 1) },
	{ "drain_against_a_block_published_for_an_owner",
	    block_published_against_a_drain_of_an_owners_queue, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_a_block_published_where_making_may_fail",
	    block_published_against_a_drain_where_making_may_fail, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_a_shutdown_that_drains", drain_against_a_shutdown_that_drains,
	    SOME(1, 1), SOME(3, 2) },
	{ "drain_against_hand_back", drain_against_hand_back, SOME(1, 1), SOME(3, 2) },
	{ "room_against_a_worker", room_against_a_worker, SOME(1, 1), SOME(3, 2) },
	{ "room_for_two", room_for_two, SOME(1, 1), SOME(3, 2) },
	{ "room_beside_a_block_that_is_published_and_run", room_beside_a_block_that_is_published_and_run,
	    SOME(2, 1), SOME(3, 2) },
	{ "room_of_the_rest_of_a_block", room_of_the_rest_of_a_block, SOME(2, 1), SOME(3, 2) },
	{ "room_made_by_two", room_made_by_two, SOME(1, 1), SOME(3, 2) },
	{ "room_against_a_shutdown", room_against_a_shutdown, SOME(1, 1), SOME(3, 2) },
	{ "room_against_a_block_published_in_an_unserved_pool",
	    room_against_a_block_published_in_an_unserved_pool, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_drain_against_enqueue", shutdown_drain_against_enqueue, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_drain_against_put", shutdown_drain_against_put, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_drain_against_detach", shutdown_drain_against_detach, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_drain_against_the_flush_of_a_producer",
	    shutdown_drain_against_the_flush_of_a_producer, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_drain_against_a_flush_of_few", shutdown_drain_against_a_flush_of_few,
	    SOME(2, 2), SOME(3, 2) },
	{ "shutdown_drain_against_enqueue_of_who_was_let_go",
	    shutdown_drain_against_enqueue_of_who_was_let_go, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_drain_against_enqueue_and_a_worker", shutdown_drain_against_enqueue_and_a_worker,
	    SOME(1, 1), SOME(3, 2) },
	{ "shutdown_drain_against_enqueues_without_a_producer",
	    shutdown_drain_against_enqueues_without_a_producer, SOME(1, 1), SOME(3, 2) },
	{ "shutdown_drain_against_the_first_without_a_producer",
	    shutdown_drain_against_the_first_without_a_producer, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_enqueues_without_a_producer",
	    hand_back_against_enqueues_without_a_producer, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_a_lazy_block", hand_back_against_a_lazy_block, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_drain_against_a_tick", shutdown_drain_against_a_tick, SOME(1, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_a_tick", hand_back_against_a_tick, SOME(1, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_enqueue", hand_back_against_enqueue, SOME(2, 2), SOME(4, 3) },
	{ "shutdown_hand_back_against_one_more", hand_back_against_one_more, SOME(2, 2), SOME(4, 3) },
	{ "shutdown_hand_back_against_put", hand_back_against_put, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_hand_back_against_spans", hand_back_against_spans, SOME(2, 2), SOME(4, 3) },
	{ "shutdown_against_a_span_claimed_in_halves",
	    shutdown_against_a_span_claimed_in_halves, SOME(2, 2), SOME(4, 3) },
	{ "shutdown_hand_back_against_the_flush_of_a_producer",
	    hand_back_against_the_flush_of_a_producer, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_hand_back_against_a_flush_of_few", hand_back_against_a_flush_of_few,
	    SOME(2, 2), SOME(3, 2) },
	{ "shutdown_hand_back_against_flush", hand_back_against_flush, SOME(3, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_run_some", hand_back_against_run_some, SOME(2, 2), SOME(3, 2) },
	{ "shutdown_hand_back_against_a_worker", hand_back_against_a_worker, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_enqueue_and_a_worker", hand_back_against_enqueue_and_a_worker,
	    SOME(3, 0), SOME(3, 2) },
	{ "shutdown_hand_back_against_two_runs", hand_back_against_two_runs, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_statistics", hand_back_against_statistics,
	    SOME(2, 2), SOME(3, 3) },
	{ "shutdown_hand_back_of_two_epochs", hand_back_of_two_epochs, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_against_a_new_task_of_its_pool", shutdown_against_a_new_task_of_its_pool, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_against_shutdown", shutdown_against_shutdown, SOME(1, 1), SOME(3, 2) },
	{ 0 }
};
