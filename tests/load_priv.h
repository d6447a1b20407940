/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the load: what its files share.
 *
 *   load.c        rounds, what is checked at their end, reports
 *   load_calls.c  records and callbacks, and what callbacks do
 *   load_roles.c  the threads: producers, drains, flushes, lent workers, pollers, owners
 *   load_fork.c   forks, and what is checked in a child
 */
#ifndef CQ_TESTS_LOAD_PRIV_H
#define CQ_TESTS_LOAD_PRIV_H

#include <semaphore.h>

#include "load.h"

/* The roles of threads. The first end before the queue is shut down in order. */
enum role { PRODUCER, DRAINER, FLUSHER, FORKER, CREW };
enum {
	PRODUCERS = 3,
	RING = 512,		/* records of each owner */
	OWNERS = PRODUCERS + 2,	/* and the drainer, and all callbacks */
	MEMBERS = 8,
	CHILD_SECONDS = 120,	/* after which a forked child has hung */
	NESTED = 4,		/* callbacks within callbacks */
	USES = 40		/* of the queue, to see whether it is usable */
};

enum { FREE, OFFERED, RUNNING };

struct record {
	atomic_uchar state;
	uint8_t deed;		/* a fault that the callback is, or FAULTS_N */
	struct owner *owner;
	load_t *load;
};

/* Whose callbacks: how many are still to come. */
struct owner {
	atomic_int left;
	atomic_uint next;
	struct record ring[RING];
};

struct member {
	load_t *load;
	enum role role;
	unsigned index;		/* of the owner */
	pthread_t thread;
	rng_t chance;
};

/* A thread that the host has made for the queue. */
struct hosted {
	void (*body)(void *arg);
	void *arg;
	pthread_t thread;
	atomic_bool ended;
	struct hosted *next;
};

struct load {
	enum load_way way;
	unsigned number;
	_Atomic fault_set_t faults;	/* load_close ends them while callbacks look */
	bool quiet, has_crew;
	bool keeps_time;	/* what nobody flushes runs all the same */
	bool by_time;		/* and quiet */
	bool abrupt;		/* shut down while all goes on */
	cq_pool_config_t pool_config;
	cq_cleanup_config_t config;
	cq_pool_t *given;	/* the queue's, when it isn't its own; or NULL */
	cq_cleanup_t *q;
	test_alloc_t alloc;
	rng_t chance;
	atomic_bool stopping, closing, closed;
	bool in_child;
	struct member members[MEMBERS];
	unsigned nmembers;
	_Atomic(cq_producer_t *) producers[PRODUCERS + 1], spare;
	struct owner owners[OWNERS];
	pthread_mutex_t host_lock;
	struct hosted *hosted;
	sem_t told;		/* for the owner */
	atomic_ullong accepted, ran, back, refused, children, crew;
	atomic_ullong workers_started, workers_ended; /* in this round */
	unsigned long long accepted_before, ran_before, back_before; /* in earlier rounds */
	pthread_mutex_t report_lock;	/* for who reads q from outside */
};

/* load_calls.c */
/* On a thread that the pool has made, which a callback may end. */
extern _Thread_local bool load_managed;

bool load_has(const load_t *l, enum fault kind);
bool load_memory_fails(const load_t *l);
bool load_threads_fail(const load_t *l);
/* A drain says EAGAIN: who runs the callbacks comes and goes, or is told. */
bool load_is_served(const load_t *l);
/* What a call may return that wakes, or needs memory, or finds the queue closed, when it began under `faults`. */
bool load_check_under(const load_t *l, fault_set_t faults, int err);
/* By the faults as they were before the call: they may end while a callback, or the crew, is in it. */
#define load_check(l, call)							\
	({									\
		fault_set_t faults_ = (l)->faults;				\
										\
		load_check_under(l, faults_, call);				\
	})
int load_attach(load_t *l, cq_producer_t **p);
int load_offer(load_t *l, cq_producer_t *p, struct owner *owner); /* p NULL: without one */
void load_take_back(void *ctx, cq_callback_fn *fn, void *arg);

/* load_roles.c */
int load_spawn(void *host, void (*body)(void *arg), void *arg);
void load_reap(load_t *l, bool all);
void *load_be_member(void *arg);
void load_tell_owner(void *load);

/* load_fork.c */
void load_fork(load_t *l, bool in_callback, enum fault kind);
void load_be_forker(struct member *m);

/* load.c */
cq_cleanup_stats_t load_stats(const load_t *l);
cq_pool_stats_t load_pool_stats(const load_t *l);
unsigned load_count_offered(const load_t *l);
void load_run_all(load_t *l);
void load_work_off(load_t *l);
void load_use(load_t *l);
void load_detach_all(load_t *l);

#endif /* CQ_TESTS_LOAD_PRIV_H */
