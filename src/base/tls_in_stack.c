/* SPDX-License-Identifier: BSD-2-Clause */
/* glibc: sysconf(_SC_THREAD_STACK_MIN) knows nothing of the storage. */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include "process.h"

typedef size_t minstack_fn(const pthread_attr_t *attr);

/* A program or library that is here by now. What is loaded later has no static storage, or
   takes it from a surplus of a few KiB. */
static int add_tls(struct dl_phdr_info *object, size_t bytes, void *sum)
{
	(void)bytes;
	for (int i = 0; i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_TLS)
			*(size_t *)sum += object->dlpi_phdr[i].p_memsz + object->dlpi_phdr[i].p_align;
	return 0;
}

size_t cq_tls_in_stack(void)
{
	/* glibc says it in a function that is not for everybody. A weak reference would make packages depend
	   on glibc's very version; and in a static program there is none. */
	minstack_fn *minstack = (minstack_fn *)(uintptr_t)dlsym(RTLD_DEFAULT, "__pthread_get_minstack");
	pthread_attr_t attr;
	size_t sum = 0;

	if (minstack != NULL && pthread_attr_init(&attr) == 0) {
		sum = minstack(&attr);
		pthread_attr_destroy(&attr);
	} else {
		dl_iterate_phdr(add_tls, &sum);
	}
	return sum;
}
