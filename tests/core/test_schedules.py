"""Intervals: anchored, so that they do not drift."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.schedules import next_interval


@pytest.mark.parametrize(
    "now, expected",
    [(0.0, (10.0, 1)), (9.9, (10.0, 1)), (10.0, (20.0, 2)), (10.1, (20.0, 2)), (35.0, (40.0, 4)), (-7.0, (10.0, 1))],
)
def test_the_first_fire_is_one_interval_after_the_start(now: float, expected: tuple[float, int]) -> None:
    """And each later one a whole number of intervals after it, strictly in the future; before the anchor it is the first."""
    assert next_interval(0.0, 10.0, now) == expected


def test_lateness_never_adds_up() -> None:
    """However late each fire is looked at, the hundredth is due a hundred intervals after the anchor."""
    anchor, now = 3.7, 3.7
    for number in range(1, 101):
        due, found = next_interval(anchor, 0.1, now)
        assert (found, due) == (number, anchor + number * 0.1)
        now = due + 0.04


@given(
    anchor=st.floats(-1e6, 1e6), every=st.floats(1e-3, 1e6), number=st.integers(1, 10_000), nudge=st.sampled_from([-1, 0, 1])
)
def test_no_interval_is_left_out_and_none_comes_twice(anchor: float, every: float, number: int, nudge: int) -> None:
    """Looked at around any due time, rounding included, it gives the first one that is later, and that one's number."""
    now = anchor + number * every
    now = math.nextafter(now, math.copysign(math.inf, nudge)) if nudge else now
    due, found = next_interval(anchor, every, now)
    assert due == anchor + found * every
    assert due > now
    assert found == 1 or anchor + (found - 1) * every <= now
