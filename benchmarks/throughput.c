/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W1 and W6: P threads enqueue as fast as they can (PACED: with some work of
 * their own between; FLUSHING: and flush each), and W workers run it. Twice on the same queue: the first
 * time makes the workers and the blocks, the second is measured.
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
	uint64_t first, n;	/* which numbers */
	uint64_t own;		/* CPU of its own work alone */
	uint64_t began, cpu;	/* of the last time */
	pthread_t thread;
};

enum { TIMES = 2 };

static volatile uint64_t sink;

static void work_alone(struct producer *p)
{
	uint64_t x = p->first, began = thread_cpu();

	for (uint64_t i = 0; i < p->n; i++)
		x = own_work(settings.own_work, x);
	p->own = thread_cpu() - began;
	sink = x;
}

static void enqueue_paced(const struct producer *p)
{
	uint64_t x = p->first;

	for (uint64_t number = p->first; number < p->first + p->n; number++) {
		x = own_work(settings.own_work, x);
		put(p->c, p->handle, count, (void *)(uintptr_t)number);
	}
	sink = x;
}

static void enqueue_and_flush(const struct producer *p)
{
	for (uint64_t number = p->first; number < p->first + p->n; number++) {
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
		enqueue_alternating(p->c, p->handle, p->first, p->n);
	else
		enqueue_numbers(p->c, p->handle, p->first, p->n);
}

static void *produce(void *arg)
{
	struct producer *p = arg;

	pin_to_next();
	p->handle = p->kind == ALTERNATING ? p->c->begin(p->queue) :
	    begin_one(p->c, p->queue, count);
	for (int i = 0; i < TIMES; i++) {
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
	return NULL;
}

static void start_producers(struct producer *p, const struct workload *w,
    const struct producer *common)
{
	for (unsigned i = 0; i < w->producers; i++) {
		int err;

		p[i] = *common;
		p[i].first = 1 + i * common->n;
		if ((err = pthread_create(&p[i].thread, NULL, produce, &p[i])) != 0)
			bench_die("pthread_create", err);
	}
}

void run_throughput(const struct workload *w, const struct contestant *c, struct result *r)
{
	struct producer *p = bench_alloc(w->producers * sizeof(*p));
	/* A block each, for some: as many bytes as for the others then. */
	uint64_t callbacks = w->kind == FLUSHING ? settings.callbacks / 64 + 1 : settings.callbacks;
	uint64_t n = (callbacks - 1) / w->producers + 1, total = n * w->producers;
	uint64_t cpu = 0, ended = 0, began = UINT64_MAX, producers_cpu = 0, own = 0;
	struct tally before = tally_now();
	pthread_barrier_t barrier;
	void *queue;

	if (w->kind == ALTERNATING && c->put != NULL)
		cannot(r, "its producers have one function");
	queue = create(w, c, r);
	pinning_begins();
	pthread_barrier_init(&barrier, NULL, w->producers + 1);
	start_producers(p, w, &(struct producer){
		.c = c, .queue = queue, .barrier = &barrier, .kind = w->kind, .n = n,
	});
	for (int i = 0; i < TIMES; i++) {
		pthread_barrier_wait(&barrier);
		cpu = process_cpu();
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		c->finish(queue);
		ended = now();
		cpu = process_cpu() - cpu;
	}
	for (unsigned i = 0; i < w->producers; i++) {
		pthread_join(p[i].thread, NULL);
		c->end(p[i].handle);
		if (p[i].began < began)
			began = p[i].began;
		producers_cpu += p[i].cpu;
		own += p[i].own;
	}
	pinning_ends();
	pthread_barrier_destroy(&barrier);
	c->destroy(queue);
	free(p);
	check_conserved(c, &before, total, TIMES, w->kind == ALTERNATING);

	r->metrics[0] = (double)(ended - began) / (double)total;
	r->metrics[1] = ((double)cpu - (double)own) / (double)total;
	r->metrics[2] = ((double)producers_cpu - (double)own) / (double)total;
}
