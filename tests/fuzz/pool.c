/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 3: a hosted pool on one thread. A run is a call within which, and in park while
 * cq_pool_work waits, other threads make theirs. The model knows of each task whether it is
 * signalled, how many of its runs go on, and how many pieces it has. It doesn't know in which order
 * records are popped: where that decides, it knows two limits.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "pool/pool_inside.h"
#include "pool/pool_priv.h" /* whose record stays */

enum { TASKS = 4 };

struct task {
	cq_task_t *task;	/* NULL: there is none */
	uint32_t parallel;
	unsigned pieces, running;
	bool signalled;		/* at the limit or below it */
	bool many;		/* signalled for so many pieces that workers join its runs */
	unsigned told;		/* calls of `stalled` */
	uint64_t at;		/* when it is to be signalled, or 0 */
};

/* A run_some or work that goes on. */
struct server {
	struct task *only;	/* the task of cq_task_run_some */
	size_t budget, taken;	/* 0: a worker's */
	struct task *in;	/* in its function */
	struct server *outer;
};

static cq_pool_t *pool;
static struct task tasks[TASKS];
static struct server *servers;
static unsigned workers;	/* in cq_pool_work */
static unsigned ghosts;		/* records of closed tasks that may be in the stacks */
static uint64_t runs, empty_runs;
static uint32_t max;
static bool polled, forking, failing;

static void some_call(void);

static bool by_owner(const struct task *t) { return t->parallel == CQ_BY_OWNER; }

static bool at_limit(const struct task *t)
{
	return !by_owner(t) && t->parallel != 0 && t->running >= t->parallel;
}

/* Who polls signals those whose time has come. */
static void look(void)
{
	for (unsigned i = 0; i < TASKS && !forking; i++)
		if (tasks[i].task != NULL && tasks[i].at != 0 && tasks[i].at <= now) {
			tasks[i].at = 0;
			tasks[i].signalled = true;
		}
}

/* Somebody may have. */
static void looked(void)
{
	for (unsigned i = 0; i < TASKS && !forking; i++)
		if (tasks[i].task != NULL && tasks[i].at != 0 && tasks[i].at <= now && !cq_task_is_timed(tasks[i].task)) {
			tasks[i].at = 0;
			tasks[i].signalled = true;
		}
}

/* Records of open tasks that wait for certain, or may. */
static unsigned waiting(bool certain)
{
	unsigned n = 0;

	for (unsigned i = 0; i < TASKS; i++)
		n += tasks[i].task != NULL && tasks[i].signalled && !by_owner(&tasks[i]) &&
		    !(certain && at_limit(&tasks[i]));
	return n;
}

static unsigned open_tasks(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < TASKS; i++)
		n += tasks[i].task != NULL;
	return n;
}

/* Calls that go on and run any task. */
static unsigned serve(void)
{
	unsigned n = 0;

	for (const struct server *s = servers; s != NULL; s = s->outer)
		n += s->only == NULL;
	return n;
}

static bool in_a_run(void)
{
	for (const struct server *s = servers; s != NULL; s = s->outer)
		if (s->in != NULL)
			return true;
	return false;
}

static bool is_current(const struct task *t)
{
	for (const struct server *s = servers; s != NULL; s = s->outer)
		if (s->in == t)
			return true;
	return false;
}

static void calls_within(void)
{
	if (depth >= DEPTH_MAX || input_ended())
		return;
	depth++;
	some_call();
	depth--;
}

/* ------------------------------------------------------------------- the host's side */

static void *some_alloc(void *host, size_t bytes, size_t align)
{
	void *memory;

	(void)host;
	if (failing || posix_memalign(&memory, align, bytes) != 0)
		return NULL;
	return memory;
}

static void some_free(void *host, void *memory, size_t bytes)
{
	(void)host;
	(void)bytes;
	free(memory);
}

/* Each work has a deadline: time ends it. */
static void some_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	(void)host;
	EXPECT(deadline != CQ_FOREVER, "a thread would wait for ever");
	if (depth >= DEPTH_MAX || input_ended()) {
		advance_to(deadline);
		return;
	}
	calls_within();
	if (!CALL(cq_parker_granted)(parker) && below(4) == 0)
		advance_to(deadline);
}

static void some_unpark(void *host, cq_parker_t *parker)
{
	(void)host;
	EXPECT(!polled || workers != 0, "a wake in a polled pool without workers");
	CALL(cq_parker_grant)(parker);
}

static const cq_park_ops_t park_ops = { clock_now, some_park, some_unpark, NULL };
static const cq_allocator_t allocator = { some_alloc, some_free, NULL };

/* ------------------------------------------------------------------ a task's function */

static void note_signal(struct task *t)
{
	bool was = t->signalled;

	t->signalled = true;
	note("signal(%u): %s", (unsigned)(t - tasks), was ? "it waits" : "it is signalled");
}

static bool continues(const struct server *s)
{
	if (s->budget != 0 && s->taken >= s->budget)
		return false;
	return s->only != NULL || waiting(false) == (s->in->signalled && !by_owner(s->in));
}

static void check_may_continue(const struct server *s, cq_run_t *run)
{
	bool may = CALL(cq_run_may_continue)(run);

	/* Records that may be in the stacks or not decide. */
	if (s->only == NULL && (ghosts != 0 || waiting(false) != waiting(true)))
		return;
	EXPECT_EQ(may, continues(s));
}

static void take_pieces(struct server *s, cq_run_t *run, struct task *t)
{
	while (t->pieces != 0) {
		t->pieces--;
		if (t->pieces != 0 && below(4) != 3) {
			t->signalled |= !by_owner(t);
			t->many |= t->pieces >= 4 && t->parallel == 0 && !polled;
			CALL(cq_run_more)(run, t->pieces);
		}
		s->taken++;
		CALL(cq_run_piece)(run, t);
		EXPECT(CALL(cq_task_is_current)(t->task), "its run is not current");
		calls_within();
		CALL(cq_run_piece)(run, NULL);
		check_may_continue(s, run);
		if (!CALL(cq_run_may_continue)(run))
			break;
	}
}

static void run(cq_run_t *r, void *arg)
{
	struct task *t = arg;
	struct server *s = servers;
	size_t taken = s->taken;
	bool joins;

	note("run of %u", (unsigned)(t - tasks));
	EXPECT(t->task != NULL, "a run of a closed task");
	joins = s->budget == 0 && (t->task->word & TASK_IN) != 0; /* its record stays, for others to come */
	EXPECT(!at_limit(t), "a run beyond the limit");
	EXPECT(s->in == NULL && !forking, "a run where none is asked for");
	EXPECT(s->only == NULL || s->only == t, "a run of another task");
	if (s->only == NULL) {
		EXPECT(t->signalled && !by_owner(t), "a run of a task that isn't signalled");
		EXPECT(!joins || (t->many && waiting(true) == 1), "it is joined where others wait, or few pieces");
		t->signalled = t->many = joins;
	} else if (by_owner(t)) {
		t->signalled = false;
	}
	EXPECT(s->budget == 0 || s->taken < s->budget, "a run beyond the budget");
	t->running++;
	s->in = t;
	take_pieces(s, r, t);
	s->in = NULL;
	t->running--;
	runs++;
	empty_runs += s->taken == taken;
	t->many &= s->taken != taken;
}

static void lost(void *arg, void *piece)
{
	(void)arg;
	EXPECT(piece == NULL, "nobody is lost");
}

static void stalled(void *arg)
{
	struct task *t = arg;

	EXPECT(t->task != NULL, "a closed task is told");
	t->told++;
	if (by_owner(t))
		return;
	/* That one is about to leave. In a polled pool each is told that is signalled, and what a run_some leaves. */
	EXPECT(serve() <= 1 || polled, "while somebody serves");
}

static const cq_task_ops_t ops = { run, lost, stalled };

/* ----------------------------------------------------------------------------- calls */

static struct task *some_task(void)
{
	struct task *t = &tasks[below(TASKS)];

	return t->task != NULL ? t : NULL;
}

static void do_create(void)
{
	struct task *t = &tasks[below(TASKS)];
	uint32_t parallel = (uint32_t)PICK(0, 1, 2, CQ_BY_OWNER);
	cq_task_t *made = NULL;
	int err;

	if (t->task != NULL)
		return;
	failing = below(8) == 1;
	err = CALL(cq_task_create)(pool, &ops, t, parallel, &made);
	note("task_create(%u, parallel %" PRIu32 ") = %d", (unsigned)(t - tasks), parallel, err);
	EXPECT(forking ? err == EDEADLK : err == 0 || (failing && err == ENOMEM), "it returns %d", err);
	failing = false;
	if (err == 0)
		*t = (struct task){ .task = made, .parallel = parallel };
}

static void do_close(void)
{
	struct task *t = some_task();
	int err;

	if (t == NULL || t->at != 0) /* else the record's next task would be signalled for nothing */
		return;
	err = CALL(cq_task_close)(t->task, some_deadline());
	note("task_close(%u) = %d", (unsigned)(t - tasks), err);
	EXPECT_EQ(err, in_a_run() || forking ? EDEADLK : 0);
	if (err != 0)
		return;
	EXPECT_EQ(t->running, 0);
	ghosts += t->signalled && !by_owner(t);
	t->task = NULL;
}

static void do_signal(void)
{
	struct task *t = some_task();
	unsigned before;
	bool tells;

	if (t == NULL)
		return;
	tells = by_owner(t) && !t->signalled;
	before = t->told;
	t->pieces += below(5);
	note_signal(t);
	EXPECT_EQ(CALL(cq_task_signal)(t->task), 0);
	if (by_owner(t))
		EXPECT_EQ(t->told - before, tells);
}

static void do_signal_at(void)
{
	struct task *t = some_task();
	uint64_t at = now + PICK(0, 1, 10, 1000);

	if (t == NULL || at < now || at == 0)
		return;
	note("signal_at(%u, %" PRIu64 ")", (unsigned)(t - tasks), at);
	EXPECT_EQ(cq_task_signal_at(t->task, at), forking ? EDEADLK : 0);
	if (!forking)
		t->at = at;
	EXPECT_EQ(cq_task_is_timed(t->task), t->at != 0);
}

static void do_add(void)
{
	struct task *t = some_task();

	if (t != NULL)
		t->pieces += 1 + below(3);
}

static void begin(struct server *s)
{
	s->outer = servers;
	servers = s;
}

static void end(const struct server *s)
{
	servers = s->outer;
}

static void do_run_some(void)
{
	struct server s = { .budget = (size_t)PICK(0, 1, 2, 5, SIZE_MAX) };
	bool none = s.budget == 0 || forking;
	size_t n;

	note("pool_run_some(%zu)", s.budget);
	if (none) {
		look();
		EXPECT_EQ(CALL(cq_pool_run_some)(pool, s.budget), 0);
		return;
	}
	look();
	begin(&s);
	n = CALL(cq_pool_run_some)(pool, s.budget);
	end(&s);
	note("it returns %zu", n);
	EXPECT_EQ(n, s.taken);
	if (n < s.budget) {
		EXPECT_EQ(waiting(true), 0);
		ghosts = 0;
	}
}

static void do_task_run_some(void)
{
	struct task *t = some_task();
	struct server s = { .only = t, .budget = (size_t)PICK(0, 1, 2, 5, SIZE_MAX) };
	bool limited;
	size_t n;

	if (t == NULL)
		return;
	note("task_run_some(%u, %zu)", (unsigned)(t - tasks), s.budget);
	limited = at_limit(t) || forking;
	begin(&s);
	n = CALL(cq_task_run_some)(t->task, s.budget);
	end(&s);
	note("it returns %zu", n);
	EXPECT_EQ(n, s.taken);
	EXPECT(!limited || n == 0, "it ran beyond the limit");
	if (!limited && n < s.budget)
		EXPECT(t->task == NULL || t->pieces == 0, "pieces are left");
}

static void do_work(void)
{
	struct server s = { 0 };
	uint64_t deadline = now + PICK(0, 1, 10, 1000);
	int err;

	if (deadline >= CQ_FOREVER || deadline < now)
		return;
	note("work(until %" PRIu64 ")", deadline);
	if (in_a_run() || forking) {
		EXPECT_EQ(CALL(cq_pool_work)(pool, NULL, deadline), EDEADLK);
		return;
	}
	failing = below(8) == 1;
	if (failing) {
		EXPECT_EQ(CALL(cq_pool_work)(pool, NULL, deadline), ENOMEM);
		failing = false;
		return;
	}
	begin(&s);
	workers++;
	err = CALL(cq_pool_work)(pool, NULL, deadline);
	workers--;
	end(&s);
	note("it returns %d", err);
	EXPECT_EQ(err, ETIMEDOUT);
	EXPECT(now >= deadline, "too early");
	EXPECT_EQ(waiting(true), 0);
	ghosts = 0;
}

static void do_wake(void)
{
	int err;

	look();
	err = CALL(cq_pool_wake)(pool);
	note("wake = %d", err);
	if (forking)
		EXPECT_EQ(err, EDEADLK);
	else if (serve() != 0 || waiting(false) + ghosts == 0)
		EXPECT_EQ(err, 0);
	else if (waiting(true) != 0)
		EXPECT_EQ(err, EAGAIN);
}

static void do_needs_wake(void)
{
	bool needs;

	look();
	needs = CALL(cq_pool_needs_wake)(pool);
	note("needs_wake = %d", needs);
	EXPECT(!needs || (workers != 0 && waiting(false) + ghosts != 0), "nobody is there to wake");
	if (!needs || forking)
		return;
	EXPECT_EQ(CALL(cq_pool_wake)(pool), 0);
	EXPECT(!CALL(cq_pool_needs_wake)(pool), "a wake changes nothing");
}

static void do_set_workers(void)
{
	uint32_t new_min = (uint32_t)PICK(0, 0, 0, 1, UINT32_MAX);
	uint32_t new_max = (uint32_t)PICK(1, 0, 2, CQ_WORKERS_MAX, CQ_WORKERS_MAX + 1, UINT32_MAX);
	int err = CALL(cq_pool_set_workers)(pool, new_min, new_max);

	note("set_workers(%" PRIu32 ", %" PRIu32 ") = %d", new_min, new_max, err);
	if (new_min != 0 || (new_max != 0 && new_max > CQ_WORKERS_MAX))
		EXPECT_EQ(err, EINVAL);
	else
		EXPECT_EQ(err, forking ? EDEADLK : 0);
	if (err == 0)
		max = new_max;
}

static void do_stats(void)
{
	cq_pool_stats_t s;
	unsigned running = 0;

	CALL(cq_pool_stats_sized)(pool, &s, sizeof(s));
	for (const struct server *v = servers; v != NULL; v = v->outer)
		running += v->in != NULL;
	note("stats: %" PRIu64 " runs, %" PRIu64 " wait", s.runs, s.tasks_waiting);
	EXPECT_EQ(s.runs, runs);
	EXPECT_EQ(s.empty_runs, empty_runs);
	EXPECT_EQ(s.tasks, open_tasks());
	EXPECT_EQ(s.workers_running, running);
	EXPECT_EQ(s.workers_live, workers);
	EXPECT(s.tasks_waiting >= waiting(true) && s.tasks_waiting <= waiting(false) + ghosts,
	    "%" PRIu64 " tasks wait", s.tasks_waiting);
	EXPECT(s.workers_idle + s.workers_coming <= workers, "more are idle than there are");
	EXPECT(s.workers_peak >= workers, "the peak is below");
	EXPECT_EQ(s.workers_min | s.workers_created | s.workers_failed | s.workers_retired, 0);
	EXPECT(s.workers_max == max || max == 0, "another maximum");
}

static void do_current(void)
{
	struct task *t = some_task();

	if (t != NULL)
		EXPECT_EQ(CALL(cq_task_is_current)(t->task), is_current(t));
}

static void create_pool(void)
{
	cq_pool_config_t config = { .flags = CQ_POOL_HOSTED | CQ_POOL_NO_ATFORK |
		(polled ? CQ_POOL_POLLED : 0), .workers_max = 3, .park = &park_ops,
		.allocator = &allocator };

	EXPECT_EQ(CALL(cq_pool_create_sized)(&config, sizeof(config), &pool), 0);
	runs = empty_runs = 0;
	ghosts = 0;
	max = 3;
}

static void do_destroy(void)
{
	int err;

	if (workers != 0 && !in_a_run() && !forking)
		return; /* it would wait for a call below it */
	err = CALL(cq_pool_destroy)(pool, some_deadline());
	note("destroy = %d", err);
	EXPECT_EQ(err, in_a_run() || forking ? EDEADLK : open_tasks() != 0 ? EBUSY : 0);
	if (err == 0)
		create_pool();
}

/* The child has none of the threads that are in calls: here it begins where there are none. */
static void do_fork(void)
{
	bool child = below(2) != 0 && servers == NULL && !forking, outer = forking;

	note("fork: prepare");
	CALL(cq_fork)(CQ_FORK_PREPARE);
	forking = true;
	calls_within();
	forking = outer;
	note("fork: %s", child ? "child" : "parent");
	CALL(cq_fork)(child ? CQ_FORK_CHILD : CQ_FORK_PARENT);
	if (!child) {
		looked(); /* if a handler has woken the pool */
		return;
	}
	ghosts = 0;
	for (unsigned i = 0; i < TASKS; i++) {
		tasks[i].signalled = tasks[i].task != NULL && !by_owner(&tasks[i]);
		tasks[i].at = 0;
		tasks[i].many = false;
	}
}

static void do_advance(void) { advance_by(PICK(0, 1, 9, 1000)); }

static void (*const calls[])(void) = {
	NULL, do_signal, do_run_some, do_create, do_task_run_some, do_work, do_close, do_wake,
	do_needs_wake, do_stats, do_add, do_fork, do_set_workers, do_current, do_destroy, do_advance,
	do_signal, do_create, do_run_some,
	do_signal_at, do_advance, /* by time */
};
static unsigned ncalls;

static void some_call(void)
{
	unsigned i = below(ncalls);

	if (calls[i] != NULL)
		calls[i]();
}

void fuzz_pool(bool by_time)
{
	ncalls = sizeof(calls) / sizeof(*calls) - (by_time ? 0 : 2);
	memset(tasks, 0, sizeof(tasks));
	servers = NULL;
	workers = 0;
	forking = failing = false;
	polled = below(2) != 0;
	create_pool();
	while (!input_ended())
		some_call();
	do_stats();
	for (unsigned i = 0; i < TASKS; i++)
		if (tasks[i].task != NULL)
			EXPECT_EQ(CALL(cq_task_close)(tasks[i].task, CQ_FOREVER), 0);
	EXPECT_EQ(CALL(cq_pool_destroy)(pool, CQ_FOREVER), 0);
}
