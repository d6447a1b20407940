/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * moodycamel::BlockingConcurrentQueue, with a token per producer and per worker:
 * one callback at a time, and 507 at a time. Its semaphore spins for a while
 * before a worker sleeps; that is its default, and left alone.
 */
#include <concurrentqueue/blockingconcurrentqueue.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "contestant.h"
#include "counts.h"

namespace {

struct callback {
	bench_fn *fn; /* null: the worker ends, and passes it on */
	void *arg;
};

using queue_t = moodycamel::BlockingConcurrentQueue<callback>;

template <unsigned BATCH> struct queue {
	queue_t q;
	counts done;
	std::vector<std::thread> workers;
};

template <unsigned BATCH> struct producer {
	sent count; /* what `full` has passed on */
	queue<BATCH> *of;
	moodycamel::ProducerToken token;
	unsigned n = 0; /* in `batch`; 0 if BATCH is 1 */
	callback batch[BATCH];

	explicit producer(queue<BATCH> *q) : of(q), token(q->q) { counts_begin(&q->done, &count); }
	~producer() { counts_end(&of->done, &count); }
};

/* Of a library that may take one in two ways. */
template <unsigned BATCH> size_t try_take(queue_t &q, moodycamel::ConsumerToken &t, callback *c)
{
	if constexpr (BATCH == 1)
		return q.try_dequeue(t, *c);
	else
		return q.try_dequeue_bulk(t, c, BATCH);
}

template <unsigned BATCH> size_t take(queue_t &q, moodycamel::ConsumerToken &t, callback *c)
{
	if constexpr (BATCH == 1) {
		q.wait_dequeue(t, *c);
		return 1;
	} else {
		return q.wait_dequeue_bulk(t, c, BATCH);
	}
}

template <unsigned BATCH> void work(queue<BATCH> *q)
{
	moodycamel::ConsumerToken token(q->q);
	callback batch[BATCH];
	uint64_t ran = 0;

	for (;;) {
		size_t n = try_take<BATCH>(q->q, token, batch);

		if (n == 0) {
			counts_ran(&q->done, ran);
			ran = 0;
			n = take<BATCH>(q->q, token, batch);
		}
		for (size_t i = 0; i < n; i++) {
			if (batch[i].fn == nullptr) { /* nothing is left but this */
				q->q.enqueue(batch[i]);
				return;
			}
			batch[i].fn(batch[i].arg);
		}
		ran += n;
	}
}

template <unsigned BATCH> void *create(unsigned workers)
{
	auto *q = new queue<BATCH>;

	counts_init(&q->done);
	for (unsigned i = 0; i < workers; i++)
		q->workers.emplace_back(work<BATCH>, q);
	return q;
}

template <unsigned BATCH> void destroy(void *arg)
{
	auto *q = static_cast<queue<BATCH> *>(arg);

	q->q.enqueue(callback{ nullptr, nullptr });
	for (auto &w : q->workers)
		w.join();
	counts_destroy(&q->done);
	delete q;
}

template <unsigned BATCH> void *begin(void *q)
{
	return new producer<BATCH>(static_cast<queue<BATCH> *>(q));
}

template <unsigned BATCH> void end(void *p)
{
	delete static_cast<producer<BATCH> *>(p);
}

/* 0, or an error; then the callbacks stay where they are. */
template <unsigned BATCH> int publish(producer<BATCH> *p)
{
	if (!p->of->q.enqueue_bulk(p->token, p->batch, p->n))
		return ENOMEM;
	p->count.n += p->n;
	p->n = 0;
	return 0;
}

template <unsigned BATCH> int enqueue(void *arg, bench_fn *fn, void *fn_arg)
{
	auto *p = static_cast<producer<BATCH> *>(arg);

	if constexpr (BATCH == 1) {
		p->count.n++;
		return p->of->q.enqueue(p->token, callback{ fn, fn_arg }) ? 0 : ENOMEM;
	} else {
		p->batch[p->n++] = callback{ fn, fn_arg };
		return p->n == BATCH ? publish(p) : 0;
	}
}

template <unsigned BATCH> void flush(void *arg)
{
	auto *p = static_cast<producer<BATCH> *>(arg);

	if (p->n != 0 && publish(p) != 0)
		bench_die("enqueue_bulk", ENOMEM);
}

template <unsigned BATCH> void flush_all(queue<BATCH> *q)
{
	for (sent *s = q->done.producers; s != nullptr; s = s->next)
		flush<BATCH>(reinterpret_cast<producer<BATCH> *>(s)); /* its first member */
}

template <unsigned BATCH> void finish(void *arg)
{
	auto *q = static_cast<queue<BATCH> *>(arg);

	flush_all(q);
	counts_wait(&q->done);
}

template <unsigned BATCH> void run_here(void *arg)
{
	auto *q = static_cast<queue<BATCH> *>(arg);
	moodycamel::ConsumerToken token(q->q);
	callback batch[BATCH];
	size_t n;

	flush_all(q);
	while ((n = try_take<BATCH>(q->q, token, batch)) != 0) {
		for (size_t i = 0; i < n; i++)
			batch[i].fn(batch[i].arg);
		counts_ran(&q->done, n);
	}
}

template <unsigned BATCH> constexpr contestant make(const char *name)
{
	contestant c = {};

	c.name = name;
	c.create = create<BATCH>;
	c.destroy = destroy<BATCH>;
	c.begin = begin<BATCH>;
	c.end = end<BATCH>;
	c.enqueue = enqueue<BATCH>;
	c.flush = flush<BATCH>;
	c.finish = finish<BATCH>;
	c.run_here = run_here<BATCH>;
	return c;
}

} /* namespace */

extern "C" {
extern const contestant contestant_moodycamel, contestant_moodycamel_bulk;
constexpr contestant contestant_moodycamel = make<1>("moodycamel");
constexpr contestant contestant_moodycamel_bulk = make<507>("moodycamel_bulk");
}
