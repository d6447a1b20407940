/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 3, the worker pool. A task's work is a count of pieces. A piece that
 * hangs does so until all others have run: a lost wake-up is a deadlock. Nobody signals,
 * drains or destroys before the pieces are done.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>

#include "explore.h"
#include "pool/pool_inside.h"
#include "pool/pool_priv.h"

struct work {
	cq_task_t *task;
	uint64_t left CQ_ALIGNED(8);	/* pieces */
	uint64_t running, started, ran;
	uint32_t limit, done;
	uint32_t hangs_until;	/* its first piece, until so many have run in all; 0: it doesn't */
	int letter;		/* plain: by the signaller, for the run */
	bool one_a_run;		/* so many pieces */
	bool many;		/* it says that many are left when any is */
	bool closed;		/* plain: behind the return of close */
	uint32_t told;		/* stalled was called, which several may do at once */
	bool refused;		/* signal said so */
};

static cq_pool_t *pool;
static struct work works[2];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t done, begun;	/* pieces; changed under the lock */

static void wait_for(uint32_t *count, uint32_t n)
{
	pthread_mutex_lock(&lock);
	while (cq_u32_load_relaxed(count) < n)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void add_to(uint32_t *count)
{
	pthread_mutex_lock(&lock);
	cq_u32_add_relaxed(count, 1);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* --------------------------------------------------------------------- tasks */

/* Takes a piece. *left: how many there are besides. */
static bool take(struct work *w, uint64_t *left)
{
	uint64_t n = cq_u64_load_relaxed(&w->left);

	do
		if (n == 0)
			return false;
	while (!cq_u64_cas_relaxed(&w->left, &n, n - 1));
	*left = n - 1;
	return true;
}

static void run_piece(struct work *w)
{
	uint64_t n = cq_u64_add_relaxed(&w->started, 1);

	add_to(&begun);
	if (n == 0 && w->hangs_until != 0)
		wait_for(&done, w->hangs_until);
	cq_u64_add_relaxed(&w->ran, 1);
	cq_u32_add_relaxed(&w->done, 1);
	add_to(&done);
}

static void run_work(cq_run_t *run, void *arg)
{
	struct work *w = arg;
	uint64_t left;

	CHECK(!w->closed);
	if (w->limit != 0)
		CHECK(cq_u64_add_relaxed(&w->running, 1) < w->limit);
	while (take(w, &left)) {
		if (left != 0)
			cq_run_more(run, w->many ? UINT64_MAX : left);
		cq_run_piece(run, w);
		run_piece(w);
		cq_run_piece(run, NULL);
		if (w->one_a_run || !cq_run_may_continue(run))
			break;
	}
	if (w->limit != 0)
		cq_u64_add_relaxed(&w->running, (uint64_t)-1);
}

static void tell(void *arg)
{
	struct work *w = arg;

	CHECK(!w->closed);
	cq_u32_store_relaxed(&w->told, 1);
}

static const cq_task_ops_t ops = { run_work, NULL, tell };

static void add(struct work *w, uint64_t pieces)
{
	cq_u64_add_relaxed(&w->left, pieces);
}

static void signal_work(void *arg)
{
	struct work *w = arg;

	add(w, 1);
	CHECK(cq_task_signal(w->task) == 0);
}

static void run_task(void *arg)
{
	struct work *w = arg;

	cq_task_run_some(w->task, 8);
}

static void make_task(struct work *w, uint32_t limit)
{
	w->limit = limit;
	CHECK(cq_task_create(pool, &ops, w, limit, &w->task) == 0);
}

static void close_work(struct work *w)
{
	CHECK(cq_task_close(w->task, CQ_FOREVER) == 0);
	w->closed = true;
}

/* ------------------------------------------------------------------ workers, pools */

/* How often spawn was asked, and by that, from 1 on, which asking it refuses; 0: none. */
static uint64_t asked CQ_ALIGNED(8), made, fails_from, fails_to;

static int make_worker(void *host, void (*body)(void *), void *arg)
{
	uint64_t n = cq_u64_add_relaxed(&asked, 1) + 1;

	(void)host;
	if (n >= fails_from && n <= fails_to)
		return EAGAIN;
	cq_u64_add_relaxed(&made, 1);
	spawn(body, arg);
	return 0;
}

enum {
	POLLED = CQ_POOL_POLLED,
	HOSTED = CQ_POOL_HOSTED,	/* workers come by cq_pool_work */
	RETIRING = 1 << 8		/* a worker may retire whenever it is idle */
};

/* So many idle times may end, or workers that come back go on for ever. */
static uint64_t timeouts CQ_ALIGNED(8) = 2;

static bool one_may_end(void)
{
	uint64_t n = cq_u64_load_relaxed(&timeouts);

	do
		if (n == 0)
			return false;
	while (!cq_u64_cas_relaxed(&timeouts, &n, n - 1));
	return true;
}

/* A worker that has found nothing waits for a signal before it says that it is about to sleep. */
static bool sleeps_late;
static uint32_t found_nothing, signalled;

static uint64_t now(void *unused)
{
	(void)unused;
	if (sleeps_late) {
		add_to(&found_nothing);
		wait_for(&signalled, 1);
	}
	return cq_now();
}

static void park(void *unused, cq_parker_t *parker, uint64_t deadline)
{
	const cq_park_ops_t *ops = cq_park_default();
	bool may_end = deadline != CQ_FOREVER && one_may_end();

	(void)unused;
	ops->park(ops->host, parker, may_end ? deadline : CQ_FOREVER);
	if (may_end && cq_now() < deadline)
		cq_u64_add_relaxed(&timeouts, 1);
}

static void unpark(void *unused, cq_parker_t *parker)
{
	const cq_park_ops_t *ops = cq_park_default();

	(void)unused;
	ops->unpark(ops->host, parker);
}

static const cq_park_ops_t impatient = { now, park, unpark, NULL };

static void begin(unsigned how, uint32_t min, uint32_t max)
{
	cq_pool_config_t config = {
		.flags = (how & (POLLED | HOSTED)) | CQ_POOL_NO_ATFORK,
		.workers_min = min,
		.workers_max = max,
		.spin_ns = CQ_POOL_NO_SPIN,
		.idle_ns = (how & RETIRING) != 0 ? 1 : CQ_FOREVER,
		.park = (how & RETIRING) != 0 ? &impatient : NULL,
		.spawn = (how & HOSTED) != 0 ? NULL : make_worker
	};

	CHECK(cq_pool_create(&config, &pool) == 0);
}

static int beside[4], nbeside;

static void run_beside(void (*body)(void *), void *arg)
{
	beside[nbeside++] = spawn(body, arg);
}

static void join_beside(void)
{
	while (nbeside > 0)
		join(beside[--nbeside]);
}

static void destroy(void)
{
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	join_all();
}

/* The end where it isn't what the scenario is about. */
static void end(void)
{
	calm_down();
	join_beside();
	for (int i = 0; i < 2; i++)
		if (works[i].task != NULL && !works[i].closed)
			close_work(&works[i]);
	destroy();
}

/* After `n` pieces, which are all. */
static void end_after(uint32_t n)
{
	wait_for(&done, n);
	end();
	CHECK(works[0].left == 0 && works[1].left == 0);
	CHECK(works[0].ran + works[1].ran == n);
}

/* ------------------------------------------------------------------ signal and run */

static void run_letter(cq_run_t *run, void *arg)
{
	struct work *w = arg;
	uint64_t left;

	(void)run;
	while (take(w, &left)) {
		CHECK(w->letter == 42);
		add_to(&done);
	}
}

/* The count orders nothing: the signal does. */
static void run_sees_what_was_before_its_signal(void)
{
	static const cq_task_ops_t letter_ops = { run_letter, NULL, NULL };

	begin(0, 0, 1);
	CHECK(cq_task_create(pool, &letter_ops, &works[0], 0, &works[0].task) == 0);
	works[0].letter = 42;
	signal_work(&works[0]);
	wait_for(&done, 1);
	CHECK(made == 1);
	end();
}

static void signal_against_a_worker_going_to_sleep(void)
{
	begin(0, 0, 1);
	make_task(&works[0], 0);
	signal_work(&works[0]);
	signal_work(&works[0]);
	end_after(2);
}

static void two_signal_one_task(void)
{
	begin(0, 0, 1);
	make_task(&works[0], 0);
	run_beside(signal_work, &works[0]);
	signal_work(&works[0]);
	end_after(2);
}

static void two_signal_two_tasks(void)
{
	begin(0, 0, 1);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	run_beside(signal_work, &works[1]);
	signal_work(&works[0]);
	end_after(2);
}

static void signal_at_the_limit_against_the_end_of_the_run(void)
{
	begin(0, 0, 2);
	make_task(&works[0], 1);
	signal_work(&works[0]);
	signal_work(&works[0]);
	end_after(2);
}

/* ---------------------------------------------------------------- pieces that hang */

static bool both_idle(void)
{
	return cq_sleepers_waiters(&pool->idle, NULL) == 2;
}

/* One of two that are idle is woken for both, and takes the newer first: the other is to come. */
static void record_does_not_wait_for_a_run_that_hangs(void)
{
	begin(0, 2, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	works[1].hangs_until = 1;
	while (!both_idle())
		sched_yield();
	signal_work(&works[0]);
	signal_work(&works[1]);
	end_after(2);
}

static void piece_does_not_wait_for_one_that_hangs(void)
{
	begin(0, 0, 2);
	make_task(&works[0], 0);
	works[0].hangs_until = 1;
	add(&works[0], 1);
	signal_work(&works[0]);
	end_after(2);
}

/* The record of many pieces stays for all who come: one hangs until the others have run. */
static void piece_does_not_wait_for_who_joined_and_hangs(void)
{
	begin(0, 0, 2);
	make_task(&works[0], 0);
	works[0].many = works[0].one_a_run = true;
	works[0].hangs_until = 2;
	add(&works[0], 2);
	signal_work(&works[0]);
	end_after(3);
}

/* The one who is woken for both is not to leave the other's record to nobody. */
static void record_does_not_wait_for_who_joined_and_hangs(void)
{
	begin(0, 2, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	works[0].many = works[0].one_a_run = true;
	works[0].hangs_until = 2;
	add(&works[0], 1);
	run_beside(signal_work, &works[1]);
	signal_work(&works[0]);
	end_after(3);
}

/* -------------------------------------------------------------- making and retiring */

/* The first piece hangs until all `n` have run, which its successor must see to. */
static void hang_until(struct work *w, uint32_t others)
{
	w->hangs_until = others;
}

static void signal_against_retirement_of_the_last(void)
{
	begin(RETIRING, 0, 1);
	make_task(&works[0], 0);
	signal_work(&works[0]);
	signal_work(&works[0]);
	end_after(2);
}

/* One takes the last task and hangs, while the other may retire. */
static void last_idle_worker_stays_while_another_hangs(void)
{
	begin(RETIRING, 0, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	signal_work(&works[0]);
	signal_work(&works[1]);
	end_after(2);
}

/* The same, and the second signal comes when nothing else happens any more. */
static void signal_when_begun(void *arg)
{
	wait_for(&begun, 1);
	signal_work(arg);
}

static void last_idle_worker_stays_for_a_later_signal(void)
{
	begin(RETIRING, 0, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	signal_work(&works[0]);
	signal_when_begun(&works[1]);
	end_after(2);
}

/* Who signals promises to wake the worker, which is prepared, and then takes the piece by itself, and hangs. The
   promise is taken back: it must not count on that, and makes the next. */
static void worker_makes_the_next_beside_a_promise(void)
{
	begin(0, 1, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	while (cq_sleepers_waiters(&pool->idle, NULL) == 0)
		sched_yield();
	signal_work(&works[0]);
	signal_when_begun(&works[1]);
	end_after(2);
}

/* One retires and sees the other idle; that one takes a task, and is to see the first gone. */
static void worker_sees_that_another_has_retired(void)
{
	begin(RETIRING, 2, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	cq_u32_store_relaxed(&pool->min, 0);
	while (cq_u64_load_relaxed(&pool->retired) == 0 && cq_u64_load_relaxed(&timeouts) != 0)
		sched_yield();
	signal_work(&works[0]);
	signal_when_begun(&works[1]);
	end_after(2);
}

/* The one that retires sees as idle who is taking a task, and is to see it gone. */
static void retirement_against_one_that_takes_a_task(void)
{
	cq_run_t *me;
	bool gone;

	timeouts = 0;
	sleeps_late = true;
	begin(RETIRING, 1, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	CHECK(cq_member_new(pool, COUNT_MADE + COUNT_LIVE, &me) == 0);
	cq_u64_add_relaxed(&pool->counts, me->count);
	wait_for(&found_nothing, 1);
	signal_work(&works[0]);
	add_to(&signalled);
	while (cq_pool_waiting(pool) != 0)
		sched_yield();
	gone = cq_workers_retire(me);
	signal_when_begun(&works[1]);
	if (!gone)
		run_task(&works[1]);
	cq_u64_add_relaxed(&pool->counts, 0 - me->count);
	cq_member_leave(me);
	end_after(2);
}

/* The first worker can make no other, and hangs. Who made it comes late to note that it lives. */
static void later_failure_is_not_forgotten(void)
{
	begin(0, 0, 2);
	fails_from = fails_to = 2;
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	run_beside(signal_work, &works[0]);
	signal_when_begun(&works[1]);
	end_after(2);
}

/* The second counts on the making of the first, which fails: it is told. */
static void signal_that_may_stall(void *arg)
{
	struct work *w = arg;
	int err;

	add(w, 1);
	err = cq_task_signal(w->task);
	CHECK(err == 0 || err == EAGAIN);
	if (err != 0)
		w->refused = true;
}

static void who_relies_on_a_failed_making_is_told(void)
{
	begin(0, 0, 1);
	fails_from = 1;
	fails_to = 2;
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	run_beside(signal_that_may_stall, &works[0]);
	signal_that_may_stall(&works[1]);
	join_beside();
	CHECK(works[0].told || works[0].refused);
	CHECK(works[1].told || works[1].refused);
	end();
}

/* ------------------------------------------------------------ limits that are changed */

/* The one at work is one too many then. What it leaves in the stack is for the one that sleeps. */
static void one_too_many_leaves_its_task_to_who_is_idle(void)
{
	begin(0, 2, 2);
	make_task(&works[0], 1);
	works[0].one_a_run = true;
	hang_until(&works[0], 1);
	signal_work(&works[0]);
	wait_for(&begun, 1);
	CHECK(cq_pool_set_workers(pool, 0, 1) == 0);
	signal_work(&works[0]);
	add_to(&done);
	wait_for(&done, 3);
	end();
}

static void raised_limit_makes_the_next(void)
{
	begin(0, 0, 1);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	signal_work(&works[0]);
	CHECK(cq_pool_set_workers(pool, 0, 2) == 0);
	signal_when_begun(&works[1]);
	end_after(2);
}

/* ------------------------------------------------------------------ threads of the host */

static void work_for_a_while(void *unused)
{
	(void)unused;
	CHECK(cq_pool_work(pool, NULL, 1) == ETIMEDOUT);
}

/* It lives, so the signal makes no worker; and leaves. */
static void signal_against_a_leaving_thread_of_the_host(void)
{
	begin(0, 0, 1);
	make_task(&works[0], 0);
	run_beside(work_for_a_while, NULL);
	signal_work(&works[0]);
	end_after(1);
}

static uint32_t gone;

static void work_until_soon(void *unused)
{
	(void)unused;
	CHECK(cq_pool_work(pool, NULL, cq_deadline_in(5)) == ETIMEDOUT);
	cq_u32_store_relaxed(&gone, 1);
}

/* It is idle, so the worker makes no other before it hangs; and leaves. */
static void leaving_thread_of_the_host_makes_the_next(void)
{
	begin(0, 1, 2);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	hang_until(&works[0], 1);
	run_beside(work_until_soon, NULL);
	while (cq_sleepers_waiters(&pool->idle, NULL) != 2 && cq_u32_load_relaxed(&gone) == 0)
		sched_yield();
	signal_work(&works[0]);
	signal_when_begun(&works[1]);
	end_after(2);
}

/* Nobody serves when it is signalled, or no longer: the signaller hears of it in either case. */
static void who_waits_where_nobody_serves_is_told(void)
{
	bool lone;

	begin(HOSTED, 0, 1);
	make_task(&works[0], 0);
	run_beside(work_for_a_while, NULL);
	signal_work(&works[0]);
	lone = cq_pool_wake(pool) == EAGAIN;
	join_beside();
	CHECK(lone || works[0].told || works[0].ran == 1);
	end();
}

/* ---------------------------------------------------------------------------- timed */

/* The tasks are their owners', so that whoever signals one tells it. The model's time begins later. */
enum { PAST = 1, FUTURE = 1000000 };

static void told_at_its_time(void *arg)
{
	tell(arg);
	add_to(&done);
}

static const cq_task_ops_t timed_ops = { run_work, NULL, told_at_its_time };

static void begin_timed(unsigned how)
{
	begin(how, 0, 1);
	for (int i = 0; i < 2; i++)
		CHECK(cq_task_create(pool, &timed_ops, &works[i], CQ_BY_OWNER, &works[i].task) == 0);
}

static void time_work(struct work *w, uint64_t at)
{
	int err = cq_task_signal_at(w->task, at);

	CHECK(err == 0 || (err == EAGAIN && fails_from != 0));
	if (err != 0)
		w->refused = true;
}

static void time_past(void *arg)
{
	time_work(arg, PAST);
}

static void poll(void *unused)
{
	(void)unused;
	(void)cq_pool_needs_wake(pool);
}

static void timed_against_a_look_of_the_clock(void)
{
	begin_timed(0);
	time_work(&works[0], PAST);
	time_work(&works[1], PAST + 1);
	wait_for(&done, 2);
	end();
}

/* It is about to sleep for ever: no time comes. */
static void earlier_against_the_clock_going_to_sleep(void)
{
	timeouts = 0;
	begin_timed(RETIRING);
	time_work(&works[0], FUTURE);
	time_work(&works[1], PAST);
	wait_for(&done, 1);
	CHECK(works[1].told && !works[0].told);
	end();
}

static void later_in_place_of_earlier_against_the_clock(void)
{
	begin_timed(0);
	time_work(&works[0], FUTURE);
	time_work(&works[0], FUTURE + 1);
	while (cq_task_is_timed(works[0].task))
		sched_yield();
	CHECK(cq_now() >= FUTURE + 1);
	end();
}

static void two_are_timed(void)
{
	begin_timed(0);
	run_beside(time_past, &works[0]);
	time_work(&works[1], PAST + 1);
	wait_for(&done, 2);
	CHECK(made == 1);
	end();
}

static void time_and_wait(struct work *w, uint64_t at)
{
	time_work(w, at);
	while (!w->refused && cq_u32_load_relaxed(&w->told) == 0)
		sched_yield();
}

static void time_past_and_wait(void *arg)
{
	time_and_wait(arg, PAST);
}

/* And nobody relies on it afterwards, whatever time was the earliest. */
static void who_relies_on_a_clock_that_is_not_made_is_told(void)
{
	static struct work third;

	begin_timed(0);
	CHECK(cq_task_create(pool, &timed_ops, &third, CQ_BY_OWNER, &third.task) == 0);
	fails_from = fails_to = 1;
	run_beside(time_past_and_wait, &works[0]);
	time_and_wait(&works[1], PAST + 1);
	join_beside();
	time_and_wait(&third, PAST + 2);
	CHECK(!third.refused);
	close_work(&third);
	end();
}

static void timed_in_a_polled_pool(void)
{
	begin_timed(POLLED);
	time_work(&works[0], PAST);
	run_beside(poll, NULL);
	time_work(&works[1], PAST + 1);
	poll(NULL);
	join_beside();
	poll(NULL);
	CHECK(works[0].told && works[1].told);
	end();
}

static void told_with_its_letter(void *arg)
{
	CHECK(((struct work *)arg)->letter == 42);
	told_at_its_time(arg);
}

/* Who looks came for another's time. */
static void what_was_before_its_time_is_seen(void)
{
	static const cq_task_ops_t letter_ops = { run_work, NULL, told_with_its_letter };

	begin(POLLED, 0, 1);
	for (int i = 0; i < 2; i++)
		CHECK(cq_task_create(pool, &letter_ops, &works[i], CQ_BY_OWNER, &works[i].task) == 0);
	works[0].letter = 42;
	time_work(&works[0], PAST);
	run_beside(poll, NULL);
	works[1].letter = 42;
	time_work(&works[1], PAST);
	join_beside();
	poll(NULL);
	CHECK(works[0].told && works[1].told);
	end();
}

/* The clock may look while the poller signals the one, and still waits for the other. */
static void who_polls_beside_the_clock(void)
{
	begin_timed(0);
	time_work(&works[0], FUTURE);
	time_work(&works[1], PAST);
	poll(NULL);
	wait_for(&done, 2);
	end();
}

static void close_against_the_clock(void)
{
	begin_timed(0);
	time_work(&works[0], PAST);
	close_work(&works[0]);
	end();
}

/* ---------------------------------------------------------------------------- close */

static void run_and_leave_a_letter(cq_run_t *run, void *arg)
{
	struct work *w = arg;
	uint64_t left;

	(void)run;
	CHECK(!w->closed);
	if (take(w, &left))
		w->letter = 42;
}

/* What a run did is seen behind a close that waited for it, and none begins afterwards. */
static void close_against_a_run(void)
{
	static const cq_task_ops_t letter_ops = { run_and_leave_a_letter, NULL, NULL };

	begin(0, 0, 1);
	CHECK(cq_task_create(pool, &letter_ops, &works[0], 0, &works[0].task) == 0);
	signal_work(&works[0]);
	close_work(&works[0]);
	CHECK(works[0].letter == (works[0].left == 0 ? 42 : 0));
	destroy();
}

/* The same, and the run ends as the close looks. */
static void run_and_leave_a_letter_late(cq_run_t *run, void *arg)
{
	add_to(&begun);
	wait_for(&done, 1);
	run_and_leave_a_letter(run, arg);
}

static void close_against_the_end_of_a_run(void)
{
	static const cq_task_ops_t letter_ops = { run_and_leave_a_letter_late, NULL, NULL };

	begin(0, 0, 1);
	CHECK(cq_task_create(pool, &letter_ops, &works[0], 0, &works[0].task) == 0);
	signal_work(&works[0]);
	wait_for(&begun, 1);
	add_to(&done);
	close_work(&works[0]);
	CHECK(works[0].letter == 42);
	destroy();
}

static void close_against_two_runs(void)
{
	begin(0, 2, 2);
	make_task(&works[0], 0);
	add(&works[0], 1);
	signal_work(&works[0]);
	close_work(&works[0]);
	end();
}

/* Who joins finds the record closed, free, or in use again by a task of which there is one run at a time. */
static void close_against_who_joins(void)
{
	begin(0, 2, 2);
	make_task(&works[0], 0);
	works[0].many = true;
	add(&works[0], 1);
	signal_work(&works[0]);
	close_work(&works[0]);
	make_task(&works[1], 1);
	signal_work(&works[1]);
	wait_for(&works[1].done, 1);
	end();
}

/* One run goes on until the close has begun: no other is joined behind that. */
static void close_against_who_joins_a_run(void)
{
	begin(0, 2, 2);
	make_task(&works[0], 0);
	works[0].many = true;
	works[0].hangs_until = 1;
	add(&works[0], 1);
	signal_work(&works[0]);
	wait_for(&begun, 1);
	add_to(&done);
	close_work(&works[0]);
	end();
}

/* A record that is closed in the stack is freed by who pops it, or by the closer: once. */
static void closed_record_is_used_again(void)
{
	cq_task_t *other;

	begin(0, 0, 1);
	make_task(&works[0], 1);
	signal_work(&works[0]);
	close_work(&works[0]);
	make_task(&works[1], 1);
	CHECK(cq_task_create(pool, &ops, NULL, 1, &other) == 0);
	CHECK(works[1].task != other);
	run_beside(signal_work, &works[1]);
	wait_for(&works[1].done, 1);
	CHECK(cq_task_close(other, CQ_FOREVER) == 0);
	end();
}

static void run_pool_once(void *unused)
{
	(void)unused;
	cq_pool_run_some(pool, 1);
}

/* The last thread of the host leaves a piece, and tells all tasks: one whose record was another's, and that
   is gone next. */
static void task_is_made_and_closed_while_all_are_told(void)
{
	begin(HOSTED, 0, 1);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	CHECK(cq_task_close(works[1].task, CQ_FOREVER) == 0);
	add(&works[0], 1);
	signal_work(&works[0]);
	run_beside(run_pool_once, NULL);
	make_task(&works[1], 0);
	close_work(&works[1]);
	end();
}

/* -------------------------------------------------------------------- runs in callers */

static void run_pool(void *unused)
{
	(void)unused;
	cq_pool_run_some(pool, 8);
}

/* Whoever is at the limit first, the other's signal is not lost. */
static void caller_and_worker_at_the_limit(void)
{
	begin(0, 0, 1);
	make_task(&works[0], 1);
	run_beside(run_task, &works[0]);
	signal_work(&works[0]);
	signal_work(&works[0]);
	end_after(2);
}

/* It may find nothing. No worker is made in between: whoever begins clears IN, and looks at the work behind its own fence alone. */
static void signal_against_a_run_in_a_caller(void)
{
	begin(POLLED, 0, 1);
	make_task(&works[0], 0);
	CHECK(cq_task_signal(works[0].task) == 0);
	run_beside(run_pool, NULL);
	signal_work(&works[0]);
	join_beside();
	run_pool(NULL);
	end_after(1);
}

/* The owner takes its event back, then looks: for what it misses it is told anew. What it is told of late it may have
   run already, by the event of another. */
static void signal_against_a_run_of_the_owner(void)
{
	begin(0, 0, 1);
	make_task(&works[0], CQ_BY_OWNER);
	run_beside(signal_work, &works[0]);
	run_beside(signal_work, &works[0]);
	for (int i = 0; i < 2; i++) {
		cq_u32_store_relaxed(&works[0].told, 0);
		run_task(&works[0]);
	}
	join_beside();
	if (works[0].told != 0)
		run_task(&works[0]);
	end_after(2);
}

static void ask_for_statistics(void *unused)
{
	cq_pool_stats_t s;

	(void)unused;
	cq_pool_stats(pool, &s);
	CHECK(s.empty_runs <= s.runs && s.workers_live <= s.workers_peak);
}

/* A run that finds nothing is counted twice, as a run and as an empty one. */
static void statistics_against_an_empty_run(void)
{
	begin(HOSTED, 0, 1);
	make_task(&works[0], 0);
	run_beside(ask_for_statistics, NULL);
	run_task(&works[0]);
	join_beside();
	end_after(0);
}

/* It has just been popped, and hides the other: what its pop wrote may not follow. */
static void record_is_pushed_over_another(void)
{
	begin(POLLED, 0, 1);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	signal_work(&works[0]);
	run_beside(run_pool_once, NULL);
	while (cq_pool_waiting(pool) != 0)
		sched_yield();
	signal_work(&works[1]);
	signal_work(&works[0]);
	join_beside();
	run_pool(NULL);
	end_after(3);
}

/* The stacks change places while records are pushed and popped. */
static void stacks_change_places(void)
{
	begin(POLLED, 0, 1);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	signal_work(&works[0]);
	signal_work(&works[1]);
	run_beside(run_pool, NULL);
	run_beside(run_pool, NULL);
	signal_work(&works[0]);
	join_beside();
	run_pool(NULL);
	end_after(3);
}

static void poller_wakes_for_what_it_signalled(void)
{
	begin(POLLED, 0, 1);
	make_task(&works[0], 0);
	make_task(&works[1], 0);
	signal_work(&works[0]);
	CHECK(cq_pool_wake(pool) == 0);
	signal_work(&works[1]);
	CHECK(cq_pool_wake(pool) == 0);
	end_after(2);
}

/* What is being made may have looked already. */
static void poller_wakes_for_what_another_signalled(void)
{
	begin(POLLED, 1, 1);
	make_task(&works[0], 0);
	run_beside(signal_work, &works[0]);
	while (cq_pool_waiting(pool) == 0 && cq_u32_load_relaxed(&done) == 0)
		sched_yield();
	CHECK(cq_pool_wake(pool) == 0);
	end_after(1);
}

/* --------------------------------------------------------------------- create, destroy */

static void destroy_against_a_worker_that_leaves(void)
{
	begin(RETIRING, 1, 2);
	make_task(&works[0], 0);
	signal_work(&works[0]);
	wait_for(&done, 1);
	close_work(&works[0]);
	destroy();
}

static void destroy_with_a_deadline(void)
{
	int err;

	begin(0, 1, 1);
	err = cq_pool_destroy(pool, cq_deadline_in(1));
	CHECK(err == 0 || err == ETIMEDOUT);
	if (err != 0)
		CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	join_all();
}

static uint64_t started CQ_ALIGNED(8);

static int start_refuses_one(void *host)
{
	(void)host;
	return cq_u64_add_relaxed(&started, 1) == 0 ? EPERM : 0;
}

/* One of two that create makes refuses to start: create says so, and nothing is left. */
static void refused_start_is_the_error_of_create(void)
{
	cq_pool_config_t config = {
		.flags = CQ_POOL_NO_ATFORK, .workers_min = 2, .workers_max = 2,
		.spin_ns = CQ_POOL_NO_SPIN, .worker_start = start_refuses_one
	};

	CHECK(cq_pool_create(&config, &pool) == EPERM);
}

static void managed_worker_is_joined(void)
{
	cq_pool_config_t config = {
		.flags = CQ_POOL_NO_ATFORK, .workers_max = 1, .spin_ns = CQ_POOL_NO_SPIN
	};

	CHECK(cq_pool_create(&config, &pool) == 0);
	make_task(&works[0], 0);
	signal_work(&works[0]);
	wait_for(&done, 1);
	close_work(&works[0]);
	destroy();
}

static void create_one(void *unused)
{
	cq_pool_config_t config = { .workers_max = 1, .spin_ns = CQ_POOL_NO_SPIN };
	cq_pool_t *p;

	(void)unused;
	CHECK(cq_pool_create(&config, &p) == 0);
	CHECK(cq_pool_destroy(p, CQ_FOREVER) == 0);
}

static void two_create_their_first_pools(void)
{
	run_beside(create_one, NULL);
	create_one(NULL);
	join_beside();
}

/* A worker that was to retire is needed for the minimum that was raised meanwhile. */
static void raised_minimum_against_retirement(void)
{
	begin(RETIRING, 0, 2);
	make_task(&works[0], 0);
	signal_work(&works[0]);
	wait_for(&done, 1);
	CHECK(cq_pool_set_workers(pool, 1, 2) == 0);
	while (counts_made(cq_u64_load_relaxed(&pool->counts)) == 0)
		sched_yield();
	end();
}

const struct scenario pool_scenarios[] = {
	{ "pool_run_sees_what_was_before_its_signal", run_sees_what_was_before_its_signal,
	    SOME(2, 1), SOME(4, 3) },
	{ "pool_signal_against_a_worker_going_to_sleep", signal_against_a_worker_going_to_sleep,
	    SOME(2, 1), SOME(4, 2) },
	{ "pool_two_signal_one_task", two_signal_one_task, SOME(1, 1), SOME(3, 2) },
	{ "pool_two_signal_two_tasks", two_signal_two_tasks, SOME(1, 1), SOME(3, 2) },
	{ "pool_signal_at_the_limit_against_the_end_of_the_run",
	    signal_at_the_limit_against_the_end_of_the_run, SOME(1, 1), SOME(3, 2) },
	{ "pool_record_does_not_wait_for_a_run_that_hangs", record_does_not_wait_for_a_run_that_hangs,
	    SOME(0, 1), SOME(1, 1) },
	{ "pool_piece_does_not_wait_for_one_that_hangs", piece_does_not_wait_for_one_that_hangs,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_piece_does_not_wait_for_who_joined_and_hangs", piece_does_not_wait_for_who_joined_and_hangs,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_record_does_not_wait_for_who_joined_and_hangs", record_does_not_wait_for_who_joined_and_hangs,
	    SOME(1, 0), SOME(2, 0) },
	{ "pool_worker_makes_the_next_beside_a_promise",
	    worker_makes_the_next_beside_a_promise, SOME(2, 0), SOME(3, 1) },
	{ "pool_signal_against_retirement_of_the_last",
	    signal_against_retirement_of_the_last, SOME(1, 1), SOME(2, 2) },
	{ "pool_last_idle_worker_stays_while_another_hangs",
	    last_idle_worker_stays_while_another_hangs, SOME(1, 1), SOME(2, 2) },
	{ "pool_last_idle_worker_stays_for_a_later_signal",
	    last_idle_worker_stays_for_a_later_signal, SOME(1, 0), SOME(2, 1) },
	{ "pool_retirement_against_one_that_takes_a_task",
	    retirement_against_one_that_takes_a_task, SOME(1, 1), SOME(2, 2) },
	{ "pool_later_failure_is_not_forgotten",
	    later_failure_is_not_forgotten, SOME(1, 1), SOME(2, 2) },
	{ "pool_who_relies_on_a_failed_making_is_told",
	    who_relies_on_a_failed_making_is_told, SOME(2, 1), SOME(2, 2) },
	{ "pool_one_too_many_leaves_its_task_to_who_is_idle",
	    one_too_many_leaves_its_task_to_who_is_idle, SOME(1, 1), SOME(2, 2) },
	{ "pool_raised_limit_makes_the_next",
	    raised_limit_makes_the_next, SOME(1, 1), SOME(2, 2) },
	{ "pool_signal_against_a_leaving_thread_of_the_host",
	    signal_against_a_leaving_thread_of_the_host, SOME(2, 1), SOME(2, 2) },
	{ "pool_leaving_thread_of_the_host_makes_the_next",
	    leaving_thread_of_the_host_makes_the_next, SOME(0, 1), SOME(2, 1) },
	{ "pool_who_waits_where_nobody_serves_is_told",
	    who_waits_where_nobody_serves_is_told, SOME(2, 1), SOME(2, 2) },
	{ "pool_timed_against_a_look_of_the_clock", timed_against_a_look_of_the_clock,
	    SOME(2, 1), SOME(3, 2) },
	{ "pool_earlier_against_the_clock_going_to_sleep", earlier_against_the_clock_going_to_sleep,
	    SOME(2, 1), SOME(3, 2) },
	{ "pool_later_in_place_of_earlier_against_the_clock", later_in_place_of_earlier_against_the_clock,
	    SOME(2, 1), SOME(3, 2) },
	{ "pool_two_are_timed", two_are_timed, SOME(2, 1), SOME(3, 2) },
	{ "pool_who_relies_on_a_clock_that_is_not_made_is_told",
	    who_relies_on_a_clock_that_is_not_made_is_told, SOME(2, 1), SOME(2, 2) },
	{ "pool_timed_in_a_polled_pool", timed_in_a_polled_pool, SOME(2, 1), SOME(3, 2) },
	{ "pool_what_was_before_its_time_is_seen", what_was_before_its_time_is_seen, SOME(2, 1), SOME(3, 2) },
	{ "pool_who_polls_beside_the_clock", who_polls_beside_the_clock, SOME(2, 1), SOME(3, 2) },
	{ "pool_close_against_the_clock", close_against_the_clock, SOME(2, 1), SOME(3, 2) },
	{ "pool_close_against_a_run", close_against_a_run,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_close_against_the_end_of_a_run", close_against_the_end_of_a_run,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_close_against_two_runs", close_against_two_runs,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_task_is_made_and_closed_while_all_are_told", task_is_made_and_closed_while_all_are_told,
	    SOME(2, 1), SOME(3, 2) },
	{ "pool_close_against_who_joins", close_against_who_joins,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_close_against_who_joins_a_run", close_against_who_joins_a_run,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_closed_record_is_used_again", closed_record_is_used_again,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_caller_and_worker_at_the_limit", caller_and_worker_at_the_limit,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_signal_against_a_run_in_a_caller", signal_against_a_run_in_a_caller,
	    SOME(2, 1), SOME(3, 2) },
	{ "pool_signal_against_a_run_of_the_owner", signal_against_a_run_of_the_owner,
	    SOME(3, 1), SOME(3, 2) },
	{ "pool_statistics_against_an_empty_run", statistics_against_an_empty_run,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_record_is_pushed_over_another", record_is_pushed_over_another,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_stacks_change_places", stacks_change_places,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_poller_wakes_for_what_it_signalled", poller_wakes_for_what_it_signalled,
	    SOME(2, 1), SOME(2, 2) },
	{ "pool_poller_wakes_for_what_another_signalled", poller_wakes_for_what_another_signalled,
	    SOME(2, 1), SOME(3, 2) },
	{ "pool_destroy_against_a_worker_that_leaves", destroy_against_a_worker_that_leaves,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_destroy_with_a_deadline", destroy_with_a_deadline,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_refused_start_is_the_error_of_create", refused_start_is_the_error_of_create,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_managed_worker_is_joined", managed_worker_is_joined,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_two_create_their_first_pools", two_create_their_first_pools,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_raised_minimum_against_retirement", raised_minimum_against_retirement,
	    SOME(1, 1), SOME(2, 2) },
	{ "pool_worker_sees_that_another_has_retired",
	    worker_sees_that_another_has_retired, SOME(0, 1), SOME(1, 1) },
	{ 0 }
};
