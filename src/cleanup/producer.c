/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "producer.h"

/* ------------------------------------------------------------------ enqueue */

/* The slots below `write` are written. True: that is to be looked after. */
static inline bool show(cq_producer_t *p, void *write)
{
	/* Pairs with the acquire of write in claim (gather.c): the slots before what
	   covers them. Without it a gatherer could copy an old slot. */
	cq_ptr_store_release(&p->write, write);
	if (is_open(p))
		CQ_POINT("producer.stored");

	/* Program order between that store and this load is one half of the
	   asymmetric barrier; see cq_producers_look and gated (open.c). */
	return (uintptr_t)write >= (uintptr_t)cq_ptr_load_relaxed(&p->end);
}

/* Into a shared block, or with its function. True: it is to be looked after. */
static inline bool put_arg(cq_producer_t *p, void **slot, void *arg)
{
	cq_ptr_store_relaxed(slot, arg);
	return show(p, slot + 1);
}

static inline bool put_pair(cq_producer_t *p, cq_callback_t *slot, cq_callback_fn *fn, void *arg)
{
	cq_ptr_store_relaxed(&slot->arg, arg);
	cq_ptr_store_relaxed(&slot->fn, fn);
	return show(p, slot + 1);
}

/* Not hot: the callback in `slot` is to be looked after, or the slot is nowhere. */
static CQ_RARE int enqueue_closely(cq_producer_t *p, void *slot, cq_callback_fn *fn, void *arg)
{
	int err;

	if (!is_open(p)) {
		CQ_POINT("producer.nowhere");
		cq_ptr_store_relaxed(&p->write, &p->nowhere);
		if ((err = cq_open_block(p, fn)) != 0)
			return err;
		slot = p->write;
		if (is_shared(p) ? !put_arg(p, slot, arg) : !put_pair(p, slot, fn, arg))
			return 0;
	}
	return cq_look_after(p, slot, 1, false) == 1 ? 0 : ESHUTDOWN;
}

/* The open block is for another function. It is published as it is. */
static void end_sharing(cq_producer_t *p)
{
	p->sole = NOT_SHARED;
	cq_close_block(p);
}

/* The callback takes a slot for itself and its function. Not inline, to keep jumps
   out of the other way. */
static CQ_RARE int enqueue_pair(cq_producer_t *p, cq_callback_fn *fn, void *arg)
{
	cq_callback_t *slot;

	if (fn == NULL)
		return EINVAL;
	if (is_shared(p))
		end_sharing(p);
	slot = p->write;
	if (CQ_LIKELY(!put_pair(p, slot, fn, arg)))
		return 0;
	return enqueue_closely(p, slot, fn, arg);
}

int cq_producer_enqueue(cq_producer_t *p, cq_callback_fn *fn, void *arg)
{
	void **slot = p->write;

	if (fn != p->fn)
		return enqueue_pair(p, fn, arg);
	if (CQ_LIKELY(!put_arg(p, slot, arg)))
		return 0;
	return enqueue_closely(p, slot, fn, arg);
}

/* --------------------------------------------------------------------- spans */

int cq_producer_span(cq_producer_t *p, cq_callback_t **slots, size_t *n)
{
	int err;

	if (slots == NULL || n == NULL)
		return EINVAL;
	if ((cq_u32_load_relaxed(&p->q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	if (is_shared(p))
		end_sharing(p);
	if (!is_open(p) && (err = cq_open_block(p, NOT_SHARED)) != 0)
		return err;
	*slots = p->span = p->write;
	*n = p->q->slots - written(p);
	return 0;
}

/* The slots that commit may take: none if something came between, a commit or an enqueue. */
static uint32_t spanned(const cq_producer_t *p)
{
	return is_open(p) && p->write == p->span ? p->q->slots - written(p) : 0;
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
	*accepted = show(p, slot + k) ? cq_look_after(p, slot, k, true) : k;
	return *accepted == k ? 0 : ESHUTDOWN;
}

/* --------------------------------------------------------- reserve and flush */

int cq_producer_reserve(cq_producer_t *p, size_t n)
{
	int err;

	if ((cq_u32_load_relaxed(&p->q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	if (cq_forking(p->q))
		return EDEADLK;
	/* A block for one function may have to end at the next callback. */
	err = cq_ensure_spares(p, n, is_open(p) && !is_shared(p) ? p->q->slots - written(p) : 0);
	if (err == 0)
		p->reserved_until = accepted_by(p) + n;
	return err;
}

int cq_producer_flush(cq_producer_t *p)
{
	if (cq_forking(p->q))
		return EDEADLK;
	uint64_t so_far = accepted_by(p);

	if (!is_open(p) || written(p) == state_claimed(cq_u64_load_relaxed(&p->state)))
		return 0;
	/* The rest of this block goes; what is reserved must fit the spares alone. */
	if (p->reserved_until > so_far && cq_ensure_spares(p, p->reserved_until - so_far, 0) != 0)
		return ENOMEM;
	p->fills = false;
	return cq_close_block(p);
}

/* -------------------------------------------------------- attach and detach */

int cq_producer_attach(cq_cleanup_t *q, cq_producer_t **out)
{
	cq_producer_t *p;

	if (q == NULL || out == NULL)
		return EINVAL;
	if ((cq_u32_load_relaxed(&q->gate) & GATE_CLOSED) != 0)
		return ESHUTDOWN;
	if (cq_forking(q))
		return EDEADLK;
	p = cq_alloc(q, sizeof(*p));
	if (p == NULL)
		return ENOMEM;
	*p = (cq_producer_t){ .q = q, .write = &p->nowhere, .fn = NOT_SHARED, .sole = NOT_SHARED };

	pthread_mutex_lock(&q->registry);
	p->next = q->producers;
	if (p->next != NULL)
		p->next->prev = p;
	q->producers = p;
	q->nproducers++;
	pthread_mutex_unlock(&q->registry);
	*out = p;
	return 0;
}

void cq_producer_detach(cq_producer_t *p)
{
	cq_cleanup_t *q;

	if (p == NULL)
		return;
	q = p->q;
	if (is_open(p))
		cq_close_block(p);
	cq_give_spares_back(p, 0);

	cq_lock(q);
	if (p->prev != NULL)
		p->prev->next = p->next;
	else
		q->producers = p->next;
	if (p->next != NULL)
		p->next->prev = p->prev;
	q->queued += p->total;
	q->published[0] += p->published[0];
	q->published[1] += p->published[1];
	q->nproducers--;
	cq_free(q, p, sizeof(*p));
	cq_unlock(q);
}
