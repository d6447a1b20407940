/* SPDX-License-Identifier: BSD-2-Clause */
/* The life of a worker: begun, at work, idle for too long, one of too many, stopped, or ended by a task that
   ends its thread. */
#include <errno.h>

#include "pool_priv.h"

/* Until when a worker that idles since then may sleep. */
static uint64_t idle_until(const cq_run_t *w, uint64_t since)
{
	const cq_pool_t *p = w->pool;

	if (counts_made(cq_u64_load_relaxed(&p->counts)) <= cq_u32_load_relaxed(&p->min) ||
	    since > CQ_FOREVER - p->config.idle_ns)
		return CQ_FOREVER;
	return since + p->config.idle_ns;
}

/* Runs tasks until the pool stops (true), or there was none until `deadline` (0: for as long as a worker that
   the pool made stays). */
bool cq_pool_serve(cq_run_t *w, cq_sleeper_t *me, uint64_t deadline)
{
	cq_pool_t *p = w->pool;
	cq_wait_result_t result = CQ_AGAIN;
	uint64_t since = 0; /* idle; 0: it was not */
	cq_task_t *t;

	while (!cq_workers_surplus(w)) {
		if (cq_task_join(w)) {
			result = CQ_AGAIN;
			since = 0;
			continue;
		}
		if ((t = cq_task_pop(p)) == NULL) {
			if (cq_pool_stopped(p))
				return true;
			if (result == CQ_TIMED_OUT)
				return false;
			if (since == 0)
				since = p->config.park->now(p->config.park->host);
			CQ_POINT("worker.found_nothing");
			cq_sleepers_prepare_wait(&p->idle, me);
			if ((t = cq_task_pop(p)) == NULL) { /* nor is it stopped: commit_wait would say so */
				result = cq_sleepers_commit_wait(&p->idle, me,
				    deadline != 0 ? deadline : idle_until(w, since));
				continue;
			}
			cq_sleepers_cancel_wait(&p->idle, me);
		}
		result = CQ_AGAIN;
		since = 0;
		cq_task_run(w, t);
	}
	return false;
}

/* ------------------------------------------------------------- of the pool's making */

/* The worker leaves. `err`: worker_start has refused, so to the pool it is one that could not be made. */
static void leave(cq_run_t *w, int err)
{
	const cq_pool_config_t *c = &w->pool->config;
	int cancel;

	if (w->managed) /* a task or a hook may have allowed it */
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	if (err != 0) {
		cq_workers_not_made(w->pool, w->count, err);
	} else {
		if (w->count != 0) /* stopped: there are no tasks, and nobody counts on it */
			cq_u64_add_relaxed(&w->pool->counts, 0 - w->count);
		w->count = 0;
		if (w->managed && c->worker_end != NULL) {
			cq_run_enter(w);
			c->worker_end(c->host);
			cq_run_leave(w);
		}
	}
	cq_member_leave(w);
}

/* A task or a hook has ended its thread, which is in its last handlers. No task runs here, and worker_end must
   return: if a thread that unwinds is ended once more, glibc jumps into frames that are gone. */
static void is_ended(void *run)
{
	cq_run_t *w = run;

	if (counts_making(w->count) != 0) { /* in worker_start */
		cq_run_leave(w);
		leave(w, ECANCELED);
	} else if (w->count != 0) {
		cq_task_abort(w);
		cq_workers_replace(w);
		leave(w, 0);
	} else { /* in worker_end */
		cq_run_leave(w);
		cq_member_leave(w);
	}
}

/* Before it retires: others may stay at work, or it may. */
static void tell_idle(cq_pool_t *p)
{
	for (cq_task_t *t = cq_workers_telling(p); t != NULL; t = t->all_next)
		if (cq_task_is_open(t) && t->idle != NULL)
			t->idle(t->arg);
	cq_workers_told(p);
}

static void live(cq_run_t *w)
{
	const cq_pool_config_t *c = &w->pool->config;
	cq_sleeper_t me;
	int err = 0;

	/* The hooks run as tasks do, and a fork within goes on in the child. */
	if (w->managed && c->worker_start != NULL) {
		cq_run_enter(w);
		err = c->worker_start(c->host);
		cq_run_leave(w);
	}
	if (err == 0) {
		cq_sleeper_init(&me, NULL);
		cq_workers_arrive(w);
		while (!cq_pool_serve(w, &me, 0)) {
			if (!cq_workers_surplus(w))
				tell_idle(w->pool);
			if (cq_workers_retire(w))
				break;
		}
	}
	leave(w, err);
}

/* The body of a worker that the pool has made: it is live and being made; or of the pool's clock. */
void cq_pool_worker(void *run)
{
	cq_run_t *w = run;

	if (w->count == 0) {
		w->to_join = w->pool->config.spawn == NULL;
		cq_clock_be(w);
		return;
	}
	if (w->pool->config.spawn != NULL) {
		live(w);
		return;
	}
	/* Once in a life, so that tasks and pieces pay nothing for it. Not on a host's threads, which
	   may be green: the handler would be one of the thread on which it was pushed. */
	w->managed = w->to_join = true;
	pthread_cleanup_push(is_ended, w);
	live(w);
	pthread_cleanup_pop(0);
}
