/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Many owners: queues that share the workers of one pool. What each costs, what one may have of
 * the others, and who waits for whom.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

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
	if (config.park == NULL)
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
	int err;

	if (o->p != NULL)
		cq_producer_detach(o->p);
	while ((err = cq_cleanup_shutdown(o->q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL)) == EAGAIN)
		cq_cleanup_run_some(o->q, SIZE_MAX);
	CHECK(err == 0);
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
	cr_assert_eq(pool_stats().workers_max, 2);
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

/* In no callback of its own is anybody then. */
static void *drain_all(void *owner)
{
	CHECK(cq_cleanup_drain(((owner_t *)owner)->q, CQ_FOREVER) == 0);
	CHECK(((owner_t *)owner)->inside == 0);
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
	drainer = start(drain_all, &a);
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

/* ------------------------------------------------------------------- by the owner alone */

static atomic_uint woken;

static void wake_owner(void *owner)
{
	CHECK(owner == &a);
	woken++;
}

static void open_by_owner(owner_t *o)
{
	open_owner(o, (cq_cleanup_config_t){ .parallel = CQ_BY_OWNER, .wake_owner = wake_owner, .host = o });
}

/* Its callbacks wait for no worker, and no worker for them. */
Test(owners, no_worker_runs_what_is_its_owners)
{
	open_pool((cq_pool_config_t){ .workers_max = 2 });
	open_by_owner(&a);
	open_owner(&b, (cq_cleanup_config_t){ 0 });
	for (unsigned i = 0; i < 5; i++)
		publish(&a, run_it);
	cr_assert_eq(cq_cleanup_flush(a.q), 0);
	cr_assert_eq(pool_stats().workers_created, 0);
	cr_assert_eq(pool_stats().tasks_waiting, 0);
	publish(&b, run_it);
	cr_assert_eq(cq_cleanup_drain(b.q, CQ_FOREVER), 0);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 0);
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_eq(a.ran, 0);
	cr_assert_eq(cq_cleanup_run_some(a.q, 2), 2);
	cr_assert_eq(cq_cleanup_run_some(a.q, SIZE_MAX), 3);
	close_owner(&b);
	close_owner(&a);
	cr_assert_eq(a.ran, 5);
	close_pool();
}

Test(owners, an_owner_is_woken_once_until_it_has_run_some)
{
	open_pool((cq_pool_config_t){ 0 });
	open_by_owner(&a);
	for (unsigned i = 0; i < 3; i++)
		publish(&a, run_it);
	cr_assert_eq(woken, 1);
	cr_assert_eq(cq_cleanup_run_some(a.q, 2), 2);
	publish(&a, run_it);
	cr_assert_eq(woken, 2);
	cr_assert_eq(cq_cleanup_run_some(a.q, 9), 2);
	publish(&a, run_it);
	cr_assert_eq(woken, 3);
	publish(&a, run_it);
	cr_assert_eq(woken, 3);
	close_owner(&a);
	close_pool();
}

/* What is left of a block is published again, by the owner. */
Test(owners, an_owner_is_woken_for_the_rest_of_a_block)
{
	open_pool((cq_pool_config_t){ 0 });
	open_by_owner(&a);
	CHECK(cq_producer_enqueue(a.p, run_it, &a) == 0);
	publish(&a, run_it);
	cr_assert_eq(woken, 1);
	cr_assert_eq(cq_cleanup_run_some(a.q, 1), 1);
	cr_assert_eq(woken, 2);
	close_owner(&a);
	close_pool();
}

static struct {
	pthread_mutex_t lock;
	pthread_cond_t posted;
	bool event;
} loop = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };

static void post_event(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&loop.lock);
	loop.event = true;
	pthread_cond_signal(&loop.posted);
	pthread_mutex_unlock(&loop.lock);
}

static void take_event(void)
{
	pthread_mutex_lock(&loop.lock);
	while (!loop.event)
		pthread_cond_wait(&loop.posted, &loop.lock);
	loop.event = false;
	pthread_mutex_unlock(&loop.lock);
}

enum { EACH = 5000 };

static void *loop_of_the_owner(void *unused)
{
	while (a.ran + b.ran < 2 * EACH) {
		take_event();
		while (cq_cleanup_run_some(a.q, 3) == 3)
			;
	}
	return unused;
}

static void send(void *unused, unsigned index)
{
	owner_t *sender = index == 0 ? &a : &b;
	cq_producer_t *p;

	(void)unused;
	CHECK(cq_producer_attach(a.q, run_it, &p) == 0);
	for (unsigned i = 1; i <= EACH; i++) {
		CHECK(cq_producer_put(p, sender) == 0);
		if (i % 3 == 0)
			CHECK(cq_producer_flush(p) == 0);
		if (i % 24 == 0) /* the owner is about to sleep when the next comes */
			AWAIT(sender->ran == i);
	}
	cq_producer_detach(p);
}

/* The loop of cq/cleanup.h: an event that is lost leaves it asleep. */
Test(owners, an_owner_that_sleeps_between_its_runs_misses_nothing)
{
	pthread_t owner;

	open_pool((cq_pool_config_t){ 0 });
	open_owner(&a, (cq_cleanup_config_t){ .parallel = CQ_BY_OWNER, .wake_owner = post_event });
	owner = start(loop_of_the_owner, NULL);
	run_threads(2, send, NULL);
	join(owner);
	cr_assert_eq(a.most, 1);
	cr_assert_eq(pool_stats().workers_created, 0);
	close_owner(&a);
	close_pool();
}

Test(owners, a_drain_of_an_owners_queue_says_that_callbacks_wait_for_it)
{
	open_pool((cq_pool_config_t){ .workers_min = 1, .workers_max = 1 });
	open_by_owner(&a);
	cr_assert_eq(cq_cleanup_drain(a.q, CQ_FOREVER), 0);
	CHECK(cq_producer_enqueue(a.p, run_it, &a) == 0);
	cr_assert_eq(cq_cleanup_drain(a.q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(woken, 1);
	cr_assert_eq(cq_cleanup_run_some(a.q, SIZE_MAX), 1);
	cr_assert_eq(cq_cleanup_drain(a.q, CQ_FOREVER), 0);
	publish(&a, run_it);
	cr_assert_eq(cq_cleanup_shutdown(a.q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), EAGAIN);
	cr_assert_eq(cq_producer_enqueue(a.p, run_it, &a), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_run_some(a.q, SIZE_MAX), 1);
	close_owner(&a);
	close_pool();
}

static void *run_all(void *owner)
{
	CHECK(cq_cleanup_run_some(((owner_t *)owner)->q, SIZE_MAX) == 3);
	return NULL;
}

static void *drain_in_vain(void *owner)
{
	CHECK(cq_cleanup_drain(((owner_t *)owner)->q, CQ_FOREVER) == EAGAIN);
	return NULL;
}

static pthread_t asleep_in_vain(void)
{
	pthread_t drainer = start(drain_in_vain, &a);

	fake_wait_blocked(&park, 1);
	return drainer;
}

/* It sleeps while the owner has in hand what it waits for, and learns of what comes. */
Test(owners, a_drain_that_sleeps_is_told_that_an_owner_is_to_run_more)
{
	pthread_t owner, drainer;

	open_pool((cq_pool_config_t){ 0 });
	open_by_owner(&a);
	publish(&a, stay);
	owner = start(run_all, &a);
	AWAIT(a.inside == 1);
	drainer = asleep_in_vain();
	CHECK(cq_producer_enqueue(a.p, stay, &b) == 0);
	CHECK(cq_producer_flush(a.p) == 0);
	join(drainer);
	/* In the same run: the owner needs no event to come for the next block. */
	gate_open(&a.leave);
	AWAIT(b.inside == 1);
	drainer = asleep_in_vain();
	publish(&a, run_it);
	join(drainer);
	cr_assert_eq(woken, 2);
	gate_open(&b.leave);
	join(owner);
	cr_assert_eq(cq_cleanup_drain(a.q, CQ_FOREVER), 0);
	close_owner(&a);
	close_pool();
}

Test(owners, a_drain_waits_for_what_an_owner_has_in_hand)
{
	pthread_t drainer, owner;

	open_pool((cq_pool_config_t){ 0 });
	open_by_owner(&a);
	publish(&a, stay);
	for (unsigned i = 0; i < 2; i++)
		publish(&a, run_it);
	owner = start(run_all, &a);
	AWAIT(a.inside == 1 && a.ran == 2); /* the newest first */
	drainer = start(drain_all, &a);
	fake_wait_blocked(&park, 1);
	gate_open(&a.leave);
	join(drainer);
	join(owner);
	close_owner(&a);
	close_pool();
}

Test(owners, what_an_owner_has_not_run_is_handed_back)
{
	open_pool((cq_pool_config_t){ 0 });
	open_by_owner(&a);
	publish(&a, run_it);
	CHECK(cq_producer_enqueue(a.p, run_it, &a) == 0);
	cr_assert_eq(cq_cleanup_shutdown(a.q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, give_back, NULL), 0);
	cr_assert_eq(a.ran, 2);
	close_owner(&a);
	close_pool();
}

Test(owners, a_pool_of_an_owners_queue_alone_has_no_thread)
{
	cq_cleanup_config_t config = { .parallel = CQ_BY_OWNER };

	cr_assert_eq(cq_cleanup_create(&config, &a.q), 0);
	pool = cq_cleanup_pool(a.q);
	cr_assert_eq(cq_producer_attach(a.q, NULL, &a.p), 0);
	publish(&a, run_it);
	cr_assert_eq(pool_stats().workers_created, 0);
	close_owner(&a);
	cr_assert_eq(a.ran, 1);
}

static void run_in_the_child(void)
{
	woken = 0;
	publish(&a, run_it);
	CHECK(woken == 1 && pool_stats().workers_created == 0);
	CHECK(cq_cleanup_drain(a.q, CQ_FOREVER) == EAGAIN);
	CHECK(cq_cleanup_run_some(a.q, SIZE_MAX) == 2 && a.ran == 2);
	_exit(0);
}

Test(owners, in_a_child_what_is_its_owners_is_so_too)
{
	pid_t child;
	int status;

	open_pool((cq_pool_config_t){ .park = cq_park_default() });
	open_by_owner(&a);
	publish(&a, run_it);
	child = fork();
	if (child == 0)
		run_in_the_child();
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	cr_assert_eq(cq_cleanup_run_some(a.q, SIZE_MAX), 1);
	close_owner(&a);
	close_pool();
}
