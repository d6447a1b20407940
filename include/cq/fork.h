/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/fork.h - fork() in a process with threads. Each object that has a lock is told three
 * times by the thread that forks, as with pthread_atfork: before the fork, when it
 * takes the locks, and after it in the parent and in the child, where it lets go of them.
 * Locks of several objects are taken one after the other, in one order in the whole program.
 */
#ifndef CQ_FORK_H
#define CQ_FORK_H

/** Where the fork has come to. PREPARE, then PARENT in the parent and CHILD in the child. */
typedef enum cq_fork_phase {
	CQ_FORK_PREPARE,
	CQ_FORK_PARENT,
	CQ_FORK_CHILD
} cq_fork_phase_t;

#endif /* CQ_FORK_H */
