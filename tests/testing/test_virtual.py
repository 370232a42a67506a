"""Virtual time: how it jumps, what it waits for, and what it says when nothing can ever happen."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing

from flowmesh.ports import Clock
from flowmesh.testing import BACKENDS, EPOCH, VirtualClock, advance, run, settled, virtual_backend
from flowmesh.testing.virtual import Backend

MONTH = 30 * 86_400.0


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn, for tests that start their own loop."""
    return request.param


def quick(test: Callable[[], Any]) -> Any:
    """Run it, and fail if it took a second of processor time: it spun instead of jumping."""
    began = time.process_time()
    result = test()
    assert time.process_time() - began < 1.0
    return result


@pytest.mark.anyio
class TestUnderThePlugin:
    """Tests that anyio's plugin runs, with the fixture as the documentation gives it."""

    @pytest.fixture(params=BACKENDS)
    def anyio_backend(self, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
        """Virtual time, fresh for each test."""
        return virtual_backend(request.param)

    async def test_sleep_jumps(self):
        """A month passes at once, and every test begins at zero."""
        assert anyio.current_time() == 0
        await anyio.sleep(MONTH)
        assert anyio.current_time() == MONTH

    async def test_time_begins_anew(self):
        """The test before this one left no time behind."""
        assert anyio.current_time() == 0
        await anyio.sleep(1)

    @pytest.fixture
    async def after_an_hour(self) -> float:
        """An async fixture; it runs in the same virtual time as its test."""
        await anyio.sleep(3600)
        return anyio.current_time()

    async def test_async_fixture(self, after_an_hour: float):
        """Between a fixture and its test nothing moves, and that pause is no standstill."""
        assert after_an_hour == anyio.current_time() == 3600
        await advance(1)
        assert anyio.current_time() == 3601

    async def test_threads(self):
        """Worker threads deliver their results; time waits for them."""
        with anyio.move_on_after(1.0) as scope:
            assert await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
        assert not scope.cancelled_caught
        assert anyio.current_time() == 0


class TestOrder:
    def test_timers_fire_in_order_at_their_exact_times(self, backend: Backend):
        """Sleepers wake in the order of their due times, each at its own moment, wherever time began."""

        async def main() -> list[float]:
            woken: list[float] = []

            async def sleeper(moment: float) -> None:
                await anyio.sleep_until(moment)
                assert anyio.current_time() == moment
                woken.append(moment)

            async with anyio.create_task_group() as group:
                for moment in (5000.3, 1000.1, MONTH, 1000.7, 4000.0):
                    group.start_soon(sleeper, moment)
            return woken

        assert run(main, backend=backend, start=1000.0) == [1000.1, 1000.7, 4000.0, 5000.3, MONTH]

    def test_jumps_are_exact(self, backend: Backend):
        """Time is the due time itself, not the sum of rounded differences."""
        chance = random.Random(1)
        moments = [chance.uniform(0, MONTH) for _ in range(300)]

        async def main() -> list[tuple[float, float]]:
            missed: list[tuple[float, float]] = []

            async def sleeper(moment: float) -> None:
                await anyio.sleep_until(moment)
                if anyio.current_time() != moment:
                    missed.append((moment, anyio.current_time()))

            async with anyio.create_task_group() as group:
                for moment in moments:
                    group.start_soon(sleeper, moment)
            return missed

        assert run(main, backend=backend) == []

    def test_timer_set_on_the_way_is_not_skipped(self, backend: Backend):
        """A timer that a woken task sets before the next due time comes first."""

        async def main() -> list[str]:
            seen: list[str] = []

            async def twice() -> None:
                await anyio.sleep(1)
                await anyio.sleep(1)
                seen.append("2")

            async def once() -> None:
                await anyio.sleep(3)
                seen.append("3")

            async with anyio.create_task_group() as group:
                group.start_soon(once)
                group.start_soon(twice)
            return seen

        assert run(main, backend=backend) == ["2", "3"]

    def test_cancelled_timers_do_not_move_time(self, backend: Backend):
        """A time limit that was not needed is no reason to jump."""

        async def main() -> float:
            for _ in range(200):
                with anyio.fail_after(MONTH):
                    await anyio.lowlevel.checkpoint()
            await anyio.sleep(1)
            return anyio.current_time()

        assert run(main, backend=backend) == 1

    def test_many_jumps_cost_little(self, backend: Backend):
        """A thousand jumps are no matter of real time."""

        async def main() -> float:
            for _ in range(1000):
                await anyio.sleep(60)
            return anyio.current_time()

        assert quick(lambda: run(main, backend=backend)) == 60_000

    def test_time_limits_are_virtual(self, backend: Backend):
        """A limit of hours ends a wait of days at once."""

        async def main() -> float:
            with pytest.raises(TimeoutError), anyio.fail_after(7200):
                await anyio.sleep(MONTH)
            return anyio.current_time()

        assert run(main, backend=backend) == 7200

    def test_shielded_sleep_in_a_cancelled_group(self, backend: Backend):
        """A cancelled group that waits for a shielded sleeper does not keep time from moving."""

        async def main() -> float:
            async def stubborn() -> None:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(5)

            async with anyio.create_task_group() as group:
                group.start_soon(stubborn)
                await settled()
                group.cancel_scope.cancel()
            return anyio.current_time()

        assert quick(lambda: run(main, backend=backend)) == 5


class TestOutside:
    def test_no_jump_while_a_thread_works(self, backend: Backend):
        """A timer does not overtake a thread, with whatever limiter the thread was started."""

        async def main() -> str:
            limiter = anyio.CapacityLimiter(3)
            with anyio.move_on_after(1):
                return await anyio.to_thread.run_sync(_work, limiter=limiter, abandon_on_cancel=True)
            return "overtaken"

        assert run(main, backend=backend, patience=30) == "worked"

    def test_blocked_thread_is_overtaken_after_patience(self, backend: Backend):
        """A thread that waits for the loop holds time no longer than `patience`."""

        async def main() -> float:
            gate = threading.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, gate.wait)
                await anyio.sleep(60)
                gate.set()
            return anyio.current_time()

        assert run(main, backend=backend, patience=0.01) == 60

    def test_advance_without_autojump_overtakes_threads(self, backend: Backend):
        """A test that moves time itself is not held up by a thread."""

        async def main() -> float:
            gate = threading.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, gate.wait)
                await advance(60)
                gate.set()
            return anyio.current_time()

        assert run(main, backend=backend, autojump=False, patience=60) == 60

    def test_thread_calls_back(self, backend: Backend):
        """A call from a worker thread into the loop is served, sleeps included."""

        async def main() -> float:
            await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 60)
            return anyio.current_time()

        assert run(main, backend=backend, patience=0.01) == 60

    def test_foreign_thread_wakes_the_loop(self, backend: Backend):
        """Time without timers is no standstill while a thread of the application's own may still call in."""

        async def main() -> str:
            done = anyio.Event()
            async with anyio.from_thread.BlockingPortal() as portal:
                thread = threading.Thread(target=lambda: portal.call(done.set))
                thread.start()
                await done.wait()
                await anyio.to_thread.run_sync(thread.join)
                await portal.stop()
            return "called"

        assert run(main, backend=backend, patience=30) == "called"

    @pytest.mark.parametrize("seconds", [0.02, 0.15])
    def test_waiting_for_a_peer_is_no_standstill(self, backend: Backend, seconds: float):
        """Without timers, whoever waits for I/O is waited for, however long and whatever `patience` says."""

        async def main() -> bytes:
            near, far = socket.socketpair()
            with far:
                async with await anyio.abc.SocketStream.from_socket(near) as stream:
                    peer = threading.Timer(seconds, far.send, [b"hello"])
                    peer.start()
                    return await stream.receive()

        assert run(main, backend=backend, patience=0) == b"hello"

    def test_io_within_the_quiet_comes_before_a_jump(self, backend: Backend):
        """With some quiet asked for, a peer that answers within it is faster than any timer."""

        async def main() -> float:
            near, far = socket.socketpair()
            with far:
                async with await anyio.abc.SocketStream.from_socket(near) as stream:
                    peer = threading.Timer(0.02, far.send, [b"hello"])
                    peer.start()
                    with anyio.fail_after(1):
                        assert await stream.receive() == b"hello"
            return anyio.current_time()

        assert run(main, backend=backend, autojump=5.0) == 0

    def test_executors(self):
        """The executor of asyncio holds time as well, and shutting it down takes no virtual time."""

        async def main() -> float:
            async with asyncio.timeout(1):
                assert await asyncio.get_running_loop().run_in_executor(None, _work) == "worked"
            return asyncio.get_running_loop().time()

        assert run(main, patience=30) == 0


class TestAdvance:
    @pytest.mark.parametrize("autojump", [True, False])
    def test_runs_what_is_due_on_the_way(self, backend: Backend, autojump: bool):
        """Everything due has run, in order, when it returns; what is due later has not."""

        async def main() -> tuple[list[float], float]:
            ticks: list[float] = []

            async def ticker() -> None:
                while True:
                    await anyio.sleep(10)
                    ticks.append(anyio.current_time())

            async with anyio.create_task_group() as group:
                group.start_soon(ticker)
                await advance(35)
                group.cancel_scope.cancel()
            return ticks, anyio.current_time()

        assert run(main, backend=backend, autojump=autojump) == ([10, 20, 30], 35)

    @pytest.mark.parametrize("autojump", [True, False])
    def test_what_wakes_at_the_end_has_settled(self, backend: Backend, autojump: bool):
        """A task that wakes at the very moment has done all that it can without more time."""

        async def main() -> list[str]:
            done: list[str] = []

            async def work() -> None:
                await anyio.sleep(10)
                for step in range(5):
                    await anyio.lowlevel.checkpoint()
                    done.append(str(step))
                await anyio.sleep(1)
                done.append("too late")

            async with anyio.create_task_group() as group:
                group.start_soon(work)
                await settled()
                await advance(10)
                group.cancel_scope.cancel()
            return done

        assert run(main, backend=backend, autojump=autojump) == ["0", "1", "2", "3", "4"]

    @pytest.mark.parametrize("threshold", [0.0, float("inf")])
    def test_under_mock_clock(self, threshold: float):
        """A run under MockClock serves as well, with autojump and without."""

        async def main() -> float:
            clock = VirtualClock()
            clock.start()
            await advance(90)
            assert clock.wall() == EPOCH + 90
            return clock.now()

        assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=threshold)) == 90

    def test_does_not_go_back(self, backend: Backend):
        """Negative seconds are refused."""

        async def main() -> None:
            with pytest.raises(ValueError, match="zero or more"):
                await advance(-1)
            await advance(0)
            assert anyio.current_time() == 0

        run(main, backend=backend)

    def test_settled_moves_no_time(self, backend: Backend):
        """All others are blocked when it returns, and it is as late as before."""

        async def main() -> None:
            seen: list[int] = []

            async def work() -> None:
                for step in range(20):
                    await anyio.lowlevel.checkpoint()
                    seen.append(step)
                await anyio.sleep(1)

            async with anyio.create_task_group() as group:
                group.start_soon(work)
                group.start_soon(settled)
                await settled()
                assert len(seen) == 20
                assert anyio.current_time() == 0

        run(main, backend=backend)

    def test_settled_can_be_cancelled(self, backend: Backend):
        """A cancelled wait leaves nothing that would be woken later."""

        async def main() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await settled()
            assert scope.cancelled_caught
            await settled()

        run(main, backend=backend)


class TestClock:
    def test_wall_follows_and_shifts(self, backend: Backend):
        """The wall clock runs with virtual time, and jumps in both directions without moving it."""

        async def main() -> None:
            virtual = VirtualClock()
            clock: Clock = virtual
            clock.start()
            assert (clock.now(), clock.wall()) == (100.0, EPOCH + 5)
            await clock.sleep(10)
            assert (clock.now(), clock.wall()) == (110.0, EPOCH + 15)
            virtual.shift_wall(-3600)
            assert (clock.now(), clock.wall()) == (110.0, EPOCH + 15 - 3600)
            virtual.shift_wall(7200)
            assert clock.wall() == EPOCH + 15 + 3600
            await clock.sleep(-1)
            assert clock.now() == 110.0

        run(main, backend=backend, start=100.0, wall=EPOCH + 5)

    def test_own_wall_wins(self, backend: Backend):
        """What the clock itself is given counts more than what the loop was given."""

        async def main() -> float:
            clock = VirtualClock(wall=5.0)
            clock.start()
            return clock.wall()

        assert run(main, backend=backend, start=33.0, wall=99.0) == 5.0

    def test_real_loop_is_refused(self, backend: Backend):
        """On a loop with real time each tool says what is wrong and how to mend it."""

        async def main() -> None:
            tools: list[tuple[str, Callable[[], Awaitable[None]]]] = [("advance", lambda: advance(1)), ("settled", settled)]
            for name, tool in tools:
                with pytest.raises(RuntimeError, match=rf"{name}\(\) needs an event loop with virtual time.*virtual_backend"):
                    await tool()
            with pytest.raises(RuntimeError, match="VirtualClock needs an event loop with virtual time"):
                VirtualClock().start()

        anyio.run(main, backend=backend)

    def test_not_started(self):
        """A clock that nobody started has no time."""
        with pytest.raises(RuntimeError, match="has not been started"):
            VirtualClock().now()

    @pytest.mark.parametrize("wrong", [{"autojump": -1.0}, {"patience": -1.0}, {"backend": "curio"}])
    def test_wrong_settings(self, wrong: dict[str, Any]):
        """Settings that cannot be kept are refused where they are made, by name."""
        with pytest.raises(ValueError, match=next(iter(wrong))):
            virtual_backend(**{"backend": "trio", **wrong})


def _work() -> str:
    """Work in real time, for about as long as a jump would need to overtake."""
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass
    return "worked"


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_refuses_a_coroutine(backend: Backend):
    """A function that was called by mistake is named with the mend."""

    async def work() -> None:
        pytest.fail("never run")

    with pytest.raises(TypeError, match=r"run takes the function, not the coroutine .*: run\(work\)"):
        run(work(), backend=backend)  # pyright: ignore[reportArgumentType]


def test_time_does_not_jump_while_somebody_goes_on_from_settled():
    """Whoever waits for stillness is woken at once by trio, the task that makes time jump too: it lets the others go first.

    Found by `explore`: a wake-up through trio's token let time jump to the next timer while the test had only just settled.
    """

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, MONTH)
            for _ in range(50):
                woken = trio.Event()
                token.run_sync_soon(woken.set)
                await woken.wait()
                await settled()
                await anyio.lowlevel.checkpoint()
                assert anyio.current_time() == 0.0
            group.cancel_scope.cancel()

    run(main, backend="trio")
