/* SPDX-License-Identifier: BSD-2-Clause */
/* NetBSD, whose name is a format. */
#include <pthread.h>
#include <stdint.h>

#include "thread_name.h"

void cq_thread_name(const char *name)
{
	pthread_setname_np(pthread_self(), "%s", (void *)(uintptr_t)name);
}
