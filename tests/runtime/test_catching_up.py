"""Schedules and the wall clock: cron, starts, jumps in both directions, suspends, stops, and that no fire is made twice."""

import datetime
import zoneinfo
from typing import Any

import anyio
import pytest

from flowmesh import Context, Mesh, Part
from flowmesh.testing import EPOCH, VirtualClock, advance, settled

pytestmark = pytest.mark.anyio

UTC = datetime.UTC
HOUR, DAY = 3600.0, 86_400.0
YEAR = 365 * DAY


def fires(box: Any) -> list[str]:
    """When the messages in a mailbox were due, as `day hour:minute`."""
    return [message.fire.scheduled.strftime("%d %H:%M") for message in box.peek(100_000)]


async def test_cron_fires_in_its_zone():
    """At the local times that it names; ids are in UTC, `ctx.fire` in the zone."""
    mesh, seen = Mesh("shop", clock=VirtualClock()), list[Any]()

    @mesh.cron("0 9 * * mon-fri", tz="Europe/Berlin")
    async def report(_: None, ctx: Context) -> None:
        assert ctx.fire is not None
        assert ctx.message.fire is ctx.fire
        assert ctx.fire.schedule == "report"
        assert ctx.fire.scheduled == ctx.fire.fired
        assert ctx.message.timestamp == ctx.fire.fired.timestamp()
        seen.append((ctx.message.id, ctx.fire.scheduled.isoformat(), ctx.fire.previous))

    async with mesh:
        await advance(7 * DAY)
    assert len(seen) == 5
    assert seen[0] == ("report@2024-01-01T08:00:00+00:00", "2024-01-01T09:00:00+01:00", None)
    assert seen[4] == ("report@2024-01-05T08:00:00+00:00", "2024-01-05T09:00:00+01:00", "acked")


async def test_a_message_of_nobodys_schedule_has_no_fire():
    """`ctx.fire` is None, also in the handler that a schedule fires at; outputs of a fire's turn have none either."""
    mesh, seen = Mesh("shop", clock=VirtualClock()), list[Any]()

    @mesh.actor
    async def follow(_: None, ctx: Context) -> None:
        seen.append(ctx.fire)

    @mesh.every(10)
    async def work(_: None, ctx: Context) -> None:
        ctx.tell(follow)
        seen.append(ctx.fire is None)

    async with mesh:
        await advance(10)
        await work.tell()
        await mesh.idle()
    assert seen == [False, None, True, None]


async def test_the_fire_stays_with_a_dead_letter():
    """A message that died and is replayed still says when it was due."""
    mesh, seen = Mesh("shop", clock=VirtualClock()), list[Any]()

    @mesh.every(10)
    async def work(_: None, ctx: Context) -> None:
        seen.append(None if ctx.fire is None else ctx.fire.scheduled.timestamp() - EPOCH)
        if len(seen) == 1:
            raise OSError("no")

    async with mesh:
        await advance(11)
        assert await mesh.dead_letters.replay() == 1
        await mesh.idle()
    assert seen == [10, 10]


@pytest.mark.parametrize(
    "seconds, within_minutes, expected, missed",
    [
        (1, 6, ["01 02:30"], 0),
        (HOUR, 6, ["01 03:20", "01 03:30"], 5),
        (8 * HOUR, 6, ["01 10:20", "01 10:30"], 47),
        (YEAR, 6, ["31 02:20", "31 02:30"], 9_999),  # 2024 has 366 days; so many are counted
        (-1, 6, ["01 02:30"], 0),
        (-HOUR, 64, [], 0),
        (-HOUR, 66, ["01 02:30"], 0),
        (-YEAR, 6, ["01 02:30"], 0),
    ],
    ids=[
        "second ahead",
        "hour ahead",
        "suspend of 8 hours",
        "year ahead",
        "second back",
        "hour back",
        "hour back, after it",
        "year back",
    ],
)
async def test_the_wall_clock_jumps(seconds: float, within_minutes: float, expected: list[str], missed: int):
    """Ahead, the latest due time is made up for and the others are missed; back, none comes twice; then it goes on as ever."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    schedule = mesh.cron("*/10 * * * *", box)
    async with mesh:
        await advance(2 * HOUR + 25 * 60)
        assert len(fires(box)) == 14
        ids = {message.id for message in box.peek(100)}
        box.purge()
        clock.shift_wall(seconds)
        await advance(within_minutes * 60)
        assert fires(box) == expected
        assert ids.isdisjoint(message.id for message in box.peek(100))
        assert schedule.missed == missed
        if missed:
            assert box.peek()[0].fire.missed == missed  # pyright: ignore[reportOptionalMemberAccess]
            assert box.peek()[1].fire.missed == 0  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("seconds", [1, HOUR, 8 * HOUR, YEAR, -1, -HOUR, -YEAR])
async def test_an_interval_does_not_care_who_sets_the_clock(seconds: float):
    """Its due times are on the monotonic clock; what they are called goes ahead with the wall clock, and never comes twice."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    schedule = mesh.every(60, box)
    async with mesh:
        await advance(150)
        clock.shift_wall(seconds)
        await advance(3 * HOUR)
        assert (schedule.fired, schedule.missed) == (182, 0)
        due = [message.fire.scheduled for message in box.peek(1000) if message.fire]
        assert due == sorted(set(due))
        if seconds > 1:
            assert abs(due[-1].timestamp() - clock.wall()) < 60


@pytest.mark.parametrize("seconds", [YEAR, 4 * HOUR])
async def test_ahead_by_mistake_and_back(seconds: float):
    """Somebody sets the clock far ahead and corrects it: the schedule goes on at the real time, at once."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    mesh.cron("*/10 * * * *", box)
    async with mesh:
        await advance(15 * 60)
        clock.shift_wall(seconds)
        await advance(60)
        clock.shift_wall(-seconds)
        await advance(5 * 60)
        assert [text[3:] for text in fires(box)] == ["00:10", "00:10" if seconds == YEAR else "04:10", "00:20"]
        assert len({message.id for message in box.peek()}) == 3


@pytest.mark.parametrize(
    "catchup, within, made, missed",
    [
        ("latest", None, ["01 02:00"], 1),
        ("latest", 600.0, [], 2),
        ("all", None, ["01 01:00", "01 02:00"], 0),
        ("all", 2 * HOUR, ["01 01:00", "01 02:00"], 0),
        ("all", HOUR, ["01 02:00"], 1),
        ("none", None, [], 2),
    ],
)
async def test_what_came_due_while_the_mesh_was_stopped(catchup: Any, within: float | None, made: list[str], missed: int):
    """A mesh that is entered again catches up, by the same rules; before its first start nothing was due."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.cron("0 * * * *", box, catchup=catchup, within=within)
    await advance(10)
    async with mesh:
        await advance(30 * 60)
        assert fires(box) == []
    await advance(2 * HOUR)
    async with mesh:
        await advance(60)
        assert fires(box) == made
        assert schedule.missed == missed


async def test_making_up_for_many_does_not_hold_the_loop(caplog: pytest.LogCaptureFixture):
    """Ten thousand fires are made a turn at a time, in order, and other tasks run in between; what lies before is named."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    schedule = mesh.cron("* * * * *", box, catchup="all")
    async with mesh:
        await advance(30)
        clock.shift_wall(30 * DAY)
        await advance(1)
        assert (schedule.fired, schedule.missed) == (10_000, 0)
        assert "schedule 'box' was away for more than 10000 due times: older ones are not counted" in caplog.text
        due = [message.timestamp for message in box.peek(20_000)]
        assert len(due) == 10_000
        ids = [message.id for message in box.peek(20_000)]
        assert ids == sorted(set(ids))


async def test_a_stop_amid_making_up_counts_the_rest_as_missed():
    """Nothing is lost silently: what was about to be made up for when the mesh stopped was missed, as in a pause."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    schedule = mesh.cron("* * * * *", box, catchup="all")
    async with mesh:
        await advance(30)
        clock.shift_wall(100 * 60)
        schedule.look_again()
        assert schedule.fired == 64
        mesh.stop()
    assert (schedule.fired, schedule.missed) == (64, 36)


async def test_pause_passes_wall_times_over():
    """What comes due in a pause is neither fired nor missed, however the clock is set meanwhile."""
    clock = VirtualClock()
    mesh = Mesh("shop", clock=clock)
    box = mesh.mailbox("box")
    schedule = mesh.cron("*/10 * * * *", box, catchup="all")
    async with mesh:
        schedule.pause()
        await advance(25 * 60)
        clock.shift_wall(HOUR)
        schedule.resume()
        await advance(10 * 60)
        assert fires(box) == ["01 01:30"]
        assert schedule.missed == 0


async def test_an_interval_with_a_start_is_on_the_wall_clock():
    """Its due times are whole intervals after the start, which is the first, wherever the mesh begins."""
    mesh = Mesh("shop", clock=VirtualClock())
    early, late = mesh.mailbox("early"), mesh.mailbox("late")
    mesh.every(HOUR, early, start=datetime.datetime(2023, 12, 24, 0, 15, tzinfo=UTC))
    mesh.every(HOUR, late, start=datetime.datetime(2024, 1, 1, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=3))))
    async with mesh:
        await advance(3.5 * HOUR)
        assert fires(early) == ["01 00:15", "01 01:15", "01 02:15", "01 03:15"]
        assert fires(late) == ["01 02:00", "01 03:00"]


@pytest.mark.parametrize("early", [0.0, 4e-7], ids=["exact", "rounded"])
async def test_a_start_that_is_the_very_moment_at_which_the_mesh_starts(early: float):
    """It is the first due time, of an interval and of a cron line that names it; another run in that moment repeats nothing.

    A datetime tells microseconds, so it may be a bit before the moment that it was read at.
    """
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    await anyio.sleep(60 + early)
    start = datetime.datetime.fromtimestamp(EPOCH + 60, UTC)
    mesh.every(HOUR, box, start=start, name="every")
    mesh.every(HOUR, box, start=start, name="after", fixed_delay=True)
    mesh.cron("* * * * *", box, start=start, name="cron", catchup="none")
    mesh.cron("30 * * * *", box, start=start, name="other")
    for _ in range(2):
        async with mesh:
            await settled()
            assert sorted(m.id for m in box.peek()) == [
                f"{name}@2024-01-01T00:01:00+00:00" for name in ("after", "cron", "every")
            ]
    box.purge()
    async with mesh:
        await advance(HOUR + 1)
        assert [m.fire.scheduled for m in box.peek(100) if m.fire and m.fire.schedule == "every"] == [start.replace(hour=1)]


async def test_one_that_is_declared_while_the_mesh_runs_at_the_moment_of_its_start():
    """It fires at once."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    async with mesh:
        await anyio.sleep(5)
        mesh.every(10, box, start=datetime.datetime.fromtimestamp(EPOCH + 5, UTC))
        await advance(11)
        assert [m.fire.scheduled.second for m in box.peek() if m.fire] == [5, 15]


async def test_cron_with_a_start():
    """Nothing is fired before it."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.cron("0 * * * *", box, start=datetime.datetime(2024, 1, 1, 2, 30, tzinfo=UTC))
    async with mesh:
        assert [due.hour for due in schedule.upcoming(2)] == [3, 4]
        await advance(4.5 * HOUR)
        assert fires(box) == ["01 03:00", "01 04:00"]


async def test_jitter_delays_each_fire_and_does_not_add_up(monkeypatch: pytest.MonkeyPatch):
    """Up to so many seconds, never as late as the next; ids and due times are those without it."""
    chances = iter([0.0, 0.5, 0.9, 0.5, 0.5])
    monkeypatch.setattr("flowmesh._runtime.scheduling.random.random", lambda: next(chances))
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    schedule = mesh.every(10, box, jitter=8, catchup="none")
    async with mesh:
        await advance(41)
        shown = [
            (m.fire.scheduled.timestamp() - EPOCH, round(m.fire.fired.timestamp() - EPOCH, 2)) for m in box.peek() if m.fire
        ]
        assert schedule.missed == 0
    assert shown == [(10, 10), (20, 24), (30, 37.2)]


async def test_jitter_is_no_longer_than_the_way_to_the_next():
    """With any chance the fires come in order, each before the next one is due."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    mesh.cron("*/10 * * * *", box, jitter=10 * HOUR, catchup="none")
    async with mesh:
        await advance(10 * HOUR)
        late = [(m.fire.fired - m.fire.scheduled).total_seconds() for m in box.peek(100) if m.fire]
    assert len(late) in (59, 60)
    assert all(0 <= seconds <= 600.01 for seconds in late)
    assert len(set(late)) > 50


# What users ask


async def test_upcoming_before_during_and_after():
    """Aware, in the zone, without a pause's say; an interval counts as if the mesh started now."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    daily = mesh.cron("30 2 * * *", box, tz="Europe/Berlin", name="daily")
    often = mesh.every(60, box, name="often")
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    assert daily.next_fire is None
    assert daily.upcoming(2) == [
        datetime.datetime(2024, 1, 1, 2, 30, tzinfo=berlin),
        datetime.datetime(2024, 1, 2, 2, 30, tzinfo=berlin),
    ]
    assert str(daily.upcoming(1)[0].tzinfo) == "Europe/Berlin"
    march = datetime.datetime(2024, 3, 30, 12, tzinfo=UTC)
    assert [str(due) for due in daily.upcoming(2, after=march)] == ["2024-03-31 03:00:00+02:00", "2024-04-01 02:30:00+02:00"]
    assert len(daily.upcoming()) == 10
    await advance(7)
    assert [due.timestamp() - EPOCH for due in often.upcoming(2)] == [67, 127]
    async with mesh:
        await advance(61)
        daily.pause()
        assert [due.timestamp() - EPOCH for due in often.upcoming(2)] == [127, 187]
        after = datetime.datetime.fromtimestamp(EPOCH + 200, UTC)
        assert [due.timestamp() - EPOCH for due in often.upcoming(1, after=after)] == [247]
        assert len(daily.upcoming(3)) == 3
        daily.cancel()
        assert daily.upcoming() == []
    assert [due.timestamp() - EPOCH for due in often.upcoming(1)] == [128]


async def test_upcoming_of_a_part():
    """A Part that is in no mesh knows the due times as well."""
    part = Part("nights")

    @part.actor
    async def sweep() -> None: ...

    nightly = part.cron("0 3 * * *", sweep, tz="Asia/Tokyo")
    after = datetime.datetime(2026, 2, 27, tzinfo=UTC)
    assert [due.day for due in nightly.upcoming(3, after=after)] == [28, 1, 2]
    assert [due.hour for due in nightly.upcoming(3)] == [3, 3, 3]
    mesh = Mesh("shop", clock=VirtualClock())
    mesh.add(part)
    async with mesh:
        assert nightly.next_fire is not None
        assert nightly.next_fire.isoformat() == "2024-01-01T03:00:00+09:00" or nightly.next_fire.timestamp() > EPOCH
        await advance(DAY)
        assert nightly.fired == 1


async def test_a_part_may_be_in_another_mesh_later():
    """Its schedules go with it, and a name that was cancelled is free in both."""
    part = Part("nights")
    box = part.mailbox("box")
    hourly = part.cron("0 * * * *", box)
    for _ in range(2):
        mesh = Mesh("shop", clock=VirtualClock())
        mesh.add(part)
        async with mesh:
            await advance(HOUR)
    assert hourly.fired == 2
    hourly.cancel()
    assert part.cron("30 * * * *", box) is not hourly
