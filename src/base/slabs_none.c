/* SPDX-License-Identifier: BSD-2-Clause */
#include "slabs.h"

size_t cq_slab_bytes(void)
{
	return 0;
}

void *cq_slab_map(size_t bytes, bool at_once)
{
	(void)bytes;
	(void)at_once;
	return NULL;
}

void cq_slab_unmap(void *memory, size_t bytes)
{
	(void)memory;
	(void)bytes;
}
