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
 *   a worker being made, idle, woken   is none
 */
#include "pool_priv.h"

static void prepare(cq_pool_t *p)
{
	pthread_mutex_lock(&p->lock);
	cq_sleepers_fork(&p->idle, CQ_FORK_PREPARE);
	cq_sleepers_fork(&p->closers, CQ_FORK_PREPARE);
	pthread_mutex_lock(&p->threads.lock);
	cq_fork_begun(&p->fork);
}

static void unlock(cq_pool_t *p, cq_fork_phase_t phase)
{
	pthread_mutex_unlock(&p->threads.lock);
	cq_sleepers_fork(&p->closers, phase);
	cq_sleepers_fork(&p->idle, phase);
	pthread_mutex_unlock(&p->lock);
}

/* The calling thread is inside of it, in a task or in a hook. */
static bool is_mine(const cq_run_t *m)
{
	for (const cq_run_t *r = cq_runs(); r != NULL; r = r->outer)
		if (r == m)
			return true;
	return false;
}

static uint64_t my_runs(const cq_task_t *t)
{
	uint64_t n = 0;

	for (const cq_run_t *r = cq_runs(); r != NULL; r = r->outer)
		n += r->task == t;
	return n;
}

static void settle_tasks(cq_pool_t *p)
{
	p->waiting[0] = p->waiting[1] = (cq_workq_t)CQ_WORKQ_INITIALIZER;
	p->free = NULL;
	p->open = 0;
	for (cq_task_t *t = p->all; t != NULL; t = t->all_next) {
		uint64_t word = (t->word & (TASK_CLOSED | TASK_RELEASED)) + my_runs(t) * TASK_RUN;

		if ((word & TASK_RELEASED) != 0) {
			t->free_next = p->free;
			p->free = t;
		} else if ((word & TASK_CLOSED) == 0 && t->parallel != CQ_BY_OWNER) {
			word |= TASK_IN;
		}
		p->open += (word & TASK_RELEASED) == 0;
		t->word = word;
		if ((word & TASK_IN) != 0)
			cq_task_push(t);
	}
}

/* Those of this thread stay. What the others had in hand is given to their tasks. */
static void settle_members(cq_pool_t *p)
{
	cq_run_t *kept = NULL, *next;
	bool managed = false;

	p->counts = 0;
	p->workers = p->serving = 0;
	for (cq_run_t *m = p->members; m != NULL; m = next) {
		next = m->next;
		if (!is_mine(m)) {
			p->runs += m->runs;
			p->empty_runs += m->empty_runs;
			cq_task_lose(m);
			if (m->is_worker)
				cq_release(&p->allocator, m, sizeof(*m));
			continue;
		}
		m->prev = NULL;
		m->next = kept;
		if (kept != NULL)
			kept->prev = m;
		kept = m;
		p->counts += m->count;
		p->workers += m->is_worker;
		p->serving += m->serves;
		managed |= m->is_worker && !m->serves && p->config.spawn == NULL;
	}
	p->members = kept;
	cq_threads_fork_child(&p->threads, managed);
}

static void in_child(cq_pool_t *p)
{
	settle_tasks(p);
	settle_members(p);
	p->failed = 0;
	p->telling = 0;
	p->destroyer = NULL;
	p->fork_wakes = false;
	p->fork = (struct cq_fork){ 0 };
	unlock(p, CQ_FORK_CHILD);
}

static cq_pool_t *pool_of(struct cq_fork_client *client)
{
	return (cq_pool_t *)(void *)((char *)client - offsetof(cq_pool_t, fork_client));
}

static void fork_phase(struct cq_fork_client *client, cq_fork_phase_t phase)
{
	cq_pool_t *p = pool_of(client);

	if (phase == CQ_FORK_PREPARE) {
		prepare(p);
	} else if (phase == CQ_FORK_CHILD) {
		in_child(p);
	} else {
		cq_fork_ended(&p->fork);
		unlock(p, phase);
	}
}

/* What handlers of others signalled while this thread held the locks. In a child nobody wakes. */
static void fork_make_up(struct cq_fork_client *client)
{
	cq_pool_t *p = pool_of(client);
	bool wakes = p->fork_wakes;

	p->fork_wakes = false;
	if (wakes && !cq_pool_is(p, CQ_POOL_POLLED)) {
		cq_workers_ensure(p, UINT32_MAX);
		(void)cq_workers_make(p, true);
	}
}

const struct cq_fork_ops cq_pool_fork_ops = { fork_phase, fork_make_up };
