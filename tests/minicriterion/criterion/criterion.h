/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A stand-in for Criterion, for processors and C libraries for which there is no
 * package of it, and for emulators: Criterion executes the test program anew for
 * each test, which a user-mode emulator can't do unless the kernel is set up for
 * it. This forks instead. It has what libcq's tests use, and no more:
 *
 *   Test(suite, name, .init, .fini, .signal, .exit_code, .timeout = seconds)
 *   TestSuite(suite, .timeout, .fini), one per program
 *   cr_assert*, cr_expect_lt, cr_skip, cr_skip_test
 *
 * It brings main(). PROGRAM runs all tests, each in a process of its own; PROGRAM
 * SUITE::NAME runs that one, in place. Environment:
 *
 *   CRITERION_SKIP   patterns of the SUITE::NAMEs to leave out, as in a shell
 *   CRITERION_EXEC   runs each test as a command, CRITERION_EXEC PROGRAM SUITE::NAME:
 *                    for emulators that don't survive a fork without an exec
 */
#ifndef CRITERION_CRITERION_H
#define CRITERION_CRITERION_H

#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct cr_options {
	void (*init)(void), (*fini)(void);
	int signal, exit_code;	/* how the test is to end */
	double timeout;
};

struct cr_test {
	const char *name; /* suite::name */
	void (*body)(void);
	struct cr_options options;
	struct cr_test *next;
};

/* Exit statuses that no test is expected to have. */
enum { CR_FAILED = 98, CR_SKIPPED = 99 };

static struct cr_test *cr_first, **cr_last = &cr_first; /* in the order of the source */
static struct cr_options cr_suite;
static bool cr_has_failed; /* a cr_expect of this test */

#define Test(SUITE, NAME, ...)							\
	static void SUITE##_##NAME##_body(void);				\
	static struct cr_test SUITE##_##NAME##_test =				\
	    { #SUITE "::" #NAME, SUITE##_##NAME##_body, { __VA_ARGS__ }, NULL };	\
	__attribute__((constructor)) static void SUITE##_##NAME##_add(void)	\
	{									\
		*cr_last = &SUITE##_##NAME##_test;				\
		cr_last = &SUITE##_##NAME##_test.next;				\
	}									\
	static void SUITE##_##NAME##_body(void)

#define TestSuite(SUITE, ...) static struct cr_options cr_suite = { __VA_ARGS__ }

/* ------------------------------------------------------------- assertions */

__attribute__((format(printf, 4, 5)))
static inline void cr_failed(const char *file, int line, const char *what, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("%s:%d: failed: %s", file, line, what);
	vprintf(format, args);
	putchar('\n');
	va_end(args);
	cr_has_failed = true;
}

/* A message may follow: a format that is a literal, and its arguments. */
#define CR_EXPECT(CONDITION, WHAT, ...)						\
	((CONDITION) ? (void)0 : cr_failed(__FILE__, __LINE__, WHAT, " " __VA_ARGS__))
#define CR_ASSERT(CONDITION, WHAT, ...)						\
	((CONDITION) ? (void)0 : (cr_failed(__FILE__, __LINE__, WHAT, " " __VA_ARGS__), cr_end(CR_FAILED)))

/* Ends the test from within. */
static inline void cr_end(int status)
{
	fflush(NULL);
	_exit(status);
}

#define cr_skip(...) (printf("skipped: " __VA_ARGS__), putchar('\n'), cr_end(CR_SKIPPED))
#define cr_skip_test cr_skip

#define cr_assert(A, ...) CR_ASSERT(A, #A, __VA_ARGS__)
#define cr_assert_not(A, ...) CR_ASSERT(!(A), "not " #A, __VA_ARGS__)
#define cr_assert_null(A, ...) CR_ASSERT((A) == NULL, #A " is NULL", __VA_ARGS__)
#define cr_assert_not_null(A, ...) CR_ASSERT((A) != NULL, #A " is not NULL", __VA_ARGS__)
#define cr_assert_eq(A, B, ...) CR_ASSERT((A) == (B), #A " == " #B, __VA_ARGS__)
#define cr_assert_neq(A, B, ...) CR_ASSERT((A) != (B), #A " != " #B, __VA_ARGS__)
#define cr_assert_lt(A, B, ...) CR_ASSERT((A) < (B), #A " < " #B, __VA_ARGS__)
#define cr_assert_leq(A, B, ...) CR_ASSERT((A) <= (B), #A " <= " #B, __VA_ARGS__)
#define cr_assert_gt(A, B, ...) CR_ASSERT((A) > (B), #A " > " #B, __VA_ARGS__)
#define cr_assert_geq(A, B, ...) CR_ASSERT((A) >= (B), #A " >= " #B, __VA_ARGS__)
#define cr_assert_str_eq(A, B, ...) \
	CR_ASSERT(strcmp((A), (B)) == 0, #A " is the same as " #B, __VA_ARGS__)
#define cr_expect_lt(A, B, ...) CR_EXPECT((A) < (B), #A " < " #B, __VA_ARGS__)

/* ------------------------------------------------------------- the runner */

/* The life of a test, which has the process to itself. */
_Noreturn static inline void cr_live(const struct cr_test *t)
{
	double seconds = t->options.timeout > 0 ? t->options.timeout : cr_suite.timeout;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm((unsigned)seconds);
	if (t->options.init != NULL)
		t->options.init();
	t->body();
	if (t->options.fini != NULL)
		t->options.fini();
	if (cr_suite.fini != NULL)
		cr_suite.fini();
	exit(cr_has_failed ? CR_FAILED : 0);
}

static inline int cr_run(const char *program, const struct cr_test *t)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	if ((pid = fork()) == 0) {
		if (getenv("CRITERION_EXEC") == NULL)
			cr_live(t);
		execl("/bin/sh", "sh", "-c", "exec $CRITERION_EXEC \"$0\" \"$1\"", program, t->name, NULL);
		_exit(CR_FAILED);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("criterion");
		exit(1);
	}
	kill(-pid, SIGKILL); /* what it has left */
	return status;
}

enum cr_result { CR_PASSING, CR_FAILING, CR_CRASHING, CR_SKIPPING, CR_RESULTS };

static inline enum cr_result cr_judge(const struct cr_test *t, int status)
{
	int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

	if (WIFEXITED(status) && WEXITSTATUS(status) == CR_SKIPPED)
		return CR_SKIPPING;
	if (signal != t->options.signal)
		return signal != 0 ? CR_CRASHING : CR_FAILING;
	if (signal == 0 && WEXITSTATUS(status) != t->options.exit_code)
		return CR_FAILING;
	return CR_PASSING;
}

static inline bool cr_is_left_out(const struct cr_test *t)
{
	const char *skip = getenv("CRITERION_SKIP");
	char patterns[1024], *rest = NULL;

	snprintf(patterns, sizeof(patterns), "%s", skip != NULL ? skip : "");
	for (char *p = strtok_r(patterns, " \t\n", &rest); p != NULL; p = strtok_r(NULL, " \t\n", &rest))
		if (fnmatch(p, t->name, 0) == 0)
			return true;
	return false;
}

static inline enum cr_result cr_run_and_tell(const char *program, const struct cr_test *t)
{
	static const char *const word[] = { "ok", "FAIL", "CRASH", "skip" };
	enum cr_result result = CR_SKIPPING;
	int status = 0;

	if (!cr_is_left_out(t)) {
		status = cr_run(program, t);
		result = cr_judge(t, status);
	}
	printf("%-5s %s\n", word[result], t->name);
	if (result == CR_CRASHING)
		printf("      signal %d%s\n", WTERMSIG(status),
		    WTERMSIG(status) == SIGALRM ? ": it took too long" : "");
	return result;
}

int main(int argc, char **argv)
{
	unsigned n[CR_RESULTS] = { 0 };

	for (const struct cr_test *t = cr_first; t != NULL; t = t->next) {
		if (argc > 1 && strcmp(argv[1], t->name) == 0)
			cr_live(t);
		if (argc == 1)
			n[cr_run_and_tell(argv[0], t)]++;
	}
	/* As Criterion puts it, so that its logs and these are counted alike. */
	printf("Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: %u | Skipped: %u\n",
	    n[CR_PASSING] + n[CR_FAILING] + n[CR_CRASHING],
	    n[CR_PASSING], n[CR_FAILING], n[CR_CRASHING], n[CR_SKIPPING]);
	return argc != 1 || n[CR_FAILING] + n[CR_CRASHING] != 0;
}

#endif /* CRITERION_CRITERION_H */
