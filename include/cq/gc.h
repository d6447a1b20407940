/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/gc.h - cleanups for programs of the Boehm collector, as Go's AddCleanup: when an object has become
 * unreachable, fn(arg) runs on a worker of a cleanup queue (cq/cleanup.h). A library of its own, for libgc 8.0 and
 * later: `pkg-config --cflags --libs cq-gc bdw-gc`.
 *
 *     #define GC_THREADS
 *     #include <gc.h>
 *     #include <cq/gc.h>
 *
 *     GC_INIT();
 *     cq_cleanup_create(NULL, &q);
 *     cq_gc_open(q);
 *     ...
 *     struct file *f = GC_MALLOC(sizeof(*f));
 *     err = cq_gc_add(f, close_it, (void *)(intptr_t)f->fd, NULL);
 *     ...                                     no other thread of the program calls this library any more
 *     cq_gc_close();
 *     cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL);
 *     cq_cleanup_destroy(q);
 *
 * What a cleanup is, and a finalizer is not: it never sees the object, so it can't bring it back to life and needs
 * no order; an object may have several; on a queue's worker it may take any lock of the program. It costs the
 * collector one look at a mark per collection, and no finalizer is registered.
 *
 * HOW: the collector's event GC_EVENT_RECLAIM_END, at which each attached object is looked up while the collector
 * still holds its lock. A handler that was there before is called too. A program that sets its own handler
 * later (GC_set_on_collection_event) has to call the one that it found: while this one isn't called, what dies is
 * missed, and what takes its place in memory is held for it; see `missed` below.
 *
 * THE ARGUMENT is kept, and what it points to is kept alive, until fn has returned or the cleanup was stopped. So
 * nothing that arg reaches may point to the object, or the object never dies.
 *
 * THE LAST USE of an object may come earlier than it looks: after `int fd = f->fd;` f may be dead, and fd be closed
 * while it is in use. GC_reachable_here(f), after the last use of what its cleanup frees.
 *
 * WHAT A CLEANUP MAY DO: read collected memory that it reaches through arg. To change what such memory points to, or
 * to call the collector, its thread must be known to the collector: cq_gc_worker_start and _end as the
 * pool's worker_start and worker_end. One that blocks holds back others where there is one worker, as by default with
 * less than 8 CPUs: workers_max of cq/pool.h.
 *
 * THE COLLECTOR'S OWN RULES: stop the cleanups of an object before GC_FREE or GC_REALLOC of it. Seldom: objects of a
 * disclaim kind need mark_unconditionally; with GC_set_all_interior_pointers(0) only pointers to the begin of an
 * object keep it; in find-leak mode cleanups come late, not early; objects in a cycle die together, in no order.
 *
 * CALLS THAT MAY RUN TOGETHER: all but open and close, by every thread that the collector knows (made while
 * GC_THREADS was defined, or by GC_register_my_thread); stop and counts by any thread. LOCKS: the caller of add,
 * poll, collect, relieve or close holds none that a cleanup takes if cleanups run in place; of relieve, never.
 * ERRORS are errno's values, returned; errno is kept.
 *
 * FORK: a child that ends by exit, _exit or exec runs no cleanups, and needs nothing. One that goes on has a copy
 * of each attached object, and what dies is cleaned up in it too, if there was GC_set_handle_fork(1) before
 * GC_INIT, and open before the fork. Its next add, poll, collect or relieve makes the thread anew. What was running
 * is the parent's (cq/fork.h), and neither run nor stopped in the child's counts. A child that makes threads by
 * GC_pthread_create has been seen to wait for the collector's markers for ever (libgc 8.2), but with GC_MARKERS=1.
 * Not with GC_atfork_prepare or cq_fork by hand, nor with the queue on a pool that says CQ_POOL_NO_ATFORK: the
 * collector's lock or the queue's is taken first then. Nor must a finalizer fork that the queue's allocator or spawn
 * may run, as these must not.
 *
 * How it works, and why no cleanup is early, lost or doubled: doc/gc.
 */
#ifndef CQ_GC_H
#define CQ_GC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cq/cc.h>
#include <cq/cleanup.h>

CQ_BEGIN_DECLS

/* As CQ_API, for the functions of this library. */
#if defined(CQ_GC_BUILDING) && !defined(PIC)
#define CQ_GC_API __attribute__((visibility("hidden")))
#else
#define CQ_GC_API __attribute__((visibility("default")))
#endif

/** A cleanup that was attached. May be copied, kept for ever, and dropped. */
typedef struct cq_gc_handle {
	void *table;
	uint64_t entry;
} cq_gc_handle_t;

/**
 * Begins, once in a process, after GC_INIT(). With a queue a thread of the library's own, known to the collector,
 * enqueues what a collection found dead. With NULL cleanups run in place: in the next call of add, poll, collect,
 * relieve or close, by its thread. EALREADY: it was called before; EAGAIN: the thread can't be made; ENOMEM;
 * ENOTSUP: the collector in use is older than 8.0.
 */
CQ_GC_API CQ_MUST_CHECK int cq_gc_open(cq_cleanup_t *queue);

/**
 * Has fn(arg) run once, some time after the object that `ptr` points to or into has become unreachable. `handle`
 * may be NULL. EINVAL: ptr points into no collected object, arg points into the same one (the cleanup could never
 * run), or fn is NULL; ENOMEM; ENXIO: not open; ENOTSUP: its address has more than 48 bits. After an error nothing
 * is attached: what fn was to free is still the caller's, and what was attached before stays. That arg doesn't lead
 * to the object by way of others is not looked at. May allocate, also from the collector, and so collect; in place
 * it runs what is known to be dead.
 */
CQ_GC_API CQ_MUST_CHECK int cq_gc_add(void *ptr, cq_callback_fn *fn, void *arg, cq_gc_handle_t *handle);

/**
 * Detaches a cleanup. True: it will not run, and arg is the caller's again. False: it is found dead, or has run, or
 * was stopped before; also for a handle of zeros. Takes no lock.
 */
CQ_GC_API bool cq_gc_stop(cq_gc_handle_t handle);

/**
 * Hands what is known to be dead to the queue, and flushes; in place runs it. collect has the collector collect
 * first. Returns how many cleanups this call has handed over, or run: with a queue the library's thread may have
 * been faster, so 0 doesn't say that none died. To wait for them: cq_cleanup_drain. What can't be enqueued for want
 * of memory or room stays, for later.
 */
CQ_GC_API size_t cq_gc_poll(void);
CQ_GC_API size_t cq_gc_collect(void);

/**
 * For a resource that has run out before memory has (descriptors, say): collects, hands over, and waits until what
 * is queued has run, but no longer than `timeout_ns`, a duration in nanoseconds. Returns 0: try again, cleanups
 * have run since this thread's last call of it, or since open, whoever caused it; ENOENT: none has, there is
 * nothing to be had; ETIMEDOUT: not all have run, some may have, and one more try is worth while; EDEADLK: called
 * by a cleanup; ENXIO: not open; else as cq_cleanup_drain.
 *
 *     while ((fd = open(path, O_RDONLY)) < 0 && errno == EMFILE && cq_gc_relieve(1000000000) == 0)
 *             ;
 */
CQ_GC_API CQ_MUST_CHECK int cq_gc_relieve(uint64_t timeout_ns);

/**
 * Ends: enqueues, or runs, every cleanup that is still attached, though its object may be alive (a conservative
 * collector can't promise that each one dies), and returns how many those were. No other thread of the program calls
 * this library any more; cleanups may still run, and what they add is refused (ENXIO). Shut the queue down after it,
 * not before. What can't be enqueued runs in the caller.
 */
CQ_GC_API size_t cq_gc_close(void);

/**
 * For a pool's configuration (worker_start, worker_end): the one makes the worker known to the collector and
 * unblocks the collector's signals in it, the other takes that back. ENXIO: cq_gc_open was not called yet, which
 * prepares the collector. So with these leave workers_min 0 until then (cq_pool_set_workers); what is enqueued
 * before waits. ENOMEM; ENOTSUP: the collector can't be told of this thread.
 */
CQ_GC_API int cq_gc_worker_start(void *host);
CQ_GC_API void cq_gc_worker_end(void *host);

/** Since open; exact while nobody adds. After close, and the queue's shutdown: added == stopped + run. */
typedef struct cq_gc_statistics {
	uint64_t added, stopped, run;
	uint64_t late;		/**< times that a hand-over had to wait, for want of memory or room */
	uint64_t missed;	/**< collections at whose end the handler was not called; what died then may never run */
	uint64_t bytes;		/**< memory of the tables */
	uint64_t pass_ns;	/**< the last look at all attached objects, the collector's lock held; nanoseconds */
} cq_gc_counts_t;

CQ_GC_API void cq_gc_counts(cq_gc_counts_t *out);

CQ_END_DECLS

#endif /* CQ_GC_H */
