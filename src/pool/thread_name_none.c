/* SPDX-License-Identifier: BSD-2-Clause */
/* Systems whose threads have no names. */

#include "thread_name.h"

void cq_thread_name(const char *name)
{
	(void)name;
}
