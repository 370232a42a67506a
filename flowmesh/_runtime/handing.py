"""The ways of messages that are not plain ones, or whose handler takes more than the body; see the scheduler for the others.

`hand_to_instances` is the usual way to the instances of a class actor with `by=`: a plain message whose instance is there and
free is itself the holder of its lane, without an Entry.  `answer_asks` is that of asks whose handler takes the body and
nothing else.  `hand_out` is the way of everything: what is unusual about a message or its outcome is done by `Turns`.
"""

import contextvars
import math
from typing import Any, Final

from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.tracing import begin, end_failed
from flowmesh._runtime.turns import Turns
from flowmesh._runtime.unions import Arrival
from flowmesh._runtime.worker import Worker
from flowmesh.message import PLAIN, Message

__all__ = ["LEAVE", "Handing"]

READY, LEASED, ENDED = State.READY, State.LEASED, State.ENDED  # an Enum's members cost a look-up each
LEAVE: Final = -1
"""What is left of a turn when the worker needs a fresh scope, or has to end."""


class Handing:
    """Hands an actor's messages to its handler, for a worker that has taken a slot of the actor.

    Each way goes on until there is no message, the actor is closed or the worker's turn is over, and returns how many messages
    are left of the turn, or LEAVE; `worker.since` is then a moment of just now.
    """

    def __init__(self, ground: Ground, turns: Turns) -> None:
        self._ground = ground
        self._turns = turns

    async def hand_out(self, worker: Worker, cell: Cell, left: int, since: float) -> int:
        """Hand out messages of whatever kind."""
        ground, turns, box = self._ground, self._turns, cell.box
        now = ground.now
        copy_context, clean, cancelling = contextvars.copy_context, worker.clean, worker.cancelling
        tracing, span = ground.tracing, None
        function, accepts, is_plain = cell.function, cell.accepts, cell.is_plain
        needs_ledger, leaves_with_asker = cell.needs_ledger, cell.leaves_with_asker
        by, is_keyed = (cell.only_by, cell.instances is not None) if needs_ledger else (None, False)
        first = None
        shelf: Any = box.shelf
        worker.message = None
        worker.since = since
        while not cell.closed:
            if needs_ledger or box.careful:
                first = None if by is None else turns.take_first(cell, by)
                item = turns.take(cell) if first is None else first
                if item is None:
                    return 0 if box.has_next else left  # 0: it looked at as many as a turn may
                if is_keyed:
                    copy: Any = item
                    function = copy.home.call
                place = box.popped - 1
            elif box.fresh:
                item = box.fresh.popleft()
                place = box.popped
                box.popped = place + 1
            else:
                break
            if type(item) is Message:
                entry, message = None, item
                body = message.body
            elif first is not None:
                entry, message, body = first, first.message, first.body
            elif type(item) is Arrival and item.state is READY and item.expires is None and not shelf.tail:
                entry = item
                message = item.message
                body = message.body
                item.queued = False
                item.state = LEASED
            elif type(item) is Ask and item.state is READY and item.expires is None:
                entry, message = item, item.message
                body = message.body
                if box.shelf is None:
                    item.place = place
                item.queued = False
                item.state = LEASED
                if leaves_with_asker:
                    item.worker = worker
            elif type(item) is Entry and item.state is LEASED:
                entry, message = item, item.message
                body = message.body if item.body is None else item.body
            else:
                entry = turns.begin(worker, cell, item, place)
                if entry is None:
                    left -= 1
                    if left <= 0:
                        break
                    continue
                message = entry.message
                body = message.body if entry.body is None else entry.body
            if not isinstance(body, accepts):
                if entry is None:
                    entry = box.lease_plain(message, place, message.timestamp - ground.wall_offset)
                if not turns.convert(cell, entry):
                    left -= 1
                    if left <= 0:
                        break
                    continue
                body = entry.body
            context = None
            worker.message = message
            worker.since = since
            if tracing is not None:
                worker.unchosen -= 1.0
                if worker.unchosen < 0.0 or entry is not None or message.properties is not PLAIN:
                    if entry is None and message.properties is PLAIN:
                        span = worker.span = tracing.begin_plain(cell.name, box.name, message, now())
                    else:
                        span = worker.span = begin(tracing, cell, message, entry, now(), chosen=worker.unchosen < 0.0)
                    if worker.unchosen == -1.0:
                        worker.unchosen = tracing.draw()
            try:
                if is_plain:
                    result = await function(body)
                else:
                    context = turns.context(cell, message, entry)
                    result = await turns.invoke(worker, cell, function, body, context)
            except BaseException as error:
                worker.message = None
                if isinstance(error, GeneratorExit):
                    raise
                if entry is None:
                    entry = box.lease_plain(message, place, message.timestamp - ground.wall_offset)
                before = entry.failures
                is_ours = turns.settle_failure(worker, cell, entry, error, context)
                if cell.instances is not None:
                    cell.instances.ended(entry)
                if span is not None:
                    end_failed(worker, entry, error, counted=entry.failures > before)
                    span = None
                if is_ours:
                    raise
                since = worker.since = now()
            else:
                worker.message = None
                since = worker.since = now()
                if entry is None and context is None and message.properties is PLAIN:
                    box.acked += 1
                elif (
                    entry is not None
                    and entry.number
                    and context is None
                    and entry.lane is NO_LANE
                    and entry.gated is None
                    and cell.latest is None
                    and message.properties is PLAIN
                    and turns.unions is not None
                ):
                    turns.unions.ack(cell, entry)
                elif type(entry) is Ask and context is None and entry.lane is NO_LANE and not (needs_ledger or cell.committing):
                    entry.state = ENDED
                    box.acked += 1
                    entry.answer(result)
                elif first is not None and context is None and message.properties is PLAIN:
                    first.state = ENDED
                    box.acked += 1
                    box.free_lane(first.home, first.lane, since)
                else:
                    turns.settle_success(cell, message, entry, result, context, place=place)
                if tracing is not None and span is not None:
                    worker.span = None
                    tracing.end(span, since, ground.wall_offset)
                    span = None
                if worker.doomed is not None:
                    turns.note_late(worker, cell, message)
            left -= 1
            if worker.doomed is not None or copy_context() != clean:
                return LEAVE
            if cancelling is not None and cancelling():
                return 0
            if left <= 0 or since >= ground.turn_ends:
                return 0
        return left

    async def hand_to_instances(self, worker: Worker, cell: Cell, left: int, since: float) -> int:
        """Hand plain messages to the instances of an actor, as long as each is there and free; then go on with `hand_out`."""
        ground, box, by, instances = self._ground, cell.box, cell.only_by, cell.instances
        assert by is not None
        assert instances is not None
        now, accepts, tracing = ground.now, cell.accepts, ground.tracing
        copy_context, clean, cancelling = contextvars.copy_context, worker.clean, worker.cancelling
        is_crowded = bool(instances.line)  # Whose turn it is then, the other way knows.
        while box.fresh and not (is_crowded or box.careful or cell.closed):
            message: Any = box.fresh.popleft()
            body = message.body
            if (
                type(message) is not Message
                or message.properties is not PLAIN
                or not isinstance(body, accepts)
                or (tracing is not None and worker.unchosen < 1.0)
            ):
                box.fresh.appendleft(message)
                break
            try:
                value = by(body)
                lane: Any = box.lanes.get(value)
            except BaseException as error:  # noqa: BLE001 - Ctrl-C, or an end of the program, must not be lost
                box.fresh.appendleft(message)
                if isinstance(error, Exception):
                    break  # The other way asks once more, and buries what has no lane.
                self._turns.fault(error)
                return left
            if lane is None or not lane.is_ready or lane.holder is not None:
                box.fresh.appendleft(message)
                break
            place = box.popped
            box.popped = place + 1
            if tracing is not None:
                worker.unchosen -= 1.0
            lane.holder = message
            worker.message = message
            worker.since = since
            call = lane.call
            try:
                await call(body)
            except BaseException as error:
                entry = box.lease_plain(message, place, message.timestamp - ground.wall_offset)
                entry.lane, entry.body = value, body
                box.hold_for(entry)
                if self._fail(worker, cell, entry, error):
                    raise
                since = now()
            else:
                since = now()
                box.acked += 1
                if lane.is_ready and not (lane.live or instances.line):
                    # As `free_lane` does.
                    lane.holder = None
                    latest = instances.latest
                    lane.idle_since = instances.latest = since if since > latest else math.nextafter(latest, math.inf)
                else:
                    box.free_lane(lane, value, since)
                    is_crowded = bool(instances.line)
            left -= 1
            if worker.doomed is not None or copy_context() != clean:
                self.note_late(worker, cell)
                return LEAVE
            if (cancelling is not None and cancelling()) or left <= 0 or since >= ground.turn_ends:
                return 0
        if cell.closed or not (box.fresh or box.careful):
            worker.since = since
            return left
        return await self.hand_out(worker, cell, left, since)

    async def answer_asks(self, worker: Worker, cell: Cell, left: int, since: float) -> int:
        """Answer asks, as long as one is next that is open and unlimited, for an actor that is quick; then as `hand_out`.

        Of a mesh that is not traced, and a mailbox that is not stored.
        """
        ground, box = self._ground, cell.box
        now, wake, cancelling = ground.now, ground.parking.wake, worker.cancelling
        while box.fresh and not (box.careful or cell.closed or cell.committing):
            ask: Any = box.fresh.popleft()
            if type(ask) is not Ask or ask.state is not READY or ask.expires is not None:
                box.fresh.appendleft(ask)
                break
            message = ask.message
            body = message.body
            if not isinstance(body, cell.accepts):
                box.fresh.appendleft(ask)
                break
            ask.place = place = box.popped
            box.popped = place + 1
            ask.queued = False
            ask.state = LEASED
            if cell.leaves_with_asker:
                ask.worker = worker
            worker.message = message
            worker.since = since
            try:
                result = await cell.function(body)
            except BaseException as error:
                if self._fail(worker, cell, ask, error):
                    raise
                since = now()
            else:
                since = now()
                ask.state = ENDED
                box.acked += 1
                if ask.is_open:  # as `Ask.answer` does
                    ask.is_open = False
                    ask.value = result
                    wake(ask)
            left -= 1
            if worker.doomed is not None or contextvars.copy_context() != worker.clean:
                self.note_late(worker, cell)
                return LEAVE
            if (cancelling is not None and cancelling()) or left <= 0 or since >= ground.turn_ends:
                return 0
        if cell.closed or not (box.fresh or box.careful):
            worker.since = since
            return left
        return await self.hand_out(worker, cell, left, since)

    def fail_plain(self, worker: Worker, cell: Cell, message: Message, place: int, error: BaseException) -> bool:
        """End the turn of a plain message whose handler did not return; True if the error must go on, to whoever it is for."""
        entry = cell.box.lease_plain(message, place, message.timestamp - self._ground.wall_offset)
        return self._fail(worker, cell, entry, error)

    def note_late(self, worker: Worker, cell: Cell) -> None:
        """Name a handler that returned although it had been cancelled, if the last one of a plain message has."""
        if worker.doomed is not None and worker.message is not None:
            self._turns.note_late(worker, cell, worker.message)

    def _fail(self, worker: Worker, cell: Cell, entry: Entry, error: BaseException) -> bool:
        worker.message = None
        if isinstance(error, GeneratorExit):
            return True
        is_ours = self._turns.settle_failure(worker, cell, entry, error, None)
        if cell.instances is not None:
            cell.instances.ended(entry)
        return is_ours
