/* SPDX-License-Identifier: BSD-2-Clause */
/* macOS, which names the calling thread alone. */
#include <pthread.h>

#include "thread_name.h"

void cq_thread_name(const char *name)
{
	pthread_setname_np(name);
}
