/* SPDX-License-Identifier: BSD-2-Clause */
#include <cq/sleepers.h>
#include <errno.h>

#include "base/ordering.h"
#include "base/park.h"
#include "base/points.h"
#include "base/process.h"

/* counts. One word, so that a waker moves whom it takes from one side to the other in one step: who reads
   "nobody waits" sees in the same load who is on the way. PROMISE: a waker that ensures is about to take one more.
   Others that ensure count it as on its way; nobody else does, since it may be taken back (wake). Promises are
   known modulo 2^12: with more of them too few are counted, and never too many. */
#define WAITER UINT64_C(1)
#define ON_THE_WAY (UINT64_C(1) << 26)
#define PROMISE (UINT64_C(1) << 52)
static uint32_t waiters_of(uint64_t counts) { return (uint32_t)(counts % ON_THE_WAY); }
static uint32_t on_the_way_of(uint64_t counts) { return (uint32_t)(counts % PROMISE / ON_THE_WAY); }
static uint32_t promised_of(uint64_t counts) { return (uint32_t)(counts / PROMISE); }

/* How far from the newest a waker of one looks for a sleeper of its own CPU: loads under the lock, each of another line.
   With 0 the newest is woken, wherever it ran; without end a wake is as long as the list. Who wakes several takes the
   newest: they are to run beside it, and others wait for the lock. */
#define CHOICES 4

static uint64_t now(const cq_park_ops_t *ops)
{
	return ops->now(ops->host);
}

/* Under the lock: whom a waker on `cpu` is to wake: one that slept on that CPU, so that the kernel needn't move it,
   else the newest; or NULL. */
static cq_sleeper_t *choose(const cq_sleepers_t *set, uint32_t cpu)
{
	cq_sleeper_t *s = set->newest;

	for (int left = CHOICES; left > 0 && s != NULL; left--, s = s->next)
		if (s->cpu == cpu)
			return s;
	return set->newest;
}

/* Under the lock: takes `s` off the list, if it is there. It is no waiter any more, but what `becomes` says. Returns
   it, or NULL. */
static cq_sleeper_t *take(cq_sleepers_t *set, cq_sleeper_t *s, uint64_t becomes)
{
	if (s == NULL || s->link == NULL)
		return NULL;
	*s->link = s->next;
	if (s->next != NULL)
		s->next->link = s->link;
	s->next = NULL;
	s->link = NULL;
	cq_u64_add_relaxed(&set->counts, becomes - WAITER);
	return s;
}

/* ------------------------------------------------------------------ sets, sleepers */

int cq_sleepers_init(cq_sleepers_t *set, const cq_park_ops_t *ops, uint32_t spin_ns)
{
	if (set == NULL || !cq_park_complete(ops))
		return EINVAL;
	*set = (cq_sleepers_t){ .ops = ops, .spin_ns = spin_ns };
	return pthread_mutex_init(&set->lock, NULL);
}

int cq_sleepers_destroy(cq_sleepers_t *set)
{
	if (set == NULL)
		return EINVAL;
	if (cq_u64_load_relaxed(&set->counts) != 0)
		return EBUSY;
	return pthread_mutex_destroy(&set->lock);
}

void cq_sleeper_init(cq_sleeper_t *s, void *host)
{
	*s = (cq_sleeper_t){ .parker = { CQ_PERMIT_NONE, host } };
}

/* ---------------------------------------------------------------------- sleeping */

void cq_sleepers_prepare_wait(cq_sleepers_t *set, cq_sleeper_t *s)
{
	/* Before the look: whoever raises it afterwards has work that the look may miss. Its release
	   pairs with the fence below. */
	s->epoch = cq_u32_load_relaxed(&set->epoch);
	cq_u64_add_relaxed(&set->counts, WAITER);
	/* The sleeper's half of the handshake; pairs with the fences in wake and cq_sleepers_waiters. Either
	   the waker counts this sleeper, or the look that follows sees what the waker published. Without it
	   both can miss, and the wake-up is lost. */
	cq_fence_full();
	CQ_POINT("sleepers.prepared");
}

void cq_sleepers_cancel_wait(cq_sleepers_t *set, cq_sleeper_t *s)
{
	(void)s;
	cq_u64_add_relaxed(&set->counts, 0 - WAITER);
}

/* Until it has its permit: a waker needs no system call meanwhile. */
static void spin(const cq_sleepers_t *set, const cq_sleeper_t *s, const cq_park_ops_t *ops,
    uint64_t end)
{
	enum { STALLS = 32, SPIN_NS = 100 }; /* a stall takes 3 to 50 ns */
	uint32_t turns = set->spin_ns / SPIN_NS + 1; /* a clock may stand still */

	do
		for (int i = 0; i < STALLS; i++) {
			if (cq_parker_granted(&s->parker))
				return;
			cq_stall();
		}
	while (--turns != 0 && now(ops) < end);
}

static cq_wait_result_t list_and_park(cq_sleepers_t *set, cq_sleeper_t *s, uint64_t deadline)
{
	const cq_park_ops_t *ops = set->ops != NULL ? set->ops : cq_park_default();
	uint64_t began = set->spin_ns != 0 ? now(ops) : 0, spin_end = began + set->spin_ns;
	cq_wait_result_t result;
	bool listed;

	s->cpu = cq_cpu();
	CQ_POINT("sleepers.listing");

	/* 1. Onto the list, unless a waker has been here since prepare_wait: its work may be what the look
	      has missed, and it found nobody on the list. */
	pthread_mutex_lock(&set->lock);
	if (set->stopped != 0 || set->epoch != s->epoch) {
		result = set->stopped != 0 ? CQ_STOPPED : CQ_AGAIN;
		pthread_mutex_unlock(&set->lock);
		cq_sleepers_cancel_wait(set, s);
		return result;
	}
	/* Before it is listed, and under the lock: no waker has seen it yet. */
	cq_parker_reset(&s->parker);
	s->next = set->newest;
	s->link = &set->newest;
	if (s->next != NULL)
		s->next->link = &s->next;
	set->newest = s;
	pthread_mutex_unlock(&set->lock);
	CQ_POINT("sleepers.listed");

	/* 2. Spin, if the last wait was short. */
	if (set->spin_ns != 0 && !s->waits_long)
		spin(set, s, ops, deadline < spin_end ? deadline : spin_end);

	/* 3. Park until the permit or the deadline. */
	while (!cq_parker_granted(&s->parker)) {
		if (deadline != CQ_FOREVER && now(ops) >= deadline) {
			CQ_POINT("sleepers.timed_out");
			pthread_mutex_lock(&set->lock);
			listed = take(set, s, 0) != NULL;
			pthread_mutex_unlock(&set->lock);
			if (listed) {
				s->waits_long = true;
				return CQ_TIMED_OUT;
			}
			deadline = CQ_FOREVER; /* taken: the permit is on its way */
		}
		ops->park(ops->host, &s->parker, deadline);
	}

	/* 4. Back. Judged by when the waker came, as a thread takes long to wake up. */
	s->waits_long = spin_end != began && s->granted_at - began > spin_end - began;
	result = cq_u32_load_relaxed(&set->stopped) != 0 ? CQ_STOPPED : CQ_WOKEN;
	cq_u64_add_relaxed(&set->counts, 0 - ON_THE_WAY); /* the last access to the set */
	return result;
}

cq_wait_result_t cq_sleepers_commit_wait(cq_sleepers_t *set, cq_sleeper_t *s, uint64_t deadline)
{
	cq_wait_result_t result = list_and_park(set, s, deadline);

	/* Pairs as that in prepare_wait: a waker that still counts this sleeper, as one that waits or is on
	   its way, leaves its work to the look that follows. Without it nobody would see that work. */
	cq_fence_full();
	CQ_POINT("sleepers.back");
	return result;
}

/* ------------------------------------------------------------------------ waking */

uint32_t cq_sleepers_waiters(cq_sleepers_t *set, uint32_t *on_their_way)
{
	uint64_t counts;

	/* As in wake; pairs with the fences in prepare_wait and commit_wait. */
	cq_fence_full();
	counts = cq_u64_load_relaxed(&set->counts);
	if (on_their_way != NULL)
		*on_their_way = on_the_way_of(counts);
	return waiters_of(counts);
}

/* Wakes up to n more, or with `ensures` as many as are missing; or `only`. Returns how many. */
static uint32_t wake(cq_sleepers_t *set, uint32_t n, bool ensures, cq_sleeper_t *only)
{
	cq_sleeper_t *taken = NULL, **end = &taken, *s, *next;
	uint64_t counts, at, promise = ensures ? PROMISE : 0;
	const cq_park_ops_t *ops;
	uint32_t cpu, coming, k;
	bool timed, one = n == 1;

	/* 1. Is anyone missing? The waker's half of the handshake; pairs with the fences in prepare_wait and
	      commit_wait. It stands between the work that the caller published and the load of the counts. */
	cq_fence_full();
	counts = cq_u64_load_relaxed(&set->counts);
	/* 2. Who ensures promises those that are missing before it comes to the lock, so that of many wakers one
	      comes there: the others count the promise, and go. */
	do {
		coming = ensures ? on_the_way_of(counts) + promised_of(counts) : 0;
		if (waiters_of(counts) == 0 || coming >= n)
			return 0;
	} while (ensures && !cq_u64_cas_relaxed(&set->counts, &counts, counts + (n - coming) * promise));
	n -= coming;
	ops = set->ops != NULL ? set->ops : cq_park_default();
	timed = set->spin_ns != 0;
	cpu = cq_cpu();

	/* 3. Off the list: a promise becomes one on its way. */
	pthread_mutex_lock(&set->lock);
	for (k = 0; k < n; k++) {
		s = only != NULL ? only : one ? choose(set, cpu) : set->newest;
		if (take(set, s, ON_THE_WAY - promise) == NULL)
			break;
		*end = s;
		end = &s->next;
	}
	cq_u64_store_relaxed(&set->woken, set->woken + k);
	/* 4. The list is too short: the rest of the promise is taken back, and whoever is prepared looks again,
	      as it may have missed the caller's work, or that of one who counted the promise. */
	if (k < n && waiters_of(cq_u64_add_relaxed(&set->counts, 0 - (n - k) * promise)) != 0)
		/* Pairs with the fence in prepare_wait: a look that is made with this epoch comes after those who
		   counted the promise. Without it a sleeper could read this while the promise still stands,
		   and sleep over the work of one who then counts that. */
		cq_u32_store_release(&set->epoch, set->epoch + 1);
	pthread_mutex_unlock(&set->lock);

	/* 5. The set may be gone by now, but not its table, nor a sleeper that is yet to be unparked. */
	at = timed && taken != NULL ? now(ops) : 0;
	CQ_POINT("sleepers.taken");
	for (s = taken; s != NULL; s = next) {
		next = s->next;
		s->granted_at = at;
		ops->unpark(ops->host, &s->parker);
	}
	return k;
}

uint32_t cq_sleepers_ensure(cq_sleepers_t *set, uint32_t n)
{
	return wake(set, n, true, NULL);
}

uint32_t cq_sleepers_wake(cq_sleepers_t *set, uint32_t n)
{
	return wake(set, n, false, NULL);
}

bool cq_sleepers_wake_sleeper(cq_sleepers_t *set, cq_sleeper_t *s)
{
	return wake(set, 1, false, s) != 0;
}

void cq_sleepers_stop(cq_sleepers_t *set)
{
	/* Who is not listed by then finds it. */
	pthread_mutex_lock(&set->lock);
	cq_u32_store_relaxed(&set->stopped, 1);
	pthread_mutex_unlock(&set->lock);
	(void)cq_sleepers_wake(set, UINT32_MAX);
}

/* -------------------------------------------------------------------------- fork */

void cq_sleepers_fork(cq_sleepers_t *set, cq_fork_phase_t phase)
{
	if (phase == CQ_FORK_CHILD) {
		set->newest = NULL;
		cq_u64_store_relaxed(&set->counts, 0);
	}
	if (phase == CQ_FORK_PREPARE)
		pthread_mutex_lock(&set->lock);
	else
		pthread_mutex_unlock(&set->lock);
}
