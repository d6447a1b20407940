/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory that goes back (src/cleanup/trim.c). Owners pop the free stack, and put back the block or publish it; runs pop
 * what waits, and free it; trim takes all free blocks away, and frees them if nobody may have found one before.
 * What is read or pushed must not have been freed. A generation is modelled by what it says: a swap fails if
 * anything was popped since the popper read it.
 *
 *   holds short safety OWNERS=1
 *   holds short safety RUNS=0
 *
 *   fails short assertion RUNS=0 BUG_LOOKS_BEFORE_IT_TAKES
 *   fails short assertion RUNS=0 BUG_LOOKS_FOR_NO_OWNER
 *   fails short assertion RUNS=0 BUG_SAYS_SO_BEHIND_THE_LOOK
 *   fails short assertion OWNERS=1 BUG_COUNTS_READ_ONCE
 *   fails short assertion OWNERS=1 BUG_UNIT_WITHOUT_A_COUNT
 *   fails short assertion OWNERS=1 BUG_COUNTED_BEHIND_THE_PUSH
 */
#ifndef OWNERS
#define OWNERS 2
#endif
#ifndef RUNS
#define RUNS 2
#endif
#ifndef BLOCKS
#define BLOCKS 2
#endif
#define THREADS (OWNERS + RUNS + 1)
#define NONE BLOCKS
#define FREE 0
#define WAITING 1

byte head[2] = { NONE, NONE };
byte next[BLOCKS];	/* in whichever stack it is */
byte units;		/* of the stack of those that wait */
byte unfinished;
bool getting[OWNERS];
bool alive[BLOCKS];

/* What the library doesn't have: has anything been popped since this thread read the generation? */
bool moved[2 * THREADS];

/* cq_stack_push */
inline push(stack, b)
{
	assert(alive[b]);
	atomic { next[b] = head[stack]; head[stack] = b }
}

/* cq_stack_pop_n of one; b NONE: there was none */
inline pop(stack, b)
{
	do
	:: atomic {
		moved[2 * _pid + stack] = false;
		b = head[stack];
		if
		:: b == NONE -> break
		:: else
		fi
	   };
	   assert(alive[b]);
	   n = next[b];
	   atomic {
		if
		:: !moved[2 * _pid + stack] && head[stack] == b ->
			head[stack] = n;
			n = 0;
			do
			:: n < THREADS -> moved[2 * n + stack] = true; n++
			:: else -> break
			od;
			n = 0;
			moved[2 * _pid + stack] = false;
			break
		:: else -> n = 0; b = 0
		fi
	   }
	od
}

/* cq_block_get: a free one, or a new one if one may be made */
inline block_get(b)
{
#ifndef BUG_SAYS_SO_BEHIND_THE_LOOK
	getting[_pid] = true;
#endif
	pop(FREE, b);
	getting[_pid] = true;
	if
	:: b == NONE ->
		atomic {
			b = 0;
			do
			:: b < BLOCKS && alive[b] -> b++
			:: b < BLOCKS && !alive[b] -> alive[b] = true; break
			:: b == BLOCKS -> break
			od
		}
	:: else
	fi;
	getting[_pid] = false
}

active [OWNERS] proctype owner()
{
	byte b, n;

end:	do
	:: block_get(b);
	   if
	   :: b == NONE
	   :: b != NONE -> push(FREE, b)		/* it was spare, or is closed with nothing in it */
	   :: b != NONE && RUNS != 0 ->			/* close_block */
#ifndef BUG_COUNTED_BEHIND_THE_PUSH
		unfinished++;
#endif
		push(WAITING, b);
		units++;
#ifdef BUG_COUNTED_BEHIND_THE_PUSH
		unfinished++
#endif
	   fi;
	   b = 0
	od
}

#if RUNS != 0
active [RUNS] proctype worker()
{
	byte b, n;

end:	do
	:: atomic { units > 0 -> units-- };
#ifdef BUG_UNIT_WITHOUT_A_COUNT
	   unfinished--;
#endif
	   pop(WAITING, b);
	   assert(b != NONE);
	   push(FREE, b);				/* cq_block_give_up */
#ifndef BUG_UNIT_WITHOUT_A_COUNT
	   unfinished--;
#endif
	   b = 0
	od
}
#endif

inline look_for_readers()
{
	alone = true;
	i = 0;
	do
	:: i < OWNERS ->
#ifndef BUG_LOOKS_FOR_NO_OWNER
		if
		:: getting[i] -> alone = false
		:: else
		fi;
#endif
		i++
	:: else -> break
	od;
	i = 0;
#ifndef BUG_COUNTS_READ_ONCE
	if
	:: unfinished != 0 -> alone = false
	:: else
	fi
#endif
}

/* give_back: one at a time, as it has the lock */
active proctype trim()
{
	byte b, n, i;
	bool alone, popped[BLOCKS];

end:	do
	:: unfinished == 0 ->
#ifdef BUG_LOOKS_BEFORE_IT_TAKES
		look_for_readers();
#endif
		do
		:: pop(FREE, b);
		   if
		   :: b == NONE -> break
		   :: else -> popped[b] = true
		   fi
		od;
#ifndef BUG_LOOKS_BEFORE_IT_TAKES
		look_for_readers();
#endif
		b = 0;
		do
		:: b == BLOCKS -> break
		:: b < BLOCKS && !popped[b] -> b++
		:: b < BLOCKS && popped[b] && alone -> atomic { popped[b] = false; alive[b] = false; b++ }
		:: b < BLOCKS && popped[b] && !alone ->
			popped[b] = false;
			push(FREE, b);
			b++
		od;
		atomic { b = 0; alone = false }
	od
}
