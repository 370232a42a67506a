"""A state machine with `by=`: one machine for each value, with a state, postponed messages and timeouts of its own."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import (
    Context,
    DeadlockError,
    Machine,
    Mesh,
    Once,
    Rate,
    Request,
    Restart,
    Retry,
    after,
    enter,
    on,
)
from flowmesh._core.records import Batch
from flowmesh.stores.memory import MemoryStore
from flowmesh.testing import settled
from tests.runtime.counting import counts
from tests.runtime.doors import numbers

pytestmark = pytest.mark.anyio


class Unlock(Struct, frozen=True):
    door: str
    fails: bool = False


class Lock(Struct, frozen=True):
    door: str


class Open(Struct, Request[int], frozen=True):
    door: str
    number: int = 0


class GetState(Struct, Request[str], frozen=True):
    door: str


class Visits(Struct, frozen=True):
    count: int = 0


lines: list[Any] = []


def door_of(message: Any) -> str:
    """Return the value of a message."""
    return str(message.door)


class Door(Machine, initial="locked"):
    """Is opened when it is unlocked, and is shut 30 s later."""

    data: Visits = Visits()

    @on("locked", to="closed", ignore=("closed", "open"))
    async def unlock(self, message: Unlock) -> None:
        if message.fails:
            raise OSError("the key is bent")

    @on("closed", "open", to="locked", ignore="locked")
    async def lock(self, message: Lock) -> None:
        lines.append(("lock", message.door, self.state))

    @on("closed", "open", to="open", postpone="locked")
    async def open(self, message: Open, ctx: Context) -> int:
        self.data = Visits(self.data.count + 1)
        lines.append((message.door, message.number, ctx.attempt, ctx.redelivered))
        return self.data.count

    @on
    async def get_state(self, _: GetState) -> str:
        return self.state

    @enter("locked")
    async def is_locked(self, ctx: Context) -> None:
        lines.append(f"{ctx.actor} enters {self.state}")

    @after(30.0, "open", to="closed")
    async def shut(self) -> None:
        lines.append("shut")


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


@contextlib.asynccontextmanager
async def doors(kind: type[Machine] = Door, *, store: Any = None, **options: Any) -> AsyncGenerator[Any]:
    """The doors of a mesh that runs."""
    mesh = Mesh("house", grace=1.0, store=store)
    actor = mesh.actor(kind, name="doors", by=door_of, **options)
    async with mesh:
        yield actor


def live(actor: Any) -> tuple[int, int, int]:
    """How many instances there are, have been put away, and how many values wait."""
    instances = numbers(actor).instances
    return instances.active, instances.put_away, instances.waiting


def done() -> list[Any]:
    """What has been opened: door and number."""
    return [line[:2] for line in lines if isinstance(line, tuple) and line[0] != "lock"]


# States


async def test_each_value_has_a_state_of_its_own():
    """And enters the initial one when its first message comes; the statistics name no state, for there are several."""
    async with doors() as actor:
        await actor.tell(Unlock("a"))
        assert await actor.ask(GetState("a")) == "closed"
        assert await actor.at("b").ask(GetState("b")) == "locked"
        assert lines == ["doors enters locked", "doors enters locked"]
        assert (numbers(actor).state, live(actor)) == (None, (2, 0, 0))


async def test_a_postponed_message_is_not_in_the_way_of_its_own_value():
    """It gives its lane up, so that what changes the state gets through; other values' postponed messages wait on."""
    async with doors() as actor:
        for message in (Open("a", 1), Open("b", 1), Open("a", 2)):
            await actor.tell(message)
        await settled()
        assert (counts(actor.mailbox), numbers(actor).postponed) == ({"entered": 3, "leased": 3}, 3)
        assert "3 postponed\n" in actor.engine.dump() + "\n"
        await actor.tell(Unlock("a"))
        await actor.tell(Open("a", 3))
        await actor.engine.quiescence.idle()
        assert lines[2:] == [("a", 1, 1, False), ("a", 2, 1, False), ("a", 3, 1, False)]
        assert numbers(actor).postponed == 1


async def test_values_work_beside_each_other():
    """As many as `concurrency=` says; the messages of one value are in order."""

    class Slow(Machine, initial="idle"):
        @on
        async def open(self, message: Open) -> None:
            await anyio.sleep(1.0)
            lines.append(message.number)

    async with doors(Slow, concurrency=2) as actor:
        began = anyio.current_time()
        for message in (Open("a", 1), Open("a", 2), Open("b", 1), Open("b", 2)):
            await actor.tell(message)
        await actor.engine.quiescence.idle()
        assert (anyio.current_time() - began, lines) == (2.0, [1, 1, 2, 2])


async def test_the_bound_of_postponed_messages_is_of_each_value():
    """One more is refused; other values have room."""

    class Short(Door, postponed=1):
        pass

    async with doors(Short) as actor:
        for message in (Open("a"), Open("a"), Open("b")):
            await actor.tell(message)
        await settled()
        assert counts(actor.mailbox) == {"entered": 3, "leased": 2, "dead": 1}


# Put away


async def test_what_is_postponed_waits_on_while_its_machine_is_put_away():
    """It keeps no instance: the state could not change without a message. The next one resumes, and does not look at it."""
    async with doors(idle=10.0) as actor:
        await actor.tell(Unlock("a"))
        await actor.tell(Lock("a"))
        await actor.tell(Open("a", 1))
        await anyio.sleep(60.0)
        assert (live(actor), numbers(actor).postponed) == ((0, 1, 0), 1)
        lines.clear()
        assert await actor.ask(GetState("a")) == "locked"
        assert (lines, numbers(actor).postponed) == ([], 1)
        await anyio.sleep(60.0)
        await actor.tell(Unlock("a"))
        await settled()
        assert (lines, numbers(actor).postponed) == ([("a", 1, 1, False)], 0)


async def test_machines_that_only_wait_keep_no_others_out():
    """With max_active, those that have postponed everything make room."""
    async with doors(max_active=1) as actor:
        for door in "abc":
            await actor.tell(Open(door))
        for door in "abc":
            await actor.tell(Unlock(door))
        await anyio.sleep(100.0)
        assert done() == [("a", 0), ("b", 0), ("c", 0)]
        assert numbers(actor).postponed == 0


async def test_a_machine_whose_state_ends_by_itself_is_kept_until_then():
    """A pending timeout needs it, as a pending ctx.timer does: nothing else would end the state."""
    async with doors(idle=10.0) as actor:
        await actor.tell(Unlock("a"))
        await actor.tell(Open("a"))
        await anyio.sleep(29.0)
        assert live(actor) == (1, 0, 0)
        await anyio.sleep(2.0)
        assert lines[-1] == "shut"
        await anyio.sleep(20.0)
        assert live(actor) == (0, 1, 0)
        assert await actor.ask(GetState("a")) == "closed"


async def test_an_asker_that_has_left_leaves_nothing_behind():
    """Not of a value whose machine is put away, either."""
    async with doors(idle=1.0) as actor:
        for number in range(200):
            with anyio.move_on_after(0.1):
                await actor.ask(Open(str(number)), timeout=None)
        await anyio.sleep(10.0)
        assert (live(actor), numbers(actor).postponed) == ((0, 200, 0), 0)
        assert counts(actor.mailbox) == {"entered": 200, "withdrawn": 200}
        assert len(actor.cell.machines._copies.lanes()) < 100
        assert actor.cell.machines._machines == {}


# Timeouts


async def test_a_state_timeout_goes_to_its_own_machine():
    """`by=` is not asked about it, and neither are gates with a by= of their own."""
    gates = [Rate(1, per=0.5, by=door_of), Once(by=lambda message: (message.door, type(message)), ttl=1000.0)]
    async with doors(gates=gates) as actor:
        for message in (Unlock("a"), Open("a"), Unlock("b")):
            await actor.tell(message)
        await anyio.sleep(40.0)
        assert lines[-1] == "shut"
        assert [await actor.ask(GetState(door)) for door in "ab"] == ["closed", "closed"]
        assert counts(actor.mailbox) == {"entered": 6, "acked": 6}


async def test_a_timeout_of_a_machine_that_is_made_anew_begins_afresh():
    """The one before dies with its instance."""

    class Fragile(Door, unhandled="refuse"):
        @on
        async def crash(self, _: Crash) -> None:
            raise RuntimeError("crash")

    async with doors(Fragile, restart=Restart(initial=1.0, jitter="none")) as actor:
        for message in (Unlock("a"), Open("a"), Open("b")):
            await actor.tell(message)
        await anyio.sleep(20.0)
        await actor.tell(Crash("a"))
        await anyio.sleep(20.0)
        assert (numbers(actor).restarts, numbers(actor).postponed) == (1, 1)
        assert await actor.ask(GetState("a")) == "open"
        await anyio.sleep(12.0)
        assert await actor.ask(GetState("a")) == "closed"
        assert await actor.ask(GetState("b")) == "locked"


class Crash(Struct, frozen=True):
    door: str


# Ends


async def test_a_machine_that_is_made_anew_looks_at_what_was_postponed_again():
    """A failed turn changes nothing, and what it had postponed waits on with the next instance."""
    async with doors(restart=Restart(initial=1.0, jitter="none"), retry=Retry(2, initial=5.0, jitter="none")) as actor:
        await actor.tell(Open("a", 1))
        await actor.tell(Unlock("a", fails=True))
        await anyio.sleep(3.0)
        assert counts(actor.mailbox) == {"entered": 2, "delayed": 1, "ready": 1}, "the retry holds the lane"
        await anyio.sleep(10.0)
        assert (numbers(actor).restarts, numbers(actor).postponed) == (2, 1)
        await actor.tell(Unlock("a"))
        await settled()
        assert lines[1:] == [("a", 1, 1, False)]


async def test_a_stopped_actor_gives_back_what_any_of_its_machines_has_postponed():
    """Of those that were put away, too; whoever takes the mailbox over is handed them in order."""
    async with doors(idle=5.0) as actor:
        await actor.tell(Open("a", 1))
        await anyio.sleep(10.0)
        await actor.tell(Open("b", 2))
        await actor.tell(Open("a", 3))
        await settled()
        assert live(actor) == (2, 1, 0)
        await actor.stop()
        assert counts(actor.mailbox) == {"entered": 3, "ready": 3}
        for number in (1, 2, 3):
            delivery = await actor.mailbox.get()
            assert delivery.message.body.number == number
            await delivery.ack()


async def test_a_drain_and_the_next_run_lose_nothing_that_is_postponed():
    """Also of machines that were put away: it comes back at the end of the mesh, uncounted."""
    mesh = Mesh("house", grace=1.0)
    actor: Any = mesh.actor(Door, name="doors", by=door_of, idle=5.0)
    async with mesh:
        await actor.tell(Open("a", 1))
        await anyio.sleep(10.0)
        await actor.tell(Open("b", 1))
        await mesh.idle()
    assert counts(actor.mailbox) == {"entered": 2, "ready": 2}
    async with mesh:
        for door in "ab":
            await actor.tell(Unlock(door))
        await mesh.idle()
        assert numbers(actor).postponed == 0
    assert lines[2:] == [("a", 1, 1, False), ("b", 1, 1, False)]


async def test_a_group_that_takes_machines_down_loses_nothing():
    """All of its instances go and come back; what they have postponed waits on."""
    mesh = Mesh("house")
    actor: Any = mesh.actor(Door, name="doors", by=door_of)

    class Neighbour:
        @on
        async def fail(self, _: int) -> None:
            raise RuntimeError("crash")

    neighbour: Any = mesh.actor(Neighbour)
    mesh.supervise("street", [actor, neighbour], strategy="one_for_all")
    async with mesh:
        await actor.tell(Open("a", 1))
        await settled()
        await neighbour.tell(1)
        await anyio.sleep(5.0)
        await actor.tell(Unlock("a"))
        await mesh.idle()
    assert done() == [("a", 1)]


async def test_a_postponed_ask_of_one_value_can_close_a_ring():
    """The turn of its value waits for a turn that waits for it: nobody could go on, whatever other values do."""
    mesh, caught = Mesh("house"), list[BaseException]()

    class Keyed(Machine, initial="locked", unhandled="refuse"):
        @on("locked", to="closed")
        async def unlock(self, _: Unlock) -> None:
            try:
                await visitor.ask(2, timeout=None)
            except DeadlockError as error:
                caught.append(error)

        @on("closed", postpone="locked")
        async def open(self, _: Open) -> int:
            return 1

    keyed = mesh.actor(Keyed, name="keyed", by=door_of, concurrency=8)

    @mesh.actor
    async def visitor(_: int) -> None:
        await keyed.ask(Open("a"), timeout=None)

    async with mesh:
        await visitor.tell(1)
        await settled()
        await keyed.tell(Unlock("a"))
        await mesh.idle()
    assert ["keyed -> visitor -> keyed" in str(error) for error in caught] == [True]


# With a store


@pytest.mark.parametrize("by", [None, door_of])
async def test_a_turn_is_stored_before_the_next_message_meets_its_state(by: Any):
    """Writing takes time, in which the machine is still in the state before; so it is handed nothing meanwhile."""
    mesh = Mesh("house", store=MemoryStore())
    actor: Any = mesh.actor(Door, by=by)
    async with mesh:
        for message in (Unlock("a"), Lock("a"), Unlock("a"), Open("a"), Lock("a")):
            actor.tell_nowait(message)
        await mesh.idle()
        assert await actor.ask(GetState("a")) == "locked"
    assert [line for line in lines if line[0] == "lock"] == [("lock", "a", "closed"), ("lock", "a", "open")]


async def test_the_state_of_each_value_outlives_the_process():
    """State and data are stored for each value, and what was postponed lies in its mailbox."""
    store = MemoryStore()
    async with doors(store=store) as actor:
        for message in (Unlock("a"), Open("a"), Open("b", 7), Unlock("c")):
            await actor.tell(message)
        await actor.engine.quiescence.idle()
    lines.clear()
    async with doors(store=store) as actor:
        assert [await actor.ask(GetState(door)) for door in "abc"] == ["open", "locked", "closed"]
        assert await actor.ask(Open("a")) == 2
        assert done() == [("a", 0)]
        await actor.tell(Unlock("b"))
        await actor.engine.quiescence.idle()
        assert lines[-1] == ("b", 7, 1, False)
    assert "doors enters locked" not in lines, "they have resumed"


class HeldStore(MemoryStore):
    """Writes nothing while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Batch] | None = None

    def append(self, batch: Batch, /) -> None:
        if self.held is None:
            super().append(batch)
        else:
            self.held.append(batch)

    def release(self) -> None:
        held, self.held = self.held or [], None
        for batch in held:
            super().append(batch)


@pytest.mark.parametrize("by", [None, door_of])
async def test_the_next_instance_begins_with_what_the_one_before_has_stored(by: Any):
    """A group takes it down while its turn is written: the next one waits for that, and resumes in the new state."""
    store = HeldStore()
    mesh = Mesh("house", store=store)

    class Held(Door):
        @enter("closed")
        async def hold(self) -> None:
            store.held = []

    class Neighbour:
        @on
        async def fail(self, _: int) -> None:
            await anyio.sleep(1.0)
            raise RuntimeError("crash")

    actor: Any = mesh.actor(Held, name="doors", by=by)
    neighbour: Any = mesh.actor(Neighbour)
    mesh.supervise("street", [actor, neighbour], strategy="one_for_all")
    async with mesh:
        await neighbour.tell(1)
        await actor.tell(Unlock("a"))
        await anyio.sleep(5.0)
        assert counts(actor.mailbox) == {"entered": 1, "leased": 1}
        assert lines == ["doors enters locked"]
        store.release()
        await mesh.idle()
        assert await actor.ask(GetState("a")) == "closed"
        assert lines == ["doors enters locked"]
        assert counts(actor.mailbox) == {"entered": 2, "acked": 2}
