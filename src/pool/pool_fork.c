/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() in a process with threads. The child has the memory as it was, with other threads
 * stopped between any two of their instructions, and none of those threads.
 *
 *   as it was cut                      what the child makes of it
 *   IN, pushed or about to be, popped  the stacks are emptied, each open task is signalled anew
 *   MORE                               likewise
 *   a run of a lost thread             is no run: what it had in hand goes to the task's `lost`
 *   a run of the forking thread        goes on
 *   CLOSED, its closer lost            stays closed; close it again
 *   RELEASED                           free
 *   a worker being made, idle, woken   is none, nor is there a clock
 *   timed                              is not
 */
#include <errno.h>

#include "pool_inside.h"
#include "pool_priv.h"

/* Those of this thread stay. What the others had in hand is given to their tasks. */
static void settle_members(cq_pool_t *p)
{
	uint64_t counts = 0;
	uint32_t workers = 0;

	p->serving = 0;
	p->destroyer = NULL;
	for (cq_run_t *m = p->members, *next; m != NULL; m = next) {
		next = m->next;
		m->to_join = false; /* nor can this thread be, in musl 1.2.3 and glibc 2.43 */
		if (!cq_run_is_mine(m)) {
			cq_task_lose(m);
			cq_member_leave(m);
			continue;
		}
		counts += m->count;
		workers += m->is_worker;
		p->serving += m->serves;
	}
	p->counts = counts;
	p->workers = workers;
	p->has_ended = false;
}

void cq_task_kept(const cq_task_t *t, const void *arg)
{
	for (const cq_run_t *m = t->pool->members; m != NULL; m = m->next)
		if (m->task == t && t->arg == arg && m->piece != NULL)
			t->ops->lost(t->arg, m->piece);
}

static void fork_phase(struct cq_fork_client *client, cq_fork_phase_t phase)
{
	cq_pool_t *p = cq_node_container(client, offsetof(cq_pool_t, fork_client));

	if (phase == CQ_FORK_PREPARE)
		pthread_mutex_lock(&p->lock);
	cq_sleepers_fork(&p->idle, phase);
	cq_sleepers_fork(&p->closers, phase);
	cq_sleepers_fork(&p->clock, phase);
	if (phase != CQ_FORK_PREPARE)
		pthread_mutex_unlock(&p->lock);
	if (phase != CQ_FORK_CHILD)
		return;
	/* It is forking still: what `lost` signals wakes nobody. */
	cq_tasks_fork_child(p);
	settle_members(p);
	p->telling = 0;
	p->failed = counts_live(p->counts) != 0 ? EAGAIN : 0; /* who was idle isn't there: the next signal makes one */
	p->has_clock = 0;
	p->fork_wakes = p->fork_tells = false;
}

/* For what handlers of others signalled while this thread held the locks. Else a host's spawn, which may take
   a lock that the forking thread has, isn't called here. */
static void fork_make_up(struct cq_fork_client *client)
{
	cq_pool_t *p = cq_node_container(client, offsetof(cq_pool_t, fork_client));
	bool wakes = p->fork_wakes, tells = p->fork_tells;

	p->fork_wakes = p->fork_tells = false;
	if (wakes)
		(void)cq_pool_wake(p);
	if (tells && (cq_pool_is(p, CQ_POOL_POLLED) || cq_pool_unserved(p)))
		cq_tasks_tell(p);
}

const struct cq_fork_ops cq_pool_fork_ops = { fork_phase, fork_make_up };
