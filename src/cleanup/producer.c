/* SPDX-License-Identifier: BSD-2-Clause */
/* What the owner of a producer does: its block is opened, filled, closed and published here. */
#include <errno.h>

#include "cleanup_priv.h"
#include "pool/pool_inside.h"
#include "workq/stack.h"

/* ------------------------------------------------------------------ the open block */

/* How far ahead of write lines are fetched, in bytes. At 0 each store waits for its line; much more than a
   cache's worth would push out what it fetched. */
#define FETCH_BYTES ((size_t)16 * CQ_LINE)

/* `fetched` of a new block whose producer is not known to fill it: nothing at first. */
#define FETCH_LATER (sizeof(cq_block_t) + 2 * FETCH_BYTES)

/* Where the open block ends, in bytes from its beginning. */
static size_t block_end(const cq_producer_t *p)
{
	return offsetof(cq_block_t, callbacks) + ((size_t)p->slots << p->slot_shift);
}

/* Where the next lines are to be fetched, or the end of the block. */
static char *prefetch_limit(const cq_producer_t *p)
{
	return p->fetched < block_end(p) ? (char *)p->block + p->fetched - FETCH_BYTES : cq_producer_slot(p, p->block, p->slots);
}

/* It is not listed: it writes for the first time, or a collector has found nothing of its. */
static CQ_RARE void come_in(cq_producer_t *p)
{
	if (!cq_u32_cas_relaxed(&p->listed, UNLISTED, NEWCOMER))
		return; /* a collector was faster */
	CQ_POINT("producer.coming");
	cq_u64_store_relaxed(&p->seen, cq_u64_load_relaxed(&p->state));
	cq_stack_push(&p->q->newcomers, &p->newcomer);
	/* Without an asymmetric barrier: pairs with cq_barrier_heavy in cq_producers_see (collect.c). Either the
	   collection behind that barrier finds this producer, or the closed queue is seen behind this. And, with one
	   too, with the fence in cq_tick. */
	cq_fence_full();
}

/* The next limit. True: the queue is closed. */
static bool set_limit(cq_producer_t *p)
{
	cq_cleanup_t *q = p->q;
	bool closed;

	/* 1. Program order between this store, or that of write, and the loads of `listed` and `closed` is one half of
	   the asymmetric barrier; see let_go and cq_producers_see (collect.c). Without such a barrier limit stays NULL,
	   and this is it: a callback could be with a producer that no collector finds, or be neither refused nor seen. */
	if (q->fences)
		cq_fence_full();
	else
		cq_ptr_store_relaxed(&p->limit, prefetch_limit(p));
	/* 2. Before the look at `closed`: what is accepted is found. */
	if (cq_u32_load_relaxed(&p->listed) == UNLISTED)
		come_in(p);
	closed = cq_u32_load_relaxed(&q->closed) != 0;
	if (closed)
		cq_ptr_store_relaxed(&p->limit, NULL);
	else if (q->tick_ns != 0 && cq_u32_load_relaxed(&q->ticking) == NO_TICK)
		cq_tick_begin(q);
	return closed;
}

/* The next lines. The lines of a block are in the cache of the processor that ran it, and
   stores wait for them one after the other; of those asked for before, many are under way together
   (doc/protocol, 5). */
static void look_ahead(cq_producer_t *p)
{
	size_t until = (size_t)((char *)p->write - (char *)p->block) + 2 * FETCH_BYTES;

	if (until > block_end(p))
		until = block_end(p);
	for (; p->fetched < until; p->fetched += CQ_LINE)
		cq_fetch_to_write((char *)p->block + p->fetched);
}

/* Full blocks may have been left to a tick, which is too late for who flushes, or finds no room. 0, or STALLED. */
static int signal_left(cq_cleanup_t *q)
{
	return q->wake_blocks != 0 && cq_blocks_waiting(q) != 0 ? cq_blocks_signal(q) : 0;
}

/* Blocks that are filled in a row, after which they are large. At 0 who writes little has memory for much; without limit
   none are. */
#define FILLED 4

/* open 0 -> 1, with an empty block. ENOBUFS, ENOMEM, ESHUTDOWN, EDEADLK. */
static int open_block(cq_producer_t *p)
{
	uint64_t seq = (cq_u64_load_relaxed(&p->state) & ~(STATE_SEQ - 1)) + STATE_SEQ;
	cq_block_t *b;

	if (cq_u32_load_relaxed(&p->q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	/* The bound, looked at nowhere else: what is in open blocks comes on top of it, and what is reserved. */
	if (p->total >= p->reserved_until && !cq_blocks_have_room(p->q)) {
		(void)signal_left(p->q);
		return ENOBUFS;
	}
	if (p->spares != NULL) {
		b = cq_block_of(p->spares);
		p->spares = p->spares->next;
	} else {
		cq_producer_gets(p);
		b = cq_block_get(p->q, p->q->grows && p->filled >= FILLED);
		cq_producer_has_got(p);
		if (b == NULL)
			return ENOMEM;
	}
	b->fn = p->fn;
	cq_u32_store_relaxed(&p->slots, cq_producer_slots(p, b->large));
	cq_u64_store_relaxed(&p->base, p->total);
	cq_ptr_store_relaxed(&p->write, cq_producer_slot(p, b, 0));
	/* Pairs with the copy that a fork takes: a child that has the block has a write within it. */
	cq_ptr_store_release(&p->block, b);
	/* Pairs with the acquire of `state` in look (collect.c): block, base and write are those of this seq.
	   Without it a collector could take the callbacks of the last block for this one's. */
	cq_u64_store_release(&p->state, seq | STATE_OPEN);

	p->span = NULL; /* it may have been of this block, before */
	look_ahead(p);
	/* Once a block, as who fills them pays for each look. */
	if (!set_limit(p) && cq_tick_is_due(p->q))
		cq_tick_begin(p->q);
	return 0;
}

/* So few blocks wait that the next tick may come for them, and nobody waits for what they hold. */
static bool waits_for_tick(cq_cleanup_t *q, bool large)
{
	if (q->wake_blocks == 0)
		return false;
	/* The block, before the look at `ticking`: see cq_tick (collect.c). And before that at `draining`: pairs with the
	   fence in cq_sleepers_prepare_wait of wait_for (drain.c), which sees the block, or is seen. Without it a block
	   could be left to a tick, or to a drain, that doesn't come. */
	cq_fence_full();
	return cq_u32_load_relaxed(&q->ticking) != NO_TICK && cq_u32_load_relaxed(&q->draining) == 0 &&
	    cq_blocks_waiting(q) * (large ? CQ_LARGE : 1) < q->wake_blocks;
}

/* Ends the open block and publishes what is not claimed; it is then the workers'. 0 or STALLED. */
static CQ_RARE int close_block(cq_producer_t *p, bool may_wait)
{
	cq_cleanup_t *q = p->q;
	cq_block_t *b = p->block;
	uint32_t written = cq_producer_written(p);
	unsigned parity = cq_u64_load_relaxed(&q->epoch) & 1;
	uint64_t s = cq_u64_load_relaxed(&p->state);
	bool large = b->large;

	/* 1. Counted before it leaves the producer, and in the total. Pairs, by the release in 2, with the
	   acquire of `state` in look (collect.c): a drain that finds the block closed finds it counted.
	   Without it the drain would return before the block has run. */
	cq_u64_add_relaxed(&cq_shard_at(q, b->home)->unfinished[parity], 1);
	cq_u64_store_relaxed(&p->total, p->base + written);
	/* 2. The closing step. */
	do {
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&p->state, &s, s & ~STATE_OPEN));
	CQ_POINT("producer.closed");
	/* Pairs with the release of the claim (collect.c): the collector has read the slots that it claimed.
	   Without it they could be written again before. */
	cq_fence_acquire();
	b->begin = b->first = (uint16_t)state_claimed(s);
	b->end = (uint16_t)written;
	b->parity = (uint8_t)parity;
	CQ_CHECK(b->begin <= b->end && b->end <= p->slots);
	/* For the fork that copies this memory: from here on the block answers for its callbacks itself. */
	cq_fence_release();
	cq_ptr_store_relaxed(&p->block, NULL);
	cq_ptr_store_relaxed(&p->write, &p->dummy);
	cq_ptr_store_relaxed(&p->limit, NULL);
	/* Whoever flushes, claims. */
	p->filled = b->begin == 0 && written == p->slots ? p->filled + 1 : 0;
	CQ_POINT("producer.counted");
	/* 3. Published, if any is left. */
	cq_blocks_pend(q, written - state_claimed(s));
	if (b->begin != b->end) {
		cq_blocks_push(q, b);
		CQ_POINT("producer.pushed");
		return may_wait && waits_for_tick(q, large) ? 0 : cq_blocks_signal(q);
	}
	(void)cq_block_give_up(q, b);
	return 0;
}

/* ------------------------------------------------------------------------- enqueue */

/* The queue is closed. Takes back the last `count` callbacks. False: none, as a collector has them all. */
static bool retract(cq_producer_t *p, size_t count)
{
	uint32_t written = cq_producer_written(p), n = written - (uint32_t)count, stay;
	uint64_t s;

	cq_ptr_store_relaxed(&p->write, cq_producer_slot(p, p->block, n));
	CQ_POINT("producer.retracting");
	s = cq_u64_load_relaxed(&p->state);
	do {
		stay = state_claimed(s) > n ? state_claimed(s) : n;
		if (stay == written)
			break;
		/* Pairs with the acquire of `state` in look (collect.c): a claim that sees the new seq sees
		   the smaller write; one that is under way fails. Without it what was refused could run. */
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&p->state, &s, s + STATE_SEQ));
	CQ_POINT("producer.retracted");
	cq_ptr_store_relaxed(&p->write, cq_producer_slot(p, p->block, stay));
	return stay != written;
}

/* The slow path: `count` callbacks were written, and write has come to the limit. 0: the call is refused. */
static CQ_RARE int slow(cq_producer_t *p, size_t count)
{
	int err;

	/* 1. Not of this producer's kind: here, so that the hot path has one return. */
	if (count == 0)
		return EINVAL;
	/* 2. Nothing is open, and it was written to the dummy: open a block, and once more. */
	if (p->block == NULL) {
		CQ_POINT("producer.dummy");
		cq_ptr_store_relaxed(&p->write, &p->dummy);
		if ((err = open_block(p)) != 0)
			return err;
		return p->fn != NULL ? cq_producer_put(p, *(void **)(void *)&p->dummy) :
		    cq_producer_enqueue(p, p->dummy.fn, p->dummy.arg);
	}
	/* 3. Further lines; the limit. Shut down: refused, unless a collector was faster. Closed, so that the next
	   refused one finds no block, and doesn't get in the way of the claim again. */
	if ((char *)p->write >= prefetch_limit(p))
		look_ahead(p);
	if (set_limit(p) && retract(p, count)) {
		(void)close_block(p, false);
		return ESHUTDOWN;
	}
	/* 4. Full: to the workers. That nobody can be made to run it is said by flush: this is accepted. */
	if (cq_producer_written(p) == p->slots) {
		p->fetched = 0;
		(void)close_block(p, true);
	}
	return 0;
}

/* The slots below `write` are written. True: it has come to the limit. */
static inline bool shown(cq_producer_t *p, void *write)
{
	/* Pairs with the acquire at the end of look (collect.c): the slots before what covers them. Without it
	   a collector could copy an old slot. */
	cq_ptr_store_release(&p->write, write);
	if (p->block != NULL)
		CQ_POINT("producer.stored");
	/* Program order between that store and this load is one half of the asymmetric barrier; see
	   cq_producers_see (collect.c). */
	return (uintptr_t)write >= (uintptr_t)cq_ptr_load_relaxed(&p->limit);
}

int cq_producer_enqueue(cq_producer_t *p, cq_callback_fn *fn, void *arg)
{
	cq_callback_t *slot = p->write;

	if (!CQ_LIKELY(fn != NULL && p->fn == NULL))
		return slow(p, 0);
	cq_ptr_store_relaxed(&slot->arg, arg);
	cq_ptr_store_relaxed(&slot->fn, fn);
	return CQ_LIKELY(!shown(p, slot + 1)) ? 0 : slow(p, 1);
}

int cq_producer_put(cq_producer_t *p, void *arg)
{
	void **slot = p->write;

	if (!CQ_LIKELY(p->fn != NULL))
		return slow(p, 0);
	cq_ptr_store_relaxed(slot, arg);
	return CQ_LIKELY(!shown(p, slot + 1)) ? 0 : slow(p, 1);
}

/* --------------------------------------------------------------------------- spans */

int cq_producer_span(cq_producer_t *p, cq_callback_t **slots, size_t *n)
{
	int err;

	if (slots == NULL || n == NULL || p->fn != NULL)
		return EINVAL;
	if (cq_u32_load_relaxed(&p->q->closed) != 0)
		return ESHUTDOWN;
	if (p->block == NULL) {
		p->fetched = SIZE_MAX; /* a span is written in one go, and fetched by that */
		if ((err = open_block(p)) != 0)
			return err;
	}
	*slots = p->span = p->write;
	*n = p->slots - cq_producer_written(p);
	return 0;
}

int cq_producer_commit(cq_producer_t *p, size_t k, size_t *accepted)
{
	cq_callback_t *slot = p->write;
	uint64_t before;
	int err = 0;

	if (accepted == NULL)
		return EINVAL;
	*accepted = 0;
	/* None are left of a span if something came between: a commit, an enqueue or a new block. */
	if (k > (slot == p->span ? p->slots - cq_producer_written(p) : 0))
		return EINVAL;
	if (k == 0)
		return 0;
	for (size_t i = 0; i < k; i++)
		CQ_CHECK(slot[i].fn != NULL);
	before = p->base + cq_producer_written(p);
	if (shown(p, slot + k))
		err = slow(p, k);
	*accepted = err == 0 ? k : p->total - before;
	return err;
}

/* ---------------------------------------------------------------- reserve and flush */

/* All from `link` on. */
static void free_spares(cq_producer_t *p, cq_node_t **link)
{
	cq_node_t *node;

	while ((node = *link) != NULL) {
		cq_ptr_store_relaxed(link, node->next);
		cq_block_put(p->q, cq_block_of(node));
	}
}

/* As many spares as n callbacks need. ENOMEM: those that there were. EINVAL. */
static int ensure_spares(cq_producer_t *p, uint64_t n)
{
	uint32_t slots = cq_producer_slots(p, false);
	uint64_t need = n / slots + (n % slots != 0);
	cq_node_t **end = &p->spares, **link;
	cq_block_t *b;

	if (need > SIZE_MAX / p->q->block_bytes)
		return EINVAL;
	for (; need != 0 && *end != NULL; need--)
		end = &(*end)->next;
	cq_producer_gets(p);
	for (link = end; need != 0 && (b = cq_block_get(p->q, false)) != NULL; need--, link = &b->node.next)
		/* Relaxed, not plain: a pop of the free stack that lost may be reading it. */
		cq_ptr_store_relaxed(link, &b->node);
	cq_producer_has_got(p);
	if (need != 0 || link == end)
		free_spares(p, end); /* too few, or too many */
	return need == 0 ? 0 : ENOMEM;
}

int cq_producer_reserve(cq_producer_t *p, size_t n)
{
	uint64_t room = p->block != NULL ? p->slots - cq_producer_written(p) : 0;
	int err;

	if (cq_u32_load_relaxed(&p->q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	err = ensure_spares(p, n > room ? n - room : 0);
	if (err == 0)
		p->reserved_until = cq_producer_accepted(p) + n;
	return err;
}

/*
 * Moves what the open block has to publish into the queue's partial block, and the open one stays, if that is less than a
 * FEW-th of a block: so what waits takes 64 bytes a callback at most, however few are flushed at a time. At 1 what is
 * copied costs more than a block that changes hands; without limit each flush costs a block.
 */
#define FEW 4

static bool flush_few(cq_producer_t *p)
{
	uint32_t n = cq_producer_written(p) - state_claimed(cq_u64_load_relaxed(&p->state));

	return n != 0 && n * FEW < p->slots && !cq_forking() && cq_collect_own(p);
}

int cq_producer_flush(cq_producer_t *p)
{
	uint64_t so_far;

	if (cq_forking())
		return EDEADLK;
	if (p->block == NULL || cq_producer_written(p) == state_claimed(cq_u64_load_relaxed(&p->state)))
		return signal_left(p->q);
	if (flush_few(p))
		return cq_blocks_signal(p->q);
	/* The rest of this block goes; what is reserved must fit the spares alone. */
	so_far = p->base + cq_producer_written(p);
	if (p->reserved_until > so_far && ensure_spares(p, p->reserved_until - so_far) != 0)
		return ENOMEM;
	p->fetched = FETCH_LATER;
	return close_block(p, false);
}

/* --------------------------------------------------------------- attach and detach */

/* With the lock held. NULL: no memory. */
cq_producer_t *cq_producer_make(cq_cleanup_t *q, cq_callback_fn *fn)
{
	cq_producer_t *p = cq_allocate(&q->allocator, sizeof(*p));

	if (p == NULL)
		return NULL;
	*p = (cq_producer_t){ .q = q, .fn = fn, .write = &p->dummy, .fetched = FETCH_LATER };
	p->slot_shift = (uint32_t)__builtin_ctz((unsigned)(fn != NULL ? sizeof(void *) : sizeof(cq_callback_t)));
	p->slots = cq_producer_slots(p, false);
	p->next = q->producers;
	p->link = &q->producers;
	if (p->next != NULL)
		p->next->link = &p->next;
	q->producers = p;
	return p;
}

int cq_producer_attach(cq_cleanup_t *q, cq_callback_fn *fn, cq_producer_t **out)
{
	cq_producer_t *p;

	if (q == NULL || out == NULL)
		return EINVAL;
	if (cq_u32_load_relaxed(&q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	p = cq_producer_make(q, fn);
	q->nproducers += p != NULL;
	pthread_mutex_unlock(&q->lock);
	if (p == NULL)
		return ENOMEM;
	*out = p;
	return 0;
}

void cq_producer_detach(cq_producer_t *p)
{
	cq_cleanup_t *q;

	if (p == NULL)
		return;
	q = p->q;
	if (p->block != NULL) {
		if (flush_few(p))
			(void)cq_blocks_signal(q);
		(void)close_block(p, false);
	}
	(void)signal_left(q);
	free_spares(p, &p->spares);

	cq_fork_lock(&q->lock);
	cq_writer_forget(p);
	*p->link = p->next;
	if (p->next != NULL)
		p->next->link = p->link;
	q->queued += p->total;
	q->nproducers--;
	cq_release(&q->allocator, p, sizeof(*p));
	cq_fork_unlock(&q->lock);
}
