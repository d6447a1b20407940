/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the scenarios of layer 3 have in common: a queue, and jobs for it that
 * notice when they run twice, never, or before what their enqueuer did.
 */
#ifndef MODEL_JOBS_H
#define MODEL_JOBS_H

#include <cq/cleanup.h>
#include <pthread.h>

#include "explore.h"

/* All plain: an access without order is a data race, which the explorer reports. */
struct job {
	int payload;	/* by the enqueuer, before */
	bool accepted;	/* by the enqueuer, after */
	int ran;	/* by the callback */
	int given_back;	/* by shutdown */
};

enum { JOBS = 8, ONE_BLOCK = 2 /* callbacks, with the smallest blocks */ };

extern struct job jobs[JOBS];
extern int others_from;		/* jobs from this one on have a function of their own: JOBS,
				   unless the scenario says otherwise */
extern int first_waits_for;	/* 2, unless the scenario says otherwise */
extern cq_cleanup_t *q;
extern cq_producer_t *producers[2];	/* attached by begin */

/* How the queue is made. */
enum {
	POLLED = CQ_POLLED,		/* and HOSTED too, or without workers */
	HANDOVER = CQ_HANDOVER,
	HOSTED = 1 << 8,		/* workers from the scenario, not the library */
	MAY_FAIL = 1 << 9 | HOSTED,	/* to make one fails, or not: each is tried */
	HELD = 1 << 10 | HOSTED,	/* those that were made begin at start_held */
	RETIRING = 1 << 11,		/* a worker may retire whenever it is idle */
	AWAITED = 1 << 12,		/* wait_for_jobs is used */
	FIRST_FAILS = 1 << 14 | HOSTED,	/* to make the first worker fails */
	POLLING = 1 << 15,		/* a worker looks once more before it sleeps */
	SHARING = 1 << 16,		/* blocks may share their function */
	TWO_LINES = 1 << 17,		/* blocks of four callbacks, on two cache lines */
	FIRST_WAITS = 1 << 13		/* the first job returns when first_waits_for have run */
};

/* Makes the queue, with the smallest blocks (but for TWO_LINES), and attaches `n` producers. */
void begin(unsigned how, uint32_t max_workers, int n);

/* Enqueues jobs[i], and returns what that returned. */
int enqueue(cq_producer_t *p, int i);
/* jobs[first] and the next, which must be accepted. */
void enqueue_some(cq_producer_t *p, int first, int n);
/* The same by a span, of one block at most; a shutdown may refuse some. */
void span_some(cq_producer_t *p, int first, int n);
/* One block of jobs[first] and the next. */
void publish(cq_producer_t *p, int first);

/* flush_all, as a thread. */
void flusher(void *unused);

/* Another thread of the scenario; and wait for all of these, but not for workers. */
void run_beside(void (*body)(void *arg), void *arg);
void join_beside(void);

/* Workers asked for so far, with success. */
uint32_t workers_made(void);
void start_held(void);

/* In an AWAITED queue: how many jobs have run. */
uint32_t jobs_run(void);
/* Waits until n jobs have run. Wakes nobody: a lost wake-up is a deadlock. */
void wait_for_jobs(int n);

/* Shuts down, without a limit; what is handed back is noted in jobs[]. */
int shut_down(cq_shutdown_how_t how);

/*
 * The end of a scenario: shuts down, if that is still to be done, waits for its
 * threads, detaches its producers, destroys the queue and checks that each job ran
 * or was handed back once, if it was accepted. Workers may be in their last steps.
 */
void end(cq_shutdown_how_t how);
/* The same, where the shutdown is not what the scenario is about. */
void end_calmly(void);
/* The same for a queue without workers: runs what is left. */
void end_polled(void);
void end_of_shut_down(void);

#endif /* MODEL_JOBS_H */
