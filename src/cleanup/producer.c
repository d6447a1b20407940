/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "cleanup_priv.h"

/* ------------------------------------------------------------------------- enqueue */

/* The slots below `write` are written. True: it has come to the limit. */
static inline bool shown(cq_producer_t *p, void *write)
{
	/* Pairs with the acquire of write in look (collect.c): the slots before what covers them. Without it a
	   collector could copy an old slot. */
	cq_ptr_store_release(&p->write, write);
	if (p->block != NULL)
		CQ_POINT("producer.stored");

	/* Program order between that store and this load is one half of the asymmetric barrier; see
	   cq_producers_see (producer_block.c). */
	return (uintptr_t)write >= (uintptr_t)cq_ptr_load_relaxed(&p->limit);
}

static inline bool put_arg(cq_producer_t *p, void **slot, void *arg)
{
	cq_ptr_store_relaxed(slot, arg);
	return shown(p, slot + 1);
}

static inline bool put_pair(cq_producer_t *p, cq_callback_t *slot, cq_callback_fn *fn, void *arg)
{
	cq_ptr_store_relaxed(&slot->arg, arg);
	cq_ptr_store_relaxed(&slot->fn, fn);
	return shown(p, slot + 1);
}

/* Its arguments are where the hot path has them. */
static CQ_RARE int put_slow(cq_producer_t *p, void *arg, void *slot)
{
	return cq_producer_slow(p, p->fn, arg, slot, 1, NULL);
}

int cq_producer_enqueue(cq_producer_t *p, cq_callback_fn *fn, void *arg)
{
	cq_callback_t *slot = p->write;

	if (!CQ_LIKELY(fn != NULL && p->fn == NULL))
		return cq_producer_slow(p, fn, arg, NULL, 1, NULL);
	if (CQ_LIKELY(!put_pair(p, slot, fn, arg)))
		return 0;
	return cq_producer_slow(p, fn, arg, slot, 1, NULL);
}

int cq_producer_put(cq_producer_t *p, void *arg)
{
	void **slot = p->write;

	if (!CQ_LIKELY(p->fn != NULL))
		return put_slow(p, arg, NULL);
	if (CQ_LIKELY(!put_arg(p, slot, arg)))
		return 0;
	return put_slow(p, arg, slot);
}

/* --------------------------------------------------------------------------- spans */

int cq_producer_span(cq_producer_t *p, cq_callback_t **slots, size_t *n)
{
	int err;

	if (slots == NULL || n == NULL || p->fn != NULL)
		return EINVAL;
	if (cq_u32_load_relaxed(&p->q->closed) != 0)
		return ESHUTDOWN;
	if (p->block == NULL && (err = cq_producer_open(p, false)) != 0)
		return err;
	*slots = p->span = p->write;
	*n = p->q->slots - cq_producer_written(p);
	return 0;
}

/* The slots that commit may take: none if something came between, a commit or an enqueue. */
static uint32_t spanned(const cq_producer_t *p)
{
	return p->block != NULL && p->write == p->span ? p->q->slots - cq_producer_written(p) : 0;
}

static size_t nulls_in(const cq_callback_t *slots, size_t n)
{
	size_t nulls = 0;

	for (size_t i = 0; i < n; i++)
		nulls += slots[i].fn == NULL;
	return nulls;
}

int cq_producer_commit(cq_producer_t *p, size_t k, size_t *accepted)
{
	cq_callback_t *slot = p->write;

	if (accepted == NULL)
		return EINVAL;
	*accepted = 0;
	if (k > spanned(p))
		return EINVAL;
	if (k == 0)
		return 0;
	CQ_CHECK(nulls_in(slot, k) == 0);
	*accepted = k;
	return shown(p, slot + k) ? cq_producer_slow(p, NULL, NULL, slot, k, accepted) : 0;
}

/* ---------------------------------------------------------------- reserve and flush */

/* Callbacks accepted so far, by the owner. */
static uint64_t accepted_by(const cq_producer_t *p)
{
	return p->block != NULL ? p->base + cq_producer_written(p) : p->total;
}

int cq_producer_reserve(cq_producer_t *p, size_t n)
{
	uint64_t room = p->block != NULL ? cq_producer_slots(p) - cq_producer_written(p) : 0;
	int err;

	if (cq_u32_load_relaxed(&p->q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	err = cq_producer_ensure_spares(p, n, room);
	if (err == 0)
		p->reserved_until = accepted_by(p) + n;
	return err;
}

int cq_producer_flush(cq_producer_t *p)
{
	uint64_t so_far = accepted_by(p);

	if (cq_forking())
		return EDEADLK;
	if (p->block == NULL || cq_producer_written(p) == state_claimed(cq_u64_load_relaxed(&p->state)))
		return 0;
	/* The rest of this block goes; what is reserved must fit the spares alone. */
	if (p->reserved_until > so_far &&
	    cq_producer_ensure_spares(p, p->reserved_until - so_far, 0) != 0)
		return ENOMEM;
	p->fills = false;
	return cq_producer_close(p);
}

/* --------------------------------------------------------------- attach and detach */

/* With the lock held. NULL: no memory. */
cq_producer_t *cq_producer_make(cq_cleanup_t *q, cq_callback_fn *fn)
{
	cq_producer_t *p = cq_allocate(&q->allocator, sizeof(*p));

	if (p == NULL)
		return NULL;
	*p = (cq_producer_t){ .q = q, .fn = fn, .write = &p->dummy, .next = q->producers };
	if (p->next != NULL)
		p->next->prev = p;
	q->producers = p;
	return p;
}

int cq_producer_attach(cq_cleanup_t *q, cq_callback_fn *fn, cq_producer_t **out)
{
	cq_producer_t *p;

	if (q == NULL || out == NULL)
		return EINVAL;
	if (cq_u32_load_relaxed(&q->closed) != 0)
		return ESHUTDOWN;
	if (cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	p = cq_producer_make(q, fn);
	q->nproducers += p != NULL;
	pthread_mutex_unlock(&q->lock);
	if (p == NULL)
		return ENOMEM;
	*out = p;
	return 0;
}

void cq_producer_detach(cq_producer_t *p)
{
	cq_cleanup_t *q;

	if (p == NULL)
		return;
	q = p->q;
	if (p->block != NULL)
		cq_producer_close(p);
	cq_producer_free_spares(p, 0);

	cq_cleanup_lock(q);
	if (p->prev != NULL)
		p->prev->next = p->next;
	else
		q->producers = p->next;
	if (p->next != NULL)
		p->next->prev = p->prev;
	q->queued += p->total;
	q->nproducers--;
	cq_release(&q->allocator, p, sizeof(*p));
	cq_cleanup_unlock(q);
}
