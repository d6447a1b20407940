/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the contestants do. A workload runs once for one contestant, on a queue
 * of its own, with a warm-up that isn't measured; it checks that every callback
 * ran exactly once, and gives its metrics, in nanoseconds.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>

#include "contestant.h"

enum { MAX_METRICS = 3 };

struct workload {
	const char *name;
	unsigned producers, workers;
	const char *metrics[MAX_METRICS]; /* NULL: there are fewer */
	void (*run)(const struct workload *w, const struct contestant *c, unsigned long callbacks,
	    double metrics[MAX_METRICS]);
};

/* Does W1 bind its threads to processors? */
extern bool pinning;

/* Ends with one whose name is NULL. */
extern const struct workload workloads[];

#endif /* BENCH_WORKLOAD_H */
