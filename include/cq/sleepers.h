/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/sleepers.h - layer 2, the sleeper set: the parked threads of a pool, and
 * a count of them that is read without the lock.
 *
 * It closes the gap between "there is no work" and "I am asleep", in which a
 * wake-up is lost. It knows nothing of where work comes from: the sleeper
 * brings a function that looks for work, the waker calls after publishing.
 *
 * INVARIANT S1:  asleep >= listed sleepers,  at every instant,
 * and equal whenever the lock is free. Too high costs a waker one useless
 * lock; too low would lose a wake-up, and never happens.
 *
 * TO SLEEP  announce (asleep + 1) -> full fence -> look for work AGAIN ->
 *           found: withdraw (asleep - 1);  not found: enter the list and park.
 * TO WAKE   publish the work -> full fence -> read asleep -> when it is not
 *           zero: lock, take sleepers off the list, unlock, unpark them.
 * Either the second look sees the work, or the waker sees the sleeper. Both
 * fences are inside these calls: a caller needs none.
 *
 * CALLS THAT MAY RUN TOGETHER, on one set (- free, X the caller excludes it):
 *
 *                          init/destroy  sleep  asleep  wake*
 *     init/destroy              X          X      X       X
 *     all the others            X          -      -       -
 *
 * One sleeper is used by one thread at a time.
 *
 * LIFETIME: a sleeper belongs to the set from sleep/commit until that call
 * returns, whatever it returns, and not longer: the thread may then free it,
 * or its stack frame may end, even while its waker is still running.
 *
 * MEMORY ORDER: all that a thread did before wake is visible to the sleepers
 * that this wake woke. All that it did before wake or asleep is visible to the
 * look of every sleeper that the call did not count.
 *
 * BLOCKING: sleep and commit park. announce, sleep, commit, and the wakes
 * take the set's lock for a few dozen instructions, plus the look, and one
 * unpark per sleeper woken, outside the lock. Nothing allocates, nor changes errno (if a
 * park table of the caller's and the look don't).
 *
 * Source: the sleep protocol of Go's cleanup goroutines (runtime/mcleanup.go
 * after golang/go#73642); the pattern of the two fences is Dekker's.
 *
 * Example:
 *
 *     static cq_workq_t q = CQ_WORKQ_INITIALIZER;
 *     static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER;
 *
 *     static bool take(void *arg)
 *     {
 *             return cq_workq_try_take_work((cq_workq_t *)arg);
 *     }
 *
 *     cq_node_t *wait_for_node(void)
 *     {
 *             cq_sleeper_t me;
 *
 *             cq_sleeper_init(&me, NULL);
 *             while (!cq_workq_try_take_work(&q))
 *                     if (cq_sleepers_sleep(&set, &me, take, &q, CQ_FOREVER) == CQ_WORK)
 *                             break;
 *             return cq_workq_pop_taken(&q);
 *     }
 *
 *     void hand_over(cq_node_t *node)
 *     {
 *             cq_workq_push(&q, node);
 *             cq_sleepers_wake(&set, 1);
 *     }
 */
#ifndef CQ_SLEEPERS_H
#define CQ_SLEEPERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <cq/cc.h>
#include <cq/park.h>

CQ_BEGIN_DECLS

/** One thread that may sleep. Its fields are the library's. */
typedef struct cq_sleeper {
	struct cq_sleeper *next, *prev;	/**< in the list; under the set's lock */
	bool listed;			/**< under the set's lock */
	cq_parker_t parker;
} cq_sleeper_t;

/** The set. Its fields are the library's. */
typedef struct cq_sleepers {
	pthread_mutex_t lock;
	cq_sleeper_t *newest;		/**< the list; under the lock */
	const cq_park_ops_t *ops;	/**< NULL: the default table */
	uint32_t asleep;		/**< written under the lock, read by anyone */
	uint64_t woken CQ_ALIGNED(8);	/**< ever; likewise */
} cq_sleepers_t;

#if defined(__cplusplus) && __cplusplus >= 201103L
/* A function, within which the zeros of PTHREAD_MUTEX_INITIALIZER are no warnings. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"
static inline constexpr cq_sleepers_t cq_sleepers_initializer()
{
	return cq_sleepers_t{ PTHREAD_MUTEX_INITIALIZER, nullptr, nullptr, 0, 0 };
}
#pragma GCC diagnostic pop
#define CQ_SLEEPERS_INITIALIZER cq_sleepers_initializer()
#else
#define CQ_SLEEPERS_INITIALIZER { PTHREAD_MUTEX_INITIALIZER, NULL, NULL, 0, 0 }
#endif

/** Why a sleep ended. */
typedef enum cq_sleep_result {
	CQ_WOKEN,	/**< a waker took this sleeper off the list */
	CQ_WORK,	/**< the look returned true; it was never listed */
	CQ_TIMED_OUT	/**< the deadline passed, and no waker had taken it */
} cq_sleep_result_t;

/**
 * A look for work. Called once, after the announcement, with the set's lock
 * held: keep it short, and call nothing of the same set in it. It may take the
 * work that it finds (cq_workq_try_take_work is the best look there is: then a
 * sleep that fails has taken a unit, and failed sleeps are bounded by the work
 * added, however many sleepers there are). It returns: no cancellation point in it (read,
 * printf, a wait: unless guarded by pthread_setcancelstate), no pthread_exit, no longjmp and
 * no exception. Whatever leaves it otherwise leaves the set locked, and all who wake hang.
 */
typedef bool cq_look_fn(void *arg);

/**
 * Makes an empty set that parks through `ops` (NULL: the default table), which
 * must outlive the set. EINVAL: `set` is NULL, or a function is missing from
 * the table. Or the error of pthread_mutex_init.
 */
CQ_API CQ_MUST_CHECK int cq_sleepers_init(cq_sleepers_t *set, const cq_park_ops_t *ops);

/** Ends a set. EBUSY: someone is announced or asleep; it is unchanged. EINVAL: NULL. */
CQ_API int cq_sleepers_destroy(cq_sleepers_t *set);

/** Makes a sleeper. `host` is for the park table (parker->host). */
CQ_API void cq_sleeper_init(cq_sleeper_t *sleeper, void *host);

/**
 * Sleeps until a wake, or until `deadline` (absolute, nanoseconds, on the
 * clock of the set's table; CQ_FOREVER: none), unless `look(arg)` finds work.
 * It never returns CQ_WOKEN without a wake that counted this sleeper, and a
 * wake that raced with the deadline is reported, never swallowed. A deadline
 * that has passed already still looks: CQ_WORK or CQ_TIMED_OUT.
 */
CQ_API cq_sleep_result_t cq_sleepers_sleep(cq_sleepers_t *set, cq_sleeper_t *sleeper,
    cq_look_fn *look, void *arg, uint64_t deadline);

/**
 * The same in steps, for callers whose look is not one function. announce
 * takes the set's lock and keeps it; between it and the one withdraw or commit
 * that must follow in the same thread, look for work, and call nothing of the
 * same set but asleep (a wake would deadlock). What holds for a look holds in between.
 * commit parks: CQ_WOKEN or CQ_TIMED_OUT.
 */
CQ_API void cq_sleepers_announce(cq_sleepers_t *set);
CQ_API void cq_sleepers_withdraw(cq_sleepers_t *set);
CQ_API cq_sleep_result_t cq_sleepers_commit(cq_sleepers_t *set, cq_sleeper_t *sleeper,
    uint64_t deadline);

/**
 * How many sleep or are about to: full fence, then one load. Never too low for
 * a caller that has published work before it: zero means that every thread
 * that goes to sleep will see the work.
 */
CQ_API uint32_t cq_sleepers_asleep(cq_sleepers_t *set);

/**
 * Wakes up to `n` sleepers, the newest first (its stack is warmest), and
 * returns how many. Begins with cq_sleepers_asleep(): when nobody sleeps it
 * costs a fence and a load. A sleeper is woken by exactly one wake.
 */
CQ_API uint32_t cq_sleepers_wake(cq_sleepers_t *set, uint32_t n);

/** Wakes all. */
CQ_API uint32_t cq_sleepers_wake_all(cq_sleepers_t *set);

/**
 * fork() in a process with threads: prepare before it (takes the lock), then
 * parent in the parent and child in the child. The child's set is empty, since
 * its sleepers are threads that it doesn't have. In between the forking thread, which holds
 * the lock, makes no other call on the set, nor does a fork handler.
 */
CQ_API void cq_sleepers_fork_prepare(cq_sleepers_t *set);
CQ_API void cq_sleepers_fork_parent(cq_sleepers_t *set);
CQ_API void cq_sleepers_fork_child(cq_sleepers_t *set);

CQ_END_DECLS

#endif /* CQ_SLEEPERS_H */
