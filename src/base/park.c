/* SPDX-License-Identifier: BSD-2-Clause */
#include <time.h>

#include "ordering.h"
#include "park.h"

bool cq_parker_granted(const cq_parker_t *parker)
{
	/* Pairs with the release of the grant: all that the waker did before. */
	return cq_u32_load_acquire(&parker->permit) == CQ_PERMIT_GRANTED;
}

void cq_parker_grant(cq_parker_t *parker)
{
	/* Pairs with the acquire in cq_parker_granted. */
	cq_u32_store_release(&parker->permit, CQ_PERMIT_GRANTED);
}

uint64_t cq_default_now(void *host)
{
	struct timespec ts;

	(void)host;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * CQ_NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t cq_now(void)
{
	return cq_default_now(NULL);
}

struct timespec cq_timespec(uint64_t ns)
{
	uint64_t s = ns / CQ_NS_PER_S;
	struct timespec ts = { (time_t)s, (long)(ns % CQ_NS_PER_S) };

	/* A 32-bit time_t: the park returns in 2038, and its caller looks again. */
	if (sizeof(time_t) < sizeof(s) && s > INT32_MAX)
		ts.tv_sec = INT32_MAX;
	return ts;
}
