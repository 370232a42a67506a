"""Room: senders that wait in line for a full mailbox, and actors that are held because a turn of theirs overfilled one.

A line is first come, first served.  Only its first sender is woken when there is room; it looks again, goes through the
gate, and whoever brought it there calls `look_again`, which wakes the next.  A sender that leaves its line, for whatever
reason, passes a wake-up on.  Held actors stand in the same line, so that neither takes all the room from the other; one that
comes to the front when there is room leaves it and goes on.  While a line exists the mailbox's `room_wanted` sends publishers
and consumers around their fast paths.
"""

from collections import deque
from collections.abc import Callable, Iterator

from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.waiting import Waits

__all__ = ["Room"]


class Place(Waiter):
    """One sender's place in a line. `turned_away`: it shall not wait any longer."""

    __slots__ = ("from_turn", "turned_away")

    def __init__(self, from_turn: bool) -> None:
        super().__init__()
        self.from_turn = from_turn
        self.turned_away = False


class Room:
    """All lines and holds of one mesh.

    `release` is called with an actor whose last hold has ended; `waits` knows who waits for whom.
    """

    def __init__(self, ground: Ground, waits: Waits, release: Callable[[Cell], None]) -> None:
        self._ground = ground
        self.waits = waits
        self._release = release
        self._lines: dict[Mailbox, deque[Place | Cell]] = {}
        self._warned: set[frozenset[str]] = set()
        self.held: set[Cell] = set()

    def is_blocked(self, mailbox: Mailbox) -> bool:
        """A new sender would have to wait here."""
        return mailbox.options.overflow == "wait" and (mailbox in self._lines or not mailbox.has_room())

    async def wait(self, mailbox: Mailbox, *, noted: bool = False) -> None:
        """Wait in line until it is this sender's turn and there is room, or the mailbox is gone.

        Cancellation: leaves the line; the others keep their order.

        Args:
            mailbox: whose line.
            noted: the wait has been noted in `waits`.

        Raises:
            DeadlockError: the sender is a turn, and would wait for itself.
        """
        ground = self._ground
        ground.check_sender()
        wait = None if noted else self.waits.room(mailbox)
        place = Place(ground.in_turn())
        line = self._lines.setdefault(mailbox, deque())
        line.append(place)
        self._want(mailbox)
        ground.parked_senders += 1
        passed = False
        try:
            while not passed:
                await ground.parking.park(place)
                if place.turned_away:
                    ground.check_sender()
                passed = mailbox.deleted or (line[0] is place and mailbox.has_room())
        finally:
            if wait is not None:
                self.waits.end(wait)
            line.remove(place)
            ground.parked_senders -= 1
            self._leave(mailbox, line)
            if not passed or mailbox.deleted:
                self.look_again(mailbox)
                ground.look_idle()

    def look_again(self, mailbox: Mailbox) -> None:
        """If there is room, end the holds at the front of the line and wake its first sender."""
        line = self._lines.get(mailbox)
        while line and (mailbox.has_room() or mailbox.deleted):
            first = line[0]
            if isinstance(first, Place):
                self._ground.parking.wake(first)
                return
            line.popleft()
            self._leave(mailbox, line)
            first.held_by.discard(mailbox)
            if not first.held_by:
                self.held.discard(first)
                self._release(first)

    def hold(self, cell: Cell, mailbox: Mailbox) -> None:
        """Hand the actor nothing more until the mailbox has room, unless that would close a ring of held actors."""
        if mailbox in cell.held_by:
            return
        cell.hold(mailbox)
        ring = self.waits.ring_of_hold(cell)
        if ring is not None:
            cell.held_by.discard(mailbox)
            cell.reopen()
            names = frozenset(ring)
            if names in self._warned:
                return
            self._warned.add(names)
            self._ground.log.warning(
                "actors wait for room in a ring (%s): mailbox %r grows beyond its capacity of %d instead",
                " -> ".join(ring),
                mailbox.name,
                mailbox.options.capacity,
            )
            return
        self.held.add(cell)
        self._lines.setdefault(mailbox, deque()).append(cell)
        self._want(mailbox)

    def lines(self) -> Iterator[tuple[Mailbox, int, int]]:
        """Iterate over the mailboxes with a line: how many senders stand in it, and how many of them are turns."""
        for mailbox, line in self._lines.items():
            places = [place for place in line if isinstance(place, Place)]
            if places:
                yield mailbox, len(places), sum(place.from_turn for place in places)

    def turn_away(self, *, everybody: bool) -> None:
        """Make every sender that is not part of a turn, or everybody, look at the mesh's phase again."""
        for line in self._lines.values():
            for place in line:
                if isinstance(place, Place) and (everybody or not place.from_turn):
                    place.turned_away = True
                    self._ground.parking.wake(place)

    def _leave(self, mailbox: Mailbox, line: deque[Place | Cell]) -> None:
        if not line:
            del self._lines[mailbox]
            self._want(mailbox)

    def _want(self, mailbox: Mailbox) -> None:
        mailbox.room_wanted = mailbox in self._lines
        mailbox.on_room = lambda: self.look_again(mailbox)
        mailbox.refresh()
