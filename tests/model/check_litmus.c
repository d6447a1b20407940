/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The explorer's own test: small programs of which it is known whether RC11 allows
 * their outcome. It must come to those that RC11 allows, and to no other. And programs
 * of which it is known whether they have data races.
 *
 * A program is written as the execution that is asked for: threads between bars, the
 * values at the end after a colon. Each word is x, y or z, 0 at first.
 *
 *   Wx1  stores 1 in x		Rx1  loads x, and gets 1
 *   Px1  the same, plainly		Qx1  the same, plainly
 *   Ux0  adds one to x, which was 0
 *   r a s  a fence: release, acquire, sequentially consistent
 *
 * A program without fences of its own is run in four ways:
 *
 *   RELAXED	as it is
 *   ACCESSES	stores release, loads acquire
 *   FENCES	a release fence before each store, an acquire fence after each load
 *   FULL	a full fence between each two of a thread
 *
 * An update has fences in ACCESSES too, as ck's operations have no order of their own.
 */
#include <stddef.h>

#include "explore.h"

enum { RELAXED = 1, ACCESSES = 2, FENCES = 4, FULL = 8 };
#define ALWAYS (RELAXED | ACCESSES | FENCES | FULL)
#define NEVER 0

/*
 * The program; the ways in which its outcome is reached; and those in which RC11
 * allows it, but the explorer can't see it (README). rc11.py reads this table.
 */
#define OUTCOMES(T) \
	/* Each thread's load before its store: as if the stores took their time. */ \
	T(SB, "Wx1 Ry0 | Wy1 Rx0", RELAXED | ACCESSES | FENCES, 0) \
	T(SB_with_updates, "Ux0 Ry0 | Uy0 Rx0", RELAXED | ACCESSES | FENCES, 0) \
	T(MP, "Wx1 Wy1 | Ry1 Rx0", RELAXED, 0) \
	T(MP_read_by_an_update, "Wx1 Wy1 | Uy1 Rx0", RELAXED, 0) \
	T(MP_whose_data_is_updated, "Wx1 Wy1 | Ry1 Ux0", RELAXED, 0) \
	T(MP_written_by_an_update, "Wx1 Uy0 | Ry1 Rx0", RELAXED, 0) \
	T(MP_with_the_writers_fence, "Wx1 r Wy1 | Ry1 Rx0", RELAXED, 0) \
	T(MP_with_the_readers_fence, "Wx1 Wy1 | Ry1 a Rx0", RELAXED, 0) \
	T(MP_with_both_fences, "Wx1 r Wy1 | Ry1 a Rx0", NEVER, 0) \
	T(MP_through_an_update, "Wx1 r Wy1 | Uy1 | Ry2 a Rx0", NEVER, 0) \
	T(MP_over_a_store_of_another, "Wx1 r Wy1 | Ry1 Wy2 | Ry2 a Rx0", RELAXED, 0) \
	/* RC11 has no cycle of what is read and program order; C11 and arm64 do. */ \
	T(LB, "Ry1 Wx1 | Rx1 Wy1", NEVER, 0) \
	T(S, "Wx2 Wy1 | Ry1 Wx1 : x2", RELAXED, 0) \
	T(S_read_by_an_update, "Wx2 Wy1 | Uy1 Wx1 : x2", RELAXED, 0) \
	T(R, "Wx1 Wy1 | Wy2 Rx0 : y2", RELAXED | ACCESSES | FENCES, 0) \
	T(2_2W, "Wx1 Wy2 | Wy1 Wx2 : x1 y1", RELAXED | ACCESSES | FENCES, 0) \
	T(2_2W_with_one_full_fence, "Wx1 s Wy2 | Wy1 Wx2 : x1 y1", RELAXED, 0) \
	T(3_3W, "Wx1 Wy2 | Wy1 Wz2 | Wz1 Wx2 : x1 y1 z1", RELAXED | ACCESSES | FENCES, 0) \
	T(CoRR, "Wx1 | Rx1 Rx0", NEVER, 0) \
	T(CoRR_of_two, "Wx1 | Wx2 | Rx1 Rx2 | Rx2 Rx1", NEVER, 0) \
	T(CoWW, "Wx1 Wx2 : x1", NEVER, 0) \
	T(CoWW_of_two, "Wx1 Wx2 | Wx3 : x3", ALWAYS, 0) \
	T(CoWW_between, "Wx1 Wx2 | Wx3 | Rx1 Rx3 Rx2", ALWAYS, 0) \
	T(CoWR, "Wx1 Rx0", NEVER, 0) \
	T(CoWR_of_another, "Wx1 Rx2 | Wx2 : x1", NEVER, 0) \
	T(CoRW, "Rx1 Wx1", NEVER, 0) \
	T(CoRW_of_another, "Rx1 Wx2 | Wx1 : x1", NEVER, 0) \
	T(IRIW, "Wx1 | Wy1 | Rx1 Ry0 | Ry1 Rx0", RELAXED | ACCESSES | FENCES, 0) \
	T(WRC, "Wx1 | Rx1 Wy1 | Ry1 Rx0", RELAXED, 0) \
	T(RWC, "Wx1 | Rx1 Ry0 | Wy1 Rx0", RELAXED | ACCESSES | FENCES, 0) \
	T(WWC, "Wx2 | Rx2 Wy1 | Ry1 Wx1 : x2", RELAXED, 0) \
	T(WRW_2W, "Wx2 | Rx2 Wy1 | Wy2 Wx1 : x2 y2", RELAXED | ACCESSES | FENCES, 0) \
	T(ISA2, "Wx1 Wy1 | Ry1 Wz1 | Rz1 Rx0", RELAXED, 0) \
	T(W_RW_C, "Wx1 Wy1 | Ry1 Rz0 | Wz1 Rx0", RELAXED | ACCESSES | FENCES, 0) \
	T(Z6_3, "Wx1 Wy1 | Wy2 Wz1 | Rz1 Rx0 : y2", RELAXED | ACCESSES | FENCES, 0) \
	/* Nothing comes between what an update reads and what it writes. */ \
	T(two_updates, "Ux0 | Ux0", NEVER, 0) \
	T(update_and_store, "Ux0 | Wx2 : x1", NEVER, 0) \
	T(store_into_an_update, "Ux0 | Wx2 | Rx0 Rx2 Rx1", NEVER, 0) \
	T(update_before_the_next_store, "Ux0 Wx1 | Ux1 : x1", ALWAYS, 0) \
	T(update_reads_the_older, "Wx1 | Wx3 Ux3 : x1", ALWAYS, 0) \
	T(update_between_two_stores, "Ux3 | Wx3 | Wx1 | Rx3 Rx4 Rx1", ALWAYS, 0) \
	/* Full fences take effect in the order in which they are executed. */ \
	T(fences_in_order_of_what_is_read, "Wz1 s Wx1 | Rx1 Wy1 | Ry1 s Rz0", NEVER, RELAXED)

/* The program, and the ways in which it has a data race. */
#define RACES(T) \
	T(plain_store_beside_a_store, "Wx1 | Px2", ALWAYS) \
	T(plain_store_beside_a_load, "Rx0 | Px1", ALWAYS) \
	T(plain_store_beside_an_update, "Ux0 | Px1", ALWAYS) \
	T(plain_load_beside_a_store, "Wx1 | Qx0", ALWAYS) \
	T(plain_load_beside_a_load, "Rx0 | Qx0", NEVER) \
	/* Of these, one that comes after its release fence is not before who reads it. */ \
	T(plain_store_over_what_was_read, "Wx1 | Rx1 Px2", RELAXED | FENCES | FULL) \
	T(plain_load_of_what_was_read, "Wx1 | Rx1 Qx1", RELAXED | FENCES | FULL) \
	T(plain_store_over_what_was_updated, "Wx1 | Ux1 Px3", RELAXED | FENCES | FULL) \
	T(plain_store_over_an_update, "Ux0 | Rx1 Px2", ALWAYS) \
	T(plain_store_over_what_was_passed_on, "Wx1 Wy1 | Ry1 Px2", RELAXED) \
	T(plain_store_over_what_was_read_before, "Rx0 Wy1 | Ry1 Px1", RELAXED) \
	T(plain_store_over_what_is_read_after, "r Wy1 Rx0 | Ry1 a Px1", RELAXED) \
	T(message, "Px1 Wy1 | Ry1 Qx1", RELAXED) \
	T(message_by_updates, "Px1 Uy0 | Uy1 Qx1", RELAXED) \
	T(message_with_the_writers_fence, "Px1 r Wy1 | Ry1 Qx1", RELAXED) \
	T(message_with_the_readers_fence, "Px1 Wy1 | Ry1 a Qx1", RELAXED) \
	T(message_through_an_update, "Px1 r Wy1 | Uy1 | Ry2 a Qx1", NEVER) \
	T(message_under_a_store_of_another, "Px1 r Wy1 | Uy1 | Wy3 | Ry2 a Qx1", NEVER) \
	T(message_over_a_store_of_another, "Px1 r Wy1 | Ry1 Wy2 | Ry2 a Qx1", RELAXED) \
	T(message_read_first, "Qx0 Wy1 | Ry1 Px1", RELAXED) \
	T(message_passed_on, "Px1 Wy1 | Ry1 Wz1 | Rz1 Qx1", RELAXED)

enum { LOCATIONS = 3, THREADS = 4 };

static int words[LOCATIONS];
static bool differs[THREADS];	/* what this thread has read is not what is asked for */
static int how;

static int *word_of(char c)
{
	return &words[c - 'x'];
}

static void store(int *word, int value)
{
	if (how == FENCES)
		__atomic_thread_fence(__ATOMIC_RELEASE);
	if (how == ACCESSES)
		__atomic_store_n(word, value, __ATOMIC_RELEASE);
	else
		__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static int load(int *word)
{
	int value;

	if (how == ACCESSES)
		return __atomic_load_n(word, __ATOMIC_ACQUIRE);
	value = __atomic_load_n(word, __ATOMIC_RELAXED);
	if (how == FENCES)
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return value;
}

static int update(int *word)
{
	bool fences = how == FENCES || how == ACCESSES;
	int value;

	if (fences)
		__atomic_thread_fence(__ATOMIC_RELEASE);
	value = __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
	if (fences)
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return value;
}

/* One access or fence. False: it has read something else. */
static bool step(const char *p)
{
	switch (*p) {
	case 'W':
		store(word_of(p[1]), p[2] - '0');
		return true;
	case 'R':
		return load(word_of(p[1])) == p[2] - '0';
	case 'P':
		*word_of(p[1]) = p[2] - '0';
		return true;
	case 'Q':
		return *word_of(p[1]) == p[2] - '0';
	case 'U':
		return update(word_of(p[1])) == p[2] - '0';
	case 'r':
		__atomic_thread_fence(__ATOMIC_RELEASE);
		return true;
	case 'a':
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		return true;
	case 's':
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		return true;
	}
	return true;
}

struct part {
	int thread;
	const char *program;
};

static bool at_end(const char *p)
{
	return *p == '\0' || *p == '|' || *p == ':';
}

static const char *next_word(const char *p)
{
	while (*p != ' ' && *p != '\0')
		p++;
	while (*p == ' ')
		p++;
	return p;
}

static void run_part(void *arg)
{
	struct part *part = arg;
	const char *p = part->program;
	bool same = step(p);

	for (p = next_word(p); same && !at_end(p); p = next_word(p)) {
		if (how == FULL)
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
		same = step(p);
	}
	differs[part->thread] = !same;
}

static bool has_fences(const char *p)
{
	for (; *p != '\0'; p++)
		if (*p == 'r' || *p == 'a' || *p == 's')
			return true;
	return false;
}

static void run(const char *program, bool races, unsigned reached)
{
	static struct part parts[THREADS];
	int variant = has_fences(program) ? 0 : choose(4), n = 0;
	const char *p = program;

	expect(reached);
	if (races)
		expect_race((unsigned)variant);
	how = 1 << variant;
	while (*p != '\0' && *p != ':') {
		parts[n] = (struct part){ n, p };
		while (!at_end(p))
			p = next_word(p);
		if (*p == '|')
			p = next_word(p);
		n++;
	}
	for (int i = 0; i < n; i++)
		spawn(run_part, &parts[i]);
	join_all();
	while (n-- > 0)
		if (races || differs[n])
			return;
	if (*p == ':')
		for (p = next_word(p); *p != '\0'; p = next_word(p))
			if (__atomic_load_n(word_of(p[0]), __ATOMIC_RELAXED) != p[1] - '0')
				return;
	outcome((unsigned)variant);
}

#define ALL { UNBOUNDED, UNBOUNDED, UNBOUNDED }

#define OUTCOME_TEST(NAME, PROGRAM, REACHED, UNSEEN) \
	static void outcome_##NAME(void) { run(PROGRAM, false, REACHED); }
#define RACE_TEST(NAME, PROGRAM, WHERE) \
	static void race_##NAME(void) { run(PROGRAM, true, WHERE); }
OUTCOMES(OUTCOME_TEST)
RACES(RACE_TEST)

#define OUTCOME_ROW(NAME, ...) { "litmus_" #NAME, outcome_##NAME, ALL, ALL },
#define RACE_ROW(NAME, ...) { "litmus_" #NAME, race_##NAME, ALL, ALL },
const struct scenario litmus_scenarios[] = {
	OUTCOMES(OUTCOME_ROW)
	RACES(RACE_ROW)
	{ 0 }
};
