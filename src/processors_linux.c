/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "cgroup.h"
#include "processors.h"

static uint32_t quota;
static pthread_once_t quota_once = PTHREAD_ONCE_INIT;

static void read_quota(void)
{
	quota = cq_cgroup_processors("");
}

/* A cpu_set_t has 1024 of them (with musl 1.2.3 it says 128), and machines have more. */
static uint32_t count_affinity(void)
{
	unsigned long mask[512]; /* 32768 processors where a long has 64 bits */
	uint32_t n = 0;

	for (size_t bytes = 128; bytes <= sizeof(mask); bytes *= 2) {
		for (size_t i = 0; i < sizeof(mask) / sizeof(*mask); i++)
			mask[i] = 0;
		if (sched_getaffinity(0, bytes, (cpu_set_t *)(void *)mask) == 0) {
			for (size_t i = 0; i < bytes / sizeof(*mask); i++)
				n += (uint32_t)__builtin_popcountl(mask[i]);
			return n;
		}
		if (errno != EINVAL)
			break;
	}
	return 0;
}

static uint32_t count_online(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (uint32_t)n;
}

uint32_t cq_processors(void)
{
	int saved = errno;
	uint32_t n = count_affinity();

	if (n == 0)
		n = count_online(); /* the system call is forbidden, or there are more yet */
	pthread_once(&quota_once, read_quota);
	errno = saved;
	return quota != 0 && quota < n ? quota : n;
}
