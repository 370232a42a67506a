"""Consuming a mailbox by hand: a window of at most `prefetch` unsettled deliveries, one after another.

A delivery is taken when somebody asks for it, and only then, unless a consumer of lower priority asks first: then this one is
given what it has places for, and keeps it for whoever asks.
"""

import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from flowmesh._core.entry import Entry
from flowmesh._runtime.delivery import Delivery
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.pulling import Left, Pulling
from flowmesh.errors import MeshStopped, NotFound, PreconditionFailed

__all__ = ["Deliveries"]


class Deliveries:
    """What `mailbox.consume` yields: deliveries one after another, at most `prefetch` of them unsettled.

    The iteration ends when the mesh drains or the mailbox is deleted. Leaving hands back what is unsettled. Several tasks may
    iterate over it; they share the `prefetch`. `priority`: as it was given to `consume`.
    """

    def __init__(self, pulling: Pulling, prefetch: int, priority: int) -> None:
        self._pulling = pulling
        self._prefetch = prefetch
        self.priority = priority
        # Weak, so that a forgotten delivery is noticed.
        self._out: dict[Entry, weakref.ref[Delivery]] = {}
        self._kept: deque[Delivery] = deque()  # those of them that nobody has asked for
        self._fetching = 0  # iterations that have a place among the `prefetch`, and no delivery yet
        self._line: deque[Waiter] = deque()  # those that wait for a place
        self.is_open = False

    @property
    def is_active(self) -> bool:
        """It is handed deliveries; False before and after its block, and while it stands by for a `single_active` mailbox."""
        return self.is_open and self._pulling.is_active(self)

    async def __aenter__(self) -> Self:
        """Begin to consume.

        Raises:
            PreconditionFailed: it is entered twice, or an actor is fed from the mailbox.
            NotRunning, MeshStopped, NotFound: as `mailbox.get`.
        """
        if self.is_open:
            raise PreconditionFailed("these deliveries are being consumed already: call mailbox.consume() for each block")
        self._pulling.open(self)
        self.is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Hand back what is unsettled, and end the iterations of other tasks."""
        self.is_open = False
        for reference in list(self._out.values()):
            delivery = reference()
            if delivery is not None:
                delivery.hand_back()
        self._kept.clear()
        self._pulling.close(self)
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
            delivery = await self._take_place()
            if delivery is None:
                try:
                    delivery = await self._pulling.get(self)
                finally:
                    self._fetching -= 1
                self._count(delivery)
        except (MeshStopped, NotFound, Left):
            raise StopAsyncIteration from None
        finally:
            self._wake_first()
        return delivery

    def _count(self, delivery: Delivery) -> None:
        delivery.window = self
        self._out[delivery.entry] = weakref.ref(delivery)

    def keep(self, delivery: Delivery) -> None:
        """Take a delivery for whoever asks next."""
        self._count(delivery)
        self._kept.append(delivery)
        self._wake_first()

    def put_back(self) -> None:
        """Hand back what was kept and nobody asked for."""
        while self._kept:
            self._kept.popleft().hand_back()

    def release(self, entry: Entry) -> None:
        """Count one unsettled delivery less."""
        self._out.pop(entry, None)
        self._wake_first()

    def wake_all(self) -> None:
        """Make everybody who waits for a place look at the mesh's phase again."""
        for waiter in self._line:
            self._pulling.wake(waiter)

    @property
    def has_place(self) -> bool:
        """It can take one more delivery."""
        return len(self._out) + self._fetching < self._prefetch and self.is_active

    async def _take_place(self) -> Delivery | None:
        """Return what was kept for whoever asks, or take a place among the unsettled ones; wait in line for either.

        Cancellation: no place is taken.
        """
        if self._line or not (self._kept or self.has_place):
            self._pulling.check()
            waiter = Waiter()
            self._line.append(waiter)
            try:
                while not (self._line[0] is waiter and (self._kept or self.has_place)):
                    await self._pulling.park(waiter)
                    self._pulling.check(self)
            finally:
                self._line.remove(waiter)
        if self._kept:
            self._pulling.check(self)
            return self._kept.popleft()
        self._fetching += 1
        return None

    def _wake_first(self) -> None:
        if self._line and (self._kept or self.has_place):
            self._pulling.wake(self._line[0])
