/* SPDX-License-Identifier: BSD-2-Clause */
/* The adapter's own test: each check runs with libcq, short of memory, and in place. */
#define GC_THREADS
#include <gc.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gccleanup.h"

enum { OBJECTS = 1000, FEW = 20 }; /* FEW: a conservative collector may keep some */

static const char *const names[] = { "libcq", "short of memory", "in place" };
static enum mode { LIBCQ, SHORT_OF_MEMORY, IN_PLACE } mode;
static cq_cleanup_t *queue;
static int failures;

#define CHECK(ok)									\
	do {										\
		if (!(ok)) {								\
			failures++;							\
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);	\
		}									\
	} while (0)

/* ---------------------------------------------------------------- the allocator */

static atomic_bool refusing;

/* While it is refusing, three of four times: enqueues fail, and are made good later. */
static void *sometimes(void *host, size_t bytes, size_t align)
{
	static atomic_uint calls;

	(void)host;
	if (atomic_load(&refusing) && atomic_fetch_add(&calls, 1) % 4 != 0)
		return NULL;
	return aligned_alloc(align, (bytes + align - 1) / align * align);
}

static void give_back(void *host, void *memory, size_t bytes)
{
	(void)host;
	(void)bytes;
	free(memory);
}

static int make_queue(void)
{
	static const cq_allocator_t allocator = { sometimes, give_back, NULL };
	cq_cleanup_config_t config = { .allocator = &allocator };

	return mode == IN_PLACE ? 0 : cq_cleanup_create(&config, &queue);
}

/* ------------------------------------------------------------------- collecting */

static void count(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

/* Hides from the stack of the caller what the callee had there. */
static __attribute__((noinline)) void forget(void)
{
	volatile char stale[4096];

	memset((char *)(uintptr_t)stale, 0, sizeof(stale));
}

static void collect(void)
{
	atomic_store(&refusing, mode == SHORT_OF_MEMORY);
	for (int i = 0; i < 3; i++) {
		forget();
		gc_cleanup_collect();
	}
	atomic_store(&refusing, false);
	gc_cleanup_poll();
	if (queue != NULL)
		CHECK(cq_cleanup_drain(queue, CQ_FOREVER) == 0);
}

static bool most_of(int n, int all)
{
	return n <= all && n >= all - all / OBJECTS * FEW;
}

/* -------------------------------------------------------------------- the checks */

static void own_finalizer(void *object, void *arg)
{
	(void)object;
	count(arg);
}

static void what_could_never_run_is_refused(void)
{
	static atomic_int ran;
	char *object = GC_MALLOC(64), *other = GC_MALLOC(16);
	int local;

	CHECK(gc_cleanup_add(object, count, object, NULL) == EINVAL);
	CHECK(gc_cleanup_add(object, count, object + 8, NULL) == EINVAL);
	CHECK(gc_cleanup_add(object, NULL, &ran, NULL) == EINVAL);
	CHECK(gc_cleanup_add(NULL, count, &ran, NULL) == EINVAL);
	CHECK(gc_cleanup_add(&local, count, &ran, NULL) == EINVAL);
	GC_register_finalizer_no_order(other, own_finalizer, &ran, NULL, NULL);
	CHECK(gc_cleanup_add(other, count, &ran, NULL) == EBUSY);
	GC_finalization_proc proc;
	void *arg;
	GC_register_finalizer_no_order(other, NULL, NULL, &proc, &arg);
	CHECK(proc == own_finalizer && arg == &ran);
}

static atomic_int ran_of_many;

static __attribute__((noinline)) void make_with_three_each(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		char *object = GC_MALLOC(32);

		for (int n = 0; n < 3; n++)
			CHECK(gc_cleanup_add(object + n, count, &ran_of_many, NULL) == 0);
	}
}

static void several_cleanups_of_an_object_all_run(void)
{
	make_with_three_each();
	collect();
	CHECK(most_of(atomic_load(&ran_of_many), 3 * OBJECTS));
}

static void cleanup_of_a_live_object_does_not_run(void)
{
	static atomic_int ran;
	static void *volatile alive; /* a root; volatile, or the store is optimized away */

	alive = GC_MALLOC(16);
	CHECK(gc_cleanup_add(alive, count, &ran, NULL) == 0);
	collect();
	CHECK(atomic_load(&ran) == 0);
}

static atomic_int ran_stopped, ran_beside;
static gc_cleanup_t handles[OBJECTS];

static __attribute__((noinline)) void make_and_stop(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		void *object = GC_MALLOC(32);

		CHECK(gc_cleanup_add(object, count, &ran_stopped, &handles[i]) == 0);
		CHECK(gc_cleanup_add(object, count, &ran_beside, NULL) == 0);
		CHECK(gc_cleanup_stop(handles[i]));
		CHECK(!gc_cleanup_stop(handles[i]));
		GC_reachable_here(object);
	}
}

static void stopped_cleanup_does_not_run_but_its_neighbour_does(void)
{
	make_and_stop();
	collect();
	CHECK(atomic_load(&ran_stopped) == 0);
	CHECK(most_of(atomic_load(&ran_beside), OBJECTS));
	CHECK(!gc_cleanup_stop((gc_cleanup_t){ NULL, 0 }));
}

static void old_handle_does_not_stop_a_new_cleanup(void)
{
	static atomic_int ran;
	void *object = GC_MALLOC(16);

	/* The records of the stopped ones are in use again for this. */
	for (int i = 0; i < OBJECTS; i++)
		CHECK(gc_cleanup_add(object, count, &ran, NULL) == 0);
	for (int i = 0; i < OBJECTS; i++)
		CHECK(!gc_cleanup_stop(handles[i]));
	GC_reachable_here(object);
}

static atomic_int intact, args_died;

static void look_at(void *arg)
{
	atomic_fetch_add(&intact, strcmp(arg, "still here") == 0);
}

static __attribute__((noinline)) void make_with_collected_args(bool stop)
{
	for (int i = 0; i < OBJECTS; i++) {
		void *object = GC_MALLOC(16);
		char *arg = GC_MALLOC_ATOMIC(32);
		gc_cleanup_t handle;

		strcpy(arg, "still here");
		CHECK(gc_cleanup_add(object, look_at, arg, &handle) == 0);
		if (stop) {
			CHECK(gc_cleanup_add(arg, count, &args_died, NULL) == 0);
			CHECK(gc_cleanup_stop(handle));
		}
		GC_reachable_here(object);
	}
}

static void arg_lives_until_its_cleanup_has_run(void)
{
	make_with_collected_args(false);
	collect();
	CHECK(most_of(atomic_load(&intact), OBJECTS));
}

static void arg_of_a_stopped_cleanup_may_die(void)
{
	make_with_collected_args(true);
	collect();
	CHECK(most_of(atomic_load(&args_died), OBJECTS));
}

/* ---------------------------------------------------------------- many threads */

static void *shared[64]; /* objects to which several threads attach at once */
static atomic_int ran_in_threads;
static atomic_uint stops;

static void *add_and_stop(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < 20 * OBJECTS; i++) {
		gc_cleanup_t handle;
		void *object = i % 8 == 0 ? shared[i / 8 % 64] : GC_MALLOC(48);

		CHECK(gc_cleanup_add(object, count, &ran_in_threads, &handle) == 0);
		if (rand_r(&seed) % 4 == 0)
			atomic_fetch_add(&stops, gc_cleanup_stop(handle));
	}
	return NULL;
}

static void threads_lose_nothing(void)
{
	pthread_t threads[4];

	for (int i = 0; i < 64; i++)
		shared[i] = GC_MALLOC(16);
	for (uintptr_t t = 0; t < 4; t++)
		CHECK(pthread_create(&threads[t], NULL, add_and_stop, (void *)(t + 1)) == 0);
	for (int t = 0; t < 4; t++)
		pthread_join(threads[t], NULL);
	memset(shared, 0, sizeof(shared));
	collect();
	CHECK(most_of(atomic_load(&ran_in_threads) + (int)atomic_load(&stops), 80 * OBJECTS));
}

/* ------------------------------------------------------------------------- main */

static void at_the_end_all_have_run(void)
{
	gc_cleanup_counts_t c;

	CHECK(gc_cleanup_open(queue) == EALREADY);
	CHECK(gc_cleanup_close() >= 1); /* the live one, at least */
	if (queue != NULL) {
		CHECK(cq_cleanup_shutdown(queue, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
		CHECK(cq_cleanup_destroy(queue) == 0);
	}
	gc_cleanup_counts(&c);
	CHECK(c.added == c.run + c.stopped);
	CHECK((c.late > 0) == (mode == SHORT_OF_MEMORY));
	printf("gccleanup, %s: %d cleanups run, %d stopped, %d late, %d failure(s)\n", names[mode],
	    (int)c.run, (int)c.stopped, (int)c.late, failures);
}

static int run_checks(void)
{
	GC_INIT();
	CHECK(make_queue() == 0);
	CHECK(gc_cleanup_open(queue) == 0);
	what_could_never_run_is_refused();
	several_cleanups_of_an_object_all_run();
	cleanup_of_a_live_object_does_not_run();
	stopped_cleanup_does_not_run_but_its_neighbour_does();
	old_handle_does_not_stop_a_new_cleanup();
	arg_lives_until_its_cleanup_has_run();
	arg_of_a_stopped_cleanup_may_die();
	atomic_store(&refusing, mode == SHORT_OF_MEMORY);
	threads_lose_nothing();
	at_the_end_all_have_run();
	fflush(stdout);
	return failures != 0;
}

/* The adapter starts once per process, so each way of running has a process. */
int main(void)
{
	int bad = 0;

	for (mode = LIBCQ; mode <= IN_PLACE; mode++) {
		pid_t pid = fork();
		int status = 1;

		if (pid == 0)
			_exit(run_checks());
		bad |= pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
	}
	return bad;
}
