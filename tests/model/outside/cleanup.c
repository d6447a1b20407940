/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 4: two producers, one lent worker, a drain and a shutdown. Each callback runs once, before the drain returns. */
#include <errno.h>

#include <cq/cleanup.h>
#include <cq/producer.h>

#include "outside.h"

enum { K = 2 };

static cq_pool_t *pool;
static cq_cleanup_t *q;
static int called[K]; /* plain: a race if the queue orders nothing */

static void call(void *arg)
{
	++*(int *)arg;
}

static void *produce(void *arg)
{
	cq_producer_t *p;

	CHECK(cq_producer_attach(q, call, &p) == 0);
	CHECK(cq_producer_put(p, arg) == 0);
	cq_producer_detach(p);
	return NULL;
}

static void *serve(void *unused)
{
	CHECK(cq_pool_work(pool, NULL, CQ_FOREVER) == 0);
	return unused;
}

static int drain(void)
{
	int err = cq_cleanup_drain(q, CQ_FOREVER);

	CHECK(err == 0 || err == EAGAIN); /* the worker is not there yet */
	return err;
}

int main(void)
{
	const cq_pool_config_t workers = {
		.flags = CQ_POOL_HOSTED | CQ_POOL_NO_ATFORK, .workers_max = 1, .idle_ns = CQ_FOREVER,
		.spin_ns = CQ_POOL_NO_SPIN, .park = &spin
	};
	cq_cleanup_config_t config = { .block_bytes = CQ_BLOCK_BYTES_MIN };
	pthread_t worker, producers[K];

	CHECK(cq_pool_create(&workers, &pool) == 0);
	config.pool = pool;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	worker = start(serve, NULL);
	for (int i = 0; i < K; i++)
		producers[i] = start(produce, &called[i]);
	for (int i = 0; i < K; i++)
		join(producers[i]);
	AWAIT(drain() == 0);
	for (int i = 0; i < K; i++)
		CHECK(called[i] == 1);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	join(worker);
	return 0;
}
