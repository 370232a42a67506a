"""Copies of a mailbox that are set aside: still ready, at their places, but not to be handed out just now.

Why: their lane (`by=`) is busy, a gate holds them, or a gatherer (batch, debounce) waits for more.  A copy that is set aside
stands in the heap of what it waits for, and comes back to its place in line when that lets it go.
"""

import heapq
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.front import Front
from flowmesh._core.timers import Timer
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions

__all__ = [
    "NOTHING_HELD",
    "NO_ENTRIES",
    "NO_LANES",
    "NO_RETRIES",
    "Aside",
    "Gatherer",
    "Lane",
    "Line",
    "Tenant",
    "Waiting",
    "forget_stale",
    "pop_aside",
]

NO_ENTRIES: Final = cast("list[tuple[Any, int, Entry]]", ())
NO_RETRIES: Final = cast("dict[Entry, Timer]", MappingProxyType({}))
NO_LANES: Final = cast("dict[Any, Lane]", MappingProxyType({}))
"""What a mailbox has until it needs more, for the same reason: empty ones of its own would be half its weight."""


NOTHING_HELD: Final[Mapping[Entry, "Line"]] = MappingProxyType({})
"""What a mailbox has for copies held at a gate while there are none."""


class Gatherer(Protocol):
    """Who sets copies aside and hands them out when it sees fit, not when their lane is free.

    Its lanes are its own: a copy has one only while it is set aside, or holds it.
    """

    def left(self, entry: Entry) -> None:
        """Take the news that a copy is not set aside any more, whatever the reason, and take it out of its lane."""
        ...

    def freed(self, lane: Any) -> None:
        """Take the news that a lane of its copies has no holder."""
        ...


class Waiting:
    """Copies that are set aside for one reason: a heap in which a record counts while its entry is ASIDE, as `live` are.

    `gatherer`: decides when they are handed out; None when the first takes its chance as soon as it may.
    """

    __slots__ = ("gatherer", "live", "waiting")

    def __init__(self) -> None:
        self.gatherer: Gatherer | None = None
        self.live = 0
        self.waiting: list[tuple[int, int, Entry]] = []


class Lane(Waiting):
    """The copies of one `by=` value: the one that is leased or awaits its retry, and those set aside meanwhile.

    `holder`: a plain copy that is leased and has no Entry holds it as the Message. `tenant`: who lives in it, which is then the
    lane itself; None for most. `is_ready`: a tenant's messages may be handed out; until then its lane is closed, and what comes
    is set aside.
    """

    __slots__ = ("holder", "is_ready", "tenant")

    def __init__(self) -> None:
        super().__init__()
        self.holder: Entry | Message | None = None
        self.is_ready = False
        self.tenant: Tenant | None = None

    @property
    def message(self) -> Message | None:
        """The message of its holder."""
        holder = self.holder
        return holder.message if isinstance(holder, Entry) else holder

    @property
    def in_hand(self) -> Message | None:
        """The message of its holder, if a handler has it in hand."""
        is_leased = not isinstance(self.holder, Entry) or self.holder.state is State.LEASED
        return self.message if is_leased else None


class Tenant(Lane):
    """Who lives in a lane, which stays while it does: an instance that all messages of the lane are handled by.

    It is the lane while it lives there: with ten thousand of them, each object that a message has to look at besides is one
    more that comes from memory.

    `is_resting`: no Entry of the lane is leased, awaits its retry, is set aside or has just been put back in line; None: nor
    has one held the lane since the tenant moved in. Set by the mailbox.
    """

    __slots__ = ("is_resting",)

    def __init__(self) -> None:
        super().__init__()
        self.is_resting: bool | None = None

    @abstractmethod
    def freed(self, now: float | None = None) -> None:
        """Take the news that the lane has no holder, and that none of its copies has been put back in line.

        `now`: mesh clock seconds, if they are known.
        """


class Line(Waiting):
    """The copies that one gate holds of one value. At most one is `released`, ready and not looked at yet.

    `key`: the gate's number and the value, by which it stands in `lines`. `timer`: of the moment at which the first may go.
    """

    __slots__ = ("key", "lines", "released", "timer")

    def __init__(self, key: tuple[int, Any], lines: "dict[tuple[int, Any], Line]") -> None:
        super().__init__()
        self.key = key
        self.lines = lines
        self.released: Entry | None = None
        self.timer: Timer | None = None

    def first(self) -> Entry | None:
        """Return the first that is held."""
        while self.waiting:
            entry = self.waiting[0][2]
            if entry.state is State.ASIDE and entry.gated.line is self:
                return entry
            heapq.heappop(self.waiting)
        return None

    def forget(self) -> None:
        """Leave `lines`: nothing is held here any more."""
        if self.lines.get(self.key) is self:
            del self.lines[self.key]


class Aside(Front):
    """The part of a mailbox that sets copies aside and lets them go."""

    __slots__ = ("aside", "held", "lanes", "last_resort")

    aside: int
    held: Mapping[Entry, Line]
    lanes: dict[Any, Lane]
    last_resort: list[tuple[int, int, Entry]]
    options: MailboxOptions

    def rank_of(self, message: Message) -> int:
        """What comes before the place in the order of hand-out: the smaller, the sooner."""
        return -message.properties.priority if self.options.priorities else 0

    def level_of(self, message: Message) -> int:
        """Return the priority that counts here."""
        return message.properties.priority if self.options.priorities else 0

    @abstractmethod
    def restore(self, entry: Entry) -> None:
        """Put a copy that had left the line back at its place."""

    def pop_last_resort(self) -> Entry | None:
        """Take the first of the copies that are set aside: what drop_oldest drops when nothing else is ready."""
        entry = pop_aside(self.last_resort)
        if entry is not None:
            self._leave_aside(self._aside_in(entry), entry)
        return entry

    # Lanes

    def enter_lane(self, entry: Entry) -> bool:
        """Make `entry` the holder of its lane; False, and set aside, if the lane has one or is closed."""
        lane = self.lanes.get(entry.lane) or self._lane(entry.lane)
        tenant = lane.tenant
        is_closed = tenant is not None and not tenant.is_ready
        if is_closed or (lane.holder is not None and lane.holder is not entry):  # itself, when a gate has held it
            if lane.holder is entry:
                lane.holder = entry.home = None  # Its lane was closed while the gate held it.
            self._put_aside(entry, lane)
            entry.set_aside()
            if entry.gated is not None:
                # Its gate let it go, and what holds its lane may wait at that very gate.
                line = self.take_chance(entry)
                entry.gated.line = None
                if line is not None:
                    self.release(line)
            return False
        lane.holder, entry.home = entry, lane
        if tenant is not None:
            tenant.is_resting = False
        return True

    def _lane(self, value: Any) -> Lane:
        """Return the lane of a value, made if need be."""
        lane = self.lanes.get(value)
        if lane is None:
            if self.lanes is NO_LANES:
                self.lanes = {}
            lane = self.lanes[value] = Lane()
        return lane

    def leave_lane(self, entry: Entry) -> None:
        """Free the lane that `entry` holds, and put the first copy set aside back in line.

        Also called for a copy that is pinned on its way from aside to being the holder: the next one takes its chance.
        """
        lane: Lane | None = entry.home or self.lanes.get(entry.lane)
        if lane is None or (lane.holder is not None and lane.holder is not entry):
            return
        entry.home = None
        gatherer = lane.gatherer
        if gatherer is None:
            self.free_lane(lane, entry.lane)
            return
        lane.holder = None
        if not lane.live:
            del self.lanes[entry.lane]
        value, entry.lane = entry.lane, NO_LANE
        gatherer.freed(value)

    def free_lane(self, lane: Lane, value: Any, now: float | None = None) -> None:
        """Free a value's lane, as `leave_lane`, of a holder that has ended. `now`: mesh clock seconds, if they are known."""
        lane.holder = None
        tenant = lane.tenant
        if tenant is not None:
            if not (lane.live and lane.is_ready and self._let_next(lane)):
                tenant.freed(now)
            return
        self._let_next(lane)
        if not lane.live:
            del self.lanes[value]

    def hold_for(self, entry: Entry) -> None:
        """Let an Entry hold its lane from now on, made for the plain copy that holds it."""
        entry.home = self.lanes[entry.lane]
        entry.home.holder = entry

    def _let_next(self, lane: Lane) -> bool:
        """Put the first copy that is set aside in a lane back in line; False if there is none."""
        following = pop_aside(lane.waiting) if lane.live else None
        if following is None:
            return False
        following.move(State.READY)
        self._leave_aside(lane, following)
        self.restore(following)
        return True

    # Lanes that somebody lives in

    def move_in(self, value: Any, tenant: Tenant) -> None:
        """Let a tenant live in the lane of a value from now on; what is in the lane is the tenant's."""
        before = None if self.lanes is NO_LANES else self.lanes.get(value)
        if before is None:
            if self.lanes is NO_LANES:
                self.lanes = {}
        else:
            tenant.holder, tenant.waiting, tenant.live = before.holder, before.waiting, before.live
            if isinstance(before.holder, Entry):
                before.holder.home = tenant
        self.lanes[value] = tenant
        tenant.tenant = tenant
        tenant.is_resting = None

    def open_lane(self, lane: Lane) -> None:
        """Hand out the copies of a lane: its tenant is ready."""
        tenant = lane.tenant
        if tenant is not None and lane.holder is None and not self._let_next(lane):
            tenant.freed()

    def move_out(self, value: Any) -> None:
        """Let nobody live in a lane any more; its first copy, if there is one, is looked at again."""
        tenant = self.lanes[value]
        lane = self.lanes[value] = Lane()
        lane.holder, lane.waiting, lane.live = tenant.holder, tenant.waiting, tenant.live
        tenant.holder, tenant.waiting, tenant.live, tenant.tenant = None, [], 0, None
        if isinstance(lane.holder, Entry):
            lane.holder.home = lane
        if lane.holder is None:
            self._let_next(lane)
            if not lane.live:
                del self.lanes[value]

    # Lanes whose copies a gatherer hands out

    def gather(self, entry: Entry, gatherer: Gatherer) -> None:
        """Set a popped copy aside until its gatherer takes it: still ready, at its place."""
        lane = self._lane(entry.lane)
        lane.gatherer = gatherer
        self._put_aside(entry, lane)

    def holder_of(self, value: Any) -> Entry | None:
        """Return the copy of a lane that is leased or awaits its retry, if it has an Entry."""
        lane = self.lanes.get(value)
        return lane.holder if lane is not None and isinstance(lane.holder, Entry) else None

    def hold_lane(self, entry: Entry, gatherer: Gatherer) -> None:
        """Make a leased copy the holder of its lane, which is free."""
        lane = self._lane(entry.lane)
        lane.gatherer = gatherer
        lane.holder = entry

    def first_gathered(self, value: Any) -> Entry | None:
        """Return the first copy that is set aside in a lane."""
        lane = self.lanes.get(value)
        while lane is not None and lane.waiting:
            entry = lane.waiting[0][2]
            if entry.state is State.ASIDE:
                return entry
            heapq.heappop(lane.waiting)
        return None

    def take_gathered(self, entry: Entry) -> None:
        """Take the first copy out of its lane: it is ready, and the caller's to lease, restore or end."""
        lane = self.lanes[entry.lane]
        heapq.heappop(lane.waiting)
        entry.move(State.READY)
        self._leave_aside(lane, entry)

    def forget_lane(self, value: Any) -> None:
        """Forget a lane that has neither a holder nor a copy set aside."""
        lane = self.lanes.get(value)
        if lane is not None and lane.holder is None and not lane.live:
            del self.lanes[value]

    # Gates

    def hold(self, entry: Entry, line: Line) -> None:
        """Set a copy aside until its gate lets it go; it keeps its lane, so that nothing of that overtakes it."""
        if not self.held:
            self.held = {}
        cast("dict[Entry, Line]", self.held)[entry] = line
        entry.gated.line = line
        self._put_aside(entry, line)

    def release(self, line: Line) -> None:
        """Put the first copy that a gate holds back in line, for somebody to look at it again; forget a line without one."""
        entry = line.first()
        if entry is None:
            line.forget()
        else:
            self.release_one(entry)
            line.released = entry
            self.restore(entry)

    def release_one(self, entry: Entry) -> None:
        """Take a held copy out of its gate's line; it is the caller's to restore."""
        entry.move(State.READY)
        self._leave_aside(self._aside_in(entry), entry)

    def take_chance(self, entry: Entry) -> Line | None:
        """Note that a released copy is looked at, or gone; return the line that it was released from."""
        line: Line | None = entry.gated.line
        if line is None or line.released is not entry:
            return None
        line.released = None
        return line

    def pass_chance(self, entry: Entry) -> None:
        """Let the next one of its line take its chance, if this copy had been released and will not."""
        line = self.take_chance(entry)
        if line is not None:
            self.release(line)

    # Aside

    def _put_aside(self, entry: Entry, waiting: Waiting) -> None:
        entry.move(State.ASIDE)
        entry.queued = True
        record = (self.rank_of(entry.message), entry.place, entry)
        heapq.heappush(waiting.waiting, record)
        waiting.live += 1
        self.aside += 1
        forget_stale(waiting.waiting, waiting.live)
        if self.options.overflow == "drop_oldest":
            if self.last_resort is NO_ENTRIES:
                self.last_resort = []
            heapq.heappush(self.last_resort, record)

    def _aside_in(self, entry: Entry) -> Waiting:
        return self.held.get(entry) or self.lanes[entry.lane]

    def _leave_aside(self, waiting: Waiting, entry: Entry) -> None:
        if self.held:
            cast("dict[Entry, Line]", self.held).pop(entry, None)
        entry.queued = False
        waiting.live -= 1
        self.aside -= 1
        if waiting.gatherer is not None:
            waiting.gatherer.left(entry)
        if self.last_resort:
            forget_stale(self.last_resort, self.aside)


def pop_aside(heap: list[tuple[int, int, Entry]]) -> Entry | None:
    """Take out the first entry that is still ASIDE."""
    while heap:
        entry = heapq.heappop(heap)[2]
        if entry.state is State.ASIDE:
            return entry
    return None


def forget_stale(heap: list[tuple[int, int, Entry]], live: int) -> None:
    """Drop the records that no longer count, once they are more than half: O(1) for each that ever stood here."""
    if len(heap) > 2 * live + 64:
        heap[:] = {record[2]: record for record in heap if record[2].state is State.ASIDE}.values()
        heapq.heapify(heap)
