"""Placement by hash: where a value goes, in what proportion, and how little moves when something comes or goes."""

import subprocess
import sys
from collections import Counter
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.hashing import Placement, hashed_bytes
from tests.core.reference import belongs

MANY = [f"order-{number}".encode() for number in range(20_000)]
CHI_SQUARE_AT_ONE_IN_A_THOUSAND = {1: 10.83, 3: 16.27, 9: 27.88}  # by degrees of freedom
names = st.text(min_size=1, max_size=3)


class Colour(Enum):
    RED = "red"


def _placement(weights: dict[str, int]) -> Placement[str]:
    placement: Placement[str] = Placement()
    for name, weight in weights.items():
        placement.set(name, name, weight)
    return placement


def test_nothing_to_choose_from() -> None:
    """Without a thing there is no placement."""
    with pytest.raises(LookupError, match="nothing to choose from"):
        Placement[str]().place(b"x")


@given(weights=st.dictionaries(names, st.integers(1, 10**9), min_size=1, max_size=6), values=st.lists(st.binary(max_size=4)))
def test_placement_is_as_the_rule_says(weights: dict[str, int], values: list[bytes]) -> None:
    """Each value goes where the plain statement of the rule puts it, in whatever order things came."""
    backwards = _placement(dict(reversed(weights.items())))
    for value in values:
        assert _placement(weights).place(value) == backwards.place(value) == belongs(value, weights)


@pytest.mark.parametrize(
    "weights", [{"a": 1, "b": 1}, {"a": 1, "b": 99}, {"a": 10, "b": 10, "c": 20, "d": 20}, dict.fromkeys("abcdefghij", 7)]
)
def test_shares_are_proportional_to_weights(weights: dict[str, int]) -> None:
    """Twenty thousand values are spread like weighted draws: chi-square stays below its 99.9th percentile. Not random."""
    found = Counter(_placement(weights).place(value) for value in MANY)
    expected = {name: len(MANY) * weight / sum(weights.values()) for name, weight in weights.items()}
    chi_square = sum((found[name] - share) ** 2 / share for name, share in expected.items())
    assert chi_square < CHI_SQUARE_AT_ONE_IN_A_THOUSAND[len(weights) - 1]


@given(
    weights=st.dictionaries(names, st.integers(1, 9), min_size=1, max_size=5),
    newcomer=st.tuples(st.text(min_size=4, max_size=5), st.integers(1, 9)),
    values=st.lists(st.binary(max_size=6), max_size=40),
)
def test_what_comes_or_goes_moves_only_its_own(weights: dict[str, int], newcomer: tuple[str, int], values: list[bytes]) -> None:
    """A thing that comes takes from the others, one that goes gives back; between the others nothing moves."""
    placement, (name, weight) = _placement(weights), newcomer
    before = [placement.place(value) for value in values]
    placement.set(name, name, weight)
    assert all(after in (was, name) for was, after in zip(before, map(placement.place, values), strict=True))
    placement.remove(name)
    assert [placement.place(value) for value in values] == before


def test_a_newcomer_takes_its_share() -> None:
    """The fifth of five equal things takes a fifth of the values, within two percent of all."""
    placement = _placement(dict.fromkeys("abcd", 1))
    before = [placement.place(value) for value in MANY]
    placement.set("e", "e", 1)
    moved = sum(was != placement.place(value) for was, value in zip(before, MANY, strict=True))
    assert abs(moved / len(MANY) - 0.2) < 0.02


def test_another_weight_moves_only_to_or_from_that_thing() -> None:
    """A thing that is given more weight takes from the others; it loses nothing."""
    placement = _placement({"a": 1, "b": 1, "c": 1})
    before = [placement.place(value) for value in MANY[:2000]]
    placement.set("b", "b", 3)
    assert len(placement) == 3
    assert all(after in (was, "b") for was, after in zip(before, map(placement.place, MANY[:2000]), strict=True))


PINNED = "ccdabddbcabcdcddbbcdccddbdcccdbc"


def test_places_never_change() -> None:
    """Places are a promise: this text was written down once, and no release may differ from it."""
    placement = _placement({"a": 1, "b": 2, "c": 3, "d": 4})
    assert "".join(placement.place(f"key-{number}".encode()) for number in range(32)) == PINNED


def test_places_do_not_depend_on_the_process() -> None:
    """Another interpreter, with another seed for Python's own hashes, finds the same places."""
    program = (
        "from flowmesh._core.hashing import Placement\n"
        "placement = Placement()\n"
        "for name, weight in {'d': 4, 'c': 3, 'b': 2, 'a': 1}.items(): placement.set(name, name, weight)\n"
        "print(''.join(placement.place(f'key-{number}'.encode()) for number in range(32)))"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=False,
        )
        assert found.stdout.decode().strip() == PINNED, found.stderr


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value, expected",
    [
        ("ü", "ü".encode()),
        ("\ud800", b"\xed\xa0\x80"),
        (None, b"null"),
        (7, b"7"),
        (True, b"true"),
        (1.5, b"1.5"),
        (b"x", b'"eA=="'),
        ({"b": 1, "a": [2]}, b'{"a":[2],"b":1}'),
        (Colour.RED, b'"red"'),
        (object(), b"null"),
        ({1, (2, object())}, b"null"),
        (_nested(100_000), b"null"),
    ],
    ids=range(12),
)
def test_what_is_hashed(value: object, expected: bytes) -> None:
    """A text as it is, other values as JSON, and what has none as if it were missing."""
    assert hashed_bytes(value) == expected
