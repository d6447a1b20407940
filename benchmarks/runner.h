/* SPDX-License-Identifier: BSD-2-Clause */
/* One run of a workload for a contestant, in a process of its own. */
#ifndef BENCH_RUNNER_H
#define BENCH_RUNNER_H

#include "workload.h"

/*
 * The result is valid until the next run. FAILED: something was lost, or the run
 * hung for `seconds`; standard error says so. With `here` it runs in this process,
 * for a debugger: no limit, and a failure ends the program.
 */
const struct result *run(const struct workload *w, const struct contestant *c, unsigned seconds,
    bool here);

#endif /* BENCH_RUNNER_H */
