/* SPDX-License-Identifier: BSD-2-Clause */
/* Linux and FreeBSD. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif
#include <pthread.h>

#include "thread_name.h"

void cq_thread_name(const char *name)
{
	pthread_setname_np(pthread_self(), name);
}
