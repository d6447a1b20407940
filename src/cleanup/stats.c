/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "producer.h"

/*
 * The callbacks that p has accepted. Exact at some instant: retried only when
 * the owner has closed or opened a block meanwhile.
 */
static uint64_t accepted(const cq_producer_t *p)
{
	for (;;) {
		/* Pairs with the releases of `state` in open_block and close_block:
		   base is that of an open block, total that of a closed one. */
		uint64_t s = cq_u64_load_acquire(&p->state), n;

		if (state_phase(s) == PHASE_OPEN)
			/* What is claimed is accepted, though a retract may be about
			   to find that out (gated, open.c). */
			n = cq_u64_load_relaxed(&p->base) +
			    max_u32(callbacks_in(cq_ptr_load_relaxed(&p->block), state_shared(s),
				cq_ptr_load_relaxed(&p->write)), state_claimed(s));
		else
			n = cq_u64_load_relaxed(&p->total);
		/* Pairs with the same releases: what was read between belongs to one
		   block, if this is still its state. */
		cq_fence_acquire();
		if (((cq_u64_load_relaxed(&p->state) ^ s) & ~STATE_CLAIMED) == 0)
			return n;
	}
}

/* With the registry lock held. executed first, so that it is never above queued. */
static void sum(cq_cleanup_t *q, cq_cleanup_stats_t *out)
{
	out->executed = q->executed_by_parent + q->executed[0] + q->executed[1] - q->handed_back;
	for (cq_worker_t *w = q->workers; w != NULL; w = w->next) {
		/* What has run was queued, and is seen as queued below: the acquires in
		   accepted, which looks at `state` again after them, are enough. */
		out->executed += cq_u64_load_relaxed(&w->executed[0]);
		out->executed += cq_u64_load_relaxed(&w->executed[1]);
		out->useless_wakes += cq_u64_load_relaxed(&w->useless_wakes);
		out->failed_sleeps += cq_u64_load_relaxed(&w->failed_sleeps);
		out->workers_running += cq_u32_load_relaxed(&w->busy);
	}
	out->queued = q->queued;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		out->queued += accepted(p);
	out->handed_back = q->handed_back;
	out->wakes = cq_u64_load_relaxed(&q->idle.woken);
	out->useless_wakes += q->useless_wakes;
	out->failed_sleeps += q->failed_sleeps;
	out->flushes = q->flushes;
	out->producers = q->nproducers;
}

/* The longest that a published block can have waited: see cq_blocks_publish. */
static uint64_t oldest(cq_cleanup_t *q)
{
	uint64_t now = park_of(q)->now(park_of(q)->host), oldest = 0;

	for (int i = 0; i < 2; i++) {
		uint64_t since = cq_u64_load_relaxed(&q->full[i].since);

		if (cq_workq_units(&q->full[i].queue) != 0 && now > since && now - since > oldest)
			oldest = now - since;
	}
	return oldest;
}

static void take_all(cq_cleanup_t *q, cq_cleanup_stats_t *out)
{
	uint64_t crew;

	*out = (cq_cleanup_stats_t){ 0 };
	cq_lock(q);
	sum(q, out);
	cq_unlock(q);

	crew = cq_u64_load_relaxed(&q->crew);
	out->workers_live = crew_live(crew);
	out->workers_coming = crew_coming(crew);
	out->workers_asleep = cq_u32_load_relaxed(&q->idle.asleep);
	out->blocks_waiting = cq_blocks_waiting(q);
	out->blocks_made = cq_u64_load_relaxed(&q->blocks_made);
	out->block_bytes = q->block_bytes;
	out->workers_created = cq_u64_load_relaxed(&q->created);
	out->workers_retired = cq_u64_load_relaxed(&q->retired);
	out->workers_failed = cq_u64_load_relaxed(&q->failed);
	out->workers_peak = cq_u32_load_relaxed(&q->peak);
	out->max_workers = q->config.max_workers;
	out->oldest_ns = oldest(q);
	out->workers_last_errno = (int32_t)cq_u32_load_relaxed(&q->last_errno);
}

void cq_cleanup_stats_sized(cq_cleanup_t *q, cq_cleanup_stats_t *out, size_t bytes)
{
	cq_cleanup_stats_t stats;
	size_t known = min_u64(bytes, sizeof(stats));

	take_all(q, &stats);
	memcpy(out, &stats, known);
	memset((char *)out + known, 0, bytes - known);
}
