"""Cancel a coroutine at every place where it can be cancelled, one place per run.

A test names what a cancellation may leave behind; the sweep finds the await where that does not hold.  The swept coroutine is
stepped by hand inside the caller's task, so its suspensions are counted exactly and other tasks' do not count.
"""

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Literal, TypeVar

import anyio
import anyio.lowlevel
import trio
from msgspec import Struct

from flowmesh.testing.standstill import where

__all__ = ["Swept", "When", "cancel_sweep"]

When = Literal["parked", "woken"]
Result = TypeVar("Result")


class Swept(Struct, Generic[Result], frozen=True):
    """What became of one run of the swept coroutine.

    Attributes:
        checkpoint: at which suspension, counted from 1, the run was cancelled; None for the last run, which was not.
        when: "parked" or "woken", see `cancel_sweep`; None for the last run.
        place: the lines in which the coroutine stood when it was cancelled, innermost first.
        cancelled: the cancellation came out of the coroutine. False although it was cancelled: it finished all the same.
        value: what the coroutine returned; None if it did not return.
        error: what it raised, if that is one of the `expected` errors.
    """

    checkpoint: int | None
    when: When | None
    place: str
    cancelled: bool
    value: Result | None
    error: Exception | None


async def cancel_sweep(
    make: Callable[[], Coroutine[Any, Any, Result]],
    check: Callable[[Swept[Result]], Awaitable[None] | None] | None = None,
    *,
    when: tuple[When, ...] = ("parked", "woken"),
    expected: tuple[type[Exception], ...] = (),
    max_checkpoints: int = 1000,
) -> int:
    """Run the coroutine of `make()` again and again, cancelled at its 1st, 2nd, 3rd ... suspension, until it has no more.

    A cancellation comes in one of two ways, and each suspension is tried in all of `when`:

    * "parked": while the coroutine is suspended, by a cancel scope around it.
    * "woken": after what it waited for has happened, before it goes on; here wake-ups get lost.  On asyncio this is
      `Task.cancel()` with the awaited future done: the await raises although it was answered.  On trio the answer is handed
      over and the next checkpoint raises; a sleep that was over has no answer, so it raises itself.

    After each run, the uncancelled last one included, `check` states by assertions what has been left behind.  What it raises
    carries a note with the checkpoint and the place.  Coroutines that shield or swallow the cancellation are fine, as long as
    they end.

    Args:
        make: makes the coroutine, with a fresh state around it, so that runs do not see each other.
        check: called (and awaited, if it is async) after each run.
        when: the ways of cancelling.
        expected: errors that a run may end with; others leave the sweep at once.
        max_checkpoints: how many suspensions a run may have, and how many more after its cancellation.

    Returns:
        The number of suspensions of the uncancelled run.

    Raises:
        RuntimeError: a run suspended more than `max_checkpoints` times: it never ends, or ignores its cancellation for good.

    Cancellation: cancels the run under way as well.
    """
    if not when:
        raise ValueError("when must name at least one of 'parked' and 'woken'")
    checkpoint = 0
    while True:
        checkpoint += 1
        for way in when:
            run = _Run(make(), checkpoint=checkpoint, when=way, limit=max_checkpoints)
            try:
                swept = await run.result(expected)
                if check is not None and inspect.isawaitable(verdict := check(swept)):
                    await verdict
            except Exception as error:
                error.add_note(run.note())
                raise
            if swept.checkpoint is None:
                return run.seen


class _Run(Generic[Result]):
    """One run of the coroutine, cancelled at one suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, Result], *, checkpoint: int, when: When, limit: int) -> None:
        self.seen = 0
        self._coroutine = coroutine
        self._checkpoint = checkpoint
        self._when: When = when
        self._limit = limit
        self._place = ""
        self._scope = anyio.CancelScope()
        self._task = None if trio.lowlevel.in_trio_task() else asyncio.current_task()
        self._cancels = 0 if self._task is None else self._task.cancelling()
        self._struck = False  # `Task.cancel()` was called here.

    async def result(self, expected: tuple[type[Exception], ...]) -> Swept[Result]:
        """Run to the end, and say how it ended."""
        value: Result | None = None
        error: Exception | None = None
        cancelled = False
        with self._scope:
            try:
                value = await self._step()
            except asyncio.CancelledError:
                if not self._struck or (self._task is not None and self._task.cancelling() > self._cancels + 1):
                    raise  # Not, or not only, this run's doing.
                cancelled = True
            except expected as failure:
                error = failure
            finally:
                if self._struck and self._task is not None and self._task.cancelling() > self._cancels:
                    self._task.uncancel()
        await anyio.lowlevel.checkpoint()  # A cancellation of the sweep itself ends it here.
        return Swept(
            checkpoint=self._checkpoint if self._place else None,
            when=self._when if self._place else None,
            place=self._place,
            cancelled=cancelled or self._scope.cancelled_caught,
            value=value,
            error=error,
        )

    def note(self) -> str:
        """Say which run this is, for the one who reads a failure."""
        if not self._place:
            return f"cancel_sweep: in the run without cancellation, after {self.seen} checkpoints"
        return f"cancel_sweep: cancelled at checkpoint {self._checkpoint} ({self._when}), in {self._place}"

    @types.coroutine
    def _step(self) -> Generator[Any, Any, Result]:
        """Pass everything between the coroutine and the event loop, and cancel on the way."""
        resume: Callable[[Any], Any] = self._coroutine.send
        sent: Any = None
        while True:
            try:
                awaited = resume(sent)
            except StopIteration as stop:
                return stop.value
            self.seen += 1
            if self.seen > self._limit + (self._checkpoint if self._place else 0):
                self._coroutine.close()
                raise RuntimeError(f"the swept coroutine has not ended after {self.seen - 1} checkpoints (max_checkpoints)")
            is_the_one = self.seen == self._checkpoint
            if is_the_one:
                self._place = where(self._coroutine)
                self._before(awaited)
            try:
                sent = yield awaited
                resume = self._coroutine.send
            except BaseException as thrown:  # noqa: BLE001 - whatever the event loop throws is the coroutine's
                sent = thrown
                resume = self._coroutine.throw
            if is_the_one and self._when == "woken" and self._task is None:
                self._scope.cancel()

    def _before(self, awaited: Any) -> None:
        """Arrange for the cancellation, right before the event loop gets to see what the coroutine waits for."""
        if self._when == "parked":
            self._scope.cancel()
        elif self._task is None:
            return  # trio: once the task has been woken.
        elif asyncio.isfuture(awaited):
            awaited.add_done_callback(self._strike)  # Before the task's own callback, which makes it run again.
        else:
            asyncio.get_running_loop().call_soon(self._strike, None)

    def _strike(self, future: asyncio.Future[Any] | None) -> None:
        if self._task is not None and not (future is not None and future.cancelled()):
            self._struck = True
            self._task.cancel()
