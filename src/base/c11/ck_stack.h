/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What libcq uses of Concurrency Kit's ck_stack.h, for a build without ck: the types, and
 * the push of Treiber's stack. The pops are libcq's own (src/workq).
 */
#ifndef CK_STACK_H
#define CK_STACK_H

#include <ck_pr.h>
#include <stddef.h>

typedef struct ck_stack_entry {
	struct ck_stack_entry *next;
} __attribute__((may_alias)) ck_stack_entry_t;

typedef struct ck_stack {
	struct ck_stack_entry *head;
	char *generation;
} __attribute__((may_alias, aligned(2 * sizeof(void *)))) ck_stack_t;

static inline void ck_stack_push_mpmc(ck_stack_t *s, ck_stack_entry_t *entry)
{
	ck_stack_entry_t *head = ck_pr_load_ptr(&s->head);

	do {
		ck_pr_store_ptr(&entry->next, head);
		ck_pr_fence_release(); /* as ck's, which has a store fence here */
	} while (!ck_pr_cas_ptr_value(&s->head, head, entry, &head));
}

#endif /* CK_STACK_H */
