/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A fork under way, for those who hold locks from prepare to parent or child. Handlers of
 * others run meanwhile on the same thread: they may call the library, which must know that
 * it would wait for itself, and they may fork as well.
 */
#ifndef CQ_FORKING_H
#define CQ_FORKING_H

#include <stdbool.h>

struct cq_fork {
	const void *forker;	/* the mark of the thread that forks, or NULL. Read by anyone */
	/* Of that thread alone: */
	unsigned depth;		/* forks by handlers within this one */
	bool is_child;		/* and what goes on be the child of one of these */
};

enum fork_end { FORK_GOES_ON, FORK_IN_PARENT, FORK_IN_CHILD };

/* The calling thread's own address, which it keeps in a forked child. */
const void *cq_thread_mark(void);

/* Is the calling thread between prepare and its end? */
bool cq_fork_is_mine(const struct cq_fork *f);

/* In prepare. False: it is within another fork of this thread, which has the locks. */
bool cq_fork_begins(struct cq_fork *f);
/* After the locks are taken. */
void cq_fork_begun(struct cq_fork *f);

/* In parent or child: what the outermost fork ends as, since one within may have made this process. */
enum fork_end cq_fork_ends(struct cq_fork *f, bool child);
/* Before the locks are let go. */
void cq_fork_ended(struct cq_fork *f);

#endif /* CQ_FORKING_H */
