/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ways to live in a host, and one set of tests that all of them pass:
 *
 *   managed  the library makes the threads
 *   hosted   `spawn` starts threads of the host's
 *   polled   a scheduler of two threads calls run_some with a small budget
 *   asked    a scheduler asks needs_wake and calls wake; `spawn` makes workers
 *   green    a scheduler runs green threads on one thread; they dequeue, and
 *            parking switches to another
 *
 * The last three are CQ_POLLED and park through the host's own table, which
 * checks that no enqueue or flush ever wakes or makes a worker.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#include "cleanup/cleanup_priv.h"
#include "support.h"

TestSuite(hosts, .timeout = 60);

enum { WORKERS = 3, PRODUCERS = 3, EACH = 2000, BUDGET = 5, RECORDS = 40000 };

static cq_cleanup_t *q;
static atomic_bool ending; /* the queue is shut down: schedulers stop */

/* ------------------------------------------------- callbacks, each with a record */

static atomic_uint records[RECORDS], next, accepted, ran, returned;

static void record(void *arg)
{
	CHECK(atomic_fetch_add((atomic_uint *)arg, 1) == 0);
	ran++;
}

static void take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	(void)ctx;
	(void)fn;
	CHECK(atomic_fetch_add((atomic_uint *)arg, 1) == 0);
	returned++;
}

static void *next_record(void)
{
	unsigned i = next++;

	CHECK(i < RECORDS);
	return &records[i];
}

/* Inside of enqueue, flush or detach: no worker may be woken, in the polled ways. */
static _Thread_local bool publishing;
/* Inside of drain or shutdown. */
static _Thread_local bool draining;

static bool enqueue(cq_producer_t *p, cq_callback_fn *fn)
{
	int err;

	publishing = true;
	err = cq_producer_enqueue(p, fn, next_record());
	publishing = false;
	CHECK(err == 0 || err == ESHUTDOWN);
	accepted += err == 0;
	return err == 0;
}

static void flush(cq_producer_t *p)
{
	publishing = true;
	CHECK(cq_producer_flush(p) == 0);
	publishing = false;
}

static void detach(cq_producer_t *p)
{
	publishing = true;
	cq_producer_detach(p);
	publishing = false;
}

static int drain(void)
{
	int err;

	draining = true;
	while ((err = cq_cleanup_drain(q, CQ_FOREVER)) == EAGAIN)
		sched_yield(); /* the host's threads are between two looks */
	draining = false;
	return err;
}

static int shut_down(cq_shutdown_how_t how)
{
	int err;

	draining = true;
	while ((err = cq_cleanup_shutdown(q, how, CQ_FOREVER, take_back, NULL)) == EAGAIN)
		sched_yield();
	draining = false;
	return err;
}

static cq_producer_t *attach(void)
{
	cq_producer_t *p;

	CHECK(cq_producer_attach(q, &p) == 0);
	return p;
}

/* ------------------------------------------------------------ the host's threads */

static struct host_thread {
	void (*body)(void *arg);
	void *arg;
	pthread_t thread;
} threads[64];
static atomic_uint nthreads;

static void *be_thread(void *arg)
{
	struct host_thread *t = arg;

	t->body(t->arg);
	return NULL;
}

static int spawn(void *checks, void (*body)(void *arg), void *arg)
{
	unsigned i = nthreads++;

	CHECK(checks == NULL || !publishing);
	CHECK(i < 64);
	threads[i] = (struct host_thread){ .body = body, .arg = arg };
	threads[i].thread = start(be_thread, &threads[i]);
	return 0;
}

static void join_threads(void)
{
	ending = true;
	for (unsigned i = 0; i < nthreads; i++)
		join(threads[i].thread);
}

/* --------------------------------------- green threads, and the host's park table */

enum { STACK_BYTES = 256 << 10 };

struct green {
	ucontext_t context;
	char *stack;
	bool ready, ended;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct green greens[WORKERS];
	ucontext_t loop;
	unsigned unparks;
} sched = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static _Thread_local struct green *current; /* NULL: not in a green thread */

/*
 * parker->host is the green thread, or one of these. A producer may wake a drain,
 * to tell it that a block that it waits for is empty.
 */
static char a_worker, a_drain;

static void switch_away(void)
{
	struct green *me = current;

	CHECK(swapcontext(&me->context, &sched.loop) == 0);
}

static void green_yield(void)
{
	pthread_mutex_lock(&sched.lock);
	current->ready = true;
	pthread_mutex_unlock(&sched.lock);
	switch_away();
}

static uint64_t host_now(void *host)
{
	(void)host;
	return cq_now();
}

/* It may return early, so a thread that isn't green needs no deadline of its own. */
static void host_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct green *me = current;
	struct timespec soon;
	bool is_worker = me == NULL && !draining;

	(void)host;
	(void)deadline;
	CHECK(!publishing);
	pthread_mutex_lock(&sched.lock);
	if (cq_parker_granted(parker)) {
		pthread_mutex_unlock(&sched.lock);
		return;
	}
	if (me != NULL) {
		CHECK(parker->host == me); /* as cq_worker_attach was told */
		me->ready = false;
		pthread_mutex_unlock(&sched.lock);
		switch_away();
		return;
	}
	parker->host = is_worker ? &a_worker : &a_drain;
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec += 1;
	pthread_cond_timedwait(&sched.changed, &sched.lock, &soon);
	pthread_mutex_unlock(&sched.lock);
}

static void host_unpark(void *host, cq_parker_t *parker)
{
	void *who;

	(void)host;
	pthread_mutex_lock(&sched.lock);
	sched.unparks++;
	who = parker->host;
	CHECK(!publishing || who == &a_drain || who == NULL); /* not parked yet */
	cq_parker_grant(parker);
	if (who != NULL && who != &a_worker && who != &a_drain)
		((struct green *)who)->ready = true;
	pthread_cond_broadcast(&sched.changed);
	pthread_mutex_unlock(&sched.lock);
}

static const cq_park_ops_t host_park_ops = { host_now, host_park, host_unpark, NULL };

/* One body dequeues, and runs blocks in both ways. */
static void green_body(void)
{
	struct green *me = current;
	rng_t r = rng_for((unsigned)(me - sched.greens));
	cq_callback_fn *fn;
	cq_worker_t *w;
	cq_block_t *b;
	void *arg;

	if (cq_worker_attach(q, me, &w) != 0) { /* shut down already */
		me->ended = true;
		switch_away();
	}
	while ((b = cq_worker_dequeue(w)) != NULL) {
		if (rng_below(&r, 2) == 0) {
			cq_worker_run(w, b);
			continue;
		}
		/* Perhaps not all of it. */
		for (uint64_t n = 1 + rng_below(&r, 40); n > 0 && cq_block_next(b, &fn, &arg); n--)
			fn(arg);
		cq_worker_finish(w, b);
	}
	cq_worker_detach(w);
	me->ended = true;
	switch_away();
}

static bool run_green(struct green *g)
{
	bool ready;

	pthread_mutex_lock(&sched.lock);
	ready = g->ready && !g->ended;
	pthread_mutex_unlock(&sched.lock);
	if (ready) {
		current = g;
		CHECK(swapcontext(&sched.loop, &g->context) == 0);
		current = NULL;
	}
	return ready;
}

static void green_loop(void *unused)
{
	unsigned ended, busy;

	(void)unused;
	do {
		ended = busy = 0;
		for (unsigned i = 0; i < WORKERS; i++) {
			busy += run_green(&sched.greens[i]);
			ended += sched.greens[i].ended;
		}
		if (cq_cleanup_needs_wake(q))
			CHECK(cq_cleanup_wake(q) == 0);
		else if (busy == 0)
			sched_yield();
	} while (ended != WORKERS);
	CHECK(cq_frames() == NULL);
}

static void make_green(struct green *g, void (*body)(void))
{
	CHECK(getcontext(&g->context) == 0);
	g->stack = malloc(STACK_BYTES);
	CHECK(g->stack != NULL);
	g->context.uc_stack.ss_sp = g->stack;
	g->context.uc_stack.ss_size = STACK_BYTES;
	makecontext(&g->context, body, 0);
	g->ready = true;
}

static void start_greens(void)
{
	for (unsigned i = 0; i < WORKERS; i++)
		make_green(&sched.greens[i], green_body);
	CHECK(spawn(NULL, green_loop, NULL) == 0);
}

static void end_greens(void)
{
	join_threads();
	for (unsigned i = 0; i < WORKERS; i++)
		free(sched.greens[i].stack);
}

/* -------------------------------------------------------- schedulers without them */

static void poll_loop(void *unused)
{
	(void)unused;
	while (!ending) {
		size_t n = cq_cleanup_run_some(q, BUDGET);

		CHECK(n <= BUDGET);
		CHECK(!cq_cleanup_needs_wake(q)); /* there is nobody to wake or make */
		if (n == 0)
			sched_yield();
	}
}

static void ask_loop(void *unused)
{
	(void)unused;
	while (!ending) {
		if (cq_cleanup_needs_wake(q))
			CHECK(cq_cleanup_wake(q) == 0);
		sched_yield();
	}
}

static void start_pollers(void)
{
	CHECK(spawn(NULL, poll_loop, NULL) == 0);
	CHECK(spawn(NULL, poll_loop, NULL) == 0);
}

static void start_asker(void)
{
	CHECK(spawn(NULL, ask_loop, NULL) == 0);
}

static void nothing(void)
{
}

/* ------------------------------------------------------------------- the ways */

struct way {
	cq_cleanup_config_t config;
	void (*begin)(void); /* the queue is made */
	void (*end)(void);   /* and shut down */
};

static const struct way managed = { { .max_workers = WORKERS }, nothing, nothing };
static const struct way hosted = { { .max_workers = WORKERS, .spawn = spawn }, nothing,
	join_threads };
static const struct way polled = { { .flags = CQ_POLLED, .park = &host_park_ops },
	start_pollers, join_threads };
static const struct way asked = { { .flags = CQ_POLLED, .max_workers = WORKERS, .spawn = spawn,
	.host = &sched, .park = &host_park_ops }, start_asker, join_threads };
static const struct way green = { { .flags = CQ_POLLED, .park = &host_park_ops }, start_greens,
	end_greens };

static void open_way(const struct way *way)
{
	cr_assert_eq(cq_cleanup_create(&way->config, &q), 0);
	way->begin();
}

/* Nothing that was accepted is lost or came twice, and nothing is left. */
static void close_way(const struct way *way, cq_shutdown_how_t how)
{
	cq_cleanup_stats_t s;

	cr_assert_eq(shut_down(how), 0);
	way->end();
	cq_cleanup_stats(q, &s);
	cr_assert_eq(s.queued, accepted);
	cr_assert_eq(s.executed, ran);
	cr_assert_eq(s.handed_back, returned);
	cr_assert_eq(ran + returned, accepted);
	cr_assert_eq(s.workers_live, 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

/* ------------------------------------------------------------ what all have to do */

static void produce(void *unused, unsigned index)
{
	rng_t r = rng_for(100 + index);
	cq_producer_t *p = attach();

	(void)unused;
	for (unsigned i = 0; i < EACH; i++) {
		CHECK(enqueue(p, record));
		if (rng_below(&r, 20) == 0)
			flush(p);
		if (rng_below(&r, 500) == 0) {
			detach(p);
			p = attach();
		}
	}
	detach(p);
}

static void runs_everything_once(const struct way *way)
{
	open_way(way);
	run_threads(PRODUCERS, produce, NULL);
	cr_assert_eq(drain(), 0);
	cr_assert_eq(ran, PRODUCERS * EACH);
	for (unsigned i = 0; i < PRODUCERS * EACH; i++)
		cr_assert_eq(records[i], 1);
	close_way(way, CQ_SHUTDOWN_DRAIN);
}

static atomic_bool enough;

static void *keep_enqueuing(void *unused)
{
	cq_producer_t *p = attach();

	for (unsigned i = 0; !enough && i < RECORDS / 2; i++)
		CHECK(enqueue(p, record));
	detach(p);
	return unused;
}

static void drains_what_came_before(const struct way *way)
{
	enum { DRAINS = 50, FEW = 7 };
	cq_producer_t *p;
	pthread_t thread;

	open_way(way);
	p = attach();
	thread = start(keep_enqueuing, NULL);
	for (unsigned i = 0; i < DRAINS; i++) {
		atomic_uint mine[FEW];

		for (unsigned j = 0; j < FEW; j++) {
			mine[j] = 0;
			cr_assert_eq(cq_producer_enqueue(p, record, &mine[j]), 0);
			accepted++;
		}
		cr_assert_eq(drain(), 0);
		for (unsigned j = 0; j < FEW; j++)
			cr_assert_eq(mine[j], 1);
	}
	enough = true;
	join(thread);
	detach(p);
	close_way(way, CQ_SHUTDOWN_DRAIN);
}

static void produce_until_closed(void *unused, unsigned index)
{
	rng_t r = rng_for(200 + index);
	cq_producer_t *p;

	(void)unused;
	if (cq_producer_attach(q, &p) != 0)
		return; /* too late */
	if (index == 0) { /* closes it, once the others are under way */
		while (accepted < 500)
			sched_yield();
		detach(p);
		CHECK(shut_down(CQ_SHUTDOWN_HAND_BACK) == 0);
		return;
	}
	while (next < RECORDS - PRODUCERS && enqueue(p, record))
		if (rng_below(&r, 50) == 0)
			flush(p);
	detach(p);
}

static void hands_back_what_did_not_run(const struct way *way)
{
	open_way(way);
	run_threads(PRODUCERS, produce_until_closed, NULL);
	close_way(way, CQ_SHUTDOWN_HAND_BACK);
}

/* A callback that enqueues two more, until there are as many as are wanted. */
enum { FAMILY = 2001 };
static atomic_uint born;

static void have_children(void *arg)
{
	cq_producer_t *p = attach();

	for (int i = 0; i < 2; i++)
		if (atomic_fetch_add(&born, 1) < FAMILY)
			CHECK(enqueue(p, have_children));
	detach(p);
	record(arg);
}

static void lets_callbacks_enqueue(const struct way *way)
{
	cq_producer_t *p;

	open_way(way);
	p = attach();
	born = 1;
	cr_assert(enqueue(p, have_children));
	detach(p);
	while (ran < FAMILY)
		cr_assert_eq(drain(), 0);
	close_way(way, CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(ran, FAMILY);
}

static atomic_int refused;

static void try_to_drain(void *arg)
{
	refused += cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK;
	record(arg);
}

static void refuses_to_drain_in_a_callback(const struct way *way)
{
	cq_producer_t *p;

	open_way(way);
	p = attach();
	/* One alone: when a host calls by itself (cq_block_next) the library can't know. */
	if (way != &green)
		cr_assert(enqueue(p, try_to_drain));
	detach(p);
	close_way(way, CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(refused, way != &green);
}

#define CONFORMS(way)								\
	Test(hosts, way##_runs_everything_once) { runs_everything_once(&way); }	\
	Test(hosts, way##_drains_what_came_before) { drains_what_came_before(&way); } \
	Test(hosts, way##_hands_back_what_did_not_run)				\
	{									\
		hands_back_what_did_not_run(&way);				\
	}									\
	Test(hosts, way##_lets_callbacks_enqueue) { lets_callbacks_enqueue(&way); } \
	Test(hosts, way##_refuses_to_drain_in_a_callback)			\
	{									\
		refuses_to_drain_in_a_callback(&way);				\
	}

CONFORMS(managed)
CONFORMS(hosted)
CONFORMS(polled)
CONFORMS(asked)
CONFORMS(green)

/* ----------------------------------------------------------- what polling promises */

static void open_polled(cq_spawn_fn *by, uint32_t max_workers)
{
	cq_cleanup_config_t config = { .flags = CQ_POLLED, .max_workers = max_workers,
		.spawn = by, .host = &sched, .park = &host_park_ops,
		.block_bytes = CQ_BLOCK_BYTES_MIN };

	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(q->slots, 2);
}

static void enqueue_some(unsigned n)
{
	cq_producer_t *p = attach();

	while (n-- > 0)
		cr_assert(enqueue(p, record));
	detach(p);
}

Test(hosts, run_some_keeps_to_its_budget_and_goes_on_later)
{
	open_polled(NULL, 0);
	enqueue_some(7); /* in blocks of two */
	cr_assert_eq(cq_cleanup_run_some(q, 0), 0);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1); /* the last block, which held one */
	cr_assert_eq(cq_cleanup_units(q), 3);
	cr_assert_eq(cq_cleanup_run_some(q, 3), 3);
	cr_assert_eq(cq_cleanup_units(q), 2);
	cr_assert_eq(ran, 4);
	cr_assert_eq(cq_cleanup_run_some(q, 100), 3);
	cr_assert_eq(cq_cleanup_run_some(q, 100), 0);
	cr_assert_eq(cq_cleanup_units(q), 0);
	close_way(&managed, CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(returned, 0);
}

Test(hosts, what_the_budget_left_is_handed_back)
{
	open_polled(NULL, 0);
	enqueue_some(7);
	cr_assert_eq(cq_cleanup_run_some(q, 3), 3);
	close_way(&managed, CQ_SHUTDOWN_HAND_BACK);
	cr_assert_eq(returned, 4);
}

Test(hosts, needs_wake_is_false_when_nobody_can_be_woken_or_made)
{
	open_polled(NULL, 0);
	cr_assert_not(cq_cleanup_needs_wake(q));
	enqueue_some(4);
	cr_assert_not(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_not(cq_cleanup_stalled(q)); /* nobody tried, and nobody has to */
	cr_assert_eq(cq_cleanup_run_some(q, 100), 4);
	close_way(&managed, CQ_SHUTDOWN_DRAIN);
}

/* As spawn, but the workers never come. */
static void (*asked_body)(void *arg);
static void *asked_arg[WORKERS];
static unsigned requests;

static int note_request(void *unused, void (*body)(void *arg), void *arg)
{
	(void)unused;
	CHECK(!publishing);
	CHECK(requests < WORKERS);
	asked_body = body;
	asked_arg[requests++] = arg;
	return 0;
}

Test(hosts, needs_wake_is_false_once_the_demand_is_covered)
{
	open_polled(note_request, WORKERS);
	cr_assert_not(cq_cleanup_needs_wake(q));
	enqueue_some(4); /* two blocks */
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(requests, 0);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(requests, 2);
	cr_assert_not(cq_cleanup_needs_wake(q));
	enqueue_some(4);
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(requests, WORKERS);
	cr_assert_not(cq_cleanup_needs_wake(q)); /* the cap */
	for (unsigned i = 0; i < WORKERS; i++)
		CHECK(spawn(NULL, asked_body, asked_arg[i]) == 0);
	close_way(&hosted, CQ_SHUTDOWN_DRAIN);
	cr_assert_eq(ran, 8);
}

static void *work(void *unused)
{
	CHECK(cq_cleanup_work(q) == 0);
	return unused;
}

Test(hosts, enqueue_and_flush_wake_no_sleeper_of_a_polled_queue)
{
	cq_producer_t *p;
	pthread_t thread;
	cq_cleanup_stats_t s;

	open_polled(NULL, 0);
	thread = start(work, NULL);
	do
		cq_cleanup_stats(q, &s);
	while (s.workers_asleep == 0 && sched_yield() == 0);
	p = attach();
	for (unsigned i = 0; i < 9; i++)
		cr_assert(enqueue(p, record));
	flush(p);
	cr_assert(enqueue(p, record));
	publishing = true;
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	publishing = false;
	detach(p);
	cr_assert_eq(sched.unparks, 0);
	cr_assert_eq(ran, 0);
	cr_assert(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(sched.unparks, 1);
	while (ran < 10)
		sched_yield();
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN), 0);
	join(thread);
	close_way(&managed, CQ_SHUTDOWN_DRAIN);
}

/* ---------------------------------------------- callbacks that switch green threads */

/*
 * Two callbacks on one thread, of which the first to begin is the first to end.
 * `second` is inside all the time.
 */
static unsigned first_began, second_began, first_ended;

static void first_inside(void *arg)
{
	first_began++;
	while (second_began == 0)
		green_yield();
	first_ended++;
	record(arg);
}

static void second_inside(void *arg)
{
	second_began++;
	while (first_ended == 0)
		green_yield();
	green_yield(); /* lets it return from the library as well */
	refused += cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK;
	record(arg);
}

static void run_one_block(void)
{
	struct green *me = current;
	cq_worker_t *w;
	cq_block_t *b;

	CHECK(cq_worker_attach(q, me, &w) == 0);
	b = cq_worker_try_dequeue(w);
	CHECK(b != NULL);
	cq_worker_run(w, b);
	cq_worker_detach(w);
	me->ended = true;
	switch_away();
}

static int popped;

static void note(void *unused)
{
	(void)unused;
	popped++;
}

/*
 * The library's handlers are of the green stacks, and leave in another order than they
 * came; those of the thread itself are the ones that its end runs.
 */
static void *take_turns_and_exit(void *unused)
{
	pthread_cleanup_push(note, NULL);
	while (!sched.greens[0].ended || !sched.greens[1].ended) {
		run_green(&sched.greens[0]);
		run_green(&sched.greens[1]);
	}
	for (int i = 0; i < 2; i++) {
		memset(sched.greens[i].stack, 0xa5, STACK_BYTES);
		free(sched.greens[i].stack);
	}
	pthread_exit(unused);
	pthread_cleanup_pop(0);
	return NULL;
}

Test(hosts, a_thread_whose_green_threads_took_turns_may_end_by_pthread_exit)
{
	cq_producer_t *p;

	open_polled(NULL, 0);
	p = attach();
	cr_assert(enqueue(p, second_inside));
	flush(p);
	cr_assert(enqueue(p, first_inside));
	detach(p);
	make_green(&sched.greens[0], run_one_block);
	make_green(&sched.greens[1], run_one_block);
	join(start(take_turns_and_exit, NULL));
	cr_assert_eq(ran, 2);
	cr_assert_eq(popped, 1);
	close_way(&managed, CQ_SHUTDOWN_DRAIN);
}

Test(hosts, green_threads_may_take_turns_inside_of_callbacks)
{
	cq_producer_t *p;

	open_polled(NULL, 0);
	p = attach();
	cr_assert(enqueue(p, second_inside));
	flush(p);
	cr_assert(enqueue(p, first_inside));
	detach(p);
	make_green(&sched.greens[0], run_one_block);
	make_green(&sched.greens[1], run_one_block);
	while (!sched.greens[0].ended || !sched.greens[1].ended) {
		run_green(&sched.greens[0]);
		run_green(&sched.greens[1]);
	}
	cr_assert_eq(ran, 2);
	cr_assert_eq(refused, 1);
	cr_assert_null(cq_frames(), "a frame that has ended is still in the list");
	free(sched.greens[0].stack);
	free(sched.greens[1].stack);
	close_way(&managed, CQ_SHUTDOWN_DRAIN);
}
