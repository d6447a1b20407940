/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The name of a thread: no two systems have the same function for it. thread_name_*.c, of
 * which one is built.
 */
#ifndef CQ_THREAD_NAME_H
#define CQ_THREAD_NAME_H

/* Names the calling thread, where that can be done. */
void cq_thread_name(const char *name);

#endif /* CQ_THREAD_NAME_H */
