/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libcq's cleanup queue, with its defaults but for the cap and no retiring; with
 * workers that are bound; with CQ_HANDOVER; with memory in huge pages.
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

/* As many workers as processors, or the bound ones would leave some idle. */
static void *cq_bind_create(unsigned workers)
{
	cq_cleanup_config_t config = {
		.max_workers = workers, .idle_ns = CQ_FOREVER, .host = &binding,
		.worker_start = binding_start, .worker_end = binding_end,
	};
	cq_cleanup_t *q;

	if (workers == 0 || binding_init(&binding) != workers)
		return NULL;
	check(cq_cleanup_create(&config, &q), "cq_cleanup_create");
	return q;
}

static void *create_with(unsigned workers, unsigned flags, const cq_allocator_t *allocator)
{
	cq_cleanup_config_t config = {
		.flags = flags | (workers == 0 ? CQ_POLLED : 0),
		.max_workers = workers,
		.idle_ns = CQ_FOREVER,
		.allocator = allocator,
	};
	cq_cleanup_t *q;

	check(cq_cleanup_create(&config, &q), "cq_cleanup_create");
	return q;
}

static void *cq_create(unsigned workers)
{
	return create_with(workers, 0, NULL);
}

static void *cq_handover_create(unsigned workers)
{
	return create_with(workers, CQ_HANDOVER, NULL);
}

static void *cq_huge_create(unsigned workers)
{
	cq_allocator_t allocator = hugepages_allocator(&pages);

	return create_with(workers, 0, &allocator);
}

static void cq_destroy(void *q)
{
	check(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL),
	    "cq_cleanup_shutdown");
	check(cq_cleanup_destroy(q), "cq_cleanup_destroy");
	hugepages_close(&pages);
}

static void *cq_begin(void *q)
{
	cq_producer_t *p;

	check(cq_producer_attach(q, &p), "cq_producer_attach");
	return p;
}

static void cq_end(void *p)
{
	cq_producer_detach(p);
}

static int cq_enqueue(void *p, bench_fn *fn, void *arg)
{
	return cq_producer_enqueue(p, fn, arg);
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

static void cq_finish(void *q)
{
	check(cq_cleanup_drain(q, CQ_FOREVER), "cq_cleanup_drain");
}

static void cq_run_here(void *q)
{
	check(cq_cleanup_flush_all(q), "cq_cleanup_flush_all");
	cq_cleanup_run_some(q, SIZE_MAX);
}

static void cq_trim(void *q)
{
	check(cq_cleanup_trim(q, NULL), "cq_cleanup_trim");
}

#define REST									\
	.destroy = cq_destroy, .begin = cq_begin, .end = cq_end, .enqueue = cq_enqueue,	\
	.flush = cq_flush, .finish = cq_finish, .run_here = cq_run_here,		\
	.reserve = cq_reserve, .commit = cq_commit, .trim = cq_trim

const struct contestant contestant_cq = { .name = "cq", .create = cq_create, REST };
const struct contestant contestant_cq_bind = {
	.name = "cq_bind", .create = cq_bind_create, REST
};
const struct contestant contestant_cq_handover = {
	.name = "cq_handover", .create = cq_handover_create, REST
};
const struct contestant contestant_cq_huge = {
	.name = "cq_huge", .create = cq_huge_create, REST
};
