"""Parking: a wake-up wakes one parked task once; early, late and doubled ones do nothing; cancellation leaves nobody behind."""

import gc
import threading
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from flowmesh._runtime.parking import Parking, Waiter, parking_here
from flowmesh.testing import BACKENDS, Swept, cancel_sweep, run, settled
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio


class Sleeper:
    """A task that parks, and what became of it: parked, woken or cancelled."""

    def __init__(self, parking: Parking) -> None:
        self.parking = parking
        self.waiter = Waiter()
        self.scope = anyio.CancelScope()
        self.state = "not started"

    async def sleep(self, times: int = 1) -> None:
        """Park so many times."""
        self.state = "parked"
        with self.scope:
            for _ in range(times):
                await self.parking.park(self.waiter)
            self.state = "woken"
        if self.scope.cancelled_caught:
            self.state = "cancelled"


async def test_wake():
    """A parked task goes on once it is woken, and not before."""
    sleeper = Sleeper(parking_here())
    async with anyio.create_task_group() as group:
        group.start_soon(sleeper.sleep)
        await settled()
        assert sleeper.state == "parked"
        sleeper.parking.wake(sleeper.waiter)
        assert sleeper.state == "parked"  # not in the caller's own step
        await settled()
        assert sleeper.state == "woken"


async def test_wake_before_park_is_not_kept():
    """A wake-up carries nothing: one that comes before the task parks does not count."""
    sleeper = Sleeper(parking_here())
    sleeper.parking.wake(sleeper.waiter)
    async with anyio.create_task_group() as group:
        group.start_soon(sleeper.sleep)
        await settled()
        assert sleeper.state == "parked"
        sleeper.parking.wake(sleeper.waiter)


async def test_wake_twice_wakes_once():
    """Two wake-ups before the task has run are one; it can park again on the same waiter, and sleeps."""
    sleeper = Sleeper(parking_here())
    async with anyio.create_task_group() as group:
        group.start_soon(sleeper.sleep, 2)
        await settled()
        sleeper.parking.wake(sleeper.waiter)
        sleeper.parking.wake(sleeper.waiter)
        await settled()
        assert sleeper.state == "parked"
        sleeper.parking.wake(sleeper.waiter)
        await settled()
        assert sleeper.state == "woken"
        sleeper.parking.wake(sleeper.waiter)  # nobody is there any more


async def test_wake_after_cancel():
    """A wake-up for a task that was cancelled, in the same tick or later, does nothing; the task is cancelled."""
    for later in (False, True):
        sleeper = Sleeper(parking_here())
        async with anyio.create_task_group() as group:
            group.start_soon(sleeper.sleep)
            await settled()
            sleeper.scope.cancel()
            if later:
                await settled()
            sleeper.parking.wake(sleeper.waiter)
            await settled()
            assert sleeper.state == "cancelled"
            sleeper.parking.wake(sleeper.waiter)


async def test_cancel_after_wake_in_the_same_tick():
    """A task that was woken before it was cancelled goes on as woken; the cancellation finds it at its next suspension."""
    parking = parking_here()
    for next_suspension in ("park", "checkpoint"):
        waiter, scope, steps = Waiter(), anyio.CancelScope(), list[str]()

        async def sleep(
            waiter: Waiter = waiter,
            scope: anyio.CancelScope = scope,
            steps: list[str] = steps,
            then: str = next_suspension,
        ) -> None:
            with scope:
                await parking.park(waiter)
                steps.append("woken")
                await (parking.park(waiter) if then == "park" else parking.checkpoint())
                steps.append("not cancelled")

        async with anyio.create_task_group() as group:
            group.start_soon(sleep)
            await settled()
            parking.wake(waiter)
            scope.cancel()
            await settled()
            assert steps == ["woken"]
            assert scope.cancelled_caught
            parking.wake(waiter)


async def test_cancelled_before_it_parks():
    """Parking in a cancelled scope is cancelled at once; the waiter is free, and a wake-up for it does nothing."""
    parking, waiter = parking_here(), Waiter()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await parking.park(waiter)
    assert scope.cancelled_caught
    parking.wake(waiter)
    async with anyio.create_task_group() as group:
        sleeper = Sleeper(parking)
        sleeper.waiter = waiter
        group.start_soon(sleeper.sleep)
        await settled()
        parking.wake(waiter)
        await settled()
        assert sleeper.state == "woken"


async def test_wake_where_nobody_is_any_more():
    """A wake-up for a waiter that its task was cancelled away from leaves that task alone, wherever it is parked now."""
    parking, old, new, steps = parking_here(), Waiter(), Waiter(), list[str]()

    async def sleep() -> None:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel, scope)
            await parking.park(old)
        steps.append("moved on")
        await parking.park(new)
        steps.append("woken")

    async def cancel(scope: anyio.CancelScope) -> None:
        await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(sleep)
        await settled()
        parking.wake(old)
        parking.wake_all([old])
        await settled()
        assert steps == ["moved on"]
        parking.wake(new)
        await settled()
        assert steps == ["moved on", "woken"]


async def test_wake_all():
    """Each of those that are parked is woken, once; those that are not are passed over."""
    parking = parking_here()
    sleepers = [Sleeper(parking) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for sleeper in sleepers[:2]:
            group.start_soon(sleeper.sleep)
        await settled()
        parking.wake(sleepers[0].waiter)
        parking.wake_all([sleeper.waiter for sleeper in sleepers])
        await settled()
        assert [sleeper.state for sleeper in sleepers] == ["woken", "woken", "not started"]
        parking.wake_all([sleeper.waiter for sleeper in sleepers])


async def test_wake_all_of_those_that_park_among_others():
    """They go on, each in its own context, beside those that park by themselves; those that were cancelled have left."""
    parking, scope, variable = parking_here(), anyio.CancelScope(), ContextVar("variable", default=-1)
    waiters, woken = [Waiter() for _ in range(4)], list[int]()

    async def sleep(number: int) -> None:
        variable.set(number)
        with scope if number == 0 else anyio.CancelScope():
            await (parking.park(waiters[number]) if number == 1 else parking.park_among(waiters[number]))
            woken.append(variable.get())

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(sleep, number)
        await settled()
        scope.cancel()
        await settled()
        assert scope.cancelled_caught
        parking.wake(waiters[2])
        parking.wake_all(waiters)
        parking.wake_all(waiters)
        assert woken == []
        await settled()
        assert sorted(woken) == [1, 2, 3]


async def test_a_task_that_is_cancelled_while_it_goes_on_among_others():
    """It may be cancelled although it was woken; its neighbours are not."""
    parking, outcomes = parking_here(), list[str]()
    waiters, scopes = [Waiter() for _ in range(3)], [anyio.CancelScope() for _ in range(3)]

    async def sleep(number: int) -> None:
        with scopes[number]:
            await parking.park_among(waiters[number])
            outcomes.append(f"{number} woken")
            await anyio.lowlevel.checkpoint()
            outcomes.append(f"{number} went on")

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(sleep, number)
        await settled()
        parking.wake_all(waiters)
        scopes[1].cancel()
        await settled()
    assert scopes[1].cancelled_caught
    assert "1 went on" not in outcomes
    assert {"0 went on", "2 went on"} < set(outcomes)


async def test_each_waiter_its_own():
    """Waking one parked task leaves the others parked."""
    parking = parking_here()
    sleepers = [Sleeper(parking) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for sleeper in sleepers:
            group.start_soon(sleeper.sleep)
        await settled()
        parking.wake(sleepers[1].waiter)
        await settled()
        assert [sleeper.state for sleeper in sleepers] == ["parked", "woken", "parked"]
        group.cancel_scope.cancel()


async def test_cancelled_at_every_suspension():
    """Cancelled while parked or just woken, a task leaves a waiter that can be parked on and woken again."""
    parking = parking_here()
    waiter = Waiter()
    async with anyio.create_task_group() as group:

        async def sleep() -> None:
            group.start_soon(wake)
            await parking.park(waiter)
            await parking.checkpoint()

        async def wake() -> None:
            await parking.checkpoint()
            parking.wake(waiter)

        async def check(swept: Swept[None]) -> None:
            await settled()
            parking.wake(waiter)
            sleeper = Sleeper(parking)
            sleeper.waiter = waiter
            group.start_soon(sleeper.sleep)
            await settled()
            assert sleeper.state == "parked"
            parking.wake(waiter)
            await settled()
            assert sleeper.state == "woken"

        assert await cancel_sweep(sleep, check) == 2


async def test_checkpoint_lets_others_run():
    """A checkpoint gives every other ready task a turn, and can be cancelled."""
    parking, turns = parking_here(), list[str]()

    async def loop(name: str) -> None:
        for _ in range(3):
            turns.append(name)
            await parking.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(loop, "a")
        group.start_soon(loop, "b")
    assert sorted(turns[:2]) == sorted(turns[2:4]) == ["a", "b"]
    with anyio.CancelScope() as scope:
        scope.cancel()
        await parking.checkpoint()
        await parking.checkpoint()
    assert scope.cancelled_caught


async def test_call_soon_from_anywhere():
    """call_soon runs the call in the loop's own thread, soon, whichever thread it comes from, and never in place."""
    parking, threads = parking_here(), list[int]()
    called = anyio.Event()

    def call() -> None:
        threads.append(threading.get_ident())
        if len(threads) == 2:
            called.set()

    parking.call_soon(call)
    assert threads == []
    await anyio.to_thread.run_sync(parking.call_soon, call)
    await called.wait()
    assert threads == [threading.get_ident()] * 2


async def test_call_next():
    """call_next calls in the loop's own thread, in order, soon and never in place; what is called may say it again."""
    parking, called, over = parking_here(), list[str](), anyio.Event()

    def first() -> None:
        called.append("first")
        parking.call_next(over.set)

    parking.call_next(first)
    parking.call_next(lambda: called.append("second"))
    assert called == []
    await over.wait()
    assert called == ["first", "second"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_call_soon_after_the_loop_has_ended(backend: Backend):
    """A finalizer that runs when the loop is gone tells nobody, and breaks nothing."""

    async def main() -> Parking:
        await anyio.lowlevel.checkpoint()
        return parking_here()

    parking = run(main, backend=backend)
    called: list[bool] = []
    parking.call_soon(lambda: called.append(True))
    gc.collect()
    assert called == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_running_tells_of_the_loop(backend: Backend):
    """It is true as long as the loop runs, and false afterwards, from any thread."""

    async def main() -> Parking:
        parking = parking_here()
        assert parking.is_running()
        assert await anyio.to_thread.run_sync(parking.is_running)
        return parking

    assert not run(main, backend=backend).is_running()
