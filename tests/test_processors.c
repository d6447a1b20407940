/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many processors a process may use: masks of any size, and what cgroups say, in files of
 * a directory that stands for the machine. Linux alone.
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/process.h"
#include "pool/pool_priv.h"
#include "support.h"

static char root[] = "/tmp/cq-processors-XXXXXX";

static void make_root(void)
{
	cr_assert_not_null(mkdtemp(root));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_root(void)
{
	nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(processors, .timeout = 60);

/* A file below the root, with the directories that it is in. */
static void put_bytes(const char *path, const void *bytes, size_t n)
{
	char full[4096];
	int fd;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
		*slash = 0;
		cr_assert(mkdir(full, 0700) == 0 || errno == EEXIST);
		*slash = '/';
	}
	fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	cr_assert(fd >= 0, "%s", full);
	cr_assert_eq(write(fd, bytes, n), (ssize_t)n);
	close(fd);
}

static void put(const char *path, const char *text)
{
	put_bytes(path, text, strlen(text));
}

#define NO_LIMIT UINT32_MAX

static uint32_t limit(void)
{
	uint32_t n;

	errno = 4711;
	n = cq_cgroup_processors(root);
	cr_assert_eq(errno, 4711);
	return n;
}

/* ---------------------------------------------------------------------------- v2 */

#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

static void put_v2(void)
{
	put("/proc/self/mountinfo", "22 28 0:21 / /proc rw - proc proc rw\n" V2_MOUNT);
	put("/proc/self/cgroup", "0::/a.slice/b.service\n");
}

static uint32_t with_cpu_max(const char *text)
{
	put("/sys/fs/cgroup/a.slice/b.service/cpu.max", text);
	return limit();
}

Test(processors, a_quota_is_rounded_up, .init = make_root, .fini = remove_root)
{
	put_v2();
	cr_assert_eq(limit(), NO_LIMIT);
	cr_assert_eq(with_cpu_max("100000 100000\n"), 1);
	cr_assert_eq(with_cpu_max("100001 100000\n"), 2);
	cr_assert_eq(with_cpu_max("150000 100000\n"), 2);
	cr_assert_eq(with_cpu_max("1000 1000000\n"), 1);
	cr_assert_eq(with_cpu_max("6400000 100000\n"), 64);
	cr_assert_eq(with_cpu_max("200000 100000"), 2); /* without an end */
	cr_assert_eq(with_cpu_max("max 100000\n"), NO_LIMIT);
}

Test(processors, what_is_no_quota_is_no_limit, .init = make_root, .fini = remove_root)
{
	const char *const bad[] = {
		"", "\n", "100000\n", "100000 \n", " 100000\n", "0 100000\n", "100000 0\n", "0 0\n",
		"-1 100000\n", "100000 -1\n", "1e5 100000\n", "100000 100000 1\n", "max\n", "max max\n",
		"99999999999999999999999 100000\n", "18446744073709551616 1\n", "100000\t100000\n",
		"0x10 1\n", "+5 1\n",
	};
	char line[70000];

	put_v2();
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		cr_assert_eq(with_cpu_max(bad[i]), NO_LIMIT, "%s", bad[i]);
	cr_assert_eq(with_cpu_max("1844674407370955161 1\n"), NO_LIMIT);
	memset(line, '1', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	cr_assert_eq(with_cpu_max(line), NO_LIMIT);
}

Test(processors, the_least_of_all_that_a_cgroup_is_in_counts, .init = make_root, .fini = remove_root)
{
	put_v2();
	with_cpu_max("800000 100000\n");
	put("/sys/fs/cgroup/a.slice/cpu.max", "300000 100000\n");
	cr_assert_eq(limit(), 3);
	put("/sys/fs/cgroup/cpu.max", "250000 200000\n"); /* in a container: its own top */
	cr_assert_eq(limit(), 2);
	put("/sys/fs/cgroup/cpu.max", "max 100000\n");
	put("/sys/fs/cgroup/a.slice/cpu.max", "rubbish");
	cr_assert_eq(limit(), 8);
	put("/sys/fs/cpu.max", "100000 100000\n"); /* above the mount is no cgroup */
	put("/sys/fs/cgroup/a.slice/c.service/cpu.max", "100000 100000\n");
	cr_assert_eq(limit(), 8);
}

Test(processors, a_cgroup_is_found_wherever_it_is_mounted, .init = make_root, .fini = remove_root)
{
	put("/proc/self/cgroup", "0::/machine/box/job\n");
	put("/proc/self/mountinfo",
	    "30 23 0:26 /machine/box /odd\\040place/cg rw shared:4 master:5 - cgroup2 none rw\n");
	put("/odd place/cg/job/cpu.max", "200000 100000\n");
	cr_assert_eq(limit(), 2);
	put("/proc/self/mountinfo", "30 23 0:26 /machine/box /odd\\040place/cg rw - cgroup2 none rw\n");
	cr_assert_eq(limit(), 2);
	put("/proc/self/cgroup", "0::/machine/box\n");
	cr_assert_eq(limit(), NO_LIMIT);
	put("/odd place/cg/cpu.max", "700000 100000\n");
	cr_assert_eq(limit(), 7);
}

Test(processors, what_is_mounted_of_another_cgroup_is_no_limit, .init = make_root, .fini = remove_root)
{
	put_v2();
	with_cpu_max("500000 100000\n");
	put("/proc/self/mountinfo",
	    "31 23 0:26 /a.slice/b /other rw - cgroup2 none rw\n"
	    "32 23 0:26 /../.. /outer rw - cgroup2 none rw\n" V2_MOUNT);
	put("/other/cpu.max", "100000 100000\n");
	put("/outer/cpu.max", "100000 100000\n");
	put("/other.service/cpu.max", "100000 100000\n");
	cr_assert_eq(limit(), 5);
	put("/proc/self/cgroup", "0::/../elsewhere\n"); /* outside of the cgroup namespace */
	put("/sys/fs/elsewhere/cpu.max", "100000 100000\n");
	put("/sys/fs/cgroup/cpu.max", "100000 100000\n");
	cr_assert_eq(limit(), NO_LIMIT);
}

/* ---------------------------------------------------------------------------- v1 */

#define V1_MOUNT "33 25 0:28 / /cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"

static void put_v1(const char *dir, const char *quota, const char *period)
{
	char path[200];

	snprintf(path, sizeof(path), "/cgroup/cpu,cpuacct%s/cpu.cfs_quota_us", dir);
	put(path, quota);
	snprintf(path, sizeof(path), "/cgroup/cpu,cpuacct%s/cpu.cfs_period_us", dir);
	put(path, period);
}

Test(processors, the_first_version_of_cgroups_has_a_quota_too, .init = make_root, .fini = remove_root)
{
	put("/proc/self/mountinfo",
	    "32 25 0:27 / /cgroup/cpuset rw - cgroup cgroup rw,cpuset\n" V1_MOUNT
	    "34 25 0:29 / /cgroup/systemd rw - cgroup cgroup rw,name=systemd\n");
	put("/proc/self/cgroup", "9:name=systemd:/s\n5:cpuset:/c\n4:cpuacct,cpu:/docker/box:1\n");
	put_v1("/docker/box:1", "-1\n", "100000\n");
	cr_assert_eq(limit(), NO_LIMIT);
	put_v1("/docker/box:1", "250000\n", "100000\n");
	cr_assert_eq(limit(), 3);
	put_v1("/docker", "90000\n", "100000\n");
	cr_assert_eq(limit(), 1);
	put_v1("/docker", "90000\n", "0\n");
	cr_assert_eq(limit(), 3);
	put_v1("/docker/box:1", "123456789012345678901234567890123456789012345\n", "100000\n");
	cr_assert_eq(limit(), NO_LIMIT);
}

Test(processors, a_machine_with_both_versions_has_the_lesser_of_both, .init = make_root, .fini = remove_root)
{
	put("/proc/self/mountinfo", V1_MOUNT
	    "42 32 0:38 / /cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n");
	put("/proc/self/cgroup", "4:cpu,cpuacct:/one\n0::/two\n");
	put_v1("/one", "400000\n", "100000\n");
	cr_assert_eq(limit(), 4);
	put("/cgroup/unified/two/cpu.max", "200000 100000\n");
	cr_assert_eq(limit(), 2);
	put_v1("/one", "100000\n", "100000\n");
	cr_assert_eq(limit(), 1);
}

/* --------------------------------------------------------------------- bad files */

Test(processors, without_proc_there_is_no_limit, .init = make_root, .fini = remove_root)
{
	cr_assert_eq(limit(), NO_LIMIT);
	put("/proc/self/mountinfo", V2_MOUNT);
	cr_assert_eq(limit(), NO_LIMIT);
	put("/proc/self/cgroup/is_a_directory", "");
	cr_assert_eq(limit(), NO_LIMIT);
}

Test(processors, lines_of_any_length_are_read, .init = make_root, .fini = remove_root)
{
	char *long_ones = malloc(300000);
	size_t n = 0;

	cr_assert_not_null(long_ones);
	put_v2();
	with_cpu_max("200000 100000\n");
	for (unsigned length = 1000; length < 1050; length++) {
		memset(long_ones + n, 'x', length);
		n += length;
		/* What would be another mount, in a line of its own. */
		n += (size_t)sprintf(long_ones + n, " 30 23 0:26 / /trap rw - cgroup2 none rw\n");
	}
	put("/trap/a.slice/b.service/cpu.max", "100000 100000\n");
	memset(long_ones + n, '/', 100000);
	n += 100000;
	n += (size_t)sprintf(long_ones + n, "\n" V2_MOUNT);
	put_bytes("/proc/self/mountinfo", long_ones, n);
	cr_assert_eq(limit(), 2);
	n = 100000;
	memset(long_ones, ':', n);
	n += (size_t)sprintf(long_ones + n, "\n0::/a.slice/b.service\n");
	put_bytes("/proc/self/cgroup", long_ones, n);
	cr_assert_eq(limit(), 2);
	free(long_ones);
}

/* But what they are below is. */
Test(processors, paths_that_are_too_long_are_not_found, .init = make_root, .fini = remove_root)
{
	char deep[3900], line[5000], path[4000];

	for (size_t i = 0; i < sizeof(deep) - 1; i++)
		deep[i] = i % 100 == 0 ? '/' : 'd';
	deep[sizeof(deep) - 1] = 0;
	put("/proc/self/mountinfo", V2_MOUNT);
	snprintf(line, sizeof(line), "0::%s\n", deep);
	put("/proc/self/cgroup", line);
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", deep);
	put(path, "200000 100000\n");
	cr_assert_eq(limit(), 2);
	for (size_t more = 100; more < 300; more++) { /* through all that may be too long for the system */
		snprintf(line, sizeof(line), "0::%s/%0*d\n", deep, (int)more, 0);
		put("/proc/self/cgroup", line);
		cr_assert_eq(limit(), 2);
	}
}

/* Any bytes in place of some: whatever comes out, it comes back. */
Test(processors, damaged_files_do_no_harm, .init = make_root, .fini = remove_root)
{
	static const char *const paths[] = { "/proc/self/mountinfo", "/proc/self/cgroup",
	    "/sys/fs/cgroup/a.slice/b.service/cpu.max" };
	static const char *const texts[] = { V2_MOUNT V1_MOUNT,
	    "4:cpu,cpuacct:/one\n0::/a.slice/b.service\n", "150000 100000\n" };
	static const char likely[] = "/:,.- \n\\0419cpu";
	rng_t r = rng_for(0);

	for (unsigned round = 0; round < 1000; round++) {
		unsigned which = (unsigned)rng_below(&r, 3);
		char bytes[256];
		size_t n = strlen(texts[which]);

		put_v2();
		with_cpu_max("150000 100000\n");
		memcpy(bytes, texts[which], n);
		for (uint64_t i = rng_below(&r, 6); i < 6; i++)
			bytes[rng_below(&r, n)] = rng_below(&r, 2) != 0 ?
			    likely[rng_below(&r, sizeof(likely))] : (char)rng_below(&r, 256);
		put_bytes(paths[which], bytes, rng_below(&r, n + 1));
		(void)limit();
	}
}

/* ------------------------------------------------------------------------- masks */

/* Of the kernel: processors that it may use, of `possible`. 0: the truth. */
static struct {
	unsigned possible, usable;
	int err;
} kernel;

int __real_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set)
{
	if (kernel.err != 0 || (kernel.possible != 0 && bytes * 8 < kernel.possible)) {
		errno = kernel.err != 0 ? kernel.err : EINVAL;
		return -1;
	}
	if (kernel.possible == 0)
		return __real_sched_getaffinity(pid, bytes, set);
	memset(set, 0, bytes);
	for (unsigned i = 0; i < kernel.usable; i++) /* the last ones */
		((unsigned char *)set)[(kernel.possible - 1 - i) / 8] |=
		    (unsigned char)(1 << (kernel.possible - 1 - i) % 8);
	return 0;
}

/* Of the machine's cgroups, what the library asks for; a test's own files are read. */
static struct {
	uint32_t processors;
	unsigned reads;
} quota = { .processors = NO_LIMIT };

uint32_t __real_cq_cgroup_processors(const char *root);
uint32_t __wrap_cq_cgroup_processors(const char *root);
uint32_t __wrap_cq_cgroup_processors(const char *dir)
{
	if (*dir != 0)
		return __real_cq_cgroup_processors(dir);
	quota.reads++;
	return quota.processors;
}

Test(processors, those_of_the_quota_count_if_they_are_fewer_and_it_is_read_once)
{
	kernel.possible = 8;
	kernel.usable = 5;
	quota.processors = 3;
	cr_assert_eq(cq_processors(), 3);
	quota.processors = 1;
	kernel.usable = 2;
	cr_assert_eq(cq_processors(), 2);
	cr_assert_eq(quota.reads, 1);
}

Test(processors, a_process_without_a_quota_asks_once)
{
	kernel.possible = 8;
	kernel.usable = 5;
	cr_assert_eq(cq_processors(), 5);
	cr_assert_eq(cq_processors(), 5);
	cr_assert_eq(quota.reads, 1);
}

Test(processors, nothing_is_read_where_the_config_says_all)
{
	cq_pool_config_t config = { .workers_max = 1, .spin_ns = CQ_POOL_NO_SPIN };
	cq_pool_t *pool;

	cr_assert_eq(cq_pool_create(&config, &pool), 0);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
	cr_assert_eq(quota.reads, 0);
}

Test(processors, those_of_the_mask_count_however_large_the_machine_is)
{
	const unsigned possible[] = { 8, 1024, 1025, 4096, 32768 };

	for (unsigned i = 0; i < 5; i++) {
		kernel.possible = possible[i];
		for (kernel.usable = 1; kernel.usable <= possible[i]; kernel.usable *= 8) {
			errno = 4711;
			cr_assert_eq(cq_processors(), kernel.usable, "%u of %u", kernel.usable,
			    possible[i]);
			cr_assert_eq(errno, 4711);
		}
	}
}

Test(processors, without_a_mask_those_that_are_online_count)
{
	uint32_t online = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);

	kernel.err = EPERM;
	cr_assert_eq(cq_processors(), online);
	kernel.err = 0;
	kernel.possible = 100000; /* more than there is room for */
	kernel.usable = 3;
	cr_assert_eq(cq_processors(), online);
}

/* What a pool makes of them. */
static void check_defaults(uint32_t workers_max, int32_t spin_ns)
{
	cq_pool_t *pool;

	cr_assert_eq(cq_pool_create(NULL, &pool), 0);
	cr_assert_eq(pool->config.workers_max, workers_max);
	cr_assert_eq(pool->config.spin_ns, spin_ns);
	cr_assert_eq(cq_pool_destroy(pool, CQ_FOREVER), 0);
}

Test(processors, a_process_on_one_of_many_has_one_worker_that_does_not_spin)
{
	kernel.possible = 96;
	kernel.usable = 1;
	check_defaults(1, CQ_POOL_NO_SPIN);
	kernel.usable = 96;
	check_defaults(24, CQ_POOL_SPIN_NS);
}

Test(processors, the_default_maximum_is_a_quarter_however_many_there_are)
{
	const struct { unsigned processors, workers_max; } cases[] = {
		{ 2, 1 }, { 7, 1 }, { 8, 2 }, { 1000, 250 }, { 4096, 1024 }
	};

	kernel.possible = 4096;
	for (unsigned i = 0; i < 5; i++) {
		kernel.usable = cases[i].processors;
		check_defaults(cases[i].workers_max, CQ_POOL_SPIN_NS);
	}
}
