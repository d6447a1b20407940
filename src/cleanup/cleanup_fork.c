/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() in a process with threads. The child has the memory as it was, with other threads stopped between any two
 * of their instructions, and none of those threads. Its queue is rebuilt from what cannot be torn: each
 * block's [begin, end) and holder, each producer's state, and the list of all blocks.
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
 *   open, spare                                  stays where it is
 *   in the hand of the forking thread, in a      stays in hand
 *     callback or in give_back
 *   else, with some left                         waits
 *   else                                         is free
 */
#include "cleanup_priv.h"

static void prepare(cq_cleanup_t *q)
{
	pthread_mutex_lock(&q->lock);
	cq_sleepers_fork(&q->drains, CQ_FORK_PREPARE);
}

static void unlock(cq_cleanup_t *q, cq_fork_phase_t phase)
{
	cq_sleepers_fork(&q->drains, phase);
	/* Unlocked, not made anew: so tools that watch locks follow. */
	pthread_mutex_unlock(&q->lock);
}

/* What the statistics of the child are made of: callbacks by all producers, in open blocks, in others. */
struct sums {
	uint64_t queued, open, published;
};

/* The callbacks that the open block of p holds. */
static uint32_t settled(const cq_cleanup_t *q, const cq_producer_t *p)
{
	uint32_t n = cq_producer_written(p), claimed = state_claimed(p->state);

	/* A retract that would find its callback claimed; or, once all is sealed, that it is not. */
	return q->sealed || n < claimed ? claimed : n;
}

static void settle_producer(cq_cleanup_t *q, cq_producer_t *p, struct sums *sums)
{
	cq_block_t *b = p->block;
	uint32_t claimed = state_claimed(p->state), n;
	bool open = state_open(p->state);

	if (b != NULL) {
		n = open ? settled(q, p) : cq_producer_written(p);
		if (open)
			p->total = p->base + n;
		if (open && n < cq_producer_slots(p)) {
			p->write = cq_producer_slot(p, b, n);
			if (q->discards)
				p->state += (n - claimed) * STATE_CLAIMED;
			p->ahead = (char *)(b->callbacks + q->slots);
			p->limit = q->fences || q->closed != 0 ? NULL : p->ahead;
			b->kept = true;
			sums->open += n - state_claimed(p->state);
		} else {
			b->begin = (uint16_t)claimed;
			b->end = (uint16_t)(claimed < n ? n : claimed);
			p->state &= ~STATE_OPEN;
			cq_producer_no_block(p);
		}
	} else {
		p->state &= ~STATE_OPEN;
		cq_producer_no_block(p); /* its owner may have been about to */
	}
	sums->queued += p->total;
	p->taken = 0;
	p->nspares = 0;
	for (cq_node_t *node = p->spares; node != NULL; node = node->next, p->nspares++)
		cq_block_of(node)->kept = true;
}

/* The forking thread is in a callback of it, or gives it back, and goes on with it. */
static void settle_block_in_hand(cq_cleanup_t *q, cq_block_t *b, struct sums *sums)
{
	if (q->discards)
		b->end = b->begin;
	b->first = b->begin;
	b->parity = 0;
	q->unfinished[0]++;
	sums->published += (uint64_t)(b->end - b->begin);
}

static void settle_block(cq_cleanup_t *q, cq_block_t *b, struct sums *sums)
{
	bool kept = b->kept;

	b->kept = false;
	b->executed = 0;
	if (kept)
		return;
	if (b->holder == cq_thread_mark()) {
		settle_block_in_hand(q, b, sums);
		return;
	}
	b->holder = NULL;
	if (b->begin < b->end && !q->discards) {
		sums->published += (uint64_t)(b->end - b->begin);
		b->parity = 0;
		q->unfinished[0]++;
		cq_blocks_push(q, b, b, 1);
	} else {
		cq_block_clear(b);
		cq_block_put(q, b);
	}
}

/* What a shutdown has claimed and not given: the next one's, or that of the forking thread, which goes on. */
static void settle_claimed(cq_cleanup_t *q, struct sums *sums)
{
	if (q->discards)
		q->claimed.end = q->claimed.begin;
	sums->published += (uint64_t)(q->claimed.end - q->claimed.begin);
}

static void in_child(cq_cleanup_t *q)
{
	struct sums sums = { .queued = q->queued };

	if (q->shutting_down != cq_thread_mark())
		q->shutting_down = NULL;
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		settle_producer(q, p, &sums);
	settle_claimed(q, &sums);
	for (int i = 0; i < 2; i++) {
		q->waiting[i].queue = (cq_workq_t)CQ_WORKQ_INITIALIZER;
		q->unfinished[i] = 0;
	}
	q->free = (cq_stack_t){ NULL, NULL };
	q->page = q->epoch = 0;
	q->draining = 0;
	q->blocks_made = 0; /* whoever has linked one may not have counted it */
	for (cq_block_t *b = q->all; b != NULL; b = b->all_next, q->blocks_made++)
		settle_block(q, b, &sums);
	q->executed = sums.queued - sums.open - sums.published - q->handed_back;
	q->fork_wakes = false;
	unlock(q, CQ_FORK_CHILD);
}

static cq_cleanup_t *queue_of(struct cq_fork_client *client)
{
	return (cq_cleanup_t *)(void *)((char *)client - offsetof(cq_cleanup_t, fork_client));
}

/* The pool is older: it is prepared after the queue, and goes on before it. In a child its tasks are signalled by then. */
static void fork_phase(struct cq_fork_client *client, cq_fork_phase_t phase)
{
	cq_cleanup_t *q = queue_of(client);

	if (phase == CQ_FORK_PREPARE) {
		prepare(q);
	} else if (phase == CQ_FORK_CHILD) {
		in_child(q);
	} else {
		unlock(q, phase);
	}
}

static void fork_make_up(struct cq_fork_client *client)
{
	cq_cleanup_t *q = queue_of(client);
	bool wakes = q->fork_wakes;

	q->fork_wakes = false;
	if (wakes)
		cq_drains_wake(q);
}

const struct cq_fork_ops cq_cleanup_fork_ops = { fork_phase, fork_make_up };
