/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 3: blocks that share one function, and lines that are fetched
 * ahead. Each begins with a full block of pairs, after which the next is shared.
 */
#include <stddef.h>

#include "jobs.h"

/* In a shared block there is room for one less than twice as many. */
enum { SHARED = 2 * ONE_BLOCK - 1 };

static cq_worker_t *host;

static void run_a_block(void)
{
	cq_block_t *b = cq_worker_try_dequeue(host);

	if (b != NULL)
		cq_worker_run(host, b);
}

static void begin_sharing(unsigned how, uint32_t max_workers)
{
	begin(how | SHARING, max_workers, 1);
	publish(producers[0], 0);
}

/* ------------------------------------------------------------------ the gatherer */

static void enqueuer_of_a_shared_block(void *arg)
{
	enqueue_some(arg, ONE_BLOCK, SHARED);
}

static void flush_all_against_a_shared_block(void)
{
	begin_sharing(POLLED, 0);
	run_beside(enqueuer_of_a_shared_block, producers[0]);
	run_beside(flusher, NULL);
	end_polled();
}

/* Its block ends early, and another begins. */
static void enqueuer_of_another_function(void *arg)
{
	enqueue_some(arg, ONE_BLOCK, 3);
}

static void flush_all_against_another_function(void)
{
	others_from = ONE_BLOCK + 2;
	begin_sharing(POLLED, 0);
	run_beside(enqueuer_of_another_function, producers[0]);
	run_beside(flusher, NULL);
	end_polled();
}

/* The block that the gatherer may be copying is run and opened once more, in the other
   way, and with another function. */
static void enqueuer_who_runs(void *arg)
{
	enqueue_some(arg, ONE_BLOCK, 1);
	CHECK(cq_producer_flush(arg) == 0);
	run_a_block();
	enqueue_some(arg, ONE_BLOCK + 1, 1);
}

static void begin_beside_a_host(unsigned how)
{
	begin_sharing(how | POLLED, 0);
	CHECK(cq_worker_attach(q, NULL, &host) == 0);
	run_a_block();
}

static void flush_all_against_reuse_of_a_shared_block(void)
{
	others_from = ONE_BLOCK + 1;
	begin_beside_a_host(0);
	run_beside(enqueuer_who_runs, producers[0]);
	run_beside(flusher, NULL);
	join_beside();
	cq_worker_detach(host);
	end_polled();
}

/* The same, from a block of pairs to a shared one. */
static void enqueuer_who_fills_and_runs(void *arg)
{
	enqueue_some(arg, 0, ONE_BLOCK);
	run_a_block();
	enqueue_some(arg, ONE_BLOCK, 2);
}

static void flush_all_against_reuse_by_a_shared_block(void)
{
	begin(POLLED | SHARING, 0, 1);
	CHECK(cq_worker_attach(q, NULL, &host) == 0);
	run_beside(enqueuer_who_fills_and_runs, producers[0]);
	run_beside(flusher, NULL);
	join_beside();
	cq_worker_detach(host);
	end_polled();
}

static void spanner(void *arg)
{
	enqueue_some(arg, ONE_BLOCK, 1);
	span_some(arg, ONE_BLOCK + 1, 2);
}

static void flush_all_against_a_span_after_a_shared_block(void)
{
	begin_sharing(POLLED, 0);
	run_beside(spanner, producers[0]);
	run_beside(flusher, NULL);
	end_polled();
}

/* The block that the gatherer may be copying is run, and its slots are a span. */
static void spanner_who_runs(void *arg)
{
	enqueue_some(arg, 0, 1);
	CHECK(cq_producer_flush(arg) == 0);
	run_a_block();
	span_some(arg, 1, 1);
}

static void flush_all_against_a_span_of_a_reused_block(void)
{
	begin(POLLED, 0, 1);
	CHECK(cq_worker_attach(q, NULL, &host) == 0);
	run_beside(spanner_who_runs, producers[0]);
	run_beside(flusher, NULL);
	join_beside();
	cq_worker_detach(host);
	end_polled();
}

/* The second block's other line is fetched while the gatherer may be copying what was
   there before. */
static void enqueuer_of_two_lines(void *arg)
{
	enqueue_some(arg, 0, 4);
	run_a_block();
	enqueue_some(arg, 4, 4);
}

static void flush_all_against_a_fetched_line(void)
{
	begin(POLLED | TWO_LINES, 0, 1);
	CHECK(cq_worker_attach(q, NULL, &host) == 0);
	run_beside(enqueuer_of_two_lines, producers[0]);
	run_beside(flusher, NULL);
	join_beside();
	cq_worker_detach(host);
	end_polled();
}

/* -------------------------------------------------------- statistics, drain, shutdown */

static void statistician(void *arg)
{
	cq_cleanup_stats_t first, second;

	(void)arg;
	cq_cleanup_stats(q, &first);
	cq_cleanup_stats(q, &second);
	CHECK(first.queued >= ONE_BLOCK && first.queued <= second.queued);
	CHECK(second.queued <= ONE_BLOCK + 3 && second.executed <= second.queued);
}

static void statistics_against_another_function(void)
{
	others_from = ONE_BLOCK + 2;
	begin_sharing(POLLED, 0);
	run_beside(enqueuer_of_another_function, producers[0]);
	run_beside(statistician, NULL);
	end_polled();
}

static void enqueuer_of_the_other(void *arg)
{
	enqueue_some(arg, ONE_BLOCK + 1, 1);
}

static void drain_against_another_function(void)
{
	others_from = ONE_BLOCK + 1;
	begin_sharing(HOSTED, 1);
	enqueue_some(producers[0], ONE_BLOCK, 1);
	run_beside(enqueuer_of_the_other, producers[0]);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	for (int i = 0; i <= ONE_BLOCK; i++)
		CHECK(jobs[i].ran);
	join_beside();
	end_calmly();
}

static void enqueuer_until_the_end(void *arg)
{
	for (int i = ONE_BLOCK; i < ONE_BLOCK + 3; i++)
		if (enqueue(arg, i) != 0)
			return;
}

static void hand_back_against_a_shared_block(void)
{
	begin_sharing(POLLED, 0);
	run_beside(enqueuer_until_the_end, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_another_function(void)
{
	others_from = ONE_BLOCK + 2;
	begin_sharing(POLLED, 0);
	run_beside(enqueuer_until_the_end, producers[0]);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void hand_back_against_flush_all_and_a_shared_block(void)
{
	begin_sharing(POLLED, 0);
	run_beside(enqueuer_until_the_end, producers[0]);
	run_beside(flusher, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

const struct scenario shared_scenarios[] = {
	{ "shared_flush_all_against_enqueue", flush_all_against_a_shared_block, SOME(2, 1), SOME(4, 3) },
	{ "shared_flush_all_against_another_function", flush_all_against_another_function,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_flush_all_against_reuse_of_the_block", flush_all_against_reuse_of_a_shared_block,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_flush_all_against_reuse_by_a_shared_block",
	  flush_all_against_reuse_by_a_shared_block, SOME(2, 1), SOME(3, 2) },
	{ "shared_flush_all_against_a_span", flush_all_against_a_span_after_a_shared_block,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_flush_all_against_a_span_of_a_reused_block",
	  flush_all_against_a_span_of_a_reused_block, SOME(2, 1), SOME(3, 2) },
	{ "shared_flush_all_against_a_fetched_line", flush_all_against_a_fetched_line,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_statistics_against_another_function", statistics_against_another_function,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_drain_against_another_function", drain_against_another_function,
	  SOME(1, 1), SOME(3, 2) },
	{ "shared_hand_back_against_enqueue", hand_back_against_a_shared_block,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_hand_back_against_another_function", hand_back_against_another_function,
	  SOME(2, 1), SOME(3, 2) },
	{ "shared_hand_back_against_flush_all", hand_back_against_flush_all_and_a_shared_block,
	  SOME(1, 1), SOME(3, 2) },
	{ 0 }
};
