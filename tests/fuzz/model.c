/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup/cleanup_priv.h" /* which sleeper is whose */
#include "model.h"

struct model m;

/* ---------------------------------------------------------------- contexts */

void push_context(struct context *c)
{
	c->outer = m.top;
	m.top = c;
	m.frames += c->kind == CALLBACK || c->kind == GIVE_BACK;
	m.points += c->kind == POINT || c->kind == LOCKED_POINT;
	depth++;
}

void pop_context(struct context *c)
{
	EXPECT(m.top == c, "the fuzzer's contexts are out of order");
	m.top = c->outer;
	m.frames -= c->kind == CALLBACK || c->kind == GIVE_BACK;
	m.points -= c->kind == POINT || c->kind == LOCKED_POINT;
	depth--;
}

bool within(int kind)
{
	for (struct context *c = m.top; c != NULL; c = c->outer)
		if ((int)c->kind == kind)
			return true;
	return false;
}

/* Is another thread parked? */
bool parked_below(void)
{
	for (struct context *c = m.top; c != NULL; c = c->outer)
		if (c->listed)
			return true;
	return false;
}

/* ------------------------------------------------------------------- counts */

unsigned count_producers(void)
{
	unsigned n = 0;

	for (int i = 0; i < PRODUCERS; i++)
		n += m.producers[i].p != NULL;
	return n;
}

unsigned count_handles(void)
{
	unsigned n = 0;

	for (int i = 0; i < HANDLES; i++)
		n += m.handles[i].w != NULL;
	return n;
}

unsigned count_held(void)
{
	unsigned n = 0;

	for (int i = 0; i < HANDLES; i++)
		n += m.handles[i].block != NULL;
	return n;
}

unsigned count_bodies(void)
{
	unsigned n = 0;

	for (int i = 0; i < BODIES; i++)
		n += m.bodies[i].state != NONE;
	return n;
}

uint64_t units(void)
{
	return CALL(cq_cleanup_units)(m.q);
}

/* ---------------------------------------------------------------- callbacks */

void published(int producer, unsigned before)
{
	for (unsigned i = 0; i < before; i++)
		if (m.items[i].life == PENDING && (producer < 0 || m.items[i].producer == producer))
			m.items[i].published = YES;
}

/* A flush_all has taken what the producers had. */
void gathered(void)
{
	published(-1, m.nitems);
	for (int i = 0; i < PRODUCERS; i++)
		m.producers[i].unclaimed = 0;
}

static void run_0(void *arg);
static void run_1(void *arg);
static void run_2(void *arg);
static cq_callback_fn *const functions[FUNCTIONS] = { run_0, run_1, run_2 };

cq_callback_fn *function_of(unsigned item)
{
	return functions[m.items[item].function];
}

unsigned item_of(cq_callback_fn *fn, void *arg)
{
	uintptr_t i = (uintptr_t)arg - 1;

	EXPECT(i < m.nitems && fn == function_of((unsigned)i), "no such callback was enqueued");
	return (unsigned)i;
}

/* This callback was run, or handed back: it must be its first time. */
void ran(unsigned i, enum life life)
{
	struct item *item = &m.items[i];

	EXPECT(item->life == PENDING || item->life == IN_FLIGHT || item->life == UNSURE,
	    "#%u %s, but it was %s before", i, life == DONE ? "runs" : "is handed back",
	    item->life == DONE ? "run" : item->life == HANDED_BACK ? "handed back" :
	    item->life == REFUSED ? "refused" : "dropped by a fork");
	if (life == DONE)
		EXPECT(!m.exact || item->published != NO, "#%u runs before it is published", i);
	m.pending -= item->life == PENDING;
	m.handed_back += life == HANDED_BACK;
	item->life = life;
}

/* The worker below has found work. */
static void found_work(void)
{
	struct context *c = m.top;

	if (c != NULL && c->kind == WORKER)
		c->woken = false;
}

static void run_callback(cq_callback_fn *fn, void *arg)
{
	struct context c = { .kind = CALLBACK };
	unsigned i = item_of(fn, arg);

	found_work();
	note("#%u runs", i);
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

/* -------------------------------------------------------------------- workers */

static void notice_failures(const cq_cleanup_stats_t *s);

/* Live in the sense of the statistics; the peak is that of the same instants. */
void lives(void)
{
	m.live++;
	if (m.live > m.peak)
		m.peak = m.live;
}

/* One that could not be made while it lived was for work that it left to others, or took. */
void leaves(void)
{
	m.live--;
	m.last_failed = false;
}

int model_spawn(void *host, void (*run)(void *arg), void *arg)
{
	cq_cleanup_stats_t s;
	unsigned i = 0;

	while (i < BODIES && m.bodies[i].state != NONE)
		i++;
	EXPECT(host == &m, "spawn gets another host");
	CALL(cq_cleanup_stats_sized)(m.q, &s, sizeof(s));
	notice_failures(&s);
	EXPECT(m.made < m.config.max_workers, "more workers than the cap");
	if (m.exact) {
		EXPECT(units() > m.coming, "a worker is made without work for it");
		EXPECT_EQ(m.asleep, 0);
	}
	if (i == BODIES || (m.spawns_fail & 1)) {
		m.spawns_fail >>= 1;
		note("spawn fails");
		m.failed++;
		m.last_failed = true;
		return EAGAIN;
	}
	m.spawns_fail >>= 1;
	note("spawn: body %u", i);
	m.bodies[i] = (struct body){ run, arg, ASKED };
	m.last_failed = false;
	m.created++;
	m.coming++;
	m.made++;
	lives();
	return 0;
}

/* ----------------------------------------------------------------------- park */

static bool sleeps(const struct context *c)
{
	return c != NULL && c->listed && !c->granted;
}

/* Whose parker it is. */
static struct context *context_of(const cq_parker_t *parker)
{
	for (struct context *c = m.top; c != NULL; c = c->outer)
		if (sleeps(c) && c->parker == parker)
			return c;
	disagree(__FILE__, __LINE__, "unpark of one that does not sleep");
}

static void some_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	struct context *c = m.top;

	EXPECT(host == &m && c != NULL && c->listed, "park of one that is not listed");
	EXPECT(c->parker == parker, "park on another parker");
	EXPECT(parker->host == c->host, "parker->host is not the host's");
	if (c->kind == WAITER && c->flushes && m.exact && !c->granted)
		published(-1, c->before);
	check();
	if (input_ended() || depth >= DEPTH_MAX)
		end_park(c, deadline);
	else
		nested_call();
}

static void some_unpark(void *host, cq_parker_t *parker)
{
	struct context *c = context_of(parker);

	EXPECT(host == &m && !CALL(cq_parker_granted)(parker), "the permit was granted before");
	c->granted = true;
	if (c->kind == WORKER) {
		if (m.exact && m.stopped == FALSE)
			EXPECT(units() > m.coming, "a worker is woken without work for it");
		m.asleep--;
		m.coming++;
		m.wakes++;
	}
	note("unpark");
	CALL(cq_parker_grant)(parker);
}

const cq_park_ops_t model_park = { clock_now, some_park, some_unpark, &m };

/* ---------------------------------------------------------------------- events */

/* The sleeper that has just been listed is the newest of its set. */
static void listed(struct context *c)
{
	const cq_parked_t *set = c->kind == WORKER ? &m.q->idle :
	    !c->flushes && m.q->exits.newest != NULL ? &m.q->exits : &m.q->drainers;

	c->listed = true;
	c->granted = false;
	c->parker = &set->newest->parker;
	m.asleep += c->kind == WORKER;
}

/* It looks for work: woken, or a body that begins, or one that was retiring. */
static void arrived(struct context *c)
{
	if (c->retiring) {
		c->retiring = false;
		m.made += c->made;
		lives();
		return;
	}
	c->woken = c->listed;
	c->listed = false;
	m.coming--;
}

static void found_nothing(struct context *c)
{
	m.useless += c->woken;
	c->woken = false;
}

static void timed_out(struct context *c)
{
	c->listed = false;
	m.asleep--;
}

static void retiring(struct context *c)
{
	c->retiring = true;
	m.made -= c->made;
	leaves();
}

/* At a schedule point: what the call below has just done. */
void model_event(const char *where)
{
	static const struct {
		const char *where;
		void (*act)(struct context *c);
	} events[] = {
		{ "parked.listed", listed }, { "worker.arrived", arrived },
		{ "worker.found_nothing", found_nothing }, { "worker.timed_out", timed_out },
		{ "worker.retiring", retiring },
	};

	for (size_t i = 0; i < sizeof(events) / sizeof(*events); i++)
		if (strcmp(where, events[i].where) == 0)
			events[i].act(m.top);
}

/* ----------------------------------------------------------------- comparison */

/* An attempt can fail before spawn is called: for want of memory, or as the queue has stopped. */
static void notice_failures(const cq_cleanup_stats_t *s)
{
	if (s->workers_failed == m.failed)
		return;
	EXPECT(s->workers_failed > m.failed && (m.stopped != FALSE ||
	    s->workers_failed - m.failed <= m.alloc_failures), "attempts that nobody saw fail");
	m.failed = s->workers_failed;
	m.last_failed = true;
}

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
	EXPECT(s->executed <= begun, "%" PRIu64 " executed, of %" PRIu64 " begun", s->executed, begun);
	if (m.frames != 0)
		return;
	EXPECT_EQ(s->handed_back, m.handed_back);
	if (count_held() == 0)
		EXPECT_EQ(s->executed, begun);
}

/* Published work is in a block: waiting, or in the hands of a worker. */
static void check_units(const cq_cleanup_stats_t *s)
{
	unsigned yes = 0;

	EXPECT_EQ(s->blocks_waiting, units());
	EXPECT(s->blocks_made >= s->blocks_waiting, "more blocks wait than were made");
	EXPECT(s->blocks_made * s->block_bytes <= m.live_bytes, "more blocks than memory");
	EXPECT(s->blocks_waiting <= m.pending + m.unsure, "more blocks wait than callbacks");
	for (unsigned i = 0; i < m.nitems; i++)
		yes += m.items[i].life == PENDING && m.items[i].published == YES;
	if (m.frames == 0 && count_held() == 0)
		EXPECT(yes == 0 || s->blocks_waiting != 0, "%u callbacks are lost", yes);
	if (s->blocks_waiting == 0)
		EXPECT_EQ(s->oldest_ns, 0);
	EXPECT(s->oldest_ns <= now - m.begun_at, "older than the queue");
}

static void check_workers(const cq_cleanup_stats_t *s)
{
	EXPECT_EQ(s->workers_asleep, m.asleep);
	EXPECT_EQ(s->workers_coming, m.coming);
	EXPECT_EQ(s->workers_live, m.live);
	EXPECT_EQ(s->workers_created, m.created);
	EXPECT_EQ(s->workers_retired, m.retired);
	EXPECT_EQ(s->max_workers, m.config.max_workers);
	EXPECT_EQ(s->producers, count_producers());
	EXPECT(s->workers_peak >= m.peak, "the peak is too low");
	if (m.exact)
		EXPECT_EQ(s->workers_peak, m.peak);
	if (m.stopped == FALSE) {
		EXPECT_EQ(s->wakes, m.wakes);
		EXPECT_EQ(s->useless_wakes, m.useless);
	}
	if (m.frames == 0)
		EXPECT_EQ(s->workers_running, count_held());
}

static bool could_make_one(void)
{
	return m.config.spawn != NULL && m.made < m.config.max_workers;
}

/*
 * The next wake tries again. Where calls fall into each other, the attempt that
 * failed may have been for other blocks than the last one, which succeeded.
 */
static bool attempt_failed(void)
{
	return m.interleaved ? m.failed != 0 : m.last_failed;
}

/* No worker that could be woken or made is missing. */
void demand_is_met(void)
{
	cq_cleanup_stats_t s;

	CALL(cq_cleanup_stats_sized)(m.q, &s, sizeof(s));
	notice_failures(&s);
	EXPECT(units() <= m.coming || m.stopped != FALSE ||
	    (m.asleep == 0 && (!could_make_one() || attempt_failed())),
	    "work waits: %" PRIu64 " blocks, %u workers coming, %u asleep, %u made", units(),
	    m.coming, m.asleep, m.made);
}

/*
 * CQ_HANDOVER: a worker is idle, or could be made, and so no producer keeps a
 * callback to itself, unless there was no memory to take it from there.
 */
static void check_handover(void)
{
	bool idle = m.asleep != 0 ||
	    ((m.config.flags & CQ_POLLED) == 0 && m.live == 0 && !m.last_failed);

	if ((m.config.flags & CQ_HANDOVER) == 0 || !idle || m.frames != 0 || units() != 0 ||
	    count_held() != 0 || m.stopped != FALSE || m.closed || m.forked || m.alloc_failures != 0)
		return;
	EXPECT_EQ(m.pending, 0);
}

/*
 * Who waits for work that nobody will come for can see that. (Of calls that fall
 * into each other it isn't said which attempt was the last.)
 */
static void check_stalled(void)
{
	bool stalled = CALL(cq_cleanup_stalled)(m.q);
	bool nobody = m.live == 0 && units() != 0;

	EXPECT_EQ(stalled, nobody && (m.interleaved ? stalled && m.failed != 0 : m.last_failed));
	if ((m.config.flags & CQ_POLLED) == 0 && !m.uncovered && m.stopped == FALSE)
		EXPECT_EQ(stalled, nobody);
}

/* The queue and the model agree. Not while another thread is within a call. */
void check(void)
{
	cq_cleanup_stats_t s;

	if (m.points != 0)
		return;
	CALL(cq_cleanup_stats_sized)(m.q, &s, sizeof(s));
	notice_failures(&s);
	check_callbacks(&s);
	check_units(&s);
	check_workers(&s);
	check_handover();
	check_stalled();
	if (m.stopped != PERHAPS)
		EXPECT_EQ(CALL(cq_cleanup_needs_wake)(m.q), m.stopped == FALSE &&
		    units() > m.coming && (m.asleep != 0 || could_make_one()));
	if ((m.config.flags & CQ_POLLED) == 0 && !m.uncovered)
		demand_is_met();
}

void model_begin(void)
{
	m = (struct model){ .begun_at = now };
}
