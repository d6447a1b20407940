/* SPDX-License-Identifier: BSD-2-Clause */
#include "load_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "spread.h"

atomic_ullong load_progress;

/* -------------------------------------------------------- what both sides ask */

cq_cleanup_stats_t load_stats(const load_t *l)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(l->q, &s);
	return s;
}

cq_pool_stats_t load_pool_stats(const load_t *l)
{
	cq_pool_stats_t s;

	cq_pool_stats(cq_cleanup_pool(l->q), &s);
	return s;
}

unsigned load_count_offered(const load_t *l)
{
	unsigned n = 0;

	for (unsigned i = 0; i < OWNERS; i++)
		for (unsigned j = 0; j < RING; j++)
			n += l->owners[i].ring[j].state == OFFERED;
	return n;
}

/* The producers of threads that this process doesn't have. */
void load_detach_all(load_t *l)
{
	for (unsigned i = 0; i <= PRODUCERS; i++)
		cq_producer_detach(atomic_exchange(&l->producers[i], NULL));
	cq_producer_detach(atomic_exchange(&l->spare, NULL));
}

/* Runs what there is in this thread. */
void load_run_all(load_t *l)
{
	int err;

	do {
		err = cq_cleanup_flush(l->q);
		/* Nobody serves the pool of a host's, but this thread, between two looks. */
		CHECK(err == 0 || (err == EAGAIN && (!faults_threads_in_child() ||
		    (l->pool_config.flags & CQ_POOL_HOSTED) != 0)));
	} while (cq_cleanup_run_some(l->q, SIZE_MAX) != 0);
}

/* Runs what there is; a child has no pollers. */
void load_work_off(load_t *l)
{
	int err;

	if (l->in_child && (load_is_served(l) || !faults_threads_in_child()))
		load_run_all(l);
	else
		while ((err = cq_cleanup_drain(l->q, CQ_FOREVER)) != 0) {
			/* The crew is between two stints. */
			CHECK(err == EAGAIN && load_is_served(l));
			sched_yield();
		}
}

/* The queue works: what is enqueued now runs; by time, too, if there are those who run it. */
void load_use(load_t *l)
{
	bool by_time = l->keeps_time && (!l->in_child || (l->way != LOAD_OWNED && faults_threads_in_child()));
	unsigned long long ran = l->ran;
	cq_producer_t *p;

	CHECK(load_attach(l, &p) == 0);
	for (unsigned i = 0, n = 0; n < USES; i++) {
		int err = load_offer(l, p, &l->owners[OWNERS - 1]);

		CHECK(err == 0 || (err == ENOBUFS && i < 2 * RING));
		n += err == 0;
	}
	while (by_time && l->ran - ran < USES)
		sched_yield();
	cq_producer_detach(p);
	load_work_off(l);
	CHECK(l->ran - ran >= USES);
}

/* ---------------------------------------------------------------- the rounds */

static void add_member(load_t *l, enum role role, unsigned index)
{
	struct member *m = &l->members[l->nmembers++];

	CHECK(l->nmembers <= MEMBERS);
	*m = (struct member){ .load = l, .role = role, .index = index };
	m->chance.state = rng_next(&l->chance);
	while (faults_start(&m->thread, load_be_member, m) != 0)
		sched_yield(); /* the limit on threads goes away again */
}

static int worker_start(void *load)
{
	load_t *l = load;

	CHECK(!load_managed);
	if (faults_strike(FAULT_START))
		return EAGAIN;
	l->workers_started++;
	load_managed = true;
	return 0;
}

static void worker_end(void *load)
{
	CHECK(load_managed);
	load_managed = false;
	((load_t *)load)->workers_ended++;
}

/* Who makes them, or lends them. */
static void choose_workers(load_t *l)
{
	bool spawns = rng_below(&l->chance, 2) == 0;

	if (l->way == LOAD_HOSTED && spawns)
		l->pool_config.spawn = load_spawn;
	else if (l->way == LOAD_HOSTED)
		l->pool_config.flags |= CQ_POOL_HOSTED;
	else if (l->way == LOAD_POLLED)
		l->pool_config.flags |= CQ_POOL_POLLED | (spawns ? CQ_POOL_HOSTED : 0);
	else if (!load_has(l, FAULT_THREAD_NEVER)) /* else it could not be created */
		l->pool_config.workers_min = (uint32_t)rng_below(&l->chance, 2);
}

static void choose(load_t *l)
{
	static const uint32_t caps[] = { 1, 1, 2, 4 };
	static const uint64_t idle[] = { 1, 20000, UINT64_C(3600000000000), CQ_FOREVER };
	static const size_t bytes[] = { CQ_BLOCK_BYTES_MIN, 100, CQ_BLOCK_BYTES };
	/* With the hour only flushes and drains do what they do in time. */
	static const uint64_t flush[] = { 0, UINT64_C(3600000000000), CQ_FLUSH_NS_MIN, 4000000 };
	static const size_t wake[] = { 0, 1, 1 << 20 };
	uint32_t flags = rng_below(&l->chance, 2) == 0 ? CQ_POOL_NO_ATFORK : 0;

	l->quiet = l->way != LOAD_POLLED && rng_below(&l->chance, 3) != 0;
	l->abrupt = !l->quiet && rng_below(&l->chance, 3) == 0;
	l->pool_config = (cq_pool_config_t){
		.flags = flags,
		.workers_max = caps[rng_below(&l->chance, 4)],
		.idle_ns = idle[rng_below(&l->chance, 4)],
		.allocator = &l->alloc.allocator,
		.worker_start = worker_start,
		.worker_end = worker_end,
		.host = l
	};
	l->config = (cq_cleanup_config_t){
		.flags = rng_below(&l->chance, 3) == 0 ? CQ_CLEANUP_FORK_DISCARD : 0,
		.parallel = (uint32_t)rng_below(&l->chance, 3),
		.block_bytes = bytes[rng_below(&l->chance, 3)],
		.flush_ns = flush[rng_below(&l->chance, 4)],
		.wake_bytes = wake[rng_below(&l->chance, 3)],
		.allocator = &l->alloc.allocator
	};
	if (l->way == LOAD_OWNED) {
		l->config.parallel = CQ_BY_OWNER;
		l->config.wake_owner = load_tell_owner;
		l->config.host = l;
	}
	/* A single worker, and one that stays, hide lost wake-ups least. */
	if (l->quiet && rng_below(&l->chance, 4) != 0) {
		l->pool_config.workers_max = 1;
		l->pool_config.idle_ns = CQ_FOREVER;
	}
	choose_workers(l);
	/* A clock that is set back makes no promise; a host's own threads don't look at it. */
	l->keeps_time = l->config.flush_ns != 0 && l->config.flush_ns < UINT64_C(1000000000) &&
	    !load_has(l, FAULT_CLOCK) && (l->pool_config.flags & (CQ_POOL_HOSTED | CQ_POOL_POLLED)) == 0;
	l->by_time = l->quiet && l->keeps_time;
}

static void add_members(load_t *l)
{
	unsigned producers = 1 + (unsigned)rng_below(&l->chance, PRODUCERS);

	if (l->way == LOAD_OWNED && l->quiet) /* what one does tells the owner of what another has lost */
		producers = 1;
	for (unsigned i = 0; i < producers; i++)
		add_member(l, PRODUCER, i);
	l->has_crew = l->way == LOAD_POLLED || (l->pool_config.flags & CQ_POOL_HOSTED) != 0 ||
	    (l->way == LOAD_HOSTED && rng_below(&l->chance, 2) == 0);
	if (l->has_crew) {
		add_member(l, CREW, 0);
		add_member(l, CREW, 1);
	} else if (l->way == LOAD_OWNED) {
		l->has_crew = true;
		add_member(l, CREW, 0);
	}
	if (load_has(l, FAULT_FORK_LIVES) || load_has(l, FAULT_FORK_EXECS))
		add_member(l, FORKER, 0);
	if (!l->quiet) {
		add_member(l, DRAINER, PRODUCERS);
		add_member(l, FLUSHER, 0);
	}
}

load_t *load_new(enum load_way way)
{
	load_t *l = calloc(1, sizeof(*l));

	CHECK(l != NULL);
	l->way = way;
	pthread_mutex_init(&l->host_lock, NULL);
	pthread_mutex_init(&l->report_lock, NULL);
	return l;
}

void load_free(load_t *l)
{
	free(l);
}

/* For who reads its statistics from outside. */
static void set_queue(load_t *l, cq_cleanup_t *q)
{
	pthread_mutex_lock(&l->report_lock);
	l->q = q;
	pthread_mutex_unlock(&l->report_lock);
}

static void create(load_t *l)
{
	cq_cleanup_t *q;
	int err;

	l->given = NULL;
	if (rng_below(&l->chance, 2) == 0)
		do
			load_check(l, err = cq_pool_create(&l->pool_config, &l->given));
		while (err != 0);
	l->config.pool = l->given;
	l->config.pool_config = l->given == NULL ? &l->pool_config : NULL;
	do
		load_check(l, err = cq_cleanup_create(&l->config, &q));
	while (err != 0);
	spread = rng_below(&l->chance, 2) == 0;
	for (uint64_t n = spread ? rng_below(&l->chance, 4) : 0; n > 0; n--)
		spread_grow(q);
	set_queue(l, q);
}

void load_open(load_t *l, unsigned number, fault_set_t faults)
{
	l->number = number;
	l->faults = faults;
	l->chance = rng_for(number);
	l->stopping = l->closing = l->closed = false;
	l->nmembers = 0;
	l->workers_started = l->workers_ended = 0;
	CHECK(sem_init(&l->told, 0, 0) == 0);
	test_alloc_init(&l->alloc);
	l->alloc.fails = faults_alloc;
	choose(l);
	create(l);
	add_members(l);
}

static void shut_down(load_t *l)
{
	cq_shutdown_how_t how = rng_below(&l->chance, 2) == 0 ? CQ_SHUTDOWN_DRAIN : CQ_SHUTDOWN_HAND_BACK;
	int err;

	l->closing = true;
	do {
		uint64_t deadline = CQ_FOREVER;

		if (rng_below(&l->chance, 2) == 0)
			deadline = cq_deadline_in(rng_below(&l->chance, 1000000));
		err = cq_cleanup_shutdown(l->q, how, deadline, load_take_back, l);
		if (err != ETIMEDOUT)
			load_check(l, err);
		if (rng_below(&l->chance, 8) == 0)
			how = CQ_SHUTDOWN_HAND_BACK;
	} while (err != 0);
	l->closed = true;
	CHECK(sem_post(&l->told) == 0); /* so that an owner sees it */
}

static void join_members(load_t *l, bool crew)
{
	for (unsigned i = 0; i < l->nmembers; i++)
		if ((l->members[i].role == CREW) == crew)
			join(l->members[i].thread);
}

void load_stop(load_t *l)
{
	if (l->abrupt)
		shut_down(l);
	l->stopping = true;
	join_members(l, false);
}

/* All workers that live are idle, and none is on its way. */
static void check_workers(const load_t *l)
{
	uint64_t limit = wait_limit();
	cq_pool_stats_t s;

	do {
		CHECK(test_now() < limit);
		sched_yield();
		s = load_pool_stats(l);
	} while (s.workers_coming != 0 || s.workers_idle != s.workers_live);
}

/* With the faults off it works, and nobody is missing. */
static void check_usable(load_t *l)
{
	load_use(l);
	for (unsigned i = 0; i < OWNERS - 1; i++)
		CHECK(l->owners[i].left == 0);
	if (!l->has_crew) /* which comes and goes all the time */
		check_workers(l);
}

static void check_books(load_t *l)
{
	cq_cleanup_stats_t s = load_stats(l);
	cq_pool_stats_t w = load_pool_stats(l);

	CHECK(load_count_offered(l) == 0);
	for (unsigned i = 0; i < OWNERS; i++)
		CHECK(l->owners[i].left == 0);
	/* Every callback that enqueue accepted ran once, or came back once. */
	CHECK(l->accepted == l->ran + l->back);
	CHECK(s.queued == l->accepted - l->accepted_before);
	CHECK(s.executed == l->ran - l->ran_before);
	CHECK(s.handed_back == l->back - l->back_before);
	CHECK(s.producers == 0 && s.blocks_waiting == 0);
	CHECK(l->given != NULL || w.workers_live + w.workers_idle + w.workers_coming == 0);
	l->accepted_before = l->accepted;
	l->ran_before = l->ran;
	l->back_before = l->back;
}

void load_close(load_t *l)
{
	cq_cleanup_t *q;

	if (!l->closed) {
		l->faults = 0;
		check_usable(l);
		load_detach_all(l);
		shut_down(l);
	}
	load_detach_all(l);
	join_members(l, true);
	check_books(l);
	q = l->q;
	set_queue(l, NULL);
	CHECK(cq_cleanup_destroy(q) == 0);
	if (l->given != NULL)
		CHECK(cq_pool_destroy(l->given, CQ_FOREVER) == 0);
	pthread_mutex_lock(&l->host_lock);
	load_reap(l, true);
	pthread_mutex_unlock(&l->host_lock);
	CHECK(l->workers_started == l->workers_ended);
	CHECK(l->alloc.live_bytes == 0);
	CHECK(sem_destroy(&l->told) == 0);
}

/* ------------------------------------------------------------------ reports */

void load_add_counts(load_t *l, load_counts_t *sum)
{
	sum->executed += l->ran;
	sum->handed_back += l->back;
	sum->enqueued += l->accepted;
	sum->lost += l->accepted_before - l->ran_before - l->back_before;
	sum->refused += l->refused;
	sum->children += l->children;
	sum->crew += l->crew;
	pthread_mutex_lock(&l->report_lock);
	if (l->q != NULL) {
		cq_pool_stats_t s = load_pool_stats(l);

		sum->live += s.workers_live;
		sum->idle += s.workers_idle;
	}
	pthread_mutex_unlock(&l->report_lock);
}

void load_dump(load_t *l)
{
	static const char *const ways[] = { "managed", "hosted", "polled", "owned" };
	cq_cleanup_stats_t s;
	cq_pool_stats_t w;

	fprintf(stderr, "%s load, round %u:%s%s%s%s%s%s, pool flags %u, workers %" PRIu32 " to %" PRIu32 ", idle %"
	    PRIu64 " ns, spawn %d; flags %u, parallel %" PRIu32 ", block %zu, flush %" PRIu64 " ns, wake %zu; faults 0x%"
	    PRIx64 "\n",
	    ways[l->way], l->number, l->by_time ? " quiet, by time," : l->quiet ? " quiet" : " busy",
	    l->given != NULL ? ", given pool" : "",
	    l->has_crew ? " crew" : "", l->abrupt ? " abrupt" : "", l->stopping ? " stopping" : "",
	    l->closing ? " closing" : "", l->pool_config.flags, l->pool_config.workers_min,
	    l->pool_config.workers_max, l->pool_config.idle_ns, l->pool_config.spawn != NULL, l->config.flags,
	    l->config.parallel, l->config.block_bytes, l->config.flush_ns,
	    l->config.wake_bytes, l->faults);
	for (unsigned i = 0; i < OWNERS; i++)
		fprintf(stderr, "owner %u waits for %d\n", i, l->owners[i].left);
	if (l->q == NULL)
		return;
	fflush(NULL);
	s = load_stats(l);
	w = load_pool_stats(l);
	fprintf(stderr, "queued %" PRIu64 ", executed %" PRIu64 ", back %" PRIu64 ", blocks waiting %"
	    PRIu64 ", producers %" PRIu32 "\nworkers: live %" PRIu32 ", coming %" PRIu32 ", idle %" PRIu32
	    ", running %" PRIu32 ", created %" PRIu64 ", retired %" PRIu64 ", failed %" PRIu64
	    "; tasks waiting %" PRIu64 "\n", s.queued, s.executed, s.handed_back, s.blocks_waiting, s.producers,
	    w.workers_live, w.workers_coming, w.workers_idle, w.workers_running, w.workers_created,
	    w.workers_retired, w.workers_failed, w.tasks_waiting);
}
