/* SPDX-License-Identifier: BSD-2-Clause */
/* Managed worker threads: pthreads that take no signals but their own, named, and not to be cancelled. How
   they are joined: cq_member_leave (workers.c). */
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <unistd.h>

#include "pool_priv.h"

/* A callback needs some, and the system's minimum may be next to nothing (2 KiB with musl). */
#define STACK_BYTES_MIN ((size_t)16 << 10)

/* Where it ends to ask for twice as much: what most systems give, of address space alone. */
#define STACK_BYTES_MOST ((size_t)8 << 20)

/* The library's frames below a callback (under 1 KiB), the C library's record of the thread and its surplus
   of static storage (glibc: 2.3 and 1.7 KiB), and rounding to pages. With none a callback would get less than
   it was promised; more is address space alone. */
#define STACK_OWN_BYTES ((size_t)12 << 10)

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* All signals but those that a thread brings upon itself. Blocked, these would kill the process and no
   handler run: a crash reporter, a write barrier by mprotect, a sandbox by SIGSYS. */
static void fill_but_synchronous(sigset_t *set)
{
	static const int synchronous[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };

	sigfillset(set);
	for (size_t i = 0; i < sizeof(synchronous) / sizeof(*synchronous); i++)
		sigdelset(set, synchronous[i]);
}

/* Nor are those of abort and of profilers blocked. But where the creator has blocked one, the program takes
   it in another way (sigwait, signalfd), and on a worker its default action would end the process. */
void cq_threads_note_creator(struct cq_threads *t)
{
	static const int own[] = { SIGABRT, SIGPROF, SIGVTALRM };
	sigset_t creator;

	cq_creator_note(&t->creator);
	t->stack_overhead = STACK_OWN_BYTES + cq_tls_in_stack();
	sigemptyset(&creator);
	pthread_sigmask(SIG_SETMASK, NULL, &creator);
	fill_but_synchronous(&t->blocked);
	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		if (sigismember(&creator, own[i]) == 0)
			sigdelset(&t->blocked, own[i]);
}

static void *thread_main(void *run)
{
	cq_run_t *w = run;
	cq_pool_t *p = w->pool;
	int cancel;

	pthread_sigmask(SIG_SETMASK, &p->threads.blocked, NULL);
	/* Only a callback can learn this thread's id; when it cancels the thread, another may be running. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	cq_thread_name(p->name);
	cq_creator_follow(&p->threads.creator);
	p->body(w); /* the worker and its pool may be gone afterwards */
	return NULL;
}

/* What to ask for, so that a callback gets stack_bytes. Some systems want whole pages, and glibc before 2.27
   takes the guard out of the stack. */
static size_t stack_of(const cq_pool_t *p)
{
	long minimum = sysconf(_SC_THREAD_STACK_MIN);
	size_t least = max_size(minimum > 0 ? (size_t)minimum : 0, STACK_BYTES_MIN);
	size_t stack = max_size(p->config.stack_bytes, least);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t more = p->threads.stack_overhead + 2 * page; /* the guard, and what rounding takes off */

	return stack > SIZE_MAX - more ? stack : (stack + more) / page * page;
}

/*
 * The thread of a worker, without signals until it has its own mask. The caller takes those of
 * its own doing meanwhile: the memory that pthread_create writes may be behind a barrier, and its
 * system calls in a sandbox.
 *
 * EINVAL: the stack is too small, for a reason that isn't known here. Then with more, and at last with
 * the system's own, if that is no less. (Whatever else is wrong is wrong with these too.)
 */
int cq_threads_spawn(cq_run_t *w)
{
	size_t wanted = stack_of(w->pool), stack = wanted, systems = 0;
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t others, old;
	int err;

	if ((err = pthread_attr_init(&attr)) != 0)
		return err;
	pthread_attr_getstacksize(&attr, &systems);
	fill_but_synchronous(&others);
	pthread_sigmask(SIG_BLOCK, &others, &old);
	for (;; stack *= 2) {
		if ((err = pthread_attr_setstacksize(&attr, stack)) == 0)
			err = pthread_create(&thread, &attr, thread_main, w);
		if (err != EINVAL || stack >= max_size(systems, STACK_BYTES_MOST) / 2)
			break;
	}
	if (err == EINVAL && wanted <= systems) {
		pthread_attr_setstacksize(&attr, systems); /* or none was taken, and it is that still */
		err = pthread_create(&thread, &attr, thread_main, w);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return err;
}
