"""The life of a mesh: entered, left, entered again, and stopped by itself; nothing is lost on the way."""

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowmesh import Mesh
from flowmesh._runtime.ground import Phase
from flowmesh.errors import InvalidHandler, MeshError, MeshStopped, NotRunning, PreconditionFailed
from flowmesh.policies import MailboxOptions
from flowmesh.testing import VirtualClock, cancel_sweep, run, settled
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio


class Bang(BaseException):
    """What no handler policy catches."""


# Entering and leaving


async def test_leaving_waits_for_what_is_in_hand():
    """A normal exit drains: everything told before it has been handled when the block is left."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(1)
        seen.append(number)

    async with mesh as entered:
        assert entered is mesh
        for number in range(5):
            await slow.tell(number)
    assert seen == [0, 1, 2, 3, 4]
    assert mesh.report is not None
    assert mesh.report.exit_code == 0


async def test_enter_again_on_the_same_loop():
    """A stopped mesh can be entered again; what was left waits for it, and its actors, sources and schedules run anew."""
    mesh, seen, runs = Mesh("shop", grace=0), list[int](), list[str]()

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(1)
        seen.append(number)

    @mesh.source
    async def poll(ctx: object) -> None:
        runs.append("polled")

    async with mesh:
        for number in range(3):
            await work.tell(number)
        await settled()
    assert seen == []
    assert work.mailbox.statistics().ready == 3
    async with mesh:
        await mesh.idle()
    assert seen == [0, 1, 2]
    assert runs == ["polled", "polled"]


@pytest.mark.parametrize("backends", [("asyncio", "trio"), ("trio", "asyncio"), ("trio", "trio")])
def test_enter_again_on_the_other_backend(backends: tuple[Backend, Backend]):
    """A mesh that was stopped on one backend goes on, with what it had, on another; nothing of the old loop is touched."""
    mesh, seen = Mesh("shop", grace=0), list[int]()

    @mesh.actor(concurrency=2)
    async def work(number: int) -> int:
        await anyio.sleep(1)
        seen.append(number)
        return number * 2

    @mesh.actor
    def threaded(number: int) -> int:
        return number + 1

    async def first() -> None:
        async with mesh:
            assert await threaded.ask(1) == 2
            for number in range(4):
                await work.tell(number)
            await anyio.sleep(1.5)

    async def second() -> None:
        async with mesh:
            assert await threaded.ask(2) == 3
            await mesh.idle()
            assert await work.ask(21) == 42

    run(first, backend=backends[0])
    assert sorted(seen) == [0, 1]
    run(second, backend=backends[1])
    assert sorted(seen) == [0, 1, 2, 3, 21]


async def test_one_enter_at_a_time():
    """Entering a mesh that runs, drains, or is being entered raises PreconditionFailed and disturbs nobody."""
    mesh = Mesh("shop")
    async with mesh:
        with pytest.raises(PreconditionFailed, match=r"mesh 'shop' is running: enter it once at a time"):
            async with mesh:
                pass
        mesh.stop()
        with pytest.raises(PreconditionFailed, match=r"mesh 'shop' is draining"):
            await mesh.__aenter__()
    outcomes: list[str] = []

    async def enter() -> None:
        try:
            async with mesh:
                await anyio.sleep(1)
                outcomes.append("ran")
        except PreconditionFailed:
            outcomes.append("refused")

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        group.start_soon(enter)
    assert sorted(outcomes) == ["ran", "refused"]


async def test_a_start_that_fails_can_be_tried_again():
    """What keeps a mesh from starting leaves it as it was: mend it, and enter it."""
    clock = VirtualClock()
    broken = [True]
    start = clock.start

    def fail() -> None:
        if broken:
            raise RuntimeError("no time today")
        start()

    clock.start = fail
    mesh = Mesh("shop", clock=clock)
    with pytest.raises(RuntimeError, match="no time today"):
        await mesh.__aenter__()
    broken.clear()
    async with mesh:
        pass


async def test_a_handler_whose_type_is_missing_keeps_the_mesh_from_starting():
    """An annotation that names nothing is told at the start, with the actor's name, before anything runs."""
    mesh = Mesh("shop")

    async def late(order: "NotDefinedAnywhere") -> None:  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
        pass

    mesh.actor(late)
    with pytest.raises(InvalidHandler, match=r"'late'.*NotDefinedAnywhere"):
        await mesh.__aenter__()
    assert mesh._engine.ground.phase is Phase.NEW


async def test_cancel_entering_and_leaving_at_every_checkpoint():
    """Wherever the task that holds a mesh is cancelled, the mesh comes to rest, keeps what it had, and can be entered again."""
    mesh = Mesh("none")
    seen: list[int] = []

    async def hold() -> None:
        async with mesh:
            await mesh._engine.sending.send(mesh.exchange("").core, 1, "work", {})
            await settled()

    def make():
        nonlocal mesh
        mesh = Mesh("shop")
        seen.clear()

        @mesh.actor
        async def work(number: int) -> None:
            await anyio.sleep(1)
            seen.append(number)

        return hold()

    async def check(swept: object) -> None:
        assert mesh._engine.ground.phase in (Phase.NEW, Phase.STOPPED)
        left = mesh.statistics().mailboxes["work"]
        assert left.leased == 0
        assert left.ready + left.acked == left.entered
        assert len(seen) == left.acked
        async with mesh:
            await mesh.idle()
        assert len(seen) == left.entered

    assert await cancel_sweep(make, check) >= 3


async def test_cancelling_a_drain_stops_at_once():
    """Whoever cancels the task that leaves a mesh does not wait for grace; handlers are cancelled and their work goes back."""
    mesh, ended = Mesh("shop", grace=1000), list[str]()

    @mesh.actor
    async def slow(number: int) -> None:
        try:
            await anyio.sleep(500)
        finally:
            ended.append("cancelled")

    with anyio.move_on_after(2) as scope:
        async with mesh:
            await slow.tell(1)
            await slow.tell(2)
    assert scope.cancelled_caught
    assert ended == ["cancelled"]
    assert anyio.current_time() == pytest.approx(2, abs=0.1)
    assert slow.mailbox.statistics().ready == 2
    assert mesh.report is not None
    assert mesh.report.handed_back == 1
    async with mesh:
        pass


# Errors of the body


async def test_the_error_of_the_body_leaves_bare_and_cancels_at_once():
    """An exception in the body is not drained for, and leaves `async with mesh` as itself."""
    mesh = Mesh("shop", grace=1000)

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(500)

    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            await slow.tell(1)
            await settled()
            raise error
    assert caught.value is error
    assert anyio.current_time() < 1
    assert slow.mailbox.statistics().ready == 1


async def test_cancelling_the_body_is_the_cancellers_business():
    """A cancellation from around the mesh stops it at once and goes on to its scope, nowhere else."""
    mesh, after = Mesh("shop", grace=1000), list[str]()

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(500)

    with anyio.move_on_after(1) as scope:
        async with mesh:
            await slow.tell(1)
            await anyio.sleep_forever()
        after.append("reached")
    assert scope.cancelled_caught
    assert after == []
    assert slow.mailbox.statistics().ready == 1


# Faults: the mesh stops by itself


async def test_the_error_of_a_source_leaves_bare():
    """A source that raises stops the mesh with its own error, not with a group; the body is cancelled."""
    mesh, after = Mesh("shop"), list[str]()
    error = OSError("the feed is gone")

    @mesh.source
    async def poll(ctx: object) -> None:
        await anyio.sleep(1)
        raise error

    with pytest.raises(OSError, match="the feed is gone") as caught:  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            await anyio.sleep(100)
            after.append("reached")
    assert caught.value is error
    assert after == []
    assert anyio.current_time() < 2


async def test_a_fault_keeps_the_chain_it_came_with():
    """An error that stops the mesh shows what it was raised from and during, and no cancellation of the mesh's own."""
    mesh = Mesh("shop")

    @mesh.source
    async def poll(ctx: object) -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            raise OSError("outer")  # noqa: B904 - the implicit chain is the point

    with pytest.raises(OSError, match="outer") as caught:
        async with mesh:
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.__cause__ is None


async def test_a_base_exception_of_a_handler_leaves_bare_and_its_message_goes_back():
    """On a BaseException the message goes back uncounted, no worker starts another, and it leaves `async with mesh`."""
    mesh, started = Mesh("shop"), list[int]()

    @mesh.actor(concurrency=1)
    async def work(number: int) -> None:
        started.append(number)
        raise Bang

    with pytest.raises(Bang):  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            for number in range(5):
                await work.tell(number)
            await anyio.sleep_forever()
    assert started == [0]
    numbers = work.mailbox.statistics()
    assert (numbers.ready, numbers.leased, numbers.dead) == (5, 0, 0)
    assert [message.body for message in work.mailbox.peek()] == [0, 1, 2, 3, 4]
    assert mesh.report is not None
    assert mesh.report.handed_back == 1


async def test_a_base_exception_in_answer_to_a_cancellation_is_not_swallowed():
    """A handler that answers its cancellation (stop, or time limit) with a BaseException stops the mesh with it as well."""
    for limit in (None, 1.0):
        mesh = Mesh("shop", grace=0)

        @mesh.actor(timeout=limit)
        async def work(number: int) -> None:
            try:
                await anyio.sleep(10)
            finally:
                raise Bang

        with pytest.raises(Bang):  # noqa: PT012 - the mesh raises it when it is left
            async with mesh:
                await work.tell(1)
                await settled()
                if limit is not None:
                    await anyio.sleep_forever()
        assert work.mailbox.statistics().ready == 1


async def test_a_fault_during_the_drain_leaves_bare():
    """The mesh drains and a handler raises a BaseException: the drain ends at once, and the error is what leaves."""
    mesh = Mesh("shop", grace=1000)

    @mesh.actor(concurrency=2)
    async def work(number: int) -> None:
        await anyio.sleep(number)
        if number == 1:
            raise Bang

    with pytest.raises(Bang):  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            await work.tell(1)
            await work.tell(500)
    assert anyio.current_time() < 2
    assert work.mailbox.statistics().ready == 2
    work.mailbox.purge()
    async with mesh:
        pass


async def test_several_errors_leave_as_a_group():
    """The body's error and faults, or several faults, leave together; each as itself."""
    mesh = Mesh("shop")

    @mesh.source
    async def first(ctx: object) -> None:
        await anyio.sleep(1)
        raise OSError("first")

    @mesh.source
    async def second(ctx: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("second")

    with pytest.raises(ExceptionGroup, match=r"mesh 'shop' stopped for several reasons") as caught:  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("body")
    assert sorted(type(error).__name__ for error in caught.value.exceptions) == ["KeyError", "OSError", "ValueError"]


async def test_an_error_of_a_task_group_in_the_body_stays_what_it_was():
    """When a fault cancels a body that holds a task group whose child fails on the way out, both errors are told."""
    mesh = Mesh("shop")

    @mesh.source
    async def poll(ctx: object) -> None:
        await anyio.sleep(1)
        raise OSError("feed")

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleanup")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with mesh, anyio.create_task_group() as group:
            group.start_soon(stubborn)
    assert caught.value.subgroup(OSError) is not None
    assert caught.value.subgroup(ValueError) is not None
    assert caught.value.subgroup(anyio.get_cancelled_exc_class()) is None


async def test_a_source_that_is_cancelled_from_inside_is_a_fault():
    """A source that lets out a cancellation nobody asked for stops the mesh, and its name is in the error."""
    mesh = Mesh("shop")

    @mesh.source
    async def poll(ctx: object) -> None:
        raise _a_cancellation()

    with pytest.raises(RuntimeError, match=r"source 'poll' was cancelled by something inside it"):
        async with mesh:
            await anyio.sleep_forever()


def _a_cancellation() -> BaseException:
    kind: Any = anyio.get_cancelled_exc_class()
    return kind._create(source="unknown") if hasattr(kind, "_create") else kind()


# Using it when it does not run


async def _all_sends(mesh: Mesh):
    exchange, work, box = mesh.exchange("events", "fanout"), mesh.actor(_work), mesh.mailbox("box")
    exchange.bind(work)

    async def consume() -> None:
        async with box.consume():
            pass

    async def nowait() -> None:
        exchange.publish_nowait(1)

    async def tell_nowait() -> None:
        work.tell_nowait(1)

    async def get_nowait() -> None:
        box.get_nowait()

    return {
        "tell": lambda: work.tell(1),
        "tell later": lambda: work.tell(1, delay=5),
        "ask": lambda: work.ask(1),
        "publish": lambda: exchange.publish(1),
        "publish with options": lambda: exchange.publish(1, mandatory=True),
        "publish_nowait": nowait,
        "tell_nowait": tell_nowait,
        "publish_many": lambda: exchange.publish_many([(1, "")]),
        "publish_many of nothing": lambda: exchange.publish_many([]),
        "get": box.get,
        "get_nowait": get_nowait,
        "consume": consume,
        "replay": mesh.dead_letters.replay,
    }


async def _work(number: int) -> None:
    pass


async def test_nothing_is_sent_or_taken_before_the_start():
    """Every send and every pull before the mesh runs raises NotRunning, says what to do, and leaves nothing behind."""
    mesh = Mesh("shop")
    for name, send in (await _all_sends(mesh)).items():
        with pytest.raises(NotRunning, match=r"mesh 'shop' has not been started: .*inside 'async with mesh'"):
            await send()
        assert mesh.statistics().mailboxes["_work"].entered == 0, name
        assert mesh.statistics().deferred == 0, name


async def test_nothing_is_sent_or_taken_after_the_stop():
    """Every send and every pull after the mesh has stopped, or while it drains, raises MeshStopped; nothing enters."""
    mesh = Mesh("shop")
    sends = await _all_sends(mesh)
    async with mesh:
        mesh.stop()
        for name, send in sends.items():
            with pytest.raises(MeshStopped, match=r"mesh 'shop' is draining"):
                await send()
            assert mesh.statistics().mailboxes["_work"].entered == 0, name
    for name, send in sends.items():
        with pytest.raises(MeshStopped, match=r"mesh 'shop' has stopped") as caught:
            await send()
        assert caught.value.__cause__ is None, name
        assert mesh.statistics().mailboxes["_work"].entered == 0, name


async def test_sends_after_a_fault_name_its_cause():
    """When the mesh stopped by itself, each later send raises MeshStopped from what stopped it."""
    mesh = Mesh("shop")
    sends = await _all_sends(mesh)
    error = OSError("the feed is gone")

    @mesh.source
    async def poll(ctx: object) -> None:
        raise error

    with pytest.raises(OSError, match="feed"):
        async with mesh:
            await anyio.sleep_forever()
    for name, send in sends.items():
        with pytest.raises(MeshStopped) as caught:
            await send()
        assert caught.value.__cause__ is error, name


async def test_an_asker_outside_is_told_why_the_mesh_stopped():
    """Whoever waits for an answer when the mesh stops by itself gets MeshStopped from the cause, each its own."""
    mesh = Mesh("shop")
    error = OSError("the feed is gone")
    caught: list[MeshStopped] = []

    @mesh.actor
    async def never(number: int) -> int:
        await anyio.sleep_forever()
        return number

    @mesh.source
    async def poll(ctx: object) -> None:
        await anyio.sleep(1)
        raise error

    async def ask(number: int) -> None:
        with pytest.raises(MeshStopped) as stopped:
            await never.ask(number)
        caught.append(stopped.value)

    async def hold() -> None:
        with pytest.raises(OSError, match="feed"):
            async with mesh:
                await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await settled()
        group.start_soon(ask, 1)
        group.start_soon(ask, 2)
    assert [stopped.__cause__ for stopped in caught] == [error, error]
    assert caught[0] is not caught[1]
    assert never.mailbox.statistics().withdrawn == 2


async def test_a_foreign_thread_is_refused():
    """Sends and pulls from a thread other than the loop's raise MeshError, which names the way; nothing enters."""
    mesh = Mesh("shop")
    sends = await _all_sends(mesh)
    del sends["publish_many of nothing"]

    def step(name: str) -> None:
        coroutine = sends[name]()
        try:
            coroutine.send(None)
        except StopIteration:
            raise AssertionError(f"{name} was taken") from None
        finally:
            coroutine.close()

    async with mesh:
        for name in sends:
            with pytest.raises(MeshError, match=r"mesh 'shop' runs in another thread: .*anyio\.from_thread"):
                await anyio.to_thread.run_sync(step, name)
        assert mesh.statistics().mailboxes["_work"].entered == 0
        receipt = await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(sends["publish"]))
        assert receipt.routed == 1


async def test_errors_of_the_constructor_name_the_argument():
    """A mesh without a name, or with a negative grace, is refused where it is made."""
    for name in ("", 7):
        with pytest.raises(ValueError, match="name must be a text that is not empty"):
            Mesh(name)  # pyright: ignore[reportArgumentType]
    for grace in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="grace must be zero or more seconds"):
            Mesh(grace=grace)


async def test_senders_of_a_task_left_behind_do_not_wait_for_ever(caplog: pytest.LogCaptureFixture):
    """A task that a handler left behind and that waits for room is turned away when the mesh has stopped."""
    mesh = Mesh("shop", grace=1)
    full = mesh.mailbox("full", MailboxOptions(capacity=1))
    outcomes: list[str] = []
    caplog.set_level(logging.INFO, "flowmesh.shop")

    async with anyio.create_task_group() as outside:

        @mesh.actor
        async def leave(number: int) -> None:
            outside.start_soon(wait_for_room)
            await anyio.sleep(1)

        async def wait_for_room() -> None:
            try:
                await mesh.exchange("").publish(2, "full")
            except MeshStopped as error:
                outcomes.append(str(error))

        async with mesh:
            await mesh.exchange("").publish(1, "full")
            await leave.tell(1)
            await anyio.sleep(3)
        await settled()
    assert outcomes == ["mesh 'shop' has stopped: it takes no more messages until it is entered again"]
    assert [message.body for message in full.peek()] == [1]
