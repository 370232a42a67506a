"""`ctx.save` and `ctx.saved`: an actor's state, replaced with the ack; it survives restarts, and runs of the same mesh."""

from typing import Any, cast

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    ActorContext,
    AlreadySettled,
    CommitSummary,
    Context,
    Mesh,
    Observer,
    PreconditionFailed,
    Request,
    Restart,
    on,
)

pytestmark = pytest.mark.anyio


class State(Struct):
    total: int = 0
    orders: list[int] = []


class Other(Struct):
    name: str


class Add(Struct, frozen=True):
    number: int
    fails: str = ""


class GetTotal(Struct, Request[int], frozen=True):
    pass


class Totals:
    """Saves after each order; fails before or after it has saved, if told to."""

    async def on_start(self, ctx: ActorContext) -> None:
        self.state = ctx.saved(State) or State()

    @on
    async def add(self, message: Add, ctx: Context) -> State | None:
        self.state.total += message.number
        self.state.orders.append(message.number)
        if message.fails == "before":
            raise OSError("before")
        ctx.save(self.state)
        self.state.total += 1000 if message.fails == "changed" else 0
        if message.fails == "after":
            raise OSError("after")
        return ctx.saved(State)

    @on
    async def get(self, _: GetTotal) -> int:
        return self.state.total


def declare(mesh: Mesh) -> Any:
    """Declare it, to be made anew at once."""
    return mesh.actor(Totals, restart=Restart(initial=0.0))


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_it_takes_effect_with_the_ack_or_not_at_all(fails: str):
    """A handler that fails has saved nothing; the next instance goes on from the turn before it."""
    mesh = Mesh("shop")
    totals = declare(mesh)
    async with mesh:
        await totals.ask(Add(1))
        await totals.ask(Add(2))
        with pytest.raises(OSError, match=fails):
            await totals.ask(Add(100, fails))
        assert await totals.ask(GetTotal()) == 3
        assert await totals.ask(Add(4)) == State(3, [1, 2]), "within a turn the state before it is what is saved"
        assert await totals.ask(GetTotal()) == 7


async def test_an_instance_shares_nothing_with_what_is_saved():
    """What a handler does to its state after saving it is not in it; neither is what the next one does to what it gets."""
    mesh = Mesh("shop")
    totals = declare(mesh)
    async with mesh:
        await totals.ask(Add(1, "changed"))
        assert await totals.ask(GetTotal()) == 1001
        with pytest.raises(OSError, match="before"):
            await totals.ask(Add(1, "before"))
        assert await totals.ask(GetTotal()) == 1


async def test_it_survives_runs_of_the_mesh():
    """Each run's instance finds what the last one's saved; another mesh has its own."""
    mesh = Mesh("shop")
    totals = declare(mesh)
    for expected in (5, 10, 15):
        async with mesh:
            await totals.ask(Add(5))
            assert await totals.ask(GetTotal()) == expected
    other = Mesh("shop")
    totals = declare(other)
    async with other:
        assert await totals.ask(GetTotal()) == 0


async def test_outputs_and_state_in_one_commit():
    """An observer sees one commit for the ack and what goes with it."""
    commits = list[Any]()

    class Seen(Observer):
        def committed(self, summary: CommitSummary) -> None:
            commits.append((summary.settled, summary.entered))

    mesh = Mesh("shop", observers=[Seen()])

    @mesh.actor
    async def sink(number: int) -> None: ...

    class Saving:
        @on
        async def add(self, message: Add, ctx: Context) -> None:
            ctx.save(State(message.number))
            ctx.tell(sink, message.number)

    saving = mesh.actor(Saving)
    async with mesh:
        await saving.tell(Add(1))
        await mesh.idle()
    assert (1, 1) in commits


async def test_state_of_another_type():
    """It is decoded as the type that is asked for: new fields with defaults are filled in; what does not fit is refused."""
    mesh, found = Mesh("shop"), list[object]()

    class Grown(Struct):
        total: int
        currency: str = "EUR"

    class Saving:
        @on
        async def add(self, message: Add, ctx: Context) -> None:
            if ctx.saved(State) is None:
                ctx.save(State(message.number))
                return
            found.append(ctx.saved(Grown))
            with pytest.raises(
                PreconditionFailed, match=r"what actor 'Saving' has saved is no .*Other: .*missing required field"
            ):
                ctx.saved(Other)

    saving = mesh.actor(Saving)
    async with mesh:
        await saving.ask(Add(3))
        await saving.ask(Add(3))
    assert found == [Grown(3, "EUR")]


async def test_what_cannot_be_saved():
    """A function has no state; what is no Struct, or cannot be encoded, is refused in the call; so is a turn that has ended."""
    mesh, kept = Mesh("shop"), list[Context]()

    class Unencodable(Struct):
        thing: Any

    @mesh.actor
    async def function(number: int, ctx: Context) -> None:
        for call in (lambda: ctx.save(State()), lambda: ctx.saved(State)):
            with pytest.raises(PreconditionFailed, match="actor 'function' is a function, which has no state to save"):
                call()

    class Saving:
        @on
        async def add(self, message: Add, ctx: Context) -> None:
            kept.append(ctx)
            with pytest.raises(TypeError, match=r"actor 'Saving' saves a msgspec.Struct, not \{'total': 1\}"):
                ctx.save(cast("Any", {"total": 1}))
            with pytest.raises(TypeError, match=r"actor 'Saving' cannot save Unencodable.*object.*; save what msgspec encodes"):
                ctx.save(Unencodable(object()))

    saving = mesh.actor(Saving)
    async with mesh:
        await function.ask(1)
        await saving.ask(Add(1))
        with pytest.raises(AlreadySettled):
            kept[0].save(State())
        with anyio.fail_after(1):
            await mesh.idle()
