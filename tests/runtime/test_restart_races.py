"""What broke prototypes of restarts: cancellations in the worst tick, strays, contexts, everything cancelled anywhere."""

import contextvars
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import ActorContext, Mesh, Restart, Retry, on
from flowmesh._runtime.ground import Phase
from flowmesh.testing import Swept, cancel_sweep, settled

pytestmark = pytest.mark.anyio

AT_ONCE = Restart(max=None, initial=0.0)


class Order(Struct, frozen=True):
    id: int


lines: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


class Kept:
    """Notes its life; fails on order 13."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        await anyio.lowlevel.checkpoint()
        lines.append("start")
        try:
            async with anyio.create_task_group():
                yield
        finally:
            lines.append("stop")

    @on
    async def take(self, order: Order) -> int:
        await anyio.lowlevel.checkpoint()
        if order.id == 13:
            raise OSError("unlucky")
        return order.id


async def cancellation() -> BaseException:
    """Return a cancellation that has done its work."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class() as error:
            return error
    raise AssertionError("it was not cancelled")


async def test_a_cancellation_that_nobody_asked_for():
    """It is a failure of the handler, and `on=(Exception,)` makes the instance anew; the worker and the keeper live on."""
    mesh = Mesh("shop")

    class Stray(Kept):
        @on
        async def take(self, order: Order) -> int:
            if order.id == 13:
                raise await cancellation()
            return order.id

    stray = mesh.actor(Stray, restart=AT_ONCE)
    async with mesh:
        await stray.tell(Order(13))
        assert await stray.ask(Order(1)) == 1
        assert mesh.statistics().actors["Stray"].restarts == 1
    assert lines == ["start", "stop", "start", "stop"]


@pytest.mark.parametrize("steps", range(6))
async def test_a_limit_that_passes_as_the_handler_finishes(steps: int):
    """Whoever is first: the message is settled once, and the instance is made anew only when the limit was."""
    mesh = Mesh("shop")

    class Close(Kept):
        @on
        async def take(self, order: Order) -> int:
            await anyio.sleep(1.0)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            return order.id

    close = mesh.actor(Close, restart=AT_ONCE, timeout=1.0)
    async with mesh:
        await close.tell(Order(1))
        await mesh.idle()
        numbers = close.mailbox.statistics()
        assert numbers.acked + numbers.dead == 1
        await anyio.sleep(1)
        assert mesh.statistics().actors["Close"].restarts == numbers.dead


@pytest.mark.parametrize("steps", range(8))
async def test_taken_down_as_the_handler_finishes(steps: int):
    """A group that goes down in the tick in which a handler ends: its message is handled once or goes back, never both."""
    mesh, handled = Mesh("shop"), list[int]()

    class Beside(Kept):
        @on
        async def take(self, order: Order) -> int:
            for _ in range(4):
                await anyio.lowlevel.checkpoint()
            handled.append(order.id)
            return order.id

    failing, beside = mesh.actor(Kept), mesh.actor(Beside)
    mesh.supervise("both", [failing, beside], strategy="one_for_all")
    async with mesh:
        for number in range(3):
            await beside.tell(Order(number))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        await failing.tell(Order(13))
        await mesh.idle()
        numbers = beside.mailbox.statistics()
        assert (numbers.entered, numbers.acked, numbers.leased, numbers.dead) == (3, 3, 0, 0)
        assert handled == [0, 1, 2]


async def test_nothing_of_a_publishers_context():
    """A worker and a keeper that a publisher's call starts, and every instance after a restart, see the mesh's context."""
    name = contextvars.ContextVar[str]("name", default="nobody")
    mesh, seen = Mesh("shop"), list[str]()

    class Seeing:
        def __init__(self) -> None:
            seen.append(name.get())

        async def on_start(self, ctx: ActorContext) -> None:
            seen.append(name.get())
            name.set("its own")

        @on
        async def take(self, order: Order) -> None:
            seen.append(name.get())
            raise OSError("again")

    name.set("mesh")
    async with mesh:
        name.set("publisher")
        seeing = mesh.actor(Seeing, restart=AT_ONCE)
        await seeing.tell(Order(1))
        await seeing.tell(Order(2))
        await mesh.idle()
        await settled()
    assert seen[:3] == ["mesh"] * 3
    assert set(seen[2::3]) == {"mesh"}, "handlers run on workers"
    assert "publisher" not in seen


async def test_cancelled_anywhere():
    """Wherever entering, crashing, restarting or leaving is cancelled: what has started is stopped, and no message is lost."""
    mesh = Mesh("shop", grace=100)
    alone = mesh.actor(Kept, name="alone", restart=Restart(max=None, initial=0.5, jitter="none"), retry=Retry(2, jitter="none"))
    first, second = mesh.actor(Kept, name="first"), mesh.actor(Kept, name="second")
    begun = list[str]()

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        begun.append("poll")
        if len(begun) % 2:
            raise OSError("poll")

    mesh.supervise("both", [first, poll, second], strategy="one_for_all", max=None)

    async def run() -> None:
        async with mesh:
            for actor in (alone, first, second):
                await actor.tell(Order(13))
                await actor.tell(Order(1))

    async def check(swept: Swept[None]) -> None:
        assert lines.count("start") == lines.count("stop")
        for actor in (alone, first, second):
            numbers = actor.mailbox.statistics()
            assert numbers.leased == numbers.delayed == 0
            assert numbers.entered == numbers.ready + numbers.acked + numbers.dead + numbers.purged
            actor.mailbox.purge()
        mesh.dead_letters.purge()
        assert mesh._engine.keepers.running == {}
        assert mesh._engine.ground.phase in (Phase.NEW, Phase.STOPPED)
        assert not mesh._engine.quiescence.entering
        assert len(mesh._engine.ground.ledger.timers) == 0
        lines.clear()

    assert await cancel_sweep(run, check) > 10


@pytest.mark.parametrize("steps", range(10))
async def test_a_handler_that_fails_as_its_group_goes_down(steps: int):
    """Its instance is handed nothing more, although its keeper has not got to leaving it: the next message has a new one."""
    mesh, go, instances = Mesh("shop"), anyio.Event(), list[tuple[int, int]]()

    class Counted(Kept):
        made = 0

        def __init__(self) -> None:
            Counted.made += 1
            self.number = Counted.made

        @on
        async def take(self, order: Order) -> int:
            instances.append((order.id, self.number))
            if order.id == 13:
                await go.wait()
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                raise OSError("unlucky")
            return order.id

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        await go.wait()
        if Counted.made == 1:
            raise ConnectionError("poll")

    counted = mesh.actor(Counted)
    mesh.supervise("both", [counted, poll], strategy="one_for_all")
    async with mesh:
        await counted.tell(Order(13))
        await counted.tell(Order(1))
        await settled()
        go.set()
        await mesh.idle()
    last = dict(instances)
    assert last[1] > next(number for order, number in instances if order == 13), instances
