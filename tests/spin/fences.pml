/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Is each fence of the handshakes needed? The other models let every thread see
 * every store at once. Here what a thread stores, or adds, waits in a buffer of its
 * own until it reaches memory, at any time; with WEAK not even in order. A full
 * fence waits for the buffer.
 *
 * Without an option: the handshake that doc/memory-order has at its top, which all
 * six of its pairs are; the names are those of the first, publisher and sleeper.
 * With MEMBARRIER the publisher is an enqueue, which has program order only, and
 * the sleeper the shutdown or the idle worker that executes a heavy barrier. With
 * LINK_COUNT the two halves of a push, and W1.
 *
 *   holds short safety
 *   holds short safety MEMBARRIER
 *   holds short safety LINK_COUNT
 *   holds short safety LINK_COUNT WEAK
 *
 *   fails short assertion BUG_NO_FENCE_OF_THE_PUBLISHER
 *   fails short assertion BUG_NO_FENCE_OF_THE_SLEEPER
 *   fails short assertion MEMBARRIER BUG_NO_HEAVY_BARRIER
 *   fails short assertion MEMBARRIER BUG_BARRIER_OF_ONE_SIDE
 *   fails short assertion LINK_COUNT WEAK BUG_NO_RELEASE_IN_ADD_WORK
 */

#define ROUNDS 3

/* What the publisher stores (LINK_COUNT: links), and what the sleeper (counts) */
#define HOT 0			/* units, executed, n */
#define COLD 1			/* asleep, coming, live, gate */

byte memory[2];			/* counts of changes */
byte buffered_hot[2];		/* of the hot side: of HOT, of COLD */
byte buffered_cold[2];

/* One buffered change reaches memory. */
#ifdef WEAK
#define may_drain(buffer, v) (buffer[v] > 0)
#else
#define may_drain(buffer, v) (buffer[v] > 0 && (v == HOT || buffer[HOT] == 0))
#endif

active proctype buffer_of_publisher()
{
end:	do
	:: atomic { may_drain(buffered_hot, HOT) -> buffered_hot[HOT]--; memory[HOT]++ }
	:: atomic { may_drain(buffered_hot, COLD) -> buffered_hot[COLD]--; memory[COLD]++ }
	od
}

active proctype buffer_of_sleeper()
{
end:	do
	:: atomic { buffered_cold[COLD] > 0 -> buffered_cold[COLD]--; memory[COLD]++ }
	od
}

#define fence_full(buffer) (buffer[HOT] == 0 && buffer[COLD] == 0)

#ifndef LINK_COUNT

/* In each round each side makes one change, then reads the other's. */
bool hot_missed[ROUNDS], cold_missed[ROUNDS];
byte hot_round, cold_round;

active proctype publisher()
{
	do
	:: hot_round == ROUNDS -> break
	:: else ->
		(hot_round <= cold_round);
		buffered_hot[HOT]++;
#if !defined(MEMBARRIER) && !defined(BUG_NO_FENCE_OF_THE_PUBLISHER)
		fence_full(buffered_hot);
#endif
		hot_missed[hot_round] = memory[COLD] <= hot_round;
		hot_round++
	od
}

active proctype sleeper()
{
	do
	:: cold_round == ROUNDS -> break
	:: else ->
		(cold_round <= hot_round);
		buffered_cold[COLD]++;
#if !defined(BUG_NO_FENCE_OF_THE_SLEEPER) && !defined(BUG_NO_HEAVY_BARRIER)
		fence_full(buffered_cold);
#if defined(MEMBARRIER) && !defined(BUG_BARRIER_OF_ONE_SIDE)
		fence_full(buffered_hot);	/* every thread executes one */
#endif
#endif
		cold_missed[cold_round] = memory[HOT] <= cold_round;
		cold_round++
	od
}

#define both_missed(r) (hot_round > r && cold_round > r && hot_missed[r] && cold_missed[r])

active proctype properties()
{
end:	atomic {
		both_missed(0) || both_missed(1) || both_missed(2) ->
		assert(false)
	}
}

#else /* LINK_COUNT: W1, with release between the two */

active proctype publisher()
{
	byte round;

	do
	:: round == ROUNDS -> break
	:: else ->
		buffered_hot[HOT]++;		/* cq_workq_link */
#ifndef BUG_NO_RELEASE_IN_ADD_WORK
		buffered_hot[HOT] == 0;		/* cq_fence_release: stores before stores */
#endif
		buffered_hot[COLD]++;		/* cq_workq_add_work */
		round++
	od
}

active proctype properties()
{
end:	atomic { memory[COLD] > memory[HOT] -> assert(false) }
}

#endif
