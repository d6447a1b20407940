/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 2: two submit, and wake; one looks, and sleeps. It returns when it has had all. */
#include <cq/sleepers.h>

#include "outside.h"

enum { K = 2 };

static cq_sleepers_t idle;

static void *submit(void *unused)
{
	add_work();
	cq_sleepers_ensure(&idle, 1);
	return unused;
}

static void *serve(void *unused)
{
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	for (int taken = 0; taken < K;) {
		cq_sleepers_prepare_wait(&idle, &me);
		if (take_work() != 0) {
			cq_sleepers_cancel_wait(&idle, &me);
			taken++;
		} else {
			(void)cq_sleepers_commit_wait(&idle, &me, CQ_FOREVER);
		}
	}
	return unused;
}

int main(void)
{
	pthread_t sleeper, submitters[K];

	CHECK(cq_sleepers_init(&idle, &spin, 0) == 0);
	sleeper = start(serve, NULL);
	for (int i = 0; i < K; i++)
		submitters[i] = start(submit, NULL);
	for (int i = 0; i < K; i++)
		join(submitters[i]);
	join(sleeper);
	CHECK(take_work() == 0);
	CHECK(cq_sleepers_destroy(&idle) == 0);
	return 0;
}
