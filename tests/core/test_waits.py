"""The ring that one more wait would close."""

import itertools
from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.waits import closed_ring

Graph = Mapping[str, Collection[str]]


def _ring(actor: str, mailbox: str, feeds: Graph, holds: Graph) -> list[str] | None:
    """`feeds`: the actors that each mailbox feeds; `holds`: the mailboxes that each held actor waits for."""
    return closed_ring(actor, mailbox, consumers_of=lambda box: feeds.get(box, ()), held_by=lambda held: holds.get(held, ()))


@pytest.mark.parametrize(
    "feeds, holds, ring",
    [
        ({"A": ["a"]}, {}, ["a"]),
        ({"B": ["b"]}, {}, None),
        ({"A": ["a"], "B": ["b"]}, {"b": ["A"]}, ["a", "b"]),
        ({"A": ["a"], "B": ["b"], "C": ["c"]}, {"b": ["C"], "c": ["A"]}, ["a", "b", "c"]),
        ({"B": ["b"], "C": ["c"]}, {"b": ["C"]}, None),
        ({"A": ["a", "free"], "B": ["b"]}, {"b": ["A"]}, None),
        ({"A": ["a"], "B": ["b", "free"]}, {"b": ["A"]}, None),
        ({"A": ["a"], "B": ["b"], "C": ["c"]}, {"b": ["C", "A"]}, ["a", "b"]),
        ({"A": ["a", "d"], "B": ["b"], "D": ["d"]}, {"b": ["A"], "d": ["B"]}, ["a", "b"]),
        ({"A": ["d", "a"], "B": ["b"]}, {"b": ["A"], "d": ["B"]}, ["a", "b"]),
        ({}, {}, None),
    ],
)
def test_the_ring_is_named_from_the_actor_on(feeds: Graph, holds: Graph, ring: list[str] | None) -> None:
    """Actor a is about to wait for room in B (in A when only A feeds anybody); a free consumer anywhere breaks the ring."""
    assert _ring("a", "B" if "B" in feeds or not feeds else "A", feeds, holds) == ring


ACTORS, BOXES = "abcd", "ABCD"


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[Graph, Graph]:
    """Holds that were taken one after another, none of which closed a ring."""
    feeds: Graph = {box: draw(st.lists(st.sampled_from(ACTORS), unique=True, max_size=3)) for box in BOXES}
    holds: dict[str, list[str]] = {actor: [] for actor in ACTORS}
    for actor, box in draw(st.lists(st.tuples(st.sampled_from(ACTORS), st.sampled_from(BOXES)), max_size=8)):
        if box not in holds[actor] and not _is_stuck(actor, box, feeds, holds):
            holds[actor].append(box)
    return feeds, dict(holds)


def _is_stuck(actor: str, mailbox: str, feeds: Graph, holds: Graph) -> bool:
    """Play it: whoever is not held empties the mailboxes it feeds from, until nothing changes."""
    full = {box for boxes in holds.values() for box in boxes} | {mailbox}
    while True:
        waiting = {held for held in ACTORS if any(box in full for box in holds[held])}
        waiting |= {actor} if mailbox in full else set()
        emptied = {box for box in full if not feeds[box] or any(consumer not in waiting for consumer in feeds[box])}
        if not emptied:
            return mailbox in full
        full -= emptied


@given(_graphs(), st.sampled_from(ACTORS), st.sampled_from(BOXES))
def test_a_ring_is_found_exactly_when_nobody_could_go_on(graphs: tuple[Graph, Graph], actor: str, mailbox: str) -> None:
    """Against playing it out; and each of the ring waits for a mailbox that feeds the next."""
    feeds, holds = graphs
    ring = _ring(actor, mailbox, feeds, holds)
    assert (ring is not None) == _is_stuck(actor, mailbox, feeds, holds)
    if ring is not None:
        assert ring[0] == actor
        assert len(set(ring)) == len(ring)
        for held, following in itertools.pairwise([*ring, actor]):
            boxes = {*holds[held], mailbox} if held == actor else holds[held]
            assert any(following in feeds[box] for box in boxes)


def test_a_long_ring_is_found_in_linear_time() -> None:
    """A ring of 100,000 actors is found without recursion, and without a look at all others for each."""
    count = 100_000
    ring = closed_ring(0, 1, consumers_of=lambda box: (box,), held_by=lambda held: ((held + 1) % count,) if held else ())
    assert ring == list(range(count))
