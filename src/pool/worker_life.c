/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a worker: begun, at work, idle for too long, one of too many, stopped, or ended by a
 * task that ends its thread.
 */
/* glibc's handlers of the kind that longjmps. In those of -fexceptions a thread can't be ended
   once more: clang's code aborts. */
#undef __EXCEPTIONS
#include <errno.h>

#include "pool_priv.h"

static uint64_t later(uint64_t time, uint64_t ns)
{
	return time > CQ_FOREVER - ns ? CQ_FOREVER : time + ns;
}

static bool stopped(const cq_pool_t *p)
{
	return cq_u32_load_relaxed(&p->stop) != 0;
}

/* Until when a worker that idles since then may sleep. */
static uint64_t idle_until(const cq_run_t *w, uint64_t since)
{
	const cq_pool_t *p = w->pool;

	if (counts_made(cq_u64_load_relaxed(&p->counts)) <= cq_u32_load_relaxed(&p->min))
		return CQ_FOREVER;
	return later(since, p->config.idle_ns);
}

/*
 * Runs tasks until the pool stops (true), or there was none until `deadline` (0: for as long as a
 * worker that the pool made stays).
 */
bool cq_pool_serve(cq_run_t *w, cq_sleeper_t *me, uint64_t deadline)
{
	cq_pool_t *p = w->pool;
	cq_wait_result_t result = CQ_AGAIN;
	uint64_t since = 0; /* idle; 0: it was not */
	cq_task_t *t;

	for (;;) {
		if ((t = cq_task_pop(p)) == NULL) {
			if (stopped(p))
				return true;
			if (result == CQ_TIMED_OUT)
				return false;
			if (since == 0)
				since = cq_pool_now(p);
			CQ_POINT("worker.found_nothing");
			cq_sleepers_prepare_wait(&p->idle, me);
			if ((t = cq_task_pop(p)) == NULL && !stopped(p)) {
				result = cq_sleepers_commit_wait(&p->idle, me,
				    deadline != 0 ? deadline : idle_until(w, since));
				continue;
			}
			cq_sleepers_cancel_wait(&p->idle, me);
		}
		if (t == NULL)
			return true;
		result = CQ_AGAIN;
		since = 0;
		cq_task_run(w, t);
		if (cq_workers_surplus(w))
			return false;
	}
}

/* ------------------------------------------------------------- of the pool's making */

static bool is_managed(const cq_pool_t *p)
{
	return p->config.spawn == NULL;
}

/* The hooks run as tasks do, and a fork within goes on in the child. */
static int call_start(cq_run_t *w)
{
	int err;

	if (!is_managed(w->pool) || w->pool->config.worker_start == NULL)
		return 0;
	cq_run_enter(w);
	err = w->pool->config.worker_start(w->pool->config.host);
	cq_run_leave(w);
	return err;
}

static void call_end(cq_run_t *w)
{
	int cancel;

	if (!is_managed(w->pool) || w->pool->config.worker_end == NULL)
		return;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* as in worker_start */
	cq_run_enter(w);
	w->pool->config.worker_end(w->pool->config.host);
	cq_run_leave(w);
}

/* The life of one worker, on its own stack, so that a handler finds how far it has come. */
struct life {
	cq_run_t *w;
	cq_sleeper_t me;
	enum { STARTING, AT_WORK, ENDING, GONE } phase;
};

/* Until it may go, or the pool stops. */
static void at_work(struct life *life)
{
	while (!cq_pool_serve(life->w, &life->me, 0) && !cq_workers_retire(life->w))
		;
}

static void ending(struct life *life)
{
	cq_run_t *w = life->w;

	/* Stopped: there are no tasks, and nobody counts on it. */
	if (w->count != 0)
		cq_u64_add_relaxed(&w->pool->counts, 0 - w->count);
	life->phase = ENDING;
	call_end(w);
	cq_member_leave(w);
}

/* worker_start has refused, or ended its thread: to the pool, a worker that could not be made. */
static void not_started(cq_run_t *w, int err)
{
	cq_workers_not_made(w->pool, w->count, err);
	cq_member_leave(w);
}

/*
 * A task or a hook has ended its thread, which goes on here, in its last handlers: as the worker that
 * it was, until another has taken its place.
 */
static void goes_on(void *arg)
{
	struct life *life = arg;
	cq_run_t *w = life->w;
	int cancel;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* a task may have allowed it */
	pthread_cleanup_push(goes_on, life); /* what it calls may end the thread once more */
	switch (life->phase) {
	case STARTING:
		cq_run_leave(w);
		not_started(w, ECANCELED);
		break;
	case AT_WORK:
		cq_task_abort(w);
		while (!cq_workers_replace(w) && !cq_pool_serve(w, &life->me, 0))
			;
		ending(life);
		break;
	case ENDING:
		cq_run_leave(w);
		cq_member_leave(w);
		break;
	case GONE: /* a handler within this one has seen to it */
		break;
	}
	life->phase = GONE;
	pthread_cleanup_pop(0);
}

static void live(struct life *life)
{
	int err;

	if ((err = call_start(life->w)) == 0) {
		life->phase = AT_WORK;
		life->w->count -= COUNT_MAKING;
		cq_workers_arrive(life->w->pool, COUNT_MAKING);
		at_work(life);
		ending(life);
	} else {
		not_started(life->w, err);
	}
}

/* The body of a worker that the pool has made: it is live and being made. */
void cq_pool_worker(void *run)
{
	struct life life = { .w = run, .phase = STARTING };

	cq_sleeper_init(&life.me, NULL);
	cq_member_join(life.w);
	if (!is_managed(life.w->pool)) {
		live(&life);
		return;
	}
	/* Once in a life, so that tasks and pieces pay nothing for it. Not on a host's threads, which
	   may be green: the handler would be one of the thread on which it was pushed. */
	life.w->managed = true;
	pthread_cleanup_push(goes_on, &life);
	live(&life);
	pthread_cleanup_pop(0);
}
