/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bound: who is refused, what is accepted all the same, and the wait for room. The park is fake: what workers
 * would do while a thread sleeps is done by a script, from inside its park.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callbacks.h"

TestSuite(room, .timeout = 60);

enum { BOUND = 8 * SLOTS, STEPS = 1000 }; /* of arguments there are twice as many in a block */

static void make_bounded(cq_cleanup_config_t config, cq_pool_config_t pool_config)
{
	config.max_waiting = BOUND;
	make_with(config, pool_config);
}

/* Nothing runs but in run_some, and a signal finds that out. */
static void make_hosted(void)
{
	make_bounded((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
}

/* As if another thread were in cq_pool_run_some all the time: scripts are what it does. */
static void make_served(void)
{
	make_hosted();
	q->pool->serving = 1;
}

/* Real threads and real time. */
static void make_managed(unsigned workers)
{
	make_bounded((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .workers_max = workers, .park = cq_park_default() });
}

static int wait_for_room(void)
{
	return cq_cleanup_wait_for_room(q, CQ_FOREVER);
}

/* Callbacks first, first + 1 ... until one is refused. Returns which. */
static unsigned put_until_full(unsigned first)
{
	int err;

	while ((err = try_put(p, first)) == 0)
		CHECK(++first < MANY);
	CHECK(err == ENOBUFS);
	return first;
}

/* A script. */
static void run_one(void *unused)
{
	(void)unused;
	CHECK(park.parks < STEPS);
	CHECK(cq_cleanup_run_some(q, 1) == 1);
}

/* -------------------------------------------------------------- the bound itself */

Test(room, a_bound_is_none_or_large_enough_for_four_blocks)
{
	cq_cleanup_config_t c = { .max_waiting = CQ_MAX_WAITING_MIN - 1 };

	cr_assert_eq(cq_cleanup_create(&c, &q), EINVAL);
	c.max_waiting = 1;
	cr_assert_eq(cq_cleanup_create(&c, &q), EINVAL);
	c.max_waiting = CQ_MAX_WAITING_MIN;
	cr_assert_eq(cq_cleanup_create(&c, &q), 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(room, a_block_is_a_fourth_of_the_bound_at_most)
{
	static const size_t bounds[] = { CQ_MAX_WAITING_MIN, 17, 100, 1000 };

	for (unsigned i = 0; i < sizeof(bounds) / sizeof(*bounds); i++) {
		cq_cleanup_config_t c = { .max_waiting = bounds[i], .pool_config = &(cq_pool_config_t){ .flags = CQ_POOL_HOSTED } };
		unsigned n = 0;

		cr_assert_eq(cq_cleanup_create(&c, &q), 0);
		cr_assert_eq(cq_producer_attach(q, run_it, &p), 0);
		for (; waiting() == 0; n++)
			cr_assert_eq(cq_producer_put(p, (void *)(uintptr_t)n), 0);
		cr_assert_leq(n, bounds[i] / 4);
		cr_assert_gt(n, bounds[i] / 4 - 2, "and no smaller than it need be");
		cq_producer_detach(p);
		run_all(NULL);
		cr_assert_eq(cq_cleanup_destroy(q), 0);
		forget_callbacks();
	}
}

Test(room, a_large_bound_leaves_blocks_as_they_are)
{
	cq_cleanup_config_t c = { .max_waiting = SIZE_MAX };
	size_t with;

	cr_assert_eq(cq_cleanup_create(&c, &q), 0);
	with = stats().block_bytes;
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(cq_cleanup_create(NULL, &q), 0);
	cr_assert_eq(stats().block_bytes, with);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
}

Test(room, without_a_bound_nothing_is_refused_and_there_is_room, .init = make)
{
	put(p, 0, 100 * SLOTS);
	cr_assert_eq(wait_for_room(), 0);
	cr_assert_eq(park.parks, 0);
	cr_assert_eq(q->pending, 0, "nor counted");
	finish(100 * SLOTS);
}

Test(room, who_finds_the_bound_reached_keeps_its_callback, .init = make_hosted)
{
	cq_producer_t *of_one;
	cq_callback_t *slots;
	size_t n;

	cr_assert_eq(cq_producer_attach(q, run_it, &of_one), 0);
	cr_assert_eq(put_until_full(0), BOUND);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(cq_producer_enqueue(p, run_it, (void *)BOUND), ENOBUFS);
		cr_assert_eq(cq_producer_put(of_one, (void *)BOUND), ENOBUFS);
		cr_assert_eq(cq_producer_span(p, &slots, &n), ENOBUFS);
		cr_assert_eq(cq_cleanup_enqueue(q, run_it, (void *)BOUND), ENOBUFS);
	}
	cr_assert_eq(stats().queued, BOUND);
	run_all(NULL);
	cr_assert(each_once(BOUND));
	put(of_one, BOUND, 1);
	put(p, BOUND + 1, 1);
	cr_assert_eq(cq_cleanup_enqueue(q, run_it, (void *)(BOUND + 2)), 0);
	cq_producer_detach(of_one);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	finish(BOUND + 3);
}

/* Ten producers, each with an open block: they get full, and then no new one. */
Test(room, what_is_in_open_blocks_comes_on_top_and_takes_no_room, .init = make_hosted)
{
	enum { N = 10 };
	cq_producer_t *quiet[N];
	unsigned next = 0;

	for (unsigned i = 0; i < N; i++) {
		cr_assert_eq(cq_producer_attach(q, NULL, &quiet[i]), 0);
		put(quiet[i], next, SLOTS - 1);
		next += SLOTS - 1;
	}
	cr_assert_gt(next, BOUND - SLOTS);
	cr_assert_eq(wait_for_room(), 0);
	cr_assert_eq(put_until_full(next), next + BOUND);
	next += BOUND;
	for (unsigned i = 0; i < N; i++, next++) {
		cr_assert_eq(try_put(quiet[i], next), 0);
		cr_assert_eq(try_put(quiet[i], next), ENOBUFS);
	}
	cr_assert_eq(next, BOUND + N * SLOTS);
	for (unsigned i = 0; i < N; i++)
		cq_producer_detach(quiet[i]);
	finish(next);
}

Test(room, a_commit_and_a_flush_are_never_refused, .init = make_hosted)
{
	cq_producer_t *other;
	cq_callback_t *slots;
	size_t n, accepted;

	cr_assert_eq(cq_producer_attach(q, NULL, &other), 0);
	cr_assert_eq(cq_producer_span(other, &slots, &n), 0);
	cr_assert_eq(n, SLOTS);
	cr_assert_eq(put_until_full(0), BOUND);
	for (unsigned i = 0; i < SLOTS; i++)
		slots[i] = (cq_callback_t){ run_it, (void *)(uintptr_t)(BOUND + i) };
	cr_assert_eq(cq_producer_commit(other, 2, &accepted), 0);
	cr_assert_eq(accepted, 2);
	cr_assert_eq(cq_producer_flush(other), 0);
	cr_assert_eq(cq_producer_enqueue(other, run_it, NULL), ENOBUFS);
	cq_producer_detach(other);
	finish(BOUND + 2);
}

/* In small amounts, and by others: what joins the partial block is published, too. */
Test(room, each_callback_that_is_published_counts_once)
{
	make_with((cq_cleanup_config_t){ .max_waiting = 256, .block_bytes = CQ_BLOCK_BYTES },
	    (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
	for (unsigned i = 0; i < 256; i++) {
		put(p, i, 1);
		if (p->block != NULL)
			cr_assert_eq(q->pending, i, "an open block's is not published");
		if (i % 2 == 0)
			(void)cq_producer_flush(p);
		else
			(void)cq_cleanup_flush(q);
		cr_assert_eq(q->pending, i + 1);
	}
	cr_assert_eq(try_put(p, 256), ENOBUFS);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(q->pending, 255);
	put(p, 256, 1);
	run_all(NULL);
	cr_assert_eq(q->pending, 0);
	finish(257);
}

Test(room, what_is_reserved_is_accepted_and_no_more, .init = make_hosted)
{
	cr_assert_eq(put_until_full(0), BOUND);
	cr_assert_eq(cq_producer_reserve(p, 2 * SLOTS), 0, "whatever waits");
	put(p, BOUND, 2 * SLOTS);
	cr_assert_eq(try_put(p, BOUND + 2 * SLOTS), ENOBUFS);
	/* A flush ends a block before it is full; the reservation stands. */
	cr_assert_eq(cq_producer_reserve(p, SLOTS), 0);
	put(p, BOUND + 2 * SLOTS, 2);
	(void)cq_producer_flush(p);
	put(p, BOUND + 2 * SLOTS + 2, SLOTS - 2);
	(void)cq_producer_flush(p);
	cr_assert_eq(try_put(p, BOUND + 3 * SLOTS), ENOBUFS);
	finish(BOUND + 3 * SLOTS);
}

/* --------------------------------------------------------------------- the wait */

/* Woken by who has run a block to its end, and by who has left some of it. */
Test(room, there_is_room_when_fewer_wait_than_the_bound_and_no_sooner)
{
	for (unsigned more = 2; more < 4; more++) {
		make_served();
		cr_assert_eq(put_until_full(0), BOUND);
		cr_assert_eq(cq_producer_reserve(p, more), 0);
		put(p, BOUND, more);
		cr_assert_eq(cq_cleanup_flush(q), 0);
		park.script = run_one;
		cr_assert_eq(wait_for_room(), 0);
		cr_assert_eq(runs, more + 1);
		cr_assert_eq(park.parks, more + 1);
		cr_assert_eq(park.unparks, 1, "by whoever made room, and by no other");
		cr_assert_eq(wait_for_room(), 0);
		cr_assert_eq(park.parks, more + 1);
		q->pool->serving = 0;
		finish(BOUND + more);
		park.parks = park.unparks = 0;
	}
}

/* There was room all the time. */
Test(room, a_drain_below_the_bound_is_woken_by_its_last_block, .init = make_served)
{
	put(p, 0, BOUND - SLOTS);
	park.script = run_one;
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
	cr_assert_eq(park.unparks, 1);
	finish(BOUND - SLOTS);
}

static void *waits(void *err)
{
	CHECK(wait_for_room() == (int)(intptr_t)err);
	return NULL;
}

/* It is going to return err. `asleep`: with those before. */
static pthread_t start_wait(unsigned asleep, int err)
{
	pthread_t thread = start(waits, (void *)(intptr_t)err);

	fake_wait_blocked(&park, asleep);
	return thread;
}

Test(room, all_who_wait_are_woken, .init = make_served)
{
	pthread_t threads[3];

	cr_assert_eq(put_until_full(0), BOUND);
	for (unsigned i = 0; i < 3; i++)
		threads[i] = start_wait(i + 1, 0);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	for (unsigned i = 0; i < 3; i++)
		join(threads[i]);
	finish(BOUND);
}

/* Its publisher is about to signal it, and stands still. */
static void pool_runs_some(void *unused)
{
	(void)unused;
	CHECK(park.parks < STEPS);
	cq_pool_run_some(cq_cleanup_pool(q), 1);
}

static void wait_there(void *unused)
{
	(void)unused;
	CHECK(waiting() == 1);
	CHECK(wait_for_room() == 0);
}

Test(room, who_waits_signals_what_waits, .init = make_served)
{
	q->max_waiting = SLOTS;
	park.script = pool_runs_some;
	at_point("tasks.change", wait_there, NULL);
	put(p, 0, SLOTS);
	cr_assert_eq(park.parks, 1);
	finish(SLOTS);
}

Test(room, memory_keeps_to_the_bound, .init = make_hosted)
{
	unsigned next = put_until_full(0);
	uint64_t made = stats().blocks_made;

	for (unsigned i = 0; i < 100; i++) {
		cr_assert_eq(cq_cleanup_run_some(q, SLOTS), SLOTS);
		next = put_until_full(next);
	}
	cr_assert_eq(stats().blocks_made, made);
	finish(next);
}

static void *drains(void *unused)
{
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	return unused;
}

/* It waits for the last callback, who waits for room for the first. */
Test(room, a_wait_beside_a_drain_ends_before_it, .init = make_served)
{
	pthread_t drain, wait;

	cr_assert_eq(put_until_full(0), BOUND);
	drain = start(drains, NULL);
	fake_wait_blocked(&park, 1);
	wait = start_wait(2, 0);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	join(wait);
	cr_assert_eq(cq_cleanup_run_some(q, SIZE_MAX), BOUND - 1);
	join(drain);
	finish(BOUND);
}

/* ------------------------------------------------------------------ how it ends */

static void pass_time(void *unused)
{
	(void)unused;
	fake_advance(&park, 50);
}

Test(room, a_wait_ends_at_its_deadline, .init = make_served)
{
	cr_assert_eq(cq_cleanup_wait_for_room(q, 0), 0, "there is room");
	cr_assert_eq(put_until_full(0), BOUND);
	cr_assert_eq(cq_cleanup_wait_for_room(q, 0), ETIMEDOUT);
	park.script = pass_time;
	cr_assert_eq(cq_cleanup_wait_for_room(q, park.now + 100), ETIMEDOUT);
	cr_assert_eq(put_until_full(BOUND), BOUND);
	finish(BOUND);
}

static void *shuts_down(void *how)
{
	CHECK(cq_cleanup_shutdown(q, (cq_shutdown_how_t)(uintptr_t)how, CQ_FOREVER, take_back, NULL) == 0);
	return NULL;
}

/* The shutdown that drains sleeps, too, and its caller is all there is. */
Test(room, a_wait_ends_with_the_queue)
{
	static const cq_shutdown_how_t hows[] = { CQ_SHUTDOWN_DRAIN, CQ_SHUTDOWN_HAND_BACK };

	for (unsigned i = 0; i < 2; i++) {
		pthread_t wait, end;

		make_served();
		cr_assert_eq(put_until_full(0), BOUND);
		wait = start_wait(1, ESHUTDOWN);
		end = start(shuts_down, (void *)(uintptr_t)hows[i]);
		join(wait);
		cr_assert_eq(try_put(p, BOUND), ESHUTDOWN);
		cr_assert_eq(wait_for_room(), ESHUTDOWN, "whatever waits");
		run_all(NULL);
		join(end);
		cr_assert_eq(wait_for_room(), ESHUTDOWN, "also when nothing does");
		q->pool->serving = 0;
		finish(BOUND);
		park.parks = 0;
	}
}

static void is_refused(void *arg)
{
	CHECK(wait_for_room() == EDEADLK);
	run_it(arg);
}

static void give_and_wait(void *ctx, cq_callback_fn *fn, void *arg)
{
	CHECK(wait_for_room() == EDEADLK);
	take_back(ctx, fn, arg);
}

/* Whether there is room or not. */
Test(room, a_callback_or_give_back_may_not_wait, .init = make_hosted)
{
	cr_assert_eq(cq_producer_enqueue(p, is_refused, (void *)0), 0);
	cr_assert_eq(put_until_full(1), BOUND);
	run_all(NULL);
	cr_assert_eq(cq_producer_enqueue(p, is_refused, (void *)BOUND), 0);
	(void)cq_cleanup_flush(q);
	run_all(NULL);
	put(p, BOUND + 1, 1);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, give_and_wait, NULL), 0);
	finish(BOUND + 2);
}

Test(room, a_wait_in_a_hosted_pool_that_nobody_serves_says_so, .init = make_hosted)
{
	cr_assert_eq(put_until_full(0), BOUND);
	cr_assert_eq(wait_for_room(), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(wait_for_room(), 0);
	cr_assert_eq(park.parks, 0);
	finish(BOUND);
}

Test(room, a_wait_for_an_owner_says_that_callbacks_wait)
{
	make_bounded((cq_cleanup_config_t){ .parallel = CQ_BY_OWNER }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED });
	cr_assert_eq(wait_for_room(), 0);
	cr_assert_eq(put_until_full(0), BOUND);
	cr_assert_eq(wait_for_room(), EAGAIN);
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	cr_assert_eq(wait_for_room(), 0);
	finish(BOUND);
}

static int spawn_error;

static int no_workers(void *host, void (*body)(void *), void *arg)
{
	(void)host, (void)body, (void)arg;
	return spawn_error;
}

Test(room, a_wait_in_a_stalled_pool_says_so)
{
	static const int errors[][2] = { { EAGAIN, EAGAIN }, { EPERM, EPERM } };

	for (unsigned i = 0; i < 2; i++) {
		spawn_error = errors[i][0];
		make_bounded((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .spawn = no_workers });
		cr_assert_eq(put_until_full(0), BOUND);
		cr_assert_eq(wait_for_room(), errors[i][1]);
		run_all(NULL);
		cr_assert_eq(wait_for_room(), 0);
		finish(BOUND);
		park.parks = 0;
	}
}

/* Who served the pool, when the wait began, ends that; the rest of the block is signalled, and nobody is there. */
static void run_the_last(void *unused)
{
	run_one(unused);
	q->pool->serving = 0;
	CHECK(cq_producer_flush(p) == 0);
}

Test(room, a_wait_that_sleeps_is_told_that_nobody_serves, .init = make_served)
{
	cr_assert_eq(put_until_full(0), BOUND);
	cr_assert_eq(cq_producer_reserve(p, 3), 0);
	put(p, BOUND, 2);
	cr_assert_eq(cq_cleanup_flush(q), 0);
	put(p, BOUND + 2, 1);
	park.script = run_the_last;
	cr_assert_eq(wait_for_room(), EAGAIN);
	cr_assert_eq(park.parks, 1);
	finish(BOUND + 3);
}

/* A signal there wakes nobody: who waits does. */
static void *serves(void *unused)
{
	CHECK(cq_pool_work(cq_cleanup_pool(q), NULL, CQ_FOREVER) == 0);
	return unused;
}

Test(room, a_wait_in_a_polled_pool_wakes_a_worker)
{
	pthread_t worker;

	make_bounded((cq_cleanup_config_t){ 0 },
	    (cq_pool_config_t){ .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED, .park = cq_park_default() });
	worker = start(serves, NULL);
	AWAIT(cq_sleepers_waiters(&q->pool->idle, NULL) == 1);
	cr_assert_eq(put_until_full(0), BOUND);
	cr_assert_eq(runs, 0);
	cr_assert_eq(cq_cleanup_wait_for_room(q, wait_limit()), 0);
	AWAIT(runs == BOUND);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	join(worker);
	finish(BOUND);
}

/* A queue that is at its bound is drained and shut down as any other. */
Test(room, drain_and_shutdown_mind_no_bound)
{
	make_managed(1);
	for (unsigned i = 0; i < BOUND; i++)
		while (try_put(p, i) == ENOBUFS)
			cr_assert_eq(cq_cleanup_wait_for_room(q, wait_limit()), 0);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert(each_once(BOUND));
	finish(BOUND);
}

/* ------------------------------------------------------------------------- fork */

/* What waits in the child was counted anew, with what its parent's other threads had in hand. */
static void waits_in_a_child(void *unused)
{
	pid_t child = fork();
	int status;

	(void)unused;
	CHECK(child >= 0);
	if (child == 0) {
		CHECK(try_put(p, BOUND) == ENOBUFS);
		CHECK(q->pending == BOUND);
		CHECK(wait_for_room() == EAGAIN);
		CHECK(cq_cleanup_run_some(q, 1) == 1);
		CHECK(wait_for_room() == 0);
		CHECK(try_put(p, BOUND) == 0);
		finish(BOUND + 1);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(room, a_child_has_the_bound_and_what_waits)
{
	make_bounded((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED,
	    .park = cq_park_default() });
	cr_assert_eq(put_until_full(0), BOUND);
	waits_in_a_child(NULL);
	finish(BOUND);
}

/* It is asleep as the queue is forked. */
static void *waits_long(void *unused)
{
	CHECK(cq_cleanup_wait_for_room(q, wait_limit()) == 0);
	return unused;
}

Test(room, a_child_lacks_who_waited)
{
	pthread_t other;

	make_bounded((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED,
	    .park = cq_park_default() });
	cr_assert_eq(put_until_full(0), BOUND);
	q->pool->serving = 1;
	other = start(waits_long, NULL);
	AWAIT(asleep_in(&q->drains));
	waits_in_a_child(NULL); /* where nobody serves */
	cr_assert_eq(cq_cleanup_run_some(q, 1), 1);
	join(other);
	q->pool->serving = 0;
	finish(BOUND);
}

/* Begun ones are the parent's: they take no room in the child. */
static pid_t child;

static void forks(void *arg)
{
	int status;

	run_it(arg);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		CHECK(q->pending == BOUND - runs);
		return;
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(room, a_child_of_a_callback_counts_what_has_not_begun)
{
	make_bounded((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .flags = CQ_POOL_HOSTED,
	    .park = cq_park_default() });
	/* In the middle of the block that is run second, as the newest is first. */
	for (unsigned i = 0; i < BOUND; i++)
		cr_assert_eq(cq_producer_enqueue(p, i == BOUND - 2 * SLOTS + 1 ? forks : run_it,
		    (void *)(uintptr_t)i), 0);
	cr_assert_eq(cq_cleanup_run_some(q, SLOTS + 3), SLOTS + 3);
	CHECK(q->pending == BOUND - SLOTS - 3);
	finish(BOUND);
	if (child == 0)
		_exit(0);
}

/* ------------------------------------------------------------- threads, workers */

enum { PRODUCERS = 4, EACH = 3000 };

static atomic_int accepted_not_run, most;

static void leaves(void *arg)
{
	(void)arg;
	runs++;
	accepted_not_run--;
}

static void *produces(void *unused)
{
	cq_producer_t *mine;
	int err;

	CHECK(cq_producer_attach(q, NULL, &mine) == 0);
	for (unsigned i = 0; i < EACH; i++) {
		int now = ++accepted_not_run, before = most;

		while (now > before && !atomic_compare_exchange_weak(&most, &before, now))
			;
		while ((err = cq_producer_enqueue(mine, leaves, NULL)) == ENOBUFS)
			CHECK(cq_cleanup_wait_for_room(q, wait_limit()) == 0);
		CHECK(err == 0);
		if (i % 7 == 0)
			CHECK(cq_producer_flush(mine) == 0);
	}
	cq_producer_detach(mine);
	return unused;
}

/* Those in hand count until their block has run; and one more of each producer is counted here before it is refused. */
Test(room, no_more_wait_than_the_bound_and_a_block_of_each_producer)
{
	pthread_t threads[PRODUCERS];

	make_managed(2);
	for (unsigned i = 0; i < PRODUCERS; i++)
		threads[i] = start(produces, NULL);
	for (unsigned i = 0; i < PRODUCERS; i++)
		join(threads[i]);
	cr_assert_eq(cq_cleanup_drain(q, wait_limit()), 0);
	cr_assert_eq(runs, PRODUCERS * EACH);
	cr_assert_leq(most, BOUND - 1 + PRODUCERS * (SLOTS + 1));
	runs = 0;
	finish(0);
}
