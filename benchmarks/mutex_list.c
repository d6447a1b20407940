/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What most programs write first: a mutex, a condition variable, and a list to
 * which each callback is malloced, and from which workers take one at a time.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "contestant.h"

struct item {
	struct item *next;
	bench_fn *fn;
	void *arg;
};

struct list {
	pthread_mutex_t lock;
	pthread_cond_t more;	/* for workers */
	pthread_cond_t done;	/* for finish */
	struct item *first, **last;
	unsigned busy;		/* workers inside a callback */
	bool stop;
	unsigned nworkers;
	pthread_t workers[];
};

/* With the lock held, and again on return. */
static void run_first(struct list *q)
{
	struct item *i = q->first;

	q->first = i->next;
	if (q->first == NULL)
		q->last = &q->first;
	q->busy++;
	pthread_mutex_unlock(&q->lock);
	i->fn(i->arg);
	free(i);
	pthread_mutex_lock(&q->lock);
	q->busy--;
}

static void *work(void *arg)
{
	struct list *q = arg;

	pthread_mutex_lock(&q->lock);
	while (!q->stop) {
		if (q->first != NULL) {
			run_first(q);
			continue;
		}
		if (q->busy == 0)
			pthread_cond_signal(&q->done);
		pthread_cond_wait(&q->more, &q->lock);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

static void *list_create(unsigned workers)
{
	struct list *q = bench_alloc(sizeof(*q) + workers * sizeof(pthread_t));
	int err;

	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	pthread_cond_init(&q->done, NULL);
	q->first = NULL;
	q->last = &q->first;
	q->busy = 0;
	q->stop = false;
	q->nworkers = workers;
	for (unsigned i = 0; i < workers; i++)
		if ((err = pthread_create(&q->workers[i], NULL, work, q)) != 0)
			bench_die("pthread_create", err);
	return q;
}

static void list_destroy(void *queue)
{
	struct list *q = queue;

	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_broadcast(&q->more);
	pthread_mutex_unlock(&q->lock);
	for (unsigned i = 0; i < q->nworkers; i++)
		pthread_join(q->workers[i], NULL);
	pthread_cond_destroy(&q->done);
	pthread_cond_destroy(&q->more);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

/* The queue itself is the producer. */
static void *list_begin(void *q)
{
	return q;
}

static void list_end(void *q)
{
	(void)q;
}

static int list_enqueue(void *queue, bench_fn *fn, void *arg)
{
	struct list *q = queue;
	struct item *i = bench_alloc(sizeof(*i));

	*i = (struct item){ NULL, fn, arg };
	pthread_mutex_lock(&q->lock);
	*q->last = i;
	q->last = &i->next;
	pthread_mutex_unlock(&q->lock);
	pthread_cond_signal(&q->more);
	return 0;
}

static void list_finish(void *queue)
{
	struct list *q = queue;

	pthread_mutex_lock(&q->lock);
	while (q->first != NULL || q->busy != 0)
		pthread_cond_wait(&q->done, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void list_run_here(void *queue)
{
	struct list *q = queue;

	pthread_mutex_lock(&q->lock);
	while (q->first != NULL)
		run_first(q);
	pthread_mutex_unlock(&q->lock);
}

const struct contestant contestant_mutex_list = {
	.name = "mutex_list",
	.create = list_create,
	.destroy = list_destroy,
	.begin = list_begin,
	.end = list_end,
	.enqueue = list_enqueue,
	.flush = bench_no_flush,
	.finish = list_finish,
	.run_here = list_run_here,
};
