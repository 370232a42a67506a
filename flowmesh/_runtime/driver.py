"""The driver: one task that sleeps until the next timer is due and carries out what it was set for.

Due times are rounded up to the wheel's tick of 1 ms, and there are at least a tick between two wake-ups, two ticks after a busy
one: so a hundred thousand timers within a second cost five hundred wake-ups.

A deferred message is by far the most common timer, so those that are due together are taken out together, and a plain one whose
mailboxes have room enters as a fast `publish` does: one append, no commit (see the ledger).  Everything else about it, and
every other timer, goes the long way.

The wall clock may jump while the driver sleeps.  A clock that says so (`watch_jumps`) lets it sleep as long as it likes; with
any other it looks again every WALL_RECHECK seconds while a timer on the wall clock is set, which is how late it may be to
notice that the clock was set forward.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
from msgspec.structs import force_setattr

from flowmesh._core.mailbox import EMPTY
from flowmesh._core.timers import NEVER, TICKS_PER_SECOND, Timer
from flowmesh._runtime.ground import TURN_MESSAGES, Ground
from flowmesh.message import PLAIN, Message

__all__ = ["BUSY_TICK", "TICK", "WALL_JUMP", "WALL_RECHECK", "Driver"]

TICK: Final = 1 / TICKS_PER_SECOND
BUSY_TICK: Final = 2 * TICK
BUSY: Final = 16
"""Timers of one wake-up from which on it counts as busy."""
MESSAGES_PER_TIMER: Final = 4
"""Deferred messages that weigh as much as one other timer when it is time to let the other tasks run."""
WALL_RECHECK: Final = 30.0
WALL_JUMP: Final = 1.0
"""A change of the wall clock by more than these seconds, against the monotonic one, is a jump: somebody has set it."""


class Driver:
    """Carries out due timers: a callable is called with the time, an intent is committed.

    `holds_deferred`: deferred messages that are due are kept, for the mesh drains. `on_wall_set` is called when the wall clock
    has jumped, before anything that is due by then.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._scope: anyio.CancelScope | None = None
        self._is_told_of_jumps = False
        self.holds_deferred = False
        self.on_wall_set: Callable[[], None] = _nothing
        self._wall_offset: float | None = None

    async def run(self) -> None:
        """Drive until cancelled.

        Cancellation: timers stay set.
        """
        ground, timers = self._ground, self._ground.ledger.timers
        watch: Callable[[Callable[[], None]], Callable[[], None] | None] | None = getattr(ground.clock, "watch_jumps", None)
        unwatch = None if watch is None else watch(self._wake)
        self._is_told_of_jumps = unwatch is not None
        timers.on_early = self._wake
        self._wall_offset = None
        try:
            while True:
                self._notice_jump(ground.clock.wall() - ground.now())
                least = TICK if await self._fire_due() < BUSY else BUSY_TICK
                delay = self._until_next()
                if delay <= least:
                    await ground.clock.sleep(least)
                    continue
                with anyio.CancelScope() as self._scope:
                    self._listen(delay)
                    await (anyio.sleep_forever() if delay == math.inf else ground.clock.sleep(delay))
                timers.horizon = timers.wall_horizon = -NEVER
        finally:
            timers.on_early = None
            timers.horizon = timers.wall_horizon = -NEVER
            if unwatch is not None:
                unwatch()

    def release_deferred(self) -> None:
        """Let deferred messages that came due while they were held come due again."""
        self.holds_deferred = False
        self._ground.ledger.timers.release()

    def _until_next(self) -> float:
        """Return the seconds until the next timer is due, or until the wall clock is to be looked at again."""
        ground = self._ground
        tick, wall_tick = ground.ledger.timers.next_ticks()
        delay = math.inf if tick is None or tick == NEVER else tick / TICKS_PER_SECOND - ground.now()
        if wall_tick is not None and wall_tick != NEVER:
            delay = min(delay, wall_tick / TICKS_PER_SECOND - ground.clock.wall())
            if not self._is_told_of_jumps:
                delay = min(delay, WALL_RECHECK)
        return delay

    def _notice_jump(self, offset: float) -> None:
        """Tell whoever wants to know that the wall clock differs from the monotonic one by something else than before."""
        before, self._wall_offset = self._wall_offset, offset
        if before is not None and abs(offset - before) > WALL_JUMP:
            self.on_wall_set()

    def _listen(self, delay: float) -> None:
        """Let timers that are due before the driver looks again wake it from now on."""
        ground, timers = self._ground, self._ground.ledger.timers
        if delay == math.inf:
            timers.horizon = timers.wall_horizon = NEVER
        else:
            timers.horizon = int((ground.now() + delay) * TICKS_PER_SECOND)
            timers.wall_horizon = int((ground.clock.wall() + delay) * TICKS_PER_SECOND)

    def _wake(self) -> None:
        timers = self._ground.ledger.timers
        timers.horizon = timers.wall_horizon = -NEVER
        if self._scope is not None:
            self._scope.cancel()

    async def _fire_due(self) -> int:
        """Carry out all that is due, and return how many timers that were.

        Cancellation: timers that have not been carried out stay set.
        """
        ground, timers = self._ground, self._ground.ledger.timers
        fired, left = 0, TURN_MESSAGES
        ground.new_turn()
        while True:
            now, wall = ground.now(), ground.clock.wall()
            due = timers.pop_run(Message, left * MESSAGES_PER_TIMER, now, wall)
            if due:
                self._publish(due, now)
                fired += len(due)
                left -= -(-len(due) // MESSAGES_PER_TIMER)
            elif (timer := timers.pop_due(now, wall)) is not None:
                self._fire(timer)
                fired += 1
                left -= 1
            else:
                return fired
            if left <= 0 or ground.now() >= ground.turn_ends:
                await ground.parking.checkpoint()
                ground.new_turn()
                left = TURN_MESSAGES

    def _publish(self, due: Sequence[Timer], now: float) -> None:
        """Let deferred messages enter; or hold them, if the mesh drains."""
        ground = self._ground
        if self.holds_deferred:
            for timer in due:
                ground.ledger.timers.hold(timer)
            return
        is_observed = ground.ledger.on_applied is not None
        wall, spare, exchanges = now + ground.wall_offset, ground.spare, ground.router.exchanges
        for timer in due:
            message: Message = timer.action
            exchange = exchanges.get(message.exchange)
            boxes = None if exchange is None else exchange.routes.get(message.key)
            if not boxes or is_observed or message.properties is not PLAIN:
                self._fire(timer)
                continue
            for box in boxes:
                if len(box.fresh) >= box.limit:
                    self._fire(timer)
                    break
            else:
                # Its copies are as old as their entering; until now nobody has seen it.
                force_setattr(message, "timestamp", wall)
                for box in boxes:
                    if box.fresh is EMPTY:
                        box.fresh = spare.pop() if spare else deque()
                    box.fresh.append(message)
                    box.entered += 1
                    if box.armed:
                        box.armed = False
                        box.on_ready()

    def _fire(self, timer: Timer) -> None:
        ground = self._ground
        now = ground.now() if timer.on_wall else max(ground.now(), timer.due)
        action: Any = timer.action
        if callable(action):
            call: Callable[[float], object] = action
            call(now)
            return
        commit = ground.ledger.commit(ground.ledger.intent_of(timer), now=now)
        if commit.notes:
            ground.tell(commit)
        ground.look_idle()


def _nothing() -> None:
    return None
