/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks (src/pool/tasks.c): the word of a task, the two stacks of records, both chains, runs
 * in workers and in callers, close and the record's next use. The workers are as many as there
 * are: how they are made and retire isn't here. The event count is that of
 * sleepers.pml: a waker's hold of its lock is one step here. Producers end; a piece may hang
 * for ever (HANGS of them). What must hold then is at the foot: at_rest.
 * A compare-and-swap of the word is one step: a loop around it changes nothing but time.
 * MANY is a hint: with JOINS it is said at first, and each run that leaves pieces may say it anew.
 *
 *   holds short safety   TASKS=1 PIECES=1 HANGS=1
 *   holds short safety   TASKS=1 PIECES=1 LIMIT=1
 *   holds short safety   TASKS=2 PRODUCERS=2 PIECES=1
 *   holds short safety   TASKS=2 PRODUCERS=2 PIECES=1 HANGS=1
 *   holds short safety   TASKS=1 LIMIT=1 CALLERS=1 WORKERS=1
 *   holds short safety   TASKS=1 CLOSER=1 PRODUCERS=1
 *   holds short safety   TASKS=1 STALLS=1 PIECES=1
 *   holds short safety   PRODUCERS=1 PIECES=3 WORKERS=3 HANGS=2
 *   holds short safety   PRODUCERS=1 PIECES=3 WORKERS=3 HANGS=1 LIMIT=2
 *   holds short safety   JOINS=1 PRODUCERS=1 PIECES=3 HANGS=1
 *   holds short safety   JOINS=1 TASKS=1 PIECES=1 CLOSER=1
 *   holds short safety   JOINS=1 TASKS=2 PRODUCERS=2 PIECES=1 HANGS=1
 *   holds full  safety   JOINS=1 HANGS=1
 *   holds full  safety   JOINS=1 PRODUCERS=1 PIECES=3 WORKERS=3 HANGS=2
 *   holds full  safety   JOINS=1 TASKS=2 PRODUCERS=3 PIECES=2 HANGS=1
 *   holds full  safety   LIMIT=1
 *   holds full  safety   HANGS=1
 *   holds full  safety   TASKS=1 LIMIT=1 CALLERS=1 CLOSER=1
 *   holds full  safety   TASKS=2 PRODUCERS=3 PIECES=1 HANGS=1
 *   holds full  safety   TASKS=3 PRODUCERS=3 PIECES=1 WORKERS=2
 *
 *   fails short assertion BUG_NO_MORE
 *   fails short assertion BUG_MORE_IS_NOT_PUSHED
 *   fails short assertion BUG_IN_CLEARED_AFTER_THE_TAKE
 *   fails short assertion BUG_CHAIN_AFTER_THE_RUN
 *   fails short assertion BUG_NO_CHAIN_OF_THE_POOL
 *   fails short assertion BUG_ONE_COUNT_OF_UNITS
 *   fails short assertion BUG_POPPER_IGNORES_THE_LIMIT
 *   fails short assertion BUG_POPPER_AT_THE_LIMIT_LEAVES_NOTHING
 *   fails short assertion BUG_CALLER_THAT_ENDS_WAKES_NOBODY
 *   fails short assertion BUG_COMING_LOWERED_AFTER_THE_LOOK
 *   fails short assertion BUG_SIGNAL_THAT_FINDS_IN_WAKES_NOBODY
 *   fails short assertion BUG_IN_READ_BEFORE_RELEASED
 *   fails short assertion BUG_CLOSER_FREES_WHAT_IS_IN_A_STACK
 *   fails short assertion BUG_CLOSE_WAITS_FOR_NO_RUN
 *   fails short assertion BUG_JOIN_FREES_THE_RECORD
 *   fails short assertion BUG_JOIN_OF_A_CLOSED_TASK
 *   fails short assertion BUG_JOIN_BESIDE_ANOTHER_RECORD
 */
#if defined(BUG_NO_MORE) || defined(BUG_MORE_IS_NOT_PUSHED)
#define LIMIT 1
#endif
#if defined(BUG_POPPER_IGNORES_THE_LIMIT) || defined(BUG_POPPER_AT_THE_LIMIT_LEAVES_NOTHING)
#define LIMIT 1
#define CALLERS 1
#define PIECES 1
#endif
#ifdef BUG_CALLER_THAT_ENDS_WAKES_NOBODY
#define LIMIT 1
#define CALLERS 1
#define WORKERS 1
#endif
#ifdef BUG_CHAIN_AFTER_THE_RUN
#define PRODUCERS 1
#define PIECES 2
#define HANGS 1
#endif
#if defined(BUG_NO_CHAIN_OF_THE_POOL) || defined(BUG_COMING_LOWERED_AFTER_THE_LOOK)
#define TASKS 2
#define PIECES 1
#define HANGS 1
#endif
#ifdef BUG_ONE_COUNT_OF_UNITS
#define TASKS 3
#define PRODUCERS 3
#define PIECES 1
#endif
#if defined(BUG_IN_READ_BEFORE_RELEASED) || defined(BUG_CLOSER_FREES_WHAT_IS_IN_A_STACK) || \
	defined(BUG_CLOSE_WAITS_FOR_NO_RUN)
#define PRODUCERS 1
#define CLOSER 1
#endif
#ifdef BUG_SIGNAL_THAT_FINDS_IN_WAKES_NOBODY
#define STALLS 1
#define PIECES 1
#endif

#if defined(BUG_JOIN_FREES_THE_RECORD) || defined(BUG_JOIN_OF_A_CLOSED_TASK)
#define JOINS 1
#define PRODUCERS 1
#define CLOSER 1
#endif
#ifdef BUG_JOIN_BESIDE_ANOTHER_RECORD
#define JOINS 1
#define TASKS 2
#define PIECES 1
#define HANGS 1
#endif

#ifndef TASKS
#define TASKS 1
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef PRODUCERS	/* producer i signals task i % TASKS, once for each of its PIECES */
#define PRODUCERS 2
#endif
#ifndef PIECES		/* of each producer, added at once where TASKS is 1 and PRODUCERS too */
#define PIECES 2
#endif
#ifndef LIMIT		/* of runs at once; 0: none */
#define LIMIT 0
#endif
#ifndef HANGS		/* pieces that may hang */
#define HANGS 0
#endif
#ifndef CALLERS		/* threads in cq_task_run_some of task 0 */
#define CALLERS 0
#endif
#ifndef CLOSER		/* closes task 0 when it is signalled no more; makes another of its record */
#define CLOSER 0
#endif
#ifndef JOINS		/* may a run that leaves pieces leave the record to others? */
#define JOINS 0
#endif
#ifndef STALLS		/* may producer 0 stop between its push and its wake? */
#define STALLS 0
#endif

#define NONE 255
#define AT_LIMIT(t) (LIMIT != 0 && runs[t] >= LIMIT)

/* the word of a task */
bool in[TASKS], more[TASKS], many[TASKS] = JOINS, closed[TASKS], released[TASKS];
byte runs[TASKS];
/* the pool: which stack a record is in, plus one; 0: none */
byte at[TASKS], units[2];
bit page;
/* the event count `idle` */
byte waiters, coming;
bool prepared[WORKERS], again[WORKERS], listed[WORKERS];

/* What the library doesn't have, for the properties. */
byte left[TASKS];	/* the work */
bool is_free[TASKS];
byte hanging, signalling = PRODUCERS;

/* ---------------------------------------------------------------- the event count */

inline cq_sleepers_ensure(n)
{
	if
	:: waiters == 0 || coming >= n
	:: else ->
		d_step {
			i = 0;
			do
			:: i < WORKERS && coming < n ->
				if
				:: listed[i] -> listed[i] = false; waiters--; coming++
				:: else
				fi;
				i++
			:: else -> break
			od;
			/* epoch + 1: those who are prepared, and not yet listed, look again */
			i = 0;
			do
			:: i < WORKERS && coming < n ->
				if
				:: prepared[i] -> again[i] = true
				:: else
				fi;
				i++
			:: else -> break
			od;
			i = 0
		}
	fi
}

/* ---------------------------------------------------------------------- the stacks */

#ifdef BUG_ONE_COUNT_OF_UNITS
#define COUNT(q) 0
#else
#define COUNT(q) (q)
#endif

inline push_record(t)
{
	s = page;
	atomic { assert(at[t] == 0); at[t] = s + 1 }
	atomic { units[COUNT(s)]++; s = 0 }
}

/* The newest may be any: others push meanwhile. */
inline pop_taken(q)
{
	atomic {
#if TASKS == 1
		assert(at[0] == q + 1);
		task = 0;
#else
		if
		:: at[0] == q + 1 -> task = 0
		:: at[1] == q + 1 -> task = 1
#if TASKS > 2
		:: at[2] == q + 1 -> task = 2
#endif
#ifdef BUG_ONE_COUNT_OF_UNITS
		:: else -> task = NONE
#else
		:: else -> assert(false)	/* a unit, and no node */
#endif
		fi;
#endif
		if
		:: task != NONE -> at[task] = 0
		:: else
		fi
	}
}

/* Into `task`: a record, or NONE. */
inline cq_task_pop()
{
	task = NONE;
	s = 1 - page;
	if
	:: units[s] == 0 ->
		if
		:: units[1 - s] > 1 ->
			atomic {
				if
				:: page == 1 - s -> page = s; s = 1 - s
				:: else
				fi
			}
		:: else
		fi
	:: else
	fi;
#ifdef BUG_ONE_COUNT_OF_UNITS
	atomic {
		if
		:: units[0] > 0 -> units[0]--; got = true
		:: else
		fi
	}
	if
	:: got ->
		pop_taken(s);
		if
		:: task == NONE -> pop_taken(1 - s); assert(task != NONE)
		:: else
		fi
	:: else
	fi;
#else
	atomic {
		if
		:: units[s] > 0 -> units[s]--; got = true
		:: else
		fi
	}
	if
	:: got -> pop_taken(s)
	:: else ->
		atomic {
			if
			:: units[1 - s] > 0 -> units[1 - s]--; got = true
			:: else
			fi
		}
		if
		:: got -> pop_taken(1 - s)
		:: else
		fi
	fi;
#endif
	atomic { got = false; s = 0 }
}

inline some_wait()
{
	found = units[0] > 0;
	if
	:: found
	:: else -> found = units[1] > 0
	fi
}

/* -------------------------------------- the word: change, and its push, in tasks.c */

/* Then the wake, if `wakes`. */
inline change_by_signal(t)
{
	atomic {
		assert(!is_free[t]);
		pushes = false;
		wakes = false;
		if
		:: closed[t]
		:: else ->
			if
			:: in[t] ->
#ifndef BUG_SIGNAL_THAT_FINDS_IN_WAKES_NOBODY
				wakes = true
#endif
			:: !in[t] && AT_LIMIT(t) ->
#ifndef BUG_NO_MORE
				more[t] = true
#endif
			:: else -> in[t] = true; pushes = true; wakes = true
			fi
		fi
	}
	if
	:: pushes -> pushes = false; push_record(t)
	:: else
	fi
}

inline cq_task_signal(t, n)
{
	change_by_signal(t);
	if
	:: wakes -> wakes = false; cq_sleepers_ensure(n)
	:: else
	fi
}

inline free_record(t)
{
	assert(!is_free[t]);
	is_free[t] = true
}

inline change_by_pop(t)
{
	atomic {
		assert(!is_free[t] && in[t]);
		begins = !closed[t] && !AT_LIMIT(t);
#ifdef BUG_POPPER_IGNORES_THE_LIMIT
		begins = !closed[t];
#endif
#ifndef BUG_IN_CLEARED_AFTER_THE_TAKE
		in[t] = false;
#endif
		many[t] = false;
		if
		:: begins -> runs[t]++
		:: !begins && !closed[t] ->
			in[t] = false;
#ifndef BUG_POPPER_AT_THE_LIMIT_LEAVES_NOTHING
			more[t] = true
#endif
		:: else -> in[t] = false
		fi;
		if
		:: released[t] -> free_record(t)
		:: else
		fi;
		assert(LIMIT == 0 || runs[t] <= LIMIT)
	}
}

/* The record stays where it is. */
inline change_by_join(t)
{
	atomic {
		begins = in[t] && many[t] && !closed[t];
#ifdef BUG_JOIN_OF_A_CLOSED_TASK
		begins = in[t] && many[t];
#endif
		if
		:: begins -> assert(!is_free[t] && !released[t]); runs[t]++
		:: else
		fi;
#ifdef BUG_JOIN_FREES_THE_RECORD
		if
		:: released[t] -> free_record(t)
		:: else
		fi
#endif
	}
}

/* `wakes`: it has pushed the record. `idle`: the run had no piece. */
inline change_by_end(t)
{
	atomic {
		assert(!is_free[t] && runs[t] > 0);
		runs[t]--;
		if
		:: idle -> many[t] = false
		:: else
		fi;
		wakes = more[t] && !closed[t];
		if
		:: wakes ->
			more[t] = false;
#ifdef BUG_MORE_IS_NOT_PUSHED
			wakes = false
#else
			in[t] = true
#endif
		:: else
		fi
	}
	if
	:: wakes -> push_record(t)
	:: else
	fi
}

/* The function of task t: one piece. */
inline run_task(t)
{
	atomic {
		piece = left[t] > 0;
		if
		:: piece -> left[t]--
		:: else
		fi;
		idle = !piece
	}
#ifdef BUG_IN_CLEARED_AFTER_THE_TAKE
	in[t] = false;
#endif
#ifndef BUG_CHAIN_AFTER_THE_RUN
	if
	:: piece && left[t] > 0 ->
		if
		:: JOINS -> atomic { many[t] = !closed[t] } /* by the signal, in one step with it or before */
		:: true
		fi;
		cq_task_signal(t, 2)
	:: else
	fi;
#endif
	atomic {
		if
		:: piece && hanging < HANGS -> hanging++; hangs = true
		:: true
		fi
	}
	if
	:: hangs ->
end_hung:	false
	:: else
	fi;
#ifdef BUG_CHAIN_AFTER_THE_RUN
	if
	:: piece && left[t] > 0 -> cq_task_signal(t, 2)
	:: else
	fi;
#endif
	piece = false
}

/* --------------------------------------------------------------------- who is there */

inline stop_owing()
{
#ifdef BUG_COMING_LOWERED_AFTER_THE_LOOK
	if
	:: owes -> atomic { owes = false; coming-- }
	:: else
	fi
#else
	skip
#endif
}

active [WORKERS] proctype worker()
{
	byte me = _pid, task = NONE, i, s;
	bool got, found, begins, piece, hangs, pushes, wakes, owes, idle;

	do
	:: JOINS ->
		/* The only record that waits, whichever that is as head is read. */
		found = false;
		s = units[0];
		atomic {
			s = s + units[1];
#ifdef BUG_JOIN_BESIDE_ANOTHER_RECORD
			s = (s > 0 -> 1 : 0)
#endif
		}
		if
		:: s == 1 ->
			atomic {
				s = 0;
				if
				:: at[0] != 0 -> task = 0
#if TASKS > 1
				:: at[1] != 0 -> task = 1
#endif
				:: else
				fi
			}
			if
			:: task != NONE ->
				change_by_join(task);
				if
				:: begins ->
					begins = false;
					run_task(task);
					change_by_end(task)
				:: else
				fi;
				atomic { task = NONE; wakes = false }
			:: else
			fi
		:: else -> s = 0
		fi
	:: cq_task_pop();
		if
		:: task == NONE ->
			stop_owing();
			atomic { waiters++; prepared[me] = true; again[me] = false }
			cq_task_pop();
			if
			:: task != NONE -> atomic { waiters--; prepared[me] = false }
			:: else ->
				/* commit: listed, unless there was a waker since */
				atomic {
					prepared[me] = false;
					if
					:: again[me] -> waiters--; again[me] = false
					:: else -> listed[me] = true
					fi;
					found = listed[me]
				}
				if
				:: found ->
end_parked:				!listed[me];
#ifdef BUG_COMING_LOWERED_AFTER_THE_LOOK
					owes = true
#else
					coming--
#endif
				:: else
				fi;
				found = false
			fi
		:: else
		fi;
		if
		:: task == NONE
		:: else ->
#ifndef BUG_NO_CHAIN_OF_THE_POOL
			some_wait();
			if
			:: found -> found = false; cq_sleepers_ensure(1)
			:: else
			fi;
#endif
			stop_owing();
			change_by_pop(task);
			if
			:: begins -> begins = false; run_task(task); change_by_end(task)
			:: else
			fi;
			atomic { task = NONE; wakes = false }
		fi
	od
}

active [PRODUCERS] proctype producer()
{
	byte me = _pid - WORKERS, task = (_pid - WORKERS) % TASKS, i, s, n;
	bool pushes, wakes;

	/* Who comes after one that has stopped is not to rely on that one. */
	if
	:: STALLS && me == 1 -> signalling == 1
	:: else
	fi;
	do
	:: n == PIECES -> break
	:: else ->
		n++;
		if
		:: PRODUCERS == 1 -> atomic { left[task] = left[task] + PIECES; n = PIECES }
		:: else -> left[task]++
		fi;
		change_by_signal(task);
		if
		:: wakes ->
			wakes = false;
			if
			:: STALLS && me == 0 -> signalling--;
end_stops:			false
			:: true
			fi;
			cq_sleepers_ensure(1)
		:: else
		fi
	od;
	signalling--
end_stalled:	false
}

#if CALLERS > 0
/* cq_task_run_some: twice, whatever it finds */
active [CALLERS] proctype caller()
{
	byte i, s, n;
	bool begins, piece, hangs, pushes, wakes, idle;

	do
	:: n == 2 -> break
	:: else ->
		n++;
		atomic {
			begins = !closed[0] && !AT_LIMIT(0);
			if
			:: begins -> runs[0]++
			:: else
			fi
		}
		if
		:: begins ->
			begins = false;
			run_task(0);
			change_by_end(0);
#ifndef BUG_CALLER_THAT_ENDS_WAKES_NOBODY
			if
			:: wakes -> cq_sleepers_ensure(1)
			:: else
			fi;
#endif
			wakes = false
		:: else
		fi
	od
}
#endif

#if CLOSER > 0
active proctype closer()
{
	byte i, s;
	bool pushes, wakes, was_in;

	signalling == 0;
	closed[0] = true;
#ifndef BUG_CLOSE_WAITS_FOR_NO_RUN
end_waits:
	runs[0] == 0;
#endif
#ifdef BUG_IN_READ_BEFORE_RELEASED
	was_in = in[0];
	released[0] = true;
#else
	atomic { was_in = in[0]; released[0] = true }
#endif
#ifdef BUG_CLOSER_FREES_WHAT_IS_IN_A_STACK
	was_in = false;
#endif
	if
	:: !was_in -> atomic { free_record(0) }
	:: else
	fi;
	/* Another of its record, if that is free by now; else the property is that it will be. */
	if
	:: is_free[0] ->
		atomic {
			is_free[0] = false;
			closed[0] = false;
			released[0] = false;
			more[0] = false;
			many[0] = JOINS;
			left[0] = 0
		}
		left[0]++;
		cq_task_signal(0, 1)
	:: else
	fi
}
#endif

/* ---------------------------------------------------------------- properties */

/* At rest: nobody can move but who hangs, or has stopped for ever. */
active proctype at_rest()
{
	byte w, t;

	timeout ->
	do
	:: t < TASKS ->
		w = 0;
		do
		:: w < WORKERS ->
			assert(!(listed[w] && left[t] > 0 && !closed[t] && !AT_LIMIT(t)));
			w++
		:: else -> break
		od;
		assert(!(released[t] && !is_free[t]));
		assert(!(closed[t] && !released[t] && runs[t] == 0));
		assert(!(more[t] && !closed[t] && runs[t] == 0));
		t++
	:: else -> break
	od;
	assert(coming == 0)
}
