"""What outlasts a turn of a state machine: the timeouts of its states, and what is saved of it."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import (
    Context,
    InvalidHandler,
    Machine,
    Mesh,
    PreconditionFailed,
    Restart,
    Retry,
    after,
    enter,
    on,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts
from tests.runtime.doors import Close, Door, GetState, Lock, Open, Unlock, Visits, door, lines, numbers

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


# Timeouts


async def test_a_state_timeout_leads_on():
    """After so many seconds in the state, in a turn of its own."""
    async with door() as actor:
        await actor.tell(Unlock())
        await actor.tell(Open())
        await settled()
        await anyio.sleep(29.9)
        assert numbers(actor).state == "open"
        await anyio.sleep(0.2)
        assert numbers(actor).state == "closed"
        assert lines[-1] == ("shut", "open")


async def test_leaving_the_state_cancels_its_timeout():
    """Also when it has fired and waits in the mailbox; entering the state again begins it again."""
    async with door() as actor:
        for message in (Unlock(), Open()):
            await actor.tell(message)
        await anyio.sleep(20.0)
        for message in (Lock(), Unlock(), Open()):
            await actor.tell(message)
        await anyio.sleep(29.0)
        assert numbers(actor).state == "open"
        assert ("shut", "open") not in lines
        actor.pause()
        await actor.tell(Lock())
        await anyio.sleep(5.0)
        actor.resume()
        await actor.engine.quiescence.idle()
        assert numbers(actor).state == "locked"
        assert ("shut", "open") not in lines
        assert counts(actor.mailbox) == {"entered": 7, "acked": 6, "withdrawn": 1}


async def test_entering_the_state_anew_begins_its_timeout_again():
    """A target that is the state itself: its @enter method is called, but it is no change, and nothing comes back."""

    class Holding(Door):
        @on("closed", "locked", postpone="open")
        async def note(self, _: str) -> None:
            lines.append("noted")

    async with door(Holding) as actor:
        for message in (Unlock(), Open(), "later"):
            await actor.tell(message)
        await anyio.sleep(20.0)
        await actor.tell(Close())
        await anyio.sleep(20.0)
        assert numbers(actor).state == "open"
        assert lines[2:] == [("entered", "open", 101), "held open", ("entered", "open", 101)]
        await anyio.sleep(20.0)
        assert numbers(actor).state == "closed"
        assert lines[-2:] == [("shut", "open"), "noted"]


async def test_the_initial_state_has_its_timeout_too():
    """From the start of the machine on; a drain does not wait for it."""

    class Waking(Machine, initial="asleep", unhandled="refuse"):
        @on("awake")
        async def take(self, _: Open) -> None: ...

        @after(5.0, "asleep", to="awake")
        async def wake(self) -> None: ...

    async with door(Waking) as actor:
        await anyio.sleep(4.0)
        assert numbers(actor).state == "asleep"
        await anyio.sleep(2.0)
        assert numbers(actor).state == "awake"
    began = anyio.current_time()
    async with door(Waking):
        pass
    assert anyio.current_time() == began


async def test_a_timeout_of_an_earlier_instance_does_not_end_the_state():
    """One that failed and waits for its retry belongs to the state as it was then, not to the fresh timeout."""

    class Failing(Machine, initial="asleep", unhandled="refuse"):
        @on("awake")
        async def take(self, _: Open) -> None: ...

        @after(10.0, "asleep", to="awake")
        async def wake(self, ctx: Context) -> None:
            lines.append(ctx.attempt)
            if len(lines) == 1:
                raise OSError("still tired")

    restart = Restart(initial=1.0, jitter="none")
    async with door(Failing, restart=restart, retry=Retry(2, initial=3.0, jitter="none")) as actor:
        await anyio.sleep(20.0)
        assert (lines, numbers(actor).restarts, numbers(actor).state) == ([1], 1, "asleep")
        await anyio.sleep(2.0)
        assert (lines, numbers(actor).state) == ([1, 1], "awake")


# What is saved


async def test_a_machine_that_is_made_anew_resumes_where_it_was():
    """State and data of the last ack, without entering the state again; a fresh timeout begins; what was postponed waits on."""

    class Fragile(Door, unhandled="refuse"):
        @on
        async def crash(self, _: int) -> None:
            self.data = Visits(-1)
            raise RuntimeError("crash")

        @on("closed", postpone="open")
        async def note(self, message: str) -> None:
            lines.append(message)

    async with door(Fragile, restart=Restart(initial=1.0, jitter="none")) as actor:
        for message in (Unlock(), Open(), "postponed"):
            await actor.tell(message)
        await anyio.sleep(20.0)
        await actor.tell(1)
        await anyio.sleep(20.0)
        assert (numbers(actor).restarts, numbers(actor).state, numbers(actor).postponed) == (1, "open", 1)
        await anyio.sleep(12.0)
        assert numbers(actor).state == "closed"
        assert lines[1:] == [("open", 0, 1, False), ("entered", "open", 101), ("shut", "open"), "postponed"]
        assert await actor.ask(Open()) == 102


async def test_a_machine_resumes_in_the_next_run_of_its_mesh():
    """As long as the Mesh object lives; `on_start` sees it already."""
    seen: list[Any] = []

    class Starting(Door):
        async def on_start(self) -> None:
            seen.append((self.state, self.data))

    mesh = Mesh("house")
    actor = mesh.actor(Starting)
    async with mesh:
        await actor.tell(Unlock())
        await mesh.idle()
    async with mesh:
        assert await actor.ask(GetState()) == "closed"
    assert seen == [("locked", Visits()), ("closed", Visits(100))]


async def test_data_may_be_set_where_the_machine_is_made():
    """From a provided thing, for instance; without any it does not start."""

    class Loaded(Machine, initial="on"):
        data: Visits

        def __init__(self, visits: Visits) -> None:
            self.data = visits

        @on
        async def count(self, _: Open) -> int:
            return self.data.count

    class Empty(Machine, initial="on"):
        data: Visits

        @on
        async def count(self, _: Open) -> int:
            return self.data.count

    mesh = Mesh("house")

    @contextlib.asynccontextmanager
    async def seven() -> AsyncGenerator[Visits]:
        yield Visits(7)

    mesh.provide(Visits, seven)
    actor = mesh.actor(Loaded)
    async with mesh:
        assert await actor.ask(Open()) == 7
    mesh = Mesh("house")
    mesh.actor(Empty)
    with pytest.raises(InvalidHandler, match=r"Empty says what its data is, and has none: write data: Visits = "):
        async with mesh:
            pytest.fail("it has not started")


async def test_a_machine_without_data_is_saved_too():
    """Its state; and what else a turn does with its Context takes effect in the same step."""

    class Switch(Machine, initial="off"):
        @on("off", to="on", ignore="on")
        async def switch(self, _: Open, ctx: Context) -> None:
            ctx.timer("later", 5.0, Close())

        @on("on", refuse="off")
        async def close(self, _: Close) -> None:
            lines.append("later")

    mesh = Mesh("house")
    actor = mesh.actor(Switch, name="door")
    async with mesh:
        await actor.tell(Open())
        await anyio.sleep(6.0)
    async with mesh:
        assert numbers(actor).state == "on"
    assert lines == ["later"]


class Other(Machine, initial="elsewhere"):
    """Has none of a door's states."""

    @on
    async def take(self, _: Open) -> None: ...


class Named(Struct, frozen=True):
    name: str


class OtherData(Machine, initial="closed"):
    """Has a door's state, and other data."""

    data: Named = Named("door")

    @on
    async def take(self, _: Open) -> None: ...


@pytest.mark.parametrize(
    "other, text",
    [
        (Other, r"'door' was saved in state 'closed', which class .*Other does not have"),
        (OtherData, r"the data that actor 'door' has saved are no Named: .*name.*; give new fields defaults"),
    ],
)
async def test_what_another_class_has_saved_is_refused(other: type[Machine], text: str):
    """An actor of the same name whose machine has other states, or other data, does not begin with what it does not know."""
    mesh = Mesh("house")
    actor = mesh.actor(Door, name="door")

    async def replace_it() -> None:
        async with mesh:
            await actor.tell(Unlock())
            await mesh.idle()
            await actor.stop()
            mesh.actor(other, name="door")
            await anyio.sleep(1.0)

    with pytest.raises(PreconditionFailed, match=text):
        await replace_it()


async def test_a_machine_saves_itself():
    """What a handler would save with ctx.save would be overwritten: it is refused, with the mend."""

    class Saving(Machine, initial="on"):
        @on
        async def save(self, _: Open, ctx: Context) -> None:
            ctx.save(Visits(1))

    async with door(Saving) as actor:
        with pytest.raises(PreconditionFailed, match=r"saves its state and its data itself: put it in self.data"):
            await actor.ask(Open())


async def test_methods_may_be_plain_and_ask_for_things():
    """Handlers, @enter and @after methods: in a worker thread, one at a time; provided things and Context by type."""

    class Plain(Machine, initial="off", unhandled="refuse"):
        @on("off", to=("on",))
        def switch(self, message: Open, visits: Visits) -> int:
            self.become("on")
            return visits.count

        @enter("on")
        def entered(self, visits: Visits, ctx: Context) -> None:
            lines.append((visits.count, self.state, ctx.actor))

        @after(1.0, "on", to="off")
        def off(self, visits: Visits) -> None:
            lines.append(visits.count)

    mesh = Mesh("house")

    @contextlib.asynccontextmanager
    async def seven() -> AsyncGenerator[Visits]:
        yield Visits(7)

    mesh.provide(Visits, seven)
    actor = mesh.actor(Plain, name="plain")
    async with mesh:
        assert await actor.ask(Open()) == 7
        with anyio.fail_after(5.0):
            while numbers(actor).state == "on":  # noqa: ASYNC110 - a thread is at work
                await anyio.sleep(0.1)
    assert lines == [(7, "on", "plain"), 7]


async def test_a_method_of_a_machine_as_an_actor():
    """`actor.handler(Door.open)`, as of any class actor."""
    async with door() as actor:
        await actor.tell(Unlock())
        assert await actor.handler(Door.open).ask(Open()) == 101


def test_an_instance_in_a_unit_test() -> None:
    """No mesh: its methods are called as they are, and `become` leads there at once."""
    instance = Door()
    assert instance.state == "locked"
    instance.become("open")
    assert instance.state == "open"
    assert Door().state == "locked"
    with pytest.raises(InvalidHandler, match=r"machine Door has no state 'ajar': it has 'locked', 'closed', 'open'"):
        instance.become("ajar")
