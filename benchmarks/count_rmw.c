/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * count_rmw - atomic read-modify-writes per callback: what a hand-over costs that
 * more processors don't make cheaper. One producer and one worker; the library and
 * the contestants are compiled with rmw.h. Prints, for each contestant and case,
 *
 *   all    how many there are
 *   moved  those on a cache line whose last one was another thread's: the line had
 *          to come over from its processor
 *
 * What the C library does within a condition variable or malloc, and the kernel
 * within a system call, is not seen; nor are plain stores that take a line away.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"
#include "workload.h"

static const struct contestant *const contestants[] = {
	&contestant_seed,
	&contestant_cq,
	&contestant_cq_put,
	&contestant_mutex_list,
	&contestant_mutex_blocks,
};

struct settings settings = { .pinning = true };

void bench_die(const char *what, int err)
{
	fprintf(stderr, "count_rmw: %s: %s\n", what, strerror(err));
	_exit(1);
}

void *bench_alloc(unsigned long bytes)
{
	void *memory = malloc(bytes);

	if (memory == NULL)
		abort();
	return memory;
}

/* ----------------------------------------------------------------- counting */

#undef __atomic_fetch_add
#undef __atomic_exchange_n

enum { LINES = 1 << 16 };

static uint64_t all, moved;
static uint64_t last[LINES]; /* a line, and who had it last: line << 16 | thread */

void rmw_on(const volatile void *address)
{
	static uint64_t threads;
	static __thread uint64_t me;
	uint64_t line = (uintptr_t)address / 64, was;

	if (me == 0)
		me = __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) + 1;
	was = __atomic_exchange_n(&last[line % LINES], line << 16 | (me & 0xffff), __ATOMIC_RELAXED);
	__atomic_fetch_add(&all, 1, __ATOMIC_RELAXED);
	if (was >> 16 == line && (was & 0xffff) != me)
		__atomic_fetch_add(&moved, 1, __ATOMIC_RELAXED);
}

/* -------------------------------------------------------------------- cases */

/* The worker waits at its first callback until all are enqueued. The two are never
   at it at once: these are the operations that can't be avoided by being lucky. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static bool at_gate;

static void wait_at_gate(void *unused)
{
	(void)unused;
	__atomic_store_n(&at_gate, true, __ATOMIC_RELAXED);
	(pthread_mutex_lock)(&gate);
	(pthread_mutex_unlock)(&gate);
}

static void backlog(const struct contestant *c, void *queue, void *producer, uint64_t n)
{
	void *first = c->begin(queue);

	(pthread_mutex_lock)(&gate);
	enqueue(c, first, wait_at_gate, NULL);
	c->flush(first);
	/* Before the others: a worker that wakes up late would take the newest first, and run them meanwhile. */
	while (!__atomic_load_n(&at_gate, __ATOMIC_RELAXED))
		sleep_until(now() + 100000);
	at_gate = false;
	enqueue_numbers(c, producer, 1, n);
	(pthread_mutex_unlock)(&gate);
	c->finish(queue);
	c->end(first);
}

/* As fast as they can, as in W1; counting slows both. */
static void together(const struct contestant *c, void *queue, void *producer, uint64_t n)
{
	enqueue_numbers(c, producer, 1, n);
	c->finish(queue);
}

/* The producer is slow enough for the worker to have slept before each block. */
static void keeping_up(const struct contestant *c, void *queue, void *producer, uint64_t n)
{
	for (uint64_t number = 1; number <= n; number++) {
		work_until(now() + 5000);
		enqueue_numbers(c, producer, number, 1);
	}
	c->finish(queue);
}

/* Each callback by itself, to a worker that sleeps. */
static void singly(const struct contestant *c, void *queue, void *producer, uint64_t n)
{
	for (uint64_t number = 1; number <= n; number++) {
		sleep_until(now() + 200000);
		enqueue_numbers(c, producer, number, 1);
		c->flush(producer);
	}
	c->finish(queue);
}

static const struct {
	const char *name;
	void (*run)(const struct contestant *c, void *queue, void *producer, uint64_t n);
	uint64_t n;
} cases[] = {
	{ "backlog", backlog, 600000 },
	{ "together", together, 600000 },
	{ "keeping_up", keeping_up, 30000 },
	{ "singly", singly, 1000 },
};

static void run_case(unsigned k, const struct contestant *c)
{
	struct tally before;
	void *queue = c->create(1), *producer = begin_one(c, queue, count);

	before = tally_now();
	/* Makes the blocks and the worker. */
	cases[k].run(c, queue, producer, cases[k].n);
	all = moved = 0;
	cases[k].run(c, queue, producer, cases[k].n);
	printf("%-10s %-12s all %8.4f moved %8.4f per callback\n", cases[k].name, c->name,
	    (double)all / (double)cases[k].n, (double)moved / (double)cases[k].n);
	c->end(producer);
	c->destroy(queue);
	check_conserved(c, &before, cases[k].n, 2, false);
}

/* In a process of its own, as its threads are bound to two processors. */
static bool case_passes(unsigned k, const struct contestant *c)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		bench_die("fork", errno);
	if (pid == 0) {
		pinning_begins();
		pin_to_next();
		run_case(k, c);
		exit(0);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(void)
{
	bool passed = true;

	for (unsigned k = 0; k < sizeof(cases) / sizeof(cases[0]); k++)
		for (unsigned i = 0; i < sizeof(contestants) / sizeof(contestants[0]); i++)
			passed = case_passes(k, contestants[i]) && passed;
	return !passed;
}
