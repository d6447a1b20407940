/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * liburcu's wait-free queue, as its own call_rcu uses it: enqueue is one exchange,
 * a worker takes all there is at once (splice), and sleeps on a futex. The queue
 * links the caller's memory (nodes.h).
 */
#define _LGPL_SOURCE /* has the operations inlined */
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <urcu/wfcqueue.h>

#include "contestant.h"
#include "counts.h"
#include "nodes.h"

#define LINE __attribute__((aligned(64)))

struct callback {
	struct cds_wfcq_node link; /* first */
	bench_fn *fn;
	void *arg;
};

struct queue {
	struct cds_wfcq_tail tail LINE;
	struct cds_wfcq_head head LINE; /* with the workers' lock */
	uint32_t sleeping LINE;	/* workers that said they would, less those woken */
	uint32_t wakes;		/* the futex */
	struct counts counts;
	struct nodes nodes;
	bool stop;
	unsigned nworkers;
	pthread_t workers[];
};

struct producer {
	struct sent sent;
	struct queue *q;
	struct node_cache cache;
};

/* Returns how many there were. */
static uint64_t run_all(struct queue *q, struct node_cache *cache)
{
	struct __cds_wfcq_head head;
	struct cds_wfcq_tail tail;
	struct cds_wfcq_node *link, *next;
	uint64_t n = 0;

	__cds_wfcq_init(&head, &tail);
	cds_wfcq_dequeue_lock(&q->head, &q->tail);
	__cds_wfcq_splice_blocking(&head, &tail, &q->head, &q->tail);
	cds_wfcq_dequeue_unlock(&q->head, &q->tail);
	__cds_wfcq_for_each_blocking_safe(&head, &tail, link, next) {
		struct callback *c = (struct callback *)link;

		c->fn(c->arg);
		node_put(&q->nodes, cache, c);
		n++;
	}
	return n;
}

/* Takes one off `sleeping`, if there is one. */
static bool claim_sleeper(struct queue *q)
{
	uint32_t n = __atomic_load_n(&q->sleeping, __ATOMIC_SEQ_CST);

	while (n != 0)
		if (__atomic_compare_exchange_n(&q->sleeping, &n, n - 1, false, __ATOMIC_SEQ_CST,
		    __ATOMIC_SEQ_CST))
			return true;
	return false;
}

static void wake(struct queue *q)
{
	if (!claim_sleeper(q))
		return;
	__atomic_add_fetch(&q->wakes, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &q->wakes, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool is_stopped(const struct queue *q)
{
	return __atomic_load_n(&q->stop, __ATOMIC_SEQ_CST);
}

/* Until a wake that began after the look, at the latest. */
static void sleep_if_empty(struct queue *q)
{
	uint32_t seen = __atomic_load_n(&q->wakes, __ATOMIC_SEQ_CST);

	__atomic_add_fetch(&q->sleeping, 1, __ATOMIC_SEQ_CST);
	if (cds_wfcq_empty(cds_wfcq_head_cast(&q->head), &q->tail) && !is_stopped(q))
		syscall(SYS_futex, &q->wakes, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
	else
		claim_sleeper(q); /* itself; or a wake is under way, for whomever */
}

static void *work(void *arg)
{
	struct queue *q = arg;
	struct node_cache cache = { NULL, 0 };

	while (!is_stopped(q)) {
		uint64_t n = run_all(q, &cache);

		counts_ran(&q->counts, n);
		if (n == 0)
			sleep_if_empty(q);
	}
	return NULL;
}

static void *wfcq_create(unsigned workers)
{
	struct queue *q = counts_alloc(sizeof(*q) + workers * sizeof(pthread_t));
	int err;

	cds_wfcq_init(&q->head, &q->tail);
	q->sleeping = q->wakes = 0;
	counts_init(&q->counts);
	nodes_init(&q->nodes, sizeof(struct callback));
	q->stop = false;
	q->nworkers = workers;
	for (unsigned i = 0; i < workers; i++)
		if ((err = pthread_create(&q->workers[i], NULL, work, q)) != 0)
			bench_die("pthread_create", err);
	return q;
}

static void wfcq_destroy(void *queue)
{
	struct queue *q = queue;

	__atomic_store_n(&q->stop, true, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < q->nworkers; i++)
		wake(q);
	for (unsigned i = 0; i < q->nworkers; i++)
		pthread_join(q->workers[i], NULL);
	cds_wfcq_destroy(&q->head, &q->tail);
	nodes_destroy(&q->nodes);
	counts_destroy(&q->counts);
	free(q);
}

static void *wfcq_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	p->cache = (struct node_cache){ NULL, 0 };
	counts_begin(&p->q->counts, &p->sent);
	return p;
}

static void wfcq_end(void *producer)
{
	struct producer *p = producer;

	counts_end(&p->q->counts, &p->sent);
	free(p);
}

static int wfcq_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;
	struct callback *c = node_get(&p->q->nodes, &p->cache);

	c->fn = fn;
	c->arg = arg;
	p->sent.n++;
	cds_wfcq_node_init(&c->link);
	cds_wfcq_enqueue(cds_wfcq_head_cast(&p->q->head), &p->q->tail, &c->link); /* a full barrier */
	if (__atomic_load_n(&p->q->sleeping, __ATOMIC_SEQ_CST) != 0)
		wake(p->q);
	return 0;
}

static void wfcq_finish(void *queue)
{
	struct queue *q = queue;

	counts_wait(&q->counts);
}

static void wfcq_run_here(void *queue)
{
	struct queue *q = queue;
	struct node_cache cache = { NULL, 0 };

	counts_ran(&q->counts, run_all(q, &cache));
	if (cache.n != 0)
		nodes_give_back(&q->nodes, &cache);
}

const struct contestant contestant_urcu_wfcqueue = {
	.name = "urcu_wfcqueue",
	.create = wfcq_create,
	.destroy = wfcq_destroy,
	.begin = wfcq_begin,
	.end = wfcq_end,
	.enqueue = wfcq_enqueue,
	.flush = bench_no_flush,
	.finish = wfcq_finish,
	.run_here = wfcq_run_here,
};
