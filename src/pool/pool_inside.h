/* SPDX-License-Identifier: BSD-2-Clause */
/* For what is built on a pool within the library. */
#ifndef CQ_POOL_INSIDE_H
#define CQ_POOL_INSIDE_H

#include <cq/pool.h>

/* CQ_POOL_POLLED: whoever waits for a task's work is to wake for it when it comes. */
bool cq_pool_is_polled(const cq_pool_t *pool);

/* Ends the workers, waits for them, and joins those that the pool made. None is made any more, and a signal
   does nothing. ETIMEDOUT: call it again. Not from a run of the pool, or a fork handler. */
int cq_pool_end(cq_pool_t *pool, uint64_t deadline);

#endif /* CQ_POOL_INSIDE_H */
