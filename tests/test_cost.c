/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the hot calls cost: the atomic operations and locks of one call, counted by
 * src/base/c11/ck_pr.h and the linker (--wrap). It is not what a compiler makes of them.
 */
#include <criterion/criterion.h>

#include "base/process.h"
#include "cleanup/cleanup_priv.h"
#include "pool/pool_priv.h"
#include "support.h"

TestSuite(cost, .timeout = 60);

_Thread_local struct ckpr_counts ckpr_counts;
static _Thread_local unsigned locks;

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	locks++;
	return __real_pthread_mutex_lock(mutex);
}

static void count_anew(void)
{
	ckpr_counts = (struct ckpr_counts){ 0 };
	locks = 0;
}

/* Where a word has 32 bits, those of 64 bits are the compiler's, and not counted. */
static const bool all_are_counted = sizeof(void *) >= sizeof(uint64_t);

static cq_cleanup_t *q;
static cq_producer_t *p;

static void nothing(void *unused)
{
	(void)unused;
}

static void put(unsigned n)
{
	while (n-- > 0)
		CHECK((p->fn != NULL ? cq_producer_put(p, NULL) : cq_producer_enqueue(p, nothing, NULL)) == 0);
}

static void make_with(cq_pool_config_t pool_config, cq_callback_fn *fn)
{
	cq_cleanup_config_t config = { .pool_config = &pool_config, .flush_ns = CQ_FOREVER };

	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, fn, &p) == 0);
}

static void finish(void)
{
	cq_producer_detach(p);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* ------------------------------------------------------------------- enqueue */

/* One that neither begins a block nor fills one. False: it fetches lines. */
static bool count_an_enqueue(void)
{
	size_t fetched = p->fetched;

	count_anew();
	put(1);
	cr_assert_eq(locks, 0);
	cr_assert_eq(ckpr_counts.updates, 0);
	if (p->fetched != fetched)
		return false;
	cr_assert_eq(ckpr_counts.stores, p->fn != NULL ? 2 : 3, "fn, arg and write");
	cr_assert_eq(ckpr_counts.fences, q->fences ? 2 : 1, "the release of write");
	cr_assert_eq(ckpr_counts.full_fences, q->fences ? 1 : 0);
	cr_assert_eq(ckpr_counts.loads, q->fences ? 3 : 1, "limit, listed and closed");
	return true;
}

static void count_a_block(cq_callback_fn *fn, bool fences)
{
	unsigned fetches = 0;

	make_with((cq_pool_config_t){ 0 }, fn);
	q->fences |= fences;
	put(1);
	for (unsigned n = p->slots, i = 2; i < n; i++)
		fetches += !count_an_enqueue();
	cr_assert_lt(fetches, q->block_bytes / 1024);
	put(1);
	finish();
}

Test(cost, enqueue_is_two_stores_and_a_count)
{
	count_a_block(NULL, false);
}

Test(cost, put_is_a_store_and_a_count)
{
	count_a_block(nothing, false);
}

Test(cost, without_an_asymmetric_barrier_each_has_a_full_fence)
{
	count_a_block(NULL, true);
	count_a_block(nothing, true);
}

/* ---------------------------------------------------------- flush and drain of all */

static uint64_t loads_of_a_flush_and_a_drain(void)
{
	count_anew();
	cr_assert_eq(cq_cleanup_flush(q), 0);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	return ckpr_counts.loads;
}

Test(cost, producers_that_write_nothing_cost_flush_and_drain_nothing)
{
	enum { IDLE = 1000 };
	static cq_producer_t *idle[IDLE];
	uint64_t loads;

	make_with((cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED }, NULL);
	loads = loads_of_a_flush_and_a_drain();
	for (unsigned i = 0; i < IDLE; i++)
		cr_assert_eq(cq_producer_attach(q, NULL, &idle[i]), 0);
	cr_assert_eq(loads_of_a_flush_and_a_drain(), loads, "which have never written");
	for (unsigned i = 0; i < IDLE; i++)
		cr_assert_eq(cq_producer_enqueue(idle[i], nothing, NULL), 0);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	cr_assert_eq(loads_of_a_flush_and_a_drain(), loads, "which have written once");
	for (unsigned i = 0; i < IDLE; i++)
		cq_producer_detach(idle[i]);
	finish();
}

/* ------------------------------------------------------- enqueue without a producer */

Test(cost, enqueue_without_a_producer_has_one_update_more_and_no_lock)
{
	make_with((cq_pool_config_t){ 0 }, NULL);
	cr_assert_eq(cq_cleanup_enqueue(q, nothing, NULL), 0);
	count_anew();
	cr_assert_eq(cq_cleanup_enqueue(q, nothing, NULL), 0);
	cr_assert_eq(locks, 0);
	cr_assert_eq(ckpr_counts.updates, 1, "it takes a shared producer");
	cr_assert_eq(ckpr_counts.stores, 4, "fn, arg and write; and lets go of it");
	cr_assert_eq(ckpr_counts.full_fences, q->fences ? 1 : 0);
	finish();
}

enum { THREADS = 32, PRODUCERS = 64 };

static uint32_t cpus[THREADS];

static void note_cpu(void *unused, unsigned index)
{
	(void)unused;
	cpus[index] = cq_cpu();
	CHECK(cq_cpu() == cpus[index]);
}

/* Chance: 32 of 64 numbers, of which 25 differ in the mean. */
Test(cost, where_the_cpu_is_unknown_threads_spread_over_the_shared_producers)
{
	bool seen[PRODUCERS] = { false };
	unsigned differ = 0;

	run_threads(THREADS, note_cpu, NULL);
	for (unsigned i = 0; i < THREADS; i++) {
		differ += !seen[cpus[i] % PRODUCERS];
		seen[cpus[i] % PRODUCERS] = true;
	}
	cr_assert_geq(differ, 8);
}

/* ---------------------------------------------------------------- needs_wake */

enum { HANDFUL = 12 };

static void needs_wake_is_loads_alone(bool expected, unsigned least, unsigned most, unsigned fences)
{
	count_anew();
	cr_assert_eq(cq_pool_needs_wake(q->pool), expected);
	cr_assert_eq(locks, 0);
	cr_assert_eq(ckpr_counts.updates, 0);
	cr_assert_eq(ckpr_counts.stores, 0);
	cr_assert_leq(ckpr_counts.fences, fences);
	cr_assert_leq(ckpr_counts.loads, most);
	cr_assert(!all_are_counted || ckpr_counts.loads >= least);
}

Test(cost, needs_wake_is_three_loads_without_work)
{
	make_with((cq_pool_config_t){ .flags = CQ_POOL_POLLED }, NULL);
	needs_wake_is_loads_alone(false, 3, 3, 0);
	put(1);
	needs_wake_is_loads_alone(false, 3, 3, 0);
	finish();
}

static int make_none(void *unused, void (*body)(void *), void *arg)
{
	(void)unused;
	(void)body;
	(void)arg;
	return -1;
}

Test(cost, needs_wake_is_a_handful_of_loads_with_work)
{
	make_with((cq_pool_config_t){ .flags = CQ_POOL_POLLED, .workers_max = 1, .spawn = make_none },
	    NULL);
	put(q->slots);
	needs_wake_is_loads_alone(true, 3, HANDFUL, 2);
	q->pool->counts += COUNT_MADE + COUNT_LIVE + COUNT_MAKING;
	needs_wake_is_loads_alone(false, 3, HANDFUL, 1);
	q->pool->counts -= COUNT_MAKING; /* no more can be made */
	needs_wake_is_loads_alone(false, 3, HANDFUL, 2);
	q->pool->counts = 0;
	finish();
}
