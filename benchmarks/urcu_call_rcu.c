/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * liburcu's call_rcu: callbacks run in a thread of the library, after a grace
 * period. With W workers there are W such threads, and each producer is given one,
 * in turn: more producers than workers share, fewer leave workers idle.
 */
#include <pthread.h>
#include <stdlib.h>
#include <urcu/compiler.h>
#include <urcu/urcu-memb.h>

#include "contestant.h"
#include "nodes.h"

struct callback {
	struct rcu_head head;
	bench_fn *fn;
	void *arg;
	struct nodes *nodes;
};

struct queue {
	struct nodes nodes;
	unsigned next; /* worker */
	unsigned nworkers;
	struct call_rcu_data *workers[];
};

struct producer {
	struct queue *q;
	struct node_cache cache;
};

/* A thread must leave before it ends; `end` is called by another one. */
static pthread_key_t registered;

static void leave(void *unused)
{
	(void)unused;
	urcu_memb_set_thread_call_rcu_data(NULL);
	urcu_memb_unregister_thread();
}

static void make_key(void)
{
	int err = pthread_key_create(&registered, leave);

	if (err != 0)
		bench_die("pthread_key_create", err);
}

static void join(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_key);
	if (pthread_getspecific(registered) != NULL)
		return;
	urcu_memb_register_thread();
	pthread_setspecific(registered, &registered);
}

static void run(struct rcu_head *head)
{
	static __thread struct node_cache cache; /* of a worker, which ends with its queue */
	struct callback *c = caa_container_of(head, struct callback, head);

	c->fn(c->arg);
	node_put(c->nodes, &cache, c);
}

static void *call_rcu_create(unsigned workers)
{
	struct queue *q;

	if (workers == 0)
		return NULL; /* no call runs them in the caller's thread */
	q = bench_alloc(sizeof(*q) + workers * sizeof(q->workers[0]));
	nodes_init(&q->nodes, sizeof(struct callback));
	q->next = 0;
	q->nworkers = workers;
	for (unsigned i = 0; i < workers; i++)
		q->workers[i] = urcu_memb_create_call_rcu_data(0, -1); /* aborts if it can't */
	return q;
}

static void call_rcu_destroy(void *queue)
{
	struct queue *q = queue;

	for (unsigned i = 0; i < q->nworkers; i++)
		urcu_memb_call_rcu_data_free(q->workers[i]);
	nodes_destroy(&q->nodes);
	free(q);
}

static void *call_rcu_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));
	unsigned nth;

	p->q = queue;
	p->cache = (struct node_cache){ NULL, 0 };
	nth = __atomic_fetch_add(&p->q->next, 1, __ATOMIC_RELAXED);
	join();
	urcu_memb_set_thread_call_rcu_data(p->q->workers[nth % p->q->nworkers]);
	return p;
}

static void call_rcu_end(void *p)
{
	urcu_memb_set_thread_call_rcu_data(NULL); /* where this was the producer's thread */
	free(p);
}

static int call_rcu_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;
	struct callback *c = node_get(&p->q->nodes, &p->cache);

	c->fn = fn;
	c->arg = arg;
	c->nodes = &p->q->nodes;
	urcu_memb_call_rcu(&c->head, run);
	return 0;
}

static void call_rcu_finish(void *queue)
{
	(void)queue;
	urcu_memb_barrier();
}

const struct contestant contestant_urcu_call_rcu = {
	.name = "urcu_call_rcu",
	.create = call_rcu_create,
	.destroy = call_rcu_destroy,
	.begin = call_rcu_begin,
	.end = call_rcu_end,
	.enqueue = call_rcu_enqueue,
	.flush = bench_no_flush,
	.finish = call_rcu_finish,
};
