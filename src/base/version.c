/* SPDX-License-Identifier: BSD-2-Clause */
#include <cq/cq.h>

const char *cq_version(void)
{
	return CQ_VERSION_STRING;
}
