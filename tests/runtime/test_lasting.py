"""What `by=` may give for a store to find it again: equal values are one, whatever they were written as."""

import datetime
import enum
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from flowmesh import Context, Mesh, on
from flowmesh._runtime.lasting import is_lasting, packed, unpacked

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Plain(enum.Enum):
    ONE = 1


SIMPLE: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**64), 2**65),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0, 3.0, 2.0**63, 2.0**64, 1e300]),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([Colour.RED, Size.LARGE, Plain.ONE, "red", 3, "\ud800"]),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, datetime.UTC, BERLIN, datetime.timezone(datetime.timedelta(hours=3))])),
)
VALUES = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


def written(value: Any) -> bytes:
    """Return what the store is given."""
    return msgspec.msgpack.encode(packed(value))


@given(VALUES)
def test_what_comes_back_is_equal(value: Any) -> None:
    """And is found where the value was."""
    if is_lasting(value):
        found = unpacked(msgspec.msgpack.decode(written(value)))
        assert found == value
        assert hash(found) == hash(value)
        assert is_lasting(found)
        assert written(found) == written(value)


@given(VALUES, VALUES)
def test_equal_values_are_written_alike(one: Any, other: Any) -> None:
    """1, 1.0 and True are one value of `by=`, as they are one key of a dict; and no others are."""
    if is_lasting(one) and is_lasting(other):
        assert (written(one) == written(other)) == (one == other)


@pytest.mark.parametrize(
    "value",
    [
        Plain.ONE,
        frozenset({1}),
        float("nan"),
        2**64,
        "\ud800",
        ("a", float("nan")),
        datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=3))),
    ],
)
def test_what_is_not_lasting(value: Any) -> None:
    """It would come back as something else, or not at all: an hour that comes twice is equal to none in another zone."""
    assert not is_lasting(value)


def test_what_a_newer_version_has_written() -> None:
    """It is left alone."""
    with pytest.raises(ValueError, match="kind 99 is not known to this version"):
        unpacked(["a", msgspec.msgpack.Ext(99, b"")])


class Add(Struct, frozen=True):
    text: str


class Total(Struct, frozen=True):
    count: int = 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    "by",
    [
        lambda add: uuid.uuid5(uuid.NAMESPACE_OID, add.text),
        lambda add: (Colour.RED, datetime.date(2026, 1, 1), add.text),
        lambda add: datetime.datetime(2026, 1, 1, 12, tzinfo=BERLIN),
        lambda add: Size.LARGE,
    ],
)
async def test_state_is_found_again(by: Callable[[Any], Any], tmp_path: Path) -> None:
    """By the next process, for values that are not what MessagePack knows."""
    counts: list[int] = []

    class Totals:
        @on
        async def add(self, message: Add, ctx: Context) -> None:
            total = Total((ctx.saved(Total) or Total()).count + 1)
            ctx.save(total)
            counts.append(total.count)

    for _ in range(3):
        mesh = Mesh("shop", store=tmp_path / "shop.db")
        totals = mesh.actor(Totals, by=by)
        async with mesh:
            await totals.tell(Add("a"))
            await mesh.idle()
    assert counts == [1, 2, 3]
