"""Instances of a class with `by=` and a store: one that is ahead of what is saved goes, and takes no other one with it."""

from typing import Any

import pytest
from msgspec import Struct

from flowmesh import ActorContext, Context, Machine, Mesh, Request, on
from flowmesh.testing import settled
from tests.runtime.counting import counts
from tests.runtime.stores import Planted, full

pytestmark = pytest.mark.anyio


class Add(Struct, frozen=True):
    key: str
    number: int


class GetTotal(Struct, Request[int], frozen=True):
    key: str


class Total(Struct, frozen=True):
    sum: int = 0


made: list[str] = []


class Plain:
    """Keeps a sum for each key, and saves it with each ack."""

    def __init__(self) -> None:
        made.append("plain")
        self.total: Total | None = None

    @on
    async def add(self, message: Add, ctx: Context) -> None:
        self.total = self.total or ctx.saved(Total) or Total()
        self.total = Total(self.total.sum + message.number)
        ctx.save(self.total)

    @on
    async def get(self, message: GetTotal, ctx: Context) -> int:
        return (self.total or ctx.saved(Total) or Total()).sum


class Kept(Plain):
    """The same, with a lifespan, and so with a keeper."""

    async def on_start(self, ctx: ActorContext) -> None:
        self.total = ctx.saved(Total)


class Counting(Machine, initial="on"):
    """The same as a machine."""

    data: Total = Total()

    def __init__(self) -> None:
        made.append("machine")

    @on
    async def add(self, message: Add) -> None:
        self.data = Total(self.data.sum + message.number)

    @on
    async def get(self, message: GetTotal) -> int:
        return self.data.sum


@pytest.mark.parametrize("kind", [Plain, Kept, Counting])
async def test_an_instance_whose_state_could_not_be_saved_is_made_anew(kind: Any):
    """It begins with what is saved, and its message is handled again; those of other values live on."""
    made.clear()
    store = Planted()
    mesh = Mesh("shop", store=store)
    totals: Any = mesh.actor(kind, name="totals", by=lambda message: message.key, concurrency=4)
    left = [1]

    def refuses(batch: Any) -> Any:
        if left[0] and batch.kept:
            left[0] -= 1
            return full()
        return None

    async with mesh:
        for key in "ab":
            await totals.tell(Add(key, 1))
        await mesh.idle()
        assert len(made) == 2
        store.refuses = refuses
        await totals.tell(Add("a", 10))
        await mesh.idle()
        await totals.tell(Add("b", 10))
        await totals.tell(Add("a", 100))
        await settled()
        await mesh.idle()
        assert [await totals.ask(GetTotal(key)) for key in "ab"] == [111, 11]
        assert mesh.statistics().actors["totals"].restarts == 1
        assert len(made) == 3
        assert counts(totals.mailbox) == {"entered": 7, "acked": 7}
