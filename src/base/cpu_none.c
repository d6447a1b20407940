/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu.h"

uint32_t cq_cpu(void)
{
	return 0;
}
