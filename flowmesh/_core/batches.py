"""When a batch is handed out, and with which messages.

`Lots` is the rule alone: what waits for each value, and which of them is due.  A lot is due when it is full (`size`, or one
more item would not fit into `max_bytes`), when its oldest item has waited `within` seconds, or when everything is.  Lots
whose time has come go before full ones, so that no flood of others keeps them waiting; each kind in the order in which it
became due.

`Batches` carries the rule out in one mailbox: a waiting copy is set aside there, so it is ready, at its place, and can expire,
be withdrawn, dropped or purged; a batch that is handed out is one lease of several copies.
"""

from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Final, Literal

from msgspec import field

from flowmesh._core.deadlines import ROUNDING, Deadlines
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.gates import Gates
from flowmesh._core.ledger import Ledger
from flowmesh._core.mailbox import Mailbox
from flowmesh.message import Message
from flowmesh.policies import Batch

__all__ = ["BatchLease", "BatchReason", "Batches", "Lots"]

BatchReason = Literal["size", "within", "bytes", "drain"]


class Lot:
    """What waits for one value.

    `items`: item -> (since when, bytes). `oldest`: of those times; with `is_stale`, of an item that may have left. `is_out`: a
    batch of this value is in hand, and its values have one at a time.
    """

    __slots__ = ("bytes", "is_out", "is_stale", "items", "oldest")

    def __init__(self) -> None:
        self.items: dict[Any, tuple[float, int]] = {}
        self.bytes = 0
        self.oldest = 0.0
        self.is_stale = True
        self.is_out = False


class Lots:
    """The rule of a Batch: add items, ask what is due. Keeps state only for values that have some."""

    def __init__(self, rule: Batch) -> None:
        self._rule = rule
        self._lots: dict[Hashable, Lot] = {}
        self._full: dict[Hashable, None] = {}
        self._deadlines = Deadlines()

    def __len__(self) -> int:
        return len(self._lots)

    @property
    def has_full(self) -> bool:
        """A lot is full and may be handed out."""
        return bool(self._full)

    def add(self, value: Hashable, item: Any, *, since: float, size: int = 0) -> None:
        """Let an item wait that came at `since`."""
        lot = self._lots.get(value)
        if lot is None:
            lot = self._lots[value] = Lot()
        if lot.is_stale:
            self._refresh(lot)
        lot.oldest = min(lot.oldest, since) if lot.items else since
        lot.items[item] = (since, size)
        lot.bytes += size
        self._watch(value, lot)

    def discard(self, value: Hashable, item: Any) -> None:
        """Let an item go, for whatever reason; nothing if it does not wait."""
        lot = self._lots.get(value)
        found = None if lot is None else lot.items.pop(item, None)
        if lot is None or found is None:
            return
        lot.bytes -= found[1]
        lot.is_stale = True
        if not self._is_full(lot):
            self._full.pop(value, None)
        if not lot.items:
            self._deadlines.remove(value)
            if not lot.is_out:
                del self._lots[value]

    def due(self, now: float, *, everything: bool = False) -> tuple[Hashable, BatchReason] | None:
        """Return the value whose lot is to be handed out next, and why; None while there is none."""
        while (first := self._deadlines.first()) is not None and (first[0] <= now or everything):
            value = first[1]
            lot = self._lots[value]
            if lot.is_stale:
                self._refresh(lot)
                self._deadlines.set(value, lot.oldest + self._rule.within)
                continue
            return value, self._reason(lot, now)
        for value in self._full:
            return value, self._reason(self._lots[value], now)
        return None

    def next_due(self) -> float | None:
        """Return when to look again, if nothing comes or goes; at worst too early."""
        first = self._deadlines.first()
        return None if first is None else first[0]

    def size_of(self, value: Hashable, item: Any) -> int:
        """Return the bytes of an item that waits."""
        return self._lots[value].items[item][1]

    def fits(self, items: int, size: int) -> bool:
        """Whether so many items of so many bytes in all are one batch."""
        limit = self._rule.max_bytes
        return items == 1 or (items <= self._rule.size and (limit is None or size <= limit))

    def hold(self, value: Hashable) -> None:
        """A batch of this value is in hand: hand out no other one until `free`."""
        lot = self._lots.setdefault(value, Lot())
        lot.is_out = True
        self._deadlines.remove(value)
        self._full.pop(value, None)

    def free(self, value: Hashable) -> None:
        """The batch of this value is settled."""
        lot = self._lots.get(value)
        if lot is None or not lot.is_out:
            return
        lot.is_out = False
        if lot.items:
            self._refresh(lot)
            self._watch(value, lot)
        else:
            del self._lots[value]

    def _watch(self, value: Hashable, lot: Lot) -> None:
        if not lot.is_out:
            self._deadlines.set(value, lot.oldest + self._rule.within)
            if self._is_full(lot):
                self._full.setdefault(value)

    def _is_full(self, lot: Lot) -> bool:
        limit = self._rule.max_bytes
        return len(lot.items) >= self._rule.size or (limit is not None and lot.bytes >= limit)

    def _reason(self, lot: Lot, now: float) -> BatchReason:
        if len(lot.items) >= self._rule.size:
            return "size"
        if self._is_full(lot):
            return "bytes"
        return "within" if lot.oldest + self._rule.within <= now else "drain"

    @staticmethod
    def _refresh(lot: Lot) -> None:
        lot.is_stale = False
        lot.oldest = min((since for since, _ in lot.items.values()), default=0.0)


class BatchLease(Entry, eq=False):
    """Several copies that were handed out together; it stands for them until each is settled.

    `message`: the first one's, without what concerns that one alone. `marks`: what the handler said of single copies, by
    index. `is_over`: it is settled. `waited`: seconds, of the oldest.
    """

    copies: tuple[Entry, ...] = ()
    reason: BatchReason = "size"
    value: Any = None
    waited: float = 0.0
    marks: dict[int, Exception] = field(default_factory=dict[int, Exception])
    is_over: bool = False

    asked: ClassVar[bool] = False


_OF_ONE: Final = {
    "expires": None,
    "ttl": None,
    "deadline": None,
    "reply_to": None,
    "fire": None,
    "run": None,
    "trace": None,
    "priority": 0,
}


class Batches:
    """The batches of one actor: copies of its mailbox that are set aside, and what is handed out of them.

    `lane` of a copy: (this, its value). `on_freed` is called when something may be due that was held. `gates`: let a copy in;
    one that they call back when its batch is handed out is ready again, and is asked anew.
    """

    def __init__(
        self, rule: Batch, ledger: Ledger, mailbox: Mailbox, on_freed: Callable[[], None], gates: Gates | None = None
    ) -> None:
        self._ledger = ledger
        self._mailbox = mailbox
        self._on_freed = on_freed
        self._gates = None if gates is None or not gates.breakers else gates
        self._lots = Lots(rule)
        self._one_at_a_time = rule.by is not None

    @property
    def has_full(self) -> bool:
        """There is a full batch: look at no more copies before it has been handed out."""
        return self._lots.has_full

    def add(self, entry: Entry, now: float, size: int = 0) -> None:
        """Let a copy wait that was popped; its lane is set."""
        value = entry.lane[1]
        self._mailbox.gather(entry, self)
        since = entry.since
        if entry.redelivered:
            held_since = None if entry.gated is None else entry.gated.held_since
            since = now if held_since is None else held_since
        self._lots.add(value, entry, since=min(since, now), size=size)

    def give_way(self, now: float) -> None:
        """Nothing: no message stands for another one."""
        del now

    def left(self, entry: Entry) -> None:
        """Forget a copy that is not set aside any more."""
        lane, entry.lane = entry.lane, NO_LANE
        self._lots.discard(lane[1], entry)
        self._mailbox.forget_lane(lane)

    def freed(self, lane: Any) -> None:
        """Nothing: a batch holds no lane, its lot is held instead."""
        del lane

    def is_due(self, now: float, *, everything: bool) -> bool:
        """There is a batch to be handed out."""
        return self._lots.due(now + ROUNDING, everything=everything) is not None

    def next_due(self) -> float | None:
        """Return when to look again."""
        return self._lots.next_due()

    def hand_out(self, now: float, *, everything: bool) -> BatchLease | None:
        """Lease the next batch that is due, or return None."""
        lots, mailbox = self._lots, self._mailbox
        while (found := lots.due(now + ROUNDING, everything=everything)) is not None:
            value, reason = found
            lane = (self, value)
            copies: list[Entry] = []
            size = 0
            while (entry := mailbox.first_gathered(lane)) is not None:
                with_it = size + lots.size_of(value, entry)
                if not lots.fits(len(copies) + 1, with_it):
                    break
                mailbox.take_gathered(entry)
                if self._gates is not None and self._gates.calls_back(entry):
                    mailbox.restore(entry)
                elif not self._ledger.has_lapsed(mailbox, entry, now):
                    entry.move(State.LEASED)
                    if entry.gated is not None:
                        entry.gated.held_since = None
                    copies.append(entry)
                    size = with_it
            if copies:
                if self._one_at_a_time:
                    lots.hold(value)
                return _lease_of(copies, value, reason, now)
        return None

    def settled(self, lease: BatchLease) -> None:
        """Take the news that all copies of a batch have been settled."""
        self._lots.free(lease.value)
        self._on_freed()


def _lease_of(copies: list[Entry], value: Any, reason: BatchReason, now: float) -> BatchLease:
    correlations = {entry.message.properties.correlation_id for entry in copies}
    shared = correlations.pop() if len(correlations) == 1 else None
    first = copies[0]
    message: Message = first.message.with_properties(**_OF_ONE, correlation_id=shared)
    return BatchLease(
        message,
        first.since,
        place=first.place,
        state=State.LEASED,
        failures=max(entry.failures for entry in copies),
        redelivered=any(entry.redelivered for entry in copies),
        body=[entry.message.body if entry.body is None else entry.body for entry in copies],
        copies=tuple(copies),
        reason=reason,
        value=value,
        waited=max(0.0, now - min(entry.since for entry in copies)),
    )
