/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L2-calls and L3-calls: what single calls of the event count and of the pool take, by the
 * state that they meet. Those that wake are medians of single calls; the others are means
 * of many in a row.
 */
#include <cq/cq.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

enum { CALLS = 100000, WAKES = 200, GAP_NS = 100000 };

static void check(int err, const char *what)
{
	if (err != 0)
		bench_die(what, err);
}

static pthread_t start(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	check(pthread_create(&thread, NULL, body, arg), "pthread_create");
	return thread;
}

static double per_call(uint64_t began, unsigned calls)
{
	return (double)(now() - began) / calls;
}

/* ------------------------------------------- a park table that keeps one on the way */

static bool holds;		/* the next to be unparked is held */
static cq_parker_t *held;

static uint64_t holding_now(void *host)
{
	(void)host;
	return cq_now();
}

static void holding_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	const cq_park_ops_t *park = cq_park_default();

	(void)host;
	park->park(park->host, parker, deadline);
}

static void holding_unpark(void *host, cq_parker_t *parker)
{
	const cq_park_ops_t *park = cq_park_default();

	(void)host;
	if (!holds) {
		park->unpark(park->host, parker);
		return;
	}
	held = parker;
	holds = false;
}

static const cq_park_ops_t holding = { holding_now, holding_park, holding_unpark, NULL };

static void let_go(void)
{
	const cq_park_ops_t *park = cq_park_default();

	park->unpark(park->host, held);
}

/* ------------------------------------------------------------------------- layer 2 */

static struct {
	cq_sleepers_t set;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint32_t waits, waited; /* of condvar_wait, under the lock */
} s = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

static double prepare_cancel(void)
{
	uint64_t began;
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	began = now();
	for (int i = 0; i < CALLS; i++) {
		cq_sleepers_prepare_wait(&s.set, &me);
		cq_sleepers_cancel_wait(&s.set, &me);
	}
	return per_call(began, CALLS);
}

static double ensures(void)
{
	uint64_t began = now();

	for (int i = 0; i < CALLS; i++)
		cq_sleepers_ensure(&s.set, 1);
	return per_call(began, CALLS);
}

static double lock_signal_unlock(void)
{
	uint64_t began = now();

	for (int i = 0; i < CALLS; i++) {
		pthread_mutex_lock(&s.lock);
		pthread_cond_signal(&s.cond);
		pthread_mutex_unlock(&s.lock);
	}
	return per_call(began, CALLS);
}

/* Sleeps until it is told to stop. */
static void *wait_for_stop(void *arg)
{
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	do
		cq_sleepers_prepare_wait(&s.set, &me);
	while (cq_sleepers_commit_wait(&s.set, &me, CQ_FOREVER) != CQ_STOPPED);
	return arg;
}

static void *condvar_wait(void *arg)
{
	pthread_mutex_lock(&s.lock);
	while (s.waits < WAKES) {
		s.waits++;
		while (s.waited < s.waits)
			pthread_cond_wait(&s.cond, &s.lock);
	}
	pthread_mutex_unlock(&s.lock);
	return arg;
}

/* Of two that wait, one is on the way: nobody is missing. */
static double ensure_coming(void)
{
	pthread_t threads[2];
	double ns;

	check(cq_sleepers_init(&s.set, &holding, 0), "cq_sleepers_init");
	for (int i = 0; i < 2; i++)
		threads[i] = start(wait_for_stop, NULL);
	while (cq_sleepers_waiters(&s.set, NULL) != 2)
		sleep_until(now() + GAP_NS);
	holds = true;
	while (cq_sleepers_ensure(&s.set, 1) == 0) /* prepared, but not listed yet */
		sleep_until(now() + GAP_NS);
	ns = ensures();
	let_go();
	cq_sleepers_stop(&s.set);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	check(cq_sleepers_destroy(&s.set), "cq_sleepers_destroy");
	return ns;
}

static double median_of(uint64_t *samples, unsigned n)
{
	sort_ns(samples, n);
	return percentile(samples, n, 500);
}

static double ensure_asleep(void)
{
	pthread_t thread = start(wait_for_stop, NULL);
	uint64_t samples[WAKES], began;

	for (int i = 0; i < WAKES; i++) {
		do
			sleep_until(now() + GAP_NS);
		while (cq_sleepers_waiters(&s.set, NULL) == 0);
		began = now();
		cq_sleepers_ensure(&s.set, 1);
		samples[i] = now() - began;
	}
	cq_sleepers_stop(&s.set);
	pthread_join(thread, NULL);
	return median_of(samples, WAKES);
}

static double signal_asleep(void)
{
	pthread_t thread = start(condvar_wait, NULL);
	uint64_t samples[WAKES], began;

	for (uint32_t i = 0; i < WAKES; i++) {
		bool waits;

		do {
			sleep_until(now() + GAP_NS);
			pthread_mutex_lock(&s.lock);
			waits = s.waits == i + 1;
			pthread_mutex_unlock(&s.lock);
		} while (!waits);
		began = now();
		pthread_mutex_lock(&s.lock);
		s.waited++;
		pthread_cond_signal(&s.cond);
		pthread_mutex_unlock(&s.lock);
		samples[i] = now() - began;
	}
	pthread_join(thread, NULL);
	return median_of(samples, WAKES);
}

void run_sleepers_calls(const struct workload *w, const struct contestant *c, struct result *r)
{
	(void)w;
	(void)c;
	sleep_exactly();
	s.waits = s.waited = 0;
	r->metrics[3] = ensure_coming();
	check(cq_sleepers_init(&s.set, NULL, 0), "cq_sleepers_init");
	r->metrics[0] = prepare_cancel();
	r->metrics[1] = ensures();
	r->metrics[2] = lock_signal_unlock();
	r->metrics[4] = ensure_asleep();
	r->metrics[5] = signal_asleep();
	check(cq_sleepers_destroy(&s.set), "cq_sleepers_destroy");
}

/* ------------------------------------------------------------------------- layer 3 */

enum { TASKS = 1000 };

static struct {
	cq_pool_t *pool;
	cq_task_t *tasks[TASKS];
	uint64_t runs, left;
	uint64_t began, ended;
} p;

static void count_run(cq_run_t *run, void *arg)
{
	(void)run;
	(void)arg;
	__atomic_fetch_add(&p.runs, 1, __ATOMIC_RELEASE);
}

static void run_again(cq_run_t *run, void *arg)
{
	(void)arg;
	if (p.began == 0)
		p.began = now();
	if (--p.left != 0) {
		cq_run_more(run, p.left);
		return;
	}
	p.ended = now();
	__atomic_fetch_add(&p.runs, 1, __ATOMIC_RELEASE);
}

static void open_pool(const cq_pool_config_t *config, unsigned tasks,
    void (*run)(cq_run_t *run, void *arg))
{
	static cq_task_ops_t ops;

	ops = (cq_task_ops_t){ .run = run };
	p.runs = 0;
	check(cq_pool_create(config, &p.pool), "cq_pool_create");
	for (unsigned i = 0; i < tasks; i++)
		check(cq_task_create(p.pool, &ops, NULL, 0, &p.tasks[i]), "cq_task_create");
}

static void close_pool(unsigned tasks)
{
	for (unsigned i = 0; i < tasks; i++)
		check(cq_task_close(p.tasks[i], CQ_FOREVER), "cq_task_close");
	check(cq_pool_destroy(p.pool, CQ_FOREVER), "cq_pool_destroy");
}

static void signal_task(unsigned i)
{
	check(cq_task_signal(p.tasks[i]), "cq_task_signal");
}

static void await_runs(uint64_t runs)
{
	while (__atomic_load_n(&p.runs, __ATOMIC_ACQUIRE) < runs)
		sleep_until(now() + GAP_NS);
}

static bool worker_is_idle(void)
{
	cq_pool_stats_t stats;

	cq_pool_stats(p.pool, &stats);
	return stats.workers_idle == 1 && stats.tasks_waiting == 0 && stats.workers_running == 0;
}

/* No wake: the push of the record, or not even that; then runs that find nothing. */
static void polled(struct result *r)
{
	cq_pool_config_t config = { .flags = CQ_POOL_POLLED, .workers_max = 1 };
	uint64_t began;

	open_pool(&config, TASKS, count_run);
	began = now();
	for (unsigned i = 0; i < TASKS; i++)
		signal_task(i);
	r->metrics[0] = per_call(began, TASKS);
	began = now();
	cq_pool_run_some(p.pool, SIZE_MAX);
	r->metrics[5] = per_call(began, TASKS);
	if (p.runs != TASKS)
		bench_die("runs of a polled pool", ERANGE);
	close_pool(TASKS);
}

static void await_idle_worker(void)
{
	do
		sleep_until(now() + GAP_NS);
	while (!worker_is_idle());
}

/* The worker is on its way for the first task while others are signalled, then that one again. */
static void worker_on_its_way(struct result *r)
{
	cq_pool_config_t config = {
		.workers_min = 1, .workers_max = 1, .park = &holding, .idle_ns = CQ_FOREVER,
	};
	uint64_t began;

	open_pool(&config, TASKS, count_run);
	holds = true;
	do {
		await_idle_worker();
		signal_task(0);
	} while (holds); /* it was not on the list yet */
	began = now();
	for (unsigned i = 1; i < TASKS; i++)
		signal_task(i);
	r->metrics[2] = per_call(began, TASKS - 1);
	began = now();
	for (int i = 0; i < CALLS; i++)
		signal_task(0);
	r->metrics[1] = per_call(began, CALLS);
	let_go();
	await_runs(TASKS);
	close_pool(TASKS);
}

static double wake_of_one(int32_t spin_ns, uint64_t gap_ns)
{
	cq_pool_config_t config = {
		.workers_min = 1, .workers_max = 1, .spin_ns = spin_ns, .idle_ns = CQ_FOREVER,
	};
	uint64_t samples[WAKES], began;

	open_pool(&config, 1, count_run);
	for (unsigned i = 0; i < WAKES; i++) {
		do
			if (spin_ns > 0)
				work_until(now() + gap_ns);
			else
				sleep_until(now() + gap_ns);
		while (p.runs != i || !worker_is_idle());
		began = now();
		signal_task(0);
		samples[i] = now() - began;
	}
	await_runs(WAKES);
	close_pool(1);
	return median_of(samples, WAKES);
}

/* A task that has more each time, to the only worker. */
static double run_and_more(void)
{
	cq_pool_config_t config = { .workers_max = 1, .idle_ns = CQ_FOREVER };

	p.began = 0;
	p.left = CALLS;
	open_pool(&config, 1, run_again);
	signal_task(0);
	await_runs(1);
	close_pool(1);
	return (double)(p.ended - p.began) / (CALLS - 1);
}

void run_pool_calls(const struct workload *w, const struct contestant *c, struct result *r)
{
	(void)w;
	(void)c;
	sleep_exactly();
	polled(r);
	worker_on_its_way(r);
	r->metrics[3] = settings.processors >= 2 ? wake_of_one(CQ_POOL_SPIN_NS_MAX, 3000) : NAN;
	r->metrics[4] = wake_of_one(CQ_POOL_NO_SPIN, GAP_NS);
	r->metrics[6] = run_and_more();
}
