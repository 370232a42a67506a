"""The driver: one task that sleeps until the next timer is due and carries out what it was set for.

Under load it wakes at most once a millisecond: a due time is rounded up, so that a hundred thousand timers cost a thousand
wake-ups.  While timers on the wall clock are set it looks again every few seconds, so that a jump of that clock is noticed.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import anyio

from flowmesh._core.commits import PublishDue
from flowmesh._core.timers import Timer
from flowmesh._runtime.ground import TURN_MESSAGES, Ground

__all__ = ["Driver"]

TICK: Final = 0.001
WALL_RECHECK: Final = 5.0
ROUNDING: Final = 1e-6
"""What adding and subtracting seconds may lose: a timer this close to its due time is due."""


class Driver:
    """Carries out due timers: a callable is called with the time, an intent is committed.

    `holds_deferred`: deferred messages that are due are kept, for the mesh drains.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._scope: anyio.CancelScope | None = None
        self.holds_deferred = False
        self._held: list[Timer] = []

    async def run(self) -> None:
        """Drive until cancelled.

        Cancellation: timers stay set.
        """
        ground, timers = self._ground, self._ground.ledger.timers
        timers.on_early = self._wake
        try:
            while True:
                fired = 0
                wall = ground.clock.wall()
                while (timer := timers.pop_due(ground.now() + ROUNDING, wall)) is not None:
                    self._fire(timer)
                    fired += 1
                    if fired % TURN_MESSAGES == 0 or ground.now() >= ground.turn_ends:
                        await ground.parking.checkpoint()
                        ground.new_turn()
                delay = self._until_next()
                with anyio.CancelScope() as self._scope:
                    await (anyio.sleep_forever() if delay == math.inf else ground.clock.sleep(delay))
                timers.horizon = timers.wall_horizon = -math.inf
        finally:
            timers.on_early = None
            timers.horizon = timers.wall_horizon = -math.inf

    @property
    def held(self) -> int:
        """How many deferred messages came due while they were held."""
        return len(self._held)

    def release_deferred(self) -> None:
        """Set the timers again that came due while deferred messages were held."""
        self.holds_deferred = False
        for timer in self._held:
            self._ground.ledger.timers.set(timer.due, timer.action, on_wall=timer.on_wall)
        self._held.clear()

    def _until_next(self) -> float:
        """Return the seconds to sleep, and let earlier timers wake the driver from now on."""
        ground, timers = self._ground, self._ground.ledger.timers
        now, wall = ground.now(), ground.clock.wall()
        due, wall_due = timers.next_due()
        delay = math.inf if due is None else due - now
        if wall_due is not None:
            delay = min(delay, wall_due - wall, WALL_RECHECK)
        delay = max(delay, TICK)
        timers.horizon = now + delay
        timers.wall_horizon = wall + delay
        return delay

    def _wake(self) -> None:
        timers = self._ground.ledger.timers
        timers.horizon = timers.wall_horizon = -math.inf
        if self._scope is not None:
            self._scope.cancel()

    def _fire(self, timer: Timer) -> None:
        ground = self._ground
        now = ground.now() if timer.on_wall else max(ground.now(), timer.due)
        action: Any = timer.action
        if isinstance(action, PublishDue) and self.holds_deferred:
            self._held.append(timer)
            return
        if callable(action):
            call: Callable[[float], object] = action
            call(now)
            return
        commit = ground.ledger.commit(action, now=now)
        if commit.notes:
            ground.tell(commit)
        ground.look_idle()
