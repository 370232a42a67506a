"""The mailbox: ready copies in order, room, lanes, expiry, and the count of how every copy ended.

Order is by (priority, place) with `priorities`, otherwise by place alone.  Fresh copies stand in a deque, in the order of
their places; a copy that came back, and every copy of a mailbox with priorities, stands in a heap by (rank, place).  In a
mailbox without priorities everything in the heap entered before everything in the deque, so the heap goes first.

Invariant, at every moment: entered = ready + leased + delayed + acked + dead + expired + dropped + withdrawn + purged.
`leased` is that sum's remainder, so handing out and acking a plain copy costs one counter.

An idle mailbox has no deque but EMPTY, which takes nothing: an empty deque is 760 bytes, and one that was used a moment ago
is in the processor's cache.  Whoever appends puts a deque there first.

Two numbers keep the usual case fast.  `limit`: a publisher may append a plain Message while `len(fresh) < limit`; it is
-1 when anything needs care.  `careful`: a consumer may pop from `fresh` itself while it is False.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, cast

from flowmesh._core.aside import NO_ENTRIES, NO_LANES, NO_RETRIES, NOTHING_HELD, Aside, forget_stale
from flowmesh._core.entry import NO_LANE, Entry, Outcome, State
from flowmesh._core.numbers import MailboxStatistics
from flowmesh._core.shelf import MARK_ALONE, WINDOW, Shelf
from flowmesh._core.timers import Timer
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions

__all__ = ["EMPTY", "Mailbox"]

ASIDE_IN_MEMORY: Final = 8 * WINDOW
EMPTY: Final = cast("deque[Message | Entry]", ())
"""What an idle mailbox has for a deque: it can be asked, but takes nothing."""


def _nobody() -> None:
    """Tell nobody: nothing is fed from the mailbox, which is not armed then."""


class Mailbox(Aside):
    """One mailbox of the core. Knows nothing of who sends or consumes; tells `on_ready` and `on_room` when they matter."""

    __slots__ = (
        "arriving",
        "consumers",
        "dead",
        "deadlines",
        "delayed",
        "deleted",
        "dropped",
        "expired",
        "expiry",
        "ghosts",
        "is_open",
        "lapsed",
        "number",
        "on_room",
        "options",
        "pinned",
        "places",
        "purged",
        "retries",
        "room_wanted",
        "shelf",
        "tracked",
        "watched",
        "withdrawn",
    )

    def __init__(self, name: str, number: int, options: MailboxOptions) -> None:
        self.name = name
        self.number = number
        self.options = options
        self.deleted = False
        self.lapsed = False  # deleted because nobody used it
        self.is_open = False  # fast publishing: only while a mesh runs
        self.tracked = False  # every copy has an Entry, so that one can be taken from the middle
        self.fresh: deque[Message | Entry] = EMPTY
        self.popped = 0  # the place of fresh[0]
        self.places = 0  # places given by priorities
        self.heap = NO_ENTRIES
        self.lanes = NO_LANES
        self.last_resort = NO_ENTRIES  # those set aside, in order: only drop_oldest asks
        self.retries: dict[Entry, Timer] = NO_RETRIES
        self.deadlines: list[tuple[float, int, Entry]] = NO_ENTRIES
        self.watched = 0  # a serial that keeps equal deadlines in order
        self.expiry: Timer | None = None
        self.shelf: Shelf | None = None  # its part in the store, if it is durable
        self.ghosts = 0  # entries in deque or heap that are not READY
        self.aside = 0
        self.held = NOTHING_HELD  # those of them that a gate holds
        self.pinned = 0  # ready copies that a prepared commit will end
        self.arriving = 0  # copies that a prepared commit will bring: they count as room
        self.entered = self.acked = self.dead = self.expired = self.dropped = self.withdrawn = self.purged = 0
        self.delayed = 0
        self.consumers = 0
        self.armed = False
        self.room_wanted = False
        self.on_ready: Callable[[], None] = _nobody
        self.on_room: Callable[[], None] | None = None
        self.limit = -1
        self.careful = True
        self.refresh()

    # What there is

    @property
    def ready(self) -> int:
        """Copies that are ready, those set aside for their lane and those on disk included."""
        in_memory = len(self.fresh) + len(self.heap) + self.aside + self.pinned - self.ghosts
        return in_memory if self.shelf is None else in_memory + self.shelf.tail

    @property
    def at_hand(self) -> int:
        """Ready copies in memory, as its shelf counts them.

        Those set aside count only when they are many: one busy lane must not keep the others' copies on disk.
        """
        return len(self.fresh) + len(self.heap) - self.ghosts + max(0, self.aside - ASIDE_IN_MEMORY)

    @property
    def leased(self) -> int:
        """Copies that are handed out and not settled."""
        ended = self.acked + self.dead + self.expired + self.dropped + self.withdrawn + self.purged
        return self.entered - self.ready - self.delayed - ended

    @property
    def has_next(self) -> bool:
        """There may be a copy to hand out: look. False only if there is none."""
        return bool(self.fresh or self.heap) and (self.shelf is None or not self.shelf.is_blocked)

    @property
    def marks_each(self) -> bool:
        """Each of its stored copies is marked by itself: one death of a process would make dead letters of all its window."""
        return self.options.max_deliveries == 1

    def has_room(self, copies: int = 1) -> bool:
        """That many more copies fit in, those of prepared commits counted."""
        return self.ready + self.arriving + copies <= self.options.capacity

    def has_room_for_dropping(self) -> bool:
        """One more copy fits in once what is about to be dropped has gone: the question of the drop policies."""
        return self.ready - self.pinned + self.arriving < self.options.capacity

    def statistics(self, now: float, wall: float) -> MailboxStatistics:
        """Return the numbers of this moment. O(1), but O(ready) with priorities or copies set aside."""
        oldest: float | None = None
        for item in self._ready_items(heads_only=not self.options.priorities):
            age = now - item.since if isinstance(item, Entry) else wall - item.timestamp
            oldest = age if oldest is None else max(oldest, age)
        ready = self.ready - self.pinned
        return MailboxStatistics(
            ready=ready,
            leased=self.leased,
            delayed=self.delayed,
            entered=self.entered,
            acked=self.acked,
            dead=self.dead,
            expired=self.expired,
            dropped=self.dropped,
            withdrawn=self.withdrawn,
            purged=self.purged,
            over=max(0, ready - self.options.capacity),
            oldest_age=None if oldest is None else max(0.0, oldest),
            consumers=self.consumers,
            standby=max(0, self.consumers - 1) if self.options.single_active else 0,
        )

    def peek(self, limit: int) -> list[Message]:
        """Return up to `limit` ready messages in the order in which they would be handed out, lanes aside."""
        back = [(rank, place, entry.message) for rank, place, entry in self.heap if entry.state is State.READY]
        back += [(self.rank_of(entry.message), entry.place, entry.message) for entry in self._set_aside()]
        back.sort(key=lambda item: item[:2])
        found = [message for _, _, message in back[:limit]]
        for item in self.fresh:
            if len(found) >= limit:
                break
            if isinstance(item, Message):
                found.append(item)
            elif item.state is State.READY:
                found.append(item.message)
        return found

    def entries(self) -> list[Entry]:
        """Return every entry that stands here and is not leased, the next to be handed out first."""
        heap = [entry for _, _, entry in sorted(self.heap) if entry.state is State.READY]
        fresh = [item for item in self.fresh if isinstance(item, Entry) and item.state is State.READY]
        return [*heap, *fresh, *self._set_aside(), *self.retries]

    def rebase(self, difference: float) -> None:
        """Shift what its copies remember of the monotonic clock, which counts from elsewhere from now on."""
        for entry in {*self.entries(), *(entry for _, _, entry in self.deadlines)}:
            entry.since += difference
            if entry.expires is not None:
                entry.expires += difference
        if self.deadlines:
            self.deadlines = [(due + difference, number, entry) for due, number, entry in self.deadlines]
            heapq.heapify(self.deadlines)  # rounding may have made different times equal

    def _set_aside(self) -> dict[Entry, None]:
        # One that was pinned, shown and set aside again has two records.
        waiting = (entry for lane in self.lanes.values() for _, _, entry in lane.waiting)
        return dict.fromkeys(entry for entry in (*waiting, *self.held) if entry.state is State.ASIDE)

    def _ready_items(self, *, heads_only: bool) -> Iterator[Message | Entry]:
        for item in self.fresh:
            if isinstance(item, Message) or item.state is State.READY:
                yield item
                if heads_only:
                    break
        for _, _, entry in self.heap:
            if entry.state is State.READY:
                yield entry
        yield from self._set_aside()

    # Entering

    def needs_entry(self, message: Message) -> bool:
        """A copy of this message cannot stand here as a plain Message."""
        options = self.options
        return (
            self.tracked
            or self.shelf is not None
            or options.priorities
            or options.ttl is not None
            or message.properties.expires is not None
        )

    def put(self, item: Message | Entry) -> None:
        """Let a copy in, over capacity if need be: room was the business of whoever prepared it."""
        self.entered += 1
        self.stand(item)

    def stand(self, item: Message | Entry) -> None:
        """Let a copy that has entered, or was read back, stand in line."""
        if isinstance(item, Entry):
            self._limit(item)
            item.queued = True
            if self.options.priorities:
                if self.shelf is None:
                    item.place = self.places
                    self.places += 1
                self._push((-item.message.properties.priority, item.place, item))
            else:
                self._append(item)
        else:
            self._append(item)
        self.refresh()
        self.tell_ready()

    def put_behind(self, entry: Entry) -> None:
        """Let a copy in that is not stored, and set it aside: it comes after copies that lie on disk."""
        self.entered += 1
        self._limit(entry)
        self._put_aside(entry, self._lane(NO_LANE))
        self.refresh()

    def first_behind(self) -> Entry | None:
        """Return the first copy that is set aside so; `take_gathered` takes it."""
        entry = self.first_gathered(NO_LANE)
        if entry is None:
            self.forget_lane(NO_LANE)
        return entry

    def _limit(self, entry: Entry) -> None:
        """Say until when a copy that enters may be handed out, and watch that."""
        ttl = self.options.ttl
        expires = entry.message.properties.expires
        if ttl is not None:
            expires = entry.since + ttl if expires is None else min(expires, entry.since + ttl)
        entry.expires = expires
        if expires is not None:
            self._watch(entry, expires)

    def _append(self, item: Message | Entry) -> None:
        if self.fresh is EMPTY:
            self.fresh = deque()
        self.fresh.append(item)

    def put_back(self, entry: Entry) -> None:
        """Undo the pop of an entry."""
        entry.queued = True
        self._push((self.rank_of(entry.message), entry.place, entry))

    def _push(self, record: tuple[int, int, Entry]) -> None:
        if self.heap is NO_ENTRIES:
            self.heap = []
        heapq.heappush(self.heap, record)

    def wait_for(self, entry: Entry, timer: Timer) -> None:
        """Note the timer that ends a copy's delay."""
        if self.retries is NO_RETRIES:
            self.retries = {}
        self.retries[entry] = timer

    def restore(self, entry: Entry) -> None:
        """Put a copy that had left the line back at its place."""
        self.put_back(entry)
        if entry.expires is not None:
            self._watch(entry, entry.expires)
        self.refresh()
        self.tell_ready()

    def tell_ready(self) -> None:
        """Tell the consumer, if it wants to be told, that there is something to look at."""
        if self.armed:
            self.armed = False
            self.on_ready()

    # Handing out

    @staticmethod
    def adopt(message: Message, place: int, since: float) -> Entry:
        """Make the Entry of a copy that was popped from `fresh` as a plain Message at `place`; it entered at `since`."""
        entry = Entry(message, since)
        entry.place = place
        return entry

    def lease_plain(self, message: Message, place: int, since: float) -> Entry:
        """Make the Entry of a plain copy that is handed out already and needs more than a count; it entered at `since`."""
        entry = self.adopt(message, place, since)
        entry.state = State.LEASED
        return entry

    def pop(self) -> Message | Entry | None:
        """Take the next READY copy out of the line, or return None; it is the caller's to lease, set aside or end."""
        while True:
            if self.heap:
                entry = heapq.heappop(self.heap)[2]
            elif self.fresh:
                item = self.fresh.popleft()
                place = self.popped
                self.popped += 1
                if isinstance(item, Message):
                    return item
                entry = item
                if self.shelf is None:
                    entry.place = place
            else:
                return None
            entry.queued = False
            if entry.state is State.READY:
                return entry
            self.ghosts -= 1

    # Ending

    def pin(self, entry: Entry) -> None:
        """Hide a ready copy that a prepared commit will end."""
        was_aside = entry.state is State.ASIDE
        entry.move(State.PINNED)
        if entry.queued:
            if was_aside:
                waiting = self._aside_in(entry)
                self._leave_aside(waiting, entry)
                forget_stale(waiting.waiting, waiting.live)
            else:
                self.ghosts += 1
        self.pinned += 1
        if entry.gated is not None:
            self.pass_chance(entry)
        if entry.lane is not NO_LANE:
            self.leave_lane(entry)
        self.refresh()

    def unpin(self, entry: Entry) -> None:
        """Show it again: the commit was given up."""
        self.pinned -= 1
        entry.move(State.READY)
        if entry.queued:
            self.ghosts -= 1
            if entry.expires is not None:
                self._watch(entry, entry.expires)
            self.refresh()
            self.tell_ready()
        else:
            self.restore(entry)

    def end(self, entry: Entry, outcome: Outcome) -> None:
        """End a copy for good and count it; frees its lane, and room if it was ready."""
        was_ready = entry.state is State.PINNED
        if was_ready:
            self.pinned -= 1
        entry.move(State.ENDED)
        self.count(outcome)
        if self.shelf is not None:
            self.shelf.lone -= entry.alone & MARK_ALONE
        if entry.queued:
            entry.queued = False
            self._forget_ended()
        if entry.lane is not NO_LANE and not was_ready:
            self.leave_lane(entry)
        self.refresh()
        entry.ended(outcome)
        if was_ready:
            self.tell_room()

    def count(self, outcome: Outcome, copies: int = 1) -> None:
        """Count copies that ended."""
        setattr(self, outcome, getattr(self, outcome) + copies)

    def _forget_ended(self) -> None:
        """Take what has ended out of the middle of the line, once it is more than half of it."""
        ended = self.ghosts - self.pinned  # at least so many: a pinned copy may have left the line
        if ended <= 64 or ended * 2 <= len(self.fresh) + len(self.heap):
            return
        before = len(self.fresh) + len(self.heap)
        fresh = [item for item in self.fresh if isinstance(item, Message) or item.state is not State.ENDED]
        if len(fresh) < len(self.fresh):
            # Places are given by counting as they are looked at, so their order stays.
            self.fresh.clear()
            self.fresh.extend(fresh)
        if self.heap:
            self.heap[:] = [record for record in self.heap if record[2].state is not State.ENDED]
            heapq.heapify(self.heap)
        self.ghosts -= before - len(self.fresh) - len(self.heap)

    def unload(self) -> list[Message | Entry]:
        """Take out everything that stands here or is delayed, uncounted: it is to be read from a store, or to enter anew."""
        items: list[Message | Entry] = []
        while (item := self.pop()) is not None:
            items.append(item)
        items += [*self._set_aside(), *self.retries]
        self.fresh, self.heap, self.lanes, self.held = EMPTY, NO_ENTRIES, NO_LANES, NOTHING_HELD
        self.last_resort, self.deadlines, self.retries = NO_ENTRIES, NO_ENTRIES, NO_RETRIES
        self.ghosts = self.aside = self.pinned = self.arriving = self.delayed = 0
        self.entered = self.acked + self.dead + self.expired + self.dropped + self.withdrawn + self.purged
        self.refresh()
        return items

    def clear(self, wall_offset: float) -> list[Entry]:
        """Take every ready copy out of the line; the caller pins them, to end them or put them back."""
        entries: list[Entry] = []
        while (item := self.pop()) is not None:
            is_plain = isinstance(item, Message)
            entries.append(self.adopt(item, self.popped - 1, item.timestamp - wall_offset) if is_plain else item)
        for entry in self._set_aside():
            gatherer = self._aside_in(entry).gatherer
            entry.queued = False
            entries.append(entry)
            if gatherer is not None:
                gatherer.left(entry)
        if self.lanes:
            lanes = self.lanes.items()
            self.lanes = {value: lane for value, lane in lanes if lane.holder is not None or lane.tenant is not None}
        for waiting in (*self.lanes.values(), *self.held.values()):
            waiting.waiting.clear()
            waiting.live = 0
        self.held = NOTHING_HELD
        self.last_resort = NO_ENTRIES
        self.aside = 0
        return entries

    def expired_by(self, now: float, limit: int) -> list[Entry]:
        """Return the ready copies whose time is over; forget deadlines of copies that are no longer ready."""
        found: list[Entry] = []
        while len(found) < limit and self.deadlines and self.deadlines[0][0] <= now:
            entry = heapq.heappop(self.deadlines)[2]
            if entry.state in (State.READY, State.ASIDE) and entry.expires is not None and entry.expires <= now:
                found.append(entry)
        return list(dict.fromkeys(found))  # one that came back has two deadlines

    def tell_room(self) -> None:
        """Tell whoever waits for room, if anybody does, to look again."""
        if self.room_wanted and self.on_room is not None:
            self.on_room()

    def refresh(self) -> None:
        """Set `limit` and `careful` from the state; called after everything that they depend on."""
        options, shelf = self.options, self.shelf
        simple = not (options.priorities or self.room_wanted)
        if shelf is not None:
            self.limit = -1
            used = len(self.heap) + self.aside + self.pinned
            is_quick = self.is_open and simple and options.ttl is None and not (self.tracked or self.deleted or self.marks_each)
            shelf.set_quick(options.capacity - used if is_quick else -1)
            self.careful = not simple or bool(self.heap) or shelf.lone > 0 or shelf.is_blocked
            return
        if self.is_open and simple and options.ttl is None and not (self.tracked or self.deleted or self.arriving):
            used = len(self.heap) + self.aside + self.pinned
            # The very same int for all: one object less to fetch from memory (see Front).
            self.limit = options.capacity - used if used else options.capacity
        else:
            self.limit = -1
        self.careful = not simple or bool(self.heap)

    def _watch(self, entry: Entry, expires: float) -> None:
        self.watched += 1
        if self.deadlines is NO_ENTRIES:
            self.deadlines = []
        heapq.heappush(self.deadlines, (expires, self.watched, entry))
        if len(self.deadlines) > 64 and len(self.deadlines) > 2 * (self.ready + 1):
            live = {item[2]: item for item in self.deadlines if item[2].state in (State.READY, State.ASIDE)}
            self.deadlines = list(live.values())
            heapq.heapify(self.deadlines)
