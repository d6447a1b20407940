/* SPDX-License-Identifier: BSD-2-Clause */
/* Shards: which one is a thread's, and when there are more. */
#include <string.h>

#include "cleanup_priv.h"

/* A swap that fails makes its shard warmer, one for a free block that doesn't cools it; so hot, there are to be more
   shards. At 1 two threads that meet once have two; without limit all processors have one. */
#define HOT 64

/* Any of them, another each time. */
uint32_t cq_shard_any(const cq_cleanup_t *q)
{
	static __thread uint32_t random;

	random = random * 1664525 + 1013904223; /* Numerical Recipes' */
	return (random >> 16) % cq_shards(q);
}

/* Twice as many as n, the number that there is. */
void cq_shards_grow(cq_cleanup_t *q, uint32_t n)
{
	unsigned level = (unsigned)__builtin_ctz(n);
	void *none = NULL;
	cq_shard_t *made;

	if (level == CQ_SHARD_BITS)
		return;
	if (cq_ptr_load_relaxed(&q->more[level]) == NULL) {
		if ((made = cq_allocate(&q->allocator, n * sizeof(*made))) == NULL)
			return;
		memset(made, 0, n * sizeof(*made));
		/* Pairs with the acquire below, of another who counts them: empty shards. */
		cq_fence_release();
		if (!cq_ptr_cas_relaxed(&q->more[level], &none, made))
			cq_release(&q->allocator, made, n * sizeof(*made));
	}
	/* Pairs with the release above: shards that another has made. Without it their next user could find them as
	   they were before. */
	cq_fence_acquire();
	/* Pairs with the acquire in cq_shards: the pointer, and the empty shards. Without it who finds them counted could
	   find no shard. */
	cq_fence_release();
	CQ_POINT("shards.made");
	(void)cq_u32_cas_relaxed(&q->added, n - 1, 2 * n - 1);
}

/* A block was taken at the shard of this thread, or a free one looked for, and another thread was in the way so often. More
   shards are of use where processors of different groups meet in one. */
CQ_RARE void cq_shard_swapped(cq_cleanup_t *q, cq_shard_t *s, uint32_t failed)
{
	uint32_t heat = cq_u32_load_relaxed(&s->heat), n = cq_shards(q), group = cq_cpu() / CQ_SHARD_CPUS;
	bool met = group != cq_u32_load_relaxed(&s->group);

	if (s != cq_shard_at(q, group % n)) /* more were added meanwhile: that may be enough */
		return;
	cq_u32_store_relaxed(&s->group, group);
	/* With many shards none is needed that fails: each time the lines come from another cache. */
	failed += met && n > 1;
	if (failed == 0 && heat == 0)
		return;
	heat = heat + 2 * failed > 1 ? heat + 2 * failed - 1 : 0;
	if (heat >= HOT) {
		heat = met ? 0 : HOT; /* until another group comes */
		if (met)
			cq_shards_grow(q, n);
	}
	cq_u32_store_relaxed(&s->heat, heat);
}

void cq_shards_free(cq_cleanup_t *q)
{
	for (unsigned level = 0; level < CQ_SHARD_BITS; level++)
		if (q->more[level] != NULL)
			cq_release(&q->allocator, q->more[level], sizeof(cq_shard_t) << level);
}
