/* SPDX-License-Identifier: BSD-2-Clause */
/* Blocks that wait for a worker, and the count of those that are unfinished. */
#include "cleanup_priv.h"
#include "workq/stack.h"

/* How long a block may wait before those published after it wait for it in turn. Long against a run of a
   block, so that the newest, whose lines are in the cache, are mostly taken first; short to a person. At 0
   the stacks change places whenever they can; without limit, the oldest waits for as long as more comes. */
#define AGE_NS UINT64_C(10000000)

static bool has_partial(const cq_cleanup_t *q)
{
	return cq_ptr_load_relaxed(&q->partial) != NULL;
}

static uint64_t now(const cq_cleanup_t *q)
{
	return q->park->now(q->park->host);
}

/* One that is counted. */
void cq_blocks_push(cq_cleanup_t *q, cq_block_t *b)
{
	unsigned newer = cq_u64_load_relaxed(&q->page) & 1;
	cq_shard_t *s = cq_shard_at(q, b->home);

	if (cq_workq_units(&s->waiting[newer]) == 0)
		cq_u64_store_relaxed(&s->waiting[newer].user, now(q));
	cq_workq_push(&s->waiting[newer], &b->node);
}

/* Under its lock: b, or none, is the partial block, and the one that was waits with the others. */
void cq_blocks_set_partial(cq_cleanup_t *q, cq_block_t *b)
{
	/* Pushed first: at every instant it is seen to wait. */
	if (q->partial != NULL)
		cq_blocks_push(q, q->partial);
	else
		cq_u64_store_relaxed(&q->partial_since, now(q));
	cq_ptr_store_relaxed(&q->partial, b);
}

uint64_t cq_blocks_waiting(cq_cleanup_t *q)
{
	uint64_t n = has_partial(q);

	for (uint32_t i = 0, shards = cq_shards(q); i < shards; i++) {
		const cq_workq_t *waiting = cq_shard_at(q, i)->waiting;

		n += cq_workq_units(&waiting[0]) + cq_workq_units(&waiting[1]);
	}
	return n;
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

/* Is there a reason for the newer stacks to become the older, which are empty? Not for one block alone; but for the
   partial one, as whatever comes between this look and the pop would be taken before it. */
static bool wants_flip(cq_cleanup_t *q, const cq_workq_t *newer)
{
	bool several = cq_workq_units(newer) > 1, partial = has_partial(q);

	if (!several && !partial)
		return false;
	return cq_u32_load_relaxed(&q->draining) != 0 ||
	    (several && now(q) - cq_u64_load_relaxed(&newer->user) > AGE_NS) ||
	    (partial && now(q) - cq_u64_load_relaxed(&q->partial_since) > AGE_NS);
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

/* So many at most a thief takes by one swap. The others wait with its own shard then. At 1 each block of a shard whose
   own threads run none is a swap on its line; many are looked for where they were. */
#define STOLEN 4

/* Of another shard, for that whose stack is `own`. */
static CQ_RARE cq_node_t *steal(cq_cleanup_t *q, cq_workq_t *from, cq_workq_t *own, uint64_t *since, uint64_t *left)
{
	uint64_t before = cq_workq_units(from), n = 1;
	cq_node_t *first, *last;

	*since = cq_u64_load_relaxed(&from->user);
	if (before > 2)
		n = before / 2 < STOLEN ? before / 2 : STOLEN;
	if (before == 0 || (before = cq_workq_take(from, n)) == 0)
		return NULL;
	first = cq_workq_pop_taken_n(from, before < n ? before : n);
	*left += before - 1;
	if ((last = first->next) != NULL) {
		for (n = 1; last->next != NULL; n++)
			last = last->next;
		CQ_POINT("blocks.stolen");
		/* As old as they were. Whether the stack is empty is a look, as in cq_blocks_push. */
		if (cq_workq_units(own) == 0)
			cq_u64_store_relaxed(&own->user, *since);
		cq_workq_push_chain(own, first->next, last, n);
		/* A drain may have looked while they were in this hand, and found nothing for which to wake somebody, or to say
		   EAGAIN. Pairs with the fence in cq_sleepers_prepare_wait of wait_for (drain.c). Without it that could sleep
		   beside what nobody takes. */
		cq_fence_full();
		if (cq_u32_load_relaxed(&q->draining) != 0)
			cq_drains_wake(q);
	}
	return first;
}

/* Out of one stack of the ith shard; the caller's is `mine`. NULL, or *since: it was published then or later; *left grows by so
   many as were there beside it. */
static inline cq_node_t *take_of(cq_cleanup_t *q, uint32_t i, uint32_t mine, unsigned stack, uint64_t *since, uint64_t *left)
{
	cq_shard_t *home = cq_shard_at(q, mine);
	cq_workq_t *own = &home->waiting[stack];
	uint32_t failed;
	uint64_t before;
	cq_node_t *node;

	if (i != mine)
		return steal(q, &cq_shard_at(q, i)->waiting[stack], own, since, left);
	*since = cq_u64_load_relaxed(&own->user);
	if ((before = cq_workq_take(own, 1)) == 0)
		return NULL;
	*left += before - 1;
	CQ_POINT("workq.taken");
	node = cq_stack_pop(&own->stack, &failed); /* cq_workq_pop_taken, but for that */
	CQ_CHECK(node != NULL);
	if (failed != 0)
		cq_shard_swapped(q, home, failed);
	return node;
}

/* Out of the ith shard. All change places if it has a reason: its own threads may take none. */
static cq_node_t *take_from(cq_cleanup_t *q, uint32_t i, uint32_t mine, uint64_t *since, uint64_t *left)
{
	uint64_t page = cq_u64_load_relaxed(&q->page);
	unsigned newer = page & 1, older = newer ^ 1;
	cq_node_t *node = take_of(q, i, mine, older, since, left);

	if (node == NULL && wants_flip(q, &cq_shard_at(q, i)->waiting[newer])) {
		for (uint32_t k = 0; node == NULL && k < cq_shards(q); k++)
			node = take_of(q, k, mine, older, since, left);
		if (node == NULL) {
			/* What is moved may be missed by who looks meanwhile: so it is signalled, as what is stolen. */
			*left += end_partial(q, true) != NULL;
			(void)cq_u64_cas_relaxed(&q->page, &page, page + 1);
		}
	}
	return node != NULL ? node : take_of(q, i, mine, newer, since, left);
}

/* A worker whose own shard always has a block begins elsewhere once in so many times, at any shard: else what waits
   there, and is too little for a flip, could wait for ever. A prime, as one that alternates between queues is to come
   there in each. */
#define HOME_TURNS 61

/* One that waits, which is in the caller's hand then; or NULL. *since: it was published then or later. Its
   stack's time, as a look at the clock is a quarter of what a block of one callback costs. *left: so many more
   wait, or did a moment ago; what was stolen or moved with it among them, so that the caller signals those. */
cq_block_t *cq_blocks_take(cq_cleanup_t *q, uint64_t *since, uint64_t *left)
{
	static __thread uint32_t turns;
	uint32_t mine = cq_shard_mine(q), start = ++turns % HOME_TURNS == 0 ? cq_shard_any(q) : mine;
	uint32_t n = cq_shards(q); /* after those: both are below it */
	cq_node_t *node = NULL;
	cq_block_t *b;

	*left = 0;
	for (uint32_t k = 0; node == NULL && k < n; k++)
		node = take_from(q, start ^ k, mine, since, left);
	if (node == NULL && *left != 0) { /* moved to a shard that was looked at before; to be signalled still */
		b = cq_blocks_take(q, since, left);
		++*left;
		return b;
	}
	if (node != NULL) {
		b = cq_block_of(node);
	} else {
		*since = cq_u64_load_relaxed(&q->partial_since);
		if ((b = end_partial(q, false)) == NULL)
			return NULL;
	}
	for (uint32_t i = 0; i < CQ_AHEAD && i < b->end; i += 4)
		cq_block_fetch(b, i); /* under way together, and while the next worker is told */
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
	cq_shard_t *s = cq_shard_at(q, b->home);

	if (ran != 0) {
		make_room(q, ran);
		/* Pairs with the first acquire in look (collect.c), of statistics: what has run was queued. Without
		   it more could be executed than queued. */
		cq_fence_release();
		cq_u64_add_relaxed(&s->executed, ran);
	}
	b->holder = NULL;
	if (b->begin == b->end) {
		cq_block_put(q, b);
		/* Pairs with the acquire in cq_blocks_finished, by trim, destroy and drains: what the callbacks
		   did. Without it a drain could return before that is seen. */
		cq_fence_release();
		if (cq_u64_add_relaxed(&s->unfinished[parity], (uint64_t)-1) == 1)
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

bool cq_blocks_finished(cq_cleanup_t *q, unsigned parity)
{
	/* Pairs with the release in cq_block_give_up: what the callbacks did, and all that was done with
	   blocks and stacks. The last fence is that of both, and of somebody_reads (trim.c). */
	for (uint32_t i = 0; i < cq_shards(q); i++)
		if (cq_u64_load_acquire(&cq_shard_at(q, i)->unfinished[parity]) != 0)
			return false;
	return true;
}

bool cq_blocks_all_finished(cq_cleanup_t *q)
{
	return cq_blocks_finished(q, 0) && cq_blocks_finished(q, 1);
}

/* Whoever waits in drain, shutdown or for room looks again; in a fork when it is over. Begins with a full fence. */
void cq_drains_wake(cq_cleanup_t *q)
{
	if (!cq_forking())
		cq_sleepers_wake(&q->drains, UINT32_MAX);
}
