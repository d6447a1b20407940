/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The collector add-on among threads, locks and processes. What hangs here holds the collector's lock, or waits for
 * who does: a test that does not end within its alarm has failed.
 */
#include <criterion/criterion.h>
#include <sched.h>

#include "objects.h"

TestSuite(gc_threads, .timeout = 60, .fini = finish);

enum { ROUNDS = 5, THREADS = 4 };

static atomic_bool over;	/* for threads that go on until then */

/* Collections in this thread, and in whoever allocates. */
static void rounds_of_collections(void)
{
	for (unsigned round = 1; round <= ROUNDS; round++) {
		attach_dead(4 * OBJECTS, count, NULL);
		GC_gcollect();
		collect();
		cr_assert(most(ran, round * 4 * OBJECTS));
	}
}

/* ---------------------------------------------------- what the prototypes hung in */

struct body {
	void (*body)(void *arg);
	void *arg;
};

static void *be_worker(void *arg)
{
	struct body b = *(struct body *)arg;

	free(arg);
	b.body(b.arg);
	return NULL;
}

/* GC_pthread_create takes the collector's lock. */
static int spawn_known(void *unused, void (*body)(void *arg), void *arg)
{
	struct body *b = malloc(sizeof(*b));
	pthread_t thread;

	(void)unused;
	*b = (struct body){ body, arg };
	CHECK(pthread_create(&thread, NULL, be_worker, b) == 0);
	CHECK(pthread_detach(thread) == 0);
	return 0;
}

Test(gc_threads, workers_may_be_made_by_the_collector)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 2, .spawn = spawn_known });
	rounds_of_collections();
}

/* Behind the pointer to its begin. */
static void *alloc_collected(void *unused, size_t bytes, size_t align)
{
	char *begin = GC_MALLOC_UNCOLLECTABLE(bytes + align + sizeof(void *));
	void **p;

	(void)unused;
	if (begin == NULL)
		return NULL;
	p = (void **)(((uintptr_t)begin + sizeof(void *) + align - 1) / align * align);
	p[-1] = begin;
	return p;
}

static void free_collected(void *unused, void *memory, size_t bytes)
{
	(void)unused;
	(void)bytes;
	GC_FREE(((void **)memory)[-1]);
}

Test(gc_threads, blocks_may_be_the_collectors_memory)
{
	static const cq_allocator_t allocator = { alloc_collected, free_collected, NULL };

	begin_collector();
	open_with((cq_cleanup_config_t){ .allocator = &allocator }, (cq_pool_config_t){ .workers_max = 2 });
	rounds_of_collections();
}

static void allocate(void *unused)
{
	(void)unused;
	CHECK(GC_MALLOC(100) != NULL);
	ran++;
}

Test(gc_threads, in_place_a_cleanup_may_allocate_and_collect)
{
	open_in_place();
	for (unsigned round = 1; round <= ROUNDS; round++) {
		attach_dead(4 * OBJECTS, allocate, NULL);
		GC_gcollect();
		collect();
		cr_assert(most(ran, round * 4 * OBJECTS));
	}
}

static pthread_mutex_t locked = PTHREAD_MUTEX_INITIALIZER;

static void take_the_lock(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&locked);
	pthread_mutex_unlock(&locked);
	ran++;
}

/* Allocates, attaches and polls while it holds the lock. */
static void *hold_the_lock(void *unused)
{
	while (!over) {
		pthread_mutex_lock(&locked);
		for (int i = 0; i < 200; i++)
			GC_MALLOC(3000);
		attach_dead(10, count, NULL);
		pthread_mutex_unlock(&locked);
		turn();
	}
	return unused;
}

static void cleanups_take_a_lock(void)
{
	pthread_t other = begin(hold_the_lock, NULL);

	for (int round = 0; round < ROUNDS; round++) {
		attach_dead(OBJECTS, take_the_lock, NULL);
		collect();
	}
	over = true;
	end(other);
	cr_assert_geq(ran, ROUNDS * (OBJECTS - FEW));
}

Test(gc_threads, cleanup_may_take_a_lock_whose_holder_allocates)
{
	open_queue();
	cleanups_take_a_lock();
}

/* The holder must not be the one who runs it: it would take its own lock. */
static void *poll_beside(void *unused)
{
	while (!over) {
		cq_gc_poll();
		turn();
	}
	return unused;
}

static void *allocate_locked(void *unused)
{
	while (!over) {
		pthread_mutex_lock(&locked);
		for (int i = 0; i < 200; i++)
			GC_MALLOC(3000);
		pthread_mutex_unlock(&locked);
		turn();
	}
	return unused;
}

Test(gc_threads, in_place_a_cleanup_may_take_a_lock_whose_holder_allocates)
{
	pthread_t holder, poller;

	open_in_place();
	holder = begin(allocate_locked, NULL);
	poller = begin(poll_beside, NULL);
	for (int round = 0; round < ROUNDS; round++) {
		attach_dead(OBJECTS, take_the_lock, NULL);
		collect();
	}
	over = true;
	end(holder);
	end(poller);
	cr_assert_geq(ran, ROUNDS * (OBJECTS - FEW));
}

/* ------------------------------------------- a cleanup in place keeps back only itself */

static void *poll_once(void *unused)
{
	cq_gc_poll();
	return unused;
}

static gate_t first_stands = GATE_INITIALIZER;
static atomic_uint standing;

/* The first one only. */
static void stand_if_first(void *unused)
{
	(void)unused;
	if (standing++ == 0) {
		gate_open(&first_stands);
		gate_wait(&go_on);
	}
	ran++;
}

Test(gc_threads, in_place_the_others_run_and_threads_fork_while_one_stands_still)
{
	pthread_t stuck;

	open_in_place();
	attach_dead(OBJECTS, stand_if_first, NULL);
	forget();
	GC_gcollect();
	stuck = begin(poll_once, NULL);
	gate_wait(&first_stands);
	collect();
	cr_assert_geq(ran, OBJECTS - FEW - 1);
	if (test_forked()) {
		attach_dead(OBJECTS, count, NULL);
		collect();
		_exit(ran >= OBJECTS ? 0 : 1);
	}
	cr_assert(test_child_ended());
	gate_open(&go_on);
	end(stuck);
}

static cq_gc_handle_t of_the_live;

/* All that the library has, but relieve, open and close. */
static void call_everything(void *unused)
{
	cq_gc_handle_t h;

	(void)unused;
	CHECK(cq_gc_add(GC_MALLOC(48), count, NULL, &h) == 0);
	if (ran++ % 100 == 0) {
		cq_gc_collect();
		if (test_child_has_threads()) {
			if (test_forked())
				_exit(0);
			CHECK(test_child_ended());
			alarm(30);
		}
	}
	cq_gc_stop(h);
	cq_gc_stop(of_the_live);
	cq_gc_poll();
	CHECK(counts().added > 0);
}

Test(gc_threads, in_place_a_cleanup_may_add_stop_collect_and_fork)
{
	open_in_place();
	roots[0] = GC_MALLOC(16);
	cr_assert_eq(cq_gc_add(roots[0], count, NULL, &of_the_live), 0);
	attach_dead(OBJECTS, call_everything, NULL);
	collect();
	cr_assert_geq(ran, OBJECTS - FEW);
}

/* ---------------------------------------------- workers that the collector knows */

struct box {
	char *texts[FEW];
	void *made;
};

static gate_t taken_out = GATE_INITIALIZER;
static atomic_uint intact;

/* Nothing but this thread's frame has the texts when it stands. */
static void take_out(void *arg)
{
	struct box *box = arg;
	char *volatile texts[FEW];

	for (int i = 0; i < FEW; i++)
		texts[i] = box->texts[i];
	memset(box, 0, sizeof(*box));
	GC_end_stubborn_change(box);
	gate_open(&taken_out);
	gate_wait(&go_on);
	for (int i = 0; i < FEW; i++)
		intact += strcmp(texts[i], "still here") == 0;
	box->made = GC_MALLOC(48);
	ran++;
}

static APART void attach_boxes(int n)
{
	for (int i = 0; i < n; i++) {
		struct box *box = GC_MALLOC(sizeof(*box));

		for (int t = 0; t < FEW; t++) {
			box->texts[t] = GC_MALLOC_ATOMIC(48);
			strcpy(box->texts[t], "still here");
		}
		CHECK(cq_gc_add(GC_MALLOC(48), take_out, box, NULL) == 0);
	}
	forget();
}

Test(gc_threads, worker_that_the_collector_knows_may_change_the_graph_and_allocate)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1,
		.worker_start = cq_gc_worker_start, .worker_end = cq_gc_worker_end });
	attach_boxes(FEW);
	forget();
	cq_gc_collect();
	gate_wait(&taken_out);
	for (int i = 0; i < 3; i++) {
		GC_gcollect();
		overwrite(48);
	}
	gate_open(&go_on);
	collect();
	cr_assert_gt(ran, 0);
	cr_assert_eq(intact, FEW * ran);
}

/* The collector would end the process. */
Test(gc_threads, worker_comes_before_open_and_is_refused)
{
	cq_pool_config_t pool = { .workers_max = 1, .workers_min = 1,
		.worker_start = cq_gc_worker_start, .worker_end = cq_gc_worker_end };
	cq_cleanup_config_t config = { .pool_config = &pool };

	GC_set_handle_fork(1);
	GC_INIT();
	cr_assert_eq(cq_cleanup_create(&config, &queue), ENXIO);
	pool.workers_min = 0;
	cr_assert_eq(cq_cleanup_create(&config, &queue), 0);
	cr_assert_eq(cq_cleanup_enqueue(queue, allocate, NULL), 0);
	cr_assert_eq(cq_gc_poll(), 0);
	(void)cq_cleanup_flush(queue); /* says so, or the worker is about to */
	cr_assert_eq(cq_gc_open(queue), 0);
	is_open = true;
	cr_assert_eq(cq_cleanup_drain(queue, CQ_FOREVER), 0);
	cr_assert_eq(ran, 1);
}

Test(gc_threads, workers_that_the_collector_knows_come_and_go)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 2, .idle_ns = 1,
		.worker_start = cq_gc_worker_start, .worker_end = cq_gc_worker_end });
	for (unsigned round = 1; round <= 10; round++) {
		attach_dead(OBJECTS, allocate, NULL);
		collect();
		cr_assert(most(ran, round * OBJECTS));
	}
}

static void end_thread(void *unused)
{
	(void)unused;
	ran++;
	pthread_exit(NULL);
}

Test(gc_threads, cleanup_that_ends_its_thread_is_over)
{
	open_queue();
	attach_dead(100, end_thread, NULL);
	collect();
	cr_assert_gt(ran, 0);
}

/* ------------------------------------------------------------------------- fork */

static void *collect_and_attach(void *unused)
{
	while (!over) {
		attach_dead(100, count, NULL);
		GC_gcollect();
		turn();
	}
	return unused;
}

/* The child has each attached object, finds dead what dies there, and attaches more. */
static void be_child(void)
{
	unsigned before;

	drop_roots();
	collect();
	before = ran;
	attach_dead(OBJECTS, count, NULL);
	collect();
	CHECK(ran >= before + OBJECTS - FEW);
	finish_but_for(2); /* two workers, or, in place, two threads */
	_exit(0);
}

static void forks_beside_collections(unsigned n)
{
	pthread_t other[2];

	if (!test_child_has_threads())
		cr_skip_test("a child has no threads");
	for (int i = 0; i < 2; i++)
		other[i] = begin(collect_and_attach, NULL);
	attach_alive(OBJECTS, count, NULL);
	for (unsigned i = 0; i < n; i++) {
		if (test_forked())
			be_child();
		cr_assert(test_child_ended());
	}
	over = true;
	for (int i = 0; i < 2; i++)
		end(other[i]);
	drop_roots();
}

Test(gc_threads, forks_beside_collections)
{
	have_no_markers();
	open_queue();
	forks_beside_collections(20);
}

Test(gc_threads, forks_beside_collections_in_place)
{
	have_no_markers();
	open_in_place();
	forks_beside_collections(20);
}

static atomic_uint of_the_roots;

static void count_root(void *unused)
{
	(void)unused;
	of_the_roots++;
}

/* Each in both. */
static void both_processes_run_what_was_attached_before(void)
{
	bool child;

	if (!test_child_has_threads())
		cr_skip_test("a child has no threads");
	attach_alive(OBJECTS, count_root, NULL);
	child = test_forked();
	drop_roots();
	collect();
	CHECK(most(of_the_roots, OBJECTS));
	finish();
	CHECK(of_the_roots == OBJECTS);
	if (child)
		_exit(0);
	is_open = false;
	cr_assert(test_child_ended());
}

Test(gc_threads, both_processes_run_what_was_attached_before_a_fork)
{
	have_no_markers();
	open_queue();
	both_processes_run_what_was_attached_before();
}

Test(gc_threads, both_processes_run_what_was_attached_before_a_fork_in_place)
{
	have_no_markers();
	open_in_place();
	both_processes_run_what_was_attached_before();
}

/* The child's first call makes a thread for it. */
Test(gc_threads, nothing_waits_for_a_call_in_a_child)
{
	if (!test_child_has_threads())
		cr_skip_test("a child has no threads");
	have_no_markers();
	open_queue();
	attach_alive(OBJECTS, count_root, NULL);
	if (test_forked()) {
		drop_roots();
		attach_dead(OBJECTS, count, NULL);
		GC_gcollect();
		forget();
		GC_gcollect();
		AWAIT(most(ran, OBJECTS) && most(of_the_roots, OBJECTS));
		_exit(0);
	}
	cr_assert(test_child_ended());
}

/* Found, but not handed over: the helper waits for room, and the child makes another. */
Test(gc_threads, child_has_what_was_found_dead_and_not_handed_over)
{
	bool child;

	if (!test_child_has_threads())
		cr_skip_test("a child has no threads");
	have_no_markers();
	open_with((cq_cleanup_config_t){ .max_waiting = CQ_MAX_WAITING_MIN },
	    (cq_pool_config_t){ .workers_max = 1 });
	stop_the_worker();
	attach_dead(OBJECTS, count_root, NULL);
	forget();
	GC_gcollect();
	AWAIT(counts().late > 0);
	child = test_forked();
	gate_open(&go_on);
	cq_gc_poll();
	AWAIT(most(of_the_roots, OBJECTS));
	if (child)
		_exit(0);
	cr_assert(test_child_ended());
}

static gate_t has_attached = GATE_INITIALIZER;

static void *attach_and_wait(void *unused)
{
	attach_dead(1, count, NULL);
	attach_dead(1, count, roots);
	gate_open(&has_attached);
	gate_wait(&go_on);
	return unused;
}

/* Of threads that it has not. */
Test(gc_threads, child_uses_the_tables_of_its_parents_threads)
{
	pthread_t t;
	uint64_t before;

	if (!test_child_has_threads())
		cr_skip_test("a child has no threads");
	open_in_place();
	t = begin(attach_and_wait, NULL);
	gate_wait(&has_attached);
	if (test_forked()) {
		before = counts().bytes;
		for (int i = 0; i < 3; i++)
			collect();
		attach_dead(OBJECTS, count, NULL);
		attach_dead(OBJECTS, count, roots);
		CHECK(counts().bytes == before);
		_exit(0);
	}
	cr_assert(test_child_ended());
	gate_open(&go_on);
	end(t);
}

/* ------------------------------------------------------------------ many threads */

/* An object of a thread's, from its attachment to the end of its cleanup. */
enum { UNUSED, ATTACHED, STOPPED, RAN };

struct record {
	atomic_uchar state;
	atomic_bool held;
	cq_gc_handle_t handle;
};

enum { RECORDS = 20 * OBJECTS };

static struct record *records[THREADS];	/* malloc's memory, which is not scanned */
static atomic_uint attached[THREADS];	/* records below are, or were */
static atomic_bool at_the_end;

static void settle(void *arg)
{
	struct record *r = arg;
	unsigned char was = atomic_exchange(&r->state, RAN);

	CHECK(was == ATTACHED);
	CHECK(!r->held || at_the_end);
	ran++;
}

/* By any thread, whoever attached it. */
static void stop_it(struct record *r)
{
	if (cq_gc_stop(r->handle)) {
		unsigned char was = atomic_exchange(&r->state, STOPPED);

		CHECK(was == ATTACHED);
	}
}

static void stop_any(rng_t *rng)
{
	unsigned t = (unsigned)rng_below(rng, THREADS), n = attached[t];

	if (n != 0)
		stop_it(&records[t][rng_below(rng, n)]);
}

/* Attaches, drops, stops its own and others', new and long over. */
static void *attach_drop_and_stop(void *index)
{
	enum { SLOTS = 64 };
	void **slots = GC_MALLOC_UNCOLLECTABLE(SLOTS * sizeof(*slots));
	uintptr_t t = (uintptr_t)index;
	struct record *held[SLOTS] = { NULL };
	rng_t rng = rng_for((unsigned)t);

	for (unsigned i = 0; i < RECORDS && !over; i++) {
		struct record *r = &records[t][i];
		unsigned s = (unsigned)rng_below(&rng, SLOTS);

		if (held[s] != NULL)
			held[s]->held = false;
		slots[s] = GC_MALLOC(16 << rng_below(&rng, 4));
		held[s] = r;
		r->held = true;
		r->state = ATTACHED;
		CHECK(cq_gc_add(slots[s], settle, r, &r->handle) == 0);
		attached[t] = i + 1;
		for (uint64_t n = rng_below(&rng, 4); n != 0; n--)
			stop_any(&rng);
		if (rng_below(&rng, 500) == 0)
			GC_gcollect();
		if (rng_below(&rng, 100) == 0)
			cq_gc_poll();
	}
	for (int s = 0; s < SLOTS; s++)
		if (held[s] != NULL)
			held[s]->held = false;
	GC_FREE(slots);
	return NULL;
}

static void everything_is_settled_once(void)
{
	unsigned n = 0, stopped = 0;

	for (int t = 0; t < THREADS; t++)
		records[t] = calloc(RECORDS, sizeof(*records[t]));
	test_seed();
	threads(THREADS, attach_drop_and_stop);
	over = true;
	collect();
	at_the_end = true;
	at_every_point(NULL, NULL);
	finish();
	for (int t = 0; t < THREADS; t++) {
		n += attached[t];
		for (unsigned i = 0; i < attached[t]; i++) {
			stopped += records[t][i].state == STOPPED;
			CHECK(records[t][i].state == RAN || records[t][i].state == STOPPED);
		}
	}
	is_open = false;
	CHECK(ran + stopped == n && counts().stopped == stopped);
	CHECK(ran > 0 && stopped > 0);
}

Test(gc_threads, stops_passes_and_recycling_lose_and_double_nothing)
{
	open_queue();
	everything_is_settled_once();
}

Test(gc_threads, stops_passes_and_recycling_lose_and_double_nothing_in_place)
{
	open_in_place();
	everything_is_settled_once();
}

/* At each point another thread comes in. */
static void let_others_run(const char *where, void *unused)
{
	static atomic_uint n;

	(void)where;
	(void)unused;
	if (n++ % 7 == 0)
		sched_yield();
}

Test(gc_threads, threads_that_are_delayed_anywhere_lose_and_double_nothing)
{
	open_queue();
	at_every_point(let_others_run, NULL);
	everything_is_settled_once();
}

Test(gc_threads, threads_that_are_delayed_anywhere_lose_and_double_nothing_in_place)
{
	open_in_place();
	at_every_point(let_others_run, NULL);
	everything_is_settled_once();
}

static void *attach_many(void *unused)
{
	attach_alive(OBJECTS, count, NULL);
	return unused;
}

/* A pass, and a thread that has no table yet. */
static void let_others_attach(void *unused)
{
	(void)unused;
	GC_gcollect();
	end(begin(attach_many, NULL));
}

Test(gc_threads, entry_is_its_threads_before_it_is_attached)
{
	open_in_place();
	at_point("gc.add", let_others_attach, NULL);
	attach_dead(1, count, NULL);
	finish();
	is_open = false;
	cr_assert_eq(ran, OBJECTS + 1);
}

/* Objects that all threads attach to. */
static void *attach_to_shared(void *index)
{
	rng_t rng = rng_for((unsigned)(uintptr_t)index);

	for (int i = 0; i < 10 * OBJECTS; i++) {
		void *object = i % 4 == 0 ? roots[i / 4 % 64] : GC_MALLOC(48);
		cq_gc_handle_t h;

		CHECK(cq_gc_add(object, count, NULL, &h) == 0);
		if (rng_below(&rng, 4) == 0)
			CHECK(cq_gc_stop(h));
		GC_reachable_here(object);
	}
	return NULL;
}

Test(gc_threads, threads_attach_to_the_same_objects)
{
	cq_gc_counts_t c;

	open_queue();
	test_seed();
	for (int i = 0; i < 64; i++)
		roots[i] = GC_MALLOC(16);
	threads(THREADS, attach_to_shared);
	drop_roots();
	collect();
	c = counts();
	cr_assert_eq(c.added, THREADS * 10 * OBJECTS);
	cr_assert(most(c.run + c.stopped, c.added));
	cr_assert_eq(c.run, ran);
}

static cq_gc_handle_t of_many[OBJECTS];

static void *stop_many(void *unused)
{
	for (int i = 0; i < OBJECTS; i++) {
		CHECK(cq_gc_stop(of_many[i]));
		CHECK(counts().stopped == (uint64_t)i + 1);
	}
	return unused;
}

/* Of one of which the collector knows nothing; others collect beside it. */
Test(gc_threads, stop_and_counts_are_for_any_thread)
{
	pthread_t other;

	open_queue();
	for (int i = 0; i < OBJECTS; i++) {
		roots[i] = GC_MALLOC(16);
		cr_assert_eq(cq_gc_add(roots[i], count_root, NULL, &of_many[i]), 0);
	}
	other = begin(collect_and_attach, NULL);
	join(start(stop_many, NULL));
	over = true;
	end(other);
	drop_roots();
	collect();
	cr_assert_eq(of_the_roots, 0);
}

static void *attach_and_end(void *unused)
{
	attach_dead(100, count, NULL);
	return unused;
}

static void *make_short_threads(void *unused)
{
	for (int i = 0; i < 50; i++)
		end(begin(attach_and_end, NULL));
	return unused;
}

Test(gc_threads, cleanups_outlive_the_threads_that_attached_them)
{
	open_queue();
	threads(THREADS, make_short_threads);
	collect();
	cr_assert(most(ran, THREADS * 50 * 100));
}

/* ------------------------------------------------------- collections of all kinds */

static int GC_CALLBACK give_up_now_and_then(void)
{
	static atomic_uint n;

	return n++ % 7 == 0;
}

/* Objects whose holder knows that they live. */
static void *drop_and_collect(void *index)
{
	enum { SLOTS = 500 };
	uintptr_t t = (uintptr_t)index;
	void **slots = GC_MALLOC_UNCOLLECTABLE(SLOTS * sizeof(*slots));
	struct record *held[SLOTS] = { NULL };
	rng_t rng = rng_for((unsigned)t);

	for (unsigned i = 0; i < RECORDS; i++) {
		unsigned s = (unsigned)rng_below(&rng, SLOTS);
		struct record *r = &records[t][i];

		if (held[s] != NULL)
			held[s]->held = false;
		GC_PTR_STORE_AND_DIRTY(&slots[s], GC_MALLOC(16 + rng_below(&rng, 200)));
		held[s] = r;
		r->held = true;
		r->state = ATTACHED;
		CHECK(cq_gc_add(slots[s], settle, r, NULL) == 0);
		attached[t] = i + 1;
		if (rng_below(&rng, 1000) == 0)
			GC_try_to_collect(give_up_now_and_then);
		if (rng_below(&rng, 100) == 0)
			GC_collect_a_little();
	}
	for (int s = 0; s < SLOTS; s++)
		if (held[s] != NULL)
			held[s]->held = false;
	GC_FREE(slots);
	return NULL;
}

static void nothing_is_early(void)
{
	for (int t = 0; t < THREADS; t++)
		records[t] = calloc(RECORDS, sizeof(*records[t]));
	test_seed();
	open_queue();
	threads(THREADS, drop_and_collect);
	collect();
	cr_assert_eq(counts().missed, 0);
	cr_assert_gt(ran, RECORDS);
}

Test(gc_threads, collections_that_stop_the_world_or_are_given_up_find_nothing_early)
{
	begin_collector();
	nothing_is_early();
}

Test(gc_threads, incremental_collections_find_nothing_early)
{
	begin_collector();
	GC_set_full_freq(4);
	GC_enable_incremental();
	nothing_is_early();
}

Test(gc_threads, incremental_collections_with_a_time_limit_find_nothing_early)
{
	begin_collector();
	GC_set_full_freq(4);
	GC_enable_incremental();
	GC_set_time_limit(1);
	nothing_is_early();
}
