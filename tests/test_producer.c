/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Producers: enqueue, flush, reserve, and the gathering of partial blocks from
 * producers that run. Most of it is in one thread, on a polled queue that runs
 * when the test says so; what another thread would do happens at a point.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>

#include "cleanup/producer.h"
#include "support.h"

TestSuite(producer, .timeout = 60);

enum { SLOTS = 4, MANY = 1 << 16 };

static test_alloc_t mem;
static fake_park_t park;
static cq_cleanup_t *q;
static cq_producer_t *p;

/* Callback i runs once, and in which order. */
static atomic_uint ran[MANY], runs;
static unsigned order[64], given_back;

static void run_it(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg, at = runs++;

	ran[i]++;
	if (at < 64)
		order[at] = i;
}

static void take_back(void *unused, cq_callback_fn *fn, void *arg)
{
	(void)unused;
	given_back++;
	fn(arg);
}

static int try_put(cq_producer_t *to, unsigned i)
{
	return cq_producer_enqueue(to, run_it, (void *)(uintptr_t)i);
}

static void put(cq_producer_t *to, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		CHECK(try_put(to, i) == 0);
}

static void run_all(void *unused)
{
	(void)unused;
	cq_cleanup_run_some(q, SIZE_MAX);
}

static bool each_ran_once(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (ran[i] != 1)
			return false;
	return runs == n;
}

static void out_of_memory(bool yes)
{
	mem.fail_on = yes;
	mem.fail_in = yes;
}

static void make_with(cq_cleanup_config_t config)
{
	test_alloc_init(&mem);
	fake_init(&park);
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

/* Runs what is left and ends the queue; it has given all memory back. */
static void finish(void)
{
	out_of_memory(false);
	cq_producer_detach(p);
	if ((q->config.flags & CQ_POLLED) != 0)
		run_all(NULL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

/* ------------------------------------------------------ enqueue and publish */

Test(producer, full_block_is_published_at_once_and_runs_in_order, .init = make)
{
	put(p, 0, SLOTS - 1);
	cr_assert_eq(cq_cleanup_units(q), 0);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 0);
	put(p, SLOTS - 1, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	for (unsigned i = 0; i < SLOTS; i++)
		cr_assert_eq(order[i], i);
	finish();
	cr_assert(each_ran_once(SLOTS));
}

Test(producer, flush_publishes_a_partial_block_and_nothing_when_it_is_empty, .init = make)
{
	cr_assert_eq(cq_producer_flush(p), 0);
	put(p, 0, 1);
	cr_assert_eq(cq_cleanup_units(q), 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(cq_cleanup_units(q), 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(cq_cleanup_units(q), 1);
	finish();
	cr_assert(each_ran_once(1));
}

/* A drain turns the page: what was published before and after it is in two queues. */
Test(producer, units_are_those_of_both_pages, .init = make)
{
	put(p, 0, SLOTS);
	cr_assert_eq(cq_cleanup_drain(q, 0), EAGAIN);
	cr_assert_eq(cq_cleanup_units(q), 1);
	put(p, SLOTS, 2 * SLOTS);
	cr_assert_eq(cq_cleanup_units(q), 3);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
	cr_assert_eq(cq_cleanup_units(q), 2);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS + 1), SLOTS + 1);
	cr_assert_eq(cq_cleanup_units(q), 1, "the rest went back");
	run_all(NULL);
	cr_assert_eq(cq_cleanup_units(q), 0);
	finish();
	cr_assert(each_ran_once(3 * SLOTS));
}

Test(producer, detach_publishes_the_partial_block_and_null_is_nothing, .init = make)
{
	cq_producer_detach(NULL);
	put(p, 0, SLOTS + 1);
	cq_producer_detach(p);
	p = NULL;
	cr_assert_eq(cq_cleanup_units(q), 2);
	finish();
	cr_assert(each_ran_once(SLOTS + 1));
}

Test(producer, missing_arguments_are_refused, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_enqueue(p, NULL, NULL), EINVAL);
	cr_assert_eq(cq_producer_attach(q, NULL), EINVAL);
	cr_assert_eq(cq_producer_attach(NULL, &other), EINVAL);
	finish();
	cr_assert_eq(runs, 0);
}

Test(producer, enqueue_without_memory_leaves_the_callback_to_the_caller, .init = make)
{
	out_of_memory(true);
	cr_assert_eq(try_put(p, 0), ENOMEM);
	out_of_memory(false);
	put(p, 0, SLOTS);
	out_of_memory(true);
	cr_assert_eq(try_put(p, SLOTS), ENOMEM);
	run_all(NULL); /* which brings a block back */
	put(p, SLOTS, 1);
	finish();
	cr_assert(each_ran_once(SLOTS + 1));
}

Test(producer, enqueue_allocates_one_block_at_most_and_a_full_block_needs_none, .init = make)
{
	unsigned before = mem.calls, allocations = 0;

	for (unsigned i = 0; i < 8 * SLOTS; i++, before = mem.calls) {
		put(p, i, 1);
		cr_assert_leq(mem.calls - before, 1);
		cr_assert(i % SLOTS == 0 || mem.calls == before, "callback %u", i);
		allocations += mem.calls - before;
	}
	cr_assert_eq(allocations, 8);
	finish();
	cr_assert(each_ran_once(8 * SLOTS));
}

Test(producer, after_a_shutdown_all_is_refused, .init = make)
{
	cq_producer_t *other;
	cq_cleanup_stats_t stats;

	put(p, 0, 1); /* leaves a block open */
	cq_cleanup_flush_all(q);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	cr_assert_eq(cq_producer_reserve(p, 1), ESHUTDOWN);
	cr_assert_eq(cq_producer_attach(q, &other), ESHUTDOWN);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cq_cleanup_stats(q, &stats);
	cr_assert_eq(stats.queued, 1);
	finish();
	cr_assert(each_ran_once(1));
}

/* ---------------------------------------------------------------- flush_all */

Test(producer, flush_all_moves_partial_blocks_into_as_few_as_hold_them, .init = make)
{
	enum { PRODUCERS = 7, ROUNDS = 300 };
	cq_producer_t *all[PRODUCERS];
	rng_t r = rng_for(0);
	unsigned n = 0;

	for (unsigned i = 0; i < PRODUCERS; i++)
		cr_assert_eq(cq_producer_attach(q, &all[i]), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned open = 0;
		uint64_t full;

		for (unsigned i = 0; i < PRODUCERS; i++) {
			unsigned k = (unsigned)rng_below(&r, 2 * SLOTS);

			put(all[i], n, k);
			n += k;
		}
		/* What is in open blocks and not claimed by an earlier round. */
		full = cq_cleanup_units(q);
		for (unsigned i = 0; i < PRODUCERS; i++)
			if (state_phase(all[i]->state) == PHASE_OPEN)
				open += written(all[i]) -
				    state_claimed(all[i]->state);
		cr_assert_eq(cq_cleanup_flush_all(q), 0);
		cr_assert_eq(cq_cleanup_units(q) - full, (open + SLOTS - 1) / SLOTS);
		run_all(NULL);
		cr_assert_eq(runs, n);
	}
	for (unsigned i = 0; i < PRODUCERS; i++)
		cq_producer_detach(all[i]);
	cr_assert_eq(cq_cleanup_units(q), 0, "all was claimed");
	finish();
	cr_assert(each_ran_once(n));
}

Test(producer, flush_all_without_memory_leaves_the_rest_with_the_producers, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, &other), 0);
	put(p, 0, SLOTS - 1);
	put(other, SLOTS - 1, SLOTS - 1);
	mem.fail_on = true;
	mem.fail_in = 2; /* one block can be had */
	cr_assert_eq(cq_cleanup_flush_all(q), ENOMEM);
	cr_assert_eq(cq_cleanup_units(q), 1);
	out_of_memory(false);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_units(q), 2);
	cq_producer_detach(other);
	finish();
	cr_assert(each_ran_once(2 * (SLOTS - 1)));
}

Test(producer, owner_closes_what_is_not_claimed, .init = make)
{
	put(p, 0, 2);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	put(p, 2, SLOTS - 2); /* closes */
	cr_assert_eq(cq_cleanup_units(q), 2);
	finish();
	cr_assert(each_ran_once(SLOTS));
}

static void flush_all(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush_all(q) == 0);
}

Test(producer, full_block_that_is_all_claimed_is_kept_and_not_published, .init = make)
{
	put(p, 0, SLOTS - 1);
	at_point("producer.stored", flush_all, NULL);
	put(p, SLOTS - 1, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	cr_assert_eq(p->nspares, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	put(p, SLOTS, 1);
	cr_assert_eq(p->nspares, 0);
	finish();
	cr_assert(each_ran_once(SLOTS + 1));
}

/* --------------------------------------- the owner acts while its block is copied */

static unsigned passes;

/* Whenever the gatherer has copied, and as long as there is room in the block. */
static void put_one_more(void *unused)
{
	put(p, ++passes, 1);
	if (passes < SLOTS - 2)
		at_point("gather.copied", put_one_more, unused);
}

Test(producer, flush_all_takes_what_was_there_and_does_not_follow_the_owner, .init = make)
{
	put(p, 0, 1);
	at_point("gather.copied", put_one_more, NULL);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(passes, 1);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 1);
	cr_assert_eq(passes, 2);
	finish();
	cr_assert(each_ran_once(3));
}

static void fill_the_block(void *unused)
{
	(void)unused;
	put(p, 1, SLOTS - 1);
	CHECK(cq_cleanup_units(q) == 1);
}

Test(producer, block_closed_while_the_gatherer_copies_is_the_owners, .init = make)
{
	put(p, 0, 1);
	at_point("gather.copied", fill_the_block, NULL);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_units(q), 1);
	finish();
	cr_assert(each_ran_once(SLOTS));
}

/* ... and a new block has as many callbacks, of the same parity, as the copy. */
static void fill_the_block_and_begin_another(void *unused)
{
	(void)unused;
	put(p, 1, SLOTS - 1 + 1);
}

Test(producer, claim_of_a_block_that_was_closed_and_opened_again_fails, .init = make)
{
	put(p, 0, 1);
	at_point("gather.copied", fill_the_block_and_begin_another, NULL);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_units(q), 1);
	finish();
	cr_assert(each_ran_once(SLOTS + 1));
}

static void flush_it(void *unused)
{
	(void)unused;
	CHECK(cq_producer_flush(p) == 0);
}

Test(producer, flush_while_the_gatherer_copies_publishes_once, .init = make)
{
	put(p, 0, 2);
	at_point("gather.copied", flush_it, NULL);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_units(q), 1);
	finish();
	cr_assert(each_ran_once(2));
}

Test(producer, seq_of_a_producer_may_wrap, .init = make)
{
	p->state = 0 - 2 * STATE_SEQ;
	for (unsigned i = 0; i < 4; i++) {
		put(p, 5 * i, 1);
		at_point("gather.copied", flush_it, NULL);
		cr_assert_eq(cq_cleanup_flush_all(q), 0);
		put(p, 5 * i + 1, SLOTS);
	}
	finish();
	cr_assert(each_ran_once(20));
}

/* --------------------------------------------------------------------- spans */

static cq_callback_t *span_of(size_t n)
{
	cq_callback_t *slots;
	size_t have = 0;

	CHECK(cq_producer_span(p, &slots, &have) == 0 && have == n);
	return slots;
}

/* Writes callbacks first .. first + n - 1 into the slots of a span. */
static void fill(cq_callback_t *slots, unsigned first, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		slots[i] = (cq_callback_t){ run_it, (void *)(uintptr_t)(first + i) };
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
	cr_assert_eq(cq_cleanup_units(q), 0);
	put(p, SLOTS - 1, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	put(p, SLOTS, 1);
	fill(span_of(SLOTS - 1), SLOTS + 1, SLOTS - 1);
	cr_assert_eq(commit(SLOTS - 1, SLOTS - 1), 0);
	cr_assert_eq(cq_cleanup_units(q), 2);
	run_all(NULL);
	/* The later block first, and each in the order in which it was filled. */
	for (unsigned i = 0; i < 2 * SLOTS; i++)
		cr_assert_eq(order[i], (i + SLOTS) % (2 * SLOTS));
	finish();
}

Test(producer, what_is_not_committed_was_never_there, .init = make)
{
	fill(span_of(SLOTS), 100, SLOTS);
	cr_assert_eq(commit(0, 0), 0);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_units(q), 0);
	put(p, 0, 1);
	fill(span_of(SLOTS - 1), 1, 2);
	cr_assert_eq(commit(1, 1), 0);
	finish();
	cr_assert(each_ran_once(2));
}

Test(producer, spans_refuse_what_they_cannot_be, .init = make)
{
	cq_callback_t *slots;
	size_t n;

	cr_assert_eq(cq_producer_span(p, NULL, &n), EINVAL);
	cr_assert_eq(cq_producer_span(p, &slots, NULL), EINVAL);
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
	finish();
	cr_assert(each_ran_once(3));
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
	finish();
	cr_assert(each_ran_once(SLOTS + 1));
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
	cq_callback_t *slots;
	size_t n;

	out_of_memory(true);
	cr_assert_eq(cq_producer_span(p, &slots, &n), ENOMEM);
	out_of_memory(false);
	cr_assert_eq(cq_producer_reserve(p, 1), 0);
	out_of_memory(true);
	fill(span_of(SLOTS), 0, 1);
	cr_assert_eq(commit(1, 1), 0);
	finish();
	cr_assert(each_ran_once(1));
}

/* ------------------------------------------------- refused by a shutdown, or claimed */

/* The gate is closed, and the last gathering is still to come: a worker doesn't end. */
static cq_worker_t *close_the_gate(void)
{
	cq_worker_t *w;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL) == ETIMEDOUT);
	return w;
}

/* The same, but nothing that open blocks hold has been gathered: there is no memory. */
static cq_worker_t *close_the_gate_early(void)
{
	cq_worker_t *w;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	q->gate |= GATE_CLOSED;
	cq_producers_look(q);
	return w;
}

static void hand_back_the_rest(cq_worker_t *w)
{
	cq_worker_detach(w);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert_eq(try_put(p, 0), ESHUTDOWN);
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(producer, enqueue_that_meets_a_closed_gate_takes_its_callback_back, .init = make)
{
	cq_worker_t *w;

	put(p, 0, 1);
	w = close_the_gate();
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	hand_back_the_rest(w);
	cr_assert_eq(given_back, 1);
	cr_assert(each_ran_once(1));
}

Test(producer, enqueue_whose_callback_was_claimed_is_accepted, .init = make)
{
	cq_worker_t *w;

	put(p, 0, 1);
	w = close_the_gate();
	at_point("producer.stored", flush_all, NULL);
	cr_assert_eq(try_put(p, 1), 0);
	/* Also between the store of the smaller n and the new seq: too late to claim. */
	at_point("producer.retracting", flush_all, NULL);
	cr_assert_eq(try_put(p, 2), ESHUTDOWN);
	hand_back_the_rest(w);
	cr_assert_eq(given_back, 2);
	cr_assert(each_ran_once(2));
}

/* Refused once, the owner has no block in which the next refusal could stop a claim. */
Test(producer, a_refused_enqueue_closes_its_block, .init = make)
{
	cq_worker_t *w;

	put(p, 0, 1);
	w = close_the_gate_early();
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_units(q), 1);
	cr_assert_eq(p->block, NULL);
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_units(q), 1);
	hand_back_the_rest(w);
	cr_assert_eq(given_back, 1);
	cr_assert(each_ran_once(1));
}

/* The gatherer has read the larger n and copied; then the owner takes it back. */
static gate_t stored = GATE_INITIALIZER, go_on = GATE_INITIALIZER;
static pthread_t owner;

static void hold(void *unused)
{
	(void)unused;
	gate_open(&stored);
	gate_wait(&go_on);
}

static void *put_refused(void *unused)
{
	CHECK(try_put(p, 1) == ESHUTDOWN);
	return unused;
}

/* But not close its block, by which the claim would fail as well. */
static gate_t retracted = GATE_INITIALIZER, may_close = GATE_INITIALIZER;

static void hold_retracted(void *unused)
{
	(void)unused;
	gate_open(&retracted);
	gate_wait(&may_close);
}

static void let_the_owner_retract(void *unused)
{
	(void)unused;
	gate_open(&go_on);
	gate_wait(&retracted);
}

Test(producer, claim_that_copied_a_callback_taken_back_fails, .init = make)
{
	cq_worker_t *w;

	put(p, 0, 1);
	w = close_the_gate();
	at_point("producer.stored", hold, NULL);
	owner = start(put_refused, NULL);
	gate_wait(&stored);
	at_point("gather.copied", let_the_owner_retract, NULL);
	at_point("producer.retracted", hold_retracted, NULL);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	gate_open(&may_close);
	join(owner);
	hand_back_the_rest(w);
	cr_assert_eq(given_back, 1);
	cr_assert(each_ran_once(1));
}

Test(producer, enqueue_refused_by_a_finished_shutdown_cannot_be_claimed, .init = make)
{
	put(p, 0, 1);
	flush_all(NULL);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	at_point("producer.stored", flush_all, NULL);
	cr_assert_eq(try_put(p, 1), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_units(q), 0);
	finish();
	cr_assert(each_ran_once(1));
}

/* A gathering that finds room for one callback more than the other producer's. */
static void claim_one(void *unused)
{
	(void)unused;
	out_of_memory(true);
	CHECK(cq_cleanup_flush_all(q) == ENOMEM);
	out_of_memory(false);
}

Test(producer, commit_that_meets_a_closed_gate_keeps_what_is_claimed, .init = make)
{
	cq_producer_t *before; /* attached last, gathered first */
	cq_callback_t *slots;
	cq_worker_t *w;
	size_t n;

	cr_assert_eq(cq_producer_attach(q, &before), 0);
	fill(span_of(SLOTS), 0, 3);
	put(before, 100, SLOTS - 1);
	/* One free block for the gathering, and the gate closed without a gathering. */
	cq_block_put(q, cq_block_get(q));
	w = close_the_gate_early();
	cr_assert_eq(cq_producer_span(p, &slots, &n), ESHUTDOWN);
	at_point("producer.stored", claim_one, NULL);
	cr_assert_eq(commit(3, 1), ESHUTDOWN);
	cq_producer_detach(before);
	hand_back_the_rest(w);
	cr_assert(ran[0] == 1 && ran[1] == 0 && ran[2] == 0);
	cr_assert(ran[100] == 1 && runs == SLOTS);
}

Test(producer, commit_into_a_closed_queue_is_refused, .init = make)
{
	fill(span_of(SLOTS), 0, 2);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	at_point("producer.stored", flush_all, NULL);
	cr_assert_eq(commit(2, 0), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_units(q), 0);
	finish();
	cr_assert_eq(runs, 0);
}

static void executed_is_not_above_queued(void *unused)
{
	cq_cleanup_stats_t stats;

	(void)unused;
	cq_cleanup_stats(q, &stats);
	CHECK(stats.executed + stats.handed_back == 2 && stats.queued == 2);
}

static void claim_and_run(void *unused)
{
	(void)unused;
	flush_all(NULL);
	run_all(NULL);
}

Test(producer, stats_count_a_claimed_callback_while_its_retract_is_under_way, .init = make)
{
	put(p, 0, 1);
	/* DRAIN, so that run_some goes on; the gathering fails, so it is not the last. */
	out_of_memory(true);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), ENOMEM);
	out_of_memory(false);
	at_point("producer.stored", claim_and_run, NULL);
	at_point("producer.retracting", executed_is_not_above_queued, NULL);
	cr_assert_eq(try_put(p, 1), 0);
	finish();
	cr_assert(each_ran_once(2));
}

/* ------------------------------------------------------------------- reserve */

Test(producer, reserve_makes_the_next_enqueues_infallible, .init = make)
{
	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0);
	out_of_memory(true);
	put(p, 0, 2 * SLOTS);
	cr_assert_eq(try_put(p, 2 * SLOTS), ENOMEM, "no more than was asked for");
	finish();
	cr_assert(each_ran_once(2 * SLOTS));
}

Test(producer, reserve_counts_the_room_in_the_open_block, .init = make)
{
	put(p, 0, 1);
	out_of_memory(true);
	cr_assert_eq(cq_producer_reserve(p, SLOTS - 1), 0);
	cr_assert_eq(p->nspares, 0);
	cr_assert_eq(cq_producer_reserve(p, SLOTS), ENOMEM);
	out_of_memory(false);
	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	cr_assert_eq(p->nspares, 1);
	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0);
	cr_assert_eq(p->nspares, 2, "not cumulative");
	finish();
}

Test(producer, reserve_of_nothing_gives_the_spare_blocks_back, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, &other), 0);
	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	out_of_memory(true);
	cr_assert_eq(try_put(other, 0), ENOMEM);
	cr_assert_eq(cq_producer_reserve(p, 0), 0);
	put(other, 0, 1);
	cq_producer_detach(other);
	finish();
	cr_assert(each_ran_once(1));
}

static pthread_key_t key;

static void detach(void *producer)
{
	cq_producer_detach(producer);
}

/* Its key has the producer, and nobody else. */
static void *put_two_and_end(void *unused)
{
	cq_producer_t *mine;

	CHECK(cq_producer_attach(q, &mine) == 0);
	put(mine, 0, 2);
	CHECK(pthread_setspecific(key, mine) == 0);
	return unused;
}

Test(producer, the_destructor_of_a_threads_key_may_detach, .init = make)
{
	cr_assert_eq(pthread_key_create(&key, detach), 0);
	join(start(put_two_and_end, NULL));
	cr_assert_eq(q->nproducers, 1);
	run_all(NULL);
	cr_assert(each_ran_once(2));
	pthread_key_delete(key);
	finish();
}

Test(producer, detach_gives_the_spare_blocks_back, .init = make)
{
	cq_producer_t *other;

	cr_assert_eq(cq_producer_attach(q, &other), 0);
	cr_assert_eq(cq_producer_reserve(other, SLOTS), 0);
	cq_producer_detach(other);
	out_of_memory(true);
	put(p, 0, 1);
	finish();
}

Test(producer, absurd_reservations_are_refused, .init = make)
{
	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	cr_assert_eq(cq_producer_reserve(p, SIZE_MAX), EINVAL);
	cr_assert_eq(cq_producer_reserve(p, SIZE_MAX / 2), EINVAL);
	out_of_memory(true);
	put(p, 0, SLOTS);
	finish();
	cr_assert(each_ran_once(SLOTS));
}

Test(producer, failed_reserve_leaves_the_earlier_reservation, .init = make)
{
	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0);
	mem.fail_on = true;
	mem.fail_in = 3; /* two more blocks of the four that it wants */
	cr_assert_eq(cq_producer_reserve(p, 6 * SLOTS), ENOMEM);
	cr_assert_eq(p->nspares, 2);
	put(p, 0, 1);
	cr_assert_eq(cq_producer_reserve(p, 6 * SLOTS), ENOMEM);
	put(p, 1, 2 * SLOTS - 1);
	finish();
	cr_assert(each_ran_once(2 * SLOTS));
}

Test(producer, flush_that_would_break_the_reservation_is_refused, .init = make)
{
	put(p, 0, 1);
	cr_assert_eq(cq_producer_reserve(p, SLOTS - 1), 0);
	out_of_memory(true);
	cr_assert_eq(cq_producer_flush(p), ENOMEM);
	cr_assert_eq(cq_cleanup_units(q), 0);
	put(p, 1, SLOTS - 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	finish();
	cr_assert(each_ran_once(SLOTS));
}

Test(producer, reservation_holds_through_flushes_and_gatherings, .init = make)
{
	enum { ROUNDS = 400 };
	rng_t r = rng_for(0);
	unsigned n = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t left = rng_below(&r, 6 * SLOTS);

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
				(void)cq_cleanup_flush_all(q);
			if (rng_below(&r, 3) == 0)
				run_all(NULL);
		}
	}
	finish();
	cr_assert(each_ran_once(n));
}

/* ------------------------------------------------------------------ handover */

static gate_t has_run = GATE_INITIALIZER;

static void open_it(void *gate)
{
	runs++;
	gate_open(gate);
}

static void make_handover(unsigned fence)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER, .max_workers = 1, .idle_ns = 1000 });
	q->gate |= fence;
}

/* A worker that has run something and now sleeps. The first enqueue finds none, and flushes. */
static void have_an_idle_worker(void)
{
	put(p, 0, 1);
	fake_wait_blocked(&park, 1);
}

static void partial_block_reaches_an_idle_worker(unsigned fence)
{
	make_handover(fence);
	have_an_idle_worker();
	cr_assert_eq(cq_producer_enqueue(p, open_it, &has_run), 0);
	gate_wait(&has_run);
	finish();
}

Test(producer, handover_gives_a_partial_block_to_an_idle_worker)
{
	partial_block_reaches_an_idle_worker(0);
}

Test(producer, handover_gives_a_partial_block_to_an_idle_worker_with_fences)
{
	partial_block_reaches_an_idle_worker(GATE_FENCE);
}

static void enqueue_unnoticed(void *unused)
{
	(void)unused;
	CHECK(cq_producer_enqueue(p, open_it, &has_run) == 0);
	CHECK(cq_cleanup_units(q) == 0); /* the worker is awake: no flush */
}

static void worker_goes_idle_after_the_enqueue(unsigned fence)
{
	make_handover(fence);
	at_point("worker.found_nothing", enqueue_unnoticed, NULL);
	put(p, 0, 1);
	gate_wait(&has_run);
	cr_assert_eq(park.unparks, 0);
	finish();
}

Test(producer, handover_finds_a_partial_block_before_the_worker_sleeps)
{
	worker_goes_idle_after_the_enqueue(0);
}

Test(producer, handover_finds_a_partial_block_before_the_worker_sleeps_with_fences)
{
	worker_goes_idle_after_the_enqueue(GATE_FENCE);
}

Test(producer, handover_finds_a_partial_block_before_the_last_worker_retires)
{
	cq_cleanup_stats_t stats;

	make_handover(0);
	have_an_idle_worker();
	/* The worker has timed out, and counts as live and awake. */
	at_point("worker.timed_out", enqueue_unnoticed, NULL);
	fake_advance(&park, 1000);
	gate_wait(&has_run);
	cq_cleanup_stats(q, &stats);
	cr_assert_eq(stats.workers_created, 1);
	finish();
}

static void enqueue_for_a_new_worker(void *unused)
{
	(void)unused;
	CHECK(cq_producer_enqueue(p, open_it, &has_run) == 0);
}

Test(producer, handover_makes_a_worker_when_the_last_has_retired)
{
	make_handover(0);
	have_an_idle_worker();
	at_point("worker.retiring", enqueue_for_a_new_worker, NULL);
	fake_advance(&park, 1000);
	gate_wait(&has_run);
	finish();
}

static gate_t held = GATE_INITIALIZER;

static void run_for_long(void *unused)
{
	(void)unused;
	runs++;
	gate_open(&held);
	gate_wait(&go_on);
}

static void enqueue_a_long_one(void *unused)
{
	(void)unused;
	CHECK(cq_producer_enqueue(p, run_for_long, NULL) == 0);
}

/* Its ends are where they are in any other queue. */
Test(producer, handover_runs_on_while_workers_are_awake)
{
	make_handover(0);
	if ((q->gate & GATE_FENCE) != 0)
		cr_skip("without membarrier each enqueue looks");
	/* The worker finds it at its second look, and has stopped the producer for that. */
	at_point("worker.found_nothing", enqueue_a_long_one, NULL);
	put(p, 0, 1);
	gate_wait(&held);
	cr_assert_null(p->end);
	put(p, 1, 1); /* looks, and finds nobody idle */
	cr_assert_eq(p->end, p->mark);
	put(p, 2, SLOTS - 2);
	cr_assert_eq(cq_cleanup_units(q), 1); /* full */
	put(p, SLOTS, 1);
	cr_assert_eq(p->end, p->mark); /* as it opens a block, too */
	cr_assert_eq(cq_cleanup_units(q), 1);
	gate_open(&go_on);
	finish();
	cr_assert_eq(runs, SLOTS + 2);
}

Test(producer, handover_gives_what_comes_next_to_a_worker_that_went_idle)
{
	make_handover(0);
	enqueue_a_long_one(NULL);
	gate_wait(&held);
	put(p, 0, 1);
	gate_open(&go_on);
	fake_wait_blocked(&park, 1);
	cr_assert_null(p->end);
	CHECK(cq_producer_enqueue(p, open_it, &has_run) == 0);
	gate_wait(&has_run);
	finish();
	cr_assert_eq(runs, 3);
}

static cq_producer_t *beside;

static void put_another(void *unused)
{
	(void)unused;
	put(beside, 1, 1);
}

static int make_none(void *unused, void (*body)(void *), void *arg)
{
	(void)unused, (void)body, (void)arg;
	return EAGAIN;
}

/* While it is being made it counts as live, and no other producer has to look. */
Test(producer, handover_is_tried_again_where_a_worker_could_not_be_made)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER, .spawn = make_none });
	CHECK(cq_producer_attach(q, &beside) == 0);
	at_point("wake.making", put_another, NULL);
	put(p, 0, 1);
	cr_assert_null(beside->end);
	cr_assert_eq(cq_cleanup_units(q), 2); /* and what it has left to that worker is seen */
	cr_assert(cq_cleanup_stalled(q));
	run_all(NULL);
	put(beside, 2, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	cq_producer_detach(beside);
	run_all(NULL);
	finish();
	cr_assert(each_ran_once(3));
}

Test(producer, without_handover_a_partial_block_waits)
{
	make_with((cq_cleanup_config_t){ .max_workers = 1 });
	put(p, 0, SLOTS);
	fake_wait_blocked(&park, 1);
	put(p, SLOTS, 1);
	cr_assert_eq(park.unparks, 0);
	finish();
	cr_assert(each_ran_once(SLOTS + 1));
}

/* -------------------------------------------------- what callbacks may do */

static void calls_the_queue(void *unused)
{
	static unsigned depth;
	cq_producer_t *mine;
	cq_cleanup_stats_t stats;

	(void)unused;
	CHECK(cq_producer_attach(q, &mine) == 0);
	CHECK(cq_producer_reserve(mine, 2) == 0);
	if (depth++ < 10)
		CHECK(cq_producer_enqueue(mine, calls_the_queue, NULL) == 0);
	put(mine, depth, 1);
	CHECK(cq_producer_flush(mine) == 0);
	CHECK(cq_cleanup_flush_all(q) == 0);
	cq_cleanup_stats(q, &stats);
	CHECK(stats.executed <= stats.queued);
	cq_producer_detach(mine);
}

Test(producer, callbacks_may_attach_reserve_enqueue_flush_and_detach)
{
	make_with((cq_cleanup_config_t){ .max_workers = 1 });
	cr_assert_eq(cq_producer_enqueue(p, calls_the_queue, NULL), 0);
	for (unsigned i = 0; i < 12; i++) /* a callback's own callbacks come after it */
		cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(runs, 11);
	finish();
}

/* ------------------------------------------------------- running producers */

enum { PRODUCERS = 3, EACH = MANY / PRODUCERS };

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
			CHECK(cq_cleanup_flush_all(q) == 0);
			if (rng_below(&r, 4) == 0)
				cq_cleanup_run_some(q, rng_below(&r, 2 * SLOTS));
		}
		return;
	}
	CHECK(cq_producer_attach(q, &mine) == 0);
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

static void flush_all_against_running_producers(unsigned flags)
{
	unsigned n = 0;

	make_with((cq_cleanup_config_t){ .flags = flags, .max_workers = 2 });
	end = run_until(0.3);
	producing = PRODUCERS;
	run_threads(PRODUCERS + 1, produce_or_flush, NULL);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	for (unsigned i = 0; i < PRODUCERS; i++) {
		for (unsigned k = 0; k < put_by[i]; k++)
			cr_assert_eq(ran[i * EACH + k], 1);
		n += put_by[i];
	}
	cr_assert_eq(runs, n);
	finish();
}

Test(producer, flush_all_against_running_producers_moves_each_callback_once)
{
	flush_all_against_running_producers(0);
}

Test(producer, handover_against_running_producers_moves_each_callback_once)
{
	flush_all_against_running_producers(CQ_HANDOVER);
}
