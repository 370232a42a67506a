"""The usual way of asks to an actor whose handler takes the body and nothing else, and where the general one takes over."""

import contextvars
import logging
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Mesh, Retry
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio

NOTE: contextvars.ContextVar[str] = contextvars.ContextVar("note", default="clean")


class Add(Struct, frozen=True):
    number: int


async def gather(asks: list[Any]) -> list[Any]:
    """Return what each gives, or the error it raises, in their order."""
    outcomes: list[Any] = [None] * len(asks)

    async def one(index: int) -> None:
        try:
            outcomes[index] = await asks[index]()
        except Exception as error:
            outcomes[index] = repr(error)

    async with anyio.create_task_group() as group:
        for index in range(len(asks)):
            group.start_soon(one, index)
    return outcomes


async def test_asks_and_tells_keep_their_order():
    """Whatever the way of each: asks, plain messages, one with a header, and bodies that are converted first."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor
    async def add(body: Add) -> int:
        seen.append(body.number)
        return body.number * 10

    inbox = mesh.exchange("inbox", "direct")
    inbox.bind(add, "add")
    async with mesh:
        add.pause()
        outcomes: list[Any] = []

        async def ask(body: Any) -> None:
            outcomes.append(await add.ask(body))

        async with anyio.create_task_group() as group:
            for number in range(0, 20, 5):
                group.start_soon(ask, Add(number))
                await settled()
                await add.tell(Add(number + 1))
                group.start_soon(ask, Add(number + 2))
                await settled()
                await add.tell(Add(number + 3), headers={"a": 1})
                await inbox.publish({"number": number + 4}, "add")
            add.resume()
        await mesh.idle()
    assert seen == list(range(20))
    assert sorted(outcomes) == [number * 10 for number in range(20) if number % 5 in (0, 2)]
    assert mesh.statistics().mailboxes["add"].acked == 20


async def test_each_asker_gets_its_own_outcome():
    """Of a handler that fails for one body, retries for another, and answers the others."""
    mesh, failures = Mesh("shop"), [2, 2]

    @mesh.actor(retry=Retry(attempts=2, initial=1, on=(KeyError,)))
    async def add(body: Add) -> int:
        if body.number == 1:
            raise ValueError("one")
        if body.number in failures:
            failures.remove(body.number)
            raise KeyError("two")
        return body.number

    async with mesh:
        asks = [lambda number=number: add.ask(Add(number)) for number in (0, 1, 2, 3)]
        assert await gather(asks) == [0, "ValueError('one')", "KeyError('two')", 3]
        stats = mesh.statistics().mailboxes["add"]
        assert (stats.ready, stats.leased) == (0, 0)


async def test_a_context_variable_stays_with_its_ask():
    """A handler that sets one is stepped from then on; the asks behind it do not see what it set."""
    mesh = Mesh("shop")

    @mesh.actor
    async def note(body: Add) -> str:
        before = NOTE.get()
        NOTE.set(f"set by {body.number}")
        return before

    async with mesh:
        note.pause()
        asks = [lambda number=number: note.ask(Add(number)) for number in range(3)]
        async with anyio.create_task_group() as group:

            async def resume() -> None:
                await settled()
                note.resume()

            group.start_soon(resume)
            assert await gather(asks) == ["clean"] * 3


async def test_an_asker_that_leaves_cancels_its_handler_alone(caplog: pytest.LogCaptureFixture):
    """The next ask in line is answered, by a worker with a scope of its own."""
    caplog.set_level(logging.WARNING)
    mesh, ended = Mesh("shop"), list[str]()

    @mesh.actor
    async def add(body: Add) -> int:
        try:
            if body.number == 1:
                await anyio.sleep(10)
        finally:
            ended.append(f"{body.number}")
        return body.number

    async with mesh:
        outcomes = await gather(
            [lambda: add.ask(Add(1), timeout=2), lambda: add.ask(Add(2), timeout=5), lambda: add.ask(Add(3), timeout=5)]
        )
        await mesh.idle()  # The cancelled handler has ended.
        stats = mesh.statistics().mailboxes["add"]
    assert outcomes[0].startswith("TimeoutError")
    assert outcomes[1:] == [2, 3]
    assert sorted(ended) == ["1", "2", "3"]
    assert (stats.ready, stats.leased) == (0, 0)
    assert not caplog.records
