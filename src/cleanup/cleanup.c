/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>

#include "base/barrier.h"
#include "cleanup_priv.h"
#include "base/park.h"
#include "pool/processors.h"

/*
 * How long a worker may be idle, and how large its stack is, by default. 30 s:
 * long against the gaps between collections, so that a program at work keeps
 * its workers; short against its life, so that a quiet one gives them back.
 * 256 KiB: what printf and a few calls need, several times over.
 */
#define IDLE_NS_DEFAULT UINT64_C(30000000000)
#define STACK_BYTES_DEFAULT ((size_t)256 << 10)

/* The smallest blocks that may share one function. */
#define SHARED_BYTES_MIN 1024

void cq_lock(cq_cleanup_t *q)
{
	if (!cq_forking(q))
		pthread_mutex_lock(&q->registry);
}

void cq_unlock(cq_cleanup_t *q)
{
	if (!cq_forking(q))
		pthread_mutex_unlock(&q->registry);
}

/* A quarter of the processors, as in Go: cleanups are to keep up, not to take over. */
static uint32_t default_max_workers(void)
{
	uint32_t quarter = cq_processors() / 4;

	return quarter < 1 ? 1 : quarter > CQ_MAX_WORKERS ? CQ_MAX_WORKERS : quarter;
}

/* Not in the way of green threads, of partial blocks, or of the only processor. */
static bool polls_by_default(const cq_cleanup_config_t *c)
{
	return c->park == NULL && (c->flags & CQ_HANDOVER) == 0 &&
	    cq_processors() > 1;
}

/* Fills in the defaults; false when a field is outside its limits, or a table has gaps. */
static bool complete(cq_cleanup_config_t *c)
{
	const unsigned known = CQ_POLLED | CQ_HANDOVER | CQ_FORK_DISCARD | CQ_NO_ATFORK;

	if (c->max_workers == 0)
		c->max_workers = default_max_workers();
	if (c->block_bytes == 0)
		c->block_bytes = CQ_BLOCK_BYTES_DEFAULT;
	if (c->idle_ns == 0)
		c->idle_ns = IDLE_NS_DEFAULT;
	if (c->spin_ns == 0)
		c->spin_ns = polls_by_default(c) ? CQ_SPIN_NS_DEFAULT : CQ_NO_SPIN;
	if (c->stack_bytes == 0)
		c->stack_bytes = STACK_BYTES_DEFAULT;
	if (c->name == NULL)
		c->name = "cq-cleanup";
	if (c->allocator == NULL)
		c->allocator = &cq_default_allocator;
	return (c->flags & ~known) == 0 && c->max_workers <= CQ_MAX_WORKERS &&
	    c->block_bytes >= CQ_BLOCK_BYTES_MIN && c->block_bytes <= CQ_BLOCK_BYTES_MAX &&
	    c->spin_ns >= CQ_NO_SPIN && c->spin_ns <= CQ_SPIN_NS_MAX &&
	    strlen(c->name) < sizeof(((cq_cleanup_t *)NULL)->name) && cq_park_complete(c->park) &&
	    c->allocator->alloc != NULL && c->allocator->free != NULL;
}

static int init_threads(cq_cleanup_t *q)
{
	int err = cq_threads_init(&q->threads);

	q->threads.allocator = &q->allocator;
	q->threads.name = q->name;
	q->threads.stack_bytes = q->config.stack_bytes;
	if (err == 0 && is_managed(q))
		cq_threads_note_creator(&q->threads);
	return err;
}

static int init_locks(cq_cleanup_t *q)
{
	const cq_park_ops_t *park = q->config.park;
	int err;

	/* If one fails: a mutex of the default kind has nothing to undo. */
	if ((err = init_threads(q)) == 0 && (err = pthread_mutex_init(&q->registry, NULL)) == 0 &&
	    (err = cq_parked_init(&q->idle, park)) == 0 &&
	    (err = cq_parked_init(&q->drainers, park)) == 0)
		err = cq_parked_init(&q->exits, park);
	return err;
}

static int init(cq_cleanup_t *q, const cq_cleanup_config_t *config)
{
	int err;

	memset(q, 0, sizeof(*q));
	q->config = *config;
	memcpy(q->name, config->name, strlen(config->name) + 1); /* complete() has seen to it */
	q->config.name = q->name;
	q->allocator = *config->allocator;
	q->config.allocator = &q->allocator;
	q->spawn_host = config->host;
	if (config->spawn == NULL && (config->flags & CQ_POLLED) == 0) {
		q->config.spawn = cq_threads_spawn;
		q->spawn_host = &q->threads;
	}

	q->slots = (uint32_t)((config->block_bytes - sizeof(cq_block_t)) / sizeof(cq_callback_t));
	q->block_bytes = sizeof(cq_block_t) + q->slots * sizeof(cq_callback_t);
	/* Who chooses small blocks wants few callbacks in each. */
	q->args = config->block_bytes < SHARED_BYTES_MIN ? 0 : 2 * q->slots - 1;
	q->gate = (cq_barrier_asymmetric() ? 0 : GATE_FENCE) |
	    ((config->flags & CQ_HANDOVER) != 0 ? GATE_HANDOVER : 0);
	if ((err = cq_workq_init(&q->full[0].queue)) == 0 &&
	    (err = cq_workq_init(&q->full[1].queue)) == 0 && (err = init_locks(q)) == 0 &&
	    (config->flags & CQ_NO_ATFORK) == 0)
		err = cq_fork_register(&q->fork_client, &cq_cleanup_fork_ops, true);
	return err;
}

/* Reads a config of `bytes` bytes, whose caller may be of an older or a newer version. */
static int read_config(cq_cleanup_config_t *c, const cq_cleanup_config_t *config, size_t bytes)
{
	const unsigned char *byte = (const unsigned char *)config;

	*c = (cq_cleanup_config_t){ 0 };
	if (config == NULL)
		return 0;
	if (bytes == 0)
		return EINVAL;
	for (size_t i = sizeof(*c); i < bytes; i++)
		if (byte[i] != 0)
			return E2BIG;
	memcpy(c, config, min_u64(bytes, sizeof(*c)));
	return 0;
}

static int create_queue(const cq_cleanup_config_t *config, size_t bytes, cq_cleanup_t **out)
{
	cq_cleanup_config_t c;
	const cq_allocator_t *allocator;
	cq_cleanup_t *q;
	int err;

	if ((err = read_config(&c, config, bytes)) != 0)
		return err;
	if (out == NULL || !complete(&c))
		return EINVAL;
	allocator = c.allocator;
	q = cq_allocate(allocator, sizeof(*q));
	if (q == NULL)
		return ENOMEM;
	err = (uintptr_t)q % CQ_LINE == 0 ? init(q, &c) : EINVAL;
	if (err != 0) {
		cq_release(allocator, q, sizeof(*q));
		return err;
	}
	*out = q;
	return 0;
}

int cq_cleanup_create_sized(const cq_cleanup_config_t *config, size_t bytes, cq_cleanup_t **out)
{
	int saved = errno;
	int err = create_queue(config, bytes, out);

	errno = saved;
	return err;
}

int cq_cleanup_destroy(cq_cleanup_t *q)
{
	cq_allocator_t allocator;
	int saved = errno;
	bool busy;

	if (q == NULL)
		return 0;
	if (cq_forking(q))
		return EDEADLK;
	/* The lock also waits for the last worker to leave it. */
	pthread_mutex_lock(&q->registry);
	busy = q->nproducers != 0 || q->nworkers != 0 || cq_blocks_waiting(q) != 0 ||
	    cq_u32_load_relaxed(&q->pollers) != 0 || q->shutdown == SHUTDOWN_ACTIVE ||
	    cq_u32_load_relaxed(&q->drainers.asleep) != 0 || !cq_nothing_left(q);
	pthread_mutex_unlock(&q->registry);
	if (busy)
		return EBUSY;

	if ((q->config.flags & CQ_NO_ATFORK) == 0)
		cq_fork_unregister(&q->fork_client);
	cq_threads_join(&q->threads);
	for (cq_block_t *b = q->all, *next; b != NULL; b = next) {
		next = b->all_next;
		cq_free(q, b, q->block_bytes);
	}
	cq_parked_destroy(&q->idle);
	cq_parked_destroy(&q->drainers);
	cq_parked_destroy(&q->exits);
	pthread_mutex_destroy(&q->registry);
	cq_threads_destroy(&q->threads);
	allocator = q->allocator;
	cq_release(&allocator, q, sizeof(*q));
	errno = saved;
	return 0;
}
