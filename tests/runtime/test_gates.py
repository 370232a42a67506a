"""Gates: what may hold a message back before its handler, on actors of all kinds."""

import logging
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    Breaker,
    Context,
    GateStatistics,
    Limit,
    MailboxOptions,
    Mesh,
    NoReply,
    Once,
    Rate,
    Reject,
    Retry,
    RetryAfter,
    on,
)
from flowmesh.testing import Swept, cancel_sweep, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Job(Struct, frozen=True):
    owner: Any
    number: int = 0


def owner(job: Job) -> Any:
    """Give the value that most gates here go by."""
    return job.owner


class Clock:
    """What happened when, in seconds since the first look."""

    def __init__(self) -> None:
        self.began = anyio.current_time()
        self.seen: list[tuple[float, Any]] = []

    def note(self, what: Any) -> None:
        self.seen.append((round(anyio.current_time() - self.began, 3), what))


def taker(mesh: Mesh, **options: Any) -> tuple[Any, Clock]:
    """Declare an actor that notes when it is told which number."""
    clock = Clock()

    @mesh.actor(**options)
    async def take(number: int) -> None:
        clock.note(number)

    return take, clock


# Rate


async def test_rate_spaces_starts_and_loses_nothing():
    """Starts are `per / n` apart, in order; what is held is ready, and `idle` waits for it."""
    mesh = Mesh()
    take, clock = taker(mesh, gates=[Rate(4, per=1.0)], concurrency=8)
    async with mesh:
        for number in range(6):
            await take.tell(number)
        await settled()
        assert counts(take.mailbox) == {"entered": 6, "acked": 1, "ready": 5}
        assert mesh.statistics().actors["take"].gates == (GateStatistics("Rate", 5, 0, 1),)
        assert [message.body for message in take.mailbox.peek()] == [1, 2, 3, 4, 5]
        await mesh.idle()
    assert clock.seen == [(0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4), (1.25, 5)]
    assert counts(take.mailbox) == {"entered": 6, "acked": 6}


async def test_burst():
    """After a pause, `burst` may start at once; then the rate holds, and the burst grows back as time passes."""
    mesh = Mesh()
    take, clock = taker(mesh, gates=[Rate(2, per=1.0, burst=3)])
    async with mesh:
        for number in range(5):
            await take.tell(number)
        await mesh.idle()
        await anyio.sleep(1.0)
        for number in range(5, 8):
            await take.tell(number)
        await mesh.idle()
    assert [at for at, _ in clock.seen] == [0, 0, 0, 0.5, 1.0, 2.0, 2.0, 2.5]


async def test_rate_by_value_holds_nobody_else():
    """Each value has the rate for itself: a flood of one holds back none of the others, and ten thousand values are fine."""
    mesh = Mesh()

    @mesh.actor(gates=[Rate(1, per=10.0, by=owner)])
    async def take(job: Job) -> None:
        clock.note((job.owner, job.number))

    async with mesh:
        clock = Clock()
        for number in range(3):
            await take.tell(Job("flood", number))
        for other in range(1000):
            await take.tell(Job(other))
        await settled()
        assert len(clock.seen) == 1001
        assert {at for at, _ in clock.seen} == {0}
        await mesh.idle()
    assert clock.seen[-2:] == [(10, ("flood", 1)), (20, ("flood", 2))]


async def test_values_leave_no_state_behind():
    """Once their time has passed, nothing is left of a hundred thousand values, and no timer either."""
    mesh = Mesh()

    @mesh.actor(gates=[Rate(1, per=1.0, by=owner)])
    async def take(job: Job) -> None: ...

    @mesh.actor(gates=[Limit(1, by=owner), Once(by=owner, ttl=5.0), Breaker(by=owner), Rate(1, per=1.0, by=owner)])
    async def other(job: Job) -> None:
        if job.number % 3 == 0:
            raise OSError

    async with mesh:
        for number in range(2_000):
            await other.tell(Job(number, number))
        for number in range(100_000):
            await take.tell(Job(number))
        await mesh.idle()
        assert mesh.statistics().actors["take"].gates[0].values == 100_000
        await anyio.sleep(70)
        for actor in (take, other):
            gates = actor.cell.gates
            assert gates is not None
            assert {gate.values for gate in gates.statistics()} == {0}
            assert gates.lines == {}
            assert gates.timer is None
    assert counts(take.mailbox) == {"entered": 100_000, "acked": 100_000}


async def test_retries_count_as_starts():
    """A retry is a start like any other; it keeps its place before those that were held meanwhile."""
    mesh = Mesh()

    @mesh.actor(gates=[Rate(1, per=1.0)], retry=Retry(2, initial=0.1, jitter="none"))
    async def take(number: int, ctx: Context) -> None:
        clock.note((number, ctx.attempt))
        if number == 0 and ctx.attempt == 1:
            raise OSError

    async with mesh:
        clock = Clock()
        for number in range(3):
            await take.tell(number)
        await mesh.idle()
    assert clock.seen == [(0, (0, 1)), (1, (0, 2)), (2, (1, 1)), (3, (2, 1))]


async def test_lane_is_not_overtaken():
    """What a gate holds keeps its lane: later messages of the lane wait behind it, although the gate would let them go."""
    mesh = Mesh()

    @mesh.actor(by=owner, concurrency=4, gates=[Rate(1, per=5.0, by=lambda job: job.number % 2)])
    async def take(job: Job) -> None:
        clock.note((job.owner, job.number))

    async with mesh:
        clock = Clock()
        for job in (Job("a", 1), Job("b", 3), Job("b", 4), Job("c", 6)):
            await take.tell(job)
        await mesh.idle()
        assert take.cell.box.lanes == {}
    assert clock.seen == [(0, ("a", 1)), (0, ("c", 6)), (5, ("b", 3)), (5, ("b", 4))]


async def test_priorities_decide_who_goes_first():
    """In a mailbox with priorities the most urgent of those that are held goes first, a newcomer included."""
    mesh = Mesh()
    take, clock = taker(mesh, gates=[Rate(1, per=1.0)], mailbox=MailboxOptions(priorities=True))
    async with mesh:
        for number, priority in ((0, 0), (1, 1), (2, 2)):
            await take.tell(number, priority=priority)
            await settled()
        await anyio.sleep(0.5)
        await take.tell(3, priority=3)
        await mesh.idle()
    assert clock.seen == [(0, 0), (1, 3), (2, 2), (3, 1)]


async def test_class_actor():
    """A class actor's messages of all types go through the same gates; it still handles one at a time."""
    mesh = Mesh()

    class Desk:
        def __init__(self) -> None:
            self.running = 0

        @on
        async def number(self, number: int) -> None:
            self.running += 1
            assert self.running == 1
            clock.note(number)
            await anyio.sleep(0.5)
            self.running -= 1

        @on
        async def text(self, text: str) -> None:
            clock.note(text)

    desk = mesh.actor(Desk, gates=[Rate(1, per=1.0), Limit(2, surplus="drop_new")])
    async with mesh:
        clock = Clock()
        for body in (1, "a", 2):
            await desk.tell(body)
        await mesh.idle()
    assert clock.seen == [(0, 1), (1, "a"), (2, 2)]


async def test_plain_function():
    """A plain `def` in its thread is counted as well, until it has ended."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(gates=[Limit(1, surplus="keep_newest")], concurrency=2)
    def take(number: int) -> None:
        seen.append(number)

    async with mesh:
        for number in range(5):
            await take.tell(number)
        await mesh.idle()
    assert seen[0] == 0
    assert seen[-1] == 4
    assert take.mailbox.statistics().acked + take.mailbox.statistics().dropped == 5


# Asks, expiry, withdrawal


async def test_held_ask_waits_within_its_deadline():
    """An ask that is held waits; one whose time is up is withdrawn, and the next of its line takes its chance."""
    mesh = Mesh()

    @mesh.actor(gates=[Rate(1, per=1.0)])
    async def double(number: int) -> int:
        clock.note(number)
        return 2 * number

    async with mesh:
        clock = Clock()
        answers: list[int] = []

        async def ask(number: int, timeout: float) -> None:
            try:
                answers.append(await double.ask(number, timeout=timeout))
            except TimeoutError:
                answers.append(-number)

        async with anyio.create_task_group() as group:
            for number, timeout in ((1, 5), (2, 0.5), (3, 5)):
                group.start_soon(ask, number, timeout)
                await settled()
    assert sorted(answers) == [-2, 2, 6]
    assert clock.seen == [(0, 1), (1, 3)]
    assert counts(double.mailbox) == {"entered": 3, "acked": 2, "withdrawn": 1}


async def test_dropped_ask_gets_no_reply():
    """An asked message that a gate drops is refused with the reason "dropped"."""
    mesh = Mesh()

    @mesh.actor(gates=[Once(by=lambda number: number, ttl=60)])
    async def double(number: int) -> int:
        return 2 * number

    async with mesh:
        assert await double.ask(4) == 8
        with pytest.raises(NoReply, match="dropped") as caught:
            await double.ask(4)
        assert caught.value.reason == "dropped"
        assert await double.ask(5) == 10
    assert counts(double.mailbox) == {"entered": 3, "acked": 2, "dropped": 1}


async def test_expiry_purge_and_withdrawal_reach_what_is_held():
    """A held copy expires, is purged and is counted like any ready one; the others go on at their time."""
    mesh = Mesh()
    take, clock = taker(mesh, gates=[Rate(1, per=1.0)])
    async with mesh:
        await take.tell(0)
        await take.tell(1, ttl=0.5)
        await take.tell(2)
        await anyio.sleep(0.7)
        assert counts(take.mailbox) == {"entered": 3, "acked": 1, "ready": 1, "expired": 1}
        assert take.mailbox.purge() == 1
        await mesh.idle()
        await take.tell(3)
        await mesh.idle()
    assert clock.seen == [(0, 0), (1, 3)]
    assert counts(take.mailbox) == {"entered": 4, "acked": 2, "expired": 1, "purged": 1}


async def test_held_copies_count_as_room():
    """`capacity` counts what is held: senders wait, and `drop_oldest` drops what has been held longest."""
    mesh = Mesh()

    @mesh.actor(gates=[Rate(1, per=1.0)], mailbox=MailboxOptions(capacity=2))
    async def take(number: int) -> None:
        clock.note(number)

    @mesh.actor(gates=[Rate(1, per=1.0)], mailbox=MailboxOptions(capacity=2, overflow="drop_oldest"))
    async def newest(number: int) -> None:
        clock.note(-number)

    async with mesh:
        clock = Clock()
        for number in range(5):
            await take.tell(number)
            await settled()
        assert round(anyio.current_time() - clock.began, 3) == 2
        await mesh.idle()
        del clock.seen[:]
        clock.began = anyio.current_time()
        for number in range(1, 6):
            await newest.tell(number)
            await settled()
        await mesh.idle()
    assert clock.seen == [(0, -1), (1, -4), (2, -5)]
    assert counts(newest.mailbox) == {"entered": 5, "acked": 3, "dropped": 2}


# The life of actor and mesh


async def test_pause_and_idle():
    """What a paused actor's gates hold does not keep the mesh from being idle; after `resume` it goes on."""
    mesh = Mesh()
    take, clock = taker(mesh, gates=[Rate(1, per=1.0)])
    async with mesh:
        for number in range(3):
            await take.tell(number)
        await settled()
        take.pause()
        await mesh.idle()
        await anyio.sleep(10)
        assert clock.seen == [(0, 0)]
        take.resume()
        await mesh.idle()
    assert clock.seen == [(0, 0), (10, 1), (11, 2)]


async def test_drain_handles_what_falls_due_within_grace():
    """A drain waits for what may go within its grace, does not wait for the rest, and reports it; the next run handles it."""
    mesh = Mesh(grace=2.5)
    take, clock = taker(mesh, gates=[Rate(1, per=1.0)])
    async with mesh:
        for number in range(6):
            await take.tell(number)
    assert clock.seen == [(0, 0), (1, 1), (2, 2)]
    assert round(anyio.current_time() - clock.began, 3) == 2
    assert mesh.report is not None
    assert dict(mesh.report.unhandled) == {"take": 3}
    assert mesh.report.exit_code == 75
    assert counts(take.mailbox) == {"entered": 6, "acked": 3, "ready": 3}
    async with mesh:
        await mesh.idle()
    assert [number for _, number in clock.seen] == [0, 1, 2, 3, 4, 5]


async def test_stop_leaves_what_is_held_to_another_actor():
    """A stopped actor's gates let go: its copies lie ready, and another actor on the mailbox takes them."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(gates=[Rate(1, per=100.0)])
    async def slow(number: int) -> None:
        seen.append(number)

    async with mesh:
        for number in range(4):
            await slow.tell(number)
        await settled()
        began = anyio.current_time()
        await slow.stop()
        assert counts(slow.mailbox) == {"entered": 4, "acked": 1, "ready": 3}

        @mesh.actor(mailbox=slow.mailbox)
        async def fast(number: int) -> None:
            seen.append(number)

        await mesh.idle()
        assert anyio.current_time() == began
    assert seen == [0, 1, 2, 3]


async def test_state_belongs_to_one_run():
    """A mesh that is started again knows nothing of what its gates had counted."""
    mesh = Mesh()

    @mesh.actor(gates=[Once(by=owner, ttl=1000), Breaker(failures=1, pause=1000)])
    async def take(job: Job) -> None:
        clock.note(job.number)
        if job.number == 1:
            raise OSError

    for _ in range(2):
        async with mesh:
            clock = Clock()
            await take.tell(Job("a"))
            await mesh.idle()
            await take.tell(Job("a"))
            await mesh.idle()
            await take.tell(Job("b", 1))
            await mesh.idle()
            assert [gate.condition for gate in mesh.statistics().actors["take"].gates] == [None, "open"]
        assert clock.seen == [(0, 0), (0, 1)]
    assert counts(take.mailbox) == {"entered": 6, "acked": 2, "dropped": 2, "dead": 2}


async def test_two_gated_actors_on_one_mailbox():
    """Competing actors each have their own gates; what one has released and the other takes holds up nobody."""
    mesh = Mesh()
    shared = mesh.mailbox("shared")
    seen: list[tuple[str, int]] = []

    @mesh.actor(mailbox=shared, gates=[Rate(1, per=1.0)])
    async def left(number: int) -> None:
        seen.append(("left", number))
        await anyio.sleep(2.5)  # what its gate releases meanwhile is for the other one to take

    @mesh.actor(mailbox=shared, gates=[Rate(1, per=0.7)])
    async def right(number: int) -> None:
        seen.append(("right", number))

    async with mesh:
        for number in range(20):
            await mesh.exchange("").publish(number, "shared")
        await mesh.idle()
    assert sorted(number for _, number in seen) == list(range(20))
    assert {name for name, _ in seen} == {"left", "right"}
    assert counts(shared) == {"entered": 20, "acked": 20}


# Limit


async def test_limit_by_value():
    """At most `n` of a value at once, the surplus in order; other values are not held up, slots allowing."""
    mesh = Mesh()
    running: dict[str, int] = {}

    @mesh.actor(gates=[Limit(2, by=owner)], concurrency=5)
    async def take(job: Job) -> None:
        running[job.owner] = running.get(job.owner, 0) + 1
        assert running[job.owner] <= 2
        clock.note((job.owner, job.number))
        await anyio.sleep(1)
        running[job.owner] -= 1

    async with mesh:
        clock = Clock()
        for number in range(6):
            await take.tell(Job("a", number))
        for number in range(2):
            await take.tell(Job("b", number))
        await mesh.idle()
    assert sorted(clock.seen) == [
        (0, ("a", 0)),
        (0, ("a", 1)),
        (0, ("b", 0)),
        (0, ("b", 1)),
        (1, ("a", 2)),
        (1, ("a", 3)),
        (2, ("a", 4)),
        (2, ("a", 5)),
    ]


@pytest.mark.parametrize(
    "surplus, handled, dropped",
    [
        ("queue", [0, 1, 2, 3, 4], 0),
        ("drop_new", [0, 1], 3),
        ("drop_old", [0, 1, 3, 4], 1),
        ("keep_newest", [0, 1, 4], 2),
        ("cancel_running", [3, 4], 3),
    ],
)
@pytest.mark.parametrize("concurrency", [2, 8])
async def test_surplus(surplus: Any, handled: list[int], dropped: int, concurrency: int):
    """What becomes of a third message while two run, whether or not the actor has a slot free; drops are counted."""
    mesh = Mesh()

    @mesh.actor(gates=[Limit(2, surplus=surplus)], concurrency=concurrency)
    async def take(number: int) -> None:
        await anyio.sleep(1)
        clock.note(number)

    async with mesh:
        clock = Clock()
        for number in range(5):
            await take.tell(number)
            await settled()
        await mesh.idle()
        (gate,) = mesh.statistics().actors["take"].gates
        assert (gate.gate, gate.held, gate.dropped, gate.values) == ("Limit", 0, dropped, 0)
        assert mesh.statistics().actors["take"].slots == concurrency
    assert sorted(number for _, number in clock.seen) == handled
    assert counts(take.mailbox) == {
        name: number for name, number in (("entered", 5), ("acked", len(handled)), ("dropped", dropped)) if number
    }


async def test_surplus_is_looked_at_while_every_slot_is_busy():
    """A newer message cancels the running one of its value at once, although other values wait for a slot."""
    mesh = Mesh()

    @mesh.actor(gates=[Limit(1, by=owner, surplus="cancel_running")], concurrency=2)
    async def take(job: Job) -> None:
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            clock.note(("cancelled", job.owner, job.number))
            raise
        clock.note((job.owner, job.number))

    async with mesh:
        clock = Clock()
        for job in (Job("a", 0), Job("b", 0), Job("c", 0)):
            await take.tell(job)
        await anyio.sleep(4)
        await take.tell(Job("a", 1))
        await mesh.idle()
    assert clock.seen == [(4, ("cancelled", "a", 0)), (10, ("b", 0)), (14, ("c", 0)), (20, ("a", 1))]


async def test_superseded_ask():
    """Who asked for what a newer message takes the place of is told: dropped."""
    mesh = Mesh()

    @mesh.actor(gates=[Limit(1, surplus="cancel_running")])
    async def take(number: int) -> int:
        await anyio.sleep(10)
        return number

    async with mesh, anyio.create_task_group() as group:

        async def first() -> None:
            with pytest.raises(NoReply) as caught:
                await take.ask(1)
            assert caught.value.reason == "dropped"

        group.start_soon(first)
        await settled()
        assert await take.ask(2) == 2
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "dropped": 1}


async def test_superseded_handler_that_finishes_or_fails_all_the_same(caplog: pytest.LogCaptureFixture):
    """One that returns in spite of it counts as done, one that raises something else is dropped; both are named in the log."""
    mesh = Mesh()

    @mesh.actor(gates=[Limit(1, surplus="cancel_running")])
    async def take(number: int) -> None:
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            if number == 1:
                raise OSError("in between") from None

    async with mesh:
        for number in range(3):
            await take.tell(number)
            await settled()
        await mesh.idle()
        assert mesh.statistics().actors["take"].gates[0].dropped == 1
    assert counts(take.mailbox) == {"entered": 3, "acked": 2, "dropped": 1}
    assert "although it had been cancelled: a newer one takes its place" in caplog.text
    assert "in between" in caplog.text


@pytest.mark.parametrize(
    "surplus, expected",
    [("drop_new", [(0, 0), (1.5, 1), (2.5, 0)]), ("cancel_running", [(0, 0), (1.5, 1)])],
)
async def test_retry_is_not_new(surplus: Any, expected: list[tuple[float, int]]):
    """A message that comes back while another runs: `drop_new` holds it, `cancel_running` drops it, not the younger one."""
    mesh = Mesh()
    failed = False

    @mesh.actor(gates=[Limit(1, surplus=surplus)], retry=Retry(2, initial=1, jitter="none"))
    async def take(number: int) -> None:
        nonlocal failed
        clock.note(number)
        await anyio.sleep(1)
        if not failed:
            failed = True
            raise OSError

    async with mesh:
        clock = Clock()
        await take.tell(0)
        await anyio.sleep(1.5)
        await take.tell(1)
        await mesh.idle()
    assert clock.seen == expected
    assert take.mailbox.statistics().dropped == (surplus == "cancel_running")


# Breaker


async def test_breaker_holds_instead_of_failing(caplog: pytest.LogCaptureFixture):
    """It opens after so many failures, holds all, probes with one after each pause, and lets all go when a probe returns."""
    mesh = Mesh()

    @mesh.actor(gates=[Breaker(failures=2, within=60, pause=30)], concurrency=4)
    async def call(number: int) -> None:
        clock.note(number)
        if anyio.current_time() - clock.began < 60:
            raise OSError("away")

    with caplog.at_level(logging.INFO, "flowmesh"):
        async with mesh:
            clock = Clock()
            for number in range(2):
                await call.tell(number)
                await settled()
            for number in range(2, 6):
                await call.tell(number)
            await anyio.sleep(1)
            assert mesh.statistics().actors["call"].gates == (GateStatistics("Breaker", 4, 0, 1, "open"),)
            await mesh.idle()
            assert mesh.statistics().actors["call"].gates == (GateStatistics("Breaker", 0, 0, 0, "closed"),)
    assert clock.seen == [(0, 0), (0, 1), (30, 2), (60, 3), (60, 4), (60, 5)]
    assert counts(call.mailbox) == {"entered": 6, "acked": 3, "dead": 3}
    changes = [record.getMessage() for record in caplog.records if "breaker" in record.getMessage()]
    assert changes == [
        "actor 'call': breaker was closed, is open",
        "actor 'call': breaker was half-open, is open",
        "actor 'call': breaker was half-open, is closed",
    ]


async def test_breaker_spares_attempts():
    """While it is open a message uses up no attempts: with retries nothing is lost to a pause."""
    mesh = Mesh()

    @mesh.actor(gates=[Breaker(failures=1, pause=10)], retry=Retry(3, initial=1, factor=1, jitter="none"))
    async def call(number: int, ctx: Context) -> None:
        clock.note((number, ctx.attempt))
        if anyio.current_time() - clock.began < 15:
            raise OSError("away")

    async with mesh:
        clock = Clock()
        await call.tell(0)
        await call.tell(1)
        await mesh.idle()
    assert clock.seen == [(0, (0, 1)), (10, (0, 2)), (20, (0, 3)), (20, (1, 1))]
    assert counts(call.mailbox) == {"entered": 2, "acked": 2}


async def test_what_counts_as_a_failure():
    """`on` and `never` say which errors count; a rejection is an answer; a time limit and RetryAfter are failures."""
    mesh = Mesh()
    raised: list[BaseException | None] = []

    @mesh.actor(gates=[Breaker(failures=2, pause=100, on=(OSError, RetryAfter), never=(FileNotFoundError,))], timeout=5)
    async def call(number: int) -> None:
        clock.note(number)
        error = raised[number]
        if error is None:
            await anyio.sleep(10)
        else:
            raise error

    async with mesh:
        clock = Clock()
        raised += [Reject("no"), ValueError(), FileNotFoundError(), OSError(), None, OSError()]
        for number in range(6):
            await call.tell(number)
        with anyio.move_on_after(50):
            await mesh.idle()
        # TimeoutError is an OSError: with the one before it there were two.
        assert [number for _, number in clock.seen] == [0, 1, 2, 3, 4]
        assert mesh.statistics().actors["call"].gates[0].condition == "open"
        await mesh.idle()
    assert clock.seen[-1] == (105, 5)


async def test_probe_that_ends_without_a_verdict():
    """A probe whose asker leaves says nothing: the next message probes at once."""
    mesh = Mesh()

    @mesh.actor(gates=[Breaker(failures=1, pause=10)], concurrency=4)
    async def call(number: int) -> int:
        clock.note(number)
        if number == 0:
            raise OSError
        await anyio.sleep(5 if number == 1 else 0)
        return number

    async with mesh:
        clock = Clock()
        with pytest.raises(OSError):
            await call.ask(0)
        with anyio.move_on_after(12):
            await call.ask(1)
        assert await call.ask(2) == 2
    assert clock.seen == [(0, 0), (10, 1), (12, 2)]
    assert counts(call.mailbox) == {"entered": 3, "acked": 2, "withdrawn": 1}


# Once


async def test_once():
    """A second message of a value within `ttl` of the start is dropped and counted; after it, it is new."""
    mesh = Mesh()

    @mesh.actor(gates=[Once(by=owner, ttl=10)], concurrency=4)
    async def take(job: Job) -> None:
        clock.note((job.owner, job.number))
        await anyio.sleep(1)

    async with mesh:
        clock = Clock()
        for number in range(3):
            await take.tell(Job("a", number))
        await take.tell(Job("b"))
        await anyio.sleep(9)
        await take.tell(Job("a", 3))
        await anyio.sleep(1)
        await take.tell(Job("a", 4))
        await mesh.idle()
        assert mesh.statistics().actors["take"].gates == (GateStatistics("Once", 0, 3, 1),)
    assert clock.seen == [(0, ("a", 0)), (0, ("b", 0)), (10, ("a", 4))]
    assert counts(take.mailbox) == {"entered": 6, "acked": 3, "dropped": 3}


async def test_once_is_released_by_a_failure():
    """What failed has not been done: its retry claims the value anew, and so may another message after a dead letter."""
    mesh = Mesh()

    @mesh.actor(gates=[Once(by=owner, ttl=100)], retry=Retry(2, initial=1, jitter="none"))
    async def take(job: Job, ctx: Context) -> None:
        clock.note((job.number, ctx.attempt))
        if job.number == 0:
            raise OSError

    async with mesh:
        clock = Clock()
        await take.tell(Job("a", 0))
        await mesh.idle()
        await take.tell(Job("a", 1))
        await take.tell(Job("a", 2))
        await mesh.idle()
    assert clock.seen == [(0, (0, 1)), (1, (0, 2)), (1, (1, 1))]
    assert counts(take.mailbox) == {"entered": 3, "acked": 1, "dead": 1, "dropped": 1}


# Several gates


async def test_several_gates():
    """All gates must let a message go: what one holds counts at none of the others, and no drop uses up the rate."""
    mesh = Mesh()
    running = 0

    @mesh.actor(gates=[Once(by=owner, ttl=100), Rate(2, per=1.0), Limit(1)], concurrency=4)
    async def take(job: Job) -> None:
        nonlocal running
        running += 1
        assert running == 1
        clock.note(job.owner)
        await anyio.sleep(0.8)
        running -= 1

    async with mesh:
        clock = Clock()
        for name in "aabbc":
            await take.tell(Job(name))
        await mesh.idle()
        assert [gate.dropped for gate in mesh.statistics().actors["take"].gates] == [2, 0, 0]
        assert take.cell.gates is not None
        assert take.cell.gates.lines == {}
    assert clock.seen == [(0, "a"), (0.8, "b"), (1.6, "c")]


def _raising(job: Job) -> Any:
    if job.owner == "bad":
        raise KeyError("no such owner")
    return job.owner


def _unhashable(job: Job) -> Any:
    return [] if job.owner == "bad" else job.owner


@pytest.mark.parametrize(
    "by, text", [(_raising, "KeyError: 'no such owner'"), (_unhashable, "TypeError: unhashable type: 'list'")]
)
async def test_no_value(by: Any, text: str):
    """A message whose gate's `by=` raises, or gives what cannot be a value, is malformed; the others go on."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(gates=[Rate(1, per=1.0, by=by)])
    async def take(job: Job) -> None:
        seen.append(job.number)

    async with mesh:
        for number, name in enumerate(("good", "bad", "good")):
            await take.tell(Job(name, number))
        await mesh.idle()
    assert seen == [0, 2]
    assert f"by= of actor 'take' gave Rate no value: {text}" in mesh.dead_letters.list()[0].deaths[0].detail


async def test_by_runs_once_per_copy():
    """A gate asks for the value once per copy, on the converted body, however often it is held or retried."""
    mesh = Mesh()
    asked: list[Job] = []

    def by(job: Job) -> Any:
        asked.append(job)
        return job.owner

    @mesh.actor(gates=[Rate(1, per=1.0, by=by)], retry=Retry(2, initial=1, jitter="none"), bind=mesh.exchange("in").on("a"))
    async def take(job: Job, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError

    async with mesh:
        for number in range(3):
            await mesh.exchange("in").publish({"owner": "a", "number": number}, "a")
        await mesh.idle()
    assert asked == [Job("a", number) for number in range(3)]


@pytest.mark.parametrize(
    "gates",
    [
        [Rate(5, per=1.0)],
        [Limit(1, surplus="cancel_running")],
        [Breaker(failures=1, pause=1)],
        [Limit(1), Rate(9, per=1.0, by=lambda number: number)],
    ],
    ids=["rate", "cancel", "breaker", "two"],
)
async def test_cancelled_askers_leave_gates_in_order(gates: list[Any]):
    """An asker that is cancelled wherever it waits leaves nothing running and nothing held; the next one gets through."""
    mesh = Mesh()

    @mesh.actor(gates=gates, concurrency=2)
    async def double(number: int) -> int:
        await anyio.sleep(0.5)
        return 2 * number

    async def ask() -> int:
        return await double.ask(2) + await double.ask(3)

    async def check(swept: Swept[int]) -> None:
        await mesh.idle()
        assert counts(double.mailbox).keys() <= {"entered", "acked", "withdrawn"}
        assert await double.ask(4) == 8
        assert double.cell.gates is not None
        assert double.cell.gates.lines == {}
        assert swept.value in (None, 10)

    async with mesh:
        assert await cancel_sweep(ask, check) >= 2


async def test_wrong_gates():
    """What is no gate is refused where it is declared, by name."""
    with pytest.raises(ValueError, match="gates must be a list of Rate, Limit, Breaker and Once, not"):
        Mesh().actor(gates=Rate(1, per=1.0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="gates must be a list"):
        Mesh().actor(gates=["fast"])  # pyright: ignore[reportArgumentType]
