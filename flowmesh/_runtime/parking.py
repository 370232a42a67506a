"""Park a task and wake it again, at the lowest cost that asyncio and trio offer.

A wake-up carries nothing: whoever is woken looks again.  A Waiter is parked at most once at a time.  Waking a waiter that is
not parked does nothing, so a late wake-up is harmless; look at the state *before* parking, the answer may be there.

    waiter = parking.waiter()
    ...                                 # put it where somebody finds it
    try:
        await parking.park(waiter)      # woken, or cancelled
    finally:
        ...                             # take it away again; on cancellation pass on a wake-up that came too late
"""

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

import trio

__all__ = ["Parkable", "Parking", "Waiter", "parking_here"]


class Waiter:
    """A place to park. `token` is the backend's; None when nobody is parked."""

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token: Any = None

    def abort(self: "Parkable", raise_cancel: object, /) -> trio.lowlevel.Abort:
        """Let trio cancel the parked task; a late wake-up then finds nobody."""
        del raise_cancel
        self.token = None
        return trio.lowlevel.Abort.SUCCEEDED


class Parkable(Protocol):
    """What can be parked on: a Waiter, or something that is one beside what else it is."""

    token: Any

    def abort(self, raise_cancel: Any, /) -> trio.lowlevel.Abort:
        """As Waiter.abort."""
        ...


class Parking(Protocol):
    """What the runtime needs from a backend that anyio does not give cheaply enough."""

    def park(self, waiter: Parkable) -> Awaitable[None]:
        """Return an awaitable, to be awaited at once by the calling task, that ends when `waiter` is woken.

        Cancellation: leaves the waiter unparked; on asyncio a wake-up may have come just before and is then lost.
        """
        ...

    def wake(self, waiter: Parkable) -> None:
        """Wake the task parked on `waiter`, if one is."""
        ...

    def checkpoint(self) -> Awaitable[None]:
        """Let the other tasks run, and be cancelled if somebody asked for it."""
        ...

    def forgive(self) -> None:
        """Forget cancellations of the running task that came from outside anyio's scopes."""
        ...

    def cancelling(self) -> Callable[[], int] | None:
        """Return what tells whether the running task has been cancelled from outside anyio's scopes; None: it cannot be."""
        ...

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make the loop call this soon; may be used from any thread, and from a finalizer at any moment."""
        ...


class AsyncioParking:
    """Futures of the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def park(self, waiter: Parkable) -> Awaitable[None]:
        """Park on a future."""
        future: asyncio.Future[None] = self._loop.create_future()
        waiter.token = future
        return future

    def wake(self, waiter: Parkable) -> None:
        """Resolve the future, if it is still waited for."""
        future = waiter.token
        if future is not None and not future.done():
            future.set_result(None)

    def checkpoint(self) -> Awaitable[None]:
        """Yield once to the loop."""
        return _yield_once()

    def forgive(self) -> None:
        """Take back `Task.cancel()` calls, so that the worker's own scopes can be told from them again."""
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()

    def cancelling(self) -> Callable[[], int] | None:
        """Return the task's own count of `Task.cancel()` calls."""
        task = asyncio.current_task()
        return None if task is None else task.cancelling

    def call_soon(self, call: Callable[[], None]) -> None:
        """Use the loop's own way in; a loop that has been closed has nobody left to tell."""
        with contextlib.suppress(RuntimeError):  # Asking first would not do: it may be closed between the two.
            self._loop.call_soon_threadsafe(call)


class TrioParking:
    """trio's own primitive: `wait_task_rescheduled`."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def park(self, waiter: Parkable) -> Awaitable[None]:
        """Park the task itself."""
        waiter.token = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(waiter.abort)

    def wake(self, waiter: Parkable) -> None:
        """Reschedule the task; trio crashes when a task that is not parked is, so the token goes first."""
        task = waiter.token
        if task is not None:
            waiter.token = None
            trio.lowlevel.reschedule(task)

    def checkpoint(self) -> Awaitable[None]:
        """Run a trio checkpoint."""
        return trio.lowlevel.checkpoint()

    def forgive(self) -> None:
        """Nothing to do: trio cancels through scopes only."""

    def cancelling(self) -> None:
        """Nothing: trio cancels through scopes only."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Use the run's token; a run that has ended has nobody left to tell."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)


def parking_here() -> Parking:
    """Return the parking of the running backend."""
    return TrioParking() if trio.lowlevel.in_trio_task() else AsyncioParking()


@types.coroutine
def _yield_once() -> Generator[None, None, None]:
    yield
