/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Three clients of layers 1 and 2, as a program writes them with the public headers alone:
 * an event count, a counting semaphore, and a pool of fixed items that is empty or full.
 * That each of them is short, and loses nothing, is what the interface of layer 2 is for.
 */
#include <criterion/criterion.h>

#include "support.h"

TestSuite(clients, .timeout = 60);

enum { THREADS = 4, SHORT_NS = 1000000 };

/* ------------------------------------------------------------ an event count */

/* Waits for a condition that anything may change: whoever has changed it calls changed(). */
typedef bool condition_fn(void *arg);

static void changed(cq_sleepers_t *waiting)
{
	cq_sleepers_wake(waiting, UINT32_MAX);
}

/* False: the deadline passed, and it doesn't hold. */
static bool await(cq_sleepers_t *waiting, condition_fn *holds, void *arg, uint64_t deadline)
{
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	while (!holds(arg)) {
		if (result == CQ_TIMED_OUT)
			return false;
		cq_sleepers_prepare_wait(waiting, &me);
		if (holds(arg)) {
			cq_sleepers_cancel_wait(waiting, &me);
			return true;
		}
		result = cq_sleepers_commit_wait(waiting, &me, deadline);
	}
	return true;
}

/* -------------------------------------------------------- a counting semaphore */

typedef struct semaphore {
	atomic_uint value;
	cq_sleepers_t waiting;
} semaphore_t;

static void post(semaphore_t *s, unsigned n)
{
	unsigned value = atomic_fetch_add_explicit(&s->value, n, memory_order_release) + n;

	cq_sleepers_ensure(&s->waiting, value); /* all that wait to be taken */
}

static bool try_take(semaphore_t *s)
{
	unsigned value = atomic_load_explicit(&s->value, memory_order_relaxed);

	while (value != 0 && !atomic_compare_exchange_weak_explicit(&s->value, &value, value - 1,
	    memory_order_acquire, memory_order_relaxed))
		continue;
	return value != 0;
}

/* False: the deadline passed. */
static bool take(semaphore_t *s, uint64_t deadline)
{
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	while (!try_take(s)) {
		if (result == CQ_TIMED_OUT)
			return false;
		cq_sleepers_prepare_wait(&s->waiting, &me);
		if (try_take(s)) {
			cq_sleepers_cancel_wait(&s->waiting, &me);
			return true;
		}
		result = cq_sleepers_commit_wait(&s->waiting, &me, deadline);
	}
	return true;
}

/* ---------------------------------------------------- a bounded pool, many to many */

enum { ITEMS = 3 };

typedef struct item {
	cq_node_t node;
	unsigned long value;
} item_t;

/* Two of these, so that items go around: those that are empty, and those that are full. */
typedef struct items {
	cq_workq_t queue;
	cq_sleepers_t waiting;
} items_t;

static void give(items_t *items, item_t *item)
{
	cq_workq_push(&items->queue, &item->node);
	cq_sleepers_ensure(&items->waiting, 1); /* get ensures the next */
}

/* NULL: the deadline passed; or stopped, and none is left. */
static item_t *get(items_t *items, uint64_t deadline)
{
	cq_wait_result_t result = CQ_AGAIN;
	cq_sleeper_t me;
	cq_node_t *node;

	cq_sleeper_init(&me, NULL);
	while ((node = cq_workq_try_pop(&items->queue)) == NULL) {
		if (result == CQ_TIMED_OUT || result == CQ_STOPPED)
			return NULL;
		cq_sleepers_prepare_wait(&items->waiting, &me);
		if ((node = cq_workq_try_pop(&items->queue)) != NULL) {
			cq_sleepers_cancel_wait(&items->waiting, &me);
			break;
		}
		result = cq_sleepers_commit_wait(&items->waiting, &me, deadline);
	}
	if (cq_workq_units(&items->queue) != 0)
		cq_sleepers_ensure(&items->waiting, 1);
	return (item_t *)node; /* its first member */
}

/* -------------------------------------------------------- the event count's tests */

static cq_sleepers_t baton_waiting = CQ_SLEEPERS_INITIALIZER;
static atomic_ulong baton; /* whose turn it is: baton % THREADS */

static bool is_my_turn(void *index)
{
	return atomic_load_explicit(&baton, memory_order_relaxed) % THREADS == *(unsigned *)index;
}

static bool never(void *looks)
{
	++*(unsigned *)looks;
	return false;
}

Test(clients, event_count_holds_without_a_wait_and_gives_up_at_its_deadline)
{
	unsigned looks = 0, mine = 0;
	uint64_t deadline = cq_deadline_in(SHORT_NS);

	cr_assert(await(&baton_waiting, is_my_turn, &mine, 0));
	cr_assert_not(await(&baton_waiting, never, &looks, deadline));
	cr_assert_geq(cq_now(), deadline);
	cr_assert_eq(looks, 3, "before, prepared, and once more after the time-out");
	cr_assert_not(await(&baton_waiting, never, &looks, 0));
	cr_assert_eq(cq_sleepers_destroy(&baton_waiting), 0);
}

enum { TURNS = 2000 };

static void pass_the_baton(void *unused, unsigned index)
{
	(void)unused;
	for (unsigned i = 0; i < TURNS; i++) {
		/* One of them gives up now and then, and comes back. */
		while (!await(&baton_waiting, is_my_turn, &index,
		    index == 0 ? cq_deadline_in(SHORT_NS / 100) : CQ_FOREVER))
			continue;
		atomic_fetch_add_explicit(&baton, 1, memory_order_relaxed);
		changed(&baton_waiting);
	}
}

Test(clients, event_count_wakes_for_every_change)
{
	run_threads(THREADS, pass_the_baton, NULL);
	cr_assert_eq(baton, THREADS * TURNS);
	cr_assert_eq(cq_sleepers_destroy(&baton_waiting), 0);
}

/* ------------------------------------------------------------ the semaphore's tests */

static struct {
	semaphore_t s;
	atomic_uint inside, most;
	atomic_ulong taken;
	uint64_t end;
} sem = { .s = { 0, CQ_SLEEPERS_INITIALIZER_WITH(NULL, 2000) } };

Test(clients, semaphore_counts_and_gives_up_at_its_deadline)
{
	cr_assert_not(take(&sem.s, 0));
	post(&sem.s, 2);
	cr_assert(take(&sem.s, 0));
	cr_assert(take(&sem.s, CQ_FOREVER));
	cr_assert_not(take(&sem.s, cq_deadline_in(SHORT_NS)));
	cr_assert_eq(cq_sleepers_destroy(&sem.s.waiting), 0);
}

static void enter_and_leave(void *unused, unsigned index)
{
	rng_t r = rng_for(index);

	(void)unused;
	while (cq_now() < sem.end) {
		if (!take(&sem.s, rng_below(&r, 2) == 0 ? CQ_FOREVER :
		    cq_deadline_in(rng_below(&r, 50000))))
			continue;
		CHECK(++sem.inside <= 2);
		if (rng_below(&r, 4) == 0)
			sched_yield();
		sem.taken++;
		sem.inside--;
		post(&sem.s, 1);
	}
}

Test(clients, semaphore_lets_in_as_many_as_it_has_and_loses_none)
{
	sem.end = run_until(0.2);
	post(&sem.s, 2);
	run_threads(THREADS, enter_and_leave, NULL);
	cr_assert_gt(sem.taken, 0);
	cr_assert_eq(sem.s.value, 2);
	cr_assert_eq(cq_sleepers_destroy(&sem.s.waiting), 0);
}

enum { POSTED = 20000 };

static void post_or_take(void *unused, unsigned index)
{
	unsigned long n = 0;

	(void)unused;
	if (index == 0) {
		for (unsigned i = 0; i < POSTED; i += 4) {
			post(&sem.s, 4);
			while (sem.s.value > 8)
				sched_yield();
		}
		return;
	}
	/* Without a deadline: one unit over which a thread slept would stop the program. */
	for (; n < POSTED / (THREADS - 2); n++)
		CHECK(take(&sem.s, CQ_FOREVER));
	sem.taken += n;
}

Test(clients, semaphore_wakes_one_for_each_unit)
{
	run_threads(THREADS - 1, post_or_take, NULL);
	cr_assert_eq(sem.taken, POSTED);
	cr_assert_eq(sem.s.value, 0);
	cr_assert_eq(cq_sleepers_destroy(&sem.s.waiting), 0);
}

/* ----------------------------------------------------------------- the pool's tests */

static struct {
	items_t empty, full;
	item_t items[ITEMS];
	atomic_ulong put, put_sum, got, got_sum;
	atomic_uint putting;
	uint64_t end;
} pool = {
	.empty = { CQ_WORKQ_INITIALIZER, CQ_SLEEPERS_INITIALIZER },
	.full = { CQ_WORKQ_INITIALIZER, CQ_SLEEPERS_INITIALIZER_WITH(NULL, 2000) },
	.putting = THREADS / 2,
};

static void make_pool(void)
{
	for (unsigned i = 0; i < ITEMS; i++)
		give(&pool.empty, &pool.items[i]);
}

static void end_pool(void)
{
	unsigned items = 0;

	while (get(&pool.empty, 0) != NULL)
		items++;
	cr_assert_eq(items, ITEMS);
	cr_assert_null(get(&pool.full, 0));
	cr_assert_eq(cq_sleepers_destroy(&pool.empty.waiting), 0);
	cr_assert_eq(cq_sleepers_destroy(&pool.full.waiting), 0);
	cr_assert_eq(cq_workq_destroy(&pool.empty.queue), 0);
	cr_assert_eq(cq_workq_destroy(&pool.full.queue), 0);
}

Test(clients, pool_waits_when_it_is_empty_and_when_it_is_full, .init = make_pool)
{
	item_t *item;

	cr_assert_null(get(&pool.full, cq_deadline_in(SHORT_NS)));
	for (unsigned i = 0; i < ITEMS; i++) {
		cr_assert_not_null(item = get(&pool.empty, CQ_FOREVER));
		give(&pool.full, item);
	}
	cr_assert_null(get(&pool.empty, cq_deadline_in(SHORT_NS)));
	for (unsigned i = 0; i < ITEMS; i++) {
		cr_assert_not_null(item = get(&pool.full, CQ_FOREVER));
		give(&pool.empty, item);
	}
	end_pool();
}

static void put_until_the_end(rng_t *r)
{
	while (cq_now() < pool.end) {
		item_t *item = get(&pool.empty, rng_below(r, 2) == 0 ? CQ_FOREVER :
		    cq_deadline_in(rng_below(r, 50000)));

		if (item == NULL)
			continue;
		item->value = rng_below(r, 1000);
		pool.put++;
		pool.put_sum += item->value;
		give(&pool.full, item);
	}
	if (--pool.putting == 0)
		cq_sleepers_stop(&pool.full.waiting);
}

static void get_until_the_end(void)
{
	item_t *item;

	while ((item = get(&pool.full, CQ_FOREVER)) != NULL) {
		pool.got++;
		pool.got_sum += item->value;
		give(&pool.empty, item);
	}
}

static void put_or_get(void *unused, unsigned index)
{
	rng_t r = rng_for(index);

	(void)unused;
	if (index % 2 == 0)
		put_until_the_end(&r);
	else
		get_until_the_end();
}

Test(clients, pool_gives_out_what_was_put_in, .init = make_pool)
{
	pool.end = run_until(0.2);
	run_threads(THREADS, put_or_get, NULL);
	cr_assert_gt(pool.put, 0);
	cr_assert_eq(pool.got, pool.put);
	cr_assert_eq(pool.got_sum, pool.put_sum);
	end_pool();
}
