/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One run of `walk`: mutator threads that share a walk of the tree, and the end,
 * at which everything must have been given back.
 */
#define GC_THREADS
#include <gc.h>

#include <errno.h>
#include <fts.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cq/gc.h>
#include "walk.h"

enum { PROGRESS_NS = 200 * 1000 * 1000 };

typedef struct mutator {
	pthread_t thread;
	pauses_t pauses, allocations; /* per file: all that is not its own work; the object alone */
	uint64_t empty, cut, digest, words, lines;
} mutator_t;

static struct {
	const options_t *options;
	atomic_uint_fast64_t unreadable, starved, relieved;
	pthread_mutex_t walk;	/* of the tree */
	FTS *tree;
	sem_t finished;		/* posted by each mutator at its end */
} run = { .walk = PTHREAD_MUTEX_INITIALIZER };

atomic_bool interrupted;

/* ---------------------------------------------------------------- the mutators */

static bool out_of_descriptors(int err)
{
	return err == EMFILE || err == ENFILE;
}

/* Without a descriptor to be had, ever, there is no point in going on. */
static void could_not_open(int err)
{
	if (out_of_descriptors(err)) {
		atomic_fetch_add(&run.starved, 1);
		atomic_store(&interrupted, true);
	} else {
		atomic_fetch_add(&run.unreadable, 1);
	}
}

/*
 * Makes room. Another thread may be faster to take it; but when nothing at all
 * was closed three times in a row, it is hopeless, and the answer is false.
 */
static bool made_room(int *hopeless)
{
	uint64_t closed = atomic_load(&ledger.closed);

	make_room();
	*hopeless = atomic_load(&ledger.closed) == closed ? *hopeless + 1 : 0;
	return *hopeless < 3;
}

/* A directory that could not be read. False: it will be tried again. */
static bool gave_up_on(FTSENT *e, int *hopeless)
{
	if (e->fts_info != FTS_DNR || !out_of_descriptors(e->fts_errno))
		return true;
	if (!made_room(hopeless) || fts_set(run.tree, e, FTS_AGAIN) != 0)
		return true;
	e->fts_errno = 0; /* or fts reports it once more, on the way out */
	atomic_fetch_add(&run.relieved, 1);
	return false;
}

/* The next file of the tree, to `path`; false at the end. */
static bool next_path(char *path)
{
	FTSENT *e;
	bool found = false;
	int hopeless = 0;

	pthread_mutex_lock(&run.walk);
	while (!found && !atomic_load(&interrupted) && (e = fts_read(run.tree)) != NULL) {
		if (e->fts_info == FTS_F && e->fts_pathlen < PATH_MAX) {
			memcpy(path, e->fts_path, e->fts_pathlen + 1u);
			found = true;
		} else if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR ||
		    e->fts_info == FTS_NS || e->fts_info == FTS_F) {
			if (gave_up_on(e, &hopeless))
				could_not_open(e->fts_errno);
		}
	}
	pthread_mutex_unlock(&run.walk);
	return found;
}

/* `paused` grows by the time that it took to make room. */
static int open_file(const char *path, resources_t *res, uint64_t *paused)
{
	int err = resources_open(path, run.options->max_bytes, res);
	int hopeless = 0;

	while (out_of_descriptors(err)) {
		uint64_t start = cq_now();
		bool made = made_room(&hopeless);

		*paused += cq_now() - start;
		if (!made)
			return err;
		err = resources_open(path, run.options->max_bytes, res);
		atomic_fetch_add(&run.relieved, !out_of_descriptors(err));
	}
	return err;
}

static void visit(mutator_t *m, const char *path)
{
	uint64_t start = cq_now(), paused;
	resources_t res;
	file_t *f;
	int err;

	stay_below_limit();
	paused = cq_now() - start;
	if ((err = open_file(path, &res, &paused)) != 0) {
		could_not_open(err);
		return;
	}
	start = cq_now();
	f = file_of(&res, run.options->leak);
	pauses_add(&m->allocations, cq_now() - start);
	pauses_add(&m->pauses, paused + (cq_now() - start));
	if (f == NULL)
		return;
	m->cut += !file_digest(f);
	m->empty += f->res.length == 0;
	m->digest += f->crc; /* a sum, since threads finish in any order */
	m->words += f->words;
	m->lines += f->lines;
	/* And here f is dropped. */
}

static void *mutate(void *arg)
{
	char path[PATH_MAX];

	while (next_path(path))
		visit(arg, path);
	sem_post(&run.finished);
	return NULL;
}

/* -------------------------------------------------------------------- progress */

static void show_progress(void)
{
	cq_cleanup_stats_t s = { 0 };
	cq_pool_stats_t pool = { 0 };
	cq_gc_counts_t c;

	if (!isatty(STDERR_FILENO))
		return;
	cq_gc_counts(&c);
	if (queue != NULL) {
		cq_cleanup_stats(queue, &s);
		cq_pool_stats(cq_cleanup_pool(queue), &pool);
	}
	fprintf(stderr, "\r\033[K%s: %llu files, %llu open, %llu queued, %llu executed, %u workers",
	    queue != NULL ? "libcq" : "in place", (unsigned long long)atomic_load(&ledger.opened),
	    (unsigned long long)open_now(), (unsigned long long)s.queued,
	    (unsigned long long)c.run, pool.workers_live);
}

static void wait_for_mutators(unsigned running)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	while (running > 0) {
		if (sem_timedwait(&run.finished, &until) == 0) {
			running--;
		} else if (errno == ETIMEDOUT) { /* and not EINTR, from each collection */
			show_progress();
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += (until.tv_nsec + PROGRESS_NS) / 1000000000;
			until.tv_nsec = (until.tv_nsec + PROGRESS_NS) % 1000000000;
		}
	}
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
}

/* ---------------------------------------------------------- beginning and end */

static bool begin(const options_t *o)
{
	cq_pool_config_t pool = { .workers_max = o->workers };
	cq_cleanup_config_t config = { .pool_config = &pool };
	char *roots[] = { (char *)(uintptr_t)o->root, NULL };
	int err = 0;

	run.options = o;
	if (!limit_open_files(o))
		return false;
	GC_INIT();
	catch_sigbus();
	sem_init(&run.finished, 0, 0);
	run.tree = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR | FTS_XDEV, NULL);
	if (run.tree == NULL)
		err = errno;
	if (err == 0 && !o->in_place)
		err = cq_cleanup_create(&config, &queue);
	if (err == 0)
		err = cq_gc_open(queue);
	if (err != 0)
		fprintf(stderr, "walk: %s\n", strerror(err));
	return err == 0;
}

/* Everything is dropped now. Whatever the collector does not find dead is queued too. */
static void end(result_t *out)
{
	cq_cleanup_stats_t s = { 0 };
	cq_pool_stats_t pool = { 0 };

	fts_close(run.tree);
	limit_restore();
	for (int i = 0; i < 3; i++)
		cq_gc_collect();
	out->kept = cq_gc_close();
	finish_queued();
	out->collections = GC_get_gc_no();
	if (queue == NULL)
		return;
	if (cq_cleanup_shutdown(queue, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0)
		fprintf(stderr, "walk: the queue could not be shut down\n");
	cq_cleanup_stats(queue, &s);
	cq_pool_stats(cq_cleanup_pool(queue), &pool);
	if (cq_cleanup_destroy(queue) != 0)
		fprintf(stderr, "walk: the queue could not be destroyed\n");
	out->queued = s.queued;
	out->executed = s.executed;
	out->workers_created = pool.workers_created;
	out->workers_peak = pool.workers_peak;
	out->wakes = pool.wakes;
	out->runs = pool.runs;
	out->empty_runs = pool.empty_runs;
}

static void sum_up_pauses(mutator_t *mutators, result_t *out)
{
	pauses_t pauses = { 0 }, allocations = { 0 };

	for (mutator_t *m = mutators; m < mutators + run.options->threads; m++) {
		pauses_merge(&pauses, &m->pauses);
		pauses_merge(&allocations, &m->allocations);
	}
	out->pause_max = pauses_at(&pauses, 1.0);
	out->pause_p99 = pauses_at(&pauses, 0.99);
	out->pause_total = pauses.total;
	out->alloc_max = pauses_at(&allocations, 1.0);
	out->alloc_p99 = pauses_at(&allocations, 0.99);
	free(pauses.ns);
	free(allocations.ns);
}

static void sum_up_work(const mutator_t *mutators, result_t *out)
{
	for (const mutator_t *m = mutators; m < mutators + run.options->threads; m++) {
		out->empty += m->empty;
		out->cut += m->cut;
		out->digest += m->digest;
		out->words += m->words;
		out->lines += m->lines;
	}
	out->unreadable = atomic_load(&run.unreadable);
	out->starved = atomic_load(&run.starved);
	out->drains = atomic_load(&drains);
	out->relieved = atomic_load(&run.relieved);
	out->interrupted = atomic_load(&interrupted);
}

static void sum_up_resources(result_t *out)
{
	cq_gc_counts_t c;

	cq_gc_counts(&c);
	out->attached = c.added;
	out->run = c.run;
	out->opened = atomic_load(&ledger.opened);
	out->closed = atomic_load(&ledger.closed);
	out->mapped = atomic_load(&ledger.mapped);
	out->unmapped = atomic_load(&ledger.unmapped);
	out->bytes = atomic_load(&ledger.bytes);
	out->bytes_unmapped = atomic_load(&ledger.bytes_unmapped);
	out->peak_open = atomic_load(&ledger.peak_open);
}

int run_walk(const options_t *o, result_t *out)
{
	uint64_t before = descriptors(), start = cq_now();
	mutator_t *mutators = calloc(o->threads, sizeof(*mutators));
	unsigned running = 0;

	memset(out, 0, sizeof(*out));
	if (mutators == NULL || !begin(o))
		return 1;
	while (running < o->threads && pthread_create(&mutators[running].thread, NULL, mutate,
	    &mutators[running]) == 0)
		running++;
	if (running == 0)
		fprintf(stderr, "walk: no thread could be made\n");
	wait_for_mutators(running);
	for (unsigned i = 0; i < running; i++)
		pthread_join(mutators[i].thread, NULL);
	end(out);
	out->elapsed = cq_now() - start;
	sum_up_pauses(mutators, out);
	sum_up_work(mutators, out);
	sum_up_resources(out);
	out->descriptors_left = descriptors() - before;
	free(mutators);
	return running == 0;
}
