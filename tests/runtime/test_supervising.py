"""`mesh.supervise`: members start in order, restart by their group's strategy, are taken down in reverse, end together."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    ActorContext,
    Group,
    InvalidBinding,
    Mesh,
    NotFound,
    Part,
    PreconditionFailed,
    Restart,
    RestartLimitReached,
    Retry,
    on,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


class Sleep(Struct, frozen=True):
    seconds: float


lines: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


def kept(mesh: Any, name: str, *, starting: float = 0.0, broken: int = 0, **options: Any) -> Any:
    """Declare a class actor that notes its life, fails on order 13, and whose start fails so many times."""
    left = [broken]

    class Kept:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            await anyio.sleep(starting)
            if left[0]:
                left[0] -= 1
                lines.append(f"broken {name}")
                raise OSError(f"{name} does not start")
            lines.append(f"start {name}")
            yield
            lines.append(f"stop {name}")

        @on
        async def take(self, order: Order) -> int:
            if order.id == 13:
                raise OSError(f"{name} has failed")
            return order.id

        @on
        async def sleep(self, sleep: Sleep) -> None:
            lines.append(f"work {name}")
            await anyio.sleep(sleep.seconds)

    return mesh.actor(Kept, name=name, **options)


async def fail(actor: Any) -> None:
    """Let an actor fail, and wait until its group is up again."""
    lines.clear()
    with pytest.raises(OSError, match="failed"):
        await actor.ask(Order(13))
    await anyio.sleep(0.2)


async def fail_four_times(mesh: Mesh, actor: Any) -> None:
    """Run a mesh in which an actor fails again and again."""
    async with mesh:
        for _ in range(4):
            await fail(actor)


async def test_started_in_order_and_stopped_in_reverse():
    """The group's order, not that of declaration; with it the group starts where its first actor stands. Sources go first."""
    mesh = Mesh("shop")
    first = kept(mesh, "first")
    third, second = kept(mesh, "third", starting=1.0), kept(mesh, "second", starting=1.0)
    kept(mesh, "last")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        lines.append("poll")
        try:
            await anyio.sleep_forever()
        finally:
            lines.append("cancelled")

    group = mesh.supervise("ingest", [second, poll, third])
    assert repr(group) == "<Group 'ingest' of 3, one_for_one>"
    async with mesh:
        assert lines == ["start first", "start second", "poll", "start third", "start last"]
        assert await first.ask(Order(1)) == 1
    assert lines[5:] == ["cancelled", "stop last", "stop third", "stop second", "stop first"]
    assert group.restarts == 0


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("one_for_one", ["stop b", "start b"]),
        ("one_for_all", ["stop b", "stop c", "stop a", "start a", "start b", "start c"]),
        ("rest_for_one", ["stop b", "stop c", "start b", "start c"]),
    ],
)
async def test_strategies(strategy: Any, expected: list[str]):
    """Who is made anew with a member that has failed: it, all, or those after it; taken down in reverse, started in order."""
    mesh = Mesh("shop")
    a, b, c = (kept(mesh, name) for name in "abc")
    group = mesh.supervise("abc", [a, b, c], strategy=strategy)
    async with mesh:
        await fail(b)
        assert lines == expected
        assert [await one.ask(Order(1)) for one in (a, b, c)] == [1, 1, 1]
        assert group.restarts == 1
        restarts = {name: actor.restarts for name, actor in mesh.statistics().actors.items()}
        assert restarts == {name: int(f"start {name}" in expected) for name in "abc"}


async def test_handlers_in_hand_go_back():
    """One that waits for the actor that has failed would keep its group down: it is cancelled, and handled again later."""
    mesh = Mesh("shop")
    a, b = kept(mesh, "a"), kept(mesh, "b")

    @mesh.actor(concurrency=3)
    async def helper(seconds: float) -> None:
        lines.append("helper")
        await anyio.sleep(seconds)

    mesh.supervise("all", [a, helper, b], strategy="one_for_all")
    async with mesh:
        await b.tell(Sleep(1000.0))
        for seconds in (500.0, 500.0, 0.0, 0.0):
            await helper.tell(seconds)
        await settled()
        await fail(a)
        assert lines == ["stop a", "stop b", "start a", "helper", "helper", "start b", "work b"]
        assert counts(b.mailbox) == {"entered": 1, "leased": 1}
        assert counts(helper.mailbox) == {"entered": 4, "leased": 2, "acked": 2}
        await mesh.idle()
    assert counts(b.mailbox) == {"entered": 1, "acked": 1}
    assert counts(helper.mailbox) == {"entered": 4, "acked": 4}


async def test_a_function_is_handed_nothing_before_its_turn():
    """It starts when the members before it are ready; what it has waits, and the mesh is not at rest meanwhile."""
    mesh, is_idle = Mesh("shop"), anyio.Event()

    @mesh.actor
    async def echo(number: int) -> None:
        lines.append(f"echo {number}")

    a = kept(mesh, "a", starting=5.0)
    mesh.supervise("group", [a, echo])

    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            await settled()
            await echo.tell(1)
            await mesh.idle()
            lines.append("idle")
            is_idle.set()

        tasks.start_soon(send)
        async with mesh:
            await is_idle.wait()
    assert lines == ["start a", "echo 1", "idle", "stop a"]


async def test_a_source_that_raises_is_brought_up_again():
    """Not the mesh but its group is told; after waits that grow; the budget used up stops the mesh, from the last failure."""
    mesh, times = Mesh("shop"), list[float]()

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        times.append(anyio.current_time())
        raise OSError(f"poll {len(times)}")

    mesh.supervise("ingest", [poll], max=3, within=60.0)
    with pytest.raises(RestartLimitReached, match="group 'ingest' needed more than 3 restarts within 60 s") as caught:
        async with mesh:
            await anyio.sleep(1000)
    assert str(caught.value.__cause__) == "poll 4"
    assert caught.value.name == "ingest"
    waits = [later - before for before, later in itertools.pairwise(times)]
    assert all(0 <= wait <= most for wait, most in zip(waits, (0.1, 0.2, 0.4), strict=True))
    assert len(times) == 4


async def test_a_source_outside_of_groups_stops_the_mesh():
    """With its error, bare, whatever groups there are."""
    mesh = Mesh("shop")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        raise OSError("down")

    mesh.supervise("others", [kept(mesh, "a")])
    with pytest.raises(OSError, match="down"):
        async with mesh:
            await anyio.sleep(1000)


async def test_a_source_that_returns_has_ended():
    """It is not run again, not even with the others."""
    mesh = Mesh("shop")

    @mesh.source
    async def once(ctx: ActorContext) -> None:
        lines.append("once")

    a = kept(mesh, "a")
    mesh.supervise("ingest", [once, a], strategy="one_for_all")
    async with mesh:
        await settled()
        await fail(a)
        assert lines == ["stop a", "start a"]


async def test_one_for_one_waits_for_nobody():
    """While one member waits for its restart, another one that fails is brought up after its own wait."""
    mesh = Mesh("shop")
    fails = {"slow": 8}

    @mesh.source
    async def slow(ctx: ActorContext) -> None:
        if fails["slow"]:
            fails["slow"] -= 1
            raise OSError("slow")
        lines.append("slow")
        await anyio.sleep_forever()

    a = kept(mesh, "a")
    mesh.supervise("ingest", [slow, a], max=None)
    async with mesh:
        await fail(a)
        assert lines == ["stop a", "start a"]
        await anyio.sleep(100)
        assert lines[2:] == ["slow"]


# Starts


async def test_a_failing_start():
    """It is tried again before those after it are started; entering the mesh waits."""
    mesh = Mesh("shop")
    a, b = kept(mesh, "a", broken=2), kept(mesh, "b", broken=1)
    group = mesh.supervise("ab", [a, b])
    async with mesh:
        assert lines == ["broken a", "broken a", "start a", "broken b", "start b"]
        assert group.restarts == 3


async def test_a_start_that_always_fails():
    """It stops the mesh, which has not been entered; with `rest_for_one`, those before it have been left alone."""
    mesh = Mesh("shop")
    a, b = kept(mesh, "a"), kept(mesh, "b", broken=99)
    mesh.supervise("ab", [a, b], strategy="rest_for_one", max=2)
    with pytest.raises(RestartLimitReached, match="the last failure: OSError: b does not start"):
        async with mesh:
            pytest.fail("it must not start")
    assert lines == ["start a", *["broken b"] * 3]


async def test_all_start_anew_when_one_does_not():
    """`one_for_all` holds for a failing start too."""
    mesh = Mesh("shop")
    a, b, c = kept(mesh, "a"), kept(mesh, "b", broken=1), kept(mesh, "c")
    mesh.supervise("abc", [a, b, c], strategy="one_for_all")
    async with mesh:
        assert lines == ["start a", "broken b", "stop a", "start a", "start b", "start c"]


# With a policy of its own


async def test_restart_before_group():
    """A member's own `restart=` is used up first; then its group takes over, with a fresh budget for the member."""
    mesh = Mesh("shop")
    own = Restart(max=1, within=30.0, initial=0.0)
    a, b = kept(mesh, "a", restart=own), kept(mesh, "b")
    group = mesh.supervise("ab", [a, b], strategy="one_for_all", max=1)
    async with mesh:
        await fail(a)
        assert (lines, group.restarts) == (["stop a", "start a"], 0)
        await fail(a)
        assert (lines, group.restarts) == (["stop a", "stop b", "start a", "start b"], 1)
        await fail(a)
        assert (lines, group.restarts) == (["stop a", "start a"], 1)
    with pytest.raises(RestartLimitReached, match="group 'ab'") as caught:
        await fail_four_times(mesh, a)
    assert isinstance(caught.value.__cause__, RestartLimitReached)
    assert isinstance(caught.value.__cause__.__cause__, OSError)


async def test_one_message_counts_once_in_a_group():
    """A message that is retried is one charge for the group, too."""
    mesh = Mesh("shop")
    a = kept(mesh, "a", retry=Retry(20, initial=0.5, factor=1.0))
    group = mesh.supervise("one", [a], max=1, within=1000.0)
    async with mesh:
        await a.tell(Order(13))
        await mesh.idle()
        await anyio.sleep(60)
        assert group.restarts == 20
        assert await a.ask(Order(1)) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_is_no_exception_passes_every_group(kind: type[BaseException]):
    """It leaves the mesh bare."""
    mesh = Mesh("shop")

    class Broken:
        async def on_start(self) -> None:
            raise kind

        @on
        async def take(self, order: Order) -> None: ...

    mesh.supervise("group", [mesh.actor(Broken)], max=None)
    with pytest.raises(kind):
        async with mesh:
            pytest.fail("it must not start")


# Groups in groups


async def test_a_group_in_a_group():
    """Its members start where it stands; used up, it is brought up again by the group around it, by that one's strategy."""
    mesh = Mesh("shop")
    a, b, c = (kept(mesh, name) for name in "abc")
    inner = mesh.supervise("inner", [a, b], max=1)
    outer = mesh.supervise("outer", [inner, c], strategy="one_for_all", max=1)
    async with mesh:
        assert lines == ["start a", "start b", "start c"]
        await fail(a)
        assert lines == ["stop a", "start a"]
        await fail(a)
        assert lines == ["stop a", "stop b", "stop c", "start a", "start b", "start c"]
        assert (inner.restarts, outer.restarts) == (1, 1)
        await fail(b)
        assert lines == ["stop b", "start b"], "with a fresh budget"
    assert lines[2:] == ["stop c", "stop b", "stop a"]
    with pytest.raises(RestartLimitReached, match="group 'outer'"):
        await fail_four_times(mesh, a)


async def test_taken_down_in_the_middle_of_its_start():
    """A group that is starting when the one around it goes down stops starting, and starts from the beginning later."""
    mesh = Mesh("shop")
    a, b, c = kept(mesh, "a"), kept(mesh, "b"), kept(mesh, "c", starting=5.0)
    inner = mesh.supervise("inner", [b, c], max=1, strategy="one_for_all")
    mesh.supervise("outer", [a, inner], strategy="one_for_all")
    async with mesh:
        await fail(b)
        assert lines == ["stop b", "stop c", "start b"], "c is starting"
        await fail(a)
        assert lines == ["stop a", "stop b", "start a", "start b"]
        await anyio.sleep(5)
        assert lines[4:] == ["start c"]


# Ends


async def test_a_significant_source_ends_its_group():
    """All of it, in reverse, as by stop(); the mesh and other groups go on; askers are told."""
    mesh = Mesh("shop")
    done = anyio.Event()

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        await done.wait()

    @mesh.source
    async def other(ctx: ActorContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            lines.append("cancelled other")

    @mesh.actor
    async def echo(number: int) -> None: ...

    a, b, c = (kept(mesh, name) for name in "abc")
    inner = mesh.supervise("inner", [b, other])
    mesh.supervise("ingest", [a, poll, inner, echo], significant=[poll])
    async with mesh:
        await settled()
        lines.clear()
        done.set()
        await settled()
        assert lines == ["cancelled other", "stop b", "stop a"]
        assert set(mesh.statistics().actors) == {"c"}
        assert await c.ask(Order(1)) == 1
        assert (await a.tell(Order(2))).routed == 1, "its mailbox stays"


async def test_a_significant_actor_ends_its_group():
    """When it is stopped; one that is not significant is only gone, and is not brought up with the others."""
    mesh = Mesh("shop")
    a, b, c = (kept(mesh, name) for name in "abc")
    mesh.supervise("abc", [a, b, c], strategy="one_for_all", significant=[c])
    async with mesh:
        await b.stop()
        await fail(a)
        assert lines == ["stop a", "stop c", "start a", "start c"]
        lines.clear()
        await c.stop()
        await settled()
        assert lines == ["stop c", "stop a"]


async def test_a_significant_group_ends_the_one_around_it():
    """Its own end is by a significant member, or by that of all its members."""
    mesh = Mesh("shop")
    a, b = kept(mesh, "a"), kept(mesh, "b")
    inner = mesh.supervise("inner", [b])
    mesh.supervise("outer", [a, inner], significant=[inner])
    async with mesh:
        lines.clear()
        await b.stop()
        await settled()
        assert lines == ["stop b", "stop a"]


async def test_a_drain_ends_no_group():
    """A significant source that is cancelled by the drain has not ended by itself: what is ready is handled first."""
    mesh = Mesh("shop")

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        await anyio.sleep_forever()

    a = kept(mesh, "a")
    mesh.supervise("ingest", [a, poll], significant=[poll], strategy="one_for_all")
    async with mesh:
        await settled()
        await a.tell(Order(13))
        await a.tell(Order(1))
    assert counts(a.mailbox) == {"entered": 2, "acked": 1, "dead": 1}
    assert lines == ["start a", "stop a", "start a", "stop a"]


# Declaring


async def test_declared_while_the_mesh_runs():
    """It takes over what runs, and what it holds from then on is restarted; a class without hooks keeps its instance."""
    mesh = Mesh("shop")
    fails = [True]

    class Plain:
        total = 0

        @on
        async def take(self, order: Order) -> int:
            if order.id == 13:
                raise OSError("it has failed")
            self.total += order.id
            return self.total

    @mesh.source
    async def poll(ctx: ActorContext) -> None:
        lines.append("poll")
        await anyio.sleep(1)
        if fails:
            fails.clear()
            raise OSError("poll")
        await anyio.sleep_forever()

    plain, a = mesh.actor(Plain), kept(mesh, "a")

    @mesh.actor
    async def echo(number: int) -> int:
        return number

    async with mesh:
        assert await plain.ask(Order(5)) == 5
        mesh.supervise("late", [plain, a, poll, echo])
        assert await plain.ask(Order(5)) == 10
        assert await echo.ask(1) == 1
        await anyio.sleep(2)
        assert lines == ["start a", "poll", "poll"]
        await fail(plain)
        assert await plain.ask(Order(5)) == 5


async def test_in_a_part():
    """A part declares groups as a mesh does; in each mesh that it is added to they stand for that mesh's things."""
    part = Part("ingest")

    @part.source
    async def poll(ctx: ActorContext) -> None:
        lines.append("poll")
        await anyio.sleep_forever()

    a = kept(part, "a")
    group = part.supervise("ingest", [a, poll], strategy="one_for_all")
    for name in ("first", "second"):
        mesh = Mesh(name)
        mesh.add(part)
        async with mesh:
            await settled()
            await fail(a)
            assert lines == ["stop a", "start a", "poll"]
            assert group.restarts == 1


async def test_entered_again():
    """A group lives as often as its mesh; what was stopped for good stays out of it."""
    mesh = Mesh("shop")
    a, b = kept(mesh, "a"), kept(mesh, "b")
    mesh.supervise("ab", [a, b], strategy="one_for_all")
    for _ in range(2):
        lines.clear()
        async with mesh:
            await fail(a)
        assert lines == ["stop a", "stop b", "start a", "start b", "stop b", "stop a"]
    async with mesh:
        await b.stop()
    lines.clear()
    async with mesh:
        assert lines == ["start a"]


def test_what_is_refused():
    """Each where it is declared, naming the thing and the mend."""
    mesh, other = Mesh("shop"), Mesh("other")
    a, b, foreign = kept(mesh, "a"), kept(mesh, "b"), kept(other, "foreign")

    async def no_source(ctx: ActorContext) -> None: ...

    group = mesh.supervise("ab", [a])
    stranger: Group = other.supervise("stranger", [foreign])
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (PreconditionFailed, "group 'ab' exists in mesh 'shop'", {"name": "ab", "members": [b]}),
        (PreconditionFailed, "actor 'a' is in group 'ab'", {"name": "new", "members": [b, a]}),
        (InvalidBinding, "group 'new' cannot hold .*foreign", {"name": "new", "members": [foreign]}),
        (NotFound, "no source of mesh 'shop'; declare it first", {"name": "new", "members": [no_source]}),
        (NotFound, "no group of mesh 'shop'", {"name": "new", "members": [stranger]}),
        (ValueError, "group 'new' needs members", {"name": "new", "members": []}),
        (ValueError, "each once", {"name": "new", "members": [b, b]}),
        (ValueError, "strategy must be one of one_for_one", {"name": "new", "members": [b], "strategy": "all"}),
        (ValueError, "max must be", {"name": "new", "members": [b], "max": 0}),
        (ValueError, "significant names what is no member", {"name": "new", "members": [b], "significant": [a]}),
        (ValueError, "name must be a text", {"name": "", "members": [b]}),
    ]
    for kind, text, given in refused:
        with pytest.raises(kind, match=text):
            mesh.supervise(given.pop("name"), given.pop("members"), **given)
    mesh.supervise("outer", [group, b])
    with pytest.raises(PreconditionFailed, match="group 'ab' is in group 'outer'"):
        mesh.supervise("second", [group])
