"""The life of one copy."""

import itertools

import pytest

from flowmesh._core.entry import NO_LANE, TRANSITIONS, Entry, State
from flowmesh.message import Message


def _entry() -> Entry:
    return Entry(Message("m-", 1, "body"), 100.0)


@pytest.mark.parametrize("before, after", list(itertools.product(State, State)), ids=lambda state: state.name)
def test_only_the_transitions_of_the_table_are_possible(before: State, after: State) -> None:
    """A pair that the table holds is carried out; any other is a bug, names both states and changes nothing."""
    entry = _entry()
    entry.state = before
    if (before, after) in TRANSITIONS:
        entry.move(after)
        assert entry.state is after
    else:
        with pytest.raises(AssertionError, match=f"from {before.name} to {after.name}: m-1"):
            entry.move(after)
        assert entry.state is before


def test_nothing_follows_the_end() -> None:
    """Every copy ends once."""
    assert not [pair for pair in TRANSITIONS if pair[0] is State.ENDED]
    entry = _entry()
    assert not entry.has_ended
    entry.state = State.ENDED
    assert entry.has_ended


def test_each_state_can_be_reached_and_left() -> None:
    """From READY every state can be reached, and from every state the end."""
    for step, start in (((0, 1), State.READY), ((1, 0), State.ENDED)):
        reached = {start}
        for _ in State:
            reached |= {pair[step[1]] for pair in TRANSITIONS if pair[step[0]] in reached}
        assert reached == set(State)


def test_a_new_copy_has_no_past() -> None:
    """It is ready, has no place yet, no lane, no deadline, and nobody waits for it."""
    entry = _entry()
    assert (entry.state, entry.place, entry.lane, entry.expires) == (State.READY, -1, NO_LANE, None)
    assert (entry.failures, entry.handouts, entry.redelivered, entry.queued, entry.asked) == (0, 0, False, False, False)
    assert repr(NO_LANE) == "<no lane>"


def test_copies_are_equal_only_to_themselves() -> None:
    """Two copies of one message are two keys of a dict."""
    first, second = _entry(), _entry()
    assert first != second
    assert len({first, second, first}) == 2
