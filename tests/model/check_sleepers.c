/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenarios of layer 2, the event count, and of parking. A lost wake-up is a deadlock. */
#include <cq/sleepers.h>
#include <cq/workq.h>
#include <stdlib.h>

#include "explore.h"

enum { SOON = 5, LETTER = 42 };

static cq_sleepers_t set;

/* What each waker was told, and how often each sleeper was: the sums are equal. */
static uint32_t counted[4], woken[2];

static void begin_with(const cq_park_ops_t *park, uint32_t spin_ns)
{
	CHECK(cq_sleepers_init(&set, park, spin_ns) == 0);
}

static void begin(void)
{
	begin_with(NULL, 0);
}

/* Every wake that was counted has woken somebody, and nobody is left or on the way. */
static void finish(void)
{
	uint32_t on_their_way;

	join_all();
	CHECK(counted[0] + counted[1] + counted[2] + counted[3] == woken[0] + woken[1]);
	CHECK(cq_sleepers_waiters(&set, &on_their_way) == 0 && on_their_way == 0);
	CHECK(cq_sleepers_destroy(&set) == 0);
}

typedef bool look_fn(void *arg);

/* Waits once, and says why that ended in *result; true: `look` found something before.
   The sleeper's memory ends with the wait, whoever is still waking it. */
static bool wait_once(look_fn *look, void *arg, uint64_t deadline, void *host, uint32_t *n_woken,
    cq_wait_result_t *result)
{
	cq_sleeper_t *me = malloc(sizeof(*me));
	bool found;

	cq_sleeper_init(me, host);
	cq_sleepers_prepare_wait(&set, me);
	found = look(arg);
	if (found)
		cq_sleepers_cancel_wait(&set, me);
	else
		*result = cq_sleepers_commit_wait(&set, me, deadline);
	free(me);
	if (found)
		return true;
	if (*result == CQ_WOKEN)
		++*n_woken;
	CHECK(*result != CQ_TIMED_OUT || deadline != CQ_FOREVER);
	return false;
}

/* One that has passed, or one to come. */
static uint64_t some_deadline(void)
{
	return choose(2) == 0 ? 0 : cq_deadline_in(SOON);
}

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

/* Takes one unit. Its thread then ends: to the others that is a callback that hangs. */
static void worker_on(void *host, uint32_t *n_woken)
{
	cq_wait_result_t result;

	while (!cq_workq_try_take_work(&q) &&
	    !wait_once(take, NULL, CQ_FOREVER, host, n_woken, &result))
		CHECK(result == CQ_WOKEN || result == CQ_AGAIN);
	pop();
}

static void worker(void *n_woken)
{
	worker_on(NULL, n_woken);
}

/* The chain, before what it took would run. */
static void worker_in_a_chain(void *n_woken)
{
	worker(n_woken);
	if (cq_workq_units(&q) != 0)
		counted[2 + ((uint32_t *)n_woken - woken)] += cq_sleepers_ensure(&set, 1);
}

static void adder_of_0(void *arg)
{
	(void)arg;
	push(0);
	counted[0] += cq_sleepers_ensure(&set, 1);
}

static void adder_of_1(void *arg)
{
	(void)arg;
	push(1);
	counted[1] += cq_sleepers_ensure(&set, 1);
}

static void adder_that_wakes(void *arg)
{
	(void)arg;
	push(0);
	counted[0] += cq_sleepers_wake(&set, 1);
}

static void adder_of_both(void *arg)
{
	(void)arg;
	push(0);
	counted[0] += cq_sleepers_ensure(&set, 1);
	push(1);
	counted[0] += cq_sleepers_ensure(&set, 1);
}

/* Without a chain: all that waits. */
static void adder_of_both_that_ensures_the_total(void *arg)
{
	(void)arg;
	items[0].payload = 100;
	items[1].payload = 101;
	counted[0] += cq_sleepers_ensure(&set, (uint32_t)cq_workq_push(&q, &items[0].node) + 1);
	counted[0] += cq_sleepers_ensure(&set, (uint32_t)cq_workq_push(&q, &items[1].node) + 1);
}

/* Both, and one call for the two: two, or all. */
static void adder_of_a_pair(void *arg)
{
	(void)arg;
	items[0].payload = 100;
	items[1].payload = 101;
	items[0].node.next = &items[1].node;
	cq_workq_push_chain(&q, &items[0].node, &items[1].node, 2);
	counted[0] = choose(2) == 0 ? cq_sleepers_ensure(&set, 2) :
	    cq_sleepers_wake(&set, UINT32_MAX);
}

static void adder_of_a_pair_that_ensures_one(void *arg)
{
	(void)arg;
	items[0].payload = 100;
	items[1].payload = 101;
	items[0].node.next = &items[1].node;
	cq_workq_push_chain(&q, &items[0].node, &items[1].node, 2);
	counted[0] = cq_sleepers_ensure(&set, 1);
}

static void finish_empty(void)
{
	finish();
	CHECK(cq_workq_units(&q) == 0);
	CHECK(cq_workq_destroy(&q) == 0);
}

static void prepare_against_ensure(void)
{
	begin();
	spawn(adder_of_0, NULL);
	worker(&woken[0]);
	finish_empty();
}

static void prepare_against_wake(void)
{
	begin();
	spawn(adder_that_wakes, NULL);
	worker(&woken[0]);
	finish_empty();
}

static void two_add_one_sleeps_twice(void)
{
	begin();
	spawn(adder_of_0, NULL);
	spawn(adder_of_1, NULL);
	worker(&woken[0]);
	worker(&woken[0]);
	finish_empty();
}

/* By THE RULE it looks; others do what it finds. */
static void sleeper_that_times_out(void *n_woken)
{
	cq_wait_result_t result;

	wait_once(look_away, NULL, some_deadline(), NULL, n_woken, &result);
	if (cq_workq_units(&q) != 0)
		counted[2] = cq_sleepers_ensure(&set, 1);
}

/* One adder may rely on the promise of the other, whose list is too short: the one sleeper isn't listed yet,
   the other no more. */
static void two_add_one_sleeps_one_times_out(void)
{
	begin();
	spawn(adder_of_0, NULL);
	spawn(adder_of_1, NULL);
	spawn(sleeper_that_times_out, &woken[1]);
	worker(&woken[0]);
	worker(&woken[0]);
	finish_empty();
}

static void one_adds_twice_two_sleep(void)
{
	begin();
	spawn(adder_of_both, NULL);
	spawn(worker_in_a_chain, &woken[1]);
	worker_in_a_chain(&woken[0]);
	finish_empty();
}

static void the_total_needs_no_chain(void)
{
	begin();
	spawn(adder_of_both_that_ensures_the_total, NULL);
	spawn(worker, &woken[1]);
	worker(&woken[0]);
	finish_empty();
}

static void two_add_two_sleep(void)
{
	begin();
	spawn(adder_of_0, NULL);
	spawn(adder_of_1, NULL);
	spawn(worker_in_a_chain, &woken[1]);
	worker_in_a_chain(&woken[0]);
	finish_empty();
}

static void one_call_wakes_two(void)
{
	begin();
	spawn(adder_of_a_pair, NULL);
	spawn(worker, &woken[1]);
	worker(&woken[0]);
	finish_empty();
}

static void the_chain_wakes_the_next(void)
{
	begin();
	spawn(adder_of_a_pair_that_ensures_one, NULL);
	spawn(worker_in_a_chain, &woken[1]);
	worker_in_a_chain(&woken[0]);
	finish_empty();
}

/* ------------------------------------------------------------------ THE RULE */

/*
 * One waits once, without a look between, looks when it is back, and goes. Whoever has
 * published and then finds it counted relies on that look, whatever the wait returned.
 */
static uint32_t posted;
static bool relied_on, found;

static void post(void *arg)
{
	uint32_t on_their_way;

	(void)arg;
	__atomic_store_n(&posted, 1, __ATOMIC_RELAXED);
	relied_on = cq_sleepers_waiters(&set, &on_their_way) + on_their_way != 0;
}

static bool look_for_the_post(void *arg)
{
	(void)arg;
	return __atomic_load_n(&posted, __ATOMIC_RELAXED) != 0;
}

static cq_wait_result_t wait_and_look_once(uint64_t deadline)
{
	cq_wait_result_t result;

	wait_once(look_away, NULL, deadline, NULL, &woken[0], &result);
	found = look_for_the_post(NULL);
	return result;
}

static void finish_the_rule(void)
{
	finish();
	CHECK(found || !relied_on);
}

static void waker(void *n_counted)
{
	*(uint32_t *)n_counted += cq_sleepers_wake(&set, 1);
}

/* Woken, or sent back, and with a deadline behind both. */
static void post_relies_on_one_that_a_waker_meets(void)
{
	begin();
	spawn(post, NULL);
	spawn(waker, &counted[0]);
	wait_and_look_once(cq_deadline_in(SOON));
	finish_the_rule();
}

static void post_relies_on_one_that_times_out(void)
{
	begin();
	spawn(post, NULL);
	CHECK(wait_and_look_once(some_deadline()) == CQ_TIMED_OUT);
	finish_the_rule();
}

static void stop(void *arg)
{
	(void)arg;
	cq_sleepers_stop(&set);
}

static void post_relies_on_one_that_is_stopped(void)
{
	begin();
	spawn(post, NULL);
	spawn(stop, NULL);
	CHECK(wait_and_look_once(CQ_FOREVER) != CQ_TIMED_OUT);
	woken[0] = 0; /* stop doesn't count */
	finish_the_rule();
}

/* A worker of a pool: whatever is published before the stop has run when all have gone. */
static void worker_until_stopped(void *n_woken)
{
	cq_wait_result_t result = CQ_AGAIN;

	for (;;) {
		if (cq_workq_try_take_work(&q))
			pop();
		else if (result == CQ_STOPPED)
			return;
		else if (wait_once(take, NULL, CQ_FOREVER, NULL, n_woken, &result))
			pop();
	}
}

static void add_and_stop(void *arg)
{
	(void)arg;
	push(0);
	cq_sleepers_ensure(&set, 1);
	cq_sleepers_stop(&set);
}

static void finish_stopped(void)
{
	join_all();
	woken[0] = woken[1] = 0;
	finish_empty();
}

static void stop_against_one_that_works(void)
{
	begin();
	spawn(add_and_stop, NULL);
	worker_until_stopped(&woken[0]);
	finish_stopped();
}

static void stop_against_two_that_prepare(void)
{
	begin();
	spawn(stop, NULL);
	spawn(worker_until_stopped, &woken[1]);
	worker_until_stopped(&woken[0]);
	finish_stopped();
}

/* ------------------------------------------------------------ wakes and timeouts */

static int letter; /* plain: who was woken may read it */

static void letter_writer(void *arg)
{
	(void)arg;
	letter = LETTER;
	__atomic_store_n(&posted, 1, __ATOMIC_RELAXED);
	counted[0] = cq_sleepers_wake(&set, 1);
}

static void timed_sleeper(void *n_woken)
{
	cq_wait_result_t result;

	wait_once(look_away, NULL, some_deadline(), NULL, n_woken, &result);
}

/* Woken, or sent back by an epoch that the waker raised. */
static void timeout_against_wake(void)
{
	cq_wait_result_t result;

	begin();
	spawn(letter_writer, NULL);
	wait_once(look_away, NULL, some_deadline(), NULL, &woken[0], &result);
	if (result != CQ_TIMED_OUT)
		CHECK(letter == LETTER);
	finish();
}

static void two_wake_one_times_out(void)
{
	begin();
	spawn(waker, &counted[0]);
	spawn(waker, &counted[1]);
	timed_sleeper(&woken[0]);
	finish();
	CHECK(woken[0] <= 1);
}

static void waker_of_all(void *n_counted)
{
	*(uint32_t *)n_counted += cq_sleepers_wake(&set, UINT32_MAX);
}

static void wake_all_against_two_timeouts(void)
{
	begin();
	spawn(waker_of_all, &counted[0]);
	spawn(timed_sleeper, &woken[1]);
	timed_sleeper(&woken[0]);
	finish();
}

static void one_wakes_two_time_out(void)
{
	begin();
	spawn(waker, &counted[0]);
	spawn(timed_sleeper, &woken[1]);
	timed_sleeper(&woken[0]);
	finish();
	CHECK(woken[0] + woken[1] <= 1);
}

/* Grants nothing until the wakers have been here: nobody who is taken returns before. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t opened;
	cq_parker_t *waiting;
	bool open;
} gate;

static void park_at_the_gate(void *host, cq_parker_t *parker, uint64_t deadline)
{
	(void)host;
	(void)deadline;
	pthread_mutex_lock(&gate.lock);
	if (!cq_parker_granted(parker))
		pthread_cond_wait(&gate.opened, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
}

static void unpark_at_the_gate(void *host, cq_parker_t *parker)
{
	(void)host;
	pthread_mutex_lock(&gate.lock);
	if (gate.open)
		cq_parker_grant(parker);
	else
		gate.waiting = parker;
	pthread_cond_broadcast(&gate.opened);
	pthread_mutex_unlock(&gate.lock);
}

static void open_the_gate(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.open = true;
	if (gate.waiting != NULL)
		cq_parker_grant(gate.waiting);
	pthread_cond_broadcast(&gate.opened);
	pthread_mutex_unlock(&gate.lock);
}

static void ensurer(void *n_counted)
{
	*(uint32_t *)n_counted += cq_sleepers_ensure(&set, 1);
}

static void sleeper(void *n_woken)
{
	cq_wait_result_t result;

	wait_once(look_away, NULL, CQ_FOREVER, NULL, n_woken, &result);
}

/* Two wakers at once: the second finds one on its way, and takes nobody. */
static void two_that_ensure_one_take_one(void)
{
	static const cq_park_ops_t ops = { no_time, park_at_the_gate, unpark_at_the_gate, NULL };
	int other;

	begin_with(&ops, 0);
	pthread_mutex_init(&gate.lock, NULL);
	pthread_cond_init(&gate.opened, NULL);
	spawn(sleeper, &woken[0]);
	spawn(sleeper, &woken[1]);
	other = spawn(ensurer, &counted[0]);
	ensurer(&counted[1]);
	join(other);
	CHECK(counted[0] + counted[1] <= 1);
	open_the_gate();
	cq_sleepers_stop(&set);
	join_all();
	counted[0] = counted[1] = woken[0] = woken[1] = 0; /* stop doesn't count */
	finish();
}

/* Counted as a waiter, and then awake: nobody is on the way, whatever a waker has promised. (A pool relies on
   that, or it would make no worker for one that isn't coming.) */
static void who_does_not_sleep_finds_nobody_on_the_way(void)
{
	cq_sleeper_t me;
	uint32_t on_their_way;

	begin();
	cq_sleeper_init(&me, NULL);
	spawn(ensurer, &counted[0]);
	cq_sleepers_prepare_wait(&set, &me);
	cq_sleepers_cancel_wait(&set, &me);
	CHECK(cq_sleepers_waiters(&set, &on_their_way) == 0 && on_their_way == 0);
	finish();
}

static void poster_that_ensures(void *arg)
{
	(void)arg;
	__atomic_store_n(&posted, 1, __ATOMIC_RELAXED);
	counted[1] = cq_sleepers_ensure(&set, 1);
}

/* The post may count a promise that is made for the first wait, and taken back during the second. */
static void post_that_counts_a_promise(void)
{
	cq_wait_result_t result;
	cq_sleeper_t me;

	begin();
	cq_sleeper_init(&me, NULL);
	spawn(ensurer, &counted[0]);
	spawn(poster_that_ensures, NULL);
	cq_sleepers_prepare_wait(&set, &me);
	cq_sleepers_cancel_wait(&set, &me);
	while (!look_for_the_post(NULL) &&
	    !wait_once(look_for_the_post, NULL, CQ_FOREVER, NULL, &woken[0], &result))
		;
	finish();
}

/* The same sleeper twice: what woke it is used up, and nothing of it is left. */
static void permits_are_not_left_over(void)
{
	cq_sleeper_t me;

	begin();
	cq_sleeper_init(&me, NULL);
	spawn(waker, &counted[0]);
	for (int i = 0; i < 2; i++) {
		cq_sleepers_prepare_wait(&set, &me);
		woken[0] += cq_sleepers_commit_wait(&set, &me, cq_deadline_in(SOON)) == CQ_WOKEN;
	}
	finish();
}

/* ------------------------------------------------------------------- this one alone */

static cq_sleeper_t addressees[2];
static uint32_t mail[2];

static void addressee(void *n_woken)
{
	int i = (int)((uint32_t *)n_woken - woken);

	while (__atomic_load_n(&mail[i], __ATOMIC_RELAXED) == 0) {
		cq_sleepers_prepare_wait(&set, &addressees[i]);
		if (__atomic_load_n(&mail[i], __ATOMIC_RELAXED) != 0) {
			cq_sleepers_cancel_wait(&set, &addressees[i]);
			return;
		}
		woken[i] += cq_sleepers_commit_wait(&set, &addressees[i], CQ_FOREVER) == CQ_WOKEN;
	}
}

static void postman(void *arg)
{
	(void)arg;
	for (int i = 0; i < 2; i++) {
		__atomic_store_n(&mail[i], 1, __ATOMIC_RELAXED);
		counted[0] += cq_sleepers_wake_sleeper(&set, &addressees[i]);
	}
}

static void each_is_woken_for_its_own(void)
{
	begin();
	cq_sleeper_init(&addressees[0], NULL);
	cq_sleeper_init(&addressees[1], NULL);
	spawn(postman, NULL);
	spawn(addressee, &woken[1]);
	addressee(&woken[0]);
	finish();
}

/* ------------------------------------------------------------------ S1 and S2 */

/* Not instrumented: it looks without being there, between any two steps of the others. */
static __attribute__((no_sanitize("thread"))) bool too_low(void)
{
	uint32_t n = 0;

	for (const cq_sleeper_t *s = set.newest; s != NULL; s = s->next)
		n++;
	return (set.counts & 0x3ffffff) < n || (set.counts >> 26 & 0x3ffffff) > 1;
}

/* Neither count is ever too low, nor goes below zero. */
static void observer(void *arg)
{
	uint32_t n = 0, on_their_way;

	(void)arg;
	if (choose(2) == 0) {
		cq_sleepers_waiters(&set, NULL); /* an instant of any other thread */
		CHECK(!too_low());
		return;
	}
	pthread_mutex_lock(&set.lock);
	for (const cq_sleeper_t *s = set.newest; s != NULL; s = s->next)
		n++;
	CHECK(cq_sleepers_waiters(&set, &on_their_way) >= n && on_their_way <= 1);
	pthread_mutex_unlock(&set.lock);
}

static bool is_parked;

/* Not instrumented either: between any two steps it is there, and not yet granted. */
static __attribute__((no_sanitize("thread"))) void set_parked(bool parked)
{
	is_parked = parked;
}

static void park_and_say_so(void *host, cq_parker_t *parker, uint64_t deadline)
{
	set_parked(true);
	park_by_yielding(host, parker, deadline);
	set_parked(false);
}

static __attribute__((no_sanitize("thread"))) bool is_forgotten(void)
{
	return is_parked && set.counts == 0;
}

/* Waiting, then on its way, and never neither. */
static void the_taken_are_counted_at_every_instant(void)
{
	static const cq_park_ops_t ops = { no_time, park_and_say_so, unpark_by_granting, NULL };

	begin_with(&ops, 0);
	spawn(sleeper, &woken[0]);
	spawn(waker, &counted[0]);
	CHECK(!is_forgotten());
	cq_sleepers_waiters(&set, NULL);
	CHECK(!is_forgotten());
	cq_sleepers_stop(&set);
	join_all();
	counted[0] = woken[0] = 0;
	finish();
}

static bool find_or_not(void *arg)
{
	(void)arg;
	return choose(2) == 1;
}

static void the_counts_are_never_too_low(void)
{
	cq_wait_result_t result;

	begin();
	spawn(observer, NULL);
	spawn(waker, &counted[0]);
	wait_once(find_or_not, NULL, some_deadline(), NULL, &woken[0], &result);
	finish();
}

/* ----------------------------------------------------------- where threads park */

static void read_the_letter_on(const cq_park_ops_t *park, uint32_t spin_ns)
{
	cq_wait_result_t result;

	begin_with(park, spin_ns);
	spawn(letter_writer, NULL);
	if (!wait_once(look_for_the_post, NULL, CQ_FOREVER, NULL, &woken[0], &result))
		CHECK(letter == LETTER);
	finish();
}

static void park_by_yielding_sees_the_letter(void)
{
	static const cq_park_ops_t yields = { no_time, park_by_yielding, unpark_by_granting, NULL };

	read_the_letter_on(&yields, 0);
}

/* One turn of the spin, then parked. */
static void a_spinner_sees_the_letter(void)
{
	read_the_letter_on(NULL, 1);
}

/* A park that may wake others of its own set, or the one that is about to park. */
static void park_that_wakes(void *host, cq_parker_t *parker, uint64_t deadline)
{
	(void)host;
	(void)deadline;
	counted[2] += cq_sleepers_wake(&set, 1);
	while (!cq_parker_granted(parker))
		sched_yield();
}

static void a_park_may_wake_its_own_set(void)
{
	static const cq_park_ops_t wakes = { no_time, park_that_wakes, unpark_by_granting, NULL };
	cq_wait_result_t result;

	begin_with(&wakes, 0);
	spawn(waker, &counted[0]);
	wait_once(look_away, NULL, CQ_FOREVER, NULL, &woken[0], &result);
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

	worker_on(t, &woken[t - host_threads]);
}

static void a_host_parks_its_own_threads(void)
{
	static const cq_park_ops_t host = { host_now, host_park, host_unpark, host_threads };

	begin_with(&host, 0);
	for (int i = 0; i < 2; i++) {
		pthread_mutex_init(&host_threads[i].lock, NULL);
		pthread_cond_init(&host_threads[i].granted, NULL);
	}
	spawn(adder_of_a_pair, NULL);
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
		cq_sleepers_prepare_wait(&set, me);
		if (cq_workq_try_take_work(&q)) {
			cq_sleepers_cancel_wait(&set, me);
			break;
		}
		*(uint32_t *)n_woken += cq_sleepers_commit_wait(&set, me, CQ_FOREVER) == CQ_WOKEN;
	}
	pop();
}

static void neighbours_are_woken_for_each_other(void)
{
	begin();
	find_neighbours();
	cq_sleeper_init(neighbours[0], NULL);
	cq_sleeper_init(neighbours[1], NULL);
	spawn(adder_of_both_that_ensures_the_total, NULL);
	spawn(neighbour, &woken[1]);
	neighbour(&woken[0]);
	finish_empty();
}

#define ALL { UNBOUNDED, UNBOUNDED, 1 }

const struct scenario sleepers_scenarios[] = {
	{ "sleepers_prepare_against_ensure", prepare_against_ensure, ALL, ALL },
	{ "sleepers_prepare_against_wake", prepare_against_wake, ALL, ALL },
	{ "sleepers_timeout_against_wake", timeout_against_wake, ALL, ALL },
	{ "sleepers_permits_are_not_left_over", permits_are_not_left_over, ALL, ALL },
	{ "sleepers_park_by_yielding_sees_the_letter", park_by_yielding_sees_the_letter, ALL, ALL },
	{ "sleepers_a_spinner_sees_the_letter", a_spinner_sees_the_letter, SOME(2, 1), SOME(3, 2) },
	{ "sleepers_a_park_may_wake_its_own_set", a_park_may_wake_its_own_set, ALL, ALL },
	{ "sleepers_post_relies_on_one_that_times_out", post_relies_on_one_that_times_out, ALL, ALL },
	{ "sleepers_post_relies_on_one_that_a_waker_meets", post_relies_on_one_that_a_waker_meets,
	    ALL, ALL },
	{ "sleepers_post_relies_on_one_that_is_stopped", post_relies_on_one_that_is_stopped,
	    ALL, ALL },
	{ "sleepers_stop_against_one_that_works", stop_against_one_that_works, ALL, ALL },
	{ "sleepers_stop_against_two_that_prepare", stop_against_two_that_prepare, SOME(2, 1), ALL },
	{ "sleepers_the_counts_are_never_too_low", the_counts_are_never_too_low, ALL, ALL },
	{ "sleepers_the_taken_are_counted_at_every_instant", the_taken_are_counted_at_every_instant,
	    ALL, ALL },
	{ "sleepers_two_that_ensure_one_take_one", two_that_ensure_one_take_one, SOME(2, 0), ALL },
	{ "sleepers_who_does_not_sleep_finds_nobody_on_the_way",
	    who_does_not_sleep_finds_nobody_on_the_way, ALL, ALL },
	{ "sleepers_post_that_counts_a_promise", post_that_counts_a_promise, SOME(2, 1), ALL },
	{ "sleepers_two_wake_one_times_out", two_wake_one_times_out, ALL, ALL },
	{ "sleepers_one_wakes_two_time_out", one_wakes_two_time_out, SOME(2, 1), ALL },
	{ "sleepers_wake_all_against_two_timeouts", wake_all_against_two_timeouts,
	    SOME(2, 1), ALL },
	{ "sleepers_each_is_woken_for_its_own", each_is_woken_for_its_own, SOME(2, 1), ALL },
	{ "sleepers_two_add_one_sleeps_twice", two_add_one_sleeps_twice, SOME(2, 1), ALL },
	{ "sleepers_two_add_one_sleeps_one_times_out", two_add_one_sleeps_one_times_out,
	    SOME(1, 1), { 4, 2, 1 } },
	{ "sleepers_one_adds_twice_two_sleep", one_adds_twice_two_sleep, SOME(2, 1), ALL },
	{ "sleepers_the_total_needs_no_chain", the_total_needs_no_chain, SOME(2, 1), ALL },
	{ "sleepers_one_call_wakes_two", one_call_wakes_two, SOME(2, 1), ALL },
	{ "sleepers_the_chain_wakes_the_next", the_chain_wakes_the_next, SOME(2, 1), ALL },
	{ "sleepers_a_host_parks_its_own_threads", a_host_parks_its_own_threads,
	    SOME(2, 1), ALL },
	{ "sleepers_neighbours_are_woken_for_each_other", neighbours_are_woken_for_each_other,
	    { 2, 0, 1 }, { 4, 2, 1 } },
	{ "sleepers_two_add_two_sleep", two_add_two_sleep, SOME(1, 1), { 4, 2, 1 } },
	{ 0 }
};
