/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * GLib's GThreadPool, exclusive: it makes all its threads at once, and shares none.
 * It queues pointers (nodes.h).
 */
#include <errno.h>
#include <glib.h>
#include <stdlib.h>

#include "contestant.h"
#include "counts.h"
#include "nodes.h"

struct callback {
	bench_fn *fn;
	void *arg;
};

struct queue {
	GThreadPool *pool;
	struct counts counts;
	struct nodes nodes;
};

struct producer {
	struct sent sent;
	struct queue *q;
	struct node_cache cache;
};

static void run(void *callback, void *queue)
{
	static __thread struct node_cache cache; /* of a worker, which ends with its queue */
	struct callback *c = callback;
	struct queue *q = queue;

	c->fn(c->arg);
	node_put(&q->nodes, &cache, c);
	counts_ran_one(&q->counts); /* nothing tells when a worker finds no more */
}

static void *pool_create(unsigned workers)
{
	struct queue *q;

	if (workers == 0)
		return NULL; /* no call runs them in the caller's thread */
	q = counts_alloc(sizeof(*q));
	counts_init(&q->counts);
	nodes_init(&q->nodes, sizeof(struct callback));
	g_thread_pool_set_max_unused_threads(0); /* or they would go on to another pool */
	q->pool = g_thread_pool_new(run, q, (int)workers, TRUE, NULL);
	if (q->pool == NULL)
		bench_die("g_thread_pool_new", EAGAIN);
	return q;
}

static void pool_destroy(void *queue)
{
	struct queue *q = queue;

	g_thread_pool_free(q->pool, FALSE, TRUE);
	nodes_destroy(&q->nodes);
	counts_destroy(&q->counts);
	free(q);
}

static void *pool_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	p->cache = (struct node_cache){ NULL, 0 };
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
	struct callback *c = node_get(&p->q->nodes, &p->cache);

	c->fn = fn;
	c->arg = arg;
	p->sent.n++;
	return g_thread_pool_push(p->q->pool, c, NULL) ? 0 : EAGAIN;
}

static void pool_finish(void *queue)
{
	struct queue *q = queue;

	counts_wait_ones(&q->counts);
}

const struct contestant contestant_glib_pool = {
	.name = "glib_pool",
	.create = pool_create,
	.destroy = pool_destroy,
	.begin = pool_begin,
	.end = pool_end,
	.enqueue = pool_enqueue,
	.flush = bench_no_flush,
	.finish = pool_finish,
};
