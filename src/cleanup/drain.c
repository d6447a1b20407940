/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain and shutdown.
 *
 * A drain waits for what was enqueued before it, and must end while others go
 * on enqueuing into a last-in-first-out stack. So it turns the page: it
 * advances the epoch, after which new blocks go to the other full queue and
 * workers prefer the old one, and waits until as many callbacks of the old
 * parity have run as were published. Epoch e ends (e + 1 begins) only when
 * nothing of e - 1 is left, since both use the same queue: the rule of the grace
 * periods of read-copy-update. Counts are kept by producers and workers in
 * their own memory and summed here: the hot paths share no counter.
 */
#include <errno.h>

#include "base/barrier.h"
#include "producer.h"
#include "parked.h"

/* ------------------------------------------------------------------- waiting */

/*
 * Has everything of this parity run? With the registry lock held. `executed` is
 * summed first: at the instant between the two sums, executed was at least
 * the one, and published at most the other, so if they agree nothing was left.
 */
static bool parity_done(cq_cleanup_t *q, unsigned parity)
{
	uint64_t executed = q->executed[parity], published = q->published[parity];

	for (cq_worker_t *w = q->workers; w != NULL; w = w->next)
		/* Pairs with the release in cq_finish (worker.c): what the callbacks did,
		   and, in the order of these loads, the sums. */
		executed += cq_u64_load_acquire(&w->executed[parity]);
	for (cq_producer_t *p = q->producers; p != NULL; p = p->next) {
		/* Pairs with the release that ends close_block: not CLOSED means that
		   published[] has it. */
		uint64_t s = cq_u64_load_acquire(&p->state);

		if (state_phase(s) == PHASE_CLOSED && state_parity(s) == parity)
			return false; /* on its way to the queue; if not, close_block tells */
		published += cq_u64_load_relaxed(&p->published[parity]);
	}
	return executed == published;
}

/*
 * Can nobody run what is published, unless a thread comes by itself? In a queue that
 * makes no workers, of which the host's are all away.
 */
static bool nobody_serves(cq_cleanup_t *q)
{
	if (q->config.spawn != NULL || cq_u32_load_relaxed(&q->serving) != 0)
		return false;
	/* Pairs with the release in cq_server_left: what a worker had run when it left
	   is counted below. Without it a drain could give up when all has run. */
	cq_fence_acquire();
	return true;
}

/* A thread of the host's that takes no block any more. A drain may have relied on it. */
void cq_server_left(cq_cleanup_t *q)
{
	/* Pairs with the acquire in nobody_serves. */
	cq_fence_release();
	cq_u32_add_relaxed(&q->serving, (uint32_t)-1);
	if (nobody_serves(q))
		cq_wake_drainers(q);
}

/* A drain of everything up to and including `epoch`. */
struct drain {
	cq_cleanup_t *q;
	uint64_t epoch;
	bool done;	/* stays true: a block that was open all the time may still be
			   published with the old parity */
};

static bool drained_or_hopeless(void *arg)
{
	struct drain *d = arg;
	cq_cleanup_t *q = d->q;
	/* First: what they have run counts. A block that is on its way is waited for. */
	bool hopeless = nobody_serves(q) && cq_blocks_waiting(q) != 0;

	pthread_mutex_lock(&q->registry);
	if (q->epoch == d->epoch && parity_done(q, (d->epoch + 1) & 1))
		cq_u64_store_relaxed(&q->epoch, d->epoch + 1);
	d->done = q->epoch >= d->epoch + 2 ||
	    (q->epoch == d->epoch + 1 && parity_done(q, d->epoch & 1));
	pthread_mutex_unlock(&q->registry);
	return d->done || hopeless || cq_cleanup_stalled(q) ||
	    cq_u32_load_relaxed(&q->stop) == STOP_WITH_WORK_LEFT;
}

void cq_notify_drainers(cq_cleanup_t *q, unsigned parity)
{
	/* The fence in cq_parked_asleep stands between the count of what has run
	   and this load; it pairs with the announcement of the drain. The units are
	   a filter: the last block of a parity finds none. */
	if (cq_parked_asleep(&q->drainers) != 0 &&
	    cq_workq_units(&q->full[parity].queue) == 0)
		cq_wake_drainers(q);
}

void cq_wake_drainers(cq_cleanup_t *q)
{
	if (cq_forking(q))
		q->fork_wakes = true;
	else
		cq_parked_wake_all(&q->drainers);
}

/* Sleeps in `set` until look(arg), or the deadline: ETIMEDOUT. */
static int wait_until(cq_parked_t *set, cq_parked_look_fn *look, void *arg, uint64_t deadline)
{
	cq_parked_sleeper_t me;

	cq_parked_sleeper_init(&me, NULL);
	while (!look(arg)) {
		switch (cq_parked_sleep(set, &me, look, arg, deadline)) {
		case CQ_PARKED_WORK:
			return 0;
		case CQ_PARKED_TIMED_OUT:
			return ETIMEDOUT;
		case CQ_PARKED_WOKEN:
			break;
		}
	}
	return 0;
}

/* EAGAIN: stalled, or nobody serves. */
static int drain_until(cq_cleanup_t *q, uint64_t deadline)
{
	struct drain d = { .q = q };
	int err;

	pthread_mutex_lock(&q->registry);
	err = cq_gather(q);
	d.epoch = q->epoch;
	pthread_mutex_unlock(&q->registry);
	if (err != 0)
		return err;
	/* In a CQ_POLLED queue too: this call blocks, so it may as well wake. */
	(void)cq_cleanup_wake(q);
	err = wait_until(&q->drainers, drained_or_hopeless, &d, deadline);
	if (err != 0 || d.done)
		return err;
	return cq_u32_load_relaxed(&q->stop) != 0 ? ESHUTDOWN : EAGAIN;
}

int cq_cleanup_drain(cq_cleanup_t *q, uint64_t deadline)
{
	int err = cq_in_callback_of(q) || cq_forking(q) ? EDEADLK : drain_until(q, deadline);

	return err == EAGAIN ? cq_stall_error(cq_u32_load_relaxed(&q->spawn_failed)) : err;
}

/* ------------------------------------------------------------------ shutdown */

static bool workers_gone(void *arg)
{
	cq_cleanup_t *q = arg;

	/* Relaxed: stop_workers takes the lock under which both were lowered. */
	return cq_u32_load_relaxed(&q->nworkers) == 0 && cq_u32_load_relaxed(&q->pollers) == 0;
}

/* Makes every worker end after the callback that it is in, and waits for that. */
static int stop_workers(cq_cleanup_t *q, uint32_t stop, uint64_t deadline)
{
	cq_parked_sleeper_t *taken;
	uint32_t n = UINT32_MAX;
	int err;

	pthread_mutex_lock(&q->registry);
	if (q->stop == 0)
		cq_u32_store_relaxed(&q->stop, stop);
	pthread_mutex_unlock(&q->registry);
	/* Its fence pairs with that of the announcement: a worker that it does not
	   find asleep looks at `stop` before it sleeps. Those that it finds are
	   coming, as after every wake. */
	taken = cq_parked_take(&q->idle, &n);
	cq_crew_add(q, n * CREW_COMING);
	cq_parked_unpark(park_of(q), taken);
	cq_parked_wake_all(&q->drainers);

	err = wait_until(&q->exits, workers_gone, q, deadline);
	if (err != 0)
		return err;
	/* The last worker has counted itself out under the lock: wait until it has
	   left the lock as well, and its thread the library. */
	pthread_mutex_lock(&q->registry);
	pthread_mutex_unlock(&q->registry);
	cq_threads_join(&q->threads);
	return 0;
}

/* Nothing published is left, and no block is on its way. With the registry lock held. */
bool cq_nothing_left(cq_cleanup_t *q)
{
	return parity_done(q, 0) && parity_done(q, 1);
}

static bool nothing_left(cq_cleanup_t *q)
{
	bool nothing;

	pthread_mutex_lock(&q->registry);
	nothing = cq_nothing_left(q);
	pthread_mutex_unlock(&q->registry);
	return nothing;
}

static bool something_came_or_nothing_left(void *arg)
{
	cq_cleanup_t *q = arg;

	return cq_blocks_waiting(q) != 0 || nothing_left(q);
}

/* Claims all that was accepted, once the gate is closed; nothing is accepted afterwards. */
static int seal(cq_cleanup_t *q)
{
	int err;

	pthread_mutex_lock(&q->registry);
	err = cq_gather(q);
	if (err == 0)
		q->sealed = true;
	pthread_mutex_unlock(&q->registry);
	return err;
}

static void leave_block(void *frame)
{
	cq_frame_leave(frame);
	cq_frame_finish(frame);
}

/* Gives back the callbacks of one block; in the sums they are as good as run. */
static void give_back_block(cq_cleanup_t *q, cq_block_t *b, cq_give_back_fn *give_back, void *ctx)
{
	struct frame frame = { .q = q, .block = b };
	cq_callback_fn *fn;
	void *arg;
	int saved = errno;

	cq_frame_enter(&frame);
	pthread_cleanup_push(leave_block, &frame); /* give_back may end the thread */
	while (cq_block_next(b, &fn, &arg))
		give_back(ctx, fn, arg);
	pthread_cleanup_pop(1);
	errno = saved;
}

/* After the workers have gone: all that is left. Without give_back there may be nothing. */
static int give_back_rest(cq_cleanup_t *q, uint64_t deadline, cq_give_back_fn *give_back, void *ctx)
{
	for (;;) {
		int err = seal(q);
		bool given = false;
		cq_block_t *b;

		if (give_back == NULL && cq_blocks_waiting(q) != 0)
			return EINVAL; /* stopped by an earlier HAND_BACK */
		for (; give_back != NULL && (b = cq_block_take(q)) != NULL; given = true)
			give_back_block(q, b, give_back, ctx);
		if (err != 0 && !given)
			return err;
		if (err != 0)
			continue; /* what was recycled may be enough to gather the rest */
		/* A producer may be about to publish a block that it has closed. */
		err = wait_until(&q->drainers, something_came_or_nothing_left, q, deadline);
		if (err != 0 || nothing_left(q))
			return err;
	}
}

static int shut_down(cq_cleanup_t *q, cq_shutdown_how_t how, uint64_t deadline,
    cq_give_back_fn *give_back, void *ctx)
{
	int err;

	cq_u32_store_relaxed(&q->gate, q->gate | GATE_CLOSED);
	cq_producers_look(q);

	if (how == CQ_SHUTDOWN_DRAIN && cq_u32_load_relaxed(&q->stop) == 0 &&
	    ((err = seal(q)) != 0 || (err = drain_until(q, deadline)) != 0))
		return err;
	err = stop_workers(q, how == CQ_SHUTDOWN_DRAIN ? STOP_DRAINED : STOP_WITH_WORK_LEFT,
	    deadline);
	if (err != 0)
		return err;
	return give_back_rest(q, deadline, give_back, ctx);
}

static void end_with(cq_cleanup_t *q, enum shutdown_phase phase)
{
	pthread_mutex_lock(&q->registry);
	q->shutdown = phase;
	pthread_mutex_unlock(&q->registry);
}

/* It failed, or give_back has ended the thread: another may try again. */
static void tried(void *q)
{
	end_with(q, SHUTDOWN_TRIED);
}

int cq_cleanup_shutdown(cq_cleanup_t *q, cq_shutdown_how_t how, uint64_t deadline,
    cq_give_back_fn *give_back, void *ctx)
{
	enum shutdown_phase phase;
	int err;

	if (give_back == NULL && how != CQ_SHUTDOWN_DRAIN)
		return EINVAL;
	if (cq_in_callback_of(q) || cq_forking(q))
		return EDEADLK;

	pthread_mutex_lock(&q->registry);
	phase = q->shutdown;
	if (phase != SHUTDOWN_ACTIVE && phase != SHUTDOWN_DONE)
		q->shutdown = SHUTDOWN_ACTIVE;
	pthread_mutex_unlock(&q->registry);
	if (phase == SHUTDOWN_ACTIVE)
		return EALREADY;
	if (phase == SHUTDOWN_DONE)
		return 0;

	pthread_cleanup_push(tried, q);
	err = shut_down(q, how, deadline, give_back, ctx);
	pthread_cleanup_pop(err != 0);
	if (err == 0)
		end_with(q, SHUTDOWN_DONE);
	return err;
}
