/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the scenarios of layer 4 have in common: a queue, and jobs for it that
 * notice when they run twice, never, or before what their enqueuer did.
 */
#ifndef MODEL_JOBS_H
#define MODEL_JOBS_H

#include <cq/cleanup.h>
#include <cq/cleanup_stats.h>
#include <cq/pool.h>
#include <cq/producer.h>
#include <pthread.h>

#include "explore.h"

/* All plain: an access without order is a data race, which the explorer reports. */
struct job {
	int payload;	/* by the enqueuer, before */
	bool accepted;	/* by the enqueuer, after */
	int ran;	/* by the callback */
	int given_back;	/* by shutdown */
};

enum { JOBS = 8, ONE_BLOCK = 2 /* callbacks, with the smallest blocks; arguments: twice that */ };

extern struct job jobs[JOBS];
extern int others_from;		/* jobs from this one on have a function of their own: JOBS,
				   unless the scenario says otherwise */
extern uint32_t first_waits_for;	/* the first job returns when so many others have run; 0: at once */
extern cq_cleanup_t *q;
extern cq_producer_t *producers[2];	/* attached by begin */

/* How the queue is made. Without a flag: its pool makes workers, which are the scenario's threads. */
enum {
	POLLED = CQ_POOL_POLLED,
	HOSTED = CQ_POOL_HOSTED,	/* the pool makes no workers: see serve */
	CALLED = POLLED | HOSTED,	/* nor is anybody woken: threads call run_some */
	MAY_FAIL = 1 << 9,		/* to make a worker fails, or not: each is tried */
	PUTS = 1 << 10,			/* producers[0] has the function of the first jobs */
	SERIAL = 1 << 11,		/* one run at a time */
	AWAITED = 1 << 12,		/* wait_for_jobs is used */
	TWO_LINES = 1 << 13,		/* blocks of four callbacks, on two cache lines */
	ONE_IS_FEW = PUTS | TWO_LINES,	/* a flush of one of producers[0] joins the partial block */
	BY_OWNER = 1 << 14,		/* no worker runs anything: threads call run_some */
	SLABS = 1 << 15,		/* blocks come three at a time */
	TIMED = 1 << 16,		/* published by time, when the scenario says that it has come: see pass_tick */
	LAZY = TIMED | 1 << 17,		/* and less than three blocks may wait for that, whoever keeps time */
	NO_CLOCK = 1 << 18		/* the pool can't make one */
};

/* Makes the queue, with the smallest blocks (but for TWO_LINES), and attaches `n` producers. */
void begin(unsigned how, uint32_t max_workers, int n);

/* One more thread that is in cq_pool_work until the pool is destroyed. Returns when it serves. */
void serve(void);

/* Enqueues jobs[i], or puts it, and returns what that returned. p NULL: without a producer. */
int enqueue(cq_producer_t *p, int i);
/* jobs[first] and the next, which must be accepted. */
void enqueue_some(cq_producer_t *p, int first, int n);
/* The same by a span, of one block at most; a shutdown may refuse some. */
void span_some(cq_producer_t *p, int first, int n);
/* One block of jobs[first] and the next. */
void publish(cq_producer_t *p, int first);

/* cq_cleanup_flush, and cq_cleanup_run_some of all there is, as threads. */
void flusher(void *unused);
void runner(void *unused);

/* From here on what waits is old: the two stacks change places when they can. */
void grow_old(void);

/* In a TIMED queue of a CALLED pool: the time of the next tick has come, if one is to be; who polls the pool
   finds that, and runs what is signalled. */
void pass_tick(void *unused);

/* Nothing goes on but ticks, until there are none: then all that was accepted has run, and before there was a
   reason for each block to wait. */
void end_of_ticks(void);

/* Another thread of the scenario; and wait for all of these, but not for workers. */
void run_beside(void (*body)(void *arg), void *arg);
void join_beside(void);

/* In an AWAITED queue: waits until n jobs have run. Wakes nobody: a lost wake-up is a deadlock. */
void wait_for_jobs(uint32_t n);
/* The first job, which waits for one other, has begun, and returns as if that had run. */
void let_the_first_go(void);

/* Shuts down, without a limit; what is handed back is noted in jobs[]. What nobody else runs of a
   drain, the caller does. */
int shut_down(cq_shutdown_how_t how);

/*
 * The end of a scenario: shuts down, if that is still to be done, after which no callback may
 * run; waits for its threads, detaches its producers, destroys the queue and checks that each
 * job ran or was handed back once, if it was accepted, and that the statistics say so too.
 * Workers may be in their last steps.
 */
void end(cq_shutdown_how_t how);
/* The same, where the shutdown is not what the scenario is about. */
void end_calmly(void);
void end_of_shut_down(void);

#endif /* MODEL_JOBS_H */
