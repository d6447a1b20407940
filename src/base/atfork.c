/* SPDX-License-Identifier: BSD-2-Clause */
/* The fork handlers of the process. Registered once, by the first client that wants them. */
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "atfork.h"
#include "ordering.h"
#include "park.h"

#define REGISTERED UINT32_MAX /* no process's id */

static struct {
	pthread_mutex_t lock;	/* held from prepare to parent or child */
	struct cq_fork_client list; /* a circle, under the lock: behind it the oldest, before it the newest */
	uint32_t registered;	/* 0, REGISTERED, or the id of the process that is about to register */
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .list = { .newer = &all.list, .older = &all.list } };

/* The fork in which this thread is. A forked child has it too. */
static __thread struct {
	unsigned depth;		/* with those by handlers within */
	bool is_child;		/* one of these has made the process: how the outermost ends */
	bool unlocked;		/* the clients have let go of their locks */
} mine;

const void *cq_thread_mark(void)
{
	return &mine;
}

bool cq_forking(void)
{
	return mine.depth != 0 && !mine.unlocked;
}

void cq_fork(cq_fork_phase_t phase)
{
	bool child;

	if (phase == CQ_FORK_PREPARE) {
		if (mine.depth++ != 0)
			return;
		pthread_mutex_lock(&all.lock);
		for (struct cq_fork_client *c = all.list.older; c != &all.list; c = c->older)
			c->ops->phase(c, phase);
		return;
	}
	mine.is_child |= phase == CQ_FORK_CHILD;
	if (mine.depth > 1) {
		mine.depth--;
		return;
	}
	child = mine.is_child;
	mine.is_child = false;
	for (struct cq_fork_client *c = all.list.newer; c != &all.list; c = c->newer)
		c->ops->phase(c, child ? CQ_FORK_CHILD : CQ_FORK_PARENT);
	/* When all are unlocked: what makes a worker of one may call another. In a child nobody wakes. */
	mine.unlocked = true;
	for (struct cq_fork_client *c = all.list.newer; c != &all.list && !child; c = c->newer)
		c->ops->make_up(c);
	mine.unlocked = false;
	mine.depth = 0;
	pthread_mutex_unlock(&all.lock);
}

static void prepare_all(void) { cq_fork(CQ_FORK_PREPARE); }
static void parent_all(void) { cq_fork(CQ_FORK_PARENT); }
static void child_all(void) { cq_fork(CQ_FORK_CHILD); }

/* By one thread: with a second set, handlers of others that lie between the two would turn the order of locks
   round. Not with a lock or pthread_once, which a fork meanwhile would leave taken in the child: the claim is
   the process's id, which a child finds to be another's. */
static int register_handlers(void)
{
	const struct timespec moment = { 0, 100000 };
	uint32_t me = (uint32_t)getpid(), seen;
	int err;

	for (;;) {
		/* Pairs with the release below: the handlers are registered. */
		seen = cq_u32_load_acquire(&all.registered);
		if (seen == REGISTERED)
			return 0;
		if (seen != me && cq_u32_cas_relaxed(&all.registered, seen, me))
			break;
		nanosleep(&moment, NULL); /* another thread is at it */
	}
	/* Those of parking first: a wake that was left to parent_all needs them to be over there. */
	if ((err = cq_park_register()) == 0)
		err = pthread_atfork(prepare_all, parent_all, child_all);
	/* Pairs with the acquire above. Without it a queue could be made, and a fork begin, before the
	   handlers are seen to be there. */
	cq_u32_store_release(&all.registered, err == 0 ? REGISTERED : 0);
	return err;
}

int cq_fork_register(struct cq_fork_client *c, const struct cq_fork_ops *ops, bool by_atfork)
{
	int err;

	if (mine.depth != 0)
		return EDEADLK;
	if (by_atfork && (err = register_handlers()) != 0)
		return err;
	c->ops = ops;
	c->newer = &all.list;
	pthread_mutex_lock(&all.lock);
	c->older = all.list.older;
	c->older->newer = all.list.older = c;
	pthread_mutex_unlock(&all.lock);
	return 0;
}

void cq_fork_unregister(struct cq_fork_client *c)
{
	pthread_mutex_lock(&all.lock);
	c->newer->older = c->older;
	c->older->newer = c->newer;
	pthread_mutex_unlock(&all.lock);
}
