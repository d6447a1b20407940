/* SPDX-License-Identifier: BSD-2-Clause */
#include "load_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* In a callback the child can't wait for the queue; what is left of the blocks that it is in stays. */
static void live_on_in_callback(load_t *l, uint64_t held, unsigned long long settled)
{
	uint64_t done, slots = l->config.block_bytes / sizeof(void *);

	if (l->closing)
		return;
	load_run_all(l);
	done = l->ran + l->back - settled;
	CHECK(done <= held);
	/* The callbacks that it is in count for the limit. */
	CHECK(l->config.parallel != 0 || held - done <= NESTED * slots);
}

/* Elsewhere it runs them, or gives them back. */
static void live_on(load_t *l, uint64_t held, unsigned long long settled, rng_t *how)
{
	bool hand_back = l->closing || rng_below(how, 2) == 0;
	cq_cleanup_stats_t s;

	if (!l->closing && rng_below(how, 2) == 0) {
		load_use(l);
		held += USES;
	}
	if (hand_back)
		CHECK(cq_cleanup_shutdown(l->q, CQ_SHUTDOWN_HAND_BACK, CQ_FOREVER, load_take_back, l) == 0);
	else
		load_work_off(l);
	s = load_stats(l);
	CHECK(s.queued == s.executed + s.handed_back);
	CHECK(l->ran + l->back - settled == held);
	/* What was on its way into the queue, or just begun by a thread that is not here. */
	if ((l->config.flags & CQ_CLEANUP_FORK_DISCARD) == 0)
		CHECK(load_count_offered(l) <= MEMBERS + 2 * l->pool_config.workers_max);
}

/* The child has all that was accepted and not begun, and nothing else. */
_Noreturn static void be_child(load_t *l, bool in_callback, rng_t *how)
{
	cq_cleanup_stats_t s = load_stats(l);
	uint64_t held = s.queued - s.executed - s.handed_back;
	unsigned long long settled = l->ran + l->back;

	alarm(CHILD_SECONDS);
	CHECK((l->config.flags & CQ_CLEANUP_FORK_DISCARD) == 0 || held == 0);
	load_detach_all(l);
	if (in_callback)
		live_on_in_callback(l, held, settled);
	else
		live_on(l, held, settled, how);
	_exit(0);
}

static void wait_for_child(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) != child)
		CHECK(errno == EINTR);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fprintf(stderr, "forked child: status 0x%x\n", (unsigned)status);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* No lock of the tests' is held by another thread in the child. *err: fork's errno, in the parent. */
static pid_t fork_process(load_t *l, int *err)
{
	bool by_hand = (l->pool_config.flags & CQ_POOL_NO_ATFORK) != 0;
	pid_t child;

	pthread_mutex_lock(&l->host_lock);
	if (by_hand)
		cq_fork(CQ_FORK_PREPARE);
	child = fork();
	*err = errno; /* before what follows changes it */
	if (child == 0)
		faults_in_child();
	if (by_hand)
		cq_fork(child != 0 ? CQ_FORK_PARENT : CQ_FORK_CHILD);
	pthread_mutex_unlock(&l->host_lock);
	return child;
}

void load_fork(load_t *l, bool in_callback, enum fault kind)
{
	static _Thread_local rng_t how;
	int err;
	pid_t child = fork_process(l, &err);

	if (how.state == 0)
		how = rng_for(l->number);
	rng_next(&how);
	if (child == 0) {
		l->in_child = true;
		l->hosted = NULL;
		if (kind != FAULT_FORK_EXECS)
			be_child(l, in_callback, &how);
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
	if (child == -1) {
		if (err != EAGAIN || !load_has(l, FAULT_THREAD_LIMIT))
			fprintf(stderr, "fork: %s\n", strerror(err));
		CHECK(err == EAGAIN || err == ENOMEM); /* the machine's own shortage is no failure */
		return;
	}
	l->children++;
	wait_for_child(child);
}

void load_be_forker(struct member *m)
{
	load_t *l = m->load;

	while (!l->stopping && !l->closing) {
		faults_pause(3000000);
		if (faults_strike(FAULT_FORK_LIVES))
			load_fork(l, false, FAULT_FORK_LIVES);
		if (faults_strike(FAULT_FORK_EXECS))
			load_fork(l, false, FAULT_FORK_EXECS);
	}
}
