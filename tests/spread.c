/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/process.h"
#include "cleanup/cleanup_priv.h"
#include "spread.h"

atomic_bool spread;

uint32_t __real_cq_cpu(void);
uint32_t __wrap_cq_cpu(void);
uint32_t __wrap_cq_cpu(void)
{
	static _Thread_local uint32_t random;

	if (!spread)
		return __real_cq_cpu();
	if (random == 0)
		random = (uint32_t)((uintptr_t)&random >> 6);
	random = random * 1664525 + 1013904223;
	return random >> 28;
}

void spread_grow(cq_cleanup_t *q)
{
	cq_shards_grow(q, cq_shards(q));
}
