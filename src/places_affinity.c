/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* cpu_set_t, sched_getcpu */
#endif
#include <cq/sleepers.h>
#include <sched.h>

#include "places.h"

/* musl 1.2.3's CPU_SETSIZE says 128, its bytes. */
_Static_assert(8 * sizeof(cpu_set_t) >= CQ_PLACES_MAX, "a cpu_set_t holds every place");

bool cq_places_init(struct cq_places *p)
{
	cpu_set_t set;

	*p = (struct cq_places){ .n = 0 };
	/* Fails on a machine with more processors than a cpu_set_t has room for. */
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return false;
	for (uint32_t i = 0; i < CQ_PLACES_MAX; i++)
		if (CPU_ISSET(i, &set)) {
			p->known[i / 64] |= UINT64_C(1) << i % 64;
			p->n++;
		}
	return p->n != 0;
}

void cq_place_bind(uint32_t place)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (place < CQ_PLACES_MAX) {
		CPU_SET(place, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
}

uint32_t cq_place_here(void)
{
	int processor = sched_getcpu();

	return processor < 0 ? CQ_NO_PLACE : (uint32_t)processor;
}
