"""A durable mailbox takes what it can give back as what it was, and refuses the rest, whatever it is annotated with."""

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest
from msgspec import Struct

from flowmesh import Mesh, Unencodable
from flowmesh._runtime.fidelity import difference, is_certain
from flowmesh.stores import MemoryStore

pytestmark = pytest.mark.anyio

Value = TypeVar("Value")


class Order(Struct, frozen=True):
    number: int
    before: "Order | None" = None


class Loose(Struct, frozen=True, eq=False):
    part: Any = None
    several: tuple = ()  # type: ignore[type-arg]  # bare


class Numbers(Struct, frozen=True):
    numbers: collections.abc.Sequence[int]


class Exact(Struct, frozen=True):
    kind: Literal["a", 1]
    key: uuid.UUID | None
    lines: dict[str, list[Order]]
    pair: tuple[int, ...]
    when: datetime.datetime
    price: decimal.Decimal
    shared: ClassVar[Any] = None


class Box(Struct, Generic[Value], frozen=True):
    value: Value


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    one: int


class Table(TypedDict):
    one: int


@dataclasses.dataclass(frozen=True)
class Line:
    text: str
    more: Any = None


@dataclasses.dataclass(frozen=True)
class Plain:
    text: str


@pytest.mark.parametrize("annotation", [int, None, list[int], dict[str, Order], Order | None, Exact, Box[int], Plain, Colour])
async def test_what_says_all_is_certain(annotation: Any):
    """Its bodies need not be looked at."""
    assert is_certain(annotation)


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        object,
        list,
        dict,
        tuple,
        dict[str, Any],
        Loose,
        list[Loose],
        Order | Loose,
        Numbers,
        Box,
        Line,
        Pair,
        Table,
    ],
)
async def test_what_leaves_something_open_is_not(annotation: Any):
    """Its bodies are compared with what comes back."""
    assert not is_certain(annotation)


@pytest.mark.parametrize(
    "annotation, body",
    [
        (dict, {"a": [1, 2.5, None, b"x", {"b": True}]}),
        (list, [1, math.nan, "text"]),
        (Loose, Loose([1, {"a": 2}], (1, 2))),
        (Numbers, Numbers([1, 2])),
        (Line, Line("a", [1])),
        (Pair, Pair(1)),
        (Table, {"one": 1}),
        (dict[str, Any], {"one": 1}),
        (Exact, Exact("a", None, {"b": [Order(1, Order(2))]}, (1, 2), datetime.datetime(2026, 1, 1), decimal.Decimal("1.10"))),  # noqa: DTZ001 - naive stays naive
    ],
)
async def test_what_comes_back_as_it_was_is_taken(annotation: Any, body: Any):
    """And comes back so."""
    store, seen = MemoryStore(), list[Any]()

    async def work(body: Any) -> None:
        seen.append(body)

    work.__annotations__["body"] = annotation
    for is_first in (True, False):
        mesh = Mesh("shop", store=store)
        actor = mesh.actor(work)
        async with mesh:
            if is_first:
                actor.pause()
                await actor.tell(body)
            else:
                await mesh.idle()
    assert difference(body, seen[0]) is None


@pytest.mark.parametrize(
    "annotation, body, part",
    [
        (dict, {"a": {"b": (1, 2)}}, r"its part \['a'\]\['b'\] is a tuple, not a list"),
        (dict, {"o": Order(1)}, r"its part \['o'\] is a Order, not a dict"),
        (dict, {"s": {1}}, r"its part \['s'\] is a set, not a list"),
        (list, [Order(1)], r"its part \[0\] is a Order, not a dict"),
        (Loose, Loose(Order(2)), r"its part .part is a Order, not a dict"),
        (Loose, Loose(several=(1, (2, 3))), r"its part .several\[1\] is a tuple, not a list"),
        (Numbers, Numbers((1, 2)), r"its part .numbers is a tuple, not a list"),
        (Line, Line("a", uuid.UUID(int=1)), r"its part .more is a UUID, not a str"),
        (dict[str, Any], {"when": Colour.RED}, r"its part \['when'\] is a Colour, not a int"),
    ],
)
async def test_what_would_come_back_as_something_else_is_refused(annotation: Any, body: Any, part: str):
    """When it is sent, naming the part; no mailbox has a copy."""
    mesh = Mesh("shop", store=MemoryStore())

    async def work(body: Any) -> None: ...

    work.__annotations__["body"] = annotation
    actor = mesh.actor(work)
    async with mesh:
        with pytest.raises(Unencodable, match=part):
            await actor.tell(body)
        assert actor.mailbox.statistics().entered == 0


@pytest.mark.parametrize("value", [(1, 2), {1}, Order(1), {"a": (1,)}, uuid.UUID(int=1)])
async def test_a_header_that_would_come_back_as_something_else_is_refused(value: Any):
    """Naming it."""
    mesh = Mesh("shop", store=MemoryStore())
    mesh.mailbox("work")
    async with mesh:
        with pytest.raises(
            Unencodable, match=r"cannot store header 'odd' of message .*: it|cannot store header 'odd' of .*its part"
        ):
            await mesh.exchange("").publish(1, "work", headers={"fine": [1, {"a": None}], "odd": value})
        await mesh.exchange("").publish(1, "work", headers={"fine": [1, {"a": None}]})


async def test_differences_of_structs_that_are_equal_only_to_themselves():
    """They are compared by their parts."""
    assert difference(Loose([1]), msgspec.msgpack.decode(msgspec.msgpack.encode(Loose([1])), type=Loose)) is None
    assert difference(Loose([1]), Loose([2])) == "its part .part[0] is 1, not 2"
    assert difference([1], [1, 2]) is not None
