/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flush against running producers. A collector, one at a time, copies callbacks out of the open blocks and claims
 * them with a compare-and-swap that succeeds only if the block was not closed meanwhile; a copy that turns out
 * stale is forgotten. The owner is never stopped, and never waited for.
 */
#include <errno.h>

#include "cleanup_priv.h"

/* What an open block held at one look. */
struct view {
	uint64_t state;
	const cq_block_t *from;
	uint32_t n;		/* callbacks that are not claimed, from the claimed ones on */
};

/*
 * What p's open block holds, of the first `until` callbacks that p has accepted: nothing that comes later, as a
 * producer may be as fast as the copying, and others wait for the lock. False: nothing.
 */
static bool look(const cq_producer_t *p, uint64_t until, struct view *v)
{
	uint64_t base, n;

	/* Pairs with the releases in cq_producer_open and retract (producer_block.c): block and write are of this seq or
	   newer, and if newer the swap fails. */
	v->state = cq_u64_load_acquire(&p->state);
	if (!state_open(v->state))
		return false; /* the owner publishes what was in it */
	v->from = cq_ptr_load_relaxed(&p->block);
	base = cq_u64_load_relaxed(&p->base);
	/* Pairs with the release in shown (producer.c): the slots below write. */
	n = cq_slots_below(v->from, p->fn, cq_ptr_load_acquire(&p->write));
	if (base > until)
		n = 0; /* a later block */
	else if (n > until - base)
		n = until - base;
	if (v->from == NULL || n > cq_producer_slots(p) || n <= state_claimed(v->state)) {
		/* Nothing, or the block has been closed meanwhile. Pairs with the release in cq_producer_close before
		   cq_producer_no_block: a block that was closed is counted. Without it a drain that has seen
		   neither the one nor the other could return. */
		cq_fence_acquire();
		return false;
	}
	v->n = (uint32_t)n - state_claimed(v->state);
	return true;
}

/* One callback. Atomic, since the owner may be writing the next use of the slot. */
static cq_callback_t callback_at(const cq_producer_t *p, const cq_block_t *from, uint32_t i)
{
	if (p->fn != NULL)
		return (cq_callback_t){ p->fn, cq_ptr_load_relaxed((void *const *)(const void *)from->callbacks + i) };
	return (cq_callback_t){ cq_ptr_load_relaxed(&from->callbacks[i].fn),
		cq_ptr_load_relaxed(&from->callbacks[i].arg) };
}

/* Takes up to `room` of what was seen. Returns how many; 0: the owner was faster. */
static uint32_t claim(cq_producer_t *p, const struct view *v, cq_callback_t *to, uint32_t room)
{
	uint32_t n = min_u32(v->n, room);
	uint64_t s = v->state;

	for (uint32_t i = 0; i < n; i++)
		to[i] = callback_at(p, v->from, state_claimed(s) + i);
	CQ_POINT("collect.copied");
	/* Pairs with the acquire in cq_producer_close: the slots were read before the owner may write them again. Without
	   it the copy could be of what comes later. */
	cq_fence_release();
	return cq_u64_cas_relaxed(&p->state, &s, s + n * STATE_CLAIMED) ? n : 0;
}

/* ------------------------------------------------------------------------- into blocks */

/* The blocks that the callbacks move into. */
struct collection {
	cq_cleanup_t *q;
	unsigned parity;
	cq_block_t *first, *last;	/* newest first; `first` may have room */
	uint64_t blocks;
};

/* A block with room, or NULL. */
static cq_block_t *room(struct collection *c)
{
	cq_block_t *b = c->first;

	if (b != NULL && b->end < c->q->slots)
		return b;
	if ((b = cq_block_get(c->q)) == NULL)
		return NULL;
	/* Before the first claim: whoever finds the producer's block claimed, under this lock, finds this counted. */
	cq_blocks_counted(c->q, c->parity);
	b->parity = (uint8_t)c->parity;
	b->fn = NULL;
	cq_ptr_store_relaxed(&b->node.next, c->first != NULL ? &c->first->node : NULL);
	if (c->last == NULL)
		c->last = b;
	c->first = b;
	c->blocks++;
	return b;
}

/* A block that room() made and no claim filled. True: drains are to be woken. */
static bool drop_empty(struct collection *c)
{
	cq_block_t *b = c->first;

	if (b == NULL || b->end != 0)
		return false;
	c->first = b->node.next != NULL ? cq_block_of(b->node.next) : NULL;
	if (c->first == NULL)
		c->last = NULL;
	c->blocks--;
	cq_block_put(c->q, b);
	/* Also for those that were finished meanwhile, and were not the last. */
	return cq_blocks_last_finished(c->q, c->parity);
}

/* Of one producer. False: no memory for all of it. */
static bool collect_from(struct collection *c, cq_producer_t *p)
{
	uint64_t until = cq_producer_accepted(p);
	struct view v;

	while (look(p, until, &v)) {
		cq_block_t *to = room(c);

		if (to == NULL)
			return false;
		to->end = (uint16_t)(to->end + claim(p, &v, to->callbacks + to->end, c->q->slots - to->end));
	}
	return true;
}

/*
 * All that was written, into as few blocks as hold it, which are pushed. ENOMEM: some is still where it was.
 * *wakes: the caller wakes the drains when it has left the lock.
 */
int cq_collect(cq_cleanup_t *q, bool *wakes)
{
	struct collection c = { .q = q, .parity = cq_u64_load_relaxed(&q->epoch) & 1 };
	bool all = true;

	*wakes = false;
	/* What open blocks still hold is being refused: to claim it would accept it, when nothing runs it any more. */
	if (q->sealed)
		return 0;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		if (!collect_from(&c, p))
			all = false;
	*wakes = drop_empty(&c);
	if (c.blocks != 0) {
		q->flushes++;
		cq_blocks_push(q, c.first, c.last, c.blocks);
	}
	return all ? 0 : ENOMEM;
}

/* Up to `room` callbacks of one producer, for the caller to see to: no memory is needed. 0: there are none. */
uint32_t cq_collect_some(cq_cleanup_t *q, cq_callback_t *to, uint32_t room)
{
	struct view v;
	uint32_t n;

	for (cq_producer_t *p = q->sealed ? NULL : q->producers; p != NULL; p = p->next)
		while (look(p, UINT64_MAX, &v))
			if ((n = claim(p, &v, to, room)) != 0)
				return n;
	return 0;
}

int cq_cleanup_flush(cq_cleanup_t *q)
{
	int err, signalled;
	bool wakes;

	if (cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	err = cq_collect(q, &wakes);
	pthread_mutex_unlock(&q->lock);
	if (wakes)
		cq_drains_wake(q);
	/* Whatever waits, whoever published it: if nobody could be made for that, the pool tries again. */
	signalled = cq_blocks_waiting(q) != 0 ? cq_task_signal(q->task) : 0;
	return err != 0 ? err : signalled;
}
