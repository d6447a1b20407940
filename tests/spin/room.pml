/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bound (src/cleanup/blocks.c, drain.c): producers that find no room sleep until workers have made some. What is in open
 * blocks has no part in it, nor has where a block waits. A block has up to SIZE callbacks; a worker runs some of
 * what it takes and gives up the rest.
 *
 *   holds short safety
 *   holds short safety CLOSES WORKERS=1
 *   holds short safety PRODUCERS=3 WORKERS=1 MAX=2
 *   holds full  safety PRODUCERS=3 WORKERS=1 MAX=4
 *   holds full  safety CLOSES
 *   holds full  safety PRODUCERS=3 CLOSES
 *
 *   fails short assertion BUG_LOOKS_BEFORE_IT_PREPARES
 *   fails short deadlock  UNSEEN BUG_LOOKS_BEFORE_IT_PREPARES
 *   fails short deadlock  UNSEEN BUG_WAKES_BEFORE_IT_LOWERS
 *   fails short deadlock  UNSEEN BUG_LOWERED_IN_TWO_STEPS
 *   fails short deadlock  UNSEEN BUG_WAKES_AT_THE_BOUND_ALONE
 *   fails short assertion BUG_WAKES_ONE
 *   fails short assertion BUG_COUNTED_BEHIND_THE_PUSH
 *   fails short deadlock  UNSEEN CLOSES BUG_CLOSED_WITHOUT_A_WORD
 */
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef MAX		/* the bound */
#define MAX 3
#endif
#define SIZE 2
#define MOST (MAX - 1 + PRODUCERS * SIZE)

byte pending;
bool closed;
chan waiting = [MOST] of { byte };	/* blocks: how many callbacks each has */
/* The event count: who has prepared, and was not taken since. */
bool prepared[PRODUCERS];

/* What the library doesn't have, for the properties. */
byte wakers;		/* threads that are about to wake */
bool asleep[PRODUCERS];

/* cq_drains_wake. Its hold of the set's lock is one step. */
inline wake()
{
	d_step {
		i = 0;
		do
		:: i == PRODUCERS -> break
#ifdef BUG_WAKES_ONE
		:: i < PRODUCERS && prepared[i] -> prepared[i] = false; break
		:: i < PRODUCERS && !prepared[i] -> i++
#else
		:: i < PRODUCERS -> prepared[i] = false; i++
#endif
		od;
		i = 0;
		wakers--
	}
}

/* cq_cleanup_wait_for_room */
inline wait_for_room()
{
	do
	:: 
#ifdef BUG_LOOKS_BEFORE_IT_PREPARES
		yes = (closed || pending < MAX);
		prepared[_pid] = true;
#else
		prepared[_pid] = true;
		yes = (closed || pending < MAX);
#endif
		if
		:: yes -> break
		:: else ->
			asleep[_pid] = true;
			atomic { !prepared[_pid] -> asleep[_pid] = false }	/* commit_wait */
		fi
	od;
	atomic { prepared[_pid] = false; yes = false }
}

active [PRODUCERS] proctype producer()
{
	byte n;
	bool yes;

	do
	:: closed -> break
	:: else ->
		/* open_block */
		if
		:: pending >= MAX -> wait_for_room()
		:: pending < MAX ->
			/* filled, or flushed before it is full */
			if
			:: n = 1
			:: n = SIZE
			fi;
#ifdef BUG_COUNTED_BEHIND_THE_PUSH
			waiting!n;
			pending = pending + n;
#else
			pending = pending + n;
			assert(pending <= MOST);
			waiting!n;
#endif
			n = 0
		fi
	od
}

/* So many have run: made_room, in `yes` */
inline lower(ran)
{
#ifdef BUG_LOWERED_IN_TWO_STEPS
	yes = (pending >= MAX);
	atomic {
		pending = pending - ran;
		yes = (yes && pending < MAX);
#else
	atomic {
		assert(pending >= ran);
#ifdef BUG_WAKES_AT_THE_BOUND_ALONE
		yes = (pending == MAX);
#else
		yes = (pending >= MAX && pending - ran < MAX);
#endif
		pending = pending - ran;
#endif
		if
		:: yes -> wakers++
		:: else
		fi
	}
}

/* cq_block_give_up */
active [WORKERS] proctype worker()
{
	byte n, ran, i;
	bool yes;

end:	do
	:: waiting?n ->
		if
		:: ran = 1
		:: n > 1 -> ran = n
#ifdef CLOSES
		:: break		/* its callback hangs */
#endif
		fi;
#ifdef BUG_WAKES_BEFORE_IT_LOWERS
		wakers++;
		wake();
#endif
		lower(ran);
		if
		:: n > ran -> waiting!(n - ran)
		:: else
		fi;
#ifndef BUG_WAKES_BEFORE_IT_LOWERS
		if
		:: yes -> wake()
		:: else
		fi;
#endif
		atomic { n = 0; ran = 0; yes = false }
	od
}

#ifdef CLOSES
/* cq_cleanup_shutdown. Nobody else need be there to wake who waits. */
active proctype closer()
{
	byte i;

	atomic { closed = true; wakers++ };
#ifndef BUG_CLOSED_WITHOUT_A_WORD
	wake()
#endif
}
#endif

#ifndef UNSEEN
/* Nobody sleeps although there is room, unless somebody is about to wake. */
#define SLEEPS(i) (asleep[i] && prepared[i])
#if PRODUCERS == 2
#define SOME_SLEEP (SLEEPS(0) || SLEEPS(1))
#else
#define SOME_SLEEP (SLEEPS(0) || SLEEPS(1) || SLEEPS(2))
#endif

active proctype monitor()
{
end:	atomic { SOME_SLEEP && wakers == 0 && (closed || pending < MAX) -> assert(false) }
}
#endif
