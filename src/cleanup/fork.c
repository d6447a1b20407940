/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() in a process with threads. The child has the memory as it was, with
 * other threads stopped between any two of their instructions, and none of
 * those threads. Its queue is rebuilt from what cannot be torn: each block's
 * [begin, end), each producer's state, and the list of all blocks.
 */
#include <errno.h>

#include "producer.h"
#include "workq/stack.h"

static void prepare(cq_cleanup_t *q)
{
	cq_parked_fork_prepare(&q->drainers);
	cq_parked_fork_prepare(&q->idle);
	pthread_mutex_lock(&q->registry);
	cq_parked_fork_prepare(&q->exits);
	pthread_mutex_lock(&q->threads.lock);
	cq_fork_begun(&q->fork);
}

/* What handlers of others asked for and this thread could not do, as it held the locks. In a
   child there is nothing: in_child has forgotten it. */
static void make_up(cq_cleanup_t *q)
{
	bool wakes = q->fork_wakes;
	cq_worker_t *leaving = q->fork_leaving;

	q->fork_wakes = false;
	q->fork_leaving = NULL;
	while (leaving != NULL) {
		cq_worker_t *next = leaving->leaves_next;

		cq_worker_detach(leaving);
		leaving = next;
	}
	if (wakes) {
		cq_parked_wake_all(&q->drainers);
		if (hands_over(q))
			cq_take_partial_blocks(q);
		(void)cq_wake_unless_polled(q);
	}
}

static void in_parent(cq_cleanup_t *q)
{
	cq_fork_ended(&q->fork);
	pthread_mutex_unlock(&q->threads.lock);
	cq_parked_fork_parent(&q->exits);
	pthread_mutex_unlock(&q->registry);
	cq_parked_fork_parent(&q->idle);
	cq_parked_fork_parent(&q->drainers);
}

static bool discards(const cq_cleanup_t *q)
{
	return (q->config.flags & CQ_FORK_DISCARD) != 0;
}

/* What the statistics of the child are made of. */
struct sums {
	uint64_t queued;	/* by all producers, ever */
	uint64_t open;		/* of those: still in open blocks */
	uint64_t published;	/* published and not begun */
};

/*
 * What the owner of an open block was about to do with it, another thread, is
 * done here: see gated and cq_producer_enqueue.
 */
static uint64_t settle_open(const cq_cleanup_t *q, cq_producer_t *p, uint64_t s)
{
	/* A retract that will find its callback claimed; or, after the last
	   gathering, one that will find that it is not. */
	bool shared = state_shared(s);
	uint32_t n = callbacks_in(p->block, shared, p->write);

	if (q->sealed || n < state_claimed(s))
		n = state_claimed(s);
	p->write = slot_of(p->block, shared, n);
	if (!is_full(p))
		return s;
	/* The block is full, and was about to be closed. */
	p->total = p->base + n;
	return (s & ~(uint64_t)PHASE_MASK) | PHASE_CLOSED;
}

/*
 * A producer whose thread was opening or closing a block has none now. Closing:
 * the block answers for what was not claimed, as close_block would have told it.
 */
static void settle_producer(cq_cleanup_t *q, cq_producer_t *p, struct sums *sums)
{
	cq_block_t *b = p->block;
	uint64_t s = p->state;

	if (state_phase(s) == PHASE_OPEN)
		s = settle_open(q, p, s);
	if (state_phase(s) == PHASE_OPEN) {
		uint32_t n = callbacks_in(b, state_shared(s), p->write);

		if (discards(q))
			p->state = s = state_with_claimed(s, n);
		p->mark = full_end(q, b);
		/* The gate may be up: closed in the parent, or as no worker lives here. */
		p->end = q->gate != 0 ? NULL : p->mark;
		p->fn = state_shared(s) ? b->callbacks[0].fn : NOT_SHARED;
		b->parity = BLOCK_KEPT;
		sums->open += n - state_claimed(s);
		sums->queued += p->base + n;
	} else {
		sums->queued += p->total;
		if (state_phase(s) == PHASE_CLOSED && b != NULL) {
			b->begin = state_claimed(s);
			b->end = callbacks_in(b, state_shared(s), p->write);
		}
		p->state = s & ~(PHASE_MASK | STATE_SHARED | STATE_CLAIMED);
		p->fn = NOT_SHARED;
		p->block = NULL;
		p->write = &p->nowhere;
		p->end = NULL;
	}
	p->published[0] = p->published[1] = 0;
	p->nspares = 0;
	for (cq_node_t *n = p->spares; n != NULL; n = n->next, p->nspares++)
		block_of(n)->parity = BLOCK_KEPT;
}

/* The calling thread may be a worker, inside a callback: it and its block live on. */
static bool in_frames(const cq_worker_t *w)
{
	for (struct frame *f = cq_frames(); f != NULL; f = f->outer)
		if (f->worker == w)
			return true;
	return false;
}

static void settle_workers(cq_cleanup_t *q)
{
	cq_worker_t *kept = NULL, *next;
	uint32_t n = 0, made = 0;

	q->crew = 0;
	for (cq_worker_t *w = q->workers; w != NULL; w = next) {
		next = w->next;
		q->useless_wakes += w->useless_wakes;
		q->failed_sleeps += w->failed_sleeps;
		w->useless_wakes = w->failed_sleeps = 0;
		w->executed[0] = w->executed[1] = 0;
		if (!in_frames(w)) {
			cq_free(q, w, sizeof(*w));
			continue;
		}
		w->prev = NULL;
		w->next = kept;
		if (kept != NULL)
			kept->prev = w;
		kept = w;
		n++;
		made += w->made;
		q->crew += w->crew;
	}
	q->workers = kept;
	q->nworkers = n;
	cq_threads_fork_child(&q->threads, is_managed(q) ? made : 0);
	q->pollers = 0;
	for (struct frame *f = cq_frames(); f != NULL; f = f->outer)
		if (f->q == q && f->poller)
			q->pollers++;
	q->serving = q->pollers + n - made;
}

/* The blocks that the calling thread is inside of: what they have left is published. */
static void settle_frames(cq_cleanup_t *q, struct sums *sums)
{
	for (struct frame *f = cq_frames(); f != NULL; f = f->outer) {
		if (f->q != q || f->block == NULL) /* NULL: in worker_start or worker_end */
			continue;
		f->block->parity = BLOCK_KEPT;
		if (discards(q))
			f->block->end = f->block->begin;
		f->block->first = f->block->begin;
		sums->published += f->block->end - f->block->begin;
	}
}

/* Puts every block that is not kept into one of two stacks. */
static void settle_blocks(cq_cleanup_t *q, struct sums *sums)
{
	for (int i = 0; i < 2; i++)
		q->full[i].queue = (cq_workq_t)CQ_WORKQ_INITIALIZER;
	q->free.head = NULL;
	cq_stack_fork_child(&q->free);

	for (cq_block_t *b = q->all; b != NULL; b = b->all_next) {
		bool kept = b->parity == BLOCK_KEPT;

		b->parity = 0;
		if (kept)
			continue;
		if (b->begin < b->end && !discards(q)) {
			sums->published += b->end - b->begin;
			cq_blocks_publish(q, 0, b, b, 1);
		} else {
			cq_block_recycle(q, b);
		}
	}
}

/* The sums of drain.c and the statistics start anew, from what is left. */
static void rebuild(cq_cleanup_t *q)
{
	struct sums sums = { .queued = q->queued };

	for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
		settle_producer(q, p, &sums);
	settle_frames(q, &sums);
	settle_workers(q);
	settle_blocks(q, &sums);

	q->epoch = 0;
	q->executed[0] = q->handed_back; /* which stats.c subtracts */
	q->published[0] = q->handed_back + sums.published;
	q->executed[1] = q->published[1] = 0;
	q->executed_by_parent = sums.queued - sums.open - sums.published - q->handed_back;
	q->spawn_failed = 0;
	if (q->shutdown == SHUTDOWN_ACTIVE)
		q->shutdown = SHUTDOWN_TRIED;
}

static void in_child(cq_cleanup_t *q)
{
	rebuild(q);
	q->fork = (struct cq_fork){ 0 };
	q->fork_wakes = false;
	q->fork_leaving = NULL;
	/* Unlocked, not made anew: so tools that watch locks follow. */
	pthread_mutex_unlock(&q->threads.lock);
	cq_parked_fork_child(&q->exits);
	pthread_mutex_unlock(&q->registry);
	cq_parked_fork_child(&q->idle);
	cq_parked_fork_child(&q->drainers);
}

static cq_cleanup_t *queue_of(struct cq_fork_client *client)
{
	return (cq_cleanup_t *)(void *)((char *)client - offsetof(cq_cleanup_t, fork_client));
}

static void fork_phase(struct cq_fork_client *client, cq_fork_phase_t phase)
{
	static void (*const phases[])(cq_cleanup_t *) = { prepare, in_parent, in_child };

	phases[phase](queue_of(client));
}

static void fork_make_up(struct cq_fork_client *client)
{
	make_up(queue_of(client));
}

const struct cq_fork_ops cq_cleanup_fork_ops = { fork_phase, fork_make_up };

bool cq_forking(const cq_cleanup_t *q)
{
	return cq_fork_is_mine(&q->fork);
}

/* -------------------------------------------------------------------- by hand */

static bool by_hand(const cq_cleanup_t *q)
{
	return (q->config.flags & CQ_NO_ATFORK) != 0;
}

void cq_cleanup_fork_prepare(cq_cleanup_t *q)
{
	if (by_hand(q) && cq_fork_begins(&q->fork))
		prepare(q);
}

static void end_by_hand(cq_cleanup_t *q, bool child)
{
	enum fork_end end = by_hand(q) ? cq_fork_ends(&q->fork, child) : FORK_GOES_ON;

	if (end == FORK_IN_CHILD) {
		in_child(q);
	} else if (end == FORK_IN_PARENT) {
		in_parent(q);
		make_up(q);
	}
}

void cq_cleanup_fork_parent(cq_cleanup_t *q)
{
	end_by_hand(q, false);
}

void cq_cleanup_fork_child(cq_cleanup_t *q)
{
	end_by_hand(q, true);
}
