"""What the scenarios share: the payload, sizes, and how the end of a run is seen without disturbing it.

A run is timed from the first send to the end of the last handler.  The handler counts down and reads the clock itself at the
last message, so waking the task that waits for the end is not part of the figure.
"""

import gc
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Final

import anyio
from msgspec import Struct

__all__ = ["CAPACITY", "Countdown", "Pair", "percentile", "scaled", "started"]

CAPACITY: Final = 10_000
"""The default capacity of a mailbox; peers with a buffer get the same."""


class Pair(Struct, frozen=True, gc=False):
    """The payload: a two-field Struct. Every message gets one of its own, with Flowmesh and with its peers alike."""

    number: int
    text: str


class Countdown:
    """Counts handled messages. A handler says `left -= 1` and, when nothing is left, `end()`."""

    __slots__ = ("_clock", "_over", "ended", "left")

    def __init__(self, count: int, *, clock: Callable[[], int] = perf_counter_ns) -> None:
        self.left = count
        self.ended = 0
        self._clock = clock
        self._over = anyio.Event()

    def end(self) -> None:
        """Note the time and wake whoever waits."""
        self.ended = self._clock()
        self._over.set()

    async def wait(self) -> None:
        """Return when `end` has been called."""
        await self._over.wait()


def scaled(full: int, scale: float) -> int:
    """Return `full` times `scale`, but never so few that a percentile or a fan-out has nothing to work on."""
    return max(20, round(full * scale))


def started(clock: Callable[[], int] = perf_counter_ns) -> int:
    """Collect the garbage of what came before and return the time: the start of a measurement.

    The collector stays on while the measurement runs: what the engine allocates is part of what it costs.
    """
    gc.collect()
    return clock()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or `percent` is not in 0 (exclusive) to 100.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"percentile needs values and 0 < percent <= 100, got {len(values)} values, percent={percent}")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[int(rank) - 1]
