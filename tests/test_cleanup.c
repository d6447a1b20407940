/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queue as a whole: its config, its pool, its memory, its statistics. Producers have
 * test_producer.c, and those who wait test_drain.c.
 */
#include <criterion/criterion.h>

#include "callbacks.h"
#include "workq/stack.h"

TestSuite(cleanup, .timeout = 60);

static const cq_pool_config_t by_hand = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };

/* Callbacks that stay inside until they are let go. */
static atomic_uint inside;
static gate_t leave = GATE_INITIALIZER;

static void stay(void *arg)
{
	inside++;
	gate_wait(&leave);
	run_it(arg);
}

static void put_to_stay(cq_producer_t *to, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		CHECK(cq_producer_enqueue(to, stay, (void *)(uintptr_t)i) == 0);
}

static void *poll(void *unused)
{
	run_all(NULL);
	return unused;
}

/* ----------------------------------------------------------- create, destroy */

static int create_with(cq_cleanup_config_t config)
{
	cq_cleanup_t *made = NULL;
	int err = cq_cleanup_create(&config, &made);

	if (err == 0)
		CHECK(cq_cleanup_destroy(made) == 0);
	else
		CHECK(made == NULL);
	return err;
}

#define CREATE(...) create_with((cq_cleanup_config_t){ __VA_ARGS__ })

Test(cleanup, create_and_destroy_of_an_unused_queue)
{
	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(cq_cleanup_destroy(NULL), 0);
	cr_assert_eq(cq_cleanup_create(NULL, NULL), EINVAL);
	cr_assert_eq(CREATE(0), 0);
}

Test(cleanup, the_library_has_the_version_of_its_headers)
{
	cr_assert_str_eq(cq_version(), CQ_VERSION_STRING);
}

Test(cleanup, fields_outside_their_limits_are_refused)
{
	cr_assert_eq(CREATE(.block_bytes = 1), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MIN - 1), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MIN), 0);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MIN + 1), 0);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MAX), 0);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MAX + 1), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = SIZE_MAX), EINVAL);
	cr_assert_eq(CREATE(.flags = CQ_CLEANUP_FORK_DISCARD), 0);
	cr_assert_eq(CREATE(.flags = 2), EINVAL);
	cr_assert_eq(CREATE(.flags = 1u << 31), EINVAL);
	cr_assert_eq(CREATE(.parallel = CQ_BY_OWNER - 1), 0);
	cr_assert_eq(CREATE(.parallel = CQ_BY_OWNER), 0);
	cr_assert_eq(CREATE(.parallel = CQ_BY_OWNER, .wake_owner = flush), 0);
	cr_assert_eq(CREATE(.wake_owner = flush), EINVAL, "workers come");
}

/* Programs of an older and of a newer version, with a field less and a field more. */
struct newer_config {
	cq_cleanup_config_t known;
	char later[24];
};

struct newer_stats {
	cq_cleanup_stats_t known;
	char later[24];
};

Test(cleanup, a_shorter_config_is_completed_with_zeros)
{
	cq_cleanup_config_t config;

	memset(&config, 0xff, sizeof(config)); /* what follows it is not the caller's */
	config.flags = 0;
	config.parallel = 7;
	config.block_bytes = CQ_BLOCK_BYTES_MIN;
	cr_assert_eq(cq_cleanup_create_sized(&config, offsetof(cq_cleanup_config_t, block_bytes), &q), 0);
	cr_assert_eq(q->task->parallel, 7);
	cr_assert(q->own_pool);
	cr_assert_eq(stats().block_bytes, CQ_BLOCK_BYTES);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(cq_cleanup_create_sized(&config, 0, &q), EINVAL);
	cr_assert_eq(cq_cleanup_create_sized(NULL, 0, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(cleanup, a_longer_config_may_ask_for_nothing_that_is_unknown)
{
	struct newer_config config = { .known.parallel = 7 };

	cr_assert_eq(cq_cleanup_create_sized(&config.known, sizeof(config), &q), 0);
	cr_assert_eq(q->task->parallel, 7);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	config.later[sizeof(config.later) - 1] = 1;
	cr_assert_eq(cq_cleanup_create_sized(&config.known, sizeof(config), &q), E2BIG);
	cr_assert_eq(cq_cleanup_create_sized(&config.known, sizeof(config) - 1, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(cleanup, statistics_fill_the_size_that_the_caller_has_and_no_more)
{
	struct newer_stats s;

	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	memset(&s, 0xff, sizeof(s));
	cq_cleanup_stats_sized(q, &s.known, offsetof(cq_cleanup_stats_t, handed_back));
	cr_assert_eq(s.known.queued, 0);
	cr_assert_eq(s.known.executed, 0);
	cr_assert_eq(s.known.handed_back, UINT64_MAX);
	cq_cleanup_stats_sized(q, &s.known, sizeof(s) - 1);
	cr_assert_eq(s.known.block_bytes, CQ_BLOCK_BYTES);
	cr_assert_eq(s.later[0], 0);
	cr_assert_eq(s.later[sizeof(s.later) - 2], 0);
	cr_assert_eq(s.later[sizeof(s.later) - 1], (char)0xff);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(cleanup, an_allocator_with_gaps_is_refused_before_memory_is_had)
{
	cq_allocator_t allocator;

	test_alloc_init(&mem);
	allocator = mem.allocator;
	allocator.alloc = NULL;
	cr_assert_eq(CREATE(.allocator = &allocator), EINVAL);
	allocator = mem.allocator;
	allocator.free = NULL;
	cr_assert_eq(CREATE(.allocator = &allocator), EINVAL);
	cr_assert_eq(mem.calls, 0);
}

static void *off_by_eight(void *host, size_t bytes, size_t align)
{
	char *m = mem.allocator.alloc(host, bytes + align, align);

	return m != NULL ? m + 8 : NULL;
}

static void free_off_by_eight(void *host, void *memory, size_t bytes)
{
	mem.allocator.free(host, (char *)memory - 8, bytes + CQ_LINE);
}

Test(cleanup, memory_that_is_not_aligned_is_refused)
{
	cq_allocator_t allocator = { off_by_eight, free_off_by_eight, &mem };

	test_alloc_init(&mem);
	cr_assert_eq(CREATE(.allocator = &allocator), EINVAL);
	cr_assert_eq(mem.calls, 1);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(cleanup, config_and_its_tables_are_copied)
{
	char name[] = "short-lived";
	cq_allocator_t allocator;
	cq_pool_config_t pool_config = by_hand;
	cq_cleanup_config_t config = { .pool_config = &pool_config, .allocator = &allocator };

	test_alloc_init(&mem);
	allocator = mem.allocator;
	pool_config.name = name;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	memset(&allocator, 0xff, sizeof(allocator));
	memset(name, 'x', sizeof(name) - 1);
	memset(&pool_config, 0xff, sizeof(pool_config));
	memset(&config, 0xff, sizeof(config));
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0);
	put(p, 0, 1);
	cr_assert_str_eq(q->pool->config.name, "short-lived");
	finish(1);
}

Test(cleanup, block_sizes_are_rounded_down_to_whole_callbacks)
{
	const size_t whole = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);

	for (size_t more = 0; more <= sizeof(cq_callback_t); more++) {
		unsigned slots = more < sizeof(cq_callback_t) ? SLOTS : SLOTS + 1;

		make_with((cq_cleanup_config_t){ .block_bytes = whole + more }, by_hand);
		cr_assert_eq(q->slots, slots);
		cr_assert_eq(stats().block_bytes, whole + (slots - SLOTS) * sizeof(cq_callback_t));
		put(p, 0, 1); /* a block, which is freed at the end */
		finish(1);
	}
}

static void is_busy(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_destroy(q) == EBUSY);
	CHECK(cq_cleanup_trim(q, NULL) == EBUSY);
	runs++;
}

Test(cleanup, destroy_is_refused_while_anyone_or_anything_is_left, .init = make)
{
	pthread_t thread;

	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "a producer is attached");
	put_to_stay(p, 0, 1);
	cq_producer_detach(p);
	p = NULL;
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "a callback is left");
	thread = start(poll, NULL);
	AWAIT(inside == 1);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "it runs");
	gate_open(&leave);
	join(thread);
	finish(1);
}

static void run_nothing(cq_run_t *run, void *unused)
{
	(void)run;
	(void)unused;
}

Test(cleanup, destroy_is_refused_while_its_own_pool_has_another_task, .init = make)
{
	static const cq_task_ops_t ops = { .run = run_nothing };
	cq_task_t *task;

	cr_assert_eq(cq_task_create(cq_cleanup_pool(q), &ops, NULL, 0, &task), 0);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0, "nothing happened");
	cr_assert_eq(cq_task_close(task, CQ_FOREVER), 0);
	finish(0);
}

/* Trim would free the block that is being given back. */
Test(cleanup, destroy_and_trim_are_refused_while_a_shutdown_gives_back, .init = make)
{
	cr_assert_eq(cq_producer_enqueue(p, is_busy, NULL), 0);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL), 0);
	cr_assert_eq(runs, 1);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

/* ------------------------------------------------------------------- its pool */

Test(cleanup, a_queue_has_a_pool_of_its_own_or_the_one_that_it_is_given)
{
	cq_cleanup_config_t config = { .pool_config = &by_hand };

	cr_assert_eq(cq_pool_create(NULL, &config.pool), 0);
	cr_assert_eq(cq_cleanup_create(&config, &q), EINVAL, "both");
	make_with((cq_cleanup_config_t){ .pool = config.pool }, by_hand);
	cr_assert_eq(cq_cleanup_pool(q), config.pool);
	cr_assert_eq(cq_pool_destroy(config.pool, CQ_FOREVER), EBUSY);
	finish(0);
	cr_assert_eq(cq_pool_destroy(config.pool, CQ_FOREVER), 0, "it outlives the queue");
	make();
	cr_assert_eq(cq_cleanup_pool(q)->config.flags, by_hand.flags);
	finish(0);
}

static int make_none(void *unused, void (*body)(void *), void *arg)
{
	(void)unused, (void)body, (void)arg;
	return EMFILE;
}

Test(cleanup, without_its_pool_no_queue_is_made)
{
	static const cq_park_ops_t with_gaps = { 0 };
	const cq_pool_config_t limits = { .workers_min = 2, .workers_max = 1 },
		table = { .park = &with_gaps }, spawn = { .workers_min = 1, .spawn = make_none };

	test_alloc_init(&mem);
	cr_assert_eq(CREATE(.pool_config = &limits, .allocator = &mem.allocator), EINVAL);
	cr_assert_eq(CREATE(.pool_config = &table, .allocator = &mem.allocator), EINVAL);
	cr_assert_eq(CREATE(.pool_config = &spawn, .allocator = &mem.allocator), EMFILE);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(cleanup, memory_is_that_of_its_pools_allocator_unless_it_has_one)
{
	test_alloc_t pools;
	cq_pool_config_t pool_config = by_hand;
	cq_cleanup_config_t config = { .pool_config = &pool_config };
	unsigned long calls;

	test_alloc_init(&mem);
	test_alloc_init(&pools);
	pool_config.allocator = &mem.allocator;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	calls = mem.calls;
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0);
	put(p, 0, 1);
	cr_assert_eq(mem.calls, calls + 2);
	finish(1);

	pool_config.allocator = &pools.allocator;
	config.allocator = &mem.allocator;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	calls = pools.calls;
	cr_assert_gt(calls, 0);
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0);
	put(p, 0, 1);
	cr_assert_eq(pools.calls, calls);
	finish(1);
	cr_assert_eq(pools.live_bytes, 0);
}

static atomic_uint ended;

static void note_end(void *unused)
{
	(void)unused;
	ended++;
}

static atomic_uint noted;

static void note_run(cq_run_t *run, void *unused)
{
	(void)run, (void)unused;
	noted++;
}

static const cq_pool_config_t with_two = { .workers_min = 2, .workers_max = 2, .worker_end = note_end };

static void run_a_block(void)
{
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(pool_stats().workers_live, 2);
	cq_producer_detach(p);
	cr_assert_eq(ended, 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* Also without a shutdown. */
Test(cleanup, destroy_ends_the_workers_of_its_own_pool)
{
	make_with((cq_cleanup_config_t){ 0 }, with_two);
	run_a_block();
	cr_assert_eq(ended, 2);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(cleanup, destroy_leaves_the_workers_of_a_pool_that_it_was_given)
{
	cq_pool_t *pool;

	cr_assert_eq(cq_pool_create(&with_two, &pool), 0);
	make_with((cq_cleanup_config_t){ .pool = pool }, by_hand);
	run_a_block();
	cr_assert_eq(ended, 0);
	cr_assert_eq(mem.live_bytes, 0);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
	cr_assert_eq(ended, 2);
}

Test(cleanup, shutdown_leaves_the_workers_of_a_pool_that_it_was_given)
{
	cq_pool_t *pool;

	cr_assert_eq(cq_pool_create(&with_two, &pool), 0);
	make_with((cq_cleanup_config_t){ .pool = pool }, by_hand);
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(ended, 0);
	finish(SLOTS);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
	cr_assert_eq(ended, 2);
}

/* A queue, and a task. */
Test(cleanup, shutdown_leaves_its_own_pool_to_others_that_are_on_it)
{
	static const cq_task_ops_t ops = { .run = note_run };
	cq_cleanup_config_t config = { 0 };
	cq_cleanup_t *other;
	cq_task_t *task;

	make_with((cq_cleanup_config_t){ 0 }, with_two);
	config.pool = cq_cleanup_pool(q);
	cr_assert_eq(cq_task_create(config.pool, &ops, NULL, 0, &task), 0);
	cr_assert_eq(cq_cleanup_create(&config, &other), 0);
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert(each_once(SLOTS));
	cr_assert_eq(cq_cleanup_enqueue(q, run_it, NULL), ESHUTDOWN);
	cr_assert_eq(ended, 0, "it has ended those who run what others have");

	cr_assert_eq(cq_task_signal(task), 0);
	AWAIT(noted == 1);
	cr_assert_eq(cq_cleanup_enqueue(other, run_it, (void *)(uintptr_t)SLOTS), 0);
	cr_assert_eq(cq_cleanup_drain(other, CQ_FOREVER), 0);
	cr_assert(each_once(SLOTS + 1));
	cr_assert_eq(cq_cleanup_destroy(other), 0);
	cr_assert_eq(cq_task_close(task, CQ_FOREVER), 0);
	finish(SLOTS + 1);
	cr_assert_eq(ended, 2);
}

Test(cleanup, what_is_made_on_a_pool_that_has_ended_is_refused)
{
	static const cq_task_ops_t ops = { .run = note_run };
	cq_cleanup_config_t config = { 0 };
	cq_cleanup_t *other = NULL;
	cq_task_t *task = NULL;
	size_t bytes;

	make_with((cq_cleanup_config_t){ 0 }, with_two);
	config.pool = cq_cleanup_pool(q);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_task_create(config.pool, &ops, NULL, 0, &task), ESHUTDOWN);
	bytes = mem.live_bytes;
	cr_assert_eq(cq_task_create(config.pool, &ops, NULL, 0, &task), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_create(&config, &other), ESHUTDOWN);
	cr_assert_eq(mem.live_bytes, bytes, "each takes memory");
	cr_assert(task == NULL && other == NULL);
	cr_assert_eq(pool_stats().tasks, 1);
	finish(0);
}

/* ------------------------------------------------------- failing allocations */

static int first_error;

/* Notes an ENOMEM, or an EAGAIN for want of a worker; true: the call succeeded. */
static bool ok(int err)
{
	CHECK(err == 0 || err == ENOMEM || err == EAGAIN);
	if (first_error == 0)
		first_error = err;
	return err == 0;
}

static unsigned accepted;

static void offer(cq_producer_t *to, unsigned n)
{
	for (unsigned i = 0; to != NULL && i < n; i++)
		if (ok(try_put(to, accepted)))
			accepted++;
}

/* All that allocates, of a queue that has been made. Each error leaves it usable. */
static void use_all(void)
{
	cq_producer_t *a = NULL, *b = NULL;

	ok(cq_producer_attach(q, NULL, &a));
	ok(cq_producer_attach(q, run_it, &b));
	offer(a, 1);
	offer(b, 2 * SLOTS + 1);
	if (a != NULL)
		ok(cq_producer_reserve(a, 3 * SLOTS));
	ok(cq_cleanup_flush(q));
	offer(a, 2);
	if (a != NULL)
		ok(cq_producer_flush(a));
	offer(b, 1);
	ok(cq_cleanup_drain(q, wait_limit()));
	offer(a, 2 * SLOTS);
	cq_producer_detach(b);
	cq_producer_detach(a);
}

static void check_usable_and_end(cq_shutdown_how_t how)
{
	out_of_memory(false);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
	offer(p, 2 * SLOTS + 1);
	CHECK(cq_cleanup_flush(q) == 0);
	CHECK(cq_cleanup_shutdown(q, how, wait_limit(), take_back, NULL) == 0);
	finish(accepted);
	accepted = 0;
}

/* The n-th allocation fails (and all after it). False: there were fewer. */
static bool fails_at(long n, bool and_all_after, cq_shutdown_how_t how)
{
	cq_pool_config_t pool_config = { .workers_max = 2, .allocator = &mem.allocator };
	cq_cleanup_config_t config = {
		.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t),
		.pool_config = &pool_config,
	};
	bool failed;

	test_alloc_init(&mem);
	mem.fail_on = and_all_after;
	mem.fail_in = n;
	first_error = 0;
	if (!ok(cq_cleanup_create(&config, &q))) {
		CHECK(mem.live_bytes == 0);
		return true;
	}
	use_all();
	failed = mem.failures != 0;
	/* What ran into it says so; only a worker may be missed silently. */
	CHECK(failed || first_error == 0);
	check_usable_and_end(how);
	return failed;
}

static void every_allocation_may_fail(bool and_all_after, cq_shutdown_how_t how)
{
	long n = 1;

	while (fails_at(n, and_all_after, how))
		n++;
	cr_assert_geq(n, 10, "too few allocations to have tried all kinds");
}

Test(cleanup, each_allocation_in_turn_may_fail)
{
	every_allocation_may_fail(false, CQ_SHUTDOWN_DRAIN);
	every_allocation_may_fail(false, CQ_SHUTDOWN_HAND_BACK);
}

Test(cleanup, all_allocations_from_each_on_may_fail)
{
	every_allocation_may_fail(true, CQ_SHUTDOWN_DRAIN);
	every_allocation_may_fail(true, CQ_SHUTDOWN_HAND_BACK);
}

/* ---------------------------------------------------------------- statistics */

Test(cleanup, statistics_of_a_new_queue_are_zero, .init = make)
{
	cq_cleanup_stats_t expected = { .block_bytes = q->block_bytes, .producers = 1 }, s = stats();

	cr_assert_eq(memcmp(&s, &expected, sizeof(s)), 0);
	finish(0);
}

Test(cleanup, statistics_follow_the_callbacks, .init = make)
{
	put(p, 0, SLOTS + 2);
	cr_assert_eq(stats().queued, SLOTS + 2);
	cr_assert_eq(stats().executed, 0);
	cr_assert_eq(stats().blocks_waiting, 1);
	cr_assert_eq(stats().blocks_made, 2);
	cr_assert_eq(stats().flushes, 0);
	flush(NULL);
	cr_assert_eq(stats().flushes, 1);
	cr_assert_eq(stats().blocks_made, 3);
	flush(NULL);
	cr_assert_eq(stats().flushes, 1, "it moved nothing");
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS + 1);
	cr_assert_eq(stats().executed, SLOTS + 2);
	cr_assert_eq(stats().blocks_waiting, 0);
	cr_assert_eq(stats().blocks_made, 3);
	put(p, SLOTS + 2, SLOTS);
	cr_assert_eq(stats().blocks_waiting, 1);
	put(p, 2 * SLOTS + 2, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL), 0);
	cr_assert_eq(stats().queued, 2 * SLOTS + 3);
	cr_assert_eq(stats().executed, SLOTS + 2);
	cr_assert_eq(stats().handed_back, SLOTS + 1);
	cr_assert_eq(given_back, SLOTS + 1);
	finish(2 * SLOTS + 3);
}

Test(cleanup, statistics_keep_what_a_producer_that_is_gone_has_queued, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	cr_assert_eq(stats().producers, 2);
	put(other, 0, SLOTS + 1);
	cq_producer_detach(other);
	cr_assert_eq(stats().producers, 1);
	cr_assert_eq(stats().queued, SLOTS + 1);
	finish(SLOTS + 1);
}

Test(cleanup, statistics_beyond_32_bits_are_exact, .init = make)
{
	const uint64_t big = UINT64_C(0xffffffff);

	p->total = q->first.executed = big; /* as though so many had been accepted, and run */
	put(p, 0, SLOTS);
	cr_assert_eq(stats().queued, big + SLOTS);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	cr_assert_eq(stats().executed, big + SLOTS);
	finish(SLOTS);
}

Test(cleanup, oldest_is_the_time_since_nothing_was_waiting, .init = make)
{
	fake_advance(&park, 1000);
	cr_assert_eq(stats().oldest_ns, 0);
	put(p, 0, SLOTS);
	cr_assert_eq(stats().oldest_ns, 0);
	fake_advance(&park, 500);
	put(p, SLOTS, SLOTS);
	cr_assert_eq(stats().oldest_ns, 500);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(stats().oldest_ns, 0);
	fake_advance(&park, 500);
	put(p, 2 * SLOTS, SLOTS);
	fake_advance(&park, 7);
	cr_assert_eq(stats().oldest_ns, 7);
	finish(3 * SLOTS);
}

enum { AGE_NS = 10000000 };

/* Three blocks: 0 and 1 wait when the last is published, and one of them has run. */
static void let_blocks_wait(uint64_t ns)
{
	put(p, 0, 2 * SLOTS);
	fake_advance(&park, ns);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
	cr_assert_eq(order[0], SLOTS, "the newer, whose lines are in the cache");
	fake_advance(&park, 500);
	put(p, 2 * SLOTS, SLOTS);
	fake_advance(&park, 7);
}

Test(cleanup, the_newest_block_is_taken_first, .init = make)
{
	let_blocks_wait(AGE_NS);
	run_all(NULL);
	cr_assert_eq(order[SLOTS], 2 * SLOTS);
	finish(3 * SLOTS);
}

Test(cleanup, after_10_ms_what_waits_is_taken_before_what_comes, .init = make)
{
	let_blocks_wait(AGE_NS + 1);
	run_all(NULL);
	cr_assert_eq(order[SLOTS], 0);
	finish(3 * SLOTS);
}

/* Whatever full blocks come, one after the other: each may be taken before it, for no longer than that. */
Test(cleanup, after_10_ms_the_partial_block_is_taken_before_what_comes)
{
	unsigned i = 0;

	make_with((cq_cleanup_config_t){ .block_bytes = sizeof(cq_block_t) + 5 * sizeof(cq_callback_t) },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
	put(p, i++, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_not_null(q->partial);
	put(p, i, 4);	/* fills the block in which the first one was */
	i += 4;
	cr_assert_eq(cq_cleanup_run_some(q, 4), 4);
	for (unsigned ms = 0; ran[0] == 0; ms += 2) {
		cr_assert_leq(ms, 12);
		cr_assert_eq(stats().oldest_ns, UINT64_C(1000000) * ms);
		cr_assert_eq(stats().blocks_waiting, 1);
		fake_advance(&park, 2000000);
		put(p, i, 5);
		i += 5;
		cr_assert_neq(cq_cleanup_run_some(q, 5), 0);
	}
	cr_assert_gt(runs, 20, "full blocks first, before");
	finish(i);
}

Test(cleanup, oldest_is_the_age_of_a_partial_block_that_waits_alone)
{
	make_with((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
	fake_advance(&park, 1000);
	put(p, 0, 1);
	flush(NULL);
	fake_advance(&park, 500);
	put(p, 1, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(stats().oldest_ns, 500);
	cr_assert_eq(stats().blocks_waiting, 1);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(stats().oldest_ns, 0);
	finish(2);
}

Test(cleanup, statistics_know_of_both_stacks, .init = make)
{
	let_blocks_wait(AGE_NS + 1);
	cr_assert_eq(stats().blocks_waiting, 2);
	cr_assert_eq(stats().oldest_ns, AGE_NS + 1 + 507);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
	cr_assert_eq(stats().blocks_waiting, 1);
	cr_assert_eq(stats().oldest_ns, 7);
	finish(3 * SLOTS);
}

static cq_cleanup_stats_t within[2];	/* in the callbacks below */
static cq_pool_stats_t pool_within[2];

static void look(unsigned i, uint64_t ns)
{
	fake_advance(&park, ns);
	within[i] = stats();
	pool_within[i] = pool_stats();
}

static void look_at_last(void *arg)
{
	look(1, 20);
	run_it(arg);
}

/* Runs another block within this one, which was published meanwhile. */
static void look_first(void *arg)
{
	look(0, 300);
	cr_assert_eq(cq_producer_enqueue(p, look_at_last, (void *)2), 0);
	put(p, 3, SLOTS - 1);
	cq_cleanup_run_some(q, 1);
	run_it(arg);
}

Test(cleanup, statistics_know_what_is_in_hand_and_for_how_long, .init = make)
{
	cr_assert_eq(cq_producer_enqueue(p, look_first, (void *)0), 0);
	put(p, 1, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	fake_advance(&park, 1000);
	cr_assert_eq(stats().in_hand, 0);
	run_all(NULL);
	cr_assert_eq(within[0].in_hand, 2);
	cr_assert_eq(within[0].in_hand_ns, 1300, "it has waited, too");
	cr_assert_eq(pool_within[0].longest_ns, 1300);
	cr_assert_eq(within[1].in_hand, 2 + SLOTS, "of two blocks");
	cr_assert_eq(within[1].in_hand_ns, 1320);
	cr_assert_eq(pool_within[1].longest_ns, 1320);
	fake_advance(&park, 1000);
	cr_assert_eq(stats().in_hand, 0);
	cr_assert_eq(stats().in_hand_ns, 0);
	cr_assert_eq(pool_stats().longest_ns, 0);
	finish(SLOTS + 2);
}

static cq_cleanup_t *another;

static void look_at_another(void *arg)
{
	cq_cleanup_t *own = q;

	q = another;
	look(0, 300);
	q = own;
	run_it(arg);
}

Test(cleanup, statistics_of_a_queue_are_not_of_what_others_have_in_hand, .init = make)
{
	cq_cleanup_config_t config = { .pool = cq_cleanup_pool(q) };

	cr_assert_eq(cq_cleanup_create(&config, &another), 0);
	cr_assert_eq(cq_producer_enqueue(p, look_at_another, (void *)0), 0);
	flush(NULL);
	run_all(NULL);
	cr_assert_eq(within[0].in_hand, 0);
	cr_assert_eq(within[0].in_hand_ns, 0);
	cr_assert_eq(pool_within[0].longest_ns, 300);
	cr_assert_eq(cq_cleanup_destroy(another), 0);
	finish(1);
}

enum { PRODUCERS = 3, EACH = MANY / PRODUCERS };

static atomic_uint producing;
static uint64_t end;
static unsigned put_by[PRODUCERS];

static void read_statistics(void)
{
	uint64_t queued = 0, executed = 0;

	while (producing > 0) {
		cq_cleanup_stats_t s = stats();

		CHECK(s.executed <= s.queued);
		CHECK(s.executed >= executed && s.queued >= queued);
		executed = s.executed;
		queued = s.queued;
	}
}

static void put_or_read(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	unsigned n = 0;

	(void)unused;
	if (index == PRODUCERS) {
		read_statistics();
		return;
	}
	while (n < EACH && cq_now() < end) {
		unsigned k = 1 + (unsigned)rng_below(&r, EACH - n < 300 ? EACH - n : 300);

		CHECK(cq_producer_attach(q, index == 0 ? run_it : NULL, &mine) == 0);
		put(mine, index * EACH + n, k);
		n += k;
		if (rng_below(&r, 2) != 0)
			CHECK(cq_cleanup_flush(q) == 0);
		cq_producer_detach(mine);
	}
	put_by[index] = n;
	producing--;
}

Test(cleanup, executed_is_never_above_queued)
{
	unsigned n = 0;

	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 2 });
	end = run_until(0.3);
	producing = PRODUCERS;
	run_threads(PRODUCERS + 1, put_or_read, NULL);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	for (unsigned i = 0; i < PRODUCERS; i++) {
		for (unsigned k = 0; k < put_by[i]; k++)
			cr_assert_eq(ran[i * EACH + k], 1);
		n += put_by[i];
	}
	cr_assert_eq(stats().executed, n);
	cr_assert_eq(stats().queued, n);
	forget_callbacks();
	finish(0);
}

/* ---------------------------------------------------------------------- trim */

Test(cleanup, trim_frees_the_blocks_that_nobody_uses, .init = make)
{
	size_t freed = 1;

	put(p, 0, 10 * SLOTS + 1);
	run_all(NULL);
	cr_assert_eq(stats().blocks_made, 11);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 10 * q->block_bytes);
	cr_assert_eq(stats().blocks_made, 1, "the open block stays");
	cr_assert_eq(stats().executed, 10 * SLOTS, "what it has run as well");
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 0);
	put(p, 10 * SLOTS + 1, 3 * SLOTS);
	finish(13 * SLOTS + 1);
}

Test(cleanup, trim_leaves_what_is_reserved, .init = make)
{
	size_t freed;

	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 0);
	out_of_memory(true);
	put(p, 0, 2 * SLOTS);
	out_of_memory(false);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	cr_assert_eq(stats().blocks_made, 0);
	finish(2 * SLOTS);
}

Test(cleanup, trim_is_refused_while_work_waits_or_runs, .init = make)
{
	pthread_t thread;

	put_to_stay(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_trim(q, NULL), EBUSY);
	thread = start(poll, NULL);
	AWAIT(inside == 1);
	cr_assert_eq(waiting(), 0);
	cr_assert_eq(cq_cleanup_trim(q, NULL), EBUSY, "a thread has a block");
	gate_open(&leave);
	join(thread);
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	finish(SLOTS);
}

static void trim_is_busy(void *tried)
{
	*(bool *)tried = true;
	CHECK(waiting() == 0);
	CHECK(cq_cleanup_trim(q, NULL) == EBUSY);
}

/* It has the last unit, and will pop the block. */
Test(cleanup, trim_is_refused_while_a_run_looks_for_a_block, .init = make)
{
	bool tried = false;

	put(p, 0, SLOTS);
	at_point("workq.taken", trim_is_busy, &tried);
	run_all(NULL);
	cr_assert(tried);
	finish(SLOTS);
}

static void trim_frees_nothing(void *tried)
{
	size_t freed = 1;

	*(bool *)tried = true;
	CHECK(cq_cleanup_trim(q, &freed) == EBUSY);
	CHECK(freed == 1 && stats().blocks_made == 3);
}

/* It has read the head of the free stack. Where pops have a lock, it would hold that. */
Test(cleanup, trim_frees_nothing_while_an_owner_looks_for_a_block, .init = make)
{
	bool tried = false;

	put(p, 0, 3 * SLOTS);
	run_all(NULL);
	if (strcmp(cq_pop_kind, "dwcas") == 0) {
		at_point("stack.walked", trim_frees_nothing, &tried);
		put(p, 3 * SLOTS, 1);
		cr_assert(tried);
	} else {
		put(p, 3 * SLOTS, 1);
	}
	/* What was taken away for the moment is used again. */
	put(p, 3 * SLOTS + 1, 3 * SLOTS - 1);
	cr_assert_eq(stats().blocks_made, 3);
	finish(6 * SLOTS);
}

static void put_one_more(void *tried)
{
	*(bool *)tried = true;
	put(p, 3 * SLOTS, 1);
}

/* All free blocks are in its hand. */
Test(cleanup, a_block_that_is_made_while_trim_frees_others_stays, .init = make)
{
	bool tried = false;
	size_t freed;

	put(p, 0, 3 * SLOTS);
	run_all(NULL);
	at_point("trim.taken", put_one_more, &tried);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert(tried);
	cr_assert_eq(freed, 3 * q->block_bytes);
	cr_assert_eq(stats().blocks_made, 1);
	put(p, 3 * SLOTS + 1, 2 * SLOTS);
	finish(5 * SLOTS + 1);
}

Test(cleanup, trim_goes_on_beside_parked_workers)
{
	size_t freed;

	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1 });
	put(p, 0, SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, q->block_bytes);
	put(p, SLOTS, 2 * SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(3 * SLOTS);
}

/* ------------------------------------------------------- what has run, within a block */

static void look_and_run(void *arg)
{
	CHECK(stats().executed == 0);
	run_it(arg);
}

Test(cleanup, callbacks_are_counted_as_their_block_ends, .init = make)
{
	for (uintptr_t i = 0; i < SLOTS; i++)
		cr_assert_eq(cq_producer_enqueue(p, look_and_run, (void *)i), 0);
	run_all(NULL);
	cr_assert_eq(stats().executed, SLOTS);
	finish(SLOTS);
}
