/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The model of a cleanup queue: who is attached and what has become of each callback. It follows the
 * queue through its allocator, its callbacks and its schedule points, and its pool through the park
 * table and spawn; and is compared with both after every call. What workers do among themselves is
 * not its business: pool.c has that.
 */
#ifndef CQ_FUZZ_MODEL_H
#define CQ_FUZZ_MODEL_H

#include "fuzz.h"

enum { PRODUCERS = 4, BODIES = 16, CALLBACKS = 1024, FUNCTIONS = 3 };

/* What has become of a callback. Its argument is its index + 1. */
enum life {
	IN_FLIGHT,	/* the call of enqueue has not returned */
	PENDING,	/* accepted */
	DONE,		/* begun */
	HANDED_BACK,
	REFUSED,	/* by enqueue */
	DROPPED,	/* by a fork: it discards, or it was the parent's */
	UNSURE		/* it was in flight in another thread when the process forked */
};

struct item {
	enum life life;
	int producer;
	unsigned function;
	enum { NO, MAYBE, YES } published;
	bool accepted;	/* enqueue has returned 0 */
	unsigned ticks;	/* since then, that have been made for certain */
	uint64_t next;	/* when the next is to be */
};

enum { PAIRS = -1 };

struct producer {
	cq_producer_t *p;
	int function;		/* of all its callbacks, or PAIRS */
	bool open;		/* has it a block? */
	unsigned n;		/* slots used of its open block */
	unsigned unclaimed;	/* of those: not collected */
	size_t reserved;	/* enqueues that cannot fail */
	bool busy;		/* in a call, by another thread */
	bool orphan;		/* of a thread that a forked child doesn't have */
};

/* A thread that was asked for by spawn. */
struct body {
	void (*run)(void *arg);
	void *arg;
	enum { NONE, ASKED, RUNNING } state;
};

/* A call, or a callback, that others are nested in; innermost first. */
struct context {
	enum { CALLBACK, GIVE_BACK, WORKER, WAITER, SERVER, SOME, POINT, LOCKED_POINT } kind;
	bool parked;
	bool has_memory;	/* a POINT: which a child without this thread loses */
	uint64_t deadline;	/* WAITER */
	unsigned before;	/* WAITER: callbacks that were begun before it */
	struct context *outer;
};

extern struct model {
	cq_cleanup_t *q;
	cq_pool_t *pool;
	cq_pool_config_t pool_config;
	cq_cleanup_config_t config;
	bool own_pool;
	unsigned slots;		/* pairs in a block; twice as many arguments */
	bool interleaved;	/* other threads' calls fall in at schedule points */
	bool spread;		/* threads are on many processors */
	bool exact;		/* calls are whole, and only flushes publish */
	struct context *top;
	unsigned frames;	/* callbacks and give_backs among the contexts */
	unsigned points;	/* schedule points among them */

	struct item items[CALLBACKS];
	unsigned nitems, accepted, pending, handed_back;
	unsigned unsure;	/* accepted, or not: in the child nobody knows */
	struct producer producers[PRODUCERS + 1]; /* the last: all shared ones, of which an exact model
						     needs one */
	struct body bodies[BODIES];
	size_t ever_reserved;	/* by all producers, which may be beyond the bound */

	uint64_t created, failed;
	bool last_failed;	/* the last attempt to make a worker */
	bool uncovered;		/* a fork has left work that no wake has seen */
	bool owner_knows;	/* the queue is an owner's, which was told to run some, or has yet to look again */
	bool forking;		/* between prepare and its end */
	bool closed, stopped, down;
	unsigned shutting;

	size_t live_bytes;
	unsigned fail_in;	/* the allocation that fails: 1 is the next; 0: none */
	bool memory_ended;	/* all allocations fail */
	unsigned alloc_failures, block_failures;
	unsigned spawns_fail;	/* a bit for each spawn to come */
	uint64_t begun_at;

	/* By time: */
	uint64_t tick_ns;	/* or 0 */
	uint64_t first_tick;	/* the earliest that may be; 0: nobody has written */
	uint64_t looked;	/* at the time: the clock, or who polls */
	uint64_t left_until;	/* a full block may have been left to the tick at this time; 0: none was */
	bool on_time;		/* nothing has happened that may cost ticks: no failure, and no fork */
} m;

void model_begin(void);
void check(void);

void push_context(struct context *c);
void pop_context(struct context *c);
unsigned within(int kind);
bool parked_below(void);

unsigned capacity(const struct producer *p);
unsigned count_producers(void);
unsigned count_bodies(void);
uint64_t units(void);
bool polled(void);
bool by_owner(void);
bool nobody_serves(void);
uint64_t next_tick(void);

/* Callbacks: of a producer (or all) up to an index are published; one has begun. */
void published(int producer, unsigned before);
unsigned item_of(cq_callback_fn *fn, void *arg);
void ran(unsigned item, enum life life);
cq_callback_fn *function(unsigned f);

/* cleanup.c */
void nested_call(void);
void end_park(struct context *c, uint64_t deadline);
void callback_body(void);

extern const cq_park_ops_t model_park;
extern const cq_allocator_t model_allocator;
int model_spawn(void *host, void (*body)(void *arg), void *arg);

/* The pool's clock: a thread, which goes on while this one waits, from one sleep to the next. */
bool clock_exists(void);
bool clock_may_go(void); /* it sleeps no more */
void clock_goes(void);
void clock_is_lost(void); /* in a forked child */
bool is_clock(void); /* the calling thread */

#endif /* CQ_FUZZ_MODEL_H */
