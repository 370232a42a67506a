"""What one mailbox knows of one copy, once it needs more than its place in the line.

Most copies never get an Entry: a plain Message stands in the mailbox's deque, is handed out and is settled by counting.
An Entry is made for a copy that somebody waits for, that can expire, that has a priority or a lane, or that came back.

    READY -> LEASED -> ENDED          handed out, settled
    READY -> ASIDE -> READY           its lane was busy, or a gate held it, when it was looked at
    LEASED -> READY | DELAYED         handed back, at once or until later;  DELAYED -> READY
    READY | ASIDE -> PINNED           a prepared commit will end it        PINNED -> ENDED (applied) | READY (given up)
    READY -> POSTPONED -> READY       its state machine wants it later; still leased, but in nobody's hands
    LEASED | DELAYED | POSTPONED -> SETTLING   a prepared commit settles it         SETTLING -> any, when applied
"""

import enum
from typing import Any, ClassVar, Final

from msgspec import Struct

from flowmesh.message import Message, Outcome

__all__ = ["NO_LANE", "TRANSITIONS", "Entry", "Outcome", "State"]


class State(enum.Enum):
    """Where a copy is in its life."""

    READY = enum.auto()
    ASIDE = enum.auto()
    LEASED = enum.auto()
    DELAYED = enum.auto()
    POSTPONED = enum.auto()
    PINNED = enum.auto()
    SETTLING = enum.auto()
    ENDED = enum.auto()


TRANSITIONS: Final = frozenset(
    {
        (State.READY, State.LEASED),
        (State.READY, State.ASIDE),
        (State.READY, State.PINNED),
        (State.READY, State.POSTPONED),
        (State.ASIDE, State.READY),
        (State.ASIDE, State.PINNED),
        (State.LEASED, State.SETTLING),
        (State.DELAYED, State.SETTLING),
        (State.POSTPONED, State.SETTLING),
        (State.PINNED, State.READY),
        (State.PINNED, State.ENDED),
        (State.SETTLING, State.LEASED),
        (State.SETTLING, State.READY),
        (State.SETTLING, State.DELAYED),
        (State.SETTLING, State.POSTPONED),
        (State.SETTLING, State.ENDED),
        (State.LEASED, State.ENDED),  # the fast path of an ack: in one step, or once a union is written
    }
)


class _NoLane:
    def __repr__(self) -> str:
        return "<no lane>"


NO_LANE: Final = _NoLane()


class Entry(Struct, eq=False):
    """One copy in one mailbox. A Struct because one is made for every ask, and equal only to itself.

    `place`: its place for life, known once it has been looked at. `failures`: exceptions and time limits so far.
    `handouts`: hand-outs that ended without a verdict. `expires`: mesh clock seconds. `since`: when it entered.
    `lane`: its `by=` value. `body`: the converted body, once converted. `home`: the lane itself, while it
    holds it. `queued`: it stands in the deque or the heap.
    `trace`: what tracing remembers of its first hand-out. `gated`: what the gates of its actor know of it, once asked.
    `number`: of its row in the store, 0 if it has none; `alone`: 0 unless it is marked there by itself (see shelf.py).
    """

    message: Message
    since: float
    place: int = -1
    state: State = State.READY
    failures: int = 0
    handouts: int = 0
    redelivered: bool = False
    expires: float | None = None
    lane: Any = NO_LANE
    body: Any = None
    home: Any = None
    queued: bool = False
    trace: Any = None
    gated: Any = None
    number: int = 0
    alone: int = 0

    asked: ClassVar[bool] = False
    """An asker waits for its outcome, so it is never dead-lettered."""
    fleeting: ClassVar[bool] = False
    """It is nothing to whoever comes after this process, so it is not stored."""
    is_own: ClassVar[bool] = False
    """It is the runtime's own, and has no body that a `by=` could read."""
    watched: ClassVar[bool] = False
    """`ended` is called for an ack's fast path as well."""

    def ended(self, outcome: Outcome) -> None:
        """Take the news that it has ended, other than by an ack's fast path. For those who wait for it."""

    def set_aside(self) -> None:
        """Take the news that its lane is busy, so that it is set aside. For those who wait for it."""

    @property
    def has_ended(self) -> bool:
        """It is settled for good."""
        return self.state is State.ENDED

    def move(self, state: State) -> None:
        """Change state; a pair that TRANSITIONS does not hold is a bug and raises AssertionError."""
        if (self.state, state) not in TRANSITIONS:
            raise AssertionError(f"a copy cannot go from {self.state.name} to {state.name}: {self.message.id}")
        self.state = state
