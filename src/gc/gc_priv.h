/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the sources of libcq-gc share. doc/gc says how it works, and why no cleanup is early, lost or doubled.
 *
 * Locks, in their order: draining; libcq's and the collector's own; the lists. Under `lists` nothing is called that
 * takes another lock, and under the collector's it is only tried: so the pass never waits.
 */
#ifndef CQ_GC_PRIV_H
#define CQ_GC_PRIV_H

#define GC_THREADS
#define GC_NO_THREAD_REDIRECTS
#include <gc.h>
#include <gc/gc_mark.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include <cq/gc.h>
#include <cq/producer.h>

#include "base/ordering.h"
#include "base/points.h"

/* ---- the word of an entry ----

   An object's address, which is a multiple of 8 below 2^48, shifted by 16, or a state; below that whether somebody
   has a handle; and the entry's generation, by which a handle knows its own cleanup. It goes up as the entry is used
   again. */

#define GENERATION_MAX ((UINT64_C(1) << 18) - 1) /* an entry at the last one is not used again */
#define HELD (UINT64_C(1) << 18) /* with an object alone: a stop may come. Else only the pass changes the word */
#define STATE(n) ((uint64_t)(n) << 19)
#define FREE STATE(0)		/* never used, since its table was made or was bare */
#define RAN STATE(1)		/* fn has returned */
#define STOPPED STATE(2)
#define DEAD STATE(3)		/* found by the pass */
#define QUEUED STATE(4)		/* the hand-over's, then its callback's; or in a stop's hand */
#define OBJECT_MIN STATE(8)	/* the address 64 */

static inline uint64_t word_generation(uint64_t word) { return word & GENERATION_MAX; }
static inline uint64_t word_state(uint64_t word) { return word & ~(HELD | GENERATION_MAX); }
static inline bool word_is_object(uint64_t word) { return word >= OBJECT_MIN; }
static inline bool word_is_done(uint64_t word) { return word < DEAD; }
static inline uintptr_t word_address(uint64_t word) { return (uintptr_t)(word_state(word) >> 16); }

static inline bool word_is_usable(uint64_t word)
{
	return word_is_done(word) && word_generation(word) < GENERATION_MAX;
}

/* ---- tables ----

   Aligned to their size, so that the address of a word leads to its table. Their memory is never scanned, nor freed,
   so that a handle may look at its word at any time. */

enum { TABLE_BYTES = 65536, HEADER_BYTES = 256 };
enum { ENTRIES = (TABLE_BYTES - HEADER_BYTES) / (sizeof(uint64_t) + 2 * sizeof(void *)) };

/* Who may use a table's done entries (but those at the last generation: a table of such stays full): */
enum place {
	OWNED,	/* one thread, its owner: for new cleanups, from `cursor` on */
	FULL,	/* nobody, until a pass finds a fourth of them done */
	SPARE,	/* who takes it off `spare` */
	EMPTY,	/* who takes it off `empty`; all are done */
	BARE	/* likewise of `bare`, and it has no memory but for its header */
};

/* L: under `lists`. O: its owner's, or under `lists` while it has none. D: under `draining`. */
typedef struct cq_gc_table {
	struct cq_gc_table *next;		/* of all tables; set once */
	struct cq_gc_table *next_listed;	/* L */
	struct cq_gc_table *next_pending;	/* its pusher's, then D */
	uint32_t pending;			/* is on, or about to be on, `pending`, or was just taken off it */
	uint32_t place;				/* L; read by the pass without it */
	uint32_t cursor;			/* O: entries below it have been looked at */
	bool scanned;				/* L, unless owned: args is memory of the collector's */
	void **args;				/* O: not of a bare one */
	uint64_t generation;			/* O: what its words shall begin at, if not 0 */
	uint64_t emptied;			/* L: the pass that has found it empty */
	size_t done;				/* L: of a spare one, entries that are */
	uint64_t run, stopped;			/* O: what words that are gone were */
	CQ_ALIGNED(HEADER_BYTES) uint64_t word[ENTRIES];
	cq_callback_fn *fn[ENTRIES];
	void *own_args[ENTRIES];		/* args, unless scanned */
} cq_gc_table_t;

static inline cq_gc_table_t *table_of(uint64_t *word)
{
	return (cq_gc_table_t *)((uintptr_t)word & ~(uintptr_t)(TABLE_BYTES - 1));
}

/* What the next call of add has to see to first; poll and collect too. */
enum attention { NOTHING, SOME_DEAD, NO_HELPER, NOT_OPEN };

extern struct cq_gc {
	uint32_t attention;
	cq_cleanup_t *queue;		/* NULL: in place; written by open */
	uint32_t threads_allowed;	/* the collector is prepared for threads that it hasn't made */

	pthread_mutex_t lists;		/* a leaf */
	cq_gc_table_t *all;		/* grows only; read without the lock */
	cq_gc_table_t *spare[2], *empty[2]; /* L, by `scanned` */
	cq_gc_table_t *dying[2];	/* L: those full ones that may be spare when what the pass has found dead has run */
	cq_gc_table_t *bare;		/* L */
	char *slab, *slab_end;		/* L: memory for tables to come */
	uint64_t passes;		/* L: those that had the lock of the lists */

	cq_gc_table_t *pending;		/* tables with dead entries. All may push, who has `draining` takes all */
	uint32_t to_trim;		/* the pass has seen tables that were empty for long */
	uint64_t late, pass_ns;

	pthread_mutex_t draining;	/* one hand-over at a time */
	sem_t work;			/* for the helper: posted by the pass */
} cq_gc;

/* Of each thread. */
extern __thread struct cq_gc_thread {
	cq_gc_table_t *tables[2];	/* its own, by `scanned`, or NULL */
	bool draining;			/* hands over: what it calls shall not */
	bool registered;		/* by worker_start */
	uint64_t relieved;		/* cleanups that had run when its last call of relieve returned */
} cq_gc_mine;

/* tables.c */
uint64_t *cq_gc_entry(bool scanned);		/* an entry of the calling thread that is done; NULL: no memory */
int cq_gc_tables_open(void);
void cq_gc_table_sort(cq_gc_table_t *t, size_t done, size_t gone);
bool cq_gc_table_is_old(const cq_gc_table_t *t);
void cq_gc_tables_compact(bool scanned);
void cq_gc_tables_trim(void);
void cq_gc_tables_child(void);
void cq_gc_tally(cq_gc_counts_t *out);

/* hand_over.c */
void cq_gc_pend(cq_gc_table_t *t);		/* has dead entries */
size_t cq_gc_hand_over(int *err);		/* all that is dead; *err: why some has to wait */
size_t cq_gc_run_dead(void);			/* the same in place, whatever there is to hand over to */

/* pass.c */
void GC_CALLBACK cq_gc_event(GC_EventType event);
void cq_gc_pass_open(void);
uint64_t cq_gc_pass_missed(void);
size_t cq_gc_pass_close(void);			/* all that is attached is dead, how many; and it is not open any more */

/* threads.c */
int cq_gc_helper_start(void);
void cq_gc_helper_end(void);
void cq_gc_helper_child(void);

/* gc_fork.c */
int cq_gc_fork_open(void);

#endif /* CQ_GC_PRIV_H */
