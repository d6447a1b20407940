/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An event loop with a thread pool, as libuv has it: work runs on workers, in the order of submit, and what comes
 * after it in the loop's thread; a request that has not begun can be cancelled. (The list: jobs.h.)
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "jobs.h"

enum { REQUESTS = 1000 };

struct loop {
	struct jobs jobs;
	cq_workq_t done;		/* requests whose `after` is to be called */
	int wake[2];			/* a pipe, in which it sleeps */
	unsigned active;		/* requests; the loop's thread alone */
};

struct request {
	struct job job;			/* first: one is the other */
	cq_node_t node;			/* in done */
	struct loop *loop;
	void (*work)(struct request *r);
	void (*after)(struct request *r, int status);	/* 0 or ECANCELED. May submit it again, or free it */
	int status;
	unsigned number, square;
};
CQ_NODE_CONTAINER(struct request, node, request_of)

/* In any thread. Who finds none before it wakes the loop, which takes until there is none. */
static void finish(struct request *r, int status)
{
	struct loop *l = r->loop;

	r->status = status;
	if (cq_workq_push(&l->done, &r->node) == 0)
		while (write(l->wake[1], "", 1) < 0)
			continue;
}

static bool run_work(struct job *job)
{
	struct request *r = (struct request *)job;

	r->work(r);
	finish(r, 0);
	return false; /* it is the loop's now */
}

static int submit(struct loop *l, struct request *r)
{
	r->loop = l;
	l->active++;
	return jobs_submit(&l->jobs, &r->job, run_work);
}

static bool cancel(struct request *r)
{
	if (!jobs_cancel(&r->loop->jobs, &r->job))
		return false;
	finish(r, ECANCELED);
	return true;
}

/* The main loop. In a real one the read is a poll, of sockets and timers too. */
static void run(struct loop *l)
{
	cq_node_t *node;
	char event;

	while (l->active != 0) {
		if (read(l->wake[0], &event, 1) < 0)
			continue;
		while ((node = cq_workq_try_pop(&l->done)) != NULL) {
			struct request *r = request_of(node);

			l->active--;
			r->after(r, r->status);
		}
	}
}

/* --------------------------------------------------------------------------- a program */

static unsigned right, cancelled;

static void square(struct request *r)
{
	r->square = r->number * r->number;
}

static void check(struct request *r, int status)
{
	cancelled += status == ECANCELED;
	right += status == 0 && r->square == r->number * r->number;
}

int main(void)
{
	static struct request requests[REQUESTS];
	static struct loop loop = { .done = CQ_WORKQ_INITIALIZER };
	unsigned refused = 0;
	cq_pool_t *pool;

	if (cq_pool_create(NULL, &pool) != 0 || pipe(loop.wake) != 0 || jobs_init(&loop.jobs, pool, 4) != 0)
		return 1;
	for (unsigned i = 0; i < REQUESTS; i++) {
		requests[i] = (struct request){ .work = square, .after = check, .number = i };
		if (submit(&loop, &requests[i]) != 0)
			return 1;
	}
	for (unsigned i = 0; i < REQUESTS; i += 2)
		refused += cancel(&requests[i]);
	run(&loop);
	printf("loop: %u requests, %u of them cancelled\n", right + cancelled, cancelled);
	return right + cancelled != REQUESTS || cancelled != refused || jobs_destroy(&loop.jobs, CQ_FOREVER) != 0 ||
	    cq_pool_destroy(pool, CQ_FOREVER) != 0;
}
