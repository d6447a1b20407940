/* SPDX-License-Identifier: BSD-2-Clause */
/* OpenBSD. */
#include <pthread.h>
#include <pthread_np.h>

#include "thread_name.h"

void cq_thread_name(const char *name)
{
	pthread_set_name_np(pthread_self(), name);
}
