/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/pool.h: see scripts/check-headers. */
int use_pool(cq_task_ops_t *ops, uint32_t workers, void *job);
int use_pool(cq_task_ops_t *ops, uint32_t workers, void *job)
{
#ifdef __cplusplus
	cq_pool_config_t config = cq_pool_config_t();
#else
	cq_pool_config_t config = { 0 };
#endif
	cq_pool_t *pool;
	cq_task_t *task;
	int err;

	config.flags = CQ_POOL_POLLED | CQ_POOL_HOSTED;
	config.flags &= ~CQ_POOL_HOSTED;
	config.flags |= job == &err ? CQ_POOL_NO_ATFORK : 0;
	config.workers_max = workers < CQ_WORKERS_MAX ? workers : CQ_WORKERS_MAX;
	config.spin_ns = workers == 1 ? CQ_POOL_NO_SPIN : CQ_POOL_SPIN_NS < CQ_POOL_SPIN_NS_MAX;
	if ((err = cq_pool_create(&config, &pool)) != 0)
		return err;
	if ((err = cq_task_create(pool, ops, job, workers == 1 ? CQ_BY_OWNER : 0, &task)) != 0)
		return err;
	if ((err = cq_task_signal(task)) == 0 && cq_pool_needs_wake(pool))
		err = cq_pool_wake(pool);
	(void)cq_task_run_some(task, 1);
	(void)cq_task_close(task, CQ_FOREVER);
	return cq_pool_destroy(pool, CQ_FOREVER);
}

void run_one(cq_run_t *run, void *piece);
void run_one(cq_run_t *run, void *piece)
{
	cq_run_more(run, 1);
	cq_run_piece(run, piece);
	(void)cq_run_may_continue(run);
}
