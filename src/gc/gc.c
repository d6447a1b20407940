/* SPDX-License-Identifier: BSD-2-Clause */
/* The interface. */
#include <errno.h>

#include "gc_priv.h"

enum { GC_8_0 = 8 << 16 };

int cq_gc_open(cq_cleanup_t *queue)
{
	static bool opened;
	int saved = errno, err;

	if (opened)
		return EALREADY;
	if (GC_get_version() < GC_8_0)
		return ENOTSUP;
	cq_gc.queue = queue;
	if ((err = cq_gc_tables_open()) != 0 || (err = cq_gc_fork_open()) != 0)
		return err;
	if (queue != NULL) {
		GC_allow_register_threads();
		/* What that did. Pairs with the acquire in cq_gc_worker_start. Without it a worker could come to a
		   collector that takes no locks yet. */
		cq_u32_store_release(&cq_gc.threads_allowed, 1);
		if (sem_init(&cq_gc.work, 0, 0) != 0)
			err = errno;
		else
			err = cq_gc_helper_start();
	}
	errno = saved;
	if (err != 0)
		return err;
	opened = true;
	cq_u32_store_relaxed(&cq_gc.attention, NOTHING);
	cq_gc_pass_open();
	return 0;
}

/* ---- what add, poll and collect see to first ---- */

static int attend(void)
{
	uint32_t what = cq_u32_load_relaxed(&cq_gc.attention);
	int saved = errno, ignored;

	if (what == NOT_OPEN)
		return ENXIO;
	if (cq_gc_mine.draining) /* a call from within, by the collector's finalizers, say */
		return 0;
	switch (what) {
	case NO_HELPER: /* a forked child, whose helper finds the semaphore posted */
		if (cq_gc_helper_start() == 0) {
			cq_u32_store_relaxed(&cq_gc.attention, NOTHING);
			break;
		}
		/* fall through */
	default:
		cq_gc_hand_over(&ignored);
	}
	errno = saved;
	return 0;
}

int cq_gc_add(void *ptr, cq_callback_fn *fn, void *arg, cq_gc_handle_t *handle)
{
	void *object, *of_arg;
	cq_gc_table_t *t;
	uint64_t *word, address;
	ptrdiff_t i;
	int err;

	if (cq_u32_load_relaxed(&cq_gc.attention) != NOTHING && (err = attend()) != 0)
		return err;
	object = GC_base(ptr);
	of_arg = GC_base(arg);
	address = (uintptr_t)object;
	if (object == NULL || fn == NULL || of_arg == object)
		return EINVAL;
	if (address % 8 != 0 || address >> 48 != 0)
		return ENOTSUP;
	if ((word = cq_gc_entry(of_arg != NULL)) == NULL)
		return ENOMEM;
	t = table_of(word);
	i = word - t->word;
	t->fn[i] = fn;
	t->args[i] = arg;
	if (of_arg != NULL)
		GC_end_stubborn_change(&t->args[i]);
	address = address << 16 | word_generation(cq_u64_load_relaxed(word));
	if (handle != NULL) {
		handle->table = t;
		handle->entry = (uint64_t)i << 32 | word_generation(address);
		address |= HELD;
	}
	CQ_POINT("gc.add");
	/* fn and arg. Pairs with the acquire in next_dead. Without it another's could be run. */
	cq_u64_store_release(word, address);
	GC_reachable_here(ptr);
	GC_reachable_here(arg);
	return 0;
}

bool cq_gc_stop(cq_gc_handle_t handle)
{
	cq_gc_table_t *t = handle.table;
	uint64_t i = handle.entry >> 32, generation = handle.entry & GENERATION_MAX, word;

	if (t == NULL)
		return false;
	word = cq_u64_load_relaxed(&t->word[i]);
	if (!word_is_object(word) || word_generation(word) != generation)
		return false;
	CQ_POINT("gc.stop");
	/* The pass may be faster. */
	if (!cq_u64_cas_relaxed(&t->word[i], &word, QUEUED | generation))
		return false;
	if (t->scanned)
		t->args[i] = NULL;
	CQ_POINT("gc.stopped");
	/* All that was done to the entry. Pairs with the acquires of whoever uses it next, in next_done and
	   cq_gc_table_sort. Without it NULL could be written to what is their argument. */
	cq_u64_store_release(&t->word[i], STOPPED | generation);
	return true;
}

static size_t poll_dead(int *err)
{
	int saved = errno;
	size_t n;

	*err = 0;
	if (cq_u32_load_relaxed(&cq_gc.attention) == NOT_OPEN)
		return 0;
	if (cq_u32_load_relaxed(&cq_gc.attention) == NO_HELPER)
		(void)attend();
	n = cq_gc_hand_over(err);
	if (*err != 0)
		sem_post(&cq_gc.work); /* the helper waits for what was missing */
	errno = saved;
	return n;
}

size_t cq_gc_poll(void)
{
	int ignored;

	return poll_dead(&ignored);
}

size_t cq_gc_collect(void)
{
	int saved = errno;

	GC_gcollect();
	errno = saved;
	return cq_gc_poll();
}

size_t cq_gc_close(void)
{
	int saved = errno, err;
	size_t n;

	if (cq_u32_load_relaxed(&cq_gc.attention) == NOT_OPEN)
		return 0;
	cq_gc_helper_end();
	n = cq_gc_pass_close();
	do
		cq_gc_hand_over(&err);
	while (err == ENOBUFS && cq_cleanup_wait_for_room(cq_gc.queue, CQ_FOREVER) == 0);
	if (err != 0)
		cq_gc_run_dead();
	errno = saved;
	return n;
}

void cq_gc_counts(cq_gc_counts_t *out)
{
	*out = (cq_gc_counts_t){ 0 };
	cq_gc_tally(out);
	out->late = cq_u64_load_relaxed(&cq_gc.late);
	out->missed = cq_gc_pass_missed();
	out->pass_ns = cq_u64_load_relaxed(&cq_gc.pass_ns);
}

int cq_gc_relieve(uint64_t timeout_ns)
{
	uint64_t now = cq_now(), deadline = timeout_ns < CQ_FOREVER - now ? now + timeout_ns : CQ_FOREVER;
	cq_gc_counts_t c;
	bool some;
	int saved = errno, err = 0, late;
	size_t n;

	if (cq_u32_load_relaxed(&cq_gc.attention) == NOT_OPEN)
		return ENXIO;
	if (cq_gc_mine.draining || (cq_gc.queue != NULL && cq_pool_is_current(cq_cleanup_pool(cq_gc.queue))))
		return EDEADLK;
	GC_gcollect();
	do {
		n = poll_dead(&late);
		if (cq_gc.queue != NULL)
			err = cq_cleanup_drain(cq_gc.queue, deadline);
	} while ((n != 0 || late == ENOBUFS) && err == 0 && cq_gc.queue != NULL);
	cq_gc_counts(&c);
	some = c.run != cq_gc_mine.relieved;
	cq_gc_mine.relieved = c.run;
	errno = saved;
	return err != 0 ? err : some ? 0 : ENOENT;
}
