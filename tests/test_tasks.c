/* SPDX-License-Identifier: BSD-2-Clause */
/* Tasks: signals, runs, their limit and their turns, who may run them, and close. */
#include <criterion/criterion.h>
#include <string.h>

#include "jobs.h"

TestSuite(tasks, .timeout = 60);

/* ------------------------------------------------------------------------ making */

Test(tasks, what_a_task_can_not_do_without_is_asked_for)
{
	static const cq_task_ops_t nothing = { 0 };
	cq_task_t *t = NULL;

	open_pool((cq_pool_config_t){ 0 });
	cr_assert_eq(cq_task_create(NULL, &job_ops, &a, 0, &t), EINVAL);
	cr_assert_eq(cq_task_create(pool, NULL, &a, 0, &t), EINVAL);
	cr_assert_eq(cq_task_create(pool, &nothing, &a, 0, &t), EINVAL);
	cr_assert_eq(cq_task_create(pool, &job_ops, &a, 0, NULL), EINVAL);
	alloc.fail_in = 1;
	cr_assert_eq(cq_task_create(pool, &job_ops, &a, 0, &t), ENOMEM);
	cr_assert_null(t);
	cr_assert_eq(stats().tasks, 0);
	end_pool();
}

Test(tasks, the_memory_of_a_closed_task_is_used_again)
{
	unsigned long calls;

	open_spawned((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_task(&a, 0);
	close_task(&a);
	calls = alloc.calls;
	for (unsigned i = 0; i < 100; i++) {
		open_task(&a, i % 3);
		cr_assert_eq(signal_jobs(&a, 1), 0);
		cr_assert_eq(cq_task_run_some(a.task, 2), 1);
		/* Some are closed with their record in the stack. */
		if (i % 2 == 0)
			cr_assert_eq(cq_pool_run_some(pool, 1), 0);
		close_task(&a);
		cr_assert_eq(cq_pool_run_some(pool, 1), 0);
	}
	cr_assert_eq(alloc.calls, calls);
	cr_assert_eq(a.done, 100);
	end_spawned();
}

Test(tasks, many_tasks_need_no_more_threads)
{
	enum { MANY = 200 };
	static jobs_t many[MANY];

	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	for (unsigned i = 0; i < MANY; i++) {
		open_task(&many[i], 0);
		cr_assert_eq(signal_jobs(&many[i], 1), 0);
	}
	for (unsigned i = 0; i < MANY; i++)
		AWAIT(many[i].done == 1);
	cr_assert_leq(requested(), 2);
	for (unsigned i = 0; i < MANY; i++)
		close_task(&many[i]);
	end_spawned();
}

/* --------------------------------------------------------------------- signals, runs */

static void signal_again(void *unused)
{
	(void)unused;
	CHECK(cq_task_signal(a.task) == 0);
}

static void signal_job_again(void *unused)
{
	(void)unused;
	CHECK(signal_jobs(&a, 1) == 0);
}

/* A function that takes one piece and asks for no more: a signal that was lost leaves a job. */
static void run_one_job(cq_run_t *run, void *arg)
{
	jobs_t *q = arg;
	cq_node_t *node = cq_workq_try_pop(&q->waiting);

	enter_jobs(q);
	if (node != NULL) {
		cq_run_piece(run, job_of(node));
		run_job(q, job_of(node));
		cq_run_piece(run, NULL);
	}
	leave_jobs();
}

static const cq_task_ops_t one_job_ops = { run_one_job, NULL, NULL };

static void open_one_job_task(jobs_t *q, uint32_t parallel)
{
	q->parallel = parallel;
	CHECK(cq_task_create(pool, &one_job_ops, q, parallel, &q->task) == 0);
}

Test(tasks, after_each_signal_the_function_is_called_once_more)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_one_job_task(&a, 0);
	/* In the run that it is to follow, just after that was begun, and just as it ends. */
	cr_assert_eq(signal_job(&a, signal_job_again, NULL), 0);
	AWAIT(a.done == 2);
	at_point("tasks.begin", signal_job_again, NULL);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	/* Asleep: the end of that run is not the one at which the next is signalled. */
	AWAIT(a.calls >= 3 && stats().workers_idle == stats().workers_live);
	at_point("tasks.ended", signal_job_again, NULL);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.calls >= 5);
	end_spawned();
}

Test(tasks, a_task_that_waits_is_not_run_for_each_signal)
{
	open_spawned((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_task(&a, 0);
	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(cq_task_signal(a.task), 0);
	cr_assert_eq(stats().tasks_waiting, 1);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 0);
	cr_assert_eq(a.calls, 1);
	end_spawned();
}

/* Who pushes it may be stopped before it wakes anybody. */
Test(tasks, a_signal_wakes_though_another_has_signalled)
{
	static jobs_t own;

	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	CHECK(cq_task_create(pool, &job_ops, &own, 0, &own.task) == 0);
	cr_assert_eq(signal_jobs(&own, 1), 0);
	AWAIT(own.done == 1);
	fake_wait_blocked(&park, 1);
	add(&a, NULL, NULL);
	a.task->word |= TASK_IN;
	cq_workq_push(&pool->waiting[pool->page & 1], &a.task->node);
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(a.done == 1);
	close_task(&own);
	end_spawned();
}

static atomic_uint meeting;

static void wait_for_the_other(void *unused)
{
	(void)unused;
	meeting++;
	AWAIT(meeting == 3);
}

Test(tasks, what_is_left_is_run_by_others_while_the_piece_runs)
{
	open_spawned((cq_pool_config_t){ .workers_max = 3 });
	open_task(&a, 0);
	for (unsigned i = 0; i < 2; i++)
		add(&a, wait_for_the_other, NULL);
	cr_assert_eq(signal_job(&a, wait_for_the_other, NULL), 0);
	AWAIT(a.done == 3);
	cr_assert_eq(a.most, 3);
	end_spawned();
}

static void wake_for_many(uint32_t processors, const uint32_t *coming)
{
	open_spawned((cq_pool_config_t){ .workers_min = 12, .workers_max = 12 });
	pool->processors = processors;
	open_task(&a, 0);
	fake_wait_blocked(&park, 12);
	park.leave = &room.leave;
	for (unsigned i = 0; i < 15; i++)
		add(&a, NULL, NULL);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(cq_task_run_some(a.task, 1), 1);
		cr_assert_eq(stats().workers_coming, coming[i]);
	}
	gate_open(&room.leave);
	AWAIT(a.done == 15);
	end_spawned();
}

/* A tree: each run that begins wakes two more, whoever is on the way, and some for those; but no more than can run. */
Test(tasks, many_pieces_that_are_left_wake_two_for_each_run_that_begins)
{
	wake_for_many(9, (const uint32_t[]){ 4, 4 + 1 + 2, 9 });
}

Test(tasks, on_few_processors_many_pieces_wake_four)
{
	wake_for_many(2, (const uint32_t[]){ 4, 4, 4 });
}

/* Each of their pieces is the first of a run. */
Test(tasks, beside_a_task_that_waits_no_more_than_four_are_woken)
{
	open_spawned((cq_pool_config_t){ .workers_min = 7, .workers_max = 7 });
	pool->processors = 64;
	open_task(&a, 0);
	open_task(&b, 0);
	fake_wait_blocked(&park, 7);
	park.leave = &room.leave;
	cr_assert_eq(signal_jobs(&b, 1), 0);
	for (unsigned i = 0; i < 9; i++)
		add(&a, NULL, NULL);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(cq_task_run_some(a.task, 1), 1);
		cr_assert_eq(stats().workers_coming, 4);
	}
	gate_open(&room.leave);
	AWAIT(a.done == 9 && b.done == 1);
	end_spawned();
}

/* They may be short, and gone before those come. */
Test(tasks, later_pieces_of_a_run_wake_four)
{
	open_spawned((cq_pool_config_t){ .workers_min = 7, .workers_max = 7 });
	pool->processors = 64;
	open_task(&a, 0);
	fake_wait_blocked(&park, 7);
	park.leave = &room.leave;
	for (unsigned i = 0; i < 12; i++)
		add(&a, NULL, NULL);
	cr_assert_eq(cq_task_run_some(a.task, 4), 4);
	cr_assert_eq(stats().workers_coming, 4);
	gate_open(&room.leave);
	AWAIT(a.done == 12);
	end_spawned();
}

static atomic_uint pushes;

static void count_pushes(const char *where, void *unused)
{
	(void)unused;
	pushes += strcmp(where, "tasks.push") == 0;
}

Test(tasks, the_record_of_many_pieces_stays_for_all_who_come)
{
	open_spawned((cq_pool_config_t){ .workers_min = 4, .workers_max = 4 });
	open_task(&a, 0);
	fake_wait_blocked(&park, 4);
	at_every_point(count_pushes, NULL);
	for (unsigned i = 0; i < 7; i++)
		add(&a, stay, &room);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 4);
	cr_assert_eq(stats().tasks_waiting, 1);
	cr_assert_eq(pushes, 2); /* by the signal, and by the first who popped it */
	gate_open(&room.leave);
	AWAIT(a.done == 8);
	end_spawned();
}

Test(tasks, a_record_whose_pieces_are_gone_is_popped)
{
	open_spawned((cq_pool_config_t){ .workers_min = 4, .workers_max = 4 });
	open_task(&a, 0);
	fake_wait_blocked(&park, 4);
	cr_assert_eq(signal_jobs(&a, 100), 0);
	AWAIT(a.done == 100);
	fake_wait_blocked(&park, 4);
	cr_assert_eq(stats().tasks_waiting, 0);
	cr_assert_eq(a.task->word, 0);
	end_spawned();
}

/* A task that always has many holds no other back. */
Test(tasks, who_comes_takes_turns_though_a_record_stays)
{
	open_spawned((cq_pool_config_t){ .workers_min = 2, .workers_max = 2 });
	open_task(&a, 0);
	open_task(&b, 0);
	fake_wait_blocked(&park, 2);
	for (unsigned i = 0; i < 7; i++)
		add(&a, stay, &room);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	gate_open(&room.leave);
	AWAIT(b.done == 1 && a.done == 8);
	end_spawned();
}

Test(tasks, no_piece_that_is_left_wakes_nobody)
{
	open_spawned((cq_pool_config_t){ .workers_min = 1, .workers_max = 1 });
	open_task(&a, 0);
	fake_wait_blocked(&park, 1);
	park.leave = &room.leave;
	add(&a, NULL, NULL);
	cr_assert_eq(cq_task_run_some(a.task, 1), 1);
	cr_assert_eq(stats().workers_coming, 0);
	cr_assert_eq(stats().tasks_waiting, 0);
	gate_open(&room.leave);
	end_spawned();
}

Test(tasks, few_pieces_that_are_left_wake_one)
{
	open_spawned((cq_pool_config_t){ .workers_min = 4, .workers_max = 4 });
	open_task(&a, 0);
	fake_wait_blocked(&park, 4);
	park.leave = &room.leave;
	for (unsigned i = 0; i < 4; i++)
		add(&a, NULL, NULL);
	cr_assert_eq(cq_task_run_some(a.task, 1), 1);
	cr_assert_eq(stats().workers_coming, 1);
	gate_open(&room.leave);
	AWAIT(a.done == 4);
	end_spawned();
}

/* ---------------------------------------------------------------- the parallel limit */

Test(tasks, a_limit_of_one_makes_a_serial_task)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4 });
	open_task(&a, 1);
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(signal_jobs(&a, 2), 0);
	AWAIT(a.done == 200);
	cr_assert_eq(a.most, 1);
	end_spawned();
}

Test(tasks, no_more_runs_at_once_than_the_limit_and_all_others_wait)
{
	open_spawned((cq_pool_config_t){ .workers_max = 4 });
	open_task(&a, 2);
	open_task(&b, 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	AWAIT(b.done == 1);
	cr_assert_eq(room.inside, 2);
	gate_open(&room.leave);
	AWAIT(a.done == 4);
	cr_assert_eq(a.most, 2);
	end_spawned();
}

Test(tasks, a_signal_at_the_limit_is_not_lost)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_one_job_task(&a, 1);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(cq_task_signal(a.task), 0);
	cr_assert_eq(stats().tasks_waiting, 0);
	gate_open(&room.leave);
	AWAIT(a.done == 2);
	AWAIT(a.calls == 2);
	end_spawned();
}

static void *run_some_of_a(void *unused)
{
	CHECK(cq_task_run_some(a.task, 1) == 1);
	return unused;
}

Test(tasks, runs_in_callers_count_towards_the_limit)
{
	pthread_t caller;

	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 1);
	add(&a, stay, &room);
	caller = start(run_some_of_a, NULL);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(requested(), 0); /* nobody is needed for what may not run */
	cr_assert_eq(cq_task_run_some(a.task, 1), 0);
	gate_open(&room.leave);
	join(caller);
	/* The end of its run wakes somebody. */
	AWAIT(a.done == 2);
	cr_assert_eq(a.most, 1);
	end_spawned();
}

static void begin_in_the_caller(void *thread)
{
	*(pthread_t *)thread = start(run_some_of_a, NULL);
	AWAIT(room.inside == 1);
}

Test(tasks, a_record_that_is_popped_at_the_limit_is_pushed_again_by_the_run_that_ends)
{
	pthread_t caller;

	open_spawned((cq_pool_config_t){ 0 });
	open_one_job_task(&a, 1);
	add(&a, NULL, NULL);
	at_point("tasks.begin", begin_in_the_caller, &caller);
	cr_assert_eq(signal_job(&a, stay, &room), 0); /* the newest is taken first */
	AWAIT(room.inside == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(a.done, 0);
	gate_open(&room.leave);
	AWAIT(a.done == 2);
	join(caller);
	end_spawned();
}

/* ------------------------------------------------------------------------ by the owner */

Test(tasks, no_worker_runs_a_task_of_its_owner)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, CQ_BY_OWNER);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&a, 3), 0);
	cr_assert_eq(requested(), 0);
	cr_assert_eq(stats().tasks_waiting, 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	AWAIT(b.done == 1);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 0);
	cr_assert_eq(a.calls, 0);
	cr_assert_eq(cq_task_run_some(a.task, 2), 2);
	cr_assert_eq(cq_task_run_some(a.task, 2), 1);
	cr_assert_eq(cq_task_run_some(a.task, 2), 0);
	cr_assert_eq(cq_pool_wake(pool), 0);
	end_spawned();
}

Test(tasks, an_owner_is_told_once_of_what_was_signalled_since_its_last_run)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, CQ_BY_OWNER);
	cr_assert_eq(signal_jobs(&a, 3), 0);
	cr_assert_eq(a.stalled, 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(a.stalled, 1);
	/* What a run leaves, its owner knows of. */
	cr_assert_eq(cq_task_run_some(a.task, 1), 1);
	cr_assert_eq(a.stalled, 1);
	cr_assert_eq(cq_task_signal(a.task), 0);
	cr_assert_eq(a.stalled, 2);
	cr_assert_eq(cq_task_run_some(a.task, 9), 3);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(a.stalled, 3);
	end_spawned();
}

Test(tasks, an_owner_may_close_a_task_that_it_has_not_run)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, CQ_BY_OWNER);
	cr_assert_eq(signal_jobs(&a, 3), 0);
	close_task(&a);
	open_task(&a, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 4);
	end_spawned();
}

/* -------------------------------------------------------------------------- run_some */

Test(tasks, task_run_some_runs_as_many_pieces_as_were_asked_for)
{
	open_spawned((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&a, 5), 0);
	cr_assert_eq(signal_jobs(&b, 5), 0);
	cr_assert_eq(cq_task_run_some(a.task, 0), 0);
	cr_assert_eq(cq_task_run_some(a.task, 3), 3);
	cr_assert_eq(cq_task_run_some(a.task, SIZE_MAX), 2);
	cr_assert_eq(b.done, 0);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 5);
	end_spawned();
}

/* Whether others wait makes no difference to who runs one task. */
Test(tasks, task_run_some_goes_on_in_one_run)
{
	open_spawned((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	for (unsigned i = 0; i < 5; i++)
		add(&a, NULL, NULL);
	cr_assert_eq(cq_task_run_some(a.task, 5), 5);
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(cq_pool_run_some(pool, SIZE_MAX), 1);
	end_spawned();
}

Test(tasks, run_some_of_one_task_runs_work_that_nobody_signalled)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	add(&a, NULL, NULL);
	cr_assert_eq(cq_task_run_some(a.task, 7), 1);
	cr_assert_eq(requested(), 0);
	end_spawned();
}

/* ----------------------------------------------------------------------- may_continue */

static unsigned answers[8], nanswers;

static void ask(cq_run_t *run, void *arg)
{
	jobs_t *q = arg;
	cq_node_t *node = cq_workq_try_pop(&q->waiting);

	enter_jobs(q);
	if (node != NULL) {
		cq_run_piece(run, job_of(node));
		run_job(q, job_of(node));
		cq_run_piece(run, NULL);
		answers[nanswers++] = cq_run_may_continue(run);
	}
	leave_jobs();
}

static const cq_task_ops_t asking_ops = { ask, NULL, NULL };

static void open_asking_task(jobs_t *q)
{
	CHECK(cq_task_create(pool, &asking_ops, q, 0, &q->task) == 0);
}

Test(tasks, a_run_may_continue_while_no_other_task_waits)
{
	open_spawned((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_asking_task(&a);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(cq_pool_run_some(pool, 2), 1);
	cr_assert_eq(answers[0], true);
	/* Its own record doesn't count. */
	cr_assert_eq(signal_job(&a, signal_again, NULL), 0);
	cr_assert_eq(cq_pool_run_some(pool, 2), 1);
	cr_assert_eq(answers[1], true);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(cq_pool_run_some(pool, 1), 1);
	cr_assert_eq(a.done, 3); /* the newest first */
	cr_assert_eq(answers[2], false);
	cr_assert_eq(cq_pool_run_some(pool, 2), 1);
	end_spawned();
}

static void *close_a(void *unused)
{
	CHECK(cq_task_close(a.task, CQ_FOREVER) == 0);
	return unused;
}

static pthread_t closer;

static bool is_closed(const cq_task_t *t)
{
	return (cq_u64_load_relaxed(&t->word) & TASK_CLOSED) != 0;
}

static void begin_to_close(void *unused)
{
	(void)unused;
	closer = start(close_a, NULL);
	AWAIT(is_closed(a.task));
}

Test(tasks, a_run_of_a_task_that_is_closed_may_not_continue)
{
	open_spawned((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_asking_task(&a);
	cr_assert_eq(signal_job(&a, begin_to_close, NULL), 0);
	cr_assert_eq(cq_pool_run_some(pool, 5), 1);
	cr_assert_eq(answers[0], false);
	join(closer);
	open_asking_task(&a);
	add(&a, begin_to_close, NULL);
	cr_assert_eq(cq_task_run_some(a.task, 5), 1);
	cr_assert_eq(answers[1], false);
	join(closer);
	a.task = NULL;
	end_spawned();
}

/* ------------------------------------------------------------------------------ turns */

static unsigned who[64], nwho;

static void note_who(void *which)
{
	CHECK(nwho < 64);
	who[nwho++] = (unsigned)(uintptr_t)which;
}

/* Both have more than can be run while the other waits: nobody waits for long. */
Test(tasks, two_floods_on_one_worker_take_turns)
{
	host.later = true;
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, 0);
	for (unsigned i = 0; i < 20; i++) {
		add(&a, note_who, (void *)1);
		add(&b, note_who, (void *)2);
	}
	cr_assert_eq(cq_task_signal(a.task), 0);
	cr_assert_eq(cq_task_signal(b.task), 0);
	come_at_once();
	AWAIT(a.done == 20 && b.done == 20);
	for (unsigned i = 0; i + 2 < 38; i += 2)
		cr_assert_neq(who[i], who[i + 1], "%u", i);
	end_spawned();
}

Test(tasks, three_floods_on_one_worker_take_turns)
{
	unsigned last[4] = { 0 };

	host.later = true;
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, 0);
	open_task(&c, 0);
	for (unsigned i = 0; i < 20; i++) {
		add(&a, note_who, (void *)1);
		add(&b, note_who, (void *)2);
		add(&c, note_who, (void *)3);
	}
	cr_assert_eq(cq_task_signal(a.task), 0);
	cr_assert_eq(cq_task_signal(b.task), 0);
	cr_assert_eq(cq_task_signal(c.task), 0);
	come_at_once();
	AWAIT(a.done == 20 && b.done == 20 && c.done == 20);
	/* Between two runs of one there are at most two of each other. */
	for (unsigned i = 0; i < 54; i++) {
		cr_assert_leq(i - last[who[i]], 5);
		last[who[i]] = i;
	}
	end_spawned();
}

Test(tasks, a_flood_does_not_hold_back_one_that_comes_later)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, 0);
	add(&a, stay, &room);
	for (unsigned i = 0; i < 40; i++)
		add(&a, NULL, NULL);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_job(&b, stay, &room2), 0);
	gate_open(&room.leave);
	AWAIT(room2.inside == 1);
	cr_assert_leq(a.done, 3);
	gate_open(&room2.leave);
	AWAIT(a.done == 42);
	end_spawned();
}

/* ------------------------------------------------------------------------------ close */

Test(tasks, close_waits_for_the_runs_of_its_task)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	closer = start(close_a, NULL);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(a.running, 2);
	gate_open(&room.leave);
	join(closer);
	cr_assert_eq(a.running, 0);
	cr_assert_eq(a.done, 2);
	a.task = NULL;
	end_spawned();
}

static gate_t told = GATE_INITIALIZER, may_return = GATE_INITIALIZER;

static void hang_in_stalled(void *unused)
{
	(void)unused;
	gate_open(&told);
	gate_wait(&may_return);
}

static void *signal_to_nobody(void *unused)
{
	CHECK(signal_jobs(&a, 1) == EAGAIN);
	return unused;
}

Test(tasks, close_waits_for_who_tells_it_that_the_pool_is_stalled)
{
	static const cq_task_ops_t ops = { run_jobs, NULL, hang_in_stalled };
	pthread_t signaller;

	open_spawned((cq_pool_config_t){ 0 });
	host.err = EAGAIN;
	cr_assert_eq(cq_task_create(pool, &ops, &a, 0, &a.task), 0);
	signaller = start(signal_to_nobody, NULL);
	gate_wait(&told);
	cr_assert_eq(cq_task_close(a.task, park.now), ETIMEDOUT);
	closer = start(close_a, NULL);
	fake_wait_blocked(&park, 1);
	gate_open(&may_return);
	join(signaller);
	join(closer);
	a.task = NULL;
	end_spawned();
}

Test(tasks, close_waits_for_no_other_tasks_runs)
{
	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	close_task(&b); /* though no worker is free to pop it */
	cr_assert_eq(b.done, 0);
	cr_assert_eq(cq_task_close(a.task, 0), ETIMEDOUT);
	gate_open(&room.leave);
	end_spawned();
}

Test(tasks, close_waits_for_runs_in_callers)
{
	pthread_t caller;

	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, CQ_BY_OWNER);
	add(&a, stay, &room);
	caller = start(run_some_of_a, NULL);
	AWAIT(room.inside == 1);
	cr_assert_eq(cq_task_close(a.task, 0), ETIMEDOUT);
	closer = start(close_a, NULL);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(caller);
	join(closer);
	a.task = NULL;
	end_spawned();
}

Test(tasks, a_close_that_times_out_leaves_the_task_closed)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(cq_task_close(a.task, 0), ETIMEDOUT);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(stats().tasks_waiting, 0);
	cr_assert_eq(cq_task_run_some(a.task, 1), 0);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), EBUSY); /* it is open to that */
	cr_assert_eq(cq_task_close(a.task, park.now), ETIMEDOUT);
	gate_open(&room.leave);
	close_task(&a);
	cr_assert_eq(a.done, 1);
	end_spawned();
}

static void *close_a_late(void *unused)
{
	CHECK(cq_task_close(a.task, 5 * IDLE_NS) == ETIMEDOUT);
	return unused;
}

Test(tasks, a_close_waits_until_its_deadline)
{
	open_spawned((cq_pool_config_t){ .workers_max = 1 });
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	closer = start(close_a_late, NULL);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, 5 * IDLE_NS);
	fake_disturb(&park); /* a park that returns for nothing */
	fake_wait_blocked(&park, 1);
	fake_advance(&park, 5 * IDLE_NS);
	join(closer);
	gate_open(&room.leave);
	end_spawned();
}

static void *close_task_of(void *q)
{
	CHECK(cq_task_close(((jobs_t *)q)->task, CQ_FOREVER) == 0);
	return NULL;
}

Test(tasks, of_several_closers_each_returns_with_its_own_task)
{
	pthread_t closers[2];

	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_task(&a, 0);
	open_task(&b, 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	cr_assert_eq(signal_job(&b, stay, &room2), 0);
	AWAIT(room.inside == 1 && room2.inside == 1);
	closers[1] = start(close_task_of, &b);
	fake_wait_blocked(&park, 1);
	closers[0] = start(close_task_of, &a); /* the newest: who wakes one wakes this one */
	fake_wait_blocked(&park, 2);
	gate_open(&room2.leave);
	join(closers[1]);
	cr_assert_eq(a.running, 1);
	gate_open(&room.leave);
	join(closers[0]);
	a.task = b.task = NULL;
	end_spawned();
}

Test(tasks, no_run_begins_after_a_close)
{
	host.later = true;
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	cr_assert_eq(signal_jobs(&a, 3), 0);
	close_task(&a);
	open_task(&b, 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	come_at_once();
	AWAIT(b.done == 1);
	cr_assert_eq(a.calls, 0);
	end_spawned();
}

static void close_before_it_begins(void *unused)
{
	(void)unused;
	CHECK(cq_task_close(a.task, CQ_FOREVER) == 0);
}

Test(tasks, a_task_that_is_closed_between_pop_and_run_is_not_run)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, 0);
	at_point("tasks.begin", close_before_it_begins, NULL);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(a.calls, 0);
	/* And its record is free. */
	open_task(&c, 0);
	cr_assert_eq(c.task, a.task);
	a.task = NULL;
	end_spawned();
}

static void signal_closed(void *unused)
{
	begin_to_close(unused);
	CHECK(cq_task_signal(a.task) == 0);
	CHECK(stats().tasks_waiting == 0);
}

Test(tasks, a_signal_of_a_closed_task_does_nothing)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 1);
	cr_assert_eq(signal_job(&a, signal_closed, NULL), 0);
	AWAIT(a.done == 1);
	join(closer);
	cr_assert_eq(a.calls, 1);
	a.task = NULL;
	end_spawned();
}

Test(tasks, work_signalled_at_the_limit_of_a_closed_task_is_not_run)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_one_job_task(&a, 1);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	cr_assert_eq(cq_task_close(a.task, 0), ETIMEDOUT);
	gate_open(&room.leave);
	close_task(&a);
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(stats().tasks_waiting, 0);
	end_spawned();
}

/* The last run's end, between its step and the wake: the closer sleeps, and is woken. */
static atomic_uint closings;

static void close_and_wait(void *unused)
{
	begin_to_close(unused);
	closings++;
}

Test(tasks, the_end_of_the_last_run_wakes_the_closer)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	at_point("tasks.ended", close_and_wait, NULL);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(closings == 1);
	join(closer);
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, close_and_wait, NULL), 0);
	AWAIT(closings == 2);
	join(closer);
	a.task = NULL;
	end_spawned();
}

/* ------------------------------------------------------------------ what is it within */

static void check_current(void *unused)
{
	(void)unused;
	CHECK(cq_task_is_current(a.task));
	CHECK(!cq_task_is_current(b.task));
}

static void check_both_current(void *unused)
{
	(void)unused;
	CHECK(cq_task_is_current(a.task));
	CHECK(cq_task_is_current(b.task));
}

static void run_b_within(void *unused)
{
	check_current(unused);
	CHECK(cq_task_run_some(b.task, 1) == 1);
	check_current(unused);
}

Test(tasks, a_thread_is_within_each_run_that_it_is_in)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	open_task(&b, CQ_BY_OWNER);
	cr_assert_not(cq_task_is_current(a.task));
	cr_assert_eq(signal_job(&a, check_current, NULL), 0);
	add(&b, check_both_current, NULL);
	cr_assert_eq(signal_job(&a, run_b_within, NULL), 0);
	AWAIT(a.done == 2 && b.done == 1);
	cr_assert_not(cq_task_is_current(a.task));
	end_spawned();
}

static cq_pool_t *other_pool;
static jobs_t other;

static void use_another_pool(void *unused)
{
	(void)unused;
	CHECK(signal_jobs(&other, 1) == 0);
	CHECK(cq_pool_run_some(other_pool, 1) == 1);
	CHECK(cq_task_close(other.task, CQ_FOREVER) == 0);
	CHECK(cq_pool_destroy(other_pool, CQ_FOREVER) == 0);
}

Test(tasks, a_run_may_wait_for_another_pool)
{
	cq_pool_config_t config = { .flags = CQ_POOL_POLLED };

	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	cr_assert_eq(cq_pool_create(&config, &other_pool), 0);
	cr_assert_eq(cq_task_create(other_pool, &job_ops, &other, 0, &other.task), 0);
	cr_assert_eq(signal_job(&a, use_another_pool, NULL), 0);
	AWAIT(a.done == 1);
	cr_assert_eq(other.done, 1);
	end_spawned();
}

/* ------------------------------------------------------------------- memory's order */

static struct {
	unsigned long before, in_run; /* plain, as what they order is */
} plain;

static void copy(void *unused)
{
	(void)unused;
	plain.in_run += plain.before;
}

/* ThreadSanitizer sees what is not ordered; see tests/stress_pool.c for the rest. */
Test(tasks, what_was_done_before_a_signal_is_seen_in_the_run_and_what_that_did_after_a_close)
{
	open_spawned((cq_pool_config_t){ 0 });
	for (unsigned i = 1; i <= 50; i++) {
		open_task(&a, 0);
		plain.before = i;
		cr_assert_eq(signal_job(&a, copy, NULL), 0);
		AWAIT(a.done == i);
		close_task(&a);
		cr_assert_eq(plain.in_run, i * (i + 1) / 2);
	}
	end_spawned();
}

/* ------------------------------------------------------------------ in two pools at once */

static void check_both_pools(void *unused)
{
	(void)unused;
	CHECK(cq_pool_is_current(other_pool) && cq_pool_is_current(pool));
}

static void run_within_another_pool(void *unused)
{
	CHECK(!cq_pool_is_current(other_pool) && cq_pool_is_current(pool));
	CHECK(signal_job(&other, check_both_pools, NULL) == 0);
	CHECK(cq_pool_run_some(other_pool, 1) == 1);
	CHECK(!cq_pool_is_current(other_pool) && cq_pool_is_current(pool));
	(void)unused;
}

Test(tasks, a_run_within_one_of_another_pool_is_in_both)
{
	cq_pool_config_t config = { .flags = CQ_POOL_POLLED };

	open_spawned((cq_pool_config_t){ 0 });
	open_task(&a, 0);
	cr_assert_eq(cq_pool_create(&config, &other_pool), 0);
	cr_assert_eq(cq_task_create(other_pool, &job_ops, &other, 0, &other.task), 0);
	cr_assert_not(cq_pool_is_current(pool));
	cr_assert_eq(signal_job(&a, run_within_another_pool, NULL), 0);
	AWAIT(a.done == 1);
	cr_assert_eq(cq_task_close(other.task, CQ_FOREVER), 0);
	cr_assert_eq(cq_pool_destroy(other_pool, CQ_FOREVER), 0);
	end_spawned();
}
