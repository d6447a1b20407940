/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * On Linux all of these belong to the thread, nice too. Each is set only where it differs, as a
 * sandbox may kill whoever sets it. Not by musl's functions: its sched_getscheduler
 * is always ENOSYS.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inherit.h"

/* With the policy when its thread has asked that others don't inherit it. */
#define RESET_ON_FORK 0x40000000

/* Returns the bytes of the mask that the kernel has; 0: it has more than there is room for, or won't say. */
static size_t cpus_of_this_thread(struct cq_creator *c)
{
	long bytes = syscall(SYS_sched_getaffinity, 0, sizeof(c->cpus), c->cpus);

	return bytes > 0 ? (size_t)bytes : 0;
}

static long slack_of_this_thread(void)
{
	long ns = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);

	return ns > 0 ? ns : 0;
}

void cq_creator_note(struct cq_creator *creator)
{
	int saved = errno;

	creator->cpus_bytes = cpus_of_this_thread(creator);
	creator->timer_slack = slack_of_this_thread();
	errno = saved;
}

static void leave_real_time(void)
{
	struct sched_param none = { .sched_priority = 0 };
	long policy = syscall(SYS_sched_getscheduler, 0);

	/* By pthread_setschedparam: glibc keeps a copy, which the thread has inherited too. */
	if (policy >= 0 && ((policy & ~RESET_ON_FORK) == SCHED_FIFO ||
	    (policy & ~RESET_ON_FORK) == SCHED_RR))
		pthread_setschedparam(pthread_self(), SCHED_OTHER, &none);
}

static void leave_precedence(void)
{
	int nice;

	errno = 0;
	nice = getpriority(PRIO_PROCESS, 0);
	if (nice < 0 && errno == 0)
		setpriority(PRIO_PROCESS, 0, 0);
}

/* The kernel takes those of the mask that the cpuset of today has, and refuses none at all. */
static void go_where_the_creator_may(const struct cq_creator *creator)
{
	struct cq_creator mine;

	mine.cpus_bytes = cpus_of_this_thread(&mine);
	if (creator->cpus_bytes != 0 && (mine.cpus_bytes != creator->cpus_bytes ||
	    memcmp(mine.cpus, creator->cpus, mine.cpus_bytes) != 0))
		syscall(SYS_sched_setaffinity, 0, creator->cpus_bytes, creator->cpus);
}

void cq_creator_follow(const struct cq_creator *creator)
{
	leave_real_time();
	leave_precedence();
	go_where_the_creator_may(creator);
	if (creator->timer_slack != 0 && creator->timer_slack != slack_of_this_thread())
		prctl(PR_SET_TIMERSLACK, (unsigned long)creator->timer_slack, 0, 0, 0);
}
