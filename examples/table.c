/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A database: its tables share the workers of one pool, and each has a queue of its own for the old
 * versions of its rows. So who drops a table waits for that table's, whatever others have waiting.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <cq/cq.h>

enum { TABLES = 4, ROWS = 1000, STATEMENTS = 200000 };

struct table {
	cq_cleanup_t *old;
	cq_producer_t *session;		/* one for each thread that writes to the table */
	struct row *rows[ROWS];
	atomic_ulong versions;		/* of rows, in memory */
};

struct row {
	struct table *table;
	unsigned value;
};

static void free_row(void *row)
{
	atomic_fetch_sub(&((struct row *)row)->table->versions, 1);
	free(row);
}

/* Readers may still have the old version: hence not at once, nor here. */
static void retire(struct table *t, struct row *row)
{
	if (row != NULL && cq_producer_put(t->session, row) != 0)
		free_row(row); /* no memory for a block */
}

static int create_table(struct table *t, cq_pool_t *pool)
{
	const cq_cleanup_config_t config = { .pool = pool };
	int err = cq_cleanup_create(&config, &t->old);

	return err != 0 ? err : cq_producer_attach(t->old, free_row, &t->session);
}

static int drop_table(struct table *t)
{
	int err;

	for (int i = 0; i < ROWS; i++) {
		retire(t, t->rows[i]);
		t->rows[i] = NULL;
	}
	cq_producer_detach(t->session);
	if ((err = cq_cleanup_shutdown(t->old, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL)) != 0 ||
	    (err = cq_cleanup_destroy(t->old)) != 0)
		return err;
	return atomic_load(&t->versions) == 0 ? 0 : EBUSY; /* the file may go */
}

static int update(struct table *t, unsigned i, unsigned value)
{
	struct row *row = malloc(sizeof(*row));

	if (row == NULL)
		return ENOMEM;
	*row = (struct row){ t, value };
	atomic_fetch_add(&t->versions, 1);
	retire(t, t->rows[i]);
	t->rows[i] = row;
	return 0;
}

/* The main loop: updates, and now and then DROP TABLE and CREATE TABLE. */
static int run(struct table *tables, cq_pool_t *pool)
{
	int err = 0;

	for (unsigned i = 0; err == 0 && i < STATEMENTS; i++) {
		struct table *t = &tables[i % TABLES];

		if (i % 9999 != 0)
			err = update(t, i % ROWS, i);
		else if ((err = drop_table(t)) == 0)
			err = create_table(t, pool);
	}
	return err;
}

int main(void)
{
	static struct table tables[TABLES];
	cq_pool_stats_t s;
	cq_pool_t *pool;
	int err = cq_pool_create(NULL, &pool);

	for (int i = 0; err == 0 && i < TABLES; i++)
		err = create_table(&tables[i], pool);
	if (err == 0)
		err = run(tables, pool);
	for (int i = 0; err == 0 && i < TABLES; i++)
		err = drop_table(&tables[i]);
	if (err != 0)
		return 1;
	cq_pool_stats(pool, &s);
	printf("table: %d tables on %u workers\n", TABLES, s.workers_peak);
	return cq_pool_destroy(pool, CQ_FOREVER) != 0;
}
