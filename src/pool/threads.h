/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Managed worker threads: pthreads that take no signals but their own, not to be cancelled,
 * named, and joined.
 */
#ifndef CQ_THREADS_H
#define CQ_THREADS_H

#include <cq/allocator.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "base/process.h"

struct cq_threads {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	unsigned running;	/* under the lock, as the next three */
	bool has_last;
	pthread_t last;		/* that ended, and is to be joined */
	unsigned forks;		/* between the first process and this one */
	/* Written before the first thread: */
	const cq_allocator_t *allocator;
	const char *name;
	size_t stack_bytes;	/* what a callback gets */
	size_t stack_overhead;	/* bytes of a stack that no callback gets */
	struct cq_creator creator;
	sigset_t blocked;
};

int cq_threads_init(struct cq_threads *t);
void cq_threads_destroy(struct cq_threads *t);

/* Before the first thread: the caller is whose mask and processors the threads will have. */
void cq_threads_note_creator(struct cq_threads *t);

/* A thread that runs body(arg), as cq_spawn_fn; `threads` is a struct cq_threads. */
int cq_threads_spawn(void *threads, void (*body)(void *), void *arg);

/* Waits until no managed thread is in the library. Their bodies have returned, or are about to. */
void cq_threads_join(struct cq_threads *t);

/* running: 1 if the calling thread is one of them, which alone is left in a forked child. */
void cq_threads_fork_child(struct cq_threads *t, unsigned running);

#endif /* CQ_THREADS_H */
