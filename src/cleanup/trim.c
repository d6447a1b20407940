/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory goes back while all others go on. A block that is free, or a slab, may be read by who has just found it: an
 * owner within `getting`; a collector, which has the lock; a run that pops what waits, and has the unit of a block
 * that is not finished. So all free blocks and the list of slabs are taken away; then, behind a heavy
 * barrier, is there anybody who may have found them before? If not, they are this thread's alone.
 */
#include <errno.h>

#include "base/barrier.h"
#include "cleanup_priv.h"
#include "workq/stack.h"

static bool somebody_reads(cq_cleanup_t *q)
{
	for (const cq_producer_t *p = q->producers; p != NULL; p = p->next)
		if (cq_u32_load_relaxed(&p->getting) != 0)
			return true;
	/* The acquire in this is also that of the loads above: what an owner read, before it is freed. */
	return !cq_blocks_all_finished(q);
}

/* All its blocks were popped. Else these are free again. Not while somebody may be carving one, who says only then how
   long that is. */
static bool slab_goes(cq_cleanup_t *q, cq_block_t *slab)
{
	uint32_t carved = cq_u32_load_relaxed(&slab->carved);
	bool goes = true;

	for (uint32_t i = 0; i < carved; i += cq_block_length(cq_block_at(q, slab, i)))
		goes &= cq_block_at(q, slab, i)->popped;
	for (uint32_t i = 0, more; !goes && i < carved; i += more) {
		cq_block_t *b = cq_block_at(q, slab, i);

		more = cq_block_length(b);
		if (b->popped) {
			b->popped = false;
			cq_block_put(q, b);
		}
	}
	return goes;
}

/* With the lock held. *freed: so many blocks. EBUSY: as trim. */
static int give_back(cq_cleanup_t *q, uint64_t *freed)
{
	cq_block_t *slabs, *slab, *newer, **link = &slabs;
	cq_node_t *node, *popped = NULL;
	bool alone;

	*freed = 0;
	/* A look only: while work goes on its blocks are not taken away. */
	if (!cq_blocks_all_finished(q))
		return EBUSY;
	if (cq_ptr_load_relaxed(&q->slabs) == NULL)
		return 0;
	cq_shared_trim(q);
	/* 1. Nobody finds them any more. */
	for (uint32_t i = 0; i < 2 * cq_shards(q); i++)
		while ((node = cq_stack_pop_n(&cq_shard_at(q, i / 2)->free[i & 1], 1)) != NULL) {
			cq_block_of(node)->popped = true;
			/* Relaxed, not plain: another thread's walk may be reading this link. */
			cq_ptr_store_relaxed(&node->next, popped);
			popped = node;
		}
	slabs = cq_ptr_exchange_relaxed(&q->slabs, NULL); /* after those, which are all of these */
	CQ_POINT("trim.taken");
	/* 2. Pairs with the store of `getting`, then the loads of cq_block_get, in cq_producer_gets: who has found one is
	   seen below. Without it a block could be freed under a pop. */
	cq_barrier_heavy();
	alone = !somebody_reads(q);
	/* 3. */
	while (!alone && (node = popped) != NULL) {
		popped = node->next;
		cq_block_of(node)->popped = false;
		cq_block_put(q, cq_block_of(node));
	}
	while ((slab = *link) != NULL) {
		if (alone && slab_goes(q, slab)) {
			*link = slab->next_slab;
			*freed += slab->carved;
			cq_slab_free(q, slab);
		} else {
			link = &slab->next_slab;
		}
	}
	/* What is unused of those made meanwhile stays so, until they go. */
	newer = cq_ptr_load_relaxed(&q->slabs);
	do {
		*link = newer;
		/* Pairs with the acquire in carve (block_memory.c), as in cq_block_get. */
		cq_fence_release();
	} while (link != &slabs && !cq_ptr_cas_relaxed(&q->slabs, &newer, slabs));
	return alone ? 0 : EBUSY;
}

int cq_cleanup_trim(cq_cleanup_t *q, size_t *freed_bytes)
{
	uint64_t freed;
	int err;

	if (cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	err = give_back(q, &freed);
	pthread_mutex_unlock(&q->lock);
	if (err == 0 && freed_bytes != NULL)
		*freed_bytes = (size_t)freed * q->block_bytes;
	return err;
}
