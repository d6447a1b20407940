/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_workq - layer 1 under threads: a few nodes go from `free` to `full` and
 * back, singly, in chains and in batches, so that most come back at once to
 * where another thread has just seen them.
 *
 * Conservation: a node is in one queue or with one thread, all are there at the
 * end, and what was written before the pushes is what was read after the pops.
 *
 * Environment: CQ_STRESS_SECONDS (2), CQ_TEST_SEED. Status: 0, or it aborts.
 */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>

#include "support.h"

enum { PRODUCERS = 3, CONSUMERS = 3, JOBS = 10, BATCH = 5, ROUNDS = 64 };

/* Not atomic: the queues order it. */
struct job {
	cq_node_t node;
	uint64_t serial, check;
};
CQ_NODE_CONTAINER(struct job, node, job_of)

/* What one thread did, and the sum of the serials that went through its hands. */
struct tally {
	uint64_t jobs, serials, batches;
};

static cq_workq_t free_jobs CQ_ALIGNED(64), full CQ_ALIGNED(64);
static struct job jobs[JOBS];
static atomic_bool out[JOBS]; /* with a thread */
static struct tally tallies[PRODUCERS + CONSUMERS];
static uint64_t end;

/* A chain that has just been popped. */
struct batch {
	cq_node_t *first, *last;
	uint64_t n;
};

static uint64_t scramble(uint64_t serial)
{
	rng_t r = { serial };

	return rng_next(&r);
}

static struct batch get(cq_workq_t *q, rng_t *r)
{
	struct batch b = { NULL, NULL, 0 };
	uint64_t n = 1 + rng_below(r, BATCH);

	if (rng_below(r, 2) == 0) {
		b.first = cq_workq_try_pop(q);
		b.n = b.first != NULL;
		if (b.n != 0)
			b.first->next = NULL;
	} else {
		b.n = take_some(q, n);
		b.first = cq_workq_pop_taken_n(q, b.n);
	}
	n = 0;
	for (cq_node_t *p = b.first; p != NULL; p = p->next, n++) {
		CHECK(!atomic_exchange(&out[job_of(p) - jobs], true));
		b.last = p;
	}
	CHECK(n == b.n);
	return b;
}

/* Pushes the batch, in one of the ways that there are. */
static void put(cq_workq_t *q, struct batch b, rng_t *r)
{
	cq_node_t *next;

	for (cq_node_t *p = b.first; p != NULL; p = p->next)
		CHECK(atomic_exchange(&out[job_of(p) - jobs], false));
	switch (rng_below(r, 4)) {
	case 0:
		for (cq_node_t *p = b.first; p != NULL; p = next) {
			next = p->next;
			cq_workq_push(q, p);
		}
		break;
	case 1: /* published late */
		for (cq_node_t *p = b.first; p != NULL; p = next) {
			next = p->next;
			cq_workq_link(q, p);
		}
		cq_workq_add_work(q, b.n);
		break;
	case 2:
		cq_workq_link_chain(q, b.first, b.last);
		for (uint64_t i = 0; i < b.n; i++)
			cq_workq_add_work(q, 1);
		break;
	default:
		cq_workq_push_chain(q, b.first, b.last, b.n);
	}
}

static void fill(struct batch b, uint64_t *serial, struct tally *t)
{
	for (cq_node_t *p = b.first; p != NULL; p = p->next) {
		job_of(p)->serial = ++*serial;
		job_of(p)->check = scramble(*serial);
		t->serials += *serial;
	}
}

static void empty(struct batch b, struct tally *t)
{
	for (cq_node_t *p = b.first; p != NULL; p = p->next) {
		struct job *job = job_of(p);

		CHECK(job->check == scramble(job->serial));
		t->serials += job->serial;
	}
}

static void work(void *unused, unsigned index)
{
	bool producer = index < PRODUCERS;
	cq_workq_t *from = producer ? &free_jobs : &full, *to = producer ? &full : &free_jobs;
	rng_t r = rng_for(index);
	uint64_t serial = (uint64_t)index << 32;
	struct tally t = { 0, 0, 0 };

	(void)unused;
	while (cq_now() < end) {
		for (int i = 0; i < ROUNDS; i++) {
			struct batch b = get(from, &r);

			if (b.n == 0) {
				sched_yield();
				continue;
			}
			if (producer)
				fill(b, &serial, &t);
			else
				empty(b, &t);
			put(to, b, &r);
			t.jobs += b.n;
			t.batches++;
		}
	}
	tallies[index] = t;
}

/* Empties a queue that nobody uses any more; returns how many there were. */
static uint64_t drain(cq_workq_t *q, struct tally *t)
{
	uint64_t n = cq_workq_units(q);
	struct batch b = { cq_workq_pop_taken_n(q, take_some(q, n)), NULL, n };

	for (cq_node_t *p = b.first; p != NULL; p = p->next, n--)
		CHECK(!atomic_exchange(&out[job_of(p) - jobs], true));
	CHECK(n == 0);
	if (t != NULL)
		empty(b, t);
	CHECK(cq_workq_destroy(q) == 0);
	return b.n;
}

int main(void)
{
	struct tally in = { 0, 0, 0 }, taken = { 0, 0, 0 };
	uint64_t left;

	CHECK(cq_workq_init(&free_jobs) == 0 && cq_workq_init(&full) == 0);
	for (int i = 0; i < JOBS; i++)
		cq_workq_push(&free_jobs, &jobs[i].node);
	test_seed();
	end = run_until(2);
	run_threads(PRODUCERS + CONSUMERS, work, NULL);

	for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
		struct tally *t = i < PRODUCERS ? &in : &taken;

		t->jobs += tallies[i].jobs;
		t->serials += tallies[i].serials;
		t->batches += tallies[i].batches;
	}
	left = drain(&full, &taken);
	CHECK(left + drain(&free_jobs, NULL) == JOBS);
	CHECK(in.jobs == taken.jobs + left);
	CHECK(in.serials == taken.serials);
	CHECK(in.jobs > 0);
	printf("stress_workq: pop %s, in %" PRIu64 " = out %" PRIu64 " + left %" PRIu64
	    ", batches %" PRIu64 "\n", cq_build_info()->pop, in.jobs, taken.jobs, left,
	    in.batches + taken.batches);
	return 0;
}
