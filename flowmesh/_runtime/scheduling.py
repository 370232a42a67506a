"""Schedules: a timer that sets itself again and publishes a message each time.

Due times are anchored at the start, so they do not drift.  With `overlap="skip"` a fire whose predecessor has not been
settled yet is left out and counted; when the mesh was too late for several fires, the latest one is made up for.
"""

import datetime
from collections.abc import Callable
from typing import Any, Literal

from flowmesh._core.commits import Publish
from flowmesh._core.entry import Entry
from flowmesh._core.exchanges import Exchange
from flowmesh._core.schedules import next_interval
from flowmesh._core.timers import Timer
from flowmesh._runtime.ground import Ground
from flowmesh.message import Message

__all__ = ["Overlap", "Schedule"]

Overlap = Literal["skip", "allow"]


class Schedule:
    """A rule that makes messages again and again.

    `fired` and `skipped` count since the declaration. A fire's message has the id `<name>@<due>`, the due time in UTC.
    """

    def __init__(
        self, ground: Ground, name: str, seconds: float, exchange: Exchange, key: str, body: Any, overlap: Overlap
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.overlap = overlap
        self.fired = 0
        self.skipped = 0
        self.is_paused = False
        self.is_cancelled = False
        self._ground = ground
        self._exchange = exchange
        self._key = key
        self._body = body
        self._anchor = 0.0
        self._number = 0
        self._timer: Timer | None = None
        self._previous: list[Entry] = []

    @property
    def next_fire(self) -> datetime.datetime | None:
        """When it fires next (UTC), or None: paused, cancelled, or its mesh is not running."""
        if self._timer is None or self.is_paused:
            return None
        return _utc(self._timer.due + self._ground.ledger.wall_offset)

    def pause(self) -> None:
        """Fire no more until `resume`; due times meanwhile are passed over. Idempotent."""
        self.is_paused = True

    def resume(self) -> None:
        """Fire again, at the due times that it would have had. Idempotent."""
        self.is_paused = False

    def cancel(self) -> None:
        """End it for good; what has been fired goes on. Idempotent."""
        self.is_cancelled = True
        self.stop()

    def start(self) -> None:
        """Begin: the first fire is one interval from now. The mesh calls this."""
        if not self.is_cancelled:
            self._anchor = self._ground.now()
            self._set(self._anchor)

    def stop(self) -> None:
        """Set no more timers. The mesh calls this when it drains."""
        if self._timer is not None:
            self._ground.ledger.timers.cancel(self._timer)
            self._timer = None

    def _set(self, now: float) -> None:
        due, self._number = next_interval(self._anchor, self.seconds, now)
        self._timer = self._ground.ledger.timers.set(due, self._fire)

    def _fire(self, now: float) -> None:
        self._set(now)
        if self.is_paused:
            return
        due = self._anchor + (self._number - 1) * self.seconds  # The latest one, should the mesh be too late for several.
        if self.overlap == "skip" and any(not entry.has_ended for entry in self._previous):
            self.skipped += 1
            self._ground.log.debug("schedule %r skipped a fire: the previous one is not settled yet", self.name)
            return
        self.fired += 1
        ground, ledger = self._ground, self._ground.ledger
        wall = due + ledger.wall_offset
        serial = f"{self.name}@{_utc(wall).isoformat()}"
        message = Message(ground.prefix, serial, self._body, self._exchange.name, self._key, wall)
        mailboxes = ground.router.route(self._exchange, self._key, {})
        if not mailboxes:
            ground.note_unroutable(self._exchange.name, self._key, message.id)
            return
        self._previous = []
        make: Callable[[Message], Entry] = self._make_entry
        ground.tell(ledger.commit(Publish(message, mailboxes, moved=True, make_entry=make), now=now))

    def _make_entry(self, message: Message) -> Entry:
        entry = Entry(message, self._ground.now())
        self._previous.append(entry)
        return entry


def _utc(wall: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(wall, datetime.UTC)
