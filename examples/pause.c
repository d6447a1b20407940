/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdlib.h>
#include <string.h>

#include "walk.h"

/* Every duration is kept: a p99 from buckets would be as coarse as the buckets. */
void pauses_add(pauses_t *p, uint64_t ns)
{
	if (p->n == p->room) {
		size_t room = p->room != 0 ? 2 * p->room : 4096;
		uint64_t *more = realloc(p->ns, room * sizeof(*more));

		if (more == NULL)
			return; /* a sample less */
		p->ns = more;
		p->room = room;
	}
	p->ns[p->n++] = ns;
	p->total += ns;
}

void pauses_merge(pauses_t *into, pauses_t *from)
{
	for (size_t i = 0; i < from->n; i++)
		pauses_add(into, from->ns[i]);
	free(from->ns);
	memset(from, 0, sizeof(*from));
}

static int by_length(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t pauses_at(pauses_t *p, double quantile)
{
	if (p->n == 0)
		return 0;
	qsort(p->ns, p->n, sizeof(*p->ns), by_length);
	return p->ns[(size_t)(quantile * (double)(p->n - 1))];
}
