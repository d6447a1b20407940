/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory for the rivals that queue pointers to memory of the caller's. In a program
 * it is part of the object that is dropped; here it has to come from somewhere, and
 * malloc in one thread and free in another would cost more than some of the queues.
 * So threads pass nodes back and forth by 128, which is cheaper than any of them.
 */
#ifndef BENCH_NODES_H
#define BENCH_NODES_H

#include <pthread.h>
#include <stddef.h>

enum { BATCH_NODES = 128 };

/* What is in a node's memory while it is free. */
struct free_node {
	struct free_node *next;
	struct free_node *next_batch; /* in the first of a batch */
};

struct nodes {
	size_t bytes; /* of a node, at least sizeof(struct free_node) */
	pthread_mutex_t lock;
	struct free_node *batches;
	struct chunk *chunks; /* all there ever were */
};

/* A thread's own. */
struct node_cache {
	struct free_node *first;
	unsigned n;
};

void nodes_init(struct nodes *pool, size_t bytes);
void nodes_destroy(struct nodes *pool); /* frees all of them, whoever has them */

/* For node_get and node_put. */
void nodes_fill(struct nodes *pool, struct node_cache *cache);
void nodes_give_back(struct nodes *pool, struct node_cache *cache);

static inline void *node_get(struct nodes *pool, struct node_cache *cache)
{
	struct free_node *node;

	if (cache->first == NULL)
		nodes_fill(pool, cache);
	node = cache->first;
	cache->first = node->next;
	return node;
}

static inline void node_put(struct nodes *pool, struct node_cache *cache, void *memory)
{
	struct free_node *node = (struct free_node *)memory;

	node->next = cache->first;
	cache->first = node;
	if (++cache->n == BATCH_NODES)
		nodes_give_back(pool, cache);
}

#endif /* BENCH_NODES_H */
