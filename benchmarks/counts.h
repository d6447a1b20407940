/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How `finish` of a rival that has no such call knows that all has run: producers
 * count what they sent, each in its own memory; workers add what they ran to one
 * counter when they find the queue empty, so that it costs nothing while there is
 * work. Where the loop is not ours nothing tells when that is: there each worker counts each
 * callback, in its own memory as well (counts_ran_one), and `finish` looks every now and then.
 */
#ifndef BENCH_COUNTS_H
#define BENCH_COUNTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In each producer; the first member, for those who walk the list. */
struct sent {
	uint64_t n;
	struct sent *next;
};

/* Of each worker that says counts_ran_one. */
struct ran {
	uint64_t n __attribute__((aligned(64)));
	struct ran *next;
};

struct counts {
	pthread_mutex_t lock;
	pthread_cond_t all_ran;
	struct sent *producers;
	struct ran *workers;
	uint64_t ended;	 /* what producers had sent that are no more */
	uint64_t waited; /* how much of what was sent has been waited for */
	bool told;
	/* What has run, less what is waited for: zero only when somebody waits no more. */
	uint64_t balance __attribute__((aligned(64)));
};

/* Memory for what has a struct counts in it. Doesn't fail; free() frees it. */
void *counts_alloc(size_t bytes);

void counts_init(struct counts *c);
void counts_destroy(struct counts *c);
void counts_begin(struct counts *c, struct sent *s);
void counts_end(struct counts *c, struct sent *s);

/* Sleeps until all that was sent has run, and is seen. No producer is running. */
void counts_wait(struct counts *c);

/* The same where workers say counts_ran_one. */
void counts_wait_ones(struct counts *c);

/* By a worker of a queue that has only ever had this one. */
void counts_ran_one(struct counts *c);

/* For counts_ran, which is called by workers after their callbacks. */
void counts_tell(struct counts *c);

/* Once it has added, only who is waited for may still look at the counts. */
static inline void counts_ran(struct counts *c, uint64_t n)
{
	if (n != 0 && __atomic_add_fetch(&c->balance, n, __ATOMIC_SEQ_CST) == 0)
		counts_tell(c);
}

/* The same, for languages that have no inline functions of C. */
void counts_ran_some(struct counts *c, uint64_t n);

#ifdef __cplusplus
}
#endif

#endif /* BENCH_COUNTS_H */
