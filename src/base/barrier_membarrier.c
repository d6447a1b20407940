/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "barrier.h"
#include "ordering.h"

/* Of the kernel's interface, for C libraries that come without its headers. */
enum { PRIVATE_EXPEDITED = 1 << 3, REGISTER_PRIVATE_EXPEDITED = 1 << 4 };

/* 0, or why not. */
static int membarrier(int command)
{
	int saved = errno;
	int err = syscall(SYS_membarrier, command, 0, 0) == 0 ? 0 : errno;

	errno = saved;
	return err;
}

bool cq_barrier_asymmetric(void)
{
	return membarrier(REGISTER_PRIVATE_EXPEDITED) == 0;
}

void cq_barrier_heavy(void)
{
	/* Pairs with the hot side's program order, or, where the kernel refuses, with its own fence (the
	   queue asked cq_barrier_asymmetric first). */
	cq_fence_full();
	/* Not registered any more: a forked child, on some kernels. Otherwise the call was forbidden after
	   the queue was made, which the README warns of. */
	if (membarrier(PRIVATE_EXPEDITED) == EPERM && cq_barrier_asymmetric())
		membarrier(PRIVATE_EXPEDITED);
}

const char cq_barrier_kind[] = "membarrier";
