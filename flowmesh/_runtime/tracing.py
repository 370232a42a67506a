"""What the runtime tells a tracer, and when.

Called only where somebody traces.  A turn's span begins before its handler is called and ends when the turn is settled; the
spans are handed over by a timer of the mesh, in slices no longer than a turn, and all of them when the mesh has stopped.
"""

from typing import Final

import anyio

from flowmesh._core.entry import Entry
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import TURN_SECONDS, Ground
from flowmesh._runtime.worker import Doom, Worker
from flowmesh.errors import Reject, RetryAfter
from flowmesh.message import Message
from flowmesh.ports import Ending, Tracing

__all__ = ["HAND_OVER", "begin", "end_failed", "note_refusal", "start_tracing", "stop_tracing"]

HAND_OVER: Final = 0.1
"""Seconds for which a span waits at most, while the loop has time."""


def begin(tracing: Tracing, cell: Cell, message: Message, entry: Entry | None, now: float, *, chosen: bool) -> object:
    """Begin the span of a delivery that knows more than a plain message; None if it is not traced."""
    if entry is None:
        return tracing.begin(cell.name, cell.box.name, message, now, chosen=chosen)
    return tracing.begin(
        cell.name,
        cell.box.name,
        message,
        now,
        chosen=chosen,
        first=entry.trace,
        attempt=entry.failures + 1,
        asked=entry.asked,
    )


def end_failed(worker: Worker, entry: Entry, error: BaseException, *, counted: bool) -> None:
    """End the span of what a worker has in hand, whose handler let this out. The copy has been settled.

    `counted`: as one more failed attempt.
    """
    ground, span = worker.ground, worker.span
    tracing = ground.tracing
    assert tracing is not None
    worker.span = None
    if entry.trace is None and not entry.has_ended:
        entry.trace = tracing.memory(span)
    tracing.end(span, ground.now(), ground.wall_offset, _ending(worker, entry, error, counted=counted))


def note_refusal(ground: Ground, cell: Cell, entry: Entry, error: BaseException) -> None:
    """Trace a delivery whose handler cannot take it and is not called."""
    tracing = ground.tracing
    assert tracing is not None
    now = ground.now()
    span = begin(tracing, cell, entry.message, entry, now, chosen=tracing.draw() < 1)
    if span is not None:
        tracing.end(span, now, ground.wall_offset, Ending("malformed", error))


def start_tracing(ground: Ground, tracing: Tracing | None) -> None:
    """Trace this run of the mesh, or not."""
    ground.tracing = tracing
    ground.sender = None
    if tracing is None:
        return
    ground.sender = tracing.sender

    def hand_over(_now: float) -> None:
        until = ground.now() + TURN_SECONDS
        if tracing.hand_over(lambda: ground.now() >= until):
            ground.ledger.timers.set(ground.now(), hand_over)

    def wake() -> None:
        ground.ledger.timers.set(ground.now() + HAND_OVER, hand_over)

    tracing.wake = wake


def stop_tracing(ground: Ground) -> None:
    """Hand over what is left: the mesh has stopped."""
    if ground.tracing is not None:
        ground.tracing.hand_over(lambda: False)


def _ending(worker: Worker, entry: Entry, error: BaseException, *, counted: bool) -> Ending:
    """Return how a turn ended whose handler let something out; its copy has been settled."""
    error = without_cancellation(error)
    why: Doom | None = worker.doomed
    if isinstance(error, anyio.get_cancelled_exc_class()):
        if why == "limit":
            error = TimeoutError("the handler did not finish within its time limit")
        elif why == "asker":
            return Ending("withdrawn")
        elif why == "superseded":
            return Ending("dropped")
        elif not (counted or entry.has_ended):
            return Ending("handed back")
    if isinstance(error, Reject):
        return Ending("rejected", error)
    if entry.has_ended:
        return Ending("failed", error)
    if counted:
        return Ending("retried", error)
    return Ending("put off" if isinstance(error, RetryAfter) else "handed back", error)
