/* SPDX-License-Identifier: BSD-2-Clause */
/* For what is built on a pool within the library. */
#ifndef CQ_POOL_INSIDE_H
#define CQ_POOL_INSIDE_H

#include <cq/pool.h>
#include <cq/sleepers.h>

/* Ends the workers, waits for them, and joins those that the pool made. None is made any more, nor a task, and a
   signal does nothing. EBUSY: more than so many tasks are open, and nothing happened. ETIMEDOUT: call it again.
   Not from a run of the pool, or a fork handler. */
int cq_pool_end(cq_pool_t *pool, uint32_t tasks, uint64_t deadline);

/* Waits in the set until `look`, before each sleep, says other than EBUSY. That, or ETIMEDOUT. */
int cq_await(cq_sleepers_t *set, int (*look)(const void *), const void *arg, uint64_t deadline);

/* cq_run_piece, of a piece that was there at that time, and is so many to the task. */
void cq_run_piece_since(cq_run_t *run, void *piece, uint64_t since, uint64_t parts);

/* As cq_task_create. A worker that has found nothing for idle_ns calls idle(arg), with no lock held, so that the task gives
   back what it doesn't need; a close waits for that. */
int cq_task_create_idle(cq_pool_t *pool, const cq_task_ops_t *ops, void (*idle)(void *arg), void *arg,
    uint32_t parallel, cq_task_t **out);

/* The task is signalled once, at that time (not 0) or soon after it, in place of what was asked for before; if it is
   closed by then, nothing happens. In a pool that is polled or hosted: when somebody polls or calls run_some. May take
   the pool's lock, and make a thread. The error with which no thread could be made for that, and then it is not signalled; EDEADLK: in a
   fork. */
int cq_task_signal_at(cq_task_t *task, uint64_t at);

/* It is neither polled nor hosted, and so has a clock for that. */
bool cq_pool_keeps_time(const cq_pool_t *pool);

/* That time has not come yet. */
bool cq_task_is_timed(const cq_task_t *task);

/* A signal by who waits for the task's work, and then calls cq_pool_wake: it tells an owner, but nobody else, as that would
   be the caller itself. */
void cq_task_note(cq_task_t *task);

/* In a forked child, behind the pool: what runs of the task that go on there have in hand, as `lost` had the others'. If it
   is that of `arg` still: its closer may be lost, and the record another's. */
void cq_task_kept(const cq_task_t *task, const void *arg);

/* What is in hand of a task: how many parts, and for how long the oldest of its pieces by `now`. Takes the pool's lock. */
void cq_task_in_hand(const cq_task_t *task, uint64_t now, uint64_t *parts, uint64_t *longest_ns);

#endif /* CQ_POOL_INSIDE_H */
