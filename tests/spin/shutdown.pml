/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Claim, retract, close (src/cleanup/collect.c, producer.c) and shutdown (drain.c): one
 * producer, a collector beside it, a run, and a shutdown. Owner and collector claim side by side, into the
 * queue's partial block. Blocks are reused, so a slow collector may read one that has a new owner. Every callback must run or be handed back, once, if its enqueue
 * returned 0, and never if not; none when the shutdown has returned. The two epochs of
 * unfinished blocks are in drain.pml: one count here. n is the number of callbacks below `write`,
 * and each enqueue looks at `closed`, as in a queue whose limits are always NULL: that a limit
 * follows it, and spans, are for the model check (tests/model).
 *
 *   holds short safety CALLBACKS=2 COLLECTORS=0
 *   holds short safety CALLBACKS=2 DRAIN=1
 *   holds full  safety CALLBACKS=2
 *   holds full  safety CALLBACKS=3 COLLECTORS=0
 *
 *   fails short assertion BUG_CLAIM_WITHOUT_COMPARE
 *   fails short assertion BUG_CLAIM_WITHOUT_SEQ
 *   fails short assertion BUG_CLOSE_PUBLISHES_WHAT_IS_CLAIMED
 *   fails short assertion BUG_RETRACT_WITHOUT_SEQ
 *   fails short assertion BUG_RETRACT_OF_A_CLAIMED_CALLBACK
 *   fails short assertion BUG_SHUTDOWN_DROPS_WHAT_IS_UNPUBLISHED
 *   fails short assertion DRAIN=1 BUG_COLLECTING_AFTER_THE_SEAL
 *   fails short assertion BUG_COUNTED_AFTER_THE_CLOSE
 *   fails short assertion BUG_HAND_BACK_IGNORES_UNFINISHED_BLOCKS
 *   fails short assertion BUG_EMPTY_BLOCK_STAYS_COUNTED
 *   fails short assertion BUG_PARTIAL_BLOCK_TAKEN_WITHOUT_ITS_LOCK
 *   fails short deadlock  BUG_PUBLISHED_WITHOUT_A_WAKE
 *   fails short deadlock  BUG_REST_WAKES_NOBODY
 *   fails short deadlock  BUG_JOIN_WAKES_NOBODY
 *   fails short deadlock  BUG_HAND_BACK_FORGETS_THE_PARTIAL_BLOCK
 *   fails short deadlock  BUG_LOOKS_BEFORE_IT_PREPARES
 */
#ifndef CALLBACKS
#define CALLBACKS 2
#endif
#ifndef COLLECTORS	/* threads that flush once: cq_cleanup_flush */
#define COLLECTORS 1
#endif
#ifndef DRAIN		/* CQ_SHUTDOWN_DRAIN, else CQ_SHUTDOWN_HAND_BACK */
#define DRAIN 0
#endif

#define SLOTS 2
#define BLOCKS (CALLBACKS + 4)	/* each callback alone, one open, one partial, two being filled */

bool closed, stop, sealed, lock_held;
/* cq_producer_t */
bool is_open;
byte seq, claimed;		/* state, with is_open: one word */
byte n, block;
/* Blocks, with the callbacks that they hold; free ones are not `used`. */
byte slots[BLOCKS * SLOTS];
byte begin[BLOCKS], end_of[BLOCKS];
bool used[BLOCKS];
chan waiting = [BLOCKS] of { byte };	/* any order will do */
byte unfinished;
/* the partial block, under its lock: is there one, and which */
bool partial_held, there;
byte partial;
/* the event count `drains`, on which the shutdown alone sleeps */
bool waits, woken;

/* What the library doesn't have, for the properties. */
byte accepted, ran;		/* sets of callbacks; one that is handed back has run */
bool enqueued, finished;
byte flushed;

inline lock() { atomic { !lock_held -> lock_held = true } }
inline unlock() { lock_held = false }
inline lock_partial() { atomic { !partial_held -> partial_held = true } }
inline unlock_partial() { partial_held = false }

/* cq_drains_wake */
inline wake()
{
	atomic {
		if
		:: waits -> woken = true
		:: else
		fi
	}
}

inline get_block(b)
{
	atomic {
		b = 0;
		do
		:: used[b] -> b++
		:: else -> break
		od;
		used[b] = true;
		begin[b] = 0;
		end_of[b] = 0
	}
}

inline run_one(c)
{
	assert(!finished && (ran & (1 << c)) == 0);
	ran = ran | (1 << c)
}

/* cq_block_give_up */
inline finish()
{
	atomic { unfinished--; last = (unfinished == 0) }
	if
	:: last -> wake()
	:: else
	fi;
	last = false
}

/* ------------------------------------------------------------- claiming: collect.c */

/* What is open at one look. g_n <= g_claimed: nothing */
inline look()
{
	atomic { g_open = is_open; g_seq = seq; g_claimed = claimed };
	from = block;
	g_n = n;
	atomic {
		if
		:: !g_open -> g_n = 0; g_claimed = 0
		:: else
		fi
	}
}

/* Copies what was seen, as far as there is room, behind what the block `to` has, and claims it. */
inline claim()
{
	atomic {
		fit = g_n - g_claimed;
		if
		:: fit > SLOTS - end_of[to] -> fit = SLOTS - end_of[to]
		:: else
		fi
	}
	do
	:: j < fit ->
		atomic {
			slots[to * SLOTS + end_of[to] + j] = slots[from * SLOTS + g_claimed + j];
			j++
		}
	:: else -> break
	od;
	atomic {
		j = 0;
		if
#if defined(BUG_CLAIM_WITHOUT_COMPARE)
		:: true ->
#elif defined(BUG_CLAIM_WITHOUT_SEQ)
		:: is_open && claimed == g_claimed ->
#else
		:: is_open && seq == g_seq && claimed == g_claimed ->
#endif
			claimed = g_claimed + fit;
			end_of[to] = end_of[to] + fit
		:: else
		fi;
		fit = 0
	}
}

/* By whoever flushes: what is open joins the partial block, if that has room; else the next one, which is counted
   before the claim and seen to wait behind it. One that no claim filled is given up. */
inline join()
{
	do
	::
		look();
		if
		:: g_n <= g_claimed -> break
		:: else
		fi;
		atomic {
			lock_partial();
			mine = !there || end_of[partial] == SLOTS;
			if
			:: mine && !has_next -> get_block(next); unfinished++; has_next = true
			:: else
			fi;
			if
			:: mine -> to = next
			:: !mine -> to = partial
			fi
		}
		claim();
		atomic {
			if
			:: mine && end_of[next] != 0 ->
				if
				:: there -> waiting!partial
				:: !there
				fi;
				partial = next;
				there = true;
				has_next = false;
				next = 0
			:: else
			fi;
			mine = false;
			unlock_partial()
		}
	od;
	atomic { to = 0; from = 0; g_open = false; g_seq = 0; g_claimed = 0; g_n = 0 }
}

/* Behind the lock. */
inline give_up_the_next()
{
	if
	:: has_next ->
		atomic { used[next] = false; has_next = false; next = 0 }
#ifndef BUG_EMPTY_BLOCK_STAYS_COUNTED
		finish()
#endif
	:: !has_next
	fi
}

inline take_partial()
{
#ifndef BUG_PARTIAL_BLOCK_TAKEN_WITHOUT_ITS_LOCK
	lock_partial();
#endif
	atomic {
		found = there;
		w = partial;
		there = false;
		partial = 0;
	}
#ifndef BUG_PARTIAL_BLOCK_TAKEN_WITHOUT_ITS_LOCK
	unlock_partial()
#endif
}

/* ----------------------------------------------------------------- producer */

inline open_block()
{
	get_block(b);
	n = 0;
	block = b;
	atomic { seq++; claimed = 0; is_open = true }
}

inline close_block()
{
#ifndef BUG_COUNTED_AFTER_THE_CLOSE
	unfinished++;
#endif
	/* the closing step */
	atomic { is_open = false; begin[b] = claimed; end_of[b] = n }
#ifdef BUG_COUNTED_AFTER_THE_CLOSE
	unfinished++;
#endif
#ifdef BUG_CLOSE_PUBLISHES_WHAT_IS_CLAIMED
	begin[b] = 0;
#endif
	if
	:: begin[b] == end_of[b] ->
		used[b] = false;
		finish()
	:: else ->
		waiting!b;
#ifndef BUG_PUBLISHED_WITHOUT_A_WAKE
		if
		:: stop -> wake()
		:: else
		fi
#endif
	fi
}

/* In `refused` */
inline retract()
{
	n = i;
	atomic { s_claimed = claimed; s_seq = seq }
	do
	::
#ifndef BUG_RETRACT_OF_A_CLAIMED_CALLBACK
		if
		:: s_claimed > i -> n = i + 1; refused = false; break
		:: else
		fi;
#endif
		atomic {
			if
			:: claimed == s_claimed && seq == s_seq ->
#ifndef BUG_RETRACT_WITHOUT_SEQ
				seq++;
#endif
				refused = true;
				break
			:: else -> s_claimed = claimed; s_seq = seq
			fi
		}
	od;
	atomic { s_claimed = 0; s_seq = 0 }
}

active proctype producer()
{
	byte c, i, b, s_claimed, s_seq;
	byte to, from, next, g_seq, g_claimed, g_n, fit, j;
	bool refused, last, g_open, mine, has_next;

	do
	:: c == CALLBACKS -> break
	:: else ->
		if
		:: !is_open ->
			if
			:: closed -> refused = true
			:: else -> open_block()
			fi
		:: else
		fi;
		if
		:: refused
		:: else ->
			atomic { i = n; slots[b * SLOTS + i] = c }
			n = i + 1;
			if
			:: closed -> retract()
			:: else
			fi;
			if
			:: refused -> close_block()
			:: else ->
				accepted = accepted | (1 << c);
				if
				:: n == SLOTS -> close_block()
				:: n < SLOTS
				:: n < SLOTS -> close_block()	/* cq_producer_flush of many */
				:: n < SLOTS ->			/* of few */
					join();
					give_up_the_next();
#ifndef BUG_JOIN_WAKES_NOBODY
					if
					:: stop -> wake()
					:: else
					fi
#endif
				fi
			fi
		fi;
		atomic { refused = false; i = 0; c++ }
	od;
	enqueued = true
}

/* ---------------------------------------------------------------- a collector */

active [COLLECTORS] proctype collector()
{
	byte to, from, next, g_seq, g_claimed, g_n, fit, j;
	bool g_open, last, mine, has_next;

	lock();
	if
	:: sealed
	:: else -> join()
	fi;
	unlock();
	give_up_the_next();
	flushed++
}

/* -------------------------------------------------------------------- runs: run.c */

active proctype worker()
{
	byte w;
	bool last, found;

end:	do
	:: !stop && (nempty(waiting) || there) ->
		if
		:: waiting?w
		:: empty(waiting) ->
			take_partial();
			if
			:: !found -> goto end
			:: found -> found = false
			fi
		fi;
		do
		:: !stop && begin[w] < end_of[w] ->
			atomic {
				run_one(slots[w * SLOTS + begin[w]]);
				begin[w] = begin[w] + 1
			}
		:: else -> break
		od;
		/* cq_block_give_up */
		if
		:: begin[w] < end_of[w] ->
			waiting!w;
#ifndef BUG_REST_WAKES_NOBODY
			if
			:: stop -> wake()
			:: else
			fi
#endif
		:: else -> used[w] = false; finish()
		fi;
		w = 0
	od
}

/* ----------------------------------------------------------------- shutdown */

inline seal()
{
#ifndef BUG_COLLECTING_AFTER_THE_SEAL
	sealed = true
#else
	skip
#endif
}

inline give(b)
{
	do
	:: begin[b] < end_of[b] ->
		atomic {
			run_one(slots[b * SLOTS + begin[b]]);
			begin[b] = begin[b] + 1
		}
	:: else -> break
	od;
	used[b] = false
}

#ifndef BUG_HAND_BACK_FORGETS_THE_PARTIAL_BLOCK
#define THERE there
#else
#define THERE false
#endif

/* Without its wait. What is claimed lies in a block here, which is not counted. */
inline hand_back()
{
	do
	:: waiting?to -> give(to); finish()
	:: empty(waiting) -> break
	od;
#ifndef BUG_HAND_BACK_FORGETS_THE_PARTIAL_BLOCK
	if
	:: there ->
		take_partial();
		if
		:: found -> give(w); finish()
		:: !found
		fi;
		atomic { found = false; w = 0 }
	:: !there
	fi;
#endif
	do
	::
		lock();
		get_block(to);
		do
		::
			look();
			if
			:: g_n <= g_claimed -> break
			:: else -> claim()
			fi;
			if
			:: end_of[to] != 0 -> break
			:: else
			fi
		od;
		found = (end_of[to] != 0);
		if
		:: !found -> seal()
		:: found
		fi;
		unlock();
		give(to);
		if
		:: !found -> break
		:: found -> found = false
		fi
	od;
	atomic { to = 0; from = 0; g_open = false; g_seq = 0; g_claimed = 0; g_n = 0 }
}

active proctype shutdown()
{
	byte to, from, next, g_seq, g_claimed, g_n, fit, j, w;
	bool g_open, last, found, mine, has_next;

	closed = true;		/* and cq_producers_see: fences.pml */
#if DRAIN
	lock();
#ifndef BUG_SHUTDOWN_DROPS_WHAT_IS_UNPUBLISHED
	join();
#endif
	seal();
	unlock();
	give_up_the_next();
	unfinished == 0;
#else
	stop = true;
	do
	::
#ifndef BUG_SHUTDOWN_DROPS_WHAT_IS_UNPUBLISHED
		hand_back();
#else
		do
		:: waiting?to -> give(to); finish()
		:: empty(waiting) -> break
		od;
#endif
#ifdef BUG_HAND_BACK_IGNORES_UNFINISHED_BLOCKS
		break;
#endif
#ifndef BUG_LOOKS_BEFORE_IT_PREPARES
		atomic { waits = true; woken = false }
#endif
		if
		:: unfinished == 0 -> break
		:: nempty(waiting) || THERE
		:: unfinished != 0 && empty(waiting) && !THERE ->
#ifdef BUG_LOOKS_BEFORE_IT_PREPARES
			atomic { waits = true; woken = false }
#endif
			woken
		fi;
		waits = false
	od;
#endif
	finished = true
}

/* --------------------------------------------------------------- properties */

/* When the producer has made its last enqueue and the shutdown has returned; and nothing keeps the queue from
   being destroyed. */
active proctype properties()
{
	atomic {
		enqueued && finished && flushed == COLLECTORS ->
		assert(accepted == ran && unfinished == 0 && !there && empty(waiting))
	}
}
