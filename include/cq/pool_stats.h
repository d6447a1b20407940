/* SPDX-License-Identifier: BSD-2-Clause */
/* cq/pool_stats.h - what a pool has done and is doing. */
#ifndef CQ_POOL_STATS_H
#define CQ_POOL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include <cq/cc.h>
#include <cq/pool.h>

CQ_BEGIN_DECLS

/**
 * Counts since the pool was made, or at this moment. Each is kept by who changes it: a snapshot whose parts
 * are not all of one instant, but in which empty_runs <= runs and workers_live <= workers_peak always.
 */
typedef struct cq_pool_statistics {
	uint64_t runs;			/**< calls of tasks' functions */
	uint64_t empty_runs;		/**< of those: had no piece (cq_run_piece) */
	uint64_t wakes;			/**< sleeping workers woken */
	uint64_t workers_created;
	uint64_t workers_retired;	/**< were idle, or ended by a piece */
	uint64_t workers_failed;	/**< attempts to make one that failed; worker_start's too */
	uint64_t tasks_waiting;		/**< signalled, and not yet taken by a worker */
	uint32_t tasks;			/**< open */
	uint32_t workers_live;		/**< made or in cq_pool_work, and not ended */
	uint32_t workers_idle;		/**< asleep, or about to */
	uint32_t workers_coming;	/**< woken or being made, and not yet looking */
	uint32_t workers_running;	/**< in a task's function; also run_some's callers */
	uint32_t workers_peak;		/**< the most that were live at once */
	uint32_t workers_min, workers_max;
	int32_t workers_last_errno;	/**< of the last attempt that failed; 0: none has */
	/** How long the piece that runs for longest has run: of a cleanup queue at most, as its in_hand_ns; of other
	    tasks at least, since the first statistics that found it running, to which that is 0. */
	uint64_t longest_ns;
} cq_pool_stats_t;

/**
 * Writes the first `bytes` bytes of the statistics, the size that they have to the caller. What
 * this library doesn't know of them is zero. Takes a lock. Together with all but destroy.
 */
CQ_API void cq_pool_stats_sized(cq_pool_t *pool, cq_pool_stats_t *out, size_t bytes);

static inline void cq_pool_stats(cq_pool_t *pool, cq_pool_stats_t *out)
{
	cq_pool_stats_sized(pool, out, sizeof(*out));
}

CQ_END_DECLS

#endif /* CQ_POOL_STATS_H */
