/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Usage: boehm cq|in_place OBJECTS
 *
 * One measurement of cleanups of the Boehm collector, on libcq's workers or in place
 * (examples/gccleanup), after a few to warm up: OBJECTS are made, with a cleanup each,
 * and dropped; a collection is forced, and the clock stops after the last cleanup. A
 * conservative collector may keep some, which it says. go.go and Java.java do the same.
 */
#define GC_THREADS
#include <gc.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cq/gc.h>

enum { WARM_UPS = 3, TIMES = WARM_UPS + 1, WORDS = 6 };

static const char *name;
static cq_cleanup_t *queue;	/* NULL: in place */
static size_t objects;
static void **dropped;		/* collected, and a root as such */
static uint8_t *ran;		/* how often each cleanup; of all times */
static atomic_size_t nran;

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "boehm: %s\n", what);
	exit(1);
}

static double clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void cleanup(void *arg)
{
	++*(uint8_t *)arg;
	atomic_fetch_add(&nran, 1);
}

/* `first` is the place of the first one's cleanup in `ran`; NULL: they have none. */
static __attribute__((noinline)) void fill(uint8_t *first)
{
	for (size_t i = 0; i < objects; i++) {
		dropped[i] = GC_MALLOC(WORDS * sizeof(void *));
		if (dropped[i] == NULL)
			fail("no memory");
		if (first != NULL && cq_gc_add(dropped[i], cleanup, first + i, NULL) != 0)
			fail("cq_gc_add fails");
	}
}

/* With what the stack has of them. */
static __attribute__((noinline)) void drop(void)
{
	volatile char stale[4096];

	memset((char *)(uintptr_t)stale, 0, sizeof(stale));
	memset(dropped, 0, objects * sizeof(*dropped));
}

struct times {
	double wall, cpu;
};

static struct times now(void)
{
	return (struct times){ clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_PROCESS_CPUTIME_ID) };
}

/* In ns per object. */
static struct times since(struct times began)
{
	struct times t = now();

	return (struct times){ (t.wall - began.wall) / (double)objects,
		(t.cpu - began.cpu) / (double)objects };
}

static void measure(uint8_t *first, bool report)
{
	struct times began, attach, plain, collect, all;

	cq_gc_collect();
	fill(NULL);
	drop();
	began = now();
	cq_gc_collect();
	plain = since(began);

	atomic_store(&nran, 0);
	began = now();
	fill(first);
	attach = since(began);
	drop();
	began = now();
	cq_gc_collect(); /* enqueues, or runs, the cleanups of the dead */
	collect = since(began);
	if (queue != NULL && cq_cleanup_drain(queue, CQ_FOREVER) != 0)
		fail("cq_cleanup_drain fails");
	all = since(began);
	if (report)
		printf("%s attach %.2f plain %.2f plain_cpu %.2f collect %.2f wall %.2f cpu %.2f kept %ld\n",
		    name, attach.wall, plain.wall, plain.cpu, collect.wall, all.wall, all.cpu,
		    (long)objects - (long)atomic_load(&nran));
}

static void check(void)
{
	for (size_t i = 0; i < TIMES * objects; i++)
		if (ran[i] != 1)
			fail("a cleanup did not run, or twice");
}

static void start(int argc, char **argv)
{
	bool in_place = argc == 3 && strcmp(argv[1], "in_place") == 0;

	objects = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	if (objects == 0 || (!in_place && strcmp(argv[1], "cq") != 0))
		fail("usage: boehm cq|in_place OBJECTS");
	name = in_place ? "boehm_in_place" : "boehm_cq";
	GC_INIT();
	if (!in_place && cq_cleanup_create(NULL, &queue) != 0)
		fail("cq_cleanup_create fails");
	if (cq_gc_open(queue) != 0)
		fail("cq_gc_open fails");
	dropped = GC_MALLOC_UNCOLLECTABLE(objects * sizeof(*dropped));
	ran = calloc(TIMES, objects);
	if (dropped == NULL || ran == NULL)
		fail("no memory");
}

int main(int argc, char **argv)
{
	start(argc, argv);
	for (int i = 0; i < TIMES; i++)
		measure(ran + (size_t)i * objects, i == WARM_UPS);
	cq_gc_close();
	if (queue != NULL && (cq_cleanup_shutdown(queue, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0 ||
	    cq_cleanup_destroy(queue) != 0))
		fail("the queue does not end");
	check();
	return 0;
}
