/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The look at all attached objects. At GC_EVENT_RECLAIM_END, the collector's lock held: marks are complete, also
 * those of what finalizers reach, and no block has been used again. Neither is so when the lock is let go.
 *
 * In here nothing is called that could wait, for a lock or for memory, but GC_base and GC_is_marked.
 */
#include <errno.h>
#include <time.h>

#include "gc_priv.h"

/* Under the collector's lock. */
static struct {
	GC_on_collection_event_proc before;	/* was there first, and is called too */
	uint64_t collections;			/* those before open */
	uint64_t seen;				/* passes */
	uint64_t missed;			/* as of the last look */
} pass;

/* Of a word, what is below the page of its object. The collector's blocks are no smaller than that, so where one
   object begins in a page, marks can be asked for of all that begin there. */
enum { PAGE_BITS = 16 + 12 };
#define NONE UINT64_MAX

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

struct found {
	size_t died, done;	/* now; and earlier, and may be used again */
	size_t gone;		/* all that are not alive */
};

/* False: the object is gone. GC_is_marked must not be asked then: if a pass was missed, or the collector's rules were
   not kept, the page may be the middle of a large object, of which it knows nothing. */
static bool page_is_used(uint64_t word)
{
	void *base = GC_base((void *)word_address(word));

	return base != NULL && (uintptr_t)base >> 12 == word >> PAGE_BITS;
}

/* `all`: none is alive. */
static struct found look_at(cq_gc_table_t *t, bool all)
{
	struct found f = { 0 };
	uint64_t page = NONE; /* that marks can be asked for in */

	for (size_t i = 0; i < ENTRIES; i++) {
		uint64_t word = cq_u64_load_relaxed(&t->word[i]);

		if (word >> PAGE_BITS != page) { /* of what is no object it is 0 */
			if (!word_is_object(word)) {
				f.done += word_is_usable(word);
				f.gone++;
				continue;
			}
			page = !all && page_is_used(word) ? word >> PAGE_BITS : NONE;
		}
		if (page != NONE && GC_is_marked((void *)word_address(word)))
			continue;
		CQ_POINT("gc.dies");
		f.gone++;
		if ((word & HELD) == 0)
			cq_u64_store_relaxed(&t->word[i], DEAD | word_generation(word));
		else if (!cq_u64_cas_relaxed(&t->word[i], &word, DEAD | word_generation(word)))
			continue; /* a stop was faster */
		f.died++;
	}
	if (f.died != 0)
		cq_gc_pend(t);
	return f;
}

static void look_at_all(void)
{
	bool tidy = pthread_mutex_trylock(&cq_gc.lists) == 0; /* else the lists wait for the next pass */
	bool old = false;
	struct found f = { 0 };
	size_t died = 0;

	if (tidy) {
		cq_gc.passes++;
		cq_gc.spare[0] = cq_gc.spare[1] = cq_gc.dying[0] = cq_gc.dying[1] = NULL;
	}
	/* What was added before the world was stopped, then DEAD. Pairs with the acquire in next_dead. Without it a
	   word could be seen dead before its fn is. */
	cq_fence_release();
	/* Pairs with the release in carve. */
	for (cq_gc_table_t *t = cq_ptr_load_acquire(&cq_gc.all); t != NULL; t = t->next) {
		uint32_t place = cq_u32_load_relaxed(&t->place);

		if (place != EMPTY && place != BARE)
			died += (f = look_at(t, false)).died;
		if (tidy && (place == FULL || place == SPARE))
			cq_gc_table_sort(t, f.done, f.gone);
		old |= tidy && cq_gc_table_is_old(t);
	}
	if (tidy) {
		cq_gc_tables_compact(false);
		cq_gc_tables_compact(true);
		pthread_mutex_unlock(&cq_gc.lists);
	}
	if (old)
		cq_u32_store_relaxed(&cq_gc.to_trim, 1);
	if (died == 0 && !old)
		return;
	if (cq_gc.queue != NULL) {
		sem_post(&cq_gc.work);
	} else {
		/* What has died, then the word. Pairs with the fence in cq_gc_run_dead. */
		cq_fence_full();
		cq_u32_store_relaxed(&cq_gc.attention, SOME_DEAD);
	}
}

void GC_CALLBACK cq_gc_event(GC_EventType event)
{
	int saved = errno;
	uint64_t begin;

	if (event == GC_EVENT_RECLAIM_END && cq_u32_load_relaxed(&cq_gc.attention) != NOT_OPEN) {
		begin = now();
		look_at_all();
		pass.seen++;
		cq_u64_store_relaxed(&cq_gc.pass_ns, now() - begin);
		errno = saved;
	}
	if (pass.before != NULL)
		pass.before(event);
}

static void *note_collections(void *unused)
{
	pass.collections = GC_get_gc_no() - pass.seen;
	return unused;
}

void cq_gc_pass_open(void)
{
	pass.before = GC_get_on_collection_event();
	GC_set_on_collection_event(cq_gc_event);
	GC_call_with_alloc_lock(note_collections, NULL);
}

static void *count_missed(void *out)
{
	if (cq_u32_load_relaxed(&cq_gc.attention) != NOT_OPEN)
		pass.missed = GC_get_gc_no() - pass.collections - pass.seen;
	*(uint64_t *)out = pass.missed;
	return NULL;
}

uint64_t cq_gc_pass_missed(void)
{
	uint64_t n;

	GC_call_with_alloc_lock(count_missed, &n);
	return n;
}

static void *kill_all(void *n)
{
	uint64_t missed;

	count_missed(&missed);
	cq_u32_store_relaxed(&cq_gc.attention, NOT_OPEN);
	for (cq_gc_table_t *t = cq_ptr_load_relaxed(&cq_gc.all); t != NULL; t = t->next)
		*(size_t *)n += look_at(t, true).died;
	return NULL;
}

size_t cq_gc_pass_close(void)
{
	size_t n = 0;

	GC_call_with_alloc_lock(kill_all, &n);
	if (GC_get_on_collection_event() == cq_gc_event) /* else a later one calls this, which only passes it on */
		GC_set_on_collection_event(pass.before);
	return n;
}
