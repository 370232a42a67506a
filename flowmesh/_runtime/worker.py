"""A worker: one task that runs handlers, the scope that a cancellation hits, and the marks that say why it did."""

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Literal

import anyio

from flowmesh._core.timers import Timer
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Waiter
from flowmesh.message import Message

__all__ = ["Doom", "Worker", "current_worker", "step_in"]

Doom = Literal["limit", "asker", "stop"]


class Worker:
    """One worker. A cancellation hits exactly the lease that runs when it comes.

    `doomed` is set before the scope is cancelled and looked at after each handler, before the next message is taken; a
    doomed worker leaves its scope and takes a fresh one. `deadline` ends the running handler; at most one timer is armed
    for it, and one that finds the deadline moved sets itself again. `clean` is the context that handlers must leave behind.
    """

    __slots__ = (
        "cancelling",
        "cell",
        "clean",
        "deadline",
        "doomed",
        "ground",
        "is_alive",
        "message",
        "scope",
        "timer",
        "waiter",
    )

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.scope = anyio.CancelScope()
        self.doomed: Doom | None = None
        self.message: Message | None = None
        self.cell: Cell | None = None
        self.waiter = Waiter()
        self.cancelling: Callable[[], int] | None = None
        self.deadline: float | None = None
        self.timer: Timer | None = None
        self.is_alive = True
        self.clean = contextvars.Context()

    def cancel(self, why: Doom) -> None:
        """Cancel the handler that runs now, if one does; the first reason stands."""
        if self.message is not None and self.doomed is None:
            self.doomed = why
            self.scope.cancel()

    def limit(self, deadline: float) -> None:
        """Cancel the handler that runs now at `deadline`, unless it has ended by then."""
        self.deadline = deadline
        if self.timer is None or not self.timer.is_set:
            self.timer = self.ground.ledger.timers.set(deadline, self._look)
        elif self.timer.due > deadline:
            self.ground.ledger.timers.cancel(self.timer)
            self.timer = self.ground.ledger.timers.set(deadline, self._look)

    def _look(self, now: float) -> None:
        self.timer = None
        if self.deadline is None:
            return
        if self.deadline <= now:
            self.deadline = None
            self.cancel("limit")
        else:
            self.limit(self.deadline)


current_worker: contextvars.ContextVar[Worker | None] = contextvars.ContextVar("flowmesh.worker", default=None)
"""The worker whose task, or a task started by whose handler, runs now."""


@types.coroutine
def step_in(context: contextvars.Context, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine to its end in a context of its own, in the task that awaits this."""
    try:
        yielded = context.run(coroutine.send, None)
        while True:
            try:
                sent = yield yielded
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - all of it is the coroutine's
                yielded = context.run(coroutine.throw, error)
            else:
                yielded = context.run(coroutine.send, sent)
    except StopIteration as stop:
        return stop.value
