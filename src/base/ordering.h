/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every atomic operation of the library, with its order in its name, on top of ck_pr. ck's own loads, stores
 * and read-modify-writes order nothing on weakly ordered machines, so all order comes from the fences named
 * here, and each use of one says what it pairs with. doc/memory-order lists them.
 *
 * Which of ck's fences may stand where (ck 0.7):
 *   full      ck_pr_fence_memory. Not ck_pr_fence_atomic (a store fence on arm64) nor
 *             ck_pr_fence_atomic_load (the same on 32-bit arm).
 *   release   ck_pr_fence_release: loads and stores before, stores after. Not ck_pr_fence_store, as in ck's
 *             stack: what a pusher has read of a node could then be what its popper writes.
 *   acquire   ck_pr_fence_acquire: loads before, loads and stores after.
 */
#ifndef CQ_ORDERING_H
#define CQ_ORDERING_H

#include <ck_pr.h>
#include <stdbool.h>
#include <stdint.h>

static inline void cq_fence_full(void) { ck_pr_fence_memory(); }
static inline void cq_fence_release(void) { ck_pr_fence_release(); }
static inline void cq_fence_acquire(void) { ck_pr_fence_acquire(); }

/* Orders nothing but what the compiler makes of it: for what a forked child, or nobody else, reads. */
static inline void cq_fence_compiler(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

/* A hint to the processor that it is in a spin loop. */
static inline void cq_stall(void) { ck_pr_stall(); }

/* Another: this line will be written. In assembly, since compilers for any x86-64 make it a prefetch to read, and the
   store then waits for the line once more. Processors without the instruction do nothing. */
static inline void cq_fetch_to_write(const char *line)
{
#ifdef __x86_64__
	__asm__ __volatile__("prefetchw %0" : : "m"(*line));
#else
	__builtin_prefetch(line, 1);
#endif
}

/* ---- 32 bits ---- */

static inline uint32_t cq_u32_load_relaxed(const uint32_t *p) { return ck_pr_load_32(p); }
static inline void cq_u32_store_relaxed(uint32_t *p, uint32_t v) { ck_pr_store_32(p, v); }
static inline void cq_u32_add_relaxed(uint32_t *p, uint32_t v) { ck_pr_add_32(p, v); }

static inline bool cq_u32_cas_relaxed(uint32_t *p, uint32_t old, uint32_t v)
{
	return ck_pr_cas_32(p, old, v);
}

static inline uint32_t cq_u32_load_acquire(const uint32_t *p)
{
	uint32_t v = ck_pr_load_32(p);

	ck_pr_fence_acquire();
	return v;
}

static inline void cq_u32_store_release(uint32_t *p, uint32_t v)
{
	ck_pr_fence_release();
	ck_pr_store_32(p, v);
}

static inline uint32_t cq_u32_exchange_release(uint32_t *p, uint32_t v)
{
	ck_pr_fence_release();
	return ck_pr_fas_32(p, v);
}

/* ---- 64 bits ---- */

#if UINTPTR_MAX > UINT32_MAX
static inline uint64_t cq_u64_load_relaxed(const uint64_t *p) { return ck_pr_load_64(p); }
static inline void cq_u64_store_relaxed(uint64_t *p, uint64_t v) { ck_pr_store_64(p, v); }
static inline uint64_t cq_u64_add_relaxed(uint64_t *p, uint64_t v) { return ck_pr_faa_64(p, v); }

/* On failure *old is what was there. */
static inline bool cq_u64_cas_relaxed(uint64_t *p, uint64_t *old, uint64_t v)
{
	return ck_pr_cas_64_value(p, *old, v, old);
}
#else
/* Where a word has 32 bits ck lacks these or (i386) tears them in two, and the compiler's builtins are
   atomic. */
static inline uint64_t cq_u64_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void cq_u64_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

static inline uint64_t cq_u64_add_relaxed(uint64_t *p, uint64_t v)
{
	return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

static inline bool cq_u64_cas_relaxed(uint64_t *p, uint64_t *old, uint64_t v)
{
	return __atomic_compare_exchange_n(p, old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
#endif

static inline uint64_t cq_u64_load_acquire(const uint64_t *p)
{
	uint64_t v = cq_u64_load_relaxed(p);

	ck_pr_fence_acquire();
	return v;
}

static inline void cq_u64_store_release(uint64_t *p, uint64_t v)
{
	ck_pr_fence_release();
	cq_u64_store_relaxed(p, v);
}

/* ---- pointers ---- */

#define cq_ptr_load_relaxed(p) ck_pr_load_ptr(p)
#define cq_ptr_store_relaxed(p, v) ck_pr_store_ptr_unsafe((p), (v))
static inline void *cq_ptr_exchange_relaxed(void *p, void *v) { return ck_pr_fas_ptr(p, v); }

static inline void *cq_ptr_load_acquire(const void *p)
{
	void *v = ck_pr_load_ptr((void *const *)p);

	ck_pr_fence_acquire();
	return v;
}

static inline void cq_ptr_store_release(void *p, void *v)
{
	ck_pr_fence_release();
	ck_pr_store_ptr((void **)p, v);
}

/* On failure *old is what was there. */
static inline bool cq_ptr_cas_relaxed(void *p, void *old, void *v)
{
	return ck_pr_cas_ptr_value(p, *(void **)old, v, old);
}

#endif /* CQ_ORDERING_H */
