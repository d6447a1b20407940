/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tick and the lazy wake (src/cleanup/producer.c come_in, arm, close_block; collect.c, run.c tick): what is
 * written is published without a flush, a timer is armed only while somebody writes, and a full block that the next
 * tick takes signals nobody. Owners; runs of the task, which is signalled or not; a timer, which is due whenever it
 * is armed; a collector, a drain or a shutdown. How a timer is armed is in clock.pml, how a signalled task gets its
 * worker in pool.pml, who is let go in writers.pml: what the owner stores waits in a buffer as there. With FENCES
 * limit is NULL always. A claim is one step: shutdown.pml. ticking has the three values of the sources: who takes it
 * from ARMED to MADE ticks alone.
 *
 * FAILS: so often nobody can be made who sees to the timer. Then what is written waits for the next slow path, which
 * comes at last; what is published is taken before. STANDS_STILL: the timer is never due, and the drain ends.
 *
 *   holds short safety
 *   holds short safety FENCES FLUSH ENQUEUES=2
 *   holds short safety FENCES WORKERS=2 ENQUEUES=2
 *   holds short safety FENCES OWNERS=2 ENQUEUES=1
 *   holds short safety FENCES FILLER ENQUEUES=2
 *   holds short safety FENCES FILLER FAILS=1 ENQUEUES=1
 *   holds short safety FENCES DRAIN ENQUEUES=1 SLOTS=1
 *   holds short safety FENCES DRAIN STANDS_STILL
 *   holds short safety FENCES SHUTDOWN ENQUEUES=1 SLOTS=1
 *   holds short safety FENCES SHUTDOWN HAND_BACK ENQUEUES=1 SLOTS=1
 *   holds full  safety FLUSH
 *   holds full  safety FENCES FLUSH
 *   holds full  safety FENCES WORKERS=2 ENQUEUES=2 FAILS=1
 *   holds full  safety FENCES FILLER FAILS=1
 *   holds full  safety FENCES DRAIN ENQUEUES=2
 *   holds full  safety FENCES DRAIN FILLER ENQUEUES=1
 *   holds full  safety FENCES SHUTDOWN ENQUEUES=2
 *   holds full  safety FENCES SHUTDOWN HAND_BACK ENQUEUES=2
 *
 * What loses work:
 *   fails short assertion BUG_SIGNALLED_BEFORE_IT_IS_UNLINKED
 *   fails short assertion BUG_ARMED_BEFORE_IT_IS_LISTED
 *   fails short assertion BUG_NO_FENCE_BEHIND_THE_PUSH
 *   fails short assertion BUG_NEWCOMERS_NOT_LOOKED_AT
 *   fails short assertion BUG_NEWCOMERS_READ_BEFORE_TICKING_IS_RESET
 *   fails short assertion FLUSH ENQUEUES=2 SLOTS=3 BUG_NEWCOMERS_READ_WITHOUT_THE_LOCK
 *   fails short assertion BUG_DISARMED_THOUGH_ONE_IS_PUT_BACK
 *   fails short assertion FENCES ENQUEUES=2 BUG_LAZY_WITHOUT_A_TICK
 *   fails short assertion FENCES ENQUEUES=2 BUG_NO_FENCE_BEHIND_THE_BLOCK
 *   fails short assertion FENCES ENQUEUES=2 BUG_WAITING_READ_BEFORE_TICKING_IS_RESET
 *   fails short assertion FENCES ENQUEUES=2 FAILS=1 BUG_TICKING_STAYS_WHEN_NOTHING_IS_ARMED
 *   fails short assertion FENCES ENQUEUES=2 FAILS=1 BUG_ARMED_BY_NEWCOMERS_ALONE
 *   fails short assertion FENCES FAILS=1 FILLER ENQUEUES=1 BUG_WHO_RELIED_ON_A_FAILED_ARM_IS_FORGOTTEN
 *   fails short assertion FENCES ENQUEUES=1 BUG_ARMED_BEHIND_THE_SIGNAL
 *   fails short assertion FENCES ENQUEUES=1 BUG_ARMED_IS_NOT_SAID
 * What leaves a shutdown or a drain asleep, or ticks for ever:
 *   fails short assertion FENCES SHUTDOWN HAND_BACK ENQUEUES=1 SLOTS=1 BUG_LAZY_IN_A_HAND_BACK
 *   fails short assertion FENCES DRAIN STANDS_STILL BUG_LAZY_BESIDE_A_DRAIN
 *   fails short assertion FENCES DRAIN STANDS_STILL BUG_DRAIN_FINDS_WHAT_NOBODY_SIGNALLED
 *   fails short assertion FENCES SHUTDOWN ENQUEUES=1 SLOTS=1 BUG_SEALED_TICKS_ON
 */
#ifndef OWNERS
#define OWNERS 1
#endif
#ifndef ENQUEUES	/* of each */
#define ENQUEUES 3
#endif
#ifndef SLOTS		/* of a block */
#define SLOTS 2
#endif
#ifndef WORKERS
#define WORKERS 1
#endif
#ifndef FAILS
#define FAILS 0
#endif
#ifndef WAKE_BLOCKS	/* so many that wait are signalled by who pushed the last */
#define WAKE_BLOCKS 2
#endif

/* cq_producer_t: the open block, what is written there and claimed of that; seq, and what the last tick saw of it;
   limit: is it up? is it a newcomer, in the list of writers */
bool is_open[OWNERS], limit[OWNERS], newcomer[OWNERS], writer[OWNERS];
byte written[OWNERS], claimed[OWNERS];
bit seq[OWNERS], seen[OWNERS];
mtype = { UNLISTED, NEWCOMER, WRITER };
mtype listed[OWNERS] = UNLISTED;
/* cq_cleanup_t */
bool lock_held, closed, sealed, stop;
#define NO_TICK 0
#define ARMED 1
#define MADE 2	/* a tick, or the next one is being armed */
byte ticking;
bit epoch;
byte units[2], unfinished[2];	/* by the epoch at which they were counted */
bool partial;
bit partial_parity;
/* the task: IN; is its moment still to come? */
bool in, timed;
/* the event count `drains` */
bool draining, waits, woken;

mtype = { OPEN, WRITE, LIMIT };
#ifndef FENCES
chan buffer[OWNERS] = [4] of { mtype, byte };
byte limits[OWNERS];		/* stores of limit in the buffer, */
bool last_limit[OWNERS];	/* and the last of them */
#endif

/* What the library doesn't have. */
byte fails, ended, idle_ticks;
bool finished;

#define WAITS (units[0] + units[1] + partial)
#if OWNERS == 1
#define ANY(x) (x[0])
#define UNCLAIMED (is_open[0] && written[0] > claimed[0])
#else
#define ANY(x) (x[0] || x[1])
#define UNCLAIMED ((is_open[0] && written[0] > claimed[0]) || (is_open[1] && written[1] > claimed[1]))
#endif
#define HAS_SOME(o) (is_open[o] && written[o] > claimed[o])

inline lock() { atomic { !lock_held -> lock_held = true } }
inline unlock() { lock_held = false }

#ifdef FENCES
#define FENCE_OF_THE_OWNER true
#define heavy_barrier() skip
#else
#define FENCE_OF_THE_OWNER empty(buffer[me])
#if OWNERS == 1
#define heavy_barrier() empty(buffer[0])
#else
#define heavy_barrier() empty(buffer[0]); empty(buffer[1])
#endif
#endif

/* -------------------------------------------------------------- the task, the pool */

/* cq_task_signal: begins with a full fence */
inline signal() { in = true }

/* cq_task_signal_at. False in `armed`: nothing is, and what another has armed isn't either. */
inline signal_at()
{
	atomic {
		if
		:: timed = true; armed = true
		:: fails < FAILS -> fails++; timed = false; armed = false
		fi
	}
}

/* cq_drains_wake: whoever has prepared looks again */
inline drains_wake()
{
	atomic {
		if
		:: waits -> woken = true
		:: else
		fi
	}
}

/* cq_blocks_signal */
inline blocks_signal()
{
	signal();
	if
	:: stop -> drains_wake()
	:: else
	fi
}

/* arm, by who has made it MADE */
inline arm_it()
{
#ifdef BUG_ARMED_BEHIND_THE_SIGNAL
	signal_at();
	if
	:: armed -> ticking = ARMED
	:: !armed
	fi;
#else
#ifndef BUG_ARMED_IS_NOT_SAID
	ticking = ARMED;
#endif
	signal_at();
#endif
	if
	:: !armed ->
#ifdef BUG_TICKING_STAYS_WHEN_NOTHING_IS_ARMED
		ticking = MADE;
#else
		ticking = NO_TICK;
#endif
		/* Who relied on it has pushed. */
#ifndef BUG_WHO_RELIED_ON_A_FAILED_ARM_IS_FORGOTTEN
		blocks_signal()
#endif
	:: armed
	fi;
	armed = false
}

/* A block is counted: where somebody waits for that. */
#if defined(DRAIN) || defined(SHUTDOWN)
#define EPOCH epoch
inline count(parity) { unfinished[parity]++ }

/* cq_block_give_up of one that is done with */
inline finish(parity)
{
	atomic { unfinished[parity] = unfinished[parity] - 1; last = (unfinished[parity] == 0) }
	if
	:: last -> drains_wake()
	:: else
	fi;
	last = false
}
#else
#define EPOCH 0
inline count(parity) { skip }
inline finish(parity) { skip }
#endif

/* ----------------------------------------------------------------------- owner */

#ifdef FENCES
inline store_limit(v) { skip }
inline store_write(v) { written[me] = v }
inline store_open() { atomic { is_open[me] = true; written[me] = 0; claimed[me] = 0; seq[me] = 1 - seq[me] } }
inline load_limit() { skip }
#else
inline store_limit(v) { atomic { buffer[me]!LIMIT,v; limits[me]++; last_limit[me] = v } }
inline store_write(v) { buffer[me]!WRITE,v }
inline store_open() { buffer[me]!OPEN,0 }
/* In `up`: what limit is to its owner. */
inline load_limit() { up = (limits[me] != 0 -> last_limit[me] : limit[me]) }
#endif

inline come_in()
{
	atomic {
		FENCE_OF_THE_OWNER;
		mine = (listed[me] == UNLISTED);
		if
		:: mine -> listed[me] = NEWCOMER
		:: else
		fi
	}
	if
	:: mine ->
#ifdef BUG_NO_FENCE_BEHIND_THE_PUSH
		early = (ticking != NO_TICK);
#endif
		assert(!newcomer[me]);
		newcomer[me] = true
	:: else
	fi
}

/* If no tick is armed, nor is about to be. */
inline arm()
{
#ifdef BUG_NO_FENCE_BEHIND_THE_PUSH
	if
	:: mine && early
	:: else -> early = (ticking != NO_TICK)
	fi;
#else
	early = (ticking != NO_TICK);
#endif
	mine = false;
	if
	:: !early ->
		atomic {
			if
			:: ticking == NO_TICK -> ticking = MADE; mine = true
			:: else
			fi
		}
	:: else
	fi;
	early = false;
	if
	:: mine -> arm_it()
	:: else
	fi;
	mine = false
}

inline set_limit()
{
#ifdef FENCES
	skip;
#else
	store_limit(1);
#endif
	was_listed = (listed[me] != UNLISTED);
#ifdef BUG_ARMED_BEFORE_IT_IS_LISTED
	arm();
#endif
	if
	:: !was_listed -> come_in()
	:: was_listed
	fi;
	refused = closed;
	if
	:: refused -> store_limit(0)
#ifndef BUG_ARMED_BEFORE_IT_IS_LISTED
#ifdef BUG_ARMED_BY_NEWCOMERS_ALONE
	:: !refused && mine -> arm()
	:: !refused && !mine
#else
	:: !refused -> arm()
#endif
#else
	:: !refused
#endif
	fi;
	mine = false;
	was_listed = false
}

/* Whether a full block needs a signal, in `wakes_some`: behind the fence that follows the push. */
inline look_at_tick()
{
#if !defined(BUG_NO_FENCE_BEHIND_THE_BLOCK)
	early = (ticking != NO_TICK);
#endif
	wakes_some = !early;
#ifdef BUG_LAZY_WITHOUT_A_TICK
	wakes_some = false;
#endif
	early = false;
	wakes_some = wakes_some || WAITS >= WAKE_BLOCKS;
#if !defined(BUG_LAZY_BESIDE_A_DRAIN) && !defined(BUG_LAZY_IN_A_HAND_BACK)
	wakes_some = wakes_some || draining;
#endif
	skip
}

/* A block of that parity, and its signal. */
inline push(lazy)
{
#ifdef BUG_NO_FENCE_BEHIND_THE_BLOCK
	early = (ticking != NO_TICK);
#endif
	units[parity]++;
	wakes_some = true;
	if
	:: lazy -> look_at_tick()
	:: !lazy
	fi;
	if
	:: wakes_some -> blocks_signal()
	:: else
	fi;
	wakes_some = false
}

/* `lazy`: it is full. */
inline close_block(lazy)
{
	parity = EPOCH;
	count(parity);
	/* the closing step */
	atomic {
		FENCE_OF_THE_OWNER;
		some = HAS_SOME(me);
		is_open[me] = false;
		opened = false; n = 0
	}
	store_limit(0);
	if
	:: some -> push(lazy)
	:: !some -> finish(parity)
	fi;
	atomic { parity = 0; some = false }
}

inline enqueue()
{
	if
	:: !opened && closed -> refused = true	/* open_block */
	:: !opened && !closed ->
		store_open();
		opened = true;
		set_limit();
		refused = false
	:: opened
	fi;
	if
	:: refused
	:: !refused ->
		n++;
		store_write(n);
		load_limit();
		if
		:: up && n < SLOTS	/* fast */
		:: true -> set_limit();	/* the limit; or lines are to be fetched */
			if
			:: refused ->
				/* retract, by a compare-and-swap */
				atomic {
					FENCE_OF_THE_OWNER;
					if
					:: claimed[me] < n -> n--; written[me] = n; seq[me] = 1 - seq[me]
					:: else -> refused = false
					fi
				}
				if
				:: refused -> close_block(false)
				:: !refused
				fi
			:: !refused
			fi;
			if
			:: n == SLOTS -> close_block(true)
			:: else
			fi
		fi;
		up = false
	fi
}

active [OWNERS] proctype owner()
{
	byte me = _pid, n, done;
	bool opened, up, mine, was_listed, refused, early, armed, wakes_some, some, last;
	bit parity;

	do
	:: done == ENQUEUES || refused -> break
	:: else -> done++; enqueue()
	od;
#if FAILS > 0
	/* The next slow path, when memory is back. */
	if
	:: me == 0 ->
		timeout -> fails = FAILS;
		assert(WAITS == 0);
		enqueue();
		if
		:: opened -> set_limit()
		:: else
		fi
	:: else
	fi;
#endif
	atomic { FENCE_OF_THE_OWNER; ended++ }
}

#ifdef FILLER
/* Another owner, who was listed before, and has filled a block. */
active proctype filler()
{
	bool early, wakes_some;
	bit parity;

	count(parity);
	push(true)
}
#endif

#ifndef FENCES
active [OWNERS] proctype memory()
{
	byte me = _pid - OWNERS, v;

end:	do
	:: atomic { buffer[me]?OPEN,v ->
			is_open[me] = true; written[me] = 0; claimed[me] = 0; seq[me] = 1 - seq[me]; v = 0 }
	:: atomic { buffer[me]?WRITE,v -> written[me] = v; v = 0 }
	:: atomic { buffer[me]?LIMIT,v -> limit[me] = v; v = 0; limits[me]-- }
	od
}
#endif

#ifndef STANDS_STILL
active proctype clock()
{
end:	do
#ifdef BUG_SIGNALLED_BEFORE_IT_IS_UNLINKED
	:: timed -> signal(); timed = false
#else
	:: atomic { timed -> timed = false }; signal()
#endif
	od
}
#endif

/* ------------------------------------------------------------------ collectors */

inline let_go()
{
	do
	:: o < OWNERS && quiet[o] ->
		atomic { writer[o] = false; listed[o] = UNLISTED };
		atomic { limit[o] = false; o++ }
	:: o < OWNERS && !quiet[o] -> o++
	:: else -> o = 0; break
	od;
#ifdef BUG_DISARMED_THOUGH_ONE_IS_PUT_BACK
	none = !ANY(writer);
#endif
	heavy_barrier();
	do
	:: atomic { o < OWNERS ->
			if
			:: quiet[o] && (limit[o] || HAS_SOME(o)) ->
				if
				:: listed[o] == UNLISTED -> listed[o] = WRITER
				:: else
				fi;
				writer[o] = true
			:: else
			fi;
			quiet[o] = false;
			o++ }
	:: atomic { else -> o = 0; break }
	od
}

inline forget_quiet()
{
	quiet[0] = false;
	quiet[OWNERS - 1] = false
}

/*
 * With the lock held. A tick's leaves to its owner what was opened since the last. Here what concerns one owner is a
 * step: that a block is counted before the claim is in drain.pml.
 */
inline cq_collect(of_tick)
{
	do
	:: atomic { o < OWNERS ->
			if
			:: newcomer[o] -> newcomer[o] = false; writer[o] = true; listed[o] = WRITER
			:: else
			fi;
			if
			:: writer[o] && HAS_SOME(o) ->
				if
				:: of_tick && seq[o] != seen[o] -> seen[o] = seq[o]
				:: else ->
					claimed[o] = written[o];
					if
					:: !partial -> count(EPOCH); partial = true; partial_parity = EPOCH
					:: partial
					fi
				fi
			:: writer[o] && !HAS_SOME(o) && listed[o] == WRITER -> quiet[o] = true
			:: else
			fi;
			o++ }
	:: atomic { else -> o = 0; break }
	od;
	if
	:: ANY(quiet) -> let_go()
	:: atomic { !of_tick && ANY(quiet) -> forget_quiet() }	/* too few */
	:: else
	fi
}

/* --------------------------------------------------------------------- the runs */

/* By who has made it MADE. */
inline tick()
{
	lock();
	/* When nobody writes any more the next one ends it. */
	atomic {
		if
		:: ended == OWNERS && !UNCLAIMED -> idle_ticks++; assert(idle_ticks <= WORKERS + 2)
		:: else
		fi
	}
	if
	:: !sealed -> cq_collect(true)
	:: sealed
	fi;
#ifndef BUG_DISARMED_THOUGH_ONE_IS_PUT_BACK
	none = !ANY(writer);
#endif
#ifndef BUG_SEALED_TICKS_ON
	none = none || sealed;
#endif
#ifdef BUG_WAITING_READ_BEFORE_TICKING_IS_RESET
	nothing = none && WAITS == 0;
#endif
	if
	:: none ->
#ifdef BUG_NEWCOMERS_READ_BEFORE_TICKING_IS_RESET
		came = ANY(newcomer);
#endif
		ticking = NO_TICK;
#ifdef BUG_NEWCOMERS_READ_WITHOUT_THE_LOCK
		unlock();
#endif
#if !defined(BUG_NEWCOMERS_READ_BEFORE_TICKING_IS_RESET) && !defined(BUG_NEWCOMERS_NOT_LOOKED_AT)
		came = ANY(newcomer);
#endif
		/* An owner may be faster, and arms. */
		atomic {
			if
			:: came && !sealed && ticking == NO_TICK -> ticking = MADE; none = false
			:: else
			fi;
			came = false
		}
#ifdef BUG_NEWCOMERS_READ_WITHOUT_THE_LOCK
	:: !none -> unlock()
	fi;
#else
	:: !none
	fi;
	unlock();
#endif
	if
	:: !none -> arm_it()
	:: none
	fi;
	none = false
}

/* cq_blocks_take: of which parity, in `parity` */
inline take()
{
	atomic {
		got = true;
		if
		:: nothing -> got = false
		:: !nothing && units[0] > 0 -> units[0]--; parity = 0
		:: !nothing && units[1] > 0 -> units[1]--; parity = 1
		:: !nothing && units[0] + units[1] == 0 && partial -> partial = false; parity = partial_parity
		:: else -> got = false
		fi;
		nothing = false
	}
}

active [WORKERS] proctype worker()
{
	byte o;
	bool quiet[OWNERS], mine, none, came, armed, got, last, nothing;
	bit parity;

end:	do
	:: atomic { in -> in = false };
		do
		:: stop -> break
		:: else ->
			if
			:: ticking == ARMED ->
				if
				:: !timed ->
					atomic {
						if
						:: ticking == ARMED -> ticking = MADE; mine = true
						:: else	/* another run was faster */
						fi
					}
				:: else
				fi
			:: else
			fi;
			if
			:: mine -> mine = false; tick()
			:: else
			fi;
			take();
			if
			:: !got -> break
			:: got ->
				/* cq_run_more, before it runs what it took */
				if
				:: WAITS != 0 -> signal()
				:: else
				fi;
				if
				:: !stop -> finish(parity)
				:: stop -> units[parity]++; blocks_signal()	/* put back */
				fi
			fi;
			atomic { got = false; parity = 0 }
		od;
		atomic { got = false; parity = 0 }
	od
}

/* ------------------------------------------------------------ flush, drain, shutdown */

#ifdef FLUSH
active proctype collector()
{
	byte o;
	bool quiet[OWNERS], none, last;
	bit parity;

	lock();
	cq_collect(false);
	unlock();
	if
	:: WAITS != 0 -> blocks_signal()
	:: else
	fi
}
#endif

/* In `yes`; under the lock */
inline drained()
{
	atomic {
		!lock_held ->
		if
		:: !flipped && unfinished[1 - mine] == 0 -> epoch = 1 - mine; flipped = true
		:: else
		fi;
		yes = flipped && unfinished[mine] == 0
	}
}

/* `handing`: what waits is to be given back: it returns. */
inline wait_for(handing)
{
	draining = true;
	do
	::
		atomic { waits = true; woken = false };
		drained();
		if
		:: !yes && WAITS != 0 && handing -> again = true
#ifndef BUG_DRAIN_FINDS_WHAT_NOBODY_SIGNALLED
		:: !yes && WAITS != 0 && !handing -> signal()
#endif
		:: else
		fi;
		if
		:: yes || again -> break
		:: else -> woken	/* commit_wait */
		fi
	od;
	atomic { waits = false; woken = false; draining = false }
}

#if defined(DRAIN) || defined(SHUTDOWN)
active proctype drain()
{
	byte o;
	bool quiet[OWNERS], none, last, yes, again, flipped, lowered;
	bit parity, mine;

#ifdef SHUTDOWN
	closed = true;
	/* cq_producers_see */
	do
	::
		heavy_barrier();
		atomic {
			!lock_held ->
			lowered = ANY(limit);
			do
			:: o < OWNERS -> limit[o] = false; o++
			:: else -> o = 0; break
			od
		}
		if
		:: lowered -> lowered = false
		:: else -> break
		fi
	od;
#endif
#ifdef HAND_BACK
	stop = true;
	do
	::
		do
		:: atomic { units[0] > 0 -> units[0]-- }; finish(0)
		:: atomic { units[1] > 0 -> units[1]-- }; finish(1)
		:: atomic { units[0] + units[1] == 0 && partial -> partial = false; parity = partial_parity };
			finish(parity)
		:: else -> break
		od;
		/* claim_one: all that is there */
		lock();
		cq_collect(false);
		sealed = true;
		mine = epoch;
		unlock();
		again = false;
		flipped = false;
		wait_for(true);
		if
		:: yes -> break
		:: else
		fi
	od;
#else
	lock();
	mine = epoch;
	cq_collect(false);
#ifdef SHUTDOWN
	sealed = true;
#endif
	unlock();
	if
	:: WAITS != 0 -> signal()
	:: else
	fi;
	wait_for(false);
#endif
	finished = true
}
#endif

/* ----------------------------------------------------------------- properties */

/* At rest. */
active proctype properties()
{
	(timeout && ended == OWNERS) ->
#if defined(DRAIN) || defined(SHUTDOWN)
	assert(finished);
#endif
#ifndef STANDS_STILL
	/* All that was written was published, and all that was published is taken. */
	assert(!UNCLAIMED);
	assert(WAITS == 0);
	assert(unfinished[0] + unfinished[1] == 0);
	/* And no timer goes on. */
	assert(!timed);
#ifndef HAND_BACK
	assert(ticking == NO_TICK);
#endif
#endif
	assert(!in || stop)
}
