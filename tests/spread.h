/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Threads that seem to be on many processors, for programs that are linked with --wrap=cq_cpu: so a queue has
 * several shards on a machine that has few, where swaps hardly ever fail.
 */
#ifndef CQ_TESTS_SPREAD_H
#define CQ_TESTS_SPREAD_H

#include <cq/cleanup.h>
#include <stdatomic.h>

/* Each look at its processor finds another of 16, by chance; else the system's. */
extern atomic_bool spread;

/* Twice as many shards, unless memory is short. */
void spread_grow(cq_cleanup_t *q);

#endif /* CQ_TESTS_SPREAD_H */
