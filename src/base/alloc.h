/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory by the host's allocator. No call of the library changes errno, whatever the allocator does. */
#ifndef CQ_ALLOC_H
#define CQ_ALLOC_H

#include <cq/allocator.h>

/* The unit in which processors share memory: 64 bytes on most of them. */
#define CQ_LINE 64

extern const cq_allocator_t cq_default_allocator; /* malloc's family */

/* Aligned to CQ_LINE. */
void *cq_allocate(const cq_allocator_t *a, size_t bytes);
void cq_release(const cq_allocator_t *a, void *memory, size_t bytes);

#endif /* CQ_ALLOC_H */
