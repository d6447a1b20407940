/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CQ_CPU_H
#define CQ_CPU_H

#include <stdint.h>

/* The CPU on which the caller runs, until it doesn't. Where that isn't known, a number that other threads hardly have. */
uint32_t cq_cpu(void);

#endif /* CQ_CPU_H */
