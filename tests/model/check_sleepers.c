/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenarios of layer 2, the sleeper set, and of parking. A lost wake-up is a deadlock. */
#include <cq/sleepers.h>
#include <cq/workq.h>
#include <stdlib.h>

#include "explore.h"

enum { SOON = 5, LETTER = 42 };

static cq_sleepers_t set;

/* What each waker was told, and how often each sleeper was: the sums are equal. */
static uint32_t counted[3], woken[2];

static void begin(const cq_park_ops_t *park)
{
	CHECK(cq_sleepers_init(&set, park) == 0);
}

/* Every wake that was counted has woken somebody, and nobody is left. */
static void finish(void)
{
	join_all();
	CHECK(counted[0] + counted[1] + counted[2] == woken[0] + woken[1]);
	CHECK(cq_sleepers_asleep(&set) == 0);
	CHECK(cq_sleepers_destroy(&set) == 0);
}

/* Sleeps once. The sleeper's memory ends with the sleep, whoever is still waking it. */
static cq_sleep_result_t sleep_once(cq_look_fn *look, uint64_t deadline, void *host,
    uint32_t *n_woken)
{
	cq_sleeper_t *me = malloc(sizeof(*me));
	cq_sleep_result_t result;

	cq_sleeper_init(me, host);
	result = cq_sleepers_sleep(&set, me, look, NULL, deadline);
	free(me);
	if (result == CQ_WOKEN)
		++*n_woken;
	CHECK(result != CQ_TIMED_OUT || deadline != CQ_FOREVER);
	return result;
}

static bool look_away(void *arg)
{
	(void)arg;
	return false;
}

/* ---------------------------------------------------- with layer 1 as the work */

struct item {
	cq_node_t node;
	int payload;
};

static cq_workq_t q = CQ_WORKQ_INITIALIZER;
static struct item items[2];

static bool take(void *arg)
{
	(void)arg;
	return cq_workq_try_take_work(&q);
}

static void push(int i)
{
	items[i].payload = i + 100;
	cq_workq_push(&q, &items[i].node);
}

/* With a unit in hand. */
static void pop(void)
{
	struct item *item = (struct item *)cq_workq_pop_taken(&q);

	CHECK(item != NULL && item->payload == (int)(item - items) + 100);
	item->payload = 0;
}

static void worker(void *n_woken)
{
	while (!cq_workq_try_take_work(&q))
		if (sleep_once(take, CQ_FOREVER, NULL, n_woken) == CQ_WORK)
			break;
	pop();
}

static void adder_of_0(void *arg)
{
	(void)arg;
	push(0);
	counted[0] += cq_sleepers_wake(&set, 1);
}

static void adder_of_1(void *arg)
{
	(void)arg;
	push(1);
	counted[1] += cq_sleepers_wake(&set, 1);
}

static void adder_of_both(void *arg)
{
	adder_of_0(arg);
	adder_of_1(arg);
}

/* Both, and one wake for the two: of two or of all. */
static void adder_of_a_chain(void *arg)
{
	(void)arg;
	items[0].payload = 100;
	items[1].payload = 101;
	items[0].node.next = &items[1].node;
	cq_workq_push_chain(&q, &items[0].node, &items[1].node, 2);
	counted[0] = choose(2) == 0 ? cq_sleepers_wake(&set, 2) : cq_sleepers_wake_all(&set);
}

static void finish_empty(void)
{
	finish();
	CHECK(cq_workq_units(&q) == 0);
	CHECK(cq_workq_destroy(&q) == 0);
}

static void add_against_sleep(void)
{
	begin(NULL);
	spawn(adder_of_0, NULL);
	worker(&woken[0]);
	finish_empty();
}

static void two_add_one_sleeps_twice(void)
{
	begin(NULL);
	spawn(adder_of_0, NULL);
	spawn(adder_of_1, NULL);
	worker(&woken[0]);
	worker(&woken[0]);
	finish_empty();
}

static void one_adds_twice_two_sleep(void)
{
	begin(NULL);
	spawn(adder_of_both, NULL);
	spawn(worker, &woken[1]);
	worker(&woken[0]);
	finish_empty();
}

static void two_add_two_sleep(void)
{
	begin(NULL);
	spawn(adder_of_0, NULL);
	spawn(adder_of_1, NULL);
	spawn(worker, &woken[1]);
	worker(&woken[0]);
	finish_empty();
}

static void a_chain_wakes_two(void)
{
	begin(NULL);
	spawn(adder_of_a_chain, NULL);
	spawn(worker, &woken[1]);
	worker(&woken[0]);
	finish_empty();
}

/* The sleep in its steps, and the look between them. */
static void worker_in_steps(uint32_t *n_woken)
{
	cq_sleeper_t *me = malloc(sizeof(*me));

	cq_sleeper_init(me, NULL);
	for (;;) {
		cq_sleepers_announce(&set);
		CHECK(cq_sleepers_asleep(&set) != 0);
		if (cq_workq_try_take_work(&q))
			break;
		CHECK(cq_sleepers_commit(&set, me, CQ_FOREVER) == CQ_WOKEN);
		++*n_woken;
	}
	cq_sleepers_withdraw(&set);
	free(me);
	pop();
}

static void add_against_the_steps(void)
{
	begin(NULL);
	spawn(adder_of_0, NULL);
	worker_in_steps(&woken[0]);
	finish_empty();
}

/* Who has work wakes the next: one wake for two nodes is enough. */
static void worker_that_relays(void *n_woken)
{
	worker(n_woken);
	counted[1 + ((uint32_t *)n_woken - woken)] = cq_sleepers_wake(&set, 1);
}

static void adder_that_wakes_once(void *arg)
{
	(void)arg;
	push(0);
	push(1);
	counted[0] = cq_sleepers_wake(&set, 1);
}

static void the_woken_wakes_the_next(void)
{
	begin(NULL);
	spawn(adder_that_wakes_once, NULL);
	spawn(worker_that_relays, &woken[1]);
	worker_that_relays(&woken[0]);
	finish_empty();
}

/* ------------------------------------------------------------ wakes and timeouts */

static int letter; /* plain: who was woken may read it */
static uint32_t posted;

static void letter_writer(void *arg)
{
	(void)arg;
	letter = LETTER;
	__atomic_store_n(&posted, 1, __ATOMIC_RELAXED);
	counted[0] = cq_sleepers_wake(&set, 1);
}

static bool look_for_the_post(void *arg)
{
	(void)arg;
	return __atomic_load_n(&posted, __ATOMIC_RELAXED) != 0;
}

/* One that has passed, or one to come. */
static uint64_t some_deadline(void)
{
	return choose(2) == 0 ? 0 : cq_deadline_in(SOON);
}

static void timed_sleeper(void *n_woken)
{
	sleep_once(look_away, some_deadline(), NULL, n_woken);
}

static void timeout_against_wake(void)
{
	begin(NULL);
	spawn(letter_writer, NULL);
	if (sleep_once(look_away, some_deadline(), NULL, &woken[0]) == CQ_WOKEN)
		CHECK(letter == LETTER);
	finish();
}

static void waker(void *n_counted)
{
	*(uint32_t *)n_counted += cq_sleepers_wake(&set, 1);
}

static void two_wake_one_times_out(void)
{
	begin(NULL);
	spawn(waker, &counted[0]);
	spawn(waker, &counted[1]);
	timed_sleeper(&woken[0]);
	finish();
	CHECK(woken[0] <= 1);
}

static void waker_of_all(void *n_counted)
{
	*(uint32_t *)n_counted += cq_sleepers_wake_all(&set);
}

static void wake_all_against_two_timeouts(void)
{
	begin(NULL);
	spawn(waker_of_all, &counted[0]);
	spawn(timed_sleeper, &woken[1]);
	timed_sleeper(&woken[0]);
	finish();
}

static void one_wakes_two_time_out(void)
{
	begin(NULL);
	spawn(waker, &counted[0]);
	spawn(timed_sleeper, &woken[1]);
	timed_sleeper(&woken[0]);
	finish();
	CHECK(woken[0] + woken[1] <= 1);
}

/* The same sleeper twice: what woke it is used up, and nothing of it is left. */
static void permits_are_not_left_over(void)
{
	cq_sleeper_t me;

	begin(NULL);
	cq_sleeper_init(&me, NULL);
	spawn(waker, &counted[0]);
	for (int i = 0; i < 2; i++)
		woken[0] += cq_sleepers_sleep(&set, &me, look_away, NULL,
		    cq_deadline_in(SOON)) == CQ_WOKEN;
	finish();
}

/* ---------------------------------------------------------------- invariant S1 */

static uint32_t listed(void)
{
	uint32_t n = 0;

	for (const cq_sleeper_t *s = set.newest; s != NULL; s = s->next)
		n++;
	return n;
}

/* Not instrumented: it looks without being there, between any two steps of the others. */
static __attribute__((no_sanitize("thread"))) bool too_low(void)
{
	uint32_t n = 0;

	for (const cq_sleeper_t *s = set.newest; s != NULL; s = s->next)
		n++;
	return set.asleep < n;
}

static void observer(void *arg)
{
	(void)arg;
	if (choose(2) == 0) {
		cq_sleepers_asleep(&set); /* an instant of any other thread */
		CHECK(!too_low());
		return;
	}
	pthread_mutex_lock(&set.lock);
	CHECK(cq_sleepers_asleep(&set) == listed());
	pthread_mutex_unlock(&set.lock);
}

static bool look_for_nothing_or_find(void *arg)
{
	(void)arg;
	return choose(2) == 1;
}

static void asleep_is_never_below_the_listed(void)
{
	begin(NULL);
	spawn(observer, NULL);
	spawn(waker, &counted[0]);
	sleep_once(look_for_nothing_or_find, some_deadline(), NULL, &woken[0]);
	finish();
}

/* ----------------------------------------------------------- where threads park */

/* Only yields: the permit itself must carry what the waker did. */
static uint64_t no_time(void *host)
{
	(void)host;
	return 0;
}

static void park_by_yielding(void *host, cq_parker_t *parker, uint64_t deadline)
{
	(void)host;
	(void)deadline;
	if (!cq_parker_granted(parker))
		sched_yield();
}

static void unpark_by_granting(void *host, cq_parker_t *parker)
{
	(void)host;
	cq_parker_grant(parker);
}

static void park_by_yielding_sees_the_letter(void)
{
	static const cq_park_ops_t yields = { no_time, park_by_yielding, unpark_by_granting, NULL };

	begin(&yields);
	spawn(letter_writer, NULL);
	if (sleep_once(look_for_the_post, CQ_FOREVER, NULL, &woken[0]) == CQ_WOKEN)
		CHECK(letter == LETTER);
	finish();
}

/* A runtime's own thread, which outlives its sleepers. */
static struct host_thread {
	pthread_mutex_t lock;
	pthread_cond_t granted;
} host_threads[2];

static uint64_t host_now(void *host)
{
	CHECK(host == host_threads);
	return cq_now();
}

static void host_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct host_thread *t = parker->host;

	CHECK(host == host_threads);
	CHECK(deadline == CQ_FOREVER);
	pthread_mutex_lock(&t->lock);
	if (!cq_parker_granted(parker))
		pthread_cond_wait(&t->granted, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static void host_unpark(void *host, cq_parker_t *parker)
{
	struct host_thread *t = parker->host; /* before the grant */

	CHECK(host == host_threads);
	pthread_mutex_lock(&t->lock);
	cq_parker_grant(parker);
	pthread_cond_signal(&t->granted);
	pthread_mutex_unlock(&t->lock);
}

static void host_worker(void *thread)
{
	struct host_thread *t = thread;

	while (!cq_workq_try_take_work(&q))
		if (sleep_once(take, CQ_FOREVER, t, &woken[t - host_threads]) == CQ_WORK)
			break;
	pop();
}

static void a_host_parks_its_own_threads(void)
{
	static const cq_park_ops_t host = { host_now, host_park, host_unpark, host_threads };

	begin(&host);
	for (int i = 0; i < 2; i++) {
		pthread_mutex_init(&host_threads[i].lock, NULL);
		pthread_cond_init(&host_threads[i].granted, NULL);
	}
	spawn(adder_of_a_chain, NULL);
	spawn(host_worker, &host_threads[1]);
	host_worker(&host_threads[0]);
	finish_empty();
}

/* Where park_condvar.c would put them: the same hash. */
static unsigned place_of(const cq_sleeper_t *s)
{
	return (unsigned)(((uintptr_t)&s->parker >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 59);
}

static cq_sleeper_t lot[33]; /* of 32 places: two of these share one */
static cq_sleeper_t *neighbours[2];

static void find_neighbours(void)
{
	for (int i = 0; i < 33; i++)
		for (int j = 0; j < i; j++)
			if (place_of(&lot[i]) == place_of(&lot[j])) {
				neighbours[0] = &lot[i];
				neighbours[1] = &lot[j];
				return;
			}
}

static void neighbour(void *n_woken)
{
	cq_sleeper_t *me = neighbours[(uint32_t *)n_woken - woken];

	while (!cq_workq_try_take_work(&q)) {
		if (cq_sleepers_sleep(&set, me, take, NULL, CQ_FOREVER) == CQ_WORK)
			break;
		++*(uint32_t *)n_woken;
	}
	pop();
}

static void neighbours_are_woken_for_each_other(void)
{
	begin(NULL);
	find_neighbours();
	cq_sleeper_init(neighbours[0], NULL);
	cq_sleeper_init(neighbours[1], NULL);
	spawn(adder_of_both, NULL);
	spawn(neighbour, &woken[1]);
	neighbour(&woken[0]);
	finish_empty();
}

#define ALL { UNBOUNDED, UNBOUNDED, 1 }

const struct scenario sleepers_scenarios[] = {
	{ "sleepers_add_against_sleep", add_against_sleep, ALL, ALL },
	{ "sleepers_add_against_the_steps", add_against_the_steps, ALL, ALL },
	{ "sleepers_timeout_against_wake", timeout_against_wake, ALL, ALL },
	{ "sleepers_permits_are_not_left_over", permits_are_not_left_over, ALL, ALL },
	{ "sleepers_park_by_yielding_sees_the_letter", park_by_yielding_sees_the_letter, ALL, ALL },
	{ "sleepers_asleep_is_never_below_the_listed", asleep_is_never_below_the_listed,
	    SOME(2, 1), ALL },
	{ "sleepers_two_wake_one_times_out", two_wake_one_times_out, SOME(2, 1), ALL },
	{ "sleepers_one_wakes_two_time_out", one_wakes_two_time_out, SOME(2, 1), ALL },
	{ "sleepers_wake_all_against_two_timeouts", wake_all_against_two_timeouts,
	    SOME(2, 1), ALL },
	{ "sleepers_two_add_one_sleeps_twice", two_add_one_sleeps_twice, SOME(2, 1), ALL },
	{ "sleepers_one_adds_twice_two_sleep", one_adds_twice_two_sleep, SOME(2, 1), ALL },
	{ "sleepers_a_chain_wakes_two", a_chain_wakes_two, SOME(2, 1), ALL },
	{ "sleepers_the_woken_wakes_the_next", the_woken_wakes_the_next, SOME(2, 1), ALL },
	{ "sleepers_a_host_parks_its_own_threads", a_host_parks_its_own_threads,
	    SOME(2, 1), ALL },
	{ "sleepers_neighbours_are_woken_for_each_other", neighbours_are_woken_for_each_other,
	    { 2, 0, 1 }, { 4, 2, 1 } },
	{ "sleepers_two_add_two_sleep", two_add_two_sleep, SOME(1, 1), { 4, 2, 1 } },
	{ 0 }
};
