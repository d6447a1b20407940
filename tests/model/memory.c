/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The memory model: that of C11 as repaired (RC11), in its operational form. A
 * location has all its stores, in the order in which they take effect. A thread
 * has a view: of each location the oldest store that it may still read. A load
 * may return any store from there to the newest. A store takes its place behind
 * any of these, a read-modify-write behind the one that it reads, and nothing
 * comes between those two. A store carries a view, which an acquiring load takes
 * over. Sequentially consistent fences pass views on in the order in which they
 * are executed.
 *
 * Sources: Lahav, Vafeiadis, Kang, Hur, Dreyer: "Repairing Sequential Consistency
 * in C/C++11" (PLDI 2017) for the model; Kang, Hur, Lahav, Vafeiadis, Dreyer: "A
 * Promising Semantics for Relaxed-Memory Concurrency" (POPL 2017) for the form in
 * views, without its promises: a store never comes before a load that precedes
 * it in the program.
 *
 * Data races: vector clocks, which travel with the views (Flanagan, Freund:
 * "FastTrack", PLDI 2009), but not with the sequentially consistent fences.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "machine.h"

static struct cell *cells;	/* of the region, then of the data segments */
static const void *racy[2][2];	/* code that may race: from, to */

/* Before hooks_init, which keeps the values that static variables have by then. */
void memory_init(size_t data_bytes)
{
	size_t ncells = (REGION_BYTES + data_bytes) / CELL_BYTES + 2;

	cells = mmap(NULL, ncells * sizeof(*cells), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (cells == MAP_FAILED)
		abort();
	/* The walk of the pop may read a link that its owner is writing: what it read
	   counts only if the swap that follows succeeds. The same two as in tsan.supp. */
	code_of("stack_walk", racy[0]);
	code_of("cq_stack_pop_n", racy[1]);
}

/* ------------------------------------------------------------------ cells */

static bool checked(uintptr_t a)
{
	return a - (uintptr_t)region < REGION_BYTES || (a >= data_begin && a < data_end);
}

struct cell *cell_of(uintptr_t a)
{
	size_t i = a - (uintptr_t)region;
	struct cell *c;

	if (i >= REGION_BYTES)
		i = REGION_BYTES + (a - data_begin);
	c = &cells[i / CELL_BYTES];
	if (c->run != m->run) {
		memset(c, 0, sizeof(*c));
		c->run = m->run;
	}
	return c;
}

/* -------------------------------------------------------------------- views */

static void view_join_ts(struct view *to, const struct view *from)
{
	for (unsigned i = 0; i < m->nlocations; i++)
		if (to->ts[i] < from->ts[i])
			to->ts[i] = from->ts[i];
}

void view_join(struct view *to, const struct view *from)
{
	view_join_ts(to, from);
	for (int i = 0; i < 2 * MAX_THREADS; i++)
		if (to->clock[i] < from->clock[i])
			to->clock[i] = from->clock[i];
}

uint64_t view_hash(const struct view *v)
{
	uint64_t h = 1, word;

	/* Locations that are new since count as zeros, which hash to what was. */
	for (unsigned i = 0; i < m->nlocations; i += 4) {
		memcpy(&word, &v->ts[i], sizeof(word));
		if (word != 0)
			h += mix(spread(i + 7), word);
	}
	for (unsigned i = 0; i < 2 * MAX_THREADS; i += 4) {
		memcpy(&word, &v->clock[i], sizeof(word));
		h += mix(spread(i + 1000003), word);
	}
	return h;
}

/* What t does from here on is not covered by what it has passed on so far. */
void tick(struct thread *t)
{
	t->cur.clock[t - m->threads]++;
	t->cur.clock[READS + (t - m->threads)]++;
}

void synchronize(struct view *to, const struct thread *from)
{
	view_join(to, &from->cur);
}

/* --------------------------------------------------------------- data races */

static bool may_race(const void *pc)
{
	return (pc >= racy[0][0] && pc < racy[0][1]) || (pc >= racy[1][0] && pc < racy[1][1]);
}

static void race(const char *what, uintptr_t a, int other, void *pc)
{
	if (m->race_is != 0) {
		m->met |= m->race_is;
		prune();
	}
	model_fail("data race: %s of %#lx in %s, not ordered with thread %d", what,
	    (unsigned long)a, symbol_of(pc), other);
}

/*
 * Is an atomic store of u's not ordered before a plain access by t? A release fence
 * orders what comes before it: not the store after it by which others learn of that,
 * though they read that store and acquire. So they may not access the word plainly.
 * They may only end its life (`last`): every machine keeps the order of their load of
 * it and of what is made of that memory next.
 */
static bool store_races(const struct cell *c, int u, const struct thread *t, bool last)
{
	if (c->atomic_wrote[u] <= t->cur.clock[u])
		return false;
	return !last || c->location == 0 || c->stored[u] > t->cur.ts[c->location - 1];
}

/*
 * An access to the bytes [from, to) of the cell at a. In the stack it may be to a variable
 * that is no more, which is then made another's: as if it had been freed. It may be a read:
 * a compiler (gcc 14) doesn't tell of what is written before anybody else has the address.
 */
static void check_plain(struct cell *c, unsigned from, unsigned to, uintptr_t a, bool write,
    bool free, void *pc)
{
	bool last = in_stack_of(a, m->current) || (write && free);
	struct thread *t = self();
	uint16_t now = t->cur.clock[m->current];

	for (unsigned i = from; i < to; i++)
		if (c->wrote[i] > t->cur.clock[c->writer[i]])
			race(write ? "write" : "read", a + i, c->writer[i], pc);
	for (int u = 0; u < m->nthreads; u++) {
		if (u == m->current)
			continue;
		if (store_races(c, u, t, last))
			race(write ? "write" : "read", a, u, pc);
		if (last && write && !free)
			c->atomic_wrote[u] = 0; /* another variable from here on */
		if (!write)
			continue;
		if (c->atomic_read[u] > t->cur.clock[READS + u])
			race("write", a, u, pc);
		for (unsigned i = from; i < to; i++)
			if (c->read[u][i] > t->cur.clock[READS + u])
				race("write", a + i, u, pc);
	}
	for (unsigned i = from; i < to; i++) {
		if (write) {
			c->writer[i] = (uint8_t)m->current;
			c->wrote[i] = now;
		} else {
			c->read[m->current][i] = t->cur.clock[READS + m->current];
		}
	}
}

static void check_atomic(uintptr_t a, unsigned size, bool write, void *pc)
{
	struct thread *t = self();

	for (uintptr_t b = a; b < a + size; b += CELL_BYTES) {
		struct cell *c = cell_of(b);

		if (c->freed)
			model_fail("use after free: %#lx in %s", (unsigned long)b, symbol_of(pc));
		if (!write && may_race(pc))
			continue;
		for (unsigned lane = 0; lane < CELL_BYTES; lane++) {
			int w = c->writer[lane];

			if (w != m->current && c->wrote[lane] > t->cur.clock[w])
				race(write ? "atomic write" : "atomic read", b, w, pc);
			for (int u = 0; write && u < m->nthreads; u++)
				if (u != m->current && c->read[u][lane] > t->cur.clock[READS + u])
					race("atomic write", b, u, pc);
		}
		if (write)
			c->atomic_wrote[m->current] = t->cur.clock[m->current];
		else
			c->atomic_read[m->current] = t->cur.clock[READS + m->current];
	}
}

/* ---------------------------------------------------------------- locations */

static uint64_t memory_at(uintptr_t a, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, (void *)a, size);
	return v;
}

static struct store *new_store(uint64_t v, const struct view *view)
{
	struct store *s;

	if (m->nstores == MAX_STORES)
		model_fail("too many stores: raise MAX_STORES");
	s = &m->stores[m->nstores++];
	s->value = v;
	s->view = *view;
	s->update = false;
	s->before = NULL;
	return s;
}

static void hash_store(struct store *s)
{
	s->hash = mix(mix(mix(5, s->value), s->update), view_hash(&s->view));
}

static struct location *find(uintptr_t a, unsigned size)
{
	for (unsigned i = 0; i < m->nlocations; i++)
		if (m->locations[i].address == a && m->locations[i].size == size)
			return &m->locations[i];
	if (m->nlocations == MAX_LOCATIONS)
		model_fail("too many locations: raise MAX_LOCATIONS");
	m->locations[m->nlocations] = (struct location){ .address = a, .size = size };
	return &m->locations[m->nlocations++];
}

/* The location at a, with its first store: what is in memory. */
static struct location *location(uintptr_t a, unsigned size)
{
	struct cell *c = cell_of(a);
	struct location *l;

	if (c->location != 0) {
		l = &m->locations[c->location - 1];
		if (l->address == a && l->size == size)
			return l;
	}
	if (a % size != 0 || !checked(a))
		model_fail("an atomic access of %u bytes at %#lx", size, (unsigned long)a);
	l = find(a, size);
	for (uintptr_t b = a; b < a + size; b += CELL_BYTES)
		cell_of(b)->location = (uint16_t)(l - m->locations + 1);
	l->live = true;
	l->newest = 0;
	l->last = new_store(memory_at(a, size), &(struct view){ 0 });
	hash_store(l->last);
	for (int t = 0; t < m->nthreads; t++)
		m->threads[t].cur.ts[l - m->locations] = m->threads[t].rel.ts[l - m->locations] =
		    m->threads[t].acq.ts[l - m->locations] = 0;
	m->sc.ts[l - m->locations] = 0;
	return l;
}

static struct store *store_at(struct location *l, uint16_t ts)
{
	struct store *s = l->last;

	for (uint16_t i = l->newest; i > ts; i--)
		s = s->before;
	return s;
}

static bool later(uint16_t *ts, uint16_t from)
{
	*ts += *ts >= from;
	return *ts > from;
}

/* Makes room at `from`: whoever knows one of the stores from there on knows it still. */
static void shift(struct location *l, uint16_t from)
{
	size_t i = (size_t)(l - m->locations);

	for (int t = 0; t < m->nthreads; t++) {
		later(&m->threads[t].cur.ts[i], from);
		later(&m->threads[t].rel.ts[i], from);
		later(&m->threads[t].acq.ts[i], from);
	}
	later(&m->sc.ts[i], from);
	for (unsigned s = 0; s < m->nstores; s++)
		if (later(&m->stores[s].view.ts[i], from))
			hash_store(&m->stores[s]);
	for (unsigned o = 0; o < m->nobjects; o++)
		if (later(&m->objects[o].view.ts[i], from))
			m->objects[o].hash = view_hash(&m->objects[o].view);
	for (uintptr_t a = l->address; a < l->address + l->size; a += CELL_BYTES)
		for (int t = 0; t < m->nthreads; t++)
			later(&cell_of(a)->stored[t], from);
}

/* A store by the current thread, at that place, which hands on `view`. */
static void insert(struct location *l, uint16_t ts, uint64_t v, const struct view *view,
    bool update)
{
	unsigned i = (unsigned)(l - m->locations);
	struct store *s = new_store(v, view);

	if (ts > l->newest) {
		s->before = l->last;
		l->last = s;
		memcpy((void *)l->address, &v, l->size);
	} else {
		struct store *next = store_at(l, ts);

		s->before = next->before;
		next->before = s;
		shift(l, ts);
	}
	l->newest++;
	s->update = update;
	s->view.ts[i] = ts;
	hash_store(s);
	self()->cur.ts[i] = ts;
	for (uintptr_t a = l->address; a < l->address + l->size; a += CELL_BYTES)
		cell_of(a)->stored[m->current] = ts;
}

static void append(struct location *l, uint64_t v, const struct view *view, bool update)
{
	insert(l, (uint16_t)(l->newest + 1), v, view, update);
}

/* How many older stores than the newest may the current thread read? */
static int stale_stores(struct location *l)
{
	return m->left.stale == 0 ? 0 : l->newest - self()->cur.ts[l - m->locations];
}

static void spend_stale(void)
{
	if (m->left.stale > 0)
		m->left.stale--;
}

/* Is there room behind that store? Not if a read-modify-write has read it. */
static bool has_room(struct location *l, uint16_t ts)
{
	return ts == l->newest || !store_at(l, (uint16_t)(ts + 1))->update;
}

/*
 * Where the next store by the current thread takes effect: picks one of the stores
 * behind which it may, the newest first. It comes after each that the thread knows.
 */
static uint16_t pick_place(struct location *l)
{
	uint16_t places[MAX_PLACES];
	int n = 0;

	for (int age = 0; age <= stale_stores(l) && n < MAX_PLACES; age++)
		if (has_room(l, (uint16_t)(l->newest - age)))
			places[n++] = (uint16_t)(l->newest - age);
	return places[pick(n)];
}

static uint64_t read_store(struct location *l, uint16_t ts, bool acquire)
{
	struct thread *t = self();
	struct store *s = store_at(l, ts);
	unsigned i = (unsigned)(l - m->locations);

	if (ts != l->newest)
		spend_stale();
	t->last_load = (uint16_t)i;
	if (t->cur.ts[i] < ts)
		t->cur.ts[i] = ts;
	view_join(&t->acq, &s->view);
	if (acquire)
		view_join(&t->cur, &s->view);
	return s->value;
}

/* ----------------------------------------------------------------- accesses */

uint64_t load(uintptr_t a, unsigned size, bool acquire, void *pc)
{
	struct location *l;
	uint64_t v;
	int age;

	point();
	l = location(a, size);
	check_atomic(a, size, false, pc);
	age = pick(1 + stale_stores(l));
	v = read_store(l, (uint16_t)(l->newest - age), acquire);
	note(v);
	trace(age == 0 ? "load" : "load stale", a, v, pc);
	return v;
}

/* The newest value, as the kernel sees it on behalf of the thread. */
uint64_t newest(uintptr_t a, unsigned size)
{
	struct location *l = location(a, size);

	return read_store(l, l->newest, false);
}

void store(uintptr_t a, unsigned size, uint64_t v, bool release, void *pc)
{
	struct location *l;
	uint16_t place;

	point();
	l = location(a, size);
	check_atomic(a, size, true, pc);
	place = pick_place(l);
	trace(place == l->newest ? "store" : "store earlier", a, v, pc);
	if (place != l->newest)
		spend_stale();
	insert(l, (uint16_t)(place + 1), v, release ? &self()->cur : &self()->rel, false);
	tick(self());
	note(2);
}

static uint64_t combine(enum rmw op, uint64_t old, uint64_t v, unsigned size)
{
	switch (op) {
	case RMW_ADD: v = old + v; break;
	case RMW_SUB: v = old - v; break;
	case RMW_AND: v = old & v; break;
	case RMW_OR: v = old | v; break;
	case RMW_XOR: v = old ^ v; break;
	case RMW_SWAP: break;
	}
	return size == 8 ? v : v & ((UINT64_C(1) << size * 8) - 1);
}

/* A read-modify-write goes on with the release sequence of the store that it reads. */
static void replace(struct location *l, uint16_t ts, uint64_t v)
{
	struct view view = self()->rel;

	read_store(l, ts, false);
	view_join(&view, &store_at(l, ts)->view);
	insert(l, (uint16_t)(ts + 1), v, &view, true);
	tick(self());
}

uint64_t rmw(uintptr_t a, unsigned size, enum rmw op, uint64_t v, void *pc)
{
	struct location *l;
	uint64_t old;
	uint16_t ts;

	point();
	l = location(a, size);
	check_atomic(a, size, true, pc);
	ts = pick_place(l);
	old = store_at(l, ts)->value;
	v = combine(op, old, v, size);
	trace(ts == l->newest ? "read-modify-write" : "r-m-w of stale", a, v, pc);
	replace(l, ts, v);
	note(old);
	return old;
}

/* Relaxed. It reads any store that it may, and fails on those that differ. */
bool cas(uintptr_t a, unsigned size, uint64_t *expected, uint64_t v, void *pc)
{
	struct location *l;
	uint16_t may_read[MAX_PLACES], ts;
	int n = 0;

	point();
	l = location(a, size);
	check_atomic(a, size, false, pc);
	for (int age = 0; age <= stale_stores(l) && n < MAX_PLACES; age++) {
		ts = (uint16_t)(l->newest - age);
		if (store_at(l, ts)->value != *expected || has_room(l, ts))
			may_read[n++] = ts;
	}
	ts = may_read[pick(n)];
	if (store_at(l, ts)->value == *expected) {
		check_atomic(a, size, true, pc);
		trace(ts == l->newest ? "swap" : "swap stale", a, v, pc);
		replace(l, ts, v);
		note(1);
		return true;
	}
	*expected = read_store(l, ts, false);
	note(mix(11, *expected));
	trace("swap fails", a, *expected, pc);
	return false;
}

/* Two words at once; may fail when a word was different a while ago. */
bool cas_two(uintptr_t a, const uint64_t old[2], const uint64_t v[2], void *pc)
{
	struct location *l[2];
	bool equal;

	point();
	for (int i = 0; i < 2; i++) {
		l[i] = location(a + 8 * i, 8);
		check_atomic(a + 8 * i, 8, true, pc);
	}
	equal = l[0]->last->value == old[0] && l[1]->last->value == old[1];
	if (equal && (stale_stores(l[0]) + stale_stores(l[1]) == 0 || pick(2) == 0)) {
		struct view view = self()->rel;

		read_store(l[0], l[0]->newest, false);
		read_store(l[1], l[1]->newest, false);
		view_join(&view, &l[0]->last->view);
		view_join(&view, &l[1]->last->view);
		/* One store of 16 bytes: who sees one half of it sees the other. */
		for (int i = 0; i < 2; i++)
			view.ts[l[i] - m->locations] = (uint16_t)(l[i]->newest + 1);
		append(l[0], v[0], &view, true);
		append(l[1], v[1], &view, true);
		tick(self());
		note(1);
		trace("swap two", a, v[0], pc);
		return true;
	}
	if (equal)
		spend_stale();
	/* It has read another value than it expected: it will not expect that again,
	   so that a loop around it ends. */
	for (int i = 0; i < 2; i++) {
		uint16_t *ts = &self()->cur.ts[l[i] - m->locations];

		if (equal)
			*ts = l[i]->newest;
		else if (*ts < l[i]->newest && l[i]->last->value != old[i])
			++*ts;
	}
	note(13);
	trace("swap two fails", a, 0, pc);
	return false;
}

/* ------------------------------------------------------------------- fences */

void fence_acquire(struct thread *t)
{
	view_join(&t->cur, &t->acq);
	t->reads_done = t->cur.clock[READS + (t - m->threads)]++;
}

void fence_release(struct thread *t)
{
	t->rel = t->cur;
	t->reads_done = t->cur.clock[READS + (t - m->threads)];
	tick(t);
}

/*
 * That of ck, which C11 doesn't have: stores before, stores after. What the thread
 * has read since the last other fence it may as well read after the store.
 */
void fence_store(struct thread *t)
{
	t->rel = t->cur;
	t->rel.clock[READS + (t - m->threads)] = t->reads_done;
	tick(t);
}

void fence_full(struct thread *t)
{
	fence_acquire(t);
	view_join_ts(&t->cur, &m->sc);
	view_join_ts(&m->sc, &t->cur);
	fence_release(t);
}

/* ----------------------------------------------------------- plain accesses */

/* What the current thread has written to the cell at a. */
static void settle_cell(uintptr_t a)
{
	struct cell *c = cell_of(a);
	uint64_t content = 0;

	/* What a thread has in its own stack follows from what it has seen. */
	if (!in_stack_of(a, m->current))
		content = mix(spread(a), memory_at(a, CELL_BYTES));
	m->memory_hash += content - c->content;
	c->content = content;
	if (c->location != 0) {
		struct location *l = &m->locations[c->location - 1];
		uint64_t v = memory_at(l->address, l->size);

		/* A plain store to a word that others load atomically. */
		if (a == l->address || v != l->last->value)
			append(l, v, &self()->rel, false);
	}
}

/* Sees to what was written plainly since: called before anything else happens. */
void settle_plain(void)
{
	uintptr_t a = m->pending.address, end = a + m->pending.size;

	m->pending.size = 0;
	for (a -= a % CELL_BYTES; a < end; a += CELL_BYTES)
		settle_cell(a);
}

static void plain_access(uintptr_t a, size_t size, bool write, bool free, void *pc)
{
	settle_plain();
	if (!checked(a))
		return;
	for (uintptr_t b = a - a % CELL_BYTES; b < a + size; b += CELL_BYTES) {
		struct cell *c = cell_of(b);
		unsigned from = b < a ? (unsigned)(a - b) : 0;
		unsigned to = a + size - b < CELL_BYTES ? (unsigned)(a + size - b) : CELL_BYTES;

		if (c->freed)
			model_fail("use after free: %#lx in %s", (unsigned long)b, symbol_of(pc));
		check_plain(c, from, to, b, write, free, pc);
	}
	if (write) {
		m->pending.address = a;
		m->pending.size = size;
	}
}

void plain(uintptr_t a, size_t size, bool write, void *pc)
{
	plain_access(a, size, write, false, pc);
}

/* To free is to write: nobody else may still be using it. */
void freed(uintptr_t a, size_t size, void *pc)
{
	plain_access(a, size, true, true, pc);
	settle_plain();
	for (uintptr_t b = a; b < a + size; b += CELL_BYTES) {
		struct cell *c = cell_of(b);

		c->freed = true;
		m->memory_hash -= c->content;
		c->content = 0;
	}
}

/* ---------------------------------------------------------------- the state */

/* Of each location, the stores that somebody may still read. */
uint64_t memory_state(void)
{
	uint64_t h = mix(m->memory_hash, view_hash(&m->sc));

	for (unsigned i = 0; i < m->nlocations; i++) {
		struct location *l = &m->locations[i];
		uint16_t oldest = l->newest;
		struct store *s = l->last;
		uint64_t lh = l->newest;

		if (!l->live)
			continue;
		for (int t = 0; t < m->nthreads; t++)
			if (m->threads[t].status != ENDED && m->threads[t].cur.ts[i] < oldest)
				oldest = m->threads[t].cur.ts[i];
		for (unsigned ts = l->newest; s != NULL; ts--, s = s->before) {
			lh = mix(lh, s->hash);
			if (ts == oldest)
				break;
		}
		h += mix(l->address, lh);
	}
	for (unsigned i = 0; i < m->nobjects; i++)
		h += mix(m->objects[i].address,
		    mix(m->objects[i].hash, (uint64_t)m->objects[i].owner));
	return h;
}

void memory_reset(void)
{
	m->run++;
	for (unsigned i = 0; i < m->nlocations; i++) {
		m->locations[i].live = false;
		m->locations[i].newest = 0;
		m->locations[i].last = NULL;
	}
	m->nstores = m->nobjects = 0;
	m->pending.address = m->pending.size = 0;
	m->memory_hash = m->allocated = 0;
	memset(&m->sc, 0, sizeof(m->sc));
}
