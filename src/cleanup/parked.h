/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The parked threads of a cleanup queue, and a count of them that is read without the lock:
 * the sleeper set of version 0.1. The look for work runs under the lock, and nobody counts
 * who is on the way (crew, cleanup_priv.h, does). cq/sleepers.h is its successor; this goes
 * when the queue is built on the pool.
 *
 * asleep >= listed sleepers at every instant, and equal when the lock is free.
 */
#ifndef CQ_SRC_PARKED_H
#define CQ_SRC_PARKED_H

#include <cq/park.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct cq_parked_sleeper {
	struct cq_parked_sleeper *next, *prev;	/* in the list; under the set's lock */
	bool listed;				/* under the set's lock */
	cq_parker_t parker;
} cq_parked_sleeper_t;

typedef struct cq_parked {
	pthread_mutex_t lock;
	cq_parked_sleeper_t *newest;	/* the list; under the lock */
	const cq_park_ops_t *ops;	/* NULL: the default table */
	uint32_t asleep;		/* written under the lock, read by anyone */
	uint64_t woken CQ_ALIGNED(8);	/* ever; likewise */
} cq_parked_t;

typedef enum cq_parked_result {
	CQ_PARKED_WOKEN,	/* a waker took this sleeper off the list */
	CQ_PARKED_WORK,		/* the look returned true; it was never listed */
	CQ_PARKED_TIMED_OUT	/* the deadline passed, and no waker had taken it */
} cq_parked_result_t;

/* Called once after the announcement, with the lock held. It may take the work that it finds. */
typedef bool cq_parked_look_fn(void *arg);

int cq_parked_init(cq_parked_t *set, const cq_park_ops_t *ops);
void cq_parked_destroy(cq_parked_t *set);
void cq_parked_sleeper_init(cq_parked_sleeper_t *sleeper, void *host);
cq_parked_result_t cq_parked_sleep(cq_parked_t *set, cq_parked_sleeper_t *sleeper,
    cq_parked_look_fn *look, void *arg, uint64_t deadline);

/* Full fence, then the count. */
uint32_t cq_parked_asleep(cq_parked_t *set);

uint32_t cq_parked_wake(cq_parked_t *set, uint32_t n);
uint32_t cq_parked_wake_all(cq_parked_t *set);

/*
 * cq_parked_wake in two halves, for a waker that must take sleepers while it
 * holds a lock, as the set may be gone once it has left that lock, and must not
 * unpark them before.
 */

/* Takes up to *n sleepers off the list, by `next`; *n: how many. */
cq_parked_sleeper_t *cq_parked_take(cq_parked_t *set, uint32_t *n);

/* Unparks them through `ops`, the table of the set. Needs the set no more. */
void cq_parked_unpark(const cq_park_ops_t *ops, cq_parked_sleeper_t *taken);

void cq_parked_fork_prepare(cq_parked_t *set);
void cq_parked_fork_parent(cq_parked_t *set);
void cq_parked_fork_child(cq_parked_t *set);

#endif /* CQ_SRC_PARKED_H */
