/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/sleepers.h: see scripts/check-headers. */
struct pool {
	int workers;
	cq_sleepers_t set;
};

int wake_one(void);
int wake_one(void)
{
	static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER;
	static struct pool pool = { 1, CQ_SLEEPERS_INITIALIZER };

	return cq_sleepers_wake(&set, 1) == cq_sleepers_wake(&pool.set, 1);
}
