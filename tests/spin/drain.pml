/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain (src/cleanup/drain.c) beside producers, a collector and a worker: the counts of
 * unfinished blocks of two epochs. A block holds two callbacks, and a callback is a bit, so that
 * a drain knows which of them came before it. How a claim is made is in shutdown.pml: it is one
 * step here. Which stack a block waits in has no part in it: the worker takes any. That
 * nobody may be there to run blocks is in pool.pml.
 *
 *   holds short safety CALLBACKS=2 DRAINS=1 DETACH
 *   holds short safety CALLBACKS=1 DRAINS=2 COLLECTORS=0
 *   holds short safety PRODUCERS=2 CALLBACKS=1 DRAINS=1 COLLECTORS=0
 *   holds full  safety CALLBACKS=3 DRAINS=1
 *   holds full  safety CALLBACKS=1 DRAINS=2
 *   holds full  safety CALLBACKS=2 DRAINS=2
 *   holds full  safety PRODUCERS=2 CALLBACKS=1 DRAINS=1 DETACH
 *
 *   fails short assertion BUG_COUNTED_AFTER_THE_CLOSE
 *   fails short assertion BUG_CLAIMED_BEFORE_IT_IS_COUNTED
 *   fails short assertion BUG_PARTIAL_BLOCK_COUNTED_WHEN_TAKEN
 *   fails short assertion BUG_DRAIN_WITHOUT_ITS_OWN_COLLECTION
 *   fails short assertion COLLECTORS=0 BFS BUG_EPOCH_ADVANCED_TOO_EARLY
 *   fails short assertion BUG_NEXT_EPOCH_IS_ENOUGH
 *   fails short assertion BUG_FINISHED_BEFORE_THE_RUN
 *   fails short deadlock  BUG_EMPTY_BLOCK_STAYS_COUNTED
 *   fails short deadlock  BUG_COUNTED_WHENEVER_SOME_JOIN
 *   fails short deadlock  BUG_LOOKS_BEFORE_IT_PREPARES
 */
#ifdef BUG_EPOCH_ADVANCED_TOO_EARLY
#define DRAINS 2
#endif

#ifndef PRODUCERS
#define PRODUCERS 1
#endif
#ifndef CALLBACKS	/* of each producer */
#define CALLBACKS 2
#endif
#ifndef DRAINS		/* threads that drain once */
#define DRAINS 1
#endif
#ifndef COLLECTORS	/* threads that flush once: cq_cleanup_flush */
#define COLLECTORS 1
#endif

#define SLOTS 2

byte epoch, unfinished[2];
bool lock_held;
/* Each producer's open block: the set of what is written and not claimed, and how much was written */
bool is_open[PRODUCERS];
byte block[PRODUCERS], written[PRODUCERS];
chan waiting = [PRODUCERS * CALLBACKS] of { bit, byte };
/* The partial block: is there one, and what it holds; under its own lock */
bool partial_held, there;
bit partial_parity;
byte partial;
/* the event count `drains` */
byte waiters, wakes;

/* What the library doesn't have, for the properties. */
byte accepted, ran;

inline lock() { atomic { !lock_held -> lock_held = true } }
inline unlock() { lock_held = false }
inline lock_partial() { atomic { !partial_held -> partial_held = true } }
inline unlock_partial() { partial_held = false }

/* cq_drains_wake: whoever has prepared looks again. Its hold of the set's lock is one step. */
inline wake()
{
	atomic {
		if
		:: waiters != 0 -> wakes++
		:: else
		fi
	}
}

/* cq_block_give_up */
inline finish(which)
{
	atomic { unfinished[which] = unfinished[which] - 1; last = (unfinished[which] == 0) }
	if
	:: last -> wake()
	:: else
	fi;
	last = false
}

/* ------------------------------------------------------------- joining: collect.c */

/* The claim fails if the owner has closed the block meanwhile. */
inline claim(i)
{
	atomic {
		if
		:: is_open[i] -> got = block[i]; block[i] = 0
		:: else
		fi
	}
}

/*
 * What producer i has in its open block joins the partial one, or the next one: by whoever flushes. The next is counted
 * before the claim, and seen to wait behind it; one that no claim filled is counted no more.
 */
inline join(i)
{
	if
	:: is_open[i] && block[i] != 0 ->
		lock_partial();
		if
		:: there -> claim(i)
		:: !there ->
			parity = epoch % 2;	/* others may advance it meanwhile */
#if defined(BUG_CLAIMED_BEFORE_IT_IS_COUNTED)
			claim(i);
			unfinished[parity] = unfinished[parity] + 1;
#elif defined(BUG_PARTIAL_BLOCK_COUNTED_WHEN_TAKEN)
			claim(i);
#else
			unfinished[parity] = unfinished[parity] + 1;
			claim(i);
#endif
			atomic {
				there = (got != 0);
				partial_parity = parity;
				counted = !there
			}
		fi;
#ifdef BUG_COUNTED_WHENEVER_SOME_JOIN
		unfinished[partial_parity] = unfinished[partial_parity] + 1;
#endif
		atomic { partial = partial | got; got = 0; unlock_partial() }
#if !defined(BUG_EMPTY_BLOCK_STAYS_COUNTED) && !defined(BUG_PARTIAL_BLOCK_COUNTED_WHEN_TAKEN)
		if
		:: counted -> finish(parity)
		:: !counted
		fi;
#endif
		atomic { parity = 0; counted = false }
	:: else
	fi
}

/* ----------------------------------------------------------- producers: producer.c */

inline close_block()
{
	parity = epoch % 2;
#ifndef BUG_COUNTED_AFTER_THE_CLOSE
	unfinished[parity] = unfinished[parity] + 1;
#endif
	/* the closing step */
	atomic { is_open[me] = false; set = block[me]; block[me] = 0; written[me] = 0 }
#ifdef BUG_COUNTED_AFTER_THE_CLOSE
	unfinished[parity] = unfinished[parity] + 1;
#endif
	if
	:: set != 0 -> waiting!parity,set
	:: else ->
#ifndef BUG_EMPTY_BLOCK_STAYS_COUNTED
		finish(parity)
#else
		skip
#endif
	fi;
	atomic { set = 0; parity = 0 }
}

active [PRODUCERS] proctype producer()
{
	byte me = _pid, set, done, got;
	bit parity;
	bool last, counted;

	do
	:: done == CALLBACKS -> break
	:: done < CALLBACKS ->
		/* open, if it is not, and enqueue */
		atomic {
			is_open[me] = true;
			block[me] = block[me] | (1 << (me * CALLBACKS + done));
			accepted = accepted | (1 << (me * CALLBACKS + done));
			written[me] = written[me] + 1;
			done++
		}
		if
		:: written[me] == SLOTS -> close_block()
		:: written[me] < SLOTS
		:: written[me] < SLOTS -> close_block()	/* cq_producer_flush of many */
		:: written[me] < SLOTS -> join(me)	/* of few; or, with what follows, detach */
		fi
	od;
#ifdef DETACH
	if
	:: is_open[me] -> close_block()
	:: else
	fi
#endif
}

/* ------------------------------------------------------------------- worker */

inline run_block()
{
#ifdef BUG_FINISHED_BEFORE_THE_RUN
	finish(parity);
	ran = ran | set;
#else
	ran = ran | set;
	finish(parity);
#endif
	atomic { set = 0; parity = 0 }
}

active proctype worker()
{
	byte set;
	bit parity;
	bool last;

end:	do
	:: waiting?parity,set -> run_block()
	:: there ->
		lock_partial();
		if
		:: there ->
			atomic {
				parity = partial_parity;
				set = partial;
				there = false;
				partial = 0;
				partial_parity = 0;
				unlock_partial()
			}
#ifdef BUG_PARTIAL_BLOCK_COUNTED_WHEN_TAKEN
			unfinished[parity] = unfinished[parity] + 1;
#endif
			run_block()
		:: !there -> unlock_partial()
		fi
	od
}

/* --------------------------------------------------------- collectors: collect.c */

/* Under the lock. */
inline cq_collect()
{
	i = 0;
	do
	:: i < PRODUCERS -> join(i); i++
	:: else -> break
	od;
	i = 0
}

active [COLLECTORS] proctype collector()
{
	byte i, got;
	bit parity;
	bool last, counted;

	lock();
	cq_collect();
	unlock()
}

/* ------------------------------------------------------------------- drains */

/* In `yes` */
inline drained()
{
	lock();
	if
	:: epoch == mine ->
#ifdef BUG_EPOCH_ADVANCED_TOO_EARLY
		epoch = mine + 1
#else
		if
		:: unfinished[(mine + 1) % 2] == 0 -> epoch = mine + 1
		:: else
		fi
#endif
	:: else
	fi;
#ifdef BUG_NEXT_EPOCH_IS_ENOUGH
	yes = (epoch >= mine + 1);
#else
	if
	:: epoch >= mine + 2 -> yes = true
	:: epoch == mine + 1 -> yes = (unfinished[mine % 2] == 0)
	:: else
	fi;
#endif
	unlock()
}

active [DRAINS] proctype drain()
{
	byte before, mine, i, seen, got;
	bit parity;
	bool yes, last, counted;

	before = accepted;
	lock();
	mine = epoch;
#ifndef BUG_DRAIN_WITHOUT_ITS_OWN_COLLECTION
	cq_collect();
#endif
	unlock();
	do
	:: yes -> break
	:: else ->
#ifdef BUG_LOOKS_BEFORE_IT_PREPARES
		drained();
		atomic { waiters++; seen = wakes };
#else
		atomic { waiters++; seen = wakes };
		drained();
#endif
		if
		:: yes
		:: else -> wakes != seen	/* commit_wait */
		fi;
		waiters--
	od;
	/* All that was enqueued before the call has run. */
	assert((before & ~ran) == 0)
}
