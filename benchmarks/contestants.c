/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The list of the contestants. configure leaves the files of those out whose
 * libraries are not installed; the linker then makes their weak symbols NULL.
 */
#include "contestants.h"

#include <stdio.h>

#define WEAK __attribute__((weak))

extern const struct contestant contestant_moodycamel WEAK, contestant_moodycamel_bulk WEAK;
extern const struct contestant contestant_urcu_wfcqueue WEAK, contestant_urcu_call_rcu WEAK;
extern const struct contestant contestant_tbb_queue WEAK, contestant_tbb_arena WEAK;
extern const struct contestant contestant_glib_queue WEAK, contestant_glib_pool WEAK;
extern const struct contestant contestant_crossbeam WEAK, contestant_rayon WEAK;

static const struct {
	const struct contestant *contestant; /* NULL: it was not built */
	const char *name, *packages;
} known[] = {
	{ &contestant_seed, "seed", NULL },
	{ &contestant_cq, "cq", NULL },
	{ &contestant_cq_put, "cq_put", NULL },
	{ &contestant_cq_timed, "cq_timed", NULL },
	{ &contestant_cq_shared, "cq_shared", NULL },
	{ &contestant_cq_bind, "cq_bind", NULL },
	{ &contestant_cq_huge, "cq_huge", NULL },
	{ &contestant_cq_pool, "cq_pool", NULL },
	{ &contestant_cq_sleepers, "cq_sleepers", NULL },
	{ &contestant_cq_condvar, "cq_condvar", NULL },
	{ &contestant_mutex_list, "mutex_list", NULL },
	{ &contestant_mutex_blocks, "mutex_blocks", NULL },
	{ &contestant_moodycamel, "moodycamel", "g++ libconcurrentqueue-dev" },
	{ &contestant_moodycamel_bulk, "moodycamel_bulk", "g++ libconcurrentqueue-dev" },
	{ &contestant_urcu_wfcqueue, "urcu_wfcqueue", "liburcu-dev" },
	{ &contestant_urcu_call_rcu, "urcu_call_rcu", "liburcu-dev" },
	{ &contestant_tbb_queue, "tbb_queue", "g++ libtbb-dev" },
	{ &contestant_tbb_arena, "tbb_arena", "g++ libtbb-dev" },
	{ &contestant_glib_queue, "glib_queue", "libglib2.0-dev" },
	{ &contestant_glib_pool, "glib_pool", "libglib2.0-dev" },
	{ &contestant_crossbeam, "crossbeam", "cargo librust-crossbeam-dev" },
	{ &contestant_rayon, "rayon", "cargo librust-rayon-dev" },
};

enum { KNOWN = sizeof(known) / sizeof(known[0]) };

_Static_assert((int)KNOWN <= (int)MAX_CONTESTANTS, "the list has room");

unsigned list_contestants(const struct contestant *list[MAX_CONTESTANTS])
{
	unsigned n = 0;

	for (unsigned i = 0; i < KNOWN; i++)
		if (known[i].contestant != NULL)
			list[n++] = known[i].contestant;
	return n;
}

void report_skipped(void)
{
	for (unsigned i = 0; i < KNOWN; i++)
		if (known[i].contestant == NULL)
			printf("# skipped %s: configure did not find it (Debian: %s)\n", known[i].name,
			    known[i].packages);
}
