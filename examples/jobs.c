/* SPDX-License-Identifier: BSD-2-Clause */
#include "jobs.h"

#include <errno.h>

enum { JOB_WAITS = -2, JOB_BEGUN = -1 };

/* With the lock held, as the next. */
static void take_off(struct job *job, int state)
{
	job->prev->next = job->next;
	job->next->prev = job->prev;
	job->state = state;
}

static void finish(struct jobs *list, bool awaited)
{
	if (--list->unfinished == 0 || awaited)
		cq_sleepers_wake(&list->waiters, UINT32_MAX); /* each looks whether it was meant */
}

static void run_jobs(cq_run_t *run, void *arg)
{
	struct jobs *list = arg;
	struct job *job;
	bool kept, goes_on = true;

	pthread_mutex_lock(&list->lock);
	while (goes_on && (job = list->ends.next) != &list->ends) {
		take_off(job, JOB_BEGUN);
		pthread_mutex_unlock(&list->lock);
		if (job->next != &list->ends) /* there are more */
			cq_run_more(run, UINT64_MAX); /* how many, nobody counts */
		cq_run_piece(run, job);
		kept = job->function(job);
		cq_run_piece(run, NULL);
		goes_on = cq_run_may_continue(run);
		pthread_mutex_lock(&list->lock);
		if (kept)
			job->state = 0;
		finish(list, kept && job->awaited);
	}
	pthread_mutex_unlock(&list->lock);
}

/* Those who wait ask the pool again, and learn it. */
static void stalled(void *list)
{
	cq_sleepers_wake(&((struct jobs *)list)->waiters, UINT32_MAX);
}

int jobs_init(struct jobs *list, cq_pool_t *pool, uint32_t parallel)
{
	static const cq_task_ops_t ops = { .run = run_jobs, .stalled = stalled };

	*list = (struct jobs){ .ends = { .next = &list->ends, .prev = &list->ends }, .pool = pool,
		.lock = PTHREAD_MUTEX_INITIALIZER, .waiters = CQ_SLEEPERS_INITIALIZER };
	return cq_task_create(pool, &ops, list, parallel, &list->task);
}

int jobs_destroy(struct jobs *list, uint64_t deadline)
{
	int err = cq_task_close(list->task, deadline);

	return err != 0 ? err :
	    cq_sleepers_destroy(&list->waiters) | pthread_mutex_destroy(&list->lock);
}

int jobs_submit(struct jobs *list, struct job *job, bool (*function)(struct job *job))
{
	pthread_mutex_lock(&list->lock);
	*job = (struct job){ function, &list->ends, list->ends.prev, JOB_WAITS, false };
	job->prev->next = job->next->prev = job;
	list->unfinished++;
	pthread_mutex_unlock(&list->lock);
	return cq_task_signal(list->task);
}

bool jobs_cancel(struct jobs *list, struct job *job)
{
	bool waits;

	pthread_mutex_lock(&list->lock);
	if ((waits = job->state == JOB_WAITS)) {
		take_off(job, ECANCELED);
		finish(list, job->awaited);
	}
	pthread_mutex_unlock(&list->lock);
	return waits;
}

int jobs_wait(struct jobs *list, struct job *job, uint64_t deadline)
{
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;
	int state;

	if (cq_task_is_current(list->task))
		return EDEADLK;
	cq_sleeper_init(&me, NULL);
	for (;;) {
		cq_sleepers_prepare_wait(&list->waiters, &me);
		pthread_mutex_lock(&list->lock);
		state = job != NULL ? job->state : list->unfinished != 0 ? JOB_BEGUN : 0;
		if (job != NULL)
			job->awaited = true;
		pthread_mutex_unlock(&list->lock);
		if (state < 0 && cq_pool_wake(list->pool) != 0)
			state = EAGAIN; /* nobody is there to run it */
		if (state >= 0 || result == CQ_TIMED_OUT)
			break;
		result = cq_sleepers_commit_wait(&list->waiters, &me, deadline);
	}
	cq_sleepers_cancel_wait(&list->waiters, &me);
	return state >= 0 ? state : ETIMEDOUT;
}
