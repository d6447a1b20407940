/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many workers a piece of work is worth: one per unit that no worker is
 * already coming for. "Coming" is what makes it exact: a worker that was woken
 * or asked for, and has not looked yet, will take a unit; so units <= coming
 * needs no wake. A worker that looks lowers coming first and looks then, the
 * publisher raises units first and reads coming then: the same handshake as
 * that of the sleeper set.
 */
#include <errno.h>
#include <limits.h>

#include "cleanup_priv.h"

/* Adds to live or coming; the change may be negative. Returns the crew before. */
uint64_t cq_crew_add(cq_cleanup_t *q, uint64_t change)
{
	return cq_u64_add_relaxed(&q->crew, change);
}

void cq_note_peak(cq_cleanup_t *q, uint32_t live)
{
	uint32_t peak;

	do
		peak = cq_u32_load_relaxed(&q->peak);
	while (live > peak && !cq_u32_cas_relaxed(&q->peak, peak, live));
}

void cq_worker_arrive(cq_cleanup_t *q)
{
	/* No fence between this and the look that follows. A worker that finds a unit
	   has a release before it takes it (set_busy, worker.c), and whoever adds one
	   after that reads the lower count after its own fence; one that finds none
	   has a full fence and another look before it sleeps or retires. */
	cq_crew_add(q, 0 - CREW_COMING);
	CQ_POINT("worker.arrived");
}

static bool makes_workers(const cq_cleanup_t *q)
{
	return q->config.spawn != NULL;
}

/* How many workers may still be made. */
static uint32_t room(const cq_cleanup_t *q, uint64_t crew)
{
	return makes_workers(q) ? q->config.max_workers - crew_made(crew) : 0;
}

bool cq_cleanup_needs_wake(cq_cleanup_t *q)
{
	uint64_t units = cq_blocks_waiting(q), crew;

	if (units == 0)
		return false;
	crew = cq_u64_load_relaxed(&q->crew);
	return units > crew_coming(crew) && cq_u32_load_relaxed(&q->stop) == 0 &&
	    (room(q, crew) != 0 || cq_u32_load_relaxed(&q->idle.asleep) != 0);
}

bool cq_cleanup_stalled(cq_cleanup_t *q)
{
	if (crew_live(cq_u64_load_relaxed(&q->crew)) != 0)
		return false;
	/* Pairs with the release in leave_crew (crew.c): a failure that is seen
	   here is one of after the last worker left. */
	cq_fence_acquire();
	return cq_u32_load_relaxed(&q->spawn_failed) != 0 && cq_blocks_waiting(q) != 0;
}

uint64_t cq_cleanup_units(cq_cleanup_t *q)
{
	return cq_blocks_waiting(q);
}

/* Makes one worker, which is counted as live and coming already. */
static int spawn(cq_cleanup_t *q)
{
	int err, saved = errno;
	cq_worker_t *w = cq_worker_new(q, NULL, &err);

	if (w == NULL)
		return err;
	w->made = true;
	w->crew = CREW_MADE + CREW_LIVE + CREW_COMING;
	err = q->config.spawn(q->spawn_host, cq_worker_main, w);
	errno = saved;
	if (err != 0)
		cq_worker_gone(w);
	return err;
}

/* An attempt has failed, for some of those that were counted already. The caller
   looks again, as others may have relied on them. */
static void not_made(cq_cleanup_t *q, uint32_t n, uint64_t crew, int err)
{
	cq_u64_add_relaxed(&q->failed, 1);
	cq_u32_store_relaxed(&q->last_errno, (uint32_t)err);
	cq_u32_store_relaxed(&q->spawn_failed, (uint32_t)err);
	crew = cq_crew_add(q, 0 - crew);
	CQ_POINT("wake.not_made");
	/* Producers may have left callbacks to the one that they saw live. The
	   caller looks again, and finds the queue stalled. */
	if (hands_over(q) && crew_live(crew) == n)
		cq_take_partial_blocks(q);
}

/*
 * Makes up to n workers within the cap, for claims on `coming` that the caller
 * holds. Returns how many claims it used. A failure is remembered: the work
 * stays, and the next wake tries again.
 */
static uint32_t spawn_some(cq_cleanup_t *q, uint32_t n, int *err)
{
	uint64_t crew = cq_u64_load_relaxed(&q->crew);
	uint32_t made;

	do {
		n = (uint32_t)min_u64(n, room(q, crew));
		if (n == 0)
			return 0;
	} while (!cq_u64_cas_relaxed(&q->crew, &crew, crew + n * (CREW_MADE + CREW_LIVE)));
	CQ_POINT("wake.making");
	/* Now one lives, as far as stalled() can tell. */
	cq_u32_store_relaxed(&q->spawn_failed, 0);

	for (made = 0; made < n && (*err = spawn(q)) == 0; made++)
		cq_u64_add_relaxed(&q->created, 1);
	cq_note_peak(q, crew_live(crew) + made);
	if (*err != 0)
		not_made(q, n - made, (n - made) * (CREW_MADE + CREW_LIVE), *err);
	return made;
}

/* Uses claims on sleepers, then on new workers. Returns how many it could not use. */
static uint32_t use_claims(cq_cleanup_t *q, uint32_t claims, uint32_t asleep, int *err)
{
	uint32_t used = cq_parked_wake(&q->idle, claims);

	/* Sleepers that were counted, and are not there, have found work or timed
	   out: look again, before workers are made in their place. Nor is one made
	   where the first could not be. */
	if (*err == 0 && used < claims && used >= min_u64(claims, asleep))
		used += spawn_some(q, claims - used, err);
	return claims - used;
}

/*
 * What a call of a stalled queue returns: EAGAIN if the next attempt may succeed, or the error
 * that it will meet again. Those that say something else of the call are not
 * for this; nor is what no errno can be, from a host's spawn.
 */
int cq_stall_error(uint32_t spawn_failed)
{
	switch (spawn_failed) {
	case 0: /* one lives by now */
	case ENOMEM:
	case ETIMEDOUT:
	case EDEADLK:
	case ESHUTDOWN:
		return EAGAIN;
	}
	return spawn_failed <= INT_MAX ? (int)spawn_failed : EAGAIN;
}

/* None could be made and nobody sleeps: if nobody lives either, drains learn of it. */
static int give_up(cq_cleanup_t *q, int err)
{
	/* Again: another waker, slow to say that its worker would live, may have taken
	   back what spawn_some said, and that worker be gone. If one says so from
	   here on, its worker has yet to look. */
	cq_u32_store_relaxed(&q->spawn_failed, (uint32_t)err);
	if (!cq_cleanup_stalled(q))
		return 0; /* the workers that live are awake, and will find the work */
	cq_parked_wake_all(&q->drainers);
	return cq_stall_error((uint32_t)err);
}

/* err: why none can be made, so that sleepers have to do; or 0. */
static int wake(cq_cleanup_t *q, int err)
{
	for (;;) {
		uint64_t units, crew;
		uint32_t asleep, claims;

		/* The publisher's half; pairs with the fences of a worker that arrived
		   and found nothing: in cq_parked_announce and in retire (crew.c),
		   and with the release in set_busy (worker.c) of one that took a unit.
		   Without it a worker could leave, looking too early, while it is still
		   counted on here. */
		cq_fence_full();
		units = cq_blocks_waiting(q);
		/* Pairs with the release in set_busy (worker.c): a worker whose take
		   these units are without is not counted as coming. Without it a
		   block could be left to one that has taken another. */
		cq_fence_acquire();
		crew = cq_u64_load_relaxed(&q->crew);
		if (units <= crew_coming(crew) || cq_u32_load_relaxed(&q->stop) != 0)
			return 0;
		asleep = cq_u32_load_relaxed(&q->idle.asleep); /* the fence is above */
		claims = (uint32_t)min_u64(units - crew_coming(crew),
		    (uint64_t)asleep + (err == 0 ? room(q, crew) : 0));
		if (claims == 0) /* else all are awake and look again before they sleep */
			return err != 0 ? give_up(q, err) : 0;
		if (!cq_u64_cas_relaxed(&q->crew, &crew, crew + claims * CREW_COMING))
			continue;
		CQ_POINT("wake.claimed");

		claims = use_claims(q, claims, asleep, &err);
		if (claims == 0)
			return 0;
		/* Sleepers timed out, others made workers meanwhile, or none could be
		   made. Give the rest back and look again: others may have relied on
		   these claims, and workers gone to sleep since. */
		cq_crew_add(q, 0 - claims * CREW_COMING);
	}
}

/* A worker, of which the crew is told here, has ended before it could look. */
void cq_worker_not_made(cq_cleanup_t *q, uint64_t crew)
{
	not_made(q, 1, crew, ECANCELED);
	(void)wake(q, ECANCELED);
}

int cq_cleanup_wake(cq_cleanup_t *q)
{
	if (!cq_forking(q))
		return wake(q, 0);
	q->fork_wakes = true;
	return EDEADLK;
}

int cq_wake_unless_polled(cq_cleanup_t *q)
{
	return (q->config.flags & CQ_POLLED) == 0 ? cq_cleanup_wake(q) : 0;
}
