"""The rings of a graph, against a closure of it."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.rings import rings_in

Graph = Mapping[tuple[int], list[tuple[int]]]


def graph(**edges: str) -> dict[tuple[str], list[tuple[str]]]:
    """`a="bc"`: from a to b and to c."""
    return {(node,): [(target,) for target in targets] for node, targets in edges.items()}


@pytest.mark.parametrize(
    "edges, rings",
    [
        ({}, []),
        ({"a": "b", "b": "c"}, []),
        ({"a": "a"}, ["a"]),
        ({"b": "a", "a": "b"}, ["ab"]),
        ({"a": "b", "b": "c", "c": "ab"}, ["abc", "bc"]),
        ({"a": "b", "b": "ac", "c": "d", "d": "c"}, ["ab", "cd"]),
        ({"x": "a", "a": "b", "b": "ay"}, ["ab"]),
    ],
)
def test_each_ring_is_listed_once_from_its_first_place(edges: dict[str, str], rings: list[str]) -> None:
    """Whatever leads to a ring, or away from it, is not part of it."""
    assert ["".join(node for (node,) in ring) for ring in rings_in(graph(**edges))] == rings


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=15))
def test_whatever_is_on_a_ring_is_listed(pairs: set[tuple[int, int]]) -> None:
    """Each ring goes along edges and meets nothing twice; every node that leads back to itself is in one of them."""
    edges: Graph = {}
    for source, target in pairs:
        edges.setdefault((source,), []).append((target,))
    rings = rings_in(edges)
    for ring in rings:
        assert len(set(ring)) == len(ring)
        assert ring[0] == min(ring)
        assert all((source[0], target[0]) in pairs for source, target in zip(ring, [*ring[1:], ring[0]], strict=True))
    assert len({tuple(ring) for ring in rings}) == len(rings)
    closure = set(pairs)
    for middle in range(7):
        closure |= {(one, two) for one in range(7) for two in range(7) if (one, middle) in closure and (middle, two) in closure}
    assert {node for ring in rings for (node,) in ring} == {node for node in range(7) if (node, node) in closure}


def test_a_long_chain_costs_little() -> None:
    """A hundred thousand in a row, and one ring at the end: no recursion, and nobody looks for rings in the row."""
    count = 100_000
    edges = {(number,): [(number + 1,)] for number in range(count)}
    edges[count,] = [(count,)]
    assert rings_in(edges) == [[(count,)]]
