/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the pool. Which file has what is said at the end; each calls only those above it.
 *
 * Locks, in the order in which they may be held together:
 *   that of base/atfork.c -> lock -> those of idle, closers, clock -> those of parking
 * None is held while a task, a hook or spawn runs.
 */
#ifndef CQ_POOL_PRIV_H
#define CQ_POOL_PRIV_H

#include <cq/pool.h>
#include <cq/sleepers.h>
#include <cq/pool_stats.h>
#include <cq/workq.h>
#include <pthread.h>
#include <signal.h>

#include "base/alloc.h"
#include "base/atfork.h"
#include "base/ordering.h"
#include "base/points.h"
#include "base/process.h"

/* The word of a task. */
enum {
	TASK_IN = 1,		/* signalled: its record is in a stack, or about to be */
	TASK_MORE = 2,		/* signalled at the limit of runs: the run that ends pushes it */
	TASK_CLOSED = 4,	/* no run begins */
	TASK_RELEASED = 8,	/* and the closer is gone: who takes it off the stack frees it */
	TASK_MANY = 16,		/* a hint, with IN: a run has left many pieces, and none has found nothing since */
	TASK_RUN = 32		/* times the runs that go on */
};

/* A task's record. It belongs to the pool until that is destroyed, so a pop that is under way may read it
   whenever it likes. A free record is CLOSED and RELEASED. */
struct cq_task {
	cq_node_t node;			/* in one of the pool's stacks while IN */
	uint64_t word CQ_ALIGNED(8);
	cq_pool_t *pool;		/* this and all_next: written once */
	cq_task_t *all_next;
	/* Written while no one else has the record, before the word is 0: */
	const cq_task_ops_t *ops;
	void *arg;
	void (*idle)(void *arg);	/* or NULL: see cq_task_create_idle */
	uint32_t parallel;
	uint64_t at CQ_ALIGNED(8);	/* when it is to be signalled, or 0 */
};
CQ_NODE_CONTAINER(struct cq_task, node, cq_task_of)

static inline bool cq_task_is_open(const cq_task_t *t)
{
	/* Pairs with the release in cq_task_create_idle: ops, arg and idle. Without it they could be those of the task that
	   had the record before. */
	return (cq_u64_load_acquire(&t->word) & TASK_CLOSED) == 0;
}

/* When a piece was taken, of a task that reads no clock: the first statistics that see it note the time. */
#define UNKNOWN (CQ_FOREVER - 1)

/* A thread that runs tasks of a pool: a worker, or the caller of a run_some. To the task's function it is the
   run that goes on. Its own thread writes; statistics and a forked child read. */
struct cq_run {
	cq_pool_t *pool;
	cq_task_t *task;		/* in its function; NULL: between two runs, or in a hook */
	void *piece;			/* in hand */
	uint64_t taken CQ_ALIGNED(8);	/* statistics, as the next: since when, as ~time; 0: nothing is */
	uint64_t parts;			/* of it, as the task counts */
	bool is_worker;			/* no run_some: the record was allocated */
	bool managed;			/* on a thread that the pool made, which a piece may end */
	bool to_join;			/* and which is joined: not where it has forked, in the child */
	bool serves;			/* a thread of the host's, in run_some of the pool or work */
	uint64_t count;			/* the worker's part of the pool's counts; 0: it has left them, or is the clock */
	size_t pieces, budget;		/* taken so far; of a run_some: how many it may */
	size_t pieces_before;		/* of `pieces`, those of earlier runs */
	uint64_t runs CQ_ALIGNED(8);	/* statistics, as the next */
	uint64_t empty_runs;		/* that found no piece */
	cq_run_t *outer;		/* what its thread is inside of as well, of any pool */
	cq_run_t *next, **link;		/* of the pool's, under its lock; link: who points here */
};

/*
 * counts = made << 48 | live << 24 | making, in workers.
 *
 *   made    by the pool, not yet ended or retired. made <= max, but for a moment after set_workers. Too high
 *           for a moment (a making that will fail): one worker fewer. Never too low: the cap would break.
 *   live    made, and in cq_pool_work. live >= made. Too high: a signal relies on a worker that is not.
 *           Whoever lowers it rechecks.
 *   making  of those made, the ones that have not looked for work yet. Too high: work waits for a worker that
 *           will not come. Who fails to make one lowers it and says so in `failed`. Too low: one worker too
 *           many is made, within the cap.
 */
#define COUNT_MADE (UINT64_C(1) << 48)
#define COUNT_LIVE (UINT64_C(1) << 24)
#define COUNT_MAKING UINT64_C(1)
static inline uint32_t counts_made(uint64_t counts) { return (uint32_t)(counts >> 48); }
static inline uint32_t counts_live(uint64_t counts) { return (uint32_t)(counts >> 24) & 0xffffff; }
static inline uint32_t counts_making(uint64_t counts) { return (uint32_t)counts & 0xffffff; }

/* Of managed threads. Written before the first of them. */
struct cq_threads {
	size_t stack_overhead;	/* bytes of a stack that no callback gets */
	struct cq_creator creator;
	sigset_t blocked;
};

/* Words that different threads write are on different cache lines. */
struct cq_pool {
	/* Read by all, written at create, and by set_workers under the lock: min, max. */
	cq_pool_config_t config;	/* with the defaults filled in */
	cq_allocator_t allocator;
	char name[16];
	uint32_t min, max;
	uint32_t processors;		/* which those who set the maximum may use */
	uint32_t stop;			/* its end has begun: written under the lock */
	void (*body)(void *run);	/* of a worker that the pool makes: cq_pool_worker */
	uint64_t page CQ_ALIGNED(8);	/* waiting[page & 1] gets the records; the other is emptied first */

	cq_workq_t waiting[2] CQ_ALIGNED(CQ_LINE); /* records of tasks that were signalled */
	cq_sleepers_t idle CQ_ALIGNED(CQ_LINE);	/* workers */
	uint64_t counts CQ_ALIGNED(CQ_LINE);
	uint32_t failed;		/* why the last worker could not be made, by errno's value; or 0 */
	uint32_t last_errno;		/* the same, never taken back */
	uint32_t serving;		/* threads of the host in run_some or work */
	cq_sleepers_t closers CQ_ALIGNED(CQ_LINE); /* threads in cq_task_close */
	uint32_t telling;		/* threads between cq_workers_telling and _told: close waits for them too */
	cq_sleepers_t clock;		/* the thread that waits for the next */
	uint64_t earliest CQ_ALIGNED(8); /* time at which a task is to be signalled, or CQ_FOREVER */
	uint32_t has_clock;		/* or one is being made */
	cq_stack_t free;		/* records */

	/* Statistics, on rare paths. */
	uint64_t created CQ_ALIGNED(CQ_LINE);
	uint64_t retired, not_made;
	uint32_t peak;

	pthread_mutex_t lock CQ_ALIGNED(CQ_LINE);
	/* Under it: */
	cq_run_t *members;
	uint32_t workers;		/* of them; destroy waits for these */
	cq_parker_t *destroyer;		/* waits for the last of them */
	bool has_ended;
	pthread_t ended;		/* the last managed thread that left, and is to be joined */
	cq_task_t *all;
	uint32_t open;			/* tasks */
	uint64_t runs, empty_runs;	/* of members that are gone */

	bool fork_wakes, fork_tells;	/* what handlers signalled is to be made up for */
	struct cq_fork_client fork_client;
	struct cq_threads threads;
};

static inline bool cq_pool_is(const cq_pool_t *p, uint32_t flag)
{
	return (p->config.flags & flag) != 0;
}

static inline bool cq_pool_stopped(const cq_pool_t *p)
{
	return cq_u32_load_relaxed(&p->stop) != 0;
}

/* Would a task wait for a thread of the host's, and none is there? Behind a fence, as in cq_task_signal. */
static inline bool cq_pool_unserved(const cq_pool_t *p)
{
	return cq_pool_is(p, CQ_POOL_HOSTED) && cq_u32_load_relaxed(&p->serving) == 0;
}

/* Records that wait. */
static inline uint64_t cq_pool_waiting(const cq_pool_t *p)
{
	return cq_workq_units(&p->waiting[0]) + cq_workq_units(&p->waiting[1]);
}

/* threads.c: managed threads */
void cq_threads_note_creator(struct cq_threads *t); /* the caller: theirs will be its processors and mask */
int cq_threads_spawn(cq_run_t *worker);

/* workers.c: how many workers there are: making one, retiring, stalled */
bool cq_member_join(cq_run_t *m);
int cq_member_new(cq_pool_t *p, uint64_t count, cq_run_t **out);
void cq_member_leave(cq_run_t *m);
void cq_task_tell(const cq_task_t *t);
cq_task_t *cq_workers_telling(cq_pool_t *p);
void cq_workers_told(cq_pool_t *p);
void cq_tasks_tell(cq_pool_t *p);
int cq_worker_begin(cq_run_t *w);
bool cq_workers_surplus(const cq_run_t *w);
bool cq_workers_missed(cq_pool_t *p, uint64_t counts);
void cq_workers_not_made(cq_pool_t *p, uint64_t count, int err);
bool cq_workers_could_make(cq_pool_t *p, uint64_t *counts);
int cq_workers_make(cq_pool_t *p, bool producer);
int cq_workers_make_min(cq_pool_t *p);
void cq_workers_arrive(cq_run_t *w);
void cq_workers_left_waiting(cq_pool_t *p);
void cq_workers_host_comes(cq_run_t *run);
void cq_workers_host_leaves(cq_run_t *run);
bool cq_workers_retire(cq_run_t *w);
void cq_workers_replace(cq_run_t *w);

/* tasks.c: a task's record, its word: signal, run, close */
void cq_run_enter(cq_run_t *run);
void cq_run_leave(cq_run_t *run);
bool cq_run_is_mine(const cq_run_t *run); /* the calling thread is inside of it, in a task or in a hook */
cq_task_t *cq_task_pop(cq_pool_t *p);
bool cq_task_join(cq_run_t *run);
void cq_task_run(cq_run_t *run, cq_task_t *t);
size_t cq_tasks_run_some(cq_pool_t *p, cq_task_t *only, size_t pieces);
void cq_task_lose(cq_run_t *run);
void cq_task_abort(cq_run_t *run);
void cq_tasks_fork_child(cq_pool_t *p);

/* clock.c: tasks that are signalled at a time */
void cq_clock_look(cq_pool_t *p);
void cq_clock_be(cq_run_t *w);

/* worker_life.c: the life of a worker, from its making to its end */
void cq_pool_worker(void *run);
bool cq_pool_serve(cq_run_t *run, cq_sleeper_t *me, uint64_t deadline);

/* pool_fork.c. The calls on a pool are in pool.c. */
extern const struct cq_fork_ops cq_pool_fork_ops;

#endif /* CQ_POOL_PRIV_H */
