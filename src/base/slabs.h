/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory of the system's own, in large pieces. Nothing of a piece stays resident when it is given back. */
#ifndef CQ_SLABS_H
#define CQ_SLABS_H

#include <stdbool.h>
#include <stddef.h>

/* Of how many bytes a piece should be at least. 0: there are none, as malloc is to give each object by itself. */
size_t cq_slab_bytes(void);

/* All zero; NULL: it can't be had. At once: its pages are the process's then, at less than half of the price. */
void *cq_slab_map(size_t bytes, bool at_once);
void cq_slab_unmap(void *memory, size_t bytes);

#endif /* CQ_SLABS_H */
