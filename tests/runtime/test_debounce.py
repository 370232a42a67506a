"""`debounce=`: of the messages that come close together only the latest is handled."""

import logging
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Context, Debounce, Mesh, NoReply, Retry, on
from flowmesh.testing import Swept, advance, cancel_sweep, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Change(Struct, frozen=True):
    document: str
    version: int


Seen = list[tuple[float, str, int]]
"""When each change was handled, of which document, and which version."""


def indexer(mesh: Mesh, seen: Seen, debounce: Debounce, *, takes: float = 0.0, **options: Any) -> Any:
    """Declare an actor that notes what it handles; each takes that many seconds."""

    @mesh.actor(debounce=debounce, **options)
    async def index(change: Change) -> int:
        seen.append((anyio.current_time(), change.document, change.version))
        await anyio.sleep(takes)
        return change.version

    return index


BY_DOCUMENT = Debounce(2.0, 10.0, by=lambda change: change.document)


async def test_only_the_latest_is_handled():
    """After `quiet` seconds without a newer one; those before it are dropped, and counted."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, Debounce(2.0, 60.0))
    async with mesh:
        began = anyio.current_time()
        for version in range(5):
            await index.tell(Change("a", version))
            await advance(1.0)
        await mesh.idle()
    assert seen == [(began + 6, "a", 4)]
    assert counts(index.mailbox) == {"entered": 5, "acked": 1, "dropped": 4}


async def test_max_wait_ends_a_burst_that_does_not_end():
    """The latest is handled `max_wait` after the first, although more are coming."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, Debounce(2.0, 4.0))
    async with mesh:
        began = anyio.current_time()
        for version in range(11):
            await index.tell(Change("a", version))
            await advance(1.0)
        await mesh.idle()
    assert seen == [(began + 4, "a", 3), (began + 8, "a", 7), (began + 12, "a", 10)]


async def test_values_have_their_own_time():
    """Each value of `by` is quiet for itself."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, BY_DOCUMENT)
    async with mesh:
        began = anyio.current_time()
        await index.tell(Change("a", 1))
        await advance(1.0)
        await index.tell(Change("b", 1))
        await advance(0.5)
        await index.tell(Change("b", 2))
        await mesh.idle()
        assert index.cell.box.lanes == {}
    assert seen == [(began + 2, "a", 1), (began + 3.5, "b", 2)]


async def test_one_of_a_value_at_a_time():
    """While one is in hand, newer ones of its value wait, the latest of them; other values go on."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, BY_DOCUMENT, takes=20.0, concurrency=2)
    async with mesh:
        began = anyio.current_time()
        await index.tell(Change("a", 1))
        await advance(3.0)
        await index.tell(Change("a", 2))
        await index.tell(Change("b", 1))
        await advance(5.0)
        await index.tell(Change("a", 3))
        await mesh.idle()
    assert seen == [(began + 2, "a", 1), (began + 5, "b", 1), (began + 22, "a", 3)]
    assert counts(index.mailbox) == {"entered": 4, "acked": 3, "dropped": 1}


async def test_asks_that_give_way():
    """The asker of a message that gives way gets NoReply, dropped; the one of the latest gets the reply."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, Debounce(2.0, 10.0))
    async with mesh, anyio.create_task_group() as group:

        async def first() -> None:
            with pytest.raises(NoReply) as caught:
                await index.ask(Change("a", 1))
            assert caught.value.reason == "dropped"

        group.start_soon(first)
        await settled()
        assert await index.ask(Change("a", 2)) == 2


async def test_a_retry_gives_way_to_a_newer_message(caplog: pytest.LogCaptureFixture):
    """One that failed waits for its retry until a newer one comes: then it is dropped."""
    mesh = Mesh()
    seen: list[tuple[float, int, int]] = []

    @mesh.actor(debounce=Debounce(2.0, 10.0), retry=Retry(5, initial=100.0, jitter="none", maximum=100.0))
    async def index(version: int, ctx: Context) -> None:
        seen.append((anyio.current_time() - began, version, ctx.attempt))
        if version < 3 and ctx.attempt == 1:
            raise OSError("disk")

    async with mesh:
        began = anyio.current_time()
        await index.tell(1)
        await advance(5.0)
        assert counts(index.mailbox) == {"entered": 1, "delayed": 1}
        await index.tell(2)
        await settled()
        assert counts(index.mailbox) == {"entered": 2, "ready": 1, "dropped": 1}
        await advance(200.0)
        await mesh.idle()
    assert seen == [(2, 1, 1), (7, 2, 1), (107, 2, 2)]
    assert counts(index.mailbox) == {"entered": 2, "acked": 1, "dropped": 1}


async def test_a_failure_gives_way_to_what_came_meanwhile():
    """When a newer one waits already, a failure is not tried again, and the newer one does not wait for its delay."""
    mesh = Mesh()
    seen: list[tuple[float, int]] = []

    @mesh.actor(debounce=Debounce(2.0, 10.0), retry=Retry(5, initial=100.0, jitter="none", maximum=100.0))
    async def index(version: int) -> None:
        seen.append((anyio.current_time() - began, version))
        await anyio.sleep(10.0)
        if version == 1:
            raise OSError("disk")

    async with mesh:
        began = anyio.current_time()
        await index.tell(1)
        await advance(5.0)
        await index.tell(2)
        await mesh.idle()
    assert seen == [(2, 1), (12, 2)]
    assert counts(index.mailbox) == {"entered": 2, "acked": 1, "dropped": 1}


async def test_an_asker_that_leaves_while_its_retry_waits():
    """What was held by it is handed out in its own time."""
    mesh = Mesh()
    seen: list[tuple[float, str, int]] = []

    @mesh.actor(debounce=BY_DOCUMENT, retry=Retry(5, initial=9.0, factor=1.0, jitter="none"))
    async def index(change: Change) -> None:
        seen.append((anyio.current_time() - began, change.document, change.version))
        if change.version == 1:
            raise OSError("disk")

    async with mesh:
        began = anyio.current_time()
        with anyio.move_on_after(5.0):
            await index.ask(Change("a", 1), timeout=None)
        await index.tell(Change("a", 2))
        await mesh.idle()
        assert index.cell.box.lanes == {}
    assert seen == [(2, "a", 1), (7, "a", 2)]
    assert counts(index.mailbox) == {"entered": 2, "acked": 1, "withdrawn": 1}


async def test_idle_pause_and_drain():
    """What waits is under way unless its actor is paused; a drain handles it at once."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, BY_DOCUMENT)
    async with mesh:
        began = anyio.current_time()
        await index.tell(Change("a", 1))
        await mesh.idle()
        assert anyio.current_time() - began == 2
        await index.tell(Change("a", 2))
        await settled()
        index.pause()
        await mesh.idle()
        await advance(60.0)
        assert counts(index.mailbox) == {"entered": 2, "acked": 1, "ready": 1}
        index.resume()
        await mesh.idle()
        began = anyio.current_time()
        await index.tell(Change("a", 3))
        await index.tell(Change("b", 1))
    assert seen[2:] == [(began, "a", 3), (began, "b", 1)]
    assert counts(index.mailbox) == {"entered": 4, "acked": 4}


async def test_a_class_can_be_debounced():
    """Its messages of all types are of one burst, unless `by` tells them apart."""
    mesh = Mesh()
    seen: list[Any] = []

    class Index:
        @on
        async def change(self, message: Change) -> None:
            seen.append(message)

        @on
        async def word(self, message: str) -> None:
            seen.append(message)

    index = mesh.actor(Index, debounce=Debounce(2.0, 10.0, by=type))
    async with mesh:
        await index.tell(Change("a", 1))
        await index.tell("word")
        await index.tell(Change("a", 2))
        await mesh.idle()
    assert seen == [Change("a", 2), "word"]


async def test_stop_puts_it_back():
    """What an aborted mesh leaves is ready; the next run handles the latest of it."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, BY_DOCUMENT, takes=60.0)

    async def live() -> None:
        async with mesh:
            await index.tell(Change("a", 1))
            await advance(3.0)
            await index.tell(Change("a", 2))
            await index.tell(Change("a", 3))
            await settled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await live()
    assert counts(index.mailbox) == {"entered": 3, "ready": 3}
    async with mesh:
        await mesh.idle()
    assert [(document, version) for _, document, version in seen] == [("a", 1), ("a", 3)]
    assert counts(index.mailbox) == {"entered": 3, "acked": 1, "dropped": 2}


async def test_asking_is_cancellable_at_every_point():
    """Wherever an asker is cancelled, each message ends once and nothing stays behind."""
    mesh, seen = Mesh(), Seen()
    index = indexer(mesh, seen, BY_DOCUMENT, takes=1.0)
    async with mesh:

        async def ask() -> int:
            await index.tell(Change("a", 1))
            await anyio.lowlevel.checkpoint()
            return await index.ask(Change("a", 2))

        async def check(swept: Swept[int]) -> None:
            await mesh.idle()
            found = counts(index.mailbox)
            assert found["entered"] == sum(found.get(name, 0) for name in ("acked", "dropped", "withdrawn"))
            assert index.cell.box.lanes == {}

        assert await cancel_sweep(ask, check) >= 2


async def test_stopping_a_mesh_is_cancellable_at_every_point(caplog: pytest.LogCaptureFixture):
    """Wherever the body of a mesh is cancelled, every message has ended, or is ready, and is counted once."""
    made: list[Any] = []

    async def live() -> None:
        mesh, seen = Mesh(grace=2.0), Seen()
        index = indexer(mesh, seen, BY_DOCUMENT, takes=1.0, concurrency=2)
        made.append(index)
        async with mesh:
            for number in range(5):
                await index.tell(Change("ab"[number % 2], number))
                await anyio.sleep(1.5)

    async def check(swept: Swept[None]) -> None:
        found = counts(made.pop().mailbox)
        assert found.get("entered", 0) == sum(found.get(name, 0) for name in ("acked", "dropped", "ready"))

    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        assert await cancel_sweep(live, check) >= 5
