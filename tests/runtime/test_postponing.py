"""What a state machine postpones: leased, and back in order when the state has changed; whatever ends meanwhile."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowmesh import (
    ActorStopped,
    Context,
    DeadlockError,
    Machine,
    MailboxOptions,
    Mesh,
    MeshStopped,
    Message,
    NoReply,
    Observer,
    Rate,
    Retry,
    RetryAfter,
    on,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts
from tests.runtime.doors import Door, GetState, Lock, Open, Unlock, door, lines, numbers

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


async def test_postponed_messages_come_back_in_order_before_newer_ones():
    """They wait, leased, until the state changes; it is no attempt and no hand-out."""

    class Gate(Machine, initial="shut"):
        @on("open", postpone="shut")
        async def enter_it(self, message: Open, ctx: Context) -> None:
            lines.append((message.number, ctx.attempt, ctx.redelivered))

        @on("shut", to="open", ignore="open")
        async def unlock(self, _: Unlock) -> None:
            await anyio.sleep(1.0)

    async with door(Gate) as actor:
        for number in (1, 2):
            await actor.tell(Open(number))
        await settled()
        assert (counts(actor.mailbox), numbers(actor).postponed) == ({"entered": 2, "leased": 2}, 2)
        assert numbers(actor).state == "shut"
        await actor.tell(Open(3))
        await actor.tell(Unlock())
        await actor.tell(Open(4))
        await actor.engine.quiescence.idle()
        assert lines == [(number, 1, False) for number in (1, 2, 3, 4)]
        assert (counts(actor.mailbox), numbers(actor).postponed) == ({"entered": 5, "acked": 5}, 0)


async def test_what_the_new_state_postpones_too_stays_postponed():
    """Only what it wants comes back; the rest keeps its place for the change after."""

    class Steps(Machine, initial="one"):
        @on("one", to="two", refuse=("two", "three"))
        async def unlock(self, _: Unlock) -> None: ...

        @on("two", to="three", postpone="one", refuse="three")
        async def lock(self, _: Lock) -> None:
            lines.append("lock")

        @on("three", postpone=("one", "two"))
        async def open(self, message: Open) -> None:
            lines.append(message.number)

    async with door(Steps) as actor:
        for message in (Open(1), Lock(), Open(2), Unlock(), Open(3)):
            await actor.tell(message)
        await actor.engine.quiescence.idle()
    assert lines == ["lock", 1, 2, 3]


async def test_a_postponed_ask_is_answered_when_the_state_has_changed():
    """Its asker waits that long; one that leaves takes its message with it."""
    async with door() as actor, anyio.create_task_group() as group:
        answers: list[object] = []

        async def ask(timeout: float | None) -> None:
            try:
                answers.append(await actor.ask(Open(), timeout=timeout))
            except TimeoutError:
                answers.append("late")

        group.start_soon(ask, 5.0)
        await settled()
        group.start_soon(ask, None)
        await anyio.sleep(10.0)
        assert answers == ["late"]
        assert counts(actor.mailbox) == {"entered": 2, "withdrawn": 1, "leased": 1}
        await actor.tell(Unlock())
        await settled()
        assert answers == ["late", 101]


async def test_idle_does_not_wait_for_what_is_postponed():
    """Nothing that is under way could bring it back: a message that could is none of the mesh's yet."""
    async with door() as actor:
        await actor.tell(Open())
        await actor.engine.quiescence.idle()
        assert counts(actor.mailbox) == {"entered": 1, "leased": 1}
        await actor.tell(Unlock())
        await actor.engine.quiescence.idle()
        assert counts(actor.mailbox) == {"entered": 2, "acked": 2}


async def test_a_drain_puts_postponed_messages_back_uncounted():
    """They lie ready for the next run, which resumes in the saved state, and are counted as left."""
    mesh = Mesh("house", grace=60.0)
    actor = mesh.actor(Door, name="door")
    async with mesh:
        began = anyio.current_time()
        await actor.tell(Open(1))
        await actor.tell(Open(2))
    assert anyio.current_time() == began, "the drain does not wait for them"
    assert counts(actor.mailbox) == {"entered": 2, "ready": 2}
    async with mesh:
        await actor.tell(Unlock())
        await mesh.idle()
        assert counts(actor.mailbox) == {"entered": 3, "acked": 2, "dead": 1}
    assert lines[1] == ("open", 1, 1, False)


async def test_a_postponed_asker_is_told_when_actor_or_mesh_stops():
    """No reply will come: ActorStopped at once, or MeshStopped; and its message is gone."""

    async def ask(actor: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            await actor.ask(Open(), timeout=None)

    async with anyio.create_task_group() as group:
        async with door() as actor:
            group.start_soon(ask, actor, ActorStopped)
            await settled()
            await actor.stop()
            assert counts(actor.mailbox) == {"entered": 1, "withdrawn": 1}
        async with door() as actor:
            group.start_soon(ask, actor, MeshStopped)
            await settled()
        assert counts(actor.mailbox) == {"entered": 1, "withdrawn": 1}


async def test_a_stopped_machine_gives_back_what_it_has_postponed():
    """At its place, for who takes the mailbox over."""
    async with door() as actor:
        await actor.tell(Open(1))
        await settled()
        await actor.stop()
        assert counts(actor.mailbox) == {"entered": 1, "ready": 1}


async def test_a_group_that_takes_a_machine_down_loses_nothing_that_it_has_postponed():
    """The asker waits on: the next instance postpones the message again, and answers it when the state has changed."""
    mesh, answers = Mesh("house"), list[int]()

    class Crashing:
        @on
        async def crash(self, _: int) -> None:
            raise OSError("a member fails")

    actor, crashing = mesh.actor(Door, name="door"), mesh.actor(Crashing)
    mesh.supervise("group", [actor, crashing], strategy="one_for_all")

    async def ask() -> None:
        answers.append(await actor.ask(Open(), timeout=None))

    async with mesh, anyio.create_task_group() as group:
        group.start_soon(ask)
        await settled()
        await crashing.tell(1)
        await anyio.sleep(5.0)
        assert (numbers(actor).restarts, numbers(actor).postponed, answers) == (1, 1, [])
        await actor.tell(Unlock())
        await settled()
        assert answers == [101]


async def test_a_deleted_mailbox_purges_what_is_postponed():
    """No message will come that could change the state; an asker is told."""
    async with door() as actor, anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(NoReply, match="purged"):
                await actor.ask(Open(), timeout=None)

        group.start_soon(ask)
        await actor.tell(Open())
        await settled()
        mailbox = actor.mailbox
        mailbox.delete()
        await settled()
        assert counts(mailbox) == {"entered": 2, "purged": 2}


async def test_beyond_its_limit_a_message_is_refused():
    """Bounded: 1000, or as the class says; the error names the limit."""

    class Short(Door, postponed=2):
        pass

    async with door(Short) as actor:
        for number in range(2):
            await actor.tell(Open(number))
        with pytest.raises(
            NoReply, match=r"'door' has postponed 2 messages, and cannot postpone Open in state 'locked' as well"
        ):
            await actor.ask(Open(3))
        await actor.tell(Open(4))
        await actor.engine.quiescence.idle()
        assert counts(actor.mailbox) == {"entered": 4, "leased": 2, "acked": 1, "dead": 1}


async def test_postponed_messages_take_no_room():
    """A full mailbox of them would keep out the message that changes the state."""
    async with door(mailbox=MailboxOptions(capacity=1)) as actor:
        for number in range(5):
            await actor.tell(Open(number))
            await settled()
        await actor.tell(Unlock())
        await actor.engine.quiescence.idle()
        assert lines[:2] == [("unlock", "locked", 1), ("open", 0, 1, False)]


async def test_postponed_messages_take_nothing_from_gates():
    """Gates are asked for what a handler is given: the one token goes to what changes the state."""
    async with door(gates=[Rate(1, per=10.0)]) as actor:
        began = anyio.current_time()
        await actor.tell(Open(1))
        await actor.tell(Unlock())
        await actor.engine.quiescence.idle()
        assert anyio.current_time() == began + 10.0
        assert [line[0] for line in lines] == ["unlock", "open", "entered"]


async def test_a_retried_message_may_be_postponed_meanwhile():
    """The state is looked at whenever it is handed out; its attempts are not touched."""

    class Retrying(Machine, initial="a"):
        @on("a", postpone="b")
        async def take(self, _: Open, ctx: Context) -> None:
            lines.append((ctx.attempt, ctx.redelivered))
            if ctx.attempt == 1:
                raise OSError
            if len(lines) == 2:
                raise RetryAfter(1.0)

        @on("a", to="b", refuse="b")
        async def lock(self, _: Lock) -> None: ...

        @on("b", to="a", refuse="a")
        async def unlock(self, _: Unlock) -> None: ...

    async with door(Retrying, retry=Retry(2, initial=1.0, jitter="none")) as actor:
        await actor.tell(Open())
        await actor.tell(Lock())
        await anyio.sleep(10.0)
        assert (lines, numbers(actor).postponed) == ([(1, False)], 1)
        await actor.tell(Unlock())
        await actor.engine.quiescence.idle()
        assert lines == [(1, False), (2, True), (2, True)]


async def test_a_malformed_message_is_not_postponed():
    """Its type is not known: it is a dead letter at once, and the machine goes on."""
    mesh = Mesh("house")
    orders = mesh.exchange("orders", "fanout")
    actor = mesh.actor(Door, name="door", bind=orders.on())
    async with mesh:
        await orders.publish({"no": "such type"})
        assert await actor.ask(GetState()) == "locked"
        assert [letter.deaths[0].reason for letter in mesh.dead_letters.list()] == ["malformed"]


async def test_observers_are_told_of_postponing():
    """`postponed` is no hand-out; `resumed` is its end."""
    told: list[Any] = []

    class Diary(Observer):
        def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
            told.append(("handed out", type(message.body).__name__, attempt))

        def postponed(self, message: Message, mailbox: str, /, *, actor: str, state: str) -> None:
            told.append(("postponed", type(message.body).__name__, mailbox, actor, state))

        def resumed(self, message: Message, mailbox: str, /) -> None:
            told.append(("resumed", type(message.body).__name__, mailbox))

    mesh = Mesh("house", observers=(Diary(),))
    actor = mesh.actor(Door, name="door")
    async with mesh:
        await actor.tell(Open())
        await actor.tell(Unlock())
        await mesh.idle()
    assert told == [
        ("postponed", "Open", "door", "door", "locked"),
        ("handed out", "Unlock", 1),
        ("resumed", "Open", "door"),
        ("handed out", "Open", 1),
    ]


async def test_a_dump_says_what_is_postponed():
    """Who looks for a message that is stuck finds it."""
    async with door() as actor:
        await actor.tell(Open())
        await settled()
        assert "actor 'door': 0 of 1 slots at work, 0 ready, 1 postponed in state 'locked'" in actor.engine.dump()


async def test_a_postponed_ask_can_close_a_ring():
    """The machine's turn waits for a turn that waits for what the machine has postponed: nobody could go on."""
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

    keyed = mesh.actor(Keyed, name="keyed")

    @mesh.actor
    async def visitor(_: int) -> None:
        await keyed.ask(Open(), timeout=None)

    async with mesh:
        await visitor.tell(1)
        await settled()
        await keyed.tell(Unlock())
        await mesh.idle()
    assert ["keyed -> visitor -> keyed" in str(error) for error in caught] == [True]
