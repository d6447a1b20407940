/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 1. Races are steered: what the other thread would do happens at a
 * schedule point, in the same thread. The last tests use real threads.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "support.h"

TestSuite(workq, .timeout = 60);

struct job {
	int before; /* so that the node is not at the start */
	cq_node_t node;
	uint64_t payload;
};
CQ_NODE_CONTAINER(struct job, node, job_of)

enum { NODES = 8 };
static cq_node_t node[NODES];
static cq_workq_t q = CQ_WORKQ_INITIALIZER;

/* Nodes 0 .. n-1 as a chain, for push_chain. */
static void chain(unsigned n)
{
	for (unsigned i = 0; i + 1 < n; i++)
		node[i].next = &node[i + 1];
	node[n - 1].next = NULL;
}

/* How many nodes are linked. */
static uint64_t linked(void)
{
	uint64_t n = 0;

	for (cq_node_t *p = q.stack.head; p != NULL; p = p->next)
		n++;
	return n;
}

/* ----------------------------------------------------------- init, destroy */

Test(workq, init_makes_an_empty_queue)
{
	memset(&q, 0xff, sizeof(q));
	cr_assert_eq(cq_workq_init(&q), 0);
	cr_assert_eq(cq_workq_units(&q), 0);
	cr_assert_eq(linked(), 0);
	cr_assert_null(cq_workq_try_pop(&q));
}

Test(workq, static_initializer_is_an_empty_queue)
{
	static cq_workq_t fresh = CQ_WORKQ_INITIALIZER;

	memset(&q, 0xff, sizeof(q));
	cr_assert_eq(cq_workq_init(&q), 0);
	cr_assert_eq(fresh.stack.head, q.stack.head);
	cr_assert_eq(fresh.stack.generation, q.stack.generation);
	cr_assert_eq(fresh.units, q.units);
	cq_workq_push(&fresh, &node[0]);
	cr_assert_eq(cq_workq_try_pop(&fresh), &node[0]);
}

Test(workq, init_refuses_null_and_misaligned_queues)
{
	static union {
		cq_workq_t aligned;
		char bytes[2 * sizeof(cq_workq_t)];
	} u;

	memset(&u, 0x5a, sizeof(u));
	cr_assert_eq(cq_workq_init(NULL), EINVAL);
	for (size_t offset = 1; offset < 2 * sizeof(void *); offset++)
		cr_assert_eq(cq_workq_init((cq_workq_t *)(void *)(u.bytes + offset)), EINVAL,
		    "offset %zu", offset);
	for (size_t i = 0; i < sizeof(u); i++)
		cr_assert_eq(u.bytes[i], 0x5a);
	cr_assert_eq(cq_workq_init(&u.aligned), 0);
}

Test(workq, destroy_refuses_nodes_and_units)
{
	cr_assert_eq(cq_workq_destroy(NULL), EINVAL);
	cq_workq_link(&q, &node[0]);
	cr_assert_eq(cq_workq_destroy(&q), EBUSY, "a node that is not counted");
	cq_workq_add_work(&q, 1);
	cr_assert_eq(cq_workq_destroy(&q), EBUSY);
	cr_assert(cq_workq_try_take_work(&q));
	cr_assert_eq(cq_workq_destroy(&q), EBUSY, "a unit is taken and its node still there");
	cr_assert_eq(cq_workq_pop_taken(&q), &node[0]);
	cq_workq_add_work(&q, 1);
	cr_assert_eq(cq_workq_destroy(&q), EBUSY, "a unit");
	cr_assert_eq(cq_workq_units(&q), 1);
	cr_assert(cq_workq_try_take_work(&q));
	cr_assert_eq(cq_workq_destroy(&q), 0);
}

/* ------------------------------------------------------------ publishing */

Test(workq, linked_nodes_cannot_be_taken_before_they_are_counted)
{
	cq_workq_link(&q, &node[0]);
	cr_assert_eq(linked(), 1);
	cr_assert_eq(cq_workq_units(&q), 0);
	cr_assert_not(cq_workq_try_take_work(&q));
	cr_assert_null(cq_workq_try_pop(&q));
	cr_assert_eq(linked(), 1);
	cr_assert_eq(cq_workq_add_work(&q, 1), 0);
	cr_assert_eq(cq_workq_try_pop(&q), &node[0]);
}

Test(workq, a_linked_chain_may_be_counted_in_parts)
{
	chain(3);
	cq_workq_link_chain(&q, &node[0], &node[2]);
	cr_assert_eq(cq_workq_units(&q), 0);
	cr_assert_eq(cq_workq_add_work(&q, 2), 0);
	cr_assert_eq(take_some(&q, 8), 2);
	cr_assert_eq(cq_workq_add_work(&q, 1), 0);
	cr_assert_eq(cq_workq_units(&q), 1);
	cr_assert_eq(linked(), 3);
}

Test(workq, publishing_returns_the_units_before)
{
	cr_assert_eq(cq_workq_push(&q, &node[7]), 0);
	cr_assert_eq(cq_workq_push(&q, &node[6]), 1);
	chain(3);
	cr_assert_eq(cq_workq_push_chain(&q, &node[0], &node[2], 3), 2);
	cq_workq_link(&q, &node[5]);
	cr_assert_eq(cq_workq_add_work(&q, 1), 5);
	cr_assert_eq(cq_workq_add_work(&q, 0), 6);
	cr_assert_eq(cq_workq_units(&q), 6);
}

Test(workq, last_in_is_first_out)
{
	for (int i = 0; i < NODES; i++)
		cq_workq_push(&q, &node[i]);
	for (int i = NODES - 1; i >= 0; i--)
		cr_assert_eq(cq_workq_try_pop(&q), &node[i]);
	cr_assert_null(cq_workq_try_pop(&q));
}

Test(workq, a_chain_comes_out_in_its_own_order)
{
	cq_workq_push(&q, &node[7]);
	chain(3);
	cq_workq_push_chain(&q, &node[0], &node[2], 3);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(cq_workq_try_pop(&q), &node[i]);
	cr_assert_eq(cq_workq_try_pop(&q), &node[7]);
}

static void see_all_or_nothing(const char *where, void *steps)
{
	uint64_t n = linked();

	CHECK(n == 0 || n == NODES);
	CHECK(n == 0 || strcmp(where, "workq.linked") == 0);
	++*(unsigned *)steps;
}

Test(workq, a_chain_is_linked_with_one_swap)
{
	unsigned steps = 0;

	chain(NODES);
	at_every_point(see_all_or_nothing, &steps);
	cq_workq_push_chain(&q, &node[0], &node[NODES - 1], NODES);
	cr_assert_eq(steps, 2, "one link, one count");
	cr_assert_eq(linked(), NODES);
}

/* W1, wherever another thread might look. A taken unit still has its node: `owed`. */
static uint64_t owed;

static void check_w1(const char *where, void *steps)
{
	CHECK(cq_workq_units(&q) <= linked());
	CHECK(strcmp(where, "workq.taken") != 0 || cq_workq_units(&q) + owed <= linked());
	++*(unsigned *)steps;
}

Test(workq, units_never_exceed_linked_nodes)
{
	unsigned steps = 0;

	at_every_point(check_w1, &steps);
	cq_workq_push(&q, &node[7]);
	cq_workq_push(&q, &node[6]);
	chain(5);
	cq_workq_push_chain(&q, &node[0], &node[4], 5);
	owed = 1;
	cr_assert_not_null(cq_workq_try_pop(&q));
	owed = take_some(&q, 4);
	cr_assert_not_null(cq_workq_pop_taken_n(&q, owed));
	cr_assert_geq(steps, 10);
}

/* --------------------------------------------------------------- taking */

static void take_one(void *took)
{
	*(bool *)took = cq_workq_try_take_work(&q);
}

Test(workq, take_never_goes_below_zero)
{
	bool other;

	cr_assert_not(cq_workq_try_take_work(&q));
	cr_assert_eq(take_some(&q, UINT64_MAX), 0);
	cr_assert_eq(cq_workq_units(&q), 0);

	cq_workq_push(&q, &node[0]);
	at_point("workq.take", take_one, &other);
	cr_assert_not(cq_workq_try_take_work(&q), "two threads took the one unit");
	cr_assert(other);
	cr_assert_eq(cq_workq_units(&q), 0);
}

static void push_one(void *n)
{
	cq_workq_push(&q, n);
}

Test(workq, take_fails_only_when_it_saw_zero)
{
	bool other;

	cq_workq_push(&q, &node[0]);
	cq_workq_push(&q, &node[1]);
	at_point("workq.take", take_one, &other);
	cr_assert(cq_workq_try_take_work(&q), "another thread was faster, but a unit is left");
	cr_assert(other);
	cr_assert_eq(cq_workq_units(&q), 0);
}

static void count(const char *where, void *takes)
{
	*(unsigned *)takes += strcmp(where, "workq.take") == 0;
}

Test(workq, take_some_takes_the_smaller_number_in_one_step)
{
	unsigned takes = 0;

	chain(6);
	cq_workq_push_chain(&q, &node[0], &node[5], 6);
	at_every_point(count, &takes);
	cr_assert_eq(take_some(&q, 0), 0);
	cr_assert_eq(takes, 0);
	cr_assert_eq(take_some(&q, 4), 4);
	cr_assert_eq(takes, 1);
	cr_assert_eq(cq_workq_units(&q), 2);
	cr_assert_eq(take_some(&q, 4), 2);
	cr_assert_eq(takes, 2);
	cr_assert_eq(cq_workq_units(&q), 0);
	cr_assert_eq(linked(), 6);
}

Test(workq, take_some_counts_again_when_the_units_moved)
{
	bool other;

	chain(3);
	cq_workq_push_chain(&q, &node[0], &node[2], 3);
	at_point("workq.take", take_one, &other);
	cr_assert_eq(take_some(&q, 8), 2);
	cr_assert_eq(cq_workq_units(&q), 0);

	cq_workq_push(&q, &node[3]);
	at_point("workq.take", push_one, &node[4]);
	cr_assert_eq(take_some(&q, 8), 2);
	cr_assert_eq(cq_workq_units(&q), 0);
}

static const uint64_t edges[] = {
	UINT64_C(0x7ffffffe), UINT64_C(0xfffffffe), UINT64_C(0xffffffff), UINT64_C(0x100000000),
	UINT64_C(0x7ffffffffffffffe), UINT64_MAX - 3
};

Test(workq, counters_pass_2_32_and_reach_2_64)
{
	for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		uint64_t n = edges[i];

		q.units = n;
		cr_assert_eq(cq_workq_push(&q, &node[0]), n);
		chain(2);
		cr_assert_eq(cq_workq_push_chain(&q, &node[0], &node[1], 2), n + 1);
		cr_assert_eq(cq_workq_units(&q), n + 3);
		cr_assert(cq_workq_try_take_work(&q));
		cr_assert_eq(take_some(&q, n), n);
		cr_assert_eq(cq_workq_units(&q), 2);
		q.units = n;
		cr_assert_eq(take_some(&q, UINT64_MAX), n);
		cr_assert_eq(cq_workq_units(&q), 0);
		q.stack.head = NULL;
	}
}

#ifdef CQ_CHECKS
Test(workq, a_checking_build_asserts_that_units_do_not_overflow, .signal = SIGABRT)
{
	q.units = UINT64_MAX;
	cq_workq_push(&q, &node[0]);
}

Test(workq, a_checking_build_asserts_that_a_popped_unit_was_taken, .signal = SIGABRT)
{
	cr_assert_null(cq_workq_pop_taken(&q));
}

Test(workq, a_checking_build_asserts_that_popped_units_were_taken, .signal = SIGABRT)
{
	cr_assert_null(cq_workq_pop_taken_n(&q, 2));
}
#endif

/* --------------------------------------------------------------- popping */

static void push_and_pop(void *n)
{
	cq_workq_push(&q, n);
	CHECK(cq_workq_try_pop(&q) == n);
}

static void empty_and_refill(void *unused)
{
	(void)unused;
	CHECK(cq_workq_try_pop(&q) == &node[1]);
	cq_workq_push(&q, &node[2]);
}

Test(workq, pop_taken_is_never_null)
{
	cq_workq_push(&q, &node[0]);
	at_point("workq.taken", push_and_pop, &node[1]);
	cr_assert_eq(cq_workq_try_pop(&q), &node[0]);

	/* Others take all that is not ours, and may get "our" node, but leave one. */
	cq_workq_push(&q, &node[0]);
	cq_workq_push(&q, &node[1]);
	at_point("workq.taken", empty_and_refill, NULL);
	cr_assert_eq(cq_workq_try_pop(&q), &node[2]);
	cr_assert_eq(cq_workq_try_pop(&q), &node[0]);
	cr_assert_eq(cq_workq_destroy(&q), 0);
}

Test(workq, try_pop_takes_one_unit_and_its_node)
{
	cr_assert_null(cq_workq_try_pop(&q));
	cq_workq_push(&q, &node[0]);
	cq_workq_push(&q, &node[1]);
	cr_assert_eq(cq_workq_try_pop(&q), &node[1]);
	cr_assert_eq(cq_workq_units(&q), 1);
	cr_assert_eq(cq_workq_try_pop(&q), &node[0]);
	cr_assert_eq(cq_workq_units(&q), 0);
	cr_assert_null(cq_workq_try_pop(&q));
	cr_assert_eq(cq_workq_destroy(&q), 0);
}

Test(workq, pop_taken_n_gives_exactly_n_newest_first)
{
	cr_assert_null(cq_workq_pop_taken_n(&q, 0));
	for (unsigned n = 1; n <= NODES; n++) {
		cq_node_t *p;

		for (int i = NODES - 1; i >= 0; i--)
			cq_workq_push(&q, &node[i]);
		cr_assert_eq(take_some(&q, n), n);
		p = cq_workq_pop_taken_n(&q, n);
		for (unsigned i = 0; i < n; i++, p = p->next)
			cr_assert_eq(p, &node[i], "%u of %u", i, n);
		cr_assert_null(p);
		cr_assert_eq(linked(), NODES - n);
		cr_assert_eq(cq_workq_units(&q), NODES - n);
		for (unsigned i = n; i < NODES; i++)
			cr_assert_eq(cq_workq_try_pop(&q), &node[i]);
	}
	cr_assert_null(cq_workq_pop_taken_n(&q, 0));
}

Test(workq, pop_taken_n_of_nothing_leaves_the_stack_alone)
{
	cq_workq_push(&q, &node[0]);
	cr_assert_null(cq_workq_pop_taken_n(&q, 0));
	cr_assert_eq(cq_workq_try_pop(&q), &node[0]);
}

Test(workq, pop_taken_n_walks_again_after_a_push)
{
	cq_node_t *p;

	chain(3);
	cq_workq_push_chain(&q, &node[0], &node[2], 3);
	cr_assert_eq(take_some(&q, 2), 2);
	at_point("stack.walked", push_one, &node[7]);
	p = cq_workq_pop_taken_n(&q, 2);
	cr_assert_eq(p, &node[7]);
	cr_assert_eq(p->next, &node[0]);
	cr_assert_null(p->next->next);
	cr_assert_eq(linked(), 2);
	cr_assert_eq(q.stack.head, &node[1]);
}

/*
 * ABA: while a pop of two has walked 0 -> 1, others pop both and push 0 again.
 * Head is what it was; what lies under it is not.
 */
static void pop_two_and_return_one(void *unused)
{
	cq_node_t *p;

	(void)unused;
	CHECK(take_some(&q, 2) == 2);
	p = cq_workq_pop_taken_n(&q, 2);
	CHECK(p == &node[0] && p->next == &node[1]);
	cq_workq_push(&q, p);
}

static void pop_each_and_return_one(void *unused)
{
	(void)unused;
	CHECK(cq_workq_try_pop(&q) == &node[0]);
	CHECK(cq_workq_try_pop(&q) == &node[1]);
	cq_workq_push(&q, &node[0]);
}

static void survive(test_act_fn *others)
{
	cq_node_t *p;

	if (strcmp(cq_build_info()->pop, "dwcas") != 0)
		cr_skip_test("pops exclude each other in this build");
	chain(6);
	cq_workq_push_chain(&q, &node[0], &node[5], 6);
	cr_assert_eq(take_some(&q, 2), 2);
	at_point("stack.walked", others, NULL);
	p = cq_workq_pop_taken_n(&q, 2);
	cr_assert_eq(p, &node[0]);
	cr_assert_eq(p->next, &node[2], "node 1 was given out twice");
	cr_assert_null(p->next->next);
	cr_assert_eq(q.stack.head, &node[3]);
	cr_assert_eq(linked(), 3);
}

Test(workq, pop_taken_n_survives_a_node_that_came_back_from_pop_taken_n)
{
	survive(pop_two_and_return_one);
}

Test(workq, pop_taken_n_survives_a_node_that_came_back_from_pop_taken)
{
	survive(pop_each_and_return_one);
}

/*
 * Whoever stands still at a point, all calls of others go through. They leave the queue as
 * it was, but for a generation: a pop that they have disturbed comes to its point again.
 */
static void others_go_on(const char *where, void *steps)
{
	static const char *last = "";
	cq_node_t *p;

	if (strcmp(where, last) == 0)
		return;
	last = where;
	++*(unsigned *)steps;
	cq_workq_push(&q, &node[7]);
	node[5].next = &node[6];
	cq_workq_push_chain(&q, &node[5], &node[6], 2);
	CHECK(take_some(&q, 2) == 2);
	p = cq_workq_pop_taken_n(&q, 2);
	CHECK(p == &node[5] && p->next == &node[6]);
	CHECK(cq_workq_try_pop(&q) == &node[7]);
}

Test(workq, a_call_that_stands_still_stops_no_other, .timeout = 5)
{
	unsigned steps = 0;
	cq_node_t *p;

	if (strcmp(cq_build_info()->pop, "dwcas") != 0)
		cr_skip_test("pops exclude each other in this build");
	at_every_point(others_go_on, &steps);
	cq_workq_push(&q, &node[3]);
	chain(3);
	cq_workq_push_chain(&q, &node[0], &node[2], 3);
	cr_assert_eq(take_some(&q, 2), 2);
	p = cq_workq_pop_taken_n(&q, 2);
	cr_assert_eq(p, &node[0]);
	cr_assert_eq(p->next, &node[1]);
	cr_assert_eq(cq_workq_try_pop(&q), &node[2]);
	cr_assert_eq(steps, 10, "twice two of a push, and three of a pop");
	at_every_point(NULL, NULL);
	cr_assert_eq(cq_workq_try_pop(&q), &node[3]);
	cr_assert_eq(cq_workq_destroy(&q), 0);
}

/* The other build: such a pop has to wait until the first one is done. */
static gate_t others_done_or_waiting = GATE_INITIALIZER;

static void *pop_each_and_return_one_in_a_thread(void *walked)
{
	cq_node_t *n;

	gate_wait(walked);
	n = cq_workq_try_pop(&q);
	CHECK(n != NULL && cq_workq_try_pop(&q) != NULL);
	cq_workq_push(&q, n);
	gate_open(&others_done_or_waiting);
	return NULL;
}

static void let_others_pop(void *walked)
{
	gate_open(walked);
	gate_wait(&others_done_or_waiting);
}

/* A popper that waits sleeps, ever longer, so that one of a lower priority can leave. */
static bool other_pops;
static unsigned sleeps;
static long slept_ns;

int __real_nanosleep(const struct timespec *ts, struct timespec *left);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left);

int __wrap_nanosleep(const struct timespec *ts, struct timespec *left)
{
	if (!other_pops)
		return __real_nanosleep(ts, left);
	CHECK(ts->tv_sec == 0 && ts->tv_nsec >= slept_ns && ts->tv_nsec <= 1000000);
	CHECK(sleeps == 0 || slept_ns == 1000000 || ts->tv_nsec > slept_ns);
	slept_ns = ts->tv_nsec;
	if (++sleeps == 20) {
		q.stack.generation = NULL; /* the other leaves */
		other_pops = false;
	}
	errno = EINTR;
	return -1;
}

Test(workq, a_locked_pop_that_waits_sleeps_so_that_the_other_runs)
{
	static char other;

	if (strcmp(cq_build_info()->pop, "locked") != 0)
		cr_skip_test("pops are lock-free in this build");
	cq_workq_push(&q, &node[0]);
	q.stack.generation = &other;
	other_pops = true;
	errno = 0;
	cr_assert_eq(cq_workq_try_pop(&q), &node[0]);
	cr_assert_eq(sleeps, 20);
	cr_assert_eq(errno, 0);
}

Test(workq, locked_pops_exclude_each_other)
{
	static gate_t walked = GATE_INITIALIZER;
	pthread_t others;
	cq_node_t *p;

	if (strcmp(cq_build_info()->pop, "locked") != 0)
		cr_skip_test("pops are lock-free in this build");
	chain(6);
	cq_workq_push_chain(&q, &node[0], &node[5], 6);
	cr_assert_eq(take_some(&q, 2), 2);
	at_point("stack.walked", let_others_pop, &walked);
	at_point("stack.busy", gate_open, &others_done_or_waiting);
	others = start(pop_each_and_return_one_in_a_thread, &walked);
	p = cq_workq_pop_taken_n(&q, 2);
	join(others);
	cr_assert_eq(p, &node[0]);
	cr_assert_eq(p->next, &node[1]);
	cr_assert_null(p->next->next);
	cr_assert_eq(q.stack.head, &node[2]);
	cr_assert_eq(linked(), 3);
}

Test(workq, the_accessor_finds_the_object_of_a_node)
{
	static struct job job = { 1, { NULL }, 42 };

	cq_workq_push(&q, &job.node);
	cr_assert_eq(job_of(cq_workq_try_pop(&q)), &job);
}

/* Only a compare-and-swap of two words counts the pops. */
Test(workq, the_name_of_the_pop_is_that_of_its_kind)
{
	cq_workq_push(&q, &node[0]);
	cr_assert_not_null(cq_workq_try_pop(&q));
	cr_assert_str_eq(cq_build_info()->pop, q.stack.generation != NULL ? "dwcas" : "locked");
}

/* --------------------------------------------------------------- threads */

/* Random yields at the points: other orders of steps than two processors give alone. */
static void yield_sometimes(const char *where, void *unused)
{
	static _Thread_local rng_t r;

	(void)where, (void)unused;
	if (r.state == 0)
		r = rng_for((unsigned)(uintptr_t)&r);
	if (rng_below(&r, 64) == 0)
		sched_yield();
}

/*
 * Few nodes go around between two queues, so that most come back at once. A
 * node is `out` with one thread or in a queue, and its payload, not atomic,
 * travels with it.
 */
enum { THREADS = 4, JOBS = 24, BATCH = 5 };

static struct tour {
	cq_workq_t queue[2];
	struct job job[JOBS];
	atomic_bool out[JOBS];
	uint64_t end;
	atomic_ullong moves;
} tour;

static void check_out(struct job *job)
{
	CHECK(!atomic_exchange(&tour.out[job - tour.job], true));
	job->payload++;
}

static void check_in(struct job *job)
{
	CHECK(atomic_exchange(&tour.out[job - tour.job], false));
}

static unsigned move_one(cq_workq_t *from, cq_workq_t *to)
{
	cq_node_t *n = cq_workq_try_pop(from);

	if (n == NULL)
		return 0;
	check_out(job_of(n));
	check_in(job_of(n));
	cq_workq_push(to, n);
	return 1;
}

static unsigned move_some(cq_workq_t *from, cq_workq_t *to, unsigned max)
{
	unsigned n = (unsigned)take_some(from, max), seen = 0;
	cq_node_t *first = cq_workq_pop_taken_n(from, n), *last = NULL;

	for (cq_node_t *p = first; p != NULL; p = p->next, seen++) {
		check_out(job_of(p));
		last = p;
	}
	CHECK(seen == n);
	for (cq_node_t *p = first; p != NULL; p = p->next)
		check_in(job_of(p));
	if (n != 0)
		cq_workq_push_chain(to, first, last, n);
	return n;
}

static void travel(void *unused, unsigned index)
{
	rng_t r = rng_for(index);
	uint64_t moves = 0;

	(void)unused;
	while (cq_now() < tour.end) {
		for (int i = 0; i < 64; i++) {
			unsigned way = (unsigned)rng_below(&r, 2);
			cq_workq_t *from = &tour.queue[way], *to = &tour.queue[!way];

			if (rng_below(&r, 2) == 0)
				moves += move_one(from, to);
			else
				moves += move_some(from, to, 1 + (unsigned)rng_below(&r, BATCH));
		}
	}
	tour.moves += moves;
}

Test(workq, threads_lose_and_double_no_node_that_goes_around)
{
	uint64_t left = 0, payload = 0;

	for (int i = 0; i < JOBS; i++)
		cq_workq_push(&tour.queue[i % 2], &tour.job[i].node);
	at_every_point(yield_sometimes, NULL);
	tour.end = run_until(0.3);
	run_threads(THREADS, travel, NULL);
	at_every_point(NULL, NULL);

	cr_assert_eq(cq_workq_units(&tour.queue[0]) + cq_workq_units(&tour.queue[1]), JOBS);
	for (int way = 0; way < 2; way++) {
		for (cq_node_t *n; (n = cq_workq_try_pop(&tour.queue[way])) != NULL; left++) {
			check_out(job_of(n));
			payload += job_of(n)->payload - 1;
		}
		cr_assert_eq(cq_workq_destroy(&tour.queue[way]), 0);
	}
	cr_assert_eq(left, JOBS);
	cr_assert_eq(payload, tour.moves);
	cr_assert_gt(tour.moves, 0);
}

/* Nodes are counted by another thread than the one that linked them, and late. */
static struct {
	cq_workq_t queue;
	struct job job[1000];
	atomic_uint linked, counted, popped;
	uint64_t payload[THREADS];
} late;

static void link_count_and_pop(void *unused, unsigned index)
{
	enum { ALL = sizeof(late.job) / sizeof(late.job[0]) };
	cq_node_t *n;

	(void)unused;
	if (index == 0) {
		for (unsigned i = 0; i < ALL; i++) {
			late.job[i].payload = i + 1;
			cq_workq_link(&late.queue, &late.job[i].node);
			late.linked++;
		}
	} else if (index == 1) {
		while (late.counted < ALL) {
			unsigned todo = late.linked - late.counted;

			cq_workq_add_work(&late.queue, todo);
			late.counted += todo;
			sched_yield();
		}
	} else {
		while (late.popped < ALL) {
			if ((n = cq_workq_try_pop(&late.queue)) != NULL) {
				late.payload[index] += job_of(n)->payload;
				late.popped++;
			} else {
				sched_yield();
			}
		}
	}
}

Test(workq, one_thread_links_and_another_counts)
{
	run_threads(THREADS, link_count_and_pop, NULL);
	cr_assert_eq(late.payload[2] + late.payload[3], 1000 * 1001 / 2);
	cr_assert_eq(cq_workq_destroy(&late.queue), 0);
}
