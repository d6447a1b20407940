/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Callbacks that end their thread, by pthread_exit or because it is cancelled
 * inside of them: that costs the one thread and no callback. The rest of the
 * block runs elsewhere, once, another worker is made where there is work, and
 * drains and shutdowns go on. And threads that are cancelled anywhere else in
 * the library: they leave it first.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup/cleanup_priv.h"
#include "support.h"

TestSuite(endings, .timeout = 60);

/* Blocks are of four callbacks: a first, two in the middle, a last. */
enum { SLOTS = 4, BLOCKS = 40, RECORDS = 4096, BUDGET = 3 };

#include "records.h" /* of RECORDS callbacks */

static cq_cleanup_t *q;
static cq_producer_t *p;
static fake_park_t park;

static void end_thread(void *arg)
{
	record(arg);
	pthread_exit(NULL);
}

/*
 * AddressSanitizer doesn't see how a cancellation leaves the frames of a stack (as it
 * sees it of pthread_exit), and would take the next use of that memory for an overflow.
 */
void __asan_handle_no_return(void) __attribute__((weak));

static void expect_cancellation(void)
{
	if (__asan_handle_no_return != NULL)
		__asan_handle_no_return();
}

/* Like a callback of a program that cancels its threads. Managed ones have to allow it. */
static void cancel_thread(void *arg)
{
	int old;

	record(arg);
	expect_cancellation();
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	pthread_cancel(pthread_self());
	pthread_testcancel();
	CHECK(false);
}

static struct {
	atomic_uint inside;
	gate_t leave;
} room = { 0, GATE_INITIALIZER };

static void stay_and_end_thread(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	end_thread(arg);
}

static void enqueue(cq_callback_fn *fn)
{
	CHECK(cq_producer_enqueue(p, fn, next_record()) == 0);
}

/* A full block, with `fn` at one place and callbacks that return around it. */
static void publish_block(cq_callback_fn *fn, unsigned place)
{
	for (unsigned i = 0; i < SLOTS; i++)
		enqueue(i == place ? fn : record);
}

/* ------------------------------------------------------------ the host's threads */

static struct host_thread {
	void (*body)(void *arg);
	void *arg;
	pthread_t thread;
} threads[256];
static atomic_uint nthreads, nreturned; /* of `spawn`: the bodies that have returned */
static atomic_bool ending;
static int spawn_err;

static void *be_thread(void *arg)
{
	struct host_thread *t = arg;

	t->body(t->arg);
	nreturned++;
	return NULL;
}

static int spawn(void *unused, void (*body)(void *arg), void *arg)
{
	unsigned i;

	(void)unused;
	if (spawn_err != 0)
		return spawn_err;
	i = nthreads++;
	CHECK(i < 256);
	threads[i] = (struct host_thread){ .body = body, .arg = arg };
	threads[i].thread = start(be_thread, &threads[i]);
	return 0;
}

/* One more thread in the place of each that a callback ends, as long as there is work. */
static void *keep_alive(void *body)
{
	static char returned_;

	while (join(start(*(void *(**)(void *))body, &returned_)) != &returned_)
		;
	return NULL;
}

static void keep_two(void *(**body)(void *))
{
	spawn_err = EAGAIN; /* nobody else */
	for (unsigned i = 0; i < 2; i++)
		threads[nthreads++].thread = start(keep_alive, body);
}

static void join_threads(void)
{
	ending = true;
	for (unsigned i = 0; i < nthreads; i++)
		join(threads[i].thread);
}

static void *work(void *returned_)
{
	int err = cq_cleanup_work(q);

	CHECK(err == 0 || err == ESHUTDOWN);
	return returned_;
}

static void *poll(void *returned_)
{
	while (!ending)
		if (cq_cleanup_run_some(q, BUDGET) == 0)
			sched_yield();
	return returned_;
}

static void detach(void *w)
{
	cq_worker_detach(w);
}

static void *dequeue(void *returned_)
{
	cq_worker_t *w;
	cq_block_t *b;
	int err = cq_worker_attach(q, NULL, &w);

	CHECK(err == 0 || err == ESHUTDOWN);
	if (err != 0)
		return returned_;
	pthread_cleanup_push(detach, w);
	while ((b = cq_worker_dequeue(w)) != NULL)
		cq_worker_run(w, b);
	pthread_cleanup_pop(1);
	return returned_;
}

/* The same, but it calls by itself, so that the detach finds a block in hand. */
static void *dequeue_and_call(void *returned_)
{
	cq_callback_fn *fn;
	cq_worker_t *w;
	cq_block_t *b;
	void *arg;
	int err = cq_worker_attach(q, NULL, &w);

	CHECK(err == 0 || err == ESHUTDOWN);
	if (err != 0)
		return returned_;
	pthread_cleanup_push(detach, w);
	while ((b = cq_worker_dequeue(w)) != NULL) {
		while (cq_block_next(b, &fn, &arg))
			fn(arg);
		cq_worker_finish(w, b);
	}
	pthread_cleanup_pop(1);
	return returned_;
}

/* ------------------------------------------------------------- opening and closing */

static void open_with(cq_cleanup_config_t config)
{
	fake_init(&park);
	config.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t);
	if (config.max_workers == 0)
		config.max_workers = 1;
	config.idle_ns = CQ_FOREVER;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(q->slots, SLOTS);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
}

/* Workers park in the fake, so "asleep" is something to wait for. */
static void open_hosted(uint32_t max_workers)
{
	open_with((cq_cleanup_config_t){ .max_workers = max_workers, .spawn = spawn,
	    .park = &park.ops });
}

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
}

static int shut_down(cq_shutdown_how_t how)
{
	return cq_cleanup_shutdown(q, how, CQ_FOREVER, take_back, &returned);
}

/* A drain in a queue whose workers are the host's is told when there is none for a moment. */
static int drain(void)
{
	int err;

	while ((err = cq_cleanup_drain(q, CQ_FOREVER)) == EAGAIN)
		CHECK(spawn_err != 0);
	return err;
}

/* The books agree: nothing that was accepted is lost or came twice, and nobody is left. */
static void close_queue(void)
{
	cq_cleanup_stats_t s;

	cq_producer_detach(p);
	while (shut_down(CQ_SHUTDOWN_DRAIN) == EAGAIN)
		CHECK(spawn_err != 0);
	join_threads();
	s = stats();
	cr_assert_eq(s.queued, accepted);
	cr_assert_eq(s.executed, ran);
	cr_assert_eq(s.handed_back, returned);
	cr_assert_eq(ran + returned, accepted);
	for (unsigned i = 0; i < accepted; i++)
		cr_assert_eq(records[i], 1);
	cr_assert_eq(s.workers_live, 0);
	cr_assert_eq(s.workers_coming, 0);
	cr_assert_eq(s.workers_asleep, 0);
	cr_assert_eq(s.workers_running, 0);
	cr_assert_eq(q->crew, 0);
	cr_assert_eq(q->pollers, 0);
	cr_assert_null(cq_frames());
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* ------------------------------------------------------- wherever, in all the ways */

struct way {
	const char *name;
	cq_cleanup_config_t config;
	void *(*keep)(void *); /* what two of the host's threads do, again when they end */
};

static struct way managed = { "managed", { .max_workers = 1 }, NULL };
static struct way hosted = { "hosted", { .spawn = spawn }, NULL };
static struct way working = { "cq_cleanup_work", { .spawn = spawn }, work };
static struct way handles = { "dequeue, run", { .spawn = spawn }, dequeue };
static struct way callers = { "dequeue, next", { .spawn = spawn }, dequeue_and_call };
static struct way polled = { "polled", { .flags = CQ_POLLED }, poll };

static void open_way(struct way *way)
{
	open_with(way->config);
	if (way->keep != NULL)
		keep_two(&way->keep);
}

/* Block after block with a callback that ends its thread, at each place in turn. */
static void loses_nothing_but_threads(struct way *way, cq_callback_fn *end)
{
	open_way(way);
	for (unsigned i = 0; i < BLOCKS; i++) {
		publish_block(end, i % SLOTS);
		if (i % 8 == 0)
			cr_assert_eq(drain(), 0);
	}
	cr_assert_eq(drain(), 0);
	cr_assert_eq(ran, BLOCKS * SLOTS, "%s", way->name);
	cr_assert_eq(stats().executed, ran);
	if (way->keep == NULL) {
		cr_assert_leq(stats().workers_live, 1);
		AWAIT(stats().workers_created >= BLOCKS); /* counted when made */
		cr_assert_eq(stats().workers_retired, BLOCKS);
	}
	close_queue();
}

Test(endings, a_callback_ends_a_managed_thread)
{
	loses_nothing_but_threads(&managed, end_thread);
}

Test(endings, a_callback_ends_a_hosted_thread)
{
	loses_nothing_but_threads(&hosted, end_thread);
	cr_assert_leq(nreturned, 1); /* the others ended within the body */
}

Test(endings, a_callback_ends_a_thread_that_works)
{
	loses_nothing_but_threads(&working, end_thread);
}

Test(endings, a_callback_ends_a_thread_that_dequeues)
{
	loses_nothing_but_threads(&handles, end_thread);
}

Test(endings, a_callback_ends_a_thread_that_calls_by_itself)
{
	loses_nothing_but_threads(&callers, end_thread);
}

Test(endings, a_callback_ends_a_polling_thread)
{
	loses_nothing_but_threads(&polled, end_thread);
}

Test(endings, a_managed_thread_is_cancelled_in_a_callback)
{
	loses_nothing_but_threads(&managed, cancel_thread);
}

Test(endings, a_hosted_thread_is_cancelled_in_a_callback)
{
	loses_nothing_but_threads(&hosted, cancel_thread);
}

Test(endings, a_thread_that_works_is_cancelled_in_a_callback)
{
	loses_nothing_but_threads(&working, cancel_thread);
}

Test(endings, a_thread_that_dequeues_is_cancelled_in_a_callback)
{
	loses_nothing_but_threads(&handles, cancel_thread);
}

Test(endings, a_polling_thread_is_cancelled_in_a_callback)
{
	loses_nothing_but_threads(&polled, cancel_thread);
}

/* ------------------------------------------------------ while others wait for it */

static void *drain_in_thread(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	return unused;
}

Test(endings, a_drain_goes_on_and_the_only_worker_is_replaced)
{
	pthread_t drainer;

	open_hosted(1);
	publish_block(stay_and_end_thread, 1);
	AWAIT(room.inside == 1);
	drainer = start(drain_in_thread, NULL);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(drainer);
	cr_assert_eq(ran, SLOTS);
	fake_wait_blocked(&park, 1); /* the second worker */
	cr_assert_eq(nthreads, 2);
	cr_assert_eq(stats().workers_retired, 1);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(stats().workers_coming, 0);
	close_queue();
}

Test(endings, a_drain_that_waits_for_the_last_callback_ends_and_nobody_is_made)
{
	pthread_t drainer;

	open_hosted(1);
	publish_block(stay_and_end_thread, SLOTS - 1);
	AWAIT(room.inside == 1);
	drainer = start(drain_in_thread, NULL);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(drainer);
	AWAIT(q->nworkers == 0);
	cr_assert_eq(nthreads, 1);
	cr_assert_eq(stats().workers_live, 0);
	close_queue();
}

Test(endings, a_sleeper_takes_what_is_left_and_nobody_is_made)
{
	open_hosted(2);
	publish_block(stay_and_end_thread, 0);
	AWAIT(room.inside == 1);
	publish_block(record, 0);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	AWAIT(ran == 2 * SLOTS && q->nworkers == 1);
	cr_assert_eq(nthreads, 2);
	cr_assert_eq(stats().wakes, 1);
	close_queue();
}

static void *shut_down_in_thread(void *how)
{
	CHECK(shut_down(*(cq_shutdown_how_t *)how) == 0);
	return NULL;
}

static void end_during_shutdown(cq_shutdown_how_t how)
{
	pthread_t shutter;

	open_hosted(1);
	publish_block(stay_and_end_thread, 1);
	publish_block(record, 0);
	AWAIT(room.inside == 1);
	shutter = start(shut_down_in_thread, &how);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(shutter);
}

Test(endings, a_shutdown_that_drains_goes_on)
{
	end_during_shutdown(CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(ran, 2 * SLOTS);
	cr_assert_eq(nthreads, 2);
	close_queue();
}

Test(endings, a_shutdown_that_hands_back_gets_the_rest)
{
	end_during_shutdown(CQ_SHUTDOWN_HAND_BACK);
	cr_assert_eq(ran + returned, 2 * SLOTS);
	cr_assert_eq(nthreads, 1);
	cr_assert_geq(returned, SLOTS - 2);
	close_queue();
}

Test(endings, a_shutdown_waits_for_a_polling_thread_that_ends)
{
	const cq_shutdown_how_t how = CQ_SHUTDOWN_HAND_BACK;
	pthread_t poller, shutter;

	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .park = &park.ops });
	publish_block(stay_and_end_thread, 1);
	poller = start(poll, NULL);
	AWAIT(room.inside == 1);
	shutter = start(shut_down_in_thread, (void *)(uintptr_t)&how);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(shutter);
	join(poller);
	cr_assert_eq(ran, 2);
	cr_assert_eq(returned, SLOTS - 2);
	close_queue();
}

static void *drain_until_stalled(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	return unused;
}

Test(endings, without_a_replacement_the_queue_stalls_and_says_so)
{
	pthread_t drainer;

	open_hosted(1);
	publish_block(stay_and_end_thread, 0);
	AWAIT(room.inside == 1);
	spawn_err = EAGAIN;
	drainer = start(drain_until_stalled, NULL);
	fake_wait_blocked(&park, 1);
	gate_open(&room.leave);
	join(drainer);
	AWAIT(q->nworkers == 0);
	cr_assert(cq_cleanup_stalled(q));
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	spawn_err = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == SLOTS);
	close_queue();
}

/* A producer that saw the worker awake has left its callback to it. */
Test(endings, what_producers_left_to_the_worker_is_handed_over)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER, .spawn = spawn,
	    .park = &park.ops });
	enqueue(stay_and_end_thread);
	AWAIT(room.inside == 1);
	enqueue(record);
	cr_assert_eq(cq_cleanup_units(q), 0);
	gate_open(&room.leave);
	AWAIT(ran == 2);
	cr_assert_eq(nthreads, 2);
	close_queue();
}

static cq_worker_t *attach(void)
{
	cq_worker_t *w;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	return w;
}

static void *run_one_block(void *w)
{
	cq_block_t *b = cq_worker_try_dequeue(w);

	CHECK(b != NULL);
	cq_worker_run(w, b);
	return w;
}

Test(endings, a_handle_outlives_the_thread_and_the_rest_is_queued_at_once)
{
	cq_worker_t *w;

	open_hosted(1);
	spawn_err = EAGAIN;
	w = attach();
	publish_block(end_thread, 1);
	cr_assert_null(join(start(run_one_block, w)));
	cr_assert_eq(cq_cleanup_units(q), 1);
	cr_assert_eq(stats().executed, 2);
	cr_assert_eq(stats().workers_running, 0);
	cr_assert_eq(run_one_block(w), w); /* another thread has it now */
	cr_assert_eq(ran, SLOTS);
	cq_worker_detach(w);
	close_queue();
}

/* ---------------------------------------------------------- one inside the other */

static void run_one_inside(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	record(arg);
	cq_cleanup_run_some(q, 1);
	CHECK(false);
}

Test(endings, a_callback_within_a_polled_callback_ends_both)
{
	pthread_t poller;

	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	publish_block(run_one_inside, 1);
	poller = start(poll, NULL);
	AWAIT(room.inside == 1);
	publish_block(end_thread, 0);
	gate_open(&room.leave);
	join(poller);
	cr_assert_eq(q->pollers, 0);
	cr_assert_eq(cq_cleanup_units(q), 2);
	cr_assert_eq(stats().executed, 3);
	cr_assert_eq(ran, 3);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), 2 * SLOTS - 3);
	close_queue();
}

Test(endings, a_callback_within_a_workers_callback_ends_both)
{
	open_hosted(1);
	publish_block(run_one_inside, 1);
	AWAIT(room.inside == 1);
	publish_block(end_thread, 0);
	gate_open(&room.leave);
	AWAIT(ran == 2 * SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(nthreads, 2);
	cr_assert_eq(q->pollers, 0);
	close_queue();
}

/* The host's own cleanup handler, further out: the thread is in no callback any more. */
static void drain_in_handler(void *result)
{
	*(int *)result = cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN && /* and not EDEADLK */
	    cq_cleanup_run_some(q, SIZE_MAX) == SLOTS - 1 && cq_cleanup_drain(q, CQ_FOREVER) == 0;
}

static void *poll_and_drain(void *result)
{
	pthread_cleanup_push(drain_in_handler, result);
	poll(NULL);
	pthread_cleanup_pop(0);
	return result;
}

Test(endings, a_handler_of_the_hosts_may_drain)
{
	int result = 0;

	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	publish_block(end_thread, 0);
	cr_assert_null(join(start(poll_and_drain, &result)));
	cr_assert_eq(result, 1);
	close_queue();
}

static void take_back_and_end_thread(void *ctx, cq_callback_fn *fn, void *arg)
{
	take_back(ctx, fn, arg);
	pthread_exit(ctx);
}

static void *hand_back(void *unused)
{
	cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back_and_end_thread, &returned);
	CHECK(false);
	return unused;
}

Test(endings, a_shutdown_whose_thread_ends_in_give_back_may_be_called_again)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	publish_block(record, 0);
	publish_block(record, 0);
	for (unsigned i = 1; i < SLOTS; i++) {
		join(start(hand_back, NULL));
		cr_assert_eq(stats().handed_back, i);
	}
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK), 0);
	cr_assert_eq(returned, 2 * SLOTS);
	close_queue();
}

/* ---------------------------------------------------------- cancelled by others */

static void block_for_ever(void *arg)
{
	record(arg);
	expect_cancellation();
	room.inside++;
	pause(); /* a cancellation point */
}

Test(endings, a_thread_is_cancelled_in_a_callback_that_blocks)
{
	open_hosted(1);
	publish_block(block_for_ever, 1);
	AWAIT(room.inside == 1);
	cr_assert_eq(pthread_cancel(threads[0].thread), 0);
	AWAIT(ran == SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(nthreads, 2);
	cr_assert_eq(nreturned, 0);
	close_queue();
}

static void cancel_this_thread(void *unused)
{
	(void)unused;
	CHECK(pthread_cancel(pthread_self()) == 0);
}

static atomic_int work_result;

static void *work_and_test(void *unused)
{
	work_result = cq_cleanup_work(q);
	pthread_testcancel();
	CHECK(false);
	return unused;
}

/* A thread counts as asleep before it parks, and may then find that it needn't. */
static atomic_bool sleeper_cancelled;

static void cancel_this_sleeper(void *unused)
{
	cancel_this_thread(unused);
	sleeper_cancelled = true;
}

Test(endings, a_thread_that_is_cancelled_asleep_works_until_it_may_leave)
{
	pthread_t worker;

	open_with((cq_cleanup_config_t){ .spawn = spawn }); /* parks in the default way */
	spawn_err = EAGAIN;
	work_result = -1;
	at_point("park.parking", cancel_this_sleeper, NULL);
	worker = start(work_and_test, NULL);
	AWAIT(sleeper_cancelled);
	publish_block(record, 0);
	AWAIT(ran == SLOTS);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN), 0);
	cr_assert_eq(join(worker), PTHREAD_CANCELED);
	cr_assert_eq(work_result, 0);
	close_queue();
}

static void *drain_and_test(void *result)
{
	*(int *)result = cq_cleanup_drain(q, CQ_FOREVER);
	pthread_testcancel();
	CHECK(false);
	return result;
}

Test(endings, a_thread_that_is_cancelled_in_a_drain_leaves_it_first)
{
	int result = -1;
	pthread_t drainer;

	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	q->serving = 1; /* as if another thread were in run_some */
	publish_block(record, 0);
	at_point("park.parking", cancel_this_sleeper, NULL);
	drainer = start(drain_and_test, &result);
	AWAIT(sleeper_cancelled);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), SLOTS);
	cr_assert_eq(join(drainer), PTHREAD_CANCELED);
	cr_assert_eq(result, 0);
	close_queue();
}

static void cancel_and_stay(void *arg)
{
	cancel_this_thread(NULL);
	pthread_testcancel();
	record(arg);
}

Test(endings, a_managed_thread_is_not_cancelled_unless_a_callback_allows_it)
{
	open_with((cq_cleanup_config_t){ .park = &park.ops });
	publish_block(cancel_and_stay, 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, SLOTS);
	cr_assert_eq(stats().workers_created, 1);
	publish_block(cancel_thread, 1);
	AWAIT(ran == 2 * SLOTS);
	AWAIT(stats().workers_created == 2);
	close_queue();
}

/* -------------------------------------------------------------------- and forks */

static atomic_int child; /* the process; 0 in the child itself */

static void fork_and_end_thread(void *arg)
{
	record(arg);
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		pthread_exit(NULL);
}

static void end_child(void *arg)
{
	record(arg);
	if (child == 0)
		_exit(ran == SLOTS && stats().executed < SLOTS ? 0 : 1);
}

Test(endings, a_callback_ends_the_thread_that_has_forked)
{
	int status = -1;

	open_with((cq_cleanup_config_t){ 0 });
	enqueue(fork_and_end_thread);
	enqueue(record);
	enqueue(record);
	enqueue(end_child);
	cr_assert_eq(drain(), 0);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert_eq(status, 0);
	close_queue();
}
