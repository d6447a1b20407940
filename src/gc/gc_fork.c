/* SPDX-License-Identifier: BSD-2-Clause */
/* fork(). Registered when the collector and the queue are there, so the locks of this are taken before theirs, and
   the child comes here when theirs are let go. */
#include "gc_priv.h"

static void prepare(void)
{
	pthread_mutex_lock(&cq_gc.draining);
	pthread_mutex_lock(&cq_gc.lists);
}

static void parent(void)
{
	pthread_mutex_unlock(&cq_gc.lists);
	pthread_mutex_unlock(&cq_gc.draining);
}

static void child(void)
{
	cq_gc_tables_child();
	cq_gc_helper_child();
	parent();
}

int cq_gc_fork_open(void)
{
	static bool registered;
	int err = registered ? 0 : pthread_atfork(prepare, parent, child);

	registered |= err == 0;
	return err;
}
