/* SPDX-License-Identifier: BSD-2-Clause */
/* The end of a pool's workers, while whoever has a task of it may still signal it. */
#ifndef CQ_POOL_END_H
#define CQ_POOL_END_H

#include <cq/pool.h>

/*
 * Ends the workers, waits for them, and joins those that the pool made. None is made any more, and a
 * signal does nothing. ETIMEDOUT: call it again. Not from a run of the pool, or a fork handler.
 */
int cq_pool_end(cq_pool_t *pool, uint64_t deadline);

#endif /* CQ_POOL_END_H */
