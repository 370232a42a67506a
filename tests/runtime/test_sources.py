"""Sources: tasks that bring messages in, one each, from the start of the mesh to its drain."""

import logging

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.context import ActorContext
from flowmesh.errors import InvalidHandler, MeshStopped, PreconditionFailed
from flowmesh.testing import History, Probe, settled
from flowmesh.testing.plugin import RunningMesh

pytestmark = pytest.mark.anyio


async def test_a_source_runs_from_the_start_and_sees_its_mesh(caplog: pytest.LogCaptureFixture):
    """It gets a context with its name, a log that names it, and the numbers of the mesh."""
    caplog.set_level(logging.INFO, "flowmesh.shop")
    mesh, seen = Mesh("shop"), list[object]()

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        await work.tell(1)
        ctx.log.info("told %d", 1)
        seen.append((ctx.name, ctx.statistics.mailboxes["work"].entered))

    async with mesh:
        await settled()
    assert seen == [("poll", 1), 1]
    assert "[poll] told 1" in caplog.messages


async def test_a_source_that_returns_has_ended():
    """It is not run again, and the mesh goes on without it."""
    mesh, runs = Mesh("shop"), list[str]()

    @mesh.source
    async def once(ctx: ActorContext) -> None:
        runs.append("ran")

    async with mesh:
        await anyio.sleep(100)
        await mesh.idle()
    assert runs == ["ran"]


async def test_sources_under_a_name_and_while_the_mesh_runs():
    """`name=` names it; one that is declared while the mesh runs starts at once; each gets its own task."""
    mesh, runs = Mesh("shop"), list[str]()

    @mesh.source(name="first")
    async def poll(ctx: ActorContext) -> None:
        runs.append(ctx.name)
        await anyio.sleep_forever()

    assert callable(poll)  # it stays the function it was
    async with mesh:
        await settled()

        @mesh.source(name="second")
        async def again(ctx: ActorContext) -> None:
            runs.append(ctx.name)
            await anyio.sleep_forever()

        await settled()
        assert runs == ["first", "second"]


async def test_a_source_is_not_a_turn(running_mesh: RunningMesh):
    """What it sends has no cause, and when the drain begins its sends are refused like any from outside."""
    mesh, errors = Mesh("shop"), list[str]()
    probe = Probe(mesh, "probe")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        await probe.actor.tell(1)
        try:
            await anyio.sleep_forever()
        finally:
            try:
                probe.actor.tell_nowait(2)
            except MeshStopped as error:
                errors.append(str(error))

    async with running_mesh(mesh):
        assert (await probe.expect(1)).message.cause is None
    assert len(probe.received) == 1
    assert errors == ["mesh 'shop' is draining: it takes no more messages until it is entered again"]


async def test_wrong_declarations_name_the_mend():
    """A source is `async def name(ctx)`, and its name is free: anything else is refused where it is declared."""
    mesh = Mesh("shop")

    def plain(ctx: ActorContext) -> None:
        pass

    async def nothing() -> None:
        pass

    for function in (plain, nothing):
        with pytest.raises(InvalidHandler, match=rf"must be written as: async def {function.__name__}\(ctx: ActorContext\)"):
            mesh.source(function)  # pyright: ignore[reportArgumentType]

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        pass

    with pytest.raises(PreconditionFailed, match=r"source 'poll' exists in mesh 'shop': give this one another name="):
        mesh.source(poll)


async def test_a_source_that_swallows_its_cancellation_does_not_keep_the_mesh_from_draining(
    running_mesh: RunningMesh, mesh_history: History
):
    """One that returns although it was cancelled has ended; what was under way is drained as ever."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(1)

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return

    async with running_mesh(mesh):
        await work.tell(1)
    assert mesh_history.handled("work") == [1]


async def test_an_error_of_a_source_while_it_is_cancelled_is_told():
    """A source whose cleanup fails stops the mesh with that error: it is not lost because the mesh was stopping anyway."""
    mesh = Mesh("shop", grace=100)

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(50)

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("cleanup failed")

    with pytest.raises(OSError, match="cleanup failed"):  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            await slow.tell(1)
            await settled()
    assert slow.mailbox.statistics().ready == 1
