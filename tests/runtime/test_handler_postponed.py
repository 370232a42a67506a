"""Handlers in a module whose annotations are all texts (`from __future__ import annotations`)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from flowmesh import Context, InvalidHandler, Mesh, WrongBody

pytestmark = pytest.mark.anyio


async def test_postponed_annotations():
    """Names of the module, of the declaring function and of what encloses it are found; Context is injected."""
    mesh = Mesh()

    class Outer(Struct, frozen=True):
        id: int

    def declare():
        class Inner(Struct, frozen=True):
            outer: int

        @mesh.actor
        async def inner(body: Inner, ctx: Context) -> int:
            return body.outer + ctx.attempt

        @mesh.actor(name="enclosing")
        async def enclosing(body: Outer | None) -> int:
            return 0 if body is None else Outer(body.id).id

        return Inner, inner, enclosing

    reliable = mesh.actor(concurrency=2)

    @reliable
    async def in_module(body: ModuleWide, *, ctx: Context) -> int:
        return body.id + ctx.attempt

    @reliable
    async def nothing(_: None, ctx: Context) -> int:
        return ctx.attempt

    inner_type, inner, enclosing = declare()
    async with mesh:
        assert await inner.ask(inner_type(5)) == 6
        assert await enclosing.ask(Outer(3)) == 3
        assert await enclosing.ask(None) == 0
        assert await in_module.ask(ModuleWide(1)) == 2
        assert await nothing.ask(None) == 1
        wrong: Any = 5
        with pytest.raises(WrongBody, match=r"actor 'enclosing' takes .*Outer \| None, not int: 5"):
            await enclosing.ask(wrong)


async def test_missing_annotations_are_missed():
    """A postponed annotation that is missing, or is the Context, fails at declaration as any other."""
    mesh = Mesh()

    async def missing(body): ...

    async def first(ctx: Context): ...

    with pytest.raises(InvalidHandler, match="does not say what 'body' is"):
        mesh.actor(missing)
    with pytest.raises(InvalidHandler, match="takes a Context first"):
        mesh.actor(first)


class ModuleWide(Struct, frozen=True):
    id: int
