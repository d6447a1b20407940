/* SPDX-License-Identifier: BSD-2-Clause */
#include "inherit.h"

void cq_creator_note(struct cq_creator *creator)
{
	(void)creator;
}

void cq_creator_follow(const struct cq_creator *creator)
{
	(void)creator;
}
