/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the drivers share: ../README, FROM OUTSIDE. Threads wait in loops that only read, so
 * that a checker sees one that nobody ends (GenMC: --check-liveness): a lost wake-up is that.
 */
#ifndef OUTSIDE_H
#define OUTSIDE_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include <cq/park.h>

#ifdef OUTSIDE_CHECKER
#define YIELD() ((void)0)
#else
#include <sched.h>
#define YIELD() sched_yield()
#endif
#define AWAIT(condition) while (!(condition)) YIELD()
#define CHECK(condition) ((condition) ? (void)0 : abort())

static inline uint64_t no_time(void *unused)
{
	(void)unused;
	return 0;
}

static inline void park(void *unused, cq_parker_t *parker, uint64_t deadline)
{
	(void)unused;
	CHECK(deadline == CQ_FOREVER);
	AWAIT(cq_parker_granted(parker));
}

static inline void unpark(void *unused, cq_parker_t *parker)
{
	(void)unused;
	cq_parker_grant(parker);
}

static const cq_park_ops_t spin = { no_time, park, unpark, NULL };

static inline pthread_t start(void *(*body)(void *arg), void *arg)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, body, arg) == 0);
	return thread;
}

static inline void join(pthread_t thread)
{
	CHECK(pthread_join(thread, NULL) == 0);
}

/* Pieces of work that are only counted: what is to be seen are wakes. */
static uint64_t work, ran;

static inline void add_work(void)
{
	__atomic_fetch_add(&work, 1, __ATOMIC_RELAXED);
}

/* Takes one. Returns how many there were. */
static inline uint64_t take_work(void)
{
	uint64_t n = __atomic_load_n(&work, __ATOMIC_RELAXED);

	while (n != 0 && !__atomic_compare_exchange_n(&work, &n, n - 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	return n;
}

static inline void count_run(void)
{
	__atomic_fetch_add(&ran, 1, __ATOMIC_RELEASE);
}

static inline uint64_t have_run(void)
{
	return __atomic_load_n(&ran, __ATOMIC_ACQUIRE);
}

#endif /* OUTSIDE_H */
