/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks that are to be signalled at a time: by a thread that the pool makes for that alone, its clock, so that no
 * piece that hangs and no maximum of workers stops it; and by who polls, where the pool makes no threads, or
 * wakes none. It is for few times, so it looks at all tasks.
 */
#include <errno.h>

#include "pool_inside.h"
#include "pool_priv.h"

bool cq_pool_keeps_time(const cq_pool_t *p)
{
	return !cq_pool_is(p, CQ_POOL_POLLED | CQ_POOL_HOSTED);
}

static uint64_t now(const cq_pool_t *p)
{
	return p->config.park->now(p->config.park->host);
}

/* True: it was later, and who waits for it is to wait for this. */
static bool make_earlier(cq_pool_t *p, uint64_t at)
{
	uint64_t earliest = cq_u64_load_relaxed(&p->earliest);

	while (at < earliest)
		if (cq_u64_cas_relaxed(&p->earliest, &earliest, at))
			return true;
	return false;
}

/* Signals those whose time is `until` or earlier. */
static void expire(cq_pool_t *p, uint64_t until)
{
	cq_u64_store_relaxed(&p->earliest, CQ_FOREVER);
	/* Begins with a full fence, which pairs with the one in cq_task_signal_at: either that time is seen below, or that
	   call sees that nobody waits for one as early, or that there is no clock. Without it nobody would wait. */
	for (cq_task_t *t = cq_workers_telling(p); t != NULL; t = t->all_next) {
		uint64_t at = cq_u64_load_relaxed(&t->at);

		CQ_POINT("clock.look");
		if (at > until)
			(void)make_earlier(p, at);
		else if (at != 0 && cq_u64_cas_relaxed(&t->at, &at, 0) && cq_task_is_open(t))
			(void)cq_task_signal(t);
	}
	cq_workers_told(p);
}

/* Signals those whose time has come. A load, while no task is timed. */
static void look(cq_pool_t *p)
{
	uint64_t earliest = cq_u64_load_relaxed(&p->earliest), time;

	if (earliest != CQ_FOREVER && !cq_forking() && (time = now(p)) >= earliest)
		expire(p, time);
}

/* By who polls. Not beside a clock, which would find nobody timed meanwhile, and sleep. */
void cq_clock_look(cq_pool_t *p)
{
	if (!cq_pool_keeps_time(p))
		look(p);
}

/* The life of the clock. */
void cq_clock_be(cq_run_t *w)
{
	cq_pool_t *p = w->pool;
	cq_sleeper_t me;
	uint64_t until;

	cq_sleeper_init(&me, NULL);
	do {
		look(p);
		cq_sleepers_prepare_wait(&p->clock, &me);
		until = cq_u64_load_relaxed(&p->earliest);
		if (until > now(p))
			(void)cq_sleepers_commit_wait(&p->clock, &me, until);
		else
			cq_sleepers_cancel_wait(&p->clock, &me);
	} while (!cq_pool_stopped(p));
	cq_member_leave(w);
}

/* It stays until the pool ends. */
static int make_clock(cq_pool_t *p)
{
	cq_run_t *w;
	int err = cq_member_new(p, 0, &w);

	if (err == 0 && (err = cq_worker_begin(w)) != 0)
		cq_member_leave(w);
	return err;
}

int cq_task_signal_at(cq_task_t *t, uint64_t at)
{
	cq_pool_t *p = t->pool;
	int err;

	if (cq_forking())
		return EDEADLK;
	/* Pairs with the look at it, and the fence in change (tasks.c): what the caller wrote before is seen by the run that
	   this time causes. Without it that could find that the tick was not yet armed, and leave it. */
	cq_u64_store_release(&t->at, at);
	/* Pairs with the one in cq_workers_telling: see expire. */
	cq_fence_full();
	if (cq_pool_keeps_time(p) && cq_u32_cas_relaxed(&p->has_clock, 0, 1) && (err = make_clock(p)) != 0) {
		cq_u64_store_relaxed(&t->at, 0);
		cq_u32_store_relaxed(&p->has_clock, 0);
		expire(p, CQ_FOREVER - 1); /* others have relied on it */
		return err;
	}
	if (make_earlier(p, at))
		cq_sleepers_wake(&p->clock, 1);
	return 0;
}

bool cq_task_is_timed(const cq_task_t *t)
{
	return cq_u64_load_relaxed(&t->at) != 0;
}
