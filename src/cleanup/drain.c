/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain and shutdown.
 *
 * A drain waits for what was enqueued before it, and must end while others go on enqueuing. So it collects
 * what is in open blocks, notes the epoch, and waits until every block has finished that was counted
 * in that epoch or an earlier one. Blocks that are closed later are counted in a later epoch. Epoch e + 1
 * begins only when nothing of e - 1 is left, since both have the same count: the rule of the grace
 * periods of read-copy-update.
 */
#include <cq/stats.h>
#include <errno.h>

#include "cleanup_priv.h"
#include "pool/pool_inside.h"

/* The queue whose give_back the thread is in. */
static __thread const cq_cleanup_t *giving_back;

/* The caller would wait for itself. */
static bool would_deadlock(const cq_cleanup_t *q)
{
	return cq_pool_is_current(q->pool) || giving_back == q || cq_cleanup_forking(q);
}

/* --------------------------------------------------------------------------- draining */

struct drain {
	cq_cleanup_t *q;
	uint64_t epoch;		/* of what it covers, and all before */
	uint32_t stopped;	/* stop, when it began: a HAND_BACK had given back all */
	uint64_t failed;	/* attempts to make a worker, before it began */
	cq_wait_result_t result; /* of its last wait */
};

/* 0: everything has run; ESHUTDOWN: or is handed back; EBUSY: some is left. */
static int drained(const struct drain *d)
{
	cq_cleanup_t *q = d->q;
	uint64_t e = d->epoch;
	bool done;

	pthread_mutex_lock(&q->lock);
	if (q->epoch == e && cq_u64_load_relaxed(&q->unfinished[(e + 1) & 1]) == 0)
		cq_u64_store_relaxed(&q->epoch, e + 1);
	/* Pairs with the release in cq_blocks_last_finished: what the callbacks did. Its fence is also that of the
	   load before, since whoever advances the epoch comes here. */
	done = q->epoch >= e + 2 ||
	    (q->epoch == e + 1 && cq_u64_load_acquire(&q->unfinished[e & 1]) == 0);
	pthread_mutex_unlock(&q->lock);
	/* To the counts, what was handed back is finished. Behind that acquire, or the lock: the queue was stopped before. */
	if (cq_u32_load_relaxed(&q->stop) != d->stopped)
		return ESHUTDOWN;
	return done ? 0 : EBUSY;
}

static cq_pool_stats_t pool_stats(const cq_cleanup_t *q)
{
	cq_pool_stats_t s;

	cq_pool_stats(q->pool, &s);
	return s;
}

/*
 * Something waits. 0: somebody comes for it; or STALLED. Most attempts to make a worker fail here and now, and
 * say why. One that fails later, in worker_start, is tried once more; after that the next would do the same.
 */
static int wake_somebody(const struct drain *d)
{
	cq_cleanup_t *q = d->q;
	cq_pool_stats_t s = pool_stats(q);

	if (q->by_owner)
		return EAGAIN;
	if (s.workers_live == 0 && s.workers_failed > d->failed + 1)
		return EAGAIN;
	return cq_pool_wake(q->pool);
}

/* One look of a drain that is about to sleep. EBUSY: it sleeps; else why it ends. */
static int look(const struct drain *d)
{
	int err = drained(d), wake;

	if (err != EBUSY)
		return err;
	wake = cq_blocks_waiting(d->q) != 0 ? wake_somebody(d) : 0;
	if (wake == 0)
		return d->result == CQ_TIMED_OUT ? ETIMEDOUT : EBUSY;
	/* What nobody can run may have been run meanwhile. */
	err = drained(d);
	return err == EBUSY ? wake : err;
}

/* Waits until all is done that is written or published now. Runs nothing. */
static int drain_until(cq_cleanup_t *q, uint64_t deadline, bool seal)
{
	struct drain d = { .q = q, .result = CQ_AGAIN };
	cq_sleeper_t me;
	bool wakes = false;
	int err;

	pthread_mutex_lock(&q->lock);
	d.epoch = q->epoch;
	d.stopped = cq_u32_load_relaxed(&q->stop);
	err = d.stopped != 0 && !q->shut_down ? ESHUTDOWN : cq_collect(q, &wakes);
	q->sealed |= seal && err == 0;
	cq_u32_store_relaxed(&q->draining, q->draining + (err == 0));
	pthread_mutex_unlock(&q->lock);
	if (wakes)
		cq_drains_wake(q);
	/* Also for what was published before the memory ended. What it says of a stalled pool is asked again below. */
	if (cq_blocks_waiting(q) != 0)
		(void)cq_task_signal(q->task);
	if (err != 0)
		return err;
	d.failed = pool_stats(q).workers_failed;
	cq_sleeper_init(&me, NULL);
	for (;;) {
		cq_sleepers_prepare_wait(&q->drains, &me);
		if ((err = look(&d)) != EBUSY)
			break;
		d.result = cq_sleepers_commit_wait(&q->drains, &me, deadline);
	}
	cq_sleepers_cancel_wait(&q->drains, &me);
	pthread_mutex_lock(&q->lock);
	cq_u32_store_relaxed(&q->draining, q->draining - 1);
	pthread_mutex_unlock(&q->lock);
	return err;
}

int cq_cleanup_drain(cq_cleanup_t *q, uint64_t deadline)
{
	return would_deadlock(q) ? EDEADLK : drain_until(q, deadline, false);
}

/* ------------------------------------------------------------------------ handing back */

struct giver {
	cq_cleanup_t *q;
	cq_give_back_fn *give_back;
	void *ctx;
};

static void give(struct giver *g, cq_callback_t c)
{
	const cq_cleanup_t *outer = giving_back;
	int saved = errno;

	/* Pairs with the acquire in sum (cleanup_stats.c): what is handed back was queued. Before the call, as
	   a child that is forked in it doesn't give it again. */
	cq_fence_release();
	cq_u64_add_relaxed(&g->q->handed_back, 1);
	giving_back = g->q;
	g->give_back(g->ctx, c.fn, c.arg);
	giving_back = outer;
	errno = saved;
}

static bool some_claimed(const cq_cleanup_t *q)
{
	return q->claimed.begin != q->claimed.end;
}

/* False: nothing is accepted any more, and nothing of what was is left with a producer. */
static bool claim_some_or_seal(cq_cleanup_t *q)
{
	uint32_t n;

	pthread_mutex_lock(&q->lock);
	n = cq_collect_some(q, q->claimed.callbacks, CLAIMED_AT_ONCE);
	q->claimed.begin = 0;
	q->claimed.end = (uint16_t)n;
	q->sealed |= n == 0;
	pthread_mutex_unlock(&q->lock);
	return n != 0;
}

static void give_claimed(struct giver *g)
{
	cq_cleanup_t *q = g->q;

	while (some_claimed(q)) {
		cq_callback_t c = q->claimed.callbacks[q->claimed.begin++];

		cq_fence_compiler(); /* as in cq_block_next */
		give(g, c);
	}
}

/* All that is in no worker's hand: published blocks, then open ones, some at a time, so that no memory is needed. */
static void give_what_lies_there(struct giver *g)
{
	cq_callback_t c;
	cq_block_t *b;

	while ((b = cq_blocks_take(g->q)) != NULL) {
		while (cq_block_next(b, &c))
			give(g, c);
		b->first = b->begin; /* not executed */
		(void)cq_block_give_up(g->q, b);
	}
	do
		give_claimed(g); /* at first, in a child, what its parent had claimed */
	while (claim_some_or_seal(g->q));
}

/* After the queue was stopped: workers put back what they have not run. */
static int hand_back_all(cq_cleanup_t *q, uint64_t deadline, cq_give_back_fn *give_back, void *ctx)
{
	struct giver g = { q, give_back, ctx };
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;
	int err = 0;

	cq_sleeper_init(&me, NULL);
	for (;;) {
		/* In a child of a HAND_BACK that had not come so far, open blocks have some too. */
		if (give_back == NULL &&
		    (cq_blocks_waiting(q) != 0 || some_claimed(q) || claim_some_or_seal(q)))
			return EINVAL;
		if (give_back != NULL)
			give_what_lies_there(&g);
		cq_sleepers_prepare_wait(&q->drains, &me);
		if (cq_blocks_all_finished(q))
			break;
		if (cq_blocks_waiting(q) != 0) {
			cq_sleepers_cancel_wait(&q->drains, &me);
			continue;
		}
		if (result == CQ_TIMED_OUT) {
			err = ETIMEDOUT;
			break;
		}
		result = cq_sleepers_commit_wait(&q->drains, &me, deadline);
	}
	cq_sleepers_cancel_wait(&q->drains, &me);
	return err;
}

/* ---------------------------------------------------------------------------- shutdown */

static int shut_down(cq_cleanup_t *q, cq_shutdown_how_t how, uint64_t deadline,
    cq_give_back_fn *give_back, void *ctx)
{
	int err;

	cq_u32_store_relaxed(&q->closed, 1);
	cq_producers_see(q);
	if (how == CQ_SHUTDOWN_DRAIN && cq_u32_load_relaxed(&q->stop) == 0) {
		err = drain_until(q, deadline, true);
	} else {
		cq_u32_store_relaxed(&q->stop, 1);
		cq_drains_wake(q); /* begins with a full fence: see cq_producer_close and waits_again */
		err = hand_back_all(q, deadline, give_back, ctx);
	}
	return err == 0 && q->own_pool ? cq_pool_end(q->pool, deadline) : err;
}

int cq_cleanup_shutdown(cq_cleanup_t *q, cq_shutdown_how_t how, uint64_t deadline,
    cq_give_back_fn *give_back, void *ctx)
{
	const void *busy;
	bool done;
	int err;

	if (how != CQ_SHUTDOWN_DRAIN && (how != CQ_SHUTDOWN_HAND_BACK || give_back == NULL))
		return EINVAL;
	if (would_deadlock(q))
		return giving_back == q ? EALREADY : EDEADLK;

	pthread_mutex_lock(&q->lock);
	busy = q->shutting_down;
	done = q->shut_down;
	if (busy == NULL && !done)
		q->shutting_down = cq_thread_mark();
	pthread_mutex_unlock(&q->lock);
	if (busy != NULL || done)
		return busy != NULL ? EALREADY : 0;

	err = shut_down(q, how, deadline, give_back, ctx);

	pthread_mutex_lock(&q->lock);
	q->shutting_down = NULL;
	q->shut_down = err == 0;
	pthread_mutex_unlock(&q->lock);
	return err;
}
