/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory of blocks: slabs, and those that are free, at the shard that had them last. */
#include "cleanup_priv.h"
#include "workq/stack.h"

/* NULL: no memory. Its pages are had at once, but for the first: a queue that needs no more has few blocks. */
static cq_block_t *make_slab(cq_cleanup_t *q, bool first)
{
	cq_block_t *slab;

	if (q->maps)
		return cq_slab_map(q->slab_blocks * cq_block_stride(q), !first);
	if ((slab = cq_allocate(&q->allocator, q->block_bytes)) != NULL)
		*slab = (cq_block_t){ .node = { NULL } };
	return slab;
}

void cq_slab_free(cq_cleanup_t *q, cq_block_t *slab)
{
	if (q->maps)
		cq_slab_unmap(slab, q->slab_blocks * cq_block_stride(q));
	else
		cq_release(&q->allocator, slab, q->block_bytes);
}

/* One that was never used: out of the first slab, or *found was its first, in which there is no room. */
static cq_block_t *carve(cq_cleanup_t *q, bool large, cq_block_t **found)
{
	uint32_t n, more = large ? CQ_LARGE : 1;
	cq_block_t *slab, *b;

	/* Pairs with the release in cq_block_get: the slab as it was made. Without it its count could be read from
	   before. */
	*found = slab = cq_ptr_load_acquire(&q->slabs);
	while (slab != NULL && (n = cq_u32_load_relaxed(&slab->carved)) + more <= q->slab_blocks)
		if (cq_u32_cas_relaxed(&slab->carved, n, n + more)) {
			b = cq_block_at(q, slab, n);
			b->large = large;
			return b;
		}
	return NULL;
}

/* There is no memory. One that is free at any shard, or a small one; or NULL. */
static CQ_RARE cq_block_t *any_free(cq_cleanup_t *q, uint32_t home, bool large)
{
	uint32_t failed;
	cq_node_t *node = NULL;
	cq_block_t *b;

	for (uint32_t i = 0, n = cq_shards(q); node == NULL && i < n; i++)
		node = cq_stack_pop(&cq_shard_at(q, i)->free[large], &failed);
	if (node == NULL)
		return large ? cq_block_get(q, false) : NULL;
	b = cq_block_of(node);
	b->home = (uint16_t)home;
	return b;
}

/* An empty block: a free one, one that was never used, or the first of a new slab. NULL: no memory. */
cq_block_t *cq_block_get(cq_cleanup_t *q, bool large)
{
	uint32_t failed, home = cq_shard_mine(q), other;
	cq_shard_t *s = cq_shard_at(q, home);
	cq_node_t *node = cq_stack_pop(&s->free[large], &failed);
	cq_block_t *b, *slab;

	if (failed != 0 || cq_u32_load_relaxed(&s->heat) != 0 || cq_shards(q) > 1)
		cq_shard_swapped(q, s, failed);
	if (node != NULL)
		return cq_block_of(node);
	for (;;) {
		if ((b = carve(q, large, &slab)) != NULL)
			break;
		/* Before new memory: some may be free elsewhere, and another look costs more than it finds. */
		other = cq_shard_any(q);
		if (other != home && (node = cq_stack_pop(&cq_shard_at(q, other)->free[large], &failed)) != NULL) {
			b = cq_block_of(node);
			break;
		}
		if ((b = make_slab(q, slab == NULL)) == NULL)
			return any_free(q, home, large);
		b->next_slab = slab;
		b->large = large;
		b->carved = large ? CQ_LARGE : 1;
		/* Pairs with the acquire in carve, and that in cq_cleanup_stats_sized: the fields before the link.
		   The other walkers (fork, destroy) run when no slab is being made, or (trim) behind a heavy barrier.
		   Without it they could follow a link that isn't written. */
		cq_fence_release();
		if (cq_ptr_cas_relaxed(&q->slabs, &slab, b))
			break;
		cq_slab_free(q, b); /* another was faster, and shares */
	}
	b->home = (uint16_t)home;
	return b;
}

/* Forgets its callbacks, which have begun or are claimed. */
void cq_block_put(cq_cleanup_t *q, cq_block_t *b)
{
	b->end = 0;
	/* Pairs with the copy that a fork takes: end first, as at no instant may a child see [0, end)
	   again. */
	cq_fence_compiler();
	b->begin = b->first = 0;
	cq_stack_push(&cq_shard_at(q, b->home)->free[b->large], &b->node);
}
