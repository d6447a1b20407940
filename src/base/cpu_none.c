/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu.h"
#include "forking.h"

uint32_t cq_cpu(void)
{
	/* Threads' marks lie far apart, by a power of two or nearly. The golden ratio spreads them. */
	return (uint32_t)((uint64_t)(uintptr_t)cq_thread_mark() * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}
