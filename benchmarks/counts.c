/* SPDX-License-Identifier: BSD-2-Clause */
#include "counts.h"

#include <errno.h>
#include <stdlib.h>

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
	c->ended = c->waited = c->balance = 0;
}

void counts_destroy(struct counts *c)
{
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

/* Below zero, the balance is what is yet to run; who makes it zero tells. */
void counts_wait(struct counts *c)
{
	uint64_t sent, more;

	pthread_mutex_lock(&c->lock);
	sent = c->ended;
	for (struct sent *s = c->producers; s != NULL; s = s->next)
		sent += s->n;
	more = sent - c->waited;
	c->waited = sent;
	c->told = __atomic_sub_fetch(&c->balance, more, __ATOMIC_SEQ_CST) == 0;
	while (!c->told)
		pthread_cond_wait(&c->all_ran, &c->lock);
	pthread_mutex_unlock(&c->lock);
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
