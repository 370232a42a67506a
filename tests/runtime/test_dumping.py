"""`mesh.dump()` and its signal: what everybody does at this moment, and where; and the list of long turns."""

import logging
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import Context, MailboxOptions, Mesh, on
from flowmesh._runtime.dumping import DUMP_SIGNAL
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio


class Question(Struct, frozen=True):
    number: int


def here(function: Callable[..., object], line: int) -> str:
    """The place that many lines into a function."""
    return f"        at {__file__}:{function.__code__.co_firstlineno + line} in {function.__name__}"


async def test_turns_with_their_place_and_what_they_wait_for():
    """Each turn is there with its message, its seconds, its wait, and the innermost line of the application's own code."""
    mesh = Mesh("shop", grace=0)

    async def nap() -> None:
        await anyio.sleep(100)

    @mesh.actor(mailbox=MailboxOptions(capacity=1))
    async def slow(number: int) -> None:
        await nap()

    async def ask(number: int) -> None:
        await slow.ask(number, timeout=None)

    mesh.actor(ask, name="asking")

    async def tell(number: int) -> None:
        await slow.tell(number)

    telling = mesh.actor(tell, name="telling")
    mesh.actor(tell, name="resting")
    async with mesh, anyio.create_task_group() as group:
        await slow.tell(1, message_id="m1")
        await settled()
        await mesh.exchange("").publish(2, "asking", message_id="m2")
        await settled()
        await anyio.sleep(3)
        await telling.tell(3, message_id="m3")
        group.start_soon(slow.tell, 4)
        await settled()
        await anyio.sleep(2)
        lines = mesh.dump().splitlines()
        assert lines[0].startswith("mesh 'shop' is running; actors: 4, workers: ")
        assert lines[1:] == [
            "actor 'slow': 1 of 1 slots at work, 1 ready",
            "    message m1 for 5 s",
            here(nap, 1),
            "actor 'asking': 1 of 1 slots at work, 0 ready",
            "    message m2 for 5 s, waits for an answer from mailbox 'slow'",
            here(ask, 1),
            "actor 'telling': 1 of 1 slots at work, 0 ready",
            "    message m3 for 2 s, waits for room in mailbox 'slow'",
            here(tell, 1),
            "actors that have nothing to do: 1",
            "mailbox 'slow' is full (1 of 1); senders that wait for room: 2, of them in turns: 1",
        ]
        group.cancel_scope.cancel()


async def test_whatever_a_handler_is_suspended_in():
    """An asynchronous context manager, a loop over an asynchronous generator, a task group: the line inside is found."""
    mesh = Mesh("shop", grace=0)

    @asynccontextmanager
    async def manager() -> AsyncGenerator[None]:
        await anyio.sleep(100)
        yield

    async def numbers() -> AsyncGenerator[int]:
        await anyio.sleep(100)
        yield 1

    @mesh.actor(concurrency=4)
    async def work(what: str) -> None:
        if what == "manager":
            async with manager():
                pass
        elif what == "loop":
            async for _ in numbers():
                pass
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 100)

    async with mesh, anyio.create_task_group():
        for what in ("manager", "loop", "group"):
            await work.tell(what, message_id=what)
        await settled()
        places = dict(re.findall(r"message (\w+) for .*\n +at .*:\d+ in (\w+)", mesh.dump()))
        assert places == {"manager": "manager", "loop": "numbers", "group": "work"}


async def test_a_thread_and_whoever_asks():
    """A handler in a thread is said to be in one; a handler that takes the dump itself stands where it does that."""
    mesh = Mesh("shop")
    shown: list[str] = []

    @mesh.actor
    def plain(number: int) -> None:
        while not shown:
            time.sleep(0)

    @mesh.actor
    async def look(number: int) -> None:
        await settled()
        shown.append(mesh.dump())

    async with mesh:
        await plain.tell(1, message_id="m1")
        await look.tell(1, message_id="m2")
        await mesh.idle()
    assert "    message m1 for 0 s\n        at work in a thread\n" in re.sub(r"for \S+ s", "for 0 s", shown[0])
    assert f"{__file__}:{look.cell.handler.function.__code__.co_firstlineno + 3} in look" in shown[0]


async def test_why_nothing_is_handed_to_an_actor():
    """Paused, held, stopped with a turn in hand, or as it starts and stops: it says so."""
    mesh = Mesh("shop", grace=0)

    @mesh.actor
    async def paused(number: int) -> None: ...

    box = mesh.mailbox("box", MailboxOptions(capacity=1))

    @mesh.actor
    async def held(number: int, ctx: Context) -> None:
        for _ in range(2):
            ctx.publish(mesh.exchange(""), 1, key="box")

    @mesh.actor
    async def stopped(number: int) -> None:
        await anyio.sleep(100)

    class Slow:
        async def on_start(self) -> None:
            await anyio.sleep(10)

        async def on_stop(self) -> None:
            await anyio.sleep(10)

        @on
        async def question(self, question: Question) -> int:
            return question.number

    async with mesh, anyio.create_task_group() as group:
        paused.pause()
        await held.tell(1)
        await stopped.tell(1)
        await settled()
        group.start_soon(stopped.stop)
        slow: Any = mesh.actor(Slow, name="slow")
        await settled()
        lines = mesh.dump().splitlines()
        assert "actor 'paused': 0 of 1 slots at work, 0 ready, paused" in lines
        assert "actor 'held': 0 of 1 slots at work, 0 ready, held until there is room in 'box'" in lines
        assert "actor 'stopped': 1 of 1 slots at work, 0 ready, stopped" in lines
        place = lines.index("actor 'slow': 0 of 1 slots at work, 0 ready, not started")
        assert lines[place + 1] == "    its lifespan is entered"
        assert lines[place + 2] == here(Slow.on_start, 1)
        await anyio.sleep(11)
        group.start_soon(slow.stop)
        await settled()
        lines = mesh.dump().splitlines()
        place = lines.index("actor 'slow': 0 of 1 slots at work, 0 ready, stopped")
        assert lines[place + 1] == "    its lifespan is left"
        assert lines[place + 2] == here(Slow.on_stop, 1)
        assert len(box.peek()) == 2
        group.cancel_scope.cancel()


async def test_a_mesh_that_does_not_run():
    """It can be asked at any time."""
    mesh = Mesh("shop")
    assert mesh.dump() == "mesh 'shop' has not been started; actors: 0, workers: 0"
    async with mesh:
        pass
    assert mesh.dump() == "mesh 'shop' has stopped; actors: 0, workers: 0"


async def test_long_turns_are_listed_in_the_statistics():
    """By actor and message, with their seconds: those that run for longer than a second, or than asked for."""
    mesh = Mesh("shop", grace=0)

    @mesh.actor(concurrency=3)
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    def listed(**options: float) -> dict[str, float]:
        return {name: round(seconds, 1) for name, seconds in mesh.statistics(**options).actors["work"].running_for.items()}

    async with mesh:
        await work.tell(100, message_id="first")
        await work.tell(0.1, message_id="short")
        await anyio.sleep(2.5)
        await work.tell(100, message_id="second")
        await settled()
        assert listed() == {"first": 2.5}
        assert listed(longer_than=5) == {}
        await anyio.sleep(3)
        assert listed(longer_than=0.0) == {"first": 5.5, "second": 3.0}


async def test_each_turn_of_a_worker_counts_for_itself():
    """Several messages that one worker handles in a row: each has its own seconds, not those of the row."""
    mesh = Mesh("shop", grace=0)

    @mesh.actor
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    async with mesh:
        for number, seconds in enumerate((10, 0, 10, 100)):
            await work.tell(seconds, message_id=f"m{number}")
        await anyio.sleep(25)
        (found,) = mesh.statistics().actors["work"].running_for.items()
        assert found == ("m3", pytest.approx(5, abs=0.1))


async def test_a_signal_logs_the_dump(caplog: pytest.LogCaptureFixture):
    """Under `serve`, SIGUSR1 logs it, and nothing stops; afterwards the signal is whose it was."""
    number = DUMP_SIGNAL
    assert number is not None
    mesh = Mesh("shop")

    @mesh.actor
    async def work(_: int) -> None:
        signal.raise_signal(number)
        while not caplog.messages:
            await anyio.lowlevel.checkpoint()
        mesh.stop()

    @mesh.source
    async def poll(ctx: object) -> None:
        await work.tell(1, message_id="m1")

    assert await mesh.serve() == 0
    assert signal.getsignal(number) is signal.SIG_DFL
    assert caplog.messages[0].startswith("asked by a signal:\nmesh 'shop' is running; actors: 1, ")
    assert "    message m1 for " in caplog.messages[0]


async def test_a_signal_that_the_application_uses_is_left_to_it(caplog: pytest.LogCaptureFixture):
    """Whoever has set a handler keeps it."""
    number = DUMP_SIGNAL
    assert number is not None
    caplog.set_level(logging.WARNING)
    mesh, heard = Mesh("shop"), list[int]()
    before = signal.signal(number, lambda number, frame: heard.append(number))
    try:

        @mesh.source
        async def poll(ctx: object) -> None:
            signal.raise_signal(number)
            mesh.stop()

        await mesh.serve()
    finally:
        signal.signal(number, before)
    assert heard == [number]
    assert caplog.messages == []
