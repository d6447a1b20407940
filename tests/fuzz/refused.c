/* SPDX-License-Identifier: BSD-2-Clause */
/* What the headers say is refused, and configurations, good and bad. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* -------------------------------------------------------------- a configuration */

static size_t allocated;
static unsigned fail_in;	/* the allocation that fails: 1 is the next; 0: none */

static void *alloc(void *host, size_t bytes, size_t align)
{
	void *memory;

	EXPECT(host == &allocated, "alloc gets another host");
	if (fail_in != 0 && --fail_in == 0)
		return NULL;
	if (posix_memalign(&memory, align, bytes) != 0)
		abort();
	allocated += bytes;
	return memory;
}

static void free_it(void *host, void *memory, size_t bytes)
{
	EXPECT(host == &allocated, "free gets another host");
	allocated -= bytes;
	free(memory);
}

static void no_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	(void)host;
	(void)parker;
	(void)deadline;
}

static void no_unpark(void *host, cq_parker_t *parker)
{
	(void)host;
	CALL(cq_parker_grant)(parker);
}

static int no_spawn(void *host, void (*body)(void *arg), void *arg)
{
	(void)host;
	(void)body;
	(void)arg;
	return EAGAIN;
}

static const char *some_name(void)
{
	static const char *const names[] = { NULL, "", "fifteen letters", "sixteen letters!" };

	return names[below(4)];
}

/* Tables of which a function may be missing. */
static cq_park_ops_t some_table(void)
{
	unsigned missing = below(8);

	return (cq_park_ops_t){ missing == 1 ? NULL : clock_now, missing == 2 ? NULL : no_park,
		missing == 3 ? NULL : no_unpark, NULL };
}

static cq_allocator_t some_allocator(void)
{
	unsigned missing = below(8);

	return (cq_allocator_t){ missing == 1 ? NULL : alloc, missing == 2 ? NULL : free_it,
		&allocated };
}

/* By the words of cq/cleanup.h. The pool's configuration is a good one. */
static bool valid(const cq_cleanup_config_t *c)
{
	return (c->flags | CQ_CLEANUP_FORK_DISCARD) == CQ_CLEANUP_FORK_DISCARD && (c->parallel == CQ_BY_OWNER || c->wake_owner == NULL) &&
	    (c->block_bytes == 0 ||
	    (c->block_bytes >= CQ_BLOCK_BYTES_MIN && c->block_bytes <= CQ_BLOCK_BYTES_MAX)) &&
	    (c->flush_ns == 0 || c->flush_ns >= CQ_FLUSH_NS_MIN) && (c->pool == NULL || c->pool_config == NULL) &&
	    (c->allocator == NULL || (c->allocator->alloc != NULL && c->allocator->free != NULL));
}

static void nothing_to_wake(void *unused) { (void)unused; }

static void check_new_queue(cq_cleanup_t *q, const cq_cleanup_config_t *c)
{
	cq_cleanup_stats_t stats;

	CALL(cq_cleanup_stats_sized)(q, &stats, sizeof(stats));
	EXPECT_EQ(stats.queued | stats.executed | stats.blocks_made, 0);
	EXPECT_EQ(stats.producers | stats.blocks_waiting | stats.oldest_ns, 0);
	EXPECT(stats.block_bytes <= (c->block_bytes != 0 ? c->block_bytes : CQ_BLOCK_BYTES),
	    "a block is larger than was asked for");
	EXPECT(c->pool == NULL || CALL(cq_cleanup_pool)(q) == c->pool, "another pool");
}

static void config(void)
{
	const cq_pool_config_t hosted = { .flags = CQ_POOL_HOSTED };
	cq_allocator_t allocator = some_allocator();
	cq_cleanup_config_t c = {
		.flags = (uint32_t)PICK(0, CQ_CLEANUP_FORK_DISCARD, 2, 1u << 31),
		.parallel = (uint32_t)PICK(0, 1, CQ_BY_OWNER - 1, CQ_BY_OWNER),
		.block_bytes = (size_t)PICK(0, 1, CQ_BLOCK_BYTES_MIN - 1, CQ_BLOCK_BYTES_MIN,
		    CQ_BLOCK_BYTES_MIN + 1, CQ_BLOCK_BYTES_MAX, CQ_BLOCK_BYTES_MAX + 1, SIZE_MAX),
		.pool_config = below(2) ? &hosted : NULL,
		.allocator = below(2) ? &allocator : NULL,
		.wake_owner = below(4) == 1 ? nothing_to_wake : NULL,
	};
	cq_cleanup_t *q, **out = below(8) == 1 ? NULL : &q;
	bool good, fails;
	int err;

	if (below(2))
		EXPECT_EQ(CALL(cq_pool_create_sized)(&hosted, sizeof(hosted), &c.pool), 0);
	allocated = 0;
	fail_in = below(3);
	c.flush_ns = PICK(0, 1, CQ_FLUSH_NS_MIN - 1, CQ_FLUSH_NS_MIN, CQ_FOREVER - 1, CQ_FOREVER);
	c.wake_bytes = (size_t)PICK(0, 1, SIZE_MAX);
	good = out != NULL && valid(&c);
	fails = fail_in == 1 && c.allocator != NULL;
	err = CALL(cq_cleanup_create_sized)(&c, sizeof(c), out);
	note("create(flags %#x, parallel %u, block of %zu, ...) = %d", c.flags, c.parallel, c.block_bytes, err);
	EXPECT_EQ(err, !good ? EINVAL : fails ? ENOMEM : 0);
	if (err == 0) {
		check_new_queue(q, &c);
		EXPECT_EQ(CALL(cq_cleanup_destroy)(q), 0);
	}
	EXPECT_EQ(allocated, 0);
	EXPECT_EQ(CALL(cq_pool_destroy)(c.pool, CQ_FOREVER), 0);
}

/* By the words of cq/pool.h. */
static bool valid_pool(const cq_pool_config_t *c)
{
	uint32_t max = c->workers_max != 0 || c->workers_min > CQ_WORKERS_MAX ? c->workers_max :
	    CQ_WORKERS_MAX;

	return (c->flags | 7) == 7 && c->workers_min <= max && max <= CQ_WORKERS_MAX &&
	    c->spin_ns >= CQ_POOL_NO_SPIN && c->spin_ns <= CQ_POOL_SPIN_NS_MAX &&
	    c->stack_bytes <= (size_t)1 << 30 && (c->name == NULL || strlen(c->name) <= 15) &&
	    (c->park == NULL ||
	    (c->park->now != NULL && c->park->park != NULL && c->park->unpark != NULL)) &&
	    (c->allocator == NULL || (c->allocator->alloc != NULL && c->allocator->free != NULL)) &&
	    ((c->flags & CQ_POOL_HOSTED) == 0 || (c->spawn == NULL && c->workers_min == 0));
}

static void check_new_pool(cq_pool_t *p, const cq_pool_config_t *c)
{
	cq_pool_stats_t stats;

	CALL(cq_pool_stats_sized)(p, &stats, sizeof(stats));
	EXPECT_EQ(stats.runs | stats.wakes | stats.workers_created | stats.workers_failed, 0);
	EXPECT_EQ(stats.tasks | stats.tasks_waiting | stats.workers_live | stats.workers_peak, 0);
	if (c->workers_max != 0)
		EXPECT_EQ(stats.workers_max, c->workers_max);
	else
		EXPECT(stats.workers_max >= 1, "no worker may be made");
}

static void pool_config(void)
{
	cq_park_ops_t park = some_table();
	cq_allocator_t allocator = some_allocator();
	cq_pool_config_t c = {
		.flags = (uint32_t)PICK(0, CQ_POOL_POLLED, CQ_POOL_HOSTED, CQ_POOL_NO_ATFORK, 7, 8, 1u << 31),
		.workers_min = (uint32_t)PICK(0, 0, 0, 1, CQ_WORKERS_MAX + 1, UINT32_MAX),
		.workers_max = (uint32_t)PICK(0, 1, CQ_WORKERS_MAX, CQ_WORKERS_MAX + 1, UINT32_MAX),
		.spin_ns = (int32_t)PICK(0, 1, CQ_POOL_SPIN_NS_MAX, CQ_POOL_SPIN_NS_MAX + 1, UINT32_MAX,
		    UINT32_MAX - 1),
		.idle_ns = PICK(0, 1, CQ_FOREVER - 1, CQ_FOREVER),
		.stack_bytes = (size_t)PICK(0, (size_t)1 << 30, SIZE_MAX),
		.name = some_name(),
		.park = below(2) ? &park : NULL,
		.allocator = below(2) ? &allocator : NULL,
	};
	cq_pool_t *p, **out = below(8) == 1 ? NULL : &p;
	bool good, fails;
	int err;

	c.spawn = below(2) || c.workers_min != 0 ? no_spawn : NULL;
	allocated = 0;
	fail_in = below(3);
	good = out != NULL && valid_pool(&c);
	fails = fail_in != 0 && fail_in <= 1 + (c.workers_min != 0) && c.allocator != NULL;
	err = CALL(cq_pool_create_sized)(&c, sizeof(c), out);
	note("pool_create(flags %#x, %u to %u workers, ...) = %d", c.flags, c.workers_min, c.workers_max,
	    err);
	EXPECT_EQ(err, !good ? EINVAL : fails ? ENOMEM : c.workers_min != 0 ? EAGAIN : 0);
	if (err == 0) {
		check_new_pool(p, &c);
		EXPECT_EQ(CALL(cq_pool_destroy)(p, CQ_FOREVER), 0);
	}
	EXPECT_EQ(allocated, 0);
}

/* --------------------------------------------------------------------- misuse */

static void refused_workq(void)
{
	static struct {
		cq_workq_t aligned[2];
	} memory;
	unsigned offset = 8 * below(2) + below(8);
	cq_workq_t *q = (cq_workq_t *)(void *)((char *)&memory + offset);
	bool aligned = offset % (2 * sizeof(void *)) == 0;

	note("init at an offset of %u", offset);
	EXPECT_EQ(CALL(cq_workq_init)(q), aligned ? 0 : EINVAL);
	EXPECT_EQ(CALL(cq_workq_init)(NULL), EINVAL);
	EXPECT_EQ(CALL(cq_workq_destroy)(NULL), EINVAL);
}

static void refused_sleepers(void)
{
	cq_park_ops_t table = some_table();
	cq_sleepers_t set;
	bool complete = table.now != NULL && table.park != NULL && table.unpark != NULL;
	uint32_t spin_ns = (uint32_t)PICK(0, 1, UINT32_MAX);

	EXPECT_EQ(CALL(cq_sleepers_init)(NULL, &table, spin_ns), EINVAL);
	EXPECT_EQ(CALL(cq_sleepers_init)(&set, &table, spin_ns), complete ? 0 : EINVAL);
	if (complete)
		EXPECT_EQ(CALL(cq_sleepers_destroy)(&set), 0);
	EXPECT_EQ(CALL(cq_sleepers_destroy)(NULL), EINVAL);
}

static void refused_cleanup(void)
{
	cq_cleanup_t *q;
	cq_producer_t *p;
	cq_callback_t *slots;
	size_t n;

	EXPECT_EQ(CALL(cq_cleanup_destroy)(NULL), 0);
	CALL(cq_producer_detach)(NULL);
	EXPECT_EQ(CALL(cq_cleanup_create_sized)(NULL, 0, NULL), EINVAL);
	EXPECT_EQ(CALL(cq_cleanup_create_sized)(NULL, 0, &q), 0);
	EXPECT_EQ(CALL(cq_cleanup_enqueue)(q, NULL, NULL), EINVAL);
	EXPECT_EQ(CALL(cq_producer_attach)(NULL, NULL, &p), EINVAL);
	EXPECT_EQ(CALL(cq_producer_attach)(q, NULL, NULL), EINVAL);
	EXPECT_EQ(CALL(cq_producer_attach)(q, NULL, &p), 0);
	EXPECT_EQ(CALL(cq_producer_span)(p, NULL, &n), EINVAL);
	EXPECT_EQ(CALL(cq_producer_span)(p, &slots, NULL), EINVAL);
	EXPECT_EQ(CALL(cq_producer_commit)(p, 0, NULL), EINVAL);
	CALL(cq_producer_detach)(p);
	EXPECT_EQ(CALL(cq_cleanup_shutdown)(q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, NULL, NULL),
	    EINVAL);
	EXPECT_EQ(CALL(cq_cleanup_destroy)(q), 0);
}

static void never_run(cq_run_t *run, void *arg)
{
	(void)run;
	(void)arg;
	abort();
}

static void refused_pool(void)
{
	static const cq_task_ops_t nothing = { NULL, NULL, NULL }, ops = { never_run, NULL, NULL };
	const cq_pool_config_t hosted = { .flags = CQ_POOL_HOSTED };
	cq_pool_t *p;
	cq_task_t *t;

	EXPECT_EQ(CALL(cq_pool_destroy)(NULL, 0), 0);
	EXPECT_EQ(CALL(cq_pool_create_sized)(NULL, 0, NULL), EINVAL);
	EXPECT_EQ(CALL(cq_pool_create_sized)(&hosted, 0, &p), EINVAL);
	EXPECT_EQ(CALL(cq_pool_create_sized)(&hosted, sizeof(hosted), &p), 0);
	EXPECT_EQ(CALL(cq_task_create)(NULL, &ops, NULL, 0, &t), EINVAL);
	EXPECT_EQ(CALL(cq_task_create)(p, NULL, NULL, 0, &t), EINVAL);
	EXPECT_EQ(CALL(cq_task_create)(p, &nothing, NULL, 0, &t), EINVAL);
	EXPECT_EQ(CALL(cq_task_create)(p, &ops, NULL, 0, NULL), EINVAL);
	EXPECT_EQ(CALL(cq_pool_set_workers)(p, 1, 1), EINVAL);
	EXPECT_EQ(CALL(cq_pool_set_workers)(p, 0, CQ_WORKERS_MAX + 1), EINVAL);
	EXPECT_EQ(CALL(cq_pool_destroy)(p, CQ_FOREVER), 0);
}

/* ---------------------------------------------------------------- what is left */

/* The clock and the table of this build, of which nobody calls park here. */
static void the_clock(void)
{
	uint64_t ns = PICK(0, 1, 1000000000, CQ_FOREVER / 2, CQ_FOREVER - 1, CQ_FOREVER);
	uint64_t before = CALL(cq_now)(), deadline = CALL(cq_deadline_in)(ns);
	uint64_t after = CALL(cq_park_default)()->now(CALL(cq_park_default)()->host);

	EXPECT(before <= after, "the clock goes back");
	EXPECT(deadline >= ns, "the deadline has wrapped");
	if (ns <= CQ_FOREVER - after)
		EXPECT(deadline - ns >= before && deadline - ns <= after, "another time");
	else if (ns > CQ_FOREVER - before)
		EXPECT_EQ(deadline, CQ_FOREVER);
	EXPECT(strcmp(CALL(cq_version)(), CQ_VERSION_STRING) == 0, "another version");
	EXPECT(strcmp(CALL(cq_build_info)()->park, "futex") == 0 ||
	    strcmp(CALL(cq_build_info)()->park, "condvar") == 0, "an unknown table");
}

void fuzz_refused(void)
{
	static void (*const calls[])(void) = {
		config, refused_workq, refused_sleepers, refused_cleanup, the_clock, config,
		pool_config, refused_pool, pool_config,
	};

	while (!input_ended())
		calls[below(sizeof(calls) / sizeof(*calls))]();
}
