/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs write with cq/producer.h: see scripts/check-headers. */
int put_one(cq_cleanup_t *q, cq_callback_fn *fn, cq_callback_fn *none, void *arg);
int put_one(cq_cleanup_t *q, cq_callback_fn *fn, cq_callback_fn *none, void *arg)
{
	cq_producer_t *one, *any;
	cq_callback_t *slots;
	size_t n;
	int err;

	if ((err = cq_producer_attach(q, fn, &one)) != 0 ||
	    (err = cq_producer_attach(q, none, &any)) != 0)
		return err;
	err = cq_producer_put(one, arg);
	if (err == 0 && (err = cq_producer_span(any, &slots, &n)) == 0) {
		slots[0].fn = fn;
		slots[0].arg = arg;
		err = cq_producer_commit(any, 1, &n);
	}
	cq_producer_detach(one);
	cq_producer_detach(any);
	return err;
}
