"""`mesh.every`: anchored due times, overlap, pausing, ids, and what happens when the mesh is late or stops."""

import datetime
from typing import Any

import anyio
import pytest

from flowmesh import Context, Mesh, ScheduleStatistics
from flowmesh._runtime.scheduling import Schedule
from flowmesh.errors import InvalidHandler, MeshStopped, NotRunning, PreconditionFailed, WrongBody
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
    assert sorted(mesh._engine.residents.schedules) == ["other", "report"]


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


@pytest.mark.parametrize("fixed_delay", [False, True])
async def test_a_fire_that_waits_for_its_jitter_when_it_is_paused_is_missed(monkeypatch: pytest.MonkeyPatch, fixed_delay: bool):
    """Its due time has come before the pause: it is counted, once, and the next fire tells of it; `next_fire` is ahead."""
    monkeypatch.setattr("flowmesh._runtime.scheduling.random.random", lambda: 0.5)
    mesh = Mesh("shop", clock=VirtualClock())
    fires: list[tuple[float, int]] = []

    @mesh.actor
    async def work(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        fires.append((ctx.fire.scheduled.timestamp() - EPOCH, ctx.fire.missed))

    schedule = mesh.every(100, work, jitter=80, fixed_delay=fixed_delay)
    async with mesh:
        await advance(110)
        assert (schedule.fired, schedule.missed) == (0, 0)
        schedule.pause()
        schedule.pause()
        assert schedule.missed == 1
        schedule.resume()
        following = 210 if fixed_delay else 200
        assert schedule.next_fire == datetime.datetime.fromtimestamp(EPOCH + following, datetime.UTC)
        await advance(145)
    assert fires == [(following, 1)]
    assert (schedule.fired, schedule.skipped, schedule.missed) == (1, 0, 1)


async def test_a_due_time_of_a_pause_is_passed_over_while_it_would_wait_for_its_jitter(monkeypatch: pytest.MonkeyPatch):
    """It has come in the pause, so it is not counted; resumed before the end of its jitter, `next_fire` names the next one."""
    monkeypatch.setattr("flowmesh._runtime.scheduling.random.random", lambda: 0.5)
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh)
    schedule = mesh.every(100, work, jitter=80)
    async with mesh:
        await advance(90)
        schedule.pause()
        await advance(20)
        schedule.pause()
        schedule.resume()
        assert schedule.next_fire == datetime.datetime.fromtimestamp(EPOCH + 200, datetime.UTC)
        await advance(200)
    assert times == [240.0]
    assert (schedule.fired, schedule.missed) == (1, 1)


async def test_a_fire_that_waits_for_its_jitter_when_its_mesh_stops_is_missed_if_the_next_run_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
):
    """Of a plain interval without a store nothing is made up for; a cron line goes on where it was, and makes up for it."""
    monkeypatch.setattr("flowmesh._runtime.scheduling.random.random", lambda: 0.5)
    mesh = Mesh("shop", clock=VirtualClock())
    work, _ = _recorder(mesh)
    plain = mesh.every(60, work, jitter=50, name="plain")
    cron = mesh.cron("* * * * *", work, jitter=50, name="cron")
    async with mesh:
        await advance(70)
    assert (plain.fired, plain.missed, cron.fired, cron.missed) == (0, 1, 0, 0)
    async with mesh:
        await settled()
        assert (plain.fired, cron.fired) == (0, 1)


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


async def test_target_that_was_deleted(caplog: pytest.LogCaptureFixture):
    """A schedule whose exchange has been deleted says so once, with the mend, and not at each fire."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders")
    mesh.every(1, orders, name="tick")
    async with mesh:
        orders.delete()
        await anyio.sleep(5.5)
    assert caplog.messages == ["schedule 'tick' fires into exchange 'orders', which is gone: cancel it (said once)"]


async def test_wrong_declarations_name_the_mend():
    """An interval that is not positive, an unknown overlap, a body that is not taken, a second of one name: refused at once."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(number: int) -> None:
        pass

    for seconds in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="seconds must be a finite number, more than zero, not"):
            mesh.every(seconds, work, body=1)
    with pytest.raises(ValueError, match=r"overlap must be one of .skip., .queue., .cancel., .allow., not .never."):
        mesh.every(1, work, body=1, overlap="never")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(WrongBody, match=r"actor 'work' takes int, not NoneType"):
        mesh.every(1, work)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(TypeError, match=r"target of schedule 's' must be an actor, an exchange or a mailbox of this mesh"):
        mesh.every(1, "work", name="s")  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert mesh._engine.residents.schedules == {}
    mesh.every(1, work, body=1, name="tick")
    with pytest.raises(PreconditionFailed, match=r"schedule 'tick' exists in mesh 'shop': give this one another name="):
        mesh.every(2, work, body=1, name="tick")


async def test_one_that_is_declared_once_more_is_the_same():
    """With equal options, target, body and key; so the schedule of a decorated handler is found, before and during a run."""
    mesh = Mesh("shop", clock=VirtualClock())
    times: list[float] = []

    @mesh.every(10, name="beat")
    async def beat() -> None:
        times.append(anyio.current_time())

    @mesh.cron("@hourly", tz="Europe/Berlin", jitter=3)
    async def report() -> None: ...

    schedule = mesh.every(10, beat, name="beat")
    assert isinstance(schedule, Schedule)
    hourly = mesh.cron("@hourly", report, tz="Europe/Berlin", jitter=3, overlap="skip")
    events, box = mesh.exchange("events"), mesh.mailbox("box")
    told = mesh.every(5, events, body=[1], key="a", name="told")
    assert mesh.every(5, mesh.exchange("events"), body=[1], key="a", name="told") is told
    async with mesh:
        await advance(15)
        assert mesh.every(10, beat, name="beat") is schedule
        assert mesh.cron("@hourly", report, tz="Europe/Berlin", jitter=3) is hourly
        schedule.pause()
        await advance(20)
    assert times == [10.0]
    for declare in (
        lambda: mesh.every(11, beat, name="beat"),
        lambda: mesh.every(10, beat, name="beat", jitter=1),
        lambda: mesh.cron("@hourly", beat, name="beat"),
        lambda: mesh.every(10, report, name="beat"),
        lambda: mesh.every(10, box, name="beat"),
        lambda: mesh.cron("@daily", report, tz="Europe/Berlin", jitter=3),
        lambda: mesh.cron("@hourly", report, tz="Europe/Paris", jitter=3),
        lambda: mesh.every(5, events, body=[1], key="b", name="told"),
        lambda: mesh.every(5, events, body=[2], key="a", name="told"),
        lambda: mesh.every(5, events, body=[True], name="told"),
    ):
        with pytest.raises(PreconditionFailed, match="exists in mesh 'shop': give this one another name="):
            declare()
    schedule.cancel()
    assert mesh.every(10, beat, name="beat") is not schedule


async def test_due_times_that_no_datetime_tells():
    """What comes after the year 9999 is left out, and is not named as the next one."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, _ = _recorder(mesh)
    schedule = mesh.every(2e11, work)
    assert [due.year for due in schedule.upcoming(3)] == [8361]
    assert mesh.every(1e12, work, name="never").upcoming(2) == []
    async with mesh:
        assert mesh.statistics().schedules["never"].next_fire is None
        assert schedule.next_fire == schedule.upcoming(1)[0]


async def test_a_body_or_a_key_that_nobody_would_be_sent():
    """A decorated handler takes no message, and only an exchange looks at a key: nothing is declared."""
    mesh = Mesh("shop")
    work, _ = _recorder(mesh)
    given: list[dict[str, Any]] = [{"body": 1}, {"key": "a"}, {"body": 0}]
    for options in given:
        (option,) = options
        for decorate in (lambda given: mesh.every(1, **given), lambda given: mesh.cron("@daily", **given)):
            with pytest.raises(TypeError, match=rf"^{option}= without a target: what this decorates takes no message; declare"):
                decorate(options)
    for target in (work, mesh.mailbox("box")):
        with pytest.raises(TypeError, match=r"^key= is for an exchange: <.*> is sent to directly; leave it out, or give an"):
            mesh.every(1, target, key="a")
    assert mesh._engine.residents.schedules == {}


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
    assert list(mesh._engine.residents.schedules) == ["taken"]
    assert mesh._engine.residents.cells == {}


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


async def test_trigger_now_fires_beside_the_due_times():
    """At once, even in a pause, with an id of its own; `overlap` counts for it, and the due times stay."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, times = _recorder(mesh, seconds=2)
    schedule = mesh.every(10, work)
    async with mesh:
        await advance(5)
        assert schedule.trigger_now() is True
        assert schedule.trigger_now() is False
        assert (schedule.fired, schedule.skipped) == (1, 1)
        await advance(6)
        schedule.pause()
        await advance(9)
        assert schedule.trigger_now() is True
        await settled()
    assert times == [5.0, 10.0, 20.0]


async def test_each_trigger_has_an_id_of_its_own():
    """Several at one moment, at the very moment of a due time, too."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.every(10, box)
    async with mesh:
        await advance(10)
        assert [schedule.trigger_now() for _ in range(3)] == [True] * 3
        ids = [message.id for message in box.peek()]
        assert len(set(ids)) == 4
        fire = box.peek()[1].fire
        assert fire is not None
        assert fire.scheduled == fire.fired


async def test_trigger_now_needs_a_mesh_that_runs():
    """NotRunning before, MeshStopped while it drains and after, PreconditionFailed if cancelled; False into nowhere."""
    mesh = Mesh("shop", clock=VirtualClock())
    nowhere = mesh.exchange("nowhere")
    schedule = mesh.every(10, nowhere)
    with pytest.raises(NotRunning, match="mesh 'shop' has not been started"):
        schedule.trigger_now()
    draining = list[BaseException]()

    @mesh.actor
    async def late(_: None) -> None:
        mesh.stop()
        with pytest.raises(MeshStopped, match="mesh 'shop' is draining: its schedules fire no more") as caught:
            schedule.trigger_now()
        draining.append(caught.value)

    async with mesh:
        assert schedule.trigger_now() is False
        assert nowhere.unroutable == 1
        await late.tell()
    assert len(draining) == 1
    with pytest.raises(MeshStopped):
        schedule.trigger_now()
    schedule.cancel()
    with pytest.raises(PreconditionFailed, match="schedule 'nowhere' is cancelled: declare it anew to fire it"):
        schedule.trigger_now()


async def test_statistics_name_each_schedule():
    """Per schedule: fired, skipped, missed, waiting, the next due time, and whether it is paused; a cancelled one is gone."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    tick, tock = mesh.every(10, box, name="tick"), mesh.cron("0 * * * *", box, name="tock")
    assert mesh.statistics().schedules["tick"] == ScheduleStatistics(0, 0, 0, 0, None, False)
    async with mesh:
        await advance(25)
        tick.pause()
        hour = datetime.datetime.fromtimestamp(EPOCH + 3600, datetime.UTC)
        assert mesh.statistics().schedules == {
            "tick": ScheduleStatistics(2, 0, 0, 0, None, True),
            "tock": ScheduleStatistics(0, 0, 0, 0, hour, False),
        }
        tock.cancel()
        assert list(mesh.statistics().schedules) == ["tick"]
        mesh.every(5, box, name="tock")
        await advance(6)
        assert mesh.statistics().schedules["tock"].fired == 1


async def test_a_cron_schedule_cannot_be_declared_wrongly():
    """A bad line, an unknown zone, an unknown or contradictory option: each names itself and the mend, and nothing is left."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")
    wrong: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("0 9 * *", {}, ValueError, r"cron line '0 9 \* \*' has 4 fields: give five"),
        ("0 25 * * *", {}, ValueError, r"cron line '0 25 \* \* \*' cannot be read: bad hour"),
        (
            "@daily",
            {"tz": "Europe/Berlni"},
            ValueError,
            r"unknown time zone 'Europe/Berlni' \(did you mean 'Europe/Berlin'\?\)",
        ),
        ("@daily", {"tz": "../../etc/passwd"}, ValueError, r"unknown time zone"),
        ("@daily", {"tz": ""}, ValueError, r"unknown time zone ''"),
        ("@daily", {"tz": 3}, TypeError, r"tz must be the name of a zone, like 'Europe/Berlin', or a tzinfo, not 3"),
        ("@daily", {"zone": "UTC"}, TypeError, r"unknown option 'zone' of mesh.cron"),
        ("@daily", {"overlapp": "skip"}, TypeError, r"unknown option 'overlapp' of mesh.cron \(did you mean 'overlap'\?\)"),
        ("@daily", {"fixed_delay": True}, TypeError, r"unknown option 'fixed_delay' of mesh.cron"),
        ("@daily", {"catchup": "most"}, ValueError, r"catchup must be one of 'latest', 'all', 'none', not 'most'"),
        ("@daily", {"within": 0}, ValueError, r"within must be more than zero seconds, or None, not 0"),
        ("@daily", {"catchup": "none", "within": 5}, ValueError, r"nothing is made up for: leave within= out"),
        ("@daily", {"jitter": -1}, ValueError, r"jitter must be zero or more seconds, not -1"),
        ("@daily", {"start": datetime.datetime(2024, 1, 1)}, ValueError, r"start must be a datetime with a time zone"),  # noqa: DTZ001
    ]
    for line, options, kind, text in wrong:
        with pytest.raises(kind, match=text):
            mesh.cron(line, box, **options)
    with pytest.raises(TypeError, match="a cron line is a text like"):
        mesh.cron(9, box)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(ValueError, match=r"a fire counts from the end of the one before it.* leave overlap= out"):
        mesh.every(1, box, fixed_delay=True, overlap="queue")
    with pytest.raises(ValueError, match="fixed_delay must be True or False, not 30"):
        mesh.every(1, box, fixed_delay=30)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert mesh._engine.residents.schedules == {}
    schedule = mesh.cron("@daily", box)
    for limit in (-1, 0, 1.5, True):
        with pytest.raises(ValueError, match=f"limit must be a whole number of at least 1, not {limit}"):
            schedule.upcoming(limit)  # pyright: ignore[reportArgumentType] - one of them
    with pytest.raises(ValueError, match="after must have a time zone"):
        schedule.upcoming(after=datetime.datetime(2024, 1, 1))  # noqa: DTZ001
