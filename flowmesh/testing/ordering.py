"""The orders that `explore` tries: every choice that the mesh makes for itself is drawn from one seed.

Drawn: which ready actor is next, which idle worker is woken, how many messages a worker handles before it lets the others
run, in which order and how much later parked tasks go on, and how often somebody who lets the others run does so.  All of
it may happen on a busy machine, and none of it breaks a promise: copies of one mailbox keep their order, lines for room theirs.
On trio, the scheduler's own order is drawn from the seed as well.  So are random numbers of the `random` module, jitter among
them, and what the ids of messages begin with.  What threads, sockets and real time do is not.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from math import inf
from typing import Any

import trio

from flowmesh._runtime.arranging import arrangement
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Parkable, Parking
from flowmesh._runtime.worker import Worker

__all__ = ["Order", "seeded"]

_MAX_YIELDS = 3
_SHORT_TURN = 0.5  # How likely a worker's turn is over after one message.
_GO_ON = 0.5  # How likely the next parked task goes on in the same turn of the loop.


class _Ready(deque[Cell]):
    """A ready queue that hands out its actors in rounds, each in any order, and often ends the turn of who takes one.

    Rounds keep the promise that ready actors take turns.
    """

    def __init__(self, ground: Ground, chance: random.Random) -> None:
        super().__init__()
        self._ground = ground
        self._chance = chance
        self._round = 0  # How many of the first are still to come in this round.

    def popleft(self) -> Cell:
        self._round = min(self._round, len(self)) or len(self)
        place = self._chance.randrange(self._round)
        cell = self[place]
        del self[place]
        self._round -= 1
        if self._chance.random() < _SHORT_TURN:
            self._ground.turn_ends = -inf
        return cell


class _Parked(list[Worker]):
    """A stack of idle workers that gives any of them."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def pop(self, index: Any = None, /) -> Worker:
        return super().pop(self._chance.randrange(len(self)) if index is None else index)


class _Workers(set[Worker]):
    """A set in which workers stand as they came: by their addresses, each run of a program would see another order."""

    def __init__(self) -> None:
        super().__init__()
        self._came: dict[Any, None] = {}

    def add(self, element: Worker, /) -> None:
        super().add(element)
        self._came[element] = None

    def discard(self, element: object, /) -> None:
        super().discard(element)
        self._came.pop(element, None)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._came)


class _Parking:
    """Parks as the backend does, and wakes later, in any order.

    A wake-up is on its way until its task goes on, is cancelled, or parks anew, which it does only after it has looked.
    """

    def __init__(self, parking: Parking, chance: random.Random) -> None:
        self._parking = parking
        self._chance = chance
        self._on_their_way: list[Parkable] = []
        self._is_coming = False
        self._soon: Callable[[Callable[[], None]], object]
        self._soon = parking.call_soon if trio.lowlevel.in_trio_task() else asyncio.get_running_loop().call_soon
        self.forgive = parking.forgive
        self.cancelling = parking.cancelling
        self.call_next = parking.call_next
        self.call_soon = parking.call_soon
        self.is_running = parking.is_running
        self.outwait = parking.outwait

    def park(self, waiter: Parkable) -> Awaitable[None]:
        if waiter in self._on_their_way:
            self._on_their_way.remove(waiter)
        return self._parking.park(waiter)

    def park_among(self, waiter: Parkable) -> Awaitable[None]:
        if waiter in self._on_their_way:
            self._on_their_way.remove(waiter)
        return self._parking.park_among(waiter)

    def wake(self, waiter: Parkable) -> None:
        if _is_parked(waiter) and waiter not in self._on_their_way:
            self._on_their_way.append(waiter)
            self._come()

    def wake_all(self, waiters: Iterable[Parkable]) -> None:
        for waiter in waiters:
            self.wake(waiter)

    async def checkpoint(self) -> None:
        for _ in range(self._chance.randint(1, _MAX_YIELDS)):
            await self._parking.checkpoint()

    def _come(self) -> None:
        if not self._is_coming:
            self._is_coming = True
            self._soon(self._arrive)

    def _arrive(self) -> None:
        self._is_coming = False
        waiting = self._on_their_way
        while waiting:
            self._parking.wake(waiting.pop(self._chance.randrange(len(waiting))))
            if self._chance.random() >= _GO_ON:
                break
        if waiting:
            self._come()


def _is_parked(waiter: Parkable) -> bool:
    token = waiter.token
    return token is not None and not (asyncio.isfuture(token) and token.done())


class Order:
    """One order of everything: the Arrangement of every mesh that is started in its context.

    Args:
        seed: what all choices are drawn from.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - chosen, not secret
        self._names = random.Random(f"ids of {seed}")  # noqa: S311 - as above; of its own, so that no name changes an order

    def parking(self, parking: Parking) -> Parking:
        """Return one that wakes in any order."""
        return _Parking(parking, self._chance)

    def ready(self, ground: Ground) -> deque[Cell]:
        """Return one that gives any actor."""
        return _Ready(ground, self._chance)

    def parked(self) -> list[Worker]:
        """Return one that gives any worker."""
        return _Parked(self._chance)

    def prefix(self) -> str:
        """Return one that the next run with this seed has at the same place."""
        return f"{self._names.getrandbits(48):012x}-"

    def workers(self) -> set[Worker]:
        """Return one that keeps the order of arrival."""
        return _Workers()


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Draw everything inside from this seed: around the run of an event loop.

    `random` is put back as it was.
    """
    state = random.getstate()
    order = arrangement.set(Order(seed))
    random.seed(seed)
    try:
        with _trio_in_order(seed):
            yield
    finally:
        random.setstate(state)
        arrangement.reset(order)


@contextlib.contextmanager
def _trio_in_order(seed: int) -> Generator[None]:
    """Let trio's scheduler draw from the seed.

    trio has no public way to it; these are the two names that it keeps for Hypothesis to do the same.
    """
    run: Any = trio._core._run  # pyright: ignore[reportPrivateUsage] - see above
    before = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        run._r.setstate(before[1])
