/* SPDX-License-Identifier: BSD-2-Clause */
/* All workloads, in the order of the output. benchmarks/README says what each is. */
#include <stddef.h>

#include "workload.h"

#define THROUGHPUT { { "wall", "ns/cb" }, { "cpu", "ns/cb" }, { "producer", "ns/cb" } }
#define WAKE								\
	{ { "run_p50", "ns" }, { "run_p99", "ns" }, { "run_p99.9", "ns" },	\
	  { "submit_p50", "ns" }, { "cpu", "ns/wake" }, { "gap_p50", "ns", true } }
#define BURSTS								\
	{ { "makespan", "ns" }, { "cpu", "ns/burst" }, { "futex", "calls/burst" },	\
	  { "switches", "/burst" } }

#define W1(NAME, P, W, KIND)						\
	{ .name = NAME, .producers = P, .workers = W, .metrics = THROUGHPUT,	\
	  .run = run_throughput, .kind = KIND }
#define W2(NAME, RUN)							\
	{ .name = NAME, .producers = 1, .metrics = { { "enqueue", "ns/cb" } }, .run = RUN }
#define W3(NAME, W, GAP, KIND)						\
	{ .name = NAME, .producers = 1, .workers = W, .metrics = WAKE,		\
	  .run = run_wake, .gap_ns = GAP, .kind = KIND }
#define W4(NAME, W, KIND)						\
	{ .name = NAME, .producers = 1, .workers = W, .metrics = BURSTS,	\
	  .run = run_bursts, .gap_ns = 200000, .kind = KIND }
#define W6(N)								\
	{ .name = "W6", .producers = N, .workers = N, .metrics = THROUGHPUT,	\
	  .run = run_throughput, .scales = true }
#define LIMIT(NAME, THREADS, RUN, ...)					\
	{ .name = NAME, .producers = 1, .workers = THREADS - 1,			\
	  .metrics = { __VA_ARGS__ }, .run = RUN, .limit = true }
#define FUTEX(NAME, GAP)						\
	{ .name = NAME, .producers = 1, .workers = 1, .run = run_futex, .limit = true,	\
	  .gap_ns = GAP, .metrics = {						\
	    { "own_p50", "ns" }, { "own_p99", "ns" }, { "own_call", "ns" },	\
	    { "other_p50", "ns" }, { "other_p99", "ns" }, { "other_call", "ns" } } }

const struct workload workloads[] = {
	LIMIT("limits-stores", 1, run_stores, { "L1", "ns/cb" }, { "fresh", "ns/cb" }),
	LIMIT("limits-atomics", 1, run_atomics,
	    { "cas", "ns" }, { "cas16", "ns" }, { "add", "ns" }),
	LIMIT("limits-line", 2, run_line, { "one_way", "ns" }),
	LIMIT("limits-handover", 2, run_handover, { "wall", "ns/cb" }, { "cpu", "ns/cb" }),
	FUTEX("limits-futex-200us", 200000),
	FUTEX("limits-futex-10ms", 10000000),
	LIMIT("limits-threads", 2, run_threads,
	    { "create", "ns" }, { "run", "ns" }, { "join", "ns" }),

	W1("W1", 1, 1, PLAIN),
	W1("W1", 1, 2, PLAIN),
	W1("W1", 2, 2, PLAIN),
	W1("W1", 4, 4, PLAIN),
	W1("W1-paced", 1, 1, PACED),
	W1("W1-alternating", 1, 1, ALTERNATING),

	W2("W2-recycled", run_alone),
	W2("W2-span", run_span),
	W2("W2-fresh", run_fresh),
	{ .name = "W2-instructions", .producers = 1, .metrics = { { "enqueue", "/cb" } },
	  .run = run_instructions, .once = true, .steps = true },

	W3("W3-20us", 1, 20000, SLEEPS),
	W3("W3-20us", AS_PROCESSORS, 20000, SLEEPS),
	W3("W3-200us", 1, 200000, SLEEPS),
	W3("W3-200us", AS_PROCESSORS, 200000, SLEEPS),
	W3("W3-10ms", 1, 10000000, SLEEPS),
	W3("W3-10ms", AS_PROCESSORS, 10000000, SLEEPS),
	W3("W3-busy-200us", 1, 200000, WORKS_ON),
	W3("W3-busy-200us", AS_PROCESSORS, 200000, WORKS_ON),
	{ .name = "W3-idle", .producers = 1, .workers = 8, .run = run_idle, .once = true,
	  .metrics = { { "cpu", "us/s" }, { "switches", "/s" }, { "workers", "threads", true } } },

	W4("W4", AS_PROCESSORS, COUNTS),
	W4("W4-computing", AS_PROCESSORS, COMPUTES),

	{ .name = "W5", .producers = 1, .workers = 1, .run = run_memory, .once = true,
	  .metrics = { { "queued_rss", "B/cb" }, { "queued_malloc", "B/cb", true },
	    { "drained_rss", "KiB", true }, { "drained_malloc", "KiB", true },
	    { "trimmed_rss", "KiB", true }, { "trimmed_malloc", "KiB", true },
	    { "destroyed_rss", "KiB", true }, { "destroyed_malloc", "KiB", true },
	    { "returned_rss", "KiB", true } } },

	W6(1),
	W6(2),
	W6(4),
	W6(8),
	W6(16),
	W6(32),
	{ .name = NULL },
};
