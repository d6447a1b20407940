/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a forked child finds of blocks (src/cleanup/cleanup_fork.c): a producer that opens, fills and closes
 * blocks, two runs, of which one may put back a block that it has not finished, and a hand-back. The places
 * where the child looks are read in one step, in every state: the memory is of one instant. If they hold
 * as many blocks as `unfinished` counts, no block that holds something is elsewhere, and none is there twice.
 *
 *   holds short safety
 *   holds full  safety BLOCKS=3 TURNS=3
 *
 *   fails short assertion BUG_COUNTED_AFTER_THE_CLOSE
 *   fails short assertion BUG_HAND_KEPT_AFTER_THE_PUSH
 *   fails short assertion BUG_FINISHED_BEFORE_IT_LEAVES_THE_HAND
 *   fails short assertion BUG_FULL_IS_FOUND
 *   fails short assertion BUG_NOT_YET_OPEN_IS_FOUND
 *   fails short assertion BUG_CHILD_TRUSTS_THE_PLACES
 */
#ifndef BLOCKS
#define BLOCKS 2
#endif
#ifndef TURNS			/* of each thread */
#define TURNS 2
#endif

#define NONE 255
#define RUNS 2
#define GIVER RUNS		/* hand[GIVER] is `giving`, the others are pieces of runs */

#define HAND_EMPTY(who) hand[who] = NONE

/* Blocks: free ones, those that wait, and what each still holds. */
bool is_free[BLOCKS] = true, waits[BLOCKS];
byte left[BLOCKS];		/* end - begin */
byte unfinished;
byte hand[RUNS + 1] = NONE;
/* The producer: state, block, and what is written below `write`. */
bool is_open;
byte block = NONE, written;

inline get(b)
{
	atomic {
		b = NONE;
		for (i : 0 .. BLOCKS - 1) {
			if
			:: is_free[i] && b == NONE -> b = i; is_free[i] = false
			:: else
			fi
		}
	}
}

inline take(b)
{
	atomic {
		b = NONE;
		for (i : 0 .. BLOCKS - 1) {
			if
			:: waits[i] && b == NONE -> b = i; waits[i] = false
			:: else
			fi
		}
	}
}

inline finish(b)
{
	is_free[b] = true;
	unfinished--
}

active proctype producer()
{
	byte b, i, turn;

	for (turn : 1 .. TURNS) {
		get(b);
		if
		:: b == NONE
		:: else ->
			written = 0;
			block = b;
			is_open = true;
			written = 1;		/* and 2 is full */
			if
			:: written = 2
			:: true
			fi;
#ifndef BUG_COUNTED_AFTER_THE_CLOSE
			unfinished++;
#endif
			is_open = false;
			left[b] = written;
			block = NONE;
#ifdef BUG_COUNTED_AFTER_THE_CLOSE
			unfinished++;
#endif
			waits[b] = true
		fi
	}
}

/* give_up: the rest is put back. */
active [RUNS] proctype one_run()
{
	byte b, i, turn;

	for (turn : 1 .. TURNS) {
		take(b);
		if
		:: b == NONE
		:: else ->
			hand[_pid - 1] = b;
			left[b]--;
			if
			:: left[b] != 0 ->
				left[b]--
			:: true
			fi;
			if
			:: left[b] != 0 ->
#ifdef BUG_HAND_KEPT_AFTER_THE_PUSH
				waits[b] = true;
				HAND_EMPTY(_pid - 1)
#else
				HAND_EMPTY(_pid - 1);
				waits[b] = true
#endif
			:: else ->
#ifdef BUG_FINISHED_BEFORE_IT_LEAVES_THE_HAND
				finish(b);
				HAND_EMPTY(_pid - 1)
#else
				HAND_EMPTY(_pid - 1);
				finish(b)
#endif
			fi
		fi
	}
}

active proctype hand_back()
{
	byte b, i;

	take(b);
	if
	:: b == NONE
	:: else ->
		hand[GIVER] = b;
		do
		:: left[b] != 0 -> left[b]--
		:: else -> break
		od;
		HAND_EMPTY(GIVER);
		finish(b)
	fi
}

/* in_child */
active proctype child()
{
	byte i, found, counted;
	byte seen[BLOCKS];

	atomic {
		counted = unfinished;
		/* settle_producer */
		if
		:: block == NONE
		:: block != NONE && is_open && written < 2
		:: block != NONE && is_open && written == 2 ->
			seen[block]++;
			found++;
#ifndef BUG_FULL_IS_FOUND
			counted++
#endif
		:: block != NONE && !is_open && written == 0 ->
#ifdef BUG_NOT_YET_OPEN_IS_FOUND
			found++
#endif
			skip
		:: block != NONE && !is_open && written != 0 ->
			seen[block]++;
			found++
		fi;
		/* find_blocks */
		for (i : 0 .. BLOCKS - 1) {
			if
			:: waits[i] -> seen[i]++; found++
			:: else
			fi
		}
		for (i : 0 .. RUNS) {
			if
			:: hand[i] != NONE -> seen[hand[i]]++; found++
			:: else
			fi
		}
		for (i : 0 .. BLOCKS - 1) {
			assert(seen[i] <= 1);
#ifdef BUG_CHILD_TRUSTS_THE_PLACES
			assert(left[i] == 0 || seen[i] == 1);
#endif
			assert(found != counted || left[i] == 0 || seen[i] == 1)
		}
		assert(found <= counted)
	}
}
