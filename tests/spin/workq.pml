/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The work queue (src/workq/workq.c, src/workq/stack.h, src/workq/stack_dwcas.c, and with LOCKED
 * src/workq/stack_locked.c) between threads that push and pop the same few nodes for
 * ever, so that a node comes back while others still read it.
 *
 * The generation grows without end, and a compare-and-swap asks only whether it is
 * the one that was read. So each thread has a flag: has it moved since I read it?
 *
 *   holds short safety   THREADS=2 NODES=3
 *   holds short safety   THREADS=2 NODES=3 LOCKED=1
 *   holds short safety   THREADS=3 NODES=2 POP_N=1
 *   holds short progress THREADS=2 NODES=2
 *   holds full  safety   THREADS=3 NODES=2
 *   holds full  safety   THREADS=3 NODES=3 POP_N=1
 *   holds full  safety   THREADS=3 NODES=2 LOCKED=1
 *   holds full  progress THREADS=2 NODES=3
 *
 *   fails short assertion BUG_COUNT_BEFORE_LINK
 *   fails short assertion BUG_POP_BEFORE_TAKE
 *   fails short assertion BUG_TAKE_WITHOUT_A_FLOOR
 *   fails short assertion BUG_TAKE_GIVES_UP
 *   fails short assertion BUG_POP_COMPARES_HEAD_ALONE
 *   fails short assertion BUG_POP_N_KEEPS_THE_GENERATION
 *   fails short assertion BUG_HEAD_BEFORE_GENERATION
 *   fails short assertion BUG_POP_WITHOUT_ITS_LOCK
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef NODES
#define NODES 3
#endif
#ifndef POP_N		/* the most that one pop takes, and one push of a chain has */
#define POP_N 2
#endif
#ifndef LOCKED
#define LOCKED 0
#endif
#ifdef BUG_POP_WITHOUT_ITS_LOCK
#undef LOCKED
#define LOCKED 1
#endif

#define NULL 255
#define STACK 254	/* the owner of a node that is linked */

byte units;
byte head = NULL;
byte next[NODES] = NULL;
bool locked;		/* LOCKED: the generation's word is a lock */

/* What the library doesn't have, for the properties. */
bool moved[THREADS];	/* the generation, since this thread read it */
byte owner[NODES];	/* a thread, or STACK */
byte linked;		/* nodes whose owner is STACK */

/* --------------------------------------------------------------------- push */

/* Takes what this thread has: up to POP_N nodes, as a chain first .. last */
inline choose_nodes()
{
	d_step {
		n = 0;
		i = 0;
		do
		:: i == NODES -> break
		:: i < NODES && owner[i] == me && n < most ->
			if
			:: n == 0 -> last = i
			:: else -> next[i] = first
			fi;
			first = i;
			n++;
			i++
		:: i < NODES && (owner[i] != me || n >= most) -> i++
		od;
		i = 0
	}
}

/* cq_stack_push */
inline cq_workq_link()
{
	seen = head;
	do
	:: next[last] = seen;
		atomic {
			if
			:: head == seen ->
				head = first;
				d_step {
					i = first;
					do
					:: owner[i] = STACK;
						linked++;
						if
						:: i == last -> break
						:: else -> i = next[i]
						fi
					od;
					i = 0; seen = 0; first = 0; last = 0
				}
				break
			:: else -> seen = head
			fi
		}
	od
}

inline cq_workq_add_work()
{
	atomic { units = units + n; n = 0 }
}

inline cq_workq_push()
{
	choose_nodes();
#ifdef BUG_COUNT_BEFORE_LINK
	units = units + n;
	cq_workq_link();
	n = 0
#else
	cq_workq_link();
	cq_workq_add_work()
#endif
}

/* ---------------------------------------------------------------------- pop */

/* How many were taken: n */
inline cq_workq_take()
{
	seen = units;
	do
	:: seen == 0 -> n = 0; break
	:: else ->
		n = (seen < most -> seen : most);
		atomic {
			if
#ifdef BUG_TAKE_WITHOUT_A_FLOOR
			:: true -> units = units - n; seen = 0; break
#else
			:: units == seen -> units = seen - n; seen = 0; break
			:: else -> seen = units;
#ifdef BUG_TAKE_GIVES_UP
				n = 0; break
#endif
#endif
			fi
		}
	od;
	/* It fails only when it saw zero. */
	assert(n > 0 || seen == 0)
}

/* The nodes seen .. last are this thread's now; `first` is what was below. */
inline popped()
{
	d_step {
		head = first;
		i = seen;
		do
		:: assert(owner[i] == STACK);	/* nobody popped it before */
			owner[i] = me;
			linked--;
			n--;
			if
			:: i == last -> break
			:: else -> i = next[i]
			fi
		od;
		assert(n == 0 && (head == NULL || owner[head] == STACK));
		i = 0
	}
}

/* From `seen` to the nth node: `last`, or NULL where the links end before it */
inline walk()
{
	last = seen;
	i = 1;
	do
	:: i < n && last != NULL -> last = next[last]; i++
	:: else -> break
	od;
	i = 0
}

inline advance_generation()
{
#ifdef BUG_POP_N_KEEPS_THE_GENERATION
	moved[0] = (n == 1 -> true : moved[0]);
	moved[1] = (n == 1 -> true : moved[1]);
#else
	d_step {
		i = 0;
		do
		:: i < THREADS -> moved[i] = true; i++
		:: else -> break
		od;
		i = 0
	}
#endif
}

/* cq_stack_pop_n of stack_dwcas.c; stack_walk is its first half */
inline pop_dwcas()
{
	do
	::
#ifdef BUG_HEAD_BEFORE_GENERATION
		seen = head;
		moved[me] = false;
#else
		moved[me] = false;		/* seen->generation */
		seen = head;
#endif
		assert(seen != NULL);
		walk();
		if
		:: last == NULL			/* led astray by another pop: again */
		:: else ->
			first = next[last];
			atomic {
				if
#ifdef BUG_POP_COMPARES_HEAD_ALONE
				:: head == seen ->
#else
				:: head == seen && !moved[me] ->
#endif
					advance_generation();
					popped();
					break
				:: else
				fi
			}
		fi
	od
}

/* cq_stack_pop_n of stack_locked.c */
inline pop_locked()
{
	seen = head;
	assert(seen != NULL);
#ifndef BUG_POP_WITHOUT_ITS_LOCK
	atomic { !locked -> locked = true };
#endif
	seen = head;
	do
	:: walk();
		assert(last != NULL);
		first = next[last];
		atomic {
			if
			:: head == seen -> popped(); break
			:: else -> seen = head
			fi
		}
	od
}

inline cq_workq_pop_taken_n()
{
	if
	:: LOCKED -> pop_locked()
	:: else -> pop_dwcas()
	fi;
	next[last] = NULL;
	if
	:: LOCKED -> locked = false
	:: else
	fi;
	d_step { seen = 0; first = 0; last = 0; moved[me] = false }
}

/* ------------------------------------------------------------------ threads */

#define HAS_NODES \
	(owner[0] == me || owner[NODES - 1] == me || (NODES > 2 && owner[1] == me))

active [THREADS] proctype thread()
{
	byte me = _pid, most, n, seen, first, last, i;

	/* The first has all nodes, to begin with. */
	do
	:: atomic {
			if
			:: most = 1
			:: POP_N > 1 -> most = 2
			fi
		}
		if
		:: atomic { HAS_NODES -> skip }
			cq_workq_push()
		:: atomic { units > 0 -> skip }
#ifdef BUG_POP_BEFORE_TAKE
			n = 1;
			cq_workq_pop_taken_n();
			most = 1;
#endif
			cq_workq_take();
			if
			:: n == 0
			:: else ->
#ifndef BUG_POP_BEFORE_TAKE
				cq_workq_pop_taken_n();
#endif
progress:			n = 0
			fi
		fi;
		most = 0
	od
}

/* --------------------------------------------------------------- properties */

#define W1 (units <= linked)

active proctype properties()
{
end:	atomic { !W1 -> assert(W1) }
}
