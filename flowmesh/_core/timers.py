"""Timers: what shall happen when, in the order of due times, equal ones in the order they were set.

Two heaps: one on the monotonic clock for delays, one on the wall clock for absolute times.  A cancelled timer stays in its
heap until it surfaces or until half the heap is cancelled ones; then the heap is rebuilt.  set O(log n), cancel O(1)
amortised.  What a timer does is the business of whoever set it: `action` is only carried.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Timer", "Timers"]


class Timer:
    """One deferred action. `due`: seconds on the wall clock if `on_wall`, otherwise on the mesh's monotonic clock."""

    __slots__ = ("action", "due", "id", "is_set", "on_wall")

    def __init__(self, number: int, due: float, action: Any, on_wall: bool) -> None:
        self.id = number
        self.due = due
        self.action = action
        self.on_wall = on_wall
        self.is_set = True


class Timers:
    """All timers of one mesh. Invariant: each set timer is in exactly one heap; `len` counts only set ones.

    `on_early` is called when a timer is set that is due before `horizon` (monotonic) or `wall_horizon`: before whoever
    waits for the next one would look again.
    """

    def __init__(self) -> None:
        self.horizon = self.wall_horizon = -math.inf
        self.on_early: Callable[[], None] | None = None
        self._numbers = itertools.count(1)
        self._monotonic: list[tuple[float, int, Timer]] = []
        self._wall: list[tuple[float, int, Timer]] = []
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._monotonic) + len(self._wall) - self._cancelled

    def __iter__(self) -> Iterator[Timer]:
        """Every set timer, in no particular order."""
        return (timer for heap in (self._monotonic, self._wall) for _, _, timer in heap if timer.is_set)

    def set(self, due: float, action: Any, *, on_wall: bool = False) -> Timer:
        """Set a timer for `due`; a due time in the past is due now."""
        timer = Timer(next(self._numbers), due, action, on_wall)
        heapq.heappush(self._wall if on_wall else self._monotonic, (due, timer.id, timer))
        if due < (self.wall_horizon if on_wall else self.horizon) and self.on_early is not None:
            self.on_early()
        return timer

    def cancel(self, timer: Timer) -> bool:
        """Cancel it; False if it has fired or was cancelled before."""
        if not timer.is_set:
            return False
        timer.is_set = False
        timer.action = None
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._monotonic) + len(self._wall):
            for heap in (self._monotonic, self._wall):
                heap[:] = [item for item in heap if item[2].is_set]
                heapq.heapify(heap)
            self._cancelled = 0
        return True

    def pop_due(self, now: float, wall: float) -> Timer | None:
        """Take out the most overdue timer, whichever clock it is on, or return None if none is due. It counts as fired."""
        chosen: list[tuple[float, int, Timer]] | None = None
        lateness = (0.0, 0)
        for heap, limit in ((self._monotonic, now), (self._wall, wall)):
            while heap and not heap[0][2].is_set:
                heapq.heappop(heap)
                self._cancelled -= 1
            if heap and heap[0][0] <= limit and (chosen is None or (heap[0][0] - limit, heap[0][1]) < lateness):
                chosen, lateness = heap, (heap[0][0] - limit, heap[0][1])
        if chosen is None:
            return None
        timer = heapq.heappop(chosen)[2]
        timer.is_set = False
        return timer

    def next_due(self) -> tuple[float | None, float | None]:
        """Return the earliest due time on the monotonic clock and on the wall clock, None where there is none."""
        first: list[float | None] = []
        for heap in (self._monotonic, self._wall):
            while heap and not heap[0][2].is_set:
                heapq.heappop(heap)
                self._cancelled -= 1
            first.append(heap[0][0] if heap else None)
        return first[0], first[1]

    def rebase(self, difference: float) -> None:
        """Shift every monotonic due time: the mesh goes on with a clock that counts from elsewhere."""
        self._monotonic[:] = [(due + difference, number, timer) for due, number, timer in self._monotonic]
        heapq.heapify(self._monotonic)  # rounding may have made different times equal
        for _, _, timer in self._monotonic:
            timer.due += difference
