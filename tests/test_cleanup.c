/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queue as a whole: its limits, its memory, its statistics, and how much it
 * wakes. Workers are mostly asked for from a host that never runs them, so that
 * "asked for and not there yet" lasts as long as a test needs it.
 */
#include <cq/cq.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cleanup/producer.h"
#include "pool/processors.h"
#include "support.h"

TestSuite(cleanup, .timeout = 60);

enum { SLOTS = 4, MANY = 1 << 16 };

static test_alloc_t mem;
static fake_park_t park;
static cq_cleanup_t *q;
static cq_producer_t *p;

/* Callback i runs or is handed back: once in all. */
static atomic_uint ran[MANY], runs;

static void run_it(void *arg)
{
	ran[(uintptr_t)arg]++;
	runs++;
}

static void take_back(void *unused, cq_callback_fn *fn, void *arg)
{
	(void)unused;
	fn(arg);
}

static void put(cq_producer_t *to, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		CHECK(cq_producer_enqueue(to, run_it, (void *)(uintptr_t)i) == 0);
}

static bool each_once(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (ran[i] != 1)
			return false;
	return runs == n;
}

/* The host: what it was asked for, and has not run. */
static struct {
	void (*body)(void *);
	void *arg;
} asked[64];
static unsigned nasked, asked_before;

static int ask(void *unused, void (*body)(void *), void *arg)
{
	(void)unused;
	CHECK(nasked < 64);
	asked[nasked].body = body;
	asked[nasked++].arg = arg;
	return 0;
}

static unsigned asked_now(void)
{
	unsigned n = nasked - asked_before;

	asked_before = nasked;
	return n;
}

static void out_of_memory(bool yes)
{
	mem.fail_on = yes;
	mem.fail_in = yes;
}

static void make_with(cq_cleanup_config_t config)
{
	if (mem.allocator.alloc == NULL)
		test_alloc_init(&mem);
	if (park.ops.now == NULL)
		fake_init(&park);
	if (config.block_bytes == 0)
		config.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);
	config.park = &park.ops;
	config.allocator = &mem.allocator;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, &p) == 0);
}

static void make(void)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
}

/* Polled, and two workers may be asked for. */
static void make_asking(void)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = ask, .max_workers = 2 });
}

/* Hands back what is left, lets the host run what it was asked for, and destroys. */
static void finish(unsigned n)
{
	int err = cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL);

	for (unsigned i = 0; i < nasked; i++)
		asked[i].body(asked[i].arg);
	nasked = asked_before = 0;
	if (err != 0)
		err = cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL);
	cr_assert_eq(err, 0);
	cr_assert(each_once(n));
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
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
	cr_assert_eq(CREATE(.max_workers = 1), 0);
	cr_assert_eq(CREATE(.max_workers = 65535), 0);
	cr_assert_eq(CREATE(.max_workers = 65536), EINVAL);
	cr_assert_eq(CREATE(.max_workers = UINT32_MAX), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = 1), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MIN - 1), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MIN), 0);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MIN + 1), 0);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MAX), 0);
	cr_assert_eq(CREATE(.block_bytes = CQ_BLOCK_BYTES_MAX + 1), EINVAL);
	cr_assert_eq(CREATE(.block_bytes = SIZE_MAX), EINVAL);
	cr_assert_eq(CREATE(.spin_ns = CQ_SPIN_NS_MAX), 0);
	cr_assert_eq(CREATE(.spin_ns = CQ_SPIN_NS_MAX + 1), EINVAL);
	cr_assert_eq(CREATE(.spin_ns = CQ_NO_SPIN), 0);
	cr_assert_eq(CREATE(.spin_ns = CQ_NO_SPIN - 1), EINVAL);
	cr_assert_eq(CREATE(.flags = CQ_POLLED | CQ_HANDOVER | CQ_FORK_DISCARD | CQ_NO_ATFORK), 0);
	cr_assert_eq(CREATE(.flags = 4), EINVAL);
	cr_assert_eq(CREATE(.flags = 64), EINVAL);
	cr_assert_eq(CREATE(.flags = 1u << 31), EINVAL);
	cr_assert_eq(CREATE(.name = ""), 0);
	cr_assert_eq(CREATE(.name = "fifteen-letters"), 0);
	cr_assert_eq(CREATE(.name = "sixteen--letters"), EINVAL);
	cr_assert_eq(CREATE(.idle_ns = CQ_FOREVER, .stack_bytes = 1), 0);
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
	config.flags = CQ_POLLED;
	config.max_workers = 7;
	cr_assert_eq(cq_cleanup_create_sized(&config, offsetof(cq_cleanup_config_t, block_bytes), &q), 0);
	cr_assert_eq(q->config.max_workers, 7);
	cr_assert_eq(q->config.block_bytes, CQ_BLOCK_BYTES_DEFAULT);
	cr_assert_null(q->config.spawn);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(cq_cleanup_create_sized(&config, 0, &q), EINVAL);
	cr_assert_eq(cq_cleanup_create_sized(NULL, 0, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(cleanup, a_longer_config_may_ask_for_nothing_that_is_unknown)
{
	struct newer_config config = { .known.max_workers = 7 };

	cr_assert_eq(cq_cleanup_create_sized(&config.known, sizeof(config), &q), 0);
	cr_assert_eq(q->config.max_workers, 7);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	config.later[sizeof(config.later) - 1] = 1;
	cr_assert_eq(cq_cleanup_create_sized(&config.known, sizeof(config), &q), E2BIG);
	cr_assert_eq(cq_cleanup_create_sized(&config.known, sizeof(config) - 1, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(cleanup, statistics_fill_the_size_that_the_caller_has_and_no_more)
{
	struct newer_stats stats;
	size_t first = offsetof(cq_cleanup_stats_t, handed_back);

	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	memset(&stats, 0xff, sizeof(stats));
	cq_cleanup_stats_sized(q, &stats.known, first);
	cr_assert_eq(stats.known.queued, 0);
	cr_assert_eq(stats.known.executed, 0);
	cr_assert_eq(stats.known.handed_back, UINT64_MAX);
	cq_cleanup_stats_sized(q, &stats.known, sizeof(stats) - 1);
	cr_assert_eq(stats.known.max_workers, q->config.max_workers);
	cr_assert_eq(stats.later[0], 0);
	cr_assert_eq(stats.later[sizeof(stats.later) - 2], 0);
	cr_assert_eq(stats.later[sizeof(stats.later) - 1], (char)0xff);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(cleanup, half_filled_tables_are_refused_before_memory_is_had)
{
	cq_allocator_t allocator;
	cq_park_ops_t ops;

	test_alloc_init(&mem);
	fake_init(&park);
	allocator = mem.allocator;
	allocator.alloc = NULL;
	cr_assert_eq(CREATE(.allocator = &allocator), EINVAL);
	allocator = mem.allocator;
	allocator.free = NULL;
	cr_assert_eq(CREATE(.allocator = &allocator), EINVAL);
	ops = park.ops;
	ops.now = NULL;
	cr_assert_eq(CREATE(.allocator = &mem.allocator, .park = &ops), EINVAL);
	ops = park.ops;
	ops.park = NULL;
	cr_assert_eq(CREATE(.allocator = &mem.allocator, .park = &ops), EINVAL);
	ops = park.ops;
	ops.unpark = NULL;
	cr_assert_eq(CREATE(.allocator = &mem.allocator, .park = &ops), EINVAL);
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

Test(cleanup, config_and_its_allocator_are_copied)
{
	char name[] = "short-lived";
	cq_cleanup_config_t config = { .name = name, .flags = CQ_POLLED };
	cq_allocator_t allocator;

	test_alloc_init(&mem);
	allocator = mem.allocator;
	config.allocator = &allocator;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	memset(&allocator, 0xff, sizeof(allocator));
	memset(name, 'x', sizeof(name) - 1);
	memset(&config, 0xff, sizeof(config));
	cr_assert_eq(cq_producer_attach(q, &p), 0);
	put(p, 0, 1);
	cr_assert_str_eq(q->config.name, "short-lived");
	finish(1);
}

Test(cleanup, default_cap_is_a_quarter_of_the_processors_and_at_least_one)
{
	uint32_t quarter = cq_processors() / 4;

	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	cr_assert_eq(stats().max_workers, quarter < 1 ? 1 : quarter);
	cr_assert_eq(stats().block_bytes, 4096);
	cr_assert_eq(q->slots, (4096 - sizeof(cq_block_t)) / sizeof(cq_callback_t));
	cr_assert(sizeof(void *) != 8 || q->slots == 254);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

static void all_block_sizes_move_all(size_t bytes)
{
	unsigned n;

	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .block_bytes = bytes });
	cr_assert_leq(stats().block_bytes, bytes);
	cr_assert_gt(stats().block_bytes + sizeof(cq_callback_t), bytes);
	cr_assert_eq(stats().block_bytes, sizeof(cq_block_t) + q->slots * sizeof(cq_callback_t));
	n = 3 * q->slots - 1;
	put(p, 0, q->slots - 1);
	cr_assert_eq(cq_cleanup_units(q), 0);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	put(p, q->slots - 1, n - q->slots + 1);
	/* The gathered block, the rest of the one it came from, and a full one. */
	cr_assert_eq(cq_cleanup_units(q), 3);
	finish(n);
}

Test(cleanup, smallest_blocks_work)
{
	all_block_sizes_move_all(CQ_BLOCK_BYTES_MIN);
}

Test(cleanup, largest_blocks_work)
{
	all_block_sizes_move_all(CQ_BLOCK_BYTES_MAX);
}

Test(cleanup, block_sizes_are_rounded_down_to_whole_callbacks)
{
	const size_t whole = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);

	for (size_t more = 0; more <= sizeof(cq_callback_t); more++) {
		make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .block_bytes = whole + more });
		cr_assert_eq(q->slots, more < sizeof(cq_callback_t) ? SLOTS : SLOTS + 1);
		cr_assert_eq(stats().block_bytes,
		    whole + (q->slots - SLOTS) * sizeof(cq_callback_t));
		put(p, 0, 1); /* a block, which is freed at the end */
		finish(1);
		ran[0] = runs = 0;
	}
}

static void is_busy(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_destroy(q) == EBUSY);
	CHECK(cq_cleanup_trim(q, NULL) == EBUSY);
	runs++;
}

Test(cleanup, destroy_is_refused_while_anyone_or_anything_is_left)
{
	cq_worker_t *w;

	make();
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "a producer is attached");
	cr_assert_eq(cq_producer_enqueue(p, is_busy, NULL), 0);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "a callback is left");
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1); /* and while it runs */
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY, "a worker is attached");
	cq_worker_detach(w);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(runs, 1);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(cleanup, destroy_is_refused_while_a_managed_worker_lives)
{
	make_with((cq_cleanup_config_t){ .max_workers = 1 });
	put(p, 0, SLOTS);
	fake_wait_blocked(&park, 1);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

/* Trim would free the block that is being given back. */
Test(cleanup, destroy_and_trim_are_refused_while_a_shutdown_gives_back)
{
	make();
	cr_assert_eq(cq_producer_enqueue(p, is_busy, NULL), 0);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL), 0);
	cr_assert_eq(runs, 1);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
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
		if (ok(cq_producer_enqueue(to, run_it, (void *)(uintptr_t)accepted)))
			accepted++;
}

/* All that allocates, of a queue that has been made. Each error leaves it usable. */
static void use_all(void)
{
	cq_producer_t *a = NULL, *b = NULL;

	ok(cq_producer_attach(q, &a));
	ok(cq_producer_attach(q, &b));
	offer(a, 1);
	offer(b, SLOTS + 1);
	if (a != NULL)
		ok(cq_producer_reserve(a, 3 * SLOTS));
	ok(cq_cleanup_flush_all(q));
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
	CHECK(cq_producer_attach(q, &p) == 0);
	offer(p, 2 * SLOTS + 1);
	CHECK(cq_cleanup_flush_all(q) == 0);
	cq_producer_detach(p);
	CHECK(cq_cleanup_shutdown(q, how, wait_limit(), take_back, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
	CHECK(each_once(accepted));
}

/* The n-th allocation fails (and all after it). False: there were fewer. */
static bool fails_at(long n, bool and_all_after, cq_shutdown_how_t how)
{
	cq_cleanup_config_t config = {
		.max_workers = 2,
		.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t),
		.allocator = &mem.allocator,
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
	for (unsigned i = 0; i < accepted; i++)
		ran[i] = 0;
	accepted = 0;
	runs = 0;
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

Test(cleanup, statistics_of_a_new_queue_are_zero, .init = make_asking)
{
	cq_cleanup_stats_t expected = {
		.block_bytes = q->block_bytes, .max_workers = 2, .producers = 1,
	}, s = stats();

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
	cq_cleanup_flush_all(q);
	cr_assert_eq(stats().flushes, 1);
	cr_assert_eq(stats().blocks_made, 3);
	cq_cleanup_flush_all(q);
	cr_assert_eq(stats().flushes, 1, "it moved nothing");
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS + 1);
	cr_assert_eq(stats().executed, SLOTS + 2);
	cr_assert_eq(stats().blocks_waiting, 0);
	cr_assert_eq(stats().blocks_made, 3);
	put(p, SLOTS + 2, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL), 0);
	cr_assert_eq(stats().queued, SLOTS + 3);
	cr_assert_eq(stats().executed, SLOTS + 2);
	cr_assert_eq(stats().handed_back, 1);
	finish(SLOTS + 3);
}

Test(cleanup, statistics_keep_what_a_producer_that_is_gone_has_queued, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, &other), 0);
	cr_assert_eq(stats().producers, 2);
	put(other, 0, SLOTS + 1);
	cq_producer_detach(other);
	cr_assert_eq(stats().producers, 1);
	cr_assert_eq(stats().queued, SLOTS + 1);
	finish(SLOTS + 1);
}

Test(cleanup, oldest_is_the_time_since_the_queue_was_last_empty, .init = make)
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

Test(cleanup, oldest_is_that_of_the_older_page_too, .init = make)
{
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, 0), EAGAIN); /* it has turned the page */
	fake_advance(&park, 500);
	put(p, SLOTS, SLOTS);
	fake_advance(&park, 7);
	cr_assert_eq(stats().oldest_ns, 507);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
	cr_assert_eq(stats().oldest_ns, 7);
	finish(2 * SLOTS);
}

Test(cleanup, peak_is_the_most_workers_at_once, .init = make_asking)
{
	cq_worker_t *w[3];

	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(cq_worker_attach(q, NULL, &w[i]), 0);
	cr_assert_eq(stats().workers_live, 3);
	cr_assert_eq(stats().workers_peak, 3);
	for (unsigned i = 0; i < 3; i++)
		cq_worker_detach(w[i]);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_peak, 3);
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(stats().workers_coming, 1);
	cr_assert_eq(stats().workers_created, 1);
	cr_assert_eq(stats().workers_peak, 3);
	finish(SLOTS);
}

enum { PRODUCERS = 3, EACH = MANY / PRODUCERS };

static atomic_uint producing;
static uint64_t end;
static unsigned put_by[PRODUCERS];

static void put_or_read(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	uint64_t queued = 0, executed = 0;
	unsigned n = 0;

	(void)unused;
	while (index == PRODUCERS && producing > 0) {
		cq_cleanup_stats_t s = stats();

		CHECK(s.executed <= s.queued);
		CHECK(s.executed >= executed && s.queued >= queued);
		CHECK(s.workers_peak <= s.max_workers && s.workers_live <= s.max_workers);
		executed = s.executed;
		queued = s.queued;
	}
	if (index == PRODUCERS)
		return;
	while (n < EACH && cq_now() < end) {
		unsigned k = 1 + (unsigned)rng_below(&r, EACH - n < 300 ? EACH - n : 300);

		CHECK(cq_producer_attach(q, &mine) == 0);
		put(mine, index * EACH + n, k);
		n += k;
		if (rng_below(&r, 2) != 0)
			CHECK(cq_cleanup_flush_all(q) == 0);
		cq_producer_detach(mine);
	}
	put_by[index] = n;
	producing--;
}

Test(cleanup, executed_is_never_above_queued)
{
	unsigned n = 0;

	make_with((cq_cleanup_config_t){ .max_workers = 2 });
	end = run_until(0.3);
	producing = PRODUCERS;
	run_threads(PRODUCERS + 1, put_or_read, NULL);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	for (unsigned i = 0; i < PRODUCERS; i++) {
		for (unsigned k = 0; k < put_by[i]; k++)
			cr_assert_eq(ran[i * EACH + k], 1);
		n += put_by[i];
	}
	cr_assert_eq(runs, n);
	cr_assert_eq(stats().executed, n);
	cr_assert_eq(stats().queued, n);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

/* -------------------------------------------------------------------- waking */

Test(cleanup, needs_wake_is_false_without_work, .init = make_asking)
{
	cr_assert_not(cq_cleanup_needs_wake(q));
	put(p, 0, SLOTS - 1);
	cr_assert_not(cq_cleanup_needs_wake(q), "it is not published");
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 0);
	finish(SLOTS - 1);
}

Test(cleanup, needs_wake_is_false_once_the_demand_is_covered, .init = make_asking)
{
	put(p, 0, SLOTS);
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 1);
	cr_assert_not(cq_cleanup_needs_wake(q), "one is coming");
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 0);

	put(p, SLOTS, SLOTS);
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 1);

	put(p, 2 * SLOTS, SLOTS);
	cr_assert_not(cq_cleanup_needs_wake(q), "no more than the cap can be made");
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 0);
	finish(3 * SLOTS);
}

Test(cleanup, needs_wake_is_false_when_nobody_can_be_woken_or_made, .init = make)
{
	put(p, 0, SLOTS);
	cr_assert_not(cq_cleanup_needs_wake(q));
	finish(SLOTS);
}

Test(cleanup, needs_wake_is_false_in_a_queue_that_stops, .init = make_asking)
{
	cq_worker_t *w;

	put(p, 0, SLOTS);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL), ETIMEDOUT);
	cr_assert_not(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 0);
	cq_worker_detach(w);
	finish(SLOTS);
}

static void *dequeue_one(void *worker)
{
	cq_worker_t *w = worker;
	cq_block_t *b = cq_worker_dequeue(w);

	if (b != NULL)
		cq_worker_run(w, b);
	cq_worker_detach(w);
	return NULL;
}

enum { SLEEPERS = 3 };
static pthread_t sleeper[SLEEPERS];

/* Workers of the host's, in a queue that makes none, which sleep. */
static void make_with_sleepers(void)
{
	cq_worker_t *w;

	make();
	for (unsigned i = 0; i < SLEEPERS; i++) {
		CHECK(cq_worker_attach(q, NULL, &w) == 0);
		sleeper[i] = start(dequeue_one, w);
	}
	fake_wait_blocked(&park, SLEEPERS);
}

static void end_sleepers(unsigned n)
{
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	for (unsigned i = 0; i < SLEEPERS; i++)
		join(sleeper[i]);
	finish(n);
}

/* A worker on its way counts. Of one that has arrived and taken nothing yet that can't be said. */
Test(cleanup, needs_wake_is_true_when_someone_sleeps_over_work, .init = make_with_sleepers)
{
	static gate_t leave = GATE_INITIALIZER;

	park.leave = &leave;
	cr_assert_not(cq_cleanup_needs_wake(q));
	put(p, 0, SLOTS);
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(park.unparks, 0);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(park.unparks, 1);
	cr_assert_not(cq_cleanup_needs_wake(q));
	gate_open(&leave);
	end_sleepers(SLOTS);
}

Test(cleanup, wake_wakes_as_many_as_there_is_work, .init = make_with_sleepers)
{
	put(p, 0, 2 * SLOTS);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(stats().wakes, 2);
	end_sleepers(2 * SLOTS);
}

Test(cleanup, wake_wakes_as_many_as_there_are, .init = make_with_sleepers)
{
	put(p, 0, (SLEEPERS + 2) * SLOTS);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(stats().wakes, SLEEPERS);
	end_sleepers((SLEEPERS + 2) * SLOTS);
}

static void wake_too(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_wake(q) == 0);
}

Test(cleanup, racing_wakes_ask_for_no_more_than_the_work, .init = make_asking)
{
	put(p, 0, SLOTS);
	at_point("wake.claimed", wake_too, NULL);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 1);
	finish(SLOTS);
}

/* -------------------------------------------------------- counters near limits */

Test(cleanup, demand_of_more_than_32_bits_is_not_cut_off, .init = make_asking)
{
	q->full[0].queue.units = UINT64_C(1) << 32;
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(asked_now(), 2);
	q->full[0].queue.units = (UINT64_C(1) << 32) + 2;
	cr_assert_not(cq_cleanup_needs_wake(q));
	q->full[0].queue.units = 0;
	finish(0);
}

Test(cleanup, statistics_beyond_32_bits_are_exact, .init = make)
{
	const uint64_t big = UINT64_C(0xffffffff);

	p->total = big; /* as though they had been accepted, published and run */
	p->published[0] = q->executed[0] = big;
	put(p, 0, SLOTS);
	cr_assert_eq(stats().queued, big + SLOTS);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	cr_assert_eq(stats().executed, big + SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, 0), 0);
	finish(SLOTS);
}

Test(cleanup, reservation_beyond_32_bits_is_exact, .init = make)
{
	p->total = UINT64_C(0xffffffff) - 1;
	p->published[0] = q->executed[0] = p->total;
	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	out_of_memory(true);
	put(p, 0, 2);
	cr_assert_eq(cq_producer_flush(p), ENOMEM, "two are still reserved");
	put(p, 2, SLOTS - 2);
	out_of_memory(false);
	finish(SLOTS);
}

/* ---------------------------------------------------------------------- trim */

Test(cleanup, trim_frees_the_blocks_that_nobody_uses, .init = make)
{
	size_t freed = 1;

	put(p, 0, 10 * SLOTS + 1);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(stats().blocks_made, 11);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 10 * q->block_bytes);
	cr_assert_eq(stats().blocks_made, 1, "the open block stays");
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
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	cr_assert_eq(stats().blocks_made, 0);
	finish(2 * SLOTS);
}

Test(cleanup, trim_is_refused_while_work_waits_or_runs, .init = make)
{
	cq_worker_t *w;
	cq_block_t *b;

	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_trim(q, NULL), EBUSY);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	b = cq_worker_try_dequeue(w);
	cr_assert_eq(cq_cleanup_units(q), 0);
	cr_assert_eq(cq_cleanup_trim(q, NULL), EBUSY, "a worker has a block");
	cq_worker_run(w, b);
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	cr_assert_null(cq_worker_try_dequeue(w));
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	cq_worker_detach(w);
	finish(SLOTS);
}

Test(cleanup, trim_is_refused_while_a_worker_is_coming, .init = make_asking)
{
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	cr_assert_eq(cq_cleanup_trim(q, NULL), EBUSY);
	finish(SLOTS);
}

Test(cleanup, trim_goes_on_beside_parked_workers)
{
	size_t freed;

	make_with((cq_cleanup_config_t){ .max_workers = 1 });
	put(p, 0, SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, q->block_bytes);
	put(p, SLOTS, 2 * SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish(3 * SLOTS);
}
