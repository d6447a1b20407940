/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * walk - a garbage-collected program whose objects own what the collector knows
 * nothing of: open files and mappings.
 *
 * It walks a tree, and opens, maps, digests and drops every file. Nothing closes
 * a file but the two cleanups of its object, which run on libcq's workers when
 * the collector has found it dead. And it stays under a limit on open files.
 *
 * It does so twice, in two processes, and prints both: once with libcq, and once
 * with the cleanups run in place, in the thread that makes the next object, much as
 * the collector runs finalizers by itself. A run before the two, which isn't counted, reads the
 * files, so that neither finds them in the page cache by the other's doing. Exit
 * status 1 if anything was lost, or there was nothing to do.
 *
 * Where to read: walk_file.c, an object and its cleanups; walk_limit.c, the
 * back-pressure; walk_run.c, the mutators. The way from the collector to libcq is cq/gc.h.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "walk.h"

/* -------------------------------------------------------------------- the table */

enum kind { COUNT, PAIR, MIB, MS, HEX };

/* A line: one or two fields of each result. */
static const struct line {
	const char *label;
	enum kind kind;
	size_t a, b;
} lines[] = {
#define ONE(label, kind, a) { label, kind, offsetof(result_t, a), offsetof(result_t, a) }
#define TWO(label, a, b) { label, PAIR, offsetof(result_t, a), offsetof(result_t, b) }
	TWO("opened = closed", opened, closed),
	TWO("mapped = unmapped", mapped, unmapped),
	TWO("cleanups attached = run", attached, run),
	TWO("  through libcq: queued = executed", queued, executed),
	ONE("  kept to the end by the collector", COUNT, kept),
	ONE("descriptors left open (kernel)", COUNT, descriptors_left),
	ONE("empty files, not mapped", COUNT, empty),
	ONE("unreadable or gone", COUNT, unreadable),
	ONE("cut short while mapped", COUNT, cut),
	ONE("no descriptor to be had", COUNT, starved),
	ONE("MiB mapped", MIB, bytes),
	ONE("digest of the tree", HEX, digest),
	ONE("words", COUNT, words),
	ONE("peak open at once", COUNT, peak_open),
	ONE("collections", COUNT, collections),
	ONE("drains near the limit", COUNT, drains),
	ONE("EMFILE met, and room made", COUNT, relieved),
	TWO("workers created, peak", workers_created, workers_peak),
	ONE("wakes", COUNT, wakes),
	TWO("runs, of these empty", runs, empty_runs),
	ONE("time, ms", MS, elapsed),
	ONE("time of processors, ms", MS, cpu),
	ONE("pause of a mutator: longest, ms", MS, pause_max),
	ONE("  p99, ms", MS, pause_p99),
	ONE("  all together, ms", MS, pause_total),
	ONE("of that, allocation: longest, ms", MS, alloc_max),
	ONE("  p99, ms", MS, alloc_p99),
};

static void print_cell(const struct line *line, const result_t *r)
{
	unsigned long long a = *(const uint64_t *)(const void *)((const char *)r + line->a);
	unsigned long long b = *(const uint64_t *)(const void *)((const char *)r + line->b);
	char cell[64];

	switch (line->kind) {
	case COUNT: snprintf(cell, sizeof(cell), "%llu", a); break;
	case PAIR: snprintf(cell, sizeof(cell), "%llu  %llu", a, b); break;
	case MIB: snprintf(cell, sizeof(cell), "%llu", a >> 20); break;
	case MS: snprintf(cell, sizeof(cell), "%.3f", (double)a / 1e6); break;
	case HEX: snprintf(cell, sizeof(cell), "%llx", a); break;
	}
	printf("%20s", cell);
}

static void print_table(const result_t *results, unsigned columns, bool in_place_only)
{
	printf("%-36s%20s%20s\n", "", in_place_only ? "in place" : "libcq",
	    columns == 2 ? "in place" : "");
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		printf("%-36s", lines[i].label);
		for (unsigned c = 0; c < columns; c++)
			print_cell(&lines[i], &results[c]);
		putchar('\n');
	}
}

static bool nothing_lost(const result_t *r)
{
	return r->opened == r->closed && r->mapped == r->unmapped && r->attached == r->run &&
	    r->bytes == r->bytes_unmapped && r->queued == r->executed && r->starved == 0 &&
	    r->descriptors_left == 0;
}

/* ------------------------------------------------------------------ the verdict */

static const struct figure {
	const char *name;
	size_t at;
} figures[] = {
	{ "the mutators' pauses in all", offsetof(result_t, pause_total) },
	{ "their longest pause", offsetof(result_t, pause_max) },
	{ "the time until all was closed", offsetof(result_t, elapsed) },
	{ "the time of processors", offsetof(result_t, cpu) },
};

enum { LESS, MORE, ALIKE };
enum { SOON = 300 * 1000 * 1000 }; /* nanoseconds. A shorter run says nothing: one collection more or less */

/* How a figure of libcq's run is to that of the run in place. 5 % is within the noise of two runs. */
static int compare(const struct figure *f, const result_t *r, double *percent)
{
	uint64_t queued = *(const uint64_t *)(const void *)((const char *)&r[0] + f->at);
	uint64_t in_place = *(const uint64_t *)(const void *)((const char *)&r[1] + f->at);

	*percent = in_place == 0 ? 0 : 100.0 * ((double)queued - (double)in_place) / (double)in_place;
	return fabs(*percent) <= 5 ? ALIKE : *percent < 0 ? LESS : MORE;
}

static void print_verdict(const result_t *results)
{
	static const char *const said[] = { "Won by libcq", "Not won", "About the same" };

	if (results[0].elapsed < SOON || results[1].elapsed < SOON) {
		printf("Too short to tell what was won: try a larger directory.\n");
		return;
	}
	for (int outcome = LESS; outcome <= ALIKE; outcome++) {
		const char *before = "";
		double percent;

		for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
			if (compare(&figures[i], results, &percent) != outcome)
				continue;
			if (*before == '\0')
				printf("%s: ", said[outcome]);
			printf("%s%s (%+.0f %%)", before, figures[i].name, percent);
			before = ", ";
		}
		if (*before != '\0')
			printf(".\n");
	}
}

/* ---------------------------------------------------------- one process per run */

static volatile sig_atomic_t child, stopping;

/* In the parent. The terminal signals both of us, kill(1) only one. */
static void pass_on(int sig)
{
	stopping = 1;
	if (child > 0)
		kill((pid_t)child, sig);
}

static void stop_walking(int sig)
{
	(void)sig;
	atomic_store(&interrupted, true);
}

static void on_interrupt(void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void hold_interrupts(int how)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(how, &signals, NULL);
}

static int run_child(const options_t *o, int pipe_end)
{
	result_t r;

	on_interrupt(stop_walking);
	hold_interrupts(SIG_UNBLOCK);
	if (run_walk(o, &r) != 0)
		return 1;
	return write(pipe_end, &r, sizeof(r)) != sizeof(r);
}

/* Each run has a collector, a table of descriptors and a heap of its own. */
static pid_t start(const options_t *o, int ends[2])
{
	pid_t pid;

	if (pipe(ends) != 0)
		return -1;
	hold_interrupts(SIG_BLOCK); /* or one could fall between fork and its handler */
	if ((pid = fork()) == 0) {
		close(ends[0]);
		_exit(run_child(o, ends[1]));
	}
	child = pid;
	hold_interrupts(SIG_UNBLOCK);
	close(ends[1]);
	return pid;
}

static bool run_apart(const options_t *o, result_t *out)
{
	int ends[2], status;
	pid_t pid = start(o, ends);
	struct rusage used;
	ssize_t got;

	if (pid < 0) {
		perror("walk");
		return false;
	}
	while ((got = read(ends[0], out, sizeof(*out))) < 0 && errno == EINTR)
		continue;
	close(ends[0]);
	while (wait4(pid, &status, 0, &used) < 0 && errno == EINTR)
		continue;
	child = 0;
	out->cpu = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000 +
	    (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000;
	if (WIFSIGNALED(status))
		fprintf(stderr, "walk: killed by signal %d\n", WTERMSIG(status));
	return got == sizeof(*out) && status == 0;
}

/* ---------------------------------------------------------------- the command line */

static const char usage[] =
    "usage: walk [options] [directory]     (default: /usr)\n"
    "  -h             this\n"
    "  --inline       only with cleanups in place     --queued    only with libcq\n"
    "  --threads N    mutators (2)                    --workers N cap of workers (default)\n"
    "  --limit N      open files (256, or ulimit -n)  --max-bytes N  of each file (1048576)\n"
    "  --late         make room only when open() fails, not before\n"
    "  --leak         attach no cleanups, to see what happens\n";

static bool number(const char *text, uint64_t max, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *out <= max;
}

/* False: the command line makes no sense. */
static bool parse(int argc, char **argv, options_t *o, bool *in_place, bool *queued)
{
	static const struct option known[] = {
		{ "inline", no_argument, NULL, 'i' }, { "queued", no_argument, NULL, 'q' },
		{ "late", no_argument, NULL, 'e' }, { "leak", no_argument, NULL, 'k' },
		{ "threads", required_argument, NULL, 't' },
		{ "workers", required_argument, NULL, 'w' }, { "limit", required_argument, NULL, 'l' },
		{ "max-bytes", required_argument, NULL, 'm' }, { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 }
	};
	uint64_t n = 0;
	bool good = true;
	int c;

	while (good && (c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		good = optarg == NULL || number(optarg, c == 'm' ? SIZE_MAX : 65535, &n);
		switch (c) {
		case 'i': *in_place = true; break;
		case 'q': *queued = true; break;
		case 'e': o->late = true; break;
		case 'k': o->leak = true; break;
		case 't': o->threads = (unsigned)n; break;
		case 'w': o->workers = (unsigned)n; break;
		case 'l': o->limit = n; break;
		case 'm': o->max_bytes = n; break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default: good = false;
		}
	}
	if (optind < argc)
		o->root = argv[optind++];
	return good && optind == argc && o->threads > 0 && o->max_bytes > 0;
}

/* A default that the system allows: 256 open files, or as many as it does. */
static uint64_t default_limit(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < 256 ? limit.rlim_max : 256;
}

/* Whether there is such a directory; a message if not. */
static bool is_directory(const char *path)
{
	struct stat st;
	int err = stat(path, &st) != 0 ? errno : S_ISDIR(st.st_mode) ? 0 : ENOTDIR;

	if (err == 0 && access(path, R_OK | X_OK) != 0)
		err = errno;
	if (err != 0)
		fprintf(stderr, "walk: %s: %s\n", path, strerror(err));
	return err == 0;
}

int main(int argc, char **argv)
{
	options_t o = { .root = "/usr", .threads = 2, .limit = default_limit(), .max_bytes = 1 << 20 };
	bool in_place = false, queued = false, good = true;
	result_t results[2];
	unsigned columns = 0;

	if (!parse(argc, argv, &o, &in_place, &queued)) {
		fputs(usage, stderr);
		return 1;
	}
	if (!is_directory(o.root))
		return 1;
	on_interrupt(pass_on);
	printf("%s, the first %llu bytes of each file, %u threads, at most %llu open files\n", o.root,
	    (unsigned long long)o.max_bytes, o.threads, (unsigned long long)o.limit);
	fflush(stdout);
	if (in_place == queued) {
		o.in_place = true;
		good = run_apart(&o, &results[0]); /* not counted: see above */
	}
	for (int mode = 0; mode < 2 && good && !stopping; mode++) {
		o.in_place = mode == 1;
		if (o.in_place ? queued && !in_place : in_place && !queued)
			continue;
		good = run_apart(&o, &results[columns]);
		columns += good;
	}
	if (columns == 0)
		return 1;
	if (!stopping && results[0].opened == 0 && results[0].starved == 0) {
		fprintf(stderr, "walk: %s has no file that can be read: there was nothing to do\n", o.root);
		return 1;
	}
	print_table(results, columns, in_place && !queued);
	for (unsigned c = 0; c < columns; c++)
		good = good && nothing_lost(&results[c]);
	if (columns == 2)
		print_verdict(results);
	printf("%s%s\n", stopping ? "interrupted: " : "", good ? "nothing lost" : "LOST");
	return good ? 0 : 1;
}
