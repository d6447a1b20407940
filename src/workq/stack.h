/* SPDX-License-Identifier: BSD-2-Clause */
/* The stack under the work queue: Concurrency Kit's ck_stack, which many have read and run; and chains, which it has
   not. The pop, by many threads, is in stack_dwcas.c or stack_locked.c, of which one is built. */
#ifndef CQ_STACK_H
#define CQ_STACK_H

#include <ck_stack.h>
#include <cq/workq.h>

#include "base/ordering.h"

_Static_assert(sizeof(cq_stack_t) == sizeof(ck_stack_t) &&
    offsetof(cq_stack_t, head) == offsetof(ck_stack_t, head) &&
    offsetof(cq_stack_t, generation) == offsetof(ck_stack_t, generation) &&
    offsetof(cq_node_t, next) == offsetof(ck_stack_entry_t, next),
    "the public types are ck's in other words");

/* Pops exactly `n` nodes as a chain that ends in NULL; NULL when it saw an empty stack. For more than one the
   caller knows that as many are there for it. */
cq_node_t *cq_stack_pop_n(cq_stack_t *s, uint64_t n);

/* One, or NULL. *failed: how often another thread was in the way. */
cq_node_t *cq_stack_pop(cq_stack_t *s, uint32_t *failed);

extern const char cq_pop_kind[]; /* "dwcas" or "locked" */

static inline void cq_stack_push(cq_stack_t *s, cq_node_t *node)
{
	/* Pairs with the load of head in the pops: what this thread read and wrote in the node comes before the
	   popper's use of it. Without it a recycled node could be written while its last user still reads.
	   (ck has a fence of its own behind the link.) */
	cq_fence_release();
	ck_stack_push_mpmc((ck_stack_t *)s, (ck_stack_entry_t *)node);
}

#endif /* CQ_STACK_H */
