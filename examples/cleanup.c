/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layer 4: a hot thread opens files, and leaves the closing to workers
 * that the queue makes when there is something to do.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include <cq/cleanup_stats.h>
#include <cq/producer.h>

enum { FILES = 10000, OPEN_AT_ONCE = 200 };

static atomic_int open_now;

static void close_it(void *arg)
{
	close((int)(intptr_t)arg);
	atomic_fetch_sub(&open_now, 1);
}

static int open_many(cq_cleanup_t *q, cq_producer_t *p)
{
	for (int i = 0; i < FILES; i++) {
		int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			return 1;
		atomic_fetch_add(&open_now, 1);
		/* No lock, no system call. Refused only for want of memory. */
		if (cq_producer_put(p, (void *)(intptr_t)fd) != 0)
			close_it((void *)(intptr_t)fd);
		/* Back-pressure: wait for the workers when too much is open. */
		if (atomic_load(&open_now) >= OPEN_AT_ONCE)
			cq_cleanup_drain(q, CQ_FOREVER);
	}
	return 0;
}

int main(void)
{
	cq_cleanup_t *q;
	cq_producer_t *p; /* one per hot thread */
	cq_cleanup_stats_t s;

	if (cq_cleanup_create(NULL, &q) != 0 || cq_producer_attach(q, close_it, &p) != 0 ||
	    open_many(q, p) != 0)
		return 1;
	cq_producer_detach(p);
	if (cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0)
		return 1;
	cq_cleanup_stats(q, &s);
	printf("cleanup: %" PRIu64 " queued, %" PRIu64 " executed, %d left open\n", s.queued,
	    s.executed, atomic_load(&open_now));
	return cq_cleanup_destroy(q) != 0 || s.executed != FILES || atomic_load(&open_now) != 0;
}
