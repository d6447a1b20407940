/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Each run is a process: a queue that hangs or crashes costs its own row, threads
 * that a library keeps don't show in another contestant's CPU, and memory is as
 * fresh for the last as for the first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner.h"

static bool in_child;
static jmp_buf way_back; /* if there is no child */

void cannot(struct result *r, const char *why)
{
	r->state = CANNOT;
	r->why = why;
	if (in_child)
		_exit(0);
	longjmp(way_back, 1);
}

void *create(const struct workload *w, const struct contestant *c, struct result *r)
{
	void *queue = c->create(w->workers);

	if (queue == NULL)
		cannot(r, w->workers == 0 ? "it can't be without workers"
		    : "it can't have so many workers");
	return queue;
}

static struct result *shared_result(void)
{
	static struct result *r;

	if (r == NULL) {
		r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (r == MAP_FAILED)
			bench_die("mmap", errno);
	}
	r->state = FAILED;
	r->nsamples = 0;
	r->steps[0] = r->steps[1] = 0;
	for (unsigned m = 0; m < MAX_METRICS; m++)
		r->metrics[m] = NAN;
	return r;
}

/* ------------------------------------------------------------------ waiting */

static volatile pid_t running; /* for the alarm */
static volatile sig_atomic_t late;

static void kill_it(int signal)
{
	(void)signal;
	late = 1;
	kill(running, SIGKILL);
}

static void limit_time(pid_t pid, unsigned seconds)
{
	struct sigaction action = { .sa_handler = kill_it, .sa_flags = SA_RESTART };

	late = 0;
	running = pid;
	sigaction(SIGALRM, &action, NULL);
	alarm(seconds);
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) != pid)
		if (errno != EINTR)
			bench_die("waitpid", errno);
	return status;
}

static bool stopped_by(int status, int signal)
{
	return WIFSTOPPED(status) && WSTOPSIG(status) == signal;
}

/* Counts the instructions from each stop of the process to the next, and returns
   the status that it ends with. */
static int count_steps(pid_t pid, struct result *r)
{
	int status = wait_for(pid);

	for (int k = 0; k < 2 && stopped_by(status, SIGSTOP); k++) {
		uint64_t n = 0;

		do {
			if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0)
				break; /* it has been killed */
			n++;
			status = wait_for(pid);
		} while (stopped_by(status, SIGTRAP));
		r->steps[k] = n;
	}
	while (WIFSTOPPED(status)) {
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
		status = wait_for(pid);
	}
	return status;
}

/* ------------------------------------------------------------------ running */

static _Noreturn void child(const struct workload *w, const struct contestant *c,
    struct result *r)
{
	in_child = true;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	w->run(w, c, r);
	r->state = DONE;
	_exit(0);
}

static void run_here(const struct workload *w, const struct contestant *c, struct result *r)
{
	if (setjmp(way_back) != 0)
		return;
	w->run(w, c, r);
	r->state = DONE;
}

static void say(const struct workload *w, const struct contestant *c, const char *what)
{
	fprintf(stderr, "bench: %s %ux%u: %s %s\n", w->name, w->producers, w->workers, c->name, what);
}

static void await(pid_t pid, const struct workload *w, const struct contestant *c,
    struct result *r, unsigned seconds)
{
	char text[64];
	int status;

	limit_time(pid, seconds);
	status = w->steps ? count_steps(pid, r) : wait_for(pid);
	alarm(0);
	if (late) {
		snprintf(text, sizeof(text), "hangs: no end in %u s", seconds);
		say(w, c, text);
	} else if (WIFSIGNALED(status)) {
		say(w, c, strsignal(WTERMSIG(status)));
	} else if (WEXITSTATUS(status) != 0) {
		say(w, c, "failed");
	}
}

const struct result *run(const struct workload *w, const struct contestant *c, unsigned seconds,
    bool here)
{
	struct result *r = shared_result();
	pid_t pid;

	if (here) {
		run_here(w, c, r);
		return r;
	}
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		bench_die("fork", errno);
	if (pid == 0)
		child(w, c, r);
	await(pid, w, c, r, w->seconds != 0 ? w->seconds : seconds);
	return r;
}
