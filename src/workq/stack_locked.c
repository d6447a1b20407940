/* SPDX-License-Identifier: BSD-2-Clause */
/* Pops for processors without a two-word compare-and-swap: one popper at a time. Then no node can be popped
   and pushed again between a popper's read of head and its swap, and pushes may stay lock-free. The lock is
   the word that would hold the generation. */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/points.h"
#include "stack.h"

/* Rounds of waiting before a sleep. The lock is held for a dozen instructions, so a longer wait means that
   its holder is not running. 0 would sleep at once; without a limit a preempted holder costs a time slice. */
enum { SPINS = 64 };

/* A sleep, in nanoseconds: at first, and doubled each time up to the most. No sched_yield, so that a holder
   of a lower priority runs. Shorter ones are no sleep to the kernel, longer ones keep a popper from a lock
   that is free. */
enum { SLEEP_FIRST = 1000, SLEEP_MOST = 1000000 };

static char locked;

const char cq_pop_kind[] = "locked";

/* Returns how long the next is to be. */
static long sleep_for(long ns)
{
	struct timespec ts = { .tv_nsec = ns };
	int saved = errno, cancel;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* nanosleep is a point of it */
	nanosleep(&ts, NULL);
	pthread_setcancelstate(cancel, &cancel);
	errno = saved;
	return ns < SLEEP_MOST / 2 ? 2 * ns : SLEEP_MOST;
}

static void lock(cq_stack_t *s, uint32_t *failed)
{
	long ns = SLEEP_FIRST;

	while (cq_ptr_exchange_relaxed(&s->generation, &locked) != NULL) {
		unsigned spins = 0;

		++*failed;
		CQ_POINT("stack.busy");
		while (cq_ptr_load_relaxed(&s->generation) != NULL) {
			if (++spins < SPINS)
				cq_stall();
			else
				ns = sleep_for(ns);
		}
	}
	/* Pairs with the release at the end of a pop: the head that it left. */
	cq_fence_acquire();
}

static cq_node_t *pop(cq_stack_t *s, uint64_t n, uint32_t *failed)
{
	cq_node_t *head, *last;

	/* Pairs with the release in cq_workq_add_work: this look at head, which saves the lock of an empty
	   stack, stays behind a unit that was taken before. */
	cq_fence_acquire();
	if (cq_ptr_load_relaxed(&s->head) == NULL)
		return NULL;
	lock(s, failed);
	head = cq_ptr_load_relaxed(&s->head);
	do {
		/* Pairs with the release in cq_stack_push: the links below head. */
		cq_fence_acquire();
		last = head;
		for (uint64_t i = 1; i < n && last != NULL; i++)
			last = cq_ptr_load_relaxed(&last->next);
		CQ_POINT("stack.walked");
	} while (last != NULL && !cq_ptr_cas_relaxed(&s->head, &head, cq_ptr_load_relaxed(&last->next)));
	if (last != NULL)
		cq_ptr_store_relaxed(&last->next, NULL);
	else
		head = NULL;
	/* Pairs with lock. Without it another could swap between this one's read of a link and its swap. */
	cq_ptr_store_release(&s->generation, NULL);
	return head;
}

cq_node_t *cq_stack_pop_n(cq_stack_t *s, uint64_t n)
{
	uint32_t failed = 0;

	return pop(s, n, &failed);
}

cq_node_t *cq_stack_pop(cq_stack_t *s, uint32_t *failed)
{
	*failed = 0;
	return pop(s, 1, failed);
}
