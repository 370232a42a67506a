"""Plain `def` handlers run in worker threads: bounded, and with the mesh's own calls kept to the mesh's thread."""

import asyncio
import logging
import threading
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from msgspec import Struct

from flowmesh import AlreadySettled, Context, Mesh, MeshError, Reject, Retry, WrongBody
from flowmesh.testing import BACKENDS, settled, virtual_backend
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


class Gate:
    """Holds threads until the test lets them go, and counts them. The patience only ends a test that has gone wrong."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.inside = self.highest = 0

    def wait(self) -> None:
        with self._lock:
            self.inside += 1
            self.highest = max(self.highest, self.inside)
        assert self._open.wait(20)
        with self._lock:
            self.inside -= 1

    def open(self) -> None:
        self._open.set()

    async def until(self, inside: int) -> None:
        """Return once so many threads are held."""
        while self.inside < inside:
            await anyio.to_thread.run_sync(lambda: None)


async def test_a_thread_of_its_own():
    """A plain function is called in a worker thread; its result is the reply, its exception the asker's."""
    mesh = Mesh()

    @mesh.actor
    def take(order: Order) -> int:
        if order.id == 1:
            raise KeyError(order.id)
        return threading.get_ident()

    async with mesh:
        assert await take.ask(Order(0)) != threading.get_ident()
        with pytest.raises(KeyError):
            await take.ask(Order(1))
        await take.tell(Order(1))
        await take.tell(Order(2))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 4, "acked": 3, "dead": 1}


async def test_threads_are_bounded():
    """There are as many threads as slots, per actor, and the loop goes on meanwhile."""
    mesh = Mesh()
    gates = {"one": Gate(), "two": Gate()}

    def declare(name: str, slots: int):
        @mesh.actor(name=name, concurrency=slots)
        def take(order: Order) -> None:
            gates[name].wait()

        return take

    one, two = declare("one", 1), declare("two", 3)
    async with mesh:
        for number in range(9):
            await one.tell(Order(number))
            await two.tell(Order(number))
        await gates["one"].until(1)
        await gates["two"].until(3)
        assert counts(one.mailbox) == {"entered": 9, "leased": 1, "ready": 8}
        assert counts(two.mailbox) == {"entered": 9, "leased": 3, "ready": 6}
        gates["one"].open()
        gates["two"].open()
        await mesh.idle()
    assert (gates["one"].highest, gates["two"].highest) == (1, 3)
    assert counts(one.mailbox) == counts(two.mailbox) == {"entered": 9, "acked": 9}


async def test_outputs_from_a_thread():
    """ctx.tell and ctx.publish may be called in the thread; they leave with the ack. So may log, progress and statistics."""
    mesh = Mesh()
    box = mesh.mailbox("box")
    seen: list[tuple[int, str | None, str | None]] = []
    wrong: Any = 3

    @mesh.actor
    async def follow(order: Order, ctx: Context) -> None:
        seen.append((order.id, ctx.message.cause, ctx.message.correlation_id))

    @mesh.actor(retry=Retry(2, initial=1))
    def take(order: Order, ctx: Context) -> int:
        ctx.tell(follow, Order(order.id + ctx.attempt))
        ctx.publish(mesh.exchange(""), order, key="box", delay=5)
        ctx.progress(1, 2)
        ctx.log.info("in the thread")
        with pytest.raises(WrongBody):
            ctx.tell(follow, wrong)
        if ctx.attempt == 1:
            raise OSError
        return ctx.statistics.actors["take"].running

    async with mesh:
        receipt = await take.tell(Order(10), correlation_id="c")
        await mesh.idle()
        assert seen == [(12, receipt.message_id, "c")]
        assert counts(box) == {}
        await anyio.sleep(6)
        assert counts(box) == {"entered": 1, "ready": 1}
        assert mesh.statistics().actors["take"].progress == {}


async def test_kept_context_in_a_thread():
    """A Context that a thread kept refuses once the turn has ended."""
    mesh = Mesh()
    kept: list[Context] = []

    @mesh.actor
    def take(order: Order, ctx: Context) -> None:
        kept.append(ctx)

    async with mesh:
        await take.tell(Order(1))
        await mesh.idle()
        with pytest.raises(AlreadySettled):
            await anyio.to_thread.run_sync(lambda: kept[0].tell(take, Order(2)))
    assert counts(take.mailbox) == {"entered": 1, "acked": 1}


async def test_sends_from_a_foreign_thread():
    """A send from a thread that is not the mesh's raises, naming the mend; nothing enters."""
    mesh = Mesh("shop")

    @mesh.actor
    async def other(order: Order) -> None: ...

    exchange = mesh.exchange("orders")
    exchange.bind(other, "a")
    texts: list[str] = []

    def drive(coroutine: Any) -> None:
        try:
            coroutine.send(None)
        finally:
            coroutine.close()

    @mesh.actor
    def take(order: Order) -> None:
        attempts: list[Any] = [
            lambda: other.tell_nowait(order),
            lambda: exchange.publish_nowait(order, "a"),
            lambda: drive(other.tell(order)),
            lambda: drive(other.tell(order, priority=1)),
            lambda: drive(other.ask(order)),
            lambda: drive(other.ask(order, timeout=None)),
            lambda: drive(exchange.publish(order, "a")),
            lambda: drive(exchange.publish_many([(order, "a")])),
        ]
        for attempt in attempts:
            with pytest.raises(MeshError) as caught:
                attempt()
            texts.append(str(caught.value))

    async with mesh:
        await take.ask(Order(1))
        assert counts(other.mailbox) == {}
    assert len(texts) == 8
    mend = (
        "mesh 'shop' runs in another thread: send with anyio.from_thread.run(actor.tell, body) "
        "(from_thread.run_sync for the _nowait forms), or collect with ctx.tell and ctx.publish"
    )
    assert set(texts) == {mend}


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_loop_of_its_own_in_the_thread():
    """A thread with an event loop of its own is a foreign thread all the same."""
    mesh = Mesh()

    @mesh.actor
    async def other(order: Order) -> None: ...

    async with mesh:
        with pytest.raises(MeshError, match=r"anyio\.from_thread"):
            await anyio.to_thread.run_sync(lambda: asyncio.run(other.tell(Order(1))))
        assert counts(other.mailbox) == {}


async def test_sends_through_from_thread():
    """What the error names works: tell, ask and the _nowait forms, as part of the turn that they come from."""
    mesh = Mesh()
    seen: list[tuple[int, str | None]] = []

    @mesh.actor
    async def other(order: Order, ctx: Context) -> int:
        seen.append((order.id, ctx.message.cause))
        return order.id * 2

    @mesh.actor
    def take(order: Order, ctx: Context) -> int:
        anyio.from_thread.run(other.tell, Order(1))
        anyio.from_thread.run_sync(other.tell_nowait, Order(2))
        answer = anyio.from_thread.run(other.ask, Order(3))
        with pytest.raises(WrongBody):
            anyio.from_thread.run(other.tell, 3)  # pyright: ignore[reportArgumentType] - on purpose
        return answer

    async with mesh:
        assert await take.ask(Order(0)) == 6
        await mesh.idle()
    assert [number for number, _ in seen] == [1, 2, 3]
    assert len({cause for _, cause in seen}) == 1
    assert seen[0][1] is not None
    assert counts(other.mailbox) == {"entered": 3, "acked": 3}


class TestTimeLimits:
    """Time limits of threads, where time does not wait for them."""

    @pytest.fixture(params=BACKENDS)
    def anyio_backend(self, request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
        return virtual_backend(request.param, patience=0.02)

    async def test_time_limit_cannot_interrupt(self, caplog: pytest.LogCaptureFixture):
        """A thread runs on past its time limit; when it returns all the same it is done, and named in the log."""
        mesh = Mesh()

        @mesh.actor(timeout=5, retry=Retry(3))
        def take(order: Order) -> str:
            anyio.from_thread.run(wait_in_the_loop)
            return "done"

        async def wait_in_the_loop() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(20)

        async with mesh:
            receipt = await take.tell(Order(1))
            await mesh.idle()
        assert counts(take.mailbox) == {"entered": 1, "acked": 1}
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == [f"actor 'take' finished message {receipt.message_id} although its time limit of 5 s had passed"]

    async def test_time_limit_of_a_thread_that_fails(self):
        """A thread that raises after its time limit has failed with its own exception."""
        mesh = Mesh()

        async def wait_in_the_loop() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(20)

        @mesh.actor(timeout=5)
        def take(order: Order) -> None:
            anyio.from_thread.run(wait_in_the_loop)
            raise ValueError("late")

        async with mesh:
            await take.tell(Order(1))
            await mesh.idle()
        assert counts(take.mailbox) == {"entered": 1, "dead": 1}
        assert mesh.dead_letters.list()[0].deaths[0].detail == "ValueError: late"


async def test_policies_hold_in_threads():
    """Retry and Reject mean the same in a thread."""
    mesh = Mesh()
    attempts: list[tuple[int, int]] = []

    @mesh.actor(retry=Retry(3, initial=1, jitter="none"))
    def take(order: Order, ctx: Context) -> str:
        attempts.append((order.id, ctx.attempt))
        if order.id == 1:
            raise Reject("never")
        if ctx.attempt < 3:
            raise OSError
        return "done"

    async with mesh:
        assert await take.ask(Order(0)) == "done"
        await take.tell(Order(1))
        await mesh.idle()
    assert attempts == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "dead": 1}


async def test_odd_exceptions_in_threads():
    """StopIteration and a BaseException in a thread end as they do elsewhere: a failure, and a stop of the mesh."""
    mesh = Mesh()

    class Fatal(BaseException):
        pass

    @mesh.actor
    def take(order: Order) -> None:
        if order.id == 1:
            raise StopIteration
        raise Fatal

    with pytest.raises(Fatal):  # noqa: PT012 - the mesh is left by it
        async with mesh:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await take.ask(Order(1))
            await take.tell(Order(2))
            await anyio.sleep_forever()
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "ready": 1}


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_asker_that_leaves_a_thread(ends: str, caplog: pytest.LogCaptureFixture):
    """A thread whose asker has left runs on: acked if it returns; if it raises, logged and withdrawn, and not retried."""
    mesh = Mesh()
    gate = Gate()
    attempts: list[int] = []

    @mesh.actor(retry=Retry(5, initial=1))
    def take(order: Order, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        gate.wait()
        if ends == "raises":
            raise ValueError("too late")

    async def ask() -> None:
        await take.ask(Order(1))

    async with mesh:
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await gate.until(1)
            group.cancel_scope.cancel()
        assert counts(take.mailbox) == {"entered": 1, "leased": 1}
        gate.open()
        await mesh.idle()
    assert attempts == [1]
    assert counts(take.mailbox) == {"entered": 1, "acked": 1} if ends == "returns" else {"entered": 1, "withdrawn": 1}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == (ends == "raises")
    assert len(mesh.dead_letters) == 0


async def test_stop_waits_for_threads():
    """Stopping an actor, or leaving the mesh, waits for the threads; what they finish is acked."""
    mesh = Mesh(grace=0)
    gate = Gate()

    @mesh.actor(concurrency=2)
    def take(order: Order) -> None:
        gate.wait()

    async def let_go() -> None:
        await settled()
        gate.open()

    async with mesh, anyio.create_task_group() as group:
        for number in range(5):
            await take.tell(Order(number))
        await gate.until(2)
        group.start_soon(let_go)
        await take.stop()
        assert counts(take.mailbox) == {"entered": 5, "acked": 2, "ready": 3}
    assert counts(take.mailbox) == {"entered": 5, "acked": 2, "ready": 3}


async def test_wrapped_coroutine_function():
    """A plain function that returns a coroutine is called in a thread; the coroutine is awaited in the loop, and limited."""
    mesh = Mesh()
    threads: list[int] = []

    async def really(order: Order) -> int:
        threads.append(threading.get_ident())
        if order.id:
            await anyio.sleep_forever()
        return order.id

    @mesh.actor(timeout=3)
    def take(order: Order) -> Any:
        threads.append(threading.get_ident())
        return really(order)

    async with mesh:
        assert await take.ask(Order(0)) == 0
        with pytest.raises(TimeoutError):
            await take.ask(Order(1))
    assert threads[1] == threading.get_ident() != threads[0]
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}
