/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Concurrency Kit's ck_pr.h, made of C11 atomics, to be put in front of the include
 * path: configure --with-atomics=c11, for processors that ck has no assembly for, for
 * builds without ck, and for ThreadSanitizer and model checkers, which cannot look
 * into the assembly of the real one. Only what libcq uses of ck is here.
 *
 * As in ck, loads, stores and read-modify-writes are relaxed, the compiler moves
 * nothing past them (the hot side of src/base/barrier.h has no other order), and each fence
 * has the order that ck documents for it, rounded up to the next that C11 has.
 *
 * Under ThreadSanitizer it is otherwise, as that knows no fences and would call
 * correct code racy: there each access carries the order itself (acquire,
 * release, or both), and the fences only work on the hardware. So it finds plain
 * accesses that race, and data that no atomic access protects at all; it does
 * NOT find a fence that is missing or too weak. The model check (-DCKPR_MODEL,
 * tests/model) does: it is compiled for ThreadSanitizer too, but gets relaxed
 * accesses and fences as they are.
 *
 * With -DCKPR_NO_ASM there is no assembly, for checkers that keep the order of what is volatile or
 * atomic, and can't read any. With -DCKPR_COUNT each operation is counted (tests/test_cost.c).
 */
#ifndef CK_PR_H
#define CK_PR_H

#include <stdbool.h>
#include <stdint.h>

#if defined(CKPR_MODEL)
bool ckpr_model_cas_2(void *target, const void *old, const void *v);
void ckpr_model_stall(void);
void ckpr_model_fence_store(void);
#elif defined(__SANITIZE_THREAD__)
#define CKPR_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CKPR_TSAN 1
#endif
#endif

#define CKPR_INLINE static inline __attribute__((unused))

#ifdef CKPR_COUNT
/* Of this thread. updates: read-modify-writes, of two words too. */
struct ckpr_counts {
	unsigned loads, stores, updates, fences, full_fences;
};
extern _Thread_local struct ckpr_counts ckpr_counts;
#define CKPR_COUNTED(KIND) ((void)ckpr_counts.KIND++)
#else
#define CKPR_COUNTED(KIND) ((void)0)
#endif

#ifdef CKPR_TSAN
#define CKPR_LOAD __ATOMIC_ACQUIRE
#define CKPR_STORE __ATOMIC_RELEASE
#define CKPR_RMW __ATOMIC_ACQ_REL
#define CKPR_CAS_FAILED __ATOMIC_ACQUIRE
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#else
#define CKPR_LOAD __ATOMIC_RELAXED
#define CKPR_STORE __ATOMIC_RELAXED
#define CKPR_RMW __ATOMIC_RELAXED
#define CKPR_CAS_FAILED __ATOMIC_RELAXED
#define __tsan_acquire(address) ((void)(address))
#define __tsan_release(address) ((void)(address))
#endif

/* ------------------------------------------------------------------ fences */

CKPR_INLINE void ck_pr_barrier(void)
{
	/* What __atomic_signal_fence is, but gcc counts that as a call, and inlines less. */
#ifndef CKPR_NO_ASM
	__asm__ __volatile__("" ::: "memory");
#endif
}

/* Before and after an operation. The model check orders the accesses itself. */
#if defined(CKPR_MODEL)
#define CKPR_IN_PLACE() ((void)0)
#else
#define CKPR_IN_PLACE() ck_pr_barrier()
#endif

CKPR_INLINE void ck_pr_stall(void)
{
#if defined(CKPR_MODEL)
	ckpr_model_stall();
#elif defined(CKPR_NO_ASM)
#elif defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield" ::: "memory");
#else
	ck_pr_barrier();
#endif
}

CKPR_INLINE void ckpr_fence(int order)
{
	CKPR_COUNTED(fences);
	if (order == __ATOMIC_SEQ_CST)
		CKPR_COUNTED(full_fences);
#ifdef CKPR_TSAN
	/* A full barrier, on a word that no other thread has: it orders nothing that
	   ThreadSanitizer could take for synchronization. */
	static _Thread_local int own;

	(void)order;
	__atomic_exchange_n(&own, 1, __ATOMIC_SEQ_CST);
	ck_pr_barrier();
#else
	__atomic_thread_fence(order);
#endif
}

/* C11 has no fence that orders stores alone; the model check has. */
CKPR_INLINE void ckpr_fence_store(void)
{
#ifdef CKPR_MODEL
	ckpr_model_fence_store();
#else
	ckpr_fence(__ATOMIC_RELEASE);
#endif
}

#define CKPR_FENCE_STORE(NAME)							\
	CKPR_INLINE void ck_pr_fence_##NAME(void) { ckpr_fence_store(); }	\
	CKPR_INLINE void ck_pr_fence_strict_##NAME(void) { ckpr_fence_store(); }
#define CKPR_FENCE(NAME, ORDER)							\
	CKPR_INLINE void ck_pr_fence_##NAME(void) { ckpr_fence(ORDER); }	\
	CKPR_INLINE void ck_pr_fence_strict_##NAME(void) { ckpr_fence(ORDER); }

CKPR_FENCE(load, __ATOMIC_ACQUIRE)
CKPR_FENCE(load_store, __ATOMIC_ACQUIRE)
CKPR_FENCE(load_atomic, __ATOMIC_ACQUIRE)
CKPR_FENCE_STORE(store)
CKPR_FENCE_STORE(store_atomic)
CKPR_FENCE(store_load, __ATOMIC_SEQ_CST)
CKPR_FENCE(memory, __ATOMIC_SEQ_CST)
CKPR_FENCE(acquire, __ATOMIC_ACQUIRE)
CKPR_FENCE(release, __ATOMIC_RELEASE)
CKPR_FENCE(acqrel, __ATOMIC_ACQ_REL)
CKPR_FENCE(lock, __ATOMIC_ACQUIRE)
CKPR_FENCE(unlock, __ATOMIC_RELEASE)
/*
 * Between read-modify-writes, which are stores to ck: no more than a store
 * fence on arm64. So a program that leans on them for more fails here as well.
 */
CKPR_FENCE_STORE(atomic)
CKPR_FENCE_STORE(atomic_store)
CKPR_FENCE(atomic_load, __ATOMIC_ACQUIRE)

CKPR_INLINE void ck_pr_fence_load_depends(void)
{
	ckpr_fence(__ATOMIC_ACQUIRE);
}

/* -------------------------------------------------------------- operations */

/* On type T: ck_pr_OP_S(T *target, ...). */
#define CKPR_ACCESS(S, T)							\
	CKPR_INLINE T ck_pr_load_##S(const T *target)				\
	{									\
		T v;								\
		CKPR_COUNTED(loads);						\
		CKPR_IN_PLACE();						\
		v = __atomic_load_n(target, CKPR_LOAD);				\
		CKPR_IN_PLACE();						\
		return v;							\
	}									\
	CKPR_INLINE void ck_pr_store_##S(T *target, T v)			\
	{									\
		CKPR_COUNTED(stores);						\
		CKPR_IN_PLACE();						\
		__atomic_store_n(target, v, CKPR_STORE);			\
		CKPR_IN_PLACE();						\
	}									\
	CKPR_INLINE T ck_pr_fas_##S(T *target, T v)				\
	{									\
		CKPR_COUNTED(updates);						\
		CKPR_IN_PLACE();						\
		v = __atomic_exchange_n(target, v, CKPR_RMW);			\
		CKPR_IN_PLACE();						\
		return v;							\
	}									\
	CKPR_INLINE bool ck_pr_cas_##S##_value(T *target, T old, T v, T *seen)	\
	{									\
		bool done;							\
		CKPR_COUNTED(updates);						\
		CKPR_IN_PLACE();						\
		done = __atomic_compare_exchange_n(target, &old, v, false,	\
		    CKPR_RMW, CKPR_CAS_FAILED);					\
		CKPR_IN_PLACE();						\
		*seen = old;							\
		return done;							\
	}									\
	CKPR_INLINE bool ck_pr_cas_##S(T *target, T old, T v)			\
	{									\
		return ck_pr_cas_##S##_value(target, old, v, &old);		\
	}

#define CKPR_UPDATE(OP, S, T)							\
	CKPR_INLINE void ck_pr_##OP##_##S(T *target, T v)			\
	{									\
		CKPR_COUNTED(updates);						\
		CKPR_IN_PLACE();						\
		(void)__atomic_fetch_##OP(target, v, CKPR_RMW);			\
		CKPR_IN_PLACE();						\
	}

#define CKPR_NUMBER(S, T)							\
	CKPR_ACCESS(S, T)							\
	CKPR_UPDATE(add, S, T)							\
	CKPR_UPDATE(sub, S, T)							\
	CKPR_UPDATE(and, S, T)							\
	CKPR_UPDATE(or, S, T)							\
	CKPR_UPDATE(xor, S, T)							\
	CKPR_INLINE T ck_pr_faa_##S(T *target, T v)				\
	{									\
		CKPR_COUNTED(updates);						\
		CKPR_IN_PLACE();						\
		v = __atomic_fetch_add(target, v, CKPR_RMW);			\
		CKPR_IN_PLACE();						\
		return v;							\
	}									\
	CKPR_INLINE void ck_pr_inc_##S(T *target) { ck_pr_add_##S(target, 1); }	\
	CKPR_INLINE void ck_pr_dec_##S(T *target) { ck_pr_sub_##S(target, 1); }

CKPR_NUMBER(8, uint8_t)
CKPR_NUMBER(16, uint16_t)
CKPR_NUMBER(32, uint32_t)
CKPR_NUMBER(64, uint64_t)
CKPR_NUMBER(char, char)
CKPR_NUMBER(int, int)
CKPR_NUMBER(uint, unsigned int)

/* Pointers come as the address of any pointer, and are numbers in between. */
typedef uintptr_t __attribute__((may_alias)) ckpr_word_t;

CKPR_INLINE void ck_pr_store_ptr_unsafe(void *target, const void *v)
{
	CKPR_COUNTED(stores);
	CKPR_IN_PLACE();
	__atomic_store_n((ckpr_word_t *)target, (uintptr_t)v, CKPR_STORE);
	CKPR_IN_PLACE();
}

CKPR_INLINE void *ck_pr_fas_ptr(void *target, void *v)
{
	uintptr_t old;

	CKPR_COUNTED(updates);
	CKPR_IN_PLACE();
	old = __atomic_exchange_n((ckpr_word_t *)target, (uintptr_t)v, CKPR_RMW);
	CKPR_IN_PLACE();
	return (void *)old;
}

CKPR_INLINE void *ck_pr_faa_ptr(void *target, uintptr_t v)
{
	CKPR_COUNTED(updates);
	CKPR_IN_PLACE();
	v = __atomic_fetch_add((ckpr_word_t *)target, v, CKPR_RMW);
	CKPR_IN_PLACE();
	return (void *)v;
}

CKPR_INLINE bool ck_pr_cas_ptr_value(void *target, void *old, void *v, void *seen)
{
	uintptr_t expected = (uintptr_t)old;
	bool done;

	CKPR_COUNTED(updates);
	CKPR_IN_PLACE();
	done = __atomic_compare_exchange_n((ckpr_word_t *)target, &expected,
	    (uintptr_t)v, false, CKPR_RMW, CKPR_CAS_FAILED);
	CKPR_IN_PLACE();
	*(ckpr_word_t *)seen = expected;
	return done;
}

CKPR_INLINE bool ck_pr_cas_ptr(void *target, void *old, void *v)
{
	void *seen;

	return ck_pr_cas_ptr_value(target, old, v, &seen);
}

/* All in the macro: a suppression by race_top then sees the function that it is used in. */
#define ck_pr_load_ptr(target)							\
	__extension__ ({							\
		uintptr_t ckpr_loaded;						\
		CKPR_COUNTED(loads);						\
		CKPR_IN_PLACE();						\
		ckpr_loaded = __atomic_load_n((const ckpr_word_t *)(target), CKPR_LOAD); \
		CKPR_IN_PLACE();						\
		(__typeof__(*(target)))ckpr_loaded;				\
	})
#define ck_pr_md_load_ptr ck_pr_load_ptr
#define ck_pr_store_ptr(target, v)						\
	((void)sizeof(*(target) = (v)), ck_pr_store_ptr_unsafe((target), (v)))

/* ------------------------------------------------- two words, on x86-64 only */

#ifdef __x86_64__
/*
 * In assembly: the compilers' 16-byte atomics are not inlined everywhere, and
 * those of ThreadSanitizer's run time take a lock, which 8-byte accesses to the
 * same words do not. What it has to know of this one is said by hand.
 */
CKPR_INLINE bool ck_pr_cas_ptr_2_value(void *target, void *old, void *v, void *seen)
{
#ifdef CKPR_MODEL
	(void)seen;
	return ckpr_model_cas_2(target, old, v);
#else
	const ckpr_word_t *o = old, *n = v;
	ckpr_word_t *t = target, *out = seen, low = o[0], high = o[1];
	bool done;

	CKPR_COUNTED(updates);
	__tsan_release(&t[0]);
	__tsan_release(&t[1]);
	__asm__ __volatile__("lock cmpxchg16b %0"
	    : "+m"(t[0]), "+m"(t[1]), "=@ccz"(done), "+a"(low), "+d"(high)
	    : "b"(n[0]), "c"(n[1])
	    : "memory");
	__tsan_acquire(&t[0]);
	__tsan_acquire(&t[1]);
	out[0] = low;
	out[1] = high;
	return done;
#endif
}

CKPR_INLINE bool ck_pr_cas_ptr_2(void *target, void *old, void *v)
{
	uintptr_t seen[2];

	return ck_pr_cas_ptr_2_value(target, old, v, seen);
}

#define CK_F_PR_CAS_PTR_2
#define CK_F_PR_CAS_PTR_2_VALUE
#endif

#define CK_F_PR_LOAD_PTR
#define CK_F_PR_STORE_PTR
#define CK_F_PR_FAS_PTR
#define CK_F_PR_CAS_PTR
#define CK_F_PR_CAS_PTR_VALUE
#define CK_F_PR_LOAD_64
#define CK_F_PR_CAS_64_VALUE
#define CK_F_PR_FAA_64

#endif /* CK_PR_H */
