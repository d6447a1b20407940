/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() in a process with pools: what the child has of tasks, runs and workers, and what the
 * handlers of others may call meanwhile. Each process counts for itself. A check that
 * fails in the child aborts it, and the parent sees that.
 */
#include <criterion/criterion.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jobs.h"

TestSuite(pool_fork, .timeout = 60);

/* What the handlers of another library do; nothing by default. */
static void (*in_prepare)(void), (*in_parent)(void), (*in_child)(void);

static void call(void (*hook)(void))
{
	if (hook != NULL)
		hook();
}

static void prepare(void) { call(in_prepare); }
static void parent(void) { call(in_parent); }
static void child(void) { call(in_child); }

/* Before the first pool is made: they run while the forking thread holds its locks. */
static void register_others(void)
{
	CHECK(pthread_atfork(prepare, parent, child) == 0);
}

static cq_pool_config_t config_of(unsigned flags)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ .flags = flags,
		.workers_max = 2 });

	config.park = NULL; /* a child has not the threads that block in the fake */
	return config;
}

static void make(unsigned flags)
{
	cq_pool_config_t config = config_of(flags);

	CHECK(cq_pool_create(&config, &pool) == 0);
}

static void make_managed(void) { make(0); open_task(&a, 0); open_task(&b, 0); }
static void make_polled(void) { make(CQ_POOL_POLLED); open_task(&a, 0); open_task(&b, 0); }

/* A child's memory is not all freed: what other threads were about to use is nobody's. */
static void end_child(void)
{
	jobs_t *const all[] = { &a, &b, &c };

	for (int i = 0; i < 3; i++)
		if (all[i]->task != NULL)
			close_task(all[i]);
	CHECK(cq_pool_destroy(pool, wait_limit()) == 0);
	_exit(0);
}

static void check_child(pid_t pid)
{
	int status;

	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Forks; the child runs body and ends its pool. */
static void in_a_child(void (*body)(void))
{
	pid_t pid;

	alarm(30); /* for a hang in a handler */
	if ((pid = fork()) == 0) {
		alarm(30);
		body();
		end_child();
	}
	check_child(pid);
}

/* ------------------------------------------------------------- what the child has */

static void run_all(void)
{
	CHECK(cq_pool_run_some(pool, SIZE_MAX) == 3);
	CHECK(a.done == 2 && b.done == 1);
}

Test(pool_fork, what_was_signalled_runs_in_each_process, .init = make_polled)
{
	cr_assert_eq(signal_jobs(&a, 2), 0);
	cr_assert_eq(signal_jobs(&b, 1), 0);
	in_a_child(run_all);
	cr_assert_eq(a.done + b.done, 0);
	run_all();
	end_pool();
}

static void use_new_workers(void)
{
	CHECK(stats().workers_live == 0 && stats().workers_idle == 0 && stats().workers_coming == 0);
	CHECK(signal_jobs(&a, 3) == 0);
	AWAIT(a.done == 4);
	CHECK(stats().workers_live >= 1);
}

Test(pool_fork, a_child_makes_workers_of_its_own, .init = make_managed)
{
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	in_a_child(use_new_workers);
	cr_assert_eq(signal_jobs(&a, 3), 0);
	AWAIT(a.done == 4);
	end_pool();
}

static void wake_for_all(void)
{
	CHECK(stats().tasks_waiting == 2); /* each that is open, whatever it had */
	CHECK(cq_pool_wake(pool) == 0);
	AWAIT(a.done == 1);
	AWAIT(stats().tasks_waiting == 0);
	AWAIT(a.calls >= 1 && b.calls >= 1);
}

Test(pool_fork, each_open_task_is_signalled_anew_in_the_child, .init = make_managed)
{
	add(&a, NULL, NULL); /* its producer is about to signal */
	close_task(&b);
	open_task(&b, 1);
	open_task(&c, CQ_BY_OWNER);
	in_a_child(wake_for_all);
	cr_assert_eq(a.done, 0);
	end_pool();
}

static void run_as_the_owner(void)
{
	CHECK(cq_task_run_some(c.task, 9) == 2);
	CHECK(cq_pool_run_some(pool, 9) == 0);
}

Test(pool_fork, a_task_of_its_owner_is_so_in_the_child, .init = make_polled)
{
	open_task(&c, CQ_BY_OWNER);
	cr_assert_eq(signal_jobs(&c, 2), 0);
	in_a_child(run_as_the_owner);
	run_as_the_owner();
	end_pool();
}

/* ---------------------------------------------------------------- what others had in hand */

static job_t *held;

static void others_are_lost(void)
{
	CHECK(a.lost == 1 && held->lost == 1);
	CHECK(stats().workers_running == 0 && stats().workers_live == 0);
	CHECK(signal_jobs(&a, 1) == 0);
	AWAIT(a.done == 1);
}

Test(pool_fork, what_a_lost_worker_had_in_hand_goes_to_lost, .init = make_managed)
{
	held = add(&a, stay, &room);
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(room.inside == 1);
	in_a_child(others_are_lost);
	cr_assert_eq(a.lost, 0);
	gate_open(&room.leave);
	AWAIT(a.done == 1);
	end_pool();
}

static void *run_one_of_a(void *unused)
{
	CHECK(cq_task_run_some(a.task, 1) == 1);
	return unused;
}

Test(pool_fork, what_a_lost_caller_of_run_some_had_in_hand_goes_to_lost, .init = make_managed)
{
	pthread_t caller;

	held = add(&a, stay, &room);
	caller = start(run_one_of_a, NULL);
	AWAIT(room.inside == 1);
	in_a_child(others_are_lost);
	gate_open(&room.leave);
	join(caller);
	end_pool();
}

static void requeue(void *arg, void *piece)
{
	jobs_t *q = arg;
	job_t *job = piece;

	q->lost++;
	job->act = NULL;
	job->ran = 0;
	cq_workq_push(&q->waiting, &job->node);
	CHECK(cq_task_signal(q->task) == 0);
}

static const cq_task_ops_t requeuing_ops = { run_jobs, requeue, NULL };

static void the_lost_piece_runs_again(void)
{
	CHECK(c.lost == 1);
	c.running = 0;
	CHECK(cq_pool_wake(pool) == 0);
	AWAIT(c.done == 1 && held->ran == 1);
}

Test(pool_fork, lost_may_signal, .init = make_managed)
{
	CHECK(cq_task_create(pool, &requeuing_ops, &c, 0, &c.task) == 0);
	held = add(&c, stay, &room);
	cr_assert_eq(cq_task_signal(c.task), 0);
	AWAIT(room.inside == 1);
	in_a_child(the_lost_piece_runs_again);
	gate_open(&room.leave);
	AWAIT(c.done == 1);
	end_pool();
}

static void the_limit_is_free(void)
{
	CHECK(c.lost == 1);
	c.running = 0; /* the test's own count */
	CHECK(cq_pool_wake(pool) == 0);
	AWAIT(c.done == 1);
}

/* The run that would have pushed it is that of a lost worker. */
Test(pool_fork, what_was_signalled_at_the_limit_runs_in_the_child, .init = make_managed)
{
	open_task(&c, 1);
	cr_assert_eq(signal_job(&c, stay, &room), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&c, 1), 0);
	in_a_child(the_limit_is_free);
	gate_open(&room.leave);
	AWAIT(c.done == 2);
	end_pool();
}

static gate_t popped = GATE_INITIALIZER;

static void stop_at_begin(void *unused)
{
	(void)unused;
	gate_open(&popped);
	gate_wait(&room.leave);
}

static void it_is_signalled_anew(void)
{
	CHECK(cq_pool_wake(pool) == 0);
	AWAIT(a.done == 1);
}

Test(pool_fork, a_task_that_a_lost_worker_had_popped_runs_in_the_child, .init = make_managed)
{
	at_point("tasks.begin", stop_at_begin, NULL);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	gate_wait(&popped);
	in_a_child(it_is_signalled_anew);
	gate_open(&room.leave);
	AWAIT(a.done == 1);
	end_pool();
}

static void *signal_a(void *unused)
{
	CHECK(signal_jobs(&a, 1) == 0);
	return unused;
}

Test(pool_fork, a_task_that_was_about_to_be_pushed_runs_in_the_child, .init = make_managed)
{
	pthread_t producer;

	at_point("tasks.push", stop_at_begin, NULL);
	producer = start(signal_a, NULL);
	gate_wait(&popped);
	in_a_child(it_is_signalled_anew);
	gate_open(&room.leave);
	join(producer);
	AWAIT(a.done == 1);
	end_pool();
}

/* ------------------------------------------------------------ the thread that forks */

static pid_t forked = -1;

/* In the child only the thread that forked is left: another ends the pool there. */
static void *end_in_the_child(void *unused)
{
	end_child();
	return unused;
}

static void fork_in_the_run(void *unused)
{
	(void)unused;
	CHECK((forked = fork()) >= 0);
	if (forked != 0)
		return;
	alarm(30);
	CHECK(cq_task_is_current(a.task));
	CHECK(stats().workers_running == 1);
	CHECK(cq_task_close(a.task, 0) == EDEADLK);
}

static void then_end_in_the_child(void *unused)
{
	if (forked == 0)
		start(end_in_the_child, unused);
}

/* The other job comes after the fork, and unsignalled: for this run alone. */
static void fork_with_a_job_to_come(void *unused)
{
	fork_in_the_run(unused);
	add(&a, then_end_in_the_child, NULL);
}

Test(pool_fork, a_run_of_the_thread_that_forks_goes_on_in_both, .init = make_managed)
{
	cr_assert_eq(signal_job(&a, fork_with_a_job_to_come, NULL), 0);
	AWAIT(a.done == 2);
	check_child(forked);
	cr_assert_eq(a.lost, 0);
	end_pool();
}

static void fork_and_close_elsewhere(void *unused)
{
	fork_in_the_run(unused);
	if (forked == 0) {
		CHECK(stats().workers_live == 1);
		start(end_in_the_child, NULL); /* its close waits for this run */
		AWAIT((cq_u64_load_relaxed(&a.task->word) & TASK_CLOSED) != 0);
	}
}

Test(pool_fork, a_close_in_the_child_waits_for_the_run_that_goes_on, .init = make_managed)
{
	cr_assert_eq(signal_job(&a, fork_and_close_elsewhere, NULL), 0);
	AWAIT(a.done == 1);
	check_child(forked);
	end_pool();
}

/* Its limit: the child's first run of it must not begin beside it. */
static void fork_at_the_limit(void *unused)
{
	(void)unused;
	CHECK((forked = fork()) >= 0);
	if (forked == 0) {
		alarm(30);
		CHECK(cq_task_run_some(c.task, 1) == 0);
		start(end_in_the_child, NULL);
	}
}

Test(pool_fork, a_run_that_goes_on_counts_towards_its_limit, .init = make_managed)
{
	open_task(&c, 1);
	cr_assert_eq(signal_job(&c, fork_at_the_limit, NULL), 0);
	AWAIT(c.done == 1);
	check_child(forked);
	end_pool();
}

static void fork_in_caller(void *unused)
{
	(void)unused;
	CHECK((forked = fork()) >= 0);
	alarm(30);
}

static void end_both(void)
{
	if (forked == 0)
		end_child();
	check_child(forked);
	end_pool();
}

Test(pool_fork, a_caller_of_run_some_may_fork_in_it, .init = make_polled)
{
	add(&a, NULL, NULL);
	cr_assert_eq(signal_job(&a, fork_in_caller, NULL), 0);
	CHECK(cq_pool_run_some(pool, 2) == 2);
	CHECK(stats().workers_running == 0);
	end_both();
}

Test(pool_fork, who_has_run_one_task_at_the_fork_is_none_that_serves)
{
	make(CQ_POOL_POLLED | CQ_POOL_HOSTED);
	open_task(&a, 0);
	add(&a, fork_in_caller, NULL);
	CHECK(cq_task_run_some(a.task, 1) == 1);
	CHECK(signal_jobs(&a, 1) == 0);
	CHECK(cq_pool_wake(pool) == EAGAIN);
	CHECK(pool->serving == 0);
	end_both();
}

Test(pool_fork, who_has_run_some_at_the_fork_serves_until_it_returns)
{
	make(CQ_POOL_POLLED | CQ_POOL_HOSTED);
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, fork_in_caller, NULL), 0);
	CHECK(cq_pool_run_some(pool, 1) == 1);
	CHECK(pool->serving == 0);
	end_both();
}

static void fork_and_sign_off(void *unused)
{
	fork_in_caller(unused);
	if (forked == 0)
		CHECK(stats().workers_live == 1);
}

Test(pool_fork, a_lent_thread_that_forks_is_a_worker_in_both)
{
	make(CQ_POOL_HOSTED);
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, fork_and_sign_off, NULL), 0);
	CHECK(cq_pool_work(pool, NULL, 0) == ETIMEDOUT);
	CHECK(stats().workers_live == 0 && a.done == 1);
	end_both();
}

static atomic_uint starts, ends;
static bool fork_in_start, fork_in_end;

static void fork_once(bool *when)
{
	if (!*when)
		return;
	*when = false;
	CHECK((forked = fork()) >= 0);
	if (forked == 0) {
		alarm(30);
		start(end_in_the_child, NULL);
	}
}

static int on_start(void *unused)
{
	(void)unused;
	starts++;
	fork_once(&fork_in_start);
	return 0;
}

static void on_end(void *unused)
{
	(void)unused;
	fork_once(&fork_in_end);
	ends++;
}

static void make_with_hooks(void)
{
	cq_pool_config_t config = config_of(0);

	config.workers_max = 1;
	config.idle_ns = 1000;
	config.worker_start = on_start;
	config.worker_end = on_end;
	CHECK(cq_pool_create(&config, &pool) == 0);
	open_task(&a, 0);
}

Test(pool_fork, a_fork_in_worker_start_goes_on_in_both, .init = make_with_hooks)
{
	fork_in_start = true;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	check_child(forked);
	end_pool();
	cr_assert_eq(starts, ends);
}

Test(pool_fork, a_fork_in_worker_end_goes_on_in_both, .init = make_with_hooks)
{
	fork_in_end = true;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	AWAIT(workers_are(0));
	check_child(forked);
	end_pool();
	cr_assert_eq(starts, ends);
}

/* --------------------------------------------------------------------- closed tasks */

static void close_it_again(void)
{
	CHECK(signal_jobs(&a, 1) == 0);
	CHECK(cq_task_run_some(a.task, 1) == 0); /* it stays closed */
	CHECK(cq_pool_destroy(pool, wait_limit()) == EBUSY);
}

static void *close_a(void *unused)
{
	CHECK(cq_task_close(a.task, CQ_FOREVER) == 0);
	a.task = NULL;
	return unused;
}

Test(pool_fork, a_task_that_was_being_closed_stays_closed_and_is_closed_again, .init = make_managed)
{
	pthread_t closer;

	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	closer = start(close_a, NULL);
	AWAIT((cq_u64_load_relaxed(&a.task->word) & TASK_CLOSED) != 0);
	in_a_child(close_it_again);
	gate_open(&room.leave);
	join(closer);
	end_pool();
}

Test(pool_fork, so_is_one_whose_closer_had_all_but_returned, .init = make_managed)
{
	pthread_t closer;

	close_task(&b);
	at_point("tasks.closed", stop_at_begin, NULL);
	closer = start(close_a, NULL);
	gate_wait(&popped);
	in_a_child(close_it_again);
	gate_open(&room.leave);
	join(closer);
	end_pool();
}

static cq_task_t *gone;

static void use_it_again(void)
{
	cq_task_t *t;

	CHECK(cq_task_create(pool, &job_ops, &c, 0, &t) == 0);
	CHECK(t == gone);
	c.task = t;
	CHECK(signal_jobs(&c, 1) == 0);
	CHECK(cq_pool_run_some(pool, 9) == 1);
	CHECK(c.done == 1);
}

Test(pool_fork, the_memory_of_a_closed_task_is_used_again_in_the_child, .init = make_polled)
{
	cr_assert_eq(signal_jobs(&a, 1), 0);
	gone = a.task;
	close_task(&a); /* its record is in the stack */
	in_a_child(use_it_again);
	cr_assert_eq(cq_pool_run_some(pool, 9), 0);
	use_it_again();
	end_pool();
}

static void *destroy(void *unused)
{
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	return unused;
}

Test(pool_fork, a_pool_that_was_being_destroyed_is_destroyed_in_the_child_too, .init = make_managed)
{
	pthread_t destroyer;
	pid_t pid;

	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	close_task(&a);
	close_task(&b);
	AWAIT(cq_ptr_load_relaxed(&pool->idle.newest) != NULL); /* one that is idle may not sleep yet */
	at_point("sleepers.back", stop_at_begin, NULL);
	destroyer = start(destroy, NULL);
	gate_wait(&popped);
	AWAIT(pool->destroyer != NULL);
	alarm(30);
	if ((pid = fork()) == 0)
		end_child();
	check_child(pid);
	gate_open(&room.leave);
	join(destroyer);
}

/* ---------------------------------------------------------------------- statistics */

static void sums_go_on(void)
{
	cq_pool_stats_t s = stats();

	CHECK(s.runs == 3 && s.tasks == 2 && s.workers_created >= 1 && s.workers_last_errno == 0);
	CHECK(s.workers_live == 0 && s.workers_running == 0);
	CHECK(signal_jobs(&a, 1) == 0);
	AWAIT(a.done == 4);
	AWAIT(stats().runs >= 4);
}

Test(pool_fork, the_statistics_go_on_in_the_child, .init = make_managed)
{
	for (unsigned i = 1; i <= 3; i++) {
		cr_assert_eq(signal_jobs(&a, 1), 0);
		AWAIT(stats().runs == i);
	}
	in_a_child(sums_go_on);
	end_pool();
}

/* --------------------------------------------------------------- handlers of others */

static void what_needs_a_lock_is_refused(void)
{
	cq_pool_t *p;
	cq_task_t *t;

	CHECK(cq_pool_create(NULL, &p) == EDEADLK);
	CHECK(cq_task_create(pool, &job_ops, &c, 0, &t) == EDEADLK);
	CHECK(cq_task_close(b.task, CQ_FOREVER) == EDEADLK);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == EDEADLK);
	CHECK(cq_pool_work(pool, NULL, 0) == EDEADLK);
	CHECK(cq_pool_set_workers(pool, 0, 2) == EDEADLK);
	CHECK(cq_pool_wake(pool) == EDEADLK);
	CHECK(cq_pool_run_some(pool, 1) == 0);
	CHECK(cq_task_run_some(b.task, 1) == 0);
	CHECK(stats().tasks == 2);
	(void)cq_pool_needs_wake(pool);
	CHECK(!cq_task_is_current(a.task));
}

static void make_after_others(void)
{
	register_others();
	make_managed();
}

static void nothing(void)
{
}

Test(pool_fork, earlier_handlers_are_refused_what_needs_a_lock, .init = make_after_others)
{
	in_prepare = in_parent = in_child = what_needs_a_lock_is_refused;
	in_a_child(nothing);
	end_pool();
}

static void signal_a_job(void)
{
	CHECK(signal_jobs(&a, 1) == 0);
}

/* The parent's workers get it with no other call; in the child it waits for the next. */
Test(pool_fork, what_an_earlier_handler_signals_runs, .init = make_after_others)
{
	in_prepare = signal_a_job;
	in_a_child(it_is_signalled_anew);
	AWAIT(a.done == 1);
	in_prepare = NULL;
	in_parent = signal_a_job;
	in_a_child(nothing);
	AWAIT(a.done == 2);
	end_pool();
}

static void run_two(void)
{
	CHECK(cq_pool_wake(pool) == 0);
	AWAIT(a.done == 1);
}

Test(pool_fork, what_an_earlier_child_handler_signals_runs_with_the_next_wake,
    .init = make_after_others)
{
	in_child = signal_a_job;
	in_a_child(run_two);
	cr_assert_eq(a.done, 0);
	end_pool();
}

static unsigned forks;

static void fork_once_more(void)
{
	if (forks++ != 0)
		return;
	CHECK(fork() >= 0);
	CHECK(cq_pool_wake(pool) == EDEADLK); /* the outer fork goes on */
}

/* Each process that there is then ends the pool, and sees its children do so. */
static void fork_in(void (**handler)(void))
{
	pid_t me = getpid();
	int status;

	*handler = fork_once_more;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	add(&b, NULL, NULL);
	alarm(30);
	CHECK(fork() >= 0);
	alarm(30);
	CHECK(cq_task_signal(b.task) == 0);
	AWAIT(b.done == 1);
	while (wait(&status) > 0)
		CHECK(status == 0);
	CHECK(errno == ECHILD);
	if (getpid() != me)
		end_child();
	end_pool();
}

Test(pool_fork, an_earlier_prepare_handler_may_fork, .init = make_after_others)
{
	fork_in(&in_prepare);
}

Test(pool_fork, an_earlier_parent_handler_may_fork, .init = make_after_others)
{
	fork_in(&in_parent);
}

Test(pool_fork, an_earlier_child_handler_may_fork, .init = make_after_others)
{
	fork_in(&in_child);
}

static void use_everything(void)
{
	cq_pool_t *p;

	CHECK(cq_pool_create(NULL, &p) == 0);
	CHECK(cq_pool_destroy(p, CQ_FOREVER) == 0);
	CHECK(cq_task_create(pool, &job_ops, &c, 0, &c.task) == 0);
	CHECK(signal_jobs(&c, 1) == 0);
	AWAIT(c.done >= 1);
	close_task(&c);
	CHECK(cq_pool_set_workers(pool, 0, 2) == 0);
}

Test(pool_fork, later_handlers_may_call_anything, .init = make_managed)
{
	register_others();
	in_prepare = in_parent = in_child = use_everything;
	in_a_child(nothing);
	end_pool();
}

/* --------------------------------------------------------------------------- by hand */

static void make_by_hand(void)
{
	register_others();
	make(CQ_POOL_NO_ATFORK);
	open_task(&a, 0);
	open_task(&b, 0);
}

Test(pool_fork, by_hand_a_fork_is_as_by_handlers, .init = make_by_hand)
{
	pid_t pid;

	held = add(&a, stay, &room);
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(room.inside == 1);
	alarm(30);
	cq_fork(CQ_FORK_PREPARE);
	what_needs_a_lock_is_refused();
	pid = fork();
	CHECK(pid >= 0);
	cq_fork(pid == 0 ? CQ_FORK_CHILD : CQ_FORK_PARENT);
	if (pid == 0) {
		alarm(30);
		others_are_lost();
		end_child();
	}
	check_child(pid);
	gate_open(&room.leave);
	AWAIT(a.done == 1);
	end_pool();
}

Test(pool_fork, by_hand_the_parent_has_its_locks_back, .init = make_by_hand)
{
	cq_fork(CQ_FORK_PREPARE);
	cq_fork(CQ_FORK_PREPARE); /* a fork within */
	cr_assert_eq(cq_pool_wake(pool), EDEADLK);
	cr_assert_eq(cq_task_signal(a.task), 0);
	cq_fork(CQ_FORK_PARENT);
	cr_assert_eq(cq_pool_wake(pool), EDEADLK);
	cq_fork(CQ_FORK_PARENT);
	AWAIT(a.calls >= 1); /* the wake is made up for */
	cr_assert_eq(cq_pool_wake(pool), 0);
	end_pool();
}

/* No handlers: nobody prepares this pool, and nothing is locked in the parent. */
Test(pool_fork, a_pool_that_wants_no_handlers_has_none, .init = make_by_hand)
{
	pid_t pid;

	in_prepare = signal_a_job; /* with nothing held it runs at once */
	alarm(30);
	if ((pid = fork()) == 0)
		_exit(stats().tasks == 2 ? 0 : 1);
	AWAIT(a.done == 1);
	check_child(pid);
	end_pool();
}

static cq_pool_t *pools[3];

Test(pool_fork, one_fork_is_for_all_pools)
{
	static jobs_t tasks[3];
	cq_pool_config_t config = config_of(0);
	pid_t pid;

	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(cq_pool_create(&config, &pools[i]), 0);
		cr_assert_eq(cq_task_create(pools[i], &job_ops, &tasks[i], 0, &tasks[i].task), 0);
		cr_assert_eq(signal_jobs(&tasks[i], 1), 0);
		AWAIT(tasks[i].done == 1);
	}
	alarm(30);
	pid = fork();
	CHECK(pid >= 0);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(signal_jobs(&tasks[i], 1) == 0);
		AWAIT(tasks[i].done == 2);
		CHECK(cq_task_close(tasks[i].task, CQ_FOREVER) == 0);
		CHECK(cq_pool_destroy(pools[i], CQ_FOREVER) == 0);
	}
	if (pid == 0)
		_exit(0);
	check_child(pid);
}

/* --------------------------------------------------------------------- at any moment */

static atomic_bool stop;

static void *signal_until_told(void *unused)
{
	while (!stop) {
		if (njobs < 400)
			CHECK(signal_jobs(&a, 1) == 0);
		else
			CHECK(cq_task_signal(a.task) == 0);
		turn();
	}
	return unused;
}

static void whatever_there_was_runs(void)
{
	a.running = 0; /* the test's own count */
	CHECK(cq_pool_wake(pool) == 0);
	AWAIT(cq_workq_units(&a.waiting) == 0);
	AWAIT(stats().tasks_waiting == 0);
}

Test(pool_fork, a_fork_at_any_moment_leaves_a_pool_that_works, .init = make_managed)
{
	pthread_t producer;

	producer = start(signal_until_told, NULL);
	for (unsigned i = 0; i < 40; i++)
		in_a_child(whatever_there_was_runs);
	stop = true;
	join(producer);
	end_pool();
}
