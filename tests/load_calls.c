/* SPDX-License-Identifier: BSD-2-Clause */
#include "load_priv.h"

#include <errno.h>

/* On a thread that the pool has made, which a callback may end. */
_Thread_local bool load_managed;

/* ------------------------------------------------------------ what may fail */

static const fault_set_t no_threads = FAULT_BIT(FAULT_ALLOC) | FAULT_BIT(FAULT_THREAD) |
    FAULT_BIT(FAULT_THREAD_BURST) | FAULT_BIT(FAULT_THREAD_NEVER) | FAULT_BIT(FAULT_THREAD_LIMIT) |
    FAULT_BIT(FAULT_START);

bool load_has(const load_t *l, enum fault kind)
{
	return (l->faults & FAULT_BIT(kind)) != 0;
}

bool load_memory_fails(const load_t *l)
{
	return load_has(l, FAULT_ALLOC);
}

bool load_threads_fail(const load_t *l)
{
	return (l->faults & no_threads) != 0;
}

bool load_is_served(const load_t *l)
{
	return (l->pool_config.flags & CQ_POOL_HOSTED) != 0 || l->way == LOAD_OWNED;
}

bool load_check_under(const load_t *l, fault_set_t faults, int err)
{
	bool stalls = (faults & no_threads) != 0 || load_is_served(l);

	CHECK(err == 0 || (err == EAGAIN && stalls) ||
	    (err == ENOMEM && (faults & FAULT_BIT(FAULT_ALLOC)) != 0) || (err == ESHUTDOWN && l->closing));
	return err == 0;
}

/* ---------------------------------------------------------------- callbacks */

static void run(void *arg);

static void settle(struct record *record, atomic_ullong *how)
{
	struct owner *owner = record->owner;

	CHECK(atomic_exchange(&record->state, FREE) == RUNNING);
	(*how)++;
	load_progress++;
	owner->left--;
}

static void begin(struct record *record)
{
	CHECK(atomic_exchange(&record->state, RUNNING) == OFFERED);
}

void load_take_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	load_t *l = ctx;

	CHECK(fn == run && ((struct record *)arg)->load == l);
	begin(arg);
	settle(arg, &l->back);
}

/* What the callback will do besides being counted. */
static uint8_t choose_deed(const load_t *l)
{
	for (unsigned deed = FAULT_CALL_BLOCKS; deed <= FAULT_CALL_CANCELS; deed++)
		if (!l->in_child && faults_due(deed))
			return (uint8_t)deed;
	return FAULTS_N;
}

/* A free record of the owner's, or NULL. */
static struct record *take_record(load_t *l, struct owner *owner)
{
	struct record *record = &owner->ring[owner->next++ % RING];
	unsigned char unused = FREE;

	if (!atomic_compare_exchange_strong(&record->state, &unused, OFFERED))
		return NULL;
	record->deed = choose_deed(l);
	record->owner = owner;
	record->load = l;
	owner->left++;
	return record;
}

/* ENOBUFS: all records are offered. */
int load_offer(load_t *l, cq_producer_t *p, struct owner *owner)
{
	struct record *record = take_record(l, owner);
	fault_set_t faults = l->faults;
	int err;

	if (record == NULL)
		return ENOBUFS;
	if (p == NULL)
		err = cq_cleanup_enqueue(l->q, run, record);
	else if ((err = cq_producer_put(p, record)) == EINVAL)
		err = cq_producer_enqueue(p, run, record);
	CHECK(err != EAGAIN);
	if (load_check_under(l, faults, err)) {
		l->accepted++;
	} else {
		CHECK(atomic_exchange(&record->state, FREE) == OFFERED);
		owner->left--;
		l->refused++;
	}
	return err;
}

/* ----------------------------------------------------- what callbacks may do */

void load_fork(load_t *l, bool in_callback, enum fault kind);

/* Every other producer has one function by contract. */
int load_attach(load_t *l, cq_producer_t **p)
{
	static atomic_uint which;

	return cq_producer_attach(l->q, which++ % 2 == 0 ? NULL : run, p);
}

static void enqueue_in_callback(load_t *l)
{
	cq_producer_t *p;

	if (!load_check(l, load_attach(l, &p)))
		return;
	(void)load_offer(l, p, &l->owners[OWNERS - 1]);
	cq_producer_detach(p);
}

/* A producer that one callback attaches, another detaches. */
static void attach_or_detach(load_t *l)
{
	cq_producer_t *p = atomic_exchange(&l->spare, NULL);

	if (p == NULL) {
		if (!load_check(l, load_attach(l, &p)))
			return;
		(void)load_offer(l, p, &l->owners[OWNERS - 1]);
		p = atomic_exchange(&l->spare, p);
	}
	cq_producer_detach(p);
}

static void misuse(load_t *l)
{
	CHECK(cq_cleanup_drain(l->q, CQ_FOREVER) == EDEADLK);
	CHECK(cq_cleanup_shutdown(l->q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, load_take_back, l) == EDEADLK);
	CHECK(cq_cleanup_destroy(l->q) == EDEADLK);
	CHECK(cq_pool_work(cq_cleanup_pool(l->q), NULL, CQ_FOREVER) == EDEADLK);
}

static void settle_outer(void *record)
{
	settle(record, &((struct record *)record)->load->ran);
}

/* One of them may end this thread. */
static void run_others(struct record *record)
{
	pthread_cleanup_push(settle_outer, record);
	(void)cq_cleanup_run_some(record->load->q, 5);
	pthread_cleanup_pop(0);
}

static void do_deed(struct record *record, enum fault deed)
{
	load_t *l = record->load;
	static _Thread_local unsigned depth;

	depth++;
	switch (deed) {
	case FAULT_CALL_BLOCKS:
		faults_pause(4000000);
		break;
	case FAULT_CALL_STOPS:
		faults_stop();
		break;
	case FAULT_CALL_ENQUEUES:
		enqueue_in_callback(l);
		break;
	case FAULT_CALL_FLUSHES:
		load_check(l, cq_cleanup_flush(l->q));
		break;
	case FAULT_CALL_ATTACHES:
		attach_or_detach(l);
		break;
	case FAULT_CALL_RUNS:
		if (depth < NESTED)
			run_others(record);
		break;
	case FAULT_CALL_MISUSES:
		misuse(l);
		break;
	case FAULT_CALL_FORKS:
		load_fork(l, true, FAULT_CALL_FORKS);
		break;
	default:
		break;
	}
	depth--;
}

static bool ends_thread(enum fault deed)
{
	return deed == FAULT_CALL_EXITS || deed == FAULT_CALL_CANCELS;
}

/* AddressSanitizer's, if it is there: it doesn't know that a cancellation leaves frames for good. */
void __asan_handle_no_return(void) __attribute__((weak));

static void end_thread(enum fault deed)
{
	int old;

	if (deed == FAULT_CALL_EXITS)
		pthread_exit(NULL);
	if (__asan_handle_no_return)
		__asan_handle_no_return();
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	pthread_cancel(pthread_self());
	pthread_testcancel();
}

static void run(void *arg)
{
	struct record *record = arg;
	load_t *l = record->load;
	enum fault deed = record->deed;
	bool does = !l->in_child && deed != FAULTS_N && (load_managed || !ends_thread(deed));

	begin(record);
	if (does) {
		faults_count(deed);
		do_deed(record, deed);
	}
	settle(record, &l->ran);
	if (does && ends_thread(deed))
		end_thread(deed);
}
