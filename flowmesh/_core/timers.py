"""Timers: what shall happen when, in the order of due times, equal ones in the order they were set.

One wheel for each clock, the monotonic one for delays and the wall clock for absolute times.  A due time is rounded up to its
tick of 1 ms: a timer is up to a tick late, and not early but for ROUNDING, so who waits for a moment asks whether its timer
is still set, not the clock.  set, cancel and move are as cheap as the wheel's own steps; a cancelled timer is let go at once.
Due timers leave the wheel tick by tick: those of one tick are sorted when it has come, and stand in `_line` until they are
taken out.

What a timer does is the business of whoever set it: `action` is only carried.  A deferred message may be its own timer (see the
wheel); it gets one as soon as somebody asks which timers there are.
"""

import itertools
from bisect import insort
from collections.abc import Callable, Iterator
from math import ceil
from operator import attrgetter
from typing import Any, Final

from flowmesh._core.wheel import (
    NEVER,
    ROUNDING,
    TICKS_PER_SECOND,
    Deferral,
    Item,
    Timer,
    Wheel,
    due_of,
    order_of,
    sort_by_due,
    tick_of,
    timer_of,
)
from flowmesh.message import Message

__all__ = ["NEVER", "TICKS_PER_SECOND", "Item", "Timer", "Timers", "tick_of"]

LINE: Final = 256
"""Timers that stand in line before it is long enough: no more ticks are opened then."""
_order_of = attrgetter("order")


class Timers:
    """All timers of one mesh. Invariant: each set timer is in one wheel, in the line of those that are due, or held.

    `on_early` is called when a timer is set that is due by a tick before `horizon` (monotonic) or `wall_horizon`: before
    whoever waits for the next one would look again. `numbers` are the ids to come; a mesh takes those of its messages from
    here too. `deferring`: by tick, where a message may be put as `defer` does: into a list, which whoever waits knows of.
    """

    def __init__(self) -> None:
        self.horizon = self.wall_horizon = -NEVER
        self.on_early: Callable[[], None] | None = None
        self.numbers = itertools.count(1)
        self._monotonic = Wheel()
        self.deferring = self._monotonic.buckets
        self._wall = Wheel()
        self._line: list[Item] = []  # due, the next one last; a cancelled one stays until it is looked at
        self._is_plain = True  # all that stand in it are messages
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
        for index, item in enumerate(self._line):
            timer = timer_of(item, 0) if isinstance(item, Message) else item
            self._line[index] = timer
            self._is_plain = False
            if timer.place is not None:
                yield timer

    # Setting

    def give_number(self) -> int:
        """Return the id for a timer that will be set."""
        return next(self.numbers)

    def begin_after(self, number: int) -> None:
        """Give no id up to this one any more: they are a store's."""
        self.numbers = itertools.count(max(number + 1, next(self.numbers)))

    def defer(self, message: Message) -> None:
        """Let a message that nobody knows yet be its own timer: due at its timestamp (monotonic), with its serial as the id.

        It must be the newest of `numbers`. The timestamp is whoever's who takes it out again.
        """
        tick = tick_of(message.timestamp)
        if self._by_id is not None:
            timer = timer_of(message)
            self._by_id[timer.id] = timer
            self._monotonic.add(timer, tick)
        else:
            self._monotonic.add(message, tick)
        if tick < self.horizon and self.on_early is not None:
            self.on_early()

    def set(self, due: float, action: Any, *, on_wall: bool = False, number: int | None = None) -> Timer:
        """Set a timer for `due`; a due time in the past is due now. `number`: its id, if it was given one before."""
        try:
            tick = ceil(due * 1000 - 0.001)  # tick_of, without its frame
        except OverflowError:
            tick = NEVER
        if number is None:
            number = next(self.numbers)
        wheel = self._wall if on_wall else self._monotonic
        kind = Deferral if type(action) is Message else Timer
        bucket = wheel.buckets.get(tick)
        if type(bucket) is list:
            timer = kind(due, number, number, len(bucket), action, on_wall)
            bucket.append(timer)
        else:
            timer = kind(due, number, number, 0, action, on_wall)
            wheel.add(timer, tick)
        if self._by_id is not None:
            self._by_id[number] = timer
        if tick < (self.wall_horizon if on_wall else self.horizon) and self.on_early is not None:
            self.on_early()
        return timer

    def cancel(self, timer: Timer) -> bool:
        """Cancel it; False if it has fired or was cancelled before."""
        place = timer.place
        if place is None:
            return False
        timer.place = timer.action = None
        wheel = self._wall if timer.on_wall else self._monotonic
        if not wheel.remove(timer, place):
            self._held.pop(timer, None)
        if self._by_id is not None:
            del self._by_id[timer.id]
        return True

    def move(self, timer: Timer, due: float, *, on_wall: bool = False) -> bool:
        """Let it be due at another time, as if it were set now, but with its id; False if it has fired or was cancelled."""
        if timer.place is None:
            return False
        self._take_out(timer, timer.place)
        timer.due, timer.on_wall, timer.order = due, on_wall, next(self.numbers)
        self._put_back(timer)
        return True

    def find(self, number: int) -> Timer | None:
        """Return the set timer with this id, or None. The first call is O(timers); from then on there is an index."""
        if self._by_id is None:
            self._by_id = {timer.id: timer for timer in self}
            self.deferring = {}
        return self._by_id.get(number)

    # Firing

    def pop_due(self, now: float, wall: float) -> Timer | None:
        """Take out the most overdue timer, whichever clock it is on, or return None if none is due. It counts as fired."""
        line = self._look(now, wall)
        if not line:
            return None
        item = line.pop()
        if isinstance(item, Message):
            return timer_of(item)
        item.place = None
        if self._by_id is not None:
            del self._by_id[item.id]
        return item

    def pop_deferrals(self, limit: int, now: float, wall: float) -> list[Item]:
        """Take out the most overdue deferred messages, up to the first timer that is none; they count as fired.

        Each is the message, if it was its own timer, or else its timer. May stop before `limit`: empty only if the next
        timer is none, or none is due.
        """
        line = self._look(now, wall)
        run = line[: -limit - 1 : -1]
        if self._is_plain:
            del line[-limit:]
            return run
        cancelled = 0
        for item in run:
            if type(item) is Message:
                continue
            if type(item) is Deferral and item.place is not None:
                item.place = None
            elif item.place is None:
                cancelled += 1
            else:
                del run[run.index(item) :]
                break
        if run:
            del line[-len(run) :]
        if cancelled:
            run = [item for item in run if isinstance(item, Message) or item.action is not None]
        if self._by_id is not None:
            for item in run:
                assert isinstance(item, Timer)
                del self._by_id[item.id]
        return run

    def next_ticks(self) -> tuple[int | None, int | None]:
        """Return the next tick at which a timer is due, on the monotonic and on the wall clock; None where there is none."""
        first, first_wall = self._monotonic.first(), self._wall.first()
        for item in self._line:
            tick = tick_of(due_of(item))
            if isinstance(item, Message):
                first = tick if first is None else min(first, tick)
            elif item.place is None:
                continue
            elif item.on_wall:
                first_wall = tick if first_wall is None else min(first_wall, tick)
            else:
                first = tick if first is None else min(first, tick)
        return first, first_wall

    def _look(self, now: float, wall: float) -> list[Item]:
        """Return the line, the next timer last, which is set; filled from the wheels if something more overdue is there."""
        line = self._line
        while line and isinstance(line[-1], Timer) and line[-1].place is None:
            line.pop()
        while True:
            tick, wall_tick = self._monotonic.first(), self._wall.first()
            late = -1 if tick is None else int(now * TICKS_PER_SECOND + ROUNDING) - tick
            wall_late = -1 if wall_tick is None else int(wall * TICKS_PER_SECOND + ROUNDING) - wall_tick
            if late < 0 and wall_late < 0:
                return line
            if not line:
                self._bases = (now, wall)
                self._is_plain = wall_late < 0
                if wall_late < 0:
                    self._line_up(now)
                    return line
                line += self._monotonic.open() if late >= wall_late else self._wall.open()
                sort_by_due(line)
                line.reverse()
                if late == wall_late:
                    self._merge(self._wall.open())
                return line
            if max(late, wall_late) < self._lateness(line[0], now, wall):
                return line
            self._merge(self._monotonic.open() if late >= wall_late else self._wall.open())

    def _line_up(self, now: float) -> None:
        """Fill the empty line with what is due on the monotonic clock, tick by tick, until it is long enough."""
        line, wheel, latest = self._line, self._monotonic, int(now * TICKS_PER_SECOND + ROUNDING)
        tick = wheel.first()
        while tick is not None and tick <= latest and len(line) < LINE:
            bucket = wheel.open()
            if not sort_by_due(bucket):
                self._is_plain = False
            line += bucket
            tick = wheel.first()
        line.reverse()

    @staticmethod
    def _lateness(item: Item, now: float, wall: float) -> int:
        is_on_wall = isinstance(item, Timer) and item.on_wall
        return int((wall if is_on_wall else now) * TICKS_PER_SECOND + ROUNDING) - tick_of(due_of(item))

    def _merge(self, items: list[Item]) -> None:
        """Put some into a line that is not empty."""
        self._is_plain = False
        for item in items:
            insort(self._line, item, key=self._rank)

    def _rank(self, item: Item) -> tuple[float, int]:
        is_on_wall = isinstance(item, Timer) and item.on_wall
        return self._bases[is_on_wall] - due_of(item), -order_of(item)

    # Holding

    def hold(self, timer: Timer) -> None:
        """Keep a timer that was taken out: it is set, with the id and the due time it had, but not due before `release`."""
        timer.place = 0
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
            assert timer.place is not None
            self._take_out(timer, timer.place)
        # In the order of setting, on which a tick relies: one may come back, or rounding make different times equal.
        for timer in sorted(timers, key=_order_of):
            timer.due += difference
            self._put_back(timer)

    def _take_out(self, timer: Timer, place: int) -> None:
        """Take a set timer from where it stands."""
        wheel = self._wall if timer.on_wall else self._monotonic
        if wheel.remove(timer, place):
            return
        if timer in self._held:
            del self._held[timer]
        else:
            self._line.remove(timer)

    def _put_back(self, timer: Timer) -> None:
        """Put a timer into its wheel, with its id and its order."""
        tick = tick_of(timer.due)
        wheel = self._wall if timer.on_wall else self._monotonic
        wheel.add(timer, tick)
        if tick < (self.wall_horizon if timer.on_wall else self.horizon) and self.on_early is not None:
            self.on_early()
