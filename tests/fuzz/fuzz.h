/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fuzzer of the interface: bytes are decoded into calls of the public
 * functions, all on one thread, and each call must do what a plain model of the
 * header's words predicts. "Other threads" are calls within calls: in park, in
 * a callback, and at the schedule points of src/base/points.h. So one thread goes
 * through interleavings of whole calls, and an input replays exactly.
 *
 *   input.c    the bytes, the list of calls that a failure prints
 *   workq.c, sleepers.c, pool.c, cleanup.c (with model.c)   a decoder and model each
 *   refused.c  configurations, and misuse that must be refused
 *   replay.c   a main that replays files; libFuzzer brings another
 *
 * A new operation is a function and a line in its decoder's table. A byte that
 * is past the end reads as 0, and every decoder takes 0 to mean "nothing more".
 */
#ifndef CQ_FUZZ_H
#define CQ_FUZZ_H

#include <cq/cq.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ------------------------------------------------------------------- bytes */

void input_begin(const uint8_t *data, size_t size);
bool input_ended(void);
unsigned byte(void);
unsigned below(unsigned n);	/* 0 .. n-1, n <= 256 */
uint64_t pick(const uint64_t *values, size_t n);
#define PICK(...)								\
	pick((const uint64_t[]){ __VA_ARGS__ },					\
	    sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

/* --------------------------------------------------------------- reporting */

/* Adds a line to the list of calls, indented by how deep calls are nested. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern bool notes_live;		/* print them at once */
extern unsigned depth;		/* calls within calls */
enum { DEPTH_MAX = 8 };
const char *notes(void);

/* The library and the model disagree: prints the list of calls, and aborts. */
_Noreturn void disagree(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define EXPECT(condition, ...)							\
	((condition) ? (void)0 : disagree(__FILE__, __LINE__, __VA_ARGS__))
#define EXPECT_EQ(got, expected)						\
	expect_eq(__FILE__, __LINE__, #got, (uint64_t)(got), (uint64_t)(expected))
void expect_eq(const char *file, int line, const char *what, uint64_t got, uint64_t expected);

/* CALL(f)(arguments): a call of the interface, which is counted. */
struct called {
	const char *function;
	unsigned long times;
	struct called *next;
};
extern struct called *all_called;
void count_call(struct called *c);
#define CALL(f)									\
	(*({ static struct called called_ = { .function = #f };			\
	     count_call(&called_); &f; }))

/* ------------------------------------------------------------------- clock */

/* One clock for the park tables of all decoders. It moves only by these. */
extern uint64_t now;
void advance_to(uint64_t then);	/* not back, and not to CQ_FOREVER */
void advance_by(uint64_t ns);
uint64_t some_deadline(void);
uint64_t clock_now(void *host);

/* ---------------------------------------------------------------- decoders */

/* What libcq calls at its schedule points, when a decoder wants to know. */
extern void (*at_point)(const char *where);

void fuzz_workq(void);
extern uint32_t fuzz_cpu;	/* on which all that is called runs */
void fuzz_sleepers(void);
void fuzz_pool(bool by_time);
void fuzz_cleanup(bool by_time);
void fuzz_refused(void);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* CQ_FUZZ_H */
