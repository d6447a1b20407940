/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>

#include "base/barrier.h"
#include "base/sized.h"
#include "cleanup_priv.h"
#include "pool/pool_inside.h"

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
	if (c->flush_ns == CQ_FOREVER)
		c->flush_ns = 0;
	if (c->wake_bytes == 0)
		c->wake_bytes = CQ_WAKE_BYTES;
	return (c->flags & ~CQ_CLEANUP_FORK_DISCARD) == 0 && (c->parallel == CQ_BY_OWNER || c->wake_owner == NULL) &&
	    c->block_bytes >= CQ_BLOCK_BYTES_MIN && c->block_bytes <= CQ_BLOCK_BYTES_MAX &&
	    (c->flush_ns == 0 || c->flush_ns >= CQ_FLUSH_NS_MIN) &&
	    (c->max_waiting == 0 || c->max_waiting >= CQ_MAX_WAITING_MIN) &&
	    (c->pool == NULL || c->pool_config == NULL) &&
	    c->allocator->alloc != NULL && c->allocator->free != NULL;
}

/* Not to a host's allocator: if that is bounded it could refuse a block while others are in the hand of trim. */
static void idle(void *arg)
{
	cq_cleanup_t *q = arg;

	if (q->maps)
		(void)cq_cleanup_trim(q, NULL);
}

static int init(cq_cleanup_t *q, const cq_cleanup_config_t *c, bool grows)
{
	cq_pool_config_t own = { 0 };
	int err;

	if ((uintptr_t)q % CQ_LINE != 0)
		return EINVAL;
	memset(q, 0, sizeof(*q));
	q->allocator = *c->allocator;
	q->discards = (c->flags & CQ_CLEANUP_FORK_DISCARD) != 0;
	q->slots = (uint32_t)((c->block_bytes - sizeof(cq_block_t)) / sizeof(cq_callback_t));
	q->max_waiting = c->max_waiting;
	q->tick_ns = c->flush_ns / 2;
	/* A fourth of the bound, also where there are two arguments to a slot. */
	if (c->max_waiting != 0 && q->slots > c->max_waiting / 8)
		q->slots = (uint32_t)(c->max_waiting / 8);
	q->block_bytes = sizeof(cq_block_t) + q->slots * sizeof(cq_callback_t);
	q->maps = q->allocator.alloc == cq_default_allocator.alloc && cq_slab_bytes() != 0;
	q->slab_blocks = q->maps ? (uint32_t)(cq_slab_bytes() / cq_block_stride(q)) : 1;
	q->grows = grows && q->maps && c->max_waiting == 0 && q->slab_blocks >= CQ_LARGE;
	q->large_slots = (uint32_t)((CQ_LARGE * q->block_bytes - sizeof(cq_block_t)) / sizeof(cq_callback_t));
	q->fences = !cq_barrier_asymmetric();
	q->own_pool = c->pool == NULL;
	q->pool = c->pool;
	if (q->own_pool) {
		if (c->pool_config != NULL)
			own = *c->pool_config;
		if (own.name == NULL)
			own.name = "cq-cleanup";
		if ((err = cq_pool_create(&own, &q->pool)) != 0)
			return err;
	}
	q->park = cq_pool_park(q->pool);
	if (q->tick_ns != 0 && cq_pool_keeps_time(q->pool))
		q->wake_blocks = c->wake_bytes / q->block_bytes;
	/* Half of the bound, where there are two arguments to a slot: else its refusal would be what wakes a worker. */
	if (c->max_waiting != 0 && q->wake_blocks > c->max_waiting / q->slots / 4)
		q->wake_blocks = c->max_waiting / q->slots / 4;
	q->by_owner = c->parallel == CQ_BY_OWNER;
	q->wake_owner = c->wake_owner;
	q->host = c->host;
	/* If one fails: a mutex of the default kind has nothing to undo, nor has a set. */
	if ((err = pthread_mutex_init(&q->lock, NULL)) == 0 &&
	    (err = pthread_mutex_init(&q->partial_lock, NULL)) == 0 &&
	    (err = cq_sleepers_init(&q->drains, q->park, 0)) == 0 &&
	    (err = cq_task_create_idle(q->pool, &cq_cleanup_task_ops, idle, q, c->parallel, &q->task)) == 0)
		/* The pool has the process's handlers, if it wants them. Not refused, as the task was not. */
		err = cq_fork_register(&q->fork_client, &cq_cleanup_fork_ops, false);
	if (err != 0 && q->own_pool)
		cq_pool_destroy(q->pool, CQ_FOREVER);
	return err;
}

int cq_cleanup_create_sized(const cq_cleanup_config_t *config, size_t bytes, cq_cleanup_t **out)
{
	int saved = errno, err;
	cq_cleanup_config_t c;
	cq_cleanup_t *q;
	bool grows;

	if ((err = cq_sized_read(&c, sizeof(c), config, bytes)) != 0)
		return err;
	grows = c.block_bytes == 0;
	if (out == NULL || !complete(&c))
		return EINVAL;
	if ((q = cq_allocate(c.allocator, sizeof(*q))) == NULL)
		return ENOMEM;
	if ((err = init(q, &c, grows)) == 0)
		*out = q;
	else
		cq_release(c.allocator, q, sizeof(*q));
	errno = saved;
	return err;
}

cq_pool_t *cq_cleanup_pool(const cq_cleanup_t *q)
{
	return q->pool;
}

/* ------------------------------------------------------------------------ destroying */

int cq_cleanup_destroy(cq_cleanup_t *q)
{
	cq_allocator_t allocator;
	cq_pool_stats_t s;
	bool busy;

	if (q == NULL)
		return 0;
	if (cq_cleanup_is_current(q))
		return EDEADLK;
	/* The lock also waits for the last detach to leave it. */
	pthread_mutex_lock(&q->lock);
	busy = q->nproducers != 0 || cq_shared_hold_some(q) || q->shutting_down != NULL ||
	    !cq_blocks_all_finished(q) || cq_sleepers_waiters(&q->drains, NULL) != 0;
	pthread_mutex_unlock(&q->lock);
	cq_pool_stats(q->pool, &s);
	/* Its own pool may have tasks that are not the queue's. */
	if (busy || (q->own_pool && s.tasks > 1))
		return EBUSY;
	/* Runs may go on, which find nothing. */
	(void)cq_task_close(q->task, CQ_FOREVER);
	/* Before the task is gone, at which a forked child looks. */
	cq_fork_unregister(&q->fork_client);
	if (q->own_pool)
		(void)cq_pool_destroy(q->pool, CQ_FOREVER);
	allocator = q->allocator;
	cq_shared_free(q);
	cq_shards_free(q);
	for (cq_block_t *slab = q->slabs, *next; slab != NULL; slab = next) {
		next = slab->next_slab;
		cq_slab_free(q, slab);
	}
	cq_sleepers_destroy(&q->drains);
	pthread_mutex_destroy(&q->partial_lock);
	pthread_mutex_destroy(&q->lock);
	cq_release(&allocator, q, sizeof(*q));
	return 0;
}

/* ------------------------------------------------------------------------- statistics */

static void note_age(cq_cleanup_stats_t *s, uint64_t now, const uint64_t *since)
{
	uint64_t at = cq_u64_load_relaxed(since);

	if (now > at && now - at > s->oldest_ns)
		s->oldest_ns = now - at;
}

void cq_cleanup_stats_sized(cq_cleanup_t *q, cq_cleanup_stats_t *out, size_t bytes)
{
	uint64_t now = q->park->now(q->park->host);
	cq_cleanup_stats_t s = { .block_bytes = q->block_bytes };

	cq_fork_lock(&q->lock);
	/* What has left the queue first, so that it is never more than queued: behind the first acquire in look
	   (collect.c) all is seen that was before the release in cq_block_give_up; and what is handed back was
	   seen under this lock, or the barrier came before it (cq_producers_see). */
	for (uint32_t i = 0; i < cq_shards(q); i++)
		s.executed += cq_u64_load_relaxed(&cq_shard_at(q, i)->executed);
	s.handed_back = cq_u64_load_relaxed(&q->handed_back);
	s.queued = q->queued;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		s.queued += cq_producer_accepted(p);
	s.flushes = q->flushes;
	s.producers = q->nproducers;
	/* Pairs with the release in cq_block_get (block_memory.c): the fields of the slabs. */
	for (cq_block_t *slab = cq_ptr_load_acquire(&q->slabs); slab != NULL; slab = slab->next_slab)
		s.blocks_made += cq_u32_load_relaxed(&slab->carved);
	cq_fork_unlock(&q->lock);
	s.blocks_waiting = cq_blocks_waiting(q);
	/* The longest that a published block can have waited: see cq_blocks_push. */
	for (uint32_t i = 0; i < 2 * cq_shards(q); i++) {
		const cq_shard_t *shard = cq_shard_at(q, i / 2);

		if (cq_workq_units(&shard->waiting[i & 1]) != 0)
			note_age(&s, now, &shard->waiting[i & 1].user);
	}
	if (cq_ptr_load_relaxed(&q->partial) != NULL)
		note_age(&s, now, &q->partial_since);
	cq_task_in_hand(q->task, now, &s.in_hand, &s.in_hand_ns);
	cq_sized_write(out, bytes, &s, sizeof(s));
}
