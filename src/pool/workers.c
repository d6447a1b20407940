/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many workers there are. The rules, of which each has one place:
 *
 *   1. Whoever leaves nobody idle, on the way or being made, makes the next before it runs a task: a piece
 *      that hangs then holds nothing else back (cq_workers_make).
 *   2. A producer makes one only if that is so and no worker lives, or the last attempt failed: at first use,
 *      after a fork, after a failure (cq_workers_make).
 *   3. A worker above the minimum that was idle for too long goes, unless it is the last idle one while
 *      others are at work (cq_workers_retire).
 *   4. Whoever lowers a count rechecks (lower): somebody may have relied on it.
 */
#include <errno.h>

#include "pool_priv.h"

/* ---------------------------------------------------------------------- members */

/* The thread of this record is a member from here on. False: a worker, and the end of the pool has begun. */
bool cq_member_join(cq_run_t *m)
{
	cq_pool_t *p = m->pool;
	bool joins;

	pthread_mutex_lock(&p->lock);
	joins = !m->is_worker || !cq_pool_stopped(p);
	if (joins) {
		m->next = p->members;
		m->link = &p->members;
		if (m->next != NULL)
			m->next->link = &m->next;
		p->members = m;
		p->workers += m->is_worker;
	}
	pthread_mutex_unlock(&p->lock);
	return joins;
}

/* The record of a worker, which is a member before its thread is there. ENOMEM; ESHUTDOWN, as above. */
int cq_member_new(cq_pool_t *p, uint64_t count, cq_run_t **out)
{
	cq_run_t *m = cq_allocate(&p->allocator, sizeof(*m));

	if (m == NULL)
		return ENOMEM;
	*m = (cq_run_t){ .pool = p, .is_worker = true, .count = count };
	if (!cq_member_join(m)) {
		cq_release(&p->allocator, m, sizeof(*m));
		return ESHUTDOWN;
	}
	*out = m;
	return 0;
}

/* And no longer: a worker's record is freed. From the unlock on the pool may be gone, but not its park table:
   the last worker wakes a destroy by its permit alone. Of the threads that are to be joined each joins the one
   that left before it, so that at most one which has ended is left. */
void cq_member_leave(cq_run_t *m)
{
	cq_pool_t *p = m->pool;
	const cq_park_ops_t *park = p->config.park;
	cq_parker_t *destroyer = NULL;
	pthread_t before = pthread_self();
	bool joins = false;

	pthread_mutex_lock(&p->lock);
	*m->link = m->next;
	if (m->next != NULL)
		m->next->link = m->link;
	p->runs += m->runs;
	p->empty_runs += m->empty_runs;
	if (m->to_join) {
		joins = p->has_ended;
		before = p->ended;
		p->ended = pthread_self();
		p->has_ended = true;
	}
	if (m->is_worker) {
		if (--p->workers == 0) {
			destroyer = p->destroyer;
			p->destroyer = NULL;
		}
		cq_release(&p->allocator, m, sizeof(*m));
	}
	pthread_mutex_unlock(&p->lock);
	if (destroyer != NULL)
		park->unpark(park->host, destroyer);
	if (joins)
		pthread_join(before, NULL);
}

/* ---------------------------------------------------------------------- stalled */

/* Those who wait for the task learn that nobody will run it. */
void cq_task_tell(const cq_task_t *t)
{
	int saved = errno;

	if (t->ops->stalled != NULL)
		t->ops->stalled(t->arg);
	errno = saved;
}

/* All tasks, by all_next, which from here to cq_workers_told the caller may signal and tell: a close waits for it. */
cq_task_t *cq_workers_telling(cq_pool_t *p)
{
	cq_task_t *all;

	cq_u32_add_relaxed(&p->telling, 1);
	/* Pairs with the fence in cq_sleepers_prepare_wait of a close: either it waits for this thread, or
	   its task is seen to be closed. Without it what the task was made for could be gone. */
	cq_fence_full();
	pthread_mutex_lock(&p->lock);
	all = p->all; /* grows here alone */
	pthread_mutex_unlock(&p->lock);
	return all;
}

void cq_workers_told(cq_pool_t *p)
{
	/* Pairs with the acquire in cq_task_close (tasks.c): done with the tasks. */
	cq_fence_release();
	cq_u32_add_relaxed(&p->telling, (uint32_t)-1);
	cq_sleepers_wake(&p->closers, UINT32_MAX);
}

/* All tasks are told. With no lock held, as it wakes threads. */
void cq_tasks_tell(cq_pool_t *p)
{
	for (cq_task_t *t = cq_workers_telling(p); t != NULL; t = t->all_next)
		if (cq_task_is_open(t))
			cq_task_tell(t);
	cq_workers_told(p);
}

/* What a call returns whose attempt to make a worker met `err`: EAGAIN if the next one may succeed, else the
   error. Those by which the call says something else are EAGAIN too, and what is no errno, of a host's spawn. */
static int stall_error(int err)
{
	switch (err) {
	case ENOMEM:
	case ETIMEDOUT:
	case EDEADLK:
	case EBUSY:
	case ESHUTDOWN:
		return EAGAIN;
	}
	return err > 0 ? err : EAGAIN;
}

/* ----------------------------------------------------------------------- counts */

/* Rule 4: what follows is the recheck. The fence pairs with those at the beginning of cq_sleepers_ensure and
   cq_sleepers_waiters, which come before each look at the counts, and for `serving` with those in cq_pool_wake
   and cq_task_signal: whoever still relies on what is taken here has its task seen by the recheck. Without it
   nobody would see that task. */
static uint64_t lower(cq_pool_t *p, uint64_t count)
{
	uint64_t counts = cq_u64_add_relaxed(&p->counts, 0 - count) - count;

	cq_fence_full();
	return counts;
}

static void note_peak(cq_pool_t *p, uint64_t counts)
{
	uint32_t live = counts_live(counts), peak;

	do
		peak = cq_u32_load_relaxed(&p->peak);
	while (live > peak && !cq_u32_cas_relaxed(&p->peak, peak, live));
}

/* Is nobody idle, on the way, or, by `counts`, being made? These are read behind a full fence. */
static bool nobody_left(cq_pool_t *p, uint64_t *counts)
{
	uint32_t coming;

	if (cq_sleepers_waiters(&p->idle, &coming) != 0 || coming != 0)
		return false;
	*counts = cq_u64_load_relaxed(&p->counts);
	return counts_making(*counts) == 0;
}

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
	    (counts_live(counts) != 0 && nobody_left(p, &counts));
}

/* ----------------------------------------------------------------------- making */

/* A worker that was counted could not be made, or has ended before it could look. */
void cq_workers_not_made(cq_pool_t *p, uint64_t count, int err)
{
	uint64_t counts;

	cq_u64_add_relaxed(&p->not_made, 1);
	cq_u32_store_relaxed(&p->last_errno, (uint32_t)err);
	/* Before the counts: who finds nobody being made tries again, also if others live. */
	cq_u32_store_relaxed(&p->failed, (uint32_t)err);
	/* Pairs with the acquire in create (pool.c). Without it create could return a pool of
	   which no worker could be made. */
	cq_fence_release();
	counts = lower(p, count);
	CQ_POINT("workers.not_made");
	if (cq_pool_waiting(p) != 0) {
		if (counts_live(counts) != 0)
			cq_sleepers_ensure(&p->idle, 1);
		else
			cq_tasks_tell(p);
	}
	cq_sleepers_wake(&p->closers, UINT32_MAX); /* create may wait */
}

/* A thread for a member that is new: its body is cq_pool_worker. */
int cq_worker_begin(cq_run_t *w)
{
	const cq_pool_config_t *c = &w->pool->config;
	int saved = errno, err;

	err = c->spawn != NULL ? c->spawn(c->host, w->pool->body, w) : cq_threads_spawn(w);
	errno = saved;
	return err;
}

#define ONE_MORE (COUNT_MADE + COUNT_LIVE + COUNT_MAKING)

/* Makes a worker for which `count` has been added to `counts`. ESHUTDOWN: the end of the pool has begun. */
static int make(cq_pool_t *p, uint64_t counts, uint64_t count)
{
	cq_run_t *w;
	int err;

	/* Before the attempt: its worker may have failed by the time that spawn returns. */
	cq_u32_store_relaxed(&p->failed, 0);
	if ((err = cq_member_new(p, ONE_MORE, &w)) == 0) {
		CQ_POINT("workers.making");
		if ((err = cq_worker_begin(w)) == 0) {
			cq_u64_add_relaxed(&p->created, 1);
			note_peak(p, counts);
			return 0;
		}
		cq_member_leave(w);
	}
	cq_workers_not_made(p, count, err);
	return err;
}

/* Rule 1, at this moment, and by these counts. */
bool cq_workers_could_make(cq_pool_t *p, uint64_t *counts)
{
	/* The fence in nobody_left pairs with those in lower and cq_pool_set_workers: whoever lowers `made`,
	   or raises the maximum, and isn't seen here, sees that the caller is no longer idle. */
	return !cq_pool_is(p, CQ_POOL_HOSTED) && nobody_left(p, counts) &&
	    counts_made(*counts) < cq_u32_load_relaxed(&p->max) && !cq_pool_stopped(p);
}

/* May a producer leave its task to those that live? */
static bool may_rely(const cq_pool_t *p, uint64_t counts)
{
	return counts_live(counts) != 0 && cq_u32_load_relaxed(&p->failed) == 0;
}

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
	/* Not ESHUTDOWN, which a host's spawn may say too. */
	return err != 0 && !cq_pool_stopped(p) &&
	    counts_live(cq_u64_load_relaxed(&p->counts)) == 0 ? stall_error(err) : 0;
}

/* Up to the minimum, whoever is idle. The error of the first that could not be made. */
int cq_workers_make_min(cq_pool_t *p)
{
	uint32_t min = cq_u32_load_relaxed(&p->min), attempts = min;
	uint64_t counts = cq_u64_load_relaxed(&p->counts);
	int err = 0;

	/* No more attempts: one that worker_start refuses may be gone before the next is made. */
	while (err == 0 && attempts != 0 && counts_made(counts) < min) {
		if (cq_u64_cas_relaxed(&p->counts, &counts, counts + ONE_MORE)) {
			err = make(p, counts + ONE_MORE, ONE_MORE);
			attempts--;
			counts = cq_u64_load_relaxed(&p->counts);
		}
	}
	return err;
}

/* The worker is about to look for the first time. */
void cq_workers_arrive(cq_run_t *w)
{
	w->count -= COUNT_MAKING;
	(void)lower(w->pool, COUNT_MAKING);
	CQ_POINT("workers.arrived");
	cq_sleepers_wake(&w->pool->closers, UINT32_MAX); /* create may wait */
}

/* A task that was signalled at its limit of runs waits again: its last run was in a caller, who may look for
   no other. In a polled pool those who wait for the task wake somebody for it. */
void cq_workers_left_waiting(cq_pool_t *p)
{
	if (!cq_pool_is(p, CQ_POOL_POLLED)) {
		cq_sleepers_ensure(&p->idle, 1);
		(void)cq_workers_make(p, true);
	}
	/* Behind the fence of ensure, which pairs with the one in lower. */
	if (cq_pool_is(p, CQ_POOL_POLLED) || cq_pool_unserved(p))
		cq_tasks_tell(p);
}

/* ---------------------------------------------------------------------- leaving */

/* A thread of the host's runs tasks: those of cq_pool_work, which are counted, or one run_some. */
void cq_workers_host_comes(cq_run_t *run)
{
	cq_u32_add_relaxed(&run->pool->serving, 1);
	if (run->count != 0)
		note_peak(run->pool, cq_u64_add_relaxed(&run->pool->counts, run->count) + run->count);
}

/* It is no member any more. What relies on it goes to another, or who waits is told that nobody serves. */
void cq_workers_host_leaves(cq_run_t *run)
{
	cq_pool_t *p = run->pool;
	uint64_t counts;

	if (run->serves) {
		cq_u32_add_relaxed(&p->serving, (uint32_t)-1);
		counts = lower(p, run->count);
		if (run->count != 0 && !cq_pool_stopped(p) && !cq_pool_is(p, CQ_POOL_POLLED) &&
		    cq_workers_missed(p, counts)) {
			cq_sleepers_ensure(&p->idle, 1);
			(void)cq_workers_make(p, false);
		}
		if (!cq_pool_stopped(p) && cq_pool_unserved(p) && cq_pool_waiting(p) != 0)
			cq_tasks_tell(p);
	}
	cq_member_leave(run);
}

/* Rule 3, for a worker that was idle for too long, or is one of too many. False: it stays. */
bool cq_workers_retire(cq_run_t *w)
{
	cq_pool_t *p = w->pool;
	uint64_t counts = cq_u64_load_relaxed(&p->counts);

	if (counts_made(counts) <= cq_u32_load_relaxed(&p->min))
		return false;
	counts = lower(p, w->count);
	CQ_POINT("workers.retiring");
	if (!cq_pool_stopped(p) && cq_workers_missed(p, counts)) {
		counts = cq_u64_load_relaxed(&p->counts);
		while (counts_made(counts) < cq_u32_load_relaxed(&p->max))
			if (cq_u64_cas_relaxed(&p->counts, &counts, counts + w->count)) {
				note_peak(p, counts + w->count); /* others may have come meanwhile */
				return false;
			}
		/* As many others were made meanwhile, and look; or the maximum was lowered, and one of
		   them may sleep. */
		cq_sleepers_ensure(&p->idle, 1);
	}
	w->count = 0;
	cq_u64_add_relaxed(&p->retired, 1);
	return true;
}

/* A worker whose thread is ended: it leaves the counts, or the next one takes its place in them. */
void cq_workers_replace(cq_run_t *w)
{
	cq_pool_t *p = w->pool;
	uint64_t counts;

	if ((cq_workers_surplus(w) || !nobody_left(p, &counts)) && cq_workers_retire(w))
		return;
	counts = cq_u64_add_relaxed(&p->counts, COUNT_MAKING) + COUNT_MAKING;
	(void)make(p, counts, w->count + COUNT_MAKING);
	w->count = 0;
	cq_u64_add_relaxed(&p->retired, 1);
}
