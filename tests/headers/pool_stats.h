/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/pool_stats.h: see scripts/check-headers. */
uint64_t pieces_run(cq_pool_t *pool);
uint64_t pieces_run(cq_pool_t *pool)
{
	cq_pool_stats_t stats;

	cq_pool_stats(pool, &stats);
	return stats.workers_live <= stats.workers_max ? stats.runs - stats.empty_runs : 0;
}
