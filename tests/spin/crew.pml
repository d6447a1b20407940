/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Demand for workers (src/cleanup/wake.c, src/cleanup/worker.c, src/cleanup/crew.c): who is woken or made for a unit,
 * who is coming, who retires. Producers and workers never end, and every idle limit
 * may pass at any time. The sleeper set is that of sleepers.pml, where its
 * lock is looked at more closely: a waker's hold of it is one step here.
 * `crew` is one word: its three counts are read, and compared, in one step.
 *
 *   holds short safety   CAP=1 UNITS=1
 *   holds short safety   CAP=1 UNITS=1 FAILURES=1
 *   holds full  safety   CAP=1 UNITS=1 HANDOVER=1
 *   holds full  safety   CAP=1 UNITS=2 FAILURES=1
 *   holds full  safety   CAP=1 UNITS=2 HANDOVER=1
 *   holds full  safety   CAP=1 UNITS=1 ATTACHED=1
 *   holds full  safety   CAP=1 UNITS=2 PRODUCERS=2
 *   holds full  safety   CAP=2 UNITS=2
 *
 *   fails short assertion BUG_SLEEP_WITHOUT_SECOND_LOOK
 *   fails short assertion BUG_RETIRE_WITHOUT_SECOND_LOOK
 *   fails short assertion BUG_RETIRE_LOOKS_BEFORE_IT_LEAVES
 *   fails short assertion BUG_COMES_BACK_ABOVE_THE_CAP
 *   fails short assertion BUG_WORKER_LOOKS_BEFORE_IT_ARRIVES
 *   fails short assertion BUG_WOKEN_WORKER_KEEPS_COMING
 *   fails short assertion BUG_WAKE_LOOKS_BEFORE_IT_PUBLISHES
 *   fails short assertion BUG_COMING_IS_NOT_COUNTED
 *   fails short assertion BUG_CLAIM_WITHOUT_COMPARE
 *   fails short assertion BUG_REST_IS_NOT_GIVEN_BACK
 *   fails short assertion BUG_NO_LOOK_AFTER_GIVING_BACK
 *   fails short assertion BFS BUG_FAILED_SPAWN_WITHOUT_ANOTHER_LOOK
 *   fails short assertion BUG_HANDOVER_WITHOUT_A_LOOK_AT_PRODUCERS
 */
#ifdef BUG_FAILED_SPAWN_WITHOUT_ANOTHER_LOOK
#define CAP 2
#define PRODUCERS 2
#define UNITS 1
#define FAILURES 1
#endif
#ifdef BUG_WORKER_LOOKS_BEFORE_IT_ARRIVES
#define CAP 2
#endif
#if defined(BUG_NO_LOOK_AFTER_GIVING_BACK) || defined(BUG_CLAIM_WITHOUT_COMPARE) || \
	defined(BUG_COMING_IS_NOT_COUNTED)
#define PRODUCERS 2
#endif
#ifdef BUG_HANDOVER_WITHOUT_A_LOOK_AT_PRODUCERS
#define HANDOVER 1
#define PRODUCERS 2
#endif

#ifndef CAP		/* max_workers */
#define CAP 1
#endif
#ifndef ATTACHED	/* the host's own workers */
#define ATTACHED 0
#endif
#ifndef PRODUCERS
#define PRODUCERS 1
#endif
#ifndef UNITS		/* producers wait while there are as many */
#define UNITS 2
#endif
#ifndef BURST		/* units published at once, at most */
#define BURST 1
#endif
#ifndef FAILURES	/* may a worker not be made? */
#define FAILURES 0
#endif
#ifndef HANDOVER	/* CQ_HANDOVER */
#define HANDOVER 0
#endif

/* A thread that retires may still be there when another is made in its place. */
#define THREADS (CAP + ATTACHED + 1)
#define min(a, b) ((a) < (b) -> (a) : (b))

byte units;
byte made, live = ATTACHED, coming;	/* crew */
bool spawn_failed;
/* the sleeper set `idle` */
bool locked;
byte asleep, listed;
bool is_listed[THREADS], permit[THREADS];
/* HANDOVER: a producer's open block has a callback that is not published. */
bool partial[PRODUCERS];

/* What the library doesn't have, for the properties. */
bool runs[THREADS];	/* this thread is there */
bool asked[THREADS];	/* made or unparked, and has not arrived */
bool looking[THREADS];	/* between two steps of which the second is to find work */
byte waking;		/* threads that publish or wake */
bool failed_once;
#define some_thread_is_free (!runs[ATTACHED] || !runs[ATTACHED + 1] || \
	(CAP > 1 && !runs[THREADS - 1]))

/* ----------------------------------------------------------- wake: src/cleanup/wake.c */

/* Made workers only: spawn_some adds to `made` and `live` first. In `k`: how many. */
inline spawn_some()
{
	atomic { seen_made = made; seen_live = live; seen_coming = coming }
	do
	:: n = min(claims - used, CAP - seen_made);
		if
		:: n == 0 -> break
		:: else
		fi;
		atomic {
			if
			:: made == seen_made && live == seen_live && coming == seen_coming ->
				made = made + n;
				live = live + n;
				assert(made <= CAP);
				break
			:: else -> seen_made = made; seen_live = live; seen_coming = coming
			fi
		}
	od;
	if
	:: n == 0
	:: else ->
		spawn_failed = false;
		k = 0;
		do
		:: k == n -> break
		:: FAILURES && k < n -> failed = true; failed_once = true; break
		:: k < n && some_thread_is_free ->	/* spawn */
			atomic {
				some_thread_is_free -> free_thread();
				runs[t] = true;
				asked[t] = true;
				t = 0;
				k++
			}
		od;
		used = used + k;
		if
		:: failed && k < n ->
			spawn_failed = true;
			atomic { made = made - (n - k); live = live - (n - k) }
		:: else
		fi
	fi;
	atomic { n = 0; k = 0; seen_made = 0; seen_live = 0; seen_coming = 0 }
}

inline free_thread()
{
	t = ATTACHED;
	do
	:: runs[t] -> t++
	:: else -> break
	od
}

/* cq_sleepers_wake(claims): takes the sleepers in one hold of the lock. In `used` */
inline wake_sleepers()
{
	if
	:: asleep == 0
	:: asleep > 0 ->
		atomic {
			!locked ->
			t = 0;
			do
			:: t < THREADS && is_listed[t] && used < claims ->
				is_listed[t] = false;
				to_unpark[t] = true;
				asked[t] = true;
				listed--;
				used++;
				t++
			:: t < THREADS && !(is_listed[t] && used < claims) -> t++
			:: t == THREADS -> break
			od;
			asleep = asleep - used;
			t = (used > 0 -> 0 : THREADS)
		}
		/* cq_sleepers_unpark: one after the other */
		do
		:: t < THREADS ->
			atomic {
				do
				:: t < THREADS && !to_unpark[t] -> t++
				:: t < THREADS && to_unpark[t] ->
					to_unpark[t] = false; permit[t] = true; break
				:: t == THREADS -> break
				od
			}
		:: t == THREADS -> t = 0; break
		od
	fi
}

inline use_claims()
{
	used = 0;
	wake_sleepers();
	if
	:: used < claims && used >= min(claims, seen_asleep) -> spawn_some()
	:: else
	fi;
	claims = claims - used;
	used = 0
}

inline read_units_and_crew()
{
	seen_units = units;
	atomic { seen_made = made; seen_live = live; seen_coming = coming }
}

inline cq_wake_published()
{
	failed = false;
	do
	::
#ifdef BUG_WAKE_LOOKS_BEFORE_IT_PUBLISHES
		seen_units = units;
#else
		read_units_and_crew();
#endif
		if
#ifdef BUG_COMING_IS_NOT_COUNTED
		:: seen_units == 0 -> break
#else
		:: seen_units <= seen_coming -> break
#endif
		:: else
		fi;
#ifndef BUG_WAKE_LOOKS_BEFORE_IT_PUBLISHES
		seen_asleep = asleep;
#endif
#ifdef BUG_COMING_IS_NOT_COUNTED
		claims = min(seen_units, seen_asleep + (failed -> 0 : CAP - seen_made));
#else
		claims = min(seen_units - seen_coming,
			seen_asleep + (failed -> 0 : CAP - seen_made));
#endif
		if
		:: claims == 0 -> break		/* with `failed`: give_up */
		:: else
		fi;
		atomic {
			if
#ifdef BUG_CLAIM_WITHOUT_COMPARE
			:: true ->
#else
			:: made == seen_made && live == seen_live && coming == seen_coming ->
#endif
				coming = coming + claims;
				/* Never more asked for than there was work. */
				assert(coming <= seen_units)
			:: else -> claims = 0
			fi
		}
		d_step { seen_units = 0; seen_made = 0; seen_live = 0; seen_coming = 0 }
		if
		:: claims == 0			/* another changed the crew: again */
		:: else ->
			use_claims();
			seen_asleep = 0;
			if
			:: claims == 0 -> break
			:: else
			fi;
#ifndef BUG_REST_IS_NOT_GIVEN_BACK
			atomic { coming = coming - claims; claims = 0 }
#else
			claims = 0;
			break;
#endif
#ifdef BUG_NO_LOOK_AFTER_GIVING_BACK
			break;
#endif
#ifdef BUG_FAILED_SPAWN_WITHOUT_ANOTHER_LOOK
			if
			:: failed -> break
			:: else
			fi
#endif
		fi
#ifdef BUG_WAKE_LOOKS_BEFORE_IT_PUBLISHES
		; read_units_and_crew(); seen_asleep = asleep
#endif
	od;
	atomic {
		seen_units = 0; seen_made = 0; seen_live = 0; seen_coming = 0;
		seen_asleep = 0; claims = 0; failed = false
	}
}

#define WAKER_VARIABLES \
	byte seen_units, seen_made, seen_live, seen_coming, seen_asleep, claims, used, n, k, t; \
	bool failed, to_unpark[THREADS]

/* ---------------------------------------------------- workers: src/cleanup/worker.c */

inline take_unit()
{
	atomic { looking[me] = true; seen_units = units }
	do
	:: seen_units == 0 -> found = false; break
	:: else ->
		atomic {
			if
			:: units == seen_units -> units--; seen_units = 0; found = true; break
			:: else -> seen_units = units
			fi
		}
	od
}

/*
 * The registry lock is held meanwhile, so it is one step. The callbacks of several
 * producers may fill one block, or more.
 */
inline take_partial_blocks()
{
#ifdef BUG_HANDOVER_WITHOUT_A_LOOK_AT_PRODUCERS
	skip
#else
	atomic {
		t = 0;
		do
		:: t < PRODUCERS && partial[t] -> partial[t] = false; k++; t++
		:: t < PRODUCERS && !partial[t] -> t++
		:: t == PRODUCERS -> break
		od;
		if
		:: k <= 1 -> units = units + k
		:: k > 1 -> units = units + 1
		:: k > 1 -> units = units + k
		fi;
		t = 0;
		k = 0
	}
#endif
}

/* After take_partial_blocks: whoever gathers takes a unit or wakes for it. */
inline wake_after_gathering()
{
	waking++;
	cq_wake_published();
	waking--
}

inline cq_worker_arrive()
{
	atomic {
#ifndef BUG_WOKEN_WORKER_KEEPS_COMING
		assert(coming > 0);
		coming--;
#endif
		asked[me] = false;
		looking[me] = true
	}
}

/* cq_sleepers_sleep with its look. In `found`: took a unit; in `timed_out`: that */
inline cq_sleepers_sleep()
{
	atomic { !locked -> locked = true }
	asleep = asleep + 1;
#ifdef BUG_SLEEP_WITHOUT_SECOND_LOOK
	found = false;
#else
	take_unit();
	if
	:: HANDOVER && !found -> take_partial_blocks(); take_unit()
	:: else
	fi;
#endif
	if
	:: found -> asleep = asleep - 1; locked = false
	:: else ->
		atomic {
			permit[me] = false;
			is_listed[me] = true;
			listed++;
			looking[me] = false;
			locked = false
		}
		if
		:: atomic { permit[me] -> permit[me] = false }
		:: true ->		/* leave, or the permit is on its way */
			atomic {
				!locked ->
				if
				:: is_listed[me] ->
					is_listed[me] = false;
					listed--;
					asleep--;
					looking[me] = true;
					timed_out = true
				:: else
				fi
			}
			if
			:: timed_out
			:: else -> permit[me] -> permit[me] = false
			fi
		fi
	fi
}

/* Until the idle limit has passed */
inline dequeue_and_run()
{
	do
	:: take_unit();
		if
		:: found
		:: else ->
			cq_sleepers_sleep();
			if
			:: timed_out -> break
			:: found && HANDOVER -> wake_after_gathering()
			:: found && !HANDOVER
			:: else ->
#ifdef BUG_WORKER_LOOKS_BEFORE_IT_ARRIVES
				take_unit();
#endif
				cq_worker_arrive()
			fi
		fi;
		if
		:: found -> atomic { found = false; looking[me] = false }	/* run it */
		:: else
		fi
	od;
	timed_out = false
}

#define IS_MADE (me >= ATTACHED)

/* As one that comes. In `found`: came back */
inline come_back()
{
	atomic { seen_made = made; seen_live = live; seen_coming = coming }
	do
	:: IS_MADE && seen_made >= CAP -> found = false; break
	:: else ->
		atomic {
			if
#ifdef BUG_COMES_BACK_ABOVE_THE_CAP
			:: true ->
#else
			:: made == seen_made && live == seen_live && coming == seen_coming ->
#endif
				live++;
				made = made + IS_MADE;
				assert(made <= CAP);
				coming++;
				asked[me] = true;
				found = true;
				break
			:: else -> seen_made = made; seen_live = live; seen_coming = coming
			fi
		}
	od;
	atomic { seen_made = 0; seen_live = 0; seen_coming = 0 }
}

inline retire()
{
#ifdef BUG_RETIRE_LOOKS_BEFORE_IT_LEAVES
	seen_units = units;
	atomic { live--; made = made - IS_MADE }
#else
	spawn_failed = false;
	atomic { live--; made = made - IS_MADE }
	if
	:: HANDOVER -> take_partial_blocks()
	:: else
	fi;
	seen_units = units;
#endif
#ifdef BUG_RETIRE_WITHOUT_SECOND_LOOK
	seen_units = 0;
#endif
	if
	:: seen_units != 0 -> come_back()
	:: else -> found = false
	fi;
	seen_units = 0;
	back = found;
	found = false;
	if
	:: HANDOVER -> wake_after_gathering()
	:: else
	fi;
	if
	:: back -> cq_worker_arrive()
	:: else
	fi
}

active [THREADS] proctype worker()
{
	byte me = _pid;
	bool found, back, timed_out;
	WAKER_VARIABLES;

absent:	if
	:: me < ATTACHED -> runs[me] = true	/* cq_worker_attach */
	:: else -> runs[me] -> cq_worker_arrive()
	fi;
	do
	:: dequeue_and_run();
		retire();
		if
		:: back -> back = false
		:: else -> break
		fi
	od;
	if
	:: IS_MADE -> atomic { looking[me] = false; runs[me] = false }
	:: else -> atomic { live++; }		/* the host calls cq_cleanup_work again */
	fi;
	goto absent
}

/* ------------------------------------- producers: src/cleanup/producer.c, src/cleanup/open.c */

inline publish()
{
#ifdef BUG_WAKE_LOOKS_BEFORE_IT_PUBLISHES
	read_units_and_crew();
	seen_asleep = asleep;
	seen_units = seen_units + n;
#endif
	atomic { units = units + n; n = 0 }
	cq_wake_published();
	waking--
}

active [PRODUCERS] proctype producer()
{
	byte me = _pid - THREADS;
	bool found;
	WAKER_VARIABLES;

	do
	:: atomic {		/* a full block */
			units < UNITS ->
			waking++;
			n = 1;
			if
			:: true
			:: BURST > 1 -> n = 2
			fi
		}
		partial[me] = false;
		publish()
	:: atomic { FAILURES -> waking++ }	/* cq_cleanup_wake: tries again */
		cq_wake_published();
		waking--
	:: atomic { HANDOVER && units < UNITS && !partial[me] -> waking++ }
		/* A callback; then wants_partial_block, with stalled() */
		partial[me] = true;
		found = asleep != 0;
		if
		:: !found && live == 0 ->
			found = !spawn_failed;
			if
			:: !found -> found = live != 0;
				if
				:: !found -> found = units == 0
				:: else
				fi
			:: else
			fi
		:: else
		fi;
		if
		:: found ->
			found = false;
			atomic {	/* close_block: unless it is claimed */
				n = partial[me];
				partial[me] = false
			}
			if
			:: n > 0 -> publish()
			:: else -> waking--
			fi
		:: else -> waking--
		fi
	od
}

/* --------------------------------------------------------------- properties */

/* Nobody is between his units and the end of his wake, or arriving, or leaving. */
#define QUIET (waking == 0 && !locked && !anyone_looks)
#define anyone_looks (looking[0] || (THREADS > 1 && looking[1 % THREADS]) || \
	(THREADS > 2 && looking[2 % THREADS]) || (THREADS > 3 && looking[3 % THREADS]))

#define CREW (made <= CAP && made <= live && listed <= asleep)

/* No work waits with nobody coming, while a sleeper or a new worker could come. */
#define COVERED (!QUIET || units <= coming || \
	(asleep == 0 && (made == CAP || failed_once && (live > 0 || spawn_failed))))

/* And `coming` is no more than those who come. */
#define count_asked (asked[0] + (THREADS > 1 -> asked[1 % THREADS] : 0) + \
	(THREADS > 2 -> asked[2 % THREADS] : 0) + (THREADS > 3 -> asked[3 % THREADS] : 0))
#define COMING (waking > 0 || coming == count_asked)

/* CQ_HANDOVER: no callback stays behind while workers are idle, or none was made. */
#define any_partial (partial[0] || (PRODUCERS > 1 && partial[1 % PRODUCERS]))
#define HANDED_OVER (!QUIET || !any_partial || \
	(asleep == 0 && (live > 0 || spawn_failed)))

active proctype properties()
{
end:	atomic {
		!(CREW && COVERED && COMING && HANDED_OVER) ->
		assert(CREW);
		assert(COMING);
		assert(COVERED);
		assert(HANDED_OVER)
	}
}
