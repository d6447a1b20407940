/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/pool.h - layer 3, the worker pool: threads that come and go, and run tasks.
 *
 * A task is whatever has work now and then: a queue, a job list, a cleaner of caches. Where
 * its work lies is its own business: a cq_workq_t, or a locked list where order or removal
 * matters. The task says "I have some" (signal), a worker calls its function, which takes
 * a piece and runs it. Many tasks share the workers of one pool, and take turns.
 *
 * INVARIANTS
 *   After a signal of a task that is open, its function is called once more at least, and
 *   the call begins after the signal did: it sees the work.
 *   Made workers <= workers_max. While fewer are made, one is idle, on its way or being
 *   made, so that a piece that hangs holds nothing else back.
 *   At most `parallel` runs of a task go on at once.
 *
 * A TASK'S FUNCTION takes a piece of its work, or several, asking cq_run_may_continue before each further one. It
 * says how many pieces are left (cq_run_more) BEFORE it runs one; then what it has in hand (cq_run_piece), and runs it:
 *
 *     static void run_jobs(cq_run_t *run, void *arg)
 *     {
 *             struct jobs *jobs = (struct jobs *)arg;
 *             cq_node_t *node;
 *
 *             while ((node = cq_workq_try_pop(&jobs->waiting)) != NULL) {
 *                     cq_run_more(run, cq_workq_units(&jobs->waiting));
 *                     cq_run_piece(run, node);
 *                     job_of(node)->function(job_of(node));
 *                     cq_run_piece(run, NULL);
 *                     if (!cq_run_may_continue(run))
 *                             break;
 *             }
 *     }
 *
 * (FIFO, and removal of one that waits: examples/jobs.c.)
 * It may return with work left only if cq_run_more said so in this run, or a signal came after the run began: many
 * signals may be answered by one run. It may be called when nothing is left, as others were faster. It may call
 * everything of the pool's and of other pools', but not wait for its own pool: EDEADLK. It returns on the thread
 * that called it. On a managed worker it may end its thread (pthread_exit, a cancellation): the piece in hand goes
 * to `lost`, and the worker is replaced, if one can be made. Elsewhere, and by an exception or a longjmp, nothing
 * may leave it.
 *
 * CALLS THAT MAY RUN TOGETHER: all, but destroy excludes all others on the pool, and the return
 * of close those on the task.
 *
 * MEMORY ORDER: all that a thread did before signal happens before the run that it caused. All that a run did
 * happens before the return of a close that waited for it.
 *
 * STALLED, in a list of errors, stands for: no worker lives and none can be made. signal then says so: EAGAIN if
 * the next attempt may succeed, or the error that it will meet again, such as EINVAL. What worker_start refuses
 * is known later: `stalled` is called, a drain says EAGAIN, and workers_last_errno (cq/pool_stats.h) why. What
 * has been signalled stays signalled; the next signal tries again.
 *
 * CANCELLATION: no call is a cancellation point but for what the task's function does. SIGNAL
 * HANDLERS call nothing of the pool. ERRORS are errno's values, returned; errno is kept. Handles
 * must not be NULL, unless the comment says so. (doc/ and examples/: in share/doc/cq, or the sources.)
 *
 * Source: the four rules by which workers are made and retire are those of Linux's
 * concurrency-managed workqueues; the two stacks that change places are libcq's own.
 */
#ifndef CQ_POOL_H
#define CQ_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cq/allocator.h>
#include <cq/cc.h>
#include <cq/fork.h>
#include <cq/park.h>

CQ_BEGIN_DECLS

typedef struct cq_pool cq_pool_t;
typedef struct cq_task cq_task_t;
typedef struct cq_run cq_run_t;	/* one call of a task's function, until it returns */

/**
 * How the host makes a worker (for flush_ns, first a clock, beyond workers_max: its body returns as the pool ends): run
 * body(arg) on a thread (or green thread) of its own, soon, once, and not from within spawn. Returns 0, and
 * then body must run even if the pool is being destroyed, which waits for it; or an error, and then
 * body isn't run. Called with no lock held by whoever signals, or by a worker. When destroy returns,
 * body may still be in its last instructions, which don't touch the pool: join it before dlclose.
 */
typedef int cq_spawn_fn(void *host, void (*body)(void *arg), void *arg);

#define CQ_POOL_POLLED 1u	/* a signal wakes nobody: the host asks needs_wake, and calls
				   wake or run_some */
#define CQ_POOL_HOSTED 2u	/* the pool makes no workers: those in cq_pool_work are its own */
#define CQ_POOL_NO_ATFORK 4u	/* no fork handlers for this pool's sake: see cq/fork.h */

#define CQ_WORKERS_MAX 65535u
#define CQ_POOL_SPIN_NS 3000
#define CQ_POOL_SPIN_NS_MAX 1000000
#define CQ_POOL_NO_SPIN (-1)

/** Zero in any field is the default. */
typedef struct cq_pool_config {
	uint32_t flags;
	/** So many are made by create, and never retire; a default maximum is no less. 0: the first signal
	    makes the first. */
	uint32_t workers_min;
	/** 0: a quarter of the CPUs that this process may use (affinity, cgroup), at least 1: so 1 below 8
	    CPUs, and then a piece that blocks holds back all others. Say 2 or more where pieces block. */
	uint32_t workers_max;
	/** A worker without work spins for so long before it parks. 0: 3 us; none with a
	    park table or on one CPU. */
	int32_t spin_ns;
	/** A worker above the minimum that found nothing for so long retires. 0: 30 s. */
	uint64_t idle_ns;
	/** The stack that a task has on a managed worker: 1 GiB at most, raised to the system's least. 0: 256 KiB. */
	size_t stack_bytes;
	/** Of managed threads, at most 15 bytes. NULL: "cq-worker". */
	const char *name;
	/** NULL: the library makes pthreads, "managed" workers, whose signals are blocked but for
	    those that a thread brings upon itself (doc/process.md). */
	cq_spawn_fn *spawn;
	/** On each managed thread before its first task, no lock held. Not 0, an errno: the
	    worker could not be made. */
	int (*worker_start)(void *host);
	/** After its last, once for each worker_start that returned 0, whatever ends it. */
	void (*worker_end)(void *host);
	void *host;			/**< for spawn, worker_start, worker_end */
	const cq_park_ops_t *park;	/**< NULL: the default. Must outlive the pool */
	const cq_allocator_t *allocator; /**< copied. NULL: malloc's family */
} cq_pool_config_t;

/** What a task is made of. It must outlive the task. */
typedef struct cq_task_ops {
	void (*run)(cq_run_t *run, void *arg);	/**< see above */
	/** What was in hand when its worker was lost: as the piece ended its thread, on that thread,
	    counted as a run; or in a forked child (cq_fork's CHILD: by the thread that forked, locks of
	    the task's own as they were at the fork, no call of the library but signal). NULL: nothing
	    is done. */
	void (*lost)(void *arg, void *piece);
	/** Nobody comes for tasks that wait: no worker could be made and none lives; or nobody serves a hosted pool, as
	    the last thread of the host's leaves it, or the task is signalled; or in a polled pool, at each signal of the
	    task, and as a run_some ends that leaves some. Whoever waits for a task's work then
	    calls cq_pool_wake again. Called before the signal that met it returns, by that thread or another,
	    with no lock of the pool's held. The task's close waits for it: wake, and return. Of a task CQ_BY_OWNER this
	    is the wake-up instead (signal says 0): once, and not again before its next run, but now and then for
	    nothing. Post an event; the owner takes it, then calls cq_task_run_some until that returns less than asked. */
	void (*stalled)(void *arg);
} cq_task_ops_t;

/**
 * Makes a pool from a config of `bytes` bytes, its size to the caller: what a shorter one lacks is zero, what a
 * longer one has more must be (E2BIG). It is copied, with its name. EINVAL: a field is outside its limits, a table
 * has gaps, `bytes` is 0, or `out` is NULL. ENOMEM; what pthread_mutex_init, pthread_atfork or, with workers_min,
 * pthread_create or worker_start say. Then nothing is left.
 */
CQ_API CQ_MUST_CHECK int cq_pool_create_sized(const cq_pool_config_t *config, size_t bytes,
    cq_pool_t **out);

/** Makes a pool. NULL: all defaults. */
static inline CQ_MUST_CHECK int cq_pool_create(const cq_pool_config_t *config, cq_pool_t **out)
{
	return cq_pool_create_sized(config, sizeof(*config), out);
}

/**
 * Ends the workers, waits for them, frees the pool. EBUSY: a task is open; nothing happened. ETIMEDOUT:
 * `deadline` (absolute, nanoseconds, the park table's clock) has passed; the workers end, call it again.
 * EDEADLK: from a run of this pool, or a fork handler.
 */
CQ_API int cq_pool_destroy(cq_pool_t *pool, uint64_t deadline);

/**
 * Changes the limits, at any time; 0 as max: the default, `min` at least. Makes workers up to `min`, and one if all
 * are at work. Those above `max` end after their run; it doesn't wait for that. EINVAL: min > max, out of range, or
 * min > 0 in a hosted pool; or the error of a worker that could not be made, and the limits are changed all the same
 * (ESHUTDOWN: the pool has ended: see cq_task_create). EDEADLK: from a fork handler.
 */
CQ_API int cq_pool_set_workers(cq_pool_t *pool, uint32_t min, uint32_t max);

/**
 * The calling thread is a worker, outside the limits: until destroy (0; at once, if the pool has ended) or the
 * deadline (ETIMEDOUT). `host` is for the park table. ENOMEM; EDEADLK: from a run of this pool, or a fork handler.
 */
CQ_API int cq_pool_work(cq_pool_t *pool, void *host, uint64_t deadline);

/** Runs up to `pieces` pieces of the tasks that wait, in the caller. Never sleeps. Returns how many. */
CQ_API size_t cq_pool_run_some(cq_pool_t *pool, size_t pieces);

/**
 * For a host that polls: does a task wait that nobody is on the way for, and would a wake change
 * that? A few loads while no task waits, else a fence or two and a few more; with flush_ns it may signal (cq/cleanup.h).
 */
CQ_API bool cq_pool_needs_wake(cq_pool_t *pool);

/**
 * Wakes or makes a worker, if it needs one. 0, or STALLED; EAGAIN too where tasks wait in a hosted
 * pool that nobody serves. Also for who waits for a task's work, before it sleeps.
 */
CQ_API int cq_pool_wake(cq_pool_t *pool);

/**
 * Makes a task that may be signalled from now on. At most `parallel` runs at once; 0: no limit;
 * CQ_BY_OWNER: no worker runs it, only cq_task_run_some, in any thread, in several also at once. ENOMEM; EINVAL: NULL,
 * or no run; ESHUTDOWN: the pool has ended, as a queue's own in its shutdown; EDEADLK: from a fork handler.
 */
#define CQ_BY_OWNER UINT32_MAX
CQ_API CQ_MUST_CHECK int cq_task_create(cq_pool_t *pool, const cq_task_ops_t *ops, void *arg,
    uint32_t parallel, cq_task_t **out);

/**
 * Says that the task has work, after that was added: a full fence comes first, so the caller needs
 * none. Wakes or makes a worker if nobody is on the way. 0, or STALLED (the work is signalled all
 * the same). Doesn't allocate, unless it makes the first worker. 0, and no run, if the task's close timed out.
 */
CQ_API int cq_task_signal(cq_task_t *task);

/**
 * No run begins after it; it waits for this task's runs, and for no other's. Then the task is gone,
 * whatever work it had. ETIMEDOUT: it stays closed, call it again. EDEADLK: from a run of this pool,
 * or a fork handler; nothing happened.
 */
CQ_API int cq_task_close(cq_task_t *task, uint64_t deadline);

/** Is the calling thread within a run of it? */
CQ_API bool cq_task_is_current(const cq_task_t *task);

/** Is it within a run of any of the pool's tasks? Whoever waits for one then waits for itself: EDEADLK. */
CQ_API bool cq_pool_is_current(const cq_pool_t *pool);

/** The pool's park table, for those who wait for its tasks: its clock is that of their deadlines. */
CQ_API const cq_park_ops_t *cq_pool_park(const cq_pool_t *pool);

/** Runs up to `pieces` pieces of this task in the caller, within its limit, signalled or not, also from within a
    run. Returns how many (more, if its function doesn't ask cq_run_may_continue); none of a closed task. */
CQ_API size_t cq_task_run_some(cq_task_t *task, size_t pieces);

/** My task has so many pieces more than the one that I am about to run: so that others come for them. 0 is
    nothing. Others may have taken some meanwhile. Wakes one, or at the first of a run two or more where there are
    many (UINT64_MAX, if nobody counts them); makes no worker. May be called with locks of the caller's held, as the
    next two. */
CQ_API void cq_run_more(cq_run_t *run, uint64_t pieces);

/** What is in hand, a pointer that is not NULL: for `lost`, the statistics, and run_some's count: cq_task_run_some
    ends at a call that had none, so a task that is run by that must call this. NULL when it has run, or before it
    frees itself; the return of the task's function says that too. */
CQ_API void cq_run_piece(cq_run_t *run, void *piece);

/** May I take another piece at once? Yes, while no other task waits, the worker is not above the maximum, and the
    caller of a run_some wants more. A function that takes several pieces asks before each. */
CQ_API bool cq_run_may_continue(cq_run_t *run);

CQ_END_DECLS

#endif /* CQ_POOL_H */
