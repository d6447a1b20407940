/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#endif
#include "hugepages.h"

#include <stdint.h>
#include <sys/mman.h>

/* At the start of each page, which is aligned to its size: so free finds it. */
struct hugepage {
	size_t used;	/* bytes, with this header */
	size_t live;	/* allocations that are not freed */
};

static struct hugepage *map_page(void)
{
	uintptr_t size = HUGEPAGES_BYTES, start, page;
	void *memory = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	start = (uintptr_t)memory;
	page = (start + size - 1) / size * size;
	if (page != start)
		munmap(memory, page - start);
	munmap((void *)(page + size), start + size - page); /* never empty */
#ifdef MADV_HUGEPAGE
	madvise((void *)page, size, MADV_HUGEPAGE); /* a refusal costs speed alone */
#endif
	return (struct hugepage *)page;
}

static void unmap_page(struct hugepages *pages, struct hugepage *page)
{
	munmap(page, HUGEPAGES_BYTES);
	pages->pages--;
}

static void forget_contents(struct hugepage *page)
{
	*page = (struct hugepage){ .used = sizeof(*page) };
}

/* Where `bytes` would begin in a page of which `used` are taken. */
static size_t place_in(size_t used, size_t align)
{
	return (used + align - 1) / align * align;
}

static void *alloc(void *host, size_t bytes, size_t align)
{
	struct hugepages *pages = host;
	struct hugepage *page;
	size_t at;

	bytes += bytes == 0; /* or it could lie behind its page */
	if (align > HUGEPAGES_BYTES || bytes > HUGEPAGES_BYTES - place_in(sizeof(*page), align))
		return NULL;
	pthread_mutex_lock(&pages->lock);
	page = pages->filling;
	if (page == NULL || bytes > HUGEPAGES_BYTES - place_in(page->used, align)) {
		page = map_page();
		if (page == NULL) {
			pthread_mutex_unlock(&pages->lock);
			return NULL;
		}
		forget_contents(page);
		pages->pages++;
		pages->filling = page; /* frees unmap the one before */
	}
	at = place_in(page->used, align);
	page->used = at + bytes;
	page->live++;
	pthread_mutex_unlock(&pages->lock);
	return (char *)page + at;
}

static void give_back(void *host, void *memory, size_t bytes)
{
	struct hugepages *pages = host;
	struct hugepage *page = (struct hugepage *)((uintptr_t)memory / HUGEPAGES_BYTES *
	    HUGEPAGES_BYTES);

	(void)bytes;
	pthread_mutex_lock(&pages->lock);
	if (--page->live == 0) {
		if (page == pages->filling)
			forget_contents(page);
		else
			unmap_page(pages, page);
	}
	pthread_mutex_unlock(&pages->lock);
}

cq_allocator_t hugepages_allocator(struct hugepages *pages)
{
	return (cq_allocator_t){ alloc, give_back, pages };
}

void hugepages_close(struct hugepages *pages)
{
	if (pages->filling != NULL)
		unmap_page(pages, pages->filling);
	pages->filling = NULL;
}
