"""What a schedule remembers beyond its process: which due times have been dealt with, and which are still to be fired.

Everything here is in wall-clock seconds, as the ids of fires tell their due times: no other clock means anything to the next
process.  A Standing is written with the copies of every fire, so that a due time has been dealt with when they have entered,
and not otherwise.  Due times that have come and wait to be fired are written beside it, when some are added; the Standing
says how many of the first of them are done with, so that a long backlog is not written again for each fire.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flowmesh._core.schedules import Course, Interval, Plan

__all__ = ["BACKLOG", "SCHEDULE", "Backlog", "Standing", "read_standing", "resume", "rule_of"]

SCHEDULE = "schedule"
"""The kind of what is kept: a Standing, by the schedule's name."""
BACKLOG = "schedule.backlog"
"""Likewise: due times that wait to be fired."""


class Standing(Struct, frozen=True, array_like=True):
    """Where a schedule stands among its due times.

    `rule`: what its due times come from, as text. `lived`, `here`: of its Course. `anchor`: where a plain interval is counted
    from; `number`: the last of its due times that has been dealt with. `due`: the next one, where the fire before it sets
    that. `told`, `triggered`: the last due times that ids were made of. `missed`: of how many the next fire has to tell.
    `done`: how many of the first in the backlog that was written are done with; `waiting`: how many of those after them
    wait for the fire before.
    """

    rule: str
    lived: tuple[tuple[float, float], ...] = ()
    here: int = 0
    anchor: float = 0.0
    number: int = 0
    due: float | None = None
    told: float = -math.inf
    triggered: float = -math.inf
    missed: int = 0
    is_paused: bool = False
    done: int = 0
    waiting: int = 0

    def encode(self) -> bytes:
        """Return it as it is kept."""
        return msgspec.msgpack.encode(self)


def read_standing(kept: bytes | None) -> Standing | None:
    """Return what was kept, or None: nothing, or nothing that this version knows."""
    if kept is None:
        return None
    try:
        return msgspec.msgpack.decode(kept, type=Standing)
    except msgspec.DecodeError:
        return None


def rule_of(plan: Plan) -> str:
    """Return what the due times of a plan come from, as text: with another one, a schedule begins anew."""
    rule = plan.rule
    text = f"every {rule.seconds!r}" if isinstance(rule, Interval) else f"cron {rule.line} in {rule.zone}"
    return f"{text} from {plan.start!r}{' after the one before' if plan.fixed_delay else ''}"


def resume(plan: Plan, standing: Standing, now: float, offset: float) -> Course:
    """Return the course of a schedule that goes on where it stood; not of one whose fires set the next due time.

    Args:
        plan: whose due times these are.
        standing: of the same rule.
        now: on the clock that the rule is about.
        offset: from that clock to the wall clock; such that no due time that was told is told again.
    """
    course = plan.course_from(now, now + offset)
    if plan.on_wall:
        course.stand(standing.lived, standing.here)
        return course
    assert isinstance(plan.rule, Interval)
    rule = replace(plan.rule, anchor=standing.anchor - offset)
    # Moments of two clocks are compared here: what was rounded must neither repeat a due time nor leave one out.
    end = max((end for _, end in standing.lived), default=-math.inf) - offset
    end = min(max(end, rule.due(standing.number)), math.nextafter(rule.due(standing.number + 1), -math.inf))
    course = Course(rule, plan.catchup, plan.within, now)
    course.stand([(end, end)], 0)
    return course


class Backlog:
    """Due times that have come and have not been fired, as ids tell them.

    `waiting`, the first of them, wait for the fire before; `arrived` have not been looked at yet.
    """

    __slots__ = ("_done", "_is_written", "_length", "arrived", "waiting")

    def __init__(self) -> None:
        self.arrived: deque[float] = deque()
        self.waiting: deque[float] = deque()
        self._is_written = True
        self._length = 0  # of what was written last
        self._done = 0  # how many of that are done with

    def __iter__(self) -> Iterator[float]:
        yield from self.waiting
        yield from self.arrived

    def __len__(self) -> int:
        return len(self.waiting) + len(self.arrived)

    def arrive(self, dues: Iterable[float]) -> None:
        """Take due times that have come."""
        before = len(self.arrived)
        self.arrived.extend(dues)
        self._is_written = self._is_written and len(self.arrived) == before

    def put_back(self, due: float) -> None:
        """Take one that could not be fired: it is the first that has not been looked at."""
        self.arrived.appendleft(due)
        self._is_written = False

    def next_arrived(self) -> float:
        """Take out what has come first of those that have not been looked at."""
        if self.waiting:
            self._is_written = False  # It is not the first.
        self._done += 1
        return self.arrived.popleft()

    def wait(self, due: float) -> None:
        """Let one wait for the fire before it."""
        self.waiting.append(due)
        self._is_written = False

    def next_waiting(self) -> float:
        """Take out what has waited longest."""
        self._done += 1
        return self.waiting.popleft()

    def drop_waiting(self) -> int:
        """Take out all that wait; return how many there were."""
        count = len(self.waiting)
        self._done += count
        self.waiting.clear()
        return count

    def drop_arrived(self) -> list[float]:
        """Take out all that have not been looked at."""
        arrived = list(self.arrived)
        self.arrived.clear()
        self._is_written = False
        return arrived

    def take(self, kept: bytes | None, *, done: int, waiting: int) -> None:
        """Be as what was kept says; the arguments are a Standing's."""
        try:
            written = [] if kept is None else msgspec.msgpack.decode(kept, type=list[float])
        except msgspec.DecodeError:
            written = []
        left = written[done:]
        self.waiting, self.arrived = deque(left[:waiting]), deque(left[waiting:])
        self._is_written, self._length, self._done = True, len(written), min(done, len(written))

    def clear(self) -> None:
        """Forget all of it, but not in the store."""
        self.waiting.clear()
        self.arrived.clear()
        self._is_written, self._length, self._done = True, 0, 0

    def must_be_written(self) -> None:
        """Take the news that what was to be written has not been."""
        self._is_written = False

    def to_write(self) -> tuple[bytes | None, int]:
        """Return what is to be written of it now, or None, and how many of the first of what is written are done with."""
        if self._is_written:
            return None, self._done
        if not len(self):
            # What is there is done with as a whole; usually there is nothing.
            self._is_written, self._done = True, self._length
            return None, self._done
        self._is_written, self._length, self._done = True, len(self), 0
        return msgspec.msgpack.encode(list(self)), 0
