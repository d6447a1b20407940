/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* cpu_set_t */
#endif
#include "bind.h"

#include <sched.h>

static _Thread_local unsigned mine = BINDING_MAX; /* which of the processors */

unsigned binding_init(struct binding *b)
{
	cpu_set_t set;

	*b = (struct binding){ .n = 0 };
	if (pthread_mutex_init(&b->lock, NULL) != 0 || sched_getaffinity(0, sizeof(set), &set) != 0)
		return 0;
	/* musl 1.2.3's CPU_SETSIZE says 128, the bytes of a set. */
	for (int i = 0; i < BINDING_MAX && i < (int)(8 * sizeof(set)); i++)
		if (CPU_ISSET(i, &set))
			b->processor[b->n++] = i;
	return b->n;
}

static unsigned take(struct binding *b)
{
	unsigned i = 0;

	pthread_mutex_lock(&b->lock);
	while (i < b->n && b->taken[i])
		i++;
	if (i < b->n)
		b->taken[i] = true;
	pthread_mutex_unlock(&b->lock);
	return i;
}

int binding_start(void *binding)
{
	struct binding *b = binding;
	cpu_set_t set;

	mine = take(b);
	if (mine >= b->n)
		return 0;
	CPU_ZERO(&set);
	CPU_SET(b->processor[mine], &set);
	sched_setaffinity(0, sizeof(set), &set); /* 0: this thread */
	return 0;
}

void binding_end(void *binding)
{
	struct binding *b = binding;

	pthread_mutex_lock(&b->lock);
	if (mine < b->n)
		b->taken[mine] = false;
	pthread_mutex_unlock(&b->lock);
}
