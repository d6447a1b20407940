/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Enqueue for callers without a producer: by producers of the queue's own, one for each CPU that comes by.
 * Whoever enqueues takes one, is its owner for the moment, and lets go of it. To everybody else it is a
 * producer like any other.
 *
 * Nobody waits for one that is taken, but takes the next: its owner may be preempted, or make a worker, or
 * allocate. So a shared producer has no place in the order of locks; what an owner calls may enqueue; a
 * thread is not held up by one of a lower priority; and a forked child lets go of all, as it
 * has none of the owners.
 */
#include <errno.h>
#include <string.h>

#include "base/process.h"
#include "cleanup_priv.h"

/* How many at most; more CPUs have some in common. Each has a block, and 8 bytes in the list. At 1, of two
   that enqueue at a time one makes a block for its callback alone. */
#define SHARED 64

/* The ith is made, by whoever comes first. */
static CQ_RARE int make_shared(cq_cleanup_t *q, uint32_t i, cq_producer_t **p)
{
	cq_producer_t **list;

	if (cq_u32_load_relaxed(&q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	if (q->shared == NULL && (list = cq_allocate(&q->allocator, SHARED * sizeof(void *))) != NULL) {
		memset(list, 0, SHARED * sizeof(void *));
		/* Pairs with the acquire in shared_at: an empty list. */
		cq_ptr_store_release(&q->shared, list);
	}
	if (q->shared != NULL && q->shared[i] == NULL && (*p = cq_producer_make(q, NULL)) != NULL)
		/* Pairs with the acquire in shared_at: the producer as it was made. Without it an owner could
		   write to wherever its memory last said. */
		cq_ptr_store_release(&q->shared[i], *p);
	*p = q->shared != NULL ? q->shared[i] : NULL;
	pthread_mutex_unlock(&q->lock);
	return *p != NULL ? 0 : ENOMEM;
}

/* The ith, or NULL. */
static cq_producer_t *shared_at(const cq_cleanup_t *q, uint32_t i)
{
	/* Each pairs with its release in make_shared. */
	cq_producer_t **list = cq_ptr_load_acquire(&q->shared);

	return list != NULL ? cq_ptr_load_acquire(&list[i]) : NULL;
}

/* False: it is another's. */
static bool take_shared(cq_producer_t *p)
{
	if (cq_u32_load_relaxed(&p->taken) != 0 || !cq_u32_cas_relaxed(&p->taken, 0, 1))
		return false;
	/* Pairs with the release in cq_cleanup_enqueue: the producer as its last owner left it. Without it
	   the callback could be written over another. */
	cq_fence_acquire();
	return true;
}

/* As many threads as there are shared ones are in the middle of this. */
static CQ_RARE int enqueue_alone(cq_cleanup_t *q, cq_callback_fn *fn, void *arg)
{
	cq_producer_t *p;
	int err = cq_producer_attach(q, NULL, &p);

	if (err != 0)
		return err;
	err = cq_producer_enqueue(p, fn, arg);
	cq_producer_detach(p);
	return err;
}

int cq_cleanup_enqueue(cq_cleanup_t *q, cq_callback_fn *fn, void *arg)
{
	uint32_t cpu = cq_cpu();

	for (uint32_t n = 0; n < SHARED; n++) {
		uint32_t i = (cpu + n) % SHARED;
		cq_producer_t *p = shared_at(q, i);
		int err;

		if (p == NULL && (err = make_shared(q, i, &p)) != 0)
			return err;
		if (!take_shared(p))
			continue;
		err = cq_producer_enqueue(p, fn, arg);
		/* Pairs with the acquire in take_shared: all that was done with the producer. */
		cq_u32_store_release(&p->taken, 0);
		return err;
	}
	return enqueue_alone(q, fn, arg);
}

/* ------------------------------------------------------------ trim and destroy */

static bool holds_some(const cq_producer_t *p)
{
	return p->block != NULL && cq_producer_written(p) != state_claimed(p->state);
}

/* They let go of blocks that hold nothing, unless they are taken. With the lock held. */
void cq_shared_trim(cq_cleanup_t *q)
{
	for (uint32_t i = 0; q->shared != NULL && i < SHARED; i++) {
		cq_producer_t *p = q->shared[i];

		if (p == NULL || !take_shared(p))
			continue;
		if (p->block != NULL && !holds_some(p)) {
			p->total = p->base + cq_producer_written(p);
			p->state &= ~STATE_OPEN;
			cq_block_put(q, p->block);
			p->block = NULL;
			p->write = &p->dummy;
			p->limit = NULL;
		}
		/* Pairs with the acquire in take_shared: the producer has no block. */
		cq_u32_store_release(&p->taken, 0);
	}
}

/* The queue's producers are all shared ones. Have they callbacks that nothing has published? */
bool cq_shared_hold_some(const cq_cleanup_t *q)
{
	for (const cq_producer_t *p = q->producers; p != NULL; p = p->next)
		if (holds_some(p))
			return true;
	return false;
}

/* Likewise. */
void cq_shared_free(cq_cleanup_t *q)
{
	for (cq_producer_t *p = q->producers, *next; p != NULL; p = next) {
		next = p->next;
		cq_release(&q->allocator, p, sizeof(*p));
	}
	if (q->shared != NULL)
		cq_release(&q->allocator, q->shared, SHARED * sizeof(void *));
}
