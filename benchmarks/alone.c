/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W2, the producer alone: no worker exists. On memory that it has just been given
 * back, on memory that is new, by spans, and in instructions.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>

#include "measure.h"
#include "workload.h"

/* A batch fits the nearest caches. */
enum { BATCH = 3000, WARM_BATCHES = 10, SPAN = 100, STEPPED = 5000 };

/* How a batch, the numbers 1 .. BATCH, is enqueued. */
typedef void batch_fn(const struct contestant *c, void *producer);

static void by_call(const struct contestant *c, void *producer)
{
	enqueue_numbers(c, producer, 1, BATCH);
}

/* Writes up to n callbacks, from `number` on, and returns how many. */
static unsigned write_span(const struct contestant *c, void *producer, uint64_t number, unsigned n)
{
	unsigned room;
	struct bench_slot *slots = c->reserve(producer, n, &room);

	for (unsigned i = 0; i < room; i++)
		slots[i] = (struct bench_slot){ count, (void *)(uintptr_t)(number + i) };
	c->commit(producer, room);
	return room;
}

static void by_span(const struct contestant *c, void *producer)
{
	for (uint64_t number = 1; number <= BATCH;) {
		uint64_t left = BATCH + 1 - number;

		number += write_span(c, producer, number, left < SPAN ? (unsigned)left : SPAN);
	}
}

/*
 * A batch is enqueued on the clock and run off it, so that each is written to
 * memory that the last one has given back. The median of the batches is robust
 * against being interrupted.
 */
static void time_batches(const struct workload *w, const struct contestant *c, struct result *r,
    batch_fn *enqueue_batch)
{
	unsigned batches = (unsigned)(settings.callbacks / BATCH) + 1;
	uint64_t *took = bench_alloc(batches * sizeof(*took));
	struct tally before = tally_now();
	void *queue = create(w, c, r);
	void *producer = begin_one(c, queue, count);

	for (unsigned i = 0; i < WARM_BATCHES + batches; i++) {
		uint64_t began = now(), ended;

		enqueue_batch(c, producer);
		ended = now();
		if (i >= WARM_BATCHES)
			took[i - WARM_BATCHES] = ended - began;
		c->run_here(queue);
	}
	c->end(producer);
	c->destroy(queue);
	check_conserved(c, &before, BATCH, WARM_BATCHES + batches, false);

	sort_ns(took, batches);
	r->metrics[0] = percentile(took, batches, 500) / BATCH;
	free(took);
}

void run_alone(const struct workload *w, const struct contestant *c, struct result *r)
{
	time_batches(w, c, r, by_call);
}

void run_span(const struct workload *w, const struct contestant *c, struct result *r)
{
	if (c->reserve == NULL)
		cannot(r, "it has no spans");
	time_batches(w, c, r, by_span);
}

/* Nothing runs until all is enqueued, and the process is young: every page is the
   system's, every block malloc's. A mean, as the pages' faults are part of it. */
void run_fresh(const struct workload *w, const struct contestant *c, struct result *r)
{
	uint64_t n = settings.callbacks, began, ended;
	struct tally before = tally_now();
	void *queue = create(w, c, r);
	void *producer = begin_one(c, queue, count);

	began = now();
	enqueue_numbers(c, producer, 1, n);
	ended = now();
	c->run_here(queue);
	c->end(producer);
	c->destroy(queue);
	check_conserved(c, &before, n, 1, false);
	r->metrics[0] = (double)(ended - began) / (double)n;
}

/* ------------------------------------------------------------- instructions */

static int enqueue_nothing(void *producer, bench_fn *fn, void *arg)
{
	(void)producer;
	(void)fn;
	(void)arg;
	return 0;
}

/* Between two stops the parent, which traces this process, counts its steps. */
static void stop(void)
{
	if (raise(SIGSTOP) != 0)
		bench_die("raise", EINVAL);
}

/* The same loop twice, so that what is left is the queue's: what its enqueue does
   beyond that of one that returns 0. */
void run_instructions(const struct workload *w, const struct contestant *c, struct result *r)
{
	static const struct contestant nothing = { .name = "nothing", .enqueue = enqueue_nothing };
	const struct contestant *volatile hidden = &nothing; /* or the loop would be compiled away */
	struct tally before = tally_now();
	void *queue = create(w, c, r);
	void *producer = begin_one(c, queue, count);

	for (unsigned i = 0; i < WARM_BATCHES; i++) {
		enqueue_numbers(c, producer, 1, STEPPED);
		c->run_here(queue);
	}
	if (!settings.traced || ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
		cannot(r, "this process may not be traced");
	stop();
	enqueue_numbers(hidden, NULL, 1, STEPPED);
	stop();
	enqueue_numbers(c, producer, 1, STEPPED);
	stop();
	c->run_here(queue);
	c->end(producer);
	c->destroy(queue);
	check_conserved(c, &before, STEPPED, WARM_BATCHES + 1, false);
	r->metrics[0] = ((double)r->steps[1] - (double)r->steps[0]) / STEPPED;
}
