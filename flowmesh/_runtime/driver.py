"""The driver: one task that sleeps until the next timer is due and carries out what it was set for.

Due times are rounded up to the wheel's tick of 1 ms, and there is at least a tick between two wake-ups, more after a busy one
(`REST`): a wake-up costs as much as a hundred messages, so the more come due, the more of them share one.

A deferred message is by far the most common timer, so those that are due together are taken out together, and a plain one whose
mailboxes have room enters as a fast `publish` does, without a commit (see the ledger): those in a row with the same exchange
and key by one look at the routes, one comparison and one append.  Everything else about it, and every other timer, goes the
long way.

The wall clock may jump while the driver sleeps.  A clock that says so (`watch_jumps`) lets it sleep as long as it likes; with
any other it looks again every WALL_RECHECK seconds while a timer on the wall clock is set, which is how late it may be to
notice that the clock was set forward.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final

import anyio
from msgspec.structs import force_setattr

from flowmesh._core.mailbox import EMPTY, Mailbox
from flowmesh._core.timers import NEVER, TICKS_PER_SECOND, Item, Timer
from flowmesh._core.wheel import timer_of
from flowmesh._runtime.ground import TURN_MESSAGES, Ground
from flowmesh.errors import StoreError
from flowmesh.message import PLAIN, Message

__all__ = ["REST", "TICK", "WALL_JUMP", "WALL_RECHECK", "Driver"]

TICK: Final = 1 / TICKS_PER_SECOND
REST: Final = ((256, 6 * TICK), (128, 4 * TICK), (16, 2 * TICK))
"""How many timers a wake-up carried out, and the least time, in seconds, until the next one then."""
AGAIN: Final = 1.0
"""Seconds until a deferred message is tried again that could not be stored where it goes."""
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
                fired = await self._fire_due()
                least = next((rest for timers_fired, rest in REST if fired >= timers_fired), TICK)
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
            due = timers.pop_deferrals(left * MESSAGES_PER_TIMER, now, wall)
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

    def _publish(self, due: Sequence[Item], now: float) -> None:
        """Let deferred messages enter; or hold them, if the mesh drains."""
        ground = self._ground
        if self.holds_deferred:
            for item in due:
                ground.ledger.timers.hold(_timer(item))
            return
        is_observed = ground.ledger.on_applied is not None or ground.ledger.journal is not None
        wall, exchanges = now + ground.wall_offset, ground.router.exchanges
        name = key = None
        boxes: tuple[Mailbox, ...] = ()
        run: list[Message] = []  # those that go where `name` and `key` lead to
        done = 0  # timers before the run
        add = run.append
        for item in due:
            message: Any = item
            if type(item) is not Message:  # What is its own timer is plain.
                message = item.action
                if message.properties is not PLAIN:
                    key = None
            if message.key is not key or message.exchange is not name:
                if run:
                    self._enter(run, boxes, due, done, wall)
                    done += len(run)
                    run = []
                    add = run.append
                name, key = message.exchange, message.key
                exchange = exchanges.get(name)
                boxes = () if exchange is None or is_observed else exchange.routes.get(key, ())
                if not boxes or message.properties is not PLAIN:
                    name = key = None  # its commit may change what leads where
                    self._fire(_timer(item))
                    done += 1
                    continue
            add(message)
        if run:
            self._enter(run, boxes, due, done, wall)

    def _enter(self, run: list[Message], boxes: tuple[Mailbox, ...], due: Sequence[Item], done: int, wall: float) -> None:
        """Let plain messages enter their mailboxes at once, if there is room for all; from `due[done]` on are their timers."""
        for box in boxes:
            if len(box.fresh) + len(run) > box.limit:
                for item in due[done : done + len(run)]:
                    self._fire(_timer(item))
                return
        # Their copies are as old as their entering; until now nobody has seen them. A loop of ours would cost twice as much.
        deque(map(force_setattr, run, repeat("timestamp"), repeat(wall)), maxlen=0)
        spare = self._ground.spare
        for box in boxes:
            if box.fresh is EMPTY:
                box.fresh = spare.pop() if spare else deque()
            box.fresh.extend(run)
            box.entered += len(run)
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

        def then(error: StoreError | None) -> None:
            if error is not None and isinstance(action, Message):  # It is still stored, and due again soon.
                ground.ledger.timers.set(ground.now() + AGAIN, action, number=timer.id)

        commit = ground.ledger.commit(ground.ledger.intent_of(timer), now=now, then=then)
        if commit.notes:
            ground.tell(commit)
        ground.look_idle()


def _timer(item: Item) -> Timer:
    return timer_of(item) if isinstance(item, Message) else item


def _nothing() -> None:
    return None
