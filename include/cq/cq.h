/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/cq.h - all of libcq. The layers, from below:
 *
 *   cq/park.h      how one thread parks and is unparked; the clock of deadlines
 *   cq/workq.h     layer 1, the work queue
 *   cq/sleepers.h  layer 2, the sleeper set (knows nothing of layer 1)
 *   cq/pool.h      layer 3, the worker pool: runs tasks on workers that come and go
 *   cq/cleanup.h   layer 4, the cleanup queue, one task of a pool
 *   cq/producer.h  who puts callbacks into a cleanup queue
 *   cq/fork.h, cq/pool_stats.h, cq/cleanup_stats.h
 */
#ifndef CQ_CQ_H
#define CQ_CQ_H

#include <cq/allocator.h>
#include <cq/cleanup.h>
#include <cq/cleanup_stats.h>
#include <cq/fork.h>
#include <cq/park.h>
#include <cq/pool.h>
#include <cq/pool_stats.h>
#include <cq/producer.h>
#include <cq/sleepers.h>
#include <cq/workq.h>

CQ_BEGIN_DECLS

/** The version of these headers; cq_version() is that of the library in use. */
#define CQ_VERSION_MAJOR 0
#define CQ_VERSION_MINOR 2
#define CQ_VERSION_PATCH 0
#define CQ_VERSION_STRING "0.2.0"

CQ_API const char *cq_version(void);

/** How the library in use was built. */
typedef struct cq_build {
	const char *pop;	/**< "dwcas" (two-word compare-and-swap) or "locked" */
	const char *park;	/**< "futex" or "condvar" */
	const char *barrier;	/**< "membarrier" or "fence" */
} cq_build_t;

CQ_API const cq_build_t *cq_build_info(void);

CQ_END_DECLS

#endif /* CQ_CQ_H */
