"""The wheel: the timers of one clock, by the tick at which they are due.

A dict from ticks of 1 ms to the timers that are due by then, with a heap of the ticks: so the heap is touched once per tick,
not once per timer.  add and remove are O(1), but for the first timer of a tick, O(log ticks); a removed timer is let go at
once: the last one of its tick takes its place.

A hundred thousand timers do not fit into a processor's cache, so what a timer costs is the memory that it touches: it is one
object and one word in a list, and its tick is not kept but worked out again by whoever takes it out.  A message that was only
just made, and that nobody has looked at since, is its own timer: its `timestamp` says when it is due, its `serial` is the id.
"""

import heapq
from collections.abc import Iterator
from math import ceil
from operator import attrgetter
from typing import Any, Final, cast

from msgspec import Struct
from msgspec.structs import force_setattr

from flowmesh.message import Message

__all__ = [
    "NEVER",
    "ROUNDING",
    "TICKS_PER_SECOND",
    "Deferral",
    "Item",
    "Timer",
    "Wheel",
    "due_of",
    "order_of",
    "sort_by_due",
    "tick_of",
    "timer_of",
]

TICKS_PER_SECOND: Final = 1000
ROUNDING: Final = 0.001
"""In ticks: what adding and subtracting seconds may lose. A timer this close to its tick is due."""
NEVER: Final = 1 << 62
"""The tick of a timer that is set for an infinite time."""


class Timer(Struct, eq=False):
    """One deferred action. `due`: seconds on the wall clock if `on_wall`, otherwise on the mesh's monotonic clock.

    `id` is for life; `order` is its turn among timers with the same due time, new when it is moved. `place`: where it stands
    among those of its tick; None unless it is set.
    """

    due: float
    id: int
    order: int
    place: int | None
    action: Any
    on_wall: bool = False

    @property
    def is_set(self) -> bool:
        """It has neither fired nor been cancelled."""
        return self.place is not None


class Deferral(Timer, gc=False):
    """One deferred message, its action. As a Message, the garbage collector knows nothing of it: a million cost it nothing."""


Item = Timer | Message
"""What waits: a timer, or a message that is its own."""
_Bucket = list[Item]
_timestamp_of = attrgetter("timestamp")


def due_of(item: Item) -> float:
    """Return when it is due."""
    return item.timestamp if type(item) is Message else item.due


def order_of(item: Item) -> int:
    """Return its turn among those with the same due time."""
    return cast("int", item.serial) if isinstance(item, Message) else item.order


def sort_by_due(items: list[Item]) -> bool:
    """Bring them into the order of their due times; equal ones stay as they are. Return whether all are messages."""
    try:
        items.sort(key=_timestamp_of)  # no function of ours is called for each
    except AttributeError:
        items.sort(key=due_of)
        return False
    return True


def timer_of(message: Message, place: int | None = None) -> Timer:
    """Return a timer for a message that was its own, and is a plain message from now on."""
    number = cast("int", message.serial)
    timer = Deferral(message.timestamp, number, number, place, message)
    force_setattr(message, "timestamp", 0.0)
    return timer


def tick_of(due: float) -> int:
    """Return the tick by which a timer with this due time is due."""
    try:
        return ceil(due * TICKS_PER_SECOND - ROUNDING)
    except OverflowError:
        return NEVER


class Wheel:
    """The timers of one clock. Invariant: `ticks` is a heap of the keys of `buckets` and of `stale` others.

    A bucket is a timer, or a list of at least one, each at its `place`: most ticks have one timer only, and a list costs as
    much as the timer. Those of a bucket stand in the order in which they were set, unless its tick is one of `shuffled`.
    """

    __slots__ = ("buckets", "shuffled", "stale", "ticks")

    def __init__(self) -> None:
        self.buckets: dict[int, Item | _Bucket] = {}
        self.ticks: list[int] = []
        self.shuffled: set[int] = set()
        self.stale = 0

    def __iter__(self) -> Iterator[Timer]:
        """Yield every timer; a message that was its own gets one."""
        for tick, bucket in self.buckets.items():
            if isinstance(bucket, list):
                for place, item in enumerate(bucket):
                    timer = timer_of(item, place) if isinstance(item, Message) else item
                    bucket[place] = timer
                    yield timer
            else:
                timer = timer_of(bucket, 0) if isinstance(bucket, Message) else bucket
                self.buckets[tick] = timer
                yield timer

    def first(self) -> int | None:
        """Return the first tick that has a timer."""
        while self.ticks:
            if self.ticks[0] in self.buckets:
                return self.ticks[0]
            heapq.heappop(self.ticks)
            self.stale -= 1
        return None

    def add(self, item: Item, tick: int) -> None:
        """Put it into the bucket of its tick."""
        bucket = self.buckets.get(tick)
        if bucket is None:
            place = 0
            self.buckets[tick] = item
            heapq.heappush(self.ticks, tick)
        elif isinstance(bucket, list):
            place = len(bucket)
            bucket.append(item)
        else:
            place = 1
            self.buckets[tick] = [bucket, item]
        if isinstance(item, Timer):
            item.place = place

    def remove(self, timer: Timer, place: int) -> bool:
        """Take out a timer that stands at this place of its bucket; False if it does not."""
        try:
            tick = ceil(timer.due * 1000 - 0.001)  # tick_of, without its frame
        except OverflowError:
            tick = NEVER
        bucket = self.buckets.get(tick)
        if type(bucket) is list:
            if place >= len(bucket) or bucket[place] is not timer:
                return False
            last = bucket.pop()
            if last is not timer:
                bucket[place] = last
                if isinstance(last, Timer):
                    last.place = place
                self.shuffled.add(tick)
            elif not bucket:
                self._close(tick)
            return True
        if bucket is not timer:
            return False
        self._close(tick)
        return True

    def open(self) -> _Bucket:
        """Take out the timers of the first tick, in the order in which they were set."""
        tick = heapq.heappop(self.ticks)
        bucket = self.buckets.pop(tick)
        if not isinstance(bucket, list):
            return [bucket]
        if tick in self.shuffled:
            self.shuffled.discard(tick)
            bucket.sort(key=order_of)
        return bucket

    def _close(self, tick: int) -> None:
        """Forget a tick that has no timer any more."""
        del self.buckets[tick]
        self.shuffled.discard(tick)
        self.stale += 1
        if self.stale > 64 and self.stale * 2 > len(self.ticks):
            self.ticks = list(self.buckets)
            heapq.heapify(self.ticks)
            self.stale = 0
