"""The ready queue of actors and the pool of workers that drain them.

Actors are objects, not tasks.  An actor with messages is listed in `ready`; a worker takes it, drains it until it is empty
or the worker's turn is over (64 messages or 2 ms, across actors), rests or re-lists it, and yields to the loop.  Before a
batch, when other actors are ready, one more worker is woken or started, unless one is already on its way or will be back
from its yield: so the pool grows only while handlers suspend.

Counts that quiescence is read from: `ready`, `workers`, `parked`.  A woken worker has left `parked`.
"""

import contextvars
import functools
import math
from collections import deque
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from flowmesh._core.mailbox import EMPTY, Mailbox
from flowmesh._runtime.arranging import Arrangement
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.autoscaling import Scaler
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import TURN_MESSAGES, TURN_SECONDS, Ground
from flowmesh._runtime.handing import LEAVE, Handing
from flowmesh._runtime.lineage import task_here
from flowmesh._runtime.turns import Turns
from flowmesh._runtime.worker import Doom, Worker, current_worker
from flowmesh.message import PLAIN, Message

__all__ = ["MAX_PARKED", "Scheduler"]

MAX_PARKED: Final = 64
"""Idle workers that are kept; a further one ends."""
MAX_SPARE: Final = 256
"""Empty deques that are kept for mailboxes that fill up."""


class Scheduler:
    """All actors and workers of one mesh. `gathering`: the actors whose messages wait for others."""

    def __init__(self, ground: Ground, turns: Turns) -> None:
        self._ground = ground
        self.ready: deque[Cell] = deque()
        self.workers: set[Worker] = set()
        self.parked: list[Worker] = []
        self._feeds: dict[Mailbox, Cell | list[Cell]] = {}  # the usual only actor of a mailbox itself
        self.waking = False
        self.yielding = 0
        self.stopping = True
        self._group: TaskGroup | None = None
        self._turns = turns
        self._handing = Handing(ground, turns)
        turns.open = self.open
        self.gathering: set[Cell] = set()

    # Actors

    def consumers_of(self, mailbox: Mailbox) -> list[Cell]:
        """Return the actors that are fed from a mailbox."""
        feed = self._feeds.get(mailbox)
        if feed is None:
            return []
        return feed if isinstance(feed, list) else [feed]

    def _cells(self) -> list[Cell]:
        """Return all actors."""
        return [cell for feed in self._feeds.values() for cell in (feed if isinstance(feed, list) else (feed,))]

    def serving(self, mailbox: Mailbox) -> list[Cell]:
        """Return those of them that are handed its messages: with `single_active` the first alone."""
        feed = self.consumers_of(mailbox)
        return feed[:1] if mailbox.options.single_active else feed

    def join(self, cell: Cell) -> None:
        """Feed an actor from its mailbox; behind the others that are, if only one may be active."""
        box = cell.box
        if box.options.single_active and box in self._feeds:
            cell.standby = True
        feed = self._feeds.get(box)
        if feed is None:
            self._feeds[box] = cell
        elif isinstance(feed, list):
            feed.append(cell)
        else:
            self._feeds[box] = [feed, cell]
        cell.pool = self
        if cell.autoscale is not None:
            cell.scaler = Scaler(self._ground, cell, cell.autoscale, self.open)
        if cell.gathering is not None:
            cell.gathering.attach(self._ground)
            self.gathering.add(cell)
        if cell.machines is not None:
            cell.machines.attach(self._ground)
        box.consumers += 1
        self._listen(box)
        if not self.stopping:
            self.open(cell)

    def leave(self, cell: Cell) -> None:
        """Feed it no longer; the next takes over if it was on standby."""
        box = cell.box
        feed = self._feeds[box]
        box.consumers -= 1
        if isinstance(feed, list):
            feed.remove(cell)
            first = feed[0]
            if len(feed) == 1:
                self._feeds[box] = first
            self._listen(box)
            if first.standby:
                first.standby = False
                self.open(first)
        else:
            del self._feeds[box]
            box.armed = False
        if cell.gathering is not None:
            self.gathering.discard(cell)
            cell.gathering.release()
        if cell.machines is not None:
            cell.machines.release()

    def open(self, cell: Cell) -> None:
        """Let an actor run, if nothing else keeps it from running; once stopping, nothing does."""
        if self.stopping:
            return
        if cell.limiter is None and not cell.handler.is_async:
            cell.limiter = anyio.CapacityLimiter(cell.slots)
        if cell.reopen():
            if cell.scaler is not None:
                cell.scaler.wake()
            self._rest(cell)
            self.serve()

    def _listen(self, mailbox: Mailbox) -> None:
        """Let the mailbox tell its actors, the usual only one directly."""
        feed = self._feeds[mailbox]
        if not isinstance(feed, list) and feed.scaler is None:
            mailbox.on_ready = feed
        else:
            mailbox.on_ready = functools.partial(_tell_all, feed if isinstance(feed, list) else [feed])

    def _rest(self, cell: Cell) -> None:
        """See what an actor does after a slot of it became free: list it again, or let its mailbox tell."""
        if cell.closed:
            if not cell.running:
                for waiter in cell.stopping:
                    self._ground.parking.wake(waiter)
        elif cell.box.has_next or (cell.gathering is not None and cell.gathering.look()):
            if not cell.listed:
                cell.listed = True
                self.ready.append(cell)
        else:
            cell.box.armed = True

    # Workers

    def start(self, group: TaskGroup, arranged: Arrangement | None = None) -> None:
        """Start handing out messages; workers live in `group`. `arranged`: what decides who is next."""
        self._group = group
        listed = self.ready
        self.ready = deque() if arranged is None else arranged.ready(self._ground)
        self.ready.extend(listed)
        self._turns.ready = self.ready
        self.parked = [] if arranged is None else arranged.parked()
        self._turns.workers = self.workers = set() if arranged is None else arranged.workers()
        self.stopping = False
        self.waking = False
        self.yielding = 0
        for cell in self._cells():
            if cell.limiter is not None:
                cell.limiter = None
            if cell.scaler is not None:
                cell.scaler.reset()
            self.open(cell)

    def stop(self) -> None:
        """Hand out nothing more; handlers that run go on."""
        self.stopping = True
        for cell in self._cells():
            cell.closed = True
            cell.listed = False
        self.ready.clear()
        while self.parked:
            self._ground.parking.wake(self.parked.pop().waiter)

    def cancel(self, why: Doom) -> None:
        """Cancel every handler that runs."""
        for worker in list(self.workers):
            worker.cancel(why)

    def overtake(self, message: Message, mailbox: Mailbox) -> None:
        """Cancel the handler that has this message from this mailbox: a later fire of its schedule has come."""
        for worker in list(self.workers):
            if worker.message is message and worker.cell is not None and worker.cell.box is mailbox:
                worker.cancel("overtaken")

    def cancel_of(self, cell: Cell, message: Message | None = None) -> None:
        """Cancel the handlers of one actor that run, or the one that has this message: their messages go back."""
        for worker in list(self.workers):
            if worker.cell is cell and (message is None or worker.message is message):
                worker.cancel("stop")

    def running(self) -> list[str]:
        """Name the handlers that run, with their messages, as a log line begins with them. May be called from any thread."""
        found: list[str] = []
        for worker in list(self.workers):
            cell, message = worker.cell, worker.message
            if cell is not None and message is not None:
                found.append(f"actor {cell.name!r} (message {message.id})")
        return found

    def running_for(self, seconds: float, now: float) -> dict[Cell, dict[str, float]]:
        """Return the turns that have been running for more than so many seconds: for how long, by actor and message id."""
        found: dict[Cell, dict[str, float]] = {}
        for worker in self.workers:
            cell, message = worker.cell, worker.message
            if cell is not None and message is not None and now - worker.since > seconds:
                found.setdefault(cell, {})[message.id] = now - worker.since
        return found

    @property
    def is_quiet(self) -> bool:
        """No turn runs and no actor has anything to look at."""
        return not self.ready and len(self.workers) == len(self.parked)

    def serve(self) -> None:
        """Wake or start a worker for what is ready, unless one is on its way already or will be back from its yield."""
        if not (self.waking or self.yielding or self.stopping) and self.ready:
            self.wake_one()

    def wake_one(self) -> None:
        """Wake or start a worker for what is ready; not once stopping."""
        self.waking = True
        if self.parked:
            self._ground.parking.wake(self.parked.pop().waiter)
            return
        worker = Worker(self._ground)
        self.workers.add(worker)
        assert self._group is not None
        # Never in a publisher's context: a worker outlives the call that started it.
        self._ground.context.run(self._group.start_soon, self._work, worker)

    async def _work(self, worker: Worker) -> None:
        self.waking = False
        current_worker.set(worker)
        worker.task = task_here()
        if self._ground.tracing is not None:
            worker.home = self._ground.tracing.follow(worker)
            worker.unchosen = self._ground.tracing.draw()
        worker.clean = contextvars.copy_context()
        worker.cancelling = self._ground.parking.cancelling()
        try:
            while worker.is_alive and not self.stopping:
                with anyio.CancelScope() as scope:
                    worker.scope = scope
                    worker.doomed = None
                    await self._serve(worker)
        except anyio.get_cancelled_exc_class():
            # A scope around the mesh: nothing may be handed out on the way to the drain.
            self._turns.interrupted()
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours must stop the mesh, not just this worker
            self._turns.fault(error)
        finally:
            self.workers.discard(worker)
            self.serve()
            self._ground.look_idle()

    async def _serve(self, worker: Worker) -> None:
        """Serve ready actors until the worker needs a fresh scope, or is not needed any more.

        The way of most messages: one loop over actors, in it one loop over an actor's messages, for plain ones whose handler
        takes the body and nothing else; one that succeeds costs a counter. `Handing` has the ways of all others.
        """
        ground, ready, handing = self._ground, self.ready, self._handing
        now = ground.now
        copy_context, clean, spare = contextvars.copy_context, worker.clean, ground.spare
        cancelling, tracing = worker.cancelling, ground.tracing
        left = TURN_MESSAGES
        since = ground.new_turn()
        while not self.stopping:
            if not ready:
                if len(self.parked) >= MAX_PARKED:
                    worker.is_alive = False
                    return
                self.parked.append(worker)
                if ground.has_idlers:
                    ground.look_idle()
                try:
                    await ground.parking.park(worker.waiter)
                except BaseException as error:
                    if worker in self.parked:
                        self.parked.remove(worker)
                    else:
                        self.waking = False
                    if not self._is_stray(error):
                        raise
                self.waking = False
                ground.budget = left = TURN_MESSAGES
                since = now()
                ground.turn_ends = since + TURN_SECONDS
                continue
            cell = ready.popleft()
            cell.listed = False
            running = cell.running + 1
            if cell.closed or running > cell.slots:
                continue
            cell.running = running
            box = cell.box
            if running < cell.slots:
                if len(box.fresh) + len(box.heap) > 1 and box.has_next:  # A mailbox that marks a copy hands out nothing.
                    cell.listed = True
                    ready.append(cell)
                else:
                    box.armed = True
            if ready and not (self.waking or self.yielding):
                self.wake_one()
            worker.cell = cell
            is_unsure = False  # whether the context is as it was
            try:
                if cell.is_quick:
                    function, accepts = cell.function, cell.accepts
                    while box.fresh and not (box.careful or cell.closed):
                        message: Any = box.fresh.popleft()
                        body = message.body
                        if (
                            type(message) is not Message
                            or message.properties is not PLAIN
                            or not isinstance(body, accepts)
                            or (tracing is not None and worker.unchosen < 1.0)
                        ):
                            box.fresh.appendleft(message)
                            is_unsure = True
                            if tracing is None and box.shelf is None and type(message) is Ask:
                                left = await handing.answer_asks(worker, cell, left, since)
                            else:
                                left = await handing.hand_out(worker, cell, left, since)
                            since = worker.since
                            break
                        place = box.popped
                        box.popped = place + 1
                        if tracing is not None:
                            worker.unchosen -= 1.0
                        worker.message = message
                        worker.since = since
                        try:
                            await function(body)
                        except BaseException as error:
                            is_unsure = True
                            if handing.fail_plain(worker, cell, message, place, error):
                                raise
                        else:
                            box.acked += 1
                        since = now()
                        left -= 1
                        if worker.doomed is not None or copy_context() != clean:
                            is_unsure = True
                            handing.note_late(worker, cell)
                            left = LEAVE
                            break
                        if cancelling is not None and cancelling():
                            left = 0
                            break
                        if left <= 0 or since >= ground.turn_ends:
                            left = 0
                            break
                    else:
                        if box.careful and not cell.closed:
                            is_unsure = True
                            left = await handing.hand_out(worker, cell, left, since)
                            since = worker.since
                else:
                    is_unsure = True
                    if (
                        cell.needs_ledger
                        and cell.is_plain
                        and cell.instances is not None
                        and cell.only_by is not None
                        and box.shelf is None
                    ):
                        left = await handing.hand_to_instances(worker, cell, left, since)
                    else:
                        left = await handing.hand_out(worker, cell, left, since)
                    since = worker.since
                if left < 0:
                    return
            finally:
                worker.message = None
                if is_unsure and copy_context() != clean:
                    # From now on its messages run in copies of the mesh's context; this worker ends with the change.
                    cell.is_stepped = True
                    cell.settle_call()
                    worker.is_alive = False
                cell.running -= 1
                fresh = box.fresh
                if fresh or box.careful or cell.closed or cell.listed or not (cell.is_quick or cell.gathering is None):
                    self._rest(cell)
                else:
                    box.armed = True
                    if fresh is not EMPTY and len(spare) < MAX_SPARE:
                        spare.append(fresh)
                        box.fresh = EMPTY
            if left == 0:
                self.yielding += 1
                try:
                    await ground.parking.checkpoint()
                except BaseException as error:
                    if not self._is_stray(error):
                        raise
                finally:
                    self.yielding -= 1
                if cancelling is not None and cancelling():
                    ground.parking.forgive()  # a handler swallowed it
                since = ground.new_turn()
                left = TURN_MESSAGES

    def _is_stray(self, error: BaseException) -> bool:
        """Forget a cancellation of the worker's task that a handler caused and left behind."""
        if not isinstance(error, anyio.get_cancelled_exc_class()) or anyio.current_effective_deadline() == -math.inf:
            return False
        self._ground.parking.forgive()
        return True


def _tell_all(feed: list[Cell]) -> None:
    for cell in feed:
        if cell.scaler is not None:
            cell.scaler.wake()
        cell()
