/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stack under the work queue: ck_stack, many pushers and many poppers, plus
 * a push of a whole chain and a pop of several nodes. The pops are in
 * stack_dwcas.c or stack_locked.c, of which one is built.
 */
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

/*
 * Pops exactly `n` nodes as a chain that ends in NULL; NULL when it saw an empty
 * stack. For more than one the caller knows that as many are there for it.
 */
cq_node_t *cq_stack_pop_n(cq_stack_t *s, uint64_t n);

static inline cq_node_t *cq_stack_pop(cq_stack_t *s)
{
	return cq_stack_pop_n(s, 1);
}

extern const char cq_pop_kind[]; /* "dwcas" or "locked" */

/* In a forked child: forget a popper that was under way in the parent. */
void cq_stack_fork_child(cq_stack_t *s);

/* Forgets its nodes, when nobody else can touch it. */
static inline void cq_stack_clear(cq_stack_t *s)
{
	s->head = NULL;
}

static inline void cq_stack_push(cq_stack_t *s, cq_node_t *node)
{
	/* Pairs with the load of head in the pops: what this thread read and wrote
	   in the node comes before the popper's use of it. Without it a recycled
	   node could be written while its last user still reads. */
	cq_fence_release();
	ck_stack_push_mpmc((ck_stack_t *)s, (ck_stack_entry_t *)node);
}

static inline void cq_stack_push_chain(cq_stack_t *s, cq_node_t *first, cq_node_t *last)
{
	cq_node_t *head = cq_ptr_load_relaxed(&s->head);

	do {
		cq_ptr_store_relaxed(&last->next, head);
		/* Pairs as that in cq_stack_push; in the loop, for last->next too. */
		cq_fence_release();
	} while (!cq_ptr_cas_relaxed(&s->head, &head, first));
}

#endif /* CQ_STACK_H */
