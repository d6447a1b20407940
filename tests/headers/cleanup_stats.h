/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/cleanup_stats.h: see scripts/check-headers. */
uint64_t callbacks_waiting(cq_cleanup_t *q);
uint64_t callbacks_waiting(cq_cleanup_t *q)
{
	cq_cleanup_stats_t stats;

	cq_cleanup_stats(q, &stats);
	return stats.queued - stats.executed;
}
