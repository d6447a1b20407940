/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * No call changes errno: neither what the library asks of the system, which spoils errno
 * here each time, nor the host's functions, nor callbacks.
 */
#include <criterion/criterion.h>
#include <cq/cq.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "support.h"

TestSuite(errors, .timeout = 60);

enum { KEPT = 4711, SPOILT = 4712 };
static atomic_uint spoilt; /* calls that have changed errno */

static void spoil(void)
{
	errno = SPOILT;
	spoilt++;
}

/* ------------------------------------------------ the system, the host, callbacks */

long __real_syscall(long number, ...);
int __real_posix_memalign(void **memory, size_t align, size_t bytes);
void __real_free(void *memory);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __real_nanosleep(const struct timespec *ts, struct timespec *left);
long __wrap_syscall(long number, ...);
int __wrap_posix_memalign(void **memory, size_t align, size_t bytes);
void __wrap_free(void *memory);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left);

long __wrap_syscall(long number, ...)
{
	long a[6], result;
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	result = __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	spoilt++;
	if (result >= 0) /* the library may look at it after an error */
		errno = SPOILT;
	return result;
}

int __wrap_posix_memalign(void **memory, size_t align, size_t bytes)
{
	int err = __real_posix_memalign(memory, align, bytes);

	spoil();
	return err;
}

void __wrap_free(void *memory)
{
	__real_free(memory);
	spoil();
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg)
{
	int err = __real_pthread_create(thread, attr, body, arg);

	spoil();
	return err;
}

int __wrap_nanosleep(const struct timespec *ts, struct timespec *left)
{
	int err = __real_nanosleep(ts, left);

	spoil();
	return err;
}

static atomic_uint ran;

static void callback(void *unused)
{
	(void)unused;
	ran++;
	spoil();
}

static void take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	(void)ctx;
	fn(arg);
}

static int no_worker(void *host, void (*body)(void *), void *arg)
{
	(void)host;
	(void)body;
	(void)arg;
	spoil();
	return EAGAIN;
}

static void *alloc(void *host, size_t bytes, size_t align)
{
	void *memory = NULL;

	(void)host;
	if (posix_memalign(&memory, align, bytes) != 0)
		memory = NULL;
	spoil();
	return memory;
}

static void free_it(void *host, void *memory, size_t bytes)
{
	(void)host;
	(void)bytes;
	free(memory);
	spoil();
}

static const cq_allocator_t allocator = { alloc, free_it, NULL };

/* ------------------------------------------------------------------- each call */

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

static void enqueue(cq_producer_t *p, unsigned n)
{
	while (n-- > 0)
		KEEPS(cq_producer_enqueue(p, callback, NULL), 0);
}

Test(errors, the_calls_of_a_managed_queue_keep_errno)
{
	cq_cleanup_config_t config = { .max_workers = 2, .allocator = &allocator };
	cq_cleanup_stats_t stats;
	cq_callback_t *slots;
	cq_producer_t *p;
	cq_cleanup_t *q;
	size_t n;

	KEEPS(cq_cleanup_create(&config, &q), 0);
	KEEPS(cq_producer_attach(q, &p), 0);
	KEEPS(cq_producer_reserve(p, 1000), 0);
	enqueue(p, 1000);
	KEEPS(cq_producer_flush(p), 0);
	KEEPS(cq_cleanup_drain(q, cq_deadline_in(0)) == 0 || true, true);
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), 0);
	KEEPS(cq_producer_span(p, &slots, &n), 0);
	slots[0] = (cq_callback_t){ callback, NULL };
	KEEPS(cq_producer_commit(p, 1, &n), 0);
	KEEPS(cq_cleanup_flush_all(q), 0);
	KEEPS(cq_cleanup_wake(q), 0);
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), 0);
	KEEPS_VOID(cq_cleanup_stats(q, &stats));
	enqueue(p, 3);
	KEEPS_VOID(cq_producer_detach(p));
	KEEPS(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	KEEPS(cq_cleanup_trim(q, NULL), 0);
	KEEPS(cq_cleanup_destroy(q), 0);
	cr_assert_eq(ran, 1004);
	cr_assert_gt(spoilt, ran);
}

static void *drain_soon(void *q)
{
	KEEPS(cq_cleanup_drain(q, cq_deadline_in(20000000)), ETIMEDOUT);
	return NULL;
}

Test(errors, the_calls_of_a_host_that_runs_callbacks_keep_errno)
{
	cq_cleanup_config_t config = { .flags = CQ_POLLED, .idle_ns = 1000000 };
	cq_producer_t *p;
	cq_cleanup_t *q;
	cq_worker_t *w;
	cq_block_t *b;

	KEEPS(cq_cleanup_create(&config, &q), 0);
	KEEPS(cq_producer_attach(q, &p), 0);
	enqueue(p, 10);
	KEEPS(cq_producer_flush(p), 0);
	KEEPS(cq_cleanup_run_some(q, 5), 5);
	KEEPS(cq_worker_attach(q, NULL, &w), 0);
	join(start(drain_soon, q));
	KEEPS((b = cq_worker_dequeue(w)) != NULL, true);
	KEEPS_VOID(cq_worker_run(w, b));
	KEEPS_VOID(cq_worker_detach(w));
	KEEPS(cq_cleanup_work(q), ETIMEDOUT);
	enqueue(p, 10);
	KEEPS_VOID(cq_producer_detach(p));
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	KEEPS(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL), 0);
	KEEPS(cq_cleanup_destroy(q), 0);
	cr_assert_eq(ran, 20);
}

Test(errors, failures_are_returned_and_errno_is_kept)
{
	cq_cleanup_config_t config = { .spawn = no_worker };
	cq_cleanup_config_t wrong = { .max_workers = CQ_MAX_WORKERS + 1 };
	cq_producer_t *p;
	cq_cleanup_t *q;

	KEEPS(cq_cleanup_create(&wrong, &q), EINVAL);
	KEEPS(cq_cleanup_create(&config, &q), 0);
	KEEPS(cq_producer_attach(q, &p), 0);
	enqueue(p, 1);
	KEEPS(cq_producer_flush(p), EAGAIN);
	KEEPS(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	KEEPS(cq_cleanup_destroy(q), EBUSY);
	KEEPS(cq_cleanup_run_some(q, SIZE_MAX), 1);
	KEEPS_VOID(cq_producer_detach(p));
	KEEPS(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	KEEPS(cq_cleanup_destroy(q), 0);
}

/* ------------------------------------------------------------- layers 1 and 2 */

/* On spin_ns too, so that the clock is read on both sides. */
static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER_WITH(NULL, 1000);

static bool someone_is_listed(void)
{
	uint32_t n;

	pthread_mutex_lock(&set.lock);
	n = set.listed;
	pthread_mutex_unlock(&set.lock);
	return n != 0;
}

static void *sleep_until_woken(void *unused)
{
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	KEEPS_VOID(cq_sleepers_prepare_wait(&set, &me));
	KEEPS(cq_sleepers_commit_wait(&set, &me, CQ_FOREVER), CQ_WOKEN);
	return unused;
}

Test(errors, a_sleep_and_its_wake_keep_errno)
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
