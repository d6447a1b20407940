/* SPDX-License-Identifier: BSD-2-Clause */
/* walk.h - the parts of the example program `walk`; walk.c says what it does. */
#ifndef WALK_H
#define WALK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cq/cleanup.h>
#include <cq/cleanup_stats.h>
#include <cq/pool_stats.h>

typedef struct options {
	const char *root;
	unsigned threads, workers;
	uint64_t limit, max_bytes;
	bool in_place;
	bool leak;	/* attach no cleanups */
	bool late;	/* no count of open files: make room when open() fails */
} options_t;

/* -------------------------------------------------- walk_file.c: the objects */

/* What the collector knows nothing of. The kernel's, until a cleanup gives it back. */
typedef struct resources {
	int fd;
	const unsigned char *text; /* NULL: an empty file has no mapping */
	size_t length;
} resources_t;

/* A collected object, which owns the resources. */
typedef struct file {
	resources_t res;
	uint32_t crc;
	uint64_t words, lines;
} file_t;

/* Who has what, kept by those who open, map, unmap and close. */
typedef struct ledger {
	atomic_uint_fast64_t opened, closed, mapped, unmapped, bytes, bytes_unmapped, peak_open;
} ledger_t;
extern ledger_t ledger;

uint64_t open_now(void);

/* Opens a regular file and maps at most `max` bytes of it. 0 or an errno; EINVAL: not regular. */
int resources_open(const char *path, size_t max, resources_t *res);

/*
 * The object for the resources, with two cleanups: unmap and close. NULL: no
 * memory, and the resources have been given back. With `leak` it has none.
 */
file_t *file_of(const resources_t *res, bool leak);

/* Computes crc, words and lines. False: the file was cut short under the mapping. */
bool file_digest(file_t *f);
void catch_sigbus(void); /* for file_digest */

/* -------------------------------------------------------- pause.c: durations */

typedef struct pauses {
	uint64_t *ns;
	size_t n, room;
	uint64_t total;
} pauses_t;

void pauses_add(pauses_t *p, uint64_t ns);
void pauses_merge(pauses_t *into, pauses_t *from);	/* and frees `from` */
uint64_t pauses_at(pauses_t *p, double quantile);	/* sorts; 1.0 is the longest */

/* ------------------------------------------------- walk_limit.c: back-pressure */

extern cq_cleanup_t *queue; /* NULL: cleanups run in place */
extern atomic_uint_fast64_t drains;

/* Sets the limit; false after a message. restore ends it. */
bool limit_open_files(const options_t *o);
void limit_restore(void);

/* To be called before a file is opened: collects, and waits, if it is time to. */
void stay_below_limit(void);

/* Collects, and waits until all that was found dead is closed. */
void make_room(void);

/* Waits until all that is queued has run. */
void finish_queued(void);

/* How many are open: the kernel's own count, to hold ours against. */
uint64_t descriptors(void);

/* ------------------------------------------------------- walk_run.c: one run */

/* All that the table needs. Only numbers: it crosses a pipe. */
typedef struct result {
	uint64_t opened, closed, mapped, unmapped, bytes, bytes_unmapped;
	uint64_t empty, unreadable, cut, starved;
	uint64_t digest, words, lines;
	uint64_t peak_open, collections, drains, relieved;
	uint64_t attached, run, kept, descriptors_left;
	uint64_t queued, executed, workers_created, workers_peak, wakes, runs, empty_runs;
	uint64_t pause_max, pause_p99, pause_total, alloc_max, alloc_p99, elapsed, cpu;
	uint64_t interrupted;
} result_t;

/* Walks the tree once. 0, or 1 after a message when it could not even begin. */
int run_walk(const options_t *o, result_t *out);

/* Set by SIGINT and SIGTERM: stop walking, drain, report. */
extern atomic_bool interrupted;

#endif /* WALK_H */
