"""A worker: one task that runs handlers, the scope that a cancellation hits, and the marks that say why it did."""

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Literal

import anyio

from flowmesh._core.mailbox import Mailbox
from flowmesh._core.timers import Timer
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Waiter
from flowmesh.message import Message

__all__ = ["Doom", "Worker", "carries_trace", "current_worker", "step_in", "turn_here"]

Doom = Literal["limit", "asker", "overtaken", "superseded", "stop"]


class Worker:
    """One worker. A cancellation hits exactly the lease that runs when it comes.

    `doomed` is set before the scope is cancelled and looked at after each handler, before the next message is taken; a
    doomed worker leaves its scope and takes a fresh one. `deadline` ends the running handler; at most one timer is armed
    for it, and one that finds the deadline moved sets itself again. `clean` is the context that handlers must leave behind.
    `task`: the backend's own, once it runs. `since`: when the handler in hand was called.
    `span`: of the delivery in hand, if that is traced; `home`: what tracing's `sender` gives in its handlers, unless they
    have opened spans of their own. `unchosen`: so many more messages are not traced, unless they come with a trace.
    """

    __slots__ = (
        "cancelling",
        "cell",
        "clean",
        "deadline",
        "doomed",
        "ground",
        "home",
        "is_alive",
        "message",
        "scope",
        "since",
        "span",
        "task",
        "timer",
        "unchosen",
        "waiter",
    )

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.scope: anyio.CancelScope | None = None  # one can be made in a task only, and this may be a callback of the loop
        self.doomed: Doom | None = None
        self.message: Message | None = None
        self.cell: Cell | None = None
        self.waiter = Waiter()
        self.cancelling: Callable[[], int] | None = None
        self.since = self.unchosen = 0.0
        self.task: Any = None
        self.deadline: float | None = None
        self.timer: Timer | None = None
        self.is_alive = True
        self.clean = contextvars.Context()
        self.span: Any = None
        self.home: object = None

    @property
    def mailbox(self) -> str | None:
        """The mailbox of the actor whose message it has in hand."""
        return None if self.cell is None else self.cell.box.name

    def cancel(self, why: Doom) -> None:
        """Cancel the handler that runs now, if one does; the first reason stands."""
        if self.message is not None and self.scope is not None and self.doomed is None:
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


def turn_here(ground: Ground) -> Worker | None:
    """Return the worker of this mesh whose turn the caller is part of, or None."""
    worker = current_worker.get()
    return worker if worker is not None and worker.message is not None and worker.ground is ground else None


def carries_trace(sender: Callable[[], object], worker: Worker | None, box: Mailbox | None = None) -> bool:
    """Whether a message that is sent in a turn takes a trace along; `sender` as in `ports.Tracing`.

    The turn is traced, or its handler has opened a span of its own, or sends to its own mailbox, which begins a new trace.
    Out of turns it does if `sender` gives something.
    """
    if worker is None:
        return False
    return worker.span is not None or sender() is not worker.home or (worker.cell is not None and worker.cell.box is box)


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
