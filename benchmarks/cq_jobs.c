/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The layers below the cleanup queue, each with jobs one by one on a cq_workq_t (nodes.h):
 *
 *   cq_pool      layer 3: the queue is one task of a pool, signalled for each job
 *   cq_sleepers  layers 1 and 2: README's pattern, workers of our own
 *   cq_condvar   the same with a mutex and a condition variable in place of layer 2
 */
#include <cq/cq.h>
#include <errno.h>
#include <stdlib.h>

#include "contestant.h"
#include "counts.h"
#include "nodes.h"

struct job {
	cq_node_t link;
	bench_fn *fn;
	void *arg;
};
CQ_NODE_CONTAINER(struct job, link, job_of)

struct queue {
	cq_workq_t jobs;
	struct counts counts;
	struct nodes nodes;
	/* cq_pool: */
	cq_pool_t *pool;
	cq_task_t *task;
	/* the others: */
	cq_sleepers_t idle;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool stop;
	unsigned nworkers;
	pthread_t workers[];
};

struct producer {
	struct sent sent;
	struct queue *q;
	struct node_cache cache;
};

/* Of a worker, which ends with its queue; or of run_here, which gives back what is in it. */
static __thread struct node_cache cache;

static void check(int err, const char *what)
{
	if (err != 0)
		bench_die(what, err);
}

static struct queue *new_queue(unsigned workers)
{
	struct queue *q = counts_alloc(sizeof(*q) + workers * sizeof(pthread_t));

	check(cq_workq_init(&q->jobs), "cq_workq_init");
	check(cq_sleepers_init(&q->idle, NULL, 0), "cq_sleepers_init");
	counts_init(&q->counts);
	nodes_init(&q->nodes, sizeof(struct job));
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	q->stop = false;
	q->nworkers = 0;
	return q;
}

static void free_queue(struct queue *q)
{
	check(cq_workq_destroy(&q->jobs), "cq_workq_destroy");
	check(cq_sleepers_destroy(&q->idle), "cq_sleepers_destroy");
	pthread_cond_destroy(&q->more);
	pthread_mutex_destroy(&q->lock);
	nodes_destroy(&q->nodes);
	counts_destroy(&q->counts);
	free(q);
}

static void run_job(struct queue *q, cq_node_t *node)
{
	struct job *job = job_of(node);

	job->fn(job->arg);
	node_put(&q->nodes, &cache, job);
}

/* ------------------------------------------------------------------------ producers */

static void *begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	p->cache = (struct node_cache){ NULL, 0 };
	counts_begin(&p->q->counts, &p->sent);
	return p;
}

static void end(void *producer)
{
	struct producer *p = producer;

	counts_end(&p->q->counts, &p->sent);
	free(p);
}

static void push(struct producer *p, bench_fn *fn, void *arg)
{
	struct job *job = node_get(&p->q->nodes, &p->cache);

	job->fn = fn;
	job->arg = arg;
	p->sent.n++;
	cq_workq_push(&p->q->jobs, &job->link);
}

static void finish(void *queue)
{
	struct queue *q = queue;

	counts_wait(&q->counts);
}

/* -------------------------------------------------------------------------- cq_pool */

static void run_jobs(cq_run_t *run, void *queue)
{
	struct queue *q = queue;
	cq_node_t *node;
	uint64_t n = 0;

	while ((node = cq_workq_try_pop(&q->jobs)) != NULL) {
		cq_run_more(run, cq_workq_units(&q->jobs));
		cq_run_piece(run, node);
		run_job(q, node);
		cq_run_piece(run, NULL);
		n++;
		if (!cq_run_may_continue(run))
			break;
	}
	counts_ran(&q->counts, n);
}

static void *pool_create(unsigned workers)
{
	static const cq_task_ops_t ops = { .run = run_jobs };
	cq_pool_config_t config = {
		.flags = workers == 0 ? CQ_POOL_POLLED : 0,
		.workers_max = workers,
		.idle_ns = CQ_FOREVER,
	};
	struct queue *q = new_queue(0);

	check(cq_pool_create(&config, &q->pool), "cq_pool_create");
	check(cq_task_create(q->pool, &ops, q, 0, &q->task), "cq_task_create");
	return q;
}

static void pool_destroy(void *queue)
{
	struct queue *q = queue;

	check(cq_task_close(q->task, CQ_FOREVER), "cq_task_close");
	check(cq_pool_destroy(q->pool, CQ_FOREVER), "cq_pool_destroy");
	free_queue(q);
}

static int pool_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;

	push(p, fn, arg);
	return cq_task_signal(p->q->task);
}

static void pool_run_here(void *queue)
{
	struct queue *q = queue;

	cq_pool_run_some(q->pool, SIZE_MAX);
	if (cache.n != 0)
		nodes_give_back(&q->nodes, &cache);
}

/* ----------------------------------------------------------------- workers of our own */

static void start_workers(struct queue *q, unsigned workers, void *(*body)(void *q))
{
	for (; q->nworkers < workers; q->nworkers++)
		check(pthread_create(&q->workers[q->nworkers], NULL, body, q), "pthread_create");
}

static void join_workers(struct queue *q)
{
	for (unsigned i = 0; i < q->nworkers; i++)
		pthread_join(q->workers[i], NULL);
	free_queue(q);
}

static void run_here(void *queue)
{
	struct queue *q = queue;
	cq_node_t *node;
	uint64_t n = 0;

	for (; (node = cq_workq_try_pop(&q->jobs)) != NULL; n++)
		run_job(q, node);
	counts_ran(&q->counts, n);
	if (cache.n != 0)
		nodes_give_back(&q->nodes, &cache);
}

/* ---------------------------------------------------------------------- cq_sleepers */

/* README's, but for the counting. NULL: stopped. */
static cq_node_t *wait_for_job(struct queue *q, cq_sleeper_t *me, uint64_t *ran)
{
	cq_wait_result_t result = CQ_AGAIN;
	cq_node_t *node;

	while ((node = cq_workq_try_pop(&q->jobs)) == NULL && result != CQ_STOPPED) {
		counts_ran(&q->counts, *ran);
		*ran = 0;
		cq_sleepers_prepare_wait(&q->idle, me);
		if ((node = cq_workq_try_pop(&q->jobs)) != NULL) {
			cq_sleepers_cancel_wait(&q->idle, me);
			break;
		}
		result = cq_sleepers_commit_wait(&q->idle, me, CQ_FOREVER);
	}
	if (node != NULL && cq_workq_units(&q->jobs) != 0)
		cq_sleepers_ensure(&q->idle, 1);
	return node;
}

static void *sleepers_work(void *queue)
{
	struct queue *q = queue;
	cq_sleeper_t me;
	cq_node_t *node;
	uint64_t ran = 0;

	cq_sleeper_init(&me, NULL);
	for (; (node = wait_for_job(q, &me, &ran)) != NULL; ran++)
		run_job(q, node);
	return NULL;
}

static void *sleepers_create(unsigned workers)
{
	struct queue *q = new_queue(workers);

	start_workers(q, workers, sleepers_work);
	return q;
}

static void sleepers_destroy(void *queue)
{
	struct queue *q = queue;

	cq_sleepers_stop(&q->idle);
	join_workers(q);
}

static int sleepers_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;

	push(p, fn, arg);
	cq_sleepers_ensure(&p->q->idle, 1);
	return 0;
}

/* ----------------------------------------------------------------------- cq_condvar */

static void sleep_if_empty(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	while (cq_workq_units(&q->jobs) == 0 && !q->stop)
		pthread_cond_wait(&q->more, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void *condvar_work(void *queue)
{
	struct queue *q = queue;
	cq_node_t *node;
	uint64_t ran = 0;

	for (;;) {
		for (; (node = cq_workq_try_pop(&q->jobs)) != NULL; ran++)
			run_job(q, node);
		counts_ran(&q->counts, ran);
		ran = 0;
		sleep_if_empty(q);
		if (cq_workq_units(&q->jobs) == 0 && __atomic_load_n(&q->stop, __ATOMIC_RELAXED))
			return NULL;
	}
}

static void *condvar_create(unsigned workers)
{
	struct queue *q = new_queue(workers);

	start_workers(q, workers, condvar_work);
	return q;
}

static void condvar_destroy(void *queue)
{
	struct queue *q = queue;

	pthread_mutex_lock(&q->lock);
	__atomic_store_n(&q->stop, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&q->more);
	pthread_mutex_unlock(&q->lock);
	join_workers(q);
}

static int condvar_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;
	struct queue *q = p->q;

	push(p, fn, arg);
	/* The lock: a worker that has seen no job is in its wait by then. */
	pthread_mutex_lock(&q->lock);
	pthread_cond_signal(&q->more);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

#define REST .begin = begin, .end = end, .flush = bench_no_flush, .finish = finish

const struct contestant contestant_cq_pool = {
	.name = "cq_pool", .create = pool_create, .destroy = pool_destroy, .enqueue = pool_enqueue,
	.run_here = pool_run_here, REST
};
const struct contestant contestant_cq_sleepers = {
	.name = "cq_sleepers", .create = sleepers_create, .destroy = sleepers_destroy,
	.enqueue = sleepers_enqueue, .run_here = run_here, REST
};
const struct contestant contestant_cq_condvar = {
	.name = "cq_condvar", .create = condvar_create, .destroy = condvar_destroy,
	.enqueue = condvar_enqueue, .run_here = run_here, REST
};
