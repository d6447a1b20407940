/* SPDX-License-Identifier: BSD-2-Clause */
#include <unistd.h>

#include "atfork.h"
#include "process.h"

void cq_creator_note(struct cq_creator *creator)
{
	(void)creator;
}

void cq_creator_follow(const struct cq_creator *creator)
{
	(void)creator;
}

uint32_t cq_cpu(void)
{
	/* Threads' marks are a power of two apart, or nearly. The golden ratio spreads them. */
	return (uint32_t)((uint64_t)(uintptr_t)cq_thread_mark() * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

uint32_t cq_processors(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (uint32_t)n;
}
