/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * W8: a database of 16 tables, a queue each on one pool. Sessions replace rows, and the old versions are freed by
 * callbacks that take far longer than that. Whoever is refused, where there is a bound, waits.
 */
#include <cq/cq.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "measure.h"
#include "workload.h"

enum { TABLES = 16, SESSIONS = 2, ROW_BYTES = 128, RECLAIM_NS = 500, MAX_WAITING = 1000 };

static struct {
	cq_cleanup_t *old[TABLES];
	unsigned long rows;	/* for each session */
	unsigned work;		/* rounds of own_work() */
} db;

static uint64_t freed;

/* Its index entries are looked for, too. */
static void free_row(void *row)
{
	uint64_t x = own_work(db.work, (uintptr_t)row);

	__atomic_fetch_add(&freed, 1, __ATOMIC_RELAXED);
	memcpy(row, &x, sizeof(x));
	free(row);
}

static void replace(cq_cleanup_t *q, cq_producer_t *p, uint64_t value)
{
	void *row = bench_alloc(ROW_BYTES);
	int err;

	memset(row, (int)value, ROW_BYTES);
	while ((err = cq_producer_put(p, row)) == ENOBUFS && (err = cq_cleanup_wait_for_room(q, CQ_FOREVER)) == 0)
		;
	if (err != 0)
		bench_die("cq_producer_put", err);
}

static void *session(void *unused)
{
	cq_producer_t *p[TABLES];
	int err;

	for (int i = 0; i < TABLES; i++)
		if ((err = cq_producer_attach(db.old[i], free_row, &p[i])) != 0)
			bench_die("cq_producer_attach", err);
	for (unsigned long i = 0; i < db.rows; i++)
		replace(db.old[i % TABLES], p[i % TABLES], i);
	for (int i = 0; i < TABLES; i++)
		cq_producer_detach(p[i]);
	return unused;
}

static double peak_bytes(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)u.ru_maxrss * 1024;
}

static void end_tables(void)
{
	int err = 0;

	for (int i = 0; i < TABLES && err == 0; i++)
		if ((err = cq_cleanup_shutdown(db.old[i], CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL)) == 0)
			err = cq_cleanup_destroy(db.old[i]);
	if (err != 0)
		bench_die("cq_cleanup_shutdown", err);
}

void run_tables(const struct workload *w, const struct contestant *c, struct result *r)
{
	cq_pool_config_t pool_config = { .workers_max = settings.processors };
	cq_cleanup_config_t config = { .max_waiting = w->kind == BOUNDED ? MAX_WAITING : 0 };
	pthread_t sessions[SESSIONS];
	struct rusage before, after;
	double peak = peak_bytes();
	uint64_t began;
	int err = cq_pool_create(&pool_config, &config.pool);

	(void)c;
	db.rows = settings.callbacks / (8 * SESSIONS);
	db.work = settings.own_work * RECLAIM_NS / OWN_WORK_NS;
	for (int i = 0; i < TABLES && err == 0; i++)
		err = cq_cleanup_create(&config, &db.old[i]);
	getrusage(RUSAGE_SELF, &before);
	began = now();
	for (int i = 0; i < SESSIONS && err == 0; i++)
		err = pthread_create(&sessions[i], NULL, session, NULL);
	if (err != 0)
		bench_die("the tables", err);
	for (int i = 0; i < SESSIONS; i++)
		pthread_join(sessions[i], NULL);
	end_tables();
	r->metrics[0] = (double)(now() - began) / (double)(db.rows * SESSIONS);
	getrusage(RUSAGE_SELF, &after);
	r->metrics[1] = (peak_bytes() - peak) / 1024;
	r->metrics[2] = (double)(after.ru_nvcsw - before.ru_nvcsw) * 1000 / (double)(db.rows * SESSIONS);
	cq_pool_destroy(config.pool, CQ_FOREVER);
	if (freed != db.rows * SESSIONS)
		bench_die("rows are left", EPROTO);
}
