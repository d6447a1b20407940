/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenarios of layer 1, the work queue. */
#include <cq/workq.h>
#include <stddef.h>

#include "explore.h"

/* A node with a payload that is plain: who pops it must see it, and have it alone. */
struct item {
	cq_node_t node;
	int payload;
};

static cq_workq_t q;
static struct item items[4];

static struct item *item_of(cq_node_t *n)
{
	return (struct item *)n;
}

static void push(int i)
{
	items[i].payload = i + 100;
	cq_workq_push(&q, &items[i].node);
}

/* Takes one if there is one, and uses it. */
static bool pop(void)
{
	struct item *item;

	if (!cq_workq_try_take_work(&q))
		return false;
	item = item_of(cq_workq_pop_taken(&q));
	CHECK(item != NULL);
	CHECK(item->payload == (int)(item - items) + 100);
	item->payload = 0;
	return true;
}

static int popped[8];

static void pusher_of_0(void *arg) { (void)arg; push(0); }
static void pusher_of_1(void *arg) { (void)arg; push(1); }

static void popper(void *arg)
{
	*(int *)arg = pop();
}

static void begin(void)
{
	CHECK(cq_workq_init(&q) == 0);
}

/* Everything was popped, by somebody. */
static void finish(int expected)
{
	int sum = 0;

	join_all();
	for (int i = 0; i < 8; i++)
		sum += popped[i];
	while (pop())
		sum++;
	CHECK(sum == expected);
	CHECK(cq_workq_destroy(&q) == 0);
}

static void add_against_take(void)
{
	begin();
	spawn(pusher_of_0, NULL);
	spawn(popper, &popped[0]);
	finish(1);
}

static void two_add_one_takes(void)
{
	begin();
	spawn(pusher_of_0, NULL);
	spawn(pusher_of_1, NULL);
	spawn(popper, &popped[0]);
	finish(2);
}

static void one_adds_two_take(void)
{
	begin();
	spawn(pusher_of_0, NULL);
	spawn(popper, &popped[0]);
	spawn(popper, &popped[1]);
	finish(1);
}

/* Pops a node, reads it, and pushes it again: the ABA pattern. Who pops it next may
   write there, so the read must be over when it is pushed. */
static void recycler(void *arg)
{
	struct item *item;
	cq_node_t *n;

	(void)arg;
	n = cq_workq_try_pop(&q);
	if (n == NULL)
		return;
	item = item_of(n);
	CHECK(item->payload == (int)(item - items) + 100);
	cq_workq_push(&q, n);
}

static void pop_against_pop_and_push_again(void)
{
	begin();
	push(0);
	push(1);
	spawn(popper, &popped[0]);
	spawn(recycler, NULL);
	finish(2);
}

/* Pops two, and pushes the first again: the node below it is gone. */
static void pops_two_pushes_first(void *arg)
{
	cq_node_t *first = cq_workq_try_pop(&q), *second = cq_workq_try_pop(&q);

	if (second != NULL) {
		item_of(second)->payload = 0;
		*(int *)arg = 1;
	}
	if (first != NULL) {
		item_of(first)->payload = (int)(item_of(first) - items) + 100;
		cq_workq_push(&q, first);
	}
}

static void pop_against_two_pops_and_push_again(void)
{
	begin();
	push(0);
	push(1);
	spawn(popper, &popped[0]);
	spawn(pops_two_pushes_first, &popped[1]);
	finish(2);
}

static void pusher_of_chain(void *arg)
{
	(void)arg;
	items[2].payload = 102;
	items[3].payload = 103;
	items[2].node.next = &items[3].node;
	cq_workq_push_chain(&q, &items[2].node, &items[3].node, 2);
}

/* As many as there are, of two. */
static void popper_of_some(void *arg)
{
	uint64_t before = cq_workq_take(&q, 2), n = before < 2 ? before : 2;
	cq_node_t *first = cq_workq_pop_taken_n(&q, n), *next;

	for (; first != NULL; first = next) {
		next = first->next;
		CHECK(n-- > 0);
		CHECK(item_of(first)->payload == (int)(item_of(first) - items) + 100);
		item_of(first)->payload = 0;
		++*(int *)arg;
	}
	CHECK(n == 0);
}

static void chain_against_pop_of_several(void)
{
	begin();
	push(0);
	spawn(pusher_of_chain, NULL);
	spawn(popper_of_some, &popped[0]);
	spawn(popper, &popped[1]);
	finish(3);
}

/* A producer that publishes late: the halves by themselves. */
static void links_two_counts_once(void *arg)
{
	(void)arg;
	items[0].payload = 100;
	cq_workq_link(&q, &items[0].node);
	items[1].payload = 101;
	cq_workq_link(&q, &items[1].node);
	cq_workq_add_work(&q, 2);
}

static void halves_against_pop_of_several(void)
{
	begin();
	spawn(links_two_counts_once, NULL);
	spawn(popper_of_some, &popped[0]);
	spawn(popper, &popped[1]);
	finish(2);
}

#define ALL { UNBOUNDED, UNBOUNDED, UNBOUNDED }

const struct scenario workq_scenarios[] = {
	{ "workq_add_against_take", add_against_take, ALL, ALL },
	{ "workq_two_add_one_takes", two_add_one_takes, SOME(4, 3), ALL },
	{ "workq_one_adds_two_take", one_adds_two_take, SOME(4, 3), ALL },
	{ "workq_pop_against_pop_and_push_again", pop_against_pop_and_push_again, ALL, ALL },
	{ "workq_pop_against_two_pops_and_push_again", pop_against_two_pops_and_push_again,
	    ALL, ALL },
	{ "workq_chain_against_pop_of_several", chain_against_pop_of_several, SOME(3, 2),
	    SOME(5, 4) },
	{ "workq_halves_against_pop_of_several", halves_against_pop_of_several, SOME(3, 2),
	    SOME(5, 4) },
	{ 0 }
};
