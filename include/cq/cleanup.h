/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/cleanup.h - layer 3, the cleanup queue: callbacks that hot threads
 * enqueue in blocks, and that background workers, made on demand, run.
 *
 * A hot thread has a producer, and writes callbacks into the producer's block:
 * two stores and a count, no lock, no atomic read-modify-write. A full block is
 * published at once; a partial one by a flush. Publishing wakes a sleeping
 * worker or makes a new one, up to a cap, as far as the work asks for it.
 *
 * INVARIANTS
 *   executed <= queued,  and every callback that enqueue accepted runs exactly
 *   once, or is handed back exactly once by a shutdown.
 *   live workers <= max_workers; while published work waits, a worker is
 *   running, woken or asked for, or the queue is stalled (see below) and says so.
 *
 * CALLS THAT MAY RUN TOGETHER, on one queue (- free, X the caller excludes it):
 *
 *                        destroy trim  enqueue* attach  flush_all worker* the
 *                                      span     detach  drain     run_*   others
 *                                      commit           shutdown
 *                                      reserve
 *                                      flush
 *     destroy               X      X      X       X        X        X       X
 *     trim                  X      X      X       X        X        X       -
 *     all the others        X      X      -       -        -        -       -
 *
 * One producer, and one worker handle, is used by one thread at a time; it may
 * pass from thread to thread if the program orders the passing.
 *
 * MEMORY ORDER: all that a thread did before enqueue happens before the
 * callback runs. All that a callback did happens before the return of the
 * drain or shutdown that waited for it.
 *
 * STALLED: when no worker exists and none can be made (pthread_create or
 * `spawn` failed), the work stays queued and the next wake tries again.
 * flush, flush_all, wake and drain then return EAGAIN if the next attempt may succeed (the
 * error was EAGAIN or ENOMEM), and cq_cleanup_stalled() is true. What the next attempt will
 * meet again they return as it is: EINVAL or EPERM of pthread_create, what else `spawn` said,
 * ECANCELED for a worker_start that ended its thread. But not what means something else in
 * these calls (ETIMEDOUT, EDEADLK, ESHUTDOWN): that is EAGAIN, as is all of it for shutdown.
 * The statistics have the last error as it was, also while other workers live.
 * enqueue returns 0 all the same, because
 * anything else would have to mean that the callback was not accepted.
 * A caller that cannot wait may run the work itself: cq_cleanup_run_some. A worker
 * handle that the host attached counts as a worker, whether it dequeues or not.
 *
 * CALLBACKS run on a worker, never in a call of a producer. They may enqueue (spans
 * too), reserve, flush, attach and detach producers, run_some, and ask for statistics.
 * They may not drain, shut down or work for their own queue: EDEADLK; nor dequeue
 * from it. They return on the thread that called them; green threads may take turns within
 * callbacks on one thread, which then counts as in all of them. (With musl, or built without
 * -fexceptions, such a thread must not end by pthread_exit or cancellation: these
 * follow a list of what lay on the stacks of green threads.) A green thread that may
 * move to another thread within a callback takes the callbacks with cq_block_next
 * and calls them itself (then EDEADLK is not noticed). A callback must not wait for
 * another one of its queue: that may lie behind it in the same block, which is one
 * worker's, however many others there are. (What is enqueued to another queue may be waited for.)
 *
 * A CALLBACK THAT ENDS ITS THREAD (pthread_exit, or a cancellation that acts in it)
 * costs that thread and no other callback. It counts as run. A worker (the queue's,
 * or a thread in cq_cleanup_work) leaves as one that retires, the rest of its block is
 * queued again, and another is woken or made for it; run_some ends likewise. A handle
 * stays attached, to be detached by another thread or a cleanup handler of the host's:
 * cq_worker_run has given its block back by then, otherwise detach does. A callback on a
 * green thread must not end the thread that others run on. An exception or a longjmp must
 * not leave a callback: nothing is put in order then. (In C++ pthread_exit and
 * cancellation run destructors; catch (...) must throw them on.)
 *
 * CANCELLATION acts in callbacks and give_back only: the rest of the library is no
 * cancellation point, and a thread that sleeps in it sleeps on. The host's functions
 * (allocator, park table, spawn) must not be cancellation points either, nor end the
 * thread. No call may be made with asynchronous cancelling in force. A managed worker
 * can't be cancelled, unless a callback allows it.
 *
 * SIGNAL HANDLERS call nothing but cq_now and cq_deadline_in; enqueue neither, as the
 * interrupted thread may be within one, or hold a lock. They write to a pipe or post a
 * semaphore, and a thread that waits for that enqueues. Nor do they call fork(), whose
 * handlers take locks that the interrupted thread may hold: _Fork, vfork, posix_spawn.
 *
 * ERRORS are errno's values, returned; 0 is success. No call changes errno, whatever the
 * callbacks that it runs do, or the allocator or spawn (a park table keeps it itself); each
 * callback finds what the one before it left. A call that fails has done
 * nothing, unless its comment says more. Handles must not be NULL, unless the
 * comment says so.
 *
 * Source: the cleanup queue of Go's runtime (runtime/mcleanup.go after
 * golang/go#73642). doc/protocol says where this one goes another way.
 *
 * Example:
 *
 *     static void close_it(void *arg)
 *     {
 *             close((int)(intptr_t)arg);
 *     }
 *
 *     int close_in_background(int fd)
 *     {
 *             cq_cleanup_t *q;
 *             cq_producer_t *p;
 *             int err = cq_cleanup_create(NULL, &q);
 *
 *             if (err != 0)
 *                     return err;
 *             if ((err = cq_producer_attach(q, &p)) == 0) {
 *                     err = cq_producer_enqueue(p, close_it, (void *)(intptr_t)fd);
 *                     cq_producer_detach(p);
 *             }
 *             cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL);
 *             cq_cleanup_destroy(q);
 *             return err;
 *     }
 */
#ifndef CQ_CLEANUP_H
#define CQ_CLEANUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cq/allocator.h>
#include <cq/cc.h>
#include <cq/park.h>
#include <cq/pool.h>

CQ_BEGIN_DECLS

typedef struct cq_cleanup cq_cleanup_t;	  /* a queue */
typedef struct cq_producer cq_producer_t; /* who enqueues: one per hot thread */
typedef struct cq_worker cq_worker_t;	  /* who dequeues, when the host does it itself */
typedef struct cq_block cq_block_t;	  /* some callbacks, dequeued */

/** A callback. It belongs to the queue from enqueue until it runs or is handed back. */
typedef void cq_callback_fn(void *arg);

/* ------------------------------------------------------------------ making */

/**
 * What a host wants of each worker thread that the library makes: worker_start(host)
 * is called on it before its first callback, worker_end(host) after its last. To
 * register the thread with a collector, unblock signals, name it, bind it, give it a
 * priority or a floating-point mode. Both run as callbacks do, without a lock: they may
 * call what those may. One worker_end for each worker_start that has returned, whatever ends
 * the worker: the idle limit, a shutdown, or a callback that ends its thread. A worker_start
 * that ends its thread makes that a worker that could not be made (STALLED), without a
 * worker_end. A shutdown returns after the last worker_end; the cap doesn't count a worker in
 * its worker_end. In a forked child the thread that goes on isn't started again, and has
 * its worker_end there; nobody else has. exit(3) calls none. Nor does the library on threads
 * of the host: those of `spawn`, in cq_cleanup_work, or in run_some. The allocator is called
 * on the thread before the one and after the other, too.
 */
typedef void cq_worker_hook_fn(void *host);

/* Macros, so that they have the types of their fields in C and in C++ alike. */
#define CQ_MAX_WORKERS 65535u
#define CQ_BLOCK_BYTES_DEFAULT 4096u
#if UINTPTR_MAX > UINT32_MAX
#define CQ_BLOCK_BYTES_MIN 64u	/* room for two callbacks */
#else
#define CQ_BLOCK_BYTES_MIN 40u
#endif
#define CQ_BLOCK_BYTES_MAX 65536u
#define CQ_SPIN_NS_DEFAULT 3000
#define CQ_SPIN_NS_MAX 1000000
#define CQ_NO_SPIN (-1)

/**
 * config.flags, or-ed together.
 *
 * CQ_POLLED        Enqueue and flush never wake or make a worker: the host asks
 *                  needs_wake, and calls cq_cleanup_wake or run_some. Without `spawn`, while
 *                  no worker is attached or in cq_cleanup_work and no thread in run_some,
 *                  drain and shutdown don't wait for one that may come: EAGAIN.
 * CQ_HANDOVER      Partial blocks go to idle workers without a flush (while there is
 *                  memory for it, and not stalled: what is enqueued then waits for the
 *                  next enqueue or flush), when they have polled: spin_ns. Where there
 *                  is membarrier(2) an enqueue costs no more for it while all are busy.
 * CQ_FORK_DISCARD  A forked child drops what was queued, instead of keeping it.
 * CQ_NO_ATFORK     fork() leaves the queue alone: who forks calls the three fork functions, or
 *                  does nothing with the queue in the child but exec or _exit.
 */
#define CQ_POLLED 1u
#define CQ_HANDOVER 2u
#define CQ_FORK_DISCARD 8u
#define CQ_NO_ATFORK 32u

/**
 * SIGNALS. A thread that the library makes blocks all signals, so that they go to threads
 * of the program, but never those that a thread brings upon itself: SIGSEGV, SIGBUS,
 * SIGFPE, SIGILL, SIGTRAP and SIGSYS, whose handlers run on the worker. Nor SIGABRT,
 * SIGPROF and SIGVTALRM, unless the thread that made the queue had blocked them: a
 * program that takes one by sigwait or signalfd goes on doing so. Which thread made the worker
 * doesn't matter. worker_start may unblock more, as a collector needs that stops threads by a
 * signal. A process that a callback starts inherits the mask, and holds SIGTERM back, unless
 * the callback says otherwise (posix_spawnattr_setsigmask with POSIX_SPAWN_SETSIGMASK,
 * or pthread_sigmask between fork and exec) or worker_start has cleared it for all.
 *
 * INHERITANCE. Which thread makes a worker is chance: whoever flushes first. On Linux
 * the worker leaves SCHED_FIFO, SCHED_RR and a negative nice for SCHED_OTHER and 0, and
 * may run on the processors that the thread which made the queue could use, with its timer
 * slack; as far as it may. (SCHED_BATCH, SCHED_IDLE and a positive nice stay.) All else
 * it has of the thread that makes it, for life: credentials and the file-system user, seccomp,
 * namespaces, memory and I/O policy, the floating-point mode. worker_start is the place
 * to set what a host wants otherwise; spawn, to make threads in its own way. doc/process.md
 * has the whole of it, with examples.
 *
 * WHAT ENDS WITH A THREAD ends when a worker retires, though the process lives: above all the
 * parent-death signal (PR_SET_PDEATHSIG) of a process that a callback started is sent then.
 * So end its io_uring requests, timers by SIGEV_THREAD_ID, ptrace attachments, robust mutexes
 * and thread-specific values. idle_ns CQ_FOREVER keeps workers until the shutdown.
 *
 * WHO PAYS. flush, and an enqueue that fills a block, may call pthread_create, which calls
 * malloc: not for use within an allocator or with its locks held. There, CQ_POLLED, and
 * another thread that wakes or runs it; then neither allocates but for blocks (reserve).
 *
 * All fields may be zero, which means the default. NULL for the whole: the same. A later
 * version may have more fields, at the end: see cq_cleanup_create_sized.
 *
 * max_workers  The cap, 1 .. CQ_MAX_WORKERS. 0: max(processors / 4, 1), of those that
 *              the calling thread may use: on Linux its affinity mask, and no more
 *              than the processors' time that the process's cgroups allow
 *              (cpu.max, or cpu.cfs_quota_us), rounded up, read once. In a
 *              CQ_POLLED queue without `spawn` there is no cap, as the queue
 *              makes no worker.
 * block_bytes  A block's size, CQ_BLOCK_BYTES_MIN .. MAX, rounded down to whole
 *              callbacks. 0: 4096, which holds 254 on 64-bit machines. Larger
 *              blocks cost fewer hand-overs; smaller ones spread the same
 *              callbacks over more workers, and wait less long for a flush.
 *              A producer that has filled a block of 1024 bytes or more with one
 *              function goes on with blocks of that function alone, which hold
 *              nearly twice as many (507); the first other function ends one early.
 *              (Spans don't count, and not while a reservation is outstanding.)
 * idle_ns      A worker that has found nothing for so long retires. 0: 30 s;
 *              CQ_FOREVER: never, as is right for callbacks that start processes
 *              with PR_SET_PDEATHSIG, which would get the signal as it
 *              retires. Its cost is a wake-up and a new thread later.
 * spin_ns      A worker polls for so long before it sleeps, as long as the last
 *              sleeps of its own were shorter than that. 0: 3 us, but none with
 *              a `park` table, on a single processor, nor with CQ_HANDOVER: a
 *              worker that polls doesn't see partial blocks yet. At most
 *              CQ_SPIN_NS_MAX; CQ_NO_SPIN: never.
 * stack_bytes  The stack that a callback has on a managed worker. 0: 256 KiB. Raised to
 *              16 KiB, and to the system's minimum. The library asks for more: what the
 *              C library takes off for the program's static thread-local storage,
 *              and some for itself. One that no thread can have stalls the queue.
 * name         Of managed worker threads, at most 15 bytes. NULL: "cq-cleanup".
 * spawn        Makes workers. NULL: the library makes pthreads (in a CQ_POLLED queue:
 *              no workers are made), with signals blocked: see below.
 * host         For spawn, worker_start and worker_end.
 * park         How workers, drain and shutdown park. Must outlive the queue. In it
 *              parker->host is NULL, but for cq_worker_attach: park may set it.
 * allocator    Copied. NULL: malloc's family.
 * worker_start, worker_end  See cq_worker_hook_fn. NULL: nothing is called.
 */
typedef struct cq_cleanup_config {
	uint32_t flags;
	uint32_t max_workers;
	size_t block_bytes;
	uint64_t idle_ns;
	int32_t spin_ns;
	size_t stack_bytes;
	const char *name;
	cq_spawn_fn *spawn;
	void *host;
	const cq_park_ops_t *park;
	const cq_allocator_t *allocator;
	cq_worker_hook_fn *worker_start;
	cq_worker_hook_fn *worker_end;
} cq_cleanup_config_t;

/**
 * Makes a queue, as cq_cleanup_create, from a config of `bytes` bytes: its size to the caller,
 * so that a program and a library of different versions understand each other. What a
 * shorter config lacks is zero. What a longer one has more must be zero, or else E2BIG: it
 * asks for what this library doesn't know. EINVAL: 0 bytes. (Of these two, and of the two for
 * statistics, the library exports the sized ones: other languages and dlsym call those.)
 */
CQ_API CQ_MUST_CHECK int cq_cleanup_create_sized(const cq_cleanup_config_t *config,
    size_t bytes, cq_cleanup_t **out);

/**
 * Makes a queue, without workers. EINVAL, and nothing was allocated: a field is
 * outside its limits, a function is missing from a table, or `out` is NULL; EINVAL
 * too when the allocator's memory is misaligned. ENOMEM; what pthread_mutex_init or
 * pthread_atfork says. Takes a lock of the process's, and one of the dynamic linker's: a
 * constructor in dlopen may call it, but not wait for a thread that does. The first queue
 * of a process is made while no other thread forks.
 */
static inline CQ_MUST_CHECK int cq_cleanup_create(const cq_cleanup_config_t *config,
    cq_cleanup_t **out)
{
	return cq_cleanup_create_sized(config, sizeof(*config), out);
}

/**
 * Frees a queue and all its memory. EBUSY, and nothing happened: a producer or
 * worker is attached, a worker thread lives, or callbacks are left: shut it
 * down first. A queue that never had a worker and is empty may be destroyed
 * at once. NULL: 0.
 */
CQ_API int cq_cleanup_destroy(cq_cleanup_t *q);

/* --------------------------------------------------------------- producers */

/** Attaches a producer. Takes a lock. ENOMEM; ESHUTDOWN. */
CQ_API CQ_MUST_CHECK int cq_producer_attach(cq_cleanup_t *q, cq_producer_t **out);

/**
 * Publishes what is left in the producer's block and frees the producer. After
 * a shutdown its block is empty. May take a lock and wake. Cannot fail; NULL is
 * nothing. Good in the destructor of a thread-specific key.
 */
CQ_API void cq_producer_detach(cq_producer_t *p);

/**
 * Enqueues fn(arg). 0: accepted; it becomes visible to workers when the block
 * is full (or ends early, before another function: see block_bytes), at the next
 * flush, or (CQ_HANDOVER) as soon as a worker is idle.
 * EINVAL: fn is NULL; ENOMEM: a block was needed and could not be had;
 * ESHUTDOWN: the queue is closed. After an error the callback is still the
 * caller's. Allocates at most one block; wakes or makes workers when it has
 * filled or ended one (never in a CQ_POLLED queue).
 */
CQ_API CQ_MUST_CHECK int cq_producer_enqueue(cq_producer_t *p, cq_callback_fn *fn, void *arg);

/** A callback, as it lies in a block. */
typedef struct cq_callback {
	cq_callback_fn *fn;
	void *arg;
} cq_callback_t;

/**
 * Enqueues many at once, without a call for each:
 *
 *     cq_producer_span(p, &slots, &n);          the next n slots, 1 or more
 *     slots[0 .. k-1] = { fn, arg }             the caller's, k <= n, no fn NULL
 *     cq_producer_commit(p, k, &accepted);      as k calls of enqueue
 *
 * The slots are the rest of the producer's block (reserve says nothing of n). They
 * are the caller's until its next call on this producer, which is the commit, once:
 * what is not committed then was never there. No flush_all takes them before; one may
 * read a slot while the caller writes it, and forgets what it read (a race to
 * ThreadSanitizer, unless the slots are written with relaxed atomic stores).
 *
 * span: 0; ENOMEM: a block was needed and could not be had; ESHUTDOWN; EINVAL: NULL.
 * commit: 0, and all k are accepted; ESHUTDOWN: the first *accepted of them are,
 * which may be none, and the others are still the caller's; EINVAL, and nothing
 * is accepted: `accepted` is NULL, or k is more than the span had (which has none
 * after a commit or an enqueue). A checking build asserts that no fn is NULL. Both
 * wake as enqueue does: a span ends a block that is for one function.
 */
CQ_API CQ_MUST_CHECK int cq_producer_span(cq_producer_t *p, cq_callback_t **slots, size_t *n);
CQ_API CQ_MUST_CHECK int cq_producer_commit(cq_producer_t *p, size_t k, size_t *accepted);

/**
 * Sets blocks aside so that the next `n` enqueues of this producer cannot fail
 * for want of memory. Not cumulative: it is "n from now". ENOMEM: fewer could
 * be had (those stay in the queue's pool), and the earlier reservation stands.
 * EINVAL: n is absurd (its blocks would not fit the address space); ESHUTDOWN.
 */
CQ_API CQ_MUST_CHECK int cq_producer_reserve(cq_producer_t *p, size_t n);

/**
 * Publishes the producer's partial block. 0, also when it was empty; EAGAIN:
 * published, but STALLED (or why); ENOMEM: not published, since a block that the
 * reservation needs could not be had.
 */
CQ_API int cq_producer_flush(cq_producer_t *p);

/**
 * Publishes the partial blocks of all producers, from any thread, while they go
 * on enqueuing. Callbacks are first moved together into as few blocks as hold
 * them, so that the number of blocks is the demand for workers. It covers every
 * enqueue that happened before the call, and follows none that is made meanwhile; a
 * full block that its owner is just publishing may follow a moment later (drain waits for
 * those). 0; EAGAIN: published, but STALLED (or why);
 * ENOMEM: some are still with their producers, unchanged.
 */
CQ_API int cq_cleanup_flush_all(cq_cleanup_t *q);

/* ------------------------------------------------------------------- waking */

/**
 * Is there work that no worker has been woken or asked for, and someone to wake
 * or a worker to make? False when a wake could do nothing. For a host that polls:
 * two loads when there is no work, a handful of loads at most, no fence.
 */
CQ_API bool cq_cleanup_needs_wake(cq_cleanup_t *q);

/**
 * Wakes sleepers and makes workers, as many as there are units of work (blocks)
 * not yet spoken for. 0; EAGAIN: STALLED (or why). Publishing calls it by itself, but in
 * a CQ_POLLED queue.
 */
CQ_API int cq_cleanup_wake(cq_cleanup_t *q);

/** Work is published, no worker exists, and making one has failed since the last one left. */
CQ_API bool cq_cleanup_stalled(cq_cleanup_t *q);

/** Blocks that are published and not yet taken: 0 means that run_some would find nothing. */
CQ_API uint64_t cq_cleanup_units(cq_cleanup_t *q);

/* ----------------------------------------------------------------- workers */

/**
 * For hosts that run workers themselves.
 *
 * run_some runs up to `budget` callbacks in the calling thread and returns how
 * many; it never sleeps. A block that the budget does not cover goes back.
 *
 * work makes the calling thread a worker, outside the cap, until the queue is
 * shut down (0) or the idle limit has passed (ETIMEDOUT). ENOMEM: it could not
 * start; ESHUTDOWN: the queue has stopped; EDEADLK: from a callback.
 */
CQ_API size_t cq_cleanup_run_some(cq_cleanup_t *q, size_t budget);
CQ_API int cq_cleanup_work(cq_cleanup_t *q);

/**
 * The same in pieces. A worker handle counts as a live worker, outside the cap; a
 * shutdown waits until it is detached. It has one block in hand at most: finish
 * (or run) it before the next dequeue. attach: ENOMEM; ESHUTDOWN; EINVAL: NULL.
 *
 * dequeue    Waits for a block. NULL only when the queue has been shut down (or, as
 *            from try_dequeue, when the handle has a block in hand).
 *            It parks through config.park with `host` as parker->host.
 * try_dequeue  NULL when there is none.
 * run        Runs the block's callbacks and gives the block back to the queue.
 * next       For a host that calls by itself: the next callback of the block, or
 *            false when there is none. It counts as run from here.
 * finish     Gives a block back, at any time: what next has not given out is
 *            queued again. detach does the same to a block in hand; NULL is nothing.
 */
CQ_API CQ_MUST_CHECK int cq_worker_attach(cq_cleanup_t *q, void *host, cq_worker_t **out);
CQ_API void cq_worker_detach(cq_worker_t *w);
CQ_API CQ_MUST_CHECK cq_block_t *cq_worker_dequeue(cq_worker_t *w);
CQ_API CQ_MUST_CHECK cq_block_t *cq_worker_try_dequeue(cq_worker_t *w);
CQ_API void cq_worker_run(cq_worker_t *w, cq_block_t *block);
CQ_API bool cq_block_next(cq_block_t *block, cq_callback_fn **fn, void **arg);
CQ_API void cq_worker_finish(cq_worker_t *w, cq_block_t *block);

/* ---------------------------------------------------------- drain, shutdown */

/**
 * Flushes all producers, then waits until every callback whose enqueue happened
 * before the call has run, however many are enqueued meanwhile. Sleeps; the
 * last worker wakes it. ETIMEDOUT: `deadline` (absolute, cf. cq/park.h) passed;
 * EDEADLK: called from a callback or give_back of this queue; EAGAIN: STALLED (or why); ENOMEM: the
 * flush failed; ESHUTDOWN: a shutdown has stopped the workers with work left. In a
 * CQ_POLLED queue it wakes parked workers once, as it begins; while it sleeps the host must
 * go on waking for the work. EAGAIN there too: something is left, and nobody can run
 * it (see CQ_POLLED), now or when the last worker or run_some has left:
 *
 *     while ((err = cq_cleanup_drain(q, CQ_FOREVER)) == EAGAIN)
 *             cq_cleanup_run_some(q, SIZE_MAX);
 *
 * It runs nothing itself, as the caller may hold locks that callbacks take. Not to be
 * called by a thread that holds a worker handle: it would wait for itself.
 */
CQ_API int cq_cleanup_drain(cq_cleanup_t *q, uint64_t deadline);

typedef enum cq_shutdown_how {
	CQ_SHUTDOWN_DRAIN,	/**< run all that was accepted, then stop */
	CQ_SHUTDOWN_HAND_BACK	/**< let running callbacks return, and give back the rest */
} cq_shutdown_how_t;

/** Gets one callback that did not run, which is the caller's again. */
typedef void cq_give_back_fn(void *ctx, cq_callback_fn *fn, void *arg);

/**
 * Closes the queue (enqueue and commit return ESHUTDOWN, to callbacks as well), drains it
 * or stops it, and waits until all workers have ended and the host's handles are
 * detached: not to be called by a thread that holds one. An enqueue that runs
 * meanwhile is refused, or accepted and covered: never lost. The producers stay
 * attached, to be detached by their owners.
 *
 * HAND_BACK calls give_back(ctx, fn, arg) in the calling thread, with no lock
 * held, for each callback that was accepted and did not run. With DRAIN it may
 * be NULL. DRAIN waits as cq_cleanup_drain does. EAGAIN: stalled, or nobody can run what
 * is left: run it with cq_cleanup_run_some and call it again, or hand back.
 *
 * 0: the queue is shut down, now or by an earlier call. ETIMEDOUT:
 * `deadline` passed, and the queue stays closed: after DRAIN its workers go on,
 * after HAND_BACK they end as soon as their callbacks return, and what is left can
 * only be handed back. Shutdown may be called again. EAGAIN (for any reason), ENOMEM:
 * likewise. EDEADLK: from a callback of this queue, or from give_back. EALREADY:
 * another thread is at it. EINVAL: no give_back, and HAND_BACK, or callbacks left by
 * an earlier HAND_BACK. If give_back ends its thread, what it was given is the
 * caller's, and another thread may call shutdown again.
 *
 * Not with CQ_FOREVER in a destructor that dlclose runs: a callback that needs the dynamic
 * linker (dlopen, dlsym, a pthread_exit that loads the unwinder) waits for the destructor. With
 * a deadline it returns, and the callbacks' code must stay in memory. (The deadline doesn't bound
 * the destructors of thread-specific keys on the worker threads, which are joined.)
 */
CQ_API int cq_cleanup_shutdown(cq_cleanup_t *q, cq_shutdown_how_t how,
    uint64_t deadline, cq_give_back_fn *give_back, void *ctx);

/**
 * Frees the blocks that nobody uses; *freed_bytes, if not NULL: how many bytes. The caller
 * excludes producers and run_*; parked workers and idle handles may stay. EBUSY: a
 * worker has a block, was woken or polls (spin_ns), as it does for a moment after a
 * drain; work is waiting, or a shutdown is under way. The allocator may keep what it is given
 * back: malloc's does, and the process stays as large (unless malloc_trim(3) finds
 * whole pages). One that unmaps: examples/hugepages.c.
 */
CQ_API int cq_cleanup_trim(cq_cleanup_t *q, size_t *freed_bytes);

/* -------------------------------------------------------------------- fork */

/**
 * FORK. A queue goes on in a child that fork() makes, without a call: the first one made
 * registers handlers for all by pthread_atfork. (daemon() and forkpty() run them. posix_spawn,
 * vfork, _Fork and clone don't: in a child of these call nothing of the library.)
 *
 * The child has no workers and makes new ones at its next wake. It has every
 * callback that was accepted and not begun, each in both processes; one that was
 * running is the parent's alone. With CQ_FORK_DISCARD the child's queue is empty.
 * The handlers cost a fork a walk of all blocks ever made and not trimmed, in the child: trim,
 * posix_spawn or CQ_NO_ATFORK where that matters.
 * Producers stay attached; those whose threads the child doesn't have should be
 * detached there, which publishes their blocks. Worker handles are freed in the
 * child (don't detach them there), and the forking thread must not hold a dequeued
 * block, unless it is in a callback that cq_worker_run or the library called: that
 * goes on in the child (in a managed worker with its signals blocked still), unless
 * the callback calls exec or _exit. EDEADLK holds there too: a child of a callback can't
 * drain that queue on the same thread. Nobody joins that thread in the child: it may be
 * in its last instructions when a shutdown returns there.
 *
 * LOCKS. The queue's are held from prepare to parent or child, so they have a place in the
 * order of the program's locks: who calls the queue with a lock of his own held, and has
 * fork handlers for that lock, registers these after the first queue of the process was
 * made. (Prepare handlers run from the last registered to the first: his lock is taken
 * first there as well.) A library that gets its queue from elsewhere makes one of its own
 * before, and may destroy it at once. The other way round for an allocator with fork
 * handlers: they are registered before the first queue is made, as some calls allocate with
 * a lock held, and the child frees memory. So are those of a `park` table.
 *
 * HANDLERS OF OTHERS that were registered later may call anything. Those registered
 * earlier run between the queue's prepare and its parent or child, on the thread that holds
 * its locks. They may call cq_cleanup_stats, units, needs_wake, stalled, cq_producer_detach and
 * cq_worker_detach; enqueue, commit and span as long as the producer's open block has room.
 * What these would have woken is woken when the parent goes on; a child wakes at its next flush.
 * Every other call that returns errors, create too, returns EDEADLK and has done nothing, run_some
 * returns 0 and dequeue NULL. They must not wait for another thread's call, nor run or finish a
 * block, nor make the first queue of the process. They may fork with glibc 2.36 and later.
 *
 * By hand, for queues with CQ_NO_ATFORK: prepare before a fork of any kind, then parent
 * or child; of several queues always in the same order. On other queues they do nothing.
 */
CQ_API void cq_cleanup_fork_prepare(cq_cleanup_t *q);
CQ_API void cq_cleanup_fork_parent(cq_cleanup_t *q);
CQ_API void cq_cleanup_fork_child(cq_cleanup_t *q);

/* -------------------------------------------------------------- statistics */

/**
 * Counts since the queue was made, or at this moment. Each is kept by who
 * changes it and summed here: a snapshot whose parts are not all of one instant,
 * but in which executed <= queued always.
 */
typedef struct cq_cleanup_statistics {
	uint64_t queued;		/**< callbacks accepted */
	uint64_t executed;		/**< callbacks run, counted as their block ends; in
					   a forked child it begins as queued less what
					   the child still holds */
	uint64_t handed_back;		/**< callbacks given back by shutdown */
	uint64_t blocks_waiting;	/**< published and not taken */
	uint64_t blocks_made;		/**< allocated and not trimmed */
	uint64_t block_bytes;		/**< the memory of one */
	uint64_t wakes;			/**< sleepers woken, also by a shutdown */
	uint64_t useless_wakes;		/**< of those: found no work */
	uint64_t failed_sleeps;		/**< found work at the second look */
	uint64_t flushes;		/**< flush_all calls that moved something */
	uint64_t workers_created;
	uint64_t workers_retired;	/**< were idle, or ended in a callback */
	uint64_t workers_failed;	/**< attempts to make one that failed; worker_start's
					   too, which are among those created */
	uint32_t workers_live;		/**< made or attached, and not ended */
	uint32_t workers_asleep;
	uint32_t workers_coming;	/**< woken or asked for, not yet looking; or polling */
	uint32_t workers_running;	/**< at work on a block */
	uint32_t workers_peak;		/**< the most that were live at once */
	uint32_t max_workers;
	uint32_t producers;
	int32_t workers_last_errno;	/**< of the last attempt that failed; 0: none has */
	uint64_t oldest_ns;		/**< how long the oldest published block has waited */
} cq_cleanup_stats_t;

/**
 * Writes the first `bytes` bytes of the statistics: the size that they have to the caller, who
 * may be of another version. What this library doesn't know of them is zero. Takes a lock.
 * May run together with all but destroy.
 */
CQ_API void cq_cleanup_stats_sized(cq_cleanup_t *q, cq_cleanup_stats_t *out, size_t bytes);

/** The statistics, as this version of the header has them. */
static inline void cq_cleanup_stats(cq_cleanup_t *q, cq_cleanup_stats_t *out)
{
	cq_cleanup_stats_sized(q, out, sizeof(*out));
}

CQ_END_DECLS

#endif /* CQ_CLEANUP_H */
