"""One turn, as far as it is not the plain case: what precedes a handler, how it is called, and how its copy is settled.

Every path out of a handler ends in exactly one of: ack (with outputs), back, dead letter, answer or error to an asker.
Nothing here suspends but the handler itself. The plain case is the loop of the scheduler.
"""

import functools
import inspect
import math
import random
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from flowmesh._core.commits import Ack, Back, Commit, Dead, Defer, Enter, Gone, Intent, PublishDue, Settle
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.ledger import UnusableLane
from flowmesh._core.retries import describe, verdict_on
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import compose
from flowmesh._runtime.context import Context, Output
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.room import Room
from flowmesh._runtime.statistics import Statistics
from flowmesh._runtime.worker import Worker, step_in
from flowmesh.errors import ActorFailed, ActorStopped, InvalidHandler, MalformedMessage, NoReply, Reject, RetryAfter
from flowmesh.message import Message

__all__ = ["Turns"]


class Turns:
    """What the workers need for turns.

    `fault` is told what stops the mesh; `interrupted` that a scope around it was cancelled, so that nothing more is handed out.
    """

    def __init__(
        self,
        ground: Ground,
        room: Room,
        overview: Callable[[], Statistics],
        *,
        fault: Callable[[BaseException], None],
        interrupted: Callable[[], None],
    ) -> None:
        self._ground = ground
        self._room = room
        self._overview = overview
        self.fault = fault
        self.interrupted = interrupted
        self.handed_back = 0

    # Before the handler

    def take(self, cell: Cell) -> Entry | Message | None:
        """Lease the next copy of a mailbox that needs care, or return None; what has no lane is a dead letter."""
        ground = self._ground
        while True:
            try:
                return ground.ledger.take(cell.box, ground.now(), cell.lane_of)
            except UnusableLane as error:
                self._refuse(cell, error.entry, _without_lane(cell, error))

    def begin(self, worker: Worker, cell: Cell, entry: Entry, place: int) -> Entry | None:
        """Lease an entry that was popped from the deque; None if it is a ghost or has expired."""
        if entry.state is not State.LEASED:
            entry.place = place
            entry.queued = False
            if entry.state is not State.READY:
                cell.box.ghosts -= 1
                return None
            if entry.expires is None:
                entry.state = State.LEASED
            elif not self._ground.ledger.lease(cell.box, entry, self._ground.now()):
                return None
        if isinstance(entry, Ask) and cell.handler.is_async:
            entry.worker = worker
        return entry

    def convert(self, cell: Cell, entry: Entry) -> bool:
        """Convert a body that is not of the handler's type; one that cannot be is a dead letter, and False."""
        try:
            cell.body_of(entry)
        except (MalformedMessage, InvalidHandler) as error:
            self._refuse(cell, entry, error)
            return False
        return True

    def context(self, cell: Cell, message: Message, entry: Entry | None) -> Context | None:
        """Return what the handler wants to see of its turn, if it does."""
        return None if cell.handler.context_as is None else Context(self._ground, cell, message, entry, self._overview)

    async def invoke(self, worker: Worker, cell: Cell, body: Any, context: Context | None) -> Any:
        """Call a handler that is not plain: with a Context, a time limit, in a thread, or in a context of its own."""
        handler = cell.handler
        call = handler.function
        if context is not None:
            assert handler.context_as is not None
            call = functools.partial(call, **{handler.context_as: context})
        if handler.takes_body:
            call = functools.partial(call, body)
        if cell.timeout is not None:
            worker.limit(self._ground.now() + cell.timeout)
        try:
            if not handler.is_async:
                (result,) = await anyio.to_thread.run_sync(_boxed, call, limiter=cell.limiter)
                return await result if inspect.isawaitable(result) else result
            if cell.is_stepped:
                return await step_in(worker.clean.copy(), call())
            return await call()
        finally:
            worker.deadline = None

    def _refuse(self, cell: Cell, entry: Entry, error: BaseException) -> None:
        """Settle a copy that its handler cannot take."""
        cell.failed += 1
        if isinstance(entry, Ask) and entry.is_open:
            entry.fail(error)
        else:
            self._ground.log.error(
                "actor %r cannot take message %s: %s", cell.name, entry.message.id, describe(error), exc_info=error
            )
        self._commit(cell, Settle(cell.box, entry, Dead("malformed", str(error))))

    # After it

    def settle_success(self, cell: Cell, message: Message, entry: Entry | None, result: Any, context: Context | None) -> None:
        """End a turn whose handler returned: ack, with everything that it made."""
        outputs: list[Output] = []
        if context is not None:
            context.end()
            outputs = context.outputs
        reply_to = message.properties.reply_to
        if reply_to is not None and (entry is None or not entry.asked):
            outputs = [*outputs, self._reply(message, reply_to, result)]
        box = cell.box
        if isinstance(entry, Ask):
            entry.answer(result)
        if outputs:
            self._commit(cell, Settle(box, message if entry is None else entry, Ack()), outputs=outputs)
        else:
            box.acked += 1
            if entry is not None:
                entry.state = State.ENDED
                if entry.lane is not NO_LANE:
                    box.leave_lane(entry)

    def note_late(self, worker: Worker, cell: Cell, message: Message) -> None:
        """Name a handler that returned although it had been cancelled."""
        if worker.doomed == "limit":
            self._ground.log.warning(
                "actor %r finished message %s although its time limit of %s s had passed", cell.name, message.id, cell.timeout
            )
        elif worker.doomed == "stop":
            self._ground.log.warning(
                "actor %r finished message %s although it had been cancelled: its mesh stops", cell.name, message.id
            )

    def _reply(self, message: Message, reply_to: str, result: Any) -> Output:
        ground = self._ground
        exchange = ground.router.default_exchange
        reply = compose(ground, result, exchange=exchange.name, key=reply_to, options={}, parent=message, now=ground.now())
        return Output(exchange, reply, {})

    def settle_failure(self, worker: Worker, cell: Cell, entry: Entry, error: BaseException, context: Context | None) -> bool:
        """End a turn whose handler did not return; True if the cancellation must go on to the scope that asked for it."""
        ground = self._ground
        if context is not None:
            context.end()
        error = without_cancellation(error)
        cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        if not cancelled and not isinstance(error, Exception):
            self._hand_back(cell, entry)
            self.fault(error)
            return False
        why = worker.doomed
        if why is None and anyio.current_effective_deadline() == -math.inf:
            why = "stop"  # A scope around all workers was cancelled.
            self.interrupted()
        match why:
            case "limit":
                limit = TimeoutError(f"actor {cell.name!r} did not finish message {entry.message.id} within {cell.timeout} s")
                if cancelled:
                    limit.__cause__ = error
                self._fail(cell, entry, limit if cancelled else error)
                return cancelled
            case "asker":
                self._withdraw(cell, entry, None if cancelled else error)
                return cancelled
            case "stop":
                self._hand_back(cell, entry)
                if not cancelled:
                    ground.log.warning(
                        "actor %r raised when message %s was handed back: %s",
                        cell.name,
                        entry.message.id,
                        describe(error),
                        exc_info=error,
                    )
                return cancelled
            case None:
                self._fail(cell, entry, error)  # A worker forgives itself a cancellation that nobody asked for.
                return False

    def _hand_back(self, cell: Cell, entry: Entry) -> None:
        self.handed_back += 1
        self._commit(cell, Settle(cell.box, entry, Back()))

    def _withdraw(self, cell: Cell, entry: Entry, error: BaseException | None) -> None:
        """End a copy whose asker has left; nobody waits for what its handler raised, so it is logged."""
        if error is not None:
            cell.failed += 1
            self._ground.log.error(
                "actor %r failed on message %s, whose asker has left: %s",
                cell.name,
                entry.message.id,
                describe(error),
                exc_info=error,
            )
        self._commit(cell, Settle(cell.box, entry, Gone()))

    def _fail(self, cell: Cell, entry: Entry, error: BaseException) -> None:
        """Apply the message policy to a failure."""
        ground, message = self._ground, entry.message
        if isinstance(entry, Ask) and not entry.is_open:
            self._withdraw(cell, entry, error)
            return
        now = ground.now()
        verdict = verdict_on(error, failures=entry.failures, retry=cell.retry, chance=random.random())  # noqa: S311 - jitter
        if isinstance(verdict, Back) and isinstance(entry, Ask) and cell.stopped and not cell.box.consumers:
            stopped = ActorStopped(f"actor {cell.name!r} was stopped before it handled message {message.id} again")
            stopped.__cause__ = error
            cell.failed += 1
            entry.fail(stopped)
            self._commit(cell, Settle(cell.box, entry, Gone()))
            return
        if isinstance(verdict, Back):
            deadline = message.properties.deadline
            if deadline is None or now + verdict.delay < deadline:
                cell.retried += verdict.counted is not None
                ground.log.info(
                    "actor %r: attempt %d at message %s ended with %s; again in %.3g s",
                    cell.name,
                    entry.failures + 1,
                    message.id,
                    describe(error),
                    verdict.delay,
                )
                self._commit(cell, Settle(cell.box, entry, verdict))
                return
            verdict = Dead("failed", describe(error))
        cell.failed += 1
        if isinstance(entry, Ask):
            entry.fail(_for_asker(error, cell, message))
        elif isinstance(error, Reject):
            ground.log.info("actor %r rejected message %s: %s", cell.name, message.id, error.reason)
        else:
            ground.log.error(
                "actor %r failed on message %s (attempt %d): %s",
                cell.name,
                message.id,
                entry.failures + 1,
                describe(error),
                exc_info=error,
            )
        self._commit(cell, Settle(cell.box, entry, verdict))

    def _commit(self, cell: Cell, settle: Settle, *, outputs: list[Output] | None = None) -> None:
        """Commit a turn, and hold the actor if what it moved left a `wait` mailbox over capacity."""
        ground = self._ground
        now = ground.now()
        intents: list[Intent] = [settle]
        for output in outputs or ():
            action: PublishDue = output.action()
            due = output.due(ground, now)
            intents.append(action if due is None else Defer(action, due[0], on_wall=due[1]))
        commit: Commit = ground.ledger.commit(*intents, now=now)
        if commit.notes:
            ground.tell(commit)
        for change in commit.changes:
            if isinstance(change, Enter):
                box = change.mailbox
                if box.options.overflow == "wait" and box.ready > box.options.capacity:
                    self._room.hold(cell, box)


def _boxed(call: Callable[[], Any]) -> tuple[Any]:
    """Call it; trio refuses a function that returns a coroutine from a thread, as a wrapped `async def` does."""
    return (call(),)


def _without_lane(cell: Cell, error: UnusableLane) -> MalformedMessage:
    cause = error.__cause__ or error
    if isinstance(cause, MalformedMessage):
        return cause
    refusal = MalformedMessage(f"by= of actor {cell.name!r} gave no lane: {describe(cause)}", message=error.entry.message)
    refusal.__cause__ = cause
    return refusal


def _for_asker(error: BaseException, cell: Cell, message: Message) -> BaseException:
    if isinstance(error, Reject):
        return NoReply(f"actor {cell.name!r} rejected message {message.id}: {error.reason}", reason="rejected", message=message)
    if isinstance(error, RetryAfter):
        return ActorFailed(
            f"actor {cell.name!r} put message {message.id} off by {error.delay} s, past the deadline of its asker",
            type=type(error).__name__,
        )
    if isinstance(error, Exception):
        return error
    # A cancellation must not look like one of the asker's own.
    return ActorFailed(
        f"actor {cell.name!r} was cancelled at message {message.id} by something inside its handler", type=type(error).__name__
    )
