/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain (src/cleanup/drain.c) beside producers and a worker, with the blocks of two
 * parities. A block holds two callbacks, and a callback is a bit, so that a drain
 * knows which of them came before it. How the worker sleeps is in crew.pml, how a
 * claim is made in shutdown.pml: a claim is one step here, and so is a look at
 * whether a drain sleeps, but each term of the sums is loaded alone.
 *
 *   holds short safety CALLBACKS=2 DRAINS=1
 *   holds full  safety CALLBACKS=1 DRAINS=2
 *   holds full  safety CALLBACKS=3 DRAINS=1
 *   holds full  safety PRODUCERS=2 CALLBACKS=1 DRAINS=1
 *   holds full  safety CALLBACKS=2 DRAINS=2
 *
 *   fails short assertion BUG_DRAIN_WITHOUT_ITS_OWN_FLUSH
 *   fails short assertion BUG_DRAIN_IGNORES_CLOSED_BLOCKS
 *   fails short assertion BUG_EXECUTED_COUNTED_BEFORE_THE_RUN
 *   fails short assertion BUG_PUBLISHED_SUMMED_FIRST
 *   fails short assertion BUG_TURNS_BEFORE_THE_OLD_EPOCH_IS_DONE
 *   fails short deadlock  BUG_CLOSE_OF_A_CLAIMED_BLOCK_WAKES_NOBODY
 *   fails short deadlock  BUG_SLEEP_WITHOUT_SECOND_LOOK
 */
#ifdef BUG_TURNS_BEFORE_THE_OLD_EPOCH_IS_DONE
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

#define SLOTS 2
#define BLOCKS 5	/* that can wait in one queue */

byte epoch;
bool registry;
/* full[parity]: a stack of blocks, each the set of its callbacks */
byte full0[BLOCKS], full1[BLOCKS];
byte units[2];
/* Sums, each written by one thread alone: producers', the gatherers', the worker's */
byte published0[PRODUCERS], published1[PRODUCERS], gathered[2], executed[2];
/* Each producer's state and open block: callbacks that are not claimed, and how many were */
mtype = { VOID, OPEN, CLOSED };
mtype state[PRODUCERS] = VOID;
bool state_parity[PRODUCERS];
byte block[PRODUCERS];
/* the sleeper set `drainers`: a drain between its announcement and its wake */
byte drainers;
bool permit[DRAINS], asleep[DRAINS];

/* What the library doesn't have, for the properties. */
byte accepted, ran;

#define count(set) (((set) & 1) + (((set) >> 1) & 1) + (((set) >> 2) & 1) + \
	(((set) >> 3) & 1))

/* cq_blocks_publish */
inline publish(parity, set)
{
	d_step {
		if
		:: parity == 0 -> full0[units[0]] = set
		:: else -> full1[units[1]] = set
		fi;
		units[parity] = units[parity] + 1
	}
}

/* cq_sleepers_wake_all(&q->drainers); taken and unparked in one step */
inline wake_drainers()
{
	d_step {
		i = 0;
		do
		:: i < DRAINS ->
			if
			:: asleep[i] -> asleep[i] = false; permit[i] = true; drainers--
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

/* ------------------------------------------------------ producers: src/cleanup/open.c */

inline open_block()
{
	parity = epoch % 2;
	atomic { state_parity[me] = parity; state[me] = OPEN; n = 0 }
}

inline close_block()
{
	atomic { state[me] = CLOSED; set = block[me]; block[me] = 0 }
	if
	:: parity == 0 -> published0[me] = published0[me] + count(set)
	:: else -> published1[me] = published1[me] + count(set)
	fi;
	state[me] = VOID;
	if
	:: set == 0 ->
#ifndef BUG_CLOSE_OF_A_CLAIMED_BLOCK_WAKES_NOBODY
		wake_drainers()
#else
		skip
#endif
	:: else -> publish(parity, set)
	fi;
	atomic { set = 0; n = 0; parity = 0 }
}

active [PRODUCERS] proctype producer()
{
	byte me = _pid, parity, set, n, i, done;

	do
	:: done == CALLBACKS -> break
	:: done < CALLBACKS ->
		if
		:: state[me] == VOID -> open_block()
		:: else
		fi;
		atomic {
			block[me] = block[me] | (1 << (me * CALLBACKS + done));
			accepted = accepted | (1 << (me * CALLBACKS + done));
			n++;
			done++
		}
		if
		:: n == SLOTS -> close_block()
		:: n < SLOTS
		:: n < SLOTS -> close_block()		/* cq_producer_flush */
		fi
	od
}

/* ------------------------------------------------------------------- worker */

/* Takes the older queue first, runs, counts, tells the drains. */
active proctype worker()
{
	byte set, i, parity;

end:	do
	:: units[0] + units[1] > 0 ->
		parity = 1 - epoch % 2;
		atomic {
			if
			:: units[parity] > 0
			:: else -> parity = 1 - parity
			fi;
			units[parity] = units[parity] - 1;
			if
			:: parity == 0 -> set = full0[units[0]]; full0[units[0]] = 0
			:: else -> set = full1[units[1]]; full1[units[1]] = 0
			fi
		}
#ifdef BUG_EXECUTED_COUNTED_BEFORE_THE_RUN
		executed[parity] = executed[parity] + count(set);
		ran = ran | set;
#else
		ran = ran | set;
		executed[parity] = executed[parity] + count(set);	/* cq_worker_finish */
#endif
		if	/* cq_notify_drainers */
		:: drainers != 0 ->
			if
			:: units[parity] == 0 -> wake_drainers()
			:: else
			fi
		:: else
		fi;
		atomic { set = 0; parity = 0 }
	od
}

/* ------------------------------------------------------------------- drains */

inline lock() { atomic { !registry -> registry = true } }

inline cq_gather()
{
	i = 0;
	do
	:: i < PRODUCERS ->
		/* claim; all that is claimed fills one block, of any size here */
		atomic {
			if
			:: state[i] == OPEN -> mine = mine | block[i]; block[i] = 0
			:: else
			fi;
			i++
		}
	:: else -> break
	od;
	i = 0;
	if
	:: mine == 0
	:: else ->
		parity = epoch % 2;
		gathered[parity] = gathered[parity] + count(mine);
		publish(parity, mine);
		mine = 0
	fi
}

inline sum_executed() { sum = sum + executed[p] }

inline sum_published()
{
	sum = sum - gathered[p];
	i = 0;
	do
	:: i < PRODUCERS ->
		atomic {
			closed = (state[i] == CLOSED && state_parity[i] == p);
		}
#ifdef BUG_DRAIN_IGNORES_CLOSED_BLOCKS
		closed = false;
#endif
		if
		:: closed -> sum = 100; break
		:: else
		fi;
		if
		:: p == 0 -> sum = sum - published0[i]
		:: else -> sum = sum - published1[i]
		fi;
		i++
	:: else -> break
	od;
	closed = false;
	i = 0
}

/* In `yes` */
inline parity_done(which)
{
	p = which;
	sum = 0;
#ifdef BUG_PUBLISHED_SUMMED_FIRST
	sum_published();
	sum_executed();
#else
	sum_executed();
	sum_published();
#endif
	atomic { yes = (sum == 0); sum = 0; p = 0 }
}

inline drained()
{
	lock();
	if
	:: epoch == mine_epoch ->
#ifdef BUG_TURNS_BEFORE_THE_OLD_EPOCH_IS_DONE
		epoch = mine_epoch + 1;
#else
		parity_done((mine_epoch + 1) % 2);
		if
		:: yes -> epoch = mine_epoch + 1
		:: else
		fi
#endif
	:: else
	fi;
	yes = false;
	if
	:: epoch >= mine_epoch + 2 -> yes = true
	:: epoch == mine_epoch + 1 -> parity_done(mine_epoch % 2)
	:: else
	fi;
	registry = false
}

active [DRAINS] proctype drain()
{
	byte me = _pid - PRODUCERS - 1, before, mine, mine_epoch, i, parity, p;
	short sum;
	bool yes, closed;

	before = accepted;
	lock();
#ifndef BUG_DRAIN_WITHOUT_ITS_OWN_FLUSH
	cq_gather();
#endif
	mine_epoch = epoch;
	registry = false;
	drained();
	do
	:: yes -> break
	:: else ->
		/* cq_sleepers_sleep: nobody but a waker sees the list */
		atomic { drainers++; asleep[me] = true }
#ifndef BUG_SLEEP_WITHOUT_SECOND_LOOK
		drained();
#endif
		if
		:: yes -> atomic {
				if
				:: asleep[me] -> asleep[me] = false; drainers--
				:: else -> permit[me] = false
				fi
			}
		:: else ->
			permit[me] -> permit[me] = false;
			drained()
		fi
	od;
	/* All that was enqueued before the call has run. */
	assert((before & ~ran) == 0)
}
