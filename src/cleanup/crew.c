/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a worker: made or attached, at work, idle for too long, stopped,
 * detached, or ended by a callback that ends its thread.
 */
#include <errno.h>

#include "cleanup_priv.h"
#include "parked.h"

/*
 * Unlocks the registry and wakes a shutdown that waits for the caller to go. It
 * takes the lock once more before it returns, so within the lock the queue is
 * there; afterwards it may be gone, but not a table that outlives it, nor the
 * sleeper of a thread that has yet to be unparked.
 */
void cq_leave(cq_cleanup_t *q)
{
	const cq_park_ops_t *park = park_of(q);
	uint32_t n = UINT32_MAX;
	cq_parked_sleeper_t *taken = cq_parked_take(&q->exits, &n);

	pthread_mutex_unlock(&q->registry);
	cq_parked_unpark(park, taken);
}

/* A record for a worker, which a shutdown waits for from now on. */
cq_worker_t *cq_worker_new(cq_cleanup_t *q, void *host, int *err)
{
	cq_worker_t *w = cq_alloc(q, sizeof(*w));

	*err = ENOMEM;
	if (w == NULL)
		return NULL;
	*w = (cq_worker_t){ .q = q, .frame = { .q = q, .worker = w } };
	cq_parked_sleeper_init(&w->sleeper, host);

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
	cq_leave(q);
}

/* The worker is one of the crew, or (0) is not. */
static void set_crew(cq_worker_t *w, uint64_t crew)
{
	cq_crew_add(w->q, crew - w->crew);
	w->crew = crew;
}

/*
 * What could not be made while this worker lived stalls nothing: it still looks,
 * and then comes back, or leaves nothing, or wakes for what it leaves.
 */
static void leave_crew(cq_worker_t *w)
{
	cq_u32_store_relaxed(&w->q->spawn_failed, 0);
	/* Pairs with the acquire in cq_cleanup_stalled (wake.c): who sees that this
	   worker has left doesn't see a failure of before. Without it a drain
	   could give up while this worker comes back. */
	cq_fence_release();
	set_crew(w, 0);
}

/* As one that comes: no other is made for what this one will take. False: as many
   others as may be were made meanwhile, and will look for that work. */
static bool come_back(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;
	uint64_t crew = cq_u64_load_relaxed(&q->crew);

	w->crew = CREW_LIVE + (w->made ? CREW_MADE : 0);
	do {
		if (w->made && crew_made(crew) >= q->config.max_workers) {
			w->crew = 0;
			return false;
		}
	} while (!cq_u64_cas_relaxed(&q->crew, &crew, crew + w->crew + CREW_COMING));
	cq_note_peak(q, crew_live(crew) + 1);
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
		cq_take_partial_blocks(q);
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
	do {
		cq_worker_serve(w);
		if (cq_u32_load_relaxed(&w->q->stop) != 0) {
			set_crew(w, 0);
			return false;
		}
	} while (!retire(w));
	if (cq_u32_load_relaxed(&w->q->stop) != 0)
		return false;
	cq_u64_add_relaxed(&w->q->retired, 1);
	return true;
}

/* ---------------------------------------------- the host's word on each thread */

/* Both hooks run as callbacks do, and a fork within goes on in the child. */
static void call_hook(cq_worker_t *w, void (*hook)(void *host))
{
	cq_frame_enter(&w->frame);
	hook(w->q->config.host);
	cq_frame_leave(&w->frame);
}

/* A hook has ended its thread: worker_end. */
static void gone_in_end(void *worker)
{
	cq_worker_t *w = worker;

	cq_frame_leave(&w->frame);
	cq_worker_gone(w);
}

/* The end of a worker that has left the crew: its record is there until worker_end
   has returned, so that the queue is too. */
static void worker_ends(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;
	int cancel;

	if (!w->made)
		cq_server_left(q); /* while the queue can't go away */
	if (w->made && is_managed(q) && q->config.worker_end != NULL) {
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* as in worker_start */
		pthread_cleanup_push(gone_in_end, w);
		call_hook(w, q->config.worker_end);
		pthread_cleanup_pop(0);
	}
	cq_worker_gone(w);
}

/* worker_start has ended its thread: to the queue, a worker that could not be made. */
static void gone_in_start(void *worker)
{
	cq_worker_t *w = worker;
	uint64_t crew = w->crew;

	cq_frame_leave(&w->frame);
	w->crew = 0;
	cq_worker_not_made(w->q, crew);
	cq_worker_gone(w);
}

static void worker_starts(cq_worker_t *w)
{
	if (!is_managed(w->q) || w->q->config.worker_start == NULL)
		return;
	pthread_cleanup_push(gone_in_start, w);
	call_hook(w, w->q->config.worker_start);
	pthread_cleanup_pop(0);
}

/* ---------------------------------------------------------- the life as a whole */

/* Leaves the crew, with or without a block in hand. As retire: this worker may have
   been counted on. */
static void step_down(cq_worker_t *w)
{
	cq_cleanup_t *q = w->q;

	if (w->frame.block != NULL)
		cq_finish(w); /* what it has left is queued again */
	leave_crew(w);
	if (hands_over(q))
		cq_take_partial_blocks(q);
	cq_wake_unless_polled(q);
	worker_ends(w);
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
	worker_ends(w);
	return retired;
}

/* The body of a worker that the queue asked for: it is live and coming. */
void cq_worker_main(void *arg)
{
	cq_worker_t *w = arg;

	worker_starts(w);
	w->crew -= CREW_COMING;
	cq_worker_arrive(w->q);
	live(w);
}

int cq_worker_attach(cq_cleanup_t *q, void *host, cq_worker_t **out)
{
	int err;

	if (q == NULL || out == NULL)
		return EINVAL;
	if (cq_forking(q))
		return EDEADLK;
	*out = cq_worker_new(q, host, &err);
	if (err != 0)
		return err;
	(*out)->crew = CREW_LIVE;
	cq_note_peak(q, crew_live(cq_crew_add(q, CREW_LIVE)) + 1);
	cq_u32_add_relaxed(&q->serving, 1);
	return 0;
}

void cq_worker_detach(cq_worker_t *w)
{
	if (w == NULL)
		return;
	if (cq_forking(w->q)) {
		w->leaves_next = w->q->fork_leaving;
		w->q->fork_leaving = w;
		return;
	}
	step_down(w);
}

int cq_cleanup_work(cq_cleanup_t *q)
{
	cq_worker_t *w;
	int err;

	if (cq_in_callback_of(q) || cq_forking(q))
		return EDEADLK;
	err = cq_worker_attach(q, NULL, &w);
	if (err != 0)
		return err;
	return live(w) ? ETIMEDOUT : 0;
}
