/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 2. A sleep is a call within which, in park and at the schedule points,
 * other threads make theirs: wakes, and further sleeps above it. The model is
 * the list of sleepers, the newest last.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fuzz.h"

/* A call that sleeps. */
struct sleep {
	cq_sleeper_t sleeper;
	uint64_t deadline;
	bool work, looked;		/* what its look says; whether it was asked */
	bool listed, taken, granted;
};

static cq_sleepers_t set;
static struct sleep *sleeping[DEPTH_MAX];	/* listed, the newest last */
static unsigned listed;
static struct sleep *entering;	/* the innermost call: it will be listed next */
static uint64_t waking;		/* the innermost call: a wake of so many */
static bool announced;		/* the set's lock is held */
static jmp_buf only_thread;	/* where a forked child begins */

static void some_call(void);
static void wake(uint64_t n);

static uint32_t asleep(void)
{
	return listed + announced;
}

/* ------------------------------------------------------------ the park table */

static struct sleep *sleep_of(const cq_parker_t *parker)
{
	return (struct sleep *)parker->host;
}

static void some_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct sleep *s = sleep_of(parker);

	EXPECT(host == &set && !announced, "park is called with another host, or the lock held");
	EXPECT(deadline == s->deadline || s->taken, "park gets another deadline");
	if (s->taken)
		deadline = CQ_FOREVER;
	if (input_ended() || depth >= DEPTH_MAX) {
		/* Time and a waker end every sleep. */
		if (deadline != CQ_FOREVER)
			advance_to(deadline);
		else if (!s->granted)
			wake(UINT64_MAX);
		return;
	}
	depth++;
	some_call();
	depth--;
}

static void some_unpark(void *host, cq_parker_t *parker)
{
	struct sleep *s = sleep_of(parker);

	EXPECT(host == &set && s->taken && !s->granted, "unpark of one that is not to be woken");
	EXPECT(!CALL(cq_parker_granted)(parker), "the permit was granted before");
	s->granted = true;
	CALL(cq_parker_grant)(parker);
}

static const cq_park_ops_t ops = { clock_now, some_park, some_unpark, &set };

/* ------------------------------------------------------------------ sleeping */

static void enter(struct sleep *s)
{
	sleeping[listed++] = s;
	s->listed = true;
	entering = NULL;
	announced = false;
}

static void leave(struct sleep *s)
{
	unsigned i = 0;

	while (sleeping[i] != s)
		i++;
	memmove(&sleeping[i], &sleeping[i + 1], (--listed - i) * sizeof(*sleeping));
}

static void take(void)
{
	for (; waking > 0 && listed > 0; waking--) {
		struct sleep *s = sleeping[listed - 1];

		s->taken = true;
		leave(s);
	}
	waking = 0;
}

static bool look(void *arg)
{
	struct sleep *s = arg;

	EXPECT(!s->looked, "it looks twice");
	s->looked = announced = true;
	EXPECT_EQ(CALL(cq_sleepers_asleep)(&set), listed + 1);
	if (s->work)
		announced = false;	/* as soon as the look has returned */
	return s->work;
}

static void has_slept(struct sleep *s, cq_sleep_result_t result)
{
	note("it returns %d", result);
	switch (result) {
	case CQ_WORK:
		EXPECT(s->work && s->looked && !s->listed, "there was no work");
		entering = NULL;
		break;
	case CQ_WOKEN:
		EXPECT(s->granted, "nobody woke it");
		break;
	case CQ_TIMED_OUT:
		EXPECT(s->listed && !s->taken && now >= s->deadline && s->deadline != CQ_FOREVER,
		    "a time-out in place of a wake, or too early");
		leave(s);
		break;
	default:
		EXPECT(false, "it returned %d", result);
	}
}

static void begin(struct sleep *s)
{
	CALL(cq_sleeper_init)(&s->sleeper, s);
}

static void do_sleep(void)
{
	struct sleep s = { .deadline = some_deadline(), .work = below(3) == 1 };

	if (depth >= DEPTH_MAX - 1)
		return;
	note("sleep(deadline %" PRIu64 ", look %d)", s.deadline, s.work);
	begin(&s);
	entering = &s;
	has_slept(&s, CALL(cq_sleepers_sleep)(&set, &s.sleeper, look, &s, s.deadline));
	EXPECT(s.looked, "it did not look");
}

static void do_steps(void)
{
	struct sleep s = { .deadline = some_deadline() };

	if (depth >= DEPTH_MAX - 1)
		return;
	note("announce, then withdraw or commit(%" PRIu64 ")", s.deadline);
	begin(&s);
	CALL(cq_sleepers_announce)(&set);
	announced = true;
	EXPECT_EQ(CALL(cq_sleepers_asleep)(&set), asleep());
	if (below(2) == 0) {
		announced = false;
		CALL(cq_sleepers_withdraw)(&set);
		return;
	}
	entering = &s;
	has_slept(&s, CALL(cq_sleepers_commit)(&set, &s.sleeper, s.deadline));
}

/* -------------------------------------------------------------------- waking */

/* UINT64_MAX: wake_all. */
static void wake(uint64_t n)
{
	uint32_t expected = n < listed ? (uint32_t)n : listed, woken;

	note("wake(%" PRIu64 ") of %u", n, listed);
	waking = n;
	if (n == UINT64_MAX)
		woken = CALL(cq_sleepers_wake_all)(&set);
	else
		woken = CALL(cq_sleepers_wake)(&set, (uint32_t)n);
	waking = 0;
	EXPECT_EQ(woken, expected);
}

static void do_wake(void)
{
	static const uint32_t counts[] = { 0, 1, 2, 3, UINT32_MAX };

	wake(counts[byte() % 5]);
}

static void do_wake_all(void) { wake(UINT64_MAX); }
static void do_advance(void) { advance_by(PICK(0, 1, 9, 1000)); }

static void do_destroy(void)
{
	int err;

	if (asleep() == 0 && depth > 0)
		return;	/* a call of another thread is under way */
	err = CALL(cq_sleepers_destroy)(&set);
	note("destroy = %d", err);
	EXPECT_EQ(err, asleep() != 0 ? EBUSY : 0);
	if (err == 0)
		EXPECT_EQ(CALL(cq_sleepers_init)(&set, &ops), 0);
}

/* The child has none of the threads that sleep. */
static void do_fork(void)
{
	bool child = below(2) != 0;

	note("fork: %s", child ? "child" : "parent");
	CALL(cq_sleepers_fork_prepare)(&set);
	if (!child) {
		CALL(cq_sleepers_fork_parent)(&set);
		return;
	}
	CALL(cq_sleepers_fork_child)(&set);
	listed = 0;
	if (depth > 0)
		longjmp(only_thread, 1);
}

/* ------------------------------------------------------------------ decoding */

static void (*const calls[])(void) = {
	NULL, do_sleep, do_steps, do_wake, do_wake_all, do_advance, do_destroy, do_fork, do_sleep,
};

static void some_call(void)
{
	unsigned b = below(sizeof(calls) / sizeof(*calls));
	struct sleep *e = entering;
	uint64_t w = waking;

	if (calls[b] == NULL)
		return;
	entering = NULL;
	waking = 0;
	calls[b]();
	entering = e;
	waking = w;
	EXPECT_EQ(CALL(cq_sleepers_asleep)(&set), asleep());
}

static void step_of_another(const char *where)
{
	if (strcmp(where, "sleepers.listed") == 0)
		enter(entering);
	else if (strcmp(where, "sleepers.taken") == 0)
		take();
	else if (strcmp(where, "sleepers.timed_out") != 0)
		return;	/* with the lock held */
	if (depth >= DEPTH_MAX || input_ended())
		return;
	depth++;
	some_call();
	depth--;
}

void fuzz_sleepers(void)
{
	listed = 0;
	entering = NULL;
	waking = 0;
	announced = false;
	EXPECT_EQ(CALL(cq_sleepers_init)(&set, &ops), 0);
	at_point = step_of_another;
	if (setjmp(only_thread) != 0) {
		depth = 0;
		entering = NULL;
		waking = 0;
		EXPECT_EQ(CALL(cq_sleepers_asleep)(&set), 0);
	}
	while (!input_ended())
		some_call();
	at_point = NULL;
	EXPECT_EQ(listed, 0);
	EXPECT_EQ(CALL(cq_sleepers_destroy)(&set), 0);
}
