"""One turn, as far as it is not the plain case: what precedes a handler, how it is called, and how its copy is settled.

Every path out of a handler ends in exactly one of: ack (with outputs), back, dead letter, answer or error to an asker.
Nothing here suspends but the handler itself. The plain case is the loop of the scheduler.
"""

import functools
import inspect
import math
import random
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

import anyio
import anyio.to_thread

from flowmesh._core.batches import BatchLease
from flowmesh._core.commits import (
    Ack,
    Back,
    Dead,
    Gone,
    Settle,
    Superseded,
    Verdict,
)
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.gates import Gates, TurnEnd
from flowmesh._core.ledger import UnusableLane
from flowmesh._core.retries import describe, verdict_on
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.batch_turns import copies_of, replies_of
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import compose
from flowmesh._runtime.context import Context, Output
from flowmesh._runtime.effects import Effects
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.room import Room
from flowmesh._runtime.settling import Settling, judge_actor
from flowmesh._runtime.statistics import Statistics
from flowmesh._runtime.tracing import note_refusal
from flowmesh._runtime.unions import Unions
from flowmesh._runtime.worker import Worker, step_in
from flowmesh.errors import (
    ActorFailed,
    ActorStopped,
    InvalidHandler,
    MalformedMessage,
    NoReply,
    Reject,
    RetryAfter,
    Unencodable,
)
from flowmesh.message import Message

__all__ = ["Turns"]


class Turns(Settling):
    """What the workers need for turns.

    `fault` is told what stops the mesh; `interrupted` that a scope around it was cancelled, so that nothing more is handed out.
    `resting`: actors that are left alone for a while, because the store did not take what a turn of theirs has made.
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
        super().__init__(ground, room, fault=fault)
        self._ledger = ground.ledger
        self._overview = overview
        self.interrupted = interrupted
        self.handed_back = 0
        self.workers: Iterable[Worker] = ()  # the scheduler's
        self.ready: Sized = ()  # the same: actors that are to go on
        self.unions: Unions | None = None  # acks that need no commit of their own, while there is a store that works

    # Before the handler

    def take_first(self, cell: Cell, by: Callable[[Any], Any]) -> Entry | None:
        """Lease the next copy of an actor that has lanes and nothing else to ask: a plain one that never came back.

        None: see whether `take` finds one.
        """
        try:
            return self._ledger.take_first(cell.box, by, cell.accepts, cell.instances)
        except UnusableLane as error:
            self._refuse_lane(cell, error)
            return None

    def take(self, cell: Cell) -> Entry | Message | None:
        """Lease the next copy of a mailbox that needs care, or return None; what has no lane is a dead letter."""
        while not cell.closed:
            try:
                if cell.gathering is not None:
                    return cell.gathering.take()
                item = self._ledger.take(
                    cell.box,
                    self._ground.now(),
                    cell.lane_of,
                    cell.gates,
                    postpone=cell.postpone,
                    lodging=cell.instances,
                )
                if cell.gates is not None and cell.gates.superseded:
                    self._cancel_superseded(cell, cell.gates)
            except UnusableLane as error:
                self._refuse_lane(cell, error)
            else:
                if self._room.waits.suspects:
                    self._room.waits.look_at_suspects()
                return item
        return None

    def _refuse_lane(self, cell: Cell, error: UnusableLane) -> None:
        """Bury a copy for which `by=` gives no lane; if that is a fault of the mesh, hand it back and stop."""
        cause = error.__cause__
        if cause is not None and not isinstance(cause, Exception):
            self._hand_back(cell, error.entry)
            self.fault(cause)
        else:
            self._refuse(cell, error.entry, _without_lane(cell, error))

    def _cancel_superseded(self, cell: Cell, gates: Gates) -> None:
        for entry in gates.superseded:
            for worker in self.workers:
                if worker.cell is cell and worker.message is entry.message:
                    worker.cancel("superseded")
        gates.superseded.clear()

    def begin(self, worker: Worker, cell: Cell, entry: Entry, place: int) -> Entry | None:
        """Lease an entry that was popped from the deque; None if it is a ghost or has expired."""
        shelf = cell.box.shelf
        if entry.state is not State.LEASED:
            if shelf is None:
                entry.place = place
            elif shelf.tail:
                self._ground.ledger.replenish(cell.box)
            entry.queued = False
            if entry.state is not State.READY:
                cell.box.ghosts -= 1
                return None
            if entry.expires is None:
                entry.state = State.LEASED
            elif not self._ground.ledger.lease(cell.box, entry, self._ground.now()):
                return None
        if isinstance(entry, Ask) and cell.leaves_with_asker:
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
        """Return what the handler, or who stands around it, wants to see of its turn, if anybody does."""
        if not cell.needs_context:
            return None
        acting: Acting = cell if cell.instances is None else cell.instances.of(entry)
        return Context(self._ground, acting, message, entry, self._overview)

    async def invoke(self, worker: Worker, cell: Cell, function: Callable[..., Any], body: Any, context: Context | None) -> Any:
        """Call a handler that is not plain: with a Context, middleware, a time limit, in a thread, in a context of its own."""
        handler, call = cell.handler, function
        if handler.context_as is not None:
            call = functools.partial(call, **{handler.context_as: context})
        if handler.takes_body:
            call = functools.partial(call, body)
        if not handler.is_async:
            call = functools.partial(_in_thread, call, cell.limiter)
        if cell.chain is not None:
            call = functools.partial(cell.chain, context, call)
        if cell.observed:
            self._tell_handed_out(cell, context)
        if cell.timeout is not None:
            worker.limit(self._ground.now() + cell.timeout)
        try:
            if cell.is_stepped:
                return await step_in(worker.clean.copy(), call())
            return await call()
        finally:
            worker.deadline = None

    def _tell_handed_out(self, cell: Cell, context: Context | None) -> None:
        observing = self._ground.observing
        assert observing is not None
        assert context is not None
        if context.is_batch:
            for item in context.batch.items:
                observing.handed_out(item.message, cell.box.name, actor=cell.name, attempt=item.attempt)
            return
        observing.handed_out(context.message, cell.box.name, actor=cell.name, attempt=context.attempt)

    def _refuse(self, cell: Cell, entry: Entry, error: BaseException) -> None:
        """Settle a copy that its handler cannot take."""
        if self._ground.tracing is not None:
            note_refusal(self._ground, cell, entry, error)
        cell.failed += 1
        if isinstance(entry, Ask) and entry.is_open:
            entry.fail(error)
        else:
            self._ground.log.error(
                "actor %r cannot take message %s: %s", cell.name, entry.message.id, describe(error), exc_info=error
            )
        self._commit(cell, Settle(cell.box, entry, Dead("malformed", str(error))))

    # After it

    def settle_success(
        self, cell: Cell, message: Message, entry: Entry | None, result: Any, context: Context | None, *, place: int
    ) -> None:
        """End a turn whose handler returned: ack, with everything that it made.

        If what it made cannot be stored, it has failed. `place`: of a copy without an entry.
        """
        outputs: list[Output] = []
        effects: Effects | None = None
        if context is not None:
            context.end()
            outputs = context.outputs
            effects = context.effects
        if isinstance(entry, BatchLease):
            self._settle_batch(cell, entry, result, outputs)
            return
        reply_to = message.properties.reply_to
        if reply_to is not None and (entry is None or not entry.asked):
            outputs = [*outputs, self._reply(message, reply_to, result)]
        box = cell.box
        is_stored = entry is not None and (
            bool(entry.number) or (cell.gates is not None and cell.gates.on_forgotten is not None)
        )
        if outputs or cell.observed or effects is not None or cell.committing or is_stored:
            if entry is None and self._ground.ledger.journal is not None:
                entry = box.lease_plain(message, place, message.timestamp - self._ground.wall_offset)
            if isinstance(entry, Ask):
                entry.answer_when_acked(result)
            settle = Settle(box, message if entry is None else entry, Ack())
            save, conclude = (None, None) if effects is None else (effects.save, effects.carry_out)
            try:
                self._commit(cell, settle, outputs=outputs, save=save, conclude=conclude)
            except Unencodable as error:
                assert entry is not None
                self._fail(cell, entry, error)
                if save is None:
                    judge_actor(cell, entry, error)
                else:
                    self._distrust(cell, entry, error)
        else:
            if isinstance(entry, Ask):
                entry.answer(result)
            box.acked += 1
            if entry is not None:
                entry.state = State.ENDED
                if entry.lane is not NO_LANE:
                    box.leave_lane(entry)
                if entry.watched:
                    entry.ended("acked")
                if entry.gated is not None:
                    self._end_at_gates(cell, [(entry, TurnEnd(is_done=True))])

    def _settle_batch(self, cell: Cell, lease: BatchLease, result: Any, outputs: list[Output]) -> None:
        """End a turn with several messages whose handler returned."""
        lease.is_over = True
        settles: list[Settle] = []
        errors: list[BaseException | None] = [lease.marks.get(index) for index in range(len(lease.copies))]
        outputs = list(outputs)
        for index, (entry, reply) in enumerate(zip(lease.copies, replies_of(lease, result), strict=True)):
            verdict: Verdict = Ack()
            if index in lease.marks:
                verdict = self._judge(cell, entry, lease.marks[index])
            elif isinstance(entry, Ask):
                entry.answer_when_acked(reply)
            elif (reply_to := entry.message.properties.reply_to) is not None:
                outputs.append(self._reply(entry.message, reply_to, reply))
            settles.append(Settle(cell.box, entry, verdict))
        try:
            self._end_batch(cell, lease, settles, outputs, errors)
        except Unencodable as error:
            self._fail(cell, lease, error)

    def _end_batch(
        self,
        cell: Cell,
        lease: BatchLease,
        settles: list[Settle],
        outputs: list[Output],
        errors: Sequence[BaseException | None] = (),
    ) -> None:
        lease.is_over = True

        def settled() -> None:
            if all(entry.has_ended for entry in lease.copies):
                lease.state = State.ENDED
            gathering = cell.gathering
            assert gathering is not None
            gathering.settled(lease)

        self._commit(cell, *settles, outputs=outputs, errors=errors, settled=settled)

    def note_late(self, worker: Worker, cell: Cell, message: Message) -> None:
        """Name a handler that returned although it had been cancelled."""
        if worker.doomed == "limit":
            self._ground.log.warning(
                "actor %r finished message %s although its time limit of %s s had passed", cell.name, message.id, cell.timeout
            )
        elif worker.doomed == "superseded":
            self._ground.log.warning(
                "actor %r finished message %s although it had been cancelled: a newer one takes its place",
                cell.name,
                message.id,
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
                judge_actor(cell, entry, limit if cancelled else error)
                return cancelled
            case "asker":
                self._withdraw(cell, entry, None if cancelled else error)
                if not cancelled:
                    judge_actor(cell, entry, error)
                return cancelled
            case "superseded":
                self._supersede(cell, entry, None if cancelled else error)
                return cancelled
            case "overtaken":
                self._withdraw(cell, entry, None if cancelled else error, "which a later fire of its schedule has overtaken")
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
                judge_actor(cell, entry, error)
                return False

    def _hand_back(self, cell: Cell, entry: Entry) -> None:
        copies = copies_of(entry)
        self.handed_back += sum(not copy.asked for copy in copies)  # A mesh that stops tells askers: nothing of an ask is left.
        settles = [Settle(cell.box, copy, Back()) for copy in copies]
        if isinstance(entry, BatchLease):
            self._end_batch(cell, entry, settles, [])
        else:
            self._commit(cell, *settles)

    def _withdraw(self, cell: Cell, entry: Entry, error: BaseException | None, why: str = "whose asker has left") -> None:
        """End a copy that nobody wants any more."""
        self._note_unheard(cell, entry, error, why)
        self._commit(cell, Settle(cell.box, entry, Gone()))

    def _note_unheard(self, cell: Cell, entry: Entry, error: BaseException | None, why: str = "whose asker has left") -> None:
        """Log what a handler raised for a copy that nobody wants any more: nobody waits for it."""
        if error is not None:
            cell.failed += 1
            self._ground.log.error(
                "actor %r failed on message %s, %s: %s",
                cell.name,
                entry.message.id,
                why,
                describe(error),
                exc_info=error,
            )

    def _supersede(self, cell: Cell, entry: Entry, error: BaseException | None) -> None:
        """End a copy whose place a newer one takes: a gate says so."""
        self._ground.log.info("actor %r dropped message %s: a newer one takes its place", cell.name, entry.message.id)
        if error is not None:
            self._ground.log.warning(
                "actor %r raised when message %s was dropped: %s",
                cell.name,
                entry.message.id,
                describe(error),
                exc_info=error,
            )
        self._commit(cell, Settle(cell.box, entry, Superseded()))

    def _fail(self, cell: Cell, entry: Entry, error: BaseException) -> None:
        """Apply the message policy to a failure."""
        if not isinstance(entry, BatchLease):
            self._commit(cell, Settle(cell.box, entry, self._judge(cell, entry, error)), errors=[error])
            return
        verdicts = [self._judge(cell, copy, error, traced=False) for copy in entry.copies]
        settles = [Settle(cell.box, copy, verdict) for copy, verdict in zip(entry.copies, verdicts, strict=True)]
        dead = [verdict for verdict in verdicts if isinstance(verdict, Dead)]
        if not all(copy.asked for copy in entry.copies) and any(verdict.reason == "failed" for verdict in dead):
            self._ground.log.error(
                "actor %r failed on a batch of %d messages, the first is %s: %s",
                cell.name,
                len(entry.copies),
                entry.message.id,
                describe(error),
                exc_info=error,
            )
        entry.failures += any(isinstance(verdict, Back) and bool(verdict.counted) for verdict in verdicts)
        self._end_batch(cell, entry, settles, [], [error] * len(settles))

    def _judge(self, cell: Cell, entry: Entry, error: BaseException, *, traced: bool = True) -> Verdict:
        """Say what becomes of a copy that failed, log it and tell its asker. `traced`: log the traceback, too."""
        ground, message = self._ground, entry.message
        if isinstance(entry, Ask) and not entry.is_open:
            self._note_unheard(cell, entry, error)
            return Gone()
        now = ground.now()
        verdict = verdict_on(error, failures=entry.failures, retry=cell.retry, chance=random.random())  # noqa: S311 - jitter
        if isinstance(verdict, Back) and isinstance(entry, Ask) and cell.stopped and not cell.box.consumers:
            stopped = ActorStopped(f"actor {cell.name!r} was stopped before it handled message {message.id} again")
            stopped.__cause__ = error
            cell.failed += 1
            entry.fail(stopped)
            return Gone()
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
                return verdict
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
                exc_info=error if traced else None,
            )
        return verdict


async def _in_thread(call: Callable[[], Any], limiter: anyio.CapacityLimiter | None) -> Any:
    """Call a plain handler in a worker thread."""
    (result,) = await anyio.to_thread.run_sync(_boxed, call, limiter=limiter)
    return await result if inspect.isawaitable(result) else result


def _boxed(call: Callable[[], Any]) -> tuple[Any]:
    """Call it; trio refuses a function that returns a coroutine from a thread, as a wrapped `async def` does."""
    return (call(),)


def _without_lane(cell: Cell, error: UnusableLane) -> MalformedMessage:
    cause = error.__cause__ or error
    if isinstance(cause, MalformedMessage):
        return cause
    what = "gave no lane" if error.gate is None else f"gave {error.gate} no value"
    refusal = MalformedMessage(f"by= of actor {cell.name!r} {what}: {describe(cause)}", message=error.entry.message)
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
