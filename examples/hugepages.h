/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hugepages.h - memory for cleanup queues in huge pages of 2 MiB, by config.allocator.
 *
 * For a queue that grows to hundreds of megabytes: with pages of 4 KiB most of what
 * an enqueue into fresh memory costs is the kernel's page faults. Opt in with care: the
 * kernel must find (or make) 2 MiB of physical memory in one piece, and clears it
 * at the first touch, so a queue that stays small pays for what it doesn't use.
 * Where the kernel says no, the same memory has small pages.
 *
 *     static struct hugepages pages = HUGEPAGES_INITIALIZER;
 *     cq_allocator_t allocator = hugepages_allocator(&pages);
 *     cq_cleanup_config_t config = { .allocator = &allocator };
 *
 *     cq_cleanup_create(&config, &q);
 *     ...
 *     cq_cleanup_destroy(q);
 *     hugepages_close(&pages);
 *
 * A page goes back to the system once all in it is freed, but for the one that
 * is being filled. Any thread may allocate and free. Not for a process that forks
 * while another thread uses the queue: its lock has no fork handlers.
 */
#ifndef HUGEPAGES_H
#define HUGEPAGES_H

#include <pthread.h>
#include <stddef.h>

#include <cq/cleanup.h>

enum { HUGEPAGES_BYTES = 2 * 1024 * 1024 };

struct hugepages {
	pthread_mutex_t lock;
	struct hugepage *filling;
	size_t pages;			/* that are mapped */
};

#define HUGEPAGES_INITIALIZER { PTHREAD_MUTEX_INITIALIZER, NULL, 0 }

/* For config.allocator. `pages` must outlive all queues that have it. */
cq_allocator_t hugepages_allocator(struct hugepages *pages);

/* Gives the last page back; all that was allocated must have been freed. */
void hugepages_close(struct hugepages *pages);

#endif /* HUGEPAGES_H */
