/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CQ_PROCESSORS_H
#define CQ_PROCESSORS_H

#include <stdint.h>

/*
 * How many processors the calling thread may keep busy, at least 1. On Linux those of its affinity
 * mask, but no more than the quota of the process's cgroup, which is read once. Elsewhere
 * all that are online.
 */
uint32_t cq_processors(void);

#endif /* CQ_PROCESSORS_H */
