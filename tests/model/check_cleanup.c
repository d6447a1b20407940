/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 3, the cleanup queue: producers, the gatherer, statistics and
 * drain. Workers are in check_workers.c, shutdown in check_shutdown.c.
 */
#include <stddef.h>

#include "jobs.h"

/* ---------------------------------------------------- producers and the gatherer */

static void enqueuer_of_3(void *arg)
{
	enqueue_some(arg, 0, 3);
}

/* Three by a span of two, and one of one. */
static void spanner_of_3(void *arg)
{
	span_some(arg, 0, 2);
	span_some(arg, 2, 1);
}

static void runner(void *arg)
{
	(void)arg;
	cq_cleanup_run_some(q, SIZE_MAX);
}

static void flush_all_against_spans(void)
{
	begin(POLLED, 0, 1);
	run_beside(spanner_of_3, producers[0]);
	run_beside(flusher, NULL);
	end_polled();
}

static void flush_all_against_enqueue(void)
{
	begin(POLLED, 0, 1);
	run_beside(enqueuer_of_3, producers[0]);
	run_beside(flusher, NULL);
	end_polled();
}

/* The block is emptied by a claim, kept, and opened once more. */
static void enqueuer_who_flushes(void *arg)
{
	enqueue_some(arg, 0, 1);
	CHECK(cq_producer_flush(arg) == 0);
	enqueue_some(arg, 1, 1);
}

static void flush_all_against_flush(void)
{
	begin(POLLED, 0, 1);
	run_beside(enqueuer_who_flushes, producers[0]);
	run_beside(flusher, NULL);
	end_polled();
}

static cq_worker_t *hosts;

/* The block is published, run, and opened once more, while the gatherer may still be
   copying: a worker gives it back without the registry's lock, which run_some takes. */
static void enqueuer_who_runs(void *arg)
{
	cq_block_t *b;

	enqueue_some(arg, 0, 2);
	b = cq_worker_try_dequeue(hosts);
	if (b != NULL)
		cq_worker_run(hosts, b);
	enqueue_some(arg, 2, 2);
}

static void flush_all_against_reuse_of_the_block(void)
{
	begin(POLLED, 0, 1);
	CHECK(cq_worker_attach(q, NULL, &hosts) == 0);
	run_beside(enqueuer_who_runs, producers[0]);
	run_beside(flusher, NULL);
	join_beside();
	cq_worker_detach(hosts);
	end_polled();
}

static void gathered_jobs_are_run_by_another(void)
{
	begin(POLLED, 0, 1);
	run_beside(enqueuer_of_3, producers[0]);
	run_beside(flusher, NULL);
	run_beside(runner, NULL);
	end_polled();
}

/* ------------------------------------------------------------------- statistics */

/* `accepted` jobs have been, before. */
static void statistician(void *accepted)
{
	cq_cleanup_stats_t first, second;

	cq_cleanup_stats(q, &first);
	CHECK(first.queued >= (uintptr_t)accepted);
	cq_cleanup_stats(q, &second);
	CHECK(first.executed <= first.queued && second.executed <= second.queued);
	CHECK(first.queued <= second.queued && first.executed <= second.executed);
	CHECK(second.queued <= 4);
}

static void statistics_against_enqueue(void)
{
	begin(POLLED, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(statistician, (void *)(uintptr_t)1);
	enqueue_some(producers[0], 1, 2);
	end_polled();
}

static void statistics_against_flush(void)
{
	begin(POLLED, 0, 1);
	run_beside(statistician, NULL);
	enqueuer_who_flushes(producers[0]);
	end_polled();
}

static void statistics_against_a_worker(void)
{
	begin(HOSTED, 1, 1);
	run_beside(statistician, NULL);
	publish(producers[0], 0);
	join_beside();
	end_calmly();
}

/* What has run was queued, to somebody who learns of both by the statistics alone. */
static void statistician_of_one_look(void *arg)
{
	cq_cleanup_stats_t stats;

	(void)arg;
	cq_cleanup_stats(q, &stats);
	CHECK(stats.executed <= stats.queued);
}

static void worker_of_one_block(void *worker)
{
	cq_block_t *b = cq_worker_try_dequeue(worker);

	if (b != NULL)
		cq_worker_run(worker, b);
}

static void statistics_against_a_worker_of_the_host(void)
{
	cq_worker_t *w;

	begin(POLLED, 0, 1);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	run_beside(statistician_of_one_look, NULL);
	run_beside(worker_of_one_block, w);
	publish(producers[0], 0);
	join_beside();
	cq_worker_detach(w);
	end_polled();
}

const struct scenario cleanup_scenarios[] = {
	{ "cleanup_flush_all_against_spans", flush_all_against_spans, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_all_against_enqueue", flush_all_against_enqueue, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_all_against_flush", flush_all_against_flush, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_all_against_reuse_of_the_block", flush_all_against_reuse_of_the_block,
	    SOME(2, 1), SOME(4, 3) },
	{ "cleanup_gathered_jobs_are_run_by_another", gathered_jobs_are_run_by_another,
	    SOME(2, 1), SOME(4, 3) },
	{ "cleanup_statistics_against_enqueue", statistics_against_enqueue, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_statistics_against_flush", statistics_against_flush, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_statistics_against_a_worker", statistics_against_a_worker, SOME(2, 1), SOME(3, 2) },
	{ "cleanup_statistics_against_a_worker_of_the_host",
	    statistics_against_a_worker_of_the_host, SOME(0, 3), SOME(2, 3) },
	{ 0 }
};
