/* SPDX-License-Identifier: BSD-2-Clause */
/* The collector add-on, as one thread sees it: what is promised of each call, and of memory. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "objects.h"

#include <gc/gc_disclaim.h>

TestSuite(gc, .timeout = 60, .fini = finish);

/* Both ways of running: what is said of cleanups is said of both. */
#define IN_BOTH(name)					\
	static void name(void);				\
	Test(gc, name##_with_a_queue)			\
	{						\
		open_queue();				\
		name();					\
	}						\
	Test(gc, name##_in_place)			\
	{						\
		open_in_place();			\
		name();					\
	}						\
	static void name(void)

/* ---------------------------------------------------------------- open and add */

Test(gc, nothing_is_attached_before_open_and_it_is_once)
{
	begin_collector();
	cr_assert_eq(cq_gc_add(GC_MALLOC(16), count, NULL, NULL), ENXIO);
	cr_assert_eq(cq_gc_open(NULL), 0);
	is_open = true;
	cr_assert_eq(cq_gc_open(NULL), EALREADY);
	cr_assert_eq(cq_gc_add(GC_MALLOC(16), count, NULL, NULL), 0);
	cq_gc_close();
	cr_assert_eq(cq_gc_open(NULL), EALREADY);
	cr_assert_eq(cq_gc_add(GC_MALLOC(16), count, NULL, NULL), ENXIO);
	cr_assert_eq(ran, 1);
}

Test(gc, what_could_never_run_is_refused)
{
	char *object, *other = malloc(16);
	int local;

	open_in_place();
	object = GC_MALLOC(64);
	cr_assert_eq(cq_gc_add(object, count, object, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(object, count, object + 8, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(object + 8, count, object, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(object, NULL, NULL, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(NULL, count, NULL, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(&local, count, NULL, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(other, count, NULL, NULL), EINVAL);
	cr_assert_eq(cq_gc_close(), 0);
	cr_assert_eq(counts().added, 0);
	GC_reachable_here(object);
	free(other);
}

static APART void attach_three_each(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		char *object = GC_MALLOC(32);

		for (int n = 0; n < 3; n++)
			cr_assert_eq(cq_gc_add(object + 3 * n, count, NULL, NULL), 0);
	}
}

IN_BOTH(each_cleanup_of_an_object_runs_and_a_pointer_into_it_will_do)
{
	attach_three_each();
	collect();
	cr_assert(most(ran, 3 * OBJECTS));
}

IN_BOTH(cleanup_of_a_live_object_waits_for_its_death)
{
	attach_alive(OBJECTS, count, NULL);
	collect();
	cr_assert_eq(ran, 0);
	drop_roots();
	collect();
	cr_assert(most(ran, OBJECTS));
}

static atomic_uint finalized;

static void GC_CALLBACK finalize(void *object, void *unused)
{
	(void)object;
	(void)unused;
	finalized++;
}

static APART void attach_to_finalizable(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		void *object = GC_MALLOC(48);

		GC_register_finalizer_no_order(object, finalize, NULL, NULL, NULL);
		cr_assert_eq(cq_gc_add(object, count, NULL, NULL), 0);
	}
}

IN_BOTH(finalizer_of_the_objects_own_runs_and_then_the_cleanup)
{
	attach_to_finalizable();
	collect();
	cr_assert(most(finalized, OBJECTS));
	cr_assert_leq(ran, finalized);
	collect();
	cr_assert(most(ran, OBJECTS));
}

/* ------------------------------------------------------------------------- stop */

static cq_gc_handle_t handles[OBJECTS];
static atomic_uint ran_beside;

static void count_beside(void *unused)
{
	(void)unused;
	ran_beside++;
}

static APART void attach_and_stop(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		void *object = GC_MALLOC(32);

		cr_assert_eq(cq_gc_add(object, count, NULL, &handles[i]), 0);
		cr_assert_eq(cq_gc_add(object, count_beside, NULL, NULL), 0);
		cr_assert(cq_gc_stop(handles[i]));
		cr_assert_not(cq_gc_stop(handles[i]));
		GC_reachable_here(object);
	}
}

IN_BOTH(stopped_cleanup_never_runs_but_its_neighbour_does)
{
	attach_and_stop();
	collect();
	cr_assert_eq(ran, 0);
	cr_assert(most(ran_beside, OBJECTS));
	cr_assert_not(cq_gc_stop((cq_gc_handle_t){ NULL, 0 }));
	cr_assert_eq(counts().stopped, OBJECTS);
}

/* The entries of `many` have been others' before, those of what has died in `roots` among them. */
enum { MORE = 10 * OBJECTS };

static void **many;
static bool over[OBJECTS], many_over[MORE];

static void note(void *over_)
{
	*(bool *)over_ = true;
	ran++;
}

static void use_every_entry(void *unused)
{
	(void)unused;
	drop_roots();
	for (int i = 0; i < 3; i++) {
		attach_dead(MORE, count, NULL);
		collect();
	}
	many = GC_MALLOC_UNCOLLECTABLE(MORE * sizeof(*many));
	for (int i = 0; i < MORE; i++) {
		many[i] = GC_MALLOC(16);
		cr_assert_eq(cq_gc_add(many[i], note, &many_over[i], NULL), 0);
	}
}

/* None is over, and then all are. */
static void every_entry_is_settled_once(void)
{
	unsigned n = 0;

	for (int i = 0; i < MORE; i++)
		cr_assert_not(many_over[i]);
	memset(many, 0, MORE * sizeof(*many));
	collect();
	for (int i = 0; i < MORE; i++)
		n += many_over[i];
	cr_assert(most(n, MORE));
}

static APART void attach_with_handles(void)
{
	for (int i = 0; i < OBJECTS; i++)
		cr_assert_eq(cq_gc_add(GC_MALLOC(32), note, &over[i], &handles[i]), 0);
}

IN_BOTH(handle_of_what_has_run_stops_nothing_and_so_no_new_cleanup)
{
	attach_with_handles();
	collect();
	cr_assert(most(ran, OBJECTS));
	use_every_entry(NULL);
	for (int i = 0; i < OBJECTS; i++)
		cr_assert(!over[i] || !cq_gc_stop(handles[i]));
	every_entry_is_settled_once();
}

Test(gc, stopped_cleanup_leaves_its_object_to_free)
{
	cq_gc_handle_t h;

	open_in_place();
	for (int i = 0; i < FEW; i++) {
		void *object = GC_MALLOC(32);

		cr_assert_eq(cq_gc_add(object, count, NULL, &h), 0);
		cr_assert(cq_gc_stop(h));
		GC_FREE(object);
		collect();
	}
	cr_assert_eq(ran, 0);
}

static void attach_roots_with_handles(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		roots[i] = GC_MALLOC(48);
		cr_assert_eq(cq_gc_add(roots[i], note, &over[i], &handles[i]), 0);
	}
	forget();
}

Test(gc, stop_that_comes_late_stops_no_new_cleanup)
{
	open_in_place();
	attach_roots_with_handles();
	at_point("gc.stop", use_every_entry, NULL);
	for (int i = OBJECTS / 2; i < OBJECTS; i++)
		cr_assert_eq(cq_gc_stop(handles[i]), !over[i]);
	every_entry_is_settled_once();
}

Test(gc, stop_that_is_slow_leaves_the_next_cleanup_its_argument)
{
	open_in_place();
	attach_roots_with_handles();
	at_point("gc.stopped", use_every_entry, NULL);
	cr_assert(cq_gc_stop(handles[OBJECTS / 2]));
	every_entry_is_settled_once();
}

/* In the pass, just as it has found one dead. */
static void stop_all(void *unused)
{
	(void)unused;
	for (int i = 0; i < OBJECTS; i++)
		CHECK(cq_gc_stop(handles[i]));
}

Test(gc, stop_may_be_faster_than_the_pass_that_found_its_object_dead)
{
	open_in_place();
	GC_disable();
	attach_with_handles();
	GC_enable();
	forget();
	at_point("gc.dies", stop_all, NULL);
	collect();
	cr_assert_eq(ran, 0);
	cr_assert_eq(counts().stopped, OBJECTS);
}

/* --------------------------------------------------------------- the argument */

static atomic_uint intact;

static void look_at(void *arg)
{
	intact += strcmp(arg, "still here") == 0;
	ran++;
}

static APART void attach_with_args(bool alive)
{
	for (int i = 0; i < OBJECTS; i++) {
		char *arg = GC_MALLOC_ATOMIC(48);
		void *object = GC_MALLOC(48);

		strcpy(arg, "still here");
		if (alive)
			roots[i] = object;
		cr_assert_eq(cq_gc_add(object, look_at, arg, NULL), 0);
	}
	forget();
}

IN_BOTH(argument_lives_as_long_as_its_cleanup_may_run)
{
	attach_with_args(true);
	collect();
	overwrite(48);
	drop_roots();
	collect();
	cr_assert(most(ran, OBJECTS));
	cr_assert_eq(intact, ran);
}

Test(gc, argument_lives_until_its_cleanup_has_run_behind_a_worker_that_stands_still)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1 });
	stop_the_worker();
	attach_with_args(false);
	for (int i = 0; i < 2; i++) {
		forget();
		cq_gc_collect();
		overwrite(48);
	}
	gate_open(&go_on);
	collect();
	cr_assert(most(ran, OBJECTS));
	cr_assert_eq(intact, ran);
}

static void look_at_it_late(void *arg)
{
	stand_still(NULL);
	look_at(arg);
}

/* On a worker of which the collector doesn't know. */
Test(gc, argument_lives_while_its_cleanup_runs)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1 });
	for (int i = 0; i < FEW; i++) {
		char *arg = GC_MALLOC_ATOMIC(48);

		strcpy(arg, "still here");
		cr_assert_eq(cq_gc_add(GC_MALLOC(48), look_at_it_late, arg, NULL), 0);
	}
	forget();
	cq_gc_collect();
	gate_wait(&stands);
	for (int i = 0; i < 3; i++) {
		forget();
		GC_gcollect();
		overwrite(48);
	}
	gate_open(&go_on);
	collect();
	cr_assert_gt(ran, 0);
	cr_assert_eq(intact, ran);
}

/* Each argument has a cleanup of its own, which says that it died. */
static APART void attach_with_args_that_die(bool stop)
{
	for (int i = 0; i < OBJECTS; i++) {
		void *object = GC_MALLOC(48), *arg = GC_MALLOC(48);
		cq_gc_handle_t h;

		cr_assert_eq(cq_gc_add(object, count, arg, &h), 0);
		cr_assert_eq(cq_gc_add(arg, count_beside, NULL, NULL), 0);
		if (stop)
			cr_assert(cq_gc_stop(h));
		GC_reachable_here(object);
	}
	forget();
}

IN_BOTH(argument_of_a_stopped_cleanup_may_die)
{
	attach_with_args_that_die(true);
	collect();
	cr_assert(most(ran_beside, OBJECTS));
	cr_assert_eq(ran, 0);
}

IN_BOTH(argument_may_die_when_its_cleanup_has_run)
{
	attach_with_args_that_die(false);
	collect();
	collect();
	cr_assert(most(ran, OBJECTS));
	cr_assert(most(ran_beside, OBJECTS));
}

/* ------------------------------------------------- when what is dead is handed over */

/* The collector is only asked to collect: nobody calls the library after the last add. */
Test(gc, nothing_waits_for_a_call)
{
	open_queue();
	for (unsigned round = 1; round <= 5; round++) {
		attach_dead(OBJECTS, count, NULL);
		GC_gcollect();
		forget();
		GC_gcollect();
		AWAIT(most(ran, round * OBJECTS));
	}
}

/* No collection comes before they are all dead. */
static void attach_dead_at_once(unsigned n)
{
	GC_disable();
	attach_dead(n, count, NULL);
	GC_enable();
	forget();
}

Test(gc, in_place_nothing_runs_in_the_collector_but_in_the_next_call)
{
	open_in_place();
	attach_dead_at_once(OBJECTS);
	GC_gcollect();
	cr_assert_eq(ran, 0);
	cr_assert_eq(cq_gc_add(GC_MALLOC(16), count_beside, NULL, NULL), 0);
	cr_assert(most(ran, OBJECTS));
}

static void drop_and_collect(void *unused)
{
	(void)unused;
	drop_roots();
	forget();
	GC_gcollect();
}

/* Of the same table, and before it there. */
Test(gc, what_dies_while_its_table_is_looked_through_is_not_forgotten)
{
	open_in_place();
	attach_alive(OBJECTS, count, NULL);
	attach_dead(FEW, drop_and_collect, NULL);
	forget();
	GC_gcollect();
	cq_gc_poll();
	cr_assert(most(ran, OBJECTS));
}

Test(gc, poll_and_collect_return_how_many)
{
	unsigned before;

	open_in_place();
	cr_assert_eq(cq_gc_poll(), 0);
	attach_dead_at_once(OBJECTS);
	GC_gcollect();
	cr_assert(most(cq_gc_poll(), OBJECTS));
	before = ran;
	attach_dead_at_once(OBJECTS);
	cr_assert(most(cq_gc_collect(), OBJECTS));
	cr_assert_gt(ran, before);
}

static GC_on_collection_event_proc next_handler;

static void GC_CALLBACK outer(GC_EventType event)
{
	errno = 4711;
	next_handler(event);
	CHECK(errno == 4711);
}

IN_BOTH(errno_is_kept_by_each_call_and_by_the_handler)
{
	cq_gc_handle_t h;
	void *object = GC_MALLOC(16);

	next_handler = GC_get_on_collection_event();
	GC_set_on_collection_event(outer);
	errno = 4711;
	cr_assert_eq(cq_gc_add(NULL, count, NULL, NULL), EINVAL);
	cr_assert_eq(cq_gc_add(object, count, NULL, &h), 0);
	cr_assert(cq_gc_stop(h));
	attach_dead(OBJECTS, count, NULL);
	cq_gc_poll();
	cr_assert_eq(errno, 4711);
	GC_gcollect();
	errno = 4711;
	cq_gc_poll();
	cq_gc_collect();
	CHECK(cq_gc_relieve(CQ_FOREVER) != EINVAL);
	cq_gc_close();
	cr_assert_eq(errno, 4711);
	GC_reachable_here(object);
}

/* ---------------------------------------------------------------- no memory, no room */

static atomic_bool refusing;

static bool refuses(void)
{
	return refusing;
}

/* Nobody calls the library after the refusal has ended. */
Test(gc, without_memory_a_cleanup_is_late_and_not_lost)
{
	static test_alloc_t mem;

	test_alloc_init(&mem);
	mem.fails = refuses;
	open_with((cq_cleanup_config_t){ .allocator = &mem.allocator }, (cq_pool_config_t){ 0 });
	attach_dead(4 * OBJECTS, count, NULL);
	refusing = true;
	forget();
	GC_gcollect();
	AWAIT(counts().late > 0);
	cr_assert_lt(ran, 4 * OBJECTS);
	refusing = false;
	AWAIT(most(ran, 4 * OBJECTS));
}

Test(gc, without_room_a_cleanup_is_late_and_not_lost)
{
	open_with((cq_cleanup_config_t){ .max_waiting = CQ_MAX_WAITING_MIN },
	    (cq_pool_config_t){ .workers_max = 1 });
	stop_the_worker();
	attach_dead(OBJECTS, count, NULL);
	forget();
	GC_gcollect();
	AWAIT(counts().late > 0);
	cr_assert_eq(ran, 0);
	cq_gc_collect(); /* and so it does not by who comes to see */
	cr_assert_eq(ran, 0);
	gate_open(&go_on);
	AWAIT(most(ran, OBJECTS));
}

/* ----------------------------------------------------------------------- relieve */

static void close_it(void *fd)
{
	close((int)(intptr_t)fd);
	ran++;
}

/* A file that nobody closes: its object dies with its last use. */
static APART void open_a_file(unsigned *reliefs)
{
	int fd;

	while ((fd = open("/dev/null", O_RDONLY)) < 0) {
		cr_assert_eq(errno, EMFILE);
		cr_assert_eq(cq_gc_relieve(UINT64_C(10000000000)), 0);
		++*reliefs;
	}
	cr_assert_eq(cq_gc_add(GC_MALLOC(64), close_it, (void *)(intptr_t)fd, NULL), 0);
}

IN_BOTH(relief_comes_when_descriptors_run_out_before_memory_does)
{
	struct rlimit limit = { 64, 64 };
	unsigned reliefs = 0;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	for (int i = 0; i < OBJECTS; i++)
		open_a_file(&reliefs);
	cr_assert_gt(reliefs, OBJECTS / 64);
}

Test(gc, relief_says_what_it_found)
{
	open_with((cq_cleanup_config_t){ 0 }, (cq_pool_config_t){ .workers_max = 1 });
	cr_assert_eq(cq_gc_relieve(CQ_FOREVER), ENOENT);
	stop_the_worker();
	attach_dead(OBJECTS, count, NULL);
	forget();
	cr_assert_eq(cq_gc_relieve(1000000), ETIMEDOUT);
	cr_assert_eq(ran, 0);
	gate_open(&go_on);
	cr_assert_eq(cq_gc_relieve(CQ_FOREVER), 0); /* some were on their way */
	cr_assert(most(ran, OBJECTS));
}

/* Though the helper is faster than the call, and fills what room there is. */
Test(gc, relief_runs_what_had_to_wait_for_room)
{
	open_with((cq_cleanup_config_t){ .max_waiting = CQ_MAX_WAITING_MIN }, (cq_pool_config_t){ .workers_max = 1 });
	attach_dead(OBJECTS, count, NULL);
	forget();
	cr_assert_eq(cq_gc_relieve(CQ_FOREVER), 0);
	cr_assert(most(ran, OBJECTS));
}

static atomic_int said;

static void relieve(void *unused)
{
	(void)unused;
	said = cq_gc_relieve(CQ_FOREVER);
	ran++;
}

/* On a worker of which the collector doesn't know, so it must not even collect. */
IN_BOTH(relief_is_not_for_a_cleanup)
{
	attach_dead(FEW, relieve, NULL);
	collect();
	cr_assert_gt(ran, 0);
	cr_assert_eq(said, EDEADLK);
}

/* ------------------------------------------------------------------ close and counts */

IN_BOTH(close_runs_what_is_attached_and_says_how_many)
{
	cq_gc_handle_t h;
	void *object = GC_MALLOC(16);

	attach_alive(OBJECTS, count, NULL);
	cr_assert_eq(cq_gc_add(object, count, NULL, &h), 0);
	cr_assert_eq(cq_gc_close(), OBJECTS + 1);
	if (queue != NULL)
		cr_assert_eq(cq_cleanup_drain(queue, CQ_FOREVER), 0);
	cr_assert_eq(ran, OBJECTS + 1);
	cr_assert_not(cq_gc_stop(h));
	drop_roots();
	GC_gcollect();
	cr_assert_eq(ran, OBJECTS + 1);
	cr_assert_eq(cq_gc_close(), 0);
	GC_reachable_here(object);
}

Test(gc, close_waits_for_room)
{
	open_with((cq_cleanup_config_t){ .max_waiting = CQ_MAX_WAITING_MIN }, (cq_pool_config_t){ 0 });
	attach_alive(OBJECTS, count, NULL);
	cr_assert_eq(cq_gc_close(), OBJECTS);
	cr_assert_eq(cq_cleanup_drain(queue, CQ_FOREVER), 0);
	cr_assert_eq(ran, OBJECTS);
}

Test(gc, close_runs_in_place_what_cannot_be_enqueued)
{
	static test_alloc_t mem;

	test_alloc_init(&mem);
	mem.fails = refuses;
	open_with((cq_cleanup_config_t){ .allocator = &mem.allocator }, (cq_pool_config_t){ 0 });
	attach_alive(OBJECTS, count, NULL);
	refusing = true;
	cr_assert_eq(cq_gc_close(), OBJECTS);
	refusing = false;
	cr_assert_eq(cq_cleanup_drain(queue, CQ_FOREVER), 0);
	cr_assert_eq(ran, OBJECTS);
}

IN_BOTH(counts_add_up)
{
	cq_gc_counts_t c;

	attach_alive(OBJECTS, count, NULL);
	attach_and_stop();
	collect();
	c = counts();
	cr_assert_eq(c.added, 3 * OBJECTS);
	cr_assert_eq(c.stopped, OBJECTS);
	cr_assert_eq(c.run, ran_beside);
	cr_assert_eq(c.late, 0);
	cr_assert_eq(c.missed, 0);
	cr_assert_gt(c.pass_ns, 0);
	drop_roots();
}

/* ----------------------------------------------------------------------- memory */

static void **many;
static void *volatile kept; /* or the store could be left out */

/* What a table costs once it is full; a few are not. */
static void what_is_attached_takes(size_t n, void *arg)
{
	many = GC_MALLOC_UNCOLLECTABLE(n * sizeof(*many));
	for (size_t i = 0; i < n; i++) {
		many[i] = GC_MALLOC(16);
		cr_assert_eq(cq_gc_add(many[i], count, arg, NULL), 0);
	}
	cr_assert_leq(counts().bytes, 32 * n);
	cr_assert_geq(counts().bytes, 8 * n);
	memset(many, 0, n * sizeof(*many));
}

Test(gc, at_most_32_bytes_a_cleanup)
{
	open_in_place();
	what_is_attached_takes(100 * OBJECTS, NULL);
}

Test(gc, at_most_32_bytes_a_cleanup_with_an_argument_in_collected_memory)
{
	open_in_place();
	kept = GC_MALLOC(16);
	what_is_attached_takes(100 * OBJECTS, kept);
}

/* In each round a few live on, in tables that are nearly empty: those are used again. */
IN_BOTH(tables_that_are_half_empty_are_used_again)
{
	enum { ROUNDS = 20, EACH = 20 * OBJECTS, OF = 16 };
	size_t alive = 0;

	many = GC_MALLOC_UNCOLLECTABLE(ROUNDS * EACH / OF * sizeof(*many));
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < EACH; i++) {
			void *object = GC_MALLOC(16);

			if (i % OF == 0)
				many[alive++] = object;
			cr_assert_eq(cq_gc_add(object, count, NULL, NULL), 0);
		}
		collect();
	}
	cr_assert_leq(counts().bytes, 64 * alive + 2 * 32 * EACH);
	cr_assert_eq(counts().added, ROUNDS * EACH);
	cr_assert_eq(counts().run, ran);
	memset(many, 0, alive * sizeof(*many));
}

static int numbers[4 * MORE / 8];
static bool had[4 * MORE / 8];

static void count_arg(void *number)
{
	int i = *(int *)number;

	CHECK(!had[i]);
	had[i] = true;
	ran++;
}

static void *number(int i)
{
	numbers[i] = i;
	return &numbers[i];
}

static void *collected_number(int i)
{
	int *p = GC_MALLOC_ATOMIC(sizeof(*p));

	*p = i;
	return p;
}

/* Every eighth lives. Those with a handle, every 64th of the first ones, stay where they are. */
static void tables_are_merged(void *(*arg)(int i))
{
	enum { ALL = 4 * MORE, HELD = OBJECTS / 10 };
	uint64_t before;

	many = GC_MALLOC_UNCOLLECTABLE(ALL * sizeof(*many));
	for (int i = 0; i < ALL; i++) {
		cq_gc_handle_t *h = i % 64 == 0 && i / 64 < HELD ? &handles[i / 64] : NULL;

		many[i] = GC_MALLOC(16);
		cr_assert_eq(cq_gc_add(many[i], h != NULL ? count_beside : i % 8 == 0 ? count_arg : count,
		    arg(i / 8), h), 0);
	}
	before = counts().bytes;
	for (int i = 0; i < ALL; i++)
		if (i % 8 != 0)
			many[i] = NULL;
	for (int i = 0; i < 6; i++)
		collect();
	cr_assert_leq(counts().bytes, before / 2);
	for (int i = 0; i < HELD; i++)
		cr_assert(cq_gc_stop(handles[i]));
	memset(many, 0, ALL * sizeof(*many));
	collect();
	cr_assert_eq(ran_beside, 0);
	cr_assert(most(ran, ALL - HELD));
}

IN_BOTH(tables_that_are_half_empty_are_merged)
{
	tables_are_merged(number);
}

IN_BOTH(tables_that_are_half_empty_are_merged_and_collected_arguments_with_them)
{
	tables_are_merged(collected_number);
}

IN_BOTH(tables_that_are_empty_go_back_but_for_their_heads)
{
	uint64_t before, most_of_all;

	attach_dead(1, count, NULL);
	before = counts().bytes;
	for (int round = 0; round < 3; round++) {
		many = GC_MALLOC(100 * OBJECTS * sizeof(*many));
		for (int i = 0; i < 100 * OBJECTS; i++) {
			many[i] = GC_MALLOC(16);
			cr_assert_eq(cq_gc_add(many[i], count, i % 2 ? roots : NULL, NULL), 0);
		}
		most_of_all = counts().bytes;
		memset(many, 0, 100 * OBJECTS * sizeof(*many));
		many = NULL;
		for (int i = 0; i < 3; i++)
			collect();
		cr_assert_leq(counts().bytes, most_of_all / 4 + 2 * before);
	}
	cr_assert_eq(counts().added, 300 * OBJECTS + 1);
	cr_assert(most(ran, counts().added));
}

static void *attach_few(void *unused)
{
	(void)unused;
	attach_dead(2, count, NULL);
	attach_dead(1, count, roots);
	return NULL;
}

Test(gc, threads_that_end_hand_their_tables_on)
{
	uint64_t before;

	open_queue();
	end(begin(attach_few, NULL));
	before = counts().bytes;
	for (int i = 0; i < 2 * OBJECTS; i++)
		end(begin(attach_few, NULL));
	cr_assert_leq(counts().bytes, 4 * before);
	collect();
	cr_assert(most(ran, 3 * (2 * OBJECTS + 1)));
}

/* ------------------------------------------------------- the collector's other modes */

static GC_hidden_pointer *weak;

/* Objects that live, with arguments that only their cleanups know. */
static APART void attach_with_weak_args(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		char *arg = GC_MALLOC(48);

		strcpy(arg, "still here");
		GC_PTR_STORE_AND_DIRTY(&roots[i], GC_MALLOC(48));
		weak[i] = GC_HIDE_POINTER(arg);
		CHECK(GC_general_register_disappearing_link((void **)&weak[i], arg) == GC_SUCCESS);
		cr_assert_eq(cq_gc_add(roots[i], look_at, arg, NULL), 0);
	}
	forget();
}

/* Partial collections, which look only at what was written to since: where the program says it, if `manually`. */
static void arguments_are_found_by_partial_collections(bool manually)
{
	unsigned lost = 0;
	GC_word n;

	GC_set_manual_vdb_allowed(manually);
	GC_set_full_freq(10000);
	begin_collector();
	GC_enable_incremental();
	cr_assert(GC_is_incremental_mode());
	open_queue();
	weak = malloc(OBJECTS * sizeof(*weak));
	kept = GC_MALLOC(48);
	cr_assert_eq(cq_gc_add(kept, count, roots, NULL), 0); /* there is a table, and it is old */
	for (int i = 0; i < 3; i++)
		GC_gcollect();
	attach_with_weak_args();
	for (n = GC_get_gc_no(); GC_get_gc_no() < n + 3;)
		GC_MALLOC(64);
	overwrite(48);
	for (int i = 0; i < OBJECTS; i++)
		lost += weak[i] == 0;
	cr_assert_eq(lost, 0);
	cr_assert_eq(ran, 0);
	for (int i = 0; i < OBJECTS; i++)
		GC_PTR_STORE_AND_DIRTY(&roots[i], NULL);
	collect();
	cr_assert(most(ran, OBJECTS));
	cr_assert_eq(intact, ran);
}

Test(gc, argument_is_found_where_dirty_bits_are_manual)
{
	arguments_are_found_by_partial_collections(true);
}

Test(gc, argument_is_found_where_dirty_bits_are_the_systems)
{
	arguments_are_found_by_partial_collections(false);
}

struct box {
	uintptr_t written;
	char rest[40];
};

static void write_to(void *box)
{
	((struct box *)box)->written = 0x600d;
	ran++;
}

static APART void attach_writers(void)
{
	for (int i = 0; i < OBJECTS; i++)
		cr_assert_eq(cq_gc_add(GC_MALLOC(48), write_to, GC_MALLOC(sizeof(struct box)), NULL), 0);
	forget();
}

/* Pages are protected in that mode, and a write to one is a signal, which workers have not blocked. */
static void cleanups_write(cq_pool_config_t pool)
{
	setenv("GC_USE_GETWRITEWATCH", "0", 1);
	begin_collector();
	GC_enable_incremental();
	open_with((cq_cleanup_config_t){ 0 }, pool);
	for (unsigned round = 1; round <= 5; round++) {
		attach_writers();
		collect();
		cr_assert(most(ran, round * OBJECTS));
	}
}

Test(gc, cleanup_writes_to_its_argument_in_incremental_mode)
{
	cleanups_write((cq_pool_config_t){ 0 });
}

Test(gc, cleanup_writes_in_incremental_mode_on_a_worker_that_the_collector_knows)
{
	cleanups_write((cq_pool_config_t){ .worker_start = cq_gc_worker_start, .worker_end = cq_gc_worker_end });
}

IN_BOTH(with_pointers_to_the_begin_alone_a_live_object_waits_too)
{
	attach_alive(OBJECTS, count, NULL);
	collect();
	cr_assert_eq(ran, 0);
	drop_roots();
	collect();
	cr_assert(most(ran, OBJECTS));
}

Test(gc, no_interior_pointers)
{
	GC_set_all_interior_pointers(0);
	open_queue();
	with_pointers_to_the_begin_alone_a_live_object_waits_too();
}

/* It reports what has leaked, and keeps it: cleanups are late, not early. */
Test(gc, where_leaks_are_sought_no_cleanup_is_early)
{
	int null = open("/dev/null", O_WRONLY);

	dup2(null, 2);
	GC_set_find_leak(1);
	open_queue();
	attach_dead(OBJECTS, count, NULL);
	attach_alive(OBJECTS, count_beside, NULL);
	for (int i = 0; i < 3; i++) {
		collect();
		overwrite(48);
	}
	cr_assert_eq(ran_beside, 0);
	drop_roots();
}

/* ------------------------------------------------------------------- event handlers */

static atomic_uint events;

static void GC_CALLBACK hosts(GC_EventType event)
{
	events += event == GC_EVENT_RECLAIM_END;
}

Test(gc, handler_that_was_there_is_called)
{
	begin_collector();
	GC_set_on_collection_event(hosts);
	open_queue();
	attach_dead(OBJECTS, count, NULL);
	collect();
	cr_assert_geq(events, 3);
	cr_assert(most(ran, OBJECTS));
	cr_assert_eq(counts().missed, 0);
	cq_gc_close();
	cr_assert_eq(GC_get_on_collection_event(), hosts);
}

static void GC_CALLBACK hosts_and_next(GC_EventType event)
{
	hosts(event);
	next_handler(event);
}

Test(gc, handler_that_comes_later_calls_the_one_that_it_found)
{
	open_queue();
	next_handler = GC_get_on_collection_event();
	GC_set_on_collection_event(hosts_and_next);
	attach_dead(OBJECTS, count, NULL);
	collect();
	cr_assert_geq(events, 3);
	cr_assert(most(ran, OBJECTS));
	cr_assert_eq(counts().missed, 0);
	cq_gc_close();
	cr_assert_eq(GC_get_on_collection_event(), hosts_and_next); /* not ours to take away */
}

Test(gc, collections_without_the_handler_are_counted_as_missed)
{
	open_queue();
	next_handler = GC_get_on_collection_event();
	collect();
	cr_assert_eq(counts().missed, 0);
	GC_set_on_collection_event(hosts);
	GC_gcollect();
	GC_gcollect();
	GC_set_on_collection_event(next_handler);
	cr_assert_eq(counts().missed, 2);
	attach_dead(OBJECTS, count, NULL);
	collect();
	cr_assert_eq(counts().missed, 2);
	cr_assert(most(ran, OBJECTS));
}

/* In the place of what has died: large objects, and living ones of another size, which are attached to. */
static void take_places(void)
{
	many = GC_MALLOC_UNCOLLECTABLE(MORE * sizeof(*many));
	for (int i = 0; i < MORE; i++) {
		many[i] = GC_MALLOC(80);
		cr_assert_eq(cq_gc_add(many[i], note, &many_over[i], NULL), 0);
	}
	for (int i = 0; i < OBJECTS / 2; i++) {
		roots[i] = GC_MALLOC(20 * 4096);
		memset(roots[i], 0xee, 20 * 4096);
	}
}

Test(gc, what_died_in_a_missed_collection_is_nothing_to_trip_over)
{
	GC_on_collection_event_proc missed;

	open_queue();
	attach_dead_at_once(4 * MORE);
	missed = GC_get_on_collection_event();
	GC_set_on_collection_event(NULL);
	GC_gcollect();
	take_places();
	GC_set_on_collection_event(missed);
	collect();
	cr_assert(counts().missed > 0);
	cr_assert_gt(ran, 0);
	every_entry_is_settled_once();
}

/* --------------------------------------------------------- what finalizers reach */

/* What a finalizable parent points to lives until that was finalized, in each of the collector's orders. */
struct child {
	atomic_bool finalized, ran;
};

static struct child children[OBJECTS];

static void child_died(void *child)
{
	CHECK(((struct child *)child)->finalized);
	((struct child *)child)->ran = true;
	ran++;
}

/* Looks at its child, which is intact. */
static void GC_CALLBACK parent_died(void *parent, void *child)
{
	char **p = parent;

	CHECK(strcmp(p[1], "still here") == 0);
	CHECK(!((struct child *)child)->ran);
	((struct child *)child)->finalized = true;
	finalized++;
}

/* Without Java's order the last two ways say nothing of what parents reach. */
static APART void attach_to_children(unsigned ways)
{
	for (unsigned i = 0; i < OBJECTS; i++) {
		char **parent = GC_MALLOC(48);

		parent[1] = GC_MALLOC(48);
		strcpy(parent[1], "still here");
		cr_assert_eq(cq_gc_add(parent[1], child_died, &children[i], NULL), 0);
		switch (i % ways) {
		case 0:
			GC_register_finalizer(parent, parent_died, &children[i], NULL, NULL);
			break;
		case 1:
			GC_register_finalizer_ignore_self(parent, parent_died, &children[i], NULL, NULL);
			break;
		case 2:
			GC_register_finalizer_no_order(parent, parent_died, &children[i], NULL, NULL);
			break;
		default:
			GC_register_finalizer_unreachable(parent, parent_died, &children[i], NULL, NULL);
		}
	}
	forget();
}

static void finalizers_come_first(bool java)
{
	begin_collector();
	GC_set_java_finalization(java);
	open_queue();
	attach_to_children(java ? 4 : 2);
	for (int i = 0; i < 3; i++) {
		collect();
		overwrite(48);
	}
	cr_assert(most(finalized, OBJECTS));
	cr_assert(most(ran, OBJECTS));
	for (int i = 0; i < OBJECTS; i++)
		children[i].finalized = true; /* for close */
}

Test(gc, what_a_finalizable_parent_reaches_is_not_dead)
{
	finalizers_come_first(false);
}

Test(gc, what_a_finalizable_parent_reaches_is_not_dead_in_javas_order)
{
	finalizers_come_first(true);
}

/* Built into the collector or not. */
GC_API void *GC_CALL GC_finalized_malloc(size_t bytes, const struct GC_finalizer_closure *closure)
    __attribute__((weak));
GC_ToggleRefStatus GC_CALLBACK toggle(void *object);
GC_API int GC_CALL GC_toggleref_add(void *object, int strong) __attribute__((weak));

static void GC_CALLBACK disclaimed(void *parent, void *unused)
{
	(void)unused;
	parent_died(parent, ((void **)parent)[2]);
}

static APART void attach_to_children_of_disclaimed(void)
{
	static const struct GC_finalizer_closure closure = { disclaimed, NULL };

	for (unsigned i = 0; i < OBJECTS; i++) {
		void **parent = GC_finalized_malloc(40, &closure);

		parent[1] = GC_MALLOC(48);
		parent[2] = &children[i];
		strcpy(parent[1], "still here");
		cr_assert_eq(cq_gc_add(parent[1], child_died, &children[i], NULL), 0);
		cr_assert_eq(cq_gc_add(parent, count_beside, NULL, NULL), 0);
	}
	forget();
}

Test(gc, what_a_disclaimed_parent_reaches_is_not_dead)
{
	if (GC_finalized_malloc == NULL)
		cr_skip_test("the collector has none");
	open_queue();
	GC_init_finalized_malloc();
	attach_to_children_of_disclaimed();
	for (int i = 0; i < 3; i++) {
		collect();
		overwrite(48);
	}
	cr_assert(most(ran_beside, OBJECTS));
	cr_assert(most(ran, OBJECTS));
	for (int i = 0; i < OBJECTS; i++)
		children[i].finalized = true; /* for close */
}

static GC_ToggleRefStatus toggled_to = GC_TOGGLE_REF_STRONG;

GC_ToggleRefStatus GC_CALLBACK toggle(void *object)
{
	(void)object;
	return toggled_to;
}

static APART void attach_to_toggled(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		void *object = GC_MALLOC(48);

		cr_assert_eq(GC_toggleref_add(object, 1), GC_SUCCESS);
		cr_assert_eq(cq_gc_add(object, count, NULL, NULL), 0);
	}
	forget();
}

Test(gc, what_a_toggle_holds_is_not_dead)
{
	if (GC_toggleref_add == NULL)
		cr_skip_test("the collector has none");
	open_queue();
	GC_set_toggleref_func(toggle);
	attach_to_toggled();
	collect();
	cr_assert_eq(ran, 0);
	toggled_to = GC_TOGGLE_REF_DROP;
	collect();
	collect();
	cr_assert(most(ran, OBJECTS));
}
