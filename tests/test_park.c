/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The default park table of this build. park may always return early, so the
 * tests loop as layer 2 does, and only bound how often.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

TestSuite(park, .timeout = 60);

enum { THREADS = 32, ROUNDS = 2000, MS = 1000000 };
/* More early returns than any system has a reason for. */
enum { TOO_OFTEN = 200 };

static const cq_park_ops_t *ops(void)
{
	return cq_park_default();
}

static void unpark(cq_parker_t *p)
{
	ops()->unpark(ops()->host, p);
}

/* Parks until granted or past the deadline; returns how often park was called. */
static unsigned park_until(cq_parker_t *p, uint64_t deadline)
{
	unsigned n = 0;

	while (!cq_parker_granted(p) && (deadline == CQ_FOREVER || cq_now() < deadline)) {
		ops()->park(ops()->host, p, deadline);
		n++;
	}
	return n;
}

/* A thread that parks for ever on `parker`. */
struct parked {
	cq_parker_t parker;
	pthread_t thread;
	uint64_t deadline;
	atomic_uint returns; /* of park */
	gate_t parking;
};

static void *park_here(void *arg)
{
	struct parked *p = arg;

	while (!cq_parker_granted(&p->parker)) {
		ops()->park(ops()->host, &p->parker, p->deadline);
		p->returns++;
	}
	return NULL;
}

static void start_parked(struct parked *p, uint64_t deadline)
{
	p->deadline = deadline;
	p->parking = (gate_t)GATE_INITIALIZER;
	at_point("park.parking", gate_open, &p->parking);
	p->thread = start(park_here, p);
	gate_wait(&p->parking);
}

Test(park, the_table_is_complete_and_named)
{
	cr_assert_not_null(ops());
	cr_assert_not_null(ops()->now);
	cr_assert_not_null(ops()->park);
	cr_assert_not_null(ops()->unpark);
	cr_assert(strcmp(cq_build_info()->park, "futex") == 0 || strcmp(cq_build_info()->park, "condvar") == 0);
}

/* Only a futex has its threads say in the permit that they park. */
Test(park, the_name_is_that_of_its_kind)
{
	cq_parker_t p = { 0, NULL };

	ops()->park(ops()->host, &p, 0);
	cr_assert_str_eq(cq_build_info()->park, p.permit != 0 ? "futex" : "condvar");
}

Test(park, a_fresh_parker_has_no_permit_and_a_grant_gives_it)
{
	cq_parker_t p = { 0, NULL };

	cr_assert_not(cq_parker_granted(&p));
	cq_parker_grant(&p);
	cr_assert(cq_parker_granted(&p));
}

Test(park, a_grant_before_park_lets_it_return_at_once)
{
	cq_parker_t p = { 0, NULL };

	unpark(&p);
	cr_assert(cq_parker_granted(&p));
	ops()->park(ops()->host, &p, CQ_FOREVER);
	ops()->park(ops()->host, &p, cq_deadline_in(UINT64_C(3600000) * MS));
	cr_assert(cq_parker_granted(&p));
}

Test(park, unpark_ends_a_park_that_is_under_way)
{
	static struct parked p;

	start_parked(&p, CQ_FOREVER);
	unpark(&p.parker);
	join(p.thread);
	cr_assert(cq_parker_granted(&p.parker));
}

Test(park, a_parker_can_park_again_after_its_deadline)
{
	static cq_parker_t p;

	park_until(&p, cq_deadline_in(MS));
	park_until(&p, cq_deadline_in(MS));
	cr_assert_not(cq_parker_granted(&p));
	unpark(&p);
	cr_assert_eq(park_until(&p, CQ_FOREVER), 0);
}

Test(park, a_deadline_ends_a_park_and_never_early)
{
	for (uint64_t ms = 1; ms <= 32; ms *= 2) {
		cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER;
		cq_parker_t p = { 0, NULL };
		cq_sleeper_t s;
		uint64_t deadline = cq_deadline_in(ms * MS);

		cr_assert_lt(park_until(&p, deadline), TOO_OFTEN, "park doesn't block");
		cr_assert_not(cq_parker_granted(&p));

		cq_sleeper_init(&s, NULL);
		deadline = cq_deadline_in(ms * MS);
		cq_sleepers_prepare_wait(&set, &s);
		cr_assert_eq(cq_sleepers_commit_wait(&set, &s, deadline), CQ_TIMED_OUT);
		cr_assert_geq(cq_now(), deadline);
	}
}

Test(park, a_deadline_in_the_past_ends_a_park)
{
	const uint64_t past[] = { 0, 1, 999999999, UINT64_C(1000000000), cq_now() };

	for (size_t i = 0; i < sizeof(past) / sizeof(past[0]); i++) {
		cq_parker_t p = { 0, NULL };

		ops()->park(ops()->host, &p, past[i]);
		cr_assert_not(cq_parker_granted(&p));
	}
}

Test(park, a_far_deadline_blocks)
{
	static const uint64_t far[] = {
		CQ_FOREVER - 1, CQ_FOREVER / 2 + 1, CQ_FOREVER / 2, UINT64_C(1) << 62
	};
	static struct parked p[4];

	for (size_t i = 0; i < 4; i++)
		start_parked(&p[i], far[i]);
	/* Time for a park that refuses its deadline to come back all the time. */
	park_until(&(cq_parker_t){ 0, NULL }, cq_deadline_in(50 * MS));
	for (size_t i = 0; i < 4; i++) {
		cr_expect_lt(p[i].returns, TOO_OFTEN, "deadline %zu", i);
		unpark(&p[i].parker);
		join(p[i].thread);
	}
}

static void ignore(int signal)
{
	(void)signal;
}

Test(park, signals_neither_grant_nor_break_a_park)
{
	static struct parked p, timed;
	struct sigaction action = { .sa_handler = ignore };

	cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
	start_parked(&p, CQ_FOREVER);
	start_parked(&timed, cq_deadline_in(UINT64_C(3600000) * MS));
	for (int i = 0; i < ROUNDS; i++) {
		cr_assert_eq(pthread_kill(p.thread, SIGUSR1), 0);
		cr_assert_eq(pthread_kill(timed.thread, SIGUSR1), 0);
	}
	cr_assert_not(cq_parker_granted(&p.parker));
	cr_assert_not(cq_parker_granted(&timed.parker));
	unpark(&p.parker);
	unpark(&timed.parker);
	join(p.thread);
	join(timed.thread);
}

Test(park, each_of_many_gets_its_own_permit)
{
	static struct parked p[THREADS];

	for (int i = 0; i < THREADS; i++)
		start_parked(&p[i], CQ_FOREVER);
	for (int i = 0; i < THREADS; i += 2) {
		unpark(&p[i].parker);
		join(p[i].thread);
	}
	for (int i = 1; i < THREADS; i += 2)
		cr_assert_not(cq_parker_granted(&p[i].parker));
	for (int i = 1; i < THREADS; i += 2)
		unpark(&p[i].parker);
	for (int i = 1; i < THREADS; i += 2)
		join(p[i].thread);
}

/* Two threads take turns: a grant that came at the wrong moment would stop both. */
static struct {
	cq_parker_t parker[2][ROUNDS];
	unsigned ball; /* not atomic: the permits order it */
} game;

static void play(void *unused, unsigned me)
{
	(void)unused;
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (me != 0 || i != 0)
			park_until(&game.parker[me][i], CQ_FOREVER);
		CHECK(game.ball == 2 * i + me);
		game.ball++;
		if (me == 0)
			unpark(&game.parker[1][i]);
		else if (i + 1 < ROUNDS)
			unpark(&game.parker[0][i + 1]);
	}
}

Test(park, no_grant_is_lost_at_any_moment)
{
	run_threads(2, play, NULL);
	cr_assert_eq(game.ball, 2 * ROUNDS);
}

/* The threads that waited are not in the child, and nothing there waits for them. */
Test(park, a_forked_child_can_park_and_be_unparked)
{
	static struct parked p;
	int status;
	pid_t pid;

	start_parked(&p, CQ_FOREVER);
	pid = fork();
	if (pid == 0) {
		alarm(10);
		unpark(&p.parker); /* nobody is there */
		for (int i = 0; i < 3; i++) {
			p.parker = (cq_parker_t){ 0, NULL };
			start_parked(&p, CQ_FOREVER);
			unpark(&p.parker);
			join(p.thread);
		}
		_exit(0);
	}
	cr_assert_gt(pid, 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	unpark(&p.parker);
	join(p.thread);
}

Test(park, the_clock_never_goes_back_and_is_that_of_the_table)
{
	uint64_t last = test_now();

	/* Between two looks at CLOCK_MONOTONIC: one that may be set back differs from it. */
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t now = i % 2 != 0 ? cq_now() : ops()->now(ops()->host);

		cr_assert_geq(now, last);
		last = test_now();
		cr_assert_leq(now, last);
	}
}

Test(park, deadlines_saturate)
{
	uint64_t before = cq_now(), deadline = cq_deadline_in(5);

	cr_assert_geq(deadline, before + 5);
	cr_assert_leq(deadline, cq_now() + 5);
	cr_assert_eq(cq_deadline_in(CQ_FOREVER), CQ_FOREVER);
	cr_assert_eq(cq_deadline_in(CQ_FOREVER - 1), CQ_FOREVER);
	cr_assert_lt(cq_deadline_in(CQ_FOREVER / 2), CQ_FOREVER);
}
