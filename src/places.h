/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Places: the processors that threads can be bound to, one thread to each. A place
 * is a processor's number. places_affinity.c has them from Linux; with places_none.c
 * there are none.
 */
#ifndef CQ_PLACES_H
#define CQ_PLACES_H

#include <stdbool.h>
#include <stdint.h>

enum { CQ_PLACES_MAX = 1024 };

/* Zeroed: no places. One thread at a time may init, take and put; free may be asked by any. */
struct cq_places {
	uint64_t known[CQ_PLACES_MAX / 64];
	uint64_t taken[CQ_PLACES_MAX / 64];
	uint32_t n;
};

/* Where the calling thread may run. False: there are no places here. */
bool cq_places_init(struct cq_places *places);

/* Takes a free place: `here`, or if it can be had another. CQ_NO_PLACE: none is free. */
uint32_t cq_places_take(struct cq_places *places, uint32_t here, bool near);
void cq_places_put(struct cq_places *places, uint32_t place);
bool cq_places_free(const struct cq_places *places, uint32_t place);

/* Binds the calling thread. It stays where it may run if the system says no. */
void cq_place_bind(uint32_t place);

/* Where the calling thread is at this moment, or CQ_NO_PLACE. */
uint32_t cq_place_here(void);

#endif /* CQ_PLACES_H */
