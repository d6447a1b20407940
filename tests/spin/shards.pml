/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A queue with two shards (src/cleanup/blocks.c, run.c, shards.c): each has two stacks, page is the queue's. Who looks for a block takes from all, out of others two at a time, of which one waits at its own
 * shard then. The partial block, pushed by a flip, goes to its home. Workers come for the signalled task: pool.pml.
 * A step of a look is one stack, or of a scan one shard: blocks move behind its back. A run may go on with a second piece, without a scan.
 *
 *   HANGS: one callback hangs, whichever, or none. All others run. And with it
 *       TWO:     the first publishes two, so that there is something to steal; the second shard is added meanwhile; no flips
 *       PARTIAL: one callback is flushed
 *       THREE:   and to three shards: a worker of the second, whose block it joins; the other, of the first, finds two more
 *                at its own. Who looks at the third finds that the time has come
 *       TICK:    a run publishes one in the last tick, and a full block waits for that, both without a signal; no flips
 *   NEAR, FAR, ONE: full blocks come without end, the next as one is taken: two in the worker's shard, two in the other, one
 *       in the worker's. A block that was in the other before is run all the same. Time has always passed. In NEAR
 *       by flips alone: the worker begins at its own shard each time.
 *   DRAIN: what was counted before a drain has been finished when it returns; and it returns.
 *
 *   holds short safety   HANGS TWO
 *   holds short safety   HANGS PARTIAL
 *   holds short safety   HANGS PARTIAL THREE
 *   holds short safety   HANGS TICK
 *   holds short progress NEAR
 *   holds short progress FAR
 *   holds short progress ONE
 *   holds short safety   DRAIN
 *
 *   fails short deadlock  HANGS TWO BUG_LOOKS_AT_ITS_OWN_SHARD
 *   fails short deadlock  HANGS TWO BUG_SCANS_ITS_OWN_SHARD
 *   fails short deadlock  HANGS TWO BUG_NUMBER_IS_READ_BEFORE_IN_IS_CLEARED
 *   fails short deadlock  HANGS TWO BUG_THIEF_SIGNALS_NOTHING
 *   fails short deadlock  HANGS TWO BUG_NO_SCAN
 *   fails short deadlock  HANGS TWO BUG_SCANS_BEFORE_IN_IS_CLEARED
 *   fails short assertion HANGS TWO BUG_NUMBER_BEFORE_THE_SHARD
 *   fails short deadlock  HANGS PARTIAL BUG_FLIP_SIGNALS_NOTHING
 *   fails short deadlock  HANGS PARTIAL BUG_MOVER_LOOKS_ONCE
 *   fails short deadlock  HANGS PARTIAL THREE BUG_MOVER_FORGETS_WHAT_IT_MOVED
 *   fails short deadlock  HANGS TICK BUG_NO_SCAN_BEHIND_A_TICK
 *   fails short cycle     NEAR BUG_FLIPS_OVER_ANOTHER_SHARD
 *   fails short cycle     FAR BUG_ONLY_ITS_OWN_SHARD_IS_A_REASON
 *   fails short cycle     ONE BUG_BEGINS_AT_ITS_OWN_SHARD
 *   fails short assertion DRAIN BUG_FINISHED_WHERE_IT_RAN
 *   fails short deadlock  DRAIN BUG_ONLY_ITS_OWN_COUNT_WAKES
 */
#define A 1	/* of the first shard */
#define B 2
#define C 4	/* of the second, if there is one */
#define P 8	/* the partial block, or a tick's */

#ifdef HANGS
#define WORKERS 2
#else
#define WORKERS 1
#endif

#define NO_TICK 0
#define ARMED 1
#define MADE 2

#ifdef THREE
#define NSHARDS 3
#else
#define NSHARDS 2
#endif

chan waiting[2 * NSHARDS] = [4] of { byte };
#define W(shard, stack) waiting[2 * (shard) + (stack)]
bit page;
#ifdef TWO
bool made;		/* the pointer */
byte shards = 1;
#else
bool made = true;
byte shards = NSHARDS;
#endif
/* The partial block; each use of it is one step, for its lock. */
bool there;
bit home;
/* The task: IN, and records in the pool's stacks */
bool in;
byte records;
byte ticking = ARMED;
bool timed = true;

/* What the library doesn't have. */
byte ran, hung;

#ifndef DRAIN

/* cq_task_signal, cq_run_more */
inline signal()
{
	atomic {
		if
		:: !in -> in = true; records++
		:: in
		fi
	}
}

/* ----------------------------------------------------------- who publishes */

#ifdef HANGS

#ifdef TWO
active proctype grower()
{
#ifdef BUG_NUMBER_BEFORE_THE_SHARD
	shards = 2;
	made = true
#else
	made = true;
	shards = 2
#endif
}
#endif

inline push(shard, b)
{
	newer = page;
	assert(shard == 0 || made);
	atomic { W(shard, newer)!b; newer = 0 };
	signal()
}

active proctype first()
{
	bit newer;

	push(0, A);
#if defined(TWO) || defined(THREE)
	push(0, B);
#endif
}

#ifndef THREE
active proctype second()
{
	bit newer, mine;

	mine = (shards == 2);
#ifdef TICK
	newer = page;
	W(mine, newer)!C;
	if	/* it waits for the tick, or there is none */
	:: ticking == NO_TICK -> signal()
	:: else
	fi
#else
	push(mine, C)
#endif
}
#endif

/* Its block may have come from either. */
inline join()
{
	atomic {
		if
#ifndef THREE
		:: home = 0
#endif
		:: shards > 1 -> home = 1
		fi;
		there = true
	}
}

#ifdef PARTIAL
active proctype flusher()
{
	join();
	signal()
}
#endif

#ifdef TICK
active proctype clock()
{
	timed = false;
	signal()
}
#endif

#else
init
{
	W(1, 0)!P;
#ifndef FAR
	W(0, 0)!A;
#endif
#ifdef NEAR
	W(0, 0)!A;
#endif
#ifdef FAR
	W(1, 0)!A;
#endif
	atomic { in = true; records = 1 }
}
#endif

/* ----------------------------------------------------------------- workers */

/* take_of: any of a stack's; a thief may take two. What is left of the stack is seen by the take. */
inline take_of(shard, stack)
{
	assert(shard == 0 || made);
	atomic {
		if
		:: W(shard, stack)?b
		:: len(W(shard, stack)) > 1 -> W(shard, stack)?y; W(shard, stack)?b; W(shard, stack)!y; y = 0
		:: len(W(shard, stack)) > 2 -> W(shard, stack)?y; W(shard, stack)!y; W(shard, stack)?y;
			W(shard, stack)!y; W(shard, stack)?b; y = 0
		:: empty(W(shard, stack))
		fi;
		if
		:: b != 0 ->
			left = left || nempty(W(shard, stack));
#ifdef HANGS
			if
			:: shard != mine && nempty(W(shard, stack)) -> W(shard, stack)?more
			:: true
			fi
#else
			if	/* the next one comes */
			:: b == A -> W(shard, page)!A
			:: else
			fi
#endif
		:: else
		fi
	}
	if
	:: more != 0 ->
		atomic {
			W(mine, stack)!more;
#ifdef BUG_THIEF_SIGNALS_NOTHING
			left = nempty(W(shard, stack));
#else
			left = true;
#endif
			more = 0
		}
	:: more == 0
	fi
}

/* The older are empty, and the newer become that. */
inline flip()
{
	atomic {
		if
		:: there ->
			W(home, page)!P;
#ifndef BUG_FLIP_SIGNALS_NOTHING
			left = true;
#endif
			there = false;
			home = 0
		:: !there
		fi
	}
	atomic {
		if
		:: page != older -> page = older
		:: page == older	/* another was faster */
		fi
	}
}

#if defined(TWO) || defined(TICK)
#define REASON false
#elif defined(THREE)
#define REASON (i == 2 && there)
#elif defined(BUG_ONLY_ITS_OWN_SHARD_IS_A_REASON)
#define REASON (i == mine && (len(W(i, older ^ 1)) > 1 || there))
#else
#define REASON (len(W(i, older ^ 1)) > 1 || there)
#endif

inline take_from()
{
	older = page ^ 1;
	take_of(i, older);
	if
	:: b == 0 && REASON ->
#ifdef BUG_FLIPS_OVER_ANOTHER_SHARD
		flip()
#else
		take_of(0, older);
		if
		:: b == 0 && n > 1 -> take_of(1, older)
		:: else
		fi;
#ifdef THREE
		if
		:: b == 0 -> take_of(2, older)
		:: b != 0
		fi;
#endif
		if
		:: b == 0 -> flip()
		:: b != 0
		fi
#endif
#ifdef HANGS
	:: true	/* they are young */
#endif
	:: else
	fi;
	if
	:: b == 0 -> take_of(i, older ^ 1)
	:: b != 0
	fi;
	older = 0
}

#ifdef BUG_NUMBER_IS_READ_BEFORE_IN_IS_CLEARED
#define NUMBER skip
#else
#define NUMBER n = shards
#endif

/* cq_blocks_take, in b. The other shard first: now and then; here, each other time. */
inline take()
{
	NUMBER;
	mine = (n > 1 && _pid % 2 == 1);
#ifndef HANGS
	mine = 0;
#endif
	i = mine;
#ifdef ONE
#ifndef BUG_BEGINS_AT_ITS_OWN_SHARD
	turn = 1 - turn;
	i = turn;
#endif
#endif
	do
	:: left = false;
		take_from();
#ifndef BUG_LOOKS_AT_ITS_OWN_SHARD
		if
		:: b == 0 && n > 1 -> i = (i + 1) % n; take_from()
		:: else
		fi;
#ifdef THREE
		if
		:: b == 0 -> i = (i + 1) % n; take_from()
		:: b != 0
		fi;
#endif
#endif
#ifdef BUG_MOVER_LOOKS_ONCE
		break
#else
		if
		:: b == 0 && left -> i = mine; moved = true	/* to where it has looked */
		:: else -> break
		fi
#endif
	od;
	atomic {
#ifndef BUG_MOVER_FORGETS_WHAT_IT_MOVED
		left = left || moved;	/* what is found in its place may be another */
#endif
		moved = false;
		if
		:: b == 0 && there -> b = P; there = false; home = 0
		:: else
		fi;
		i = 0
	}
}

/* cq_blocks_waiting */
inline scan()
{
	NUMBER;
	left = there;
#ifdef BUG_SCANS_ITS_OWN_SHARD
	left = left || nempty(W(mine, 0)) || nempty(W(mine, 1))
#else
	left = left || nempty(W(0, 0)) || nempty(W(0, 1));
	if
	:: n > 1 ->
		left = left || nempty(W(1, 0)) || nempty(W(1, 1));
#ifdef THREE
		left = left || nempty(W(2, 0)) || nempty(W(2, 1))
#endif
	:: n == 1
	fi
#endif
}

inline tick()
{
	atomic {
		if
		:: ticking == ARMED && !timed -> ticking = MADE; y = 1
		:: else
		fi
	}
	if
	:: y == 1 ->
		y = 0;
		join();
		ticking = NO_TICK;
#ifndef BUG_NO_SCAN_BEHIND_A_TICK
		scans = true
#endif
	:: y == 0
	fi
}

inline run_block()
{
	if
#ifdef HANGS
	:: atomic { hung == 0 -> hung = b; b = 0; n = 1; mine = 0; scans = false };
end_hung:	false
	:: ran = ran | b
#else
	:: b == P ->
progress:	W(1, page)!P
	:: b != P
#endif
	fi;
	b = 0
}

active [WORKERS] proctype worker()
{
	byte b, more, y, n = 1, i;
	bit mine, older, turn;
	bool left, moved, scans;

end:	do
	:: atomic { records > 0 -> records-- };
#ifdef BUG_NUMBER_IS_READ_BEFORE_IN_IS_CLEARED
		n = shards;
#endif
#ifdef BUG_SCANS_BEFORE_IN_IS_CLEARED
		scan();
		y = left;
#endif
		in = false;
		scans = true;
		do
		:: true ->
#ifdef TICK
			tick();
#endif
			take();
			if
			:: b == 0 -> break
			:: b != 0
			fi;
#ifdef BUG_SCANS_BEFORE_IN_IS_CLEARED
			left = left || y;
			y = 0;
#elif !defined(BUG_NO_SCAN)
			if
			:: !left && scans -> scan()
			:: else
			fi;
#endif
			scans = false;
			if
			:: left -> signal()
			:: !left
			fi;
			left = false;
			run_block();
#ifdef HANGS
			if
			:: true
			:: break
			fi
#endif
		od;
		atomic { n = 1; mine = 0; scans = false }
	od
}

#ifdef HANGS
#ifdef TWO
#define ALL (A | B | C)
#elif defined(THREE)
#define ALL (A | B | P)
#else
#define ALL (A | C | P)
#endif
active proctype properties()
{
	(ran | hung) == ALL
}
#endif

#else /* ------------------------------------------------------------------- DRAIN */

/* Each shard's count of unfinished blocks, of one epoch. Blocks that come meanwhile are counted in the same: late ones. */
short count[2];
bool waits, woken, returned;
chan blocks = [3] of { byte };	/* wherever they wait */

/* Drains are woken by who lowers a count to 0. */
active [2] proctype worker()
{
	byte b;
	bool y;

end:	do
	:: blocks?b ->
		ran = ran | b;
#ifdef BUG_FINISHED_WHERE_IT_RAN
		count[_pid % 2]--;
		woken = true;
#else
		atomic {
			count[b == C]--;
#ifdef BUG_ONLY_ITS_OWN_COUNT_WAKES
			y = (count[b == C] == 0 && b != C)
#else
			y = (count[b == C] == 0)
#endif
		};
		if
		:: y && waits -> woken = true
		:: else
		fi;
#endif
		b = 0
	od
}

active proctype others()
{
	count[0]++;
	blocks!B
}

active proctype drain()
{
	short sum;

	atomic { count[0]++; blocks!A };
	atomic { count[1]++; blocks!C };
	do
	:: waits = true;
		woken = false;
		sum = (count[0]);
#ifdef BUG_FINISHED_WHERE_IT_RAN
		sum = sum + count[1];
#else
		if
		:: sum == 0 -> sum = count[1]
		:: else
		fi;
#endif
		if
		:: sum == 0 -> break
		:: else -> woken
		fi
	od;
	assert((ran & (A | C)) == (A | C))
}
#endif
