/* SPDX-License-Identifier: BSD-2-Clause */
/* The queue as a task of its pool: what its runs do. */
#include "cleanup_priv.h"
#include "pool/pool_inside.h"

/* How many callbacks the caller of cq_cleanup_run_some may still run; NULL: there is no limit. */
static __thread size_t *budget;

static void run(cq_run_t *run, void *arg)
{
	cq_cleanup_t *q = arg;
	size_t *limit = budget;
	cq_callback_t c;
	cq_block_t *b;
	uint64_t since, left;
	bool scans = true;

	budget = NULL; /* not that of what the callbacks run */
	while ((limit == NULL || *limit != 0) && cq_u32_load_relaxed(&q->stop) == 0) {
		if (cq_tick_is_due(q)) {
			cq_tick(q);
			scans = true;
		}
		if ((b = cq_blocks_take(q, &since, &left)) == NULL)
			break;
		/* The task's chain, first: a callback that hangs holds back no other block. Signals that found IN set rely on
		   the first piece behind the pop that cleared it, and what a tick published on the next; later ones
		   have a run of their own. */
		if (left == 0 && scans)
			left = cq_blocks_waiting(q);
		scans = false;
		cq_run_more(run, left);
		cq_run_piece_since(run, b, since, (uint64_t)(b->end - b->first));
		if (limit == NULL)
			while (cq_u32_load_relaxed(&q->stop) == 0 && cq_block_next(b, &c))
				c.fn(c.arg);
		else
			for (; *limit != 0 && cq_u32_load_relaxed(&q->stop) == 0 &&
			    cq_block_next(b, &c); --*limit)
				c.fn(c.arg);
		cq_run_piece(run, NULL);
		(void)cq_block_give_up(q, b);
		if (!cq_run_may_continue(run))
			break;
	}
	budget = limit;
}

/* A callback has ended its thread; or a forked child lacks its thread: cleanup_fork.c goes on with that block. */
static void lost(void *arg, void *piece)
{
	cq_cleanup_t *q = arg;

	if (cq_forking())
		cq_block_found(q, piece);
	else
		(void)cq_block_give_up(q, piece);
}

/* Nobody comes for what waits: drains wake somebody, or say that they can't; an owner is told. */
static void stalled(void *arg)
{
	cq_cleanup_t *q = arg;

	/* Each signal to a pool that nobody serves comes here, behind a full fence (cq_task_signal,
	   workers.c): a drain that isn't seen finds the task when it wakes the pool. */
	if (cq_u32_load_relaxed(&q->draining) != 0 || cq_u32_load_relaxed(&q->stop) != 0)
		cq_drains_wake(q);
	if (q->wake_owner != NULL)
		q->wake_owner(q->host);
}

const cq_task_ops_t cq_cleanup_task_ops = { run, lost, stalled };

size_t cq_cleanup_run_some(cq_cleanup_t *q, size_t callbacks)
{
	size_t left = callbacks;

	budget = &left;
	(void)cq_task_run_some(q->task, SIZE_MAX);
	budget = NULL;
	return callbacks - left;
}
