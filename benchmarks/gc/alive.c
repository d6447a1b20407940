/* SPDX-License-Identifier: BSD-2-Clause */
/* Objects that live, and what their cleanups add to each collection and to memory; and the calls alone. */
#include "boehm.h"

#include <unistd.h>

enum { TIMES = 7 };

/* The least of some times: what other programs on the machine take is none of theirs. */
static void least(double *least_of, double ns)
{
	*least_of = ns < *least_of ? ns : *least_of;
}

/* In ns; `lock` is what libcq-gc has the collector's lock for. */
struct cost {
	double wall, cpu, stop, lock;
};

static double pass(void)
{
	cq_gc_counts_t counts;

	cq_gc_counts(&counts);
	return (double)counts.pass_ns;
}

static struct cost collections(void)
{
	struct cost cost = { 1e12, 1e12, 1e12, 1e12 };

	for (int i = 0; i < TIMES; i++) {
		struct times took, began = now();

		stopped();
		GC_gcollect();
		took = since(began);
		least(&cost.wall, took.wall);
		least(&cost.cpu, took.cpu);
		least(&cost.stop, stopped());
		least(&cost.lock, pass());
	}
	return cost;
}

/* Bytes. */
static double resident(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f == NULL || fscanf(f, "%*s %lu", &pages) != 1)
		fail("no /proc/self/statm");
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* The same each time. */
static void shuffle(size_t *order)
{
	uint64_t x = 88172645463325252;

	for (size_t i = count - 1; i > 0; i--) {
		size_t j, swapped = order[i];

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		j = x % (i + 1);
		order[i] = order[j];
		order[j] = swapped;
	}
}

/* The least time for which the lock is held as all die at once. */
static double all_die(const size_t *order)
{
	double lock = 1e12;

	for (int i = 0; i < 3; i++) {
		if (i > 0)
			expect(count);
		for (size_t j = 0; i > 0 && j < count; j++)
			objects[j] = make();
		for (size_t j = 0; i > 0 && j < count; j++)
			attach(objects[order[j]], j);
		drop();
		GC_gcollect();
		least(&lock, pass());
		run_dead(now());
	}
	return lock;
}

void alive(bool shuffled)
{
	size_t *order = malloc(count * sizeof(*order));
	void **links = malloc(count * sizeof(*links));
	const char *what = shuffled ? "shuffled" : "alive";
	double n = (double)count, before, after;
	struct cost plain, attached;
	cq_gc_counts_t counts;

	if (order == NULL || links == NULL)
		fail("no memory");
	for (size_t i = 0; i < count; i++) {
		objects[i] = make();
		order[i] = i;
		links[i] = NULL;
	}
	if (shuffled)
		shuffle(order);
	if (!long_links)
		expect(count);
	plain = collections();
	before = resident();
	for (size_t i = 0; i < count; i++) {
		if (!long_links) {
			attach(objects[order[i]], i);
			continue;
		}
		links[i] = (void *)GC_HIDE_POINTER(objects[order[i]]);
		if (GC_register_long_link(&links[i], objects[order[i]]) != GC_SUCCESS)
			fail("GC_register_long_link fails");
	}
	after = resident();
	attached = collections();
	printf("%s %s_ms %.3f %s_added_ms %.3f %s_added_cpu_ms %.3f %s_stop_added_ms %.3f rss %.2f", name,
	    what, plain.wall / 1e6, what, (attached.wall - plain.wall) / 1e6, what, (attached.cpu - plain.cpu) / 1e6,
	    what, (attached.stop - plain.stop) / 1e6, (after - before) / n);
	if (!long_links) {
		if (ran() != 0)
			fail("a cleanup of an object that lives has run");
		cq_gc_counts(&counts);
		printf(" %s_lock_ms %.3f bytes %.2f %s_dying_lock_ms %.3f", what, attached.lock / 1e6,
		    (double)counts.bytes / n, what, all_die(order) / 1e6);
	}
	printf("\n");
}

static void never(void *arg)
{
	(void)arg;
	fail("a cleanup has run that was stopped");
}

void calls(void)
{
	cq_gc_handle_t *handles = malloc(count * sizeof(*handles));
	double n = (double)count, add = 1e12, stop = 1e12, again = 1e12;

	if (handles == NULL)
		fail("no memory");
	memset(handles, 0, count * sizeof(*handles));
	for (size_t i = 0; i < count; i++)
		objects[i] = make();
	for (int round = 0; round < TIMES; round++) {
		size_t wrong = 0;
		struct times began;

		GC_gcollect();
		began = now();
		for (size_t i = 0; i < count; i++)
			wrong += cq_gc_add(objects[i], never, NULL, &handles[i]) != 0;
		least(&add, since(began).wall);
		began = now();
		for (size_t i = 0; i < count; i++)
			wrong += !cq_gc_stop(handles[i]);
		least(&stop, since(began).wall);
		began = now();
		for (size_t i = 0; i < count; i++)
			wrong += cq_gc_stop(handles[i]);
		least(&again, since(began).wall);
		if (wrong != 0)
			fail("an add or a stop fails");
	}
	printf("%s add %.2f stop %.2f stop_again %.2f\n", name, add / n, stop / n, again / n);
}
