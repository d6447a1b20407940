/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CQ_CPU_H
#define CQ_CPU_H

#include <stdint.h>

/* The CPU on which the caller runs, until it doesn't. The same for all where it isn't known. */
uint32_t cq_cpu(void);

#endif /* CQ_CPU_H */
