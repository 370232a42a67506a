"""Numbers, ages and names in little room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from flowmesh.cli.numbers import short_age, short_count, short_name, short_rate


@pytest.mark.parametrize(
    "count, shown",
    [
        (0, "0"),
        (9_999, "9999"),
        (9_999.6, "10.0k"),
        (10_000, "10.0k"),
        (12_345, "12.3k"),
        (99_949, "99.9k"),
        (99_951, "100k"),
        (999_499, "999k"),
        (999_501, "1.00M"),
        (4_560_000, "4.56M"),
        (9_996_000, "10.0M"),
        (7_000_000_000, "7.00G"),
    ],
)
def test_count(count: float, shown: str) -> None:
    """Counts are whole below ten thousand, then three figures and a unit, whichever way they round."""
    assert short_count(count) == shown


@given(st.integers(0, 10**18))
def test_count_is_never_wide(count: int) -> None:
    """No count has more than five columns."""
    assert len(short_count(count)) <= 5


@pytest.mark.parametrize(
    "rate, shown", [(0, "0"), (0.333, "0.3"), (9.94, "9.9"), (9.96, "10"), (31.4, "31"), (20_000, "20.0k")]
)
def test_rate(rate: float, shown: str) -> None:
    """Small rates have a decimal place."""
    assert short_rate(rate) == shown


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0, "0.0s"),
        (4.21, "4.2s"),
        (9.96, "10s"),
        (99.4, "99s"),
        (99.6, "2m"),
        (5_000, "83m"),
        (5_969, "99m"),
        (5_971, "2h"),
        (170_000, "47h"),
        (172_000, "2d"),
        (99 * 86_400, "99d"),
    ],
)
def test_age(seconds: float, shown: str) -> None:
    """Ages have two figures and a unit."""
    assert short_age(seconds) == shown


@given(st.floats(0, 99 * 86_400))
def test_age_is_never_wide(seconds: float) -> None:
    """No age below a hundred days has more than four columns."""
    assert len(short_age(seconds)) <= 4


@pytest.mark.parametrize(
    "name, width, shown",
    [
        ("parse", 5, "parse"),
        ("orders.europe.placed", 20, "orders.europe.placed"),
        ("orders.europe.placed", 11, "order…laced"),
        ("orders.europe.placed", 10, "order…aced"),
        ("注文支払い発送完了", 10, "注文…完了"),
        ("ab", 1, "…"),
    ],
)
def test_name(name: str, width: int, shown: str) -> None:
    """A name that does not fit loses its middle; wide signs count as two columns."""
    assert short_name(name, width) == shown


@given(st.text(st.characters(exclude_categories=["C", "Z"])), st.integers(3, 40), st.sampled_from(["…", "..."]))
def test_name_fits(name: str, width: int, ellipsis: str) -> None:
    """Whatever the name, it has at most the columns that there are, and is whole if it fits."""
    shown = short_name(name, width, ellipsis)
    assert cell_len(shown) <= width
    assert (shown == name) == (cell_len(name) <= width) or ellipsis in name
