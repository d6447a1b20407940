#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Usage: tests/model/rc11.py [-v]

Does check_litmus.c say what RC11 says? Takes each program of its table and each way to
run it, goes through all the orders in which its stores may take effect and all the
stores that its loads may read, and asks the axioms of RC11 (Lahav, Vafeiadis, Kang,
Hur, Dreyer: "Repairing Sequential Consistency in C/C++11", PLDI 2017) whether one of
them has the outcome, or a data race. It shares nothing with the explorer. -v prints each row.

Release sequences are those of C++20: the paper also has later stores of the same thread.
"""
import itertools
import pathlib
import re
import sys

WAYS = ["RELAXED", "ACCESSES", "FENCES", "FULL"]
TABLE = pathlib.Path(__file__).parent / "check_litmus.c"


class Event:
    """kind W, R, U or F; order: r, a, s, or p for a plain access."""

    def __init__(self, thread, kind, order="", word=None, value=None):
        self.thread, self.kind, self.order, self.word = thread, kind, order, word
        self.reads = value if kind in "RU" else None
        self.writes = {"W": value, "U": value + 1 if kind == "U" else None}.get(kind)


def events_of(program, way):
    threads, _, end = program.partition(":")
    events = [Event(None, "W", word=word, value=0) for word in "xyz"]
    for t, part in enumerate(threads.split("|")):
        for i, (kind, *rest) in enumerate(part.split()):
            plain = kind in "PQ"
            kind = {"P": "W", "Q": "R"}.get(kind, kind)
            if not rest:
                events.append(Event(t, "F", kind))
                continue
            word, value = rest[0], int(rest[1])
            fences = not plain and (way == "FENCES" or (way == "ACCESSES" and kind == "U"))
            if way == "FULL" and i > 0:
                events.append(Event(t, "F", "s"))
            if fences and kind in "WU":
                events.append(Event(t, "F", "r"))
            order = {"W": "r", "R": "a", "U": ""}[kind] if way == "ACCESSES" else ""
            events.append(Event(t, kind, "p" if plain else order, word, value))
            if fences and kind in "RU":
                events.append(Event(t, "F", "a"))
    return events, [(word, int(value)) for word, value in end.split()]


# Relations are sets of pairs of indices.

def then(*relations):
    result = relations[0]
    for other in relations[1:]:
        after = {}
        for a, b in other:
            after.setdefault(a, []).append(b)
        result = {(a, c) for a, b in result for c in after.get(b, ())}
    return result


def closed(relation):
    while True:
        more = relation | then(relation, relation)
        if more == relation:
            return relation
        relation = more


def only(test, n):
    return {(i, i) for i in range(n) if test(i)}


def acyclic(relation):
    return all(a != b for a, b in closed(relation))


def happens_before(events, rf, mo):
    """rf: pairs of a store and what reads it; mo: pairs of stores to one word. None: not in RC11."""
    n = len(events)
    has = lambda kinds, orders: only(
        lambda i: events[i].kind in kinds and set(events[i].order) & set(orders), n)
    sb = {(i, j) for i in range(n) for j in range(i + 1, n)
          if events[i].thread in (None, events[j].thread) and events[j].thread is not None}
    writes, reads, updates = (only(lambda i: events[i].kind in k, n) for k in ("WU", "RU", "U"))
    fr = {(a, b) for a, b in then({(r, w) for w, r in rf}, mo) if a != b}
    eco = closed(rf | mo | fr)
    sequence = writes | closed(then(rf, updates))
    sw = then(has("WU", "rs") | then(has("F", "rs"), sb, writes), writes | then(writes, sequence),
              rf, has("RU", "as") | then(reads, sb, has("F", "as")))
    hb = closed(sb | sw)
    full = has("F", "s")
    between = {(a, b) for a, b in then(fr, mo) if (a, b) in updates}
    psc = then(full, hb | then(hb, eco, hb), full)
    allowed = (all(a != b for a, b in hb | eco | then(hb, eco)) and not between and
               acyclic(sb | rf) and acyclic(psc))
    return hb if allowed else None


def racy(events, hb):
    return any(a.word == b.word and a.kind + b.kind not in ("RR", "FF") and "p" in a.order + b.order
               and (i, j) not in hb and (j, i) not in hb
               for (i, a), (j, b) in itertools.combinations(enumerate(events), 2))


def allowed(program, way, race):
    """Does RC11 allow this outcome? Or, with a race?"""
    events, end = events_of(program, way)
    readers = [i for i, e in enumerate(events) if e.kind in "RU"]
    sources = [[j for j, e in enumerate(events) if e.kind in "WU" and j != i and
                e.word == events[i].word and e.writes == events[i].reads] for i in readers]
    orders = []
    for first, word in enumerate("xyz"):
        others = [i for i, e in enumerate(events) if i > 2 and e.kind in "WU" and e.word == word]
        orders.append([(first, *rest) for rest in itertools.permutations(others)])
    for order in itertools.product(*orders):
        last = {events[o[-1]].word: events[o[-1]].writes for o in order}
        if any(last[word] != value for word, value in end):
            continue
        mo = {pair for o in order for pair in itertools.combinations(o, 2)}
        for chosen in itertools.product(*sources):
            hb = happens_before(events, set(zip(chosen, readers)), mo)
            if hb is not None and (not race or racy(events, hb)):
                return True
    return False


def ways_in(text):
    return set(WAYS) if "ALWAYS" in text else set(re.findall("|".join(WAYS), text))


def main():
    outcomes, races = TABLE.read_text().split("#define RACES")
    row = r'^\tT\((\w+), "([^"]+)", ([^,)]+)(?:, ([^)]+))?\)'
    tests = [(*r, False) for r in re.findall(row, outcomes, re.M)] + \
        [(*r, True) for r in re.findall(row, races, re.M)]
    wrong = 0
    for name, program, reached, unseen, race in tests:
        ways = WAYS[:1] if re.search("[ras]", program) else WAYS
        rc11 = {way for way in ways if allowed(program, way, race)}
        if "-v" in sys.argv:
            print(f"{name:40} {program:40} {'race: ' if race else ''}"
                  f"{' '.join(w for w in WAYS if w in rc11) or 'never'}")
        if rc11 != ways_in(reached) | ways_in(unseen) or ways_in(reached) & ways_in(unseen):
            wrong += 1
            print(f"{name}: {program}: RC11 has {'a race' if race else 'this'} with: "
                  f"{' '.join(sorted(rc11)) or 'nothing'}")
    print(f"{len(tests)} litmus tests, {wrong} not as RC11 has them")
    sys.exit(wrong != 0 or not tests)


main()
