/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One record per cleanup, one finalizer per object. The finalizer's client data
 * is the newest record of the object, and each record points to the next older.
 *
 * Records are memory that the collector scans (so arg stays alive) and never
 * collects. A worker can't give one back to the collector, which doesn't know
 * the worker's thread; it pushes it to `spares`, a work queue, and the next
 * gc_cleanup_add takes it from there. So records are type-stable, as nodes of a
 * work queue must be, and a handle may look at its record at any time.
 */
#define GC_THREADS
#include <gc.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include <cq/producer.h>
#include <cq/workq.h>

#include "gccleanup.h"

typedef struct gc_cleanup_record {
	cq_node_t node;				/* in `spares` */
	struct gc_cleanup_record *next;		/* older one of the object; in `late` */
	struct gc_cleanup_record *all;
	cq_callback_fn *fn;
	void *arg;
	uint64_t generation;			/* of its handles; under the lock */
	bool armed;				/* not yet queued or stopped; likewise */
} record_t;
CQ_NODE_CONTAINER(record_t, node, record_of)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t producer_of_thread;
static int key_error;

static cq_workq_t spares = CQ_WORKQ_INITIALIZER;
static atomic_uint_fast64_t added, stopped, run, late_ones;

/* A leaf: nothing is called with it held. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cq_cleanup_t *queue;	/* NULL: in place; written by open only */
static atomic_bool opened, closed;
static record_t *all;		/* every record ever made */
static record_t *late;		/* queued as soon as there is memory for it */

/* ----------------------------------------------------------------- records */

static record_t *new_record(void)
{
	cq_node_t *node = cq_workq_try_pop(&spares);
	record_t *r;

	if (node != NULL)
		return record_of(node);
	r = GC_MALLOC_UNCOLLECTABLE(sizeof(*r)); /* may poll: no lock is held */
	if (r == NULL)
		return NULL;
	pthread_mutex_lock(&lock);
	r->all = all;
	all = r;
	pthread_mutex_unlock(&lock);
	return r;
}

static void recycle(record_t *r)
{
	r->arg = NULL; /* or it would keep what it points to alive */
	cq_workq_push(&spares, &r->node);
}

/* Ends the use of a record that its handles refer to; false when it has ended. */
static bool take(record_t *r)
{
	bool won;

	pthread_mutex_lock(&lock);
	won = r->armed;
	r->generation += won;
	r->armed = false;
	pthread_mutex_unlock(&lock);
	return won;
}

/* On a worker, or in place: the record outlives the call, and so does arg. */
static void run_cleanup(void *arg)
{
	record_t *r = arg;

	r->fn(r->arg);
	atomic_fetch_add(&run, 1);
	recycle(r);
}

/* ---------------------------------------------------------------- enqueuing */

static void detach_producer(void *p)
{
	cq_producer_detach(p);
}

static void make_key(void)
{
	key_error = pthread_key_create(&producer_of_thread, detach_producer);
}

/* The calling thread's producer, made at its first use; NULL without memory. */
static cq_producer_t *my_producer(void)
{
	cq_producer_t *p = pthread_getspecific(producer_of_thread);

	if (p != NULL || cq_producer_attach(queue, run_cleanup, &p) != 0)
		return p;
	if (pthread_setspecific(producer_of_thread, p) != 0) {
		cq_producer_detach(p);
		return NULL;
	}
	return p;
}

static void hand_over(record_t *r)
{
	cq_producer_t *p;

	if (queue == NULL) {
		run_cleanup(r);
		return;
	}
	p = my_producer();
	if (p != NULL && cq_producer_put(p, r) == 0)
		return;
	atomic_fetch_add(&late_ones, 1);
	pthread_mutex_lock(&lock);
	r->next = late;
	late = r;
	pthread_mutex_unlock(&lock);
}

static void hand_over_late(void)
{
	record_t *r, *next;

	pthread_mutex_lock(&lock);
	r = late;
	late = NULL;
	pthread_mutex_unlock(&lock);
	for (; r != NULL; r = next) {
		next = r->next;
		hand_over(r);
	}
}

static void publish(void)
{
	cq_producer_t *p = queue != NULL ? pthread_getspecific(producer_of_thread) : NULL;

	if (p != NULL)
		cq_producer_flush(p); /* an error means "later": the next one tries again */
}

/* ------------------------------------------------------- the collector's side */

/*
 * The finalizer. It must not touch the object, whose children may be gone; the
 * chain is complete, since whoever attached to the object held it alive.
 */
static void GC_CALLBACK object_died(void *object, void *newest)
{
	record_t *r, *next;

	(void)object;
	if (atomic_load(&closed)) /* all records were taken, and may be others' by now */
		return;
	for (r = newest; r != NULL; r = next) {
		next = r->next;
		if (take(r))
			hand_over(r);
		else
			recycle(r); /* it was stopped */
	}
}

size_t gc_cleanup_poll(void)
{
	/* An allocation in here (a host's spawn, say) may poll again: once is enough. */
	static __thread bool polling;
	size_t objects;

	if (polling)
		return 0;
	polling = true;
	hand_over_late();
	objects = (size_t)GC_invoke_finalizers();
	publish();
	polling = false;
	return objects;
}

size_t gc_cleanup_collect(void)
{
	GC_gcollect();
	return gc_cleanup_poll();
}

static void GC_CALLBACK notified(void)
{
	gc_cleanup_poll();
}

/* ---------------------------------------------------------------- the program's */

int gc_cleanup_open(cq_cleanup_t *q)
{
	pthread_once(&once, make_key);
	if (key_error != 0)
		return key_error;
	if (atomic_exchange(&opened, true))
		return EALREADY;
	queue = q;
	GC_set_finalize_on_demand(q != NULL);
	GC_set_finalizer_notifier(q != NULL ? notified : NULL);
	return 0;
}

/* Makes `r` the newest record of the object. Two threads may do so at once. */
static int attach(void *object, record_t *r)
{
	GC_finalization_proc old = NULL;
	void *chain = r; /* and so it stays when the collector has no memory */

	GC_register_finalizer_no_order(object, object_died, r, &old, &chain);
	if (chain == r)
		return ENOMEM;
	if (old != NULL && old != object_died) {
		GC_register_finalizer_no_order(object, old, chain, NULL, NULL);
		return EBUSY;
	}
	r->next = chain;
	return 0;
}

int gc_cleanup_add(void *ptr, cq_callback_fn *fn, void *arg, gc_cleanup_t *handle)
{
	void *object = GC_base(ptr);
	record_t *r;
	int err;

	if (object == NULL || fn == NULL || GC_base(arg) == object)
		return EINVAL;
	if ((r = new_record()) == NULL)
		return ENOMEM;
	r->fn = fn;
	r->arg = arg;
	if ((err = attach(object, r)) != 0) {
		recycle(r);
		return err;
	}
	atomic_fetch_add(&added, 1);
	pthread_mutex_lock(&lock);
	r->armed = true;
	if (handle != NULL)
		*handle = (gc_cleanup_t){ r, r->generation };
	pthread_mutex_unlock(&lock);
	GC_reachable_here(ptr); /* it must not die before the record is complete */
	return 0;
}

bool gc_cleanup_stop(gc_cleanup_t handle)
{
	record_t *r = handle.record;
	bool won;

	if (r == NULL)
		return false;
	pthread_mutex_lock(&lock);
	won = r->armed && r->generation == handle.generation;
	if (won) { /* the record is recycled when the object dies */
		r->generation++;
		r->armed = false;
		r->arg = NULL;
	}
	pthread_mutex_unlock(&lock);
	atomic_fetch_add(&stopped, won);
	return won;
}

size_t gc_cleanup_close(void)
{
	size_t left = 0;

	gc_cleanup_poll();
	atomic_store(&closed, true);
	for (record_t *r = all; r != NULL; r = r->all) {
		if (take(r)) {
			hand_over(r);
			left++;
		}
	}
	hand_over_late();
	if (queue != NULL) {
		cq_producer_detach(pthread_getspecific(producer_of_thread));
		pthread_setspecific(producer_of_thread, NULL);
	}
	return left;
}

void gc_cleanup_counts(gc_cleanup_counts_t *out)
{
	out->run = atomic_load(&run); /* first, so that it is never more than added */
	out->stopped = atomic_load(&stopped);
	out->added = atomic_load(&added);
	out->late = atomic_load(&late_ones);
}
