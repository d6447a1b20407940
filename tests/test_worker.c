/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Workers: how many are made and woken for how much work, how they sleep and
 * retire, and the calls of a host that dequeues by itself.
 *
 * Workers park in a fake with a clock that only the test moves, so "asleep" is
 * something to wait for. Where a test has to hold a worker that is on its way,
 * a host notes the request and lets the worker come later.
 */
#define _GNU_SOURCE /* pthread_getattr_np, pthread_getname_np */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cleanup/cleanup_priv.h"
#include "pool/processors.h"
#include "support.h"

TestSuite(worker, .timeout = 60);

/* CQ_BLOCK_BYTES_MIN gives blocks of two callbacks. */
enum { CAP = 3, SLOTS = 2, IDLE_NS = 1000, RECORDS = 512 };

#include "records.h" /* of RECORDS callbacks */

static fake_park_t park;
static cq_cleanup_t *q;
static cq_producer_t *p;
static cq_producer_t *other; /* of the "other thread" whose steps are run at points */

static void add(cq_producer_t *to, unsigned n)
{
	while (n-- > 0)
		CHECK(cq_producer_enqueue(to, record, next_record()) == 0);
}

/* One unit of one callback. */
static int publish(cq_producer_t *to, cq_callback_fn *fn, void *arg)
{
	CHECK(cq_producer_enqueue(to, fn, arg) == 0);
	return cq_producer_flush(to);
}

static void publish_records(unsigned units)
{
	while (units-- > 0)
		CHECK(publish(p, record, next_record()) == 0);
}

/* As the "other thread": a full block, which is published without a flush. */
static void publish_full_block(void *unused)
{
	(void)unused;
	add(other, SLOTS);
}

/* As the "other thread": a callback that is not published. */
static void enqueue_one(void *unused)
{
	(void)unused;
	add(other, 1);
}

/* ---------------------------------------------- a host that makes workers later */

static struct {
	struct request {
		void (*body)(void *arg);
		void *arg;
		pthread_t thread;
	} requests[16];
	atomic_uint requested;
	unsigned come;
	bool at_once; /* from here on each comes when it is asked for */
	int err; /* what spawn returns instead */
	pthread_mutex_t lock; /* of come and at_once */
} host = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *be_worker(void *arg)
{
	struct request *r = arg;

	r->body(r->arg);
	return NULL;
}

/* With the lock held: the next n workers that were asked for come. */
static void let_come(unsigned n)
{
	for (; n > 0; n--, host.come++) {
		struct request *r = &host.requests[host.come];

		CHECK(host.come < host.requested);
		r->thread = start(be_worker, r);
	}
}

static void come(unsigned n)
{
	pthread_mutex_lock(&host.lock);
	let_come(n);
	pthread_mutex_unlock(&host.lock);
}

/* All that were asked for, and all that will be: what goes on may ask for more. */
static void come_at_once(void)
{
	pthread_mutex_lock(&host.lock);
	host.at_once = true;
	let_come(host.requested - host.come);
	pthread_mutex_unlock(&host.lock);
}

static int note_request(void *unused, void (*body)(void *arg), void *arg)
{
	(void)unused;
	if (host.err != 0)
		return host.err;
	pthread_mutex_lock(&host.lock);
	CHECK(host.requested < 16);
	host.requests[host.requested] = (struct request){ .body = body, .arg = arg };
	host.requested++;
	if (host.at_once)
		let_come(1);
	pthread_mutex_unlock(&host.lock);
	return 0;
}

/* A host that has its threads at once. */
static int start_thread(void *unused, void (*body)(void *arg), void *arg)
{
	come_at_once();
	return note_request(unused, body, arg);
}

/* --------------------------------------------------------- opening and closing */

static void open_with(cq_cleanup_config_t config)
{
	fake_init(&park);
	config.park = &park.ops;
	config.block_bytes = CQ_BLOCK_BYTES_MIN;
	if (config.max_workers == 0)
		config.max_workers = CAP;
	if (config.idle_ns == 0)
		config.idle_ns = CQ_FOREVER;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(q->slots, SLOTS);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
	cr_assert_eq(cq_producer_attach(q, &other), 0);
}

static void open_managed(uint32_t max_workers)
{
	open_with((cq_cleanup_config_t){ .max_workers = max_workers });
}

static void open_noted(uint32_t max_workers)
{
	open_with((cq_cleanup_config_t){ .max_workers = max_workers, .spawn = note_request });
}

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
}

/* Everything ran, once, and nothing is left of the queue but what its workers counted. */
static void close_queue(void)
{
	cq_cleanup_stats_t before, s;

	at_every_point(NULL, NULL);
	cq_producer_detach(p);
	cq_producer_detach(other);
	come_at_once();
	before = stats();
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	for (unsigned i = 0; i < host.come; i++)
		join(host.requests[i].thread);
	s = stats();
	cr_assert_eq(s.queued, s.executed);
	cr_assert_geq(s.useless_wakes, before.useless_wakes);
	cr_assert_geq(s.failed_sleeps, before.failed_sleeps);
	cr_assert_eq(s.workers_live, 0);
	cr_assert_eq(s.workers_coming, 0);
	cr_assert_eq(s.workers_asleep, 0);
	cr_assert_eq(s.workers_running, 0);
	cr_assert_eq(s.blocks_waiting, 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(ran, accepted);
	for (unsigned i = 0; i < accepted; i++)
		cr_assert_eq(records[i], 1);
}

/* n callbacks that are in the middle of their call, until `leave` is opened. */
static struct {
	atomic_uint inside;
	gate_t leave;
} room = { 0, GATE_INITIALIZER };

static void stay_inside(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	record(arg);
}

static void publish_stayers(unsigned n)
{
	while (n-- > 0)
		CHECK(publish(p, stay_inside, next_record()) == 0);
}

/* n managed workers that have run and are asleep, and that nobody has woken so far. */
static void bring_workers(unsigned n)
{
	for (unsigned i = 1; i <= n; i++) {
		publish_stayers(1);
		AWAIT(room.inside == i);
	}
	gate_open(&room.leave);
	fake_wait_blocked(&park, n);
}

/* ------------------------------------------------------------- how many are made */

Test(worker, no_worker_exists_before_there_is_work)
{
	open_managed(CAP);
	cr_assert_eq(cq_producer_enqueue(p, record, next_record()), 0);
	cr_assert_eq(stats().workers_created, 0);
	cr_assert_eq(stats().workers_live, 0);
	close_queue();
}

Test(worker, one_unit_makes_one_worker)
{
	open_noted(CAP);
	publish_records(1);
	cr_assert_eq(host.requested, 1);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(stats().workers_coming, 1);
	cr_assert_eq(stats().workers_created, 1);
	close_queue();
}

Test(worker, a_unit_that_is_spoken_for_makes_nobody)
{
	open_noted(CAP);
	publish_records(1);
	for (int i = 0; i < 3; i++) {
		cr_assert_not(cq_cleanup_needs_wake(q));
		cr_assert_eq(cq_cleanup_wake(q), 0);
	}
	cr_assert_eq(host.requested, 1);
	publish_records(1);
	cr_assert_eq(host.requested, 2);
	close_queue();
}

Test(worker, workers_are_made_up_to_the_cap_and_not_beyond)
{
	open_noted(CAP);
	publish_records(2 * CAP);
	cr_assert_eq(host.requested, CAP);
	cr_assert_eq(stats().workers_peak, CAP);
	cr_assert_not(cq_cleanup_needs_wake(q));
	come(CAP);
	fake_wait_blocked(&park, CAP);
	cr_assert_eq(host.requested, CAP);
	close_queue();
}

Test(worker, one_wake_makes_workers_for_a_backlog_to_which_nothing_is_added)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = note_request });
	publish_records(2 * CAP);
	cr_assert_eq(host.requested, 0);
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(host.requested, CAP);
	cr_assert_not(cq_cleanup_needs_wake(q));
	close_queue();
}

Test(worker, a_flush_of_all_makes_as_many_workers_as_there_are_full_blocks)
{
	cq_producer_t *third;

	open_noted(CAP);
	cr_assert_eq(cq_producer_attach(q, &third), 0);
	add(p, 1);
	add(other, 1);
	add(third, 1);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(stats().blocks_waiting, 2); /* three callbacks, two to a block */
	cr_assert_eq(host.requested, 2);
	cq_producer_detach(third);
	close_queue();
}

static void wake(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_wake(q) == 0);
}

Test(worker, racing_wakes_ask_for_no_more_workers_than_there_is_work)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = note_request });
	publish_records(2);
	at_point("wake.claimed", wake, NULL);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(host.requested, 2);
	close_queue();
}

Test(worker, a_wake_that_loses_the_last_place_to_another_gives_its_claim_back)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = note_request, .max_workers = 1 });
	publish_records(2);
	at_point("wake.claimed", wake, NULL);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(host.requested, 1);
	cr_assert_eq(stats().workers_coming, 1);
	close_queue();
}

Test(worker, workers_that_are_busy_run_side_by_side_up_to_the_cap)
{
	open_managed(CAP);
	publish_stayers(CAP);
	AWAIT(room.inside == CAP);
	cr_assert_eq(stats().workers_running, CAP);
	publish_records(2); /* nobody is left for these, until a worker is free */
	cr_assert_eq(cq_cleanup_units(q), 2);
	cr_assert_not(cq_cleanup_needs_wake(q));
	cr_assert_eq(stats().workers_created, CAP);
	gate_open(&room.leave);
	close_queue();
}

Test(worker, a_worker_that_runs_is_not_taken_for_one_that_comes)
{
	/* The first is woken, not made: it must have stopped coming before it runs. */
	open_with((cq_cleanup_config_t){ .max_workers = 2, .spawn = start_thread });
	publish_records(1);
	fake_wait_blocked(&park, 1);
	publish_stayers(1);
	AWAIT(room.inside == 1);
	cr_assert_eq(stats().workers_coming, 0);
	publish_records(1);
	cr_assert_eq(host.requested, 2);
	AWAIT(ran == 2);
	gate_open(&room.leave);
	close_queue();
}

/* --------------------------------------------------------------- who is woken */

Test(worker, one_unit_wakes_one_sleeper_of_many)
{
	open_managed(CAP);
	bring_workers(CAP);
	publish_records(1);
	fake_wait_blocked(&park, CAP);
	cr_assert_eq(park.unparks, 1);
	cr_assert_eq(stats().wakes, 1);
	cr_assert_eq(stats().useless_wakes, 0);
	cr_assert_eq(stats().workers_created, CAP);
	close_queue();
}

static void see_one_coming_and_wake_again(void *unused)
{
	(void)unused;
	CHECK(stats().workers_coming == 1);
	CHECK(stats().workers_asleep == CAP - 1);
	CHECK(!cq_cleanup_needs_wake(q));
	CHECK(cq_cleanup_wake(q) == 0);
}

Test(worker, a_unit_for_which_a_sleeper_was_taken_wakes_no_other)
{
	open_managed(CAP);
	bring_workers(CAP);
	at_point("parked.taken", see_one_coming_and_wake_again, NULL);
	publish_records(1);
	fake_wait_blocked(&park, CAP);
	cr_assert_eq(park.unparks, 1);
	close_queue();
}

Test(worker, work_published_while_a_woken_worker_takes_its_own_wakes_another)
{
	open_managed(2);
	bring_workers(2);
	room.inside = 0;
	room.leave.open = false;
	at_point("workq.taken", publish_full_block, NULL);
	publish_stayers(1);
	AWAIT(room.inside == 1);
	cr_assert_eq(stats().wakes, 2, "the first no longer comes for anything else");
	AWAIT(ran == 2 + SLOTS);
	gate_open(&room.leave);
	close_queue();
}

Test(worker, sleepers_are_woken_before_workers_are_made)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = start_thread });
	publish_records(1);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	fake_wait_blocked(&park, 1);
	publish_records(2);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(park.unparks, 1);
	cr_assert_eq(host.requested, 2);
	fake_wait_blocked(&park, 2);
	cr_assert_eq(ran, 3);
	close_queue();
}

static void run_one_here(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_run_some(q, 1) == 1);
}

Test(worker, a_wake_whose_unit_another_took_is_counted_as_useless)
{
	open_with((cq_cleanup_config_t){ .max_workers = 1, .spawn = start_thread });
	publish_records(1);
	fake_wait_blocked(&park, 1);
	at_point("parked.taken", run_one_here, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, 2);
	cr_assert_eq(stats().wakes, 1);
	cr_assert_eq(stats().useless_wakes, 1);
	cr_assert_eq(stats().workers_coming, 0);
	close_queue();
}

/* -------------------------------------------------------------- going to sleep */

Test(worker, work_published_after_a_worker_found_nothing_is_not_slept_over)
{
	/* golang/go#73642. The publisher sees nobody asleep and nobody to make. */
	open_managed(1);
	at_point("worker.found_nothing", publish_full_block, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, 1 + SLOTS);
	cr_assert_eq(park.parks, 1);
	cr_assert_eq(stats().failed_sleeps, 1);
	cr_assert_eq(stats().wakes, 0);
	close_queue();
}

Test(worker, work_published_after_a_worker_is_listed_wakes_it)
{
	open_managed(1);
	at_point("parked.listed", publish_full_block, NULL);
	publish_records(1);
	AWAIT(ran == 1 + SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().wakes, 1);
	cr_assert_eq(stats().failed_sleeps, 0);
	close_queue();
}

static void second_look_takes(void *unused)
{
	(void)unused;
	CHECK(pthread_mutex_trylock(&q->idle.lock) == EBUSY); /* this thread holds it */
}

static void publish_for_the_second_look(void *unused)
{
	publish_full_block(unused);
	at_point("workq.take", second_look_takes, NULL);
}

/* Else all who look meanwhile would find that unit. */
Test(worker, the_second_look_takes_what_it_finds_before_another_looks)
{
	open_managed(1);
	at_point("worker.found_nothing", publish_for_the_second_look, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, 1 + SLOTS);
	cr_assert_eq(stats().failed_sleeps, 1);
	close_queue();
}

/* Every worker is held when it has found nothing, until the gate is open. */
static struct {
	atomic_uint held;
	gate_t go;
} idlers = { 0, GATE_INITIALIZER };

static void hold_idlers(const char *where, void *unused)
{
	(void)unused;
	if (strcmp(where, "worker.found_nothing") == 0) {
		idlers.held++;
		gate_wait(&idlers.go);
	}
}

Test(worker, many_that_race_to_sleep_past_one_unit_fail_one_sleep)
{
	enum { MANY = 5 };

	open_managed(MANY);
	publish_stayers(MANY);
	AWAIT(room.inside == MANY);
	/* Not before: one may be made for a unit that another, who was to look, has taken. */
	at_every_point(hold_idlers, NULL);
	gate_open(&room.leave);
	AWAIT(idlers.held == MANY);
	publish_records(1);
	cr_assert_eq(stats().workers_created, MANY);
	gate_open(&idlers.go);
	fake_wait_blocked(&park, MANY);
	cr_assert_eq(ran, MANY + 1);
	cr_assert_eq(stats().failed_sleeps, 1);
	close_queue();
}

static struct {
	gate_t announced, claimed;
} handshake = { GATE_INITIALIZER, GATE_INITIALIZER };

static void announced_then_wait_for_the_claim(void *unused)
{
	(void)unused;
	gate_open(&handshake.announced);
	gate_wait(&handshake.claimed);
}

static void run_all_here(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_run_some(q, SIZE_MAX) == SLOTS);
}

/* Another runs them between the sight of the unit and the taking of it. */
static void publish_and_lose(void *unused)
{
	publish_full_block(unused);
	at_point("workq.take", run_all_here, NULL);
}

Test(worker, a_look_that_loses_the_unit_to_another_sleeps_on)
{
	open_managed(1);
	at_point("worker.found_nothing", publish_and_lose, NULL);
	publish_records(1);
	AWAIT(ran == 1 + SLOTS);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().failed_sleeps, 0);
	cr_assert_eq(stats().workers_running, 0);
	close_queue();
}

Test(worker, no_worker_is_made_for_a_unit_that_the_second_look_found)
{
	/* The wake counts the announced worker, and then finds it gone to work. */
	open_managed(CAP);
	at_point("parked.announced", announced_then_wait_for_the_claim, NULL);
	publish_records(1);
	gate_wait(&handshake.announced);
	at_point("wake.claimed", gate_open, &handshake.claimed);
	publish_stayers(1);
	AWAIT(room.inside == 1);
	cr_assert_eq(stats().failed_sleeps, 1);
	cr_assert_eq(stats().workers_created, 1);
	cr_assert_eq(stats().workers_coming, 0);
	gate_open(&room.leave);
	close_queue();
}

Test(worker, a_disturbed_sleep_goes_on)
{
	open_managed(CAP);
	bring_workers(CAP);
	for (int i = 0; i < 3; i++) {
		fake_disturb(&park);
		fake_wait_blocked(&park, CAP);
	}
	cr_assert_eq(stats().workers_asleep, CAP);
	cr_assert_eq(stats().useless_wakes, 0);
	close_queue();
}

/* --------------------------------------------------------- polling before a sleep */

enum { SPIN_NS = 1000 };

static atomic_uint polled; /* times */

static void count_polling(const char *where, void *unused)
{
	(void)unused;
	if (strcmp(where, "worker.polling") == 0)
		polled++;
}

static void open_polling_workers(void)
{
	open_with((cq_cleanup_config_t){ .max_workers = 2, .spin_ns = SPIN_NS });
}

static gate_t first_is_counted = GATE_INITIALIZER, published_while_polling = GATE_INITIALIZER;

/* A worker is counted by who made it, behind its making: it may poll before that. */
static void publish_while_polling(void *created)
{
	gate_wait(&first_is_counted);
	publish_full_block(NULL);
	*(uint64_t *)created = stats().workers_created; /* here, where it is made if it is */
	gate_open(&published_while_polling);
}

Test(worker, what_is_published_while_a_worker_polls_wakes_and_makes_nobody)
{
	uint64_t created = 0;

	open_polling_workers();
	at_point("worker.polling", publish_while_polling, &created);
	publish_records(1);
	gate_open(&first_is_counted);
	gate_wait(&published_while_polling);
	AWAIT(ran == 1 + SLOTS);
	cr_assert_eq(stats().wakes, 0);
	cr_assert_eq(created, 1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().failed_sleeps, 0);
	close_queue();
}

static void trim_is_refused(void *coming)
{
	CHECK(cq_cleanup_trim(q, NULL) == EBUSY);
	*(uint32_t *)coming = stats().workers_coming;
}

Test(worker, a_worker_that_polls_counts_as_coming_and_trim_waits_for_it)
{
	uint32_t coming = 0;

	open_polling_workers();
	at_point("worker.polling", trim_is_refused, &coming);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(coming, 1);
	cr_assert_eq(stats().workers_coming, 0);
	cr_assert_eq(cq_cleanup_trim(q, NULL), 0);
	close_queue();
}

Test(worker, a_worker_polls_only_while_its_waits_are_short)
{
	open_polling_workers();
	at_every_point(count_polling, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(polled, 1, "nothing is known of the waits to come");
	fake_advance(&park, SPIN_NS);
	publish_records(1);
	AWAIT(ran == 2);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(polled, 1);
	fake_advance(&park, SPIN_NS - 1);
	publish_records(1);
	AWAIT(ran == 3);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(polled, 2);
	cr_assert_eq(stats().wakes, 2);
	close_queue();
}

Test(worker, workers_poll_by_default_but_not_where_the_host_parks)
{
	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	cr_assert_eq(q->config.spin_ns,
	    cq_processors() > 1 ? CQ_SPIN_NS_DEFAULT : CQ_NO_SPIN);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	open_managed(1);
	cr_assert_eq(q->config.spin_ns, CQ_NO_SPIN);
	close_queue();
}

/* A partial block would wait until the poll has ended: no worker is asleep meanwhile. */
Test(worker, workers_of_a_queue_that_hands_over_poll_only_when_told_to)
{
	cq_cleanup_config_t config = { .flags = CQ_HANDOVER };

	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(q->config.spin_ns, CQ_NO_SPIN);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	config.spin_ns = SPIN_NS;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(q->config.spin_ns, SPIN_NS);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* ------------------------------------------------------------------- retirement */

static void open_retiring(uint32_t max_workers, cq_spawn_fn *spawn)
{
	open_with((cq_cleanup_config_t){ .max_workers = max_workers, .idle_ns = IDLE_NS,
	    .spawn = spawn });
}

Test(worker, an_idle_worker_retires_and_the_next_work_makes_another)
{
	open_retiring(CAP, NULL);
	bring_workers(CAP);
	fake_advance(&park, IDLE_NS - 1);
	fake_disturb(&park);
	fake_wait_blocked(&park, CAP);
	cr_assert_eq(stats().workers_retired, 0);
	fake_advance(&park, 1);
	AWAIT(q->nworkers == 0);
	cr_assert_eq(stats().workers_retired, CAP);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_asleep, 0);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, CAP + 1);
	cr_assert_eq(stats().workers_created, CAP + 1);
	close_queue();
}

/* What a worker that has just gone to sleep has left of its idle time. */
static uint64_t idle_time_of(uint64_t idle_ns)
{
	cq_cleanup_config_t config = { .max_workers = 1, .idle_ns = idle_ns, .park = &park.ops };
	uint64_t left;

	fake_init(&park);
	fake_advance(&park, 77);
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	left = park.deadline == CQ_FOREVER ? CQ_FOREVER : park.deadline - 77;
	cq_producer_detach(p);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	return left;
}

Test(worker, the_idle_limit_is_30_seconds_by_default_and_forever_is_none)
{
	cr_assert_eq(idle_time_of(0), UINT64_C(30000000000));
	cr_assert_eq(idle_time_of(1), 1);
	cr_assert_eq(idle_time_of(CQ_FOREVER), CQ_FOREVER);
}

Test(worker, work_starts_the_idle_time_anew)
{
	open_retiring(1, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS / 2);
	publish_records(1);
	AWAIT(ran == 2);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, IDLE_NS / 2 + IDLE_NS);
	fake_advance(&park, IDLE_NS / 2);
	fake_disturb(&park);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_retired, 0);
	close_queue();
}

Test(worker, a_worker_that_is_woken_as_it_times_out_runs_the_work)
{
	open_retiring(1, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	at_point("parked.timed_out", publish_full_block, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 1 + SLOTS);
	cr_assert_eq(stats().wakes, 1);
	cr_assert_eq(stats().workers_created, 1);
	close_queue();
}

Test(worker, work_added_before_a_worker_leaves_the_count_brings_it_back)
{
	/* It is in no list any more, and still counted: the publisher can do nothing. */
	open_retiring(1, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	at_point("worker.timed_out", publish_full_block, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 1 + SLOTS || q->nworkers == 0);
	AWAIT(park.blocked == 1 || q->nworkers == 0);
	cr_assert_eq(ran, 1 + SLOTS);
	cr_assert_eq(stats().workers_created, 1);
	cr_assert_eq(stats().workers_retired, 0);
	cr_assert_eq(stats().workers_live, 1);
	close_queue();
}

Test(worker, work_added_after_a_worker_left_the_count_makes_another)
{
	open_retiring(1, NULL);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	at_point("worker.retiring", publish_full_block, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 1 + SLOTS && q->nworkers == 1);
	cr_assert_eq(stats().workers_created, 2);
	cr_assert_eq(stats().workers_retired, 1);
	cr_assert_eq(stats().workers_live, 1);
	close_queue();
}

Test(worker, a_worker_that_leaves_while_none_can_be_made_comes_back)
{
	open_retiring(1, start_thread);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	host.err = EAGAIN;
	at_point("worker.retiring", publish_full_block, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 1 + SLOTS || q->nworkers == 0);
	cr_assert_eq(ran, 1 + SLOTS);
	cr_assert_eq(stats().workers_retired, 0);
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_not(cq_cleanup_stalled(q));
	close_queue();
}

static cq_worker_t *attached_meanwhile;

static void attach_and_publish(void *unused)
{
	CHECK(cq_worker_attach(q, NULL, &attached_meanwhile) == 0);
	publish_full_block(unused);
}

Test(worker, one_that_comes_back_counts_for_the_peak)
{
	open_retiring(1, start_thread);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	host.err = EAGAIN;
	at_point("worker.retiring", attach_and_publish, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 1 + SLOTS);
	cr_assert_eq(stats().workers_live, 2);
	cr_assert_eq(stats().workers_peak, 2);
	cq_worker_detach(attached_meanwhile);
	close_queue();
}

/* The only worker stands between leaving the count and its look. */
static struct {
	gate_t left, look;
} retiring = { GATE_INITIALIZER, GATE_INITIALIZER };

static void hold_retiring(void *unused)
{
	(void)unused;
	gate_open(&retiring.left);
	gate_wait(&retiring.look);
}

static void let_the_worker_leave(void *unused)
{
	(void)unused;
	fake_advance(&park, IDLE_NS);
	gate_wait(&retiring.left);
}

static atomic_int drain_result;

static void *drain(void *unused)
{
	drain_result = cq_cleanup_drain(q, CQ_FOREVER);
	return unused;
}

static void *run_one(void *unused)
{
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	return unused;
}

Test(worker, a_drain_does_not_give_up_while_a_worker_may_come_back)
{
	pthread_t poller, drainer;

	/* The drain has something to wait for that is no worker's. */
	open_retiring(2, start_thread);
	publish_records(1);
	fake_wait_blocked(&park, 1);
	q->config.flags |= CQ_POLLED; /* the worker sleeps on */
	publish_stayers(1);
	poller = start(run_one, NULL);
	AWAIT(room.inside == 1);
	q->config.flags &= ~(unsigned)CQ_POLLED;

	/* Its second look falls between the worker's two steps; another worker could
	   not be made, but when that was tried this one lived. */
	drain_result = -1;
	host.err = EAGAIN;
	at_point("worker.timed_out", publish_full_block, NULL);
	at_point("worker.retiring", hold_retiring, NULL);
	at_point("parked.announced", let_the_worker_leave, NULL);
	drainer = start(drain, NULL);
	gate_wait(&retiring.left);
	AWAIT(park.blocked == 1 || drain_result != -1);
	gate_open(&retiring.look);
	AWAIT(ran == 1 + SLOTS);
	gate_open(&room.leave);
	join(poller);
	join(drainer);
	cr_assert_eq(drain_result, 0);
	cr_assert_eq(stats().workers_failed, 1);
	close_queue();
}

Test(worker, a_worker_that_comes_back_asks_for_no_other)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER, .max_workers = 2,
	    .idle_ns = IDLE_NS, .spawn = start_thread });
	publish_records(1);
	fake_wait_blocked(&park, 1);
	at_point("worker.timed_out", enqueue_one, NULL);
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 2);
	AWAIT(q->nworkers == park.blocked);
	cr_assert_eq(stats().workers_created, 1);
	cr_assert_eq(stats().workers_retired, 0);
	cr_assert_eq(stats().workers_coming, 0);
	close_queue();
}

static unsigned count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned n = 0;
	int c;

	CHECK(f != NULL);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static unsigned count_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	CHECK(d != NULL);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}

static void live_and_retire(void)
{
	uint64_t retired = stats().workers_retired;

	publish_records(1);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(q->nworkers == 0 && stats().workers_retired == retired + 1);
}

Test(worker, threads_that_retire_are_joined)
{
	enum { TIMES = 200, WARM = 20 };
	unsigned threads = count_threads(), mappings = 0;

	open_retiring(1, NULL);
	for (int i = 0; i < TIMES; i++) {
		live_and_retire();
		if (i == WARM)
			mappings = count_lines("/proc/self/maps");
	}
	cr_assert_eq(stats().workers_retired, TIMES);
	/* One that has ended may wait for the next to join it. */
	AWAIT(count_threads() <= threads + 1);
	/* A thread that nobody joins keeps its stack: a mapping or two each. */
	cr_assert_leq(count_lines("/proc/self/maps"), mappings + 20);
	close_queue();
	cr_assert_eq(count_threads(), threads);
}

/* ------------------------------------------------------------ a host's own loop */

static cq_worker_t *attach(void)
{
	cq_worker_t *w;

	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	return w;
}

static void *dequeue_once(void *arg)
{
	return cq_worker_dequeue(arg);
}

/* A queue whose only workers are those that the test attaches: others can't be had. */
static void open_without_workers(void)
{
	open_with((cq_cleanup_config_t){ .max_workers = 1, .spawn = note_request });
	host.err = EAGAIN;
}

Test(worker, dequeue_waits_and_returns_a_block)
{
	cq_worker_t *w;
	pthread_t thread;
	cq_block_t *b;

	open_without_workers();
	w = attach();
	thread = start(dequeue_once, w);
	fake_wait_blocked(&park, 1);
	publish_records(1);
	b = join(thread);
	cr_assert_not_null(b);
	cr_assert_eq(ran, 0);
	cq_worker_run(w, b);
	cr_assert_eq(ran, 1);
	cr_assert_eq(stats().executed, 1);
	cq_worker_detach(w);
	cr_assert_eq(host.requested, 0);
	close_queue();
}

static void *shut_down(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	return NULL;
}

Test(worker, dequeue_returns_null_at_shutdown_and_not_before)
{
	cq_worker_t *w;
	pthread_t thread, shutter;

	open_retiring(1, note_request);
	w = attach();
	thread = start(dequeue_once, w);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, CQ_FOREVER); /* it doesn't retire */
	fake_advance(&park, 10 * IDLE_NS);
	fake_disturb(&park);
	fake_wait_blocked(&park, 1);
	shutter = start(shut_down, NULL);
	cr_assert_null(join(thread));
	cr_assert_null(cq_worker_dequeue(w));
	cr_assert_null(cq_worker_try_dequeue(w));
	cq_worker_detach(w);
	join(shutter);
	close_queue();
}

Test(worker, shutdown_waits_until_every_handle_is_detached)
{
	cq_worker_t *w[2];

	open_without_workers();
	w[0] = attach();
	w[1] = attach();
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), ETIMEDOUT);
		cq_worker_detach(w[i]);
	}
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), 0);
	close_queue();
}

Test(worker, dequeue_parks_the_hosts_thread)
{
	cq_worker_t *w;
	pthread_t thread;
	cq_block_t *b;

	open_without_workers();
	cr_assert_eq(cq_worker_attach(q, &host, &w), 0);
	thread = start(dequeue_once, w);
	fake_wait_blocked(&park, 1);
	publish_records(1);
	b = join(thread);
	cr_assert_eq(park.unparked[0], &host);
	cq_worker_run(w, b);
	cq_worker_detach(w);
	close_queue();
}

Test(worker, a_worker_that_is_made_parks_without_a_host)
{
	open_with((cq_cleanup_config_t){ .spawn = start_thread, .host = &host });
	park.host = &host;
	publish_records(1);
	fake_wait_blocked(&park, 1);
	cr_assert_null(park.host);
	close_queue();
}

Test(worker, try_dequeue_returns_null_when_there_is_none)
{
	cq_worker_t *w;
	cq_block_t *b;

	open_without_workers();
	w = attach();
	cr_assert_null(cq_worker_try_dequeue(w));
	cr_assert_eq(stats().workers_running, 0);
	publish_records(1);
	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	cr_assert_eq(stats().workers_running, 1);
	cr_assert_null(cq_worker_try_dequeue(w));
	cq_worker_run(w, b);
	cr_assert_eq(stats().workers_running, 0);
	cr_assert_eq(park.parks, 0);
	cq_worker_detach(w);
	close_queue();
}

Test(worker, try_dequeue_that_loses_the_unit_to_another_is_idle_again)
{
	cq_worker_t *w;

	open_without_workers();
	w = attach();
	publish_records(1);
	at_point("workq.take", run_one_here, NULL);
	cr_assert_null(cq_worker_try_dequeue(w));
	cr_assert_eq(ran, 1);
	cr_assert_eq(stats().workers_running, 0);
	cq_worker_detach(w);
	close_queue();
}

static void call_next(cq_block_t *b, unsigned n)
{
	cq_callback_fn *fn;
	void *arg;

	for (; n > 0; n--) {
		CHECK(cq_block_next(b, &fn, &arg));
		fn(arg);
	}
}

Test(worker, what_next_did_not_take_is_queued_again)
{
	cq_callback_fn *fn;
	cq_worker_t *w;
	cq_block_t *b;
	void *arg;

	open_without_workers();
	w = attach();
	add(p, SLOTS);
	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	call_next(b, 1);
	cq_worker_finish(w, b);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);

	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	cq_worker_finish(w, b); /* took nothing at all */
	cr_assert_eq(stats().executed, 1);

	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	call_next(b, SLOTS - 1);
	cr_assert_not(cq_block_next(b, &fn, &arg));
	cr_assert_not(cq_block_next(b, &fn, &arg));
	cq_worker_finish(w, b);
	cr_assert_eq(stats().executed, SLOTS);
	cr_assert_eq(cq_cleanup_units(q), 0);
	cq_worker_detach(w);
	close_queue();
}

Test(worker, a_handle_with_a_block_in_hand_gets_no_other)
{
	cq_worker_t *w;
	cq_block_t *b;

	open_without_workers();
	w = attach();
	publish_records(2);
	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	cr_assert_null(cq_worker_try_dequeue(w));
	cr_assert_null(cq_worker_dequeue(w));
	cr_assert_eq(cq_cleanup_units(q), 1);
	cq_worker_run(w, b);
	b = cq_worker_dequeue(w);
	cr_assert_not_null(b);
	cq_worker_run(w, b);
	cr_assert_eq(ran, 2);
	cq_worker_detach(w);
	close_queue();
}

Test(worker, what_is_queued_again_wakes_a_sleeper)
{
	cq_worker_t *w, *sleeper;
	pthread_t thread;
	cq_block_t *b;

	open_without_workers();
	w = attach();
	sleeper = attach();
	add(p, SLOTS);
	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	thread = start(dequeue_once, sleeper);
	fake_wait_blocked(&park, 1);
	cq_worker_finish(w, b);
	cr_assert_eq(park.unparks, 1);
	b = join(thread);
	cr_assert_not_null(b);
	cq_worker_run(sleeper, b);
	cq_worker_detach(w);
	cq_worker_detach(sleeper);
	close_queue();
}

Test(worker, attached_workers_are_live_and_outside_the_cap)
{
	cq_worker_t *w[CAP];

	open_noted(1);
	for (unsigned i = 0; i < CAP; i++)
		w[i] = attach();
	cr_assert_eq(stats().workers_live, CAP);
	cr_assert_eq(stats().workers_peak, CAP);
	cr_assert_eq(stats().workers_created, 0);
	publish_records(2); /* they are awake, and may be long about it */
	cr_assert_eq(host.requested, 1);
	cr_assert_eq(stats().workers_live, CAP + 1);
	for (unsigned i = 0; i < CAP; i++)
		cq_worker_detach(w[i]);
	cq_worker_detach(NULL);
	cr_assert_eq(stats().workers_live, 1);
	cr_assert_eq(host.requested, 1);
	close_queue();
}

Test(worker, a_worker_that_detaches_leaves_its_work_to_another)
{
	cq_worker_t *w;

	open_without_workers();
	w = attach();
	publish_records(1); /* w is awake, and is trusted to look */
	cr_assert_not(cq_cleanup_stalled(q));
	host.err = 0;
	cq_worker_detach(w);
	cr_assert_eq(host.requested, 1);
	come(1);
	AWAIT(ran == 1);
	close_queue();
}

Test(worker, what_a_worker_holds_when_it_detaches_is_queued_again)
{
	cq_worker_t *w;

	open_without_workers();
	w = attach();
	add(p, SLOTS);
	call_next(cq_worker_try_dequeue(w), 1);
	cq_worker_detach(w);
	cr_assert_eq(stats().executed, 1);
	cr_assert_eq(cq_cleanup_units(q), 1);
	host.err = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	close_queue();
}

Test(worker, a_worker_that_detaches_hands_over_what_producers_left_to_it)
{
	cq_worker_t *w;

	open_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER, .max_workers = 1,
	    .spawn = note_request });
	w = attach();
	add(p, 1); /* w is awake, and is trusted to take it before it sleeps */
	cr_assert_eq(cq_cleanup_units(q), 0);
	cq_worker_detach(w);
	cr_assert_eq(host.requested, 1);
	come(1);
	AWAIT(ran == 1);
	close_queue();
}

static atomic_int work_result;

static void *be_hosted(void *unused)
{
	(void)unused;
	work_result = cq_cleanup_work(q);
	return NULL;
}

Test(worker, work_returns_etimedout_when_idle_and_0_at_shutdown)
{
	pthread_t thread, shutter;

	open_retiring(1, note_request);
	thread = start(be_hosted, NULL);
	fake_wait_blocked(&park, 1);
	publish_records(1);
	AWAIT(ran == 1);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	join(thread);
	cr_assert_eq(work_result, ETIMEDOUT);
	cr_assert_eq(stats().workers_retired, 1);

	thread = start(be_hosted, NULL);
	fake_wait_blocked(&park, 1);
	shutter = start(shut_down, NULL);
	join(thread);
	join(shutter);
	cr_assert_eq(work_result, 0);
	cr_assert_eq(cq_cleanup_work(q), ESHUTDOWN);
	close_queue();
}

static pthread_t late_shutter;

static void shut_down_meanwhile(void *unused)
{
	late_shutter = start(shut_down, unused);
	AWAIT(cq_u32_load_relaxed(&q->stop) != 0);
}

Test(worker, a_shutdown_that_meets_a_second_look_is_no_failed_sleep)
{
	cq_worker_t *w;

	open_without_workers();
	w = attach();
	at_point("worker.found_nothing", shut_down_meanwhile, NULL);
	cr_assert_null(cq_worker_dequeue(w));
	cr_assert_eq(stats().failed_sleeps, 0);
	cr_assert_eq(stats().useless_wakes, 0);
	cq_worker_detach(w);
	join(late_shutter);
	close_queue();
}

Test(worker, work_returns_0_when_a_shutdown_meets_it_retiring)
{
	pthread_t thread;

	open_retiring(1, note_request);
	thread = start(be_hosted, NULL);
	fake_wait_blocked(&park, 1);
	at_point("worker.retiring", shut_down_meanwhile, NULL);
	fake_advance(&park, IDLE_NS);
	join(thread);
	cr_assert_eq(work_result, 0);
	cr_assert_eq(stats().workers_retired, 0);
	join(late_shutter);
	close_queue();
}

Test(worker, attach_reports_its_errors)
{
	test_alloc_t alloc;
	cq_worker_t *w;

	test_alloc_init(&alloc);
	open_with((cq_cleanup_config_t){ .allocator = &alloc.allocator });
	cr_assert_eq(cq_worker_attach(NULL, NULL, &w), EINVAL);
	cr_assert_eq(cq_worker_attach(q, NULL, NULL), EINVAL);
	alloc.fail_in = 1;
	cr_assert_eq(cq_worker_attach(q, NULL, &w), ENOMEM);
	alloc.fail_in = 1;
	cr_assert_eq(cq_cleanup_work(q), ENOMEM);
	cr_assert_eq(stats().workers_live, 0);
	shut_down(NULL);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), ESHUTDOWN);
	close_queue();
	cr_assert_eq(alloc.live_bytes, 0);
}

/* ------------------------------------------------------------------- statistics */

static void see_a_worker_running(void *arg)
{
	cq_cleanup_stats_t s = stats();

	CHECK(s.workers_live == 1 && s.workers_running == 1);
	CHECK(s.workers_coming == 0 && s.workers_asleep == 0);
	CHECK(s.executed < s.queued && s.blocks_waiting == 0);
	record(arg);
}

Test(worker, statistics_follow_a_worker_from_asked_for_to_gone)
{
	cq_cleanup_stats_t s;

	open_retiring(1, note_request);
	cr_assert_eq(publish(p, see_a_worker_running, next_record()), 0);
	s = stats();
	cr_assert(s.workers_live == 1 && s.workers_coming == 1);
	cr_assert(s.workers_asleep == 0 && s.workers_running == 0);
	cr_assert(s.blocks_waiting == 1 && s.workers_created == 1);

	come(1);
	fake_wait_blocked(&park, 1);
	s = stats();
	cr_assert(s.workers_live == 1 && s.workers_coming == 0);
	cr_assert(s.workers_asleep == 1 && s.workers_running == 0);
	cr_assert(s.executed == 1 && s.queued == 1 && s.blocks_waiting == 0);

	fake_advance(&park, IDLE_NS);
	AWAIT(q->nworkers == 0);
	s = stats();
	cr_assert(s.workers_live == 0 && s.workers_coming == 0 && s.workers_asleep == 0);
	cr_assert(s.workers_retired == 1 && s.workers_peak == 1 && s.executed == 1);
	close_queue();
}

/* -------------------------------------------------------------- managed threads */

static struct {
	char name[16];
	size_t stack;
} seen;

static void look_at_thread(void *arg)
{
	pthread_attr_t attr;

	CHECK(pthread_getname_np(pthread_self(), seen.name, sizeof(seen.name)) == 0);
	CHECK(pthread_getattr_np(pthread_self(), &attr) == 0);
	CHECK(pthread_attr_getstacksize(&attr, &seen.stack) == 0);
	pthread_attr_destroy(&attr);
	record(arg);
}

static void look_at_a_thread_of(cq_cleanup_config_t config)
{
	open_with(config);
	cr_assert_eq(publish(p, look_at_thread, next_record()), 0);
	fake_wait_blocked(&park, 1);
	close_queue();
}

Test(worker, managed_threads_have_the_name_and_stack_of_the_config)
{
	look_at_a_thread_of((cq_cleanup_config_t){ .name = "fifteen-letters",
	    .stack_bytes = (size_t)1 << 20 });
	cr_assert_str_eq(seen.name, "fifteen-letters");
	cr_assert_geq(seen.stack, (size_t)1 << 20);
	cr_assert_lt(seen.stack, (size_t)2 << 20);
}

Test(worker, managed_threads_have_a_name_and_a_small_stack_by_default)
{
	look_at_a_thread_of((cq_cleanup_config_t){ 0 });
	cr_assert_str_eq(seen.name, "cq-cleanup");
	cr_assert_geq(seen.stack, (size_t)256 << 10);
	cr_assert_lt(seen.stack, (size_t)512 << 10);
}
