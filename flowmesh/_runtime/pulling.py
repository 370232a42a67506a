"""Pulling without an actor: the line of consumers that wait at a mailbox, and what they lease.

Waiting consumers of one mailbox stand in line, by priority and then as they came; the first is woken when there is a copy,
looks again, and wakes the next if there is more.  A consumer that leaves passes a wake-up on.

Consumers of higher priority are served first while they have places: before one of lower priority gets a copy, those above it
that have a place are given theirs, to be found when they ask (RabbitMQ's x-priority).  With `single_active` only the window
that was opened first has places.
"""

import functools
import math
from collections import deque
from collections.abc import Callable
from threading import get_ident

import anyio

from flowmesh._core.commits import Back, Settle, Verdict
from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.delivery import Delivery, Window
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.handover import Handover
from flowmesh._runtime.parking import Waiter
from flowmesh.errors import AlreadySettled, MeshError, MeshStopped, NotFound, PreconditionFailed, StoreError
from flowmesh.message import Message

__all__ = ["Left", "Pulling"]


class Left(Exception):
    """The block of these deliveries has been left, by another task."""


class Place(Waiter):
    """One consumer's place in the line."""

    __slots__ = ("priority",)

    def __init__(self, priority: int) -> None:
        super().__init__()
        self.priority = priority


class Pulling:
    """The manual consumers of one mailbox. `used` is called whenever one has left."""

    def __init__(self, ground: Ground, mailbox: Mailbox, used: Callable[[], None]) -> None:
        self._ground = ground
        self.mailbox = mailbox
        self._used = used
        self._line: deque[Place] = deque()
        self._windows: dict[Window, None] = {}
        self._highest = -math.inf  # the priority of a window
        self._taken_by: str | None = None

    # Who consumes

    @property
    def is_awaited(self) -> bool:
        """Somebody stands in line."""
        return bool(self._line)

    def is_active(self, window: Window) -> bool:
        """It is handed deliveries, and does not stand by."""
        return not self.mailbox.options.single_active or next(iter(self._windows), None) is window

    def open(self, window: Window) -> None:
        """Count a window as a consumer, behind the others that are open.

        Raises:
            PreconditionFailed, NotRunning, MeshStopped, NotFound, MeshError: as `check`.
        """
        self.check()
        self._windows[window] = None
        self._highest = max(self._highest, window.priority)
        self.mailbox.consumers += 1

    def close(self, window: Window) -> None:
        """Count it no longer; if it was the active one of its mailbox, the next is."""
        del self._windows[window]
        self._highest = max((other.priority for other in self._windows), default=-math.inf)
        self.mailbox.consumers -= 1
        self._used()
        self.wake_all()

    # Taking

    def take_now(self) -> Delivery:
        """Lease the next copy for somebody who does not wait.

        Raises:
            WouldBlock: none is ready.
            PreconditionFailed, NotRunning, MeshStopped, NotFound, MeshError: as `check` and `get`.
        """
        self.check()
        self._check_get()
        delivery = self._take_for(0)
        self._used()
        if delivery is None:
            raise anyio.WouldBlock
        return delivery

    async def get_one(self) -> Delivery:
        """Lease the next copy for somebody without a window; as `get`.

        Cancellation: no copy is leased.

        Raises:
            PreconditionFailed: only windows are served here; or as `check`.
            NotRunning, MeshStopped, NotFound, MeshError: as `check`.
        """
        self.check()
        self._check_get()
        try:
            return await self.get()
        finally:
            self._used()

    def _check_get(self) -> None:
        if self.mailbox.options.single_active:
            raise PreconditionFailed(
                f"mailbox {self.mailbox.name!r} has a single active consumer, which a get would go around: "
                "use async with mailbox.consume()"
            )

    def _take_for(self, priority: int) -> Delivery | None:
        """Lease the next copy for a consumer of this priority, once those above it that have a place were given theirs."""
        if self._line and self._line[0].priority > priority:
            return None  # It has been woken for what there is.
        while self._highest > priority:
            above = [window for window in self._windows if window.priority > priority and window.has_place]
            if not above:
                break
            highest = max(window.priority for window in above)
            for window in above:
                if window.priority == highest:
                    delivery = self._take()
                    if delivery is None:
                        return None
                    window.keep(delivery)
        return self._take()

    def _take(self) -> Delivery | None:
        """Lease the next copy, or return None."""
        ground, mailbox = self._ground, self.mailbox
        item = ground.ledger.take(mailbox, ground.now())
        if item is None:
            return None
        if isinstance(item, Message):
            # It entered when it was published: what is handed back is as old as that.
            entered = min(item.timestamp - ground.wall_offset, ground.now())
            item = mailbox.lease_plain(item, mailbox.popped - 1, entered)
        ground.leases += 1
        if mailbox.shelf is not None and item.number:
            mailbox.shelf.pulled.add(item)
        if ground.observing is not None:
            ground.observing.handed_out(item.message, mailbox.name, actor=None, attempt=item.failures + 1)
        return Delivery(self, item)

    async def get(self, window: Window | None = None) -> Delivery:
        """Lease the next copy; wait in line for one. Suspends only when there is none, or when the caller's turn is over.

        Cancellation: no copy is leased.

        Raises:
            PreconditionFailed, NotRunning, MeshStopped, NotFound, MeshError: as `check`.
        """
        ground = self._ground
        self.check()
        if ground.budget <= 0 or ground.now() >= ground.turn_ends:
            # A consumer with much to take must not hold the loop, as a sender must not.
            await ground.breathe()
            self.check(window)
        ground.budget -= 1
        priority = 0 if window is None else window.priority
        place = len(self._line)
        while place and self._line[place - 1].priority < priority:
            place -= 1
        if not place and (delivery := self._take_for(priority)) is not None:
            return delivery
        waiter = Place(priority)
        self._line.insert(place, waiter)
        delivery = None
        try:
            while delivery is None:
                self.mailbox.on_ready = self._wake_first
                self.mailbox.armed = True
                await ground.parking.park(waiter)
                self.check(window)
                if self._line[0] is waiter:
                    delivery = self._take_for(priority)
        finally:
            self._line.remove(waiter)
            if self._line:
                self.mailbox.armed = True
                if self.mailbox.has_next:
                    self._wake_first()
        return delivery

    def settle(self, entry: Entry, verdict: Verdict, window: Window | None) -> Handover | None:
        """Carry out a verdict; if that is stored, return what to wait for."""
        ground, shelf = self._ground, self.mailbox.shelf
        if entry.number:
            if shelf is None or entry not in shelf.pulled:
                return None  # Of an earlier run: it is handed back already.
            shelf.pulled.discard(entry)
        handover = None if ground.ledger.journal is None else Handover(ground)

        def then(error: StoreError | None) -> None:
            if error is not None:
                ground.ledger.commit(Settle(self.mailbox, entry, Back()), now=ground.now())
            if handover is not None:
                handover(error)

        commit = ground.ledger.commit(Settle(self.mailbox, entry, verdict), now=ground.now(), then=then)
        ground.tell(commit)
        ground.leases -= 1
        if window is not None:
            window.release(entry)
        ground.look_idle()
        return handover

    def check_settle(self, entry: Entry) -> None:
        """Refuse to settle a stored copy that this run of the mesh has not handed out, or after its end.

        Raises:
            AlreadySettled: it was handed out by an earlier run of the mesh, and went back with its end.
            MeshStopped: the mesh has stopped; the copy goes back when it is entered again.
        """
        if not entry.number:
            return
        ground, shelf = self._ground, self.mailbox.shelf
        if shelf is None or entry not in shelf.pulled:
            raise AlreadySettled(
                f"the delivery of message {entry.message.id} is of an earlier run of {ground.label}, and went back when that "
                "ended: it is handed out again",
                message=entry.message,
            )
        if ground.ledger.journal is None:
            raise MeshStopped(
                f"{ground.label} {ground.phase.value}: message {entry.message.id} cannot be settled in its store, and is "
                "handed out again when the mesh is entered again"
            ) from ground.cause

    def forgotten(self, entry: Entry, window: Window | None) -> None:
        """Hand back the copy of a forgotten delivery, from wherever the collector runs."""
        self._ground.do_soon(functools.partial(self.settle, entry, Back(), window))

    async def park(self, waiter: Waiter) -> None:
        """Wait to be woken with `wake`.

        Cancellation: leaves nothing behind.
        """
        await self._ground.parking.park(waiter)

    def wake(self, waiter: Waiter) -> None:
        """Wake a consumer to look again."""
        self._ground.parking.wake(waiter)

    def wake_all(self) -> None:
        """Make every consumer look at the mesh's phase again."""
        for waiter in self._line:
            self._ground.parking.wake(waiter)
        for window in self._windows:
            window.wake_all()

    def check(self, window: Window | None = None) -> None:
        """Refuse a consumer that cannot be served, or whose window has been closed.

        Raises:
            NotRunning: the mesh has not been started.
            MeshStopped: it drains, or has stopped.
            MeshError: the caller is in a foreign thread.
            PreconditionFailed: an actor is fed from the mailbox.
            NotFound: the mailbox has been deleted.
            Left: the window has been closed.
            ForkedProcessError: what is in the store belongs to the process that this one is a fork of.
        """
        ground = self._ground
        if ground.phase in (Phase.NEW, Phase.STARTING):
            raise ground.not_running("pull from a mailbox inside 'async with mesh'")
        if ground.phase is not Phase.RUNNING:
            raise MeshStopped(f"mesh {ground.name!r} {ground.phase.value}: nothing more is handed out") from ground.cause
        if get_ident() != ground.thread:
            raise MeshError(
                f"mesh {ground.name!r} runs in another thread: pull with anyio.from_thread.run(mailbox.get), "
                "or from_thread.run_sync(mailbox.get_nowait)"
            )
        if ground.ledger.journal is not None and self.mailbox.shelf is not None:
            ground.ledger.journal.check_process()
        if self._taken_by is not None:
            raise PreconditionFailed(
                f"mailbox {self.mailbox.name!r} now feeds actor {self._taken_by!r}: bind a mailbox of its own to pull from"
            )
        if self.mailbox.deleted:
            raise NotFound(
                f"mailbox {self.mailbox.name!r} has been deleted{_why(self.mailbox)}: declare it again to pull from it"
            )
        if window is not None and not window.is_open:
            raise Left

    def take_over(self, actor: str) -> None:
        """Turn the consumers away: from now on an actor is fed from the mailbox. What they have in hand they settle."""
        self._taken_by = actor
        for window in self._windows:
            window.put_back()
        self.wake_all()

    def _wake_first(self) -> None:
        if self._line:
            self._ground.parking.wake(self._line[0])


def _why(mailbox: Mailbox) -> str:
    return f" (nobody used it for {mailbox.options.expires:g} s, its expires=)" if mailbox.lapsed else ""
