/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cleanups of collected objects (src/gc): the states of an entry, the pass at the end of a collection, the hand-over
 * of what it found, workers, stop, and tables that go from thread to thread and are merged. An attached cleanup
 * is a number, which is also its argument; what its thread has let go is dead. A word's state and generation
 * change in one step, as they are one word. The pass has the collector's lock, and so does a fork, which takes
 * both locks of the library before. A table is used again as soon as one entry is done.
 *
 *   holds short safety ADDS=2 POLLERS=0 STOPS
 *   holds short safety MUTATORS=2 ADDS=1
 *   holds short safety ADDS=2 ENTRIES=2 FAILURES=1
 *   holds short safety ADDS=2 ENTRIES=2 POLLERS=0 FORK
 *   holds short safety ADDS=2 ENTRIES=2 IN_PLACE FORK
 *   holds short safety ADDS=2 TABLES=2 POLLERS=0 PASSES=2 MERGE
 *   holds full  safety MUTATORS=2 ADDS=1 ENTRIES=2 TABLES=2 POLLERS=0
 *   holds full  safety ADDS=3 PASSES=2 POLLERS=0 STOPS
 *   holds full  safety ADDS=4 ENTRIES=2 TABLES=2
 *   holds full  safety ADDS=2 ENTRIES=2 FORK
 *   holds full  safety ADDS=2 ENTRIES=2 FAILURES=2
 *
 *   fails short assertion STOPS BUG_STOP_WITHOUT_GENERATION
 *   fails short assertion PASSES=2 POLLERS=0 STOPS BUG_STOP_COMPARES_AND_THEN_TAKES
 *   fails short assertion STOPS BUG_STOP_FREES_BEFORE_THE_ARGUMENT
 *   fails short assertion STOPS BUG_PASS_WITHOUT_COMPARE
 *   fails short assertion STOPS BUG_SAME_GENERATION_AGAIN
 *   fails short assertion ENTRIES=2 BUG_FLAG_RESET_BEHIND_THE_SCAN
 *   fails short assertion ENTRIES=2 BUG_PASS_LINKS_TWICE
 *   fails short assertion ADDS=4 ENTRIES=2 TABLES=2 POLLERS=0 BUG_NEXT_READ_BEHIND_THE_FLAG
 *   fails short assertion BUG_DONE_BEFORE_THE_RUN
 *   fails short assertion ENTRIES=2 BUG_LEFT_TO_WHO_HAS_THE_LOCK
 *   fails short assertion BUG_NOBODY_IS_TOLD
 *   fails short assertion FAILURES=1 BUG_REFUSED_STAYS_QUEUED
 *   fails short assertion FAILURES=1 BUG_REFUSED_IS_PASSED_OVER
 *   fails short assertion FAILURES=1 POLLERS=0 BUG_HELPER_TRIES_ONCE
 *   fails short assertion IN_PLACE ENTRIES=2 BUG_ATTENTION_RESET_BEHIND_THE_LOOK
 *   fails short assertion MUTATORS=2 BUG_REUSED_WHILE_OWNED
 *   fails short assertion MUTATORS=2 BUG_OWNED_BEHIND_THE_LOCK
 *   fails full  assertion ADDS=2 TABLES=2 POLLERS=0 PASSES=2 MERGE STOPS BFS BUG_HELD_ARE_MOVED
 *   fails short assertion ADDS=2 TABLES=2 POLLERS=0 PASSES=2 MERGE BUG_MOVED_WITHOUT_ARGUMENT
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
#ifndef FAILURES	/* of the queue, for want of memory or room */
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

/* A word is a state or OBJECT + the number of the cleanup, and a generation; done is what is not above DONE. */
#define FREE 0
#define DONE 1		/* ran, or stopped */
#define DEAD 2
#define QUEUED 3
#define OBJECT 4

byte word[ALL], gen[ALL], arg[ALL] = NO_ARG;
bool held[ALL];			/* somebody has a handle: a part of the word too */
byte next[TABLES], pending = NONE;
bool flag[TABLES];		/* is linked, or about to be */
bool owned[TABLES], spare[TABLES];
byte cursor[TABLES];
byte made;			/* tables so far */
bool collector_held, lists_held, draining_held;
byte now = NONE, rest = NONE, at;	/* where a hand-over has got to; under `draining` */
byte sem;
bool attention;
byte failures = FAILURES;
chan queue = [ALL] of { byte };

/* What the library doesn't have. */
bool dead[CLEANUPS], attached[CLEANUPS], stopped[CLEANUPS], ran[CLEANUPS];
byte entry[CLEANUPS], handle[CLEANUPS];
bool has_handle[CLEANUPS];
byte mutators = MUTATORS;	/* that have not ended */
byte busy = BUSY;		/* others that end */
bool linked[TABLES];
bool passed;			/* the last pass is over */

#define lock(held) atomic { !held -> held = true }
#define unlock(held) held = false

/* ------------------------------------------------------------------- mutators */

/* A table's next entry that is done. */
inline next_done(t)
{
	found = NONE;
	do
	:: cursor[t] == ENTRIES -> break
	:: cursor[t] < ENTRIES ->
		atomic { found = t * ENTRIES + cursor[t]; cursor[t]++ };
		if
		:: word[found] <= DONE -> break
		:: else -> found = NONE
		fi
	od;
	if
	:: found != NONE && word[found] == DONE ->
		atomic {
			word[found] = FREE;
#ifndef BUG_SAME_GENERATION_AGAIN
			gen[found]++
#endif
		}
	:: else
	fi
}

/* Gives its table up, and has one that is to be used again, or a new one. */
inline next_table()
{
	lock(lists_held);
	if
	:: mine != NONE -> owned[mine] = false; mine = NONE
	:: else
	fi;
	t = 0;
	do
	:: t < made && !spare[t] -> t++
	:: else -> break
	od;
	if
	:: t < made -> spare[t] = false; mine = t
	:: t == made && made < TABLES -> made++; mine = t
	:: t == made && made == TABLES
	fi;
#ifndef BUG_OWNED_BEHIND_THE_LOCK
	if
	:: mine != NONE -> owned[mine] = true
	:: else
	fi;
#endif
	unlock(lists_held);
#ifdef BUG_OWNED_BEHIND_THE_LOCK
	if
	:: mine != NONE -> owned[mine] = true
	:: else
	fi;
#endif
	t = 0
}

active [MUTATORS] proctype mutator()
{
	byte c, n, mine = NONE, found, t;

	do
	:: n == ADDS -> break
	:: n < ADDS ->
		found = NONE;
		do
		:: mine != NONE ->
			next_done(mine);
			if
			:: found != NONE -> break
			:: else -> next_table()
			fi
		:: mine == NONE -> next_table()
		:: mine == NONE -> break		/* without memory */
		od;
		if
		:: found == NONE -> break
		:: else
		fi;
		atomic { c = _pid * ADDS + n; n++ };
		arg[found] = c;
		atomic {
			assert(word[found] == FREE);
#ifdef STOPS
			if
			:: has_handle[c] = true
			:: true
			fi;
#endif
			held[found] = has_handle[c];
			entry[c] = found;
			handle[c] = gen[found];
			attached[c] = true;
			word[found] = OBJECT + c
		};
		if
		:: dead[c] = true
#ifdef MERGE
		:: true
#endif
		fi
	od;
	if
	:: mine != NONE -> owned[mine] = false		/* thread_ends */
	:: else
	fi;
#ifdef MERGE
	do
	:: n > 0 -> n--; dead[_pid * ADDS + n] = true
	:: n == 0 -> break
	od;
#endif
	mutators--
}

/* ------------------------------------------------------------------- the pass */

/* Links the table, unless it is. Only passes do. */
inline pend(t)
{
#ifndef BUG_PASS_LINKS_TWICE
	if
	:: flag[t]
	:: !flag[t] ->
#else
	if
	:: true ->
#endif
		flag[t] = true;
		do
		:: head = pending;
		   next[t] = head;
		   atomic {
			if
			:: pending == head -> pending = t; assert(!linked[t]); linked[t] = true; break
			:: else
			fi
		   }
		od
	fi;
	head = 0
}

inline look_at_entries(t)
{
	e = t * ENTRIES;
	do
	:: e == (t + 1) * ENTRIES -> break
	:: e < (t + 1) * ENTRIES ->
		atomic { w = word[e]; g = gen[e]; h = held[e] };
		if
		:: w <= DONE -> ndone++
		:: w >= OBJECT && dead[w - OBJECT] ->
			atomic {
#ifndef BUG_PASS_WITHOUT_COMPARE
				if
				:: word[e] == w && gen[e] == g -> word[e] = DEAD; ndead++
				:: else -> assert(h)	/* a stop was faster */
				fi
#else
				word[e] = DEAD;
				ndead++
#endif
			}
		:: else
		fi;
		atomic { e++; w = 0; g = 0; h = false }
	od
}

/* Objects without a handle move from table 1 to table 0: neither has an owner. */
inline merge()
{
	e = ENTRIES;
	do
	:: e == 2 * ENTRIES -> break
	:: e < 2 * ENTRIES ->
#ifdef BUG_HELD_ARE_MOVED
		w = word[e];
#else
		w = (held[e] -> FREE : word[e]);
#endif
		if
		:: w >= OBJECT ->
			next_done(0);
			if
			:: found == NONE -> break
			:: else
			fi;
#ifndef BUG_MOVED_WITHOUT_ARGUMENT
			arg[found] = arg[e];
#endif
			atomic { assert(word[found] == FREE); word[found] = w; held[found] = false };
			atomic { word[e] = FREE; held[e] = false };
			arg[e] = NO_ARG
		:: else
		fi;
		atomic { e++; w = 0 }
	od;
	atomic { e = 0; w = 0; found = 0 }
}

inline pass()
{
	lock(collector_held);
	/* If the lock of the lists is not to be had, they wait for the next pass. */
#ifdef BUG_PASS_WAITS_FOR_THE_LOCK
	lock(lists_held);
	tidy = true;
#else
	atomic { tidy = !lists_held; lists_held = true };
#endif
	t = 0;
	do
	:: t == made -> break
	:: t < made ->
		look_at_entries(t);
		if
		:: ndead != 0 -> pend(t); died = true
		:: else
		fi;
#ifdef BUG_REUSED_WHILE_OWNED
		if
		:: tidy ->
#else
		if
		:: tidy && !owned[t] ->
#endif
			spare[t] = (ndone != 0);
			cursor[t] = 0
		:: else
		fi;
		atomic { t++; ndone = 0; ndead = 0 }
	od;
#ifdef MERGE
	if
	:: tidy && spare[0] && !owned[1] -> merge()
	:: else
	fi;
#endif
	atomic {
		t = 0;
		if
		:: tidy -> lists_held = false
		:: else
		fi
	};
#ifndef BUG_NOBODY_IS_TOLD
	if
	:: died -> atomic { sem++; attention = true }
	:: else
	fi;
#endif
	died = false;
	unlock(collector_held)
}

active proctype collector()
{
	byte n, t, e, w, g, head, ndone, ndead, found;
	bool tidy, died, h;

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
#ifdef BUG_DONE_BEFORE_THE_RUN
	atomic { word[e] = DONE; held[e] = false };
#endif
	c = arg[e];
	assert(c < CLEANUPS && dead[c] && !stopped[c] && !ran[c]);
	ran[c] = true;
	assert(arg[e] == c);		/* what it points to was kept alive */
#ifndef BUG_DONE_BEFORE_THE_RUN
	arg[e] = NO_ARG;
	atomic { word[e] = DONE; held[e] = false };
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

/* With the lock. What is left of the list, and of its table, waits for who comes next. */
inline next_dead()
{
	found = NONE;
	do
	:: found != NONE -> break
	:: found == NONE && now != NONE && at < (now + 1) * ENTRIES ->
		if
		:: word[at] == DEAD -> word[at] = QUEUED; found = at
		:: else
		fi;
		at++
	:: found == NONE && (now == NONE || at == (now + 1) * ENTRIES) ->
#ifdef BUG_FLAG_RESET_BEHIND_THE_SCAN
		if
		:: now != NONE -> flag[now] = false
		:: else
		fi;
#endif
		if
		:: rest == NONE -> atomic { rest = pending; pending = NONE }
		:: else
		fi;
		atomic {
			now = rest;
			at = 0;
			if
			:: now == NONE -> break
			:: else -> at = now * ENTRIES; linked[now] = false
			fi
		};
#ifdef BUG_NEXT_READ_BEHIND_THE_FLAG
		flag[now] = false;
		rest = next[now]
#else
		rest = next[now];
#ifndef BUG_FLAG_RESET_BEHIND_THE_SCAN
		flag[now] = false
#endif
#endif
	od
}

/* enqueue_dead */
inline hand_over()
{
#ifdef BUG_LEFT_TO_WHO_HAS_THE_LOCK
	atomic {
		if
		:: draining_held -> goto left
		:: else -> draining_held = true
		fi
	};
#else
	lock(draining_held);
#endif
	do
	:: next_dead();
	   if
	   :: found == NONE -> break
	   :: found != NONE && failures > 0 ->
		failures--;
		refused = true;
#ifndef BUG_REFUSED_STAYS_QUEUED
		word[found] = DEAD;
#endif
#ifndef BUG_REFUSED_IS_PASSED_OVER
		at--;
#endif
		break
	   :: found != NONE -> queue!found
	   fi
	od;
	unlock(draining_held);
left:	found = 0
}

inline fork()
{
	lock(draining_held);
	lock(lists_held);
	lock(collector_held);
	unlock(collector_held);
	unlock(lists_held);
	unlock(draining_held)
}

#ifdef IN_PLACE
/* cq_gc_run_dead. A cleanup may fork. */
inline run_dead()
{
	do
	:: lock(draining_held);
	   next_dead();
#ifdef BUG_ATTENTION_RESET_BEHIND_THE_LOOK
	   if
	   :: found == NONE -> attention = false
	   :: else
	   fi;
#else
	   if
	   :: found == NONE && attention -> attention = false; next_dead()
	   :: else
	   fi;
#endif
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

/* Two threads that add: one of them after the last collection. */
active [2] proctype caller()
{
	byte c, found;

	if
	:: _pid % 2 == 0 -> passed
	:: _pid % 2 != 0
	fi;
	if
	:: attention -> run_dead()
	:: !attention
	fi;
	busy--
}
#else
active proctype helper()
{
	byte found;
	bool refused;

end:	do
	:: atomic { sem > 0 -> sem-- };
again:	   hand_over();
	   if
#ifndef BUG_HELPER_TRIES_ONCE
	   :: refused -> refused = false; goto again	/* when it has waited */
#endif
	   :: else -> refused = false
	   fi
	od
}

#if POLLERS != 0
active [POLLERS] proctype poller()
{
	byte found;
	bool refused;

	hand_over();
	if
	:: refused -> sem++
	:: else
	fi;
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
	atomic { e = entry[c]; was = (dead[c] || stopped[c]) };
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
				word[e] = DONE;
				held[e] = false
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
			atomic { word[e] = DONE; held[e] = false }
#endif
		:: else
		fi
	:: else
	fi;
	assert(won || was || dead[c]);		/* what lives is stopped, once */
	atomic { e = 0; w = 0; g = 0; won = false; was = false }
}

#ifdef STOPS
/* By a handle, new or old: the entry may be another cleanup's meanwhile. */
active proctype stopper()
{
	byte n, e, w, g;
	bool won, was;

	do
	:: n == CLEANUPS || passed -> break
	:: n < CLEANUPS && attached[n] && has_handle[n] -> stop(n)
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
				assert(word[i] <= DONE && arg[i] == NO_ARG)
			}
			assert(pending == NONE && !lists_held && !draining_held)
		}
	:: else
	fi
}
