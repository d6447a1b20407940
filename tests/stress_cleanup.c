/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_cleanup - layer 3 under threads, in many short rounds. Each makes a
 * queue with a configuration by chance, lets threads loose on it, shuts it down
 * while they enqueue, and counts.
 *
 * Busy rounds have all kinds of threads: producers that attach, reserve, flush
 * and detach, flush_all, drains, readers of the statistics, hosted workers,
 * pollers with a budget, memory and threads that can't be had. Quiet rounds have
 * only a few producers, or one, that wait for their callbacks to run, now and
 * then: nobody else wakes a worker, so one lost wake-up stops the round, and the
 * watchdog aborts. In deadly rounds of either kind callbacks end their threads.
 *
 * Conservation: each callback has a record, which goes from accepted to ran or
 * to handed back, once; what was refused never runs. And no memory is left.
 *
 * Environment: CQ_STRESS_SECONDS (2), CQ_TEST_SEED, CQ_TEST_LIMIT (the seconds
 * without progress after which it aborts, 30). Status: 0, or it aborts.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "support.h"

enum {
	PRODUCERS = 3,
	/* In one round. More than there is mostly time for, so that the shutdown
	   meets producers at work. */
	PER_PRODUCER = 20000,
	CHILDREN = 4000,	/* enqueued by callbacks */
	ROUND_NS = 10000000
};

/* The threads of a busy round; a quiet one has the producers and the closer. */
enum { DRAINER = PRODUCERS, CLOSER, FLUSHER, READER, HOSTED, POLLER, THREADS };

enum { UNUSED, ACCEPTED, RAN, BACK };

/* Whose callbacks: how many are still to come. */
struct owner {
	atomic_int left;
};

struct record {
	atomic_uchar state;
	bool has_child, is_deadly;
	struct owner *owner;
};

static struct round {
	unsigned number;
	bool quiet, failures, deadly;
	unsigned producers;
	cq_cleanup_config_t config;
	cq_cleanup_t *q;
	test_alloc_t alloc;
	uint64_t end;
	atomic_uint producing;
	atomic_bool closing, closed;
	struct owner owners[DRAINER + 2];	/* the last is that of all children */
	struct record records[DRAINER + 1][PER_PRODUCER], children[CHILDREN];
	atomic_uint nchildren;
	atomic_ullong workers_started, workers_ended; /* on threads that the queue made */
} round_;

static struct round *const r = &round_;
static atomic_ullong progress;
static unsigned long long ran, back, refused;	/* in all rounds */
static atomic_ullong ended;			/* threads, by callbacks */
static uint64_t retired, failed_sleeps, wakes, stalls;

static void dump(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(r->q, &s);
	fprintf(stderr, "round %u: %s%s%s %u of %u producers, flags %u, cap %" PRIu32 ", idle %" PRIu64 " ns, spawn %d, "
	    "closing %d\n", r->number, r->quiet ? "quiet" : "busy",
	    r->deadly ? ", deadly" : "", r->failures ? ", failures," : ",",
	    r->producing, r->producers, r->config.flags, r->config.max_workers, r->config.idle_ns,
	    r->config.spawn != NULL,
	    r->closing);
	for (unsigned i = 0; i <= DRAINER + 1; i++)
		fprintf(stderr, "owner %u waits for %d\n", i, r->owners[i].left);
	fprintf(stderr, "queued %" PRIu64 ", executed %" PRIu64 ", back %" PRIu64 ", blocks waiting %"
	    PRIu64 "\nworkers: live %" PRIu32 ", coming %" PRIu32 ", asleep %" PRIu32 ", running %"
	    PRIu32 ", created %" PRIu64 ", retired %" PRIu64 ", failed %" PRIu64 "\n", s.queued,
	    s.executed, s.handed_back, s.blocks_waiting, s.workers_live, s.workers_coming,
	    s.workers_asleep, s.workers_running, s.workers_created, s.workers_retired,
	    s.workers_failed);
}

/* ---------------------------------------------------------------- callbacks */

static int enqueue(cq_producer_t *p, struct record *record, struct owner *owner);

static void settle(struct record *record, unsigned char how)
{
	CHECK(atomic_exchange(&record->state, how) == ACCEPTED);
	progress++;
	record->owner->left--;
}

static void have_child(void)
{
	unsigned i = r->nchildren++;
	cq_producer_t *p;

	if (i >= CHILDREN || cq_producer_attach(r->q, &p) != 0)
		return;
	(void)enqueue(p, &r->children[i], &r->owners[DRAINER + 1]);
	cq_producer_detach(p);
}

static void run(void *arg)
{
	struct record *record = arg;
	bool deadly;

	if (record->has_child) {
		have_child();
		sched_yield();
	}
	deadly = record->is_deadly;
	settle(record, RAN);
	if (deadly) {
		ended++;
		pthread_exit(NULL);
	}
}

static void take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	CHECK(ctx == r && fn == run);
	settle(arg, BACK);
}

static int enqueue(cq_producer_t *p, struct record *record, struct owner *owner)
{
	int err;

	record->owner = owner;
	record->state = ACCEPTED;
	owner->left++;
	err = cq_producer_enqueue(p, run, record);
	CHECK(err == 0 || err == ESHUTDOWN || (err == ENOMEM && r->failures));
	if (err != 0) {
		CHECK(atomic_exchange(&record->state, UNUSED) == ACCEPTED);
		owner->left--;
	}
	return err;
}

/* --------------------------------------------------- a host that makes the threads */

struct hosted {
	void (*body)(void *arg);
	void *arg;
	pthread_t thread;
	atomic_bool ended;
	struct hosted *next;
};

static struct {
	pthread_mutex_t lock;
	struct hosted *all;
	rng_t chance;
} host = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void has_ended(void *arg)
{
	((struct hosted *)arg)->ended = true;
}

static void *be_hosted(void *arg)
{
	struct hosted *h = arg;

	pthread_cleanup_push(has_ended, h);
	h->body(h->arg);
	pthread_cleanup_pop(1);
	return NULL;
}

/* Joins the threads that have ended, or waits for all of them. */
static void reap(bool all)
{
	for (struct hosted **link = &host.all, *h; (h = *link) != NULL;) {
		if (!all && !h->ended) {
			link = &h->next;
			continue;
		}
		*link = h->next;
		join(h->thread);
		free(h);
	}
}

static int spawn(void *unused, void (*body)(void *arg), void *arg)
{
	struct hosted *h = NULL;

	(void)unused;
	pthread_mutex_lock(&host.lock);
	reap(false);
	if (!r->failures || rng_below(&host.chance, 8) != 0) {
		h = calloc(1, sizeof(*h));
		CHECK(h != NULL);
		h->body = body;
		h->arg = arg;
		h->next = host.all;
		host.all = h;
		h->thread = start(be_hosted, h);
	}
	pthread_mutex_unlock(&host.lock);
	return h != NULL ? 0 : EAGAIN;
}

/* Once on each thread that the queue makes, however it ends. */
static __thread bool started;

static void worker_start(void *unused)
{
	(void)unused;
	CHECK(!started);
	started = true;
	r->workers_started++;
}

static void worker_end(void *unused)
{
	(void)unused;
	CHECK(started);
	started = false;
	r->workers_ended++;
}

/* ------------------------------------------- a park table that gives time to races */

/*
 * The library reads the clock between finding nothing and going to sleep, and
 * before it publishes: others may take a step there.
 */
static void jitter(void)
{
	static _Thread_local rng_t chance;

	if (chance.state == 0)
		chance = rng_for((unsigned)((uintptr_t)&chance >> 6));
	if (rng_below(&chance, 8) == 0)
		sched_yield();
	for (atomic_uint n = (unsigned)rng_below(&chance, 200); n > 0; n--)
		;
}

static uint64_t jitter_now(void *unused)
{
	(void)unused;
	jitter();
	return cq_now();
}

static void jitter_park(void *unused, cq_parker_t *parker, uint64_t deadline)
{
	(void)unused;
	jitter();
	cq_park_default()->park(cq_park_default()->host, parker, deadline);
	jitter();
}

static void jitter_unpark(void *unused, cq_parker_t *parker)
{
	(void)unused;
	jitter();
	cq_park_default()->unpark(cq_park_default()->host, parker);
	jitter();
}

static const cq_park_ops_t jitter_ops = { jitter_now, jitter_park, jitter_unpark, NULL };

/* ---------------------------------------------------------------- the threads */

static void may_stall(int err)
{
	CHECK(err == 0 || (r->failures && (err == EAGAIN || err == ENOMEM)) ||
	    (err == EAGAIN && r->config.spawn == NULL && (r->config.flags & CQ_POLLED) != 0));
	if (err == EAGAIN)
		progress++;
}

/*
 * Until all that this owner has enqueued is settled, by the workers alone. Then a
 * moment more, so that the next block meets the worker at any of its steps.
 */
static void wait_for(cq_producer_t *p, struct owner *owner, rng_t *chance)
{
	/* With CQ_HANDOVER a worker comes for it without a flush, unless none can
	   be made. */
	if ((r->config.flags & CQ_HANDOVER) == 0)
		may_stall(cq_producer_flush(p));
	for (unsigned i = 0; owner->left > 0; i++)
		if (i > 1000) /* at first it spins, to be there at once */
			sched_yield();
	for (atomic_uint n = (unsigned)rng_below(chance, 100); n > 0; n--)
		;
}

/* Enqueues up to n that must not fail for want of memory. */
static unsigned enqueue_reserved(cq_producer_t *p, rng_t *chance, unsigned index, unsigned i)
{
	unsigned n = (unsigned)rng_below(chance, 100);

	if (cq_producer_reserve(p, n) != 0)
		return i;
	for (; n > 0 && i < PER_PRODUCER; n--, i++) {
		int err = enqueue(p, &r->records[index][i], &r->owners[index]);

		CHECK(err != ENOMEM);
		if (rng_below(chance, 40) == 0)
			(void)cq_producer_flush(p); /* which keeps what is reserved */
	}
	return i;
}

static void produce(rng_t *chance, unsigned index)
{
	cq_producer_t *p = NULL;
	int err = 0;

	for (unsigned i = 0; i < PER_PRODUCER && err != ESHUTDOWN; i++) {
		if (r->quiet ? cq_now() >= r->end : r->closed)
			break;
		if (p == NULL && (err = cq_producer_attach(r->q, &p)) != 0)
			continue;
		r->records[index][i].has_child = rng_below(chance, 16) == 0;
		r->records[index][i].is_deadly = r->deadly && rng_below(chance, 64) == 0;
		err = enqueue(p, &r->records[index][i], &r->owners[index]);
		if (r->quiet && rng_below(chance, 2) == 0) {
			wait_for(p, &r->owners[index], chance);
			continue;
		}
		switch (rng_below(chance, 256)) {
		case 0:
			cq_producer_detach(p);
			p = NULL;
			break;
		case 1:
			i = enqueue_reserved(p, chance, index, i + 1);
			break;
		case 2 ... 10:
			may_stall(cq_producer_flush(p));
			break;
		case 11 ... 14:
			sched_yield();
			break;
		}
	}
	cq_producer_detach(p);
	r->producing--;
}

/* Enqueues a few and waits for them: what a drain has covered has been settled. */
static void drain(rng_t *chance)
{
	unsigned done = 0;
	cq_producer_t *p;

	if (r->quiet || cq_producer_attach(r->q, &p) != 0)
		return;
	while (!r->closed && done < PER_PRODUCER) {
		unsigned upto = done + 1 + (unsigned)rng_below(chance, 20);
		uint64_t deadline = CQ_FOREVER;
		int err;

		for (; done < upto && done < PER_PRODUCER; done++)
			if (enqueue(p, &r->records[DRAINER][done], &r->owners[DRAINER]) != 0)
				break;
		if (rng_below(chance, 3) == 0)
			deadline = cq_deadline_in(rng_below(chance, 200000));
		err = cq_cleanup_drain(r->q, deadline);
		if (err == 0)
			CHECK(r->owners[DRAINER].left == 0);
		else if (err != ETIMEDOUT && err != ESHUTDOWN)
			may_stall(err);
		if (err == ESHUTDOWN || r->closing)
			break;
	}
	cq_producer_detach(p);
}

static void flush_all(rng_t *chance)
{
	while (!r->closed) {
		may_stall(cq_cleanup_flush_all(r->q));
		if (cq_cleanup_needs_wake(r->q))
			may_stall(cq_cleanup_wake(r->q));
		for (uint64_t n = rng_below(chance, 50); n > 0 && !r->closed; n--)
			sched_yield();
	}
}

static void read_stats(rng_t *chance)
{
	cq_cleanup_stats_t s, last = { 0 };

	while (!r->closed) {
		cq_cleanup_stats(r->q, &s);
		CHECK(s.executed + s.handed_back <= s.queued);
		CHECK(s.executed >= last.executed && s.handed_back >= last.handed_back);
		/* A shutdown may catch an enqueue that it makes take its callback back. */
		CHECK(s.queued >= last.queued || r->closing);
		CHECK(s.useless_wakes <= s.wakes + THREADS);
		CHECK(s.workers_peak <= r->config.max_workers + 1); /* and the hosted one */
		last = s;
		if (r->failures && rng_below(chance, 4) == 0)
			r->alloc.fail_in = 1 + (long)rng_below(chance, 4);
		for (uint64_t n = rng_below(chance, 20); n > 0; n--)
			sched_yield();
	}
}

static void *be_worker(void *unused)
{
	int err;

	(void)unused;
	do {
		err = cq_cleanup_work(r->q);
		CHECK(err == 0 || err == ESHUTDOWN || err == ETIMEDOUT || (err == ENOMEM && r->failures));
	} while (err != 0 && err != ESHUTDOWN && !r->closed);
	return r;
}

static void *poll(void *chance)
{
	while (!r->closed) {
		size_t budget = rng_below(chance, 20);

		CHECK(cq_cleanup_run_some(r->q, budget) <= budget);
		if (cq_cleanup_needs_wake(r->q))
			may_stall(cq_cleanup_wake(r->q));
		sched_yield();
	}
	return r;
}

/* Another thread in the place of each that a callback ends. */
static void be_replaced(void *(*body)(void *arg), void *arg)
{
	while (join(start(body, arg)) != r)
		;
}

static void close_queue(rng_t *chance)
{
	cq_shutdown_how_t how = rng_below(chance, 2) == 0 ? CQ_SHUTDOWN_DRAIN : CQ_SHUTDOWN_HAND_BACK;
	int err;

	/* A shutdown would come to the rescue of those who wait in a quiet round. */
	while (cq_now() < r->end || (r->quiet && r->producing != 0))
		sched_yield();
	r->closing = true;
	do {
		uint64_t deadline = CQ_FOREVER;

		if (rng_below(chance, 2) == 0)
			deadline = cq_deadline_in(rng_below(chance, 1000000));
		err = cq_cleanup_shutdown(r->q, how, deadline, take_back, r);
		if (err != ETIMEDOUT)
			may_stall(err);
		if (rng_below(chance, 8) == 0)
			how = CQ_SHUTDOWN_HAND_BACK;
	} while (err != 0);
	r->closed = true;
}

static void be_thread(void *unused, unsigned index)
{
	rng_t chance = rng_for(r->number * THREADS + index);

	(void)unused;
	switch (index) {
	case DRAINER:
		drain(&chance);
		break;
	case CLOSER:
		close_queue(&chance);
		break;
	case FLUSHER:
		flush_all(&chance);
		break;
	case READER:
		read_stats(&chance);
		break;
	case HOSTED:
		be_replaced(be_worker, NULL);
		break;
	case POLLER:
		be_replaced(poll, &chance);
		break;
	default:
		if (index < r->producers)
			produce(&chance, index);
	}
}

/* ---------------------------------------------------------------- the rounds */

static void choose(rng_t *chance)
{
	/* A single worker, and one that stays, hide lost wake-ups least. */
	static const uint32_t caps[] = { 1, 1, 2, 4 };
	static const uint64_t idle[] = { 1, 20000, UINT64_C(3600000000000), CQ_FOREVER };
	static const size_t bytes[] = { CQ_BLOCK_BYTES_MIN, 100, CQ_BLOCK_BYTES_DEFAULT };

	r->quiet = rng_below(chance, 2) == 0;
	r->failures = !r->quiet && rng_below(chance, 2) == 0;
	r->deadly = rng_below(chance, 3) == 0;
	r->producers = 1 + (unsigned)rng_below(chance, PRODUCERS);
	r->producing = r->producers;
	r->config = (cq_cleanup_config_t){
		.max_workers = caps[rng_below(chance, 4)],
		.idle_ns = idle[rng_below(chance, 4)],
		.block_bytes = bytes[rng_below(chance, 3)],
		.spawn = rng_below(chance, 2) == 0 ? spawn : NULL,
		.park = rng_below(chance, 2) == 0 ? &jitter_ops : NULL,
		.allocator = &r->alloc.allocator,
		.worker_start = worker_start,
		.worker_end = worker_end
	};
	if (rng_below(chance, 2) == 0)
		r->config.flags |= CQ_HANDOVER;
	/* Those who poll are in busy rounds only. */
	if (!r->quiet && rng_below(chance, 3) == 0)
		r->config.flags |= CQ_POLLED;
}

static void count(struct record *records, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct record *record = &records[i];

		ran += record->state == RAN;
		back += record->state == BACK;
		refused += record->state == UNUSED && record->owner != NULL;
		CHECK(record->state != ACCEPTED);
		record->state = UNUSED;
		record->owner = NULL;
		record->has_child = record->is_deadly = false;
	}
}

static void check_round(void)
{
	unsigned long long ran_before = ran, back_before = back;
	cq_cleanup_stats_t s;

	for (unsigned i = 0; i <= DRAINER; i++)
		count(r->records[i], PER_PRODUCER);
	count(r->children, CHILDREN);
	for (unsigned i = 0; i <= DRAINER + 1; i++)
		CHECK(r->owners[i].left == 0);
	cq_cleanup_stats(r->q, &s);
	CHECK(s.executed == ran - ran_before);
	CHECK(s.handed_back == back - back_before);
	CHECK(s.queued == s.executed + s.handed_back);
	CHECK(s.workers_live == 0 && s.workers_coming == 0 && s.workers_asleep == 0);
	CHECK(s.producers == 0 && s.blocks_waiting == 0);
	CHECK(!r->quiet || s.failed_sleeps <= s.queued);
	CHECK(r->workers_started == (r->config.spawn == NULL ? s.workers_created : 0));
	CHECK(r->workers_ended == r->workers_started);
	retired += s.workers_retired;
	failed_sleeps += s.failed_sleeps;
	wakes += s.wakes;
	stalls += s.workers_failed;
}

static void run_round(unsigned number)
{
	rng_t chance = rng_for(number * THREADS + THREADS - 1);

	r->number = number;
	test_alloc_init(&r->alloc);
	choose(&chance);
	r->closing = r->closed = false;
	r->nchildren = 0;
	r->workers_started = r->workers_ended = 0;
	host.chance = rng_for(number);
	CHECK(cq_cleanup_create(&r->config, &r->q) == 0);
	r->end = cq_deadline_in(rng_below(&chance, ROUND_NS));
	run_threads(r->quiet ? CLOSER + 1 : THREADS, be_thread, NULL);
	reap(true);
	check_round();
	r->alloc.fail_in = 0;
	CHECK(cq_cleanup_destroy(r->q) == 0);
	CHECK(r->alloc.live_bytes == 0);
}

int main(void)
{
	uint64_t end = run_until(2);
	unsigned rounds = 0;
	watchdog_t watchdog;

	test_seed();
	watchdog_start(&watchdog, &progress, dump);
	do
		run_round(++rounds);
	while (cq_now() < end);
	watchdog_stop(&watchdog);
	printf("stress_cleanup: park %s, pop %s, %u rounds: ran %llu, handed back %llu, refused %llu, "
	    "wakes %" PRIu64 ", failed sleeps %" PRIu64 ", retired %" PRIu64 ", ended %llu, not made %"
	    PRIu64 "\n", cq_build_info()->park, cq_build_info()->pop, rounds, ran, back, refused, wakes, failed_sleeps,
	    retired, ended, stalls);
	return 0;
}
