/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* setresuid */
#include "faults.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faults_system.h"

static const struct {
	const char *name;
	uint32_t one_in;
} kinds[FAULTS_N] = {
#define X(NAME, name, one_in) { name, one_in },
	FAULTS(X)
#undef X
};

static atomic_bool on[FAULTS_N];
/* Shared with the children, whose faults count too. */
static struct {
	atomic_ullong of[FAULTS_N];
} *struck;

/* ------------------------------------------------------------------ chance */

/* One thread's generators. A thread is seeded by the one that made it; the first by 0. */
struct chance {
	bool ready;
	uint64_t seed;		/* of the next thread that this one makes */
	rng_t of[FAULTS_N], length;
};

static _Thread_local struct chance chance;

static void seed_chance(uint64_t thread)
{
	rng_t r = { test_seed() ^ thread };

	for (unsigned i = 0; i < FAULTS_N; i++)
		chance.of[i].state = rng_next(&r);
	chance.length.state = rng_next(&r);
	chance.seed = rng_next(&r);
	chance.ready = true;
}

static struct chance *mine(void)
{
	if (!chance.ready)
		seed_chance(0);
	return &chance;
}

void faults_reseed(void)
{
	seed_chance(0);
}

const char *faults_name(enum fault kind)
{
	return kinds[kind].name;
}

bool faults_due(enum fault kind)
{
	return atomic_load_explicit(&on[kind], memory_order_relaxed) &&
	    rng_below(&mine()->of[kind], kinds[kind].one_in) == 0;
}

void faults_count(enum fault kind)
{
	atomic_fetch_add_explicit(&struck->of[kind], 1, memory_order_relaxed);
}

bool faults_strike(enum fault kind)
{
	bool due = faults_due(kind);

	if (due)
		faults_count(kind);
	return due;
}

unsigned long long faults_counted(enum fault kind)
{
	return struck->of[kind];
}

unsigned long long faults_sum(void)
{
	unsigned long long sum = 0;

	for (unsigned i = 0; i < FAULTS_N; i++)
		sum += struck->of[i];
	return sum;
}

/* ------------------------------------------------------ time for other threads */

static uint64_t stop_ns = 100000000;

void faults_sleep(uint64_t ns)
{
	struct timespec ts = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) };

	while (nanosleep(&ts, &ts) != 0 && errno == EINTR) /* signals are a fault too */
		;
}

void faults_pause(uint64_t ns)
{
	faults_sleep(rng_below(&mine()->length, ns));
}

void faults_set_stop(uint64_t ns)
{
	stop_ns = ns;
}

void faults_stop(void)
{
	faults_sleep(stop_ns);
}

static void let_others_run(void)
{
	uint64_t length = rng_below(&mine()->length, 1000);

	if (length < 100) {
		faults_sleep(length * 1000);
	} else if (length < 700) {
		sched_yield();
	} else {
		for (atomic_uint n = (unsigned)length; n > 0; n--)
			;
	}
}

void faults_step(void)
{
	if (faults_strike(FAULT_PREEMPT))
		let_others_run();
	if (faults_strike(FAULT_STALL))
		faults_pause(20000000);
}

/* ----------------------------------------------------------------- the clock */

/*
 * The library's clock is the system's and an offset that jumps by up to ten
 * hours to either side of this, so that it never goes below zero. Waits are
 * translated back.
 */
static const int64_t hour = INT64_C(3600000000000);
static atomic_llong offset = INT64_C(360000000000000);

int faults_clock_gettime(clockid_t clock, struct timespec *ts)
{
	int err = clock_gettime(clock, ts);
	int64_t ns;

	if (faults_strike(FAULT_CLOCK))
		offset = 90 * hour + (int64_t)rng_below(&mine()->length, 20 * (uint64_t)hour);
	ns = (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec + offset;
	ts->tv_sec = (time_t)(ns / 1000000000);
	ts->tv_nsec = (long)(ns % 1000000000);
	return err;
}

static struct timespec system_time(const struct timespec *until)
{
	uint64_t ns = (uint64_t)until->tv_sec * 1000000000 + (uint64_t)until->tv_nsec;
	uint64_t ahead = (uint64_t)offset;

	ns = ns > ahead ? ns - ahead : 0;
	return (struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) };
}

/* ----------------------------------------------------------------- the system */

static bool is_futex_wait(long number, long operation)
{
	bool futex = number == SYS_futex;

#ifdef SYS_futex_time64
	futex = futex || number == SYS_futex_time64;
#endif
	return futex && (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
}

long faults_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	struct timespec until;

	if (number == SYS_membarrier && a == MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED &&
	    faults_strike(FAULT_NO_MEMBARRIER)) {
		errno = ENOSYS;
		return -1;
	}
	if (is_futex_wait(number, b)) {
		if (faults_strike(FAULT_WAIT_AT_ONCE))
			return 0;
		if (faults_strike(FAULT_WAIT_EINTR)) {
			errno = EINTR;
			return -1;
		}
		if (d != 0) {
			until = system_time((const struct timespec *)d);
			d = (long)&until;
		}
	}
	return syscall(number, a, b, c, d, e, f);
}

/* A wait that returns at once has still let go of the lock. */
static bool returns_at_once(pthread_mutex_t *lock)
{
	if (!faults_strike(FAULT_WAIT_AT_ONCE) && !faults_strike(FAULT_WAIT_EINTR))
		return false;
	pthread_mutex_unlock(lock);
	sched_yield();
	pthread_mutex_lock(lock);
	return true;
}

int faults_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock)
{
	return returns_at_once(lock) ? 0 : pthread_cond_wait(cond, lock);
}

int faults_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
	struct timespec ts = system_time(until);

	return returns_at_once(lock) ? 0 : pthread_cond_timedwait(cond, lock, &ts);
}

bool faults_alloc(void)
{
	return faults_strike(FAULT_ALLOC);
}

/* ------------------------------------------------------- threads and signals */

/* Under the lock: the threads that signals are sent to, and the limit on threads. */
struct thread {
	void *(*body)(void *arg);
	void *arg;
	uint64_t seed;
	pthread_t self;
	struct thread *next, **link;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct thread *threads;
static struct rlimit unlimited;
static bool limited;

static void enlist(struct thread *t)
{
	t->self = pthread_self();
	pthread_mutex_lock(&lock);
	t->next = threads;
	t->link = &threads;
	if (t->next != NULL)
		t->next->link = &t->next;
	threads = t;
	pthread_mutex_unlock(&lock);
}

/* Also when the thread's body has ended the thread. */
static void delist(void *arg)
{
	struct thread *t = arg;

	pthread_mutex_lock(&lock);
	*t->link = t->next;
	if (t->next != NULL)
		t->next->link = t->link;
	pthread_mutex_unlock(&lock);
	free(t);
}

static void *run_thread(void *arg)
{
	struct thread *t = arg;
	void *result;

	seed_chance(t->seed);
	enlist(t);
	pthread_cleanup_push(delist, t);
	result = t->body(t->arg);
	pthread_cleanup_pop(1);
	return result;
}

static int create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg)
{
	struct thread *t = malloc(sizeof(*t));
	int err;

	CHECK(t != NULL);
	*t = (struct thread){ .body = body, .arg = arg, .seed = mine()->seed };
	chance.seed = rng_next(&(rng_t){ chance.seed });
	err = pthread_create(thread, attr, run_thread, t);
	if (err == 0)
		return 0;
	free(t);
	CHECK(err == EAGAIN); /* and nothing but the limit makes it fail */
	faults_count(FAULT_THREAD_LIMIT);
	return err;
}

static bool in_burst(void)
{
	static atomic_int burst;

	if (faults_strike(FAULT_THREAD_BURST))
		burst = 1 + (int)rng_below(&mine()->length, 30);
	else if (on[FAULT_THREAD_BURST] && burst > 0)
		faults_count(FAULT_THREAD_BURST);
	return on[FAULT_THREAD_BURST] && burst > 0 && burst-- > 0;
}

int faults_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg)
{
	if (faults_strike(FAULT_THREAD_NEVER) || faults_strike(FAULT_THREAD) || in_burst())
		return EAGAIN;
	return create(thread, attr, body, arg);
}

int faults_start(pthread_t *thread, void *(*body)(void *), void *arg)
{
	return create(thread, NULL, body, arg);
}

/* ----------------------------------------------- what comes from outside: the storm */

static pthread_t storm;
static atomic_bool storming;

static void on_signal(int number)
{
	int saved = errno;

	(void)number;
	faults_count(FAULT_SIGNAL);
	sched_yield();
	errno = saved;
}

/* With the lock held. */
static void limit_threads(bool limit)
{
	const struct rlimit none = { 0, unlimited.rlim_max };

	if (limit != limited)
		CHECK(setrlimit(RLIMIT_NPROC, limit ? &none : &unlimited) == 0);
	limited = limit;
}

/* Signals to all threads (the library's own have them blocked), and the limit, up and down. */
static void *be_storm(void *unused)
{
	(void)unused;
	while (storming) {
		faults_pause(400000);
		pthread_mutex_lock(&lock);
		if (faults_due(FAULT_SIGNAL))
			for (struct thread *t = threads; t != NULL; t = t->next)
				pthread_kill(t->self, SIGUSR1);
		if (limited ? rng_below(&mine()->length, 8) == 0 : faults_due(FAULT_THREAD_LIMIT))
			limit_threads(!limited);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void start_storm(void)
{
	struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART: calls are interrupted */
	sigset_t usr1, old;

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, &old);
	storming = true;
	storm = start(be_storm, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* ------------------------------------------------------------ all of it, on and off */

static void fork_prepare(void) { pthread_mutex_lock(&lock); }
static void fork_parent(void) { pthread_mutex_unlock(&lock); }

static void fork_child(void)
{
	pthread_mutex_init(&lock, NULL);
	threads = NULL;
}

/* clang's ThreadSanitizer starts a program that reads this one's, to name what it suppresses. */
static bool starts_a_symbolizer(void)
{
#if defined(__clang__) && defined(__has_feature)
	return __has_feature(thread_sanitizer);
#else
	return false;
#endif
}

void faults_begin(void)
{
	const uid_t nobody = 65534;

	test_seed();
	if (!starts_a_symbolizer() && geteuid() == 0 && setresuid(nobody, nobody, nobody) == 0)
		prctl(PR_SET_DUMPABLE, 1); /* the leak checker traces this process */
	CHECK(getrlimit(RLIMIT_NPROC, &unlimited) == 0);
	struck = mmap(NULL, sizeof(*struck), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(struck != MAP_FAILED);
	CHECK(pthread_atfork(fork_prepare, fork_parent, fork_child) == 0);
	start_storm();
}

void faults_end(void)
{
	faults_set(0);
	storming = false;
	join(storm);
	munmap(struck, sizeof(*struck));
}

void faults_set(fault_set_t set)
{
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < FAULTS_N; i++)
		on[i] = (set & FAULT_BIT(i)) != 0;
	limit_threads(false);
	pthread_mutex_unlock(&lock);
}

bool faults_threads_in_child(void)
{
#ifdef __SANITIZE_THREAD__
	return false;
#elif defined(__has_feature)
	return !__has_feature(thread_sanitizer);
#else
	return true;
#endif
}

void faults_in_child(void)
{
	threads = NULL;
	faults_set(faults_threads_in_child() ? 0 : FAULT_BIT(FAULT_THREAD_NEVER));
}

/* AddressSanitizer before LLVM 17 and gcc 14 leaves its allocator locked in the child of a fork, where another thread
   was in it: support.c. Here the others never all sleep. */
static bool child_can_allocate(void)
{
#if defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
	return __GNUC__ >= 14;
#elif defined(__has_feature) && defined(__clang_major__)
	return !__has_feature(address_sanitizer) || __clang_major__ >= 17;
#else
	return true;
#endif
}

fault_set_t faults_possible(void)
{
	fault_set_t set = FAULT_BIT(FAULTS_N) - 1;

#ifndef FAULTS_MEMBARRIER
	set &= ~FAULT_BIT(FAULT_NO_MEMBARRIER);
#endif
	if (geteuid() == 0 || starts_a_symbolizer())
		set &= ~FAULT_BIT(FAULT_THREAD_LIMIT);
	/* An emulator may not survive them. */
	if (getenv("CQ_NO_FORKS") != NULL || !child_can_allocate())
		set &= ~(FAULT_BIT(FAULT_CALL_FORKS) | FAULT_BIT(FAULT_FORK_LIVES) |
		    FAULT_BIT(FAULT_FORK_EXECS));
	return set;
}

bool faults_can_have(enum fault kind)
{
	return (faults_possible() & FAULT_BIT(kind)) != 0;
}

fault_set_t faults_mix(rng_t *r)
{
	fault_set_t set = rng_next(r);

	if (rng_below(r, 2) == 0)
		set &= rng_next(r) & rng_next(r);
	/* It would keep all the others from what they do to workers. */
	if (rng_below(r, 4) != 0)
		set &= ~FAULT_BIT(FAULT_THREAD_NEVER);
	return set & faults_possible();
}

bool faults_report(void)
{
	bool all = true;

	for (enum fault kind = 0; kind < FAULTS_N; kind++) {
		bool possible = faults_can_have(kind), missing = possible && faults_counted(kind) == 0;

		printf("  %-36s %9llu%s\n", faults_name(kind), faults_counted(kind),
		    missing ? "  NEVER STRUCK" : possible ? "" : "  not possible here");
		all = all && !missing;
	}
	return all;
}
