/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the machine takes for a hand-over between two processors, with no queue:
 * a cache line, callbacks through a ring, a sleeping thread.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"
#include "workload.h"

static void needs_two_processors(struct result *r)
{
	if (settings.processors < 2)
		cannot(r, "it takes two processors");
}

static void start(pthread_t *thread, void *(*body)(void *), void *arg)
{
	int err = pthread_create(thread, NULL, body, arg);

	if (err != 0)
		bench_die("pthread_create", err);
}

/* --------------------------------------------------------------- cache line */

enum { ROUND_TRIPS = 20000 };

static uint64_t ball __attribute__((aligned(64)));

static void *hit_back(void *unused)
{
	pin_to(1);
	for (uint64_t i = 0; i < ROUND_TRIPS; i++) {
		while (__atomic_load_n(&ball, __ATOMIC_ACQUIRE) != 2 * i + 1)
			;
		__atomic_store_n(&ball, 2 * i + 2, __ATOMIC_RELEASE);
	}
	return unused;
}

/* A store until another processor sees it: half of there and back. */
void run_line(const struct workload *w, const struct contestant *c, struct result *r)
{
	pthread_t thread;
	uint64_t began;

	(void)w;
	(void)c;
	needs_two_processors(r);
	pinning_begins();
	start(&thread, hit_back, NULL);
	pin_to(0);
	began = now();
	for (uint64_t i = 0; i < ROUND_TRIPS; i++) {
		__atomic_store_n(&ball, 2 * i + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(&ball, __ATOMIC_ACQUIRE) != 2 * i + 2)
			;
	}
	r->metrics[0] = (double)(now() - began) / (2.0 * ROUND_TRIPS);
	pthread_join(thread, NULL);
}

/* ----------------------------------------------------------------- hand-over */

/* One producer, one consumer, and a ring that shows each 254 callbacks at once. It
   never sleeps, makes no worker, counts nothing, holds no more than its size. */
enum { RING = 4096, SHOWN_AT_ONCE = 254, HANDOVER_TIMES = 2 };

static struct {
	uint64_t written __attribute__((aligned(64)));
	uint64_t run __attribute__((aligned(64)));
	struct bench_slot slots[RING] __attribute__((aligned(64)));
} ring;

struct consumer {
	uint64_t n;	/* callbacks, HANDOVER_TIMES times */
	uint64_t cpu;	/* of the last time */
};

/* Its CPU by its own clock: the process's has that of a thread that runs on another
   processor only up to the kernel's last tick. */
static void *consume(void *arg)
{
	struct consumer *c = arg;
	uint64_t last = c->n * (HANDOVER_TIMES - 1), end = c->n * HANDOVER_TIMES, i = 0;
	uint64_t began = 0;

	while (i < end) {
		uint64_t written = __atomic_load_n(&ring.written, __ATOMIC_ACQUIRE);

		if (i == last && began == 0)
			began = thread_cpu();
		if (i == written)
			continue;
		for (; i < written; i++)
			ring.slots[i % RING].fn(ring.slots[i % RING].arg);
		__atomic_store_n(&ring.run, i, __ATOMIC_RELEASE);
	}
	c->cpu = thread_cpu() - began;
	return NULL;
}

static void hand_over(uint64_t first, uint64_t n)
{
	uint64_t room = ring.run + RING;

	for (uint64_t i = first; i < first + n; i++) {
		while (i == room)
			room = __atomic_load_n(&ring.run, __ATOMIC_ACQUIRE) + RING;
		ring.slots[i % RING].fn = count;
		ring.slots[i % RING].arg = (void *)(uintptr_t)(i - first + 1);
		if ((i + 1) % SHOWN_AT_ONCE == 0 || i + 1 == room)
			__atomic_store_n(&ring.written, i + 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&ring.written, first + n, __ATOMIC_RELEASE);
	while (__atomic_load_n(&ring.run, __ATOMIC_ACQUIRE) != first + n)
		;
}

void run_handover(const struct workload *w, const struct contestant *c, struct result *r)
{
	struct consumer consumer = { .n = settings.callbacks / 4 + 1 };
	uint64_t n = consumer.n, began = 0, ended = 0, cpu = 0;
	struct tally before = tally_now();
	pthread_t thread;

	(void)w;
	needs_two_processors(r);
	pinning_begins();
	pin_to_next(); /* as the consumer does, with its first callback */
	start(&thread, consume, &consumer);
	for (int i = 0; i < HANDOVER_TIMES; i++) {
		cpu = thread_cpu();
		began = now();
		hand_over((uint64_t)i * n, n);
		ended = now();
		cpu = thread_cpu() - cpu;
	}
	pthread_join(thread, NULL);
	check_conserved(c, &before, n, HANDOVER_TIMES, false);
	r->metrics[0] = (double)(ended - began) / (double)n;
	r->metrics[1] = (double)(cpu + consumer.cpu) / (double)n;
}

/* -------------------------------------------------------------------- futex */

enum { WAKES = 200, COLD_WAKES = 30 };

struct waiter {
	uint32_t word;		/* the number of the wake; 0 before */
	uint64_t ran;		/* when the last one was noticed */
	uint32_t wakes;
	unsigned processor;
};

static void futex(uint32_t *word, int op, uint32_t value)
{
	syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void *wait_for_wakes(void *arg)
{
	struct waiter *s = arg;

	pin_to(s->processor);
	for (uint32_t i = 1; i <= s->wakes; i++) {
		while (__atomic_load_n(&s->word, __ATOMIC_ACQUIRE) != i)
			futex(&s->word, FUTEX_WAIT, i - 1);
		__atomic_store_n(&s->ran, now(), __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Sleeps; then wakes a thread that sleeps on `processor`, itself on processor 0. */
static void wake_many(const struct workload *w, struct result *r, unsigned processor,
    uint32_t wakes, unsigned metric)
{
	struct waiter s = { .wakes = wakes, .processor = processor };
	uint64_t to_run[WAKES], calls[WAKES], ran = 0;
	pthread_t thread;

	start(&thread, wait_for_wakes, &s);
	for (uint32_t i = 0; i < wakes; i++) {
		uint64_t began;

		sleep_until(now() + w->gap_ns);
		began = now();
		__atomic_store_n(&s.word, i + 1, __ATOMIC_RELEASE);
		futex(&s.word, FUTEX_WAKE, 1);
		calls[i] = now() - began;
		do
			sleep_until(now() + w->gap_ns);
		while (__atomic_load_n(&s.ran, __ATOMIC_ACQUIRE) == ran);
		ran = s.ran;
		to_run[i] = ran - began;
	}
	pthread_join(thread, NULL);
	sort_ns(to_run, wakes);
	sort_ns(calls, wakes);
	r->metrics[metric] = percentile(to_run, wakes, 500);
	r->metrics[metric + 1] = percentile(to_run, wakes, 990);
	r->metrics[metric + 2] = percentile(calls, wakes, 500);
}

void run_futex(const struct workload *w, const struct contestant *c, struct result *r)
{
	uint32_t wakes = w->gap_ns < 1000000 ? WAKES : COLD_WAKES;

	(void)c;
	sleep_exactly();
	pinning_begins();
	pin_to(0);
	wake_many(w, r, 0, wakes, 0);
	if (settings.processors >= 2)
		wake_many(w, r, 1, wakes, 3);
}
