"""Due times and what becomes of them: intervals that do not drift, each due time once, catching up, and overlaps."""

import itertools
import math
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmesh._core.schedules import (
    LOOKED_BACK,
    PUNCTUAL,
    WAITING,
    Arrival,
    Catchup,
    Course,
    From,
    Interval,
    Overlap,
    on_overlap,
)

HOUR = 3600.0


@pytest.mark.parametrize(
    "now, expected", [(0.0, 10.0), (9.9, 10.0), (10.0, 20.0), (10.1, 20.0), (35.0, 40.0), (-7.0, 10.0), (-70.0, 10.0)]
)
def test_the_first_fire_is_one_interval_after_the_start(now: float, expected: float) -> None:
    """And each later one a whole number of intervals after it, strictly in the future; before the anchor it is the first."""
    assert Interval(10.0, 0.0).after(now) == expected


def test_an_anchor_can_be_the_first_due_time() -> None:
    """With `first=0`, the anchor itself comes, once."""
    rule = Interval(10.0, 5.0, 0)
    assert [rule.after(now) for now in (-100.0, 4.9, 5.0, 14.9)] == [5.0, 5.0, 15.0, 15.0]
    assert rule.latest(-100.0, 5.0) == ([5.0], 1)
    assert rule.latest(5.0, 25.0) == ([15.0, 25.0], 2)


def test_lateness_never_adds_up() -> None:
    """However late each fire is looked at, the hundredth is due a hundred intervals after the anchor."""
    rule, now = Interval(0.1, 3.7), 3.7
    for number in range(1, 101):
        due = rule.after(now)
        assert due == 3.7 + number * 0.1
        now = due + 0.04


@given(
    anchor=st.floats(-1e6, 1e6), every=st.floats(1e-3, 1e6), number=st.integers(1, 10_000), nudge=st.sampled_from([-1, 0, 1])
)
def test_no_interval_is_left_out_and_none_comes_twice(anchor: float, every: float, number: int, nudge: int) -> None:
    """Looked at around any due time, rounding included, it gives the first one that is later."""
    now = anchor + number * every
    now = math.nextafter(now, math.copysign(math.inf, nudge)) if nudge else now
    due = Interval(every, anchor).after(now)
    found = round((due - anchor) / every)
    assert due == anchor + found * every
    assert due > now
    assert found == 1 or anchor + (found - 1) * every <= now


def test_a_start_holds_another_rule_back() -> None:
    """Nothing comes before it; what is due at it comes."""
    rule = From(Interval(10.0, 0.0), 30.0)
    assert [rule.after(now) for now in (0.0, 29.9, 30.0)] == [30.0, 30.0, 40.0]


# Catching up


@pytest.mark.parametrize(
    "catchup, within, expected",
    [
        ("latest", None, Arrival((40.0,), 3)),
        ("latest", 4.0, Arrival((), 4)),
        ("all", None, Arrival((10.0, 20.0, 30.0, 40.0), 0)),
        ("all", 15.0, Arrival((30.0, 40.0), 2)),
        ("none", None, Arrival((), 4)),
    ],
)
def test_what_a_long_absence_leaves(catchup: Catchup, within: float | None, expected: Arrival) -> None:
    """From 0 to 45 with an interval of 10: the latest, all, or none, no older than `within`; the others are missed."""
    course = Course(Interval(10.0), catchup, within, 0.0)
    assert course.arrive(45.0) == expected
    assert course.arrive(45.0) == Arrival()
    assert course.next(45.0) == 50.0


@pytest.mark.parametrize("catchup", get_args(Catchup))
def test_in_time_there_is_nothing_to_catch_up_with(catchup: Catchup) -> None:
    """A due time that is looked at up to a second late is fired, whatever the rule; jitter does not count as lateness."""
    course = Course(Interval(10.0), catchup, None, 0.0)
    assert course.arrive(10.0) == Arrival((10.0,))
    assert course.arrive(20.0 + PUNCTUAL) == Arrival((20.0,))
    assert course.arrive(38.0, late=8.0) == Arrival((30.0,))


def test_an_absence_of_ages_is_looked_at_in_part() -> None:
    """All of an interval's due times are counted and the last LOOKED_BACK made up for; another rule's are counted so far."""

    class Tens:
        def after(self, moment: float) -> float:
            return Interval(10.0).after(moment)

    arrival = Course(Interval(10.0), "all", None, 0.0).arrive(1e7)
    assert (len(arrival.due), arrival.due[-1], arrival.missed) == (LOOKED_BACK, 1e7, 10**6 - LOOKED_BACK)
    arrival = Course(Tens(), "latest", None, 0.0).arrive(1e7)
    assert arrival == Arrival((1e7,), LOOKED_BACK - 1, is_cut=True)
    arrival = Course(Tens(), "all", 25.0, 0.0).arrive(1e7)
    assert arrival.due == (1e7 - 20, 1e7 - 10, 1e7)


def test_a_pause_passes_due_times_over() -> None:
    """They are neither fired nor missed, and do not come later."""
    course = Course(Interval(10.0), "all", None, 0.0)
    course.pass_over(35.0)
    assert course.next(35.0) == 40.0
    assert course.arrive(41.0) == Arrival((40.0,))
    course.pass_over(5.0)
    assert course.arrive(50.0) == Arrival((50.0,))


# The wall clock is set


def test_set_back_repeats_nothing() -> None:
    """By a second or by hours: a due time that was fired does not come again."""
    course = Course(Interval(600.0), "latest", None, 0.0)
    for number in range(1, 19):
        assert course.arrive(number * 600.0 + 0.01) == Arrival((number * 600.0,))
    assert course.next(18 * 600.0 - 1) == 19 * 600.0
    assert course.arrive(18 * 600.0 - 1) == Arrival()
    assert course.arrive(18 * 600.0) == Arrival()
    assert course.next(3 * HOUR - 2 * HOUR) == 19 * 600.0
    assert course.arrive(HOUR) == Arrival()
    assert course.arrive(19 * 600.0) == Arrival((19 * 600.0,))


def test_set_ahead_by_mistake_and_back_goes_on_where_it_was() -> None:
    """What was jumped over was missed, made up for as the rule says, and comes all the same when its time really comes."""
    year = 365 * 24 * HOUR
    course = Course(Interval(HOUR), "latest", None, 0.0)
    assert course.arrive(HOUR) == Arrival((HOUR,))
    assert course.arrive(year) == Arrival((year,), 365 * 24 - 2)
    assert course.arrive(HOUR + 60) == Arrival()
    assert course.next(HOUR + 60) == 2 * HOUR
    assert course.arrive(2 * HOUR) == Arrival((2 * HOUR,))
    assert course.next(year - 1) == year + HOUR


def test_a_clock_that_was_wrong_from_the_start() -> None:
    """Begun in the far future, then set to the real time: due times come from then on, and what lies before is nobody's."""
    course = Course(Interval(10.0, -1e6), "all", None, 1e6)
    assert course.arrive(1e6 + 10) == Arrival((1e6 + 10,))
    assert course.arrive(500.0) == Arrival()
    assert course.next(500.0) == 510.0
    assert course.arrive(530.0) == Arrival((510.0, 520.0, 530.0))


def test_what_is_remembered_is_bounded() -> None:
    """A clock that is set to and fro a thousand times leaves a few stretches behind, and the last ones repeat nothing."""
    course = Course(Interval(10.0), "latest", None, 0.0)
    now = 0.0
    for _ in range(1000):
        now += 105
        course.arrive(now)
        assert course.arrive(now - 5) == Arrival()
    assert len(course._lived) <= 16


def test_a_leap_forgets_nothing_that_was_lived_before_it() -> None:
    """Set back, ahead over what was fired, and back again: what has been fired is not fired a second time."""
    course = Course(Interval(10.0, -1e4), "latest", None, 0.0)
    assert course.arrive(10.0) == Arrival((10.0,))
    assert course.arrive(-1.0) == Arrival()
    assert course.arrive(20.0) == Arrival((20.0,), missed=1)
    assert course.arrive(9.0) == Arrival()
    assert course.next(9.0) == 30.0


@example(steps=[("look", 10), ("look", -11), ("look", 21), ("look", -11)], catchup="latest", within=None)
@example(steps=[("look", -11), ("look", 11), ("look", -1)], catchup="latest", within=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["look", "pass"]), st.integers(-50, 60)), max_size=14),
    catchup=st.sampled_from(get_args(Catchup)),
    within=st.sampled_from([None, 1.0, 25.0]),
)
def test_each_due_time_at_most_once(steps: list[tuple[str, int]], catchup: Catchup, within: float | None) -> None:
    """Against a model that keeps every due time by itself, wherever the clock is set to: fired once, and as the rule says."""
    course = Course(Interval(10.0, -1e4), catchup, within, 0.0)
    limit = PUNCTUAL if catchup == "none" else math.inf if within is None else within
    settled = set[float]()  # due times that are dealt with for good
    here = 0.0  # up to where the model has come
    now = 0.0
    lived: list[tuple[float, float]] = [(0.0, 0.0)]  # closed stretches (start, end] that were lived through
    for kind, seconds in steps:
        now += seconds
        if now < here:
            # Set back: go on from the end of what was lived here; if nothing was, from now.
            here = now
            for _ in lived:
                here = max([here, *(end for start, end in lived if start <= here <= end)])
            lived.append((now, now))
        dues = [float(due) for due in range(-500, 1000, 10) if here < due <= now and due not in settled]
        if kind == "pass":
            course.pass_over(now)
            fired, missed = [], 0
            settled.update(dues)
            if now > here:
                lived.append((here, now))
        else:
            fired = [due for due in (dues if catchup == "all" else dues[-1:]) if now - due <= limit]
            missed = len(dues) - len(fired)
            assert course.arrive(now) == Arrival(tuple(fired), missed)
            settled.update(fired)
            if not missed and now > here:
                lived.append((here, now))
            elif missed:
                lived.append((math.nextafter(fired[0], -math.inf) if fired else now, now))
        here = max(here, now)
        expected = next(float(due) for due in range(-500, 1000, 10) if due > now and due not in settled)
        assert course.next(now) == expected


# Overlaps


@pytest.mark.parametrize(
    "overlap, is_open, waiting, expected",
    [
        *((overlap, False, 0, "fire") for overlap in get_args(Overlap)),
        ("skip", True, 0, "skip"),
        ("queue", True, 0, "wait"),
        ("queue", False, 1, "wait"),
        ("queue", True, WAITING - 1, "wait"),
        ("queue", True, WAITING, "skip"),
        ("cancel", True, 0, "overtake"),
        ("cancel", True, 1, "overtake"),
        ("cancel", False, 1, "overtake"),
        ("allow", True, 0, "fire"),
    ],
)
def test_overlaps(overlap: Overlap, is_open: bool, waiting: int, expected: Any) -> None:
    """Fire when nothing is in the way; otherwise each rule does what its name says, and nothing waits without bound."""
    assert on_overlap(overlap, is_open=is_open, waiting=waiting) == expected


def test_nothing_overtakes_what_waits() -> None:
    """While a fire waits, none is made before it, with any rule under which fires wait."""
    for overlap, is_open in itertools.product(("queue", "cancel"), (True, False)):
        assert on_overlap(overlap, is_open=is_open, waiting=1) != "fire"
