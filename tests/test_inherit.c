/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a worker has of the thread that happens to make it: one that is bound, of real time,
 * and in a hurry. Linux alone.
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jobs.h"

TestSuite(inherit, .timeout = 60);

/* Of a thread; as the kernel has it, but for the policy that the C library believes. */
struct view {
	int policy, libc_policy, priority, nice;
	long slack;
	struct cq_creator on; /* its processors */
};

static struct view worker;

static struct view view(void)
{
	struct view v = { .policy = (int)syscall(SYS_sched_getscheduler, 0) };
	struct sched_param param;

	CHECK(pthread_getschedparam(pthread_self(), &v.libc_policy, &param) == 0);
	v.priority = param.sched_priority;
	v.nice = getpriority(PRIO_PROCESS, 0);
	v.slack = prctl(PR_GET_TIMERSLACK);
	CHECK(syscall(SYS_sched_getaffinity, 0, sizeof(v.on.cpus), v.on.cpus) > 0);
	v.on.has_cpus = true;
	return v;
}

static bool same_cpus(const struct cq_creator *one, const struct cq_creator *two)
{
	return memcmp(one->cpus, two->cpus, sizeof(one->cpus)) == 0;
}

static void look(void *arg)
{
	(void)arg;
	worker = view();
}

/* The maker becomes what a test is about; false when it may not. */
static struct maker {
	bool (*become)(void);
	bool is;
	struct view view;
} maker;

static void *make_first(void *unused)
{
	maker.is = maker.become();
	if (!maker.is)
		return NULL;
	maker.view = view();
	CHECK(signal_job(&a, look, NULL) == 0);
	return unused;
}

/* It has said so: its policy may be one that lets no other thread run. */
static void make_and_look(void)
{
	join(start(make_first, NULL));
	AWAIT(!maker.is || a.done == 1);
}

static void open_creator(void)
{
	a = (jobs_t){ .done = 0 };
	open_pool((cq_pool_config_t){ 0 });
	open_task(&a, 0);
}

static void make_a_worker_as(bool (*become)(void))
{
	maker.become = become;
	open_creator();
	make_and_look();
	end_pool();
	if (!maker.is)
		cr_skip("this user may not");
}

static bool policy(int policy, int priority)
{
	return pthread_setschedparam(pthread_self(), policy,
	    &(struct sched_param){ .sched_priority = priority }) == 0;
}

static bool be_first_in_first_out(void) { return policy(SCHED_FIFO, 2); }
static bool be_round_robin(void) { return policy(SCHED_RR, 1); }
static bool be_idle(void) { return policy(SCHED_IDLE, 0); }
static bool be_batch(void) { return policy(SCHED_BATCH, 0) && setpriority(PRIO_PROCESS, 0, 7) == 0; }
static bool be_in_a_hurry(void) { return setpriority(PRIO_PROCESS, 0, -7) == 0; }
static bool be_slack(void) { return prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0) == 0; }

/* By the system call, of which the C library knows nothing; and with a nice of its own. */
static bool be_real_time_in_secret(void)
{
	struct sched_param param = { .sched_priority = 3 };

	(void)view(); /* from now on the C library thinks that it knows */
	return be_in_a_hurry() && syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &param) == 0;
}

static void is_ordinary(void)
{
	cr_assert_eq(worker.policy, SCHED_OTHER);
	cr_assert_eq(worker.libc_policy, SCHED_OTHER);
	cr_assert_eq(worker.priority, 0);
	cr_assert_eq(worker.nice, maker.view.nice < 0 ? 0 : maker.view.nice);
}

Test(inherit, a_worker_leaves_the_fifo_policy_of_its_maker)
{
	make_a_worker_as(be_first_in_first_out);
	cr_assert_eq(maker.view.policy, SCHED_FIFO);
	is_ordinary();
}

Test(inherit, a_worker_leaves_the_round_robin_policy_of_its_maker)
{
	make_a_worker_as(be_round_robin);
	cr_assert_eq(maker.view.policy, SCHED_RR);
	is_ordinary();
}

Test(inherit, a_worker_leaves_a_policy_that_the_c_library_does_not_know_of)
{
	make_a_worker_as(be_real_time_in_secret);
	cr_assert_eq(maker.view.policy, SCHED_FIFO);
	is_ordinary();
}

Test(inherit, a_worker_leaves_the_negative_nice_of_its_maker)
{
	make_a_worker_as(be_in_a_hurry);
	cr_assert_eq(maker.view.nice, -7);
	is_ordinary();
}

Test(inherit, a_worker_is_as_humble_as_its_maker)
{
	make_a_worker_as(be_idle);
	cr_assert_eq(worker.policy, SCHED_IDLE);
	make_a_worker_as(be_batch);
	cr_assert_eq(worker.policy, SCHED_BATCH);
	cr_assert_eq(worker.nice, 7);
}

Test(inherit, a_workers_timers_are_as_exact_as_the_creators)
{
	long slack = prctl(PR_GET_TIMERSLACK);

	make_a_worker_as(be_slack);
	cr_assert_eq(maker.view.slack, 123456);
	cr_assert_eq(worker.slack, slack);
}

/* The last processor that this thread may use. */
static struct cq_creator last_cpu(void)
{
	struct view all = view();
	struct cq_creator one = { .has_cpus = true };
	size_t bits = 8 * sizeof(*one.cpus);

	for (size_t i = sizeof(one.cpus) * 8; i-- > 0; )
		if ((all.on.cpus[i / bits] >> i % bits & 1) != 0) {
			one.cpus[i / bits] = 1ul << i % bits;
			break;
		}
	return one;
}

static bool be_bound(void)
{
	struct cq_creator one = last_cpu();

	return syscall(SYS_sched_setaffinity, 0, sizeof(one.cpus), one.cpus) == 0;
}

Test(inherit, a_worker_runs_where_the_creator_may_and_not_where_its_maker_is_bound)
{
	struct view creator = view();

	make_a_worker_as(be_bound);
	if (same_cpus(&maker.view.on, &creator.on))
		cr_skip("there is one processor");
	cr_assert(same_cpus(&worker.on, &creator.on));
}

static bool be_as_it_is(void) { return true; }

Test(inherit, a_worker_is_bound_as_the_creator_was)
{
	open_creator();
	pool->threads.creator = last_cpu();
	maker.become = be_as_it_is;
	make_and_look();
	cr_assert(same_cpus(&worker.on, &pool->threads.creator));
	end_pool();
}

/* As in a container whose processors have been exchanged. */
Test(inherit, a_creators_processors_that_are_gone_are_ignored)
{
	open_creator();
	memset(pool->threads.creator.cpus, 0, sizeof(pool->threads.creator.cpus));
	((unsigned char *)pool->threads.creator.cpus)[sizeof(pool->threads.creator.cpus) - 1] = 0x80;
	maker.become = be_bound;
	make_and_look();
	cr_assert(maker.is);
	cr_assert(same_cpus(&worker.on, &maker.view.on));
	end_pool();
}
