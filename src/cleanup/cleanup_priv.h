/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the cleanup queue. Which file has what is said at the end; each calls only those above it.
 *
 * Locks, in the order in which they may be held together:
 *   that of base/atfork.c -> lock -> partial_lock -> that of drains -> those of the pool -> those of parking
 * None is held while user code runs, but for the allocator's.
 */
#ifndef CQ_CLEANUP_PRIV_H
#define CQ_CLEANUP_PRIV_H

#include <cq/cleanup.h>
#include <cq/cleanup_stats.h>
#include <cq/pool.h>
#include <cq/pool_stats.h>
#include <cq/producer.h>
#include <cq/sleepers.h>
#include <cq/workq.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/atfork.h"
#include "base/ordering.h"
#include "base/points.h"
#include "base/process.h"
#include "base/slabs.h"

#define CQ_LIKELY(condition) __builtin_expect((condition), 1)

/* Keeps the rare path out of the hot one, which then saves no registers for it. */
#define CQ_RARE __attribute__((noinline))

/* A block of callbacks. At every instant it is in one place: the free stack, a producer's spares, open at a
   producer, waiting (in a stack, or as the partial block), or in the hand of a run or a flush. */
typedef struct cq_block {
	cq_node_t node;
	/* Of the first block of a slab: */
	struct cq_block *next_slab;	/* of those that are not trimmed; once it is in the list, by trim */
	cq_callback_fn *fn;		/* of all; NULL: each callback has its own */
	const void *holder;		/* whose hand it is in: cq_thread_mark, or NULL */
	uint32_t carved;		/* of the first one: so many blocks of the slab have been used, itself too */
	/* Published and not begun: [begin, end). Empty in a free, spare or open block. begin moves before
	   each call, so that a forked child knows what its parent had begun. */
	uint16_t begin, end;
	uint16_t first;			/* begin, when a run took it */
	uint8_t parity;			/* which of unfinished[] counts it */
	bool popped;			/* by trim, under the lock: it is free */
	bool large;			/* CQ_LARGE times as much memory. Written once */
	uint16_t home;			/* the shard where it is counted, waits, and is free again */
	cq_callback_t callbacks[] CQ_ALIGNED(16); /* or arguments alone: block_args */
} cq_block_t;
CQ_NODE_CONTAINER(cq_block_t, node, cq_block_of)

static inline void **block_args(cq_block_t *b)
{
	return (void **)(void *)b->callbacks;
}

/* A producer. Its owner writes a callback, then `write`. A collector (one at a time, under the lock; or the owner, where
   it flushes few) claims a prefix of them by a compare-and-swap of `state`; the owner closes the block by another. So
   each callback leaves by one of the two. state = seq | claimed | open: doc/protocol, 5. */
struct cq_producer {
	/* All that most enqueues touch, beside the slot. */
	void *write;		/* the next slot; those before it are written. By the owner. &dummy: none */
	void *limit;		/* write >= it: slow path. By the owner; NULL also by who closes the queue */
	cq_callback_fn *fn;	/* of all its callbacks, or NULL. Written once */
	cq_cleanup_t *q;
	uint64_t state CQ_ALIGNED(8);
	cq_block_t *block;	/* the open block, or NULL */
	cq_callback_t dummy;	/* the slot where enqueue writes when none is open */
	uint64_t base CQ_ALIGNED(8);	/* callbacks accepted before the open block */
	uint64_t total;		/* and up to the last close, written before it */
	uint32_t slot_shift;	/* a callback has 1 << shift bytes. Written once */
	uint32_t slots;		/* so many the open block has room for, or the last. By the owner, before the block */
	uint32_t taken;		/* a shared one: it has an owner at the moment (shared.c) */
	uint32_t getting;	/* by the owner: it may be in cq_block_get, so trim frees nothing */

	/* Owner only: */
	uint64_t reserved_until; /* the count of accepted callbacks up to which an enqueue cannot fail */
	cq_node_t *spares;	/* blocks for that */
	cq_callback_t *span;	/* write, when the last span was given */
	size_t fetched;		/* bytes of the block, or of the next, that are in the cache or needn't be */

	cq_producer_t *next, **link;	/* under the queue's lock; link: who points here */

	/* Does a collector find it? UNLISTED -> NEWCOMER by the owner, before what it has written is accepted; it
	   pushes itself then. All else by collectors, under the lock: NEWCOMER -> WRITER as they pop it, WRITER ->
	   UNLISTED, and back. Is it in the list of writers: WRITER, or writer_link is not NULL. */
	uint32_t listed;
	uint32_t filled;	/* owner only: blocks in a row, without a flush */
	cq_node_t newcomer;
	uint64_t seen CQ_ALIGNED(8);	/* its state at the last tick, or when it listed itself */
	cq_producer_t *next_writer, **writer_link, *next_quiet;
};

#define STATE_OPEN UINT64_C(1)
#define STATE_CLAIMED UINT64_C(2)		/* one callback */
#define STATE_SEQ (UINT64_C(1) << 20)	/* one; 44 bits: for ever */
static inline bool state_open(uint64_t s) { return (s & STATE_OPEN) != 0; }
static inline uint32_t state_claimed(uint64_t s) { return (uint32_t)(s & (STATE_SEQ - 1)) >> 1; }

enum { UNLISTED, NEWCOMER, WRITER };

/* MADE: a tick, or the next one is being armed. */
enum { NO_TICK, ARMED, MADE };

/* A large block is as long as so many, and takes their place in a slab. For producers that fill one block after the other: of
   what a hand-over costs, each callback pays so much less. */
#define CQ_LARGE 4

/* So many shards at most, as a power of two; and so many processors have one in common. */
#define CQ_SHARD_BITS 6
#define CQ_SHARD_CPUS 4

/* What the threads of a few processors use of a queue: two lines. */
typedef struct cq_shard {
	/* Two stacks. waiting[page & 1] gets the blocks; the other, older, is emptied first. They change
	   places when the older is empty in all shards and the newer has waited for too long, or a drain waits: so what
	   waits is taken in the end, however much comes after it. Page and epoch are independent. */
	cq_workq_t waiting[2] CQ_ALIGNED(CQ_LINE); /* user: when units last rose from 0. Approximate */
	/* Empty blocks. On one line with the counts: most often who writes the one writes the other next. */
	cq_stack_t free[2] CQ_ALIGNED(CQ_LINE); /* the second: large ones */
	/* Blocks that are counted and not finished. + 1 by the publisher before its closing step, or by who
	   makes the next partial block before the first claim into it: so a drain that finds nothing to collect
	   finds the count. - 1 when the last callback has returned. Too high for a moment: a drain waits that long. */
	uint64_t unfinished[2] CQ_ALIGNED(8);
	uint64_t executed;		/* callbacks. Beside what is written as they end */
	uint32_t group;			/* which of the processors' was here last. Approximate, as the next */
	uint32_t heat;			/* of swaps: how often they failed lately. Approximate */
} cq_shard_t;

/* Words that different threads write are on different cache lines. */
struct cq_cleanup {
	/* Read by all, written at create. */
	cq_pool_t *pool;
	cq_task_t *task;
	const cq_park_ops_t *park;	/* the pool's */
	cq_allocator_t allocator;
	bool own_pool, discards;
	bool by_owner;			/* no worker comes: owner's run_some */
	bool fences;			/* no asymmetric barrier: each enqueue has a fence */
	uint32_t slots, large_slots;	/* callbacks per block, each with its function */
	bool grows;			/* there are large ones */
	size_t block_bytes;
	/* Blocks come in slabs: of the system's, or, from an allocator of the host's, of one block. */
	uint32_t slab_blocks;
	bool maps;
	uint64_t max_waiting CQ_ALIGNED(8); /* the bound, or 0 */
	uint64_t tick_ns;		/* from one tick to the next; 0: nothing is published by time */
	uint64_t wake_blocks;		/* while fewer wait, a tick may come for them */
	/* Written by shutdown, by drains, and when producers begin to write and have ceased to. */
	uint32_t ticking;		/* NO_TICK or, while there may be writers, ARMED or MADE */
	uint32_t closed;		/* enqueue refuses */
	uint32_t stop;			/* runs take no more: what is left is handed back */
	uint32_t draining;		/* drains that wait, for room as well: a reason to flip, and to wake them */
	uint64_t epoch CQ_ALIGNED(8);	/* unfinished[epoch & 1] counts the blocks that are closed now */

	uint64_t page CQ_ALIGNED(CQ_LINE);
	cq_producer_t **shared;		/* SHARED of them, or NULL each. Written once, under the lock: so on a
					   line that hardly ever changes, as the next */
	void (*wake_owner)(void *host);	/* of the config, and host */
	void *host;
	/* Shard 0 is `first`; [1 << k, 2 << k) are more[k]. Grows where swaps fail. */
	uint32_t added;			/* shards beyond the first */
	cq_shard_t *more[CQ_SHARD_BITS];

	cq_shard_t first;

	cq_stack_t newcomers CQ_ALIGNED(CQ_LINE); /* writers that nobody has walked yet. Popped under the lock */
	/* Where there is a bound: callbacks that are published and not run; those of a block in hand are until it
	   is given up. + by the publisher, before it can be taken. */
	uint64_t pending CQ_ALIGNED(8);

	cq_sleepers_t drains CQ_ALIGNED(CQ_LINE); /* who waits for unfinished blocks, or for room */

	cq_block_t *slabs CQ_ALIGNED(CQ_LINE);	/* all, by next_slab. The first alone has blocks that are still to be used */

	/*
	 * The partial block: counted callbacks with their functions, which wait as the blocks of the newer stack do, and
	 * behind them; what is flushed in small amounts joins them meanwhile. NULL, or with one callback at least. Both
	 * under its lock, which is held for the copying of a block's callbacks at most; its readers ask whether
	 * there is one.
	 */
	pthread_mutex_t partial_lock CQ_ALIGNED(CQ_LINE);
	cq_block_t *partial;
	uint64_t partial_since CQ_ALIGNED(8);	/* when it came, or rather its first one */

	pthread_mutex_t lock CQ_ALIGNED(CQ_LINE);
	/* Under it: */
	cq_producer_t *producers;
	cq_producer_t *writers;		/* those that may have written since a collector found nothing of theirs */
	uint32_t nproducers;		/* attached, so without the shared ones */
	uint64_t queued;		/* by producers that are gone */
	uint64_t flushes;
	const void *shutting_down;	/* cq_thread_mark of who is at it, or NULL. Read by anyone */
	bool shut_down;
	bool sealed;			/* a shutdown has collected all that was accepted */
	/* Of a forked child that settles: blocks that hold something, and how many of them are counted. */
	cq_node_t *found;
	uint64_t nfound;
	cq_block_t *giving;		/* by who is shutting down: the block in its hand, or NULL */

	struct cq_fork_client fork_client;
	bool fork_ticks;		/* a handler has written, and there was no tick to come */

	uint64_t handed_back CQ_ALIGNED(8);
};

/* Whoever waits for the queue here would wait for itself. */
static inline bool cq_cleanup_is_current(const cq_cleanup_t *q)
{
	return cq_pool_is_current(q->pool) || cq_forking();
}

static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* --------------------------------------------------------- hot, and so in a header */

/* So many callbacks ahead of the one that runs a worker fetches: the lines of a block are in the cache of the processor that
   filled it. At 0 each waits for its line. */
#define CQ_AHEAD 64

static inline void cq_block_fetch(cq_block_t *b, uint32_t i)
{
	__builtin_prefetch(b->fn != NULL ? (void *)&block_args(b)[i] : &b->callbacks[i]);
}

/* The next callback of a block in hand. False: there is none. */
static inline bool cq_block_next(cq_block_t *b, cq_callback_t *callback)
{
	uint16_t i = b->begin;

	if (i == b->end)
		return false;
	if (i % 4 == 0 && i + CQ_AHEAD < b->end)
		cq_block_fetch(b, i + CQ_AHEAD);
	if (b->fn != NULL)
		*callback = (cq_callback_t){ b->fn, block_args(b)[i] };
	else
		*callback = b->callbacks[i];
	b->begin = (uint16_t)(i + 1);
	/* Pairs with the copy that a fork takes: before the call, as no child may run it again. */
	cq_fence_compiler();
	return true;
}

/* How many slots of the block `b` are below `write`. Senseless, and harmless, when they don't belong together
   or `b` is NULL: `state` tells, when it is read again. */
static inline uint32_t cq_slots_below(const cq_producer_t *p, const cq_block_t *b, const void *write)
{
	uintptr_t bytes = (uintptr_t)write - (uintptr_t)b - offsetof(cq_block_t, callbacks);

	return (uint32_t)(bytes >> p->slot_shift);
}

/* How many callbacks of p's a block has room for. */
static inline uint32_t cq_producer_slots(const cq_producer_t *p, bool large)
{
	return (large ? p->q->large_slots : p->q->slots) * (uint32_t)(sizeof(cq_callback_t) >> p->slot_shift);
}

/* Where the nth is, or would be. */
static inline void *cq_producer_slot(const cq_producer_t *p, cq_block_t *b, uint32_t n)
{
	return (char *)b->callbacks + ((size_t)n << p->slot_shift);
}

/* By the owner, of the open block. */
static inline uint32_t cq_producer_written(const cq_producer_t *p)
{
	return cq_slots_below(p, p->block, p->write);
}

/* The owner is about to get blocks. Until it has them, trim frees none that it may read. */
static inline void cq_producer_gets(cq_producer_t *p)
{
	cq_u32_store_relaxed(&p->getting, 1);
	/* Program order between that store and the loads in cq_block_get is one half of the asymmetric barrier; see
	   give_back (trim.c). Without such a barrier, this: a block could be freed that a pop reads. */
	if (p->q->fences)
		cq_fence_full();
	CQ_POINT("producer.gets");
}

static inline void cq_producer_has_got(cq_producer_t *p)
{
	/* Pairs with the acquire in cq_blocks_finished (blocks.c), behind trim's look. Without it what a pop
	   reads could be freed. */
	cq_u32_store_release(&p->getting, 0);
}

/* From one block of a slab to the next: no two share a line. */
static inline size_t cq_block_stride(const cq_cleanup_t *q)
{
	return (q->block_bytes + CQ_LINE - 1) / CQ_LINE * CQ_LINE;
}

static inline cq_block_t *cq_block_at(const cq_cleanup_t *q, cq_block_t *slab, uint32_t n)
{
	return (cq_block_t *)(void *)((char *)slab + n * cq_block_stride(q));
}

static inline cq_shard_t *cq_shard_at(cq_cleanup_t *q, uint32_t i)
{
	unsigned level;
	cq_shard_t *more;

	if (i == 0)
		return &q->first;
	level = 31 - (unsigned)__builtin_clz(i);
	more = cq_ptr_load_relaxed(&q->more[level]); /* not plain: who counted it may not be who stored it */
	return &more[i - (1u << level)];
}

/* How many: a power of two. */
static inline uint32_t cq_shards(const cq_cleanup_t *q)
{
	/* Pairs with the release in cq_shards_grow: the shards before their number. Without it one could be used
	   before it is there. */
	return cq_u32_load_acquire(&q->added) + 1;
}

/* shards.c */
uint32_t cq_shard_any(const cq_cleanup_t *q);
void cq_shards_grow(cq_cleanup_t *q, uint32_t n);
void cq_shards_free(cq_cleanup_t *q);
void cq_shard_swapped(cq_cleanup_t *q, cq_shard_t *s, uint32_t failed);

/* The calling thread's. */
static inline uint32_t cq_shard_mine(const cq_cleanup_t *q)
{
	uint32_t n = cq_shards(q);

	return n == 1 ? 0 : cq_cpu() / CQ_SHARD_CPUS % n;
}

/* As many as it takes the place of, in its slab. */
static inline uint32_t cq_block_length(const cq_block_t *b)
{
	return b->large ? CQ_LARGE : 1;
}

/* block_memory.c */
cq_block_t *cq_block_get(cq_cleanup_t *q, bool large);
void cq_slab_free(cq_cleanup_t *q, cq_block_t *slab);
void cq_block_put(cq_cleanup_t *q, cq_block_t *b);

/* blocks.c: those that wait, the count of unfinished ones */
void cq_blocks_push(cq_cleanup_t *q, cq_block_t *b);
void cq_blocks_set_partial(cq_cleanup_t *q, cq_block_t *b);
int cq_blocks_signal(cq_cleanup_t *q);
cq_block_t *cq_blocks_take(cq_cleanup_t *q, uint64_t *since, uint64_t *left);
uint64_t cq_blocks_waiting(cq_cleanup_t *q);
bool cq_blocks_finished(cq_cleanup_t *q, unsigned parity);
int cq_block_give_up(cq_cleanup_t *q, cq_block_t *b);
void cq_blocks_pend(cq_cleanup_t *q, uint32_t callbacks);
bool cq_blocks_have_room(const cq_cleanup_t *q);
void cq_block_found(void *q, void *b);
bool cq_blocks_all_finished(cq_cleanup_t *q);
void cq_drains_wake(cq_cleanup_t *q);

/* From so many producers on that have nothing to collect, a heavy barrier costs less than to look at them each time. At 1
   each drain beside a producer that is done would pay one; without limit those that wrote once are walked for ever. */
#define CQ_QUIET 64

/* collect.c: what other threads do with producers; flush; ticks. With the lock held, those from cq_writer_list to
   cq_collect_one. */
uint64_t cq_producer_accepted(const cq_producer_t *p);
void cq_producers_see(cq_cleanup_t *q);
bool cq_collect_own(cq_producer_t *p);
void cq_writer_list(cq_producer_t *p);
void cq_writer_forget(cq_producer_t *p);
int cq_collect(cq_cleanup_t *q, bool tick, cq_block_t **empty);
bool cq_collect_one(cq_cleanup_t *q, cq_callback_t *to);

void cq_tick_begin(cq_cleanup_t *q);
bool cq_tick_is_due(const cq_cleanup_t *q);
void cq_tick(cq_cleanup_t *q);

/* producer.c */
cq_producer_t *cq_producer_make(cq_cleanup_t *q, cq_callback_fn *fn);

/* shared.c: producers of the queue's own, for callers without one. The first with the lock held. */
void cq_shared_trim(cq_cleanup_t *q);
bool cq_shared_hold_some(const cq_cleanup_t *q);
void cq_shared_free(cq_cleanup_t *q);

/* run.c: the queue as a task: running blocks */
extern const cq_task_ops_t cq_cleanup_task_ops;

/* cleanup_fork.c. In producer.c: what owners do; in drain.c: drain, shutdown; in trim.c: trim; in
   cleanup.c: all else. */
extern const struct cq_fork_ops cq_cleanup_fork_ops;

#endif /* CQ_CLEANUP_PRIV_H */
