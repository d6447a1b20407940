/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the hot calls cost: the atomic operations and locks of one call, counted by
 * src/base/c11/ck_pr.h and the linker (--wrap). It is not what a compiler makes of them.
 */
#include <criterion/criterion.h>

#include "base/barrier.h"
#include "cleanup/producer.h"
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

enum { HANDFUL = 5 };

static cq_cleanup_t *q;
static cq_producer_t *p;

static void nothing(void *unused)
{
	(void)unused;
}

static void put(unsigned n)
{
	while (n-- > 0)
		CHECK(cq_producer_enqueue(p, nothing, NULL) == 0);
}

static void make_with(cq_cleanup_config_t config)
{
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, &p) == 0);
}

static void finish(void)
{
	cq_producer_detach(p);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* ------------------------------------------------------------------- enqueue */

/* One that neither begins a block nor fills one, nor fetches lines. */
static bool count_an_enqueue(void)
{
	bool mark = (char *)p->write + (is_shared(p) ? 1 : 2) * sizeof(void *) >= p->mark;

	count_anew();
	put(1);
	cr_assert_eq(locks, 0);
	cr_assert_eq(ckpr_counts.updates, 0);
	if (!mark)
		cr_assert_eq(ckpr_counts.stores, is_shared(p) ? 2 : 3, "arg, the count, and fn");
	return !mark;
}

static void count_a_block(bool shared)
{
	/* Without membarrier the gate is up: a full fence, and three looks at it. */
	unsigned gated = cq_barrier_asymmetric() ? 0 : 1, marks = 0;

	put(1);
	cr_assert_eq(is_shared(p), shared);
	for (unsigned n = shared ? q->args : q->slots, i = 2; i < n; i++) {
		if (!count_an_enqueue()) {
			marks++;
			continue;
		}
		cr_assert_eq(ckpr_counts.fences, 1 + gated, "the release of the count");
		cr_assert_eq(ckpr_counts.full_fences, gated);
		cr_assert_eq(ckpr_counts.loads, 1 + 3 * gated, "the end");
	}
	cr_assert_lt(marks, q->block_bytes / 1024);
	put(1);
}

Test(cost, enqueue_is_two_stores_and_a_count)
{
	make_with((cq_cleanup_config_t){ 0 });
	count_a_block(false);
	count_a_block(true);
	finish();
}

Test(cost, enqueue_of_a_queue_that_hands_over_updates_nothing_either)
{
	cq_worker_t *w;

	make_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER });
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0); /* it is awake */
	put(1);
	for (unsigned i = 2; i < q->slots; i++)
		count_an_enqueue();
	cq_worker_detach(w);
	finish();
}

/* ---------------------------------------------------------------- needs_wake */

static void needs_wake_is_loads_alone(bool expected, unsigned least, unsigned most)
{
	count_anew();
	cr_assert_eq(cq_cleanup_needs_wake(q), expected);
	cr_assert_eq(locks, 0);
	cr_assert_eq(ckpr_counts.updates, 0);
	cr_assert_eq(ckpr_counts.stores, 0);
	cr_assert_eq(ckpr_counts.fences, 0);
	cr_assert_leq(ckpr_counts.loads, most);
	cr_assert(!all_are_counted || ckpr_counts.loads >= least);
}

Test(cost, needs_wake_is_two_loads_without_work)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	needs_wake_is_loads_alone(false, 2, 2);
	put(1);
	needs_wake_is_loads_alone(false, 2, 2);
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
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .max_workers = 1,
	    .spawn = make_none });
	put(q->slots);
	needs_wake_is_loads_alone(true, 3, HANDFUL);
	cq_crew_add(q, CREW_COMING);
	needs_wake_is_loads_alone(false, 3, HANDFUL);
	cq_crew_add(q, CREW_MADE - CREW_COMING); /* no more can be made */
	needs_wake_is_loads_alone(false, 3, HANDFUL);
	q->idle.asleep = 1;
	needs_wake_is_loads_alone(true, 3, HANDFUL);
	q->idle.asleep = 0;
	cq_crew_add(q, 0 - CREW_MADE);
	q->stop = STOP_WITH_WORK_LEFT;
	needs_wake_is_loads_alone(false, 3, HANDFUL);
	q->stop = 0;
	finish();
}
