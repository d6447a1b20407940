/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Producers: enqueue and put, flush, reserve, and the collecting of partial blocks from
 * producers that run. Most of it is in one thread, on a pool that runs when the test says so;
 * what another thread would do happens at a point.
 */
#include <criterion/criterion.h>
#include <signal.h>

#include "callbacks.h"

TestSuite(producer, .timeout = 60);

static unsigned slots; /* callbacks that a block of p has room for */

static bool make_kind(unsigned kind, size_t bytes)
{
	make_with((cq_cleanup_config_t){ .block_bytes = bytes },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
	if (kind == 1) {
		cq_producer_detach(p);
		CHECK(cq_producer_attach(q, run_it, &p) == 0);
	}
	slots = p->slots;
	return true;
}

/* What follows is done with a producer of callbacks and their functions, and again, in another
   queue, with one of arguments for its function. */
#define BOTH_KINDS BOTH_KINDS_IN(0)
#define BOTH_KINDS_IN(bytes) for (unsigned kind = 0; kind < 2 && make_kind(kind, bytes); kind++)

static unsigned spares(const cq_producer_t *of)
{
	unsigned n = 0;

	for (const cq_node_t *node = of->spares; node != NULL; node = node->next)
		n++;
	return n;
}

/* Another one of p's kind. */
static cq_producer_t *another(void)
{
	cq_producer_t *other;

	CHECK(cq_producer_attach(q, p->fn, &other) == 0);
	return other;
}

/* ------------------------------------------------------ enqueue and publish */

Test(producer, full_block_is_published_at_once_and_runs_in_order)
{
	BOTH_KINDS {
		put(p, 0, slots - 1);
		cr_assert_eq(waiting(), 0);
		cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 0);
		put(p, slots - 1, 1);
		cr_assert_eq(waiting(), 1);
		cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), slots);
		for (unsigned i = 0; i < slots; i++)
			cr_assert_eq(order[i], i);
		finish(slots);
	}
}

/* Three full blocks of each kind: `room` callbacks with their functions, or twice as many arguments. */
static void fill_blocks_of(size_t bytes, unsigned room)
{
	BOTH_KINDS_IN(bytes) {
		unsigned at = 0;

		cr_assert_eq(slots, room * (kind + 1));
		for (unsigned block = 0; block < 3; block++) {
			put(p, at, slots - 1);
			at += slots - 1;
			cr_assert_eq(waiting(), 0);
			put(p, at++, 1);
			cr_assert_eq(waiting(), 1);
			run_all(NULL);
			cr_assert_eq(runs, at);
		}
		finish(at);
	}
}

Test(producer, default_blocks_hold_253_callbacks_with_their_functions_or_506_arguments)
{
	fill_blocks_of(CQ_BLOCK_BYTES, sizeof(void *) == 8 ? 253 :
	    (CQ_BLOCK_BYTES - sizeof(cq_block_t)) / sizeof(cq_callback_t));
}

Test(producer, the_smallest_and_the_largest_blocks_hold_what_they_have_room_for)
{
	fill_blocks_of(CQ_BLOCK_BYTES_MIN, 2);
	fill_blocks_of(CQ_BLOCK_BYTES_MAX,
	    (CQ_BLOCK_BYTES_MAX - sizeof(cq_block_t)) / sizeof(cq_callback_t));
}

Test(producer, flush_publishes_a_partial_block_and_nothing_when_it_is_empty)
{
	BOTH_KINDS {
		cr_assert_eq(cq_producer_flush(p), 0);
		put(p, 0, 1);
		cr_assert_eq(waiting(), 0);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_eq(waiting(), 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_eq(waiting(), 1);
		finish(1);
	}
}

Test(producer, detach_publishes_the_partial_block_and_null_is_nothing)
{
	BOTH_KINDS {
		cq_producer_detach(NULL);
		put(p, 0, slots + 1);
		cq_producer_detach(p);
		p = NULL;
		cr_assert_eq(waiting(), 2);
		finish(slots + 1);
	}
}

Test(producer, missing_arguments_are_refused, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_enqueue(p, NULL, NULL), EINVAL);
	cr_assert_eq(cq_producer_attach(q, NULL, NULL), EINVAL);
	cr_assert_eq(cq_producer_attach(q, run_it, NULL), EINVAL);
	cr_assert_eq(cq_producer_attach(NULL, NULL, &other), EINVAL);
	finish(0);
}

Test(producer, a_producer_takes_what_it_was_attached_for_and_nothing_else)
{
	BOTH_KINDS {
		cq_callback_t *span;
		size_t n, accepted;

		put(p, 0, 1);
		if (kind == 0) {
			cr_assert_eq(cq_producer_put(p, (void *)1), EINVAL);
		} else {
			cr_assert_eq(cq_producer_enqueue(p, run_it, (void *)1), EINVAL);
			cr_assert_eq(cq_producer_enqueue(p, NULL, (void *)1), EINVAL);
			cr_assert_eq(cq_producer_span(p, &span, &n), EINVAL);
			cr_assert_eq(cq_producer_commit(p, 1, &accepted), EINVAL);
			cr_assert_eq(accepted, 0);
		}
		cr_assert_eq(stats().queued, 1);
		put(p, 1, slots - 1);
		cr_assert_eq(waiting(), 1, "the block is as it was");
		finish(slots);
	}
}

Test(producer, enqueue_without_memory_leaves_the_callback_to_the_caller)
{
	BOTH_KINDS {
		out_of_memory(true);
		cr_assert_eq(try_put(p, 0), ENOMEM);
		out_of_memory(false);
		put(p, 0, slots);
		out_of_memory(true);
		cr_assert_eq(try_put(p, slots), ENOMEM);
		run_all(NULL); /* which brings a block back */
		put(p, slots, 1);
		finish(slots + 1);
	}
}

Test(producer, enqueue_allocates_one_block_at_most_and_a_full_block_needs_none)
{
	BOTH_KINDS {
		unsigned before = mem.calls, allocations = 0;

		for (unsigned i = 0; i < 8 * slots; i++, before = mem.calls) {
			put(p, i, 1);
			cr_assert_leq(mem.calls - before, 1);
			cr_assert(i % slots == 0 || mem.calls == before, "callback %u", i);
			allocations += mem.calls - before;
		}
		cr_assert_eq(allocations, 8);
		finish(8 * slots);
	}
}

Test(producer, after_a_shutdown_all_is_refused)
{
	BOTH_KINDS {
		cq_producer_t *other;
		cq_callback_t *span;
		size_t n;

		put(p, 0, 1); /* leaves a block open */
		flush(NULL);
		run_all(NULL);
		cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
		cr_assert_eq(try_put(p, 1), ESHUTDOWN);
		cr_assert_eq(try_put(p, 1), ESHUTDOWN);
		cr_assert_eq(cq_producer_span(p, &span, &n), kind == 0 ? ESHUTDOWN : EINVAL);
		cr_assert_eq(cq_producer_reserve(p, 1), ESHUTDOWN);
		cr_assert_eq(cq_producer_attach(q, NULL, &other), ESHUTDOWN);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_eq(cq_cleanup_flush(q), 0);
		cr_assert_eq(stats().queued, 1);
		finish(1);
	}
}

Test(producer, statistics_are_exact_after_each_call)
{
	BOTH_KINDS {
		for (unsigned i = 0; i < 3 * slots; i++) {
			put(p, i, 1);
			cr_assert_eq(stats().queued, i + 1);
			if (i % 3 == 0)
				flush(NULL);
			if (i % 5 == 0)
				cr_assert_eq(cq_producer_flush(p), 0);
			cr_assert_eq(stats().queued, i + 1);
			if (i % 7 == 0)
				run_all(NULL);
			cr_assert_eq(stats().executed, runs);
		}
		finish(3 * slots);
	}
}

/* ----------------------------------------------------- whose function runs */

enum { OWN = 100 };

/* Each runs only what was enqueued for it: arguments by their hundreds. */
static void run_first(void *arg)
{
	CHECK((uintptr_t)arg / OWN == 0);
	run_it(arg);
}

static void run_second(void *arg)
{
	CHECK((uintptr_t)arg / OWN == 1);
	run_it(arg);
}

static void run_third(void *arg)
{
	CHECK((uintptr_t)arg / OWN == 2);
	run_it(arg);
}

static cq_producer_t *first, *second;

static void attach_two(void)
{
	CHECK(cq_producer_attach(q, run_first, &first) == 0);
	CHECK(cq_producer_attach(q, run_second, &second) == 0);
}

/* Callback i of each of the two, and of p. */
static void put_each(unsigned i)
{
	CHECK(cq_producer_put(first, (void *)(uintptr_t)i) == 0);
	CHECK(cq_producer_put(second, (void *)(uintptr_t)(OWN + i)) == 0);
	CHECK(cq_producer_enqueue(p, run_third, (void *)(uintptr_t)(2 * OWN + i)) == 0);
}

static void end_of_two(unsigned n)
{
	cq_producer_detach(first);
	cq_producer_detach(second);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	run_all(NULL);
	cr_assert_eq(runs, 3 * n);
	for (unsigned i = 0; i < n; i++)
		cr_assert(ran[i] == 1 && ran[OWN + i] == 1 && ran[2 * OWN + i] == 1, "%u", i);
	forget_callbacks();
	finish(0);
}

/* Blocks of all kinds, in turn, and what a collector has moved out of them into others. */
Test(producer, each_callback_runs_with_its_own_function, .init = make)
{
	attach_two();
	for (unsigned i = 0; i < 50; i++) {
		put_each(i);
		if (i % 3 == 0)
			flush(NULL);
		if (i % 7 == 0)
			cr_assert_eq(cq_producer_flush(first), 0);
		if (i % 4 == 0)
			cq_cleanup_run_some(q, 5); /* what a block has left goes back */
	}
	end_of_two(50);
}

Test(producer, each_callback_is_given_back_with_its_own_function, .init = make)
{
	attach_two();
	for (unsigned i = 0; i < 2 * SLOTS + 3; i++)
		put_each(i);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL), 0);
	cr_assert_eq(given_back, 3 * (2 * SLOTS + 3));
	end_of_two(2 * SLOTS + 3);
}

/* In both orders; and as one that a collector fills. */
/* Blocks so small that each flush publishes its own. */
Test(producer, a_block_is_used_again_by_producers_of_either_kind)
{
	cq_producer_t *of_one;

	make_kind(0, CQ_BLOCK_BYTES_MIN);
	cr_assert_eq(cq_producer_attach(q, run_first, &of_one), 0);
	for (unsigned i = 0; i < 6; i++) {
		cr_assert_eq(cq_producer_put(of_one, (void *)(uintptr_t)(4 * i)), 0);
		cr_assert_eq(cq_producer_flush(of_one), 0);
		run_all(NULL);
		put(p, 4 * i + 1, 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		run_all(NULL);
		cr_assert_eq(cq_producer_put(of_one, (void *)(uintptr_t)(4 * i + 2)), 0);
		cr_assert_eq(cq_producer_flush(of_one), 0);
		put(p, 4 * i + 3, 1);
		run_all(NULL);
		flush(NULL);
		run_all(NULL);
		cr_assert_eq(runs, 4 * i + 4);
	}
	cr_assert_leq(stats().blocks_made, 3);
	cq_producer_detach(of_one);
	finish(24);
}

/* ------------------------------------------------------------- flushes of few */

/* Blocks a fourth of which is more than one callback. */
enum { WIDE = 16, WIDE_BYTES = sizeof(cq_block_t) + WIDE * sizeof(cq_callback_t) };

Test(producer, a_flush_of_few_joins_the_partial_block_and_the_producers_own_stays_open)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		for (unsigned i = 0; i < 3; i++) {
			put(p, i, 1);
			cr_assert_eq(cq_producer_flush(p), 0);
			cr_assert_eq(cq_producer_flush(p), 0);
			cr_assert_eq(waiting(), 1);
			cr_assert_not_null(p->block);
		}
		cr_assert_eq(q->partial->end, 3);
		cr_assert_eq(stats().blocks_made, 2);
		cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 3);
		cr_assert_eq(waiting(), 0);
		finish(3);
	}
}

Test(producer, a_flush_of_a_fourth_of_a_block_publishes_it)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		put(p, 0, slots / 4 - 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_not_null(p->block);
		put(p, slots / 4 - 1, slots / 4);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_null(p->block);
		cr_assert_eq(waiting(), 2);
		cr_assert_eq(q->partial->end, slots / 4 - 1);
		finish(slots / 2 - 1);
	}
}

/* One that is full waits with the others, and the next begins. */
Test(producer, what_is_flushed_by_several_fills_blocks)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		cq_producer_t *others[2] = { another(), NULL };

		cr_assert_eq(cq_producer_attach(q, run_it, &others[1]), 0);
		for (unsigned i = 0; i < 2 * WIDE + 2; i++) {
			cq_producer_t *one = i % 3 == 0 ? p : others[i % 3 - 1];

			put(one, i, 1);
			cr_assert_eq(i % 2 == 0 ? cq_producer_flush(one) : cq_cleanup_flush(q), 0);
			cr_assert_eq(waiting(), i / WIDE + 1);
		}
		cq_producer_detach(others[0]);
		cq_producer_detach(others[1]);
		finish(2 * WIDE + 2);
	}
}

Test(producer, detach_of_few_joins_the_partial_block)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		for (unsigned i = 0; i < 3; i++) {
			cq_producer_t *one = another();

			put(one, i, 1);
			cq_producer_detach(one);
			cr_assert_eq(waiting(), 1);
		}
		cr_assert_eq(q->partial->end, 3);
		cr_assert_eq(stats().blocks_made, 2, "and the one that each had");
		cr_assert_eq(stats().queued, 3);
		cr_assert_eq(cq_cleanup_trim(q, NULL), EBUSY);
		finish(3);
	}
}

static void flush_it(cq_producer_t **one) { CHECK(cq_producer_flush(*one) == 0); }

static void flush_all(cq_producer_t **unused)
{
	(void)unused;
	flush(NULL);
}

static void detach_it(cq_producer_t **one)
{
	cq_producer_detach(*one);
	*one = another();
}

static void check_memory_of(unsigned n, unsigned at_a_time, void (*publish)(cq_producer_t **one))
{
	cq_producer_t *one = another();
	cq_cleanup_stats_t s;

	for (unsigned i = 0; i < n; i++) {
		put(one, i, 1);
		if (i % at_a_time == 0)
			publish(&one);
	}
	s = stats();
	cr_assert_leq(s.blocks_made * s.block_bytes, 64 * n + 2 * s.block_bytes);
	cq_producer_detach(one);
}

/* However it is published. */
Test(producer, what_waits_takes_64_bytes_a_callback_and_a_block_of_each_producer_at_most)
{
	static void (*const publish[])(cq_producer_t **one) = { flush_it, flush_all, detach_it };
	static const unsigned at_a_time[] = { 1, 2, 15, 62, 63, 64, 65, 127, 200 };
	enum { N = 3000 };

	for (unsigned i = 0; i < 3 * sizeof(at_a_time) / sizeof(*at_a_time); i++)
		BOTH_KINDS_IN(CQ_BLOCK_BYTES) {
			check_memory_of(N, at_a_time[i / 3], publish[i % 3]);
			finish(N);
		}
}

Test(producer, a_flush_of_few_without_memory_publishes_their_block)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		put(p, 0, 1);
		out_of_memory(true);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_null(p->block);
		cr_assert_eq(waiting(), 1);
		finish(1);
	}
}

static bool lock_is_not_free(void)
{
	CHECK(pthread_mutex_trylock(&q->partial_lock) == 0);
	pthread_mutex_unlock(&q->partial_lock);
	return false;
}

/* That lock is held for no longer than it takes to copy a block's callbacks. */
Test(producer, the_allocator_is_not_called_with_the_partial_blocks_lock_held)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		unsigned long calls = mem.calls;

		mem.fails = lock_is_not_free;
		put(p, 0, 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		mem.fails = NULL;
		cr_assert_eq(mem.calls, calls + 2);
		finish(1);
	}
}

Test(producer, a_flush_and_a_detach_of_few_wake_a_worker)
{
	make_with((cq_cleanup_config_t){ .block_bytes = WIDE_BYTES }, (cq_pool_config_t){ .park = cq_park_default() });
	put(p, 0, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(runs == 1);
	put(p, 1, 1);
	cq_producer_detach(p);
	p = NULL;
	AWAIT(runs == 2);
	finish(2);
}

/* A full block is left to a tick that comes in an hour: who flushes has nothing else to publish. */
Test(producer, who_flushes_or_detaches_does_not_wait_for_a_tick)
{
	make_with((cq_cleanup_config_t){ .flush_ns = UINT64_C(3600000000000) }, (cq_pool_config_t){ .park = cq_park_default() });
	put(p, 0, SLOTS);
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(runs == SLOTS);
	put(p, SLOTS, SLOTS);
	cq_producer_detach(p);
	p = NULL;
	AWAIT(runs == 2 * SLOTS);
	finish(2 * SLOTS);
}

/* Its block is open, after a flush of few, and holds nothing that is not published. */
Test(producer, a_detach_that_leaves_nothing_signals_nobody)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		cq_pool_stats_t before, after;

		put(p, 0, 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_not_null(p->block);
		cr_assert_eq(cq_pool_run_some(q->pool, SIZE_MAX), 1);
		cq_pool_stats(q->pool, &before);
		cq_producer_detach(p);
		p = NULL;
		cr_assert_eq(cq_pool_run_some(q->pool, SIZE_MAX), 0);
		cq_pool_stats(q->pool, &after);
		cr_assert_eq(after.runs, before.runs);
		finish(1);
	}
}

Test(producer, a_flush_of_few_leaves_what_is_reserved)
{
	BOTH_KINDS_IN(WIDE_BYTES) {
		put(p, 0, 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		cr_assert_eq(cq_producer_reserve(p, 2 * slots - 1), 0);
		out_of_memory(true);
		put(p, 1, 1);
		cr_assert_eq(cq_producer_flush(p), 0);
		put(p, 2, 2 * slots - 2);
		finish(2 * slots);
	}
}

/* ------------------------------------------------------------------ collecting */

Test(producer, flush_moves_partial_blocks_into_as_few_as_hold_them, .init = make)
{
	enum { PRODUCERS = 7, ROUNDS = 300 };
	cq_producer_t *all[PRODUCERS];
	rng_t r = rng_for(0);
	unsigned n = 0;

	for (unsigned i = 0; i < PRODUCERS; i++)
		cr_assert_eq(cq_producer_attach(q, i % 2 == 0 ? run_it : NULL, &all[i]), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned open = 0;
		uint64_t full;

		for (unsigned i = 0; i < PRODUCERS; i++) {
			unsigned k = (unsigned)rng_below(&r, 2 * SLOTS);

			put(all[i], n, k);
			n += k;
		}
		/* What is in open blocks and not claimed by an earlier round. */
		full = waiting();
		for (unsigned i = 0; i < PRODUCERS; i++)
			if (all[i]->block != NULL)
				open += cq_producer_written(all[i]) - state_claimed(all[i]->state);
		cr_assert_eq(cq_cleanup_flush(q), 0);
		cr_assert_eq(waiting() - full, (open + SLOTS - 1) / SLOTS);
		run_all(NULL);
		cr_assert_eq(runs, n);
	}
	for (unsigned i = 0; i < PRODUCERS; i++)
		cq_producer_detach(all[i]);
	cr_assert_eq(waiting(), 0, "all was claimed");
	finish(n);
}

Test(producer, flush_without_memory_leaves_the_rest_with_the_producers)
{
	BOTH_KINDS {
		cq_producer_t *other = another();

		put(p, 0, SLOTS - 1);
		put(other, SLOTS - 1, SLOTS - 1);
		mem.fail_on = true;
		mem.fail_in = 2; /* one block can be had */
		cr_assert_eq(cq_cleanup_flush(q), ENOMEM);
		cr_assert_eq(waiting(), 1);
		out_of_memory(false);
		cr_assert_eq(cq_cleanup_flush(q), 0);
		cr_assert_eq(waiting(), 2);
		cq_producer_detach(other);
		finish(2 * (SLOTS - 1));
	}
}

Test(producer, owner_closes_what_is_not_claimed)
{
	BOTH_KINDS {
		put(p, 0, 2);
		flush(NULL);
		put(p, 2, slots - 2); /* closes */
		cr_assert_eq(waiting(), 2);
		finish(slots);
	}
}

Test(producer, full_block_that_is_all_claimed_is_kept_and_not_published)
{
	BOTH_KINDS {
		put(p, 0, slots - 1);
		at_point("producer.stored", flush, NULL);
		put(p, slots - 1, 1);
		cr_assert_eq(waiting(), slots / SLOTS);
		cr_assert_eq(cq_producer_flush(p), 0);
		out_of_memory(true);
		put(p, slots, 1);
		out_of_memory(false);
		finish(slots + 1);
	}
}

/* --------------------------------------- the owner acts while its block is copied */

static unsigned passes;

/* The first two times that a collector has copied. */
static void put_one_more(void *unused)
{
	put(p, ++passes, 1);
	if (passes < 2)
		at_point("collect.copied", put_one_more, unused);
}

Test(producer, flush_takes_what_was_there_and_does_not_follow_the_owner)
{
	BOTH_KINDS {
		passes = 0;
		put(p, 0, 1);
		at_point("collect.copied", put_one_more, NULL);
		flush(NULL);
		cr_assert_eq(passes, 1);
		cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
		flush(NULL);
		cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
		cr_assert_eq(passes, 2);
		finish(3);
	}
}

static void fill_the_block(void *unused)
{
	(void)unused;
	put(p, 1, slots - 1);
	CHECK(waiting() == 1);
}

Test(producer, block_closed_while_the_collector_copies_is_the_owners)
{
	BOTH_KINDS {
		put(p, 0, 1);
		at_point("collect.copied", fill_the_block, NULL);
		flush(NULL);
		cr_assert_eq(waiting(), 1);
		finish(slots);
	}
}

/* ... and a new block has as many callbacks as the copy. */
static void fill_the_block_and_begin_another(void *unused)
{
	(void)unused;
	put(p, 1, slots - 1 + 1);
}

Test(producer, claim_of_a_block_that_was_closed_and_opened_again_fails)
{
	BOTH_KINDS {
		put(p, 0, 1);
		at_point("collect.copied", fill_the_block_and_begin_another, NULL);
		flush(NULL);
		cr_assert_eq(waiting(), 1);
		finish(slots + 1);
	}
}

static void flush_p(void *unused)
{
	(void)unused;
	CHECK(cq_producer_flush(p) == 0);
}

Test(producer, flush_of_the_owner_while_the_collector_copies_publishes_once)
{
	BOTH_KINDS {
		put(p, 0, 2);
		at_point("collect.copied", flush_p, NULL);
		flush(NULL);
		cr_assert_eq(waiting(), 1);
		finish(2);
	}
}

Test(producer, seq_of_a_producer_may_wrap, .init = make)
{
	p->state = 0 - 2 * STATE_SEQ;
	for (unsigned i = 0; i < 4; i++) {
		put(p, 5 * i, 1);
		at_point("collect.copied", flush_p, NULL);
		flush(NULL);
		put(p, 5 * i + 1, SLOTS);
	}
	finish(20);
}

/* --------------------------------------------------------------------- spans */

static cq_callback_t *span_of(size_t n)
{
	cq_callback_t *span;
	size_t have = 0;

	CHECK(cq_producer_span(p, &span, &have) == 0 && have == n);
	return span;
}

/* Writes callbacks i .. i + n - 1 into slots of a span. */
static void fill(cq_callback_t *span, unsigned i, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		span[k] = (cq_callback_t){ run_it, (void *)(uintptr_t)(i + k) };
}

static int commit(size_t k, size_t expected)
{
	size_t accepted = SIZE_MAX;
	int err = cq_producer_commit(p, k, &accepted);

	CHECK(accepted == expected);
	return err;
}

Test(producer, span_is_the_rest_of_the_block_and_is_published_when_that_is_full, .init = make)
{
	fill(span_of(SLOTS), 0, SLOTS - 1);
	cr_assert_eq(commit(SLOTS - 1, SLOTS - 1), 0);
	cr_assert_eq(waiting(), 0);
	put(p, SLOTS - 1, 1);
	cr_assert_eq(waiting(), 1);
	put(p, SLOTS, 1);
	fill(span_of(SLOTS - 1), SLOTS + 1, SLOTS - 1);
	cr_assert_eq(commit(SLOTS - 1, SLOTS - 1), 0);
	cr_assert_eq(waiting(), 2);
	run_all(NULL);
	/* The later block first, and each in the order in which it was filled. */
	for (unsigned i = 0; i < 2 * SLOTS; i++)
		cr_assert_eq(order[i], (i + SLOTS) % (2 * SLOTS));
	finish(2 * SLOTS);
}

Test(producer, what_is_not_committed_was_never_there, .init = make)
{
	fill(span_of(SLOTS), 100, SLOTS);
	cr_assert_eq(commit(0, 0), 0);
	flush(NULL);
	cr_assert_eq(waiting(), 0);
	put(p, 0, 1);
	fill(span_of(SLOTS - 1), 1, 2);
	cr_assert_eq(commit(1, 1), 0);
	finish(2);
}

Test(producer, spans_refuse_what_they_cannot_be, .init = make)
{
	cq_callback_t *span;
	size_t n;

	cr_assert_eq(cq_producer_span(p, NULL, &n), EINVAL);
	cr_assert_eq(cq_producer_span(p, &span, NULL), EINVAL);
	cr_assert_eq(commit(0, 0), 0);
	cr_assert_eq(commit(1, 0), EINVAL, "no span");
	fill(span_of(SLOTS), 0, 1);
	cr_assert_eq(cq_producer_commit(p, 1, NULL), EINVAL);
	cr_assert_eq(commit(SLOTS + 1, 0), EINVAL);
	cr_assert_eq(commit(SIZE_MAX, 0), EINVAL);
	cr_assert_eq(commit(1, 1), 0);
	cr_assert_eq(commit(1, 0), EINVAL, "a second commit");
	put(p, 1, 1);
	cr_assert_eq(commit(1, 0), EINVAL, "no span of this block");
	fill(span_of(SLOTS - 2), 100, 1);
	put(p, 2, 1);
	cr_assert_eq(commit(1, 0), EINVAL, "an enqueue between");
	finish(3);
}

/* Its block comes again, and write is where the span was. */
Test(producer, a_span_is_gone_with_its_block, .init = make)
{
	cq_callback_t *span;

	put(p, 0, 1);
	span = span_of(SLOTS - 1);
	put(p, 1, SLOTS - 1);
	run_all(NULL);
	put(p, SLOTS, 1);
	cr_assert_eq(p->write, span);
	cr_assert_eq(commit(1, 0), EINVAL);
	finish(SLOTS + 1);
}

Test(producer, spans_and_enqueues_fill_one_block_together)
{
	unsigned n;

	make_kind(0, CQ_BLOCK_BYTES_MAX);
	put(p, 0, slots);
	for (n = slots; n < 4 * slots;) {
		unsigned room, k = min_u32(slots - n % slots, 131);

		put(p, n, k);
		n += k;
		room = slots - n % slots;
		k = min_u32(room, 277);
		fill(span_of(room), n, k);
		cr_assert_eq(commit(k, k), 0);
		n += k;
	}
	finish(n);
}

#ifdef CQ_CHECKS
Test(producer, a_checking_build_asserts_that_no_callback_of_a_span_is_null, .init = make,
    .signal = SIGABRT)
{
	size_t accepted;

	fill(span_of(SLOTS), 0, 2);
	p->span[1].fn = NULL;
	cr_assert_eq(cq_producer_commit(p, 2, &accepted), 0);
}
#endif

Test(producer, span_needs_a_block, .init = make)
{
	cq_callback_t *span;
	size_t n;

	out_of_memory(true);
	cr_assert_eq(cq_producer_span(p, &span, &n), ENOMEM);
	out_of_memory(false);
	cr_assert_eq(cq_producer_reserve(p, 1), 0);
	out_of_memory(true);
	fill(span_of(SLOTS), 0, 1);
	cr_assert_eq(commit(1, 1), 0);
	finish(1);
}

/* ------------------------------------------------- refused by a shutdown, or claimed */

/* The queue is closed, and the last collection is still to come: there was no memory for it. */
static void close_unsealed(void)
{
	out_of_memory(true);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == ENOMEM);
	out_of_memory(false);
}

static void hand_back(unsigned n)
{
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert_eq(try_put(p, 0), ESHUTDOWN);
	cr_assert_eq(given_back, n);
	finish(n);
}

Test(producer, enqueue_that_meets_a_closed_queue_takes_its_callback_back)
{
	BOTH_KINDS {
		put(p, 0, 1);
		close_unsealed();
		cr_assert_eq(try_put(p, 1), ESHUTDOWN);
		hand_back(1);
	}
}

Test(producer, enqueue_whose_callback_was_claimed_is_accepted)
{
	BOTH_KINDS {
		put(p, 0, 1);
		close_unsealed();
		at_point("producer.stored", flush, NULL);
		cr_assert_eq(try_put(p, 1), 0);
		/* Also between the store of the smaller write and the new seq: too late to claim. */
		at_point("producer.retracting", flush, NULL);
		cr_assert_eq(try_put(p, 2), ESHUTDOWN);
		hand_back(2);
	}
}

/* Refused once, the owner has no block in which the next refusal could stop a claim. */
Test(producer, a_refused_enqueue_closes_its_block)
{
	BOTH_KINDS {
		put(p, 0, 1);
		close_unsealed();
		for (unsigned i = 0; i < 2; i++) {
			cr_assert_eq(try_put(p, 1), ESHUTDOWN);
			cr_assert_eq(waiting(), 1);
			cr_assert_null(p->block);
		}
		hand_back(1);
	}
}

static gate_t stored, may_retract, retracted, may_close;

static void close_gates(void)
{
	stored = may_retract = retracted = may_close = (gate_t)GATE_INITIALIZER;
}

static void hold_stored(void *unused)
{
	(void)unused;
	gate_open(&stored);
	gate_wait(&may_retract);
}

static void *put_refused(void *unused)
{
	CHECK(try_put(p, 1) == ESHUTDOWN);
	return unused;
}

/* But not close its block, by which the claim would fail as well. */
static void hold_retracted(void *unused)
{
	(void)unused;
	gate_open(&retracted);
	gate_wait(&may_close);
}

static void let_the_owner_retract(void *unused)
{
	(void)unused;
	gate_open(&may_retract);
	gate_wait(&retracted);
}

/* The collector has read the larger write and copied; then the owner takes it back. */
Test(producer, claim_that_copied_a_callback_taken_back_fails)
{
	BOTH_KINDS {
		pthread_t owner;

		close_gates();
		put(p, 0, 1);
		close_unsealed();
		at_point("producer.stored", hold_stored, NULL);
		owner = start(put_refused, NULL);
		gate_wait(&stored);
		at_point("producer.retracted", hold_retracted, NULL);
		at_point("collect.copied", let_the_owner_retract, NULL);
		flush(NULL);
		gate_open(&may_close);
		join(owner);
		hand_back(1);
	}
}

Test(producer, enqueue_refused_by_a_finished_shutdown_cannot_be_claimed)
{
	BOTH_KINDS {
		put(p, 0, 1);
		flush(NULL);
		run_all(NULL);
		cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
		at_point("producer.stored", flush, NULL);
		cr_assert_eq(try_put(p, 1), ESHUTDOWN);
		cr_assert_eq(waiting(), 0);
		finish(1);
	}
}

/* A collector that finds room for one callback more than the other producer's. */
static void claim_one(void *unused)
{
	(void)unused;
	out_of_memory(true);
	CHECK(cq_cleanup_flush(q) == ENOMEM);
	out_of_memory(false);
}

Test(producer, commit_that_meets_a_closed_queue_keeps_what_is_claimed, .init = make)
{
	cq_producer_t *before = another(); /* writes first, collected first */
	cq_callback_t *span;
	size_t n;

	put(before, 1, SLOTS - 1);
	span = span_of(SLOTS);
	fill(span, 0, 1);
	fill(span + 1, SLOTS, 2);
	close_unsealed();
	cq_block_put(q, cq_block_get(q, false)); /* the one that can be had */
	cr_assert_eq(cq_producer_span(p, &span, &n), ESHUTDOWN);
	at_point("producer.stored", claim_one, NULL);
	cr_assert_eq(commit(3, 1), ESHUTDOWN);
	cq_producer_detach(before);
	hand_back(SLOTS);
}

Test(producer, commit_into_a_closed_queue_is_refused, .init = make)
{
	fill(span_of(SLOTS), 0, 2);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	at_point("producer.stored", flush, NULL);
	cr_assert_eq(commit(2, 0), ESHUTDOWN);
	cr_assert_eq(waiting(), 0);
	finish(0);
}

static void executed_is_not_above_queued(void *unused)
{
	(void)unused;
	CHECK(stats().executed == 2 && stats().queued == 2);
}

static void claim_and_run(void *unused)
{
	flush(unused);
	run_all(unused);
}

Test(producer, stats_count_a_claimed_callback_while_its_retract_is_under_way)
{
	BOTH_KINDS {
		put(p, 0, 1);
		close_unsealed();
		at_point("producer.stored", claim_and_run, NULL);
		at_point("producer.retracting", executed_is_not_above_queued, NULL);
		cr_assert_eq(try_put(p, 1), 0);
		finish(2);
	}
}

/* ------------------------------------------------------------------- reserve */

Test(producer, reserve_makes_the_next_enqueues_infallible)
{
	BOTH_KINDS {
		cr_assert_eq(cq_producer_reserve(p, 2 * slots), 0);
		out_of_memory(true);
		put(p, 0, 2 * slots);
		cr_assert_eq(try_put(p, 2 * slots), ENOMEM, "no more than was asked for");
		finish(2 * slots);
	}
}

Test(producer, reserve_counts_the_room_in_the_open_block)
{
	BOTH_KINDS {
		put(p, 0, 1);
		out_of_memory(true);
		cr_assert_eq(cq_producer_reserve(p, slots - 1), 0);
		cr_assert_eq(spares(p), 0);
		cr_assert_eq(cq_producer_reserve(p, slots), ENOMEM);
		out_of_memory(false);
		cr_assert_eq(cq_producer_reserve(p, slots), 0);
		cr_assert_eq(spares(p), 1);
		cr_assert_eq(cq_producer_reserve(p, 2 * slots), 0);
		cr_assert_eq(spares(p), 2, "not cumulative");
		finish(1);
	}
}

Test(producer, reserve_of_nothing_gives_the_spare_blocks_back, .init = make)
{
	cq_producer_t *other = another();

	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	out_of_memory(true);
	cr_assert_eq(try_put(other, 0), ENOMEM);
	cr_assert_eq(cq_producer_reserve(p, 0), 0);
	put(other, 0, 1);
	cq_producer_detach(other);
	finish(1);
}

static pthread_key_t key;

static void detach(void *producer)
{
	cq_producer_detach(producer);
}

/* Its key has the producer, and nobody else. */
static void *put_two_and_end(void *unused)
{
	cq_producer_t *mine = another();

	put(mine, 0, 2);
	CHECK(pthread_setspecific(key, mine) == 0);
	return unused;
}

Test(producer, the_destructor_of_a_threads_key_may_detach, .init = make)
{
	cr_assert_eq(pthread_key_create(&key, detach), 0);
	join(start(put_two_and_end, NULL));
	cr_assert_eq(stats().producers, 1);
	run_all(NULL);
	pthread_key_delete(key);
	finish(2);
}

Test(producer, detach_gives_the_spare_blocks_back, .init = make)
{
	cq_producer_t *other = another();

	cr_assert_eq(cq_producer_reserve(other, SLOTS), 0);
	cq_producer_detach(other);
	out_of_memory(true);
	put(p, 0, 1);
	finish(1);
}

Test(producer, absurd_reservations_are_refused)
{
	BOTH_KINDS {
		cr_assert_eq(cq_producer_reserve(p, slots), 0);
		cr_assert_eq(cq_producer_reserve(p, SIZE_MAX), EINVAL);
		cr_assert_eq(cq_producer_reserve(p, SIZE_MAX / 2), EINVAL);
		out_of_memory(true);
		put(p, 0, slots);
		finish(slots);
	}
}

Test(producer, failed_reserve_leaves_the_earlier_reservation)
{
	BOTH_KINDS {
		cr_assert_eq(cq_producer_reserve(p, 2 * slots), 0);
		mem.fail_on = true;
		mem.fail_in = 3; /* two more blocks of the four that it wants */
		cr_assert_eq(cq_producer_reserve(p, 6 * slots), ENOMEM);
		cr_assert_eq(spares(p), 2);
		put(p, 0, 1);
		cr_assert_eq(cq_producer_reserve(p, 6 * slots), ENOMEM);
		put(p, 1, 2 * slots - 1);
		finish(2 * slots);
	}
}

Test(producer, flush_that_would_break_the_reservation_is_refused)
{
	BOTH_KINDS {
		put(p, 0, 1);
		cr_assert_eq(cq_producer_reserve(p, slots - 1), 0);
		out_of_memory(true);
		cr_assert_eq(cq_producer_flush(p), ENOMEM);
		cr_assert_eq(waiting(), 0);
		put(p, 1, slots - 1);
		cr_assert_eq(waiting(), 1);
		finish(slots);
	}
}

Test(producer, reservation_beyond_32_bits_is_exact, .init = make)
{
	p->total = UINT64_C(0xffffffff) - 1; /* as though so many had been accepted */
	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	out_of_memory(true);
	put(p, 0, 2);
	cr_assert_eq(cq_producer_flush(p), ENOMEM, "two are still reserved");
	put(p, 2, SLOTS - 2);
	finish(SLOTS);
}

Test(producer, reservation_holds_through_flushes_and_collections)
{
	enum { ROUNDS = 400 };

	BOTH_KINDS {
		rng_t r = rng_for(kind);
		unsigned n = 0;

		for (unsigned round = 0; round < ROUNDS; round++) {
			uint64_t left = rng_below(&r, 6 * slots);

			out_of_memory(false);
			CHECK(cq_producer_reserve(p, left) == 0);
			while (left > 0) {
				unsigned k = 1 + (unsigned)rng_below(&r, left);

				out_of_memory(rng_below(&r, 4) != 0);
				put(p, n, k);
				n += k;
				left -= k;
				if (rng_below(&r, 2) != 0)
					(void)cq_producer_flush(p); /* may refuse */
				if (rng_below(&r, 2) != 0)
					(void)cq_cleanup_flush(q);
				if (rng_below(&r, 3) == 0)
					run_all(NULL);
			}
		}
		finish(n);
	}
}

/* ------------------------------------------------------ workers and callbacks */

Test(producer, a_partial_block_waits_for_a_flush)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1 });
	put(p, 0, SLOTS);
	fake_wait_blocked(&park, 1);
	put(p, SLOTS, 1);
	cr_assert_eq(park.unparks, 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(park.unparks, 1);
	finish(SLOTS + 1);
}

static void calls_the_queue(void *unused)
{
	static unsigned depth;
	cq_producer_t *mine = another();

	(void)unused;
	CHECK(cq_producer_reserve(mine, 2) == 0);
	if (depth++ < 10)
		CHECK(cq_producer_enqueue(mine, calls_the_queue, NULL) == 0);
	put(mine, depth - 1, 1);
	CHECK(cq_producer_flush(mine) == 0);
	CHECK(cq_cleanup_flush(q) == 0);
	CHECK(stats().executed <= stats().queued);
	cq_producer_detach(mine);
}

Test(producer, callbacks_may_attach_reserve_enqueue_flush_and_detach)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1 });
	cr_assert_eq(cq_producer_enqueue(p, calls_the_queue, NULL), 0);
	for (unsigned i = 0; i < 12; i++) /* a callback's own callbacks come after it */
		cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(runs, 11);
	finish(11);
}

/* ------------------------------------------------------- running producers */

enum { PRODUCERS = 4, EACH = MANY / PRODUCERS };

static uint64_t end;
static atomic_uint producing;
static unsigned put_by[PRODUCERS];

static void produce_or_flush(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	cq_producer_t *mine;
	unsigned n = 0;

	(void)unused;
	if (index == PRODUCERS) {
		while (producing > 0) {
			CHECK(cq_cleanup_flush(q) == 0);
			if (rng_below(&r, 4) == 0)
				cq_cleanup_run_some(q, rng_below(&r, 2 * SLOTS));
		}
		return;
	}
	CHECK(cq_producer_attach(q, index % 2 == 0 ? run_it : NULL, &mine) == 0);
	while (n < EACH && (n % 64 != 0 || cq_now() < end)) {
		put(mine, index * EACH + n++, 1);
		if (rng_below(&r, 16) == 0)
			CHECK(cq_producer_flush(mine) == 0);
		if (rng_below(&r, 64) == 0)
			CHECK(cq_producer_reserve(mine, rng_below(&r, 3 * SLOTS)) == 0);
	}
	cq_producer_detach(mine);
	put_by[index] = n;
	producing--;
}

Test(producer, flush_against_running_producers_moves_each_callback_once)
{
	unsigned n = 0;

	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 2 });
	end = run_until(0.3);
	producing = PRODUCERS;
	run_threads(PRODUCERS + 1, produce_or_flush, NULL);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	for (unsigned i = 0; i < PRODUCERS; i++) {
		for (unsigned k = 0; k < put_by[i]; k++)
			cr_assert_eq(ran[i * EACH + k], 1);
		n += put_by[i];
	}
	cr_assert_eq(runs, n);
	cr_assert_eq(stats().executed, n);
	cr_assert_eq(stats().queued, n);
	forget_callbacks();
	finish(0);
}
