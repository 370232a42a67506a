"""Which of the messages of one value is handled, and when: the latest, once they have stopped coming.

`Bursts` is the rule alone: of each value the latest item waits.  A burst is due `quiet` seconds after its latest item came, at
the latest `max_wait` seconds after its first, or when everything is.  Latest is by place, so an item that comes back to be
tried again gives way to one that came after it.

`Latest` carries the rule out in one mailbox: the latest copy of a value is set aside there, those before it are dropped, and
one that awaits its retry is dropped as well.  A value whose copy is in hand is held until that is settled.
"""

from collections.abc import Callable, Hashable
from typing import Any

from flowmesh._core.commits import Supersede
from flowmesh._core.deadlines import ROUNDING, Deadlines
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.ledger import Ledger
from flowmesh._core.mailbox import Mailbox
from flowmesh.policies import Debounce

__all__ = ["Bursts", "Latest"]


class Burst:
    """What waits for one value: the latest `item`, and the times of the `first` and the `last`. `is_out`: one is in hand."""

    __slots__ = ("first", "is_out", "item", "last", "place")

    def __init__(self) -> None:
        self.item: Any = None
        self.place = -1
        self.first = self.last = 0.0
        self.is_out = False


class Bursts:
    """The rule of a Debounce: add items, ask what is due. Keeps state only for values that have one."""

    def __init__(self, rule: Debounce) -> None:
        self._rule = rule
        self._bursts: dict[Hashable, Burst] = {}
        self._deadlines = Deadlines()

    def __len__(self) -> int:
        return len(self._bursts)

    def add(self, value: Hashable, item: Any, *, place: int, since: float) -> Any:
        """Let an item wait that came at `since`; return the one that gives way, which may be itself, or None."""
        burst = self._bursts.get(value)
        if burst is None:
            burst = self._bursts[value] = Burst()
        before = burst.item
        if before is not None and place < burst.place:
            return item
        if before is None:
            burst.first = burst.last = since
        burst.last = max(burst.last, since)
        burst.item, burst.place = item, place
        self._watch(value, burst)
        return before

    def discard(self, value: Hashable, item: Any) -> None:
        """Let an item go, for whatever reason; nothing if it does not wait."""
        burst = self._bursts.get(value)
        if burst is None or burst.item is not item:
            return
        burst.item = None
        self._deadlines.remove(value)
        if not burst.is_out:
            del self._bursts[value]

    def due(self, now: float, *, everything: bool = False) -> Any:
        """Return the item to be handed out next, or None."""
        first = self._deadlines.first()
        if first is None or (first[0] > now and not everything):
            return None
        return self._bursts[first[1]].item

    def next_due(self) -> float | None:
        """Return when the next one is due, if nothing comes or goes."""
        first = self._deadlines.first()
        return None if first is None else first[0]

    def hold(self, value: Hashable) -> None:
        """An item of this value is in hand: hand out no other one until `free`."""
        self._bursts.setdefault(value, Burst()).is_out = True
        self._deadlines.remove(value)

    def free(self, value: Hashable) -> None:
        """That item is settled."""
        burst = self._bursts.get(value)
        if burst is None or not burst.is_out:
            return
        burst.is_out = False
        if burst.item is None:
            del self._bursts[value]
        else:
            self._watch(value, burst)

    def _watch(self, value: Hashable, burst: Burst) -> None:
        if not burst.is_out:
            self._deadlines.set(value, min(burst.last + self._rule.quiet, burst.first + self._rule.max_wait))


class Latest:
    """The debounced copies of one actor: those of its mailbox that are set aside, and what is handed out of them.

    `lane` of a copy: (this, its value); who is in hand, or awaits its retry, holds it. `on_freed` is called when something may
    be due that was held.
    """

    has_full = False

    def __init__(self, rule: Debounce, ledger: Ledger, mailbox: Mailbox, on_freed: Callable[[], None]) -> None:
        self._ledger = ledger
        self._mailbox = mailbox
        self._on_freed = on_freed
        self._bursts = Bursts(rule)
        self._held: set[Any] = set()
        self._contested: dict[Any, None] = {}  # held, with a newer copy waiting

    def add(self, entry: Entry, now: float, size: int = 0) -> None:
        """Let a copy wait that was popped, and drop the ones that it stands for; its lane is set."""
        del size
        lane = entry.lane
        loser = self._bursts.add(lane[1], entry, place=entry.place, since=min(entry.since, now))
        if loser is entry:
            entry.lane = NO_LANE
        else:
            self._mailbox.gather(entry, self)
            if lane in self._held:
                self._contested.setdefault(lane)
        if loser is not None:
            self._drop(loser, now)

    def give_way(self, now: float) -> None:
        """Drop the copies that await their retry although a newer one of their value is there."""
        for lane in list(self._contested):
            holder = self._mailbox.holder_of(lane)
            if holder is not None and holder.state is State.DELAYED:
                self._drop(holder, now)

    def _drop(self, entry: Entry, now: float) -> None:
        self._ledger.commit(Supersede(self._mailbox, entry), now=now)

    def left(self, entry: Entry) -> None:
        """Forget a copy that is not set aside any more."""
        lane, entry.lane = entry.lane, NO_LANE
        self._bursts.discard(lane[1], entry)
        self._mailbox.forget_lane(lane)

    def freed(self, lane: Any) -> None:
        """Take the news that a value has nothing in hand any more."""
        self._held.discard(lane)
        self._contested.pop(lane, None)
        self._bursts.free(lane[1])
        self._on_freed()

    def is_due(self, now: float, *, everything: bool) -> bool:
        """There is a copy to be handed out."""
        return self._bursts.due(now + ROUNDING, everything=everything) is not None

    def next_due(self) -> float | None:
        """Return when to look again."""
        return self._bursts.next_due()

    def hand_out(self, now: float, *, everything: bool) -> Entry | None:
        """Lease the next copy that is due, or return None."""
        mailbox = self._mailbox
        while (entry := self._bursts.due(now + ROUNDING, everything=everything)) is not None:
            lane = entry.lane
            first = mailbox.first_gathered(lane)
            assert first is entry
            mailbox.take_gathered(entry)
            if not self._ledger.has_lapsed(mailbox, entry, now):
                entry.move(State.LEASED)
                entry.lane = lane
                mailbox.hold_lane(entry, self)
                self._held.add(lane)
                self._bursts.hold(lane[1])
                return entry
        return None
