/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() in a process with threads. The child has the memory as it was, with other threads stopped between
 * any two of their instructions, and none of those threads. Its queue is rebuilt from what cannot be torn:
 * each block's [begin, end) and holder, each producer's state, and the stacks, as one word changes them.
 *
 *   a producer, as it was cut                    what the child keeps of it
 *   open, its owner elsewhere or enqueuing       the open block, up to write
 *   open, full: about to be closed               what is not claimed, published
 *   open, a refused callback being taken back    up to what is claimed, or to write
 *   closed, and still its block: being closed,   what is not claimed, published: the block answers for
 *     or not yet open                              nothing, or for what begin and end say
 *   no block                                     nothing: what it closed answers for itself
 *
 *   a block                                      in the child
 *   open, spare, in the free stack               stays where it is, untouched
 *   in the hand of the forking thread, in a      stays in hand
 *     callback or in give_back
 *   else, with some left                         waits
 *   else, found                                  is free
 *   else: on its way to or from the free stack   is nowhere, until destroy: one for each lost thread at most
 *
 * The work is in proportion to what is queued: the child goes to where blocks are that hold something. A
 * thread that is lost between two such places has a block that is in none; and `unfinished`, which counts
 * each block before it comes to the first of them until it has left the last, says so. It may also say so of
 * a block that is counted and holds nothing. Then all blocks are looked at, and none but these written.
 */
#include "cleanup_priv.h"
#include "pool/pool_inside.h"

/* What the child keeps of a producer, and takes off what has been executed. */
static void settle_producer(cq_cleanup_t *q, cq_producer_t *p)
{
	cq_block_t *b = p->block;
	bool open = state_open(p->state);
	uint32_t claimed = state_claimed(p->state), n = b != NULL ? cq_producer_written(p) : 0;

	/* A retract that would find its callback claimed; or, once all is sealed, that it is not. */
	if (n < claimed || (open && q->sealed))
		n = claimed;
	if (open)
		p->total = p->base + n;
	if (open && b != NULL && n < p->slots) {
		p->write = cq_producer_slot(p, b, n);
		if (q->discards)
			p->state += (n - claimed) * STATE_CLAIMED;
		else
			q->first.executed -= n - claimed;
		p->fetched = SIZE_MAX;
		p->limit = NULL; /* for the child's first tick, too */
	} else {
		/* Its owner may have been about to. */
		if (b != NULL) {
			b->begin = (uint16_t)claimed;
			b->end = (uint16_t)n;
			/* A block that is closed is counted, unless it was not yet open, and empty. */
			if (n == claimed) {
				cq_block_put(q, b);
			} else {
				cq_shard_at(q, b->home)->unfinished[0] += open;
				cq_block_found(q, b);
			}
		}
		p->state &= ~STATE_OPEN;
		p->block = NULL;
		p->write = &p->dummy;
		p->limit = NULL;
	}
	q->first.executed += p->total;
	p->taken = 0;
	p->getting = 0;
	p->listed = p->block != NULL ? WRITER : UNLISTED;
	p->writer_link = NULL;
	if (p->block != NULL)
		cq_writer_list(p);
}

/* All that hold something, or are in this thread's hand. */
static void find_blocks(cq_cleanup_t *q)
{
	cq_node_t *node, *next;
	uint64_t counted = 0;

	for (uint32_t i = 0; i < 2 * cq_shards(q); i++)
		for (node = cq_shard_at(q, i / 2)->waiting[i & 1].stack.head; node != NULL; node = next) {
			next = node->next;
			cq_block_found(q, cq_block_of(node));
		}
	if (q->partial != NULL)
		cq_block_found(q, q->partial);
	if (q->giving != NULL)
		cq_block_found(q, q->giving);
	cq_task_kept(q->task, q);
	for (uint32_t i = 0; i < 2 * cq_shards(q); i++)
		counted += cq_shard_at(q, i / 2)->unfinished[i & 1];
	if (q->nfound == counted)
		return;
	q->found = NULL;
	for (cq_block_t *slab = q->slabs; slab != NULL; slab = slab->next_slab)
		for (uint32_t i = 0, more; i < slab->carved; i += more) {
			cq_block_t *b = cq_block_at(q, slab, i);

			more = cq_block_length(b);
			if (b->begin != b->end || b->holder == cq_thread_mark())
				cq_block_found(q, b);
		}
}

static void settle_block(cq_cleanup_t *q, cq_block_t *b)
{
	bool mine = b->holder == cq_thread_mark(); /* and the thread goes on with it */

	if (b->end < b->begin || q->discards)
		b->end = b->begin;
	b->first = b->begin;
	if (!mine) {
		b->holder = NULL;
		if (q->giving == b)
			q->giving = NULL;
		if (b->begin == b->end) {
			cq_block_put(q, b);
			return;
		}
	}
	q->first.executed -= (uint64_t)(b->end - b->begin);
	q->pending += (uint64_t)(b->end - b->begin);
	b->parity = 0;
	cq_shard_at(q, b->home)->unfinished[0]++;
	if (!mine)
		cq_blocks_push(q, b);
}

static void in_child(cq_cleanup_t *q)
{
	cq_node_t *next;

	if (q->shutting_down != cq_thread_mark())
		q->shutting_down = NULL;
	/* A lost thread may have had the lock of stack_locked.c. */
	for (uint32_t i = 0; i < 2 * cq_shards(q); i++) {
		cq_stack_t *f = &cq_shard_at(q, i / 2)->free[i & 1];

		*f = (cq_stack_t){ f->head, NULL };
		cq_shard_at(q, i / 2)->executed = 0;
	}
	q->newcomers = (cq_stack_t){ NULL, NULL };
	q->writers = NULL;
	q->first.executed = q->queued - q->handed_back;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		settle_producer(q, p);
	find_blocks(q);
	for (uint32_t i = 0; i < 2 * cq_shards(q); i++) {
		cq_shard_at(q, i / 2)->waiting[i & 1] = (cq_workq_t)CQ_WORKQ_INITIALIZER;
		cq_shard_at(q, i / 2)->unfinished[i & 1] = 0;
	}
	q->partial = NULL; /* it waits, as others do */
	q->page = q->epoch = 0;
	q->draining = 0;
	q->ticking = NO_TICK;
	q->fork_ticks = false;
	q->pending = 0;
	for (cq_node_t *node = q->found; node != NULL; node = next) {
		next = node->next;
		settle_block(q, cq_block_of(node));
	}
	q->found = NULL;
	q->nfound = 0;
}

/* The pool is older: prepared after the queue, it goes on before it. A child's has signalled its tasks. */
static void fork_phase(struct cq_fork_client *client, cq_fork_phase_t phase)
{
	cq_cleanup_t *q = cq_node_container(client, offsetof(cq_cleanup_t, fork_client));

	if (phase == CQ_FORK_PREPARE) {
		pthread_mutex_lock(&q->lock);
		pthread_mutex_lock(&q->partial_lock);
	}
	if (phase == CQ_FORK_CHILD)
		in_child(q);
	cq_sleepers_fork(&q->drains, phase);
	if (phase != CQ_FORK_PREPARE) {
		/* Unlocked, not made anew: so tools that watch locks follow. */
		pthread_mutex_unlock(&q->partial_lock);
		pthread_mutex_unlock(&q->lock);
	}
}

/* For what handlers of others published: few drain, and seldom, so that nobody notes whether they have. */
static void fork_make_up(struct cq_fork_client *client)
{
	cq_cleanup_t *q = cq_node_container(client, offsetof(cq_cleanup_t, fork_client));

	cq_drains_wake(q);
	if (q->fork_ticks) {
		q->fork_ticks = false;
		cq_tick_begin(q);
	}
}

const struct cq_fork_ops cq_cleanup_fork_ops = { fork_phase, fork_make_up };
