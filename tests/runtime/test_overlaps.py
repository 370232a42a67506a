"""What becomes of a fire whose predecessor is not settled yet, and of one that comes too late: every rule with every other."""

import datetime
import time
from typing import Any

import anyio
import pytest

from flowmesh import Context, Mesh, on
from flowmesh._core.schedules import WAITING
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.testing import EPOCH, VirtualClock, advance, settled

pytestmark = pytest.mark.anyio


class LateClock(VirtualClock):
    """A clock whose monotonic time can jump ahead, as it does for a loop that was blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.late = 0.0

    def start(self) -> None:
        super().start()
        now = self.now
        self.now = lambda: now() + self.late


def seconds_of(moment: datetime.datetime) -> float:
    """Since the start of virtual time."""
    return round(moment.timestamp() - EPOCH, 3)


@pytest.mark.parametrize(
    "overlap, catchup, started, skipped, missed, waiting",
    [
        ("skip", "latest", [40, 70, 100], 4, 3, 0),
        ("skip", "all", [10, 70, 100], 7, 0, 0),
        ("skip", "none", [50, 80], 4, 4, 0),
        ("queue", "latest", [40, 50, 60], 0, 3, 4),
        ("queue", "all", [10, 20, 30], 0, 0, 7),
        ("queue", "none", [50, 60, 70], 0, 4, 3),
        ("cancel", "latest", [40, 50, 60, 70, 80, 90, 100], 0, 3, 0),
        ("cancel", "all", [40, 50, 60, 70, 80, 90, 100], 2, 0, 0),
        ("cancel", "none", [50, 60, 70, 80, 90, 100], 0, 4, 0),
        ("allow", "latest", [40, 50, 60, 70, 80, 90, 100], 0, 3, 0),
        ("allow", "all", [10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 0, 0, 0),
        ("allow", "none", [50, 60, 70, 80, 90, 100], 0, 4, 0),
    ],
)
async def test_every_rule_with_every_other(
    overlap: Any, catchup: Any, started: list[float], skipped: int, missed: int, waiting: int
):
    """A handler of 25 s every 10 s, in a mesh that is away from 5 to 43: who is fired, skipped, missed, and who waits."""
    clock, seen = LateClock(), list[float]()
    mesh = Mesh("shop", clock=clock, grace=0)

    @mesh.actor(concurrency=10)
    async def work(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        seen.append(seconds_of(ctx.fire.scheduled))
        await anyio.sleep(25)

    schedule = mesh.every(10, work, overlap=overlap, catchup=catchup)
    async with mesh:
        await advance(5)
        clock.late = 33.0
        await advance(63)
        numbers = mesh.statistics().schedules["work"]
        # With "cancel" and "all", the first one is overtaken before anybody has seen it.
        unseen = 1 if (overlap, catchup) == ("cancel", "all") else 0
        assert (numbers.fired, numbers.skipped, numbers.missed) == (len(started) + unseen, skipped, missed)
        assert numbers.waiting == waiting
        assert seen == started
        assert (schedule.fired, schedule.skipped, schedule.missed) == (numbers.fired, skipped, missed)


async def test_queue_runs_one_at_a_time_in_order():
    """However many slots there are; each fire knows when it was due, when it was made, and how the one before ended."""
    mesh, seen, running = Mesh("shop", clock=VirtualClock(), grace=0), list[Any](), [0]

    @mesh.actor(concurrency=5)
    async def work(_: None, ctx: Context) -> None:
        fire = ctx.fire
        assert fire is not None
        seen.append((seconds_of(fire.scheduled), seconds_of(fire.fired), fire.missed, fire.previous))
        running[0] += 1
        assert running[0] == 1
        await anyio.sleep(15)
        running[0] -= 1
        if len(seen) == 2:
            raise OSError("no")

    mesh.every(10, work, overlap="queue")
    async with mesh:
        await advance(56)
    assert seen == [(10, 10, 0, None), (20, 25, 0, "acked"), (30, 40, 0, "dead"), (40, 55, 0, "acked")]


async def test_queue_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """No more than WAITING fires wait for the one before; further ones are skipped, and counted."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.every(1, box, overlap="queue")
    async with mesh:
        await advance(WAITING + 11.5)
        numbers = schedule.statistics()
        assert (numbers.fired, numbers.waiting, numbers.skipped) == (1, WAITING, 10)


async def test_queued_fires_outlive_a_stop(caplog: pytest.LogCaptureFixture):
    """They are named when the mesh stops, and made, in order, when it is entered again; not those of a cancelled schedule."""
    mesh, seen = Mesh("shop", clock=VirtualClock(), grace=100), list[float]()

    @mesh.actor
    async def work(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        seen.append(seconds_of(ctx.fire.scheduled))
        await anyio.sleep(25)

    schedule = mesh.every(10, work, overlap="queue")
    async with mesh:
        await advance(31)
    assert seen == [10]
    assert "schedule 'work' stops while 2 of its fires wait for the one before" in caplog.text
    async with mesh:
        await advance(51)
        assert seen == [10, 20, 30, 45]
        assert schedule.statistics().waiting == 4
        schedule.cancel()
        await advance(200)
    assert seen == [10, 20, 30, 45]
    assert (schedule.skipped, schedule.statistics().waiting) == (4, 0)


async def test_cancel_waits_until_the_one_before_has_ended():
    """Its handler is cancelled and may clean up; the next one starts when it has ended, so that two never run."""
    mesh, seen = Mesh("shop", clock=VirtualClock(), grace=0), list[Any]()

    @mesh.actor(concurrency=5)
    async def work(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        due = seconds_of(ctx.fire.scheduled)
        seen.append(("begin", due, round(anyio.current_time(), 2), ctx.fire.previous))
        try:
            await anyio.sleep(15)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
            seen.append(("end", due, round(anyio.current_time(), 2)))

    mesh.every(10, work, overlap="cancel")
    async with mesh:
        await advance(23)
        assert work.mailbox.statistics().withdrawn == 1
    assert seen == [
        ("begin", 10, 10, None),
        ("end", 10, 22),
        ("begin", 20, 22, "withdrawn"),
        ("end", 20, 25),
    ]


async def test_cancel_reaches_every_copy_wherever_it_is():
    """Ready, waiting for its retry, set aside for its lane, or in a handler: all end as withdrawn, and nothing else."""
    mesh, done = Mesh("shop", clock=VirtualClock(), grace=0), list[str]()
    ticks = mesh.exchange("ticks", "fanout")

    @mesh.actor(bind=ticks.on())
    async def slow(_: None) -> None:
        await anyio.sleep(100)
        done.append("slow")

    @mesh.actor(bind=ticks.on(), retry=Retry(2, initial=100, jitter="none"))
    async def failing(_: None) -> None:
        raise OSError("again")

    @mesh.actor(bind=ticks.on(), by=lambda body: "one", concurrency=3)
    async def laned(body: None, ctx: Context) -> None:
        if ctx.fire is None:
            await anyio.sleep(13)
            done.append("laned")
        else:
            await anyio.sleep(100)

    ready = mesh.mailbox("ready")
    ticks.bind(ready)
    mesh.every(10, ticks, overlap="cancel")
    async with mesh:
        await laned.tell()
        await advance(11)
        states = {name: (box.ready, box.leased, box.delayed) for name, box in mesh.statistics().mailboxes.items()}
        assert states == {"slow": (0, 1, 0), "failing": (0, 0, 1), "laned": (1, 1, 0), "ready": (1, 0, 0)}
        await advance(10)
        for name, box in mesh.statistics().mailboxes.items():
            assert box.withdrawn == 1, name
        assert done == ["laned"]


async def test_cancel_leaves_alone_what_it_cannot_end():
    """What a consumer pulled is its own, and a thread runs on: the next fire waits, and only the latest one."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.every(10, box, overlap="cancel")
    async with mesh:
        await advance(11)
        delivery = await box.get()
        await advance(20)
        assert (schedule.fired, schedule.skipped, schedule.statistics().waiting) == (1, 1, 1)
        await delivery.ack()
        await settled()
        following = await box.get()
        fire = following.message.fire
        assert fire is not None
        assert (seconds_of(fire.scheduled), seconds_of(fire.fired), fire.previous) == (30, 31, "acked")
        await following.ack()


async def test_cancel_of_a_thread_waits_for_it():
    """Its handler cannot be interrupted; when it returns it counts as done, and the next fire is made."""
    mesh, seen = Mesh("shop", clock=VirtualClock()), list[Any]()

    @mesh.every(10, overlap="cancel")
    def work(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        time.sleep(0.01)
        seen.append((seconds_of(ctx.fire.scheduled), ctx.fire.previous))

    async with mesh:
        await advance(31)
    assert seen[:3] == [(10, None), (20, "acked"), (30, "acked")]


async def test_cancel_of_a_class_actor():
    """Its handler is cancelled, since that is what was asked for, and its instance goes on."""
    mesh, seen = Mesh("shop", clock=VirtualClock(), grace=0), list[int]()

    class Counter:
        def __init__(self) -> None:
            self.count = 0

        @on
        async def add(self, number: int) -> None:
            self.count += number
            seen.append(self.count)
            await anyio.sleep(60)

    counter = mesh.actor(Counter)
    mesh.every(10, counter, body=5, overlap="cancel")
    async with mesh:
        await advance(31)
        assert counter.mailbox.statistics().withdrawn == 2
    assert seen == [5, 10, 15]


async def test_an_error_of_an_overtaken_handler_is_logged(caplog: pytest.LogCaptureFixture):
    """What it raises when it is cancelled reaches the log, and makes no dead letter."""
    mesh = Mesh("shop", clock=VirtualClock(), grace=0)

    @mesh.every(10, overlap="cancel")
    async def work() -> None:
        try:
            await anyio.sleep(60)
        finally:
            raise OSError("while cleaning up")

    async with mesh:
        await advance(21)
        assert mesh.dead_letters.list() == []
        assert work.mailbox.statistics().withdrawn == 1
    assert "which a later fire of its schedule has overtaken: OSError: while cleaning up" in caplog.text


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
async def test_a_copy_that_is_left_out_has_ended(overlap: Any):
    """A full `drop_newest` mailbox takes no copy: the fire is over, the next one is made, and knows it."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box", MailboxOptions(capacity=1, overflow="drop_newest"))
    schedule = mesh.every(10, box, overlap=overlap)
    async with mesh:
        await mesh.exchange("").publish("in the way", "box")
        await advance(31)
        assert (schedule.fired, schedule.skipped) == (3, 0)
        assert box.statistics().dropped == 3
        box.purge()
        await advance(10)
        (message,) = box.peek()
        assert message.fire is not None
        assert message.fire.previous == "dropped"


async def test_a_fire_into_many_mailboxes_ends_with_the_last_of_them():
    """And ended as the first copy that was not acked did."""
    mesh = Mesh("shop", clock=VirtualClock())
    ticks = mesh.exchange("ticks", "fanout")
    boxes = [mesh.mailbox(name) for name in "abc"]
    for box in boxes:
        ticks.bind(box)
    schedule = mesh.every(10, ticks, overlap="skip")
    async with mesh:
        await advance(11)
        await (await boxes[0].get()).ack()
        boxes[1].purge()
        await advance(10)
        assert (schedule.fired, schedule.skipped) == (1, 1)
        await (await boxes[2].get()).ack()
        await advance(10)
        fire = boxes[0].peek()[0].fire
        assert fire is not None
        assert (schedule.fired, fire.previous) == (2, "purged")


async def test_with_fixed_delay_the_interval_counts_from_the_end():
    """The first fire comes one interval after the start, each other one an interval after the one before was settled."""
    mesh, seen = Mesh("shop", clock=VirtualClock(), grace=0), list[Any]()

    @mesh.every(10, fixed_delay=True)
    async def work(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        seen.append((seconds_of(ctx.fire.scheduled), ctx.fire.previous))
        await anyio.sleep(7)
        if len(seen) == 1:
            raise OSError("no")

    async with mesh:
        schedule = mesh._engine.residents.schedules["work"]
        assert [seconds_of(due) for due in schedule.upcoming(2)] == [10, 20]
        await advance(12)
        assert schedule.next_fire is None
        assert [seconds_of(due) for due in schedule.upcoming(2)] == [22, 32]
        await advance(6)
        assert schedule.next_fire is not None
        assert seconds_of(schedule.next_fire) == 27
        await advance(32)
        assert schedule.trigger_now() is False
        await advance(4)
        assert schedule.trigger_now() is True
        assert schedule.next_fire is None
        await advance(10)
    assert seen == [(10, None), (27, "dead"), (44, "acked"), (54, "acked")]


async def test_fixed_delay_of_a_fire_that_goes_nowhere():
    """It has ended at once; a pause is passed over an interval at a time; a start in the future is its first due time."""
    mesh = Mesh("shop", clock=VirtualClock())
    ticks = mesh.exchange("ticks")
    schedule = mesh.every(
        10, ticks, fixed_delay=True, start=datetime.datetime.fromtimestamp(EPOCH + 25, datetime.UTC), jitter=0.0
    )
    async with mesh:
        await advance(46)
        assert (schedule.fired, ticks.unroutable) == (3, 3)
        schedule.pause()
        await advance(100)
        assert schedule.fired == 3
        schedule.resume()
        await advance(10)
        assert schedule.fired == 4
    async with mesh:
        await advance(11)
        assert schedule.fired == 5


async def test_fixed_delay_waits_for_a_copy_of_an_earlier_run():
    """A mesh that is entered again with a fire unsettled counts from the end of that."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.every(10, box, fixed_delay=True)
    async with mesh:
        await advance(11)
    async with mesh:
        await advance(50)
        assert schedule.fired == 1
        await (await box.get()).ack()
        await advance(10)
        assert schedule.fired == 2
