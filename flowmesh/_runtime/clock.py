"""The default Clock: the time of whatever event loop the mesh runs in.

Timers measure the loop's own time, so a loop whose time is virtual (a test's) is honoured without being told.  Nothing here
keeps a task or a handle: a clock that was never started, or whose loop has ended, may simply be dropped.
"""

import asyncio
import time
from collections.abc import Callable

import anyio
import trio

__all__ = ["SystemClock", "is_time_virtual"]

_FAITHFUL = ("uvloop", "winloop")  # Event loops with a `time` of their own that nevertheless is real time.


class SystemClock:
    """The running loop's time.

    `now` is an attribute, not a method: on a real loop it is the C function itself, so that reading it costs no Python frame.
    It changes at `start`: bind it (`now = clock.now`) after that.
    """

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.monotonic
        self._wall: Callable[[], float] = time.time
        self._is_virtual = False

    def start(self) -> None:
        """Bind to the running event loop; `now` may start anywhere anew.

        Under a loop with virtual time the wall clock becomes virtual as well: from the real one at this moment, it grows as
        `now` does.
        """
        self.now, self._is_virtual = _trio_time() if trio.lowlevel.in_trio_task() else _asyncio_time()
        self._wall = time.time
        if self._is_virtual:
            offset = time.time() - self.now()
            now = self.now
            self._wall = lambda: now() + offset

    def wall(self) -> float:
        """Return seconds since the epoch; jumps when somebody sets the machine's clock."""
        return self._wall()

    def watch_jumps(self, call: Callable[[], None], /) -> Callable[[], None] | None:
        """Return None: nobody tells when the machine's clock is set. Under a loop with virtual time it is never set."""
        del call
        return _nothing if self._is_virtual else None

    async def sleep(self, seconds: float) -> None:
        """Return once `now()` has grown by at least `seconds`; always a checkpoint.

        Cancellation: leaves nothing behind.
        """
        await anyio.sleep(max(seconds, 0))


def is_time_virtual() -> bool:
    """Tell whether the time of the running event loop is virtual: a test's."""
    return (_trio_time() if trio.lowlevel.in_trio_task() else _asyncio_time())[1]


def _nothing() -> None:
    return None


def _asyncio_time() -> tuple[Callable[[], float], bool]:
    """Return what to read the running asyncio loop's time with, and whether that time is virtual."""
    loop = asyncio.get_running_loop()
    owner = next(kind for kind in type(loop).__mro__ if "time" in vars(kind))
    if owner is asyncio.BaseEventLoop and "time" not in getattr(loop, "__dict__", ()):
        return time.monotonic, False  # What BaseEventLoop.time returns, without its frame.
    return loop.time, owner.__module__.partition(".")[0] not in _FAITHFUL


def _trio_time() -> tuple[Callable[[], float], bool]:
    """Return what to read the running trio clock with, and whether it is virtual."""
    clock = trio.lowlevel.current_clock()
    kind = type(clock)
    if kind.__name__ == "SystemClock" and kind.__module__.partition(".")[0] == "trio":
        return time.perf_counter, False  # What trio's own clock reads, without its random offset and its frame.
    return clock.current_time, True
