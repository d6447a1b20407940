/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the cleanup queue. Which file has what:
 *
 *   cleanup.c   create, destroy        wake.c     needs_wake, wake, making workers
 *   block.c     blocks, trim           worker.c   taking, running, sleeping
 *   open.c      a producer's block     crew.c     the life of a worker
 *   producer.c  enqueue, flush         drain.c    drain, shutdown
 *   gather.c    flush_all              fork.c     fork
 *   stats.c     statistics             parked.c   sleeping
 *
 * Locks, in the order in which they may be held together:
 *   that of atfork.c  ->  drainers.lock, idle.lock  ->  registry  ->  exits.lock  ->
 *   threads.lock  ->  those of parking
 * None is held while user code runs: but atfork.c's for what a fork's parent makes up for, and
 * any for the allocator.
 */
#ifndef CQ_CLEANUP_PRIV_H
#define CQ_CLEANUP_PRIV_H

#include <cq/cleanup.h>
#include <cq/workq.h>
#include <pthread.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/atfork.h"
#include "base/ordering.h"
#include "base/points.h"
#include "parked.h"
#include "pool/threads.h"

#define CQ_LIKELY(condition) __builtin_expect((condition), 1)

/* Keeps the rare path out of the hot one, which then saves no registers for it. */
#define CQ_RARE __attribute__((noinline))

/*
 * A block of callbacks. At every instant it is in one place: the free stack, a
 * producer's spares, open at a producer, in a full queue, or with a worker.
 */
struct cq_block {
	cq_node_t node;
	cq_block_t *all_next;	/* every block ever made; written once */
	/*
	 * The callbacks that are published and not begun: [begin, end). Empty in a
	 * free, spare or open block. begin moves before each call, so that a forked
	 * child knows what its parent had begun.
	 */
	uint32_t begin, end;
	uint32_t first;		/* begin, when a worker took the block */
	uint16_t parity;	/* which full queue and counts; BLOCK_KEPT in fork and trim */
	uint16_t shared;	/* one function: callbacks[0].fn, then nothing but arguments */
	cq_callback_t callbacks[];
};

#define BLOCK_KEPT 2

/* The arguments of a block whose function is shared, which begin where others have one. */
static inline void **block_args(cq_block_t *b)
{
	return &b->callbacks[0].arg;
}

/*
 * A run of callbacks: what a callback that ends its thread leaves behind is found
 * here. It lies in what outlives the run itself, whose stack is gone by then.
 */
struct frame {
	cq_cleanup_t *q;
	cq_worker_t *worker;		/* NULL in run_some and in shutdown's give_back */
	cq_block_t *block;		/* in hand: taken, and not finished */
	bool poller;			/* in run_some */
	struct frame *outer;		/* which the thread is inside of as well */
};

/* A worker. Its own thread writes; others read under the registry lock. */
struct cq_worker {
	cq_cleanup_t *q;
	cq_parked_sleeper_t sleeper;
	unsigned taken_from;		/* by the look: index of the full queue, or TAKEN_NONE */
	bool made;			/* by the queue, not attached */
	uint64_t crew;			/* what it adds to the queue's crew between two looks */
	bool waits_long;		/* the last time: longer than spin_ns */
	uint64_t idle_since;		/* when it last found nothing */
	struct frame frame;
	uint32_t busy;			/* may be touching a stack, or running a block */
	uint64_t executed[2] CQ_ALIGNED(8); /* callbacks, by the parity of their block */
	uint64_t useless_wakes, failed_sleeps;
	cq_worker_t *next, *prev;	/* under the registry lock */
	cq_worker_t *leaves_next;	/* of those that fork_leaving names */
};

#define TAKEN_NONE 2

/* gate: what an enqueue has to look after when it has stored. 0 on most queues: nothing. */
enum {
	GATE_CLOSED = 1,	/* shut down: take the callback back */
	GATE_FENCE = 2,		/* no asymmetric barrier: fence before looking */
	GATE_HANDOVER = 4	/* CQ_HANDOVER: up while a worker sleeps or none lives */
};

/* stop, when it is not 0: all had run, or work may be left, which nobody runs. */
enum { STOP_DRAINED = 1, STOP_WITH_WORK_LEFT };

enum shutdown_phase { SHUTDOWN_NONE, SHUTDOWN_ACTIVE, SHUTDOWN_TRIED, SHUTDOWN_DONE };

/* Words that different threads write are on different cache lines. */
struct cq_cleanup {
	/* Read by all, written rarely. */
	cq_cleanup_config_t config;	/* with the defaults filled in */
	cq_allocator_t allocator;
	char name[16];
	void *spawn_host;		/* config.host; of managed workers: threads */
	uint32_t slots;			/* callbacks per block */
	uint32_t args;			/* per block that shares its function. 0: none does */
	size_t block_bytes;
	uint32_t gate;			/* written at create and by shutdown */
	uint32_t stop;			/* workers end: STOP_*. Written under the registry lock */
	uint64_t epoch CQ_ALIGNED(8);	/* new blocks go to full[epoch & 1]; drains
					   advance it under the registry lock */

	/*
	 * Published blocks. full[epoch & 1] gets the new ones. The other is what an
	 * earlier epoch left; workers empty it first, so that a drain ends however
	 * much is enqueued meanwhile.
	 */
	struct {
		cq_workq_t queue CQ_ALIGNED(CQ_LINE);
		uint64_t since;		/* when units last rose from 0. Approximate */
	} full[2];

	cq_stack_t free CQ_ALIGNED(CQ_LINE);	/* empty blocks */

	/*
	 * crew = made << 48 | live << 24 | coming.
	 * made: workers that the queue made, and that have not ended or retired.
	 * live: those, and the ones that the host attached.
	 * coming: workers woken or asked for that have not looked yet. Each will
	 * take a unit or find none, so work <= coming needs no wake.
	 */
	uint64_t crew CQ_ALIGNED(CQ_LINE);
	uint32_t spawn_failed;		/* why the last attempt to make a worker failed: errno's
					   value; 0 when it didn't, or one has lived since */
	uint32_t last_errno;		/* the same, never taken back */
	uint32_t pollers;		/* threads in run_some */
	uint32_t serving;		/* threads of the host that may take a block: in
					   run_some, or with a handle */
	uint32_t peak;			/* the most that live has been */

	cq_parked_t idle CQ_ALIGNED(CQ_LINE);		/* workers */
	cq_parked_t drainers CQ_ALIGNED(CQ_LINE);	/* threads in drain or shutdown */
	cq_parked_t exits CQ_ALIGNED(CQ_LINE);	/* a shutdown that waits for workers */

	cq_block_t *all CQ_ALIGNED(CQ_LINE);	/* every block, by all_next */
	uint64_t blocks_made CQ_ALIGNED(8);
	uint64_t created, failed, retired;	/* statistics; on rare paths */

	pthread_mutex_t registry CQ_ALIGNED(CQ_LINE);
	/* Under the registry lock: */
	cq_producer_t *producers;
	cq_worker_t *workers;
	uint32_t nproducers;
	uint32_t nworkers;		/* written under it, read by anyone */
	uint64_t published[2];		/* by gatherers and producers that are gone */
	uint64_t executed[2];		/* by run_some and workers that are gone */
	uint64_t queued;		/* by producers that are gone */
	uint64_t executed_by_parent;	/* before a fork */
	uint64_t handed_back, useless_wakes, failed_sleeps, flushes;
	enum shutdown_phase shutdown;
	bool sealed;			/* a shutdown has claimed all that was accepted */
	struct cq_fork_client fork_client;	/* not CQ_NO_ATFORK */
	/*
	 * A fork under way: the queue's locks are held from prepare to parent or child.
	 * Meanwhile handlers of others may call the queue, on the same thread: what needs a
	 * lock then is refused, or made up for in the parent.
	 */
	struct cq_fork fork;
	bool fork_wakes;		/* a wake is to be made up for */
	cq_worker_t *fork_leaving;	/* handles to be detached */

	struct cq_threads threads;
};

/* crew */
static inline uint32_t crew_made(uint64_t crew) { return (uint32_t)(crew >> 48); }
static inline uint32_t crew_live(uint64_t crew) { return (uint32_t)(crew >> 24) & 0xffffff; }
static inline uint32_t crew_coming(uint64_t crew) { return (uint32_t)crew & 0xffffff; }
#define CREW_MADE (UINT64_C(1) << 48) /* CQ_MAX_WORKERS fits 16 bits */
#define CREW_LIVE (UINT64_C(1) << 24)
#define CREW_COMING UINT64_C(1)

static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* The threads are the library's own. */
static inline bool is_managed(const cq_cleanup_t *q)
{
	return q->config.spawn == cq_threads_spawn;
}

static inline bool hands_over(const cq_cleanup_t *q)
{
	return (q->config.flags & CQ_HANDOVER) != 0;
}

static inline void *cq_alloc(cq_cleanup_t *q, size_t bytes)
{
	return cq_allocate(&q->allocator, bytes);
}

static inline void cq_free(cq_cleanup_t *q, void *memory, size_t bytes)
{
	cq_release(&q->allocator, memory, bytes);
}

static inline const cq_park_ops_t *park_of(const cq_cleanup_t *q)
{
	return q->config.park != NULL ? q->config.park : cq_park_default();
}

/* cleanup.c. cq_lock: the registry's, which a thread that is forking has already. */
void cq_lock(cq_cleanup_t *q);
void cq_unlock(cq_cleanup_t *q);

/* block.c */
CQ_NODE_CONTAINER(struct cq_block, node, block_of)
cq_block_t *cq_block_get(cq_cleanup_t *q);
void cq_block_put(cq_cleanup_t *q, cq_block_t *block);
void cq_block_clear(cq_block_t *block);
void cq_block_recycle(cq_cleanup_t *q, cq_block_t *block);
uint64_t cq_blocks_waiting(cq_cleanup_t *q);
unsigned cq_block_take_unit(cq_cleanup_t *q);
cq_block_t *cq_block_take(cq_cleanup_t *q);
void cq_blocks_publish(cq_cleanup_t *q, unsigned parity, cq_block_t *first, cq_block_t *last,
    uint64_t n);

/*
 * open.c, without the registry lock. The caller has raised the gate (closed it, or said that
 * a worker is idle): each enqueue sees that, or what follows sees its callback.
 */
void cq_producers_look(cq_cleanup_t *q);

/* gather.c: with the registry lock held. Publishes, and doesn't wake. */
int cq_gather(cq_cleanup_t *q);

/* wake.c, with cq_cleanup_wake */
void cq_worker_not_made(cq_cleanup_t *q, uint64_t crew);
int cq_stall_error(uint32_t spawn_failed);
int cq_wake_unless_polled(cq_cleanup_t *q);
uint64_t cq_crew_add(cq_cleanup_t *q, uint64_t change);
void cq_note_peak(cq_cleanup_t *q, uint32_t live);
void cq_worker_arrive(cq_cleanup_t *q);

/* worker.c */
struct frame *cq_frames(void);		/* those that the thread is inside of, innermost first */
void cq_frame_enter(struct frame *f);
void cq_frame_leave(const struct frame *f);
void cq_frame_finish(struct frame *f);
bool cq_in_callback_of(const cq_cleanup_t *q);
void cq_take_partial_blocks(cq_cleanup_t *q);
bool cq_finish(cq_worker_t *w);
void cq_worker_serve(cq_worker_t *w);

/* crew.c */
cq_worker_t *cq_worker_new(cq_cleanup_t *q, void *host, int *err);
void cq_worker_gone(cq_worker_t *w);
void cq_worker_main(void *arg);
void cq_leave(cq_cleanup_t *q);

/* drain.c. nothing_left: with the registry lock held. */
bool cq_nothing_left(cq_cleanup_t *q);
void cq_notify_drainers(cq_cleanup_t *q, unsigned parity);
void cq_wake_drainers(cq_cleanup_t *q);
void cq_server_left(cq_cleanup_t *q);

/* fork.c. cq_forking: the calling thread is between q's prepare and its end. */
bool cq_forking(const cq_cleanup_t *q);
extern const struct cq_fork_ops cq_cleanup_fork_ops;

#endif /* CQ_CLEANUP_PRIV_H */
