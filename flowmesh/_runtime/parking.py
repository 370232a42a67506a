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
import contextvars
import types
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Final, Protocol

import anyio
import trio

__all__ = ["Parkable", "Parking", "Waiter", "parking_here"]


class Waiter:
    """A place to park. `token` is the backend's; None until somebody parks."""

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token: Any = None


class Parkable(Protocol):
    """What can be parked on: a Waiter, or something that is one beside what else it is."""

    token: Any


class Parking(Protocol):
    """What the runtime needs from a backend that anyio does not give cheaply enough."""

    def park(self, waiter: Parkable) -> Awaitable[None]:
        """Return an awaitable, to be awaited at once by the calling task, that ends when `waiter` is woken.

        Cancellation: leaves the waiter unparked; on asyncio a wake-up may have come just before and is then lost.
        """
        ...

    def park_among(self, waiter: Parkable) -> Awaitable[None]:
        """As `park`, cheaper, for one of many that `wake_all` will wake together.

        Cancellation: as `park`; on asyncio it may also come when the task has been woken already, so go on with `outwait`.
        """
        ...

    def wake(self, waiter: Parkable) -> None:
        """Wake the task parked on `waiter`, if one is."""
        ...

    def wake_all(self, waiters: Iterable[Parkable]) -> None:
        """As `wake`, one after another: for the way of many messages."""
        ...

    async def outwait(self, waiter: Parkable, is_over: Callable[[], bool], *, is_cancelled: bool = False) -> None:
        """Park until it is woken and this holds, whatever cancels the task.

        `is_cancelled`: it has been, while it was parked by itself, and that was caught.
        Cancellation: comes into its own at the task's next checkpoint.
        """
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

    def call_next(self, call: Callable[[], None]) -> None:
        """Make the loop call this in its next turn; to be used in its own thread, and not from a finalizer."""
        ...

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make the loop call this soon; may be used from any thread, and from a finalizer at any moment."""
        ...

    def is_running(self) -> bool:
        """Tell whether the loop runs at this moment; may be used from any thread."""
        ...


class _Place:
    """Of a future no more than a task of asyncio asks of it, so that one call of the loop makes many tasks go on.

    What a future does costs a call of the loop for each task: a third of what it takes to park and to go on.
    """

    __slots__ = ("_asyncio_future_blocking", "_loop", "_reason", "call", "context", "is_over")

    call: "Callable[[_Place], object]"  # The task sets both as soon as the place is yielded to it.
    context: contextvars.Context

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = True
        self._reason: tuple[object, ...] | None = None
        self.is_over = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        return self.is_over

    def cancelled(self) -> bool:
        return self._reason is not None

    def result(self) -> None:
        if self._reason is not None:
            raise asyncio.CancelledError(*self._reason)

    def add_done_callback(self, call: "Callable[[_Place], object]", /, *, context: contextvars.Context) -> None:
        """Take what makes the task go on; nobody but the task, which alone has the place, asks for more."""
        self.call = call
        self.context = context

    def cancel(self, msg: object = None) -> bool:
        if self.is_over:
            return False
        self.is_over = True
        self._reason = () if msg is None else (msg,)
        self._loop.call_soon(self.go_on)
        return True

    def set_result(self, result: None) -> None:
        self.is_over = True
        self._loop.call_soon(self.go_on)

    def go_on(self) -> None:
        """Let the task go on, here and now; `is_over` has to be set before."""
        self.context.run(self.call, self)


class AsyncioParking:
    """Futures of the running loop, or what passes for one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def park(self, waiter: Parkable) -> Awaitable[None]:
        """Park on a future."""
        future: asyncio.Future[None] = self._loop.create_future()
        waiter.token = future
        return future

    @types.coroutine
    def park_among(self, waiter: Parkable) -> Generator[_Place, None, None]:
        """Park at a place."""
        waiter.token = place = _Place(self._loop)
        yield place

    def wake(self, waiter: Parkable) -> None:
        """Resolve the future, if it is still waited for."""
        future = waiter.token
        if future is not None and not future.done():
            future.set_result(None)

    def wake_all(self, waiters: Iterable[Parkable]) -> None:
        """Let those at places go on one after another, in one call of the loop; resolve the future of each other."""
        places: list[_Place] = []
        for waiter in waiters:
            token = waiter.token
            if type(token) is _Place:
                if not token.is_over:
                    token.is_over = True
                    places.append(token)
            elif token is not None and not token.done():
                token.set_result(None)
        if places:
            self._loop.call_soon(self._go_on, places)

    def _go_on(self, places: list[_Place]) -> None:
        left = iter(places)
        try:
            for place in left:
                place.context.run(place.call, place)
        finally:
            rest = list(left)
            if rest:  # A task has let Ctrl-C through: that ends the loop, which may be run on all the same.
                self._loop.call_soon(self._go_on, rest)

    async def outwait(self, waiter: Parkable, is_over: Callable[[], bool], *, is_cancelled: bool = False) -> None:
        """Park again when cancelled; scopes cancel again by themselves, `Task.cancel()` is made up for."""
        task = asyncio.current_task()
        # A scope that is left in good order would not take back what was made up for it.
        if (await self._outwait(waiter, is_over) or is_cancelled) and task is not None and task.cancelling():
            task.uncancel()
            task.cancel()

    async def _outwait(self, waiter: Parkable, is_over: Callable[[], bool]) -> bool:
        """Wait, and tell whether `Task.cancel()` was called meanwhile."""
        cancelled = False
        while not is_over():
            try:
                await self.park(waiter)
            except asyncio.CancelledError as error:
                if is_of_scope(error):
                    with anyio.CancelScope(shield=True):  # Or it would cancel again in each turn of the loop.
                        return await self._outwait(waiter, is_over) or cancelled
                cancelled = True
        return cancelled

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

    def call_next(self, call: Callable[[], None]) -> None:
        """Put it among what the loop does next."""
        self._loop.call_soon(call)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Use the loop's own way in; a loop that has been closed has nobody left to tell."""
        with contextlib.suppress(RuntimeError):  # Asking first would not do: it may be closed between the two.
            self._loop.call_soon_threadsafe(call)

    def is_running(self) -> bool:
        """Ask the loop: it may be stopped and run on."""
        return self._loop.is_running()


class TrioParking:
    """trio's own primitive, `wait_task_rescheduled`, and what it yields to trio: made once, and not for every message.

    A task that is parked has its waiter as its `custom_sleep_data`, which trio takes away whenever it reschedules the task.
    So a wake-up knows whether the task is still there, and whether a cancellation may wake it has one answer for all tasks.
    """

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._trap, self._shielded = _trap(_abort), _trap(_never_abort)

    def park(self, waiter: Parkable) -> Awaitable[None]:
        """Park the task itself."""
        waiter.token = task = trio.lowlevel.current_task()
        task.custom_sleep_data = waiter
        return _yield_to_trio(self._trap)

    @types.coroutine
    def park_among(self, waiter: Parkable) -> Generator[Any, Any, None]:
        """As `park`, without a call in between."""
        waiter.token = task = trio.lowlevel.current_task()
        task.custom_sleep_data = waiter
        outcome = yield self._trap
        if outcome is not _WOKEN:
            outcome.unwrap()  # raises the cancellation

    def wake(self, waiter: Parkable) -> None:
        """Reschedule the task, if it is still parked there: trio crashes when a task that is not parked is."""
        task = waiter.token
        if task is not None:
            waiter.token = None
            if task.custom_sleep_data is waiter:
                trio.lowlevel.reschedule(task, _WOKEN)

    def wake_all(self, waiters: Iterable[Parkable]) -> None:
        """Reschedule the task of each."""
        reschedule = trio.lowlevel.reschedule
        for waiter in waiters:
            task = waiter.token
            if task is not None and task.custom_sleep_data is waiter:
                reschedule(task, _WOKEN)

    async def outwait(self, waiter: Parkable, is_over: Callable[[], bool], *, is_cancelled: bool = False) -> None:
        """Park in a way that cannot be aborted."""
        del is_cancelled  # Its scope is still cancelled.
        while not is_over():
            waiter.token = task = trio.lowlevel.current_task()
            task.custom_sleep_data = waiter
            await _yield_to_trio(self._shielded)

    def checkpoint(self) -> Awaitable[None]:
        """Run a trio checkpoint."""
        return trio.lowlevel.checkpoint()

    def forgive(self) -> None:
        """Nothing to do: trio cancels through scopes only."""

    def cancelling(self) -> None:
        """Nothing: trio cancels through scopes only."""

    def call_next(self, call: Callable[[], None]) -> None:
        """Have a task of the run do it: trio calls nothing but tasks otherwise."""
        caller = _CALLER.get(None)
        if caller is None:
            caller = _Caller(self)
            _CALLER.set(caller)
            trio.lowlevel.spawn_system_task(caller.run)
        caller.calls.append(call)
        self.wake(caller.waiter)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Use the run's token; a run that has ended has nobody left to tell."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)

    def is_running(self) -> bool:
        """Try the run's token: there is no other way to ask."""
        try:
            self._token.run_sync_soon(_nothing, idempotent=True)
        except trio.RunFinishedError:
            return False
        return True


class _Caller:
    """A system task that calls what is to be called next, and is parked otherwise: one for all meshes of a run of trio."""

    def __init__(self, parking: TrioParking) -> None:
        self._parking = parking
        self.calls: deque[Callable[[], None]] = deque()
        self.waiter = Waiter()

    async def run(self) -> None:
        """Call until trio ends the run."""
        while True:
            for _ in range(len(self.calls)):
                self.calls.popleft()()
            if self.calls:
                await trio.lowlevel.checkpoint()
            else:
                await self._parking.park(self.waiter)


_CALLER: Final[trio.lowlevel.RunVar[_Caller | None]] = trio.lowlevel.RunVar("flowmesh caller")


def is_of_scope(error: BaseException) -> bool:
    """Tell whether a scope of anyio's has cancelled, and not somebody with `Task.cancel()`; anyio tells it by the text, too."""
    return bool(error.args) and str(error.args[0]).startswith("Cancelled via cancel scope ")


def parking_here() -> Parking:
    """Return the parking of the running backend."""
    return TrioParking() if trio.lowlevel.in_trio_task() else AsyncioParking()


_WOKEN: Final[Any] = object()
"""What a woken task is sent, and nobody unwraps: an outcome of trio's would be one more object for each message."""


def _nothing() -> None:
    return None


def _abort(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED


def _never_abort(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _trap(abort: Callable[[object], trio.lowlevel.Abort]) -> Any:
    """Return what `wait_task_rescheduled` yields: it says how to abort, and nothing of the task, so many may yield the same."""
    waiting = trio.lowlevel.wait_task_rescheduled(abort)
    trap = waiting.send(None)
    waiting.close()
    return trap


@types.coroutine
def _yield_to_trio(trap: Any) -> Generator[Any, Any, None]:
    outcome = yield trap
    if outcome is not _WOKEN:
        outcome.unwrap()  # raises the cancellation


@types.coroutine
def _yield_once() -> Generator[None, None, None]:
    yield
