/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The search: depth first through the tree of choices, each execution from the
 * start along a path that differs from the last one in its last choice. A state
 * that was seen before, with as many preemptions left, is not gone on from.
 */
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

int __real_clock_gettime(clockid_t clock, struct timespec *ts);

struct machine *const m = (struct machine *)UINT64_C(0x200000000000);

/* ---------------------------------------------------------- names, for traces */

static const char *strings;
static const Elf64_Sym *symbols;
static size_t nsymbols;

static void read_symbols(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	const Elf64_Shdr *sections;
	const Elf64_Ehdr *elf;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0)
		return;
	elf = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (elf == MAP_FAILED)
		return;
	sections = (const void *)((const char *)elf + elf->e_shoff);
	for (int i = 0; i < elf->e_shnum; i++) {
		if (sections[i].sh_type != SHT_SYMTAB)
			continue;
		symbols = (const void *)((const char *)elf + sections[i].sh_offset);
		nsymbols = sections[i].sh_size / sizeof(*symbols);
		strings = (const char *)elf + sections[sections[i].sh_link].sh_offset;
	}
}

/* The function that pc is in. The program is not position-independent. */
const char *symbol_of(const void *pc)
{
	for (size_t i = 0; i < nsymbols; i++)
		if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC &&
		    (uintptr_t)pc - symbols[i].st_value < symbols[i].st_size)
			return strings + symbols[i].st_name;
	return "?";
}

/* Where the code of a function is; empty, if it has been inlined everywhere. */
void code_of(const char *function, const void *from_to[2])
{
	from_to[0] = from_to[1] = NULL;
	for (size_t i = 0; i < nsymbols; i++)
		if (strcmp(strings + symbols[i].st_name, function) == 0) {
			from_to[0] = (const void *)symbols[i].st_value;
			from_to[1] = (const void *)(symbols[i].st_value + symbols[i].st_size);
		}
}

void trace(const char *what, uintptr_t address, uint64_t value, void *pc)
{
	if (m->tracing)
		printf("    thread %d  %-18s %#14lx  %#lx  %s\n", m->current, what,
		    (unsigned long)address, (unsigned long)value, pc != NULL ? symbol_of(pc) : "");
}

/* ------------------------------------------------------- the states seen so far */

static struct {
	uint64_t *keys;
	int8_t *left;	/* preemptions */
	size_t size, used;
} *seen; /* outside the data segments */

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		fprintf(stderr, "out of memory\n");
		exit(2);
	}
	return p;
}

static size_t slot_of(uint64_t key)
{
	size_t i = key & (seen->size - 1);

	while (seen->keys[i] != 0 && seen->keys[i] != key)
		i = (i + 1) & (seen->size - 1);
	return i;
}

static void forget_states(size_t size)
{
	if (seen->size != 0) {
		munmap(seen->keys, seen->size * sizeof(*seen->keys));
		munmap(seen->left, seen->size);
	}
	seen->size = size;
	seen->used = 0;
	seen->keys = map(size * sizeof(*seen->keys));
	seen->left = map(size);
}

static void grow(void)
{
	uint64_t *keys = seen->keys;
	int8_t *left = seen->left;
	size_t size = seen->size;

	seen->size = 0;
	forget_states(size * 2);
	for (size_t i = 0; i < size; i++) {
		size_t to;

		if (keys[i] == 0)
			continue;
		to = slot_of(keys[i]);
		seen->keys[to] = keys[i];
		seen->left[to] = left[i];
		seen->used++;
	}
	munmap(keys, size * sizeof(*keys));
	munmap(left, size);
}

bool seen_before(uint64_t state, int preemptions_left)
{
	uint64_t key = state != 0 ? state : 1;
	size_t i = slot_of(key);

	if (seen->keys[i] == key) {
		if (seen->left[i] >= preemptions_left)
			return true;
		seen->left[i] = (int8_t)preemptions_left;
		return false;
	}
	seen->keys[i] = key;
	seen->left[i] = (int8_t)preemptions_left;
	m->states++;
	if (++seen->used > seen->size / 2)
		grow();
	return false;
}

/* --------------------------------------------------------------------- choices */

int pick(int n)
{
	if (n == 1)
		return 0;
	if (m->at == m->depth) {
		if (m->depth == MAX_CHOICES)
			model_fail("too many choices: raise MAX_CHOICES");
		m->path[m->depth].n = (uint16_t)n;
		m->path[m->depth].taken = 0;
		m->depth++;
	}
	if (m->path[m->at].n != n) {
		fprintf(stderr, "the scenario is not deterministic: %d choices, before it were %d\n",
		    n, m->path[m->at].n);
		exit(2);
	}
	return m->path[m->at++].taken;
}

int choose(int n)
{
	int taken;

	settle_plain();
	taken = pick(n);
	note((uint64_t)taken);
	return taken;
}

void calm_down(void)
{
	m->left = (struct bounds){ 0, 0, 0 };
}

/* The next path; false when there is none. */
static bool next_path(void)
{
	while (m->depth > 0 && m->path[m->depth - 1].taken + 1 == m->path[m->depth - 1].n)
		m->depth--;
	if (m->depth == 0)
		return false;
	m->path[m->depth - 1].taken++;
	return true;
}

void prune(void)
{
	_longjmp(m->driver, 2);
}

void model_fail(const char *what, ...)
{
	va_list ap;

	if (m->tracing) {
		va_start(ap, what);
		printf("    thread %d  ", m->current);
		vprintf(what, ap);
		printf("\n");
		va_end(ap);
	}
	m->failed = true;
	_longjmp(m->driver, 3);
}

void expect(unsigned outcomes)
{
	m->expected = outcomes;
}

void outcome(unsigned i)
{
	if ((m->expected & 1U << i) == 0)
		model_fail("it comes to outcome %u", i);
	m->met |= 1U << i;
}

void expect_race(unsigned i)
{
	m->race_is = m->expected & 1U << i;
}

/* What a missing order does to pointers. */
static void crashed(int signal)
{
	model_fail("signal %d", signal);
}

static void catch_crashes(void)
{
	size_t bytes = 1 << 16;
	stack_t on = { .ss_sp = map(bytes), .ss_size = bytes };
	struct sigaction action = { .sa_handler = crashed, .sa_flags = SA_ONSTACK | SA_NODEFER };

	sigaltstack(&on, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGILL, &action, NULL);
}

static void execute(void)
{
	hooks_reset();
	memory_reset();
	threads_reset();
	m->left = m->bounds;
	m->race_is = 0;
	m->at = 0;
	m->replay = m->tracing ? SIZE_MAX : m->depth;
	if (_setjmp(m->driver) == 0)
		run_thread_0();
}

/* Of a processor: others that are busy don't make a search shorter. */
static double seconds(void)
{
	struct timespec ts;

	__real_clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Runs the path that failed once more, and prints it. */
static void show(void)
{
	m->tracing = true;
	m->failed = false;
	execute();
	m->failed = true;
}

enum end { COMPLETE, CUT_SHORT, FAILED };

/* All executions within the bounds, unless the time is over; no deadline: 0. */
static enum end search(const struct bounds *bounds, double deadline)
{
	m->bounds = *bounds;
	m->depth = 0;
	m->nlocations = 0;
	m->failed = m->tracing = false;
	forget_states((size_t)1 << 16);
	do {
		execute();
		m->executions++;
		if (deadline != 0 && m->executions % 256 == 0 && seconds() > deadline)
			return CUT_SHORT;
	} while (!m->failed && next_path());
	return m->failed ? FAILED : COMPLETE;
}

static int step_towards(int bound, int last)
{
	return bound == last ? bound : last == UNBOUNDED ? UNBOUNDED : bound + 1;
}

/* The next bounds on the way from `b` to `last`. False: there are none. */
static bool widen(struct bounds *b, const struct bounds *last)
{
	struct bounds before = *b;

	b->preemptions = step_towards(b->preemptions, last->preemptions);
	b->stale = step_towards(b->stale, last->stale);
	b->spurious = step_towards(b->spurious, last->spurious);
	return memcmp(b, &before, sizeof(before)) != 0;
}

/*
 * From the first bounds to the last, step by step while there is time: what the limit
 * leaves is then complete up to some bounds, not a part of the largest. The first have none, but on their own.
 */
static bool explore(const struct scenario *s, struct bounds bounds, const struct bounds *last,
    double limit, bool alone)
{
	double start = seconds();
	struct bounds done = bounds;
	unsigned missed = 0;
	enum end end;

	m->scenario = s;
	m->executions = m->states = 0;
	m->expected = m->met = 0;
	end = search(&bounds, alone && limit != 0 ? start + limit : 0);
	while (end == COMPLETE && widen(&bounds, last)) {
		end = search(&bounds, limit != 0 ? start + limit : 0);
		if (end == COMPLETE)
			done = bounds;
	}
	if (end == COMPLETE)
		missed = m->expected & ~m->met;

	printf("%-64s %9lu executions %9lu states %7.1f s  ", s->name,
	    (unsigned long)m->executions, (unsigned long)m->states, seconds() - start);
	if (end == FAILED) {
		printf("FAILED\n");
		show();
	} else if (missed != 0) {
		printf("FAILED\n    never comes to outcome %d\n", __builtin_ctz(missed));
	} else if (end == CUT_SHORT && alone) {
		printf("cut short\n");
	} else if (end == CUT_SHORT) {
		printf("ok to %d,%d,%d of %d,%d,%d\n", done.preemptions, done.stale, done.spurious,
		    last->preemptions, last->stale, last->spurious);
	} else {
		printf("ok\n");
	}
	fflush(stdout);
	return end != FAILED && missed == 0;
}

static bool wanted(const char *name, char **names)
{
	if (*names == NULL)
		return true;
	for (; *names != NULL; names++)
		if (strstr(name, *names) != NULL)
			return true;
	return false;
}

static void usage(void)
{
	fprintf(stderr, "Usage: explore [--full] [--first-failure] [--limit SECONDS]"
	    " [--bounds PREEMPTIONS,STALE,SPURIOUS] [PART-OF-A-NAME...]\n");
	exit(2);
}

static const struct scenario *const all[] = {
	workq_scenarios, sleepers_scenarios, pool_scenarios, cleanup_scenarios, shutdown_scenarios,
	litmus_scenarios
};

int main(int argc, char **argv)
{
	unsigned passed = 0, failed = 0;
	bool full = false, first = false, given = false;
	struct bounds bounds;
	double limit = 0;

	for (argc--, argv++; argc > 0 && argv[0][0] == '-'; argc--, argv++) {
		if (strcmp(*argv, "--full") == 0)
			full = true;
		else if (strcmp(*argv, "--first-failure") == 0)
			first = true;
		else if (strcmp(*argv, "--limit") == 0 && argc-- > 1)
			limit = atof(*++argv);
		else if (strcmp(*argv, "--bounds") == 0 && argc-- > 1)
			given = sscanf(*++argv, "%d,%d,%d", &bounds.preemptions, &bounds.stale,
			    &bounds.spurious) == 3;
		else
			usage();
	}

	if (mmap(m, sizeof(*m), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
	    MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0) != m)
		return 2;
	read_symbols();
	seen = map(sizeof(*seen));
	hooks_init();
	catch_crashes();
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		for (const struct scenario *s = all[i]; s->name != NULL; s++) {
			if (!wanted(s->name, argv))
				continue;
			if (explore(s, given ? bounds : s->brief,
			    given ? &bounds : full ? &s->full : &s->brief, limit, given || !full)) {
				passed++;
				continue;
			}
			failed++;
			if (first)
				return 1;
		}
	}
	printf("%u passed, %u failed\n", passed, failed);
	return failed != 0 || passed == 0;
}
