/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * gccleanup.h - AddCleanup, as in Go, for programs of the Boehm collector: when
 * an object has become unreachable, fn(arg) runs on a worker of libcq.
 *
 * What a cleanup is, and a finalizer is not: it never sees the object, so it
 * can't bring it back to life and needs no order; an object may have several; it
 * runs in a thread of its own, so it may take any lock of the program.
 *
 * The collector finds dead objects in whichever thread allocates. That thread
 * only enqueues their cleanups (one enqueue each, one flush per collection).
 *
 * `arg` is kept alive until the cleanup has run or was stopped. So nothing that
 * arg reaches may point to the object, or the object never dies.
 *
 * A cleanup may read and write collected memory that it reaches through arg.
 * It may call the collector only where the queue's workers are known to the
 * collector (cf. `spawn` in cq/pool.h), which the managed ones are not.
 *
 *     GC_INIT();
 *     cq_cleanup_create(NULL, &q);
 *     gc_cleanup_open(q);
 *     ...
 *     struct file *f = GC_MALLOC(sizeof(*f));
 *     gc_cleanup_add(f, close_it, (void *)(intptr_t)f->fd, NULL);
 *     ...                                  all threads that allocate have ended
 *     gc_cleanup_close();
 *     cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL);
 *     cq_cleanup_destroy(q);
 */
#ifndef GCCLEANUP_H
#define GCCLEANUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cq/cleanup.h>

/* A cleanup that was attached. It may be copied, kept for ever, and dropped. */
typedef struct gc_cleanup {
	struct gc_cleanup_record *record;
	uint64_t generation;
} gc_cleanup_t;

/*
 * Starts the adapter, once in a process and after GC_INIT(). With a queue of
 * NULL cleanups run in place, in the thread that found the object dead, as
 * finalizers do by default in this collector. EALREADY: it was started before;
 * or the error of pthread_key_create.
 */
int gc_cleanup_open(cq_cleanup_t *queue);

/*
 * Has fn(arg) run, once, some time after `ptr` has become unreachable. `ptr` may
 * point anywhere into a collected object. `handle` may be NULL.
 * EINVAL: ptr is not collected memory, arg points into the same object as ptr
 * (the cleanup could never run), or fn is NULL; EBUSY: the object has a finalizer
 * of the program's own; ENOMEM. After an error nothing is attached.
 */
int gc_cleanup_add(void *ptr, cq_callback_fn *fn, void *arg, gc_cleanup_t *handle);

/*
 * Detaches a cleanup. True: it will not run, and arg is the caller's again.
 * False: it is queued, or has run, or was stopped before.
 */
bool gc_cleanup_stop(gc_cleanup_t handle);

/*
 * Enqueues the cleanups of all objects that are known to be dead, and flushes.
 * The collector calls it after a collection. collect collects first.
 * Both return the number of objects.
 */
size_t gc_cleanup_poll(void);
size_t gc_cleanup_collect(void);

/*
 * Ends the adapter: enqueues every cleanup that is still attached, though its
 * object may be alive (a conservative collector can't promise that each one
 * dies), and returns how many those were. Every other thread that has used the
 * adapter or allocated has ended. Shut the queue down after it, not before.
 */
size_t gc_cleanup_close(void);

typedef struct gc_cleanup_counts {
	uint64_t added, stopped, run;	/* at the end: added = stopped + run */
	uint64_t late;			/* had to wait, as an enqueue had no memory */
} gc_cleanup_counts_t;

void gc_cleanup_counts(gc_cleanup_counts_t *out);

#endif /* GCCLEANUP_H */
