"""`mesh.every`: anchored due times, overlap, pausing, ids, and what happens when the mesh is late or stops."""

import datetime
from typing import Any

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.scheduling import Schedule
from flowmesh.errors import InvalidHandler, PreconditionFailed, WrongBody
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


def _recorder(mesh: Mesh, name: str = "work", *, seconds: float = 0.0, **options: Any) -> tuple[Any, list[float]]:
    times: list[float] = []

    @mesh.actor(name=name, **options)
    async def work(body: Any) -> None:
        times.append(round(anyio.current_time(), 3))
        await anyio.sleep(seconds)

    return work, times


async def test_the_first_fire_is_one_interval_after_the_start():
    """Every so many seconds from the start of the mesh, not from the declaration."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh)
    schedule = mesh.every(10, work, body="x")
    assert schedule.next_fire is None
    await anyio.sleep(3)
    async with mesh:
        assert schedule.next_fire == datetime.datetime.fromtimestamp(EPOCH + 13, datetime.UTC)
        await advance(35)
    assert times == [13.0, 23.0, 33.0]
    assert (schedule.fired, schedule.skipped, schedule.next_fire) == (3, 0, None)


async def test_one_that_is_declared_while_the_mesh_runs_begins_then():
    """Its first fire is one interval after its declaration."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh)
    async with mesh:
        await advance(5)
        mesh.every(10, work)
        await advance(21)
    assert times == [15.0, 25.0]


async def test_due_times_do_not_drift():
    """After two thousand fires the due time is exactly two thousand intervals after the start, however late each one was."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box", MailboxOptions(capacity=100_000))
    mesh.every(0.1, box, name="tick")
    async with mesh:
        await advance(200.05)
        messages = box.peek(100_000)
    assert len(messages) == 2000
    assert messages[-1].id == f"tick@{datetime.datetime.fromtimestamp(EPOCH + 200, datetime.UTC).isoformat()}"
    for number, message in enumerate(messages, 1):
        assert message.timestamp == pytest.approx(EPOCH + number * 0.1, abs=1e-5)


async def test_a_fire_has_an_id_made_of_its_name_and_due_time():
    """`<name>@<due>`: unique, the same for whoever looks, in UTC; the name is the target's unless given."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    mesh.every(60, box, body={"a": 1})
    mesh.every(90, box, name="other")
    async with mesh:
        await advance(121)
        assert [message.id for message in box.peek()] == [
            "box@2024-01-01T00:01:00+00:00",
            "other@2024-01-01T00:01:30+00:00",
            "box@2024-01-01T00:02:00+00:00",
        ]
        assert [message.body for message in box.peek()] == [{"a": 1}, None, {"a": 1}]


async def test_skip_leaves_out_what_would_overlap():
    """For an actor a fire whose predecessor is not settled is left out and counted; the others come at their times."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh, seconds=25)
    schedule = mesh.every(10, work)
    async with mesh:
        await advance(71)
        assert times == [10.0, 40.0, 70.0]
        assert (schedule.fired, schedule.skipped) == (3, 4)


async def test_skip_counts_retries_and_waiting_as_not_settled():
    """A predecessor that waits for its retry, or has not been handed out yet, is not settled either."""
    mesh = Mesh("shop", clock=VirtualClock(), grace=0)
    times: list[float] = []

    @mesh.actor(retry=Retry(2, initial=25, jitter="none"))
    async def work(body: Any) -> None:
        times.append(round(anyio.current_time(), 2))
        raise OSError("again")

    schedule = mesh.every(10, work)
    async with mesh:
        await advance(39)
        assert times == [10.0, 35.0]
        assert (schedule.fired, schedule.skipped) == (1, 2)
        work.pause()
        await advance(22)
        assert (schedule.fired, schedule.skipped) == (2, 4)
        work.mailbox.purge()
        await advance(10)
        assert (schedule.fired, schedule.skipped) == (3, 4)


async def test_skip_counts_every_mailbox_that_a_fire_reached():
    """A fire into an exchange with `overlap="skip"` is settled when all of its copies are."""
    mesh = Mesh("shop", clock=VirtualClock())
    ticks = mesh.exchange("ticks", "fanout")
    quick, quick_times = _recorder(mesh, "quick")
    slow, slow_times = _recorder(mesh, "slow", seconds=15)
    ticks.bind(quick)
    ticks.bind(slow)
    mesh.every(10, ticks, overlap="skip")
    async with mesh:
        await advance(51)
    assert quick_times == slow_times == [10.0, 30.0, 50.0]


async def test_allow_fires_whatever_is_under_way():
    """Exchanges and mailboxes get every fire; an actor does with `overlap="allow"`."""
    mesh = Mesh("shop", clock=VirtualClock(), grace=0)
    box = mesh.mailbox("box", MailboxOptions(capacity=2))
    work, times = _recorder(mesh, seconds=25, concurrency=10)
    mesh.every(10, box)
    schedule = mesh.every(10, work, overlap="allow")
    async with mesh:
        await advance(51)
        assert times == [10.0, 20.0, 30.0, 40.0, 50.0]
        assert box.statistics().entered == 5  # full: what the mesh makes is never refused
        assert schedule.skipped == 0


async def test_into_an_exchange():
    """A fire is published with its key, and goes where the bindings of then lead; nowhere is counted."""
    mesh = Mesh("shop", clock=VirtualClock())
    ticks, box = mesh.exchange("ticks", "topic"), mesh.mailbox("box")
    mesh.every(10, ticks, key="clock.tick", body="tick")
    async with mesh:
        await advance(11)
        assert ticks.unroutable == 1
        ticks.bind(box, "clock.*")
        await advance(10)
        assert [(message.key, message.exchange, message.body) for message in box.peek()] == [("clock.tick", "ticks", "tick")]


async def test_the_decorator_form():
    """`@mesh.every(...)` declares an actor whose handler takes no message, and fires it; its name names the schedule."""
    mesh, times = Mesh("shop", clock=VirtualClock()), list[float]()

    @mesh.every(10)
    async def report() -> None:
        times.append(round(anyio.current_time(), 2))

    @mesh.every(7, name="other")
    def threaded() -> None:
        times.append(-1)

    async with mesh:
        assert mesh.statistics().actors["report"].mailbox == "report"
        await advance(21)
        await report.tell()
        await mesh.idle()
    assert [when for when in times if when >= 0] == [10.0, 20.0, 21.0]
    assert times.count(-1) == 3
    assert sorted(mesh._engine.schedules) == ["other", "report"]


async def test_pause_and_resume():
    """While it is paused due times pass; after `resume` it fires at the due times that it would have had. Idempotent."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh)
    schedule = mesh.every(10, work)
    async with mesh:
        await advance(15)
        schedule.pause()
        schedule.pause()
        assert schedule.is_paused
        assert schedule.next_fire is None
        await advance(30)
        schedule.resume()
        schedule.resume()
        assert schedule.next_fire == datetime.datetime.fromtimestamp(EPOCH + 50, datetime.UTC)
        await advance(10)
    assert times == [10.0, 50.0]
    assert (schedule.fired, schedule.skipped) == (2, 0)


async def test_cancel_is_for_good():
    """A cancelled schedule fires no more, not in a later run either; what it had fired goes on. Idempotent."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh, seconds=3)
    schedule = mesh.every(10, work)
    async with mesh:
        await advance(11)
        schedule.cancel()
        schedule.cancel()
        assert schedule.next_fire is None
        await advance(30)
    assert times == [10.0]
    assert work.mailbox.statistics().acked == 1
    async with mesh:
        await advance(30)
    assert times == [10.0]


async def test_a_handler_may_cancel_its_own_schedule():
    """The fire that runs ends as ever, and no other follows."""
    mesh, times = Mesh("shop", clock=VirtualClock()), list[float]()
    schedules: list[Schedule] = []

    @mesh.actor
    async def work(body: Any) -> None:
        times.append(round(anyio.current_time(), 2))
        if len(times) == 2:
            schedules[0].cancel()

    schedules.append(mesh.every(10, work))
    async with mesh:
        await advance(60)
    assert times == [10.0, 20.0]


async def test_a_run_begins_anew():
    """A mesh that is entered again anchors its schedules at that start, and counts go on; pauses last."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh)
    schedule = mesh.every(10, work)
    async with mesh:
        await advance(13)
    await anyio.sleep(4)
    async with mesh:
        await advance(11)
    assert times == [10.0, 27.0]
    assert schedule.fired == 2
    schedule.pause()
    async with mesh:
        await advance(30)
    assert schedule.fired == 2


async def test_a_mesh_that_was_late_makes_up_for_the_latest():
    """A loop that was blocked over several due times fires once, with the latest of them, and then at the anchored times."""
    clock = LateClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    schedule = mesh.every(10, box)
    async with mesh:
        await advance(5)
        clock.late = 30.0  # it is 35 now, and the driver hears of it when it wakes: at 40
        await advance(5.001)
        await advance(10)
        assert [message.id[-14:-6] for message in box.peek()] == ["00:00:40", "00:00:50"]
        assert schedule.fired == 2


async def test_wrong_declarations_name_the_mend():
    """An interval that is not positive, an unknown overlap, a body that is not taken, a second of one name: refused at once."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(number: int) -> None:
        pass

    for seconds in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="seconds must be more than zero, not"):
            mesh.every(seconds, work, body=1)
    with pytest.raises(ValueError, match=r"overlap must be 'skip' or 'allow', not 'queue'"):
        mesh.every(1, work, body=1, overlap="queue")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(WrongBody, match=r"actor 'work' takes int, not NoneType"):
        mesh.every(1, work)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(TypeError, match=r"target of schedule 's' must be an actor, an exchange or a mailbox of this mesh"):
        mesh.every(1, "work", name="s")  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert mesh._engine.schedules == {}
    mesh.every(1, work, body=1, name="tick")
    with pytest.raises(PreconditionFailed, match=r"schedule 'tick' exists in mesh 'shop': give this one another name="):
        mesh.every(1, work, body=1, name="tick")


async def test_the_decorator_refuses_a_handler_that_takes_a_message():
    """A handler with a body has nothing to be called with: InvalidHandler, and neither actor nor schedule is left behind."""
    mesh = Mesh("shop")

    async def wants(number: int) -> None:
        pass

    async def unknown(number: "NotDefinedAnywhere") -> None:  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
        pass

    for handler in (wants, unknown):
        with pytest.raises(InvalidHandler, match=rf"handler '{handler.__name__}' takes a message, .* let it take none"):
            mesh.every(1)(handler)  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.every(1, mesh.mailbox("box"), name="taken")
    with pytest.raises(PreconditionFailed, match="schedule 'taken' exists"):
        mesh.every(1, name="taken")(_nothing)
    assert list(mesh._engine.schedules) == ["taken"]
    assert mesh._engine.cells == {}


async def _nothing() -> None:
    pass


async def test_a_fire_leads_to_a_turn_like_any_message():
    """What fires is handled by a worker, not by the driver: a slow handler delays no other schedule."""
    mesh = Mesh("shop", clock=VirtualClock())
    slow, _ = _recorder(mesh, "slow", seconds=100)
    quick, times = _recorder(mesh, "quick")
    mesh.every(10, slow)
    mesh.every(10, quick)
    async with mesh:
        await advance(41)
        await settled()
    assert times == [10.0, 20.0, 30.0, 40.0]
