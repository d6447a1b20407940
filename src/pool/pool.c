/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>

#include "base/park.h"
#include "base/process.h"
#include "base/sized.h"
#include "pool_inside.h"
#include "pool_priv.h"

/*
 * How long a worker may be idle, and how large its stack is, by default. 30 s:
 * long against the gaps between collections, so that a program at work keeps
 * its workers; short against its life, so that a quiet one gives them back.
 * 256 KiB: what printf and a few calls need, several times over.
 */
#define IDLE_NS_DEFAULT UINT64_C(30000000000)
#define STACK_BYTES_DEFAULT ((size_t)256 << 10)

/* ------------------------------------------------------------------------ making */

/* A quarter of the CPUs, as in Go: background work is to keep up, not to take over. */
static uint32_t default_max(uint32_t min)
{
	uint32_t quarter = cq_processors() / 4;
	uint32_t max = quarter < 1 ? 1 : quarter > CQ_WORKERS_MAX ? CQ_WORKERS_MAX : quarter;

	return max < min ? min : max;
}

static bool limits_fit(uint32_t min, uint32_t max)
{
	return min <= max && max <= CQ_WORKERS_MAX;
}

/* Fills in the defaults; false when a field is outside its limits, or a table has gaps. */
static bool complete(cq_pool_config_t *c)
{
	const unsigned known = CQ_POOL_POLLED | CQ_POOL_HOSTED | CQ_POOL_NO_ATFORK;

	if (c->workers_max == 0) {
		c->workers_max = default_max(c->workers_min);
	}
	if (c->spin_ns == 0)
		c->spin_ns = c->park == NULL && cq_processors() > 1 ? CQ_POOL_SPIN_NS : CQ_POOL_NO_SPIN;
	if (c->idle_ns == 0)
		c->idle_ns = IDLE_NS_DEFAULT;
	if (c->stack_bytes == 0)
		c->stack_bytes = STACK_BYTES_DEFAULT;
	if (c->name == NULL)
		c->name = "cq-worker";
	if (c->allocator == NULL)
		c->allocator = &cq_default_allocator;
	return (c->flags & ~known) == 0 && limits_fit(c->workers_min, c->workers_max) &&
	    c->spin_ns >= CQ_POOL_NO_SPIN && c->spin_ns <= CQ_POOL_SPIN_NS_MAX &&
	    strlen(c->name) < sizeof(((cq_pool_t *)NULL)->name) && cq_park_complete(c->park) &&
	    c->allocator->alloc != NULL && c->allocator->free != NULL &&
	    ((c->flags & CQ_POOL_HOSTED) == 0 || (c->spawn == NULL && c->workers_min == 0));
}

static int init_threads(cq_pool_t *p)
{
	int err = cq_threads_init(&p->threads);

	p->threads.allocator = &p->allocator;
	p->threads.name = p->name;
	p->threads.stack_bytes = p->config.stack_bytes;
	if (err == 0 && p->config.spawn == NULL && !cq_pool_is(p, CQ_POOL_HOSTED))
		cq_threads_note_creator(&p->threads);
	return err;
}

static int init(cq_pool_t *p, const cq_pool_config_t *c)
{
	uint32_t spin_ns = c->spin_ns > 0 ? (uint32_t)c->spin_ns : 0;
	int err;

	memset(p, 0, sizeof(*p));
	p->config = *c;
	memcpy(p->name, c->name, strlen(c->name) + 1); /* complete() has seen to it */
	p->config.name = p->name;
	p->allocator = *c->allocator;
	p->config.allocator = &p->allocator;
	p->min = c->workers_min;
	p->max = c->workers_max;
	p->body = cq_pool_worker;
	/* If one fails: a mutex of the default kind has nothing to undo. */
	if ((err = cq_workq_init(&p->waiting[0])) == 0 && (err = cq_workq_init(&p->waiting[1])) == 0 &&
	    (err = init_threads(p)) == 0 && (err = pthread_mutex_init(&p->lock, NULL)) == 0 &&
	    (err = cq_sleepers_init(&p->idle, c->park, spin_ns)) == 0 &&
	    (err = cq_sleepers_init(&p->closers, c->park, 0)) == 0)
		err = cq_fork_register(&p->fork_client, &cq_pool_fork_ops,
		    (c->flags & CQ_POOL_NO_ATFORK) == 0);
	return err;
}

/* Made and on their way to their first look: their worker_start may say no. Not on a host's threads,
   which the caller may have to lend its own. */
static int wait_for_the_first(cq_pool_t *p)
{
	cq_sleeper_t me;

	if (p->config.spawn != NULL)
		return 0;
	cq_sleeper_init(&me, NULL);
	for (;;) {
		cq_sleepers_prepare_wait(&p->closers, &me);
		if (counts_making(cq_u64_load_relaxed(&p->counts)) == 0)
			break;
		cq_sleepers_commit_wait(&p->closers, &me, CQ_FOREVER);
	}
	cq_sleepers_cancel_wait(&p->closers, &me);
	/* Pairs with the release in cq_workers_not_made: the error comes before the count. */
	cq_fence_acquire();
	return (int)cq_u32_load_relaxed(&p->last_errno);
}

static int create(const cq_pool_config_t *config, size_t bytes, cq_pool_t **out)
{
	cq_pool_config_t c;
	cq_allocator_t allocator;
	cq_pool_t *p;
	int err;

	if ((err = cq_sized_read(&c, sizeof(c), config, bytes)) != 0)
		return err;
	if (out == NULL || !complete(&c))
		return EINVAL;
	allocator = *c.allocator;
	if ((p = cq_allocate(&allocator, sizeof(*p))) == NULL)
		return ENOMEM;
	err = (uintptr_t)p % CQ_LINE == 0 ? init(p, &c) : EINVAL;
	if (err != 0) {
		cq_release(&allocator, p, sizeof(*p));
		return err;
	}
	if ((err = cq_workers_make_min(p)) == 0 && c.workers_min != 0)
		err = wait_for_the_first(p);
	if (err != 0)
		cq_pool_destroy(p, CQ_FOREVER);
	else
		*out = p;
	return err;
}

int cq_pool_create_sized(const cq_pool_config_t *config, size_t bytes, cq_pool_t **out)
{
	int saved = errno;
	int err = create(config, bytes, out);

	errno = saved;
	return err;
}

bool cq_pool_is_polled(const cq_pool_t *p)
{
	return cq_pool_is(p, CQ_POOL_POLLED);
}

const cq_park_ops_t *cq_pool_park(const cq_pool_t *p)
{
	return cq_pool_park_ops(p);
}

/* -------------------------------------------------------------------- destroying */

/* Until no worker is left, or the deadline. The last one wakes by the permit alone: see workers.c. */
static int wait_for_workers(cq_pool_t *p, uint64_t deadline)
{
	const cq_park_ops_t *park = cq_pool_park_ops(p);
	cq_parker_t me = { 0 };
	bool waits;

	pthread_mutex_lock(&p->lock);
	waits = p->workers != 0;
	p->destroyer = waits ? &me : NULL;
	pthread_mutex_unlock(&p->lock);
	while (waits && !cq_parker_granted(&me)) {
		if (deadline != CQ_FOREVER && park->now(park->host) >= deadline) {
			pthread_mutex_lock(&p->lock);
			waits = p->destroyer != &me;
			if (!waits)
				p->destroyer = NULL;
			pthread_mutex_unlock(&p->lock);
			if (!waits)
				return ETIMEDOUT;
			deadline = CQ_FOREVER; /* taken: the permit is on its way */
		}
		park->park(park->host, &me, deadline);
	}
	return 0;
}

static void free_pool(cq_pool_t *p)
{
	cq_allocator_t allocator = p->allocator;

	cq_fork_unregister(&p->fork_client);
	for (cq_task_t *t = p->all, *next; t != NULL; t = next) {
		next = t->all_next;
		cq_release(&allocator, t, sizeof(*t));
	}
	cq_sleepers_destroy(&p->idle);
	cq_sleepers_destroy(&p->closers);
	cq_threads_destroy(&p->threads);
	pthread_mutex_destroy(&p->lock);
	cq_release(&allocator, p, sizeof(*p));
}

int cq_pool_end(cq_pool_t *p, uint64_t deadline)
{
	int err;

	pthread_mutex_lock(&p->lock);
	cq_u32_store_relaxed(&p->stop, 1);
	pthread_mutex_unlock(&p->lock);
	cq_sleepers_stop(&p->idle);
	if ((err = wait_for_workers(p, deadline)) == 0)
		cq_threads_join(&p->threads);
	return err;
}

int cq_pool_destroy(cq_pool_t *p, uint64_t deadline)
{
	int saved = errno, err;
	bool open;

	if (p == NULL)
		return 0;
	if (cq_pool_is_current(p) || cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&p->lock);
	open = p->open != 0;
	pthread_mutex_unlock(&p->lock);
	if (open)
		return EBUSY;
	if ((err = cq_pool_end(p, deadline)) == 0)
		free_pool(p);
	errno = saved;
	return err;
}

/* ------------------------------------------------------------------------ workers */

int cq_pool_set_workers(cq_pool_t *p, uint32_t min, uint32_t max)
{
	int err;

	if (max == 0)
		max = default_max(min);
	if (!limits_fit(min, max) || (cq_pool_is(p, CQ_POOL_HOSTED) && min != 0))
		return EINVAL;
	if (cq_forking())
		return EDEADLK;
	CQ_POINT("pool.limits");
	/* Both of one call: of two that cross, a minimum could stay above the maximum. */
	pthread_mutex_lock(&p->lock);
	cq_u32_store_relaxed(&p->min, min);
	cq_u32_store_relaxed(&p->max, max);
	pthread_mutex_unlock(&p->lock);
	/* Those who sleep may be too many now, or have no deadline yet. Begins with a full fence: whoever
	   needs one more, and still finds the old maximum, is seen below to be neither idle nor coming. */
	cq_sleepers_wake(&p->idle, UINT32_MAX);
	err = cq_workers_make_min(p);
	if (err != 0 || cq_pool_is(p, CQ_POOL_POLLED) ||
	    !cq_workers_missed(p, cq_u64_load_relaxed(&p->counts)))
		return err;
	return cq_workers_make(p, false);
}

int cq_pool_work(cq_pool_t *p, void *host, uint64_t deadline)
{
	cq_sleeper_t me;
	cq_run_t *w;
	int saved = errno;
	bool stopped;

	if (cq_pool_is_current(p) || cq_forking())
		return EDEADLK;
	if ((w = cq_member_new(p)) == NULL)
		return ENOMEM;
	if (!cq_worker_added(p)) {
		/* Not counted: the end of the pool would wait for ever for threads that come again at once. */
		cq_release(&p->allocator, w, sizeof(*w));
		errno = saved;
		return 0;
	}
	w->count = COUNT_LIVE;
	w->serves = true;
	cq_sleeper_init(&me, host);
	cq_member_join(w);
	cq_workers_join(p, w->count);
	cq_u32_add_relaxed(&p->serving, 1);
	stopped = cq_pool_serve(w, &me, deadline != 0 ? deadline : 1);
	cq_workers_host_leaves(w);
	if (!stopped)
		cq_workers_nobody_serves(p);
	cq_member_leave(w);
	errno = saved;
	return stopped ? 0 : ETIMEDOUT;
}

/* ---------------------------------------------------------------------- by polling */

/* The same as cq_pool_wake finds: who calls it until no wake is needed comes to an end. */
bool cq_pool_needs_wake(cq_pool_t *p)
{
	uint64_t waiting = cq_pool_waiting(p), counts;
	uint32_t idle, coming;

	if (waiting == 0)
		return false;
	idle = cq_sleepers_waiters(&p->idle, &coming);
	counts = cq_u64_load_relaxed(&p->counts);
	if (waiting <= (uint64_t)coming + counts_making(counts))
		return false;
	return idle != 0 || cq_workers_could_make(p, &counts);
}

int cq_pool_wake(cq_pool_t *p)
{
	uint64_t waiting = cq_pool_waiting(p), making;
	int err;

	if (cq_forking()) {
		p->fork_wakes = true;
		return EDEADLK;
	}
	if (waiting == 0)
		return 0;
	/* Pairs with the fence in cq_workers_arrive: who is being made will see what waits. Without it
	   one could be taken for a worker to come that has looked already, and nobody is woken. */
	cq_fence_full();
	making = counts_making(cq_u64_load_relaxed(&p->counts));
	waiting = waiting > making ? waiting - making : 0;
	cq_workers_ensure(p, waiting < UINT32_MAX ? (uint32_t)waiting : UINT32_MAX);
	if ((err = cq_workers_make(p, false)) != 0)
		return err;
	/* Behind the first fence, which pairs with the one in tell_if_unserved too: the last thread of the host's does
	   not leave unseen, and miss what waits. */
	return cq_pool_is(p, CQ_POOL_HOSTED) && cq_u32_load_relaxed(&p->serving) == 0 &&
	    cq_pool_waiting(p) != 0 ? EAGAIN : 0;
}
