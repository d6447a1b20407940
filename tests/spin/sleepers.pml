/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The sleeper set (src/sleepers/sleepers.c) between producers and workers that never end.
 * The queue is a number of units: workq.pml has the rest of it.
 *
 *   holds short safety   TIMEOUTS=1
 *   holds short safety   PRODUCERS=1 BURST=2 UNITS=3
 *   holds short progress
 *   holds full  safety   WORKERS=3 PRODUCERS=1 BURST=2 UNITS=3
 *   holds full  safety   WORKERS=3 PRODUCERS=1 TIMEOUTS=1
 *   holds full  safety   PRODUCERS=3 TIMEOUTS=1
 *   holds full  progress WORKERS=3 UNITS=3
 *
 *   fails short assertion BUG_SLEEP_WITHOUT_SECOND_LOOK
 *   fails short assertion BUG_ASLEEP_RAISED_AFTER_THE_LOOK
 *   fails short assertion BUG_WAKE_READS_ASLEEP_BEFORE_IT_PUBLISHES
 *   fails short assertion BUG_SLEEPER_LOWERS_ASLEEP
 *   fails short assertion BUG_WITHDRAW_FORGOTTEN
 *   fails short assertion BUG_TIMEOUT_SWALLOWS_WAKE
 *   fails short assertion BUG_SPURIOUS_RETURN_IS_A_WAKE
 *   fails short assertion BUG_PERMIT_LEFT_OVER
 *   fails short assertion BUG_WAKER_READS_UNPARKED_SLEEPER
 */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef UNITS		/* producers wait while there are as many */
#define UNITS 2
#endif
#ifndef BURST		/* units published at once, at most */
#define BURST 1
#endif
#ifndef TIMEOUTS	/* do deadlines pass? */
#define TIMEOUTS 0
#endif

#if defined(BUG_TIMEOUT_SWALLOWS_WAKE) || defined(BUG_PERMIT_LEFT_OVER)
#undef TIMEOUTS
#define TIMEOUTS 1
#endif

#define NONE 255

byte units;
/* cq_sleepers_t. Sleepers are listed in list[0 .. listed), the newest last. */
bool locked;
byte asleep;
byte listed;
byte list[WORKERS];
/* cq_sleeper_t */
bool permit[WORKERS];
bool is_listed[WORKERS];
byte next[WORKERS];

/* What the library doesn't have, for the properties. */
bool owed[WORKERS];	/* taken by a waker, and not yet returned CQ_WOKEN */
bool exists[WORKERS];	/* the sleeper may be used: its thread is in commit */
byte publishing;	/* producers between their units and the end of their wake */

inline lock() { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

/* ------------------------------------------------------------------- workers */

/* cq_workq_try_take_work: load, then compare-and-swap, until it saw 0 */
inline try_take_work()
{
	seen = units;
	do
	:: seen == 0 -> found = false; break
	:: else ->
		atomic {
			if
			:: units == seen ->
				units = seen - 1; seen = 0; found = true; break
			:: else -> seen = units
			fi
		}
	od
}

inline cq_sleepers_announce()
{
	lock();
#ifndef BUG_ASLEEP_RAISED_AFTER_THE_LOOK
	asleep = asleep + 1
#endif
}

inline look()
{
#ifdef BUG_SLEEP_WITHOUT_SECOND_LOOK
	found = false
#else
	try_take_work()
#endif
}

inline cq_sleepers_withdraw()
{
#ifndef BUG_WITHDRAW_FORGOTTEN
	asleep = asleep - 1;
#endif
	unlock()
}

inline unlist()
{
	d_step {
		i = 0;
		do
		:: list[i] == me -> break
		:: else -> i++
		od;
		do
		:: i + 1 < listed -> list[i] = list[i + 1]; i++
		:: else -> break
		od;
		i = 0;
		listed = listed - 1;
		list[listed] = 0;
		is_listed[me] = false
	}
}

/* Who leaves at its deadline: true in `found` */
inline leave()
{
	lock();
	found = is_listed[me];
	if
	:: found -> unlist(); asleep = asleep - 1
	:: else
	fi;
	unlock()
}

inline return_from_sleep()
{
	atomic { found = false; forever = false; exists[me] = false }
}

inline cq_sleepers_commit()
{
	/* What another sleeper can see of it, it sees under the lock: one step. */
	d_step {
#ifdef BUG_ASLEEP_RAISED_AFTER_THE_LOOK
		asleep = asleep + 1;
#endif
#ifndef BUG_PERMIT_LEFT_OVER
		permit[me] = false;
#endif
		exists[me] = true;
		list[listed] = me;
		listed++;
		is_listed[me] = true
	}
	unlock();
	do
	:: permit[me] ->	/* cq_parker_granted: CQ_WOKEN */
#ifdef BUG_SLEEPER_LOWERS_ASLEEP
		lock(); asleep = asleep - 1; unlock();
#endif
		atomic { assert(owed[me]); owed[me] = false }
		break
#ifdef BUG_SPURIOUS_RETURN_IS_A_WAKE
	:: atomic { true -> assert(owed[me]); owed[me] = false }
		break
#endif
	:: TIMEOUTS && !forever ->
		leave();
#ifdef BUG_TIMEOUT_SWALLOWS_WAKE
		found = true;
#endif
		if
		:: found -> assert(!owed[me]); break	/* CQ_TIMED_OUT */
		:: else -> forever = true
		fi
	od;
	return_from_sleep()
}

inline cq_sleepers_sleep()
{
	cq_sleepers_announce();
	look();
	if
	:: found -> cq_sleepers_withdraw()
	:: else -> cq_sleepers_commit()
	fi
}

active [WORKERS] proctype worker()
{
	byte me = _pid, seen, i;
	bool found, forever;

	do
	:: try_take_work();
		if
		:: found
		:: else -> cq_sleepers_sleep()
		fi;
		if
		:: found ->
progress:		found = false	/* use it */
		:: else
		fi
	od
}

/* ----------------------------------------------------------------- producers */

inline cq_sleepers_asleep()
{
	seen = asleep
}

inline cq_sleepers_take()
{
	lock();
	d_step {
		first = NONE;
		last = NONE;
		do
		:: taken < n && listed > 0 ->
			listed = listed - 1;
			s = list[listed];
			list[listed] = 0;
			is_listed[s] = false;
			owed[s] = true;
			next[s] = NONE;
			if
			:: last == NONE -> first = s
			:: else -> next[last] = s
			fi;
			last = s;
			taken++
		:: else -> break
		od;
		last = 0;
		s = 0
	}
#ifndef BUG_SLEEPER_LOWERS_ASLEEP
	asleep = asleep - taken;
#endif
	taken = 0;
	unlock()
}

inline cq_sleepers_unpark()
{
	s = first;
	do
	:: s == NONE -> break
	:: else ->
#ifdef BUG_WAKER_READS_UNPARKED_SLEEPER
		permit[s] = true;
		atomic { assert(exists[s]); s = next[s] }
#else
		atomic { assert(exists[s]); first = next[s] }
		atomic { assert(exists[s]); permit[s] = true; s = first }
#endif
	od;
	atomic { s = 0; first = 0 }
}

inline cq_sleepers_wake()
{
#ifndef BUG_WAKE_READS_ASLEEP_BEFORE_IT_PUBLISHES
	cq_sleepers_asleep();
#endif
	if
	:: seen == 0
	:: else ->
		seen = 0;
		cq_sleepers_take();
		cq_sleepers_unpark()
	fi
}

active [PRODUCERS] proctype producer()
{
	byte seen, n, taken, first, last, s;

	do
	:: if
		:: n = 1
		:: BURST > 1 -> n = 2
		fi;
#ifdef BUG_WAKE_READS_ASLEEP_BEFORE_IT_PUBLISHES
		cq_sleepers_asleep();
#endif
		atomic { units + n <= UNITS -> publishing++; units = units + n }
		cq_sleepers_wake();
		atomic { n = 0; publishing-- }
	od
}

/* ---------------------------------------------------------------- properties */

/* S1, and its second half: asleep is exact when the lock is free. */
#define S1 (asleep >= listed && (locked || asleep == listed))

/* Nobody sleeps through work: whoever is not listed is awake, and looks again. */
#define ENOUGH_ARE_AWAKE \
	(publishing > 0 || locked || listed == 0 || WORKERS - listed >= units)

active proctype properties()
{
end:	atomic {
		!(S1 && ENOUGH_ARE_AWAKE) -> assert(S1); assert(ENOUGH_ARE_AWAKE)
	}
}
