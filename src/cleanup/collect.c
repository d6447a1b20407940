/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What other threads do with running producers: count and take callbacks, and make them see that the queue is closed.
 * A collector, one at a time, copies callbacks out of the open blocks and claims them with a compare-and-swap that
 * succeeds only if the block was not closed meanwhile; a copy that turns out stale is forgotten. The owner is
 * never stopped, and never waited for.
 */
#include <errno.h>

#include "base/barrier.h"
#include "cleanup_priv.h"

/*
 * The callbacks that p has accepted, for any thread under the lock. Exact at some instant: retried only when the
 * owner has closed or opened a block meanwhile.
 */
uint64_t cq_producer_accepted(const cq_producer_t *p)
{
	for (;;) {
		/* Pairs with the releases of `state` in open_block and close_block (producer.c): base is that of an
		   open block, total that of a closed one. */
		uint64_t s = cq_u64_load_acquire(&p->state), n = cq_u64_load_relaxed(&p->total);

		if (state_open(s)) {
			n = cq_slots_below(p, cq_ptr_load_relaxed(&p->block), cq_ptr_load_relaxed(&p->write));
			/* What is claimed is accepted, though a retract may be about to find that out. */
			if (n < state_claimed(s))
				n = state_claimed(s);
			n += cq_u64_load_relaxed(&p->base);
		}
		/* Pairs with the same releases: what was read between belongs to one block, if the owner's
		   part of the state is still the same. */
		cq_fence_acquire();
		if (((cq_u64_load_relaxed(&p->state) ^ s) & ~(STATE_SEQ - 1 - STATE_OPEN)) == 0)
			return n;
	}
}

/* The caller has closed the queue. On return every producer has seen that, or its callbacks are visible to the
   caller, and to whoever has the lock after it. */
void cq_producers_see(cq_cleanup_t *q)
{
	bool lowered;

	do {
		/* Pairs with the store of limit and the load of `closed` in look_ahead (producer.c): a limit that was set
		   without seeing that is seen below, and no more are set. When all are lowered, pairs with the store of
		   write and the load of limit in shown, then of `closed` in slow: an enqueue sees that, or its
		   callback is seen by what follows. */
		cq_barrier_heavy();
		lowered = false;
		pthread_mutex_lock(&q->lock);
		for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
			if (cq_ptr_load_relaxed(&p->limit) != NULL) {
				cq_ptr_store_relaxed(&p->limit, NULL);
				lowered = true;
			}
		pthread_mutex_unlock(&q->lock);
	} while (lowered);
}

/* ------------------------------------------------------------------------- claiming */

/* What an open block held at one look. */
struct view {
	uint64_t state;
	const cq_block_t *from;
	uint64_t before;	/* callbacks accepted before those that are not claimed */
	uint32_t n;		/* which are so many */
};

/* False: nothing. */
static bool look(const cq_producer_t *p, struct view *v)
{
	uint32_t written;

	/* Pairs with the releases in open_block and retract (producer.c): block and write are of this seq or newer, and
	   if newer the swap fails. */
	v->state = cq_u64_load_acquire(&p->state);
	if (!state_open(v->state))
		return false; /* the owner publishes what was in it */
	v->from = cq_ptr_load_relaxed(&p->block);
	/* Pairs with the release in shown (producer.c): the slots below write. */
	written = cq_slots_below(p, v->from, cq_ptr_load_acquire(&p->write));
	if (v->from == NULL || written > p->slots || written <= state_claimed(v->state)) {
		/* Nothing, or the block has been closed meanwhile. Pairs with the release in close_block before it
		   forgets the block: one that was closed is counted. Without it a drain that has seen neither the
		   one nor the other could return. */
		cq_fence_acquire();
		return false;
	}
	v->before = cq_u64_load_relaxed(&p->base) + state_claimed(v->state);
	v->n = written - state_claimed(v->state);
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
	/* Pairs with the acquire in close_block (producer.c): the slots were read before the owner may write them again.
	   Without it the copy could be of what comes later. */
	cq_fence_release();
	return cq_u64_cas_relaxed(&p->state, &s, s + n * STATE_CLAIMED) ? n : 0;
}

/* ----------------------------------------------------------------------- collecting */

/* The block that callbacks move into, and whether any were moved. */
struct collection {
	cq_cleanup_t *q;
	cq_block_t *into;	/* NULL: none yet */
	bool moved;
};

/* A block with room; one that is full is published. False: there is no memory. */
static bool make_room(struct collection *c)
{
	cq_cleanup_t *q = c->q;
	cq_block_t *b = c->into;

	if (b != NULL && b->end < q->slots)
		return true;
	if (b != NULL)
		cq_blocks_push(q, b);
	c->into = b = cq_block_get(q);
	if (b == NULL)
		return false;
	/* Before the first claim: whoever finds the producer's block claimed, under this lock, finds this counted. */
	b->parity = (uint8_t)(cq_u64_load_relaxed(&q->epoch) & 1);
	cq_u64_add_relaxed(&q->unfinished[b->parity], 1);
	b->fn = NULL;
	return true;
}

/* Of one producer. False: no memory for all of it. */
static bool collect_from(struct collection *c, cq_producer_t *p)
{
	/* No more than is there now: a producer may be as fast as the copying, and others wait for the lock. */
	uint64_t until = cq_producer_accepted(p);
	struct view v;

	while (look(p, &v) && v.before < until) {
		uint32_t left = (uint32_t)(until - v.before), n;

		if (!make_room(c))
			return false;
		n = claim(p, &v, c->into->callbacks + c->into->end, min_u32(left, c->q->slots - c->into->end));
		c->into->end = (uint16_t)(c->into->end + n);
		c->moved |= n != 0;
	}
	return true;
}

/*
 * All that was written, into as few blocks as hold it, which are pushed. ENOMEM: some is still where it was.
 * *empty: a block that no claim has filled, for the caller to give up when it has left the lock; or NULL.
 */
int cq_collect(cq_cleanup_t *q, cq_block_t **empty)
{
	struct collection c = { .q = q };
	int err = 0;

	*empty = NULL;
	/* What open blocks still hold is being refused: to claim it would accept it, when nothing runs it any more. */
	for (cq_producer_t *p = q->sealed ? NULL : q->producers; p != NULL; p = p->next)
		if (!collect_from(&c, p))
			err = ENOMEM;
	q->flushes += c.moved;
	if (c.into != NULL && c.into->end != 0)
		cq_blocks_push(q, c.into);
	else
		*empty = c.into;
	return err;
}

/* Up to `room` callbacks of one producer, for the caller to see to: no memory is needed. 0: there are none. */
uint32_t cq_collect_some(cq_cleanup_t *q, cq_callback_t *to, uint32_t room)
{
	struct view v;
	uint32_t n;

	for (cq_producer_t *p = q->sealed ? NULL : q->producers; p != NULL; p = p->next)
		while (look(p, &v))
			if ((n = claim(p, &v, to, room)) != 0)
				return n;
	return 0;
}

int cq_cleanup_flush(cq_cleanup_t *q)
{
	int err, signalled;
	cq_block_t *empty;

	if (cq_cleanup_forking(q))
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	err = cq_collect(q, &empty);
	pthread_mutex_unlock(&q->lock);
	if (empty != NULL)
		(void)cq_block_give_up(q, empty);
	/* Whatever waits, whoever published it: if nobody could be made for that, the pool tries again. */
	signalled = cq_blocks_waiting(q) != 0 ? cq_task_signal(q->task) : 0;
	return err != 0 ? err : signalled;
}
