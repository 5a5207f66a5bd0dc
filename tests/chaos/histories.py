"""Histories of clients that append to lists and read them, and whether a single order explains one.

Every value is appended once, so the lists that are there in the end say in which order values came to each, and what a
read found says where in that order it stands. From that, and from what was over before what else began, follows who must
have come before whom. A history is strictly serialisable exactly if nobody had to come before himself.
"""

import collections
import dataclasses
import itertools
import threading
import time

INFINITY = float("inf")


@dataclasses.dataclass
class Operation:
    """One call: what it would append to which list, what it read, when it was under way."""

    appends: dict = dataclasses.field(default_factory=dict)
    reads: dict = dataclasses.field(default_factory=dict)
    start: float = 0.0
    end: float = INFINITY
    #: "ok", "no" (refused, so nothing happened) or "unknown".
    outcome: str = "unknown"


class History:
    """What clients did, of any number of threads."""

    def __init__(self):
        self.operations = []
        self.lock = threading.Lock()
        self.values = itertools.count(1)

    def value(self):
        """A value that nobody else appends."""
        with self.lock:
            return next(self.values)

    def begin(self, appends=None):
        operation = Operation(appends=dict(appends or {}), start=time.monotonic())
        with self.lock:
            self.operations.append(operation)
        return operation

    def end(self, operation, outcome, reads=None):
        operation.end = time.monotonic() if outcome == "ok" else INFINITY
        operation.reads = dict(reads or {})
        operation.outcome = outcome


def problems(operations, final):
    """What no order explains: texts, none if there is one. `final` has the lists as they are in the end."""
    found = []
    place, writers = {}, {}
    for key, values in final.items():
        for number, value in enumerate(values):
            if value in place:
                found.append(f"{value} is twice in the lists")
            place[value] = (key, number)
    for number, operation in enumerate(operations):
        writers.update((value, number) for value in operation.appends.values())
        found += misplaced(operation, place)
        found += misread(operation, final)
    found += [f"{value} was appended by nobody" for value in place if value not in writers]
    return found or cycles(operations, final, writers, place)


def misplaced(operation, place):
    """What of an operation's appends is where it should not be, or is not where it should."""
    there = [key for key, value in operation.appends.items() if place.get(value, (None,))[0] == key]
    if operation.outcome == "ok" and len(there) < len(operation.appends):
        return [f"acknowledged and lost: {operation}"]
    if operation.outcome == "no" and there:
        return [f"refused and there: {operation}"]
    if there and len(there) < len(operation.appends):
        return [f"half of a transaction: {operation}"]
    return []


def misread(operation, final):
    """Reads that are no beginning of the final list, or that miss what the same operation appended."""
    found = []
    for key, values in operation.reads.items():
        if final.get(key, [])[: len(values)] != values:
            found.append(f"{key} was never {values}: {operation}")
        if key in operation.appends and (not values or values[-1] != operation.appends[key]):
            found.append(f"an append did not see itself: {operation}")
    return found


def cycles(operations, final, writers, place):
    """Operations that had to come before themselves."""
    after = collections.defaultdict(set)
    happened = [
        number for number, operation in enumerate(operations)
        if operation.outcome == "ok" or any(value in place for value in operation.appends.values())
    ]
    for values in final.values():
        for first, second in itertools.pairwise(values):
            after[writers[first]].add(writers[second])
    for number in happened:
        operation = operations[number]
        for key, values in operation.reads.items():
            if values:
                after[writers[values[-1]]].add(number)
            if len(values) < len(final.get(key, [])):
                after[number].add(writers[final[key][len(values)]])
    # Points in time stand between what was over at them and what began after them.
    ends = sorted((operations[number].end, number) for number in happened if operations[number].end < INFINITY)
    for index, (_, number) in enumerate(ends):
        after[number].add(("time", index))
        after["time", index].add(("time", index + 1))
    for start, number in sorted((operations[number].start, number) for number in happened):
        before = bisect_ends(ends, start)
        if before:
            after["time", before - 1].add(number)
    return [f"no order explains: {[operations[n] for n in circle if not isinstance(n, tuple)]}" for circle in circles(after)]


def bisect_ends(ends, start):
    """How many operations were over before one began."""
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        if ends[middle][0] < start:
            low = middle + 1
        else:
            high = middle
    return low


def circles(after):
    """One circle of the graph, if it has any: what is left when whoever nobody comes before goes, again and again."""
    for node in after:
        after[node].discard(node)
    before = collections.Counter(target for targets in after.values() for target in targets)
    free = [node for node in after if not before[node]]
    gone = set()
    while free:
        node = free.pop()
        gone.add(node)
        for target in after.get(node, ()):
            before[target] -= 1
            if not before[target]:
                free.append(target)
    left = {node for node in after if node not in gone}
    # What only hangs on a circle goes as well, from behind.
    while True:
        loose = {node for node in left if not after[node] & left}
        if not loose:
            break
        left -= loose
    if not left:
        return []
    walk, node = [], next(iter(left))
    while node not in walk:
        walk.append(node)
        node = next(iter(after[node] & left))
    return [walk[walk.index(node):]]
