/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block that is open at a producer: opened, filled, closed and published. All
 * but cq_producers_look is for the producer's owner.
 */
#include <errno.h>

#include "base/barrier.h"
#include "producer.h"

/* -------------------------------------------------------------------- spares */

/* Takes the next block from the spares, or from the queue. */
static cq_block_t *next_block(cq_producer_t *p)
{
	cq_node_t *spare = p->spares;

	if (spare == NULL)
		return cq_block_get(p->q);
	p->spares = spare->next;
	p->nspares--;
	return block_of(spare);
}

static void add_spare(cq_producer_t *p, cq_block_t *b)
{
	/* Relaxed, not plain: a pop of the free stack that lost may be reading it. */
	cq_ptr_store_relaxed(&b->node.next, p->spares);
	p->spares = &b->node;
	p->nspares++;
}

void cq_give_spares_back(cq_producer_t *p, uint64_t keep)
{
	while (p->nspares > keep)
		cq_block_put(p->q, next_block(p));
}

/* Makes spares for `n` enqueues beyond the `room` in the open block. */
int cq_ensure_spares(cq_producer_t *p, uint64_t n, uint64_t room)
{
	uint64_t have = p->nspares, need = 0;

	if (n > room)
		need = (n - room - 1) / p->q->slots + 1;
	if (need > SIZE_MAX / p->q->block_bytes)
		return EINVAL;
	while (p->nspares < need) {
		cq_block_t *b = cq_block_get(p->q);

		if (b == NULL) {
			cq_give_spares_back(p, have);
			return ENOMEM;
		}
		add_spare(p, b);
	}
	cq_give_spares_back(p, need);
	return 0;
}

/* ------------------------------------------------------------- how far to run */

/* CQ_HANDOVER: does a worker sleep, or could the first be made? */
static bool idle(cq_cleanup_t *q)
{
	return cq_u32_load_relaxed(&q->idle.asleep) != 0 ||
	    ((q->config.flags & CQ_POLLED) == 0 &&
	     crew_live(cq_u64_load_relaxed(&q->crew)) == 0);
}

/* Must every enqueue be looked after, wherever it is in its block? */
static bool gate_is_up(cq_cleanup_t *q)
{
	uint32_t gate = cq_u32_load_relaxed(&q->gate);

	return gate != 0 && (gate != GATE_HANDOVER || idle(q));
}

static void set_end(cq_producer_t *p, void *end)
{
	/* Program order between this store and the loads is one half of the asymmetric
	   barrier; see cq_producers_look. */
	cq_ptr_store_relaxed(&p->end, end);
	if (gate_is_up(p->q))
		cq_ptr_store_relaxed(&p->end, NULL);
}

/* -------------------------------------------------------------- cache lines */

/* How far ahead of write lines are fetched, in bytes. */
#define FETCH_BYTES ((uintptr_t)16 * CQ_LINE)

/*
 * The lines of a block are in the cache of the processor that last ran callbacks from
 * it. A processor asks for a line once a store to it is in its store buffer, which has
 * room for a few dozen; an enqueue and its caller make five or more, so that one or
 * two lines would be under way at a time. A store to each of many lines in a row
 * has all of them under way. (W1, see benchmarks/README; a prefetch for writing did
 * not help.)
 */
static void fetch_lines(cq_producer_t *p, uintptr_t until)
{
	uintptr_t end = (uintptr_t)full_end(p->q, p->block);

	if (until > end)
		until = end;
	if (p->fetched < (char *)p->write)
		p->fetched += ((char *)p->write - p->fetched + CQ_LINE - 1) / CQ_LINE * CQ_LINE;
	for (; (uintptr_t)p->fetched < until; p->fetched += CQ_LINE)
		/* A free slot's. Relaxed, not plain: a gatherer that will not claim it
		   may be reading it as the callback of an earlier block. */
		cq_ptr_store_relaxed((void **)(void *)p->fetched, NULL);
}

/* write has reached the mark. Sets the next one. */
static void look_ahead(cq_producer_t *p, bool fetch)
{
	uintptr_t mark = (uintptr_t)p->write + FETCH_BYTES;

	if (fetch)
		fetch_lines(p, mark + FETCH_BYTES);
	p->mark = (char *)(uintptr_t)min_u64(mark, (uintptr_t)full_end(p->q, p->block));
	set_end(p, p->mark);
}

/* ------------------------------------------------------- opening and closing */

/* VOID -> OPEN, with an empty block. */
static void open_block(cq_producer_t *p, cq_block_t *b, cq_callback_fn *fn, bool fetch)
{
	uint64_t seq = (cq_u64_load_relaxed(&p->state) & ~(STATE_SEQ - 1)) + STATE_SEQ;
	uint64_t parity = cq_u64_load_relaxed(&p->q->epoch) & 1 ? STATE_PARITY : 0;
	uint64_t shared = fn != NOT_SHARED ? STATE_SHARED : 0;

	b->shared = shared != 0;
	if (shared != 0)
		cq_ptr_store_relaxed(&b->callbacks[0].fn, fn);
	p->fn = fn;
	cq_u64_store_relaxed(&p->base, p->total);
	cq_ptr_store_relaxed(&p->write, slot_of(b, shared != 0, 0));
	cq_ptr_store_relaxed(&p->block, b);
	/* Pairs with the acquire of `state` in claim (gather.c): block, base, write and
	   the shared function are those of this seq. Without it a gatherer could count
	   the callbacks of the last block as this one's. */
	cq_u64_store_release(&p->state, seq | shared | parity | PHASE_OPEN);

	p->span = NULL; /* it may have been of this block, before */
	p->fetched = (char *)b;
	look_ahead(p, fetch && p->fills);
}

/*
 * A block that one function filled is followed by one for that function alone, for
 * as long as it does so: it holds twice as many. Not while a reservation counts on
 * how many callbacks a block holds, whatever their functions.
 */
int cq_open_block(cq_producer_t *p, cq_callback_fn *fn)
{
	bool shared = fn == p->sole && p->total >= p->reserved_until;
	cq_block_t *b;

	if ((cq_u32_load_relaxed(&p->q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	if (cq_forking(p->q))
		return EDEADLK;
	b = next_block(p);
	if (b == NULL)
		return ENOMEM;
	open_block(p, b, shared ? fn : NOT_SHARED, fn != NOT_SHARED);
	return 0;
}

/* No block is open: enqueue writes to where it harms nobody, and finds that out then. */
static void forget_block(cq_producer_t *p)
{
	p->fn = NOT_SHARED;
	cq_ptr_store_relaxed(&p->block, NULL);
	cq_ptr_store_relaxed(&p->write, &p->nowhere);
	cq_ptr_store_relaxed(&p->end, NULL);
}

/*
 * OPEN -> CLOSED -> VOID. Publishes what is not claimed; the block is then a
 * worker's. Returns whether anything was published; an empty block is kept as a
 * spare.
 */
static bool close_block(cq_producer_t *p)
{
	cq_block_t *b = p->block;
	uint64_t s = cq_u64_load_relaxed(&p->state);

	/* Pairs with the acquires in accepted (stats.c), which reads total once
	   it has seen CLOSED. */
	cq_u64_store_relaxed(&p->total, p->base + written(p));
	do {
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&p->state, &s, (s & ~(uint64_t)PHASE_MASK) | PHASE_CLOSED));
	CQ_POINT("producer.closed");
	/* Pairs with the release of the claim: the gatherer has read the slots that
	   it claimed before they are written again. */
	cq_fence_acquire();

	b->parity = (uint16_t)state_parity(s);
	b->begin = state_claimed(s);
	b->end = written(p);
	CQ_CHECK(b->end <= (b->shared ? p->q->args : p->q->slots));
	cq_u64_store_relaxed(&p->published[b->parity],
	    p->published[b->parity] + (b->end - b->begin));
	/* Pairs with the acquire of `state` in parity_done (drain.c): a drain that no
	   longer sees CLOSED sees published[]. Without it a block in flight would be
	   in neither, and the drain return before it has run. And with the fork that
	   copies this memory: from here on the block answers for its callbacks itself. */
	cq_fence_release();
	forget_block(p);
	cq_u64_store_relaxed(&p->state,
	    (s & ~(PHASE_MASK | STATE_SHARED | STATE_CLAIMED)) | PHASE_VOID);
	CQ_POINT("producer.counted");

	if (b->begin == b->end) {
		cq_block_clear(b);
		add_spare(p, b);
		/* A drain that saw CLOSED waits for a block, and none comes. */
		cq_wake_drainers(p->q);
		return false;
	}
	cq_blocks_publish(p->q, b->parity, b, b, 1);
	return true;
}

CQ_RARE int cq_close_block(cq_producer_t *p)
{
	cq_cleanup_t *q = p->q;
	int err = 0;

	if (!close_block(p))
		return 0;
	/* Pairs with the announcement of a shutdown in give_back_rest (drain.c):
	   either that sees this block, or the gate is seen closed here. (The wake
	   begins with the same fence.) */
	if ((q->config.flags & CQ_POLLED) != 0)
		cq_fence_full();
	else
		err = cq_cleanup_wake(q);
	/* And where drains give up when nobody is there for what is published (drain.c). */
	if ((cq_u32_load_relaxed(&q->gate) & GATE_CLOSED) != 0 || q->config.spawn == NULL)
		cq_wake_drainers(q);
	return err;
}

/* The function of all callbacks in the full block b, or NOT_SHARED. */
static cq_callback_fn *sole_function(const cq_cleanup_t *q, const cq_block_t *b)
{
	cq_callback_fn *fn = b->callbacks[q->slots - 1].fn;

	if (q->args == 0)
		return NOT_SHARED;
	for (uint32_t i = q->slots - 1; i-- > 0;) /* the last written are the nearest */
		if (b->callbacks[i].fn != fn)
			return NOT_SHARED;
	return fn;
}

static void close_full_block(cq_producer_t *p, bool spans)
{
	p->fills = true;
	if (spans) /* which have no use for a shared function */
		p->sole = NOT_SHARED;
	else if (!is_shared(p))
		p->sole = sole_function(p->q, p->block);
	cq_close_block(p);
}

/* ------------------------------------------------------------------ the gate */

/* Returns whether any was not NULL. */
static bool lower_ends(cq_cleanup_t *q)
{
	bool lowered = false;

	pthread_mutex_lock(&q->registry);
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		if (cq_ptr_load_relaxed(&p->end) != NULL) {
			cq_ptr_store_relaxed(&p->end, NULL);
			lowered = true;
		}
	pthread_mutex_unlock(&q->registry);
	return lowered;
}

void cq_producers_look(cq_cleanup_t *q)
{
	lower_ends(q);
	/* Pairs with the store of write and the loads of end, and then of what the caller
	   has changed, in show (producer.c) and cq_look_after: an enqueue either sees
	   that, or its callback is seen by what follows. And with the store of end and
	   the loads in set_end: one that was set without seeing the change is seen now. */
	cq_barrier_heavy();
	if (lower_ends(q))
		/* Pairs with the store of write and the load of end in show (producer.c), as
		   before, for what ran on to the ends that were set meanwhile. */
		cq_barrier_heavy();
}

/* The gate is up. How many of the `count` callbacks from `slot` on, just written, may stay? */
static size_t gated(cq_producer_t *p, void *slot, size_t count)
{
	cq_cleanup_t *q = p->q;
	uint32_t n = callbacks_in(p->block, is_shared(p), slot);
	size_t stay;
	uint64_t s;

	if ((cq_u32_load_relaxed(&q->gate) & GATE_FENCE) != 0)
		/* Pairs with cq_barrier_heavy in cq_producers_look: either what follows
		   that sees this callback, or it is seen here what the caller has changed.
		   With membarrier, program order is enough on this side. */
		cq_fence_full();
	if ((cq_u32_load_relaxed(&q->gate) & GATE_CLOSED) == 0)
		return count;

	/* Take back what the gatherer has not claimed. A new seq makes a claim fail
	   that is under way and has read the larger write. */
	cq_ptr_store_relaxed(&p->write, slot);
	CQ_POINT("producer.retracting");
	s = cq_u64_load_relaxed(&p->state);
	do {
		stay = state_claimed(s) > n ? min_u64(state_claimed(s) - n, count) : 0;
		if (stay == count)
			break;
		/* Pairs with the acquire of `state` in claim: a claim that sees the
		   new seq sees the smaller write. */
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&p->state, &s, s + STATE_SEQ));
	CQ_POINT("producer.retracted");
	cq_ptr_store_relaxed(&p->write, slot_of(p->block, is_shared(p), n + (uint32_t)stay));
	return stay;
}

/*
 * CQ_HANDOVER. Looked at after the store of write. While no worker can be made,
 * callbacks gather in the block as without the flag, instead of one by one with an
 * attempt each.
 */
static bool wants_partial_block(cq_cleanup_t *q)
{
	return idle(q) && !cq_cleanup_stalled(q);
}

/*
 * Not hot: the callbacks from `slot` on, just written, have come to the mark, or the
 * gate is up. Returns how many of them were accepted.
 */
size_t cq_look_after(cq_producer_t *p, void *slot, size_t count, bool span)
{
	uint32_t gate = cq_u32_load_relaxed(&p->q->gate);
	size_t accepted = gate != 0 ? gated(p, slot, count) : count;

	if (accepted < count) {
		/* None will be accepted any more. Closed, so that the next refused one
		   finds no block, and doesn't get in the way of the claim again. */
		cq_close_block(p);
		return accepted;
	}
	if (is_full(p))
		close_full_block(p, span);
	else if ((gate & GATE_HANDOVER) != 0 && wants_partial_block(p->q)) {
		if (cq_producer_flush(p) == EDEADLK)
			p->q->fork_wakes = true; /* within a fork of this thread */
	} else if ((char *)p->write >= p->mark)
		look_ahead(p, !span); /* a span is written in one go, and fetched by that */
	else if (gate == GATE_HANDOVER)
		set_end(p, p->mark); /* all workers are awake again */
	return accepted;
}
