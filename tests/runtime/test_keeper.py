"""Keepers: the lifespan of a class actor, entered and left by one task, around all of its handlers."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import ActorContext, DeadlockError, InvalidHandler, Mesh, MeshStopped, on
from flowmesh._runtime.ground import Phase
from flowmesh.testing import Swept, cancel_sweep, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


lines: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


def task() -> int:
    """The current task."""
    return anyio.get_current_task().id


class Kept:
    """Notes its life."""

    name = "kept"
    entering = leaving = 1.0
    fails: tuple[str, ...] = ()

    async def on_start(self) -> None:
        await anyio.sleep(self.entering)
        if "start" in self.fails:
            raise OSError(f"{self.name} does not start")
        lines.append(f"start {self.name}")

    async def on_stop(self) -> None:
        lines.append(f"stop {self.name}")
        await anyio.sleep(self.leaving)
        if "stop" in self.fails:
            raise OSError(f"{self.name} does not stop")
        lines.append(f"stopped {self.name}")

    @on
    async def take(self, order: Order) -> int:
        await anyio.sleep(order.id)
        lines.append(f"handled {order.id} {self.name}")
        return order.id


def kept(mesh: Mesh, name: str, **changes: Any) -> Any:
    """Declare an actor whose class is Kept, with these class attributes."""
    return mesh.actor(type("Kept", (Kept,), {"name": name, **changes}), name=name)


async def test_a_lifespan_surrounds_the_handlers_in_one_task(caplog: pytest.LogCaptureFixture):
    """It is entered before the first message and left after the last, by one task of its own, with a context of the actor."""
    caplog.set_level(logging.INFO, "flowmesh.shop")
    mesh, tasks = Mesh("shop"), list[int]()

    class Totals:
        def __init__(self) -> None:
            tasks.append(task())

        @asynccontextmanager
        async def lifespan(self, ctx: ActorContext) -> AsyncGenerator[None]:
            ctx.log.info("entering %d", ctx.statistics.mailboxes["Totals"].ready)
            lines.append(f"enter {ctx.name}")
            tasks.append(task())
            yield
            tasks.append(task())
            lines.append("leave")

        @on
        async def take(self, order: Order) -> None:
            await anyio.sleep(order.id)
            tasks.append(task())
            lines.append("handled")

    totals = mesh.actor(Totals)
    async with mesh:
        await totals.tell(Order(3))
        await totals.tell(Order(3))
    assert lines == ["enter Totals", "handled", "handled", "leave"]
    making, entering, handling, _, leaving = tasks
    assert making == entering == leaving
    assert handling not in (entering, task())
    assert entering != task()
    assert "[Totals] entering 0" in caplog.messages


async def test_on_start_and_on_stop():
    """They are the same as a lifespan, and either may be missing; a fresh instance for each run of the mesh."""
    mesh, instances = Mesh("shop"), set[int]()

    class Starting:
        async def on_start(self, ctx: ActorContext) -> None:
            self.name = ctx.name
            instances.add(id(self))

        @on
        async def take(self, order: Order) -> str:
            keep.append(self)
            return self.name

    class Stopping:
        async def on_stop(self, ctx: ActorContext) -> None:
            lines.append(f"stopped {ctx.name}")

        @on
        async def take(self, order: Order) -> None: ...

    keep: list[Starting] = []
    starting = mesh.actor(Starting, name="first")
    mesh.actor(Stopping)
    for _ in range(2):
        async with mesh:
            assert await starting.ask(Order(1)) == "first"
    assert len(instances) == 2
    assert lines == ["stopped Stopping"] * 2


async def test_started_in_order_and_left_in_reverse():
    """Each is ready before the next one starts, all before sources and the body; at the drain the last one leaves first."""
    mesh = Mesh("shop")
    first, second = kept(mesh, "first"), kept(mesh, "second")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        lines.append("source")

    began = anyio.current_time()
    async with mesh:
        assert anyio.current_time() == began + 2
        lines.append("body")
        await settled()
        await first.tell(Order(2))
        await second.tell(Order(1))
    assert lines == [
        *("start first", "start second", "body", "source", "handled 1 second", "handled 2 first"),
        *("stop second", "stopped second", "stop first", "stopped first"),
    ]


async def test_a_hook_may_use_the_actors_before_it():
    """While an actor starts, workers run: it may ask those that were declared before it, and what is sent to it waits."""
    mesh = Mesh("shop")

    @mesh.actor
    async def double(number: int) -> int:
        return 2 * number

    class Totals:
        async def on_start(self) -> None:
            await totals.tell(Order(1))
            self.total = await double.ask(10)

        @on
        async def take(self, order: Order) -> None:
            self.total += order.id

        @on
        async def get(self, _: None) -> int:
            return self.total

    totals = mesh.actor(Totals)
    async with mesh:
        assert await totals.ask(None) == 21


async def test_declared_while_the_mesh_runs():
    """It starts then; its messages wait until it is ready, and the mesh is not idle before they are handled."""
    mesh = Mesh("shop")
    async with mesh:
        late = kept(mesh, "late", entering=5.0)
        await late.tell(Order(1))
        assert lines == []
        await mesh.idle()
        assert lines == ["start late", "handled 1 late"]
        kept(mesh, "unneeded", entering=50.0)
        await settled()
        await mesh.idle()
        assert lines[2:] == [], "one that starts without having anything to do does not count"
    assert lines[2:] == ["stop late", "stopped late"], "and the drain does not wait until it has started"


async def test_a_task_group_inside_a_lifespan():
    """Its tasks run beside the handlers, and end when the lifespan does."""
    mesh = Mesh("shop")

    class Beating:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as group:
                group.start_soon(self.beat)
                with anyio.CancelScope() as scope:
                    yield
                assert not scope.cancel_called
                group.cancel_scope.cancel()
            lines.append("left")

        async def beat(self) -> None:
            while True:
                await anyio.sleep(1)
                lines.append("beat")

        @on
        async def take(self, order: Order) -> None:
            await anyio.sleep(order.id)

    beating = mesh.actor(Beating)
    async with mesh:
        await beating.tell(Order(2))
        await anyio.sleep(2.5)
    assert lines == ["beat", "beat", "left"]


async def test_stop_finishes_and_leaves():
    """`stop` waits for the handler in hand, then for the lifespan; what waits in the mailbox stays."""
    mesh = Mesh("shop")
    actor = kept(mesh, "one")
    async with mesh:
        await actor.tell(Order(3))
        await actor.tell(Order(4))
        await settled()
        await actor.stop()
        assert lines == ["start one", "handled 3 one", "stop one", "stopped one"]
        await actor.stop()
        assert counts(actor.mailbox) == {"entered": 2, "acked": 1, "ready": 1}
    assert len(lines) == 4


async def test_stop_that_is_cancelled():
    """The actor stops all the same, and leaves its lifespan."""
    mesh = Mesh("shop")
    actor = kept(mesh, "one")
    async with mesh:
        await actor.tell(Order(3))
        await settled()
        with anyio.move_on_after(1):
            await actor.stop()
        assert lines == ["start one"]
        await anyio.sleep(5)
        assert lines == ["start one", "handled 3 one", "stop one", "stopped one"]


async def test_stop_while_it_starts():
    """It starts to the end, handles nothing, and leaves."""
    mesh = Mesh("shop")
    async with mesh:
        actor = kept(mesh, "one")
        await actor.tell(Order(1))
        await settled()
        await actor.stop()
        assert lines == ["start one", "stop one", "stopped one"]


async def test_stop_from_its_own_lifespan():
    """It would wait for itself."""
    mesh = Mesh("shop")

    class Impatient:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as group:
                group.start_soon(self.stop)
                yield

        async def stop(self) -> None:
            with pytest.raises(DeadlockError, match="would wait for itself to stop"):
                await actor.stop()
            lines.append("refused")

        @on
        async def take(self, order: Order) -> None: ...

    actor = mesh.actor(Impatient)
    async with mesh:
        await settled()
    assert lines == ["refused"]


async def test_a_paused_actor_stays_paused():
    """Being ready does not resume it."""
    mesh = Mesh("shop")
    actor = kept(mesh, "one")
    actor.pause()
    async with mesh:
        await actor.tell(Order(1))
        await anyio.sleep(1)
        assert lines == ["start one"]
        actor.resume()
        await mesh.idle()
        assert lines == ["start one", "handled 1 one"]


# Failures


@pytest.mark.parametrize("where", ["init", "start", "lifespan", "no manager"])
async def test_one_that_fails_to_start(where: str):
    """The mesh does not start, with that error bare; those that have started leave, and nothing else has begun."""
    mesh, broken = Mesh("shop"), [True]
    kept(mesh, "first")

    class Fragile:
        def __init__(self) -> None:
            if where == "init" and broken:
                raise OSError("broken")

        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            await anyio.sleep(1)
            if where == "lifespan" and broken:
                raise OSError("broken")
            yield

        @on
        async def take(self, order: Order) -> None: ...

    class NoManager(Fragile):
        def lifespan(self) -> Any:
            raise OSError("broken")

    if where == "start":
        kept(mesh, "broken", fails=("start",))
    else:
        mesh.actor(NoManager if where == "no manager" else Fragile)
    kept(mesh, "last")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        lines.append("source")

    with pytest.raises(OSError, match="broken") as caught:
        async with mesh:
            pytest.fail("it must not start")
    assert type(caught.value) is OSError
    assert lines == ["start first", "stop first"], "a mesh that fails stops at once, so its on_stop is cancelled where it waits"
    assert mesh._engine.ground.phase is Phase.STOPPED
    assert mesh._engine.keepers.running == {}
    with pytest.raises(MeshStopped) as refused:
        await mesh._engine.sending.send(mesh.exchange("").core, 1, "first", {})
    assert refused.value.__cause__ is caught.value
    if where in ("init", "lifespan"):
        broken.clear()
        lines.clear()
        async with mesh:
            await settled()
        assert lines[:3] == ["start first", "start last", "source"]


async def test_one_that_fails_to_start_while_the_mesh_runs():
    """The mesh stops by itself, with that error bare."""
    mesh = Mesh("shop")
    with pytest.raises(OSError, match="late does not start"):  # noqa: PT012 - the mesh is left by it
        async with mesh:
            kept(mesh, "late", fails=("start",))
            await anyio.sleep_forever()


async def test_one_that_fails_to_stop():
    """The others leave in good order; then the error leaves the mesh, bare, or in a group if several fail."""
    mesh = Mesh("shop")
    kept(mesh, "first", fails=("stop",))
    kept(mesh, "second")
    with pytest.raises(OSError, match="first does not stop"):
        async with mesh:
            pass
    third = kept(mesh, "third", fails=("stop",))
    kept(mesh, "fourth")
    lines.clear()
    with pytest.raises(ExceptionGroup) as caught:
        async with mesh:
            await third.ask(Order(1))
    assert [str(error) for error in caught.value.exceptions] == ["third does not stop", "first does not stop"]
    leaving = ["stop fourth", "stopped fourth", "stop third", "stop second", "stopped second", "stop first"]
    assert lines[-6:] == leaving


async def test_stop_of_one_that_fails_to_stop():
    """While the mesh runs it stops the mesh."""
    mesh = Mesh("shop")
    actor = kept(mesh, "one", fails=("stop",))
    with pytest.raises(OSError, match="one does not stop"):  # noqa: PT012 - the mesh is left by it
        async with mesh:
            await actor.stop()
            await anyio.sleep_forever()


async def test_a_lifespan_that_fails_under_its_handler():
    """Its error stops the mesh; the handler that runs is cancelled and ends first, and its message stays."""
    mesh = Mesh("shop")

    class Failing:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self.fail)
                    yield
            finally:
                lines.append("left")

        async def fail(self) -> None:
            await anyio.sleep(5)
            raise OSError("no pulse")

        @on
        async def take(self, order: Order) -> None:
            try:
                await anyio.sleep(order.id)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                lines.append("handler ended")

    failing = mesh.actor(Failing)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the mesh is left by it
        async with mesh:
            await failing.tell(Order(100))
            await failing.tell(Order(100))
            await anyio.sleep_forever()
    assert [str(error) for error in caught.value.exceptions] == ["no pulse"]
    assert lines == ["handler ended", "left"]
    assert counts(failing.mailbox) == {"entered": 2, "ready": 2}


async def test_a_lifespan_that_ends_by_itself():
    """An actor without its lifespan cannot go on: the mesh stops, naming it."""
    mesh = Mesh("shop")

    class Short:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            with anyio.move_on_after(5):
                yield

        @on
        async def take(self, order: Order) -> None: ...

    mesh.actor(Short)
    with pytest.raises(RuntimeError, match="lifespan of actor 'Short' has ended by itself"):
        async with mesh:
            await anyio.sleep_forever()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_lifespan_that_is_cancelled_by_hand():
    """A cancellation that nobody asked for is a failure; asyncio alone lets a task be cancelled by hand."""
    mesh = Mesh("shop")

    class Cancelling:
        async def on_start(self) -> None:
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
            await anyio.lowlevel.checkpoint()

        @on
        async def take(self, order: Order) -> None: ...

    mesh.actor(Cancelling)
    with pytest.raises(RuntimeError, match="lifespan of actor 'Cancelling' was cancelled by something inside it"):
        await mesh.__aenter__()


async def test_the_body_fails():
    """The mesh stops at once: the hooks are cancelled where they wait, and the body's error leaves it bare."""
    mesh = Mesh("shop")
    actor = kept(mesh, "one")
    with pytest.raises(ValueError, match="the body's own"):  # noqa: PT012 - the mesh is left by it
        async with mesh:
            await actor.tell(Order(100))
            await settled()
            raise ValueError("the body's own")
    assert lines == ["start one", "stop one"]
    assert counts(actor.mailbox) == {"entered": 1, "ready": 1}


async def test_grace_covers_the_hooks():
    """What leaving takes counts into grace; when that is over, the hook is cancelled, and the others at their first wait."""
    mesh = Mesh("shop", grace=10.0)
    kept(mesh, "first", leaving=1.0)
    slow = kept(mesh, "slow", leaving=100.0)
    async with mesh:
        await slow.tell(Order(4))
        began = anyio.current_time()
    assert anyio.current_time() == began + 10
    assert lines[2:] == ["handled 4 slow", "stop slow", "stop first"]


async def test_grace_that_ends_before_the_handler():
    """The handler is cancelled and its message goes back; then the hooks are left, cancelled where they wait."""
    mesh = Mesh("shop", grace=10.0)
    actor = kept(mesh, "one")
    async with mesh:
        await actor.tell(Order(100))
    assert lines == ["start one", "stop one"]
    assert counts(actor.mailbox) == {"entered": 1, "ready": 1}
    assert mesh.report is not None
    assert mesh.report.exit_code == 75


async def test_a_lifespan_that_does_not_end_is_named(caplog: pytest.LogCaptureFixture):
    """The mesh waits for it, and says for what."""
    mesh = Mesh("shop", grace=1.0)

    class Stubborn:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            yield
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)

        @on
        async def take(self, order: Order) -> None: ...

    mesh.actor(Stubborn)
    began = anyio.current_time()
    async with mesh:
        pass
    assert anyio.current_time() == began + 60
    named = (
        "lifespan of actor 'Stubborn' was cancelled 5 s ago and still runs: it swallows its cancellation, or is at work in a "
    )
    assert [message for message in caplog.messages if "still runs" in message] == [f"{named}thread; the mesh waits for it"]


async def test_a_hook_that_stops_the_mesh():
    """What has not started is not started any more; what has is left."""
    mesh = Mesh("shop")

    class Stopping:
        async def on_start(self) -> None:
            mesh.stop()

        @on
        async def take(self, order: Order) -> None: ...

    kept(mesh, "first")
    mesh.actor(Stopping)
    kept(mesh, "never")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        lines.append("never")

    async with mesh:
        pass
    assert lines == ["start first", "stop first", "stopped first"]


async def test_cancelled_anywhere():
    """Wherever entering, running or leaving is cancelled: what has started is stopped, and no message is lost."""
    mesh = Mesh("shop", grace=100)
    first, second = kept(mesh, "first"), kept(mesh, "second")

    async def run() -> None:
        async with mesh:
            await first.tell(Order(1))
            await second.ask(Order(2))

    async def check(swept: Swept[None]) -> None:
        for name in ("first", "second"):
            assert lines.count(f"start {name}") == lines.count(f"stop {name}")
        for actor in (first, second):
            numbers = actor.mailbox.statistics()
            assert numbers.leased == numbers.delayed == 0
            assert numbers.entered == numbers.ready + numbers.acked + numbers.withdrawn + numbers.purged
            actor.mailbox.purge()
        assert mesh._engine.keepers.running == {}
        assert mesh._engine.ground.phase in (Phase.NEW, Phase.STOPPED)
        lines.clear()

    assert await cancel_sweep(run, check) > 4


# What is refused


class BothKinds(Kept):
    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        yield


class Undecorated:
    async def lifespan(self) -> AsyncGenerator[None]:
        yield

    @on
    async def take(self, order: Order) -> None: ...


class PlainStart:
    def on_start(self) -> None: ...

    @on
    async def take(self, order: Order) -> None: ...


class TooMany:
    async def on_stop(self, ctx: ActorContext, order: Order) -> None: ...

    @on
    async def take(self, order: Order) -> None: ...


@pytest.mark.parametrize(
    "kind, text",
    [
        (BothKinds, "class .*BothKinds has a lifespan and on_start and on_stop: write one or the other"),
        (Undecorated, "must be an async context manager: decorate it with contextlib.asynccontextmanager"),
        (PlainStart, r"must be written as: async def on_start\(self, ctx: ActorContext\)"),
        (TooMany, r"on_stop of class .*TooMany takes \(self\) or \(self, ctx: ActorContext\), and nothing else"),
    ],
)
def test_hooks_that_cannot_be_used(kind: type[Any], text: str):
    """They are refused where the class is declared, naming the mend."""
    with pytest.raises(InvalidHandler, match=text):
        Mesh("shop").actor(kind)


async def test_a_lifespan_attribute_that_is_no_hook():
    """A plain value of that name is none."""
    mesh = Mesh("shop")

    class Candle:
        lifespan = 3.0

        @on
        async def burn(self, order: Order) -> float:
            return self.lifespan

    candle = mesh.actor(Candle)
    async with mesh:
        assert await candle.ask(Order(1)) == 3.0
