/* SPDX-License-Identifier: BSD-2-Clause */
/* What faults.c puts between the library and the system; faults_inject.h has the library call it. */
#ifndef CQ_TESTS_FAULTS_SYSTEM_H
#define CQ_TESTS_FAULTS_SYSTEM_H

#include <pthread.h>
#include <time.h>

int faults_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg);
int faults_clock_gettime(clockid_t clock, struct timespec *ts);
int faults_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock);
int faults_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until);
long faults_syscall(long number, long a, long b, long c, long d, long e, long f);
void faults_step(void);

#endif /* CQ_TESTS_FAULTS_SYSTEM_H */
