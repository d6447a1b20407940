/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Threads that take turns on one, and what they wait for: locks, condition
 * variables, futexes, each other, and time, which passes only when a wait with a
 * deadline ends by it. Before each step that other threads could notice, the
 * explorer picks who goes on.
 */
#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "machine.h"

#define NEVER UINT64_MAX

static const char *const waits[] = {
	[NOTHING] = "nothing", [A_LOCK] = "a lock", [A_SIGNAL] = "a condition variable",
	[A_FUTEX] = "a futex", [A_THREAD] = "the end of a thread"
};

/* ---------------------------------------------------------------- the state */

void note(uint64_t seen)
{
	self()->hash = mix(self()->hash, seen);
}

static uint64_t thread_state(const struct thread *t)
{
	uint64_t h = mix((uint64_t)(t - m->threads), t->hash);

	/* Who joins it will know what it knew. */
	if (t->status == ENDED)
		return mix(mix((uint64_t)(t - m->threads), 99), t->joined ? 0 : view_hash(&t->cur));
	h = mix(h, (uint64_t)t->status << 32 | (uint64_t)t->what << 16 |
	    (uint64_t)t->signalled << 1 | (uint64_t)t->yielded);
	h = mix(h, t->where);
	h = mix(h, t->deadline);
	h = mix(h, view_hash(&t->cur));
	h = mix(h, view_hash(&t->rel));
	return mix(h, view_hash(&t->acq));
}

static uint64_t whole_state(void)
{
	uint64_t h = memory_state();

	for (int t = 0; t < m->nthreads; t++)
		h += thread_state(&m->threads[t]);
	h = mix(h, m->now);
	h = mix(h, (uint64_t)m->left.stale << 32 | (uint32_t)m->left.spurious);
	return mix(h, (uint64_t)m->current);
}

/* --------------------------------------------------------------- scheduling */

enum how { GOES_ON, TIMES_OUT, FOR_NO_REASON };

struct option {
	int thread;
	enum how how;
};

static struct object *object(uintptr_t a);

/* May this blocked thread go on without more ado? */
static bool may_go_on(const struct thread *t)
{
	switch (t->what) {
	case A_LOCK:
		return object(t->where)->owner == -1;
	case A_THREAD:
		return m->threads[t->where].status == ENDED;
	case A_SIGNAL:
	case A_FUTEX:
		return t->signalled;
	case NOTHING:
		break;
	}
	return true;
}

static int add_blocked(struct option *o, int n, int i)
{
	const struct thread *t = &m->threads[i];

	if (may_go_on(t)) {
		o[n++] = (struct option){ i, GOES_ON };
	} else if (t->what == A_SIGNAL || t->what == A_FUTEX) {
		if (t->deadline != NEVER)
			o[n++] = (struct option){ i, TIMES_OUT };
		if (m->left.spurious != 0)
			o[n++] = (struct option){ i, FOR_NO_REASON };
	}
	return n;
}

/* Who may go on; the current thread first, if it may. */
static int collect(struct option *o)
{
	int n = 0;

	if (self()->status == READY && !self()->yielded) {
		o[n++] = (struct option){ m->current, GOES_ON };
		if (m->left.preemptions == 0)
			return n;
	}
	for (int i = 0; i < m->nthreads; i++) {
		if (m->threads[i].status == BLOCKED)
			n = add_blocked(o, n, i);
		else if (m->threads[i].status == READY && i != m->current)
			o[n++] = (struct option){ i, GOES_ON };
	}
	if (n == 0 && self()->status == READY)
		o[n++] = (struct option){ m->current, GOES_ON }; /* it yields to nobody */
	return n;
}

static void switch_to(int i)
{
	struct thread *from = self(), *to = &m->threads[i];
	size_t bytes;
	void *tls = tls_block(&bytes);

	m->current = i;
	if (from == to)
		return;
	memcpy(from->tls, tls, bytes);
	memcpy(tls, to->tls, bytes);
	if (_setjmp(from->at) != 0)
		return;
	if (to->created) {
		_longjmp(to->at, 1);
	} else {
		to->created = true;
		setcontext(&to->context);
	}
}

static void deadlock(void)
{
	for (int i = 0; i < m->nthreads; i++)
		if (m->threads[i].status == BLOCKED && m->tracing)
			trace(waits[m->threads[i].what], m->threads[i].where, (uint64_t)i, NULL);
	model_fail("all threads wait for ever");
}

/* Who goes on from here? Returns in the thread that called, when its turn has come. */
static void decide(void)
{
	struct option o[3 * MAX_THREADS];
	struct thread *t = self(), *next;
	bool preempts = t->status == READY && !t->yielded;
	int n, taken;

	if (m->at >= m->replay && m->nthreads > 1 &&
	    seen_before(whole_state(), m->left.preemptions))
		prune();
	n = collect(o);
	if (n == 0)
		deadlock();
	taken = pick(n);
	if (preempts && taken != 0 && m->left.preemptions > 0)
		m->left.preemptions--;

	next = &m->threads[o[taken].thread];
	next->woke = BY_WAKE;
	if (o[taken].how == TIMES_OUT) {
		next->woke = BY_TIMEOUT;
		if (m->now < next->deadline)
			m->now = next->deadline;
	} else if (o[taken].how == FOR_NO_REASON) {
		next->woke = BY_NOTHING;
		if (m->left.spurious > 0)
			m->left.spurious--;
	}
	next->status = READY;
	next->what = NOTHING;
	next->yielded = false;
	switch_to(o[taken].thread);
}

void point(void)
{
	settle_plain();
	if (++m->steps > MAX_STEPS)
		model_fail("it goes on for ever (%d steps)", MAX_STEPS);
	decide();
}

/* A spin loop: others first, and the word that it looks at will change in the end. */
void yield(void)
{
	struct thread *t = self();

	/* Several in a row are one: who looks at nothing between need not be held back. */
	if (t->hash == t->yielded_at)
		return;
	settle_plain();
	if (m->locations[t->last_load].live)
		t->cur.ts[t->last_load] = m->locations[t->last_load].newest;
	t->yielded = true;
	note(17);
	point();
	t->yielded = false;
	t->yielded_at = t->hash;
}

static enum woke block(enum waiting_for what, uintptr_t where, uint64_t deadline)
{
	struct thread *t = self();

	t->status = BLOCKED;
	t->what = what;
	t->where = where;
	t->deadline = deadline;
	t->signalled = false;
	decide();
	note(23 + (uint64_t)t->woke);
	return t->woke;
}

/* ------------------------------------------------------------ their lives */

static void start(int i)
{
	struct thread *t = &m->threads[i];

	t->body(t->arg);
	settle_plain();
	t->status = ENDED;
	tick(t);
	decide();
}

static int new_thread(void *(*body)(void *), void *arg)
{
	int i = m->nthreads++;
	struct thread *t = &m->threads[i];

	if (i == MAX_THREADS)
		model_fail("too many threads: raise MAX_THREADS");
	settle_plain();
	memset(t, 0, offsetof(struct thread, at));
	t->status = READY;
	t->body = body;
	t->arg = arg;
	t->hash = (uint64_t)i + 1;
	if (i != 0)
		synchronize(&t->cur, self());
	t->cur.clock[i] = t->cur.clock[READS + i] = 1;
	memset(t->tls, 0, sizeof(t->tls));
	getcontext(&t->context);
	t->context.uc_stack.ss_sp = stack_of(i);
	t->context.uc_stack.ss_size = STACK_BYTES;
	t->context.uc_link = NULL;
	makecontext(&t->context, (void (*)(void))start, 1, i);
	if (i != 0) {
		tick(self());
		note(29);
	}
	return i;
}

void join(int i)
{
	struct thread *t = &m->threads[i];

	settle_plain();
	while (t->status != ENDED)
		block(A_THREAD, (uintptr_t)i, NEVER);
	synchronize(&self()->cur, t);
	t->joined = true;
}

struct spawned {
	void (*body)(void *);
	void *arg;
};

static void *run_spawned(void *arg)
{
	struct spawned s = *(struct spawned *)arg;

	s.body(s.arg);
	return NULL;
}

static struct spawned spawned[MAX_THREADS]; /* set back with the data segments */

int spawn(void (*body)(void *), void *arg)
{
	struct spawned *s = &spawned[m->nthreads % MAX_THREADS];

	*s = (struct spawned){ body, arg };
	return new_thread(run_spawned, s);
}

void join_all(void)
{
	for (int i = 1; i < m->nthreads; i++)
		if (m->threads[i].body == run_spawned && !m->threads[i].joined)
			join(i);
}

static void *scenario_body(void *arg)
{
	(void)arg;
	m->scenario->run();
	settle_plain();
	for (int i = 1; i < m->nthreads; i++)
		if (m->threads[i].status != ENDED || !m->threads[i].joined)
			model_fail("thread %d is left running or unjoined", i);
	if (m->allocated != 0)
		model_fail("leak: %lu allocations are not freed", (unsigned long)m->allocated);
	_longjmp(m->driver, 1);
	return NULL;
}

void threads_reset(void)
{
	m->nthreads = 0;
	m->current = 0;
	m->now = 1000;
	m->steps = 0;
}

void run_thread_0(void)
{
	size_t bytes;
	void *tls = tls_block(&bytes);

	new_thread(scenario_body, NULL);
	memset(tls, 0, bytes);
	m->threads[0].created = true;
	setcontext(&m->threads[0].context);
}

/* ------------------------------------------------ locks, condition variables */

static struct object *object(uintptr_t a)
{
	struct cell *c = cell_of(a);
	struct object *o;

	if (c->object != 0)
		return &m->objects[c->object - 1];
	if (m->nobjects == MAX_OBJECTS)
		model_fail("too many locks: raise MAX_OBJECTS");
	o = &m->objects[m->nobjects++];
	memset(o, 0, sizeof(*o));
	o->address = a;
	o->owner = -1;
	c->object = (uint16_t)m->nobjects;
	return o;
}

static void take_lock(uintptr_t a)
{
	struct object *o = object(a);

	while (o->owner != -1) {
		if (o->owner == m->current)
			model_fail("a thread locks what it holds");
		block(A_LOCK, a, NEVER);
	}
	o->owner = m->current;
	view_join(&self()->cur, &o->view);
	note(31);
	trace("lock", a, 0, NULL);
}

static void drop_lock(uintptr_t a)
{
	struct object *o = object(a);

	settle_plain();
	if (o->owner != m->current)
		model_fail("a thread unlocks what it doesn't hold");
	o->owner = -1;
	o->view = self()->cur;
	o->hash = view_hash(&o->view);
	tick(self());
	note(37);
	trace("unlock", a, 0, NULL);
}

int __wrap_pthread_mutex_init(pthread_mutex_t *lock, const pthread_mutexattr_t *attr)
{
	(void)attr;
	settle_plain();
	object((uintptr_t)lock)->owner = -1;
	return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *lock)
{
	settle_plain();
	if (object((uintptr_t)lock)->owner != -1)
		model_fail("a lock is destroyed that thread %d holds", object((uintptr_t)lock)->owner);
	return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
	if (cell_of((uintptr_t)lock)->freed)
		model_fail("a lock is taken whose memory was freed");
	point();
	take_lock((uintptr_t)lock);
	return 0;
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t *lock)
{
	point();
	if (object((uintptr_t)lock)->owner != -1) {
		note(39);
		return EBUSY;
	}
	take_lock((uintptr_t)lock);
	return 0;
}

/* Others need no chance before it: what they could do then they can do after it. */
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
	if (cell_of((uintptr_t)lock)->freed)
		model_fail("a lock is released whose memory was freed");
	drop_lock((uintptr_t)lock);
	return 0;
}

static bool waits_at(int i, enum waiting_for what, uintptr_t where)
{
	const struct thread *t = &m->threads[i];

	return t->status == BLOCKED && t->what == what && t->where == where && !t->signalled;
}

/* Ends the waits of up to n threads, any n of them. Returns how many. */
static int wake(enum waiting_for what, uintptr_t where, int n)
{
	int woken = 0;

	for (; woken < n; woken++) {
		int there[MAX_THREADS], k = 0;

		for (int i = 0; i < m->nthreads; i++)
			if (waits_at(i, what, where))
				there[k++] = i;
		if (k == 0)
			break;
		m->threads[there[k <= n - woken ? 0 : pick(k)]].signalled = true;
	}
	note(41 + (uint64_t)woken);
	return woken;
}

int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
	(void)c;
	(void)attr;
	return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *c)
{
	(void)c;
	return 0;
}

static int cond_wait(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t deadline)
{
	enum woke woke;

	settle_plain();
	drop_lock((uintptr_t)lock);
	trace("wait", (uintptr_t)c, deadline, NULL);
	woke = block(A_SIGNAL, (uintptr_t)c, deadline);
	take_lock((uintptr_t)lock);
	return woke == BY_TIMEOUT ? ETIMEDOUT : 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *lock)
{
	return cond_wait(c, lock, NEVER);
}

static uint64_t ns_of(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * 1000000000 + (uint64_t)ts->tv_nsec;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *lock,
    const struct timespec *until)
{
	return cond_wait(c, lock, ns_of(until));
}

int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
	point();
	wake(A_SIGNAL, (uintptr_t)c, 1);
	trace("signal", (uintptr_t)c, 0, NULL);
	return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
	point();
	wake(A_SIGNAL, (uintptr_t)c, MAX_THREADS);
	trace("broadcast", (uintptr_t)c, 0, NULL);
	return 0;
}

int __wrap_pthread_once(pthread_once_t *once, void (*init)(void))
{
	point();
	take_lock((uintptr_t)once);
	if (*once == PTHREAD_ONCE_INIT) {
		*once = 2;
		init();
	}
	drop_lock((uintptr_t)once);
	return 0;
}

/* ------------------------------------------------------------------ pthreads */

/* No scenario forks. */
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
	(void)prepare;
	(void)parent;
	(void)child;
	return 0;
}

int __wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*body)(void *),
    void *arg)
{
	(void)attr;
	*out = (pthread_t)new_thread(body, arg) + 1;
	return 0;
}

int __wrap_pthread_join(pthread_t t, void **result)
{
	(void)result;
	join((int)t - 1);
	return 0;
}

pthread_t __wrap_pthread_self(void)
{
	return (pthread_t)m->current + 1;
}

/* Threads take turns with one block of thread-local variables, so with one address of each. */
const void *__wrap_cq_thread_mark(void)
{
	return self();
}

int __wrap_pthread_setname_np(pthread_t t, const char *name)
{
	(void)t;
	(void)name;
	return 0;
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	(void)how;
	(void)set;
	(void)old;
	return 0;
}

/* All threads are on one, so that they meet in what there is one of for each; unless they say otherwise. */
void run_on(unsigned cpu)
{
	self()->cpu = cpu;
}

uint32_t __wrap_cq_cpu(void)
{
	return self()->cpu;
}

int __wrap_sched_yield(void)
{
	yield();
	return 0;
}

/* Others run meanwhile; it is over as soon as they wait. */
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left)
{
	(void)ts;
	(void)left;
	yield();
	return 0;
}

/* -------------------------------------------------------------- system calls */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	plain((uintptr_t)ts, sizeof(*ts), true, __builtin_return_address(0));
	ts->tv_sec = (time_t)(m->now / 1000000000);
	ts->tv_nsec = (long)(m->now % 1000000000);
	return 0;
}

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *until)
{
	if ((op & FUTEX_CMD_MASK) == FUTEX_WAKE) {
		point();
		value = (uint32_t)wake(A_FUTEX, (uintptr_t)word, (int)value);
		trace("futex wake", (uintptr_t)word, value, NULL);
		return value;
	}
	point();
	if (newest((uintptr_t)word, 4) != value) {
		note(43);
		errno = EAGAIN;
		return -1;
	}
	trace("futex wait", (uintptr_t)word, value, NULL);
	if (block(A_FUTEX, (uintptr_t)word, until != NULL ? ns_of(until) : NEVER) == BY_TIMEOUT) {
		errno = ETIMEDOUT;
		return -1;
	}
	return 0;
}

/* Each of the others executes a fence, at an instant of its own, and then the caller. */
static long membarrier(int command)
{
	if (command != MEMBARRIER_CMD_PRIVATE_EXPEDITED)
		return 0;
	for (int i = 0; i < m->nthreads; i++) {
		if (i == m->current)
			continue;
		if (m->threads[i].status != ENDED) /* else the kernel has seen to it */
			point();
		fence_full(&m->threads[i]);
		note(47);
	}
	fence_full(self());
	trace("membarrier", 0, 0, NULL);
	return 0;
}

long __wrap_syscall(long number, ...)
{
	va_list ap;
	long result = -1;

	va_start(ap, number);
	settle_plain();
	if (number == SYS_futex) {
		uint32_t *word = va_arg(ap, uint32_t *);
		int op = va_arg(ap, int);
		uint32_t value = va_arg(ap, uint32_t);

		result = futex(word, op, value, va_arg(ap, const struct timespec *));
	} else if (number == SYS_membarrier) {
		result = membarrier(va_arg(ap, int));
	} else {
		model_fail("system call %ld", number);
	}
	va_end(ap);
	return result;
}
