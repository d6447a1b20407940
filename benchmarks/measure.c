/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* affinity */
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"
#include "workload.h"

/* ------------------------------------------------------------------- clocks */

uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t process_cpu(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t thread_cpu(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void sleep_until(uint64_t at)
{
	struct timespec t = { (time_t)(at / 1000000000), (long)(at % 1000000000) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

void work_until(uint64_t at)
{
	static volatile uint64_t sink;

	while (now() < at)
		sink = own_work(16, sink);
}

void sleep_exactly(void)
{
	if (prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL) != 0)
		bench_die("prctl", errno);
}

/* The fastest of many short tries: what else the machine does only adds. */
unsigned calibrate_own_work(void)
{
	enum { TRIES = 300, ROUNDS = 2000 };
	static volatile uint64_t sink;
	uint64_t best = UINT64_MAX;
	double rounds;

	for (int i = 0; i < TRIES; i++) {
		uint64_t began = now(), took;

		sink = own_work(ROUNDS, sink);
		took = now() - began;
		if (took < best)
			best = took;
	}
	rounds = (double)OWN_WORK_NS * ROUNDS / (double)(best != 0 ? best : 1);
	return rounds < 1 ? 1 : (unsigned)(rounds + 0.5);
}

/* ----------------------------------------------------------------- counters */

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void sort_ns(uint64_t *v, unsigned n)
{
	qsort(v, n, sizeof(*v), by_value);
}

double percentile(const uint64_t *sorted, unsigned n, unsigned permille)
{
	return (double)sorted[(uint64_t)(n - 1) * permille / 1000];
}

uint64_t context_switches(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)u.ru_nvcsw + (uint64_t)u.ru_nivcsw;
}

uint64_t sleeps(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)u.ru_nvcsw;
}

static int call_counter = -1;

static bool read_number(const char *path, unsigned long *n)
{
	FILE *f = fopen(path, "r");
	bool ok = f != NULL && fscanf(f, "%lu", n) == 1;

	if (f != NULL)
		fclose(f);
	return ok;
}

/* In one of the two places where the kernel has its list of events. */
static bool read_id(const char *call, unsigned long *id)
{
	static const char *const kernel[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };
	char path[128];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/events/syscalls/sys_enter_%s/id", kernel[i], call);
		if (read_number(path, id))
			return true;
	}
	return false;
}

bool call_counter_open(const char *call)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.inherit = 1, /* threads that will be made */
	};
	unsigned long id;

	if (!read_id(call, &id))
		return false;
	attr.config = id;
	call_counter = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1,
	    PERF_FLAG_FD_CLOEXEC);
	return call_counter >= 0;
}

uint64_t counted_calls(void)
{
	uint64_t n = 0;

	if (read(call_counter, &n, sizeof(n)) != sizeof(n))
		bench_die("read of the counter of calls", errno);
	return n;
}

/* --------------------------------------------------------------- processors */

/*
 * In W1 every producer, and every worker as it runs its first callback, binds
 * itself to the next processor of those that the process had. Left to the
 * scheduler, a run has its threads side by side or all on one processor, by
 * chance, and the two differ by a factor of three.
 */
static cpu_set_t allowed; /* empty: no pinning now */
static unsigned next_processor;

static void get_allowed(cpu_set_t *set)
{
	if (sched_getaffinity(0, sizeof(*set), set) != 0)
		bench_die("sched_getaffinity", errno);
}

unsigned count_processors(void)
{
	cpu_set_t set;

	get_allowed(&set);
	return (unsigned)CPU_COUNT(&set);
}

void pinning_begins(void)
{
	if (settings.pinning)
		get_allowed(&allowed);
	next_processor = 0;
}

void pinning_ends(void)
{
	CPU_ZERO(&allowed);
}

static void bind_to(const cpu_set_t *set, unsigned nth)
{
	unsigned n = (unsigned)CPU_COUNT(set);
	int cpu = -1;
	cpu_set_t one;

	if (n == 0)
		return;
	for (unsigned left = nth % n + 1; left != 0; left--)
		do
			cpu++;
		while (!CPU_ISSET(cpu, set));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one) != 0) /* 0: this thread */
		bench_die("sched_setaffinity", errno);
}

void pin_to_next(void)
{
	bind_to(&allowed, __atomic_fetch_add(&next_processor, 1, __ATOMIC_RELAXED));
}

void pin_to(unsigned nth)
{
	bind_to(&allowed, nth);
}

/* ------------------------------------------------------------- conservation */

static struct tally *tallies; /* of all threads that ever ran one */
static __thread struct tally *mine;

static void new_tally(void)
{
	pin_to_next();
	mine = aligned_alloc(64, sizeof(*mine));
	if (mine == NULL)
		bench_die("aligned_alloc", ENOMEM);
	memset(mine, 0, sizeof(*mine));
	mine->next = __atomic_load_n(&tallies, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&tallies, &mine->next, mine, false, __ATOMIC_RELEASE,
	    __ATOMIC_RELAXED))
		;
}

static void add_number(struct tally *t, uint64_t number)
{
	t->sums[0] += 1;
	t->sums[1] += number;
	t->sums[2] += number * number;
}

void count(void *number)
{
	if (mine == NULL)
		new_tally();
	add_number(mine, (uintptr_t)number);
}

void count_other(void *number)
{
	count(number);
	mine->sums[3] += (uintptr_t)number;
}

struct tally tally_now(void)
{
	struct tally sum = { { 0 }, NULL };

	for (struct tally *t = __atomic_load_n(&tallies, __ATOMIC_ACQUIRE); t != NULL; t = t->next)
		for (int i = 0; i < 4; i++)
			sum.sums[i] += t->sums[i];
	return sum;
}

unsigned tallied_threads(void)
{
	unsigned n = 0;

	for (struct tally *t = __atomic_load_n(&tallies, __ATOMIC_ACQUIRE); t != NULL; t = t->next)
		n++;
	return n;
}

_Noreturn void not_conserved(const struct contestant *c)
{
	fprintf(stderr, "bench: %s: a callback was lost, or ran twice\n", c->name);
	_exit(1);
}

void check_conserved(const struct contestant *c, const struct tally *before, uint64_t n,
    uint64_t times, bool alternating)
{
	struct tally want = { { 0 }, NULL }, is = tally_now();

	for (uint64_t number = 1; number <= n; number++) {
		add_number(&want, number);
		if (alternating && number % 2 == 0)
			want.sums[3] += number;
	}
	for (int i = 0; i < 4; i++)
		if (is.sums[i] - before->sums[i] != want.sums[i] * times)
			not_conserved(c);
}

/* --------------------------------------------------------- making workers be */

struct meeting {
	pthread_mutex_t lock;
	pthread_cond_t all_here;
	unsigned here, expected;
	struct timespec until;
};

static void meet(void *arg)
{
	struct meeting *m = arg;

	count((void *)1);
	pthread_mutex_lock(&m->lock);
	if (++m->here == m->expected)
		pthread_cond_broadcast(&m->all_here);
	while (m->here < m->expected &&
	    pthread_cond_timedwait(&m->all_here, &m->lock, &m->until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&m->lock);
}

void rouse_workers(const struct contestant *c, void *queue, unsigned workers)
{
	enum { PATIENCE_NS = 20000000 };
	void *producer = c->begin(queue);
	struct meeting m = { .lock = PTHREAD_MUTEX_INITIALIZER, .expected = workers };
	uint64_t until = clock_ns(CLOCK_REALTIME) + PATIENCE_NS;

	pthread_cond_init(&m.all_here, NULL);
	m.until = (struct timespec){ (time_t)(until / 1000000000), (long)(until % 1000000000) };
	for (unsigned i = 0; i < workers; i++) {
		enqueue(c, producer, meet, &m);
		c->flush(producer);
	}
	c->finish(queue);
	c->end(producer);
	if (m.here != workers)
		not_conserved(c);
	pthread_cond_destroy(&m.all_here);
	pthread_mutex_destroy(&m.lock);
}
