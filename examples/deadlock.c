/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * deadlock - the known plague of finalizers, and its cure.
 *
 * A cache counts its entries under a lock. Filling it makes objects under that lock;
 * old entries are found dead, and what is to be done about them is done right there, in
 * the thread that fills; it takes the lock, to count down; and the
 * thread waits for itself. Nothing in the cache is wrong but the thread.
 *
 * The same cache runs twice, each time in a child with a watchdog: cleanups in
 * place, which hangs, as finalizers do, and on a worker of libcq, which doesn't.
 * Exit status 0 when that is what happened.
 */
#define GC_THREADS
#include <gc.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cq/gc.h>

enum { ENTRIES = 100000, PATIENCE_S = 3 }; /* without the deadlock it takes some 0.1 s */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long entries;	/* under the lock */
static void *cache[16]; /* likewise: the newest; older ones are dropped */

static void entry_died(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	entries--;
	pthread_mutex_unlock(&lock);
}

static int fill_cache(void)
{
	int err = 0;

	for (int i = 0; i < ENTRIES && err == 0; i++) {
		pthread_mutex_lock(&lock);
		cache[i % 16] = GC_MALLOC(64);
		err = cq_gc_add(cache[i % 16], entry_died, NULL, NULL);
		entries += err == 0;
		pthread_mutex_unlock(&lock);
	}
	return err;
}

/* In the child. 0 when every entry that was counted up was counted down. */
static int run(bool in_place)
{
	cq_cleanup_t *q = NULL;

	GC_INIT();
	if (!in_place && cq_cleanup_create(NULL, &q) != 0)
		return 1;
	if (cq_gc_open(q) != 0 || fill_cache() != 0)
		return 1;
	cq_gc_close();
	if (!in_place && (cq_cleanup_shutdown(q, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0 ||
	    cq_cleanup_destroy(q) != 0))
		return 1;
	return entries != 0;
}

/* Runs it in a child, which an alarm kills if it hangs. Its exit status, or -1: it hung. */
static int watch(bool in_place)
{
	struct rusage used;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(PATIENCE_S);
		_exit(run(in_place));
	}
	if (pid < 0 || wait4(pid, &status, 0, &used) != pid)
		return 1;
	bool hung = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
	printf("%-9s %s, having used %ld ms of processor time\n", in_place ? "in place:" : "libcq:",
	    hung ? "deadlocked, and was killed" : "ended",
	    used.ru_utime.tv_sec * 1000 + used.ru_utime.tv_usec / 1000);
	return hung ? -1 : status;
}

int main(void)
{
	bool plague = watch(true) == -1;
	bool cure = watch(false) == 0;

	printf("%s\n", plague && cure ? "as expected" : "NOT AS EXPECTED");
	return plague && cure ? 0 : 1;
}
