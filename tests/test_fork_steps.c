/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fork() at each instruction of another thread, the subject. It goes on by the processor's trap flag, one instruction
 * at a time, and waits in the handler while the process forks: at each place of the program where it is
 * seen for the first time with no lock in its hand for which a fork would wait. Each child works on with all that the
 * queue has, ends it, and checks that every callback which was accepted has begun before, or runs there.
 *
 * What test_fork does at the points that the library names is done here in between them: a block that is carved and
 * not yet linked, a chain that is stolen, a word of two that is written. The queues have small slabs, of blocks
 * of both sizes, and four shards. On x86-64 with Linux, and without sanitizers, which would be stepped through too.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* REG_RIP */
#endif
#include <criterion/criterion.h>

#if defined(__x86_64__) && defined(__linux__)

#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "callbacks.h"
#include "spread.h"

TestSuite(fork_steps, .timeout = 300);

enum { POLLED = CQ_POOL_POLLED | CQ_POOL_HOSTED, SLAB = 6, FATES = 4096 };

/* ------------------------------------------------------------------- the subject */

extern const char __executable_start[], etext[]; /* the linker's */

static sem_t here, go_on;
static bool ended;
static unsigned char *seen;		/* places of the program */
static volatile unsigned steps;		/* of a look whether they can be had */
static unsigned ncuts;
static uintptr_t place;
static __thread bool is_subject;
static __thread int held;		/* locks */

int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
	held++;
	return __real_pthread_mutex_lock(lock);
}

int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
	int err = __real_pthread_mutex_unlock(lock);

	held--;
	return err;
}

static void trap(int number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	uintptr_t first = (uintptr_t)__executable_start, end = (uintptr_t)etext;
	int saved = errno;

	(void)number;
	(void)info;
	steps++;
	if (!is_subject || held != 0 || at < first || at >= end || seen[at - first] != 0)
		return;
	seen[at - first] = 1;
	place = at - first;
	ncuts++;
	CHECK(sem_post(&here) == 0);
	while (sem_wait(&go_on) != 0)
		CHECK(errno == EINTR);
	errno = saved;
}

static void step(bool on)
{
	enum { TRAP_FLAG = 0x100 };
	unsigned long long flags = __builtin_ia32_readeflags_u64();

	is_subject = on;
	__builtin_ia32_writeeflags_u64(on ? flags | TRAP_FLAG : flags & ~(unsigned long long)TRAP_FLAG);
}

static void subject_ends(void)
{
	step(false);
	ended = true;
	CHECK(sem_post(&here) == 0);
}

/* A new thread would have the flag, and its signals blocked. */
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg)
{
	bool steps_on = is_subject;
	int err;

	if (steps_on)
		step(false);
	err = __real_pthread_create(thread, attr, body, arg);
	if (steps_on)
		step(true);
	return err;
}

/* From here on each place counts anew: the next calls come there in other states. */
static void look_anew(void)
{
	bool steps_on = is_subject;

	step(false);
	memset(seen, 0, (size_t)(etext - __executable_start));
	step(steps_on);
}

/* False: there are no steps here (a sanitizer, an emulator). */
static bool can_step(void)
{
	struct sigaction action = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO };

	if (!test_child_has_threads())
		return false;
	CHECK((seen = calloc((size_t)(etext - __executable_start), 1)) != NULL);
	CHECK(sem_init(&here, 0, 0) == 0 && sem_init(&go_on, 0, 0) == 0);
	CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
	memset(seen, 1, (size_t)(etext - __executable_start));
	step(true);
	step(false);
	look_anew();
	return steps != 0;
}

/* --------------------------------------------------------------- callbacks, queues */

/* What has become of a callback that the subject enqueues. */
enum { UNUSED, BEING_PUT, ACCEPTED };
static atomic_uchar fate[FATES];
static unsigned nfates;
static unsigned lost;	/* so many at most were about to run in the thread that a child doesn't have */

static void put_one(cq_producer_t *to)
{
	void *arg = (void *)(uintptr_t)nfates;

	CHECK(nfates < FATES - 1);
	fate[nfates] = BEING_PUT;
	CHECK((to == NULL ? cq_cleanup_enqueue(q, run_it, arg) :
	    to->fn != NULL ? cq_producer_put(to, arg) : cq_producer_enqueue(to, run_it, arg)) == 0);
	fate[nfates++] = ACCEPTED;
}

static void put_some(cq_producer_t *to, unsigned n)
{
	while (n-- > 0)
		put_one(to);
}

static cq_producer_t *attached(cq_callback_fn *fn)
{
	cq_producer_t *to;

	CHECK(cq_producer_attach(q, fn, &to) == 0);
	return to;
}

static void make_in_slabs(cq_pool_config_t pool_config, uint64_t flush_ns)
{
	cq_cleanup_config_t config = { .pool_config = &pool_config, .flush_ns = flush_ns,
		.block_bytes = sizeof(cq_block_t) + SLOTS * sizeof(cq_callback_t) };

	CHECK(cq_cleanup_create(&config, &q) == 0);
	if (q->maps) {
		q->slab_blocks = SLAB;
		q->grows = true;
	}
	spread = true;
	spread_grow(q);
	spread_grow(q);
	p = attached(NULL);
}

static void make_polled_in_slabs(void)
{
	make_in_slabs((cq_pool_config_t){ .flags = POLLED }, 0);
}

static void work_off(void)
{
	do
		(void)cq_cleanup_flush(q); /* EAGAIN: nobody serves, but this thread */
	while ((q->pool->config.flags & CQ_POOL_HOSTED) != 0 && cq_cleanup_run_some(q, SIZE_MAX) != 0);
	CHECK(cq_cleanup_drain(q, wait_limit()) == 0);
}

static void check_fates(void)
{
	unsigned missing = 0;

	for (unsigned i = 0; i < nfates; i++) {
		CHECK(ran[i] <= 1);
		missing += fate[i] == ACCEPTED && ran[i] == 0;
	}
	CHECK(missing <= lost);
}

/* The queue's own: whoever uses it takes it first, a trim as well. */
static bool is_shared(const cq_producer_t *each)
{
	for (unsigned i = 0; q->shared != NULL && i < 64; i++)
		if (q->shared[i] == each)
			return true;
	return false;
}

static void end(void)
{
	cq_cleanup_stats_t s;

	for (cq_producer_t *each = q->producers, *next; each != NULL; each = next) {
		next = each->next;
		if (!is_shared(each))
			cq_producer_detach(each);
	}
	if (q->stop == 0 && !q->shut_down)
		work_off();
	CHECK(cq_cleanup_shutdown(q, q->stop != 0 ? CQ_SHUTDOWN_HAND_BACK : CQ_SHUTDOWN_DRAIN, wait_limit(),
	    take_back, NULL) == 0);
	s = stats();
	CHECK(s.executed + s.handed_back == s.queued && s.blocks_waiting == 0);
	check_fates();
	AWAIT(cq_cleanup_trim(q, NULL) == 0);
	CHECK(stats().blocks_made <= (test_child == 0 ? SLAB : 0));
	CHECK(cq_cleanup_destroy(q) == 0);
}

/* ---------------------------------------------------------------------- children */

/* All that a queue can do. */
static void works_on_and_ends(void)
{
	cq_producer_t *one;

	nfates += fate[nfates] == BEING_PUT;
	(void)stats();
	(void)pool_stats();
	(void)cq_cleanup_trim(q, NULL);
	if (q->closed == 0) {
		one = attached(NULL);
		for (cq_producer_t *to = q->producers; to != NULL; to = to->next)
			if (!is_shared(to))
				put_some(to, SLOTS + 1);
		work_off();
		CHECK(cq_producer_reserve(one, 3 * SLOTS) == 0);
		put_some(one, 8 * SLOTS);
		put_some(NULL, 1);
		CHECK(cq_producer_flush(one) == 0 || (q->pool->config.flags & CQ_POOL_HOSTED) != 0);
		(void)cq_cleanup_trim(q, NULL);
		work_off();
		(void)cq_cleanup_trim(q, NULL);
	}
	end();
}

static void fork_at_each_step(void)
{
	for (;;) {
		while (sem_wait(&here) != 0)
			CHECK(errno == EINTR);
		if (ended)
			return;
		if (test_forked()) {
			works_on_and_ends();
			_exit(0);
		}
		if (!test_child_ended()) {
			fprintf(stderr, "cut %u, at the program's byte 0x%jx\n", ncuts, (uintmax_t)place);
			CHECK(!"the child has ended well");
		}
		CHECK(sem_post(&go_on) == 0);
	}
}

static void *be_subject(void *script)
{
	step(true);
	(*(void (**)(void))script)();
	subject_ends();
	return NULL;
}

static void step_along(void (*script)(void))
{
	pthread_t thread = start(be_subject, &script);

	fork_at_each_step();
	join(thread);
	lost = 0;
	end();
}

/* ------------------------------------------------------------------ what it does */

static cq_callback_fn *kind;

static void produce(void)
{
	unsigned room = kind != NULL ? 2 * SLOTS : SLOTS;
	cq_producer_t *to = attached(kind);

	put_some(to, 1);
	(void)cq_cleanup_flush(q);
	put_some(to, room + 1);
	(void)cq_producer_flush(to);
	CHECK(cq_producer_reserve(to, 3 * room) == 0);
	put_some(to, 5 * room);
	look_anew();
	put_some(to, 6 * room); /* which are large */
	cq_producer_detach(to);
}

Test(fork_steps, of_a_producer)
{
	if (!can_step())
		return;
	make_polled_in_slabs();
	put_some(p, 2);
	step_along(produce);
}

Test(fork_steps, of_a_producer_of_one_function)
{
	if (!can_step())
		return;
	make_polled_in_slabs();
	put_some(p, 2);
	kind = run_it;
	step_along(produce);
}

static void use_again(void)
{
	cq_producer_t *to = attached(NULL);

	put_some(to, 12 * SLOTS);
	while (cq_cleanup_run_some(q, SIZE_MAX) != 0)
		;
	look_anew();
	put_some(to, 12 * SLOTS);
	while (cq_cleanup_run_some(q, 7) == 7)
		;
	cq_producer_detach(to);
	while (cq_cleanup_run_some(q, SIZE_MAX) != 0)
		;
	look_anew();
	CHECK(cq_cleanup_trim(q, NULL) == 0);
	put_some(p, SLOTS);
}

/* Blocks that are free at any shard are used again, and given back, and others made. */
Test(fork_steps, of_who_uses_blocks_again_and_trims)
{
	if (!can_step())
		return;
	make_polled_in_slabs();
	lost = 1;
	step_along(use_again);
}

static void share(void)
{
	put_some(NULL, 3 * SLOTS);
	(void)cq_cleanup_flush(q);
	look_anew();
	put_some(NULL, 4);
}

Test(fork_steps, of_an_enqueue_without_a_producer)
{
	if (!can_step())
		return;
	make_polled_in_slabs();
	step_along(share);
}

/* Blocks wait in all shards; a partial one, too, and some are with a producer. */
static void make_full(void)
{
	make_polled_in_slabs();
	put_some(p, 16 * SLOTS);
	put_some(p, 1);
	(void)cq_producer_flush(p);
	put_some(p, 1);
}

static void run_in_turns(void)
{
	for (unsigned i = 0; i < 12; i++)
		(void)cq_cleanup_run_some(q, 3);
	look_anew();
	while (cq_cleanup_run_some(q, 5) != 0)
		;
	(void)cq_cleanup_flush(q);
	while (cq_cleanup_run_some(q, SIZE_MAX) != 0)
		;
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
}

Test(fork_steps, of_who_runs_what_waits_in_any_shard)
{
	if (!can_step())
		return;
	make_full();
	lost = 1;
	step_along(run_in_turns);
}

static void hand_back(void)
{
	CHECK(cq_cleanup_shutdown(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, take_back, NULL) == 0);
}

Test(fork_steps, of_a_shutdown_that_hands_back)
{
	if (!can_step())
		return;
	make_full();
	lost = 1;
	step_along(hand_back);
}

static void tick(void)
{
	for (unsigned i = 0; i < 3; i++) {
		put_some(p, 3);
		put_some(NULL, 1);
		usleep(CQ_FLUSH_NS_MIN / 1000);
		(void)cq_pool_run_some(q->pool, SIZE_MAX);
	}
}

/* A clock of the test's would be as good; but this one is seldom late, and then nothing ticks. */
Test(fork_steps, of_who_ticks)
{
	if (!can_step())
		return;
	make_in_slabs((cq_pool_config_t){ .flags = POLLED }, CQ_FLUSH_NS_MIN);
	lost = 1;
	step_along(tick);
}

static gate_t ran_there = GATE_INITIALIZER;

static void make_and_destroy_another(void)
{
	const cq_pool_config_t own = { .workers_max = 1, .allocator = &mem.allocator };
	const cq_cleanup_config_t config = { .pool_config = &own };
	cq_cleanup_t *another;

	CHECK(cq_cleanup_create(&config, &another) == 0);
	CHECK(cq_cleanup_enqueue(another, gate_open, &ran_there) == 0);
	CHECK(cq_cleanup_drain(another, wait_limit()) == 0);
	CHECK(cq_cleanup_destroy(another) == 0);
}

/* Its allocator poisons what is freed. */
Test(fork_steps, of_who_makes_and_destroys_another_queue)
{
	if (!can_step())
		return;
	test_alloc_init(&mem);
	make_polled_in_slabs();
	put_some(p, SLOTS + 1);
	step_along(make_and_destroy_another);
}

static int steps_from_here(void *unused)
{
	static atomic_bool one_does;

	(void)unused;
	if (test_child != 0 && !atomic_exchange(&one_does, true))
		step(true);
	return 0;
}

static void steps_no_more(void *unused)
{
	(void)unused;
	if (is_subject)
		subject_ends();
}

/* It comes, runs callbacks and a tick, finds nothing, trims and retires. */
Test(fork_steps, of_a_worker)
{
	if (!can_step())
		return;
	lost = 1;
	make_in_slabs((cq_pool_config_t){ .workers_max = 1, .idle_ns = 5 * CQ_FLUSH_NS_MIN,
	    .worker_start = steps_from_here, .worker_end = steps_no_more }, CQ_FLUSH_NS_MIN);
	put_some(p, 5 * SLOTS);
	put_some(NULL, 2);
	fork_at_each_step();
	lost = 0;
	end();
}

#else

Test(fork_steps, are_not_here) {}

#endif
