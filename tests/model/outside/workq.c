/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 1: two push, one pops beside them. Each node comes out once, with what was written before its push. */
#include <cq/workq.h>

#include "outside.h"

enum { K = 2 };

struct job {
	cq_node_t node;
	int payload, popped; /* plain: a race if the queue orders nothing */
};
CQ_NODE_CONTAINER(struct job, node, job_of)

static cq_workq_t q = CQ_WORKQ_INITIALIZER;
static struct job jobs[K];

static void *push(void *arg)
{
	struct job *job = arg;

	job->payload = 1;
	cq_workq_push(&q, &job->node);
	return NULL;
}

static void *pop(void *unused)
{
	cq_node_t *node = cq_workq_try_pop(&q);

	(void)unused;
	if (node != NULL) {
		CHECK(job_of(node)->payload == 1);
		job_of(node)->popped++;
	}
	return NULL;
}

int main(void)
{
	pthread_t popper = start(pop, NULL), pushers[K];

	for (int i = 0; i < K; i++)
		pushers[i] = start(push, &jobs[i]);
	for (int i = 0; i < K; i++)
		join(pushers[i]);
	join(popper);
	while (cq_workq_units(&q) != 0)
		pop(NULL);
	for (int i = 0; i < K; i++)
		CHECK(jobs[i].popped == 1);
	return 0;
}
