"""What a handler may do to itself and to its worker: BaseExceptions, cancellations of every origin, tasks left behind."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import ActorFailed, Context, Mesh, MeshStopped, Reject, Retry
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
"""asyncio alone lets a task be cancelled, or left behind, by hand."""


class Order(Struct, frozen=True):
    id: int


class Fatal(BaseException):
    pass


async def stray_cancellation() -> BaseException:
    """Return a cancellation that nobody asks for any more; trio lets nobody make one."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as error:
            return error
    raise AssertionError


# BaseException


@pytest.mark.parametrize("kind", [Fatal, KeyboardInterrupt, SystemExit])
async def test_base_exception_stops_the_mesh(kind: type[BaseException]):
    """A handler's BaseException leaves `async with mesh` bare; its message is ready again, and no worker starts another."""
    mesh = Mesh(grace=100)
    started: list[int] = []

    @mesh.actor(concurrency=3, retry=Retry(5))
    async def take(order: Order) -> None:
        started.append(order.id)
        if order.id == 1:
            await anyio.sleep(1)
            raise kind("the end")
        await anyio.sleep_forever()

    @mesh.actor
    async def other(order: Order) -> None:
        started.append(-1)

    with pytest.raises(kind, match="the end") as caught:  # noqa: PT012 - the mesh is left by it
        async with mesh:
            for number in range(8):
                await take.tell(Order(number))
            await anyio.sleep_forever()
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert sorted(started) == [0, 1, 2]
    assert counts(take.mailbox) == {"entered": 8, "ready": 8}
    assert [message.body.id for message in take.mailbox.peek()] == list(range(8))
    with pytest.raises(MeshStopped) as refused:
        await other.tell(Order(1))
    assert refused.value.__cause__ is caught.value


async def test_base_exception_of_a_handler_that_does_not_suspend():
    """No worker picks the message up again, although one was ready to."""
    mesh = Mesh()
    started: list[int] = []

    @mesh.actor(concurrency=4)
    async def take(order: Order) -> None:
        started.append(order.id)
        raise Fatal

    with pytest.raises(Fatal):  # noqa: PT012 - the mesh is left by it
        async with mesh:
            for number in range(5):
                take.tell_nowait(Order(number))
            await anyio.sleep_forever()
    assert started == [0]
    assert counts(take.mailbox) == {"entered": 5, "ready": 5}


async def test_base_exception_and_its_asker():
    """Whoever asked learns that the mesh has stopped, and why."""
    mesh = Mesh()
    answers: list[BaseException] = []

    @mesh.actor
    async def take(order: Order) -> None:
        await anyio.sleep(1)
        raise Fatal("end")

    async def ask() -> None:
        try:
            await take.ask(Order(1))
        except MeshStopped as error:
            answers.append(error)

    async with anyio.create_task_group() as group:
        with pytest.raises(Fatal):  # noqa: PT012 - the mesh is left by it
            async with mesh:
                group.start_soon(ask)
                await anyio.sleep_forever()
    assert len(answers) == 1
    assert isinstance(answers[0].__cause__, Fatal)
    assert counts(take.mailbox) == {"entered": 1, "withdrawn": 1}


async def test_base_exception_in_a_nursery():
    """A BaseException that a nursery wraps in a group stops the mesh as well."""
    mesh = Mesh()

    async def child() -> None:
        raise Fatal

    @mesh.actor
    async def take(order: Order) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the mesh is left by it
        async with mesh:
            await take.tell(Order(1))
            await anyio.sleep_forever()
    assert caught.group_contains(Fatal)
    assert counts(take.mailbox) == {"entered": 1, "ready": 1}


@pytest.mark.parametrize("why", ["limit", "asker", "stop"])
async def test_base_exception_while_it_is_cancelled(why: str):
    """A BaseException is never swallowed, even from a handler that was being cancelled."""
    mesh = Mesh(grace=5)

    @mesh.actor(timeout=5 if why == "limit" else None)
    async def take(order: Order) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Fatal

    with pytest.raises(Fatal):  # noqa: PT012 - the mesh is left by it
        async with mesh:
            if why == "asker":
                with pytest.raises(TimeoutError):
                    await take.ask(Order(1), timeout=5)
            else:
                await take.tell(Order(1))
            if why != "stop":
                await anyio.sleep_forever()
    ended = counts(take.mailbox)
    assert ended.pop("entered") == 1
    assert ended in ({"ready": 1}, {"withdrawn": 1})


# A cancellation that nobody asked for

Raising = Callable[[], Awaitable[None]]


async def raised_by_the_handler() -> None:
    """Raise a bare one."""
    raise await stray_cancellation()


async def raised_in_a_group() -> None:
    """Raise one among other errors."""
    raise BaseExceptionGroup("mixed", [await stray_cancellation(), ValueError("and an error")])


@pytest.mark.parametrize("raising", [raised_by_the_handler, raised_in_a_group])
async def test_stray_cancellation_is_a_failure(raising: Raising, caplog: pytest.LogCaptureFixture):
    """A cancellation that a handler lets out and nobody asked for fails its message like any exception: Retry sees it."""
    mesh = Mesh()
    turns: list[tuple[int, int]] = []

    @mesh.actor(retry=Retry(3, initial=1, jitter="none"))
    async def take(order: Order, ctx: Context) -> None:
        turns.append((order.id, ctx.attempt))
        if order.id == 0:
            await raising()

    async with mesh:
        await take.tell(Order(0))
        await take.tell(Order(1))
        await mesh.idle()
        await take.tell(Order(2))
        await mesh.idle()
    assert turns == [(0, 1), (1, 1), (0, 2), (0, 3), (2, 1)]
    assert counts(take.mailbox) == {"entered": 3, "acked": 2, "dead": 1}
    assert mesh.dead_letters.list()[0].deaths[0].reason == "failed"
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_stray_cancellation_is_not_retried_for_other_errors():
    """It matches `on=(Exception,)`, not `on=(OSError,)`."""
    mesh = Mesh()
    attempts: list[int] = []

    @mesh.actor(retry=Retry(3, initial=0, on=(OSError,)))
    async def take(order: Order, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        await raised_by_the_handler()

    async with mesh:
        await take.tell(Order(0))
        await mesh.idle()
    assert attempts == [1]
    assert counts(take.mailbox) == {"entered": 1, "dead": 1}


async def test_stray_cancellation_and_an_asker():
    """An asker must not take it for a cancellation of its own: it gets ActorFailed."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(2, initial=1))
    async def take(order: Order) -> str:
        if order.id == 0:
            await raised_by_the_handler()
        return "fine"

    async with mesh:
        with pytest.raises(
            ActorFailed, match=r"actor 'take' was cancelled at message .* by something inside its handler"
        ) as caught:
            await take.ask(Order(0))
        assert caught.value.type in ("CancelledError", "Cancelled")
        assert await take.ask(Order(1)) == "fine"
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}
    assert len(mesh.dead_letters) == 0


@on_asyncio
@pytest.mark.parametrize("how", ["await", "raise", "return", "other error", "twice"])
@pytest.mark.parametrize("asked", [False, True])
async def test_task_that_cancels_itself(how: str, asked: bool):
    """On asyncio a handler may cancel its own task: its message fails, or is done if it returns; no other message notices."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> str:
        await anyio.lowlevel.checkpoint()
        if order.id == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if how == "await":
                await anyio.sleep(1)
            elif how == "raise":
                raise asyncio.CancelledError
            elif how == "other error":
                raise ValueError("other")
            elif how == "twice":
                try:
                    await anyio.sleep(1)
                finally:
                    task.cancel()
        await anyio.lowlevel.checkpoint() if order.id else None
        seen.append(order.id)
        return "done"

    async with mesh:
        if asked:
            if how == "return":
                assert await take.ask(Order(0)) == "done"
            else:
                with pytest.raises((ActorFailed, ValueError)):
                    await take.ask(Order(0))
        else:
            await take.tell(Order(0))
        for number in range(1, 6):
            await take.tell(Order(number))
        await mesh.idle()
        assert await take.ask(Order(6)) == "done"
    first = [0] if how == "return" else []
    assert seen == [*first, 1, 2, 3, 4, 5, 6]
    dead = 0 if asked or how == "return" else 1
    expected = {"entered": 7, "acked": 7 - dead}
    if dead:
        expected["dead"] = 1
    assert counts(take.mailbox) == expected


@on_asyncio
async def test_worker_cancelled_from_elsewhere():
    """On asyncio somebody may cancel a worker's task while it is idle: the mesh goes on."""
    mesh = Mesh()
    tasks: list[asyncio.Task[Any]] = []

    @mesh.actor
    async def take(order: Order) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return order.id

    async with mesh:
        for number in range(5):
            assert await take.ask(Order(number)) == number
            tasks[-1].cancel()
            if number % 2:
                await settled()
    assert counts(take.mailbox) == {"entered": 5, "acked": 5}


async def test_nursery_cancelled_inside():
    """A scope that the handler itself opens and cancels is its own affair: it returns and is acked."""
    mesh = Mesh()

    @mesh.actor(timeout=50)
    async def take(order: Order) -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep(1)
            group.cancel_scope.cancel()
        with anyio.move_on_after(1):
            await anyio.sleep_forever()
        with pytest.raises(TimeoutError), anyio.fail_after(1):
            await anyio.sleep_forever()
        return "done"

    async with mesh:
        assert await take.ask(Order(1)) == "done"
        await take.tell(Order(2))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


# Swallowed cancellations


@pytest.mark.parametrize("why", ["limit", "asker", "stop"])
async def test_swallowed_cancellation(why: str, caplog: pytest.LogCaptureFixture):
    """A handler that swallows its cancellation and returns has done its work: acked; the worker goes on with the next."""
    mesh = Mesh(grace=5)
    seen: list[int] = []

    @mesh.actor(timeout=5 if why == "limit" else None)
    async def take(order: Order) -> str:
        if order.id == 0:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass
        seen.append(order.id)
        return "late"

    async with mesh:
        if why == "asker":
            with pytest.raises(TimeoutError):
                await take.ask(Order(0), timeout=5)
        elif why == "limit":
            assert await take.ask(Order(0)) == "late"
        else:
            await take.tell(Order(0))
        if why != "stop":
            await take.tell(Order(1))
            await mesh.idle()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if why == "stop":
        assert seen == [0]
        assert counts(take.mailbox) == {"entered": 1, "acked": 1}
        assert any("actor 'take' finished message" in text and "cancelled" in text for text in warnings)
    else:
        assert seen == [0, 1]
        assert counts(take.mailbox) == {"entered": 2, "acked": 2}
    if why == "limit":
        assert any("although its time limit of 5 s had passed" in text for text in warnings)


@pytest.mark.parametrize("error", [ValueError("instead"), Reject("instead")])
async def test_cancellation_turned_into_an_error(error: Exception):
    """A handler that raises something else when its time is up has failed with that."""
    mesh = Mesh()

    @mesh.actor(timeout=5)
    async def take(order: Order) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise error from None

    async with mesh:
        await take.tell(Order(0))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 1, "dead": 1}
    assert "instead" in mesh.dead_letters.list()[0].deaths[0].detail


async def test_error_of_a_handler_whose_asker_has_left(caplog: pytest.LogCaptureFixture):
    """An exception that nobody waits for any more is logged once; the message is withdrawn, neither retried nor buried."""
    mesh = Mesh()
    attempts: list[int] = []

    @mesh.actor(retry=Retry(5, initial=1))
    async def take(order: Order, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("clean-up")

    async with mesh:
        with pytest.raises(TimeoutError):
            await take.ask(Order(1), timeout=2)
        await mesh.idle()
        await anyio.sleep(100)
    assert attempts == [1]
    assert counts(take.mailbox) == {"entered": 1, "withdrawn": 1}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "actor 'take' failed on message" in errors[0].getMessage()
    assert "whose asker has left: ValueError: clean-up" in errors[0].getMessage()


async def test_error_while_everything_is_cancelled(caplog: pytest.LogCaptureFixture):
    """A handler that raises because its mesh is being cancelled has not failed: its message goes back, the error is logged."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(5))
    async def take(order: Order) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("connection lost")

    with anyio.move_on_after(3):
        async with mesh:
            await take.tell(Order(1))
            await anyio.sleep_forever()
    assert counts(take.mailbox) == {"entered": 1, "ready": 1}
    assert [record for record in caplog.records if "connection lost" in record.getMessage()]


async def test_cancelled_from_around():
    """When a scope around the mesh is cancelled, running messages go back and are not handed out again."""
    mesh = Mesh()
    started: list[int] = []
    cancelled = False

    @mesh.actor(concurrency=4)
    async def take(order: Order) -> None:
        assert not cancelled
        started.append(order.id)
        await anyio.sleep_forever()

    async def quick(order: Order) -> None: ...

    others = [mesh.actor(quick, name=f"other-{number}") for number in range(5)]
    with anyio.CancelScope() as scope:
        async with mesh:
            for number in range(10):
                await take.tell(Order(number))
            await settled()
            for other in others:
                other.tell_nowait(Order(1))
            cancelled = True
            scope.cancel()
            await anyio.sleep_forever()
    assert sorted(started) == [0, 1, 2, 3]
    assert counts(take.mailbox) == {"entered": 10, "ready": 10}
    ended: list[Any] = [{"entered": 1, "ready": 1}, {"entered": 1, "acked": 1}]  # one worker was on its way
    assert all(counts(other.mailbox) in ended for other in others)
    assert mesh.report is not None
    assert mesh.report.handed_back == 4


# Left behind


@on_asyncio
async def test_task_left_behind():
    """On asyncio a handler can leave a task behind: its message is done, and the task disturbs no later one."""
    mesh = Mesh()
    tasks: list[asyncio.Task[None]] = []
    seen: list[int] = []

    async def linger(ctx: Context) -> None:
        await anyio.sleep(5)
        with pytest.raises(Exception, match="has ended"):
            ctx.tell(take, Order(99))
        await take.tell(Order(50))

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        seen.append(order.id)
        if order.id == 0:
            tasks.append(asyncio.create_task(linger(ctx)))

    async with mesh:
        for number in range(5):
            await take.tell(Order(number))
        await mesh.idle()
        assert counts(take.mailbox) == {"entered": 5, "acked": 5}
        await tasks[0]
        await mesh.idle()
    assert seen == [0, 1, 2, 3, 4, 50]
    assert counts(take.mailbox) == {"entered": 6, "acked": 6}


@on_asyncio
async def test_task_left_behind_that_fails():
    """A task left behind that fails does not touch the mesh; asyncio itself reports it."""
    mesh = Mesh()
    tasks: list[asyncio.Task[None]] = []

    async def linger() -> None:
        await anyio.sleep(1)
        raise ValueError("left behind")

    @mesh.actor
    async def take(order: Order) -> None:
        tasks.append(asyncio.create_task(linger()))

    async with mesh:
        await take.tell(Order(1))
        await mesh.idle()
        with pytest.raises(ValueError, match="left behind"):
            await tasks[0]
        assert await take.ask(Order(2)) is None
        with pytest.raises(ValueError, match="left behind"):
            await tasks[1]
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


# Exactly one lease


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("delay", range(6))
async def test_asker_leaves_as_the_handler_finishes(steps: int, delay: int):
    """Whenever the cancellation comes, it hits the one handler whose asker left, or nothing: the next message is untouched."""
    mesh = Mesh()
    ended: list[tuple[int, str]] = []

    @mesh.actor
    async def take(order: Order) -> int:
        try:
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
        except BaseException:
            ended.append((order.id, "cancelled"))
            raise
        ended.append((order.id, "done"))
        return order.id

    async with mesh:
        for round_ in range(0, 40, 4):
            async with anyio.create_task_group() as group:

                async def ask(number: int) -> None:
                    assert await take.ask(Order(number)) == number

                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as inner:
                        inner.start_soon(ask, round_)
                        for number in range(round_ + 1, round_ + 4):
                            group.start_soon(ask, number)
                        for _ in range(delay):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
    assert [number for number, end in ended if end == "cancelled" and number % 4] == []
    assert sorted(number for number, end in ended if number % 4) == [number for number in range(40) if number % 4]
    numbers = counts(take.mailbox)
    withdrawn = numbers.pop("withdrawn", 0)
    assert numbers == {"entered": 40, "acked": 40 - withdrawn}
    assert withdrawn <= 10
    assert withdrawn >= len([end for _, end in ended if end == "cancelled"])


@pytest.mark.parametrize("steps", range(4))
async def test_limit_passes_as_the_handler_finishes(steps: int):
    """A time limit that passes in the very tick in which its handler ends hits that handler or nothing."""
    mesh = Mesh()
    ended: list[int] = []

    @mesh.actor(timeout=1.0)
    async def take(order: Order) -> int:
        if order.id % 3 == 0:
            await anyio.sleep(0.998 + 0.0005 * (order.id // 3 % 8))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        ended.append(order.id)
        return order.id

    async with mesh:
        for number in range(96):
            await take.tell(Order(number))
        await mesh.idle()
    assert [number for number in ended if number % 3] == [number for number in range(96) if number % 3]
    numbers = counts(take.mailbox)
    assert numbers["acked"] == len(ended)
    assert numbers["acked"] + numbers.get("dead", 0) == numbers["entered"] == 96


async def test_cancelled_handlers_neighbours():
    """With many slots, a limit hits its own message; all others end in peace, and the slots serve on."""
    mesh = Mesh()

    @mesh.actor(timeout=5.0, concurrency=10)
    async def take(order: Order) -> int:
        await anyio.sleep(100 if order.id % 5 == 0 else 4)
        return order.id

    async with mesh:
        for number in range(100):
            await take.tell(Order(number))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 100, "acked": 80, "dead": 20}
    assert sorted(letter.body.id for letter in mesh.dead_letters.list()) == list(range(0, 100, 5))
