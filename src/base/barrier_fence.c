/* SPDX-License-Identifier: BSD-2-Clause */
#include "barrier.h"
#include "ordering.h"

bool cq_barrier_asymmetric(void)
{
	return false;
}

void cq_barrier_heavy(void)
{
	/* Pairs with the fence in the hot side (slow, cleanup/producer.c). */
	cq_fence_full();
}

const char cq_barrier_kind[] = "fence";
