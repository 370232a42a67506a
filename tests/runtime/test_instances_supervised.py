"""Instances of a class actor with `by=` that fail: each has its own budget, and its group brings all of them up again."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import pytest
from msgspec import Struct

from flowmesh import ActorContext, Context, Mesh, Request, Restart, RestartLimitReached, Retry, on

pytestmark = pytest.mark.anyio

AT_ONCE = Restart(max=None, initial=0.0)


class Do(Struct, frozen=True):
    key: str
    what: str = ""


class Ask(Struct, Request[int], frozen=True):
    key: str


def key_of(message: Any) -> str:
    """Return the value of a message."""
    return str(message.key)


lines: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


class Kept:
    """Fails on "bad"; counts since it was made."""

    count = 0

    async def on_start(self, ctx: ActorContext) -> None:
        self.name = ctx.name
        lines.append(f"{self.name} starts")

    async def on_stop(self) -> None:
        lines.append(f"{self.name} stops")

    @on
    async def do(self, message: Do) -> None:
        self.count += 1
        if message.what == "bad":
            raise OSError("bad")
        if message.what == "slow":
            await anyio.sleep(5.0)
        lines.append(message.key + message.what)

    @on
    async def asked(self, message: Ask) -> int:
        return self.count


async def test_one_is_made_anew_and_the_others_go_on():
    """A failure that the policy mends makes that instance anew; the other keeps what it has, and works meanwhile."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, restart=Restart(max=3, within=60.0, initial=5.0, jitter="none"), concurrency=2)
    async with mesh:
        for key in "12":
            await kept.tell(Do(key, "a"))
        await kept.tell(Do("1", "bad"))
        await kept.tell(Do("1", "b"))
        await anyio.sleep(1.0)
        assert await kept.ask(Ask("2")) == 1
        assert "1b" not in lines, "it waits for the next instance"
        await mesh.idle()
        assert await kept.ask(Ask("1")) == 1
        assert await kept.ask(Ask("2")) == 1
        assert mesh.statistics().actors["Kept"].restarts == 1
    assert [line for line in lines if "[1]" in line or line[0] == "1"] == [
        "Kept[1] starts",
        "1a",
        "Kept[1] stops",
        "Kept[1] starts",
        "1b",
        "Kept[1] stops",
    ]


async def test_each_has_a_budget_of_its_own():
    """Failures of many instances use up nobody's budget but their own; one that does stops the mesh."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, restart=Restart(max=1, within=60.0, initial=0.1, jitter="none"))
    with pytest.raises(RestartLimitReached, match=r"actor 'Kept\[3\]' needed more than 1 restarts within 60 s") as caught:  # noqa: PT012 - the mesh raises when it is left
        async with mesh:
            for number in range(20):
                await kept.tell(Do(str(number), "bad"))
            await anyio.sleep(1.0)
            assert mesh.statistics().actors["Kept"].restarts == 20
            await kept.tell(Do("3", "bad"))
            await anyio.sleep(60.0)
    assert caught.value.name == "Kept[3]"
    assert isinstance(caught.value.__cause__, OSError)


async def test_without_a_policy_it_lives_on():
    """A message that fails is settled by its own policy, and its instance is as good as before."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of)
    async with mesh:
        await kept.tell(Do("1", "bad"))
        assert await kept.ask(Ask("1")) == 1
        assert len(mesh.dead_letters.list()) == 1


class Starting:
    """Its start fails for key "1" until `healed`."""

    healed: ClassVar[list[str]] = []

    async def on_start(self, ctx: ActorContext) -> None:
        lines.append(f"{ctx.name} starts")
        if ctx.name == "Starting[1]" and not self.healed:
            raise ConnectionError("not yet")

    @on
    async def do(self, message: Do) -> None:
        lines.append(message.key + message.what)


@pytest.fixture(autouse=True)
def _ill() -> None:
    Starting.healed.clear()


async def test_a_failing_start_backs_off():
    """Its value's messages wait, in order; other values go on; the waits grow."""
    mesh = Mesh("shop")
    starting = mesh.actor(Starting, by=key_of, restart=Restart(max=None, initial=1.0, jitter="none"))
    async with mesh:
        await starting.tell(Do("1", "a"))
        await starting.tell(Do("1", "b"))
        await anyio.sleep(0.5)
        await starting.tell(Do("2"))
        await anyio.sleep(0.1)
        assert lines == ["Starting[1] starts", "Starting[2] starts", "2"]
        await anyio.sleep(6.0)
        assert lines.count("Starting[1] starts") == 3
        Starting.healed.append("1")
        await mesh.idle()
        assert lines[-2:] == ["1a", "1b"]
        assert anyio.current_time() == pytest.approx(7.0, abs=0.1)


async def test_a_failing_start_without_a_policy():
    """It stops the mesh with its error, as that of any class actor; the message is still there."""
    mesh = Mesh("shop")
    starting = mesh.actor(Starting, by=key_of)
    with pytest.raises(ConnectionError, match="not yet"):  # noqa: PT012 - the mesh raises when it is left
        async with mesh:
            await starting.tell(Do("1"))
            await anyio.sleep(60.0)
    assert starting.mailbox.statistics().ready == 1


async def test_a_failing_start_that_nobody_waits_for():
    """When the asker has left, the instance still comes up in the end, and is put away."""
    mesh = Mesh("shop")
    starting = mesh.actor(Starting, by=key_of, restart=Restart(max=None, initial=1.0, jitter="none"), idle=5.0)
    async with mesh:
        with pytest.raises(TimeoutError):
            await starting.ask(Do("1"), timeout=2.0)
        await mesh.idle()
        Starting.healed.append("1")
        await anyio.sleep(60.0)
        instances = mesh.statistics().actors["Starting"].instances
        assert instances is not None
        assert (instances.active, instances.put_away) == (0, 1)


class Leaving:
    """Its stop fails."""

    @on
    async def do(self, message: Do) -> None:
        lines.append(message.key + message.what)

    async def on_stop(self) -> None:
        lines.append("stop")
        raise ConnectionError("cannot say goodbye")


async def test_a_failing_stop_without_a_policy():
    """It stops the mesh, as that of any class actor does."""
    mesh = Mesh("shop")
    leaving = mesh.actor(Leaving, by=key_of, idle=5.0)
    with pytest.raises(ConnectionError, match="goodbye"):  # noqa: PT012 - the mesh raises when it is left
        async with mesh:
            await leaving.tell(Do("1"))
            await anyio.sleep(60.0)


async def test_a_failing_stop_that_the_policy_mends(caplog: pytest.LogCaptureFixture):
    """It is logged; the instance is gone, and the next message makes the next one."""
    mesh = Mesh("shop")
    leaving = mesh.actor(Leaving, by=key_of, idle=5.0, restart=AT_ONCE)
    with pytest.raises(ConnectionError, match="goodbye"):  # noqa: PT012 - the mesh raises when it is left
        async with mesh:
            await leaving.tell(Do("1", "a"))
            await anyio.sleep(60.0)
            await leaving.tell(Do("1", "b"))
            await mesh.idle()
            assert lines == ["1a", "stop", "1b"]
    assert "actor 'Leaving[1]' failed as it was left" in caplog.text


async def test_a_lifespan_that_fails_by_itself():
    """A task of an instance's lifespan that raises fails that instance, between its messages too."""
    mesh = Mesh("shop")

    class Polling(Kept):
        on_start = on_stop = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

        @asynccontextmanager
        async def lifespan(self, ctx: ActorContext) -> AsyncGenerator[None]:
            lines.append(f"{ctx.name} starts")
            async with anyio.create_task_group() as group:
                group.start_soon(self.poll, ctx.name)
                yield
                group.cancel_scope.cancel()

        async def poll(self, name: str) -> None:
            await anyio.sleep(10.0)
            if name == "Kept[1]" and lines.count("Kept[1] starts") == 1:
                raise OSError("poll")

    polling = mesh.actor(Polling, name="Kept", by=key_of, restart=AT_ONCE, concurrency=2)
    async with mesh:
        for key in "12":
            await polling.tell(Do(key, "a"))
        await anyio.sleep(9.0)
        await polling.tell(Do("1", "slow"))
        await mesh.idle()
        assert await polling.ask(Ask("1")) == 1
        assert await polling.ask(Ask("2")) == 1
        assert lines.count("Kept[1] starts") == 2
        assert polling.mailbox.statistics().acked == 5


async def test_timers_die_with_a_restart():
    """An instance that is made anew has none of the timers of the one before; the other's go on."""
    mesh = Mesh("shop")

    class Ticking:
        @on
        async def do(self, message: Do, ctx: Context) -> None:
            lines.append(message.key + message.what)
            if message.what == "set":
                ctx.timer("tick", 5.0, Do(message.key, "tick"))
            if message.what == "bad":
                raise OSError("bad")

    ticking = mesh.actor(Ticking, by=key_of, restart=AT_ONCE)
    async with mesh:
        for key in "12":
            await ticking.tell(Do(key, "set"))
        await ticking.tell(Do("1", "bad"))
        await anyio.sleep(20.0)
    assert lines == ["1set", "2set", "1bad", "2tick"]


class Total(Struct):
    total: int = 0


async def test_saved_state_survives_a_restart():
    """The next instance of the value is given what the one before has saved."""
    mesh = Mesh("shop")

    class Saving:
        def __init__(self) -> None:
            self.state = Total()

        async def on_start(self, ctx: ActorContext) -> None:
            self.state = ctx.saved(Total) or Total()

        @on
        async def do(self, message: Do, ctx: Context) -> None:
            self.state.total += 1
            if message.what == "bad" and ctx.attempt == 1:
                raise OSError("bad")
            ctx.save(self.state)

        @on
        async def asked(self, message: Ask) -> int:
            return self.state.total

    saving = mesh.actor(Saving, by=key_of, restart=AT_ONCE, retry=Retry(2, initial=1.0))
    async with mesh:
        for key in ("1", "1", "2"):
            await saving.tell(Do(key))
        await saving.tell(Do("1", "bad"))
        await mesh.idle()
        assert [await saving.ask(Ask(key)) for key in "12"] == [3, 1]


# In a group


async def test_a_group_brings_all_up_again():
    """A failure that no policy of its own mends is the group's: all instances are left, and made by their next messages."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, concurrency=4)
    beside = mesh.actor(Kept, name="beside")
    group = mesh.supervise("both", [kept, beside], strategy="one_for_all")
    async with mesh:
        for key in "12":
            await kept.tell(Do(key, "a"))
        await mesh.idle()
        await kept.tell(Do("2", "slow"))
        await anyio.sleep(1.0)
        lines.clear()
        await kept.tell(Do("1", "bad"))
        await kept.tell(Do("1", "b"))
        await mesh.idle()
        assert group.restarts == 1
        assert "2slow" in lines, "what was cancelled is handled again"
        assert "1b" in lines
        assert lines.count("Kept[1] stops") == lines.count("Kept[2] stops") == lines.count("beside stops") == 1
        assert [await kept.ask(Ask(key)) for key in "12"] == [1, 1]
    assert kept.mailbox.statistics().acked == 6


async def test_another_member_takes_it_down():
    """When the group goes down for another's sake, so do all instances, those that start and wait in line too."""
    mesh, polled = Mesh("shop"), list[int]()

    class Slow(Kept):
        async def on_start(self, ctx: ActorContext) -> None:
            self.name = ctx.name
            await anyio.sleep(2.0)

    slow = mesh.actor(Slow, name="Kept", by=key_of, concurrency=4, max_active=2)

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        polled.append(1)
        await anyio.sleep(3.0)
        if len(polled) == 1:
            raise ConnectionError("poll")

    mesh.supervise("both", [poll, slow], strategy="one_for_all")
    async with mesh:
        await slow.tell(Do("1", "slow"))
        await anyio.sleep(2.5)
        for key in "234":
            await slow.tell(Do(key))
        await mesh.idle()
        assert sorted(line for line in lines if line[0] in "1234") == ["1slow", "2", "3", "4"]
    assert slow.mailbox.statistics().acked == 4


async def test_the_budget_of_its_own_goes_first():
    """With `restart=` an instance is made anew alone; only when that is used up the group judges."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, restart=Restart(max=1, within=60.0, initial=0.1, jitter="none"))
    group = mesh.supervise("one", [kept])
    async with mesh:
        await kept.tell(Do("2", "a"))
        await kept.tell(Do("1", "bad"))
        await mesh.idle()
        await anyio.sleep(1.0)
        assert (group.restarts, mesh.statistics().actors["Kept"].restarts) == (0, 1)
        assert await kept.ask(Ask("2")) == 1
        await kept.tell(Do("1", "bad"))
        await anyio.sleep(1.0)
        assert group.restarts == 1
        assert await kept.ask(Ask("2")) == 0


async def test_the_groups_budget():
    """A group whose budget is used up escalates, as for any member."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of)
    mesh.supervise("one", [kept], max=2)
    with pytest.raises(RestartLimitReached, match="group 'one' needed more than 2 restarts"):  # noqa: PT012 - the mesh raises when it is left
        async with mesh:
            for key in "123":
                await kept.tell(Do(key, "bad"))
                await anyio.sleep(5.0)


async def test_the_end_of_its_group():
    """A significant member that ends, ends the group: the actor is stopped, its instances are left."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of)

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        await anyio.sleep(5.0)

    mesh.supervise("both", [kept, poll], significant=[poll])
    async with mesh:
        await kept.tell(Do("1"))
        await anyio.sleep(6.0)
        assert kept.cell.stopped
        assert lines == ["Kept[1] starts", "1", "Kept[1] stops"]


async def test_stopped_while_in_a_group():
    """Stopping the actor leaves its instances, and is the end of that member."""
    mesh = Mesh("shop")
    kept = mesh.actor(Kept, by=key_of, concurrency=2)
    mesh.supervise("one", [kept])
    async with mesh:
        await kept.tell(Do("1", "slow"))
        await anyio.sleep(1.0)
        await kept.stop()
        assert lines == ["Kept[1] starts", "1slow", "Kept[1] stops"]
        await mesh.idle()


async def test_a_group_that_comes_later():
    """A group that is declared while the mesh runs takes over the instances that are there."""
    mesh = Mesh("shop")

    class Plain:
        def __init__(self) -> None:
            self.count = 0

        @on
        async def do(self, message: Do) -> None:
            self.count += 1
            if message.what == "bad":
                raise OSError("bad")

        @on
        async def asked(self, message: Ask) -> int:
            return self.count

    plain = mesh.actor(Plain, by=key_of)
    async with mesh:
        for key in "12":
            await plain.tell(Do(key))
        await mesh.idle()
        group = mesh.supervise("one", [plain])
        assert [await plain.ask(Ask(key)) for key in "12"] == [1, 1]
        await plain.tell(Do("1", "bad"))
        await anyio.sleep(1.0)
        await mesh.idle()
        assert group.restarts == 1
        assert [await plain.ask(Ask(key)) for key in "12"] == [0, 0]
