/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_cleanup - layer 4 under threads, in many short rounds. Each makes one or two queues, with a
 * pool of their own or a shared one, and a configuration by chance; ends by a shutdown, and counts.
 *
 *   busy    all kinds of threads: producers that attach, reserve, span, flush and detach, enqueues
 *           without one, flushes of all, drains, readers of the statistics, lent workers, pollers with a
 *           budget, memory and threads that can't be had, forks. The shutdown comes while they enqueue
 *   quiet   only a few producers, or one, that wait for their callbacks to run, now and then: nobody
 *           else wakes a worker, so one lost wake-up stops the round, and the watchdog aborts. In a queue
 *           that keeps time they also wait without a flush
 *   hung    callbacks that hang: those of all other blocks run, though nobody calls the queue; and a
 *           hand back with all workers hung gives back all that is in no worker's hand
 *
 * In deadly rounds of the first two callbacks end their threads. In half of all the threads seem to be on 16
 * processors, and queues get more shards; and half of those on a shared pool have blocks that grow.
 *
 * Conservation: each callback has a record, which goes from accepted to ran or to handed back, once;
 * what was refused never runs. No more run at once than the queue's limit. And no memory is left.
 *
 * Environment: CQ_STRESS_SECONDS (2), CQ_TEST_SEED, CQ_TEST_LIMIT (the seconds without progress after
 * which it aborts, 30), CQ_NO_FORKS. Status: 0, or it aborts.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spread.h"
#include "support.h"

enum {
	QUEUES = 2,
	PRODUCERS = 3,
	/* In one round. More than there is mostly time for, so that the shutdown
	   meets producers at work. */
	PER_PRODUCER = 20000,
	CHILDREN = 4000,	/* enqueued by callbacks */
	HUNG_WORKERS = 4,
	ROUND_NS = 10000000,
	CHILD_SECONDS = 120	/* after which a forked child has hung */
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
	bool has_child, is_deadly, hangs;
	struct owner *owner;
	struct queue *queue;
};

struct queue {
	cq_cleanup_t *q;
	cq_cleanup_config_t config;
	atomic_uint running;
	bool by_time;		/* what nobody flushes runs soon, all the same */
	atomic_bool closed;
	atomic_ullong settled;
	uint64_t ran, back;	/* counted at the end */
};

static struct round {
	unsigned number;
	bool quiet, failures, deadly, hung;
	unsigned producers, nqueues;
	cq_pool_config_t pool_config;
	cq_pool_t *pool;	/* shared, or NULL */
	struct queue queues[QUEUES];
	test_alloc_t alloc;
	uint64_t end;
	atomic_uint producing;
	atomic_bool failing, closing, closed;
	struct owner owners[DRAINER + 2];	/* the last is that of all children */
	struct record records[DRAINER + 1][PER_PRODUCER], children[CHILDREN];
	atomic_uint nchildren;
	atomic_ullong workers_started, workers_ended; /* on threads that the pools made */
	atomic_uint hanging;
	atomic_bool release;	/* what hangs */
} round_;

static struct round *const r = &round_;
static bool in_child;
static atomic_ullong progress;
static unsigned long long ran, back, refused;	/* in all rounds */
static atomic_ullong ended;			/* threads, by callbacks */
static atomic_ullong forks, not_started;
static uint64_t retired, wakes, hung_rounds;

static void dump(void)
{
	fprintf(stderr, "round %u: %s%s%s %u of %u producers, %u queues%s, flags %u, workers %" PRIu32 " to %"
	    PRIu32 ", idle %" PRIu64 " ns, spawn %d, closing %d, hanging %u\n", r->number,
	    r->hung ? "hung" : r->quiet ? "quiet" : "busy", r->deadly ? ", deadly" : "",
	    r->failures ? ", failures," : ",", r->producing, r->producers, r->nqueues,
	    r->pool != NULL ? " on one pool" : "", r->pool_config.flags, r->pool_config.workers_min,
	    r->pool_config.workers_max, r->pool_config.idle_ns, r->pool_config.spawn != NULL, r->closing,
	    r->hanging);
	for (unsigned i = 0; i <= DRAINER + 1; i++)
		fprintf(stderr, "owner %u waits for %d\n", i, r->owners[i].left);
	for (unsigned i = 0; i < r->nqueues; i++) {
		struct queue *q = &r->queues[i];
		cq_cleanup_stats_t s;
		cq_pool_stats_t w;

		cq_cleanup_stats(q->q, &s);
		cq_pool_stats(cq_cleanup_pool(q->q), &w);
		fprintf(stderr, "queue %u: parallel %" PRIu32 ", block %zu, flush %" PRIu64 " ns, wake %zu, closed %d, queued %"
		    PRIu64
		    ", executed %" PRIu64 ", back %" PRIu64 ", blocks waiting %" PRIu64 "\nits pool: live %"
		    PRIu32 ", coming %" PRIu32 ", idle %" PRIu32 ", running %" PRIu32 ", tasks waiting %" PRIu64
		    ", created %" PRIu64 ", retired %" PRIu64 ", failed %" PRIu64 "\n", i, q->config.parallel,
		    q->config.block_bytes, q->config.flush_ns, q->config.wake_bytes, q->closed,
		    s.queued, s.executed, s.handed_back, s.blocks_waiting,
		    w.workers_live, w.workers_coming, w.workers_idle, w.workers_running, w.tasks_waiting,
		    w.workers_created, w.workers_retired, w.workers_failed);
	}
}

/* ------------------------------------------------------------------ failures */

static bool fails_by_chance(unsigned one_in)
{
	static _Thread_local rng_t chance;

	if (!r->failing)
		return false;
	if (chance.state == 0)
		chance = rng_for((unsigned)((uintptr_t)&chance >> 6));
	return rng_below(&chance, one_in) == 0;
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
	if (!fails_by_chance(8)) {
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

/* Once on each thread that a pool makes, however it ends. */
static _Thread_local bool started;

static int worker_start(void *unused)
{
	(void)unused;
	CHECK(!started);
	if (fails_by_chance(8)) {
		not_started++;
		return EAGAIN;
	}
	started = true;
	r->workers_started++;
	return 0;
}

static void worker_end(void *unused)
{
	(void)unused;
	CHECK(started);
	started = false;
	r->workers_ended++;
}

/* ---------------------------------------------------------------- callbacks */

static int enqueue(cq_producer_t *p, struct record *record, struct owner *owner, struct queue *q);
static void run(void *arg);

static void settle(struct record *record, unsigned char how)
{
	CHECK(atomic_exchange(&record->state, how) == ACCEPTED);
	progress++;
	record->queue->settled++;
	record->owner->left--;
}

/* Every other producer has one function by contract. */
static int attach(struct queue *q, unsigned which, cq_producer_t **p)
{
	int err = cq_producer_attach(q->q, which % 2 == 0 ? NULL : run, p);

	CHECK(err == 0 || err == ESHUTDOWN || (err == ENOMEM && r->failures));
	return err;
}

static void have_child(struct queue *q)
{
	unsigned i = r->nchildren++;
	cq_producer_t *p = NULL;

	if (i >= CHILDREN || (i % 4 < 2 && attach(q, i, &p) != 0))
		return;
	(void)enqueue(p, &r->children[i], &r->owners[DRAINER + 1], q);
	cq_producer_detach(p);
	if (r->pool != NULL) /* of any queue on this pool */
		CHECK(cq_cleanup_drain(r->queues[i % r->nqueues].q, CQ_FOREVER) == EDEADLK);
}

static void hang(void)
{
	r->hanging++;
	while (!r->release)
		sched_yield();
	r->hanging--;
}

static void run(void *arg)
{
	struct record *record = arg;
	struct queue *q = record->queue;
	bool deadly = record->is_deadly && started; /* elsewhere it were misuse */
	bool nests = record->has_child && !in_child;

	CHECK(!q->closed);
	if (!in_child) {
		CHECK(q->running++ < q->config.parallel || q->config.parallel == 0);
		if (record->hangs)
			hang();
		if (record->has_child) {
			have_child(q);
			sched_yield();
		}
		q->running--;
	}
	settle(record, RAN);
	if (deadly && !in_child) {
		ended++;
		pthread_exit(NULL);
	}
	if (nests) /* these may end this thread too */
		CHECK(cq_cleanup_run_some(q->q, 3) <= 3);
}

static void take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	struct record *record = arg;

	CHECK(ctx == record->queue && fn == run);
	settle(record, BACK);
}

static void offer(struct record *record, struct owner *owner, struct queue *q)
{
	record->owner = owner;
	record->queue = q;
	record->state = ACCEPTED;
	owner->left++;
}

static void is_refused(struct record *record)
{
	CHECK(atomic_exchange(&record->state, UNUSED) == ACCEPTED);
	record->owner->left--;
}

/* p NULL: without a producer. */
static int enqueue(cq_producer_t *p, struct record *record, struct owner *owner, struct queue *q)
{
	int err;

	offer(record, owner, q);
	if (p == NULL)
		err = cq_cleanup_enqueue(q->q, run, record);
	else if ((err = cq_producer_put(p, record)) == EINVAL)
		err = cq_producer_enqueue(p, run, record);
	CHECK(err == 0 || err == ESHUTDOWN || (err == ENOMEM && r->failures) ||
	    (err == ENOBUFS && q->config.max_waiting != 0));
	if (err != 0)
		is_refused(record);
	return err;
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

/* Nobody may be there: a host's threads come and go, and threads can't be had. */
static void may_stall(int err)
{
	bool nobody = r->failures || (r->pool_config.flags & CQ_POOL_HOSTED) != 0;

	CHECK(err == 0 || (err == EAGAIN && nobody) || (err == ENOMEM && r->failures));
	if (err == EAGAIN)
		progress++;
}

static void spin(rng_t *chance, uint64_t below)
{
	for (atomic_uint n = (unsigned)rng_below(chance, below); n > 0; n--)
		;
}

/*
 * Until all that this owner has enqueued is settled, by the workers alone. Then a moment more, so that
 * the next block meets the worker at any of its steps. NULL: the producer was detached.
 */
static cq_producer_t *wait_for(cq_producer_t *p, struct owner *owner, struct queue *q, rng_t *chance)
{
	switch (rng_below(chance, 8)) {
	case 0 ... 1:
		cq_producer_detach(p);
		p = NULL;
		break;
	case 2 ... 3:
		may_stall(cq_cleanup_flush(q->q));
		break;
	case 4:
		may_stall(cq_cleanup_drain(q->q, CQ_FOREVER));
		CHECK(owner->left == 0);
		break;
	case 5 ... 6:
		if (q->by_time)
			break;
		/* fall through */
	default:
		may_stall(cq_producer_flush(p));
	}
	for (unsigned i = 0; owner->left > 0; i++)
		if (i > 1000) /* at first it spins, to be there at once */
			sched_yield();
	spin(chance, 100);
	return p;
}

/* Enqueues up to n that must not fail for want of memory. */
static unsigned enqueue_reserved(cq_producer_t *p, rng_t *chance, unsigned index, unsigned i, struct queue *q)
{
	unsigned n = (unsigned)rng_below(chance, 100);

	if (cq_producer_reserve(p, n) != 0)
		return i;
	for (; n > 0 && i < PER_PRODUCER; n--, i++) {
		int err = enqueue(p, &r->records[index][i], &r->owners[index], q);

		CHECK(err != ENOMEM && err != ENOBUFS);
		if (rng_below(chance, 40) == 0)
			(void)cq_producer_flush(p); /* which keeps what is reserved */
	}
	return i;
}

/* Some in a span, if the producer takes them. */
static unsigned enqueue_span(cq_producer_t *p, rng_t *chance, unsigned index, unsigned i, struct queue *q)
{
	cq_callback_t *slots;
	size_t n, accepted = 0;
	int err;

	if (cq_producer_span(p, &slots, &n) != 0)
		return i;
	CHECK(n != 0);
	n = rng_below(chance, n + 1);
	if (n > PER_PRODUCER - i)
		n = PER_PRODUCER - i;
	for (size_t k = 0; k < n; k++) {
		struct record *record = &r->records[index][i + k];

		offer(record, &r->owners[index], q);
		__atomic_store_n(&slots[k].fn, run, __ATOMIC_RELAXED);
		__atomic_store_n(&slots[k].arg, (void *)record, __ATOMIC_RELAXED);
	}
	err = cq_producer_commit(p, n, &accepted);
	CHECK(err == (accepted == n ? 0 : ESHUTDOWN));
	for (size_t k = accepted; k < n; k++)
		is_refused(&r->records[index][i + k]);
	return i + (unsigned)n;
}

static void produce(rng_t *chance, unsigned index)
{
	struct queue *q = &r->queues[index % r->nqueues];
	cq_producer_t *p = NULL;
	int err = 0;

	for (unsigned i = 0; i < PER_PRODUCER && err != ESHUTDOWN; i++) {
		if (r->quiet ? cq_now() >= r->end : r->closed)
			break;
		if (p == NULL && (err = attach(q, (unsigned)rng_below(chance, 2), &p)) != 0)
			continue;
		r->records[index][i].has_child = rng_below(chance, 16) == 0;
		r->records[index][i].is_deadly = r->deadly && rng_below(chance, 64) == 0;
		/* In a quiet round what it waits for is its own to publish, or is by time. */
		err = enqueue((r->quiet && !q->by_time) || rng_below(chance, 3) != 0 ? p : NULL, &r->records[index][i],
		    &r->owners[index], q);
		if (err == ENOBUFS && (err = cq_cleanup_wait_for_room(q->q, CQ_FOREVER)) != ESHUTDOWN)
			may_stall(err);
		if (r->quiet && rng_below(chance, 2) == 0) {
			p = wait_for(p, &r->owners[index], q, chance);
			continue;
		}
		switch (rng_below(chance, q->config.allocator == NULL ? 4096 : 256)) {
		case 0:
			cq_producer_detach(p);
			p = NULL;
			break;
		case 1:
			i = enqueue_reserved(p, chance, index, i + 1, q);
			break;
		case 2 ... 10:
			may_stall(cq_producer_flush(p));
			break;
		case 11 ... 14:
			sched_yield();
			break;
		case 15 ... 19:
			i = enqueue_span(p, chance, index, i + 1, q);
			break;
		}
	}
	cq_producer_detach(p);
	r->producing--;
}

/* Enqueues a few and waits for them: what a drain has covered has been settled. */
static void drain(rng_t *chance)
{
	struct queue *q = &r->queues[rng_below(chance, r->nqueues)];
	unsigned done = 0;
	cq_producer_t *p;

	if (r->quiet || attach(q, 0, &p) != 0)
		return;
	while (!r->closed && done < PER_PRODUCER) {
		unsigned upto = done + 1 + (unsigned)rng_below(chance, 20);
		uint64_t deadline = CQ_FOREVER;
		int err;

		for (; done < upto && done < PER_PRODUCER; done++)
			if (enqueue(done % 2 == 0 ? p : NULL, &r->records[DRAINER][done], &r->owners[DRAINER], q) != 0)
				break;
		if (rng_below(chance, 3) == 0)
			deadline = cq_deadline_in(rng_below(chance, 200000));
		err = cq_cleanup_drain(q->q, deadline);
		if (err == 0)
			CHECK(r->owners[DRAINER].left == 0);
		else if (err != ETIMEDOUT && err != ESHUTDOWN)
			may_stall(err);
		if (err == ESHUTDOWN || r->closing)
			break;
	}
	cq_producer_detach(p);
}

static void wake(cq_pool_t *pool)
{
	if (cq_pool_needs_wake(pool))
		may_stall(cq_pool_wake(pool));
}

static void fork_and_go_on(struct queue *q, bool hand_back);

static void set_workers(cq_pool_t *pool, rng_t *chance)
{
	uint32_t max = 1 + (uint32_t)rng_below(chance, 4), min = (uint32_t)rng_below(chance, max);
	int err;

	if ((r->pool_config.flags & CQ_POOL_HOSTED) != 0)
		min = 0;
	err = cq_pool_set_workers(pool, min, max);
	if (err != ESHUTDOWN || !r->closing || r->pool != NULL)
		may_stall(err);
}

static void flush(rng_t *chance)
{
	while (!r->closed) {
		struct queue *q = &r->queues[rng_below(chance, r->nqueues)];
		cq_pool_t *pool = cq_cleanup_pool(q->q);

		may_stall(cq_cleanup_flush(q->q));
		wake(pool);
		if (spread && rng_below(chance, 64) == 0)
			spread_grow(q->q);
		if (rng_below(chance, 16) == 0)
			set_workers(pool, chance);
		if (test_child_has_threads() && rng_below(chance, 256) == 0)
			fork_and_go_on(q, rng_below(chance, 2) == 0);
		for (uint64_t n = rng_below(chance, 50); n > 0 && !r->closed; n--)
			sched_yield();
	}
}

static void read_stats(rng_t *chance)
{
	struct queue *q = &r->queues[rng_below(chance, r->nqueues)];
	cq_cleanup_stats_t s, last = { 0 };
	cq_pool_stats_t w;
	int err;

	while (!r->closed) {
		cq_cleanup_stats(q->q, &s);
		cq_pool_stats(cq_cleanup_pool(q->q), &w);
		CHECK(s.executed + s.handed_back <= s.queued);
		CHECK(s.executed >= last.executed && s.handed_back >= last.handed_back);
		/* A shutdown may catch an enqueue that it makes take its callback back. */
		CHECK(s.queued >= last.queued || r->closing);
		CHECK(w.empty_runs <= w.runs && w.workers_retired <= w.workers_created + 2);
		last = s;
		err = cq_cleanup_trim(q->q, NULL);
		CHECK(err == 0 || err == EBUSY);
		if (r->failures && rng_below(chance, 4) == 0)
			r->alloc.fail_in = 1 + (long)rng_below(chance, 4);
		for (uint64_t n = rng_below(chance, 20); n > 0; n--)
			sched_yield();
	}
}

static void be_worker(rng_t *chance)
{
	while (!r->closed) {
		cq_pool_t *pool = cq_cleanup_pool(r->queues[rng_below(chance, r->nqueues)].q);
		int err = cq_pool_work(pool, NULL, cq_deadline_in(rng_below(chance, 1000000)));

		/* A shutdown ends its queue's own pool. */
		CHECK(err == ETIMEDOUT || (err == ENOMEM && r->failures) ||
		    (err == 0 && r->closing && r->pool == NULL));
	}
}

static void poll(rng_t *chance)
{
	while (!r->closed) {
		struct queue *q = &r->queues[rng_below(chance, r->nqueues)];
		size_t budget = rng_below(chance, 20);

		if (rng_below(chance, 2) == 0)
			CHECK(cq_cleanup_run_some(q->q, budget) <= budget);
		else
			CHECK(cq_pool_run_some(cq_cleanup_pool(q->q), budget) <= budget);
		wake(cq_cleanup_pool(q->q));
		sched_yield();
	}
}

static void close_queue(struct queue *q, rng_t *chance)
{
	cq_shutdown_how_t how = rng_below(chance, 2) == 0 ? CQ_SHUTDOWN_DRAIN : CQ_SHUTDOWN_HAND_BACK;
	int err;

	do {
		uint64_t deadline = CQ_FOREVER;

		if (rng_below(chance, 2) == 0)
			deadline = cq_deadline_in(rng_below(chance, 1000000));
		if (r->failures && how == CQ_SHUTDOWN_HAND_BACK) { /* needs no memory */
			r->alloc.fail_on = true;
			r->alloc.fail_in = 1;
		}
		err = cq_cleanup_shutdown(q->q, how, deadline, take_back, q);
		CHECK(err != ENOMEM || how == CQ_SHUTDOWN_DRAIN);
		if (err != ETIMEDOUT)
			may_stall(err);
		r->alloc.fail_on = false;
		if (rng_below(chance, 8) == 0)
			how = CQ_SHUTDOWN_HAND_BACK;
	} while (err != 0);
	q->closed = true;
}

static void close_all(rng_t *chance)
{
	/* A shutdown would come to the rescue of those who wait in a quiet round. */
	while (cq_now() < r->end || (r->quiet && r->producing != 0))
		sched_yield();
	r->closing = true;
	for (unsigned i = 0; i < r->nqueues; i++)
		close_queue(&r->queues[i], chance);
	r->closed = true;
}

static void be_thread(void *unused, unsigned index)
{
	static void (*const others[])(rng_t *chance) = { [DRAINER] = drain, [CLOSER] = close_all,
		[FLUSHER] = flush, [READER] = read_stats, [HOSTED] = be_worker, [POLLER] = poll };
	rng_t chance = rng_for(r->number * THREADS + index);

	(void)unused;
	if (index >= PRODUCERS)
		others[index](&chance);
	else if (index < r->producers)
		produce(&chance, index);
}

/* ------------------------------------------------------------------------ fork */

/* The child has what was accepted and not begun, and nothing else; it runs it, or gives it back. */
_Noreturn static void be_child(struct queue *q, bool hand_back)
{
	unsigned long long before = q->settled;
	cq_cleanup_stats_t s;
	int err = 0;

	alarm(CHILD_SECONDS);
	in_child = true;
	host.all = NULL;
	r->failing = false;
	r->alloc.fail_in = 0;
	cq_cleanup_stats(q->q, &s);
	if (!hand_back)
		while ((err = cq_cleanup_drain(q->q, CQ_FOREVER)) == EAGAIN)
			(void)cq_cleanup_run_some(q->q, SIZE_MAX);
	CHECK(err == 0 || (err == ESHUTDOWN && r->closing));
	CHECK(cq_cleanup_shutdown(q->q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, q) == 0);
	CHECK(q->settled - before == s.queued - s.executed - s.handed_back);
	cq_cleanup_stats(q->q, &s);
	CHECK(s.queued == s.executed + s.handed_back);
	_exit(0);
}

/* The host's lock is nobody else's in the child. */
static void fork_and_go_on(struct queue *q, bool hand_back)
{
	pid_t pid;
	int status;

	pthread_mutex_lock(&host.lock);
	pid = fork();
	pthread_mutex_unlock(&host.lock);
	if (pid == 0)
		be_child(q, hand_back);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	forks++;
	progress++;
}

/* ------------------------------------------------------------------------ hung */

/* Those that hang, and those behind them in their blocks, wait. All others are settled. */
static bool others_settled(unsigned n, const bool *waits)
{
	for (unsigned i = 0; i < n; i++)
		if (!waits[i] && r->records[0][i].state == ACCEPTED)
			return false;
	return true;
}

static void enqueue_and_flush(cq_producer_t *p, unsigned from, unsigned upto)
{
	for (; from < upto; from++)
		CHECK(enqueue(p, &r->records[0][from], &r->owners[0], &r->queues[0]) == 0);
	CHECK(cq_producer_flush(p) == 0);
}

/* `hung` callbacks that hang among others, some with one behind them. Returns how many in all. */
static unsigned enqueue_some_that_hang(cq_producer_t *p, unsigned hung, bool *waits, rng_t *chance)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 15; i++) {
		unsigned others = 1 + (unsigned)rng_below(chance, 6);

		if (hung != 0 && (rng_below(chance, 2) || 15 - i == hung)) {
			unsigned behind = (unsigned)rng_below(chance, 2);

			hung--;
			r->records[0][n].hangs = true;
			waits[n] = waits[n + behind] = true;
			enqueue_and_flush(p, n, n + 1 + behind);
			n += 1 + behind;
		}
		enqueue_and_flush(p, n, n + others);
		n += others;
		if (rng_below(chance, 4) == 0)
			sched_yield();
	}
	return n;
}

static void hang_some(rng_t *chance)
{
	struct queue *q = &r->queues[0];
	unsigned max = r->pool_config.workers_max, hung = 1 + (unsigned)rng_below(chance, max), n;
	cq_shutdown_how_t how = CQ_SHUTDOWN_DRAIN;
	bool waits[15 * 8] = { false };
	cq_producer_t *p;

	CHECK(attach(q, hung, &p) == 0);
	n = enqueue_some_that_hang(p, hung, waits, chance);
	/* By themselves. */
	AWAIT(r->hanging == hung && (hung == max || others_settled(n, waits)));
	if (hung == max || rng_below(chance, 2) == 0) {
		how = CQ_SHUTDOWN_HAND_BACK;
		enqueue_and_flush(p, n, n + 7);
		n += 7;
		CHECK(enqueue(p, &r->records[0][n++], &r->owners[0], q) == 0);
	}
	r->closing = true;
	CHECK(cq_cleanup_shutdown(q->q, how, cq_deadline_in(1000000), take_back, q) == ETIMEDOUT);
	if (hung < max) /* a worker may have some in hand */
		AWAIT(others_settled(n, waits));
	CHECK(others_settled(n, waits));
	r->release = true;
	CHECK(cq_cleanup_shutdown(q->q, how, CQ_FOREVER, take_back, q) == 0);
	q->closed = true;
	cq_producer_detach(p);
	hung_rounds++;
}

/* ---------------------------------------------------------------- the rounds */

static void choose_flags(rng_t *chance)
{
	/* Those who poll, or lend threads, are in busy rounds only. */
	static const uint32_t flags[] = { 0, 0, CQ_POOL_POLLED, CQ_POOL_HOSTED,
		CQ_POOL_POLLED | CQ_POOL_HOSTED };

	if (r->quiet || r->hung)
		return;
	r->pool_config.flags = flags[rng_below(chance, 5)];
	if ((r->pool_config.flags & CQ_POOL_HOSTED) != 0) {
		r->pool_config.workers_min = 0;
		r->pool_config.spawn = NULL;
	}
}

static void choose(rng_t *chance)
{
	/* A single worker, and one that stays, hide lost wake-ups least. */
	static const uint32_t caps[] = { 1, 1, 2, HUNG_WORKERS };
	static const uint64_t idle[] = { 1, 20000, UINT64_C(3600000000000), CQ_FOREVER };
	static const int32_t spins[] = { CQ_POOL_NO_SPIN, 0, 20000 };
	uint32_t max = caps[rng_below(chance, 4)];

	r->hung = rng_below(chance, 8) == 0;
	r->quiet = !r->hung && rng_below(chance, 2) == 0;
	r->failures = !r->quiet && !r->hung && rng_below(chance, 2) == 0;
	r->deadly = !r->hung && rng_below(chance, 3) == 0;
	r->producers = 1 + (unsigned)rng_below(chance, PRODUCERS);
	r->producing = r->producers;
	r->nqueues = r->hung ? 1 : 1 + (unsigned)rng_below(chance, QUEUES);
	r->pool_config = (cq_pool_config_t){
		.workers_min = rng_below(chance, 2) == 0 ? 0 : (uint32_t)rng_below(chance, max + 1),
		.workers_max = max,
		.idle_ns = idle[rng_below(chance, 4)],
		.spin_ns = spins[rng_below(chance, 3)],
		.spawn = rng_below(chance, 2) == 0 ? spawn : NULL,
		.park = rng_below(chance, 2) == 0 ? &jitter_ops : NULL,
		.allocator = &r->alloc.allocator,
		.worker_start = worker_start,
		.worker_end = worker_end
	};
	choose_flags(chance);
	spread = rng_below(chance, 2) == 0;
}

static void create(rng_t *chance)
{
	static const size_t bytes[] = { CQ_BLOCK_BYTES_MIN, 100, CQ_BLOCK_BYTES }, bounds[] = { 0, 0, 16, 100 },
	    wake[] = { 0, 1, 1 << 20 };
	/* With the hour only flushes and drains do what they do in time. */
	static const uint64_t flush_ns[] = { 0, UINT64_C(3600000000000), CQ_FLUSH_NS_MIN, 2000000 };
	bool shared = rng_below(chance, 2) == 0;
	int err;

	r->pool = NULL;
	if (shared)
		CHECK(cq_pool_create(&r->pool_config, &r->pool) == 0);
	for (unsigned i = 0; i < r->nqueues; i++) {
		struct queue *q = &r->queues[i];

		q->closed = false;
		q->running = 0;
		q->config = (cq_cleanup_config_t){
			.parallel = r->hung ? 0 : (uint32_t)rng_below(chance, 3),
			.max_waiting = r->hung ? 0 : bounds[rng_below(chance, 4)],
			.block_bytes = r->hung ? CQ_BLOCK_BYTES_MIN : bytes[rng_below(chance, 3)],
			.flush_ns = flush_ns[rng_below(chance, 4)],
			.wake_bytes = wake[rng_below(chance, 3)],
			.pool = r->pool,
			.pool_config = shared ? NULL : &r->pool_config,
			.allocator = &r->alloc.allocator
		};
		/* Its blocks are the system's, then, and grow. */
		if (shared && !r->hung && rng_below(chance, 2) == 0) {
			q->config.allocator = NULL;
			q->config.block_bytes = 0;
		}
		q->by_time = q->config.flush_ns != 0 && q->config.flush_ns <= 2000000;
		/* Who polls runs it. */
		if ((r->pool_config.flags & CQ_POOL_HOSTED) != 0 && rng_below(chance, 3) == 0)
			q->config.parallel = CQ_BY_OWNER;
		if ((err = cq_cleanup_create(&q->config, &q->q)) != 0)
			fprintf(stderr, "create: %s\n", strerror(err));
		CHECK(err == 0);
		for (uint64_t n = spread ? rng_below(chance, 4) : 0; n > 0; n--)
			spread_grow(q->q);
	}
}

static void count(struct record *records, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct record *record = &records[i];

		if (record->owner == NULL)
			continue;
		CHECK(record->state != ACCEPTED);
		refused += record->state == UNUSED;
		record->queue->ran += record->state == RAN;
		record->queue->back += record->state == BACK;
		*record = (struct record){ .state = UNUSED };
	}
}

static void check_queue(struct queue *q)
{
	cq_cleanup_stats_t s;
	cq_pool_stats_t w;
	int err;

	cq_cleanup_stats(q->q, &s);
	CHECK(s.executed == q->ran && s.handed_back == q->back);
	CHECK(s.queued == s.executed + s.handed_back);
	CHECK(s.producers == 0 && s.blocks_waiting == 0);
	ran += q->ran;
	back += q->back;
	q->ran = q->back = 0;
	err = cq_cleanup_trim(q->q, NULL);
	CHECK(err == 0 || (err == EBUSY && r->pool != NULL)); /* a worker may be looking for more */
	cq_pool_stats(cq_cleanup_pool(q->q), &w);
	CHECK(r->pool != NULL || w.workers_live + w.workers_idle + w.workers_coming + w.workers_running == 0);
	retired += w.workers_retired;
	wakes += w.wakes;
	CHECK(cq_cleanup_destroy(q->q) == 0);
}

static void end_round(void)
{
	for (unsigned i = 0; i <= DRAINER; i++)
		count(r->records[i], PER_PRODUCER);
	count(r->children, CHILDREN);
	for (unsigned i = 0; i <= DRAINER + 1; i++)
		CHECK(r->owners[i].left == 0);
	r->failing = false;
	r->alloc.fail_in = 0;
	for (unsigned i = 0; i < r->nqueues; i++)
		check_queue(&r->queues[i]);
	if (r->pool != NULL)
		CHECK(cq_pool_destroy(r->pool, CQ_FOREVER) == 0);
	reap(true);
	/* destroy has waited for them. */
	CHECK(r->workers_started == r->workers_ended);
	CHECK(r->workers_started == 0 || r->pool_config.spawn == NULL);
	CHECK(r->alloc.live_bytes == 0);
}

static void run_round(unsigned number)
{
	rng_t chance = rng_for(number * THREADS + THREADS - 1);

	r->number = number;
	test_alloc_init(&r->alloc);
	choose(&chance);
	r->closing = r->closed = r->release = false;
	r->nchildren = 0;
	r->workers_started = r->workers_ended = 0;
	create(&chance);
	r->failing = r->failures;
	r->end = cq_deadline_in(rng_below(&chance, ROUND_NS));
	if (r->hung)
		hang_some(&chance);
	else
		run_threads(r->quiet ? CLOSER + 1 : THREADS, be_thread, NULL);
	end_round();
	progress++;
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
	printf("stress_cleanup: park %s, pop %s, %u rounds, %" PRIu64 " hung: ran %llu, handed back %llu, "
	    "refused %llu, wakes %" PRIu64 ", retired %" PRIu64 ", ended %llu, not made %llu, forks %llu\n",
	    cq_build_info()->park, cq_build_info()->pop, rounds, hung_rounds, ran, back, refused, wakes,
	    retired, ended, not_started, forks);
	return 0;
}
