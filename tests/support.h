/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the tests and the stress programs share. Nothing in here sleeps to wait
 * for another thread, and nothing waits for ever: what takes longer than
 * CQ_TEST_LIMIT seconds (30) aborts and says where it was.
 */
#ifndef CQ_TESTS_SUPPORT_H
#define CQ_TESTS_SUPPORT_H

#include <cq/cq.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* An assertion for any thread, hook or fake (Criterion's are for the test's own thread). */
#define CHECK(condition)							\
	((condition) ? (void)0 : check_failed(__FILE__, __LINE__, __func__, #condition))
_Noreturn void check_failed(const char *file, int line, const char *func, const char *condition);

/* ------------------------------------------------------- chance and time */

typedef struct rng {
	uint64_t state;
} rng_t;

uint64_t rng_next(rng_t *r);
uint64_t rng_below(rng_t *r, uint64_t n); /* 0 .. n-1 */

/* CQ_TEST_SEED, or a fresh one; printed on the first call. */
uint64_t test_seed(void);
/* The generator of one of several threads. */
rng_t rng_for(unsigned thread);

/* CLOCK_MONOTONIC, as cq_now; but not when a library under faults has a clock that jumps. */
uint64_t test_now(void);

/* The end of a run (cf. test_now): CQ_STRESS_SECONDS from now, or else `seconds`. */
uint64_t run_until(double seconds);
/* The end of any wait: CQ_TEST_LIMIT from now. */
uint64_t wait_limit(void);

/* Waits for what has no gate. */
#define AWAIT(condition)							\
	do {									\
		uint64_t limit_ = wait_limit();					\
										\
		while (!(condition)) {						\
			CHECK(test_now() < limit_);				\
			turn();							\
		}								\
	} while (0)

/*
 * What a thread that waits busily, or works without end, does now and then: sched_yield. Under
 * AddressSanitizer forks wait for it: see support.c.
 */
void turn(void);

/* Takes up to `max` units, and returns how many. */
static inline uint64_t take_some(cq_workq_t *q, uint64_t max)
{
	uint64_t before = cq_workq_take(q, max);

	return before < max ? before : max;
}

/* ---------------------------------------------------------------- threads */

/* Starts n threads, lets them begin body(arg, 0 .. n-1) at once, and joins them. */
void run_threads(unsigned n, void (*body)(void *arg, unsigned index), void *arg);

extern pid_t test_child; /* of the last fork: 0 in the child, -1 before the first */

/* Forks, with 30 s against a hang; true in the child. What both run must not use Criterion. */
bool test_forked(void);

/* The child came to its _exit(0). */
bool test_child_ended(void);

pthread_t start(void *(*body)(void *arg), void *arg);
void *join(pthread_t thread);

/* May a forked child make threads? With some sanitizers it doesn't get far. False with CQ_NO_FORKS too. */
bool test_child_has_threads(void);

/* Closed until it is opened, once and for all. */
typedef struct gate {
	pthread_mutex_t lock;
	pthread_cond_t opened;
	bool open;
} gate_t;

#define GATE_INITIALIZER { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false }
void gate_open(void *gate); /* takes a gate_t; its type is that of a test_act_fn */
void gate_wait(void *gate);
bool gate_wait_until(gate_t *gate, uint64_t deadline); /* false: it is still closed */

/* Aborts, after dump(), when *progress has stood still for CQ_TEST_LIMIT seconds. */
typedef struct watchdog {
	const atomic_ullong *progress;
	void (*dump)(void);
	gate_t stop;
	pthread_t thread;
} watchdog_t;

void watchdog_start(watchdog_t *w, const atomic_ullong *progress, void (*dump)(void));
void watchdog_stop(watchdog_t *w);

/* -------------------------------------------------------- schedule points */

/* What happens at a point: often the step of "another thread", run right there. */
typedef void test_act_fn(void *ctx);
typedef void test_hook_fn(const char *where, void *ctx);

/* The next thread that passes the point `where` calls act(ctx), once. Up to 16 may wait. */
void at_point(const char *where, test_act_fn *act, void *ctx);

/*
 * Every thread calls hook(where, ctx) at every point, but not at the points
 * within a hook or an act. NULL ends it. The caller keeps ctx until all threads
 * that pass points have ended.
 */
void at_every_point(test_hook_fn *hook, void *ctx);

/* The library, built with -DCQ_POINTS, calls this. */
void cq_point(const char *where);

/* -------------------------------------------------------------- fake park */

/*
 * A park table with a clock that only the test moves. park calls `script` when
 * there is one, in place of what other threads would do, and returns (that is:
 * early, unless the script granted the permit or moved the clock). Without a
 * script it blocks until granted, fake_advance or fake_disturb.
 */
typedef struct fake_park {
	cq_park_ops_t ops;	/* for the set or the pool */
	test_act_fn *script;
	void *ctx;
	pthread_mutex_t *free_lock; /* unpark checks that nobody holds it */
	gate_t *leave;		/* whoever was blocked waits for it before it leaves park */
	uint64_t deadline;	/* of the last park */
	void *host;		/* parker->host in the last park */
	unsigned parks, unparks;
	unsigned clock_reads;

	pthread_mutex_t lock;	/* guards all that follows, and the counts */
	pthread_cond_t changed;
	uint64_t now;
	unsigned blocked;	/* threads in park whose wait nobody has ended */
	struct fake_blocked *list; /* of them */
	void *unparked[16];	/* parker->host of the last unparks, oldest first */
} fake_park_t;

void fake_init(fake_park_t *f);
void fake_advance(fake_park_t *f, uint64_t ns);
void fake_disturb(fake_park_t *f); /* all blocked parks return early */
void fake_wait_blocked(fake_park_t *f, unsigned n); /* until n threads block in park */

/* ------------------------------------------------------ failing allocator */

/*
 * An allocator for configs that counts, poisons what is freed, and
 * checks the size and alignment that free and alloc are given. The fields may
 * be set and read while it is in use.
 */
typedef struct test_alloc {
	cq_allocator_t allocator;
	atomic_long fail_in;	 /* the call that fails: 1 is the next; 0: none */
	atomic_bool fail_on;	 /* and all calls after that one fail too */
	bool (*fails)(void);	 /* or NULL: may make a call fail as well */
	atomic_size_t live_bytes;
	atomic_ulong calls, failures;
} test_alloc_t;

void test_alloc_init(test_alloc_t *a);

#endif /* CQ_TESTS_SUPPORT_H */
