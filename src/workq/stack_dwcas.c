/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pops by a compare-and-swap of head and generation together. Every pop advances the generation and a push
 * cannot bring an old head back, so a swap that succeeds proves that nothing moved since both were read.
 *
 * ck_stack_pop_mpmc is the same for one node, but goes on with the two words that a failed swap returned. On
 * arm64 without LSE those are read by an ldxp that no stxp has confirmed, which may be torn: an old head with
 * the new generation, the very pair that the generation is to exclude. Here both are loaded anew, the
 * generation first.
 */
#include "base/points.h"
#include "stack.h"

const char cq_pop_kind[] = "dwcas";

/* Reads both words and walks to the nth node. NULL: the links ended before it. */
static cq_node_t *stack_walk(cq_stack_t *s, cq_stack_t *seen, uint64_t n)
{
	cq_node_t *last;

	seen->generation = cq_ptr_load_relaxed(&s->generation);
	/* Pairs with the swap of another popper: an older generation never goes with a newer head. Without it
	   the swap would prove nothing. It also keeps the load of head behind a unit taken before. */
	cq_fence_acquire();
	seen->head = cq_ptr_load_relaxed(&s->head);
	/* Pairs with the release in cq_stack_push: the links below head. */
	cq_fence_acquire();
	last = seen->head;
	/* A link that another pop has freed may lead anywhere in type-stable memory, or end too soon. */
	for (uint64_t i = 1; i < n && last != NULL; i++)
		last = cq_ptr_load_relaxed(&last->next);
	return last;
}

static cq_node_t *stack_pop(cq_stack_t *s, uint64_t n, uint32_t *failed)
{
	cq_stack_t seen, next;
	cq_node_t *last;

	do {
		while ((last = stack_walk(s, &seen, n)) == NULL)
			if (seen.head == NULL)
				return NULL;
		CQ_POINT("stack.walked");
		next.generation = (char *)((uintptr_t)seen.generation + 1);
		next.head = cq_ptr_load_relaxed(&last->next);
	} while (!ck_pr_cas_ptr_2(s, &seen, &next) && ++*failed != 0);

	/* Relaxed, not plain: another thread's walk may be reading this link. */
	cq_ptr_store_relaxed(&last->next, NULL);
	return seen.head;
}

cq_node_t *cq_stack_pop_n(cq_stack_t *s, uint64_t n)
{
	uint32_t failed = 0;

	return stack_pop(s, n, &failed);
}

cq_node_t *cq_stack_pop(cq_stack_t *s, uint32_t *failed)
{
	*failed = 0;
	return stack_pop(s, 1, failed);
}
