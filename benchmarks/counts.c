/* SPDX-License-Identifier: BSD-2-Clause */
#include "counts.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "contestant.h"

void *counts_alloc(size_t bytes)
{
	size_t align = _Alignof(struct counts);
	void *memory = aligned_alloc(align, (bytes + align - 1) / align * align);

	if (memory == NULL)
		bench_die("aligned_alloc", ENOMEM);
	return memory;
}

void counts_init(struct counts *c)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->all_ran, NULL);
	c->producers = NULL;
	c->workers = NULL;
	c->ended = c->waited = c->balance = 0;
}

void counts_destroy(struct counts *c)
{
	while (c->workers != NULL) {
		struct ran *next = c->workers->next;

		free(c->workers);
		c->workers = next;
	}
	pthread_cond_destroy(&c->all_ran);
	pthread_mutex_destroy(&c->lock);
}

void counts_begin(struct counts *c, struct sent *s)
{
	s->n = 0;
	pthread_mutex_lock(&c->lock);
	s->next = c->producers;
	c->producers = s;
	pthread_mutex_unlock(&c->lock);
}

void counts_end(struct counts *c, struct sent *s)
{
	struct sent **link = &c->producers;

	pthread_mutex_lock(&c->lock);
	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	c->ended += s->n;
	pthread_mutex_unlock(&c->lock);
}

static uint64_t all_sent(const struct counts *c)
{
	uint64_t sent = c->ended;

	for (const struct sent *s = c->producers; s != NULL; s = s->next)
		sent += s->n;
	return sent;
}

/* Below zero, the balance is what is yet to run; who makes it zero tells. */
void counts_wait(struct counts *c)
{
	uint64_t sent, more;

	pthread_mutex_lock(&c->lock);
	sent = all_sent(c);
	more = sent - c->waited;
	c->waited = sent;
	c->told = __atomic_sub_fetch(&c->balance, more, __ATOMIC_SEQ_CST) == 0;
	while (!c->told)
		pthread_cond_wait(&c->all_ran, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

static bool all_ones_ran(struct counts *c)
{
	uint64_t ran = 0, sent;

	pthread_mutex_lock(&c->lock);
	sent = all_sent(c);
	for (struct ran *r = c->workers; r != NULL; r = r->next)
		ran += __atomic_load_n(&r->n, __ATOMIC_ACQUIRE);
	pthread_mutex_unlock(&c->lock);
	return ran == sent;
}

/* Those that count so take a hundred times as long for a run. */
void counts_wait_ones(struct counts *c)
{
	while (!all_ones_ran(c))
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

void counts_ran_one(struct counts *c)
{
	static __thread struct ran *mine;

	if (mine == NULL) {
		mine = counts_alloc(sizeof(*mine));
		mine->n = 0;
		pthread_mutex_lock(&c->lock);
		mine->next = c->workers;
		c->workers = mine;
		pthread_mutex_unlock(&c->lock);
	}
	__atomic_store_n(&mine->n, mine->n + 1, __ATOMIC_RELEASE);
}

void counts_tell(struct counts *c)
{
	pthread_mutex_lock(&c->lock);
	c->told = true;
	pthread_cond_signal(&c->all_ran);
	pthread_mutex_unlock(&c->lock);
}

void counts_ran_some(struct counts *c, uint64_t n)
{
	counts_ran(c, n);
}
