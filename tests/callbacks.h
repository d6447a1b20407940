/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * For the tests of the cleanup queue: a queue of small blocks with a producer, an allocator that
 * can fail, a fake park, and numbered callbacks that note how often and in which order they ran.
 */
#ifndef CQ_TESTS_CALLBACKS_H
#define CQ_TESTS_CALLBACKS_H

#include <errno.h>
#include <string.h>

#include "cleanup/cleanup_priv.h"
#include "pool/pool_priv.h"
#include "support.h"

#define MAY_BE_UNUSED __attribute__((unused))

enum { SLOTS = 4, MANY = 1 << 16 };

static test_alloc_t mem;	/* of the queue and its pool */
static fake_park_t park;
static cq_cleanup_t *q;
static cq_producer_t *p;

/* ---------------------------------------------------------------- callbacks */

/* Callback i runs, or is given back: once in all. */
static atomic_uint ran[MANY], runs;
static unsigned order[64]; /* of the first ones */
static atomic_uint given_back;

static MAY_BE_UNUSED void run_it(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg, at = runs++;

	ran[i]++;
	if (at < 64)
		order[at] = i;
}

/* A cq_give_back_fn. */
static MAY_BE_UNUSED void take_back(void *unused, cq_callback_fn *fn, void *arg)
{
	(void)unused;
	given_back++;
	fn(arg);
}

static MAY_BE_UNUSED bool each_once(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (ran[i] != 1)
			return false;
	return runs == n;
}

static MAY_BE_UNUSED void forget_callbacks(void)
{
	memset(ran, 0, sizeof(ran));
	runs = given_back = 0;
}

/* By a producer of either kind; one with a function has run_it. */
static MAY_BE_UNUSED int try_put(cq_producer_t *to, unsigned i)
{
	void *arg = (void *)(uintptr_t)i;

	return to->fn != NULL ? cq_producer_put(to, arg) : cq_producer_enqueue(to, run_it, arg);
}

static MAY_BE_UNUSED void put(cq_producer_t *to, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		CHECK(try_put(to, i) == 0);
}

/* ---------------------------------------------------------------- the queue */

static MAY_BE_UNUSED void out_of_memory(bool yes)
{
	mem.fail_on = yes;
	mem.fail_in = yes;
}

/* What a config leaves out: the fake park, the allocator, blocks of SLOTS pairs. */
static MAY_BE_UNUSED void make_with(cq_cleanup_config_t config, cq_pool_config_t pool_config)
{
	if (mem.allocator.alloc == NULL)
		test_alloc_init(&mem);
	if (park.ops.now == NULL)
		fake_init(&park);
	if (config.block_bytes == 0)
		config.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);
	config.allocator = &mem.allocator;
	if (pool_config.park == NULL)
		pool_config.park = &park.ops;
	pool_config.allocator = &mem.allocator;
	if (config.pool == NULL)
		config.pool_config = &pool_config;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
}

/* Nothing runs but in run_some. */
static MAY_BE_UNUSED void make(void)
{
	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
}

static MAY_BE_UNUSED cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
}

static MAY_BE_UNUSED cq_pool_stats_t pool_stats(void)
{
	cq_pool_stats_t s;

	cq_pool_stats(cq_cleanup_pool(q), &s);
	return s;
}

/* Blocks that are published and not taken. Also at points, where the queue's lock may be held. */
static MAY_BE_UNUSED uint64_t waiting(void)
{
	return cq_blocks_waiting(q);
}

static MAY_BE_UNUSED void run_all(void *unused)
{
	(void)unused;
	cq_cleanup_run_some(q, SIZE_MAX);
}

static MAY_BE_UNUSED void flush(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush(q) == 0);
}

/* Ends the queue: callbacks 0 .. n-1 and no others have run or been given back, once, and all
   memory. Another queue may be made then. */
static MAY_BE_UNUSED void finish(unsigned n)
{
	out_of_memory(false);
	cq_producer_detach(p);
	p = NULL;
	if ((q->pool->config.flags & CQ_POOL_HOSTED) != 0)
		run_all(NULL);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, take_back, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	q = NULL;
	CHECK(mem.live_bytes == 0);
	CHECK(each_once(n));
	forget_callbacks();
}

/* Is anyone asleep there, and not only about to be? */
static inline bool asleep_in(cq_sleepers_t *set)
{
	bool asleep;

	pthread_mutex_lock(&set->lock);
	asleep = set->newest != NULL;
	pthread_mutex_unlock(&set->lock);
	return asleep;
}

#endif /* CQ_TESTS_CALLBACKS_H */
