/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * For the tests of the collector add-on, each a process of its own: a queue or none, objects that die, and threads
 * that the collector knows. A conservative collector may keep some objects: where all is said, most is meant,
 * until the end closes and adds up.
 */
#ifndef CQ_TESTS_OBJECTS_H
#define CQ_TESTS_OBJECTS_H

#define GC_THREADS
#include <gc.h>

#include <cq/gc.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

#define MAY_BE_UNUSED __attribute__((unused))
#define APART __attribute__((noinline, unused)) /* or its caller's frame has the pointers, too */

enum { OBJECTS = 1000, FEW = 50 };

static cq_cleanup_t *queue;	/* NULL: in place */
static bool is_open;
static atomic_uint ran;
static void **roots;		/* what keeps objects alive, OBJECTS of them */

/*
 * Before begin_collector, for a child that has threads. The first that the collector makes there starts its markers,
 * and waits for them on a condition variable that has been copied in the middle of its use: now and then
 * for ever (libgc 8.2, and 8.3 still).
 */
static MAY_BE_UNUSED void have_no_markers(void)
{
	CHECK(setenv("GC_MARKERS", "1", 1) == 0);
}

/* Before GC_allow_register_threads the collector takes no lock, which hides deadlocks. */
static MAY_BE_UNUSED void begin_collector(void)
{
	const char *limit = getenv("CQ_TEST_LIMIT");

	alarm(limit != NULL ? (unsigned)atoi(limit) : 30); /* who hangs holds the collector's lock, or waits for it */
	GC_set_handle_fork(1);
	GC_INIT();
	GC_allow_register_threads();
	roots = GC_MALLOC_UNCOLLECTABLE(OBJECTS * sizeof(*roots));
	CHECK(roots != NULL);
}

static MAY_BE_UNUSED void open_in_place(void)
{
	if (roots == NULL)
		begin_collector();
	CHECK(cq_gc_open(NULL) == 0);
	is_open = true;
}

static MAY_BE_UNUSED void open_with(cq_cleanup_config_t config, cq_pool_config_t pool)
{
	if (roots == NULL)
		begin_collector();
	config.pool_config = &pool;
	CHECK(cq_cleanup_create(&config, &queue) == 0);
	CHECK(cq_gc_open(queue) == 0);
	is_open = true;
}

static MAY_BE_UNUSED void open_queue(void)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 2 });
}

/* What is still attached runs, once; but for so many at most, which a forked child's parent was running. */
static MAY_BE_UNUSED void finish_but_for(uint64_t elsewhere)
{
	cq_gc_counts_t c;

	if (!is_open)
		return;
	cq_gc_close();
	if (queue != NULL) {
		CHECK(cq_cleanup_shutdown(queue, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
		CHECK(cq_cleanup_destroy(queue) == 0);
	}
	cq_gc_counts(&c);
	CHECK(c.added - (c.stopped + c.run) <= elsewhere);
}

/* Of every test. */
static MAY_BE_UNUSED void finish(void)
{
	finish_but_for(0);
}

static MAY_BE_UNUSED cq_gc_counts_t counts(void)
{
	cq_gc_counts_t c;

	cq_gc_counts(&c);
	return c;
}

static MAY_BE_UNUSED bool most(uint64_t n, uint64_t all)
{
	return n <= all && n >= all - (all + OBJECTS - 1) / OBJECTS * FEW;
}

/* Hides from the stack of the caller what its callees had there. */
static APART void forget(void)
{
	volatile char stale[8192];

	memset((char *)(uintptr_t)stale, 0, sizeof(stale));
}

/* What dies is found, and has run. */
static MAY_BE_UNUSED void collect(void)
{
	for (int i = 0; i < 3; i++) {
		forget();
		cq_gc_collect();
	}
	if (queue != NULL)
		CHECK(cq_cleanup_drain(queue, CQ_FOREVER) == 0);
}

/* What was free is overwritten, for who still looks at it. */
static APART void overwrite(size_t bytes)
{
	for (int i = 0; i < 50 * OBJECTS; i++)
		memset(i % 2 ? GC_MALLOC(bytes) : GC_MALLOC_ATOMIC(bytes), 0xee, bytes);
}

static MAY_BE_UNUSED void count(void *unused)
{
	(void)unused;
	ran++;
}

/* n objects that are dead when it returns, each with fn(arg). */
static APART void attach_dead(unsigned n, cq_callback_fn *fn, void *arg)
{
	for (unsigned i = 0; i < n; i++)
		CHECK(cq_gc_add(GC_MALLOC(48), fn, arg, NULL) == 0);
	forget();
}

/* As many that are alive while `roots` has them, by pointers to anywhere in them. */
static APART void attach_alive(unsigned n, cq_callback_fn *fn, void *arg)
{
	for (unsigned i = 0; i < n; i++) {
		roots[i] = GC_MALLOC(48);
		CHECK(cq_gc_add((char *)roots[i] + i % 48, fn, arg, NULL) == 0);
	}
	forget();
}

static MAY_BE_UNUSED void drop_roots(void)
{
	memset(roots, 0, OBJECTS * sizeof(*roots));
}

/* ----------------------------------------------------------------- threads */

/* gc.h makes these GC_pthread_create and GC_pthread_join. */
static MAY_BE_UNUSED pthread_t begin(void *(*body)(void *arg), void *arg)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, body, arg) == 0);
	return thread;
}

static MAY_BE_UNUSED void end(pthread_t thread)
{
	CHECK(pthread_join(thread, NULL) == 0);
}

static MAY_BE_UNUSED void threads(unsigned n, void *(*body)(void *index))
{
	pthread_t t[16];

	CHECK(n <= 16);
	for (uintptr_t i = 0; i < n; i++)
		t[i] = begin(body, (void *)i);
	for (unsigned i = 0; i < n; i++)
		end(t[i]);
}

/* ------------------------------------------------------ workers that stand still */

static MAY_BE_UNUSED gate_t stands = GATE_INITIALIZER, go_on = GATE_INITIALIZER;

static MAY_BE_UNUSED void stand_still(void *unused)
{
	(void)unused;
	gate_open(&stands);
	gate_wait(&go_on);
}

/* The only worker stands in a cleanup until `go_on` is opened. */
static MAY_BE_UNUSED void stop_the_worker(void)
{
	attach_dead(FEW, stand_still, NULL);
	forget();
	cq_gc_collect();
	gate_wait(&stands);
}

#endif /* CQ_TESTS_OBJECTS_H */
