/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Blocks that wait (src/cleanup/blocks.c, run.c): two stacks that change places, and the partial block, which
 * what is flushed joins, and which a flip pushes. One thread publishes full blocks, one flushes a callback at a
 * time. Workers come for the signalled task: that they do is in pool.pml. A block is a set of callbacks.
 *
 *   HANGS: one callback hangs, whichever comes first. All but those in its block run.
 *   else:  full blocks come without end. A callback that joined runs all the same: that is progress.
 *
 *   holds short safety   HANGS
 *   holds short progress
 *
 *   fails short deadlock HANGS BUG_LEFT_KNOWS_ONLY_THE_STACKS
 *   fails short deadlock HANGS BUG_LEFT_IS_READ_BEFORE_IN_IS_CLEARED
 *   fails short deadlock HANGS BUG_JOINS_WITHOUT_A_SIGNAL
 *   fails short cycle    BUG_FLIP_LEAVES_THE_PARTIAL_BLOCK
 *   fails short cycle    BUG_AGE_IS_THAT_OF_THE_STACK_ALONE
 *   fails short cycle    BUG_STACK_ALONE_IS_A_REASON
 *   fails short cycle    BUG_PARTIAL_BLOCK_ALONE_IS_NO_REASON
 */
#ifndef WORKERS
#ifdef HANGS
#define WORKERS 2
#else
#define WORKERS 1
#endif
#endif

/* Callbacks, as bits. */
#define FULL 1
#define FIRST 2
#define SECOND 4

chan waiting[2] = [4] of { byte };
bit page;
bool old[2];		/* waiting[i].since is long ago */
/* The partial block; under its lock, which those that look whether there is one do not take */
bool partial_held, there;
byte partial;
/* The task: IN, and records in the pool's stacks */
bool in;
byte records;

/* What the library doesn't have. */
byte ran, hung;

inline lock_partial() { atomic { !partial_held -> partial_held = true } }
inline unlock_partial() { partial_held = false }

/* cq_task_signal, cq_run_more */
inline signal()
{
	atomic { mine = !in; in = true };
	if
	:: mine -> atomic { records++; mine = false }
	:: !mine
	fi
}

/* since, of the stack that comes next */
inline young(i)
{
	if
#ifdef BUG_AGE_IS_THAT_OF_THE_STACK_ALONE
	:: empty(waiting[i]) -> old[i] = false
	:: nempty(waiting[i])
#else
	:: empty(waiting[i]) && !there -> old[i] = false
	:: nempty(waiting[i]) || there
#endif
	fi
}

/* ----------------------------------------------------------- who publishes */

active proctype filler()
{
	bit newer;
	bool mine, done;

#ifdef HANGS
	newer = page;
	young(newer);
	waiting[newer]!FULL;
	signal();
	done = true
#else
end:	do
	:: empty(waiting[page]) ->
		newer = page;
		young(newer);
		waiting[newer]!FULL;
		signal();
		newer = 0
	od
#endif
}

/* A flush of one callback: collect.c. */
inline join(c)
{
	lock_partial();
	if
	:: !there -> newer = page; young(newer); newer = 0; there = true
	:: there
	fi;
	partial = partial | c;
	unlock_partial();
#ifndef BUG_JOINS_WITHOUT_A_SIGNAL
	signal()
#else
	skip
#endif
}

active proctype flusher()
{
	bit newer;
	bool mine;

#ifdef HANGS
	join(FIRST);
	join(SECOND)
#else
end:	do
	:: ran & FIRST ->
progress:	ran = 0
	:: else ->
		join(FIRST);
		ran & FIRST
	od
#endif
}

/* Time passes. */
active proctype clock()
{
end:	do
	:: !old[0] -> old[0] = true
	:: !old[1] -> old[1] = true
	od
}

/* ----------------------------------------------------------------- workers */

/* Any of a stack's: what is below may wait for as long as more comes. */
inline pop(i)
{
	atomic {
		if
		:: waiting[i]?b
		:: len(waiting[i]) > 1 -> waiting[i]?y; waiting[i]?b; waiting[i]!y
		:: len(waiting[i]) > 2 -> waiting[i]?y; waiting[i]!y; waiting[i]?y; waiting[i]!y; waiting[i]?b
		:: empty(waiting[i])
		fi;
		y = 0
	}
}

inline flip()
{
#ifndef BUG_FLIP_LEAVES_THE_PARTIAL_BLOCK
	lock_partial();
	if
	:: there ->
		newer = page;	/* another may have flipped meanwhile: then it waits for the next flip */
		young(newer);
		waiting[newer]!partial;
		atomic { newer = 0; there = false; partial = 0 }
	:: !there
	fi;
	unlock_partial();
#endif
	atomic {
		if
		:: page != older -> page = older; older = older ^ 1
		:: page == older	/* another was faster */
		fi
	}
}

/* cq_blocks_take, in b */
inline take()
{
	older = page ^ 1;
	if
	:: empty(waiting[older]) ->
		if
#if defined(BUG_STACK_ALONE_IS_A_REASON)
		:: len(waiting[older ^ 1]) > 1 && old[older ^ 1] -> flip()
#elif defined(BUG_PARTIAL_BLOCK_ALONE_IS_NO_REASON)
		:: len(waiting[older ^ 1]) + there > 1 && old[older ^ 1] -> flip()
#else
		:: (len(waiting[older ^ 1]) > 1 || there) && old[older ^ 1] -> flip()
#endif
		:: else
		fi
	:: nempty(waiting[older])
	fi;
	pop(older);
	if
	:: b == 0 -> pop(older ^ 1)
	:: b != 0
	fi;
	if
	:: b == 0 && there ->
		lock_partial();
		atomic { b = partial; there = false; partial = 0 };
		unlock_partial()
	:: else
	fi;
	older = 0
}

inline run_block()
{
	if
#ifdef HANGS
	:: atomic { hung == 0 -> hung = b };
end_hung:	false
	:: hung != 0 -> ran = ran | b
#else
	:: true -> ran = ran | (b & FIRST)
#endif
	fi;
	b = 0
}

#ifdef BUG_LEFT_KNOWS_ONLY_THE_STACKS
#define LEFT (nempty(waiting[0]) || nempty(waiting[1]))
#else
#define LEFT (nempty(waiting[0]) || nempty(waiting[1]) || there)
#endif

active [WORKERS] proctype worker()
{
	byte b, y;
	bit older, newer;
	bool mine, left;

end:	do
	:: atomic { records > 0 -> records-- };
#ifdef BUG_LEFT_IS_READ_BEFORE_IN_IS_CLEARED
		take();
		left = LEFT;
		in = false;
#else
		in = false;
		take();
		left = LEFT;
#endif
		if
		:: left -> signal()
		:: !left
		fi;
		left = false;
		if
		:: b != 0 -> run_block()
		:: b == 0
		fi
	od
}

/* ------------------------------------------------------------------ properties */

#ifdef HANGS
active proctype properties()
{
	(ran | hung) == (FULL | FIRST | SECOND)
}
#endif
