/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_sleepers - layer 2 under threads: producers add to a counter, workers
 * take from it and sleep when there is nothing.
 *
 * In each phase the producers wake in one way: by ensure(1), and workers ensure the next;
 * by ensure of all that waits; by wake of as many as they added. One more thread wakes
 * sleepers by wake_sleeper, of those in places that live as long as the program.
 *
 * In half of the phases no wait has a deadline, so that one lost wake-up stops
 * the program; then a watchdog prints the state and aborts. Other sleepers lie on the
 * heap or the stack, and are freed or overwritten as soon as commit_wait returns.
 * At the end of a phase the set is stopped.
 *
 * Conservation: units added = units taken; wakes = returns of CQ_WOKEN, and of those of
 * CQ_STOPPED whose wake came before the stop: one for each worker, at most.
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

enum { PRODUCERS = 2, WORKERS = 5, PICKERS = 1, PHASES = 12, SHORT_NS = 100000, SPIN_NS = 5000 };

/* How producers wake. */
enum waking { ENSURE_ONE, ENSURE_ALL, WAKE, WAKINGS };

/* What the workers did. */
struct tally {
	uint64_t woken, found, again, timed_out, stopped;
};

static cq_sleepers_t set;
static atomic_ullong units, added, taken, wakes;
static atomic_uint producing;
static struct tally tallies[WORKERS];
static cq_sleeper_t places[WORKERS]; /* each worker's, in half of its waits */
static enum waking waking; /* in this phase, as what follows */
static bool deadlines;
static uint64_t end;

static void dump(void)
{
	uint32_t way, waiters = cq_sleepers_waiters(&set, &way);

	fprintf(stderr, "units %llu, added %llu, taken %llu, wakes %llu, waiters %" PRIu32
	    ", on their way %" PRIu32 ", producers %u, waking %d, deadlines %d\n", units, added,
	    taken, wakes, waiters, way, producing, (int)waking, deadlines);
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
static bool take(void)
{
	unsigned long long n = atomic_load_explicit(&units, memory_order_relaxed);

	while (n > 0 && !atomic_compare_exchange_weak_explicit(&units, &n, n - 1,
	    memory_order_relaxed, memory_order_relaxed))
		;
	if (n > 0)
		taken++;
	return n > 0;
}

static uint32_t wake_for(uint32_t n, uint32_t all)
{
	switch (waking) {
	case ENSURE_ONE:
		return cq_sleepers_ensure(&set, 1);
	case ENSURE_ALL:
		return cq_sleepers_ensure(&set, all);
	default:
		return cq_sleepers_wake(&set, n);
	}
}

static void produce(rng_t *r)
{
	while (cq_now() < end) {
		uint32_t n = 1 + (uint32_t)rng_below(r, 3);
		/* Mostly none is left, so that workers keep going to sleep. */
		uint64_t window = rng_below(r, 4) == 0 ? rng_below(r, 16) : 0;
		uint64_t before;

		added += n;
		before = atomic_fetch_add_explicit(&units, n, memory_order_relaxed);
		wakes += rng_below(r, 32) == 0 ? cq_sleepers_wake(&set, UINT32_MAX) :
		    wake_for(n, (uint32_t)before + n);
		while (atomic_load_explicit(&units, memory_order_relaxed) > window)
			sched_yield();
	}
	if (--producing == 0)
		cq_sleepers_stop(&set);
}

/* Wakes who has nothing to do: it sleeps again. */
static void pick(rng_t *r)
{
	while (producing != 0) {
		wakes += cq_sleepers_wake_sleeper(&set, &places[rng_below(r, WORKERS)]);
		sched_yield();
	}
}

static cq_wait_result_t wait_once(cq_sleeper_t *s, rng_t *r, bool *found)
{
	uint64_t deadline = CQ_FOREVER;
	cq_wait_result_t result;

	if (deadlines && rng_below(r, 2) == 0)
		deadline = cq_deadline_in(rng_below(r, SHORT_NS));
	cq_sleepers_prepare_wait(&set, s);
	if ((*found = take())) {
		cq_sleepers_cancel_wait(&set, s);
		return CQ_AGAIN;
	}
	result = cq_sleepers_commit_wait(&set, s, deadline);
	CHECK(result != CQ_TIMED_OUT || (deadline != CQ_FOREVER && cq_now() >= deadline));
	CHECK(result != CQ_STOPPED || producing == 0);
	return result;
}

/* In its place, on the stack or on the heap. */
static cq_wait_result_t wait_somewhere(cq_sleeper_t *place, rng_t *r, bool *found)
{
	cq_sleeper_t on_stack, *s = rng_below(r, 2) == 0 ? &on_stack : malloc(sizeof(*s));
	cq_wait_result_t result;

	CHECK(s != NULL);
	if (rng_below(r, 2) == 0) {
		result = wait_once(place, r, found);
	} else {
		cq_sleeper_init(s, NULL);
		result = wait_once(s, r, found);
	}
	memset(s, 0xdb, sizeof(*s));
	if (s != &on_stack)
		free(s);
	return result;
}

static void chain(void)
{
	if (waking == ENSURE_ONE && atomic_load_explicit(&units, memory_order_relaxed) > 0)
		wakes += cq_sleepers_ensure(&set, 1);
}

static void consume(rng_t *r, struct tally *t, cq_sleeper_t *place)
{
	cq_wait_result_t result = CQ_AGAIN;

	for (;;) {
		bool found = take();

		if (!found && result == CQ_STOPPED)
			return;
		if (!found)
			result = wait_somewhere(place, r, &found);
		if (found) {
			t->found++;
			chain();
			continue;
		}
		t->woken += result == CQ_WOKEN;
		t->again += result == CQ_AGAIN;
		t->timed_out += result == CQ_TIMED_OUT;
		t->stopped += result == CQ_STOPPED;
	}
}

static void work(void *phase, unsigned index)
{
	rng_t r = rng_for(*(unsigned *)phase * 100 + index);

	if (index < PRODUCERS)
		produce(&r);
	else if (index < PRODUCERS + PICKERS)
		pick(&r);
	else
		consume(&r, &tallies[index - PRODUCERS - PICKERS],
		    &places[index - PRODUCERS - PICKERS]);
}

static struct tally total(void)
{
	struct tally sum = { 0, 0, 0, 0, 0 };

	for (int i = 0; i < WORKERS; i++) {
		sum.woken += tallies[i].woken;
		sum.found += tallies[i].found;
		sum.again += tallies[i].again;
		sum.timed_out += tallies[i].timed_out;
		sum.stopped += tallies[i].stopped;
	}
	return sum;
}

static void run_phase(unsigned phase)
{
	uint32_t way;

	CHECK(cq_sleepers_init(&set, phase % 4 < 2 ? NULL : &jitter_ops,
	    phase % 2 == 0 ? 0 : SPIN_NS) == 0);
	for (int i = 0; i < WORKERS; i++)
		cq_sleeper_init(&places[i], NULL);
	deadlines = phase % 2 != 0;
	waking = phase / 4 % WAKINGS;
	producing = PRODUCERS;
	run_threads(PRODUCERS + PICKERS + WORKERS, work, &phase);
	CHECK(units == 0);
	CHECK(added == taken);
	CHECK(wakes >= total().woken && wakes <= total().woken + total().stopped);
	CHECK(cq_sleepers_waiters(&set, &way) == 0 && way == 0);
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
	printf("stress_sleepers: park %s, added %llu = taken %llu, wakes %llu ~ woken %" PRIu64
	    ", stopped %" PRIu64 ", found %" PRIu64 ", again %" PRIu64 ", timed out %" PRIu64 "\n",
	    cq_build_info()->park, added, taken, wakes, sum.woken, sum.stopped, sum.found, sum.again,
	    sum.timed_out);
	return 0;
}
