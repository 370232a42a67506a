"""Run tests in virtual time: hours pass in no time, in the right order, on asyncio and on trio.

Time stands still while anything can run.  When every task waits, it jumps to the next timer ("autojump"), so that a sleep of
thirty days returns at once and nothing that was due before it is skipped.  Without autojump, time moves by `advance` alone.
Real things stay real: threads are waited for (`patience`), I/O is polled before each jump, but time cannot know what a peer
is still about to send: give such tests some quiet, for example `autojump=0.05`.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, TypeVarTuple

import anyio
import trio
import trio.testing

from flowmesh.testing.standstill import EPOCH, Jumping
from flowmesh.testing.virtual_loop import VirtualLoop
from flowmesh.testing.virtual_trio import VirtualTrioClock

__all__ = [
    "BACKENDS",
    "Backend",
    "VirtualClock",
    "advance",
    "has_virtual_time",
    "run",
    "settled",
    "virtual_backend",
    "virtual_time",
]

Backend = Literal["asyncio", "trio"]
BACKENDS: tuple[Backend, ...] = ("asyncio", "trio")

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_Time = VirtualLoop | VirtualTrioClock | trio.testing.MockClock


class VirtualClock:
    """A mesh's Clock in virtual time, with a wall clock that a test can set.

    It reads the time of the event loop that it is started in, which must be a virtual one: `run` and `virtual_backend` make
    such loops; a trio run under MockClock is one too.  `now` is an attribute that changes at `start`.

    Args:
        wall: what the wall clock reads when the loop begins, in seconds since the epoch; by default what the loop was given
            (`EPOCH` unless told otherwise).
    """

    def __init__(self, *, wall: float | None = None) -> None:
        self.now: Callable[[], float] = _not_started
        self._given = wall
        self._offset = 0.0  # Wall time minus virtual time, without the shifts.
        self._shift = 0.0
        self._watching: dict[object, Callable[[], None]] = {}

    def start(self) -> None:
        """Bind to the running loop; shifts of the wall clock stay.

        Raises:
            RuntimeError: the running loop's time is not virtual.
        """
        time = virtual_time("VirtualClock")
        jumping = Jumping() if isinstance(time, trio.testing.MockClock) else time.jumping
        self.now = time.time if isinstance(time, VirtualLoop) else time.current_time
        self._offset = (jumping.wall if self._given is None else self._given) - jumping.start

    def wall(self) -> float:
        """Return the wall clock: where it began, plus the virtual time since, plus all shifts.

        Before it is started, and outside of virtual time, that is where it will begin.
        """
        if self.now is _not_started:
            try:
                self.start()
            except RuntimeError:
                return (EPOCH if self._given is None else self._given) + self._shift
        return self.now() + self._offset + self._shift

    def shift_wall(self, seconds: float) -> None:
        """Make the wall clock jump, as when somebody sets it; negative seconds set it back. `now` stays."""
        self._shift += seconds
        for call in list(self._watching.values()):
            call()

    def watch_jumps(self, call: Callable[[], None], /) -> Callable[[], None]:
        """Call this whenever the wall clock jumps, until what is returned is called."""
        watcher = object()
        self._watching[watcher] = call

        def unwatch() -> None:
            del self._watching[watcher]

        return unwatch

    async def sleep(self, seconds: float) -> None:
        """Return once `now()` has grown by `seconds`; always a checkpoint.

        Cancellation: leaves nothing behind.
        """
        await anyio.sleep(max(seconds, 0))


def run(
    async_fn: Callable[[*Arguments], Awaitable[Result]],
    *args: *Arguments,
    backend: Backend = "asyncio",
    start: float = 0.0,
    autojump: bool | float = True,
    wall: float = EPOCH,
    patience: float = 2.0,
) -> Result:
    """Run an async function in virtual time, from synchronous code, and return its result.

    Args:
        async_fn: what to run.
        args: its arguments.
        backend: the event loop.
        start: what the monotonic clock reads at the beginning, in seconds.
        autojump: True, or the real seconds of quiet before time jumps; False: it moves by `advance` alone.
        wall: what the wall clock reads at the beginning, in seconds since the epoch.
        patience: the real seconds that a jump waits, at most, for threads that are at work.

    Raises:
        StandstillError: every task waited, and nothing could end it.
        TypeError: it is a coroutine.
    """
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        raise TypeError(f"run takes the function, not the coroutine that a call of it returns: run({async_fn.__name__})")
    name, options = virtual_backend(backend, start=start, autojump=autojump, wall=wall, patience=patience)
    clock = options.get("clock")
    if not isinstance(clock, VirtualTrioClock):
        return anyio.run(async_fn, *args, backend=name, backend_options=options)
    try:
        result = anyio.run(async_fn, *args, backend=name, backend_options=options)
    except BaseException:
        if clock.standstill is not None:
            raise clock.standstill from None  # The cancellation that ended the run says less.
        raise
    if clock.standstill is not None:
        raise clock.standstill
    return result


def virtual_backend(
    backend: Backend, *, start: float = 0.0, autojump: bool | float = True, wall: float = EPOCH, patience: float = 2.0
) -> tuple[str, dict[str, Any]]:
    """Return what anyio's pytest plugin wants from an `anyio_backend` fixture, for tests in virtual time.

    A value serves one test: let the fixture (of function scope) call this anew each time::

        @pytest.fixture(params=flowmesh.testing.BACKENDS)
        def anyio_backend(request):
            return flowmesh.testing.virtual_backend(request.param)

    At a standstill the test fails with StandstillError on asyncio; on trio it is cancelled with that error's text as reason.

    Args:
        backend: the event loop; for the rest see `run`.
        start: as for `run`.
        autojump: as for `run`.
        wall: as for `run`.
        patience: as for `run`.
    """
    quiet = None if autojump is False else 0.0 if autojump is True else autojump
    jumping = Jumping(start=start, wall=wall, quiet=quiet, patience=patience)
    if backend == "trio":
        return backend, {"clock": VirtualTrioClock(jumping)}
    if backend == "asyncio":
        return backend, {"loop_factory": lambda: VirtualLoop(jumping)}
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")


async def advance(seconds: float) -> None:
    """Move virtual time forward by exactly this much.

    Everything due on the way runs, in the order of its due time; on return time is where it was told to be, and the tasks
    that woke up there are blocked again, as `settled` says.  With autojump this waits for threads as any sleep does; without
    it, time moves whatever threads may be doing.

    Cancellation: leaves time wherever it has come to.
    """
    if not seconds >= 0:
        raise ValueError(f"seconds must be zero or more, not {seconds!r}: virtual time does not go back")
    time = virtual_time("advance()")
    if _jumps_by_itself(time):
        await anyio.sleep(seconds)
    else:
        target = _now(time) + seconds
        await settled()  # What is about to set a timer sets it from here.
        while _now(time) < target:
            due = _next_due(time)
            if due is None or due > target:
                due = target
            if isinstance(time, trio.testing.MockClock):
                time.jump(due - _now(time))
            else:
                time.jump_to(due)
            await settled()
    await settled()


async def settled() -> None:
    """Return once every other task is blocked: it waits for a task, a timer, a thread or I/O. Time does not move meanwhile.

    Threads and peers are not waited for.  Unlike `anyio.wait_all_tasks_blocked`, which polls with a sleep on asyncio, this
    neither needs nor moves time.

    Cancellation: leaves nothing behind.
    """
    time = virtual_time("settled()")
    if isinstance(time, trio.testing.MockClock):
        await trio.testing.wait_all_tasks_blocked()
    else:
        await time.settled()


def virtual_time(what: str) -> _Time:
    """Return the running loop's virtual time; refuse on behalf of `what` where it is real."""
    time = trio.lowlevel.current_clock() if trio.lowlevel.in_trio_task() else asyncio.get_running_loop()
    if isinstance(time, _Time):
        return time
    raise RuntimeError(
        f"{what} needs an event loop with virtual time, and this one is of type {type(time).__qualname__}: start the test with "
        "flowmesh.testing.run(), or let the anyio_backend fixture return flowmesh.testing.virtual_backend(...)"
    )


def has_virtual_time() -> bool:
    """Tell whether the running loop's time is virtual."""
    time = trio.lowlevel.current_clock() if trio.lowlevel.in_trio_task() else asyncio.get_running_loop()
    return isinstance(time, _Time)


def _jumps_by_itself(time: _Time) -> bool:
    if isinstance(time, trio.testing.MockClock):
        return time.autojump_threshold != float("inf")
    return time.jumping.quiet is not None


def _now(time: _Time) -> float:
    return time.time() if isinstance(time, VirtualLoop) else time.current_time()


def _next_due(time: _Time) -> float | None:
    if isinstance(time, trio.testing.MockClock):
        return time.current_time() + trio.lowlevel.current_statistics().seconds_to_next_deadline
    return time.next_due()


def _not_started() -> float:
    raise RuntimeError("this VirtualClock has not been started: pass it to Mesh(clock=...), or call start() inside the loop")
