/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads that allocate and attach, as fast as they can; when to collect is the collector's. */
#include "boehm.h"

#include <pthread.h>

enum { ALIVE = 10000 };	/* the last ones that each thread keeps */

struct mutator {
	pthread_t thread;
	size_t first, n;
};

static void *mutate(void *arg)
{
	struct mutator *m = arg;
	void **kept = GC_MALLOC(ALIVE * sizeof(*kept));

	if (kept == NULL)
		fail("no memory");
	for (size_t i = 0; i < m->n; i++) {
		void *object = make();

		kept[i % ALIVE] = object;
		GC_end_stubborn_change(kept + i % ALIVE);
		attach(object, m->first + i);
	}
	return NULL;
}

void steady(unsigned int threads)
{
	struct mutator m[64];
	struct times began, took;
	GC_word collections;

	if (threads == 0 || threads > 64)
		fail("how many threads?");
	expect(count / threads * threads);
	collections = GC_get_gc_no();
	began = now();
	for (unsigned int i = 0; i < threads; i++) {
		m[i] = (struct mutator){ .first = count / threads * i, .n = count / threads };
		if (pthread_create(&m[i].thread, NULL, mutate, &m[i]) != 0)
			fail("pthread_create fails");
	}
	for (unsigned int i = 0; i < threads; i++)
		pthread_join(m[i].thread, NULL);
	took = since(began);
	printf("%s steady_%u %.2f steady_%u_cpu %.2f steady_%u_collections %ld\n", name,
	    threads, took.wall / (double)count, threads, took.cpu / (double)count,
	    threads, (long)(GC_get_gc_no() - collections));
	run_dead(now());
}
