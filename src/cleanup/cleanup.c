/* SPDX-License-Identifier: BSD-2-Clause */
#include <cq/stats.h>
#include <errno.h>
#include <string.h>

#include "base/barrier.h"
#include "base/sized.h"
#include "cleanup_priv.h"
#include "pool/pool_inside.h"
#include "workq/stack.h"

/* ---------------------------------------------------------------------------- making */

/* Fills in the defaults; false when a field is outside its limits, or a table has gaps. */
static bool complete(cq_cleanup_config_t *c)
{
	if (c->block_bytes == 0)
		c->block_bytes = CQ_BLOCK_BYTES;
	if (c->allocator == NULL && c->pool_config != NULL)
		c->allocator = c->pool_config->allocator;
	if (c->allocator == NULL)
		c->allocator = &cq_default_allocator;
	return (c->flags & ~CQ_CLEANUP_FORK_DISCARD) == 0 && (c->parallel == CQ_BY_OWNER || c->wake_owner == NULL) &&
	    c->block_bytes >= CQ_BLOCK_BYTES_MIN && c->block_bytes <= CQ_BLOCK_BYTES_MAX &&
	    (c->pool == NULL || c->pool_config == NULL) &&
	    c->allocator->alloc != NULL && c->allocator->free != NULL;
}

/* Its own, unless there is one. */
static int make_pool(cq_cleanup_t *q, const cq_cleanup_config_t *config)
{
	cq_pool_config_t c = { 0 };

	q->pool = config->pool;
	if (q->pool != NULL)
		return 0;
	if (config->pool_config != NULL)
		c = *config->pool_config;
	if (c.name == NULL)
		c.name = "cq-cleanup";
	q->own_pool = true;
	return cq_pool_create(&c, &q->pool);
}

static int init(cq_cleanup_t *q, const cq_cleanup_config_t *c)
{
	int err;

	memset(q, 0, sizeof(*q));
	q->allocator = *c->allocator;
	q->discards = (c->flags & CQ_CLEANUP_FORK_DISCARD) != 0;
	q->slots = (uint32_t)((c->block_bytes - sizeof(cq_block_t)) / sizeof(cq_callback_t));
	q->block_bytes = sizeof(cq_block_t) + q->slots * sizeof(cq_callback_t);
	q->fences = !cq_barrier_asymmetric();
	if ((err = make_pool(q, c)) != 0)
		return err;
	q->park = cq_pool_park(q->pool);
	q->by_owner = c->parallel == CQ_BY_OWNER;
	q->wake_owner = c->wake_owner;
	q->host = c->host;
	q->polled = q->by_owner || cq_pool_is_polled(q->pool);
	/* If one fails: a mutex of the default kind has nothing to undo, nor has a set. */
	if ((err = cq_workq_init(&q->waiting[0].queue)) == 0 &&
	    (err = cq_workq_init(&q->waiting[1].queue)) == 0 &&
	    (err = pthread_mutex_init(&q->lock, NULL)) == 0 &&
	    (err = cq_sleepers_init(&q->drains, q->park, 0)) == 0 &&
	    (err = cq_task_create(q->pool, &cq_cleanup_task_ops, q, c->parallel, &q->task)) == 0) {
		/* The pool has the process's handlers, if it wants them. */
		if ((err = cq_fork_register(&q->fork_client, &cq_cleanup_fork_ops, false)) != 0)
			cq_task_close(q->task, CQ_FOREVER);
	}
	if (err != 0 && q->own_pool)
		cq_pool_destroy(q->pool, CQ_FOREVER);
	return err;
}

static int create(const cq_cleanup_config_t *config, size_t bytes, cq_cleanup_t **out)
{
	cq_cleanup_config_t c;
	cq_allocator_t allocator;
	cq_cleanup_t *q;
	int err;

	if ((err = cq_sized_read(&c, sizeof(c), config, bytes)) != 0)
		return err;
	if (out == NULL || !complete(&c))
		return EINVAL;
	allocator = *c.allocator;
	if ((q = cq_allocate(&allocator, sizeof(*q))) == NULL)
		return ENOMEM;
	err = (uintptr_t)q % CQ_LINE == 0 ? init(q, &c) : EINVAL;
	if (err != 0)
		cq_release(&allocator, q, sizeof(*q));
	else
		*out = q;
	return err;
}

int cq_cleanup_create_sized(const cq_cleanup_config_t *config, size_t bytes, cq_cleanup_t **out)
{
	int saved = errno;
	int err = create(config, bytes, out);

	errno = saved;
	return err;
}

cq_pool_t *cq_cleanup_pool(const cq_cleanup_t *q)
{
	return q->pool;
}

/* ------------------------------------------------------------------------ destroying */

static void free_queue(cq_cleanup_t *q)
{
	cq_allocator_t allocator = q->allocator;

	cq_fork_unregister(&q->fork_client);
	for (cq_block_t *b = q->all, *next; b != NULL; b = next) {
		next = b->all_next;
		cq_release(&allocator, b, q->block_bytes);
	}
	cq_sleepers_destroy(&q->drains);
	pthread_mutex_destroy(&q->lock);
	cq_release(&allocator, q, sizeof(*q));
}

/* Tasks on its own pool that are not the queue's. */
static bool lends_its_pool(const cq_cleanup_t *q)
{
	cq_pool_stats_t s;

	if (!q->own_pool)
		return false;
	cq_pool_stats(q->pool, &s);
	return s.tasks > 1;
}

int cq_cleanup_destroy(cq_cleanup_t *q)
{
	int saved = errno, err = 0;
	bool busy;

	if (q == NULL)
		return 0;
	if (cq_pool_is_current(q->pool) || cq_cleanup_forking(q))
		return EDEADLK;
	/* The lock also waits for the last detach to leave it. */
	pthread_mutex_lock(&q->lock);
	busy = q->nproducers != 0 || q->shutting_down != NULL || !cq_blocks_all_finished(q) ||
	    q->claimed.begin != q->claimed.end ||
	    cq_sleepers_waiters(&q->drains, NULL) != 0;
	pthread_mutex_unlock(&q->lock);
	if (busy || lends_its_pool(q))
		return EBUSY;
	/* Runs may go on, which find nothing. */
	if ((err = cq_task_close(q->task, CQ_FOREVER)) != 0)
		return err;
	if (q->own_pool)
		err = cq_pool_destroy(q->pool, CQ_FOREVER);
	free_queue(q);
	errno = saved;
	return err;
}

/* --------------------------------------------------------------------------- trimming */

/* Unlinks the blocks of `all` that are not kept, and frees them. */
static size_t sweep(cq_cleanup_t *q)
{
	size_t freed = 0;

	for (cq_block_t **link = &q->all, *b; (b = *link) != NULL;) {
		if (b->kept) {
			b->kept = false;
			link = &b->all_next;
			continue;
		}
		*link = b->all_next;
		q->executed += b->executed;
		cq_release(&q->allocator, b, q->block_bytes);
		freed += q->block_bytes;
	}
	return freed;
}

int cq_cleanup_trim(cq_cleanup_t *q, size_t *freed_bytes)
{
	size_t freed;

	if (cq_cleanup_forking(q))
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	/* Whoever pops a block, or has one in hand, has one that is not finished. A block that is finished is
	   free, or a producer's. */
	if (!cq_blocks_all_finished(q)) {
		pthread_mutex_unlock(&q->lock);
		return EBUSY;
	}
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next) {
		if (p->block != NULL)
			p->block->kept = true;
		for (cq_node_t *n = p->spares; n != NULL; n = n->next)
			cq_block_of(n)->kept = true;
	}
	cq_stack_clear(&q->free);
	freed = sweep(q);
	cq_u64_add_relaxed(&q->blocks_made, 0 - (uint64_t)(freed / q->block_bytes));
	pthread_mutex_unlock(&q->lock);
	if (freed_bytes != NULL)
		*freed_bytes = freed;
	return 0;
}
