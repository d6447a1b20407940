/* SPDX-License-Identifier: BSD-2-Clause */
/* cq/cleanup_stats.h - what a cleanup queue has done and is doing. */
#ifndef CQ_CLEANUP_STATS_H
#define CQ_CLEANUP_STATS_H

#include <stddef.h>
#include <stdint.h>

#include <cq/cc.h>
#include <cq/cleanup.h>

CQ_BEGIN_DECLS

/**
 * Counts since the queue was made, or at this moment. Each is kept by who changes it and summed here: a
 * snapshot whose parts are not all of one instant, but in which executed <= queued always. What workers
 * do: cq_pool_stats (cq/pool_stats.h) of cq_cleanup_pool.
 */
typedef struct cq_cleanup_statistics {
	uint64_t queued;	/**< callbacks accepted */
	uint64_t executed;	/**< callbacks run, counted as their block ends; in a forked child it begins
				   as queued less what the child still holds */
	uint64_t handed_back;	/**< callbacks given back by shutdown */
	uint64_t flushes;	/**< of all producers, and by time, that moved something */
	uint64_t blocks_waiting; /**< published and not taken, of whatever size */
	uint64_t blocks_made;	/**< allocated and not trimmed; one that is four times as large counts as four */
	uint64_t block_bytes;	/**< the memory of one that counts as one */
	uint64_t oldest_ns;	/**< how long the oldest published block has waited, at most */
	uint32_t producers;
	uint64_t in_hand;	/**< callbacks of the blocks that run, those that have run among them */
	uint64_t in_hand_ns;	/**< for how long, at most: with what oldest_ns was when the block was taken */
} cq_cleanup_stats_t;

/** Writes the first `bytes` bytes of the statistics, the size that they have to the caller. What this library
    doesn't know of them is zero. Takes locks, one after the other, and walks all slabs of blocks. */
CQ_API void cq_cleanup_stats_sized(cq_cleanup_t *q, cq_cleanup_stats_t *out, size_t bytes);

static inline void cq_cleanup_stats(cq_cleanup_t *q, cq_cleanup_stats_t *out)
{
	cq_cleanup_stats_sized(q, out, sizeof(*out));
}

CQ_END_DECLS

#endif /* CQ_CLEANUP_STATS_H */
