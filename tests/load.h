/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A load for one cleanup queue, and its books: producers, drains, flushes,
 * workers, pollers, owners and forks, that come and go, while tests/faults.h strikes.
 *
 * Conservation: a callback has a record, which goes from free to offered to
 * running to free, once. At the end none is offered, as many ran or were handed
 * back as were accepted, the queue's own counts agree, the queue works when the
 * faults are off, no worker is missing, and no memory is left.
 *
 * A quiet load has nobody who could wake a worker, or an owner, by chance: its
 * producers wait for what they have enqueued, so that one lost wake-up stops it
 * for ever. Now and then they do so without a flush, where the queue keeps time.
 */
#ifndef CQ_TESTS_LOAD_H
#define CQ_TESTS_LOAD_H

#include "faults.h"

typedef struct load load_t;

/* Owned: no worker runs it, but one thread (CQ_BY_OWNER), which sleeps until it is told. */
enum load_way { LOAD_MANAGED, LOAD_HOSTED, LOAD_POLLED, LOAD_OWNED, LOAD_WAYS };

/* What has happened so far (lost: in rounds that are closed); of the last two, what is now. */
typedef struct load_counts {
	unsigned long long enqueued, executed, handed_back, lost, refused, children, crew;
	uint32_t live, idle;
} load_counts_t;

load_t *load_new(enum load_way way);
void load_free(load_t *l);

/*
 * A round, of which `number` decides all that is chosen. open makes the queue and
 * the threads; the caller has set the faults before. stop ends the threads, or
 * shuts the queue down while they are at it; afterwards the caller sets no fault.
 * close checks the queue and the books.
 */
void load_open(load_t *l, unsigned number, fault_set_t faults);
void load_stop(load_t *l);
void load_close(load_t *l);

/* Goes up whenever something is settled; for a watchdog. */
extern atomic_ullong load_progress;
void load_dump(load_t *l); /* to stderr */
void load_add_counts(load_t *l, load_counts_t *sum);

#endif /* CQ_TESTS_LOAD_H */
