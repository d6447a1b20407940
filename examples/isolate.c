/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An isolate: a heap and a thread, which alone may touch its objects, so that its finalizers run in
 * its own loop. Others put them into its queue, here a collector, and no worker ever comes for them.
 */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include <cq/cq.h>

enum { ISOLATES = 3, OBJECTS = 100000, SOME = 100 };

struct isolate {
	cq_cleanup_t *finalizers;
	cq_producer_t *of_collector;
	int wake[2];			/* a pipe, in which its loop sleeps */
	pthread_t thread;
	unsigned finalized, elsewhere;	/* objects; in other threads */
};

static void finalize(void *isolate)
{
	struct isolate *me = isolate;

	me->finalized++;
	me->elsewhere += !pthread_equal(pthread_self(), me->thread);
}

/* Called by whoever puts the first that the loop doesn't know of, in any thread. */
static void wake(void *isolate)
{
	while (write(((struct isolate *)isolate)->wake[1], "", 1) < 0)
		continue;
}

/* The main loop. In one of a real isolate the read is a poll, of sockets and timers too. */
static void *run(void *isolate)
{
	struct isolate *me = isolate;
	char event;

	while (me->finalized < OBJECTS) {
		if (read(me->wake[0], &event, 1) < 0)
			continue;
		/* A few at a time, between other events, until there are fewer: then a wake says so. */
		while (cq_cleanup_run_some(me->finalizers, SOME) == SOME)
			; /* other events */
	}
	return NULL;
}

static int open_isolate(struct isolate *me, cq_pool_t *pool)
{
	const cq_cleanup_config_t config = {
		.pool = pool, .parallel = CQ_BY_OWNER, .wake_owner = wake, .host = me
	};

	return pipe(me->wake) != 0 || cq_cleanup_create(&config, &me->finalizers) != 0 ||
	    cq_producer_attach(me->finalizers, finalize, &me->of_collector) != 0 ||
	    pthread_create(&me->thread, NULL, run, me) != 0;
}

static int close_isolate(struct isolate *me)
{
	cq_producer_detach(me->of_collector);
	pthread_join(me->thread, NULL);
	close(me->wake[0]);
	close(me->wake[1]);
	return cq_cleanup_shutdown(me->finalizers, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) != 0 ||
	    cq_cleanup_destroy(me->finalizers) != 0 || me->elsewhere != 0;
}

/* Finds all objects dead, of which each isolate has as many. */
static int collect(struct isolate *isolates)
{
	int err = 0;

	for (int i = 0; err == 0 && i < ISOLATES * OBJECTS; i++)
		err = cq_producer_put(isolates[i % ISOLATES].of_collector, &isolates[i % ISOLATES]);
	for (int i = 0; err == 0 && i < ISOLATES; i++)
		err = cq_producer_flush(isolates[i].of_collector);
	return err;
}

int main(void)
{
	static struct isolate isolates[ISOLATES];
	cq_pool_stats_t s;
	cq_pool_t *pool;

	if (cq_pool_create(NULL, &pool) != 0)
		return 1;
	for (int i = 0; i < ISOLATES; i++)
		if (open_isolate(&isolates[i], pool) != 0)
			return 1;
	if (collect(isolates) != 0)
		return 1;
	for (int i = 0; i < ISOLATES; i++)
		if (close_isolate(&isolates[i]) != 0)
			return 1;
	cq_pool_stats(pool, &s);
	printf("isolate: %d finalizers in each of %d loops, none in %u workers\n", OBJECTS, ISOLATES, s.workers_peak);
	return cq_pool_destroy(pool, CQ_FOREVER) != 0 || s.workers_peak != 0;
}
