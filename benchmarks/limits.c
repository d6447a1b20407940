/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the machine takes for the parts that every queue is made of, with no queue:
 * in one thread. limits_threads.c has those with several.
 */
#include <ck_pr.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "measure.h"
#include "workload.h"

/* ------------------------------------------------------------------- stores */

enum { BLOCK = 254, BLOCKS = 2400, FRESH_BYTES = 32 << 20 };

static void write_slots(struct bench_slot *slots, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		slots[i] = (struct bench_slot){ count, &slots[i] };
		__asm__ volatile("" ::: "memory"); /* each one, as a call of enqueue would */
	}
}

static double stores_in_cache(void)
{
	static struct bench_slot block[BLOCK] __attribute__((aligned(64)));
	uint64_t began = now();

	for (unsigned i = 0; i < BLOCKS; i++)
		write_slots(block, BLOCK);
	return (double)(now() - began) / (BLOCKS * BLOCK);
}

static double stores_to_fresh_memory(void)
{
	struct bench_slot *memory = mmap(NULL, FRESH_BYTES, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned n = FRESH_BYTES / sizeof(*memory);
	uint64_t began, ended;

	if (memory == MAP_FAILED)
		bench_die("mmap", errno);
	if (madvise(memory, FRESH_BYTES, MADV_NOHUGEPAGE) != 0 && errno != EINVAL)
		bench_die("madvise", errno);
	began = now();
	write_slots(memory, n);
	ended = now();
	munmap(memory, FRESH_BYTES);
	return (double)(ended - began) / n;
}

void run_stores(const struct workload *w, const struct contestant *c, struct result *r)
{
	(void)w;
	(void)c;
	r->metrics[0] = stores_in_cache();
	r->metrics[1] = stores_to_fresh_memory();
}

/* ------------------------------------------------------------------ atomics */

enum { OPERATIONS = 200000 };

static uint64_t words[2] __attribute__((aligned(64)));

static double compare_and_swaps(void)
{
	uint64_t began = now();

	for (uint64_t i = 0; i < OPERATIONS; i++) {
		uint64_t old = words[0];

		__atomic_compare_exchange_n(&words[0], &old, i, false, __ATOMIC_SEQ_CST,
		    __ATOMIC_SEQ_CST);
	}
	return (double)(now() - began) / OPERATIONS;
}

static double wide_compare_and_swaps(void)
{
#ifdef CK_F_PR_CAS_PTR_2
	uint64_t began = now();

	for (uint64_t i = 0; i < OPERATIONS; i++) {
		uint64_t old[2] = { words[0], words[1] }, new[2] = { i, i };

		ck_pr_cas_ptr_2(words, old, new);
	}
	return (double)(now() - began) / OPERATIONS;
#else
	return NAN;
#endif
}

static double additions(void)
{
	uint64_t began = now();

	for (uint64_t i = 0; i < OPERATIONS; i++)
		__atomic_fetch_add(&words[0], i, __ATOMIC_SEQ_CST);
	return (double)(now() - began) / OPERATIONS;
}

/* On a line that no other processor has. */
void run_atomics(const struct workload *w, const struct contestant *c, struct result *r)
{
	(void)w;
	(void)c;
	r->metrics[0] = compare_and_swaps();
	r->metrics[1] = wide_compare_and_swaps();
	r->metrics[2] = additions();
}

/* ------------------------------------------------------------------ threads */

static void *first_thing(void *began)
{
	*(uint64_t *)began = now();
	return NULL;
}

/* To its first instruction, and to the end of pthread_join. */
void run_threads(const struct workload *w, const struct contestant *c, struct result *r)
{
	enum { THREADS = 200 };
	uint64_t to_run[THREADS], to_make[THREADS], to_join[THREADS];

	(void)w;
	(void)c;
	for (unsigned i = 0; i < THREADS; i++) {
		uint64_t began = now(), ran;
		pthread_t thread;
		int err = pthread_create(&thread, NULL, first_thing, &ran);

		if (err != 0)
			bench_die("pthread_create", err);
		to_make[i] = now() - began;
		pthread_join(thread, NULL);
		to_join[i] = now() - began;
		to_run[i] = ran - began;
	}
	sort_ns(to_run, THREADS);
	sort_ns(to_make, THREADS);
	sort_ns(to_join, THREADS);
	r->metrics[0] = percentile(to_make, THREADS, 500);
	r->metrics[1] = percentile(to_run, THREADS, 500);
	r->metrics[2] = percentile(to_join, THREADS, 500);
}
