/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cleanups that do work, beside mutators that do some of their own: half as many as processors. Each collects
 * after every 1000 objects, as programs do whose resources are large and whose objects are small.
 */
#include "boehm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { EACH = 1000, MAPPED = 64 * 1024 };

static struct kind {
	const char *name;
	intptr_t (*acquire)(void);	/* -1, errno: there are no more */
	cq_callback_fn *release;
} kinds[3];
static const struct kind *kind;
static size_t each;		/* mutator's objects */
static atomic_size_t refused;
static atomic_ullong mutators_cpu;	/* ns */
static volatile uint64_t sum;
static uint64_t loops;		/* that take 1 us */

static void compute(uint64_t n)
{
	uint64_t x = n;

	while (n-- > 0)
		x = x * 6364136223846793005 + 1;
	sum = x;
}

static void calibrate(void)
{
	double best = 1e12;

	for (int i = 0; i < 5; i++) {
		struct times began = now();

		compute(1000000);
		best = since(began).wall < best ? since(began).wall : best;
	}
	loops = (uint64_t)(1000000 * 1000 / best);
}

static intptr_t acquire_time(void)
{
	compute(loops);
	return 0;
}

static void release_time(void *arg)
{
	(void)arg;
	compute(loops);
}

static intptr_t acquire_file(void)
{
	return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
}

static void release_file(void *arg)
{
	close((int)(intptr_t)arg);
}

static intptr_t acquire_memory(void)
{
	char *p = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -1;
	*p = 1;
	return (intptr_t)p;
}

static void release_memory(void *arg)
{
	munmap(arg, MAPPED);
}

static struct kind kinds[3] = {
	{ "compute", acquire_time, release_time },
	{ "close", acquire_file, release_file },
	{ "munmap", acquire_memory, release_memory },
};

static void *mutate(void *arg)
{
	struct timespec cpu;

	(void)arg;
	for (size_t i = 1; i <= each; i++) {
		intptr_t got;

		while ((got = kind->acquire()) == -1) {
			if (errno != EMFILE && errno != ENOMEM)
				fail("a resource can't be had");
			atomic_fetch_add(&refused, 1);
			(void)!cq_gc_relieve(CQ_FOREVER);
		}
		if (cq_gc_add(make(), kind->release, (void *)got, NULL) != 0)
			fail("cq_gc_add fails");
		if (i % EACH == 0)
			cq_gc_collect();
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	atomic_fetch_add(&mutators_cpu, (unsigned long long)cpu.tv_sec * 1000000000 + (unsigned long long)cpu.tv_nsec);
	return NULL;
}

/* What a mutator does for each, and what its cleanup does, with nobody else about: in ns of CPU. */
static void alone(double *acquire, double *release)
{
	static intptr_t got[EACH];
	double least[2] = { 1e12, 1e12 };

	for (int i = 0; i < 5; i++) {
		struct times began = now(), then;

		for (size_t j = 0; j < EACH; j++)
			if ((got[j] = kind->acquire()) == -1)
				fail("a resource can't be had");
		then = since(began);
		began = now();
		for (size_t j = 0; j < EACH; j++)
			kind->release((void *)got[j]);
		least[0] = then.cpu < least[0] ? then.cpu : least[0];
		then = since(began);
		least[1] = then.cpu < least[1] ? then.cpu : least[1];
	}
	*acquire = least[0] / EACH;
	*release = least[1] / EACH;
}

void work(const char *what)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN), mutators = processors / 2 > 0 ? processors / 2 : 1;
	pthread_t thread[64];
	struct times began, took, all;
	double n, acquire, release;

	for (size_t i = 0; i < 3; i++)
		if (strcmp(what, kinds[i].name) == 0)
			kind = &kinds[i];
	if (kind == NULL)
		fail("no such workload");
	mutators = mutators > 64 ? 64 : mutators;
	calibrate();
	alone(&acquire, &release);
	each = count / (size_t)mutators;
	n = (double)(each * (size_t)mutators);
	began = now();
	for (long i = 0; i < mutators; i++)
		if (pthread_create(&thread[i], NULL, mutate, NULL) != 0)
			fail("pthread_create fails");
	for (long i = 0; i < mutators; i++)
		pthread_join(thread[i], NULL);
	took = since(began);
	cq_gc_collect();
	if (queue != NULL && cq_cleanup_drain(queue, CQ_FOREVER) != 0)
		fail("cq_cleanup_drain fails");
	all = since(began);
	printf("%s %s %.2f %s_mutator_cpu %.2f %s_done %.2f %s_cpu %.2f %s_own %.2f %s_cleanup %.2f %s_refused %zu\n",
	    name, what, took.wall / n, what, (double)atomic_load(&mutators_cpu) / n, what, all.wall / n, what, all.cpu / n,
	    what, acquire, what, release, what, atomic_load(&refused));
}
