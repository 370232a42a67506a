"""Timers: what shall happen when, in the order of due times, equal ones in the order they were set.

One wheel for each clock, the monotonic one for delays and the wall clock for absolute times.  A wheel is a dict from ticks of
1 ms to the timers that are due by then, with a heap of the ticks: so the heap is touched once per tick, not once per timer.  A
due time is rounded up to its tick: a timer is never early, and up to a tick late.  set, cancel and move are O(1), but for the
first timer of a tick, O(log ticks); a cancelled timer is let go at once.  Due timers leave the wheel tick by tick: those of one
tick are sorted when it has come, and stand in `_line` until they are taken out.

What a timer does is the business of whoever set it: `action` is only carried.
"""

import heapq
import itertools
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Final, cast

from msgspec import Struct

__all__ = ["NEVER", "TICKS_PER_SECOND", "Timer", "Timers", "tick_of"]

TICKS_PER_SECOND: Final = 1000
ROUNDING: Final = 0.001
"""In ticks: what adding and subtracting seconds may lose. A timer this close to its tick is due."""
_ROUND_UP: Final = 1 - ROUNDING
NEVER: Final = 1 << 62
"""The tick of a timer that is set for an infinite time."""


class Timer(Struct, eq=False):
    """One deferred action. `due`: seconds on the wall clock if `on_wall`, otherwise on the mesh's monotonic clock.

    `id` is for life; `order` is its turn among timers with the same due time, new when it is moved. `tick`: None unless set.

    The garbage collector does not look at one whose action it does not track, as a Message: a million of them cost it nothing.
    """

    due: float
    id: int
    order: int
    tick: int | None
    action: Any
    on_wall: bool = False

    @property
    def is_set(self) -> bool:
        """It has neither fired nor been cancelled."""
        return self.tick is not None


_Bucket = dict[Timer, None]
_due_of, _order_of = attrgetter("due"), attrgetter("order")


def tick_of(due: float) -> int:
    """Return the tick by which a timer with this due time is due."""
    try:
        return int(due * TICKS_PER_SECOND + _ROUND_UP)
    except OverflowError:
        return NEVER


class _Wheel:
    """The timers of one clock. Invariant: `ticks` is a heap of the keys of `buckets` and of `stale` others.

    A bucket is a timer, or a dict of at least one: most ticks have one timer only, and a dict costs more than the timer.
    """

    __slots__ = ("buckets", "stale", "ticks")

    def __init__(self) -> None:
        self.buckets: dict[int, Timer | _Bucket] = {}
        self.ticks: list[int] = []
        self.stale = 0

    def __iter__(self) -> Iterator[Timer]:
        for bucket in self.buckets.values():
            if isinstance(bucket, Timer):
                yield bucket
            else:
                yield from bucket

    def first(self) -> int | None:
        """Return the first tick that has a timer."""
        while self.ticks:
            if self.ticks[0] in self.buckets:
                return self.ticks[0]
            heapq.heappop(self.ticks)
            self.stale -= 1
        return None

    def open(self) -> Iterable[Timer]:
        """Take out the timers of the first tick, in the order in which they were set."""
        bucket = self.buckets.pop(heapq.heappop(self.ticks))
        return (bucket,) if isinstance(bucket, Timer) else bucket

    def close(self, tick: int) -> None:
        """Forget a tick that has no timer any more."""
        del self.buckets[tick]
        self.stale += 1
        if self.stale > 64 and self.stale * 2 > len(self.ticks):
            self.ticks = list(self.buckets)
            heapq.heapify(self.ticks)
            self.stale = 0


class Timers:
    """All timers of one mesh. Invariant: each set timer is in one wheel, in the line of those that are due, or held.

    `on_early` is called when a timer is set that is due by a tick before `horizon` (monotonic) or `wall_horizon`: before
    whoever waits for the next one would look again.
    """

    def __init__(self) -> None:
        self.horizon = self.wall_horizon = -NEVER
        self.on_early: Callable[[], None] | None = None
        self._numbers = itertools.count(1)
        self._monotonic = _Wheel()
        self._wall = _Wheel()
        self._line: list[Timer] = []  # due, the next one last; a cancelled one stays until it is looked at
        self._bases = (0.0, 0.0)  # what the two clocks said when the line was opened
        self._held: dict[Timer, None] = {}
        self._by_id: dict[int, Timer] | None = None  # made when somebody first asks

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Timer]:
        """Every set timer, in no particular order."""
        yield from self._monotonic
        yield from self._wall
        yield from self._held
        for timer in self._line:
            if timer.tick is not None:
                yield timer

    # Setting

    def set(self, due: float, action: Any, *, on_wall: bool = False) -> Timer:
        """Set a timer for `due`; a due time in the past is due now."""
        try:
            tick = int(due * 1000 + 0.999)  # tick_of, without its frame
        except OverflowError:
            tick = NEVER
        number = next(self._numbers)
        timer = Timer(due, number, number, tick, action, on_wall)
        wheel = self._wall if on_wall else self._monotonic
        buckets = wheel.buckets
        bucket = buckets.get(tick)
        if bucket is None:
            buckets[tick] = timer
            heapq.heappush(wheel.ticks, tick)
        elif type(bucket) is dict:
            bucket[timer] = None
        else:
            buckets[tick] = {cast("Timer", bucket): None, timer: None}
        if self._by_id is not None:
            self._by_id[number] = timer
        if tick < (self.wall_horizon if on_wall else self.horizon) and self.on_early is not None:
            self.on_early()
        return timer

    def cancel(self, timer: Timer) -> bool:
        """Cancel it; False if it has fired or was cancelled before."""
        tick = timer.tick
        if tick is None:
            return False
        timer.tick = timer.action = None
        wheel = self._wall if timer.on_wall else self._monotonic
        bucket = wheel.buckets.get(tick)
        if bucket is timer:
            wheel.close(tick)
        elif type(bucket) is dict and timer in bucket:
            del bucket[timer]
            if not bucket:
                wheel.close(tick)
        else:
            self._held.pop(timer, None)
        if self._by_id is not None:
            del self._by_id[timer.id]
        return True

    def move(self, timer: Timer, due: float, *, on_wall: bool = False) -> bool:
        """Let it be due at another time, as if it were set now, but with its id; False if it has fired or was cancelled."""
        if timer.tick is None:
            return False
        self._take_out(timer)
        timer.due, timer.on_wall, timer.order = due, on_wall, next(self._numbers)
        self._put_back(timer)
        return True

    def find(self, number: int) -> Timer | None:
        """Return the set timer with this id, or None. The first call is O(timers); from then on there is an index."""
        if self._by_id is None:
            self._by_id = {timer.id: timer for timer in self}
        return self._by_id.get(number)

    # Firing

    def pop_due(self, now: float, wall: float) -> Timer | None:
        """Take out the most overdue timer, whichever clock it is on, or return None if none is due. It counts as fired."""
        line = self._look(now, wall)
        if not line:
            return None
        timer = line.pop()
        timer.tick = None
        if self._by_id is not None:
            del self._by_id[timer.id]
        return timer

    def pop_run(self, kind: type, limit: int, now: float, wall: float) -> list[Timer]:
        """Take out the most overdue timers, up to the first whose action is not of this very type; they count as fired.

        May stop before `limit`: empty only if the next one is of another type, or none is due.
        """
        line = self._look(now, wall)
        run = line[: -limit - 1 : -1]
        cancelled = 0
        for timer in run:
            if type(timer.action) is not kind:
                if timer.tick is not None:
                    del run[run.index(timer) :]
                    break
                cancelled += 1
            timer.tick = None
        if run:
            del line[-len(run) :]
        if cancelled:
            run = [timer for timer in run if timer.action is not None]
        if self._by_id is not None:
            for timer in run:
                del self._by_id[timer.id]
        return run

    def next_ticks(self) -> tuple[int | None, int | None]:
        """Return the next tick at which a timer is due, on the monotonic and on the wall clock; None where there is none."""
        first, first_wall = self._monotonic.first(), self._wall.first()
        for timer in self._line:
            if timer.tick is not None and timer.on_wall:
                first_wall = timer.tick if first_wall is None else min(first_wall, timer.tick)
            elif timer.tick is not None:
                first = timer.tick if first is None else min(first, timer.tick)
        return first, first_wall

    def _look(self, now: float, wall: float) -> list[Timer]:
        """Return the line, the next timer last, which is set; filled from the wheels if something more overdue is there."""
        line = self._line
        while line and line[-1].tick is None:
            line.pop()
        while True:
            tick, wall_tick = self._monotonic.first(), self._wall.first()
            late = -1 if tick is None else int(now * TICKS_PER_SECOND + ROUNDING) - tick
            wall_late = -1 if wall_tick is None else int(wall * TICKS_PER_SECOND + ROUNDING) - wall_tick
            if late < 0 and wall_late < 0:
                return line
            if not line:
                self._bases = (now, wall)
                line += sorted(self._monotonic.open() if late >= wall_late else self._wall.open(), key=_due_of)
                line.reverse()
                if late == wall_late:
                    self._merge(self._wall.open())
                return line
            if max(late, wall_late) < self._lateness(line[-1], now, wall):
                return line
            self._merge(self._monotonic.open() if late >= wall_late else self._wall.open())

    @staticmethod
    def _lateness(timer: Timer, now: float, wall: float) -> int:
        assert timer.tick is not None
        return int((wall if timer.on_wall else now) * TICKS_PER_SECOND + ROUNDING) - timer.tick

    def _merge(self, timers: Iterable[Timer]) -> None:
        """Put timers into a line that is not empty."""
        for timer in timers:
            insort(self._line, timer, key=self._rank)

    def _rank(self, timer: Timer) -> tuple[float, int]:
        return self._bases[timer.on_wall] - timer.due, -timer.order

    # Holding

    def hold(self, timer: Timer) -> None:
        """Keep a timer that was taken out: it is set, with the id and the due time it had, but not due before `release`."""
        timer.tick = tick_of(timer.due)
        self._held[timer] = None
        if self._by_id is not None:
            self._by_id[timer.id] = timer

    def release(self) -> None:
        """Let what is held be due at its time again. O(timers), if anything is."""
        if self._held:
            self._place_anew(list(self), 0.0)

    def rebase(self, difference: float) -> None:
        """Shift every monotonic due time: the mesh goes on with a clock that counts from elsewhere."""
        for timer in self._held:
            timer.due += 0.0 if timer.on_wall else difference
        self._place_anew([timer for timer in self if not timer.on_wall and timer not in self._held], difference)

    def _place_anew(self, timers: list[Timer], difference: float) -> None:
        """Put timers where they belong, shifted by so much."""
        for timer in timers:
            self._take_out(timer)
        # In the order of setting, on which a tick relies: one may come back, or rounding make different times equal.
        for timer in sorted(timers, key=_order_of):
            timer.due += difference
            self._put_back(timer)

    def _take_out(self, timer: Timer) -> None:
        """Take a set timer from where it stands."""
        assert timer.tick is not None
        wheel = self._wall if timer.on_wall else self._monotonic
        bucket = wheel.buckets.get(timer.tick)
        if bucket is timer:
            wheel.close(timer.tick)
        elif isinstance(bucket, dict) and timer in bucket:
            del bucket[timer]
            if not bucket:
                wheel.close(timer.tick)
        elif timer in self._held:
            del self._held[timer]
        else:
            self._line.remove(timer)

    def _put_back(self, timer: Timer) -> None:
        """Put a timer into its wheel, with its id and its order."""
        timer.tick = tick = tick_of(timer.due)
        wheel = self._wall if timer.on_wall else self._monotonic
        bucket = wheel.buckets.get(tick)
        if bucket is None:
            wheel.buckets[tick] = timer
            heapq.heappush(wheel.ticks, tick)
        elif isinstance(bucket, Timer):
            wheel.buckets[tick] = {bucket: None, timer: None}
        else:
            bucket[timer] = None
        if tick < (self.wall_horizon if timer.on_wall else self.horizon) and self.on_early is not None:
            self.on_early()
