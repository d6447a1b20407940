/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks: when they are signalled, run and closed. The word of a task says all of it:
 *
 *   signal   IN: nothing more. At the limit of runs: MORE. Else IN, and the record is pushed.
 *   run      {IN -> 0, runs + 1}, full fence, the function, {runs - 1, MORE -> IN}.
 *   close    CLOSED; waits until no run is left; RELEASED.
 *
 * Records wait in two stacks that change places when the older is empty: so tasks come in turns,
 * without a clock. Each stack has its own count of units: with one for both, a unit of one
 * could be taken for a node of the other.
 */
#include <errno.h>

#include "pool_priv.h"

/* ------------------------------------------------- what the thread is inside of */

static __thread cq_run_t *runs;

cq_run_t *cq_runs(void)
{
	return runs;
}

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

bool cq_pool_is_current(const cq_pool_t *p)
{
	for (const cq_run_t *r = runs; r != NULL; r = r->outer)
		if (r->pool == p)
			return true;
	return false;
}

bool cq_task_is_current(const cq_task_t *t)
{
	for (const cq_run_t *r = runs; r != NULL; r = r->outer)
		if (r->task == t)
			return true;
	return false;
}

/* ---------------------------------------------------------------- the two stacks */

void cq_task_push(cq_task_t *t)
{
	cq_pool_t *p = t->pool;

	/* Pairs with the release in begin_popped: the node, as its last pop left it. Without it that
	   pop could still write into it. */
	cq_fence_acquire();
	CQ_POINT("tasks.push");
	cq_workq_push(&p->waiting[cq_u64_load_relaxed(&p->page) & 1], &t->node);
}

/* A record that waits, or NULL. It is still IN. */
cq_task_t *cq_task_pop(cq_pool_t *p)
{
	uint64_t page = cq_u64_load_relaxed(&p->page);
	unsigned older = (page & 1) ^ 1;

	/* They change places when there are several to take turns. One alone needs none. */
	if (cq_workq_units(&p->waiting[older]) == 0 && cq_workq_units(&p->waiting[older ^ 1]) > 1 &&
	    cq_u64_cas_relaxed(&p->page, &page, page + 1))
		older ^= 1;
	for (int i = 0; i < 2; i++, older ^= 1)
		if (cq_workq_units(&p->waiting[older]) != 0 &&
		    cq_workq_try_take_work(&p->waiting[older]))
			return cq_task_of(cq_workq_pop_taken(&p->waiting[older]));
	return NULL;
}

/* --------------------------------------------------------------------- signalling */

static bool by_owner(const cq_task_t *t)
{
	return t->parallel == CQ_BY_OWNER;
}

static bool at_limit(const cq_task_t *t, uint64_t word)
{
	return !by_owner(t) && t->parallel != 0 && word / TASK_RUN >= t->parallel;
}

/* True: somebody is to come for the task; or its owner's, which waited for nothing, does now. */
static bool mark_signalled(cq_task_t *t)
{
	uint64_t word, next;

	/* The work, before the look at IN. Pairs with the fence in begin: either the run that has just
	   cleared IN sees the work, or IN is seen cleared here. Without it a signal could
	   rely on a run that has looked already. */
	cq_fence_full();
	word = cq_u64_load_relaxed(&t->word);
	do {
		if ((word & TASK_CLOSED) != 0)
			return false;
		if ((word & TASK_IN) != 0)
			return !by_owner(t); /* who pushes it may be stopped before it wakes anybody */
		if (at_limit(t, word) && (word & TASK_MORE) != 0)
			return false;
		next = word | (at_limit(t, word) ? TASK_MORE : TASK_IN);
		CQ_POINT("tasks.signal");
	} while (!cq_u64_cas_relaxed(&t->word, &word, next));
	if ((next & TASK_IN) == 0)
		return false;
	if (!by_owner(t))
		cq_task_push(t);
	return true;
}

static void tell(const cq_task_t *t)
{
	int saved = errno;

	if (t->ops->stalled != NULL)
		t->ops->stalled(t->arg);
	errno = saved;
}

int cq_task_signal(cq_task_t *t)
{
	cq_pool_t *p = t->pool;

	if (!mark_signalled(t))
		return 0;
	if (by_owner(t)) {
		/* Pairs with the release in begin_here: what the owner did before its last run, such as to take back
		   the event by which it was told. Without it that could take back the one that it is told by here. */
		cq_fence_acquire();
		tell(t);
		return 0;
	}
	/* Nobody may be woken here. Pairs with the fence in cq_sleepers_prepare_wait of whoever waits for the task,
	   and then wakes the pool: either that finds the record, or the caller sees that it waits. And with the
	   one in tell_if_unserved (workers.c). Without it a drain could find work whose record isn't there yet, and sleep. */
	if (cq_pool_is(p, CQ_POOL_POLLED) || cq_pool_is(p, CQ_POOL_HOSTED))
		cq_fence_full();
	if (cq_workers_unserved(p))
		tell(t);
	if (cq_pool_is(p, CQ_POOL_POLLED))
		return 0;
	if (cq_pool_forking(p)) {
		p->fork_wakes = true;
		return 0;
	}
	cq_workers_ensure(p, 1);
	return cq_workers_make(p, true);
}

/* From so many on, two are woken, each of which wakes two: they come as a tree, not in a line. For fewer a line is
   as fast, and leaves whoever wakes its time for its piece. At 1 the last waker wakes one for nothing; without limit
   16 blocks of sleeping callbacks take half as long again where there are processors for all. */
#define MANY_PIECES 4

void cq_run_more(cq_run_t *run, uint64_t pieces)
{
	cq_pool_t *p = run->pool;

	if (pieces != 0 && !by_owner(run->task) && mark_signalled(run->task) && !cq_pool_is(p, CQ_POOL_POLLED))
		cq_workers_ensure(p, pieces < MANY_PIECES ? 1 : 2);
}

/* ------------------------------------------------------------------------ running */

/* A free record stays CLOSED until it is taken for a new task. */
void cq_task_free(cq_task_t *t)
{
	cq_pool_t *p = t->pool;

	pthread_mutex_lock(&p->lock);
	t->free_next = p->free;
	p->free = t;
	pthread_mutex_unlock(&p->lock);
}

/*
 * {IN -> 0, runs + 1} of a record that was popped. False: it is closed, and may be gone; or runs in
 * callers have come to the limit meanwhile, and the one that ends pushes it.
 */
static bool begin_popped(cq_task_t *t)
{
	uint64_t word = cq_u64_load_relaxed(&t->word), next;
	bool begins;

	do {
		begins = (word & TASK_CLOSED) == 0 && !at_limit(t, word);
		next = word & ~(uint64_t)TASK_IN;
		if (begins)
			next += TASK_RUN;
		else if ((word & TASK_CLOSED) == 0)
			next |= TASK_MORE;
		/* Pairs with the acquire in cq_task_push: whoever finds IN cleared has the record,
		   and pushes it. Without it the pop's last write could follow that push. */
		cq_fence_release();
		CQ_POINT("tasks.begin");
	} while (!cq_u64_cas_relaxed(&t->word, &word, next));
	if ((word & TASK_RELEASED) != 0)
		cq_task_free(t);
	return begins;
}

/* runs + 1 for an owner or a run_some: the record, if it is in a stack, stays there. */
static bool begin_here(cq_task_t *t)
{
	uint64_t word = cq_u64_load_relaxed(&t->word), next;

	do {
		if ((word & TASK_CLOSED) != 0 || at_limit(t, word))
			return false;
		next = (by_owner(t) ? word & ~(uint64_t)TASK_IN : word) + TASK_RUN;
		/* Pairs with the acquire in cq_task_signal: what the owner did before. */
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&t->word, &word, next));
	return true;
}

/* {runs - 1, MORE -> IN}. */
static void end(cq_run_t *run, cq_task_t *t)
{
	cq_pool_t *p = t->pool;
	uint64_t word = cq_u64_load_relaxed(&t->word), next;

	do {
		next = word - TASK_RUN;
		if ((word & (TASK_MORE | TASK_CLOSED)) == TASK_MORE)
			next = (next & ~(uint64_t)TASK_MORE) | TASK_IN;
		/* Pairs with the acquire in cq_task_close: all that the run did. */
		cq_fence_release();
	} while (!cq_u64_cas_relaxed(&t->word, &word, next));
	CQ_POINT("tasks.ended");
	if ((next & TASK_IN) != 0 && (word & TASK_IN) == 0) {
		cq_task_push(t);
		/* A worker looks for tasks before it sleeps. The caller of a run_some may not. */
		if (run->budget != 0)
			cq_workers_left_waiting(p);
	}
	if ((next & TASK_CLOSED) != 0 && next / TASK_RUN == 0)
		cq_sleepers_wake(&p->closers, UINT32_MAX);
}

static void count_run(cq_run_t *run)
{
	cq_u64_store_relaxed(&run->runs, run->runs + 1);
	if (run->pieces == run->pieces_before)
		/* Pairs with the acquire in sum (pool_stats.c): an empty run is one of the runs. */
		cq_u64_store_release(&run->empty_runs, run->empty_runs + 1);
}

/* A run that has begun. The function may end the thread: see cq_task_abort. */
static void call(cq_run_t *run, cq_task_t *t)
{
	/* Pairs with the fence in mark_signalled: the step that cleared IN, before the look at the work. */
	cq_fence_full();
	cq_run_enter(run);
	cq_ptr_store_relaxed(&run->task, t); /* the statistics read it */
	run->pieces_before = run->pieces;
	t->ops->run(run, t->arg);
	count_run(run);
	cq_ptr_store_relaxed(&run->piece, NULL);
	cq_ptr_store_relaxed(&run->task, NULL);
	cq_run_leave(run);
	end(run, t);
}

/*
 * Runs a task whose record was popped. First both chains, so that a piece that hangs holds back
 * nothing: the pool's here, for the other records; the task's in cq_run_more.
 */
void cq_task_run(cq_run_t *run, cq_task_t *t)
{
	cq_pool_t *p = run->pool;
	bool polled = cq_pool_is(p, CQ_POOL_POLLED);

	if (!polled && cq_pool_waiting(p) != 0)
		cq_workers_ensure(p, 1);
	if (!begin_popped(t))
		return;
	if (!polled)
		(void)cq_workers_make(p, false);
	call(run, t);
}

/* The worker is lost: what it had in hand is the task's again. */
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
	cq_task_t *t = run->task;

	cq_run_leave(run);
	cq_task_lose(run);
	count_run(run);
	cq_ptr_store_relaxed(&run->task, NULL);
	if (t != NULL)
		end(run, t);
}

void cq_run_piece(cq_run_t *run, void *piece)
{
	run->pieces += piece != NULL;
	cq_ptr_store_relaxed(&run->piece, piece);
}

/* The caller of cq_task_run_some, to whom it makes no difference which others wait. */
static bool is_of_one_task(const cq_run_t *run)
{
	return run->budget != 0 && !run->serves;
}

bool cq_run_may_continue(cq_run_t *run)
{
	cq_pool_t *p = run->pool;
	uint64_t word = cq_u64_load_relaxed(&run->task->word);
	uint64_t own = by_owner(run->task) ? 0 : word & TASK_IN;

	if ((word & TASK_CLOSED) != 0 || (run->budget != 0 && run->pieces >= run->budget))
		return false;
	if (is_of_one_task(run))
		return true;
	return cq_pool_waiting(p) <= own && !cq_workers_surplus(run);
}

/* One run of the task, or, with NULL, of whichever waits. False: there is none. */
static bool run_once(cq_run_t *run, cq_task_t *t)
{
	if (t != NULL) {
		if (!begin_here(t))
			return false;
	} else {
		do
			if ((t = cq_task_pop(run->pool)) == NULL)
				return false;
		while (!begin_popped(t));
	}
	call(run, t);
	return true;
}

/* Until the budget is spent, or the task's function finds nothing. */
static void run_in_caller(cq_run_t *run, cq_task_t *t)
{
	size_t before;

	do
		before = run->pieces;
	while (run_once(run, t) && run->pieces < run->budget && (t == NULL || run->pieces != before));
}

static void begin_run_some(cq_run_t *run)
{
	cq_member_join(run);
	if (run->serves)
		cq_u32_add_relaxed(&run->pool->serving, 1);
}

static void end_run_some(cq_run_t *run)
{
	if (run->serves)
		cq_workers_nobody_serves(run->pool);
	cq_member_leave(run);
}

/* Is the thread a managed worker, within a run? Then what it runs may end it. */
static bool may_be_ended(void)
{
	for (const cq_run_t *r = runs; r != NULL; r = r->outer)
		if (r->managed)
			return true;
	return false;
}

/* A piece has ended the thread, which is on its way to the handler of its worker: worker_life.c. */
static void run_some_is_ended(void *run)
{
	cq_task_abort(run);
	end_run_some(run);
}

static void run_where_it_may_end(cq_run_t *run, cq_task_t *t)
{
	pthread_cleanup_push(run_some_is_ended, run);
	run_in_caller(run, t);
	pthread_cleanup_pop(0);
}

static size_t run_some(cq_pool_t *p, cq_task_t *t, size_t pieces)
{
	cq_run_t run = { .pool = p, .serves = t == NULL, .budget = pieces };
	int saved = errno;

	if (pieces == 0 || cq_pool_forking(p))
		return 0;
	begin_run_some(&run);
	if (may_be_ended())
		run_where_it_may_end(&run, t);
	else
		run_in_caller(&run, t);
	end_run_some(&run);
	errno = saved;
	return run.pieces;
}

size_t cq_task_run_some(cq_task_t *t, size_t pieces)
{
	return run_some(t->pool, t, pieces);
}

size_t cq_pool_run_some(cq_pool_t *p, size_t pieces)
{
	return run_some(p, NULL, pieces);
}

/* ------------------------------------------------------------------ making, closing */

static cq_task_t *record(cq_pool_t *p)
{
	cq_task_t *t;

	pthread_mutex_lock(&p->lock);
	if ((t = p->free) != NULL)
		p->free = t->free_next;
	pthread_mutex_unlock(&p->lock);
	if (t == NULL && (t = cq_allocate(&p->allocator, sizeof(*t))) != NULL)
		*t = (cq_task_t){ .pool = p, .word = TASK_CLOSED | TASK_RELEASED };
	return t;
}

int cq_task_create(cq_pool_t *p, const cq_task_ops_t *ops, void *arg, uint32_t parallel,
    cq_task_t **out)
{
	cq_task_t *t;

	if (p == NULL || ops == NULL || ops->run == NULL || out == NULL)
		return EINVAL;
	if (cq_pool_forking(p))
		return EDEADLK;
	if ((t = record(p)) == NULL)
		return ENOMEM;
	pthread_mutex_lock(&p->lock);
	if (t->ops == NULL) { /* a new one */
		t->all_next = p->all;
		p->all = t;
	}
	t->ops = ops;
	t->arg = arg;
	t->parallel = parallel;
	p->open++;
	/* Pairs with the acquire in tell_stalled (workers.c): ops and arg. */
	cq_u64_store_release(&t->word, 0);
	pthread_mutex_unlock(&p->lock);
	*out = t;
	return 0;
}

static bool nobody_left_inside(const cq_task_t *t)
{
	/* The fence at the end of cq_task_close is that of both loads. */
	return cq_u64_load_relaxed(&t->word) / TASK_RUN == 0 && cq_u32_load_relaxed(&t->pool->telling) == 0;
}

static int wait_for_runs(cq_task_t *t, uint64_t deadline)
{
	cq_pool_t *p = t->pool;
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;
	bool done;

	cq_sleeper_init(&me, NULL);
	for (;;) {
		cq_sleepers_prepare_wait(&p->closers, &me);
		done = nobody_left_inside(t);
		if (done || result == CQ_TIMED_OUT)
			break;
		result = cq_sleepers_commit_wait(&p->closers, &me, deadline);
	}
	cq_sleepers_cancel_wait(&p->closers, &me);
	return done ? 0 : ETIMEDOUT;
}

int cq_task_close(cq_task_t *t, uint64_t deadline)
{
	cq_pool_t *p = t->pool;
	bool owners = by_owner(t);
	uint64_t word = cq_u64_load_relaxed(&t->word);

	if (cq_pool_is_current(p) || cq_pool_forking(p))
		return EDEADLK;
	while (!cq_u64_cas_relaxed(&t->word, &word, word | TASK_CLOSED))
		;
	if (wait_for_runs(t, deadline) != 0)
		return ETIMEDOUT;
	pthread_mutex_lock(&p->lock);
	p->open--;
	pthread_mutex_unlock(&p->lock);
	CQ_POINT("tasks.closed");
	/* Last: whoever takes it off the stack may free it, and another task have it. */
	word = cq_u64_load_relaxed(&t->word);
	while (!cq_u64_cas_relaxed(&t->word, &word, word | TASK_RELEASED))
		;
	/* Pairs with the releases in end, of all that the runs did; in tell_stalled (workers.c); and in
	   begin_popped: who took it off the stack has done so. Without it that pop could still write into the
	   record of a new task. */
	cq_fence_acquire();
	if ((word & TASK_IN) == 0 || owners)
		cq_task_free(t);
	return 0;
}
