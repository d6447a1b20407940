/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W7: a flush that publishes several blocks of two callbacks each, to as many workers as there
 * are blocks at most, all asleep: what the caller pays for it, how many of them it wakes by itself, and
 * how long until all has run.
 */
#include <errno.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

/* A run has FLUSHES, and fewer if it takes TOO_LONG_NS. */
enum {
	FLUSHES = 200,
	WARM_FLUSHES = 20,
	MIN_FLUSHES = 30,
	GAP_NS = 1000000,
	TOO_LONG_NS = 1000000000,
	SLEEP_NS = 50000,
	COMPUTE_NS = 2000
};

struct flush {
	uint64_t began, returned, ended;
	uint64_t cpu;	/* of the caller, in it */
	unsigned long wakes;
	unsigned left; /* callbacks to run */
};

static void end_one(struct flush *f)
{
	/* Acquire too: the last one speaks for all. */
	if (__atomic_fetch_sub(&f->left, 1, __ATOMIC_ACQ_REL) == 1)
		__atomic_store_n(&f->ended, now(), __ATOMIC_RELEASE);
}

static void sleep_a_while(void *flush)
{
	sleep_until(now() + SLEEP_NS);
	end_one(flush);
}

static void compute(void *flush)
{
	work_until(now() + COMPUTE_NS);
	end_one(flush);
}

static bench_fn *callback_of(const struct workload *w)
{
	return w->kind == COMPUTES ? compute : sleep_a_while;
}

/* Sleeps until it is over, and its workers sleep again. */
static void await(const struct flush *f)
{
	do
		sleep_until(now() + GAP_NS);
	while (__atomic_load_n(&f->ended, __ATOMIC_ACQUIRE) == 0);
}

/* Returns how many it made. */
static unsigned flush_many(const struct workload *w, const struct contestant *c, void *queue,
    void **producers, struct flush *flushes, unsigned n)
{
	uint64_t until = now() + TOO_LONG_NS;
	unsigned k;

	for (k = 0; k < n && (k < MIN_FLUSHES || now() < until); k++) {
		struct flush *f = &flushes[k];

		*f = (struct flush){ .left = w->producers };
		/* New ones, or the second callback would fill a block, and be published by that. */
		for (unsigned i = 0; i < w->producers; i++) {
			producers[i] = begin_one(c, queue, callback_of(w));
			put(c, producers[i], callback_of(w), f);
		}
		f->wakes = c->wakes();
		f->cpu = thread_cpu();
		f->began = now();
		c->flush_all(queue);
		f->returned = now();
		f->cpu = thread_cpu() - f->cpu;
		f->wakes = c->wakes() - f->wakes;
		await(f);
		for (unsigned i = 0; i < w->producers; i++)
			c->end(producers[i]);
	}
	return k;
}

static void summarize(struct result *r, const struct flush *f, unsigned n)
{
	uint64_t flush[FLUSHES], cpu[FLUSHES], makespan[FLUSHES], wakes = 0;

	for (unsigned k = 0; k < n; k++) {
		flush[k] = f[k].returned - f[k].began;
		cpu[k] = f[k].cpu;
		makespan[k] = f[k].ended - f[k].began;
		wakes += f[k].wakes;
	}
	sort_ns(flush, n);
	sort_ns(cpu, n);
	sort_ns(makespan, n);
	r->metrics[0] = percentile(flush, n, 500);
	r->metrics[1] = percentile(cpu, n, 500);
	r->metrics[2] = percentile(makespan, n, 500);
	r->metrics[3] = (double)wakes / n;
}

void run_blocks(const struct workload *w, const struct contestant *c, struct result *r)
{
	static struct flush flushes[FLUSHES]; /* a late callback may not find them gone */
	void **producers = bench_alloc(w->producers * sizeof(*producers)), *queue;
	unsigned n;

	if (c->create_small == NULL || c->flush_all == NULL || c->wakes == NULL)
		cannot(r, "it has no flush of all producers");
	sleep_exactly();
	queue = c->create_small(w->workers);
	rouse_workers(c, queue, w->workers);
	flush_many(w, c, queue, producers, flushes, WARM_FLUSHES);
	n = flush_many(w, c, queue, producers, flushes, FLUSHES);
	c->finish(queue);
	c->destroy(queue);
	for (unsigned k = 0; k < n; k++)
		if (flushes[k].left != 0)
			not_conserved(c);
	summarize(r, flushes, n);
	free(producers);
}
