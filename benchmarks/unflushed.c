/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W9, what nobody flushes: a producer that enqueues now and then, in bursts, or all the time, on a queue that
 * publishes by time: how long its callbacks wait, and what that costs the process. The same queue without it
 * flushes after each burst.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

/* A run has as many bursts as fit RUN_NS of gaps, and fewer if it takes TOO_LONG_NS. */
enum {
	FLUSH_NS = 1000000,
	WARM_BURSTS = 20,
	MIN_BURSTS = 100,
	MAX_BURST = 1024,
	FILLING = 4096,
	RUN_NS = 500000000,
	TOO_LONG_NS = 1500000000,
	BUSY_NS = 100000
};

/* Of a burst: its first callback, that which waits longest. */
struct sample {
	uint64_t enqueued, ran;
	uint64_t overslept;	/* how much later than it wanted its producer went on */
	unsigned times;
};

/* A sample; or, twice and one more, the number of a callback that is none. */
static void stamp(void *arg)
{
	struct sample *s = arg;

	if ((uintptr_t)arg % 2 != 0) {
		count((void *)((uintptr_t)arg / 2));
		return;
	}
	s->ran = now();
	s->times++;
}

struct bursts {
	const struct workload *w;
	const struct contestant *c;
	void *producer;
	uint64_t random, numbers; /* so many callbacks were no sample */
	uint64_t cpu;		/* what the gaps have cost */
};

static unsigned random_below(struct bursts *b, unsigned n)
{
	b->random = b->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(b->random >> 33) % n;
}

static unsigned size_of_next(struct bursts *b)
{
	switch (b->w->kind) {
	case IN_BURSTS:
		return 1 + random_below(b, MAX_BURST);
	case FILLS:
		return FILLING;
	default:
		return 1;
	}
}

/* Of random length, or all would meet the ticks of a clock at the same moment. Who fills keeps its processor. */
static void gap(struct bursts *b, struct sample *s)
{
	uint64_t began = thread_cpu(), until = now() + b->w->gap_ns / 2 + random_below(b, (unsigned)b->w->gap_ns);

	if (b->w->kind == FILLS)
		work_until(until);
	else
		sleep_until(until);
	s->overslept = now() - until;
	b->cpu += thread_cpu() - began;
}

/* Returns how many it made. */
static unsigned submit(struct bursts *b, struct sample *s, unsigned n)
{
	uint64_t until = now() + TOO_LONG_NS;
	unsigned k;

	for (k = 0; k < n && (k < MIN_BURSTS || now() < until); k++) {
		unsigned size = size_of_next(b);

		gap(b, &s[k]);
		s[k].enqueued = now();
		put(b->c, b->producer, stamp, &s[k]);
		while (--size != 0)
			put(b->c, b->producer, stamp, (void *)(uintptr_t)(2 * ++b->numbers + 1));
		if (b->c->create_timed == NULL)
			b->c->flush(b->producer);
	}
	return k;
}

/* ----------------------------------------------------------- beside busy workers */

struct busy {
	const struct workload *w;
	const struct contestant *c;
	void *queue;
	unsigned left;		/* callbacks that have not run */
	unsigned stop;
	uint64_t cpu, sleeps;	/* of the thread and its callbacks; what it slept */
	pthread_t thread;
};

static void be_busy(void *arg)
{
	struct busy *b = arg;
	uint64_t began = thread_cpu();

	work_until(now() + BUSY_NS);
	__atomic_fetch_add(&b->cpu, thread_cpu() - began, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&b->left, 1, __ATOMIC_RELEASE);
}

/* One callback for each worker, flushed by itself; as much time again without; and so on. */
static void *keep_busy(void *arg)
{
	struct busy *b = arg;
	void *producer = begin_one(b->c, b->queue, be_busy);
	uint64_t cpu = thread_cpu();

	while (__atomic_load_n(&b->stop, __ATOMIC_RELAXED) == 0) {
		__atomic_fetch_add(&b->left, b->w->workers, __ATOMIC_RELAXED);
		for (unsigned i = 0; i < b->w->workers; i++) {
			put(b->c, producer, be_busy, b);
			b->c->flush(producer);
		}
		do {
			sleep_until(now() + 2 * BUSY_NS);
			b->sleeps++;
		} while (__atomic_load_n(&b->left, __ATOMIC_ACQUIRE) != 0);
	}
	__atomic_fetch_add(&b->cpu, thread_cpu() - cpu, __ATOMIC_RELAXED);
	b->c->end(producer);
	return NULL;
}

static void begin_busy(struct busy *b)
{
	int err = pthread_create(&b->thread, NULL, keep_busy, b);

	if (err != 0)
		bench_die("pthread_create", err);
}

static void end_busy(struct busy *b)
{
	__atomic_store_n(&b->stop, 1, __ATOMIC_RELAXED);
	pthread_join(b->thread, NULL);
}

/* ---------------------------------------------------------------------- the run */

static unsigned bursts_of(const struct workload *w)
{
	uint64_t n = RUN_NS / w->gap_ns;

	return n < MIN_BURSTS ? MIN_BURSTS : n > MAX_SAMPLES ? MAX_SAMPLES : (unsigned)n;
}

static void summarize(struct result *r, const struct sample *s, unsigned n)
{
	uint64_t *v = bench_alloc(n * sizeof(*v));

	for (unsigned i = 0; i < n; i++) {
		v[i] = s[i].ran - s[i].enqueued;
		r->samples[i] = v[i] < UINT32_MAX ? (uint32_t)v[i] : UINT32_MAX;
	}
	r->nsamples = n;
	sort_ns(v, n);
	r->metrics[0] = percentile(v, n, 500);
	r->metrics[1] = percentile(v, n, 990);
	r->metrics[2] = n >= 1000 ? percentile(v, n, 999) : NAN;
	r->metrics[3] = percentile(v, n, 1000);
	for (unsigned i = 0; i < n; i++)
		v[i] = s[i].overslept;
	sort_ns(v, n);
	r->metrics[4] = n >= 1000 ? percentile(v, n, 999) : NAN;
	free(v);
}

void run_unflushed(const struct workload *w, const struct contestant *c, struct result *r)
{
	unsigned n = bursts_of(w);
	struct sample *s = calloc(WARM_BURSTS + n, sizeof(*s));
	bool counting = call_counter_open("membarrier");
	struct bursts bursts = { .w = w, .c = c };
	struct busy busy = { .w = w, .c = c };
	uint64_t began, cpu, slept, barriers = 0;
	struct tally before;
	double seconds;

	if (c->create_timed == NULL && c->flush_all == NULL)
		cannot(r, "it publishes nothing by time; W3 is of those that flush");
	if (s == NULL)
		bench_die("calloc", ENOMEM);
	busy.queue = c->create_timed != NULL ? c->create_timed(w->workers, FLUSH_NS) : create(w, c, r);
	sleep_exactly();
	rouse_workers(c, busy.queue, w->workers);
	before = tally_now();
	bursts.producer = begin_one(c, busy.queue, stamp);
	submit(&bursts, s, WARM_BURSTS);

	bursts.cpu = 0;
	if (counting)
		barriers = counted_calls();
	slept = sleeps();
	cpu = process_cpu();
	began = now();
	if (w->kind == BESIDE_BUSY)
		begin_busy(&busy);
	n = submit(&bursts, s + WARM_BURSTS, n);
	if (w->kind == BESIDE_BUSY)
		end_busy(&busy);
	seconds = (double)(now() - began) / 1e9;
	cpu = process_cpu() - cpu;
	slept = sleeps() - slept;
	if (counting)
		barriers = counted_calls() - barriers;
	c->finish(busy.queue);
	c->end(bursts.producer);
	c->destroy(busy.queue);

	for (unsigned i = 0; i < WARM_BURSTS + n; i++)
		if (s[i].times != 1)
			not_conserved(c);
	check_conserved(c, &before, bursts.numbers, 1, false);
	summarize(r, s + WARM_BURSTS, n);
	r->metrics[5] = ((double)slept - (double)busy.sleeps - (w->kind == FILLS ? 0 : n)) / seconds;
	r->metrics[6] = ((double)cpu - (double)bursts.cpu - (double)busy.cpu) / 1000 / seconds;
	r->metrics[7] = counting ? (double)barriers / 1000 / seconds : NAN;
	free(s);
}
