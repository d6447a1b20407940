/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W4: bursts of 1 .. 64 callbacks, each flushed as a whole, with gaps in which the
 * workers go to sleep. The sizes are random, and the same for all.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

/* A run has BURSTS, and fewer if it takes TOO_LONG_NS. */
enum {
	BURSTS = 300,
	WARM_BURSTS = 20,
	MIN_BURSTS = 30,
	MAX_BURST = 64,
	TOO_LONG_NS = 500000000,
	WORK_NS = 1000
};

struct burst {
	uint64_t began, ended;
	unsigned left; /* callbacks to run */
	unsigned size;
};

struct item {
	struct burst *burst;
	unsigned times;
};

static void run_item(struct item *i)
{
	struct burst *b = i->burst;

	i->times++;
	/* Acquire too: the last one speaks for all. */
	if (__atomic_fetch_sub(&b->left, 1, __ATOMIC_ACQ_REL) == 1)
		__atomic_store_n(&b->ended, now(), __ATOMIC_RELEASE);
}

static void only_count(void *item)
{
	run_item(item);
}

static void compute(void *item)
{
	static __thread volatile uint64_t sink;

	sink = own_work(settings.own_work * WORK_NS / OWN_WORK_NS, sink);
	run_item(item);
}

static bench_fn *callback_of(const struct workload *w)
{
	return w->kind == COMPUTES ? compute : only_count;
}

static unsigned next_size(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return 1 + (unsigned)(*state >> 33) % MAX_BURST;
}

/* Sleeps, at least once and until the last burst is over; returns how often. */
static unsigned gap(const struct workload *w, const struct burst *last)
{
	unsigned n = 0;

	do {
		sleep_until(now() + w->gap_ns);
		n++;
	} while (last != NULL && __atomic_load_n(&last->ended, __ATOMIC_ACQUIRE) == 0);
	return n;
}

/* What the producer's own sleeping was. */
struct own {
	uint64_t cpu, sleeps;
};

/* Returns how many bursts it made. */
static unsigned submit(const struct workload *w, const struct contestant *c, void *producer,
    struct burst *bursts, struct item *items, unsigned n, struct own *own)
{
	bench_fn *fn = callback_of(w);
	uint64_t until = now() + TOO_LONG_NS;
	unsigned k;

	*own = (struct own){ 0, 0 };
	for (k = 0; k < n && (k < MIN_BURSTS || now() < until); k++) {
		struct burst *b = &bursts[k];
		uint64_t cpu = thread_cpu();

		own->sleeps += gap(w, k == 0 ? NULL : b - 1);
		own->cpu += thread_cpu() - cpu;
		b->began = now();
		for (unsigned i = 0; i < b->size; i++)
			put(c, producer, fn, items++);
		c->flush(producer);
	}
	return k;
}

static void fill(struct burst *bursts, struct item *items)
{
	uint64_t state = 1;

	for (unsigned k = 0; k < WARM_BURSTS + BURSTS; k++) {
		bursts[k] = (struct burst){ .size = next_size(&state) };
		bursts[k].left = bursts[k].size;
		for (unsigned i = 0; i < bursts[k].size; i++)
			*items++ = (struct item){ &bursts[k], 0 };
	}
}

static double makespan(const struct burst *bursts, unsigned n)
{
	uint64_t took[BURSTS];

	for (unsigned k = 0; k < n; k++)
		took[k] = bursts[k].ended - bursts[k].began;
	sort_ns(took, n);
	return percentile(took, n, 500);
}

static unsigned sum_sizes(const struct burst *bursts, unsigned n)
{
	unsigned sum = 0;

	while (n-- != 0)
		sum += bursts[n].size;
	return sum;
}

void run_bursts(const struct workload *w, const struct contestant *c, struct result *r)
{
	struct burst *bursts = bench_alloc((WARM_BURSTS + BURSTS) * sizeof(*bursts));
	struct item *items = bench_alloc(sizeof(*items) * MAX_BURST * (WARM_BURSTS + BURSTS));
	unsigned warm, n;
	bool counting = call_counter_open("futex");
	uint64_t cpu, switches, calls = 0;
	struct own own;
	void *queue = create(w, c, r), *producer;

	fill(bursts, items);
	sleep_exactly();
	rouse_workers(c, queue, w->workers);
	producer = begin_one(c, queue, callback_of(w));
	submit(w, c, producer, bursts, items, WARM_BURSTS, &own);
	c->finish(queue);
	warm = sum_sizes(bursts, WARM_BURSTS);

	if (counting)
		calls = counted_calls();
	switches = context_switches();
	cpu = process_cpu();
	n = submit(w, c, producer, bursts + WARM_BURSTS, items + warm, BURSTS, &own);
	c->finish(queue);
	cpu = process_cpu() - cpu;
	switches = context_switches() - switches;
	if (counting)
		calls = counted_calls() - calls;
	c->end(producer);
	c->destroy(queue);

	for (unsigned i = 0; i < sum_sizes(bursts, WARM_BURSTS + n); i++)
		if (items[i].times != 1)
			not_conserved(c);
	r->metrics[0] = makespan(bursts + WARM_BURSTS, n);
	r->metrics[1] = ((double)cpu - (double)own.cpu) / n;
	r->metrics[2] = counting ? (double)calls / n : NAN;
	r->metrics[3] = ((double)switches - (double)own.sleeps) / n;
	free(items);
	free(bursts);
}
