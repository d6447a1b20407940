/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 3: drain and shutdown, against all that may run beside them.
 * Each ends by destroying the queue as soon as the shutdown has returned.
 */
#include <errno.h>
#include <stddef.h>

#include "jobs.h"

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

static void runner(void *arg)
{
	(void)arg;
	cq_cleanup_run_some(q, SIZE_MAX);
}

/* ----------------------------------------------------------------------- drain */

static void drainer(void *arg)
{
	(void)arg;
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
}

static void drains(int first, int n)
{
	drainer(NULL);
	for (int i = first; i < first + n; i++)
		CHECK(jobs[i].ran);
}

static void drain_waits_for_what_was_before(void)
{
	begin(HOSTED, 1, 2);
	enqueue_some(producers[1], 4, 1);
	run_beside(publisher_of_0, producers[0]);
	drains(4, 1);
	join_beside();
	end_calmly();
}

static void drain_of_a_full_block(void)
{
	begin(HOSTED, 1, 1);
	publish(producers[0], 0);
	drains(0, 2);
	end_calmly();
}

static void enqueuer_of_the_second(void *arg)
{
	enqueue_some(arg, 1, 1);
}

static void drainer_for_the_first(void *arg)
{
	(void)arg;
	drains(0, 1);
}

/* Another thread publishes the block, with what was there before the drain. */
static void drain_of_a_block_on_its_way(void)
{
	begin(HOSTED, 1, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(enqueuer_of_the_second, producers[0]);
	run_beside(drainer_for_the_first, NULL);
	join_beside();
	end_calmly();
}

/* Nothing but the workers' counts says that all has run. */
static void drain_without_producers(void)
{
	begin(HOSTED, 1, 1);
	publish(producers[0], 0);
	cq_producer_detach(producers[0]);
	producers[0] = NULL;
	drains(0, 2);
	end_calmly();
}

static void two_drains(void)
{
	begin(HOSTED, 1, 1);
	publish(producers[0], 0);
	enqueue_some(producers[0], 2, 1);
	run_beside(drainer, NULL);
	drains(0, 3);
	end_calmly();
}

static void drain_against_detach(void)
{
	begin(HOSTED, 1, 1);
	enqueue_some(producers[0], 4, 1);
	run_beside(enqueuer_who_detaches, producers[0]);
	drains(4, 1);
	end_calmly();
}

/* A drain that finds nobody there says so, and the next may find the block run. */
static void drain_against_run_some(void)
{
	int err;

	begin(POLLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	err = cq_cleanup_drain(q, CQ_FOREVER);
	CHECK(err == 0 || err == EAGAIN);
	if (err == EAGAIN)
		join_beside();
	drains(0, 2);
	end_calmly();
}

static void runner_of_1(void *arg)
{
	(void)arg;
	cq_cleanup_run_some(q, 1);
}

/* A drain that sleeps as the only thread that ran callbacks leaves ends, with work left. */
static void drain_against_the_last_run_some(void)
{
	begin(POLLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner_of_1, NULL);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	end_polled();
}

static void handle_comes_and_goes(void *arg)
{
	cq_worker_t *w;

	(void)arg;
	if (cq_worker_attach(q, NULL, &w) == 0)
		cq_worker_detach(w);
}

static void drain_against_the_last_worker(void)
{
	begin(POLLED, 0, 1);
	publish(producers[0], 0);
	run_beside(handle_comes_and_goes, NULL);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	end_polled();
}

static void handle_runs_and_goes(void *arg)
{
	cq_worker_t *w = arg;
	cq_block_t *b = cq_worker_try_dequeue(w);

	if (b != NULL)
		cq_worker_run(w, b);
	cq_worker_detach(w);
}

/* Who has seen that the only worker left has seen all that it ran. */
static void drain_of_what_the_last_worker_ran(void)
{
	cq_worker_t *w;

	begin(POLLED, 0, 1);
	publish(producers[0], 0);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	run_beside(handle_runs_and_goes, w);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	end_polled();
}

/* -------------------------------------------------------------------- shutdown */

static void shutdown_drain_against_enqueue(void)
{
	begin(HOSTED, 1, 1);
	run_beside(enqueuer, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void shutdown_drain_against_detach(void)
{
	begin(HOSTED, 1, 1);
	run_beside(enqueuer_who_detaches, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void shutdown_drain_against_flush(void)
{
	begin(HOSTED, 1, 1);
	run_beside(enqueuer_who_flushes, producers[0]);
	end(CQ_SHUTDOWN_DRAIN);
}

static void hand_back_against_enqueue(void)
{
	begin(HOSTED, 1, 1);
	run_beside(enqueuer, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

/* Without workers: a block on its way must be waited for all the same. */
static void hand_back_against_enqueue_polled(void)
{
	begin(POLLED, 0, 1);
	run_beside(enqueuer, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void spanner(void *arg)
{
	span_some(arg, 0, 1);
	span_some(arg, 1, 1);
}

static void hand_back_against_spans(void)
{
	begin(POLLED, 0, 1);
	run_beside(spanner, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void spanner_of_two(void *arg)
{
	span_some(arg, 0, 2);
}

/* The other's callback takes half of the first block: the two may be claimed one by one. */
static void hand_back_against_a_span_claimed_in_halves(void)
{
	begin(POLLED, 0, 2);
	enqueue_some(producers[1], 4, 1);
	run_beside(spanner_of_two, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_flush(void)
{
	begin(POLLED, 0, 1);
	run_beside(enqueuer_who_flushes, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_flush_all(void)
{
	begin(POLLED, 0, 1);
	run_beside(enqueuer_of_1, producers[0]);
	run_beside(flusher, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_a_worker_going_to_sleep(void)
{
	begin(HOSTED, 1, 1);
	publish(producers[0], 0);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_retirement(void)
{
	begin(HOSTED | RETIRING, 1, 1);
	publish(producers[0], 0);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_run_some(void)
{
	begin(POLLED, 0, 1);
	publish(producers[0], 0);
	enqueue_some(producers[0], 2, 1);
	run_beside(runner, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_to_managed_workers(void)
{
	begin(0, 1, 1);
	publish(producers[0], 0);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void two_shut_down(void *arg)
{
	int err = shut_down(CQ_SHUTDOWN_DRAIN);

	(void)arg;
	CHECK(err == 0 || err == EALREADY);
}

static void shutdown_against_shutdown(void)
{
	int err;

	begin(HOSTED, 1, 1);
	publish(producers[0], 0);
	run_beside(two_shut_down, NULL);
	err = shut_down(CQ_SHUTDOWN_DRAIN);
	CHECK(err == 0 || err == EALREADY);
	end_of_shut_down();
}

const struct scenario shutdown_scenarios[] = {
	{ "drain_waits_for_what_was_before", drain_waits_for_what_was_before, SOME(1, 1), SOME(3, 2) },
	{ "drain_of_a_full_block", drain_of_a_full_block, SOME(2, 1), SOME(3, 2) },
	{ "drain_of_a_block_on_its_way", drain_of_a_block_on_its_way, SOME(1, 2), SOME(2, 2) },
	{ "drain_without_producers", drain_without_producers, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_another_drain", two_drains, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_detach", drain_against_detach, SOME(1, 1), SOME(3, 2) },
	{ "drain_against_run_some", drain_against_run_some, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_the_last_run_some", drain_against_the_last_run_some, SOME(2, 1), SOME(3, 2) },
	{ "drain_against_the_last_worker", drain_against_the_last_worker, SOME(2, 1), SOME(3, 2) },
	{ "drain_of_what_the_last_worker_ran", drain_of_what_the_last_worker_ran, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_drain_against_enqueue", shutdown_drain_against_enqueue, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_drain_against_detach", shutdown_drain_against_detach, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_drain_against_flush", shutdown_drain_against_flush, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_enqueue", hand_back_against_enqueue, SOME(3, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_enqueue_polled", hand_back_against_enqueue_polled,
	    SOME(3, 2), SOME(4, 3) },
	{ "shutdown_hand_back_against_spans", hand_back_against_spans, SOME(3, 1), SOME(4, 3) },
	{ "shutdown_hand_back_against_a_span_claimed_in_halves",
	    hand_back_against_a_span_claimed_in_halves, SOME(3, 1), SOME(4, 3) },
	{ "shutdown_hand_back_against_flush", hand_back_against_flush, SOME(3, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_flush_all", hand_back_against_flush_all, SOME(3, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_a_worker_going_to_sleep",
	    hand_back_against_a_worker_going_to_sleep, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_retirement", hand_back_against_retirement, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_against_run_some", hand_back_against_run_some, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_hand_back_to_managed_workers", hand_back_to_managed_workers, SOME(2, 1), SOME(3, 2) },
	{ "shutdown_against_shutdown", shutdown_against_shutdown, SOME(1, 1), SOME(3, 2) },
	{ 0 }
};
