/* SPDX-License-Identifier: BSD-2-Clause */
/* Structures whose size the caller says, who may be of an older or a newer version. */
#ifndef CQ_SIZED_H
#define CQ_SIZED_H

#include <stddef.h>

/* Into `known`, of `known_bytes` bytes, from the caller's; NULL is all zero. What that one lacks is zero;
   what it has more must be: E2BIG. EINVAL: it has no bytes. */
int cq_sized_read(void *known, size_t known_bytes, const void *from, size_t bytes);

/* To the caller's; what this library doesn't know is zero. */
void cq_sized_write(void *to, size_t bytes, const void *known, size_t known_bytes);

#endif /* CQ_SIZED_H */
