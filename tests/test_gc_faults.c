/* SPDX-License-Identifier: BSD-2-Clause */
/* The collector add-on when the system refuses what it asks for: nothing is half done, and the next try may do. */
#include <criterion/criterion.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "objects.h"

TestSuite(gc_faults, .timeout = 60, .fini = finish);

static bool no_version, no_key, no_value, no_handlers, no_semaphore, no_thread, no_maps, no_memory;
static void (*as_a_finalizer)(void);

unsigned __real_GC_get_version(void);
unsigned __wrap_GC_get_version(void);
unsigned __wrap_GC_get_version(void)
{
	return no_version ? (7 << 16 | 6 << 8) : __real_GC_get_version();
}

int __real_pthread_key_create(pthread_key_t *key, void (*ended)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*ended)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*ended)(void *))
{
	return no_key ? EAGAIN : __real_pthread_key_create(key, ended);
}

int __real_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
	if (!no_value)
		return __real_pthread_setspecific(key, value);
	errno = ENOMEM;
	return ENOMEM;
}

int __real_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	return no_handlers ? ENOMEM : __real_pthread_atfork(prepare, parent, child);
}

int __real_sem_init(sem_t *sem, int shared, unsigned value);
int __wrap_sem_init(sem_t *sem, int shared, unsigned value);
int __wrap_sem_init(sem_t *sem, int shared, unsigned value)
{
	if (!no_semaphore)
		return __real_sem_init(sem, shared, value);
	errno = ENOSYS;
	return -1;
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return no_thread ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

void *__real_mmap(void *at, size_t bytes, int how, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int how, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int how, int flags, int fd, off_t offset)
{
	if (!no_maps)
		return __real_mmap(at, bytes, how, flags, fd, offset);
	errno = ENOMEM;
	return MAP_FAILED;
}

void *__real_GC_malloc_uncollectable(size_t bytes);
void *__wrap_GC_malloc_uncollectable(size_t bytes);
void *__wrap_GC_malloc_uncollectable(size_t bytes)
{
	void (*finalizer)(void) = as_a_finalizer;

	as_a_finalizer = NULL;
	if (finalizer != NULL)
		finalizer();
	if (!no_memory)
		return __real_GC_malloc_uncollectable(bytes);
	errno = ENOMEM;
	return NULL;
}

/* ------------------------------------------------------------------------ open */

static void is_refused(bool *fault, int with)
{
	*fault = true;
	errno = 0;
	cr_assert_eq(cq_gc_open(queue), with);
	cr_assert_eq(errno, 0);
	*fault = false;
	cr_assert_eq(cq_gc_add(GC_MALLOC(16), count, NULL, NULL), ENXIO);
}

Test(gc_faults, open_that_is_refused_may_be_tried_again)
{
	begin_collector();
	cr_assert_eq(cq_cleanup_create(NULL, &queue), 0);
	is_refused(&no_version, ENOTSUP);
	is_refused(&no_key, EAGAIN);
	is_refused(&no_handlers, ENOMEM);
	is_refused(&no_semaphore, ENOSYS);
	is_refused(&no_thread, EAGAIN);
	cr_assert_eq(cq_gc_open(queue), 0);
	is_open = true;
	attach_dead(OBJECTS, count, NULL);
	collect();
	cr_assert(most(ran, OBJECTS));
}

/* ------------------------------------------------------------------------- add */

static void is_short_of_memory(bool *fault, void *arg)
{
	void *object = GC_MALLOC(16);
	cq_gc_handle_t handle;

	*fault = true;
	errno = 0;
	for (int i = 0; i < 3; i++)
		cr_assert_eq(cq_gc_add(object, count, arg, &handle), ENOMEM);
	cr_assert_eq(errno, 0);
	*fault = false;
	cr_assert_eq(counts().added, 0);
	cr_assert_eq(cq_gc_add(object, count, arg, &handle), 0);
	cr_assert(cq_gc_stop(handle));
}

Test(gc_faults, add_without_memory_attaches_nothing)
{
	open_in_place();
	is_short_of_memory(&no_maps, NULL);
}

Test(gc_faults, add_without_memory_for_a_threads_value_attaches_nothing)
{
	open_in_place();
	is_short_of_memory(&no_value, NULL);
}

Test(gc_faults, add_without_memory_of_the_collectors_attaches_nothing)
{
	open_in_place();
	is_short_of_memory(&no_memory, GC_MALLOC(16));
	cr_assert_eq(counts().bytes, 65536);
}

static void attach_some(void)
{
	for (int i = 0; i < 3; i++)
		cr_assert_eq(cq_gc_add(GC_MALLOC(16), count, GC_MALLOC(16), NULL), 0);
}

Test(gc_faults, finalizer_that_comes_between_may_attach_too)
{
	open_in_place();
	as_a_finalizer = attach_some;
	attach_some();
	cr_assert_null((void *)(uintptr_t)as_a_finalizer);
	cr_assert_eq(counts().added, 6);
	cq_gc_close();
	cr_assert_eq(ran, 6);
}

static bool is_child;

static void fork_and_collect(void)
{
	is_child = test_forked();
	for (int i = 0; is_child && i < 3; i++)
		GC_gcollect();
}

/* The child goes on in the add, with what it has. */
Test(gc_faults, finalizer_that_comes_between_may_fork)
{
	open_in_place();
	as_a_finalizer = fork_and_collect;
	attach_dead(OBJECTS, count, roots);
	cr_assert_null((void *)(uintptr_t)as_a_finalizer);
	collect();
	CHECK(most(ran, OBJECTS));
	if (is_child)
		_exit(0);
	cr_assert(test_child_ended());
}

/* ------------------------------------------------------------------------ fork */

Test(gc_faults, child_that_can_make_no_helper_hands_over_by_itself)
{
	pid_t pid;
	int status;

	open_queue();
	attach_alive(OBJECTS, count, NULL);
	if ((pid = fork()) == 0) {
		no_thread = true;
		drop_roots();
		GC_gcollect();
		CHECK(cq_gc_add(GC_MALLOC(16), count, NULL, NULL) == 0);
		no_thread = false; /* nor could the queue's worker be made: the drain makes it */
		CHECK(cq_cleanup_drain(queue, CQ_FOREVER) == 0);
		_exit(!most(ran, OBJECTS));
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}
