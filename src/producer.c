/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "barrier.h"
#include "cleanup_priv.h"

/* ------------------------------------------------------- opening and closing */

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

static void give_spares_back(cq_producer_t *p, uint64_t keep)
{
	while (p->nspares > keep)
		cq_block_put(p->q, next_block(p));
}

static bool is_open(const cq_producer_t *p)
{
	return p->block != NULL;
}

/* Callbacks in the open block, by the owner. */
static uint32_t written(const cq_producer_t *p)
{
	return callbacks_in(p->block, p->write);
}

/* VOID -> OPEN, with an empty block. */
static void open_block(cq_producer_t *p, cq_block_t *b)
{
	uint64_t seq = (cq_u64_load_relaxed(&p->state) & ~(STATE_SEQ - 1)) + STATE_SEQ;
	uint64_t parity = cq_u64_load_relaxed(&p->q->epoch) & 1 ? STATE_PARITY : 0;

	cq_u64_store_relaxed(&p->base, p->total);
	cq_ptr_store_relaxed(&p->write, b->callbacks);
	cq_ptr_store_relaxed(&p->block, b);
	/* Pairs with the acquire of `state` in claim (gather.c): block, base and write
	   are those of this seq. Without it a gatherer could count the callbacks of
	   the last block as this one's. */
	cq_u64_store_release(&p->state, seq | parity | PHASE_OPEN);

	/* Program order between this store and the load is one half of the asymmetric
	   barrier; see cq_producers_stop_at_gate. */
	cq_ptr_store_relaxed(&p->end, b->callbacks + p->q->slots);
	if (cq_u32_load_relaxed(&p->q->gate) != 0)
		cq_ptr_store_relaxed(&p->end, NULL);
}

/* No block is open: enqueue writes to where it harms nobody, and finds that out then. */
static void forget_block(cq_producer_t *p)
{
	cq_ptr_store_relaxed(&p->block, NULL);
	cq_ptr_store_relaxed(&p->write, &p->nowhere);
	cq_ptr_store_relaxed(&p->end, NULL);
}

/*
 * OPEN -> CLOSED -> VOID. Publishes what is not claimed; the block is then a
 * worker's. Returns whether anything was published; an empty block is kept as a
 * spare.
 */
static CQ_RARE bool close_block(cq_producer_t *p)
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

	b->parity = state_parity(s);
	b->begin = state_claimed(s);
	b->end = written(p);
	CQ_CHECK(b->end <= p->q->slots);
	cq_u64_store_relaxed(&p->published[b->parity],
	    p->published[b->parity] + (b->end - b->begin));
	/* Pairs with the acquire of `state` in parity_done (drain.c): a drain that no
	   longer sees CLOSED sees published[]. Without it a block in flight would be
	   in neither, and the drain return before it has run. And with the fork that
	   copies this memory: from here on the block answers for its callbacks itself. */
	cq_fence_release();
	forget_block(p);
	cq_u64_store_relaxed(&p->state, (s & ~(uint64_t)(PHASE_MASK | STATE_CLAIMED)) | PHASE_VOID);
	CQ_POINT("producer.counted");

	if (b->begin == b->end) {
		cq_block_clear(b);
		add_spare(p, b);
		/* A drain that saw CLOSED waits for a block, and none comes. */
		cq_sleepers_wake_all(&p->q->drainers);
		return false;
	}
	cq_blocks_publish(p->q, b->parity, b, b, 1);
	return true;
}

/* Wakes for what the caller has published; a shutdown may be waiting for it. */
static CQ_RARE int published(cq_cleanup_t *q)
{
	int err = 0;

	/* Pairs with the announcement of a shutdown in give_back_rest (drain.c):
	   either that sees this block, or the gate is seen closed here. (The wake
	   begins with the same fence.) */
	if ((q->config.flags & CQ_POLLED) != 0)
		cq_fence_full();
	else
		err = cq_cleanup_wake(q);
	if ((cq_u32_load_relaxed(&q->gate) & GATE_CLOSED) != 0)
		cq_sleepers_wake_all(&q->drainers);
	return err;
}

/* ------------------------------------------------------------------ enqueue */

void cq_producers_stop_at_gate(cq_cleanup_t *q)
{
	/* Pairs with the store of end and the load of gate in open_block: either the
	   gate is seen raised there, or that end is lowered here. */
	cq_barrier_heavy();
	pthread_mutex_lock(&q->registry);
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		cq_ptr_store_relaxed(&p->end, NULL);
	pthread_mutex_unlock(&q->registry);
	/* Pairs with the store of write and the load of end in store and in commit: an
	   enqueue either looks at the gate and takes its callback back, or its
	   callback is seen by what follows. */
	cq_barrier_heavy();
}

/* The gate is up. How many of the `count` callbacks from `slot` on, just written, may stay? */
static size_t gated(cq_producer_t *p, cq_callback_t *slot, size_t count)
{
	cq_cleanup_t *q = p->q;
	uint32_t n = callbacks_in(p->block, slot);
	size_t stay;
	uint64_t s;

	if ((cq_u32_load_relaxed(&q->gate) & GATE_FENCE) != 0)
		/* Pairs with cq_barrier_heavy in shutdown and in the handover look:
		   either they see this callback, or it is seen here that they came.
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
	cq_ptr_store_relaxed(&p->write, slot + stay);
	return stay;
}

/*
 * CQ_HANDOVER: is a worker idle, or can the first be made? Looked at after the
 * store of write. While none can be made, callbacks gather in the block as without
 * the flag, instead of one by one with an attempt each.
 */
static bool wants_partial_block(cq_cleanup_t *q)
{
	return cq_u32_load_relaxed(&q->idle.asleep) != 0 ||
	    ((q->config.flags & CQ_POLLED) == 0 &&
	     crew_live(cq_u64_load_relaxed(&q->crew)) == 0 &&
	     !cq_cleanup_stalled(q));
}

/* A block for the next enqueue. */
static CQ_RARE int begin_block(cq_producer_t *p)
{
	cq_block_t *b;

	if ((cq_u32_load_relaxed(&p->q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	b = next_block(p);
	if (b == NULL)
		return ENOMEM;
	open_block(p, b);
	return 0;
}

/* Not hot: the block is full, or the gate is up. Returns how many were accepted. */
static size_t look_after(cq_producer_t *p, cq_callback_t *slot, size_t count)
{
	uint32_t gate = cq_u32_load_relaxed(&p->q->gate);

	if (gate != 0)
		count = gated(p, slot, count);
	if (written(p) == p->q->slots) {
		if (close_block(p))
			published(p->q);
	} else if ((gate & GATE_HANDOVER) != 0 && count != 0 && wants_partial_block(p->q)) {
		cq_producer_flush(p);
	}
	return count;
}

/* Stores a callback in `slot`, which is p->write. True: it is to be looked after. */
static inline bool store(cq_producer_t *p, cq_callback_t *slot, cq_callback_fn *fn, void *arg)
{
	cq_ptr_store_relaxed(&slot->arg, arg);
	cq_ptr_store_relaxed(&slot->fn, fn);
	/* Pairs with the acquire of write in claim (gather.c): the slot before what
	   covers it. Without it a gatherer could copy an old slot. */
	cq_ptr_store_release(&p->write, slot + 1);
	if (slot != &p->nowhere)
		CQ_POINT("producer.stored");

	/* Program order between that store and this load is one half of the
	   asymmetric barrier; see cq_producers_stop_at_gate and gated. */
	return (uintptr_t)(slot + 1) >= (uintptr_t)cq_ptr_load_relaxed(&p->end);
}

/* Not hot: the callback in `slot` is to be looked after, or the slot is nowhere. */
static CQ_RARE int enqueue_closely(cq_producer_t *p, cq_callback_t *slot, cq_callback_fn *fn,
    void *arg)
{
	int err;

	if (!is_open(p)) {
		CQ_POINT("producer.nowhere");
		cq_ptr_store_relaxed(&p->write, &p->nowhere);
		if ((err = begin_block(p)) != 0)
			return err;
		slot = p->write;
		if (!store(p, slot, fn, arg))
			return 0;
	}
	return look_after(p, slot, 1) == 1 ? 0 : ESHUTDOWN;
}

int cq_producer_enqueue(cq_producer_t *p, cq_callback_fn *fn, void *arg)
{
	cq_callback_t *slot = p->write;

	if (fn == NULL)
		return EINVAL;
	if (CQ_LIKELY(!store(p, slot, fn, arg)))
		return 0;
	return enqueue_closely(p, slot, fn, arg);
}

/* --------------------------------------------------------------------- spans */

int cq_producer_span(cq_producer_t *p, cq_callback_t **slots, size_t *n)
{
	int err;

	if (slots == NULL || n == NULL)
		return EINVAL;
	if ((cq_u32_load_relaxed(&p->q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	if (!is_open(p) && (err = begin_block(p)) != 0)
		return err;
	*slots = p->span = p->write;
	*n = p->q->slots - written(p);
	return 0;
}

/* The slots that commit may take: none if something came between, a commit or an enqueue. */
static uint32_t spanned(const cq_producer_t *p)
{
	return is_open(p) && p->write == p->span ? p->q->slots - written(p) : 0;
}

static size_t nulls_in(const cq_callback_t *slots, size_t n)
{
	size_t nulls = 0;

	for (size_t i = 0; i < n; i++)
		nulls += slots[i].fn == NULL;
	return nulls;
}

int cq_producer_commit(cq_producer_t *p, size_t k, size_t *accepted)
{
	cq_callback_t *slot = p->write;

	if (accepted == NULL)
		return EINVAL;
	*accepted = 0;
	if (k > spanned(p))
		return EINVAL;
	if (k == 0)
		return 0;
	CQ_CHECK(nulls_in(slot, k) == 0);
	/* Pairs with the acquire of write in claim, and then with the lowering of end,
	   as in store. */
	cq_ptr_store_release(&p->write, slot + k);
	CQ_POINT("producer.stored");
	if ((uintptr_t)(slot + k) < (uintptr_t)cq_ptr_load_relaxed(&p->end))
		*accepted = k;
	else
		*accepted = look_after(p, slot, k);
	return *accepted == k ? 0 : ESHUTDOWN;
}

/* --------------------------------------------------------- reserve and flush */

/* Callbacks accepted so far, by the owner. */
static uint64_t accepted(const cq_producer_t *p)
{
	return is_open(p) ? p->base + written(p) : p->total;
}

/* Makes spares for `n` enqueues beyond the `room` in the open block. */
static int ensure_spares(cq_producer_t *p, uint64_t n, uint64_t room)
{
	uint64_t have = p->nspares, need = 0;

	if (n > room)
		need = (n - room - 1) / p->q->slots + 1;
	if (need > SIZE_MAX / p->q->block_bytes)
		return EINVAL;
	while (p->nspares < need) {
		cq_block_t *b = cq_block_get(p->q);

		if (b == NULL) {
			give_spares_back(p, have);
			return ENOMEM;
		}
		add_spare(p, b);
	}
	give_spares_back(p, need);
	return 0;
}

int cq_producer_reserve(cq_producer_t *p, size_t n)
{
	int err;

	if ((cq_u32_load_relaxed(&p->q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	err = ensure_spares(p, n, is_open(p) ? p->q->slots - written(p) : 0);
	if (err == 0)
		p->reserved_until = accepted(p) + n;
	return err;
}

int cq_producer_flush(cq_producer_t *p)
{
	uint64_t so_far = accepted(p);

	if (!is_open(p) || written(p) == state_claimed(cq_u64_load_relaxed(&p->state)))
		return 0;
	/* The rest of this block goes; what is reserved must fit the spares alone. */
	if (p->reserved_until > so_far && ensure_spares(p, p->reserved_until - so_far, 0) != 0)
		return ENOMEM;
	return close_block(p) ? published(p->q) : 0;
}

/* -------------------------------------------------------- attach and detach */

int cq_producer_attach(cq_cleanup_t *q, cq_producer_t **out)
{
	cq_producer_t *p;

	if (q == NULL || out == NULL)
		return EINVAL;
	if ((cq_u32_load_relaxed(&q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	p = cq_alloc(q, sizeof(*p));
	if (p == NULL)
		return ENOMEM;
	*p = (cq_producer_t){ .q = q, .write = &p->nowhere };

	pthread_mutex_lock(&q->registry);
	p->next = q->producers;
	if (p->next != NULL)
		p->next->prev = p;
	q->producers = p;
	q->nproducers++;
	pthread_mutex_unlock(&q->registry);
	*out = p;
	return 0;
}

void cq_producer_detach(cq_producer_t *p)
{
	cq_cleanup_t *q;

	if (p == NULL)
		return;
	q = p->q;
	if (is_open(p) && close_block(p))
		published(q);
	give_spares_back(p, 0);

	pthread_mutex_lock(&q->registry);
	if (p->prev != NULL)
		p->prev->next = p->next;
	else
		q->producers = p->next;
	if (p->next != NULL)
		p->next->prev = p->prev;
	q->queued += p->total;
	q->published[0] += p->published[0];
	q->published[1] += p->published[1];
	q->nproducers--;
	cq_free(q, p, sizeof(*p));
	pthread_mutex_unlock(&q->registry);
}
