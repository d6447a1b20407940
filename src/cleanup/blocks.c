/* SPDX-License-Identifier: BSD-2-Clause */
/* Blocks: their memory, those that wait for a worker, and the count of those that are unfinished. */
#include "cleanup_priv.h"
#include "workq/stack.h"

/* How long a block may wait before those published after it wait for it in turn. Long against a run of a
   block, so that the newest, whose lines are in the cache, are mostly taken first; short to a person. At 0
   the stacks change places whenever they can; without limit, the oldest waits for as long as more comes. */
#define AGE_NS UINT64_C(10000000)

/* ------------------------------------------------------------------------- memory */

/* NULL: no memory. Its pages are had at once, but for the first: a queue that needs no more has few blocks. */
static cq_block_t *make_slab(cq_cleanup_t *q, bool first)
{
	cq_block_t *slab;

	if (q->maps)
		return cq_slab_map(q->slab_blocks * cq_block_stride(q), !first);
	if ((slab = cq_allocate(&q->allocator, q->block_bytes)) != NULL)
		*slab = (cq_block_t){ .node = { NULL } };
	return slab;
}

void cq_slab_free(cq_cleanup_t *q, cq_block_t *slab)
{
	if (q->maps)
		cq_slab_unmap(slab, q->slab_blocks * cq_block_stride(q));
	else
		cq_release(&q->allocator, slab, q->block_bytes);
}

/* An empty block: a free one, one that was never used, or the first of a new slab. NULL: no memory. */
cq_block_t *cq_block_get(cq_cleanup_t *q)
{
	cq_node_t *node = cq_stack_pop_n(&q->free, 1);
	cq_block_t *slab, *made;
	uint32_t n;

	if (node != NULL)
		return cq_block_of(node);
	for (;;) {
		/* Pairs with the release below: the slab as it was made. Without it its count could be read from
		   before. */
		slab = cq_ptr_load_acquire(&q->slabs);
		while (slab != NULL && (n = cq_u32_load_relaxed(&slab->carved)) < q->slab_blocks)
			if (cq_u32_cas_relaxed(&slab->carved, n, n + 1))
				return cq_block_at(q, slab, n);
		if ((made = make_slab(q, slab == NULL)) == NULL)
			return NULL;
		made->next_slab = slab;
		made->carved = 1;
		/* Pairs with the acquire above, and that in cq_cleanup_stats_sized: the fields before the link.
		   The other walkers (fork, destroy) run when no slab is being made, or (trim) behind a heavy barrier.
		   Without it they could follow a link that isn't written. */
		cq_fence_release();
		if (cq_ptr_cas_relaxed(&q->slabs, &slab, made))
			return made;
		cq_slab_free(q, made); /* another was faster, and shares */
	}
}

/* Forgets its callbacks, which have begun or are claimed. */
void cq_block_put(cq_cleanup_t *q, cq_block_t *b)
{
	b->end = 0;
	/* Pairs with the copy that a fork takes: end first, as at no instant may a child see [0, end)
	   again. */
	cq_fence_compiler();
	b->begin = b->first = 0;
	cq_stack_push(&q->free, &b->node);
}

/* ------------------------------------------------------------------------ waiting */

static bool has_partial(const cq_cleanup_t *q)
{
	return cq_ptr_load_relaxed(&q->partial) != NULL;
}

/* A block is about to wait. The oldest came when the stack was last empty, and there was no partial block. */
static void set_since(cq_cleanup_t *q, unsigned newer)
{
	if (cq_workq_units(&q->waiting[newer].queue) == 0 && !has_partial(q))
		cq_u64_store_relaxed(&q->waiting[newer].since, q->park->now(q->park->host));
}

/* One that is counted. */
void cq_blocks_push(cq_cleanup_t *q, cq_block_t *b)
{
	unsigned newer = cq_u64_load_relaxed(&q->page) & 1;

	set_since(q, newer);
	cq_workq_push(&q->waiting[newer].queue, &b->node);
}

/* Under its lock: b, or none, is the partial block, and the one that was waits with the others. */
void cq_blocks_set_partial(cq_cleanup_t *q, cq_block_t *b)
{
	/* Pushed first: at every instant it is seen to wait. */
	if (q->partial != NULL)
		cq_blocks_push(q, q->partial);
	else
		set_since(q, cq_u64_load_relaxed(&q->page) & 1);
	cq_ptr_store_relaxed(&q->partial, b);
}

uint64_t cq_blocks_waiting(const cq_cleanup_t *q)
{
	return cq_workq_units(&q->waiting[0].queue) + cq_workq_units(&q->waiting[1].queue) + has_partial(q);
}

/*
 * Blocks wait, or hold more. 0, or STALLED. A drain or shutdown may have found what is published now on its way, or in a
 * hand, and sleep. In a stopped queue nobody else takes it; an owner may have been told of it already. The full
 * fences of cq_task_signal pair with the one in cq_sleepers_prepare_wait of wait_for (drain.c): either that sees the
 * block, and its task in the pool, or it is seen here. Without them the block could be left to nobody.
 */
int cq_blocks_signal(cq_cleanup_t *q)
{
	int err = cq_task_signal(q->task);

	if ((q->by_owner && cq_u32_load_relaxed(&q->draining) != 0) || cq_u32_load_relaxed(&q->stop) != 0)
		cq_drains_wake(q);
	return err;
}

/* Is there a reason for the newer stack to become the older, which is empty? Not for one block alone; but for the
   partial one, as whatever comes between this look and the pop would be taken before it. */
static bool wants_flip(const cq_cleanup_t *q, unsigned newer)
{
	return (cq_workq_units(&q->waiting[newer].queue) > 1 || has_partial(q)) &&
	    (cq_u32_load_relaxed(&q->draining) != 0 ||
	    q->park->now(q->park->host) - cq_u64_load_relaxed(&q->waiting[newer].since) > AGE_NS);
}

/* What was the partial block, or NULL: the caller's, or pushed. */
static cq_block_t *end_partial(cq_cleanup_t *q, bool push)
{
	cq_block_t *b;

	if (!has_partial(q))
		return NULL;
	pthread_mutex_lock(&q->partial_lock);
	b = q->partial;
	if (push)
		cq_blocks_set_partial(q, NULL);
	else
		cq_ptr_store_relaxed(&q->partial, NULL);
	pthread_mutex_unlock(&q->partial_lock);
	return b;
}

/* One that waits, which is in the caller's hand then; or NULL. *since: it was published then or later. Its
   stack's time, as a look at the clock is a quarter of what a block of one callback costs. */
cq_block_t *cq_blocks_take(cq_cleanup_t *q, uint64_t *since)
{
	uint64_t page = cq_u64_load_relaxed(&q->page);
	unsigned newer = page & 1, older = newer ^ 1;
	cq_node_t *node;
	cq_block_t *b;

	if (cq_workq_units(&q->waiting[older].queue) == 0 && wants_flip(q, newer)) {
		(void)end_partial(q, true);
		if (cq_u64_cas_relaxed(&q->page, &page, page + 1))
			older = newer;
	}
	if ((node = cq_workq_try_pop(&q->waiting[older].queue)) != NULL ||
	    (node = cq_workq_try_pop(&q->waiting[older ^= 1].queue)) != NULL)
		b = cq_block_of(node);
	else if ((b = end_partial(q, false)) == NULL)
		return NULL;
	*since = cq_u64_load_relaxed(&q->waiting[older].since); /* the partial block's is that of the newer */
	b->first = b->begin;
	b->holder = cq_thread_mark();
	return b;
}

/* So many more will wait. */
void cq_blocks_pend(cq_cleanup_t *q, uint32_t callbacks)
{
	if (q->max_waiting != 0)
		cq_u64_add_relaxed(&q->pending, callbacks);
}

bool cq_blocks_have_room(const cq_cleanup_t *q)
{
	return q->max_waiting == 0 || cq_u64_load_relaxed(&q->pending) < q->max_waiting;
}

/* So many have run. Exactly one such step lies between a look that finds no room and one that would find some: who makes
   it wakes, and nobody else looks whether anyone waits. */
static void make_room(cq_cleanup_t *q, uint32_t callbacks)
{
	uint64_t before;

	if (q->max_waiting == 0)
		return;
	before = cq_u64_add_relaxed(&q->pending, 0 - (uint64_t)callbacks);
	if (before >= q->max_waiting && before - callbacks < q->max_waiting)
		cq_drains_wake(q);
}

/* Gives up a block in hand, with no lock held, as it may wake. If it has some left, it waits, and the task is
   signalled: 0, or STALLED. Else it is free, and finished: all its callbacks have returned or are claimed. */
int cq_block_give_up(cq_cleanup_t *q, cq_block_t *b)
{
	uint32_t ran = (uint32_t)(b->begin - b->first);
	unsigned parity = b->parity;

	if (ran != 0) {
		make_room(q, ran);
		/* Pairs with the first acquire in look (collect.c), of statistics: what has run was queued. Without
		   it more could be executed than queued. */
		cq_fence_release();
		cq_u64_add_relaxed(&q->executed, ran);
	}
	b->holder = NULL;
	if (b->begin == b->end) {
		cq_block_put(q, b);
		/* Pairs with the acquires in cq_blocks_all_finished and drained (drain.c): what the callbacks
		   did. Without it a drain could return before that is seen. */
		cq_fence_release();
		if (cq_u64_add_relaxed(&q->unfinished[parity], (uint64_t)-1) == 1)
			cq_drains_wake(q);
		return 0;
	}
	cq_blocks_push(q, b);
	return cq_blocks_signal(q);
}

/* A forked child has come upon a block that holds something and is counted. Nobody else has it. */
void cq_block_found(void *q, void *b)
{
	cq_cleanup_t *queue = q;
	cq_block_t *block = b;

	block->node.next = queue->found;
	queue->found = &block->node;
	queue->nfound++;
}

/* --------------------------------------------------------------------- unfinished */

bool cq_blocks_all_finished(const cq_cleanup_t *q)
{
	/* Pairs with the release in cq_block_give_up: what the callbacks did, and all that was done with
	   blocks and stacks. The last fence is that of both, and of somebody_reads (trim.c). */
	return cq_u64_load_relaxed(&q->unfinished[0]) == 0 && cq_u64_load_acquire(&q->unfinished[1]) == 0;
}

/* Whoever waits in drain, shutdown or for room looks again; in a fork when it is over. Begins with a full fence. */
void cq_drains_wake(cq_cleanup_t *q)
{
	if (!cq_forking())
		cq_sleepers_wake(&q->drains, UINT32_MAX);
}
