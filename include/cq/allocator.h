/* SPDX-License-Identifier: BSD-2-Clause */
/* cq/allocator.h - where the memory of a pool or a queue comes from. */
#ifndef CQ_ALLOCATOR_H
#define CQ_ALLOCATOR_H

#include <stddef.h>

#include <cq/cc.h>

CQ_BEGIN_DECLS

/**
 * alloc returns `bytes` bytes aligned to `align` (a power of two), or NULL; free gets the
 * same `bytes`. Both may be called by any thread that calls the library, sometimes with one of its
 * locks held: they must not call it.
 */
typedef struct cq_allocator {
	void *(*alloc)(void *host, size_t bytes, size_t align);
	void (*free)(void *host, void *memory, size_t bytes);
	void *host;
} cq_allocator_t;

CQ_END_DECLS

#endif /* CQ_ALLOCATOR_H */
