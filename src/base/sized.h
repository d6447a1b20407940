/* SPDX-License-Identifier: BSD-2-Clause */
/* Structures whose size the caller says, who may be of an older or a newer version. */
#ifndef CQ_SIZED_H
#define CQ_SIZED_H

#include <errno.h>
#include <string.h>

/* Into `known`, of `known_bytes` bytes, from the caller's; NULL is all zero. What that one lacks is zero;
   what it has more must be: E2BIG. EINVAL: it has no bytes. */
static inline int cq_sized_read(void *known, size_t known_bytes, const void *from, size_t bytes)
{
	const unsigned char *byte = from;

	memset(known, 0, known_bytes);
	if (from == NULL)
		return 0;
	if (bytes == 0)
		return EINVAL;
	for (size_t i = known_bytes; i < bytes; i++)
		if (byte[i] != 0)
			return E2BIG;
	memcpy(known, from, bytes < known_bytes ? bytes : known_bytes);
	return 0;
}

/* To the caller's; what this library doesn't know is zero. */
static inline void cq_sized_write(void *to, size_t bytes, const void *known, size_t known_bytes)
{
	size_t n = bytes < known_bytes ? bytes : known_bytes;

	memcpy(to, known, n);
	memset((char *)to + n, 0, bytes - n);
}

#endif /* CQ_SIZED_H */
