/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The threads that the library makes: what the host's worker_start and worker_end may
 * rely on, what signals they take, how much stack they have, what they don't inherit.
 */
#define _GNU_SOURCE /* pthread_getattr_np */
#include <criterion/criterion.h>
#include <alloca.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup/cleanup_priv.h"
#include "support.h"

TestSuite(threads, .timeout = 60);

enum { SLOTS = 2, RECORDS = 256, IDLE_NS = 1000 };

#include "records.h" /* of RECORDS callbacks */

static cq_cleanup_t *q;
static cq_producer_t *p;
static fake_park_t park;

/* The host, which counts its hooks. The thread's own count tells whether they are paired. */
static struct host {
	atomic_uint starts, ends;
	void (*in_start)(void), (*in_end)(void);
} host;
static __thread int started;

static void on_start(void *arg)
{
	CHECK(arg == &host);
	CHECK(started++ == 0);
	host.starts++;
	if (host.in_start != NULL)
		host.in_start();
}

static void on_end(void *arg)
{
	CHECK(arg == &host);
	CHECK(started-- == 1);
	host.ends++;
	if (host.in_end != NULL)
		host.in_end();
}

static void record_in_between(void *arg)
{
	CHECK(started == 1);
	record(arg);
}

static void open_parking_with(const cq_park_ops_t *ops, cq_cleanup_config_t config)
{
	config.park = ops;
	config.block_bytes = CQ_BLOCK_BYTES_MIN;
	config.max_workers = config.max_workers != 0 ? config.max_workers : 1;
	config.idle_ns = config.idle_ns != 0 ? config.idle_ns : CQ_FOREVER;
	config.host = &host;
	config.worker_start = on_start;
	config.worker_end = on_end;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
}

static void open_with(cq_cleanup_config_t config)
{
	fake_init(&park);
	open_parking_with(&park.ops, config);
}

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
}

static int publish(cq_callback_fn *fn)
{
	CHECK(cq_producer_enqueue(p, fn, next_record()) == 0);
	return cq_producer_flush(p);
}

static void end_queue(void)
{
	cq_producer_detach(p);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, wait_limit(), NULL, NULL) == 0);
	CHECK(stats().workers_live == 0 && stats().workers_coming == 0);
	CHECK(q->crew == 0);
	CHECK(cq_cleanup_destroy(q) == 0);
	CHECK(ran == accepted);
}

/* ------------------------------------------------------------- one start, one end */

Test(threads, each_worker_begins_with_worker_start_and_ends_with_worker_end)
{
	open_with((cq_cleanup_config_t){ .max_workers = 3 });
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(cq_producer_enqueue(p, record_in_between, next_record()), 0);
	AWAIT(ran == 6);
	end_queue();
	cr_assert_geq(host.starts, 1);
	cr_assert_eq(host.ends, host.starts); /* when the shutdown returned */
}

Test(threads, a_worker_that_was_idle_for_too_long_has_its_worker_end)
{
	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	for (unsigned i = 1; i <= 2; i++) {
		cr_assert_eq(publish(record_in_between), 0);
		fake_wait_blocked(&park, 1);
		cr_assert_eq(host.ends, i - 1);
		fake_advance(&park, IDLE_NS);
		AWAIT(q->nworkers == 0);
		cr_assert(host.starts == i && host.ends == i);
	}
	end_queue();
	cr_assert_eq(host.starts, 2);
}

static void end_thread(void *arg)
{
	record_in_between(arg);
	pthread_exit(NULL);
}

/* See test_endings.c. */
void __asan_handle_no_return(void) __attribute__((weak));

static void cancel_thread(void *arg)
{
	int old;

	record_in_between(arg);
	if (__asan_handle_no_return != NULL)
		__asan_handle_no_return();
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	pthread_cancel(pthread_self());
	pthread_testcancel();
	CHECK(false);
}

Test(threads, a_worker_that_a_callback_ends_has_its_worker_end)
{
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(publish(end_thread), 0);
	AWAIT(host.ends == 1);
	cr_assert_eq(publish(cancel_thread), 0);
	AWAIT(host.ends == 2);
	cr_assert_eq(publish(record_in_between), 0);
	AWAIT(ran == 3);
	end_queue();
	cr_assert_eq(host.starts, 3);
	cr_assert_eq(host.ends, 3);
}

static void allow_cancellation(void *arg)
{
	int old;

	CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old) == 0);
	record(arg);
	pthread_cancel(pthread_self());
}

static atomic_bool not_cancelled;

static void be_a_cancellation_point(void)
{
	pthread_testcancel();
	not_cancelled = true;
}

Test(threads, worker_end_is_not_cancelled)
{
	open_parking_with(NULL, (cq_cleanup_config_t){ 0 }); /* the fake is a cancellation point */
	host.in_end = be_a_cancellation_point;
	cr_assert_eq(publish(allow_cancellation), 0);
	AWAIT(ran == 1);
	end_queue();
	cr_assert(not_cancelled);
}

static int spawn_err;

static void *be_thread(void *arg)
{
	void **body_and_arg = arg;

	((void (*)(void *))(uintptr_t)body_and_arg[0])(body_and_arg[1]);
	return NULL;
}

static int spawn(void *ctx, void (*body)(void *), void *arg)
{
	static void *body_and_arg[2];
	static pthread_t thread;

	CHECK(ctx == &host);
	if (body == NULL) {
		join(thread);
		return 0;
	}
	body_and_arg[0] = (void *)(uintptr_t)body;
	body_and_arg[1] = arg;
	thread = start(be_thread, body_and_arg);
	return spawn_err;
}

Test(threads, the_hosts_own_threads_have_no_hooks)
{
	open_with((cq_cleanup_config_t){ .spawn = spawn });
	cr_assert_eq(publish(record), 0);
	AWAIT(ran == 1);
	end_queue();
	spawn(&host, NULL, NULL);
	cr_assert_eq(host.starts, 0);
	cr_assert_eq(host.ends, 0);
}

/* ----------------------------------------------------------- what hooks may do */

static void use_the_queue(void)
{
	cq_producer_t *own;

	CHECK(cq_producer_attach(q, &own) == 0);
	CHECK(cq_producer_enqueue(own, record, next_record()) == 0);
	CHECK(cq_producer_flush(own) == 0);
	cq_producer_detach(own);
	CHECK(stats().queued >= 1);
	CHECK(cq_cleanup_drain(q, 0) == EDEADLK);
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL) == EDEADLK);
	CHECK(cq_cleanup_work(q) == EDEADLK);
	CHECK(cq_cleanup_destroy(q) == EBUSY);
}

static void use_the_queue_once(void)
{
	host.in_end = NULL;
	use_the_queue();
}

Test(threads, hooks_may_call_what_callbacks_may)
{
	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	host.in_start = use_the_queue;
	host.in_end = use_the_queue_once;
	cr_assert_eq(publish(record), 0);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, 2);
	host.in_start = NULL;
	fake_advance(&park, IDLE_NS);
	AWAIT(ran == 3); /* by a second worker */
	cr_assert_eq(host.starts, 2);
	end_queue();
	cr_assert_eq(host.ends, 2);
}

static gate_t inside = GATE_INITIALIZER, leave = GATE_INITIALIZER;

static void stay(void)
{
	gate_open(&inside);
	gate_wait(&leave);
}

Test(threads, a_shutdown_waits_for_worker_end_and_destroy_is_busy)
{
	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	host.in_end = stay;
	cr_assert_eq(publish(record), 0);
	fake_wait_blocked(&park, 1);
	cq_producer_detach(p);
	fake_advance(&park, IDLE_NS);
	gate_wait(&inside);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, 0, NULL, NULL), ETIMEDOUT);
	gate_open(&leave);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(host.ends, 1);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(threads, a_worker_in_worker_start_is_one_that_comes)
{
	open_with((cq_cleanup_config_t){ .max_workers = 2 });
	host.in_start = stay;
	cr_assert_eq(publish(record), 0);
	gate_wait(&inside);
	cr_assert_eq(stats().workers_coming, 1);
	cr_assert_not(cq_cleanup_needs_wake(q));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(stats().workers_created, 1);
	gate_open(&leave);
	AWAIT(ran == 1);
	end_queue();
}

/* --------------------------------------------------- hooks that end their thread */

static void exit_thread(void)
{
	started = 0;
	pthread_exit(NULL);
}

static void *drain(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == ECANCELED);
	return unused;
}

static void stay_and_exit(void)
{
	stay();
	exit_thread();
}

Test(threads, a_worker_start_that_ends_its_thread_stalls_the_queue)
{
	pthread_t drainer;

	open_with((cq_cleanup_config_t){ 0 });
	host.in_start = stay_and_exit;
	cr_assert_eq(publish(record), 0);
	gate_wait(&inside);
	drainer = start(drain, NULL);
	fake_wait_blocked(&park, 1);
	gate_open(&leave);
	join(drainer);
	cr_assert(cq_cleanup_stalled(q));
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_coming, 0);
	cr_assert_eq(host.ends, 0);

	host.in_start = NULL;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == 1);
	end_queue();
	cr_assert_eq(host.ends, 1);
}

static gate_t at_work = GATE_INITIALIZER, finish = GATE_INITIALIZER;

static void work_until_told(void *arg)
{
	gate_open(&at_work);
	gate_wait(&finish);
	record(arg);
}

Test(threads, a_sleeper_does_the_work_of_a_worker_that_did_not_start)
{
	open_with((cq_cleanup_config_t){ .max_workers = 2 });
	cr_assert_eq(publish(work_until_told), 0);
	gate_wait(&at_work);
	host.in_start = stay_and_exit;
	cr_assert_eq(publish(record), 0);
	gate_wait(&inside);
	gate_open(&finish);
	fake_wait_blocked(&park, 1); /* the first worker did both */
	cr_assert_eq(publish(record), 0);
	cr_assert_eq(stats().wakes, 0); /* there is one that comes */
	gate_open(&leave);
	AWAIT(ran == 3);
	cr_assert_eq(stats().workers_created, 2);
	end_queue();
	cr_assert(host.starts == 2 && host.ends == 1);
}

Test(threads, a_worker_end_that_ends_its_thread_is_the_end_of_it_all_the_same)
{
	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	host.in_end = exit_thread;
	cr_assert_eq(publish(record), 0);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(q->nworkers == 0);
	cr_assert_eq(publish(record), 0);
	end_queue();
	cr_assert_eq(host.ends, 2);
}

/* -------------------------------------------------------------------------- fork */

static pid_t child;

/* In the child only the thread that forked is left: another ends the queue there. */
static void *end_in_the_child(void *unused)
{
	end_queue();
	CHECK(host.starts == host.ends);
	_exit(0);
	return unused;
}

static void fork_once(void)
{
	host.in_start = host.in_end = NULL;
	child = fork();
	CHECK(child >= 0);
	if (child != 0)
		return;
	alarm(30);
	fake_init(&park); /* its condition counts waiters that the child doesn't have */
	start(end_in_the_child, NULL);
}

static void check_child(void)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void fork_in_callback(void *arg)
{
	fork_once();
	record(arg);
}

Test(threads, a_thread_that_goes_on_in_a_forked_child_ends_with_worker_end)
{
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(publish(fork_in_callback), 0);
	AWAIT(ran == 1);
	check_child();
	end_queue();
	cr_assert(host.starts == 1 && host.ends == 1);
}

Test(threads, a_fork_in_worker_start_goes_on_in_both)
{
	open_with((cq_cleanup_config_t){ 0 });
	host.in_start = fork_once;
	cr_assert_eq(publish(record_in_between), 0);
	AWAIT(ran == 1);
	check_child();
	end_queue();
	cr_assert(host.starts == 1 && host.ends == 1);
}

Test(threads, a_fork_in_worker_end_goes_on_in_both)
{
	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	host.in_end = fork_once;
	cr_assert_eq(publish(record_in_between), 0);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(q->nworkers == 0);
	check_child();
	cr_assert_eq(publish(record_in_between), 0);
	end_queue();
	cr_assert(host.starts == 2 && host.ends == 2);
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

static sigset_t seen;	/* blocked in a callback */
static sigset_t making; /* by the maker, while it makes a thread */

static void look_at_mask(void *arg)
{
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &seen) == 0);
	record(arg);
}

/* Of pthread_create; and how small a stack is refused. */
static struct {
	size_t least, bytes;
	unsigned times;
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
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &making) == 0);
	CHECK(pthread_attr_getstacksize(attr, &bytes) == 0);
	asked.times++;
	if (bytes < asked.least)
		return EINVAL;
	asked.bytes = bytes;
	return __real_pthread_create(thread, attr, body, arg);
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

static void block(sigset_t *old)
{
	sigset_t all;

	sigfillset(&all);
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, &all, old), 0);
}

static void look(void)
{
	cr_assert_eq(publish(look_at_mask), 0);
	AWAIT(ran == accepted);
}

Test(threads, a_worker_blocks_all_signals_but_those_of_a_threads_own_doing)
{
	sigset_t before, after;

	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
	look();
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	check_blocked(&seen, false);
	check_blocked(&making, true);
	for (int i = 1; i < SIGRTMAX; i++)
		cr_assert_eq(sigismember(&before, i), sigismember(&after, i));
	end_queue();
}

Test(threads, a_workers_mask_is_not_its_makers)
{
	sigset_t old;

	open_with((cq_cleanup_config_t){ 0 });
	block(&old);
	look();
	check_blocked(&seen, false);
	cr_assert_eq(sigismember(&making, SIGPROF), 1); /* pending ones don't slip through */
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
	end_queue();
}

Test(threads, what_the_creator_takes_by_sigwait_stays_blocked)
{
	sigset_t old;

	block(&old);
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
	look();
	check_blocked(&seen, true);
	end_queue();
}

static void unblock_all(void)
{
	sigset_t none;

	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &seen) == 0);
	sigemptyset(&none);
	CHECK(pthread_sigmask(SIG_SETMASK, &none, NULL) == 0);
}

Test(threads, what_worker_start_unblocks_stays_so)
{
	open_with((cq_cleanup_config_t){ 0 });
	host.in_start = unblock_all;
	cr_assert_eq(publish(record), 0);
	AWAIT(ran == 1);
	check_blocked(&seen, false);
	look();
	for (int i = 1; i < SIGRTMIN; i++)
		cr_assert_neq(sigismember(&seen, i), 1, "signal %d", i);
	end_queue();
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

static void write_to_page(void *arg)
{
	*(volatile char *)page = 1;
	record(arg);
}

Test(threads, a_fault_in_a_callback_runs_the_programs_handler)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	page = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq((void *)page, MAP_FAILED);
	cr_assert_eq(sigaction(SIGSEGV, &action, NULL), 0);
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(publish(write_to_page), 0);
	AWAIT(ran == 1);
	cr_assert_eq(dirtied, 1);
	end_queue();
}

/* ------------------------------------------------------------------------- stack */

/* As a sanitizer, a Zig debug program or an engine has it; glibc takes it out of each stack. */
static __thread volatile char storage[300 << 10];

static size_t left; /* of the stack, below a callback's frame */

/* Near the end of the stack there is no room for the calls that AddressSanitizer adds. */
__attribute__((no_sanitize("address")))
static void use_stack(void *arg)
{
	pthread_attr_t attr;
	volatile char *all;
	void *low;
	size_t bytes;

	storage[0] = 1;
	CHECK(pthread_getattr_np(pthread_self(), &attr) == 0);
	CHECK(pthread_attr_getstack(&attr, &low, &bytes) == 0);
	pthread_attr_destroy(&attr);
	left = (size_t)((char *)__builtin_frame_address(0) - (char *)low);
	all = alloca(left - 2048);
	for (size_t i = left - 2048; i-- > 0; ) /* downwards, as a stack grows */
		all[i] = 1;
	record(arg);
}

static void use_stack_of(size_t bytes)
{
	open_with((cq_cleanup_config_t){ .stack_bytes = bytes });
	cr_assert_eq(publish(use_stack), 0);
	AWAIT(ran == accepted);
	end_queue();
}

Test(threads, a_callback_has_the_stack_of_the_config_whatever_the_static_storage)
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

/* As in a static program: nobody says how much storage there is. */
static bool no_symbols;

void *__real_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name)
{
	return no_symbols ? NULL : __real_dlsym(handle, name);
}

Test(threads, where_nobody_says_it_the_storage_of_all_objects_is_summed_up)
{
	no_symbols = true;
	use_stack_of(0);
	cr_assert_geq(left, (size_t)256 << 10);
	cr_assert_eq(asked.times, 1);
}

Test(threads, a_stack_below_the_minimum_is_raised)
{
	open_with((cq_cleanup_config_t){ .stack_bytes = 1 });
	cr_assert_eq(publish(use_stack), 0);
	AWAIT(ran == accepted);
	cr_assert_geq(left, (size_t)16 << 10);
	cr_assert_geq(left, (size_t)PTHREAD_STACK_MIN);
	/* glibc has a minimum of its own on top of the storage. */
	cr_assert_geq(asked.bytes - q->threads.stack_overhead, (size_t)16 << 10);
	end_queue();
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
	open_with((cq_cleanup_config_t){ .stack_bytes = (size_t)64 << 20 });
	asked.least = (size_t)65 << 20;
	cr_assert_eq(publish(record), EINVAL);
	cr_assert_eq(asked.times, 1);
	asked.least = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	end_queue();
	cr_assert_geq(asked.bytes, (size_t)64 << 20);
}
