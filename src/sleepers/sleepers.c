/* SPDX-License-Identifier: BSD-2-Clause */
#include <cq/sleepers.h>
#include <errno.h>

#include "base/ordering.h"
#include "base/park.h"
#include "base/points.h"
#include "sleepers.h"

static const cq_park_ops_t *ops_of(const cq_sleepers_t *set)
{
	return set->ops != NULL ? set->ops : cq_park_default();
}

/* The only writes of `asleep`, with the lock held: plain stores, as nobody else writes. */
static void add_asleep(cq_sleepers_t *set, uint32_t n)
{
	cq_u32_store_relaxed(&set->asleep, set->asleep + n);
}

static void list(cq_sleepers_t *set, cq_sleeper_t *s)
{
	s->prev = NULL;
	s->next = set->newest;
	if (s->next != NULL)
		s->next->prev = s;
	set->newest = s;
	s->listed = true;
}

static void unlist(cq_sleepers_t *set, cq_sleeper_t *s)
{
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		set->newest = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	s->listed = false;
}

int cq_sleepers_init(cq_sleepers_t *set, const cq_park_ops_t *ops)
{
	if (set == NULL || !cq_park_complete(ops))
		return EINVAL;
	*set = (cq_sleepers_t){ .ops = ops };
	return pthread_mutex_init(&set->lock, NULL);
}

int cq_sleepers_destroy(cq_sleepers_t *set)
{
	if (set == NULL)
		return EINVAL;
	if (cq_u32_load_relaxed(&set->asleep) != 0)
		return EBUSY;
	return pthread_mutex_destroy(&set->lock);
}

void cq_sleeper_init(cq_sleeper_t *s, void *host)
{
	*s = (cq_sleeper_t){ .parker = { CQ_PERMIT_NONE, host } };
}

void cq_sleepers_announce(cq_sleepers_t *set)
{
	pthread_mutex_lock(&set->lock);
	CQ_POINT("sleepers.announce");
	add_asleep(set, 1);
	/* The sleeper's half of the handshake; pairs with the fence in
	   cq_sleepers_asleep. Either the waker reads this announcement, or the look
	   that follows sees what the waker published. Without it both can miss,
	   and the wake-up is lost. */
	cq_fence_full();
	CQ_POINT("sleepers.announced");
}

void cq_sleepers_withdraw(cq_sleepers_t *set)
{
	add_asleep(set, (uint32_t)-1);
	pthread_mutex_unlock(&set->lock);
}

/* The deadline has passed: leave the list, unless a waker has taken this sleeper. */
static bool leave(cq_sleepers_t *set, cq_sleeper_t *s)
{
	bool listed;

	CQ_POINT("sleepers.timed_out");
	pthread_mutex_lock(&set->lock);
	listed = s->listed;
	if (listed) {
		unlist(set, s);
		add_asleep(set, (uint32_t)-1);
	}
	pthread_mutex_unlock(&set->lock);
	return listed;
}

cq_sleep_result_t cq_sleepers_commit(cq_sleepers_t *set, cq_sleeper_t *s, uint64_t deadline)
{
	const cq_park_ops_t *ops = ops_of(set);

	/* Before it is listed, and under the lock: no waker has seen it yet. */
	cq_u32_store_relaxed(&s->parker.permit, CQ_PERMIT_NONE);
	list(set, s);
	pthread_mutex_unlock(&set->lock);
	CQ_POINT("sleepers.listed");

	while (!cq_parker_granted(&s->parker)) {
		if (deadline != CQ_FOREVER && ops->now(ops->host) >= deadline) {
			if (leave(set, s))
				return CQ_TIMED_OUT;
			deadline = CQ_FOREVER; /* taken: the permit is on its way */
		}
		ops->park(ops->host, &s->parker, deadline);
	}
	return CQ_WOKEN;
}

cq_sleep_result_t cq_sleepers_sleep(cq_sleepers_t *set, cq_sleeper_t *s, cq_look_fn *look,
    void *arg, uint64_t deadline)
{
	cq_sleepers_announce(set);
	if (look(arg)) {
		cq_sleepers_withdraw(set);
		return CQ_WORK;
	}
	return cq_sleepers_commit(set, s, deadline);
}

uint32_t cq_sleepers_asleep(cq_sleepers_t *set)
{
	/* The waker's half of the handshake; pairs with the fence in
	   cq_sleepers_announce. It stands between the work that the caller
	   published and the load of `asleep`. */
	cq_fence_full();
	return cq_u32_load_relaxed(&set->asleep);
}

cq_sleeper_t *cq_sleepers_take(cq_sleepers_t *set, uint32_t *n)
{
	cq_sleeper_t *s, *taken = NULL, **tail = &taken;
	uint32_t most = *n;

	*n = 0;
	if (most == 0 || cq_sleepers_asleep(set) == 0)
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

void cq_sleepers_unpark(const cq_park_ops_t *ops, cq_sleeper_t *taken)
{
	for (cq_sleeper_t *s = taken, *next; s != NULL; s = next) {
		next = s->next; /* the sleeper is gone once it is unparked */
		ops->unpark(ops->host, &s->parker);
	}
}

uint32_t cq_sleepers_wake(cq_sleepers_t *set, uint32_t n)
{
	const cq_park_ops_t *ops = ops_of(set);
	cq_sleeper_t *taken = cq_sleepers_take(set, &n);

	if (taken == NULL)
		return 0;
	CQ_POINT("sleepers.taken");
	cq_sleepers_unpark(ops, taken);
	return n;
}

uint32_t cq_sleepers_wake_all(cq_sleepers_t *set)
{
	return cq_sleepers_wake(set, UINT32_MAX);
}

void cq_sleepers_fork_prepare(cq_sleepers_t *set)
{
	pthread_mutex_lock(&set->lock);
}

void cq_sleepers_fork_parent(cq_sleepers_t *set)
{
	pthread_mutex_unlock(&set->lock);
}

void cq_sleepers_fork_child(cq_sleepers_t *set)
{
	set->newest = NULL;
	cq_u32_store_relaxed(&set->asleep, 0);
	pthread_mutex_unlock(&set->lock);
}
