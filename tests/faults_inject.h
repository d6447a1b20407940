/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compiled in front of every source of the library (-include) for libcq_faults,
 * the library under faults: the sources stay as they are shipped.
 *
 * What the library asks of the system goes through tests/faults.c, which may
 * refuse it. And before each of its atomic operations, each taking and leaving
 * of a lock, and at each schedule point, faults_step() may take the processor
 * away: between any two steps of the library another thread can run.
 */
#ifndef CQ_TESTS_FAULTS_INJECT_H
#define CQ_TESTS_FAULTS_INJECT_H

#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faults_system.h"
#include "base/ordering.h"
#include "base/points.h"

/* ------------------------------------------------------------- the system */

#define pthread_create faults_pthread_create
#define clock_gettime faults_clock_gettime
#define pthread_cond_wait faults_cond_wait
#define pthread_cond_timedwait faults_cond_timedwait

/* Whatever the number of arguments, and their types: the kernel takes six longs. */
#define syscall(...) FAULTS_SYSCALL(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define FAULTS_SYSCALL(number, a, b, c, d, e, f, ...)				\
	faults_syscall((long)(number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* -------------------------------------------------------------- the steps */

#undef CQ_POINT
#define CQ_POINT(where) faults_step()

/* A macro is not expanded within itself, so each of these ends in the function of its name. */
#define pthread_mutex_lock(m) (faults_step(), pthread_mutex_lock(m))
#define pthread_mutex_unlock(m) (faults_step(), pthread_mutex_unlock(m))
#define cq_fence_full() (faults_step(), cq_fence_full())
#define cq_fence_release() (faults_step(), cq_fence_release())
#define cq_fence_compiler() (faults_step(), cq_fence_compiler())
#define cq_fence_acquire() (faults_step(), cq_fence_acquire())
#define cq_u32_load_relaxed(p) (faults_step(), cq_u32_load_relaxed(p))
#define cq_u32_load_acquire(p) (faults_step(), cq_u32_load_acquire(p))
#define cq_u32_store_relaxed(p, v) (faults_step(), cq_u32_store_relaxed(p, v))
#define cq_u32_store_release(p, v) (faults_step(), cq_u32_store_release(p, v))
#define cq_u32_exchange_relaxed(p, v) (faults_step(), cq_u32_exchange_relaxed(p, v))
#define cq_u32_exchange_release(p, v) (faults_step(), cq_u32_exchange_release(p, v))
#define cq_u32_cas_relaxed(p, old, v) (faults_step(), cq_u32_cas_relaxed(p, old, v))
#define cq_u32_add_relaxed(p, v) (faults_step(), cq_u32_add_relaxed(p, v))
#define cq_u64_load_relaxed(p) (faults_step(), cq_u64_load_relaxed(p))
#define cq_u64_load_acquire(p) (faults_step(), cq_u64_load_acquire(p))
#define cq_u64_store_relaxed(p, v) (faults_step(), cq_u64_store_relaxed(p, v))
#define cq_u64_store_release(p, v) (faults_step(), cq_u64_store_release(p, v))
#define cq_u64_add_relaxed(p, v) (faults_step(), cq_u64_add_relaxed(p, v))
#define cq_u64_cas_relaxed(p, old, v) (faults_step(), cq_u64_cas_relaxed(p, old, v))
#define cq_ptr_load_acquire(p) (faults_step(), cq_ptr_load_acquire(p))
#define cq_ptr_store_release(p, v) (faults_step(), cq_ptr_store_release(p, v))
#define cq_ptr_cas_relaxed(p, old, v) (faults_step(), cq_ptr_cas_relaxed(p, old, v))
#define cq_ptr_exchange_relaxed(p, v) (faults_step(), cq_ptr_exchange_relaxed(p, v))

/* These two are macros themselves: as in ordering.h, after a step. */
#undef cq_ptr_load_relaxed
#undef cq_ptr_store_relaxed
#define cq_ptr_load_relaxed(p) (faults_step(), ck_pr_load_ptr(p))
#define cq_ptr_store_relaxed(p, v) (faults_step(), ck_pr_store_ptr_unsafe((p), (v)))

#endif /* CQ_TESTS_FAULTS_INJECT_H */
