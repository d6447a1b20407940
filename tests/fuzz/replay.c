/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Usage: tests/fuzz/replay [-v] [-c] [FILE|DIRECTORY...]
 * Gives each file to the fuzzer, without libFuzzer. By default the files of
 * tests/fuzz/corpus. -v prints the calls as they are made; -c prints which
 * functions of the interface were called, and how often.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"

enum { SECONDS_PER_INPUT = 20, BYTES_MAX = 1 << 16 };

static unsigned inputs;
static const char *current = "";

/* The list of calls, where it was not EXPECT that failed. */
static void on_signal(int sig)
{
	const char *reason = sig == SIGALRM ? "it hangs" : "it crashes";
	const char *parts[] = { notes(), current, ": ", reason, "\n" };

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0)
			break;
	_exit(sig == SIGALRM ? 2 : 3);
}

static void replay_file(const char *path)
{
	static uint8_t bytes[BYTES_MAX];
	FILE *f = fopen(path, "rb");
	size_t n;

	if (f == NULL) {
		perror(path);
		exit(1);
	}
	n = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	current = path;
	alarm(SECONDS_PER_INPUT);
	LLVMFuzzerTestOneInput(bytes, n);
	alarm(0);
	inputs++;
}

static int visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void replay(const char *path)
{
	struct dirent **entries;
	int n = scandir(path, &entries, visible, alphasort);
	char name[4096];

	if (n < 0) {
		replay_file(path);
		return;
	}
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		replay_file(name);
		free(entries[i]);
	}
	free(entries);
}

static void replay_corpus(void)
{
	const char *srcdir = getenv("srcdir");
	char path[4096];

	snprintf(path, sizeof(path), "%s/tests/fuzz/corpus", srcdir != NULL ? srcdir : ".");
	replay(path);
}

/* The calls of one function may be made in several places. */
static unsigned long times(const char *function)
{
	unsigned long n = 0;

	for (struct called *c = all_called; c != NULL; c = c->next)
		if (strcmp(c->function, function) == 0)
			n += c->times;
	return n;
}

static bool seen_before(const struct called *c)
{
	for (struct called *b = all_called; b != c; b = b->next)
		if (strcmp(b->function, c->function) == 0)
			return true;
	return false;
}

static void sum_up(bool print)
{
	unsigned long functions = 0, calls = 0;

	for (struct called *c = all_called; c != NULL; c = c->next) {
		calls += c->times;
		if (seen_before(c))
			continue;
		functions++;
		if (print)
			printf("%s %lu\n", c->function, times(c->function));
	}
	printf("%u inputs, %lu functions called, %lu calls, no disagreement\n", inputs, functions,
	    calls);
}

int main(int argc, char **argv)
{
	bool print = false;
	int option;

	while ((option = getopt(argc, argv, "vc")) != -1) {
		notes_live |= option == 'v';
		print |= option == 'c';
		if (option == '?')
			return 1;
	}
	signal(SIGALRM, on_signal);
	signal(SIGABRT, on_signal);
	for (int i = optind; i < argc; i++)
		replay(argv[i]);
	if (optind == argc)
		replay_corpus();
	sum_up(print);
	return inputs == 0;
}
