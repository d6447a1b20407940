/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks that are to be signalled at a time (src/pool/clock.c): the list of them, `earliest`, and the one thread that
 * sees to it, which is made when it is needed and leaves when nothing was timed for long. A hold of the pool's lock
 * is one step. Each task has somebody who asks, within a run of it; then the first one is closed, and the pool ends.
 * Time may stand still from any moment on: what is due by then must have been signalled.
 *
 *   holds short safety ASKS=2
 *   holds short safety FAILS=1
 *   holds short safety CLOSER
 *   holds short safety CLOSER FAILS=1
 *   holds short safety END
 *   holds full  safety CLOSER END FAILS=1
 *   holds full  safety CLOSER FAILS=1 ASKS=2
 *   holds full  safety ASKS=3
 *
 * What leaves a task to nobody:
 *   fails short assertion BUG_EARLIEST_READ_BEFORE_IT_IS_PREPARED
 *   fails short assertion BUG_WAITERS_READ_BEFORE_EARLIEST_IS_WRITTEN
 *   fails short assertion BUG_EARLIER_WAKES_NOBODY
 *   fails short assertion BUG_LEAVES_WITHOUT_A_SECOND_LOOK
 *   fails short assertion FAILS=1 BUG_FAILED_MAKER_FORGETS_THE_OTHERS
 * What touches a task that is closed, or its record:
 *   fails short assertion CLOSER BUG_CLOSE_WAITS_FOR_NO_TELLING
 *   fails short assertion CLOSER BUG_CLOSED_IS_NOT_READ
 *   fails short assertion CLOSER BUG_CLOSED_READ_BEFORE_TELLING
 *   fails short assertion CLOSER BUG_UNLINKED_AS_IT_IS_CLOSED
 *   fails short assertion CLOSER BUG_UNLINKED_BY_NOBODY
 *   fails short assertion CLOSER FAILS=1 BUG_FAILED_MAKER_TELLS_UNCOUNTED
 * What outlives the pool, or is waited for in vain:
 *   fails short assertion END BUG_STOP_WAKES_NOBODY
 *   fails short assertion END BUG_MADE_THOUGH_THE_POOL_ENDS
 */
#ifndef ASKS		/* of the second task; of the first: once */
#define ASKS 1
#endif
#ifndef FAILS		/* of attempts to make the thread */
#define FAILS 0
#endif

#define TASKS 2
#define TIMES 3
#define CLOCKS 2	/* one may be on its way out as the next is made */

/* The pool: `has_clock`: there is one, or is about to be; `members`: for the end to wait for */
byte at[TASKS], earliest;	/* 0: never */
bool has_clock, stop, stopped;
byte members, telling;
/* the event count `clock` */
bool waiting, woken;
/* tasks */
bool closed[TASKS];
byte runs[TASKS];
byte now = 1;

/* What the library doesn't have. */
bool is_free[TASKS];
byte spawned, fails;
bool gone;

#define min(a, b) (a == 0 || (b != 0 && b < a) -> b : a)
#define FIRST (min(at[0], at[1]))
#define IS_DUE(t) (at[t] != 0 && at[t] <= now)

active proctype time()
{
end:	do
	:: now < TIMES -> now++
	:: break
	od
}

/* cq_task_signal: who closes the task may have freed what it is of */
inline signal(t) { assert(!is_free[t]) }

/* ------------------------------------------------------------------ cq_task_signal_at */

inline wake()
{
#ifdef BUG_WAITERS_READ_BEFORE_EARLIEST_IS_WRITTEN
	if
	:: seen -> woken = true
	:: else
	fi;
	seen = false
#else
	atomic {
		if
		:: waiting -> woken = true
		:: else
		fi
	}
#endif
}

/* Nobody sees to what is timed: not to the caller's, who is told, nor to that of others who relied on this one.
   They are signalled, and meet the error themselves as they ask again. */
inline not_made()
{
#ifndef BUG_FAILED_MAKER_TELLS_UNCOUNTED
	telling++;
#endif
	atomic {
		has_clock = false;
		at[me] = 0;
#ifndef BUG_FAILED_MAKER_FORGETS_THE_OTHERS
		other = (at[1 - me] != 0 && !closed[1 - me]);
		at[1 - me] = 0;
#endif
		earliest = FIRST
	}
	if
	:: other -> signal(1 - me)
	:: else
	fi;
	other = false;
#ifndef BUG_FAILED_MAKER_TELLS_UNCOUNTED
	telling--
#endif
}

inline make()
{
	/* cq_member_new */
	atomic {
		if
#ifndef BUG_MADE_THOUGH_THE_POOL_ENDS
		:: stop -> made = false
#endif
		:: !stop && fails < FAILS -> fails++; made = false
#ifdef BUG_MADE_THOUGH_THE_POOL_ENDS
		:: true
#else
		:: !stop
#endif
			-> members++; made = true
		fi
	}
	if
	:: made -> atomic { made = false; spawned++ }
	:: !made -> not_made()
	fi
}

inline cq_task_signal_at(when)
{
#ifdef BUG_WAITERS_READ_BEFORE_EARLIEST_IS_WRITTEN
	seen = waiting;
#endif
	atomic {
		at[me] = when;
		earliest = FIRST;
		makes = !has_clock;
		has_clock = true;
		is_first = (earliest == when)
	}
	if
	:: makes -> make()
#ifndef BUG_EARLIER_WAKES_NOBODY
	:: !makes && is_first -> wake()
#endif
	:: else
	fi;
	atomic { makes = false; is_first = false }
}

active [TASKS] proctype asker()
{
	byte me = _pid - 1, n;
	bool makes, made, is_first, other;
#ifdef BUG_WAITERS_READ_BEFORE_EARLIEST_IS_WRITTEN
	bool seen;
#endif

	do
	:: n == (me == 0 -> 1 : ASKS) -> break
	:: else ->
		/* a run */
		atomic {
			if
			:: closed[me] -> break
			:: !closed[me] -> runs[me]++
			fi
		}
		if
		:: now < TIMES -> cq_task_signal_at(now + 1)
		:: now + 1 < TIMES -> cq_task_signal_at(now + 2)
		:: true			/* of the past */
			-> cq_task_signal_at(1)
		fi;
		n++;
		runs[me]--
	od
}

/* ------------------------------------------------------------------------- the clock */

active [CLOCKS] proctype clock()
{
	byte t, e;
	bool was_closed, leaves;
#ifdef BUG_CLOSED_READ_BEFORE_TELLING
	bool early;
#endif

end:	do
	:: atomic { spawned > 0 -> spawned-- };
		do
		:: leaves -> break
		:: else ->
			/* 1. Those that are due; as in cq_tasks_tell a close waits, or is seen. */
#ifdef BUG_CLOSED_READ_BEFORE_TELLING
			early = closed[0];
#endif
			telling++;
			do
			:: atomic {
					IS_DUE(0) || IS_DUE(1) ->
					t = (at[0] != 0 && at[0] == earliest -> 0 : 1);
					at[t] = 0;
					earliest = FIRST
				}
				was_closed = closed[t];
#ifdef BUG_CLOSED_IS_NOT_READ
				was_closed = false;
#endif
#ifdef BUG_CLOSED_READ_BEFORE_TELLING
				was_closed = (t == 0 -> early : was_closed);
#endif
				if
				:: !was_closed -> signal(t)
				:: else
				fi;
				atomic { was_closed = false; t = 0 }
			:: else -> break
			od;
			telling--;	/* and wakes who closes */
			assert(!gone);
			/* 2. Prepare, look, commit. */
#ifdef BUG_EARLIEST_READ_BEFORE_IT_IS_PREPARED
			e = earliest;
#endif
			atomic { waiting = true; woken = false };
			leaves = stop;
#ifndef BUG_EARLIEST_READ_BEFORE_IT_IS_PREPARED
			e = earliest;
#endif
			if
			:: leaves -> atomic { waiting = false; woken = false }
			:: !leaves ->
end_waits:			if
				:: atomic { woken || stopped || (e != 0 && now >= e) -> waiting = false; woken = false }
				:: atomic { e == 0 -> waiting = false; woken = false };
					/* idle for too long */
					atomic {
#ifdef BUG_LEAVES_WITHOUT_A_SECOND_LOOK
						leaves = true;
#else
						leaves = (earliest == 0);
#endif
						if
						:: leaves -> has_clock = false
						:: else
						fi
					}
				fi
			fi;
			e = 0
		od;
		leaves = false;
		assert(!gone);
		members--	/* the last access */
	od
}

/* ------------------------------------------------------------------- close, and the end */

#ifdef CLOSER
/* cq_task_close */
active proctype closer()
{
#ifdef BUG_UNLINKED_AS_IT_IS_CLOSED
	atomic { closed[0] = true; at[0] = 0; earliest = FIRST };
#else
	closed[0] = true;
#endif
	/* nobody_is_inside: runs first */
	runs[0] == 0;
#ifndef BUG_CLOSE_WAITS_FOR_NO_TELLING
	telling == 0;
#endif
	/* RELEASED */
	atomic {
#if !defined(BUG_UNLINKED_AS_IT_IS_CLOSED) && !defined(BUG_UNLINKED_BY_NOBODY)
		at[0] = 0;
		earliest = FIRST;
#endif
		is_free[0] = true
	}
}
#endif

#ifdef END
/* cq_pool_end, with tasks that are open. */
active proctype ender()
{
	stop = true;
#ifndef BUG_STOP_WAKES_NOBODY
	stopped = true;
#endif
	members == 0;
	gone = true
}
#endif

/* ------------------------------------------------------------------------- properties */

/* At rest. */
active proctype properties()
{
	timeout ->
#ifdef END
	assert(gone);
#else
	assert(!IS_DUE(0));
	assert(!IS_DUE(1));
	assert(earliest == FIRST);
#endif
	/* What is free is in no list. */
	assert(!is_free[0] || at[0] == 0);
#ifdef CLOSER
	assert(is_free[0]);
#endif
	assert(telling == 0)
}
