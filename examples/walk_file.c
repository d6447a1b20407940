/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The collected objects of `walk`: a file that is open and mapped. What is put
 * right here is the order of things: the resource first, then the object, then
 * its cleanups, and at each step that fails the steps before are undone.
 */
#define GC_THREADS
#include <gc.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cq/gc.h>
#include "walk.h"

ledger_t ledger;

uint64_t open_now(void)
{
	uint64_t closed = atomic_load(&ledger.closed); /* first: never more than opened */

	return atomic_load(&ledger.opened) - closed;
}

static void count_open(void)
{
	atomic_fetch_add(&ledger.opened, 1);
	uint64_t now = open_now();
	uint_fast64_t peak = atomic_load(&ledger.peak_open);

	while (now > peak && !atomic_compare_exchange_weak(&ledger.peak_open, &peak, now))
		continue;
}

/* ---------------------------------------------------------------- the cleanups */

/* The descriptor itself is the argument: nothing to allocate, nothing to keep alive. */
static void close_it(void *fd)
{
	if (close((int)(intptr_t)fd) == 0 || errno != EBADF) /* EIO closes as well */
		atomic_fetch_add(&ledger.closed, 1);
}

/* A mapping is two words, so the argument is a small collected object of its own. */
static void unmap_it(void *arg)
{
	resources_t *res = arg;

	if (munmap((void *)(uintptr_t)res->text, res->length) != 0)
		return;
	atomic_fetch_add(&ledger.unmapped, 1);
	atomic_fetch_add(&ledger.bytes_unmapped, res->length);
}

/* ----------------------------------------------------------------- the resources */

static int map_it(resources_t *res, uint64_t size, size_t max)
{
	void *text;

	res->length = size < max ? (size_t)size : max;
	if (res->length == 0)
		return 0;
	text = mmap(NULL, res->length, PROT_READ, MAP_PRIVATE, res->fd, 0);
	if (text == MAP_FAILED)
		return errno;
	res->text = text;
	atomic_fetch_add(&ledger.mapped, 1);
	atomic_fetch_add(&ledger.bytes, res->length);
	return 0;
}

int resources_open(const char *path, size_t max, resources_t *res)
{
	struct stat st;
	int err;

	/* NONBLOCK: what was a file when the walk saw it may be a FIFO by now. */
	*res = (resources_t){ open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY),
		NULL, 0 };
	if (res->fd < 0)
		return errno;
	count_open();
	err = fstat(res->fd, &st) != 0 ? errno : !S_ISREG(st.st_mode) ? EINVAL : 0;
	if (err == 0)
		err = map_it(res, (uint64_t)st.st_size, max);
	if (err != 0)
		close_it((void *)(intptr_t)res->fd);
	return err;
}

/* -------------------------------------------------------------------- the object */

static bool attach_unmap(file_t *f)
{
	resources_t *arg = GC_MALLOC_ATOMIC(sizeof(*arg)); /* &f->res would keep f alive */

	if (arg == NULL)
		return false;
	*arg = f->res;
	return cq_gc_add(f, unmap_it, arg, NULL) == 0;
}

file_t *file_of(const resources_t *res, bool leak)
{
	file_t *f = GC_MALLOC(sizeof(*f));
	resources_t undo = *res;

	if (f != NULL)
		f->res = *res;
	if (f != NULL && leak)
		return f;
	if (f == NULL || (res->text != NULL && !attach_unmap(f))) {
		if (res->text != NULL)
			unmap_it(&undo);
		close_it((void *)(intptr_t)res->fd);
		return NULL;
	}
	if (cq_gc_add(f, close_it, (void *)(intptr_t)res->fd, NULL) != 0) {
		close_it((void *)(intptr_t)res->fd); /* the mapping dies with f */
		return NULL;
	}
	return f;
}

/* --------------------------------------------------------------------- the work */

static __thread sigjmp_buf *volatile after_sigbus;

static void on_sigbus(int sig)
{
	if (after_sigbus != NULL)
		siglongjmp(*after_sigbus, 1);
	signal(sig, SIG_DFL); /* not ours: the fault comes again, and kills */
}

void catch_sigbus(void)
{
	struct sigaction action = { .sa_handler = on_sigbus };

	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
}

static bool is_space(unsigned char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void digest(file_t *f)
{
	bool in_word = false;

	f->crc = (uint32_t)crc32_z(0, f->res.text, f->res.length);
	for (size_t i = 0; i < f->res.length; i++) {
		bool space = is_space(f->res.text[i]);

		f->words += !space && !in_word;
		f->lines += f->res.text[i] == '\n';
		in_word = !space;
	}
}

bool file_digest(file_t *f)
{
	sigjmp_buf here;

	if (f->res.text == NULL)
		return true;
	if (sigsetjmp(here, 1) != 0) {
		after_sigbus = NULL;
		return false;
	}
	after_sigbus = &here;
	digest(f);
	after_sigbus = NULL;
	GC_reachable_here(f); /* a dead f is unmapped, and the text is read until here */
	return true;
}
