/* SPDX-License-Identifier: BSD-2-Clause */
/* The fork handlers of the process. Registered once, by the first client that wants them. */
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "atfork.h"
#include "ordering.h"
#include "park.h"
#include "points.h"

#define REGISTERED UINT32_MAX /* no process's id */

static struct {
	pthread_mutex_t lock;	/* held from prepare to parent or child */
	struct cq_fork fork;
	struct cq_fork_client *newest, *oldest; /* under the lock */
	uint32_t registered;	/* 0, REGISTERED, or the id of the process that is about to */
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void prepare_all(void)
{
	if (!cq_fork_begins(&all.fork))
		return;
	pthread_mutex_lock(&all.lock);
	cq_fork_begun(&all.fork);
	for (struct cq_fork_client *c = all.newest; c != NULL; c = c->older)
		c->ops->phase(c, CQ_FORK_PREPARE);
}

static void end_all(bool child)
{
	enum fork_end end = cq_fork_ends(&all.fork, child);

	if (end == FORK_GOES_ON)
		return;
	for (struct cq_fork_client *c = all.oldest; c != NULL; c = c->newer)
		c->ops->phase(c, end == FORK_IN_CHILD ? CQ_FORK_CHILD : CQ_FORK_PARENT);
	/* When all are unlocked: what makes a worker of one may call another. In a child nobody wakes. */
	for (struct cq_fork_client *c = all.oldest; c != NULL && end == FORK_IN_PARENT; c = c->newer)
		c->ops->make_up(c);
	cq_fork_ended(&all.fork);
	pthread_mutex_unlock(&all.lock);
}

static void parent_all(void) { end_all(false); }
static void child_all(void) { end_all(true); }

void cq_fork(cq_fork_phase_t phase)
{
	if (phase == CQ_FORK_PREPARE)
		prepare_all();
	else
		end_all(phase == CQ_FORK_CHILD);
}

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

int cq_fork_register(struct cq_fork_client *c, const struct cq_fork_ops *ops, bool by_atfork)
{
	int err;

	if (cq_fork_is_mine(&all.fork))
		return EDEADLK;
	if (by_atfork && (err = register_handlers()) != 0)
		return err;
	c->ops = ops;
	c->newer = NULL;
	pthread_mutex_lock(&all.lock);
	c->older = all.newest;
	if (c->older != NULL)
		c->older->newer = c;
	else
		all.oldest = c;
	all.newest = c;
	pthread_mutex_unlock(&all.lock);
	return 0;
}

void cq_fork_unregister(struct cq_fork_client *c)
{
	pthread_mutex_lock(&all.lock);
	*(c->newer != NULL ? &c->newer->older : &all.newest) = c->older;
	*(c->older != NULL ? &c->older->newer : &all.oldest) = c->newer;
	pthread_mutex_unlock(&all.lock);
}
