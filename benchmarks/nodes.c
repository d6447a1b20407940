/* SPDX-License-Identifier: BSD-2-Clause */
#include "nodes.h"

#include <stdlib.h>

#include "contestant.h"

struct chunk {
	struct chunk *next;
	max_align_t nodes[];
};

void nodes_init(struct nodes *pool, size_t bytes)
{
	size_t align = sizeof(max_align_t);

	pool->bytes = (bytes + align - 1) / align * align;
	pthread_mutex_init(&pool->lock, NULL);
	pool->batches = NULL;
	pool->chunks = NULL;
}

void nodes_destroy(struct nodes *pool)
{
	struct chunk *next;

	for (struct chunk *c = pool->chunks; c != NULL; c = next) {
		next = c->next;
		free(c);
	}
	pthread_mutex_destroy(&pool->lock);
}

static struct chunk *new_chunk(const struct nodes *pool, struct node_cache *cache)
{
	struct chunk *c = bench_alloc(sizeof(*c) + BATCH_NODES * pool->bytes);

	for (unsigned i = BATCH_NODES; i-- != 0;) {
		struct free_node *node = (void *)((char *)c->nodes + i * pool->bytes);

		node->next = cache->first;
		cache->first = node;
	}
	return c;
}

void nodes_fill(struct nodes *pool, struct node_cache *cache)
{
	struct chunk *c;

	pthread_mutex_lock(&pool->lock);
	cache->first = pool->batches;
	if (cache->first != NULL)
		pool->batches = cache->first->next_batch;
	pthread_mutex_unlock(&pool->lock);
	if (cache->first != NULL)
		return;
	c = new_chunk(pool, cache);
	pthread_mutex_lock(&pool->lock);
	c->next = pool->chunks;
	pool->chunks = c;
	pthread_mutex_unlock(&pool->lock);
}

void nodes_give_back(struct nodes *pool, struct node_cache *cache)
{
	pthread_mutex_lock(&pool->lock);
	cache->first->next_batch = pool->batches;
	pool->batches = cache->first;
	pthread_mutex_unlock(&pool->lock);
	cache->first = NULL;
	cache->n = 0;
}
