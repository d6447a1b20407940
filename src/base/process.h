/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is asked of the process and its threads: process_linux.c or process_posix.c, thread_name.c, cgroup.c,
 * tls_in_stack.c or tls_apart.c.
 *
 * A thread has many things of the one that makes it, and which producer happens to make a worker is chance.
 * What a worker keeps of it, and what it has of the pool's creator instead: doc/process.md. The new thread
 * itself sees to it, as far as it may. Not the attributes of pthread_create: one that is refused (EPERM under
 * SCHED_IDLE, EINVAL for processors that are gone) would be refused for ever.
 */
#ifndef CQ_PROCESS_H
#define CQ_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of the thread that made the pool. */
struct cq_creator {
	bool has_cpus;		/* they are known */
	long timer_slack;	/* in ns; not known unless it is above 0 */
	unsigned long cpus[128];/* a mask in the kernel's form, 4096 processors at least */
};

void cq_creator_note(struct cq_creator *creator);	/* the calling thread is it */
void cq_creator_follow(const struct cq_creator *creator); /* in a new worker. process_posix.c: it keeps all */

/* The CPU on which the caller runs, until it doesn't. Where that isn't known, a number that few others have. */
uint32_t cq_cpu(void);

/* How many processors the calling thread may keep busy, at least 1. On Linux those of its affinity mask, but
   no more than the quota of the process's cgroup, which is read once. Elsewhere all that are online. */
uint32_t cq_processors(void);

/* The processors' worth of time that the process's cgroups allow it (v2's cpu.max, v1's cpu.cfs_quota_us),
   the least of all that it is in, rounded up; UINT32_MAX: no limit is known. What can't be read, or is not as
   it should be, is no limit. In front of all paths comes `root`, which is "" but in tests. */
uint32_t cq_cgroup_processors(const char *root);

/* Names the calling thread, where that can be done. */
void cq_thread_name(const char *name);

/* How many bytes of a new thread's stack the program's static thread-local storage takes. Takes the dynamic
   linker's lock. */
size_t cq_tls_in_stack(void);

#endif /* CQ_PROCESS_H */
