/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CQ_CGROUP_H
#define CQ_CGROUP_H

#include <stdint.h>

/*
 * The processors' worth of time that the process's cgroups allow it (v2's cpu.max, v1's
 * cpu.cfs_quota_us), the least of all that it is in, rounded up; 0: no limit is known.
 * What can't be read, or is not as it should be, is no limit. In front of all paths comes
 * `root`, which is "" but in tests. No memory is allocated, and errno kept.
 */
uint32_t cq_cgroup_processors(const char *root);

#endif /* CQ_CGROUP_H */
