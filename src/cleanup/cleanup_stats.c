/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/sized.h"
#include "cleanup_priv.h"

/* With the lock. What has left the queue first, so that it is never more than queued. */
static void sum(cq_cleanup_t *q, cq_cleanup_stats_t *out)
{
	out->executed = q->executed;
	/* Pairs with the release in make (blocks.c): the fields of the blocks. */
	for (cq_block_t *b = cq_ptr_load_acquire(&q->all); b != NULL; b = b->all_next)
		out->executed += cq_u64_load_relaxed(&b->executed);
	out->handed_back = cq_u64_load_relaxed(&q->handed_back);
	/* Pairs with the releases in cq_block_give_up (blocks.c) and give (drain.c): what has left is seen as
	   queued below. */
	cq_fence_acquire();
	out->queued = q->queued;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		out->queued += cq_producer_accepted(p);
	out->flushes = q->flushes;
	out->producers = q->nproducers;
}

/* The longest that a published block can have waited: see cq_blocks_push. */
static uint64_t oldest(const cq_cleanup_t *q)
{
	uint64_t now = q->park->now(q->park->host), oldest = 0;

	for (int i = 0; i < 2; i++) {
		uint64_t since = cq_u64_load_relaxed(&q->waiting[i].since);

		if (cq_workq_units(&q->waiting[i].queue) != 0 && now > since && now - since > oldest)
			oldest = now - since;
	}
	return oldest;
}

void cq_cleanup_stats_sized(cq_cleanup_t *q, cq_cleanup_stats_t *out, size_t bytes)
{
	cq_cleanup_stats_t stats = { 0 };

	cq_cleanup_lock(q);
	sum(q, &stats);
	cq_cleanup_unlock(q);
	stats.blocks_waiting = cq_blocks_waiting(q);
	stats.blocks_made = cq_u64_load_relaxed(&q->blocks_made);
	stats.block_bytes = q->block_bytes;
	stats.oldest_ns = oldest(q);
	cq_sized_write(out, bytes, &stats, sizeof(stats));
}
