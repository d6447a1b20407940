/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq_sleepers_wake in two halves, for a waker that must take sleepers while it
 * holds a lock, as the set may be gone once it has left that lock, and must not
 * unpark them before.
 */
#ifndef CQ_SRC_SLEEPERS_H
#define CQ_SRC_SLEEPERS_H

#include <cq/sleepers.h>

/* Takes up to *n sleepers off the list, by `next`; *n: how many. */
cq_sleeper_t *cq_sleepers_take(cq_sleepers_t *set, uint32_t *n);

/* Unparks them through `ops`, the table of the set. Needs the set no more. */
void cq_sleepers_unpark(const cq_park_ops_t *ops, cq_sleeper_t *taken);

#endif /* CQ_SRC_SLEEPERS_H */
