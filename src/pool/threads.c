/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A thread that ends joins the one that ended before it and leaves itself to the next, so at
 * most one ended thread waits to be joined.
 */
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <unistd.h>

#include "base/alloc.h"
#include "threads.h"

#define STACK_BYTES_MIN ((size_t)16 << 10)

/*
 * The library's frames below a callback (under 1 KiB), the C library's record of the thread
 * and its surplus of static storage (glibc: 2.3 and 1.7 KiB), and rounding to pages. With
 * none a callback would get less than it was promised; more is address space alone.
 */
#define STACK_OWN_BYTES ((size_t)12 << 10)

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static long max_long(long a, long b) { return a > b ? a : b; }

struct start {
	struct cq_threads *threads;
	void (*body)(void *);
	void *arg;
	unsigned forks;
};

int cq_threads_init(struct cq_threads *t)
{
	int err;

	*t = (struct cq_threads){ .running = 0 };
	err = pthread_mutex_init(&t->lock, NULL);
	return err != 0 ? err : pthread_cond_init(&t->ended, NULL);
}

void cq_threads_destroy(struct cq_threads *t)
{
	pthread_cond_destroy(&t->ended);
	pthread_mutex_destroy(&t->lock);
}

void cq_threads_fork_child(struct cq_threads *t, unsigned running)
{
	t->running = running;
	t->has_last = false;
	t->forks++;
	pthread_cond_init(&t->ended, NULL); /* whoever waited isn't here */
}

/* Only a callback can learn this thread's id; when it cancels the thread, another callback may be
   running. */
static void disable_cancellation(void)
{
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
}

/* The body has returned, or a callback has ended it. */
static void thread_ends(void *arg)
{
	const struct start *start = arg;
	struct cq_threads *t = start->threads;
	pthread_t before = pthread_self();
	bool joins_before = false;

	disable_cancellation(); /* a callback may have allowed it */
	pthread_mutex_lock(&t->lock);
	/* In a forked child the thread that forked can't be joined (musl 1.2.3, glibc 2.43):
	   there nobody does, and it leaves the ended one to others. */
	if (start->forks == t->forks) {
		joins_before = t->has_last;
		if (joins_before)
			before = t->last;
		t->last = pthread_self();
		t->has_last = true;
	}
	t->running--;
	pthread_cond_signal(&t->ended);
	pthread_mutex_unlock(&t->lock);
	/* From here on only this thread's stack is used: the pool may be gone
	   once it is joined, or runs no more and can't be. */
	if (joins_before)
		pthread_join(before, NULL);
}

/*
 * All signals but those that a thread brings upon itself. Blocked, these would kill the
 * process and no handler run: a crash reporter, a write barrier by mprotect, a
 * sandbox by SIGSYS.
 */
static void fill_but_synchronous(sigset_t *set)
{
	static const int synchronous[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };

	sigfillset(set);
	for (size_t i = 0; i < sizeof(synchronous) / sizeof(*synchronous); i++)
		sigdelset(set, synchronous[i]);
}

/*
 * Nor are those of abort and of profilers blocked. But where the creator has blocked one,
 * the program takes it in another way (sigwait, signalfd), and on a worker its default
 * action would end the process.
 */
void cq_threads_note_creator(struct cq_threads *t)
{
	static const int own[] = { SIGABRT, SIGPROF, SIGVTALRM };
	sigset_t creator;

	cq_creator_note(&t->creator);
	sigemptyset(&creator);
	pthread_sigmask(SIG_SETMASK, NULL, &creator);
	t->stack_overhead = STACK_OWN_BYTES + cq_tls_in_stack();
	fill_but_synchronous(&t->blocked);
	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		if (sigismember(&creator, own[i]) == 0)
			sigdelset(&t->blocked, own[i]);
}

static void *thread_main(void *arg)
{
	struct start start = *(struct start *)arg;

	cq_release(start.threads->allocator, arg, sizeof(start));
	pthread_sigmask(SIG_SETMASK, &start.threads->blocked, NULL);
	disable_cancellation();
	cq_thread_name(start.threads->name);
	cq_creator_follow(&start.threads->creator);
	pthread_cleanup_push(thread_ends, &start);
	start.body(start.arg);
	pthread_cleanup_pop(1);
	return NULL;
}

/*
 * What to ask for, so that a callback gets stack_bytes. The system's minimum may
 * be next to nothing (2 KiB with musl): a callback needs some too. Some systems want
 * whole pages, and glibc before 2.27 takes the guard out of the stack.
 */
static size_t stack_of(const struct cq_threads *t)
{
	size_t least = max_size((size_t)max_long(sysconf(_SC_THREAD_STACK_MIN), 0), STACK_BYTES_MIN);
	size_t stack = max_size(t->stack_bytes, least);
	size_t page = (size_t)max_long(sysconf(_SC_PAGESIZE), 1);
	size_t more = t->stack_overhead + 2 * page; /* the guard, and what rounding takes off */

	return stack > SIZE_MAX - more ? stack : (stack + more) / page * page;
}

#define SYSTEMS_STACK 0

/* Where it ends to ask for twice as much: what most systems give, of address space alone. */
#define STACK_BYTES_MOST ((size_t)8 << 20)

/*
 * pthread_create, without signals in the new thread until it has its own mask. The caller
 * takes those of its own doing meanwhile: the memory that pthread_create writes may be
 * behind a barrier, and its system calls in a sandbox.
 */
static int create(pthread_t *thread, struct start *start, size_t stack)
{
	pthread_attr_t attr;
	sigset_t others, old;
	int err;

	if ((err = pthread_attr_init(&attr)) != 0)
		return err;
	if (stack == SYSTEMS_STACK || (err = pthread_attr_setstacksize(&attr, stack)) == 0) {
		fill_but_synchronous(&others);
		pthread_sigmask(SIG_BLOCK, &others, &old);
		err = pthread_create(thread, &attr, thread_main, start);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	pthread_attr_destroy(&attr);
	return err;
}

static size_t systems_stack(void)
{
	pthread_attr_t attr;
	size_t bytes = 0;

	if (pthread_attr_init(&attr) == 0) {
		pthread_attr_getstacksize(&attr, &bytes);
		pthread_attr_destroy(&attr);
	}
	return bytes;
}

/*
 * EINVAL: too small, for a reason that isn't known here. Then with more, and at last with
 * the system's own, if that is no less. (Whatever else is wrong is wrong with these too.)
 */
static int create_with_stack(const struct cq_threads *t, pthread_t *thread, struct start *start)
{
	size_t wanted = stack_of(t), stack = wanted, most;
	int err = create(thread, start, stack);

	if (err != EINVAL)
		return err;
	most = systems_stack();
	while (err == EINVAL && stack < max_size(most, STACK_BYTES_MOST) / 2) {
		stack *= 2;
		err = create(thread, start, stack);
	}
	return err == EINVAL && wanted <= most ? create(thread, start, SYSTEMS_STACK) : err;
}

int cq_threads_spawn(void *threads, void (*body)(void *), void *arg)
{
	struct cq_threads *t = threads;
	struct start *start = cq_allocate(t->allocator, sizeof(*start));
	pthread_t thread;
	int err;

	if (start == NULL)
		return ENOMEM;
	*start = (struct start){ t, body, arg, t->forks };
	pthread_mutex_lock(&t->lock);
	t->running++;
	pthread_mutex_unlock(&t->lock);
	err = create_with_stack(t, &thread, start);
	if (err != 0) {
		pthread_mutex_lock(&t->lock);
		t->running--;
		pthread_cond_signal(&t->ended);
		pthread_mutex_unlock(&t->lock);
		cq_release(t->allocator, start, sizeof(*start));
	}
	return err;
}

void cq_threads_join(struct cq_threads *t)
{
	pthread_t last = pthread_self();
	bool has_last;
	int cancel;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* the waits are cancellation points */
	pthread_mutex_lock(&t->lock);
	while (t->running != 0)
		pthread_cond_wait(&t->ended, &t->lock);
	if ((has_last = t->has_last))
		last = t->last;
	t->has_last = false;
	pthread_mutex_unlock(&t->lock);
	if (has_last)
		pthread_join(last, NULL);
	pthread_setcancelstate(cancel, &cancel);
}
