/* SPDX-License-Identifier: BSD-2-Clause */
/* What other threads do with running producers, which are never stopped, and never waited for: and what an owner flushes
   in small amounts, which goes the same way. */
#include <errno.h>

#include "base/barrier.h"
#include "cleanup_priv.h"
#include "pool/pool_inside.h"
#include "workq/stack.h"

/* What a producer held at one look. */
struct view {
	uint64_t state;
	cq_block_t *from;
	uint64_t first;		/* callbacks accepted before those that a claim could take */
	uint32_t n;		/* which are so many */
};

/* True: there are some, if `state` is still the same. */
static bool look(const cq_producer_t *p, struct view *v)
{
	uint32_t written;

	/* Pairs with the releases in open_block, close_block and retract (producer.c): what is read behind it
	   is of this seq or newer, and if newer the claim fails. */
	v->state = cq_u64_load_acquire(&p->state);
	v->n = 0;
	if (state_open(v->state)) {
		v->from = cq_ptr_load_relaxed(&p->block);
		v->first = cq_u64_load_relaxed(&p->base) + state_claimed(v->state);
		written = cq_slots_below(p, v->from, cq_ptr_load_relaxed(&p->write));
		/* Claimed callbacks are accepted, though a retract may be about to find that out. */
		if (v->from != NULL && written <= cq_u32_load_relaxed(&p->slots) && written > state_claimed(v->state))
			v->n = written - state_claimed(v->state);
	} else {
		v->first = cq_u64_load_relaxed(&p->total); /* the owner publishes what was in it */
	}
	/* Pairs with the release in shown (producer.c): the slots below write. And with those in open_block and
	   close_block: if `state` is the same behind it, all is of one block; and a block that was closed is
	   counted: without it a drain that has seen neither the one nor the other could return. */
	cq_fence_acquire();
	return v->n != 0;
}

/* The callbacks that p has accepted, for any thread under the lock. Exact at some instant. */
uint64_t cq_producer_accepted(const cq_producer_t *p)
{
	struct view v;

	do
		(void)look(p, &v);
	while (((cq_u64_load_relaxed(&p->state) ^ v.state) & (~(STATE_SEQ - 1) | STATE_OPEN)) != 0);
	return v.first + v.n;
}

/* Takes up to `room` of what was seen. Returns how many. 0: the owner was faster: the copy is forgotten. */
static uint32_t claim(cq_producer_t *p, const struct view *v, cq_callback_t *to, uint32_t room)
{
	uint32_t n = min_u32(v->n, room);
	uint64_t s = v->state;

	/* Atomic, since the owner may be writing the next use of a slot. */
	for (uint32_t i = 0, at = state_claimed(s); i < n; i++, at++)
		if (p->fn != NULL)
			to[i] = (cq_callback_t){ p->fn, cq_ptr_load_relaxed(block_args(v->from) + at) };
		else
			to[i] = (cq_callback_t){ cq_ptr_load_relaxed(&v->from->callbacks[at].fn),
				cq_ptr_load_relaxed(&v->from->callbacks[at].arg) };
	CQ_POINT("collect.copied");
	/* Pairs with the acquire in close_block (producer.c): the slots were read before the owner may write
	   them again. Without it the copy could be of what comes later. And with the acquire of `state` in look: a drain
	   that finds them claimed finds the block counted that they are in. */
	cq_fence_release();
	return cq_u64_cas_relaxed(&p->state, &s, s + n * STATE_CLAIMED) ? n : 0;
}

/* The caller has closed the queue. On return every producer has seen that, or its callbacks are visible to
   the caller, and to whoever has the lock after it. */
void cq_producers_see(cq_cleanup_t *q)
{
	bool lowered;

	do {
		/* Pairs with the store of limit, then the load of `closed` in set_limit (producer.c): a
		   limit that was set without seeing that is lowered below, and no more are set. When none is
		   up, pairs with the store of write, then the load of limit in shown, then of `closed` in
		   set_limit: an enqueue sees that, or its callback is seen by what follows. */
		cq_barrier_heavy();
		lowered = false;
		pthread_mutex_lock(&q->lock);
		for (cq_producer_t *p = q->producers; p != NULL; p = p->next)
			if (cq_ptr_load_relaxed(&p->limit) != NULL) {
				cq_ptr_store_relaxed(&p->limit, NULL);
				lowered = true;
			}
		pthread_mutex_unlock(&q->lock);
	} while (lowered);
}

/* -------------------------------------------------------------------------- writers */

/* All of it with the lock held. */
void cq_writer_list(cq_producer_t *p)
{
	cq_producer_t **first = &p->q->writers;

	p->next_writer = *first;
	p->writer_link = first;
	if (p->next_writer != NULL)
		p->next_writer->writer_link = &p->next_writer;
	*first = p;
}

static void unlist(cq_producer_t *p)
{
	*p->writer_link = p->next_writer;
	if (p->next_writer != NULL)
		p->next_writer->writer_link = p->writer_link;
	p->writer_link = NULL;
}

/* Those that are to be walked. */
static cq_producer_t *writers(cq_cleanup_t *q)
{
	cq_node_t *node;

	while ((node = cq_stack_pop_n(&q->newcomers, 1)) != NULL) {
		cq_producer_t *p = cq_node_container(node, offsetof(cq_producer_t, newcomer));

		if (p->writer_link == NULL)
			cq_writer_list(p);
		cq_u32_store_relaxed(&p->listed, WRITER);
	}
	return q->writers;
}

/* Its owner detaches it. */
void cq_writer_forget(cq_producer_t *p)
{
	if (p->listed == UNLISTED)
		return;
	(void)writers(p->q);
	unlist(p);
}

/* Those in a list by next_quiet had nothing. They are no writers any more, but for those that write meanwhile. */
static void let_go(cq_producer_t *quiet)
{
	struct view v;

	/* 1. An owner that meets its limit behind this lists itself. */
	for (cq_producer_t *p = quiet; p != NULL; p = p->next_quiet) {
		unlist(p);
		cq_u32_store_relaxed(&p->listed, UNLISTED);
		CQ_POINT("collect.unlisted");
		cq_ptr_store_relaxed(&p->limit, NULL);
	}
	/* 2. Pairs with the stores of limit and of write, then the load of `listed` in set_limit, or of limit in
	   shown (producer.c): what an owner did without seeing that is seen below. Without it no collector would look
	   at what it has written. */
	cq_barrier_heavy();
	/* 3. So who has written, or set its limit, stays; also if it lists itself: it may not have pushed yet. */
	for (cq_producer_t *p = quiet; p != NULL; p = p->next_quiet)
		if (cq_ptr_load_relaxed(&p->limit) != NULL || look(p, &v)) {
			(void)cq_u32_cas_relaxed(&p->listed, UNLISTED, WRITER);
			cq_writer_list(p);
		}
}

/* ----------------------------------------------------------------------- collecting */

/* NULL: no memory. */
static cq_block_t *counted_block(cq_cleanup_t *q)
{
	cq_block_t *b = cq_block_get(q, false);

	if (b != NULL) {
		b->parity = (uint8_t)(cq_u64_load_relaxed(&q->epoch) & 1);
		cq_u64_add_relaxed(&cq_shard_at(q, b->home)->unfinished[b->parity], 1);
		b->fn = NULL;
	}
	return b;
}

/* Where a flush moves callbacks to: the queue's partial block, or when that is full the next. */
struct flush {
	cq_block_t *next;	/* counted, made with no lock held but the queue's; or NULL */
	bool moved;		/* any callbacks */
};

/*
 * What p's open block holds, of the first `until` callbacks that p has accepted. By the owner, or under the queue's lock:
 * in which case the caller gives up what is left of `next` when it has left that. ENOMEM: some is still where it was.
 */
static int join(struct flush *f, cq_producer_t *p, uint64_t until)
{
	cq_cleanup_t *q = p->q;
	struct view v;

	while (look(p, &v) && v.first < until) {
		uint32_t n = v.n < until - v.first ? v.n : (uint32_t)(until - v.first);
		cq_block_t *to;

		pthread_mutex_lock(&q->partial_lock);
		to = q->partial != NULL && q->partial->end < q->slots ? q->partial : f->next;
		if (to != NULL) {
			n = claim(p, &v, to->callbacks + to->end, min_u32(n, q->slots - to->end));
			CQ_POINT("collect.claimed");
			to->end = (uint16_t)(to->end + n);
			f->moved |= n != 0;
			cq_blocks_pend(q, n);
			/* Counted before the claim, and seen to wait behind it: as a block that its owner closes. */
			if (to == f->next && n != 0) {
				cq_blocks_set_partial(q, to);
				f->next = NULL;
			}
		}
		pthread_mutex_unlock(&q->partial_lock);
		if (to == NULL && (f->next = counted_block(q)) == NULL)
			return ENOMEM;
	}
	return 0;
}

/* All of the owner's. False: no memory for it. The caller signals. */
bool cq_collect_own(cq_producer_t *p)
{
	struct flush f = { NULL, false };
	int err;

	cq_producer_gets(p);
	err = join(&f, p, UINT64_MAX);
	cq_producer_has_got(p);
	if (f.next != NULL)
		(void)cq_block_give_up(p->q, f.next);
	return err == 0;
}

/* All that was written; in a tick, but for blocks that were opened since the last one: who fills them pays nothing. ENOMEM:
   some is still where it was. *empty: for the caller to give up when it has left the lock; or NULL. If CQ_QUIET producers
   had nothing, or one in a tick, they are let go. */
int cq_collect(cq_cleanup_t *q, bool tick, cq_block_t **empty)
{
	struct flush f = { NULL, false };
	cq_producer_t *quiet = NULL;
	uint32_t nquiet = 0;
	struct view v;
	int err = 0;

	/* Once sealed, what open blocks still hold is being refused: to claim it would accept it. */
	for (cq_producer_t *p = q->sealed ? NULL : writers(q); p != NULL; p = p->next_writer)
		if (look(p, &v)) {
			bool young = tick && (v.state ^ cq_u64_load_relaxed(&p->seen)) >= STATE_SEQ;

			cq_u64_store_relaxed(&p->seen, v.state);
			/* No more than is there now: a producer may be as fast as the copying. */
			if (!young && join(&f, p, cq_producer_accepted(p)) != 0)
				err = ENOMEM;
		} else if (cq_u32_load_relaxed(&p->listed) == WRITER) {
			p->next_quiet = quiet;
			quiet = p;
			nquiet++;
		}
	if (nquiet >= (tick ? 1 : CQ_QUIET))
		let_go(quiet);
	q->flushes += f.moved;
	*empty = f.next;
	return err;
}

/* One callback, for the caller to see to, without memory. False: there is none. */
bool cq_collect_one(cq_cleanup_t *q, cq_callback_t *to)
{
	struct view v;

	for (cq_producer_t *p = q->sealed ? NULL : writers(q); p != NULL; p = p->next_writer)
		while (look(p, &v))
			if (claim(p, &v, to, 1) != 0)
				return true;
	return false;
}

int cq_cleanup_flush(cq_cleanup_t *q)
{
	int err, signalled;
	cq_block_t *empty;

	if (cq_forking())
		return EDEADLK;
	pthread_mutex_lock(&q->lock);
	err = cq_collect(q, false, &empty);
	pthread_mutex_unlock(&q->lock);
	if (empty != NULL)
		(void)cq_block_give_up(q, empty);
	/* Whatever waits, whoever published it: if nobody could be made for that, the pool tries again. */
	signalled = cq_blocks_waiting(q) != 0 ? cq_blocks_signal(q) : 0;
	return err != 0 ? err : signalled;
}

/* ---------------------------------------------------------------------------- ticks */

/* At the same moments for all queues, so that a clock wakes once for those that it has. */
static void arm(cq_cleanup_t *q)
{
	uint64_t now = q->park->now(q->park->host);

	cq_u32_store_relaxed(&q->ticking, ARMED); /* before the signal, whose run looks at it */
	if (cq_task_signal_at(q->task, (now / q->tick_ns + 1) * q->tick_ns) != 0) {
		cq_u32_store_relaxed(&q->ticking, NO_TICK); /* the next slow path of a producer tries again */
		/* For blocks that were to wait for the tick. Its full fence pairs with the one in waits_for_tick. */
		(void)cq_blocks_signal(q);
	}
}

bool cq_tick_is_due(const cq_cleanup_t *q)
{
	return cq_u32_load_relaxed(&q->ticking) == ARMED && !cq_task_is_timed(q->task);
}

/* A producer has written, and there is no tick to come; or one is due, and no worker may have been made for it. */
void cq_tick_begin(cq_cleanup_t *q)
{
	if (cq_forking())
		q->fork_ticks = true; /* behind it: a host's spawn may need what a thread has that waits for the fork */
	else if (cq_u32_cas_relaxed(&q->ticking, NO_TICK, MADE))
		arm(q);
	else if (cq_tick_is_due(q))
		(void)cq_task_signal(q->task);
}

/* By a run, before it takes blocks. There are ticks until one finds no writer: so what was written is published in the
   second at the latest. */
void cq_tick(cq_cleanup_t *q)
{
	cq_block_t *empty;
	bool more;

	if (!cq_u32_cas_relaxed(&q->ticking, ARMED, MADE))
		return; /* another run was faster */
	pthread_mutex_lock(&q->lock);
	(void)cq_collect(q, true, &empty); /* without memory: in the next one */
	more = q->writers != NULL && !q->sealed;
	if (!more) {
		cq_u32_store_relaxed(&q->ticking, NO_TICK);
		/* Pairs with the fence of come_in (producer.c): either that producer is found here, or it sees that
		   there is no tick. And with that in waits_for_tick: so is a block that nobody was woken for by the
		   run, or its producer sees that. Without it there would be no tick, and work. */
		cq_fence_full();
		more = !q->sealed && cq_ptr_load_relaxed(&q->newcomers.head) != NULL &&
		    cq_u32_cas_relaxed(&q->ticking, NO_TICK, MADE);
	}
	pthread_mutex_unlock(&q->lock);
	if (empty != NULL)
		(void)cq_block_give_up(q, empty);
	if (more)
		arm(q);
}
