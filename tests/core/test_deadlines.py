"""Deadlines: the earliest of many due times that are moved often."""

from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.deadlines import Deadlines

VALUES = st.integers(0, 4)
STEPS = st.lists(st.one_of(st.tuples(VALUES, st.integers(0, 20)), st.tuples(VALUES, st.none())))


@given(STEPS)
def test_the_first_is_the_earliest(steps: list[tuple[int, int | None]]) -> None:
    """Whatever was set, moved and removed, the first is one of the earliest, and the number is right."""
    deadlines, model = Deadlines(), dict[int, int]()
    for value, due in steps:
        if due is None:
            deadlines.remove(value)
            model.pop(value, None)
        else:
            deadlines.set(value, due)
            model[value] = due
        first = deadlines.first()
        assert len(deadlines) == len(model)
        assert (first is None) == (not model)
        if first is not None:
            assert first[0] == min(model.values())
            assert (first[1], first[0]) in model.items()


def test_records_that_no_longer_count_are_dropped() -> None:
    """A value that is due and set again a thousand times leaves no more than a bounded number of records."""
    deadlines = Deadlines()
    for due in range(10_000):
        deadlines.set("a", due)
        deadlines.remove("a")
    assert len(deadlines) == 0
    assert len(deadlines._heap) < 100  # what is bounded


def test_one_that_is_moved_later_keeps_one_record() -> None:
    """Moving later costs no record: a burst of a million messages is one value."""
    deadlines = Deadlines()
    for due in range(10_000):
        deadlines.set("a", due)
    assert deadlines.first() == (9_999, "a")
    assert len(deadlines._heap) == 1  # as above
