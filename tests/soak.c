/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * soak - a managed, a hosted and a polled queue at once, for minutes, with every
 * kind of fault. In rounds of a few seconds a mix of faults is chosen; at the end
 * of each the faults go off and the books are checked (load.h), and new queues
 * are made. A line a second says how it stands.
 *
 * A stall, no callback settled for CQ_TEST_LIMIT seconds though all producers go
 * on, aborts with the state of each queue. The last line is the verdict.
 *
 * Environment: CQ_SOAK_MINUTES (10; at least a round for each kind of fault),
 * CQ_TEST_SEED, CQ_TEST_LIMIT (30). Status: 0, 1 when a kind of fault never
 * struck, or it aborts.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

static const uint64_t second = 1000000000;
static load_t *loads[LOAD_WAYS];
static unsigned rounds;
static uint64_t began;
static gate_t over = GATE_INITIALIZER;

static load_counts_t count_all(void)
{
	load_counts_t sum = { 0 };

	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_add_counts(loads[i], &sum);
	return sum;
}

static void report(void)
{
	load_counts_t sum = count_all();

	printf("%5" PRIu64 " s  round %u  enqueued %llu  executed %llu  handed back %llu  live %" PRIu32
	    "  idle %" PRIu32 "  faults %llu  lost %llu\n", (test_now() - began) / second, rounds,
	    sum.enqueued, sum.executed, sum.handed_back, sum.live, sum.idle, faults_sum(), sum.lost);
	fflush(stdout);
}

static void *report_every_second(void *unused)
{
	(void)unused;
	while (!gate_wait_until(&over, test_now() + second))
		report();
	return NULL;
}

static void dump(void)
{
	for (enum fault kind = 0; kind < FAULTS_N; kind++)
		fprintf(stderr, "%s: %llu\n", faults_name(kind), faults_counted(kind));
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_dump(loads[i]);
}

/* A check that fails aborts, in this process or in a child. */
static void say_that_it_failed(int number)
{
	static const char verdict[] = "soak: FAILED: see the check above\n";

	(void)!write(STDOUT_FILENO, verdict, sizeof(verdict) - 1);
	signal(number, SIG_DFL);
	raise(number);
}

static uint64_t minutes(void)
{
	const char *s = getenv("CQ_SOAK_MINUTES");

	return (uint64_t)((s != NULL ? strtod(s, NULL) : 10) * 60e9);
}

/* The seconds of a round, or less, so that there is one for each kind of fault. */
static uint64_t at_most(uint64_t seconds)
{
	uint64_t share = minutes() / FAULTS_N;

	return share < seconds * second ? share : seconds * second;
}

static void run_round(rng_t *chance)
{
	fault_set_t one = FAULT_BIT(rounds++ % FAULTS_N) & faults_possible();
	fault_set_t faults = faults_mix(chance) | one; /* so that none is left out */
	uint64_t ns = rng_below(chance, at_most(6) + 1);

	faults_set(faults);
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_open(loads[i], rounds * LOAD_WAYS + i, faults);
	faults_sleep(ns);
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_stop(loads[i]);
	faults_set(0);
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_close(loads[i]);
}

static int verdict(void)
{
	load_counts_t sum = count_all();
	bool all = faults_report();

	printf("soak: %s: %" PRIu64 " s, %u rounds, enqueued %llu, executed %llu, handed back %llu, lost %llu, "
	    "refused %llu, children %llu, crew %llu, faults %llu\n",
	    all && sum.lost == 0 ? "passed" : "FAILED", (test_now() - began) / second, rounds,
	    sum.enqueued, sum.executed, sum.handed_back, sum.lost, sum.refused, sum.children, sum.crew,
	    faults_sum());
	return all && sum.lost == 0 ? 0 : 1;
}

int main(void)
{
	watchdog_t watchdog;
	pthread_t reporter;
	rng_t chance;
	int status;

	faults_begin();
	signal(SIGABRT, say_that_it_failed);
	chance = rng_for(0);
	faults_set_stop(at_most(3));
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		loads[i] = load_new(i);
	began = test_now();
	watchdog_start(&watchdog, &load_progress, dump);
	reporter = start(report_every_second, NULL);
	do
		run_round(&chance);
	while (test_now() - began < minutes() || rounds < FAULTS_N);
	gate_open(&over);
	join(reporter);
	watchdog_stop(&watchdog);
	status = verdict();
	for (unsigned i = 0; i < LOAD_WAYS; i++)
		load_free(loads[i]);
	faults_end();
	return status;
}
