/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parking on a Linux futex: the permit is the futex word.
 *
 * unpark touches the parker's memory once, in the exchange that grants. The system call after it uses the
 * address only: a private futex is looked up by address and never read by FUTEX_WAKE, so a parker that is
 * freed meanwhile costs at most a spurious return to whoever waits at that address by then, and every wait
 * here and in the C library is a loop.
 */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ordering.h"
#include "park.h"
#include "points.h"

/* Of the kernel's interface, for C libraries that come without its headers. */
enum { FUTEX_WAKE_PRIVATE = 1 | 128, FUTEX_WAIT_BITSET_PRIVATE = 9 | 128 };
#define FUTEX_BITSET_MATCH_ANY UINT32_MAX

/* Errors are of no interest: park's caller looks at the permit and the clock. */
static void futex(uint32_t *word, int op, uint32_t value, const struct timespec *until)
{
	long call = SYS_futex;
	int saved = errno;

#ifdef SYS_futex_time64
	if (sizeof(until->tv_sec) > sizeof(long))
		call = SYS_futex_time64; /* 32-bit machines have two: this one has the C library's timespec */
#endif
	(void)syscall(call, word, op, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
	errno = saved;
}

static void futex_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct timespec ts = cq_timespec(deadline);

	(void)host;
	/* Says that a wake must call the kernel. If it fails the permit is there. */
	if (!cq_u32_cas_relaxed(&parker->permit, CQ_PERMIT_NONE, CQ_PERMIT_PARKED) &&
	    cq_u32_load_relaxed(&parker->permit) != CQ_PERMIT_PARKED)
		return;
	CQ_POINT("park.parking");
	/* Returns at once when the permit came since. */
	futex(&parker->permit, FUTEX_WAIT_BITSET_PRIVATE, CQ_PERMIT_PARKED,
	    deadline == CQ_FOREVER ? NULL : &ts);
}

static void futex_unpark(void *host, cq_parker_t *parker)
{
	(void)host;
	/* Grants as cq_parker_grant does; pairs with cq_parker_granted. It acquires nothing: what it returns
	   only says whether to call the kernel. */
	if (cq_u32_exchange_release(&parker->permit, CQ_PERMIT_GRANTED) == CQ_PERMIT_PARKED) {
		CQ_POINT("park.granted");
		futex(&parker->permit, FUTEX_WAKE_PRIVATE, 1, NULL);
	}
}

const cq_park_ops_t *cq_park_default(void)
{
	static const cq_park_ops_t ops = { cq_default_now, futex_park, futex_unpark, NULL };

	return &ops;
}

int cq_park_register(void)
{
	return 0;
}

const char cq_park_kind[] = "futex";
