/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 3: the decoder. Each do_ is one call, with what the model says of it. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cleanup/cleanup_priv.h" /* which locks are held at a schedule point */
#include "model.h"

static void step_of_another(const char *where);

static jmp_buf only_thread;	/* where a forked child begins, unless in a callback */
static cq_cleanup_stats_t before_trim;

static struct producer *some_producer(void)
{
	struct producer *p = &m.producers[below(PRODUCERS)];

	return p->p != NULL && !p->busy && !p->orphan ? p : NULL;
}

static struct handle *some_handle(void)
{
	struct handle *h = &m.handles[below(HANDLES)];

	return h->w != NULL && !h->busy ? h : NULL;
}

static int id(const struct producer *p)
{
	return (int)(p - m.producers);
}

/* -------------------------------------------------------------- producers */

static void do_attach(void)
{
	struct producer *p = &m.producers[below(PRODUCERS)];
	unsigned failures = m.alloc_failures;
	int err;

	if (p->p != NULL)
		return;
	err = CALL(cq_producer_attach)(m.q, &p->p);
	note("attach p%d = %d", id(p), err);
	EXPECT_EQ(err, m.closed ? ESHUTDOWN : m.alloc_failures != failures ? ENOMEM : 0);
	*p = (struct producer){ .p = err == 0 ? p->p : NULL };
}

/* The open block of a producer has gone. */
static void block_gone(struct producer *p)
{
	p->n = p->unclaimed = 0;
	p->open = false;
	p->shared = p->only = NONE_YET;
	if (m.exact)
		published(id(p), m.nitems);
}

/* What a call of a producer did to the number of units. */
static void check_published(uint64_t before, uint64_t blocks)
{
	if (m.exact)
		EXPECT_EQ(units() - before, blocks);
}

/*
 * A block that enqueue filled with one function is followed by one for that function
 * alone, unless a reservation counts on what a block holds.
 */
static bool will_share(const struct producer *p, unsigned function)
{
	return m.args != 0 && p->sole == (int)function + 1 && p->reserved == 0;
}

/* Does the next callback, of this function, fill its block? */
static bool will_fill(const struct producer *p, unsigned function)
{
	if (!p->open)
		return false;
	return p->n + 1 == (p->shared == (int)function + 1 ? m.args : m.slots) &&
	    (p->shared == NONE_YET || p->shared == (int)function + 1);
}

/* A block for another function ends early. Returns how many that publishes. */
static unsigned end_early(struct producer *p)
{
	unsigned blocks = p->unclaimed != 0;

	block_gone(p);
	p->sole = NONE_YET;
	return blocks;
}

static void opened(struct producer *p, unsigned function)
{
	p->open = true;
	p->shared = will_share(p, function) ? (int)function + 1 : NONE_YET;
}

static void accepted(struct producer *p, unsigned i)
{
	int function = (int)m.items[i].function + 1;

	if (!p->open)
		opened(p, m.items[i].function);
	p->only = p->only == NONE_YET || p->only == function ? function : SEVERAL;
	if (m.items[i].life == IN_FLIGHT) {
		m.items[i].life = PENDING;
		m.pending++;
	}
	m.items[i].accepted = true;
	m.accepted++;
	p->n++;
	p->unclaimed++;
	if (p->reserved > 0)
		p->reserved--;
	if (p->n == (p->shared != NONE_YET ? m.args : m.slots)) {
		p->sole = p->only;
		block_gone(p);
	}
}

static void check_refusal(const struct producer *p, int err, bool was_closed, unsigned failures)
{
	if (err == ENOMEM)
		EXPECT(m.alloc_failures != failures && p->reserved == 0, "ENOMEM without need");
	else
		EXPECT(m.closed && err == (was_closed || err != 0 ? ESHUTDOWN : 0),
		    "enqueue returns %d", err);
}

/* Where blocks may share one function, the input chooses it; ANY: they take turns. */
enum { ANY = FUNCTIONS };

static unsigned some_function(void)
{
	return m.args != 0 ? below(FUNCTIONS + 1) : ANY;
}

/* It is in flight. */
static unsigned new_item(const struct producer *p, unsigned function)
{
	m.items[m.nitems] = (struct item){ IN_FLIGHT, id(p),
		function == ANY ? m.nitems % FUNCTIONS : function, m.exact ? NO : MAYBE, false };
	return m.nitems++;
}

static bool enqueue(struct producer *p, unsigned function)
{
	unsigned i = m.nitems, failures = m.alloc_failures;
	uint64_t before = units(), blocks = 0;
	bool was_closed = m.closed, was_down = m.down;
	int err;

	if (i == CALLBACKS)
		return false;
	new_item(p, function);
	function = m.items[i].function;
	p->busy = true;
	err = CALL(cq_producer_enqueue)(p->p, function_of(i), (void *)((uintptr_t)i + 1));
	p->busy = false;
	note("enqueue(p%d, #%u by %u) = %d", id(p), i, function, err);
	if (p->shared != NONE_YET && p->shared != (int)function + 1)
		blocks = end_early(p);
	if (err != 0) {
		check_refusal(p, err, was_closed, failures);
		check_published(before, blocks);
		EXPECT(m.items[i].life == IN_FLIGHT, "#%u has run, though it was refused", i);
		m.items[i].life = REFUSED;
		return false;
	}
	/* Another thread's flush or shutdown may have claimed it before it could be taken back. */
	EXPECT(!was_closed || (m.interleaved && !was_down), "enqueue into a closed queue");
	blocks += will_fill(p, function);
	accepted(p, i);
	check_published(before, blocks);
	return true;
}

static void do_enqueue(void)
{
	struct producer *p = some_producer();

	if (p != NULL)
		enqueue(p, some_function());
}

/* Enough to fill a block, or nearly. */
static void do_enqueue_some(void)
{
	struct producer *p = some_producer();
	unsigned n = m.slots - 1 + below(4), function = some_function();

	if (m.args != 0 && below(2) != 0)
		n += m.args - m.slots;
	while (p != NULL && n-- > 0 && enqueue(p, function))
		;
}

/* The slots of a span, of which the first k are committed. */
static void fill_and_commit(struct producer *p, cq_callback_t *slots, size_t k)
{
	unsigned first = m.nitems, failures = m.alloc_failures, function = some_function();
	uint64_t before = units(), full = p->n + k == m.slots;
	bool was_closed = m.closed, was_down = m.down;
	size_t stay;
	int err;

	for (unsigned i = first; i < first + k; i++, slots++) {
		new_item(p, function);
		slots->fn = function_of(i);
		slots->arg = (void *)((uintptr_t)i + 1);
	}
	p->busy = true;
	err = CALL(cq_producer_commit)(p->p, k, &stay);
	p->busy = false;
	note("commit(p%d, %zu from #%u) = %d, %zu", id(p), k, first, err, stay);
	EXPECT(stay <= k && (err == 0) == (stay == k), "commit returns %d, and %zu", err, stay);
	for (size_t i = 0; i < stay; i++)
		accepted(p, first + (unsigned)i);
	if (full)
		p->sole = NONE_YET; /* spans have no use for a shared function */
	for (size_t i = stay; i < k; i++) {
		EXPECT(m.items[first + i].life == IN_FLIGHT, "it has run, though it was refused");
		m.items[first + i].life = REFUSED;
	}
	if (err != 0)
		check_refusal(p, err, was_closed, failures);
	EXPECT(stay == 0 || !was_closed || (m.interleaved && !was_down),
	    "commit into a closed queue");
	if (err == 0)
		check_published(before, full);
}

static void do_span(void)
{
	struct producer *p = some_producer();
	unsigned failures = m.alloc_failures;
	uint64_t before = units();
	cq_callback_t *slots;
	size_t n, beyond;
	int err;

	if (p == NULL)
		return;
	p->busy = true;
	err = CALL(cq_producer_span)(p->p, &slots, &n);
	p->busy = false;
	note("span(p%d) = %d", id(p), err);
	if (p->shared != NONE_YET && err != ESHUTDOWN)
		check_published(before, end_early(p));
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

static void do_enqueue_null(void)
{
	struct producer *p = some_producer();

	if (p != NULL)
		EXPECT_EQ(CALL(cq_producer_enqueue)(p->p, NULL, NULL), EINVAL);
}

/* So many callbacks are more bytes than there are. */
#define BEYOND (SIZE_MAX / (2 * sizeof(void *)))

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
	else if (n >= BEYOND)
		expected = EINVAL;
	else if (m.alloc_failures != failures)
		expected = ENOMEM;
	EXPECT(err == expected || (m.points != 0 && err == 0), "reserve returns %d", err);
	if (err == 0)
		p->reserved = n;
}

/* Of a call that publishes: 0, or EAGAIN, if the queue is stalled. */
static void check_woken(int err)
{
	bool stalled = CALL(cq_cleanup_stalled)(m.q);

	EXPECT(err == 0 || err == EAGAIN, "it returns %d", err);
	if (m.exact && err == EAGAIN)
		EXPECT(stalled, "EAGAIN, but the queue is not stalled");
}

static void do_flush(void)
{
	struct producer *p = some_producer();
	unsigned failures = m.alloc_failures;
	uint64_t before = units(), blocks;
	int err;

	if (p == NULL)
		return;
	blocks = p->unclaimed != 0;
	p->busy = true;
	err = CALL(cq_producer_flush)(p->p);
	p->busy = false;
	note("flush(p%d) = %d", id(p), err);
	if (err == ENOMEM) {
		EXPECT(m.alloc_failures != failures && p->reserved != 0, "ENOMEM without need");
		check_published(before, 0);
		return;
	}
	check_woken(err);
	if (m.exact && blocks != 0 && CALL(cq_cleanup_stalled)(m.q))
		EXPECT_EQ(err, (m.config.flags & CQ_POLLED) != 0 ? 0 : EAGAIN);
	check_published(before, blocks);
	if (blocks != 0)
		block_gone(p);
}

static void detach(struct producer *p)
{
	uint64_t before = units(), blocks = p->unclaimed != 0;

	p->busy = true;
	CALL(cq_producer_detach)(p->p);
	note("detach p%d", id(p));
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

static void do_flush_all(void)
{
	unsigned failures = m.alloc_failures;
	uint64_t before = units(), n = 0;
	int err;

	for (int i = 0; i < PRODUCERS; i++)
		n += m.producers[i].unclaimed;
	err = CALL(cq_cleanup_flush_all)(m.q);
	note("flush_all = %d", err);
	if (err == ENOMEM) {
		EXPECT(m.alloc_failures != failures, "ENOMEM without need");
		/* Some are published, and nobody says which. */
		m.exact = false;
		for (unsigned i = 0; i < m.nitems; i++)
			if (m.items[i].published == NO)
				m.items[i].published = MAYBE;
		return;
	}
	check_woken(err);
	check_published(before, (n + m.slots - 1) / m.slots);
	if (m.exact)
		gathered();
}

/* ----------------------------------------------------------------- waking */

static void do_wake(void)
{
	int err = CALL(cq_cleanup_wake)(m.q);

	note("wake = %d", err);
	check_woken(err);
	m.uncovered = false;
	if (!m.interleaved)	/* else more may be published meanwhile */
		demand_is_met();
}

static void do_questions(void)
{
	uint64_t n = units();

	note("needs_wake = %d, stalled = %d", CALL(cq_cleanup_needs_wake)(m.q),
	    CALL(cq_cleanup_stalled)(m.q));
	EXPECT(n <= m.nitems, "%" PRIu64 " units", n);
}

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

static bool alloc_may_fail(void)
{
	return m.fail_in != 0 || m.memory_ended || m.live_bytes > 500000;
}

static void do_fail_spawns(void)
{
	m.spawns_fail = byte();
	note("spawns fail by %#x", m.spawns_fail);
}

static void do_advance(void)
{
	advance_by(PICK(1, 9, 1000));
	note("it is %" PRIu64, now);
}

/* ------------------------------------------------------------------ polling */

static void do_run_some(void)
{
	size_t budget = (size_t)PICK(SIZE_MAX, 0, 1, 2, 5, 17), n;
	bool stopped = m.stopped == TRUE && m.points == 0;

	note("run_some(%zu)", budget);
	n = CALL(cq_cleanup_run_some)(m.q, budget);
	note("it ran %zu", n);
	EXPECT(n <= budget, "it exceeds the budget");
	if (n < budget && m.stopped == FALSE && !m.interleaved)
		EXPECT_EQ(units(), 0);
	EXPECT(n == 0 || !stopped, "it runs what is to be handed back");
}

/*
 * May a worker sleep here? Not in a callback; and not above a call that waits
 * for workers, if the sleep has no end.
 */
static bool may_sleep(bool ends)
{
	return m.frames == 0 && depth < DEPTH_MAX - 1 && (ends || !within(WAITER));
}

/* Does a worker that finds nothing retire? Near the end of time its deadline never comes. */
static bool workers_retire(void)
{
	return m.config.idle_ns != CQ_FOREVER && now < CQ_FOREVER / 2;
}

/*
 * A worker has ended: it has retired (true), or was stopped. One that retires as
 * a shutdown begins may count as either.
 */
static bool ended(const struct context *c)
{
	cq_cleanup_stats_t s;
	bool retired;

	CALL(cq_cleanup_stats_sized)(m.q, &s, sizeof(s));
	retired = s.workers_retired != m.retired;
	if (m.stopped == FALSE)
		EXPECT(retired, "it ends, and nothing has stopped it");
	EXPECT(!retired || c->retiring, "it is counted as retired");
	m.retired += retired;
	if (!c->retiring) {
		m.live--;
		m.made -= c->made;
	}
	return retired;
}

static void do_work(void)
{
	struct context c = { .kind = WORKER };
	unsigned failures = m.alloc_failures;
	int err, expected = 0;

	if (m.frames != 0) {
		EXPECT_EQ(CALL(cq_cleanup_work)(m.q), EDEADLK);
		return;
	}
	/* Made as it begins, if memory and the queue allow it. */
	if (!may_sleep(workers_retire()) || m.stopped == PERHAPS || alloc_may_fail())
		return;
	note("work");
	push_context(&c);
	if (m.stopped == FALSE)
		lives();
	else
		expected = ESHUTDOWN;
	err = CALL(cq_cleanup_work)(m.q);
	pop_context(&c);
	note("work = %d", err);
	if (expected != 0) {
		EXPECT_EQ(err, expected);
		return;
	}
	EXPECT(m.alloc_failures != failures || err != ENOMEM, "ENOMEM without need");
	EXPECT_EQ(err, ended(&c) ? ETIMEDOUT : 0);
}

static void run_body(struct body *b)
{
	struct context c = { .kind = WORKER, .made = true };

	note("body %d begins", (int)(b - m.bodies));
	b->state = RUNNING;
	push_context(&c);
	b->run(b->arg);
	pop_context(&c);
	note("body %d ends", (int)(b - m.bodies));
	ended(&c);
	b->state = NONE;
}

static void do_body(void)
{
	struct body *b = &m.bodies[below(4)];

	if (b->state == ASKED && may_sleep(workers_retire() || m.stopped == TRUE))
		run_body(b);
}

/* ------------------------------------------------------- workers in pieces */

static void do_worker_attach(void)
{
	struct handle *h = &m.handles[below(HANDLES)];
	unsigned failures = m.alloc_failures;
	int err;

	if (h->w != NULL)
		return;
	err = CALL(cq_worker_attach)(m.q, h, &h->w);
	note("attach w%d = %d", (int)(h - m.handles), err);
	if (m.alloc_failures != failures)
		EXPECT_EQ(err, ENOMEM);
	else if (m.stopped != PERHAPS)
		EXPECT_EQ(err, m.stopped == TRUE ? ESHUTDOWN : 0);
	else
		EXPECT(err == 0 || err == ESHUTDOWN, "attach returns %d", err);
	*h = (struct handle){ .w = err == 0 ? h->w : NULL };
	if (err == 0)
		lives();
}

static void detach_worker(struct handle *h)
{
	note("detach w%d", (int)(h - m.handles));
	h->busy = true;
	leaves();	/* before it is looked for work that only it was to do */
	CALL(cq_worker_detach)(h->w);
	*h = (struct handle){ .w = NULL };
}

static void do_worker_detach(void)
{
	struct handle *h = some_handle();

	if (h != NULL)
		detach_worker(h);
}

static void do_try_dequeue(void)
{
	struct handle *h = some_handle();
	uint64_t before = units();

	if (h == NULL)
		return;
	if (h->block != NULL) {
		EXPECT(CALL(cq_worker_try_dequeue)(h->w) == NULL, "a second block in hand");
		return;
	}
	h->busy = true;
	h->block = CALL(cq_worker_try_dequeue)(h->w);
	h->busy = false;
	note("try_dequeue(w%d) = %p", (int)(h - m.handles), (void *)h->block);
	if (m.points == 0 && m.exact && m.stopped != PERHAPS)
		EXPECT_EQ(h->block != NULL, before != 0 && m.stopped == FALSE);
	if (m.points == 0 && m.exact && h->block != NULL)
		EXPECT_EQ(units(), before - 1);
}

static void do_dequeue(void)
{
	struct handle *h = some_handle();
	struct context c = { .kind = WORKER, .host = h };

	if (h != NULL && h->block != NULL)
		EXPECT(CALL(cq_worker_dequeue)(h->w) == NULL, "a second block in hand");
	if (h == NULL || h->block != NULL || !may_sleep(false))
		return;
	note("dequeue(w%d)", (int)(h - m.handles));
	h->busy = true;
	push_context(&c);
	h->block = CALL(cq_worker_dequeue)(h->w);
	pop_context(&c);
	h->busy = false;
	note("dequeue = %p", (void *)h->block);
	EXPECT(h->block != NULL || m.stopped != FALSE, "NULL, and nothing has stopped it");
}

static void do_next(void)
{
	struct handle *h = some_handle();
	cq_callback_fn *fn;
	void *arg;

	if (h == NULL || h->block == NULL || !CALL(cq_block_next)(h->block, &fn, &arg))
		return;
	note("next(w%d) is #%u", (int)(h - m.handles), item_of(fn, arg));
	ran(item_of(fn, arg), DONE);
}

static void finish(struct handle *h)
{
	uint64_t before = units();
	cq_block_t *b = h->block;

	note("finish(w%d)", (int)(h - m.handles));
	h->busy = true;
	h->block = NULL;
	CALL(cq_worker_finish)(h->w, b);
	h->busy = false;
	if (m.points == 0 && m.exact)
		EXPECT(units() - before <= 1, "it gives back more than a block");
}

static void do_finish(void)
{
	struct handle *h = some_handle();

	if (h != NULL && h->block != NULL)
		finish(h);
}

static void do_run(void)
{
	struct handle *h = some_handle();
	cq_block_t *b;

	if (h == NULL || h->block == NULL)
		return;
	note("run(w%d)", (int)(h - m.handles));
	b = h->block;
	h->busy = true;
	h->block = NULL;
	CALL(cq_worker_run)(h->w, b);
	h->busy = false;
}

/* --------------------------------------------------------- drain, shutdown */

/* No worker will come for what is left. (Of run_some in other threads it is not said.) */
static bool nobody_serves(void)
{
	return m.config.spawn == NULL && m.live == 0;
}

/* Only a call that nobody below this one has to let go on may wait for ever. */
static bool may_wait(uint64_t deadline, bool for_workers)
{
	bool busy = m.points != 0;

	if (for_workers)
		busy |= within(WORKER);
	return depth < DEPTH_MAX - 1 && (deadline != CQ_FOREVER || !busy);
}

static unsigned pending_before(unsigned n)
{
	unsigned pending = 0;

	for (unsigned i = 0; i < n; i++)
		pending += m.items[i].life == PENDING;
	return pending;
}

static void check_drained(int err, const struct context *c, unsigned failures)
{
	switch (err) {
	case 0:
		EXPECT_EQ(pending_before(c->before), 0);
		break;
	case ETIMEDOUT:
		EXPECT(now >= c->deadline && c->deadline != CQ_FOREVER, "too early");
		EXPECT(m.pending != 0 || count_held() != 0 || m.points != 0 || m.unsure != 0,
		    "a time-out with nothing to wait for");
		break;
	case EAGAIN:
		EXPECT(CALL(cq_cleanup_stalled)(m.q) || nobody_serves(),
		    "EAGAIN, but the queue is not stalled, and somebody serves it");
		break;
	case ENOMEM:
		EXPECT(m.alloc_failures != failures, "ENOMEM without need");
		m.exact = false;
		break;
	case ESHUTDOWN:
		EXPECT(m.stopped != FALSE && m.hand_back_tried, "nothing has stopped the workers");
		break;
	default:
		EXPECT(false, "drain returns %d", err);
	}
	if (err != ENOMEM && m.exact)
		published(-1, c->before);
}

static void forget_claims(void)
{
	for (int i = 0; i < PRODUCERS; i++)
		m.producers[i].unclaimed = 0;
}

static void do_drain(void)
{
	struct context c = { .kind = WAITER, .deadline = some_deadline(), .flushes = true };
	unsigned failures = m.alloc_failures;
	int err;

	if (m.frames != 0) {
		EXPECT_EQ(CALL(cq_cleanup_drain)(m.q, c.deadline), EDEADLK);
		return;
	}
	if (!may_wait(c.deadline, false) || alloc_may_fail())
		return;
	note("drain(%" PRIu64 ")", c.deadline);
	c.before = m.nitems;
	forget_claims();
	m.uncovered = false;
	push_context(&c);
	err = CALL(cq_cleanup_drain)(m.q, c.deadline);
	pop_context(&c);
	note("drain = %d", err);
	check_drained(err, &c, failures);
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

static bool nothing_left(void)
{
	return m.pending == 0 && count_handles() == 0 && count_bodies() == 0;
}

static void check_shut_down(int err, const struct context *c, cq_shutdown_how_t how,
    cq_give_back_fn *back, unsigned failures)
{
	switch (err) {
	case 0:
		EXPECT(nothing_left(), "%u callbacks, %u handles, %u bodies are left", m.pending,
		    count_handles(), count_bodies());
		EXPECT_EQ(units(), 0);
		m.down = true;
		m.stopped = TRUE;
		break;
	case ETIMEDOUT:
		EXPECT(now >= c->deadline && c->deadline != CQ_FOREVER, "too early");
		EXPECT(!nothing_left() || m.points != 0 || m.unsure != 0 || within(WORKER),
		    "a time-out with nothing to wait for");
		break;
	case EAGAIN:
		EXPECT(how == CQ_SHUTDOWN_DRAIN &&
		    (CALL(cq_cleanup_stalled)(m.q) || nobody_serves()),
		    "EAGAIN, but the queue is not stalled, and somebody serves it");
		break;
	case ENOMEM:
		EXPECT(m.alloc_failures != failures, "ENOMEM without need");
		m.exact = false;
		break;
	case EINVAL:
		EXPECT(back == NULL && m.hand_back_tried && units() != 0, "EINVAL without cause");
		break;
	default:
		EXPECT(false, "shutdown returns %d", err);
	}
}

static void shut_down(cq_shutdown_how_t how, uint64_t deadline, cq_give_back_fn *back)
{
	struct context c = { .kind = WAITER, .deadline = deadline };
	unsigned failures = m.alloc_failures;
	enum tri stopped = m.stopped;
	int err;

	note("shutdown(%s, %" PRIu64 ", %s)", how == CQ_SHUTDOWN_DRAIN ? "DRAIN" : "HAND_BACK", deadline,
	    back != NULL ? "give_back" : "NULL");
	m.closed = true;
	m.exact = false;	/* what is published, and when, no header says */
	if (m.stopped != TRUE)
		m.stopped = how == CQ_SHUTDOWN_DRAIN ? PERHAPS : TRUE;
	if (how != CQ_SHUTDOWN_DRAIN)
		m.hand_back_tried = true;
	c.before = m.nitems;
	m.uncovered = false;
	m.shutting++;
	push_context(&c);
	err = CALL(cq_cleanup_shutdown)(m.q, how, deadline, back, &m);
	pop_context(&c);
	m.shutting--;
	note("shutdown = %d", err);
	check_shut_down(err, &c, how, back, failures);
	if (err == EAGAIN)
		m.stopped = stopped;	/* it was the drain that failed */
}

static void do_shutdown(void)
{
	cq_shutdown_how_t how = below(2) ? CQ_SHUTDOWN_DRAIN : CQ_SHUTDOWN_HAND_BACK;
	uint64_t deadline = some_deadline();
	cq_give_back_fn *back = below(4) != 1 ? give_back : NULL;
	int err = 0;

	if (how == CQ_SHUTDOWN_HAND_BACK && back == NULL)
		err = EINVAL;
	else if (m.frames != 0)
		err = EDEADLK;
	else if (m.shutting != 0)
		err = EALREADY;
	else if (!m.down) {
		if (may_wait(deadline, true))
			shut_down(how, deadline, back);
		return;
	}
	note("shutdown, expecting %d", err);
	EXPECT_EQ(CALL(cq_cleanup_shutdown)(m.q, how, deadline, back, &m), err);
}

/*
 * A sleep at the end of the bytes, or too deep: what other threads would do, so
 * that it ends. A waiter for which nothing is left to do has missed its wake.
 */
static void help_waiter(void)
{
	EXPECT(m.interleaved || m.closed || !nobody_serves(), "a drain sleeps, and nobody serves it");
	for (int i = 0; i < HANDLES; i++) {
		struct handle *h = &m.handles[i];

		if (h->w == NULL || h->busy)
			continue;
		detach_worker(h);
		return;
	}
	if (units() != 0 && m.stopped != TRUE && CALL(cq_cleanup_run_some)(m.q, SIZE_MAX) != 0)
		return;
	for (int i = 0; i < BODIES; i++) {
		if (m.bodies[i].state == ASKED) {
			run_body(&m.bodies[i]);
			return;
		}
	}
	disagree(__FILE__, __LINE__, "a drain or shutdown sleeps on, though nothing is left to do");
}

void end_park(struct context *c, uint64_t deadline)
{
	if (c->granted)
		return;
	if (deadline != CQ_FOREVER) {
		advance_to(deadline);
	} else if (c->kind == WAITER) {
		help_waiter();
	} else {
		m.fail_in = 0;
		m.memory_ended = false;
		EXPECT(!m.down && m.shutting == 0, "a worker sleeps on, though the queue has stopped");
		shut_down(CQ_SHUTDOWN_HAND_BACK, now, give_back);
		EXPECT(c->granted, "a worker sleeps on, though the queue has stopped");
	}
}

/* ------------------------------------------------------------- trim, destroy */

static void check_trimmed(size_t freed)
{
	cq_cleanup_stats_t after;
	uint64_t most = 0;

	CALL(cq_cleanup_stats_sized)(m.q, &after, sizeof(after));
	EXPECT_EQ(freed, (before_trim.blocks_made - after.blocks_made) * after.block_bytes);
	for (int i = 0; i < PRODUCERS; i++) {
		if (m.producers[i].orphan)
			return;	/* it may have been told of a reservation, or not yet */
		if (m.producers[i].p != NULL)
			most += 2 + m.producers[i].reserved / m.slots + 1 +
			    m.args / m.slots; /* reserved beside a shared block, and not needed */
	}
	EXPECT(after.blocks_made <= most, "%" PRIu64 " blocks are left", after.blocks_made);
}

static void do_trim(void)
{
	size_t freed = 0, *out = below(2) ? &freed : NULL;
	bool busy = units() != 0 || m.coming != 0 || count_held() != 0 || m.shutting != 0;
	int err;

	/* Beside a call that it may not run with; but a shutdown it notices. */
	if (m.points != 0 || (m.shutting == 0 && (m.frames != 0 || within(WAITER))))
		return;
	CALL(cq_cleanup_stats_sized)(m.q, &before_trim, sizeof(before_trim));
	err = CALL(cq_cleanup_trim)(m.q, out);
	note("trim = %d, %zu bytes", err, freed);
	EXPECT_EQ(err, busy ? EBUSY : 0);
	if (err == 0 && out != NULL)
		check_trimmed(freed);
}

static void do_destroy(void)
{
	bool busy = count_producers() != 0 || count_handles() != 0 || count_bodies() != 0 ||
	    m.pending != 0;

	if (m.top != NULL || !busy || m.unsure != 0)
		return;
	note("destroy");
	EXPECT_EQ(CALL(cq_cleanup_destroy)(m.q), EBUSY);
}

/* -------------------------------------------------------------------- fork */

/* The child has what was accepted, and of the threads only this one. */
static void forget_threads(bool alone)
{
	cq_cleanup_stats_t s;

	m.asleep = m.coming = 0;
	m.live = m.made = 0;
	for (int i = 0; i < HANDLES; i++)
		if (m.handles[i].w != NULL && (alone || !m.handles[i].busy))
			m.handles[i] = (struct handle){ .w = NULL };
		else
			m.live += m.handles[i].w != NULL;
	for (int i = 0; i < BODIES; i++)
		if (alone || m.bodies[i].state != RUNNING)
			m.bodies[i].state = NONE;
	for (struct context *c = m.top; c != NULL && !alone; c = c->outer) {
		m.live += c->kind == WORKER;
		m.made += c->kind == WORKER && c->made;
	}
	for (int i = 0; i < PRODUCERS; i++)
		if (m.producers[i].busy)
			m.producers[i] = (struct producer){ .p = m.producers[i].p, .orphan = true };
	m.uncovered = m.forked = true;
	CALL(cq_cleanup_stats_sized)(m.q, &s, sizeof(s));
	m.failed = s.workers_failed;
	m.last_failed = false;
}

static void forget_items(void)
{
	bool discard = (m.config.flags & CQ_FORK_DISCARD) != 0;

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
	for (int i = 0; i < PRODUCERS && discard; i++)
		m.producers[i].unclaimed = 0;
}

/* Is the calling thread alone with its callbacks, so that they go on in the child? */
static bool in_own_callback(void)
{
	return m.points == 0 && !within(WAITER) && !parked_below();
}

static void fork_child(void)
{
	bool goes_on = in_own_callback();
	cq_cleanup_stats_t stats;

	if (!goes_on && m.frames != 0)
		return;	/* a callback above a call of another thread: not on one stack */
	note("fork: child");
	CALL(cq_cleanup_fork_prepare)(m.q);
	at_point = NULL;	/* there are no other threads */
	CALL(cq_cleanup_fork_child)(m.q);
	at_point = step_of_another;
	/* Those that a waker had taken count, though it is not there to unpark them. */
	CALL(cq_cleanup_stats_sized)(m.q, &stats, sizeof(stats));
	EXPECT(stats.wakes >= m.wakes, "the child forgets wakes");
	m.wakes = stats.wakes;
	forget_items();
	forget_threads(!goes_on);
	if (!goes_on)
		longjmp(only_thread, 1);
}

static void do_fork(void)
{
	if (below(3) != 0) {
		fork_child();
		return;
	}
	note("fork: parent");
	CALL(cq_cleanup_fork_prepare)(m.q);
	CALL(cq_cleanup_fork_parent)(m.q);
}

/* The threads of the calls that were under way are not there. */
static void begin_child(void)
{
	m.top = NULL;
	m.frames = m.points = m.shutting = depth = 0;
	if (m.stopped == PERHAPS && m.down)
		m.stopped = TRUE;
}

/* ------------------------------------------------------------------ decoding */

enum { ALWAYS = 1, LOCK_FREE = 2 };

static const struct {
	void (*call)(void);
	int when; /* LOCK_FREE: also where another thread holds the registry lock */
} calls[] = {
	{ NULL, 0 },
	{ do_enqueue, LOCK_FREE }, { do_enqueue, LOCK_FREE }, { do_enqueue_some, LOCK_FREE },
	{ do_span, LOCK_FREE }, { do_enqueue_null, LOCK_FREE },
	{ do_flush, LOCK_FREE }, { do_flush, LOCK_FREE }, { do_reserve, LOCK_FREE },
	{ do_attach, ALWAYS }, { do_attach, ALWAYS }, { do_detach, ALWAYS },
	{ do_flush_all, ALWAYS }, { do_flush_all, ALWAYS },
	{ do_wake, ALWAYS }, { do_questions, LOCK_FREE }, { do_fail_alloc, ALWAYS },
	{ do_memory_ends, ALWAYS }, { do_fail_spawns, ALWAYS }, { do_advance, LOCK_FREE },
	{ do_run_some, ALWAYS }, { do_run_some, ALWAYS }, { do_work, ALWAYS },
	{ do_body, ALWAYS }, { do_body, ALWAYS }, { do_body, ALWAYS },
	{ do_worker_attach, ALWAYS }, { do_worker_detach, ALWAYS },
	{ do_try_dequeue, LOCK_FREE }, { do_dequeue, ALWAYS }, { do_next, LOCK_FREE },
	{ do_finish, ALWAYS }, { do_run, ALWAYS }, { do_drain, ALWAYS }, { do_drain, ALWAYS },
	{ do_shutdown, ALWAYS }, { do_trim, ALWAYS }, { do_destroy, ALWAYS }, { do_fork, ALWAYS },
};

/* Is another call in the middle of this one, holding a lock? */
static bool locked(void)
{
	return m.top != NULL && m.top->kind == LOCKED_POINT;
}

void nested_call(void)
{
	unsigned b = below(sizeof(calls) / sizeof(*calls));

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

static bool is_free(pthread_mutex_t *lock)
{
	return pthread_mutex_trylock(lock) == 0 && pthread_mutex_unlock(lock) == 0;
}

/*
 * What other threads may do while a call is at this point: anything, when it
 * holds no lock; with the registry lock only what needs none, and wakes nobody.
 */
static int point_kind(void)
{
	if (!is_free(&m.q->idle.lock) || !is_free(&m.q->drainers.lock) || !is_free(&m.q->exits.lock))
		return -1;
	if (is_free(&m.q->registry))
		return POINT;
	return (m.config.flags & CQ_POLLED) != 0 ? LOCKED_POINT : -1;
}

static void step_of_another(const char *where)
{
	struct context c = { .kind = POINT };
	int kind;

	model_event(where);
	if (!m.interleaved || depth >= DEPTH_MAX || input_ended() || strncmp(where, "stack.", 6) == 0 ||
	    strcmp(where, "producer.nowhere") == 0)
		return;
	if (locked() || (kind = point_kind()) < 0 || byte() % 4 != 3)
		return;
	c.kind = kind == POINT ? POINT : LOCKED_POINT;
	note("at %s:", where);
	push_context(&c);
	nested_call();
	pop_context(&c);
}

/* ---------------------------------------------------------- a queue's life */

static void nothing(void *arg)
{
	(void)arg;
}

static unsigned fill_a_block(cq_cleanup_t *q, cq_producer_t *p)
{
	unsigned n = 0;

	for (; cq_cleanup_units(q) == 0; n++)
		EXPECT_EQ(cq_producer_enqueue(p, nothing, NULL), 0);
	EXPECT_EQ(cq_cleanup_run_some(q, SIZE_MAX), n);
	return n;
}

/*
 * "Rounded down to whole callbacks": how many fill a block, found by trying; and a
 * block that shares its function.
 */
static void find_capacities(size_t block_bytes)
{
	cq_cleanup_config_t config = { .flags = CQ_POLLED, .block_bytes = block_bytes };
	cq_cleanup_t *q;
	cq_producer_t *p;

	EXPECT_EQ(cq_cleanup_create(&config, &q), 0);
	EXPECT_EQ(cq_producer_attach(q, &p), 0);
	m.slots = fill_a_block(q, p);
	m.args = fill_a_block(q, p);
	EXPECT_EQ(m.args, block_bytes < 1024 ? m.slots : 2 * m.slots - 1);
	if (m.args == m.slots)
		m.args = 0;
	cq_producer_detach(p);
	EXPECT_EQ(cq_cleanup_destroy(q), 0);
}

/* Sixteen of the bytes that say the size give blocks that share: the corpus had none of them. */
enum { SHARING = 0xe0 };

static void create(void)
{
	static const size_t sizes[] = { 64, 80, 96, 128, 512 };
	unsigned b = byte(), size = byte();
	size_t bytes = (size & 0xf0) == SHARING ? 1024 + (size & 15) * 16 : sizes[size % 5];

	find_capacities(bytes);
	m.config = (cq_cleanup_config_t){
		.flags = (b & (CQ_POLLED | CQ_HANDOVER | CQ_FORK_DISCARD)) | CQ_NO_ATFORK,
		.max_workers = 1 + (b >> 4) % 4,
		.block_bytes = bytes,
		.idle_ns = PICK(10, 1000, CQ_FOREVER),
		.spawn = (b & CQ_POLLED) == 0 || (b & 64) != 0 ? model_spawn : NULL,
		.host = &m,
		.park = &model_park,
		.allocator = &model_allocator,
	};
	m.interleaved = (b & 128) != 0;
	m.exact = !m.interleaved && (b & CQ_HANDOVER) == 0;
	note("create(flags %u, %u workers, %u or %u callbacks in a block, idle %" PRIu64
	    ", spawn %d)%s",
	    m.config.flags, m.config.max_workers, m.slots, m.args, m.config.idle_ns,
	    m.config.spawn != NULL,
	    m.interleaved ? ", interleaved" : "");
	EXPECT_EQ(CALL(cq_cleanup_create_sized)(&m.config, sizeof(m.config), &m.q), 0);
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
	EXPECT_EQ(m.live_bytes, 0);
}

void fuzz_cleanup(void)
{
	unsigned how;

	model_begin();
	create();
	how = byte() % 2;
	at_point = step_of_another;
	if (setjmp(only_thread) != 0)
		begin_child();
	while (!input_ended())
		nested_call();
	end(how);
}
