/* SPDX-License-Identifier: BSD-2-Clause */
#include "park.h"

void cq_cond_init(pthread_cond_t *cond)
{
	pthread_cond_init(cond, NULL);
}

void cq_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline)
{
	uint64_t now = cq_now();
	struct timespec ts = cq_timespec(deadline > now ? deadline - now : 0);

	pthread_cond_timedwait_relative_np(cond, mutex, &ts);
}
