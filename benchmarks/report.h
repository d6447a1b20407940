/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables and files of what the runs have left. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stddef.h>
#include <stdio.h>

#include "contestants.h"
#include "workload.h"

enum { MAX_ROUNDS = 999 };

/* All runs of one workload. */
struct runs {
	const struct workload *w;
	unsigned rounds, ncontestants;
	const struct contestant *const *contestants;
	const char *out[MAX_CONTESTANTS]; /* why it has no row; NULL: it has */
	double values[MAX_METRICS][MAX_CONTESTANTS][MAX_ROUNDS];
	double speedups[MAX_CONTESTANTS]; /* NaN: there is none */
	struct pool {
		uint32_t *v;
		size_t n;
	} pools[MAX_CONTESTANTS]; /* the samples of all rounds */
};

void add_samples(struct pool *p, const struct result *r);

/* Lines for each metric and contestant; for the samples; who is left out, and why.
   Sorts the samples, for report_samples. */
void report(struct runs *runs);

void report_csv_head(FILE *f);
void report_csv(FILE *f, const struct runs *runs);
void report_samples_head(FILE *f);
void report_samples(FILE *f, const struct runs *runs);

#endif /* BENCH_REPORT_H */
