/* SPDX-License-Identifier: BSD-2-Clause */
/* Blocks: their memory, those that wait for a worker, and the count of those that are unfinished. */
#include "cleanup_priv.h"
#include "workq/stack.h"

/* How long a block may wait before those published after it wait for it in turn. Long against a run of a
   block, so that the newest, whose lines are in the cache, are mostly taken first; short to a person. At 0
   the stacks change places whenever they can; without limit, the oldest waits for as long as more comes. */
#define AGE_NS UINT64_C(10000000)

/* ------------------------------------------------------------------------- memory */

static cq_block_t *make(cq_cleanup_t *q)
{
	cq_block_t *b = cq_allocate(&q->allocator, q->block_bytes);
	cq_block_t *all;

	if (b == NULL)
		return NULL;
	*b = (cq_block_t){ .node = { NULL } };
	all = cq_ptr_load_relaxed(&q->all);
	do {
		b->all_next = all;
		/* Pairs with the acquire of `all` in sum (cleanup_stats.c): the fields before the link. The
		   other walkers (trim, fork, destroy) run when no block is being made. Without it
		   they could follow a link that isn't written. */
		cq_fence_release();
	} while (!cq_ptr_cas_relaxed(&q->all, &all, b));
	cq_u64_add_relaxed(&q->blocks_made, 1);
	return b;
}

/* An empty block, from the free stack if it has one; NULL: no memory. */
cq_block_t *cq_block_get(cq_cleanup_t *q)
{
	cq_node_t *node = cq_stack_pop_n(&q->free, 1);

	return node != NULL ? cq_block_of(node) : make(q);
}

void cq_block_put(cq_cleanup_t *q, cq_block_t *b)
{
	cq_stack_push(&q->free, &b->node, &b->node);
}

/* Forgets its callbacks, which have begun or are claimed. */
void cq_block_clear(cq_block_t *b)
{
	b->end = 0;
	/* Pairs with the copy that a fork takes: end first, as at no instant may a child see [0, end) again. */
	cq_fence_compiler();
	b->begin = 0;
}

/* ------------------------------------------------------------------------ waiting */

/* A chain of n blocks by node.next, which are counted. */
void cq_blocks_push(cq_cleanup_t *q, cq_block_t *first, cq_block_t *last, uint64_t n)
{
	unsigned newer = cq_u64_load_relaxed(&q->page) & 1;

	/* A stack's oldest block came when it was last empty. */
	if (cq_workq_units(&q->waiting[newer].queue) == 0)
		cq_u64_store_relaxed(&q->waiting[newer].since, q->park->now(q->park->host));
	cq_workq_push_chain(&q->waiting[newer].queue, &first->node, &last->node, n);
}

uint64_t cq_blocks_waiting(const cq_cleanup_t *q)
{
	return cq_workq_units(&q->waiting[0].queue) + cq_workq_units(&q->waiting[1].queue);
}

/* The older stack is empty. Is there a reason for the newer to become the older? */
static bool wants_flip(cq_cleanup_t *q, unsigned newer)
{
	uint64_t units = cq_workq_units(&q->waiting[newer].queue);

	if (units < 2)
		return false;
	return cq_u32_load_relaxed(&q->draining) != 0 ||
	    q->park->now(q->park->host) - cq_u64_load_relaxed(&q->waiting[newer].since) > AGE_NS;
}

/* One that waits, which is in the caller's hand then; or NULL. */
cq_block_t *cq_blocks_take(cq_cleanup_t *q)
{
	uint64_t page = cq_u64_load_relaxed(&q->page);
	unsigned older = (page & 1) ^ 1;
	cq_block_t *b;

	if (cq_workq_units(&q->waiting[older].queue) == 0 && wants_flip(q, older ^ 1) &&
	    cq_u64_cas_relaxed(&q->page, &page, page + 1))
		older ^= 1;
	for (int i = 0; i < 2; i++, older ^= 1) {
		cq_workq_t *from = &q->waiting[older].queue;

		if (cq_workq_units(from) == 0 || !cq_workq_try_take_work(from))
			continue;
		b = cq_block_of(cq_workq_pop_taken(from));
		b->first = b->begin;
		b->holder = cq_thread_mark();
		return b;
	}
	return NULL;
}

/* Gives up a block in hand. True: it had some left, and waits again: the caller signals. */
bool cq_block_give_up(cq_cleanup_t *q, cq_block_t *b)
{
	unsigned parity = b->parity;
	bool rest = b->begin != b->end;

	/* Pairs with the acquire in sum (cleanup_stats.c): what has run was queued. Without it more could be
	   executed than queued. */
	cq_u64_store_release(&b->executed, b->executed + (uint64_t)(b->begin - b->first));
	b->holder = NULL;
	if (rest) {
		cq_blocks_push(q, b, b, 1);
	} else {
		cq_block_clear(b);
		cq_block_put(q, b);
		cq_blocks_finished(q, parity);
	}
	return rest;
}

/* --------------------------------------------------------------------- unfinished */

void cq_blocks_counted(cq_cleanup_t *q, unsigned parity)
{
	cq_u64_add_relaxed(&q->unfinished[parity], 1);
}

/* All callbacks of a block have returned, or it had none. True: it was the last, and the caller wakes the drains. */
bool cq_blocks_last_finished(cq_cleanup_t *q, unsigned parity)
{
	/* Pairs with the acquires in cq_blocks_all_finished and drained (drain.c): what the callbacks did. Without
	   it a drain could return before that is seen. */
	cq_fence_release();
	return cq_u64_add_relaxed(&q->unfinished[parity], (uint64_t)-1) == 1;
}

/* With no lock held, as it may wake. */
void cq_blocks_finished(cq_cleanup_t *q, unsigned parity)
{
	if (cq_blocks_last_finished(q, parity))
		cq_drains_wake(q);
}

bool cq_blocks_all_finished(const cq_cleanup_t *q)
{
	/* Pairs with the release in cq_blocks_last_finished: what the callbacks did, and all that was done with
	   blocks and stacks. The last fence is that of both. */
	return cq_u64_load_relaxed(&q->unfinished[0]) == 0 && cq_u64_load_acquire(&q->unfinished[1]) == 0;
}

/* Whoever waits in drain or shutdown looks again. Begins with a full fence. */
void cq_drains_wake(cq_cleanup_t *q)
{
	if (cq_forking())
		q->fork_wakes = true;
	else
		cq_sleepers_wake(&q->drains, UINT32_MAX);
}

/*
 * A block was published and signalled, so with full fences between, which a drain or shutdown may have found on its
 * way, or in a hand, and sleep. In a stopped queue nobody else takes it. In a polled pool the signal wakes nobody, but
 * who waits for the block does. Those fences (cq_task_signal) pair with the one in cq_sleepers_prepare_wait of a drain,
 * which is among those that wait before: either that sees the block, and its task in the pool, or it is seen here. So
 * where nobody waits this is two loads.
 */
void cq_drains_rely_on_it(cq_cleanup_t *q)
{
	if ((q->polled && cq_u32_load_relaxed(&q->draining) != 0) || cq_u32_load_relaxed(&q->stop) != 0)
		cq_drains_wake(q);
}
