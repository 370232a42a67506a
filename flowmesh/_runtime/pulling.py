"""Pulling without an actor: deliveries that a consumer settles itself.

Waiting consumers of one mailbox stand in line; the first is woken when there is a copy, looks again, and wakes the next if
there is more.  A consumer that leaves passes a wake-up on.
"""

import math
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator
from threading import get_ident
from typing import Final, Self

from flowmesh._core.commits import Ack, Back, Dead, Settle, Verdict
from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.parking import Waiter
from flowmesh.errors import AlreadySettled, MeshError, MeshStopped, NotFound, NotRunning, PreconditionFailed
from flowmesh.message import Message

__all__ = ["Deliveries", "Delivery", "Pulling"]

_VERBS: Final = {Ack: "acked", Back: "handed back", Dead: "rejected"}


class Delivery:
    """One handing-out of a message, to be settled exactly once.

    Garbage-collected unsettled, it goes back with a ResourceWarning.
    """

    __slots__ = ("__weakref__", "_pulling", "_settled", "entry", "window")

    def __init__(self, pulling: "Pulling", entry: Entry) -> None:
        self._pulling = pulling
        self.entry = entry
        self.window: Deliveries | None = None
        self._settled: str | None = None

    @property
    def message(self) -> Message:
        """The message."""
        return self.entry.message

    @property
    def attempt(self) -> int:
        """1, and one more for each exception or time limit before."""
        return self.entry.failures + 1

    @property
    def redelivered(self) -> bool:
        """This copy was, or may have been, handed out before."""
        return self.entry.redelivered

    async def ack(self) -> None:
        """End the delivery: done. Takes effect at once; no checkpoint.

        Raises:
            AlreadySettled: it was settled before.
        """
        self._settle(Ack())

    async def nack(self, *, delay: float = 0.0) -> None:
        """Hand the copy back, to be handed out again at its place, now or after `delay` seconds.

        Counts towards `max_deliveries`; past that it is a dead letter.

        Raises:
            AlreadySettled: it was settled before.
            ValueError: a delay that is negative or not finite.
        """
        if not (delay >= 0 and math.isfinite(delay)):
            raise ValueError(f"delay must be zero or more seconds, not {delay!r}")
        self._settle(Back(delay, "handout"))

    async def reject(self, reason: str = "") -> None:
        """Make the copy a dead letter.

        Raises:
            AlreadySettled: it was settled before.
        """
        self._settle(Dead("rejected", reason))

    @property
    def is_settled(self) -> bool:
        """It has been settled."""
        return self._settled is not None

    def hand_back(self) -> None:
        """Hand it back uncounted, if it is not settled: its consumer has left."""
        if self._settled is None:
            self._settle(Back())

    def _settle(self, verdict: Ack | Back | Dead) -> None:
        if self._settled is not None:
            raise AlreadySettled(
                f"the delivery of message {self.message.id} has already been {self._settled}: settle each delivery once",
                message=self.message,
            )
        self._settled = _VERBS[type(verdict)]
        self._pulling.settle(self.entry, verdict, self.window)

    def __del__(self) -> None:
        # Also runs for a half-made object, and in any thread.
        if getattr(self, "_settled", "") is None:
            self._pulling.forgotten(self.entry, self.window)
            warnings.warn(
                f"a delivery of message {self.entry.message.id} from mailbox {self._pulling.mailbox.name!r} was forgotten: "
                "it goes back; settle it with ack(), nack() or reject()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class Left(Exception):
    """The block of these deliveries has been left, by another task."""


class Pulling:
    """The manual consumers of one mailbox."""

    def __init__(self, ground: Ground, mailbox: Mailbox) -> None:
        self._ground = ground
        self.mailbox = mailbox
        self._line: deque[Waiter] = deque()
        self.windows: set[Deliveries] = set()
        self._taken_by: str | None = None
        self._forgotten: deque[tuple[Entry, Deliveries | None]] = deque()

    def take(self) -> Delivery | None:
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
        return Delivery(self, item)

    async def get(self, window: "Deliveries | None" = None) -> Delivery:
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
        if not self._line and (delivery := self.take()) is not None:
            return delivery
        waiter = Waiter()
        self._line.append(waiter)
        delivery = None
        try:
            while delivery is None:
                self.mailbox.on_ready = self._wake_first
                self.mailbox.armed = True
                await ground.parking.park(waiter)
                self.check(window)
                if self._line[0] is waiter:
                    delivery = self.take()
        finally:
            self._line.remove(waiter)
            if self._line:
                self.mailbox.armed = True
                if self.mailbox.has_next:
                    self._wake_first()
        return delivery

    def settle(self, entry: Entry, verdict: Verdict, window: "Deliveries | None") -> None:
        """Carry out a verdict."""
        ground = self._ground
        commit = ground.ledger.commit(Settle(self.mailbox, entry, verdict), now=ground.now())
        ground.tell(commit)
        ground.leases -= 1
        if window is not None:
            window.release(entry)
        ground.look_idle()

    def forgotten(self, entry: Entry, window: "Deliveries | None") -> None:
        """Hand back the copy of a forgotten delivery, from wherever the collector runs."""
        self._forgotten.append((entry, window))
        self._ground.parking.call_soon(self.take_forgotten)

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
        for window in self.windows:
            window.wake_all()

    def check(self, window: "Deliveries | None" = None) -> None:
        """Refuse a consumer that cannot be served, or whose window has been closed.

        Raises:
            NotRunning: the mesh has not been started.
            MeshStopped: it drains, or has stopped.
            MeshError: the caller is in a foreign thread.
            PreconditionFailed: an actor is fed from the mailbox.
            NotFound: the mailbox has been deleted.
            Left: the window has been closed.
        """
        ground = self._ground
        if ground.phase in (Phase.NEW, Phase.STARTING):
            raise NotRunning(f"mesh {ground.name!r} {ground.phase.value}: pull from a mailbox inside 'async with mesh'")
        if ground.phase is not Phase.RUNNING:
            raise MeshStopped(f"mesh {ground.name!r} {ground.phase.value}: nothing more is handed out") from ground.cause
        if get_ident() != ground.thread:
            raise MeshError(
                f"mesh {ground.name!r} runs in another thread: pull with anyio.from_thread.run(mailbox.get), "
                "or from_thread.run_sync(mailbox.get_nowait)"
            )
        if self._taken_by is not None:
            raise PreconditionFailed(
                f"mailbox {self.mailbox.name!r} now feeds actor {self._taken_by!r}: bind a mailbox of its own to pull from"
            )
        if self.mailbox.deleted:
            raise NotFound(f"mailbox {self.mailbox.name!r} has been deleted: declare it again to pull from it")
        if window is not None and not window.is_open:
            raise Left

    def take_over(self, actor: str) -> None:
        """Turn the consumers away: from now on an actor is fed from the mailbox. What they have in hand they settle."""
        self._taken_by = actor
        self.wake_all()

    def take_forgotten(self) -> None:
        """Hand back what was forgotten; also what was when no loop ran."""
        while self._forgotten:
            entry, window = self._forgotten.popleft()
            self.settle(entry, Back(), window)

    def _wake_first(self) -> None:
        if self._line:
            self._ground.parking.wake(self._line[0])


class Deliveries:
    """What `mailbox.consume` yields: deliveries one after another, at most `prefetch` of them unsettled.

    The iteration ends when the mesh drains or the mailbox is deleted. Leaving hands back what is unsettled. Several tasks may
    iterate over it; they share the `prefetch`.
    """

    def __init__(self, pulling: Pulling, prefetch: int) -> None:
        self._pulling = pulling
        self._prefetch = prefetch
        # Weak, so that a forgotten delivery is noticed.
        self._out: dict[Entry, weakref.ref[Delivery]] = {}
        self._fetching = 0  # iterations that have a place among the `prefetch`, and no delivery yet
        self._line: deque[Waiter] = deque()  # those that wait for a place
        self.is_open = False

    async def __aenter__(self) -> Self:
        """Begin to consume.

        Raises:
            PreconditionFailed: it is entered twice, or an actor is fed from the mailbox.
            NotRunning, MeshStopped, NotFound: as `mailbox.get`.
        """
        if self.is_open:
            raise PreconditionFailed("these deliveries are being consumed already: call mailbox.consume() for each block")
        self._pulling.check()
        self.is_open = True
        self._pulling.windows.add(self)
        self._pulling.mailbox.consumers += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Hand back what is unsettled, and end the iterations of other tasks."""
        self.is_open = False
        self._pulling.windows.discard(self)
        self._pulling.mailbox.consumers -= 1
        for reference in list(self._out.values()):
            delivery = reference()
            if delivery is not None:
                delivery.hand_back()
        self._pulling.wake_all()
        self.wake_all()

    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Iterate over the deliveries."""
        return self

    async def __anext__(self) -> Delivery:
        """Return the next delivery; wait for one, and for a place among the unsettled ones.

        Cancellation: no copy is leased.

        Raises:
            PreconditionFailed: it is not entered, or an actor is fed from the mailbox now.
        """
        if not self.is_open:
            raise PreconditionFailed("iterate inside the block: async with mailbox.consume() as deliveries: ...")
        try:
            await self._take_place()
            try:
                delivery = await self._pulling.get(self)
            finally:
                self._fetching -= 1
        except (MeshStopped, NotFound, Left):
            raise StopAsyncIteration from None
        finally:
            self._wake_first()
        delivery.window = self
        self._out[delivery.entry] = weakref.ref(delivery)
        return delivery

    def release(self, entry: Entry) -> None:
        """Count one unsettled delivery less."""
        self._out.pop(entry, None)
        self._wake_first()

    def wake_all(self) -> None:
        """Make everybody who waits for a place look at the mesh's phase again."""
        for waiter in self._line:
            self._pulling.wake(waiter)

    @property
    def _has_place(self) -> bool:
        return len(self._out) + self._fetching < self._prefetch

    async def _take_place(self) -> None:
        """Take a place among the unsettled ones; wait in line for it.

        Cancellation: no place is taken.
        """
        if self._line or not self._has_place:
            self._pulling.check()
            waiter = Waiter()
            self._line.append(waiter)
            try:
                while not (self._line[0] is waiter and self._has_place):
                    await self._pulling.park(waiter)
                    self._pulling.check(self)
            finally:
                self._line.remove(waiter)
        self._fetching += 1

    def _wake_first(self) -> None:
        if self._line and self._has_place:
            self._pulling.wake(self._line[0])
