/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * scripts/coverage puts this before every source: a forked child that ends by
 * _exit, which runs no exit handlers, writes its counts all the same.
 */
#ifndef CQ_TESTS_COVERAGE_H
#define CQ_TESTS_COVERAGE_H

void __gcov_dump(void);
_Noreturn void _Exit(int status);

static inline _Noreturn void exit_counted(int status)
{
	__gcov_dump();
	_Exit(status);
}

#define _exit exit_counted

#endif /* CQ_TESTS_COVERAGE_H */
