/* SPDX-License-Identifier: BSD-2-Clause */
#include <time.h>

#include "park.h"

void cq_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

void cq_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline)
{
	struct timespec ts = cq_timespec(deadline);

	pthread_cond_timedwait(cond, mutex, &ts);
}
