/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 4: the decoder. A cleanup queue on a pool whose threads are a host's, or are asked for by spawn. Each
 * do_ is one call, with what the model says of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cleanup/cleanup_priv.h" /* which locks are held at a schedule point */
#include "model.h"
#include "pool/pool_priv.h"

static void step_of_another(const char *where);

static jmp_buf only_thread;	/* where a forked child begins, unless in a callback */
static uint64_t made_before_trim;
static unsigned fell_in;	/* calls of others that fell between two steps, so far */

static struct producer *some_producer(void)
{
	struct producer *p = &m.producers[below(PRODUCERS)];

	return p->p != NULL && !p->busy && !p->orphan ? p : NULL;
}

/* Is another call in the middle of this one, holding a lock? */
static bool locked(void)
{
	return m.top != NULL && m.top->kind == LOCKED_POINT;
}

static bool is_free(pthread_mutex_t *lock)
{
	return pthread_mutex_trylock(lock) == 0 && pthread_mutex_unlock(lock) == 0;
}

static bool is_shared(const struct producer *p)
{
	return p == &m.producers[PRODUCERS];
}

/* To enqueue: without one where the one that was meant isn't there. */
static struct producer *some_producer_or_none(void)
{
	struct producer *p = some_producer();

	return p == NULL && !locked() ? &m.producers[PRODUCERS] : p;
}

/* Would a wait be for itself? (At a point in a run of another's as well, which is on the same stack.) */
static bool in_a_run(void)
{
	return CALL(cq_pool_is_current)(m.pool);
}

static int id(const struct producer *p)
{
	return (int)(p - m.producers);
}

/* -------------------------------------------------------------- producers */

static void do_attach(void)
{
	struct producer *p = &m.producers[below(PRODUCERS)];
	unsigned failures = m.alloc_failures, f = below(FUNCTIONS + 1);
	int err;

	if (p->p != NULL)
		return;
	*p = (struct producer){ .function = f == 0 ? PAIRS : (int)f - 1 };
	err = CALL(cq_producer_attach)(m.q, p->function == PAIRS ? NULL : function(f - 1), &p->p);
	note("attach p%d, %s = %d", id(p), p->function == PAIRS ? "pairs" : "arguments", err);
	EXPECT_EQ(err, m.closed ? ESHUTDOWN : m.forking ? EDEADLK : m.alloc_failures != failures ? ENOMEM : 0);
	if (err != 0)
		p->p = NULL;
}

/* The open block of a producer has gone. */
static void block_gone(struct producer *p)
{
	p->n = p->unclaimed = 0;
	p->open = false;
	if (m.exact)
		published(id(p), m.nitems);
}

/* What a call of a producer did to the number of blocks that wait. */
static void check_published(uint64_t before, uint64_t blocks)
{
	if (m.exact)
		EXPECT_EQ(units() - before, blocks);
}

/* How many blocks more wait when n callbacks have joined the partial one. */
static uint64_t joined(uint64_t n)
{
	uint64_t room = m.exact && m.q->partial != NULL ? m.slots - m.q->partial->end : 0;

	return n > room ? (n - room + m.slots - 1) / m.slots : 0;
}

/* Less than a fourth of a block: it joins the partial one, unless there is no memory for the next. */
static bool is_few(const struct producer *p)
{
	return p->unclaimed * 4 < capacity(p) && !m.forking;
}

/* A full block that was left to a tick has been signalled; but another thread may be about to push one. */
static void none_left(void)
{
	if (m.points == 0)
		m.left_until = 0;
}

/* Is published by the second tick from here on. */
static void written(unsigned i)
{
	if (m.first_tick == 0)
		m.first_tick = next_tick();
	m.items[i].next = next_tick();
	m.on_time &= !m.forking;
}

static void accepted(struct producer *p, unsigned i)
{
	if (m.items[i].life == IN_FLIGHT) {
		m.items[i].life = PENDING;
		m.pending++;
	}
	m.items[i].accepted = true;
	m.accepted++;
	if (m.tick_ns != 0)
		written(i);
	p->open = true;
	p->n++;
	p->unclaimed++;
	if (p->reserved > 0)
		p->reserved--;
	if (m.tick_ns != 0 && (m.interleaved || p->n == capacity(p)))
		m.left_until = next_tick();
	if (p->n == capacity(p))
		block_gone(p);
}

/* Callbacks that are published and have not begun. Those in hand count for the bound as well, until the hand is empty. */
static unsigned waiting_now(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < m.nitems; i++)
		n += m.items[i].life == PENDING && m.items[i].published == YES;
	return n;
}

/* One that has no block is going to be accepted, or has been told that there is room. */
static void check_room(void)
{
	if (m.exact && m.config.max_waiting != 0)
		EXPECT(waiting_now() < m.config.max_waiting, "%u wait: there is no room", waiting_now());
}

/* Not exact: a flush that found few because others had claimed some has left the block open, with less room than the
   model knows of. */
static void check_no_room(const struct producer *p)
{
	EXPECT(m.config.max_waiting != 0 && p->reserved == 0 && (!p->open || !m.exact),
	    "ENOBUFS without need");
	if (m.exact)
		EXPECT(waiting_now() + m.frames * 2 * m.slots >= m.config.max_waiting, "%u wait: there is room",
		    waiting_now());
}

static void refused(unsigned i)
{
	EXPECT(m.items[i].life == IN_FLIGHT, "#%u has run, though it was refused", i);
	m.items[i].life = REFUSED;
}

static void check_refusal(const struct producer *p, int err, bool was_closed, unsigned failures)
{
	if (err == ENOMEM)
		EXPECT(m.alloc_failures != failures && p->reserved == 0, "ENOMEM without need");
	else if (err == ENOBUFS)
		check_no_room(p);
	else if (err == EDEADLK)
		EXPECT(m.forking && (!p->open || !m.exact), "EDEADLK without need");
	else
		EXPECT(m.closed && err == (was_closed || err != 0 ? ESHUTDOWN : 0), "it returns %d", err);
}

/* It is in flight. Pairs have all functions in turn. */
static unsigned new_item(const struct producer *p)
{
	m.items[m.nitems] = (struct item){ .life = IN_FLIGHT, .producer = id(p),
		.function = p->function == PAIRS ? m.nitems % FUNCTIONS : (unsigned)p->function,
		.published = m.exact ? NO : MAYBE };
	return m.nitems++;
}

static bool enqueue(struct producer *p)
{
	unsigned i = m.nitems, failures = m.alloc_failures;
	bool was_closed = m.closed, was_down = m.down, may_fail = !p->open && p->reserved == 0;
	uint64_t before = units();
	void *arg = (void *)((uintptr_t)i + 1);
	int err;

	if (i == CALLBACKS)
		return false;
	new_item(p);
	p->busy = !is_shared(p);
	if (is_shared(p))
		err = CALL(cq_cleanup_enqueue)(m.q, function(m.items[i].function), arg);
	else if (p->function == PAIRS)
		err = CALL(cq_producer_enqueue)(p->p, function(m.items[i].function), arg);
	else
		err = CALL(cq_producer_put)(p->p, arg);
	p->busy = false;
	note("enqueue(p%d, #%u by %u) = %d", id(p), i, m.items[i].function, err);
	if (err != 0) {
		check_refusal(p, err, was_closed, failures);
		check_published(before, 0);
		refused(i);
		return false;
	}
	/* Another thread's flush or shutdown may have claimed it before it could be taken back. */
	EXPECT(!was_closed || (m.interleaved && !was_down), "enqueue into a closed queue");
	if (may_fail)
		check_room();
	accepted(p, i);
	check_published(before, p->n == 0);
	return true;
}

static void do_enqueue(void)
{
	struct producer *p = some_producer_or_none();

	if (p != NULL)
		enqueue(p);
}

/* Enough to fill a block, or nearly. */
static void do_enqueue_some(void)
{
	struct producer *p = some_producer_or_none();
	unsigned n;

	if (p == NULL)
		return;
	for (n = capacity(p) - 1 + below(4); n > 0 && enqueue(p); n--)
		;
}

/* The slots of a span, of which the first k are committed. */
static void fill_and_commit(struct producer *p, cq_callback_t *slots, size_t k)
{
	unsigned first = m.nitems, failures = m.alloc_failures;
	bool was_closed = m.closed, was_down = m.down;
	uint64_t before = units();
	size_t stay;
	int err;

	for (unsigned i = first; i < first + k; i++, slots++) {
		new_item(p);
		slots->fn = function(m.items[i].function);
		slots->arg = (void *)((uintptr_t)i + 1);
	}
	p->busy = true;
	err = CALL(cq_producer_commit)(p->p, k, &stay);
	p->busy = false;
	note("commit(p%d, %zu from #%u) = %d, %zu", id(p), k, first, err, stay);
	EXPECT(stay <= k && (err == 0) == (stay == k), "commit returns %d, and %zu", err, stay);
	for (size_t i = 0; i < stay; i++)
		accepted(p, first + (unsigned)i);
	for (size_t i = stay; i < k; i++)
		refused(first + (unsigned)i);
	if (err != 0)
		check_refusal(p, err, was_closed, failures);
	EXPECT(stay == 0 || !was_closed || (m.interleaved && !was_down), "commit into a closed queue");
	if (err == 0)
		check_published(before, k != 0 && p->n == 0);
}

static void do_span(void)
{
	struct producer *p = some_producer();
	unsigned failures = m.alloc_failures;
	cq_callback_t *slots;
	size_t n, beyond;
	int err;

	if (p == NULL)
		return;
	p->busy = true;
	err = CALL(cq_producer_span)(p->p, &slots, &n);
	p->busy = false;
	note("span(p%d) = %d", id(p), err);
	if (p->function != PAIRS) {
		EXPECT_EQ(err, EINVAL);
		return;
	}
	if (err != 0) {
		check_refusal(p, err, true, failures);
		return;
	}
	p->open = true;
	EXPECT(n >= 1 && n <= m.slots, "a span of %zu", n);
	if (m.exact)
		EXPECT_EQ(n, m.slots - p->n);
	EXPECT_EQ(CALL(cq_producer_commit)(p->p, n + 1, &beyond), EINVAL);
	EXPECT_EQ(beyond, 0);
	n = below((unsigned)n + 1);
	if (m.nitems + n <= CALLBACKS)
		fill_and_commit(p, slots, n);
}

/* What the kind of the producer doesn't take. */
static void do_enqueue_wrongly(void)
{
	struct producer *p = some_producer();

	if (p == NULL)
		return;
	EXPECT_EQ(CALL(cq_producer_enqueue)(p->p, p->function == PAIRS ? NULL : function(0), NULL), EINVAL);
	if (p->function == PAIRS)
		EXPECT_EQ(CALL(cq_producer_put)(p->p, NULL), EINVAL);
}

/* So many callbacks are more bytes than there are. */
#define BEYOND (SIZE_MAX / sizeof(void *))

/* At these sizes the blocks are some, more than memory, or more than there are addresses. */
static void do_reserve(void)
{
	struct producer *p = some_producer();
	size_t n = (size_t)PICK(1, 0, 2, 7, 30, 100, SIZE_MAX / 4096, BEYOND, SIZE_MAX);
	unsigned failures = m.alloc_failures;
	int err, expected = 0;

	if (p == NULL)
		return;
	p->busy = true;
	err = CALL(cq_producer_reserve)(p->p, n);
	p->busy = false;
	note("reserve(p%d, %zu) = %d", id(p), n, err);
	if (m.closed)
		expected = ESHUTDOWN;
	else if (m.forking)
		expected = EDEADLK;
	else if (n >= BEYOND)
		expected = EINVAL;
	else if (m.alloc_failures != failures)
		expected = ENOMEM;
	/* Without memory it also finds what is free at other shards. */
	EXPECT(err == expected || ((m.points != 0 || (m.spread && expected == ENOMEM)) && err == 0), "reserve returns %d", err);
	if (err == 0) {
		p->reserved = n;
		m.ever_reserved += n;
	}
}

/* Of a call that publishes: 0, or EAGAIN, if no worker lives and none can be made. */
static void check_woken(int err, bool waits)
{
	cq_pool_stats_t w;
	bool stalled;

	CALL(cq_pool_stats_sized)(m.pool, &w, sizeof(w));
	stalled = m.pool_config.spawn != NULL && w.workers_live == 0 && !by_owner();
	EXPECT(err == 0 || (err == EAGAIN && (stalled || !m.exact)), "it returns %d", err);
	if (m.exact && waits && stalled && !polled() && m.frames == 0)
		EXPECT_EQ(err, EAGAIN);
}

static void do_flush(void)
{
	struct producer *p = some_producer();
	unsigned failures = m.block_failures;
	uint64_t before = units(), blocks;
	bool few, some;
	int err;

	if (p == NULL || !is_free(&m.q->partial_lock))
		return;
	few = is_few(p);
	blocks = few ? joined(p->unclaimed) : 1;
	some = p->unclaimed != 0;
	p->busy = true;
	err = CALL(cq_producer_flush)(p->p);
	p->busy = false;
	note("flush(p%d) = %d", id(p), err);
	if (!m.forking && err != ENOMEM)
		none_left();
	if (m.forking || err == ENOMEM) {
		EXPECT(err == EDEADLK || (m.block_failures != failures && p->reserved != 0),
		    "it returns %d", err);
		check_published(before, 0);
		return;
	}
	/* Without memory for the next block, which may be free at another shard. */
	if (m.block_failures != failures && few && p->p->block == NULL) {
		few = false;
		blocks = 1;
	}
	check_woken(err, some);
	check_published(before, some ? blocks : 0);
	if (few && some) {
		p->unclaimed = 0;
		if (m.exact)
			published(id(p), m.nitems);
	} else if (some) {
		block_gone(p);
	}
}

static void detach(struct producer *p)
{
	uint64_t before = units(), blocks = is_few(p) ? joined(p->unclaimed) : 1;
	unsigned failures = m.block_failures;

	if (p->unclaimed == 0)
		blocks = 0;
	p->busy = true;
	CALL(cq_producer_detach)(p->p);
	note("detach p%d", id(p));
	if (!m.forking)
		none_left();
	if (m.block_failures != failures && !(m.spread && units() - before == blocks))
		blocks = 1;
	check_published(before, blocks);
	block_gone(p);
	*p = (struct producer){ .p = NULL };
}

static void do_detach(void)
{
	struct producer *p = &m.producers[below(PRODUCERS)];

	if (p->p != NULL && !p->busy)
		detach(p);
}

static void collected(void)
{
	for (int i = 0; i <= PRODUCERS; i++)
		m.producers[i].unclaimed = 0;
}

static void do_flush_all(void)
{
	unsigned failures = m.alloc_failures;
	uint64_t before = units(), n = 0;
	int err;

	for (int i = 0; i <= PRODUCERS; i++)
		n += m.producers[i].unclaimed;
	n = joined(n);
	err = CALL(cq_cleanup_flush)(m.q);
	note("flush = %d", err);
	if (m.forking) {
		EXPECT_EQ(err, EDEADLK);
	} else if (err == ENOMEM) {
		EXPECT(m.alloc_failures != failures, "ENOMEM without need");
		/* Some are published, and nobody says which. */
		m.exact = false;
		for (unsigned i = 0; i < m.nitems; i++)
			if (m.items[i].published == NO)
				m.items[i].published = MAYBE;
	} else {
		m.uncovered &= units() == 0;
		none_left();
		check_woken(err, units() != 0);
		check_published(before, n);
		if (m.exact) {
			published(-1, m.nitems);
			collected();
		}
	}
}

/* --------------------------------------------------------------- the pool's calls */

static bool keeps_time(void)
{
	return (m.pool_config.flags & (CQ_POOL_POLLED | CQ_POOL_HOSTED)) == 0;
}

/* Who polls looks whether a tick is due, where there is no clock. */
static void polls(void)
{
	if (!keeps_time() && !m.forking)
		m.looked = now;
}

static void do_wake(void)
{
	int err;

	polls();
	err = CALL(cq_pool_wake)(m.pool);
	note("wake = %d", err);
	if (m.forking) {
		EXPECT_EQ(err, EDEADLK);
		return;
	}
	EXPECT(err == 0 || err == EAGAIN, "it returns %d", err);
	m.uncovered = false;
}

static void do_questions(void)
{
	bool needs;

	polls();
	needs = CALL(cq_pool_needs_wake)(m.pool);
	note("needs_wake = %d", needs);
	EXPECT(CALL(cq_cleanup_pool)(m.q) == m.pool, "another pool");
	EXPECT(CALL(cq_pool_park)(m.pool) == &model_park, "another park table");
	if (m.points == 0)
		EXPECT_EQ(CALL(cq_pool_is_current)(m.pool), within(CALLBACK) != 0);
}

/* A run begins, in which nothing can get into the way of a tick that is due. */
static bool begin_ticks(void)
{
	return m.tick_ns != 0 && m.on_time && !m.interleaved && m.frames == 0 && !m.closed && !m.forking &&
	    now < CQ_FOREVER / 2;
}

/* A run has taken all that waited. Of the callbacks that were there before, those that were written two ticks ago
   have been published, and so have begun. */
static void check_ticks(unsigned before)
{
	for (unsigned i = 0; i < before; i++) {
		struct item *item = &m.items[i];

		if (item->life != PENDING || !item->accepted || item->next > m.looked)
			continue;
		item->next = next_tick();
		EXPECT(++item->ticks < 2 || !m.on_time || m.closed, "#%u isn't published by time", i);
	}
}

static void do_clock(void)
{
	if (m.forking || !clock_may_go()) {
		m.looked = clock_exists() && !m.forking ? now : m.looked;
		return;
	}
	m.looked = now;
	clock_goes();
	if (m.on_time && !m.interleaved && now >= m.left_until)
		m.left_until = 0;
}

static void do_pool_run_some(void)
{
	struct context c = { .kind = SERVER };
	size_t pieces = (size_t)PICK(SIZE_MAX, 0, 1, 3), n;
	unsigned before = m.nitems;
	bool ticks;

	note("pool_run_some(%zu)", pieces);
	polls();
	ticks = !by_owner() && begin_ticks();
	push_context(&c);
	n = CALL(cq_pool_run_some)(m.pool, pieces);
	pop_context(&c);
	note("it ran %zu", n);
	EXPECT(n <= pieces, "it exceeds the budget");
	if (ticks && n < pieces)
		check_ticks(before);
}

/*
 * May a worker sleep here? Not in a callback, nor in a fork; and not above a call that waits for it, if
 * the sleep has no end.
 */
static bool may_sleep(bool ends)
{
	return m.frames == 0 && depth < DEPTH_MAX - 1 && (ends || within(WAITER) == 0) && !m.forking;
}

static void do_work(void)
{
	struct context c = { .kind = WORKER };
	uint64_t deadline = now + PICK(0, 1, 10, 1000);
	unsigned failures = m.alloc_failures;
	int err;

	if (deadline >= CQ_FOREVER || deadline < now)
		return;
	if (in_a_run() || m.forking) {
		EXPECT_EQ(CALL(cq_pool_work)(m.pool, NULL, deadline), EDEADLK);
		return;
	}
	if (!may_sleep(true))
		return;
	note("work(until %" PRIu64 ")", deadline);
	push_context(&c);
	err = CALL(cq_pool_work)(m.pool, NULL, deadline);
	pop_context(&c);
	note("work = %d", err);
	if (err == ENOMEM)
		EXPECT(m.alloc_failures != failures, "ENOMEM without need");
	else if (err == 0)
		EXPECT(m.own_pool && m.closed, "it ends, and nothing has stopped it");
	else
		EXPECT(err == ETIMEDOUT && now >= deadline, "it returns %d", err);
}

/* Near the end of time the deadline of an idle worker never comes. */
static bool workers_retire(void)
{
	return now < CQ_FOREVER / 2;
}

static void run_body(struct body *b)
{
	struct context c = { .kind = WORKER };

	note("body %d begins", (int)(b - m.bodies));
	b->state = RUNNING;
	push_context(&c);
	b->run(b->arg);
	pop_context(&c);
	note("body %d ends", (int)(b - m.bodies));
	b->state = NONE;
}

/* One that stands between two steps counts as at work: the last idle one beside it stays for ever. */
static bool worker_stands(void)
{
	for (const struct context *c = m.top; c != NULL; c = c->outer)
		if (c->kind == WORKER && !c->parked)
			return true;
	return false;
}

static void do_body(void)
{
	struct body *b = &m.bodies[below(4)];

	if (b->state == ASKED && workers_retire() && may_sleep(true) && !worker_stands())
		run_body(b);
}

/* ------------------------------------------------------------------- chance */

static void do_fail_alloc(void)
{
	m.fail_in = 1 + below(4);
	note("allocation %u from now fails", m.fail_in);
}

static void do_memory_ends(void)
{
	m.memory_ended = !m.memory_ended;
	note("there is %s memory", m.memory_ended ? "no more" : "again");
}

static void do_fail_spawns(void)
{
	m.spawns_fail = byte();
	note("spawns fail by %#x", m.spawns_fail);
}

static void do_advance(void)
{
	advance_by(PICK(1, 9, 1000, 20000000));
	note("it is %" PRIu64, now);
}

/* ------------------------------------------------------------------ polling */

static void do_run_some(void)
{
	struct context c = { .kind = SOME };
	size_t budget = (size_t)PICK(SIZE_MAX, 0, 1, 2, 5, 17), n;
	unsigned failures = m.alloc_failures, before = m.nitems;
	bool none = m.forking || (m.stopped && m.points == 0), ticks;
	bool limited = m.config.parallel != 0 && (m.frames != 0 || m.points != 0);

	note("run_some(%zu)", budget);
	ticks = begin_ticks() && budget != 0;
	m.owner_knows &= m.forking;
	push_context(&c);
	n = CALL(cq_cleanup_run_some)(m.q, budget);
	pop_context(&c);
	note("it ran %zu", n);
	m.owner_knows |= n == budget;
	EXPECT(n <= budget, "it exceeds the budget");
	EXPECT(!none || n == 0, "it runs what is to be handed back");
	if (n < budget && !none && !limited && !m.interleaved && !m.stopped && m.alloc_failures == failures)
		EXPECT_EQ(units(), 0);
	if (ticks && n < budget && !limited)
		check_ticks(before);
}

/* --------------------------------------------------------- drain, shutdown */

/* Only a call that nobody below this one has to let go on may wait for ever. */
static bool may_wait(uint64_t deadline, bool for_workers)
{
	bool busy = m.points != 0 || within(SOME) + within(SERVER) != 0;

	busy |= for_workers && within(WORKER) != 0;
	return depth < DEPTH_MAX - 1 && (deadline != CQ_FOREVER || !busy);
}

static unsigned pending_before(unsigned n)
{
	unsigned pending = 0;

	for (unsigned i = 0; i < n; i++)
		pending += m.items[i].life == PENDING;
	return pending;
}

/* EAGAIN of a call that waits: nobody will come. */
static void check_nobody_comes(void)
{
	cq_pool_stats_t w;

	CALL(cq_pool_stats_sized)(m.pool, &w, sizeof(w));
	if (by_owner())
		return;
	EXPECT(m.pool_config.spawn == NULL ? nobody_serves() || m.interleaved : w.workers_live == 0 || !m.exact,
	    "EAGAIN, and somebody serves the pool");
}

static void check_drained(int err, const struct context *c, unsigned failures, unsigned others)
{
	switch (err) {
	case 0:
		EXPECT_EQ(pending_before(c->before), 0);
		break;
	case ETIMEDOUT:
		EXPECT(now >= c->deadline && c->deadline != CQ_FOREVER, "too early");
		/* Calls of others that fall in behind its last look may end what it saw. */
		EXPECT(m.pending != 0 || m.points != 0 || m.unsure != 0 || fell_in != others,
		    "a time-out with nothing to wait for");
		break;
	case EAGAIN:
		check_nobody_comes();
		break;
	case ENOMEM:
		EXPECT(m.alloc_failures != failures, "ENOMEM without need");
		m.exact = false;
		break;
	case ESHUTDOWN:
		EXPECT(m.stopped, "nothing has stopped the workers");
		break;
	default:
		EXPECT(false, "drain returns %d", err);
	}
	if (err != ENOMEM && m.exact)
		published(-1, c->before);
}

static void do_wait_for_room(void)
{
	struct context c = { .kind = WAITER, .deadline = some_deadline() };
	bool was_closed = m.closed;
	int err;

	if (in_a_run() || m.shutting != 0 || m.forking) {
		EXPECT_EQ(CALL(cq_cleanup_wait_for_room)(m.q, c.deadline), EDEADLK);
		return;
	}
	if (!may_wait(c.deadline, false))
		return;
	note("wait_for_room(%" PRIu64 ")", c.deadline);
	m.uncovered &= m.config.max_waiting == 0 || waiting_now() < m.config.max_waiting;
	push_context(&c);
	err = CALL(cq_cleanup_wait_for_room)(m.q, c.deadline);
	pop_context(&c);
	note("wait_for_room = %d", err);
	EXPECT(!was_closed || err == ESHUTDOWN, "room in a closed queue");
	if (err == 0)
		check_room();
	else if (err == ESHUTDOWN)
		EXPECT(m.closed, "it is not closed");
	else if (err == ETIMEDOUT)
		EXPECT(now >= c.deadline && c.deadline != CQ_FOREVER, "too early");
	else if (err == EAGAIN)
		check_nobody_comes();
	else
		EXPECT(false, "it returns %d", err);
	if (err != 0 && err != ESHUTDOWN)
		EXPECT(m.config.max_waiting != 0, "a wait without a bound");
}

static void do_drain(void)
{
	struct context c = { .kind = WAITER, .deadline = some_deadline() };
	unsigned failures = m.alloc_failures, others = fell_in;
	int err;

	if (m.config.max_waiting != 0 && below(2) != 0) {
		do_wait_for_room();
		return;
	}
	if (in_a_run() || m.shutting != 0 || m.forking) {
		EXPECT_EQ(CALL(cq_cleanup_drain)(m.q, c.deadline), EDEADLK);
		return;
	}
	if (!may_wait(c.deadline, false) || m.fail_in != 0 || m.memory_ended || m.live_bytes > 500000)
		return;
	note("drain(%" PRIu64 ")", c.deadline);
	c.before = m.nitems;
	collected();
	m.uncovered = false;
	none_left();
	push_context(&c);
	err = CALL(cq_cleanup_drain)(m.q, c.deadline);
	pop_context(&c);
	note("drain = %d", err);
	check_drained(err, &c, failures, others);
}

static void give_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	struct context c = { .kind = GIVE_BACK };
	unsigned i = item_of(fn, arg);

	EXPECT(ctx == &m, "give_back gets another ctx");
	note("#%u is handed back", i);
	ran(i, HANDED_BACK);
	push_context(&c);
	callback_body();
	pop_context(&c);
}

static void check_shut_down(int err, const struct context *c, cq_shutdown_how_t how,
    cq_give_back_fn *back, unsigned failures, unsigned others)
{
	switch (err) {
	case 0:
		EXPECT(m.pending == 0 && units() == 0, "%u callbacks are left", m.pending);
		EXPECT(!m.own_pool || !clock_exists(), "the clock is left");
		EXPECT(!m.own_pool || count_bodies() + within(WORKER) == 0, "workers are left");
		m.down = true;
		break;
	case ETIMEDOUT:
		EXPECT(now >= c->deadline && c->deadline != CQ_FOREVER, "too early");
		/* As a drain: what was left may have been run, or left its worker, behind the last look. */
		EXPECT(m.pending != 0 || m.points != 0 || m.unsure != 0 || fell_in != others ||
		    (m.own_pool && (count_bodies() + within(WORKER) != 0 || clock_exists())),
		    "a time-out with nothing to wait for");
		break;
	case EAGAIN:
		EXPECT(how == CQ_SHUTDOWN_DRAIN, "EAGAIN, and there is nothing to run");
		check_nobody_comes();
		break;
	case ENOMEM:
		EXPECT(m.alloc_failures != failures && how == CQ_SHUTDOWN_DRAIN, "ENOMEM without need");
		break;
	case EINVAL:
		EXPECT(back == NULL && m.stopped && m.pending + m.unsure != 0, "EINVAL without cause");
		break;
	default:
		EXPECT(false, "shutdown returns %d", err);
	}
}

static void shut_down(cq_shutdown_how_t how, uint64_t deadline, cq_give_back_fn *back)
{
	struct context c = { .kind = WAITER, .deadline = deadline };
	unsigned failures = m.alloc_failures, others = fell_in;
	int err;

	note("shutdown(%s, %" PRIu64 ", %s)", how == CQ_SHUTDOWN_DRAIN ? "DRAIN" : "HAND_BACK", deadline,
	    back != NULL ? "give_back" : "NULL");
	m.closed = true;
	m.exact = false;	/* what is published, and when, no header says */
	m.stopped |= how != CQ_SHUTDOWN_DRAIN;
	m.uncovered = false;
	m.shutting++;
	push_context(&c);
	err = CALL(cq_cleanup_shutdown)(m.q, how, deadline, back, &m);
	pop_context(&c);
	m.shutting--;
	note("shutdown = %d", err);
	check_shut_down(err, &c, how, back, failures, others);
}

static void do_shutdown(void)
{
	cq_shutdown_how_t how = below(2) ? CQ_SHUTDOWN_DRAIN : CQ_SHUTDOWN_HAND_BACK;
	uint64_t deadline = some_deadline();
	cq_give_back_fn *back = below(4) != 1 ? give_back : NULL;
	int err = 0;

	if (how == CQ_SHUTDOWN_HAND_BACK && back == NULL)
		err = EINVAL;
	else if (within(GIVE_BACK) != 0 && !m.forking)
		err = EALREADY;
	else if (in_a_run() || m.forking)
		err = EDEADLK;
	else if (m.shutting != 0)
		err = EALREADY;
	else if (!m.down) {
		if (may_wait(deadline, m.own_pool))
			shut_down(how, deadline, back);
		return;
	}
	note("shutdown, expecting %d", err);
	EXPECT_EQ(CALL(cq_cleanup_shutdown)(m.q, how, deadline, back, &m), err);
}

static bool run_a_body(void)
{
	for (int i = 0; i < BODIES; i++)
		if (m.bodies[i].state == ASKED) {
			run_body(&m.bodies[i]);
			return true;
		}
	return false;
}

/*
 * A sleep at the end of the bytes, or too deep: what other threads would do, so
 * that it ends. A waiter for which nothing is left to do has missed its wake.
 */
static void help_waiter(void)
{
	EXPECT(m.interleaved || m.closed || m.q == NULL || by_owner() || !nobody_serves(), "a drain sleeps, and nobody serves it");
	if (clock_may_go()) {
		clock_goes();
		return;
	}
	if (workers_retire() && run_a_body())
		return;
	if (m.q != NULL && CALL(cq_cleanup_run_some)(m.q, SIZE_MAX) != 0)
		return;
	EXPECT(run_a_body(), "a drain or shutdown sleeps on, though nothing is left to do");
}

void end_park(struct context *c, uint64_t deadline)
{
	if (deadline != CQ_FOREVER)
		advance_to(deadline);
	else if (c->kind == WAITER)
		help_waiter();
	else
		disagree(__FILE__, __LINE__, "a worker sleeps on");
}

/* ------------------------------------------------------------- trim, destroy */

static void check_trimmed(size_t freed)
{
	cq_cleanup_stats_t after;
	uint64_t most = m.exact ? m.producers[PRODUCERS].unclaimed != 0 : DEPTH_MAX;

	CALL(cq_cleanup_stats_sized)(m.q, &after, sizeof(after));
	EXPECT_EQ(freed, (made_before_trim - after.blocks_made) * after.block_bytes);
	for (int i = 0; i < PRODUCERS; i++) {
		if (m.producers[i].orphan)
			return;	/* it may have been told of a reservation, or not yet */
		if (m.producers[i].p != NULL)
			most += 2 + m.producers[i].reserved / m.slots;
	}
	EXPECT(after.blocks_made <= most, "%" PRIu64 " blocks are left", after.blocks_made);
}

static void do_trim(void)
{
	size_t freed = 0, *out = below(2) ? &freed : NULL;
	bool busy = units() != 0 || m.frames != 0;
	cq_cleanup_stats_t before;
	unsigned others;
	int err;

	if (m.forking) {
		EXPECT_EQ(CALL(cq_cleanup_trim)(m.q, out), EDEADLK);
		return;
	}
	/* Beside a call that it may not run with; but a shutdown it notices. */
	if (m.points != 0 || (m.shutting == 0 && within(WAITER) + within(SOME) + within(SERVER) != 0))
		return;
	CALL(cq_cleanup_stats_sized)(m.q, &before, sizeof(before));
	made_before_trim = before.blocks_made;
	others = fell_in;
	err = CALL(cq_cleanup_trim)(m.q, out);
	note("trim = %d, %zu bytes", err, freed);
	/* What a shutdown gives back out of an open block is in no block that is unfinished. */
	if (m.shutting == 0 || err != 0)
		EXPECT_EQ(err, busy || (err != 0 && others != fell_in) ? EBUSY : 0);
	if (err != 0)
		return;
	if (m.producers[PRODUCERS].unclaimed == 0)
		block_gone(&m.producers[PRODUCERS]);
	if (out != NULL && others == fell_in) /* who may have made some */
		check_trimmed(freed);
}

static void do_destroy(void)
{
	bool refuses = in_a_run() || m.forking;

	if (!refuses && (m.top != NULL || count_producers() + m.pending == 0 || m.unsure != 0))
		return;
	note("destroy");
	EXPECT_EQ(CALL(cq_cleanup_destroy)(m.q), refuses ? EDEADLK : EBUSY);
}

/* -------------------------------------------------------------------- fork */

/* The child has what was accepted, and of the threads only this one. */
static void forget_threads(bool alone)
{
	for (int i = 0; i < BODIES; i++)
		if (alone || m.bodies[i].state != RUNNING)
			m.bodies[i].state = NONE;
	for (int i = 0; i < PRODUCERS; i++)
		if (m.producers[i].busy)
			m.producers[i] = (struct producer){ .p = m.producers[i].p, .orphan = true,
				.function = m.producers[i].function };
	m.uncovered = true;
	m.last_failed = false;
}

static void forget_items(void)
{
	bool discard = (m.config.flags & CQ_CLEANUP_FORK_DISCARD) != 0;

	for (unsigned i = 0; i < m.nitems; i++) {
		struct item *item = &m.items[i];

		if (item->life == IN_FLIGHT) {
			item->life = discard ? DROPPED : UNSURE;
			m.unsure++;
		} else if (item->life == PENDING && discard) {
			item->life = DROPPED;
			m.pending--;
		} else if (item->life == UNSURE && discard) {
			item->life = DROPPED;
		} else if ((item->life == DONE || item->life == HANDED_BACK) && !item->accepted) {
			item->accepted = true;	/* its enqueue will not return */
			m.accepted++;
		}
	}
	for (int i = 0; i <= PRODUCERS && discard; i++)
		m.producers[i].unclaimed = 0;
}

/* Is the calling thread alone with its callbacks, so that they go on in the child? */
static bool in_own_callback(void)
{
	return m.points == 0 && within(WAITER) == m.shutting && m.shutting <= 1 && !parked_below();
}

/* Or could the calls below be those of other threads, though they are on this one's stack? */
static bool may_be_others(void)
{
	for (const struct context *c = m.top; c != NULL; c = c->outer)
		if (c->has_memory)
			return false;
	return m.frames == 0 && within(SOME) == 0 && m.shutting == 0 && !in_a_run();
}

static void calls_in_fork(void)
{
	struct context c = { .kind = POINT };

	m.forking = true;
	push_context(&c);
	callback_body();
	pop_context(&c);
	m.forking = false;
}

static void fork_child(void)
{
	bool goes_on = in_own_callback();

	if (!goes_on && !may_be_others())
		return;
	note("fork: child");
	CALL(cq_fork)(CQ_FORK_PREPARE);
	at_point = NULL;	/* there are no other threads */
	CALL(cq_fork)(CQ_FORK_CHILD);
	at_point = step_of_another;
	forget_items();
	forget_threads(!goes_on);
	clock_is_lost();
	m.owner_knows |= m.left_until != 0; /* that it has to look, as the child's owner */
	m.on_time = false;
	m.left_until = 0;
	if (!goes_on)
		longjmp(only_thread, 1);
}

static void do_fork(void)
{
	if (m.forking)
		return;
	if (below(3) != 0) {
		fork_child();
		return;
	}
	note("fork: parent");
	CALL(cq_fork)(CQ_FORK_PREPARE);
	calls_in_fork();
	CALL(cq_fork)(CQ_FORK_PARENT);
}

/* The threads of the calls that were under way are not there. */
static void begin_child(void)
{
	m.top = NULL;
	m.frames = m.points = m.shutting = depth = 0;
	m.owner_knows = true; /* that it has to look */
}

/* ------------------------------------------------------------------ decoding */

enum { ALWAYS = 1, LOCK_FREE = 2 };

static const struct {
	void (*call)(void);
	int when; /* LOCK_FREE: also where another thread holds the queue's lock */
} calls[] = {
	{ NULL, 0 },
	{ do_enqueue, LOCK_FREE }, { do_enqueue, LOCK_FREE }, { do_enqueue_some, LOCK_FREE },
	{ do_span, LOCK_FREE }, { do_enqueue_wrongly, LOCK_FREE },
	{ do_flush, LOCK_FREE }, { do_flush, LOCK_FREE }, { do_reserve, LOCK_FREE },
	{ do_attach, ALWAYS }, { do_attach, ALWAYS }, { do_detach, ALWAYS },
	{ do_flush_all, ALWAYS }, { do_flush_all, ALWAYS }, { do_wake, ALWAYS },
	{ do_questions, LOCK_FREE }, { do_fail_alloc, ALWAYS }, { do_memory_ends, ALWAYS },
	{ do_fail_spawns, ALWAYS }, { do_advance, LOCK_FREE }, { do_run_some, ALWAYS },
	{ do_run_some, ALWAYS }, { do_pool_run_some, ALWAYS }, { do_work, ALWAYS }, { do_work, ALWAYS },
	{ do_body, ALWAYS }, { do_body, ALWAYS }, { do_drain, ALWAYS }, { do_drain, ALWAYS },
	{ do_shutdown, ALWAYS }, { do_trim, ALWAYS }, { do_destroy, ALWAYS }, { do_fork, ALWAYS },
	/* By time: */
	{ do_clock, ALWAYS }, { do_clock, ALWAYS }, { do_advance, LOCK_FREE },
};

/* When there may have been a tick, what is published is that of which it is certain, and what may be. */
static void look_at_the_time(void)
{
	if (!m.exact || m.first_tick == 0 || now < m.first_tick)
		return;
	m.exact = false;
	for (unsigned i = 0; i < m.nitems; i++)
		if (m.items[i].published == NO)
			m.items[i].published = MAYBE;
}

/* More shards: as if another thread's swaps had failed. Not at the cost of a call that is to find no memory. */
static void grow(void)
{
	note("more shards than %u", cq_shards(m.q));
	for (int i = 0; m.fail_in == 0 && !m.memory_ended && i < CQ_SHARD_BITS; i++)
		cq_shards_grow(m.q, cq_shards(m.q));
}

void nested_call(void)
{
	unsigned n = sizeof(calls) / sizeof(*calls) - (m.tick_ns != 0 ? 0 : 3), c = byte(), b = c % n;

	/* What the call leaves of the byte: where the thread runs from now on. Those are of different shards when there
	   are 64, and have one shared producer. */
	if (m.spread)
		fuzz_cpu = c / n * 64;
	if (m.spread && c / n == 255 / n)
		grow();
	look_at_the_time();
	if (calls[b].call == NULL || (locked() && calls[b].when != LOCK_FREE))
		return;
	calls[b].call();
	check();
}

/* Most callbacks do nothing. */
void callback_body(void)
{
	unsigned n;

	if (input_ended() || depth >= DEPTH_MAX)
		return;
	for (n = byte() % 8; n > 5 && !input_ended(); n--)
		nested_call();
}

/*
 * What other threads may do while a call is at this point: anything, when it
 * holds no lock; with one of the queue's only what needs none, and wakes nobody.
 */
static int point_kind(void)
{
	if (!is_free(&m.pool->clock.lock) || !is_free(&m.q->drains.lock) || !is_free(&m.pool->idle.lock) ||
	    !is_free(&m.pool->closers.lock) ||
	    !is_free(&m.pool->lock))
		return -1;
	if (is_free(&m.q->lock) && is_free(&m.q->partial_lock))
		return POINT;
	return polled() ? LOCKED_POINT : -1;
}

static void step_of_another(const char *where)
{
	struct context c = { .kind = POINT };
	int kind;

	if (!m.interleaved || is_clock() || m.forking || depth >= DEPTH_MAX || input_ended() ||
	    strncmp(where, "stack.", 6) == 0 || strcmp(where, "producer.dummy") == 0 ||
	    strcmp(where, "producer.gets") == 0)
		return;
	if (locked() || (kind = point_kind()) < 0 || byte() % 4 != 3)
		return;
	/* Around its run the caller of run_some has told its thread how many (budget, run.c): here the others, which are
	   the same thread, would take that for theirs, and leave blocks that they have taken the signal of. */
	if (m.top != NULL && m.top->kind == SOME && strncmp(where, "tasks.", 6) == 0)
		return;
	c.kind = kind == POINT ? POINT : LOCKED_POINT;
	c.has_memory = strcmp(where, "workers.making") == 0;
	note("at %s:", where);
	fell_in++;
	push_context(&c);
	nested_call();
	pop_context(&c);
}

/* ---------------------------------------------------------- a queue's life */

static void nothing(void *arg)
{
	(void)arg;
}

/* "Rounded down to whole callbacks": how many fill a block, found by trying. */
static unsigned find_capacity(cq_callback_fn *fn)
{
	cq_pool_config_t pool = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED | CQ_POOL_NO_ATFORK };
	cq_cleanup_config_t config = { .block_bytes = m.config.block_bytes, .max_waiting = m.config.max_waiting,
		.pool_config = &pool };
	unsigned n = 0;
	cq_cleanup_t *q;
	cq_producer_t *p;

	EXPECT_EQ(cq_cleanup_create(&config, &q), 0);
	EXPECT_EQ(cq_producer_attach(q, fn, &p), 0);
	for (; cq_cleanup_run_some(q, SIZE_MAX) == 0; n++)
		EXPECT_EQ(fn != NULL ? cq_producer_put(p, NULL) : cq_producer_enqueue(p, nothing, NULL), 0);
	cq_producer_detach(p);
	EXPECT_EQ(cq_cleanup_destroy(q), 0);
	return n;
}

static void choose_pool(unsigned b)
{
	unsigned idle = below(2);

	m.pool_config = (cq_pool_config_t){
		.flags = CQ_POOL_NO_ATFORK | (b & 1 ? CQ_POOL_POLLED : 0) | (b & 2 ? CQ_POOL_HOSTED : 0),
		.workers_max = 1 + (b >> 4) % 4,
		.idle_ns = idle != 0 ? 1000 : 10,
		.spin_ns = CQ_POOL_NO_SPIN,
		.host = &m,
		.park = &model_park,
		.allocator = &model_allocator,
	};
	if ((b & 2) == 0)
		m.pool_config.spawn = model_spawn;
	m.own_pool = (b & 4) != 0;
}

static void wake_owner(void *host)
{
	EXPECT(host == &m, "wake_owner gets another host");
	note("the owner is woken");
	m.owner_knows = true;
}

static void create(bool by_time)
{
	static const size_t sizes[] = { CQ_BLOCK_BYTES_MIN, 100, 128, 512, 1024 };
	unsigned b = byte(), size = byte();

	choose_pool(b);
	m.config = (cq_cleanup_config_t){
		.flags = (b & 8) != 0 ? CQ_CLEANUP_FORK_DISCARD : 0,
		.parallel = below(3),
		.block_bytes = sizes[size % 5],
		.allocator = &model_allocator,
	};
	if (size >= 224) {
		m.config.parallel = CQ_BY_OWNER;
		m.config.wake_owner = wake_owner;
		m.config.host = &m;
	}
	if ((b & 64) != 0 && size % 4 == 3)
		m.config.max_waiting = CQ_MAX_WAITING_MIN + size % 5;
	m.interleaved = (b & 128) != 0;
	m.exact = !m.interleaved;
	m.slots = find_capacity(NULL);
	EXPECT_EQ(find_capacity(nothing), 2 * m.slots);
	EXPECT(m.config.max_waiting == 0 || 8 * m.slots <= m.config.max_waiting, "larger than a fourth of the bound");
	if (by_time) {
		m.config.flush_ns = PICK(CQ_FLUSH_NS_MIN, 1000000, UINT64_C(3600000000000));
		m.config.wake_bytes = (size_t)PICK(1, 0, 200);
		m.tick_ns = m.config.flush_ns / 2;
		m.on_time = true;
	}
	note("create(pool flags %u, %u workers, spawn %d, own %d; flags %u, parallel %u, %u callbacks in a block)%s",
	    m.pool_config.flags, m.pool_config.workers_max, m.pool_config.spawn != NULL, m.own_pool, m.config.flags,
	    m.config.parallel, m.slots, m.interleaved ? ", interleaved" : "");
	if (m.own_pool) {
		m.config.pool_config = &m.pool_config;
	} else {
		EXPECT_EQ(CALL(cq_pool_create_sized)(&m.pool_config, sizeof(m.pool_config), &m.pool), 0);
		m.config.pool = m.pool;
	}
	EXPECT_EQ(CALL(cq_cleanup_create_sized)(&m.config, sizeof(m.config), &m.q), 0);
	m.pool = CALL(cq_cleanup_pool)(m.q);
}

/* A call that waits for bodies. */
static void end_pool(void)
{
	struct context c = { .kind = WAITER };

	push_context(&c);
	EXPECT_EQ(CALL(cq_pool_destroy)(m.pool, CQ_FOREVER), 0);
	pop_context(&c);
}

/* Shuts the queue down, in the way that `how` says, and counts. */
static void end(unsigned how)
{
	m.fail_in = 0;
	m.memory_ended = false;
	check();
	if (how != 0 && !m.down)
		shut_down(CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL);
	if (!m.down)
		shut_down(CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, give_back);
	EXPECT(m.down, "the queue does not shut down");
	EXPECT_EQ(m.pending, 0);
	for (int i = 0; i < PRODUCERS; i++)
		if (m.producers[i].p != NULL)
			detach(&m.producers[i]);
	check();
	EXPECT_EQ(CALL(cq_cleanup_destroy)(m.q), 0);
	m.q = NULL;
	if (!m.own_pool)
		end_pool();
	EXPECT_EQ(m.live_bytes, 0);
}

void fuzz_cleanup(bool by_time)
{
	unsigned how;

	model_begin();
	create(by_time);
	how = byte();
	m.spread = (how & 2) != 0;
	how %= 2;
	fuzz_cpu = 0;
	at_point = step_of_another;
	if (setjmp(only_thread) != 0)
		begin_child();
	while (!input_ended())
		nested_call();
	end(how);
}
