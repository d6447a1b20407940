/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/sleepers.h - layer 2, the sleeper set: the parked threads of a pool, a count
 * of them that is read without the lock, and of those who are on their way back.
 *
 * It is what others call an event count. It closes the gap between "there is no work"
 * and "I am asleep", in which a wake-up is lost. It knows nothing of where the work lies.
 *
 * TO SLEEP  prepare_wait -> look for work AGAIN -> found: cancel_wait;
 *           not found: commit_wait parks.
 * TO WAKE   publish the work -> ensure or wake.
 * Either the second look sees the work, or the waker sees the sleeper. The fences
 * for that are inside these calls: a caller needs none.
 *
 * THE RULE: whoever returns from commit_wait, with whatever result, looks for work once
 * more before it leaves. A waker may have counted on it and woken nobody else.
 *
 * INVARIANT S1:  waiters >= listed sleepers,  at every instant.
 * INVARIANT S2:  on their way >= sleepers that a waker has taken and that have not yet
 * returned. Too low would lose a wake-up, and never happens. Whom a waker has only promised
 * to take isn't among them.
 *
 * CALLS THAT MAY RUN TOGETHER, on one set (- free, X the caller excludes it):
 *
 *                         init/destroy  prepare/cancel/commit  ensure/wake*  waiters  stop
 *     init/destroy             X                 X                  X           X      X
 *     all the others           X                 -                  -           -      -
 *
 * One sleeper is used by one thread at a time. One thread is prepared in any number of sets.
 *
 * LIFETIME: a sleeper belongs to the set from prepare_wait until cancel_wait or commit_wait
 * returns, whatever it returns, and not longer: the thread may then free it, or its
 * stack frame may end, even while its waker is still running.
 *
 * MEMORY ORDER: what a thread did before ensure, wake or waiters is seen by each sleeper that the call counted, as
 * waiting or on its way, when that looks after commit_wait; and by any other when it looks after its next prepare_wait.
 *
 * BLOCKING: commit_wait parks, with no lock held, so the park function of a table may
 * call the same set. commit_wait, and a waker that finds a waiter, take the set's lock for a
 * few dozen instructions; of many that ensure at once one does, as the others count on it.
 * Nothing allocates, nor changes errno (if a park table of the caller's doesn't).
 *
 * WHY NOT ck_ec, Concurrency Kit's event count: a wake there wakes all; its
 * single-producer mode can lose the flag of the waiters; it has no count of sleepers for
 * a producer to read, and no list, so nobody can wake the warmest, or one of them.
 *
 * Source: the sleep protocol of Go's cleanup goroutines (runtime/mcleanup.go
 * after golang/go#73642); event counts: Reed and Kanodia, 1979; the pattern of the
 * two fences is Dekker's.
 *
 * A waker that ensures one needs a chain, as below: whoever has taken work and sees more
 * left ensures the next, before it runs what it took. (Without one: ensure(units before + pushed).)
 *
 * Example:
 *
 *     static cq_workq_t q = CQ_WORKQ_INITIALIZER;
 *     static cq_sleepers_t idle = CQ_SLEEPERS_INITIALIZER;
 *
 *     void hand_over(cq_node_t *node)
 *     {
 *             cq_workq_push(&q, node);
 *             cq_sleepers_ensure(&idle, 1);
 *     }
 *
 *     cq_node_t *wait_for_node(cq_sleeper_t *me, uint64_t deadline)
 *     {
 *             cq_wait_result_t result = CQ_AGAIN;
 *             cq_node_t *node;
 *
 *             while ((node = cq_workq_try_pop(&q)) == NULL &&
 *                 result != CQ_STOPPED && result != CQ_TIMED_OUT) {
 *                     cq_sleepers_prepare_wait(&idle, me);
 *                     if ((node = cq_workq_try_pop(&q)) != NULL) {
 *                             cq_sleepers_cancel_wait(&idle, me);
 *                             break;
 *                     }
 *                     result = cq_sleepers_commit_wait(&idle, me, deadline);
 *             }
 *             if (node != NULL && cq_workq_units(&q) != 0)
 *                     cq_sleepers_ensure(&idle, 1);
 *             return node;
 *     }
 */
#ifndef CQ_SLEEPERS_H
#define CQ_SLEEPERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <cq/cc.h>
#include <cq/fork.h>
#include <cq/park.h>

CQ_BEGIN_DECLS

/** One thread that may sleep. Its fields are the library's. */
typedef struct cq_sleeper {
	struct cq_sleeper *next;	/**< in the list; under the set's lock */
	struct cq_sleeper **link;	/**< what points to it; NULL: it is not in the list */
	bool waits_long;		/**< its last wait was longer than spin_ns */
	uint32_t epoch;			/**< of the set, at prepare_wait */
	uint32_t cpu;			/**< where it ran when it was listed */
	cq_parker_t parker;
	uint64_t granted_at CQ_ALIGNED(8); /**< written by the waker, before the grant */
} cq_sleeper_t;

/** The set, of fewer than 2^26 sleepers. Its fields are the library's. */
typedef struct cq_sleepers {
	/** Waiters, prepared and listed, + 2^26 times those on their way, + 2^52 times those promised. */
	uint64_t counts CQ_ALIGNED(8);
	uint32_t epoch;			/**< written under the lock, read by anyone */
	uint32_t spin_ns;
	uint32_t stopped;		/**< under the lock, as what follows */
	cq_sleeper_t *newest;
	const cq_park_ops_t *ops;	/**< NULL: the default table */
	pthread_mutex_t lock;
	uint64_t woken CQ_ALIGNED(8);	/**< how many wakers have taken; read by anyone */
} cq_sleepers_t;

/*
 * CQ_SLEEPERS_INITIALIZER: an empty set on the default park table, without spinning.
 * CQ_SLEEPERS_INITIALIZER_WITH(OPS, SPIN_NS): as cq_sleepers_init makes it.
 */
#if defined(__cplusplus) && __cplusplus >= 201103L
/* A function, within which the zeros of PTHREAD_MUTEX_INITIALIZER are no warnings. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"
static inline constexpr cq_sleepers_t cq_sleepers_initializer(const cq_park_ops_t *ops,
    uint32_t spin_ns)
{
	return cq_sleepers_t{ 0, 0, spin_ns, 0, nullptr, ops, PTHREAD_MUTEX_INITIALIZER, 0 };
}
#pragma GCC diagnostic pop
#define CQ_SLEEPERS_INITIALIZER cq_sleepers_initializer(nullptr, 0)
#define CQ_SLEEPERS_INITIALIZER_WITH(ops, spin_ns) cq_sleepers_initializer((ops), (spin_ns))
#else
#define CQ_SLEEPERS_INITIALIZER CQ_SLEEPERS_INITIALIZER_WITH(NULL, 0)
#define CQ_SLEEPERS_INITIALIZER_WITH(ops, spin_ns)				\
	{ 0, 0, (spin_ns), 0, NULL, (ops), PTHREAD_MUTEX_INITIALIZER, 0 }
#endif

/** Why commit_wait returned. */
typedef enum cq_wait_result {
	CQ_WOKEN,	/**< a waker took this sleeper off the list, or cq_sleepers_wake_sleeper did */
	CQ_AGAIN,	/**< a waker came between prepare_wait and the list */
	CQ_TIMED_OUT,	/**< the deadline passed, and no waker had taken it */
	CQ_STOPPED	/**< cq_sleepers_stop: now or before */
} cq_wait_result_t;

/**
 * Makes an empty set that parks through `ops` (NULL: the default table), which
 * must outlive the set. A sleeper spins for up to `spin_ns` nanoseconds on its permit before it
 * parks, while its waits are that short: a waker then needs no system call. 0 is right
 * on one processor, and where work comes seldom. EINVAL: `set` is NULL, or a function is
 * missing from the table. Or the error of pthread_mutex_init.
 */
CQ_API CQ_MUST_CHECK int cq_sleepers_init(cq_sleepers_t *set, const cq_park_ops_t *ops,
    uint32_t spin_ns);

/** Ends a set. EBUSY: someone waits or is on the way; it is unchanged. EINVAL: NULL. */
CQ_API int cq_sleepers_destroy(cq_sleepers_t *set);

/** Makes a sleeper. `host` is for the park table (parker->host); NULL with the default table. Nothing ends a sleeper;
    one serves any number of waits, in any sets, one wait at a time. */
CQ_API void cq_sleeper_init(cq_sleeper_t *sleeper, void *host);

/**
 * The caller is about to sleep: from here on wakers count it. Takes no lock. One
 * cancel_wait or commit_wait of the same thread must follow; in between it looks for work,
 * for as long as it likes, and may call anything but fork().
 */
CQ_API void cq_sleepers_prepare_wait(cq_sleepers_t *set, cq_sleeper_t *sleeper);

/** It won't sleep: it has found work. Takes no lock. */
CQ_API void cq_sleepers_cancel_wait(cq_sleepers_t *set, cq_sleeper_t *sleeper);

/**
 * Sleeps until a waker takes this sleeper, or until `deadline` (absolute, nanoseconds,
 * on the clock of the set's table; CQ_FOREVER: none). Returns at once when a waker has come
 * since prepare_wait, or the set is stopped. A wake that raced with the deadline
 * is reported, never swallowed; CQ_WOKEN without a wake never happens. THE RULE above holds
 * for all four results. CQ_STOPPED may come instead of CQ_WOKEN or CQ_AGAIN.
 */
CQ_API cq_wait_result_t cq_sleepers_commit_wait(cq_sleepers_t *set, cq_sleeper_t *sleeper,
    uint64_t deadline);

/**
 * After work was published: at least `n` are on their way, or nobody is left to wake.
 * Wakes only those that are missing, and returns how many; whom another call is about to take
 * isn't missing. Most calls of a busy set are a fence and a load. `n` is how much work waits (what your own push returned, plus
 * what you pushed), or 1 where whoever takes work ensures the next (above). Work that others took
 * meanwhile costs a needless wake, never a lost one. One that is prepared, and not yet
 * listed, is made to look again (CQ_AGAIN), and is not counted.
 */
CQ_API uint32_t cq_sleepers_ensure(cq_sleepers_t *set, uint32_t n);

/**
 * Wakes up to `n` more, however many are already on their way; UINT32_MAX: all. Returns how many it took; with fewer
 * than n, who is prepared and not yet listed is made to look again, as by ensure. Of those listed it takes the
 * newest, whose stacks are warmest; or if n is 1, and one of the newest few slept on this CPU, that. A sleeper is woken by exactly one waker. Use ensure
 * for work, each unit of which one sleeper takes; wake(UINT32_MAX) for a state that all must see.
 */
CQ_API uint32_t cq_sleepers_wake(cq_sleepers_t *set, uint32_t n);

/**
 * Wakes this one, which exists (its thread can't have returned for good). False: it
 * wasn't listed; if it was prepared, commit_wait returns CQ_AGAIN.
 */
CQ_API bool cq_sleepers_wake_sleeper(cq_sleepers_t *set, cq_sleeper_t *sleeper);

/**
 * How many wait: full fence, then one load. Never too low for a caller that has
 * published work before it: zero means that every thread that goes to sleep will see the work.
 * `on_their_way` (or NULL): how many were woken and have not returned, at the same instant.
 */
CQ_API uint32_t cq_sleepers_waiters(cq_sleepers_t *set, uint32_t *on_their_way);

/** All commit_waits return, from now on and for ever: the end of a pool's workers. */
CQ_API void cq_sleepers_stop(cq_sleepers_t *set);

/**
 * fork() in a process with threads: see cq/fork.h. The child's set is empty, since its
 * sleepers are threads that it doesn't have. From CQ_FORK_PREPARE on the forking
 * thread holds the lock, and makes no other call on the set, nor does a fork handler.
 */
CQ_API void cq_sleepers_fork(cq_sleepers_t *set, cq_fork_phase_t phase);

CQ_END_DECLS

#endif /* CQ_SLEEPERS_H */
