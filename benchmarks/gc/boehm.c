/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Usage: boehm cq|cq_args|cq_boxed|in_place|long_link WORKLOAD COUNT
 *
 * One measurement of cleanups of the Boehm collector by libcq-gc: on a queue's workers, the same with arguments in
 * collected memory or with one made for each, or in place. go.go and Java.java do the same; benchmarks/README says
 * what the workloads are. A conservative collector may keep some objects for good; what was attached has run, once each,
 * or it fails.
 */
#include "boehm.h"

#include <time.h>

const char *name;
cq_cleanup_t *queue;
static bool collected, boxed;
bool long_links;
void **objects;
size_t count;

static uint8_t *runs;		/* how often each of the expected cleanups */
static size_t nruns;
static atomic_size_t nran;

_Noreturn void fail(const char *what)
{
	fprintf(stderr, "boehm: %s\n", what);
	exit(1);
}

static double clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

struct times now(void)
{
	return (struct times){ clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_PROCESS_CPUTIME_ID) };
}

struct times since(struct times began)
{
	struct times t = now();

	return (struct times){ t.wall - began.wall, t.cpu - began.cpu };
}

void *make(void)
{
	void *object = GC_MALLOC(WORDS * sizeof(void *));

	if (object == NULL)
		fail("no memory");
	return object;
}

static void count_run(void *arg)
{
	++*(uint8_t *)arg;
	atomic_fetch_add(&nran, 1);
}

static void count_boxed(void *arg)
{
	count_run(*(uint8_t **)arg);
}

static void check(void)
{
	for (size_t i = 0; i < nruns; i++)
		if (runs[i] > 1)
			fail("a cleanup ran twice");
}

void expect(size_t n)
{
	check();
	/* What a collector has kept may yet run: never freed. */
	runs = collected ? GC_MALLOC_ATOMIC_UNCOLLECTABLE(n) : malloc(n);
	nruns = n;
	if (runs == NULL)
		fail("no memory");
	memset(runs, 0, n);	/* and make its pages */
	atomic_store(&nran, 0);
}

void attach(void *object, size_t i)
{
	void *arg = runs + i;

	if (boxed) {
		uint8_t **of = GC_MALLOC_ATOMIC(sizeof(*of));

		if (of == NULL)
			fail("no memory");
		*of = arg;
		arg = of;
	}
	if (cq_gc_add(object, boxed ? count_boxed : count_run, arg, NULL) != 0)
		fail("cq_gc_add fails");
}

size_t ran(void)
{
	return atomic_load(&nran);
}

struct times run_dead(struct times began)
{
	struct times last = { 0, 0 };
	size_t before = ran(), n;

	cq_gc_collect();
	do { /* the library's own thread may still hand some over */
		cq_gc_poll();
		if (queue != NULL && cq_cleanup_drain(queue, CQ_FOREVER) != 0)
			fail("cq_cleanup_drain fails");
		n = ran();
		if (n != before || last.wall == 0)
			last = since(began);
		before = n;
	} while (n < nruns && since(began).wall - last.wall < 30e6);
	return last;
}

__attribute__((noinline)) void drop(void)
{
	volatile char stale[4096];

	memset((char *)(uintptr_t)stale, 0, sizeof(stale));
	memset(objects, 0, count * sizeof(*objects));
}

static GC_on_collection_event_proc handler_before;
static double stopped_at, stopped_ns;

static void GC_CALLBACK on_event(GC_EventType event)
{
	if (event == GC_EVENT_PRE_STOP_WORLD)
		stopped_at = clock_ns(CLOCK_MONOTONIC);
	else if (event == GC_EVENT_POST_START_WORLD)
		stopped_ns += clock_ns(CLOCK_MONOTONIC) - stopped_at;
	if (handler_before != NULL)
		handler_before(event);
}

double stopped(void)
{
	double ns = stopped_ns;

	stopped_ns = 0;
	return ns;
}

/* From the drop of all until the last has run, after a few to warm up. */
void dying(void)
{
	enum { WARM_UPS = 3 };
	double n = (double)count;
	struct times began, made, attached, plain, all;

	for (int i = 0; i <= WARM_UPS; i++) {
		cq_gc_collect();
		began = now();
		for (size_t j = 0; j < count; j++)
			objects[j] = make();
		made = since(began);
		drop();
		began = now();
		cq_gc_collect();
		plain = since(began);

		expect(count);
		began = now();
		for (size_t j = 0; j < count; j++)
			attach(objects[j] = make(), j);
		attached = since(began);
		drop();
		all = run_dead(now());
		if (i == WARM_UPS)
			printf("%s attach %.2f attach_cpu %.2f made_cpu %.2f plain %.2f plain_cpu %.2f"
			    " wall %.2f cpu %.2f kept %ld\n", name,
			    attached.wall / n, attached.cpu / n, made.cpu / n, plain.wall / n, plain.cpu / n, all.wall / n, all.cpu / n,
			    (long)count - (long)ran());
	}
}

static void start(int argc, char **argv)
{
	static char full[64];

	if (argc != 4 || (count = strtoul(argv[3], NULL, 10)) == 0)
		fail("usage: boehm cq|cq_args|cq_boxed|in_place|long_link WORKLOAD COUNT");
	snprintf(full, sizeof(full), "boehm_%s", argv[1]);
	name = full;
	collected = strcmp(argv[1], "cq_args") == 0;
	boxed = strcmp(argv[1], "cq_boxed") == 0;
	long_links = strcmp(argv[1], "long_link") == 0;
	GC_INIT();
	GC_allow_register_threads();
	if (strncmp(argv[1], "cq", 2) == 0 && cq_cleanup_create(NULL, &queue) != 0)
		fail("cq_cleanup_create fails");
	handler_before = GC_get_on_collection_event();
	GC_set_on_collection_event(on_event);
	if (!long_links && cq_gc_open(queue) != 0)
		fail("cq_gc_open fails");
	objects = GC_MALLOC_UNCOLLECTABLE(count * sizeof(*objects));
	if (objects == NULL)
		fail("no memory");
}

int main(int argc, char **argv)
{
	start(argc, argv);
	if (strcmp(argv[2], "dying") == 0)
		dying();
	else if (strncmp(argv[2], "steady", 6) == 0)
		steady((unsigned int)atoi(argv[2] + 6));
	else if (strcmp(argv[2], "alive") == 0)
		alive(false);
	else if (strcmp(argv[2], "shuffled") == 0)
		alive(true);
	else if (strcmp(argv[2], "calls") == 0)
		calls();
	else
		work(argv[2]);
	if (long_links)
		return 0;
	cq_gc_close();
	if (queue != NULL && (cq_cleanup_shutdown(queue, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0 ||
	    cq_cleanup_destroy(queue) != 0))
		fail("the queue does not end");
	check();
	if (ran() < nruns)
		fail("a cleanup did not run");
	return 0;
}
