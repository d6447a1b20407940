/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/park.h - how one thread parks and is unparked.
 *
 * Layer 2 (cq/sleepers.h) never blocks by itself. It asks a table of three
 * functions, so that a runtime with green threads parks its own kind of thread
 * and a test parks with a fake that checks. Without a table, the library's own
 * is used: futex on Linux, a condition variable elsewhere.
 *
 * Most programs need from here only the clock: deadlines everywhere in libcq
 * are absolute, in nanoseconds, on the clock that `now` of the table in use
 * reads. They are absolute because a wait that is interrupted or that wakes for
 * nothing goes on waiting, and must not start its time again.
 *
 * Memory order: all that a thread did before it called unpark is visible to the
 * thread whose cq_parker_granted() returned true for it.
 * None of these functions allocates (but the C library may, for the fork handlers
 * that the condition variables' table registers at its first park).
 */
#ifndef CQ_PARK_H
#define CQ_PARK_H

#include <stdbool.h>
#include <stdint.h>

#include <cq/cc.h>

CQ_BEGIN_DECLS

/** A deadline that never comes. */
#define CQ_FOREVER UINT64_MAX

/**
 * What a thread parks on: a permit, and the host's own name for the thread.
 * It lies inside a sleeper. Its memory ends when the sleeper's does, which may
 * be as soon as the permit is granted: see unpark below.
 */
typedef struct cq_parker {
	uint32_t permit;	/**< 0, granted, or parked: use the calls below */
	void *host;		/**< the host's thread; the library never reads it,
				   park may set it */
} cq_parker_t;

/** Has the permit been granted? Acquire. May be called by park only. */
CQ_API bool cq_parker_granted(const cq_parker_t *parker);

/** Grants the permit. Release. To be called by unpark only, exactly once. */
CQ_API void cq_parker_grant(cq_parker_t *parker);

/**
 * The table. `host` is the pointer that stands beside the functions.
 *
 * now     The time in nanoseconds on a clock that never goes back. May be
 *         called by any thread at any time.
 * park    Blocks the caller until its permit is granted or `deadline` has
 *         passed (CQ_FOREVER: no deadline). It may return early, for any reason
 *         or none: the library looks at the permit and the clock again.
 *         Called with no lock of the library held. It must not end the thread:
 *         a cancellation point in it is to be guarded (pthread_setcancelstate).
 * unpark  Must grant the permit with cq_parker_grant() and make the park that
 *         is under way, if one is, return. Called once for each sleeper that a
 *         wake has taken, by the waker, with no lock of the library held.
 *         From the moment of the grant the parked thread may return and free
 *         the parker: read parker->host before it, and use the parker afterwards
 *         as an address only, unless a lock of your own, which park takes
 *         before it returns, holds the thread back. The same goes for what
 *         parker->host points to: a semaphore on the sleeper's stack is gone.
 */
typedef struct cq_park_ops {
	uint64_t (*now)(void *host);
	void (*park)(void *host, cq_parker_t *parker, uint64_t deadline);
	void (*unpark)(void *host, cq_parker_t *parker);
	void *host;
} cq_park_ops_t;

/** The table of this build: see cq_build_info (cq/cq.h). */
CQ_API const cq_park_ops_t *cq_park_default(void);

/** The time of the default table: nanoseconds on CLOCK_MONOTONIC. */
CQ_API uint64_t cq_now(void);

/**
 * The deadline `ns` nanoseconds from now on the clock of the default table (with
 * your own: its now(host) + ns); CQ_FOREVER when the sum is too large.
 */
static inline uint64_t cq_deadline_in(uint64_t ns)
{
	uint64_t now = cq_now();

	return now > CQ_FOREVER - ns ? CQ_FOREVER : now + ns;
}

CQ_END_DECLS

#endif /* CQ_PARK_H */
