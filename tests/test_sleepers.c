/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 2, with a plain counter for work and a fake park table. Most races are
 * steered in one thread: what the other thread would do happens at a schedule
 * point, in the look or inside park. Where that can't be, gates hold threads.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

TestSuite(sleepers, .timeout = 60);

enum { DEADLINE = 1000, SLEEPERS = 5 };

static cq_sleepers_t set;
static fake_park_t park;
static cq_sleeper_t me;
static unsigned work, looks;

static void setup(void)
{
	fake_init(&park);
	cr_assert_eq(cq_sleepers_init(&set, &park.ops), 0);
	cq_sleeper_init(&me, NULL);
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

static bool take(void *unused)
{
	(void)unused;
	looks++;
	return work > 0 && work--;
}

static bool nothing(void *unused)
{
	(void)unused;
	looks++;
	return false;
}

static cq_sleep_result_t sleep_until(uint64_t deadline)
{
	return cq_sleepers_sleep(&set, &me, take, NULL, deadline);
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

static void publish_and_wake(void *woken)
{
	work++;
	*(uint32_t *)woken = cq_sleepers_wake(&set, 1);
}

static void pass_deadline(void *unused)
{
	(void)unused;
	fake_advance(&park, DEADLINE);
}

static void check_nobody_is_left(void)
{
	cr_assert_eq(cq_sleepers_asleep(&set), 0);
	cr_assert_eq(listed(), 0);
	cr_assert(lock_is_free());
	cr_assert_eq(cq_sleepers_wake_all(&set), 0);
	cr_assert_eq(cq_sleepers_destroy(&set), 0);
}

/* ----------------------------------------------------------- init, destroy */

Test(sleepers, init_refuses_null_and_incomplete_tables)
{
	cq_park_ops_t ops;

	fake_init(&park);
	cr_assert_eq(cq_sleepers_init(NULL, &park.ops), EINVAL);
	ops = park.ops;
	ops.now = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops), EINVAL);
	ops = park.ops;
	ops.park = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops), EINVAL);
	ops = park.ops;
	ops.unpark = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops), EINVAL);
	ops = park.ops;
	ops.host = NULL;
	cr_assert_eq(cq_sleepers_init(&set, &ops), 0);
	cr_assert_eq(cq_sleepers_destroy(&set), 0);
	cr_assert_eq(cq_sleepers_destroy(NULL), EINVAL);
}

Test(sleepers, static_initializer_is_an_empty_set_on_the_default_table)
{
	static cq_sleepers_t fresh = CQ_SLEEPERS_INITIALIZER;
	uint64_t deadline = cq_deadline_in(2000000);

	cq_sleeper_init(&me, NULL);
	cr_assert_eq(cq_sleepers_asleep(&fresh), 0);
	cr_assert_eq(cq_sleepers_wake_all(&fresh), 0);
	cr_assert_eq(cq_sleepers_sleep(&fresh, &me, nothing, NULL, deadline), CQ_TIMED_OUT);
	cr_assert_geq(cq_now(), deadline);
	cr_assert_eq(cq_sleepers_destroy(&fresh), 0);
}

Test(sleepers, init_without_a_table_takes_the_default)
{
	cr_assert_eq(cq_sleepers_init(&set, NULL), 0);
	cq_sleeper_init(&me, NULL);
	cr_assert_eq(sleep_until(cq_now()), CQ_TIMED_OUT);
	check_nobody_is_left();
}

static void destroy_is_busy(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_destroy(&set) == EBUSY);
	wake_one(NULL);
}

Test(sleepers, destroy_refuses_while_someone_is_announced_or_asleep, .init = setup)
{
	cq_sleepers_announce(&set);
	cr_assert_eq(cq_sleepers_destroy(&set), EBUSY);
	cq_sleepers_withdraw(&set);

	park.script = destroy_is_busy;
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WOKEN);
	check_nobody_is_left();
}

/* ---------------------------------------------------------- the handshake */

Test(sleepers, work_that_is_there_prevents_the_sleep, .init = setup)
{
	work = 1;
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WORK);
	cr_assert_eq(work, 0);
	cr_assert_eq(looks, 1);
	cr_assert_eq(park.parks, 0);
	check_nobody_is_left();
}

/* golang/go#73642: the first look failed, then work came, then the thread slept. */
static void work_is_waiting_and_nobody_knows(void *woken)
{
	CHECK(work == 0 || *(uint32_t *)woken > 0);
	wake_one(NULL);
}

Test(sleepers, work_published_before_the_announcement_is_found_by_the_second_look, .init = setup)
{
	uint32_t woken = 0;

	cr_assert_not(take(NULL));
	at_point("sleepers.announce", publish_and_wake, &woken);
	park.script = work_is_waiting_and_nobody_knows;
	park.ctx = &woken;
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WORK);
	cr_assert_eq(woken, 0);
	cr_assert_eq(park.parks, 0);
	check_nobody_is_left();
}

/* The publisher comes right after the look has read "no work", and reads `asleep`. */
static bool look_then_publish(void *seen)
{
	bool found = take(NULL);

	work++;
	*(uint32_t *)seen = cq_sleepers_asleep(&set);
	return found;
}

static void the_publisher_saw_the_sleeper(void *seen)
{
	CHECK(work == 1);
	CHECK(*(uint32_t *)seen == 1);
	wake_one(NULL);
}

Test(sleepers, a_publisher_that_the_look_misses_sees_the_sleeper, .init = setup)
{
	uint32_t seen = 0;

	park.script = the_publisher_saw_the_sleeper;
	park.ctx = &seen;
	cr_assert_eq(cq_sleepers_sleep(&set, &me, look_then_publish, &seen, CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.parks, 1);
	check_nobody_is_left();
}

static bool look_under_the_lock(void *unused)
{
	(void)unused;
	looks++;
	CHECK(cq_sleepers_asleep(&set) == 1);
	CHECK(!lock_is_free());
	return work > 0;
}

Test(sleepers, the_look_comes_once_after_the_announcement, .init = setup)
{
	cr_assert_eq(cq_sleepers_sleep(&set, &me, look_under_the_lock, NULL, 0), CQ_TIMED_OUT);
	cr_assert_eq(looks, 1);
	work = 1;
	cr_assert_eq(cq_sleepers_sleep(&set, &me, look_under_the_lock, NULL, 0), CQ_WORK);
	cr_assert_eq(looks, 2);
	check_nobody_is_left();
}

static void lock_must_be_free(void *unused)
{
	(void)unused;
	CHECK(lock_is_free());
	CHECK(cq_sleepers_asleep(&set) == 1 && listed() == 1);
	wake_one(NULL);
}

Test(sleepers, the_steps_are_the_same_as_sleep, .init = setup)
{
	cq_sleepers_announce(&set);
	cr_assert_eq(cq_sleepers_asleep(&set), 1);
	cr_assert_not(lock_is_free());
	cq_sleepers_withdraw(&set);
	cr_assert_eq(cq_sleepers_asleep(&set), 0);
	cr_assert(lock_is_free());

	park.script = lock_must_be_free;
	cq_sleepers_announce(&set);
	cr_assert_eq(cq_sleepers_commit(&set, &me, CQ_FOREVER), CQ_WOKEN);
	cq_sleepers_announce(&set);
	park.script = pass_deadline;
	cr_assert_eq(cq_sleepers_commit(&set, &me, DEADLINE), CQ_TIMED_OUT);
	check_nobody_is_left();
}

/* S1, at every point. Only a thread before its decision may be counted and not listed. */
static void check_s1(const char *where, void *steps)
{
	uint32_t n = listed();

	CHECK(set.asleep >= n);
	CHECK(set.asleep == n || strcmp(where, "sleepers.announced") == 0);
	++*(unsigned *)steps;
}

Test(sleepers, asleep_is_never_below_the_sleepers_listed, .init = setup)
{
	unsigned steps = 0;

	at_every_point(check_s1, &steps);
	park.script = wake_one;
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WOKEN);
	park.script = pass_deadline;
	cr_assert_eq(sleep_until(DEADLINE), CQ_TIMED_OUT);
	work = 1;
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WORK);
	cr_assert_geq(steps, 8);
	check_nobody_is_left();
}

/* ----------------------------------------------------------------- waking */

/* Real threads that sleep until woken. Sleeper i+1 is listed after sleeper i. */
static struct {
	cq_sleeper_t sleeper;
	pthread_t thread;
	uint64_t deadline;
	cq_sleep_result_t result;
} crowd[SLEEPERS];

static void *crowd_body(void *index)
{
	size_t i = (size_t)index;

	crowd[i].result = cq_sleepers_sleep(&set, &crowd[i].sleeper, nothing, NULL,
	    crowd[i].deadline);
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

static cq_sleep_result_t crowd_join(size_t i)
{
	join(crowd[i].thread);
	return crowd[i].result;
}

Test(sleepers, wake_returns_how_many, .init = setup)
{
	crowd_start(NULL);
	cr_assert_eq(cq_sleepers_asleep(&set), SLEEPERS);
	cr_assert_eq(cq_sleepers_wake(&set, 0), 0);
	cr_assert_eq(cq_sleepers_asleep(&set), SLEEPERS);
	cr_assert_eq(cq_sleepers_wake(&set, 2), 2);
	cr_assert_eq(cq_sleepers_asleep(&set), SLEEPERS - 2);
	cr_assert_eq(cq_sleepers_wake(&set, SLEEPERS), SLEEPERS - 2);
	cr_assert_eq(cq_sleepers_asleep(&set), 0);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 0);
	for (size_t i = 0; i < SLEEPERS; i++)
		cr_assert_eq(crowd_join(i), CQ_WOKEN);
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

Test(sleepers, wake_takes_the_newest_first, .init = setup)
{
	crowd_start(NULL);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(park.unparked[0], (void *)SLEEPERS);
	cr_assert_eq(crowd_join(4), CQ_WOKEN);
	cr_assert_eq(cq_sleepers_wake(&set, 3), 3);
	for (int i = 3; i >= 1; i--)
		cr_assert_eq(crowd_join((size_t)i), CQ_WOKEN);
	cr_assert_eq(listed(), 1);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(crowd_join(0), CQ_WOKEN);
	for (int i = 0; i < SLEEPERS; i++)
		cr_assert_eq(park.unparked[i], (void *)(size_t)(SLEEPERS - i));
	check_nobody_is_left();
}

Test(sleepers, those_that_are_woken_are_counted_and_no_others, .init = setup)
{
	static const uint64_t deadlines[SLEEPERS] = {
		1, CQ_FOREVER, CQ_FOREVER, CQ_FOREVER, CQ_FOREVER
	};

	cr_assert_eq(set.woken, 0);
	work = 1;
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WORK);
	crowd_start(deadlines);
	fake_advance(&park, 1);
	cr_assert_eq(crowd_join(0), CQ_TIMED_OUT);
	cr_assert_eq(set.woken, 0);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(set.woken, 1);
	cr_assert_eq(cq_sleepers_wake_all(&set), 3);
	cr_assert_eq(cq_sleepers_wake_all(&set), 0);
	cr_assert_eq(set.woken, 4);
	for (size_t i = 1; i < SLEEPERS; i++)
		cr_assert_eq(crowd_join(i), CQ_WOKEN);
	check_nobody_is_left();
}

Test(sleepers, wake_all_wakes_all, .init = setup)
{
	crowd_start(NULL);
	cr_assert_eq(cq_sleepers_wake_all(&set), SLEEPERS);
	for (size_t i = 0; i < SLEEPERS; i++)
		cr_assert_eq(crowd_join(i), CQ_WOKEN);
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

Test(sleepers, a_sleeper_is_unparked_once_and_outside_the_lock, .init = setup)
{
	park.free_lock = &set.lock;
	crowd_start(NULL);
	cr_assert_eq(cq_sleepers_wake(&set, 2), 2);
	cr_assert_eq(cq_sleepers_wake_all(&set), 3);
	for (size_t i = 0; i < SLEEPERS; i++) {
		crowd_join(i);
		for (size_t j = 0; j < i; j++)
			cr_assert_neq(park.unparked[i], park.unparked[j]);
	}
	cr_assert_eq(park.unparks, SLEEPERS);
	check_nobody_is_left();
}

static void nobody_is_asleep(void *unused)
{
	(void)unused;
	CHECK(cq_sleepers_asleep(&set) == 0);
	wake_nobody(NULL);
}

Test(sleepers, a_sleeper_that_is_taken_is_no_longer_counted, .init = setup)
{
	park.script = wake_one;
	at_point("sleepers.taken", nobody_is_asleep, NULL);
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.unparks, 1);
	check_nobody_is_left();
}

/* This kind of lock is refused to its owner, so that a wake that takes it gives it back. */
Test(sleepers, wake_of_nobody_takes_no_lock, .init = setup)
{
	pthread_mutexattr_t attr;

	cr_assert_eq(pthread_mutexattr_init(&attr), 0);
	cr_assert_eq(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK), 0);
	cr_assert_eq(pthread_mutex_destroy(&set.lock), 0);
	cr_assert_eq(pthread_mutex_init(&set.lock, &attr), 0);
	pthread_mutex_lock(&set.lock);
	cr_assert_eq(cq_sleepers_wake(&set, 1), 0);
	cr_assert_not(lock_is_free());
	cr_assert_eq(cq_sleepers_wake_all(&set), 0);
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
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.parks, 4);
	cr_assert_eq(sleep_until(DEADLINE), CQ_WOKEN);
	cr_assert_eq(park.parks, 8);
	cr_assert_eq(looks, 2);
	check_nobody_is_left();
}

Test(sleepers, spurious_returns_wake_none_of_many, .init = setup)
{
	crowd_start(NULL);
	for (int i = 0; i < 20; i++) {
		fake_disturb(&park);
		fake_wait_blocked(&park, SLEEPERS);
		cr_assert_eq(cq_sleepers_asleep(&set), SLEEPERS);
	}
	cr_assert_eq(cq_sleepers_wake_all(&set), SLEEPERS);
	for (size_t i = 0; i < SLEEPERS; i++)
		cr_assert_eq(crowd_join(i), CQ_WOKEN);
	check_nobody_is_left();
}

Test(sleepers, a_permit_is_not_left_over_for_the_next_sleep, .init = setup)
{
	park.script = wake_one;
	for (unsigned i = 1; i <= 3; i++) {
		cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WOKEN);
		cr_assert_eq(park.parks, i, "it went on without a wake");
	}
	park.script = pass_deadline;
	cr_assert_eq(sleep_until(DEADLINE), CQ_TIMED_OUT);
	check_nobody_is_left();
}

/* -------------------------------------------------------------- deadlines */

Test(sleepers, a_deadline_in_the_past_still_looks, .init = setup)
{
	fake_advance(&park, DEADLINE);
	cr_assert_eq(sleep_until(0), CQ_TIMED_OUT);
	cr_assert_eq(sleep_until(DEADLINE - 1), CQ_TIMED_OUT);
	cr_assert_eq(sleep_until(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(looks, 3);
	work = 1;
	cr_assert_eq(sleep_until(0), CQ_WORK);
	cr_assert_eq(park.parks, 0);
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
	cr_assert_eq(sleep_until(DEADLINE), CQ_TIMED_OUT);
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
	cr_assert_eq(sleep_until(CQ_FOREVER), CQ_WOKEN);
	cr_assert_eq(park.parks, 3);
	cr_assert_eq(park.clock_reads, 0);
	check_nobody_is_left();
}

/* The waker was faster by a step: it has taken, and unparked, who has timed out. */
Test(sleepers, timeout_racing_wake_is_not_lost, .init = setup)
{
	park.script = pass_deadline;
	at_point("sleepers.timed_out", wake_one, NULL);
	cr_assert_eq(sleep_until(DEADLINE), CQ_WOKEN);
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
	cr_assert_eq(sleep_until(DEADLINE), CQ_WOKEN);
	cr_assert_geq(park.parks, 2);
	join(waker);
	check_nobody_is_left();
}

/* The other order: the sleeper has left, so the wake finds nobody, and says so. */
Test(sleepers, wake_after_a_timeout_wakes_nobody, .init = setup)
{
	park.script = pass_deadline;
	cr_assert_eq(sleep_until(DEADLINE), CQ_TIMED_OUT);
	cr_assert_eq(cq_sleepers_asleep(&set), 0);
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
		cr_assert_eq(cq_sleepers_asleep(&set), SLEEPERS - 1 - i);
		cr_assert_eq(listed(), SLEEPERS - 1 - i);
	}
	cr_assert_eq(cq_sleepers_wake(&set, 1), 1);
	cr_assert_eq(crowd_join(3), CQ_WOKEN);
	cr_assert_eq(cq_sleepers_wake_all(&set), 1);
	cr_assert_eq(crowd_join(1), CQ_WOKEN);
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
	CHECK(cq_sleepers_sleep(&set, s, nothing, NULL, CQ_FOREVER) == CQ_WOKEN);
	CHECK(munmap(s, sizeof(*s)) == 0);
	gate_open(&life.unmapped);
	return NULL;
}

Test(sleepers, a_sleeper_may_be_unmapped_while_its_waker_still_runs)
{
	/* The futex waker has a step after the grant only when the sleeper is in park;
	   in the condvar's park the sleeper holds a lock that the waker needs. */
	const char *held = strcmp(cq_park_name(), "futex") == 0 ?
	    "park.parking" : "sleepers.listed";
	pthread_t sleeper;

	cr_assert_eq(cq_sleepers_init(&set, NULL), 0);
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
	CHECK(cq_sleepers_sleep(&set, s, nothing, NULL, CQ_FOREVER) == CQ_WOKEN);
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
	cr_assert_eq(cq_sleepers_wake_all(&set), SLEEPERS);
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
	cq_sleepers_fork_child(&set);
	if (cq_sleepers_asleep(&set) != 0 || listed() != 0)
		return 1;
	if (!lock_is_free())
		return 2;
	if (cq_sleepers_wake_all(&set) != 0)
		return 3;
	work = 1;
	if (sleep_until(CQ_FOREVER) != CQ_WORK)
		return 4;
	park.script = wake_one;
	if (sleep_until(CQ_FOREVER) != CQ_WOKEN)
		return 5;
	if (sleep_until(0) != CQ_TIMED_OUT)
		return 6;
	return cq_sleepers_destroy(&set) == 0 ? 0 : 7;
}

Test(sleepers, fork_keeps_the_parents_set_and_empties_the_childs, .init = setup)
{
	int status;
	pid_t pid;

	crowd_start(NULL);
	cq_sleepers_fork_prepare(&set);
	cr_assert_not(lock_is_free());
	pid = fork();
	if (pid == 0)
		_exit(child_of_fork());
	cr_assert_gt(pid, 0);
	cq_sleepers_fork_parent(&set);
	cr_assert(lock_is_free());
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 0);

	cr_assert_eq(cq_sleepers_asleep(&set), SLEEPERS);
	cr_assert_eq(cq_sleepers_wake_all(&set), SLEEPERS);
	for (size_t i = 0; i < SLEEPERS; i++)
		cr_assert_eq(crowd_join(i), CQ_WOKEN);
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
} pool = { .set = CQ_SLEEPERS_INITIALIZER, .producing = PRODUCERS };

static bool take_unit(void *unused)
{
	unsigned long n = pool.units;

	(void)unused;
	while (n > 0 && !atomic_compare_exchange_weak(&pool.units, &n, n - 1))
		;
	return n > 0;
}

static bool take_unit_or_end(void *ended)
{
	if (take_unit(NULL))
		return true;
	*(bool *)ended = pool.producing == 0;
	return *(bool *)ended;
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
		pool.wakes += cq_sleepers_wake(&pool.set, (uint32_t)n);
	}
	if (--pool.producing == 0)
		pool.wakes += cq_sleepers_wake_all(&pool.set);
}

static void consume(rng_t *r)
{
	uint64_t deadline;
	bool ended = false;

	for (;;) {
		cq_sleeper_t s;
		cq_sleep_result_t result;

		if (take_unit(NULL)) {
			pool.taken++;
			continue;
		}
		if (ended)
			return;
		cq_sleeper_init(&s, NULL);
		deadline = rng_below(r, 2) == 0 ? CQ_FOREVER : cq_deadline_in(rng_below(r, 50000));
		result = cq_sleepers_sleep(&pool.set, &s, take_unit_or_end, &ended, deadline);
		pool.woken += result == CQ_WOKEN;
		/* The look took a unit, or saw none and then the end. */
		pool.taken += result == CQ_WORK && !ended;
		memset(&s, 0xdb, sizeof(s));
	}
}

static void produce_or_consume(void *unused, unsigned index)
{
	rng_t r = rng_for(index);

	(void)unused;
	if (index < PRODUCERS)
		produce(&r);
	else
		consume(&r);
}

Test(sleepers, threads_lose_no_wake_up_and_no_unit)
{
	pool.end = run_until(0.3);
	run_threads(PRODUCERS + WORKERS, produce_or_consume, NULL);
	cr_assert_eq(pool.units, 0);
	cr_assert_eq(pool.taken, pool.added);
	cr_assert_eq(pool.woken, pool.wakes, "each wake is one return of CQ_WOKEN");
	cr_assert_gt(pool.added, 0);
	cr_assert_eq(cq_sleepers_asleep(&pool.set), 0);
	cr_assert_eq(cq_sleepers_destroy(&pool.set), 0);
}
