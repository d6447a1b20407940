/* SPDX-License-Identifier: BSD-2-Clause */
/* All workloads, in the order of the output. benchmarks/README says what each is. */
#include <stddef.h>

#include "workload.h"

#define RATIO(NAME, UNIT) { NAME, UNIT, false }
#define NO_RATIO(NAME, UNIT) { NAME, UNIT, true }

#define THROUGHPUT { RATIO("wall", "ns/cb"), RATIO("cpu", "ns/cb"), RATIO("producer", "ns/cb") }
#define WAKE								\
	{ RATIO("run_p50", "ns"), RATIO("run_p99", "ns"), RATIO("run_p99.9", "ns"),	\
	  RATIO("submit_p50", "ns"), RATIO("cpu", "ns/wake"), NO_RATIO("gap_p50", "ns") }
#define BURSTS								\
	{ RATIO("makespan", "ns"), RATIO("cpu", "ns/burst"), RATIO("futex", "calls/burst"),	\
	  RATIO("switches", "/burst") }

#define W1(NAME, P, W, KIND)						\
	{ .name = NAME, .producers = P, .workers = W, .metrics = THROUGHPUT,	\
	  .run = run_throughput, .kind = KIND }
/* As many of both. 2x2 and 4x4 run on any machine; the larger ones where each thread has a processor. */
#define W1_OF(NAME, N, KIND)						\
	{ .name = NAME, .producers = N, .workers = N, .metrics = THROUGHPUT,	\
	  .run = run_throughput, .kind = KIND, .scales = (N) > 4, .speedup = true }
#define W1_LARGER(NAME, KIND)						\
	W1_OF(NAME, 8, KIND), W1_OF(NAME, 16, KIND), W1_OF(NAME, 32, KIND), W1_OF(NAME, 64, KIND),	\
	W1_OF(NAME, 128, KIND), W1_OF(NAME, AS_HALF, KIND)
#define W2(NAME, RUN)							\
	{ .name = NAME, .producers = 1, .metrics = { RATIO("enqueue", "ns/cb") }, .run = RUN }
#define W3(NAME, W, GAP, KIND)						\
	{ .name = NAME, .producers = 1, .workers = W, .metrics = WAKE,		\
	  .run = run_wake, .gap_ns = GAP, .kind = KIND }
#define W4(NAME, W, KIND)						\
	{ .name = NAME, .producers = 1, .workers = W, .metrics = BURSTS,	\
	  .run = run_bursts, .gap_ns = 200000, .kind = KIND }
#define W5(NAME, KIND)							\
	{ .name = NAME, .producers = 1, .workers = 1, .run = run_memory, .once = true,	\
	  .kind = KIND, .metrics = {						\
	    RATIO("queued_rss", "B/cb"), NO_RATIO("queued_malloc", "B/cb"),	\
	    NO_RATIO("drained_rss", "KiB"), NO_RATIO("drained_malloc", "KiB"),	\
	    NO_RATIO("trimmed_rss", "KiB"), NO_RATIO("trimmed_malloc", "KiB"),	\
	    NO_RATIO("destroyed_rss", "KiB"), NO_RATIO("destroyed_malloc", "KiB"),	\
	    NO_RATIO("returned_rss", "KiB") } }
#define W7(NAME, BLOCKS, KIND)						\
	{ .name = NAME, .producers = 2 * BLOCKS, .workers = 16, .run = run_blocks, .kind = KIND,	\
	  .metrics = { RATIO("flush", "ns"), RATIO("flush_cpu", "ns"), RATIO("makespan", "ns"),	\
	    NO_RATIO("woken", "/flush") } }
#define W8(NAME, KIND)							\
	{ .name = NAME, .producers = 2, .workers = AS_PROCESSORS, .run = run_tables, .kind = KIND,	\
	  .alone = "cq", .metrics = {							\
	    RATIO("wall", "ns/row"), NO_RATIO("peak_rss", "KiB"), NO_RATIO("sleeps", "/1000 rows") } }
#define W9(NAME, W, GAP, KIND)						\
	{ .name = NAME, .producers = 1, .workers = W, .run = run_unflushed, .gap_ns = GAP, .kind = KIND,	\
	  .metrics = {								\
	    RATIO("run_p50", "ns"), RATIO("run_p99", "ns"), RATIO("run_p99.9", "ns"), RATIO("run_max", "ns"),	\
	    NO_RATIO("own_p99.9", "ns"), RATIO("sleeps", "/s"), RATIO("cpu", "us/s"),			\
	    NO_RATIO("barriers", "/ms") } }
#define LIMIT(NAME, THREADS, RUN, ...)					\
	{ .name = NAME, .producers = 1, .workers = THREADS - 1,			\
	  .metrics = { __VA_ARGS__ }, .run = RUN, .alone = "limit" }
#define FUTEX(NAME, GAP)						\
	{ .name = NAME, .producers = 1, .workers = 1, .run = run_futex, .alone = "limit",	\
	  .gap_ns = GAP, .metrics = {						\
	    RATIO("own_p50", "ns"), RATIO("own_p99", "ns"), RATIO("own_call", "ns"),	\
	    RATIO("other_p50", "ns"), RATIO("other_p99", "ns"), RATIO("other_call", "ns") } }

const struct workload workloads[] = {
	LIMIT("limits-stores", 1, run_stores, RATIO("L1", "ns/cb"), RATIO("fresh", "ns/cb")),
	LIMIT("limits-atomics", 1, run_atomics,
	    RATIO("cas", "ns"), RATIO("cas16", "ns"), RATIO("add", "ns")),
	LIMIT("limits-line", 2, run_line, RATIO("one_way", "ns")),
	LIMIT("limits-handover", 2, run_handover, RATIO("wall", "ns/cb"), RATIO("cpu", "ns/cb")),
	FUTEX("limits-futex-200us", 200000),
	FUTEX("limits-futex-10ms", 10000000),
	LIMIT("limits-threads", 2, run_threads,
	    RATIO("create", "ns"), RATIO("run", "ns"), RATIO("join", "ns")),

	{ .name = "L2-calls", .producers = 1, .workers = 1, .run = run_sleepers_calls, .alone = "cq",
	  .metrics = { RATIO("cancel", "ns"), RATIO("nobody", "ns"), RATIO("nobody_cond", "ns"),
	    RATIO("coming", "ns"), RATIO("asleep", "ns"), RATIO("asleep_cond", "ns") } },
	{ .name = "L3-calls", .producers = 1, .workers = 1, .run = run_pool_calls, .alone = "cq",
	  .metrics = { RATIO("push", "ns"), RATIO("in", "ns"), RATIO("coming", "ns"),
	    RATIO("spinning", "ns"), RATIO("asleep", "ns"), RATIO("run", "ns"),
	    RATIO("run_more", "ns") } },

	W1_OF("W1", 1, PLAIN),
	W1("W1", 1, 2, PLAIN),
	W1_OF("W1", 2, PLAIN),
	W1_OF("W1", 4, PLAIN),
	W1_LARGER("W1", PLAIN),
	W1_OF("W1-computing", 1, COMPUTING),
	W1_OF("W1-computing", 2, COMPUTING),
	W1_OF("W1-computing", 4, COMPUTING),
	W1_LARGER("W1-computing", COMPUTING),
	W1("W1-paced", 1, 1, PACED),
	W1("W1-alternating", 1, 1, ALTERNATING),
	W1("W1-flushing", 1, 1, FLUSHING),
	W1("W1-flushing", 4, 4, FLUSHING),

	W2("W2-recycled", run_alone),
	W2("W2-span", run_span),
	W2("W2-fresh", run_fresh),
	{ .name = "W2-instructions", .producers = 1, .metrics = { RATIO("enqueue", "/cb") },
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
	  .metrics = { RATIO("cpu", "us/s"), RATIO("switches", "/s"), NO_RATIO("workers", "threads") } },

	W4("W4", AS_PROCESSORS, COUNTS),
	W4("W4-computing", AS_PROCESSORS, COMPUTES),

	W5("W5", PLAIN),
	W5("W5-alternating", ALTERNATING),

	W7("W7-sleeping", 1, SLEEPS_ITSELF),
	W7("W7-sleeping", 4, SLEEPS_ITSELF),
	W7("W7-sleeping", 16, SLEEPS_ITSELF),
	W7("W7-computing", 1, COMPUTES),
	W7("W7-computing", 4, COMPUTES),
	W7("W7-computing", 16, COMPUTES),

	W8("W8-bounded", BOUNDED),
	W8("W8-unbounded", UNBOUNDED),

	W9("W9-100us", 1, 100000, NOW_AND_THEN),
	W9("W9-3ms", 1, 3000000, NOW_AND_THEN),
	W9("W9-bursts", 1, 3000000, IN_BURSTS),
	W9("W9-filling", 1, 80000, FILLS),
	W9("W9-beside", AS_PROCESSORS, 200000, BESIDE_BUSY),
	{ .name = NULL },
};
