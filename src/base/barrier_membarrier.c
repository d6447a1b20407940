/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "barrier.h"
#include "ordering.h"

/* Of the kernel's interface, for C libraries that come without its headers. */
enum { PRIVATE_EXPEDITED = 1 << 3, REGISTER_PRIVATE_EXPEDITED = 1 << 4 };

static long membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

bool cq_barrier_asymmetric(void)
{
	int saved = errno;
	bool registered = membarrier(REGISTER_PRIVATE_EXPEDITED) == 0;

	errno = saved;
	return registered;
}

void cq_barrier_heavy(void)
{
	int saved = errno;

	/* Pairs with the hot side's program order, or, where the kernel refuses,
	   with its own fence (the queue asked cq_barrier_asymmetric first). */
	cq_fence_full();
	/* Not registered any more: a forked child, on some kernels. Otherwise the call
	   was forbidden after the queue was made, which the README warns of. */
	if (membarrier(PRIVATE_EXPEDITED) != 0 && errno == EPERM && cq_barrier_asymmetric())
		membarrier(PRIVATE_EXPEDITED);
	errno = saved;
}

const char cq_barrier_kind[] = "membarrier";
