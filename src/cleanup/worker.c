/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "cleanup_priv.h"
#include "parked.h"

/* --------------------------------------------------------- running callbacks */

static __thread struct frame *frames;

struct frame *cq_frames(void)
{
	return frames;
}

void cq_frame_enter(struct frame *f)
{
	f->outer = frames;
	frames = f;
}

void cq_frame_leave(const struct frame *f)
{
	struct frame **link = &frames;

	/* Not always the innermost: a host's green threads may take turns in callbacks. */
	while (*link != f) {
		CQ_CHECK(*link != NULL); /* the callback has moved to another thread */
		link = &(*link)->outer;
	}
	*link = f->outer;
}

bool cq_in_callback_of(const cq_cleanup_t *q)
{
	for (const struct frame *f = frames; f != NULL; f = f->outer)
		if (f->q == q)
			return true;
	return false;
}

bool cq_block_next(cq_block_t *b, cq_callback_fn **fn, void **arg)
{
	uint32_t i = b->begin;

	if (i == b->end)
		return false;
	*fn = b->callbacks[b->shared ? 0 : i].fn;
	*arg = b->shared ? block_args(b)[i] : b->callbacks[i].arg;
	/* Before the call: a forked child must not run again what has begun. */
	cq_u32_store_relaxed(&b->begin, i + 1);
	return true;
}

/*
 * Runs up to `budget` callbacks of the block in hand, or fewer when the queue stops.
 * A callback may end its thread (pthread_exit, cancellation): then this doesn't
 * return, and a handler of the caller's (pthread_cleanup_push) leaves the frame.
 */
static size_t run(struct frame *f, size_t budget)
{
	cq_cleanup_t *q = f->q;
	cq_block_t *b = f->block;
	cq_callback_fn *fn;
	void *arg;
	size_t n = 0;
	int saved = errno;

	cq_frame_enter(f);
	while (n < budget && cq_u32_load_relaxed(&q->stop) == 0 && cq_block_next(b, &fn, &arg)) {
		fn(arg);
		n++;
	}
	cq_frame_leave(f);
	errno = saved;
	return n;
}

/* Gives up the block in hand. What was not run goes back to its queue, and the caller wakes for it. */
static bool put_back(struct frame *f)
{
	cq_block_t *b = f->block;
	bool rest = b->begin != b->end;

	f->block = NULL;
	if (rest)
		cq_blocks_publish(f->q, b->parity, b, b, 1);
	else
		cq_block_recycle(f->q, b);
	return rest;
}

/* ------------------------------------------------------------ taking blocks */

/* Says that this worker may touch a stack, before it does (trim). */
static void set_busy(cq_worker_t *w)
{
	cq_u32_store_relaxed(&w->busy, 1);
	/* Pairs with the acquire in quiescent (block.c): who sees the unit taken
	   sees this. Without it trim could free the block under the pop. */
	cq_fence_release();
}

static void set_idle(cq_worker_t *w)
{
	/* Pairs with the acquire of `busy` in quiescent (block.c): done with the
	   stacks. */
	cq_u32_store_release(&w->busy, 0);
}

static cq_block_t *take(cq_worker_t *w)
{
	cq_block_t *b;

	if (cq_blocks_waiting(w->q) == 0)
		return NULL;
	set_busy(w);
	b = cq_block_take(w->q);
	if (b == NULL)
		set_idle(w);
	else
		w->frame.block = b;
	return b;
}

/*
 * CQ_HANDOVER: what producers have not published goes to workers without work.
 * The caller takes a unit or wakes for it afterwards: whoever gathers must, as a
 * producer whose callbacks are claimed has nothing to flush.
 */
void cq_take_partial_blocks(cq_cleanup_t *q)
{
	/* Either a producer sees this worker idle and flushes, or its callback is seen here. */
	cq_producers_look(q);
	pthread_mutex_lock(&q->registry);
	cq_gather(q);
	pthread_mutex_unlock(&q->registry);
}

static bool take_unit(cq_worker_t *w)
{
	if (cq_blocks_waiting(w->q) == 0)
		return false;
	set_busy(w);
	w->taken_from = cq_block_take_unit(w->q);
	if (w->taken_from == TAKEN_NONE)
		set_idle(w);
	return w->taken_from != TAKEN_NONE;
}

/*
 * The second look, under the set's lock. It takes the unit that it finds: a
 * sleep that fails has work to show for it, so failed sleeps are at most as
 * many as units, not sleepers times units.
 */
static bool look(void *arg)
{
	cq_worker_t *w = arg;
	cq_cleanup_t *q = w->q;

	w->taken_from = TAKEN_NONE;
	if (cq_u32_load_relaxed(&q->stop) != 0 || take_unit(w))
		return true;
	if (!hands_over(q))
		return false;
	cq_take_partial_blocks(q);
	return take_unit(w);
}

/* A statistic that this thread writes and another may read. */
static void count(uint64_t *n)
{
	cq_u64_store_relaxed(n, *n + 1);
}

/* After a look that took a unit. */
static cq_block_t *pop_looked(cq_worker_t *w)
{
	cq_block_t *b = block_of(cq_workq_pop_taken(&w->q->full[w->taken_from].queue));

	b->first = b->begin;
	w->frame.block = b;
	count(&w->failed_sleeps);
	if (hands_over(w->q))
		cq_cleanup_wake(w->q); /* the look may have gathered several blocks */
	return b;
}

/* `ns` after the worker began to idle. */
static uint64_t idle_until(const cq_worker_t *w, uint64_t ns)
{
	return w->idle_since > CQ_FOREVER - ns ? CQ_FOREVER : w->idle_since + ns;
}

/*
 * Polls for a moment before a sleep. Meanwhile this worker is counted as coming:
 * who publishes relies on it, as on one that is woken, and makes no system call.
 * Worth it while blocks follow one another faster than a thread wakes up; so it
 * is done only while waits are short.
 */
static void poll_before_sleep(cq_worker_t *w)
{
	enum { STALLS = 32, POLL_NS = 100 }; /* a stall takes 3 to 50 ns */
	cq_cleanup_t *q = w->q;
	const cq_park_ops_t *park = park_of(q);
	int polls = q->config.spin_ns / POLL_NS + 1; /* a clock may stand still */

	cq_crew_add(q, CREW_COMING);
	CQ_POINT("worker.polling");
	do
		/* Rarely, as a look takes the line from those who publish. */
		for (int i = 0; i < STALLS; i++)
			cq_stall();
	while (cq_blocks_waiting(q) == 0 && cq_u32_load_relaxed(&q->stop) == 0 && --polls > 0 &&
	    park->now(park->host) < idle_until(w, (uint64_t)q->config.spin_ns));
	cq_worker_arrive(q);
}

static bool polls_before_sleep(const cq_worker_t *w)
{
	return w->q->config.spin_ns != CQ_NO_SPIN && !w->waits_long;
}

/* Awake again: how long was there no work, this time? */
static void judge_wait(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;
	uint64_t polled_until = idle_until(w, (uint64_t)q->config.spin_ns);

	w->waits_long = cq_u64_load_relaxed(&q->full[0].since) >= polled_until ||
	    cq_u64_load_relaxed(&q->full[1].since) >= polled_until;
}

/* Waits for a block. NULL: stopped, or idle for `idle_ns`. */
static cq_block_t *dequeue(cq_worker_t *w, uint64_t idle_ns)
{
	const cq_park_ops_t *park = park_of(w->q);
	bool idle = false, woken = false;
	cq_block_t *b;

	while (cq_u32_load_relaxed(&w->q->stop) == 0) {
		if ((b = take(w)) != NULL)
			return b;
		if (woken)
			count(&w->useless_wakes);
		woken = false;
		if (!idle) {
			idle = true;
			w->idle_since = park->now(park->host);
			if (polls_before_sleep(w)) {
				poll_before_sleep(w);
				continue;
			}
		}
		CQ_POINT("worker.found_nothing");
		switch (cq_parked_sleep(&w->q->idle, &w->sleeper, look, w,
		    idle_until(w, idle_ns))) {
		case CQ_PARKED_WORK:
			if (w->taken_from != TAKEN_NONE)
				return pop_looked(w);
			break; /* stopped */
		case CQ_PARKED_WOKEN:
			cq_worker_arrive(w->q);
			judge_wait(w);
			woken = true;
			break;
		case CQ_PARKED_TIMED_OUT:
			return NULL;
		}
	}
	return NULL;
}

cq_block_t *cq_worker_dequeue(cq_worker_t *w)
{
	return w->frame.block == NULL && !cq_forking(w->q) ? dequeue(w, CQ_FOREVER) : NULL;
}

cq_block_t *cq_worker_try_dequeue(cq_worker_t *w)
{
	if (w->frame.block != NULL || cq_u32_load_relaxed(&w->q->stop) != 0 || cq_forking(w->q))
		return NULL;
	return take(w);
}

/* True: callbacks were put back, for which the caller wakes. */
bool cq_finish(cq_worker_t *w)
{
	cq_block_t *b = w->frame.block;
	unsigned parity = b->parity;
	bool rest;

	/* Pairs with the acquire in parity_done (drain.c): a drain that counts
	   these callbacks sees all that they did. */
	cq_u64_store_release(&w->executed[parity], w->executed[parity] + (b->begin - b->first));
	rest = put_back(&w->frame);
	set_idle(w);
	cq_notify_drainers(w->q, parity);
	return rest;
}

void cq_worker_finish(cq_worker_t *w, cq_block_t *b)
{
	CQ_CHECK(b == w->frame.block);
	(void)b;
	if (cq_finish(w))
		cq_wake_unless_polled(w->q);
}

/* A callback ends its thread within cq_worker_run: the handle stays, without a block. */
static void abandon_block(void *worker)
{
	cq_worker_t *w = worker;

	cq_frame_leave(&w->frame);
	cq_worker_finish(w, w->frame.block);
}

void cq_worker_run(cq_worker_t *w, cq_block_t *b)
{
	pthread_cleanup_push(abandon_block, w);
	run(&w->frame, SIZE_MAX);
	pthread_cleanup_pop(0);
	cq_worker_finish(w, b);
}

/* A worker's loop, until the queue stops or the worker has been idle for too long. */
void cq_worker_serve(cq_worker_t *w)
{
	cq_block_t *b;

	while ((b = dequeue(w, w->q->config.idle_ns)) != NULL) {
		run(&w->frame, SIZE_MAX);
		cq_worker_finish(w, b);
	}
}

/* ------------------------------------------------------- without a worker */

/* Counts and gives up the block of a run that is no worker's. */
void cq_frame_finish(struct frame *f)
{
	cq_cleanup_t *q = f->q;
	unsigned parity = f->block->parity;
	uint32_t n = f->block->begin - f->block->first;
	bool rest = put_back(f);

	/* The lock is that of parity_done, so it orders the sum by itself. */
	pthread_mutex_lock(&q->registry);
	q->executed[parity] += n;
	if (!f->poller)
		q->handed_back += n;
	pthread_mutex_unlock(&q->registry);
	cq_notify_drainers(q, parity);
	if (rest)
		cq_wake_unless_polled(q);
}

/* The end of run_some. With a block in hand: a callback ends its thread. */
static void end_polling(void *frame)
{
	struct frame *f = frame;
	cq_cleanup_t *q = f->q;

	if (f->block != NULL) {
		cq_frame_leave(f);
		cq_frame_finish(f);
	}
	cq_server_left(q);
	pthread_mutex_lock(&q->registry);
	cq_u32_add_relaxed(&q->pollers, (uint32_t)-1);
	cq_leave(q);
}

/* Takes and runs blocks until there is none, the budget is spent or the queue stops. */
static size_t poll(struct frame *f, size_t budget)
{
	size_t total = 0;

	while (total < budget && cq_u32_load_relaxed(&f->q->stop) == 0 &&
	       (f->block = cq_block_take(f->q)) != NULL) {
		total += run(f, budget - total);
		cq_frame_finish(f);
	}
	return total;
}

size_t cq_cleanup_run_some(cq_cleanup_t *q, size_t budget)
{
	struct frame f = { .q = q, .poller = true };
	size_t total;

	if (cq_forking(q))
		return 0;
	cq_u32_add_relaxed(&q->pollers, 1);
	cq_u32_add_relaxed(&q->serving, 1);
	/* As set_busy; and a shutdown that has set stop and sees no poller can be
	   sure that none begins: pairs with the full fence in its announcement. */
	cq_fence_full();
	pthread_cleanup_push(end_polling, &f);
	total = poll(&f, budget);
	pthread_cleanup_pop(1);
	return total;
}
