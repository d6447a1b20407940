/* SPDX-License-Identifier: BSD-2-Clause */
/* The queue as a task of its pool: what its runs do. */
#include <errno.h>

#include "cleanup_priv.h"

/* What the thread's cq_cleanup_run_some may still run, while it is the one that runs. */
static __thread struct {
	const cq_cleanup_t *q;	/* NULL: there is no limit */
	size_t left;
} budget;

/* ------------------------------------------------------------------------------ blocks */

/* Runs the callbacks of a block in hand, until the queue stops. */
static void run_block(cq_cleanup_t *q, cq_block_t *b)
{
	cq_callback_t c;

	while (cq_u32_load_relaxed(&q->stop) == 0 && cq_block_next(b, &c))
		c.fn(c.arg);
}

/* The same, as far as the caller's budget goes, which is not that of what the callbacks run. */
static void run_block_within_budget(cq_cleanup_t *q, cq_block_t *b)
{
	size_t left = budget.left;
	cq_callback_t c;

	budget.q = NULL;
	while (left != 0 && cq_u32_load_relaxed(&q->stop) == 0 && cq_block_next(b, &c)) {
		left--;
		c.fn(c.arg);
	}
	budget.q = q;
	budget.left = left;
}

/* After a block was given up with some left. */
static int waits_again(cq_cleanup_t *q)
{
	/* Begins with a full fence, which pairs with the announcement of a wait in hand_back_all (drain.c): as in
	   cq_producer_close. */
	int err = cq_task_signal(q->task);

	cq_drains_rely_on_it(q);
	return err;
}

static void run(cq_run_t *run, void *arg)
{
	cq_cleanup_t *q = arg;
	bool limited = budget.q == q, rest = false;
	cq_block_t *b;

	while (!rest && (!limited || budget.left != 0) && cq_u32_load_relaxed(&q->stop) == 0 &&
	    (b = cq_blocks_take(q)) != NULL) {
		/* The task's chain, before the block runs: a callback that hangs holds back no other block. */
		cq_run_more(run, cq_blocks_waiting(q));
		cq_run_piece(run, b);
		if (limited)
			run_block_within_budget(q, b);
		else
			run_block(q, b);
		cq_run_piece(run, NULL);
		rest = cq_block_give_up(q, b);
		if (!cq_run_may_continue(run))
			break;
	}
	if (rest)
		(void)waits_again(q);
}

/* A callback has ended its thread; or its thread is not there in a forked child, where cleanup_fork.c sees to its block. */
static void lost(void *arg, void *piece)
{
	cq_cleanup_t *q = arg;

	if (cq_cleanup_forking(q))
		return;
	if (cq_block_give_up(q, piece))
		(void)waits_again(q);
}

/* Nobody comes for what waits: drains wake somebody, or say that they can't; an owner is told. */
static void stalled(void *arg)
{
	cq_cleanup_t *q = arg;

	/* Each signal to a pool that nobody serves comes here, behind a full fence (cq_task_signal, workers.c): a drain
	   that isn't seen finds the task when it wakes the pool. */
	if (cq_u32_load_relaxed(&q->draining) != 0 || cq_u32_load_relaxed(&q->stop) != 0)
		cq_drains_wake(q);
	if (q->wake_owner != NULL)
		q->wake_owner(q->host);
}

const cq_task_ops_t cq_cleanup_task_ops = { run, lost, stalled };

size_t cq_cleanup_run_some(cq_cleanup_t *q, size_t callbacks)
{
	const cq_cleanup_t *outer = budget.q;
	size_t outer_left = budget.left, left;

	budget.q = q;
	budget.left = callbacks;
	(void)cq_task_run_some(q->task, SIZE_MAX);
	left = budget.left;
	budget.q = outer;
	budget.left = outer_left;
	return callbacks - left;
}
