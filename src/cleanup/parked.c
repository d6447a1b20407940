/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "base/ordering.h"
#include "base/park.h"
#include "base/points.h"
#include "parked.h"

static const cq_park_ops_t *ops_of(const cq_parked_t *set)
{
	return set->ops != NULL ? set->ops : cq_park_default();
}

/* The only writes of `asleep`, with the lock held: plain stores, as nobody else writes. */
static void add_asleep(cq_parked_t *set, uint32_t n)
{
	cq_u32_store_relaxed(&set->asleep, set->asleep + n);
}

static void list(cq_parked_t *set, cq_parked_sleeper_t *s)
{
	s->prev = NULL;
	s->next = set->newest;
	if (s->next != NULL)
		s->next->prev = s;
	set->newest = s;
	s->listed = true;
}

static void unlist(cq_parked_t *set, cq_parked_sleeper_t *s)
{
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		set->newest = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	s->listed = false;
}

int cq_parked_init(cq_parked_t *set, const cq_park_ops_t *ops)
{
	if (set == NULL || !cq_park_complete(ops))
		return EINVAL;
	*set = (cq_parked_t){ .ops = ops };
	return pthread_mutex_init(&set->lock, NULL);
}

void cq_parked_destroy(cq_parked_t *set)
{
	pthread_mutex_destroy(&set->lock);
}

void cq_parked_sleeper_init(cq_parked_sleeper_t *s, void *host)
{
	*s = (cq_parked_sleeper_t){ .parker = { CQ_PERMIT_NONE, host } };
}

static void announce(cq_parked_t *set)
{
	pthread_mutex_lock(&set->lock);
	CQ_POINT("parked.announce");
	add_asleep(set, 1);
	/* The sleeper's half of the handshake; pairs with the fence in
	   cq_parked_asleep. Either the waker reads this announcement, or the look
	   that follows sees what the waker published. Without it both can miss,
	   and the wake-up is lost. */
	cq_fence_full();
	CQ_POINT("parked.announced");
}

static void withdraw(cq_parked_t *set)
{
	add_asleep(set, (uint32_t)-1);
	pthread_mutex_unlock(&set->lock);
}

/* The deadline has passed: leave the list, unless a waker has taken this sleeper. */
static bool leave(cq_parked_t *set, cq_parked_sleeper_t *s)
{
	bool listed;

	CQ_POINT("parked.timed_out");
	pthread_mutex_lock(&set->lock);
	listed = s->listed;
	if (listed) {
		unlist(set, s);
		add_asleep(set, (uint32_t)-1);
	}
	pthread_mutex_unlock(&set->lock);
	return listed;
}

static cq_parked_result_t commit(cq_parked_t *set, cq_parked_sleeper_t *s, uint64_t deadline)
{
	const cq_park_ops_t *ops = ops_of(set);

	/* Before it is listed, and under the lock: no waker has seen it yet. */
	cq_parker_reset(&s->parker);
	list(set, s);
	pthread_mutex_unlock(&set->lock);
	CQ_POINT("parked.listed");

	while (!cq_parker_granted(&s->parker)) {
		if (deadline != CQ_FOREVER && ops->now(ops->host) >= deadline) {
			if (leave(set, s))
				return CQ_PARKED_TIMED_OUT;
			deadline = CQ_FOREVER; /* taken: the permit is on its way */
		}
		ops->park(ops->host, &s->parker, deadline);
	}
	return CQ_PARKED_WOKEN;
}

cq_parked_result_t cq_parked_sleep(cq_parked_t *set, cq_parked_sleeper_t *s, cq_parked_look_fn *look,
    void *arg, uint64_t deadline)
{
	announce(set);
	if (look(arg)) {
		withdraw(set);
		return CQ_PARKED_WORK;
	}
	return commit(set, s, deadline);
}

uint32_t cq_parked_asleep(cq_parked_t *set)
{
	/* The waker's half of the handshake; pairs with the fence in
	   announce. It stands between the work that the caller
	   published and the load of `asleep`. */
	cq_fence_full();
	return cq_u32_load_relaxed(&set->asleep);
}

cq_parked_sleeper_t *cq_parked_take(cq_parked_t *set, uint32_t *n)
{
	cq_parked_sleeper_t *s, *taken = NULL, **tail = &taken;
	uint32_t most = *n;

	*n = 0;
	if (most == 0 || cq_parked_asleep(set) == 0)
		return NULL;

	pthread_mutex_lock(&set->lock);
	for (; *n < most && set->newest != NULL; ++*n) {
		s = set->newest;
		unlist(set, s);
		*tail = s;
		tail = &s->next;
	}
	*tail = NULL;
	/* By the waker, so that no later waker counts on a sleeper that is taken. */
	add_asleep(set, 0 - *n);
	cq_u64_store_relaxed(&set->woken, set->woken + *n);
	pthread_mutex_unlock(&set->lock);
	return taken;
}

void cq_parked_unpark(const cq_park_ops_t *ops, cq_parked_sleeper_t *taken)
{
	for (cq_parked_sleeper_t *s = taken, *next; s != NULL; s = next) {
		next = s->next; /* the sleeper is gone once it is unparked */
		ops->unpark(ops->host, &s->parker);
	}
}

uint32_t cq_parked_wake(cq_parked_t *set, uint32_t n)
{
	const cq_park_ops_t *ops = ops_of(set);
	cq_parked_sleeper_t *taken = cq_parked_take(set, &n);

	if (taken == NULL)
		return 0;
	CQ_POINT("parked.taken");
	cq_parked_unpark(ops, taken);
	return n;
}

uint32_t cq_parked_wake_all(cq_parked_t *set)
{
	return cq_parked_wake(set, UINT32_MAX);
}

void cq_parked_fork_prepare(cq_parked_t *set)
{
	pthread_mutex_lock(&set->lock);
}

void cq_parked_fork_parent(cq_parked_t *set)
{
	pthread_mutex_unlock(&set->lock);
}

void cq_parked_fork_child(cq_parked_t *set)
{
	set->newest = NULL;
	cq_u32_store_relaxed(&set->asleep, 0);
	pthread_mutex_unlock(&set->lock);
}
