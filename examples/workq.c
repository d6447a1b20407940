/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 1 alone: four threads hand nodes to each other through a lock-free
 * work queue, and every node arrives exactly once.
 */
#include <pthread.h>
#include <stdio.h>

#include <cq/cq.h>

enum { THREADS = 4, JOBS = 50000 };

struct job {
	cq_node_t node; /* links the job into the queue: nothing is allocated */
	unsigned seen;	/* plain: between pop and push a job has one owner */
};
CQ_NODE_CONTAINER(struct job, node, job_of)

static cq_workq_t q = CQ_WORKQ_INITIALIZER;
static struct job jobs[THREADS][JOBS]; /* static: nodes must outlive all pops */

static void *push_and_pop(void *arg)
{
	struct job *mine = arg;
	cq_node_t *n;

	for (int i = 0; i < JOBS; i++) {
		cq_workq_push(&q, &mine[i].node);
		/* One unit, one node: whoever sees a unit gets a node, perhaps another's. */
		if ((n = cq_workq_try_pop(&q)) != NULL)
			job_of(n)->seen++;
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	unsigned lost = 0;
	cq_node_t *n;

	for (int t = 0; t < THREADS; t++)
		if (pthread_create(&threads[t], NULL, push_and_pop, jobs[t]) != 0)
			return 1;
	for (int t = 0; t < THREADS; t++)
		pthread_join(threads[t], NULL);
	while ((n = cq_workq_try_pop(&q)) != NULL)
		job_of(n)->seen++;

	for (int t = 0; t < THREADS; t++)
		for (int i = 0; i < JOBS; i++)
			lost += jobs[t][i].seen != 1;
	printf("workq: %d jobs, %u lost or doubled, pop is %s\n", THREADS * JOBS, lost,
	    cq_build_info()->pop);
	return lost != 0 || cq_workq_destroy(&q) != 0;
}
