/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the benchmark asks of a queue. One file per contestant; to add one, write
 * its file, and list it in contestants.c and rivals.am. Or compile it as a shared object,
 * which option -l loads: new members come last, so that older ones lack them.
 *
 * begin, enqueue, put, flush, reserve and commit are called by the producer's thread; the
 * rest by the main thread, while no producer is running. What fails calls bench_die().
 */
#ifndef BENCH_CONTESTANT_H
#define BENCH_CONTESTANT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void bench_fn(void *arg);

/* A place for a callback that the producer writes itself. */
struct bench_slot {
	bench_fn *fn;
	void *arg;
};

struct contestant {
	const char *name;

	/* An empty queue of at most `workers` workers. With 0 it has none, enqueue
	   wakes nobody, and run_here does the work. NULL: it can't have so many;
	   those that can't have 0 need no run_here. */
	void *(*create)(unsigned workers);
	void (*destroy)(void *queue);

	/* A producer. end comes after finish or run_here, so nothing is left in it. */
	void *(*begin)(void *queue);
	void (*end)(void *producer);

	/* 0, or errno's value: returned, as a check here would be on the clock. */
	int (*enqueue)(void *producer, bench_fn *fn, void *arg);

	/* Shows workers what this producer has enqueued so far. */
	void (*flush)(void *producer);

	/* Shows workers everything, and sleeps until all of it has run. What the
	   callbacks did happens before the return. */
	void (*finish)(void *queue);

	/* Runs everything in the calling thread. The queue has no workers. */
	void (*run_here)(void *queue);

	/* Optional. Space for *room callbacks, 1 to `n`, which the producer writes; then
	   commit, with how many it has written. Nothing may be enqueued in between. */
	struct bench_slot *(*reserve)(void *producer, unsigned n, unsigned *room);
	void (*commit)(void *producer, unsigned n);

	/* Optional. Gives memory that the empty queue doesn't need back to malloc. */
	void (*trim)(void *queue);

	/* Optional. A producer all of whose callbacks are `fn`; put is its enqueue, and is given
	   that fn, so that all are called in the same way. flush and end are as for others. */
	void *(*begin_one)(void *queue, bench_fn *fn);
	int (*put)(void *producer, bench_fn *fn, void *arg);

	/* Optional, for blocks.c. create with blocks of two callbacks, and workers that don't
	   spin; flush for all producers at once; how many workers the calling thread has
	   woken so far. */
	void *(*create_small)(unsigned workers);
	void (*flush_all)(void *queue);
	unsigned long (*wakes)(void);

	/* Optional. create of a queue that shows workers each callback so many nanoseconds after its
	   enqueue at the latest, though nobody flushes. */
	void *(*create_timed)(unsigned workers, uint64_t flush_ns);
};

/* Ends the benchmark: `what` failed, with errno's value `err`. */
void bench_die(const char *what, int err) __attribute__((noreturn));

/* A flush for those whose workers see each callback at once. */
static inline void bench_no_flush(void *producer)
{
	(void)producer;
}

/* malloc that does not fail. */
void *bench_alloc(unsigned long bytes);

extern const struct contestant contestant_seed;
extern const struct contestant contestant_cq, contestant_cq_put, contestant_cq_timed, contestant_cq_shared, contestant_cq_bind;
extern const struct contestant contestant_cq_huge;
extern const struct contestant contestant_cq_pool, contestant_cq_sleepers, contestant_cq_condvar;
extern const struct contestant contestant_mutex_list;
extern const struct contestant contestant_mutex_blocks;

#ifdef __cplusplus
}
#endif

#endif /* BENCH_CONTESTANT_H */
