/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 1. The model of a queue is an array of nodes and two counts. A call of
 * another thread may fall in at each schedule point; the model then stands as
 * the header says that the queue does at that instant.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fuzz.h"

enum { QUEUES = 2, NODES = 64 };

static struct model {
	cq_workq_t q;
	unsigned stack[NODES], linked;	/* indices of nodes, the last on top */
	uint64_t units;			/* beyond `base` */
	uint64_t owed;			/* units that were taken, and not popped for */
	uint64_t base;			/* units that nobody takes, to be near a limit */
} queues[QUEUES];

static cq_node_t nodes[NODES];
static enum { OUTSIDE, IN_CALL, INSIDE } where_is[NODES];

/* What the innermost call is about to link. */
static struct linking {
	struct model *m;
	unsigned chain[NODES], n;	/* first to last, as they will be popped */
} *linking;

/* The innermost call is a try_pop of this queue, which has not yet taken its unit. */
static struct model *taking;

/* -------------------------------------------------------------- the model */

static uint64_t uncounted(const struct model *m)
{
	return m->linked - m->units - m->owed;
}

static void model_link(void)
{
	struct linking *l = linking;

	if (l == NULL)
		return;
	for (unsigned i = l->n; i-- > 0;) {
		l->m->stack[l->m->linked++] = l->chain[i];
		where_is[l->chain[i]] = INSIDE;
	}
	linking = NULL;
}

/* The model's pop: which node must come. */
static cq_node_t *model_pop(struct model *m)
{
	unsigned i = m->stack[--m->linked];

	m->owed--;
	where_is[i] = OUTSIDE;
	return &nodes[i];
}

static void check(struct model *m)
{
	EXPECT_EQ(CALL(cq_workq_units)(&m->q), m->base + m->units);
}

/* ---------------------------------------------------------------- linking */

static bool choose_node(unsigned *i)
{
	unsigned from = below(NODES);

	for (unsigned k = 0; k < NODES; k++) {
		*i = (from + k) % NODES;
		if (where_is[*i] == OUTSIDE) {
			where_is[*i] = IN_CALL;
			return true;
		}
	}
	return false;
}

/* A chain of up to n nodes, linked by `next` from first to last. */
static unsigned choose_chain(struct linking *l, struct model *m, unsigned n)
{
	l->m = m;
	for (l->n = 0; l->n < n && choose_node(&l->chain[l->n]); l->n++)
		if (l->n > 0)
			nodes[l->chain[l->n - 1]].next = &nodes[l->chain[l->n]];
	return l->n;
}

static void count_added(struct model *m, uint64_t before, uint64_t n)
{
	EXPECT_EQ(before, m->base + m->units);
	m->units += n;
}

static void link_or_push(struct model *m, bool push)
{
	struct linking l;

	if (choose_chain(&l, m, 1) == 0)
		return;
	note("%s(q%d, node %u)", push ? "push" : "link", (int)(m - queues), l.chain[0]);
	linking = &l;
	if (push) {
		count_added(m, cq_workq_push(&m->q, &nodes[l.chain[0]]), 1);
	} else {
		cq_workq_link(&m->q, &nodes[l.chain[0]]);
		model_link();
	}
}

static void do_push(struct model *m) { link_or_push(m, true); }
static void do_link(struct model *m) { link_or_push(m, false); }

static void chain(struct model *m, bool push)
{
	struct linking l;
	unsigned n = choose_chain(&l, m, 1 + below(8));
	cq_node_t *first, *last;

	if (n == 0)
		return;
	first = &nodes[l.chain[0]];
	last = &nodes[l.chain[n - 1]];
	note("%s_chain(q%d, %u nodes)", push ? "push" : "link", (int)(m - queues), n);
	linking = &l;
	if (push) {
		count_added(m, CALL(cq_workq_push_chain)(&m->q, first, last, n), n);
	} else {
		CALL(cq_workq_link_chain)(&m->q, first, last);
		model_link();
	}
}

static void do_push_chain(struct model *m) { chain(m, true); }
static void do_link_chain(struct model *m) { chain(m, false); }

static void do_add_work(struct model *m)
{
	uint64_t n = uncounted(m);

	if (n > 1)
		n = below((unsigned)n + 1);
	/* A call below this one has linked and will count: those are not ours. */
	if (depth > 0)
		return;
	note("add_work(q%d, %" PRIu64 ")", (int)(m - queues), n);
	count_added(m, CALL(cq_workq_add_work)(&m->q, n), n);
}

/* --------------------------------------------------------- taking, popping */

static void do_take(struct model *m)
{
	bool taken;

	if (m->base != 0 && m->units == 0)
		return;
	taken = cq_workq_try_take_work(&m->q);
	note("try_take_work(q%d) = %d", (int)(m - queues), taken);
	EXPECT_EQ(taken, m->units > 0);
	m->units -= taken;
	m->owed += taken;
}

static void do_take_some(struct model *m)
{
	uint64_t max = PICK(0, 1, 2, 3, 8, NODES, UINT32_MAX, UINT64_MAX), before, taken;

	if (m->base != 0 && max > m->units)
		return;
	before = CALL(cq_workq_take)(&m->q, max);
	note("take(q%d, %" PRIu64 ") = %" PRIu64, (int)(m - queues), max, before);
	EXPECT_EQ(before, m->base + m->units);
	taken = before < max ? before : max;
	m->units -= taken;
	m->owed += taken;
}

static void do_pop_taken(struct model *m)
{
	cq_node_t *node;

	/* What a call below this one has taken, it pops itself. */
	if (m->owed == 0 || depth > 0)
		return;
	note("pop_taken(q%d)", (int)(m - queues));
	node = cq_workq_pop_taken(&m->q);
	EXPECT(node == model_pop(m), "another node was popped");
}

static void do_pop_taken_n(struct model *m)
{
	uint64_t n = below(16);
	cq_node_t *node, *next;

	if (n > m->owed || depth > 0)
		return;
	note("pop_taken_n(q%d, %" PRIu64 ")", (int)(m - queues), n);
	node = CALL(cq_workq_pop_taken_n)(&m->q, n);
	for (; n > 0; n--, node = next) {
		EXPECT(node == model_pop(m), "another node was popped");
		next = node->next;
	}
	EXPECT(node == NULL, "the chain goes on");
}

static void do_try_pop(struct model *m)
{
	cq_node_t *node;

	if (m->base != 0 && m->units == 0)
		return;
	note("try_pop(q%d)", (int)(m - queues));
	taking = m;
	node = cq_workq_try_pop(&m->q);
	if (node != NULL)
		EXPECT(taking == NULL && node == model_pop(m), "another node was popped");
	else
		EXPECT_EQ(m->units, 0);
	taking = NULL;
}

static void do_destroy(struct model *m)
{
	int err;

	if (depth > 0)
		return;
	err = CALL(cq_workq_destroy)(&m->q);
	note("destroy(q%d) = %d", (int)(m - queues), err);
	EXPECT_EQ(err, m->linked != 0 || m->base + m->units != 0 ? EBUSY : 0);
	if (err == 0)
		EXPECT_EQ(CALL(cq_workq_init)(&m->q), 0);
}

/* ---------------------------------------------------------------- decoding */

static void (*const calls[])(struct model *) = {
	NULL, do_push, do_link, do_push_chain, do_link_chain, do_add_work, do_take,
	do_take_some, do_pop_taken, do_pop_taken_n, do_try_pop, do_destroy,
};

static void some_call(void)
{
	unsigned b = below(2 * sizeof(calls) / sizeof(*calls));
	struct model *m = &queues[b & 1];

	if (calls[b >> 1] == NULL)
		return;
	calls[b >> 1](m);
	if (depth == 0)
		check(m);
}

/* What the call below has done by now. */
static void follow(const char *where)
{
	if (strcmp(where, "workq.linked") == 0)
		model_link();
	if (strcmp(where, "workq.taken") == 0 && taking != NULL) {
		taking->units--;
		taking->owed++;
		taking = NULL;
	}
}

static bool others_may_call(const char *where)
{
	/* A pop with a lock excludes others. Nobody may take the units of `base`. */
	return depth < 3 && !input_ended() && queues[0].base == 0 && queues[1].base == 0 &&
	    (strncmp(where, "stack.", 6) != 0 || strcmp(CALL(cq_build_info)()->pop, "dwcas") == 0);
}

/* Another thread makes a call, between two steps of the one below. */
static void step_of_another(const char *where)
{
	struct linking *l;
	struct model *t;

	follow(where);
	if (!others_may_call(where))
		return;
	l = linking;
	t = taking;
	linking = NULL;
	taking = NULL;
	depth++;
	some_call();
	depth--;
	linking = l;
	taking = t;
}

static void empty(struct model *m)
{
	cq_node_t *node;

	CALL(cq_workq_add_work)(&m->q, uncounted(m));
	m->units += uncounted(m);
	while (m->units > 0 || m->owed > 0) {
		if (m->owed == 0) {
			EXPECT_EQ(CALL(cq_workq_take)(&m->q, m->units), m->base + m->units);
			m->owed = m->units;
			m->units = 0;
		}
		node = cq_workq_pop_taken(&m->q);
		EXPECT(node == model_pop(m), "another node was popped");
	}
	EXPECT_EQ(CALL(cq_workq_units)(&m->q), m->base);
	m->q.units = 0;
	EXPECT_EQ(CALL(cq_workq_destroy)(&m->q), 0);
}

/* An empty queue whose counters are about to pass a limit. */
static void begin(struct model *m)
{
	*m = (struct model){ .linked = 0 };
	EXPECT_EQ(CALL(cq_workq_init)(&m->q), 0);
	m->base = PICK(0, 0, UINT32_MAX - 2, (UINT64_C(1) << 63) - 2, UINT64_MAX - NODES);
	m->q.units = m->base;
	/* Elsewhere that word is the lock. */
	if (strcmp(CALL(cq_build_info)()->pop, "dwcas") == 0)
		m->q.stack.generation = (char *)(uintptr_t)PICK(0, UINTPTR_MAX - 3);
}

void fuzz_workq(void)
{
	memset(where_is, 0, sizeof(where_is));
	memset(nodes, 0, sizeof(nodes));
	linking = NULL;
	taking = NULL;
	for (int i = 0; i < QUEUES; i++)
		begin(&queues[i]);
	at_point = step_of_another;
	while (!input_ended())
		some_call();
	at_point = NULL;
	for (int i = 0; i < QUEUES; i++)
		empty(&queues[i]);
}
