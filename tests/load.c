/* SPDX-License-Identifier: BSD-2-Clause */
#include "load_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

atomic_ullong load_progress;

/* -------------------------------------------------------- what both sides ask */

cq_cleanup_stats_t load_stats(const load_t *l)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(l->q, &s);
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
		err = cq_cleanup_flush_all(l->q);
		CHECK(err == 0 || (err == EAGAIN && !faults_threads_in_child()));
	} while (cq_cleanup_run_some(l->q, SIZE_MAX) != 0);
}

/* Runs what there is; a child has no pollers. */
void load_work_off(load_t *l)
{
	int err;

	if (l->in_child && (l->way == LOAD_POLLED || !faults_threads_in_child()))
		load_run_all(l);
	else
		while ((err = cq_cleanup_drain(l->q, CQ_FOREVER)) != 0) {
			/* The pollers are between two looks. */
			CHECK(err == EAGAIN && l->way == LOAD_POLLED);
			sched_yield();
		}
}

/* The queue works: what is enqueued now runs. */
void load_use(load_t *l)
{
	unsigned long long ran = l->ran;
	cq_producer_t *p;

	CHECK(cq_producer_attach(l->q, &p) == 0);
	for (unsigned i = 0, n = 0; n < USES; i++) {
		int err = load_offer(l, p, &l->owners[OWNERS - 1]);

		CHECK(err == 0 || (err == ENOBUFS && i < 2 * RING));
		n += err == 0;
	}
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

static void choose(load_t *l)
{
	static const uint32_t caps[] = { 1, 1, 2, 4 };
	static const uint64_t idle[] = { 1, 20000, UINT64_C(3600000000000), CQ_FOREVER };
	static const size_t bytes[] = { CQ_BLOCK_BYTES_MIN, 100, CQ_BLOCK_BYTES_DEFAULT };
	static const unsigned flags[] = { CQ_NO_ATFORK, CQ_HANDOVER | CQ_NO_ATFORK, 0,
		CQ_FORK_DISCARD | CQ_NO_ATFORK, CQ_HANDOVER, CQ_HANDOVER | CQ_FORK_DISCARD };

	l->quiet = l->way != LOAD_POLLED && rng_below(&l->chance, 3) != 0;
	l->abrupt = !l->quiet && rng_below(&l->chance, 3) == 0;
	l->config = (cq_cleanup_config_t){
		.flags = flags[rng_below(&l->chance, 6)] | (l->way == LOAD_POLLED ? CQ_POLLED : 0),
		.max_workers = caps[rng_below(&l->chance, 4)],
		.idle_ns = idle[rng_below(&l->chance, 4)],
		.block_bytes = bytes[rng_below(&l->chance, 3)],
		.allocator = &l->alloc.allocator
	};
	/* A single worker, and one that stays, hide lost wake-ups least. */
	if (l->quiet && rng_below(&l->chance, 4) != 0) {
		l->config.max_workers = 1;
		l->config.idle_ns = CQ_FOREVER;
	}
	if (l->way == LOAD_HOSTED) {
		l->config.spawn = load_spawn;
		l->config.host = l;
	}
}

static void add_members(load_t *l)
{
	unsigned producers = 1 + (unsigned)rng_below(&l->chance, PRODUCERS);

	for (unsigned i = 0; i < producers; i++)
		add_member(l, PRODUCER, i);
	l->has_crew = l->way == LOAD_POLLED || (l->way == LOAD_HOSTED && rng_below(&l->chance, 2) == 0);
	if (l->has_crew) {
		add_member(l, CREW, 0);
		add_member(l, CREW, 1);
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

	do
		load_check(l, err = cq_cleanup_create(&l->config, &q));
	while (err != 0);
	set_queue(l, q);
}

void load_open(load_t *l, unsigned number, fault_set_t faults)
{
	load_precious = true;
	l->number = number;
	l->faults = faults;
	l->chance = rng_for(number);
	l->stopping = l->closing = l->closed = false;
	l->nmembers = 0;
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
		if (err != ETIMEDOUT && !(err == EAGAIN && l->way == LOAD_POLLED))
			load_check(l, err);
		if (rng_below(&l->chance, 8) == 0)
			how = CQ_SHUTDOWN_HAND_BACK;
	} while (err != 0);
	l->closed = true;
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

/* All workers that live are asleep, and none is on its way. */
static void check_workers(const load_t *l)
{
	uint64_t limit = wait_limit();
	cq_cleanup_stats_t s;

	do {
		CHECK(test_now() < limit);
		sched_yield();
		s = load_stats(l);
	} while (s.workers_coming != 0 || s.workers_asleep != s.workers_live);
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

	CHECK(load_count_offered(l) == 0);
	for (unsigned i = 0; i < OWNERS; i++)
		CHECK(l->owners[i].left == 0);
	/* Every callback that enqueue accepted ran once, or came back once. */
	CHECK(l->accepted == l->ran + l->back);
	CHECK(s.queued == l->accepted - l->accepted_before);
	CHECK(s.executed == l->ran - l->ran_before);
	CHECK(s.handed_back == l->back - l->back_before);
	CHECK(s.workers_live == 0 && s.workers_coming == 0 && s.workers_asleep == 0);
	CHECK(s.producers == 0 && s.blocks_waiting == 0);
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
	pthread_mutex_lock(&l->host_lock);
	load_reap(l, true);
	pthread_mutex_unlock(&l->host_lock);
	check_books(l);
	q = l->q;
	set_queue(l, NULL);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(l->alloc.live_bytes == 0);
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
		cq_cleanup_stats_t s = load_stats(l);

		sum->live += s.workers_live;
		sum->asleep += s.workers_asleep;
	}
	pthread_mutex_unlock(&l->report_lock);
}

void load_dump(load_t *l)
{
	static const char *const ways[] = { "managed", "hosted", "polled" };
	cq_cleanup_stats_t s;

	fprintf(stderr, "%s load, round %u:%s%s%s%s%s, flags %u, cap %" PRIu32 ", idle %" PRIu64
	    " ns, block %zu; faults 0x%" PRIx64 "\n", ways[l->way], l->number, l->quiet ? " quiet" : " busy",
	    l->has_crew ? " crew" : "", l->abrupt ? " abrupt" : "", l->stopping ? " stopping" : "",
	    l->closing ? " closing" : "", l->config.flags, l->config.max_workers, l->config.idle_ns,
	    l->config.block_bytes, l->faults);
	for (unsigned i = 0; i < OWNERS; i++)
		fprintf(stderr, "owner %u waits for %d\n", i, l->owners[i].left);
	if (l->q == NULL)
		return;
	fflush(NULL);
	s = load_stats(l);
	fprintf(stderr, "queued %" PRIu64 ", executed %" PRIu64 ", back %" PRIu64 ", blocks waiting %"
	    PRIu64 ", producers %" PRIu32 "\nworkers: live %" PRIu32 ", coming %" PRIu32 ", asleep %" PRIu32
	    ", running %" PRIu32 ", created %" PRIu64 ", retired %" PRIu64 ", failed %" PRIu64
	    "; stalled %d\n", s.queued, s.executed, s.handed_back, s.blocks_waiting, s.producers,
	    s.workers_live, s.workers_coming, s.workers_asleep, s.workers_running, s.workers_created,
	    s.workers_retired, s.workers_failed, cq_cleanup_stalled(l->q));
}
