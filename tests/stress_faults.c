/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_faults - every kind of fault, first alone and then in mixes by chance,
 * on a managed, a hosted, a polled and an owned queue. Rounds are short; what each is
 * checked for stands in load.h. It prints how often each kind has struck, and
 * fails when one has not.
 *
 * Environment: CQ_STRESS_SECONDS (2; at least one round of each kind),
 * CQ_TEST_SEED, CQ_TEST_LIMIT (the seconds without progress after which it
 * aborts, 30), CQ_NO_FORKS (set: no kind that forks). Status: 0, 1, or it aborts.
 */
#include <stdio.h>
#include <string.h>

#include "load.h"

enum {
	ROUND_NS = 20000000,	/* and more on a busy machine: */
	ROUND_CALLS = 3000,	/* for so many callbacks, */
	STRETCHES = 10,		/* but so many times as long at most */
	STOP_NS = 100000000,	/* of a worker, by its callback */
	RACES = 32,		/* rounds of what shows races */
	TRIES = 100		/* rounds in which a kind must have struck */
};

static load_t *loads[LOAD_WAYS];
static unsigned rounds;

static void dump(void)
{
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_dump(loads[i]);
}

static void run_round(load_t *l, fault_set_t faults)
{
	unsigned long long before = load_progress;

	faults_set(faults);
	load_open(l, ++rounds, faults);
	for (unsigned i = 0; i < STRETCHES && (i == 0 || load_progress - before < ROUND_CALLS); i++)
		faults_sleep(ROUND_NS);
	load_stop(l);
	faults_set(0);
	load_close(l);
}

/* Once for each way of life, or more often if it is races that it shows; and until it has struck. */
static void run_alone(enum fault kind)
{
	unsigned least = kind == FAULT_PREEMPT || kind == FAULT_STALL ? RACES : LOAD_WAYS;

	for (unsigned i = 0; i < TRIES && (i < least || faults_counted(kind) == 0); i++)
		run_round(loads[i % LOAD_WAYS], FAULT_BIT(kind));
}

/* The promise in faults.h. */
static void draw(bool *answers)
{
	faults_set(FAULT_BIT(FAULT_ALLOC));
	for (unsigned i = 0; i < 1000; i++)
		answers[i] = faults_due(FAULT_ALLOC);
	faults_set(0);
}

static void check_replay(void)
{
	static bool first[1000], other[1000], again[1000];

	faults_reseed();
	draw(first);
	draw(other);
	faults_reseed();
	draw(again);
	CHECK(memcmp(first, again, sizeof(first)) == 0);
	CHECK(memcmp(first, other, sizeof(first)) != 0);
}

static int report(void)
{
	bool all = faults_report();
	load_counts_t sum = { 0 };

	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_add_counts(loads[i], &sum);
	printf("stress_faults: park %s, pop %s, %u rounds, %llu faults: enqueued %llu, executed %llu, "
	    "handed back %llu, refused %llu, children %llu, crew %llu\n", cq_build_info()->park, cq_build_info()->pop,
	    rounds, faults_sum(), sum.enqueued, sum.executed, sum.handed_back, sum.refused, sum.children,
	    sum.crew);
	return all ? 0 : 1;
}

int main(void)
{
	watchdog_t watchdog;
	rng_t chance;
	uint64_t end;
	int status;

	faults_begin();
	chance = rng_for(0);
	check_replay();
	faults_set_stop(STOP_NS);
	end = run_until(2);
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		loads[i] = load_new(i);
	watchdog_start(&watchdog, &load_progress, dump);
	for (enum fault kind = 0; kind < FAULTS_N; kind++)
		if (faults_can_have(kind))
			run_alone(kind);
	do
		run_round(loads[rng_below(&chance, LOAD_WAYS)], faults_mix(&chance));
	while (test_now() < end);
	watchdog_stop(&watchdog);
	status = report();
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_free(loads[i]);
	faults_end();
	return status;
}
