/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/sleepers.h: see scripts/check-headers. */
struct pool {
	int workers;
	cq_sleepers_t set;
};

int wake_one(void);
int wake_one(void)
{
	static cq_park_ops_t table;
	static cq_sleepers_t set = CQ_SLEEPERS_INITIALIZER;
	static cq_sleepers_t spinning = CQ_SLEEPERS_INITIALIZER_WITH(&table, 1000);
	static struct pool pool = { 1, CQ_SLEEPERS_INITIALIZER };
	uint32_t on_their_way;

	return cq_sleepers_wake(&set, 1) == cq_sleepers_ensure(&pool.set, 1) &&
	    cq_sleepers_waiters(&spinning, &on_their_way) == 0;
}
