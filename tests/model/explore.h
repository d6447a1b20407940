/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a scenario of the model check sees of the explorer. README says how it
 * works. A scenario is a function that runs as thread 0 of a small program; the
 * explorer runs it once for every schedule, every value that a load may return
 * and every choice, within the bounds.
 */
#ifndef MODEL_EXPLORE_H
#define MODEL_EXPLORE_H

#include <stdbool.h>
#include <stdint.h>

#define UNBOUNDED (-1)

/*
 * How much of what is rare one execution may have. Exhaustive within it.
 *
 * preemptions  switches away from a thread that could have gone on
 * stale        loads and read-modify-writes that read another store than the newest,
 *              and stores that take effect before one that was executed earlier
 * spurious     waits that return for no reason
 */
struct bounds {
	int preemptions, stale, spurious;
};

/* For the tables: no spurious returns. */
#define SOME(PREEMPTIONS, STALE) { PREEMPTIONS, STALE, 0 }

struct scenario {
	const char *name;	/* a sentence in words_with_underscores */
	void (*run)(void);
	struct bounds brief, full;
};

extern const struct scenario workq_scenarios[], sleepers_scenarios[], pool_scenarios[],
    cleanup_scenarios[], shutdown_scenarios[], litmus_scenarios[];

/* Another thread; at most 7 in all. Returns its number. */
int spawn(void (*body)(void *arg), void *arg);

/* Waits until that thread has ended. */
void join(int thread);

/* Waits until all threads that spawn made have ended. */
void join_all(void);

/* One of 0 .. n - 1: each is tried. */
int choose(int n);

/* The calling thread is on that processor from here on, at first on 0. */
void run_on(unsigned cpu);

/* From here on nothing rare happens: for the end of a scenario that others check. */
void calm_down(void);

/*
 * For a scenario that knows its outcomes: those that there are, as bits, and which one
 * this execution has come to. It fails at another, and at the end if one was never met.
 */
void expect(unsigned outcomes);
void outcome(unsigned i);
/* A data race in this execution is outcome i, and ends it. */
void expect_race(unsigned i);

void model_fail(const char *what, ...) __attribute__((format(printf, 1, 2), noreturn));

#define CHECK(condition) \
	((condition) ? (void)0 : model_fail("%s:%d: %s", __FILE__, __LINE__, #condition))

#endif /* MODEL_EXPLORE_H */
