/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CQ_TLS_H
#define CQ_TLS_H

#include <stddef.h>

/*
 * Where the program's static thread-local storage lies: in the stack that a thread is made
 * with (glibc), or apart from it (tls_in_stack.c, tls_apart.c). How many bytes of a stack
 * are gone before the thread runs. Takes the dynamic linker's lock.
 */
size_t cq_tls_in_stack(void);

#endif /* CQ_TLS_H */
