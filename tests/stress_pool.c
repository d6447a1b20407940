/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_pool - layer 3 under threads: several tasks, each a queue of jobs, on one pool.
 *
 * Rounds, with a pool of its own each:
 *   random   threads add jobs and signal, run tasks themselves, change the limits, make tasks of
 *            their own and close them while the pool is busy, and fork
 *   lent, polled, failing   the same on threads of the host's, in a pool that is polled, and where
 *            workers often can't be made
 *   hung     some jobs hang, fewer than there may be workers: all others must run, also if
 *            nobody calls the pool again
 *   deadly   jobs end their threads
 *
 * Conservation: each job runs once; no more runs of a task at once than its limit; no run after
 * the close of its task. A lost wake-up stops the program, and a watchdog aborts it.
 *
 * Environment: CQ_STRESS_SECONDS (2), CQ_TEST_SEED, CQ_TEST_LIMIT. Status: 0, or it aborts.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

enum { THREADS = 3, TASKS = 3, JOBS = 4000, OWN_JOBS = 40, SPIN_NS = 3000, HOSTS = 2 };

enum kind { PLAIN, SLOW, HANGS, DEADLY };

struct job {
	cq_node_t node;
	enum kind kind;
	atomic_uint ran;
};
CQ_NODE_CONTAINER(struct job, node, job_of)

/* A task and its work. */
struct queue {
	cq_workq_t waiting;
	cq_task_t *task;
	uint32_t parallel;
	atomic_uint running;
	atomic_bool closed;
};

static cq_pool_t *pool;
static struct queue queues[TASKS];
static struct job jobs[THREADS][JOBS];
static atomic_ullong progress, added, ran, hanging;
static atomic_bool hang;
static const char *round_name = "";
static bool in_child, hosted, may_stall;

static void dump(void)
{
	cq_pool_stats_t s;

	fprintf(stderr, "%s: added %llu, ran %llu, hanging %llu\n", round_name, added, ran, hanging);
	if (pool == NULL)
		return;
	cq_pool_stats(pool, &s);
	fprintf(stderr, "live %" PRIu32 " of %" PRIu32 "..%" PRIu32 ", idle %" PRIu32 ", coming %" PRIu32
	    ", running %" PRIu32 ", tasks waiting %" PRIu64 ", runs %" PRIu64 ", created %" PRIu64
	    ", failed %" PRIu64 "\n", s.workers_live, s.workers_min, s.workers_max, s.workers_idle,
	    s.workers_coming, s.workers_running, s.tasks_waiting, s.runs, s.workers_created,
	    s.workers_failed);
	for (int i = 0; i < TASKS; i++)
		fprintf(stderr, "task %d: limit %" PRIu32 ", running %u, jobs waiting %" PRIu64 "\n", i,
		    queues[i].parallel, queues[i].running, cq_workq_units(&queues[i].waiting));
}

static void pause_a_little(void)
{
	for (int i = 0; i < 3; i++)
		sched_yield();
}

static void run_job(struct job *job)
{
	CHECK(atomic_fetch_add(&job->ran, 1) == 0);
	if (in_child)
		return;
	switch (job->kind) {
	case SLOW:
		pause_a_little();
		break;
	case HANGS:
		hanging++;
		while (hang)
			sched_yield();
		hanging--;
		break;
	case PLAIN:
	case DEADLY:
		break;
	}
	ran++;
	progress++;
	if (job->kind == DEADLY)
		pthread_exit(NULL);
}

static void run_jobs(cq_run_t *run, void *arg)
{
	struct queue *q = arg;
	cq_node_t *node;

	CHECK(!q->closed);
	/* In a child the count is that of threads that it hasn't, and one of them may have been
	   about to make the task known. */
	CHECK(in_child || cq_task_is_current(q->task));
	CHECK(atomic_fetch_add(&q->running, 1) < q->parallel || q->parallel == 0 || in_child);
	while ((node = cq_workq_try_pop(&q->waiting)) != NULL) {
		cq_run_more(run, cq_workq_units(&q->waiting));
		cq_run_piece(run, node);
		if (job_of(node)->kind == DEADLY)
			q->running--;
		run_job(job_of(node));
		cq_run_piece(run, NULL);
		if (!cq_run_may_continue(run))
			break;
	}
	q->running--;
}

/* The deadly job has run: its worker is lost, and nothing else. */
static void lose(void *arg, void *piece)
{
	(void)arg;
	CHECK(in_child || (job_of(piece)->kind == DEADLY && job_of(piece)->ran == 1));
}

static const cq_task_ops_t ops = { run_jobs, lose, NULL };

static void make_task(struct queue *q, uint32_t parallel)
{
	*q = (struct queue){ .parallel = parallel };
	CHECK(cq_task_create(pool, &ops, q, parallel, &q->task) == 0);
}

static void close_task(struct queue *q)
{
	CHECK(cq_task_close(q->task, CQ_FOREVER) == 0);
	q->closed = true;
}

static void add(struct queue *q, struct job *job, enum kind kind)
{
	job->kind = kind;
	job->ran = 0;
	added++;
	cq_workq_push(&q->waiting, &job->node);
}

static void signal_task(struct queue *q)
{
	int err = cq_task_signal(q->task);

	CHECK(err == 0 || (may_stall && err == EAGAIN));
}

static void add_and_signal(struct queue *q, struct job *job, enum kind kind)
{
	add(q, job, kind);
	signal_task(q);
}

/* ------------------------------------------------------------------------ random */

/* Who was told that the pool is stalled tries again. */
static void try_again(void)
{
	int err = may_stall ? cq_pool_wake(pool) : 0;

	CHECK(err == 0 || err == EAGAIN);
}

static bool has_run(const struct job *job)
{
	try_again();
	return job->ran == 1;
}

/* A task of one's own: made, used, drained by hand or by workers, closed. */
static void own_task(rng_t *r)
{
	/* Records and nodes are read by pops under way, but those of this queue are over by the close. */
	static _Thread_local struct queue q;
	static _Thread_local struct job own[OWN_JOBS];
	unsigned n = (unsigned)rng_below(r, OWN_JOBS);
	bool mine = rng_below(r, 3) == 0;

	make_task(&q, mine ? CQ_BY_OWNER : (uint32_t)rng_below(r, 3));
	for (unsigned i = 0; i < n; i++) {
		add_and_signal(&q, &own[i], PLAIN);
		if (rng_below(r, 8) == 0)
			(void)cq_task_run_some(q.task, (size_t)rng_below(r, 5));
	}
	if (mine)
		while (cq_task_run_some(q.task, 7) != 0)
			;
	for (unsigned i = 0; i < n; i++)
		AWAIT(has_run(&own[i]));
	close_task(&q);
}

/* Nor does a child go on with a work queue of the test's own from which another thread was
   popping, where pops have a lock. */
static bool can_fork(void)
{
	return test_child_has_threads() && strcmp(cq_build_info()->pop, "locked") != 0;
}

static bool all_run(void)
{
	cq_pool_stats_t s;

	(void)cq_pool_run_some(pool, 10);
	cq_pool_stats(pool, &s);
	if (s.tasks_waiting != 0)
		return false;
	for (int i = 0; i < TASKS; i++)
		if (cq_workq_units(&queues[i].waiting) != 0)
			return false;
	return true;
}

/* What the child has of the tasks runs there, by workers of its own and by this thread. */
static void fork_and_go_on(void)
{
	pid_t pid = fork();
	int status, err;

	CHECK(pid >= 0);
	if (pid == 0) {
		alarm(60);
		err = cq_pool_wake(pool);
		CHECK(err == 0 || ((may_stall || hosted) && err == EAGAIN));
		AWAIT(all_run());
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	progress++;
}

static void random_thread(void *arg, unsigned index)
{
	rng_t r = rng_for(index + (unsigned)(uintptr_t)arg);
	unsigned n = 0;

	while (n < JOBS) {
		struct queue *q = &queues[rng_below(&r, TASKS)];
		uint64_t op = rng_below(&r, 100);

		if (op < 60) {
			add_and_signal(q, &jobs[index][n++], rng_below(&r, 50) == 0 ? SLOW : PLAIN);
		} else if (op < 80) {
			for (uint64_t k = rng_below(&r, 40); k > 0 && n < JOBS; k--)
				add(q, &jobs[index][n++], PLAIN);
			signal_task(q);
		} else if (op < 84) {
			(void)cq_task_run_some(q->task, (size_t)rng_below(&r, 20));
		} else if (op < 88) {
			(void)cq_pool_run_some(pool, (size_t)rng_below(&r, 20));
		} else if (op < 90) {
			uint32_t max = 1 + (uint32_t)rng_below(&r, 5);
			uint32_t min = (uint32_t)rng_below(&r, hosted ? 1 : max);
			int err = cq_pool_set_workers(pool, min, max);

			CHECK(err == 0 || (may_stall && err == EAGAIN));
		} else if (op < 92) {
			own_task(&r);
		} else if (op == 92 && can_fork() && rng_below(&r, 100) == 0) {
			fork_and_go_on();
		} else {
			pause_a_little();
		}
	}
}

static cq_pool_config_t some_config(rng_t *r)
{
	uint32_t max = 1 + (uint32_t)rng_below(r, 5);

	return (cq_pool_config_t){
		.workers_min = (uint32_t)rng_below(r, max),
		.workers_max = max,
		.spin_ns = rng_below(r, 2) ? SPIN_NS : CQ_POOL_NO_SPIN,
		.idle_ns = rng_below(r, 3) ? 20000 + rng_below(r, 500000) : CQ_FOREVER,
	};
}

static void make_pool(cq_pool_config_t config)
{
	CHECK(cq_pool_create(&config, &pool) == 0);
	added = ran = 0;
}

/* Nobody calls the pool: what was signalled runs by itself. */
static void end_round(void)
{
	AWAIT(ran == added);
	for (int i = 0; i < TASKS; i++)
		close_task(&queues[i]);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	pool = NULL;
}

static void use_pool(rng_t *r)
{
	for (int i = 0; i < TASKS; i++)
		make_task(&queues[i], (uint32_t)rng_below(r, 3));
	run_threads(THREADS, random_thread, (void *)(uintptr_t)rng_below(r, 1 << 20));
}

static void random_round(rng_t *r)
{
	make_pool(some_config(r));
	use_pool(r);
	end_round();
}

/* ------------------------------------------------------------------------ lent */

static atomic_bool lends;

/* One comes and goes, until it is told; the other stays until destroy. */
static void *lend(void *which)
{
	int err = ETIMEDOUT;

	while (which == NULL && err == ETIMEDOUT && lends)
		err = cq_pool_work(pool, NULL, cq_deadline_in(200000));
	if (which != NULL)
		CHECK(cq_pool_work(pool, NULL, CQ_FOREVER) == 0);
	return NULL;
}

static void lent_round(rng_t *r)
{
	cq_pool_config_t config = some_config(r);
	pthread_t hosts[HOSTS];

	config.flags = CQ_POOL_HOSTED;
	config.workers_min = 0;
	hosted = true;
	make_pool(config);
	lends = true;
	for (int i = 0; i < HOSTS; i++)
		hosts[i] = start(lend, i == 0 ? NULL : &lends);
	use_pool(r);
	AWAIT(ran == added);
	lends = false;
	join(hosts[0]);
	end_round();
	join(hosts[1]);
	hosted = false;
}

/* ---------------------------------------------------------------------- polled */

static atomic_bool polls;

static void *poll_pool(void *unused)
{
	while (polls) {
		if (cq_pool_needs_wake(pool))
			CHECK(cq_pool_wake(pool) == 0);
		(void)cq_pool_run_some(pool, 5);
		sched_yield();
	}
	return unused;
}

static void polled_round(rng_t *r)
{
	cq_pool_config_t config = some_config(r);
	pthread_t poller;

	config.flags = CQ_POOL_POLLED;
	make_pool(config);
	polls = true;
	poller = start(poll_pool, NULL);
	use_pool(r);
	AWAIT(ran == added);
	polls = false;
	join(poller);
	end_round();
}

/* --------------------------------------------------------------------- failing */

struct made {
	void (*body)(void *arg);
	void *arg;
};

static atomic_uint made, spawns;

static void *be_made(void *arg)
{
	struct made m = *(struct made *)arg;

	free(arg);
	m.body(m.arg);
	made--;
	return NULL;
}

/* A system that has often no thread to spare. */
static int spawn_or_not(void *host, void (*body)(void *arg), void *arg)
{
	struct made *m;
	pthread_t thread;

	(void)host;
	if (spawns++ % 3 != 0)
		return EAGAIN;
	m = malloc(sizeof(*m));
	CHECK(m != NULL);
	*m = (struct made){ body, arg };
	made++;
	CHECK(pthread_create(&thread, NULL, be_made, m) == 0);
	CHECK(pthread_detach(thread) == 0);
	return 0;
}

static bool all_ran(void)
{
	try_again();
	return ran == added;
}

static void failing_round(rng_t *r)
{
	cq_pool_config_t config = some_config(r);

	config.workers_min = 0;
	config.spawn = spawn_or_not;
	may_stall = true;
	make_pool(config);
	use_pool(r);
	AWAIT(all_ran());
	end_round();
	AWAIT(made == 0);
	may_stall = false;
}

/* -------------------------------------------------------------------------- hung */

static void hung_round(rng_t *r)
{
	cq_pool_config_t config = some_config(r);
	unsigned n = 0, hung;

	config.workers_max = 2 + (uint32_t)rng_below(r, 3);
	config.workers_min = (uint32_t)rng_below(r, 2);
	hung = 1 + (unsigned)rng_below(r, config.workers_max - 1);
	make_pool(config);
	for (int i = 0; i < TASKS; i++)
		make_task(&queues[i], 0);
	hang = true;
	for (unsigned i = 0; i < 15; i++) {
		struct queue *q = &queues[rng_below(r, TASKS)];

		if (hung != 0 && rng_below(r, 2)) {
			hung--;
			add_and_signal(q, &jobs[0][n++], HANGS);
		}
		for (uint64_t k = 1 + rng_below(r, 5); k > 0; k--)
			add(q, &jobs[0][n++], PLAIN);
		CHECK(cq_task_signal(q->task) == 0);
		if (rng_below(r, 4) == 0)
			pause_a_little();
	}
	/* All but those that hang. */
	for (unsigned i = 0; i < n; i++)
		if (jobs[0][i].kind != HANGS)
			AWAIT(jobs[0][i].ran == 1);
	hang = false;
	end_round();
}

/* ------------------------------------------------------------------------ deadly */

static void deadly_round(rng_t *r)
{
	unsigned n = 0;

	make_pool(some_config(r));
	for (int i = 0; i < TASKS; i++)
		make_task(&queues[i], (uint32_t)rng_below(r, 3));
	while (n < 60)
		add_and_signal(&queues[rng_below(r, TASKS)], &jobs[0][n++],
		    rng_below(r, 4) == 0 ? DEADLY : PLAIN);
	end_round();
}

/* Before the pool's, which gives lost jobs back. */
static void note_child(void)
{
	in_child = true;
}

int main(void)
{
	static void (*const kinds[])(rng_t *r) = { random_round, hung_round, hung_round, deadly_round,
	    lent_round, hung_round, polled_round, failing_round };
	static const char *const names[] = { "random", "hung", "hung", "deadly", "lent", "hung", "polled",
	    "failing" };
	static uint64_t rounds[8];
	uint64_t until = run_until(2);
	watchdog_t dog;
	rng_t r;

	(void)test_seed();
	r = rng_for(1);
	CHECK(pthread_atfork(NULL, NULL, note_child) == 0);
	watchdog_start(&dog, &progress, dump);
	for (unsigned i = 0; i < 8 || test_now() < until; i++) {
		round_name = names[i % 8];
		kinds[i % 8](&r);
		rounds[i % 8]++;
		progress++;
	}
	watchdog_stop(&dog);
	printf("ok: rounds: %" PRIu64 " random, %" PRIu64 " hung, %" PRIu64 " deadly, %" PRIu64 " lent, %"
	    PRIu64 " polled, %" PRIu64 " failing\n", rounds[0], rounds[1] + rounds[2] + rounds[5],
	    rounds[3], rounds[4], rounds[6], rounds[7]);
	return 0;
}
