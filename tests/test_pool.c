/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pool: what it is made of, how many workers there are, when they come and go, hosts
 * that make them, lend theirs or poll, its end, and its statistics. Tasks: test_tasks.c.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "base/process.h"
#include "jobs.h"

TestSuite(pool, .timeout = 60);

/* ------------------------------------------------------------------------ making */

static void check_refused(cq_pool_config_t config)
{
	cq_pool_t *made = NULL;

	cr_assert_eq(cq_pool_create(&config, &made), EINVAL);
	cr_assert_null(made);
}

Test(pool, fields_outside_their_limits_and_tables_with_gaps_are_refused)
{
	static const cq_park_ops_t no_park = { 0 };
	static const cq_allocator_t no_alloc = { 0 };

	check_refused((cq_pool_config_t){ .flags = 8 });
	check_refused((cq_pool_config_t){ .workers_max = CQ_WORKERS_MAX + 1 });
	check_refused((cq_pool_config_t){ .workers_min = CQ_WORKERS_MAX + 1 });
	check_refused((cq_pool_config_t){ .workers_min = 3, .workers_max = 2 });
	check_refused((cq_pool_config_t){ .spin_ns = -2 });
	check_refused((cq_pool_config_t){ .spin_ns = CQ_POOL_SPIN_NS_MAX + 1 });
	check_refused((cq_pool_config_t){ .stack_bytes = ((size_t)1 << 30) + 1 });
	check_refused((cq_pool_config_t){ .name = "sixteen letters!" });
	check_refused((cq_pool_config_t){ .park = &no_park });
	check_refused((cq_pool_config_t){ .allocator = &no_alloc });
	check_refused((cq_pool_config_t){ .flags = CQ_POOL_HOSTED, .spawn = spawn });
	check_refused((cq_pool_config_t){ .flags = CQ_POOL_HOSTED, .workers_min = 1 });
	cr_assert_eq(cq_pool_create(NULL, NULL), EINVAL);
}

Test(pool, fields_at_their_limits_are_good)
{
	cq_pool_config_t config = { .flags = 7, .workers_max = CQ_WORKERS_MAX,
		.spin_ns = CQ_POOL_SPIN_NS_MAX, .idle_ns = CQ_FOREVER, .stack_bytes = (size_t)1 << 30,
		.name = "fifteen letters" };

	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	cr_assert_eq(stats().workers_max, CQ_WORKERS_MAX);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

Test(pool, a_longer_config_is_good_if_what_it_has_more_is_zero)
{
	struct {
		cq_pool_config_t config;
		char more[24];
	} longer = { .config = { .workers_max = 7 } };

	cr_assert_eq(cq_pool_create_sized(&longer.config, sizeof(longer), &pool), 0);
	cr_assert_eq(stats().workers_max, 7);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
	longer.more[23] = 1;
	cr_assert_eq(cq_pool_create_sized(&longer.config, sizeof(longer), &pool), E2BIG);
}

Test(pool, what_a_shorter_config_lacks_is_zero)
{
	/* What lies behind it is not read. */
	cq_pool_config_t config = { .workers_max = 7, .spin_ns = -9, .name = "sixteen letters!" };

	cr_assert_eq(cq_pool_create_sized(&config, offsetof(cq_pool_config_t, spin_ns), &pool), 0);
	cr_assert_eq(stats().workers_max, 7);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
	cr_assert_eq(cq_pool_create_sized(&config, 0, &pool), EINVAL);
}

static uint32_t quarter(void)
{
	return cq_processors() / 4 < 1 ? 1 : cq_processors() / 4;
}

Test(pool, zero_in_any_field_is_the_default)
{
	cr_assert_eq(cq_pool_create(NULL, &pool), 0);
	cr_assert_eq(stats().workers_min, 0);
	cr_assert_eq(stats().workers_max, quarter());
	cr_assert_str_eq(pool->name, "cq-worker");
	cr_assert_eq(pool->config.idle_ns, UINT64_C(30000000000));
	cr_assert_eq(pool->config.stack_bytes, (size_t)256 << 10);
	cr_assert_eq(pool->idle.spin_ns, cq_processors() > 1 ? CQ_POOL_SPIN_NS : 0);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

Test(pool, with_a_park_table_nobody_spins_by_default)
{
	open_pool((cq_pool_config_t){ 0 });
	cr_assert_eq(pool->idle.spin_ns, 0);
	end_pool();
}

Test(pool, a_minimum_above_the_default_maximum_is_the_maximum)
{
	cq_pool_config_t config = { .workers_min = quarter() + 2, .spawn = spawn, .host = &host };

	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	cr_assert_eq(stats().workers_max, quarter() + 2);
	cr_assert_eq(stats().workers_created, quarter() + 2);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

Test(pool, create_makes_the_minimum_and_no_more)
{
	open_pool((cq_pool_config_t){ .workers_min = 2, .workers_max = 5 });
	fake_wait_blocked(&park, 2);
	cr_assert_eq(stats().workers_created, 2);
	cr_assert_eq(stats().workers_live, 2);
	cr_assert_eq(stats().workers_idle, 2);
	end_pool();
}

Test(pool, the_minimum_is_made_when_create_returns)
{
	for (unsigned i = 0; i < 20; i++) {
		open_pool((cq_pool_config_t){ .workers_min = 3 });
		cr_assert_eq(counts_making(cq_u64_load_relaxed(&pool->counts)), 0);
		cr_assert_eq(stats().workers_live, 3);
		end_pool();
	}
}

Test(pool, without_a_minimum_the_first_signal_makes_the_first_worker)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4 });
	open_task(&a, 0);
	cr_assert_eq(requested(), 0);
	cr_assert_eq(signal_job(&a, NULL, NULL), 0);
	AWAIT(a.done == 1);
	cr_assert_geq(requested(), 1);
	end_spawned();
}

Test(pool, the_config_is_copied)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ 0 });
	cq_allocator_t copy = alloc.allocator;
	char name[16] = "mine";

	config.allocator = &copy;
	config.name = name;
	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	memset(&copy, 0, sizeof(copy));
	memset(&config, 0xff, sizeof(config));
	strcpy(name, "changed");
	cr_assert_str_eq(pool->name, "mine");
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, NULL, NULL), 0);
	AWAIT(a.done == 1);
	end_pool();
}

Test(pool, a_create_without_memory_leaves_nothing)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ .workers_min = 2,
	    .workers_max = 3 });
	cq_pool_t *made = NULL;
	long fails = 0;
	int err;

	do {
		alloc.fail_in = ++fails;
		err = cq_pool_create(&config, &made);
		cr_assert(err == ENOMEM || err == 0, "%d", err);
		if (err != 0) {
			cr_assert_null(made);
			cr_assert_eq(alloc.live_bytes, 0);
		}
	} while (err != 0);
	cr_assert_geq(fails, 3);
	alloc.fail_in = 0;
	cr_assert_eq(cq_pool_destroy(made, CQ_FOREVER), 0);
	cr_assert_eq(alloc.live_bytes, 0);
}

Test(pool, a_create_whose_worker_can_not_be_made_leaves_nothing)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ .workers_min = 2, .spawn = spawn,
		.host = &host });
	cq_pool_t *made = NULL;

	host.err = EPERM;
	cr_assert_eq(cq_pool_create(&config, &made), EPERM);
	cr_assert_null(made);
	cr_assert_eq(alloc.live_bytes, 0);
}

/* ---------------------------------------------------------------- how many there are */

Test(pool, a_worker_makes_the_next_before_it_runs_a_task)
{
	open_spawned((cq_pool_config_t){ .workers_max = 3 });
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(requested(), 2);
	fake_wait_blocked(&park, 1); /* it waits in reserve */
	cr_assert_eq(stats().workers_live, 2);
	gate_open(&room.leave);
	end_spawned();
}

Test(pool, pieces_that_hang_hold_nothing_back_below_the_maximum)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4 });
	open_task(&a, 0);
	open_task(&b, 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(signal_job(&a, stay, &room), 0);
	cr_assert_eq(signal_jobs(&b, 5), 0);
	AWAIT(room.inside == 3 && b.done == 5);
	AWAIT(stats().workers_created == 4); /* counted behind its making, by its maker */
	gate_open(&room.leave);
	end_spawned();
}

/* All in one call: nobody signals after the pieces hang. */
Test(pool, jobs_of_one_signal_are_not_held_back_by_those_that_hang)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4 });
	open_task(&a, 0);
	for (unsigned i = 0; i < 3; i++) {
		add(&a, NULL, NULL);
		add(&a, stay, &room);
	}
	cr_assert_eq(signal_jobs(&a, 3), 0);
	AWAIT(room.inside == 3 && a.done == 6);
	gate_open(&room.leave);
	end_spawned();
}

/* By the pool's chain alone: the records wait when the one worker comes. */
Test(pool, tasks_that_wait_together_are_not_held_back_by_one_that_hangs)
{
	host.later = true;
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	open_task(&b, 0);
	open_task(&c, 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0); /* the newest: it is taken first */
	come(1);
	AWAIT(room.inside == 1);
	cr_assert_eq(requested(), 2);
	come_at_once();
	AWAIT(b.done == 1);
	gate_open(&room.leave);
	end_spawned();
}

/* Both signals rely on the one that the first has woken. It takes one task, which hangs. */
Test(pool, a_sleeper_is_woken_for_the_records_that_are_left)
{
	open_spawned((cq_pool_config_t){ .workers_min = 2, .workers_max = 2 });
	open_task(&a, 0);
	open_task(&b, 0);
	fake_wait_blocked(&park, 2);
	park.leave = &room2.leave;
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0); /* the newest: it is taken first */
	cr_assert_eq(stats().workers_coming, 1);
	cr_assert_eq(stats().workers_idle, 1);
	gate_open(&room2.leave);
	AWAIT(room.inside == 1);
	AWAIT(b.done == 1);
	gate_open(&room.leave);
	end_spawned();
}

Test(pool, no_more_are_made_than_the_maximum)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(requested(), 2);
	gate_open(&room.leave);
	AWAIT(a.done == 6);
	cr_assert_eq(requested(), 2);
	cr_assert_eq(stats().workers_peak, 2);
	end_spawned();
}

static void signal_b(void *unused)
{
	(void)unused;
	CHECK(signal_jobs(&b, 1) == 0);
}

Test(pool, a_producer_makes_no_worker_while_one_lives)
{
	host.later = true;
	open_spawned((cq_pool_config_t){ .workers_max = 3 });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	for (unsigned i = 0; i < 3; i++)
		signal_b(NULL);
	cr_assert_eq(requested(), 1); /* it is on its way */
	/* Between its arrival and its run nobody is idle or on the way; but it lives. */
	at_point("tasks.begin", signal_b, NULL);
	come(1);
	AWAIT(a.done == 1 && b.done == 4);
	cr_assert_eq(requested(), 2); /* the one that it made */
	end_spawned();
}

static void check_requested_one(void *unused)
{
	(void)unused;
	signal_b(NULL);
	CHECK(requested() == 1);
}

Test(pool, between_its_arrival_and_its_first_run_a_worker_is_relied_on)
{
	host.later = true;
	open_spawned((cq_pool_config_t){ .workers_max = 3 });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	at_point("workers.arrived", check_requested_one, NULL);
	come(1);
	AWAIT(a.done == 1 && b.done == 1);
	end_spawned();
}

Test(pool, after_an_attempt_that_failed_a_producer_tries_though_others_live)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	host.err = EAGAIN;
	cr_assert_eq(signal_job(&a, stay, &room), EAGAIN);
	host.err = 0;
	host.later = true;
	cr_assert_eq(cq_task_signal(a.task), 0);
	host.err = EAGAIN; /* the worker can't make the next */
	come(1);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&a, 1), 0); /* one lives */
	cr_assert_eq(stats().workers_failed, 3);
	host.err = 0;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(requested(), 2);
	come_at_once();
	AWAIT(a.done == 2);
	gate_open(&room.leave);
	end_spawned();
}

/* ------------------------------------------------------------------------- stalled */

static void check_stalled(int says, int signal_says)
{
	unsigned long long failed = stats().workers_failed;

	host.err = says;
	cr_assert_eq(cq_task_signal(a.task), signal_says, "%d", says);
	cr_assert_eq(stats().workers_failed, failed + 1);
	cr_assert_eq(stats().workers_last_errno, says);
}

Test(pool, a_signal_says_what_keeps_the_first_worker_from_being_made)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	add(&a, NULL, NULL);
	check_stalled(EAGAIN, EAGAIN);
	check_stalled(EINVAL, EINVAL);
	check_stalled(EPERM, EPERM);
	/* Which would say something else of the call. */
	check_stalled(ENOMEM, EAGAIN);
	check_stalled(EDEADLK, EAGAIN);
	check_stalled(ETIMEDOUT, EAGAIN);
	check_stalled(EBUSY, EAGAIN);
	check_stalled(-1, EAGAIN);
	/* What was signalled stays so, and the next signal tries again. */
	cr_assert_eq(stats().tasks_waiting, 1);
	cr_assert_eq(a.calls, 0);
	host.err = 0;
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(a.done == 1);
	end_spawned();
}

Test(pool, without_memory_for_a_worker_a_signal_says_so_and_the_next_tries_again)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	alloc.fail_in = 1;
	cr_assert_eq(signal_job(&a, NULL, NULL), EAGAIN);
	cr_assert_eq(stats().workers_last_errno, ENOMEM);
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(a.done == 1);
	end_spawned();
}

Test(pool, who_waits_is_told_that_the_pool_is_stalled)
{
	static jobs_t deaf;
	static const cq_task_ops_t no_stalled = { run_jobs, NULL, NULL };

	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, 0);
	open_task(&c, 0);
	cr_assert_eq(cq_task_create(pool, &no_stalled, &deaf, 0, &deaf.task), 0);
	close_task(&c);
	host.err = EAGAIN;
	cr_assert_eq(signal_job(&a, NULL, NULL), EAGAIN);
	cr_assert_eq(a.stalled, 1);
	cr_assert_eq(b.stalled, 1);
	cr_assert_eq(c.stalled, 0); /* it is closed */
	host.err = 0;
	cr_assert_eq(cq_pool_wake(pool), 0);
	AWAIT(a.done == 1);
	cr_assert_eq(a.stalled, 1);
	close_task(&deaf);
	end_spawned();
}

Test(pool, a_pool_one_of_whose_workers_lives_is_not_stalled)
{
	open_spawned((cq_pool_config_t){ .workers_max = 3 });
	open_task(&a, 0);
	host.later = true;
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	host.err = EINVAL;
	come(1);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_eq(a.stalled, 0);
	gate_open(&room.leave);
	AWAIT(a.done == 2);
	host.err = 0;
	end_spawned();
}

/* --------------------------------------------------------------- limits at run time */

Test(pool, a_higher_minimum_makes_workers_at_once)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4 });
	cr_assert_eq(cq_pool_set_workers(pool, 3, 4), 0);
	fake_wait_blocked(&park, 3);
	cr_assert_eq(stats().workers_live, 3);
	cr_assert_eq(stats().workers_min, 3);
	end_spawned();
}

Test(pool, a_lower_minimum_lets_those_go_who_were_idle)
{
	open_spawned((cq_pool_config_t){ .workers_min = 3, .workers_max = 3, .idle_ns = IDLE_NS });
	fake_wait_blocked(&park, 3);
	fake_advance(&park, 2 * IDLE_NS);
	cr_assert_eq(stats().workers_live, 3);
	cr_assert_eq(cq_pool_set_workers(pool, 1, 3), 0);
	retire_to(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(stats().workers_retired, 2);
	end_spawned();
}

Test(pool, a_higher_maximum_makes_a_worker_if_all_are_at_work)
{
	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	open_task(&a, 0);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 3), 0);
	cr_assert_eq(requested(), 0);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 1), 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(requested(), 1);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 2), 0);
	cr_assert_eq(requested(), 2);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	cr_assert_eq(requested(), 2);
	gate_open(&room.leave);
	end_spawned();
}

Test(pool, those_above_a_lower_maximum_end_after_their_run)
{
	open_spawned((cq_pool_config_t){ .workers_max = 3 });
	open_task(&a, 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 3);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 1), 0);
	cr_assert_eq(stats().workers_live, 3);
	gate_open(&room.leave);
	AWAIT(workers_are(1));
	AWAIT(a.done == 3);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 4);
	end_spawned();
}

static void limit_to_one(void *unused)
{
	(void)unused;
	CHECK(cq_pool_set_workers(pool, 0, 1) == 0);
}

Test(pool, one_above_a_lower_maximum_takes_no_other_piece)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	open_task(&b, 0);
	come_at_once();
	cr_assert_eq(signal_job(&b, stay, &room), 0);
	AWAIT(room.inside == 1);
	add(&a, NULL, NULL);
	add(&a, limit_to_one, NULL); /* the newest comes first */
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(workers_are(1));
	cr_assert_eq(a.done, 1);
	gate_open(&room.leave);
	AWAIT(a.done == 2);
	end_spawned();
}

Test(pool, idle_ones_above_a_lower_maximum_end_at_once)
{
	open_spawned((cq_pool_config_t){ .workers_min = 3, .workers_max = 3 });
	open_task(&a, 0);
	fake_wait_blocked(&park, 3);
	cr_assert_eq(cq_pool_set_workers(pool, 1, 1), 0);
	AWAIT(workers_are(1));
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	end_spawned();
}

Test(pool, limits_that_contradict_each_other_are_refused_and_change_nothing)
{
	open_pool((cq_pool_config_t){ .workers_max = 2 });
	cr_assert_eq(cq_pool_set_workers(pool, 3, 2), EINVAL);
	cr_assert_eq(cq_pool_set_workers(pool, 0, CQ_WORKERS_MAX + 1), EINVAL);
	cr_assert_eq(cq_pool_set_workers(pool, UINT32_MAX, 0), EINVAL);
	cr_assert_eq(stats().workers_min, 0);
	cr_assert_eq(stats().workers_max, 2);
	end_pool();
}

static void limit_to_two(void *unused)
{
	(void)unused;
	CHECK(cq_pool_set_workers(pool, 0, 2) == 0);
}

Test(pool, limits_that_are_set_at_once_are_those_of_one_call)
{
	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	at_point("pool.limits", limit_to_two, NULL);
	cr_assert_eq(cq_pool_set_workers(pool, 3, 8), 0);
	cr_assert_eq(stats().workers_min, 3);
	cr_assert_eq(stats().workers_max, 8);
	end_spawned();
}

Test(pool, zero_as_a_maximum_is_the_default)
{
	open_spawned((cq_pool_config_t){ .workers_max = quarter() + 3 });
	cr_assert_eq(cq_pool_set_workers(pool, 0, 0), 0);
	cr_assert_eq(stats().workers_max, quarter());
	cr_assert_eq(cq_pool_set_workers(pool, quarter() + 1, 0), 0); /* as in the config */
	cr_assert_eq(stats().workers_max, quarter() + 1);
	end_spawned();
}

Test(pool, a_worker_that_can_not_be_made_is_said_and_the_limits_are_changed)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	host.err = EPERM;
	cr_assert_eq(cq_pool_set_workers(pool, 2, 4), EPERM);
	cr_assert_eq(stats().workers_min, 2);
	cr_assert_eq(stats().workers_max, 4);
	cr_assert_eq(stats().workers_live, 0);
	host.err = 0;
	cr_assert_eq(cq_pool_set_workers(pool, 2, 4), 0);
	fake_wait_blocked(&park, 2);
	end_spawned();
}

Test(pool, a_hosted_pool_has_no_minimum)
{
	open_pool((cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
	cr_assert_eq(cq_pool_set_workers(pool, 1, 2), EINVAL);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 2), 0);
	end_pool();
}

/* ----------------------------------------------------------------------- retirement */

static void run_one(void)
{
	unsigned done = a.done;

	CHECK(signal_jobs(&a, 1) == 0);
	AWAIT(a.done == done + 1);
}

Test(pool, a_worker_that_was_idle_for_too_long_retires_and_the_next_signal_makes_another)
{
	open_spawned((cq_pool_config_t){ .idle_ns = IDLE_NS });
	open_task(&a, 0);
	for (unsigned i = 1; i <= 3; i++) {
		run_one();
		fake_wait_blocked(&park, 1);
		cr_assert_eq(park.deadline, park.now + IDLE_NS);
		fake_advance(&park, IDLE_NS - 1);
		fake_wait_blocked(&park, 1);
		cr_assert_eq(stats().workers_retired, i - 1);
		fake_advance(&park, 1);
		AWAIT(workers_are(0));
		cr_assert_eq(stats().workers_retired, i);
		cr_assert_eq(stats().workers_live, 0);
	}
	cr_assert_eq(requested(), 3);
	end_spawned();
}

Test(pool, an_idle_pool_without_a_minimum_comes_down_to_no_worker)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4, .idle_ns = IDLE_NS });
	open_task(&a, 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 4);
	gate_open(&room.leave);
	fake_wait_blocked(&park, 4);
	retire_to(0);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(pool->counts, 0);
	run_one();
	end_spawned();
}

Test(pool, the_minimum_never_retires_and_sleeps_without_a_deadline)
{
	open_spawned((cq_pool_config_t){ .workers_min = 1, .workers_max = 2, .idle_ns = IDLE_NS });
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(requested(), 2);
	gate_open(&room.leave);
	fake_wait_blocked(&park, 2);
	retire_to(1);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, 10 * IDLE_NS);
	AWAIT(park.deadline == CQ_FOREVER);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(requested(), 2);
	end_spawned();
}

Test(pool, the_last_idle_one_stays_while_another_is_at_work)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2, .idle_ns = IDLE_NS });
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	for (unsigned i = 0; i < 3; i++) {
		fake_wait_blocked(&park, 1);
		fake_advance(&park, IDLE_NS);
	}
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_live, 2);
	cr_assert_eq(stats().workers_retired, 0);
	run_one(); /* at once, by the one that stayed */
	cr_assert_eq(requested(), 2);
	gate_open(&room.leave);
	end_spawned();
}

Test(pool, a_task_that_is_signalled_while_the_last_worker_leaves_is_run)
{
	open_spawned((cq_pool_config_t){ .idle_ns = IDLE_NS });
	open_task(&a, 0);
	open_task(&b, 0);
	run_one();
	fake_wait_blocked(&park, 1);
	at_point("sleepers.timed_out", signal_b, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(b.done == 1);
	fake_wait_blocked(&park, 1);
	/* It can't be woken any more, and is in the counts. */
	at_point("sleepers.back", signal_b, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(b.done == 2);
	end_spawned();
}

static void push_b(void *unused)
{
	/* A signal whose look at the counts was before the worker left them. */
	(void)unused;
	host.err = EAGAIN;
	CHECK(signal_jobs(&b, 1) == EAGAIN);
	host.err = 0;
}

Test(pool, a_worker_that_has_left_the_counts_looks_once_more)
{
	open_spawned((cq_pool_config_t){ .idle_ns = IDLE_NS });
	open_task(&a, 0);
	open_task(&b, 0);
	run_one();
	fake_wait_blocked(&park, 1);
	at_point("workers.retiring", push_b, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(b.done == 1);
	cr_assert_eq(requested(), 1);
	cr_assert_eq(stats().workers_retired, 0);
	cr_assert_eq(stats().workers_live, 1);
	end_spawned();
}

static void take_the_last_work(void *unused)
{
	(void)unused;
	CHECK(signal_job(&a, stay, &room) == 0);
	AWAIT(room.inside == 1);
}

Test(pool, a_worker_does_not_leave_one_alone_that_takes_the_last_work_and_hangs)
{
	open_spawned((cq_pool_config_t){ .workers_min = 2, .workers_max = 2, .idle_ns = IDLE_NS });
	open_task(&a, 0);
	fake_wait_blocked(&park, 2);
	at_point("workers.retiring", take_the_last_work, NULL);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 2), 0);
	fake_wait_blocked(&park, 2);
	cr_assert_eq(cq_pool_set_workers(pool, 1, 2), 0);
	fake_wait_blocked(&park, 2);
	fake_advance(&park, IDLE_NS);
	AWAIT(room.inside == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_live, 2);
	run_one();
	gate_open(&room.leave);
	end_spawned();
}

static void *workers_that_retire;

static void count_retired(void *unused)
{
	(void)unused;
	workers_that_retire = (char *)workers_that_retire + 1;
}

Test(pool, without_a_deadline_nobody_retires)
{
	open_spawned((cq_pool_config_t){ .idle_ns = CQ_FOREVER });
	open_task(&a, 0);
	run_one();
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, CQ_FOREVER);
	at_point("workers.retiring", count_retired, NULL);
	fake_advance(&park, CQ_FOREVER - 1);
	run_one();
	cr_assert_null(workers_that_retire);
	end_spawned();
}

/* ---------------------------------------------------------------------- destroying */

Test(pool, destroy_is_busy_while_a_task_is_open_and_nothing_happens)
{
	open_pool((cq_pool_config_t){ .workers_min = 1 });
	open_task(&a, 0);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), EBUSY);
	run_one();
	end_pool();
}

Test(pool, destroy_of_null_does_nothing)
{
	cr_assert_eq(cq_pool_destroy(NULL, 0), 0);
}

static void stop_a_worker(void *unused)
{
	(void)unused;
	stay(&room);
}

Test(pool, a_destroy_that_times_out_may_be_called_again)
{
	open_spawned((cq_pool_config_t){ .workers_min = 2, .workers_max = 2 });
	fake_wait_blocked(&park, 2);
	at_point("sleepers.back", stop_a_worker, NULL);
	cr_assert_eq(cq_pool_destroy(pool, 0), ETIMEDOUT);
	AWAIT(room.inside == 1);
	cr_assert_eq(cq_pool_destroy(pool, park.now), ETIMEDOUT);
	gate_open(&room.leave);
	end_spawned();
}

static void *destroy_late(void *unused)
{
	CHECK(cq_pool_destroy(pool, 5 * IDLE_NS) == ETIMEDOUT);
	return unused;
}

Test(pool, a_destroy_waits_until_its_deadline)
{
	pthread_t destroyer;

	open_spawned((cq_pool_config_t){ .workers_min = 1 });
	fake_wait_blocked(&park, 1);
	at_point("sleepers.back", stop_a_worker, NULL);
	destroyer = start(destroy_late, NULL);
	AWAIT(room.inside == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, 5 * IDLE_NS);
	fake_advance(&park, 5 * IDLE_NS);
	join(destroyer);
	gate_open(&room.leave);
	end_spawned();
}

/* The worker was asked for, and comes when the pool is being destroyed. */
static void *destroy_now(void *unused)
{
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	return unused;
}

Test(pool, destroy_waits_for_a_worker_that_was_asked_for)
{
	pthread_t destroyer;

	host.later = true;
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	close_task(&a);
	destroyer = start(destroy_now, NULL);
	fake_wait_blocked(&park, 1);
	come(1);
	join(destroyer);
	cr_assert_eq(a.done, 0);
	cr_assert_eq(alloc.live_bytes, 0);
}

static void call_from_within(void *unused)
{
	cq_task_t *t = b.task;

	(void)unused;
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == EDEADLK);
	CHECK(cq_pool_work(pool, NULL, 0) == EDEADLK);
	CHECK(cq_task_close(a.task, CQ_FOREVER) == EDEADLK);
	CHECK(cq_task_close(t, CQ_FOREVER) == EDEADLK);
	/* All else may be called. */
	CHECK(cq_task_signal(t) == 0);
	CHECK(cq_task_signal(a.task) == 0);
	CHECK(cq_pool_wake(pool) == 0);
	CHECK(cq_pool_set_workers(pool, 0, 3) == 0);
	CHECK(cq_pool_run_some(pool, 0) == 0);
	(void)cq_pool_needs_wake(pool);
	CHECK(stats().workers_running >= 1);
	open_task(&c, 0);
}

Test(pool, from_a_run_what_waits_is_refused_and_all_else_may_be_called)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_job(&a, call_from_within, NULL), 0);
	AWAIT(a.done == 1);
	end_spawned();
}

/* --------------------------------------------------------------------------- hosted */

static atomic_int worked = -1;	/* what the last of them got */
static uint64_t work_until = CQ_FOREVER;

static void *work(void *its_host)
{
	int err = cq_pool_work(pool, its_host, work_until);

	worked = err;
	return NULL;
}

static void open_hosted(cq_pool_config_t config)
{
	config.flags |= CQ_POOL_HOSTED;
	open_pool(config);
	open_task(&a, 0);
	open_task(&b, 0);
}

Test(pool, a_lent_thread_works_until_destroy)
{
	int mine;
	pthread_t worker;

	open_hosted((cq_pool_config_t){ 0 });
	worker = start(work, &mine);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.host, &mine); /* for the park table */
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(pool->peak, 1);
	cr_assert_eq(stats().workers_created, 0);
	run_one();
	fake_advance(&park, CQ_FOREVER - 1); /* it doesn't retire */
	run_one();
	end_pool();
	join(worker);
	cr_assert_eq(worked, 0);
}

Test(pool, a_lent_thread_works_until_its_deadline)
{
	pthread_t worker;

	open_hosted((cq_pool_config_t){ 0 });
	work_until = IDLE_NS;
	worker = start(work, NULL);
	run_one();
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, IDLE_NS);
	fake_advance(&park, IDLE_NS);
	join(worker);
	cr_assert_eq(worked, ETIMEDOUT);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_peak, 1);
	end_pool();
}

Test(pool, work_with_a_deadline_that_has_passed_runs_what_waits)
{
	open_hosted((cq_pool_config_t){ 0 });
	fake_advance(&park, 10);
	cr_assert_eq(cq_pool_work(pool, NULL, 0), ETIMEDOUT);
	cr_assert_eq(signal_jobs(&a, 3), 0);
	alloc.fail_in = 1;
	cr_assert_eq(cq_pool_work(pool, NULL, 5), ENOMEM);
	cr_assert_eq(a.done, 0);
	cr_assert_eq(cq_pool_work(pool, NULL, 5), ETIMEDOUT);
	cr_assert_eq(a.done, 3);
	cr_assert_eq(cq_pool_work(pool, NULL, 0), ETIMEDOUT);
	end_pool();
}

Test(pool, lent_threads_are_outside_the_limits)
{
	pthread_t worker;

	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	open_task(&a, 0);
	worker = start(work, NULL);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	/* It makes the next, within the limit. */
	cr_assert_eq(requested(), 1);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	cr_assert_eq(stats().workers_live, 2);
	gate_open(&room.leave);
	end_spawned();
	join(worker);
}

Test(pool, what_counted_on_a_lent_thread_that_leaves_goes_to_another)
{
	pthread_t worker;

	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	open_task(&a, 0);
	open_task(&b, 0);
	work_until = IDLE_NS;
	worker = start(work, NULL);
	fake_wait_blocked(&park, 1);
	/* It has timed out, and makes one when it sees what has come. */
	at_point("sleepers.back", signal_b, NULL);
	fake_advance(&park, IDLE_NS);
	join(worker);
	AWAIT(b.done == 1);
	end_spawned();
}

/*
 * One takes a task, which hangs, and leaves the other idle: it makes none. Which one is woken
 * depends on the CPUs on which they went to sleep.
 */
Test(pool, a_lent_thread_that_leaves_others_at_work_makes_the_next)
{
	pthread_t one, other;

	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	open_task(&a, 0);
	work_until = IDLE_NS;
	one = start(work, NULL);
	other = start(work, NULL);
	fake_wait_blocked(&park, 2);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(requested(), 0);
	fake_advance(&park, IDLE_NS);
	AWAIT(worked == ETIMEDOUT); /* the idle one's */
	cr_assert_eq(requested(), 1);
	gate_open(&room.leave);
	join(one);
	join(other);
	cr_assert_eq(requested(), 1);
	end_spawned();
}

Test(pool, a_task_that_comes_as_the_last_lent_thread_leaves_is_told)
{
	pthread_t worker;

	open_hosted((cq_pool_config_t){ 0 });
	work_until = IDLE_NS;
	worker = start(work, NULL);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(cq_pool_wake(pool), 0);
	at_point("sleepers.timed_out", signal_b, NULL);
	fake_advance(&park, IDLE_NS);
	join(worker);
	cr_assert(b.done == 1 || b.stalled == 1);
	end_pool();
}

static void stay_until_the_end(void *unused)
{
	(void)unused;
	CHECK(signal_jobs(&b, 1) == 0); /* nobody else is there */
}

Test(pool, who_waits_is_told_that_nobody_serves_a_hosted_pool)
{
	open_hosted((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	cr_assert_eq(cq_pool_wake(pool), 0); /* nothing waits */
	cr_assert_eq(signal_job(&a, stay_until_the_end, NULL), 0);
	cr_assert_eq(a.stalled, 1);
	cr_assert_eq(cq_pool_wake(pool), EAGAIN);
	cr_assert_eq(b.stalled, 0);
	cr_assert_eq(cq_pool_run_some(pool, 1), 1);
	cr_assert_eq(a.done, 1);
	cr_assert_eq(a.stalled, 2);
	cr_assert_eq(b.stalled, 2); /* as it was signalled, and as the caller left */
	cr_assert_eq(cq_pool_wake(pool), EAGAIN);
	cr_assert_eq(cq_pool_run_some(pool, 1), 1);
	cr_assert_eq(b.stalled, 2);
	cr_assert_eq(cq_pool_wake(pool), 0);
	end_pool();
}

Test(pool, a_pool_of_two_lent_threads_runs_both)
{
	pthread_t workers[2];

	open_hosted((cq_pool_config_t){ 0 });
	for (unsigned i = 0; i < 2; i++)
		workers[i] = start(work, NULL);
	fake_wait_blocked(&park, 2);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	gate_open(&room.leave);
	end_pool();
	for (unsigned i = 0; i < 2; i++)
		join(workers[i]);
}

/* --------------------------------------------------------------------------- polled */

static void open_polled(cq_pool_config_t config)
{
	config.flags |= CQ_POOL_POLLED;
	open_spawned(config);
	open_task(&a, 0);
	open_task(&b, 0);
	open_task(&c, 0);
}

Test(pool, a_signal_of_a_polled_pool_wakes_and_makes_nobody)
{
	open_polled((cq_pool_config_t){ .workers_max = 2 });
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(requested(), 0);
	cr_assert_eq(cq_pool_wake(pool), 0);
	AWAIT(a.done == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(a.stalled, 2);
	cr_assert_eq(stats().workers_idle, 1);
	cr_assert_eq(a.done, 1);
	cr_assert_eq(requested(), 1);
	cr_assert_eq(cq_pool_wake(pool), 0); /* makes one too, if the other is at work by then */
	AWAIT(a.done == 2);
	end_spawned();
}

/* min(work, idle), one by one: workers that are woken don't come for now. */
Test(pool, needs_wake_until_as_many_are_on_their_way_as_tasks_wait)
{
	open_polled((cq_pool_config_t){ .workers_min = 3, .workers_max = 3 });
	fake_wait_blocked(&park, 3);
	park.leave = &room.leave;
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(stats().workers_coming, 1);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert_eq(cq_task_signal(b.task), 0); /* it waits once */
	cr_assert(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(stats().workers_coming, 2);
	cr_assert_eq(stats().wakes, 2);
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_eq(stats().wakes, 2);
	gate_open(&room.leave);
	AWAIT(a.done == 1 && b.done == 1);
	end_spawned();
}

Test(pool, one_wake_is_for_all_tasks_that_wait)
{
	open_polled((cq_pool_config_t){ .workers_min = 4, .workers_max = 4 });
	fake_wait_blocked(&park, 4);
	park.leave = &room.leave;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert_eq(signal_jobs(&c, 1), 0);
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_eq(stats().workers_coming, 3);
	cr_assert_eq(stats().workers_idle, 1);
	cr_assert_not(cq_pool_needs_wake(pool));
	gate_open(&room.leave);
	AWAIT(a.done == 1 && b.done == 1 && c.done == 1);
	end_spawned();
}

Test(pool, needs_no_wake_when_nobody_could_come)
{
	open_polled((cq_pool_config_t){ .workers_max = 1 });
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	cr_assert(cq_pool_needs_wake(pool)); /* one could be made */
	cr_assert_eq(cq_pool_wake(pool), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert_not(cq_pool_needs_wake(pool));
	gate_open(&room.leave);
	AWAIT(b.done == 1);
	end_spawned();
}

/* A host may loop: while (cq_pool_needs_wake(p)) cq_pool_wake(p). */
Test(pool, after_a_wake_none_is_needed_until_something_happens)
{
	open_polled((cq_pool_config_t){ .workers_max = 3 });
	host.later = true;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(requested(), 1);
	come_at_once();
	AWAIT(a.done == 1 && b.done == 1);
	end_spawned();
}

Test(pool, a_worker_that_is_being_made_is_one_on_the_way)
{
	open_polled((cq_pool_config_t){ .workers_min = 1, .workers_max = 3 });
	fake_wait_blocked(&park, 1);
	host.later = true;
	cr_assert_eq(cq_pool_set_workers(pool, 2, 3), 0);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(requested(), 2);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	park.leave = &room.leave;
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_eq(stats().workers_idle, 1); /* it is let be */
	cr_assert_eq(stats().workers_coming, 1);
	gate_open(&room.leave);
	come_at_once();
	AWAIT(a.done == 1);
	end_spawned();
}

Test(pool, a_hosted_pool_without_an_idle_thread_needs_no_wake)
{
	open_hosted((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 1);
	end_pool();
}

Test(pool, run_some_runs_as_many_pieces_as_were_asked_for)
{
	open_polled((cq_pool_config_t){ 0 });
	cr_assert_eq(cq_pool_run_some(pool, 10), 0);
	cr_assert_eq(signal_jobs(&a, 5), 0);
	cr_assert_eq(signal_jobs(&b, 5), 0);
	cr_assert_eq(cq_pool_run_some(pool, 0), 0);
	cr_assert_eq(cq_pool_run_some(pool, 1), 1);
	cr_assert_eq(a.done + b.done, 1);
	cr_assert_eq(cq_pool_run_some(pool, 7), 7);
	cr_assert_eq(a.done + b.done, 8);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 2);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 0);
	cr_assert_eq(signal_jobs(&a, 3), 0); /* alone */
	cr_assert_eq(cq_pool_run_some(pool, 2), 2);
	cr_assert_eq(cq_pool_run_some(pool, 2), 1);
	cr_assert_eq(requested(), 0);
	end_spawned();
}

Test(pool, run_some_lets_tasks_take_turns)
{
	open_polled((cq_pool_config_t){ 0 });
	cr_assert_eq(signal_jobs(&a, 8), 0);
	cr_assert_eq(signal_jobs(&b, 8), 0);
	cr_assert_eq(cq_pool_run_some(pool, 8), 8);
	cr_assert_eq(a.done, 4);
	cr_assert_eq(b.done, 4);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 8);
	end_spawned();
}

static void run_b(void *pieces)
{
	CHECK(cq_pool_run_some(pool, 1) == (uintptr_t)pieces);
}

Test(pool, run_some_may_be_called_in_a_run)
{
	open_polled((cq_pool_config_t){ 0 });
	cr_assert_eq(signal_jobs(&b, 1), 0);
	add(&a, run_b, (void *)0);
	cr_assert_eq(signal_job(&a, run_b, (void *)1), 0);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 2);
	cr_assert_eq(b.done, 1);
	end_spawned();
}

/* ----------------------------------------------------------------------- statistics */

Test(pool, the_statistics_are_what_has_happened)
{
	cq_pool_stats_t s;

	open_spawned((cq_pool_config_t){ .workers_max = 3, .idle_ns = IDLE_NS });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0); /* makes two */
	AWAIT(room.inside == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(signal_jobs(&b, 1), 0); /* wakes one, which makes one more */
	AWAIT(b.done == 1);
	fake_wait_blocked(&park, 2);
	s = stats();
	cr_assert_eq(s.runs, 1); /* that have ended */
	cr_assert_eq(s.empty_runs, 0);
	cr_assert_eq(s.wakes, 1);
	cr_assert_eq(s.workers_created, 3);
	cr_assert_eq(s.workers_retired, 0);
	cr_assert_eq(s.workers_failed, 0);
	cr_assert_eq(s.tasks_waiting, 0);
	cr_assert_eq(s.tasks, 2);
	cr_assert_eq(s.workers_live, 3);
	cr_assert_eq(s.workers_idle, 2);
	cr_assert_eq(s.workers_coming, 0);
	cr_assert_eq(s.workers_running, 1);
	cr_assert_eq(s.workers_peak, 3);
	cr_assert_eq(s.workers_min, 0);
	cr_assert_eq(s.workers_max, 3);
	cr_assert_eq(s.workers_last_errno, 0);

	gate_open(&room.leave);
	fake_wait_blocked(&park, 3);
	cr_assert_eq(cq_task_signal(a.task), 0); /* for nothing */
	AWAIT(stats().runs == 3);
	fake_wait_blocked(&park, 3);
	retire_to(0);
	close_task(&b);
	s = stats();
	cr_assert_eq(s.runs, 3); /* those of workers that are gone */
	cr_assert_eq(s.empty_runs, 1);
	cr_assert_eq(s.wakes, 2);
	cr_assert_eq(s.workers_retired, 3);
	cr_assert_eq(s.tasks, 1);
	cr_assert_eq(s.workers_live, 0);
	cr_assert_eq(s.workers_idle, 0);
	cr_assert_eq(s.workers_running, 0);
	cr_assert_eq(s.workers_peak, 3);
	end_spawned();
}

static void one_more_finds_nothing(void *unused)
{
	(void)unused;
	pool->members->runs++;
	pool->members->empty_runs++;
}

Test(pool, statistics_do_not_contradict_themselves_while_they_change)
{
	cq_pool_stats_t s;

	open_spawned((cq_pool_config_t){ .workers_min = 1 });
	come_at_once();
	fake_wait_blocked(&park, 1);
	at_point("stats.summing", one_more_finds_nothing, NULL);
	s = stats();
	cr_assert_leq(s.empty_runs, s.runs);
	cr_assert_eq(stats().empty_runs, 1);
	pool->counts += COUNT_LIVE; /* a second comes, and hasn't noted the peak */
	s = stats();
	pool->counts -= COUNT_LIVE;
	cr_assert_eq(s.workers_live, 2);
	cr_assert_eq(s.workers_peak, 2);
	end_spawned();
}

Test(pool, runs_in_callers_are_counted)
{
	open_polled((cq_pool_config_t){ 0 });
	cr_assert_eq(signal_jobs(&a, 3), 0);
	cr_assert_eq(stats().tasks_waiting, 1);
	cr_assert_eq(cq_task_run_some(a.task, SIZE_MAX), 3);
	cr_assert_eq(stats().runs, 2); /* the second found nothing, and the signal is still there */
	cr_assert_eq(stats().empty_runs, 1);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 0);
	cr_assert_eq(stats().runs, 3);
	cr_assert_eq(stats().empty_runs, 2);
	cr_assert_eq(stats().tasks_waiting, 0);
	end_spawned();
}

static cq_pool_stats_t after[2];

static void look_twice(void *which)
{
	cr_assert_eq(stats().longest_ns, 0, "nobody has seen it before");
	fake_advance(&park, 500);
	after[*(unsigned *)which] = stats();
	fake_advance(&park, 500);
}

/* Its function reads no clock: who asks twice knows. */
Test(pool, statistics_know_for_how_long_they_have_seen_a_piece)
{
	static unsigned which[] = { 0, 1 };

	open_polled((cq_pool_config_t){ 0 });
	add(&a, look_twice, &which[0]);
	cr_assert_eq(signal_job(&a, look_twice, &which[1]), 0);
	fake_advance(&park, 100);
	cr_assert_eq(cq_pool_run_some(pool, 2), 2);
	cr_assert_eq(after[0].longest_ns, 500);
	cr_assert_eq(after[1].longest_ns, 500);
	cr_assert_eq(stats().longest_ns, 0);
	end_spawned();
}

Test(pool, an_idle_worker_has_nothing_in_hand)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().longest_ns, 0);
	fake_advance(&park, 500);
	cr_assert_eq(stats().longest_ns, 0);
	end_spawned();
}

Test(pool, statistics_fill_what_the_caller_has)
{
	struct {
		cq_pool_stats_t stats;
		char more[16];
	} longer;

	open_pool((cq_pool_config_t){ .workers_max = 6 });
	memset(&longer, 0xff, sizeof(longer));
	cq_pool_stats_sized(pool, &longer.stats, sizeof(longer));
	cr_assert_eq(longer.stats.workers_max, 6);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(longer.more[i], 0);
	memset(&longer, 0xff, sizeof(longer));
	cq_pool_stats_sized(pool, &longer.stats, offsetof(cq_pool_stats_t, workers_max));
	cr_assert_eq(longer.stats.workers_min, 0);
	cr_assert_eq(longer.stats.workers_max, UINT32_MAX);
	end_pool();
}

/* ----------------------------------------------------------------------------- errno */

static void change_errno(void *unused)
{
	(void)unused;
	errno = EILSEQ;
}

static int spawn_that_changes_errno(void *ctx, void (*body)(void *arg), void *arg)
{
	errno = EILSEQ;
	return spawn(ctx, body, arg);
}

static void stall_and_change_errno(void *unused)
{
	(void)unused;
	errno = EILSEQ;
}

#define KEEPS_ERRNO(call)							\
	do {									\
		uint64_t result_;						\
										\
		errno = EXDEV;							\
		result_ = (uint64_t)(call);					\
		(void)result_;							\
		cr_assert_eq(errno, EXDEV, #call);				\
	} while (0)

Test(pool, no_call_changes_errno)
{
	static const cq_task_ops_t ops = { run_jobs, NULL, stall_and_change_errno };
	static jobs_t own;
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ .workers_max = 1,
		.spawn = spawn_that_changes_errno, .host = &host, .idle_ns = IDLE_NS });

	KEEPS_ERRNO(cq_pool_create(&config, &pool));
	KEEPS_ERRNO(cq_task_create(pool, &job_ops, &a, 0, &a.task));
	KEEPS_ERRNO(cq_task_create(pool, &ops, &own, CQ_BY_OWNER, &own.task));
	host.err = EAGAIN;
	KEEPS_ERRNO(signal_jobs(&a, 1));
	KEEPS_ERRNO(cq_pool_wake(pool));
	host.err = 0;
	KEEPS_ERRNO(signal_job(&a, change_errno, NULL));
	AWAIT(a.done == 2);
	KEEPS_ERRNO(signal_job(&own, change_errno, NULL));
	KEEPS_ERRNO(cq_task_run_some(own.task, 1));
	cr_assert_eq(own.done, 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 1), 0);
	cq_workq_push(&a.waiting, &(job_t){ .act = change_errno }.node);
	KEEPS_ERRNO(cq_task_run_some(a.task, 1));
	fake_advance(&park, 2 * IDLE_NS);
	AWAIT(workers_are(0));
	KEEPS_ERRNO(cq_pool_work(pool, NULL, 0));
	KEEPS_ERRNO(cq_pool_set_workers(pool, 1, 2));
	KEEPS_ERRNO(cq_task_close(own.task, CQ_FOREVER));
	KEEPS_ERRNO(cq_task_close(a.task, CQ_FOREVER));
	KEEPS_ERRNO(cq_pool_destroy(pool, CQ_FOREVER));
}

Test(pool, what_runs_in_the_caller_leaves_errno_as_it_was)
{
	open_polled((cq_pool_config_t){ 0 });
	cr_assert_eq(signal_job(&a, change_errno, NULL), 0);
	KEEPS_ERRNO(cq_pool_run_some(pool, 1));
	cr_assert_eq(signal_job(&a, change_errno, NULL), 0);
	fake_advance(&park, 1);
	KEEPS_ERRNO(cq_pool_work(pool, NULL, 0));
	cr_assert_eq(a.done, 2);
	end_spawned();
}

/* ------------------------------------------------------------------- the same for all */

/*
 * One body for pools whose workers are made by the library, by the host, lent or poll: who
 * runs the tasks makes no difference to them.
 */
static atomic_bool served;

static void *poll(void *unused)
{
	while (served) {
		if (cq_pool_needs_wake(pool))
			CHECK(cq_pool_wake(pool) == 0);
		(void)cq_pool_run_some(pool, 3);
		sched_yield();
	}
	return unused;
}

static void use_pool(void)
{
	cq_pool_stats_t s;

	open_task(&a, 0);
	open_task(&b, 1);
	open_task(&c, CQ_BY_OWNER);
	for (unsigned i = 0; i < 20; i++) {
		CHECK(signal_jobs(&a, 3) == 0);
		CHECK(signal_jobs(&b, 2) == 0);
		CHECK(signal_jobs(&c, 1) == 0);
	}
	AWAIT(a.done == 60 && b.done == 40);
	CHECK(b.most == 1 && c.done == 0);
	CHECK(cq_task_run_some(c.task, 15) == 15 && c.done == 15);

	/* One that hangs holds back its own task's close alone. */
	CHECK(signal_job(&a, stay, &room) == 0);
	AWAIT(room.inside == 1);
	CHECK(signal_jobs(&b, 1) == 0);
	AWAIT(b.done == 41);
	CHECK(cq_pool_destroy(pool, 0) == EBUSY);
	close_task(&b);
	CHECK(cq_task_signal(a.task) == 0);
	CHECK(cq_task_close(a.task, 0) == ETIMEDOUT);
	gate_open(&room.leave);
	close_task(&a);
	close_task(&c);
	s = stats();
	CHECK(s.tasks == 0 && a.done == 61 && s.runs - s.empty_runs <= 61 + 41 + 15);
}

static cq_pool_config_t real_park(unsigned flags)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ .flags = flags,
		.workers_max = flags & CQ_POOL_HOSTED ? 1 : 2 });

	config.park = NULL;
	return config;
}

static void with_config(cq_pool_config_t config)
{
	CHECK(cq_pool_create(&config, &pool) == 0);
}

Test(pool, conforms_when_the_library_makes_the_workers)
{
	with_config(real_park(0));
	use_pool();
	end_pool();
}

Test(pool, conforms_when_the_host_makes_the_workers)
{
	cq_pool_config_t config = real_park(0);

	config.spawn = spawn;
	config.host = &host;
	with_config(config);
	use_pool();
	end_spawned();
}

Test(pool, conforms_when_threads_are_lent)
{
	pthread_t workers[2];

	with_config(real_park(CQ_POOL_HOSTED));
	for (unsigned i = 0; i < 2; i++)
		workers[i] = start(work, NULL);
	use_pool();
	end_pool();
	for (unsigned i = 0; i < 2; i++)
		join(workers[i]);
}

static void conforms_polled(unsigned flags)
{
	pthread_t pollers[2];

	with_config(real_park(flags | CQ_POOL_POLLED));
	served = true;
	for (unsigned i = 0; i < 2; i++)
		pollers[i] = start(poll, NULL);
	use_pool();
	served = false;
	for (unsigned i = 0; i < 2; i++)
		join(pollers[i]);
	end_pool();
}

Test(pool, conforms_when_the_host_polls)
{
	conforms_polled(0);
}

Test(pool, conforms_when_the_host_polls_and_nobody_else_runs)
{
	conforms_polled(CQ_POOL_HOSTED);
}

/* --------------------------------------------------------- asleep, and for how long */

/* golang/go#73642. Who signals sees nobody idle, and relies on the worker that lives. */
Test(pool, a_task_signalled_after_a_worker_found_nothing_is_not_slept_over)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, 0);
	at_point("worker.found_nothing", signal_b, NULL);
	run_one();
	AWAIT(b.done == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.parks, 1);
	cr_assert_eq(stats().wakes, 0);
	end_spawned();
}

Test(pool, a_task_starts_the_idle_time_anew)
{
	open_spawned((cq_pool_config_t){ .idle_ns = IDLE_NS });
	open_task(&a, 0);
	run_one();
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS / 2);
	run_one();
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, park.now + IDLE_NS);
	fake_advance(&park, IDLE_NS / 2);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_retired, 0);
	end_spawned();
}

Test(pool, an_idle_limit_beyond_the_end_of_the_clock_is_no_limit)
{
	open_spawned((cq_pool_config_t){ .idle_ns = IDLE_NS });
	open_task(&a, 0);
	fake_advance(&park, CQ_FOREVER - IDLE_NS / 2);
	run_one();
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, CQ_FOREVER);
	end_spawned();
}

static pthread_t lent;

/* Work that nobody can be made for, and a thread that comes and is slow to take it. */
static void lend_one_that_is_slow(void *unused)
{
	push_b(unused);
	at_point("workq.take", stay, &room);
	lent = start(work, NULL);
	AWAIT(room.inside == 1);
}

Test(pool, a_worker_that_comes_back_counts_for_the_peak)
{
	open_spawned((cq_pool_config_t){ .idle_ns = IDLE_NS });
	open_task(&a, 0);
	open_task(&b, 0);
	run_one();
	fake_wait_blocked(&park, 1);
	at_point("workers.retiring", lend_one_that_is_slow, NULL);
	work_until = 3 * IDLE_NS;
	fake_advance(&park, IDLE_NS);
	AWAIT(b.done == 1);
	cr_assert_eq(stats().workers_live, 2);
	gate_open(&room.leave);
	fake_advance(&park, 3 * IDLE_NS);
	join(lent);
	cr_assert_lt(stats().workers_live, 2);
	cr_assert_eq(stats().workers_peak, 2);
	end_spawned();
}

/* ---------------------------------------------------------------------------- locks */

static void check_free(pthread_mutex_t *lock)
{
	CHECK(pthread_mutex_trylock(lock) == 0);
	pthread_mutex_unlock(lock);
}

static int check_that_no_lock_is_held(void *unused)
{
	(void)unused;
	check_free(&pool->lock);
	check_free(&pool->idle.lock);
	check_free(&pool->closers.lock);
	return 0;
}

static void check_locks(void *unused)
{
	(void)check_that_no_lock_is_held(unused);
}

static int spawn_without_locks(void *ctx, void (*body)(void *arg), void *arg)
{
	check_locks(NULL);
	return spawn(ctx, body, arg);
}

Test(pool, tasks_and_hooks_are_called_with_no_lock_held)
{
	open_pool((cq_pool_config_t){ .worker_start = check_that_no_lock_is_held,
	    .worker_end = check_locks });
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, check_locks, NULL), 0);
	AWAIT(a.done == 1);
	end_pool();
}

Test(pool, hosts_are_called_with_no_lock_held)
{
	pthread_t destroyer;

	host.later = true;
	open_pool((cq_pool_config_t){ .spawn = spawn_without_locks, .host = &host });
	open_task(&a, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	close_task(&a);
	park.free_lock = &pool->lock;
	destroyer = start(destroy_now, NULL);
	fake_wait_blocked(&park, 1);
	come(1); /* and goes: the last one unparks the destroyer */
	join(destroyer);
	cr_assert_eq(park.unparks, 1);
	join(host.requests[0].thread);
}
