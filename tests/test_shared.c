/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Enqueue without a producer: cq_cleanup_enqueue. The test says on which CPU it runs; what another thread
 * would do in the middle of an enqueue happens at a point. (Forks: test_fork.c and test_atfork.c.)
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "callbacks.h"

TestSuite(shared, .timeout = 60);

static atomic_uint cpu;

/* In place of the system's. */
uint32_t __wrap_cq_cpu(void);
uint32_t __wrap_cq_cpu(void)
{
	return cpu;
}

static void share(unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++)
		CHECK(cq_cleanup_enqueue(q, run_it, (void *)(uintptr_t)i) == 0);
}

static int try_share(unsigned i)
{
	return cq_cleanup_enqueue(q, run_it, (void *)(uintptr_t)i);
}

/* As finish, which knows nothing of what lies with shared producers. */
static void end(unsigned n)
{
	out_of_memory(false);
	flush(NULL);
	finish(n);
}

/* Shared producers that there are. */
static unsigned made(void)
{
	unsigned n = 0;

	for (const cq_producer_t *each = q->producers; each != NULL; each = each->next)
		n++;
	return n - stats().producers;
}

/* ------------------------------------------------------------------------ enqueue */

Test(shared, a_full_block_is_published_at_once_and_a_part_by_a_flush, .init = make)
{
	share(0, SLOTS - 1);
	cr_assert_eq(waiting(), 0);
	share(SLOTS - 1, 1);
	cr_assert_eq(waiting(), 1);
	share(SLOTS, 1);
	flush(NULL);
	cr_assert_eq(waiting(), 2);
	end(SLOTS + 1);
}

Test(shared, statistics_count_callbacks_and_no_producer, .init = make)
{
	for (unsigned i = 0; i < 3 * SLOTS; i++) {
		share(i, 1);
		cr_assert_eq(stats().queued, i + 1);
		cr_assert_eq(stats().producers, 1, "p alone");
	}
	end(3 * SLOTS);
}

Test(shared, each_cpu_has_a_producer_of_its_own_made_at_first_use, .init = make)
{
	cr_assert_eq(made(), 0);
	for (unsigned i = 0; i < 4; i++) {
		cpu = 3 * i;
		share(2 * i, 2);
		cr_assert_eq(made(), i + 1);
		cr_assert_eq(stats().blocks_made, i + 1);
	}
	end(8);
}

Test(shared, there_are_64_at_most_however_many_cpus, .init = make)
{
	for (unsigned i = 0; i < 200; i++) {
		cpu = i == 199 ? UINT32_MAX : 7 * i; /* unknown */
		share(i, 1);
	}
	cr_assert_eq(made(), 64);
	end(200);
}

Test(shared, a_queue_that_never_does_this_has_nothing_for_it, .init = make)
{
	put(p, 0, SLOTS + 1);
	cr_assert_null(q->shared);
	cr_assert_leq(sizeof(*q), 1024 - 64, "a line is its task's");
	end(SLOTS + 1);
}

Test(shared, no_call_changes_errno, .init = make)
{
	errno = 77;
	share(0, SLOTS + 1);
	out_of_memory(true);
	cpu = 1;
	cr_assert_eq(try_share(0), ENOMEM);
	cr_assert_eq(errno, 77);
	end(SLOTS + 1);
}

/* --------------------------------------------------------------------------- errors */

Test(shared, no_function_is_refused, .init = make)
{
	cr_assert_eq(cq_cleanup_enqueue(q, NULL, NULL), EINVAL);
	share(0, 1);
	cr_assert_eq(cq_cleanup_enqueue(q, NULL, NULL), EINVAL);
	cr_assert_eq(stats().queued, 1);
	end(1);
}

/* What the first allocates: the list, a producer, a block. What it has had stays. */
Test(shared, each_allocation_may_fail_and_the_callback_is_still_the_callers, .init = make)
{
	static const long failing[] = { 1, 2, 2 };

	for (unsigned i = 0; i < 3; i++) {
		mem.fail_in = failing[i];
		cr_assert_eq(try_share(0), ENOMEM);
		cr_assert_eq(mem.failures, i + 1);
		cr_assert_eq(stats().queued, 0);
	}
	cr_assert_eq(made(), 1);
	mem.fail_in = 2;
	share(0, SLOTS);
	cr_assert_eq(mem.failures, 3, "no fourth");
	mem.fail_in = 0;
	end(SLOTS);
}

Test(shared, after_a_shutdown_all_is_refused, .init = make)
{
	share(0, 1); /* leaves a block open */
	flush(NULL);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(try_share(1), ESHUTDOWN);
	cr_assert_eq(try_share(1), ESHUTDOWN);
	cpu = 1;
	cr_assert_eq(try_share(1), ESHUTDOWN, "nor is a producer made");
	cr_assert_eq(made(), 1);
	cr_assert_eq(stats().queued, 1);
	end(1);
}

/* ------------------------------------------------------------- one that is taken */

/* The preempted thread's CPU is the other's, too. */
static void share_one(void *i)
{
	share((unsigned)(uintptr_t)i, 1);
}

Test(shared, nobody_waits_for_an_enqueue_that_stands_still, .init = make)
{
	share(0, 1);
	at_point("producer.stored", share_one, (void *)2);
	share(1, 1);
	cr_assert_eq(made(), 2, "the next one");
	share(3, 1);
	cr_assert_eq(made(), 2);
	end(4);
}

static void share_where_the_first_is_taken(void *unused)
{
	(void)unused;
	at_point("producer.stored", share_one, (void *)3);
	share(2, 1);
}

/* Two stand still there, one within the other. */
Test(shared, a_third_passes_over_two_that_stand_still, .init = make)
{
	share(0, 1);
	at_point("producer.stored", share_where_the_first_is_taken, NULL);
	share(1, 1);
	cr_assert_eq(made(), 3);
	end(4);
}

static void set_taken(uint32_t taken)
{
	for (unsigned i = 0; i < 64; i++)
		q->shared[i]->taken = taken;
}

Test(shared, with_all_taken_a_callback_has_a_block_of_its_own, .init = make)
{
	for (cpu = 0; cpu < 64; cpu++)
		share(cpu, 1);
	set_taken(1);
	share(64, 2);
	cr_assert_eq(waiting(), 2);
	cr_assert_eq(stats().producers, 1);
	cr_assert_eq(cq_cleanup_enqueue(q, NULL, NULL), EINVAL);
	out_of_memory(true);
	cr_assert_eq(try_share(66), ENOMEM);
	out_of_memory(false);
	set_taken(0);
	end(66);
}

static atomic_uint spawned;

static int spawn_and_share(void *host, void (*body)(void *), void *arg)
{
	(void)host;
	(void)body;
	(void)arg;
	share(SLOTS + spawned++, 1);
	return EAGAIN;
}

/* The shared producer is still in the hand of who makes a worker. */
Test(shared, what_an_enqueue_calls_may_enqueue)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .spawn = spawn_and_share });
	share(0, SLOTS);
	cr_assert_geq(spawned, 1);
	cr_assert_eq(made(), 2);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	end(SLOTS + spawned);
}

static void share_and_run(void *arg)
{
	share((unsigned)(uintptr_t)arg + 1, 1);
	run_it(arg);
}

Test(shared, callbacks_may_enqueue, .init = make)
{
	cr_assert_eq(cq_cleanup_enqueue(q, share_and_run, (void *)0), 0);
	flush(NULL);
	run_all(NULL);
	cr_assert_eq(runs, 1);
	flush(NULL);
	end(2);
}

/* --------------------------------------------- drain, shutdown, destroy and trim */

Test(shared, a_drain_covers_it)
{
	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = 1, .park = cq_park_default() });
	share(0, SLOTS + 1);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert(each_once(SLOTS + 1));
	end(SLOTS + 1);
}

Test(shared, a_shutdown_hands_it_back, .init = make)
{
	for (cpu = 0; cpu < 3; cpu++)
		share(cpu * (SLOTS + 1), SLOTS + 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert_eq(given_back, 3 * (SLOTS + 1));
	end(3 * (SLOTS + 1));
}

static void detach_p(void)
{
	cq_producer_detach(p);
	p = NULL;
}

Test(shared, destroy_is_refused_while_a_callback_is_left_and_needs_no_shutdown, .init = make)
{
	detach_p();
	share(0, 1);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	cr_assert_eq(waiting(), 0, "and nothing happened");
	flush(NULL);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	run_all(NULL);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
	cr_assert(each_once(1));
}

Test(shared, trim_gives_back_the_blocks_that_hold_nothing, .init = make)
{
	size_t freed;

	for (cpu = 0; cpu < 3; cpu++)
		share(cpu, 1);
	flush(NULL);
	run_all(NULL);
	cpu = 1;
	share(3, 1);
	cr_assert_eq(stats().blocks_made, 4);
	cr_assert_eq(cq_cleanup_trim(q, &freed), 0);
	cr_assert_eq(freed, 3 * q->block_bytes);
	cr_assert_eq(stats().blocks_made, 1);
	cr_assert_eq(stats().queued, 4);
	for (cpu = 0; cpu < 3; cpu++)
		share(4 + cpu, 1);
	end(7);
}

/* ---------------------------------------------------------------------- threads */

enum { THREADS = 6, EACH = 8000 };

static atomic_uint enqueuers;

/* Two CPUs for all, and each is interrupted anywhere. */
static void share_many(void *unused, unsigned index)
{
	(void)unused;
	for (unsigned i = 0; i < EACH; i++) {
		cpu = index % 2;
		share(index * EACH + i, 1);
	}
	enqueuers--;
}

static void flush_and_share(void *unused, unsigned index)
{
	if (index < THREADS) {
		share_many(unused, index);
		return;
	}
	while (enqueuers != 0) {
		flush(NULL);
		turn();
	}
}

/* Nothing but the queue knows of a thread that has ended. */
Test(shared, threads_that_come_and_go_beside_flushes_lose_and_double_no_callback)
{
	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = 2, .park = cq_park_default() });
	enqueuers = THREADS;
	run_threads(THREADS + 1, flush_and_share, NULL);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert_eq(stats().queued, THREADS * EACH);
	end(THREADS * EACH);
}

static void share_until_it_is_refused(void *accepted, unsigned index)
{
	for (unsigned i = 0;; i++) {
		int err = i < EACH ? try_share(index * EACH + i) : ESHUTDOWN;

		if (err != 0) {
			CHECK(err == ESHUTDOWN);
			*(atomic_uint *)accepted += i;
			return;
		}
	}
}

static void shut_down_beside_them(void *accepted, unsigned index)
{
	if (index < THREADS) {
		share_until_it_is_refused(accepted, index);
		return;
	}
	AWAIT(runs > EACH / 10);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, wait_limit(), take_back, NULL) == 0);
}

Test(shared, what_is_accepted_beside_a_shutdown_runs_or_is_given_back)
{
	atomic_uint accepted = 0;

	make_with((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = 2, .park = cq_park_default() });
	run_threads(THREADS + 1, shut_down_beside_them, &accepted);
	cr_assert_eq(runs, accepted);
	cr_assert_eq(stats().queued, accepted);
	for (unsigned i = 0; i < THREADS * EACH; i++)
		cr_assert_leq(ran[i], 1);
	forget_callbacks();
	end(0);
}
