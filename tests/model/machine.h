/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the explorer:
 *
 *   search.c   the tree of choices, the states that were seen, main
 *   memory.c   the memory model: what a load may return; data races
 *   threads.c  threads, locks, condition variables, futexes, time
 *   hooks.c    where the compiled code enters: instrumentation, wrapped calls, heap
 *
 * All that changes during an execution lies in one structure outside the data
 * segments, since those are set back before each execution.
 */
#ifndef MODEL_MACHINE_H
#define MODEL_MACHINE_H

#include <setjmp.h>
#include <stddef.h>
#include <ucontext.h>

#include "explore.h"

enum {
	MAX_THREADS = 8,
	READS = MAX_THREADS,
	MAX_LOCATIONS = 256,
	MAX_STORES = 4096,
	MAX_PLACES = 64,	/* stores to one word that a thread may choose from */
	MAX_OBJECTS = 160,	/* locks and condition variables */
	MAX_CHOICES = 20000,
	MAX_STEPS = 20000,	/* more is a livelock */
	STACK_BYTES = 128 << 10,
	HEAP_BYTES = 128 << 10,	/* of each thread */
	CELL_BYTES = 4
};

/*
 * What a thread knows: of each location the oldest store that it may still
 * read, and of each thread how far it has synchronized with it.
 */
struct view {
	uint16_t ts[MAX_LOCATIONS];
	uint16_t clock[2 * MAX_THREADS];	/* with its writes; READS + t: with its reads */
};

struct store {
	uint64_t value;
	struct view view;	/* what it hands to a load that acquires */
	uint64_t hash;		/* of both */
	bool update;		/* by a read-modify-write, which read the one before */
	struct store *before;	/* in the order in which they take effect */
};

/* A word that is accessed atomically. Its index is the same in every execution. */
struct location {
	uintptr_t address;
	unsigned size;
	bool live;		/* has a history in this execution */
	uint16_t newest;	/* its ts; the first has 0 */
	struct store *last;
};

/* Four bytes of checked memory: who has touched them, for data races. */
struct cell {
	uint32_t run;		/* the execution that this is of */
	uint16_t location;	/* index + 1 */
	uint16_t object;	/* index + 1 */
	bool freed;
	uint64_t content;	/* its part of the hash of plain memory */
	uint8_t writer[CELL_BYTES];
	uint16_t wrote[CELL_BYTES];
	uint16_t read[MAX_THREADS][CELL_BYTES];
	uint16_t atomic_wrote[MAX_THREADS], atomic_read[MAX_THREADS];
	uint16_t stored[MAX_THREADS];	/* ts of each thread's newest store */
};

enum status { UNUSED, READY, BLOCKED, ENDED };
enum waiting_for { NOTHING, A_LOCK, A_SIGNAL, A_FUTEX, A_THREAD };
enum woke { BY_WAKE, BY_TIMEOUT, BY_NOTHING };

struct thread {
	enum status status;
	enum waiting_for what;
	uintptr_t where;	/* the lock, condition variable, futex or thread */
	uint64_t deadline;	/* UINT64_MAX: none */
	bool signalled, yielded, created, joined;
	enum woke woke;
	uint64_t hash;		/* of all that it has seen: its local state */
	uint64_t yielded_at;	/* its hash after the last yield */
	struct view cur, rel, acq;
	uint16_t reads_done;	/* clock of the reads that later stores wait for anyway */
	uint16_t last_load;	/* location index */
	unsigned cpu;		/* follows from what it has executed, so it is in no hash */
	size_t heap_used;
	void *(*body)(void *);
	void *arg;
	jmp_buf at;
	ucontext_t context;
	char tls[256];
};

/* A lock or a condition variable. */
struct object {
	uintptr_t address;
	int owner;		/* -1: free */
	struct view view;	/* of the last unlock */
	uint64_t hash;
};

struct machine {
	/* the search */
	const struct scenario *scenario;
	struct bounds bounds, left;	/* left: in this execution; < 0: unbounded */
	struct { uint16_t n, taken; } path[MAX_CHOICES];
	size_t depth, replay, at;
	bool tracing, failed;
	jmp_buf driver;
	uint64_t executions, states;
	unsigned expected, met;	/* outcomes, as bits */
	unsigned race_is;	/* the bit of the outcome that a race is; 0: it fails */

	/* memory */
	uint32_t run;
	struct location locations[MAX_LOCATIONS];
	unsigned nlocations;
	struct store stores[MAX_STORES];
	unsigned nstores;
	struct view sc;		/* what sequentially consistent fences have passed on */
	uint64_t memory_hash;
	struct { uintptr_t address; size_t size; } pending;	/* a plain write; size 0: none */
	struct object objects[MAX_OBJECTS];
	unsigned nobjects;
	uint64_t allocated;	/* and not freed */

	/* threads */
	struct thread threads[MAX_THREADS];
	int current, nthreads;
	uint64_t now, steps;
};

extern struct machine *const m;

static inline struct thread *self(void) { return &m->threads[m->current]; }

/* For places whose parts are summed up: a small value there must not make one another. */
static inline uint64_t spread(uint64_t place)
{
	return place * UINT64_C(0xd1342543de82ef95);
}

static inline uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
}

/* search.c */
int pick(int n);
bool seen_before(uint64_t state, int preemptions_left);
void prune(void) __attribute__((noreturn));
void trace(const char *what, uintptr_t address, uint64_t value, void *pc);
const char *symbol_of(const void *pc);
void code_of(const char *function, const void *from_to[2]);

/* memory.c */
void memory_init(size_t data_bytes);
void memory_reset(void);
struct cell *cell_of(uintptr_t address);
uint64_t load(uintptr_t a, unsigned size, bool acquire, void *pc);
void store(uintptr_t a, unsigned size, uint64_t v, bool release, void *pc);
uint64_t newest(uintptr_t a, unsigned size);
bool cas(uintptr_t a, unsigned size, uint64_t *expected, uint64_t v, void *pc);
bool cas_two(uintptr_t a, const uint64_t old[2], const uint64_t v[2], void *pc);
enum rmw { RMW_ADD, RMW_SUB, RMW_AND, RMW_OR, RMW_XOR, RMW_SWAP };
uint64_t rmw(uintptr_t a, unsigned size, enum rmw op, uint64_t v, void *pc);
void fence_acquire(struct thread *t);
void fence_release(struct thread *t);
void fence_store(struct thread *t);
void fence_full(struct thread *t);
void plain(uintptr_t a, size_t size, bool write, void *pc);
void settle_plain(void);
void freed(uintptr_t a, size_t size, void *pc);
void view_join(struct view *to, const struct view *from);
void synchronize(struct view *to, const struct thread *from);
uint64_t view_hash(const struct view *v);
uint64_t memory_state(void);
void tick(struct thread *t);

/* threads.c */
void threads_reset(void);
void run_thread_0(void);
void point(void);
void yield(void);
void note(uint64_t seen);

/* hooks.c: the region with the threads' stacks and heaps, and the data segments */
extern char *region;
#define REGION_BYTES ((size_t)MAX_THREADS * (STACK_BYTES + HEAP_BYTES))
static inline char *stack_of(int t) { return region + (size_t)t * (STACK_BYTES + HEAP_BYTES); }
static inline char *heap_of(int t) { return stack_of(t) + STACK_BYTES; }
static inline bool in_stack_of(uintptr_t a, int t)
{
	return a - (uintptr_t)stack_of(t) < STACK_BYTES;
}
void hooks_init(void);
void hooks_reset(void);
extern uintptr_t data_begin, data_end;
void *tls_block(size_t *bytes);

#endif /* MODEL_MACHINE_H */
