/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the compiled code enters the explorer. It is compiled for
 * ThreadSanitizer, which calls these functions at each access to memory, and
 * linked with them in place of ThreadSanitizer's; the C library's functions that
 * matter come in by the linker's --wrap.
 */
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "machine.h"

#define HERE __builtin_return_address(0)

char *region;
uintptr_t data_begin, data_end;
static char *data_copy;

/* ----------------------------------------------------- plain reads and writes */

void __tsan_init(void) {}
void __tsan_func_entry(void *pc) { (void)pc; }
void __tsan_func_exit(void) {}

#define ACCESS(N)								\
	void __tsan_read##N(void *a) { plain((uintptr_t)a, N, false, HERE); }	\
	void __tsan_write##N(void *a) { plain((uintptr_t)a, N, true, HERE); }	\
	void __tsan_unaligned_read##N(void *a) { plain((uintptr_t)a, N, false, HERE); }	\
	void __tsan_unaligned_write##N(void *a) { plain((uintptr_t)a, N, true, HERE); }	\
	void __tsan_volatile_read##N(void *a) { plain((uintptr_t)a, N, false, HERE); }	\
	void __tsan_volatile_write##N(void *a) { plain((uintptr_t)a, N, true, HERE); }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *a, size_t n) { plain((uintptr_t)a, n, false, HERE); }
void __tsan_write_range(void *a, size_t n) { plain((uintptr_t)a, n, true, HERE); }

void *model_memset(void *to, int byte, size_t n)
{
	char *c = to;

	plain((uintptr_t)to, n, true, HERE);
	for (size_t i = 0; i < n; i++)
		c[i] = (char)byte;
	__asm__ __volatile__("" ::: "memory");
	settle_plain();
	return to;
}

void *model_memcpy(void *to, const void *from, size_t n)
{
	plain((uintptr_t)from, n, false, HERE);
	plain((uintptr_t)to, n, true, HERE);
	memmove(to, from, n);
	settle_plain();
	return to;
}

/* ------------------------------------------------------------------- atomics */

static bool releases(int order)
{
	return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static bool acquires(int order)
{
	return order != __ATOMIC_RELAXED && order != __ATOMIC_RELEASE;
}

void __tsan_atomic_thread_fence(int order)
{
	if (order == __ATOMIC_SEQ_CST) {
		/* Only the order among these matters. */
		point();
		fence_full(self());
		note(53);
		trace("fence", 0, 0, HERE);
		return;
	}
	settle_plain();
	if (acquires(order))
		fence_acquire(self());
	if (releases(order))
		fence_release(self());
}

void __tsan_atomic_signal_fence(int order) { (void)order; }

#define RMW(BITS, T, NAME, OP)								\
	T __tsan_atomic##BITS##_##NAME(volatile T *a, T v, int order)			\
	{										\
		if (order != __ATOMIC_RELAXED)						\
			model_fail("a read-modify-write with an order of its own");	\
		return (T)rmw((uintptr_t)a, sizeof(T), OP, v, HERE);			\
	}

#define ATOMIC(BITS, T)									\
	T __tsan_atomic##BITS##_load(const volatile T *a, int order)			\
	{										\
		return (T)load((uintptr_t)a, sizeof(T), acquires(order), HERE);		\
	}										\
	void __tsan_atomic##BITS##_store(volatile T *a, T v, int order)			\
	{										\
		store((uintptr_t)a, sizeof(T), v, releases(order), HERE);		\
	}										\
	RMW(BITS, T, exchange, RMW_SWAP)						\
	RMW(BITS, T, fetch_add, RMW_ADD)						\
	RMW(BITS, T, fetch_sub, RMW_SUB)						\
	RMW(BITS, T, fetch_and, RMW_AND)						\
	RMW(BITS, T, fetch_or, RMW_OR)							\
	RMW(BITS, T, fetch_xor, RMW_XOR)						\
	int __tsan_atomic##BITS##_compare_exchange_strong(volatile T *a, T *expected, T v,	\
	    int order, int failed)							\
	{										\
		uint64_t old = *expected;						\
		bool done;								\
											\
		if (order != __ATOMIC_RELAXED || failed != __ATOMIC_RELAXED)		\
			model_fail("a swap with an order of its own");			\
		done = cas((uintptr_t)a, sizeof(T), &old, v, HERE);			\
		*expected = (T)old;							\
		return done;								\
	}

ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

/* What src/base/c11/ck_pr.h calls for two words. */
bool ckpr_model_cas_2(void *a, const void *old, const void *v)
{
	return cas_two((uintptr_t)a, old, v, HERE);
}

void ckpr_model_fence_store(void)
{
	settle_plain();
	fence_store(self());
}

void ckpr_model_stall(void)
{
	yield();
}

/* ---------------------------------------------------------------------- heap */

enum { LINE = 64 };

/* Never used again once freed, so that a use after that is seen. */
static void *allocate(size_t bytes)
{
	struct thread *t = self();
	char *memory = heap_of(m->current) + t->heap_used + LINE;

	settle_plain();
	t->heap_used += LINE + (bytes + LINE - 1) / LINE * LINE;
	if (t->heap_used > HEAP_BYTES)
		model_fail("out of heap: raise HEAP_BYTES");
	memset(memory - LINE, 0xa5, bytes + LINE);
	*(size_t *)(memory - LINE) = bytes;
	m->allocated++;
	return memory;
}

void *__wrap_malloc(size_t bytes)
{
	return allocate(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return model_memset(allocate(n * bytes), 0, n * bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	(void)align;
	return allocate(bytes);
}

int __wrap_posix_memalign(void **out, size_t align, size_t bytes)
{
	if (align > LINE)
		return EINVAL;
	*out = allocate(bytes);
	return 0;
}

void __wrap_free(void *memory)
{
	if (memory == NULL)
		return;
	m->allocated--;
	freed((uintptr_t)memory, *(size_t *)((char *)memory - LINE), HERE);
}

void __wrap_abort(void)
{
	model_fail("abort");
}

/* ------------------------------------------------- the program's own memory */

extern char __data_start[], _end[];

static int find_tls(struct dl_phdr_info *info, size_t size, void *out)
{
	(void)size;
	*(size_t *)out = 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			*(size_t *)out = info->dlpi_phdr[i].p_memsz;
	return 1; /* the first is the program itself */
}

static size_t tls_bytes;

/* The program's thread-local variables: they end where the thread pointer points. */
void *tls_block(size_t *bytes)
{
	*bytes = (tls_bytes + 63) / 64 * 64;
	return (char *)__builtin_thread_pointer() - *bytes;
}

void hooks_init(void)
{
	region = mmap((void *)UINT64_C(0x100000000000), REGION_BYTES, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (region == MAP_FAILED)
		exit(2);
	dl_iterate_phdr(find_tls, &tls_bytes);
	if (tls_bytes > sizeof(m->threads[0].tls))
		exit(2);
	data_begin = (uintptr_t)__data_start & ~(uintptr_t)7;
	data_end = (uintptr_t)_end & ~(uintptr_t)7;
	memory_init(data_end - data_begin);
	data_copy = mmap(NULL, data_end - data_begin, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(data_copy, (void *)data_begin, data_end - data_begin);
}

/* Every static variable as it was at first. */
void hooks_reset(void)
{
	char *copy = data_copy;

	memcpy((void *)data_begin, copy, data_end - data_begin);
	data_copy = copy;
}
