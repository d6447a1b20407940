/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cq/workq.h - layer 1, the work queue: a lock-free stack of nodes that the
 * caller owns, and a 64-bit count of work units.
 *
 * Many threads push, many pop, last in first out. The counter says how much
 * work there is without touching the stack: it is what a scheduler looks at,
 * and what a consumer claims before it pops.
 *
 * LIFETIME, FIRST OF ALL. Nodes are type-stable: a pop that is under way may read the link of a node that another
 * thread has just popped. The memory of a node may be used again as a node of any queue at once, but must not be
 * unmapped, freed or given another type until the queue is destroyed or no pop is under way (all poppers are quiescent).
 *
 * INVARIANT W1:  units <= linked nodes,  at every instant.
 * A node is linked first and counted after; a unit is taken first and its node popped after. So
 * whoever has taken a unit pops a node: never NULL, and no retry because the stack was empty.
 *
 * NO ORDER can be built from it, not by one producer and one consumer either. Take and pop are two steps, and nodes
 * are pushed between them: who takes n units and pops n nodes has the newest n of that moment, older ones stay in the
 * queue and will be popped later, so reversing the chain does not give FIFO. Where order matters, a unit is a token
 * that says "run the oldest job of the list", and a lock guards the list: see the second example.
 *
 * CALLS THAT MAY RUN TOGETHER, on one queue (- free, X the caller excludes it):
 *
 *                      init/destroy  link, push*  add_work  take*  pop*  units
 *     init/destroy          X             X          X        X     X      X
 *     all the others        X             -          -        -     -      -
 *
 * MEMORY ORDER: all that a thread did, reads and writes, before it linked a
 * node happens before the return of the pop that gives the node out.
 * A take or add_work alone orders nothing that is of use to the caller.
 *
 * Nothing here allocates or changes errno. Where the processor has a compare-and-swap of two words,
 * all calls are lock-free. Elsewhere (cq_build_info() says so) pushes are still lock-free, and pops
 * exclude each other: one that meets another spins for a moment, then sleeps, a microsecond at first and 1 ms at most.
 * FORK: a child may use the queue, less what other threads were just pushing, or had taken and not popped; but not
 * where pops exclude each other and another thread was popping.
 *
 * Source: the stack is Treiber's with a generation count, as in Concurrency Kit;
 * the counter and its protocol are those of the cleanup queue of Go's runtime
 * (runtime/mcleanup.go after golang/go#73642).
 *
 * Example:
 *
 *     struct job {
 *             cq_node_t node;
 *             int payload;
 *     };
 *     CQ_NODE_CONTAINER(struct job, node, job_of)
 *     int push_and_pop(void)
 *     {
 *             static cq_workq_t q = CQ_WORKQ_INITIALIZER;
 *             static struct job job = { { NULL }, 42 };
 *
 *             cq_workq_push(&q, &job.node);
 *             cq_node_t *n = cq_workq_try_pop(&q);
 *             return n != NULL ? job_of(n)->payload : -1;
 *     }
 *
 * Example: (first in, first out)
 *
 *     struct ordered_job {
 *             struct ordered_job *later;
 *             cq_node_t *token;
 *     };
 *     static cq_workq_t tokens = CQ_WORKQ_INITIALIZER;
 *     static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
 *     static struct ordered_job *oldest, **end = &oldest;
 *
 *     void put(struct ordered_job *job, cq_node_t *token)
 *     {
 *             job->later = NULL;
 *             pthread_mutex_lock(&lock);
 *             *end = job;
 *             end = &job->later;
 *             pthread_mutex_unlock(&lock);
 *             cq_workq_push(&tokens, token);
 *     }
 *
 *     struct ordered_job *take_oldest(void)
 *     {
 *             cq_node_t *token = cq_workq_try_pop(&tokens);
 *             struct ordered_job *job;
 *
 *             if (token == NULL)
 *                     return NULL;
 *             pthread_mutex_lock(&lock);
 *             job = oldest;
 *             if ((oldest = job->later) == NULL)
 *                     end = &oldest;
 *             pthread_mutex_unlock(&lock);
 *             job->token = token;
 *             return job;
 *     }
 */
#ifndef CQ_WORKQ_H
#define CQ_WORKQ_H

#include <stdbool.h>
#include <stdint.h>

#include <cq/cc.h>

CQ_BEGIN_DECLS

/**
 * What links a caller's object into a queue: put one into the object. Between push and pop it belongs
 * to the queue. Outside of that, `next` is the caller's: chains for cq_workq_push_chain() are built
 * with it. A pop_taken_n that is under way may follow it, so in a node that has been in a queue it
 * holds a node or NULL, never anything else.
 */
typedef struct cq_node {
	struct cq_node *next;
} CQ_MAY_ALIAS cq_node_t;

/** The object that holds `node` so many bytes from its beginning. */
static inline void *cq_node_container(void *node, size_t offset)
{
	return CQ_STATIC_CAST(char *, node) - offset;
}

/*
 * CQ_NODE_CONTAINER(T, M, NAME) defines `static inline T *NAME(cq_node_t *)`, from a node,
 * the member M of T, to its T. (T may have a comma or two, as the name of a template has,
 * where macros may have any number of arguments: not in C++98.)
 */
#if !defined(__cplusplus) || __cplusplus >= 201103L
#define CQ_NODE_CONTAINER(...)							\
	CQ_LAST_OF(__VA_ARGS__, CQ_CONTAINER_5, CQ_CONTAINER_4, CQ_CONTAINER_3,)(__VA_ARGS__)
#define CQ_LAST_OF(a, b, c, d, e, chosen, ...) chosen
#define CQ_CONTAINER_3(T, M, NAME) CQ_CONTAINER(M, NAME, T)
#define CQ_CONTAINER_4(T, U, M, NAME) CQ_CONTAINER(M, NAME, T, U)
#define CQ_CONTAINER_5(T, U, V, M, NAME) CQ_CONTAINER(M, NAME, T, U, V)
#define CQ_CONTAINER(M, NAME, ...)						\
	CQ_UNUSED static inline __VA_ARGS__ *NAME(cq_node_t *node)		\
	{									\
		typedef __VA_ARGS__ cq_object_t;				\
		return CQ_STATIC_CAST(cq_object_t *,				\
		    cq_node_container(node, __builtin_offsetof(cq_object_t, M)));	\
	}
#else
#define CQ_NODE_CONTAINER(T, M, NAME)						\
	CQ_UNUSED static inline T *NAME(cq_node_t *node)			\
	{									\
		return CQ_STATIC_CAST(T *,					\
		    cq_node_container(node, __builtin_offsetof(T, M)));		\
	}
#endif

/** Aligned for a compare-and-swap of both words. */
typedef struct cq_stack {
	cq_node_t *head;
	char *generation;	/**< pops so far; the lock, where pops need one */
} CQ_MAY_ALIAS CQ_ALIGNED(2 * sizeof(void *)) cq_stack_t;

/**
 * The queue. Its fields are the library's, but for `user`. stack and units are touched by each push and
 * each pop, so they share a cache line; give the queue a line of its own
 * (64 or 128 bytes) where other data that is written often would share it.
 */
typedef struct cq_workq {
	cq_stack_t stack;
	uint64_t units CQ_ALIGNED(8);
	uint64_t user;	/**< the caller's, on that line: 0 when it is made, then touched by no call */
} cq_workq_t;

#define CQ_WORKQ_INITIALIZER { { NULL, NULL }, 0, 0 }

/** Makes an empty queue. EINVAL: `q` is NULL, or not aligned to two pointers (a pop would crash or be torn). */
CQ_API CQ_MUST_CHECK int cq_workq_init(cq_workq_t *q);

/**
 * Ends a queue. EBUSY: it has nodes or units left, and it is unchanged; EINVAL:
 * `q` is NULL. Owns nothing, so a static queue need not be destroyed.
 */
CQ_API int cq_workq_destroy(cq_workq_t *q);

/**
 * Links the chain from `first` by `next` to `last`, without counting it: no consumer can claim
 * it before cq_workq_add_work() does. For those who publish late, as at the end of a phase.
 */
CQ_API void cq_workq_link_chain(cq_workq_t *q, cq_node_t *first, cq_node_t *last);

/**
 * Adds `n` units for n nodes that were linked, by any thread that the caller
 * is ordered after, and not yet counted. Returns the units before. A checking
 * build asserts that the sum does not overflow, which W1 makes impossible.
 */
CQ_API uint64_t cq_workq_add_work(cq_workq_t *q, uint64_t n);

/** link_chain + add_work(n), of a chain of exactly `n` nodes. Units before. */
CQ_API uint64_t cq_workq_push_chain(cq_workq_t *q, cq_node_t *first, cq_node_t *last,
    uint64_t n);

/**
 * Takes min(units, max) units in one step, and returns the units before; the caller owes a pop for each that it took:
 *
 *     before = cq_workq_take(q, 8);
 *     mine = before < 8 ? before : 8;
 *
 * What is left says whether it wakes another for it. 0 only when it saw no unit. The count never goes below zero.
 */
CQ_API CQ_MUST_CHECK uint64_t cq_workq_take(cq_workq_t *q, uint64_t max);

/**
 * Pops the nodes for `n` units that the caller has taken, as a chain of exactly n that ends in NULL (NULL when n is
 * 0), newest first. One contended operation for all of them, retried when another thread was faster; so keep n modest
 * (a few dozen) where many threads push and pop. n must not exceed what the caller has taken and not popped: else it
 * may never return, or give NULL (which a checking build, --enable-checks, asserts against), or take nodes of others,
 * who are then missing them.
 */
CQ_API CQ_MUST_CHECK cq_node_t *cq_workq_pop_taken_n(cq_workq_t *q, uint64_t n);

/* ---- the same for one ---- */

static inline void cq_workq_link(cq_workq_t *q, cq_node_t *node)
{
	cq_workq_link_chain(q, node, node);
}

/** Units before. */
static inline uint64_t cq_workq_push(cq_workq_t *q, cq_node_t *node)
{
	return cq_workq_push_chain(q, node, node, 1);
}

/** False only when it saw no unit. Whoever gets true owes one cq_workq_pop_taken(). */
static inline CQ_MUST_CHECK bool cq_workq_try_take_work(cq_workq_t *q)
{
	return cq_workq_take(q, 1) != 0;
}

/** Never NULL. */
static inline CQ_MUST_CHECK cq_node_t *cq_workq_pop_taken(cq_workq_t *q)
{
	return cq_workq_pop_taken_n(q, 1);
}

/** try_take_work + pop_taken. NULL only when it saw no unit. */
static inline CQ_MUST_CHECK cq_node_t *cq_workq_try_pop(cq_workq_t *q)
{
	return cq_workq_pop_taken_n(q, cq_workq_take(q, 1) != 0);
}

/** The units at some instant during the call: an estimate by the time it returns. */
CQ_API uint64_t cq_workq_units(const cq_workq_t *q);

CQ_END_DECLS

#endif /* CQ_WORKQ_H */
