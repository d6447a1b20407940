/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An interpreter whose objects hold what runs out: file descriptors. They are closed in the background, and where
 * too many wait for that, the program waits. So it gets by with 200 of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cq/cq.h>

enum { DESCRIPTORS = 200, MAX_WAITING = 100, TURNS = 20000 };

struct vm {
	cq_cleanup_t *garbage;
	cq_producer_t *dropped;
	int stack[8], depth;		/* descriptors */
	int turns;
};

static void close_it(void *fd)
{
	close((int)(intptr_t)fd);
}

static void drop(struct vm *vm, int fd)
{
	void *it = (void *)(intptr_t)fd;
	int err;

	/* THE BOUND */
	while ((err = cq_producer_put(vm->dropped, it)) == ENOBUFS &&
	    (err = cq_cleanup_wait_for_room(vm->garbage, CQ_FOREVER)) == 0)
		;
	if (err != 0)
		close_it(it);
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
	const cq_cleanup_config_t config = { .max_waiting = MAX_WAITING };
	const struct rlimit limit = { DESCRIPTORS, DESCRIPTORS };
	struct vm vm = { .turns = TURNS };
	cq_cleanup_stats_t s;

	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || cq_cleanup_create(&config, &vm.garbage) != 0 || cq_producer_attach(vm.garbage, close_it, &vm.dropped) != 0 ||
	    run(&vm, code) != 0)
		return 1;
	cq_producer_detach(vm.dropped);
	if (cq_cleanup_shutdown(vm.garbage, CQ_SHUTDOWN_DRAIN, CQ_FOREVER, NULL, NULL) != 0)
		return 1;
	cq_cleanup_stats(vm.garbage, &s);
	printf("interpreter: %d objects, with %d descriptors\n", (int)s.executed, DESCRIPTORS);
	return cq_cleanup_destroy(vm.garbage) != 0 || s.executed != 3 * TURNS;
}
