/* SPDX-License-Identifier: BSD-2-Clause */
#include <stddef.h>

#include "forking.h"
#include "ordering.h"

/* Its address is another for each thread, and the same in a forked child. */
static __thread char mark;

const void *cq_thread_mark(void)
{
	return &mark;
}

bool cq_fork_is_mine(const struct cq_fork *f)
{
	/* Who is not in a fork never reads its own mark here, whatever else it reads. */
	return cq_ptr_load_relaxed(&f->forker) == &mark;
}

bool cq_fork_begins(struct cq_fork *f)
{
	if (cq_fork_is_mine(f)) {
		f->depth++;
		return false;
	}
	return true;
}

void cq_fork_begun(struct cq_fork *f)
{
	cq_ptr_store_relaxed(&f->forker, &mark);
}

enum fork_end cq_fork_ends(struct cq_fork *f, bool child)
{
	f->is_child |= child;
	if (f->depth != 0) {
		f->depth--;
		return FORK_GOES_ON;
	}
	child = f->is_child;
	f->is_child = false;
	return child ? FORK_IN_CHILD : FORK_IN_PARENT;
}

void cq_fork_ended(struct cq_fork *f)
{
	cq_ptr_store_relaxed(&f->forker, NULL);
}
