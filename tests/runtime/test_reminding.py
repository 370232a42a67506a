"""Messages of an actor to itself: `ctx.timer`, which dies with its incarnation, and `ctx.watch`, the end of another actor."""

from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    ActorContext,
    AlreadySettled,
    Context,
    InvalidBinding,
    Mesh,
    NotFound,
    PreconditionFailed,
    Restart,
    Retry,
    WrongBody,
    on,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Set(Struct, frozen=True):
    name: str
    delay: float
    fails: bool = False


class Cancel(Struct, frozen=True):
    name: str


class Tick(Struct, frozen=True):
    name: str


class Crash(Struct, frozen=True):
    pass


class Sleep(Struct, frozen=True):
    seconds: float


class Gone(Struct, frozen=True):
    name: str


ticks: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_ticks() -> None:
    ticks.clear()


class Ticking:
    """Sets timers as it is told, and notes when they fire."""

    @on
    async def set(self, message: Set, ctx: Context) -> None:
        ctx.timer(message.name, message.delay, Tick(message.name))
        if message.fails:
            raise ValueError("after all")

    @on
    async def cancel(self, message: Cancel, ctx: Context) -> None:
        ctx.cancel_timer(message.name)

    @on
    async def tick(self, message: Tick, ctx: Context) -> None:
        ticks.append(f"{message.name} {anyio.current_time():g}")

    @on
    async def sleep(self, message: Sleep) -> None:
        await anyio.sleep(message.seconds)

    @on
    async def crash(self, message: Crash) -> None:
        raise OSError("crash")


def ticking(mesh: Mesh, **options: Any) -> Any:
    """Declare it, to be made anew at once after a crash."""
    return mesh.actor(Ticking, restart=Restart(on=(OSError,), initial=0.0), **options)


async def at(now: float) -> None:
    """Wait until the clock reads this."""
    await anyio.sleep_until(now)


async def test_a_timer_fires_once():
    """So many seconds after the ack; its message names the one whose turn set it as its cause."""
    mesh, causes = Mesh("shop"), list[Any]()

    @mesh.actor
    class Noting(Ticking):
        @on
        async def tick(self, message: Tick, ctx: Context) -> None:
            causes.append(ctx.message.cause)
            ticks.append(f"{message.name} {anyio.current_time() - start:g}")

    start = anyio.current_time()
    async with mesh:
        receipt = await Noting.tell(Set("a", 2.0))
        await anyio.sleep(10)
    assert ticks == ["a 2"]
    assert causes == [receipt.message_id]


async def test_it_takes_effect_with_the_ack_or_not_at_all():
    """A handler that fails has set nothing; after the turn nothing can be set."""
    mesh, kept = Mesh("shop"), list[Context]()
    actor = ticking(mesh)

    @mesh.actor
    async def keep(number: int, ctx: Context) -> None:
        kept.append(ctx)

    async with mesh:
        await actor.tell(Set("a", 2.0, fails=True))
        await keep.ask(1)
        with pytest.raises(AlreadySettled):
            kept[0].timer("b", 1.0, 2)
        await anyio.sleep(10)
    assert ticks == []


async def test_one_of_the_same_name_replaces_it_and_it_can_be_cancelled():
    """Even when its message is in the mailbox already, as long as no handler has been given it."""
    mesh = Mesh("shop")
    actor = ticking(mesh)
    start = anyio.current_time()
    async with mesh:
        for message in (Set("a", 2.0), Set("a", 5.0), Set("b", 3.0), Cancel("b"), Cancel("unknown")):
            await actor.tell(message)
        await at(start + 10)
        assert ticks == [f"a {start + 5:g}"]
        for message in (Set("a", 1.0), Set("b", 1.0), Sleep(3.0), Cancel("a"), Set("b", 4.0)):
            await actor.tell(message)
        await at(start + 12)
        assert actor.mailbox.statistics().ready == 4
        await at(start + 30)
    assert ticks[1:] == [f"b {start + 17:g}"], (
        "both were in line already when the first one was cancelled, and the second replaced"
    )


async def test_a_message_in_line_is_withdrawn():
    """A cancel that is handled before the timer's message takes it out of the mailbox."""
    mesh = Mesh("shop")
    actor = ticking(mesh)
    async with mesh:
        for message in (Set("a", 1.0), Sleep(3.0), Cancel("a")):
            await actor.tell(message)
        await anyio.sleep(2)
        assert actor.mailbox.statistics().ready == 2
        await mesh.idle()
    assert ticks == []
    assert counts(actor.mailbox) == {"entered": 4, "acked": 3, "withdrawn": 1}


async def test_it_dies_with_its_incarnation():
    """A timer that is set, and a message that waits, are of no use to the next instance; a deferred one outlives it."""
    mesh = Mesh("shop")
    actor = ticking(mesh)
    async with mesh:
        for message in (Set("late", 50.0), Set("due", 1.0), Sleep(3.0), Crash()):
            await actor.tell(message)
        await actor.tell(Tick("deferred"), delay=60.0)
        await anyio.sleep(100)
        assert [tick.split()[0] for tick in ticks] == ["deferred"]
        assert counts(actor.mailbox) == {"entered": 6, "acked": 4, "dead": 1, "withdrawn": 1}
        await actor.tell(Set("again", 1.0))
        await anyio.sleep(5)
        assert [tick.split()[0] for tick in ticks] == ["deferred", "again"]


async def test_the_handler_that_has_it_keeps_it():
    """A timer's message that a handler has been given is a message like any other: it is retried by the next instance."""
    mesh = Mesh("shop")
    fails = [True]

    class Failing(Ticking):
        @on
        async def tick(self, message: Tick, ctx: Context) -> None:
            if fails:
                fails.clear()
                raise OSError("tick")
            ticks.append(message.name)

    actor = mesh.actor(Failing, restart=Restart(initial=0.0), retry=Retry(2))
    async with mesh:
        await actor.tell(Set("a", 1.0))
        await anyio.sleep(10)
    assert ticks == ["a"]


@pytest.mark.parametrize("end", ["stop", "mesh"])
async def test_it_dies_with_its_actor(end: str):
    """A stopped actor has no timers, and neither has another run of the mesh; at the drain none fires."""
    mesh = Mesh("shop")
    actor = ticking(mesh)
    async with mesh:
        await actor.tell(Set("a", 5.0))
        await actor.tell(Set("b", 1.0))
        await actor.tell(Sleep(3.0))
        await settled()
        if end == "stop":
            await actor.stop()
    assert ticks == []
    async with mesh:
        await anyio.sleep(10)
    assert ticks == []
    assert counts(actor.mailbox) == {"entered": 3, "acked": 3}


async def test_timers_of_functions_and_of_hooks():
    """A function's incarnation is the run of its mesh; a hook's timer is set at once."""
    mesh = Mesh("shop")

    @mesh.actor
    async def countdown(number: int, ctx: Context) -> None:
        ticks.append(str(number))
        if number:
            ctx.timer("next", 1.0, number - 1)

    @mesh.actor
    class Starting(Ticking):
        async def on_start(self, ctx: ActorContext) -> None:
            ctx.timer("a", 1.5, Tick("a"))
            ctx.timer("b", 1.5, Tick("b"))
            ctx.cancel_timer("b")

    async with mesh:
        await countdown.tell(3)
        await anyio.sleep(10)
    assert [tick.split()[0] for tick in ticks] == ["3", "2", "a", "1", "0"]
    assert Starting.mailbox.statistics().entered == 1


@pytest.mark.parametrize(
    "name, delay, message, kind, text",
    [
        ("", 1.0, 1, ValueError, "name must be a text that is not empty"),
        ("a", -1.0, 1, ValueError, "delay must be zero or more seconds, not -1.0"),
        ("a", float("nan"), 1, ValueError, "delay must be zero or more seconds"),
        ("a", "soon", 1, ValueError, "delay must be zero or more seconds, not 'soon'"),
        ("a", 1.0, "text", WrongBody, "actor 'count' takes int, not str: 'text'; it cannot send itself"),
    ],
)
async def test_timers_that_cannot_be(name: Any, delay: Any, message: Any, kind: type[Exception], text: str):
    """They are refused in the call, so that the turn fails."""
    mesh = Mesh("shop")

    @mesh.actor
    async def count(number: int, ctx: Context) -> None:
        ctx.timer(name, delay, message)

    async with mesh:
        with pytest.raises(kind, match=text):
            await count.ask(1)


async def test_a_source_has_no_mailbox():
    """It can neither set a timer, nor watch, nor has it saved anything."""
    mesh, refused = Mesh("shop"), list[str]()

    @mesh.actor
    async def count(number: int) -> None: ...

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        calls: list[Any] = [
            lambda: ctx.timer("a", 1.0, 1),
            lambda: ctx.cancel_timer("a"),
            lambda: ctx.watch(count, 1),
            lambda: ctx.saved(Tick),
        ]
        for call in calls:
            with pytest.raises(PreconditionFailed, match="source 'poll' takes no messages and saves no state"):
                call()
            refused.append("refused")

    async with mesh:
        await settled()
    assert len(refused) == 4


# Watching


class Watch(Struct, frozen=True):
    text: str


def watcher(mesh: Mesh, other: Any, **options: Any) -> Any:
    """Declare an actor that watches another one when it is told to."""

    class Watching:
        @on
        async def watch(self, message: Watch, ctx: Context) -> None:
            ctx.watch(other, Gone(message.text))
            if message.text == "fail":
                raise OSError("after all")

        @on
        async def gone(self, message: Gone) -> None:
            ticks.append(f"{message.name} {anyio.current_time() - began[0]:g}")

    began = [anyio.current_time()]
    return mesh.actor(Watching, **options)


async def test_a_message_when_another_actor_has_stopped():
    """When its last handler has ended; once; watching again replaces the message; a turn that fails watches nothing."""
    mesh = Mesh("shop")

    @mesh.actor
    async def slow(seconds: float) -> None:
        await anyio.sleep(seconds)

    watching = watcher(mesh, slow)
    async with mesh:
        for text in ("first", "second", "fail"):
            await watching.tell(Watch(text))
        await slow.tell(5.0)
        await settled()
        await slow.stop()
        await mesh.idle()
        assert ticks == ["second 5"]
        await watching.tell(Watch("too late"))
        await mesh.idle()
        assert ticks == ["second 5", "too late 5"], "it has stopped already"


async def test_a_restart_is_no_end_and_a_watch_survives_one():
    """Neither that of the watched one nor of the watching one; it ends with the run of the mesh, which is no end either."""
    mesh = Mesh("shop")
    other = ticking(mesh)
    watching = watcher(mesh, other, restart=Restart(initial=0.0))
    async with mesh:
        await watching.tell(Watch("gone"))
        await other.tell(Crash())
        await watching.tell(Watch("fail"))
        await anyio.sleep(1)
        assert ticks == []
        assert mesh.statistics().actors["Watching"].restarts == 1
        await other.stop()
        await mesh.idle()
        assert ticks == ["gone 1"]
    mesh = Mesh("shop")
    other = ticking(mesh)
    watching = watcher(mesh, other)
    async with mesh:
        await watching.tell(Watch("of the first run"))
    async with mesh:
        await other.stop()
        await mesh.idle()
    assert ticks == ["gone 1"]


async def test_told_although_the_stop_was_cancelled():
    """An actor whose `stop()` was cancelled is stopped all the same."""
    mesh = Mesh("shop")

    @mesh.actor
    async def slow(seconds: float) -> None:
        await anyio.sleep(seconds)

    watching = watcher(mesh, slow)
    async with mesh:
        await watching.tell(Watch("gone"))
        await slow.tell(5.0)
        await settled()
        with anyio.move_on_after(1):
            await slow.stop()
        await mesh.idle()
    assert ticks == ["gone 1"]


async def test_the_end_of_a_group_is_one():
    """Its actors are stopped with it; a hook may watch, too."""
    mesh = Mesh("shop")
    first, second = ticking(mesh, name="first"), ticking(mesh, name="second")
    mesh.supervise("both", [first, second], significant=[second])

    @mesh.actor
    class Watching:
        async def on_start(self, ctx: ActorContext) -> None:
            ctx.watch(first, Gone("first"))

        @on
        async def gone(self, message: Gone) -> None:
            ticks.append(message.name)

    async with mesh:
        await second.stop()
        await settled()
    assert ticks == ["first"]


async def test_watches_that_cannot_be():
    """Of itself, of an actor of another mesh, of one whose mailbox is gone, with a message that it does not take."""
    mesh, other = Mesh("shop"), Mesh("other")
    foreign, gone = ticking(other), ticking(mesh)
    errors: list[str] = []

    @mesh.actor
    async def count(number: int, ctx: Context) -> None:
        for target, message, kind in (
            (count, 1, PreconditionFailed),
            (foreign, "text", WrongBody),
            (foreign, 1, InvalidBinding),
            (gone, 1, NotFound),
        ):
            try:
                ctx.watch(target, message)
            except kind as error:
                errors.append(str(error))

    async with mesh:
        gone.mailbox.delete()
        await count.ask(1)
    assert errors[0] == "actor 'count' cannot watch itself: a stopped actor handles nothing"
    assert "takes int, not str" in errors[1]
    assert errors[2] == "actor 'Ticking' is of another mesh: watch one of this mesh"
    assert errors[3].startswith("the mailbox of actor 'Ticking' has been deleted")


async def test_watches_of_what_is_no_actor():
    """An instance, a group, a source and a name cannot be watched, and the error says what can."""
    mesh = Mesh("shop")
    errors: list[str] = []

    class Totals:
        @on
        async def add(self, number: int) -> None: ...

    totals = mesh.actor(Totals, by=str)
    group = mesh.supervise("group", [ticking(mesh)])

    @mesh.source
    async def feed(ctx: ActorContext) -> None: ...

    @mesh.actor
    async def count(number: int, ctx: Context) -> None:
        for target in (totals.at("1"), group, feed, "Totals"):
            thing: Any = target
            try:
                ctx.watch(thing, 1)
            except TypeError as error:
                errors.append(str(error))

    async with mesh:
        await count.ask(1)
    assert errors[0] == (
        "<InstanceHandle 'Totals[1]'> cannot be watched: an instance is put away and made anew as its messages come; "
        "watch actor 'Totals' itself"
    )
    assert [error[: error.index(", not ")] for error in errors[1:]] == ["watch takes an actor"] * 3
