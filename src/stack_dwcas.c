/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pops by a compare-and-swap of head and generation together. Every pop
 * advances the generation and a push cannot bring an old head back, so a swap
 * that succeeds proves that nothing moved since both words were read.
 */
#include "points.h"
#include "stack.h"

const char *cq_pop_name(void)
{
	return "dwcas";
}

cq_node_t *cq_stack_pop(cq_stack_t *s)
{
	/* Its load fence between generation and head is also the acquire of this
	   pop: it pairs with the release in cq_stack_push, and it keeps the load
	   of head behind a unit that was taken before (cq_workq_pop_taken). */
	return (cq_node_t *)ck_stack_pop_mpmc((ck_stack_t *)s);
}

cq_node_t *cq_stack_pop_n(cq_stack_t *s, uint64_t n)
{
	cq_stack_t seen, next;
	cq_node_t *last;

	do {
		do {
			seen.generation = cq_ptr_load_relaxed(&s->generation);
			/* Generation before head, as in ck; pairs with the swap below of
			   another popper. Without it an old generation could go with a
			   newer head, and the swap would prove nothing. */
			cq_fence_acquire();
			seen.head = cq_ptr_load_relaxed(&s->head);
			/* Pairs with the release in cq_stack_push: the links below head. */
			cq_fence_acquire();
			last = seen.head;
			/* A link that another pop has meanwhile freed may lead anywhere
			   in type-stable memory, or to an end too soon: look again. */
			for (uint64_t i = 1; i < n && last != NULL; i++)
				last = cq_ptr_load_relaxed(&last->next);
		} while (last == NULL);
		CQ_POINT("stack.walked");
		next.generation = seen.generation + 1;
		next.head = cq_ptr_load_relaxed(&last->next);
	} while (!ck_pr_cas_ptr_2(s, &seen, &next));

	/* Relaxed, not plain: another thread's walk may be reading this link. */
	cq_ptr_store_relaxed(&last->next, NULL);
	return seen.head;
}

void cq_stack_fork_child(cq_stack_t *s)
{
	(void)s;
}
