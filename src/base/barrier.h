/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A fence for two sides of which one is hot. The hot side stores, then loads, with nothing between but
 * program order; the cold side stores, calls cq_barrier_heavy(), then loads. Of the two, at least one sees
 * the other's store: the heavy barrier makes every running thread of the process execute a full fence.
 *
 * barrier_membarrier.c has it from Linux's membarrier(2). With barrier_fence.c, or on a kernel without the
 * call, cq_barrier_asymmetric() is false and the hot side must put a full fence of its own between its store
 * and its load.
 */
#ifndef CQ_BARRIER_H
#define CQ_BARRIER_H

#include <stdbool.h>

/* Prepares the process; may be called often. */
bool cq_barrier_asymmetric(void);
void cq_barrier_heavy(void);

extern const char cq_barrier_kind[]; /* "membarrier" or "fence" */

#endif /* CQ_BARRIER_H */
