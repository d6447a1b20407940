/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain, shutdown, and the wait for room.
 *
 * A drain waits for what was enqueued before it, and must end while others go on enqueuing. So it collects
 * what is in open blocks, notes the epoch, and waits until every block has finished that was counted
 * in that epoch or an earlier one. Blocks that are closed later are counted in a later epoch. Epoch e + 1
 * begins only when nothing of e - 1 is left, since both have the same count: the rule of the grace
 * periods of read-copy-update.
 */
#include <errno.h>

#include "cleanup_priv.h"
#include "pool/pool_inside.h"

/* A drain, or a hand-back that waits for what runs, or who waits for room. */
struct drain {
	cq_cleanup_t *q;
	int (*ended)(const struct drain *d);	/* drained, or room, for which the rest is of no interest */
	uint64_t epoch;		/* of what it covers, and all before */
	uint32_t stopped;	/* stop, when it began */
	uint64_t failed;	/* attempts to make a worker, before it waits */
};

/* 0: everything has run; ESHUTDOWN: or is handed back; EBUSY: some is left. */
static int drained(const struct drain *d)
{
	cq_cleanup_t *q = d->q;
	uint64_t e = d->epoch;
	bool done;

	pthread_mutex_lock(&q->lock);
	if (q->epoch == e && cq_blocks_finished(q, (e + 1) & 1))
		cq_u64_store_relaxed(&q->epoch, e + 1);
	/* Pairs with the release in cq_block_give_up: what the callbacks did. Its fence is also that of the
	   load before, since whoever advances the epoch comes here. */
	done = q->epoch >= e + 2 ||
	    (q->epoch == e + 1 && cq_blocks_finished(q, e & 1));
	pthread_mutex_unlock(&q->lock);
	/* What was handed back counts as finished. Read behind that acquire or the lock: stop came before. */
	if (cq_u32_load_relaxed(&q->stop) != d->stopped)
		return ESHUTDOWN;
	return done ? 0 : EBUSY;
}

/* Likewise, where there is a bound. Nothing of a closed queue is worth a wait. */
static int room(const struct drain *d)
{
	if (cq_u32_load_relaxed(&d->q->closed) != 0)
		return ESHUTDOWN;
	return cq_blocks_have_room(d->q) ? 0 : EBUSY;
}

/* Before a sleep. EBUSY: it may sleep; EINVAL: some waits, and is to be handed back; else why it ends. */
static int look(const void *drain)
{
	const struct drain *d = drain;
	cq_cleanup_t *q = d->q;
	cq_pool_stats_t s;
	int err = d->ended(d), wake;

	if (err != EBUSY || cq_blocks_waiting(q) == 0)
		return err;
	if (d->stopped != 0)
		return EINVAL;
	/* Most attempts to make a worker fail here and now, and say why. One that fails later, in
	   worker_start, is tried once more; after that the next would do the same. */
	cq_pool_stats(q->pool, &s);
	cq_task_note(q->task); /* they may have been left to a tick, or collected by the caller */
	wake = q->by_owner || (s.workers_live == 0 && s.workers_failed > d->failed + 1) ? EAGAIN :
	    cq_pool_wake(q->pool);
	if (wake == 0)
		return EBUSY;
	/* What nobody can run may have been run meanwhile. */
	err = d->ended(d);
	return err == EBUSY ? wake : err;
}

static int wait_for(struct drain *d, uint64_t deadline)
{
	cq_cleanup_t *q = d->q;
	cq_pool_stats_t s;
	int err;

	cq_pool_stats(q->pool, &s);
	d->failed = s.workers_failed;
	cq_u32_add_relaxed(&q->draining, 1);
	err = cq_await(&q->drains, look, d, deadline);
	cq_u32_add_relaxed(&q->draining, (uint32_t)-1);
	return err;
}

/* Waits until all is done that is written or published now. Runs nothing. `seals`: a shutdown's, after which
   nothing is accepted. */
static int drain(cq_cleanup_t *q, uint64_t deadline, bool seals)
{
	struct drain d = { .q = q, .ended = drained };
	cq_block_t *empty = NULL;
	int err;

	pthread_mutex_lock(&q->lock);
	d.epoch = q->epoch;
	d.stopped = cq_u32_load_relaxed(&q->stop);
	err = d.stopped != 0 && !seals && !q->shut_down ? ESHUTDOWN : cq_collect(q, false, &empty);
	q->sealed |= seals && err == 0;
	pthread_mutex_unlock(&q->lock);
	if (empty != NULL)
		(void)cq_block_give_up(q, empty);
	if (err == 0)
		return wait_for(&d, deadline);
	if (cq_blocks_waiting(q) != 0)
		(void)cq_task_signal(q->task);
	return err;
}

/* Is the caller what it would wait for? */
static bool would_deadlock(const cq_cleanup_t *q)
{
	return cq_cleanup_is_current(q) || cq_ptr_load_relaxed(&q->shutting_down) == cq_thread_mark();
}

int cq_cleanup_drain(cq_cleanup_t *q, uint64_t deadline)
{
	return would_deadlock(q) ? EDEADLK : drain(q, deadline, false);
}

/* Collects nothing: what is in open blocks takes no room. */
int cq_cleanup_wait_for_room(cq_cleanup_t *q, uint64_t deadline)
{
	struct drain d = { .q = q, .ended = room };
	int err = would_deadlock(q) ? EDEADLK : room(&d);

	if (err != EBUSY)
		return err;
	return wait_for(&d, deadline);
}

/* ---------------------------------------------------------------------------- shutdown */

/* One callback out of an open block. False: nothing is accepted any more, and nothing of what was is left
   there. Claimed and counted under one hold of the lock: a fork comes before both, or finds it given. */
static bool claim_one(struct drain *d, cq_callback_t *c)
{
	cq_cleanup_t *q = d->q;
	bool claimed;

	pthread_mutex_lock(&q->lock);
	claimed = cq_collect_one(q, c);
	cq_u64_add_relaxed(&q->handed_back, claimed);
	q->sealed |= !claimed;
	d->epoch = q->epoch;
	pthread_mutex_unlock(&q->lock);
	return claimed;
}

/* Of a stopped queue, whose workers put back what they have not begun. First all that is in no worker's hand:
   published blocks, then open ones. */
static int hand_back(cq_cleanup_t *q, uint64_t deadline, cq_give_back_fn *give_back, void *ctx)
{
	struct drain d = { .q = q, .ended = drained, .stopped = 1 };
	int saved = errno, err;
	uint64_t since, left; /* of no interest */
	cq_callback_t c;
	cq_block_t *b;

	do {
		while ((b = cq_blocks_take(q, &since, &left)) != NULL) {
			cq_ptr_store_relaxed(&q->giving, b); /* for a fork: as the piece of a run */
			while (cq_block_next(b, &c)) {
				/* Before the call, as a child that is forked in it doesn't give it again. */
				cq_u64_add_relaxed(&q->handed_back, 1);
				give_back(ctx, c.fn, c.arg);
			}
			b->first = b->begin; /* not executed */
			cq_ptr_store_relaxed(&q->giving, NULL);
			(void)cq_block_give_up(q, b);
		}
		while (claim_one(&d, &c))
			give_back(ctx, c.fn, c.arg);
		errno = saved;
	} while ((err = wait_for(&d, deadline)) == EINVAL);
	return err;
}

int cq_cleanup_shutdown(cq_cleanup_t *q, cq_shutdown_how_t how, uint64_t deadline,
    cq_give_back_fn *give_back, void *ctx)
{
	bool begins;
	int err;

	if (how != CQ_SHUTDOWN_DRAIN && (how != CQ_SHUTDOWN_HAND_BACK || give_back == NULL))
		return EINVAL;
	if (cq_cleanup_is_current(q))
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	err = q->shutting_down != NULL ? EALREADY : 0;
	begins = err == 0 && !q->shut_down;
	if (begins)
		cq_ptr_store_relaxed(&q->shutting_down, cq_thread_mark());
	pthread_mutex_unlock(&q->lock);
	if (!begins)
		return err;

	/* 1. Nothing is accepted any more but what is seen below. */
	cq_u32_store_relaxed(&q->closed, 1);
	cq_producers_see(q);
	/* 2. Nothing is begun. */
	if (how == CQ_SHUTDOWN_HAND_BACK)
		cq_u32_store_relaxed(&q->stop, 1);
	cq_drains_wake(q); /* who waits for room, too. Begins with a full fence: see cq_block_give_up */
	/* 3. Until nothing is left. A drain of a queue that was stopped before finds out whether it is so. */
	if (give_back != NULL && cq_u32_load_relaxed(&q->stop) != 0)
		err = hand_back(q, deadline, give_back, ctx);
	else
		err = drain(q, deadline, true);
	/* 4. Its own pool has no work then, but for other tasks, to which it is left. */
	if (err == 0 && q->own_pool && (err = cq_pool_end(q->pool, 1, deadline)) == EBUSY)
		err = 0;

	pthread_mutex_lock(&q->lock);
	cq_ptr_store_relaxed(&q->shutting_down, NULL);
	q->shut_down = err == 0;
	pthread_mutex_unlock(&q->lock);
	return err;
}
