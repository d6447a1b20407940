/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Places, and CQ_BIND: how many workers there are, where each runs, and whom a
 * flush wakes or makes. A build without places (--with-places=none) has refused
 * the queue, which is all that there is to see of it: open_bound() tells.
 *
 * The tests go from processor to processor themselves, on up to MOST of those that
 * they find; with one alone they still run, and see less.
 */
#define _GNU_SOURCE /* cpu_set_t, sched_getcpu */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup_priv.h"
#include "support.h"

/* CQ_BLOCK_BYTES_MIN gives blocks of two callbacks. */
enum { MOST = 4, SLOTS = 2, IDLE_NS = 1000, RECORDS = 128 };

#include "records.h" /* of RECORDS callbacks */

TestSuite(places, .timeout = 60);

static fake_park_t park;
static test_alloc_t alloc;
static cq_cleanup_t *q;
static cq_producer_t *p;
static cq_producer_t *other; /* of the "other thread" whose steps are run at points */

/* ------------------------------------------------------------- where threads run */

static bool affinity_fails; /* from here on, for the library and the test */
int __real_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set)
{
	if (affinity_fails) {
		errno = EINVAL;
		return -1;
	}
	return __real_sched_getaffinity(pid, bytes, set);
}

/* Of the machine, those on which a test goes about. */
static uint32_t processors[MOST];
static unsigned nprocessors;

static void run_on(const uint32_t *where, unsigned n)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (unsigned i = 0; i < n; i++)
		CPU_SET(where[i], &set);
	CHECK(sched_setaffinity(0, sizeof(set), &set) == 0);
}

static void stay_on(uint32_t processor)
{
	run_on(&processor, 1);
}

static void roam(void)
{
	run_on(processors, nprocessors);
}

static void find_processors(void)
{
	cpu_set_t set;

	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
	for (uint32_t i = 0; i < CQ_PLACES_MAX && nprocessors < MOST; i++)
		if (CPU_ISSET(i, &set))
			processors[nprocessors++] = i;
	CHECK(nprocessors != 0);
	roam();
}

/* What each callback saw of its thread. */
static struct sight {
	int bound_to; /* how many processors */
	uint32_t processor;
} seen[RECORDS];

static void look(void *arg)
{
	struct sight *s = &seen[(atomic_uint *)arg - records];
	cpu_set_t set;

	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
	s->bound_to = CPU_COUNT(&set);
	s->processor = (uint32_t)sched_getcpu();
	CHECK(CPU_ISSET(s->processor, &set));
	record(arg);
}

/* Where the nth callback ran, on a thread that runs nowhere else. */
static uint32_t ran_at(unsigned n)
{
	AWAIT(records[n] == 1);
	CHECK(seen[n].bound_to == 1);
	return seen[n].processor;
}

/* ------------------------------------------------------------ opening and closing */

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	cq_cleanup_stats(q, &s);
	return s;
}

static void open_with(cq_cleanup_config_t config)
{
	fake_init(&park);
	test_alloc_init(&alloc);
	config.park = &park.ops;
	config.allocator = &alloc.allocator;
	if (config.block_bytes == 0)
		config.block_bytes = CQ_BLOCK_BYTES_MIN;
	if (config.idle_ns == 0)
		config.idle_ns = CQ_FOREVER;
	cr_assert_eq(cq_cleanup_create(&config, &q), 0);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
	cr_assert_eq(cq_producer_attach(q, &other), 0);
}

static bool there_are_places(void)
{
	struct cq_places any;

	return cq_places_init(&any);
}

/* A queue whose workers are bound. False: this build has none, and said so. */
static bool open_bound(cq_cleanup_config_t config)
{
	config.flags |= CQ_BIND;
	if (there_are_places()) {
		open_with(config);
		return true;
	}
	cr_assert_eq(cq_cleanup_create(&config, &q), ENOTSUP);
	return false;
}

/* The same, of one place, with a caller that may run elsewhere too. */
static bool open_narrow(cq_cleanup_config_t config)
{
	bool open;

	stay_on(processors[0]);
	open = open_bound(config);
	roam();
	return open;
}

static void close_queue(void)
{
	cq_producer_detach(p);
	cq_producer_detach(other);
	cr_assert_eq(cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL), 0);
	cr_assert_eq(stats().queued, stats().executed);
	for (unsigned i = 0; i < CQ_PLACES_MAX / 64; i++)
		cr_assert_eq(q->places.taken[i], 0);
	cr_assert_eq(cq_cleanup_destroy(q), 0);
	cr_assert_eq(ran, accepted);
	cr_assert_eq(alloc.live_bytes, 0);
}

/* One unit of one callback, by a flush. Returns which it is. */
static unsigned flush_one(void)
{
	unsigned n = accepted;

	CHECK(cq_producer_enqueue(p, look, next_record()) == 0);
	CHECK(cq_producer_flush(p) == 0);
	return n;
}

/* A full block, which is published without a flush. Returns its first callback. */
static unsigned fill_one(void)
{
	unsigned first = accepted;

	for (unsigned i = 0; i < SLOTS; i++)
		CHECK(cq_producer_enqueue(p, look, next_record()) == 0);
	return first;
}

/* One worker at each of the processors, the last of them the newest sleeper. */
static void bring_all(void)
{
	for (unsigned i = 0; i < nprocessors; i++) {
		stay_on(processors[i]);
		cr_assert_eq(ran_at(flush_one()), processors[i]);
		fake_wait_blocked(&park, i + 1);
	}
	roam();
}

/* Every worker has a place, and what they have is what is taken. */
static void check_all_have_a_place(void)
{
	uint32_t taken = 0;

	pthread_mutex_lock(&q->registry);
	for (cq_worker_t *w = q->workers; w != NULL; w = w->next) {
		CHECK(w->sleeper.place != CQ_NO_PLACE);
		CHECK(!cq_places_free(&q->places, w->sleeper.place));
	}
	for (unsigned i = 0; i < CQ_PLACES_MAX / 64; i++)
		taken += (uint32_t)__builtin_popcountll(q->places.taken[i]);
	CHECK(taken == q->nworkers);
	pthread_mutex_unlock(&q->registry);
}

/* -------------------------------------------------------------------- places.h */

/* Of a machine of its own: they are in different words, the last one at the end. */
static const uint32_t some[] = { 3, 63, 64, CQ_PLACES_MAX - 1 };
enum { SOME = sizeof(some) / sizeof(some[0]) };

static struct cq_places some_places(void)
{
	struct cq_places places = { .n = SOME };

	for (unsigned i = 0; i < SOME; i++)
		places.known[some[i] / 64] |= UINT64_C(1) << some[i] % 64;
	return places;
}

Test(places, near_takes_here_if_it_is_free)
{
	for (unsigned i = 0; i < SOME; i++) {
		struct cq_places places = some_places();

		cr_assert(cq_places_free(&places, some[i]));
		cr_assert_eq(cq_places_take(&places, some[i], true), some[i]);
		cr_assert_not(cq_places_free(&places, some[i]));
		for (unsigned n = 1; n < SOME; n++) {
			uint32_t another = cq_places_take(&places, some[i], true);

			cr_assert_neq(another, some[i]);
			cr_assert_neq(another, CQ_NO_PLACE);
		}
		cr_assert_eq(cq_places_take(&places, some[i], true), CQ_NO_PLACE);
	}
}

Test(places, elsewhere_takes_here_only_when_no_other_is_free)
{
	for (unsigned i = 0; i < SOME; i++) {
		struct cq_places places = some_places();

		for (unsigned n = 1; n < SOME; n++)
			cr_assert_neq(cq_places_take(&places, some[i], false), some[i]);
		cr_assert_eq(cq_places_take(&places, some[i], false), some[i]);
		cr_assert_eq(cq_places_take(&places, some[i], false), CQ_NO_PLACE);
	}
}

Test(places, what_is_put_back_is_free_and_the_rest_stays_taken)
{
	struct cq_places places = some_places();

	for (unsigned i = 0; i < SOME; i++)
		cr_assert_neq(cq_places_take(&places, CQ_NO_PLACE, i % 2 == 0), CQ_NO_PLACE);
	for (unsigned i = 0; i < SOME; i++) {
		cq_places_put(&places, some[i]);
		for (unsigned j = 0; j < SOME; j++)
			cr_assert_eq(cq_places_free(&places, some[j]), i == j);
		cr_assert_eq(cq_places_take(&places, CQ_NO_PLACE, false), some[i]);
	}
	cq_places_put(&places, CQ_NO_PLACE);
	cr_assert_eq(cq_places_take(&places, CQ_NO_PLACE, false), CQ_NO_PLACE);
}

Test(places, what_is_not_known_is_never_free)
{
	struct cq_places none = { .n = 0 }, places = some_places();

	for (uint32_t i = 0; i < 2 * CQ_PLACES_MAX; i++) {
		cr_assert_not(cq_places_free(&none, i));
		cr_assert_eq(cq_places_free(&places, i),
		    i == some[0] || i == some[1] || i == some[2] || i == some[3]);
	}
	cr_assert_not(cq_places_free(&places, CQ_NO_PLACE));
	cr_assert_eq(cq_places_take(&none, 0, true), CQ_NO_PLACE);
	cr_assert_eq(cq_places_take(&none, 0, false), CQ_NO_PLACE);
	/* Who is in no place that is known, or beyond all of them, gets one all the same. */
	cr_assert_eq(cq_places_take(&places, 4, true), some[0]);
	cr_assert_eq(cq_places_take(&places, 2 * CQ_PLACES_MAX, true), some[1]);
}

Test(places, those_where_the_thread_may_run_are_known)
{
	struct cq_places places = { .n = 1, .taken = { ~UINT64_C(0) } };
	cpu_set_t set;

	cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	if (!cq_places_init(&places)) {
		cr_assert_eq(places.n, 0);
		CPU_ZERO(&set);
	}
	cr_assert_eq(places.n, (uint32_t)CPU_COUNT(&set));
	for (uint32_t i = 0; i < CQ_PLACES_MAX; i++)
		cr_assert_eq(cq_places_free(&places, i), CPU_ISSET(i, &set) != 0);
}

Test(places, a_thread_that_is_bound_is_there, .init = find_processors)
{
	cpu_set_t before, after;

	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	if (!there_are_places()) {
		cq_place_bind(processors[0]);
		cr_assert_eq(cq_place_here(), CQ_NO_PLACE);
	}
	cq_place_bind(CQ_NO_PLACE);
	cr_assert_eq(sched_getaffinity(0, sizeof(after), &after), 0);
	cr_assert(CPU_EQUAL(&before, &after));
	for (unsigned i = 0; i < nprocessors && there_are_places(); i++) {
		cq_place_bind(processors[i]);
		cr_assert_eq(cq_place_here(), processors[i]);
		cr_assert_eq(sched_getaffinity(0, sizeof(after), &after), 0);
		cr_assert(CPU_COUNT(&after) == 1 && CPU_ISSET(processors[i], &after));
	}
}

/* ---------------------------------------------------------------------- create */

static int start_nothing(void *unused, void (*body)(void *arg), void *arg)
{
	(void)unused;
	(void)body;
	(void)arg;
	return EAGAIN;
}

static int create(cq_cleanup_config_t config)
{
	return cq_cleanup_create(&config, &q);
}

Test(places, a_cap_or_a_host_or_polling_is_refused_to_workers_that_are_bound)
{
	cr_assert_eq(create((cq_cleanup_config_t){ .flags = CQ_BIND, .max_workers = 1 }), EINVAL);
	cr_assert_eq(create((cq_cleanup_config_t){ .flags = CQ_BIND,
	    .max_workers = CQ_MAX_WORKERS }), EINVAL);
	cr_assert_eq(create((cq_cleanup_config_t){ .flags = CQ_BIND,
	    .spawn = start_nothing }), EINVAL);
	cr_assert_eq(create((cq_cleanup_config_t){ .flags = CQ_BIND | CQ_POLLED }), EINVAL);
}

Test(places, where_threads_cannot_be_bound_create_says_so_and_leaks_nothing)
{
	test_alloc_init(&alloc);
	affinity_fails = true;
	cr_assert_eq(create((cq_cleanup_config_t){ .flags = CQ_BIND,
	    .allocator = &alloc.allocator }), ENOTSUP);
	cr_assert_eq(alloc.live_bytes, 0);
}

Test(places, the_cap_is_the_number_of_processors_of_the_creating_thread, .init = find_processors)
{
	for (unsigned n = 1; n <= nprocessors; n++) {
		run_on(processors, n);
		if (!open_bound((cq_cleanup_config_t){ 0 }))
			return;
		roam();
		cr_assert_eq(stats().max_workers, n);
		for (unsigned i = 0; i < 2 * nprocessors; i++)
			flush_one();
		AWAIT(ran == accepted);
		cr_assert_leq(stats().workers_created, n);
		close_queue();
	}
}

/* --------------------------------------------------------------- where they run */

/* Callbacks that are in the middle of their call, until `leave` is opened. */
static struct {
	atomic_uint inside;
	gate_t leave;
} room = { 0, GATE_INITIALIZER };

static void look_and_stay(void *arg)
{
	room.inside++;
	gate_wait(&room.leave);
	look(arg);
}

Test(places, each_worker_has_a_processor_of_its_own, .init = find_processors)
{
	if (!open_bound((cq_cleanup_config_t){ 0 }))
		return;
	for (unsigned i = 0; i < nprocessors; i++) {
		CHECK(cq_producer_enqueue(p, look_and_stay, next_record()) == 0);
		cr_assert_eq(cq_producer_flush(p), 0);
	}
	AWAIT(room.inside == nprocessors);
	check_all_have_a_place();
	gate_open(&room.leave);
	for (unsigned i = 0; i < nprocessors; i++) {
		bool known = false;

		for (unsigned j = 0; j < nprocessors; j++)
			known = known || ran_at(i) == processors[j];
		cr_assert(known);
		for (unsigned j = 0; j < i; j++)
			cr_assert_neq(ran_at(i), ran_at(j));
	}
	close_queue();
}

Test(places, workers_of_other_queues_are_not_bound, .init = find_processors)
{
	open_with((cq_cleanup_config_t){ .max_workers = 1 });
	flush_one();
	AWAIT(ran == 1);
	cr_assert_eq(seen[0].bound_to, (int)nprocessors);
	close_queue();
}

/* ------------------------------------------------------------ who is woken or made */

static void flush(void)
{
	cr_assert_eq(cq_producer_flush(p), 0);
}

static void flush_all(void)
{
	cr_assert_eq(cq_cleanup_flush_all(q), 0);
}

static void detach(void)
{
	cq_producer_detach(p);
	cr_assert_eq(cq_producer_attach(q, &p), 0);
}

static void drain(void)
{
	cr_assert_eq(cq_cleanup_drain(q, CQ_FOREVER), 0);
}

/* Each of the ways to flush; twice around, and the newest sleeper is that of before. */
Test(places, a_flush_wakes_the_worker_of_its_own_processor, .init = find_processors)
{
	static void (*const ways[])(void) = { flush, flush_all, detach, drain };

	/* Large blocks: what flush_all took has its slot still, and none is to be full. */
	if (!open_bound((cq_cleanup_config_t){ .block_bytes = CQ_BLOCK_BYTES_DEFAULT }))
		return;
	bring_all();
	for (unsigned i = 0; i < 8 * nprocessors; i++) {
		unsigned n = accepted;
		uint32_t here = processors[i % nprocessors];

		stay_on(here);
		cr_assert_eq(cq_producer_enqueue(p, look, next_record()), 0);
		ways[i / (2 * nprocessors)]();
		cr_assert_eq(ran_at(n), here);
		fake_wait_blocked(&park, nprocessors);
	}
	cr_assert_eq(stats().workers_created, nprocessors);
	close_queue();
}

Test(places, a_flush_makes_the_first_worker_of_its_own_processor_though_others_sleep,
    .init = find_processors)
{
	if (!open_bound((cq_cleanup_config_t){ 0 }))
		return;
	for (unsigned i = 0; i < nprocessors; i++) {
		/* From the last to the first: none is where a search would begin. */
		stay_on(processors[nprocessors - 1 - i]);
		for (unsigned n = 0; n < 2; n++) {
			cr_assert_eq(ran_at(flush_one()), processors[nprocessors - 1 - i]);
			fake_wait_blocked(&park, i + 1);
			cr_assert_eq(stats().workers_created, i + 1);
		}
	}
	cr_assert_eq(stats().wakes, nprocessors);
	check_all_have_a_place();
	close_queue();
}

Test(places, a_full_block_wakes_the_newest, .init = find_processors)
{
	if (!open_bound((cq_cleanup_config_t){ 0 }))
		return;
	bring_all();
	for (unsigned i = 0; i < nprocessors; i++) {
		uint32_t newest = processors[i];

		stay_on(newest);
		cr_assert_eq(ran_at(flush_one()), newest);
		fake_wait_blocked(&park, nprocessors);
		for (unsigned j = 0; j < nprocessors; j++) {
			stay_on(processors[j]);
			cr_assert_eq(ran_at(fill_one()), newest);
			fake_wait_blocked(&park, nprocessors);
		}
	}
	cr_assert_eq(stats().workers_created, nprocessors);
	close_queue();
}

Test(places, a_full_block_makes_a_worker_elsewhere_while_there_is_room, .init = find_processors)
{
	for (unsigned i = 0; i < nprocessors; i++) {
		if (!open_bound((cq_cleanup_config_t){ 0 }))
			return;
		stay_on(processors[i]);
		cr_assert_eq(ran_at(fill_one()) == processors[i], nprocessors == 1);
		close_queue();
		roam();
	}
}

/* ------------------------------------------------------------------- what is freed */

Test(places, a_worker_that_retires_frees_its_place_for_the_next, .init = find_processors)
{
	if (!open_bound((cq_cleanup_config_t){ .idle_ns = IDLE_NS }))
		return;
	for (unsigned i = 0; i < 2 * nprocessors; i++) {
		uint32_t here = processors[i / 2];

		stay_on(here);
		cr_assert_eq(ran_at(flush_one()), here);
		fake_wait_blocked(&park, 1);
		cr_assert_not(cq_places_free(&q->places, here));
		fake_advance(&park, IDLE_NS);
		AWAIT(cq_u32_load_relaxed(&q->nworkers) == 0);
		cr_assert(cq_places_free(&q->places, here));
	}
	cr_assert_eq(stats().workers_retired, 2 * nprocessors);
	close_queue();
}

static gate_t retiring = GATE_INITIALIZER, go_on = GATE_INITIALIZER;

static void hold(void *unused)
{
	(void)unused;
	gate_open(&retiring);
	gate_wait(&go_on);
}

/* The caller, who made it, could run elsewhere: what is not bound would show it. */
Test(places, a_worker_made_while_another_retires_is_bound, .init = find_processors)
{
	if (!open_narrow((cq_cleanup_config_t){ .idle_ns = IDLE_NS }))
		return;
	cr_assert_eq(ran_at(flush_one()), processors[0]);
	fake_wait_blocked(&park, 1);
	at_point("worker.retiring", hold, NULL);
	fake_advance(&park, IDLE_NS);
	gate_wait(&retiring);
	cr_assert_eq(ran_at(flush_one()), processors[0]);
	cr_assert_eq(stats().workers_created, 2);
	gate_open(&go_on);
	AWAIT(cq_u32_load_relaxed(&q->nworkers) == 1);
	check_all_have_a_place();
	close_queue();
}

/* As the "other thread": a callback that is not published. */
static void enqueue_one(void *unused)
{
	(void)unused;
	CHECK(cq_producer_enqueue(other, look, next_record()) == 0);
}

Test(places, a_worker_that_comes_back_has_a_place, .init = find_processors)
{
	uint32_t here;

	if (!open_bound((cq_cleanup_config_t){ .flags = CQ_HANDOVER, .idle_ns = IDLE_NS }))
		return;
	here = ran_at(flush_one());
	fake_wait_blocked(&park, 1);
	at_point("worker.timed_out", enqueue_one, NULL);
	fake_advance(&park, IDLE_NS);
	cr_assert_eq(ran_at(1), here);
	fake_wait_blocked(&park, 1);
	cr_assert_eq(stats().workers_created, 1);
	cr_assert_eq(stats().workers_retired, 0);
	check_all_have_a_place();
	close_queue();
}

static void end_thread(void *arg)
{
	look(arg);
	pthread_exit(NULL);
}

Test(places, the_next_has_the_place_of_a_worker_whose_callback_ended_it, .init = find_processors)
{
	if (!open_narrow((cq_cleanup_config_t){ 0 }))
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		cr_assert_eq(cq_producer_enqueue(p, i == 0 ? end_thread : look, next_record()), 0);
	cr_assert_eq(ran_at(0), processors[0]);
	cr_assert_eq(ran_at(1), processors[0]);
	AWAIT(cq_u32_load_relaxed(&q->nworkers) == 1);
	cr_assert_eq(stats().workers_created, 2);
	check_all_have_a_place();
	close_queue();
}

Test(places, a_worker_that_could_not_be_made_frees_its_place, .init = find_processors)
{
	if (!open_bound((cq_cleanup_config_t){ 0 }))
		return;
	stay_on(processors[0]);
	cr_assert_eq(cq_producer_enqueue(p, look, next_record()), 0);
	/* Its record and its place can be had, but no thread. */
	alloc.fail_on = true;
	alloc.fail_in = 2;
	cr_assert_eq(cq_producer_flush(p), EAGAIN);
	check_all_have_a_place();
	alloc.fail_on = false;
	alloc.fail_in = 0;
	cr_assert_geq(stats().workers_failed, 1);
	cr_assert_eq(stats().workers_created, 0);
	cr_assert(cq_places_free(&q->places, processors[0]));
	cr_assert_eq(cq_cleanup_wake(q), 0);
	cr_assert_eq(ran_at(0) == processors[0], nprocessors == 1);
	close_queue();
}

/* The sleeper does for it; and not each flush pays for an attempt that fails. */
Test(places, while_none_can_be_made_flushes_wake_and_do_not_try_again_and_again,
    .init = find_processors)
{
	if (nprocessors < 2 || !open_bound((cq_cleanup_config_t){ 0 }))
		return;
	stay_on(processors[0]);
	cr_assert_eq(ran_at(flush_one()), processors[0]);
	fake_wait_blocked(&park, 1);
	stay_on(processors[1]);
	for (unsigned i = 0; i < 10; i++) {
		cr_assert_eq(cq_producer_enqueue(p, look, next_record()), 0);
		alloc.fail_on = true;
		alloc.fail_in = 1;
		cr_assert_eq(cq_producer_flush(p), 0);
		alloc.fail_on = false;
		alloc.fail_in = 0;
		cr_assert_eq(ran_at(1 + i), processors[0]);
		fake_wait_blocked(&park, 1);
	}
	cr_assert_eq(stats().workers_failed, 1);
	cr_assert_not(cq_cleanup_stalled(q));
	close_queue();
}

/* ---------------------------------------------------------------------------- fork */

static void check_child(pid_t child)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void use_each_place(void)
{
	alarm(30);
	fake_init(&park); /* its condition counts waiters that the child doesn't have */
	for (unsigned i = 0; i < nprocessors; i++) {
		CHECK(cq_places_free(&q->places, processors[i]));
		stay_on(processors[i]);
		CHECK(ran_at(flush_one()) == processors[i]);
	}
	check_all_have_a_place();
}

Test(places, a_forked_child_has_all_places_again, .init = find_processors)
{
	pid_t child;

	if (!open_bound((cq_cleanup_config_t){ .flags = CQ_ATFORK }))
		return;
	bring_all();
	if ((child = fork()) == 0) {
		use_each_place();
		_exit(0);
	}
	check_child(child);
	check_all_have_a_place();
	close_queue();
}

static void fork_and_look(void *arg)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		CHECK(q->nworkers == 1 && q->workers->sleeper.place == processors[0]);
		check_all_have_a_place();
		_exit(0);
	}
	check_child(child);
	look(arg);
}

Test(places, a_worker_that_forks_keeps_its_place_in_the_child, .init = find_processors)
{
	if (!open_bound((cq_cleanup_config_t){ .flags = CQ_ATFORK }))
		return;
	bring_all();
	stay_on(processors[0]);
	cr_assert_eq(cq_producer_enqueue(p, fork_and_look, next_record()), 0);
	cr_assert_eq(cq_producer_flush(p), 0);
	cr_assert_eq(ran_at(nprocessors), processors[0]);
	close_queue();
}
