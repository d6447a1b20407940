/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who wrote (src/cleanup/producer.c set_limit, collect.c let_go): collectors walk the writers, who are quiet leave
 * that list, and no enqueue is missed. One owner with one endless block; collectors; a shutdown. What the owner
 * stores waits in a buffer, in order, until it reaches memory; the heavy barrier waits for that buffer, as does
 * what the owner does by compare-and-swap. With FENCES there is no such barrier: its limit is NULL always, and a
 * fence stands in its place. A claim is one step: shutdown.pml.
 *
 *   holds short safety
 *   holds short safety SHUTDOWN
 *   holds short safety FENCES SHUTDOWN
 *   holds full  safety ENQUEUES=4 PASSES=3
 *   holds full  safety ENQUEUES=4 PASSES=2 SHUTDOWN
 *   holds full  safety ENQUEUES=4 PASSES=2 FENCES SHUTDOWN
 *
 *   fails short assertion BUG_NO_BARRIER
 *   fails short assertion BUG_LIMIT_NOT_READ_AGAIN
 *   fails short assertion BUG_WRITE_NOT_READ_AGAIN
 *   fails short assertion PASSES=3 BUG_LEFT_TO_WHO_LISTS_ITSELF
 *   fails short assertion PASSES=4 BUG_NEWCOMER_IS_LET_GO
 *   fails short assertion BUG_LISTED_READ_BEFORE_LIMIT_IS_STORED
 *   fails short assertion PASSES=4 BUG_PUT_BACK_WITHOUT_COMPARE
 *   fails short assertion SHUTDOWN BUG_CLOSED_READ_BEFORE_IT_IS_LISTED
 *   fails short assertion FENCES BUG_NO_FENCE_OF_THE_OWNER
 *   fails short assertion FENCES SHUTDOWN BUG_NO_FENCE_BEHIND_THE_PUSH
 */
#ifndef ENQUEUES
#define ENQUEUES 3
#endif
#ifndef PASSES
#define PASSES 2
#endif

/* cq_producer_t: callbacks that are written, and claimed of them; limit: is it up? listed; is it a newcomer, is it in the
   list of writers. */
byte written, claimed;
bool limit, newcomer, writer;
mtype = { UNLISTED, NEWCOMER, WRITER };
mtype listed = UNLISTED;
bool closed, sealed, lock_held;

mtype = { WRITE, LIMIT, RETURN };
chan buffer = [6] of { mtype, byte };
byte limits;		/* stores of limit in the buffer, */
bool last_limit;	/* and the last of them */

byte accepted, passes;
byte returned;		/* so many enqueues, to whoever sees that */
bool enqueued, finished;

inline lock() { atomic { !lock_held -> lock_held = true } }
inline unlock() { lock_held = false }
#define FENCE_OF_THE_OWNER empty(buffer)

active proctype memory()
{
	byte v;

end:	do
	:: atomic {
		buffer?WRITE,v -> written = v; v = 0
	   }
	:: atomic {
		buffer?LIMIT,v -> limit = v; v = 0; limits--
	   }
	:: atomic {
		buffer?RETURN,v -> returned = v; v = 0
	   }
	od
}

/* ----------------------------------------------------------------------- owner */

inline store_limit(v)
{
	atomic { buffer!LIMIT,v; limits++; last_limit = v }
}

inline come_in()
{
	atomic {
		FENCE_OF_THE_OWNER;
		mine = (listed == UNLISTED);
		if
		:: mine -> listed = NEWCOMER
		:: else
		fi
	}
	if
	:: mine ->
#ifdef BUG_NO_FENCE_BEHIND_THE_PUSH
		early = closed;
#endif
		assert(!newcomer);
		newcomer = true
	:: else
	fi;
	mine = false
}

/* In `up`: what limit is to its owner. */
inline load_limit()
{
	atomic {
		if
		:: limits != 0 -> up = last_limit
		:: limits == 0 -> up = limit
		fi
	}
}

inline set_limit()
{
#ifdef BUG_CLOSED_READ_BEFORE_IT_IS_LISTED
	refused = closed;
#endif
#ifdef FENCES
#ifndef BUG_NO_FENCE_OF_THE_OWNER
	FENCE_OF_THE_OWNER;
#endif
#elif !defined(BUG_LISTED_READ_BEFORE_LIMIT_IS_STORED)
	store_limit(1);
#endif
	was_listed = (listed != UNLISTED);
#ifdef BUG_LISTED_READ_BEFORE_LIMIT_IS_STORED
	store_limit(1);
#endif
	early = true;
	if
	:: !was_listed -> come_in()
	:: was_listed
	fi;
	was_listed = false;
#ifndef BUG_CLOSED_READ_BEFORE_IT_IS_LISTED
	refused = closed && early;
#endif
	if
	:: refused -> store_limit(0)
	:: else
	fi;
	early = false
}

active proctype owner()
{
	byte n;
	bool up, mine, was_listed, refused, early;

	do
	:: n == ENQUEUES -> break
	:: refused -> break
	:: else ->
		n++;
		buffer!WRITE,n;
		load_limit();
		if
		:: up			/* fast */
		:: true -> set_limit()	/* NULL; or lines are to be fetched */
		fi;
		up = false;
		if
		:: refused ->
			/* retract, by a compare-and-swap */
			atomic {
				FENCE_OF_THE_OWNER;
				if
				:: claimed < n -> n--; written = n
				:: else -> refused = false
				fi
			}
		:: else -> buffer!RETURN,n
		fi
	od;
	FENCE_OF_THE_OWNER;
	accepted = n;
	enqueued = true
}

/* ------------------------------------------------------------------ collectors */

inline heavy_barrier()
{
#if !defined(FENCES) && !defined(BUG_NO_BARRIER)
	empty(buffer)
#else
	skip
#endif
}

inline let_go()
{
	writer = false;
	listed = UNLISTED;
	limit = false;
	heavy_barrier();
#ifdef BUG_LIMIT_NOT_READ_AGAIN
	moved = false;
#else
	moved = limit;
#endif
#ifndef BUG_WRITE_NOT_READ_AGAIN
	moved = moved || written > claimed;
#endif
	if
	:: moved ->
#ifdef BUG_LEFT_TO_WHO_LISTS_ITSELF
		atomic {
			if
			:: listed == UNLISTED -> listed = WRITER; writer = true
			:: else
			fi
		}
#elif defined(BUG_PUT_BACK_WITHOUT_COMPARE)
		listed = WRITER;
		writer = true
#else
		atomic {
			if
			:: listed == UNLISTED -> listed = WRITER
			:: else
			fi
		}
		writer = true
#endif
	:: !moved
	fi;
	moved = false
}

#ifdef BUG_NEWCOMER_IS_LET_GO
#define IS_WRITER true
#else
#define IS_WRITER (listed == WRITER)
#endif

/* cq_collect, with the lock held. */
inline cq_collect()
{
	if
	:: newcomer -> newcomer = false; writer = true; listed = WRITER
	:: !newcomer
	fi;
	if
	:: writer && written > claimed -> claimed = written
	:: writer && written <= claimed && IS_WRITER -> let_go()
	:: !writer || (written <= claimed && !IS_WRITER)
	fi
}

active proctype collector()
{
	byte before;
	bool moved;

	do
	:: passes == PASSES -> break
	:: else ->
		before = returned;
		lock();
		if
		:: !sealed -> cq_collect()
		:: sealed
		fi;
		unlock();
		assert(claimed >= before);
		before = 0;
		passes++
	od
}

#ifdef SHUTDOWN
active proctype shutdown()
{
	bool moved, lowered;

	closed = true;
	/* cq_producers_see */
	do
	::
		heavy_barrier();
		lock();
		lowered = limit;
		if
		:: lowered -> limit = false
		:: else
		fi;
		unlock();
		if
		:: lowered -> lowered = false
		:: else -> break
		fi
	od;
	lock();
	cq_collect();
	sealed = true;
	unlock();
	finished = true
}
#endif

/* --------------------------------------------------------------- properties */

active proctype properties()
{
	atomic {
		enqueued && passes == PASSES && !lock_held && (finished ||
#ifdef SHUTDOWN
		false
#else
		true
#endif
		) -> ;
		/* What is not collected is found by the next, and what a shutdown left was refused. */
		assert(accepted == claimed || (!sealed && (writer || newcomer)))
	}
}
