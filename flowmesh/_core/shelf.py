"""The part of a durable mailbox that lies in a store: numbers for its copies, and which of them are in memory.

In memory are the copies that come next, as many as a window holds; all later ones lie on disk only, in the mailbox's tail,
and are read as the window empties.  So a mailbox costs memory for a window, however many copies it has.

    number <= horizon   in memory, or on its way there          number > horizon   in the tail, or on its way there

What is in memory may be handed out: its mark was written with it, or when it was read (see records.Line).  Only a copy that
may have killed a process before is `alone`: it is marked by itself, when it is its turn, so that its neighbours are not
suspected of what it does; and each copy of a mailbox that hands out once at most.  Meanwhile nothing is handed out.

A copy that enters is in memory only when it is known to be on disk.  Whether it will be there is decided when its commit is
prepared, so it is counted from then on: `arriving`, or `coming` into the tail.  A copy that is not stored (an ask, say) has a
number all the same, and waits set aside until what comes before it has been read.
"""

import math
from typing import Final

from flowmesh._core.entry import Entry
from flowmesh._core.records import LAST_PLACE, line_of, lines_of, number_of, place_of

__all__ = ["MARKED_ALONE", "MARK_ALONE", "SUSPECT", "WINDOW", "Shelf", "is_grave"]

WINDOW: Final = 512
"""Copies of a mailbox that are read, and marked, at a time."""
MARK_ALONE: Final = 1
"""`Entry.alone` has this bit while the copy must be marked by itself before it is handed out."""
MARKED_ALONE: Final = 2
"""`Entry.alone` of one that has been."""
SUSPECT: Final = 4 | MARK_ALONE
"""`Entry.alone` of one of which the store does not know yet that it was in the hands of a process that died."""


def is_grave(entry: Entry, max_deliveries: int) -> bool:
    """Whether a copy is suspected so much that nothing of its mailbox may be in hand with it.

    It has ended two processes, it seems, or one more would be the last that it may end: then it has to be known which it is.
    """
    return entry.alone != 0 and 0 < entry.handouts >= min(2, max_deliveries - 1)


class Shelf:
    """What a mailbox knows of its copies in the store.

    `number`: the mailbox's. `placed`: the last place given, by line. `suspects`: by line, up to which place copies may have
    been in the hands of a process that died. `tail`: copies that lie on disk only. `awaited`: entries of the tail that
    somebody holds on to. `is_reading`: more is on its way into memory; `discards`: it has been purged meanwhile. `pulled`:
    copies in the hands of manual consumers. `lone`: copies in memory that are still to be marked alone. `window`: as WINDOW.
    `quick`: a publisher may let a plain message of the usual `line` enter by itself while its mailbox has fewer copies at hand
    and arriving; -1 when anything needs care. `is_deep`: then such a message may join the tail by itself, if there is room.

    Why nothing is handed out: `marking`, a copy is being marked by itself; `solitary`, a copy that nothing else may be in
    hand with is, or waits until nothing is; `is_resting`, for a while; `is_closed`, for good.
    """

    __slots__ = (
        "_swept",
        "_swept_from",
        "arriving",
        "awaited",
        "coming",
        "discards",
        "horizon",
        "is_closed",
        "is_deep",
        "is_reading",
        "is_resting",
        "line",
        "lone",
        "marking",
        "number",
        "placed",
        "pulled",
        "quick",
        "solitary",
        "suspects",
        "tail",
        "window",
    )

    def __init__(self, number: int, *, window: float = WINDOW) -> None:
        self.number = number
        self.window = window
        self.placed: dict[int, int] = {}
        self.suspects: dict[int, int] = {}
        self.tail = 0
        self.line = line_of(number, 0)
        self.lone = 0
        self.quick: float = -1
        self.is_deep = False
        self.arriving = 0
        self.coming = 0
        self.horizon = self.first - 1
        self.is_reading = self.discards = False
        self.marking: Entry | None = None
        self.solitary: Entry | None = None
        self.is_resting = self.is_closed = False
        self.awaited: dict[int, Entry] = {}
        self.pulled: set[Entry] = set()
        self._swept: dict[int, int] = {}  # by line: the last place given when the tail was swept
        self._swept_from = self.horizon

    @property
    def first(self) -> int:
        """The lowest number that a copy of this mailbox can have."""
        return number_of(lines_of(self.number)[0], 0)

    @property
    def last(self) -> int:
        """The highest one."""
        return number_of(lines_of(self.number)[-1], LAST_PLACE)

    @property
    def is_blocked(self) -> bool:
        """Nothing is handed out just now."""
        return self.marking is not None or self.solitary is not None or self.is_resting or self.is_closed

    def place(self, priority: int) -> int:
        """Give the next copy of this priority its number."""
        line = line_of(self.number, priority)
        place = self.placed.get(line, 0) + 1
        self.placed[line] = place
        return number_of(line, place)

    def set_quick(self, room: float) -> None:
        """Set `quick` and `is_deep` from the room that the mailbox has beside the line, -1 if its state needs care."""
        self.is_deep = bool(self.tail or self.coming) and room >= 0
        self.quick = -1 if self.tail or self.coming else min(self.window, room)

    def number_at(self, priority: int, place: int) -> int:
        """Return the number of the copy of this priority that has this place."""
        return number_of(line_of(self.number, priority), place)

    def invite(self, number: int, at_hand: int) -> bool:
        """Count a copy that is to enter; True if it will be in memory, False if it joins the tail.

        Args:
            number: its own.
            at_hand: ready copies that are in memory.
        """
        if number > self.horizon:
            if self.tail or self.coming or at_hand + self.arriving >= self.window:
                self.coming += 1
                return False
            self.horizon = number
        self.arriving += 1
        return True

    def uninvite(self, number: int, *, is_shelved: bool) -> bool:
        """Count it no longer: it has entered, or will not; True if the tail was purged while it was coming."""
        if not is_shelved:
            self.arriving -= 1
            return False
        self.coming -= 1
        return number > self._swept_from and place_of(number) <= self._swept.get(number >> 40, 0)

    def sweep(self) -> int:
        """Purge the tail, with what is coming into it; return how many copies it had."""
        copies, self.tail = self.tail, 0
        # While one of those that are coming is on its way, the horizon stays: one sweep says it for all.
        self._swept, self._swept_from = dict(self.placed), self.horizon
        self.discards = self.is_reading
        return copies

    def let_go(self) -> list[Entry]:
        """Return the entries of a tail that has been purged, and hold on to them no longer."""
        gone = [number for number in self.awaited if place_of(number) <= self._swept.get(number >> 40, 0)]
        return [self.awaited.pop(number) for number in gone]

    def wants(self, at_hand: int) -> bool:
        """Whether it is time to read on."""
        return self.tail > 0 and not self.is_reading and at_hand + self.arriving <= self.window / 2

    def is_suspect(self, number: int) -> bool:
        """A copy without a trial was marked when its process died."""
        return bool(self.suspects) and place_of(number) <= self.suspects.get(number >> 40, 0)

    def marks_at_rest(self) -> dict[int, int]:
        """Return the marks of its lines once nothing is in anybody's hands: what is suspect and lies in the tail stays so."""
        marks: dict[int, int] = {}
        for line in self.placed:
            suspects = self.suspects.get(line, 0)
            marks[line] = suspects if self.tail and number_of(line, suspects) > self.horizon else 0
        return marks

    @staticmethod
    def unlimited(number: int) -> "Shelf":
        """Return one whose copies are all in memory: those of a mailbox that is looked through."""
        return Shelf(number, window=math.inf)
