"""The ring that one more wait would close, against playing the waits out."""

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.waits import Needs, closed_ring

Graph = Mapping[int, Needs[int] | None]


def every(*nodes: int) -> Needs[int]:
    """It goes on when all of these have."""
    return Needs(nodes, every=True)


def one_of(*nodes: int) -> Needs[int]:
    """It goes on when one of these has."""
    return Needs(nodes, every=False)


def _ring(graph: Graph, start: int = 0) -> list[int] | None:
    return closed_ring(start, graph.get)


@pytest.mark.parametrize(
    "graph, ring",
    [
        ({0: None}, None),
        ({0: every(0)}, [0]),
        ({0: every(1)}, None),
        ({0: every(1), 1: every(0)}, [0, 1]),
        ({0: every(1), 1: every(2), 2: every(0)}, [0, 1, 2]),
        ({0: every(1), 1: one_of(0, 2)}, None),
        ({0: every(1), 1: one_of(0, 2), 2: every(1)}, [0, 1]),
        ({0: every(1), 1: every(2, 0)}, [0, 1]),
        ({0: every(1, 2), 2: every(0)}, [0, 2]),
        ({0: one_of(1, 2), 2: every(0)}, None),
        ({0: every(1), 1: every(2), 2: every(1)}, None),
        ({0: every(1), 1: one_of(2), 2: one_of(1, 0)}, [0, 1, 2]),
        ({0: every(1), 1: every()}, None),
        ({0: every(1), 1: one_of(3, 2), 2: every(0), 3: every(4), 4: every(3)}, [0, 1, 2]),
    ],
)
def test_the_ring_is_named_from_the_start_on(graph: Graph, ring: list[int] | None) -> None:
    """A shortest one; a way out breaks it, and a ring that the start only leads to is not its own."""
    assert _ring(graph) == ring


NODES = range(7)


@st.composite
def _graphs(draw: st.DrawFn) -> Graph:
    needs = st.builds(
        lambda nodes, every: Needs(tuple(nodes), every=every), st.lists(st.sampled_from(NODES), max_size=4), st.booleans()
    )
    return {node: draw(st.none() | needs) for node in NODES}


def _stuck(graph: Graph) -> set[int]:
    """Play it: whoever has what it needs goes on, until nothing changes."""
    going: set[int] = set()
    while True:
        more = {
            node
            for node, need in graph.items()
            if need is None or (all if need.every else any)(one in going for one in need.nodes)
        }
        if more == going:
            return set(NODES) - going
        going = more


def _reached(graph: Graph, stuck: set[int], start: int) -> set[int]:
    """Return what `start` leads to through stuck nodes, by squaring."""
    edges = {(node, one) for node in stuck for one in getattr(graph[node], "nodes", ()) if one in stuck}
    while True:
        more = edges | {(one, four) for one, two in edges for three, four in edges if two == three}
        if more == edges:
            return {two for one, two in edges if one == start}
        edges = more


@given(_graphs())
def test_a_ring_is_found_exactly_when_its_start_never_goes_on_and_waits_for_itself(graph: Graph) -> None:
    """Against playing it out; and each of the ring is stuck and needs the next."""
    stuck = _stuck(graph)
    ring = _ring(graph)
    assert (ring is not None) == (0 in _reached(graph, stuck, 0))
    if ring is not None:
        assert ring[0] == 0
        assert len(set(ring)) == len(ring)
        assert set(ring) <= stuck
        for node, following in itertools.pairwise([*ring, 0]):
            need = graph[node]
            assert need is not None
            assert following in need.nodes


def test_a_long_ring_is_found_in_linear_time() -> None:
    """A ring of 100,000 is found without recursion, and each of it is looked at once."""
    count, looks = 100_000, list[int]()

    def needs(node: int) -> Needs[int]:
        looks.append(node)
        return every((node + 1) % count)

    assert closed_ring(0, needs) == list(range(count))
    assert sorted(looks) == list(range(count))


def test_a_way_out_is_found_without_a_look_at_everybody() -> None:
    """A thousand slots that all wait for something that goes on: the last of them is enough."""
    looks: list[int] = []

    def needs(node: int) -> Needs[int] | None:
        looks.append(node)
        return {0: every(1), 1: one_of(*range(3, 1003)), 2: None}.get(node, every(2))

    assert closed_ring(0, needs) is None
    assert len(looks) == 4
