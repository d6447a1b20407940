/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 3: two signal a task, one lends itself as a worker. All runs, and close, destroy and the worker return. */
#include <cq/pool.h>

#include "outside.h"

enum { K = 2 };

static cq_pool_t *pool;
static cq_task_t *task;

static void run(cq_run_t *r, void *unused)
{
	uint64_t there = take_work();

	(void)unused;
	if (there == 0)
		return;
	cq_run_more(r, there - 1);
	cq_run_piece(r, &work);
	count_run();
}

static void *signal_one(void *unused)
{
	add_work();
	(void)cq_task_signal(task); /* EAGAIN: the worker is not there yet, and will look */
	return unused;
}

static void *serve(void *unused)
{
	CHECK(cq_pool_work(pool, NULL, CQ_FOREVER) == 0);
	return unused;
}

int main(void)
{
	const cq_pool_config_t config = {
		.flags = CQ_POOL_HOSTED | CQ_POOL_NO_ATFORK, .workers_max = 1, .idle_ns = CQ_FOREVER,
		.spin_ns = CQ_POOL_NO_SPIN, .park = &spin
	};
	static const cq_task_ops_t ops = { run, NULL, NULL };
	pthread_t worker, signallers[K];

	CHECK(cq_pool_create(&config, &pool) == 0);
	CHECK(cq_task_create(pool, &ops, NULL, 0, &task) == 0);
	worker = start(serve, NULL);
	for (int i = 0; i < K; i++)
		signallers[i] = start(signal_one, NULL);
	for (int i = 0; i < K; i++)
		join(signallers[i]);
	AWAIT(have_run() == K);
	CHECK(cq_task_close(task, CQ_FOREVER) == 0);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	join(worker);
	return 0;
}
