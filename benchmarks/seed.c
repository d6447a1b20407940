/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The algorithm that libcq began from: the cleanup queue of Go's runtime
 * (runtime/mcleanup.go after golang/go#73642), in C on ck_stack, a mutex and
 * futexes. It is deliberately no better than that, so that the ratios say what
 * libcq's additions cost or save. What is different from Go, and why:
 *
 *   - Go's scheduler asks needs_wake() as it passes; here, who publishes does.
 *   - Go makes workers in AddCleanup; here, who publishes does.
 *   - Go waits for an empty queue by polling; here the last worker that goes to
 *     sleep wakes the waiter, by the same test of emptiness.
 *   - A callback is 2 words, not 3, and is not cleared for a garbage collector.
 *
 * Memory order is Go's: counters are sequentially consistent.
 */
#include <ck_pr.h>
#include <ck_stack.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "contestant.h"

#define LINE 64
#define ALIGNED(bytes) __attribute__((aligned(bytes)))

enum { BLOCK_BYTES = 512, BLOCK_CALLBACKS = (BLOCK_BYTES - 24) / (2 * sizeof(void *)) };

struct block {
	ck_stack_entry_t link;
	struct block *all_next; /* every block ever made */
	uint32_t n;
	struct {
		bench_fn *fn;
		void *arg;
	} callbacks[BLOCK_CALLBACKS];
} ALIGNED(LINE);

_Static_assert(sizeof(struct block) == BLOCK_BYTES, "a block is 512 bytes");

struct sleeper {
	struct sleeper *next;
	uint32_t woken; /* the futex */
};

struct seed {
	ck_stack_t full ALIGNED(LINE);
	uint64_t units; /* <= blocks in full */
	ck_stack_t free ALIGNED(LINE);
	struct block *all ALIGNED(LINE);

	pthread_mutex_t lock ALIGNED(LINE);
	struct sleeper *sleeping;
	uint32_t asleep;   /* >= length of sleeping. Written under the lock */
	uint32_t nworkers; /* likewise */
	uint32_t needed;   /* workers to be made; likewise */
	uint32_t max_workers;
	bool stop;
	pthread_cond_t all_asleep;
	struct producer *producers;
	uint64_t executed ALIGNED(LINE);
	pthread_t threads[];
};

struct producer {
	struct block *block;
	uint64_t queued;
	struct seed *q;
	struct producer *next;
};

/* ------------------------------------------------------------------- blocks */

/* Load-to-store order, which ck's push lacks: the pusher has read the block. */
static void push(ck_stack_t *stack, struct block *b)
{
	ck_pr_fence_release();
	ck_stack_push_mpmc(stack, &b->link);
}

static struct block *pop(ck_stack_t *stack)
{
	return (struct block *)(void *)ck_stack_pop_mpmc(stack); /* link comes first */
}

static struct block *get_block(struct seed *q)
{
	struct block *b = pop(&q->free);

	if (b != NULL)
		return b;
	b = aligned_alloc(LINE, sizeof(*b));
	if (b == NULL)
		bench_die("aligned_alloc", ENOMEM);
	b->n = 0;
	b->all_next = __atomic_load_n(&q->all, __ATOMIC_SEQ_CST);
	while (!__atomic_compare_exchange_n(&q->all, &b->all_next, b, false, __ATOMIC_SEQ_CST,
	    __ATOMIC_SEQ_CST))
		;
	return b;
}

/* Moves as many callbacks as fit from the tail of `from` into `to`. */
static void move_callbacks(struct block *to, struct block *from)
{
	uint32_t room = BLOCK_CALLBACKS - to->n;
	uint32_t n = from->n < room ? from->n : room;

	memcpy(&to->callbacks[to->n], &from->callbacks[from->n - n], n * sizeof(to->callbacks[0]));
	to->n += n;
	from->n -= n;
}

/* --------------------------------------------------------------- work units */

static uint64_t units(struct seed *q)
{
	return __atomic_load_n(&q->units, __ATOMIC_SEQ_CST);
}

static void add_work(struct seed *q, uint64_t n)
{
	__atomic_fetch_add(&q->units, n, __ATOMIC_SEQ_CST);
}

static bool try_take_work(struct seed *q)
{
	uint64_t n = units(q);

	while (n != 0)
		if (__atomic_compare_exchange_n(&q->units, &n, n - 1, false, __ATOMIC_SEQ_CST,
		    __ATOMIC_SEQ_CST))
			return true;
	return false;
}

/* ------------------------------------------------------- sleeping and waking */

static void park(struct sleeper *s)
{
	while (__atomic_load_n(&s->woken, __ATOMIC_ACQUIRE) == 0)
		syscall(SYS_futex, &s->woken, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void unpark_all(struct sleeper *s)
{
	struct sleeper *next;

	for (; s != NULL; s = next) {
		next = s->next;
		__atomic_store_n(&s->woken, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &s->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

static void change_asleep(struct seed *q, uint32_t change)
{
	__atomic_fetch_add(&q->asleep, change, __ATOMIC_SEQ_CST);
}

/* Takes n sleepers off the list, for unpark_all after the lock. */
static struct sleeper *take_sleepers(struct seed *q, uint32_t n)
{
	struct sleeper *first = NULL;

	change_asleep(q, 0 - n);
	while (n-- != 0) {
		struct sleeper *s = q->sleeping;

		q->sleeping = s->next;
		s->next = first;
		first = s;
	}
	return first;
}

/* The next block; NULL when the queue stops. */
static struct block *dequeue(struct seed *q)
{
	for (;;) {
		struct sleeper me = { NULL, 0 };

		if (try_take_work(q))
			return pop(&q->full);
		pthread_mutex_lock(&q->lock);
		change_asleep(q, 1);
		if (q->stop || units(q) > 0) {
			change_asleep(q, (uint32_t)-1);
			pthread_mutex_unlock(&q->lock);
			if (q->stop)
				return NULL;
			continue;
		}
		me.next = q->sleeping;
		q->sleeping = &me;
		if (q->asleep == q->nworkers)
			pthread_cond_signal(&q->all_asleep);
		pthread_mutex_unlock(&q->lock);
		park(&me);
	}
}

static bool needs_wake(struct seed *q)
{
	return units(q) > 0 && (__atomic_load_n(&q->asleep, __ATOMIC_SEQ_CST) > 0 ||
	    __atomic_load_n(&q->nworkers, __ATOMIC_SEQ_CST) < q->max_workers);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void wake(struct seed *q)
{
	struct sleeper *list;
	uint64_t work, woken;

	pthread_mutex_lock(&q->lock);
	work = units(q);
	woken = min_u64(work, q->asleep);
	__atomic_fetch_add(&q->needed,
	    (uint32_t)min_u64(work - woken, q->max_workers - q->nworkers), __ATOMIC_SEQ_CST);
	list = take_sleepers(q, (uint32_t)woken);
	pthread_mutex_unlock(&q->lock);
	unpark_all(list);
}

/* ------------------------------------------------------------------ workers */

static void run_block(struct seed *q, struct block *b)
{
	for (uint32_t i = 0; i < b->n; i++)
		b->callbacks[i].fn(b->callbacks[i].arg);
	__atomic_fetch_add(&q->executed, b->n, __ATOMIC_SEQ_CST);
	b->n = 0;
	push(&q->free, b);
}

static void *work(void *arg)
{
	struct seed *q = arg;
	struct block *b;

	while ((b = dequeue(q)) != NULL)
		run_block(q, b);
	return NULL;
}

static bool needs_workers(struct seed *q)
{
	uint32_t have = __atomic_load_n(&q->nworkers, __ATOMIC_SEQ_CST);

	return have < q->max_workers &&
	    (have == 0 || __atomic_load_n(&q->needed, __ATOMIC_SEQ_CST) > 0);
}

static void make_workers(struct seed *q)
{
	uint32_t have, n;
	int err;

	pthread_mutex_lock(&q->lock);
	have = q->nworkers;
	n = (uint32_t)min_u64(__atomic_exchange_n(&q->needed, 0, __ATOMIC_SEQ_CST),
	    q->max_workers - have);
	if (have == 0 && n == 0)
		n = 1;
	__atomic_store_n(&q->nworkers, have + n, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&q->lock);
	for (; n != 0; n--, have++)
		if ((err = pthread_create(&q->threads[have], NULL, work, q)) != 0)
			bench_die("pthread_create", err);
}

/* ---------------------------------------------------------- the contestant */

/* After add_work. */
static void published(struct seed *q)
{
	if (needs_wake(q))
		wake(q);
	if (needs_workers(q))
		make_workers(q);
}

static void publish(struct producer *p)
{
	push(&p->q->full, p->block);
	p->block = NULL;
	add_work(p->q, 1);
	published(p->q);
}

static int seed_enqueue(void *producer, bench_fn *fn, void *arg)
{
	struct producer *p = producer;
	struct block *b = p->block;

	if (b == NULL)
		b = p->block = get_block(p->q);
	b->callbacks[b->n].fn = fn;
	b->callbacks[b->n].arg = arg;
	p->queued++;
	if (++b->n == BLOCK_CALLBACKS)
		publish(p);
	return 0;
}

static void seed_flush(void *producer)
{
	struct producer *p = producer;

	if (p->block != NULL)
		publish(p);
}

/* Publishes all partial blocks, moved together into as few as hold them. */
static void flush_all(struct seed *q)
{
	struct block *into = NULL;
	uint64_t n = 0;

	for (struct producer *p = q->producers; p != NULL; p = p->next) {
		struct block *b = p->block;

		p->block = NULL;
		if (b == NULL)
			continue;
		if (into == NULL) {
			into = b;
			continue;
		}
		move_callbacks(into, b);
		if (into->n == BLOCK_CALLBACKS) {
			push(&q->full, into);
			n++;
			into = b->n != 0 ? b : NULL;
		}
		if (b->n == 0)
			push(&q->free, b);
	}
	if (into != NULL) {
		push(&q->full, into);
		n++;
	}
	if (n != 0)
		add_work(q, n);
}

static void seed_finish(void *queue)
{
	struct seed *q = queue;

	flush_all(q);
	published(q);
	pthread_mutex_lock(&q->lock);
	while (!CK_STACK_ISEMPTY(&q->full) || q->asleep != q->nworkers)
		pthread_cond_wait(&q->all_asleep, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void seed_run_here(void *queue)
{
	struct seed *q = queue;

	flush_all(q);
	while (try_take_work(q))
		run_block(q, pop(&q->full));
}

static void *seed_create(unsigned workers)
{
	size_t bytes = sizeof(struct seed) + workers * sizeof(pthread_t);
	struct seed *q = aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);

	if (q == NULL)
		bench_die("aligned_alloc", ENOMEM);
	memset(q, 0, sizeof(*q));
	ck_stack_init(&q->full);
	ck_stack_init(&q->free);
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->all_asleep, NULL);
	q->max_workers = workers;
	return q;
}

static void seed_destroy(void *queue)
{
	struct seed *q = queue;
	struct sleeper *list;
	struct block *next;

	pthread_mutex_lock(&q->lock);
	q->stop = true;
	list = take_sleepers(q, q->asleep);
	pthread_mutex_unlock(&q->lock);
	unpark_all(list);
	for (uint32_t i = 0; i < q->nworkers; i++)
		pthread_join(q->threads[i], NULL);
	for (struct block *b = q->all; b != NULL; b = next) {
		next = b->all_next;
		free(b);
	}
	pthread_cond_destroy(&q->all_asleep);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static void *seed_begin(void *queue)
{
	struct producer *p = bench_alloc(sizeof(*p));

	p->q = queue;
	p->block = NULL;
	p->queued = 0;
	pthread_mutex_lock(&p->q->lock);
	p->next = p->q->producers;
	p->q->producers = p;
	pthread_mutex_unlock(&p->q->lock);
	return p;
}

static void seed_end(void *producer)
{
	struct producer *p = producer, **link = &p->q->producers;

	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	free(p);
}

const struct contestant contestant_seed = {
	.name = "seed",
	.create = seed_create,
	.destroy = seed_destroy,
	.begin = seed_begin,
	.end = seed_end,
	.enqueue = seed_enqueue,
	.flush = seed_flush,
	.finish = seed_finish,
	.run_here = seed_run_here,
};
