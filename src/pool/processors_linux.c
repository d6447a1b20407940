/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "cgroup.h"
#include "base/ordering.h"
#include "processors.h"

/* The quota, and 1; 0: not read yet. Threads that read it at once find the same. No
   pthread_once: a fork meanwhile could leave the child waiting for it. */
static uint32_t known_quota;

static uint32_t read_quota(void)
{
	uint32_t known = cq_u32_load_relaxed(&known_quota);

	if (known == 0) {
		known = cq_cgroup_processors("") + 1;
		cq_u32_store_relaxed(&known_quota, known);
	}
	return known - 1;
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
	uint32_t n = count_affinity(), quota;

	if (n == 0)
		n = count_online(); /* the system call is forbidden, or there are more yet */
	quota = read_quota();
	errno = saved;
	return quota != 0 && quota < n ? quota : n;
}
