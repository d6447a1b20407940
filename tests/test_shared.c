/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Blocks that share one function. Callback i checks that it runs by the function that
 * it was enqueued with, with its own argument, and once. Most of it is in one thread,
 * on a polled queue; what another thread would do happens at a point. A check that
 * fails in a forked child aborts it, and the parent sees that.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup/producer.h"
#include "support.h"

TestSuite(shared, .timeout = 60);

enum { BYTES = 1024, MANY = 1 << 18, NOBODY = MANY };
enum { A, B, C, FUNCTIONS };

static test_alloc_t mem;
static cq_cleanup_t *q;
static cq_producer_t *p;
static unsigned slots, args; /* callbacks in a block of pairs, and in a shared one */

static atomic_uchar ran[MANY], kinds[MANY]; /* of callback i: how often, by which function */
static atomic_uint accepted, runs, given_back;
static unsigned acts_at = NOBODY; /* this callback calls act() */
static void (*act)(void);

static void run_as(unsigned kind, void *arg)
{
	uintptr_t i = (uintptr_t)arg;

	CHECK(i < accepted && kinds[i] == kind);
	CHECK(ran[i]++ == 0);
	runs++;
	if (i == acts_at)
		act();
}

static void run_a(void *arg) { run_as(A, arg); }
static void run_b(void *arg) { run_as(B, arg); }
static void run_c(void *arg) { run_as(C, arg); }

static cq_callback_fn *const functions[FUNCTIONS] = { run_a, run_b, run_c };

static void take_back(void *unused, cq_callback_fn *fn, void *arg)
{
	(void)unused;
	given_back++;
	fn(arg);
}

static int try_put(cq_producer_t *to, unsigned kind)
{
	unsigned i = accepted++;
	int err;

	CHECK(i < MANY);
	kinds[i] = (unsigned char)kind;
	err = cq_producer_enqueue(to, functions[kind], (void *)(uintptr_t)i);
	if (err != 0)
		accepted--; /* nobody else enqueues where this may fail */
	return err;
}

static void put_to(cq_producer_t *to, unsigned kind, unsigned n)
{
	while (n-- > 0)
		CHECK(try_put(to, kind) == 0);
}

static void put(unsigned kind, unsigned n)
{
	put_to(p, kind, n);
}

static uint64_t units(void)
{
	return cq_cleanup_units(q);
}

static void run_all(void *unused)
{
	(void)unused;
	cq_cleanup_run_some(q, SIZE_MAX);
}

static void flush_all(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush_all(q) == 0);
}

static bool all_ran(void)
{
	return runs == accepted; /* each once, says run_as */
}

static void out_of_memory(bool yes)
{
	mem.fail_on = yes;
	mem.fail_in = yes;
}

static void make_with(cq_cleanup_config_t config)
{
	config.flags |= CQ_NO_ATFORK; /* the calls are made here */
	test_alloc_init(&mem);
	config.allocator = &mem.allocator;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, &p) == 0);
	slots = q->slots;
	args = 2 * slots - 1;
}

static void make(void)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .block_bytes = BYTES });
}

static void check_stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	CHECK(s.queued == accepted);
	CHECK(s.executed + s.handed_back == runs);
}

/* Runs what is left and ends the queue; each callback has run, and all memory is back. */
static void finish(void)
{
	out_of_memory(false);
	cq_producer_detach(p);
	if ((q->config.flags & CQ_POLLED) != 0)
		run_all(NULL);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	check_stats();
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
	CHECK(all_ran());
}

/* A full block of A waits, and then n callbacks more in what is for A alone. */
static void share_and_keep(cq_producer_t *to, unsigned n)
{
	put_to(to, A, slots);
	put_to(to, A, n);
	CHECK(n % args == 0 || (is_shared(to) && written(to) == n % args));
}

/* The same, but the full block has run. */
static void share(unsigned n)
{
	put(A, slots);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == slots && units() == 0);
	put(A, n);
	CHECK(n == args || (is_shared(p) && written(p) == n));
}

/* The producer's next block, of `kind` alone, is published with the nth callback. */
static void fills_at(unsigned kind, unsigned n)
{
	put(kind, n - 1);
	CHECK(units() == 0);
	put(kind, 1);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == n);
}

/* ------------------------------------------------------- how much a block holds */

Test(shared, a_block_that_one_function_filled_is_followed_by_larger_ones, .init = make)
{
	fills_at(A, slots);
	for (unsigned i = 0; i < 3; i++)
		fills_at(A, args);
	finish();
}

Test(shared, default_blocks_hold_507)
{
	if (sizeof(void *) != 8)
		cr_skip("that is on 64-bit machines");
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	fills_at(A, 254);
	fills_at(A, 507);
	finish();
}

Test(shared, largest_blocks_share_too)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .block_bytes = CQ_BLOCK_BYTES_MAX });
	fills_at(A, slots);
	put(A, args - 1);
	flush_all(NULL);
	put(A, 1);
	finish();
}

Test(shared, blocks_below_1024_bytes_do_not_share)
{
	make_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .block_bytes = BYTES - 1 });
	for (unsigned i = 0; i < 4; i++)
		fills_at(A, slots);
	finish();
}

Test(shared, a_block_with_another_function_anywhere_is_followed_by_one_for_any, .init = make)
{
	for (unsigned other = 0; other < slots; other++) {
		for (unsigned i = 0; i < slots; i++)
			put(i == other ? B : A, 1);
		CHECK(units() == 1);
		put(A, 1);
		CHECK(!is_shared(p));
		CHECK(cq_producer_flush(p) == 0);
		run_all(NULL);
	}
	finish();
}

Test(shared, a_flushed_block_is_followed_by_one_of_its_kind, .init = make)
{
	put(A, slots - 1);
	CHECK(cq_producer_flush(p) == 0);
	run_all(NULL);
	fills_at(A, slots);
	put(A, args - 1);
	CHECK(cq_producer_flush(p) == 0);
	run_all(NULL);
	fills_at(A, args);
	finish();
}

/* ---------------------------------------------------------- another function comes */

Test(shared, the_first_other_function_ends_the_block_early, .init = make)
{
	share(5);
	put(B, 1);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 5);
	CHECK(!is_shared(p) && written(p) == 1);
	put(A, slots - 2);
	CHECK(units() == 0);
	put(B, 1);
	CHECK(units() == 1);
	finish();
}

Test(shared, after_an_early_end_blocks_are_for_any_until_one_function_fills_one, .init = make)
{
	share(5);
	put(B, 1);
	CHECK(cq_producer_flush(p) == 0);
	run_all(NULL);
	put(A, 1);
	CHECK(!is_shared(p));
	put(B, slots - 1);
	run_all(NULL);
	fills_at(C, slots);
	fills_at(C, args);
	finish();
}

Test(shared, a_block_that_is_all_claimed_ends_early_without_another, .init = make)
{
	share(5);
	flush_all(NULL);
	put(B, 1);
	CHECK(units() == 1 && p->nspares == 0);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 5);
	finish();
}

Test(shared, early_end_without_memory_refuses_the_other_function, .init = make)
{
	share_and_keep(p, 5);
	out_of_memory(true);
	CHECK(try_put(p, B) == ENOMEM);
	CHECK(units() == 2);
	check_stats();
	CHECK(try_put(p, B) == ENOMEM);
	CHECK(try_put(p, A) == ENOMEM);
	CHECK(units() == 2);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == slots + 5);
	put(B, 1); /* the blocks that have come back */
	out_of_memory(false);
	put(A, slots - 2);
	CHECK(units() == 0);
	put(C, 1);
	CHECK(units() == 1);
	finish();
}

Test(shared, null_is_refused_and_changes_nothing, .init = make)
{
	CHECK(cq_producer_enqueue(p, NULL, NULL) == EINVAL);
	put(A, 1);
	CHECK(cq_producer_enqueue(p, NULL, NULL) == EINVAL);
	put(A, slots - 1);
	CHECK(cq_producer_enqueue(p, NULL, NULL) == EINVAL);
	put(A, 3);
	CHECK(cq_producer_enqueue(p, NULL, NULL) == EINVAL);
	CHECK(units() == 1 && cq_cleanup_run_some(q, SIZE_MAX) == slots);
	CHECK(is_shared(p) && written(p) == 3);
	check_stats();
	put(A, args - 4);
	CHECK(units() == 0);
	put(A, 1);
	CHECK(units() == 1);
	finish();
}

/* A block has no kind of its own. */
Test(shared, a_block_that_was_shared_is_used_for_any_function_again, .init = make)
{
	share(args);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == args);
	put(B, 2);
	put(C, 1);
	CHECK(cq_producer_flush(p) == 0);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 3);
	finish();
}

/* -------------------------------------------------------------------- flush_all */

Test(shared, flush_all_moves_callbacks_into_a_block_that_was_shared, .init = make)
{
	share(args);
	put(B, 2);
	put(C, 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == args);
	flush_all(NULL);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 3);
	finish();
}

Test(shared, flush_all_claims_a_part_and_the_owner_goes_on, .init = make)
{
	share(5);
	flush_all(NULL);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 5);
	put(A, 2);
	flush_all(NULL);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 2);
	check_stats();
	put(A, args - 8);
	CHECK(units() == 0);
	put(A, 1);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == args - 7);
	finish();
}

/* Gathered, each has its function with it: a shared block needs the room of two. */
Test(shared, flush_all_moves_shared_blocks_and_others_together, .init = make)
{
	enum { OTHERS = 3 };
	cq_producer_t *others[OTHERS];

	share(slots + 5);
	for (unsigned i = 0; i < OTHERS; i++)
		CHECK(cq_producer_attach(q, &others[i]) == 0);
	share_and_keep(others[0], 4);
	run_all(NULL);
	for (unsigned i = 1; i < OTHERS; i++)
		put_to(others[i], i % 2 == 0 ? B : C, 3);
	flush_all(NULL);
	CHECK(units() == (slots + 5 + 4 + 3 * (OTHERS - 1) + slots - 1) / slots);
	run_all(NULL);
	CHECK(all_ran());
	for (unsigned i = 0; i < OTHERS; i++)
		cq_producer_detach(others[i]);
	CHECK(units() == 0);
	finish();
}

Test(shared, flush_all_of_a_full_block_leaves_nothing_to_publish, .init = make)
{
	share(args - 1);
	at_point("producer.stored", flush_all, NULL);
	put(A, 1);
	CHECK(units() == 2 && p->nspares == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == args);
	fills_at(A, args);
	finish();
}

Test(shared, flush_all_without_memory_leaves_the_rest, .init = make)
{
	share_and_keep(p, slots + 5);
	mem.fail_on = true;
	mem.fail_in = 2; /* one block can be had */
	CHECK(cq_cleanup_flush_all(q) == ENOMEM);
	CHECK(units() == 2);
	CHECK(cq_cleanup_flush_all(q) == ENOMEM);
	CHECK(units() == 2);
	out_of_memory(false);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 2 * slots);
	flush_all(NULL);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 5);
	fills_at(A, args - slots - 5);
	finish();
}

/* What the owner does while a gatherer has copied from its block, and not claimed yet. */
enum { COPIED = 5 };

static void put_more(void *unused) { (void)unused; put(A, 2); }
static void fill(void *unused) { (void)unused; put(A, args - COPIED); }
static void fill_and_go_on(void *unused) { (void)unused; put(A, args); }
static void end_early(void *unused) { (void)unused; put(B, 1); }
static void end_early_and_go_on(void *unused) { (void)unused; put(B, COPIED); }
static void flush_it(void *unused) { (void)unused; CHECK(cq_producer_flush(p) == 0); }

static void end_early_and_share_again(void *unused)
{
	(void)unused;
	put(B, slots);
	put(B, COPIED);
	CHECK(is_shared(p));
}

static void (*const while_copied[])(void *) = {
	put_more, fill, fill_and_go_on, end_early, end_early_and_go_on, flush_it,
	end_early_and_share_again,
};

Test(shared, whatever_the_owner_does_while_it_is_copied, .init = make)
{
	for (size_t i = 0; i < sizeof(while_copied) / sizeof(*while_copied); i++) {
		CHECK(cq_producer_flush(p) == 0);
		run_all(NULL);
		share(COPIED);
		at_point("gather.copied", while_copied[i], NULL);
		flush_all(NULL);
		check_stats();
		run_all(NULL);
		put(A, 1);
		put(C, 1);
	}
	finish();
}

/* The other way round: pairs are copied, and the owner opens a block that shares. */
static void fill_pairs_and_share(void *unused)
{
	(void)unused;
	put(A, slots - COPIED);
	put(A, COPIED);
	CHECK(is_shared(p));
}

Test(shared, a_copy_of_pairs_is_not_claimed_from_a_shared_block, .init = make)
{
	put(A, COPIED);
	at_point("gather.copied", fill_pairs_and_share, NULL);
	flush_all(NULL);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == slots);
	finish();
}

/* -------------------------------------------------------------- drain and shutdown */

Test(shared, drain_waits_for_what_a_shared_block_holds)
{
	make_with((cq_cleanup_config_t){ .max_workers = 1, .block_bytes = BYTES });
	for (unsigned i = 0; i < 50; i++) {
		put(A, slots + args + i);
		CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
		CHECK(all_ran());
		put(B, i % 3);
	}
	finish();
}

/* A drain turns the page: the rest of the block is of the page before. */
Test(shared, a_block_of_the_page_before_goes_on, .init = make)
{
	share(5);
	CHECK(cq_cleanup_drain(q, 0) == EAGAIN);
	CHECK(units() == 1);
	put(A, args - 6);
	CHECK(cq_cleanup_drain(q, 0) == EAGAIN);
	put(A, 1);
	run_all(NULL);
	CHECK(all_ran());
	CHECK(cq_cleanup_drain(q, 0) == 0);
	finish();
}

static void shut_down_and_end(cq_shutdown_how_t how)
{
	CHECK(cq_cleanup_shutdown(q, how, CQ_FOREVER, take_back, NULL) == 0);
	CHECK(try_put(p, A) == ESHUTDOWN && try_put(p, B) == ESHUTDOWN);
	check_stats();
	cq_producer_detach(p);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
	CHECK(all_ran());
}

Test(shared, hand_back_gives_each_with_its_function, .init = make)
{
	cq_producer_t *other;

	CHECK(cq_producer_attach(q, &other) == 0);
	share_and_keep(p, args + 5); /* one of each kind waits, and one is open */
	put_to(other, B, slots + 7);
	flush_all(NULL);
	put_to(other, B, 2);
	put(A, 3);
	cq_producer_detach(other);
	shut_down_and_end(CQ_SHUTDOWN_HAND_BACK);
	CHECK(given_back == runs);
}

/* The gate is closed, and the last gathering is still to come: a worker doesn't end. */
static cq_worker_t *close_the_gate(void)
{
	cq_worker_t *w;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, take_back, NULL) == ETIMEDOUT);
	return w;
}

/* The same, but nothing has been gathered: there is no memory. */
static cq_worker_t *close_the_gate_early(void)
{
	cq_worker_t *w;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	q->gate |= GATE_CLOSED;
	cq_producers_look(q);
	return w;
}

Test(shared, enqueue_at_a_closed_gate_takes_its_callback_back, .init = make)
{
	cq_worker_t *w;

	share(20);
	w = close_the_gate_early();
	CHECK(try_put(p, A) == ESHUTDOWN);
	CHECK(!is_open(p) && units() == 1);
	CHECK(try_put(p, A) == ESHUTDOWN);
	CHECK(!is_open(p) && units() == 1);
	cq_worker_detach(w);
	shut_down_and_end(CQ_SHUTDOWN_HAND_BACK);
	CHECK(given_back == 20);
}

Test(shared, another_function_at_a_closed_gate_is_refused_and_the_block_published, .init = make)
{
	cq_worker_t *w;

	share(20);
	w = close_the_gate_early();
	CHECK(try_put(p, B) == ESHUTDOWN);
	CHECK(units() == 1);
	CHECK(try_put(p, A) == ESHUTDOWN);
	CHECK(try_put(p, B) == ESHUTDOWN);
	cq_worker_detach(w);
	shut_down_and_end(CQ_SHUTDOWN_HAND_BACK);
	CHECK(given_back == 20);
}

Test(shared, enqueue_at_a_closed_gate_that_was_claimed_is_accepted, .init = make)
{
	cq_cleanup_stats_t s;
	cq_worker_t *w;

	share(20);
	w = close_the_gate();
	for (unsigned i = 0; i < 4; i++) {
		at_point("producer.stored", flush_all, NULL);
		CHECK(try_put(p, A) == 0);
		CHECK(written(p) == 21 + i);
		cq_cleanup_stats(q, &s);
		CHECK(s.queued == accepted);
	}
	/* Between the store of the smaller write and the new seq it is too late. */
	at_point("producer.retracting", flush_all, NULL);
	CHECK(try_put(p, A) == ESHUTDOWN);
	CHECK(!is_open(p));
	cq_worker_detach(w);
	shut_down_and_end(CQ_SHUTDOWN_HAND_BACK);
	CHECK(given_back == 24);
}

/* The gatherer has read the larger write and copied; then the owner takes it back. */
static gate_t stopped = GATE_INITIALIZER, go_on = GATE_INITIALIZER;
static pthread_t other_thread;

static void hold(void *unused)
{
	(void)unused;
	gate_open(&stopped);
	gate_wait(&go_on);
}

static void *put_refused(void *unused)
{
	CHECK(try_put(p, A) == ESHUTDOWN);
	return unused;
}

static void let_the_owner_retract(void *unused)
{
	(void)unused;
	gate_open(&go_on);
	join(other_thread);
}

Test(shared, claim_that_copied_what_was_taken_back_fails, .init = make)
{
	cq_worker_t *w;

	share(20);
	w = close_the_gate();
	at_point("producer.stored", hold, NULL);
	other_thread = start(put_refused, NULL);
	gate_wait(&stopped);
	at_point("gather.copied", let_the_owner_retract, NULL);
	flush_all(NULL);
	CHECK(!is_open(p));
	cq_worker_detach(w);
	shut_down_and_end(CQ_SHUTDOWN_HAND_BACK);
	CHECK(given_back == 20);
}

/* --------------------------------------------------------------- reservations */

/* n enqueues that nothing comes between, whatever their functions, without memory. */
static void put_without_memory(unsigned n)
{
	out_of_memory(true);
	for (unsigned i = 0; i < n; i++)
		put(i % 3 == 0 ? B : A, 1);
	out_of_memory(false);
}

Test(shared, reserve_holds_whatever_ends_the_open_block, .init = make)
{
	static const unsigned n[] = { 1, 2, 10, 61, 62, 63, 200 };

	for (unsigned i = 0; i < sizeof(n) / sizeof(*n); i++) {
		CHECK(cq_producer_flush(p) == 0);
		share_and_keep(p, 5 + i);
		CHECK(cq_producer_reserve(p, n[i]) == 0);
		put_without_memory(n[i]); /* B comes first */
		CHECK(cq_producer_reserve(p, 0) == 0);
	}
	finish();
}

Test(shared, reserve_holds_in_the_blocks_that_follow_a_shared_one, .init = make)
{
	share_and_keep(p, 5);
	CHECK(cq_producer_flush(p) == 0);
	CHECK(cq_producer_reserve(p, 2 * slots) == 0);
	out_of_memory(true);
	put(A, 1);
	CHECK(!is_shared(p));
	put_without_memory(2 * slots - 1);
	finish();
}

Test(shared, after_a_reservation_blocks_share_again, .init = make)
{
	share(5);
	CHECK(cq_producer_flush(p) == 0);
	run_all(NULL);
	CHECK(cq_producer_reserve(p, slots) == 0);
	fills_at(A, slots);
	fills_at(A, args);
	finish();
}

Test(shared, flush_keeps_the_reservation, .init = make)
{
	share_and_keep(p, 5);
	CHECK(cq_producer_reserve(p, 2 * slots) == 0);
	out_of_memory(true);
	CHECK(cq_producer_flush(p) == 0);
	CHECK(units() == 2);
	put_without_memory(2 * slots);
	finish();
}

/* ---------------------------------------------------------------------- spans */

/* Commits k callbacks B to a span, which has n slots. */
static void put_span(size_t n, unsigned k)
{
	cq_callback_t *span;
	size_t have = 0, stay = 0;

	CHECK(cq_producer_span(p, &span, &have) == 0 && have == n);
	for (unsigned i = 0; i < k; i++, span++) {
		kinds[accepted] = B;
		*span = (cq_callback_t){ run_b, (void *)(uintptr_t)accepted++ };
	}
	CHECK(cq_producer_commit(p, k, &stay) == 0 && stay == k);
}

Test(shared, a_span_ends_a_shared_block, .init = make)
{
	share(5);
	put_span(slots, 3);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 5);
	put(A, 2);
	put_span(slots - 5, slots - 5);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == slots);
	put_span(slots, 1);
	finish();
}

Test(shared, spans_of_one_function_make_no_block_shared, .init = make)
{
	for (unsigned i = 0; i < 3; i++)
		put_span(slots, slots);
	put(B, 1);
	CHECK(!is_shared(p));
	put_span(slots - 1, slots - 1);
	run_all(NULL);
	fills_at(B, slots);
	finish();
}

/* A commit of one callback is a commit. */
Test(shared, spans_of_one_slot_make_no_block_shared, .init = make)
{
	for (unsigned i = 0; i < slots; i++)
		put_span(slots - i, 1);
	put(B, 1);
	CHECK(!is_shared(p));
	finish();
}

Test(shared, span_without_memory_ends_the_block, .init = make)
{
	cq_callback_t *span;
	size_t n;

	share_and_keep(p, 5);
	out_of_memory(true);
	CHECK(cq_producer_span(p, &span, &n) == ENOMEM);
	CHECK(units() == 2);
	CHECK(cq_producer_span(p, &span, &n) == ENOMEM);
	run_all(NULL);
	put_span(slots, 3);
	finish();
}

/* A shared block comes by the place where the span was. */
Test(shared, commit_into_a_shared_block_is_refused, .init = make)
{
	cq_callback_t *span;
	size_t n, stay;

	put(A, 1);
	CHECK(cq_producer_span(p, &span, &n) == 0);
	put(A, slots - 1);
	run_all(NULL);
	for (unsigned i = 0; i < 5; i++) {
		put(A, 1);
		CHECK(is_shared(p) && (i != 0 || p->write == span));
		CHECK(cq_producer_commit(p, 1, &stay) == EINVAL && stay == 0);
	}
	finish();
}

/* ----------------------------------------------------------------------- workers */

Test(shared, the_rest_that_a_budget_leaves_runs_once, .init = make)
{
	share(args);
	CHECK(cq_cleanup_run_some(q, 7) == 7);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, args - 8) == args - 8);
	CHECK(units() == 1);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 1);
	check_stats();
	finish();
}

static void end_thread(void)
{
	pthread_exit(NULL);
}

static void *run_here(void *unused)
{
	run_all(NULL);
	return unused;
}

/* Callback 3 of a full shared block ends the thread that runs it in `body`. */
static void callback_ends(void *(*body)(void *))
{
	share(args);
	acts_at = slots + 3;
	act = end_thread;
	join(start(body, NULL));
	CHECK(runs == slots + 4 && units() == 1);
	check_stats();
	finish();
}

Test(shared, a_callback_ends_its_thread_in_run_some, .init = make)
{
	callback_ends(run_here);
}

static void detach_worker(void *w)
{
	cq_worker_detach(w);
}

static void *run_as_worker(void *unused)
{
	cq_worker_t *w;
	cq_block_t *b;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	pthread_cleanup_push(detach_worker, w);
	b = cq_worker_dequeue(w);
	cq_worker_run(w, b);
	pthread_cleanup_pop(1);
	return unused;
}

Test(shared, a_callback_ends_its_thread_in_a_worker, .init = make)
{
	callback_ends(run_as_worker);
}

/* Runs n callbacks of the block in hand by itself. */
static void call(cq_block_t *b, unsigned n)
{
	cq_callback_fn *fn;
	void *arg;

	while (n-- > 0) {
		CHECK(cq_block_next(b, &fn, &arg));
		CHECK(fn == functions[kinds[(uintptr_t)arg]]);
		fn(arg);
	}
}

Test(shared, a_host_takes_the_callbacks_one_by_one, .init = make)
{
	cq_callback_fn *fn;
	cq_worker_t *w;
	cq_block_t *b;
	void *arg;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	share_and_keep(p, args + 2);
	b = cq_worker_dequeue(w);
	call(b, 7);
	cq_worker_finish(w, b); /* the rest goes back, to the top */
	CHECK(units() == 2);
	b = cq_worker_dequeue(w);
	call(b, args - 7);
	CHECK(!cq_block_next(b, &fn, &arg));
	cq_worker_finish(w, b);
	CHECK(units() == 1);
	b = cq_worker_try_dequeue(w);
	call(b, slots);
	cq_worker_finish(w, b);
	check_stats();
	cq_worker_detach(w);
	finish();
}

Test(shared, detach_publishes_a_shared_block, .init = make)
{
	share(5);
	cq_producer_detach(p);
	p = NULL;
	CHECK(units() == 1);
	check_stats();
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 5);
	finish();
}

Test(shared, statistics_are_exact_at_every_enqueue, .init = make)
{
	for (unsigned i = 0; i < 3 * args; i++) {
		put(i % args == args - 2 ? B : A, 1);
		if (i % 17 == 0)
			flush_all(NULL);
		if (i % 29 == 0)
			run_all(NULL);
		check_stats();
	}
	finish();
}

/* -------------------------------------------------------------------------- fork */

/* Runs body in a child, which must come to its end. */
static void in_child(void (*body)(void))
{
	pid_t child;
	int status;

	cq_cleanup_fork_prepare(q);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		alarm(30);
		cq_cleanup_fork_child(q);
		body();
		_exit(0);
	}
	cq_cleanup_fork_parent(q);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void goes_on(void)
{
	check_stats();
	CHECK(is_shared(p) && written(p) == 5);
	put(A, args - 6);
	CHECK(written(p) == args - 1);
	put(A, 1);
	CHECK(!is_open(p));
	put(A, 3);
	put(B, 3);
	CHECK(cq_producer_enqueue(p, NULL, NULL) == EINVAL);
	check_stats();
	finish();
}

Test(shared, the_owner_forks_and_both_go_on, .init = make)
{
	share_and_keep(p, 5);
	in_child(goes_on);
	CHECK(runs == 0);
	goes_on();
}

static void ends_it(void)
{
	put(B, 1);
	CHECK(!is_shared(p) && written(p) == 1);
	finish();
}

Test(shared, in_a_child_another_function_ends_the_block, .init = make)
{
	share_and_keep(p, 5);
	flush_all(NULL);
	put(A, 2);
	in_child(ends_it);
	ends_it();
}

static void has_only_its_own(void)
{
	unsigned before = accepted;

	CHECK(units() == 0 && is_shared(p));
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 0);
	put(A, 2);
	flush_all(NULL);
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == 2);
	put(A, args - 7);
	CHECK(units() == 1);
	put(B, 1);
	cq_producer_detach(p);
	run_all(NULL);
	CHECK(runs == accepted - before);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
}

Test(shared, a_child_that_discards_keeps_the_block_and_nothing_in_it)
{
	make_with((cq_cleanup_config_t){
	    .flags = CQ_POLLED | CQ_FORK_DISCARD, .block_bytes = BYTES });
	share_and_keep(p, 5);
	in_child(has_only_its_own);
	finish();
}

static pid_t child_of_callback;

static void forks(void)
{
	cq_cleanup_fork_prepare(q);
	child_of_callback = fork();
	CHECK(child_of_callback >= 0);
	if (child_of_callback != 0) {
		cq_cleanup_fork_parent(q);
		return;
	}
	alarm(30);
	cq_cleanup_fork_child(q);
}

Test(shared, a_callback_forks_and_both_go_on, .init = make)
{
	int status;

	share(args);
	put(A, 4);
	acts_at = slots + 3;
	act = forks;
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == args);
	put(A, 3);
	put(B, 1);
	finish();
	if (child_of_callback == 0)
		_exit(0);
	CHECK(waitpid(child_of_callback, &status, 0) == child_of_callback);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/*
 * Another thread does a thing to the producer `others`, whose block is shared, and
 * stands at a point within it. (p has pairs.)
 */
static cq_producer_t *others;

static void *put_an_a(void *unused)
{
	put_to(others, A, 1);
	return unused;
}

static void *put_a_b(void *unused)
{
	put_to(others, B, 1);
	return unused;
}

static void *flush_others(void *unused)
{
	CHECK(cq_producer_flush(others) == 0);
	return unused;
}

static void all_go_on(void)
{
	/* A full block that stayed open would be written beyond its end. */
	CHECK(!is_open(others) || !is_full(others));
	CHECK(!is_shared(others) || is_open(others));
	put_to(others, B, 1);
	put_to(others, A, args);
	put_to(others, C, 1);
	put(C, 1);
	check_stats();
	cq_producer_detach(others);
	finish();
}

static void without_the_last_all_go_on(void)
{
	accepted--; /* it had no block yet */
	all_go_on();
}

static void fork_at(const char *point, void *(*body)(void *), void (*child)(void))
{
	put(B, 2);
	at_point(point, hold, NULL);
	other_thread = start(body, NULL);
	gate_wait(&stopped);
	in_child(child);
	gate_open(&go_on);
	join(other_thread);
	all_go_on();
}

static void make_two(void)
{
	make();
	CHECK(cq_producer_attach(q, &others) == 0);
}

Test(shared, fork_while_an_argument_has_just_been_stored, .init = make_two)
{
	share_and_keep(others, 5);
	fork_at("producer.stored", put_an_a, all_go_on);
}

Test(shared, fork_while_the_last_argument_has_just_been_stored, .init = make_two)
{
	share_and_keep(others, args - 1);
	fork_at("producer.stored", put_an_a, all_go_on);
}

Test(shared, fork_while_the_last_argument_is_stored_and_part_is_claimed, .init = make_two)
{
	share_and_keep(others, args - 1);
	flush_all(NULL);
	fork_at("producer.stored", put_an_a, all_go_on);
}

Test(shared, fork_while_a_full_block_is_closed, .init = make_two)
{
	share_and_keep(others, args - 1);
	fork_at("producer.closed", put_an_a, all_go_on);
}

Test(shared, fork_while_a_full_block_is_closed_and_part_is_claimed, .init = make_two)
{
	share_and_keep(others, args - 2);
	flush_all(NULL);
	put_to(others, A, 1);
	fork_at("producer.closed", put_an_a, all_go_on);
}

Test(shared, fork_while_a_full_block_is_counted, .init = make_two)
{
	share_and_keep(others, args - 1);
	fork_at("producer.counted", put_an_a, all_go_on);
}

Test(shared, fork_while_a_partial_block_is_flushed, .init = make_two)
{
	share_and_keep(others, 5);
	fork_at("producer.closed", flush_others, all_go_on);
}

Test(shared, fork_while_another_function_closes_the_block, .init = make_two)
{
	share_and_keep(others, 5);
	fork_at("producer.closed", put_a_b, without_the_last_all_go_on);
}

Test(shared, fork_while_another_function_has_ended_the_block, .init = make_two)
{
	share_and_keep(others, 5);
	fork_at("producer.nowhere", put_a_b, without_the_last_all_go_on);
}

Test(shared, fork_while_the_first_shared_block_is_about_to_come, .init = make_two)
{
	put_to(others, A, slots);
	fork_at("producer.nowhere", put_an_a, without_the_last_all_go_on);
}

/* The child has none of the callbacks, and the producers go on with what comes. */
static void nothing_is_left_and_others_go_on(void)
{
	unsigned before = accepted;

	CHECK(!is_open(others) || !is_full(others));
	CHECK(units() == 0);
	put_to(others, A, args);
	put_to(others, B, 1);
	cq_producer_detach(others);
	cq_producer_detach(p);
	run_all(NULL);
	CHECK(runs == accepted - before);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(mem.live_bytes == 0);
}

static void make_two_that_discard(void)
{
	make_with((cq_cleanup_config_t){
	    .flags = CQ_POLLED | CQ_FORK_DISCARD, .block_bytes = BYTES });
	CHECK(cq_producer_attach(q, &others) == 0);
}

Test(shared, fork_that_discards_while_an_argument_has_just_been_stored,
    .init = make_two_that_discard)
{
	share_and_keep(others, 5);
	fork_at("producer.stored", put_an_a, nothing_is_left_and_others_go_on);
}

Test(shared, fork_that_discards_while_the_last_argument_has_just_been_stored,
    .init = make_two_that_discard)
{
	share_and_keep(others, args - 1);
	fork_at("producer.stored", put_an_a, nothing_is_left_and_others_go_on);
}

Test(shared, fork_that_discards_while_a_block_is_closed, .init = make_two_that_discard)
{
	share_and_keep(others, args - 1);
	fork_at("producer.closed", put_an_a, nothing_is_left_and_others_go_on);
}

static void claim_and_hold_the_retract(void *unused)
{
	flush_all(unused);
	at_point("producer.retracting", hold, NULL);
}

static void *put_claimed(void *unused)
{
	at_point("producer.stored", claim_and_hold_the_retract, NULL);
	put(A, 1);
	return unused;
}

/* The owner has lowered write, and has yet to see that its callback was claimed. */
Test(shared, fork_while_an_enqueue_retracts_what_was_claimed, .init = make)
{
	share(20);
	/* Closed, and for want of memory not the last gathering. */
	CHECK(cq_cleanup_trim(q, NULL) == 0);
	out_of_memory(true);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == ENOMEM);
	out_of_memory(false);
	other_thread = start(put_claimed, NULL);
	gate_wait(&stopped);
	in_child(finish);
	gate_open(&go_on);
	join(other_thread);
	finish();
}

static void the_refused_one_is_gone(void)
{
	accepted--; /* in the child nobody takes it back */
	finish();
}

/* After the last gathering: in the child write is lowered to what was claimed. */
Test(shared, fork_while_an_enqueue_is_refused, .init = make)
{
	share(20);
	flush_all(NULL);
	run_all(NULL);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == 0);
	at_point("producer.stored", hold, NULL);
	other_thread = start(put_refused, NULL);
	gate_wait(&stopped);
	in_child(the_refused_one_is_gone);
	gate_open(&go_on);
	join(other_thread);
	finish();
}

/* ------------------------------------------------------------------------- mixes */

/*
 * What the header says of a producer's block, when each is closed by its owner alone:
 * it is published when it is full, and a shared one before another function. Enqueues
 * that a reservation covers open none that is shared.
 */
struct expected {
	unsigned n, unclaimed;	/* in the open block */
	int shared;		/* its function, or -1 */
	int only;		/* of a block of pairs so far, -1: none, -2: several */
	int sole;		/* which filled the last full block, or -1 */
	unsigned reserved;
};

static struct expected expected;

/* Returns whether it was published. */
static bool expect_closed(void)
{
	bool published = expected.unclaimed != 0;

	expected.n = expected.unclaimed = 0;
	expected.shared = expected.only = -1;
	return published;
}

static uint64_t expect_enqueue(unsigned kind)
{
	uint64_t published = 0;

	if (expected.shared >= 0 && expected.shared != (int)kind) {
		published += expect_closed();
		expected.sole = -1;
	}
	if (expected.n == 0)
		expected.shared = expected.reserved == 0 && expected.sole == (int)kind ?
		    (int)kind : -1;
	if (expected.n == 0 || expected.only == (int)kind)
		expected.only = (int)kind;
	else
		expected.only = -2;
	expected.reserved -= expected.reserved != 0;
	expected.n++;
	expected.unclaimed++;
	if (expected.n != (expected.shared >= 0 ? args : slots))
		return published;
	expected.sole = expected.only >= 0 ? expected.only : -1;
	return published + expect_closed();
}

static void put_expected(unsigned kind, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t before = units();

		put(kind, 1);
		CHECK(units() - before == expect_enqueue(kind));
		CHECK(!is_open(p) || is_shared(p) == (expected.shared >= 0));
		CHECK(!is_open(p) || written(p) == expected.n);
	}
}

static void flush_expected(void)
{
	uint64_t before = units();
	bool something = expected.unclaimed != 0;

	CHECK(cq_producer_flush(p) == 0);
	CHECK(units() - before == something);
	if (something)
		expect_closed();
}

static void span_expected(rng_t *r)
{
	uint64_t before = units();
	bool published = false;
	unsigned n;

	if (expected.shared >= 0) {
		published = expect_closed();
		expected.sole = -1;
	}
	n = slots - expected.n;
	n = 1 + (unsigned)rng_below(r, n);
	put_span(slots - expected.n, n);
	CHECK(units() - before == published + (unsigned)(expected.n + n == slots));
	expected.only = expected.n == 0 || expected.only == B ? B : -2;
	expected.n += n;
	expected.unclaimed += n;
	expected.reserved -= n < expected.reserved ? n : expected.reserved;
	if (expected.n == slots) {
		expected.sole = -1;
		expect_closed();
	}
}

static void claim_expected(void)
{
	uint64_t before = units();

	flush_all(NULL);
	CHECK(units() - before == (expected.unclaimed + slots - 1) / slots);
	expected.unclaimed = 0;
}

/* Reserves n callbacks, and enqueues so many, when there is no memory but the reservation. */
static void put_reserved(unsigned n, unsigned kind)
{
	run_all(NULL);
	CHECK(cq_cleanup_trim(q, NULL) == 0);
	CHECK(cq_producer_reserve(p, n) == 0);
	expected.reserved = n;
	out_of_memory(true);
	for (unsigned i = 0; i < n; i++)
		put_expected(i % 7 == 0 ? B : kind, 1);
}

static void mix(unsigned kinds_of_step, unsigned longest)
{
	rng_t r = rng_for(kinds_of_step);

	expected = (struct expected){ .shared = -1, .only = -1, .sole = -1 };
	for (unsigned step = 0; step < 2000 && accepted < MANY - 2 * longest; step++) {
		unsigned kind = (unsigned)rng_below(&r, FUNCTIONS);
		unsigned n = (unsigned)rng_below(&r, longest);

		switch (rng_below(&r, kinds_of_step)) {
		default:
			put_expected(kind, n);
			break;
		case 1:
			put_expected(kind, n % 3);
			break;
		case 2:
			flush_expected();
			break;
		case 3:
			claim_expected();
			break;
		case 4:
			put_reserved(n, kind);
			break;
		case 5: /* and what it covers may come later */
			CHECK(cq_producer_reserve(p, n) == 0);
			expected.reserved = n;
			break;
		case 6:
			span_expected(&r);
			break;
		}
		out_of_memory(false);
		if (rng_below(&r, 3) == 0)
			cq_cleanup_run_some(q, rng_below(&r, 3 * args));
		check_stats();
	}
	finish();
}

Test(shared, phases_of_functions, .init = make)
{
	mix(2, 1000);
}

Test(shared, phases_of_functions_with_flushes, .init = make)
{
	mix(4, 500);
}

Test(shared, everything_mixed, .init = make)
{
	mix(12, 300);
}

Test(shared, everything_mixed_in_short_phases, .init = make)
{
	mix(8, 40);
}

enum { PRODUCERS = 3, EACH = MANY / PRODUCERS };

static uint64_t end;
static atomic_uint producing, done[PRODUCERS];

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
				cq_cleanup_run_some(q, rng_below(&r, 2 * args));
		}
		return;
	}
	CHECK(cq_producer_attach(q, &mine) == 0);
	while (n < EACH && test_now() < end) {
		unsigned kind = (unsigned)rng_below(&r, FUNCTIONS);

		for (unsigned left = (unsigned)rng_below(&r, 500); left > 0 && n < EACH; left--) {
			unsigned i = index * EACH + n++;

			kinds[i] = (unsigned char)kind;
			CHECK(cq_producer_enqueue(mine, functions[kind],
			    (void *)(uintptr_t)i) == 0);
		}
		if (rng_below(&r, 8) == 0)
			CHECK(cq_producer_flush(mine) == 0);
		if (rng_below(&r, 16) == 0)
			CHECK(cq_producer_reserve(mine, rng_below(&r, 2 * args)) == 0);
	}
	cq_producer_detach(mine);
	done[index] = n;
	producing--;
}

static void flush_all_against_running_producers(unsigned flags)
{
	unsigned n = 0;

	make_with((cq_cleanup_config_t){ .flags = flags, .max_workers = 2, .block_bytes = BYTES });
	end = run_until(0.3);
	producing = PRODUCERS;
	accepted = MANY; /* run_as: each may come */
	run_threads(PRODUCERS + 1, produce_or_flush, NULL);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
	for (unsigned i = 0; i < PRODUCERS; i++) {
		for (unsigned k = 0; k < done[i]; k++)
			CHECK(ran[i * EACH + k] == 1);
		n += done[i];
	}
	accepted = n;
	finish();
}

Test(shared, flush_all_against_running_producers_moves_each_once)
{
	flush_all_against_running_producers(0);
}

Test(shared, handover_against_running_producers_moves_each_once)
{
	flush_all_against_running_producers(CQ_HANDOVER);
}
