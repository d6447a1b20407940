/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Collectors against owners: what flush, drain and hand-back take out of open blocks while their
 * owners go on. In most tests there is one thread, and what the other would do happens
 * at a point. (Single flushes, and what an owner sees of them: test_producer.c.)
 */
#include <criterion/criterion.h>

#include "callbacks.h"

TestSuite(collect, .timeout = 60);

/* ----------------------------------------------------------- whose callback it is */

enum { KINDS = 3, OWN = MANY / KINDS };

/* Those of producer k, the last of which brings its functions, are k * OWN and on; each has its function. */
static void run_of(unsigned kind, void *arg)
{
	CHECK((uintptr_t)arg / OWN == kind);
	CHECK(ran[(uintptr_t)arg] == 0);
	run_it(arg);
}

static void run_0(void *arg) { run_of(0, arg); }
static void run_1(void *arg) { run_of(1, arg); }
static void run_2(void *arg) { run_of(2, arg); }

static cq_callback_fn *const functions[KINDS] = { run_0, run_1, run_2 };

static struct {
	cq_producer_t *p;
	atomic_uint n;		/* accepted */
} of[KINDS];

static unsigned room_of(unsigned kind)
{
	return of[kind].p->slots;
}

static int try_next(unsigned kind)
{
	void *arg = (void *)(uintptr_t)(kind * OWN + of[kind].n);
	int err = of[kind].p->fn != NULL ? cq_producer_put(of[kind].p, arg) :
	    cq_producer_enqueue(of[kind].p, functions[kind], arg);

	CHECK(of[kind].n < OWN);
	of[kind].n += err == 0;
	return err;
}

static void put_next(unsigned kind, unsigned n)
{
	while (n-- > 0)
		CHECK(try_next(kind) == 0);
}

static unsigned all_accepted(void)
{
	return of[0].n + of[1].n + of[2].n;
}

static void attach_all(void)
{
	for (unsigned k = 0; k < KINDS; k++) {
		CHECK(cq_producer_attach(q, k < KINDS - 1 ? functions[k] : NULL, &of[k].p) == 0);
		of[k].n = 0;
	}
}

static void open_queue(size_t block_bytes)
{
	make_with((cq_cleanup_config_t){ .block_bytes = block_bytes },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED });
	attach_all();
}

static void make_all(void)
{
	open_queue(0);
}

static void check_stats(void)
{
	cq_cleanup_stats_t s = stats();

	CHECK(s.queued == all_accepted());
	CHECK(s.executed + s.handed_back == runs);
}

/* Each has run or was given back, once, with its function. */
static void end_queue(cq_shutdown_how_t how)
{
	out_of_memory(false);
	if (how == CQ_SHUTDOWN_HAND_BACK)
		CHECK(cq_cleanup_shutdown(q, how, wait_limit(), take_back, NULL) == 0);
	for (unsigned k = 0; k < KINDS; k++)
		cq_producer_detach(of[k].p);
	if ((q->pool->config.flags & CQ_POOL_HOSTED) != 0)
		run_all(NULL);
	CHECK(runs == all_accepted());
	for (unsigned k = 0; k < KINDS; k++)
		for (unsigned i = 0; i < of[k].n; i++)
			CHECK(ran[k * OWN + i] == 1);
	forget_callbacks();
	finish(0);
}

/* ------------------------------------------------------- one look, one claim */

/* What the owner does when a collector has copied from its open block, which holds COPIED. */
enum { COPIED = 2 };

static unsigned owner;

static void put_one(void) { put_next(owner, 1); }
static void fill(void) { put_next(owner, room_of(owner) - COPIED); }
static void fill_and_go_on(void) { put_next(owner, room_of(owner)); }
static void fill_two(void) { put_next(owner, 2 * room_of(owner)); }
static void flush_it(void) { CHECK(cq_producer_flush(of[owner].p) == 0); } /* enough to close the block */

/* And no more: the collector has the lock of the partial block. */
static void run_what_was_flushed(void)
{
	CHECK(cq_cleanup_run_some(q, COPIED) == COPIED);
}

static void flush_and_go_on(void)
{
	flush_it();
	put_next(owner, COPIED);
}

/* The block is another's by the time that the collector claims, and holds as many of another kind. */
static void flush_and_lend(void)
{
	unsigned other = owner == KINDS - 1 ? 0 : KINDS - 1;

	flush_it();
	run_what_was_flushed();
	put_next(other, COPIED);
	put_next(owner, COPIED);
}

/* The owner has the same block again, and has written as much into it. */
static void flush_and_open_the_same(void)
{
	const cq_block_t *before = of[owner].p->block;

	flush_it();
	run_what_was_flushed();
	put_next(owner, COPIED);
	CHECK(of[owner].p->block == before);
}

static void (*const while_copied[])(void) = {
	put_one, fill, fill_and_go_on, fill_two, flush_it, flush_and_go_on, flush_and_lend, flush_and_open_the_same,
};

static void act_of_the_owner(void *act)
{
	(*(void (*const *)(void))act)();
}

static void begin(size_t act)
{
	make_all();
	put_next(owner, COPIED);
	at_point("collect.copied", act_of_the_owner, (void *)(uintptr_t)&while_copied[act]);
}

#define EACH_ACT								\
	for (owner = 0; owner < KINDS; owner++)					\
		for (size_t act = 0; act < sizeof(while_copied) / sizeof(*while_copied); act++)

Test(collect, whatever_the_owner_does_while_a_flush_copies)
{
	EACH_ACT {
		begin(act);
		flush(NULL);
		check_stats();
		run_all(NULL);
		check_stats();
		put_next(owner, 1);
		flush(NULL);
		put_next(owner, room_of(owner));
		end_queue(CQ_SHUTDOWN_DRAIN);
	}
}

/* It covers what was there: COPIED callbacks at least. */
Test(collect, whatever_the_owner_does_while_a_drain_copies)
{
	EACH_ACT {
		begin(act);
		while (cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN)
			cr_assert_neq(cq_cleanup_run_some(q, 1), 0);
		for (unsigned i = 0; i < COPIED; i++)
			cr_assert_eq(ran[owner * OWN + i], 1);
		end_queue(CQ_SHUTDOWN_DRAIN);
	}
}

/* The queue is closed: the owner is refused, ends its block, and publishes what was copied. */
static void is_refused(void *unused)
{
	(void)unused;
	CHECK(try_next(owner) == ESHUTDOWN);
	CHECK(of[owner].p->block == NULL);
}

static void publishes(void *unused)
{
	(void)unused;
	flush_it();
}

Test(collect, whatever_the_owner_does_while_a_hand_back_copies)
{
	static test_act_fn *const acts[] = { is_refused, publishes };

	for (owner = 0; owner < KINDS; owner++)
		for (unsigned i = 0; i < 2; i++) {
			make_all();
			put_next(owner, COPIED);
			at_point("collect.copied", acts[i], NULL);
			end_queue(CQ_SHUTDOWN_HAND_BACK);
		}
}

/* Claims of more than fits the blocks that they move into, and of the largest block there is. */
Test(collect, a_large_block_is_claimed_in_parts)
{
	static const size_t sizes[] = { CQ_BLOCK_BYTES_MIN, CQ_BLOCK_BYTES, CQ_BLOCK_BYTES_MAX };

	for (unsigned i = 0; i < 3; i++)
		for (owner = 0; owner < KINDS; owner++) {
			unsigned n;

			open_queue(sizes[i]);
			n = room_of(owner) - 1;
			put_next(owner, n);
			flush(NULL);
			cr_assert_eq(waiting(), (n + q->slots - 1) / q->slots);
			check_stats();
			put_next(owner, 1);
			cr_assert_null(of[owner].p->block);
			run_all(NULL);
			put_next(owner, n);
			end_queue(CQ_SHUTDOWN_HAND_BACK);
		}
}

/* ----------------------------------------------------------------------- writers */

/* As a collection does where many producers have nothing. */
static void collect_and_let_go(void)
{
	cq_block_t *empty;

	pthread_mutex_lock(&q->lock);
	CHECK(cq_collect(q, true, &empty) == 0);
	pthread_mutex_unlock(&q->lock);
	if (empty != NULL)
		(void)cq_block_give_up(q, empty);
}

static void make_one_that_was_let_go(void)
{
	make();
	put(p, 0, 1);
	collect_and_let_go();
	cr_assert_eq(p->listed, WRITER);
	collect_and_let_go();
	cr_assert_eq(p->listed, UNLISTED);
}

static void runs_are(unsigned n)
{
	run_all(NULL);
	cr_assert_eq(runs, n);
}

Test(collect, a_producer_that_was_let_go_is_found_when_it_writes, .init = make_one_that_was_let_go)
{
	for (unsigned n = 1; n < 2 * SLOTS; n++) {
		put(p, n, 1);
		collect_and_let_go();
		runs_are(n + 1);
		collect_and_let_go();
		cr_assert_eq(p->listed, UNLISTED);
	}
	finish(2 * SLOTS);
}

Test(collect, producers_are_let_go_when_many_have_nothing)
{
	cq_producer_t *others[CQ_QUIET - 1];

	make();
	for (unsigned i = 0; i < CQ_QUIET - 1; i++) {
		cr_assert_eq(cq_producer_attach(q, NULL, &others[i]), 0);
		put(others[i], i, 1);
	}
	flush(NULL);
	flush(NULL);
	for (unsigned i = 0; i < CQ_QUIET - 1; i++)
		cr_assert_eq(others[i]->listed, WRITER, "too few");
	put(p, CQ_QUIET - 1, 1);
	flush(NULL);
	cr_assert_eq(p->listed, WRITER);
	flush(NULL);
	for (unsigned i = 0; i < CQ_QUIET - 1; i++) {
		cr_assert_eq(others[i]->listed, UNLISTED);
		cq_producer_detach(others[i]);
	}
	cr_assert_null(q->writers);
	finish(CQ_QUIET);
}

static void put_the_second(void *unused)
{
	(void)unused;
	put(p, 1, 1);
}

/* Its limit is up still: it lists itself not, but where there is no asymmetric barrier, and each callback looks. */
Test(collect, a_callback_written_while_its_producer_is_let_go_is_found)
{
	make();
	put(p, 0, 1);
	flush(NULL);
	at_point("collect.unlisted", put_the_second, NULL);
	collect_and_let_go();
	cr_assert_eq(p->listed, q->fences ? NEWCOMER : WRITER);
	flush(NULL);
	runs_are(2);
	finish(2);
}

static gate_t coming, may_push;

static void stand_still(void *unused)
{
	(void)unused;
	gate_open(&coming);
	gate_wait(&may_push);
}

/* The second and the third are accepted; with the fourth the block is full, and its producer about to list itself. (With
   the second, where there is no asymmetric barrier.) */
static void *fill_the_block(void *unused)
{
	at_point("producer.coming", stand_still, NULL);
	put(p, 1, SLOTS - 1);
	return unused;
}

static pthread_t filler;

static void start_to_fill(void *unused)
{
	filler = start(fill_the_block, unused);
	gate_wait(&coming);
}

Test(collect, callbacks_of_a_producer_that_is_about_to_list_itself_are_found)
{
	cq_producer_t *other;

	make();
	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	put(p, 0, 1);
	flush(NULL);
	at_point("collect.unlisted", start_to_fill, NULL);
	collect_and_let_go();
	collect_and_let_go();
	runs_are(q->fences ? 2 : SLOTS);
	collect_and_let_go(); /* nothing: but it is still to come */
	put(other, SLOTS, 1);
	gate_open(&may_push);
	join(filler);
	put(p, SLOTS + 1, 1);
	flush(NULL);
	runs_are(SLOTS + 2);
	collect_and_let_go();
	cr_assert(p->listed == UNLISTED && other->listed == UNLISTED);
	cq_producer_detach(other);
	finish(SLOTS + 2);
}

Test(collect, a_producer_may_be_detached_whether_a_collector_has_seen_it_or_not, .init = make_one_that_was_let_go)
{
	cq_producer_t *newcomer, *writer, *idle;

	cr_assert_eq(cq_producer_attach(q, NULL, &idle), 0);
	cr_assert_eq(cq_producer_attach(q, NULL, &writer), 0);
	put(writer, 1, 1);
	flush(NULL);
	cr_assert_eq(cq_producer_attach(q, NULL, &newcomer), 0);
	put(newcomer, 2, 1);
	cr_assert(idle->listed == UNLISTED && writer->listed == WRITER && newcomer->listed == NEWCOMER);
	cq_producer_detach(newcomer);
	cr_assert(q->writers == writer && writer->next_writer == NULL);
	cq_producer_detach(idle);
	cq_producer_detach(writer);
	cr_assert_null(q->writers);
	put(p, 3, 1);
	flush(NULL);
	finish(4);
}

/* ------------------------------------------------------------------------- mixes */

/* What the headers say of each producer's block. */
static unsigned written[KINDS], claimed[KINDS];

/* How many blocks more wait when so many callbacks have joined the partial one? */
static uint64_t joined(unsigned n)
{
	unsigned room = q->partial != NULL ? SLOTS - q->partial->end : 0;

	return n > room ? (n - room + SLOTS - 1) / SLOTS : 0;
}

static uint64_t flushed(void)
{
	unsigned n = 0;

	for (unsigned k = 0; k < KINDS; k++) {
		n += written[k] - claimed[k];
		claimed[k] = written[k];
	}
	return joined(n);
}

/* Is something published when the block ends? */
static uint64_t closed(unsigned k)
{
	uint64_t some = written[k] != claimed[k];

	written[k] = claimed[k] = 0;
	return some;
}

static uint64_t flushed_one(unsigned k)
{
	unsigned n = written[k] - claimed[k];

	if (n != 0 && 4 * n >= room_of(k))
		return closed(k);
	claimed[k] = written[k];
	return joined(n);
}

static uint64_t put_expected(unsigned k, unsigned n)
{
	uint64_t published = 0;

	while (n-- > 0) {
		put_next(k, 1);
		if (++written[k] == room_of(k))
			published += closed(k);
	}
	return published;
}

Test(collect, what_is_published_is_what_is_full_flushed_or_collected, .init = make_all)
{
	rng_t r = rng_for(0);

	for (unsigned step = 0; step < 5000; step++) {
		unsigned k = (unsigned)rng_below(&r, KINDS);
		uint64_t before = waiting(), published = 0;

		switch (rng_below(&r, 6)) {
		default:
			published = put_expected(k, (unsigned)rng_below(&r, 2 * SLOTS));
			break;
		case 0:
			published = flushed_one(k);
			CHECK(cq_producer_flush(of[k].p) == 0);
			break;
		case 1:
			published = flushed();
			flush(NULL);
			break;
		}
		cr_assert_eq(waiting() - before, published);
		if (rng_below(&r, 3) == 0)
			cq_cleanup_run_some(q, rng_below(&r, 4 * SLOTS));
		check_stats();
	}
	end_queue(CQ_SHUTDOWN_DRAIN);
}

enum { COLLECTORS = 2 };

static uint64_t end;
static atomic_uint producing;

static void produce(unsigned kind)
{
	rng_t r = rng_for(kind);

	while (of[kind].n < OWN && (of[kind].n % 64 != 0 || test_now() < end)) {
		put_next(kind, 1);
		if (rng_below(&r, 32) == 0)
			CHECK(cq_producer_flush(of[kind].p) == 0);
		if (rng_below(&r, 64) == 0)
			CHECK(cq_producer_reserve(of[kind].p, rng_below(&r, 3 * SLOTS)) == 0);
	}
	producing--;
}

static void collect(unsigned index)
{
	rng_t r = rng_for(index);

	while (producing > 0)
		if (rng_below(&r, 4) != 0) {
			CHECK(cq_cleanup_flush(q) == 0);
		} else {
			unsigned before[KINDS];

			for (unsigned k = 0; k < KINDS; k++)
				before[k] = of[k].n;
			CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
			for (unsigned k = 0; k < KINDS; k++)
				for (unsigned i = 0; i < before[k]; i++)
					CHECK(ran[k * OWN + i] == 1);
		}
}

static void produce_or_collect(void *unused, unsigned index)
{
	(void)unused;
	if (index < KINDS)
		produce(index);
	else
		collect(index);
}

Test(collect, several_collectors_beside_running_producers_move_each_callback_once)
{
	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = 2, .park = cq_park_default() });
	attach_all();
	end = run_until(0.3);
	producing = KINDS;
	run_threads(KINDS + COLLECTORS, produce_or_collect, NULL);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	check_stats();
	end_queue(CQ_SHUTDOWN_DRAIN);
}
