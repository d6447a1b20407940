/* SPDX-License-Identifier: BSD-2-Clause */
/* No two systems have the same function for it: configure has tried which one there is. */
#include <pthread.h>
#ifdef CQ_NAME_OPENBSD
#include <pthread_np.h>
#endif

#include "process.h"

void cq_thread_name(const char *name)
{
#if defined(CQ_NAME_LINUX) /* and FreeBSD */
	pthread_setname_np(pthread_self(), name);
#elif defined(CQ_NAME_MACOS)
	pthread_setname_np(name);
#elif defined(CQ_NAME_NETBSD) /* whose name is a format */
	pthread_setname_np(pthread_self(), "%s", (void *)(uintptr_t)name);
#elif defined(CQ_NAME_OPENBSD)
	pthread_set_name_np(pthread_self(), name);
#else
	(void)name;
#endif
}
