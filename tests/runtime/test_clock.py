"""The default clock: the running loop's own time, real or virtual."""

import asyncio
import time

import anyio
import pytest
import trio
import trio.testing

from flowmesh._runtime.clock import SystemClock
from flowmesh.ports import Clock
from flowmesh.testing import EPOCH, advance, run

BACKENDS = ("asyncio", "trio")


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_loop_binds_the_c_function(backend: str):
    """On a real loop `now` is a builtin of the time module, so that reading it costs no Python frame."""

    async def main() -> None:
        clock: Clock = SystemClock()
        clock.start()
        assert clock.now in (time.monotonic, time.perf_counter)
        assert abs(clock.wall() - time.time()) < 5
        first = clock.now()
        await clock.sleep(0)
        assert clock.now() >= first

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_virtual_loop_is_honoured(backend: str):
    """Under virtual time both `now` and `wall` move with the loop and with nothing else."""

    async def main() -> None:
        clock = SystemClock()
        clock.start()
        began, wall = clock.now(), clock.wall()
        assert abs(wall - time.time()) < 5
        await advance(86_400)
        assert clock.now() == began + 86_400
        assert clock.wall() == pytest.approx(wall + 86_400, abs=1e-3)

    run(main, backend=backend, start=7.0)  # pyright: ignore[reportArgumentType] - one of the two


def test_mock_clock_is_honoured():
    """MockClock, trio's own, is virtual time too."""

    async def main() -> float:
        clock = SystemClock()
        clock.start()
        began, wall = clock.now(), clock.wall()
        await clock.sleep(3600)
        assert clock.wall() - wall == pytest.approx(3600, abs=1e-3)
        return clock.now() - began

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == 3600


def test_loop_time_set_on_the_instance_is_honoured():
    """A loop whose `time` was replaced on the object itself is virtual, too."""

    async def main() -> None:
        clock = SystemClock()
        clock.start()
        assert clock.now() == 42.0

    loop = asyncio.new_event_loop()
    loop.time = lambda: 42.0
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seconds", [0, -1.0])
def test_sleep_of_no_time_is_a_checkpoint(backend: str, seconds: float):
    """A sleep of zero or less lets others run, and is where a cancellation arrives."""

    async def main() -> None:
        clock = SystemClock()
        clock.start()
        ran: list[str] = []

        async def other() -> None:
            ran.append("other")

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            while not ran:
                await clock.sleep(seconds)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await clock.sleep(seconds)
            raise AssertionError("the cancellation should have arrived")
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)


def test_start_binds_anew():
    """A clock started again on another loop reads that loop's time, and the real wall clock again."""
    clock = SystemClock()

    async def main() -> float:
        clock.start()
        await clock.sleep(10)
        return clock.now()

    assert run(main, backend="asyncio", wall=EPOCH) == 10
    assert run(main, backend="trio") == 10

    async def real() -> None:
        clock.start()
        assert clock.now is time.monotonic
        assert abs(clock.wall() - time.time()) < 5

    anyio.run(real)
