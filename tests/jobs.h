/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * For the tests of the pool: tasks whose work is a queue of jobs, jobs that stay inside
 * until they are let go, and a host that makes workers, at once or later, or fails to.
 */
#ifndef CQ_TESTS_JOBS_H
#define CQ_TESTS_JOBS_H

#include <errno.h>

#include "pool/pool_priv.h"
#include "support.h"

#define MAY_BE_UNUSED __attribute__((unused))

/* --------------------------------------------------------------------------- jobs */

typedef struct job {
	cq_node_t node;
	test_act_fn *act;	/* what it does; or NULL */
	void *ctx;
	atomic_uint ran, lost;
} job_t;
CQ_NODE_CONTAINER(job_t, node, job_of)

typedef struct jobs {
	cq_workq_t waiting;
	cq_task_t *task;
	uint32_t parallel;
	atomic_uint calls, running, most;	/* of the task's function; at once, and at most so */
	atomic_uint done, lost, stalled;	/* jobs that have returned; calls of the ops */
	job_t *order[64];			/* in which the first ones began */
	atomic_uint begun;
} jobs_t;

static job_t all_jobs[512];
static atomic_uint njobs;
static __thread jobs_t *inside_of; /* the calling thread is in a run of these */

static MAY_BE_UNUSED job_t *add(jobs_t *q, test_act_fn *act, void *ctx)
{
	unsigned i = njobs++;

	CHECK(i < 512);
	all_jobs[i].act = act;
	all_jobs[i].ctx = ctx;
	cq_workq_push(&q->waiting, &all_jobs[i].node);
	return &all_jobs[i];
}

static MAY_BE_UNUSED int signal_job(jobs_t *q, test_act_fn *act, void *ctx)
{
	add(q, act, ctx);
	return cq_task_signal(q->task);
}

static MAY_BE_UNUSED int signal_jobs(jobs_t *q, unsigned n)
{
	while (n-- > 0)
		add(q, NULL, NULL);
	return cq_task_signal(q->task);
}

static void enter_jobs(jobs_t *q)
{
	unsigned running = ++q->running, most = q->most;

	CHECK(q->parallel == 0 || q->parallel == CQ_BY_OWNER || running <= q->parallel);
	while (running > most && !atomic_compare_exchange_weak(&q->most, &most, running))
		;
	inside_of = q;
	q->calls++;
}

/* Also by a job that ends its thread. */
static void leave_jobs(void)
{
	inside_of->running--;
	inside_of = NULL;
}

static void run_job(jobs_t *q, job_t *job)
{
	unsigned i = q->begun++;

	if (i < 64)
		q->order[i] = job;
	CHECK(job->ran++ == 0);
	if (job->act != NULL)
		job->act(job->ctx);
	q->done++;
}

/* As in cq/pool.h. */
static void run_jobs(cq_run_t *run, void *arg)
{
	jobs_t *q = arg, *outer = inside_of;
	cq_node_t *node;

	enter_jobs(q);
	CHECK(cq_task_is_current(q->task));
	while ((node = cq_workq_try_pop(&q->waiting)) != NULL) {
		cq_run_more(run, cq_workq_units(&q->waiting));
		cq_run_piece(run, job_of(node));
		run_job(q, job_of(node));
		cq_run_piece(run, NULL);
		if (!cq_run_may_continue(run))
			break;
	}
	leave_jobs();
	inside_of = outer;
}

static void lose_job(void *arg, void *piece)
{
	((jobs_t *)arg)->lost++;
	CHECK(((job_t *)piece)->lost++ == 0);
}

static void note_stalled(void *arg)
{
	((jobs_t *)arg)->stalled++;
}

static const cq_task_ops_t job_ops = { run_jobs, lose_job, note_stalled };

/* ---------------------------------------------------------------------- the pool */

enum { IDLE_NS = 1000 };

static cq_pool_t *pool;
static fake_park_t park;
static test_alloc_t alloc;
static jobs_t a, b, c; /* tasks */

/* The defaults of tests: a fake clock and park, one worker, which stays. */
static MAY_BE_UNUSED cq_pool_config_t with_defaults(cq_pool_config_t config)
{
	fake_init(&park);
	park.now = 1; /* 0 is "at once" to cq_pool_work */
	test_alloc_init(&alloc);
	if (config.park == NULL)
		config.park = &park.ops;
	config.allocator = &alloc.allocator;
	if (config.workers_max == 0)
		config.workers_max = config.workers_min > 1 ? config.workers_min : 1;
	if (config.idle_ns == 0)
		config.idle_ns = CQ_FOREVER;
	return config;
}

static MAY_BE_UNUSED void open_pool(cq_pool_config_t config)
{
	config = with_defaults(config);
	CHECK(cq_pool_create(&config, &pool) == 0);
}

static MAY_BE_UNUSED void open_task(jobs_t *q, uint32_t parallel)
{
	q->parallel = parallel;
	CHECK(cq_task_create(pool, &job_ops, q, parallel, &q->task) == 0);
}

static MAY_BE_UNUSED void close_task(jobs_t *q)
{
	CHECK(cq_task_close(q->task, wait_limit()) == 0);
	q->task = NULL;
}

/* With a fake park the deadline is on its clock: the limit is that of the test. */
static MAY_BE_UNUSED void end_pool(void)
{
	jobs_t *const all[] = { &a, &b, &c };

	for (int i = 0; i < 3; i++)
		if (all[i]->task != NULL)
			close_task(all[i]);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	pool = NULL;
	CHECK(alloc.live_bytes == 0);
}

static MAY_BE_UNUSED cq_pool_stats_t stats(void)
{
	cq_pool_stats_t s;

	cq_pool_stats(pool, &s);
	return s;
}

/* Workers that are gone, all but the exit of their threads. */
static MAY_BE_UNUSED bool workers_are(unsigned n)
{
	bool are;

	pthread_mutex_lock(&pool->lock);
	are = pool->workers == n;
	pthread_mutex_unlock(&pool->lock);
	return are;
}

/*
 * Time goes by until n are left. When several are idle for too long at once, one of them may find
 * that nobody is idle and others live, who have yet to go, and stay for another while.
 */
static MAY_BE_UNUSED void retire_to(unsigned n)
{
	AWAIT((fake_advance(&park, IDLE_NS), workers_are(n)));
}

/* Jobs that stay inside until the gate is opened. */
typedef struct room {
	atomic_uint inside;	/* so far */
	gate_t leave;
} room_t;

static MAY_BE_UNUSED room_t room = { 0, GATE_INITIALIZER }, room2 = { 0, GATE_INITIALIZER };

static MAY_BE_UNUSED void stay(void *ctx)
{
	room_t *r = ctx;

	r->inside++;
	gate_wait(&r->leave);
}

/* ---------------------------------------------------------------------- the host */

static MAY_BE_UNUSED struct {
	struct request {
		void (*body)(void *arg);
		void *arg;
		pthread_t thread;
	} requests[64];
	unsigned n, come;
	bool later;		/* workers come by come() alone */
	atomic_int err;		/* what spawn returns instead */
	pthread_mutex_t lock;
} host = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *be_worker(void *arg)
{
	struct request *r = arg;

	r->body(r->arg);
	return NULL;
}

/* With the lock held. */
static void let_come(unsigned n)
{
	for (; n > 0; n--, host.come++) {
		CHECK(host.come < host.n);
		host.requests[host.come].thread = start(be_worker, &host.requests[host.come]);
	}
}

static MAY_BE_UNUSED void come(unsigned n)
{
	pthread_mutex_lock(&host.lock);
	let_come(n);
	pthread_mutex_unlock(&host.lock);
}

/* All that were asked for, and from now on each at once. */
static MAY_BE_UNUSED void come_at_once(void)
{
	pthread_mutex_lock(&host.lock);
	host.later = false;
	let_come(host.n - host.come);
	pthread_mutex_unlock(&host.lock);
}

static MAY_BE_UNUSED unsigned requested(void)
{
	unsigned n;

	pthread_mutex_lock(&host.lock);
	n = host.n;
	pthread_mutex_unlock(&host.lock);
	return n;
}

static MAY_BE_UNUSED int spawn(void *ctx, void (*body)(void *arg), void *arg)
{
	CHECK(ctx == &host);
	if (host.err != 0)
		return host.err;
	pthread_mutex_lock(&host.lock);
	CHECK(host.n < 64);
	host.requests[host.n++] = (struct request){ .body = body, .arg = arg };
	if (!host.later)
		let_come(1);
	pthread_mutex_unlock(&host.lock);
	return 0;
}

static MAY_BE_UNUSED void open_spawned(cq_pool_config_t config)
{
	config.spawn = spawn;
	config.host = &host;
	open_pool(config);
}

static MAY_BE_UNUSED void end_spawned(void)
{
	come_at_once();
	end_pool();
	for (unsigned i = 0; i < host.come; i++)
		join(host.requests[i].thread);
	host.n = host.come = 0;
}

#endif /* CQ_TESTS_JOBS_H */
