/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The model of a cleanup queue: who is attached, asked for and asleep, and what
 * has become of each callback. It follows the queue through its park table, its
 * spawn, its allocator, its callbacks and its schedule points, and is compared
 * with it after every call.
 */
#ifndef CQ_FUZZ_MODEL_H
#define CQ_FUZZ_MODEL_H

#include "fuzz.h"

enum { PRODUCERS = 4, HANDLES = 3, BODIES = 16, CALLBACKS = 1024, FUNCTIONS = 3 };

/* What has become of a callback. Its argument is its index + 1. */
enum life {
	IN_FLIGHT,	/* the call of enqueue has not returned */
	PENDING,	/* accepted */
	DONE,		/* begun, by a worker or by cq_block_next */
	HANDED_BACK,
	REFUSED,	/* by enqueue */
	DROPPED,	/* by a fork: with CQ_FORK_DISCARD, or it was the parent's */
	UNSURE		/* it was in flight in another thread when the process forked */
};

struct item {
	enum life life;
	int producer;
	unsigned function;
	enum { NO, MAYBE, YES } published;
	bool accepted;	/* enqueue has returned 0 */
};

/* Functions are counted from 1. */
enum { NONE_YET = 0, SEVERAL = -1 };

struct producer {
	cq_producer_t *p;
	bool open;		/* has it a block? */
	int shared;		/* its function, or NONE_YET: each callback has its own */
	int only;		/* the function of all in it so far, or NONE_YET, or SEVERAL */
	int sole;		/* that of the last full block, or NONE_YET or SEVERAL */
	unsigned n;		/* slots used of its open block */
	unsigned unclaimed;	/* of those: not taken by a flush_all */
	size_t reserved;	/* enqueues that cannot fail */
	bool busy;		/* in a call, by another thread */
	bool orphan;		/* of a thread that a forked child doesn't have */
};

struct handle {
	cq_worker_t *w;
	cq_block_t *block;
	bool busy;
};

struct body {
	void (*run)(void *arg);
	void *arg;
	enum { NONE, ASKED, RUNNING } state;
};

/* A call, or a callback, that others are nested in; innermost first. */
struct context {
	enum { CALLBACK, GIVE_BACK, WORKER, WAITER, POINT, LOCKED_POINT } kind;
	void *host;			/* WORKER: what parker->host must be */
	bool made;			/* WORKER: by spawn */
	const cq_parker_t *parker;	/* since it was listed */
	bool listed, granted;		/* asleep; by now woken */
	bool woken, retiring;		/* WORKER: since it last found work */
	uint64_t deadline;		/* WAITER */
	unsigned before;		/* WAITER: callbacks that were begun before it */
	bool flushes;			/* WAITER: it publishes those first */
	struct context *outer;
};

enum tri { FALSE, PERHAPS, TRUE };

extern struct model {
	cq_cleanup_t *q;
	cq_cleanup_config_t config;
	unsigned slots;
	unsigned args;		/* in a block that shares one function; 0: none does */
	bool interleaved;	/* other threads' calls fall in at schedule points */
	bool exact;		/* calls are whole, and only flushes publish */
	struct context *top;
	unsigned frames;	/* callbacks and give_backs among the contexts */
	unsigned points;	/* schedule points among them */

	struct item items[CALLBACKS];
	unsigned nitems, accepted, pending, handed_back;
	unsigned unsure;	/* accepted, or not: in the child nobody knows */
	struct producer producers[PRODUCERS];
	struct handle handles[HANDLES];
	struct body bodies[BODIES];

	unsigned asleep, coming, live, made, peak;
	uint64_t created, failed, retired, wakes, useless;
	bool last_failed;	/* the last attempt to make a worker */
	bool forked;
	bool uncovered;		/* a fork has left work that no wake has seen */
	bool closed, down;
	enum tri stopped;
	unsigned shutting;
	bool hand_back_tried;

	size_t live_bytes;
	unsigned fail_in;	/* the allocation that fails: 1 is the next; 0: none */
	bool memory_ended;	/* all allocations fail */
	unsigned alloc_failures;
	unsigned spawns_fail;	/* a bit for each spawn to come */
	uint64_t begun_at;
} m;

void model_begin(void);
void model_event(const char *where);
void check(void);
void demand_is_met(void);

void push_context(struct context *c);
void pop_context(struct context *c);
bool within(int kind);
bool parked_below(void);

/* A worker was made or attached, or comes back; it retires or is detached. */
void lives(void);
void leaves(void);

unsigned count_producers(void);
unsigned count_handles(void);
unsigned count_bodies(void);
unsigned count_held(void);
uint64_t units(void);

/* Callbacks: of a producer (or all) up to an index are published; one has begun. */
void published(int producer, unsigned before);
void gathered(void);
unsigned item_of(cq_callback_fn *fn, void *arg);
void ran(unsigned item, enum life life);
cq_callback_fn *function_of(unsigned item);

/* cleanup.c */
void nested_call(void);
void end_park(struct context *c, uint64_t deadline);
void callback_body(void);

extern const cq_park_ops_t model_park;
extern const cq_allocator_t model_allocator;
int model_spawn(void *host, void (*body)(void *arg), void *arg);

#endif /* CQ_FUZZ_MODEL_H */
