/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 2. A wait is a call within which, in the look, in park and at the schedule points,
 * other threads make theirs: wakes, and further waits above it. The model is the list of
 * those that wait, the newest last, and what their wakers did to them. What a waker does
 * is done under the lock, before any point: so the model does it before the call.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fuzz.h"

/* A thread that waits. */
struct wait {
	cq_sleeper_t sleeper;
	uint64_t deadline, began, woken_at;
	uint32_t cpu;
	enum { OUT, PREPARED, LISTED, TAKEN } state;
	bool again;		/* a waker came while it was prepared */
	bool granted;
	cq_wait_result_t expected; /* when it is back */
};

static cq_sleepers_t set;
static struct wait *waits[DEPTH_MAX];	/* all of them, the newest last */
static unsigned nwaits;
static struct wait *listed[DEPTH_MAX];	/* the newest last */
static unsigned nlisted;
static struct wait *current;	/* the innermost call of commit_wait */
static bool stopped;
uint32_t fuzz_cpu;
static uint32_t spin_ns;
static jmp_buf only_thread;	/* where a forked child begins */

static void some_call(void);
static uint32_t wake(uint32_t n);

/* The place of the system's. */
uint32_t __wrap_cq_cpu(void);
uint32_t __wrap_cq_cpu(void)
{
	return fuzz_cpu;
}

static unsigned count(int state)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nwaits; i++)
		n += (int)waits[i]->state == state;
	return n;
}

static uint32_t waiters(void) { return count(PREPARED) + count(LISTED); }

static void check_counts(void)
{
	uint32_t way;

	EXPECT_EQ(CALL(cq_sleepers_waiters)(&set, &way), waiters());
	EXPECT_EQ(way, count(TAKEN));
}

static void calls_within(void)
{
	if (depth >= DEPTH_MAX || input_ended())
		return;
	depth++;
	some_call();
	depth--;
}

/* ------------------------------------------------------------ the park table */

static struct wait *wait_of(const cq_parker_t *parker)
{
	return (struct wait *)parker->host;
}

static void some_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct wait *w = wait_of(parker);

	EXPECT(host == &set, "park is called with another host");
	EXPECT(w->state == LISTED || w->state == TAKEN, "park without a wait");
	EXPECT(deadline == w->deadline || w->state == TAKEN, "park gets another deadline");
	if (w->state == TAKEN)
		deadline = CQ_FOREVER;
	if (!input_ended() && depth < DEPTH_MAX)
		calls_within();
	else if (deadline != CQ_FOREVER) /* time and a waker end every wait */
		advance_to(deadline);
	else if (!w->granted)
		wake(UINT32_MAX);
}

static void some_unpark(void *host, cq_parker_t *parker)
{
	struct wait *w = wait_of(parker);

	EXPECT(host == &set && w->state == TAKEN && !w->granted, "unpark of one that is not woken");
	EXPECT(!CALL(cq_parker_granted)(parker), "the permit was granted before");
	w->granted = true;
	CALL(cq_parker_grant)(parker);
}

static const cq_park_ops_t ops = { clock_now, some_park, some_unpark, &set };

static void some_set(void)
{
	spin_ns = (uint32_t)PICK(0, 5, 1000);
	stopped = false;
	EXPECT_EQ(CALL(cq_sleepers_init)(&set, &ops, spin_ns), 0);
}

/* ------------------------------------------------------------------- the list */

static void leave(const struct wait *w)
{
	unsigned i = 0;

	while (listed[i] != w)
		i++;
	memmove(&listed[i], &listed[i + 1], (--nlisted - i) * sizeof(*listed));
}

static void take(struct wait *w)
{
	leave(w);
	w->state = TAKEN;
	w->woken_at = now;
}

/* Whom a waker of n takes next: one looks at the four newest for one of its CPU. */
static struct wait *choice(uint32_t n)
{
	for (unsigned i = nlisted; n == 1 && i-- > 0 && nlisted - i <= 4;)
		if (listed[i]->cpu == fuzz_cpu)
			return listed[i];
	return listed[nlisted - 1];
}

static void look_again(void)
{
	for (unsigned i = 0; i < nwaits; i++)
		waits[i]->again |= waits[i]->state == PREPARED;
}

/* A waker of `of` takes up to n; how many. */
static uint32_t take_some(uint32_t n, uint32_t of)
{
	uint32_t k = 0;

	for (; k < n && nlisted > 0; k++)
		take(choice(of));
	if (k < n)
		look_again();
	return k;
}

/* ------------------------------------------------------------------ sleeping */

/* On the list, or back: the points at which `current` has gone on by a step. */
static void is_listed(struct wait *w)
{
	EXPECT(w->state == PREPARED && !w->again && !stopped, "it sleeps over a waker");
	w->state = LISTED;
	listed[nlisted++] = w;
}

static void is_back(struct wait *w)
{
	if (w->state == LISTED) {
		EXPECT(now >= w->deadline && w->deadline != CQ_FOREVER, "it returns too early");
		leave(w);
		w->expected = CQ_TIMED_OUT;
	} else if (w->state == TAKEN) {
		EXPECT(w->granted, "it returns without its permit");
		w->expected = stopped ? CQ_STOPPED : CQ_WOKEN;
	} else {
		EXPECT(w->again || stopped, "it returns though nobody came");
		w->expected = stopped ? CQ_STOPPED : CQ_AGAIN;
	}
	w->state = OUT;
}

static void check_long(const struct wait *w, bool was_taken)
{
	if (w->expected == CQ_TIMED_OUT)
		EXPECT(w->sleeper.waits_long, "a time-out was short");
	else if (was_taken)
		EXPECT_EQ(w->sleeper.waits_long,
		    spin_ns != 0 && w->woken_at - w->began > spin_ns);
}

static void wait_once(struct wait *w)
{
	cq_wait_result_t result;

	w->again = w->granted = false;
	w->deadline = some_deadline();
	w->state = PREPARED;
	note("prepare_wait");
	CALL(cq_sleepers_prepare_wait)(&set, &w->sleeper);
	while (below(3) == 1)
		calls_within();
	check_counts();
	if (below(4) == 1) {
		note("cancel_wait");
		w->state = OUT;
		CALL(cq_sleepers_cancel_wait)(&set, &w->sleeper);
		return;
	}
	note("commit_wait(%" PRIu64 ")", w->deadline);
	w->cpu = fuzz_cpu;
	w->began = now;
	current = w;
	result = CALL(cq_sleepers_commit_wait)(&set, &w->sleeper, w->deadline);
	note("it returns %d", result);
	EXPECT_EQ(result, w->expected);
	check_long(w, w->granted);
}

/* One thread; its sleeper is used up to four times. */
static void do_wait(void)
{
	struct wait w = { .state = OUT };

	if (depth >= DEPTH_MAX - 1)
		return;
	CALL(cq_sleeper_init)(&w.sleeper, &w);
	waits[nwaits++] = &w;
	wait_once(&w);
	for (unsigned i = 0; i < 3 && below(3) == 1; i++)
		wait_once(&w);
	nwaits--;
}

/* -------------------------------------------------------------------- waking */

static uint32_t some_number(void)
{
	return (uint32_t)PICK(0, 1, 2, 3, UINT32_MAX);
}

static uint32_t wake(uint32_t n)
{
	uint32_t expected = take_some(n, n);

	note("wake(%" PRIu32 ") = %" PRIu32, n, expected);
	EXPECT_EQ(CALL(cq_sleepers_wake)(&set, n), expected);
	return expected;
}

static void do_wake(void) { wake(some_number()); }

static void do_ensure(void)
{
	uint32_t n = some_number(), way = count(TAKEN);
	uint32_t expected = way < n ? take_some(n - way, n) : 0;

	note("ensure(%" PRIu32 ") = %" PRIu32, n, expected);
	EXPECT_EQ(CALL(cq_sleepers_ensure)(&set, n), expected);
}

static void do_wake_sleeper(void)
{
	struct wait *w;
	bool expected;

	if (nwaits == 0)
		return;
	w = waits[below(nwaits)];
	expected = w->state == LISTED;
	if (expected)
		take(w);
	else
		look_again();
	note("wake_sleeper = %d", expected);
	EXPECT_EQ(CALL(cq_sleepers_wake_sleeper)(&set, &w->sleeper), expected);
}

static void do_stop(void)
{
	note("stop");
	take_some(UINT32_MAX, UINT32_MAX);
	stopped = true;
	CALL(cq_sleepers_stop)(&set);
}

static void do_advance(void) { advance_by(PICK(0, 1, 9, 1000)); }
static void do_move(void) { fuzz_cpu = below(3); }

static void do_destroy(void)
{
	bool busy = waiters() + count(TAKEN) != 0;
	int err;

	if (!busy && depth > 0)
		return;	/* a call of another thread is under way */
	err = CALL(cq_sleepers_destroy)(&set);
	note("destroy = %d", err);
	EXPECT_EQ(err, busy ? EBUSY : 0);
	if (err == 0)
		some_set();
}

static void nobody_is_left(void)
{
	nwaits = nlisted = 0;
	current = NULL;
}

/* The child has none of the threads that wait. */
static void do_fork(void)
{
	bool child = below(2) != 0;

	note("fork: %s", child ? "child" : "parent");
	CALL(cq_sleepers_fork)(&set, CQ_FORK_PREPARE);
	CALL(cq_sleepers_fork)(&set, child ? CQ_FORK_CHILD : CQ_FORK_PARENT);
	if (child && depth > 0)
		longjmp(only_thread, 1);
}

/* ------------------------------------------------------------------ decoding */

static void (*const calls[])(void) = {
	NULL, do_wait, do_ensure, do_wake, do_wake_sleeper, do_advance, do_destroy, do_fork, do_stop,
	do_move, do_wait,
};

static void some_call(void)
{
	unsigned b = below(sizeof(calls) / sizeof(*calls));
	struct wait *c = current;

	if (calls[b] == NULL)
		return;
	calls[b]();
	current = c;
	check_counts();
}

static void step_of_another(const char *where)
{
	if (strcmp(where, "sleepers.listed") == 0)
		is_listed(current);
	else if (strcmp(where, "sleepers.back") == 0)
		is_back(current);
	calls_within();
}

void fuzz_sleepers(void)
{
	nobody_is_left();
	fuzz_cpu = 0;
	some_set();
	at_point = step_of_another;
	if (setjmp(only_thread) != 0) {
		depth = 0;
		nobody_is_left();
		check_counts();
	}
	while (!input_ended())
		some_call();
	at_point = NULL;
	EXPECT_EQ(nlisted, 0);
	EXPECT_EQ(CALL(cq_sleepers_destroy)(&set), 0);
}
