"""Context variables: handlers start from the mesh's context, and what one changes stays with its message."""

from contextvars import ContextVar
from decimal import Context as Precision
from decimal import Decimal, setcontext

import anyio
import anyio.lowlevel
import pytest

from flowmesh import Context, Mesh, Retry
from flowmesh._runtime.worker import current_worker
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_workers_start_from_the_meshs_context():
    """A handler sees the variables as they were when the mesh was entered, whoever sends, tells or asks."""
    mesh = Mesh()
    seen: list[str] = []

    @mesh.actor(concurrency=3)
    async def take(number: int) -> str:
        await anyio.lowlevel.checkpoint()
        seen.append(tenant.get())
        return tenant.get()

    token = tenant.set("mesh")
    async with mesh:
        tenant.set("publisher")
        for number in range(5):
            await take.tell(number)
        take.tell_nowait(5)
        assert await take.ask(6) == "mesh"
        await mesh.exchange("").publish(7, "take")
        await mesh.idle()

        @mesh.actor
        def in_thread(number: int) -> str:
            return tenant.get()

        assert await in_thread.ask(1) == "mesh"
    tenant.reset(token)
    assert seen == ["mesh"] * 8


async def test_context_of_each_start():
    """A mesh that is entered again takes the context of that moment."""
    mesh = Mesh()

    @mesh.actor
    async def take(number: int) -> str:
        return tenant.get()

    for name in ("one", "two"):
        token = tenant.set(name)
        async with mesh:
            assert await take.ask(1) == name
        tenant.reset(token)


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_changes_do_not_leak(suspends: bool, concurrency: int):
    """A handler that changes a variable changes it for its own message alone: not for its next one, nor for another actor."""
    mesh = Mesh()
    before: list[str] = []
    after: list[bool] = []
    others: list[str] = []

    @mesh.actor(concurrency=concurrency)
    async def change(number: int) -> None:
        before.append(tenant.get())
        tenant.set(f"tenant-{number}")
        if suspends:
            await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.001 * (number % 3))
        after.append(tenant.get() == f"tenant-{number}")

    @mesh.actor
    async def other(number: int) -> None:
        others.append(tenant.get())

    async with mesh:
        for number in range(50):
            await change.tell(number)
            await other.tell(number)
        await mesh.idle()
    assert before == ["nobody"] * 50
    assert after == [True] * 50
    assert others == ["nobody"] * 50
    assert counts(change.mailbox) == counts(other.mailbox) == {"entered": 50, "acked": 50}


@pytest.mark.parametrize("end", ["return", "raise", "limit", "retry"])
async def test_changes_do_not_leak_however_the_turn_ends(end: str):
    """The first message that changes a variable is not seen by the next, even if it fails or is cancelled."""
    mesh = Mesh()
    before: list[str] = []

    @mesh.actor(timeout=1, retry=Retry(2, initial=1, jitter="none", on=(ConnectionError,)))
    async def change(number: int, ctx: Context) -> None:
        before.append(tenant.get())
        tenant.set("changed")
        if end == "raise":
            raise ValueError
        if end == "retry" and ctx.attempt == 1:
            raise ConnectionError
        if end == "limit":
            await anyio.sleep_forever()

    @mesh.actor
    async def other(number: int) -> None:
        before.append(tenant.get())

    async with mesh:
        for number in range(3):
            await change.tell(number)
            await other.tell(number)
        await mesh.idle()
    assert before == ["nobody"] * len(before)
    assert len(before) == (9 if end == "retry" else 6)


async def test_one_worker_is_retired():
    """The first change costs a worker; from then on the actor's messages run in copies, and no further worker is lost."""
    mesh = Mesh()
    workers: set[object] = set()

    @mesh.actor
    async def change(number: int) -> None:
        workers.add(current_worker.get())
        tenant.set(str(number))

    async with mesh:
        for number in range(100):
            await change.ask(number)
        assert len(workers) == 2
        assert change.cell.is_stepped
        assert mesh.statistics().workers <= 2


async def test_decimal_context():
    """The decimal module's context is a context variable: its precision does not leak either."""
    mesh = Mesh()
    digits: list[int] = []

    @mesh.actor
    async def precise(number: int) -> None:
        digits.append(len(str(Decimal(1) / Decimal(3))))
        setcontext(Precision(prec=5))

    async with mesh:
        for number in range(5):
            await precise.tell(number)
        await mesh.idle()
    assert len(set(digits)) == 1


async def test_variables_within_one_turn():
    """Inside one turn a variable keeps its value, across awaits and into the tasks that the handler starts."""
    mesh = Mesh()
    seen: list[tuple[int, str]] = []

    async def child(number: int) -> None:
        await anyio.sleep(0.01)
        seen.append((number, tenant.get()))

    @mesh.actor(concurrency=5)
    async def take(number: int) -> None:
        tenant.set(f"tenant-{number}")
        async with anyio.create_task_group() as group:
            group.start_soon(child, number)
            group.start_soon(child, number)
            await anyio.sleep(0.001)
        assert tenant.get() == f"tenant-{number}"

    async with mesh:
        for number in range(20):
            await take.tell(number)
        await mesh.idle()
    assert sorted(seen) == sorted((number, f"tenant-{number}") for number in range(20) for _ in range(2))


async def test_stepped_handlers_keep_every_feature():
    """A handler that runs in a copy can still be asked, limited, cancelled, and can swallow its cancellation."""
    mesh = Mesh()

    @mesh.actor(timeout=2, concurrency=2)
    async def take(number: int) -> int:
        tenant.set("changed")
        if number == 1:
            await anyio.sleep_forever()
        if number == 2:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                return 20
        if number == 3:
            raise KeyError(number)
        with anyio.move_on_after(1):
            await anyio.sleep_forever()
        return number

    async with mesh:
        await take.ask(0)
        assert take.cell.is_stepped
        with pytest.raises(TimeoutError):
            await take.ask(1)
        assert await take.ask(2) == 20
        with pytest.raises(KeyError):
            await take.ask(3)
        assert await take.ask(4) == 4
        with pytest.raises(TimeoutError):
            await take.ask(1, timeout=1)
    assert counts(take.mailbox) == {"entered": 6, "acked": 5, "withdrawn": 1}


async def test_threads_do_not_leak():
    """What a handler in a thread changes stays in its thread."""
    mesh = Mesh()

    @mesh.actor
    def change(number: int) -> str:
        before = tenant.get()
        tenant.set("changed")
        return before

    async with mesh:
        assert [await change.ask(number) for number in range(3)] == ["nobody"] * 3
        assert not change.cell.is_stepped
