/* SPDX-License-Identifier: BSD-2-Clause */
#include "jobs.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>

#include "cleanup/cleanup_priv.h"
#include "pool/pool_priv.h"

struct job jobs[JOBS];
int others_from = JOBS;
uint32_t first_waits_for;
cq_cleanup_t *q;
cq_producer_t *producers[2];

static unsigned made_how;
static bool shut;	/* plain: behind the return of a shutdown */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t nran, nbegun;

/* ---------------------------------------------------------------- its threads */

static int beside[4], nbeside;

void run_beside(void (*body)(void *), void *arg)
{
	beside[nbeside++] = spawn(body, arg);
}

void join_beside(void)
{
	while (nbeside > 0)
		join(beside[--nbeside]);
}

/* ------------------------------------------------------------------ workers */

static int make_worker(void *host, void (*body)(void *), void *arg)
{
	(void)host;
	if ((made_how & MAY_FAIL) != 0 && choose(2) == 1)
		return EAGAIN;
	if ((made_how & NO_CLOCK) != 0 && ((cq_run_t *)arg)->count == 0)
		return EAGAIN;
	spawn(body, arg);
	return 0;
}

static void hosts_worker(void *unused)
{
	(void)unused;
	CHECK(cq_pool_work(cq_cleanup_pool(q), NULL, CQ_FOREVER) == 0);
}

void serve(void)
{
	const uint32_t *serving = &cq_cleanup_pool(q)->serving;
	uint32_t before = cq_u32_load_relaxed(serving);

	spawn(hosts_worker, NULL);
	while (cq_u32_load_relaxed(serving) == before)
		sched_yield();
}

void runner(void *unused)
{
	(void)unused;
	cq_cleanup_run_some(q, SIZE_MAX);
}

/* --------------------------------------------------------------------- time */

static uint64_t passed CQ_ALIGNED(8);

static uint64_t now(void *unused)
{
	(void)unused;
	return cq_now() + cq_u64_load_relaxed(&passed);
}

static void park(void *unused, cq_parker_t *parker, uint64_t deadline)
{
	const cq_park_ops_t *ops = cq_park_default();

	(void)unused;
	CHECK(deadline == CQ_FOREVER);
	ops->park(ops->host, parker, deadline);
}

static void unpark(void *unused, cq_parker_t *parker)
{
	const cq_park_ops_t *ops = cq_park_default();

	(void)unused;
	ops->unpark(ops->host, parker);
}

static const cq_park_ops_t ageing = { now, park, unpark, NULL };

void grow_old(void)
{
	cq_u64_store_relaxed(&passed, UINT64_C(1000000000));
}

static void run_signalled(void)
{
	(void)cq_tasks_run_some(cq_cleanup_pool(q), NULL, SIZE_MAX);
}

/* As cq_clock_look, without a walk over all tasks. */
void pass_tick(void *unused)
{
	uint64_t at = cq_u64_load_relaxed(&q->task->at);

	(void)unused;
	if (at != 0 && cq_u64_cas_relaxed(&q->task->at, &at, 0))
		(void)cq_task_signal(q->task);
	run_signalled();
}

/* --------------------------------------------------------------------- jobs */

static void add_to(uint32_t *count)
{
	pthread_mutex_lock(&lock);
	(*count)++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void wait_for(const uint32_t *count, uint32_t n)
{
	pthread_mutex_lock(&lock);
	while (*count < n)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void run(struct job *j)
{
	CHECK(!shut);
	CHECK(j->payload == (int)(j - jobs) + 1);
	CHECK(j->ran == 0 && j->given_back == 0);
	j->ran = 1;
	if (j == &jobs[0] && first_waits_for != 0) {
		add_to(&nbegun);
		wait_for(&nran, first_waits_for);
	}
	if ((made_how & AWAITED) != 0)
		add_to(&nran);
}

static void run_job(void *arg)
{
	CHECK((struct job *)arg < &jobs[others_from]);
	run(arg);
}

static void run_other_job(void *arg)
{
	CHECK((struct job *)arg >= &jobs[others_from]);
	run(arg);
}

static cq_callback_fn *function_of(int i)
{
	return i < others_from ? run_job : run_other_job;
}

static void give_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	struct job *j = arg;

	(void)ctx;
	CHECK(!shut);
	CHECK(fn == function_of((int)(j - jobs)));
	CHECK(j->payload == (int)(j - jobs) + 1);
	CHECK(j->ran == 0 && j->given_back == 0);
	j->given_back = 1;
}

int enqueue(cq_producer_t *p, int i)
{
	int err;

	jobs[i].payload = i + 1;
	err = p == NULL ? cq_cleanup_enqueue(q, function_of(i), &jobs[i]) :
	    (made_how & PUTS) != 0 && p == producers[0] ? cq_producer_put(p, &jobs[i]) :
	    cq_producer_enqueue(p, function_of(i), &jobs[i]);
	CHECK(err == 0 || err == ESHUTDOWN);
	jobs[i].accepted = err == 0;
	return err;
}

void enqueue_some(cq_producer_t *p, int first, int n)
{
	for (int i = 0; i < n; i++)
		CHECK(enqueue(p, first + i) == 0);
}

void span_some(cq_producer_t *p, int first, int n)
{
	cq_callback_t *slots;
	size_t room, accepted;
	int err = cq_producer_span(p, &slots, &room);

	if (err == ESHUTDOWN)
		return;
	CHECK(err == 0 && room >= (size_t)n);
	for (int i = first; i < first + n; i++, slots++) {
		jobs[i].payload = i + 1;
		/* Atomic: a collector may read the slot's last use, and throw it away. */
		cq_ptr_store_relaxed(&slots->fn, function_of(i));
		cq_ptr_store_relaxed(&slots->arg, &jobs[i]);
	}
	err = cq_producer_commit(p, (size_t)n, &accepted);
	CHECK(err == (accepted == (size_t)n ? 0 : ESHUTDOWN));
	for (int i = 0; i < n; i++)
		jobs[first + i].accepted = (size_t)i < accepted;
}

void publish(cq_producer_t *p, int first)
{
	enqueue_some(p, first, ONE_BLOCK);
}

void flusher(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush(q) == 0);
}

void wait_for_jobs(uint32_t n)
{
	wait_for(&nran, n);
}

void let_the_first_go(void)
{
	wait_for(&nbegun, 1);
	add_to(&nran);
}

/* ------------------------------------------------------- the queue's beginning, end */

void begin(unsigned how, uint32_t max_workers, int n)
{
	cq_pool_config_t pool_config = {
		.flags = (how & CALLED) | CQ_POOL_NO_ATFORK,
		.workers_max = max_workers,
		.spin_ns = CQ_POOL_NO_SPIN,
		.idle_ns = CQ_FOREVER,
		.spawn = (how & HOSTED) != 0 ? NULL : make_worker,
		.park = &ageing
	};
	cq_cleanup_config_t config = {
		.parallel = (how & BY_OWNER) != 0 ? CQ_BY_OWNER : (how & SERIAL) != 0,
		.block_bytes = (how & TWO_LINES) != 0 ?
		    CQ_BLOCK_BYTES_MIN + 2 * sizeof(cq_callback_t) : CQ_BLOCK_BYTES_MIN,
		.flush_ns = (how & TIMED) != 0 ? UINT64_C(10000000) : 0,
		.pool_config = &pool_config
	};

	made_how = how;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	if ((how & SLABS) != 0) {
		q->maps = true;
		q->slab_blocks = 3;
	}
	if ((how & TIMED) != 0)
		q->wake_blocks = (how & LAZY) == LAZY ? 3 : 0;
	for (int i = 0; i < n; i++)
		CHECK(cq_producer_attach(q, (how & PUTS) != 0 && i == 0 ? run_job : NULL,
		    &producers[i]) == 0);
}

int shut_down(cq_shutdown_how_t how)
{
	int err;

	while ((err = cq_cleanup_shutdown(q, how, CQ_FOREVER, give_back, NULL)) == EAGAIN)
		runner(NULL);
	return err;
}

static void check_statistics(void)
{
	cq_cleanup_stats_t stats;
	uint64_t accepted = 0, given = 0;

	for (int i = 0; i < JOBS; i++) {
		accepted += jobs[i].accepted;
		given += (uint64_t)jobs[i].given_back;
	}
	cq_cleanup_stats(q, &stats);
	CHECK(stats.queued == accepted && stats.handed_back == given);
	CHECK(stats.executed == accepted - given && stats.blocks_waiting == 0);
}

void end_of_ticks(void)
{
	join_beside();
	calm_down();
	/* None, or it is to come; or it is due, and signalled: a run that looked before it saw that has told who waits. */
	CHECK(q->ticking == 0 || q->task->at != 0 || cq_pool_waiting(cq_cleanup_pool(q)) != 0);
	CHECK(cq_blocks_waiting(q) == 0 || q->ticking != 0 || cq_pool_waiting(cq_cleanup_pool(q)) != 0);
	run_signalled();
	for (int n = 0; q->ticking != 0; n++) {
		CHECK(n < 4);
		pass_tick(NULL);
	}
	for (int i = 0; i < JOBS; i++)
		CHECK(jobs[i].ran == jobs[i].accepted);
}

void end_of_shut_down(void)
{
	join_beside();
	for (int i = 0; i < 2; i++)
		cq_producer_detach(producers[i]);
	for (int i = 0; i < JOBS; i++)
		CHECK(jobs[i].ran + jobs[i].given_back == jobs[i].accepted);
	check_statistics();
	CHECK(cq_cleanup_destroy(q) == 0);
	join_all();
}

void end(cq_shutdown_how_t how)
{
	CHECK(shut_down(how) == 0);
	shut = true;
	end_of_shut_down();
}

void end_calmly(void)
{
	calm_down();
	end(CQ_SHUTDOWN_DRAIN);
}
