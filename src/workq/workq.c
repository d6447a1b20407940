/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "base/points.h"
#include "stack.h"

int cq_workq_init(cq_workq_t *q)
{
	if (q == NULL || (uintptr_t)q % _Alignof(cq_workq_t) != 0)
		return EINVAL;
	*q = (cq_workq_t)CQ_WORKQ_INITIALIZER;
	return 0;
}

int cq_workq_destroy(cq_workq_t *q)
{
	if (q == NULL)
		return EINVAL;
	if (q->stack.head != NULL || q->units != 0)
		return EBUSY;
	return 0;
}

void cq_workq_link_chain(cq_workq_t *q, cq_node_t *first, cq_node_t *last)
{
	cq_node_t *head = cq_ptr_load_relaxed(&q->stack.head);

	CQ_POINT("workq.link");
	if (first == last) {
		cq_stack_push(&q->stack, first);
		return;
	}
	do {
		cq_ptr_store_relaxed(&last->next, head);
		/* Pairs as that in cq_stack_push; in the loop, for last->next too. */
		cq_fence_release();
	} while (!cq_ptr_cas_relaxed(&q->stack.head, &head, first));
}

uint64_t cq_workq_add_work(cq_workq_t *q, uint64_t n)
{
	uint64_t before;

	CQ_POINT("workq.linked");
	/* Pairs with the fence of the pop that follows a take: the link before the count. Without it a taker
	   could find its unit and no node (W1). */
	cq_fence_release();
	before = cq_u64_add_relaxed(&q->units, n);
	CQ_CHECK(before + n >= before);
	return before;
}

uint64_t cq_workq_push_chain(cq_workq_t *q, cq_node_t *first, cq_node_t *last, uint64_t n)
{
	cq_workq_link_chain(q, first, last);
	return cq_workq_add_work(q, n);
}

uint64_t cq_workq_take(cq_workq_t *q, uint64_t max)
{
	uint64_t units = cq_u64_load_relaxed(&q->units);

	do {
		if (units == 0 || max == 0)
			return units;
		CQ_POINT("workq.take");
	} while (!cq_u64_cas_relaxed(&q->units, &units, units < max ? 0 : units - max));
	return units;
}

cq_node_t *cq_workq_pop_taken_n(cq_workq_t *q, uint64_t n)
{
	cq_node_t *first;

	if (n == 0)
		return NULL;
	CQ_POINT("workq.taken");
	/* With an acquire fence before it reads head: the other half of the pair in cq_workq_add_work. */
	first = cq_stack_pop_n(&q->stack, n);
	CQ_CHECK(first != NULL);
	return first;
}

uint64_t cq_workq_units(const cq_workq_t *q)
{
	return cq_u64_load_relaxed(&q->units);
}
