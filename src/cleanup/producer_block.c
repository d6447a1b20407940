/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block that is open at a producer: opened, filled, closed and published. Of these functions other
 * threads than the producer's owner call cq_producer_accepted and cq_producers_see alone.
 */
#include <errno.h>

#include "base/barrier.h"
#include "cleanup_priv.h"

/* ------------------------------------------------------------ what a block holds */

static bool is_full(const cq_producer_t *p)
{
	return p->write == p->block->callbacks + p->q->slots;
}

/*
 * The callbacks that p has accepted, for any thread under the lock. Exact at some instant: retried only when the
 * owner has closed or opened a block meanwhile.
 */
uint64_t cq_producer_accepted(const cq_producer_t *p)
{
	for (;;) {
		/* Pairs with the releases of `state` in cq_producer_open and cq_producer_close: base is that of
		   an open block, total that of a closed one. */
		uint64_t s = cq_u64_load_acquire(&p->state), n;
		uint32_t written;

		if (state_open(s)) {
			written = cq_slots_below(cq_ptr_load_relaxed(&p->block), p->fn,
			    cq_ptr_load_relaxed(&p->write));
			/* What is claimed is accepted, though a retract may be about to find that out. */
			n = cq_u64_load_relaxed(&p->base) +
			    (written > state_claimed(s) ? written : state_claimed(s));
		} else {
			n = cq_u64_load_relaxed(&p->total);
		}
		/* Pairs with the same releases: what was read between belongs to one block, if the owner's
		   part of the state is still the same. */
		cq_fence_acquire();
		if (((cq_u64_load_relaxed(&p->state) ^ s) & ~(STATE_SEQ - 1 - STATE_OPEN)) == 0)
			return n;
	}
}

/* -------------------------------------------------------------------------- spares */

static cq_block_t *next_block(cq_producer_t *p)
{
	cq_node_t *spare = p->spares;

	if (spare == NULL)
		return cq_block_get(p->q);
	p->spares = spare->next;
	p->nspares--;
	return cq_block_of(spare);
}

static void add_spare(cq_producer_t *p, cq_block_t *b)
{
	/* Relaxed, not plain: a pop of the free stack that lost may be reading it. */
	cq_ptr_store_relaxed(&b->node.next, p->spares);
	p->spares = &b->node;
	p->nspares++;
}

void cq_producer_free_spares(cq_producer_t *p, uint64_t keep)
{
	while (p->nspares > keep)
		cq_block_put(p->q, next_block(p));
}

/* As many spares as `n` enqueues need beyond the `room` in the open block. ENOMEM, EINVAL. */
int cq_producer_ensure_spares(cq_producer_t *p, uint64_t n, uint64_t room)
{
	uint64_t have = p->nspares, need = 0;

	if (n > room)
		need = (n - room - 1) / cq_producer_slots(p) + 1;
	if (need > SIZE_MAX / p->q->block_bytes)
		return EINVAL;
	while (p->nspares < need) {
		cq_block_t *b = cq_block_get(p->q);

		if (b == NULL) {
			cq_producer_free_spares(p, have);
			return ENOMEM;
		}
		add_spare(p, b);
	}
	cq_producer_free_spares(p, need);
	return 0;
}

/* --------------------------------------------------------------------- how far to run */

static void set_limit(cq_producer_t *p, void *limit)
{
	/* Program order between this store and the load is one half of the asymmetric barrier; see
	   cq_producers_see. */
	cq_ptr_store_relaxed(&p->limit, limit);
	if (p->q->fences || cq_u32_load_relaxed(&p->q->closed) != 0)
		cq_ptr_store_relaxed(&p->limit, NULL);
}

/* How far ahead of write lines are fetched, in bytes. At 0 each store waits for its line; much more than a
   cache's worth would push out what it fetched. */
#define FETCH_BYTES ((uintptr_t)16 * CQ_LINE)

/*
 * The lines of a block are in the cache of the processor that last ran callbacks from it. A processor asks
 * for a line once a store to it is in its store buffer, which has room for a few dozen; an enqueue and its
 * caller make five or more, so that one or two lines would be under way at a time. A store to each of many
 * lines in a row has all of them under way. (W1, see benchmarks/README; a prefetch for writing did not help.)
 */
static void fetch_lines(cq_producer_t *p, uintptr_t until)
{
	if (p->fetched < (char *)p->write)
		p->fetched += ((char *)p->write - p->fetched + CQ_LINE - 1) / CQ_LINE * CQ_LINE;
	for (; (uintptr_t)p->fetched < until; p->fetched += CQ_LINE)
		/* A free slot's. Relaxed, not plain: a collector that will not claim it may be reading it as
		   the callback of an earlier block. */
		cq_ptr_store_relaxed((void **)(void *)p->fetched, NULL);
}

static uintptr_t min_uintptr(uintptr_t a, uintptr_t b) { return a < b ? a : b; }

/* write has reached the prefetch limit: the next lines, and the next limit. */
static void look_ahead(cq_producer_t *p, bool fetch)
{
	uintptr_t end = (uintptr_t)(p->block->callbacks + p->q->slots);
	uintptr_t ahead = (uintptr_t)p->write + FETCH_BYTES;

	if (fetch)
		fetch_lines(p, min_uintptr(ahead + FETCH_BYTES, end));
	p->ahead = (char *)min_uintptr(ahead, end);
	set_limit(p, p->ahead);
}

/* ----------------------------------------------------------------- opening, closing */

/* No block is open: enqueue writes into the dummy slot, and finds that out then. */
void cq_producer_no_block(cq_producer_t *p)
{
	cq_ptr_store_relaxed(&p->block, NULL);
	cq_ptr_store_relaxed(&p->write, &p->dummy);
	cq_ptr_store_relaxed(&p->limit, NULL);
}

/* open 0 -> 1, with an empty block. ENOMEM, ESHUTDOWN, EDEADLK. */
int cq_producer_open(cq_producer_t *p, bool fetch)
{
	uint64_t seq = (cq_u64_load_relaxed(&p->state) & ~(STATE_SEQ - 1)) + STATE_SEQ;
	cq_block_t *b;

	if (cq_u32_load_relaxed(&p->q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	if ((b = next_block(p)) == NULL)
		return ENOMEM;
	b->fn = p->fn;
	cq_u64_store_relaxed(&p->base, p->total);
	cq_ptr_store_relaxed(&p->write, cq_producer_slot(p, b, 0));
	/* Pairs with the copy that a fork takes: a child that has the block has a write within it. */
	cq_ptr_store_release(&p->block, b);
	/* Pairs with the acquire of `state` in look (collect.c): block, base and write are those of this seq.
	   Without it a collector could take the callbacks of the last block for this one's. */
	cq_u64_store_release(&p->state, seq | STATE_OPEN);

	p->span = NULL; /* it may have been of this block, before */
	p->fetched = (char *)b;
	look_ahead(p, fetch && p->fills);
	return 0;
}

/*
 * Ends the open block and publishes what is not claimed; it is then the workers'. 0, also when there was
 * nothing; or STALLED.
 */
CQ_RARE int cq_producer_close(cq_producer_t *p)
{
	cq_cleanup_t *q = p->q;
	cq_block_t *b = p->block;
	unsigned parity = cq_u64_load_relaxed(&q->epoch) & 1;
	uint64_t s = cq_u64_load_relaxed(&p->state);
	int err;

	/* 1. Counted before it leaves the producer. Pairs, by the release in 2, with the acquire of `state` in look
	   (collect.c): a drain that finds the block closed finds it counted. Without it the drain
	   would return before the block has run. */
	cq_blocks_counted(q, parity);
	/* Read by cq_producer_accepted once it has seen the block closed. */
	cq_u64_store_relaxed(&p->total, p->base + cq_producer_written(p));
	/* 2. The closing step. */
	do {
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&p->state, &s, s & ~STATE_OPEN));
	CQ_POINT("producer.closed");
	/* Pairs with the release of the claim (collect.c): the collector has read the slots that it claimed. Without
	   it they could be written again before. */
	cq_fence_acquire();
	b->begin = (uint16_t)state_claimed(s);
	b->end = (uint16_t)cq_producer_written(p);
	b->parity = (uint8_t)parity;
	CQ_CHECK(b->begin <= b->end && b->end <= cq_producer_slots(p));
	/* For the fork that copies this memory: from here on the block answers for its callbacks itself. */
	cq_fence_release();
	cq_producer_no_block(p);
	CQ_POINT("producer.counted");
	/* 3. Published. */
	if (b->begin == b->end) {
		cq_block_clear(b);
		add_spare(p, b);
		cq_blocks_finished(q, parity);
		return 0;
	}
	cq_blocks_push(q, b, b, 1);
	/* Pairs, by the full fence that it begins with, with the announcement of a wait in wait_for (drain.c): either that
	   sees this block, or the queue is seen to be stopped here. Without it the block could be handed back
	   by nobody. */
	err = cq_task_signal(q->task);
	cq_drains_rely_on_it(q);
	return err;
}

/* --------------------------------------------------------------------- the slow path */

/*
 * The queue is closed. How many of the `count` callbacks from `slot` on, just written, stay accepted? Takes back what
 * no collector has claimed.
 */
static size_t retract(cq_producer_t *p, void *slot, size_t count)
{
	uint32_t n = cq_slots_below(p->block, p->fn, slot);
	size_t stay;
	uint64_t s;

	cq_ptr_store_relaxed(&p->write, slot);
	CQ_POINT("producer.retracting");
	s = cq_u64_load_relaxed(&p->state);
	do {
		stay = state_claimed(s) > n ? state_claimed(s) - n : 0;
		stay = stay < count ? stay : count;
		if (stay == count)
			break;
		/* Pairs with the acquire of `state` in look (collect.c): a claim that sees the new seq sees the
		   smaller write; one that is under way fails. Without it what was refused could run. */
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&p->state, &s, s + STATE_SEQ));
	CQ_POINT("producer.retracted");
	cq_ptr_store_relaxed(&p->write, cq_producer_slot(p, p->block, n + (uint32_t)stay));
	return stay;
}

/* Writes one callback into the open block. */
static void write_one(cq_producer_t *p, cq_callback_fn *fn, void *arg)
{
	void **arg_slot = p->write;
	cq_callback_t *slot = p->write;

	if (p->fn != NULL) {
		cq_ptr_store_relaxed(arg_slot, arg);
		slot = (void *)(arg_slot + 1);
	} else {
		cq_ptr_store_relaxed(&slot->arg, arg);
		cq_ptr_store_relaxed(&slot->fn, fn);
		slot++;
	}
	/* Pairs with the acquire of write in look (collect.c), as that in shown (producer.c). */
	cq_ptr_store_release(&p->write, slot);
	CQ_POINT("producer.stored");
}

/*
 * The slow path of enqueue, put and commit: `count` callbacks from `slot` on were just written, and write has come to
 * the limit. `fn` and `arg` are the one, or NULL for a span, of which *accepted says how many were accepted. No slot:
 * the call is refused, and nothing was written.
 */
CQ_RARE int cq_producer_slow(cq_producer_t *p, cq_callback_fn *fn, void *arg, void *slot, size_t count,
    size_t *accepted)
{
	cq_cleanup_t *q = p->q;
	size_t stay;
	int err;

	/* 1. Not of this producer's kind: here, so that the hot path has one return, and no register for this. */
	if (slot == NULL)
		return EINVAL;
	/* 2. Nothing is open, and it was the dummy: open a block, and write there. */
	if (p->block == NULL) {
		CQ_POINT("producer.dummy");
		cq_ptr_store_relaxed(&p->write, &p->dummy);
		if ((err = cq_producer_open(p, true)) != 0)
			return err;
		slot = p->write;
		write_one(p, fn, arg);
	}
	/* 3. Without an asymmetric barrier: pairs with cq_barrier_heavy in cq_producers_see. Either the collection
	   behind that barrier sees these callbacks, or the closed queue is seen here. Without this fence a
	   callback could be neither refused nor seen. */
	if (q->fences)
		cq_fence_full();
	/* 4. Shut down: refused, unless a collector was faster. Closed, so that the next refused one finds no block, and
	   doesn't get in the way of the claim again. */
	if (cq_u32_load_relaxed(&q->closed) != 0 && (stay = retract(p, slot, count)) < count) {
		if (accepted != NULL)
			*accepted = stay;
		(void)cq_producer_close(p);
		return ESHUTDOWN;
	}
	/* 5. Full: to the workers. That nobody can be made to run it is said by flush: this is accepted. */
	if (is_full(p)) {
		p->fills = true;
		(void)cq_producer_close(p);
	} else if ((char *)p->write >= p->ahead) {
		/* 6. Further. A span is written in one go, and fetched by that. */
		look_ahead(p, fn != NULL);
	}
	return 0;
}

/* -------------------------------------------------------------------------- closing the queue */

/* Returns whether any was not NULL. */
static bool lower_limits(cq_cleanup_t *q)
{
	bool lowered = false;

	pthread_mutex_lock(&q->lock);
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		if (cq_ptr_load_relaxed(&p->limit) != NULL) {
			cq_ptr_store_relaxed(&p->limit, NULL);
			lowered = true;
		}
	pthread_mutex_unlock(&q->lock);
	return lowered;
}

/* The caller has closed the queue. On return every producer has seen that, or its callbacks are visible to the
   caller, and to whoever has the lock after it. */
void cq_producers_see(cq_cleanup_t *q)
{
	/* 1. Every enqueue from here on takes the slow path, or 2. */
	lower_limits(q);
	/* 2. Pairs with the store of write and the load of limit in shown (producer.c), then of `closed` in
	   cq_producer_slow: an enqueue sees that, or its callback is seen by what follows. And with the store
	   of limit and the load in set_limit: a limit that was set without seeing `closed` is seen now. */
	cq_barrier_heavy();
	/* 3. Such limits. No more are set. */
	if (lower_limits(q))
		/* As 2, for what ran on to them. */
		cq_barrier_heavy();
}
