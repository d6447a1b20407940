/* SPDX-License-Identifier: BSD-2-Clause */
/* What the default park tables share, park_futex.c and park_condvar.c, of which one is built. */
#ifndef CQ_SRC_PARK_H
#define CQ_SRC_PARK_H

#include <cq/park.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "ordering.h"

#define CQ_NS_PER_S UINT64_C(1000000000)

/* The permit of a parker. */
enum {
	CQ_PERMIT_NONE,
	CQ_PERMIT_GRANTED,
	CQ_PERMIT_PARKED /* none, and its thread waits in the kernel or is about to */
};

/* For the next wait, while no waker knows the parker. */
static inline void cq_parker_reset(cq_parker_t *parker)
{
	cq_u32_store_relaxed(&parker->permit, CQ_PERMIT_NONE);
}

/* Is no function missing? NULL is the default table. */
static inline bool cq_park_complete(const cq_park_ops_t *ops)
{
	return ops == NULL || (ops->now != NULL && ops->park != NULL && ops->unpark != NULL);
}

/* Registers the fork handlers of the default table, if it has some and had none before. By one thread at a
   time. ENOMEM. */
int cq_park_register(void);

extern const char cq_park_kind[]; /* "futex" or "condvar" */

/* Condition variables with deadlines on the clock of cq_now(): cond_clock.c, where a condition variable can
   be told its clock, or cond_relative.c (macOS). It waits until a signal, the deadline, or no reason. */
void cq_cond_init(pthread_cond_t *cond);
void cq_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline);

struct timespec cq_timespec(uint64_t ns);
uint64_t cq_default_now(void *host);

#endif /* CQ_SRC_PARK_H */
