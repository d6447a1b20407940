/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Callbacks that each have a record of their own, and so notice that they run
 * twice, or run and come back. Whoever includes it has said how many RECORDS there are.
 */
#ifndef CQ_TESTS_RECORDS_H
#define CQ_TESTS_RECORDS_H

#include "support.h"

static atomic_uint records[RECORDS], accepted, ran, returned;

static void record(void *arg)
{
	CHECK(atomic_fetch_add((atomic_uint *)arg, 1) == 0);
	ran++;
}

/* For shutdown, with &returned: handed back is as good as run, and as often. */
static __attribute__((unused)) void take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	CHECK(ctx == &returned);
	(void)fn;
	CHECK(atomic_fetch_add((atomic_uint *)arg, 1) == 0);
	returned++;
}

/* The argument of the next callback. */
static void *next_record(void)
{
	unsigned i = accepted++;

	CHECK(i < RECORDS);
	return &records[i];
}

#endif /* CQ_TESTS_RECORDS_H */
