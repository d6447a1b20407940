/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libcq's cleanup queue, with its defaults but for the cap and no retiring: each callback
 * with its function, and by producers that have one (put); without a producer; with workers
 * that are bound; with memory in huge pages.
 */
#include <cq/cq.h>
#include <stddef.h>
#include <stdint.h>

#include "../examples/bind.h"
#include "../examples/hugepages.h"
#include "contestant.h"

static void check(int err, const char *what)
{
	if (err != 0)
		bench_die(what, err);
}

static struct hugepages pages = HUGEPAGES_INITIALIZER; /* one queue at a time has them */
static struct binding binding; /* likewise */

/* ------------------------------------------------------------------- queues */

static void *create_with(const cq_cleanup_config_t *config)
{
	cq_cleanup_t *q;

	check(cq_cleanup_create(config, &q), "cq_cleanup_create");
	return q;
}

/* Nobody retires; without workers nobody is woken. */
static cq_pool_config_t pool_of(unsigned workers)
{
	return (cq_pool_config_t){
		.flags = workers == 0 ? CQ_POOL_POLLED | CQ_POOL_HOSTED : 0,
		.workers_max = workers,
		.idle_ns = CQ_FOREVER,
	};
}

static void *cq_create(unsigned workers)
{
	cq_pool_config_t pool = pool_of(workers);

	return create_with(&(cq_cleanup_config_t){ .pool_config = &pool });
}

static void *cq_create_timed(unsigned workers, uint64_t flush_ns)
{
	cq_pool_config_t pool = pool_of(workers);

	return create_with(&(cq_cleanup_config_t){ .pool_config = &pool, .flush_ns = flush_ns });
}

static void *cq_timed_create(unsigned workers)
{
	return cq_create_timed(workers, UINT64_C(10000000));
}

/* As many workers as processors, or the bound ones would leave some idle. */
static void *cq_bind_create(unsigned workers)
{
	cq_pool_config_t pool = pool_of(workers);

	if (workers == 0 || binding_init(&binding) != workers)
		return NULL;
	pool.host = &binding;
	pool.worker_start = binding_start;
	pool.worker_end = binding_end;
	return create_with(&(cq_cleanup_config_t){ .pool_config = &pool });
}

static void *cq_huge_create(unsigned workers)
{
	cq_allocator_t allocator = hugepages_allocator(&pages);
	cq_pool_config_t pool = pool_of(workers);

	return create_with(&(cq_cleanup_config_t){ .pool_config = &pool, .allocator = &allocator });
}

/* The default park table, with a count of who was woken. */
static __thread unsigned long woken;

static uint64_t counting_now(void *host)
{
	(void)host;
	return cq_now();
}

static void counting_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	const cq_park_ops_t *park = cq_park_default();

	(void)host;
	park->park(park->host, parker, deadline);
}

static void counting_unpark(void *host, cq_parker_t *parker)
{
	const cq_park_ops_t *park = cq_park_default();

	(void)host;
	woken++;
	park->unpark(park->host, parker);
}

static const cq_park_ops_t counting = { counting_now, counting_park, counting_unpark, NULL };

static void *cq_create_small(unsigned workers)
{
	cq_pool_config_t pool = pool_of(workers);

	pool.park = &counting; /* and so they don't spin */
	return create_with(&(cq_cleanup_config_t){
		.pool_config = &pool, .block_bytes = CQ_BLOCK_BYTES_MIN,
	});
}

static unsigned long cq_wakes(void)
{
	return woken;
}

static void cq_destroy(void *q)
{
	check(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL),
	    "cq_cleanup_shutdown");
	check(cq_cleanup_destroy(q), "cq_cleanup_destroy");
	hugepages_close(&pages);
}

/* ---------------------------------------------------------------- producers */

static void *cq_begin(void *q)
{
	cq_producer_t *p;

	check(cq_producer_attach(q, NULL, &p), "cq_producer_attach");
	return p;
}

static void *cq_begin_one(void *q, bench_fn *fn)
{
	cq_producer_t *p;

	check(cq_producer_attach(q, fn, &p), "cq_producer_attach");
	return p;
}

static void cq_end(void *p)
{
	cq_producer_detach(p);
}

/* Without a producer: the queue stands for it. */
static void *cq_shared_begin(void *q)
{
	return q;
}

static void cq_shared_end(void *q)
{
	(void)q;
}

static int cq_shared_enqueue(void *q, bench_fn *fn, void *arg)
{
	return cq_cleanup_enqueue(q, fn, arg);
}

static int cq_enqueue(void *p, bench_fn *fn, void *arg)
{
	return cq_producer_enqueue(p, fn, arg);
}

static int cq_put(void *p, bench_fn *fn, void *arg)
{
	(void)fn;
	return cq_producer_put(p, arg);
}

_Static_assert(sizeof(struct bench_slot) == sizeof(cq_callback_t) &&
    offsetof(struct bench_slot, arg) == offsetof(cq_callback_t, arg), "one is the other");

static struct bench_slot *cq_reserve(void *p, unsigned n, unsigned *room)
{
	cq_callback_t *slots;
	size_t have;

	check(cq_producer_span(p, &slots, &have), "cq_producer_span");
	*room = have < n ? (unsigned)have : n;
	return (struct bench_slot *)slots;
}

static void cq_commit(void *p, unsigned n)
{
	size_t accepted;

	check(cq_producer_commit(p, n, &accepted), "cq_producer_commit");
}

static void cq_flush(void *p)
{
	check(cq_producer_flush(p), "cq_producer_flush");
}

static void cq_flush_all(void *q)
{
	check(cq_cleanup_flush(q), "cq_cleanup_flush");
}

static void cq_finish(void *q)
{
	check(cq_cleanup_drain(q, CQ_FOREVER), "cq_cleanup_drain");
}

static void cq_run_here(void *q)
{
	cq_flush_all(q);
	cq_cleanup_run_some(q, SIZE_MAX);
}

static void cq_trim(void *q)
{
	check(cq_cleanup_trim(q, NULL), "cq_cleanup_trim");
}

#define QUEUE									\
	.destroy = cq_destroy, .finish = cq_finish, .run_here = cq_run_here, .trim = cq_trim,	\
	.create_small = cq_create_small, .flush_all = cq_flush_all, .wakes = cq_wakes
#define REST									\
	QUEUE, .begin = cq_begin, .end = cq_end, .enqueue = cq_enqueue, .flush = cq_flush
#define SPANS .reserve = cq_reserve, .commit = cq_commit
#define ONE_FUNCTION .begin_one = cq_begin_one, .put = cq_put

const struct contestant contestant_cq = { .name = "cq", .create = cq_create, SPANS, REST };
const struct contestant contestant_cq_put = {
	.name = "cq_put", .create = cq_create, ONE_FUNCTION, REST
};
const struct contestant contestant_cq_timed = {
	.name = "cq_timed", .create = cq_timed_create, .create_timed = cq_create_timed, ONE_FUNCTION, REST
};
const struct contestant contestant_cq_shared = {
	.name = "cq_shared", .create = cq_create, QUEUE, .begin = cq_shared_begin,
	.end = cq_shared_end, .enqueue = cq_shared_enqueue, .flush = cq_flush_all
};
const struct contestant contestant_cq_bind = {
	.name = "cq_bind", .create = cq_bind_create, ONE_FUNCTION, REST
};
const struct contestant contestant_cq_huge = {
	.name = "cq_huge", .create = cq_huge_create, ONE_FUNCTION, REST
};
