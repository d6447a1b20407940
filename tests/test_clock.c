/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks that are signalled at a time, by the pool's clock or by who polls. Mostly those of an owner: of these
 * each signal is told at once, by the thread that signals, and the clock is the pool's only thread.
 */
#define _GNU_SOURCE /* pthread_getname_np */
#include <criterion/criterion.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jobs.h"
#include "pool/pool_inside.h"

TestSuite(clock, .timeout = 60);

static test_act_fn *when_told; /* by the thread that signals */

static void told(void *arg)
{
	note_stalled(arg);
	if (when_told != NULL)
		when_told(arg);
}

static const cq_task_ops_t timed_ops = { run_jobs, lose_job, told };

static void open_timed(jobs_t *q, uint32_t parallel)
{
	q->parallel = parallel;
	CHECK(cq_task_create(pool, &timed_ops, q, parallel, &q->task) == 0);
}

static void open_owners(cq_pool_config_t config)
{
	open_pool(config);
	open_timed(&b, CQ_BY_OWNER);
	open_timed(&a, CQ_BY_OWNER);
}

static void time_it(jobs_t *q, uint64_t at)
{
	CHECK(cq_task_signal_at(q->task, at) == 0);
	CHECK(cq_task_is_timed(q->task));
}

static void pass_to(uint64_t time)
{
	fake_advance(&park, time - park.now);
}

/* It was the last to go to sleep, and so many are asleep. */
static bool sleeps_until(uint64_t at, unsigned n)
{
	bool sleeps;

	pthread_mutex_lock(&park.lock);
	sleeps = park.blocked == n && park.deadline == at;
	pthread_mutex_unlock(&park.lock);
	return sleeps;
}

#define AWAIT_SLEEP(at) AWAIT(sleeps_until(at, 1))

/* The owner looks, so that it is told of the next signal. */
static void look(jobs_t *q)
{
	CHECK(cq_task_run_some(q->task, 1) == 0);
}

/* ----------------------------------------------------------------------------- when */

Test(clock, a_task_is_signalled_at_its_time_once_and_not_before)
{
	open_owners((cq_pool_config_t){ 0 });
	cr_assert_not(cq_task_is_timed(a.task));
	time_it(&a, 100);
	AWAIT_SLEEP(100);
	pass_to(99);
	cr_assert(sleeps_until(100, 1));
	cr_assert_eq(a.stalled, 0);
	pass_to(100);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert_eq(a.stalled, 1);
	cr_assert_not(cq_task_is_timed(a.task));
	look(&a);
	time_it(&b, 200);
	AWAIT_SLEEP(200);
	pass_to(200);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert(a.stalled == 1 && b.stalled == 1);
	end_pool();
}

Test(clock, an_earlier_time_takes_the_place_of_a_later_one_and_wakes_the_clock)
{
	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 100);
	AWAIT_SLEEP(100);
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	pass_to(50);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert_eq(a.stalled, 1);
	look(&a);
	pass_to(100);
	cr_assert(sleeps_until(CQ_FOREVER, 1));
	cr_assert_eq(a.stalled, 1);
	end_pool();
}

Test(clock, a_later_time_takes_the_place_of_an_earlier_one_and_wakes_nobody)
{
	unsigned unparks;

	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	unparks = park.unparks;
	time_it(&a, 100);
	cr_assert_eq(park.unparks, unparks);
	pass_to(50);
	AWAIT_SLEEP(100);
	cr_assert_eq(a.stalled, 0);
	pass_to(100);
	AWAIT(a.stalled == 1);
	end_pool();
}

static void make_it_later(void *unused)
{
	(void)unused;
	time_it(&a, 100);
}

Test(clock, a_time_that_is_set_as_the_old_one_comes_is_not_lost)
{
	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	at_point("clock.look", make_it_later, NULL);
	pass_to(50);
	AWAIT_SLEEP(100);
	cr_assert_eq(a.stalled, 0);
	pass_to(100);
	AWAIT(a.stalled == 1);
	end_pool();
}

Test(clock, two_tasks_of_one_time_are_both_signalled)
{
	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 100);
	time_it(&b, 100);
	AWAIT_SLEEP(100);
	pass_to(100);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert(a.stalled == 1 && b.stalled == 1);
	end_pool();
}

Test(clock, each_task_has_its_own_time)
{
	open_owners((cq_pool_config_t){ 0 });
	open_timed(&c, CQ_BY_OWNER);
	time_it(&b, 70);
	time_it(&a, 50);
	time_it(&c, 60);
	AWAIT_SLEEP(50);
	pass_to(50);
	AWAIT_SLEEP(60);
	cr_assert(a.stalled == 1 && b.stalled == 0 && c.stalled == 0);
	pass_to(60);
	AWAIT_SLEEP(70);
	cr_assert(a.stalled == 1 && b.stalled == 0 && c.stalled == 1);
	pass_to(70);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert(a.stalled == 1 && b.stalled == 1 && c.stalled == 1);
	end_pool();
}

Test(clock, a_time_that_has_passed_is_now)
{
	open_owners((cq_pool_config_t){ 0 });
	pass_to(10);
	CHECK(cq_task_signal_at(a.task, 9) == 0);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert_eq(a.stalled, 1);
	CHECK(cq_task_signal_at(b.task, 10) == 0);
	AWAIT(b.stalled == 1);
	end_pool();
}

static void ask_for_the_next(void *unused)
{
	(void)unused;
	time_it(&a, park.now + 10);
}

Test(clock, a_run_may_ask_for_the_next)
{
	open_pool((cq_pool_config_t){ 0 });
	open_timed(&a, 1);
	time_it(&a, 10);
	for (unsigned i = 1; i <= 5; i++) {
		add(&a, ask_for_the_next, NULL);
		pass_to(10 * i);
		AWAIT(a.done == i);
		cr_assert_eq(a.calls, i);
	}
	end_pool();
}

/* ------------------------------------------------------------------------ the thread */

Test(clock, while_no_task_is_timed_it_sleeps_and_nobody_is_woken)
{
	unsigned parks, unparks, reads;

	open_owners((cq_pool_config_t){ 0 });
	cr_assert(workers_are(0)); /* nor is there one before it is asked for */
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	unparks = park.unparks; /* if it slept before it was told the time */
	cr_assert(workers_are(1));
	pass_to(50);
	AWAIT_SLEEP(CQ_FOREVER);
	parks = park.parks;
	reads = park.clock_reads;
	pass_to(UINT64_C(1) << 40);
	fake_disturb(&park); /* it looks, and finds that nothing is to be done */
	AWAIT(park.parks == parks + 1);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert(a.stalled == 1 && b.stalled == 0);
	cr_assert_leq(park.clock_reads, reads + 1);
	cr_assert_eq(park.unparks, unparks);
	end_pool();
}

Test(clock, it_is_no_worker_to_the_statistics)
{
	cq_pool_stats_t s;

	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	pass_to(50);
	AWAIT_SLEEP(CQ_FOREVER);
	s = stats();
	cr_assert(s.workers_live == 0 && s.workers_idle == 0 && s.workers_coming == 0);
	cr_assert(s.workers_running == 0 && s.workers_created == 0 && s.workers_peak == 0);
	cr_assert(s.workers_retired == 0 && s.runs == 0 && s.empty_runs == 0);
	end_pool();
}

static char name[16];
static sigset_t blocked;

static void look_at_the_thread(void *unused)
{
	(void)unused;
	CHECK(pthread_getname_np(pthread_self(), name, sizeof(name)) == 0);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &blocked) == 0);
}

Test(clock, it_takes_no_signals_and_has_the_name_of_the_config)
{
	open_owners((cq_pool_config_t){ .name = "tick" });
	when_told = look_at_the_thread;
	cr_assert_eq(cq_task_signal_at(a.task, 1), 0); /* which may be past when this returns */
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert_eq(a.stalled, 1);
	cr_assert_str_eq(name, "tick");
	cr_assert(sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGALRM));
	cr_assert(!sigismember(&blocked, SIGSEGV) && !sigismember(&blocked, SIGABRT));
	end_pool();
}

static atomic_uint hooks;

static int refuse(void *unused)
{
	(void)unused;
	hooks++;
	return EACCES;
}

static void note_end(void *unused)
{
	(void)unused;
	hooks++;
}

/* And the task waits for who will try again, as after any signal. */
Test(clock, it_has_no_hooks_and_signals_though_worker_start_refuses)
{
	open_owners((cq_pool_config_t){ .worker_start = refuse, .worker_end = note_end });
	open_timed(&c, 0);
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	pass_to(50);
	AWAIT(a.stalled == 1);
	cr_assert_eq(hooks, 0);
	time_it(&c, 60);
	pass_to(60);
	AWAIT(c.stalled == 1);
	cr_assert_eq(hooks, 1);
	cr_assert_eq(stats().tasks_waiting, 1);
	end_pool();
	cr_assert_eq(hooks, 1);
}

Test(clock, a_host_that_makes_workers_makes_it)
{
	host.later = true;
	open_spawned((cq_pool_config_t){ 0 });
	open_timed(&a, CQ_BY_OWNER);
	time_it(&a, 50);
	time_it(&a, 40);
	cr_assert_eq(requested(), 1);
	pass_to(60);
	cr_assert_eq(a.stalled, 0);
	come(1);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert_eq(a.stalled, 1);
	time_it(&a, 70);
	cr_assert_eq(requested(), 1);
	end_spawned();
}

Test(clock, if_it_cannot_be_made_the_task_is_not_timed_and_the_next_call_tries_again)
{
	open_spawned((cq_pool_config_t){ 0 });
	open_timed(&a, CQ_BY_OWNER);
	host.err = EAGAIN;
	errno = EINTR;
	cr_assert_eq(cq_task_signal_at(a.task, 50), EAGAIN);
	host.err = 0;
	alloc.fail_in = 1;
	cr_assert_eq(cq_task_signal_at(a.task, 50), ENOMEM);
	cr_assert_eq(errno, EINTR);
	cr_assert_not(cq_task_is_timed(a.task));
	cr_assert(requested() == 0 && workers_are(0));
	cr_assert_eq(stats().workers_failed, 0);
	pass_to(100);
	time_it(&a, 150);
	cr_assert_eq(errno, EINTR);
	AWAIT_SLEEP(150);
	cr_assert_eq(a.stalled, 0);
	pass_to(150);
	AWAIT(a.stalled == 1);
	end_spawned();
}

/* The others ask while it is being made. */
static int fail_beside_others(void *unused, void (*body)(void *arg), void *arg)
{
	(void)unused;
	(void)body;
	(void)arg;
	if (b.calls++ == 0) {
		CHECK(cq_task_signal_at(b.task, 50) == 0);
		CHECK(cq_task_signal_at(c.task, 500) == 0);
	}
	errno = ERANGE;
	return EAGAIN;
}

Test(clock, if_it_cannot_be_made_those_who_relied_on_it_are_signalled)
{
	open_owners((cq_pool_config_t){ .spawn = fail_beside_others });
	open_timed(&c, CQ_BY_OWNER);
	errno = EINTR;
	cr_assert_eq(cq_task_signal_at(a.task, 100), EAGAIN);
	cr_assert_eq(errno, EINTR);
	cr_assert(a.stalled == 0 && b.stalled == 1 && c.stalled == 1);
	cr_assert(!cq_task_is_timed(b.task) && !cq_task_is_timed(c.task));
	/* Nobody relies on it any more, whatever time was the earliest. */
	cr_assert_eq(cq_task_signal_at(b.task, 600), EAGAIN);
	cr_assert_eq(b.calls, 2);
	end_pool();
}

/* -------------------------------------------------------------------- pieces that hang */

Test(clock, it_signals_while_all_workers_hang_at_their_maximum)
{
	open_owners((cq_pool_config_t){ .workers_max = 1 });
	open_timed(&c, 0);
	close_task(&b);
	open_task(&b, 0);
	cr_assert_eq(signal_job(&c, stay, &room), 0);
	AWAIT(room.inside == 1);
	add(&b, NULL, NULL);
	time_it(&b, 50);
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	pass_to(50);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert_eq(a.stalled, 1);
	cr_assert_eq(stats().tasks_waiting, 1);
	gate_open(&room.leave);
	AWAIT(b.done == 1);
	end_pool();
}

Test(clock, its_signal_makes_a_worker_beside_those_that_hang)
{
	open_spawned((cq_pool_config_t){ .workers_max = 2 });
	open_timed(&a, 0);
	open_timed(&b, 0);
	add(&b, NULL, NULL);
	time_it(&b, 50);
	AWAIT_SLEEP(50);
	at_point("tasks.begin", (test_act_fn *)gate_wait, &room2.leave);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	host.err = EAGAIN; /* the next, which that worker makes ahead */
	gate_open(&room2.leave);
	AWAIT(room.inside == 1);
	cr_assert_eq(stats().workers_failed, 1);
	host.err = 0;
	pass_to(50);
	AWAIT(b.done == 1);
	gate_open(&room.leave);
	end_spawned();
}

/* ---------------------------------------------------------------------------- polled */

static bool poll_needs_wake(void) { return cq_pool_needs_wake(pool); }
static bool poll_wake(void) { return cq_pool_wake(pool) == 0; }
static bool poll_run_some(void) { return cq_pool_run_some(pool, 1) != 0; }
static bool (*const polls[])(void) = { poll_needs_wake, poll_wake, poll_run_some };

static void signalled_by_who_polls(unsigned flags)
{
	uint64_t at = 50;

	open_owners((cq_pool_config_t){ .flags = flags });
	cr_assert_not(cq_pool_keeps_time(pool));
	for (unsigned i = 0; i < 3; i++, at += 100) {
		time_it(&a, at);
		time_it(&b, at + 50);
		pass_to(at - 1);
		(void)polls[i]();
		cr_assert_eq(a.stalled, i);
		pass_to(at);
		cr_assert_eq(a.stalled, i);
		(void)polls[i]();
		cr_assert(a.stalled == i + 1 && b.stalled == i);
		(void)polls[i]();
		pass_to(at + 50);
		(void)polls[i]();
		cr_assert(a.stalled == i + 1 && b.stalled == i + 1);
		look(&a);
		look(&b);
	}
	cr_assert(workers_are(0) && park.parks == 0);
	end_pool();
}

Test(clock, in_a_polled_pool_who_polls_signals) { signalled_by_who_polls(CQ_POOL_POLLED); }
Test(clock, in_a_hosted_pool_who_polls_signals) { signalled_by_who_polls(CQ_POOL_HOSTED); }

Test(clock, in_a_polled_pool_a_task_whose_time_has_come_waits)
{
	open_pool((cq_pool_config_t){ .flags = CQ_POOL_POLLED });
	open_timed(&a, 0);
	add(&a, NULL, NULL);
	add(&a, NULL, NULL);
	time_it(&a, 50);
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_run_some(pool, 1), 0);
	pass_to(50);
	cr_assert(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_pool_run_some(pool, 1), 1);
	time_it(&a, 60);
	pass_to(60);
	cr_assert_eq(cq_pool_run_some(pool, 1), 1);
	end_pool();
}

static pthread_t poller;
static gate_t leave = GATE_INITIALIZER;

/* If it is the poller that signals, the clock looks meanwhile. */
static void let_the_clock_look(void *unused)
{
	(void)unused;
	if (pthread_equal(pthread_self(), poller)) {
		gate_open(&leave);
		fake_wait_blocked(&park, 1);
	}
}

/* The walk over all tasks comes to `a` first. */
Test(clock, who_polls_beside_it_loses_no_time)
{
	poller = pthread_self();
	open_owners((cq_pool_config_t){ 0 });
	cr_assert(cq_pool_keeps_time(pool));
	when_told = let_the_clock_look;
	time_it(&a, 50);
	time_it(&b, 60);
	AWAIT_SLEEP(50);
	park.leave = &leave;
	pass_to(50);
	for (unsigned i = 0; i < 3; i++)
		(void)polls[i]();
	gate_open(&leave);
	AWAIT(a.stalled == 1);
	fake_wait_blocked(&park, 1);
	pass_to(60);
	AWAIT(b.stalled == 1);
	end_pool();
}

/* ------------------------------------------------------------------- closed, destroyed */

static void stay_in_room(void *unused)
{
	(void)unused;
	stay(&room);
}

Test(clock, a_close_waits_while_its_task_is_signalled)
{
	open_owners((cq_pool_config_t){ 0 });
	when_told = stay_in_room;
	time_it(&a, 50);
	pass_to(50);
	AWAIT(room.inside == 1);
	cr_assert_eq(cq_task_close(a.task, 1), ETIMEDOUT);
	gate_open(&room.leave);
	end_pool();
	cr_assert_eq(a.stalled, 1);
}

Test(clock, a_task_that_is_closed_by_then_is_not_told)
{
	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 50);
	time_it(&b, 60);
	AWAIT_SLEEP(50);
	close_task(&a);
	pass_to(50);
	AWAIT_SLEEP(60);
	cr_assert_eq(a.stalled, 0);
	end_pool();
}

Test(clock, a_record_that_is_used_anew_has_the_time_of_its_new_task)
{
	cq_task_t *record;

	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, 50);
	AWAIT_SLEEP(50);
	record = a.task;
	close_task(&a);
	open_timed(&c, CQ_BY_OWNER);
	cr_assert_eq(c.task, record);
	time_it(&c, 70);
	pass_to(50);
	AWAIT_SLEEP(70);
	cr_assert(a.stalled == 0 && c.stalled == 0);
	pass_to(70);
	AWAIT_SLEEP(CQ_FOREVER);
	cr_assert(a.stalled == 0 && c.stalled == 1);
	end_pool();
}

Test(clock, a_destroy_waits_for_it_but_not_for_its_time)
{
	open_owners((cq_pool_config_t){ 0 });
	time_it(&a, CQ_FOREVER - 1);
	AWAIT_SLEEP(CQ_FOREVER - 1);
	end_pool(); /* nothing leaks, and its thread is joined */
	cr_assert_eq(a.stalled, 0);
}

Test(clock, the_end_of_the_pool_waits_for_it_until_the_deadline)
{
	open_owners((cq_pool_config_t){ 0 });
	when_told = stay_in_room;
	time_it(&a, 50);
	pass_to(50);
	AWAIT(room.inside == 1);
	cr_assert_eq(cq_pool_end(pool, 1, CQ_FOREVER), EBUSY);
	cr_assert_eq(cq_pool_end(pool, 2, 50), ETIMEDOUT);
	gate_open(&room.leave);
	cr_assert_eq(cq_pool_end(pool, 2, CQ_FOREVER), 0);
	cr_assert(workers_are(0));
	CHECK(cq_task_signal_at(b.task, 60) == 0); /* and nothing happens */
	pass_to(60);
	end_pool();
	cr_assert(a.stalled == 1 && b.stalled == 0);
}

Test(clock, none_is_made_after_the_end_of_the_pool)
{
	open_owners((cq_pool_config_t){ 0 });
	cr_assert_eq(cq_pool_end(pool, 2, CQ_FOREVER), 0);
	cr_assert_eq(cq_task_signal_at(a.task, 50), ESHUTDOWN);
	cr_assert_not(cq_task_is_timed(a.task));
	end_pool();
}

/* ------------------------------------------------------------------------------ fork */

/* A child has not the threads that block in the fake. */
static void open_really(unsigned flags)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ .flags = flags });

	config.park = NULL;
	CHECK(cq_pool_create(&config, &pool) == 0);
	open_timed(&a, CQ_BY_OWNER);
	open_timed(&b, CQ_BY_OWNER);
}

static void check_child(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void be_a_child(void)
{
	unsigned before = a.stalled;

	alarm(30);
	CHECK(!cq_task_is_timed(a.task) && !cq_task_is_timed(b.task));
	CHECK(workers_are(0));
	if (test_child_has_threads()) {
		time_it(&b, CQ_FOREVER - 1);
		CHECK(cq_task_signal_at(a.task, 1) == 0);
		AWAIT(a.stalled == before + 1);
		CHECK(workers_are(1) && b.stalled == 0);
	}
	close_task(&a);
	close_task(&b);
	CHECK(cq_pool_destroy(pool, wait_limit()) == 0);
	_exit(0);
}

Test(clock, a_child_has_none_timed_and_makes_its_own_and_the_parent_goes_on)
{
	uint64_t at;
	pid_t pid;

	open_really(0);
	at = cq_now() + 100000000;
	time_it(&a, at);
	time_it(&b, CQ_FOREVER - 1);
	alarm(30); /* for a hang in a handler */
	CHECK((pid = fork()) >= 0);
	if (pid == 0)
		be_a_child();
	AWAIT(a.stalled == 1);
	cr_assert_geq(cq_now(), at);
	cr_assert_eq(b.stalled, 0);
	CHECK(cq_task_signal_at(b.task, 1) == 0);
	AWAIT(b.stalled == 1);
	check_child(pid);
	end_pool();
}

static bool in_a_handler;

static void be_a_handler(void)
{
	if (!in_a_handler)
		return;
	CHECK(cq_task_signal_at(a.task, 1) == EDEADLK);
	for (unsigned i = 0; i < 3; i++)
		(void)polls[i]();
	CHECK(a.stalled == 0 && b.stalled == 0);
}

/* Nor does who polls there look: it holds the locks. */
Test(clock, in_a_fork_handler_no_task_is_timed_or_signalled)
{
	pid_t pid;

	CHECK(pthread_atfork(be_a_handler, be_a_handler, be_a_handler) == 0);
	open_really(CQ_POOL_POLLED);
	CHECK(cq_task_signal_at(b.task, 1) == 0);
	in_a_handler = true;
	alarm(30);
	CHECK((pid = fork()) >= 0);
	if (pid == 0)
		_exit(0);
	in_a_handler = false;
	check_child(pid);
	cr_assert_not(cq_task_is_timed(a.task));
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert(a.stalled == 0 && b.stalled == 1);
	end_pool();
}
