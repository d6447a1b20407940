/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * For count_rmw, in front of every file of it (-include): each atomic
 * read-modify-write says where it is to go. ck_pr is that of src/base/c11, made of
 * C11 atomics, as the real one's assembly can't be told from other instructions.
 * A compare-and-swap that fails counts too, and as failed: it moves the line as well. A
 * mutex counts once for its lock and once for its unlock.
 */
#ifndef BENCH_RMW_H
#define BENCH_RMW_H

#define _GNU_SOURCE /* the files that want it come after this one */

#include <pthread.h>
#include <stdbool.h>

void rmw_on(const volatile void *address);
bool rmw_swapped(const volatile void *address, bool swapped); /* returns `swapped` */

/* A macro isn't expanded within itself. */
#define __atomic_fetch_add(p, ...) (rmw_on(p), __atomic_fetch_add(p, __VA_ARGS__))
#define __atomic_fetch_sub(p, ...) (rmw_on(p), __atomic_fetch_sub(p, __VA_ARGS__))
#define __atomic_fetch_and(p, ...) (rmw_on(p), __atomic_fetch_and(p, __VA_ARGS__))
#define __atomic_fetch_or(p, ...) (rmw_on(p), __atomic_fetch_or(p, __VA_ARGS__))
#define __atomic_fetch_xor(p, ...) (rmw_on(p), __atomic_fetch_xor(p, __VA_ARGS__))
#define __atomic_exchange_n(p, ...) (rmw_on(p), __atomic_exchange_n(p, __VA_ARGS__))
#define __atomic_compare_exchange_n(p, ...)					\
	(rmw_on(p), rmw_swapped(p, __atomic_compare_exchange_n(p, __VA_ARGS__)))

#define pthread_mutex_lock(p) (rmw_on(p), pthread_mutex_lock(p))
#define pthread_mutex_trylock(p) (rmw_on(p), pthread_mutex_trylock(p))
#define pthread_mutex_unlock(p) (rmw_on(p), pthread_mutex_unlock(p))

/* After the macros: they count within it, but for what it has in assembly. */
#include "../src/base/c11/ck_pr.h"

#define ck_pr_cas_ptr_2(p, ...) (rmw_on(p), rmw_swapped(p, ck_pr_cas_ptr_2(p, __VA_ARGS__)))
#define ck_pr_cas_ptr_2_value(p, ...) (rmw_on(p), rmw_swapped(p, ck_pr_cas_ptr_2_value(p, __VA_ARGS__)))

#endif /* BENCH_RMW_H */
