/* SPDX-License-Identifier: BSD-2-Clause */
/* What the workloads of benchmarks/gc/boehm share. */
#ifndef BOEHM_H
#define BOEHM_H

#define GC_THREADS
#include <gc.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cq/gc.h>

enum { WORDS = 6 };	/* of an object: as large as the others' */

extern const char *name;	/* of this contestant, as reported */
extern cq_cleanup_t *queue;	/* NULL: in place, or without libcq */
extern bool long_links;		/* no cleanups, but a long link each, that the collector clears */
extern void **objects;		/* `count` of them: uncollectable, and a root as such */
extern size_t count;

_Noreturn void fail(const char *what);

struct times {
	double wall, cpu;
};

struct times now(void);
struct times since(struct times began);

void *make(void);

/* The next `n` cleanups that are attached count in other places than those before, each of which must have run. */
void expect(size_t n);
/* Attaches number i, from 0, of those to an object. */
void attach(void *object, size_t i);
/* How many of them have run. */
size_t ran(void);
/* Collects, and comes back when all that was found dead has run; since when, or since `began` if nothing ran. */
struct times run_dead(struct times began);

/* Clears `objects`, and what the stack has of them. */
void drop(void);

/* In ns, of the handler of the collector's events: how long the world stood still since the last call. */
double stopped(void);

void dying(void);
void steady(unsigned int threads);
void alive(bool shuffled);
void calls(void);
void work(const char *kind);

#endif /* BOEHM_H */
