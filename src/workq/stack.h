/* SPDX-License-Identifier: BSD-2-Clause */
/* The stack under the work queue: many pushers and many poppers, and chains. The pop is in stack_dwcas.c or
   stack_locked.c, of which one is built. */
#ifndef CQ_STACK_H
#define CQ_STACK_H

#include <cq/workq.h>

#include "base/ordering.h"

/* Pops exactly `n` nodes as a chain that ends in NULL; NULL when it saw an empty stack. For more than one the
   caller knows that as many are there for it. */
cq_node_t *cq_stack_pop_n(cq_stack_t *s, uint64_t n);

extern const char cq_pop_kind[]; /* "dwcas" or "locked" */

static inline void cq_stack_push_chain(cq_stack_t *s, cq_node_t *first, cq_node_t *last)
{
	cq_node_t *head = cq_ptr_load_relaxed(&s->head);

	do {
		cq_ptr_store_relaxed(&last->next, head);
		/* Pairs with the load of head in the pops: what this thread read and wrote in the nodes comes
		   before the popper's use of them. Without it a recycled node could be written while its last
		   user still reads. */
		cq_fence_release();
	} while (!cq_ptr_cas_relaxed(&s->head, &head, first));
}

static inline void cq_stack_push(cq_stack_t *s, cq_node_t *node)
{
	cq_stack_push_chain(s, node, node);
}

#endif /* CQ_STACK_H */
