/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scenarios of layer 3: how workers are made, wake, sleep and retire. Nobody
 * drains before wait_for_jobs has returned: a drain would wake once more.
 */
#include <errno.h>
#include <sched.h>
#include <stddef.h>

#include "jobs.h"

static void publisher_of_0(void *arg)
{
	publish(arg, 0);
}

static void publisher_of_2(void *arg)
{
	publish(arg, 2);
}

/* ----------------------------------------------------------------- making them */

static void first_block_makes_a_worker(void)
{
	begin(HOSTED | AWAITED, 1, 1);
	publish(producers[0], 0);
	wait_for_jobs(2);
	CHECK(workers_made() == 1);
	end_calmly();
}

/* By the library: its threads are joined, and nothing of theirs is left. */
static void managed_worker_is_made_and_joined(void)
{
	begin(AWAITED, 1, 1);
	publish(producers[0], 0);
	wait_for_jobs(2);
	end_calmly();
}

static void two_managed_workers_end(void)
{
	begin(0, 2, 2);
	publish(producers[0], 0);
	publish(producers[1], 2);
	end(CQ_SHUTDOWN_DRAIN);
}

/* Until a worker arrives, those asked for are as many as units, and the cap. */
static void wakers_race(uint32_t cap, uint32_t expected)
{
	begin(HELD, cap, 2);
	run_beside(publisher_of_0, producers[0]);
	run_beside(publisher_of_2, producers[1]);
	join_beside();
	CHECK(workers_made() == expected);
	calm_down();
	start_held();
	end_calmly();
}

static void racing_wakers_ask_for_as_many_as_units(void)
{
	wakers_race(3, 2);
}

static void racing_wakers_keep_to_the_cap(void)
{
	wakers_race(1, 1);
}

/* ----------------------------------------------------------- asleep and awake */

static void publish_against_a_worker_going_to_sleep(void)
{
	begin(HOSTED | AWAITED, 1, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* Two publishers, one worker: each may count on it for the other's block. */
static void two_publish_for_one_worker(void)
{
	begin(HOSTED | AWAITED, 1, 2);
	run_beside(publisher_of_0, producers[0]);
	publish(producers[1], 2);
	wait_for_jobs(4);
	end_calmly();
}

static void two_publish_for_two_workers(void)
{
	begin(HOSTED | AWAITED, 2, 2);
	run_beside(publisher_of_0, producers[0]);
	publish(producers[1], 2);
	wait_for_jobs(4);
	end_calmly();
}

/*
 * A worker that is busy with a block doesn't look for the next one: another must
 * come, as the first job waits for those of the next block.
 */
static void block_does_not_wait_for_a_busy_worker(void)
{
	begin(HOSTED | AWAITED | FIRST_WAITS, 2, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

static void publish_against_retirement(void)
{
	begin(HOSTED | AWAITED | RETIRING, 1, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* Who publishes meanwhile counts on it, as on a woken one. */
static void publish_against_a_worker_that_polls(void)
{
	begin(HOSTED | AWAITED | POLLING, 1, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

static void two_publish_for_a_worker_that_polls(void)
{
	begin(HOSTED | AWAITED | POLLING, 1, 2);
	run_beside(publisher_of_0, producers[0]);
	publish(producers[1], 2);
	wait_for_jobs(4);
	end_calmly();
}

static void publish_against_retirement_after_polling(void)
{
	begin(HOSTED | AWAITED | RETIRING | POLLING, 1, 1);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* ------------------------------------------------------------ workers of the host */

static void hosts_worker(void *arg)
{
	int err = cq_cleanup_work(q);

	(void)arg;
	CHECK(err == 0 || err == ESHUTDOWN);
}

/* The next block goes to the other queue: the look at both is not one step. */
static void block_of_another_epoch_does_not_wait_for_a_busy_worker(void)
{
	begin(HOSTED | AWAITED | FIRST_WAITS, 2, 1);
	publish(producers[0], 0);
	CHECK(cq_cleanup_drain(q, 0) == ETIMEDOUT);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* A worker that was woken for one block is busy with it when the next is published. */
static void woken_worker_is_counted_on_once(void)
{
	begin(HOSTED | AWAITED | FIRST_WAITS, 2, 1);
	first_waits_for = 4;
	publish(producers[0], 4);
	wait_for_jobs(2); /* its worker may sleep now */
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(6);
	end_calmly();
}

static void detacher(void *worker)
{
	cq_worker_detach(worker);
}

/* None could be made while the host's worker lived; when it leaves, one can. */
static void failure_before_a_worker_left_stalls_no_drain(void)
{
	cq_worker_t *w;

	begin(FIRST_FAILS, 1, 1);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	publish(producers[0], 0);
	run_beside(detacher, w);
	CHECK(cq_cleanup_drain(q, CQ_FOREVER) == 0);
	end_calmly();
}

/* The same, seen by who only asks. */
static void failure_before_the_last_left_is_no_stall(void)
{
	cq_worker_t *w;

	begin(FIRST_FAILS, 1, 1);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	publish(producers[0], 0);
	run_beside(detacher, w);
	CHECK(!cq_cleanup_stalled(q));
	join_beside();
	end_calmly();
}

static void publisher_after_the_first(void *arg)
{
	wait_for_jobs(2);
	publish(arg, 2);
}

/*
 * One is about to make a worker for the first block, which the host's worker takes,
 * and sleeps then. The other counts on that making, and it fails.
 */
static void who_counted_on_a_failed_making_is_not_forgotten(void)
{
	begin(FIRST_FAILS | AWAITED, 1, 2);
	run_beside(hosts_worker, NULL);
	run_beside(publisher_after_the_first, producers[1]);
	publish(producers[0], 0);
	wait_for_jobs(4);
	end_calmly();
}

/* None can be made; the one that the host has sent must get the work. */
static void failed_making_leaves_the_work_to_who_sleeps(void)
{
	begin(MAY_FAIL | AWAITED, 1, 1);
	run_beside(hosts_worker, NULL);
	publish(producers[0], 0);
	wait_for_jobs(2);
	end_calmly();
}

/* Stalled or not, a drain ends; when it says EAGAIN, the caller runs the work. */
static void drain_where_making_may_fail(void)
{
	int err = cq_cleanup_drain(q, CQ_FOREVER);

	CHECK(err == 0 || err == EAGAIN);
	join_beside();
	while ((err = shut_down(CQ_SHUTDOWN_DRAIN)) != 0) {
		CHECK(err == EAGAIN);
		cq_cleanup_run_some(q, SIZE_MAX);
	}
	end_of_shut_down();
}

static void drain_ends_when_none_can_be_made(void)
{
	begin(MAY_FAIL, 1, 1);
	run_beside(publisher_of_0, producers[0]);
	drain_where_making_may_fail();
}

static void drain_ends_when_the_last_worker_leaves(void)
{
	cq_worker_t *w;

	begin(MAY_FAIL, 1, 1);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	publish(producers[0], 0);
	run_beside(detacher, w);
	drain_where_making_may_fail();
}

/* Leaves with a block in hand, if it comes by one before all is done. */
static void dequeuer_who_leaves(void *worker)
{
	cq_block_t *b = cq_worker_dequeue(worker);

	(void)b;
	cq_worker_detach(worker);
}

static void detach_leaves_its_block_to_another(void)
{
	cq_worker_t *w;

	begin(HOSTED | AWAITED, 1, 1);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	run_beside(dequeuer_who_leaves, w);
	publish(producers[0], 0);
	publish(producers[0], 2);
	wait_for_jobs(4);
	end_calmly();
}

/* ------------------------------------------------------------------- polled, trim */

static void poller_who_wakes(void *arg)
{
	(void)arg;
	for (;;) {
		if (cq_cleanup_needs_wake(q))
			CHECK(cq_cleanup_wake(q) == 0);
		if (jobs_run() == 2)
			break;
		sched_yield();
	}
}

static void poller_wakes_when_it_is_told_to(void)
{
	begin(POLLED | HOSTED | AWAITED, 1, 1);
	run_beside(poller_who_wakes, NULL);
	publish(producers[0], 0);
	join_beside();
	end_calmly();
}

static void trim_against_a_worker(void)
{
	int err;

	begin(HOSTED, 1, 1);
	publish(producers[0], 0);
	err = cq_cleanup_trim(q, NULL);
	CHECK(err == 0 || err == EBUSY);
	publish(producers[0], 2);
	err = cq_cleanup_trim(q, NULL);
	CHECK(err == 0 || err == EBUSY);
	end_calmly();
}

static void poller(void *arg)
{
	(void)arg;
	cq_cleanup_run_some(q, SIZE_MAX);
}

static void trim_against_a_poller(void)
{
	int err;

	begin(POLLED, 0, 1);
	publish(producers[0], 0);
	run_beside(poller, NULL);
	err = cq_cleanup_trim(q, NULL);
	CHECK(err == 0 || err == EBUSY);
	join_beside();
	end_calmly();
}

/* All that may run beside a trim; and the worker that it makes comes, and retires. */
static void who_only_asks(void *arg)
{
	cq_cleanup_stats_t stats;
	bool waiting = cq_cleanup_units(q) != 0;

	(void)arg;
	CHECK(!cq_cleanup_stalled(q));
	if (cq_cleanup_needs_wake(q))
		CHECK(waiting || cq_cleanup_units(q) != 0);
	CHECK(cq_cleanup_wake(q) == 0);
	cq_cleanup_stats(q, &stats);
	CHECK(stats.queued == 2 && stats.executed <= 2 && stats.blocks_made <= 1);
}

static void trim_against_who_only_asks(void)
{
	int err;

	begin(POLLED | HOSTED | RETIRING, 1, 1);
	publish(producers[0], 0);
	run_beside(who_only_asks, NULL);
	err = cq_cleanup_trim(q, NULL);
	CHECK(err == 0 || err == EBUSY);
	join_beside();
	end_calmly();
}

/* -------------------------------------------------------------------- handover */

static void handover_against_a_worker_going_to_sleep(void)
{
	begin(HOSTED | HANDOVER | AWAITED, 1, 1);
	enqueue_some(producers[0], 0, 1);
	enqueue_some(producers[0], 1, 1);
	wait_for_jobs(2);
	end_calmly();
}

/* The third may run on to an end that was set while the worker was awake. */
static void handover_of_what_runs_on(void)
{
	begin(HOSTED | HANDOVER | AWAITED | TWO_LINES, 1, 1);
	enqueue_some(producers[0], 0, 3);
	wait_for_jobs(3);
	end_calmly();
}

static void handover_of_what_runs_on_against_retirement(void)
{
	begin(HOSTED | HANDOVER | AWAITED | TWO_LINES | RETIRING, 1, 1);
	enqueue_some(producers[0], 0, 3);
	wait_for_jobs(3);
	end_calmly();
}

static void handover_against_retirement(void)
{
	begin(HOSTED | HANDOVER | AWAITED | RETIRING, 1, 1);
	enqueue_some(producers[0], 0, 1);
	enqueue_some(producers[0], 1, 1);
	wait_for_jobs(2);
	end_calmly();
}

/* The host's worker lives, so the producer leaves its job in its block. */
static void handover_against_detach(void)
{
	cq_worker_t *w;

	begin(HOSTED | HANDOVER | AWAITED, 1, 1);
	CHECK(cq_worker_attach(q, NULL, &w) == 0);
	run_beside(detacher, w);
	enqueue_some(producers[0], 0, 1);
	wait_for_jobs(1);
	end_calmly();
}

static void enqueuer_of_0(void *arg)
{
	enqueue_some(arg, 0, 1);
}

static void handover_of_two_producers(void)
{
	begin(HOSTED | HANDOVER | AWAITED, 1, 2);
	run_beside(enqueuer_of_0, producers[0]);
	enqueue_some(producers[1], 1, 1);
	wait_for_jobs(2);
	end_calmly();
}

const struct scenario workers_scenarios[] = {
	{ "workers_first_block_makes_a_worker", first_block_makes_a_worker, SOME(2, 1), SOME(4, 3) },
	{ "workers_managed_worker_is_made_and_joined", managed_worker_is_made_and_joined,
	    SOME(2, 1), SOME(4, 3) },
	{ "workers_two_managed_workers_end", two_managed_workers_end, SOME(1, 1), SOME(2, 2) },
	{ "workers_racing_wakers_ask_for_as_many_as_units", racing_wakers_ask_for_as_many_as_units,
	    SOME(1, 1), SOME(4, 3) },
	{ "workers_racing_wakers_keep_to_the_cap", racing_wakers_keep_to_the_cap,
	    SOME(2, 1), SOME(4, 3) },
	{ "workers_publish_against_a_worker_going_to_sleep", publish_against_a_worker_going_to_sleep,
	    SOME(2, 2), SOME(4, 3) },
	{ "workers_two_publish_for_one_worker", two_publish_for_one_worker, SOME(1, 1), SOME(3, 2) },
	{ "workers_publish_against_a_worker_that_polls", publish_against_a_worker_that_polls,
	    SOME(2, 1), SOME(3, 2) },
	{ "workers_two_publish_for_a_worker_that_polls", two_publish_for_a_worker_that_polls,
	    SOME(1, 1), SOME(2, 2) },
	{ "workers_publish_against_retirement_after_polling", publish_against_retirement_after_polling,
	    SOME(2, 1), SOME(3, 2) },
	{ "workers_two_publish_for_two_workers", two_publish_for_two_workers, SOME(1, 1), SOME(2, 2) },
	{ "workers_block_does_not_wait_for_a_busy_worker", block_does_not_wait_for_a_busy_worker,
	    SOME(1, 1), SOME(2, 2) },
	{ "workers_publish_against_retirement", publish_against_retirement, SOME(2, 1), SOME(3, 2) },
	{ "workers_failed_making_leaves_the_work_to_who_sleeps",
	    failed_making_leaves_the_work_to_who_sleeps, SOME(2, 1), SOME(3, 2) },
	{ "workers_block_of_another_epoch_does_not_wait_for_a_busy_worker",
	    block_of_another_epoch_does_not_wait_for_a_busy_worker, SOME(1, 1), SOME(2, 2) },
	{ "workers_woken_worker_is_counted_on_once", woken_worker_is_counted_on_once,
	    SOME(2, 0), SOME(3, 1) },
	{ "workers_failure_before_a_worker_left_stalls_no_drain",
	    failure_before_a_worker_left_stalls_no_drain, SOME(2, 1), SOME(3, 2) },
	{ "workers_failure_before_the_last_left_is_no_stall",
	    failure_before_the_last_left_is_no_stall, SOME(2, 1), SOME(4, 3) },
	{ "workers_who_counted_on_a_failed_making_is_not_forgotten",
	    who_counted_on_a_failed_making_is_not_forgotten, SOME(1, 0), SOME(2, 1) },
	{ "workers_drain_ends_when_none_can_be_made", drain_ends_when_none_can_be_made,
	    SOME(2, 1), SOME(3, 2) },
	{ "workers_drain_ends_when_the_last_worker_leaves", drain_ends_when_the_last_worker_leaves,
	    SOME(2, 1), SOME(3, 2) },
	{ "workers_detach_leaves_its_block_to_another", detach_leaves_its_block_to_another,
	    SOME(1, 1), SOME(3, 2) },
	{ "workers_poller_wakes_when_it_is_told_to", poller_wakes_when_it_is_told_to,
	    SOME(1, 1), SOME(3, 2) },
	{ "workers_trim_against_a_worker", trim_against_a_worker, SOME(2, 1), SOME(3, 2) },
	{ "workers_trim_against_a_poller", trim_against_a_poller, SOME(2, 1), SOME(4, 3) },
	{ "workers_trim_against_who_only_asks", trim_against_who_only_asks, SOME(2, 1), SOME(3, 2) },
	{ "workers_handover_against_a_worker_going_to_sleep",
	    handover_against_a_worker_going_to_sleep, SOME(2, 1), SOME(4, 2) },
	{ "workers_handover_of_what_runs_on", handover_of_what_runs_on, SOME(2, 1), SOME(3, 2) },
	{ "workers_handover_of_what_runs_on_against_retirement",
	    handover_of_what_runs_on_against_retirement, SOME(2, 1), SOME(3, 2) },
	{ "workers_handover_against_retirement", handover_against_retirement, SOME(2, 1), SOME(3, 2) },
	{ "workers_handover_against_detach", handover_against_detach, SOME(2, 1), SOME(4, 2) },
	{ "workers_handover_of_two_producers", handover_of_two_producers, SOME(1, 1), SOME(2, 2) },
	{ 0 }
};
