/* SPDX-License-Identifier: BSD-2-Clause */
/* A producer and its open block: the fast path, and what gatherers see of it. */
#ifndef CQ_PRODUCER_H
#define CQ_PRODUCER_H

#include "cleanup_priv.h"

/*
 * A producer. Its owner writes a callback, then write. A gatherer (one at a time,
 * under the registry lock) claims a prefix of them by a compare-and-swap of
 * `state`; the owner closes the block by another. So each callback leaves by
 * one of the two, and the owner's hot path has no read-modify-write.
 *
 * state = seq | claimed | shared | parity | phase, changed by:
 *   open    owner    VOID   -> OPEN, seq + 1, claimed 0, parity of the epoch
 *   claim   gatherer OPEN   -> OPEN, claimed up to write, or as far as there is memory
 *   retract owner    OPEN   -> OPEN, seq + 1 (a shutdown refused the last callbacks)
 *   close   owner    OPEN   -> CLOSED: what is not claimed is the owner's to publish
 *   leave   owner    CLOSED -> VOID, when that is counted in published[]
 */
struct cq_producer {
	/* All that most enqueues touch, beside the slot. */
	cq_callback_fn *fn;		/* the open block is for this one. Owner only */
	void *write;			/* the next slot; those before it are written.
					   Release by the owner. &nowhere: no block is open */
	void *end;			/* while write is below it, an enqueue has nothing to
					   look after. Whoever raises the gate lowers it to NULL */
	cq_cleanup_t *q;
	uint64_t state CQ_ALIGNED(8);
	cq_block_t *block;		/* the open block, or NULL */
	cq_callback_t nowhere;
	uint64_t base CQ_ALIGNED(8);	/* callbacks accepted before the open block */
	uint64_t total;			/* and up to the last close, written before it */
	uint64_t published[2];		/* callbacks put in full[]; owner only writes */

	/* Owner only: */
	uint64_t reserved_until;	/* the count of accepted callbacks up to which
					   an enqueue cannot fail */
	cq_node_t *spares;		/* blocks for that */
	uint64_t nspares;
	cq_callback_t *span;		/* write, when the last span was given */
	cq_callback_fn *sole;		/* of the last full block, if all had the same */
	char *mark, *fetched;		/* see fetch_lines (open.c) */
	bool fills;			/* the last block was filled, not flushed */

	cq_producer_t *next, *prev;	/* under the registry lock */
};

/* In place of a function: each callback of the block has its own. */
#define NOT_SHARED ((cq_callback_fn *)1)

enum { PHASE_VOID, PHASE_OPEN, PHASE_CLOSED, PHASE_MASK = 3 };

#define STATE_PARITY UINT64_C(4)
#define STATE_SHARED UINT64_C(8)
#define STATE_CLAIMED_SHIFT 4
#define STATE_CLAIMED (UINT64_C(0xffff) << STATE_CLAIMED_SHIFT)
#define STATE_SEQ (UINT64_C(1) << 20) /* one; 44 bits: for ever */

static inline unsigned state_phase(uint64_t s) { return (unsigned)(s & PHASE_MASK); }
static inline unsigned state_parity(uint64_t s) { return (s & STATE_PARITY) != 0; }
static inline bool state_shared(uint64_t s) { return (s & STATE_SHARED) != 0; }
static inline uint32_t state_claimed(uint64_t s)
{
	return (uint32_t)((s & STATE_CLAIMED) >> STATE_CLAIMED_SHIFT);
}
static inline uint64_t state_with_claimed(uint64_t s, uint32_t n)
{
	return (s & ~STATE_CLAIMED) | (uint64_t)n << STATE_CLAIMED_SHIFT;
}

/*
 * How many callbacks the block `b` of a producer holds. Senseless, and harmless,
 * when they don't belong together or `b` is NULL: `state` tells, when it is read again.
 */
static inline uint32_t callbacks_in(const cq_block_t *b, bool shared, const void *write)
{
	uintptr_t bytes = (uintptr_t)write - (uintptr_t)b;

	if (shared)
		return (uint32_t)((bytes - offsetof(cq_block_t, callbacks[0].arg)) / sizeof(void *));
	return (uint32_t)((bytes - offsetof(cq_block_t, callbacks)) / sizeof(cq_callback_t));
}

/* Where a block's nth callback is, or would be. */
static inline void *slot_of(cq_block_t *b, bool shared, uint32_t n)
{
	return shared ? (void *)(block_args(b) + n) : (void *)(b->callbacks + n);
}

/* write, when the block is full: of both kinds. */
static inline void *full_end(const cq_cleanup_t *q, cq_block_t *b)
{
	return b->callbacks + q->slots;
}

/* ---- open.c: by the owner ---- */

static inline bool is_open(const cq_producer_t *p) { return p->block != NULL; }

/* Has the open block one function for all its callbacks? */
static inline bool is_shared(const cq_producer_t *p) { return p->fn != NOT_SHARED; }

/* Callbacks in the open block. */
static inline uint32_t written(const cq_producer_t *p)
{
	return callbacks_in(p->block, is_shared(p), p->write);
}

static inline bool is_full(const cq_producer_t *p)
{
	return p->write == full_end(p->q, p->block);
}

/* Callbacks accepted so far. */
static inline uint64_t accepted_by(const cq_producer_t *p)
{
	return is_open(p) ? p->base + written(p) : p->total;
}

/* For callbacks with `fn`; with NOT_SHARED, for any. ENOMEM, ESHUTDOWN. */
int cq_open_block(cq_producer_t *p, cq_callback_fn *fn);
/* Publishes, and wakes for it: as cq_wake_unless_polled, or 0 when there was nothing. */
int cq_close_block(cq_producer_t *p);
size_t cq_look_after(cq_producer_t *p, void *slot, size_t count, bool span);
int cq_ensure_spares(cq_producer_t *p, uint64_t n, uint64_t room);
void cq_give_spares_back(cq_producer_t *p, uint64_t keep);

#endif /* CQ_PRODUCER_H */
