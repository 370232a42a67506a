"""When a schedule fires: its due times, which of them are still to be dealt with, and what an overlap means.

A due time is dealt with once: fired, skipped, or missed because nobody looked in time.  Due times are whole numbers of
intervals after an anchor, or what a cron line names, so lateness never adds up.  Nothing here reads a clock: `now` is on the
clock that the rule is about, the monotonic one for a plain interval, the wall clock for the others, which may be set back.
"""

import bisect
import datetime
import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from flowmesh._core.cron import CronLine

__all__ = [
    "LOOKED_BACK",
    "PUNCTUAL",
    "WAITING",
    "Arrival",
    "Catchup",
    "Course",
    "Interval",
    "Overlap",
    "Plan",
    "Rule",
    "on_overlap",
]

Overlap = Literal["skip", "queue", "cancel", "allow"]
Catchup = Literal["latest", "all", "none"]

LOOKED_BACK: Final = 10_000
"""Due times that one look after a long absence goes back; those of an interval before them are counted, others are not."""
PUNCTUAL: Final = 1.0
"""Seconds after its due time within which a fire counts as in time, and is made with `catchup="none"` too."""
WAITING: Final = 1_000
"""Fires that may wait for the one before them with `overlap="queue"`; a further one is skipped."""
_SAME: Final = 1e-6
"""Seconds: moments closer than that are the same, as a datetime tells them."""
_SPANS: Final = 16
"""Stretches of the wall clock that are remembered as lived through; it takes a clock set back or ahead to begin another."""


class Rule(Protocol):
    """What gives due times."""

    def after(self, moment: float) -> float | None:
        """Return the first due time after `moment`, or None: there is none."""
        ...


class Interval(Struct, frozen=True):
    """Every `seconds` from `anchor`, which is itself a due time if `first` is 0, and not if it is 1."""

    seconds: float
    anchor: float = 0.0
    first: int = 1

    def after(self, moment: float) -> float:
        """Return its first due time after `moment`."""
        return self.due(self.number(moment) + 1)

    def latest(self, since: float, until: float) -> tuple[list[float], int]:
        """Return its due times in (since, until], the last LOOKED_BACK of them, and how many there are."""
        last = self.number(until)
        count = last - self.number(since)
        return [self.due(number) for number in range(last - min(count, LOOKED_BACK) + 1, last + 1)], count

    def due(self, number: int) -> float:
        """Return one of its due times."""
        return self.anchor + number * self.seconds

    def number(self, moment: float) -> int:
        """Return the number of the last due time up to `moment`, or the one before the first."""
        number = math.floor((moment - self.anchor) / self.seconds)
        # The division may round over a whole number, in either direction.
        if self.due(number + 1) <= moment:
            number += 1
        elif self.due(number) > moment:
            number -= 1
        return max(number, self.first - 1)


class From(Struct, frozen=True):
    """The due times of another rule from `start` on."""

    rule: Rule
    start: float

    def after(self, moment: float) -> float | None:
        """Return the first due time after `moment` that is not before `start`."""
        return self.rule.after(max(moment, math.nextafter(self.start, -math.inf)))


class Arrival(Struct, frozen=True):
    """What has come due: what to fire now, in order, and how many were missed; `is_cut`: older ones were not even looked at."""

    due: tuple[float, ...] = ()
    missed: int = 0
    is_cut: bool = False


class Course:
    """Where a schedule stands among its due times.

    `lived` are the stretches of the clock, (start, end] and in order, whose due times have been dealt with; the course goes on
    at the end of one of them. A clock that is set back into a lived stretch repeats nothing. What it had jumped over has not
    been lived: set back before those due times, they were missed, and come all the same.
    """

    def __init__(self, rule: Rule, catchup: Catchup, within: float | None, now: float) -> None:
        self.rule = rule
        self._catchup: Catchup = catchup
        self._within = PUNCTUAL if catchup == "none" else math.inf if within is None else within
        self._lived: list[tuple[float, float]] = [(now, now)]
        self._here = 0

    def next(self, now: float) -> float | None:
        """Return the first due time after `now` that has not been dealt with."""
        due = self.rule.after(now)
        for start, end in self._lived:
            if due is not None and start < due <= end:
                due = self.rule.after(end)
        return due

    def arrive(self, now: float, *, late: float = 0.0) -> Arrival:
        """Deal with every due time up to `now`: say which to fire, by the rule for catching up.

        Args:
            now: the time; may be before what was said last.
            late: seconds after its due time at which a fire was to be made on purpose; they do not count as lateness.
        """
        ahead = list(self._not_lived(now))
        found = [self._latest(since, until) for since, until in ahead]
        chosen = self.choose([due for several, _, _ in found for due in several], now, late=late)
        missed = sum(count for _, count, _ in found) - len(chosen)
        if not missed:
            self._live(now)
        else:
            # What was missed has not been lived, should the clock be set back to it.
            self._leap(math.nextafter(chosen[0], -math.inf) if chosen else now, now)
        return Arrival(tuple(chosen), missed, any(is_cut for _, _, is_cut in found))

    def choose(self, dues: list[float], now: float, *, late: float = 0.0) -> list[float]:
        """Return which of these are made up for."""
        return self.in_time(dues if self._catchup == "all" else dues[-1:], now, late=late)

    def in_time(self, dues: list[float], now: float, *, late: float = 0.0) -> list[float]:
        """Return which of these are not too old to be made."""
        return [due for due in dues if now - due <= self._within + late]

    def stand(self, lived: Sequence[tuple[float, float]], here: int) -> None:
        """Go on where another course of this rule had come to."""
        self._lived, self._here = list(lived), here

    @property
    def lived(self) -> tuple[tuple[float, float], ...]:
        """The stretches whose due times have been dealt with."""
        return tuple(self._lived)

    @property
    def here(self) -> int:
        """Which of them it goes on from."""
        return self._here

    @property
    def end(self) -> float:
        """Where it has come to."""
        return self._lived[self._here][1]

    def pass_over(self, now: float) -> None:
        """Deal with every due time up to `now` by leaving it out."""
        for _ in self._not_lived(now):
            pass
        self._live(now)

    # What has been lived

    def _not_lived(self, now: float) -> Iterator[tuple[float, float]]:
        """Go to where `now` is, and return the stretches between there and the course's end that have not been lived."""
        if now < self._lived[self._here][1]:
            self._go_back(now)
        since = self._lived[self._here][1]
        for start, end in self._lived[self._here + 1 :]:
            if start >= now:
                break
            yield since, start
            since = end
        if since < now:
            yield since, now

    def _go_back(self, now: float) -> None:
        """Go on from `now`, which is before where the course had come to: the clock was set back."""
        place = bisect.bisect(self._lived, (now, math.inf))
        if place and now <= self._lived[place - 1][1]:
            self._here = place - 1
        else:
            self._insert(place, (now, now))

    def _live(self, now: float) -> None:
        start, end = self._lived[self._here]
        end = max(now, end)
        while len(self._lived) > self._here + 1 and self._lived[self._here + 1][0] <= end:
            end = max(end, self._lived.pop(self._here + 1)[1])
        self._lived[self._here] = (start, end)

    def _leap(self, start: float, now: float) -> None:
        """Go on with a new stretch, from `start` to `now`; those that it touches become part of it, the others stay."""
        touched = [span for span in self._lived if span[0] <= now and span[1] >= start]
        self._lived = [span for span in self._lived if span not in touched]
        span = (min([start, *(begin for begin, _ in touched)]), max([now, *(end for _, end in touched)]))
        self._insert(bisect.bisect(self._lived, span), span)

    def _insert(self, place: int, span: tuple[float, float]) -> None:
        self._lived.insert(place, span)
        self._here = place
        if len(self._lived) > _SPANS:
            oldest = 1 if place == 0 else 0
            del self._lived[oldest]
            self._here -= oldest < place

    # Due times

    def _latest(self, since: float, until: float) -> tuple[list[float], int, bool]:
        """Return the last LOOKED_BACK due times in (since, until], how many there are, and whether that is only a part."""
        rule = self.rule
        if isinstance(rule, Interval):
            return (*rule.latest(since, until), False)
        # Usually there is one; after a long absence, look back over longer and longer stretches.
        found: list[float] = []
        width, end = 3600.0, until
        while end > since and len(found) < LOOKED_BACK:
            start = max(since, end - width)
            stretch: list[float] = []
            due = rule.after(start)
            while due is not None and due <= end:
                stretch.append(due)
                due = rule.after(due)
            found[:0] = stretch
            end, width = start, width * 2
        is_cut = len(found) >= LOOKED_BACK and end > since
        return found[-LOOKED_BACK:], min(len(found), LOOKED_BACK), is_cut


class Plan(Struct, frozen=True):
    """What was said about a schedule.

    `rule`: an Interval without `start` is anchored when the mesh starts. `start`: seconds since the epoch. `zone`: in which
    its times are told. `overlap`: None means what is usual for its target.
    """

    rule: Interval | CronLine
    zone: datetime.tzinfo
    start: float | None
    overlap: Overlap | None
    catchup: Catchup
    within: float | None
    jitter: float
    fixed_delay: bool

    @property
    def on_wall(self) -> bool:
        """It is about the wall clock."""
        return not self.fixed_delay and (self.start is not None or isinstance(self.rule, CronLine))

    def course_from(self, now: float, wall: float, *, told: float = -math.inf) -> Course:
        """Return where it stands when it starts at `now` on its own clock, which is `wall` on the wall clock.

        A `start` that is this very moment is still to be dealt with, unless it is `told`: the last due time that was. With
        `fixed_delay`, each end of a fire is such a start: then `wall` is infinite, so that `start` has passed.
        """
        since = now
        if self.start is not None and 0 <= wall - self.start < _SAME and told < self.start - _SAME:
            since = math.nextafter(self._start_at(now, wall), -math.inf)
        return Course(self._rule_from(now, wall), self.catchup, self.within, since)

    def course_at(self, due: float) -> Course:
        """Return the course of a schedule whose next due time is this one."""
        assert isinstance(self.rule, Interval)
        return Course(replace(self.rule, anchor=due, first=0), self.catchup, self.within, math.nextafter(due, -math.inf))

    def _rule_from(self, now: float, wall: float) -> Rule:
        rule, start = self.rule, self.start
        if not isinstance(rule, Interval):
            return rule if start is None else From(rule, start)
        if start is None or (self.fixed_delay and wall - start >= _SAME):
            return replace(rule, anchor=now)
        return replace(rule, anchor=self._start_at(now, wall), first=0)

    def _start_at(self, now: float, wall: float) -> float:
        """Return `start` on its own clock."""
        assert self.start is not None
        return self.start - wall + now if self.fixed_delay else self.start


Verdict = Literal["fire", "skip", "wait", "overtake"]


def on_overlap(overlap: Overlap, *, is_open: bool, waiting: int) -> Verdict:
    """Say what becomes of a fire.

    Args:
        overlap: the schedule's rule.
        is_open: the fire before it has not been settled in every mailbox that it reached.
        waiting: how many fires wait already.

    Returns:
        "fire" now, "skip" it, let it "wait" until the one before is settled, or "overtake": cancel the one before, let this
        one wait for the end of it, and skip what has waited for that.
    """
    if overlap == "allow" or not (is_open or waiting):
        return "fire"
    if overlap == "cancel":
        return "overtake"
    return "wait" if overlap == "queue" and waiting < WAITING else "skip"
