/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults, injected into libcq_faults (see faults_inject.h) and into the load that
 * the tests put on it. A kind that is on strikes by chance, one time in so many.
 *
 * Replay. Every thread has a generator of its own for every kind, seeded by
 * CQ_TEST_SEED and by the generator of the thread that made it. With the same
 * seed the nth chance of a kind in a thread is decided the same way again,
 * whatever the other threads do. What stays open is the schedule: how often a
 * thread comes by a place, how the threads fall in between each other, and which
 * thread the kernel interrupts. So a seed repeats the faults, not the run.
 */
#ifndef CQ_TESTS_FAULTS_H
#define CQ_TESTS_FAULTS_H

#include "support.h"

/* X(NAME, "name", one in so many chances) */
#define FAULTS(X)								\
	X(ALLOC, "allocation fails", 20)					\
	X(THREAD, "thread not made", 3)						\
	X(THREAD_BURST, "threads not made for a while", 10)			\
	X(THREAD_NEVER, "threads never made", 1)				\
	X(THREAD_LIMIT, "threads not made: RLIMIT_NPROC", 8)			\
	X(START, "worker_start refuses", 4)					\
	X(WAIT_AT_ONCE, "wait returns at once", 3)				\
	X(WAIT_EINTR, "wait returns EINTR", 3)					\
	X(SIGNAL, "signal", 1)							\
	X(PREEMPT, "preempted between two steps", 100)				\
	X(STALL, "stopped between two steps for ms", 20000)			\
	X(CLOCK, "clock jumps by hours", 20)					\
	X(NO_MEMBARRIER, "membarrier refused", 1)				\
	X(CALL_BLOCKS, "callback blocks for ms", 100)				\
	X(CALL_STOPS, "callback stops its worker", 5000)			\
	X(CALL_ENQUEUES, "callback enqueues", 8)				\
	X(CALL_FLUSHES, "callback flushes all", 16)				\
	X(CALL_ATTACHES, "callback attaches or detaches", 16)			\
	X(CALL_RUNS, "callback runs callbacks", 16)				\
	X(CALL_MISUSES, "callback does what is refused", 32)			\
	X(CALL_FORKS, "callback forks", 2000)					\
	X(CALL_EXITS, "callback ends its thread", 1000)				\
	X(CALL_CANCELS, "callback is cancelled", 1000)				\
	X(FORK_LIVES, "fork: child goes on", 4)					\
	X(FORK_EXECS, "fork: child execs", 4)

enum fault {
#define X(NAME, name, one_in) FAULT_##NAME,
	FAULTS(X)
#undef X
	FAULTS_N
};

typedef uint64_t fault_set_t; /* of kinds, a bit each */
#define FAULT_BIT(kind) (UINT64_C(1) << (kind))

/* Those that this build and this user can have: all but a few. */
fault_set_t faults_possible(void);
bool faults_can_have(enum fault kind);
/* A few of them, or most, by chance. */
fault_set_t faults_mix(rng_t *r);
const char *faults_name(enum fault kind);

/* Before there are threads. Leaves root, whom no limit on threads binds. */
void faults_begin(void);
void faults_end(void);

/* Which kinds are on. From when it returns, no other one strikes. */
void faults_set(fault_set_t kinds);

/* In a child that one thread has forked: all off. ThreadSanitizer's can't make threads. */
void faults_in_child(void);
bool faults_threads_in_child(void);

/* By chance: is it due? Whoever then does it says so. faults_strike: both. */
bool faults_due(enum fault kind);
void faults_count(enum fault kind);
bool faults_strike(enum fault kind);

/* The calling thread begins again, as the first thread does. */
void faults_reseed(void);

/* How often each has struck, in this process and its children. */
unsigned long long faults_counted(enum fault kind);
unsigned long long faults_sum(void);
/* Prints it; false: one that is possible never struck. */
bool faults_report(void);

/* How long a callback stops its worker. */
void faults_set_stop(uint64_t ns);
void faults_stop(void);
/* Through all signals. faults_pause: up to ns, by chance. */
void faults_sleep(uint64_t ns);
void faults_pause(uint64_t ns);

/* For the library's and for the tests' own threads: signals reach them. 0 or EAGAIN. */
int faults_start(pthread_t *thread, void *(*body)(void *), void *arg);

/* For test_alloc_t.fails */
bool faults_alloc(void);

#endif /* CQ_TESTS_FAULTS_H */
