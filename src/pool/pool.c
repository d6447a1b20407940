/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>

#include "base/park.h"
#include "base/process.h"
#include "base/sized.h"
#include "pool_inside.h"
#include "pool_priv.h"

/* 30 s: long against the gaps between collections, so that a program at work keeps its workers; short against
   its life, so that a quiet one gives them back. 256 KiB: what printf and a few calls need, several times
   over. */
#define IDLE_NS_DEFAULT UINT64_C(30000000000)
#define STACK_BYTES_DEFAULT ((size_t)256 << 10)
/* A limit at which an absurd size is found when the pool is made, not with its first worker. */
#define STACK_BYTES_MAX ((size_t)1 << 30)

/* ------------------------------------------------------------------------ making */

/* A quarter of the CPUs, as in Go: background work is to keep up, not to take over. */
static uint32_t default_max(uint32_t min)
{
	uint32_t quarter = cq_processors() / 4, least = min > 1 ? min : 1;

	return quarter > least ? quarter : least;
}

/* For one worker nothing is read. */
static uint32_t processors_of(uint32_t max)
{
	return max > 1 ? cq_processors() : 1;
}

/* Fills in the defaults. False: a field is outside its limits, or a table has gaps. */
static bool complete(cq_pool_config_t *c)
{
	const unsigned known = CQ_POOL_POLLED | CQ_POOL_HOSTED | CQ_POOL_NO_ATFORK;

	if (c->workers_max == 0)
		c->workers_max = default_max(c->workers_min);
	if (c->spin_ns == 0)
		c->spin_ns = c->park == NULL && cq_processors() > 1 ? CQ_POOL_SPIN_NS : CQ_POOL_NO_SPIN;
	if (c->park == NULL)
		c->park = cq_park_default();
	if (c->idle_ns == 0)
		c->idle_ns = IDLE_NS_DEFAULT;
	if (c->stack_bytes == 0)
		c->stack_bytes = STACK_BYTES_DEFAULT;
	if (c->name == NULL)
		c->name = "cq-worker";
	if (c->allocator == NULL)
		c->allocator = &cq_default_allocator;
	return (c->flags & ~known) == 0 &&
	    c->workers_min <= c->workers_max && c->workers_max <= CQ_WORKERS_MAX &&
	    c->spin_ns >= CQ_POOL_NO_SPIN && c->spin_ns <= CQ_POOL_SPIN_NS_MAX &&
	    c->stack_bytes <= STACK_BYTES_MAX && strlen(c->name) < sizeof(((cq_pool_t *)NULL)->name) && cq_park_complete(c->park) &&
	    c->allocator->alloc != NULL && c->allocator->free != NULL &&
	    ((c->flags & CQ_POOL_HOSTED) == 0 || (c->spawn == NULL && c->workers_min == 0));
}

static int init(cq_pool_t *p, const cq_pool_config_t *c)
{
	uint32_t spin_ns = c->spin_ns > 0 ? (uint32_t)c->spin_ns : 0;
	int err;

	memset(p, 0, sizeof(*p)); /* the stacks are empty by that */
	p->config = *c;
	memcpy(p->name, c->name, strlen(c->name) + 1); /* complete() has seen to it */
	p->config.name = p->name;
	p->allocator = *c->allocator;
	p->config.allocator = &p->allocator;
	p->min = c->workers_min;
	p->max = c->workers_max;
	p->processors = processors_of(c->workers_max);
	p->body = cq_pool_worker;
	p->earliest = CQ_FOREVER;
	if (c->spawn == NULL && (c->flags & CQ_POOL_HOSTED) == 0)
		cq_threads_note_creator(&p->threads);
	/* If one fails: a mutex of the default kind has nothing to undo. */
	if ((err = pthread_mutex_init(&p->lock, NULL)) != 0 ||
	    (err = cq_sleepers_init(&p->idle, c->park, spin_ns)) != 0 ||
	    (err = cq_sleepers_init(&p->closers, c->park, 0)) != 0 ||
	    (err = cq_sleepers_init(&p->clock, c->park, 0)) != 0)
		return err;
	return cq_fork_register(&p->fork_client, &cq_pool_fork_ops, (c->flags & CQ_POOL_NO_ATFORK) == 0);
}

static int none_is_being_made(const void *pool)
{
	return counts_making(cq_u64_load_relaxed(&((const cq_pool_t *)pool)->counts)) == 0 ? 0 : EBUSY;
}

static int create(const cq_pool_config_t *c, cq_pool_t **out)
{
	cq_pool_t *p = cq_allocate(c->allocator, sizeof(*p));
	int err;

	if (p == NULL)
		return ENOMEM;
	err = (uintptr_t)p % CQ_LINE == 0 ? init(p, c) : EINVAL;
	if (err != 0) {
		cq_release(c->allocator, p, sizeof(*p));
		return err;
	}
	err = cq_workers_make_min(p);
	/* Their worker_start may say no. Not on a host's threads: the caller may have to lend its own. */
	if (err == 0 && c->workers_min != 0 && c->spawn == NULL) {
		(void)cq_await(&p->closers, none_is_being_made, p, CQ_FOREVER);
		/* Pairs with the release in cq_workers_not_made: the error comes before the count. */
		cq_fence_acquire();
		err = (int)cq_u32_load_relaxed(&p->last_errno);
	}
	if (err != 0)
		cq_pool_destroy(p, CQ_FOREVER);
	else
		*out = p;
	return err;
}

int cq_pool_create_sized(const cq_pool_config_t *config, size_t bytes, cq_pool_t **out)
{
	cq_pool_config_t c;
	int saved = errno, err;

	if ((err = cq_sized_read(&c, sizeof(c), config, bytes)) == 0)
		err = out != NULL && complete(&c) ? create(&c, out) : EINVAL;
	errno = saved;
	return err;
}

const cq_park_ops_t *cq_pool_park(const cq_pool_t *p)
{
	return p->config.park;
}

/* -------------------------------------------------------------------- destroying */

int cq_pool_end(cq_pool_t *p, uint32_t tasks, uint64_t deadline)
{
	const cq_park_ops_t *park = p->config.park;
	cq_parker_t me = { 0 };
	bool waits;
	int cancel;

	/* Both under one hold: a task that is being made is among those, or finds that the end has begun. */
	pthread_mutex_lock(&p->lock);
	if (p->open > tasks) {
		pthread_mutex_unlock(&p->lock);
		return EBUSY;
	}
	cq_u32_store_relaxed(&p->stop, 1);
	waits = p->workers != 0;
	p->destroyer = waits ? &me : NULL;
	pthread_mutex_unlock(&p->lock);
	cq_sleepers_stop(&p->idle);
	cq_sleepers_stop(&p->clock);
	/* The last worker wakes by the permit alone: see workers.c. */
	while (waits && !cq_parker_granted(&me)) {
		if (deadline != CQ_FOREVER && park->now(park->host) >= deadline) {
			pthread_mutex_lock(&p->lock);
			waits = p->destroyer == NULL; /* taken: the permit is on its way */
			p->destroyer = NULL;
			pthread_mutex_unlock(&p->lock);
			if (!waits)
				return ETIMEDOUT;
			deadline = CQ_FOREVER;
		}
		park->park(park->host, &me, deadline);
	}
	/* The last worker has joined the others. */
	if (p->has_ended) {
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* pthread_join acts on it */
		pthread_join(p->ended, NULL);
		pthread_setcancelstate(cancel, &cancel);
		p->has_ended = false;
	}
	return 0;
}

int cq_pool_destroy(cq_pool_t *p, uint64_t deadline)
{
	cq_allocator_t allocator;
	int saved = errno, err;

	if (p == NULL)
		return 0;
	if (cq_pool_is_current(p) || cq_forking())
		return EDEADLK;
	if ((err = cq_pool_end(p, 0, deadline)) == 0) {
		cq_fork_unregister(&p->fork_client);
		allocator = p->allocator;
		for (cq_task_t *t = p->all, *next; t != NULL; t = next) {
			next = t->all_next;
			cq_release(&allocator, t, sizeof(*t));
		}
		cq_sleepers_destroy(&p->idle);
		cq_sleepers_destroy(&p->closers);
		cq_sleepers_destroy(&p->clock);
		pthread_mutex_destroy(&p->lock);
		cq_release(&allocator, p, sizeof(*p));
	}
	errno = saved;
	return err;
}

/* ------------------------------------------------------------------------ workers */

int cq_pool_set_workers(cq_pool_t *p, uint32_t min, uint32_t max)
{
	int err;

	if (max == 0)
		max = default_max(min);
	if (min > max || max > CQ_WORKERS_MAX || (cq_pool_is(p, CQ_POOL_HOSTED) && min != 0))
		return EINVAL;
	if (cq_forking())
		return EDEADLK;
	cq_u32_store_relaxed(&p->processors, processors_of(max));
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
	int saved = errno, err;
	bool stopped;

	if (cq_pool_is_current(p) || cq_forking())
		return EDEADLK;
	/* After its end has begun it would wait for ever for threads that come again at once. */
	if ((err = cq_member_new(p, COUNT_LIVE, &w)) != 0)
		return err == ESHUTDOWN ? 0 : err;
	w->serves = true;
	cq_sleeper_init(&me, host);
	cq_workers_host_comes(w);
	stopped = cq_pool_serve(w, &me, deadline != 0 ? deadline : 1);
	cq_workers_host_leaves(w);
	errno = saved;
	return stopped ? 0 : ETIMEDOUT;
}

/* ---------------------------------------------------------------------- by polling */

size_t cq_pool_run_some(cq_pool_t *p, size_t pieces)
{
	cq_clock_look(p);
	return cq_tasks_run_some(p, NULL, pieces);
}

/* How many workers are to be on their way: one for each task that waits, less those being made. */
static uint32_t wanted(cq_pool_t *p)
{
	uint64_t waiting = cq_pool_waiting(p), making = counts_making(cq_u64_load_relaxed(&p->counts));

	return waiting > making ? (uint32_t)(waiting - making) : 0; /* no more than `open` */
}

/* As cq_pool_wake finds it: who calls that until no wake is needed comes to an end. */
bool cq_pool_needs_wake(cq_pool_t *p)
{
	uint32_t idle, coming;
	uint64_t counts;

	cq_clock_look(p);
	if (cq_pool_waiting(p) == 0)
		return false;
	idle = cq_sleepers_waiters(&p->idle, &coming);
	return wanted(p) > coming && (idle != 0 || cq_workers_could_make(p, &counts));
}

int cq_pool_wake(cq_pool_t *p)
{
	int err;

	if (cq_forking()) {
		p->fork_wakes = true;
		return EDEADLK;
	}
	cq_clock_look(p);
	if (cq_pool_waiting(p) == 0)
		return 0;
	/* Pairs with the fence in lower (workers.c): who is being made will see what waits, and the last
	   thread of the host's does not leave unseen, and miss it. Without it one could be taken for a worker
	   to come that has looked already, and nobody is woken. */
	cq_fence_full();
	cq_sleepers_ensure(&p->idle, wanted(p));
	if ((err = cq_workers_make(p, false)) != 0)
		return err;
	return cq_pool_unserved(p) && cq_pool_waiting(p) != 0 ? EAGAIN : 0;
}

/* --------------------------------------------------------------------- statistics */

/* With the lock. For how long the oldest of the pieces in hand has been so, of the task or, with NULL, of all. */
static uint64_t longest(cq_pool_t *p, const cq_task_t *t, uint64_t now, uint64_t *parts)
{
	uint64_t longest = 0;

	for (cq_run_t *m = p->members; m != NULL; m = m->next) {
		uint64_t taken = cq_u64_load_relaxed(&m->taken), age;

		if (taken == 0 || (t != NULL && cq_ptr_load_relaxed(&m->task) != t))
			continue;
		/* If it is another piece by now: that was taken before this time, too. */
		if (taken == ~UNKNOWN && cq_u64_cas_relaxed(&m->taken, &taken, ~now))
			taken = ~now;
		*parts += cq_u64_load_relaxed(&m->parts);
		age = now - ~taken;
		if (~taken < now && age > longest)
			longest = age;
	}
	return longest;
}

void cq_task_in_hand(const cq_task_t *t, uint64_t now, uint64_t *parts, uint64_t *longest_ns)
{
	*parts = 0;
	cq_fork_lock(&t->pool->lock);
	*longest_ns = longest(t->pool, t, now, parts);
	cq_fork_unlock(&t->pool->lock);
}

void cq_pool_stats_sized(cq_pool_t *p, cq_pool_stats_t *out, size_t bytes)
{
	uint64_t now = p->config.park->now(p->config.park->host), counts, parts = 0;
	cq_pool_stats_t s = { 0 };

	cq_fork_lock(&p->lock);
	s.tasks = p->open;
	s.runs = p->runs;
	s.empty_runs = p->empty_runs;
	for (cq_run_t *m = p->members; m != NULL; m = m->next) {
		/* Pairs with the release in end (tasks.c), and first: more would be empty than there are. */
		s.empty_runs += cq_u64_load_acquire(&m->empty_runs);
		CQ_POINT("stats.summing");
		s.runs += cq_u64_load_relaxed(&m->runs);
		s.workers_running += cq_ptr_load_relaxed(&m->task) != NULL;
	}
	s.longest_ns = longest(p, NULL, now, &parts);
	cq_fork_unlock(&p->lock);

	counts = cq_u64_load_relaxed(&p->counts);
	s.workers_idle = cq_sleepers_waiters(&p->idle, &s.workers_coming);
	s.workers_coming += counts_making(counts);
	s.workers_live = counts_live(counts);
	s.workers_peak = cq_u32_load_relaxed(&p->peak);
	if (s.workers_peak < s.workers_live) /* whoever makes one notes that afterwards */
		s.workers_peak = s.workers_live;
	s.workers_min = cq_u32_load_relaxed(&p->min);
	s.workers_max = cq_u32_load_relaxed(&p->max);
	s.workers_created = cq_u64_load_relaxed(&p->created);
	s.workers_retired = cq_u64_load_relaxed(&p->retired);
	s.workers_failed = cq_u64_load_relaxed(&p->not_made);
	s.workers_last_errno = (int32_t)cq_u32_load_relaxed(&p->last_errno);
	s.wakes = cq_u64_load_relaxed(&p->idle.woken);
	s.tasks_waiting = cq_pool_waiting(p);
	cq_sized_write(out, bytes, &s, sizeof(s));
}
