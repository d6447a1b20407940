/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The gatherer's claims (src/cleanup/open.c, src/cleanup/gather.c) and shutdown (src/cleanup/drain.c):
 * one producer, a gatherer beside it (flush_all), a worker, and a shutdown. Blocks
 * are reused, so a slow gatherer may read one that has a new owner. Every callback
 * must run or be handed back, once, if its enqueue returned 0, and never if not.
 * How threads sleep, and the sums of a drain, are in sleepers.pml and drain.pml: here
 * a thread waits for what it waits for. n is the number of callbacks below `write`, and
 * each enqueue looks at the gate, as in a queue whose ends are always NULL: that an end
 * follows the gate, and spans, are for the model check (tests/model).
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
 *   fails short assertion BUG_GATHERING_AFTER_THE_LAST
 *   fails short assertion BUG_HAND_BACK_IGNORES_BLOCKS_IN_FLIGHT
 */
#ifndef CALLBACKS
#define CALLBACKS 3
#endif
#ifndef GATHERERS
#define GATHERERS 1
#endif
#ifndef DRAIN		/* CQ_SHUTDOWN_DRAIN, else CQ_SHUTDOWN_HAND_BACK */
#define DRAIN 0
#endif

#define SLOTS 2
#define BLOCKS (CALLBACKS + 2)	/* each callback alone, one open, one being filled */

bool closed_gate, stop, sealed, registry, worker_gone;
/* cq_producer_t */
mtype = { VOID, OPEN, CLOSED };
mtype phase = VOID;
byte seq, claimed;		/* state, with phase: one word */
byte n;
byte block;
/* Blocks, each with the callbacks that it was given by; free ones are not `used`. */
byte slots[BLOCKS * SLOTS];
byte begin[BLOCKS], end_of[BLOCKS];
bool used[BLOCKS];
chan queue = [BLOCKS] of { byte };	/* any order will do */
byte published, executed;		/* sums */

/* What the library doesn't have, for the properties. */
byte accepted, ran;		/* sets of callbacks */
bool finished;

inline lock() { atomic { !registry -> registry = true } }

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
	assert((ran & (1 << c)) == 0);
	ran = ran | (1 << c)
}

/* ----------------------------------------------------------------- producer */

inline open_block()
{
	get_block(b);
	n = 0;
	block = b;
	atomic { seq++; claimed = 0; phase = OPEN }
}

inline close_block()
{
	atomic { phase = CLOSED; s_claimed = claimed }
#ifdef BUG_CLOSE_PUBLISHES_WHAT_IS_CLAIMED
	s_claimed = 0;
#endif
	atomic { begin[b] = s_claimed; end_of[b] = n }
	published = published + n - s_claimed;
	atomic { claimed = 0; phase = VOID }
	if
	:: s_claimed == n -> used[b] = false	/* a spare */
	:: else -> queue!b
	fi;
	s_claimed = 0
}

/* In `refused` */
inline gated()
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
	bool refused;

	do
	:: c == CALLBACKS -> break
	:: else ->
		if
		:: phase == VOID ->
			if
			:: closed_gate -> refused = true
			:: else -> open_block()
			fi
		:: else
		fi;
		if
		:: refused
		:: else ->
			i = n;
			slots[b * SLOTS + i] = c;
			n = i + 1;
			if
			:: closed_gate -> gated()
			:: else
			fi;
			if
			:: refused
			:: else ->
				accepted = accepted | (1 << c);
				if
				:: n == SLOTS -> close_block()
				:: n < SLOTS
				fi
			fi
		fi;
		atomic { refused = false; i = 0; c++ }
	od
}

/* ---------------------------------------------------- gatherers: src/cleanup/gather.c */

/* With the registry lock held: claims what is open, into one block. */
inline cq_gather()
{
	get_block(to);
	do
	::
		atomic { g_phase = phase; g_seq = seq; g_claimed = claimed };
		if
		:: g_phase != OPEN -> break
		:: else
		fi;
		from = block;
		g_n = n;
		if
		:: g_n <= g_claimed -> break
		:: else
		fi;
		fit = (g_n - g_claimed < SLOTS - end_of[to] ->
			g_n - g_claimed : SLOTS - end_of[to]);
		if
		:: fit == 0 -> full_to(); get_block(to)
		:: else ->
			j = 0;
			do
			:: j < fit ->
				slots[to * SLOTS + end_of[to] + j] =
					slots[from * SLOTS + g_claimed + j];
				j++
			:: else -> break
			od;
			j = 0;
			atomic {
				if
#if defined(BUG_CLAIM_WITHOUT_COMPARE)
				:: true ->
#elif defined(BUG_CLAIM_WITHOUT_SEQ)
				:: phase == OPEN && claimed == g_claimed ->
#else
				:: phase == OPEN && seq == g_seq && claimed == g_claimed ->
#endif
					claimed = g_claimed + fit;
					end_of[to] = end_of[to] + fit
				:: else
				fi
			}
		fi
	od;
	full_to();
	atomic { to = 0; from = 0; g_phase = 0; g_seq = 0; g_claimed = 0; g_n = 0; fit = 0 }
}

/* Several blocks are one chain in the library, pushed at the end. */
inline full_to()
{
	if
	:: end_of[to] == 0 -> used[to] = false
	:: else -> published = published + end_of[to]; queue!to
	fi
}

active [GATHERERS] proctype gatherer()
{
	byte to, from, g_seq, g_claimed, g_n, fit, j;
	mtype g_phase;

	do
	:: finished -> break
	:: true ->
		lock();
		if
		:: sealed
		:: else -> cq_gather()
		fi;
		registry = false
	od
}

/* ------------------------------------------------------------------- worker */

active proctype worker()
{
	byte w, ran_here;

	do
	:: stop -> break
	:: queue?w ->
		do
		:: !stop && begin[w] < end_of[w] ->
			atomic {
				run_one(slots[w * SLOTS + begin[w]]);
				begin[w] = begin[w] + 1;
				ran_here++
			}
		:: else -> break
		od;
		executed = executed + ran_here;
		ran_here = 0;
		if
		:: begin[w] < end_of[w] -> queue!w	/* requeue */
		:: else -> used[w] = false
		fi
	od;
	worker_gone = true
}

/* ----------------------------------------------------------------- shutdown */

#define nothing_left (phase != CLOSED && executed == published)

inline seal()
{
	lock();
#ifndef BUG_SHUTDOWN_DROPS_WHAT_IS_UNPUBLISHED
	if
	:: sealed
	:: else -> cq_gather()
	fi;
#endif
#ifndef BUG_GATHERING_AFTER_THE_LAST
	sealed = true;
#endif
	registry = false
}

active proctype shutdown()
{
	byte to, from, g_seq, g_claimed, g_n, fit, j, w;
	mtype g_phase;

	closed_gate = true;	/* and cq_barrier_heavy: fences.pml */
	if
	:: DRAIN -> seal(); nothing_left
	:: else
	fi;
	stop = true;
	worker_gone;
	/* give_back_rest */
	seal();
	do
	:: queue?w ->
		do
		:: begin[w] < end_of[w] ->
			atomic {
				run_one(slots[w * SLOTS + begin[w]]);
				begin[w] = begin[w] + 1;
				executed = executed + 1
			}
		:: else -> break
		od;
		used[w] = false
#ifdef BUG_HAND_BACK_IGNORES_BLOCKS_IN_FLIGHT
	:: empty(queue) -> break
#else
	:: atomic { empty(queue) && nothing_left -> break }
#endif
	od;
	finished = true
}

/* --------------------------------------------------------------- properties */

/* When the producer has made its last enqueue and the shutdown has returned. */
active proctype properties()
{
	atomic {
		producer[0]:c == CALLBACKS && finished ->
		assert(accepted == ran)
	}
}
