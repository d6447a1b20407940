/* SPDX-License-Identifier: BSD-2-Clause */
#include "jobs.h"

#include <errno.h>
#include <stddef.h>

#include "cleanup/producer.h"

struct job jobs[JOBS];
int others_from = JOBS;
int first_waits_for = 2;
cq_cleanup_t *q;
cq_producer_t *producers[2];

static unsigned made_how;
static uint32_t made;
static uint32_t refused;
static struct { void (*body)(void *); void *arg; } held[4];
static uint32_t nheld;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ran = PTHREAD_COND_INITIALIZER;
static uint32_t nran;

/* ---------------------------------------------------------------- its threads */

static int beside[4], nbeside;

void run_beside(void (*body)(void *), void *arg)
{
	beside[nbeside++] = spawn(body, arg);
}

void join_beside(void)
{
	while (nbeside > 0)
		join(beside[--nbeside]);
}

/* ------------------------------------------------------------------ workers */

static int make_worker(void *host, void (*body)(void *), void *arg)
{
	(void)host;
	if ((made_how & (MAY_FAIL & ~HOSTED)) != 0 && choose(2) == 1)
		return EAGAIN;
	if ((made_how & (FIRST_FAILS & ~HOSTED)) != 0 && cq_u32_load_relaxed(&refused) == 0) {
		cq_u32_add_relaxed(&refused, 1);
		return EAGAIN;
	}
	cq_u32_add_relaxed(&made, 1);
	if ((made_how & (HELD & ~HOSTED)) != 0) {
		pthread_mutex_lock(&lock);
		held[nheld].body = body;
		held[nheld++].arg = arg;
		pthread_mutex_unlock(&lock);
	} else {
		spawn(body, arg);
	}
	return 0;
}

uint32_t workers_made(void)
{
	return cq_u32_load_relaxed(&made);
}

void start_held(void)
{
	for (uint32_t i = 0; i < nheld; i++)
		spawn(held[i].body, held[i].arg);
	nheld = 0;
}

/* --------------------------------------------------------------------- jobs */

static void run(struct job *j)
{
	CHECK(j->payload == (int)(j - jobs) + 1);
	CHECK(j->ran == 0);
	j->ran = 1;
	if ((made_how & FIRST_WAITS) != 0 && j == &jobs[0])
		wait_for_jobs(first_waits_for);
	if ((made_how & AWAITED) != 0) {
		pthread_mutex_lock(&lock);
		cq_u32_add_relaxed(&nran, 1);
		pthread_cond_broadcast(&ran);
		pthread_mutex_unlock(&lock);
	}
}

static void run_job(void *arg)
{
	CHECK((struct job *)arg < &jobs[others_from]);
	run(arg);
}

static void run_other_job(void *arg)
{
	CHECK((struct job *)arg >= &jobs[others_from]);
	run(arg);
}

static cq_callback_fn *function_of(int i)
{
	return i < others_from ? run_job : run_other_job;
}

static void give_back(void *ctx, cq_callback_fn *fn, void *arg)
{
	struct job *j = arg;

	(void)ctx;
	CHECK(fn == function_of((int)(j - jobs)));
	CHECK(j->payload == (int)(j - jobs) + 1);
	CHECK(j->given_back == 0);
	j->given_back = 1;
}

int enqueue(cq_producer_t *p, int i)
{
	int err;

	jobs[i].payload = i + 1;
	err = cq_producer_enqueue(p, function_of(i), &jobs[i]);
	CHECK(err == 0 || err == ESHUTDOWN);
	jobs[i].accepted = err == 0;
	return err;
}

void enqueue_some(cq_producer_t *p, int first, int n)
{
	for (int i = 0; i < n; i++)
		CHECK(enqueue(p, first + i) == 0);
}

void span_some(cq_producer_t *p, int first, int n)
{
	cq_callback_t *slots;
	size_t room, accepted;
	int err = cq_producer_span(p, &slots, &room);

	if (err == ESHUTDOWN)
		return;
	CHECK(err == 0 && room >= (size_t)n);
	for (int i = first; i < first + n; i++, slots++) {
		jobs[i].payload = i + 1;
		/* Atomic: a gatherer may read the slot's last use, and throw it away. */
		cq_ptr_store_relaxed(&slots->fn, function_of(i));
		cq_ptr_store_relaxed(&slots->arg, &jobs[i]);
	}
	err = cq_producer_commit(p, (size_t)n, &accepted);
	CHECK(err == (accepted == (size_t)n ? 0 : ESHUTDOWN));
	for (int i = 0; i < n; i++)
		jobs[first + i].accepted = (size_t)i < accepted;
}

void publish(cq_producer_t *p, int first)
{
	enqueue_some(p, first, ONE_BLOCK);
}

void flusher(void *unused)
{
	(void)unused;
	CHECK(cq_cleanup_flush_all(q) == 0);
}

uint32_t jobs_run(void)
{
	return cq_u32_load_relaxed(&nran);
}

void wait_for_jobs(int n)
{
	pthread_mutex_lock(&lock);
	while (jobs_run() < (uint32_t)n)
		pthread_cond_wait(&ran, &lock);
	pthread_mutex_unlock(&lock);
}

/* ------------------------------------------------------- the queue's beginning, end */

void begin(unsigned how, uint32_t max_workers, int n)
{
	cq_cleanup_config_t config = {
		.flags = how & (CQ_POLLED | CQ_HANDOVER),
		.max_workers = max_workers,
		.block_bytes = (how & TWO_LINES) != 0 ?
		    CQ_BLOCK_BYTES_MIN + 2 * sizeof(cq_callback_t) : CQ_BLOCK_BYTES_MIN,
		.idle_ns = (how & RETIRING) != 0 ? 1 : CQ_FOREVER,
		.spin_ns = (how & POLLING) != 0 ? 1 : CQ_NO_SPIN,
		.spawn = (how & HOSTED) != 0 ? make_worker : NULL
	};

	made_how = how;
	CHECK(cq_cleanup_create(&config, &q) == 0);
	if ((how & SHARING) != 0) /* so small a block doesn't otherwise */
		q->args = 2 * q->slots - 1;
	for (int i = 0; i < n; i++)
		CHECK(cq_producer_attach(q, &producers[i]) == 0);
}

int shut_down(cq_shutdown_how_t how)
{
	return cq_cleanup_shutdown(q, how, CQ_FOREVER, give_back, NULL);
}

void end_of_shut_down(void)
{
	join_beside();
	for (int i = 0; i < 2; i++)
		cq_producer_detach(producers[i]);
	for (int i = 0; i < JOBS; i++)
		CHECK(jobs[i].ran + jobs[i].given_back == jobs[i].accepted);
	CHECK(cq_cleanup_destroy(q) == 0);
	join_all();
}

void end(cq_shutdown_how_t how)
{
	CHECK(shut_down(how) == 0);
	end_of_shut_down();
}

void end_calmly(void)
{
	calm_down();
	end(CQ_SHUTDOWN_DRAIN);
}

void end_polled(void)
{
	join_beside();
	calm_down();
	flusher(NULL);
	cq_cleanup_run_some(q, SIZE_MAX);
	end_calmly();
}
