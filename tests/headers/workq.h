/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/workq.h: see scripts/check-headers. */
struct job {
	int payload;
	cq_node_t node;
};
CQ_NODE_CONTAINER(struct job, node, job_of)

#if defined(__cplusplus) && __cplusplus >= 201103L
template <class A, class B> struct pair_of {
	A a;
	B b;
	cq_node_t node;
};
CQ_NODE_CONTAINER(pair_of<int, long>, node, pair_of_node)
#endif

int payloads(cq_node_t **at, cq_node_t *n);
int payloads(cq_node_t **at, cq_node_t *n)
{
	static cq_workq_t q = CQ_WORKQ_INITIALIZER;

	cq_workq_push(&q, n);
	while (*at && job_of(*at)->payload < job_of(n)->payload)
		at = &(*at)->next;
	return job_of(*at)->payload;
}
