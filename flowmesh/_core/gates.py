"""Gates: what may hold a message back before its handler, or drop it. One mechanism for all kinds of them.

A copy goes when all gates of its actor let it go; then it starts at all of them, and ends at all of them once its turn is
over.  Of an actor with batches it goes to wait for others, and has started then; if it leaves them otherwise than by being
handed out, that ends its start, and a breaker that opens meanwhile calls it back.

The first gate that does not let a copy go decides: the copy is dropped, or held in that gate's line for its value: still
ready, at its place, out of the way of other values.

A line moves one copy at a time: its first is released when its moment has come, is looked at again, and only then the next
one takes its chance.  So a line that has copies always has one of: a released copy, a timer, a turn whose end will move it.

Lines and states exist for active values only, and for one run of one mesh: `Admission.reset` forgets them.  With a store the
runtime keeps what is lasting of them, and gives it back at the next start (`Gates.lasting`).
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct

from flowmesh._core.aside import Line
from flowmesh._core.entry import Entry
from flowmesh._core.gate_kinds import BreakerState, LimitState, OnceState, RateState, state_of
from flowmesh._core.gate_states import NEVER, ROUNDING, GateState, LastingState, TurnEnd, Verdict
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.timers import Timer, Timers
from flowmesh.policies import Gate, Limit

__all__ = ["Admission", "GateStatistics", "Gates", "Ticket", "TurnEnd", "UnusableValue"]

FORGET_EVERY: Final = 1.0
"""Seconds between two looks at which values have become indistinguishable from new ones."""


class GateStatistics(Struct, frozen=True):
    """The numbers of one gate of one actor at one moment.

    `held`: copies that wait for it. `dropped`: copies that it has dropped in this run of the mesh. `values`: of how many
    values it knows something. `condition`: of a breaker, the worst of all its values: closed, open, or half-open (it probes).
    """

    gate: str
    held: int
    dropped: int
    values: int
    condition: str | None = None


class UnusableValue(Exception):
    """The `by=` of a gate raised, or gave a value that cannot be one; `gate` names the gate."""

    def __init__(self, gate: str) -> None:
        super().__init__(gate)
        self.gate = gate


class Ticket:
    """What the gates of one actor know of one copy: its value at each, whether it has started, the line it stood in last.

    `held_since`: when it was held first since it came (back); a batch counts that as waiting, and forgets it once handed out.
    """

    __slots__ = ("gates", "has_started", "held_since", "line", "values")

    def __init__(self, gates: "Gates", values: tuple[Any, ...]) -> None:
        self.gates = gates
        self.values = values
        self.has_started = False
        self.held_since: float | None = None
        self.line: Line | None = None


class Gates:
    """The gates of one actor, in the order in which they are asked.

    With a Limit that drops or cancels, copies are looked at whether or not a slot is free; then the slots, too, are a gate,
    the last one (`slots`). `breakers`: those that have a condition. `superseded`: copies whose handlers shall be cancelled,
    for the caller of `admit` to take. `lasting`: those that a store can keep something of, by number; `on_forgotten`: called
    when some of these have forgotten values, while a store keeps them.
    """

    def __init__(self, policies: Iterable[Gate], *, body_of: Callable[[Entry], Any], slots: int) -> None:
        self.policies = tuple(policies)
        self._body_of = body_of
        eager = any(isinstance(policy, Limit) and policy.surplus != "queue" for policy in self.policies)
        self.slots = LimitState(Limit(slots)) if eager else None
        self._is_valued = any(policy.by is not None for policy in self.policies)
        self.superseded: list[Entry] = []
        self.lines: dict[tuple[int, Any], Line] = {}
        self.timer: Timer | None = None
        self.states: tuple[GateState, ...] = ()
        self.lasting: dict[int, LastingState] = {}
        self.on_forgotten: Callable[[], None] | None = None
        self.reset()

    def reset(self) -> None:
        """Know nothing."""
        self.lines.clear()
        self.superseded.clear()
        self.timer = None
        self.on_forgotten = None
        self.states = tuple(state_of(policy) for policy in self.policies)
        self.lasting = {n: state for n, state in enumerate(self.states) if isinstance(state, (RateState, OnceState))}
        if self.slots is not None:
            slots, self.slots = self.slots, LimitState(self.slots.policy)
            self.slots.n = slots.n
            self.states = (*self.states, self.slots)
        self.breakers = tuple(state for state in self.states if isinstance(state, BreakerState))

    def ticket_of(self, entry: Entry) -> Ticket:
        """Return a copy's ticket; each `by=` is asked once per copy.

        Raises:
            UnusableValue: from what a `by=` raised.
        """
        ticket: Ticket | None = entry.gated
        if ticket is None or ticket.gates is not self:
            values = self._values_of(entry) if self._is_valued else (None,) * len(self.states)
            ticket = entry.gated = Ticket(self, values)
        return ticket

    def _values_of(self, entry: Entry) -> tuple[Any, ...]:
        values: list[Any] = []
        for state in self.states:
            by = state.policy.by
            if by is None:
                values.append(None)
                continue
            if entry.is_own:
                values.append(entry.message.id)  # One that nobody shares: it passes.
                continue
            try:
                value = by(self._body_of(entry))
                hash(value)
            except BaseException as error:
                raise UnusableValue(type(state.policy).__name__) from error
            values.append(value)
        return tuple(values)

    def admit(self, entry: Entry, ticket: Ticket, place: tuple[int, int], now: float) -> tuple[Verdict, int]:
        """Ask the gates; return what becomes of the copy, and the number of the gate that decided.

        Args:
            entry: the copy.
            ticket: its ticket.
            place: its rank and place, which order those that are held.
            now: mesh clock seconds.
        """
        for number, (state, value) in enumerate(zip(self.states, ticket.values, strict=True)):
            line = self.lines.get((number, value))
            first = None if line is None else line.first()
            is_behind = first is not None and line is not None and line.waiting[0][:2] < place
            verdict = state.look(value, entry, now, is_behind=is_behind)
            if verdict is not Verdict.GO:
                return verdict, number
        return Verdict.GO, -1

    def calls_back(self, entry: Entry) -> bool:
        """Whether a breaker has opened since this copy started, to wait for others."""
        ticket: Ticket = entry.gated
        return any(
            isinstance(state, BreakerState) and state.stands_open(value, entry)
            for state, value in zip(self.states, ticket.values, strict=True)
        )

    def conditions(self) -> tuple[str, ...]:
        """Return the conditions of its breakers."""
        return tuple(breaker.condition() for breaker in self.breakers)

    def statistics(self) -> tuple[GateStatistics, ...]:
        """Return the numbers of each gate. O(values)."""
        held = [0] * len(self.states)
        for (number, _), line in self.lines.items():
            held[number] += line.live
        return tuple(
            GateStatistics(type(state.policy).__name__, held[number], state.dropped, state.values(), state.condition())
            for number, state in enumerate(self.states)
            if state is not self.slots
        )


class Admission:
    """The way of copies through gates, and of those that are held out of their lines again.

    `holding`: mailboxes in which gates hold, or held a while ago, copies. `drop` ends a ready copy as dropped.
    """

    def __init__(self, timers: Timers, *, drop: Callable[[Mailbox, Entry, float], None]) -> None:
        self._timers = timers
        self._drop = drop
        self.holding: set[Mailbox] = set()

    def admit(self, mailbox: Mailbox, gates: Gates, entry: Entry, now: float) -> bool:
        """Start a ready copy that was popped; False if it is held or has been dropped.

        Raises:
            UnusableValue: a gate's `by=` gave no value; the copy is as it was.
        """
        self.end(mailbox, entry, TurnEnd(), now)  # It may come back from waiting for others.
        if entry.gated is not None and entry.gated.gates is not gates:
            mailbox.pass_chance(entry)  # another actor's, on the same mailbox
        ticket = gates.ticket_of(entry)
        origin = mailbox.take_chance(entry)
        place = (mailbox.rank_of(entry.message), entry.place)
        verdict, number = gates.admit(entry, ticket, place, now)
        if verdict is Verdict.GO:
            ticket.has_started = True
            ticket.line = None
            for state, value in zip(gates.states, ticket.values, strict=True):
                state.start(value, entry, now)
            self._move_on(mailbox, gates, ticket, now)
            self.watch(gates, now)
            return True
        state = gates.states[number]
        if verdict is Verdict.DROP:
            state.dropped += 1
            self._drop(mailbox, entry, now)
        else:
            self._hold(mailbox, gates, entry, (number, ticket.values[number]), now)
        if origin is not None:
            self._move(mailbox, gates, origin, now)
        return False

    def end(
        self,
        mailbox: Mailbox,
        entry: Entry,
        ending: TurnEnd,
        now: float,
        told: set[tuple[int, Any]] | None = None,
    ) -> None:
        """End what a copy has started; nothing for one that has not.

        Args:
            mailbox: where it stands.
            entry: the copy.
            ending: how its turn ended.
            now: mesh clock seconds.
            told: gates and values that this call of the handler has failed for; the first copy of each tells of it.
        """
        ticket: Ticket | None = entry.gated
        if ticket is None or not ticket.has_started:
            return
        ticket.has_started = False
        gates = ticket.gates
        for key, state in zip(enumerate(ticket.values), gates.states, strict=True):
            its = ending
            if told is not None and ending.error is not None:
                its = TurnEnd(ending.is_done, ending.error, is_repeated=key in told)
                told.add(key)
            state.end(key[1], entry, now, its)
        self._move_on(mailbox, gates, ticket, now)
        self.watch(gates, now)

    def set_slots(self, mailbox: Mailbox, gates: Gates, slots: int, now: float) -> None:
        """Change the number of slots, where they are a gate."""
        if gates.slots is not None:
            gates.slots.n = slots
            line = gates.lines.get((len(gates.states) - 1, None))
            if line is not None:
                self._move(mailbox, gates, line, now)

    def reset(self, mailbox: Mailbox, gates: Gates) -> None:
        """Forget everything; what was held lies in line again, at its place."""
        held = [entry for entry in mailbox.held if entry.gated.gates is gates]
        for line in gates.lines.values():
            line.released = None
            if line.timer is not None:
                self._timers.cancel(line.timer)
        if gates.timer is not None:
            self._timers.cancel(gates.timer)
        gates.reset()
        for entry in held:
            mailbox.release_one(entry)
            mailbox.leave_lane(entry)
            mailbox.restore(entry)

    def frees_by(self, mailbox: Mailbox, deadline: float) -> bool:
        """Some copy that is held in this mailbox may go by its time before the deadline. O(held)."""
        timers = (line.timer for line in set(mailbox.held.values()))
        return any(timer is not None and timer.is_set and timer.due <= deadline for timer in timers)

    def _hold(self, mailbox: Mailbox, gates: Gates, entry: Entry, key: tuple[int, Any], now: float) -> None:
        line = gates.lines.get(key)
        if line is None:
            line = gates.lines[key] = Line(key, gates.lines)
        mailbox.hold(entry, line)
        self.holding.add(mailbox)
        if entry.gated.held_since is None:
            entry.gated.held_since = now
        state = gates.states[key[0]]
        if isinstance(state, LimitState):
            if state.policy.surplus == "cancel_running":
                running = state.cancel_oldest(key[1])
                if running is not None:
                    gates.superseded.append(running)
            while line.live > state.most_held and (oldest := line.first()) is not None:
                state.dropped += 1
                self._drop(mailbox, oldest, now)
        self._move(mailbox, gates, line, now)

    def _move_on(self, mailbox: Mailbox, gates: Gates, ticket: Ticket, now: float) -> None:
        """Move the lines of a copy that has started or ended."""
        if gates.lines:
            for key in enumerate(ticket.values):
                line = gates.lines.get(key)
                if line is not None:
                    self._move(mailbox, gates, line, now)

    def _move(self, mailbox: Mailbox, gates: Gates, line: Line, now: float) -> None:
        """Let the first of a line take its chance, now or when its time comes."""
        if line.released is not None:
            return
        number, value = line.key
        due = gates.states[number].when(value, now) if line.live else NEVER
        if line.timer is not None and line.timer.due != due:
            self._timers.cancel(line.timer)
            line.timer = None
        if not line.live:
            line.forget()
        elif due <= now + ROUNDING:
            mailbox.release(line)
        elif due < NEVER and (line.timer is None or not line.timer.is_set):
            line.timer = self._timers.set(due, functools.partial(self._look_again, mailbox, gates, line))

    def _look_again(self, mailbox: Mailbox, gates: Gates, line: Line, now: float) -> None:
        line.timer = None
        if gates.lines.get(line.key) is line:
            self._move(mailbox, gates, line, now)

    def watch(self, gates: Gates, now: float) -> None:
        """See to it that values are forgotten when they have become indistinguishable from new ones."""
        if gates.timer is None:
            due = min((due for state in gates.states if (due := state.fade(now)) is not None), default=math.inf)
            if due < math.inf:
                gates.timer = self._timers.set(max(due, now + FORGET_EVERY), functools.partial(self._forget, gates))
            if gates.on_forgotten is not None:
                gates.on_forgotten()

    def _forget(self, gates: Gates, now: float) -> None:
        gates.timer = None
        self.watch(gates, now)
