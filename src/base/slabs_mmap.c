/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_POPULATE */
#endif
#include <errno.h>
#include <sys/mman.h>

#include "slabs.h"

#ifndef MAP_POPULATE
#define MAP_POPULATE 0
#endif

/* A piece: 16 blocks of a queue, unless it has asked for another size. It is given back when all in it is free; and
   it is mapped at once, which keeps an enqueue for 20 us. A smaller one costs a system call for fewer pages. */
enum { SLAB_BYTES = 65536 };

/* Of the address and the leak sanitizer, in programs that have them. The former knows of no use of a freed part of a
   mapping; the latter doesn't look there for pointers, and would call leaked what callbacks wait to free. */
extern void __lsan_enable(void) __attribute__((weak)); /* NOLINT(bugprone-reserved-identifier,cert-*) */

size_t cq_slab_bytes(void)
{
	return __lsan_enable != NULL ? 0 : SLAB_BYTES;
}

void *cq_slab_map(size_t bytes, bool at_once)
{
	int saved = errno;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | (at_once ? MAP_POPULATE : 0), -1, 0);

	errno = saved;
	return memory != MAP_FAILED ? memory : NULL;
}

void cq_slab_unmap(void *memory, size_t bytes)
{
	int saved = errno;

	(void)munmap(memory, bytes);
	errno = saved;
}
