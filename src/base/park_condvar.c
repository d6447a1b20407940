/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parking on condition variables, for systems without futexes.
 *
 * The mutexes and condition variables are not in the parkers but in a fixed table, chosen by the parker's
 * address (a "parking lot"): a waker that still holds the lock, or signals, when the parked thread has
 * returned and freed its parker touches only the table. A parker has no state to destroy.
 */
#include <errno.h>
#include <pthread.h>

#include "ordering.h"
#include "park.h"
#include "points.h"

/* Two threads that park in the same place wake each other for nothing. 32 makes that rare for the dozen of
   workers that a process has. A fork holds all their locks, and ThreadSanitizer bears no thread that holds
   64. */
enum { PLACES_LOG2 = 5, PLACES = 1 << PLACES_LOG2 };

static struct place {
	pthread_mutex_t lock;
	pthread_cond_t granted;
} places[PLACES] = { [0 ... PLACES - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int atfork_err;

static void init_places(void)
{
	for (int i = 0; i < PLACES; i++)
		cq_cond_init(&places[i].granted);
}

/* Handlers of others may fork meanwhile, as in atfork.c. */
static __thread unsigned fork_depth;
static __thread bool fork_made_this;

static void fork_prepare(void)
{
	if (fork_depth++ != 0)
		return;
	for (int i = 0; i < PLACES; i++)
		pthread_mutex_lock(&places[i].lock);
}

static void fork_ends(bool child)
{
	fork_made_this |= child;
	if (--fork_depth != 0)
		return;
	if (fork_made_this)
		init_places(); /* nobody waits there, and no waiter of the parent is to be remembered */
	fork_made_this = false;
	for (int i = 0; i < PLACES; i++)
		pthread_mutex_unlock(&places[i].lock);
}

static void fork_parent(void) { fork_ends(false); }
static void fork_child(void) { fork_ends(true); }

static void init_once(void)
{
	int saved = errno;

	init_places();
	atfork_err = pthread_atfork(fork_prepare, fork_parent, fork_child);
	errno = saved;
}

int cq_park_register(void)
{
	pthread_once(&once, init_once);
	if (atfork_err != 0)
		atfork_err = pthread_atfork(fork_prepare, fork_parent, fork_child);
	return atfork_err;
}

static struct place *place_of(const cq_parker_t *parker)
{
	/* Fibonacci hashing; the low bits of an address say little. */
	uint64_t hash = ((uintptr_t)parker >> 4) * UINT64_C(0x9e3779b97f4a7c15);

	pthread_once(&once, init_once);
	return &places[hash >> (64 - PLACES_LOG2)];
}

static void condvar_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct place *place = place_of(parker);
	int cancel;

	(void)host;
	/* The waits are cancellation points, and a thread that ends in one would leave its parker behind, to
	   be granted. (A futex system call is none.) */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	pthread_mutex_lock(&place->lock);
	if (!cq_parker_granted(parker)) {
		CQ_POINT("park.parking");
		if (deadline == CQ_FOREVER)
			pthread_cond_wait(&place->granted, &place->lock);
		else
			cq_cond_wait_until(&place->granted, &place->lock, deadline);
	}
	pthread_mutex_unlock(&place->lock);
	pthread_setcancelstate(cancel, &cancel);
}

static void condvar_unpark(void *host, cq_parker_t *parker)
{
	struct place *place = place_of(parker);

	(void)host;
	pthread_mutex_lock(&place->lock);
	/* Under the lock, or a thread that has just looked could miss it. After it the parker may be gone. */
	cq_parker_grant(parker);
	CQ_POINT("park.granted");
	pthread_cond_broadcast(&place->granted);
	pthread_mutex_unlock(&place->lock);
}

const cq_park_ops_t *cq_park_default(void)
{
	static const cq_park_ops_t ops = { cq_default_now, condvar_park, condvar_unpark, NULL };

	return &ops;
}

const char cq_park_kind[] = "condvar";
