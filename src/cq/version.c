/* SPDX-License-Identifier: BSD-2-Clause */
#include <cq/cq.h>

#include "base/barrier.h"
#include "base/park.h"
#include "workq/stack.h"

const char *cq_version(void)
{
	return CQ_VERSION_STRING;
}

const cq_build_t *cq_build_info(void)
{
	static const cq_build_t info = {
		.pop = cq_pop_kind, .park = cq_park_kind, .barrier = cq_barrier_kind
	};

	return &info;
}
