/* SPDX-License-Identifier: BSD-2-Clause */
/* Every callback runs on a worker that is bound to one processor, and no two have the same. */
#define _GNU_SOURCE /* cpu_set_t */
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include <cq/cq.h>

#include "bind.h"

enum { ROUNDS = 1000 };

static struct binding binding;
static atomic_uint on[BINDING_MAX];	/* callbacks at work, by processor */
static atomic_uint ran, wrong;

/* The only processor of the calling thread, or -1. */
static int bound_to(void)
{
	cpu_set_t set;
	int processor = -1, n = 0;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return -1;
	for (int i = 0; i < BINDING_MAX && i < (int)(8 * sizeof(set)); i++)
		if (CPU_ISSET(i, &set)) {
			processor = i;
			n++;
		}
	return n == 1 ? processor : -1;
}

static void look(void *arg)
{
	int processor = bound_to();

	(void)arg;
	if (processor < 0 || atomic_fetch_add(&on[processor], 1) != 0)
		atomic_fetch_add(&wrong, 1);
	if (processor >= 0)
		atomic_fetch_sub(&on[processor], 1);
	atomic_fetch_add(&ran, 1);
}

static void enqueue_all(cq_cleanup_t *q)
{
	cq_producer_t *p;

	if (cq_producer_attach(q, look, &p) != 0)
		return;
	for (int i = 0; i < ROUNDS; i++) {
		if (cq_producer_put(p, NULL) != 0)
			break;
		cq_producer_flush(p);
	}
	cq_producer_detach(p);
}

int main(void)
{
	cq_pool_config_t pool = {
		.workers_max = binding_init(&binding), .idle_ns = CQ_FOREVER, .host = &binding,
		.worker_start = binding_start, .worker_end = binding_end,
	};
	cq_cleanup_config_t config = { .pool_config = &pool };
	cq_cleanup_t *q;

	if (binding.n == 0 || cq_cleanup_create(&config, &q) != 0) {
		fprintf(stderr, "no processors, or no memory\n");
		return 1;
	}
	enqueue_all(q);
	cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL);
	cq_cleanup_destroy(q);
	for (unsigned i = 0; i < binding.n; i++)
		if (binding.taken[i])
			atomic_fetch_add(&wrong, 1);
	printf("%u callbacks on workers bound to one of %u processors each\n", atomic_load(&ran),
	    binding.n);
	return atomic_load(&ran) != ROUNDS || atomic_load(&wrong) != 0;
}
