/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/fork.h - fork() in a process with threads. Each pool, cleanup queue and sleeper set is told before the
 * fork, when its locks are taken, and after it, in parent and child, where they are let go.
 *
 * Pools, and the cleanup queues on them, see to it by themselves: the first pool registers
 * handlers for all by pthread_atfork, which fork(), daemon() and forkpty() run. (posix_spawn, vfork,
 * _Fork and clone don't: in a child of the last three call nothing of the library.) A sleeper set
 * of your own has cq_sleepers_fork, which you call in handlers of your own.
 *
 * A child has the queued callbacks, no worker but the thread that forked, and all producers attached: detach those of
 * other threads. More about that, and what handlers of others may call meanwhile: doc/process.md. A task's
 * function, a callback, give_back, worker_start and worker_end may fork, and go on in both
 * processes; no other function that the library calls may.
 */
#ifndef CQ_FORK_H
#define CQ_FORK_H

#include <cq/cc.h>

CQ_BEGIN_DECLS

/** Where the fork has come to. PREPARE, then PARENT in the parent or CHILD in the child. */
typedef enum cq_fork_phase {
	CQ_FORK_PREPARE,
	CQ_FORK_PARENT,
	CQ_FORK_CHILD
} cq_fork_phase_t;

/**
 * For a process all of whose pools say CQ_POOL_NO_ATFORK: prepares all pools and queues, and ends
 * that, in an order that no program could know. The thread that prepares forks, in whatever way, and
 * calls it again in the parent and in the child. Within another fork of the same thread, such as
 * one that runs the handlers, it does nothing.
 */
CQ_API void cq_fork(cq_fork_phase_t phase);

CQ_END_DECLS

#endif /* CQ_FORK_H */
