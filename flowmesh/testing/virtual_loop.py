"""Virtual time on asyncio: an event loop that, when nothing is left to run, moves its clock instead of waiting.

The loop is asyncio's own; only its `time` and its selector differ.  The selector is asked to wait exactly when no callback is
ready, which is the one moment when time may move.  Sockets, signals, subprocesses and threads work as ever, in real time.
"""

import asyncio
import heapq
import math
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from flowmesh.testing.standstill import Jumping, describe, patience_before_standstill
from flowmesh.testing.threads import has_busy_threads

__all__ = ["VirtualLoop"]

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_GLANCE = 0.005  # Real seconds between two looks at a thread.


class _Selector(selectors.DefaultSelector):
    """The platform's selector; before it would wait, it asks the loop how long in real seconds."""

    wait: Callable[["_Selector"], list[tuple[selectors.SelectorKey, int]]]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll if the loop has something to run, otherwise leave it to the loop."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        return self.wait(self)

    def poll(self, seconds: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for I/O and for wake-ups from other threads, in real seconds; None waits without limit."""
        return super().select(seconds)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with virtual time.

    Args:
        jumping: how time moves, and where it begins.
    """

    def __init__(self, jumping: Jumping) -> None:
        self.jumping = jumping
        self._now = jumping.start
        self._timers: list[asyncio.TimerHandle] = []  # By due time; the cancelled and the past go when they come up.
        self._settling: list[asyncio.Future[None]] = []
        self._calls = 0  # Calls under way in executors.
        selector = _Selector()
        selector.wait = self._wait
        super().__init__(selector)
        self._own_io = len(selector.get_map())  # The pipe by which other threads wake the loop.

    def time(self) -> float:
        """Return the virtual time."""
        return self._now

    def next_due(self) -> float | None:
        """Return when the next timer is due, None when there is none."""
        while self._timers and (self._timers[0].cancelled() or self._timers[0].when() <= self._now):
            heapq.heappop(self._timers)
        return self._timers[0].when() if self._timers else None

    def jump_to(self, moment: float) -> None:
        """Move time forward; what is due by then runs in the next turn of the loop, in order of its due time."""
        self._now = max(self._now, moment)

    async def settled(self) -> None:
        """Return when no other task of this loop can run before time moves."""
        future = self.create_future()
        self._settling.append(future)
        try:
            await future
        finally:
            if future in self._settling:
                self._settling.remove(future)

    # What asyncio calls.

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.TimerHandle:
        """Schedule as asyncio does, and remember the exact time to jump to; "never" (`anyio.sleep_forever`) is no time."""
        timer = super().call_at(when, callback, *args, **options)
        if when < math.inf:
            heapq.heappush(self._timers, timer)
        return timer

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        """Run as asyncio does; time stands still for the call (see `Jumping.patience`)."""
        future = super().run_in_executor(executor, func, *args)
        self._calls += 1
        future.add_done_callback(self._call_ended)
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """Join the executor's threads; their end takes real time."""
        self._calls += 1
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self._calls -= 1

    def _call_ended(self, _: object) -> None:
        self._calls -= 1

    def _wait(self, selector: _Selector) -> list[tuple[selectors.SelectorKey, int]]:
        """Do what the loop does when nothing is ready: look at the outside, then settle, jump, wait, or despair."""
        if self._settling:
            if not (events := selector.poll(0)):
                for future in self._settling:
                    if not future.done():
                        future.set_result(None)
                self._settling.clear()
            return events
        due = self.next_due() if self.jumping.quiet is not None else None
        if self._threads_at_work():
            # The end of a thread's call wakes the selector, but right before the thread says that it has no more to do: look
            # at it now and then.  Without a timer there is nothing to jump to: only the thread can go on.
            waited = 0.0
            while due is None or waited < self.jumping.patience:
                if events := selector.poll(_GLANCE):
                    return events
                if not self._threads_at_work():
                    return []
                waited += _GLANCE
        elif due is None:
            if len(selector.get_map()) > self._own_io:
                return selector.poll(None)  # Somebody waits for the outside world.
            if not (events := selector.poll(patience_before_standstill(self.jumping))):
                raise describe(self.jumping, [(task.get_name(), task.get_coro()) for task in asyncio.all_tasks(self)])
            return events
        elif events := selector.poll(self.jumping.quiet):
            return events
        self.jump_to(due)
        return []

    def _threads_at_work(self) -> bool:
        return self._calls > 0 or has_busy_threads() or any(_works_for(thread, self) for thread in threading.enumerate())


def _works_for(thread: threading.Thread, loop: VirtualLoop) -> bool:
    """Tell whether this is one of anyio's worker threads, with a call of this loop's in hand.

    anyio offers no count over all limiters, so this looks at two attributes of its threads (their loop, their inbox).  Should
    they go, threads count as idle, and the tests of this module say so.
    """
    return getattr(thread, "loop", None) is loop and getattr(getattr(thread, "queue", None), "unfinished_tasks", 0) > 0
