/* SPDX-License-Identifier: BSD-2-Clause */
/* Rust's crossbeam-channel, without bound, and workers that receive from it: rivals.rs. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "contestant.h"
#include "counts.h"

struct channel;

struct channel *crossbeam_new(unsigned workers, struct counts *counts);
void crossbeam_free(struct channel *channel);
bool crossbeam_send(const struct channel *channel, bench_fn *fn, void *arg);
void crossbeam_run_here(const struct channel *channel);

struct queue {
	struct counts counts;
	struct channel *channel;
};

struct producer {
	struct sent sent;
	struct queue *q;
};

static void *channel_create(unsigned workers)
{
	struct queue *q = counts_alloc(sizeof(*q));

	counts_init(&q->counts);
	q->channel = crossbeam_new(workers, &q->counts);
	return q;
}

static void channel_destroy(void *queue)
{
	struct queue *q = queue;

	crossbeam_free(q->channel);
	counts_destroy(&q->counts);
	free(q);
}

static void *channel_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	counts_begin(&p->q->counts, &p->sent);
	return p;
}

static void channel_end(void *producer)
{
	struct producer *p = producer;

	counts_end(&p->q->counts, &p->sent);
	free(p);
}

static int channel_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;

	p->sent.n++;
	return crossbeam_send(p->q->channel, fn, arg) ? 0 : EPIPE;
}

static void channel_finish(void *queue)
{
	struct queue *q = queue;

	counts_wait(&q->counts);
}

static void channel_run_here(void *queue)
{
	struct queue *q = queue;

	crossbeam_run_here(q->channel);
}

const struct contestant contestant_crossbeam = {
	.name = "crossbeam",
	.create = channel_create,
	.destroy = channel_destroy,
	.begin = channel_begin,
	.end = channel_end,
	.enqueue = channel_enqueue,
	.flush = bench_no_flush,
	.finish = channel_finish,
	.run_here = channel_run_here,
};
