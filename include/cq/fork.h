/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/fork.h - fork() in a process with threads. Whatever has a lock is told three
 * times by the thread that forks: before the fork, when it takes the lock, and after it in the
 * parent and in the child, where it lets go.
 *
 * Pools see to it by themselves: the first one registers handlers for all by pthread_atfork,
 * which fork(), daemon() and forkpty() run. (posix_spawn, vfork, _Fork and clone don't: in a
 * child of these call nothing of the library.) A sleeper set of your own has
 * cq_sleepers_fork, which you call in handlers of your own.
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
 * For a process all of whose pools say CQ_POOL_NO_ATFORK: prepares all pools and what is
 * built on them, and ends that, in an order that no program could know. The thread that
 * prepares forks, in whatever way, and calls it again in the parent and in the child. Within
 * another fork of the same thread it does nothing.
 */
CQ_API void cq_fork(cq_fork_phase_t phase);

CQ_END_DECLS

#endif /* CQ_FORK_H */
