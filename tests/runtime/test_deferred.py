"""Deferred messages: when they are due, in which order, where they go then, and that they outlive what happens meanwhile."""

import datetime
import logging
from typing import Any

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.context import Context
from flowmesh.message import PLAIN
from flowmesh.policies import MailboxOptions, Overflow
from flowmesh.testing import BACKENDS, EPOCH, VirtualClock, advance, run, settled
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio


def _wall(seconds: float) -> datetime.datetime:
    """Return the wall-clock time that many seconds after virtual time began."""
    return datetime.datetime.fromtimestamp(EPOCH + seconds, datetime.UTC)


def _recording(mesh: Mesh) -> tuple[Any, list[tuple[float, object]]]:
    seen: list[tuple[float, object]] = []

    @mesh.actor(name="late")
    async def late(body: Any) -> None:
        seen.append((round(anyio.current_time(), 2), body))

    return late, seen


async def test_a_delayed_message_comes_when_it_is_due():
    """With `delay=` nothing enters before; then it does, and its receipt named the timer."""
    mesh = Mesh("shop", clock=VirtualClock())
    late, seen = _recording(mesh)
    async with mesh:
        receipt = await late.tell("a", delay=10)
        assert (receipt.routed, receipt.dropped) == (0, 0)
        assert receipt.timer is not None
        assert mesh.statistics().deferred == 1
        await advance(9.9)
        assert seen == []
        assert late.mailbox.statistics().entered == 0
        await advance(0.2)
        assert seen == [(10.0, "a")]
        assert mesh.statistics().deferred == 0


async def test_the_order_is_by_due_time_and_then_by_publishing():
    """Whatever was published first, the earlier due comes first; of equal ones the one that was published first."""
    mesh = Mesh("shop", clock=VirtualClock())
    late, seen = _recording(mesh)
    async with mesh:
        for body, delay in (("c", 3), ("a", 1), ("b1", 2), ("b2", 2), ("b3", 2), ("now", 0)):
            await late.tell(body, delay=delay)
        await advance(5)
    assert [body for _, body in seen] == ["now", "a", "b1", "b2", "b3", "c"]


async def test_delay_and_at_that_are_overdue_together_keep_the_order():
    """When the mesh was late for several, the most overdue comes first, whichever clock it was set on."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    late, seen = _recording(mesh)
    async with mesh:
        await late.tell("delay 4", delay=4)
        await late.tell("at 3", at=_wall(3))
        await late.tell("delay 2", delay=2)
        await late.tell("at 1", at=_wall(1))
    assert seen == []
    await advance(10)
    async with mesh:
        await advance(1)
    assert [body for _, body in seen] == ["at 1", "delay 2", "at 3", "delay 4"]


async def test_a_time_on_the_wall_clock():
    """`at=` is an aware datetime of any zone; one that is over is due now."""
    mesh = Mesh("shop", clock=VirtualClock())
    late, seen = _recording(mesh)
    zone = datetime.timezone(datetime.timedelta(hours=-7))
    async with mesh:
        await late.tell("utc", at=_wall(20))
        await late.tell("zone", at=_wall(30).astimezone(zone))
        await late.tell("over", at=_wall(-1000))
        await advance(40)
    assert seen == [(0.0, "over"), (20.0, "utc"), (30.0, "zone")]


async def test_at_follows_the_wall_clock_when_it_jumps():
    """Set the clock forward, and what is due by then comes within seconds; set it back, and it waits for its time."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    late, seen = _recording(mesh)
    async with mesh:
        await late.tell("forward", at=_wall(3600))
        await late.tell("delay", delay=100)
        await advance(10)
        clock.shift_wall(3600)
        await advance(6)
        assert [body for _, body in seen] == ["forward"]
        assert 10 <= seen[0][0] <= 15.1
        clock.shift_wall(-3600)
        await late.tell("back", at=_wall(50))
        clock.shift_wall(-30)
        await advance(40)
        assert [body for _, body in seen] == ["forward"]
        await advance(60)
        assert [body for _, body in seen] == ["forward", "back", "delay"]  # a delay does not care
        assert seen[1][0] == pytest.approx(80, abs=0.1)
        assert seen[2][0] == pytest.approx(100, abs=0.1)


async def test_ttl_begins_when_it_is_due():
    """A deferred message with a ttl has all of it left when it enters."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    async with mesh:
        await mesh.exchange("").publish(1, "box", delay=100, ttl=5)
        await advance(104)
        assert box.statistics().ready == 1
        await advance(2)
        assert (box.statistics().ready, box.statistics().expired) == (0, 1)


async def test_it_is_routed_with_the_bindings_of_then():
    """What is bound when it is due gets it; what was bound when it was published does not matter."""
    mesh = Mesh("shop", clock=VirtualClock())
    events, before, after = mesh.exchange("events", "topic"), mesh.mailbox("before"), mesh.mailbox("after")
    events.bind(before, "a.*")
    async with mesh:
        await events.publish(1, "a.b", delay=10)
        events.unbind(before, "a.*")
        events.bind(after, "#")
        await advance(11)
        assert (before.statistics().entered, after.statistics().entered) == (0, 1)
        assert after.peek()[0].key == "a.b"


async def test_unroutable_when_due_is_counted_and_logged(caplog: pytest.LogCaptureFixture):
    """A deferred message that nothing is bound for when it is due, or whose exchange is gone, is told of, mandatory or not."""
    mesh = Mesh("shop", clock=VirtualClock())
    events, gone = mesh.exchange("events"), mesh.exchange("gone")
    async with mesh:
        receipt = await events.publish(1, "a", delay=1, mandatory=True, message_id="m1")
        assert receipt.timer is not None
        await gone.publish(2, "a", delay=1, message_id="m2")
        gone.delete()
        assert events.unroutable == 0
        await advance(2)
        assert events.unroutable == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "exchange 'events' routes key 'a' nowhere: message m1 went to no mailbox (further ones are only counted)",
        "message m2 was due for exchange 'gone', which is gone",
    ]


async def test_it_enters_full_mailboxes():
    """A due message is moved by the mesh: it never waits and is not refused, but drop policies treat it like any copy."""
    kept: dict[Overflow, list[int]] = {"wait": [0, 1], "reject": [0, 1], "drop_oldest": [1], "drop_newest": [0]}
    for overflow, bodies in kept.items():
        mesh = Mesh("shop", clock=VirtualClock())
        box = mesh.mailbox("box", MailboxOptions(capacity=1, overflow=overflow))
        async with mesh:
            await mesh.exchange("").publish(0, "box")
            await mesh.exchange("").publish(1, "box", delay=1)
            await advance(2)
            assert [message.body for message in box.peek()] == bodies


async def test_it_outlives_the_turn_that_sent_it():
    """What a handler defers, at once or with its ack, comes although the handler has ended; the delay counts from the ack."""
    mesh = Mesh("shop", clock=VirtualClock())
    late, seen = _recording(mesh)

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        ctx.tell(late, "with the ack", delay=10)
        await late.tell("at once", delay=10)
        await anyio.sleep(5)

    @mesh.actor
    async def fails(number: int, ctx: Context) -> None:
        ctx.tell(late, "never", delay=10)
        raise OSError("its outputs do not leave")

    async with mesh:
        await work.tell(1)
        await fails.tell(1)
        await advance(30)
    assert seen == [(10.0, "at once"), (15.0, "with the ack")]


@pytest.mark.parametrize("gap", [0.0, 7.0, 100.0])
async def test_it_outlives_the_mesh(gap: float):
    """Deferred messages wait for a mesh that stops and is entered again; those whose time came meanwhile come at once."""
    mesh = Mesh("shop", clock=VirtualClock())
    late, seen = _recording(mesh)
    async with mesh:
        await late.tell("delay", delay=10)
        await late.tell("at", at=_wall(20))
        await anyio.sleep(1)
    assert mesh.statistics().deferred == 2
    await anyio.sleep(gap)
    began = anyio.current_time()
    async with mesh:
        await anyio.sleep(30)
    assert [body for _, body in seen] == ["delay", "at"]
    assert [when for when, _ in seen] == [pytest.approx(max(due, began), abs=0.01) for due in (10.0, 20.0)]


@pytest.mark.parametrize("first", BACKENDS)
@pytest.mark.parametrize("start", [0.0, 5000.0])
def test_it_outlives_the_event_loop(first: Backend, start: float):
    """On another loop, whose clock counts from elsewhere, delays and expiry go on by the time that has passed on the wall."""
    second: Backend = "trio" if first == "asyncio" else "asyncio"
    mesh = Mesh("shop")
    seen: list[object] = []

    @mesh.actor
    async def late(body: str) -> None:
        seen.append(body)

    box = mesh.mailbox("box", MailboxOptions(ttl=60))

    async def run_once(seconds: float, *, publish: bool) -> None:
        async with mesh:
            if publish:
                await late.tell("late", delay=40)
                await mesh.exchange("").publish("own ttl", "box", ttl=30)
                await mesh.exchange("").publish("its ttl", "box")
            await advance(seconds)

    mesh._engine.ground.clock = VirtualClock()
    run(lambda: run_once(10, publish=True), backend=first, start=1000.0)
    assert (seen, box.statistics().ready, mesh.statistics().deferred) == ([], 2, 1)
    # Five seconds pass on the wall until the mesh runs again.
    run(lambda: run_once(14, publish=False), backend=second, start=start, wall=EPOCH + 15)
    assert (seen, box.statistics().ready) == ([], 2)
    run(lambda: run_once(2, publish=False), backend=first, start=start + 77, wall=EPOCH + 29)
    assert (seen, [message.body for message in box.peek()]) == ([], ["its ttl"])
    run(lambda: run_once(10, publish=False), backend=second, start=3.0, wall=EPOCH + 31)
    assert seen == ["late"]
    run(lambda: run_once(10, publish=False), backend=second, start=3.0, wall=EPOCH + 55)
    assert box.statistics().ready == 0
    assert box.statistics().expired == 2


async def test_a_due_message_looks_as_if_it_were_published_then():
    """Its timestamp is when it was routed, so ages count from there; its id is that of the receipt."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    async with mesh:
        receipt = await mesh.exchange("").publish(1, "box", delay=100)
        await advance(110)
        message = box.peek()[0]
        assert message.id == receipt.message_id
        assert message.timestamp == pytest.approx(EPOCH + 100, abs=0.01)
        assert box.statistics().oldest_age == pytest.approx(10, abs=0.01)


async def test_messages_that_are_due_together_enter_each_its_own_mailbox_in_order():
    """In a row or in turns, by whatever exchange, with other timers between them; each is counted once."""
    mesh = Mesh("shop", clock=VirtualClock())
    left, right = mesh.mailbox("left"), mesh.mailbox("right")
    both = mesh.exchange("both", "fanout")
    both.bind(left)
    both.bind(right)
    async with mesh:
        for number, where in enumerate("lllrlrrbbbrlb"):
            match where:
                case "b":
                    await both.publish(number, delay=10)
                case _:
                    key, ttl = "left" if where == "l" else "right", 60.0 if number == 5 else None
                    await mesh.exchange("").publish(number, key, delay=10, ttl=ttl)
        await advance(11)
    assert [message.body for message in left.peek()] == [0, 1, 2, 4, 7, 8, 9, 11, 12]
    assert [message.body for message in right.peek()] == [3, 5, 6, 7, 8, 9, 10, 12]
    assert (left.statistics().entered, right.statistics().entered) == (9, 8)
    assert {message.timestamp for message in left.peek()} == {left.peek()[0].timestamp}


async def test_messages_that_are_due_together_fill_a_mailbox_before_its_policy_is_asked():
    """Those that find no room are treated one by one."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box", MailboxOptions(capacity=3, overflow="drop_newest"))
    async with mesh:
        for number in range(5):
            await mesh.exchange("").publish(number, "box", delay=10)
        await advance(11)
    assert [message.body for message in box.peek()] == [0, 1, 2]
    assert (box.statistics().entered, box.statistics().dropped) == (5, 2)


async def test_thousands_of_timers_cost_few_wake_ups():
    """The driver wakes once for all that is due within a millisecond, and nothing is lost or out of order."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box", MailboxOptions(capacity=1_000_000))
    wakes = 0
    clock = mesh._engine.ground.clock
    sleep = clock.sleep

    async def counted(seconds: float) -> None:
        nonlocal wakes
        wakes += 1
        await sleep(seconds)

    clock.sleep = counted
    async with mesh:
        await settled()
        for number in range(5000):
            await mesh.exchange("").publish(number, "box", delay=1 + number / 100_000)
        wakes = 0
        await advance(2)
        assert [message.body for message in box.peek(10_000)] == list(range(5000))
        assert wakes <= 60


async def test_a_plain_deferred_tell_makes_no_commit_and_no_properties():
    """With no option but its delay the message is plain, and neither its timer nor its entering is prepared and applied."""
    mesh = Mesh("shop", clock=VirtualClock())
    late, seen = _recording(mesh)
    ledger = mesh._engine.ground.ledger
    commits: list[object] = []
    prepare = ledger.prepare

    def noting(*intents: Any, now: float) -> Any:
        commits.extend(intents)
        return prepare(*intents, now=now)

    async with mesh:
        await late.tell("warm", delay=1)  # finds the route
        await advance(2)
        ledger.prepare = noting
        await late.tell("a", delay=1)
        (timer,) = mesh.timers.list()
        assert timer.message.properties is PLAIN
        await advance(2)
        assert ([body for _, body in seen], commits) == (["warm", "a"], [])
        await late.tell("b", delay=1, priority=1)
        await advance(2)
        assert len(commits) == 2


async def test_thirty_days_of_waiting_cost_a_handful_of_wake_ups():
    """For a delay and for an absolute time: virtual time needs no second look at the wall clock."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    late, seen = _recording(mesh)
    sleep, sleeps = clock.sleep, list[float]()

    async def counted(seconds: float) -> None:
        sleeps.append(seconds)
        await sleep(seconds)

    clock.sleep = counted
    month = 30 * 86_400
    async with mesh:
        await late.tell("delay", delay=month)
        await late.tell("at", at=_wall(month))
        await advance(month + 1)
    assert {body for _, body in seen} == {"at", "delay"}
    assert len(sleeps) < 8
