/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * count_rmw - atomic read-modify-writes per callback: what a hand-over costs that
 * more processors don't make cheaper. The library and the contestants are compiled with
 * rmw.h. Prints, for each contestant and case of one producer and one worker, and for as many of both
 * as there are processors,
 *
 *   all, done  how many there are; but for those that failed
 *   moved      those on a cache line whose last one was another thread's: the line had
 *              to come over from its processor
 *   failed     swaps that found that another thread had written meanwhile
 *
 * for libcq also by the words that they are on. Fails where a number of libcq's is above its bar.
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

#include "cleanup/cleanup_priv.h"
#include "measure.h"
#include "pool/pool_priv.h"
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

/* Whose words of a libcq queue. The last is the rest of the process: producers, mutexes of others. */
enum field { WAITING, FREE, UNFINISHED, EXECUTED, TASK, RECORDS, IDLE, WORKERS, QUEUE, POOL, REST, FIELDS };

struct counted {
	uint64_t all, moved, failed;
};

/* Of a thread; those of all are summed while only the one that sums runs, or nearly. */
struct counter {
	struct counted of[FIELDS];
	struct counter *next;
	uint64_t id;
} __attribute__((aligned(64)));

enum { LINES = 1 << 16 };

static struct counter *counters;
static uint64_t last[LINES]; /* a line, and who had it last: line << 16 | thread */
static cq_cleanup_t *watched; /* libcq's queue, or NULL */

static struct counter *mine(void)
{
	static uint64_t threads;
	static __thread struct counter *me;

	if (me == NULL) {
		me = aligned_alloc(64, sizeof(*me));
		if (me == NULL)
			abort();
		memset(me, 0, sizeof(*me));
		me->id = __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) + 1;
		me->next = __atomic_exchange_n(&counters, me, __ATOMIC_ACQ_REL);
	}
	return me;
}

static bool within(uintptr_t at, const void *object, size_t bytes)
{
	return at - (uintptr_t)object < bytes;
}
#define WITHIN(AT, MEMBER) within(AT, &(MEMBER), sizeof(MEMBER))

static enum field field_of_shard(const cq_shard_t *s, uintptr_t at)
{
	return WITHIN(at, s->waiting) ? WAITING : WITHIN(at, s->free) ? FREE :
	    WITHIN(at, s->unfinished) ? UNFINISHED : EXECUTED;
}

static enum field field_of(const volatile void *address)
{
	cq_cleanup_t *q = __atomic_load_n(&watched, __ATOMIC_RELAXED);
	uintptr_t at = (uintptr_t)address;

	if (q == NULL)
		return REST;
	for (uint32_t i = 0; i < cq_shards(q); i++)
		if (within(at, cq_shard_at(q, i), sizeof(cq_shard_t)))
			return field_of_shard(cq_shard_at(q, i), at);
	if (within(at, q, sizeof(*q)))
		return QUEUE;
	if (within(at, q->task, sizeof(*q->task)))
		return TASK;
	return WITHIN(at, q->pool->waiting) ? RECORDS : WITHIN(at, q->pool->idle) ? IDLE :
	    WITHIN(at, q->pool->counts) ? WORKERS : WITHIN(at, *q->pool) ? POOL : REST;
}

void rmw_on(const volatile void *address)
{
	struct counter *me = mine();
	struct counted *c = &me->of[field_of(address)];
	uint64_t line = (uintptr_t)address / 64, was;

	was = __atomic_exchange_n(&last[line % LINES], line << 16 | (me->id & 0xffff), __ATOMIC_RELAXED);
	c->all++;
	if (was >> 16 == line && (was & 0xffff) != me->id)
		c->moved++;
}

bool rmw_swapped(const volatile void *address, bool swapped)
{
	if (!swapped)
		mine()->of[field_of(address)].failed++;
	return swapped;
}

/* What all threads have counted so far. */
static void count_all(struct counted sum[FIELDS])
{
	memset(sum, 0, FIELDS * sizeof(*sum));
	for (struct counter *c = __atomic_load_n(&counters, __ATOMIC_ACQUIRE); c != NULL; c = c->next)
		for (int f = 0; f < FIELDS; f++) {
			sum[f].all += c->of[f].all;
			sum[f].moved += c->of[f].moved;
			sum[f].failed += c->of[f].failed;
		}
}

/* Since `before`, which becomes their sum; and the sum of them all. */
static struct counted count_since(struct counted before[FIELDS])
{
	struct counted is[FIELDS], sum = { 0, 0, 0 };

	count_all(is);
	for (int f = 0; f < FIELDS; f++) {
		before[f] = (struct counted){
			is[f].all - before[f].all, is[f].moved - before[f].moved, is[f].failed - before[f].failed,
		};
		sum.all += before[f].all;
		sum.moved += before[f].moved;
		sum.failed += before[f].failed;
	}
	return sum;
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
	struct { double all, moved; } cq, put; /* the bars of libcq, a quarter above what is seen at most */
} cases[] = {
	{ "backlog", backlog, 600000, { 0.0125, 0.0005 }, { 0.0065, 0.0005 } },
	/* No more than one that wakes a worker for each block. */
	{ "together", together, 600000, { 0.037, 0.0155 }, { 0.0215, 0.0085 } },
	{ "keeping_up", keeping_up, 30000, { 0.037, 0.0155 }, { 0.0215, 0.0085 } },
	{ "singly", singly, 1000, { 36, 15 }, { 36, 15 } },
};

static bool is_below(double is, double bar, const char *shape, const char *what)
{
	if (is <= bar)
		return true;
	fprintf(stderr, "count_rmw: %s %s: %.4f is above %.4f\n", shape, what, is, bar);
	return false;
}

static bool is_cq(const struct contestant *c)
{
	return strncmp(c->name, "cq", 2) == 0;
}

static void *create_watched(const struct contestant *c, unsigned workers)
{
	void *queue = c->create(workers);

	if (is_cq(c))
		__atomic_store_n(&watched, queue, __ATOMIC_RELAXED);
	return queue;
}

static bool run_case(unsigned k, const struct contestant *c)
{
	struct tally before;
	struct counted of[FIELDS], sum;
	double n = (double)cases[k].n;
	void *queue, *producer;

	pin_to_next();
	queue = create_watched(c, 1);
	producer = begin_one(c, queue, count);
	before = tally_now();
	/* Makes the blocks and the worker. */
	cases[k].run(c, queue, producer, cases[k].n);
	count_all(of);
	cases[k].run(c, queue, producer, cases[k].n);
	sum = count_since(of);
	printf("%-10s %-12s all %8.4f moved %8.4f per callback\n", cases[k].name, c->name,
	    (double)sum.all / n, (double)sum.moved / n);
	__atomic_store_n(&watched, NULL, __ATOMIC_RELAXED);
	c->end(producer);
	c->destroy(queue);
	check_conserved(c, &before, cases[k].n, 2, false);
	if (!is_cq(c))
		return true;
	return is_below((double)sum.all / n, c->put != NULL ? cases[k].put.all : cases[k].cq.all, cases[k].name, "all") &
	    is_below((double)sum.moved / n, c->put != NULL ? cases[k].put.moved : cases[k].cq.moved, cases[k].name, "moved");
}

/* ------------------------------------------------------------- by many threads */

/* 16 KiB of callbacks: a large block of libcq's, which has producers that fill one after the other. So many of one
   function, or half as many where each has its own. */
enum { BLOCK = 2024, OF_EACH = 75 * BLOCK, TIMES = 2 };

static unsigned block_of(const struct contestant *c)
{
	return c->put != NULL ? BLOCK : BLOCK / 2;
}

struct producer {
	const struct contestant *c;
	void *queue, *handle;
	pthread_barrier_t *barrier;
	uint64_t first;
	pthread_t thread;
};

static void *produce(void *arg)
{
	struct producer *p = arg;

	pin_to_next();
	p->handle = begin_one(p->c, p->queue, count);
	for (int i = 0; i < TIMES; i++) {
		pthread_barrier_wait(p->barrier);
		enqueue_numbers(p->c, p->handle, p->first, OF_EACH);
		pthread_barrier_wait(p->barrier);
	}
	return NULL;
}

/*
 * The bars, per block. What is done for each is exact: a push and a take are two each, get, put, count and
 * count back one, and one adds to `executed`; head-room for a producer's first blocks, which are small. Of
 * these a line moves to who takes, and back. Task, records, idle and rest are for a worker that slept, which
 * is up to the scheduler: the bars are what it costs if each block wakes one.
 */
static const struct {
	const char *name;
	double done, moved, failed;
} fields[FIELDS] = {
	[WAITING] = { "waiting", 5, 3, 0.25 },
	[FREE] = { "free", 2.5, 1, 0.25 },
	[UNFINISHED] = { "unfinished", 2.5, 1.5, 0 },
	[EXECUTED] = { "executed", 1.5, 1.25, 0 },
	[TASK] = { "task", 4, 2.5, 0.25 },
	[RECORDS] = { "records", 5, 2.5, 0.25 },
	[IDLE] = { "idle", 10, 3, 0.25 },
	[WORKERS] = { "workers", 1, 0.5, 0.1 },
	[QUEUE] = { "queue", 2, 0.5, 0.1 },
	[POOL] = { "pool", 1, 0.5, 0.1 },
	[REST] = { "rest", 4.5, 2.5, 0.25 },
};

/* done: but for swaps that failed, and so were done again. Below the bars? */
static bool print_fields(const char *shape, const struct contestant *c, const struct counted *of, double blocks)
{
	bool passed = true;

	for (int f = 0; f < FIELDS; f++) {
		double done = (double)(of[f].all - of[f].failed) / blocks, moved = (double)of[f].moved / blocks;
		double failed = (double)of[f].failed / blocks;

		if (of[f].all == 0)
			continue;
		printf("%-7s %-12s %-10s done %8.4f bar %4.2f moved %8.4f bar %4.2f failed %8.4f bar %4.2f per block\n", shape,
		    c->name, fields[f].name, done, fields[f].done, moved, fields[f].moved, failed, fields[f].failed);
		passed = is_below(done, fields[f].done, shape, fields[f].name) && passed;
		passed = is_below(moved, fields[f].moved, shape, fields[f].name) && passed;
		passed = is_below(failed, fields[f].failed, shape, fields[f].name) && passed;
	}
	return passed;
}

/* As many workers as producers, all as fast as they can. */
static bool run_shape(unsigned n, const struct contestant *c)
{
	struct producer *p = bench_alloc(n * sizeof(*p));
	struct counted of[FIELDS], sum;
	pthread_barrier_t barrier;
	struct tally before = tally_now();
	void *queue = create_watched(c, n);
	double blocks = (double)n * OF_EACH / block_of(c);
	bool passed = true;
	char shape[24];

	pthread_barrier_init(&barrier, NULL, n + 1);
	for (unsigned i = 0; i < n; i++) {
		int err;

		p[i] = (struct producer){ .c = c, .queue = queue, .barrier = &barrier, .first = 1 + (uint64_t)i * OF_EACH };
		if ((err = (pthread_create)(&p[i].thread, NULL, produce, &p[i])) != 0)
			bench_die("pthread_create", err);
	}
	for (int i = 0; i < TIMES; i++) {
		if (i == TIMES - 1)
			count_all(of);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		c->finish(queue);
	}
	sum = count_since(of);
	snprintf(shape, sizeof(shape), "%ux%u", n, n);
	printf("%-7s %-12s %-10s done %8.4f moved %8.4f failed %8.4f per %u callbacks\n", shape, c->name, "sum",
	    (double)(sum.all - sum.failed) / blocks, (double)sum.moved / blocks, (double)sum.failed / blocks, block_of(c));
	if (is_cq(c))
		passed = print_fields(shape, c, of, blocks);
	for (unsigned i = 0; i < n; i++) {
		pthread_join(p[i].thread, NULL);
		c->end(p[i].handle);
	}
	__atomic_store_n(&watched, NULL, __ATOMIC_RELAXED);
	c->destroy(queue);
	free(p);
	check_conserved(c, &before, (uint64_t)n * OF_EACH, TIMES, false);
	return passed;
}

/* --------------------------------------------------------------------- main */

/* In a process of its own, as its threads are bound to processors. */
static bool passes(bool (*run)(unsigned of, const struct contestant *c), unsigned of, const struct contestant *c)
{
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		bench_die("fork", errno);
	if (pid == 0) {
		pinning_begins();
		exit(!run(of, c));
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool all_pass(unsigned n)
{
	bool passed = true;

	for (unsigned i = 0; i < sizeof(contestants) / sizeof(contestants[0]); i++)
		passed = passes(run_shape, n, contestants[i]) && passed;
	return passed;
}

int main(void)
{
	unsigned processors = count_processors();
	bool passed = true;

	for (unsigned k = 0; k < sizeof(cases) / sizeof(cases[0]); k++)
		for (unsigned i = 0; i < sizeof(contestants) / sizeof(contestants[0]); i++)
			passed = passes(run_case, k, contestants[i]) && passed;
	printf("# %u processors: where threads share one, fewer lines move than would\n", processors);
	for (unsigned n = 1; n <= 4 || 2 * n <= processors; n *= 2)
		passed = all_pass(n) && passed;
	if (processors > 8 && (processors & (processors - 1)) != 0) /* else it was one of these */
		passed = all_pass(processors / 2) && passed;
	return !passed;
}
