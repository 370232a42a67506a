"""Gathering: an actor whose messages wait for others before they are handed out, in batches or as the latest of a burst.

The worker that takes from such an actor looks at every copy there is (64 in one go), lets each wait, and takes what is due.
One timer of the mesh stands for what will be due next; it lists the actor, as a new message does.  Whoever leaves the actor
alone calls `look` last: either something is due, or the timer is set.

With gates, a copy passes them before it waits: a rate counts what is taken into batches, a breaker holds what would be.

What waits is ready: it counts for `capacity`, and can expire, be withdrawn, dropped and purged.  While the mesh drains,
everything is due at once.  `release` puts what waits back in line: the actor, or the mesh, has stopped.
"""

from typing import Any, Protocol

import msgspec

from flowmesh._core.aside import Gatherer
from flowmesh._core.batches import Batches, BatchLease
from flowmesh._core.debouncing import Latest
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.gates import Gates, TurnEnd, UnusableValue
from flowmesh._core.ledger import LOOKED_AT, UnusableLane
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.timers import Timer
from flowmesh._runtime.ground import Ground, Phase
from flowmesh.errors import MalformedMessage
from flowmesh.message import Message
from flowmesh.policies import Batch, Debounce

__all__ = ["Gathering"]


class Core(Gatherer, Protocol):
    """What decides: Batches or Latest."""

    @property
    def has_full(self) -> bool:
        """Look at no more copies now."""
        ...

    def add(self, entry: Entry, now: float, size: int = 0) -> None:
        """Let a copy wait."""
        ...

    def give_way(self, now: float) -> None:
        """Drop what a newer copy stands for."""
        ...

    def is_due(self, now: float, *, everything: bool) -> bool:
        """There is something to hand out."""
        ...

    def next_due(self) -> float | None:
        """Return when there will be."""
        ...

    def hand_out(self, now: float, *, everything: bool) -> Entry | None:
        """Lease it."""
        ...


class Fed(Protocol):
    """The actor, as far as it matters here; called when it has something to look at."""

    box: Mailbox
    gates: Gates | None
    running: int
    slots: int

    def __call__(self) -> None: ...

    def body_of(self, entry: Entry) -> Any: ...


class Gathering:
    """What gathers for one actor. `by`: gives a body's value, or None; `flushed`: batches handed out, by reason."""

    def __init__(self, cell: Fed, rule: Batch | Debounce) -> None:
        self._cell = cell
        self._rule = rule
        self.by = rule.by
        self._measures = isinstance(rule, Batch) and rule.max_bytes is not None
        self._timer: Timer | None = None
        self._ground: Ground
        self._core: Core
        self.is_batch = isinstance(rule, Batch)
        self.flushed: dict[str, int] = {}

    def attach(self, ground: Ground) -> None:
        """Belong to this mesh from now on."""
        self._ground = ground
        rule, box = self._rule, self._cell.box
        if isinstance(rule, Batch):
            self._core = Batches(rule, ground.ledger, box, self._set_timer, self._cell.gates)
        else:
            self._core = Latest(rule, ground.ledger, box, self._set_timer)

    def lane_of(self, entry: Entry) -> tuple[Core, Any]:
        """Return the lane of a copy: what gathers it, and its value."""
        body = self._cell.body_of(entry)
        value = None if self.by is None else self.by(body)
        hash(value)
        return self._core, value

    def take(self) -> Entry | None:
        """Look at what came, and lease what is due; None does not mean that there is nothing more to look at.

        Raises:
            UnusableLane: a copy cannot be handed out; it is leased and the caller's to settle.
        """
        ground, cell, core = self._ground, self._cell, self._core
        box = cell.box
        now = ground.now()
        try:
            for _ in range(LOOKED_AT):
                if core.has_full or (item := ground.ledger.pop(box, ground.now())) is None:
                    break
                if isinstance(item, Message):
                    item = box.adopt(item, box.popped - 1, item.timestamp - ground.wall_offset)
                if not ground.ledger.has_lapsed(box, item, now) and self._is_admitted(item, now):
                    self._let_wait(item, now)
            core.give_way(now)
            found = core.hand_out(now, everything=self._drains) if self._is_due(now) else None
        finally:
            box.refresh()
            box.tell_room()
            ground.ledger.replenish(box)
        if isinstance(found, BatchLease):
            self.flushed[found.reason] = self.flushed.get(found.reason, 0) + 1
        if cell.running < cell.slots and self._is_due(now):
            cell()  # Another worker may have it.
        return found

    def _is_admitted(self, entry: Entry, now: float) -> bool:
        gates = self._cell.gates
        try:
            return gates is None or self._ground.ledger.admission.admit(self._cell.box, gates, entry, now)
        except UnusableValue as error:
            entry.move(State.LEASED)
            raise UnusableLane(entry, error.gate) from error.__cause__

    def _let_wait(self, entry: Entry, now: float) -> None:
        size = 0
        try:
            entry.lane = self.lane_of(entry)
            if self._measures:
                size = _bytes_of(entry.message.body if entry.body is None else entry.body)
        except BaseException as error:
            entry.lane = NO_LANE
            entry.move(State.LEASED)
            raise UnusableLane(entry) from error
        self._core.add(entry, now, size)

    def look(self) -> bool:
        """Tell whether something is due; if not, see to it that the actor is listed when it is."""
        now = self._ground.now()
        self._core.give_way(now)
        if self._is_due(now):
            return True
        self._set_timer()
        return False

    def _is_due(self, now: float) -> bool:
        """There is something to hand out; of what is not full, once the copies behind it have been looked at."""
        return (not self._awaits_mark or self._core.has_full) and self._core.is_due(now, everything=self._drains)

    @property
    def _awaits_mark(self) -> bool:
        """A copy is being marked by itself before it is looked at; then the mailbox tells."""
        shelf = self._cell.box.shelf
        return shelf is not None and shelf.marking is not None

    def settled(self, lease: BatchLease) -> None:
        """Take the news that a batch has been settled."""
        core = self._core
        assert isinstance(core, Batches)
        core.settled(lease)

    def release(self) -> None:
        """Put everything that waits back in line."""
        if self._timer is not None:
            self._ground.ledger.timers.cancel(self._timer)
            self._timer = None
        box = self._cell.box
        for lane in [lane for lane, found in box.lanes.items() if found.gatherer is self._core]:
            while (entry := box.first_gathered(lane)) is not None:
                box.take_gathered(entry)
                self._ground.ledger.admission.end(box, entry, TurnEnd(), self._ground.now())
                box.restore(entry)

    @property
    def _drains(self) -> bool:
        return self._ground.phase is Phase.DRAINING

    def _set_timer(self) -> None:
        timers, due = self._ground.ledger.timers, self._core.next_due()
        if due is None or self._awaits_mark or (self._timer is not None and self._timer.is_set and self._timer.due <= due):
            return
        if self._timer is not None:
            timers.cancel(self._timer)
        self._timer = timers.set(due, self._wake)

    def _wake(self, now: float) -> None:
        self._timer = None
        if self._is_due(now):
            self._cell()
        else:
            self._set_timer()


def _bytes_of(body: Any) -> int:
    if isinstance(body, bytes | bytearray):
        return len(body)
    try:
        return len(msgspec.msgpack.encode(body))
    except Exception as error:
        raise MalformedMessage(
            f"a body of type {type(body).__qualname__} cannot be measured for max_bytes: it must be bytes, or something that "
            f"msgspec encodes ({error})"
        ) from error
