/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cleanups of collected objects (src/gc): the states of an entry, the pass at the end of a collection, those
 * that hand over what it found, workers, stop, and tables that go from thread to thread. An attached
 * cleanup is a number, which is also its argument; what its thread has let go is dead. A word's state and generation
 * are changed in one step, as they are one word. The pass has the collector's lock, and so does a fork, which
 * takes the two locks of the library before.
 *
 *   holds short safety ADDS=2 PASSES=2 POLLERS=0 STOPS
 *   holds short safety MUTATORS=2 ADDS=1 POLLERS=0
 *   holds short safety ADDS=2 ENTRIES=2 FAILURES=1
 *   holds short safety ADDS=2 ENTRIES=2 POLLERS=0 FORK
 *   holds short safety ADDS=2 ENTRIES=2 IN_PLACE FORK
 *   holds full  safety ADDS=3 TABLES=2 STOPS
 *   holds full  safety MUTATORS=2 ADDS=1 TABLES=2 STOPS
 *   holds full  safety ADDS=4 ENTRIES=2 TABLES=2
 *   holds full  safety ADDS=2 ENTRIES=2 FORK
 *   holds full  safety ADDS=2 ENTRIES=2 FAILURES=2 STOPS
 *
 *   fails short assertion STOPS BUG_STOP_WITHOUT_GENERATION
 *   fails short assertion PASSES=2 POLLERS=0 STOPS BUG_STOP_COMPARES_AND_THEN_TAKES
 *   fails short assertion STOPS BUG_STOP_FREES_BEFORE_THE_ARGUMENT
 *   fails short assertion STOPS BUG_PASS_WITHOUT_COMPARE
 *   fails short assertion STOPS BUG_SAME_GENERATION_AGAIN
 *   fails short assertion ENTRIES=2 BUG_FLAG_RESET_AFTER_THE_SCAN
 *   fails short assertion ENTRIES=2 BUG_PASS_LINKS_TWICE
 *   fails short assertion ADDS=4 ENTRIES=2 TABLES=2 POLLERS=0 BUG_NEXT_READ_AFTER_THE_FLAG
 *   fails short assertion BUG_FREED_BEFORE_THE_RUN
 *   fails short assertion ENTRIES=2 BUG_NO_SECOND_LOOK
 *   fails short assertion BUG_NOBODY_IS_TOLD
 *   fails short assertion FAILURES=1 BUG_REFUSED_STAYS_QUEUED
 *   fails short assertion FAILURES=1 BUG_REFUSED_IS_NOT_PENDING
 *   fails short assertion FAILURES=1 BUG_TOLD_UNDER_THE_LOCK
 *   fails short assertion MUTATORS=2 BUG_REUSED_WHILE_OWNED
 *   fails short assertion MUTATORS=2 BUG_OWNED_BEHIND_THE_LOCK
 *   fails short assertion POLLERS=0 FORK BUG_FORK_LOOKS_NO_MORE
 *   fails short deadlock  FORK BUG_PASS_WAITS_FOR_THE_LOCK
 *   fails short deadlock  IN_PLACE FORK BUG_RUNS_UNDER_THE_LOCK
 */
#ifndef MUTATORS
#define MUTATORS 1
#endif
#ifndef ADDS		/* of each mutator */
#define ADDS 2
#endif
#ifndef TABLES
#define TABLES 1
#endif
#ifndef ENTRIES		/* of a table */
#define ENTRIES 1
#endif
#ifndef PASSES		/* before the last one, which finds everything dead */
#define PASSES 1
#endif
#ifndef POLLERS
#define POLLERS 1
#endif
#ifndef FAILURES	/* hand-overs without memory or room */
#define FAILURES 0
#endif

#ifdef STOPS
#define STOPPERS 1
#else
#define STOPPERS 0
#endif
#ifdef FORK
#define FORKERS 1
#else
#define FORKERS 0
#endif
#ifdef IN_PLACE
#define CALLERS 2
#else
#define CALLERS POLLERS
#endif
#define BUSY (STOPPERS + FORKERS + CALLERS)
#define CLEANUPS (MUTATORS * ADDS)
#define ALL (TABLES * ENTRIES)
#define NONE 255
#define NO_ARG 254

/* A word is FREE, DEAD, QUEUED or OBJECT + the number of the cleanup, and a generation. */
#define FREE 0
#define DEAD 1
#define QUEUED 2
#define OBJECT 3

byte word[ALL], gen[ALL], arg[ALL] = NO_ARG;
byte next[TABLES], pending = NONE;
bool flag[TABLES];		/* is linked, or about to be */
bool owned[TABLES], listed[TABLES];
byte made;			/* tables so far */
bool collector_held, leaf_held, draining_held;
byte sem;
byte failures = FAILURES;
chan queue = [ALL] of { byte };

/* What the library doesn't have. */
bool dead[CLEANUPS], attached[CLEANUPS], stopped[CLEANUPS], ran[CLEANUPS];
byte entry[CLEANUPS], handle[CLEANUPS];
byte mutators = MUTATORS;	/* that have not ended */
byte busy = BUSY;		/* others that end */
bool passed;			/* the last pass is over */
byte visits;

#define lock(held) atomic { !held -> held = true }
#define unlock(held) held = false

/* ------------------------------------------------------------------- mutators */

/* Gives its table up, and has one that is to be used again, or a new one. */
inline take_table()
{
	if
	:: mine != NONE -> owned[mine] = false; mine = NONE
	:: else
	fi;
	lock(leaf_held);
	t = 0;
	do
	:: t < made && !listed[t] -> t++
	:: else -> break
	od;
	if
	:: t < made -> listed[t] = false; mine = t
	:: t == made && made < TABLES -> made++; mine = t
	:: t == made && made == TABLES
	fi;
#ifndef BUG_OWNED_BEHIND_THE_LOCK
	if
	:: mine != NONE -> owned[mine] = true
	:: else
	fi;
#endif
	unlock(leaf_held);
#ifdef BUG_OWNED_BEHIND_THE_LOCK
	if
	:: mine != NONE -> owned[mine] = true
	:: else
	fi;
#endif
	atomic { t = 0; cursor = 0 }
}

/* A table is gone over once. */
inline take_entry()
{
	found = NONE;
	do
	:: mine == NONE -> break
	:: mine != NONE && cursor == ENTRIES -> break
	:: mine != NONE && cursor < ENTRIES ->
		found = mine * ENTRIES + cursor;
		cursor++;
		if
		:: word[found] == FREE -> break
		:: else -> found = NONE
		fi
	od
}

active [MUTATORS] proctype mutator()
{
	byte c, n, mine = NONE, cursor, found, t;

	do
	:: n == ADDS -> break
	:: n < ADDS ->
		take_entry();
		if
		:: found == NONE -> take_table(); take_entry()
		:: else
		fi;
		if
		:: found == NONE -> break		/* without memory */
		:: else
		fi;
		atomic { c = _pid * ADDS + n; n++ };
		arg[found] = c;
		atomic {
			assert(word[found] == FREE);
			entry[c] = found;
			handle[c] = gen[found];
			attached[c] = true;
			word[found] = OBJECT + c
		};
		dead[c] = true
	od;
	if
	:: mine != NONE -> owned[mine] = false		/* thread_ends */
	:: else
	fi;
	mutators--
}

/* ------------------------------------------------------------------- the pass */

/* Links the table, unless it is. */
inline link(t)
{
	atomic {
		was = flag[t];
		flag[t] = true
	}
#ifdef BUG_PASS_LINKS_TWICE
	was = false;
#endif
	if
	:: was
	:: !was ->
		do
		:: head = pending;
		   next[t] = head;
		   atomic {
			if
			:: pending == head -> pending = t; break
			:: else
			fi
		   }
		od
	fi;
	atomic { was = false; head = 0 }
}

inline look_at_entries(t)
{
	e = t * ENTRIES;
	do
	:: e == (t + 1) * ENTRIES -> break
	:: e < (t + 1) * ENTRIES ->
		atomic { w = word[e]; g = gen[e] };
		if
		:: w == FREE -> nfree++
		:: w >= OBJECT && dead[w - OBJECT] ->
			atomic {
#ifndef BUG_PASS_WITHOUT_COMPARE
				if
				:: word[e] == w && gen[e] == g -> word[e] = DEAD; ndead++
				:: else
				fi
#else
				word[e] = DEAD;
				ndead++
#endif
			}
		:: else
		fi;
		atomic { e++; w = 0; g = 0 }
	od
}

/* A table without owner goes onto the list of those to be used again; if the lock is not to be had, next time. */
inline offer(t)
{
#ifdef BUG_PASS_WAITS_FOR_THE_LOCK
	lock(leaf_held);
	got = true;
#else
	atomic {
		if
		:: !leaf_held -> leaf_held = true; got = true
		:: leaf_held
		fi
	}
#endif
	if
	:: got ->
#ifdef BUG_REUSED_WHILE_OWNED
		listed[t] = true;
#else
		if
		:: !owned[t] && !listed[t] -> listed[t] = true
		:: else
		fi;
#endif
		unlock(leaf_held);
		got = false
	:: else
	fi
}

inline pass()
{
	lock(collector_held);
	t = 0;
	do
	:: t == made -> break
	:: t < made ->
		look_at_entries(t);
		if
		:: ndead != 0 -> link(t)
		:: else
		fi;
		if
		:: nfree != 0 -> offer(t)
		:: else
		fi;
		atomic { t++; nfree = 0; ndead = 0 }
	od;
	t = 0;
#ifndef BUG_NOBODY_IS_TOLD
	if
	:: pending != NONE -> sem++
	:: else
	fi;
#endif
	unlock(collector_held)
}

active proctype collector()
{
	byte n, t, e, w, g, head, nfree, ndead;
	bool was, got;

	do
	:: n < PASSES -> n++; pass()
	:: n < PASSES && mutators == 0 -> n = PASSES
	:: n == PASSES -> atomic { mutators == 0 -> n++ }; pass(); break
	od;
	passed = true
}

/* -------------------------------------------------------------------- workers */

inline run_entry(e)
{
#ifdef BUG_FREED_BEFORE_THE_RUN
	atomic { word[e] = FREE; gen[e]++ };
#endif
	c = arg[e];
	assert(c < CLEANUPS && dead[c] && !stopped[c] && !ran[c]);
	ran[c] = true;
	assert(arg[e] == c);		/* what it points to was kept alive */
#ifndef BUG_FREED_BEFORE_THE_RUN
	arg[e] = NO_ARG;
	atomic { word[e] = FREE; gen[e]++ };
#endif
	c = 0
}

active proctype worker()
{
	byte e, c;

end:	do
	:: queue?e -> run_entry(e)
	od
}

/* ------------------------------------------------------------------ handing over */

inline no_room()
{
	/* DEAD again, and the table pending again. */
#ifndef BUG_REFUSED_STAYS_QUEUED
	word[e] = DEAD;
#endif
#ifndef BUG_REFUSED_IS_NOT_PENDING
	link(t);
#endif
#ifdef BUG_TOLD_UNDER_THE_LOCK
	sem++
#else
	skip
#endif
}

/* With the lock: all that is dead in the tables of the list `mine`. */
inline scan(mine)
{
	do
	:: mine == NONE -> break
	:: mine != NONE ->
		t = mine;
		visits++;
		assert(visits <= TABLES);
#ifdef BUG_NEXT_READ_AFTER_THE_FLAG
		flag[t] = false;
		mine = next[t];
#elif defined(BUG_FLAG_RESET_AFTER_THE_SCAN)
		mine = next[t];
#else
		mine = next[t];
		flag[t] = false;
#endif
		e = t * ENTRIES;
		do
		:: e == (t + 1) * ENTRIES -> break
		:: e < (t + 1) * ENTRIES ->
			if
			:: word[e] == DEAD ->
				word[e] = QUEUED;
				if
				:: failures > 0 -> failures--; refused = true; no_room()
				:: queue!e
				fi
			:: else
			fi;
			e++
		od;
#ifdef BUG_FLAG_RESET_AFTER_THE_SCAN
		flag[t] = false;
#endif
		e = 0
	od;
	atomic { t = 0; visits = 0 }
}

/* Whoever finds the lock taken leaves it to its holder, who looks again. */
inline hand_over()
{
	do
	:: pending == NONE || refused -> break
	:: else ->
		atomic {
			if
			:: draining_held -> break
			:: else -> draining_held = true
			fi
		};
		atomic { mine = pending; pending = NONE };
		scan(mine);
		unlock(draining_held);
#ifdef BUG_NO_SECOND_LOOK
		break
#endif
	od;
#ifndef BUG_TOLD_UNDER_THE_LOCK
	if
	:: refused -> sem++	/* later again */
	:: else
	fi;
#endif
	atomic { mine = 0; refused = false }
}

#ifdef IN_PLACE
/* One at a time: what is left of the list, and of its table, waits under the lock. */
byte rest = NONE, open = NONE, at;

inline claim_one()
{
	found = NONE;
	do
	:: found != NONE -> break
	:: found == NONE && open != NONE ->
		if
		:: at == (open + 1) * ENTRIES -> open = NONE
		:: else ->
			if
			:: word[at] == DEAD -> word[at] = QUEUED; found = at
			:: else
			fi;
			at++
		fi
	:: found == NONE && open == NONE && rest != NONE ->
		t = rest;
		rest = next[t];
		flag[t] = false;
		open = t;
		at = t * ENTRIES;
		t = 0
	:: found == NONE && open == NONE && rest == NONE ->
		atomic { rest = pending; pending = NONE };
		if
		:: rest == NONE -> break
		:: else
		fi
	od
}

/* A cleanup may fork. */
inline run_in_place()
{
	do
	:: lock(draining_held);
	   claim_one();
#ifndef BUG_RUNS_UNDER_THE_LOCK
	   unlock(draining_held);
#endif
	   if
	   :: found == NONE -> break
	   :: else -> fork(); run_entry(found)
	   fi;
#ifdef BUG_RUNS_UNDER_THE_LOCK
	   unlock(draining_held);
#endif
	od;
#ifdef BUG_RUNS_UNDER_THE_LOCK
	unlock(draining_held)
#else
	skip
#endif
}
#endif

inline fork()
{
	lock(draining_held);
	lock(leaf_held);
	lock(collector_held);
	unlock(collector_held);
	unlock(leaf_held);
	unlock(draining_held);
#ifndef BUG_FORK_LOOKS_NO_MORE
	/* Whoever came meanwhile has left it to the holder of the lock. */
	if
	:: pending != NONE -> sem++
	:: else
	fi
#endif
}

#ifdef IN_PLACE
/* Two threads that add or poll: one of them after the last collection. */
active [2] proctype caller()
{
	byte t, c, found;

	if
	:: _pid % 2 == 0 -> passed
	:: _pid % 2 != 0
	fi;
	run_in_place();
	busy--
}
#else
active proctype helper()
{
	byte mine, t, e, head;
	bool was, refused;

end:	do
	:: atomic { sem > 0 -> sem-- };
	   hand_over()
	od
}

#if POLLERS != 0
active [POLLERS] proctype poller()
{
	byte mine, t, e, head;
	bool was, refused;

	hand_over();
	busy--
}
#endif
#endif

#ifdef FORK
active proctype forker()
{
	fork();
	busy--
}
#endif

/* ----------------------------------------------------------------------- stop */

inline stop(c)
{
	e = entry[c];
	atomic { w = word[e]; g = gen[e] };
#ifndef BUG_STOP_WITHOUT_GENERATION
	if
	:: w >= OBJECT && g == handle[c] ->
#else
	if
	:: w >= OBJECT ->
#endif
		atomic {
#ifdef BUG_STOP_COMPARES_AND_THEN_TAKES
			if
			:: word[e] >= OBJECT -> won = true
#else
			if
			:: word[e] == w && gen[e] == g -> won = true
#endif
			:: else
			fi;
			if
			:: won ->
				assert(word[e] == OBJECT + c);
				stopped[c] = true;
#ifdef BUG_STOP_FREES_BEFORE_THE_ARGUMENT
				word[e] = FREE;
				gen[e]++
#else
				word[e] = QUEUED
#endif
			:: else
			fi
		};
		if
		:: won ->
			arg[e] = NO_ARG;
#ifndef BUG_STOP_FREES_BEFORE_THE_ARGUMENT
			atomic {
				word[e] = FREE;
#ifndef BUG_SAME_GENERATION_AGAIN
				gen[e]++
#endif
			}
#endif
		:: else
		fi
	:: else
	fi;
	atomic { e = 0; w = 0; g = 0; won = false }
}

#ifdef STOPS
/* By a handle, new or old: the entry may be another cleanup's meanwhile. */
active proctype stopper()
{
	byte n, e, w, g;
	bool won;

	do
	:: n == CLEANUPS || passed -> break
	:: n < CLEANUPS && attached[n] -> stop(n)
	:: n < CLEANUPS -> n++
	od;
	busy--
}
#endif

/* When nothing goes on any more, each cleanup was stopped or has run, and nothing is left of it. */
active proctype end_of_all()
{
	byte i;

	timeout;
	if
	:: busy == 0 && mutators == 0 && passed ->
		atomic {
			for (i : 0 .. CLEANUPS - 1) {
				assert(!attached[i] || stopped[i] != ran[i])
			}
			for (i : 0 .. ALL - 1) {
				assert(word[i] == FREE && arg[i] == NO_ARG)
			}
			assert(pending == NONE && !leaf_held && !draining_held)
		}
	:: else
	fi
}
