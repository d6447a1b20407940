/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/cleanup.h: see scripts/check-headers. */
int make_one(int forks, uint32_t workers, cq_cleanup_t **q);
int make_one(int forks, uint32_t workers, cq_cleanup_t **q)
{
#ifdef __cplusplus
	cq_cleanup_config_t config = cq_cleanup_config_t();
#else
	cq_cleanup_config_t config = { 0 };
#endif
	cq_cleanup_stats_t stats;
	int err;

	config.flags = CQ_POLLED | CQ_HANDOVER;
	config.flags |= forks ? CQ_FORK_DISCARD : 0;
	config.flags &= ~CQ_HANDOVER;
	config.max_workers = workers < CQ_MAX_WORKERS ? workers : CQ_MAX_WORKERS;
	config.block_bytes = forks ? CQ_BLOCK_BYTES_MIN : CQ_BLOCK_BYTES_MAX;
	config.spin_ns = forks ? CQ_NO_SPIN : CQ_SPIN_NS_MAX;
	if ((err = cq_cleanup_create(&config, q)) != 0)
		return err;
	cq_cleanup_stats(*q, &stats);
	return stats.max_workers == config.max_workers;
}
