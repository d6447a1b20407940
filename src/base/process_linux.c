/* SPDX-License-Identifier: BSD-2-Clause */
/* On Linux all that a worker leaves belongs to the thread, nice too. Each is set only where it differs, as a
   sandbox may kill whoever sets it. Not by musl's functions: its sched_getscheduler is always ENOSYS. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ordering.h"
#include "process.h"

/* With the policy when its thread has asked that others don't inherit it. */
#define RESET_ON_FORK 0x40000000

/* A cpu_set_t has 1024 of them (with musl 1.2.3 it says 128), and machines have more. */
static bool cpus_of_this_thread(unsigned long *mask, size_t bytes)
{
	return sched_getaffinity(0, bytes, (cpu_set_t *)(void *)mask) == 0;
}

void cq_creator_note(struct cq_creator *creator)
{
	int saved = errno;

	creator->has_cpus = cpus_of_this_thread(creator->cpus, sizeof(creator->cpus));
	creator->timer_slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
	errno = saved;
}

void cq_creator_follow(const struct cq_creator *creator)
{
	long policy = syscall(SYS_sched_getscheduler, 0) & ~RESET_ON_FORK;
	struct sched_param none = { .sched_priority = 0 };
	struct cq_creator mine;
	int nice;

	/* By pthread_setschedparam: glibc keeps a copy, which the thread has inherited too. */
	if (policy == SCHED_FIFO || policy == SCHED_RR)
		pthread_setschedparam(pthread_self(), SCHED_OTHER, &none);
	errno = 0;
	nice = getpriority(PRIO_PROCESS, 0);
	if (nice < 0 && errno == 0)
		setpriority(PRIO_PROCESS, 0, 0);
	cq_creator_note(&mine);
	/* The kernel takes those of the mask that the cpuset of today has, and refuses none at all. */
	if (creator->has_cpus && !(mine.has_cpus && memcmp(mine.cpus, creator->cpus, sizeof(mine.cpus)) == 0))
		sched_setaffinity(0, sizeof(creator->cpus), (const cpu_set_t *)(const void *)creator->cpus);
	if (creator->timer_slack > 0 && creator->timer_slack != mine.timer_slack)
		prctl(PR_SET_TIMERSLACK, (unsigned long)creator->timer_slack, 0, 0, 0);
}

uint32_t cq_cpu(void)
{
	return (uint32_t)sched_getcpu();
}

uint32_t cq_processors(void)
{
	/* 0: not read yet. Threads that read it at once find the same. No pthread_once: a fork meanwhile
	   could leave the child waiting for it. */
	static uint32_t known_quota;
	unsigned long mask[512]; /* 32768 processors where a long has 64 bits */
	uint32_t n = 0, quota = cq_u32_load_relaxed(&known_quota);
	int saved = errno;

	if (cpus_of_this_thread(mask, sizeof(mask)))
		for (size_t i = 0; i < sizeof(mask) / sizeof(*mask); i++)
			n += (uint32_t)__builtin_popcountl(mask[i]);
	if (n == 0) { /* the system call is forbidden, or there are more yet */
		long online = sysconf(_SC_NPROCESSORS_ONLN);

		n = online < 1 ? 1 : (uint32_t)online;
	}
	if (quota == 0) {
		quota = cq_cgroup_processors("");
		cq_u32_store_relaxed(&known_quota, quota);
	}
	errno = saved;
	return quota < n ? quota : n;
}
