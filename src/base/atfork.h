/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All that has locks, in one list, so that one fork of the process reaches it in one order: what was made
 * later is prepared earlier. Whoever is built on another is made after it, and so takes its own locks before
 * those of the other.
 *
 * Handlers of others run between prepare and the end on the same thread: they may call the library, which
 * must know that it would wait for itself, and they may fork as well.
 */
#ifndef CQ_ATFORK_H
#define CQ_ATFORK_H

#include <cq/fork.h>
#include <pthread.h>
#include <stdbool.h>

struct cq_fork_client;

struct cq_fork_ops {
	/* PREPARE takes the client's locks, PARENT and CHILD let go of them. */
	void (*phase)(struct cq_fork_client *client, cq_fork_phase_t phase);
	/* In the parent, after all clients are unlocked: what the client could not do meanwhile. */
	void (*make_up)(struct cq_fork_client *client);
};

struct cq_fork_client {
	const struct cq_fork_ops *ops;
	struct cq_fork_client *newer, *older;	/* under the lock of atfork.c */
};

/* Into the list. `by_atfork`: the process gets fork handlers, if it has none yet. EDEADLK: the caller is a
   handler of another's; or what pthread_atfork says. */
int cq_fork_register(struct cq_fork_client *client, const struct cq_fork_ops *ops, bool by_atfork);
void cq_fork_unregister(struct cq_fork_client *client);

/* The calling thread is between prepare and its end: it has the locks of all clients. */
bool cq_forking(void);

/* A client's lock, which a thread that is forking has already. */
static inline void cq_fork_lock(pthread_mutex_t *lock)
{
	if (!cq_forking())
		pthread_mutex_lock(lock);
}

static inline void cq_fork_unlock(pthread_mutex_t *lock)
{
	if (!cq_forking())
		pthread_mutex_unlock(lock);
}

/* The calling thread's own address, which it keeps in a forked child. */
const void *cq_thread_mark(void);

#endif /* CQ_ATFORK_H */
