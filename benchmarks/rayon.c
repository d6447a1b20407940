/* SPDX-License-Identifier: BSD-2-Clause */
/* Rust's rayon, a work-stealing pool (on crossbeam-deque), by its ThreadPool::spawn: rivals.rs. */
#include <errno.h>
#include <stdlib.h>

#include "contestant.h"
#include "counts.h"

struct pool;

struct pool *rayon_new(unsigned workers, struct counts *counts);
void rayon_free(struct pool *pool);
void rayon_push(const struct pool *pool, bench_fn *fn, void *arg);

struct queue {
	struct counts counts;
	struct pool *pool;
};

struct producer {
	struct sent sent;
	struct queue *q;
};

static void *pool_create(unsigned workers)
{
	struct queue *q;

	if (workers == 0)
		return NULL; /* to rayon, 0 are as many as there are processors */
	q = counts_alloc(sizeof(*q));
	counts_init(&q->counts);
	q->pool = rayon_new(workers, &q->counts);
	if (q->pool == NULL)
		bench_die("rayon", EAGAIN);
	return q;
}

/* The workers are past their last callback, and know `counts` no more. */
static void pool_destroy(void *queue)
{
	struct queue *q = queue;

	rayon_free(q->pool);
	counts_destroy(&q->counts);
	free(q);
}

static void *pool_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	counts_begin(&p->q->counts, &p->sent);
	return p;
}

static void pool_end(void *producer)
{
	struct producer *p = producer;

	counts_end(&p->q->counts, &p->sent);
	free(p);
}

static int pool_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;

	p->sent.n++;
	rayon_push(p->q->pool, fn, arg);
	return 0;
}

static void pool_finish(void *queue)
{
	struct queue *q = queue;

	counts_wait_ones(&q->counts);
}

const struct contestant contestant_rayon = {
	.name = "rayon",
	.create = pool_create,
	.destroy = pool_destroy,
	.begin = pool_begin,
	.end = pool_end,
	.enqueue = pool_enqueue,
	.flush = bench_no_flush,
	.finish = pool_finish,
};
