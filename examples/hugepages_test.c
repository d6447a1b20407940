/* SPDX-License-Identifier: BSD-2-Clause */
/* A queue whose memory is in huge pages: more than a page of it, all run, all given back. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include <cq/cq.h>

#include "hugepages.h"

enum { CALLBACKS = 2000000 };

static uint64_t sum; /* run_some runs them in this thread */

static void add(void *arg)
{
	sum += (uintptr_t)arg;
}

static bool enqueue_all(cq_cleanup_t *q)
{
	cq_producer_t *p;
	bool ok = true;

	if (cq_producer_attach(q, add, &p) != 0)
		return false;
	for (uintptr_t i = 1; ok && i <= CALLBACKS; i++)
		ok = cq_producer_put(p, (void *)i) == 0;
	cq_producer_detach(p);
	return ok;
}

/* Of the page that is left, and empty: all of it is to be had, and no more. */
static bool limits_hold(struct hugepages *pages)
{
	cq_allocator_t a = hugepages_allocator(pages);
	size_t most = HUGEPAGES_BYTES - 4096;
	char *whole = a.alloc(a.host, most, 4096);
	bool ok = a.alloc(a.host, most + 1, 4096) == NULL && whole != NULL &&
	    (uintptr_t)whole % 4096 == 0 && pages->pages == 1;

	if (whole != NULL) {
		whole[0] = whole[most - 1] = 1;
		a.free(a.host, whole, most);
	}
	return ok;
}

int main(void)
{
	static struct hugepages pages = HUGEPAGES_INITIALIZER;
	cq_allocator_t allocator = hugepages_allocator(&pages);
	cq_pool_config_t pool = { .flags = CQ_POOL_POLLED | CQ_POOL_HOSTED };
	cq_cleanup_config_t config = { .pool_config = &pool, .allocator = &allocator };
	size_t full, trimmed = 0;
	cq_cleanup_t *q;

	if (cq_cleanup_create(&config, &q) != 0 || !enqueue_all(q)) {
		fprintf(stderr, "no memory\n");
		return 1;
	}
	full = pages.pages;
	if (cq_cleanup_run_some(q, SIZE_MAX) != CALLBACKS ||
	    sum != (uint64_t)CALLBACKS * (CALLBACKS + 1) / 2) {
		fprintf(stderr, "not every callback ran once\n");
		return 1;
	}
	/* One page has the queue itself, one is being filled. */
	if (cq_cleanup_trim(q, &trimmed) != 0 || full < 3 || pages.pages > 2) {
		fprintf(stderr, "%zu pages, and after a trim of %zu bytes %zu\n", full, trimmed,
		    pages.pages);
		return 1;
	}
	if (cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0 ||
	    cq_cleanup_destroy(q) != 0 || !limits_hold(&pages)) {
		fprintf(stderr, "not all was given back, or a limit doesn't hold\n");
		return 1;
	}
	hugepages_close(&pages);
	printf("%d callbacks in %zu huge pages, %zu of them after the last was given back\n",
	    CALLBACKS, full, pages.pages);
	return pages.pages == 0 ? 0 : 1;
}
