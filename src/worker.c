/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "barrier.h"
#include "cleanup_priv.h"
#include "sleepers.h"

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
	*fn = b->callbacks[i].fn;
	*arg = b->callbacks[i].arg;
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

	cq_frame_enter(f);
	while (n < budget && cq_u32_load_relaxed(&q->stop) == 0 && cq_block_next(b, &fn, &arg)) {
		fn(arg);
		n++;
	}
	cq_frame_leave(f);
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

static void wake_unless_polled(cq_cleanup_t *q)
{
	if ((q->config.flags & CQ_POLLED) == 0)
		cq_cleanup_wake(q);
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

static bool hands_over(const cq_cleanup_t *q)
{
	return (q->config.flags & CQ_HANDOVER) != 0;
}

/*
 * CQ_HANDOVER: what producers have not published goes to workers without work.
 * The caller takes a unit or wakes for it afterwards: whoever gathers must, as a
 * producer whose callbacks are claimed has nothing to flush.
 */
static void take_partial_blocks(cq_cleanup_t *q)
{
	/* Pairs with the store of n and the loads in wants_partial_block
	   (producer.c): either that producer saw this worker idle and flushed, or
	   its callback is seen here. */
	cq_barrier_heavy();
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
	take_partial_blocks(q);
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

/* When a worker that begins to idle now may retire. */
static uint64_t idle_deadline(cq_cleanup_t *q, uint64_t idle_ns)
{
	const cq_park_ops_t *park = park_of(q);
	uint64_t now;

	if (idle_ns == CQ_FOREVER)
		return CQ_FOREVER;
	now = park->now(park->host);
	return now > CQ_FOREVER - idle_ns ? CQ_FOREVER : now + idle_ns;
}

/* Waits for a block. NULL: stopped, or idle for `idle_ns`. */
static cq_block_t *dequeue(cq_worker_t *w, uint64_t idle_ns)
{
	uint64_t deadline = 0;
	bool woken = false;
	cq_block_t *b;

	while (cq_u32_load_relaxed(&w->q->stop) == 0) {
		if ((b = take(w)) != NULL)
			return b;
		if (woken)
			count(&w->useless_wakes);
		woken = false;
		if (deadline == 0)
			deadline = idle_deadline(w->q, idle_ns);
		CQ_POINT("worker.found_nothing");
		switch (cq_sleepers_sleep(&w->q->idle, &w->sleeper, look, w, deadline)) {
		case CQ_WORK:
			if (w->taken_from != TAKEN_NONE)
				return pop_looked(w);
			break; /* stopped */
		case CQ_WOKEN:
			cq_worker_arrive(w->q);
			woken = true;
			break;
		case CQ_TIMED_OUT:
			return NULL;
		}
	}
	return NULL;
}

cq_block_t *cq_worker_dequeue(cq_worker_t *w)
{
	return w->frame.block == NULL ? dequeue(w, CQ_FOREVER) : NULL;
}

cq_block_t *cq_worker_try_dequeue(cq_worker_t *w)
{
	if (w->frame.block != NULL || cq_u32_load_relaxed(&w->q->stop) != 0)
		return NULL;
	return take(w);
}

/* True: callbacks were put back, for which the caller wakes. */
static bool finish(cq_worker_t *w)
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
	if (finish(w))
		wake_unless_polled(w->q);
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

/*
 * Unlocks the registry and wakes a shutdown that waits for the caller to go. It
 * takes the lock once more before it returns, so within the lock the queue is
 * there; afterwards it may be gone, but not a table that outlives it, nor the
 * sleeper of a thread that has yet to be unparked.
 */
static void leave(cq_cleanup_t *q)
{
	const cq_park_ops_t *park = park_of(q);
	uint32_t n = UINT32_MAX;
	cq_sleeper_t *taken = cq_sleepers_take(&q->exits, &n);

	pthread_mutex_unlock(&q->registry);
	cq_sleepers_unpark(park, taken);
}

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
		wake_unless_polled(q);
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
	pthread_mutex_lock(&q->registry);
	cq_u32_add_relaxed(&q->pollers, (uint32_t)-1);
	leave(q);
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

	cq_u32_add_relaxed(&q->pollers, 1);
	/* As set_busy; and a shutdown that has set stop and sees no poller can be
	   sure that none begins: pairs with the full fence in its announcement. */
	cq_fence_full();
	pthread_cleanup_push(end_polling, &f);
	total = poll(&f, budget);
	pthread_cleanup_pop(1);
	return total;
}

/* -------------------------------------------------- coming, leaving, the body */

/* A record for a worker, which a shutdown waits for from now on. */
cq_worker_t *cq_worker_new(cq_cleanup_t *q, void *host, int *err)
{
	cq_worker_t *w = cq_alloc(q, sizeof(*w));

	*err = ENOMEM;
	if (w == NULL)
		return NULL;
	*w = (cq_worker_t){ .q = q, .frame = { .q = q, .worker = w } };
	cq_sleeper_init(&w->sleeper, host);

	pthread_mutex_lock(&q->registry);
	if (q->stop != 0) {
		cq_free(q, w, sizeof(*w));
		pthread_mutex_unlock(&q->registry);
		*err = ESHUTDOWN;
		return NULL;
	}
	w->next = q->workers;
	if (w->next != NULL)
		w->next->prev = w;
	q->workers = w;
	cq_u32_store_relaxed(&q->nworkers, q->nworkers + 1);
	pthread_mutex_unlock(&q->registry);
	*err = 0;
	return w;
}

/* Ends a worker's record. Afterwards the queue may be gone. */
void cq_worker_gone(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;

	pthread_mutex_lock(&q->registry);
	if (w->prev != NULL)
		w->prev->next = w->next;
	else
		q->workers = w->next;
	if (w->next != NULL)
		w->next->prev = w->prev;
	q->executed[0] += w->executed[0];
	q->executed[1] += w->executed[1];
	q->useless_wakes += w->useless_wakes;
	q->failed_sleeps += w->failed_sleeps;
	cq_free(q, w, sizeof(*w));
	cq_u32_store_relaxed(&q->nworkers, q->nworkers - 1);
	leave(q);
}

/* What a worker adds to the crew. */
static uint64_t crew_of(const cq_worker_t *w)
{
	return CREW_LIVE + (w->made ? CREW_MADE : 0);
}

/*
 * What could not be made while this worker lived stalls nothing: it still looks,
 * and then comes back, or leaves nothing, or wakes for what it leaves.
 */
static void leave_crew(const cq_worker_t *w)
{
	cq_u32_store_relaxed(&w->q->spawn_failed, 0);
	/* Pairs with the acquire in cq_cleanup_stalled (wake.c): who sees that this
	   worker has left doesn't see a failure of before. Without it a drain
	   could give up while this worker comes back. */
	cq_fence_release();
	cq_crew_add(w->q, 0 - crew_of(w));
}

/* As one that comes: no other is made for what this one will take. False: as many
   others as may be were made meanwhile, and will look for that work. */
static bool come_back(const cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;
	uint64_t crew = cq_u64_load_relaxed(&q->crew);

	do {
		if (w->made && crew_made(crew) >= q->config.max_workers)
			return false;
	} while (!cq_u64_cas_relaxed(&q->crew, &crew, crew + crew_of(w) + CREW_COMING));
	return true;
}

/* The idle limit has passed. False: there is work after all, and this worker is back. */
static bool retire(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;
	bool back;

	CQ_POINT("worker.timed_out");
	leave_crew(w);
	CQ_POINT("worker.retiring");
	/* Pairs with the fence in cq_cleanup_wake: either that sees that a worker
	   can be made, or this look sees its work. Without it the last worker
	   could leave while it is counted on. */
	cq_fence_full();
	if (hands_over(q))
		take_partial_blocks(q);
	back = cq_blocks_waiting(q) != 0 && cq_u32_load_relaxed(&q->stop) == 0 && come_back(w);
	if (hands_over(q))
		cq_cleanup_wake(q);
	if (back)
		cq_worker_arrive(q);
	return !back;
}

/* Works until the queue stops (false) or the worker has retired (true). */
static bool work(cq_worker_t *w)
{
	cq_block_t *b;

	do {
		while ((b = dequeue(w, w->q->config.idle_ns)) != NULL) {
			run(&w->frame, SIZE_MAX);
			cq_worker_finish(w, b);
		}
		if (cq_u32_load_relaxed(&w->q->stop) != 0) {
			cq_crew_add(w->q, 0 - crew_of(w));
			return false;
		}
	} while (!retire(w));
	if (cq_u32_load_relaxed(&w->q->stop) != 0)
		return false;
	cq_u64_add_relaxed(&w->q->retired, 1);
	return true;
}

/* Leaves the crew, with or without a block in hand. As retire: this worker may have
   been counted on. */
static void step_down(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;

	if (w->frame.block != NULL)
		finish(w); /* what it has left is queued again */
	leave_crew(w);
	if (hands_over(q))
		take_partial_blocks(q);
	wake_unless_polled(q);
	cq_worker_gone(w);
}

/* A callback ends its thread: to the queue that is a worker that retires. */
static void retire_in_callback(void *worker)
{
	cq_worker_t *w = worker;

	cq_frame_leave(&w->frame);
	cq_u64_add_relaxed(&w->q->retired, 1);
	step_down(w);
}

/* The life of a worker. Afterwards the queue may be gone. True: it has retired. */
static bool live(cq_worker_t *w)
{
	bool retired;

	/* Once in a life, so that callbacks and blocks pay nothing for it. */
	pthread_cleanup_push(retire_in_callback, w);
	retired = work(w);
	pthread_cleanup_pop(0);
	cq_worker_gone(w);
	return retired;
}

/* The body of a worker that the queue asked for: it is live and coming. */
void cq_worker_main(void *arg)
{
	cq_worker_t *w = arg;

	cq_worker_arrive(w->q);
	live(w);
}

int cq_worker_attach(cq_cleanup_t *q, void *host, cq_worker_t **out)
{
	int err;

	if (q == NULL || out == NULL)
		return EINVAL;
	*out = cq_worker_new(q, host, &err);
	if (err == 0)
		cq_note_peak(q, crew_live(cq_crew_add(q, CREW_LIVE)) + 1);
	return err;
}

void cq_worker_detach(cq_worker_t *w)
{
	if (w != NULL)
		step_down(w);
}

int cq_cleanup_work(cq_cleanup_t *q)
{
	cq_worker_t *w;
	int err;

	if (cq_in_callback_of(q))
		return EDEADLK;
	err = cq_worker_attach(q, NULL, &w);
	if (err != 0)
		return err;
	return live(w) ? ETIMEDOUT : 0;
}
