"""What a store keeps, as data: rows, and batches that change them.

A copy's row has a number, which is its place in the order of hand-out as well: rows of one mailbox lie side by side, those of
higher priority first, and within a priority in the order in which they entered.  So the next ones are read as one range, and an
index is not needed.

    number = mailbox (15 bits) | rank (8 bits) | place (40 bits)        line = number >> 40: one priority of one mailbox

Numbers are never used twice: a place is given once, whatever becomes of it.

What a store is given as bytes it gives back as the same bytes, or quarantines: what is in them is the business of whoever
encodes them (the runtime).
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from flowmesh.errors import StoreError

__all__ = [
    "LAST_PLACE",
    "MAX_MAILBOXES",
    "PLACE_BITS",
    "Batch",
    "Contents",
    "Line",
    "Row",
    "Trial",
    "line_of",
    "lines_of",
    "number_of",
    "place_of",
]

PLACE_BITS: Final = 40
LAST_PLACE: Final = (1 << PLACE_BITS) - 1
MAX_MAILBOXES: Final = (1 << 15) - 1
"""SQLite's integer keys have 63 bits: what is left of them for the mailbox."""
_RANK_BITS: Final = 8


def line_of(mailbox: int, priority: int) -> int:
    """Return the line of one priority (0 to 255; the higher, the earlier) of a mailbox."""
    return mailbox << _RANK_BITS | (255 - priority)


def lines_of(mailbox: int) -> range:
    """Return all lines that a mailbox can have."""
    return range(mailbox << _RANK_BITS, (mailbox + 1) << _RANK_BITS)


def number_of(line: int, place: int) -> int:
    """Return the number of a copy."""
    return line << PLACE_BITS | place


def place_of(number: int) -> int:
    """Return the place within its line of the copy with this number."""
    return number & LAST_PLACE


class Trial(Struct, frozen=True, array_like=True):
    """What is known of a copy that has been handed out, or may have been, beside its record.

    `failures`: exceptions and time limits so far. `handouts`: hand-outs that ended without a verdict. `redelivered`: it was, or
    may have been, handed out before. `marked`: it may be in a handler's hands at this moment: found so when the store is
    opened, its process died on the way. `due`: wall-clock seconds until which it waits for its retry.
    """

    failures: int = 0
    handouts: int = 0
    redelivered: bool = True
    marked: bool = False
    due: float | None = None


class Row(Struct, frozen=True):
    """A copy as it was read back. `trial`: None when nothing is known but the line's mark."""

    number: int
    record: bytes
    trial: Trial | None = None


class Line(Struct, frozen=True):
    """One priority of one mailbox. `placed`: the last place given. `copies`: rows that it has.

    `marked`: copies up to this place that have no trial may be in a handler's hands.
    """

    placed: int = 0
    marked: int = 0
    copies: int = 0


class Contents(Struct, frozen=True):
    """What is in a store when it is opened, but for the copies, which are read as they are needed.

    `mailboxes`: numbers by name. `timers`: records by id; `last_timer`: the highest id ever given. `kept`: values by kind and
    key. `quarantined`: rows that are not what was once written, and are not given to anybody.
    """

    mailboxes: dict[str, int]
    lines: dict[int, Line]
    timers: dict[int, bytes]
    last_timer: int
    kept: dict[tuple[str, str], bytes]
    quarantined: int = 0


class Batch:
    """Changes that are written together or not at all.

    `puts`: new copies, (number, record). `drops`: copies that have ended; a copy's trial ends with it. `trials`: what is now
    known of copies. `marks`: by line, up to which place copies may be handed out; 0: none is in anybody's hands. `sweeps`:
    ranges of numbers, both ends included, of which all copies end. `timers`: records by id, None: it is gone. `kept`: (kind,
    key, value), None: it is gone. `mailboxes`: names by number, None: it is gone, with all of its lines.

    No number is in two batches that are under way at the same time, but for sweeps, which are carried out in their turn.
    `done` is called once, in the order of the batches: with None when all of it is as safe as the store promises, otherwise
    with why nothing of it was written. `after`: an earlier batch without which this one makes no sense: if that was refused,
    so is this one, for the same reason. `refused`: why it was, for those that come after it; kept by the store.
    """

    __slots__ = ("after", "done", "drops", "kept", "mailboxes", "marks", "puts", "refused", "sweeps", "timers", "trials")

    def __init__(self, done: Callable[[StoreError | None], None]) -> None:
        self.done = done
        self.after: Batch | None = None
        self.refused: Exception | None = None
        self.puts: list[tuple[int, bytes]] = []
        self.drops: list[int] = []
        self.trials: list[tuple[int, Trial]] = []
        self.marks: dict[int, int] = {}
        self.sweeps: list[tuple[int, int]] = []
        self.timers: list[tuple[int, bytes | None]] = []
        self.kept: list[tuple[str, str, bytes | None]] = []
        self.mailboxes: list[tuple[int, str | None]] = []

    @property
    def is_empty(self) -> bool:
        """It changes nothing."""
        return not (
            self.puts or self.drops or self.trials or self.marks or self.sweeps or self.timers or self.kept or self.mailboxes
        )

    @property
    def grows(self) -> bool:
        """It brings something new, which a store that is full may refuse; what only ends or counts something, it takes."""
        return bool(self.puts) or any(record is not None for _, record in self.timers)
