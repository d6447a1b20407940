/* SPDX-License-Identifier: BSD-2-Clause */
#include <cq/sleepers.h>

#include "ordering.h"
#include "places.h"

static bool is_in(const uint64_t *set, uint32_t place)
{
	return (cq_u64_load_relaxed(&set[place / 64]) >> place % 64 & 1) != 0;
}

bool cq_places_free(const struct cq_places *p, uint32_t place)
{
	return place < CQ_PLACES_MAX && is_in(p->known, place) && !is_in(p->taken, place);
}

static void flip(struct cq_places *p, uint32_t place)
{
	uint64_t *word = &p->taken[place / 64];

	cq_u64_store_relaxed(word, *word ^ UINT64_C(1) << place % 64);
}

uint32_t cq_places_take(struct cq_places *p, uint32_t here, bool near)
{
	uint32_t place = 0;

	if (near && cq_places_free(p, here))
		place = here;
	else
		while (place < CQ_PLACES_MAX && (place == here || !cq_places_free(p, place)))
			place++;
	if (place == CQ_PLACES_MAX)
		place = here;
	if (!cq_places_free(p, place))
		return CQ_NO_PLACE;
	flip(p, place);
	return place;
}

void cq_places_put(struct cq_places *p, uint32_t place)
{
	if (place != CQ_NO_PLACE)
		flip(p, place);
}
