/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads that the collector knows: a pool's workers, and the helper, which hands over what collections find dead.
   The queue's spawn or allocator may call the collector. */
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "gc_priv.h"

static struct {
	pthread_t thread;
	bool lives;		/* under `draining` */
	uint32_t ends;
} helper;

enum { PATIENCE_NS = 10 * 1000 * 1000 }; /* nothing tells of memory; an end waits for it */

/* ---- threads that the collector knows ---- */

int cq_gc_worker_start(void *host)
{
	struct GC_stack_base stack;
	sigset_t signals;
	int err;

	(void)host;
	/* Pairs with the release in cq_gc_open. Before that the collector ends the process. */
	if (cq_u32_load_acquire(&cq_gc.threads_allowed) == 0)
		return ENXIO;
	/* The collector stops and starts its threads by these. */
	sigemptyset(&signals);
	sigaddset(&signals, GC_get_suspend_signal());
	sigaddset(&signals, GC_get_thr_restart_signal());
	if (GC_get_stack_base(&stack) != GC_SUCCESS || pthread_sigmask(SIG_UNBLOCK, &signals, NULL) != 0)
		return ENOTSUP;
	err = GC_register_my_thread(&stack);
	cq_gc_mine.registered = err == GC_SUCCESS; /* a duplicate is another's to end */
	return err == GC_SUCCESS || err == GC_DUPLICATE ? 0 : ENOMEM;
}

void cq_gc_worker_end(void *host)
{
	(void)host;
	if (cq_gc_mine.registered)
		GC_unregister_my_thread();
	cq_gc_mine.registered = false;
}

/* ---- the helper ---- */

/* Until there may be room again, or memory. */
static void wait_for(int err)
{
	const struct timespec t = { 0, PATIENCE_NS };

	if (err == ENOBUFS)
		err = cq_cleanup_wait_for_room(cq_gc.queue, cq_now() + PATIENCE_NS);
	if (err != 0 && err != ETIMEDOUT)
		nanosleep(&t, NULL);
}

static void *helper_main(void *unused)
{
	int err;

	(void)cq_gc_worker_start(NULL); /* unblocks the collector's signals too */
	do {
		while (sem_wait(&cq_gc.work) != 0) /* a collection's signal */
			;
		/* A queue that is shut down has no room ever again. */
		while (cq_gc_hand_over(&err), err != 0 && err != ESHUTDOWN && cq_u32_load_relaxed(&helper.ends) == 0)
			wait_for(err);
	} while (cq_u32_load_relaxed(&helper.ends) == 0);
	cq_gc_worker_end(NULL);
	return unused;
}

/* All signals but those that a thread brings upon itself. */
static void block_signals(sigset_t *old)
{
	static const int synchronous[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	sigset_t set;

	sigfillset(&set);
	for (size_t i = 0; i < sizeof(synchronous) / sizeof(*synchronous); i++)
		sigdelset(&set, synchronous[i]);
	pthread_sigmask(SIG_SETMASK, &set, old);
}

int cq_gc_helper_start(void)
{
	sigset_t old;
	int err = 0;

	pthread_mutex_lock(&cq_gc.draining);
	if (!helper.lives) {
		cq_gc_mine.draining = true; /* it allocates, and may run finalizers */
		block_signals(&old);
		/* Not by GC_pthread_create: that may start the collector's markers, for which a forked child has been seen
		   to wait for ever (8.2.2). */
		err = pthread_create(&helper.thread, NULL, helper_main, NULL);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		helper.lives = err == 0;
		cq_gc_mine.draining = false;
	}
	pthread_mutex_unlock(&cq_gc.draining);
	return err;
}

void cq_gc_helper_end(void)
{
	if (!helper.lives)
		return;
	cq_u32_store_relaxed(&helper.ends, 1);
	sem_post(&cq_gc.work);
	pthread_join(helper.thread, NULL);
	helper.lives = false;
}

/* It is not here. A new one is made by who needs it first: in a fork handler no thread can be. */
void cq_gc_helper_child(void)
{
	if (!helper.lives)
		return;
	helper.lives = false;
	sem_init(&cq_gc.work, 0, 1);
	cq_u32_store_relaxed(&cq_gc.attention, NO_HELPER);
}
