"""The instances of a class actor with `by=`: made by their first message, put away when nothing needs them, never two."""

import contextvars
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import (
    ActorContext,
    Context,
    DeadlockError,
    InstanceStatistics,
    Mesh,
    Rate,
    Request,
    Retry,
    RetryAfter,
    on,
)
from flowmesh._runtime.lineage import task_here
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio


class Do(Struct, frozen=True):
    key: str
    what: str = ""


class Ask(Struct, Request[int], frozen=True):
    key: str


def key_of(message: Any) -> str:
    """Return the value of a message."""
    return str(message.key)


lines: list[str] = []
alive: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()
    alive.clear()


class Plain:
    """Needs no keeper; counts what it has been given."""

    def __init__(self) -> None:
        self.count = 0

    @on
    async def do(self, message: Do) -> None:
        self.count += 1
        lines.append(f"{message.key}{message.what}")

    @on
    async def asked(self, message: Ask) -> int:
        return self.count


class Slow:
    """Needs no keeper, and takes its time."""

    @on
    async def do(self, message: Do) -> None:
        lines.append(f"{message.key}{message.what}")
        await anyio.sleep(5.0)


class Kept:
    """Notes its life; starts within 0.25 s and stops within 1 s. There is never a second one of its name."""

    async def on_start(self, ctx: ActorContext) -> None:
        self.name, self.task = ctx.name, task_here()
        assert self.name not in alive
        alive.append(self.name)
        lines.append(f"{self.name} starts")
        await anyio.sleep(0.25)
        lines.append(f"{self.name} is there")

    async def on_stop(self) -> None:
        assert task_here() is self.task
        lines.append(f"{self.name} stops")
        await anyio.sleep(1.0)
        alive.remove(self.name)
        lines.append(f"{self.name} is gone")

    @on
    async def do(self, message: Do) -> None:
        assert self.name == f"Kept[{message.key}]"
        assert task_here() is not self.task
        lines.append(f"{message.key}{message.what}")
        if message.what == "slow":
            await anyio.sleep(5.0)

    @on
    async def asked(self, message: Ask) -> int:
        return 1


def life(mesh: Mesh, name: str = "Kept") -> InstanceStatistics:
    """Return the numbers of an actor's instances."""
    found = mesh.statistics().actors[name].instances
    assert found is not None
    return found


# Coming


async def test_made_by_its_first_message():
    """Not before; messages that come while it starts wait, in order, and those of others go on."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of)
    async with mesh:
        assert life(mesh).active == 0
        for what in "abc":
            await kept.tell(Do("1", what))
        await anyio.sleep(0.1)
        assert life(mesh).active == 1
        await kept.tell(Do("2", "x"))
        await mesh.idle()
        assert lines == [
            "Kept[1] starts",
            "Kept[2] starts",
            "Kept[1] is there",
            "1a",
            "1b",
            "1c",
            "Kept[2] is there",
            "2x",
        ]
    assert alive == []


async def test_an_ask_waits_for_the_start():
    """Whoever asks is answered when the instance is there."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of)
    async with mesh:
        began = anyio.current_time()
        assert await kept.ask(Ask("1")) == 1
        assert anyio.current_time() - began == pytest.approx(0.25, abs=0.01)
        with pytest.raises(TimeoutError):
            await kept.ask(Ask("2"), timeout=0.1)
        await mesh.idle()
        assert kept.mailbox.statistics().withdrawn == 1


async def test_without_hooks_no_task():
    """An instance that has nothing to enter or leave is made at once, in the turn of its first message."""
    mesh = Mesh("shop")
    plain = mesh.actor(Plain, by=key_of)
    async with mesh:
        for number in range(100):
            await plain.tell(Do(str(number)))
        await mesh.idle()
        assert life(mesh, "Plain").active == 100
        assert not mesh._engine.keepers.running
        assert len(mesh._engine.scheduler.workers) == 1


async def test_one_at_a_time_and_others_beside():
    """Messages of one value one after the other, in order; those of others at the same time, in as many slots as there are."""
    mesh, running, most = Mesh("shop"), list[str](), list[int]()

    class Slow:
        @on
        async def do(self, message: Do) -> None:
            assert message.key not in running
            running.append(message.key)
            most.append(len(running))
            await anyio.sleep(1.0)
            running.remove(message.key)
            lines.append(message.key + message.what)

    slow = mesh.actor(Slow, by=key_of, concurrency=3)
    async with mesh:
        for what in "abc":
            for key in "12345":
                await slow.tell(Do(key, what))
        await mesh.idle()
    assert max(most) == 3
    for key in "12345":
        assert [line for line in lines if line[0] == key] == [f"{key}a", f"{key}b", f"{key}c"]


async def test_nothing_of_a_publishers_context():
    """An instance that a publisher's message makes sees the mesh's context, in its constructor, its hooks and its handlers."""
    name = contextvars.ContextVar[str]("name", default="nobody")
    mesh, seen = Mesh("shop"), list[str]()

    class Seeing:
        def __init__(self) -> None:
            seen.append(name.get())
            name.set("its constructor's")

        @on
        async def do(self, message: Do) -> None:
            seen.append(name.get())

    class SeeingKept(Seeing):
        async def on_start(self) -> None:
            seen.append(name.get().replace("its constructor's", "mesh"))

    name.set("mesh")
    async with mesh:
        name.set("publisher")
        for kind in (Seeing, SeeingKept):
            actor = mesh.actor(kind, by=key_of)
            await actor.tell(Do("1"))
            await actor.tell(Do("1"))
            await mesh.idle()
    assert set(seen) == {"mesh"}
    assert len(seen) == 7


async def test_what_the_constructor_raises():
    """It stops the mesh, as at its start: the message is still there, and its instance is made in the next run."""
    mesh, broken = Mesh("shop"), [True]

    class Broken:
        def __init__(self) -> None:
            if broken:
                raise ConnectionError("no database")

        @on
        async def do(self, message: Do) -> None:
            lines.append(message.key)

    actor = mesh.actor(Broken, by=key_of)
    with pytest.raises(ConnectionError, match="no database"):  # noqa: PT012 - the mesh raises when it is left
        async with mesh:
            await actor.tell(Do("1"))
            await anyio.sleep(60)
    assert actor.mailbox.statistics().ready == 1
    broken.clear()
    async with mesh:
        await mesh.idle()
    assert lines == ["1"]


# Going


async def test_put_away_when_idle():
    """After `idle` seconds without a message, counted from the end of the last; the next message makes another one."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, idle=10.0)
    async with mesh:
        await kept.tell(Do("1", "slow"))
        await anyio.sleep(0.25 + 5.0 + 9.9)
        assert life(mesh) == InstanceStatistics(active=1, put_away=0, waiting=0)
        await kept.tell(Do("1", "x"))
        await anyio.sleep(9.9)
        assert alive == ["Kept[1]"]
        await anyio.sleep(1.2)
        assert alive == []
        assert life(mesh) == InstanceStatistics(active=0, put_away=1, waiting=0)
        lines.clear()
        await kept.tell(Do("1", "y"))
        await mesh.idle()
        assert lines == ["Kept[1] starts", "Kept[1] is there", "1y"]


async def test_each_when_it_is_idle():
    """One value's messages do not keep another one's instance."""
    mesh = Mesh("shop")
    plain = mesh.actor(Plain, by=key_of, idle=10.0)
    async with mesh:
        for second in range(30):
            await plain.tell(Do("busy"))
            if second in (0, 5):
                await plain.tell(Do(str(second)))
            await anyio.sleep(0.5)
            assert life(mesh, "Plain").active == 1 + (second < 10) + (5 <= second < 15)
            await anyio.sleep(0.5)
        assert await plain.ask(Ask("busy")) == 30
        assert await plain.ask(Ask("0")) == 0


async def test_never_without_idle():
    """Without `idle=` and `max_active=` nothing is put away."""
    mesh = Mesh("shop")
    plain = mesh.actor(Plain, by=key_of)
    async with mesh:
        await plain.tell(Do("1"))
        await anyio.sleep(80_000)
        assert life(mesh, "Plain") == InstanceStatistics(active=1, put_away=0, waiting=0)


@pytest.mark.parametrize("after", [10.2, 10.3, 10.5, 11.2, 11.24, 11.25, 11.3])
async def test_a_message_in_the_stop_window(after: float):
    """It is not lost, and no second instance is there before the first is gone: it waits, its lane is held."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, idle=10.0, concurrency=4)
    async with mesh:
        await kept.tell(Do("1", "a"))
        await anyio.sleep(after)
        await kept.tell(Do("1", "b"))
        await kept.tell(Do("1", "c"))
        await mesh.idle()
        assert [line for line in lines if len(line) == 2] == ["1a", "1b", "1c"]
        assert kept.mailbox.statistics().acked == 3


@pytest.mark.parametrize("steps", range(12))
async def test_a_message_in_the_tick_in_which_it_goes(steps: int):
    """Whatever step of its putting away a message meets: it is handled once, by an instance that is there."""
    mesh = Mesh("shop")

    class Quick:
        async def on_start(self) -> None:
            alive.append("one")
            assert len(alive) == 1
            await anyio.lowlevel.checkpoint()

        @on
        async def do(self, message: Do) -> None:
            assert alive == ["one"]
            lines.append(message.what)
            await anyio.lowlevel.checkpoint()

        async def on_stop(self) -> None:
            await anyio.lowlevel.checkpoint()
            alive.clear()

    quick = mesh.actor(Quick, by=key_of, max_active=1)
    async with mesh:
        await quick.tell(Do("1", "a"))
        await mesh.idle()
        await quick.tell(Do("2", "b"))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        await quick.tell(Do("1", "c"))
        await mesh.idle()
        assert sorted(lines) == ["a", "b", "c"]


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_in_the_tick_in_which_its_handler_ends(steps: int):
    """Stopping the actor then: the message is handled once or lies ready, and the instance is left by its own task."""
    mesh, handled = Mesh("shop", grace=0.0), list[str]()

    class Ticking(Kept):
        @on
        async def do(self, message: Do) -> None:
            for _ in range(4):
                await anyio.lowlevel.checkpoint()
            handled.append(message.what)

    ticking = mesh.actor(Ticking, name="Kept", by=key_of)
    async with mesh:
        await ticking.ask(Ask("1"))
        await ticking.tell(Do("1", "a"))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
    numbers = ticking.mailbox.statistics()
    assert numbers.acked == 1 + len(handled)
    assert numbers.ready == 1 - len(handled)
    assert numbers.leased == 0


async def test_a_message_that_is_on_its_way_keeps_it():
    """One that waits for its retry, one that a gate holds, one that runs: its instance is not put away under it."""
    mesh, attempts = Mesh("shop"), list[int]()

    class Trying:
        def __init__(self) -> None:
            self.failed = 0

        @on
        async def do(self, message: Do, ctx: Context) -> None:
            if message.what == "later" and self.failed == 0:
                self.failed += 1
                raise RetryAfter(100.0)
            attempts.append(self.failed)
            if message.what == "long":
                await anyio.sleep(100.0)
                self.failed += 1

    trying = mesh.actor(Trying, by=key_of, idle=10.0)
    gated = mesh.actor(Trying, name="gated", by=key_of, idle=10.0, gates=[Rate(1, per=100.0, by=key_of)])
    async with mesh:
        await trying.tell(Do("1", "later"))
        await mesh.idle()
        await trying.tell(Do("2", "long"))
        await trying.tell(Do("2"))
        await mesh.idle()
        assert attempts == [1, 0, 1]
        attempts.clear()
        await gated.tell(Do("3", "long"))
        await gated.tell(Do("3"))
        await mesh.idle()
        assert attempts == [0, 1]


async def test_a_message_that_is_withdrawn():
    """An asker that leaves takes its message with it; the instance is put away all the same."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, idle=10.0)
    async with mesh:
        await kept.tell(Do("1", "slow"))
        with pytest.raises(TimeoutError):
            await kept.ask(Ask("1"), timeout=1.0)
        with pytest.raises(TimeoutError):
            await kept.ask(Ask("2"), timeout=0.1)
        await anyio.sleep(40.0)
        assert life(mesh).active == 0
        assert alive == []


# At most so many


async def test_the_least_recently_used_goes_first():
    """For one more than `max_active`, the one that has been without a message for longest is put away."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, max_active=3)
    async with mesh:
        for key in "1231":
            await kept.tell(Do(key))
            await mesh.idle()
        lines.clear()
        await kept.tell(Do("4"))
        await mesh.idle()
        assert lines == ["Kept[2] stops", "Kept[2] is gone", "Kept[4] starts", "Kept[4] is there", "4"]
        assert life(mesh) == InstanceStatistics(active=3, put_away=1, waiting=0)


async def test_without_hooks_the_next_comes_at_once():
    """Nothing has to be left: the message that is one too many is handled in its turn."""
    mesh = Mesh("shop")
    plain = mesh.actor(Plain, by=key_of, max_active=2)
    async with mesh:
        for key in ("1", "2", "1", "3", "1", "2"):
            await plain.tell(Do(key))
        await mesh.idle()
        assert [await plain.ask(Ask(key)) for key in ("1", "2")] == [3, 1]
        assert life(mesh, "Plain") == InstanceStatistics(active=2, put_away=2, waiting=0)


async def test_all_busy():
    """The message waits until one can be put away; so do the values after it, first come, first served."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, max_active=2, concurrency=8)
    async with mesh:
        await kept.tell(Do("1", "slow"))
        await anyio.sleep(1.0)
        await kept.tell(Do("2", "slow"))
        await anyio.sleep(1.0)
        for key in "345":
            await kept.tell(Do(key))
        await kept.tell(Do("1", "again"))
        await anyio.sleep(1.0)
        assert life(mesh) == InstanceStatistics(active=2, put_away=0, waiting=3)
        await mesh.idle()
        assert life(mesh).waiting == 0
        assert [line for line in lines if line.endswith("there")] == [f"Kept[{key}] is there" for key in "123451"]
        assert kept.mailbox.statistics().acked == 6


@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize("max_active", [1, 2])
@pytest.mark.parametrize("made", [Kept, Plain])
async def test_a_busy_value_makes_way(made: type[Any], max_active: int, concurrency: int):
    """While values wait, a turn of an instance is followed by no other: its messages wait for their value's next turn."""
    mesh = Mesh("shop")
    mine = mesh.actor(made, by=key_of, max_active=max_active, concurrency=concurrency)
    busy = "12"[:max_active]
    async with mesh:
        for number in range(20):
            for key in busy:
                await mine.tell(Do(key, str(number)))
            if number == 0:
                await mine.tell(Do("3"))
                await mine.tell(Do("4"))
        await mesh.idle()
    handled = [line for line in lines if line[0] in "1234"]
    assert handled.index("3") < handled.index("4") <= 2 * max_active + 1
    for key in busy:
        assert [line[1:] for line in handled if line[0] == key] == [str(number) for number in range(20)]
    assert life(mesh, made.__name__).waiting == 0


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("made", [Kept, Slow])
async def test_a_value_that_never_rests_makes_way(made: type[Any], concurrency: int):
    """Also when its next message is always there before the turn has ended, set aside or not looked at yet."""
    mesh = Mesh("shop")
    mine = mesh.actor(made, by=key_of, max_active=1, concurrency=concurrency)
    async with mesh:
        for number in range(50):
            await mine.tell(Do("1", "slow"))
            if number == 20:
                await mine.tell(Do("2"))
            await anyio.sleep(4.5)
            if number == 40:
                assert "2" in lines
        await mesh.idle()
    assert lines.count("1slow") == 50


async def test_a_pending_timer_keeps_a_busy_one():
    """An instance that has set a timer in its turn stays, whoever waits, until that has fired."""
    mesh = Mesh("shop")

    class Ticking:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.key + message.what)
            if message.what == "set":
                ctx.timer("tick", 50.0, Do(message.key, "tick"))
            await anyio.sleep(1.0)

    ticking = mesh.actor(Ticking, by=key_of, max_active=1)
    async with mesh:
        for message in (Do("1", "set"), Do("2"), Do("1", "a"), Do("1", "b")):
            await ticking.tell(message)
        await mesh.idle()
        await anyio.sleep(60.0)
        assert lines == ["1set", "1a", "1b", "1tick", "2"]


async def test_one_that_left_the_line():
    """A value whose messages are withdrawn while it waits gets no instance, and the next in line takes its turn."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, max_active=1, concurrency=4)
    async with mesh:
        await kept.tell(Do("1", "slow"))
        await anyio.sleep(1.0)
        with pytest.raises(TimeoutError):
            await kept.ask(Ask("2"), timeout=1.0)
        await kept.tell(Do("3"))
        await mesh.idle()
        assert "Kept[2] starts" not in lines
        assert "3" in lines
        assert life(mesh) == InstanceStatistics(active=1, put_away=1, waiting=0)


async def test_paused_while_values_wait():
    """A pause stops no putting away; nothing is handed out until the actor is resumed, then all of it."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, max_active=1, idle=10.0)
    async with mesh:
        for key in "123":
            await kept.tell(Do(key))
        await anyio.sleep(0.3)
        kept.pause()
        await anyio.sleep(100.0)
        before = [line for line in lines if len(line) == 1]
        await mesh.idle()
        kept.resume()
        await mesh.idle()
        assert [line for line in lines if len(line) == 1] == ["1", "2", "3"]
        assert before == ["1"]


# Timers and watches


async def test_a_pending_timer_keeps_it():
    """An instance with a pending `ctx.timer` is not idle: neither `idle=` nor `max_active=` puts it away."""
    mesh = Mesh("shop")

    class Ticking:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.key + message.what)
            if message.what == "set":
                ctx.timer("tick", 50.0, Do(message.key, "tick"))
            if message.what == "cancel":
                ctx.cancel_timer("tick")

    ticking = mesh.actor(Ticking, by=key_of, idle=10.0, max_active=1)
    async with mesh:
        await ticking.tell(Do("1", "set"))
        await anyio.sleep(20.0)
        await ticking.tell(Do("2"))
        await anyio.sleep(20.0)
        assert life(mesh, "Ticking") == InstanceStatistics(active=1, put_away=0, waiting=1)
        await anyio.sleep(11.0)
        assert lines == ["1set", "1tick", "2"]
        await ticking.tell(Do("3", "set"))
        await ticking.tell(Do("3", "cancel"))
        await anyio.sleep(11.0)
        assert life(mesh, "Ticking").active == 0


async def test_a_timer_is_its_own():
    """It belongs to one instance: names are each one's own, and a message of another value is refused."""
    mesh, refused = Mesh("shop"), list[str]()

    class Ticking:
        async def on_start(self, ctx: ActorContext) -> None:
            try:
                ctx.timer("tick", 1.0, Do("other", "tick"))
            except ValueError as error:
                refused.append(str(error))

        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.key + message.what)
            if not message.what:
                ctx.timer("tick", 1.0, Do(message.key, "tick"))

    ticking = mesh.actor(Ticking, by=key_of)
    async with mesh:
        await ticking.tell(Do("1"))
        await ticking.tell(Do("2"))
        await anyio.sleep(5.0)
    assert lines == ["1", "2", "1tick", "2tick"]
    assert min(refused) == (
        "Do(key='other', what='tick') is for Ticking[other], not for Ticking[1]: by= gives 'other'; tell actor 'Ticking' "
        "itself, or change the message"
    )


async def test_timers_die_with_it():
    """The timers of an instance that is left with its actor do not fire."""
    mesh = Mesh("shop")

    class Ticking:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.what)
            ctx.timer("tick", 5.0, Do(message.key, "tick"))

    ticking = mesh.actor(Ticking, by=key_of)
    async with mesh:
        await ticking.tell(Do("1", "a"))
        await mesh.idle()
        await ticking.stop()
        await anyio.sleep(20.0)
    assert lines == ["a"]
    assert ticking.mailbox.statistics().entered == 1


async def test_a_watch_survives_putting_away():
    """The message that tells of another actor's end makes the instance again."""
    mesh = Mesh("shop")

    @mesh.actor
    async def other(text: str) -> None: ...

    class Watching:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.key + message.what)
            if not message.what:
                ctx.watch(other, Do(message.key, " told"))

    watching = mesh.actor(Watching, by=key_of, idle=10.0)
    async with mesh:
        for key in "121":
            await watching.tell(Do(key))
        await anyio.sleep(30.0)
        assert life(mesh, "Watching").active == 0
        await other.stop()
        await mesh.idle()
    assert sorted(lines) == ["1", "1", "1 told", "2", "2 told"]


# Saved state


class Count(Struct, frozen=True):
    count: int = 0


class Saving:
    """Counts its messages, across instances."""

    async def on_start(self, ctx: ActorContext) -> None:
        self.count = (ctx.saved(Count) or Count()).count

    @on
    async def do(self, message: Do, ctx: Context) -> None:
        self.count += 1
        ctx.save(Count(self.count))
        assert ctx.saved(Count) == (None if self.count == 1 else Count(self.count - 1))

    @on
    async def asked(self, message: Ask) -> int:
        return self.count


async def test_saved_state_is_each_values_own():
    """It survives putting away and the mesh's runs, and is nobody else's."""
    mesh = Mesh("shop")
    saving = mesh.actor(Saving, by=key_of, idle=10.0)
    async with mesh:
        for key in "112":
            await saving.tell(Do(key))
        await anyio.sleep(30.0)
        assert life(mesh, "Saving").active == 0
        await saving.tell(Do("1"))
        assert [await saving.ask(Ask(key)) for key in "123"] == [3, 1, 0]
    async with mesh:
        assert [await saving.ask(Ask(key)) for key in "123"] == [3, 1, 0]


# Stopping


async def test_stopped_with_messages_in_hand():
    """What runs is finished, what starts or stops is left in good order, what waits lies ready."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, max_active=2, concurrency=4)
    async with mesh:
        await kept.tell(Do("1", "slow"))
        await anyio.sleep(1.0)
        for key in "123":
            await kept.tell(Do(key))
        await anyio.sleep(0.1)
        await kept.stop()
        assert alive == []
        assert kept.mailbox.statistics().ready == 3
        again = mesh.actor(Kept, by=key_of)
        await mesh.idle()
        assert again.mailbox.statistics().ready == 0
    assert [line for line in lines if line in "123"] == ["1", "2", "3"]
    assert alive == []


async def test_the_next_actor_waits_for_the_last_instances():
    """While an actor is being stopped, another one on its mailbox makes no instance of a value that is still there."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, concurrency=4)
    async with mesh:
        await kept.tell(Do("1"))
        await mesh.idle()
        async with anyio.create_task_group() as group:
            group.start_soon(kept.stop)
            await settled()
            again = mesh.actor(Kept, by=key_of)
            await again.tell(Do("1", "again"))
            await again.tell(Do("2"))
        await mesh.idle()
    assert lines.index("Kept[1] is gone") < lines.index("1again")
    assert lines.index("Kept[2] is there") < lines.index("Kept[1] is gone"), "other values go on"


async def test_the_next_actor_makes_instances_of_its_own():
    """Of a class without hooks, too, while a handler of the stopped actor still runs."""
    mesh = Mesh("shop")

    class Slow(Plain):
        @on
        async def do(self, message: Do) -> None:
            self.count += 1
            await anyio.sleep(5.0 if message.what == "slow" else 0.0)

    slow = mesh.actor(Slow, by=key_of, concurrency=4)
    async with mesh:
        await slow.tell(Do("1"))
        await slow.tell(Do("2", "slow"))
        await settled()
        async with anyio.create_task_group() as group:
            group.start_soon(slow.stop)
            await settled()
            again = mesh.actor(Slow, by=key_of, concurrency=4)
            await again.tell(Do("1"))
            assert await again.ask(Ask("1")) == 1
            assert await again.ask(Ask("2")) == 0


async def test_at_the_end_of_the_mesh():
    """All instances of an actor are left together, by their tasks, after the last handler; nothing is left behind."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, idle=100.0, concurrency=20)
    async with mesh:
        for number in range(20):
            await kept.tell(Do(str(number)))
        await mesh.idle()
        began = anyio.current_time()
    assert anyio.current_time() - began == pytest.approx(1.0, abs=0.01)
    assert alive == []
    assert not mesh._engine.keepers.running
    assert not mesh._engine.quiescence.entering
    assert len(mesh._engine.ground.ledger.timers) == 0


async def test_a_mesh_that_is_cancelled():
    """Instances that start, run and stop are left; their messages lie ready, and are handled in the next run."""
    mesh = Mesh("shop")

    class Wide(Kept):
        @asynccontextmanager
        async def lifespan(self, ctx: ActorContext) -> AsyncGenerator[None]:
            self.name, self.task = ctx.name, task_here()
            assert self.name not in alive
            alive.append(self.name)
            try:
                await anyio.sleep(0.25)
                yield
            finally:
                assert task_here() is self.task
                alive.remove(self.name)

        on_start = on_stop = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    wide = mesh.actor(Wide, name="Kept", by=key_of, max_active=2, concurrency=4)
    with anyio.move_on_after(1.0):
        async with mesh:
            await wide.tell(Do("1", "slow"))
            await anyio.sleep(0.9)
            for key in "234":
                await wide.tell(Do(key))
            await anyio.sleep(100.0)
    assert alive == []
    assert wide.mailbox.statistics().ready == 4
    async with mesh:
        await mesh.idle()
    assert wide.mailbox.statistics().acked == 4


# Deadlocks


class Chat(Struct, Request[str], frozen=True):
    key: str
    to: str = ""


async def test_asking_oneself():
    """An instance that asks its own value would wait for itself; asking another one is fine."""
    mesh = Mesh("shop")

    class Chatting:
        @on
        async def chat(self, message: Chat) -> str:
            if not message.to:
                return "hello"
            return await chatting.at(message.to).ask(Chat(message.to))

    chatting = mesh.actor(Chatting, by=key_of, concurrency=4)
    async with mesh:
        assert await chatting.ask(Chat("1", "2")) == "hello"
        with pytest.raises(DeadlockError, match=r"Chatting -> Chatting \(lane '1'\)"):
            await chatting.ask(Chat("1", "1"))


async def test_asking_oneself_while_starting():
    """So would one that asks its own value in `on_start`."""
    mesh, caught = Mesh("shop"), list[DeadlockError]()

    class Starting:
        async def on_start(self, ctx: ActorContext) -> None:
            try:
                await starting.ask(Chat("1"))
            except DeadlockError as error:
                caught.append(error)

        @on
        async def chat(self, message: Chat) -> str:
            return "hello"

    starting = mesh.actor(Starting, by=key_of, concurrency=4)
    async with mesh:
        assert await starting.ask(Chat("1")) == "hello"
    assert caught[0].ring == ("Starting[1]", "Starting[1]")


async def test_asking_one_that_has_no_place():
    """One that asks a value which waits until the asker's own instance can be put away would wait for itself, too."""
    mesh = Mesh("shop")

    class Chatting:
        @on
        async def chat(self, message: Chat) -> str:
            if not message.to:
                return "hello"
            return await chatting.at(message.to).ask(Chat(message.to))

    chatting = mesh.actor(Chatting, by=key_of, concurrency=4, max_active=1)
    async with mesh:
        with pytest.raises(DeadlockError):
            await chatting.ask(Chat("1", "2"))
        assert await chatting.ask(Chat("2")) == "hello"


async def test_stopping_the_actor_from_its_instance():
    """An instance cannot wait for its own actor to stop, in a handler or a hook."""
    mesh, caught = Mesh("shop"), list[str]()

    class Stopping:
        async def on_start(self) -> None:
            try:
                await stopping.stop()
            except DeadlockError:
                caught.append("hook")

        @on
        async def do(self, message: Do) -> None:
            try:
                await stopping.stop()
            except DeadlockError:
                caught.append("handler")

    stopping = mesh.actor(Stopping, by=key_of)
    async with mesh:
        await stopping.tell(Do("1"))
        await mesh.idle()
    assert caught == ["hook", "handler"]


# What is seen, and what is kept


async def test_what_is_seen_of_it():
    """Statistics count the instances, the topology and the dump name them."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of)
    assert mesh.topology().instances == {"Kept": 0}
    async with mesh:
        await kept.tell(Do("1"))
        await kept.tell(Do("2"))
        await anyio.sleep(0.1)
        assert mesh.topology().instances == {"Kept": 2}
        assert "Kept (instances" in mesh.topology().dot()
        assert "actor 'Kept[2]': 0 of 1 slots at work" in mesh.dump()
        assert "its lifespan is entered" in mesh.dump()
        await mesh.idle()


async def test_the_context_names_it():
    """Hooks see the instance's name; a handler's Context the actor's, and its log lines the instance's."""
    mesh = Mesh("shop")

    class Named:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(ctx.actor)
            lines.append(str(ctx.log.extra))
            ctx.progress(1, 2)
            assert list(mesh.statistics().actors["Named"].progress) == [ctx.message.id]

    named = mesh.actor(Named, by=key_of)
    async with mesh:
        await named.tell(Do("1"))
        await mesh.idle()
    assert lines[0] == "Named"
    assert "'actor': 'Named[1]'" in lines[1]
    assert mesh.statistics().actors["Named"].progress == {}


async def test_only_the_active_ones_cost_memory():
    """Of 20,000 values that have been seen, nothing is left but what is active."""
    mesh, made = Mesh("shop"), weakref.WeakSet[Any]()

    class Weighed:
        def __init__(self) -> None:
            made.add(self)

        @on
        async def do(self, message: Do) -> None: ...

    weighed = mesh.actor(Weighed, by=key_of, max_active=100)
    async with mesh:
        for number in range(20_000):
            await weighed.tell(Do(str(number)))
        await mesh.idle()
        gc.collect()
        assert len(made) <= 100 + len(mesh._engine.scheduler.workers)
        box = mesh._engine.ground.router.mailboxes["Weighed"]
        assert len(box.lanes) == 100


async def test_kept_ones_leave_nothing():
    """The same with hooks: no task, no timer, no lane of one that is gone."""
    mesh = Mesh("shop")

    class Short:
        async def on_start(self, ctx: ActorContext) -> None:
            ctx.timer("never", 0.5, Do(ctx.name[6:-1]))

        @on
        async def do(self, message: Do) -> None: ...

    short = mesh.actor(Short, by=key_of, idle=1.0, concurrency=8)
    async with mesh:
        for number in range(500):
            await short.tell(Do(str(number)))
        await anyio.sleep(10.0)
        engine = mesh._engine
        assert life(mesh, "Short") == InstanceStatistics(active=0, put_away=500, waiting=0)
        assert not engine.keepers.running
        assert not engine.quiescence.entering
        assert not engine.ground.router.mailboxes["Short"].lanes
        assert len(engine.ground.ledger.timers) == 0


async def test_purging_while_they_start():
    """Purged messages end; their instance comes up, and is handed what comes then."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, idle=5.0, max_active=1)
    async with mesh:
        for key in "112":
            await kept.tell(Do(key))
        await anyio.sleep(0.1)
        assert kept.mailbox.purge() == 3
        await mesh.idle()
        await kept.tell(Do("1", "x"))
        await mesh.idle()
        assert [line for line in lines if line.startswith("1")] == ["1x"]
        await anyio.sleep(20.0)
        assert life(mesh).active == 0


async def test_a_handler_in_a_thread():
    """A plain method runs in a thread, one at a time for each instance."""
    mesh, seen = Mesh("shop"), list[str]()

    class Threaded:
        @on
        def do(self, message: Do) -> None:
            seen.append(message.key + message.what)

    threaded = mesh.actor(Threaded, by=key_of, concurrency=4)
    async with mesh:
        for what in "abc":
            for key in "12":
                await threaded.tell(Do(key, what))
        await mesh.idle()
    assert [text for text in seen if text[0] == "1"] == ["1a", "1b", "1c"]
    assert len(seen) == 6


async def test_retried_on_its_instance():
    """A message that failed is tried again on the instance of its value, in order before those after it."""
    mesh = Mesh("shop")

    class Failing:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.key + message.what + str(ctx.attempt))
            if message.what == "a" and ctx.attempt < 3:
                raise OSError("again")

    failing = mesh.actor(Failing, by=key_of, retry=Retry(3, initial=1.0, jitter="none"), concurrency=2)
    async with mesh:
        for what in "ab":
            await failing.tell(Do("1", what))
        await failing.tell(Do("2", "b"))
        await mesh.idle()
    assert [line for line in lines if line[0] == "1"] == ["1a1", "1a2", "1a3", "1b1"]
    assert lines.index("2b1") < lines.index("1a2")
