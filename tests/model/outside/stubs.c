/* SPDX-License-Identifier: BSD-2-Clause */
/* In place of what asks the kernel or the C library: src/base/park_*.c, process_*.c, tls_*.c, thread_name.c. */
#include "base/park.h"
#include "base/process.h"
#include "outside.h"

const cq_park_ops_t *cq_park_default(void) { return &spin; }
int cq_park_register(void) { return 0; }
uint32_t cq_cpu(void) { return 0; }
uint32_t cq_processors(void) { return 1; }
void cq_creator_note(struct cq_creator *creator) { (void)creator; }
void cq_creator_follow(const struct cq_creator *creator) { (void)creator; }
void cq_thread_name(const char *name) { (void)name; }
size_t cq_tls_in_stack(void) { return 0; }
