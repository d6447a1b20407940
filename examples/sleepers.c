/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 2 alone: threads sleep until there is work, here letters: a plain counter. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include <cq/sleepers.h>

enum { READERS = 3, LETTERS = 30000 };

static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER;
static atomic_int in_box, letters_read;

static bool take_letter(void)
{
	int n = atomic_load(&in_box);

	while (n > 0 && !atomic_compare_exchange_weak(&in_box, &n, n - 1))
		continue;
	return n > 0;
}

/* False: the box is closed, and empty. */
static bool wait_for_letter(cq_sleeper_t *me)
{
	cq_wait_result_t result = CQ_AGAIN;

	while (!take_letter()) { /* woken: perhaps another reader was faster */
		if (result == CQ_STOPPED)
			return false;
		cq_sleepers_prepare_wait(&set, me);
		if (take_letter()) { /* again: a letter that came in between wakes nobody */
			cq_sleepers_cancel_wait(&set, me);
			return true;
		}
		result = cq_sleepers_commit_wait(&set, me, CQ_FOREVER);
	}
	return true;
}

static void *read_letters(void *arg)
{
	cq_sleeper_t me;

	cq_sleeper_init(&me, NULL);
	while (wait_for_letter(&me))
		atomic_fetch_add(&letters_read, 1);
	return arg;
}

int main(void)
{
	pthread_t readers[READERS];

	for (int i = 0; i < READERS; i++)
		if (pthread_create(&readers[i], NULL, read_letters, NULL) != 0)
			return 1;
	for (int i = 0; i < LETTERS; i++) {
		/* Publish, then ensure as many readers as letters wait: no wake-up is lost. */
		int waiting = atomic_fetch_add(&in_box, 1) + 1;

		cq_sleepers_ensure(&set, (uint32_t)waiting);
	}
	cq_sleepers_stop(&set); /* after the last letter */
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	printf("sleepers: %d letters, %d read\n", LETTERS, letters_read);
	return letters_read != LETTERS || cq_sleepers_destroy(&set) != 0;
}
