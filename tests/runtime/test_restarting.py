"""`restart=`: first the message is settled, then the actor is judged; its instance is left, and made anew after a wait."""

import gc
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    ActorContext,
    Context,
    Mesh,
    Message,
    NoReply,
    Observer,
    Reject,
    Request,
    Restart,
    RestartLimitReached,
    Retry,
    RetryAfter,
    on,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio

SOON = Restart(max=3, within=30.0, initial=1.0, factor=2.0, jitter="none", on=(OSError,))


class Order(Struct, frozen=True):
    id: int


class GetTotal(Struct, Request[int], frozen=True):
    pass


class Fatal(BaseException):
    """No Exception. (asyncio lets no task raise KeyboardInterrupt but into the loop itself.) Stops a mesh."""


lines: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines.clear()


def note(text: str) -> None:
    """Note something with the time."""
    lines.append(f"{text} {anyio.current_time() - began():g}")


_began: list[float] = [0.0]


def began() -> float:
    """When the test began."""
    return _began[0]


def start_clock() -> None:
    """Let the times in `lines` count from now."""
    _began[0] = anyio.current_time()


class Totals:
    """Sums the ids of orders; cannot stand 13."""

    def __init__(self) -> None:
        self.total = 0

    async def on_start(self) -> None:
        note("start")

    async def on_stop(self) -> None:
        note("stop")

    @on
    async def take(self, order: Order) -> None:
        self.total += order.id
        if order.id == 13:
            raise OSError("unlucky")
        if order.id == 14:
            raise ValueError("odd")

    @on
    async def get(self, _: GetTotal) -> int:
        return self.total


async def test_message_first_then_the_actor():
    """The failed message is a dead letter before its instance is left; the next one is made after the wait."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders")
    totals = mesh.actor(Totals, restart=SOON, bind=orders.on("new"))

    class Seen(Observer):
        def dead(self, message: Message, mailbox: str, *, reason: str, detail: str) -> None:
            note(f"dead {reason}")

    mesh.configure(observers=[Seen()])
    start_clock()
    async with mesh:
        for number in (1, 13, 5):
            await orders.publish(Order(number), "new")
        await orders.publish(Order(7), "new")
        assert await totals.ask(GetTotal()) == 12, "bindings, mailbox and what is in it survive; state does not"
        assert counts(totals.mailbox) == {"entered": 5, "acked": 4, "dead": 1}
        assert mesh.statistics().actors["Totals"].restarts == 1
    assert lines == ["start 0", "dead failed 0", "stop 0", "start 1", "stop 1"]


async def test_without_restart_the_actor_lives_on():
    """So it does when `on` leaves the failure out, with the state that it has."""
    for restart in (None, SOON):
        mesh = Mesh("shop")
        totals = mesh.actor(Totals, restart=restart)
        async with mesh:
            for number in (1, 14):
                await totals.tell(Order(number))
            assert await totals.ask(GetTotal()) == 15
            assert mesh.statistics().actors["Totals"].restarts == 0


async def test_a_class_without_hooks_is_made_anew_too():
    """It needs none to have a restart=; an asker gets its error first."""
    mesh = Mesh("shop")

    class Plain:
        total = 0

        @on
        async def take(self, order: Order) -> int:
            self.total += order.id
            if self.total > 10:
                raise OSError("too much")
            return self.total

    plain = mesh.actor(Plain, restart=SOON)
    async with mesh:
        assert await plain.ask(Order(4)) == 4
        with pytest.raises(OSError, match="too much"):
            await plain.ask(Order(7))
        assert await plain.ask(Order(5)) == 5


async def test_the_waits_grow_and_the_budget_escalates(caplog: pytest.LogCaptureFixture):
    """One restart more than allowed: the mesh stops, and RestartLimitReached leaves it, from the last failure."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals, restart=SOON)
    start_clock()

    async def run() -> None:
        async with mesh:
            for _ in range(5):
                await totals.tell(Order(13))
            await anyio.sleep(100)

    with pytest.raises(RestartLimitReached, match="actor 'Totals' needed more than 3 restarts within 30 s") as caught:
        await run()
    assert caught.value.name == "Totals"
    assert isinstance(caught.value.__cause__, OSError)
    assert lines == ["start 0", "stop 0", "start 1", "stop 1", "start 3", "stop 3", "start 7", "stop 7"]
    assert counts(totals.mailbox) == {"entered": 5, "dead": 4, "ready": 1}
    made = [line for line in caplog.messages if "is made anew" in line]
    assert made[1] == "actor 'Totals' is made anew in 2 s (2 in a row): OSError: unlucky"
    lines.clear()
    async with mesh:
        await settled()
        assert lines, "it can be entered again, with a new budget: the fifth one fails as well"
        assert mesh.statistics().mailboxes["Totals"].dead == 5


async def test_failures_far_apart_are_no_crash_loop():
    """A charge is forgotten after `within` seconds, and who has lived longer than the last wait begins at `initial` again."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals, restart=SOON)
    start_clock()
    async with mesh:
        for _ in range(10):
            await totals.tell(Order(13))
            await anyio.sleep(20)
    assert [line for line in lines if line.startswith("start")] == [
        f"start {when}" for when in (0, *(20 * number + 1 for number in range(10)))
    ]


async def test_a_poison_message_never_uses_up_the_budget():
    """Each of its attempts costs an instance, and all of them together one charge: it is dead in the end, the actor is not."""
    mesh = Mesh("shop")
    restart = Restart(max=1, within=1000.0, initial=0.0)
    totals = mesh.actor(Totals, restart=restart, retry=Retry(50, initial=1.0, factor=1.0, jitter="none"))
    async with mesh:
        await totals.tell(Order(13))
        await totals.tell(Order(5))
        await mesh.idle()
        assert counts(totals.mailbox) == {"entered": 2, "acked": 1, "dead": 1}
        assert await totals.ask(GetTotal()) == 0
        assert mesh.statistics().actors["Totals"].restarts == 50


@pytest.mark.parametrize("verdict", [Reject("no"), RetryAfter(5.0)])
async def test_a_verdict_is_no_failure(verdict: Exception):
    """Reject and RetryAfter say what becomes of the message, and nothing about the actor."""
    mesh, left = Mesh("shop"), [verdict]

    class Picky:
        @on
        async def take(self, order: Order) -> int:
            if left:
                raise left.pop()
            return order.id

    picky = mesh.actor(Picky, restart=Restart())
    async with mesh:
        if isinstance(verdict, Reject):
            with pytest.raises(NoReply):
                await picky.ask(Order(1))
        else:
            assert await picky.ask(Order(1)) == 1
        assert mesh.statistics().actors["Picky"].restarts == 0


async def test_a_time_limit_is_a_failure():
    """It is a TimeoutError, which OSError includes; the message is settled by it first."""
    mesh = Mesh("shop")

    class Slow(Totals):
        @on
        async def slow(self, seconds: float) -> None:
            await anyio.sleep(seconds)

    slow = mesh.actor(Slow, restart=SOON, timeout=2.0)
    start_clock()
    async with mesh:
        await slow.tell(5.0)
        await slow.tell(1.0)
        await mesh.idle()
    assert lines == ["start 0", "stop 2", "start 3", "stop 4"]
    assert counts(slow.mailbox) == {"entered": 2, "acked": 1, "dead": 1}


async def test_an_asker_that_has_left():
    """A handler that fails for nobody is judged like any other."""
    mesh = Mesh("shop")

    class Late(Totals):
        @on
        async def late(self, seconds: float) -> None:
            await anyio.sleep(seconds)
            raise OSError("late")

    late = mesh.actor(Late, restart=SOON)
    async with mesh:
        with pytest.raises(TimeoutError):
            await late.ask(2.0, timeout=1.0)
        await late.ask(GetTotal())
        assert mesh.statistics().actors["Late"].restarts == 1


# Starts and lifespans


@pytest.mark.parametrize("where", ["init", "enter", "leave"])
async def test_a_failing_start_backs_off_and_counts(where: str):
    """As a constructor or lifespan that fails does; entering the mesh waits; messages wait in the mailbox."""
    mesh, broken = Mesh("shop"), [True, True]

    class Fragile:
        def __init__(self) -> None:
            note("made")
            if where == "init" and broken:
                raise OSError(broken.pop())

        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            if where == "enter" and broken:
                raise OSError(broken.pop())
            yield
            if where == "leave" and broken:
                raise OSError(broken.pop())

        @on
        async def take(self, order: Order) -> int:
            if where == "leave" and broken:
                raise OSError("leave")
            return order.id

    fragile = mesh.actor(Fragile, restart=SOON)
    start_clock()
    async with mesh:
        if where == "leave":
            for _ in range(2):
                with pytest.raises(OSError, match="leave"):
                    await fragile.ask(Order(2))
        assert await fragile.ask(Order(2)) == 2
    assert lines == ["made 0", "made 1", "made 3"]


async def test_a_start_that_always_fails_escalates():
    """Without a handler having run; with another error than `on` names at once, and bare."""
    for error, expected in ((OSError("down"), RestartLimitReached), (ValueError("wrong"), ValueError)):
        mesh = Mesh("shop")

        mesh.actor(make_broken(error), restart=SOON)
        start_clock()
        lines.clear()
        with pytest.raises(expected) as caught:
            async with mesh:
                pytest.fail("it must not start")
        assert error in (caught.value, caught.value.__cause__)
        assert lines == (["start 0"] if expected is ValueError else ["start 0", "start 1", "start 3", "start 7"])


def make_broken(error: BaseException) -> type[Any]:
    """Make a class whose start fails."""

    class Broken(Totals):
        async def on_start(self) -> None:
            note("start")
            raise error

    return Broken


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_is_no_exception_escalates(kind: type[BaseException]):
    """Whatever `on` says: from a start, from a task of a lifespan, in a group; bare, or the group's own."""
    mesh = Mesh("shop")
    mesh.actor(make_broken(kind()), restart=Restart(on=(BaseException,)))
    with pytest.raises(kind):
        async with mesh:
            pytest.fail("it must not start")
    assert len(lines) == 1


def lively(fail: Callable[[], BaseException]) -> type[Any]:
    """Make a class with a task in its lifespan that fails when it is told to, in an exception group on every backend."""

    class Lively:
        async def work(self) -> None:
            await self.failing.wait()
            raise fail()

        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            self.failing = anyio.Event()
            note("enter")
            async with anyio.create_task_group() as group:
                group.start_soon(self.work)
                group.start_soon(anyio.sleep_forever)
                yield
                group.cancel_scope.cancel()
            note("left")

        @on
        async def take(self, order: Order) -> int:
            if order.id == 13:
                self.failing.set()
                await anyio.sleep(100)
            return order.id

    return Lively


async def test_a_task_of_the_lifespan_that_fails():
    """The group that leaves the lifespan is judged by its leaves; the handler in hand is cancelled and goes back."""
    failures = [OSError("broken pipe")]
    mesh = Mesh("shop")

    class Lively(lively(failures.pop)):
        @on
        async def take(self, order: Order) -> int:
            if failures:
                self.failing.set()
                await anyio.sleep(100)
            return order.id

    actor = mesh.actor(Lively, restart=SOON)
    start_clock()
    async with mesh:
        assert await actor.ask(Order(13)) == 13, "it is handled by the next instance"
        assert counts(actor.mailbox) == {"entered": 1, "acked": 1}
    assert lines == ["enter 0", "enter 1", "left 1"]


@pytest.mark.parametrize(
    "error, expected",
    [(ValueError("odd"), ExceptionGroup), (Fatal(), BaseExceptionGroup)],
)
async def test_a_task_that_fails_otherwise(error: BaseException, expected: type[BaseException]):
    """A leaf that `on` leaves out, or that is no Exception, stops the mesh at once."""
    mesh = Mesh("shop")
    actor = mesh.actor(lively(lambda: error), restart=SOON)

    async def run() -> None:
        async with mesh:
            await actor.tell(Order(13))
            await anyio.sleep(50)

    with pytest.raises(expected) as caught:
        await run()
    assert isinstance(caught.value, BaseExceptionGroup)
    assert caught.value.exceptions == (error,)
    assert len(lines) == 1


async def test_entered_and_left_by_the_same_task():
    """For each instance, so that a cancel scope in its lifespan nests as it is written; the task is the same for all."""
    mesh, tasks = Mesh("shop"), list[int]()

    class Nested(Totals):
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            tasks.append(anyio.get_current_task().id)
            with anyio.CancelScope():
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    yield
                    group.cancel_scope.cancel()
            tasks.append(anyio.get_current_task().id)

        on_start = on_stop = None  # pyright: ignore[reportAssignmentType] - it has a lifespan instead

    nested = mesh.actor(Nested, restart=SOON)
    async with mesh:
        for _ in range(3):
            await nested.tell(Order(13))
        assert await nested.ask(GetTotal()) == 0
    assert len(tasks) == 8
    assert len(set(tasks)) == 1


# In the way of a restart


async def test_idle_waits_for_an_actor_with_messages():
    """While it is away its messages are ready, so the mesh is not at rest; without messages it is."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals, restart=SOON)
    start_clock()
    async with mesh:
        await totals.tell(Order(13))
        await mesh.idle()
        note("idle")
        await totals.tell(Order(1))
        await mesh.idle()
        note("idle")
    # Without messages nobody waits for the instance to have been left.
    assert lines[0] == "start 0"
    assert sorted(lines[1:3]) == ["idle 0", "stop 0"]
    assert lines[3:] == ["start 1", "idle 1", "stop 1"]


async def test_stopped_while_it_waits():
    """`stop()` does not wait for the restart, and neither does a drain that has nothing for it."""
    mesh = Mesh("shop")
    first = mesh.actor(Totals, name="first", restart=Restart(initial=100.0, jitter="none", maximum=100.0))
    second = mesh.actor(Totals, name="second", restart=Restart(initial=100.0, jitter="none", maximum=100.0))
    start_clock()
    async with mesh:
        await first.tell(Order(13))
        await second.tell(Order(13))
        await settled()
        await first.stop()
        note("stopped")
    note("drained")
    assert lines == [*("start 0", "start 0", "stop 0", "stop 0"), "stopped 0", "drained 0"]


async def test_a_drain_waits_for_what_is_ready():
    """An actor that is away comes back within grace, handles what it has, and is left."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals, restart=SOON)
    async with mesh:
        await totals.tell(Order(13))
        await totals.tell(Order(2))
    assert counts(totals.mailbox) == {"entered": 2, "acked": 1, "dead": 1}


async def test_a_signal_while_a_start_keeps_failing():
    """Entering the mesh ends with the next failure of the start: nobody waits for one that may never come up."""
    mesh = Mesh("shop")

    class Broken(Totals):
        async def on_start(self) -> None:
            await anyio.sleep(1)
            if len(lines) == 3:
                mesh.stop()
            lines.append("start")
            raise OSError("down")

    mesh.actor(Broken, restart=Restart(max=None, initial=0.0))
    with anyio.fail_after(100):
        async with mesh:
            lines.append("body")
    assert "body" in lines


async def test_paused_stays_paused():
    """A restart does not resume an actor."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals, restart=SOON)
    async with mesh:
        await totals.tell(Order(13))
        await settled()
        totals.pause()
        await anyio.sleep(10)
        await totals.tell(Order(1))
        await settled()
        assert totals.mailbox.statistics().ready == 1
        totals.resume()
        assert await totals.ask(GetTotal()) == 1


async def test_others_are_not_disturbed():
    """While one actor crashes again and again, another one has its answers at once; with growing waits it does so seldom."""
    mesh = Mesh("shop")

    @mesh.actor
    async def echo(number: int) -> int:
        return number

    mesh.actor(make_broken(OSError("down")), name="broken", restart=Restart(max=None, jitter="none"))
    start_clock()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                await settled()
                for number in range(60):
                    before = anyio.current_time()
                    assert await echo.ask(number) == number
                    assert anyio.current_time() == before
                    await anyio.sleep(10)
                scope.cancel()

            group.start_soon(ask)
            async with mesh:
                pytest.fail("it never starts")
    assert 10 < len(lines) < 30, "in ten minutes"


async def test_ten_thousand_restarts_leak_nothing():
    """As many objects are alive after them as after the first few."""
    mesh, alive = Mesh("shop"), list[int]()

    class Fragile:
        @asynccontextmanager
        async def lifespan(self, ctx: ActorContext) -> AsyncGenerator[None]:
            ctx.timer("tick", 1000.0, Order(1))
            ctx.watch(other, Order(2))
            async with anyio.create_task_group():
                yield

        @on
        async def take(self, order: Order, ctx: Context) -> None:
            raise OSError("again")

    @mesh.actor
    async def other(number: int) -> None: ...

    logging.getLogger("flowmesh.shop").setLevel(logging.CRITICAL)
    fragile = mesh.actor(Fragile, restart=Restart(max=None, initial=0.0), retry=None)
    mesh.mailbox("dead")
    try:
        async with mesh:
            for count in range(10):
                for _ in range(100 if count == 0 else 1100):
                    await fragile.tell(Order(3))
                await mesh.idle()
                await settled()
                mesh.dead_letters.purge()
                gc.collect()
                alive.append(len(gc.get_objects()))
            assert mesh.statistics().actors["Fragile"].restarts >= 9999
            assert mesh.statistics().deferred == 0
            timers = mesh._engine.ground.ledger.timers
            assert len(timers) < 20
    finally:
        logging.getLogger("flowmesh.shop").setLevel(logging.NOTSET)
    assert max(alive[1:]) - min(alive[1:]) < 500, alive


# What is refused


def test_a_function_is_not_restarted():
    """There is nothing of it to make anew; neither is what is no Restart."""

    async def charge(order: Order) -> None: ...

    with pytest.raises(ValueError, match="actor 'charge' is a function, and there is nothing of it to make anew"):
        Mesh("shop").actor(charge, restart=Restart())
    with pytest.raises(ValueError, match="restart must be a Restart, or None, not 5"):
        Mesh("shop").actor(Totals, restart=cast("Any", 5))
