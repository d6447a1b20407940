/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W5, memory: what a callback takes while very many of them wait, and what is
 * kept afterwards. By two witnesses: what the process has resident, and what
 * malloc has given out. The former counts pages that malloc keeps although all in
 * them was freed; the latter doesn't see what a queue gets by mmap.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "measure.h"
#include "workload.h"

struct memory {
	double resident, given;
};

static double resident(void)
{
	static long page;
	unsigned long total, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (page == 0)
		page = sysconf(_SC_PAGESIZE);
	if (f == NULL || fscanf(f, "%lu %lu", &total, &pages) != 2)
		bench_die("/proc/self/statm", errno);
	fclose(f);
	return (double)pages * (double)page;
}

static struct memory memory_now(void)
{
	struct mallinfo2 m = mallinfo2();

	return (struct memory){ resident(), (double)m.uordblks + (double)m.hblkhd };
}

static void note(struct result *r, unsigned metric, const struct memory *before, double per)
{
	struct memory is = memory_now();

	r->metrics[metric] = (is.resident - before->resident) / per;
	r->metrics[metric + 1] = (is.given - before->given) / per;
}

/* For a queue that can't be without workers, and has no put: holds its only one. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void wait_at_gate(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
}

static void hold(const struct contestant *c, void *producer, bool gated)
{
	if (!gated)
		return;
	pthread_mutex_lock(&gate);
	enqueue(c, producer, wait_at_gate, NULL);
	c->flush(producer);
}

static void run_all(const struct contestant *c, void *queue, bool gated)
{
	if (!gated) {
		c->run_here(queue);
		return;
	}
	pthread_mutex_unlock(&gate);
	c->finish(queue);
}

static void *new_queue(const struct workload *w, const struct contestant *c, struct result *r,
    bool *gated)
{
	void *queue = c->create(0);

	*gated = queue == NULL;
	return *gated ? create(w, c, r) : queue;
}

/* In bytes; a machine that doesn't say is taken to have enough. */
static double available(void)
{
	char line[128];
	double kib = 1e15;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "MemAvailable: %lf", &kib) == 1)
			break;
	if (f != NULL)
		fclose(f);
	return kib * 1024;
}

/* Some callbacks, by which one can tell whether the many will fit. */
static void warm_up(const struct workload *w, const struct contestant *c, struct result *r)
{
	enum { SOME = 20000 };
	bool gated;
	double before = resident(), took;
	void *queue = new_queue(w, c, r, &gated), *producer = begin_one(c, queue, count);

	hold(c, producer, gated);
	enqueue_numbers(c, producer, 1, SOME);
	took = resident() - before;
	run_all(c, queue, gated);
	c->end(producer);
	c->destroy(queue);
	malloc_trim(0); /* or the many would find their first pages here */
	if (took / SOME * (double)settings.queued > available() / 2)
		cannot(r, "so many of its callbacks don't fit the memory");
}

void run_memory(const struct workload *w, const struct contestant *c, struct result *r)
{
	uint64_t n = settings.queued;
	struct tally begun;
	struct memory before;
	void *queue, *producer;
	bool gated, alternating = w->kind == ALTERNATING;

	if (alternating && c->put != NULL)
		cannot(r, "its producers have one function");
	/* What is made once, and what malloc keeps at hand for a thread, which it counts
	   as given out. */
	warm_up(w, c, r);
	begun = tally_now();
	memory_now();
	before = memory_now();

	queue = new_queue(w, c, r, &gated);
	producer = alternating ? c->begin(queue) : begin_one(c, queue, count);
	hold(c, producer, gated);
	(alternating ? enqueue_alternating : enqueue_numbers)(c, producer, 1, n);
	note(r, 0, &before, (double)n);
	run_all(c, queue, gated);
	note(r, 2, &before, 1024);
	if (c->trim != NULL) {
		c->trim(queue);
		note(r, 4, &before, 1024);
	}
	c->end(producer);
	c->destroy(queue);
	note(r, 6, &before, 1024);
	malloc_trim(0);
	r->metrics[8] = (resident() - before.resident) / 1024;
	check_conserved(c, &begun, n, 1, alternating);
}
