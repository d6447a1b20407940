/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer 2 alone: threads sleep until there is work, here letters: a plain counter. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include <cq/sleepers.h>

enum { READERS = 3, LETTERS = 30000 };

static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER;
static atomic_int in_box, letters_read;
static atomic_bool closed; /* set after the last letter */

/* The look for work takes what it finds, so that no two readers find the same. */
static bool look(void *got)
{
	bool last_look = atomic_load(&closed); /* before the box, or a letter might stay */
	int n = atomic_load(&in_box);

	while (n > 0 && !atomic_compare_exchange_weak(&in_box, &n, n - 1))
		continue;
	*(bool *)got = n > 0;
	return n > 0 || last_look;
}

static void *read_letters(void *arg)
{
	cq_sleeper_t me;
	bool got;

	cq_sleeper_init(&me, NULL);
	do {
		while (!look(&got) && /* woken: perhaps another reader was faster */
		    cq_sleepers_sleep(&set, &me, look, &got, CQ_FOREVER) != CQ_WORK)
			continue;
		atomic_fetch_add(&letters_read, got);
	} while (got);
	return arg;
}

int main(void)
{
	pthread_t readers[READERS];

	for (int i = 0; i < READERS; i++)
		if (pthread_create(&readers[i], NULL, read_letters, NULL) != 0)
			return 1;
	for (int i = 0; i < LETTERS; i++) {
		atomic_fetch_add(&in_box, 1); /* publish, then wake: no wake-up is lost */
		cq_sleepers_wake(&set, 1);
	}
	atomic_store(&closed, true);
	cq_sleepers_wake_all(&set);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	printf("sleepers: %d letters, %d read\n", LETTERS, letters_read);
	return letters_read != LETTERS || cq_sleepers_destroy(&set) != 0;
}
