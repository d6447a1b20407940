/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What fails, and what is misused: threads and memory that can't be had, for a
 * while or for ever; parks that return for nothing; clocks that jump; callbacks
 * that block; calls from where they are refused. Nothing is orphaned by any of
 * these, and whoever can be told is told.
 */
#define _GNU_SOURCE /* setresuid */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/barrier.h"
#include "cleanup/cleanup_priv.h"
#include "support.h"

TestSuite(faults, .timeout = 60);

/* CQ_BLOCK_BYTES_MIN gives blocks of two callbacks. */
enum { CAP = 3, SLOTS = 2, IDLE_NS = 1000, RECORDS = 1024, UNIT = 1 };

#include "records.h" /* of RECORDS callbacks */

static fake_park_t park;
static test_alloc_t alloc;
static cq_cleanup_t *q;
static cq_producer_t *p;
static cq_producer_t *other; /* of the "other thread" whose steps are run at points */

/* n callbacks; each SLOTS of them are published and wake. */
static void add(cq_producer_t *to, unsigned n)
{
	while (n-- > 0)
		CHECK(cq_producer_enqueue(to, record, next_record()) == 0);
}

/* One unit of one callback. */
static int publish(cq_producer_t *to, cq_callback_fn *fn)
{
	CHECK(cq_producer_enqueue(to, fn, next_record()) == 0);
	return cq_producer_flush(to);
}

static struct {
	atomic_uint inside;
	gate_t leave;
} room = { 0, GATE_INITIALIZER };

static void stay_inside(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	record(arg);
}

/* --------------------------------------------------- a host that can fail to spawn */

static struct {
	struct hosted {
		void (*body)(void *arg);
		void *arg;
		pthread_t thread;
	} threads[64];
	atomic_uint n;
	int err;		/* what spawn returns instead */
	test_act_fn *during;	/* what "other threads" do in the middle of the next spawn */
	atomic_bool making;	/* in the middle of one */
} host;

static void *be_worker(void *arg)
{
	struct hosted *t = arg;

	t->body(t->arg);
	return NULL;
}

static int spawn(void *unused, void (*body)(void *arg), void *arg)
{
	test_act_fn *during = host.during;
	struct hosted *t;

	(void)unused;
	host.during = NULL;
	host.making = true;
	if (during != NULL)
		during(NULL);
	host.making = false;
	if (host.err != 0)
		return host.err;
	CHECK(host.n < 64);
	t = &host.threads[host.n++];
	*t = (struct hosted){ .body = body, .arg = arg };
	t->thread = start(be_worker, t);
	return 0;
}

/* ---------------------------------------------------------- opening and closing */

static void open_with(cq_cleanup_config_t config)
{
	fake_init(&park);
	test_alloc_init(&alloc);
	if (config.park == NULL)
		config.park = &park.ops;
	config.allocator = &alloc.allocator;
	config.block_bytes = CQ_BLOCK_BYTES_MIN;
	if (config.max_workers == 0)
		config.max_workers = CAP;
	if (config.idle_ns == 0)
		config.idle_ns = CQ_FOREVER;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(q->slots, SLOTS);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
	cr_assert_eq(cq_producer_attach(q, &other), 0);
}

static void open_hosted(uint32_t max_workers)
{
	open_with((cq_cleanup_config_t){ .max_workers = max_workers, .spawn = spawn });
}

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
}

static int shut_down(cq_shutdown_how_t how, uint64_t deadline)
{
	return cq_cleanup_shutdown(q, how, deadline, take_back, &returned);
}

/* Everything ran or came back, once, and nothing is left: neither threads nor memory. */
static void close_queue(void)
{
	cq_cleanup_stats_t s;

	cq_producer_detach(p);
	cq_producer_detach(other);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	for (unsigned i = 0; i < host.n; i++)
		join(host.threads[i].thread);
	s = stats();
	cr_assert_eq(s.queued, accepted);
	cr_assert_eq(s.executed, ran);
	cr_assert_eq(s.handed_back, returned);
	cr_assert_eq(s.workers_live, 0);
	cr_assert_eq(s.workers_coming, 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(ran + returned, accepted);
	for (unsigned i = 0; i < accepted; i++)
		cr_assert_eq(records[i], 1);
	cr_assert_eq(alloc.live_bytes, 0);
}

/* ------------------------------------------------------ no worker can be made */

/* All the calls that can say so do; what was accepted stays. */
static void check_stalled(uint64_t units)
{
	uint64_t failed = stats().workers_failed;

	cr_assert(cq_cleanup_stalled(q));
	cr_assert_eq(cq_cleanup_units(q), units);
	cr_assert_eq(stats().workers_live, 0);
	cr_assert_eq(stats().workers_coming, 0);
	cr_assert_eq(cq_cleanup_wake(q), EAGAIN);
	cr_assert_eq(cq_cleanup_flush_all(q), EAGAIN);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), EAGAIN);
	cr_assert_eq(stats().workers_failed, failed + 3);
	cr_assert(cq_cleanup_needs_wake(q)); /* the next may succeed */
	cr_assert_eq(cq_cleanup_units(q), units);
	cr_assert_eq(ran, 0);
}

Test(faults, a_queue_without_workers_stalls_and_says_so)
{
	open_hosted(CAP);
	host.err = EAGAIN;
	cr_assert_not(cq_cleanup_stalled(q));
	add(p, SLOTS); /* enqueue returns 0 all the same */
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_eq(publish(p, record), EAGAIN);
	cr_assert_eq(cq_producer_flush(p), 0); /* there was nothing to publish */
	check_stalled(2 * UNIT);

	host.err = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_not(cq_cleanup_stalled(q));
	AWAIT(ran == accepted);
	cr_assert_eq(stats().workers_created, 2);
	close_queue();
}

Test(faults, the_next_publication_tries_again)
{
	open_hosted(CAP);
	host.err = EAGAIN;
	cr_assert_eq(publish(p, record), EAGAIN);
	host.err = 0;
	cr_assert_eq(publish(p, record), 0);
	AWAIT(ran == 2);
	close_queue();
}

Test(faults, a_stalled_queue_hands_back_at_shutdown)
{
	open_hosted(CAP);
	host.err = EAGAIN;
	add(p, SLOTS + 1);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EAGAIN);
	cr_assert_eq(cq_producer_enqueue(p, record, NULL), ESHUTDOWN);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER), 0);
	cr_assert_eq(returned, SLOTS + 1);
	close_queue();
}

Test(faults, a_stalled_shutdown_may_be_called_again)
{
	open_hosted(CAP);
	host.err = EAGAIN;
	add(p, SLOTS + 1);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EAGAIN);
	host.err = 0;
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	cr_assert_eq(ran, SLOTS + 1);
	close_queue();
}

Test(faults, a_stalled_queue_is_run_by_whoever_polls)
{
	open_hosted(CAP);
	host.err = EAGAIN;
	cr_assert_eq(publish(p, record), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, 10), 1);
	cr_assert_not(cq_cleanup_stalled(q));
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	close_queue();
}

static void fail_from_now_on(void *unused)
{
	(void)unused;
	host.err = EAGAIN;
}

static void arm_failure(void *unused)
{
	(void)unused;
	host.during = fail_from_now_on; /* of the spawn after this one */
}

Test(faults, those_that_could_be_made_do_the_work_of_those_that_could_not)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .spawn = spawn });
	add(p, CAP * SLOTS);
	host.during = arm_failure;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(stats().workers_created, 1);
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_not(cq_cleanup_stalled(q));
	fake_wait_blocked(&park, 1);
	cr_assert_eq(ran, CAP * SLOTS);
	cr_assert_eq(stats().workers_coming, 0);
	add(p, SLOTS);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == accepted);
	close_queue();
}

/* What others do while a worker is being made that will not come. */
static struct {
	unsigned expected;
	int result;
} meanwhile;

static void publish_and_rely_on_the_claim(void *unused)
{
	(void)unused;
	fake_wait_blocked(&park, meanwhile.expected);
	meanwhile.result = publish(other, record);
	if (meanwhile.result == 0)
		meanwhile.result = cq_cleanup_wake(q);
	host.err = EAGAIN;
}

Test(faults, work_that_relied_on_a_worker_that_could_not_be_made_wakes_a_sleeper)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED, .max_workers = 2, .spawn = spawn });
	add(p, SLOTS);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	fake_wait_blocked(&park, 1);

	/* One sleeper is woken and one worker asked for. The first does the work of
	   both and sleeps; what is published then is covered by the request. */
	add(p, 2 * SLOTS);
	meanwhile.expected = 1;
	host.during = publish_and_rely_on_the_claim;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(meanwhile.result, 0);
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert(cq_cleanup_units(q) == 0 || stats().workers_asleep == 0,
	    "published work waits, and the only worker is asleep");
	AWAIT(ran == accepted);
	close_queue();
}

Test(faults, work_that_relied_on_the_only_worker_stalls_with_it)
{
	open_hosted(1);
	meanwhile.expected = 0;
	host.during = publish_and_rely_on_the_claim;
	cr_assert_eq(publish(p, record), EAGAIN);
	cr_assert_eq(meanwhile.result, 0); /* when it was asked, a worker was coming */
	check_stalled(2 * UNIT);
	host.err = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == 2);
	close_queue();
}

/*
 * Two make a worker each. One has its place, and is slow to say that a worker may
 * live again; the other fails meanwhile.
 */
static gate_t slow_has_its_place = GATE_INITIALIZER, other_failed = GATE_INITIALIZER;
static pthread_t slow;
static cq_producer_t *third;

static void be_slow(void *unused)
{
	gate_open(&slow_has_its_place);
	gate_wait(&other_failed);
	(void)unused;
}

static void *publish_slowly(void *unused)
{
	at_point("wake.making", be_slow, NULL);
	CHECK(publish(other, record) == 0);
	return unused;
}

static void let_the_slow_worker_come_and_go_then_publish(void *unused)
{
	(void)unused;
	host.err = 0;
	gate_open(&other_failed);
	join(slow);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	AWAIT(stats().workers_retired == 1);
	host.err = EAGAIN;
	meanwhile.result = publish(third, record);
}

Test(faults, a_failure_that_another_success_hides_stalls_all_the_same)
{
	open_with((cq_cleanup_config_t){ .max_workers = 2, .idle_ns = IDLE_NS, .spawn = spawn });
	cr_assert_eq(cq_producer_attach(q, &third), 0);
	slow = start(publish_slowly, NULL);
	gate_wait(&slow_has_its_place);
	host.err = EAGAIN;
	at_point("wake.not_made", let_the_slow_worker_come_and_go_then_publish, NULL);
	cr_assert_eq(publish(p, record), EAGAIN);
	cr_assert_eq(meanwhile.result, 0); /* when it was asked, this worker was coming */
	cr_assert_eq(ran, 2);
	cr_assert(cq_cleanup_stalled(q));
	host.err = 0;
	cq_producer_detach(third);
	close_queue();
}

static void *drain(void *result)
{
	*(int *)result = cq_cleanup_drain(q, CQ_FOREVER);
	return NULL;
}

Test(faults, a_sleeping_drain_learns_that_nobody_comes)
{
	int result = -1;
	pthread_t thread;
	cq_worker_t *w;

	open_hosted(1);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	host.err = EAGAIN;
	cr_assert_eq(publish(p, record), 0); /* w is awake, and is trusted to look */
	thread = start(drain, &result);
	fake_wait_blocked(&park, 1);
	cq_worker_detach(w);
	join(thread);
	cr_assert_eq(result, EAGAIN);
	check_stalled(UNIT);
	host.err = 0;
	close_queue();
}

/* Why, where it is no use to try again; workers that live make up for it all the same. */
static void check_stalled_with(int err, int said)
{
	host.err = err;
	cr_assert_eq(publish(p, record), said, "%d", err);
	cr_assert(cq_cleanup_stalled(q));
	cr_assert_eq(cq_cleanup_wake(q), said);
	cr_assert_eq(cq_cleanup_flush_all(q), said);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), said);
	cr_assert_eq(stats().workers_last_errno, err);
}

Test(faults, a_failure_that_will_come_again_is_returned_and_one_that_passes_is_eagain)
{
	const int passing[] = { EAGAIN, ENOMEM, ETIMEDOUT, EDEADLK, ESHUTDOWN, -1 };
	const int permanent[] = { EINVAL, EPERM, ENOSYS };

	open_hosted(CAP);
	cr_assert_eq(stats().workers_last_errno, 0);
	for (unsigned i = 0; i < 6; i++)
		check_stalled_with(passing[i], EAGAIN);
	for (unsigned i = 0; i < 3; i++)
		check_stalled_with(permanent[i], permanent[i]);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EAGAIN);
	host.err = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == accepted);
	cr_assert_eq(stats().workers_last_errno, ENOSYS);
	close_queue();
}

Test(faults, a_sleeping_drain_learns_why_nobody_comes)
{
	int result = -1;
	pthread_t thread;
	cq_worker_t *w;

	open_hosted(1);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	host.err = EPERM;
	cr_assert_eq(publish(p, record), 0); /* w is awake, and is trusted to look */
	cr_assert_eq(stats().workers_last_errno, EPERM);
	thread = start(drain, &result);
	fake_wait_blocked(&park, 1);
	cq_worker_detach(w);
	join(thread);
	cr_assert_eq(result, EPERM);
	host.err = 0;
	close_queue();
}

/* -------------------------------------------------- the system's own failures */

Test(faults, a_stack_that_cannot_be_had_stalls_managed_workers)
{
	size_t good;
	int err;

	open_with((cq_cleanup_config_t){ 0 });
	good = q->threads.stack_bytes;
	q->threads.stack_bytes = SIZE_MAX / 8 * 7; /* more than 32 bits can address, too */
	add(p, SLOTS);
	err = cq_cleanup_wake(q);
	cr_assert(err == EAGAIN || err == EINVAL); /* musl's limit is lower */
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), err);
	cr_assert(cq_cleanup_stalled(q));
	q->threads.stack_bytes = good;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == SLOTS);
	close_queue();
}

Test(faults, the_limit_of_threads_stalls_managed_workers_until_it_is_raised)
{
	const uid_t nobody = 65534;
	struct rlimit limit;

	/* The limit doesn't bind root. */
	if (geteuid() == 0 && setresuid(nobody, nobody, nobody) != 0)
		cr_skip("can't become another user");
	prctl(PR_SET_DUMPABLE, 1); /* the leak checker traces this process */
	cr_assert_eq(getrlimit(RLIMIT_NPROC, &limit), 0);
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(setrlimit(RLIMIT_NPROC, &(struct rlimit){ 0, limit.rlim_max }), 0);
	add(p, SLOTS);
	check_stalled(UNIT);
	cr_assert_eq(setrlimit(RLIMIT_NPROC, &limit), 0);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == SLOTS);
	close_queue();
}

Test(faults, memory_that_cannot_be_had_for_a_worker_stalls_and_leaks_nothing)
{
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(cq_producer_enqueue(p, record, next_record()), 0);
	alloc.fail_in = 1; /* the worker's record */
	cr_assert_eq(cq_producer_flush(p), EAGAIN);
	cr_assert_eq(alloc.failures, 1);
	alloc.fail_in = 2; /* what its thread is told */
	cr_assert_eq(cq_cleanup_wake(q), EAGAIN);
	cr_assert_eq(alloc.failures, 2);
	alloc.fail_in = 1;
	alloc.fail_on = true;
	check_stalled(UNIT);
	alloc.fail_on = false;
	alloc.fail_in = 0;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == 1);
	close_queue();
}

/* ------------------------------------- the C library and the kernel may refuse */

/* The linker (--wrap) sends the calls of the library here. */
static struct {
	bool attr_init, setstacksize, atfork, memory;
	uint32_t processors;	/* that the library takes itself to have; 0: the truth */
	int membarrier;		/* errno of the barrier, or 0 */
	bool registration;	/* refused with the same */
	unsigned registered;	/* after which the barrier is no longer refused */
	unsigned mutex;	/* the one that fails: 1 is the next; 0: none */
} refuse;

int __real_pthread_attr_init(pthread_attr_t *attr);
int __wrap_pthread_attr_init(pthread_attr_t *attr);
int __wrap_pthread_attr_init(pthread_attr_t *attr)
{
	return refuse.attr_init ? ENOMEM : __real_pthread_attr_init(attr);
}

int __real_pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes);
int __wrap_pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes);
int __wrap_pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes)
{
	return refuse.setstacksize ? EINVAL : __real_pthread_attr_setstacksize(attr, bytes);
}

int __real_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	return refuse.atfork ? ENOMEM : __real_pthread_atfork(prepare, parent, child);
}

int __real_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr)
{
	if (refuse.mutex != 0 && --refuse.mutex == 0)
		return EAGAIN;
	return __real_pthread_mutex_init(mutex, attr);
}

int __real_posix_memalign(void **memory, size_t align, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t align, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t align, size_t bytes)
{
	return refuse.memory ? ENOMEM : __real_posix_memalign(memory, align, bytes);
}

uint32_t __real_cq_processors(void);
uint32_t __wrap_cq_processors(void);
uint32_t __wrap_cq_processors(void)
{
	return refuse.processors != 0 ? refuse.processors : __real_cq_processors();
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
	long args[6];

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		args[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_membarrier && (errno = refused((int)args[0])) != 0)
		return -1;
	return __real_syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

static void check_that_a_refusal_stalls(bool *refused_call)
{
	open_with((cq_cleanup_config_t){ 0 });
	*refused_call = true;
	add(p, SLOTS);
	check_stalled(UNIT);
	*refused_call = false;
	cr_assert_eq(cq_cleanup_wake(q), 0);
	AWAIT(ran == SLOTS);
	close_queue();
}

Test(faults, thread_attributes_that_cannot_be_had_stall_managed_workers)
{
	check_that_a_refusal_stalls(&refuse.attr_init);
}

Test(faults, a_stack_size_that_is_refused_is_the_systems)
{
	open_with((cq_cleanup_config_t){ .stack_bytes = 1 }); /* musl's own is 128 KiB */
	refuse.setstacksize = true;
	cr_assert_eq(publish(p, record), 0);
	AWAIT(ran == 1);
	refuse.setstacksize = false;
	close_queue();
}

Test(faults, fork_handlers_that_cannot_be_had_refuse_the_queue_and_leak_nothing)
{
	cq_cleanup_config_t config = { .allocator = &alloc.allocator };

	test_alloc_init(&alloc);
	refuse.atfork = true;
	cr_assert_eq(cq_cleanup_create(&config, &q), ENOMEM);
	cr_assert_eq(alloc.live_bytes, 0);
	config.flags = CQ_NO_ATFORK;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	/* The next queue tries again. */
	config.flags = 0;
	refuse.atfork = false;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
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

Test(faults, create_says_what_is_wrong_with_any_of_its_mutexes)
{
	test_alloc_t mem;
	cq_cleanup_config_t config = { .allocator = &mem.allocator };
	int err;

	test_alloc_init(&mem);
	for (unsigned nth = 1; ; nth++) {
		refuse.mutex = nth;
		err = cq_cleanup_create(&config, &q);
		if (refuse.mutex != 0)
			break; /* it needs fewer */
		cr_assert_neq(err, 0, "the refusal of mutex %u", nth);
		cr_assert_eq(mem.live_bytes, 0);
	}
	refuse.mutex = 0;
	cr_assert_eq(err, 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(mem.live_bytes, 0);
}

Test(faults, memory_that_the_default_allocator_cannot_have_is_enomem)
{
	cq_cleanup_config_t config = { .flags = CQ_POLLED };

	refuse.memory = true;
	cr_assert_eq(cq_cleanup_create(&config, &q), ENOMEM);
	refuse.memory = false;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	refuse.memory = true;
	cr_assert_eq(cq_producer_attach(q, &p), ENOMEM);
	refuse.memory = false;
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(faults, the_default_cap_is_sane_however_many_processors_there_are)
{
	const struct { uint32_t processors, cap; } cases[] = {
		{ 1, 1 }, { 7, 1 }, { 8, 2 }, { 1000, 250 }, { UINT32_MAX, CQ_MAX_WORKERS }
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		refuse.processors = cases[i].processors;
		cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
		cr_assert_eq(stats().max_workers, cases[i].cap);
		cr_assert_eq(cq_cleanup_destroy(q), 0);
	}
}

Test(faults, workers_do_not_poll_for_the_only_processor)
{
	for (uint32_t processors = 1; processors <= 2; processors++) {
		refuse.processors = processors;
		cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
		cr_assert_eq(q->config.spin_ns, processors == 1 ? CQ_NO_SPIN : CQ_SPIN_NS_DEFAULT);
		cr_assert_eq(cq_cleanup_destroy(q), 0);
	}
}

Test(faults, a_kernel_that_refuses_membarrier_gets_fences)
{
	refuse.membarrier = ENOSYS;
	refuse.registration = true;
	open_with((cq_cleanup_config_t){ .flags = CQ_HANDOVER });
	cr_assert_neq(q->gate & GATE_FENCE, 0);
	add(p, SLOTS);
	add(other, 1);
	AWAIT(ran == SLOTS + 1);
	close_queue();
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

/* ------------------------------------------------------- shutdown meets creation */

static struct {
	pthread_t thread;
	int result;
} shutter;

static void *hand_back(void *unused)
{
	(void)unused;
	shutter.result = shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER);
	CHECK(!host.making);
	return NULL;
}

static void start_shutdown(void *unused)
{
	(void)unused;
	shutter.thread = start(hand_back, NULL);
	fake_wait_blocked(&park, 1); /* it waits for the worker that is being made */
	CHECK(park.host == NULL);
}

static void start_shutdown_and_fail(void *unused)
{
	start_shutdown(unused);
	host.err = EAGAIN;
}

Test(faults, shutdown_waits_for_a_worker_that_is_being_made)
{
	open_hosted(1);
	host.during = start_shutdown;
	cr_assert_eq(publish(p, record), 0);
	join(shutter.thread);
	cr_assert_eq(shutter.result, 0);
	cr_assert_eq(returned, 1);
	close_queue();
}

Test(faults, shutdown_does_not_wait_for_a_worker_that_could_not_be_made)
{
	open_hosted(1);
	host.during = start_shutdown_and_fail;
	(void)publish(p, record);
	join(shutter.thread);
	cr_assert_eq(shutter.result, 0);
	cr_assert_eq(returned, 1);
	close_queue();
}

static void check_free(pthread_mutex_t *lock)
{
	CHECK(pthread_mutex_trylock(lock) == 0);
	pthread_mutex_unlock(lock);
}

static void check_that_no_lock_is_held(void *unused)
{
	(void)unused;
	check_free(&q->registry);
	check_free(&q->idle.lock);
	check_free(&q->drainers.lock);
	check_free(&q->exits.lock);
}

Test(faults, hosts_are_called_with_no_lock_held)
{
	/* The last unpark is that of the shutdown, by the worker that ends. */
	open_hosted(1);
	park.free_lock = &q->registry;
	host.during = check_that_no_lock_is_held;
	cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == 1);
	start_shutdown(NULL);
	gate_open(&room.leave);
	join(shutter.thread);
	cr_assert_eq(shutter.result, 0);
	cr_assert_eq(park.unparks, 1);
	close_queue();
}

/* ------------------------------------------------------------- parks and clocks */

static void return_at_once(void *host_, cq_parker_t *parker, uint64_t deadline)
{
	(void)host_;
	(void)parker;
	(void)deadline;
	sched_yield();
}

static void grant_only(void *host_, cq_parker_t *parker)
{
	(void)host_;
	cq_parker_grant(parker);
}

static uint64_t real_now(void *host_)
{
	(void)host_;
	return cq_now();
}

Test(faults, a_park_that_never_blocks_is_slow_and_correct)
{
	static const cq_park_ops_t busy = { real_now, return_at_once, grant_only, NULL };

	/* Short enough to retire now and then. */
	open_with((cq_cleanup_config_t){ .park = &busy, .idle_ns = 50000 });
	for (int i = 0; i < 100; i++) {
		add(p, 1 + (unsigned)i % 4);
		if (i % 10 == 0)
			cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	}
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(ran, accepted);
	close_queue();
}

Test(faults, parks_that_return_early_change_nothing)
{
	int result = -1;
	pthread_t thread;

	open_with((cq_cleanup_config_t){ .max_workers = 2 });
	cr_assert_eq(publish(p, record), 0);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == 1);
	thread = start(drain, &result);
	fake_wait_blocked(&park, 1);
	for (int i = 0; i < 3; i++) {
		fake_disturb(&park);
		fake_wait_blocked(&park, 1);
	}
	cr_assert_eq(result, -1);
	gate_open(&room.leave);
	join(thread);
	cr_assert_eq(result, 0);
	cr_assert_eq(ran, 2);
	close_queue();
}

Test(faults, deadlines_in_the_past_still_look)
{
	open_with((cq_cleanup_config_t){ 0 });
	fake_advance(&park, 1000);
	cr_assert_eq(cq_cleanup_drain(q, 1), 0);
	cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(cq_cleanup_drain(q, 1), ETIMEDOUT);
	cr_assert_eq(cq_cleanup_drain(q, 0), ETIMEDOUT);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, 1), ETIMEDOUT);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_HAND_BACK, 1), ETIMEDOUT);
	cr_assert_eq(cq_producer_enqueue(p, record, NULL), ESHUTDOWN);
	gate_open(&room.leave);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, 1), 0);
	cr_assert_eq(ran, 1);
	close_queue();
}

Test(faults, a_clock_that_jumps_ends_waits_and_loses_nothing)
{
	const uint64_t years = UINT64_C(1000000000) * 3600 * 24 * 3650;
	int result = -1;
	pthread_t thread;

	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == 1);
	cr_assert_eq(publish(p, record), 0); /* a second worker, soon idle */
	AWAIT(ran == 1);
	thread = start(drain, &result);
	fake_wait_blocked(&park, 2);
	fake_advance(&park, years);
	AWAIT(stats().workers_retired == 1);
	fake_wait_blocked(&park, 1); /* the drain, which has no deadline */
	gate_open(&room.leave);
	join(thread);
	cr_assert_eq(result, 0);
	close_queue();
}

Test(faults, an_idle_limit_beyond_the_end_of_the_clock_is_no_limit)
{
	open_with((cq_cleanup_config_t){ .idle_ns = IDLE_NS });
	fake_advance(&park, CQ_FOREVER - IDLE_NS / 2);
	cr_assert_eq(publish(p, record), 0);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(park.deadline, CQ_FOREVER);
	close_queue();
}

static void *drain_until(void *result)
{
	*(int *)result = cq_cleanup_drain(q, IDLE_NS);
	return NULL;
}

Test(faults, a_drain_times_out_and_its_work_goes_on)
{
	int result = -1;
	pthread_t thread;

	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == 1);
	thread = start(drain_until, &result);
	fake_wait_blocked(&park, 1);
	fake_advance(&park, IDLE_NS);
	join(thread);
	cr_assert_eq(result, ETIMEDOUT);
	gate_open(&room.leave);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(ran, 1);
	close_queue();
}

/* --------------------------------------------------------- callbacks that block */

Test(faults, callbacks_that_block_do_not_stop_the_others)
{
	open_with((cq_cleanup_config_t){ 0 });
	for (unsigned i = 1; i < CAP; i++)
		cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == CAP - 1);
	for (unsigned i = 0; i < 50; i++)
		add(p, SLOTS);
	AWAIT(ran == 50 * SLOTS);
	cr_assert_eq(stats().workers_running, CAP - 1);
	gate_open(&room.leave);
	close_queue();
}

/* ----------------------------------------------------------------------- misuse */

static atomic_int refusals;

static void misuse_from_inside(void *arg)
{
	refusals += cq_cleanup_drain(q, CQ_FOREVER) == EDEADLK;
	refusals += shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER) == EDEADLK;
	refusals += shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER) == EDEADLK;
	refusals += cq_cleanup_work(q) == EDEADLK;
	refusals += cq_cleanup_destroy(q) == EBUSY;
	record(arg);
}

enum { REFUSALS = 5 };

Test(faults, callbacks_may_not_drain_shut_down_or_work_wherever_they_run)
{
	cq_worker_t *w;
	cq_block_t *b;

	open_hosted(1);
	cr_assert_eq(publish(p, misuse_from_inside), 0);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(refusals, REFUSALS);

	q->config.flags |= CQ_POLLED; /* so that the worker sleeps on */
	cr_assert_eq(publish(p, misuse_from_inside), 0);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(refusals, 2 * REFUSALS);

	cr_assert_eq(publish(p, misuse_from_inside), 0);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), 0);
	b = cq_worker_try_dequeue(w);
	cr_assert_not_null(b);
	cq_worker_run(w, b);
	cr_assert_eq(refusals, 3 * REFUSALS);
	cq_worker_detach(w);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0); /* not from inside */
	close_queue();
}

static void run_some_and_misuse(void *arg)
{
	CHECK(cq_cleanup_run_some(q, 1) == 1);
	misuse_from_inside(arg); /* still inside of this one */
}

Test(faults, callbacks_within_callbacks_are_still_refused)
{
	open_with((cq_cleanup_config_t){ .flags = CQ_POLLED });
	cr_assert_eq(publish(p, misuse_from_inside), 0);
	cr_assert_eq(publish(p, run_some_and_misuse), 0); /* last in, first out */
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(ran, 2);
	cr_assert_eq(refusals, 2 * REFUSALS);
	close_queue();
}

static void drain_and_end_another(void *arg)
{
	cq_cleanup_t *another;

	CHECK(cq_cleanup_create(NULL, &another) == 0);
	CHECK(cq_cleanup_drain(another, CQ_FOREVER) == 0);
	CHECK(cq_cleanup_shutdown(another, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) == 0);
	CHECK(cq_cleanup_destroy(another) == 0);
	record(arg);
}

Test(faults, callbacks_may_end_other_queues)
{
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(publish(p, drain_and_end_another), 0);
	AWAIT(ran == 1);
	close_queue();
}

Test(faults, two_shutdowns_at_once_are_refused_and_one_goes_on)
{
	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(publish(p, stay_inside), 0);
	AWAIT(room.inside == 1);
	start_shutdown(NULL);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), EALREADY);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	gate_open(&room.leave);
	join(shutter.thread);
	cr_assert_eq(shutter.result, 0);
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	close_queue();
}

Test(faults, arguments_that_cannot_be_meant_are_refused)
{
	cq_producer_t *producer;

	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(cq_producer_enqueue(p, NULL, NULL), EINVAL);
	cr_assert_eq(cq_producer_reserve(p, SIZE_MAX), EINVAL);
	cr_assert_eq(cq_producer_attach(NULL, &producer), EINVAL);
	cr_assert_eq(cq_producer_attach(q, NULL), EINVAL);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, 0, NULL, NULL), EINVAL);
	cr_assert_eq(cq_cleanup_destroy(NULL), 0);
	cq_producer_detach(NULL);
	cq_worker_detach(NULL);
	cr_assert_eq(cq_cleanup_run_some(q, 0), 0);
	cr_assert_eq(cq_cleanup_destroy(q), EBUSY);
	cr_assert_eq(publish(p, record), 0); /* none of it closed anything */
	AWAIT(ran == 1);
	close_queue();
}

Test(faults, what_is_used_after_shutdown_says_so)
{
	cq_producer_t *producer;
	cq_worker_t *w;

	open_with((cq_cleanup_config_t){ 0 });
	cr_assert_eq(shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER), 0);
	cr_assert_eq(cq_producer_enqueue(p, record, NULL), ESHUTDOWN);
	cr_assert_eq(cq_producer_reserve(p, 1), ESHUTDOWN);
	cr_assert_eq(cq_producer_attach(q, &producer), ESHUTDOWN);
	cr_assert_eq(cq_worker_attach(q, NULL, &w), ESHUTDOWN);
	cr_assert_eq(cq_cleanup_work(q), ESHUTDOWN);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(cq_cleanup_run_some(q, 10), 0);
	close_queue();
}
