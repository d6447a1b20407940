/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_sleepers - layer 2 under threads: producers add to a counter, workers
 * take from it and sleep when there is nothing.
 *
 * In half of the phases no sleep has a deadline, so that one lost wake-up stops
 * the program; then a watchdog prints the state and aborts. Sleepers lie on the
 * heap or the stack, and are freed or overwritten as soon as sleep returns.
 *
 * Conservation: units added = units taken, and wakes = returns of CQ_WOKEN.
 *
 * Environment: CQ_STRESS_SECONDS (2), CQ_TEST_SEED, CQ_TEST_LIMIT (the seconds
 * without progress after which it aborts, 30). Status: 0, or it aborts.
 */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

enum { PRODUCERS = 2, WORKERS = 5, PHASES = 4, SHORT_NS = 100000 };

/* What the workers did. */
struct tally {
	uint64_t woken, found, timed_out;
};

static cq_sleepers_t set;
static atomic_ullong units, added, taken, wakes;
static atomic_uint producing;
static struct tally tallies[WORKERS];
static bool deadlines; /* in this phase */
static uint64_t end;

static void dump(void)
{
	fprintf(stderr, "units %llu, added %llu, taken %llu, wakes %llu, asleep %" PRIu32
	    ", producers %u, deadlines %d\n", units, added, taken, wakes, set.asleep, producing,
	    deadlines);
}

/* The default table, with a chance for others to run before and after each call. */
static void jitter(void)
{
	static _Thread_local rng_t r;

	if (r.state == 0)
		r = rng_for((unsigned)((uintptr_t)&r >> 6));
	if (rng_below(&r, 8) == 0)
		sched_yield();
}

static uint64_t jitter_now(void *host)
{
	(void)host;
	return cq_now();
}

static void jitter_park(void *host, cq_parker_t *p, uint64_t deadline)
{
	(void)host;
	jitter();
	cq_park_default()->park(cq_park_default()->host, p, deadline);
	jitter();
}

static void jitter_unpark(void *host, cq_parker_t *p)
{
	(void)host;
	jitter();
	cq_park_default()->unpark(cq_park_default()->host, p);
	jitter();
}

static const cq_park_ops_t jitter_ops = { jitter_now, jitter_park, jitter_unpark, NULL };

/* Relaxed: all order that the handshake needs is the library's. */
static bool take(void *unused)
{
	unsigned long long n = atomic_load_explicit(&units, memory_order_relaxed);

	(void)unused;
	while (n > 0 && !atomic_compare_exchange_weak_explicit(&units, &n, n - 1,
	    memory_order_relaxed, memory_order_relaxed))
		;
	if (n > 0)
		taken++;
	return n > 0;
}

static bool take_or_end(void *ended)
{
	if (take(NULL))
		return true;
	*(bool *)ended = producing == 0;
	return *(bool *)ended;
}

static void produce(rng_t *r)
{
	while (cq_now() < end) {
		uint32_t n = 1 + (uint32_t)rng_below(r, 3);
		/* Mostly none is left, so that workers keep going to sleep. */
		uint64_t window = rng_below(r, 4) == 0 ? rng_below(r, 16) : 0;

		added += n;
		atomic_fetch_add_explicit(&units, n, memory_order_relaxed);
		wakes += rng_below(r, 32) == 0 ? cq_sleepers_wake_all(&set) :
		    cq_sleepers_wake(&set, n);
		while (atomic_load_explicit(&units, memory_order_relaxed) > window)
			sched_yield();
	}
	if (--producing == 0)
		wakes += cq_sleepers_wake_all(&set);
}

static cq_sleep_result_t sleep_once(rng_t *r, bool *ended)
{
	cq_sleeper_t on_stack;
	cq_sleeper_t *s = rng_below(r, 2) == 0 ? &on_stack : malloc(sizeof(*s));
	uint64_t deadline = CQ_FOREVER;
	cq_sleep_result_t result;

	CHECK(s != NULL);
	if (deadlines && rng_below(r, 2) == 0)
		deadline = cq_deadline_in(rng_below(r, SHORT_NS));
	cq_sleeper_init(s, NULL);
	result = cq_sleepers_sleep(&set, s, take_or_end, ended, deadline);
	CHECK(result != CQ_TIMED_OUT || (deadline != CQ_FOREVER && cq_now() >= deadline));
	memset(s, 0xdb, sizeof(*s));
	if (s != &on_stack)
		free(s);
	return result;
}

static void consume(rng_t *r, struct tally *t)
{
	bool ended = false;

	while (!ended) {
		if (take(NULL))
			continue;
		switch (sleep_once(r, &ended)) {
		case CQ_WOKEN:
			t->woken++;
			break;
		case CQ_WORK:
			t->found++;
			break;
		case CQ_TIMED_OUT:
			t->timed_out++;
		}
	}
	while (take(NULL))
		;
}

static void work(void *phase, unsigned index)
{
	rng_t r = rng_for(*(unsigned *)phase * 100 + index);

	if (index < PRODUCERS)
		produce(&r);
	else
		consume(&r, &tallies[index - PRODUCERS]);
}

static struct tally total(void)
{
	struct tally sum = { 0, 0, 0 };

	for (int i = 0; i < WORKERS; i++) {
		sum.woken += tallies[i].woken;
		sum.found += tallies[i].found;
		sum.timed_out += tallies[i].timed_out;
	}
	return sum;
}

static void run_phase(unsigned phase)
{
	CHECK(cq_sleepers_init(&set, phase % 4 < 2 ? NULL : &jitter_ops) == 0);
	deadlines = phase % 2 != 0;
	producing = PRODUCERS;
	run_threads(PRODUCERS + WORKERS, work, &phase);
	CHECK(units == 0);
	CHECK(added == taken);
	CHECK(wakes == total().woken);
	CHECK(cq_sleepers_asleep(&set) == 0);
	CHECK(cq_sleepers_destroy(&set) == 0);
}

int main(void)
{
	uint64_t begin = cq_now(), length = run_until(2) - begin;
	watchdog_t watchdog;
	struct tally sum;

	test_seed();
	watchdog_start(&watchdog, &taken, dump);
	for (unsigned phase = 0; phase < PHASES; phase++) {
		end = begin + length * (phase + 1) / PHASES;
		run_phase(phase);
	}
	watchdog_stop(&watchdog);
	sum = total();
	CHECK(sum.woken > 0);
	printf("stress_sleepers: park %s, added %llu = taken %llu, wakes %llu = woken %" PRIu64
	    ", found %" PRIu64 ", timed out %" PRIu64 "\n", cq_park_name(), added, taken, wakes,
	    sum.woken, sum.found, sum.timed_out);
	return 0;
}
