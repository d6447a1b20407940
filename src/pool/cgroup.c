/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * /proc/self/mountinfo says where cgroups are mounted, and which cgroup the mount's top is;
 * /proc/self/cgroup, which one the process is in. Below a mount is a directory for each
 * from the top to it, with the files that limit it. There are two kinds: v2 has one tree; v1
 * one for each controller, of which the one of "cpu" counts. A machine may have both.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"

/* Longer paths are not found, and longer lines are left out: they are of other mounts. */
enum { LINE_MAX_BYTES = 1024 };

/* ------------------------------------------------------------------------- files */

struct path {
	char text[LINE_MAX_BYTES];
	size_t length;
};

/* False: it is too long, and nothing was added. */
static bool append(struct path *p, const char *text)
{
	size_t n = strlen(text);

	if (n >= sizeof(p->text) - p->length)
		return false;
	memcpy(p->text + p->length, text, n + 1);
	p->length += n;
	return true;
}

static void shorten(struct path *p, size_t length)
{
	p->length = length;
	p->text[length] = 0;
}

struct file {
	int fd;
	size_t at, end;
	char bytes[256];
};

/* The file `name` below the path, which is as it was afterwards. */
static bool open_file(struct file *f, struct path *p, const char *name)
{
	size_t length = p->length;

	*f = (struct file){ .fd = -1 };
	if (append(p, name))
		do
			f->fd = open(p->text, O_RDONLY | O_CLOEXEC);
		while (f->fd < 0 && errno == EINTR);
	shorten(p, length);
	return f->fd >= 0;
}

/* -1: the end, or it can't be read. */
static int next_byte(struct file *f)
{
	ssize_t n;

	if (f->at == f->end) {
		do
			n = read(f->fd, f->bytes, sizeof(f->bytes));
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			return -1;
		f->at = 0;
		f->end = (size_t)n;
	}
	return (unsigned char)f->bytes[f->at++];
}

/* The next line that fits, without its end. */
static bool next_line(struct file *f, char line[LINE_MAX_BYTES])
{
	size_t n = 0;
	int byte;

	while ((byte = next_byte(f)) >= 0) {
		if (byte != '\n') {
			if (n < LINE_MAX_BYTES)
				line[n] = (char)byte;
			n += n < LINE_MAX_BYTES;
		} else if (n < LINE_MAX_BYTES) {
			line[n] = 0;
			return true;
		} else {
			n = 0;
		}
	}
	if (n == 0 || n == LINE_MAX_BYTES)
		return false;
	line[n] = 0;
	return true;
}

/* ------------------------------------------------------------------------- words */

/* The text up to `end`, which is cut off; NULL when there is none. */
static char *cut(char **rest, char end)
{
	char *word = *rest, *at;

	if (word == NULL)
		return NULL;
	at = strchr(word, end);
	if (at != NULL)
		*at++ = 0;
	*rest = at;
	return word;
}

static bool lists_cpu(char *list)
{
	char *word;

	while ((word = cut(&list, ',')) != NULL)
		if (strcmp(word, "cpu") == 0)
			return true;
	return false;
}

static bool is_octal(char c) { return c >= '0' && c <= '7'; }

/* In mountinfo a blank in a path is \040. */
static void decode(char *path)
{
	char *to = path;

	for (const char *from = path; *from != 0; to++)
		if (from[0] == '\\' && is_octal(from[1]) && is_octal(from[2]) && is_octal(from[3])) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	*to = 0;
}

/* A number and nothing else: not "max", nor -1. */
static bool number(const char *text, uint64_t *value)
{
	*value = 0;
	if (text == NULL || *text == 0)
		return false;
	for (; *text != 0; text++) {
		if (*text < '0' || *text > '9' || *value > (UINT64_MAX - 9) / 10)
			return false;
		*value = *value * 10 + (uint64_t)(*text - '0');
	}
	return true;
}

/* ------------------------------------------------------------------------ limits */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

static uint32_t rounded_up(const char *quota_text, const char *period_text)
{
	uint64_t quota, period, n;

	if (!number(quota_text, &quota) || !number(period_text, &period) || quota == 0 || period == 0)
		return 0;
	n = (quota - 1) / period + 1;
	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static char *first_line(struct path *dir, const char *name, char line[LINE_MAX_BYTES])
{
	struct file f;
	bool has_line;

	if (!open_file(&f, dir, name))
		return NULL;
	has_line = next_line(&f, line);
	close(f.fd);
	return has_line ? line : NULL;
}

/* "150000 100000": microseconds of processors' time in each period. */
static uint32_t limit_v2(struct path *dir)
{
	char line[LINE_MAX_BYTES], *rest = first_line(dir, "/cpu.max", line);
	char *quota = cut(&rest, ' ');

	return rounded_up(quota, rest);
}

static uint32_t limit_v1(struct path *dir)
{
	char line[LINE_MAX_BYTES], quota[32];
	const char *text = first_line(dir, "/cpu.cfs_quota_us", line);

	if (text == NULL || strlen(text) >= sizeof(quota))
		return 0;
	memcpy(quota, text, strlen(text) + 1);
	return rounded_up(quota, first_line(dir, "/cpu.cfs_period_us", line));
}

/* A cgroup and all that it is in, up to the mount. */
static uint32_t least_up_to(struct path *dir, size_t mount, bool v2)
{
	size_t n = dir->length;
	uint32_t limit = 0;

	for (;;) {
		limit = least(limit, v2 ? limit_v2(dir) : limit_v1(dir));
		if (n <= mount)
			return limit;
		do
			n--;
		while (n > mount && dir->text[n] != '/');
		shorten(dir, n);
	}
}

/* ----------------------------------------------------------------------- cgroups */

/* Of the process: "0::/path", or "4:cpu,cpuacct:/path". NULL: none. */
static char *own_cgroup(const char *root, bool v2, char line[LINE_MAX_BYTES])
{
	struct path p = { .length = 0 };
	char *own = NULL;
	struct file f;

	if (!append(&p, root) || !open_file(&f, &p, "/proc/self/cgroup"))
		return NULL;
	while (own == NULL && next_line(&f, line)) {
		char *rest = line, *id = cut(&rest, ':'), *controllers = cut(&rest, ':');

		if (rest != NULL && (v2 ? strcmp(id, "0") == 0 && *controllers == 0 : lists_cpu(controllers)))
			own = rest;
	}
	close(f.fd);
	return own;
}

/*
 * The way from a mount's top down to the cgroup; NULL: it isn't below, as that of a process outside
 * of its cgroup namespace.
 */
static char *below(char *cgroup, const char *top)
{
	size_t n = strlen(top);

	if (strstr(cgroup, "/..") != NULL || strstr(top, "/..") != NULL)
		return NULL;
	if (n > 0 && top[n - 1] == '/')
		n--; /* "/" */
	if (strncmp(cgroup, top, n) != 0 || (cgroup[n] != '/' && cgroup[n] != 0))
		return NULL;
	return strcmp(cgroup + n, "/") == 0 ? cgroup + n + 1 : cgroup + n;
}

/* "35 31 0:32 /top /mount/point rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct" */
static uint32_t limit_at_mount(const char *root, char *line)
{
	char own[LINE_MAX_BYTES], *rest = line, *top = NULL, *point = NULL, *type, *way;
	struct path dir = { .length = 0 };
	size_t mount;
	bool v2;

	for (int i = 0; i < 5; i++) {
		top = point;
		point = cut(&rest, ' ');
	}
	while ((type = cut(&rest, ' ')) != NULL && strcmp(type, "-") != 0)
		;
	type = cut(&rest, ' ');
	(void)cut(&rest, ' '); /* what is mounted */
	if (rest == NULL)
		return 0;
	v2 = strcmp(type, "cgroup2") == 0;
	if (!v2 && (strcmp(type, "cgroup") != 0 || !lists_cpu(rest)))
		return 0;

	decode(top);
	decode(point);
	way = own_cgroup(root, v2, own);
	way = way != NULL ? below(way, top) : NULL;
	if (way == NULL || !append(&dir, root) || !append(&dir, point))
		return 0;
	mount = dir.length;
	return append(&dir, way) ? least_up_to(&dir, mount, v2) : 0;
}

static uint32_t least_of_mounts(const char *root)
{
	struct path p = { .length = 0 };
	char line[LINE_MAX_BYTES];
	uint32_t limit = 0;
	struct file f;

	if (!append(&p, root) || !open_file(&f, &p, "/proc/self/mountinfo"))
		return 0;
	while (next_line(&f, line))
		limit = least(limit, limit_at_mount(root, line));
	close(f.fd);
	return limit;
}

uint32_t cq_cgroup_processors(const char *root)
{
	int saved = errno, cancel;
	uint32_t limit;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* open, read and close act on it */
	limit = least_of_mounts(root);
	pthread_setcancelstate(cancel, &cancel);
	errno = saved;
	return limit;
}
