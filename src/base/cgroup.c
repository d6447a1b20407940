/* SPDX-License-Identifier: BSD-2-Clause */
/* /proc/self/mountinfo says where cgroups are mounted, and which cgroup the mount's top is;
   /proc/self/cgroup, which one the process is in. Below a mount is a directory for each from the top to it,
   with the files that limit it. There are two kinds: v2 has one tree; v1 one for each controller, of which
   the one of "cpu" counts. A machine may have both. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"

#define NO_LIMIT UINT32_MAX

struct mount {
	const char *root;	/* stands in front of all paths */
	char *top, *point;	/* the cgroup that is mounted, and where */
	bool v2;
};

typedef uint32_t limit_fn(struct mount *m, char *line);

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static FILE *open_file(const char *root, const char *dir, const char *name)
{
	char *path;
	FILE *f;

	if (asprintf(&path, "%s%s%s", root, dir, name) < 0)
		return NULL;
	f = fopen(path, "re");
	free(path);
	return f;
}

static uint32_t least_of_lines(struct mount *m, const char *name, limit_fn *limit_of)
{
	FILE *f = open_file(m->root, "", name);
	uint32_t limit = NO_LIMIT;
	char *line = NULL;
	size_t room = 0;

	if (f == NULL)
		return NO_LIMIT;
	while (getline(&line, &room, f) >= 0) {
		line[strcspn(line, "\n")] = 0;
		limit = least(limit, limit_of(m, line));
	}
	free(line);
	fclose(f);
	return limit;
}

/* A number and then `end`, or the file's. 0: it is something else, such as "max" or -1. */
static uint64_t number(FILE *f, int end)
{
	char digits[20];
	int next;

	if (fscanf(f, "%19[0-9]", digits) != 1)
		return 0;
	next = getc(f);
	return next == end || next == EOF ? strtoull(digits, NULL, 10) : 0;
}

/* Microseconds of processors' time in each period. v2 has "150000 100000", v1 a file for each. */
static uint32_t limit_of_dir(const struct mount *m, const char *dir)
{
	FILE *f = open_file(m->root, dir, m->v2 ? "/cpu.max" : "/cpu.cfs_quota_us");
	uint64_t quota, period, n;

	if (f == NULL)
		return NO_LIMIT;
	quota = number(f, m->v2 ? ' ' : '\n');
	if (!m->v2) {
		fclose(f);
		if ((f = open_file(m->root, dir, "/cpu.cfs_period_us")) == NULL)
			return NO_LIMIT;
	}
	period = number(f, '\n');
	fclose(f);
	if (quota == 0 || period == 0)
		return NO_LIMIT;
	n = quota / period + (quota % period != 0);
	return n < NO_LIMIT ? (uint32_t)n : NO_LIMIT;
}

/* A cgroup and all that it is in, up to the mount; if it is below that, as isn't that of a process outside of
   its cgroup namespace. */
static uint32_t least_up_to(const struct mount *m, const char *cgroup)
{
	size_t n = strlen(m->top);
	uint32_t limit = NO_LIMIT;
	char *dir, *end;

	if (strstr(cgroup, "/..") != NULL || strstr(m->top, "/..") != NULL)
		return NO_LIMIT;
	if (n > 0 && m->top[n - 1] == '/')
		n--; /* "/" */
	if (strncmp(cgroup, m->top, n) != 0 || (cgroup[n] != '/' && cgroup[n] != 0))
		return NO_LIMIT;
	if (asprintf(&dir, "%s%s", m->point, cgroup + n) < 0)
		return NO_LIMIT;
	end = dir + strlen(dir);
	do {
		*end = 0;
		limit = least(limit, limit_of_dir(m, dir));
	} while ((end = strrchr(dir + strlen(m->point), '/')) != NULL);
	free(dir);
	return limit;
}

static bool lists_cpu(char *list)
{
	char *word;

	while ((word = strsep(&list, ",")) != NULL)
		if (strcmp(word, "cpu") == 0)
			return true;
	return false;
}

/* "0::/path", or "4:cpu,cpuacct:/path" */
static uint32_t limit_of_cgroup(struct mount *m, char *line)
{
	char *controllers;

	strsep(&line, ":");
	controllers = strsep(&line, ":");
	if (line == NULL || !(m->v2 ? *controllers == 0 : lists_cpu(controllers)))
		return NO_LIMIT;
	return least_up_to(m, line);
}

/* In mountinfo a blank in a path is \040. */
static void decode(char *path)
{
	char *to = path;

	for (const char *from = path; *from != 0; to++)
		if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	*to = 0;
}

/* "35 31 0:32 /top /mount/point rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct" */
static uint32_t limit_of_mount(struct mount *m, char *line)
{
	char *type;

	for (int i = 0; i < 5; i++) {
		m->top = m->point;
		m->point = strsep(&line, " ");
	}
	while ((type = strsep(&line, " ")) != NULL && strcmp(type, "-") != 0)
		;
	type = strsep(&line, " ");
	strsep(&line, " "); /* what is mounted */
	if (line == NULL)
		return NO_LIMIT;
	m->v2 = strcmp(type, "cgroup2") == 0;
	if (!m->v2 && (strcmp(type, "cgroup") != 0 || !lists_cpu(line)))
		return NO_LIMIT;
	decode(m->top);
	decode(m->point);
	return least_of_lines(m, "/proc/self/cgroup", limit_of_cgroup);
}

uint32_t cq_cgroup_processors(const char *root)
{
	struct mount m = { .root = root };
	int saved = errno, cancel;
	uint32_t limit;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* reading files acts on it */
	limit = least_of_lines(&m, "/proc/self/mountinfo", limit_of_mount);
	pthread_setcancelstate(cancel, &cancel);
	errno = saved;
	return limit;
}
