/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a careful program writes: producers fill blocks of their own, and only
 * full blocks pass through the mutex. It shows how much of a queue's speed is
 * the batching, and how much is the absence of locks.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "contestant.h"

enum { BLOCK_CALLBACKS = 507 }; /* as many as in a block of libcq for one function */

struct block {
	struct block *next;
	unsigned n;
	struct bench_slot callbacks[BLOCK_CALLBACKS];
};

struct blocks {
	pthread_mutex_t lock;
	pthread_cond_t more;	/* for workers */
	pthread_cond_t done;	/* for finish */
	struct block *first, **last;
	struct block *free;
	struct producer *producers;
	unsigned busy;		/* workers inside a block */
	bool stop;
	unsigned nworkers;
	pthread_t workers[];
};

struct producer {
	struct block *block;
	struct blocks *q;
	struct producer *next;
};

/* With the lock held, and again on return. */
static void run_first(struct blocks *q)
{
	struct block *b = q->first;

	q->first = b->next;
	if (q->first == NULL)
		q->last = &q->first;
	q->busy++;
	pthread_mutex_unlock(&q->lock);
	for (unsigned i = 0; i < b->n; i++)
		b->callbacks[i].fn(b->callbacks[i].arg);
	b->n = 0;
	pthread_mutex_lock(&q->lock);
	b->next = q->free;
	q->free = b;
	q->busy--;
}

static void *work(void *arg)
{
	struct blocks *q = arg;

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

static void *blocks_create(unsigned workers)
{
	struct blocks *q = bench_alloc(sizeof(*q) + workers * sizeof(pthread_t));
	int err;

	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	pthread_cond_init(&q->done, NULL);
	q->first = q->free = NULL;
	q->last = &q->first;
	q->producers = NULL;
	q->busy = 0;
	q->stop = false;
	q->nworkers = workers;
	for (unsigned i = 0; i < workers; i++)
		if ((err = pthread_create(&q->workers[i], NULL, work, q)) != 0)
			bench_die("pthread_create", err);
	return q;
}

static void blocks_destroy(void *queue)
{
	struct blocks *q = queue;
	struct block *next;

	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_broadcast(&q->more);
	pthread_mutex_unlock(&q->lock);
	for (unsigned i = 0; i < q->nworkers; i++)
		pthread_join(q->workers[i], NULL);
	for (struct block *b = q->free; b != NULL; b = next) {
		next = b->next;
		free(b);
	}
	pthread_cond_destroy(&q->done);
	pthread_cond_destroy(&q->more);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static void *blocks_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	p->block = NULL;
	pthread_mutex_lock(&p->q->lock);
	p->next = p->q->producers;
	p->q->producers = p;
	pthread_mutex_unlock(&p->q->lock);
	return p;
}

static void blocks_end(void *producer)
{
	struct producer *p = producer, **link = &p->q->producers;

	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	if (p->block != NULL) { /* empty */
		p->block->next = p->q->free;
		p->q->free = p->block;
	}
	free(p);
}

static struct block *new_block(void)
{
	struct block *b = bench_alloc(sizeof(*b));

	b->n = 0;
	return b;
}

/* With the lock held. */
static void append(struct blocks *q, struct block *b)
{
	b->next = NULL;
	*q->last = b;
	q->last = &b->next;
}

/* Publishes the block and takes an empty one, if there is one, in one go. */
static void publish(struct producer *p)
{
	struct blocks *q = p->q;

	pthread_mutex_lock(&q->lock);
	append(q, p->block);
	p->block = q->free;
	if (p->block != NULL)
		q->free = p->block->next;
	pthread_mutex_unlock(&q->lock);
	pthread_cond_signal(&q->more);
}

static int blocks_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;
	struct block *b = p->block;

	if (b == NULL)
		b = p->block = new_block();
	b->callbacks[b->n].fn = fn;
	b->callbacks[b->n].arg = arg;
	if (++b->n == BLOCK_CALLBACKS)
		publish(p);
	return 0;
}

/* What is left of the block. */
static struct bench_slot *blocks_reserve(void *producer, unsigned n, unsigned *room)
{
	struct producer *p = producer;

	if (p->block == NULL)
		p->block = new_block();
	*room = BLOCK_CALLBACKS - p->block->n;
	if (*room > n)
		*room = n;
	return &p->block->callbacks[p->block->n];
}

static void blocks_commit(void *producer, unsigned n)
{
	struct producer *p = producer;

	p->block->n += n;
	if (p->block->n == BLOCK_CALLBACKS)
		publish(p);
}

static bool has_callbacks(const struct producer *p)
{
	return p->block != NULL && p->block->n != 0;
}

static void blocks_flush(void *producer)
{
	struct producer *p = producer;

	if (has_callbacks(p))
		publish(p);
}

static void flush_all(struct blocks *q)
{
	for (struct producer *p = q->producers; p != NULL; p = p->next)
		blocks_flush(p);
}

static void blocks_finish(void *queue)
{
	struct blocks *q = queue;

	flush_all(q);
	pthread_mutex_lock(&q->lock);
	while (q->first != NULL || q->busy != 0)
		pthread_cond_wait(&q->done, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void blocks_run_here(void *queue)
{
	struct blocks *q = queue;

	flush_all(q);
	pthread_mutex_lock(&q->lock);
	while (q->first != NULL)
		run_first(q);
	pthread_mutex_unlock(&q->lock);
}

const struct contestant contestant_mutex_blocks = {
	.name = "mutex_blocks",
	.create = blocks_create,
	.destroy = blocks_destroy,
	.begin = blocks_begin,
	.end = blocks_end,
	.enqueue = blocks_enqueue,
	.flush = blocks_flush,
	.finish = blocks_finish,
	.run_here = blocks_run_here,
	.reserve = blocks_reserve,
	.commit = blocks_commit,
};
