/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench - libcq beside its rivals. benchmarks/README says what it measures.
 *
 * The contestants take turns, A B C A B C ..., so that what else the machine does
 * falls on all of them; each round begins with another one. The first round of a
 * workload isn't counted. Output: one line per workload, contestant and metric.
 */
#include <cq/cq.h>
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "contestants.h"
#include "measure.h"
#include "report.h"
#include "runner.h"

static const struct contestant *all_contestants[MAX_CONTESTANTS];
static unsigned nall;

struct settings settings = {
	.callbacks = 1000000, .queued = 10000000, .idle_seconds = 5, .pinning = true, .traced = true,
};

static struct {
	const struct contestant *contestants[MAX_CONTESTANTS];
	unsigned ncontestants;
	const char *workloads;	/* names, or NULL: all */
	unsigned rounds;
	unsigned seconds;	/* limit of a run */
	bool here;		/* no processes of their own */
	FILE *csv, *samples;
} options = { .rounds = 7, .seconds = 60 };

static bool anything_failed;

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

/* ------------------------------------------------------------------- rounds */

static void keep(struct runs *runs, unsigned i, unsigned round, const struct result *r)
{
	for (unsigned m = 0; m < MAX_METRICS; m++)
		runs->values[m][i][round] = r->metrics[m];
	add_samples(&runs->pools[i], r);
}

/* A contestant that can't, or fails, is out for the rest of the workload. */
static void run_round(struct runs *runs, unsigned round, bool counted)
{
	for (unsigned k = 0; k < runs->ncontestants; k++) {
		unsigned i = (round + k) % runs->ncontestants;
		const struct result *r;

		if (runs->out[i] != NULL)
			continue;
		r = run(runs->w, runs->contestants[i], options.seconds, options.here);
		if (r->state == CANNOT)
			runs->out[i] = r->why;
		if (r->state == FAILED) {
			runs->out[i] = "it failed";
			anything_failed = true;
		}
		if (counted && r->state == DONE)
			keep(runs, i, round, r);
	}
}

/* In place, as it is large. */
static struct runs *new_runs(const struct workload *w)
{
	static struct contestant alone;
	static const struct contestant *const nobody_else[] = { &alone };
	static struct runs runs;

	runs.w = w;
	runs.rounds = w->once ? 1 : options.rounds;
	alone.name = w->alone;
	runs.contestants = w->alone != NULL ? nobody_else : options.contestants;
	runs.ncontestants = w->alone != NULL ? 1 : options.ncontestants;
	for (unsigned i = 0; i < runs.ncontestants; i++) {
		runs.out[i] = NULL;
		runs.speedups[i] = NAN;
		free(runs.pools[i].v);
		runs.pools[i] = (struct pool){ NULL, 0 };
		for (unsigned m = 0; m < MAX_METRICS; m++)
			for (unsigned r = 0; r < runs.rounds; r++)
				runs.values[m][i][r] = NAN;
	}
	return &runs;
}

static void run_workload(const struct workload *w)
{
	struct runs *runs = new_runs(w);

	if (!w->once)
		run_round(runs, 0, false);
	for (unsigned round = 0; round < runs->rounds; round++)
		run_round(runs, round, true);
	report(runs);
	if (options.csv != NULL)
		report_csv(options.csv, runs);
	if (options.samples != NULL)
		report_samples(options.samples, runs);
}

static unsigned threads_for(unsigned n)
{
	return n == AS_PROCESSORS ? settings.processors : n == AS_HALF ? settings.processors / 2 : n;
}

/* As many threads as processors, or half, may be what another line of the table has. */
static bool is_double(const struct workload *w)
{
	unsigned half = settings.processors / 2;

	if (w->workers == AS_HALF)
		return half <= 8 || (half <= 128 && (half & (half - 1)) == 0);
	return w->workers == AS_PROCESSORS && settings.processors == 1 && w > workloads &&
	    strcmp(w[-1].name, w->name) == 0;
}

static bool is_crowded(const struct workload *w)
{
	return w->producers + w->workers > settings.processors;
}

static void run_if_it_fits(const struct workload *w)
{
	struct workload here = *w;

	if (is_double(w))
		return;
	here.producers = threads_for(w->producers);
	here.workers = threads_for(w->workers);
	if (here.scales && is_crowded(&here)) {
		if (!(w[-1].scales && is_crowded(&w[-1]))) /* it was said */
			printf("# %s %ux%u and larger: more threads than the %u processors\n", w->name,
			    w->producers, w->workers, settings.processors);
		return;
	}
	if (here.speedup && is_crowded(&here)) {
		printf("# %s %ux%u: no speedup, as its threads share %u processors\n", w->name, here.producers,
		    here.workers, settings.processors);
		here.speedup = false;
	}
	run_workload(&here);
}

/* ------------------------------------------------------------------ options */

static void usage(void)
{
	fprintf(stderr, "usage: bench [OPTION...]\n"
	    "  -c NAME,...   contestants; the ratios are to the first\n"
	    "  -l NAME=FILE[:OF]   before -c: one more, that which the shared object has as OF (cq)\n"
	    "  -w NAME,...   workloads, or families of them (W3 is W3-20us, W3-200us, ...)\n"
	    "  -r ROUNDS     %u\n"
	    "  -n CALLBACKS  per run of W1 and W2: %lu\n"
	    "  -m CALLBACKS  queued at once in W5: %lu\n"
	    "  -i SECONDS    of W3-idle: %u\n"
	    "  -t SECONDS    after which a run counts as hanging: %u\n"
	    "  -o FILE       each run's figures, as CSV\n"
	    "  -s FILE       each sample of W3's latencies, as CSV\n"
	    "  -p PROCESSORS take as many threads as if there were so many\n"
	    "  -u            threads are not bound to processors\n"
	    "  -1            all in one process, for a debugger\n"
	    "contestants:", options.rounds, settings.callbacks, settings.queued,
	    settings.idle_seconds, options.seconds);
	for (unsigned i = 0; i < nall; i++)
		fprintf(stderr, " %s", all_contestants[i]->name);
	fprintf(stderr, "\nworkloads:");
	for (const struct workload *w = workloads; w->name != NULL; w++)
		if (w == workloads || strcmp(w->name, w[-1].name) != 0)
			fprintf(stderr, " %s", w->name);
	fprintf(stderr, "\n");
	exit(2);
}

/* Is `name`, or the family before its '-', in the list "a,b,c"? */
static bool is_in(const char *list, const char *name)
{
	while (*list != '\0') {
		size_t n = strcspn(list, ",");

		if (strncmp(list, name, n) == 0 && (name[n] == '\0' || name[n] == '-'))
			return true;
		list += n + (list[n] == ',');
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

/*
 * "NAME=FILE[:OF]": contestant_OF of a shared object takes part as NAME. Such as that of another
 * revision of libcq, with the library in it: scripts/bench-against.
 */
static void load_contestant(char *spec)
{
	char symbol[64], *file = strchr(spec, '='), *of = strrchr(spec, ':');
	struct contestant *c = bench_alloc(sizeof(*c));
	const struct contestant *found = NULL;
	void *object;

	if (file == NULL || nall == MAX_CONTESTANTS)
		usage();
	*file++ = '\0';
	if (of != NULL)
		*of++ = '\0';
	snprintf(symbol, sizeof(symbol), "contestant_%s", of != NULL ? of : "cq");
	object = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (object == NULL || (found = dlsym(object, symbol)) == NULL) {
		fprintf(stderr, "bench: %s\n", dlerror());
		exit(2);
	}
	*c = *found;
	c->name = spec;
	all_contestants[nall++] = c;
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

static FILE *open_csv(const char *path)
{
	FILE *f = fopen(path, "w");

	if (f == NULL) {
		perror(path);
		exit(1);
	}
	return f;
}

static void take_option(int opt)
{
	switch (opt) {
	case 'c':
		choose_contestants(optarg);
		break;
	case 'l':
		load_contestant(optarg);
		break;
	case 'w':
		options.workloads = optarg;
		break;
	case 'r':
		options.rounds = (unsigned)number(optarg, MAX_ROUNDS);
		break;
	case 'n':
		settings.callbacks = number(optarg, 1000000000);
		break;
	case 'm':
		settings.queued = number(optarg, 1000000000);
		break;
	case 'i':
		settings.idle_seconds = (unsigned)number(optarg, 3600);
		break;
	case 't':
		options.seconds = (unsigned)number(optarg, 86400);
		break;
	case 'o':
		options.csv = open_csv(optarg);
		report_csv_head(options.csv);
		break;
	case 's':
		options.samples = open_csv(optarg);
		report_samples_head(options.samples);
		break;
	case 'p':
		settings.processors = (unsigned)number(optarg, 4096);
		break;
	case 'u':
		settings.pinning = false;
		break;
	case '1':
		options.here = true;
		settings.traced = false;
		break;
	default:
		usage();
	}
}

static void parse_options(int argc, char **argv)
{
	int opt;

	memcpy(options.contestants, all_contestants, sizeof(all_contestants));
	options.ncontestants = nall;
	while ((opt = getopt(argc, argv, "c:l:w:r:n:m:i:t:o:s:p:u1")) != -1)
		take_option(opt);
	if (optind != argc)
		usage();
}

/* --------------------------------------------------------------------- main */

static void report_load(const char *when)
{
	double load[1];

	if (getloadavg(load, 1) == 1)
		printf("# load %s: %.2f\n", when, load[0]);
}

static void report_setting(void)
{
	printf("# libcq %s, pop %s, park %s; compiler %s; %u processors\n", cq_version(),
	    cq_build_info()->pop, cq_build_info()->park, __VERSION__, settings.processors);
	if (settings.processors != count_processors())
		printf("# there are %u, so no figure of many threads says anything\n", count_processors());
	printf("# %u rounds, %lu callbacks; own work of W1-paced: %u multiplications\n",
	    options.rounds, settings.callbacks, settings.own_work);
	report_skipped();
	report_load("before");
}

static bool closes(FILE *f)
{
	bool failed = f != NULL && ferror(f);

	return f == NULL || (fclose(f) == 0 && !failed);
}

int main(int argc, char **argv)
{
	nall = list_contestants(all_contestants);
	settings.processors = count_processors();
	parse_options(argc, argv);
	settings.own_work = calibrate_own_work();
	report_setting();
	for (const struct workload *w = workloads; w->name != NULL; w++)
		if (options.workloads == NULL || is_in(options.workloads, w->name))
			run_if_it_fits(w);
	report_load("after");
	if (!closes(options.csv) || !closes(options.samples))
		bench_die("the files of -o and -s", errno);
	return anything_failed;
}
