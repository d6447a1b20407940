/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdlib.h>

#include "alloc.h"

static void *default_alloc(void *host, size_t bytes, size_t align)
{
	void *memory;

	(void)host;
	return posix_memalign(&memory, align, bytes) == 0 ? memory : NULL;
}

static void default_free(void *host, void *memory, size_t bytes)
{
	(void)host;
	(void)bytes;
	free(memory);
}

const cq_allocator_t cq_default_allocator = { default_alloc, default_free, NULL };

void *cq_allocate(const cq_allocator_t *a, size_t bytes)
{
	int saved = errno;
	void *memory = a->alloc(a->host, bytes, CQ_LINE);

	errno = saved;
	return memory;
}

void cq_release(const cq_allocator_t *a, void *memory, size_t bytes)
{
	int saved = errno;

	a->free(a->host, memory, bytes);
	errno = saved;
}
