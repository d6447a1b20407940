/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "producer.h"
#include "workq/stack.h"

static cq_block_t *make(cq_cleanup_t *q)
{
	cq_block_t *b = cq_alloc(q, q->block_bytes);
	cq_block_t *all;

	if (b == NULL)
		return NULL;
	b->node.next = NULL;
	b->begin = b->end = b->first = 0;
	b->parity = b->shared = 0;
	all = cq_ptr_load_relaxed(&q->all);
	do {
		b->all_next = all;
		/* Pairs with the walkers of `all` (trim, fork, destroy), which run when
		   no block is being made: for them it is enough that the fields come
		   before the link in program order of a forked copy. */
		cq_fence_release();
	} while (!cq_ptr_cas_relaxed(&q->all, &all, b));
	cq_u64_add_relaxed(&q->blocks_made, 1);
	return b;
}

/* An empty block, from the free stack if it has one; NULL: no memory. */
cq_block_t *cq_block_get(cq_cleanup_t *q)
{
	cq_node_t *node = cq_stack_pop(&q->free);

	return node != NULL ? block_of(node) : make(q);
}

void cq_block_put(cq_cleanup_t *q, cq_block_t *b)
{
	cq_stack_push(&q->free, &b->node);
}

/* Forgets the callbacks of a block, which have begun or are claimed. */
void cq_block_clear(cq_block_t *b)
{
	/* end first: at no instant may a forked child see [0, end) again. */
	cq_u32_store_relaxed(&b->end, 0);
	cq_u32_store_relaxed(&b->begin, 0);
}

/* The same, and the block goes back to the free stack. */
void cq_block_recycle(cq_cleanup_t *q, cq_block_t *b)
{
	cq_block_clear(b);
	cq_block_put(q, b);
}

/* Publishes a chain of n blocks by node.next, all of one parity, already counted. */
void cq_blocks_publish(cq_cleanup_t *q, unsigned parity, cq_block_t *first, cq_block_t *last,
    uint64_t n)
{
	/* The stack is last in, first out, so its oldest block came when it was
	   last empty. */
	if (cq_workq_units(&q->full[parity].queue) == 0)
		cq_u64_store_relaxed(&q->full[parity].since, park_of(q)->now(park_of(q)->host));
	cq_workq_push_chain(&q->full[parity].queue, &first->node, &last->node, n);
}

uint64_t cq_blocks_waiting(cq_cleanup_t *q)
{
	return cq_workq_units(&q->full[0].queue) + cq_workq_units(&q->full[1].queue);
}

/* Takes a unit, from the older queue first: the index of its queue, or TAKEN_NONE. */
unsigned cq_block_take_unit(cq_cleanup_t *q)
{
	unsigned current = cq_u64_load_relaxed(&q->epoch) & 1;

	if (cq_workq_try_take_work(&q->full[current ^ 1].queue))
		return current ^ 1;
	if (cq_workq_try_take_work(&q->full[current].queue))
		return current;
	return TAKEN_NONE;
}

cq_block_t *cq_block_take(cq_cleanup_t *q)
{
	unsigned from = cq_block_take_unit(q);
	cq_block_t *b;

	if (from == TAKEN_NONE)
		return NULL;
	b = block_of(cq_workq_pop_taken(&q->full[from].queue));
	b->first = b->begin;
	return b;
}

/* Is no thread touching a stack, or inside of a block? Under the registry lock. */
static bool quiescent(cq_cleanup_t *q)
{
	if (cq_blocks_waiting(q) != 0 || crew_coming(cq_u64_load_relaxed(&q->crew)) != 0)
		return false;
	if (q->shutdown == SHUTDOWN_ACTIVE)
		return false; /* it may be giving a block back */
	/* Pairs with the release in set_busy and the fence in cq_cleanup_run_some
	   (worker.c): who has taken the last unit is seen to be busy, or to poll. */
	cq_fence_acquire();
	if (cq_u32_load_relaxed(&q->pollers) != 0)
		return false;
	for (cq_worker_t *w = q->workers; w != NULL; w = w->next)
		if (cq_u32_load_acquire(&w->busy))
			return false;
	return true;
}

/* Unlinks the blocks of `all` that are not marked as kept, and frees them. */
static size_t sweep(cq_cleanup_t *q)
{
	size_t freed = 0;

	for (cq_block_t **link = &q->all, *b; (b = *link) != NULL;) {
		if (b->parity == BLOCK_KEPT) {
			b->parity = 0;
			link = &b->all_next;
			continue;
		}
		*link = b->all_next;
		cq_free(q, b, q->block_bytes);
		freed += q->block_bytes;
	}
	return freed;
}

int cq_cleanup_trim(cq_cleanup_t *q, size_t *freed_bytes)
{
	size_t freed;

	if (cq_forking(q))
		return EDEADLK;
	pthread_mutex_lock(&q->registry);
	if (!quiescent(q)) {
		pthread_mutex_unlock(&q->registry);
		return EBUSY;
	}
	/* Nothing is published, so every block that is not free is a producer's. */
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next) {
		if (state_phase(p->state) == PHASE_OPEN)
			p->block->parity = BLOCK_KEPT;
		for (cq_node_t *n = p->spares; n != NULL; n = n->next)
			block_of(n)->parity = BLOCK_KEPT;
	}
	q->free.head = NULL;
	freed = sweep(q);
	cq_u64_add_relaxed(&q->blocks_made, 0 - (uint64_t)(freed / q->block_bytes));
	pthread_mutex_unlock(&q->registry);
	if (freed_bytes != NULL)
		*freed_bytes = freed;
	return 0;
}
