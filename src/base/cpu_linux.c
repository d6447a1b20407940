/* SPDX-License-Identifier: BSD-2-Clause */
#include <sched.h>

#include "cpu.h"

uint32_t cq_cpu(void)
{
	return (uint32_t)sched_getcpu();
}
