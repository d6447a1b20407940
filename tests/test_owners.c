/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Many owners: queues that share the workers of one pool. What each costs, what one may have of
 * the others, and who waits for whom.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "support.h"

TestSuite(owners, .timeout = 60);

enum { MANY = 1000 };

/* A queue with a producer. Its callbacks get it as their argument. */
typedef struct owner {
	cq_cleanup_t *q;
	cq_producer_t *p;
	uint32_t parallel;
	atomic_uint ran, inside, most;	/* `inside` of them at once; at most so many */
	gate_t leave;
} owner_t;

static cq_pool_t *pool;
static test_alloc_t mem;	/* of the pool and all queues */
static fake_park_t park;
static owner_t a = { .leave = GATE_INITIALIZER }, b = { .leave = GATE_INITIALIZER };

/* -------------------------------------------------------------------- callbacks */

static void enter(owner_t *o)
{
	unsigned inside = ++o->inside, most = o->most;

	CHECK(o->parallel == 0 || inside <= o->parallel);
	while (inside > most && !atomic_compare_exchange_weak(&o->most, &most, inside))
		;
}

static void leave(owner_t *o)
{
	o->inside--;
	o->ran++;
}

static void run_it(void *owner)
{
	enter(owner);
	turn();
	leave(owner);
}

/* Stays inside until its owner's gate is open. */
static void stay(void *owner)
{
	enter(owner);
	gate_wait(&((owner_t *)owner)->leave);
	leave(owner);
}

/* Published at once, in a block of its own. */
static void publish(owner_t *o, cq_callback_fn *fn)
{
	CHECK(cq_producer_enqueue(o->p, fn, o) == 0);
	CHECK(cq_producer_flush(o->p) == 0);
}

/* -------------------------------------------------------------- the pool, its queues */

static void open_pool(cq_pool_config_t config)
{
	test_alloc_init(&mem);
	fake_init(&park);
	config.allocator = &mem.allocator;
	config.park = &park.ops;
	CHECK(cq_pool_create(&config, &pool) == 0);
}

static cq_pool_stats_t pool_stats(void)
{
	cq_pool_stats_t s;

	cq_pool_stats(pool, &s);
	return s;
}

static void close_pool(void)
{
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	CHECK(mem.live_bytes == 0);
}

static void open_queue(owner_t *o, cq_cleanup_config_t config)
{
	config.pool = pool;
	config.allocator = &mem.allocator;
	config.block_bytes = CQ_BLOCK_BYTES_MIN;
	o->parallel = config.parallel;
	CHECK(cq_cleanup_create(&config, &o->q) == 0);
}

static void open_owner(owner_t *o, cq_cleanup_config_t config)
{
	open_queue(o, config);
	CHECK(cq_producer_attach(o->q, NULL, &o->p) == 0);
}

static void close_owner(owner_t *o)
{
	if (o->p != NULL)
		cq_producer_detach(o->p);
	CHECK(cq_cleanup_shutdown(o->q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(o->q) == 0);
}

/* --------------------------------------------------------------------- what each costs */

static owner_t many[MANY];

Test(owners, a_thousand_queues_have_no_more_threads_than_one)
{
	open_pool((cq_pool_config_t){ .workers_max = 2 });
	for (unsigned i = 0; i < MANY; i++)
		open_owner(&many[i], (cq_cleanup_config_t){ 0 });
	cr_assert_eq(pool_stats().workers_created, 0);
	for (unsigned i = 0; i < MANY; i++)
		publish(&many[i], run_it);
	for (unsigned i = 0; i < MANY; i++) {
		cr_assert_eq(cq_cleanup_drain(many[i].q, CQ_FOREVER), 0);
		cr_assert_eq(many[i].ran, 1);
	}
	cr_assert_leq(pool_stats().workers_peak, 2);
	for (unsigned i = 0; i < MANY; i++)
		close_owner(&many[i]);
	close_pool();
}

Test(owners, a_queue_has_at_most_1_KiB_before_its_first_callback)
{
	size_t before;

	open_pool((cq_pool_config_t){ 0 });
	before = mem.live_bytes;
	for (unsigned i = 0; i < MANY; i++)
		open_queue(&many[i], (cq_cleanup_config_t){ 0 });
	cr_assert_leq(mem.live_bytes - before, MANY * 1024, "%zu each",
	    (mem.live_bytes - before) / MANY);
	for (unsigned i = 0; i < MANY; i++)
		close_owner(&many[i]);
	close_pool();
}

/* ----------------------------------------------------------------- who waits for whom */

static void give_back(void *unused, cq_callback_fn *fn, void *owner)
{
	(void)unused;
	(void)fn;
	CHECK(cq_pool_is_current(pool) == false);
	((owner_t *)owner)->ran++;
}

Test(owners, who_ends_a_queue_waits_for_no_callback_of_another)
{
	owner_t c = { .leave = GATE_INITIALIZER };

	open_pool((cq_pool_config_t){ .workers_max = 2 });
	open_owner(&a, (cq_cleanup_config_t){ 0 });
	open_owner(&b, (cq_cleanup_config_t){ 0 });
	open_owner(&c, (cq_cleanup_config_t){ 0 });
	publish(&a, stay);
	AWAIT(a.inside == 1);
	publish(&b, run_it);
	cr_assert_eq(cq_cleanup_drain(b.q, CQ_FOREVER), 0);
	cr_assert_eq(b.ran, 1);
	publish(&b, run_it);
	publish(&c, run_it);
	close_owner(&b);
	cr_assert_eq(b.ran, 2);
	cr_assert_eq(cq_cleanup_shutdown(c.q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, give_back, NULL), 0);
	cr_assert_eq(c.ran, 1);
	close_owner(&c);
	cr_assert_eq(a.inside, 1);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), EBUSY, "a is left");
	gate_open(&a.leave);
	close_owner(&a);
	close_pool();
}

static void *drain(void *owner)
{
	owner_t *o = owner;

	CHECK(cq_cleanup_drain(o->q, CQ_FOREVER) == 0);
	CHECK(o->ran == 1);
	return NULL;
}

Test(owners, who_drains_a_queue_waits_for_its_own_callback_whatever_others_do)
{
	pthread_t drainer;

	open_pool((cq_pool_config_t){ .workers_min = 2, .workers_max = 2 });
	open_owner(&a, (cq_cleanup_config_t){ 0 });
	open_owner(&b, (cq_cleanup_config_t){ 0 });
	publish(&a, stay);
	AWAIT(a.inside == 1);
	fake_wait_blocked(&park, 1);
	drainer = start(drain, &a);
	fake_wait_blocked(&park, 2); /* it, and the other worker */
	publish(&b, run_it);
	cr_assert_eq(cq_cleanup_drain(b.q, CQ_FOREVER), 0);
	fake_wait_blocked(&park, 2);
	gate_open(&a.leave);
	join(drainer);
	close_owner(&a);
	close_owner(&b);
	close_pool();
}

/* ------------------------------------------------------------------ limits of each queue */

Test(owners, the_limit_of_a_queue_is_its_own)
{
	owner_t c = { .leave = GATE_INITIALIZER };

	open_pool((cq_pool_config_t){ .workers_min = 5, .workers_max = 5 });
	open_owner(&a, (cq_cleanup_config_t){ .parallel = 1 });
	open_owner(&b, (cq_cleanup_config_t){ .parallel = 2 });
	open_owner(&c, (cq_cleanup_config_t){ 0 });
	for (unsigned i = 0; i < 3; i++) {
		publish(&a, stay);
		publish(&b, stay);
	}
	AWAIT(a.inside == 1 && b.inside == 2);
	fake_wait_blocked(&park, 2); /* who has no work that may run */
	cr_assert_eq(cq_cleanup_run_some(a.q, 1), 0);
	cr_assert_eq(cq_cleanup_run_some(b.q, 1), 0);
	publish(&c, stay);
	publish(&c, stay);
	AWAIT(c.inside == 2);
	gate_open(&a.leave);
	gate_open(&b.leave);
	gate_open(&c.leave);
	close_owner(&a);
	close_owner(&b);
	close_owner(&c);
	cr_assert_eq(a.ran + b.ran + c.ran, 8);
	close_pool();
}

static void run_some_of_a(void *unused, unsigned index)
{
	(void)unused;
	for (unsigned i = 0; i < 2000; i++)
		cq_cleanup_run_some(a.q, 1 + index);
}

Test(owners, callbacks_of_a_serial_queue_never_overlap)
{
	open_pool((cq_pool_config_t){ .workers_max = 4 });
	open_owner(&a, (cq_cleanup_config_t){ .parallel = 1 });
	for (unsigned i = 0; i < 10000; i++)
		CHECK(cq_producer_enqueue(a.p, run_it, &a) == 0);
	run_threads(2, run_some_of_a, NULL);
	close_owner(&a);
	cr_assert_eq(a.ran, 10000);
	cr_assert_eq(a.most, 1);
	close_pool();
}

/* ------------------------------------------------------------------------------- turns */

static unsigned ran_of_a;	/* when b's callback began */

static void note_a(void *owner)
{
	ran_of_a = a.ran;
	run_it(owner);
}

/* One worker, whose first run is within the flood: the least that another can be given. */
Test(owners, a_flooded_queue_holds_back_no_other)
{
	enum { FLOOD = 200 };

	open_pool((cq_pool_config_t){ .workers_max = 1 });
	open_owner(&a, (cq_cleanup_config_t){ 0 });
	open_owner(&b, (cq_cleanup_config_t){ 0 });
	publish(&a, stay);
	AWAIT(a.inside == 1);
	for (unsigned i = 0; i < FLOOD; i++)
		publish(&a, run_it);
	publish(&b, note_a);
	for (unsigned i = 0; i < FLOOD; i++)
		publish(&a, run_it);
	gate_open(&a.leave);
	close_owner(&b);
	/* The block that it had, and one: the task's chain had its record in the stack first. */
	cr_assert_leq(ran_of_a, 2);
	close_owner(&a);
	cr_assert_eq(a.ran, 2 * FLOOD + 1);
	close_pool();
}
