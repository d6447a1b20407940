/* SPDX-License-Identifier: BSD-2-Clause */
#include <unistd.h>

#include "processors.h"

uint32_t cq_processors(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (uint32_t)n;
}
