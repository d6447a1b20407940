/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 4, the cleanup queue: producers, collectors, runs, statistics and
 * trim. Nobody serves, and threads call run_some, unless workers are what it is about: those
 * of the pool are in check_pool.c. Drain and shutdown are in check_shutdown.c.
 */
#include <cq/cleanup_stats.h>
#include <errno.h>
#include <sched.h>
#include <stddef.h>

#include "cleanup/cleanup_priv.h"
#include "jobs.h"

/* --------------------------------------------------- producers and the collector */

static void flush_against(unsigned how, void (*body)(void *))
{
	begin(CALLED | how, 0, 1);
	run_beside(body, producers[0]);
	run_beside(flusher, NULL);
	join_beside();
	end_calmly();
}

static void enqueuer_of_3(void *arg)
{
	enqueue_some(arg, 0, 3);
}

static void flush_against_enqueue(void)
{
	flush_against(0, enqueuer_of_3);
}

/* Four arguments fill a block. */
static void enqueuer_of_5(void *arg)
{
	enqueue_some(arg, 0, 5);
}

static void flush_against_put(void)
{
	flush_against(PUTS, enqueuer_of_5);
}

/* Three by a span of two, and one of one. */
static void spanner_of_3(void *arg)
{
	span_some(arg, 0, 2);
	span_some(arg, 2, 1);
}

static void flush_against_spans(void)
{
	flush_against(0, spanner_of_3);
}

/* Of a producer that had nothing, and is let go. Three more: the block is full by then. */
static void lets_go(void *unused)
{
	cq_block_t *empty;

	(void)unused;
	pthread_mutex_lock(&q->lock);
	CHECK(cq_collect(q, true, &empty) == 0);
	pthread_mutex_unlock(&q->lock);
	if (empty != NULL)
		(void)cq_block_give_up(q, empty);
}

static void enqueuer_of_2_more(void *arg)
{
	enqueue_some(arg, 1, 2);
}

static void begin_with_a_quiet_producer(void)
{
	begin(CALLED | TWO_LINES, 0, 1);
	enqueue_some(producers[0], 0, 1);
	lets_go(NULL);
}

static void writer_let_go_against_enqueue(void)
{
	begin_with_a_quiet_producer();
	run_beside(enqueuer_of_2_more, producers[0]);
	lets_go(NULL);
	join_beside();
	end_calmly();
}

static void enqueuer_of_the_third(void *arg)
{
	enqueue_some(arg, 2, 1);
}

/* Its last one is full: it sets its limit, and then writes up to that. */
static void writer_let_go_against_the_opening_of_a_block(void)
{
	begin(CALLED, 0, 1);
	enqueue_some(producers[0], 0, 1);
	lets_go(NULL);
	enqueue_some(producers[0], 1, 1);
	run_beside(enqueuer_of_the_third, producers[0]);
	lets_go(NULL);
	join_beside();
	end_calmly();
}

/* It opens its first block. */
static void newcomer_against_two_who_let_go(void)
{
	begin(CALLED | TWO_LINES, 0, 1);
	run_beside(enqueuer_of_3, producers[0]);
	lets_go(NULL);
	lets_go(NULL);
	join_beside();
	end_calmly();
}

/* The block is emptied by a claim, kept, and opened once more. */
static void enqueuer_who_flushes(void *arg)
{
	enqueue_some(arg, 0, 1);
	CHECK(cq_producer_flush(arg) == 0);
	enqueue_some(arg, 1, 1);
}

static void flush_against_the_flush_of_a_producer(void)
{
	flush_against(0, enqueuer_who_flushes);
}

/* Owner and collector claim side by side, into one block. */
static void flush_against_a_flush_of_few(void)
{
	flush_against(ONE_IS_FEW, enqueuer_who_flushes);
}

static void enqueuer_who_flushes_both(void *arg)
{
	enqueuer_who_flushes(arg);
	CHECK(cq_producer_flush(arg) == 0);
}

/* The second joins the first, or a run has taken that. */
static void flushes_of_few_against_a_run(void)
{
	begin(CALLED | ONE_IS_FEW, 0, 1);
	run_beside(runner, NULL);
	enqueuer_who_flushes_both(producers[0]);
	join_beside();
	end_calmly();
}

/* The block is published, run, and opened once more, while the collector may still be copying. */
static void enqueuer_who_runs(void *arg)
{
	enqueue_some(arg, 0, 2);
	runner(NULL);
	enqueue_some(arg, 2, 2);
}

static void flush_against_reuse_of_the_block(void)
{
	flush_against(0, enqueuer_who_runs);
}

/* The same, and its slots are a span. */
static void spanner_who_runs(void *arg)
{
	enqueue_some(arg, 0, 1);
	CHECK(cq_producer_flush(arg) == 0);
	runner(NULL);
	span_some(arg, 1, 1);
}

static void flush_against_a_span_of_a_reused_block(void)
{
	flush_against(0, spanner_who_runs);
}

/* The same, from a block of arguments to one of pairs of another producer. */
static void puts_and_enqueues(void *unused)
{
	(void)unused;
	enqueue_some(producers[0], 0, 1);
	CHECK(cq_producer_flush(producers[0]) == 0);
	runner(NULL);
	enqueue_some(producers[1], 1, 1);
}

static void flush_against_reuse_by_another_kind(void)
{
	others_from = 1;
	begin(CALLED | PUTS, 0, 2);
	run_beside(puts_and_enqueues, NULL);
	run_beside(flusher, NULL);
	join_beside();
	end_calmly();
}

static void collected_jobs_are_run_by_another(void)
{
	begin(CALLED, 0, 1);
	run_beside(enqueuer_of_3, producers[0]);
	run_beside(flusher, NULL);
	run_beside(runner, NULL);
	join_beside();
	end_calmly();
}

/* -------------------------------------------------------------- without a producer */

/* One leaves the shared producer to the other, or each has one. The block is the first one's, or both's. */
static void sharer_of_2(void *unused)
{
	(void)unused;
	enqueue_some(NULL, 4, 2);
}

static void shared_by_two(void)
{
	begin(CALLED, 0, 0);
	run_beside(sharer_of_2, NULL);
	enqueue_some(NULL, 0, 2);
	join_beside();
	end_calmly();
}

/* Its block goes from hand to hand, and is opened anew, while the collector copies. */
static void sharer_of_1(void *unused)
{
	(void)unused;
	enqueue_some(NULL, 4, 1);
}

static void shared_by_two_against_flush(void)
{
	begin(CALLED, 0, 0);
	enqueue_some(NULL, 0, 1);
	run_beside(sharer_of_1, NULL);
	run_beside(flusher, NULL);
	enqueue_some(NULL, 1, 1);
	join_beside();
	end_calmly();
}

/* ------------------------------------------------------------------------- runs */

/* Each takes a block of the other's stack, or of its own. */
static void runs_of_blocks(void)
{
	begin(CALLED, 0, 2);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	run_beside(runner, NULL);
	publish(producers[1], 2);
	join_beside();
	end_calmly();
}

static void publisher_of_4(void *arg)
{
	publish(arg, 4);
}

/* Two wait for so long that the stacks change places, as another is published. */
static void stacks_change_places(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	grow_old();
	run_beside(runner, NULL);
	run_beside(publisher_of_4, producers[0]);
	runner(NULL);
	join_beside();
	end_calmly();
}

static void runner_of_1(void *unused)
{
	(void)unused;
	cq_cleanup_run_some(q, 1);
}

/* What one leaves of a block is the other's, who may have found nothing before. */
static void rest_of_a_block(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner_of_1, NULL);
	runner_of_1(NULL);
	join_beside();
	runner(NULL);
	for (int i = 0; i < 2; i++)
		CHECK(jobs[i].ran);
	end_calmly();
}

/* What one leaves of a block is for the worker, whom nobody else wakes. */
static void rest_of_a_block_against_a_worker_going_to_sleep(void)
{
	begin(HOSTED | AWAITED, 0, 1);
	serve();
	publish(producers[0], 0);
	runner_of_1(NULL);
	wait_for_jobs(2);
	end_calmly();
}

static void publish_against_a_worker_going_to_sleep(void)
{
	begin(HOSTED | AWAITED, 0, 1);
	serve();
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* One run at a time: whoever ends finds what was published meanwhile, or has it found. */
static void publish_at_the_limit_of_runs(void)
{
	begin(HOSTED | AWAITED | SERIAL, 0, 1);
	serve();
	publish(producers[0], 0);
	run_beside(runner, NULL);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* A worker that is busy doesn't look for the next block: another must come. */
static void block_does_not_wait_for_a_callback_that_hangs(void)
{
	begin(HOSTED | AWAITED, 0, 1);
	first_waits_for = 2;
	serve();
	serve();
	publish(producers[0], 2);
	publish(producers[0], 0);
	wait_for_jobs(4);
	end_calmly();
}

/* ------------------------------------------------------------------------ ticks */

static void enqueuer_of_another(void *arg)
{
	enqueue_some(arg, 4, 1);
}

static void publisher_of_another(void *arg)
{
	publish(arg, 4);
}

/* It was a writer, and is gone: the next tick finds nobody. */
static void begin_with_the_last_tick(unsigned how)
{
	begin(CALLED | how, 0, 2);
	enqueue_some(producers[0], 0, 1);
	cq_producer_detach(producers[0]);
	producers[0] = NULL;
}

static void last_tick_against(unsigned how, void (*body)(void *))
{
	begin_with_the_last_tick(how);
	run_beside(body, producers[1]);
	pass_tick(NULL);
	end_of_ticks();
	end(CQ_SHUTDOWN_DRAIN);
}

static void last_tick_against_who_comes(void)
{
	last_tick_against(TIMED, enqueuer_of_another);
}

/* It begins and fills its block meanwhile, and leaves that to a tick. */
static void last_tick_against_a_lazy_block(void)
{
	last_tick_against(LAZY, publisher_of_another);
}

/* Both find that it is due. */
static void last_tick_by_two_against_who_comes(void)
{
	begin_with_the_last_tick(TIMED);
	run_beside(enqueuer_of_another, producers[1]);
	run_beside(runner, NULL);
	pass_tick(NULL);
	end_of_ticks();
	end(CQ_SHUTDOWN_DRAIN);
}

/* Its first one has been taken, and so it is quiet: the tick lets it go, and is the last but for what comes. */
static void tick_against_its_only_writer(unsigned how, void (*body)(void *))
{
	begin(CALLED | how, 0, 1);
	enqueue_some(producers[0], 0, 1);
	pass_tick(NULL);
	CHECK(jobs[0].ran);
	run_beside(body, producers[0]);
	pass_tick(NULL);
	end_of_ticks();
	end(CQ_SHUTDOWN_DRAIN);
}

static void last_tick_against_who_is_let_go(void)
{
	tick_against_its_only_writer(TIMED | TWO_LINES, enqueuer_of_2_more);
}

static void enqueuer_of_1_more(void *arg)
{
	enqueue_some(arg, 1, 1);
}

/* The block is full with it. */
static void last_tick_against_a_lazy_block_of_who_is_let_go(void)
{
	tick_against_its_only_writer(LAZY, enqueuer_of_1_more);
}

/* One has asked for a clock, and can't have it; the other leaves a block to the tick. */
static void no_clock_for_a_lazy_block(void)
{
	begin(LAZY | NO_CLOCK | AWAITED, 1, 2);
	run_beside(enqueuer_of_another, producers[1]);
	publish(producers[0], 0);
	wait_for_jobs(2);
	join_beside();
	end_calmly();
}

/* ------------------------------------------------------------------- statistics */

/* `accepted` jobs have been, before. */
static void statistician(void *accepted)
{
	cq_cleanup_stats_t first, second;

	cq_cleanup_stats(q, &first);
	CHECK(first.queued >= (uintptr_t)accepted);
	cq_cleanup_stats(q, &second);
	CHECK(first.executed <= first.queued && second.executed <= second.queued);
	CHECK(first.queued <= second.queued && first.executed <= second.executed);
	CHECK(second.queued <= 4);
}

static void statistics_against_enqueue(void)
{
	begin(CALLED, 0, 1);
	enqueue_some(producers[0], 0, 1);
	run_beside(statistician, (void *)(uintptr_t)1);
	enqueue_some(producers[0], 1, 2);
	join_beside();
	end_calmly();
}

static void statistics_against_the_flush_of_a_producer(void)
{
	begin(CALLED, 0, 1);
	run_beside(statistician, NULL);
	enqueuer_who_flushes(producers[0]);
	join_beside();
	end_calmly();
}

/* What has run was queued, to somebody who learns of both by the statistics alone. The run goes on with a
   block that was published while it was in another: no signal orders the two. */
static void statistician_of_one_look(void *unused)
{
	cq_cleanup_stats_t stats;

	(void)unused;
	cq_cleanup_stats(q, &stats);
	CHECK(stats.executed <= stats.queued);
}

static void statistics_against_a_run(void)
{
	begin(CALLED, 0, 1);
	first_waits_for = 1;
	publish(producers[0], 0);
	run_beside(statistician_of_one_look, NULL);
	run_beside(runner, NULL);
	let_the_first_go();
	publish(producers[0], 2);
	join_beside();
	end_calmly();
}

/* ------------------------------------------------------------------------- trim */

static void trim(void)
{
	int err = cq_cleanup_trim(q, NULL);

	CHECK(err == 0 || err == EBUSY);
}

static void trim_against_runs(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	run_beside(runner, NULL);
	trim();
	join_beside();
	end_calmly();
}

static void trim_against_a_worker(void)
{
	begin(HOSTED, 0, 1);
	serve();
	publish(producers[0], 0);
	trim();
	publish(producers[0], 2);
	trim();
	end_calmly();
}

/* The pop reads the next of a block that another may have run, and that trim may free. */
static void trim_against_pops(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	run_beside(runner, NULL);
	run_beside(runner, NULL);
	trim();
	join_beside();
	end_calmly();
}

/* The block is of an epoch that a drain has ended. */
static void trim_of_two_epochs(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == EAGAIN);
	run_beside(runner, NULL);
	trim();
	join_beside();
	end_calmly();
}

static void opener(void *arg)
{
	enqueue_some(arg, arg == producers[0] ? 4 : 5, 1);
}

/* Two blocks are free. An owner reads the next of one that trim takes, and frees. */
static void trim_against_an_owner(void)
{
	begin(CALLED, 0, 2);
	publish(producers[0], 0);
	publish(producers[1], 2);
	runner(NULL);
	run_beside(opener, producers[0]);
	trim();
	opener(producers[1]);
	join_beside();
	end_calmly();
}

/* A slab has a free block, and two that were never used: one owner takes that, the other carves. */
static void trim_against_the_carving_of_a_slab(void)
{
	begin(CALLED | SLABS, 0, 2);
	publish(producers[0], 0);
	runner(NULL);
	opener(producers[0]);
	run_beside(opener, producers[1]);
	trim();
	join_beside();
	end_calmly();
}

/* Nothing of it is in use. */
static void trim_against_the_first_of_a_slab(void)
{
	begin(CALLED | SLABS, 0, 2);
	publish(producers[0], 0);
	runner(NULL);
	run_beside(opener, producers[0]);
	trim();
	opener(producers[1]);
	join_beside();
	end_calmly();
}

static void publisher_and_runner(void *arg)
{
	publish(arg, 0);
	publish(arg, 2);
	runner(NULL);
}

/* Nothing waits when trim looks for the first time. */
static void trim_against_new_blocks_and_their_runs(void)
{
	begin(CALLED, 0, 1);
	run_beside(publisher_and_runner, producers[0]);
	run_beside(runner, NULL);
	trim();
	join_beside();
	end_calmly();
}

/* A shared producer has a block that holds nothing. */
static void trim_against_an_enqueue_without_a_producer(void)
{
	begin(CALLED, 0, 0);
	enqueue_some(NULL, 0, 1);
	CHECK(cq_cleanup_flush(q) == 0);
	runner(NULL);
	run_beside(sharer_of_1, NULL);
	trim();
	join_beside();
	end_calmly();
}

static void publisher_of_2(void *arg)
{
	publish(arg, arg == producers[0] ? 0 : 2);
}

/* Two carve blocks off a slab. */
static void producers_carve_a_slab(void)
{
	begin(CALLED | SLABS, 0, 2);
	enqueue_some(producers[0], 4, 1);
	CHECK(cq_producer_flush(producers[0]) == 0);
	run_beside(publisher_of_2, producers[0]);
	run_beside(publisher_of_2, producers[1]);
	join_beside();
	end_calmly();
}

/* Or make one each, and one is all they need. */
static void producers_share_a_slab(void)
{
	cq_cleanup_stats_t stats;

	begin(CALLED | SLABS, 0, 2);
	run_beside(publisher_of_2, producers[0]);
	run_beside(publisher_of_2, producers[1]);
	join_beside();
	cq_cleanup_stats(q, &stats);
	CHECK(stats.blocks_made == 2);
	end_calmly();
}

/* Statistics follow the link of a slab that is just made. */
static void slabs_against_statistics(void)
{
	cq_cleanup_stats_t stats;

	begin(CALLED | SLABS, 0, 2);
	run_beside(publisher_of_2, producers[0]);
	cq_cleanup_stats(q, &stats);
	CHECK(stats.blocks_made <= 1);
	join_beside();
	end_calmly();
}

static void statistician_of_blocks(void *unused)
{
	cq_cleanup_stats_t stats;

	(void)unused;
	cq_cleanup_stats(q, &stats);
	CHECK(stats.queued == 2 && stats.executed <= 2);
}

static void trim_against_statistics(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	runner(NULL);
	run_beside(statistician_of_blocks, NULL);
	trim();
	join_beside();
	end_calmly();
}

/* ------------------------------------------------------------------------- shards */

/* Of the second of two shards. */
enum { ANOTHER = CQ_SHARD_CPUS };

static void begin_with_two_shards(unsigned how)
{
	begin(how, 0, 2);
	cq_shards_grow(q, 1);
	CHECK(cq_shards(q) == 2);
}

/* The worker is of the first. */
static void publish_to_a_worker_of_another_shard(void)
{
	begin_with_two_shards(HOSTED | AWAITED);
	serve();
	run_on(ANOTHER);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

static void grower_and_publisher(void *arg)
{
	run_on(ANOTHER);
	cq_shards_grow(q, 1);
	publish(arg, arg == producers[0] ? 0 : 2);
}

/* What is published there is found by who knew of one shard. */
static void shard_is_added_against_a_worker_going_to_sleep(void)
{
	begin(HOSTED | AWAITED, 0, 1);
	serve();
	grower_and_publisher(producers[0]);
	wait_for_jobs(2);
	end_calmly();
}

static void grower(void *unused)
{
	(void)unused;
	cq_shards_grow(q, 1);
}

/* It is counted, or not yet, as a run looks for blocks: that learns of it in no other way. */
static void shard_is_added_against_a_run(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(grower, NULL);
	runner(NULL);
	join_beside();
	end_calmly();
}

/* Who counts it may not have made it. */
static void shard_is_added_by_two_against_a_run(void)
{
	begin(CALLED, 0, 1);
	publish(producers[0], 0);
	run_beside(grower, NULL);
	run_beside(grower, NULL);
	runner(NULL);
	join_beside();
	end_calmly();
}

/* One finds the shard that the other has made, and counts it, or has made one too many. */
static void shard_is_added_by_two(void)
{
	begin(CALLED, 0, 2);
	run_beside(grower_and_publisher, producers[0]);
	grower_and_publisher(producers[1]);
	join_beside();
	CHECK(cq_shards(q) == 2);
	end_calmly();
}

/* Four blocks: of two, one waits with the thief's then. */
static void begin_with_much_to_steal(unsigned how)
{
	begin_with_two_shards(how);
	run_on(ANOTHER);
	for (int i = 0; i < JOBS; i += ONE_BLOCK)
		publish(producers[0], i);
}

static void two_steal(void)
{
	begin_with_much_to_steal(CALLED);
	run_beside(runner, NULL);
	run_beside(runner, NULL);
	join_beside();
	for (int i = 0; i < JOBS; i++)
		CHECK(jobs[i].ran);
	end_calmly();
}

static void publisher_of_2_in_the_first_shard(void *arg)
{
	publish(arg, 2);
}

/* It waits for the thief, in whichever shard that has put what. */
static void drain_against_a_thief_and_a_publisher(void)
{
	int err;

	begin_with_two_shards(CALLED);
	run_on(ANOTHER);
	publish(producers[0], 0);
	run_beside(runner, NULL);
	run_beside(publisher_of_2_in_the_first_shard, producers[1]);
	while ((err = cq_cleanup_drain(q, CQ_FOREVER)) == EAGAIN)
		runner(NULL);
	CHECK(err == 0 && jobs[0].ran && jobs[1].ran);
	join_beside();
	end_calmly();
}

/* It has two blocks in its hand, and nothing else waits, as the drain looks. Then it puts one back, and hangs in a
   callback of the other until that has run: which is for the drain's caller, who is told so. */
static void drain_beside_a_thief_that_hangs(void)
{
	int err;

	begin_with_two_shards(CALLED | AWAITED);
	first_waits_for = JOBS - ONE_BLOCK;
	run_on(ANOTHER);
	for (int i = JOBS; i > 0; i -= ONE_BLOCK) /* the first is taken first */
		publish(producers[0], i - ONE_BLOCK);
	run_beside(runner, NULL);
	sched_yield();
	cq_cleanup_run_some(q, 2 * ONE_BLOCK);
	while ((err = cq_cleanup_drain(q, CQ_FOREVER)) == EAGAIN)
		runner(NULL);
	CHECK(err == 0);
	end_calmly();
}

static void hand_back_against_a_thief(void)
{
	begin_with_much_to_steal(CALLED);
	run_beside(runner, NULL);
	end(CQ_SHUTDOWN_HAND_BACK);
}

static void opener_in_another_shard(void *arg)
{
	run_on(ANOTHER);
	opener(arg);
}

/* The free block is of the first shard; an owner of the other finds it there. */
static void trim_against_an_owner_of_another_shard(void)
{
	begin_with_two_shards(CALLED);
	publish(producers[0], 0);
	publish(producers[1], 2);
	runner(NULL);
	run_beside(opener_in_another_shard, producers[0]);
	trim();
	opener(producers[1]);
	join_beside();
	end_calmly();
}

/* The pop of a thief reads the next of a block that another may have run. */
static void trim_against_a_thief(void)
{
	begin_with_two_shards(CALLED);
	run_on(ANOTHER);
	publish(producers[0], 0);
	publish(producers[0], 2);
	run_beside(runner, NULL);
	run_beside(runner, NULL);
	trim();
	join_beside();
	end_calmly();
}

const struct scenario cleanup_scenarios[] = {
	{ "cleanup_flush_against_enqueue", flush_against_enqueue, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_against_put", flush_against_put, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_against_spans", flush_against_spans, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_writer_let_go_against_enqueue", writer_let_go_against_enqueue, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_writer_let_go_against_the_opening_of_a_block", writer_let_go_against_the_opening_of_a_block,
	    SOME(2, 2), SOME(4, 3) },
	{ "cleanup_newcomer_against_two_who_let_go", newcomer_against_two_who_let_go, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_against_the_flush_of_a_producer", flush_against_the_flush_of_a_producer,
	    SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_against_a_flush_of_few", flush_against_a_flush_of_few, SOME(2, 1), SOME(3, 2) },
	{ "cleanup_flushes_of_few_against_a_run", flushes_of_few_against_a_run, SOME(2, 1), SOME(3, 2) },
	{ "cleanup_flush_against_reuse_of_the_block", flush_against_reuse_of_the_block,
	    SOME(2, 1), SOME(4, 3) },
	{ "cleanup_flush_against_a_span_of_a_reused_block", flush_against_a_span_of_a_reused_block,
	    SOME(2, 1), SOME(3, 2) },
	{ "cleanup_flush_against_reuse_by_another_kind", flush_against_reuse_by_another_kind,
	    SOME(2, 1), SOME(3, 2) },
	{ "cleanup_collected_jobs_are_run_by_another", collected_jobs_are_run_by_another,
	    SOME(1, 1), SOME(3, 2) },
	{ "cleanup_shared_by_two", shared_by_two, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_shared_by_two_against_flush", shared_by_two_against_flush,
	    SOME(2, 1), SOME(3, 2) },
	{ "cleanup_runs_of_blocks", runs_of_blocks, SOME(1, 1), SOME(3, 2) },
	{ "cleanup_stacks_change_places", stacks_change_places, SOME(1, 1), SOME(3, 2) },
	{ "cleanup_rest_of_a_block", rest_of_a_block, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_rest_of_a_block_against_a_worker_going_to_sleep",
	    rest_of_a_block_against_a_worker_going_to_sleep, SOME(1, 1), SOME(3, 2) },
	{ "cleanup_publish_against_a_worker_going_to_sleep",
	    publish_against_a_worker_going_to_sleep, SOME(1, 1), SOME(3, 2) },
	{ "cleanup_publish_at_the_limit_of_runs", publish_at_the_limit_of_runs,
	    SOME(1, 1), SOME(2, 2) },
	{ "cleanup_block_does_not_wait_for_a_callback_that_hangs",
	    block_does_not_wait_for_a_callback_that_hangs, SOME(1, 0), SOME(2, 1) },
	{ "cleanup_last_tick_against_who_comes", last_tick_against_who_comes, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_last_tick_against_a_lazy_block", last_tick_against_a_lazy_block, SOME(2, 1), SOME(3, 2) },
	{ "cleanup_last_tick_by_two_against_who_comes", last_tick_by_two_against_who_comes,
	    SOME(1, 1), SOME(3, 2) },
	{ "cleanup_last_tick_against_who_is_let_go", last_tick_against_who_is_let_go, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_last_tick_against_a_lazy_block_of_who_is_let_go",
	    last_tick_against_a_lazy_block_of_who_is_let_go, SOME(2, 2), SOME(3, 3) },
	{ "cleanup_no_clock_for_a_lazy_block", no_clock_for_a_lazy_block, SOME(1, 1), SOME(2, 2) },
	{ "cleanup_statistics_against_enqueue", statistics_against_enqueue, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_statistics_against_the_flush_of_a_producer",
	    statistics_against_the_flush_of_a_producer, SOME(2, 1), SOME(4, 3) },
	{ "cleanup_statistics_against_a_run", statistics_against_a_run, SOME(0, 3), SOME(2, 3) },
	{ "cleanup_trim_against_runs", trim_against_runs, SOME(1, 2), SOME(3, 2) },
	{ "cleanup_trim_against_a_worker", trim_against_a_worker, SOME(1, 2), SOME(3, 2) },
	{ "cleanup_trim_against_pops", trim_against_pops, SOME(1, 2), SOME(3, 2) },
	{ "cleanup_trim_of_two_epochs", trim_of_two_epochs, SOME(1, 2), SOME(3, 2) },
	{ "cleanup_trim_against_an_owner", trim_against_an_owner, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_trim_against_the_carving_of_a_slab", trim_against_the_carving_of_a_slab, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_trim_against_the_first_of_a_slab", trim_against_the_first_of_a_slab, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_trim_against_new_blocks_and_their_runs", trim_against_new_blocks_and_their_runs,
	    SOME(2, 0), SOME(3, 2) },
	{ "cleanup_trim_against_an_enqueue_without_a_producer", trim_against_an_enqueue_without_a_producer,
	    SOME(2, 2), SOME(4, 3) },
	{ "cleanup_trim_against_statistics", trim_against_statistics, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_producers_carve_a_slab", producers_carve_a_slab, SOME(2, 1), SOME(3, 2) },
	{ "cleanup_producers_share_a_slab", producers_share_a_slab, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_slabs_against_statistics", slabs_against_statistics, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_publish_to_a_worker_of_another_shard", publish_to_a_worker_of_another_shard,
	    SOME(1, 1), SOME(3, 2) },
	{ "cleanup_shard_is_added_against_a_worker_going_to_sleep",
	    shard_is_added_against_a_worker_going_to_sleep, SOME(1, 1), SOME(3, 2) },
	{ "cleanup_shard_is_added_against_a_run", shard_is_added_against_a_run, SOME(2, 2), SOME(4, 3) },
	{ "cleanup_shard_is_added_by_two_against_a_run", shard_is_added_by_two_against_a_run, SOME(2, 0), SOME(3, 2) },
	{ "cleanup_shard_is_added_by_two", shard_is_added_by_two, SOME(2, 1), SOME(3, 2) },
	{ "cleanup_two_steal", two_steal, SOME(1, 1), SOME(2, 2) },
	{ "cleanup_drain_against_a_thief_and_a_publisher", drain_against_a_thief_and_a_publisher,
	    SOME(1, 1), SOME(2, 2) },
	{ "cleanup_drain_beside_a_thief_that_hangs", drain_beside_a_thief_that_hangs, SOME(1, 1), SOME(2, 2) },
	{ "cleanup_hand_back_against_a_thief", hand_back_against_a_thief, SOME(1, 1), SOME(2, 2) },
	{ "cleanup_trim_against_an_owner_of_another_shard", trim_against_an_owner_of_another_shard,
	    SOME(2, 2), SOME(4, 3) },
	{ "cleanup_trim_against_a_thief", trim_against_a_thief, SOME(1, 2), SOME(3, 2) },
	{ 0 }
};
