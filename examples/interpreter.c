/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An interpreter whose objects hold what runs out: file descriptors. They are closed in the background, and where
 * too many wait for that, the program waits.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cq/cq.h>

enum { MAX_WAITING = 100, TURNS = 20000 };

struct vm {
	cq_cleanup_t *garbage;
	cq_producer_t *dropped;
	int stack[8], depth;		/* descriptors */
	int turns;
};

static atomic_int waiting;

static void close_it(void *fd)
{
	close((int)(intptr_t)fd);
	atomic_fetch_sub(&waiting, 1);
}

static void drop(struct vm *vm, int fd)
{
	/* THE BOUND. The library has none yet, so the interpreter counts. */
	while (atomic_load(&waiting) >= MAX_WAITING)
		cq_cleanup_drain(vm->garbage, CQ_FOREVER);
	atomic_fetch_add(&waiting, 1);
	if (cq_producer_put(vm->dropped, (void *)(intptr_t)fd) != 0)
		close_it((void *)(intptr_t)fd);
}

enum { OPEN, DROP, LOOP };

/* The main loop. 0, or -1: a descriptor could not be had. */
static int run(struct vm *vm, const unsigned char *code)
{
	for (const unsigned char *pc = code;;)
		switch (*pc++) {
		case OPEN:
			if ((vm->stack[vm->depth++] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
				return -1;
			break;
		case DROP:
			drop(vm, vm->stack[--vm->depth]);
			break;
		case LOOP:
			if (--vm->turns == 0)
				return 0;
			pc = code;
		}
}

int main(void)
{
	static const unsigned char code[] = { OPEN, OPEN, DROP, OPEN, DROP, DROP, LOOP };
	struct vm vm = { .turns = TURNS };
	cq_cleanup_stats_t s;

	if (cq_cleanup_create(NULL, &vm.garbage) != 0 || cq_producer_attach(vm.garbage, close_it, &vm.dropped) != 0 ||
	    run(&vm, code) != 0)
		return 1;
	cq_producer_detach(vm.dropped);
	if (cq_cleanup_shutdown(vm.garbage, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0)
		return 1;
	cq_cleanup_stats(vm.garbage, &s);
	printf("interpreter: %d objects, never more than %d that waited\n", (int)s.executed, MAX_WAITING);
	return cq_cleanup_destroy(vm.garbage) != 0 || s.executed != 3 * TURNS || atomic_load(&waiting) != 0;
}
