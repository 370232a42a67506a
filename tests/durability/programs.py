"""What is run and killed: each program is a mesh on a store, which says what it does as it does it.

A program says only what is certain: that a publish has been confirmed once it has returned, that a message is being handled
before anything else is done with it.
"""

import datetime
import importlib.util
import itertools
import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.lowlevel
import msgspec
from msgspec import Struct

from flowmesh import ActorContext, Context, MailboxOptions, Mesh, on
from flowmesh._runtime.clock import SystemClock
from flowmesh.stores import SQLiteStore

Backend = Literal["asyncio", "trio"]
Level = Literal["power", "process"]

VAST: Final = MailboxOptions(capacity=10_000_000)
SLOTS: Final = 4
LIMIT: Final = 3
POISONOUS: Final = 7


def say(*words: object, to: int = 1) -> None:
    """Write one line for the test, by one system call."""
    os.write(to, (" ".join(map(str, words)) + "\n").encode())


def mesh_on(store: str, level: Level, clock: SystemClock | None = None) -> Mesh:
    """Return the mesh of a program; it logs nothing that is not wrong."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    return Mesh("shop", store=SQLiteStore(store, durability=level, reserve=0), clock=clock)


def work(store: str, backend: Backend, level: Level, turn: int, is_last: bool = False) -> None:
    """Four producers, and four slots that each tell `done` of what they handle; the last one only ends what is there."""
    mesh = mesh_on(store, level)
    mesh.mailbox("done", VAST)

    @mesh.actor(concurrency=SLOTS, mailbox=MailboxOptions(capacity=100))
    async def handle(number: str, ctx: Context) -> None:
        say("handled", number, int(ctx.redelivered), ctx.attempt)
        await anyio.sleep(random.choice((0, 0, 0.001, 0.003)))
        ctx.publish(mesh.exchange(""), number, key="done")

    async def produce(producer: int) -> None:
        for count in itertools.count():
            number = f"{turn}.{producer}.{count}"
            if count % 5 == 4:
                numbers = [f"{number}.{part}" for part in range(3)]
                receipts = await mesh.exchange("").publish_many([(one, "handle") for one in numbers])
                assert {receipt.durability for receipt in receipts} == {level}
                for one in numbers:
                    say("confirmed", one)
            else:
                receipt = await handle.tell(number, message_id=number)
                assert receipt.durability == level
                say("confirmed", number)

    @mesh.source
    async def producers(ctx: ActorContext) -> None:
        say("running")
        if is_last:
            await mesh.idle()
            assert len(mesh.dead_letters) == 0, mesh.dead_letters.list()
            mesh.stop()
            return
        async with anyio.create_task_group() as group:
            for producer in range(4):
                group.start_soon(produce, producer)

    assert mesh.run(backend=backend) == 0


def poison(
    store: str, backend: Backend, level: Level, slots: int, ending: Literal["kill", "exit"], is_first: bool, is_slow: bool
) -> None:
    """Twenty messages, one of which ends its process; the first run publishes them, and a run ends when nothing is left."""
    mesh = mesh_on(store, level)

    @mesh.actor(concurrency=slots, mailbox=MailboxOptions(max_deliveries=LIMIT))
    async def handle(number: int, ctx: Context) -> None:
        say("handled", number, int(ctx.redelivered))
        await anyio.sleep(0 if not is_slow else 0.02 if number == POISONOUS else 0.1)
        if number == POISONOUS and ending == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == POISONOUS:
            os._exit(3)

    if is_first:
        handle.pause()

    @mesh.source
    async def feed(ctx: ActorContext) -> None:
        if is_first:
            await mesh.exchange("").publish_many([(number, "handle") for number in range(20)])
            handle.resume()
        await mesh.idle()
        for letter in mesh.dead_letters.list():
            say("dead", letter.body, letter.deaths[0].reason)
        mesh.stop()

    assert mesh.run(backend=backend) == 0


class Jumping(SystemClock):
    """A clock whose wall is somewhere else."""

    def __init__(self, jump: float) -> None:
        super().__init__()
        self._jump = jump

    def wall(self) -> float:
        """Return the real time, and the jump."""
        return super().wall() + self._jump


class Late(Struct, frozen=True):
    """A deferred message: when it is due, on the wall clock; 0 if it is due after a delay."""

    id: str
    due: float


def later(store: str, backend: Backend, level: Level, turn: int, jump: float, is_last: bool = False) -> None:
    """Messages with a delay or a time, to a mailbox that nobody empties and to an actor that looks at the clock."""
    clock = Jumping(jump)
    mesh = mesh_on(store, level, clock)
    mesh.mailbox("due", VAST)

    @mesh.actor(mailbox=VAST)
    async def look(late: Late, ctx: Context) -> None:
        say("handled", late.id, int(ctx.redelivered), clock.wall() - late.due)

    times = mesh.exchange("times", "fanout")
    times.bind(mesh.mailbox("due"))
    times.bind(look)

    @mesh.source
    async def publish(ctx: ActorContext) -> None:
        say("running")
        if is_last:
            while mesh.timers.list():  # noqa: ASYNC110 - due timers wake nobody but the mesh
                await anyio.sleep(0.002)
            await mesh.idle()
            mesh.stop()
            return
        for count in itertools.count():
            id, delay = f"{turn}.{count}", random.choice((0.001, 0.02, 0.1, 1.0, 600.0))
            if count % 2:
                receipt = await times.publish(Late(id, 0.0), delay=delay, message_id=id)
            else:
                due = clock.wall() + delay
                at = datetime.datetime.fromtimestamp(due, datetime.UTC)
                receipt = await times.publish(Late(id, due), at=at, message_id=id)
            assert receipt.timer is not None
            say("confirmed", id)

    assert mesh.run(backend=backend) == 0


def fan(store: str, backend: Backend, level: Level, turn: int) -> None:
    """Four producers publish to an exchange with eight mailboxes, which nobody empties."""
    mesh = mesh_on(store, level)
    news = mesh.exchange("news", "fanout")
    for number in range(8):
        news.bind(mesh.mailbox(f"reader {number}", VAST))

    async def produce(producer: int) -> None:
        for count in itertools.count():
            id = f"{turn}.{producer}.{count}"
            receipt = await news.publish(id, message_id=id)
            assert (receipt.routed, receipt.durability) == (8, level)
            say("confirmed", id)

    @mesh.source
    async def producers(ctx: ActorContext) -> None:
        say("running")
        async with anyio.create_task_group() as group:
            for producer in range(4):
                group.start_soon(produce, producer)

    mesh.run(backend=backend)


class Count(Struct, frozen=True):
    """How many messages the counter has counted."""

    number: int


def count(store: str, backend: Backend, level: Level, turn: int) -> None:
    """A class that saves how many messages it has counted, and tells `out` of each number."""
    mesh = mesh_on(store, level)
    mesh.mailbox("out", VAST)

    class Counter:
        def __init__(self) -> None:
            self.number = 0

        async def on_start(self, ctx: ActorContext) -> None:
            saved = ctx.saved(Count)
            self.number = 0 if saved is None else saved.number
            say("saved", self.number)

        @on
        async def add(self, message: str, ctx: Context) -> None:
            self.number += 1
            await anyio.lowlevel.checkpoint()
            ctx.save(Count(self.number))
            ctx.publish(mesh.exchange(""), self.number, key="out")

    counter = mesh.actor(Counter, name="counter", mailbox=MailboxOptions(capacity=100))

    @mesh.source
    async def feed(ctx: ActorContext) -> None:
        say("running")
        for number in itertools.count():
            await counter.tell(f"{turn}.{number}")
            say("confirmed", f"{turn}.{number}")

    mesh.run(backend=backend)


def census(store: str, backend: Backend, level: Level, turn: int, folders: list[str], totals: str) -> None:
    """A census of these folders, which writes its totals into a file when it is over."""
    del turn
    said = os.dup(1)
    spec = importlib.util.spec_from_file_location("census", Path(__file__).parents[2] / "examples" / "census.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    mesh, taken = example.build([Path(folder) for folder in folders], lateness=0.05)
    mesh.configure(store=SQLiteStore(store, durability=level, reserve=0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    say("running", to=said)
    assert mesh.run(backend=backend) == 0
    Path(totals).write_bytes(msgspec.json.encode(taken.summary()))


PROGRAMS: Final[dict[str, Callable[..., Any]]] = {
    "work": work,
    "poison": poison,
    "later": later,
    "fan": fan,
    "count": count,
    "census": census,
}
