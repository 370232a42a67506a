"""Virtual time on trio: a clock that a system task moves whenever every other task is blocked.

trio's MockClock does the same, but jumps although threads are at work and hangs at a deadlock; so the jumps are made here.
A run under MockClock is nevertheless virtual time for `VirtualClock`, `settled` and `advance`.
"""

import time
from math import inf

import trio
import trio.abc
import trio.testing

from flowmesh.testing.standstill import Jumping, StandstillError, describe, patience_before_standstill
from flowmesh.testing.threads import has_busy_threads

__all__ = ["VirtualTrioClock"]

_POLL = 0.002  # Real seconds between two looks at threads and I/O, which trio gives no way to wait for.
_FAR = 1_000_000.0  # Real seconds until a timer that only a jump can reach.
_IDLE = 3600.0  # trio is about to wait longer than this in real time only when it has nothing at all to do.


class VirtualTrioClock(trio.abc.Clock, trio.abc.Instrument):
    """A trio clock with virtual time; for one run at a time.

    Args:
        jumping: how time moves, and where it begins.
    """

    def __init__(self, jumping: Jumping) -> None:
        self.jumping = jumping
        self.standstill: StandstillError | None = None
        self._now = jumping.start
        self._seen = inf  # The deadline that trio looked at last: the exact time to jump to.
        self._token: trio.lowlevel.TrioToken | None = None
        self._idle: trio.Event | None = None  # What the driver waits for, while it does.
        self._settling = 0  # How many are in `settled`, and how often somebody has left it.
        self._settled = 0

    def next_due(self) -> float | None:
        """Return when the next deadline of the run is due, None when there is none."""
        seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if seconds == inf:
            return None
        due = self._now + seconds
        return self._seen if abs(self._seen - due) < 1e-6 else due  # The sum is rounded; what trio showed is exact.

    def jump_to(self, moment: float) -> None:
        """Move time forward; what is due by then runs in trio's next turn."""
        self._now = max(self._now, moment)

    async def settled(self) -> None:
        """Return when no other task of this run can run before time moves."""
        self._settling += 1
        try:
            await trio.testing.wait_all_tasks_blocked()
        finally:
            self._settling -= 1
            self._settled += 1

    # What trio calls.

    def start_clock(self) -> None:
        """Begin the run at the start of time, with the task that makes time jump."""
        self._now = self.jumping.start
        self._seen = inf
        self._idle = None
        self.standstill = None
        self._token = trio.lowlevel.current_trio_token()
        self._token.run_sync_soon(self._spawn)

    def current_time(self) -> float:
        """Return the virtual time."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Never wait for a deadline: it is due, or only a jump reaches it."""
        self._seen = deadline
        return 0.0 if deadline <= self._now else _FAR

    def before_io_wait(self, timeout: float) -> None:
        """Wake the driver when trio has nothing to do, and nobody in `wait_all_tasks_blocked()` comes first."""
        if timeout > _IDLE and self._idle is not None and self._token is not None:
            self._token.run_sync_soon(self._idle.set)
            self._idle = None

    # The task that makes time jump.

    def _spawn(self) -> None:
        trio.lowlevel.add_instrument(self)
        trio.lowlevel.spawn_system_task(self._drive, name="virtual time")

    async def _drive(self) -> None:
        has_jumped = False
        while True:
            # After a jump there will soon be the next one: to wait for that directly spares a call from trio's other door.
            if not has_jumped:
                self._idle = idle = trio.Event()
                await idle.wait()
            await self._until_quiet()
            due = self._to_jump_to()
            has_jumped = due is not None and await self._threads_have_ended(due)
            if due is None:
                if await self._stands_still():
                    self._give_up()
            elif has_jumped:
                self.jump_to(due)

    async def _until_quiet(self) -> None:
        """Let I/O that is ready come first, and those who wait in `settled`: trio wakes them together with this task."""
        settled = -1
        while self._settling or settled != self._settled:
            settled = self._settled
            await trio.testing.wait_all_tasks_blocked(self.jumping.quiet or 0.0)

    def _to_jump_to(self) -> float | None:
        return None if self.jumping.quiet is None else self.next_due()

    async def _threads_have_ended(self, due: float) -> bool:
        """Wait for the threads at work; True when it is still time to jump to the same timer."""
        end = time.monotonic() + self.jumping.patience
        while _threads_at_work() and time.monotonic() < end:
            # The last time, too: what a thread hands over at its end comes before any jump.
            await trio.testing.wait_all_tasks_blocked(_POLL)
            if self.next_due() != due:
                return False
        return True

    async def _stands_still(self) -> bool:
        """Look again after a while: True when nothing could change any more."""
        if _threads_at_work() or _waits_for_io():
            await trio.testing.wait_all_tasks_blocked(_POLL)
            return False
        await trio.testing.wait_all_tasks_blocked(patience_before_standstill(self.jumping))
        return self._to_jump_to() is None and not _threads_at_work() and not _waits_for_io()

    def _give_up(self) -> None:
        """Cancel the main task, with the reason; where that was done before and did not arrive, lift the shields."""
        root = trio.lowlevel.current_root_task()
        assert root is not None, "called inside a run"
        main = root.child_nurseries[-1]  # trio opens it last, inside those of its own tasks.
        waiting: list[trio.lowlevel.Task] = []
        nurseries = [main]
        while nurseries:
            for task in nurseries.pop().child_tasks:
                waiting.append(task)
                nurseries.extend(task.child_nurseries)
        if self.standstill is None:
            self.standstill = describe(self.jumping, [(task.name, task.coro) for task in waiting])
            main.cancel_scope.cancel(reason=str(self.standstill))
        else:
            for task in waiting:
                _lift_shields(task)


def _lift_shields(task: trio.lowlevel.Task) -> None:
    """Let a cancellation from outside reach the task, whatever scopes it is in.

    trio has no public way to a scope that a task has entered; the alternatives are a run that hangs or one that crashes.
    """
    status = task._cancel_status  # pyright: ignore[reportPrivateUsage] - see above
    while status is not None:
        status._scope.shield = False  # pyright: ignore[reportPrivateUsage] - see above
        status = status.parent


def _threads_at_work() -> bool:
    return bool(trio.testing.active_thread_count()) or has_busy_threads()


def _waits_for_io() -> bool:
    """Tell whether a task waits for the outside world; one always does: trio's own, for wake-ups from other threads."""
    statistics = trio.lowlevel.current_statistics().io_statistics
    kinds = ("tasks_waiting", "tasks_waiting_read", "tasks_waiting_write", "tasks_waiting_overlapped")
    return sum(getattr(statistics, kind, 0) for kind in kinds) > 1
