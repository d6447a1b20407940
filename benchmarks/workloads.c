/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* affinity */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workload.h"

/* ------------------------------------------------------------------ pinning */

/*
 * In W1 every producer, and every worker as it runs its first callback, binds
 * itself to the next processor of those that the process had. Left to the
 * scheduler, a run has its threads side by side or all on one processor, by
 * chance, and the two differ by a factor of three.
 */
bool pinning = true;

static cpu_set_t allowed; /* empty: no pinning now */
static unsigned next_processor;

static void pinning_begins(void)
{
	if (pinning && sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
		bench_die("sched_getaffinity", errno);
	next_processor = 0;
}

static void pinning_ends(void)
{
	CPU_ZERO(&allowed);
}

static void pin_to_next(void)
{
	unsigned nth = __atomic_fetch_add(&next_processor, 1, __ATOMIC_RELAXED);
	unsigned n = (unsigned)CPU_COUNT(&allowed);
	int cpu = -1;
	cpu_set_t one;

	if (n == 0)
		return;
	for (unsigned left = nth % n + 1; left != 0; left--)
		do
			cpu++;
		while (!CPU_ISSET(cpu, &allowed));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one) != 0) /* 0: this thread */
		bench_die("sched_setaffinity", errno);
}

/* ------------------------------------------------------------- conservation */

/* What callbacks a thread has run. They are the powers 0, 1 and 2 of their
   numbers, summed: no slip of a queue leaves all three as they should be. */
struct tally {
	uint64_t sums[3];
	struct tally *next;
} __attribute__((aligned(64)));

static struct tally *tallies; /* of all threads that ever ran one */
static __thread struct tally *mine;

static void new_tally(void)
{
	pin_to_next();
	mine = aligned_alloc(64, sizeof(*mine));
	if (mine == NULL)
		bench_die("aligned_alloc", ENOMEM);
	memset(mine, 0, sizeof(*mine));
	mine->next = __atomic_load_n(&tallies, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&tallies, &mine->next, mine, false, __ATOMIC_RELEASE,
	    __ATOMIC_RELAXED))
		;
}

static void add_number(struct tally *t, uint64_t number)
{
	t->sums[0] += 1;
	t->sums[1] += number;
	t->sums[2] += number * number;
}

/* The callback of W1 and W2: as little work as shows that it ran, and once. */
static void count(void *arg)
{
	if (mine == NULL)
		new_tally();
	add_number(mine, (uintptr_t)arg);
}

/* While no callback runs. */
static struct tally tally_now(void)
{
	struct tally sum = { { 0 }, NULL };

	for (struct tally *t = __atomic_load_n(&tallies, __ATOMIC_ACQUIRE); t != NULL; t = t->next)
		for (int i = 0; i < 3; i++)
			sum.sums[i] += t->sums[i];
	return sum;
}

static _Noreturn void not_conserved(const struct contestant *c)
{
	fprintf(stderr, "bench: %s: a callback was lost, or ran twice\n", c->name);
	exit(1);
}

/* Since `before`, the callbacks 1 .. n must have run, `times` times each. */
static void check_conserved(const struct contestant *c, const struct tally *before, uint64_t n,
    uint64_t times)
{
	struct tally want = { { 0 }, NULL }, now = tally_now();

	for (uint64_t number = 1; number <= n; number++)
		add_number(&want, number);
	for (int i = 0; i < 3; i++)
		if (now.sums[i] - before->sums[i] != want.sums[i] * times)
			not_conserved(c);
}

/* ------------------------------------------------------------------- clocks */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double percentile(uint64_t *sorted, unsigned n, unsigned percent)
{
	return (double)sorted[(uint64_t)(n - 1) * percent / 100];
}

static void enqueue(const struct contestant *c, void *producer, bench_fn *fn, void *arg)
{
	int err = c->enqueue(producer, fn, arg);

	if (err != 0)
		bench_die(c->name, err);
}

static void enqueue_numbers(const struct contestant *c, void *producer, uint64_t first, uint64_t n)
{
	for (uint64_t number = first; number < first + n; number++)
		enqueue(c, producer, count, (void *)(uintptr_t)number);
}

/* ----------------------------------------------------------- W1, throughput */

/*
 * P threads enqueue as fast as they can, and W workers run it. Twice on the same
 * queue: the first time makes the workers and the blocks, the second is measured.
 */
struct producer {
	const struct contestant *c;
	void *queue, *handle;
	pthread_barrier_t *barrier;
	uint64_t first, n;	/* which numbers */
	uint64_t began, cpu;	/* of the last time */
	pthread_t thread;
};

enum { TIMES = 2 };

static void *produce(void *arg)
{
	struct producer *p = arg;

	pin_to_next();
	p->handle = p->c->begin(p->queue);
	for (int i = 0; i < TIMES; i++) {
		pthread_barrier_wait(p->barrier);
		p->began = now();
		p->cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
		enqueue_numbers(p->c, p->handle, p->first, p->n);
		p->cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - p->cpu;
		pthread_barrier_wait(p->barrier);
	}
	return NULL;
}

static void throughput(const struct workload *w, const struct contestant *c,
    unsigned long callbacks, double metrics[MAX_METRICS])
{
	struct producer *p = bench_alloc(w->producers * sizeof(*p));
	uint64_t n = (callbacks - 1) / w->producers + 1, total = n * w->producers;
	uint64_t cpu = 0, ended = 0, began = UINT64_MAX, producers_cpu = 0;
	struct tally before = tally_now();
	pthread_barrier_t barrier;
	void *queue = c->create(w->workers);
	int err;

	pinning_begins();
	pthread_barrier_init(&barrier, NULL, w->producers + 1);
	for (unsigned i = 0; i < w->producers; i++) {
		p[i] = (struct producer){
			.c = c, .queue = queue, .barrier = &barrier, .first = 1 + i * n, .n = n,
		};
		if ((err = pthread_create(&p[i].thread, NULL, produce, &p[i])) != 0)
			bench_die("pthread_create", err);
	}
	for (int i = 0; i < TIMES; i++) {
		cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		c->finish(queue);
		ended = now();
		cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	}
	for (unsigned i = 0; i < w->producers; i++) {
		pthread_join(p[i].thread, NULL);
		c->end(p[i].handle);
		if (p[i].began < began)
			began = p[i].began;
		producers_cpu += p[i].cpu;
	}
	pinning_ends();
	pthread_barrier_destroy(&barrier);
	c->destroy(queue);
	free(p);
	check_conserved(c, &before, total, TIMES);

	metrics[0] = (double)(ended - began) / (double)total;
	metrics[1] = (double)cpu / (double)total;
	metrics[2] = (double)producers_cpu / (double)total;
}

/* --------------------------------------------------- W2, the producer alone */

/*
 * One thread enqueues a batch that fits the nearest caches, on the clock, and runs
 * it, off the clock, so that each batch is written to memory that the last one has
 * given back. The median of the batches is robust against being interrupted.
 */
enum { BATCH = 3000, WARM_BATCHES = 10 };

static void alone(const struct workload *w, const struct contestant *c, unsigned long callbacks,
    double metrics[MAX_METRICS])
{
	unsigned batches = (unsigned)(callbacks / BATCH) + 1;
	uint64_t *took = bench_alloc(batches * sizeof(*took));
	struct tally before = tally_now();
	void *queue = c->create(w->workers);
	void *producer = c->begin(queue);

	for (unsigned i = 0; i < WARM_BATCHES + batches; i++) {
		uint64_t began = now(), ended;

		enqueue_numbers(c, producer, 1, BATCH);
		ended = now();
		if (i >= WARM_BATCHES)
			took[i - WARM_BATCHES] = ended - began;
		c->run_here(queue);
	}
	c->end(producer);
	c->destroy(queue);
	check_conserved(c, &before, BATCH, WARM_BATCHES + batches);

	qsort(took, batches, sizeof(*took), by_value);
	metrics[0] = percentile(took, batches, 50) / BATCH;
	free(took);
}

/* ----------------------------------------------------- W3, waking a worker */

/*
 * One callback at a time after a gap in which the worker has gone to sleep: from
 * the call of enqueue until it runs, and how long enqueue and flush kept the
 * producer.
 */
enum { SAMPLES = 300, WARM_SAMPLES = 20, GAP_NS = 1000000 };

struct sample {
	uint64_t enqueued, flushed, ran;
	unsigned times;
};

static void stamp(void *arg)
{
	struct sample *s = arg;

	s->ran = now();
	s->times++;
}

static void sleep_until(uint64_t at)
{
	struct timespec t = { (time_t)(at / 1000000000), (long)(at % 1000000000) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void wake(const struct workload *w, const struct contestant *c, unsigned long callbacks,
    double metrics[MAX_METRICS])
{
	struct sample *s = calloc(WARM_SAMPLES + SAMPLES, sizeof(*s)), *warm;
	uint64_t to_run[SAMPLES], to_submit[SAMPLES];
	void *queue = c->create(w->workers);
	void *producer = c->begin(queue);

	(void)callbacks;
	if (s == NULL)
		bench_die("calloc", ENOMEM);
	for (unsigned i = 0; i < WARM_SAMPLES + SAMPLES; i++) {
		sleep_until(now() + GAP_NS);
		s[i].enqueued = now();
		enqueue(c, producer, stamp, &s[i]);
		c->flush(producer);
		s[i].flushed = now();
	}
	c->finish(queue);
	c->end(producer);
	c->destroy(queue);

	for (unsigned i = 0; i < WARM_SAMPLES + SAMPLES; i++)
		if (s[i].times != 1)
			not_conserved(c);
	warm = s + WARM_SAMPLES;
	for (unsigned i = 0; i < SAMPLES; i++) {
		to_run[i] = warm[i].ran - warm[i].enqueued;
		to_submit[i] = warm[i].flushed - warm[i].enqueued;
	}
	free(s);
	qsort(to_run, SAMPLES, sizeof(to_run[0]), by_value);
	qsort(to_submit, SAMPLES, sizeof(to_submit[0]), by_value);
	metrics[0] = percentile(to_run, SAMPLES, 50);
	metrics[1] = percentile(to_run, SAMPLES, 99);
	metrics[2] = percentile(to_submit, SAMPLES, 50);
}

const struct workload workloads[] = {
	{ "W1", 1, 1, { "wall", "cpu", "producer" }, throughput },
	{ "W1", 1, 2, { "wall", "cpu", "producer" }, throughput },
	{ "W1", 2, 2, { "wall", "cpu", "producer" }, throughput },
	{ "W1", 4, 4, { "wall", "cpu", "producer" }, throughput },
	{ "W2", 1, 0, { "enqueue" }, alone },
	{ "W3", 1, 1, { "run_p50", "run_p99", "submit_p50" }, wake },
	{ .name = NULL },
};
