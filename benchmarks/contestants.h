/* SPDX-License-Identifier: BSD-2-Clause */
/* Who takes part: all that this program was built with, in the order of contestants.c. */
#ifndef BENCH_CONTESTANTS_H
#define BENCH_CONTESTANTS_H

#include "contestant.h"

enum { MAX_CONTESTANTS = 32 };

/* Returns how many there are. The first is what the ratios are to. */
unsigned list_contestants(const struct contestant *list[MAX_CONTESTANTS]);

/* Names on the standard output, after "# skipped", those that weren't installed. */
void report_skipped(void);

#endif /* BENCH_CONTESTANTS_H */
