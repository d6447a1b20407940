/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench - libcq beside its rivals. benchmarks/README says what it measures.
 *
 * The contestants take turns, A B C A B C ..., so that what else the machine does
 * falls on all of them; each round begins with another one. The first round of a
 * workload isn't counted. Output: one line per workload, contestant and metric.
 */
#include <cq/cq.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "contestants.h"
#include "workload.h"

enum { MAX_ROUNDS = 999 };

static const struct contestant *all_contestants[MAX_CONTESTANTS];
static unsigned nall;

static struct {
	const struct contestant *contestants[MAX_CONTESTANTS];
	unsigned ncontestants;
	const char *workloads;	/* names, or NULL: all */
	unsigned rounds;
	unsigned long callbacks;
	FILE *csv;
} options = { .rounds = 11, .callbacks = 1000000 };

static double values[MAX_METRICS][MAX_CONTESTANTS][MAX_ROUNDS];

void bench_die(const char *what, int err)
{
	fflush(stdout);
	fprintf(stderr, "bench: %s: %s\n", what, strerror(err));
	_exit(1);
}

void *bench_alloc(unsigned long bytes)
{
	void *memory = malloc(bytes);

	if (memory == NULL)
		bench_die("malloc", ENOMEM);
	return memory;
}

/* ------------------------------------------------------------------ reports */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct summary {
	double median, min, max;
};

static struct summary summarize(const double *v, unsigned n)
{
	static double sorted[MAX_ROUNDS];

	memcpy(sorted, v, n * sizeof(*v));
	qsort(sorted, n, sizeof(*sorted), by_value);
	return (struct summary){ (sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0], sorted[n - 1] };
}

/* The median of the ratios within each round, in which both had the same weather. */
static double ratio(const double *v, const double *first, unsigned n)
{
	static double ratios[MAX_ROUNDS];

	for (unsigned i = 0; i < n; i++)
		ratios[i] = v[i] / first[i];
	return summarize(ratios, n).median;
}

/* Has it run_here, where that is what the workload is about? */
static bool can(const struct workload *w, const struct contestant *c)
{
	return w->workers != 0 || c->run_here != NULL;
}

static void report(const struct workload *w)
{
	for (unsigned m = 0; m < MAX_METRICS && w->metrics[m] != NULL; m++) {
		for (unsigned i = 0; i < options.ncontestants; i++) {
			struct summary s = summarize(values[m][i], options.rounds);

			if (!can(w, options.contestants[i]))
				continue;
			printf("%s %ux%u %-10s %-12s median %10.2f min %10.2f max %10.2f ratio %6.3f\n",
			    w->name, w->producers, w->workers, w->metrics[m],
			    options.contestants[i]->name, s.median, s.min, s.max,
			    ratio(values[m][i], values[m][0], options.rounds));
		}
	}
	fflush(stdout);
}

static void report_csv(const struct workload *w)
{
	for (unsigned m = 0; m < MAX_METRICS && w->metrics[m] != NULL; m++)
		for (unsigned i = 0; i < options.ncontestants; i++)
			for (unsigned r = 0; can(w, options.contestants[i]) && r < options.rounds; r++)
				fprintf(options.csv, "%s,%u,%u,%s,%s,%u,%.3f\n", w->name,
				    w->producers, w->workers, w->metrics[m],
				    options.contestants[i]->name, r, values[m][i][r]);
	fflush(options.csv);
}

static void report_load(const char *when)
{
	double load[1];

	if (getloadavg(load, 1) == 1)
		printf("# load %s: %.2f\n", when, load[0]);
}

static void report_setting(void)
{
	printf("# libcq %s, pop %s, park %s; compiler %s; %ld processors\n", cq_version(),
	    cq_pop_name(), cq_park_name(), __VERSION__, sysconf(_SC_NPROCESSORS_ONLN));
	printf("# %u rounds, %lu callbacks; nanoseconds; ratio to %s\n", options.rounds,
	    options.callbacks, options.contestants[0]->name);
	report_skipped();
	report_load("before");
}

/* ------------------------------------------------------------------- rounds */

static void run_round(const struct workload *w, unsigned round, bool counted)
{
	double metrics[MAX_METRICS];

	for (unsigned k = 0; k < options.ncontestants; k++) {
		unsigned i = (round + k) % options.ncontestants;

		if (!can(w, options.contestants[i]))
			continue;
		w->run(w, options.contestants[i], options.callbacks, metrics);
		for (unsigned m = 0; counted && m < MAX_METRICS; m++)
			values[m][i][round] = metrics[m];
	}
}

static void run_workload(const struct workload *w)
{
	run_round(w, 0, false);
	for (unsigned round = 0; round < options.rounds; round++)
		run_round(w, round, true);
	report(w);
	if (options.csv != NULL)
		report_csv(w);
}

/* ------------------------------------------------------------------ options */

static void usage(void)
{
	fprintf(stderr, "usage: bench [-c CONTESTANT,...] [-w WORKLOAD,...] [-r ROUNDS]"
	    " [-n CALLBACKS] [-o FILE.csv] [-u]\n"
	    "contestants:");
	for (unsigned i = 0; i < nall; i++)
		fprintf(stderr, " %s", all_contestants[i]->name);
	fprintf(stderr, "; the ratios are to the first\n"
	    "workloads: W1 W2 W3\n-u: threads are not bound to processors\n");
	exit(2);
}

/* Is `name` in the list "a,b,c"? */
static bool is_in(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (; list != NULL; list = strchr(list, ',')) {
		list += *list == ',';
		if (strncmp(list, name, n) == 0 && (list[n] == ',' || list[n] == '\0'))
			return true;
	}
	return false;
}

static const struct contestant *find_contestant(const char *name)
{
	for (unsigned i = 0; i < nall; i++)
		if (strcmp(all_contestants[i]->name, name) == 0)
			return all_contestants[i];
	fprintf(stderr, "bench: no contestant is called %s\n", name);
	usage();
	return NULL;
}

/* In the order of the list. */
static void choose_contestants(char *list)
{
	options.ncontestants = 0;
	for (char *name = strtok(list, ","); name != NULL; name = strtok(NULL, ",")) {
		if (options.ncontestants == MAX_CONTESTANTS)
			usage();
		options.contestants[options.ncontestants++] = find_contestant(name);
	}
	if (options.ncontestants == 0)
		usage();
}

static unsigned long number(const char *s, unsigned long max)
{
	char *end;
	unsigned long n = strtoul(s, &end, 10);

	if (*s == '-' || *end != '\0' || n == 0 || n > max)
		usage();
	return n;
}

static void open_csv(const char *path)
{
	options.csv = fopen(path, "w");
	if (options.csv == NULL) {
		perror(path);
		exit(1);
	}
	fprintf(options.csv, "workload,producers,workers,metric,contestant,round,ns\n");
}

static void parse_options(int argc, char **argv)
{
	int opt;

	memcpy(options.contestants, all_contestants, sizeof(all_contestants));
	options.ncontestants = nall;
	while ((opt = getopt(argc, argv, "c:w:r:n:o:u")) != -1) {
		switch (opt) {
		case 'c':
			choose_contestants(optarg);
			break;
		case 'w':
			options.workloads = optarg;
			break;
		case 'r':
			options.rounds = (unsigned)number(optarg, MAX_ROUNDS);
			break;
		case 'n':
			options.callbacks = number(optarg, 1000000000);
			break;
		case 'o':
			open_csv(optarg);
			break;
		case 'u':
			pinning = false;
			break;
		default:
			usage();
		}
	}
	if (optind != argc)
		usage();
}

int main(int argc, char **argv)
{
	nall = list_contestants(all_contestants);
	parse_options(argc, argv);
	report_setting();
	for (const struct workload *w = workloads; w->name != NULL; w++)
		if (options.workloads == NULL || is_in(options.workloads, w->name))
			run_workload(w);
	report_load("after");
	return options.csv != NULL && fclose(options.csv) != 0;
}
