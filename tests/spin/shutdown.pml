/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Claim, retract, close (src/cleanup/collect.c, producer.c) and shutdown (drain.c): one
 * producer, a collector beside it, a run, and a shutdown. Blocks are reused, so a slow collector may
 * read one that has a new owner. Every callback must run or be handed back, once, if its enqueue
 * returned 0, and never if not; none when the shutdown has returned. The two epochs of
 * unfinished blocks are in drain.pml: one count here. n is the number of callbacks below `write`,
 * and each enqueue looks at `closed`, as in a queue whose limits are always NULL: that a limit
 * follows it, and spans, are for the model check (tests/model).
 *
 *   holds short safety CALLBACKS=2
 *   holds short safety CALLBACKS=2 DRAIN=1
 *   holds full  safety CALLBACKS=3
 *   holds full  safety CALLBACKS=3 DRAIN=1
 *
 *   fails short assertion BUG_CLAIM_WITHOUT_COMPARE
 *   fails short assertion BUG_CLAIM_WITHOUT_SEQ
 *   fails short assertion BUG_CLOSE_PUBLISHES_WHAT_IS_CLAIMED
 *   fails short assertion BUG_RETRACT_WITHOUT_SEQ
 *   fails short assertion BUG_RETRACT_OF_A_CLAIMED_CALLBACK
 *   fails short assertion BUG_SHUTDOWN_DROPS_WHAT_IS_UNPUBLISHED
 *   fails short assertion BUG_COLLECTING_AFTER_THE_SEAL
 *   fails short assertion BUG_COUNTED_AFTER_THE_CLOSE
 *   fails short assertion BUG_HAND_BACK_IGNORES_UNFINISHED_BLOCKS
 *   fails short deadlock  BUG_PUBLISHED_WITHOUT_A_WAKE
 *   fails short deadlock  BUG_REST_WAKES_NOBODY
 *   fails short deadlock  BUG_LOOKS_BEFORE_IT_PREPARES
 */
#ifndef CALLBACKS
#define CALLBACKS 2
#endif
#ifndef DRAIN		/* CQ_SHUTDOWN_DRAIN, else CQ_SHUTDOWN_HAND_BACK */
#define DRAIN 0
#endif

#define SLOTS 2
#define BLOCKS (CALLBACKS + 2)	/* each callback alone, one open, one being filled */

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
/* the event count `drains`, on which the shutdown alone sleeps */
bool waits, woken;

/* What the library doesn't have, for the properties. */
byte accepted, ran;		/* sets of callbacks; one that is handed back has run */
bool enqueued, finished;

inline lock() { atomic { !lock_held -> lock_held = true } }
inline unlock() { lock_held = false }

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
	bool refused, last;

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
				:: n < SLOTS -> close_block()	/* cq_producer_flush */
				fi
			fi
		fi;
		atomic { refused = false; i = 0; c++ }
	od;
	enqueued = true
}

/* --------------------------------------------------------- collectors: collect.c */

/* Under the lock: claims up to `fit` of what is open into the block `to`. fit 0: there is nothing. */
inline claim()
{
	do
	::
		atomic { g_open = is_open; g_seq = seq; g_claimed = claimed };
		atomic { from = block; fit = 0 };
		g_n = n;
		if
		:: !g_open || g_n <= g_claimed -> break
		:: else
		fi;
		fit = g_n - g_claimed;
		j = 0;
		do
		:: j < fit ->
			slots[to * SLOTS + j] = slots[from * SLOTS + g_claimed + j];
			j++
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
				end_of[to] = fit;
				break
			:: else
			fi
		}
	od;
	atomic { from = 0; g_open = false; g_seq = 0; g_claimed = 0; g_n = 0 }
}

/* cq_collect. What is written meanwhile is for another */
inline collect()
{
	get_block(to);
	unfinished++;
	claim();
	if
	:: fit == 0 -> used[to] = false; finish()
	:: else -> waiting!to
	fi;
	atomic { to = 0; fit = 0 }
}

active proctype collector()
{
	byte to, from, g_seq, g_claimed, g_n, fit, j;
	bool g_open, last;

	lock();
	if
	:: sealed
	:: else -> collect()
	fi;
	unlock()
}

/* -------------------------------------------------------------------- runs: run.c */

active proctype worker()
{
	byte w;
	bool last;

end:	do
	:: !stop && waiting?[_] ->
		if
		:: waiting?w
		:: empty(waiting) -> goto end
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

/* Without its wait. What is claimed lies in a block here, which is not counted. */
inline hand_back()
{
	do
	:: waiting?to -> give(to); finish()
	:: empty(waiting) -> break
	od;
	do
	::
		lock();
		get_block(to);
		claim();
		if
		:: fit == 0 -> seal()
		:: else
		fi;
		unlock();
		give(to);
		if
		:: fit == 0 -> break
		:: else
		fi
	od;
	atomic { to = 0; fit = 0 }
}

active proctype shutdown()
{
	byte to, from, g_seq, g_claimed, g_n, fit, j;
	bool g_open, last;

	closed = true;		/* and cq_producers_see: fences.pml */
#if DRAIN
	lock();
#ifndef BUG_SHUTDOWN_DROPS_WHAT_IS_UNPUBLISHED
	collect();
#endif
	seal();
	unlock();
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
		:: unfinished == 0 && empty(waiting) -> break
		:: nempty(waiting)
		:: unfinished != 0 && empty(waiting) ->
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

/* When the producer has made its last enqueue and the shutdown has returned. */
active proctype properties()
{
	atomic {
		enqueued && finished ->
		assert(accepted == ran)
	}
}
