/* SPDX-License-Identifier: BSD-2-Clause */
/* The memory of attached cleanups: tables that pass from thread to thread, and what is left in them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_ANONYMOUS, madvise */
#endif
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gc_priv.h"

_Static_assert(sizeof(cq_gc_table_t) <= TABLE_BYTES, "a table's address is found by its alignment");

enum {
	SLAB_TABLES = 16,	/* mapped at once: a system call for 43,000 cleanups. Pages are used as they are touched */
	REUSE = 4,		/* a table is used again once 1/4 is done: 32 bytes for a living one at most, four looks to find room */
	MERGED = 64,		/* so many tables a pass are merged with others: 1 ms, as the collector's lock is held */
	KEEP_PASSES = 2		/* an empty table keeps its memory so long: a program at a pace needs it again */
};

struct cq_gc cq_gc = {
	.attention = NOT_OPEN, .lists = PTHREAD_MUTEX_INITIALIZER, .draining = PTHREAD_MUTEX_INITIALIZER
};
__thread struct cq_gc_thread cq_gc_mine;

static pthread_key_t ended;

static void put_in(cq_gc_table_t **list, cq_gc_table_t *t, enum place place)
{
	t->next_listed = *list;
	*list = t;
	cq_u32_store_relaxed(&t->place, place);
}

static cq_gc_table_t *take_from(cq_gc_table_t **list)
{
	cq_gc_table_t *t = *list;

	if (t != NULL)
		*list = t->next_listed;
	return t;
}

/* A table that was never used. */
static cq_gc_table_t *carve(void)
{
	cq_gc_table_t *t;

	if (cq_gc.slab == cq_gc.slab_end) {
		size_t bytes = (size_t)(SLAB_TABLES + 1) * TABLE_BYTES;
		char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			return NULL;
		cq_gc.slab = memory + (-(uintptr_t)memory & (TABLE_BYTES - 1));
		cq_gc.slab_end = cq_gc.slab + (size_t)SLAB_TABLES * TABLE_BYTES;
	}
	t = (cq_gc_table_t *)(void *)cq_gc.slab;
	cq_gc.slab += TABLE_BYTES;
	t->next = cq_gc.all;
	/* The list of all, with the header of what is first. Pairs with the look at it in pass.c. Without it a pass could
	   go on from a table to nowhere. */
	cq_ptr_store_release(&cq_gc.all, t);
	return t;
}

/* A thread has no more use for it. */
static void hand_on(cq_gc_table_t *t)
{
	pthread_mutex_lock(&cq_gc.lists);
	if (t->cursor <= ENTRIES / 2)
		put_in(&cq_gc.spare[t->scanned], t, SPARE);
	else
		cq_u32_store_relaxed(&t->place, FULL);
	pthread_mutex_unlock(&cq_gc.lists);
}

static void thread_ends(void *mine)
{
	for (int k = 0; k < 2; k++) {
		if (cq_gc_mine.tables[k] != NULL)
			hand_on(cq_gc_mine.tables[k]);
		cq_gc_mine.tables[k] = NULL;
	}
	(void)mine;
}

int cq_gc_tables_open(void)
{
	static bool made;
	int err = made ? 0 : pthread_key_create(&ended, thread_ends);

	made |= err == 0;
	return err;
}

/* What becomes of a table without an owner, of which so many entries are done, or soon will be. Under the lock of
   the lists. */
void cq_gc_table_sort(cq_gc_table_t *t, size_t done, size_t gone)
{
	if (done < ENTRIES / REUSE) {
		if (gone >= ENTRIES / REUSE)
			put_in(&cq_gc.dying[t->scanned], t, FULL);
		else
			cq_u32_store_relaxed(&t->place, FULL);
		return;
	}
	/* What the users of its entries did, before another uses or frees them. Pairs with the releases in cq_gc_stop
	   and entry_ran. Without it one could write to args that are freed. */
	cq_fence_acquire();
	t->cursor = 0;
	t->done = done;
	if (done < ENTRIES) {
		put_in(&cq_gc.spare[t->scanned], t, SPARE);
	} else {
		t->emptied = cq_gc.passes;
		put_in(&cq_gc.empty[t->scanned], t, EMPTY);
	}
}

/* One that was dying is looked at again: but for this a program that makes objects as fast as they die would have
   two tables where one does. */
static void look_again(bool scanned)
{
	cq_gc_table_t *t = take_from(&cq_gc.dying[scanned]);
	size_t done = 0;

	for (size_t i = 0; t != NULL && i < ENTRIES; i++)
		done += word_is_usable(cq_u64_load_relaxed(&t->word[i]));
	if (t != NULL)
		cq_gc_table_sort(t, done, 0);
}

/* A bare table, or one that was never used, gets memory: `args`, or its own. */
static void furnish(cq_gc_table_t *t, void **args)
{
	t->scanned = args != NULL;
	t->args = args != NULL ? args : t->own_args;
	for (size_t i = 0; t->generation != 0 && i < ENTRIES; i++)
		cq_u64_store_relaxed(&t->word[i], FREE | t->generation);
	t->generation = 0;
}

/* The calling thread's next table; false: no memory. */
static bool next_table(bool scanned)
{
	cq_gc_table_t *t, **mine = &cq_gc_mine.tables[scanned];
	void **args = NULL;
	int saved = errno, err = pthread_setspecific(ended, &cq_gc_mine);

	errno = saved;
	if (err != 0)
		return false;
	pthread_mutex_lock(&cq_gc.lists);
	if (*mine != NULL)
		cq_u32_store_relaxed(&(*mine)->place, FULL);
	*mine = NULL;
	if (cq_gc.spare[scanned] == NULL && cq_gc.empty[scanned] == NULL)
		look_again(scanned);
	if ((t = take_from(&cq_gc.spare[scanned])) == NULL && (t = take_from(&cq_gc.empty[scanned])) == NULL &&
	    scanned) {
		/* May collect, and run finalizers of the program's that come here, or fork: nothing is half done. */
		pthread_mutex_unlock(&cq_gc.lists);
		args = GC_MALLOC_UNCOLLECTABLE(sizeof(t->own_args));
		pthread_mutex_lock(&cq_gc.lists);
		t = *mine; /* a finalizer's */
	}
	if (t == NULL && scanned == (args != NULL) &&
	    ((t = take_from(&cq_gc.bare)) != NULL || (t = carve()) != NULL)) {
		furnish(t, args);
		args = NULL;
	}
	if (t != NULL)
		cq_u32_store_relaxed(&t->place, OWNED);
	*mine = t;
	pthread_mutex_unlock(&cq_gc.lists);
	if (args != NULL)
		GC_FREE(args);
	errno = saved;
	return t != NULL;
}

/* The next entry of a table that is done, made FREE; NULL: there is none. Its owner's, or under the lists' lock. */
static uint64_t *next_done(cq_gc_table_t *t)
{
	while (t->cursor < ENTRIES) {
		uint64_t *word = &t->word[t->cursor++];
		/* What the last user of the entry did. Pairs with the releases in cq_gc_stop and entry_ran. Without it
		   their last write to args could follow the new one. */
		uint64_t old = cq_u64_load_acquire(word);

		if (!word_is_usable(old))
			continue;
		if (word_state(old) != FREE) {
			cq_u64_store_relaxed(&t->run, t->run + (word_state(old) == RAN));
			cq_u64_store_relaxed(&t->stopped, t->stopped + (word_state(old) == STOPPED));
			cq_u64_store_relaxed(word, FREE | (word_generation(old) + 1));
		}
		return word;
	}
	return NULL;
}

uint64_t *cq_gc_entry(bool scanned)
{
	do {
		cq_gc_table_t *t = cq_gc_mine.tables[scanned];
		uint64_t *word = t != NULL ? next_done(t) : NULL;

		if (word != NULL)
			return word;
	} while (next_table(scanned));
	return NULL;
}

/* ---- what is left ---- */

/* Moves what has no handle out of `from`. False: `into` is full. */
static bool merge(cq_gc_table_t *from, cq_gc_table_t *into)
{
	for (size_t i = 0; i < ENTRIES; i++) {
		uint64_t old = cq_u64_load_relaxed(&from->word[i]), *word;

		if (!word_is_object(old) || (old & HELD) != 0)
			continue;
		if ((word = next_done(into)) == NULL)
			return false;
		into->fn[word - into->word] = from->fn[i];
		into->args[word - into->word] = from->args[i];
		/* fn and its argument. Pairs with the acquire in next_dead. */
		cq_u64_store_release(word, word_state(old) | word_generation(cq_u64_load_relaxed(word)));
		cq_u64_store_relaxed(&from->word[i], FREE | word_generation(old));
		if (from->scanned)
			from->args[i] = NULL;
	}
	return true;
}

/* By the pass, all locks held. Of spare tables that are half done or more each is moved into another. */
void cq_gc_tables_compact(bool scanned)
{
	cq_gc_table_t *into = NULL;
	size_t n = 0;

	/* The collector wants to know of writes to its memory: not now. */
	if (scanned && GC_is_incremental_mode())
		return;
	for (cq_gc_table_t *t = cq_gc.spare[scanned]; t != NULL && n < MERGED; t = t->next_listed) {
		if (t->done < ENTRIES / 2)
			continue;
		if (into == NULL || !merge(t, into))
			into = t;
		n++;
	}
}

bool cq_gc_table_is_old(const cq_gc_table_t *t)
{
	return t->place == EMPTY && cq_gc.passes - t->emptied >= KEEP_PASSES;
}

static void tally(const cq_gc_table_t *t, cq_gc_counts_t *out)
{
	out->run += cq_u64_load_relaxed(&t->run);
	out->stopped += cq_u64_load_relaxed(&t->stopped);
	for (size_t i = 0; i < ENTRIES; i++) {
		uint64_t word = cq_u64_load_relaxed(&t->word[i]);

		out->run += word_state(word) == RAN;
		out->stopped += word_state(word) == STOPPED;
		out->added += !word_is_done(word);
	}
}

void cq_gc_tally(cq_gc_counts_t *out)
{
	pthread_mutex_lock(&cq_gc.lists);
	for (const cq_gc_table_t *t = cq_gc.all; t != NULL; t = t->next) {
		if (t->place == BARE) {
			out->run += t->run;
			out->stopped += t->stopped;
			continue;
		}
		tally(t, out);
		out->bytes += TABLE_BYTES; /* args of the collector's are in place of its own, which are never touched */
	}
	pthread_mutex_unlock(&cq_gc.lists);
	out->added += out->run + out->stopped;
}

/* Its words are done, and begin above all of their generations when it is used again. Until then what is read
   there is done, or nothing: so no handle finds its own. */
static void strip(cq_gc_table_t *t)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), from = (HEADER_BYTES + page - 1) / page * page;
	cq_gc_counts_t sum = { 0 };

	for (size_t i = 0; i < ENTRIES; i++) {
		uint64_t word = cq_u64_load_relaxed(&t->word[i]), g = word_generation(word);

		CQ_CHECK(word_is_done(word));
		g += g < GENERATION_MAX;
		t->generation = t->generation > g ? t->generation : g;
	}
	tally(t, &sum);
	t->run = sum.run;
	t->stopped = sum.stopped;
	(void)madvise((char *)t + from, TABLE_BYTES - from, MADV_DONTNEED);
	put_in(&cq_gc.bare, t, BARE);
}

static bool strip_one(bool scanned)
{
	cq_gc_table_t *t, **at = &cq_gc.empty[scanned];
	void **args = NULL;

	pthread_mutex_lock(&cq_gc.lists);
	while (*at != NULL && !cq_gc_table_is_old(*at))
		at = &(*at)->next_listed;
	if ((t = take_from(at)) != NULL) {
		args = t->args;
		strip(t);
	}
	pthread_mutex_unlock(&cq_gc.lists);
	if (scanned)
		GC_FREE(args);
	return t != NULL;
}

void cq_gc_tables_trim(void)
{
	while (strip_one(false) || strip_one(true))
		;
}

/* The threads that owned these are not here. */
void cq_gc_tables_child(void)
{
	for (cq_gc_table_t *t = cq_gc.all; t != NULL; t = t->next) {
		if (t->place == OWNED && t != cq_gc_mine.tables[0] && t != cq_gc_mine.tables[1])
			cq_u32_store_relaxed(&t->place, FULL);
	}
}
