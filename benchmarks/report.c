/* SPDX-License-Identifier: BSD-2-Clause */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------- statistics */

struct summary {
	double median, min, max;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of those that are numbers; NaN if there are none. */
static struct summary summarize(const double *v, unsigned rounds)
{
	static double sorted[MAX_ROUNDS];
	unsigned n = 0;

	for (unsigned i = 0; i < rounds; i++)
		if (!isnan(v[i]))
			sorted[n++] = v[i];
	if (n == 0)
		return (struct summary){ NAN, NAN, NAN };
	qsort(sorted, n, sizeof(*sorted), by_value);
	return (struct summary){ (sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0], sorted[n - 1] };
}

/* The median of the ratios within each round, in which both had the same weather. */
static double ratio(const double *v, const double *to, unsigned rounds)
{
	static double ratios[MAX_ROUNDS];

	for (unsigned i = 0; i < rounds; i++)
		ratios[i] = v[i] / to[i];
	return summarize(ratios, rounds).median;
}

/* seed is where libcq began, and names with cq in front are libcq's. */
static bool is_rival(const struct contestant *c)
{
	return strcmp(c->name, "seed") != 0 && strncmp(c->name, "cq", 2) != 0;
}

/* The index of the rival with the lowest median; -1: none is there. */
static int best_rival(const struct runs *runs, unsigned m)
{
	int best = -1;
	double lowest = INFINITY;

	for (unsigned i = 0; i < runs->ncontestants; i++) {
		double median = summarize(runs->values[m][i], runs->rounds).median;

		if (runs->out[i] == NULL && is_rival(runs->contestants[i]) && median < lowest) {
			lowest = median;
			best = (int)i;
		}
	}
	return best;
}

/* -------------------------------------------------------------------- table */

static void print_number(const char *what, double v)
{
	if (isfinite(v))
		printf(" %s %10.2f", what, v);
	else
		printf(" %s %10s", what, "-");
}

static void print_ratio(const char *to, double v)
{
	if (isfinite(v))
		printf(" vs %s %.3f", to, v);
	else
		printf(" vs %s -", to);
}

static void print_ratios(const struct runs *runs, unsigned m, unsigned i, int best)
{
	const double *v = runs->values[m][i];

	print_ratio(runs->contestants[0]->name, ratio(v, runs->values[m][0], runs->rounds));
	if (best > 0) /* 0 is the one before */
		print_ratio(runs->contestants[best]->name,
		    ratio(v, runs->values[m][best], runs->rounds));
}

/* How many times as fast as by one producer and one worker: the median of those rounds over that of these. */
static void print_speedup(struct runs *runs, unsigned i, double median)
{
	static double of_one[MAX_CONTESTANTS];
	static const char *name;

	if (name == NULL || strcmp(name, runs->w->name) != 0)
		for (unsigned k = 0; k < MAX_CONTESTANTS; k++)
			of_one[k] = NAN;
	name = runs->w->name;
	if (runs->w->producers == 1)
		of_one[i] = median;
	if (!isfinite(of_one[i] / median))
		return;
	runs->speedups[i] = of_one[i] / median;
	printf(" speedup %.2f", runs->speedups[i]);
}

static void print_row(struct runs *runs, unsigned m, unsigned i, int best)
{
	const struct workload *w = runs->w;
	struct summary s = summarize(runs->values[m][i], runs->rounds);

	printf("%s %ux%u %-10s %-12s", w->name, w->producers, w->workers, w->metrics[m].name,
	    runs->contestants[i]->name);
	print_number("median", s.median);
	print_number("min", s.min);
	print_number("max", s.max);
	printf(" %s", w->metrics[m].unit);
	if (w->alone == NULL && !w->metrics[m].plain)
		print_ratios(runs, m, i, best);
	if (w->speedup && m == 0)
		print_speedup(runs, i, s.median);
	putchar('\n');
}

/* No run has it, and so it has no rows: the machine or an option lacks something. */
static bool is_missing(const struct runs *runs, unsigned m)
{
	for (unsigned i = 0; i < runs->ncontestants; i++)
		if (!isnan(summarize(runs->values[m][i], runs->rounds).median))
			return false;
	return true;
}

static bool everybody_is_out(const struct runs *runs)
{
	for (unsigned i = 0; i < runs->ncontestants; i++)
		if (runs->out[i] == NULL)
			return false;
	return true;
}

static void report_metric(struct runs *runs, unsigned m)
{
	int best = best_rival(runs, m);

	if (is_missing(runs, m)) {
		if (!everybody_is_out(runs))
			printf("# %s %ux%u %s: not to be had here\n", runs->w->name, runs->w->producers,
			    runs->w->workers, runs->w->metrics[m].name);
		return;
	}
	for (unsigned i = 0; i < runs->ncontestants; i++)
		if (runs->out[i] == NULL && !isnan(summarize(runs->values[m][i], runs->rounds).median))
			print_row(runs, m, i, best);
}

/* One line for each reason. */
static void report_left_out(const struct runs *runs)
{
	for (unsigned i = 0; i < runs->ncontestants; i++) {
		const char *why = runs->out[i];

		for (unsigned k = 0; why != NULL && k < i; k++)
			if (runs->out[k] != NULL && strcmp(runs->out[k], why) == 0)
				why = NULL; /* has been said */
		if (why == NULL)
			continue;
		printf("# %s %ux%u left out, as %s:", runs->w->name, runs->w->producers,
		    runs->w->workers, why);
		for (unsigned k = i; k < runs->ncontestants; k++)
			if (runs->out[k] != NULL && strcmp(runs->out[k], why) == 0)
				printf(" %s", runs->contestants[k]->name);
		putchar('\n');
	}
}

/* ------------------------------------------------------------------ samples */

void add_samples(struct pool *p, const struct result *r)
{
	if (r->nsamples == 0)
		return;
	p->v = realloc(p->v, (p->n + r->nsamples) * sizeof(*p->v));
	if (p->v == NULL)
		bench_die("realloc", ENOMEM);
	memcpy(p->v + p->n, r->samples, r->nsamples * sizeof(*p->v));
	p->n += r->nsamples;
}

static int by_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double permille(const struct pool *p, unsigned n)
{
	return p->n == 0 ? NAN : (double)p->v[(p->n - 1) * n / 1000];
}

/* The distribution over all rounds: what a round is too short for. */
static void report_pool(const struct runs *runs, unsigned i)
{
	static const struct { const char *name; unsigned permille; } points[] = {
		{ "p50", 500 }, { "p90", 900 }, { "p99", 990 }, { "p99.9", 999 }, { "max", 1000 },
	};
	const struct pool *p = &runs->pools[i], *first = &runs->pools[0];

	if (p->n == 0 || runs->out[i] != NULL)
		return;
	printf("%s %ux%u %-10s %-12s samples %zu", runs->w->name, runs->w->producers,
	    runs->w->workers, "run_all", runs->contestants[i]->name, p->n);
	for (unsigned k = 0; k < sizeof(points) / sizeof(points[0]); k++)
		printf(" %s %.0f (%.2f)", points[k].name, permille(p, points[k].permille),
		    permille(p, points[k].permille) / permille(first, points[k].permille));
	printf(" ns (vs %s)\n", runs->contestants[0]->name);
}

void report(struct runs *runs)
{
	for (unsigned m = 0; m < MAX_METRICS && runs->w->metrics[m].name != NULL; m++)
		report_metric(runs, m);
	for (unsigned i = 0; i < runs->ncontestants; i++)
		if (runs->pools[i].n != 0)
			qsort(runs->pools[i].v, runs->pools[i].n, sizeof(uint32_t), by_u32);
	for (unsigned i = 0; i < runs->ncontestants; i++)
		report_pool(runs, i);
	report_left_out(runs);
	fflush(stdout);
}

/* -------------------------------------------------------------------- files */

void report_csv_head(FILE *f)
{
	fprintf(f, "workload,producers,workers,metric,unit,contestant,round,value\n");
}

void report_csv(FILE *f, const struct runs *runs)
{
	const struct workload *w = runs->w;

	for (unsigned m = 0; m < MAX_METRICS && w->metrics[m].name != NULL; m++)
		for (unsigned i = 0; i < runs->ncontestants; i++)
			for (unsigned r = 0; r < runs->rounds; r++)
				if (runs->out[i] == NULL && !isnan(runs->values[m][i][r]))
					fprintf(f, "%s,%u,%u,%s,%s,%s,%u,%.3f\n", w->name,
					    w->producers, w->workers, w->metrics[m].name,
					    w->metrics[m].unit, runs->contestants[i]->name, r,
					    runs->values[m][i][r]);
	for (unsigned i = 0; i < runs->ncontestants; i++)
		if (w->producers > 1 && !isnan(runs->speedups[i]))
			fprintf(f, "%s,%u,%u,speedup,times,%s,0,%.3f\n", w->name, w->producers, w->workers,
			    runs->contestants[i]->name, runs->speedups[i]);
	fflush(f);
}

void report_samples_head(FILE *f)
{
	fprintf(f, "workload,producers,workers,contestant,ns\n");
}

void report_samples(FILE *f, const struct runs *runs)
{
	const struct workload *w = runs->w;

	for (unsigned i = 0; i < runs->ncontestants; i++)
		for (size_t k = 0; runs->out[i] == NULL && k < runs->pools[i].n; k++)
			fprintf(f, "%s,%u,%u,%s,%u\n", w->name, w->producers, w->workers,
			    runs->contestants[i]->name, (unsigned)runs->pools[i].v[k]);
	fflush(f);
}
