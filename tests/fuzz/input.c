/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

static const uint8_t *data;
static size_t size, at;

void input_begin(const uint8_t *d, size_t n)
{
	data = d;
	size = n;
	at = 0;
}

bool input_ended(void)
{
	return at >= size;
}

unsigned byte(void)
{
	return at < size ? data[at++] : 0;
}

unsigned below(unsigned n)
{
	return byte() % n;
}

uint64_t pick(const uint64_t *values, size_t n)
{
	return values[byte() % n];
}

/* --------------------------------------------------------------- reporting */

static char list[1 << 16];
static size_t length;
bool notes_live;
unsigned depth;

const char *notes(void)
{
	return list;
}

void note(const char *format, ...)
{
	size_t start = length;
	va_list args;
	int n;

	if (sizeof(list) - length < 512)
		return;
	length += (size_t)snprintf(list + length, 64, "%*s", (int)(2 * depth), "");
	va_start(args, format);
	n = vsnprintf(list + length, 256, format, args);
	va_end(args);
	length += (size_t)(n < 255 ? n : 255);
	list[length++] = '\n';
	list[length] = '\0';
	if (notes_live)
		fputs(list + start, stderr);
}

void disagree(const char *file, int line, const char *format, ...)
{
	va_list args;

	if (!notes_live)
		fputs(list, stderr);
	fprintf(stderr, "%s:%d: the library and the model disagree: ", file, line);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	fflush(NULL);
	abort();
}

void expect_eq(const char *file, int line, const char *what, uint64_t got, uint64_t expected)
{
	if (got != expected)
		disagree(file, line, "%s is %" PRIu64 ", expected %" PRIu64, what, got, expected);
}

struct called *all_called;

void count_call(struct called *c)
{
	if (c->times++ == 0) {
		c->next = all_called;
		all_called = c;
	}
}

/* ------------------------------------------------------------------- clock */

uint64_t now;

void advance_to(uint64_t then)
{
	if (then > now)
		now = then < CQ_FOREVER ? then : CQ_FOREVER - 1;
}

void advance_by(uint64_t ns)
{
	advance_to(ns < CQ_FOREVER - now ? now + ns : CQ_FOREVER);
}

uint64_t some_deadline(void)
{
	uint64_t ns = PICK(0, 1, 10, 1000, CQ_FOREVER);

	return ns > CQ_FOREVER - now ? CQ_FOREVER : now + ns;
}

uint64_t clock_now(void *host)
{
	(void)host;
	return now;
}

/* ----------------------------------------------------------------- an input */

void (*at_point)(const char *where);

/* The library, built with -DCQ_POINTS, calls this. */
void cq_point(const char *where);
void cq_point(const char *where)
{
	if (at_point != NULL)
		at_point(where);
}

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n)
{
	unsigned decoder;

	input_begin(d, n);
	length = depth = 0;
	list[0] = '\0';
	at_point = NULL;
	now = PICK(1000, 0, UINT64_C(1) << 32, CQ_FOREVER - 2000);
	decoder = byte();
	switch (decoder >= 240 ? 8 : decoder % 8) {
	case 0:
		fuzz_workq();
		break;
	case 1:
		fuzz_sleepers();
		break;
	case 2:
		fuzz_refused();
		break;
	case 8:
		fuzz_pool(decoder == 252);
		break;
	default:
		fuzz_cleanup(decoder >= 200 && decoder < 232);
	}
	at_point = NULL;
	return 0;
}
