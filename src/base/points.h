/* SPDX-License-Identifier: BSD-2-Clause */
/* Schedule points and checks, both nothing in an ordinary build. CQ_POINT marks where another thread's step,
   fallen between two of this one, decides a race: there the test build (-DCQ_POINTS) calls cq_point(),
   by which a test steers the schedule. CQ_CHECK is an assertion that costs, in a build with -DCQ_CHECKS. */
#ifndef CQ_POINTS_H
#define CQ_POINTS_H

#ifdef CQ_POINTS
void cq_point(const char *where);
#define CQ_POINT(where) cq_point(where)
#else
#define CQ_POINT(where) ((void)0)
#endif

#ifdef CQ_CHECKS
#include <stdio.h>
#include <stdlib.h>
#define CQ_CHECK(condition)							\
	do {									\
		if (!(condition)) {						\
			fprintf(stderr, "libcq: %s:%d: %s: check failed: %s\n",	\
			    __FILE__, __LINE__, __func__, #condition);		\
			abort();						\
		}								\
	} while (0)
#else
#define CQ_CHECK(condition) ((void)(0 && (condition)))
#endif

#endif /* CQ_POINTS_H */
