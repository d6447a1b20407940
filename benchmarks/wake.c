/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W3, waking a worker: one callback at a time after a gap in which the workers
 * have gone to sleep, and the cost of workers that sleep on.
 */
#include <errno.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

/* A run has as many samples as fit RUN_NS of gaps, and fewer if it takes TOO_LONG_NS. */
enum {
	WARM_SAMPLES = 20,
	MIN_SAMPLES = 30,
	MAX_WAKES = 1000,
	RUN_NS = 200000000,
	TOO_LONG_NS = 500000000
};

struct sample {
	uint64_t enqueued, flushed, ran;
	unsigned times;
};

static void stamp(void *arg)
{
	struct sample *s = arg;

	s->times++;
	__atomic_store_n(&s->ran, now(), __ATOMIC_RELEASE);
}

/* The producer's own time: it sleeps, or computes. */
static void pass(const struct workload *w)
{
	uint64_t until = now() + w->gap_ns;

	if (w->kind == WORKS_ON)
		work_until(until);
	else
		sleep_until(until);
}

/* Returns what CPU the gap cost the producer. Where the last callback is still to
   run, the gap is longer, so that each one meets workers that sleep. */
static uint64_t gap(const struct workload *w, const struct sample *last)
{
	uint64_t began = thread_cpu();

	do
		pass(w);
	while (last != NULL && __atomic_load_n(&last->ran, __ATOMIC_ACQUIRE) == 0);
	return thread_cpu() - began;
}

/* Returns how many samples it took. *gaps is the CPU that its own time has cost. */
static unsigned submit(const struct workload *w, const struct contestant *c, void *producer,
    struct sample *s, unsigned n, uint64_t *gaps)
{
	uint64_t until = now() + TOO_LONG_NS;
	unsigned i;

	*gaps = 0;
	for (i = 0; i < n && (i < MIN_SAMPLES || now() < until); i++) {
		*gaps += gap(w, i == 0 ? NULL : &s[i - 1]);
		s[i].enqueued = now();
		put(c, producer, stamp, &s[i]);
		c->flush(producer);
		s[i].flushed = now();
	}
	return i;
}

static unsigned samples_of(const struct workload *w)
{
	uint64_t n = RUN_NS / w->gap_ns;

	return n < MIN_SAMPLES ? MIN_SAMPLES : n > MAX_WAKES ? MAX_WAKES : (unsigned)n;
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
	if (n >= 1000)
		r->metrics[2] = percentile(v, n, 999);
	for (unsigned i = 0; i < n; i++)
		v[i] = s[i].flushed - s[i].enqueued;
	sort_ns(v, n);
	r->metrics[3] = percentile(v, n, 500);
	for (unsigned i = 1; i < n; i++)
		v[i] = s[i].enqueued - s[i - 1].flushed;
	sort_ns(v + 1, n - 1);
	r->metrics[5] = percentile(v + 1, n - 1, 500);
	free(v);
}

void run_wake(const struct workload *w, const struct contestant *c, struct result *r)
{
	unsigned n = samples_of(w);
	struct sample *s = calloc(WARM_SAMPLES + n, sizeof(*s));
	uint64_t cpu, gaps;
	void *queue = create(w, c, r), *producer;

	if (s == NULL)
		bench_die("calloc", ENOMEM);
	sleep_exactly();
	rouse_workers(c, queue, w->workers);
	producer = begin_one(c, queue, stamp);
	submit(w, c, producer, s, WARM_SAMPLES, &gaps);
	cpu = process_cpu();
	n = submit(w, c, producer, s + WARM_SAMPLES, n, &gaps);
	c->finish(queue);
	cpu = process_cpu() - cpu;
	c->end(producer);
	c->destroy(queue);

	for (unsigned i = 0; i < WARM_SAMPLES + n; i++)
		if (s[i].times != 1)
			not_conserved(c);
	summarize(r, s + WARM_SAMPLES, n);
	r->metrics[4] = ((double)cpu - (double)gaps) / n;
	free(s);
}

/*
 * Nothing is done, and the workers are to do nothing. SETTLE_NS is for those that
 * look for work for a while before they sleep, which W3's other rows charge for.
 */
void run_idle(const struct workload *w, const struct contestant *c, struct result *r)
{
	enum { SETTLE_NS = 100000000 };
	struct tally before = tally_now();
	void *queue = create(w, c, r);
	uint64_t cpu, switches;

	rouse_workers(c, queue, w->workers);
	sleep_until(now() + SETTLE_NS);
	cpu = process_cpu();
	switches = context_switches();
	sleep_until(now() + (uint64_t)settings.idle_seconds * 1000000000);
	cpu = process_cpu() - cpu;
	switches = context_switches() - switches;
	r->metrics[0] = (double)cpu / 1000 / settings.idle_seconds;
	r->metrics[1] = (double)(switches - 1) / settings.idle_seconds; /* that of the sleep */
	r->metrics[2] = tallied_threads();
	c->destroy(queue);
	check_conserved(c, &before, 1, w->workers, false);
}
