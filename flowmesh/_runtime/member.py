"""What is brought up and taken down again by somebody else: the keeper of an actor, a source, a supervision group.

Each has a task of its own, which enters and leaves what it is about; others only say what they want (`bring_up`, `take_down`,
`tell`) and wait until it is so.  Life: down -> coming up (perhaps after a wait) -> up -> going down -> down ... -> ended.
"""

from collections.abc import Callable
from typing import Any

from flowmesh._core.supervision import Failure
from flowmesh._core.timers import Timer
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.quiescence import wait_until

__all__ = ["Member"]


class Member:
    """One of them. `is_wanted`: to be up; `is_told`: to end for good. `is_up`, `is_down`, `has_ended`: where it is.

    `report`: takes its failures, and the news that it has ended by itself, when a group holds it; None when it has to answer
    for itself. `group`: looks when this one has changed. `is_due`: the wait before it comes up is over.
    """

    __slots__ = (
        "_timer",
        "ground",
        "group",
        "has_ended",
        "is_down",
        "is_due",
        "is_told",
        "is_up",
        "is_wanted",
        "name",
        "report",
        "waiters",
    )

    def __init__(self, ground: Ground, name: str) -> None:
        self.ground = ground
        self.name = name
        self.is_wanted = self.is_told = self.is_up = self.has_ended = False
        self.is_down = self.is_due = True
        self.report: Callable[[Any, Failure], None] | None = None
        self.group: Member | None = None
        self.waiters: list[Waiter] = []
        self._timer: Timer | None = None

    @property
    def is_lacking(self) -> bool:
        """It should be up, and is not."""
        return not (self.is_up or self.has_ended)

    def bring_up(self, delay: float = 0.0) -> None:
        """Let it come up, after so many seconds."""
        self.is_wanted = True
        self._forget_wait()
        if delay > 0:
            self.is_due = False
            self._timer = self.ground.ledger.timers.set(self.ground.now() + delay, self._end_wait)
        self.look()

    def take_down(self) -> None:
        """Let it go down, until it is brought up again."""
        self.is_wanted = False
        self._forget_wait()
        self.look()

    def tell(self) -> None:
        """Let it end for good."""
        self.is_told = True
        self._forget_wait()
        self.look()

    def look(self) -> None:
        """Let those who wait for a change of it look."""
        for waiter in self.waiters:
            self.ground.parking.wake(waiter)
        if self.group is not None:
            self.group.look()

    def look_late(self, _now: float) -> None:
        """Let them look: a deadline is over."""
        self.look()

    async def until(self, is_over: Callable[[], bool]) -> None:
        """Wait until this holds; looked at whenever something of it has changed."""
        await wait_until(self.ground, self.waiters, is_over)

    async def until_due(self) -> bool:
        """Wait until it shall come up; False if it shall end instead."""
        await self.until(lambda: self.is_told or (self.is_wanted and self.is_due))
        return not self.is_told

    async def until_down(self) -> None:
        """Wait until nothing of it runs."""
        await self.until(lambda: self.is_down or self.has_ended)

    def _end_wait(self, _now: float) -> None:
        self._timer = None
        self.is_due = True
        self.look()

    def _forget_wait(self) -> None:
        self.is_due = True
        if self._timer is not None:
            self.ground.ledger.timers.cancel(self._timer)
            self._timer = None
