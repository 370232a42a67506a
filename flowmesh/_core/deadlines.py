"""When each of many values is due: moved often, looked at seldom.

A heap of (due, value) in which a record counts only while it is what the value is due by.  A value whose due time moves later
keeps its record, which is put right when it comes to the front; so moving costs a look into a dict.  Records that no longer
count are dropped once they are more than half.  set O(log n) amortised, remove O(1), first O(log n) amortised.
"""

import heapq
import itertools
from collections.abc import Hashable
from typing import Final

__all__ = ["ROUNDING", "Deadlines"]

ROUNDING: Final = 1e-6
"""What adding and subtracting seconds may lose: what is this close to its due time is due."""


class Deadlines:
    """The due times of values; equal ones in the order they were set."""

    def __init__(self) -> None:
        self._due: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    def set(self, value: Hashable, due: float) -> None:
        """Say when a value is due, instead of what was said before."""
        before = self._due.get(value)
        self._due[value] = due
        if before is None or due < before:
            heapq.heappush(self._heap, (due, next(self._numbers), value))
            if len(self._heap) > 2 * len(self._due) + 64:
                self._heap = [(due, next(self._numbers), value) for value, due in self._due.items()]
                heapq.heapify(self._heap)

    def remove(self, value: Hashable) -> None:
        """Forget a value, if it is known."""
        self._due.pop(value, None)

    def first(self) -> tuple[float, Hashable] | None:
        """Return the earliest due time and its value."""
        heap = self._heap
        while heap:
            recorded, _, value = heap[0]
            due = self._due.get(value)
            if due == recorded:
                return recorded, value
            if due is None or due < recorded:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (due, next(self._numbers), value))
        return None
