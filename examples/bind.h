/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Workers that are bound to a processor each, by worker_start and worker_end of the pool's
 * config. Measure first (make bench: cq_bind). A bound worker keeps its caches, but can't
 * go where there is room: on the processor of a producer that goes on it waits for its
 * time slice, and a flush wakes the newest sleeper, wherever that is bound. What a
 * callback starts (threads, processes) inherits the binding.
 *
 *     static struct binding binding;
 *     unsigned processors = binding_init(&binding);
 *     cq_pool_config_t pool = {
 *             .workers_max = processors, .host = &binding,
 *             .worker_start = binding_start, .worker_end = binding_end,
 *     };
 *     cq_cleanup_config_t config = { .pool_config = &pool };
 */
#ifndef BIND_H
#define BIND_H

#include <pthread.h>
#include <stdbool.h>

enum { BINDING_MAX = 1024 };

struct binding {
	pthread_mutex_t lock;
	unsigned n;
	int processor[BINDING_MAX];
	bool taken[BINDING_MAX];	/* under the lock */
};

/* Finds the processors that the calling thread may use. Returns how many; 0: unknown. */
unsigned binding_init(struct binding *binding);

/*
 * worker_start: binds the calling thread to a processor that no other worker has. It stays
 * where it was when none is left, as for a moment when one worker is made while
 * another is in its worker_end, or when the system says no. 0 always: an error would say
 * that the worker can't be had.
 */
int binding_start(void *binding);

/* worker_end: another may have its processor. */
void binding_end(void *binding);

#endif /* BIND_H */
