/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/producer.h - who puts callbacks into a cleanup queue (cq/cleanup.h): one per hot thread. Where
 * there is no place for one: cq_cleanup_enqueue, at the end of this file.
 *
 * A producer has a block of its own and writes callbacks into it: two stores and a count, no
 * lock, no atomic read-modify-write. A full block is published at once, a partial one by a
 * flush or by time. Publishing wakes or makes a worker if nobody is on the way (but see wake_bytes).
 *
 * CALLS THAT MAY RUN TOGETHER: one producer is used by one thread at a time, and may pass from
 * thread to thread if the program orders the passing. All calls are free of those on other
 * producers and of all calls on the queue but destroy.
 *
 * MEMORY ORDER: all that a thread did before enqueue happens before the callback runs.
 *
 * BLOCKING: enqueue takes no lock and allocates at most one block, as a flush may; and, seldom, memory for more shards, 8 KiB
 * together, as threads on many processors meet in the queue. When it fills one, or with flush_ns opens
 * one, it may wake or make a worker, or the clock, and so take their locks and call pthread_create, which calls malloc: not for use within an allocator
 * or with its locks held. There: a pool that is CQ_POOL_POLLED, and reserve.
 *
 * ERRORS are errno's values, returned; errno is kept. A call that fails has done nothing, unless its
 * comment says more: the callback is still the caller's. Handles must not be NULL, unless the comment
 * says so. In a fork handler that runs while the library's locks are held (doc/process.md) what
 * needs a lock is refused: EDEADLK.
 */
#ifndef CQ_PRODUCER_H
#define CQ_PRODUCER_H

#include <stddef.h>

#include <cq/cc.h>
#include <cq/cleanup.h>

CQ_BEGIN_DECLS

typedef struct cq_producer cq_producer_t;

/** A callback and its argument, as they lie in a block. */
typedef struct cq_callback {
	cq_callback_fn *fn;
	void *arg;
} cq_callback_t;

/**
 * Makes a producer. With `fn` NULL each callback brings its function: cq_producer_enqueue, 16 bytes
 * each (on 64-bit machines). With a function it takes arguments for that one alone: cq_producer_put,
 * 8 bytes each. ENOMEM; ESHUTDOWN; EDEADLK; EINVAL: a NULL. Takes a lock. A producer that writes nothing costs
 * flush and drain of the queue nothing, however many there are.
 */
CQ_API CQ_MUST_CHECK int cq_producer_attach(cq_cleanup_t *q, cq_callback_fn *fn,
    cq_producer_t **out);

/**
 * Publishes what is left in the producer's block, as a flush does, and frees the producer. After a shutdown nothing
 * is left. Takes a lock, and may wake. Cannot fail; NULL is nothing. Good in the destructor of a
 * thread-specific key.
 */
CQ_API void cq_producer_detach(cq_producer_t *p);

/**
 * Enqueues fn(arg). 0: accepted; workers see it when the block is full, at the next flush, or by flush_ns.
 * EINVAL: fn is NULL, or the producer has a function of its own; ENOMEM: a block was needed and could
 * not be had; ENOBUFS: likewise, since the queue's bound is reached (cq_cleanup_wait_for_room); ESHUTDOWN; EDEADLK:
 * likewise, in a fork handler. Also 0 if no worker can be made for a full block: flush says that.
 */
CQ_API CQ_MUST_CHECK int cq_producer_enqueue(cq_producer_t *p, cq_callback_fn *fn, void *arg);

/** Enqueues the producer's own function, with `arg`. As enqueue; EINVAL: it has none. */
CQ_API CQ_MUST_CHECK int cq_producer_put(cq_producer_t *p, void *arg);

/**
 * Enqueues many at once, without a call for each:
 *
 *     cq_producer_span(p, &slots, &n);          the next n slots, 1 or more
 *     slots[0 .. k-1] = { fn, arg }             the caller's, k <= n, no fn NULL
 *     cq_producer_commit(p, k, &accepted);      as k calls of enqueue
 *
 * The slots are the rest of the producer's block (reserve says nothing of n). They are the caller's
 * until its next call on this producer, which is the commit, once: what is not committed then was
 * never there. A flush of all may read a slot while the caller writes it, and forgets what it read (a
 * race to ThreadSanitizer, unless the slots are written by relaxed atomic stores).
 *
 * 0; ENOMEM: a block was needed and could not be had; ENOBUFS, ESHUTDOWN, EDEADLK: as enqueue (the commit has its
 * block, and is never refused for want of room); EINVAL: a NULL, or the producer has a function of its own.
 */
CQ_API CQ_MUST_CHECK int cq_producer_span(cq_producer_t *p, cq_callback_t **slots, size_t *n);

/**
 * See cq_producer_span. 0: all k are accepted; ESHUTDOWN: the first *accepted of them are, which may
 * be none, and the others are still the caller's; EINVAL, and nothing is accepted: `accepted` is NULL,
 * or k is more than the span had (which has none after a commit or an enqueue). A checking build
 * asserts that no fn is NULL.
 */
CQ_API CQ_MUST_CHECK int cq_producer_commit(cq_producer_t *p, size_t k, size_t *accepted);

/**
 * Sets blocks aside so that the next `n` enqueues of this producer cannot fail for want of memory, nor of room: they
 * are accepted whatever waits, and so is the reservation. Not cumulative: it is "n from now". Asks for
 * all the memory that this takes, however much. ENOMEM: fewer blocks could be had (those stay with the queue until it
 * is trimmed), and the earlier reservation stands. EINVAL: they would not fit the address space; ESHUTDOWN; EDEADLK.
 */
CQ_API CQ_MUST_CHECK int cq_producer_reserve(cq_producer_t *p, size_t n);

/**
 * Publishes the producer's partial block, and wakes or makes a worker if nobody is on the way. If that is less
 * than a fourth of a block, it is moved into one that the queue's producers share, and the producer's stays open. So
 * what waits takes no more than four times the room of its callbacks, and a block of each producer, however few are
 * published at a time and however long the workers are busy. Takes a lock. 0, also when there was nothing; STALLED
 * (cq/pool.h): published, but no worker lives and none can be made; ENOMEM: not published, since a block that the
 * reservation needs could not be had (not for less than a fourth); EDEADLK.
 */
CQ_API int cq_producer_flush(cq_producer_t *p);

/**
 * Enqueues fn(arg) for a caller that has no place for a producer, on any thread, also in many at once: by a
 * producer of the queue's own. Workers see it when that one's block is full, or at the next cq_cleanup_flush or
 * drain: if you need it soon, flush. Each CPU gets one at its first enqueue, which takes a lock, 64 at most. It costs
 * an atomic compare-and-swap beyond cq_producer_enqueue, waits for no other enqueue, whoever is preempted in it,
 * and leaves nothing with the thread. 0, EINVAL, ENOMEM, ENOBUFS, ESHUTDOWN, EDEADLK: as cq_producer_enqueue.
 *
 * Calls on the queue cover it as they cover producers. To destroy and the statistics none is attached: destroy
 * says EBUSY while a callback is left, and else frees these; trim frees their blocks that hold nothing.
 */
CQ_API CQ_MUST_CHECK int cq_cleanup_enqueue(cq_cleanup_t *q, cq_callback_fn *fn, void *arg);

CQ_END_DECLS

#endif /* CQ_PRODUCER_H */
