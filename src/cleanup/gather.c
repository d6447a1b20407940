/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flush against running producers. A gatherer, one at a time, copies callbacks
 * out of the open blocks and claims them with a compare-and-swap that succeeds
 * only if the block was not closed meanwhile; a copy that turns out stale is
 * forgotten. The owner is never stopped, and never waited for.
 */
#include <errno.h>

#include "producer.h"

/* The blocks that the callbacks move into. */
struct gathering {
	cq_cleanup_t *q;
	unsigned parity;
	cq_block_t *first, *last;	/* newest first; `first` may have room */
	uint64_t blocks, moved;
};

/* A block with room, or NULL. */
static cq_block_t *room(struct gathering *g)
{
	cq_block_t *b = g->first;

	if (b != NULL && b->end < g->q->slots)
		return b;
	b = cq_block_get(g->q);
	if (b == NULL)
		return NULL;
	b->parity = (uint16_t)g->parity;
	b->shared = false;
	cq_ptr_store_relaxed(&b->node.next, g->first != NULL ? &g->first->node : NULL);
	if (g->last == NULL)
		g->last = b;
	g->first = b;
	g->blocks++;
	return b;
}

/* One callback. Atomic, since the owner may be writing the next use of the slot. */
static cq_callback_t look_at(cq_block_t *from, bool shared, uint32_t i)
{
	if (shared)
		return (cq_callback_t){ cq_ptr_load_relaxed(&from->callbacks[0].fn),
			cq_ptr_load_relaxed(block_args(from) + i) };
	return (cq_callback_t){ cq_ptr_load_relaxed(&from->callbacks[i].fn),
		cq_ptr_load_relaxed(&from->callbacks[i].arg) };
}

/* Copies as many of [begin, end) as fit; they count when the caller moves to->end. */
static uint32_t copy(struct gathering *g, cq_block_t *to, cq_block_t *from, bool shared,
    uint32_t begin, uint32_t end)
{
	uint32_t fit = (uint32_t)min_u64(end - begin, g->q->slots - to->end);

	for (uint32_t i = 0; i < fit; i++)
		to->callbacks[to->end + i] = look_at(from, shared, begin + i);
	return fit;
}

/*
 * Claims what is in p's open block at the first look, and nothing that comes later:
 * a producer may be as fast as the copying, and others wait for the lock. A swap fails
 * at most twice: when the owner closes the block, and before that when it takes a
 * refused callback back, as it then closes the block. False: no memory for all of it.
 */
static bool claim(struct gathering *g, cq_producer_t *p)
{
	uint64_t until = 0; /* callbacks that p had accepted at the first look */

	for (bool first = true;; first = false) {
		/* Pairs with the releases in open_block and gated: block and write are of
		   this seq or newer, and if newer the swap fails. */
		uint64_t s = cq_u64_load_acquire(&p->state);
		uint32_t claimed = state_claimed(s), n, moved;
		uint64_t base;
		bool shared = state_shared(s);
		void *write;
		cq_block_t *from, *to;

		if (state_phase(s) != PHASE_OPEN)
			return true; /* the owner publishes what was in it */
		from = cq_ptr_load_relaxed(&p->block);
		base = cq_u64_load_relaxed(&p->base);
		/* Pairs with the release in show (producer.c): the slots below write. */
		write = cq_ptr_load_acquire(&p->write);
		if (from == NULL)
			return true;
		n = callbacks_in(from, shared, write);
		/* More than there are slots: this block has been closed meanwhile. */
		if (n <= claimed || n > (shared ? g->q->args : g->q->slots))
			return true;
		if (first)
			until = base + n;
		if (until <= base + claimed) /* or this is a later block: the owner's too */
			return true;
		n = (uint32_t)min_u64(n, until - base);
		if ((to = room(g)) == NULL)
			return false;
		moved = copy(g, to, from, shared, claimed, n);
		CQ_POINT("gather.copied");
		/* Pairs with the acquire in close_block: the slots were read before
		   the owner may write them again. */
		cq_fence_release();
		if (cq_u64_cas_relaxed(&p->state, &s, state_with_claimed(s, claimed + moved))) {
			to->end += moved;
			g->moved += moved;
		}
	}
}

/* The block that room() made and claim() could not fill. */
static void drop_empty(struct gathering *g)
{
	cq_block_t *b = g->first;

	if (b == NULL || b->end != 0)
		return;
	g->first = b->node.next != NULL ? block_of(b->node.next) : NULL;
	if (g->first == NULL)
		g->last = NULL;
	g->blocks--;
	cq_block_put(g->q, b);
}

/* Every callback that was claimed is in one of the blocks, and all but the last are full. */
static bool sums_agree(const struct gathering *g)
{
	uint64_t in_blocks = 0, blocks = 0;

	for (cq_block_t *b = g->first; b != NULL;
	     b = b->node.next != NULL ? block_of(b->node.next) : NULL) {
		in_blocks += b->end - b->begin;
		blocks++;
		if (b != g->first && b->end != g->q->slots)
			return false;
	}
	return in_blocks == g->moved && blocks == g->blocks;
}

int cq_gather(cq_cleanup_t *q)
{
	struct gathering g = { .q = q, .parity = cq_u64_load_relaxed(&q->epoch) & 1 };
	bool all = true;

	/* What open blocks still hold is being refused: to claim it would accept it,
	   when nothing runs it any more. */
	if (q->sealed)
		return 0;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		if (!claim(&g, p))
			all = false;
	drop_empty(&g);
	CQ_CHECK(sums_agree(&g));
	if (g.blocks != 0) {
		/* Counted before it is pushed, so that executed <= published always. */
		cq_u64_store_relaxed(&q->published[g.parity], q->published[g.parity] + g.moved);
		q->flushes++;
		cq_blocks_publish(q, g.parity, g.first, g.last, g.blocks);
	}
	return all ? 0 : ENOMEM;
}

int cq_cleanup_flush_all(cq_cleanup_t *q)
{
	int err, woken;

	if (cq_forking(q))
		return EDEADLK;
	pthread_mutex_lock(&q->registry);
	err = cq_gather(q);
	pthread_mutex_unlock(&q->registry);
	woken = cq_wake_unless_polled(q);
	return err != 0 ? err : woken;
}
