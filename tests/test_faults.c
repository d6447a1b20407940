/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the system refuses: workers, memory, mutexes, fork handlers, the barrier. Whoever can be
 * told is told, and nothing is lost. And what it spoils: no call changes errno, neither by what
 * the library asks of the system, which spoils errno here each time, nor by the host's functions,
 * nor by callbacks.
 */
#include <criterion/criterion.h>
#include <linux/membarrier.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/barrier.h"
#include "callbacks.h"

TestSuite(faults, .timeout = 60);

/* ------------------------------------------- the system, to which the linker (--wrap) sends */

enum { KEPT = 4711, SPOILT = 4712 };
static atomic_uint spoilt; /* calls that have changed errno */

static void spoil(void)
{
	errno = SPOILT;
	spoilt++;
}

static struct {
	bool atfork, memory;
	unsigned mutex;		/* the one that fails: 1 is the next; 0: none */
	int membarrier;		/* errno of the barrier, or 0 */
	bool registration;	/* refused with the same */
	unsigned registered;	/* after which the barrier is no longer refused */
} refuse;

int __real_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	spoil();
	return refuse.atfork ? ENOMEM : __real_pthread_atfork(prepare, parent, child);
}

int __real_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr)
{
	spoil();
	if (refuse.mutex != 0 && --refuse.mutex == 0)
		return EAGAIN;
	return __real_pthread_mutex_init(mutex, attr);
}

int __real_posix_memalign(void **memory, size_t align, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t align, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t align, size_t bytes)
{
	spoil();
	return refuse.memory ? ENOMEM : __real_posix_memalign(memory, align, bytes);
}

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory)
{
	__real_free(memory);
	spoil();
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg)
{
	int err = __real_pthread_create(thread, attr, body, arg);

	spoil();
	return err;
}

int __real_nanosleep(const struct timespec *ts, struct timespec *left);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left)
{
	int err = __real_nanosleep(ts, left);

	spoil();
	return err;
}

/* What the kernel is to answer to membarrier(2); 0 when it is to be asked. */
static int refused(int command)
{
	if (refuse.membarrier == 0)
		return 0;
	if (command == MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
		return refuse.registration ? refuse.membarrier : (refuse.registered++, 0);
	return refuse.registered != 0 ? 0 : refuse.membarrier;
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
	va_list list;
	long args[6], result;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		args[i] = va_arg(list, long);
	va_end(list);
	spoilt++;
	if (number == SYS_membarrier && (errno = refused((int)args[0])) != 0)
		return -1;
	result = __real_syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
	if (result >= 0) /* the library may look at it after an error */
		errno = SPOILT;
	return result;
}

/* ------------------------------------------------------------------------------- the host */

static struct {
	atomic_int err; /* what spawn returns instead */
	atomic_uint n;
	struct spawned {
		void (*body)(void *arg);
		void *arg;
		pthread_t thread;
	} threads[8];
} host;

static void *be_worker(void *arg)
{
	struct spawned *s = arg;

	s->body(s->arg);
	return NULL;
}

static int spawn(void *unused, void (*body)(void *arg), void *arg)
{
	struct spawned *s;

	(void)unused;
	if (host.err == 0) {
		s = &host.threads[host.n++];
		CHECK(host.n <= 8);
		*s = (struct spawned){ .body = body, .arg = arg };
		s->thread = start(be_worker, s);
	}
	spoil();
	return host.err;
}

/* A queue for whose pool no worker can be made, which waits with two blocks. */
static void open_stalled(void)
{
	make_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 3, .spawn = spawn });
	host.err = EAGAIN;
	put(p, 0, SLOTS + 1); /* 0 all the same */
	cr_assert_eq(cq_producer_flush(p), EAGAIN);
	cr_assert_eq(waiting(), 2);
}

static void finish_spawned(unsigned n)
{
	finish(n);
	for (unsigned i = 0; i < host.n; i++)
		join(host.threads[i].thread);
}

/* ---------------------------------------------------------------------- no worker at all */

Test(faults, a_queue_without_workers_stalls_and_says_so)
{
	uint64_t failed;

	open_stalled();
	failed = pool_stats().workers_failed;
	cr_assert_eq(cq_producer_flush(p), 0); /* there was nothing to publish */
	cr_assert_eq(cq_cleanup_flush(q), EAGAIN); /* what others have published */
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_geq(pool_stats().workers_failed, failed + 2); /* each has tried */
	cr_assert_eq(waiting(), 2);
	cr_assert_eq(runs, 0);

	host.err = 0;
	cr_assert_eq(cq_cleanup_flush(q), 0);
	AWAIT(runs == SLOTS + 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish_spawned(SLOTS + 1);
}

Test(faults, the_next_publication_tries_again)
{
	open_stalled();
	put(p, SLOTS + 1, 1);
	host.err = 0;
	cr_assert_eq(cq_producer_flush(p), 0);
	AWAIT(runs == SLOTS + 2);
	finish_spawned(SLOTS + 2);
}

/* By a producer that has something to write. */
Test(faults, a_tick_that_found_no_worker_is_asked_for_anew)
{
	cq_producer_t *other;

	make_with((cq_cleanup_config_t){ .flush_ns = 2 * CQ_FLUSH_NS_MIN }, (cq_pool_config_t){ .workers_max = 3, .spawn = spawn });
	put(p, 0, 1);
	fake_wait_blocked(&park, 1); /* the clock */
	host.err = EAGAIN;
	fake_advance(&park, CQ_FLUSH_NS_MIN);
	AWAIT(pool_stats().workers_failed == 1);
	host.err = 0;
	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	put(other, 1, 1);
	/* What it was about to write, as the tick looked, is for the next one. */
	for (uint64_t limit = wait_limit(); runs != 2; turn()) {
		CHECK(test_now() < limit);
		fake_advance(&park, CQ_FLUSH_NS_MIN);
	}
	cq_producer_detach(other);
	finish_spawned(2);
}

static unsigned said_so_far;

/* All the calls that may say it do. */
static void check_said(int err, int said)
{
	host.err = err;
	put(p, said_so_far++ + SLOTS + 1, 1);
	cr_assert_eq(cq_producer_flush(p), said, "%d", err);
	cr_assert_eq(cq_cleanup_flush(q), said, "%d", err);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), said, "%d", err);
	cr_assert_eq(pool_stats().workers_last_errno, err);
}

Test(faults, a_failure_that_will_come_again_is_returned_and_one_that_passes_is_eagain)
{
	const int passing[] = { EAGAIN, ENOMEM, ETIMEDOUT, EDEADLK, EBUSY, ESHUTDOWN, -1 };
	const int permanent[] = { EINVAL, EPERM, ENOSYS };

	open_stalled();
	for (unsigned i = 0; i < 7; i++)
		check_said(passing[i], EAGAIN);
	for (unsigned i = 0; i < 3; i++)
		check_said(permanent[i], permanent[i]);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), ENOSYS);
	host.err = 0;
	cr_assert_eq(cq_pool_wake(cq_cleanup_pool(q)), 0);
	AWAIT(runs == SLOTS + 11);
	cr_assert_eq(pool_stats().workers_last_errno, ENOSYS);
	finish_spawned(SLOTS + 11);
}

Test(faults, a_stalled_queue_is_run_by_whoever_calls_run_some)
{
	open_stalled();
	cr_assert_eq(cq_cleanup_run_some(q, 100), SLOTS + 1);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	finish_spawned(SLOTS + 1);
}

Test(faults, a_stalled_queue_hands_back_at_its_shutdown)
{
	open_stalled();
	put(p, SLOTS + 1, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), EAGAIN);
	cr_assert_eq(try_put(p, 0), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	cr_assert_eq(given_back, SLOTS + 2);
	finish_spawned(SLOTS + 2);
}

Test(faults, a_stalled_shutdown_may_be_called_again)
{
	open_stalled();
	put(p, SLOTS + 1, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), EAGAIN);
	host.err = 0;
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert(each_once(SLOTS + 2));
	finish_spawned(SLOTS + 2);
}

/* ------------------------------------------------------------------- what create asks for */

static int try_to_create(void)
{
	cq_pool_config_t pool_config = { .workers_min = 1, .workers_max = 1 };
	cq_cleanup_config_t config = { .pool_config = &pool_config, .allocator = &mem.allocator };

	pool_config.allocator = &mem.allocator;
	q = NULL;
	return cq_cleanup_create(&config, &q);
}

static void check_nothing_is_left(void)
{
	cr_assert_null(q);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(faults, each_allocation_of_create_and_attach_may_fail_and_nothing_is_left)
{
	int err;

	test_alloc_init(&mem);
	for (long nth = 1;; nth++) {
		mem.fail_in = nth;
		if ((err = try_to_create()) == 0)
			break;
		cr_assert_eq(err, ENOMEM, "allocation %ld: %d", nth, err);
		check_nothing_is_left();
	}
	cr_assert_geq(mem.failures, 4); /* queue, pool, task, worker */
	mem.fail_in = 1;
	cr_assert_eq(cq_producer_attach(q, NULL, &p), ENOMEM);
	cr_assert_eq(stats().producers, 0);
	cr_assert_eq(cq_producer_attach(q, NULL, &p), 0);
	mem.fail_in = 1;
	cr_assert_eq(try_put(p, 0), ENOMEM);
	cr_assert_eq(stats().queued, 0);
	put(p, 0, 1);
	finish(1);
}

Test(faults, create_says_what_is_wrong_with_any_of_its_mutexes_and_nothing_is_left)
{
	unsigned nth = 0;
	int err;

	test_alloc_init(&mem);
	do {
		refuse.mutex = ++nth;
		err = try_to_create();
		if (refuse.mutex != 0)
			break; /* it needs fewer */
		cr_assert_eq(err, EAGAIN, "the refusal of mutex %u", nth);
		check_nothing_is_left();
	} while (true);
	refuse.mutex = 0;
	cr_assert_eq(err, 0);
	cr_assert_gt(nth, 5);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(faults, fork_handlers_that_cannot_be_had_refuse_the_queue_and_nothing_is_left)
{
	cq_pool_config_t pool_config = { .flags = CQ_POOL_NO_ATFORK };
	cq_cleanup_config_t config = { .pool_config = &pool_config };

	test_alloc_init(&mem);
	refuse.atfork = true;
	cr_assert_eq(try_to_create(), ENOMEM);
	check_nothing_is_left();
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	/* The next queue tries again. */
	refuse.atfork = false;
	cr_assert_eq(try_to_create(), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(faults, memory_that_the_default_allocator_cannot_have_is_enomem)
{
	refuse.memory = true;
	cr_assert_eq(cq_cleanup_create(NULL, &q), ENOMEM);
	refuse.memory = false;
	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	refuse.memory = true;
	cr_assert_eq(cq_producer_attach(q, NULL, &p), ENOMEM);
	refuse.memory = false;
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(faults, a_mutex_that_cannot_be_had_refuses_a_set)
{
	cq_sleepers_t set;

	refuse.mutex = 1;
	cr_assert_eq(cq_sleepers_init(&set, NULL, 0), EAGAIN);
	cr_assert_eq(cq_sleepers_init(&set, NULL, 0), 0);
	cr_assert_eq(cq_sleepers_destroy(&set), 0);
}

/* -------------------------------------------------------------------------- the barrier */

Test(faults, a_kernel_that_refuses_membarrier_gets_fences)
{
	cq_producer_t *other;

	refuse.membarrier = ENOSYS;
	refuse.registration = true;
	make();
	cr_assert(q->fences);
	cr_assert_eq(cq_producer_attach(q, run_it, &other), 0);
	put(p, 0, SLOTS + 1);
	put(other, SLOTS + 1, 1);
	cr_assert_null(p->limit); /* each enqueue has its fence on the slow path */
	cr_assert_null(other->limit);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	cr_assert_eq(cq_cleanup_run_some(q, 100), SLOTS + 2);
	cq_producer_detach(other);
	finish(SLOTS + 2);
}

Test(faults, a_process_that_is_not_registered_any_more_registers_for_membarrier_again)
{
	if (!cq_barrier_asymmetric())
		cr_skip("there is no membarrier");
	refuse.membarrier = ENOSYS;
	cq_barrier_heavy();
	cr_assert_eq(refuse.registered, 0, "only EPERM asks for it");
	refuse.membarrier = EPERM;
	refuse.registration = true;
	cq_barrier_heavy(); /* returns */
	refuse.registration = false;
	cq_barrier_heavy();
	cr_assert_eq(refuse.registered, 1);
	cq_barrier_heavy();
	cr_assert_eq(refuse.registered, 1);
}

/* ----------------------------------------------------------------------- errno is kept */

static void spoiling_callback(void *unused)
{
	(void)unused;
	runs++;
	spoil();
}

static void spoiling_take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	(void)ctx;
	fn(arg);
}

static void *spoiling_alloc(void *ctx, size_t bytes, size_t align)
{
	void *memory = NULL;

	(void)ctx;
	return posix_memalign(&memory, align, bytes) == 0 ? memory : NULL;
}

static void spoiling_free(void *ctx, void *memory, size_t bytes)
{
	(void)ctx;
	(void)bytes;
	free(memory);
}

static const cq_allocator_t spoiling = { spoiling_alloc, spoiling_free, NULL };

/* Makes the call, and its result is `expected`; errno is what it was. */
#define KEEPS(call, expected)						\
	do {								\
		errno = KEPT;						\
		long result = (long)(call);				\
		int after = errno;					\
									\
		cr_assert_eq(result, (long)(expected), "%s = %ld", #call, result); \
		cr_assert_eq(after, KEPT, "%s", #call);			\
	} while (0)
#define KEEPS_VOID(call) KEEPS(((call), 0), 0)

static void enqueue_and_keep(unsigned n)
{
	while (n-- > 0)
		KEEPS(cq_producer_enqueue(p, spoiling_callback, NULL), 0);
}

Test(faults, the_calls_of_a_queue_with_workers_keep_errno)
{
	cq_pool_config_t pool_config = { .workers_max = 2, .allocator = &spoiling };
	cq_cleanup_config_t config = { .pool_config = &pool_config };
	cq_cleanup_stats_t statistics;
	cq_producer_t *args;
	cq_callback_t *slots;
	size_t n;

	KEEPS(cq_cleanup_create(&config, &q), 0);
	KEEPS(cq_producer_attach(q, NULL, &p), 0);
	KEEPS(cq_producer_attach(q, spoiling_callback, &args), 0);
	KEEPS(cq_producer_reserve(p, 1000), 0);
	enqueue_and_keep(1000);
	for (unsigned i = 0; i < 1000; i++)
		KEEPS(cq_producer_put(args, NULL), 0);
	KEEPS(cq_producer_flush(p), 0);
	KEEPS(cq_cleanup_drain(q, cq_deadline_in(0)) == 0 || true, true);
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), 0);
	KEEPS(cq_producer_span(p, &slots, &n), 0);
	slots[0] = (cq_callback_t){ spoiling_callback, NULL };
	KEEPS(cq_producer_commit(p, 1, &n), 0);
	KEEPS(cq_cleanup_flush(q), 0);
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), 0);
	KEEPS_VOID(cq_cleanup_stats(q, &statistics));
	enqueue_and_keep(3);
	KEEPS_VOID(cq_producer_detach(p));
	KEEPS_VOID(cq_producer_detach(args));
	KEEPS(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	KEEPS(cq_cleanup_trim(q, NULL), 0);
	KEEPS(cq_cleanup_destroy(q), 0);
	cr_assert_eq(runs, 2004);
	cr_assert_gt(spoilt, runs);
}

Test(faults, the_calls_of_a_queue_whose_host_runs_callbacks_keep_errno)
{
	cq_pool_config_t pool_config = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };
	cq_cleanup_config_t config = { .pool_config = &pool_config, .allocator = &spoiling };
	cq_pool_t *pool;

	KEEPS(cq_cleanup_create(&config, &q), 0);
	KEEPS((pool = cq_cleanup_pool(q)) != NULL, true);
	KEEPS(cq_producer_attach(q, NULL, &p), 0);
	enqueue_and_keep(10);
	KEEPS(cq_producer_flush(p), 0);
	KEEPS(cq_cleanup_run_some(q, 5), 5);
	KEEPS(cq_pool_run_some(pool, 1), 1);
	enqueue_and_keep(10);
	KEEPS(cq_producer_flush(p), 0);
	KEEPS(cq_pool_work(pool, NULL, cq_deadline_in(1000000)), ETIMEDOUT);
	enqueue_and_keep(10);
	KEEPS_VOID(cq_producer_detach(p));
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	KEEPS(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, spoiling_take_back, NULL), 0);
	KEEPS(cq_cleanup_destroy(q), 0);
	cr_assert_eq(runs, 30);
}

Test(faults, failures_are_returned_and_errno_is_kept)
{
	cq_cleanup_config_t wrong = { .block_bytes = 1 };

	KEEPS(cq_cleanup_create(&wrong, &q), EINVAL);
	open_stalled();
	put(p, SLOTS + 1, 1);
	KEEPS(cq_producer_flush(p), EAGAIN);
	KEEPS(cq_producer_put(p, NULL), EINVAL);
	KEEPS(cq_cleanup_flush(q), EAGAIN);
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	KEEPS(cq_cleanup_destroy(q), EBUSY);
	KEEPS(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), EAGAIN);
	KEEPS(cq_cleanup_run_some(q, SIZE_MAX), SLOTS + 2);
	finish_spawned(SLOTS + 2);
}

/* On spin_ns too, so that the clock is read on both sides. */
static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER_WITH(NULL, 1000);

static bool someone_is_listed(void)
{
	bool listed;

	pthread_mutex_lock(&set.lock);
	listed = set.newest != NULL;
	pthread_mutex_unlock(&set.lock);
	return listed;
}

static void *sleep_until_woken(void *unused)
{
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	KEEPS_VOID(cq_sleepers_prepare_wait(&set, &me));
	KEEPS(cq_sleepers_commit_wait(&set, &me, CQ_FOREVER), CQ_WOKEN);
	return unused;
}

Test(faults, a_sleep_and_its_wake_keep_errno)
{
	cq_sleeper_t me;
	pthread_t other;

	cq_sleeper_init(&me, NULL);
	KEEPS_VOID(cq_sleepers_prepare_wait(&set, &me));
	KEEPS(cq_sleepers_wake_sleeper(&set, &me), false);
	KEEPS(cq_sleepers_commit_wait(&set, &me, CQ_FOREVER), CQ_AGAIN);
	KEEPS_VOID(cq_sleepers_prepare_wait(&set, &me));
	KEEPS(cq_sleepers_commit_wait(&set, &me, cq_deadline_in(1000000)), CQ_TIMED_OUT);
	other = start(sleep_until_woken, NULL);
	AWAIT(someone_is_listed());
	KEEPS(cq_sleepers_ensure(&set, 1), 1);
	join(other);
	other = start(sleep_until_woken, NULL);
	AWAIT(someone_is_listed());
	KEEPS(cq_sleepers_wake(&set, 1), 1);
	join(other);
	KEEPS_VOID(cq_sleepers_prepare_wait(&set, &me));
	KEEPS(cq_sleepers_waiters(&set, NULL), 1);
	KEEPS_VOID(cq_sleepers_cancel_wait(&set, &me));
	KEEPS_VOID(cq_sleepers_stop(&set));
	KEEPS(cq_sleepers_destroy(&set), 0);
}
