/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/sized.h"
#include "pool_priv.h"

/* With the lock held, or by the thread that forks, which has it. */
static void sum(cq_pool_t *p, cq_pool_stats_t *out)
{
	out->runs = p->runs;
	out->empty_runs = p->empty_runs;
	for (cq_run_t *m = p->members; m != NULL; m = m->next) {
		/* Pairs with the release in count_run (tasks.c), and first: more would be empty than there
		   are. */
		out->empty_runs += cq_u64_load_acquire(&m->empty_runs);
		CQ_POINT("stats.summing");
		out->runs += cq_u64_load_relaxed(&m->runs);
		out->workers_running += cq_ptr_load_relaxed(&m->task) != NULL;
	}
	out->tasks = p->open;
}

static void take(cq_pool_t *p, cq_pool_stats_t *out)
{
	bool forking = cq_forking();
	uint64_t counts;

	*out = (cq_pool_stats_t){ 0 };
	if (!forking)
		pthread_mutex_lock(&p->lock);
	sum(p, out);
	if (!forking)
		pthread_mutex_unlock(&p->lock);

	counts = cq_u64_load_relaxed(&p->counts);
	out->workers_idle = cq_sleepers_waiters(&p->idle, &out->workers_coming);
	out->workers_coming += counts_making(counts);
	out->workers_live = counts_live(counts);
	out->workers_peak = cq_u32_load_relaxed(&p->peak);
	if (out->workers_peak < out->workers_live) /* whoever makes one notes that afterwards */
		out->workers_peak = out->workers_live;
	out->workers_min = cq_u32_load_relaxed(&p->min);
	out->workers_max = cq_u32_load_relaxed(&p->max);
	out->workers_created = cq_u64_load_relaxed(&p->created);
	out->workers_retired = cq_u64_load_relaxed(&p->retired);
	out->workers_failed = cq_u64_load_relaxed(&p->not_made);
	out->workers_last_errno = (int32_t)cq_u32_load_relaxed(&p->last_errno);
	out->wakes = cq_u64_load_relaxed(&p->wakes);
	out->tasks_waiting = cq_pool_waiting(p);
}

void cq_pool_stats_sized(cq_pool_t *p, cq_pool_stats_t *out, size_t bytes)
{
	cq_pool_stats_t stats;

	take(p, &stats);
	cq_sized_write(out, bytes, &stats, sizeof(stats));
}
