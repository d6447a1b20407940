/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/sized.h"
#include "pool_priv.h"

void cq_pool_stats_sized(cq_pool_t *p, cq_pool_stats_t *out, size_t bytes)
{
	bool forking = cq_forking(); /* and has the lock */
	cq_pool_stats_t s = { 0 };
	uint64_t counts;

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
