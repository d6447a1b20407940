/* SPDX-License-Identifier: BSD-2-Clause */
#include "cleanup/cleanup_priv.h" /* what is a block */
#include "model.h"
#include "pool/pool_priv.h" /* who is the clock */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

struct model m;

/* ---------------------------------------------------------------- contexts */

static bool is_frame(const struct context *c)
{
	return c->kind == CALLBACK || c->kind == GIVE_BACK;
}

static bool is_point(const struct context *c)
{
	return c->kind == POINT || c->kind == LOCKED_POINT;
}

void push_context(struct context *c)
{
	c->outer = m.top;
	m.top = c;
	m.frames += is_frame(c);
	m.points += is_point(c);
	depth++;
}

void pop_context(struct context *c)
{
	EXPECT(m.top == c, "the fuzzer's contexts are out of order");
	m.top = c->outer;
	m.frames -= is_frame(c);
	m.points -= is_point(c);
	depth--;
}

unsigned within(int kind)
{
	unsigned n = 0;

	for (struct context *c = m.top; c != NULL; c = c->outer)
		n += (int)c->kind == kind;
	return n;
}

/* Is another thread parked? */
bool parked_below(void)
{
	for (struct context *c = m.top; c != NULL; c = c->outer)
		if (c->parked)
			return true;
	return false;
}

/* ------------------------------------------------------------------- counts */

unsigned capacity(const struct producer *p)
{
	return p->function == PAIRS ? m.slots : 2 * m.slots;
}

unsigned count_producers(void)
{
	unsigned n = 0;

	for (int i = 0; i < PRODUCERS; i++)
		n += m.producers[i].p != NULL;
	return n;
}

unsigned count_bodies(void)
{
	unsigned n = 0;

	for (int i = 0; i < BODIES; i++)
		n += m.bodies[i].state != NONE;
	return n;
}

static cq_cleanup_stats_t stats(void)
{
	cq_cleanup_stats_t s;

	CALL(cq_cleanup_stats_sized)(m.q, &s, sizeof(s));
	return s;
}

/* Another thread that holds the queue's lock can't be asked. */
uint64_t units(void)
{
	return within(LOCKED_POINT) == 0 ? stats().blocks_waiting : 0;
}

bool polled(void)
{
	return (m.pool_config.flags & CQ_POOL_POLLED) != 0;
}

/* No worker will come for what is left. (run_some of the queue in other threads serves no pool.) */
bool nobody_serves(void)
{
	return m.pool_config.spawn == NULL && within(WORKER) + within(SERVER) == 0;
}

/* Of the queue's. */
uint64_t next_tick(void)
{
	return (now / m.tick_ns + 1) * m.tick_ns;
}

/* ---------------------------------------------------------------- callbacks */

void published(int producer, unsigned before)
{
	for (unsigned i = 0; i < before; i++)
		if (m.items[i].life == PENDING && (producer < 0 || m.items[i].producer == producer))
			m.items[i].published = YES;
}

static void run_0(void *arg);
static void run_1(void *arg);
static void run_2(void *arg);
static cq_callback_fn *const functions[FUNCTIONS] = { run_0, run_1, run_2 };

cq_callback_fn *function(unsigned f)
{
	return functions[f];
}

unsigned item_of(cq_callback_fn *fn, void *arg)
{
	uintptr_t i = (uintptr_t)arg - 1;

	EXPECT(i < m.nitems && fn == functions[m.items[i].function], "no such callback was enqueued");
	return (unsigned)i;
}

/* This callback was run, or handed back: it must be its first time. */
void ran(unsigned i, enum life life)
{
	static const char *const lives[] = { "in flight", "pending", "run", "handed back", "refused",
		"dropped by a fork", "in flight at a fork" };
	struct item *item = &m.items[i];

	EXPECT(item->life == PENDING || item->life == IN_FLIGHT || item->life == UNSURE,
	    "#%u %s, but it was %s before", i, life == DONE ? "runs" : "is handed back", lives[item->life]);
	EXPECT(life != DONE || !m.exact || item->published != NO, "#%u runs before it is published", i);
	m.pending -= item->life == PENDING;
	m.handed_back += life == HANDED_BACK;
	item->life = life;
}

bool by_owner(void) { return m.config.parallel == CQ_BY_OWNER; }

/* Who runs callbacks: in a run_some of the queue. */
static bool is_the_owner(void)
{
	const struct context *c = m.top;

	while (c != NULL && c->kind != WORKER && c->kind != SERVER && c->kind != SOME)
		c = c->outer;
	return c == NULL || c->kind == SOME;
}

static void run_callback(cq_callback_fn *fn, void *arg)
{
	struct context c = { .kind = CALLBACK };
	unsigned i = item_of(fn, arg);

	note("#%u runs", i);
	EXPECT(!m.forking, "a callback runs in a fork");
	EXPECT(m.config.parallel == 0 || within(CALLBACK) < m.config.parallel, "more run than may");
	EXPECT(!by_owner() || is_the_owner(), "a worker runs what is its owner's");
	ran(i, DONE);
	push_context(&c);
	callback_body();
	pop_context(&c);
}

static void run_0(void *arg) { run_callback(run_0, arg); }
static void run_1(void *arg) { run_callback(run_1, arg); }
static void run_2(void *arg) { run_callback(run_2, arg); }

/* ---------------------------------------------------------------- allocator */

/*
 * A million bytes, then there are no more: large reservations fail, in a time
 * that the fuzzer can afford.
 */
static void *some_alloc(void *host, size_t bytes, size_t align)
{
	void *memory;

	EXPECT(host == &m && bytes > 0 && align > 0 && (align & (align - 1)) == 0,
	    "alloc(%zu bytes, aligned to %zu)", bytes, align);
	if (m.memory_ended || (m.fail_in != 0 && --m.fail_in == 0) ||
	    m.live_bytes + bytes > 1000000) {
		m.alloc_failures++;
		m.on_time = false;
		m.block_failures += m.q != NULL && bytes == m.q->block_bytes;
		return NULL;
	}
	if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, bytes) != 0)
		abort();
	memset(memory, 0xdb, bytes);
	m.live_bytes += bytes;
	return memory;
}

static void some_free(void *host, void *memory, size_t bytes)
{
	EXPECT(host == &m && memory != NULL && bytes <= m.live_bytes, "free(%zu bytes)", bytes);
	m.live_bytes -= bytes;
	memset(memory, 0xdb, bytes);
	free(memory);
}

const cq_allocator_t model_allocator = { some_alloc, some_free, &m };

/* -------------------------------------------------------------- the pool's clock */

static struct {
	pthread_t thread;
	sem_t go, stops;
	void (*run)(void *arg);
	void *arg;
	cq_parker_t *parker;	/* where it sleeps */
	uint64_t deadline;
	bool exists, lost;
} timer;
static _Thread_local bool in_timer;

bool is_clock(void) { return in_timer; }
bool clock_exists(void) { return timer.exists; }

bool clock_may_go(void)
{
	return timer.exists && !m.forking && (timer.parker == NULL || now >= timer.deadline ||
	    cq_parker_granted(timer.parker));
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) != 0)
		;
}

void clock_goes(void)
{
	note("the clock goes on");
	sem_post(&timer.go);
	wait_for(&timer.stops);
	if (timer.exists)
		return;
	pthread_join(timer.thread, NULL);
	sem_destroy(&timer.go);
	sem_destroy(&timer.stops);
}

void clock_is_lost(void)
{
	timer.lost = true;
	if (timer.exists)
		clock_goes();
}

static void clock_stops(void)
{
	sem_post(&timer.stops);
	wait_for(&timer.go);
}

static void *be_clock(void *unused)
{
	in_timer = true;
	wait_for(&timer.go);
	if (!timer.lost)
		timer.run(timer.arg);
	timer.exists = false;
	sem_post(&timer.stops);
	return unused;
}

static void clock_parks(cq_parker_t *parker, uint64_t deadline)
{
	timer.parker = parker;
	timer.deadline = deadline;
	clock_stops();
	if (!timer.lost)
		return;
	timer.exists = false;
	sem_post(&timer.stops);
	pthread_exit(NULL);
}

static int make_clock(void (*run)(void *arg), void *arg)
{
	EXPECT(!timer.exists, "a second clock");
	memset(&timer, 0, sizeof(timer));
	sem_init(&timer.go, 0, 0);
	sem_init(&timer.stops, 0, 0);
	timer.run = run;
	timer.arg = arg;
	timer.exists = true;
	note("spawn: the clock");
	return pthread_create(&timer.thread, NULL, be_clock, NULL);
}

/* -------------------------------------------------------------- the pool's host */

int model_spawn(void *host, void (*run)(void *arg), void *arg)
{
	unsigned i = 0, fails = m.spawns_fail & 1;

	EXPECT(host == &m, "spawn gets another host");
	if (((cq_run_t *)arg)->count == 0) {
		m.spawns_fail >>= 1;
		m.on_time &= !fails;
		return fails ? EAGAIN : make_clock(run, arg);
	}
	EXPECT(count_bodies() < m.pool_config.workers_max || m.points != 0, "more workers than the maximum");
	m.spawns_fail >>= 1;
	while (i < BODIES && m.bodies[i].state != NONE)
		i++;
	if (i == BODIES || fails) {
		note("spawn fails");
		return EAGAIN;
	}
	note("spawn: body %u", i);
	m.bodies[i] = (struct body){ run, arg, ASKED };
	m.created++;
	m.last_failed = false;
	return 0;
}

static void some_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct context *c = m.top;

	if (in_timer) {
		clock_parks(parker, deadline);
		return;
	}
	EXPECT(host == &m && c != NULL && (c->kind == WORKER || c->kind == WAITER), "a park of nobody's");
	if (c->kind == WAITER && m.exact)
		published(-1, c->before); /* a drain's: it has collected */
	c->parked = true;
	check();
	if (m.q == NULL || input_ended() || depth >= DEPTH_MAX) {
		if (!CALL(cq_parker_granted)(parker))
			end_park(c, deadline);
	} else {
		nested_call();
	}
	c->parked = false;
}

static void some_unpark(void *host, cq_parker_t *parker)
{
	EXPECT(host == &m && !CALL(cq_parker_granted)(parker), "the permit was granted before");
	note("unpark");
	CALL(cq_parker_grant)(parker);
}

const cq_park_ops_t model_park = { clock_now, some_park, some_unpark, &m };

/* ----------------------------------------------------------------- comparison */

static void check_callbacks(const cq_cleanup_stats_t *s)
{
	uint64_t begun;

	if (m.unsure != 0) {
		EXPECT(s->queued >= m.accepted && s->queued <= m.accepted + m.unsure,
		    "queued is %" PRIu64, s->queued);
		EXPECT(s->executed + s->handed_back <= s->queued, "executed > queued");
		return;
	}
	begun = m.accepted - m.handed_back - m.pending;
	EXPECT_EQ(s->queued, m.accepted);
	EXPECT_EQ(s->handed_back, m.handed_back);
	if (m.frames == 0)
		EXPECT_EQ(s->executed, begun);
	else
		EXPECT(s->executed <= begun, "%" PRIu64 " executed, of %" PRIu64 " begun", s->executed, begun);
}

/* Published work is in a block that waits, or is in hand. */
static void check_blocks(const cq_cleanup_stats_t *s)
{
	unsigned yes = 0;

	EXPECT_EQ(s->producers, count_producers());
	EXPECT(s->blocks_made >= s->blocks_waiting, "more blocks wait than were made");
	EXPECT(s->blocks_made * s->block_bytes <= m.live_bytes, "more blocks than memory");
	EXPECT(s->blocks_waiting <= m.pending + m.unsure, "more blocks wait than callbacks");
	for (unsigned i = 0; i < m.nitems; i++)
		yes += m.items[i].life == PENDING && m.items[i].published == YES;
	if (m.exact && m.config.max_waiting != 0)
		EXPECT(yes < m.config.max_waiting + (PRODUCERS + 1) * 2 * m.slots + m.ever_reserved, "beyond the bound");
	if (m.frames == 0)
		EXPECT(yes == 0 || s->blocks_waiting != 0, "%u callbacks are lost", yes);
	if (s->blocks_waiting == 0)
		EXPECT_EQ(s->oldest_ns, 0);
	EXPECT(s->oldest_ns <= now - m.begun_at && s->in_hand_ns <= now - m.begun_at, "older than the queue");
	EXPECT(within(CALLBACK) == 0 || s->in_hand != 0, "a callback runs, and none is in hand");
}

/* Published callbacks wait: somebody is on the way, unless nobody idles and nobody can be made. */
static void check_demand(const cq_cleanup_stats_t *s, const cq_pool_stats_t *w)
{
	bool failed = m.interleaved ? m.failed != 0 : m.last_failed;
	bool could_make = m.pool_config.spawn != NULL && count_bodies() < m.pool_config.workers_max && !failed;

	if (s->blocks_waiting == 0 || polled() || m.stopped || m.uncovered || m.config.parallel != 0 || m.left_until != 0)
		return;
	EXPECT(w->workers_coming != 0 || (w->workers_idle == 0 && !could_make),
	    "work waits: %" PRIu64 " blocks, %" PRIu32 " workers idle, %u made", s->blocks_waiting,
	    w->workers_idle, count_bodies());
}

/* The queue and the model agree. Not while another thread is within a call. */
void check(void)
{
	cq_cleanup_stats_t s;
	cq_pool_stats_t w;

	if (m.points != 0 || m.forking || m.q == NULL)
		return;
	s = stats();
	CALL(cq_pool_stats_sized)(m.pool, &w, sizeof(w));
	EXPECT_EQ(w.workers_created, m.created);
	m.last_failed |= w.workers_failed != m.failed;
	m.failed = w.workers_failed;
	EXPECT(!by_owner() || s.blocks_waiting == 0 || m.owner_knows || within(SOME) != 0 || m.stopped || m.left_until != 0,
	    "an owner isn't told");
	check_callbacks(&s);
	check_blocks(&s);
	check_demand(&s, &w);
}

void model_begin(void)
{
	m = (struct model){ .begun_at = now, .producers[PRODUCERS].function = PAIRS };
}
