/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stress_gc - the collector add-on under threads, in rounds of half a second, each a process of its own with
 * its own collector. The rounds go through the ways to collect: stop the world, with collections that are given up;
 * incremental; with a time limit; with manual dirty bits. By chance: a queue, one with a bound, one that is short of
 * memory, or in place; workers that the collector knows; Java's order of finalizers; only pointers to the begin of
 * objects.
 *
 * Threads attach to objects of all kinds, drop them, stop cleanups, their own and others', new and long over,
 * collect, and end. In half of the rounds one forks now and then, and the child does the same for itself.
 *
 * No cleanup is early: the collector has cleared a weak link to its object, and nobody holds that. None is lost or
 * doubled: each has a record, which goes from attached to ran or stopped, once, and none is left at the end.
 *
 * AddressSanitizer bears the collector, if nobody forks. ThreadSanitizer doesn't: it holds a signal back until the
 * thread's next call, and the collector, which stops threads by one, waits for who only computes. Nor does memcheck:
 * all that a conservative collector looks at and nobody has written is an error to it.
 *
 * stress_gc [SECONDS]. Environment: CQ_STRESS_SECONDS (2), CQ_TEST_SEED, CQ_TEST_LIMIT (the seconds after which a
 * round hangs, 30), CQ_NO_FORKS. Status: 0; or 1, and the seed of the round that failed is printed.
 */
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "objects.h"

#include <gc/gc_inline.h>
#include <gc/gc_typed.h>

enum {
	THREADS = 3,
	LIVES = 4,		/* of each: one ends, and the next begins */
	SLOTS = 1000,
	RECORDS = 1 << 17,	/* of each, in a round */
	ROUND_NS = 500000000
};

enum { ATTACHED = 1, STOPPED, RAN };

struct record {
	GC_hidden_pointer weak;
	atomic_uchar state;
	atomic_bool held;
	uint8_t kind;
	cq_gc_handle_t handle;
};

static struct round {
	unsigned number;
	enum { STOPS_THE_WORLD, INCREMENTAL, LIMITED, MANUAL, WAYS } way;
	enum { IN_PLACE, QUEUE, BOUNDED, SHORT, QUEUES } kind;
	bool known, java, begins_only, forks;
	uint64_t end;
} round_;
static struct round *const r = &round_;

static struct record *records[THREADS];	/* not scanned */
static atomic_uint attached[THREADS];
static void **slots[THREADS];
static bool in_child, at_the_end;

/* Of all rounds; the processes share it. */
static struct sum {
	atomic_ullong added, ran, stopped, late, collections, children;
} *sum;

static test_alloc_t memory;	/* of a queue that is short of it */
static atomic_bool refusing;

/* Three of four times. */
static bool refuses(void)
{
	static atomic_uint n;

	return refusing && n++ % 4 != 0;
}

/* ---------------------------------------------------------------- cleanups */

static void settle(void *arg)
{
	struct record *rec = arg;
	unsigned char was = atomic_exchange(&rec->state, RAN);

	CHECK(was == ATTACHED);
	/* In a child the others, which hold them, are gone. */
	CHECK(at_the_end || in_child || !rec->held);
	CHECK(at_the_end || rec->weak == 0);
	ran++;
	if (r->known && rec->kind % 4 == 0)
		GC_MALLOC(rec->kind + 1);
}

static void stop_it(struct record *rec)
{
	unsigned char was;

	if (!cq_gc_stop(rec->handle))
		return;
	was = atomic_exchange(&rec->state, STOPPED);
	CHECK(was == ATTACHED);
}

/* ----------------------------------------------------------------- objects */

enum { KINDS = 12 };

static void GC_CALLBACK ignore(void *object, void *unused)
{
	(void)object;
	(void)unused;
}

static void register_by(uint64_t way, void *parent)
{
	static void GC_CALL (*const ways[])(void *, GC_finalization_proc, void *, GC_finalization_proc *, void **) = {
		GC_register_finalizer, GC_register_finalizer_ignore_self, GC_register_finalizer_no_order,
		GC_register_finalizer_unreachable
	};

	/* The last two say nothing of what parents reach, but in Java's order. */
	ways[way % (r->java ? 4 : 2)](parent, ignore, NULL, NULL, NULL);
}

/* What a finalizable parent reaches. */
static void *make_child(rng_t *rng, size_t bytes)
{
	void **parent = GC_MALLOC(32), *object = GC_MALLOC(bytes);

	GC_PTR_STORE_AND_DIRTY(&parent[rng_below(rng, 4)], object);
	register_by(rng_next(rng), parent);
	return object;
}

static void *make_weakly_linked(size_t bytes)
{
	GC_hidden_pointer *link = GC_MALLOC_ATOMIC(16);
	void *object = GC_MALLOC(bytes);

	*link = GC_HIDE_POINTER(object);
	GC_general_register_disappearing_link((void **)link, object);
	return object;
}

static void *make_typed(void)
{
	static const GC_word bits = 5;

	return GC_malloc_explicitly_typed(3 * sizeof(void *), GC_make_descriptor(&bits, 3));
}

/* From a list of many. */
static void *make_of_many(void **list, size_t bytes)
{
	void *object;

	if (*list == NULL)
		*list = GC_malloc_many((bytes + 15) / 16 * 16);
	if ((object = *list) != NULL) {
		*list = GC_NEXT(object);
		GC_NEXT(object) = NULL;
	}
	return object;
}

static void *make_object(rng_t *rng, uint8_t kind, void **list)
{
	size_t bytes = 16 + rng_below(rng, 200);
	bool now_and_then = rng_below(rng, 20) == 0;

	switch (kind) {
	case 0:
		return GC_MALLOC_ATOMIC(bytes);
	case 1:
		return now_and_then ? GC_MALLOC(5000 + rng_below(rng, 60000)) : GC_MALLOC(bytes);
	case 2:
		return now_and_then ? GC_MALLOC_ATOMIC_IGNORE_OFF_PAGE(200000) : GC_MALLOC(bytes);
	case 3:
		return make_of_many(list, 64);
	case 4:
		return GC_debug_malloc(bytes, __FILE__, __LINE__);
	case 5:
		return make_child(rng, bytes);
	case 6:
		return make_weakly_linked(bytes);
	case 7:
		return GC_memalign(64, bytes);
	case 8:
		return make_typed();
	case 9:
		return GC_strdup("collected, too, and no pointers in it");
	default:
		return GC_MALLOC(bytes);
	}
}

/* ----------------------------------------------------------------- threads */

static void drop(struct record *held[SLOTS], unsigned t, unsigned s)
{
	if (held[s] == NULL)
		return;
	held[s]->held = false;
	GC_PTR_STORE_AND_DIRTY(&slots[t][s], NULL);
	held[s] = NULL;
}

static struct record *next_record(unsigned t)
{
	return attached[t] < RECORDS ? &records[t][attached[t]] : NULL;
}

static void attach(struct record *held[SLOTS], unsigned t, unsigned s, rng_t *rng, void **list)
{
	struct record *rec = next_record(t);
	char *object;

	if (rec == NULL)
		return;
	rec->kind = (uint8_t)rng_below(rng, KINDS);
	if ((object = make_object(rng, rec->kind, list)) == NULL)
		return;
	GC_PTR_STORE_AND_DIRTY(&slots[t][s], object);
	held[s] = rec;
	rec->weak = GC_HIDE_POINTER(GC_base(object));
	CHECK(GC_general_register_disappearing_link((void **)&rec->weak, GC_base(object)) == GC_SUCCESS);
	rec->held = true;
	rec->state = ATTACHED;
	CHECK(cq_gc_add(object + (r->begins_only ? 0 : rng_below(rng, 8)), settle, rec, &rec->handle) == 0);
	GC_reachable_here(object);
	attached[t]++;
}

static int GC_CALLBACK give_up_now_and_then(void)
{
	static atomic_uint n;

	return n++ % 7 == 0;
}

static void collect_somehow(rng_t *rng)
{
	if (rng_below(rng, 1000) == 0)
		GC_try_to_collect(give_up_now_and_then);
	if (rng_below(rng, 200) == 0)
		GC_collect_a_little();
	if (rng_below(rng, 5000) == 0)
		cq_gc_collect();
	if (rng_below(rng, 100) == 0)
		cq_gc_poll();
}

static void stop_some(rng_t *rng)
{
	unsigned t = (unsigned)rng_below(rng, THREADS), n = attached[t];

	if (n == 0 || rng_below(rng, 4) != 0)
		return;
	if (n > 100 && rng_below(rng, 2) == 0) /* one of the last */
		stop_it(&records[t][n - 1 - rng_below(rng, 100)]);
	else
		stop_it(&records[t][rng_below(rng, n)]);
}

static void count_child(void *n)
{
	++*(atomic_uint *)n;
}

/* Only this thread is there: what it attaches dies and runs, and so does what others held. */
static _Noreturn void be_child(void)
{
	atomic_uint n = 0;

	in_child = true;
	refusing = false;
	for (int t = 0; t < THREADS; t++)
		memset(slots[t], 0, SLOTS * sizeof(*slots[t]));
	attach_dead(OBJECTS, count_child, &n);
	collect();
	AWAIT(n >= OBJECTS - FEW); /* with a bound, some later */
	_exit(0);
}

static void fork_a_child(void)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		alarm(30);
		be_child();
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	sum->children++;
}

struct life {
	unsigned t, number;
};

static void *live(void *arg)
{
	struct life life = *(struct life *)arg;
	unsigned t = life.t;
	rng_t rng = rng_for((r->number * THREADS + t) * LIVES + life.number);
	struct record **held = calloc(SLOTS, sizeof(*held));
	void *list = NULL;

	for (uint64_t end_ = test_now() + ROUND_NS / LIVES; test_now() < end_;) {
		for (int i = 0; i < 100; i++) {
			unsigned s = (unsigned)rng_below(&rng, SLOTS);

			drop(held, t, s);
			attach(held, t, s, &rng, &list);
			stop_some(&rng);
			collect_somehow(&rng);
		}
		if (t == 0 && r->forks && rng_below(&rng, 50) == 0)
			fork_a_child();
	}
	for (unsigned s = 0; s < SLOTS; s++)
		drop(held, t, s);
	free(held);
	return NULL;
}

/* Lives, one after the other, each in a thread of its own. */
static void *lives(void *index)
{
	struct life life = { (unsigned)(uintptr_t)index, 0 };

	for (; life.number < LIVES; life.number++)
		end(begin(live, &life));
	return NULL;
}

/* ------------------------------------------------------------------ rounds */

static void choose(unsigned number)
{
	rng_t rng = rng_for(~number);

	*r = (struct round){ .number = number, .way = number % WAYS, .kind = (unsigned)rng_below(&rng, QUEUES),
		.known = rng_below(&rng, 2), .java = rng_below(&rng, 2), .begins_only = rng_below(&rng, 4) == 0,
		.forks = rng_below(&rng, 2) && test_child_has_threads() };
}

static const char *const ways[] = { "stop the world", "incremental", "with a time limit", "manual dirty bits" };
static const char *const kinds[] = { "in place", "a queue", "a queue with a bound", "a queue short of memory" };

static void open_it(void)
{
	cq_pool_config_t pool = { .workers_max = 2 };

	test_alloc_init(&memory);
	memory.fails = refuses;
	if (r->forks)
		have_no_markers();
	GC_set_all_interior_pointers(!r->begins_only);
	GC_set_java_finalization(r->java);
	GC_set_manual_vdb_allowed(r->way == MANUAL);
	begin_collector();
	if (r->way != STOPS_THE_WORLD) {
		GC_set_full_freq(4);
		GC_enable_incremental();
	}
	if (r->way == LIMITED)
		GC_set_time_limit(1);
	if (r->known) {
		pool.worker_start = cq_gc_worker_start;
		pool.worker_end = cq_gc_worker_end;
	}
	if (r->kind == IN_PLACE)
		open_in_place();
	else
		open_with((cq_cleanup_config_t){ .max_waiting = r->kind == BOUNDED ? 1000 : 0,
			.allocator = r->kind == SHORT ? &memory.allocator : NULL }, pool);
	refusing = r->kind == SHORT;
}

static void settle_up(void)
{
	uint64_t n = 0, stopped = 0;

	for (int t = 0; t < THREADS; t++) {
		n += attached[t];
		for (unsigned i = 0; i < attached[t]; i++) {
			CHECK(records[t][i].state == RAN || records[t][i].state == STOPPED);
			stopped += records[t][i].state == STOPPED;
		}
	}
	CHECK(ran + stopped == n && counts().added == n && counts().stopped == stopped && counts().run == ran);
	CHECK(counts().missed == 0);
	sum->added += n;
	sum->ran += ran;
	sum->stopped += stopped;
	sum->late += counts().late;
	sum->collections += GC_get_gc_no();
}

static void play(void)
{
	open_it();
	for (int t = 0; t < THREADS; t++) {
		records[t] = calloc(RECORDS, sizeof(*records[t]));
		slots[t] = GC_MALLOC_UNCOLLECTABLE(SLOTS * sizeof(*slots[t]));
		CHECK(records[t] != NULL && slots[t] != NULL);
	}
	threads(THREADS, lives);
	refusing = false;
	collect();
	at_the_end = true;
	finish();
	settle_up();
	_exit(0);
}

static bool round_passed(unsigned number)
{
	int status;
	pid_t pid;

	choose(number);
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		play();
	CHECK(waitpid(pid, &status, 0) == pid);
	if (status == 0)
		return true;
	fprintf(stderr, "round %u (%s, %s%s%s%s%s) ended with status 0x%x; CQ_TEST_SEED=0x%" PRIx64 "\n", number,
	    ways[r->way], kinds[r->kind], r->known ? ", known workers" : "", r->java ? ", Java's order" : "",
	    r->begins_only ? ", no interior pointers" : "", r->forks ? ", forks" : "", (unsigned)status, test_seed());
	return false;
}

int main(int argc, char **argv)
{
	uint64_t end_;
	unsigned n = 0;

	test_seed();
	if (argc > 1)
		setenv("CQ_STRESS_SECONDS", argv[1], 1);
	end_ = run_until(2);
	sum = mmap(NULL, sizeof(*sum), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(sum != MAP_FAILED);
	do {
		if (!round_passed(n++))
			return 1;
	} while (test_now() < end_ || n < WAYS);
	printf("stress_gc: %u rounds, %llu collections, %llu children, %llu added, %llu ran, %llu stopped, "
	    "%llu times late\n", n, sum->collections, sum->children, sum->added, sum->ran, sum->stopped, sum->late);
	return 0;
}
