/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W1: P threads enqueue as fast as they can (PACED: with some work of
 * their own between; FLUSHING: and flush each), and W workers run it. Twice on the same queue: the first
 * time makes the workers and the blocks, the second is measured. Of many threads, which would be done at
 * once, a time before these finds out how many callbacks it takes.
 */
#include <pthread.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

struct producer {
	const struct contestant *c;
	void *queue, *handle;
	pthread_barrier_t *barrier;
	int kind;
	uint64_t first;		/* which numbers */
	const uint64_t *n;
	uint64_t own;		/* CPU of its own work alone */
	uint64_t began, cpu;	/* of the last time */
	pthread_t thread;
};

enum { TIMES = 2, COMPUTE_NS = 50, LONG_ENOUGH_NS = 20000000, OF_ALL = 4 };

static volatile uint64_t sink;

static void compute(void *number)
{
	static __thread volatile uint64_t x;

	x = own_work((settings.own_work * COMPUTE_NS + OWN_WORK_NS / 2) / OWN_WORK_NS, x);
	count(number);
}

static bench_fn *callback_of(int kind)
{
	return kind == COMPUTING ? compute : count;
}

static void work_alone(struct producer *p)
{
	uint64_t x = p->first, began = thread_cpu();

	for (uint64_t i = 0; i < *p->n; i++)
		x = own_work(settings.own_work, x);
	p->own = thread_cpu() - began;
	sink = x;
}

static void enqueue_paced(const struct producer *p)
{
	uint64_t x = p->first;

	for (uint64_t number = p->first; number < p->first + *p->n; number++) {
		x = own_work(settings.own_work, x);
		put(p->c, p->handle, count, (void *)(uintptr_t)number);
	}
	sink = x;
}

static void enqueue_and_flush(const struct producer *p)
{
	for (uint64_t number = p->first; number < p->first + *p->n; number++) {
		put(p->c, p->handle, count, (void *)(uintptr_t)number);
		p->c->flush(p->handle);
	}
}

static void enqueue_all(const struct producer *p)
{
	if (p->kind == PACED)
		enqueue_paced(p);
	else if (p->kind == FLUSHING)
		enqueue_and_flush(p);
	else if (p->kind == ALTERNATING)
		enqueue_alternating(p->c, p->handle, p->first, *p->n);
	else
		enqueue_numbers_of(p->c, p->handle, callback_of(p->kind), p->first, *p->n);
}

/* n == 0: that was the last time. */
static void *produce(void *arg)
{
	struct producer *p = arg;
	uint64_t nth = p->first;

	pin_to_next();
	p->handle = p->kind == ALTERNATING ? p->c->begin(p->queue) :
	    begin_one(p->c, p->queue, callback_of(p->kind));
	for (;;) {
		pthread_barrier_wait(p->barrier); /* n is known */
		if (*p->n == 0)
			return NULL;
		p->first = 1 + nth * *p->n;
		if (p->kind == PACED)
			work_alone(p);
		pthread_barrier_wait(p->barrier); /* ready */
		pthread_barrier_wait(p->barrier); /* go */
		p->began = now();
		p->cpu = thread_cpu();
		enqueue_all(p);
		p->cpu = thread_cpu() - p->cpu;
		pthread_barrier_wait(p->barrier); /* done */
	}
}

/* Of all producers, of one time. */
struct time {
	uint64_t wall, cpu, producers_cpu, own;
};

static struct time time_of(const struct workload *w, const struct contestant *c, void *queue,
    const struct producer *p, pthread_barrier_t *barrier)
{
	uint64_t ended, began = UINT64_MAX;
	struct time t = { 0, 0, 0, 0 };

	pthread_barrier_wait(barrier);
	pthread_barrier_wait(barrier);
	t.cpu = process_cpu();
	pthread_barrier_wait(barrier);
	pthread_barrier_wait(barrier);
	c->finish(queue);
	ended = now();
	t.cpu = process_cpu() - t.cpu;
	for (unsigned i = 0; i < w->producers; i++) {
		if (p[i].began < began)
			began = p[i].began;
		t.producers_cpu += p[i].cpu;
		t.own += p[i].own;
	}
	t.wall = ended - began;
	return t;
}

/*
 * How many for each of many producers, so that it takes LONG_ENOUGH_NS at least, when so many took
 * `wall`; but no more than each of OF_ALL has.
 */
static uint64_t of_a_run(uint64_t n, unsigned producers, uint64_t wall)
{
	double longer = (double)LONG_ENOUGH_NS / (double)(wall + 1), most = (double)producers / OF_ALL;

	return (uint64_t)((double)n * (longer < 1 ? 1 : longer > most ? most : longer));
}

static void start_producers(struct producer *p, const struct workload *w,
    const struct producer *common)
{
	for (unsigned i = 0; i < w->producers; i++) {
		int err;

		p[i] = *common;
		p[i].first = i;
		if ((err = pthread_create(&p[i].thread, NULL, produce, &p[i])) != 0)
			bench_die("pthread_create", err);
	}
}

void run_throughput(const struct workload *w, const struct contestant *c, struct result *r)
{
	struct producer *p = bench_alloc(w->producers * sizeof(*p));
	/* A block each, for some: as many bytes as for the others then. */
	uint64_t callbacks = w->kind == FLUSHING ? settings.callbacks / 64 + 1 : settings.callbacks;
	uint64_t n = (callbacks - 1) / w->producers + 1, total;
	struct tally before = tally_now();
	struct time t;
	pthread_barrier_t barrier;
	void *queue;

	if (w->kind == ALTERNATING && c->put != NULL)
		cannot(r, "its producers have one function");
	queue = create(w, c, r);
	pinning_begins();
	pthread_barrier_init(&barrier, NULL, w->producers + 1);
	start_producers(p, w, &(struct producer){
		.c = c, .queue = queue, .barrier = &barrier, .kind = w->kind, .n = &n,
	});
	if (w->producers > OF_ALL) {
		t = time_of(w, c, queue, p, &barrier);
		check_conserved(c, &before, n * w->producers, 1, w->kind == ALTERNATING);
		before = tally_now();
		n = of_a_run(n, w->producers, t.wall);
	}
	for (int i = 0; i < TIMES; i++)
		t = time_of(w, c, queue, p, &barrier);
	total = n * w->producers;
	n = 0;
	pthread_barrier_wait(&barrier);
	for (unsigned i = 0; i < w->producers; i++) {
		pthread_join(p[i].thread, NULL);
		c->end(p[i].handle);
	}
	pinning_ends();
	pthread_barrier_destroy(&barrier);
	c->destroy(queue);
	free(p);
	check_conserved(c, &before, total, TIMES, w->kind == ALTERNATING);

	r->metrics[0] = (double)t.wall / (double)total;
	r->metrics[1] = ((double)t.cpu - (double)t.own) / (double)total;
	r->metrics[2] = ((double)t.producers_cpu - (double)t.own) / (double)total;
}
