/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many workers there are. The rules, of which each has one place:
 *
 *   1. Whoever leaves nobody idle, on the way or being made, makes the next before it runs a
 *      task: a piece that hangs then holds nothing else back.              cq_workers_make
 *   2. A producer makes one only if that is so and no worker lives, or the last attempt
 *      failed: at first use, after a fork, after a failure.                cq_workers_make
 *   3. A worker above the minimum that was idle for too long goes, unless it is the last idle
 *      one while others are at work.                                       cq_workers_retire
 *   4. Whoever lowers a count rechecks: somebody may have relied on it.
 */
#include <errno.h>
#include <limits.h>

#include "pool_priv.h"

/* ---------------------------------------------------------------------- members */

/* A record for a thread that the pool makes, or that comes by cq_pool_work; NULL: no memory. */
cq_run_t *cq_member_new(cq_pool_t *p)
{
	cq_run_t *m = cq_allocate(&p->allocator, sizeof(*m));

	if (m != NULL)
		*m = (cq_run_t){ .pool = p, .is_worker = true };
	return m;
}

/* One more that the end of the pool waits for. False: that has begun. */
bool cq_worker_added(cq_pool_t *p)
{
	bool stopped;

	pthread_mutex_lock(&p->lock);
	stopped = p->stop != 0;
	p->workers += !stopped;
	pthread_mutex_unlock(&p->lock);
	return !stopped;
}

/*
 * One fewer. The last wakes a destroy that waits, by its permit alone: from the unlock on the
 * pool may be gone, but not a park table that outlives it, nor a thread that has yet to be unparked.
 */
static void removed_and_unlock(cq_pool_t *p)
{
	const cq_park_ops_t *park = p->config.park;
	cq_parker_t *destroyer = NULL;

	if (--p->workers == 0) {
		destroyer = p->destroyer;
		p->destroyer = NULL;
	}
	pthread_mutex_unlock(&p->lock);
	if (destroyer != NULL)
		park->unpark(park->host, destroyer);
}

static void worker_removed(cq_pool_t *p)
{
	pthread_mutex_lock(&p->lock);
	removed_and_unlock(p);
}

/* The calling thread is a member from here on. */
void cq_member_join(cq_run_t *m)
{
	cq_pool_t *p = m->pool;

	pthread_mutex_lock(&p->lock);
	m->prev = NULL;
	m->next = p->members;
	if (m->next != NULL)
		m->next->prev = m;
	p->members = m;
	pthread_mutex_unlock(&p->lock);
}

/* And no longer. A worker's record is freed, and afterwards the pool may be gone. */
void cq_member_leave(cq_run_t *m)
{
	cq_pool_t *p = m->pool;

	pthread_mutex_lock(&p->lock);
	if (m->prev != NULL)
		m->prev->next = m->next;
	else
		p->members = m->next;
	if (m->next != NULL)
		m->next->prev = m->prev;
	p->runs += m->runs;
	p->empty_runs += m->empty_runs;
	if (!m->is_worker) {
		pthread_mutex_unlock(&p->lock);
		return;
	}
	cq_release(&p->allocator, m, sizeof(*m));
	removed_and_unlock(p);
}

/* ---------------------------------------------------------------------- stalled */

static bool makes_workers(const cq_pool_t *p)
{
	return !cq_pool_is(p, CQ_POOL_HOSTED);
}

/*
 * Those who wait for tasks learn that nobody will run them. With no lock held, as that wakes threads:
 * a close waits for those who tell.
 */
static void tell_stalled(cq_pool_t *p)
{
	int saved = errno;
	cq_task_t *t;

	cq_u32_add_relaxed(&p->telling, 1);
	/* Pairs with the fence in cq_sleepers_prepare_wait of a close: either it waits for this thread, or
	   its task is seen to be closed. Without it what the task was made for could be gone. */
	cq_fence_full();
	pthread_mutex_lock(&p->lock);
	t = p->all; /* grows here alone */
	pthread_mutex_unlock(&p->lock);
	for (; t != NULL; t = t->all_next)
		/* Pairs with the release in cq_task_create: ops and arg. Without it they could be those of
		   the task that had the record before. */
		if ((cq_u64_load_acquire(&t->word) & TASK_CLOSED) == 0 && t->ops->stalled != NULL)
			t->ops->stalled(t->arg);
	/* Pairs with the acquire in cq_task_close (tasks.c): done with the tasks. */
	cq_fence_release();
	cq_u32_add_relaxed(&p->telling, (uint32_t)-1);
	cq_sleepers_wake(&p->closers, UINT32_MAX);
	errno = saved;
}

/*
 * What a call returns that meets a stalled pool: EAGAIN if the next attempt may succeed, or the
 * error that it will meet again. Those that say something else of the call are not for this; nor is
 * what no errno can be, from a host's spawn.
 */
int cq_workers_stall_error(const cq_pool_t *p)
{
	uint32_t failed = cq_u32_load_relaxed(&p->failed);

	switch (failed) {
	case 0: /* one lives by now */
	case ENOMEM:
	case ETIMEDOUT:
	case EDEADLK:
	case EBUSY:
	case ESHUTDOWN:
		return EAGAIN;
	}
	return failed <= INT_MAX ? (int)failed : EAGAIN;
}

/* Would a task wait for a thread of the host's, of which none is there? Behind a fence as that in cq_task_signal. */
bool cq_workers_unserved(const cq_pool_t *p)
{
	return !makes_workers(p) && cq_u32_load_relaxed(&p->serving) == 0;
}

static void tell_if_unserved(cq_pool_t *p)
{
	/* Pairs with the fences in cq_pool_wake and cq_task_signal: whoever waits sees that nobody serves, or is
	   told, here or by who signals. */
	cq_fence_full();
	if (cq_workers_unserved(p) && cq_pool_waiting(p) != 0)
		tell_stalled(p);
}

/* A thread of the host's runs tasks no longer. */
void cq_workers_nobody_serves(cq_pool_t *p)
{
	cq_u32_add_relaxed(&p->serving, (uint32_t)-1);
	tell_if_unserved(p);
}

/* ----------------------------------------------------------------------- making */

/* Is nobody idle, or on the way? Begins with a full fence. */
static bool nobody_comes(cq_pool_t *p)
{
	uint32_t coming;

	return cq_sleepers_waiters(&p->idle, &coming) == 0 && coming == 0;
}

/* And being made? */
static bool nobody_left(cq_pool_t *p, uint64_t counts)
{
	return counts_making(counts) == 0 && nobody_comes(p);
}

static void note_peak(cq_pool_t *p, uint32_t live)
{
	uint32_t peak;

	do
		peak = cq_u32_load_relaxed(&p->peak);
	while (live > peak && !cq_u32_cas_relaxed(&p->peak, peak, live));
}

/* A worker that was counted could not be made, or has ended before it could look. */
void cq_workers_not_made(cq_pool_t *p, uint64_t count, int err)
{
	uint64_t counts;

	cq_u64_add_relaxed(&p->not_made, 1);
	cq_u32_store_relaxed(&p->last_errno, (uint32_t)err);
	/* Before the counts: who finds nobody being made tries again, also if others live. */
	cq_u32_store_relaxed(&p->failed, (uint32_t)err);
	/* Pairs with the acquire in cq_workers_make. Without it a producer could rely on
	   workers that live and hang, and try nothing. */
	cq_fence_release();
	counts = cq_u64_add_relaxed(&p->counts, 0 - count) - count;
	/* Pairs with the fence in cq_sleepers_waiters, with which every signal begins: the task of one
	   that still counts this worker goes to another, or who waits for it is told. Without it nobody
	   would see that task. */
	cq_fence_full();
	CQ_POINT("workers.not_made");
	if (cq_pool_waiting(p) != 0) {
		if (counts_live(counts) != 0)
			cq_workers_ensure(p, 1);
		else
			tell_stalled(p);
	}
	cq_sleepers_wake(&p->closers, UINT32_MAX); /* create may wait */
}

static int spawn(cq_pool_t *p)
{
	const cq_pool_config_t *c = &p->config;
	int err, saved = errno;
	cq_run_t *w = cq_member_new(p);

	if (w == NULL)
		return ENOMEM;
	w->count = COUNT_MADE + COUNT_LIVE + COUNT_MAKING;
	err = ESHUTDOWN;
	if (cq_worker_added(p)) {
		CQ_POINT("workers.making");
		err = c->spawn != NULL ? c->spawn(c->host, p->body, w) :
		    cq_threads_spawn(&p->threads, p->body, w);
		errno = saved;
		if (err == 0)
			return 0;
		worker_removed(p);
	}
	cq_release(&p->allocator, w, sizeof(*w));
	return err;
}

/* Makes a worker for which `count` has been added to `counts`. ESHUTDOWN: the pool has stopped. */
static int make(cq_pool_t *p, uint64_t counts, uint64_t count)
{
	int err;

	/* Before the attempt: its worker may have failed by the time that spawn returns. */
	cq_u32_store_relaxed(&p->failed, 0);
	if ((err = spawn(p)) == 0) {
		cq_u64_add_relaxed(&p->created, 1);
		note_peak(p, counts_live(counts));
	} else if (cq_u32_load_relaxed(&p->stop) != 0) {
		cq_u64_add_relaxed(&p->counts, 0 - count);
		err = ESHUTDOWN;
	} else {
		cq_workers_not_made(p, count, err);
	}
	return err;
}

/* Rule 1, at this moment, and by these counts. */
bool cq_workers_could_make(cq_pool_t *p, uint64_t *counts)
{
	if (!makes_workers(p) || !nobody_comes(p))
		return false;
	/* Behind that fence, which pairs with those in cq_workers_retire and cq_pool_set_workers:
	   whoever lowers `made`, or raises the maximum, and isn't seen here, sees that the caller is
	   no longer idle. */
	*counts = cq_u64_load_relaxed(&p->counts);
	return counts_making(*counts) == 0 && counts_made(*counts) < cq_u32_load_relaxed(&p->max) &&
	    cq_u32_load_relaxed(&p->stop) == 0;
}

/* May a producer leave its task to those that live? */
static bool may_rely(const cq_pool_t *p, uint64_t counts)
{
	/* Pairs with the release in cq_workers_not_made: its failure is seen with its counts. */
	cq_fence_acquire();
	return counts_live(counts) != 0 && cq_u32_load_relaxed(&p->failed) == 0;
}

#define ONE_MORE (COUNT_MADE + COUNT_LIVE + COUNT_MAKING)

/* Rules 1 and 2. 0: there is no need, or one is made; or STALLED. */
int cq_workers_make(cq_pool_t *p, bool producer)
{
	uint64_t counts = cq_u64_load_relaxed(&p->counts);
	int err;

	if (producer && may_rely(p, counts)) /* most often, and without a fence */
		return 0;
	do
		if (!cq_workers_could_make(p, &counts) || (producer && may_rely(p, counts)))
			return 0;
	while (!cq_u64_cas_relaxed(&p->counts, &counts, counts + ONE_MORE));
	err = make(p, counts + ONE_MORE, ONE_MORE);
	/* Not the error: a host's spawn may say ESHUTDOWN too. */
	return err != 0 && cq_u32_load_relaxed(&p->stop) == 0 &&
	    counts_live(cq_u64_load_relaxed(&p->counts)) == 0 ? cq_workers_stall_error(p) : 0;
}

/* Up to the minimum, whoever is idle. The error of the first that could not be made. */
int cq_workers_make_min(cq_pool_t *p)
{
	uint32_t min = makes_workers(p) ? cq_u32_load_relaxed(&p->min) : 0, attempts = 0;
	uint64_t counts = cq_u64_load_relaxed(&p->counts);
	int err = 0;

	/* No more attempts: one that worker_start refuses may be gone before the next is made. */
	while (err == 0 && attempts < min && counts_made(counts) < min) {
		if (cq_u64_cas_relaxed(&p->counts, &counts, counts + ONE_MORE)) {
			err = make(p, counts + ONE_MORE, ONE_MORE);
			attempts++;
			counts = cq_u64_load_relaxed(&p->counts);
		}
	}
	return err;
}

/* One that the pool has not made comes. */
void cq_workers_join(cq_pool_t *p, uint64_t count)
{
	note_peak(p, counts_live(cq_u64_add_relaxed(&p->counts, count) + count));
}

/* The worker is about to look for the first time; or it is one that has come back. */
void cq_workers_arrive(cq_pool_t *p, uint64_t count)
{
	cq_u64_add_relaxed(&p->counts, 0 - count);
	/* Pairs with the fence in cq_sleepers_waiters, with which every signal and
	   nobody_left begin: who still finds this worker being made leaves its task to
	   the look that follows. Without it nobody would see that task. */
	cq_fence_full();
	CQ_POINT("workers.arrived");
	cq_sleepers_wake(&p->closers, UINT32_MAX); /* create may wait */
}

/* `n` workers on the way, as far as there are idle ones. Begins with a full fence. */
void cq_workers_ensure(cq_pool_t *p, uint32_t n)
{
	uint32_t woken = cq_sleepers_ensure(&p->idle, n);

	if (woken != 0)
		cq_u64_add_relaxed(&p->wakes, woken);
}

/*
 * A task that was signalled at its limit of runs waits again: its last run was in a caller, who may look
 * for no other. In a polled pool those who wait for the task wake somebody for it.
 */
void cq_workers_left_waiting(cq_pool_t *p)
{
	if (cq_pool_is(p, CQ_POOL_POLLED)) {
		tell_stalled(p);
		return;
	}
	cq_workers_ensure(p, 1);
	(void)cq_workers_make(p, true);
	tell_if_unserved(p);
}

/* --------------------------------------------------------------------- retiring */

/* Made by the pool, and above its maximum, which was lowered. */
bool cq_workers_surplus(const cq_run_t *w)
{
	return w->count >= COUNT_MADE && counts_made(cq_u64_load_relaxed(&w->pool->counts)) >
	    cq_u32_load_relaxed(&w->pool->max);
}

/* Is there one too few, after a step that lowered `counts`, or raised a limit, and a full fence? */
bool cq_workers_missed(cq_pool_t *p, uint64_t counts)
{
	return cq_pool_waiting(p) != 0 || counts_made(counts) < cq_u32_load_relaxed(&p->min) ||
	    (counts_live(counts) != 0 && nobody_left(p, counts));
}

/*
 * Rule 3, for a worker that was idle for too long, or is one of too many. False: it stays.
 */
bool cq_workers_retire(cq_run_t *w)
{
	cq_pool_t *p = w->pool;
	uint64_t counts = cq_u64_load_relaxed(&p->counts);

	do
		if (counts_made(counts) <= cq_u32_load_relaxed(&p->min))
			return false;
	while (!cq_u64_cas_relaxed(&p->counts, &counts, counts - w->count));
	counts -= w->count;
	CQ_POINT("workers.retiring");
	/* Pairs with the fence in cq_sleepers_waiters: a signal sees that this worker is gone, or
	   its task is seen here; and so with whoever leaves nobody idle. */
	cq_fence_full();
	if (cq_u32_load_relaxed(&p->stop) != 0 || !cq_workers_missed(p, counts))
		goto gone;
	counts = cq_u64_load_relaxed(&p->counts);
	do
		if (counts_made(counts) >= cq_u32_load_relaxed(&p->max)) {
			/* As many others were made meanwhile, and look; or the maximum was
			   lowered, and one of them may sleep. */
			cq_workers_ensure(p, 1);
			goto gone;
		}
	while (!cq_u64_cas_relaxed(&p->counts, &counts, counts + w->count));
	note_peak(p, counts_live(counts + w->count)); /* others may have come meanwhile */
	return false;
gone:
	w->count = 0;
	cq_u64_add_relaxed(&p->retired, 1);
	return true;
}

/* A thread of the host's leaves in any case. What relies on it goes to another. */
void cq_workers_host_leaves(cq_run_t *w)
{
	cq_pool_t *p = w->pool;
	uint64_t counts = cq_u64_add_relaxed(&p->counts, 0 - w->count) - w->count;

	/* Pairs with the fence in cq_sleepers_waiters, as that in cq_workers_retire. */
	cq_fence_full();
	if (cq_u32_load_relaxed(&p->stop) != 0 || cq_pool_is(p, CQ_POOL_POLLED) ||
	    !cq_workers_missed(p, counts))
		return;
	cq_workers_ensure(p, 1);
	(void)cq_workers_make(p, false);
}

/*
 * A worker that must go, whatever the counts say. True: it has left them, or one that takes its place
 * was made. False: it is needed, and goes on.
 */
bool cq_workers_replace(cq_run_t *w)
{
	cq_pool_t *p = w->pool;
	uint64_t counts = cq_u64_load_relaxed(&p->counts);

	if (cq_u32_load_relaxed(&p->stop) != 0)
		return true;
	if (counts_made(counts) > cq_u32_load_relaxed(&p->min) && cq_pool_waiting(p) == 0 &&
	    !nobody_left(p, counts))
		return cq_workers_retire(w);
	/* The new one takes over what this one is in the counts. */
	counts = cq_u64_add_relaxed(&p->counts, COUNT_MAKING) + COUNT_MAKING;
	switch (make(p, counts, COUNT_MAKING)) {
	case 0:
		w->count = 0;
		cq_u64_add_relaxed(&p->retired, 1);
		return true;
	case ESHUTDOWN:
		return true;
	}
	return false;
}
