/* SPDX-License-Identifier: BSD-2-Clause */
/* The job list: order, removal, waiting, many threads, a pool without workers. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "jobs.h"

#define CHECK(condition)							\
	((condition) ? (void)0 : check_failed(__LINE__, #condition))

static void check_failed(int line, const char *condition)
{
	fprintf(stderr, "jobs_test.c:%d: %s\n", line, condition);
	abort();
}

enum { JOBS = 1000, THREADS = 4 };

struct numbered {
	struct job job; /* first: one is the other */
	int number;
	atomic_int ran;
};

static struct numbered jobs[THREADS][JOBS];
static struct jobs list;
static int order[JOBS];
static atomic_int ran;

static bool note(struct job *job)
{
	struct numbered *n = (struct numbered *)job;

	order[ran++] = n->number;
	return true;
}

static bool tally(struct job *job)
{
	((struct numbered *)job)->ran++;
	ran++;
	return true;
}

/* Holds up its worker until it is told to end. */
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool holds;

static bool hold(struct job *job)
{
	(void)job;
	holds = true;
	pthread_mutex_lock(&held);
	pthread_mutex_unlock(&held);
	return true;
}

static void hold_worker(struct job *job)
{
	holds = false;
	pthread_mutex_lock(&held);
	CHECK(jobs_submit(&list, job, hold) == 0);
	while (!holds)
		sched_yield();
}

static void let_go(void)
{
	pthread_mutex_unlock(&held);
}

/* -------------------------------------------------------------------------- tests */

static void begins_in_the_order_of_submit(cq_pool_t *pool)
{
	CHECK(jobs_init(&list, pool, 1) == 0);
	ran = 0;
	for (int i = 0; i < JOBS; i++) {
		jobs[0][i].number = i;
		CHECK(jobs_submit(&list, &jobs[0][i].job, note) == 0);
	}
	CHECK(jobs_wait(&list, NULL, CQ_FOREVER) == 0);
	CHECK(ran == JOBS);
	for (int i = 0; i < JOBS; i++)
		CHECK(order[i] == i && jobs_wait(&list, &jobs[0][i].job, 0) == 0);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

/* The first, one in the middle, and the last of those that wait; and one that has begun. */
static void a_job_that_waits_can_be_removed(cq_pool_t *pool)
{
	struct numbered *j = jobs[0];
	struct job holder;

	CHECK(jobs_init(&list, pool, 1) == 0);
	hold_worker(&holder);
	ran = 0;
	for (int i = 0; i < 6; i++) {
		j[i].number = i;
		CHECK(jobs_submit(&list, &j[i].job, note) == 0);
	}
	CHECK(!jobs_cancel(&list, &holder));
	CHECK(jobs_cancel(&list, &j[0].job) && jobs_cancel(&list, &j[2].job) &&
	    jobs_cancel(&list, &j[5].job));
	CHECK(!jobs_cancel(&list, &j[2].job));
	CHECK(jobs_wait(&list, &j[2].job, CQ_FOREVER) == ECANCELED);
	CHECK(jobs_wait(&list, &j[1].job, cq_now()) == ETIMEDOUT);
	CHECK(jobs_wait(&list, NULL, cq_now()) == ETIMEDOUT);
	let_go();
	CHECK(jobs_wait(&list, &j[4].job, CQ_FOREVER) == 0);
	CHECK(!jobs_cancel(&list, &j[4].job));
	CHECK(jobs_wait(&list, NULL, CQ_FOREVER) == 0);
	CHECK(ran == 3 && order[0] == 1 && order[1] == 3 && order[2] == 4);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

static void *wait_for(void *job)
{
	return (void *)(intptr_t)jobs_wait(&list, job, CQ_FOREVER);
}

static void removal_wakes_who_waits_for_the_job(cq_pool_t *pool)
{
	struct job holder;
	pthread_t waiter;
	void *result;

	CHECK(jobs_init(&list, pool, 1) == 0);
	hold_worker(&holder);
	CHECK(jobs_submit(&list, &jobs[0][0].job, tally) == 0);
	CHECK(pthread_create(&waiter, NULL, wait_for, &jobs[0][0].job) == 0);
	while (cq_sleepers_waiters(&list.waiters, NULL) == 0)
		sched_yield();
	CHECK(jobs_cancel(&list, &jobs[0][0].job));
	CHECK(pthread_join(waiter, &result) == 0 && (intptr_t)result == ECANCELED);
	let_go();
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

/* What a timer's owner does before it frees it. */
static bool is_out_of(struct job *job, uint64_t deadline)
{
	return jobs_cancel(&list, job) || jobs_wait(&list, job, deadline) == 0;
}

static void *get_out_of(void *job)
{
	CHECK(is_out_of(job, CQ_FOREVER));
	CHECK(((struct numbered *)job)->ran == 1);
	return NULL;
}

static bool hold_and_tally(struct job *job)
{
	return hold(job) && tally(job);
}

static void one_that_waits_is_cancelled_and_one_that_runs_is_waited_for(cq_pool_t *pool)
{
	struct numbered *j = jobs[0];
	pthread_t waiter;

	CHECK(jobs_init(&list, pool, 1) == 0);
	j[0].ran = j[1].ran = 0;
	holds = false;
	pthread_mutex_lock(&held);
	CHECK(jobs_submit(&list, &j[0].job, hold_and_tally) == 0);
	CHECK(jobs_submit(&list, &j[1].job, tally) == 0);
	while (!holds)
		sched_yield();
	CHECK(!is_out_of(&j[0].job, cq_now()));
	CHECK(pthread_create(&waiter, NULL, get_out_of, &j[0].job) == 0);
	while (cq_sleepers_waiters(&list.waiters, NULL) == 0)
		sched_yield();
	CHECK(is_out_of(&j[1].job, 0) && j[0].ran == 0);
	let_go();
	CHECK(pthread_join(waiter, NULL) == 0);
	CHECK(jobs_wait(&list, NULL, CQ_FOREVER) == 0 && j[1].ran == 0);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

static void *submit_and_wait(void *arg)
{
	struct numbered *j = arg;
	int err;

	for (int i = 0; i < JOBS; i++) {
		CHECK(jobs_submit(&list, &j[i].job, tally) == 0);
		if (i % 7 == 3 && jobs_cancel(&list, &j[i].job))
			tally(&j[i].job);
		if (i % 50 != 49)
			continue;
		err = jobs_wait(&list, &j[i].job, CQ_FOREVER);
		CHECK(err == 0 || err == ECANCELED);
	}
	return NULL;
}

static void many_threads_lose_nothing(cq_pool_t *pool)
{
	pthread_t threads[THREADS];

	CHECK(jobs_init(&list, pool, 0) == 0);
	ran = 0;
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, submit_and_wait, jobs[i]) == 0);
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(jobs_wait(&list, NULL, CQ_FOREVER) == 0);
	CHECK(ran == THREADS * JOBS);
	for (int i = 0; i < THREADS * JOBS; i++)
		CHECK(jobs[i / JOBS][i % JOBS].ran == 1);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

static bool frees_itself(struct job *job)
{
	ran++;
	free(job);
	return false;
}

static bool submits_itself_again(struct job *job)
{
	if (++ran < JOBS)
		jobs_submit(&list, job, submits_itself_again);
	return false;
}

static void a_job_may_give_itself_away(cq_pool_t *pool)
{
	struct job again;

	CHECK(jobs_init(&list, pool, 0) == 0);
	ran = 0;
	for (int i = 0; i < JOBS; i++) {
		struct job *job = malloc(sizeof(*job));

		CHECK(job != NULL && jobs_submit(&list, job, frees_itself) == 0);
	}
	CHECK(jobs_wait(&list, NULL, CQ_FOREVER) == 0);
	CHECK(ran == JOBS);
	ran = 0;
	CHECK(jobs_submit(&list, &again, submits_itself_again) == 0);
	CHECK(jobs_wait(&list, NULL, CQ_FOREVER) == 0);
	CHECK(ran == JOBS);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

static bool waits_for_all(struct job *job)
{
	(void)job;
	ran = jobs_wait(&list, NULL, CQ_FOREVER);
	return true;
}

static void a_job_does_not_wait_for_its_list(cq_pool_t *pool)
{
	struct job job;

	CHECK(jobs_init(&list, pool, 1) == 0);
	CHECK(jobs_submit(&list, &job, waits_for_all) == 0);
	CHECK(jobs_wait(&list, &job, CQ_FOREVER) == 0);
	CHECK(ran == EDEADLK);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
}

static int no_worker(void *host, void (*body)(void *arg), void *arg)
{
	(void)host;
	(void)body;
	(void)arg;
	return EAGAIN;
}

/* No worker can be made: waiting says so, and the caller runs the jobs. */
static void without_workers_the_caller_runs_them(void)
{
	cq_pool_config_t config = { .workers_max = 1, .spawn = no_worker };
	struct job *job = &jobs[0][0].job;
	cq_pool_t *pool;

	CHECK(cq_pool_create(&config, &pool) == 0);
	CHECK(jobs_init(&list, pool, 1) == 0);
	CHECK(jobs_submit(&list, job, tally) == EAGAIN);
	CHECK(jobs_wait(&list, job, CQ_FOREVER) == EAGAIN);
	CHECK(cq_task_run_some(list.task, 1) == 1);
	CHECK(jobs_wait(&list, job, CQ_FOREVER) == 0);
	CHECK(jobs_destroy(&list, CQ_FOREVER) == 0);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
}

int main(void)
{
	cq_pool_config_t config = { .workers_max = 3 };
	cq_pool_t *pool;

	CHECK(cq_pool_create(&config, &pool) == 0);
	many_threads_lose_nothing(pool);
	begins_in_the_order_of_submit(pool);
	a_job_that_waits_can_be_removed(pool);
	removal_wakes_who_waits_for_the_job(pool);
	one_that_waits_is_cancelled_and_one_that_runs_is_waited_for(pool);
	a_job_may_give_itself_away(pool);
	a_job_does_not_wait_for_its_list(pool);
	CHECK(cq_pool_destroy(pool, CQ_FOREVER) == 0);
	without_workers_the_caller_runs_them();
	printf("jobs: in order, removed, waited for\n");
	return 0;
}
