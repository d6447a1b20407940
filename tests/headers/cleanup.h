/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/cleanup.h: see scripts/check-headers. */
int make_one(int forks, uint32_t workers, cq_cleanup_t **q);
int make_one(int forks, uint32_t workers, cq_cleanup_t **q)
{
#ifdef __cplusplus
	cq_cleanup_config_t config = cq_cleanup_config_t();
	cq_pool_config_t pool = cq_pool_config_t();
#else
	cq_cleanup_config_t config = { 0 };
	cq_pool_config_t pool = { 0 };
#endif
	int err;

	config.flags = CQ_CLEANUP_FORK_DISCARD;
	config.flags &= forks ? ~CQ_CLEANUP_FORK_DISCARD : CQ_CLEANUP_FORK_DISCARD;
	config.parallel = workers;
	config.block_bytes = forks ? CQ_BLOCK_BYTES_MIN : CQ_BLOCK_BYTES_MAX;
	config.pool_config = &pool;
	pool.workers_max = workers < CQ_WORKERS_MAX ? workers : CQ_WORKERS_MAX;
	if ((err = cq_cleanup_create(&config, q)) != 0)
		return err;
	return cq_pool_needs_wake(cq_cleanup_pool(*q));
}
