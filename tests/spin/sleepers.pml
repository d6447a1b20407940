/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event count (src/sleepers/sleepers.c) between producers and workers. The queue is a
 * number of units: workq.pml has the rest of it. A callback may hang: a worker that runs one
 * is counted on for nothing.
 *
 * How much is woken (WANT): ONE, and whoever has taken a unit and sees more ensures the next
 * before it runs (the chain); TOTAL, all that waits; WAKE, as many as were published,
 * whoever is on the way.
 *
 *   holds short safety
 *   holds short safety   PRODUCERS=1 BURST=2 UNITS=3 TIMEOUTS=1
 *   holds short safety   PRODUCERS=1 STOP=1
 *   holds short safety   PRODUCERS=1 BURST=2 UNITS=3 WANT=TOTAL
 *   holds short safety   PRODUCERS=1 BURST=2 UNITS=3 WANT=WAKE
 *   holds short progress PRODUCERS=1 BURST=2
 *   holds full  safety   TIMEOUTS=1
 *   holds full  safety   TIMEOUTS=1 WANT=WAKE
 *   holds full  safety   TIMEOUTS=1 STOP=1
 *   holds full  safety   UNITS=3 WANT=TOTAL
 *   holds full  safety   WORKERS=3 PRODUCERS=1 BURST=2 UNITS=3
 *   holds full  safety   WORKERS=3 PRODUCERS=1 BURST=2 UNITS=3 WANT=TOTAL
 *   holds full  safety   WORKERS=3 PRODUCERS=1 TIMEOUTS=1
 *   holds full  safety   PRODUCERS=3
 *   holds full  progress
 *
 * What loses work:
 *   fails short assertion BUG_SLEEP_WITHOUT_SECOND_LOOK
 *   fails short assertion BUG_WAITERS_RAISED_AFTER_THE_LOOK
 *   fails short assertion BUG_COUNTS_READ_BEFORE_THE_WORK_IS_PUBLISHED
 *   fails short assertion BUG_EPOCH_NOT_RAISED
 *   fails short assertion BUG_EPOCH_READ_AFTER_THE_LOOK
 *   fails short assertion BUG_EPOCH_COMPARED_BEFORE_THE_LOCK
 *   fails short assertion BUG_LOWERED_AFTER_THE_LOOK
 *   fails short assertion BUG_TIMEOUT_WITHOUT_A_LOOK
 *   fails short assertion BUG_ENSURE_ONE_WITHOUT_A_CHAIN
 *   fails short assertion BUG_CHAIN_AFTER_THE_RUN
 *   fails short assertion BUG_ENSURE_THE_OWN_UNITS
 *   fails short assertion BUG_STOP_FORGETS_THE_PREPARED
 *   fails short assertion BUG_PROMISE_STAYS
 *   fails short assertion BUG_PROMISE_OF_WHO_IS_TAKEN_STAYS
 *   fails short assertion BUG_TAKEN_BACK_AFTER_THE_EPOCH
 *   fails short assertion BUG_WAITERS_READ_BEFORE_THE_PROMISE_IS_TAKEN_BACK
 * What breaks a count, or the other promises:
 *   fails short assertion BUG_CANCEL_FORGOTTEN
 *   fails short assertion BUG_LEFT_AS_A_WAITER
 *   fails short assertion BUG_TAKEN_IN_TWO_STEPS
 *   fails short assertion BUG_TIMEOUT_SWALLOWS_WAKE
 *   fails short assertion BUG_SPURIOUS_RETURN_IS_A_WAKE
 *   fails short assertion BUG_PERMIT_LEFT_OVER
 *   fails short assertion BUG_WAKER_READS_UNPARKED_SLEEPER
 * What loses nothing, and wakes a herd:
 *   fails short assertion BUG_PROMISE_NOT_COUNTED
 */
#define ONE 0
#define TOTAL 1
#define WAKE 2

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
#ifndef TIMEOUTS	/* do deadlines pass? Whoever times out and finds nothing is gone. */
#define TIMEOUTS 0
#endif
#ifndef STOP		/* does somebody stop the set? */
#define STOP 0
#endif
#ifndef WANT
#define WANT ONE
#endif

#if defined(BUG_TIMEOUT_SWALLOWS_WAKE) || defined(BUG_PERMIT_LEFT_OVER) ||	\
    defined(BUG_TIMEOUT_WITHOUT_A_LOOK) || defined(BUG_LEFT_AS_A_WAITER)
#undef TIMEOUTS
#define TIMEOUTS 1
#endif
#ifdef BUG_STOP_FORGETS_THE_PREPARED
#undef STOP
#define STOP 1
#endif
#ifdef BUG_ENSURE_THE_OWN_UNITS
#undef WANT
#define WANT TOTAL
#endif
#ifdef BUG_LOWERED_AFTER_THE_LOOK /* it must not look again */
#undef TIMEOUTS
#define TIMEOUTS 1
#endif

#define NONE 255
#define AS_READ 1
#define RAISED 2

byte units;
/* cq_sleepers_t. Sleepers are listed in list[0 .. listed), the newest last. */
bool locked, stopped;
byte waiters, coming, promised;	/* one word: read and moved in one step */
byte listed;
byte list[WORKERS];
/* cq_sleeper_t */
byte epoch[WORKERS];	/* as this sleeper has read it? 0 where that is no matter */
bool permit[WORKERS];
bool is_listed[WORKERS];
byte next[WORKERS];

/* What the library doesn't have, for the properties. */
bool owed[WORKERS];	/* taken by a waker, and still counted as on its way */
bool exists[WORKERS];	/* the sleeper may be used: its thread is in commit_wait */
bool asleep[WORKERS];	/* listed, or taken and not yet back */
bool settled[WORKERS];	/* it sleeps, runs a callback or is gone: who counts on it waits for ever */
bool gone[WORKERS];
byte publishing;	/* producers between their units and the end of their wake */
bool relied;		/* the last that published found somebody counted, and not a promise alone */
bool has_stopped;

/*
 * What is done with the lock held is one step where all of it is read under the lock alone, or
 * where a reader without it cannot tell the parts from each other.
 */
inline lock() { !locked -> locked = true }

/* -------------------------------------------------------------------- wakers */

inline raise()
{
#ifndef BUG_EPOCH_NOT_RAISED
	s = 0;
	do
	:: s < WORKERS -> epoch[s] = (epoch[s] == AS_READ -> RAISED : epoch[s]); s++
	:: else -> break
	od;
#endif
	s = 0
}

/* By who ensures, or wakes. */
inline read_counts()
{
	seen = waiters;
#ifdef BUG_PROMISE_NOT_COUNTED
	k = coming
#else
	k = coming + promised
#endif
}

/* take, for the newest. The taken are linked, the last one first. */
inline take()
{
	listed = listed - 1;
	s = list[listed];
	list[listed] = 0;
	is_listed[s] = false;
	next[s] = first;
	first = s;
	k++
}

/* Steps 3 and 4 of wake, with the lock held: until k is n. */
inline take_some()
{
	first = NONE;
	do
	:: k < n && listed > 0 ->
#ifdef BUG_TAKEN_IN_TWO_STEPS
		d_step { take(); waiters = waiters - 1 }
		d_step { coming++; owed[s] = true; s = 0; promised = promised - promise }
#else
		d_step { take(); waiters = waiters - 1; coming++; owed[s] = true; s = 0;
#ifndef BUG_PROMISE_OF_WHO_IS_TAKEN_STAYS
			promised = promised - promise
#endif
		}
#endif
	:: else -> break
	od;
#ifdef BUG_TAKEN_BACK_AFTER_THE_EPOCH
	seen = waiters;
	raise_if_short();
	take_back();
#elif defined(BUG_WAITERS_READ_BEFORE_THE_PROMISE_IS_TAKEN_BACK)
	seen = waiters;
	take_back();
	raise_if_short();
#else
	atomic { take_back(); seen = waiters }
	raise_if_short();
#endif
	atomic { k = 0; n = 0; seen = 0; promise = 0; locked = false }
}

inline take_back()
{
#ifndef BUG_PROMISE_STAYS
	promised = promised - (n - k) * promise
#else
	skip
#endif
}

inline raise_if_short()
{
	atomic {
		if
		:: k < n && seen > 0 -> raise()
		:: else
		fi
	}
}

inline unpark()
{
	do
	:: d_step { first != NONE ->
#ifdef BUG_WAKER_READS_UNPARKED_SLEEPER
		permit[first] = true; settled[first] = false }
		d_step { assert(exists[first]); first = next[first] }
#else
		s = first;
		assert(exists[s]);
		first = next[s];	/* before the grant */
		next[s] = 0;
		permit[s] = true;
		settled[s] = false;
		s = 0 }
#endif
	:: first == NONE -> first = 0; break
	od
}

/* Of n that the caller wants; after read_counts. The swap finds what was read, or reads once more. */
inline ensure()
{
	if
	:: atomic { seen == 0 || (WANT != WAKE && k >= n) -> k = 0; n = 0; seen = 0 }
	:: else ->
		atomic {
			if
			:: WANT == WAKE -> k = 0
			:: else ->
				read_counts();
				n = (seen == 0 || k >= n -> 0 : n - k);
				k = 0;
				promise = (n > 0 -> 1 : 0);
				promised = promised + n
			fi
		}
		if
		:: n == 0 -> seen = 0
		:: else ->
			atomic { lock() }
			take_some();
			unpark()
		fi
	fi
}

/* ------------------------------------------------------------------- workers */

inline try_take_work()
{
	d_step {
		found = (units > 0);
		units = (found -> units - 1 : 0)
	}
}

inline look()
{
#ifdef BUG_SLEEP_WITHOUT_SECOND_LOOK
	found = false
#else
	try_take_work()
#endif
}

inline cq_sleepers_prepare_wait()
{
	epoch[me] = AS_READ;
#ifndef BUG_WAITERS_RAISED_AFTER_THE_LOOK
	waiters++
#endif
}

inline cq_sleepers_cancel_wait()
{
#if !defined(BUG_CANCEL_FORGOTTEN) && !defined(BUG_WAITERS_RAISED_AFTER_THE_LOOK)
	atomic { waiters = waiters - 1; epoch[me] = 0 }
#else
	epoch[me] = 0
#endif
}

inline unlist()
{
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

/* Who leaves at its deadline: true in `found` */
inline leave()
{
	d_step {
		!locked ->
		found = is_listed[me];
		if
		:: found ->
			unlist();
#ifndef BUG_LEFT_AS_A_WAITER
			waiters = waiters - 1;
#endif
			asleep[me] = false
		:: else
		fi
	}
}

/* `leaving`: it wasn't woken for work, and goes if it finds none */
inline cq_sleepers_commit_wait()
{
#ifdef BUG_EPOCH_READ_AFTER_THE_LOOK
	epoch[me] = AS_READ;
#endif
#ifdef BUG_EPOCH_COMPARED_BEFORE_THE_LOCK
	found = (epoch[me] == RAISED);
#endif
	d_step {
		!locked ->
#ifndef BUG_EPOCH_COMPARED_BEFORE_THE_LOCK
		found = (epoch[me] == RAISED);
#endif
#ifndef BUG_STOP_FORGETS_THE_PREPARED
		found = found || stopped;
#endif
#ifdef BUG_WAITERS_RAISED_AFTER_THE_LOOK
		waiters++;
#endif
		epoch[me] = 0;
		if
		:: found -> leaving = stopped
		:: else ->
			exists[me] = true;
			asleep[me] = true;
			list[listed] = me;
			listed++;
			is_listed[me] = true;
			settled[me] = !permit[me]
		fi
	}
	if
	:: found -> atomic { waiters = waiters - 1; found = false }	/* CQ_AGAIN, CQ_STOPPED */
	:: else ->
		do
		:: atomic { permit[me] ->	/* cq_parker_granted: CQ_WOKEN, CQ_STOPPED */
			assert(owed[me]); settled[me] = false; leaving = stopped }
#ifndef BUG_LOWERED_AFTER_THE_LOOK
			atomic { owed[me] = false; asleep[me] = false; coming = coming - 1 }
#else
			look_too_early()
#endif
			break
#ifdef BUG_SPURIOUS_RETURN_IS_A_WAKE
		:: atomic { true -> assert(owed[me]); owed[me] = false; asleep[me] = false;
				coming = coming - 1 }
			break
#endif
		:: atomic { TIMEOUTS && !forever && !permit[me] -> settled[me] = false }
			leave();
#ifdef BUG_TIMEOUT_SWALLOWS_WAKE
			found = true;
#endif
			if
			:: found -> assert(!owed[me]); leaving = true; break	/* CQ_TIMED_OUT */
			:: else -> forever = true
			fi
		od;
		atomic {
			found = false; forever = false; exists[me] = false;
#ifndef BUG_PERMIT_LEFT_OVER
			permit[me] = false	/* the library: as it is listed */
#endif
		}
	fi
}

/* Its look, and only then is it no longer on its way. */
inline look_too_early()
{
	try_take_work();
	atomic {
		owed[me] = false; asleep[me] = false; coming = coming - 1;
		leaving = true; early = true; early_found = found
	}
}

/* Before it runs what it took, it ensures the next. */
inline chain()
{
	if
	:: WANT == ONE && units > 0 ->
		atomic { n = 1; read_counts() }
		ensure()
	:: else
	fi
}

inline use()
{
	settled[me] = true;	/* it may hang */
progress:
	atomic { settled[me] = false; found = false; leaving = false }
}

active [WORKERS] proctype worker()
{
	byte me = _pid, seen, i, n, k, s, first, promise;
	bool found, forever, leaving;
#ifdef BUG_LOWERED_AFTER_THE_LOOK
	bool early, early_found;
#endif

	do
	::
#ifdef BUG_LOWERED_AFTER_THE_LOOK
		if
		:: early -> found = early_found; early = false
		:: else -> try_take_work()
		fi;
#elif defined(BUG_TIMEOUT_WITHOUT_A_LOOK)
		if
		:: leaving -> break
		:: else -> try_take_work()
		fi;
#else
		try_take_work();
#endif
		if
		:: found
		:: !found && leaving -> break
		:: else ->
			cq_sleepers_prepare_wait();
			look();
			if
			:: found -> cq_sleepers_cancel_wait()
			:: else -> cq_sleepers_commit_wait()
			fi
		fi;
		if
		:: found ->
#if !defined(BUG_ENSURE_ONE_WITHOUT_A_CHAIN) && !defined(BUG_CHAIN_AFTER_THE_RUN)
			chain();
#endif
			use();
#ifdef BUG_CHAIN_AFTER_THE_RUN
			chain()
#endif
		:: else
		fi
	od;
	atomic { gone[me] = true; settled[me] = true }
}

/* ----------------------------------------------------------------- producers */

active [PRODUCERS] proctype producer()
{
	byte seen, n, k, first, s, made, promise;

end_full:
	do
	:: atomic {
			units < UNITS ->
#ifdef BUG_COUNTS_READ_BEFORE_THE_WORK_IS_PUBLISHED
			read_counts()
		}
		atomic {
#endif
			if
			:: made = 1
			:: units + 1 < UNITS && BURST > 1 -> made = 2
			fi;
			publishing++;
			units = units + made;
#ifdef BUG_ENSURE_THE_OWN_UNITS
			n = made;
#else
			n = (WANT == ONE -> 1 : (WANT == TOTAL -> units : made));
#endif
			made = 0
		}
#ifndef BUG_COUNTS_READ_BEFORE_THE_WORK_IS_PUBLISHED
		atomic { read_counts(); relied = TIMEOUTS && (seen + coming > 0) }
#endif
		ensure();
		publishing--
	od
}

#if STOP
/* cq_sleepers_stop */
active proctype stopper()
{
	byte seen, n, k, first, s, promise;

	atomic { lock(); stopped = true; n = WORKERS + 1 }
	take_some();
	unpark();
	has_stopped = true
}
#endif

/* ---------------------------------------------------------------- properties */

#if WORKERS == 2
#define ALL(x) (x[0] && x[1])
#define COUNT(x) (x[0] + x[1])
#else
#define ALL(x) (x[0] && x[1] && x[2])
#define COUNT(x) (x[0] + x[1] + x[2])
#endif

#define S1 (waiters >= listed && waiters <= WORKERS)
#define S2 (coming >= COUNT(owed) && coming <= WORKERS)

/* Whoever sleeps in commit_wait is counted, at every instant, as the one or the other. */
#define NEITHER_IS_MISSED (waiters + coming >= COUNT(asleep))

/* No work is left to one that sleeps, or that may never come back from its callback. */
#define NOTHING_IS_LEFT \
	(publishing > 0 || locked || units == 0 || listed == 0 || !ALL(settled))

/* Nor to those that are gone, if they were counted on. */
#define NOBODY_WENT_TOO_EARLY (publishing > 0 || units == 0 || !relied || !ALL(gone))

#define STOPPED_ARE_BACK (!has_stopped || locked || listed == 0)

/* ensure(1) never has more than one on the way, or promised, however many call it at once. */
#define NO_HERD (WANT != ONE || stopped || coming + promised <= 1)

active proctype properties()
{
end:	atomic {
		!(S1 && S2 && NOTHING_IS_LEFT && NOBODY_WENT_TOO_EARLY && STOPPED_ARE_BACK &&
		    NO_HERD && NEITHER_IS_MISSED) ->
		assert(S1);
		assert(S2);
		assert(NEITHER_IS_MISSED);
		assert(NOTHING_IS_LEFT);
		assert(NOBODY_WENT_TOO_EARLY);
		assert(STOPPED_ARE_BACK);
		assert(NO_HERD)
	}
}
