/* SPDX-License-Identifier: BSD-2-Clause */
#include "load_priv.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "spread.h"

/* --------------------------------------------------- a host that makes the threads */

static void *be_hosted(void *arg)
{
	struct hosted *h = arg;

	h->body(h->arg);
	h->ended = true;
	return NULL;
}

/* Joins the threads that have ended, or waits for all. With the host's lock held. */
void load_reap(load_t *l, bool all)
{
	for (struct hosted **link = &l->hosted, *h; (h = *link) != NULL;) {
		if (!all && !h->ended) {
			link = &h->next;
			continue;
		}
		*link = h->next;
		join(h->thread);
		free(h);
	}
}

int load_spawn(void *host, void (*body)(void *arg), void *arg)
{
	load_t *l = host;
	struct hosted *h;
	int err = EAGAIN;

	if (faults_strike(FAULT_THREAD_NEVER) || faults_strike(FAULT_THREAD))
		return err;
	h = calloc(1, sizeof(*h));
	CHECK(h != NULL);
	h->body = body;
	h->arg = arg;
	pthread_mutex_lock(&l->host_lock);
	load_reap(l, false);
	err = faults_start(&h->thread, be_hosted, h);
	if (err == 0) {
		h->next = l->hosted;
		l->hosted = h;
	}
	pthread_mutex_unlock(&l->host_lock);
	if (err != 0)
		free(h);
	return err;
}

/* --------------------------------------------------------------- producers */

/* Nobody can be made who would run it: a caller that can't wait may run the work itself. */
static void come_to_the_rescue(load_t *l, rng_t *chance)
{
	if (l->way == LOAD_OWNED || !load_threads_fail(l) || load_pool_stats(l).workers_live != 0)
		return;
	if (rng_below(chance, 4) == 0)
		(void)cq_cleanup_run_some(l->q, 20);
	else
		load_check(l, cq_pool_wake(cq_cleanup_pool(l->q)));
	load_progress++;
}

/* Publishes what a wait is for; or leaves it to the time. */
static int publish(load_t *l, cq_producer_t *p, rng_t *chance)
{
	if (l->by_time && rng_below(chance, 2) == 0)
		return 0;
	return l->by_time || rng_below(chance, 4) == 0 ? cq_cleanup_flush(l->q) : cq_producer_flush(p);
}

/* Until all that this owner has enqueued is settled; by the workers, unless none can be made. */
static void wait_for(load_t *l, cq_producer_t *p, struct owner *owner, rng_t *chance)
{
	int err = 0;

	do {
		load_check(l, err = publish(l, p, chance));
		for (unsigned i = 0; owner->left > 0 && err != ENOMEM; i++) {
			if (i > 1000) { /* at first it spins, to be there at once */
				sched_yield();
				come_to_the_rescue(l, chance);
			}
			if (i > 5000 && l->by_time && load_threads_fail(l)) /* there may be no clock */
				break;
		}
	} while (err == ENOMEM || owner->left > 0);
	for (atomic_uint n = (unsigned)rng_below(chance, 100); n > 0; n--)
		;
}

static void enqueue_reserved(load_t *l, cq_producer_t *p, struct owner *owner, rng_t *chance)
{
	unsigned n = (unsigned)rng_below(chance, 100);
	int err;

	if (!load_check(l, cq_producer_reserve(p, n)))
		return;
	if (rng_below(chance, 4) == 0)
		load_check(l, cq_producer_reserve(p, n + 500)); /* if it fails, the earlier stands */
	for (; n > 0; n--) {
		err = load_offer(l, p, owner);
		CHECK(err != ENOMEM);
		if (err != 0)
			return;
		if (rng_below(chance, 40) == 0)
			load_check(l, cq_producer_flush(p)); /* which keeps what is reserved */
	}
}

static int produce_some(load_t *l, cq_producer_t *p, struct owner *owner, rng_t *chance)
{
	int err = load_offer(l, l->by_time && rng_below(chance, 4) == 0 ? NULL : p, owner);

	if (err == ENOBUFS && !load_check(l, err = cq_producer_flush(p)))
		come_to_the_rescue(l, chance);
	if (l->quiet && rng_below(chance, 2) == 0) {
		wait_for(l, p, owner, chance);
		return err;
	}
	switch (rng_below(chance, 128)) {
	case 0:
		enqueue_reserved(l, p, owner, chance);
		break;
	case 1 ... 5:
		if (!load_check(l, cq_producer_flush(p)))
			come_to_the_rescue(l, chance);
		break;
	case 6 ... 12:
		sched_yield();
		break;
	}
	return err;
}

static void produce(struct member *m)
{
	load_t *l = m->load;
	struct owner *owner = &l->owners[m->index];
	int err = 0;

	while (!l->stopping && err != ESHUTDOWN) {
		cq_producer_t *p;

		if (!load_check(l, err = load_attach(l, &p)))
			continue;
		l->producers[m->index] = p;
		for (uint64_t n = rng_below(&m->chance, 1000); n > 0 && !l->stopping && err != ESHUTDOWN; n--)
			err = produce_some(l, p, owner, &m->chance);
		if (l->quiet && err != ESHUTDOWN)
			wait_for(l, p, owner, &m->chance);
		l->producers[m->index] = NULL;
		cq_producer_detach(p);
	}
}

/* ------------------------------------------------- drains, flushes, statistics */

/* What a drain has covered has been settled. */
static void drain_some(load_t *l, cq_producer_t *p, rng_t *chance)
{
	struct owner *owner = &l->owners[PRODUCERS];
	uint64_t deadline = CQ_FOREVER;
	int err;

	for (uint64_t n = 1 + rng_below(chance, 20); n > 0; n--)
		(void)load_offer(l, n % 2 == 0 ? p : NULL, owner);
	if (rng_below(chance, 3) == 0)
		deadline = cq_deadline_in(rng_below(chance, 200000));
	err = cq_cleanup_drain(l->q, deadline);
	if (err == 0)
		CHECK(owner->left == 0);
	else if (err == EAGAIN && load_is_served(l))
		sched_yield(); /* the crew is between two stints */
	else if (err != ETIMEDOUT && !load_check(l, err))
		come_to_the_rescue(l, chance);
}

static void be_drainer(struct member *m)
{
	load_t *l = m->load;
	cq_producer_t *p;

	while (!l->stopping && !l->closing) {
		if (!load_check(l, load_attach(l, &p)))
			continue;
		l->producers[PRODUCERS] = p;
		for (unsigned i = 0; i < 20 && !l->stopping && !l->closing; i++)
			drain_some(l, p, &m->chance);
		l->producers[PRODUCERS] = NULL;
		cq_producer_detach(p);
	}
}

static void wake(load_t *l)
{
	cq_pool_t *pool = cq_cleanup_pool(l->q);

	if (cq_pool_needs_wake(pool))
		load_check(l, cq_pool_wake(pool));
}

static void be_flusher(struct member *m)
{
	load_t *l = m->load;
	cq_cleanup_stats_t s, last = { 0 };

	while (!l->stopping && !l->closed) {
		load_check(l, cq_cleanup_flush(l->q));
		wake(l);
		if (spread && rng_below(&m->chance, 256) == 0)
			spread_grow(l->q);
		s = load_stats(l);
		CHECK(s.executed + s.handed_back <= s.queued);
		CHECK(s.executed >= last.executed && s.handed_back >= last.handed_back);
		CHECK(s.queued >= last.queued || l->closing); /* which makes it take callbacks back */
		last = s;
		for (uint64_t n = rng_below(&m->chance, 50); n > 0 && !l->stopping; n--)
			sched_yield();
	}
}

/* ---------------------------------------------------- workers that come and go */

static void stint_as_worker(load_t *l, rng_t *chance)
{
	bool may_lack_memory = load_memory_fails(l);
	int err = cq_pool_work(cq_cleanup_pool(l->q), NULL, cq_deadline_in(rng_below(chance, 3000000)));

	CHECK(err == ETIMEDOUT || (err == ENOMEM && may_lack_memory) ||
	    (err == 0 && l->closing && l->given == NULL)); /* a shutdown ends its queue's own pool */
}

static void stint_as_poller(load_t *l, rng_t *chance)
{
	for (uint64_t n = rng_below(chance, 200); n > 0 && !l->closed; n--) {
		size_t budget = rng_below(chance, 20);

		if (rng_below(chance, 2) == 0)
			CHECK(cq_cleanup_run_some(l->q, budget) <= budget);
		else
			CHECK(cq_pool_run_some(cq_cleanup_pool(l->q), budget) <= budget);
		wake(l);
		sched_yield();
	}
}

void load_tell_owner(void *load)
{
	load_t *l = load;

	if (!l->in_child) /* which has no owner's loop */
		CHECK(sem_post(&l->told) == 0);
}

/* Takes all events, then runs until there is less than it asked for: of what comes then it is told again. */
static void stint_as_owner(load_t *l, rng_t *chance)
{
	size_t budget;

	while (sem_wait(&l->told) != 0)
		CHECK(errno == EINTR);
	while (sem_trywait(&l->told) == 0)
		;
	do
		budget = 1 + rng_below(chance, 20);
	while (cq_cleanup_run_some(l->q, budget) == budget);
}

/* Lent to the pool for a while, then for another. */
static void be_crew(struct member *m)
{
	load_t *l = m->load;

	while (!l->closed) {
		bool polls = l->way == LOAD_POLLED && (m->index == 0 || rng_below(&m->chance, 2) == 0);

		l->crew++;
		if (l->way == LOAD_OWNED)
			stint_as_owner(l, &m->chance);
		else if (polls || load_has(l, FAULT_CLOCK)) /* nor could it tell the end of a stint */
			stint_as_poller(l, &m->chance);
		else
			stint_as_worker(l, &m->chance);
	}
}

void *load_be_member(void *arg)
{
	static void (*const roles[])(struct member *m) = {
		[PRODUCER] = produce, [DRAINER] = be_drainer, [FLUSHER] = be_flusher,
		[FORKER] = load_be_forker, [CREW] = be_crew
	};
	struct member *m = arg;

	roles[m->role](m);
	return NULL;
}
