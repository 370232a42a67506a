"""A door, as the tests of state machines have it: locked, closed or open, and what it has done."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from flowmesh import (
    Context,
    Machine,
    Mesh,
    Request,
    after,
    enter,
    on,
)

__all__ = ["Close", "Door", "GetState", "Lock", "Open", "Unlock", "Visits", "door", "lines", "numbers"]


class Unlock(Struct, frozen=True):
    fails: bool = False


class Lock(Struct, frozen=True):
    pass


class Open(Struct, Request[int], frozen=True):
    number: int = 0


class Close(Struct, frozen=True):
    pass


class GetState(Struct, Request[str], frozen=True):
    pass


class Visits(Struct, frozen=True):
    count: int = 0


lines: list[Any] = []


class Door(Machine, initial="locked"):
    """Opens when it is unlocked, and shuts after a while."""

    data: Visits = Visits()

    @on("locked", to="closed", ignore=("closed", "open"))
    async def unlock(self, message: Unlock, ctx: Context) -> None:
        self.data = replace(self.data, count=self.data.count + 100)
        if message.fails:
            raise OSError("the key is bent")
        lines.append(("unlock", self.state, ctx.attempt))

    @on("closed", "open", to="locked", refuse="locked")
    async def lock(self, message: Lock) -> None:
        lines.append("lock")

    @on("closed", to="open", postpone="locked", refuse="open")
    async def open(self, message: Open, ctx: Context) -> int:
        self.data = replace(self.data, count=self.data.count + 1)
        lines.append(("open", message.number, ctx.attempt, ctx.redelivered))
        return self.data.count

    @on
    async def get_state(self, _: GetState) -> str:
        return self.state

    @on("open", to="open", ignore=("locked", "closed"))
    async def hold(self, _: Close) -> None:
        lines.append("held open")

    @enter("open")
    async def opened(self) -> None:
        lines.append(("entered", self.state, self.data.count))

    @after(30.0, "open", to="closed")
    async def shut(self, ctx: Context) -> None:
        lines.append(("shut", self.state))


@contextlib.asynccontextmanager
async def door(kind: type[Machine] = Door, **options: Any) -> AsyncGenerator[Any]:
    """A door of a mesh that runs."""
    mesh = Mesh("house", grace=1.0)
    actor = mesh.actor(kind, name="door", **options)
    async with mesh:
        yield actor


def numbers(actor: Any) -> Any:
    """What the statistics say of an actor."""
    return actor.engine.statistics().actors[actor.name]
