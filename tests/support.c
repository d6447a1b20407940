/* SPDX-License-Identifier: BSD-2-Clause */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void check_failed(const char *file, int line, const char *func, const char *condition)
{
	fprintf(stderr, "%s:%d: %s: check failed: %s\n", file, line, func, condition);
	fflush(NULL);
	abort();
}

/* ------------------------------------------------------- chance and time */

/* splitmix64: any seed is good, also 0 and 1. */
uint64_t rng_next(rng_t *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t rng_below(rng_t *r, uint64_t n)
{
	return rng_next(r) % n;
}

uint64_t test_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t seed;

static void choose_seed(void)
{
	const char *s = getenv("CQ_TEST_SEED");
	rng_t r = { test_now() ^ (uint64_t)getpid() << 32 };

	seed = s != NULL ? strtoull(s, NULL, 0) : rng_next(&r);
	printf("CQ_TEST_SEED=0x%" PRIx64 "\n", seed);
	fflush(stdout);
}

uint64_t test_seed(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, choose_seed);
	return seed;
}

rng_t rng_for(unsigned thread)
{
	rng_t r = { test_seed() + thread };

	r.state = rng_next(&r);
	return r;
}

static uint64_t seconds_from_now(const char *variable, double seconds)
{
	const char *s = getenv(variable);

	return test_now() + (uint64_t)((s != NULL ? strtod(s, NULL) : seconds) * 1e9);
}

uint64_t run_until(double seconds)
{
	return seconds_from_now("CQ_STRESS_SECONDS", seconds);
}

uint64_t wait_limit(void)
{
	return seconds_from_now("CQ_TEST_LIMIT", 30);
}

/* ---------------------------------------------------------------- threads */

/* Waits on `cond`, once and no longer than a tenth of a second: then the caller looks at its clock. */
static void wait_once(pthread_cond_t *cond, pthread_mutex_t *lock)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += 100000000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(cond, lock, &ts);
}

void gate_open(void *gate)
{
	gate_t *g = gate;

	pthread_mutex_lock(&g->lock);
	g->open = true;
	pthread_cond_broadcast(&g->opened);
	pthread_mutex_unlock(&g->lock);
}

bool gate_wait_until(gate_t *g, uint64_t deadline)
{
	bool open;

	pthread_mutex_lock(&g->lock);
	while (!g->open && test_now() < deadline)
		wait_once(&g->opened, &g->lock);
	open = g->open;
	pthread_mutex_unlock(&g->lock);
	return open;
}

void gate_wait(void *gate)
{
	CHECK(gate_wait_until(gate, wait_limit()));
}

pthread_t start(void *(*body)(void *arg), void *arg)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, body, arg) == 0);
	return thread;
}

void *join(pthread_t thread)
{
	void *result;

	CHECK(pthread_join(thread, &result) == 0);
	return result;
}

static void *watch(void *arg)
{
	watchdog_t *w = arg;
	unsigned long long last;

	do {
		last = *w->progress;
		if (gate_wait_until(&w->stop, wait_limit()))
			return NULL;
	} while (*w->progress != last);
	fprintf(stderr, "no progress; CQ_TEST_SEED=0x%" PRIx64 "\n", seed);
	w->dump();
	fflush(NULL);
	abort();
}

void watchdog_start(watchdog_t *w, const atomic_ullong *progress, void (*dump)(void))
{
	*w = (watchdog_t){ .progress = progress, .dump = dump, .stop = GATE_INITIALIZER };
	w->thread = start(watch, w);
}

void watchdog_stop(watchdog_t *w)
{
	gate_open(&w->stop);
	join(w->thread);
}

/*
 * AddressSanitizer before LLVM 17 knows nothing of fork: what another thread has locked of its
 * allocator and of its list of threads, when one forks, stays locked in the child. There each thread
 * hangs that allocates, frees, begins or ends. So in the Criterion tests a fork waits until
 * all other threads sleep in the kernel, where they hold no such lock; those in turn() on a lock.
 */
#if defined(__SANITIZE_ADDRESS__) && defined(CQ_POINTS)
static pthread_mutex_t forking = PTHREAD_MUTEX_INITIALIZER;

void turn(void)
{
	pthread_mutex_lock(&forking);
	pthread_mutex_unlock(&forking);
	sched_yield();
}

/* One that has ended meanwhile has no status. Adds how often it was switched off so far. */
static bool sleeps(const char *thread, uint64_t *switches)
{
	char path[64], line[256], state;
	bool asleep = false;
	uint64_t n;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%.20s/status", thread);
	if ((f = fopen(path, "r")) == NULL)
		return false;
	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "State: %c", &state) == 1)
			asleep = state != 'R' && state != 'D';
		if (sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %" SCNu64, &n) == 1)
			*switches += n;
	}
	fclose(f);
	return asleep;
}

static bool others_sleep(uint64_t *switches)
{
	DIR *tasks = opendir("/proc/self/task");
	char self[64] = "/";
	bool all = true;

	*switches = 0;
	if (tasks == NULL || readlink("/proc/thread-self", self, sizeof(self) - 1) < 0)
		return true; /* no system that says it */
	for (const struct dirent *d; all && (d = readdir(tasks)) != NULL;)
		if (d->d_name[0] != '.' && strcmp(d->d_name, strrchr(self, '/') + 1) != 0)
			all = sleeps(d->d_name, switches);
	closedir(tasks);
	return all;
}

/* Twice, and none has run in between: so there was a moment at which all slept. */
static void before_fork(void)
{
	uint64_t limit = wait_limit(), before, after;

	pthread_mutex_lock(&forking);
	while (!others_sleep(&before) || !others_sleep(&after) || before != after) {
		CHECK(test_now() < limit);
		sched_yield();
	}
}

static void after_fork(void)
{
	pthread_mutex_unlock(&forking);
}

/* First of all: so before_fork is the last of the handlers, and after_fork the first. */
__attribute__((constructor)) static void register_forks(void)
{
	CHECK(pthread_atfork(before_fork, after_fork, after_fork) == 0);
}
#else
void turn(void)
{
	sched_yield();
}
#endif

struct runner {
	pthread_t thread;
	gate_t *go;
	void (*body)(void *arg, unsigned index);
	void *arg;
	unsigned index;
};

static void *run(void *arg)
{
	struct runner *r = arg;

	gate_wait(r->go);
	r->body(r->arg, r->index);
	return NULL;
}

void run_threads(unsigned n, void (*body)(void *arg, unsigned index), void *arg)
{
	struct runner *r = calloc(n, sizeof(*r));
	gate_t go = GATE_INITIALIZER;

	CHECK(r != NULL);
	for (unsigned i = 0; i < n; i++) {
		r[i] = (struct runner){ .go = &go, .body = body, .arg = arg, .index = i };
		r[i].thread = start(run, &r[i]);
	}
	gate_open(&go);
	for (unsigned i = 0; i < n; i++)
		join(r[i].thread);
	free(r);
}

bool test_child_has_threads(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return false;
#elif defined(__has_feature)
	return !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer) &&
	    getenv("CQ_NO_FORKS") == NULL;
#else
	return getenv("CQ_NO_FORKS") == NULL;
#endif
}

/* -------------------------------------------------------- schedule points */

enum { RULES = 16 };

static struct rule {
	const char *where; /* NULL: unused */
	test_act_fn *act;
	void *ctx;
} rules[RULES];
static struct {
	test_hook_fn *hook;
	void *ctx;
} every;
static pthread_mutex_t points_lock = PTHREAD_MUTEX_INITIALIZER; /* of the two above */
static atomic_uint armed; /* rules and hook, so that a test without any pays little */
static _Thread_local bool in_hook;

void at_point(const char *where, test_act_fn *act, void *ctx)
{
	unsigned i = 0;

	pthread_mutex_lock(&points_lock);
	while (i < RULES && rules[i].where != NULL)
		i++;
	CHECK(i < RULES);
	rules[i] = (struct rule){ where, act, ctx };
	pthread_mutex_unlock(&points_lock);
	armed++;
}

void at_every_point(test_hook_fn *hook, void *ctx)
{
	pthread_mutex_lock(&points_lock);
	armed += (hook != NULL) - (every.hook != NULL);
	every.hook = hook;
	every.ctx = ctx;
	pthread_mutex_unlock(&points_lock);
}

/* Takes the oldest rule for this place; its act may pass points itself, and set new rules. */
static struct rule take_rule(const char *where)
{
	struct rule found = { NULL, NULL, NULL };

	pthread_mutex_lock(&points_lock);
	for (unsigned i = 0; i < RULES && found.where == NULL; i++) {
		if (rules[i].where != NULL && strcmp(rules[i].where, where) == 0) {
			found = rules[i];
			rules[i].where = NULL;
			armed--;
		}
	}
	pthread_mutex_unlock(&points_lock);
	return found;
}

static void call_hook(const char *where)
{
	test_hook_fn *hook;
	void *ctx;

	pthread_mutex_lock(&points_lock);
	hook = every.hook;
	ctx = every.ctx;
	pthread_mutex_unlock(&points_lock);
	if (hook != NULL)
		hook(where, ctx);
}

void cq_point(const char *where)
{
	bool nested = in_hook;
	struct rule rule;

	if (armed == 0)
		return;
	in_hook = true;
	if (!nested)
		call_hook(where);
	rule = take_rule(where);
	if (rule.where != NULL)
		rule.act(rule.ctx);
	in_hook = nested;
}

/* -------------------------------------------------------------- fake park */

static uint64_t fake_now(void *host)
{
	fake_park_t *f = host;
	uint64_t now;

	pthread_mutex_lock(&f->lock);
	f->clock_reads++;
	now = f->now;
	pthread_mutex_unlock(&f->lock);
	return now;
}

/* A thread in park. Whoever ends its wait takes it off the list, so that `blocked` is exact. */
struct fake_blocked {
	const cq_parker_t *parker;
	uint64_t deadline;
	bool released;
	struct fake_blocked *next;
};

/* Those who wait on `parker` (NULL: any) and whose deadline is `until` or before. */
static void release(fake_park_t *f, const cq_parker_t *parker, uint64_t until)
{
	for (struct fake_blocked **link = &f->list, *b; (b = *link) != NULL;) {
		if ((parker != NULL && b->parker != parker) || b->deadline > until) {
			link = &b->next;
			continue;
		}
		*link = b->next;
		b->released = true;
		f->blocked--;
	}
	pthread_cond_broadcast(&f->changed);
}

static void block(fake_park_t *f, const cq_parker_t *parker, uint64_t deadline)
{
	struct fake_blocked me = { parker, deadline, false, f->list };
	uint64_t limit = wait_limit();

	if (cq_parker_granted(parker) || f->now >= deadline)
		return;
	f->list = &me;
	f->blocked++;
	pthread_cond_broadcast(&f->changed);
	while (!me.released) {
		CHECK(test_now() < limit);
		wait_once(&f->changed, &f->lock);
	}
}

static void fake_park(void *host, cq_parker_t *parker, uint64_t deadline)
{
	fake_park_t *f = host;
	test_act_fn *script;
	gate_t *leave;

	pthread_mutex_lock(&f->lock);
	f->parks++;
	f->deadline = deadline;
	f->host = parker->host;
	script = f->script;
	if (script == NULL)
		block(f, parker, deadline);
	leave = f->leave;
	pthread_mutex_unlock(&f->lock);
	if (script != NULL)
		script(f->ctx);
	else if (leave != NULL)
		gate_wait(leave);
}

static void fake_unpark(void *host, cq_parker_t *parker)
{
	fake_park_t *f = host;

	if (f->free_lock != NULL) {
		CHECK(pthread_mutex_trylock(f->free_lock) == 0);
		pthread_mutex_unlock(f->free_lock);
	}
	pthread_mutex_lock(&f->lock);
	CHECK(!cq_parker_granted(parker));
	f->unparked[f->unparks++ % 16] = parker->host;
	cq_parker_grant(parker);
	release(f, parker, CQ_FOREVER);
	pthread_mutex_unlock(&f->lock);
}

void fake_init(fake_park_t *f)
{
	*f = (fake_park_t){ .ops = { fake_now, fake_park, fake_unpark, f } };
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
}

void fake_advance(fake_park_t *f, uint64_t ns)
{
	pthread_mutex_lock(&f->lock);
	f->now += ns;
	release(f, NULL, f->now);
	pthread_mutex_unlock(&f->lock);
}

void fake_disturb(fake_park_t *f)
{
	pthread_mutex_lock(&f->lock);
	release(f, NULL, CQ_FOREVER);
	pthread_mutex_unlock(&f->lock);
}

void fake_wait_blocked(fake_park_t *f, unsigned n)
{
	uint64_t limit = wait_limit();

	pthread_mutex_lock(&f->lock);
	while (f->blocked != n) {
		CHECK(test_now() < limit);
		wait_once(&f->changed, &f->lock);
	}
	pthread_mutex_unlock(&f->lock);
}

/* ------------------------------------------------------ failing allocator */

/* Before each allocation, in `align` or more bytes of its own. */
struct prefix {
	size_t bytes, offset;
	uint64_t magic;
};

enum { POISON = 0xdb };
static const uint64_t magic = UINT64_C(0x6c69626371616c6c);

/* Is this the call that fails? */
static bool must_fail(test_alloc_t *a)
{
	long left = a->fail_in;

	while (left > 0 && !atomic_compare_exchange_weak(&a->fail_in, &left, left - 1))
		;
	if (left == 1 && a->fail_on)
		a->fail_in = 1;
	return left == 1;
}

static void *counting_alloc(void *host, size_t bytes, size_t align)
{
	test_alloc_t *a = host;
	size_t offset = align > sizeof(struct prefix) ? align : sizeof(struct prefix);
	char *p;

	CHECK(bytes > 0 && align > 0 && (align & (align - 1)) == 0);
	a->calls++;
	if (must_fail(a) || (a->fails != NULL && a->fails())) {
		a->failures++;
		return NULL;
	}
	offset = (offset + align - 1) & ~(align - 1);
	if (posix_memalign((void **)&p, align < sizeof(void *) ? sizeof(void *) : align,
	    offset + bytes) != 0)
		return NULL;
	memset(p, POISON, offset + bytes);
	((struct prefix *)(void *)(p + offset))[-1] = (struct prefix){ bytes, offset, magic };
	a->live_bytes += bytes;
	return p + offset;
}

static void counting_free(void *host, void *memory, size_t bytes)
{
	test_alloc_t *a = host;
	struct prefix prefix;

	CHECK(memory != NULL);
	prefix = ((struct prefix *)memory)[-1];
	CHECK(prefix.magic == magic && prefix.bytes == bytes);
	a->live_bytes -= bytes;
	memset((char *)memory - sizeof(prefix), POISON, sizeof(prefix) + bytes);
	free((char *)memory - prefix.offset);
}

void test_alloc_init(test_alloc_t *a)
{
	*a = (test_alloc_t){ .allocator = { counting_alloc, counting_free, a } };
}

/* -------------------------------------------------------------------- fork */

pid_t test_child = -1;

bool test_forked(void)
{
	alarm(30);
	test_child = fork();
	CHECK(test_child >= 0);
	return test_child == 0;
}

bool test_child_ended(void)
{
	int status;

	CHECK(waitpid(test_child, &status, 0) == test_child);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
