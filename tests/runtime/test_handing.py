"""The usual way of plain messages to instances that are there: the message itself holds its lane, without an Entry."""

import logging
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import DeadlockError, KeyedActor, Mesh, Request, Retry, on
from flowmesh._core.entry import Entry
from flowmesh.testing import explore, settled

pytestmark = pytest.mark.anyio


class Do(Struct, frozen=True):
    key: str
    what: str = ""


class Ask(Struct, Request[int], frozen=True):
    key: str


def key_of(message: Any) -> str:
    """Return the value of a message."""
    return str(message.key)


class Desk:
    """What happens, in order; `again`: what is to fail once more; `held`: what waits for it to be set."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.again: set[str] = set()
        self.held: dict[str, anyio.Event] = {}

    def clerk(self) -> type:
        """Return a class whose handlers take the body and nothing else."""
        desk = self

        class Clerk:
            def __init__(self) -> None:
                self.count = 0

            @on
            async def do(self, message: Do) -> None:
                name = message.key + message.what
                self.count += 1
                desk.lines.append(f"{name} begins")
                if name in desk.held:
                    await desk.held[name].wait()
                if name in desk.again:
                    desk.again.discard(name)
                    raise ValueError(name)
                desk.lines.append(f"{name} ends ({self.count})")

            @on
            async def asked(self, message: Ask) -> int:
                return self.count

        return Clerk


async def warm(mesh: Mesh, clerks: KeyedActor[Any, Any], keys: str) -> None:
    """Let the instances be there: the first message of each goes another way."""
    for key in keys:
        await clerks.tell(Do(key))
    await mesh.idle()


async def test_the_message_holds_its_lane():
    """While its handler runs; copies of its value wait, in order, and those of others do not."""
    mesh, desk = Mesh("shop"), Desk()
    clerks = mesh.actor(desk.clerk(), by=key_of, concurrency=3, name="clerks")
    desk.held["a1"] = anyio.Event()
    async with mesh:
        await warm(mesh, clerks, "ab")
        desk.lines.clear()
        for what in "123":
            await clerks.tell(Do("a", what))
            await clerks.tell(Do("b", what))
        await settled()
        box = clerks.cell.box
        lane = box.lanes["a"]
        assert not isinstance(lane.holder, Entry)
        assert lane.in_hand is lane.message is lane.holder
        assert lane.in_hand is not None
        assert lane.in_hand.body == Do("a", "1")
        assert clerks.mailbox.statistics().leased == 1
        assert desk.lines == [
            "a1 begins",
            *(f"b{what} {step}" for what in "123" for step in ("begins", f"ends ({int(what) + 1})")),
        ]
        desk.held["a1"].set()
        await mesh.idle()
    assert [line for line in desk.lines if line[0] == "a" and "ends" in line] == ["a1 ends (2)", "a2 ends (3)", "a3 ends (4)"]


async def test_one_that_fails_keeps_its_lane_and_its_place():
    """The copies that came after it wait for its retry; those of other values go on."""
    mesh, desk = Mesh("shop"), Desk()
    clerks = mesh.actor(desk.clerk(), by=key_of, concurrency=2, retry=Retry(initial=1.0, jitter="none"), name="clerks")
    desk.again.add("a1")
    async with mesh:
        await warm(mesh, clerks, "ab")
        desk.lines.clear()
        for name in ("a1", "a2", "b1"):
            await clerks.tell(Do(name[0], name[1]))
        await settled()
        assert desk.lines == ["a1 begins", "b1 begins", "b1 ends (2)"]
        await mesh.idle()
    assert desk.lines[3:] == ["a1 begins", "a1 ends (3)", "a2 begins", "a2 ends (4)"]


async def test_one_that_fails_for_good_frees_its_lane(caplog: pytest.LogCaptureFixture):
    """It is a dead letter, and the next of its value has its turn."""
    mesh, desk = Mesh("shop"), Desk()
    clerks = mesh.actor(desk.clerk(), by=key_of, name="clerks")
    desk.again.add("a1")
    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with mesh:
            await warm(mesh, clerks, "a")
            for what in "12":
                await clerks.tell(Do("a", what))
            await mesh.idle()
            assert [letter.body for letter in mesh.dead_letters.list()] == [Do("a", "1")]
            assert clerks.mailbox.statistics().acked == 2
    assert desk.lines[-1] == "a2 ends (3)"


async def test_it_is_not_put_away_meanwhile():
    """Not after `idle` seconds in a handler, and not to make room for another value."""
    mesh, desk = Mesh("shop"), Desk()
    clerks = mesh.actor(desk.clerk(), by=key_of, idle=1.0, max_active=2, concurrency=4, name="clerks")
    desk.held["a1"] = desk.held["b1"] = anyio.Event()
    async with mesh:
        await warm(mesh, clerks, "ab")
        await clerks.tell(Do("a", "1"))
        await clerks.tell(Do("b", "1"))
        await anyio.sleep(5.0)
        await clerks.tell(Do("c"))
        await anyio.sleep(5.0)
        assert not any(line.startswith("c") for line in desk.lines)
        desk.held["a1"].set()
        await anyio.sleep(0.5)
        assert sorted(desk.lines[-4:-2]) == ["a1 ends (2)", "b1 ends (2)"]
        assert desk.lines[-2:] == ["c begins", "c ends (1)"]
        await anyio.sleep(5.0)
        found = mesh.statistics().actors["clerks"].instances
        assert found is not None
        assert (found.active, found.put_away) == (0, 3)


async def test_stopping_waits_for_it():
    """The instance is left when its handler has ended, not before."""
    mesh, lines, held = Mesh("shop"), list[str](), anyio.Event()

    class Kept:
        async def on_stop(self) -> None:
            lines.append("stops")

        @on
        async def do(self, message: Do) -> None:
            if message.what:
                await held.wait()
            lines.append(f"done {message.what}")

    kept = mesh.actor(Kept, by=key_of)
    async with mesh:
        await warm(mesh, kept, "a")
        await kept.tell(Do("a", "1"))
        await settled()
        async with anyio.create_task_group() as group:
            group.start_soon(kept.stop)
            await anyio.sleep(5.0)
            assert lines == ["done "]
            held.set()
        assert lines == ["done ", "done 1", "stops"]


async def test_who_waits_for_it_is_named():
    """A ring through a lane that a plain message holds is seen."""
    mesh = Mesh("shop")
    raised: list[DeadlockError] = []

    class Selfish:
        @on
        async def do(self, message: Do) -> None:
            if message.what:
                with pytest.raises(DeadlockError) as found:
                    await selfish.ask(Ask(message.key))
                raised.append(found.value)

        @on
        async def asked(self, message: Ask) -> int:
            return 1

    selfish = mesh.actor(Selfish, by=key_of, concurrency=2, name="selfish")
    async with mesh:
        await warm(mesh, selfish, "a")
        await selfish.tell(Do("a", "ask yourself"))
        await mesh.idle()
    assert len(raised) == 1
    assert "selfish" in str(raised[0])


async def test_a_wrong_lane_is_asked_for_once_more():
    """What `by` raises is told by the other way: the message is a dead letter, the next one is handled."""
    mesh, desk = Mesh("shop"), Desk()

    def moody(message: Any) -> str:
        if message.what == "nowhere":
            raise LookupError(message.what)
        return key_of(message)

    clerks = mesh.actor(desk.clerk(), by=moody, name="clerks")
    async with mesh:
        await warm(mesh, clerks, "a")
        await clerks.tell(Do("a", "nowhere"))
        await clerks.tell(Do("a", "1"))
        await mesh.idle()
        assert [letter.body.what for letter in mesh.dead_letters.list()] == ["nowhere"]
    assert desk.lines[-1] == "a1 ends (2)"


async def test_by_that_ends_the_program():
    """Also if it would not do so again, as when it is a signal that comes just then: the mesh stops, and the message stays."""
    mesh, desk = Mesh("shop"), Desk()
    signals = [SystemExit(3)]

    def final(message: Any) -> str:
        if message.what == "end" and signals:
            raise signals.pop()
        return key_of(message)

    clerks = mesh.actor(desk.clerk(), by=final, name="clerks")

    async def run() -> None:
        async with mesh:
            await warm(mesh, clerks, "a")
            await clerks.tell(Do("a", "end"))
            await anyio.sleep(60.0)

    with pytest.raises(SystemExit):
        await run()
    assert clerks.mailbox.statistics().ready == 1
    assert clerks.mailbox.statistics().leased == 0


async def test_cancelled_with_its_mesh():
    """What is in hand goes back and counts as left over; nothing holds the lane then."""
    mesh, desk = Mesh("shop", grace=1.0), Desk()
    clerks = mesh.actor(desk.clerk(), by=key_of, name="clerks")
    desk.held["a1"] = anyio.Event()
    async with mesh:
        await warm(mesh, clerks, "a")
        await clerks.tell(Do("a", "1"))
        await settled()
    box = clerks.cell.box
    assert (box.ready, box.leased, box.lanes) == (1, 0, {})
    desk.held["a1"].set()
    async with mesh:
        await mesh.idle()
    assert desk.lines[-1] == "a1 ends (1)"


async def _many() -> None:
    mesh, desk = Mesh("shop"), Desk()
    desk.again |= {"a3", "b5", "c1"}
    retry = Retry(initial=0.2, jitter="none")
    clerks = mesh.actor(desk.clerk(), by=key_of, concurrency=3, max_active=2, idle=0.5, retry=retry, name="clerks")
    async with mesh:
        for number in range(8):
            for key in "abc":
                await clerks.tell(Do(key, str(number)))
            if number % 3 == 0:
                await anyio.sleep(0.3)
        await mesh.idle()
        assert clerks.mailbox.statistics().acked == 24
    for key in "abc":
        done = [line.split()[0] for line in desk.lines if line[0] == key and "ends" in line]
        assert done == [f"{key}{number}" for number in range(8)]


def test_in_any_order():
    """Values, failures, idle instances and few places: each message is handled, and those of a value in order."""
    assert explore(_many, seeds=50) == 100
