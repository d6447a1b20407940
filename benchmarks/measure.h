/* SPDX-License-Identifier: BSD-2-Clause */
/* Clocks, counters, processors, and the check that nothing was lost. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "contestant.h"

/* ------------------------------------------------------------------- clocks */

uint64_t clock_ns(clockid_t clock);
uint64_t now(void);		/* monotonic */
uint64_t process_cpu(void);
uint64_t thread_cpu(void);	/* of the calling thread */

void sleep_until(uint64_t at);
void work_until(uint64_t at);	/* keeps the processor */

/* Sleeps that end as soon as the clock says, and not up to 50 us later. Threads
   that the caller makes afterwards inherit it. */
void sleep_exactly(void);

/* Computes. settings.own_work rounds take OWN_WORK_NS. */
enum { OWN_WORK_NS = 21 };
unsigned calibrate_own_work(void);

static inline uint64_t own_work(unsigned rounds, uint64_t x)
{
	for (; rounds != 0; rounds--) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		__asm__ volatile("" : "+r"(x));
	}
	return x;
}

/* ----------------------------------------------------------------- counters */

/* Sorts, in place. */
void sort_ns(uint64_t *v, unsigned n);
/* The value below which `permille` of n sorted ones are. */
double percentile(const uint64_t *sorted, unsigned n, unsigned permille);

/* Context switches of the whole process so far, whatever their cause. */
uint64_t context_switches(void);

/* How often a thread of the process has slept so far. */
uint64_t sleeps(void);

/* System calls of one kind ("futex") that the process makes from now on, also those inside the C library:
   a counter of the kernel's, to be opened before there are other threads. False:
   the kernel or a missing right does not let us. */
bool call_counter_open(const char *call);
uint64_t counted_calls(void);

/* --------------------------------------------------------------- processors */

/*
 * From pinning_begins to pinning_ends, pin_to_next binds the calling thread to
 * the next processor of those that the process has; pin_to to the nth of them.
 * Without -u and outside of these, pin_to_next does nothing.
 */
void pinning_begins(void);
void pinning_ends(void);
void pin_to_next(void);
void pin_to(unsigned nth);
unsigned count_processors(void);

/* ------------------------------------------------------------- conservation */

/* What callbacks a thread has run: the powers 0, 1 and 2 of their numbers, summed
   (no slip of a queue leaves all three as they should be), and the numbers that
   count_other has run. */
struct tally {
	uint64_t sums[4];
	struct tally *next;
} __attribute__((aligned(64)));

/* Callbacks, with a number as argument: as little work as shows that it ran, and once. */
void count(void *number);
void count_other(void *number);

/* While no callback runs. */
struct tally tally_now(void);

/* Threads that have run a callback of the two. */
unsigned tallied_threads(void);

/* Since `before`, the callbacks 1 .. n must have run, `times` times each; if
   `alternating`, the even ones as count_other. */
void check_conserved(const struct contestant *c, const struct tally *before, uint64_t n,
    uint64_t times, bool alternating);
_Noreturn void not_conserved(const struct contestant *c);

/* c->enqueue, which must not fail. */
static inline void enqueue(const struct contestant *c, void *producer, bench_fn *fn, void *arg)
{
	int err = c->enqueue(producer, fn, arg);

	if (err != 0)
		bench_die(c->name, err);
}

/* A producer of callbacks that are all `fn`, and how they are enqueued. */
static inline void *begin_one(const struct contestant *c, void *queue, bench_fn *fn)
{
	return c->begin_one != NULL ? c->begin_one(queue, fn) : c->begin(queue);
}

static inline void put(const struct contestant *c, void *producer, bench_fn *fn, void *arg)
{
	int err = (c->put != NULL ? c->put : c->enqueue)(producer, fn, arg);

	if (err != 0)
		bench_die(c->name, err);
}

/* By a producer of `fn` alone, which begin_one was given. */
static inline void enqueue_numbers_of(const struct contestant *c, void *producer, bench_fn *fn,
    uint64_t first, uint64_t n)
{
	int (*enqueue_one)(void *producer, bench_fn *fn, void *arg) =
	    c->put != NULL ? c->put : c->enqueue;

	for (uint64_t number = first; number < first + n; number++) {
		int err = enqueue_one(producer, fn, (void *)(uintptr_t)number);

		if (err != 0)
			bench_die(c->name, err);
	}
}

static inline void enqueue_numbers(const struct contestant *c, void *producer, uint64_t first,
    uint64_t n)
{
	enqueue_numbers_of(c, producer, count, first, n);
}

/* The even ones as count_other. */
static inline void enqueue_alternating(const struct contestant *c, void *producer, uint64_t first,
    uint64_t n)
{
	for (uint64_t number = first; number < first + n; number++)
		enqueue(c, producer, number % 2 == 0 ? count_other : count,
		    (void *)(uintptr_t)number);
}

/*
 * Makes a queue's workers exist, where they are made on demand: callbacks that
 * wait for each other, one per worker, until all run at once or some time has
 * passed (a queue may give several to one worker). Everything has run on return.
 */
void rouse_workers(const struct contestant *c, void *queue, unsigned workers);

#endif /* BENCH_MEASURE_H */
