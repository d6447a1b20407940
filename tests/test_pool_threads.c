/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a worker that the pool makes: what worker_start and worker_end may rely on, tasks
 * and hooks that end their thread, threads that can't be made. What the threads are like:
 * test_threads.c.
 */
#include <criterion/criterion.h>

#include "jobs.h"

TestSuite(pool_threads, .timeout = 60);

/* The host counts its hooks. The thread's own count tells whether they are paired. */
static struct hooks {
	atomic_uint starts, begun, ends; /* begun: starts that returned 0 */
	atomic_int err;			/* what worker_start returns */
	atomic_uint refuse_from;	/* from which start on */
	void (*in_start)(void), (*in_end)(void);
} hooks;
static __thread int started;

static int on_start(void *arg)
{
	unsigned n = ++hooks.starts;

	CHECK(arg == &hooks);
	CHECK(started == 0);
	if (hooks.in_start != NULL)
		hooks.in_start();
	if (hooks.err != 0 && n >= hooks.refuse_from)
		return hooks.err;
	started++;
	hooks.begun++;
	return 0;
}

static void on_end(void *arg)
{
	CHECK(arg == &hooks);
	CHECK(started-- == 1);
	hooks.ends++;
	if (hooks.in_end != NULL)
		hooks.in_end();
}

static cq_pool_config_t with_hooks(cq_pool_config_t config)
{
	config.host = &hooks;
	config.worker_start = on_start;
	config.worker_end = on_end;
	return with_defaults(config);
}

static void open_with(cq_pool_config_t config)
{
	config = with_hooks(config);
	CHECK(cq_pool_create(&config, &pool) == 0);
	open_task(&a, 0);
}

/* On the system's clock and park: the fake is a cancellation point. */
static void open_really(cq_pool_config_t config)
{
	config = with_hooks(config);
	config.park = NULL;
	CHECK(cq_pool_create(&config, &pool) == 0);
	open_task(&a, 0);
}

static void exit_thread(void)
{
	pthread_exit(NULL);
}

static void end_all(void)
{
	end_pool();
	CHECK(hooks.begun == hooks.ends);
}

static void check_between(void *unused)
{
	(void)unused;
	CHECK(started == 1);
}

/* ---------------------------------------------------------------- pthread_create */

static struct {
	atomic_int err;		/* what it says instead */
	atomic_uint fail_from, calls; /* from which call on */
	void (*made)(void);	/* after it has made a thread, before it returns */
} asked;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg)
{
	int err;

	if (attr == NULL) /* the test's own */
		return __real_pthread_create(thread, attr, body, arg);
	if (++asked.calls >= asked.fail_from && asked.err != 0)
		return asked.err;
	err = __real_pthread_create(thread, attr, body, arg);
	if (asked.made != NULL)
		asked.made();
	return err;
}

/* ------------------------------------------------------------- one start, one end */

Test(pool_threads, each_worker_begins_with_worker_start_and_ends_with_worker_end)
{
	open_with((cq_pool_config_t){ .workers_max = 3 });
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(signal_job(&a, check_between, NULL), 0);
	AWAIT(a.done == 20);
	end_all();
	cr_assert_geq(hooks.starts, 1);
	cr_assert_eq(hooks.ends, hooks.starts); /* when destroy returned */
}

Test(pool_threads, a_worker_that_retires_has_its_worker_end)
{
	open_with((cq_pool_config_t){ .idle_ns = IDLE_NS });
	for (unsigned i = 1; i <= 2; i++) {
		cr_assert_eq(signal_job(&a, check_between, NULL), 0);
		fake_wait_blocked(&park, 1);
		cr_assert_eq(hooks.ends, i - 1);
		fake_advance(&park, IDLE_NS);
		AWAIT(workers_are(0));
		cr_assert(hooks.starts == i && hooks.ends == i);
	}
	end_all();
}

Test(pool_threads, threads_that_the_library_does_not_make_have_no_hooks)
{
	cq_pool_config_t config = with_hooks((cq_pool_config_t){ .spawn = spawn });

	config.host = &host;
	CHECK(cq_pool_create(&config, &pool) == 0);
	open_task(&a, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(cq_pool_work(pool, NULL, 0), ETIMEDOUT);
	cr_assert_eq(cq_pool_run_some(pool, 1), 0);
	end_spawned();
	cr_assert(hooks.starts == 0 && hooks.ends == 0);
}

static atomic_uint used;

static void use_the_pool(void)
{
	cq_task_t *own;

	CHECK(cq_task_create(pool, &job_ops, &b, 0, &own) == 0);
	CHECK(cq_task_signal(a.task) == 0);
	CHECK(stats().tasks >= 2);
	CHECK(cq_task_close(a.task, 0) == EDEADLK);
	CHECK(cq_task_close(own, 0) == EDEADLK);
	CHECK(cq_pool_work(pool, NULL, 0) == EDEADLK);
	CHECK(cq_pool_destroy(pool, 0) == EDEADLK);
	CHECK(!cq_task_is_current(a.task));
	b.task = own;
	used++;
}

Test(pool_threads, hooks_may_call_what_runs_may)
{
	open_with((cq_pool_config_t){ .idle_ns = IDLE_NS });
	hooks.in_start = use_the_pool;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(used == 1 && a.done == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(a.done, 1);
	hooks.in_start = NULL;
	hooks.in_end = use_the_pool;
	close_task(&b);
	cr_assert_eq(cq_pool_set_workers(pool, 0, 1), 0);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(hooks.ends == 1);
	AWAIT(used == 2 && a.calls >= 2); /* by a second worker */
	hooks.in_end = NULL;
	end_all();
	cr_assert_eq(hooks.starts, hooks.ends);
}

static void stay_in_hook(void)
{
	stay(&room);
}

Test(pool_threads, destroy_waits_for_worker_end)
{
	open_with((cq_pool_config_t){ .idle_ns = IDLE_NS });
	hooks.in_end = stay_in_hook;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(room.inside == 1);
	cr_assert_eq(stats().workers_live, 0);
	close_task(&a);
	cr_assert_eq(cq_pool_destroy(pool, 0), ETIMEDOUT);
	gate_open(&room.leave);
	end_all();
	cr_assert_eq(hooks.ends, 1);
}

Test(pool_threads, a_worker_in_worker_start_is_one_on_the_way)
{
	open_with((cq_pool_config_t){ .workers_max = 2 });
	hooks.in_start = stay_in_hook;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(stats().workers_coming, 1);
	cr_assert_eq(stats().workers_running, 0);
	cr_assert_not(cq_pool_needs_wake(pool));
	cr_assert_eq(cq_task_signal(a.task), 0);
	cr_assert_eq(cq_pool_wake(pool), 0);
	cr_assert_eq(stats().workers_created, 1);
	gate_open(&room.leave);
	AWAIT(a.done == 1);
	end_all();
}

static atomic_bool not_cancelled;

static void be_a_cancellation_point(void)
{
	pthread_testcancel();
	not_cancelled = true;
}

static void allow_cancellation(void *unused)
{
	int old;

	(void)unused;
	CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old) == 0);
	pthread_cancel(pthread_self());
}

Test(pool_threads, worker_end_is_not_cancelled)
{
	open_really((cq_pool_config_t){ 0 });
	hooks.in_end = be_a_cancellation_point;
	cr_assert_eq(signal_job(&a, allow_cancellation, NULL), 0);
	AWAIT(a.done == 1);
	end_all();
	cr_assert(not_cancelled);
}

/* ------------------------------------------------- workers that could not be made */

static void check_create(int err)
{
	cq_pool_config_t config = with_hooks((cq_pool_config_t){ .workers_min = 3,
		.workers_max = 3 });
	cq_pool_t *made = NULL;

	cr_assert_eq(cq_pool_create(&config, &made), err);
	cr_assert_null(made);
	cr_assert_eq(alloc.live_bytes, 0);
}

Test(pool_threads, create_says_what_pthread_create_says_and_leaves_nothing)
{
	asked.err = EAGAIN;
	check_create(EAGAIN);
	asked.err = EPERM;
	for (unsigned i = 1; i <= 3; i++) {
		asked.calls = 0;
		asked.fail_from = i;
		check_create(EPERM);
		cr_assert_eq(hooks.starts, hooks.ends);
	}
}

Test(pool_threads, create_says_what_worker_start_says_and_leaves_nothing)
{
	hooks.err = EACCES;
	for (unsigned i = 1; i <= 3; i++) {
		hooks.starts = hooks.ends = 0;
		hooks.refuse_from = i;
		check_create(EACCES);
		cr_assert_leq(hooks.starts, 3); /* it is not tried for ever */
		cr_assert_eq(hooks.ends, i - 1);
	}
}

static gate_t refused = GATE_INITIALIZER;

static void wait_for_the_refusal(void)
{
	if (asked.calls == hooks.refuse_from)
		gate_wait(&refused);
}

Test(pool_threads, a_refusal_before_pthread_create_returns_is_not_forgotten)
{
	asked.made = wait_for_the_refusal;
	hooks.err = EACCES;
	for (unsigned i = 1; i <= 3; i++) {
		hooks.starts = hooks.ends = asked.calls = 0;
		hooks.refuse_from = i;
		refused = (gate_t)GATE_INITIALIZER;
		at_point("workers.not_made", gate_open, &refused);
		check_create(EACCES);
		cr_assert_leq(hooks.starts, 3);
	}
}

Test(pool_threads, create_says_so_when_worker_start_ends_its_thread)
{
	hooks.in_start = exit_thread;
	check_create(ECANCELED);
	cr_assert_eq(hooks.ends, 0);
}

Test(pool_threads, a_worker_start_that_refuses_stalls_the_pool_and_who_waits_is_told)
{
	open_with((cq_pool_config_t){ 0 });
	hooks.err = EACCES;
	cr_assert_eq(signal_jobs(&a, 1), 0); /* it is on the way, as far as anybody knows */
	AWAIT(a.stalled == 1);
	AWAIT(workers_are(0));
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_eq(stats().workers_last_errno, EACCES);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_coming, 0);
	cr_assert_eq(pool->counts, 0);
	cr_assert_eq(a.done, 0);
	cr_assert_eq(hooks.ends, 0);
	hooks.err = 0;
	cr_assert_eq(cq_pool_wake(pool), 0);
	AWAIT(a.done == 1);
	end_all();
	cr_assert_eq(hooks.ends, 1);
}

Test(pool_threads, a_worker_start_that_ends_its_thread_stalls_the_pool)
{
	open_with((cq_pool_config_t){ 0 });
	hooks.in_start = exit_thread;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.stalled == 1);
	AWAIT(workers_are(0));
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_eq(pool->counts, 0);
	hooks.in_start = NULL;
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(a.done == 1);
	end_all();
	cr_assert_eq(hooks.ends, 1);
}

static void wait_until_it_has_failed(void)
{
	if (hooks.err != 0)
		AWAIT(stats().workers_failed >= 1 && stats().workers_live == 1); /* counted, and said */
}

/* The worker that made it relies on it, and hangs. The next producer must try again. */
Test(pool_threads, a_worker_that_fails_before_its_maker_goes_on_is_made_by_the_next_signal)
{
	open_with((cq_pool_config_t){ .workers_max = 2 });
	cr_assert_eq(cq_pool_set_workers(pool, 1, 2), 0);
	fake_wait_blocked(&park, 1);
	hooks.err = EACCES;
	asked.made = wait_until_it_has_failed;
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 1);
	hooks.err = 0;
	asked.made = NULL;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	gate_open(&room.leave);
	end_all();
}

Test(pool_threads, a_signal_says_what_keeps_pthread_create_from_making_the_first)
{
	open_with((cq_pool_config_t){ 0 });
	asked.err = EAGAIN;
	cr_assert_eq(signal_jobs(&a, 1), EAGAIN);
	cr_assert_eq(a.stalled, 1);
	asked.err = EPERM;
	cr_assert_eq(cq_pool_wake(pool), EPERM);
	asked.err = 0;
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(a.done == 1);
	end_all();
}

/* ------------------------------------------------------------ tasks that end their thread */

/*
 * AddressSanitizer doesn't see how a cancellation leaves the frames of a stack (as it
 * sees it of pthread_exit), and would take the next use of that memory for an overflow.
 */
void __asan_handle_no_return(void) __attribute__((weak));

static void end_thread(void *unused)
{
	(void)unused;
	leave_jobs();
	pthread_exit(NULL);
}

static void cancel_thread(void *unused)
{
	int old;

	(void)unused;
	leave_jobs();
	if (__asan_handle_no_return != NULL)
		__asan_handle_no_return();
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	pthread_cancel(pthread_self());
	pthread_testcancel();
	CHECK(false);
}

static void check_ending(test_act_fn *act)
{
	job_t *deadly;

	open_really((cq_pool_config_t){ 0 });
	deadly = add(&a, act, NULL);
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(hooks.ends == 1); /* after lost */
	cr_assert(deadly->ran == 1 && deadly->lost == 1 && a.lost == 1);
	/* The worker is replaced, whether there is work or not. */
	AWAIT(stats().workers_created == 2 && stats().workers_live == 1);
	cr_assert_eq(stats().workers_retired, 1);
	cr_assert_eq(stats().runs, 1);
	cr_assert_eq(stats().empty_runs, 0);
	cr_assert_eq(stats().workers_running, 0);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 1);
	end_all();
	cr_assert_eq(hooks.starts, 2);
	cr_assert_eq(hooks.ends, 2);
	cr_assert_eq(a.lost, 1);
}

Test(pool_threads, a_piece_that_ends_its_thread_is_lost_and_the_worker_replaced)
{
	check_ending(end_thread);
}

Test(pool_threads, a_piece_whose_thread_is_cancelled_is_lost_and_the_worker_replaced)
{
	check_ending(cancel_thread);
}

Test(pool_threads, what_was_queued_behind_a_piece_that_ends_its_thread_is_run)
{
	open_with((cq_pool_config_t){ .workers_max = 1 });
	for (unsigned i = 0; i < 12; i++)
		add(&a, i % 3 == 0 ? end_thread : check_between, NULL);
	cr_assert_eq(cq_task_signal(a.task), 0);
	AWAIT(a.done == 8 && a.lost == 4);
	AWAIT(stats().workers_live == 1);
	end_all();
	cr_assert_eq(hooks.starts, hooks.ends);
}

static void run_and_exit(cq_run_t *run, void *arg)
{
	(void)run;
	(void)arg;
	pthread_exit(NULL);
}

Test(pool_threads, without_a_piece_in_hand_nothing_is_lost)
{
	static const cq_task_ops_t ops = { run_and_exit, lose_job, NULL };

	open_with((cq_pool_config_t){ 0 });
	cr_assert_eq(cq_task_create(pool, &ops, &b, 0, &b.task), 0);
	cr_assert_eq(cq_task_signal(b.task), 0);
	AWAIT(hooks.ends == 1);
	AWAIT(stats().workers_created == 2);
	cr_assert_eq(stats().runs, 1);
	cr_assert_eq(stats().empty_runs, 1);
	end_all();
	cr_assert_eq(b.lost, 0);
}

Test(pool_threads, a_task_that_asks_for_no_lost_has_none)
{
	static const cq_task_ops_t ops = { run_jobs, NULL, NULL };

	open_with((cq_pool_config_t){ 0 });
	cr_assert_eq(cq_task_create(pool, &ops, &b, 0, &b.task), 0);
	cr_assert_eq(signal_job(&b, end_thread, NULL), 0);
	AWAIT(hooks.ends == 1);
	end_all();
	cr_assert_eq(b.lost, 0);
}

static void run_one_of_b(void *unused)
{
	(void)unused;
	leave_jobs();
	add(&b, end_thread, NULL);
	(void)cq_task_run_some(b.task, 1);
	CHECK(false);
}

static void run_one_of_any(void *unused)
{
	(void)unused;
	leave_jobs();
	CHECK(signal_job(&b, end_thread, NULL) == 0);
	(void)cq_pool_run_some(pool, 1);
	CHECK(false);
}

/* One worker, which `outer` has run a piece of b. */
static void check_ending_within(test_act_fn *outer)
{
	open_with((cq_pool_config_t){ .workers_max = 1 });
	open_task(&b, 1);
	cr_assert_eq(signal_job(&a, outer, NULL), 0);
	AWAIT(a.lost == 1 && b.lost == 1);
	/* Both runs have ended: b is not at its limit, and both can be closed. */
	cr_assert_eq(signal_jobs(&b, 1), 0);
	AWAIT(b.done == 1);
	end_all();
}

Test(pool_threads, a_piece_that_ends_its_thread_within_run_some_is_lost_with_the_one_around_it)
{
	check_ending_within(run_one_of_b);
}

Test(pool_threads, so_it_is_within_run_some_of_the_pool)
{
	check_ending_within(run_one_of_any);
}

static void stay_and_end(void *unused)
{
	stay(&room);
	end_thread(unused);
}

Test(pool_threads, a_run_that_ends_its_thread_leaves_what_came_at_the_limit_to_others)
{
	open_with((cq_pool_config_t){ .workers_max = 2 });
	open_task(&b, 1);
	cr_assert_eq(signal_job(&b, stay_and_end, NULL), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&b, 1), 0); /* at the limit */
	gate_open(&room.leave);
	AWAIT(b.done == 1);
	cr_assert_eq(b.lost, 1);
	end_all();
}

/* It leaves that to the worker that takes its place, of whom nobody knows yet that it is none. */
Test(pool_threads, what_counts_on_a_worker_that_is_refused_goes_to_an_idle_one)
{
	open_with((cq_pool_config_t){ .workers_max = 2 });
	open_task(&b, 1);
	cr_assert_eq(signal_job(&b, stay_and_end, NULL), 0);
	AWAIT(room.inside == 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(signal_jobs(&b, 1), 0); /* at the limit */
	hooks.err = EACCES;
	gate_open(&room.leave);
	AWAIT(b.done == 1);
	cr_assert_eq(b.lost, 1);
	cr_assert_geq(stats().workers_failed, 1); /* it makes the next, refused as well */
	hooks.err = 0;
	end_all();
}

static void *close_b(void *unused)
{
	CHECK(cq_task_close(b.task, CQ_FOREVER) == 0);
	return unused;
}

Test(pool_threads, a_close_waits_for_lost_and_no_longer)
{
	pthread_t closer;

	open_with((cq_pool_config_t){ .workers_max = 1 });
	open_task(&b, 0);
	cr_assert_eq(signal_job(&b, stay_and_end, NULL), 0);
	AWAIT(room.inside == 1);
	closer = start(close_b, NULL);
	AWAIT((cq_u64_load_relaxed(&b.task->word) & TASK_CLOSED) != 0);
	gate_open(&room.leave);
	join(closer);
	cr_assert_eq(b.lost, 1);
	b.task = NULL;
	end_all();
}

Test(pool_threads, a_worker_that_can_not_be_replaced_is_one_that_could_not_be_made)
{
	open_with((cq_pool_config_t){ .workers_max = 1 });
	asked.fail_from = 2;
	asked.err = EAGAIN;
	cr_assert_eq(signal_job(&a, stay_and_end, NULL), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(signal_jobs(&a, 1), 0);
	gate_open(&room.leave);
	AWAIT(a.stalled == 1); /* whoever waits for the other job is told */
	AWAIT(workers_are(0));
	cr_assert(a.lost == 1 && a.done == 0 && hooks.ends == 1);
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_eq(signal_jobs(&a, 1), EAGAIN);
	asked.err = 0;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	AWAIT(a.done == 3);
	end_all();
}

Test(pool_threads, a_worker_that_is_ended_is_not_replaced_while_another_is_idle)
{
	open_with((cq_pool_config_t){ .workers_max = 2 });
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	cr_assert_eq(signal_job(&a, stay, &room), 0);
	AWAIT(room.inside == 2);
	gate_open(&room.leave);
	fake_wait_blocked(&park, 2);
	cr_assert_eq(signal_job(&a, end_thread, NULL), 0);
	AWAIT(hooks.ends == 1);
	AWAIT(workers_are(1));
	cr_assert_eq(a.lost, 1);
	cr_assert_eq(stats().workers_created, 2);
	end_all();
}

Test(pool_threads, a_worker_end_that_ends_its_thread_is_the_end_of_it_all_the_same)
{
	open_with((cq_pool_config_t){ .idle_ns = IDLE_NS });
	hooks.in_end = exit_thread;
	cr_assert_eq(signal_jobs(&a, 1), 0);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(workers_are(0));
	end_all();
	cr_assert_eq(hooks.ends, 1);
}

Test(pool_threads, while_it_is_being_destroyed_a_pool_replaces_nobody)
{
	open_really((cq_pool_config_t){ 0 });
	hooks.in_start = NULL;
	cr_assert_eq(signal_job(&a, end_thread, NULL), 0);
	AWAIT(a.lost == 1);
	end_pool();
	cr_assert_eq(hooks.starts, hooks.ends);
}

Test(pool_threads, a_worker_lives_in_no_more_memory_than_the_allocator_gives)
{
	open_with((cq_pool_config_t){ .idle_ns = IDLE_NS });
	for (unsigned i = 0; i < 50; i++) {
		size_t live = alloc.live_bytes;

		cr_assert_eq(signal_jobs(&a, 1), 0);
		fake_wait_blocked(&park, 1);
		fake_advance(&park, IDLE_NS);
		AWAIT(workers_are(0));
		cr_assert_eq(alloc.live_bytes, live);
	}
	end_all();
}
