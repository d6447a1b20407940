/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A list of jobs on a worker pool, first in, first out: what the thread pools of libuv, zstd and
 * many others do. Jobs lie in the caller's memory, and can be removed until they begin. Several
 * lists, and other tasks, share the workers of one pool.
 *
 *     struct page { struct job job; int number; };
 *
 *     static bool print_page(struct job *job)
 *     {
 *             printf("%d\n", ((struct page *)job)->number);
 *             return true;
 *     }
 *
 *     jobs_init(&list, pool, 4);
 *     jobs_submit(&list, &page.job, print_page);
 *     jobs_wait(&list, &page.job, CQ_FOREVER);
 *
 * Cancel, or wait for the one that runs: when this is true, nobody is in the job, nor will be. (uv_cancel, and
 * whoever stops a timer, ask this before they free it.)
 *
 *     jobs_cancel(&list, &page.job) || jobs_wait(&list, &page.job, CQ_FOREVER) == 0
 *
 * All calls may run together, but init and destroy with none. A job is the list's from submit until
 * it has run or was cancelled. STALLED, as in cq/pool.h: the pool has no worker and can't make
 * one; then cq_task_run_some(list.task, n) runs n jobs in the caller. A child of fork() uses
 * neither the list nor its pool.
 */
#ifndef JOBS_H
#define JOBS_H

#include <cq/cq.h>

struct job {
	/* False: it has given the job away (freed it, submitted it again, shown it to another thread);
	   the list doesn't touch it any more, and nobody waits for it. Returns on its thread. */
	bool (*function)(struct job *job);
	struct job *next, *prev;	/* the list's, as what follows; under its lock */
	int state, awaited;		/* state: negative, or what jobs_wait returns */
};

struct jobs {
	pthread_mutex_t lock;		/* not held while the pool is called */
	struct job ends;		/* next: the oldest that waits; prev: the newest */
	size_t unfinished;
	cq_sleepers_t waiters;
	cq_pool_t *pool;
	cq_task_t *task;
};

/* `parallel`: how many may run at once; 0: as many as there are workers. 0, or errno's value. */
int jobs_init(struct jobs *list, cq_pool_t *pool, uint32_t parallel);

/* Waits for jobs that run; others never will. ETIMEDOUT: call it again. EDEADLK: in a task of the pool. */
int jobs_destroy(struct jobs *list, uint64_t deadline);

/* Jobs begin in the order of submit. 0, or STALLED: it is submitted all the same. */
int jobs_submit(struct jobs *list, struct job *job, bool (*function)(struct job *job));

/* True: the job has not begun and never will. False: it has begun, or run, or was cancelled. */
bool jobs_cancel(struct jobs *list, struct job *job);

/*
 * Until the job (NULL: all) has run; what it did is visible then. 0; ECANCELED: it was cancelled;
 * ETIMEDOUT; STALLED; EDEADLK: in a job of the list.
 */
int jobs_wait(struct jobs *list, struct job *job, uint64_t deadline);

#endif /* JOBS_H */
