"""Unions: plain messages and acks of the same moment, on their way to the store as one batch.

The way of most messages into and out of a durable mailbox.  Each is a commit of one change, which needs no preparation beyond
a number; what comes together while an earlier union is being written is one more.  So a hundred senders cost one batch, one
wake-up of the store's thread and one of the mesh's.

What enters and what is acked are two batches: a full store refuses the one and takes the other.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from flowmesh._core.entry import Entry, State
from flowmesh._core.mailbox import EMPTY, Mailbox
from flowmesh._core.records import PLACE_BITS, Batch
from flowmesh._core.shelf import Shelf
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import is_of_scope
from flowmesh._runtime.recording import Recording
from flowmesh.errors import StoreError
from flowmesh.message import Durability, Message

__all__ = ["Unions"]

Told = Callable[[StoreError | None], None]
ENDED = State.ENDED  # an Enum's members cost a look-up each


class Fate:
    """What has become of a union: its copies and acks are on disk, or `error` says why they are not."""

    __slots__ = ("error", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self.error: StoreError | None = None


class Arrival(Entry, eq=False):
    """A copy on its way into a mailbox, and the place where its sender waits: it is its own waiter, as an Ask is.

    `fate`: of the union that it is part of, shared, for setting a field of a Struct costs as much as making one.
    """

    queued: bool = True  # once it is there, and nobody looks before
    token: Any = None
    fate: Any = None


class Union:
    """What has come together: arrivals by mailbox, all of its usual line and in the order of their places; acks by actor.

    `deep`: arrivals that join the tails of their mailboxes. `puts`: the records of both; `fate`: what becomes of them.
    """

    __slots__ = ("acks", "arrivals", "deep", "fate", "puts")

    def __init__(self) -> None:
        self.fate = Fate()
        self.puts: list[tuple[int, bytes]] = []
        self.arrivals: dict[Mailbox, list[Arrival]] = {}
        self.deep: dict[Mailbox, list[Arrival]] = {}
        self.acks: dict[Cell, list[Entry]] = {}


class Unions:
    """The union that comes together, and the number of those that are being written.

    `batch`: gives an empty batch that will be handed over, and whose outcome is told, in the mesh's thread, to what is given.
    `begin` is called when something has come together, and nothing is being written; `undo` with what could not be acked, and
    `reopen` with an actor that has waited for its acks. `woken`: senders that have been woken, until somebody asks.
    `level`: what a receipt promises.
    """

    def __init__(
        self,
        ground: Ground,
        recording: Recording,
        *,
        batch: Callable[[Told], Batch],
        begin: Callable[[], None],
        undo: Callable[[Cell, Entry, StoreError], None],
        reopen: Callable[[Cell], None],
    ) -> None:
        self._ground = ground
        self._encode = recording.encode_plain
        self._batch = batch
        self._begin = begin
        self._undo = undo
        self._reopen = reopen
        self._union: Union | None = None
        self._under_way = 0
        self.woken = 0
        self.level: Durability = ground.durability

    @property
    def is_due(self) -> bool:
        """Something has come together, and nothing is being written."""
        return self._union is not None and not self._under_way

    def enter(self, mailbox: Mailbox, shelf: Shelf, message: Message, now: float) -> Arrival:
        """Let a plain message enter a mailbox whose shelf is `quick`, or join the tail of one that `is_deep`.

        Its sender parks on the arrival at once, goes on to `outwait` if it is cancelled there, and then looks at its fate: a
        `refusal` to raise, or a receipt to write, of this `level`.
        It does so by itself: a coroutine for that would be one object more for each message that waits.

        Raises:
            Unencodable: the mailbox could not give it back with the type that it has; nothing has changed.
        """
        record = self._encode(message, mailbox)
        line = shelf.line
        place = shelf.placed.get(line, 0) + 1
        shelf.placed[line] = place
        number = line << PLACE_BITS | place
        mailbox.arriving += 1
        union = self._union or self._open()
        arrival = Arrival(message, now, place, number=number, fate=union.fate)
        union.puts.append((number, record))
        if shelf.is_deep:
            shelf.coming += 1
            joined = union.deep
        else:
            shelf.horizon = number
            shelf.arriving += 1
            joined = union.arrivals
        arrivals = joined.get(mailbox)
        if arrivals is None:
            joined[mailbox] = [arrival]
        else:
            arrivals.append(arrival)
        return arrival

    async def outwait(self, arrival: Arrival, error: BaseException) -> None:
        """Wait on for what was handed over, although its sender was cancelled while parked; that comes into its own later."""
        await self._ground.parking.outwait(arrival, lambda: arrival.fate.is_over, is_cancelled=not is_of_scope(error))

    @staticmethod
    def refusal(error: StoreError) -> StoreError:
        """Return what a sender is told of its own, for one error is that of a whole union; nothing has changed."""
        refusal = type(error)(str(error))
        refusal.__cause__ = error
        return refusal

    def ack(self, cell: Cell, entry: Entry) -> None:
        """Write that a copy in the hands of an actor is acked; it is counted then, also as one that the actor has committed."""
        union = self._union or self._open()
        entries = union.acks.get(cell)
        if entries is None:
            union.acks[cell] = [entry]
        else:
            entries.append(entry)
        cell.committing = committing = cell.committing + 1
        # Only then may it be more than `ahead`; a machine that has been closed for one ack stays so for the next.
        if committing > cell.width or (entries is None and cell.machines is not None):
            cell.reopen()

    def _open(self) -> Union:
        self._union = union = Union()
        self._ground.storing += 1
        if not self._under_way:
            self._begin()
        return union

    def hand_over(self) -> None:
        """Give what has come together to the store, if there is something."""
        union, self._union = self._union, None
        if union is None:
            return
        self._ground.storing -= 1
        if union.puts:
            self._under_way += 1
            batch = self._batch(lambda error: self._let_in(union, error))
            batch.puts = union.puts
            last = [arrivals[-1] for arrivals in union.arrivals.values()]
            batch.marks = {arrival.number >> PLACE_BITS: arrival.place for arrival in last}
        if union.acks:
            self._under_way += 1
            batch = self._batch(lambda error: self._end(union.acks, error))
            batch.drops = [entry.number for entries in union.acks.values() for entry in entries]

    def _let_in(self, union: Union, error: StoreError | None) -> None:
        self._under_way -= 1
        union.fate.is_over, union.fate.error = True, error
        ledger = self._ground.ledger
        for box, entering in union.arrivals.items():
            shelf = self._expect(box, entering)
            if error is not None:
                shelf.arriving -= len(entering)
                box.tell_room()
            elif box.deleted or box.heap or box.room_wanted:
                for arrival in entering:
                    ledger.enter_stored(box, shelf, arrival, is_shelved=False)
            else:
                shelf.arriving -= len(entering)
                box.entered += len(entering)
                if box.fresh is EMPTY:
                    box.fresh = deque()
                box.fresh.extend(entering)
                box.tell_ready()
            self._wake(entering)
        for box, entering in union.deep.items():
            shelf = self._expect(box, entering)
            if error is not None:
                shelf.coming -= len(entering)
                box.refresh()
                box.tell_room()
                ledger.replenish(box)
            else:
                for arrival in entering:
                    ledger.enter_stored(box, shelf, arrival, is_shelved=True)
            self._wake(entering)

    @staticmethod
    def _expect(box: Mailbox, entering: list[Arrival]) -> Shelf:
        """Count copies no longer as arriving."""
        shelf = box.shelf
        assert shelf is not None
        box.arriving -= len(entering)
        return shelf

    def _wake(self, entering: list[Arrival]) -> None:
        self.woken += len(entering)
        self._ground.parking.wake_all(entering)

    def _end(self, acks: dict[Cell, list[Entry]], error: StoreError | None) -> None:
        self._under_way -= 1
        for cell, entries in acks.items():
            if error is not None:
                for entry in entries:
                    self._undo(cell, entry, error)
                continue
            for entry in entries:
                entry.state = ENDED
            box, shelf = cell.box, cell.box.shelf
            box.acked += len(entries)
            cell.committing -= len(entries)
            if shelf is not None and shelf.solitary is not None:
                for entry in entries:
                    self._ground.ledger.end_solitude(box, shelf, entry)
            if cell.closed:
                self._reopen(cell)
