/* SPDX-License-Identifier: BSD-2-Clause */
#include <unistd.h>

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
	return 0;
}

uint32_t cq_processors(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (uint32_t)n;
}
