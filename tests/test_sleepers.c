/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 2, with a plain counter for work and a fake park table. Most races are
 * steered in one thread: what the other thread would do happens at a schedule
 * point, inside park, or before the set's lock. Where that can't be, gates hold threads.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "support.h"

TestSuite(sleepers, .timeout = 60);

enum { DEADLINE = 1000, SPIN = 1000, SLEEPERS = 5 };

static cq_sleepers_t set;
static fake_park_t park;
static cq_sleeper_t me;
static unsigned work;

static void setup(void)
{
	fake_init(&park);
	cr_assert_eq(cq_sleepers_init(&set, &park.ops, 0), 0);
	cq_sleeper_init(&me, NULL);
}

/* Each thread runs on the CPU on which it says it does. */
static _Thread_local uint32_t my_cpu;

__attribute__((used)) uint32_t __wrap_cq_cpu(void);
uint32_t __wrap_cq_cpu(void)
{
	return my_cpu;
}

/* The next one to lock the set does this first. */
static test_act_fn *_Atomic before_lock;
static _Atomic unsigned locks; /* how often it was locked */

int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
	test_act_fn *act = lock == &set.lock ? atomic_exchange(&before_lock, NULL) : NULL;

	if (act != NULL)
		act(NULL);
	locks += lock == &set.lock;
	return __real_pthread_mutex_lock(lock);
}

static bool lock_is_free(void)
{
	bool free = pthread_mutex_trylock(&set.lock) == 0;

	if (free)
		pthread_mutex_unlock(&set.lock);
	return free;
}

static uint32_t listed(void)
{
	uint32_t n = 0;

	for (cq_sleeper_t *s = set.newest; s != NULL; s = s->next)
		n++;
	return n;
}

static uint32_t waiters(void)
{
	return cq_sleepers_waiters(&set, NULL);
}

static uint32_t on_their_way(void)
{
	uint32_t n;

	cq_sleepers_waiters(&set, &n);
	return n;
}

static uint32_t wake_all(void)
{
	return cq_sleepers_wake(&set, UINT32_MAX);
}

static bool take(void)
{
	return work > 0 && work--;
}

static void prepare(void)
{
	cq_sleepers_prepare_wait(&set, &me);
}

static cq_wait_result_t commit(uint64_t deadline)
{
	return cq_sleepers_commit_wait(&set, &me, deadline);
}

static cq_wait_result_t wait_as(cq_sleeper_t *s, uint64_t deadline)
{
	cq_sleepers_prepare_wait(&set, s);
	return cq_sleepers_commit_wait(&set, s, deadline);
}

static cq_wait_result_t wait_until(uint64_t deadline)
{
	return wait_as(&me, deadline);
}

/* Steps of a waker. */
static void wake_one(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_wake(&set, 1) == 1);
}

static void wake_nobody(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_wake(&set, 1) == 0);
}

static void pass_deadline(void *unused)
{
	(void)unused;
	fake_advance(&park, DEADLINE);
}

static void check_nobody_is_left(void)
{
	cr_assert_eq(waiters(), 0);
	cr_assert_eq(on_their_way(), 0);
	cr_assert_eq(listed(), 0);
	cr_assert(lock_is_free());
	cr_assert_eq(wake_all(), 0);
	cr_assert_eq(cq_sleepers_destroy(&set), 0);
}

/* Real threads that sleep until woken. Sleeper i+1 is listed after sleeper i. */
static struct {
	cq_sleeper_t sleeper;
	pthread_t thread;
	uint64_t deadline;
	uint32_t cpu;
	cq_wait_result_t result;
} crowd[SLEEPERS];

static void *crowd_body(void *index)
{
	size_t i = (size_t)index;

	my_cpu = crowd[i].cpu;
	crowd[i].result = wait_as(&crowd[i].sleeper, crowd[i].deadline);
	return NULL;
}

static void crowd_join_in(size_t i, uint64_t deadline)
{
	crowd[i].deadline = deadline;
	cq_sleeper_init(&crowd[i].sleeper, (void *)(i + 1));
	crowd[i].thread = start(crowd_body, (void *)i);
	fake_wait_blocked(&park, (unsigned)i + 1);
}

static void crowd_start(const uint64_t deadlines[SLEEPERS])
{
	for (size_t i = 0; i < SLEEPERS; i++)
		crowd_join_in(i, deadlines != NULL ? deadlines[i] : CQ_FOREVER);
}

static cq_wait_result_t crowd_join(size_t i)
{
	join(crowd[i].thread);
	return crowd[i].result;
}

static void crowd_was(cq_wait_result_t result)
{
	for (size_t i = 0; i < SLEEPERS; i++)
		cr_assert_eq(crowd_join(i), result);
}

/* ----------------------------------------------------------- init, destroy */

Test(sleepers, init_refuses_null_and_incomplete_tables)
{
	cq_park_ops_t ops;

	fake_init(&park);
	cr_assert_eq(cq_sleepers_init(NULL, &park.ops, 0), EINVAL);
	ops = park.ops;
	ops.now = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops, 0), EINVAL);
	ops = park.ops;
	ops.park = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops, 0), EINVAL);
	ops = park.ops;
	ops.unpark = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops, 0), EINVAL);
	ops = park.ops;
	ops.host = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops, 0), 0);
	cr_assert_eq(cq_sleepers_destroy(&set), 0);
	cr_assert_eq(cq_sleepers_destroy(NULL), EINVAL);
}

Test(sleepers, static_initializer_is_an_empty_set_on_the_default_table)
{
	static cq_sleepers_t fresh = CQ_SLEEPERS_INITIALIZER;
	uint64_t deadline = cq_deadline_in(2000000);

	cq_sleeper_init(&me, NULL);
	cr_assert_eq(cq_sleepers_waiters(&fresh, NULL), 0);
	cr_assert_eq(cq_sleepers_wake(&fresh, 1), 0);
	cr_assert_eq(fresh.spin_ns, 0);
	cq_sleepers_prepare_wait(&fresh, &me);
	cr_assert_eq(cq_sleepers_commit_wait(&fresh, &me, deadline), CQ_TIMED_OUT);
	cr_assert_geq(cq_now(), deadline);
	cr_assert_eq(cq_sleepers_destroy(&fresh), 0);
}

Test(sleepers, static_initializer_with_a_table_is_as_init_makes_it)
{
	static cq_sleepers_t fresh = CQ_SLEEPERS_INITIALIZER_WITH(&park.ops, 7);

	fake_init(&park);
	cr_assert_eq(cq_sleepers_init(&set, &park.ops, 7), 0);
	cr_assert_eq(fresh.ops, set.ops);
	cr_assert_eq(fresh.spin_ns, set.spin_ns);
	cr_assert_eq(fresh.counts, set.counts);
	cr_assert_eq(fresh.epoch, set.epoch);
	cr_assert_eq(fresh.stopped, set.stopped);
	cr_assert_null(fresh.newest);
	cq_sleeper_init(&me, NULL);
	park.script = pass_deadline;
	cq_sleepers_prepare_wait(&fresh, &me);
	cr_assert_eq(cq_sleepers_commit_wait(&fresh, &me, DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(park.parks, 1);
	cr_assert_eq(cq_sleepers_destroy(&fresh), 0);
}

Test(sleepers, init_without_a_table_takes_the_default)
{
	cr_assert_eq(cq_sleepers_init(&set, NULL, 0), 0);
	cq_sleeper_init(&me, NULL);
	cr_assert_eq(wait_until(cq_now()), CQ_TIMED_OUT);
	check_nobody_is_left();
}

static void destroy_is_busy_before_and_after_a_wake(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_destroy(&set) == EBUSY);
	wake_one(NULL);
	CHECK(waiters() == 0 && on_their_way() == 1);
	CHECK(cq_sleepers_destroy(&set) == EBUSY);
}

Test(sleepers, destroy_refuses_while_someone_is_prepared_listed_or_on_the_way, .init = setup)
{
	prepare();
	cr_assert_eq(cq_sleepers_destroy(&set), EBUSY);
	cq_sleepers_cancel_wait(&set, &me);

	park.script = destroy_is_busy_before_and_after_a_wake;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	check_nobody_is_left();
}

/* ---------------------------------------------------------- the handshake */

/* golang/go#73642: the first look failed, then work came, then the thread slept. */
Test(sleepers, work_published_before_prepare_wait_is_found_by_the_second_look, .init = setup)
{
	cr_assert_not(take());
	work++;
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	prepare();
	cr_assert(take());
	cq_sleepers_cancel_wait(&set, &me);
	check_nobody_is_left();
}

/* The publisher comes when the second look has read "no work". */
Test(sleepers, a_publisher_that_the_look_misses_sees_who_is_prepared, .init = setup)
{
	prepare();
	cr_assert_not(take());
	work++;
	cr_assert_eq(waiters(), 1);
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	cr_assert_eq(park.parks, 0);
	cr_assert(take());
	check_nobody_is_left();
}

static void published_at_the_last_moment(void *unused)
{
	(void)unused;
	work++;
	CHECK(cq_sleepers_ensure(&set, 1) == 0);
}

Test(sleepers, whoever_is_about_to_be_listed_looks_again, .init = setup)
{
	at_point("sleepers.listing", published_at_the_last_moment, NULL);
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_AGAIN);
	before_lock = wake_nobody;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_AGAIN);
	cr_assert_eq(park.parks, 0);
	cr_assert_eq(work, 1);
	check_nobody_is_left();
}

Test(sleepers, every_waker_makes_a_prepared_one_look_again_and_does_not_count_it, .init = setup)
{
	prepare();
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	prepare();
	cr_assert_eq(cq_sleepers_wake(&set, 1), 0);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	prepare();
	cr_assert_eq(wake_all(), 0);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	prepare();
	cr_assert_not(cq_sleepers_wake_sleeper(&set, &me));
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	cr_assert_eq(on_their_way(), 0);
	cr_assert_eq(park.parks, 0);
	check_nobody_is_left();
}

/* It was an answer to those who were prepared then: not to who comes afterwards. */
Test(sleepers, a_waker_that_was_here_before_prepare_wait_ends_no_wait, .init = setup)
{
	prepare();
	wake_nobody(NULL);
	cq_sleepers_cancel_wait(&set, &me);
	park.script = pass_deadline;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(park.parks, 1);
	check_nobody_is_left();
}

Test(sleepers, a_waker_that_finds_enough_on_the_list_leaves_the_prepared_alone, .init = setup)
{
	crowd_start(NULL);
	prepare();
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 1);
	cr_assert_eq(cq_sleepers_wake(&set, SLEEPERS - 1), SLEEPERS - 1);
	crowd_was(CQ_WOKEN);
	park.parks = 0;
	park.script = pass_deadline;
	cr_assert_eq(commit(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(park.parks, 1);
	check_nobody_is_left();
}

Test(sleepers, a_waker_that_finds_too_few_on_the_list_wakes_them_and_makes_the_others_look, .init = setup)
{
	crowd_start(NULL);
	prepare();
	cr_assert_eq(waiters(), SLEEPERS + 1);
	cr_assert_eq(cq_sleepers_ensure(&set, SLEEPERS + 1), SLEEPERS);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

/* All that others do meanwhile is done by the time that the look ends. */
static void *sleep_and_be_woken(void *unused)
{
	cq_sleeper_t s;

	(void)unused;
	cq_sleeper_init(&s, NULL);
	cq_sleepers_prepare_wait(&set, &s);
	cq_sleepers_cancel_wait(&set, &s);
	CHECK(wait_as(&s, CQ_FOREVER) == CQ_WOKEN);
	return NULL;
}

Test(sleepers, a_long_look_holds_no_lock, .init = setup)
{
	pthread_t other;

	prepare();
	cr_assert(lock_is_free());
	cr_assert_eq(waiters(), 1);
	other = start(sleep_and_be_woken, NULL);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(waiters(), 2);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	join(other);
	park.script = pass_deadline;
	cr_assert_eq(commit(DEADLINE), CQ_TIMED_OUT);
	check_nobody_is_left();
}

/* This kind of lock is refused to its owner, so that a call that takes it gives it back. */
static void lock_it(void)
{
	pthread_mutexattr_t attr;

	cr_assert_eq(pthread_mutexattr_init(&attr), 0);
	cr_assert_eq(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK), 0);
	cr_assert_eq(pthread_mutex_destroy(&set.lock), 0);
	cr_assert_eq(pthread_mutex_init(&set.lock, &attr), 0);
	pthread_mutex_lock(&set.lock);
}

Test(sleepers, prepare_wait_and_cancel_wait_take_no_lock, .init = setup)
{
	lock_it();
	prepare();
	cr_assert_not(lock_is_free());
	cr_assert_eq(waiters(), 1);
	cq_sleepers_cancel_wait(&set, &me);
	cr_assert_not(lock_is_free());
	pthread_mutex_unlock(&set.lock);
	check_nobody_is_left();
}

Test(sleepers, a_thread_may_be_prepared_in_several_sets, .init = setup)
{
	cq_sleepers_t other;
	cq_sleeper_t there;

	cr_assert_eq(cq_sleepers_init(&other, &park.ops, 0), 0);
	cq_sleeper_init(&there, NULL);
	prepare();
	wake_nobody(NULL);
	cq_sleepers_cancel_wait(&set, &me);

	prepare();
	cq_sleepers_prepare_wait(&other, &there);
	cr_assert_eq(cq_sleepers_ensure(&other, 1), 0);
	park.script = pass_deadline;
	cr_assert_eq(commit(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(cq_sleepers_waiters(&other, NULL), 1);
	cr_assert_eq(cq_sleepers_commit_wait(&other, &there, CQ_FOREVER), CQ_AGAIN);

	/* And one after the other with one sleeper. */
	park.script = wake_one;
	cr_assert_eq(wait_as(&there, CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(cq_sleepers_waiters(&other, NULL), 0);
	cr_assert_eq(cq_sleepers_destroy(&other), 0);
	check_nobody_is_left();
}

/* S1, S2, and that one step moves a sleeper from one count to the other, at every point. */
static void check_counts(const char *where, void *steps)
{
	uint32_t way, n = cq_sleepers_waiters(&set, &way);
	bool back = strcmp(where, "sleepers.back") == 0;

	CHECK(n >= listed());
	CHECK(n + way == (back ? 0 : 1));
	if (strcmp(where, "sleepers.listed") == 0)
		CHECK(listed() == 1);
	++*(unsigned *)steps;
}

Test(sleepers, waiters_and_on_their_way_are_one_snapshot_and_never_too_low, .init = setup)
{
	unsigned steps = 0;

	at_every_point(check_counts, &steps);
	park.script = wake_one;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	park.script = pass_deadline;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	prepare();
	wake_nobody(NULL);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	cr_assert_geq(steps, 12);
	check_nobody_is_left();
}

static void on_its_way_until_it_is_back(void *unused)
{
	(void)unused;
	wake_one(NULL);
	CHECK(waiters() == 0 && on_their_way() == 1);
}

static void no_longer_on_its_way(void *unused)
{
	(void)unused;
	CHECK(on_their_way() == 0);
	CHECK(cq_sleepers_ensure(&set, 1) == 0); /* nobody: there is none to wake */
}

Test(sleepers, a_sleeper_is_on_its_way_until_commit_wait_returns, .init = setup)
{
	park.script = on_its_way_until_it_is_back;
	at_point("sleepers.back", no_longer_on_its_way, NULL);
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	check_nobody_is_left();
}

/* ----------------------------------------------------------------- waking */

Test(sleepers, wake_returns_how_many, .init = setup)
{
	crowd_start(NULL);
	cr_assert_eq(waiters(), SLEEPERS);
	cr_assert_eq(cq_sleepers_wake(&set, 0), 0);
	cr_assert_eq(waiters(), SLEEPERS);
	cr_assert_eq(cq_sleepers_wake(&set, 2), 2);
	cr_assert_eq(waiters(), SLEEPERS - 2);
	cr_assert_eq(cq_sleepers_wake(&set, SLEEPERS), SLEEPERS - 2);
	cr_assert_eq(waiters(), 0);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 0);
	crowd_was(CQ_WOKEN);
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

Test(sleepers, wake_takes_the_newest_first, .init = setup)
{
	crowd_start(NULL);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(park.unparked[0], (void *)SLEEPERS);
	cr_assert_eq(crowd_join(4), CQ_WOKEN);
	cr_assert_eq(cq_sleepers_ensure(&set, 3), 3);
	for (int i = 3; i >= 1; i--)
		cr_assert_eq(crowd_join((size_t)i), CQ_WOKEN);
	cr_assert_eq(listed(), 1);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(crowd_join(0), CQ_WOKEN);
	for (int i = 0; i < SLEEPERS; i++)
		cr_assert_eq(park.unparked[i], (void *)(size_t)(SLEEPERS - i));
	check_nobody_is_left();
}

Test(sleepers, a_waker_prefers_who_slept_on_its_cpu, .init = setup)
{
	static const uint32_t cpus[SLEEPERS] = { 3, 7, 3, 7, 5 };
	/* The newest of CPU 3, then the other; two more at once: the newest of all. */
	static const size_t order[SLEEPERS] = { 2, 0, 4, 3, 1 };

	for (size_t i = 0; i < SLEEPERS; i++)
		crowd[i].cpu = cpus[i];
	crowd_start(NULL);
	my_cpu = 3;
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(crowd_join(2), CQ_WOKEN);
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 1);
	cr_assert_eq(crowd_join(0), CQ_WOKEN);
	my_cpu = 7;
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 2);
	cr_assert_eq(crowd_join(4), CQ_WOKEN);
	cr_assert_eq(crowd_join(3), CQ_WOKEN);
	my_cpu = 9; /* nobody's: the newest */
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(crowd_join(1), CQ_WOKEN);
	for (size_t i = 0; i < SLEEPERS; i++)
		cr_assert_eq(park.unparked[i], (void *)(order[i] + 1));
	check_nobody_is_left();
}

Test(sleepers, wake_of_uint32_max_wakes_all, .init = setup)
{
	crowd_start(NULL);
	cr_assert_eq(wake_all(), SLEEPERS);
	crowd_was(CQ_WOKEN);
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

Test(sleepers, a_sleeper_is_unparked_once_and_outside_the_lock, .init = setup)
{
	park.free_lock = &set.lock;
	crowd_start(NULL);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert(cq_sleepers_wake_sleeper(&set, &crowd[1].sleeper));
	cr_assert_eq(crowd_join(SLEEPERS - 1), CQ_WOKEN);
	cr_assert_eq(crowd_join(1), CQ_WOKEN);
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 1);
	cr_assert_eq(crowd_join(SLEEPERS - 2), CQ_WOKEN);
	cq_sleepers_stop(&set);
	cr_assert_eq(crowd_join(0), CQ_STOPPED);
	cr_assert_eq(crowd_join(2), CQ_STOPPED);
	for (size_t i = 0; i < SLEEPERS; i++)
		for (size_t j = 0; j < i; j++)
			cr_assert_neq(park.unparked[i], park.unparked[j]);
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

static void nobody_waits(void *unused)
{
	(void)unused;
	CHECK(waiters() == 0);
	wake_nobody(NULL);
}

Test(sleepers, a_sleeper_that_is_taken_no_longer_waits, .init = setup)
{
	park.script = wake_one;
	at_point("sleepers.taken", nobody_waits, NULL);
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.unparks, 1);
	check_nobody_is_left();
}

Test(sleepers, a_waker_that_finds_nobody_takes_no_lock, .init = setup)
{
	lock_it();
	cr_assert_eq(cq_sleepers_wake(&set, 1), 0);
	cr_assert_not(lock_is_free());
	cr_assert_eq(wake_all(), 0);
	cr_assert_not(lock_is_free());
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	cr_assert_not(lock_is_free());
	cr_assert_not(cq_sleepers_wake_sleeper(&set, &me));
	cr_assert_not(lock_is_free());
	pthread_mutex_unlock(&set.lock);
	check_nobody_is_left();
}

static void wake_on_the_fourth(void *unused)
{
	(void)unused;
	if (park.parks % 4 == 0)
		wake_one(NULL);
}

Test(sleepers, spurious_returns_are_absorbed, .init = setup)
{
	park.script = wake_on_the_fourth;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.parks, 4);
	cr_assert_eq(wait_until(DEADLINE), CQ_WOKEN);
	cr_assert_eq(park.parks, 8);
	check_nobody_is_left();
}

Test(sleepers, spurious_returns_wake_none_of_many, .init = setup)
{
	crowd_start(NULL);
	for (int i = 0; i < 20; i++) {
		fake_disturb(&park);
		fake_wait_blocked(&park, SLEEPERS);
		cr_assert_eq(waiters(), SLEEPERS);
	}
	cr_assert_eq(wake_all(), SLEEPERS);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

Test(sleepers, a_permit_is_not_left_over_for_the_next_wait, .init = setup)
{
	park.script = wake_one;
	for (unsigned i = 1; i <= 3; i++) {
		cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
		cr_assert_eq(park.parks, i, "it went on without a wake");
	}
	park.script = pass_deadline;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	check_nobody_is_left();
}

/* ----------------------------------------------------------------- ensure */

/* Those that are woken wait for it before they return: they are on their way. */
static gate_t leave = GATE_INITIALIZER;

static void setup_with_the_way_blocked(void)
{
	setup();
	park.leave = &leave;
	crowd_start(NULL);
}

Test(sleepers, ensure_wakes_those_that_are_missing_and_returns_how_many,
    .init = setup_with_the_way_blocked)
{
	cr_assert_eq(cq_sleepers_ensure(&set, 0), 0);
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 2);
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 0);
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	cr_assert_eq(cq_sleepers_ensure(&set, 3), 1);
	cr_assert_eq(waiters(), SLEEPERS - 3);
	cr_assert_eq(on_their_way(), 3);
	cr_assert_eq(cq_sleepers_ensure(&set, UINT32_MAX), SLEEPERS - 3);
	cr_assert_eq(cq_sleepers_ensure(&set, UINT32_MAX), 0);
	cr_assert_eq(on_their_way(), SLEEPERS);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

Test(sleepers, ensure_counts_whoever_is_on_the_way_by_whatever_call,
    .init = setup_with_the_way_blocked)
{
	cr_assert(cq_sleepers_wake_sleeper(&set, &crowd[0].sleeper));
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 0);
	cr_assert_eq(park.unparks, 2);
	gate_open(&leave);
	cr_assert_eq(crowd_join(0), CQ_WOKEN);
	cr_assert_eq(crowd_join(SLEEPERS - 1), CQ_WOKEN);
	/* They are back, and count no longer. */
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 2);
	cr_assert_eq(wake_all(), 1);
	for (size_t i = 1; i < SLEEPERS - 1; i++)
		cr_assert_eq(crowd_join(i), CQ_WOKEN);
	check_nobody_is_left();
}

Test(sleepers, wake_wakes_more_whoever_is_on_the_way, .init = setup_with_the_way_blocked)
{
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(cq_sleepers_wake(&set, 2), 2);
	cr_assert_eq(on_their_way(), 4);
	cr_assert_eq(cq_sleepers_wake(&set, 2), 1);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

Test(sleepers, ensure_with_enough_on_the_way_takes_no_lock, .init = setup_with_the_way_blocked)
{
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 2);
	lock_it();
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 0);
	cr_assert_not(lock_is_free());
	pthread_mutex_unlock(&set.lock);
	cr_assert_eq(wake_all(), SLEEPERS - 2);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

static void ensure_meanwhile(void *unused)
{
	unsigned before = locks;

	(void)unused;
	/* Two are promised. Only who ensures counts on that, as the promise may not be kept. */
	CHECK(waiters() == SLEEPERS && on_their_way() == 0);
	CHECK(cq_sleepers_ensure(&set, 1) == 0 && cq_sleepers_ensure(&set, 2) == 0);
	CHECK(locks == before);
}

Test(sleepers, of_many_that_ensure_at_once_one_takes_the_lock, .init = setup_with_the_way_blocked)
{
	before_lock = ensure_meanwhile;
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 2);
	cr_assert_eq(on_their_way(), 2);
	cr_assert_eq(wake_all(), SLEEPERS - 2);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

static void ensure_three_meanwhile(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_ensure(&set, 3) == 1);
}

Test(sleepers, of_two_that_ensure_at_once_the_second_wakes_only_what_the_first_does_not,
    .init = setup_with_the_way_blocked)
{
	before_lock = ensure_three_meanwhile;
	cr_assert_eq(cq_sleepers_ensure(&set, 2), 2);
	cr_assert_eq(on_their_way(), 3);
	cr_assert_eq(cq_sleepers_ensure(&set, 3), 0);
	cr_assert_eq(wake_all(), SLEEPERS - 3);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

static void wake_one_that_is_missing(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_ensure(&set, 1) == 1);
}

static void wake_all_but_one_meanwhile(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_wake(&set, SLEEPERS - 1) == SLEEPERS - 1);
}

Test(sleepers, a_promise_that_is_not_kept_is_taken_back, .init = setup)
{
	crowd_start(NULL);
	before_lock = wake_all_but_one_meanwhile;
	cr_assert_eq(cq_sleepers_ensure(&set, 3), 1);
	crowd_was(CQ_WOKEN);
	cr_assert_eq(on_their_way(), 0);
	park.script = wake_one_that_is_missing;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	check_nobody_is_left();
}

/* It is prepared, so the promise that the publisher counts is not kept. */
Test(sleepers, a_promise_that_is_not_kept_makes_the_prepared_look_again, .init = setup)
{
	prepare();
	before_lock = published_at_the_last_moment;
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	cr_assert_eq(work, 1);
	cr_assert_eq(commit(CQ_FOREVER), CQ_AGAIN);
	check_nobody_is_left();
}

static void ensure_all_meanwhile(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_ensure(&set, UINT32_MAX) == SLEEPERS);
}

/* Their sum doesn't fit where promises are counted. */
Test(sleepers, promises_without_end_harm_no_count, .init = setup_with_the_way_blocked)
{
	before_lock = ensure_all_meanwhile;
	cr_assert_eq(cq_sleepers_ensure(&set, UINT32_MAX / 3), 0);
	cr_assert_eq(waiters(), 0);
	cr_assert_eq(on_their_way(), SLEEPERS);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

/* ----------------------------------------------------------- wake_sleeper */

Test(sleepers, wake_sleeper_wakes_this_one_and_no_other, .init = setup)
{
	/* From the middle of the list, then its newest, then its oldest. */
	static const size_t order[SLEEPERS] = { 2, 4, 0, 3, 1 };

	crowd_start(NULL);
	for (size_t i = 0; i < SLEEPERS; i++) {
		cr_assert(cq_sleepers_wake_sleeper(&set, &crowd[order[i]].sleeper));
		cr_assert_eq(crowd_join(order[i]), CQ_WOKEN);
		cr_assert_eq(park.unparked[i], (void *)(order[i] + 1));
		cr_assert_eq(waiters(), SLEEPERS - 1 - i);
		/* It exists, but isn't listed. */
		cr_assert_not(cq_sleepers_wake_sleeper(&set, &crowd[order[i]].sleeper));
	}
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

static void wake_me_twice(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_wake_sleeper(&set, &me));
	CHECK(!cq_sleepers_wake_sleeper(&set, &me));
}

Test(sleepers, wake_sleeper_of_one_that_is_on_its_way_is_false, .init = setup)
{
	park.script = wake_me_twice;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.unparks, 1);
	check_nobody_is_left();
}

/* ------------------------------------------------------------------- stop */

Test(sleepers, stop_ends_all_waits_and_those_that_come_later, .init = setup)
{
	crowd_start(NULL);
	prepare();
	cq_sleepers_stop(&set);
	crowd_was(CQ_STOPPED);
	cr_assert_eq(commit(CQ_FOREVER), CQ_STOPPED);
	cr_assert_eq(park.parks, SLEEPERS);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(wait_until(CQ_FOREVER), CQ_STOPPED);
	cr_assert_eq(wait_until(0), CQ_STOPPED);
	cr_assert_eq(cq_sleepers_ensure(&set, 1), 0);
	cq_sleepers_stop(&set);
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_STOPPED);
	cr_assert_eq(park.parks, SLEEPERS);
	check_nobody_is_left();
}

static void wake_then_stop(void *unused)
{
	(void)unused;
	wake_one(NULL);
	cq_sleepers_stop(&set);
}

Test(sleepers, stopped_may_come_in_place_of_woken_or_again, .init = setup)
{
	park.script = wake_then_stop;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_STOPPED);
	cr_assert_eq(park.unparks, 1);
	prepare();
	wake_nobody(NULL);
	cr_assert_eq(commit(CQ_FOREVER), CQ_STOPPED);
	check_nobody_is_left();
}

/* -------------------------------------------------------------- deadlines */

Test(sleepers, a_deadline_in_the_past_ends_a_wait_without_a_park, .init = setup)
{
	fake_advance(&park, DEADLINE);
	cr_assert_eq(wait_until(0), CQ_TIMED_OUT);
	cr_assert_eq(wait_until(DEADLINE - 1), CQ_TIMED_OUT);
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(park.parks, 0);
	/* A waker comes first, all the same. */
	prepare();
	wake_nobody(NULL);
	cr_assert_eq(commit(0), CQ_AGAIN);
	at_point("sleepers.listed", wake_one, NULL);
	cr_assert_eq(wait_until(0), CQ_WOKEN);
	check_nobody_is_left();
}

static void later_and_later(void *unused)
{
	(void)unused;
	CHECK(park.deadline == DEADLINE);
	fake_advance(&park, DEADLINE / 4);
}

Test(sleepers, early_returns_do_not_move_the_deadline, .init = setup)
{
	park.script = later_and_later;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(park.parks, 4);
	cr_assert_eq(park.now, DEADLINE);
	check_nobody_is_left();
}

static void long_after(void *unused)
{
	(void)unused;
	CHECK(park.deadline == CQ_FOREVER);
	park.now = CQ_FOREVER;
	if (park.parks == 3)
		wake_one(NULL);
}

Test(sleepers, forever_has_no_end_and_needs_no_clock, .init = setup)
{
	park.script = long_after;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.parks, 3);
	cr_assert_eq(park.clock_reads, 0);
	check_nobody_is_left();
}

/* The waker was faster by a step: it has taken, and unparked, who has timed out. */
Test(sleepers, timeout_racing_wake_is_not_lost, .init = setup)
{
	park.script = pass_deadline;
	at_point("sleepers.timed_out", wake_one, NULL);
	cr_assert_eq(wait_until(DEADLINE), CQ_WOKEN);
	cr_assert_eq(park.unparks, 1);
	check_nobody_is_left();
}

/* It has only taken it: the sleeper has to wait for its permit, past its deadline. */
static struct {
	gate_t timed_out, taken, parked_again;
} race = { GATE_INITIALIZER, GATE_INITIALIZER, GATE_INITIALIZER };

static void *wake_late(void *unused)
{
	(void)unused;
	gate_wait(&race.timed_out);
	CHECK(cq_sleepers_wake(&set, 1) == 1);
	return NULL;
}

static void open_and_wait_until_taken(void *unused)
{
	(void)unused;
	gate_open(&race.timed_out);
	gate_wait(&race.taken);
}

static void wait_until_parked_again(void *unused)
{
	(void)unused;
	gate_open(&race.taken);
	gate_wait(&race.parked_again);
}

static void deadline_then_forever(void *unused)
{
	(void)unused;
	if (park.parks == 1) {
		fake_advance(&park, DEADLINE);
	} else if (park.parks == 2) {
		CHECK(park.deadline == CQ_FOREVER);
		CHECK(park.unparks == 0);
		gate_open(&race.parked_again);
	} else {
		sched_yield();
	}
}

Test(sleepers, a_sleeper_that_is_taken_waits_for_its_permit_past_the_deadline, .init = setup)
{
	pthread_t waker = start(wake_late, NULL);

	park.script = deadline_then_forever;
	at_point("sleepers.timed_out", open_and_wait_until_taken, NULL);
	at_point("sleepers.taken", wait_until_parked_again, NULL);
	cr_assert_eq(wait_until(DEADLINE), CQ_WOKEN);
	cr_assert_geq(park.parks, 2);
	join(waker);
	check_nobody_is_left();
}

/* The other order: the sleeper has left, so the wake finds nobody, and says so. */
Test(sleepers, wake_after_a_timeout_wakes_nobody, .init = setup)
{
	park.script = pass_deadline;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(waiters(), 0);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 0);
	cr_assert_eq(park.unparks, 0);
	check_nobody_is_left();
}

Test(sleepers, a_timeout_leaves_the_others_listed, .init = setup)
{
	/* From the middle of the list, then its newest, then its oldest. */
	static const uint64_t deadlines[SLEEPERS] = { 3, CQ_FOREVER, 1, CQ_FOREVER, 2 };
	static const size_t leaves[] = { 2, 4, 0 };

	crowd_start(deadlines);
	for (unsigned i = 0; i < 3; i++) {
		fake_advance(&park, 1);
		cr_assert_eq(crowd_join(leaves[i]), CQ_TIMED_OUT);
		cr_assert_eq(waiters(), SLEEPERS - 1 - i);
		cr_assert_eq(listed(), SLEEPERS - 1 - i);
	}
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(crowd_join(3), CQ_WOKEN);
	cr_assert_eq(wake_all(), 1);
	cr_assert_eq(crowd_join(1), CQ_WOKEN);
	check_nobody_is_left();
}

/*
 * THE RULE. A waker has counted a sleeper, whose wait then ends by itself: when the waker
 * gets the lock nobody is listed. So it has woken nobody, and the work is left to whoever
 * has just returned. A thread that left here without a look would leave the work behind.
 */
static struct {
	gate_t counted, sleeper_is_gone;
	uint32_t woken;
} rule = { GATE_INITIALIZER, GATE_INITIALIZER, 1 };

static void between_count_and_lock(void *unused)
{
	(void)unused;
	gate_open(&rule.counted);
	gate_wait(&rule.sleeper_is_gone);
}

static void *publish_and_ensure(void *unused)
{
	(void)unused;
	work++;
	before_lock = between_count_and_lock;
	rule.woken = cq_sleepers_ensure(&set, 1);
	return NULL;
}

static void pass_deadline_when_counted(void *waker)
{
	*(pthread_t *)waker = start(publish_and_ensure, NULL);
	gate_wait(&rule.counted);
	fake_advance(&park, DEADLINE);
}

Test(sleepers, work_is_lost_without_a_look_after_a_time_out, .init = setup)
{
	pthread_t waker;

	park.script = pass_deadline_when_counted;
	park.ctx = &waker;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	gate_open(&rule.sleeper_is_gone);
	join(waker);
	cr_assert_eq(rule.woken, 0);
	cr_assert_eq(waiters(), 0);
	cr_assert_eq(on_their_way(), 0); /* nobody else will do it */
	cr_assert_eq(work, 1);
	cr_assert(take());
	check_nobody_is_left();
}

/* ---------------------------------------------------------------- spinning */

/* As the fake, but that the waker comes at one of the sleeper's looks at the clock. */
static unsigned wake_at_read;
static uint64_t (*fake_clock)(void *host);

static uint64_t clock_that_wakes(void *host)
{
	uint64_t now = fake_clock(host);

	if (wake_at_read != 0 && park.clock_reads == wake_at_read) {
		wake_at_read = 0;
		wake_one(NULL);
	}
	return now;
}

static void setup_to_spin(void)
{
	fake_init(&park);
	fake_clock = park.ops.now;
	park.ops.now = clock_that_wakes;
	cr_assert_eq(cq_sleepers_init(&set, &park.ops, SPIN), 0);
	cq_sleeper_init(&me, NULL);
}

Test(sleepers, a_spinner_is_woken_without_a_park, .init = setup_to_spin)
{
	for (int i = 0; i < 3; i++) {
		wake_at_read = park.clock_reads + 3; /* the first is before the spin */
		cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	}
	cr_assert_eq(park.unparks, 3);
	cr_assert_eq(park.parks, 0);
	check_nobody_is_left();
}

static unsigned reads_before_park;

static void wake_after_a_long_time(void *unused)
{
	(void)unused;
	reads_before_park = park.clock_reads;
	fake_advance(&park, SPIN + 1);
	wake_one(NULL);
}

static void wake_now(void *unused)
{
	(void)unused;
	reads_before_park = park.clock_reads;
	wake_one(NULL);
}

/* Reads of the clock before the park: one for when the wait began, the others are the spin's. */
static unsigned reads_of(uint64_t deadline, cq_wait_result_t expected)
{
	park.clock_reads = 0;
	cr_assert_eq(wait_until(deadline), expected);
	return reads_before_park;
}

Test(sleepers, spinning_stops_after_a_long_wait_and_returns_after_a_short_one,
    .init = setup_to_spin)
{
	park.script = wake_after_a_long_time;
	cr_assert_gt(reads_of(CQ_FOREVER, CQ_WOKEN), 1);
	cr_assert_eq(reads_of(CQ_FOREVER, CQ_WOKEN), 1);
	park.script = wake_now;
	cr_assert_eq(reads_of(CQ_FOREVER, CQ_WOKEN), 1, "the last wait was long");
	cr_assert_gt(reads_of(CQ_FOREVER, CQ_WOKEN), 1, "the last wait was short");
	check_nobody_is_left();
}

Test(sleepers, a_wait_that_timed_out_was_long, .init = setup_to_spin)
{
	park.script = pass_deadline;
	cr_assert_eq(wait_until(DEADLINE), CQ_TIMED_OUT);
	park.script = wake_now;
	cr_assert_eq(reads_of(CQ_FOREVER, CQ_WOKEN), 1);
	check_nobody_is_left();
}

static uint64_t clock_that_runs(void *host)
{
	fake_advance(host, 1);
	return fake_clock(host);
}

Test(sleepers, a_spin_ends_at_spin_ns_and_at_the_deadline, .init = setup_to_spin)
{
	/* The clock stands still: by the number of turns. */
	park.script = wake_now;
	cr_assert_lt(reads_of(CQ_FOREVER, CQ_WOKEN), SPIN);
	/* It runs by 1 at each look. */
	park.ops.now = clock_that_runs;
	set.spin_ns = 5;
	cr_assert_leq(reads_of(CQ_FOREVER, CQ_WOKEN), 1 + 5);
	set.spin_ns = SPIN;
	me.waits_long = false;
	park.clock_reads = 0;
	cr_assert_eq(wait_until(park.now + 3), CQ_TIMED_OUT);
	cr_assert_leq(park.clock_reads, 1 + 3 + 1);
	check_nobody_is_left();
}

/* ------------------------------------------------------ from within the table */

static void use_the_set(void *unused)
{
	cq_sleeper_t other;
	uint32_t way;

	(void)unused;
	park.script = NULL; /* what parks in here passes its deadline first */
	cq_sleeper_init(&other, NULL);
	CHECK(cq_sleepers_waiters(&set, &way) == 1 && way == 0);
	cq_sleepers_prepare_wait(&set, &other);
	CHECK(waiters() == 2);
	cq_sleepers_cancel_wait(&set, &other);
	CHECK(wait_as(&other, 0) == CQ_TIMED_OUT);
	CHECK(!cq_sleepers_wake_sleeper(&set, &other));
	CHECK(cq_sleepers_destroy(&set) == EBUSY);
	CHECK(cq_sleepers_ensure(&set, 1) == 1);
	CHECK(cq_sleepers_wake(&set, 1) == 0);
}

Test(sleepers, park_may_use_and_wake_its_own_set, .init = setup)
{
	park.script = use_the_set;
	cr_assert_eq(wait_until(CQ_FOREVER), CQ_WOKEN);
	check_nobody_is_left();
}

/* --------------------------------------------------------------- lifetime */

/*
 * On the default table: the sleeper returns while its waker stands just behind
 * the grant, and its memory is gone before the waker goes on.
 */
static struct {
	gate_t ready, granted, unmapped;
} life = { GATE_INITIALIZER, GATE_INITIALIZER, GATE_INITIALIZER };

static void ready_then_wait_for_the_grant(void *unused)
{
	(void)unused;
	gate_open(&life.ready);
	gate_wait(&life.granted);
}

static void granted_then_wait_for_the_end(void *unused)
{
	(void)unused;
	gate_open(&life.granted);
	gate_wait(&life.unmapped);
}

static void *sleep_and_unmap(void *unused)
{
	cq_sleeper_t *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	CHECK(s != MAP_FAILED);
	cq_sleeper_init(s, NULL);
	CHECK(wait_as(s, CQ_FOREVER) == CQ_WOKEN);
	CHECK(munmap(s, sizeof(*s)) == 0);
	gate_open(&life.unmapped);
	return NULL;
}

Test(sleepers, a_sleeper_may_be_unmapped_while_its_waker_still_runs)
{
	/* The futex waker has a step after the grant only when the sleeper is in park;
	   in the condvar's park the sleeper holds a lock that the waker needs. */
	const char *held = strcmp(cq_build_info()->park, "futex") == 0 ?
	    "park.parking" : "sleepers.listed";
	pthread_t sleeper;

	cr_assert_eq(cq_sleepers_init(&set, NULL, 0), 0);
	at_point(held, ready_then_wait_for_the_grant, NULL);
	at_point("park.granted", granted_then_wait_for_the_end, NULL);
	sleeper = start(sleep_and_unmap, NULL);
	gate_wait(&life.ready);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	join(sleeper);
	cr_assert(life.granted.open && life.unmapped.open);
	check_nobody_is_left();
}

/* Of several that are taken, each is gone before the next is unparked. */
static struct guest {
	gate_t gone;
	pthread_t thread;
} guests[SLEEPERS];
static void (*unpark)(void *host, cq_parker_t *parker);

static void unpark_and_see_it_go(void *host, cq_parker_t *parker)
{
	struct guest *guest = parker->host;

	unpark(host, parker);
	gate_wait(&guest->gone);
}

static void *sleep_and_go(void *arg)
{
	struct guest *guest = arg;
	cq_sleeper_t *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(s != MAP_FAILED);
	cq_sleeper_init(s, guest);
	CHECK(wait_as(s, CQ_FOREVER) == CQ_WOKEN);
	CHECK(munmap(s, sizeof(*s)) == 0);
	gate_open(&guest->gone);
	return NULL;
}

Test(sleepers, a_waker_touches_no_sleeper_that_it_has_unparked, .init = setup)
{
	unpark = park.ops.unpark;
	park.ops.unpark = unpark_and_see_it_go;
	for (unsigned i = 0; i < SLEEPERS; i++) {
		guests[i].gone = (gate_t)GATE_INITIALIZER;
		guests[i].thread = start(sleep_and_go, &guests[i]);
		fake_wait_blocked(&park, i + 1);
	}
	cr_assert_eq(wake_all(), SLEEPERS);
	for (unsigned i = 0; i < SLEEPERS; i++)
		join(guests[i].thread);
	check_nobody_is_left();
}

/* ------------------------------------------------------------------- fork */

/* In the child: 0 if the set is empty and works, else the number of what is wrong. */
static int child_of_fork(void)
{
	alarm(20);
	fake_init(&park); /* the parent's threads wait on its condition variable */
	cq_sleepers_fork(&set, CQ_FORK_CHILD);
	if (waiters() != 0 || on_their_way() != 0 || listed() != 0)
		return 1;
	if (!lock_is_free())
		return 2;
	if (wake_all() != 0 || cq_sleepers_ensure(&set, 1) != 0)
		return 3;
	cq_sleeper_init(&me, NULL);
	park.script = wake_one;
	if (wait_until(CQ_FOREVER) != CQ_WOKEN)
		return 4;
	if (wait_until(0) != CQ_TIMED_OUT)
		return 5;
	cq_sleepers_stop(&set);
	if (wait_until(CQ_FOREVER) != CQ_STOPPED)
		return 6;
	return cq_sleepers_destroy(&set) == 0 ? 0 : 7;
}

/* One is on its way meanwhile, the others are listed. */
Test(sleepers, fork_keeps_the_parents_set_and_empties_the_childs,
    .init = setup_with_the_way_blocked)
{
	int status;
	pid_t pid;

	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cq_sleepers_fork(&set, CQ_FORK_PREPARE);
	cr_assert_not(lock_is_free());
	pid = fork();
	if (pid == 0)
		_exit(child_of_fork());
	cr_assert_gt(pid, 0);
	cq_sleepers_fork(&set, CQ_FORK_PARENT);
	cr_assert(lock_is_free());
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 0);

	cr_assert_eq(on_their_way(), 1);
	cr_assert_eq(waiters(), SLEEPERS - 1);
	cr_assert_eq(wake_all(), SLEEPERS - 1);
	gate_open(&leave);
	crowd_was(CQ_WOKEN);
	check_nobody_is_left();
}

/* --------------------------------------------------------------- threads */

/* The default table, a counter, two producers, and workers of which some have deadlines. */
enum { PRODUCERS = 2, WORKERS = 3 };

static struct {
	cq_sleepers_t set;
	atomic_ulong units, added, taken, woken, wakes;
	atomic_uint producing;
	uint64_t end;
} pool = { .set = CQ_SLEEPERS_INITIALIZER_WITH(NULL, 2000), .producing = PRODUCERS };

static bool take_unit(void)
{
	unsigned long n = pool.units;

	while (n > 0 && !atomic_compare_exchange_weak(&pool.units, &n, n - 1))
		;
	pool.taken += n > 0;
	return n > 0;
}

static void produce(rng_t *r)
{
	while (cq_now() < pool.end) {
		unsigned long n = 1 + rng_below(r, 3);

		/* Few at once, so that the workers keep going to sleep. */
		while (pool.units > 4)
			sched_yield();
		pool.added += n;
		pool.units += n;
		pool.wakes += cq_sleepers_ensure(&pool.set, 1);
	}
	if (--pool.producing == 0)
		cq_sleepers_stop(&pool.set);
}

/* Takes a unit, if one comes in time, and wakes who takes the next. False: stopped, and none is left. */
static bool consume_one(rng_t *r)
{
	uint64_t deadline = rng_below(r, 2) == 0 ? CQ_FOREVER : cq_deadline_in(rng_below(r, 50000));
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t s;
	bool found;

	cq_sleeper_init(&s, NULL);
	while (!(found = take_unit()) && result != CQ_STOPPED && result != CQ_TIMED_OUT) {
		cq_sleepers_prepare_wait(&pool.set, &s);
		if ((found = take_unit())) {
			cq_sleepers_cancel_wait(&pool.set, &s);
			break;
		}
		result = cq_sleepers_commit_wait(&pool.set, &s, deadline);
		pool.woken += result == CQ_WOKEN;
	}
	memset(&s, 0xdb, sizeof(s));
	if (found && pool.units > 0)
		pool.wakes += cq_sleepers_ensure(&pool.set, 1);
	return found || result != CQ_STOPPED;
}

static void produce_or_consume(void *unused, unsigned index)
{
	rng_t r = rng_for(index);

	(void)unused;
	if (index < PRODUCERS)
		produce(&r);
	else
		while (consume_one(&r))
			;
}

Test(sleepers, threads_lose_no_wake_up_and_no_unit)
{
	pool.end = run_until(0.3);
	run_threads(PRODUCERS + WORKERS, produce_or_consume, NULL);
	cr_assert_eq(pool.units, 0);
	cr_assert_eq(pool.taken, pool.added);
	cr_assert_leq(pool.woken, pool.wakes, "each return of CQ_WOKEN is one wake");
	cr_assert_leq(pool.wakes, pool.woken + WORKERS, "all others ended by the stop");
	cr_assert_gt(pool.added, 0);
	cr_assert_eq(cq_sleepers_destroy(&pool.set), 0);
}
