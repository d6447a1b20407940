/* SPDX-License-Identifier: BSD-2-Clause */
/* Tasks: when they are signalled, run and closed. */
#include <errno.h>

#include "pool_inside.h"
#include "pool_priv.h"
#include "workq/stack.h"

/* ------------------------------------------------- what the thread is inside of */

static __thread cq_run_t *runs; /* innermost first */

void cq_run_enter(cq_run_t *run)
{
	run->outer = runs;
	runs = run;
}

void cq_run_leave(cq_run_t *run)
{
	cq_run_t **link = &runs;

	/* Not always the innermost: a host's green threads may take turns in tasks. */
	while (*link != run) {
		CQ_CHECK(*link != NULL); /* the task has moved to another thread */
		link = &(*link)->outer;
	}
	*link = run->outer;
}

bool cq_run_is_mine(const cq_run_t *run)
{
	for (const cq_run_t *r = runs; r != NULL; r = r->outer)
		if (r == run)
			return true;
	return false;
}

/* Of the task, or with NULL all, those in hooks too. */
static uint64_t my_runs(const cq_pool_t *p, const cq_task_t *t)
{
	uint64_t n = 0;

	for (const cq_run_t *r = runs; r != NULL; r = r->outer)
		n += r->pool == p && (t == NULL || r->task == t);
	return n;
}

bool cq_pool_is_current(const cq_pool_t *p)
{
	return my_runs(p, NULL) != 0;
}

bool cq_task_is_current(const cq_task_t *t)
{
	return my_runs(t->pool, t) != 0;
}

/* ----------------------------------------------------------------------- the word */

/* What changes it. A run begins by a POP of the record, or by a CALL or a JOIN: it stays where it is. The END of
   one that had no piece is HAD_NONE. */
enum event { SIGNAL, LEFT_MANY, POP, CALL, JOIN, HAD_NONE, END, CLOSE };

struct change {
	uint64_t word;	/* after it */
	bool pushed;	/* SIGNAL, END: IN was set, and the record pushed, but for an owner's */
	bool begun;	/* POP, CALL, JOIN: a run */
};

static inline struct change change(cq_task_t *t, enum event event)
{
	cq_pool_t *p = t->pool;
	uint32_t parallel = event == JOIN ? 0 : t->parallel; /* not then: see there */
	struct change c;
	uint64_t word;

	if (event == SIGNAL || event == LEFT_MANY)
		/* The work, before the look at IN. Pairs with the fence in call: either the run that has just
		   cleared IN sees the work, or IN is seen cleared here. Without it a signal could rely on a
		   run that has looked already. */
		cq_fence_full();
	else
		/* Pairs with the acquire below: a pop has written the node and read the record before IN is
		   cleared. Without it those could come after the next push, or touch the record of another task.
		   Pairs also with the acquire in cq_task_close: all that the run did. */
		cq_fence_release();
	word = cq_u64_load_relaxed(&t->word);
	do {
		bool closed = (word & TASK_CLOSED) != 0;
		bool at_limit = parallel != 0 && word / TASK_RUN >= parallel;

		c = (struct change){ .word = word };
		switch (event) {
		case LEFT_MANY:
			if (!closed && parallel == 0)
				c.word |= TASK_MANY;
			/* fall through */
		case SIGNAL:
			if (closed || (word & TASK_IN) != 0)
				break;
			c.word |= at_limit ? TASK_MORE : TASK_IN;
			c.pushed = !at_limit;
			break;
		case POP:
			c.word &= ~(uint64_t)(TASK_IN | TASK_MANY);
			if (!closed && at_limit)
				c.word |= TASK_MORE;
			/* fall through */
		case CALL:
			if (parallel == CQ_BY_OWNER)
				c.word &= ~(uint64_t)TASK_IN;
			c.begun = !closed && !at_limit;
			if (c.begun)
				c.word += TASK_RUN;
			break;
		case JOIN:
			/* By the word alone: the record may be another task's by now, or of one that is being made. */
			c.begun = (word & (TASK_IN | TASK_MANY | TASK_CLOSED)) == (TASK_IN | TASK_MANY);
			if (c.begun)
				c.word += TASK_RUN;
			break;
		case HAD_NONE:
			c.word &= ~(uint64_t)TASK_MANY;
			/* fall through */
		case END:
			c.word -= TASK_RUN;
			c.pushed = !closed && (word & TASK_MORE) != 0;
			if (c.pushed)
				c.word = (c.word & ~(uint64_t)TASK_MORE) | TASK_IN;
			break;
		case CLOSE:
			c.word |= TASK_CLOSED;
			break;
		}
		CQ_POINT(event == POP ? "tasks.begin" : "tasks.change");
	} while (c.word != word && !cq_u64_cas_relaxed(&t->word, &word, c.word));
	if (c.pushed) {
		/* Pairs with the release above: the node, as its last pop left it; or what an owner did before its
		   last run. Without it that could take back the event by which it is told of this. */
		cq_fence_acquire();
		CQ_POINT("tasks.push");
		if (parallel != CQ_BY_OWNER)
			cq_workq_push(&p->waiting[cq_u64_load_relaxed(&p->page) & 1], &t->node);
	}
	return c;
}

/* Whoever sees that wakes somebody, even if another has set IN: that one may be stopped before it does. */
static bool is_waiting(uint64_t word) { return (word & (TASK_IN | TASK_CLOSED)) == TASK_IN; }

/* A record that waits, or NULL. It is still IN. Each stack has its own count of units: with one for both, a
   unit of one could be taken for a node of the other. */
cq_task_t *cq_task_pop(cq_pool_t *p)
{
	uint64_t page = cq_u64_load_relaxed(&p->page);
	unsigned older = (page & 1) ^ 1;

	/* They change places when there are several to take turns. One alone needs none. */
	if (cq_workq_units(&p->waiting[older]) == 0 && cq_workq_units(&p->waiting[older ^ 1]) > 1 &&
	    cq_u64_cas_relaxed(&p->page, &page, page + 1))
		older ^= 1;
	for (int i = 0; i < 2; i++, older ^= 1)
		if (cq_workq_try_take_work(&p->waiting[older]))
			return cq_task_of(cq_workq_pop_taken(&p->waiting[older]));
	return NULL;
}

/* --------------------------------------------------------------------- signalling */

int cq_task_signal(cq_task_t *t)
{
	struct change c = change(t, SIGNAL);
	cq_pool_t *p = t->pool;

	if (t->parallel == CQ_BY_OWNER && c.pushed)
		cq_task_tell(t);
	if (t->parallel == CQ_BY_OWNER || !is_waiting(c.word))
		return 0;
	if (cq_forking()) {
		p->fork_tells = true;
		p->fork_wakes |= !cq_pool_is(p, CQ_POOL_POLLED);
		return 0;
	}
	if (cq_pool_is(p, CQ_POOL_POLLED | CQ_POOL_HOSTED)) {
		/* Nobody may be woken here. Pairs with the fence in cq_sleepers_prepare_wait of whoever waits
		   for the task, and then wakes the pool: either that finds the record, or the caller sees
		   that it waits. And with that in lower (workers.c). Without it a drain could find work whose
		   record isn't there yet, and sleep. Who pushed it does that for all who find IN. */
		if (c.pushed)
			cq_fence_full();
		if (cq_pool_is(p, CQ_POOL_POLLED) || cq_pool_unserved(p))
			cq_task_tell(t);
	}
	if (cq_pool_is(p, CQ_POOL_POLLED))
		return 0;
	cq_sleepers_ensure(&p->idle, 1);
	return cq_workers_make(p, true);
}

void cq_task_note(cq_task_t *t)
{
	if (change(t, SIGNAL).pushed && t->parallel == CQ_BY_OWNER)
		cq_task_tell(t);
}

/* For so many pieces, or more, so many workers are woken, each of which wakes as many. For fewer a line is as fast,
   and leaves the waker more time for its own piece. At 2 the last ones wake others for nothing, and 16 blocks of
   sleeping callbacks take 1.15 times as long; a line, without limit, takes half as long again. */
#define MANY_PIECES 4

void cq_run_more(cq_run_t *run, uint64_t pieces)
{
	bool polled = cq_pool_is(run->pool, CQ_POOL_POLLED), many = pieces >= MANY_PIECES && !polled;
	cq_pool_t *p = run->pool;
	uint32_t coming, processors = cq_u32_load_relaxed(&p->processors), n = many ? MANY_PIECES : 1;

	if (pieces == 0 || run->task->parallel == CQ_BY_OWNER ||
	    !is_waiting(change(run->task, many ? LEFT_MANY : SIGNAL).word) || polled)
		return;
	/* The first piece of a run wakes two more whoever is on the way, and some for those who wait for the sleepers'
	   lock meanwhile: a tree. Later ones don't, as pieces may be short; nor beside a task that waits, where each piece
	   is the first of a run; nor more than can run at once: 16 workers on 2 processors take 1.2 times as long. */
	if (many && processors > MANY_PIECES && run->pieces == run->pieces_before && cq_pool_waiting(p) <= 1) {
		(void)cq_sleepers_waiters(&p->idle, &coming);
		n = coming + coming / 3 + 2;
		n = n < MANY_PIECES ? MANY_PIECES : n < processors ? n : processors;
	}
	cq_sleepers_ensure(&p->idle, pieces < n ? (uint32_t)pieces : n);
}

/* ------------------------------------------------------------------------ running */

/* False: the task is closed, and its record may be another's by now; or at its limit. */
static inline bool begin(cq_task_t *t, enum event event)
{
	struct change c = change(t, event);

	/* Its close has left the record to the pop. */
	if (event == POP && (c.word & TASK_RELEASED) != 0)
		cq_stack_push(&t->pool->free, &t->node);
	return c.begun;
}

/* The function has returned, or ended its thread. */
static void end(cq_run_t *run)
{
	cq_task_t *t = run->task;
	cq_pool_t *p = t->pool;
	struct change c;

	cq_u64_store_relaxed(&run->runs, run->runs + 1);
	if (run->pieces == run->pieces_before)
		/* Pairs with the acquire in cq_pool_stats_sized: an empty run is one of the runs. */
		cq_u64_store_release(&run->empty_runs, run->empty_runs + 1);
	cq_run_piece(run, NULL);
	/* In a polled pool cq_run_more wakes nobody, and the caller of a run_some may not look again. Before the end of the
	   run, as the task may be closed behind it. The record, then the look at who waits for the task, which pairs
	   with the fence in cq_sleepers_prepare_wait: without it that could sleep beside a record that nobody takes. */
	if (run->budget != 0 && cq_pool_is(p, CQ_POOL_POLLED) && is_waiting(cq_u64_load_relaxed(&t->word))) {
		cq_fence_full();
		cq_task_tell(t);
	}
	cq_ptr_store_relaxed(&run->task, NULL);
	cq_run_leave(run);
	c = change(t, run->pieces == run->pieces_before ? HAD_NONE : END);
	CQ_POINT("tasks.ended");
	/* A worker looks for tasks before it sleeps. The caller of a run_some may not. */
	if (c.pushed && run->budget != 0)
		cq_workers_left_waiting(p);
	if ((c.word & TASK_CLOSED) != 0 && c.word / TASK_RUN == 0)
		cq_sleepers_wake(&p->closers, UINT32_MAX);
}

/* A run that has begun. The function may end the thread: see cq_task_abort. */
static void call(cq_run_t *run, cq_task_t *t)
{
	/* Pairs with the fence in change: the step that cleared IN, before the look at the work. */
	cq_fence_full();
	cq_run_enter(run);
	cq_ptr_store_relaxed(&run->task, t); /* the statistics read it */
	run->pieces_before = run->pieces;
	t->ops->run(run, t->arg);
	end(run);
}

/* Runs a task whose record was popped. First both chains, so that a piece that hangs holds back nothing: the
   pool's here, for the other records; the task's in cq_run_more. */
void cq_task_run(cq_run_t *run, cq_task_t *t)
{
	cq_pool_t *p = run->pool;
	bool polled = cq_pool_is(p, CQ_POOL_POLLED);

	if (!polled && cq_pool_waiting(p) != 0)
		cq_sleepers_ensure(&p->idle, 1);
	if (!begin(t, POP))
		return;
	if (!polled)
		(void)cq_workers_make(p, false);
	call(run, t);
}

/* Where only the record of one task waits, which has many pieces, it is left there for all who come: handed from one
   to the next, it would be in somebody's hand whenever another looks, who then sleeps. For a worker, which pops it
   before it sleeps. False: there is no such. */
bool cq_task_join(cq_run_t *run)
{
	cq_pool_t *p = run->pool;
	cq_node_t *node = NULL;
	cq_task_t *t;

	for (int i = 0; i < 2 && node == NULL; i++)
		if (cq_workq_units(&p->waiting[i]) == 1 && cq_workq_units(&p->waiting[i ^ 1]) == 0)
			node = cq_ptr_load_relaxed(&p->waiting[i].stack.head);
	/* Pairs with the release in cq_stack_push: the record, as it was made. Without it the word could be one of before
	   it was a record. */
	cq_fence_acquire();
	if (node == NULL || !begin(t = cq_task_of(node), JOIN))
		return false;
	/* Not the chain of the pool, as in cq_task_run: whoever pushes another wakes somebody else for it. */
	(void)cq_workers_make(p, false);
	call(run, t);
	return true;
}

/* What a lost worker had in hand is the task's again. */
void cq_task_lose(cq_run_t *run)
{
	const cq_task_t *t = run->task;
	void *piece = run->piece;

	run->piece = NULL;
	if (t != NULL && piece != NULL && t->ops->lost != NULL)
		t->ops->lost(t->arg, piece);
}

/* The function has ended its thread, which is in its last handlers. */
void cq_task_abort(cq_run_t *run)
{
	cq_task_lose(run);
	end(run);
}

void cq_run_piece(cq_run_t *run, void *piece)
{
	run->pieces += piece != NULL;
	cq_ptr_store_relaxed(&run->piece, piece);
	cq_u64_store_relaxed(&run->taken, piece != NULL ? ~UNKNOWN : 0);
}

void cq_run_piece_since(cq_run_t *run, void *piece, uint64_t since, uint64_t parts)
{
	cq_run_piece(run, piece);
	cq_u64_store_relaxed(&run->parts, parts);
	cq_u64_store_relaxed(&run->taken, ~since);
}

bool cq_run_may_continue(cq_run_t *run)
{
	uint64_t word = cq_u64_load_relaxed(&run->task->word);

	if ((word & TASK_CLOSED) != 0 || (run->budget != 0 && run->pieces >= run->budget))
		return false;
	/* To the caller of cq_task_run_some it makes no difference which others wait. */
	if (run->budget != 0 && !run->serves)
		return true;
	return cq_pool_waiting(run->pool) <= (word & TASK_IN) && !cq_workers_surplus(run);
}

/* Of the task, or with NULL of whichever wait; until the budget is spent, none waits, or it finds nothing. */
static void run_in_caller(cq_run_t *run, cq_task_t *only)
{
	cq_task_t *t;
	size_t before;

	do {
		before = run->pieces;
		if ((t = only != NULL ? only : cq_task_pop(run->pool)) == NULL)
			return;
		if (only != NULL ? begin(t, CALL) : begin(t, POP))
			call(run, t);
	} while (run->pieces < run->budget && (only == NULL || run->pieces != before));
}

/* A piece has ended the thread, which is on its way to the handler of its worker: worker_life.c. */
static void run_some_is_ended(void *run)
{
	cq_task_abort(run);
	cq_workers_host_leaves(run);
}

/* Of the task alone, or with NULL of those that wait. */
size_t cq_tasks_run_some(cq_pool_t *p, cq_task_t *only, size_t pieces)
{
	cq_run_t run = {
		.pool = p, .serves = only == NULL, .managed = runs != NULL && runs->managed, .budget = pieces
	};
	int saved = errno;

	if (pieces == 0 || cq_forking())
		return 0;
	(void)cq_member_join(&run);
	if (run.serves)
		cq_workers_host_comes(&run);
	if (run.managed) {
		pthread_cleanup_push(run_some_is_ended, &run);
		run_in_caller(&run, only);
		pthread_cleanup_pop(0);
	} else {
		run_in_caller(&run, only);
	}
	cq_workers_host_leaves(&run);
	errno = saved;
	return run.pieces;
}

size_t cq_task_run_some(cq_task_t *t, size_t pieces)
{
	return cq_tasks_run_some(t->pool, t, pieces);
}

/* ------------------------------------------------------------------ making, closing */

int cq_task_create(cq_pool_t *p, const cq_task_ops_t *ops, void *arg, uint32_t parallel, cq_task_t **out)
{
	return cq_task_create_idle(p, ops, NULL, arg, parallel, out);
}

int cq_task_create_idle(cq_pool_t *p, const cq_task_ops_t *ops, void (*idle)(void *arg), void *arg,
    uint32_t parallel, cq_task_t **out)
{
	cq_node_t *node;
	cq_task_t *t;

	if (p == NULL || ops == NULL || ops->run == NULL || out == NULL)
		return EINVAL;
	if (cq_forking())
		return EDEADLK;
	if ((node = cq_stack_pop_n(&p->free, 1)) != NULL)
		t = cq_task_of(node);
	else if ((t = cq_allocate(&p->allocator, sizeof(*t))) != NULL)
		*t = (cq_task_t){ .pool = p, .word = TASK_CLOSED | TASK_RELEASED };
	else
		return ENOMEM;
	pthread_mutex_lock(&p->lock);
	if (node == NULL) {
		t->all_next = p->all;
		p->all = t;
	}
	t->ops = ops;
	t->arg = arg;
	t->idle = idle;
	t->parallel = parallel;
	if (cq_pool_stopped(p)) { /* see cq_pool_end */
		cq_stack_push(&p->free, &t->node);
		pthread_mutex_unlock(&p->lock);
		return ESHUTDOWN;
	}
	p->open++;
	/* Pairs with the acquire in cq_task_is_open: ops, arg and idle. */
	cq_u64_store_release(&t->word, 0);
	pthread_mutex_unlock(&p->lock);
	*out = t;
	return 0;
}

int cq_await(cq_sleepers_t *set, int (*look)(const void *), const void *arg, uint64_t deadline)
{
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;
	int err;

	cq_sleeper_init(&me, NULL);
	cq_sleepers_prepare_wait(set, &me);
	while ((err = look(arg)) == EBUSY && result != CQ_TIMED_OUT) {
		result = cq_sleepers_commit_wait(set, &me, deadline);
		cq_sleepers_prepare_wait(set, &me);
	}
	cq_sleepers_cancel_wait(set, &me);
	return err == EBUSY ? ETIMEDOUT : err;
}

static int nobody_is_inside(const void *task)
{
	const cq_task_t *t = task;

	/* The fence at the end of cq_task_close is that of both loads. */
	return cq_u64_load_relaxed(&t->word) / TASK_RUN == 0 && cq_u32_load_relaxed(&t->pool->telling) == 0 ? 0 : EBUSY;
}

int cq_task_close(cq_task_t *t, uint64_t deadline)
{
	cq_pool_t *p = t->pool;
	bool by_owner = t->parallel == CQ_BY_OWNER;
	uint64_t word;

	if (cq_pool_is_current(p) || cq_forking())
		return EDEADLK;
	(void)change(t, CLOSE);
	if (cq_await(&p->closers, nobody_is_inside, t, deadline) != 0)
		return ETIMEDOUT;
	CQ_POINT("tasks.closed");
	/* Both under the lock, for a fork. Who pops the record now frees it, and another task may have it. */
	pthread_mutex_lock(&p->lock);
	p->open--;
	word = cq_u64_add_relaxed(&t->word, TASK_RELEASED);
	pthread_mutex_unlock(&p->lock);
	/* Pairs with the release in change, of all that the runs did, and of who popped it; and with that in
	   cq_workers_told (workers.c). Without it that pop could still write into the record of a new task. */
	cq_fence_acquire();
	if ((word & TASK_IN) == 0 || by_owner)
		cq_stack_push(&p->free, &t->node);
	return 0;
}

/* --------------------------------------------------------------------------- fork */

void cq_tasks_fork_child(cq_pool_t *p)
{
	p->waiting[0] = p->waiting[1] = (cq_workq_t)CQ_WORKQ_INITIALIZER;
	p->free = (cq_stack_t){ NULL, NULL };
	for (cq_task_t *t = p->all; t != NULL; t = t->all_next) {
		t->at = 0;
		t->word = (t->word & (TASK_CLOSED | TASK_RELEASED)) + my_runs(p, t) * TASK_RUN;
		if ((t->word & TASK_RELEASED) != 0)
			cq_stack_push(&p->free, &t->node);
		else if (t->parallel != CQ_BY_OWNER) /* whom nobody has told */
			(void)change(t, SIGNAL);
	}
}
