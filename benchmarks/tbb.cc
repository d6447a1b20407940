/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * oneTBB: its concurrent_bounded_queue, unbounded and with workers of our own; and
 * its scheduler, by task_arena::enqueue. Of the arena's workers none is reserved for
 * the main thread, so that it does no work; there may be more than processors.
 */
#include <oneapi/tbb/concurrent_queue.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <memory>
#include <thread>
#include <vector>

#include "contestant.h"
#include "counts.h"

namespace {

struct callback {
	bench_fn *fn; /* null: the worker ends, and passes it on */
	void *arg;
};

template <class QUEUE> struct producer {
	sent count;
	QUEUE *of;
};

template <class QUEUE> void *begin(void *arg)
{
	auto *p = new producer<QUEUE>;

	p->of = static_cast<QUEUE *>(arg);
	counts_begin(&p->of->done, &p->count);
	return p;
}

template <class QUEUE> void end(void *arg)
{
	auto *p = static_cast<producer<QUEUE> *>(arg);

	counts_end(&p->of->done, &p->count);
	delete p;
}

template <class QUEUE> void finish(void *arg)
{
	counts_wait(&static_cast<QUEUE *>(arg)->done);
}

/* ---------------------------------------------------------------- the queue */

struct queue {
	tbb::concurrent_bounded_queue<callback> q;
	counts done;
	std::vector<std::thread> workers;
};

void work(queue *q)
{
	callback c;
	uint64_t ran = 0;

	for (;; ran++) {
		if (!q->q.try_pop(c)) {
			counts_ran(&q->done, ran);
			ran = 0;
			q->q.pop(c);
		}
		if (c.fn == nullptr) {
			q->q.push(c);
			return;
		}
		c.fn(c.arg);
	}
}

void *queue_create(unsigned workers)
{
	auto *q = new queue;

	counts_init(&q->done);
	for (unsigned i = 0; i < workers; i++)
		q->workers.emplace_back(work, q);
	return q;
}

void queue_destroy(void *arg)
{
	auto *q = static_cast<queue *>(arg);

	q->q.push(callback{ nullptr, nullptr });
	for (auto &w : q->workers)
		w.join();
	counts_destroy(&q->done);
	delete q;
}

int queue_enqueue(void *arg, bench_fn *fn, void *fn_arg)
{
	auto *p = static_cast<producer<queue> *>(arg);

	p->count.n++;
	p->of->q.push(callback{ fn, fn_arg });
	return 0;
}

void queue_run_here(void *arg)
{
	auto *q = static_cast<queue *>(arg);
	callback c;
	uint64_t n = 0;

	for (; q->q.try_pop(c); n++)
		c.fn(c.arg);
	counts_ran(&q->done, n);
}

/* ---------------------------------------------------------------- the arena */

struct arena {
	tbb::global_control limit;
	tbb::task_arena a;
	counts done;

	explicit arena(unsigned workers)
	    : limit(tbb::global_control::max_allowed_parallelism, workers + 1), /* and main */
	      a(static_cast<int>(workers), 0)
	{
		counts_init(&done);
		a.initialize();
	}
	~arena() { counts_destroy(&done); }
};

/* Its workers outlive the arena, unless the scheduler is ended. */
tbb::task_scheduler_handle *scheduler()
{
	static std::unique_ptr<tbb::task_scheduler_handle> handle;

	if (!handle || !*handle)
		handle = std::make_unique<tbb::task_scheduler_handle>(tbb::attach{});
	return handle.get();
}

void *arena_create(unsigned workers)
{
	if (workers == 0)
		return nullptr; /* what is enqueued is for workers only */
	scheduler();
	return new arena(workers);
}

void arena_destroy(void *a)
{
	delete static_cast<arena *>(a);
	tbb::finalize(*scheduler());
}

int arena_enqueue(void *arg, bench_fn *fn, void *fn_arg)
{
	auto *p = static_cast<producer<arena> *>(arg);
	arena *a = p->of;

	p->count.n++;
	a->a.enqueue([a, fn, fn_arg] {
		fn(fn_arg);
		counts_ran_one(&a->done); /* nothing tells when a worker finds no more */
	});
	return 0;
}

void arena_finish(void *a)
{
	counts_wait_ones(&static_cast<arena *>(a)->done);
}

constexpr contestant make(const char *name)
{
	contestant c = {};

	c.name = name;
	c.flush = bench_no_flush;
	return c;
}

constexpr contestant make_queue()
{
	contestant c = make("tbb_queue");

	c.create = queue_create;
	c.destroy = queue_destroy;
	c.begin = begin<queue>;
	c.end = end<queue>;
	c.enqueue = queue_enqueue;
	c.finish = finish<queue>;
	c.run_here = queue_run_here;
	return c;
}

constexpr contestant make_arena()
{
	contestant c = make("tbb_arena");

	c.create = arena_create;
	c.destroy = arena_destroy;
	c.begin = begin<arena>;
	c.end = end<arena>;
	c.enqueue = arena_enqueue;
	c.finish = arena_finish;
	return c;
}

} /* namespace */

extern "C" {
extern const contestant contestant_tbb_queue, contestant_tbb_arena;
constexpr contestant contestant_tbb_queue = make_queue();
constexpr contestant contestant_tbb_arena = make_arena();
}
