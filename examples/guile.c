/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libcq-gc in a program that nobody here wrote: an extension module for GNU Guile 3, whose objects are the Boehm
 * collector's. scripts/check-guile builds it and runs examples/guile.scm with it.
 *
 *     (load-extension "libguile-cq" "init_cq")
 *     (add-cleanup! object mark)   when `object` is dead, a worker of libcq writes 1 into the bytevector `mark`
 *     (cleanups-relieve)           collects, and waits until what was found dead has run
 *     (cleanups-counts)            => (added run missed marks-that-were-not-0)
 *     (cleanups-close)             => how many were attached to what lives; all have run then
 */
#include <libguile.h>

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include <cq/gc.h>

static cq_cleanup_t *queue;
static atomic_ulong wrong;

/* Collected memory that only its entry keeps alive, read and written in a thread that the collector doesn't know. */
static void write_mark(void *arg)
{
	signed char *mark = SCM_BYTEVECTOR_CONTENTS(SCM_PACK_POINTER(arg));

	if (*mark != 0)
		atomic_fetch_add(&wrong, 1);
	*mark = 1;
}

static SCM check(int err)
{
	if (err != 0)
		scm_misc_error("cq", strerror(err), SCM_EOL);
	return SCM_UNSPECIFIED;
}

static SCM add_cleanup(SCM object, SCM mark)
{
	SCM_ASSERT_TYPE(SCM_HEAP_OBJECT_P(object), object, 1, "add-cleanup!", "heap object");
	SCM_ASSERT_TYPE(scm_is_bytevector(mark), mark, 2, "add-cleanup!", "bytevector");
	return check(cq_gc_add(SCM_UNPACK_POINTER(object), write_mark, SCM_UNPACK_POINTER(mark), NULL));
}

static SCM relieve(void)
{
	int err = cq_gc_relieve(CQ_FOREVER);

	return check(err == ENOENT ? 0 : err);
}

static SCM counts(void)
{
	cq_gc_counts_t c;

	cq_gc_counts(&c);
	return scm_list_4(scm_from_uint64(c.added), scm_from_uint64(c.run), scm_from_uint64(c.missed),
		scm_from_ulong(atomic_load(&wrong)));
}

static SCM close_all(void)
{
	size_t alive = cq_gc_close();

	check(cq_cleanup_drain(queue, CQ_FOREVER));
	return scm_from_size_t(alive);
}

void init_cq(void);
void init_cq(void)
{
	check(cq_cleanup_create(NULL, &queue));
	check(cq_gc_open(queue));
	scm_c_define_gsubr("add-cleanup!", 2, 0, 0, (scm_t_subr)add_cleanup);
	scm_c_define_gsubr("cleanups-relieve", 0, 0, 0, (scm_t_subr)relieve);
	scm_c_define_gsubr("cleanups-counts", 0, 0, 0, (scm_t_subr)counts);
	scm_c_define_gsubr("cleanups-close", 0, 0, 0, (scm_t_subr)close_all);
}
