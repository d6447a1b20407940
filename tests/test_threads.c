/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Managed threads, as src/pool/threads.c makes them: what signals they take, how much stack
 * they have, that they are joined, and what happens when the system refuses one.
 */
#define _GNU_SOURCE /* pthread_getattr_np, pthread_getname_np, setresuid */
#include <criterion/criterion.h>
#include <alloca.h>
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "jobs.h"

TestSuite(threads, .timeout = 60);

static void open_with(cq_pool_config_t config)
{
	open_pool(config);
	open_task(&a, 0);
}

static void run_here(test_act_fn *act)
{
	unsigned done = a.done;

	cr_assert_eq(signal_job(&a, act, NULL), 0);
	AWAIT(a.done == done + 1);
}

/* ------------------------------------------------------- what the system is asked for */

/* The linker (--wrap) sends the calls of the library here. */
static struct {
	sigset_t making;	/* blocked in the maker, while it makes a thread */
	size_t bytes, least;	/* of a stack: asked for last; less than this is refused */
	unsigned times;
	bool no_attr, no_stacksize, no_symbols; /* refused; glibc says nothing of its storage */
} asked;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg)
{
	size_t bytes;

	if (attr == NULL) /* the test's own */
		return __real_pthread_create(thread, attr, body, arg);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &asked.making) == 0);
	CHECK(pthread_attr_getstacksize(attr, &bytes) == 0);
	asked.times++;
	if (bytes < asked.least)
		return EINVAL;
	asked.bytes = bytes;
	return __real_pthread_create(thread, attr, body, arg);
}

int __real_pthread_attr_init(pthread_attr_t *attr);
int __wrap_pthread_attr_init(pthread_attr_t *attr);
int __wrap_pthread_attr_init(pthread_attr_t *attr)
{
	return asked.no_attr ? ENOMEM : __real_pthread_attr_init(attr);
}

int __real_pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes);
int __wrap_pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes);
int __wrap_pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes)
{
	return asked.no_stacksize ? EINVAL : __real_pthread_attr_setstacksize(attr, bytes);
}

void *__real_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name)
{
	return asked.no_symbols ? NULL : __real_dlsym(handle, name);
}

/* ----------------------------------------------------------------------- signals */

static const int synchronous[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
static const int own[] = { SIGABRT, SIGPROF, SIGVTALRM };

static bool is_one_of(int signal, const int *signals, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (signals[i] == signal)
			return true;
	return false;
}

static sigset_t seen; /* blocked in a task */

static void look_at_mask(void *unused)
{
	(void)unused;
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &seen) == 0);
}

/* Blocked are all that can be and are not the C library's, but synchronous ones; own_too: and `own`. */
static void check_blocked(const sigset_t *set, bool own_too)
{
	for (int i = 1; i < SIGRTMAX; i++) {
		if (i == SIGKILL || i == SIGSTOP || (i > SIGSYS && i < SIGRTMIN))
			continue;
		cr_assert_eq(sigismember(set, i), !is_one_of(i, synchronous, 6) &&
		    (own_too || !is_one_of(i, own, 3)), "signal %d", i);
	}
}

static void block_all(sigset_t *old)
{
	sigset_t all;

	sigfillset(&all);
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, &all, old), 0);
}

static void set_mask(const sigset_t *set)
{
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, set, NULL), 0);
}

Test(threads, a_worker_blocks_all_signals_but_those_of_a_threads_own_doing)
{
	sigset_t before, after;

	open_with((cq_pool_config_t){ 0 });
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
	run_here(look_at_mask);
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	check_blocked(&seen, false);
	check_blocked(&asked.making, true);
	for (int i = 1; i < SIGRTMAX; i++)
		cr_assert_eq(sigismember(&before, i), sigismember(&after, i));
	end_pool();
}

Test(threads, a_workers_mask_is_not_its_makers)
{
	sigset_t old;

	open_with((cq_pool_config_t){ 0 });
	block_all(&old);
	run_here(look_at_mask);
	check_blocked(&seen, false);
	cr_assert_eq(sigismember(&asked.making, SIGPROF), 1); /* pending ones don't slip through */
	set_mask(&old);
	end_pool();
}

Test(threads, what_the_creator_takes_by_sigwait_stays_blocked)
{
	sigset_t old;

	block_all(&old);
	open_with((cq_pool_config_t){ 0 });
	set_mask(&old);
	run_here(look_at_mask);
	check_blocked(&seen, true);
	end_pool();
}

static int unblock_all(void *unused)
{
	sigset_t none;

	(void)unused;
	sigemptyset(&none);
	return pthread_sigmask(SIG_SETMASK, &none, NULL);
}

Test(threads, what_worker_start_unblocks_stays_so)
{
	open_with((cq_pool_config_t){ .worker_start = unblock_all });
	run_here(look_at_mask);
	for (int i = 1; i < SIGRTMIN; i++)
		cr_assert_neq(sigismember(&seen, i), 1, "signal %d", i);
	end_pool();
}

static char *page;
static atomic_uint dirtied;

/* A collector's write barrier. */
static void on_fault(int signal, siginfo_t *info, void *unused)
{
	(void)unused;
	CHECK(signal == SIGSEGV && info->si_addr == page);
	dirtied++;
	CHECK(mprotect(page, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE) == 0);
}

static void write_to_page(void *unused)
{
	(void)unused;
	*(volatile char *)page = 1;
}

Test(threads, a_fault_in_a_task_runs_the_programs_handler)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	page = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq((void *)page, MAP_FAILED);
	cr_assert_eq(sigaction(SIGSEGV, &action, NULL), 0);
	open_with((cq_pool_config_t){ 0 });
	run_here(write_to_page);
	cr_assert_eq(dirtied, 1);
	end_pool();
}

/* ------------------------------------------------------------------- cancellation */

static pthread_t worker;

static void stay_and_test(void *unused)
{
	(void)unused;
	worker = pthread_self();
	stay(&room);
	pthread_testcancel();
}

Test(threads, a_managed_thread_is_not_cancelled_unless_a_task_allows_it)
{
	cq_pool_config_t config = with_defaults((cq_pool_config_t){ 0 });

	config.park = NULL; /* the fake is a cancellation point */
	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	open_task(&a, 0);
	cr_assert_eq(signal_job(&a, stay_and_test, NULL), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(pthread_cancel(worker), 0);
	gate_open(&room.leave);
	AWAIT(a.done == 1);
	run_here(NULL);
	cr_assert_eq(stats().workers_created, 1);
	end_pool();
}

/* ------------------------------------------------------------------ stacks, names */

/* As a sanitizer, a Zig debug program or an engine has it; glibc takes it out of each stack. */
static __thread volatile char storage[300 << 10];

static size_t left; /* of the stack, below a job's frame */

/* Near the end of the stack there is no room for the calls that AddressSanitizer adds. */
__attribute__((no_sanitize("address")))
static void use_stack(void *unused)
{
	pthread_attr_t attr;
	volatile char *all;
	void *low;
	size_t bytes;

	(void)unused;
	storage[0] = 1;
	CHECK(pthread_getattr_np(pthread_self(), &attr) == 0);
	CHECK(pthread_attr_getstack(&attr, &low, &bytes) == 0);
	pthread_attr_destroy(&attr);
	left = (size_t)((char *)__builtin_frame_address(0) - (char *)low);
	all = alloca(left - 2048);
	for (size_t i = left - 2048; i-- > 0; ) /* downwards, as a stack grows */
		all[i] = 1;
}

static void use_stack_of(size_t bytes)
{
	open_with((cq_pool_config_t){ .stack_bytes = bytes });
	run_here(use_stack);
	end_pool();
}

Test(threads, a_task_has_the_stack_of_the_config_whatever_the_static_storage)
{
	const size_t sizes[] = { 1, 16 << 10, 100 << 10, 1 << 20, 16 << 20 };

	use_stack_of(0);
	/* What the system takes for its least stack may be among what was asked for (arm64: 128 KiB). */
	cr_assert(left >= 256 << 10 &&
	    left < (320 << 10) + (size_t)sysconf(_SC_THREAD_STACK_MIN), "%zu", left);
	for (unsigned i = 0; i < 5; i++) {
		use_stack_of(sizes[i]);
		cr_assert(left >= sizes[i] && left >= 16 << 10, "%zu of %zu", left, sizes[i]);
		cr_assert_lt(asked.bytes, sizes[i] + sizeof(storage) + (80 << 10) +
		    (size_t)sysconf(_SC_THREAD_STACK_MIN));
	}
}

/* As in a static program. */
Test(threads, where_nobody_says_it_the_storage_of_all_objects_is_summed_up)
{
	asked.no_symbols = true;
	use_stack_of(0);
	cr_assert_geq(left, (size_t)256 << 10);
	cr_assert_eq(asked.times, 1);
}

Test(threads, a_stack_below_the_minimum_is_raised)
{
	open_with((cq_pool_config_t){ .stack_bytes = 1 });
	run_here(use_stack);
	cr_assert_geq(left, (size_t)16 << 10);
	cr_assert_geq(left, (size_t)PTHREAD_STACK_MIN);
	/* glibc has a minimum of its own on top of the storage. */
	cr_assert_geq(asked.bytes - pool->threads.stack_overhead, (size_t)16 << 10);
	end_pool();
}

Test(threads, a_stack_that_is_too_small_is_asked_for_larger)
{
	asked.least = 3 << 20;
	use_stack_of(0);
	cr_assert(asked.bytes >= 3 << 20 && asked.bytes < 6 << 20, "%zu", asked.bytes);
}

Test(threads, at_last_a_stack_is_of_the_systems_size)
{
	pthread_attr_t attr;

	cr_assert_eq(pthread_attr_init(&attr), 0);
	cr_assert_eq(pthread_attr_getstacksize(&attr, &asked.least), 0);
	if (asked.least < 1 << 20)
		cr_skip("the system's stacks are small");
	use_stack_of(0);
	cr_assert_eq(asked.bytes, asked.least);
}

Test(threads, no_stack_is_smaller_than_it_is_to_be)
{
	open_with((cq_pool_config_t){ .stack_bytes = (size_t)64 << 20 });
	asked.least = (size_t)65 << 20;
	cr_assert_eq(signal_jobs(&a, 1), EINVAL);
	cr_assert_eq(asked.times, 1);
	asked.least = 0;
	cr_assert_eq(cq_pool_wake(pool), 0);
	AWAIT(a.done == 1);
	cr_assert_geq(asked.bytes, (size_t)64 << 20);
	end_pool();
}

static char name[16];

static void look_at_name(void *unused)
{
	(void)unused;
	CHECK(pthread_getname_np(pthread_self(), name, sizeof(name)) == 0);
}

static void look_at_name_of(const char *configured)
{
	open_with((cq_pool_config_t){ .name = configured });
	run_here(look_at_name);
	end_pool();
}

Test(threads, a_worker_has_the_name_of_the_config)
{
	look_at_name_of(NULL);
	cr_assert_str_eq(name, "cq-worker");
	look_at_name_of("fifteen letters");
	cr_assert_str_eq(name, "fifteen letters");
}

/* ------------------------------------------------------------------------- joined */

static unsigned count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned n = 0;
	int ch;

	CHECK(f != NULL);
	while ((ch = getc(f)) != EOF)
		n += ch == '\n';
	fclose(f);
	return n;
}

static unsigned count_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	CHECK(d != NULL);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}

Test(threads, threads_that_retire_are_joined)
{
	enum { TIMES = 200, WARM = 20 };
	unsigned threads = count_threads(), mappings = 0;

	open_with((cq_pool_config_t){ .idle_ns = IDLE_NS });
	for (unsigned i = 0; i < TIMES; i++) {
		run_here(NULL);
		fake_wait_blocked(&park, 1);
		fake_advance(&park, IDLE_NS);
		AWAIT(workers_are(0));
		if (i == WARM)
			mappings = count_lines("/proc/self/maps");
	}
	cr_assert_eq(stats().workers_retired, TIMES);
	/* One that has ended may wait for the next to join it. */
	AWAIT(count_threads() <= threads + 1);
	/* A thread that nobody joins keeps its stack: a mapping or two each. */
	cr_assert_leq(count_lines("/proc/self/maps"), mappings + 20);
	end_pool();
	cr_assert_eq(count_threads(), threads);
}

/* --------------------------------------------------------------- what is refused */

/* A signal has said `err`; when nothing is refused any more the next call makes the worker. */
static void check_stalled(int err)
{
	cr_assert_eq(cq_pool_wake(pool), err);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_coming, 0);
	cr_assert_eq(stats().workers_failed, 2);
	cr_assert_eq(a.stalled, 2);
	cr_assert_eq(a.calls, 0);
}

static void check_made_at_last(void)
{
	cr_assert_eq(cq_pool_wake(pool), 0);
	AWAIT(a.done == 1);
	end_pool();
}

Test(threads, thread_attributes_that_cannot_be_had_stall_the_pool_until_they_can)
{
	open_with((cq_pool_config_t){ 0 });
	asked.no_attr = true;
	cr_assert_eq(signal_jobs(&a, 1), EAGAIN);
	check_stalled(EAGAIN);
	asked.no_attr = false;
	check_made_at_last();
}

Test(threads, a_stack_size_that_is_refused_is_the_systems)
{
	open_with((cq_pool_config_t){ .stack_bytes = 1 }); /* musl's own is 128 KiB */
	asked.no_stacksize = true;
	run_here(NULL);
	asked.no_stacksize = false;
	end_pool();
}

Test(threads, a_stack_that_cannot_be_had_stalls_the_pool_until_it_can)
{
	size_t good;
	int err;

	open_with((cq_pool_config_t){ 0 });
	good = pool->config.stack_bytes;
	pool->config.stack_bytes = SIZE_MAX / 8 * 7; /* more than 32 bits can address, too */
	err = signal_jobs(&a, 1);
	cr_assert(err == EAGAIN || err == EINVAL); /* musl's limit is lower */
	check_stalled(err);
	pool->config.stack_bytes = good;
	check_made_at_last();
}

Test(threads, the_limit_of_threads_stalls_the_pool_until_it_is_raised)
{
	const uid_t nobody = 65534;
	struct rlimit limit;

	/* The limit doesn't bind root. */
	if (geteuid() == 0 && setresuid(nobody, nobody, nobody) != 0)
		cr_skip("can't become another user");
	prctl(PR_SET_DUMPABLE, 1); /* the leak checker traces this process */
	cr_assert_eq(getrlimit(RLIMIT_NPROC, &limit), 0);
	open_with((cq_pool_config_t){ 0 });
	cr_assert_eq(setrlimit(RLIMIT_NPROC, &(struct rlimit){ 0, limit.rlim_max }), 0);
	cr_assert_eq(signal_jobs(&a, 1), EAGAIN);
	check_stalled(EAGAIN);
	cr_assert_eq(setrlimit(RLIMIT_NPROC, &limit), 0);
	check_made_at_last();
}

Test(threads, without_memory_for_a_thread_a_signal_says_so_and_nothing_leaks)
{
	size_t live;

	open_with((cq_pool_config_t){ 0 });
	live = alloc.live_bytes;
	alloc.fail_in = 1; /* the worker's record */
	cr_assert_eq(signal_jobs(&a, 1), EAGAIN);
	alloc.fail_in = 1;
	check_stalled(EAGAIN);
	cr_assert_eq(alloc.failures, 2);
	cr_assert_eq(alloc.live_bytes, live);
	check_made_at_last();
}
