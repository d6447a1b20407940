/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The limit on open files, and the back-pressure that keeps `walk` below it. The
 * collector knows how much memory is in use, and nothing of descriptors: someone
 * has to tell it when to collect, and to wait when the cleanups are behind.
 */
#define GC_THREADS
#include <gc.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>

#include <cq/gc.h>
#include "walk.h"

cq_cleanup_t *queue;
atomic_uint_fast64_t drains;

static struct rlimit old_limit;
static uint64_t collect_every;	/* files opened between two collections */
static uint64_t high_water;	/* files open, from which on a mutator waits for workers */
static atomic_uint_fast64_t next_collection; /* is due when so many files were opened */
static pthread_mutex_t relief = PTHREAD_MUTEX_INITIALIZER; /* one at a time makes room */

uint64_t descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t n = 0;

	while (dir != NULL && readdir(dir) != NULL)
		n++;
	if (dir != NULL)
		closedir(dir);
	return n;
}

/* `room` is how many files may be open at once. */
static void set_marks(const options_t *o, uint64_t room)
{
	uint64_t three_quarters = o->limit * 3 / 4;

	high_water = three_quarters < room ? three_quarters : room;
	collect_every = high_water / 3 + 1;
	if (o->late) {
		high_water = UINT64_MAX;
		collect_every = UINT64_MAX / 2;
	}
	atomic_store(&next_collection, collect_every);
}

bool limit_open_files(const options_t *o)
{
	/* What is open already; fts; one file per thread between the mark and open(). */
	uint64_t taken = descriptors() + o->threads + 2;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &old_limit) != 0)
		return false;
	limit = old_limit;
	limit.rlim_cur = o->limit;
	if (o->limit < taken + 4) {
		fprintf(stderr, "walk: %llu open files are too few: it takes %llu (--limit, ulimit -n)\n",
		    (unsigned long long)o->limit, (unsigned long long)taken + 4);
		return false;
	}
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
		fprintf(stderr, "walk: --limit %llu: the system allows %llu (ulimit -Hn)\n",
		    (unsigned long long)o->limit, (unsigned long long)old_limit.rlim_max);
		return false;
	}
	set_marks(o, o->limit - taken);
	return true;
}

void limit_restore(void)
{
	setrlimit(RLIMIT_NOFILE, &old_limit);
}

void finish_queued(void)
{
	if (queue == NULL)
		return;
	atomic_fetch_add(&drains, 1);
	while (cq_cleanup_drain(queue, CQ_FOREVER) != 0) /* no worker can be made: be one */
		cq_cleanup_run_some(queue, SIZE_MAX);
}

/* Those who wait here for another to make room find it when it is their turn. */
static void make_room_if(uint64_t so_many_open)
{
	pthread_mutex_lock(&relief);
	if (open_now() >= so_many_open) {
		cq_gc_collect();
		finish_queued();
	}
	pthread_mutex_unlock(&relief);
}

void make_room(void)
{
	make_room_if(0);
}

void stay_below_limit(void)
{
	uint_fast64_t due = atomic_load(&next_collection);
	uint64_t opened = atomic_load(&ledger.opened);

	/* Early and often, so that workers close while the mutators go on; */
	if (opened >= due && atomic_compare_exchange_strong(&next_collection, &due,
	    opened + collect_every))
		cq_gc_collect();
	/* and only near the limit does anyone wait for them. */
	if (open_now() >= high_water)
		make_room_if(high_water);
}
