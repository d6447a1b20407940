/* SPDX-License-Identifier: BSD-2-Clause */
/* musl, the BSDs and macOS: a thread's storage comes on top of its stack. */
#include "process.h"

size_t cq_tls_in_stack(void)
{
	return 0;
}
