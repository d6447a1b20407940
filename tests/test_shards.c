/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shards of a cleanup queue. Each thread says on which CPU it runs; most tests are of one thread that goes from
 * one to another.
 */
#include <criterion/criterion.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callbacks.h"
#include "workq/stack.h"

TestSuite(shards, .timeout = 60);

enum { HOT = 64, MS = 1000000 };

static _Thread_local uint32_t cpu;

/* In place of the system's. */
uint32_t __wrap_cq_cpu(void);
uint32_t __wrap_cq_cpu(void)
{
	return cpu;
}

/* From here on on the first of the processors of that shard. */
static void go_to(uint32_t shard)
{
	cpu = shard * CQ_SHARD_CPUS;
}

static void grow_to(uint32_t n)
{
	while (cq_shards(q) < n)
		cq_shards_grow(q, cq_shards(q));
	CHECK(cq_shards(q) == n);
}

static void make_of(uint32_t n)
{
	make();
	grow_to(n);
}

static void make_4(void) { make_of(4); }

/* So many full blocks, at that shard. */
static void publish(uint32_t shard, unsigned first, unsigned blocks)
{
	go_to(shard);
	put(p, first, blocks * SLOTS);
}

static uint64_t units(uint32_t shard)
{
	cq_shard_t *s = cq_shard_at(q, shard);

	return cq_workq_units(&s->waiting[0]) + cq_workq_units(&s->waiting[1]);
}

static uint64_t unfinished(uint32_t shard)
{
	return cq_shard_at(q, shard)->unfinished[0] + cq_shard_at(q, shard)->unfinished[1];
}

static unsigned free_at(uint32_t shard)
{
	unsigned n = 0;

	for (cq_node_t *node = cq_shard_at(q, shard)->free[0].head; node != NULL; node = node->next)
		n++;
	return n;
}

/* So many blocks, by a worker of that shard. */
static void run_at(uint32_t shard, unsigned blocks)
{
	go_to(shard);
	CHECK(cq_cleanup_run_some(q, blocks * SLOTS) == blocks * SLOTS);
}

/* ------------------------------------------------------------------ when there are more */

Test(shards, a_queue_that_nobody_contends_for_has_one, .init = make)
{
	for (unsigned i = 0; i < 1000; i++) {
		publish(i % 64, i * SLOTS, 1);
		run_at(i % 63, 1);
	}
	cr_assert_eq(cq_shards(q), 1);
	finish(1000 * SLOTS);
}

static void swap_fails(uint32_t times)
{
	for (uint32_t i = 0; i < times; i++)
		cq_shard_swapped(q, &q->first, 1);
}

Test(shards, there_are_more_when_swaps_have_failed_often, .init = make)
{
	go_to(1);
	swap_fails(HOT - 1);
	cr_assert_eq(cq_shards(q), 1);
	for (unsigned i = 0; i < HOT; i++)
		cq_shard_swapped(q, &q->first, 0);
	go_to(2);
	swap_fails(HOT - 1);
	cr_assert_eq(cq_shards(q), 1, "those that did not fail count against them");
	swap_fails(1);
	cr_assert_eq(cq_shards(q), 1, "all are of one group");
	go_to(1);
	swap_fails(1);
	cr_assert_eq(cq_shards(q), 2);
	finish(0);
}

/* Whoever comes from another group than the one before. */
Test(shards, there_are_more_only_for_whom_they_help, .init = make)
{
	for (uint32_t n = 1; n < 1 << CQ_SHARD_BITS; n *= 2) {
		go_to(0);
		swap_fails(10 * HOT);
		cr_assert_eq(cq_shards(q), n);
		cpu = n * CQ_SHARD_CPUS + CQ_SHARD_CPUS - 1;
		swap_fails(2 * HOT);
		cr_assert_eq(cq_shards(q), 2 * n);
		cr_assert_eq(cq_shard_mine(q), n);
		swap_fails(10 * HOT);
		cr_assert_eq(cq_shards(q), 2 * n);
	}
	go_to(0);
	swap_fails(10 * HOT);
	cpu = CQ_SHARD_CPUS << CQ_SHARD_BITS;
	swap_fails(10 * HOT);
	cr_assert_eq(cq_shards(q), 1 << CQ_SHARD_BITS, "64 at most");
	finish(0);
}

/* Two groups of processors use a shard in turns, without a swap that fails. */
Test(shards, there_are_more_when_processors_of_different_groups_meet_in_one)
{
	unsigned i = 0;

	make_of(2);
	for (; i < 4 * HOT && cq_shards(q) == 2; i++) {
		publish(2 * (i % 2), i * SLOTS, 1);
		run_at(0, 1);
	}
	cr_assert_eq(cq_shards(q), 4);
	cr_assert_geq(i, HOT);
	finish(i * SLOTS);
}

Test(shards, there_are_no_more_for_swaps_at_a_shard_that_has_become_anothers)
{
	make_of(2);
	for (unsigned i = 0; i < 4 * HOT; i++) {
		go_to(1 + 2 * (i % 2));
		swap_fails(1);
	}
	cr_assert_eq(cq_shards(q), 2);
	finish(0);
}

/* Another thread's pop and push, while a block is being popped off that stack. */
static void disturb(void *stack)
{
	cq_node_t *node = cq_stack_pop_n(stack, 1);

	cq_stack_push(stack, node);
}

Test(shards, a_free_block_whose_pop_was_disturbed_counts, .init = make)
{
	unsigned i = 2;

	if (strcmp(cq_pop_kind, "dwcas") == 0) {
		publish(1, 0, 2);
		run_at(1, 2);
		for (; i < 4 * HOT && cq_shards(q) == 1; i++) {
			at_point("stack.walked", disturb, &q->first.free[0]);
			publish(2 * (i % 2), i * SLOTS, 1); /* which two shards don't part */
			run_at(1, 1);
		}
		cr_assert_eq(cq_shards(q), 2);
		cr_assert_eq(i, 2 + HOT);
		finish(i * SLOTS);
	} else {
		finish(0);
	}
}

Test(shards, a_block_whose_take_was_disturbed_counts, .init = make)
{
	unsigned i = 0;

	if (strcmp(cq_pop_kind, "dwcas") == 0) {
		publish(1, 0, HOT);
		for (; i < HOT; i++) {
			cr_assert_eq(cq_shards(q), 1);
			at_point("stack.walked", disturb, &q->first.waiting[0].stack);
			run_at(1 + i % 2, 1);
		}
		cr_assert_eq(cq_shards(q), 2);
	}
	finish(i * SLOTS);
}

Test(shards, without_memory_for_more_it_goes_on_with_what_there_is, .init = make)
{
	publish(1, 0, 1);
	out_of_memory(true);
	go_to(1);
	swap_fails(10 * HOT);
	go_to(2);
	swap_fails(10 * HOT);
	cr_assert_eq(cq_shards(q), 1);
	run_all(NULL);
	put(p, SLOTS, SLOTS);
	out_of_memory(false);
	go_to(1);
	swap_fails(1);
	cr_assert_eq(cq_shards(q), 2);
	finish(2 * SLOTS);
}

/* More than a lot that is drawn now and then would find. */
Test(shards, without_memory_what_is_free_at_any_is_had, .init = make_4)
{
	publish(1, 0, 8);
	run_at(1, 8);
	cr_assert_eq(free_at(1), 8);
	out_of_memory(true);
	publish(2, 8 * SLOTS, 8);
	out_of_memory(false);
	finish(16 * SLOTS);
}

static void grow_too(void *unused)
{
	(void)unused;
	cq_shards_grow(q, 1);
}

Test(shards, two_that_add_them_at_once_add_them_once, .init = make)
{
	at_point("shards.made", grow_too, NULL);
	cq_shards_grow(q, 1);
	cr_assert_eq(cq_shards(q), 2);
	cq_shards_grow(q, 1);
	cr_assert_eq(cq_shards(q), 2, "one had seen fewer");
	finish(0);
}

/* ------------------------------------------------------------------------ a block's home */

Test(shards, a_block_waits_is_counted_and_is_free_again_where_it_was_made, .init = make_4)
{
	publish(3, 0, 1);
	cr_assert_eq(units(3), 1);
	cr_assert_eq(unfinished(3), 1);
	cr_assert_eq(unfinished(0), 0);
	cr_assert_eq(waiting(), 1);
	run_at(0, 1);
	cr_assert_eq(unfinished(3), 0);
	cr_assert_eq(free_at(3), 1);
	cr_assert_eq(free_at(0), 0);
	cr_assert_eq(cq_shard_at(q, 3)->executed, SLOTS);
	cr_assert_eq(stats().executed, SLOTS);
	publish(3, SLOTS, 1);
	cr_assert_eq(stats().blocks_made, 1, "and used again there");
	finish(2 * SLOTS);
}

/* Before new memory one is looked for at another shard, by chance, and moves. */
Test(shards, a_block_that_is_free_elsewhere_is_used_before_new_memory)
{
	unsigned i = 1;

	make_of(2);
	publish(1, 0, 1);
	run_at(1, 1);
	for (; i < 64 && free_at(1) == 1; i++)
		publish(0, i * SLOTS, 1);
	cr_assert_eq(free_at(1), 0);
	cr_assert_eq(units(0), i - 1);
	cr_assert_eq(unfinished(0), i - 1);
	cr_assert_eq(stats().blocks_made, i - 1);
	finish(i * SLOTS);
}

Test(shards, what_waits_in_any_is_found_before_a_run_ends, .init = make_4)
{
	for (unsigned i = 0; i < 4; i++)
		publish(i, i * SLOTS, 1);
	grow_to(8);
	publish(7, 4 * SLOTS, 1);
	go_to(0);
	run_all(NULL);
	cr_assert_eq(runs, 5 * SLOTS);
	finish(5 * SLOTS);
}

/* ------------------------------------------------------------------------ the thief */

Test(shards, a_thief_takes_half_and_four_at_most_and_the_rest_waits_with_its_own, .init = make_4)
{
	publish(1, 0, 20);
	run_at(0, 1);
	cr_assert_eq(units(0), 3);
	cr_assert_eq(units(1), 16);
	run_at(0, 3);
	cr_assert_eq(units(1), 16);
	run_at(1, 11);
	cr_assert_eq(units(1), 5);
	run_at(0, 1);
	cr_assert_eq(units(0), 1);
	cr_assert_eq(units(1), 3);
	run_at(0, 3);
	cr_assert_eq(units(0), 0);
	cr_assert_eq(units(1), 1, "one of three, and one of two");
	cr_assert_eq(unfinished(1), 1, "what was stolen was counted there");
	finish(20 * SLOTS);
}

Test(shards, what_is_stolen_is_as_old_as_it_was, .init = make_4)
{
	publish(1, 0, 4);
	fake_advance(&park, 5 * MS);
	run_at(0, 1);
	run_at(1, 2);
	cr_assert_eq(units(0), 1);
	cr_assert_eq(units(1), 0);
	cr_assert_eq(stats().oldest_ns, 5 * MS);
	finish(4 * SLOTS);
}

static pthread_t drainer;
static int drained;

static void *drains(void *unused)
{
	drained = cq_cleanup_drain(q, CQ_FOREVER);
	return unused;
}

/* All others have run, and to a drain nothing waits. */
static void run_the_rest_and_drain(void *unused)
{
	run_at(1, 2);
	go_to(0);
	drainer = start(drains, unused);
	AWAIT(asleep_in(&q->drains));
}

static void wait_for_the_drain(void *arg)
{
	join(drainer);
	CHECK(drained == EAGAIN); /* nobody serves the pool: its caller is to run what waits */
	run_it(arg);
}

Test(shards, a_drain_that_looked_while_blocks_were_being_stolen_looks_again, .init = make_4)
{
	publish(1, 0, 3);
	CHECK(cq_producer_enqueue(p, wait_for_the_drain, (void *)(uintptr_t)(3 * SLOTS)) == 0);
	put(p, 3 * SLOTS + 1, SLOTS - 1);
	go_to(0);
	at_point("blocks.stolen", run_the_rest_and_drain, NULL);
	cq_cleanup_run_some(q, SIZE_MAX);
	cr_assert_eq(drained, EAGAIN);
	finish(4 * SLOTS);
}

static bool is_signalled(void)
{
	return (cq_u64_load_relaxed(&q->task->word) & TASK_IN) != 0;
}

static bool signalled;

static void look(void *arg)
{
	signalled = is_signalled();
	run_it(arg);
}

/* Another worker finds what the thief has left, and not what that has in its hand; then the task is signalled no more. */
static void run_the_others(void *unused)
{
	(void)unused;
	CHECK(units(0) == 0);
	go_to(2);
	cq_pool_run_some(cq_cleanup_pool(q), SIZE_MAX);
	CHECK(units(1) == 0 && !is_signalled());
	go_to(0);
}

/* A callback of the first block that a thief has: the others wait for nobody but a worker. */
Test(shards, what_is_stolen_is_signalled_before_it_runs, .init = make_4)
{
	publish(0, 0, 1);
	go_to(1);
	for (unsigned i = 1; i < 9; i++) {
		CHECK(cq_producer_enqueue(p, look, (void *)(uintptr_t)(i * SLOTS)) == 0);
		put(p, i * SLOTS + 1, SLOTS - 1);
	}
	at_point("blocks.stolen", run_the_others, NULL);
	go_to(0);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS + 1), SLOTS + 1);
	cr_assert(signalled);
	finish(9 * SLOTS);
}

/* The first piece of a run is of its own shard, which has no more: who waits elsewhere may rely on this run. */
Test(shards, what_waits_elsewhere_is_signalled_before_a_run_begins, .init = make_4)
{
	go_to(0);
	CHECK(cq_producer_enqueue(p, look, (void *)0) == 0);
	put(p, 1, SLOTS - 1);
	publish(3, SLOTS, 1);
	go_to(0);
	signalled = false;
	cr_assert_eq(cq_pool_run_some(cq_cleanup_pool(q), 1), 1);
	cr_assert(signalled);
	finish(2 * SLOTS);
}

/* The time, which this thread looks at when it looks for a block in a shard while there is a partial one. At the last
   of so many looks another thread does something first. */
static _Thread_local struct {
	unsigned left;
	void (*act)(void);
} looks;
static uint64_t (*time_of_the_park)(void *host);

static uint64_t looked_at(void *host)
{
	if (looks.left != 0 && --looks.left == 0)
		looks.act();
	return time_of_the_park(host);
}

static struct {
	pthread_t thread;
	atomic_bool inside;
	gate_t leave;
} other = { .leave = GATE_INITIALIZER };

static void stand_still(void)
{
	other.inside = true;
	gate_wait(&other.leave);
}

/* It has passed shard 1, and is to look at shard 0. */
static void *runs_in_shard_1(void *unused)
{
	go_to(1);
	looks.left = 2;
	looks.act = stand_still;
	cq_pool_run_some(cq_cleanup_pool(q), SIZE_MAX);
	return unused;
}

/* A block is published in shard 0, and another worker begins a run for it. And the partial block is old. */
static void publish_behind_its_back(void)
{
	go_to(0);
	CHECK(cq_producer_enqueue(p, look, (void *)(uintptr_t)(SLOTS + 1)) == 0);
	put(p, SLOTS + 2, SLOTS - 1);
	CHECK(is_signalled());
	other.thread = start(runs_in_shard_1, NULL);
	AWAIT(other.inside);
	CHECK(!is_signalled());
	fake_advance(&park, 11 * MS);
}

static void begin_to_look(void *arg)
{
	looks.left = 3;
	looks.act = publish_behind_its_back;
	run_it(arg);
}

/* It pushes the partial block to shard 1, which it has passed, and finds another at shard 0 when it looks again. */
Test(shards, what_was_moved_to_where_another_has_looked_is_signalled, .init = make_4)
{
	cq_producer_t *few;

	time_of_the_park = park.ops.now;
	park.ops.now = looked_at;
	go_to(1);
	CHECK(cq_producer_attach(q, NULL, &few) == 0);
	put(few, 0, 1);
	flush(NULL);
	cq_producer_detach(few);
	go_to(0);
	put(p, 1, SLOTS - 1);
	CHECK(cq_producer_enqueue(p, begin_to_look, (void *)(uintptr_t)SLOTS) == 0);
	cr_assert_eq(cq_pool_run_some(cq_cleanup_pool(q), 2), 2);
	cr_assert_eq(units(1), 1);
	cr_assert(signalled);
	gate_open(&other.leave);
	join(other.thread);
	finish(2 * SLOTS + 1);
}

static struct {
	atomic_uint inside;
	gate_t leave;
} room = { 0, GATE_INITIALIZER };

static void stay(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	run_it(arg);
}

static void make_managed(uint32_t workers)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = workers });
	grow_to(4);
}

/* Two of three workers hang. */
Test(shards, callbacks_that_hang_hold_back_no_block_of_another_shard)
{
	enum { WORKERS = 3, N = 50 * SLOTS };

	make_managed(WORKERS);
	for (unsigned i = 1; i < WORKERS; i++) {
		go_to(i);
		CHECK(cq_producer_enqueue(p, stay, (void *)(uintptr_t)(N + i - 1)) == 0);
		CHECK(cq_producer_flush(p) == 0);
		AWAIT(room.inside == i);
	}
	for (unsigned i = 0; i < N / SLOTS; i++)
		publish(i % 4, i * SLOTS, 1);
	AWAIT(runs == N);
	gate_open(&room.leave);
	finish(N + WORKERS - 1);
}

/* ------------------------------------------------------------------------ age */

/* One block, of which a worker of another shard finds more recent ones at its own, two at each time. */
Test(shards, what_is_older_than_10_ms_is_taken_wherever_it_waits, .init = make_4)
{
	unsigned i = SLOTS, later = MANY;

	publish(2, 0, 1);
	for (unsigned ms = 0; ran[0] == 0; ms += 2) {
		cr_assert_leq(ms, 40);
		if (ms == 14) /* the stacks have changed places */
			later = i;
		publish(0, i, 2);
		i += 2 * SLOTS;
		run_at(0, 1);
		fake_advance(&park, 2 * MS);
	}
	for (unsigned k = later; k < i; k++)
		cr_assert_eq(ran[k], 0);
	cr_assert_lt(later, i);
	finish(i);
}

/* There are never two, which would be a reason to look at the clock. */
Test(shards, a_worker_looks_elsewhere_first_now_and_then, .init = make_4)
{
	unsigned i = SLOTS;

	publish(2, 0, 1);
	for (; ran[0] == 0; i += SLOTS) {
		cr_assert_leq(i, 1024 * SLOTS);
		publish(0, i, 1);
		run_at(0, 1);
	}
	finish(i);
}

/* Shard 1 always has one, too, where a worker of shard 0 looks next. */
Test(shards, in_which_no_shard_is_passed_over_for_ever, .init = make_4)
{
	unsigned i = SLOTS;

	publish(2, 0, 1);
	for (; ran[0] == 0; i += SLOTS) {
		cr_assert_leq(i, 64 * 64 * SLOTS);
		publish(units(1) == 0, i, 1);
		run_at(0, units(0));
	}
	finish(i);
}

/* ------------------------------------------------------------------------ all are seen */

Test(shards, statistics_are_of_all, .init = make_4)
{
	for (unsigned i = 0; i < 4; i++)
		publish(i, i * SLOTS, 1);
	run_at(2, 1);
	run_at(0, 1);
	fake_advance(&park, 3 * MS);
	cr_assert_eq(stats().executed, 2 * SLOTS);
	cr_assert_eq(stats().queued, 4 * SLOTS);
	cr_assert_eq(stats().blocks_waiting, 2);
	cr_assert_eq(stats().blocks_made, 4);
	cr_assert_eq(stats().oldest_ns, 3 * MS);
	finish(4 * SLOTS);
}

/* In another shard than who waits. */
static void hang_at(uint32_t shard)
{
	go_to(shard);
	CHECK(cq_producer_enqueue(p, stay, (void *)0) == 0);
	CHECK(cq_producer_flush(p) == 0);
	AWAIT(room.inside == 1);
	go_to(0);
}

/* The block of a whole one: what is flushed in part is the queue's own, where that was made. */
static void hang_in_a_full_block(uint32_t shard)
{
	go_to(shard);
	CHECK(cq_producer_enqueue(p, stay, (void *)0) == 0);
	put(p, 1, SLOTS - 1);
	AWAIT(room.inside == 1);
	go_to(0);
}

Test(shards, a_drain_waits_for_what_runs_in_any)
{
	make_managed(1);
	hang_in_a_full_block(3);
	fake_advance(&park, 1);
	cr_assert_eq(cq_cleanup_drain(q, park.now), ETIMEDOUT);
	gate_open(&room.leave);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(runs, SLOTS);
	finish(SLOTS);
}

Test(shards, a_drain_covers_what_waits_in_any)
{
	make_managed(2);
	for (unsigned i = 0; i < 40; i++)
		publish(i % 4, i * SLOTS, 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(runs, 40 * SLOTS);
	finish(40 * SLOTS);
}

Test(shards, a_shutdown_waits_for_what_runs_in_any)
{
	make_managed(1);
	hang_at(2);
	publish(3, 1, 1);
	fake_advance(&park, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, park.now, NULL, NULL), ETIMEDOUT);
	gate_open(&room.leave);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(runs, SLOTS + 1);
	finish(SLOTS + 1);
}

Test(shards, a_shutdown_hands_back_what_is_in_any, .init = make_4)
{
	for (unsigned i = 0; i < 12; i++)
		publish(i % 4, i * SLOTS, 1);
	go_to(0);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert_eq(given_back, 12 * SLOTS);
	finish(12 * SLOTS);
}

Test(shards, destroy_refuses_what_is_left_in_any, .init = make_4)
{
	publish(3, 0, 1);
	cq_producer_detach(p);
	go_to(0);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
	finish(SLOTS);
}

Test(shards, trim_gives_back_what_is_free_in_any, .init = make_4)
{
	size_t freed;

	for (unsigned i = 0; i < 4; i++)
		publish(i, i * SLOTS, 2);
	go_to(0);
	cr_assert_eq(cq_cleanup_trim(q, &freed), EBUSY);
	cr_assert_eq(stats().blocks_made, 8);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 8 * q->block_bytes);
	cr_assert_eq(stats().blocks_made, 0);
	forget_callbacks();
	finish(0);
}

/* ------------------------------------------------------------------------ fork */

/* Some have run, and some wait, in each. */
static void put_in_each(void)
{
	for (unsigned i = 0; i < 4; i++)
		publish(i, 2 * i * SLOTS, 2);
	for (unsigned i = 0; i < 4; i++)
		run_at(i, 1);
	put(p, 8 * SLOTS, 1);
}

Test(shards, a_child_has_what_is_in_any, .init = make_4)
{
	put_in_each();
	if (test_forked()) {
		CHECK(cq_shards(q) == 4);
		CHECK(stats().executed == 4 * SLOTS);
		CHECK(stats().queued == 8 * SLOTS + 1);
		CHECK(waiting() == 4);
		finish(8 * SLOTS + 1);
		_exit(0);
	}
	cr_assert(test_child_ended());
	finish(8 * SLOTS + 1);
}

Test(shards, a_child_that_discards_has_nothing_in_any)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_CLEANUP_FORK_DISCARD },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
	grow_to(4);
	put_in_each();
	if (test_forked()) {
		CHECK(waiting() == 0);
		for (unsigned i = 0; i < 4; i++)
			CHECK(unfinished(i) == 0);
		CHECK(stats().executed == stats().queued);
		run_all(NULL);
		CHECK(runs == 4 * SLOTS);
		_exit(0);
	}
	cr_assert(test_child_ended());
	finish(8 * SLOTS + 1);
}

/* ------------------------------------------------------------------------ all together */

enum { THREADS = 4, EACH = 4000 };

static void produce(void *unused, unsigned index)
{
	rng_t rng = rng_for(index);
	cq_producer_t *mine;

	(void)unused;
	CHECK(cq_producer_attach(q, NULL, &mine) == 0);
	for (unsigned i = 0; i < EACH; i++) {
		if (i % 64 == 0) {
			cpu = (uint32_t)rng_below(&rng, 64);
			if (i % 1024 == 0)
				cq_shards_grow(q, cq_shards(q));
		}
		put(mine, index * EACH + i, 1);
	}
	cq_producer_detach(mine);
}

Test(shards, that_are_added_meanwhile_lose_and_double_nothing)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 2, .park = cq_park_default() });
	run_threads(THREADS, produce, NULL);
	cr_assert_geq(cq_shards(q), 8);
	finish(THREADS * EACH);
}
