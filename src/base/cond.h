/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Condition variables with deadlines on the clock of cq_now(). cond_clock.c has them where a
 * condition variable can be told its clock; cond_relative.c on macOS, where it can't.
 */
#ifndef CQ_COND_H
#define CQ_COND_H

#include <pthread.h>
#include <stdint.h>

void cq_cond_init(pthread_cond_t *cond);

/* Waits with the mutex held, which it lets go meanwhile: until a signal, the deadline, or no reason. */
void cq_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline);

#endif /* CQ_COND_H */
