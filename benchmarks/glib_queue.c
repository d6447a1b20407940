/* SPDX-License-Identifier: BSD-2-Clause */
/* GLib's GAsyncQueue, with workers of our own. It queues pointers (nodes.h). */
#include <glib.h>
#include <pthread.h>
#include <stdlib.h>

#include "contestant.h"
#include "counts.h"
#include "nodes.h"

struct callback {
	bench_fn *fn; /* NULL: the worker ends, and passes it on */
	void *arg;
};

struct queue {
	GAsyncQueue *q;
	struct counts counts;
	struct nodes nodes;
	unsigned nworkers;
	pthread_t workers[];
};

struct producer {
	struct sent sent;
	struct queue *q;
	struct node_cache cache;
};

static void run(struct queue *q, struct callback *c, struct node_cache *cache)
{
	c->fn(c->arg);
	node_put(&q->nodes, cache, c);
}

static void *work(void *arg)
{
	struct queue *q = arg;
	struct node_cache cache = { NULL, 0 };
	uint64_t ran = 0;

	for (;;) {
		struct callback *c = g_async_queue_try_pop(q->q);

		if (c == NULL) {
			counts_ran(&q->counts, ran);
			ran = 0;
			c = g_async_queue_pop(q->q);
		}
		if (c->fn == NULL) {
			g_async_queue_push(q->q, c);
			return NULL;
		}
		run(q, c, &cache);
		ran++;
	}
}

static void *queue_create(unsigned workers)
{
	struct queue *q = counts_alloc(sizeof(*q) + workers * sizeof(pthread_t));
	int err;

	q->q = g_async_queue_new();
	counts_init(&q->counts);
	nodes_init(&q->nodes, sizeof(struct callback));
	q->nworkers = workers;
	for (unsigned i = 0; i < workers; i++)
		if ((err = pthread_create(&q->workers[i], NULL, work, q)) != 0)
			bench_die("pthread_create", err);
	return q;
}

static void queue_destroy(void *queue)
{
	static struct callback stop;
	struct queue *q = queue;

	g_async_queue_push(q->q, &stop);
	for (unsigned i = 0; i < q->nworkers; i++)
		pthread_join(q->workers[i], NULL);
	g_async_queue_unref(q->q);
	nodes_destroy(&q->nodes);
	counts_destroy(&q->counts);
	free(q);
}

static void *queue_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	p->cache = (struct node_cache){ NULL, 0 };
	counts_begin(&p->q->counts, &p->sent);
	return p;
}

static void queue_end(void *producer)
{
	struct producer *p = producer;

	counts_end(&p->q->counts, &p->sent);
	free(p);
}

static int queue_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;
	struct callback *c = node_get(&p->q->nodes, &p->cache);

	c->fn = fn;
	c->arg = arg;
	p->sent.n++;
	g_async_queue_push(p->q->q, c);
	return 0;
}

static void queue_finish(void *queue)
{
	struct queue *q = queue;

	counts_wait(&q->counts);
}

static void queue_run_here(void *queue)
{
	struct queue *q = queue;
	struct node_cache cache = { NULL, 0 };
	struct callback *c;
	uint64_t n = 0;

	for (; (c = g_async_queue_try_pop(q->q)) != NULL; n++)
		run(q, c, &cache);
	counts_ran(&q->counts, n);
	if (cache.n != 0)
		nodes_give_back(&q->nodes, &cache);
}

const struct contestant contestant_glib_queue = {
	.name = "glib_queue",
	.create = queue_create,
	.destroy = queue_destroy,
	.begin = queue_begin,
	.end = queue_end,
	.enqueue = queue_enqueue,
	.flush = bench_no_flush,
	.finish = queue_finish,
	.run_here = queue_run_here,
};
