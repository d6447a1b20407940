/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a queue has of the system's memory by default, and what it gives back. By mincore, which says
 * of each page whether it is resident, and of one that isn't mapped ENOMEM. Where blocks come from malloc (a
 * build without mmap, or for sanitizers) there is nothing of this.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callbacks.h"

TestSuite(memory, .timeout = 60);

/* Blocks of one size: what a slab holds is counted here. */
enum { BYTES = 4080, FULL = 252, SLAB = 16 /* blocks */, SLABS = 12 };

static struct {
	void *at[2 * SLABS];
	unsigned n;
	size_t bytes;
} noted;

/* False: not here. */
static bool made_of(size_t bytes)
{
	static const cq_pool_config_t by_hand = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };
	const cq_cleanup_config_t config = { .pool_config = &by_hand, .block_bytes = bytes };

	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
	if (q->maps)
		return true;
	cq_producer_detach(p);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	return false;
}

static bool made(void)
{
	return made_of(BYTES);
}

static void end(void)
{
	cq_producer_detach(p);
	run_all(NULL);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
}

static void note_slabs(void)
{
	noted.n = 0;
	noted.bytes = SLAB * cq_block_stride(q);
	for (cq_block_t *slab = q->slabs; slab != NULL; slab = slab->next_slab) {
		CHECK(noted.n < 2 * SLABS);
		noted.at[noted.n++] = slab;
	}
}

/* How many pages of a slab are resident; -1: it isn't mapped. */
static int resident(void *slab, size_t bytes)
{
	unsigned char pages[64];
	size_t n = bytes / (size_t)sysconf(_SC_PAGESIZE);
	int sum = 0;

	CHECK(n <= sizeof(pages));
	if (mincore(slab, bytes, pages) != 0) {
		CHECK(errno == ENOMEM);
		return -1;
	}
	for (size_t i = 0; i < n; i++)
		sum += pages[i] & 1;
	return sum;
}

static unsigned slabs_mapped(void)
{
	unsigned mapped = 0;

	for (unsigned i = 0; i < noted.n; i++)
		mapped += resident(noted.at[i], noted.bytes) != -1;
	return mapped;
}

static void fill(cq_producer_t *to, unsigned slabs)
{
	put(to, 0, slabs * SLAB * FULL);
}

Test(memory, nothing_is_mapped_after_destroy)
{
	if (!made())
		return;
	fill(p, 3);
	note_slabs();
	cr_assert_eq(noted.n, 3);
	cr_assert_eq(slabs_mapped(), 3);
	end();
	cr_assert_eq(slabs_mapped(), 0);
}

Test(memory, few_callbacks_are_in_few_pages)
{
	if (!made())
		return;
	put(p, 0, 1);
	note_slabs();
	cr_assert_eq(noted.n, 1);
	cr_assert_eq(resident(noted.at[0], noted.bytes), (int)(cq_block_stride(q) / (size_t)sysconf(_SC_PAGESIZE)));
	put(p, 0, FULL);
	cr_assert_eq(stats().blocks_made, 2);
	end();
}

/* The pages of a second slab are there before its blocks are used. */
Test(memory, more_is_had_at_once)
{
	if (!made())
		return;
	fill(p, 1);
	put(p, 0, 1);
	note_slabs();
	cr_assert_eq(noted.n, 2);
	cr_assert_eq(resident(noted.at[0], noted.bytes), (int)(noted.bytes / (size_t)sysconf(_SC_PAGESIZE)));
	end();
}

Test(memory, blocks_that_have_run_are_used_before_more_is_mapped)
{
	if (!made())
		return;
	for (int i = 0; i < 5; i++) {
		fill(p, 2);
		run_all(NULL);
		note_slabs();
		cr_assert_eq(noted.n, 2);
	}
	end();
}

/* Each of two producers has one block open, and one has reserved what lies in a third slab. */
Test(memory, trim_keeps_a_slab_for_each_block_in_use_at_most)
{
	cq_producer_t *other;
	size_t freed, bytes;
	uint64_t blocks;

	if (!made())
		return;
	bytes = q->block_bytes;
	CHECK(cq_producer_attach(q, NULL, &other) == 0);
	put(p, 0, 1);
	fill(other, SLABS - 1);
	put(other, 0, 1);
	CHECK(cq_producer_reserve(other, 2 * FULL) == 0);
	run_all(NULL);
	note_slabs();
	cr_assert_eq(noted.n, SLABS);
	blocks = stats().blocks_made;
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_leq(slabs_mapped(), 4);
	cr_assert_geq(slabs_mapped(), 2);
	cr_assert_eq(freed, (blocks - stats().blocks_made) * bytes);
	/* What is kept goes on, the free blocks beside it too. */
	blocks = stats().blocks_made;
	put(p, 1, (unsigned)(blocks - 6) * FULL);
	cr_assert_eq(stats().blocks_made, blocks);
	cq_producer_detach(other);
	run_all(NULL);
	end();
	cr_assert_eq(slabs_mapped(), 0);
}

Test(memory, a_queue_that_holds_nothing_is_trimmed_to_nothing)
{
	if (!made())
		return;
	fill(p, 5);
	run_all(NULL);
	note_slabs();
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	cr_assert_eq(slabs_mapped(), 0);
	cr_assert_eq(stats().blocks_made, 0);
	fill(p, 1);
	end();
}

/* A worker parks when it has run all, and retires after IDLE_NS. */
enum { IDLE_NS = 1000 };

static void make_served(const cq_allocator_t *allocator)
{
	cq_pool_config_t pool_config = { .workers_max = 1, .idle_ns = IDLE_NS, .park = &park.ops };

	fake_init(&park);
	CHECK(cq_cleanup_create(&(cq_cleanup_config_t){
	    .pool_config = &pool_config, .block_bytes = BYTES, .allocator = allocator }, &q) == 0);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
	fill(p, 2);
	fake_wait_blocked(&park, 1);
	cr_assert_geq(stats().blocks_made, 1);
}

static uint32_t workers_live(void)
{
	cq_pool_stats_t s;

	cq_pool_stats(cq_cleanup_pool(q), &s);
	return s.workers_live;
}

Test(memory, a_worker_that_was_idle_gives_it_back)
{
	make_served(NULL);
	if (q->maps) {
		note_slabs();
		fake_advance(&park, IDLE_NS - 1);
		cr_assert_eq(slabs_mapped(), noted.n);
		fake_advance(&park, 1);
		AWAIT(workers_live() == 0);
		cr_assert_eq(slabs_mapped(), 0);
		cr_assert_eq(stats().blocks_made, 0);
		fill(p, 1);
	}
	end();
}

/* That may be bounded, and refuse a block while others are given back. */
Test(memory, a_worker_that_was_idle_leaves_what_is_of_a_hosts_allocator)
{
	uint64_t blocks;

	test_alloc_init(&mem);
	make_served(&mem.allocator);
	blocks = stats().blocks_made;
	fake_advance(&park, IDLE_NS);
	AWAIT(workers_live() == 0);
	cr_assert_eq(stats().blocks_made, blocks);
	end();
}

static void put_one(void *other)
{
	put(other, 0, 1);
}

/* Trim has the list of slabs, of which one stays. */
Test(memory, a_slab_that_is_mapped_while_trim_gives_others_back_stays)
{
	cq_producer_t *other;

	if (!made())
		return;
	CHECK(cq_producer_attach(q, NULL, &other) == 0);
	fill(p, 4);
	put(p, 0, 1);
	run_all(NULL);
	at_point("trim.taken", put_one, other);
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	note_slabs();
	cr_assert_eq(noted.n, 2);
	cr_assert_eq(slabs_mapped(), 2);
	cr_assert_eq(stats().blocks_made, 2);
	cq_producer_detach(other);
	end();
	cr_assert_eq(slabs_mapped(), 0);
}

/* Blocks of other sizes: as many as fit a slab, each on lines of its own; the largest alone. */
Test(memory, blocks_of_any_size_come_in_slabs)
{
	static const size_t sizes[] = { CQ_BLOCK_BYTES_MIN, 1000, 20000, CQ_BLOCK_BYTES_MAX };

	for (unsigned i = 0; i < 4; i++) {
		const cq_pool_config_t by_hand = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };
		const cq_cleanup_config_t config = { .pool_config = &by_hand, .block_bytes = sizes[i] };

		forget_callbacks();
		CHECK(cq_cleanup_create(&config, &q) == 0);
		CHECK(cq_producer_attach(q, NULL, &p) == 0);
		put(p, 0, 10000);
		for (cq_block_t *slab = q->slabs; slab != NULL; slab = slab->next_slab)
			cr_assert_eq((uintptr_t)slab % CQ_LINE, 0);
		cr_assert_eq((uintptr_t)p->block % CQ_LINE, 0);
		if (q->maps) {
			note_slabs();
			cr_assert_eq(q->slab_blocks, 65536 / ((q->block_bytes + 63) / 64 * 64));
		}
		end();
		cr_assert(each_once(10000));
	}
}

static void refuse_memory(bool yes)
{
	struct rlimit limit;

	CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
	limit.rlim_cur = yes ? 0 : limit.rlim_max;
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

Test(memory, a_slab_that_cannot_be_had_is_enomem_and_errno_is_kept)
{
	int err, kept;

	if (!made())
		return;
	fill(p, 1);
	refuse_memory(true);
	errno = 77;
	err = try_put(p, 0);
	kept = errno;
	refuse_memory(false);
	cr_assert_eq(err, ENOMEM);
	cr_assert_eq(kept, 77);
	put(p, 0, 1);
	end();
	cr_assert_eq(runs, SLAB * FULL + 1);
}

/* ------------------------------------------------------------------ blocks that grow */

/* With their functions; so many are filled before larger ones come. */
enum { SMALL = 253, LARGE = 1021, FILLED = 4 };

/* False: not here. FILLED were filled in a row. */
static bool made_large(void)
{
	if (!made_of(0))
		return false;
	put(p, 0, FILLED * SMALL);
	return true;
}

Test(memory, the_fifth_block_in_a_row_that_a_producer_fills_is_large)
{
	if (!made_large())
		return;
	cr_assert_eq(stats().blocks_made, FILLED);
	put(p, FILLED * SMALL, 1);
	cr_assert_eq(p->slots, LARGE);
	cr_assert_eq(stats().blocks_made, FILLED + 4, "it has the room of four");
	put(p, FILLED * SMALL + 1, LARGE - 1);
	cr_assert_eq(waiting(), FILLED + 1);
	put(p, FILLED * SMALL + LARGE, LARGE);
	cr_assert_eq(waiting(), FILLED + 2);
	run_all(NULL);
	cr_assert(each_once(FILLED * SMALL + 2 * LARGE));
	/* Each kind is used again as such. */
	put(p, 0, LARGE);
	cr_assert_eq(stats().blocks_made, FILLED + 8);
	cr_assert_eq(p->block, NULL);
	end();
}

Test(memory, a_producer_of_one_function_has_large_ones_too)
{
	cq_producer_t *args;

	if (!made_of(0))
		return;
	CHECK(cq_producer_attach(q, run_it, &args) == 0);
	put(args, 0, FILLED * 2 * SMALL);
	put(args, FILLED * 2 * SMALL, 1);
	cr_assert_eq(args->slots, 2 * LARGE);
	put(args, FILLED * 2 * SMALL + 1, 2 * LARGE - 1);
	cr_assert_eq(waiting(), FILLED + 1);
	cq_producer_detach(args);
	end();
	cr_assert(each_once(FILLED * 2 * SMALL + 2 * LARGE));
}

Test(memory, after_a_flush_the_next_block_is_small_again)
{
	if (!made_large())
		return;
	put(p, 0, LARGE / 2);
	cr_assert(p->block->large);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_null(p->block);
	put(p, 0, 1);
	cr_assert(!p->block->large);
	put(p, 0, FILLED * SMALL);
	cr_assert(p->block->large, "four in a row, again");
	end();
}

static void has_none(cq_cleanup_config_t config, unsigned blocks)
{
	static const cq_pool_config_t by_hand = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };

	config.pool_config = &by_hand;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
	for (unsigned i = 0; i < blocks; i++) {
		put(p, 0, p->slots - 1);
		cr_assert(!p->block->large);
		put(p, 0, 1);
	}
	cr_assert_eq(stats().blocks_made, blocks);
	end();
}

/* Who has said how large blocks are has such, and neither a bound nor a host's allocator meets with more. */
Test(memory, blocks_grow_by_default_alone)
{
	test_alloc_init(&mem);
	has_none((cq_cleanup_config_t){ .block_bytes = BYTES }, 3 * FILLED);
	has_none((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES }, 3 * FILLED);
	has_none((cq_cleanup_config_t){ .block_bytes = 2 * CQ_BLOCK_BYTES }, 3 * FILLED);
	has_none((cq_cleanup_config_t){ .max_waiting = 100000 }, 3 * FILLED);
	has_none((cq_cleanup_config_t){ .allocator = &mem.allocator }, 3 * FILLED);
	cr_assert_eq(mem.live_bytes, 0);
}

/* By another thread's flush, too: what it took the producer did not fill alone. */
Test(memory, a_block_of_which_a_flush_took_some_is_none_in_the_row)
{
	if (!made_of(0))
		return;
	for (uintptr_t i = 0; i < 2 * FILLED; i++) {
		for (uintptr_t j = 0; j < SMALL; j++) {
			cr_assert_eq(cq_producer_enqueue(p, run_it, (void *)(i * SMALL + j)), 0);
			if (j == 10)
				cr_assert_eq(cq_cleanup_flush(q), 0);
		}
	}
	cr_assert_eq(p->slots, SMALL);
	end();
	cr_assert(each_once(2 * FILLED * SMALL));
}

Test(memory, spans_are_of_large_blocks_too)
{
	cq_callback_t *slots;
	size_t n, accepted;

	if (!made_large())
		return;
	cr_assert_eq(cq_producer_span(p, &slots, &n), 0);
	cr_assert_eq(n, LARGE);
	for (size_t i = 0; i < n; i++)
		slots[i] = (cq_callback_t){ run_it, (void *)(uintptr_t)(FILLED * SMALL + i) };
	cr_assert_eq(cq_producer_commit(p, n, &accepted), 0);
	cr_assert_eq(accepted, LARGE);
	cr_assert_eq(waiting(), FILLED + 1);
	end();
	cr_assert(each_once(FILLED * SMALL + LARGE));
}

/* What is reserved is in small ones: it is as much as was asked for. */
Test(memory, a_reservation_beside_a_large_block_is_of_small_ones)
{
	uint64_t blocks;

	if (!made_large())
		return;
	put(p, 0, 1);
	cr_assert(p->block->large);
	blocks = stats().blocks_made;
	cr_assert_eq(cq_producer_reserve(p, LARGE - 1), 0);
	cr_assert_eq(stats().blocks_made, blocks, "in the open one");
	cr_assert_eq(cq_producer_reserve(p, LARGE - 1 + 2 * SMALL), 0);
	cr_assert_eq(stats().blocks_made, blocks + 2);
	put(p, 0, LARGE - 1);
	refuse_memory(true);
	for (unsigned i = 0; i < 2 * SMALL; i++)
		CHECK(try_put(p, i) == 0);
	refuse_memory(false);
	cr_assert_eq(waiting(), FILLED + 3);
	end();
}

Test(memory, a_flush_of_few_of_a_large_block_joins_the_partial_block)
{
	if (!made_large())
		return;
	put(p, FILLED * SMALL, 1);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_not_null(q->partial);
	cr_assert(p->block->large, "which stays open");
	/* Less than a fourth of it, and more than a small one has room for. */
	put(p, FILLED * SMALL + 1, LARGE / 4);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(waiting(), FILLED + 2);
	cr_assert(p->block->large);
	end();
	cr_assert(each_once(FILLED * SMALL + 1 + LARGE / 4));
}

/* Blocks made are 4 KiB each. */
Test(memory, what_waits_in_large_blocks_takes_64_bytes_a_callback_and_a_block_at_most)
{
	static const unsigned at_once[] = { 1, 63, 64, 255, 256, 700, LARGE };

	for (unsigned k = 0; k < sizeof(at_once) / sizeof(at_once[0]); k++) {
		if (!made_of(0))
			return;
		put(p, 0, FILLED * SMALL);
		for (unsigned i = 0; i < 8; i++) {
			put(p, 0, at_once[k]);
			cr_assert_eq(cq_producer_flush(p), 0);
			cr_assert_leq(stats().blocks_made * CQ_BLOCK_BYTES, 64 * stats().queued + 4 * CQ_BLOCK_BYTES);
			while (p->filled < FILLED)
				put(p, 0, 1);
		}
		end();
	}
}

Test(memory, a_slab_of_blocks_of_both_sizes_goes_back_when_none_is_in_use)
{
	size_t freed;

	if (!made_large())
		return;
	put(p, 0, LARGE);
	cr_assert_eq(cq_producer_reserve(p, 3 * SMALL), 0);
	run_all(NULL);
	note_slabs();
	cr_assert_eq(noted.n, 1);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 0, "three are reserved");
	cr_assert_eq(stats().blocks_made, FILLED + 4 + 3);
	put(p, 0, 3 * SMALL + LARGE);
	cr_assert_eq(stats().blocks_made, FILLED + 4 + 3, "and the others are free again");
	run_all(NULL);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(slabs_mapped(), 0);
	cr_assert_eq(freed, (FILLED + 4 + 3) * CQ_BLOCK_BYTES);
	end();
}

/* Trim finds that somebody was getting a block, and puts back what it took. */
Test(memory, a_trim_that_finds_somebody_leaves_blocks_of_both_sizes)
{
	uint64_t blocks;
	size_t freed = 77;

	if (!made_large())
		return;
	put(p, 0, 2 * LARGE);
	run_all(NULL);
	blocks = stats().blocks_made;
	p->getting = 1;
	cr_assert_eq(cq_cleanup_trim(q, &freed), EBUSY);
	p->getting = 0;
	cr_assert_eq(freed, 77);
	cr_assert_eq(stats().blocks_made, blocks);
	put(p, 0, 2 * LARGE);
	cr_assert_eq(cq_producer_reserve(p, FILLED * SMALL), 0);
	cr_assert_eq(stats().blocks_made, blocks);
	end();
}

static pid_t child;

/* The block is in no place where a child looks: its producer is between two. */
static void fork_here(void *unused)
{
	(void)unused;
	child = fork();
	CHECK(child >= 0);
	if (child != 0)
		return;
	alarm(30);
	cq_producer_detach(p);
	run_all(NULL);
	CHECK(each_once(FILLED * SMALL + 2 * LARGE));
	_exit(0);
}

Test(memory, a_child_finds_blocks_of_both_sizes_that_are_in_no_place)
{
	cq_producer_t *other;
	int status;

	if (!made_large())
		return;
	CHECK(cq_producer_attach(q, NULL, &other) == 0);
	put(p, FILLED * SMALL, LARGE);
	put(p, FILLED * SMALL + LARGE, LARGE - 1);
	at_point("producer.counted", fork_here, NULL);
	put(p, FILLED * SMALL + 2 * LARGE - 1, 1);
	CHECK(waitpid(child, &status, 0) == child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	cq_producer_detach(other);
	end();
	cr_assert(each_once(FILLED * SMALL + 2 * LARGE));
}

/* wake_bytes, of which eight small ones are 32 KiB: a worker is woken by five of which one is large. */
Test(memory, a_large_block_counts_as_four_of_those_that_wait_for_a_tick)
{
	static const cq_pool_config_t pool_config = { .workers_max = 1, .idle_ns = CQ_FOREVER, .park = &park.ops };
	const cq_cleanup_config_t config = { .pool_config = &pool_config, .flush_ns = 10000000 };

	fake_init(&park);
	CHECK(cq_cleanup_create(&config, &q) == 0);
	CHECK(cq_producer_attach(q, NULL, &p) == 0);
	if (q->maps) {
		put(p, 0, FILLED * SMALL);
		cr_assert_eq(waiting(), FILLED);
		cr_assert_eq(runs, 0);
		put(p, FILLED * SMALL, LARGE);
		AWAIT(runs == FILLED * SMALL + LARGE);
	}
	end();
}
