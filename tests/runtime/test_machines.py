"""State machines: handled by state and type, and changed with the ack, or not at all."""

from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from flowmesh import (
    Context,
    InvalidHandler,
    Machine,
    Mesh,
    NoReply,
    Retry,
    enter,
    on,
)
from tests.runtime.counting import counts
from tests.runtime.doors import Close, Door, GetState, Lock, Open, Unlock, Visits, door, lines

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


async def test_a_message_is_handled_by_state_and_type():
    """The handler of the pair; the target of its `to=` is the next state, and an ask has its typed reply."""
    async with door() as actor:
        assert await actor.ask(GetState()) == "locked"
        await actor.tell(Unlock())
        assert await actor.ask(GetState()) == "closed"
        assert await actor.ask(Open()) == 101
        assert await actor.ask(GetState()) == "open"
    assert lines == [("unlock", "locked", 1), ("open", 0, 1, False), ("entered", "open", 101)]


async def test_a_turn_that_fails_leaves_state_and_data_as_they_were():
    """The change is part of the ack: the next attempt begins where the first did, and an asker sees nothing of it."""
    async with door(retry=Retry(2, initial=1.0, jitter="none")) as actor:
        await actor.tell(Unlock(fails=True))
        await anyio.sleep(0.5)
        assert await actor.ask(GetState()) == "locked"
        await anyio.sleep(1.0)
        assert await actor.ask(GetState()) == "locked"
        await actor.tell(Unlock())
        assert await actor.ask(Open()) == 101


async def test_an_enter_method_that_fails_fails_the_turn():
    """It is part of the turn, with the same Context: what it collects leaves with the ack, and if it fails nothing happened."""
    mesh, rung = Mesh("house"), list[str]()

    @mesh.actor
    async def bell(text: str) -> None:
        rung.append(text)

    class Bell(Machine, initial="off", unhandled="ignore"):
        @on("off", to="on")
        async def switch(self, message: Open, ctx: Context) -> str:
            ctx.tell(bell, f"handled {message.number}")
            return self.state

        @enter("on")
        async def entered(self, ctx: Context) -> None:
            assert isinstance(ctx.message.body, Open)
            ctx.tell(bell, f"entered {ctx.message.body.number}")
            if ctx.message.body.number == 1:
                raise OSError("no current")

    actor = mesh.actor(Bell)
    async with mesh:
        with pytest.raises(OSError, match="no current"):
            await actor.ask(Open(1))
        assert await actor.ask(Open(2)) == "off"
        await mesh.idle()
    assert rung == ["handled 2", "entered 2"]


async def test_a_cancelled_turn_has_never_happened():
    """Its time limit: the state is as before, also when the state had been chosen."""

    class Slow(Machine, initial="idle"):
        @on("idle", to=("busy", "idle"))
        async def work(self, message: Open) -> None:
            self.become("busy")
            if message.number:
                await anyio.sleep_forever()

        @on("busy")
        async def more(self, message: Open) -> None: ...

        @on
        async def get_state(self, _: GetState) -> str:
            return self.state

    async with door(Slow, timeout=1.0) as actor:
        with pytest.raises(TimeoutError):
            await actor.ask(Open(1))
        assert await actor.ask(GetState()) == "idle"
        await actor.ask(Open())
        assert await actor.ask(GetState()) == "busy"


async def test_middleware_that_fails_undoes_the_change():
    """It stands around the turn: what it makes of a handler that returned counts."""

    async def fragile(ctx: Context, call_next: Any) -> object:
        result = await call_next()
        if isinstance(ctx.message.body, Unlock):
            raise OSError("after the fact")
        return result

    async with door(middleware=(fragile,)) as actor:
        await actor.tell(Unlock())
        assert await actor.ask(GetState()) == "locked"


async def test_become_chooses_one_of_several_targets():
    """The last call counts; without one the state stays; one that is not named is an error, and fails the turn."""

    class Choosing(Machine, initial="a", unhandled="refuse"):
        @on("a", to=("b", "c"))
        async def go(self, message: Open) -> str:
            for state in ("", "b", "bc", "a", "d")[message.number]:
                self.become(state)
            return self.state

        @on
        async def get_state(self, _: GetState) -> str:
            return self.state

    async with door(Choosing) as actor:
        for number, state in ((3, "'a'"), (4, "'d'")):
            with pytest.raises(InvalidHandler, match=f"'go' cannot lead from 'a' to {state}: name that state in its to= "):
                await actor.ask(Open(number))
        assert await actor.ask(Open(0)) == "a"
        assert await actor.ask(GetState()) == "a"
        assert await actor.ask(Open(2)) == "a"
        assert await actor.ask(GetState()) == "c"


async def test_an_enter_method_cannot_lead_elsewhere():
    """And nothing changes state outside of a turn."""
    instances: list[Any] = []

    class Jumping(Machine, initial="a", unhandled="ignore"):
        async def on_start(self) -> None:
            instances.append(self)

        @on("a", to="b")
        async def go(self, message: Open) -> None: ...

        @enter("b")
        async def entered(self) -> None:
            self.become("a")

    async with door(Jumping) as actor:
        with pytest.raises(InvalidHandler, match="is entering 'b': an @enter method cannot lead elsewhere"):
            await actor.ask(Open())
        with pytest.raises(InvalidHandler, match="is in no turn: it changes state when it handles a message"):
            instances[0].become("b")


async def test_data_of_another_type():
    """They are refused in the turn, which leaves everything as it was: they could not be taken up again."""

    class Counting(Machine, initial="a"):
        data: Visits = Visits()

        @on("a")
        async def wrong(self, message: Open) -> None:
            self.data = cast("Any", Open())

        @on("a")
        async def count(self, message: Close) -> int:
            return self.data.count

    async with door(Counting) as actor:
        with pytest.raises(TypeError, match=r"machine 'door' has data of type Visits, and was given Open"):
            await actor.ask(Open())
        assert await actor.ask(Close()) == 0


async def test_the_initial_state_is_entered_at_the_start():
    """Before any message, with a Context whose outputs leave; one that fails is a start that fails."""
    mesh, rung = Mesh("house"), list[str]()

    @mesh.actor
    async def bell(text: str) -> None:
        rung.append(text)

    class Light(Machine, initial="red", unhandled="refuse"):
        data: Visits = Visits()

        async def on_start(self) -> None:
            rung.append("on_start")

        @enter("red")
        async def stop(self, ctx: Context) -> None:
            self.data = Visits(7)
            ctx.publish(mesh.exchange("nobody", "fanout"), "counted as unroutable")
            ctx.tell(bell, f"{ctx.actor} is {self.state}")

        @on("red")
        async def count(self, _: Open) -> int:
            return self.data.count

    light = mesh.actor(Light, name="light")
    async with mesh:
        assert await light.ask(Open()) == 7
        await mesh.idle()
        assert mesh.statistics().unroutable["nobody"] == 1
    assert rung == ["on_start", "light is red"]

    class Broken(Light, initial="red"):
        @enter("red")
        async def stop(self, ctx: Context) -> None:
            raise OSError("no lamp")

    mesh = Mesh("house")
    mesh.actor(Broken)
    with pytest.raises(OSError, match="no lamp"):
        async with mesh:
            pytest.fail("it has not started")


# Unhandled


async def test_what_is_refused_is_a_dead_letter_that_names_the_pair():
    """And an asker gets NoReply; of a pair of which nothing is said, with `unhandled="refuse"`, the same."""

    class Strict(Door, unhandled="refuse"):
        @on("locked")
        async def once(self, _: int) -> None: ...

    async with door(Strict) as actor:
        await actor.tell(Lock())
        await actor.tell(Unlock())
        await actor.tell(1)
        await actor.engine.quiescence.idle()
        with pytest.raises(NoReply, match=r"'door' does not handle int in state 'closed'"):
            await actor.ask(1)
        letters = [(letter.body, letter.deaths[0].reason) for letter in actor.engine.ground.ledger.dead_letters.peek(10)]
        assert letters == [(Lock(), "rejected"), (1, "rejected")]


async def test_what_is_ignored_is_acked_but_an_asker_is_told():
    """An asker would otherwise get a None that its types do not know of."""
    async with door() as actor:
        await actor.tell(Unlock())
        await actor.tell(Unlock())
        with pytest.raises(NoReply, match=r"'door' ignores Unlock in state 'closed'"):
            await actor.ask(Unlock())
        await actor.engine.quiescence.idle()
        assert counts(actor.mailbox) == {"entered": 3, "acked": 3}
    assert lines == [("unlock", "locked", 1)]


async def test_a_subclass_of_a_message_is_what_its_nearest_base_is():
    """Dispatched along its MRO, as by any class actor; an int is a float."""

    class Later(Open, frozen=True):
        pass

    class Summing(Machine, initial="on", unhandled="refuse"):
        @on("on")
        async def take(self, message: Open | float) -> str:
            return type(message).__name__

    async with door(Summing) as actor:
        assert await actor.ask(Later()) == "Later"
        assert await actor.ask(1) == "int"
