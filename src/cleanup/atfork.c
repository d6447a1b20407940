/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fork handlers of the process: they prepare all queues but those with
 * CQ_NO_ATFORK. Registered once, when the first of these is made.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "cleanup_priv.h"
#include "base/park.h"

#define REGISTERED UINT32_MAX /* no process's id */

static struct {
	pthread_mutex_t lock;	/* held from prepare to parent or child */
	struct cq_fork fork;
	cq_cleanup_t *queues;	/* under the lock */
	uint32_t registered;	/* 0, REGISTERED, or the id of the process that is about to */
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool cq_forking(const cq_cleanup_t *q)
{
	return cq_fork_is_mine(&q->fork);
}

static void prepare_all(void)
{
	if (!cq_fork_begins(&all.fork))
		return;
	pthread_mutex_lock(&all.lock);
	cq_fork_begun(&all.fork);
	for (cq_cleanup_t *q = all.queues; q != NULL; q = q->fork_next)
		cq_fork_prepare(q);
}

static void end_all(bool child)
{
	enum fork_end end = cq_fork_ends(&all.fork, child);

	if (end == FORK_GOES_ON)
		return;
	for (cq_cleanup_t *q = all.queues; q != NULL; q = q->fork_next)
		(end == FORK_IN_CHILD ? cq_fork_child : cq_fork_parent)(q);
	/* When all are unlocked: what makes a worker of one may call another. */
	for (cq_cleanup_t *q = all.queues; q != NULL; q = q->fork_next)
		cq_fork_make_up(q);
	cq_fork_ended(&all.fork);
	pthread_mutex_unlock(&all.lock);
}

static void parent_all(void) { end_all(false); }
static void child_all(void) { end_all(true); }

/*
 * By one thread: with a second set, handlers of others that lie between the two would turn the
 * order of locks round. Not with a lock or pthread_once, which a fork meanwhile would leave
 * taken in the child: the claim is the process's id, which a child finds to be another's.
 * True: the caller has it. False: the handlers are there.
 */
static bool claim_registration(void)
{
	const struct timespec moment = { 0, 100000 };
	uint32_t me = (uint32_t)getpid(), seen;

	for (;;) {
		/* Pairs with the release in register_handlers: the handlers are registered. */
		seen = cq_u32_load_acquire(&all.registered);
		if (seen == REGISTERED)
			return false;
		if (seen == me)
			nanosleep(&moment, NULL); /* another thread is at it */
		else if (cq_u32_cas_relaxed(&all.registered, seen, me))
			return true;
	}
}

/* Those of parking first: a wake that was left to parent_all needs them to be over there. */
static int register_handlers(void)
{
	int err;

	if (!claim_registration())
		return 0;
	if ((err = cq_park_register()) == 0)
		err = pthread_atfork(prepare_all, parent_all, child_all);
	CQ_POINT("atfork.registered");
	/* Pairs with the acquire in claim_registration. Without it a queue could be made,
	   and a fork begin, before the handlers are seen to be there. */
	cq_u32_store_release(&all.registered, err == 0 ? REGISTERED : 0);
	return err;
}

int cq_fork_register(cq_cleanup_t *q)
{
	int err;

	if (cq_fork_is_mine(&all.fork))
		return EDEADLK;
	if ((err = register_handlers()) != 0)
		return err;
	pthread_mutex_lock(&all.lock);
	q->fork_next = all.queues;
	all.queues = q;
	pthread_mutex_unlock(&all.lock);
	return 0;
}

void cq_fork_unregister(cq_cleanup_t *q)
{
	pthread_mutex_lock(&all.lock);
	for (cq_cleanup_t **link = &all.queues; *link != NULL; link = &(*link)->fork_next) {
		if (*link == q) {
			*link = q->fork_next;
			break;
		}
	}
	pthread_mutex_unlock(&all.lock);
}
