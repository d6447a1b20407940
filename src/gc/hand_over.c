/* SPDX-License-Identifier: BSD-2-Clause */
/* From what the pass has found dead to the queue, or to its callbacks in place. */
#include "gc_priv.h"

/* Where a hand-over has got to. Under `draining`. */
static struct {
	cq_gc_table_t *now, *rest;
	size_t at;
} dead;

void cq_gc_pend(cq_gc_table_t *t)
{
	cq_gc_table_t *head;

	/* The dead entries, then the look at the flag. Pairs with the fence in next_dead. Without it both could take the
	   table for the other's, and the entries would wait for the table's next. */
	cq_fence_full();
	/* Pairs with the release in next_dead, which has read next_pending. */
	if (cq_u32_load_acquire(&t->pending) != 0)
		return;
	cq_u32_store_relaxed(&t->pending, 1);
	head = cq_ptr_load_relaxed(&cq_gc.pending);
	do {
		t->next_pending = head;
		/* Pairs with the acquire in next_dead: next_pending. Without it the list could be cut short. */
		cq_fence_release();
	} while (!cq_ptr_cas_relaxed(&cq_gc.pending, &head, t));
}

/* The next dead entry, which is the caller's then; NULL: there is none. Under `draining`. */
static uint64_t *next_dead(void)
{
	for (;;) {
		while (dead.now != NULL && dead.at < ENTRIES) {
			uint64_t *word = &dead.now->word[dead.at++];
			uint64_t w = cq_u64_load_relaxed(word);

			if (word_state(w) != DEAD)
				continue;
			/* fn and its argument. Pairs with the releases in cq_gc_add and look_at_all, as the pass has
			   changed the word. Without it they could be read as they were before. */
			cq_fence_acquire();
			cq_u64_store_relaxed(word, QUEUED | word_generation(w));
			return word;
		}
		if (dead.rest == NULL) {
			dead.rest = cq_ptr_exchange_relaxed(&cq_gc.pending, NULL);
			/* The list. Pairs with the release in cq_gc_pend. Without it next_pending could be an older one. */
			cq_fence_acquire();
		}
		if ((dead.now = dead.rest) == NULL)
			return NULL;
		dead.rest = dead.now->next_pending;
		dead.at = 0;
		/* next_pending was read. Pairs with the acquire in cq_gc_pend. Without it that could be the next push's,
		   and the rest of the list be lost. */
		cq_u32_store_release(&dead.now->pending, 0);
		CQ_POINT("gc.unpended");
		/* The flag, then the look at the entries. Pairs with the fence in cq_gc_pend. */
		cq_fence_full();
	}
}

static void put_back(uint64_t *word)
{
	cq_u64_store_relaxed(word, DEAD | word_generation(cq_u64_load_relaxed(word)));
	dead.at--;
}

/* ---- callbacks ---- */

static void entry_ran(void *word)
{
	cq_gc_table_t *t = table_of(word);
	uint64_t w = cq_u64_load_relaxed(word);

	CQ_CHECK(word_state(w) == QUEUED);
	if (t->scanned)
		t->args[(uint64_t *)word - t->word] = NULL;
	CQ_POINT("gc.ran");
	/* All that was done to the entry. Pairs with the acquires of whoever uses it next, in next_done and
	   cq_gc_table_sort. Without it NULL could be written to what is their argument. */
	cq_u64_store_release(word, RAN | word_generation(w));
}

/* On a worker, or in place. The entry keeps its argument until fn has returned, as nobody scans the queue. */
static void run_entry(void *word)
{
	cq_gc_table_t *t = table_of(word);
	ptrdiff_t i = (uint64_t *)word - t->word;

	pthread_cleanup_push(entry_ran, word); /* fn may end its thread */
	t->fn[i](t->args[i]);
	pthread_cleanup_pop(1);
}

/* ---- handing over ---- */

/* Lets go of `draining`, behind what else there is to do at the end. */
static void end(void)
{
	if (cq_u32_load_relaxed(&cq_gc.to_trim) != 0) {
		cq_u32_store_relaxed(&cq_gc.to_trim, 0);
		cq_gc_tables_trim();
	}
	pthread_mutex_unlock(&cq_gc.draining);
}

/* Each is claimed by itself, and `draining` let go before it runs: one that blocks, forks or allocates keeps
   nobody. */
size_t cq_gc_run_dead(void)
{
	uint64_t *word;
	size_t n = 0;

	if (cq_gc_mine.draining) /* a cleanup's call: those left are run behind it */
		return 0;
	cq_gc_mine.draining = true;
	for (;;) {
		pthread_mutex_lock(&cq_gc.draining);
		word = next_dead();
		if (word == NULL && cq_u32_load_relaxed(&cq_gc.attention) == SOME_DEAD) {
			cq_u32_store_relaxed(&cq_gc.attention, NOTHING);
			/* Pairs with that in look_at_all: this looks again, or the pass sets the word after. Without
			   it what the pass has just found would wait for another. */
			cq_fence_full();
			word = next_dead();
		}
		if (word == NULL)
			break;
		pthread_mutex_unlock(&cq_gc.draining);
		run_entry(word);
		n++;
	}
	end();
	cq_gc_mine.draining = false;
	return n;
}

static size_t enqueue_dead(int *err)
{
	cq_producer_t *p = NULL;
	uint64_t *word;
	size_t n = 0;

	if (cq_gc_mine.draining) /* a call by the queue's allocator, say */
		return 0;
	pthread_mutex_lock(&cq_gc.draining);
	cq_gc_mine.draining = true;
	while (*err == 0 && (word = next_dead()) != NULL) {
		if (p == NULL)
			*err = cq_producer_attach(cq_gc.queue, run_entry, &p);
		if (*err == 0)
			*err = cq_producer_put(p, word);
		if (*err == 0)
			n++;
		else
			put_back(word);
	}
	cq_producer_detach(p);
	end();
	cq_gc_mine.draining = false;
	if (*err != 0)
		cq_u64_add_relaxed(&cq_gc.late, 1);
	return n;
}

size_t cq_gc_hand_over(int *err)
{
	*err = 0;
	return cq_gc.queue != NULL ? enqueue_dead(err) : cq_gc_run_dead();
}
