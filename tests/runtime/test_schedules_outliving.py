"""Schedules with a store: every due time once, across kills, clean stops, absences and clocks that are set."""

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmesh import Context, Mesh
from flowmesh._runtime.scheduling import Schedule
from flowmesh.stores import MemoryStore
from flowmesh.testing import BACKENDS, EPOCH, VirtualClock, advance, settled
from flowmesh.testing import run as run_in_virtual_time
from tests.runtime.outliving import DyingStore, FullStore, Killed, killed

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600.0, 86_400.0
YEAR = 365 * DAY

Declare = Callable[[Mesh, Any], Schedule]


def dues(box: Any) -> list[float]:
    """When the messages in a mailbox were due, in seconds after the epoch of the tests."""
    return [message.fire.scheduled.timestamp() - EPOCH for message in box.peek(100_000)]


class Process:
    """One process after another, each with the same declarations and what the one before has left in the store."""

    def __init__(self, declare: Declare) -> None:
        self.store = MemoryStore()
        self.clock = VirtualClock()
        self.declare = declare

    async def live(
        self, seconds: float, *, ends: str = "killed", body: Callable[[Mesh, Any, Schedule], Awaitable[None]] | None = None
    ) -> list[float]:
        """Live for so long, then be killed or stop; return the due times of all fires that have entered so far."""
        mesh = Mesh("shop", clock=self.clock, store=self.store, grace=0)
        box = mesh.mailbox("box")
        schedule = self.declare(mesh, box)
        found: list[float] = []
        store = self.store
        try:
            async with mesh:
                await advance(seconds)
                if body is not None:
                    await body(mesh, box, schedule)
                found = dues(box)
                if ends == "killed":
                    self.store = killed(store)
                    raise Killed
        except Killed:
            pass
        return found


def every(seconds: float, **options: Any) -> Declare:
    """Declare an interval."""
    return lambda mesh, box: mesh.every(seconds, box, name="beat", **options)


def cron(line: str, **options: Any) -> Declare:
    """Declare a cron line."""
    return lambda mesh, box: mesh.cron(line, box, name="beat", **options)


ENDS = pytest.mark.parametrize("ends", ["killed", "stopped"])


@ENDS
async def test_a_plain_interval_goes_on_where_it_was(ends: str):
    """With a store its due times stay whole intervals after its first start, in the next process as well."""
    process = Process(every(10))
    assert await process.live(25, ends=ends) == [10, 20]
    assert await process.live(8, ends=ends) == [10, 20, 30]
    await advance(2.5)
    assert await process.live(16, ends=ends) == [10, 20, 30, 40, 50]


@ENDS
@pytest.mark.parametrize("declare, seconds", [(every(10), 10), (cron("* * * * *"), 60)], ids=["interval", "cron"])
async def test_what_came_due_while_nobody_was_there_is_caught_up_with(ends: str, declare: Declare, seconds: int):
    """The last of it by default; `ctx.fire.missed` tells how many there were before it."""
    process = Process(declare)
    await process.live(65, ends=ends)
    missed: list[int] = []

    async def look(_mesh: Mesh, box: Any, _schedule: Schedule) -> None:
        missed.extend(message.fire.missed for message in box.peek(100))

    await advance(600)
    found = await process.live(0, ends=ends, body=look)
    assert found == [*range(seconds, 66, seconds), 660]
    assert missed == [0] * (len(found) - 1) + [660 // seconds - len(found)]


@ENDS
@pytest.mark.parametrize(
    "catchup, within, expected",
    [("all", None, [*range(10, 101, 10)]), ("all", 25, [10, 80, 90, 100]), ("latest", 2, [10]), ("none", None, [10])],
)
async def test_catchup_says_what_is_made_up_for(ends: str, catchup: str, within: float | None, expected: list[float]):
    """For the time that no process was there as for any other; `within=` says how old it may be."""
    process = Process(every(10, catchup=catchup, within=within))
    await process.live(15, ends=ends)
    await advance(88)
    assert await process.live(1, ends=ends) == expected


@pytest.mark.parametrize("ends", ["killed", "stopped"])
@pytest.mark.parametrize("fixed_delay", [False, True])
async def test_a_start_in_the_moment_of_two_processes_is_fired_once(ends: str, fixed_delay: bool):
    """The second one starts in the moment that `start=` names, too, and finds that it has been dealt with."""
    start = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC)

    def declare(mesh: Mesh, box: Any) -> Schedule:
        return mesh.every(HOUR, box, start=start, fixed_delay=fixed_delay)

    process = Process(declare)
    assert await process.live(0, ends=ends) == [0]
    assert await process.live(0, ends=ends) == [0]
    assert await process.live(0, ends=ends) == [0]


async def test_a_start_that_was_fired_is_not_fired_again_with_another_rule():
    """The schedule begins anew in that very moment, but a due time is entered once."""
    start = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC)
    process = Process(lambda mesh, box: mesh.every(HOUR, box, start=start, name="tick"))
    assert await process.live(0) == [0]
    process.declare = lambda mesh, box: mesh.every(HOUR / 2, box, start=start, name="tick")
    assert await process.live(0) == [0]
    assert await process.live(HOUR) == [0, HOUR / 2, HOUR]


async def test_what_was_missed_is_told_by_the_first_fire_after_it():
    """Also if the process that missed it is gone by then."""
    process = Process(every(10, catchup="none"))
    await process.live(15)
    await advance(50)
    await process.live(1)
    messages: list[Any] = []

    async def look(_mesh: Mesh, box: Any, _schedule: Schedule) -> None:
        messages.extend(box.peek())

    await process.live(5, body=look)
    assert [message.fire.missed for message in messages] == [0, 5]


async def test_a_schedule_owes_what_came_due_after_its_first_start():
    """Even if it had never fired when its process was killed."""
    process = Process(cron("0 * * * *"))
    assert await process.live(1) == []
    await advance(HOUR)
    assert await process.live(0) == [HOUR]


async def test_one_that_is_new_owes_nothing():
    """What was due before it was declared for the first time is nobody's."""
    process = Process(every(10))
    await process.live(100)
    process.declare = lambda mesh, box: mesh.cron("* * * * *", box, name="other", catchup="all")
    assert len(await process.live(1)) == 10


async def test_another_rule_begins_anew():
    """A schedule of the same name with another rule owes nothing of the old one."""
    process = Process(every(10))
    await process.live(15)
    await advance(100)
    process.declare = every(20)
    assert await process.live(25) == [10, 135]


async def test_one_that_nothing_declares_any_more_is_kept():
    """It is no error, and goes on when it is declared again."""
    process = Process(every(10))
    await process.live(15)
    process.declare = lambda mesh, box: mesh.every(1000, box, name="other")
    await process.live(20)
    process.declare = every(10, catchup="all")
    assert await process.live(10) == [10, 20, 30, 40]


async def test_a_cancelled_one_is_forgotten():
    """Declared again, it is a new one."""

    async def cancel(_mesh: Mesh, _box: Any, schedule: Schedule) -> None:
        schedule.cancel()
        await settled()

    process = Process(every(10))
    await process.live(15, body=cancel)
    await advance(50)
    assert await process.live(12) == [10, 75]


@ENDS
async def test_a_pause_outlives_the_process(ends: str):
    """It is paused until somebody says otherwise; what is due meanwhile is passed over."""

    async def pause(_mesh: Mesh, _box: Any, schedule: Schedule) -> None:
        schedule.pause()
        await settled()

    async def resume(_mesh: Mesh, _box: Any, schedule: Schedule) -> None:
        assert schedule.is_paused
        assert schedule.next_fire is None
        schedule.resume()
        await settled()

    process = Process(every(10, catchup="all"))
    await process.live(15, ends=ends, body=pause)
    await advance(20)
    assert await process.live(10, ends=ends, body=resume) == [10]
    assert await process.live(10, ends=ends) == [10, 50]


async def test_what_is_said_before_the_start_stands():
    """A pause or its end that the program asks for goes before what the store knows; what was due is passed over."""

    async def pause(_mesh: Mesh, _box: Any, schedule: Schedule) -> None:
        schedule.pause()
        await settled()

    def declare(mesh: Mesh, box: Any) -> Schedule:
        schedule = mesh.every(10, box, name="beat", catchup="all")
        schedule.resume()
        return schedule

    process = Process(every(10, catchup="all"))
    await process.live(15, body=pause)
    await advance(20)
    process.declare = declare
    assert await process.live(10) == [10, 40]


async def test_a_trigger_is_remembered_like_a_due_time():
    """It moves no due time, and its id is made once."""

    async def trigger(_mesh: Mesh, _box: Any, schedule: Schedule) -> None:
        assert schedule.trigger_now()
        await settled()

    process = Process(every(10))
    await process.live(15, body=trigger)
    process.clock.shift_wall(-1)
    found = await process.live(0, body=trigger)
    assert found[:2] == [10, 15]
    assert len(set(found)) == 3
    process.clock.shift_wall(1)
    assert await process.live(6, ends="stopped") == [*found, pytest.approx(20, abs=1e-3)]


async def test_the_advance_is_stored_without_a_durable_mailbox():
    """What goes into a mailbox in memory, or nowhere, is dealt with all the same."""

    def declare(mesh: Mesh, _box: Any) -> Schedule:
        return mesh.every(10, mesh.exchange("nowhere", "fanout"), name="beat", catchup="all")

    process = Process(declare)
    counts: list[int] = []

    async def look(_mesh: Mesh, _box: Any, schedule: Schedule) -> None:
        counts.append(schedule.fired)

    await process.live(25, body=look)
    await advance(10)
    await process.live(6, body=look)
    assert counts == [2, 2]


@ENDS
async def test_fires_that_wait_for_the_one_before_are_kept(ends: str):
    """With `overlap="queue"` what waited when the process ended is made by the next one, each once."""
    store, clock = MemoryStore(), VirtualClock()
    seen: list[float] = []
    for seconds, takes in ((45.0, 1000.0), (26.0, 0.0)):
        mesh = Mesh("shop", clock=clock, store=store, grace=0)

        @mesh.actor
        async def work(_: None, ctx: Context, takes: float = takes) -> None:
            assert ctx.fire is not None
            await anyio.sleep(takes)
            seen.append(ctx.fire.scheduled.timestamp() - EPOCH)

        mesh.every(10, work, overlap="queue", catchup="all", name="beat")
        try:
            async with mesh:
                await advance(seconds)
                if ends == "killed":
                    store = killed(store)
                    raise Killed
        except Killed:
            pass
    assert seen == [10, 20, 30, 40, 50, 60, 70]


@pytest.mark.parametrize("jump", [-1.0, -HOUR, -YEAR])
async def test_a_plain_interval_and_a_clock_set_back_between_runs(jump: float):
    """It goes on as if no time had passed since its last fire, at the latest; no id is made twice."""
    process = Process(every(10))
    await process.live(25)
    process.clock.shift_wall(jump)
    assert await process.live(5.5 if jump == -1 else 9.5) == [10, 20]
    assert await process.live(1) == [10, 20, 30] if jump == -1 else [10, 20]


@pytest.mark.parametrize("jump", [-1.0, -HOUR, -YEAR])
async def test_a_cron_line_and_a_clock_set_back_between_runs(jump: float):
    """No due time comes twice; set back to before it began, it goes on from there."""
    process = Process(cron("* * * * *"))
    before = await process.live(150)
    process.clock.shift_wall(jump)
    after = (await process.live(120))[len(before) :]
    assert before == [60, 120]
    if jump == -1:
        assert after == [180, 240]
    else:
        assert after == [150 + jump + 30, 150 + jump + 90]


@pytest.mark.parametrize("jump", [1.0, HOUR, YEAR])
@pytest.mark.parametrize("declare", [every(60), cron("* * * * *")], ids=["interval", "cron"])
async def test_a_clock_that_is_set_ahead_between_runs(jump: float, declare: Declare):
    """It looks like an absence: what it has jumped over is caught up with."""
    process = Process(declare)
    await process.live(90)
    process.clock.shift_wall(jump)
    found = await process.live(0)
    assert found == ([60] if jump == 1.0 else [60, (90 + jump) // 60 * 60])


async def test_one_after_the_one_before_goes_on_with_its_delay():
    """`fixed_delay=True`: a due time that was set is kept; past, it is fired at once, and only once."""
    store, clock, seen = MemoryStore(), VirtualClock(), list[float]()
    for seconds, away in ((14.0, 0.0), (5.0, 30.0), (9.0, 0.0), (3.5, 0.0)):
        mesh = Mesh("shop", clock=clock, store=store, grace=0)

        @mesh.actor
        async def work() -> None:
            seen.append(anyio.current_time())
            await anyio.sleep(2)

        mesh.every(10, work, fixed_delay=True, name="beat")
        try:
            async with mesh:
                await advance(seconds)
                store = killed(store)
                raise Killed
        except Killed:
            pass
        await advance(away)
    assert seen == [10, 49, 61]


@pytest.mark.parametrize(
    "catchup, expected", [("latest", [30, 40]), ("all", [10, 20, 30, 40]), ("none", [40])], ids=["latest", "all", "none"]
)
async def test_a_fire_that_finds_the_store_full_is_made_when_there_is_room(catchup: Any, expected: list[float]):
    """Of those that could not be stored, what `catchup=` makes up for; the others are missed."""
    store = FullStore()
    mesh = Mesh("shop", clock=VirtualClock(), store=store)
    box = mesh.mailbox("box")
    schedule = mesh.every(10, box, name="beat", catchup=catchup)
    async with mesh:
        await settled()
        store.is_full = True
        await advance(35)
        assert dues(box) == []
        store.is_full = False
        await advance(6)
        assert dues(box) == expected
        assert schedule.fired == len(expected)
        assert schedule.missed == 4 - len(expected) == sum(message.fire.missed for message in box.peek() if message.fire)


STEPS = st.lists(
    st.tuples(
        st.floats(0, 40).map(lambda seconds: round(seconds, 1)),  # it lives so long, if it is not killed earlier
        st.sampled_from(["stopped", "killed", *range(4, 9)]),  # how it ends: a number: killed at that batch
        st.sampled_from([0.0, 0.0, 3.0, 10.0, 47.0]),  # how long nobody is there
        st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, -1.0, HOUR, -HOUR]),  # how the clock is set meanwhile
    ),
    max_size=6,
)
RULES = st.sampled_from([(10.0, 10.0), ("* * * * *", 60.0)])


async def _live_through(rule: float | str, steps: list[tuple[float, Any, float, float]], **options: Any) -> list[Any]:
    """Live through these steps; return the fires that have entered."""
    store, clock = MemoryStore(), VirtualClock()
    fires: list[Any] = []
    for seconds, ends, away, jump in [*steps, (1.0, "stopped", 0.0, 0.0)]:
        dying = DyingStore(store, ends if isinstance(ends, int) else -1)
        mesh = Mesh("shop", clock=clock, store=dying, grace=0)
        box = mesh.mailbox("box")
        if isinstance(rule, str):
            mesh.cron(rule, box, name="beat", **options)
        else:
            mesh.every(rule, box, name="beat", **options)
        dead = anyio.Event()
        dying.on_death = dead.set
        fires = []
        try:
            async with mesh:
                with anyio.move_on_after(seconds):
                    await dead.wait()
                if ends == "killed" and dying.survivor is None:
                    dying.survivor = killed(dying)
                if dying.survivor is not None:
                    raise Killed
                await settled()
                fires = [message.fire for message in box.peek(100_000)]
        except Killed:
            pass
        store = MemoryStore()
        store._rows = (dying.survivor or dying)._rows
        await anyio.sleep(away)
        clock.shift_wall(jump)
    return fires


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(rule=RULES, steps=STEPS)
def test_every_due_time_is_entered_once_whenever_the_process_is_killed(
    backend: Any, rule: tuple[Any, float], steps: list[tuple[float, Any, float, float]]
) -> None:
    """With `catchup="all"` each due time from the first start on is entered, and entered once."""
    line, seconds = rule
    steps = [(lived, ends, away, 0.0) for lived, ends, away, _ in steps]
    fires = run_in_virtual_time(lambda: _live_through(line, steps, catchup="all"), backend=backend)
    found = sorted(fire.scheduled.timestamp() - EPOCH for fire in fires)
    assert found == [number * seconds for number in range(1, len(found) + 1)] or not steps
    assert sum(fire.missed for fire in fires) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(rule=RULES, steps=STEPS)
def test_each_is_entered_or_told_of_as_missed(
    backend: Any, rule: tuple[Any, float], steps: list[tuple[float, Any, float, float]]
) -> None:
    """With `catchup="latest"` the fires that have entered and those that they tell of as missed are all that there were."""
    line, seconds = rule
    steps = [(lived, ends, away, 0.0) for lived, ends, away, _ in steps]
    fires = run_in_virtual_time(lambda: _live_through(line, steps), backend=backend)
    told = 0
    for fire in fires:
        told += 1 + fire.missed
        assert fire.scheduled.timestamp() - EPOCH == told * seconds


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(rule=RULES, steps=STEPS, catchup=st.sampled_from(["latest", "all", "none"]))
def test_no_due_time_is_entered_twice_however_the_clock_is_set(
    backend: Any, rule: tuple[Any, float], steps: list[tuple[float, Any, float, float]], catchup: str
) -> None:
    """Kills, stops, absences and jumps of the clock between the runs: an id is made once."""
    fires = run_in_virtual_time(lambda: _live_through(rule[0], steps, catchup=catchup, within=None), backend=backend)
    found = [fire.scheduled for fire in fires]
    assert len(found) == len(set(found))
    assert all(isinstance(due, datetime.datetime) for due in found)
