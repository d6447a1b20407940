/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/sized.h"
#include "cleanup_priv.h"

void cq_cleanup_stats_sized(cq_cleanup_t *q, cq_cleanup_stats_t *out, size_t bytes)
{
	uint64_t now = q->park->now(q->park->host);
	cq_cleanup_stats_t s = { .block_bytes = q->block_bytes };
	int partial;

	cq_cleanup_lock(q);
	/* What has left the queue first, so that it is never more than queued. */
	s.executed = q->executed;
	/* Pairs with the release in make (blocks.c): the fields of the blocks. */
	for (cq_block_t *b = cq_ptr_load_acquire(&q->all); b != NULL; b = b->all_next)
		s.executed += cq_u64_load_relaxed(&b->executed);
	s.handed_back = cq_u64_load_relaxed(&q->handed_back);
	/* Pairs with the releases in cq_block_give_up (blocks.c) and count_given (drain.c): what has left is seen as
	   queued below. */
	cq_fence_acquire();
	s.queued = q->queued;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		s.queued += cq_producer_accepted(p);
	s.flushes = q->flushes;
	s.producers = q->nproducers;
	cq_cleanup_unlock(q);
	s.blocks_waiting = cq_blocks_waiting(q);
	s.blocks_made = cq_u64_load_relaxed(&q->blocks_made);
	/* The longest that a published block can have waited: see set_since (blocks.c). */
	partial = cq_ptr_load_relaxed(&q->partial) != NULL ? (int)(cq_u64_load_relaxed(&q->page) & 1) : -1;
	for (int i = 0; i < 2; i++) {
		uint64_t since = cq_u64_load_relaxed(&q->waiting[i].since);

		if ((cq_workq_units(&q->waiting[i].queue) != 0 || i == partial) && now > since && now - since > s.oldest_ns)
			s.oldest_ns = now - since;
	}
	cq_sized_write(out, bytes, &s, sizeof(s));
}
