/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A thread has many things of the one that makes it, and which producer happens to make a
 * worker is chance. What a worker keeps of it for life, and what not:
 *
 *   processors, timer slack     those of the thread that made the queue
 *   SCHED_FIFO, SCHED_RR        SCHED_OTHER: a backlog must not starve the machine
 *   a negative nice             0
 *   SCHED_BATCH, SCHED_IDLE, a positive nice, credentials, sandboxes, the rest: kept
 *
 * The new thread itself sees to it, as far as it may. Not the attributes of
 * pthread_create: one that is refused (EPERM under SCHED_IDLE, EINVAL for processors that
 * are gone) would be refused for ever. inherit_linux.c; inherit_none.c keeps all.
 */
#ifndef CQ_INHERIT_H
#define CQ_INHERIT_H

#include <stddef.h>

/* Of the thread that made the queue. */
struct cq_creator {
	size_t cpus_bytes;	/* 0: not known */
	long timer_slack;	/* in ns; 0: not known */
	unsigned long cpus[128];/* a mask in the kernel's form, 4096 processors at least */
};

void cq_creator_note(struct cq_creator *creator);	/* the calling thread is it */
void cq_creator_follow(const struct cq_creator *creator); /* in a new worker */

#endif /* CQ_INHERIT_H */
