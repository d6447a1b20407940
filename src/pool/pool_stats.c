/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/sized.h"
#include "pool_inside.h"
#include "pool_priv.h"

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
	cq_pool_t *p = t->pool;
	bool forking = cq_forking(); /* and has the lock */

	*parts = 0;
	if (!forking)
		pthread_mutex_lock(&p->lock);
	*longest_ns = longest(p, t, now, parts);
	if (!forking)
		pthread_mutex_unlock(&p->lock);
}

void cq_pool_stats_sized(cq_pool_t *p, cq_pool_stats_t *out, size_t bytes)
{
	bool forking = cq_forking(); /* and has the lock */
	uint64_t now = cq_pool_now(p), counts, parts = 0;
	cq_pool_stats_t s = { 0 };

	if (!forking)
		pthread_mutex_lock(&p->lock);
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
	if (!forking)
		pthread_mutex_unlock(&p->lock);

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
	s.wakes = cq_u64_load_relaxed(&p->wakes);
	s.tasks_waiting = cq_pool_waiting(p);
	cq_sized_write(out, bytes, &s, sizeof(s));
}
