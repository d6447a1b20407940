/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/cleanup.h - layer 4, the cleanup queue: callbacks that hot threads enqueue in blocks, and
 * that the workers of a pool run in the background.
 *
 * Hot threads enqueue through producers: cq/producer.h. A block of callbacks is published when it is full,
 * when its producer flushes or detaches, by a flush or drain of the queue, or by time (flush_ns). The queue is one task of
 * a worker pool (cq/pool.h): its own, or one that it shares with other queues and tasks, whose workers take turns.
 *
 * INVARIANTS
 *   executed <= queued,  and every callback that was accepted runs exactly once, or is handed back
 *   exactly once by a shutdown.
 *   While published callbacks wait, a worker is at work on the queue, woken or being made, or the pool
 *   is STALLED (cq/pool.h), and flush and drain say so; or full blocks of less than wake_bytes wait for flush_ns.
 *
 * CALLS THAT MAY RUN TOGETHER, on one queue (- free, X the caller excludes it):
 *
 *                        destroy  all the others
 *     destroy               X            X
 *     all the others        X            -
 *
 * MEMORY ORDER: all that a thread did before enqueue happens before the callback runs. All that a
 * callback did happens before the return of the drain or shutdown that waited for it.
 *
 * CALLBACKS run on a worker of the pool, or in a call of run_some, never in a call of a producer.
 * They may call everything but what waits for their own pool (drain, wait_for_room, shutdown,
 * destroy, of any of its queues): EDEADLK. They return on the thread that called them. A callback must not wait for
 * another one of its queue: that may lie behind it in the same block, which is one worker's, however
 * many others there are, and though each was flushed for itself. The order of callbacks is not that of their enqueues; but no block
 * waits for ever: 10 ms after it was published (or somewhat later, where many processors meet in a queue) it is taken first.
 * One callback can't be cancelled, or waited for: a list on a pool that does both is examples/jobs.c.
 *
 * A CALLBACK THAT ENDS ITS THREAD (pthread_exit, or a cancellation that acts in it), on a thread that
 * the pool made, costs that thread and no other callback: it counts as run, the rest of its block is
 * published again, and the worker is replaced. Elsewhere it is misuse, as is an exception or a longjmp
 * out of a callback. (In C++ both run destructors; catch (...) must throw them on.)
 *
 * CANCELLATION acts in callbacks and give_back only. SIGNAL HANDLERS call nothing of the queue: they
 * post a semaphore, and a thread that waits for that enqueues.
 *
 * FORK: cq/fork.h and doc/process.md. A child has every callback that was accepted and not begun, each
 * in both processes; one that was running is the parent's alone. Producers whose threads the child
 * doesn't have should be detached there, which publishes their blocks.
 *
 * ERRORS are errno's values, returned; 0 is success, and errno is kept. A call that fails has done
 * nothing, unless its comment says more. Handles must not be NULL, unless the comment says so.
 *
 * Source: the cleanup queue of Go's runtime (runtime/mcleanup.go after golang/go#73642).
 * doc/protocol says where this one goes another way.
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
 *             if ((err = cq_producer_attach(q, NULL, &p)) == 0) {
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

#include <stddef.h>
#include <stdint.h>

#include <cq/allocator.h>
#include <cq/cc.h>
#include <cq/park.h>
#include <cq/pool.h>

CQ_BEGIN_DECLS

typedef struct cq_cleanup cq_cleanup_t;

/** A callback. It belongs to the queue from its enqueue until it runs or is handed back. */
typedef void cq_callback_fn(void *arg);

#define CQ_CLEANUP_FORK_DISCARD 1u /* a forked child drops what was queued, instead of keeping it */

/* Macros, so that they have the types of their fields in C and in C++ alike. */
#define CQ_BLOCK_BYTES 4096u
#if UINTPTR_MAX > UINT32_MAX
#define CQ_BLOCK_BYTES_MIN 80u	/* room for two callbacks */
#else
#define CQ_BLOCK_BYTES_MIN 48u
#endif
#define CQ_BLOCK_BYTES_MAX 65536u
#define CQ_MAX_WAITING_MIN 16u
#define CQ_FLUSH_NS_MIN UINT64_C(100000) /* 0.1 ms */
#define CQ_WAKE_BYTES 32768u

/** Zero in any field is the default. */
typedef struct cq_cleanup_config {
	uint32_t flags;
	/** At most so many of the queue's blocks run at once, however many workers the pool has. 1: callbacks run
	    one after the other, in no promised order. 0: no limit. CQ_BY_OWNER: no worker runs them, only who calls
	    run_some, such as an isolate in its loop (examples/isolate.c). */
	uint32_t parallel;
	/** A block's size, rounded down to whole callbacks. 0: CQ_BLOCK_BYTES, which holds 253 callbacks with their functions,
	    or 506 arguments, on 64-bit machines; and where blocks are mmap's and there is no bound, four times as much once a
	    producer has filled four in a row without a flush. Larger ones cost fewer hand-overs; smaller ones spread callbacks
	    over more workers, and wait less long for a flush. What is flushed in small amounts shares blocks: cq_producer_flush. */
	size_t block_bytes;
	/** Whose workers run the callbacks. It must outlive the queue. NULL: a pool of its own. */
	cq_pool_t *pool;
	/** What its own pool is made from, read by create. NULL: all defaults; so is a NULL name, which is
	    "cq-cleanup" then. Not together with `pool`. */
	const cq_pool_config_t *pool_config;
	/** Of all the queue's memory; copied. NULL: pool_config's, or else malloc's family, and mmap for blocks. */
	const cq_allocator_t *allocator;
	/** With CQ_BY_OWNER, or NULL: callbacks wait. Called by who published them, or the clock, no lock held, to post an event that
	    wakes the owner's loop: once, and not again before the next run_some. So that takes the event, then calls
	    run_some until it returns less than it was asked for. Now and then for nothing. */
	void (*wake_owner)(void *host);
	void *host;
	/** A bound, in callbacks: CQ_MAX_WAITING_MIN or more; 0: none. While so many are published and have not run,
	    no producer gets a new block: ENOBUFS. What is in open blocks comes on top, a block of each producer at
	    most, and what is reserved. Blocks are made smaller, so that one is at most a fourth of the bound. */
	size_t max_waiting;
	/** What is enqueued is published at the latest so long after, in nanoseconds, though nobody flushes, or as soon as a worker
	    is free: CQ_FLUSH_NS_MIN or more, such as 10 ms. 0, CQ_FOREVER: not by time. With the first callback (in a forked child,
	    its first) the pool makes a thread for it, its clock; if that fails the next block tries again. One that is polled or
	    hosted has none: each half of flush_ns call cq_pool_needs_wake, _wake or _run_some; nothing else looks at the time. */
	uint64_t flush_ns;
	/** With a clock: while fewer bytes of full blocks wait, who publishes another one wakes nobody, as flush_ns sees to
	    them: so producers at a pace cost few wake-ups. 0: 32 KiB; 1: each block wakes. */
	size_t wake_bytes;
} cq_cleanup_config_t;

/**
 * Makes a queue from a config of `bytes` bytes, its size to the caller: what a shorter one lacks is
 * zero, what a longer one has more must be (E2BIG). EINVAL: a field is outside its limits, a table has
 * gaps, `bytes` is 0, or `out` is NULL. ESHUTDOWN: `pool` has ended. ENOMEM; what pthread_mutex_init or
 * cq_pool_create say. Then nothing is left.
 */
CQ_API CQ_MUST_CHECK int cq_cleanup_create_sized(const cq_cleanup_config_t *config, size_t bytes,
    cq_cleanup_t **out);

/** Makes a queue. NULL: all defaults. */
static inline CQ_MUST_CHECK int cq_cleanup_create(const cq_cleanup_config_t *config,
    cq_cleanup_t **out)
{
	return cq_cleanup_create_sized(config, sizeof(*config), out);
}

/**
 * Frees a queue that nobody uses, all its memory, and its own pool, whose workers it ends if no shutdown
 * has. EBUSY, and nothing happened: a producer is attached, or callbacks are left (shut it down first), or its
 * own pool has a task that is not the queue's. EDEADLK: from a run of its pool, or a fork handler. NULL: 0.
 */
CQ_API int cq_cleanup_destroy(cq_cleanup_t *q);

/** The queue's pool: to wake or poll it, lend it threads, change its limits, ask for its statistics. If it is the
    queue's own, its shutdown ends the workers, unless other tasks or queues are on it: they keep it, and destroy says
    EBUSY until they are gone. Nothing is made on a pool that has ended: ESHUTDOWN. */
CQ_API cq_pool_t *cq_cleanup_pool(const cq_cleanup_t *q);

/**
 * Publishes the partial blocks of all producers, from any thread, while they go on enqueuing. Callbacks
 * are first moved together into as few blocks as hold them. It covers every enqueue that happened before
 * the call, and follows none that is made meanwhile; a full block that its owner is just publishing may
 * follow a moment later (drain waits for those). 0; STALLED: published, but no worker lives and none can
 * be made; ENOMEM: some are still with their producers, unchanged; EDEADLK: from a fork handler.
 */
CQ_API int cq_cleanup_flush(cq_cleanup_t *q);

/**
 * Flushes all producers, then waits until every callback whose enqueue happened before the call has run,
 * however many are enqueued meanwhile. Sleeps, and runs nothing itself, as the caller may hold locks that
 * callbacks take. ETIMEDOUT: `deadline` (absolute, nanoseconds, the park table's clock) has passed; EDEADLK:
 * from a run of its pool, within a shutdown (give_back), or a fork handler; STALLED; ENOMEM: the flush failed;
 * ESHUTDOWN: a shutdown hands back what is left; EAGAIN: nobody serves a hosted pool. EAGAIN, too, of
 * a queue CQ_BY_OWNER, while callbacks wait for its owner: who is that calls run_some, then drain again.
 */
CQ_API int cq_cleanup_drain(cq_cleanup_t *q, uint64_t deadline);

/**
 * Sleeps until there is room: fewer than max_waiting callbacks wait, and who enqueues now is not refused, if no other
 * is faster. Runs and publishes nothing: what is in open blocks takes no room, so no producer can keep it.
 *
 *     while ((err = cq_producer_put(p, arg)) == ENOBUFS && (err = cq_cleanup_wait_for_room(q, CQ_FOREVER)) == 0)
 *             ;
 *
 * 0, at once where there is no bound; ESHUTDOWN: the queue is closed, or was meanwhile; ETIMEDOUT, EDEADLK, STALLED,
 * EAGAIN: as drain. A callback that is refused can but do itself what it was about to enqueue.
 */
CQ_API int cq_cleanup_wait_for_room(cq_cleanup_t *q, uint64_t deadline);

typedef enum cq_shutdown_how {
	CQ_SHUTDOWN_DRAIN,	/**< run all that was accepted */
	CQ_SHUTDOWN_HAND_BACK	/**< let running callbacks return, and give back the rest */
} cq_shutdown_how_t;

/** Gets one callback that did not run, which is the caller's again. It must return. */
typedef void cq_give_back_fn(void *ctx, cq_callback_fn *fn, void *arg);

/**
 * Closes the queue (enqueue, commit and attach return ESHUTDOWN, to callbacks as well), waits until every callback
 * that was accepted has run or was handed back, and, unless its own pool has other tasks, ends and joins the workers
 * of that (their worker_end and the destructors of thread-specific values have run then). An enqueue that runs
 * meanwhile is refused, or accepted and covered: never lost. The producers stay attached, to be detached by their owners.
 *
 * HAND_BACK calls give_back(ctx, fn, arg) in the calling thread, with no lock held, for each callback that
 * was accepted and did not run: first for all that is in no worker's hand, without waiting and without
 * memory; then it waits for the callbacks that run: the rest of a hanging one's block comes back after that has
 * returned. With DRAIN give_back may be NULL.
 *
 * 0: it is shut down, now or by an earlier call. Errors with which nothing has happened: EDEADLK: from a run
 * of its pool, or a fork handler; EALREADY: another thread is at it, or give_back calls it; EINVAL: no such
 * `how`, or HAND_BACK without give_back. Errors with which the queue is closed all the same, and shutdown may be
 * called again: ETIMEDOUT: `deadline` has passed (after HAND_BACK what is left can only be handed back; it doesn't
 * bound the destructors of thread-specific values on workers); STALLED, EAGAIN, ENOMEM: as drain, and only with
 * DRAIN; EINVAL: DRAIN without give_back, and an earlier HAND_BACK has left some.
 *
 * Not with CQ_FOREVER in a destructor that dlclose runs: a callback that needs the dynamic linker waits
 * for the destructor. With a deadline it returns, and the callbacks' code must stay in memory.
 */
CQ_API int cq_cleanup_shutdown(cq_cleanup_t *q, cq_shutdown_how_t how, uint64_t deadline,
    cq_give_back_fn *give_back, void *ctx);

/** Runs up to `callbacks` callbacks in the caller, within the limit of `parallel`, also from a callback.
    Never sleeps. Returns how many; what a block has left goes back. */
CQ_API size_t cq_cleanup_run_some(cq_cleanup_t *q, size_t callbacks);

/**
 * Frees the blocks that nobody uses: without an allocator of yours by slabs of 64 KiB, to the system, of which one at most
 * stays for each block that is open or reserved; and then a worker does it too before it retires (idle_ns). *freed_bytes, if
 * not NULL: how many bytes. Others go on meanwhile; who needs a block then asks for new memory. EBUSY, none was freed: a block
 * waits, or its callbacks run or are being given back, or a producer is about to get one; EDEADLK: from a fork handler.
 */
CQ_API int cq_cleanup_trim(cq_cleanup_t *q, size_t *freed_bytes);

CQ_END_DECLS

#endif /* CQ_CLEANUP_H */
