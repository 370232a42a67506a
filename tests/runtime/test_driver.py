"""The driver: the one task that carries out due timers, at the right time, with few wake-ups."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.driver import TICK, WALL_RECHECK
from flowmesh.testing import EPOCH, VirtualClock, advance, settled

pytestmark = pytest.mark.anyio


class Sleepless(VirtualClock):
    """A virtual clock that notes how long the driver means to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await super().sleep(seconds)


def _set(mesh: Mesh, due: float, action: Callable[[float], None], **options: Any) -> Any:
    return mesh._engine.ground.ledger.timers.set(due, action, **options)


async def test_it_sleeps_until_the_next_timer():
    """One sleep to the earliest due time; without timers it sleeps for ever."""
    clock = Sleepless()
    mesh, fired = Mesh("shop", clock=clock), list[float]()
    async with mesh:
        await settled()
        assert clock.sleeps == []
        _set(mesh, 50.0, fired.append)
        _set(mesh, 20.0, fired.append)
        await settled()
        assert clock.sleeps == [pytest.approx(20.0)]
        await advance(60)
        assert fired == [20.0, 50.0]
        assert clock.sleeps == [pytest.approx(20.0), pytest.approx(30.0)]


async def test_an_earlier_timer_wakes_it_a_later_one_does_not():
    """Setting a timer that is due before the driver would look wakes it; any other costs nothing."""
    clock = Sleepless()
    mesh, fired = Mesh("shop", clock=clock), list[float]()
    async with mesh:
        _set(mesh, 20.0, fired.append)
        await settled()
        _set(mesh, 30.0, fired.append)
        await settled()
        assert len(clock.sleeps) == 1
        _set(mesh, 10.0, fired.append)
        await settled()
        assert len(clock.sleeps) == 2
        await advance(40)
    assert fired == [10.0, 20.0, 30.0]


async def test_a_timer_of_the_past_is_due_now():
    """It fires at the driver's next look, at most a tick later."""
    clock = Sleepless()
    mesh, fired = Mesh("shop", clock=clock), list[float]()
    await anyio.sleep(100)
    async with mesh:
        await settled()
        _set(mesh, 5.0, fired.append)
        await advance(TICK)
        assert fired == [pytest.approx(100, abs=2 * TICK)]


async def test_a_timer_set_by_a_timer_fires_as_well():
    """What a due timer sets is seen before the driver sleeps again."""
    mesh, fired = Mesh("shop", clock=VirtualClock()), list[float]()

    def again(now: float) -> None:
        fired.append(now)
        if len(fired) < 4:
            _set(mesh, now + 1, again)

    async with mesh:
        _set(mesh, 1.0, again)
        await advance(10)
    assert fired == [pytest.approx(number, abs=4 * TICK) for number in (1, 2, 3, 4)]


async def test_a_cancelled_timer_does_not_fire():
    """Cancelling works until the moment it fires, also from another timer of the same moment."""
    mesh, fired = Mesh("shop", clock=VirtualClock()), list[str]()
    timers: list[Any] = []

    def first(now: float) -> None:
        fired.append("first")
        assert mesh._engine.ground.ledger.timers.cancel(timers[0])

    async with mesh:
        _set(mesh, 1.0, first)
        timers.append(_set(mesh, 1.0, lambda _now: fired.append("second")))
        timers.append(_set(mesh, 2.0, lambda _now: fired.append("third")))
        assert mesh._engine.ground.ledger.timers.cancel(timers[1])
        await advance(5)
    assert fired == ["first"]


class Unwatched(Sleepless):
    """A clock that does not know when its wall clock jumps, as that of a real loop."""

    def watch_jumps(self, call: Callable[[], None], /) -> Any:
        return None


async def test_wall_timers_are_looked_at_again_and_again():
    """While a timer on the wall clock is set the driver sleeps half a minute at most, so that a jump is noticed by then."""
    clock = Unwatched()
    mesh, fired = Mesh("shop", clock=clock), list[float]()
    async with mesh:
        _set(mesh, EPOCH + 1000, fired.append, on_wall=True)
        await advance(70)
        assert clock.sleeps == [WALL_RECHECK] * 3
        clock.shift_wall(930)
        await advance(WALL_RECHECK)
        assert fired == [pytest.approx(90, abs=0.01)]
        clock.sleeps.clear()
        await advance(100)
        assert clock.sleeps == []


async def test_a_clock_that_tells_its_jumps_lets_the_driver_sleep():
    """One sleep for thirty days; set forward, the clock is looked at in the same moment; set back, the timer waits on."""
    clock = Sleepless()
    mesh, fired = Mesh("shop", clock=clock), list[float]()
    month = 30 * 86_400.0
    async with mesh:
        _set(mesh, EPOCH + month, fired.append, on_wall=True)
        await settled()
        assert clock.sleeps == [month]
        await advance(10)
        clock.shift_wall(-100)
        await settled()
        await advance(month)
        assert (fired, len(clock.sleeps)) == ([], 2)
        clock.shift_wall(90)
        await advance(TICK)
        assert fired == [pytest.approx(month + 10, abs=0.01)]
    clock.shift_wall(1000)  # nobody listens any more


async def test_a_plain_loop_with_virtual_time_needs_no_second_look():
    """The default clock, too, knows that virtual wall time does not jump."""
    mesh, sleeps = Mesh("shop"), list[float]()
    clock = mesh._engine.ground.clock
    sleep = clock.sleep

    async def counted(seconds: float) -> None:
        sleeps.append(seconds)
        await sleep(seconds)

    clock.sleep = counted
    async with mesh:
        _set(mesh, clock.wall() + 86_400, lambda _now: None, on_wall=True)
        await advance(86_401)
    assert len(sleeps) < 5


async def test_many_due_at_once_let_the_others_run():
    """Ten thousand timers that are due together do not hold the loop: other tasks get their turns in between."""
    mesh = Mesh("shop", clock=VirtualClock())
    fired, turns = 0, list[int]()

    def count(now: float) -> None:
        nonlocal fired
        fired += 1

    async def other() -> None:
        await anyio.sleep(1.0)
        while fired < 10_000:
            turns.append(fired)
            await anyio.lowlevel.checkpoint()

    async with mesh, anyio.create_task_group() as group:
        for _ in range(10_000):
            _set(mesh, 1.0, count)
        group.start_soon(other)
        await advance(2)
    assert fired == 10_000
    assert len(turns) > 50


async def test_an_error_in_a_timer_is_not_lost():
    """A timer that raises is a fault of the mesh's own: it leaves `async with mesh`, it does not end the driver silently."""
    mesh = Mesh("shop", clock=VirtualClock())

    def broken(now: float) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):  # noqa: PT012 - the mesh raises it when it is left
        async with mesh:
            _set(mesh, 1.0, broken)
            await anyio.sleep_forever()
    async with mesh:
        pass


async def test_a_jump_of_the_wall_clock_is_noticed_once():
    """More than a second, ahead or back, since the driver looked last: it says so before it carries out what is due by then."""
    clock = VirtualClock()
    mesh, seen = Mesh("shop", clock=clock), list[str]()
    async with mesh:
        await settled()
        mesh._engine.driver.on_wall_set = lambda: seen.append("set")
        _set(mesh, EPOCH + 100, lambda now: seen.append("due"), on_wall=True)
        await settled()
        for seconds in (0.9, -0.9, -3600, 7200):
            clock.shift_wall(seconds)
            await settled()
        await advance(10)
    assert seen == ["set", "set", "due"]
