"""Supervision in 200 orders of what may happen in any order: no message is lost, and groups keep their order."""

from typing import Any

import anyio
import anyio.lowlevel
import msgspec
from msgspec import Struct

from flowmesh import ActorContext, Context, Mesh, Restart, Retry, on
from flowmesh._core.commits import Owner
from flowmesh.testing import explore

MEMBERS = "abcd"
MESSAGES = 12


class Add(Struct, frozen=True):
    number: int


class State(Struct):
    total: int = 0


async def crashing() -> None:
    """Run groups of actors that fail now and then, send to all of them, and stop one; check what is left."""
    mesh, up, told = Mesh("shop"), set[str](), list[str]()

    class Totals:
        name = ""

        async def on_start(self, ctx: ActorContext) -> None:
            await anyio.lowlevel.checkpoint()
            self.state = ctx.saved(State) or State()
            up.add(self.name)
            ctx.timer("tick", 0.3, Add(0))

        async def on_stop(self) -> None:
            up.discard(self.name)
            await anyio.lowlevel.checkpoint()

        @on
        async def add(self, message: Add, ctx: Context) -> None:
            self.state.total += message.number
            await anyio.lowlevel.checkpoint()
            if message.number % 5 == 3 and ctx.attempt == 1:
                raise OSError("in the middle")
            ctx.save(self.state)

    def declare(name: str, restart: Restart | None = None) -> Any:
        kind = type("Totals", (Totals,), {"name": name})
        return mesh.actor(kind, name=name, restart=restart, retry=Retry(3, initial=0.2))

    polled = list[int]()

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        polled.append(1)
        await anyio.sleep(0.1)
        if len(polled) < 4:
            raise ConnectionError("poll")

    a, b = declare("a"), declare("b")
    c, d = declare("c", restart=Restart(max=1, within=0.5, initial=0.1)), declare("d")
    inner = mesh.supervise("inner", [c, d], strategy="rest_for_one", max=2)
    mesh.supervise("outer", [a, poll, b, inner], strategy="one_for_all", max=None)

    @mesh.actor
    class Watching:
        async def on_start(self, ctx: ActorContext) -> None:
            ctx.watch(b, "gone")

        @on
        async def gone(self, text: str) -> None:
            told.append(text)

    async with mesh:
        async with anyio.create_task_group() as group:
            for actor in (a, b, c, d):

                async def send(actor: Any = actor) -> None:
                    for number in range(MESSAGES):
                        await actor.tell(Add(number))
                        await anyio.sleep(0.05)

                group.start_soon(send)
        await mesh.idle()
        await anyio.sleep(60)
        assert up == set(MEMBERS)
        await b.stop()
        await mesh.idle()
    assert up == set()
    assert told == ["gone"]
    assert len(mesh.dead_letters.list()) == 0
    for actor in (a, b, c, d):
        numbers = actor.mailbox.statistics()
        assert numbers.leased == numbers.delayed == numbers.ready == 0
        assert numbers.entered == numbers.acked + numbers.withdrawn >= MESSAGES
    saved = mesh._engine.ground.ledger.saved
    totals = {name: msgspec.msgpack.decode(saved[Owner(name)], type=State).total for name in MEMBERS}
    assert totals == dict.fromkeys(MEMBERS, sum(range(MESSAGES))), "each message counts once, whatever instance it met"


def test_no_order_loses_anything():
    """Each message is handled in the end; everything is down at the end."""
    assert explore(crashing, seeds=100) == 200
