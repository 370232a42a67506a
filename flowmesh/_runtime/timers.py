"""`mesh.timers`: the deferred messages of a mesh, and the timers of its actors, to be listed, cancelled and moved.

Messages that somebody deferred (`delay=`, `at=`) are shown, and what an actor has set with `ctx.timer`; the mesh's own timers
(time limits, retries, schedules, timeouts of states) are not.  A deferred message is here from its publish, or from the ack of
the turn that sent it, until it is routed: also while the mesh drains, and while it is stopped.  A timer of an actor is here
until it fires, and no longer than the instance that has set it.
"""

import datetime
from threading import get_ident
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flowmesh._core.timers import Timer as CoreTimer
from flowmesh._runtime.composing import check_due, due_time
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.reminding import Alarm
from flowmesh.errors import MeshError, NotFound, NotRunning
from flowmesh.message import Message, Receipt

__all__ = ["Timer", "Timers"]


class Timer(Struct, frozen=True):
    """One deferred message, or one timer of an actor, as it was when somebody asked.

    `id`: what its receipt says as `timer`, for life. `due`: when it is routed (UTC); that of a delay is what the wall clock
    will say then, unless it is set meanwhile. `exchange`, `key`: where it goes. `message`: what will be routed,
    stamped with `due` for now. `actor`, `name`: who has set it with `ctx.timer`, and its name there; None for deferred ones.
    """

    id: str
    due: datetime.datetime
    exchange: str
    key: str
    message: Message
    actor: str | None = None
    name: str | None = None


_ID_OF: Final = {Receipt: ": say receipt.timer", Timer: ": say timer.id", Message: ": say receipt.timer, of its receipt"}
"""How to come to the id from what is given instead of it."""


class Timers:
    """The deferred messages of one mesh, and the timers of its actors.

    An id is what a receipt says as `timer`; None, which it says too, finds nothing.
    """

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __len__(self) -> int:
        return sum(map(_is_shown, self._engine.ground.ledger.timers))

    def list(self, *, limit: int | None = None) -> "list[Timer]":
        """Return the deferred messages and the timers of actors, the next one first. O(timers).

        Args:
            limit: at most so many.
        """
        timers = [self._view(timer) for timer in self._engine.ground.ledger.timers if _is_shown(timer)]
        timers.sort(key=lambda timer: (timer.due, int(timer.id)))
        return timers[:limit]

    def get(self, id: str | None) -> Timer | None:
        """Return the deferred message, or the timer of an actor, with this id; or None: it has fired or was cancelled.

        The first call is O(timers); from then on there is an index.

        Raises:
            TypeError: it is no id, but, say, a receipt.
        """
        timer = self._find(id)
        return None if timer is None else self._view(timer)

    def cancel(self, id: str | None) -> bool:
        """Forget a deferred message, or a timer of an actor: it will not fire; False if it has, or was cancelled before.

        Raises:
            TypeError: it is no id, but, say, a receipt.
            MeshError: the caller is in a foreign thread.
        """
        self._check_thread()
        self._engine.storing.check_open("a deferred message")
        timer = self._find(id)
        if timer is None:
            number = _number_of(id)
            return number is not None and self._engine.storing.cancel_early(number)
        if isinstance(timer.action, Alarm):
            timer.action.cancel()
            return True
        self._engine.storing.change_timer(timer, None)
        return self._engine.ground.ledger.timers.cancel(timer)

    def move(self, id: str | None, *, delay: float | None = None, at: datetime.datetime | None = None) -> Timer:
        """Let a deferred message, or a timer of an actor, be due at another time; among those due at that time it is the last.

        Args:
            id: its timer.
            delay: seconds from now,
            at: or an aware datetime. One of the two.

        Returns:
            the timer, with its new due time and the same id.

        Raises:
            NotFound: it has been routed, or was cancelled.
            ValueError: neither or both are given, the delay is negative, or `at` has no time zone.
            TypeError: it is no id, but, say, a receipt.
            NotRunning: `delay` counts on the clock of a running mesh; `at` does without, unless the mesh has a store.
            MeshError: the caller is in a foreign thread.
        """
        self._check_thread()
        check_due(delay=delay, at=at)
        ground = self._engine.ground
        if delay is not None and ground.thread is None:
            raise NotRunning(f"{ground.label} {ground.phase.value}: delay= would count from no clock; give at= instead")
        due = due_time(ground, {"delay": delay, "at": at}, 0.0 if delay is None else ground.now())
        if due is None:
            raise ValueError("move needs delay= or at=: when shall it be due?")
        self._engine.storing.check_open("a deferred message")
        timer = self._find(id)
        if timer is None:
            raise NotFound(f"there is no deferred message with timer {id!r}: it has been routed, or was cancelled")
        ground.ledger.timers.move(timer, due[0], on_wall=due[1])
        if not isinstance(timer.action, Alarm):
            self._engine.storing.change_timer(timer, due)
        return self._view(timer)

    def _find(self, id: str | None) -> CoreTimer | None:
        if not isinstance(id, str | int | None):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise TypeError(f"mesh.timers takes the id of a timer, not {id!r}{_ID_OF.get(type(id), '')}")
        number = _number_of(id)
        timer = None if number is None else self._engine.ground.ledger.timers.find(number)
        return timer if timer is not None and _is_shown(timer) else None

    def _view(self, timer: CoreTimer) -> Timer:
        action: Message | Alarm = timer.action
        wall = timer.due
        if not timer.on_wall:
            now, wall_now = self._engine.ground.moment()
            wall += wall_now - now
        if isinstance(action, Alarm):
            message = action.message(timer.id, wall)
            return Timer(str(timer.id), _utc(wall), message.exchange, message.key, message, action.actor, action.name)
        # A copy, stamped as the original will be: when it is routed.
        return Timer(str(timer.id), _utc(wall), action.exchange, action.key, replace(action, timestamp=wall))

    def _check_thread(self) -> None:
        ground = self._engine.ground
        if ground.thread not in (None, get_ident()):
            raise MeshError(f"{ground.label} runs in another thread: call mesh.timers there, with anyio.from_thread.run_sync")


def _is_shown(timer: CoreTimer) -> bool:
    action = timer.action
    return isinstance(action, Message) or (isinstance(action, Alarm) and not action.is_own)


def _number_of(id: str | None) -> int | None:
    return int(id) if isinstance(id, str) and id.isdecimal() and id.isascii() else None


def _utc(wall: float) -> datetime.datetime:
    """Return the time, or the last one that can be said."""
    try:
        return datetime.datetime.fromtimestamp(wall, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.datetime.max.replace(tzinfo=datetime.UTC)
