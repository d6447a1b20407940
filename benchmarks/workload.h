/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the contestants do. A workload runs once for one contestant, in a process
 * of its own, on a queue of its own; it checks that every callback ran exactly
 * once, and leaves its metrics. One file per family; workloads.c lists them.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "contestant.h"

enum {
	MAX_METRICS = 10,
	MAX_SAMPLES = 4000,
	AS_PROCESSORS = 0x10000, /* in workload.workers: as many as there are processors */
	AS_HALF /* in both: as half of them, where no line of the table has that */
};

struct metric {
	const char *name, *unit;
	bool plain; /* ratios would say nothing, and there are none */
};

enum state { FAILED, CANNOT, DONE };

/* What a run leaves: memory that its process shares with the one that reports. */
struct result {
	enum state state;		/* DONE, unless somebody says otherwise */
	const char *why;		/* it CANNOT: a literal */
	double metrics[MAX_METRICS];	/* NaN: there is no such thing here */
	unsigned nsamples;		/* of the first metrics' quantity, for its distribution */
	uint32_t samples[MAX_SAMPLES];	/* ns */
	uint64_t steps[2];		/* of a workload with `steps` */
};

struct workload {
	const char *name;
	unsigned producers, workers;
	struct metric metrics[MAX_METRICS]; /* a NULL name ends them, if there are fewer */
	void (*run)(const struct workload *w, const struct contestant *c, struct result *r);

	/* What its family makes of them. */
	int kind;
	uint64_t gap_ns;

	bool once;	/* one round, not `-r` and one to warm up */
	const char *alone; /* what it measures in place of contestants, such as the machine */
	bool steps;	/* the instructions between its stops are counted: see bench_stop */
	bool scales;	/* left out where it has more threads than there are processors */
	bool speedup;	/* of its first metric over that of 1x1, which came before */
	unsigned seconds; /* after which it counts as hanging. 0: option -t */
};

/* What the options say, and what the machine is. */
extern struct settings {
	unsigned long callbacks;	/* per run of W1 and W2: see of_a_run in throughput.c */
	unsigned long queued;		/* of W5 */
	unsigned idle_seconds;		/* of W3-idle */
	bool pinning;			/* W1: threads are bound to processors */
	bool traced;			/* runs are processes, which the first one may trace */
	unsigned processors;
	unsigned own_work;		/* rounds of own_work() that take OWN_WORK_NS */
} settings;

/* The contestant has no such operation, or no such number of workers. */
_Noreturn void cannot(struct result *r, const char *why);

/* create, or cannot. */
void *create(const struct workload *w, const struct contestant *c, struct result *r);

void run_throughput(const struct workload *w, const struct contestant *c, struct result *r);
void run_alone(const struct workload *w, const struct contestant *c, struct result *r);
void run_fresh(const struct workload *w, const struct contestant *c, struct result *r);
void run_span(const struct workload *w, const struct contestant *c, struct result *r);
void run_instructions(const struct workload *w, const struct contestant *c, struct result *r);
void run_wake(const struct workload *w, const struct contestant *c, struct result *r);
void run_idle(const struct workload *w, const struct contestant *c, struct result *r);
void run_bursts(const struct workload *w, const struct contestant *c, struct result *r);
void run_blocks(const struct workload *w, const struct contestant *c, struct result *r);
void run_memory(const struct workload *w, const struct contestant *c, struct result *r);
void run_tables(const struct workload *w, const struct contestant *c, struct result *r);
void run_unflushed(const struct workload *w, const struct contestant *c, struct result *r);
void run_stores(const struct workload *w, const struct contestant *c, struct result *r);
void run_atomics(const struct workload *w, const struct contestant *c, struct result *r);
void run_line(const struct workload *w, const struct contestant *c, struct result *r);
void run_handover(const struct workload *w, const struct contestant *c, struct result *r);
void run_futex(const struct workload *w, const struct contestant *c, struct result *r);
void run_threads(const struct workload *w, const struct contestant *c, struct result *r);
void run_sleepers_calls(const struct workload *w, const struct contestant *c, struct result *r);
void run_pool_calls(const struct workload *w, const struct contestant *c, struct result *r);

/* run_throughput's kinds */
enum { PLAIN, PACED, ALTERNATING, FLUSHING, COMPUTING };
/* run_wake's: what the producer does in the gaps */
enum { SLEEPS, WORKS_ON };
/* run_bursts' and run_blocks': what a callback does */
enum { COUNTS, COMPUTES, SLEEPS_ITSELF };
/* run_tables' */
enum { UNBOUNDED, BOUNDED };
/* run_unflushed's: what comes after each gap, or beside whom */
enum { NOW_AND_THEN, IN_BURSTS, FILLS, BESIDE_BUSY };

/* Ends with one whose name is NULL. */
extern const struct workload workloads[];

#endif /* BENCH_WORKLOAD_H */
