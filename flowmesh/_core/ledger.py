"""The ledger: every change of mailboxes and timers is prepared, then applied.

`prepare` checks everything before it changes anything, gives places in order and pins what it touches; `apply` cannot fail;
`give_up` takes a prepared commit back.  Commits are applied in the order in which they were prepared.  A prepared commit is
invisible, counts as room, and what it pinned can be neither handed out, withdrawn, expired nor purged.  In memory the two
run back to back: `commit`; with a store, what is to be stored is written between them, by the journal.  The fast paths
(append a plain Message below `limit`, count an ack) are commits of one change that need no preparation; they are used only
while no prepared commit is outstanding on the mailbox.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from flowmesh._core.commits import (
    Commit,
    Delay,
    End,
    EndPlain,
    Enter,
    Forget,
    Intent,
    Keep,
    LeaveOut,
    Owner,
    Release,
    Return,
    Save,
    SetTimer,
    Sweep,
)
from flowmesh._core.entry import NO_LANE, Entry, Outcome, State
from flowmesh._core.gates import Admission, Gates, TurnEnd, UnusableValue
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.planning import LOOKED_AT, Planning
from flowmesh._core.router import Router
from flowmesh._core.shelf import MARK_ALONE, MARKED_ALONE, Shelf, is_grave
from flowmesh.errors import StoreError
from flowmesh.message import Message

__all__ = ["Ledger", "Lodging", "UnusableLane"]


class UnusableLane(Exception):
    """The `by=` of a copy raised, or gave no lane, or its body cannot be read; the copy, `.entry`, is leased.

    `gate` names the gate whose `by=` it was; None: the actor's own.
    """

    def __init__(self, entry: Entry, gate: str | None = None) -> None:
        super().__init__(entry.message.id)
        self.entry = entry
        self.gate = gate


LEASED: Final = State.LEASED  # an Enum's members cost a look-up each


class Lodging(Protocol):
    """Who gives lanes their tenants. `line`: values whose tenants wait until another one has moved out."""

    @property
    def line(self) -> Collection[object]: ...

    def lodge(self, value: Any) -> None:
        """Let somebody move into the lane of a value: a copy of it is about to be handed out. Raises nothing."""
        ...

    def make_way(self, value: Any) -> None:
        """Let somebody move out for those in line, maybe whoever lives in the lane of a value of which a copy is next."""
        ...


class Ledger(Planning):
    """The one place where copies and timers change."""

    def __init__(self, router: Router) -> None:
        super().__init__(router)
        self.admission = Admission(self.timers, drop=self._drop)
        self.delayed = 0  # copies of all mailboxes that wait for their retry
        self.saved: dict[Owner, bytes] = {}  # the state that actors have saved
        self.kept: dict[tuple[str, str], bytes] = {}  # what came back from the store, by kind and key, until somebody takes it
        self.on_applied: Callable[[Commit], None] | None = None  # told of each commit, once all of it is done

    # One commit

    def commit(
        self, *intents: Intent, now: float, then: Callable[[StoreError | None], None] | None = None, strict: bool = False
    ) -> Commit:
        """Prepare, write what is to be stored, and apply: at once, unless something is stored.

        Args:
            intents: what is wanted.
            now: mesh clock seconds.
            then: told when it has been applied, or why it was given up.
            strict: somebody is there to be told what cannot be stored. Otherwise that is kept in memory, and logged.

        Raises:
            MailboxFull: as `prepare`; nothing has changed.
            Unencodable: a body cannot be stored; nothing has changed.
            StoreError: strict, and the store takes nothing; nothing has changed.
        """
        commit = self.prepare(*intents, now=now)
        self.carry_out(commit, now, then, strict=strict)
        return commit

    def carry_out(
        self,
        commit: Commit,
        now: float,
        then: Callable[[StoreError | None], None] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """Write what is to be stored of a prepared commit, and apply it, as `commit` does.

        Raises:
            Unencodable, StoreError: as `commit`; it has been given up.
        """
        if self.journal is not None:
            try:
                if self.journal.append(commit, then, strict=strict):
                    return
            except BaseException:
                self.give_up(commit)
                raise
        self.apply(commit, now)
        if then is not None:
            then(None)

    def _end_by_itself(self, commit: Commit, mailbox: Mailbox, now: float) -> None:
        """Carry out what nobody has asked for; if it cannot be written, it is not tried again at once."""
        self.carry_out(commit, now, lambda error: self._rest_after(mailbox, error))

    def _rest_after(self, mailbox: Mailbox, error: StoreError | None) -> None:
        if error is not None and self.journal is not None:
            self.journal.rest(mailbox)

    def apply(self, commit: Commit, now: float) -> None:
        """Make it happen. Cannot fail."""
        for change in commit.changes:
            match change:
                case Enter(mailbox, item, is_shelved):
                    mailbox.arriving -= 1
                    if mailbox.shelf is not None and isinstance(item, Entry):
                        self.enter_stored(mailbox, mailbox.shelf, item, is_shelved=is_shelved)
                    elif mailbox.deleted:
                        _leave_out(mailbox, item if isinstance(item, Entry) else None, "purged")
                        mailbox.tell_room()
                    else:
                        mailbox.put(item)
                        self._watch_expiry(mailbox)
                case LeaveOut(mailbox, item, outcome):
                    _leave_out(mailbox, item if isinstance(item, Entry) else None, outcome)
                case EndPlain(mailbox):
                    mailbox.acked += 1
                case End(mailbox, entry, outcome, was):
                    self._leave_delay(mailbox, entry, was)
                    mailbox.end(entry, outcome)
                    if was is State.READY and entry.gated is not None:
                        self.admission.end(mailbox, entry, TurnEnd(), now)  # It waited for others.
                    if mailbox.shelf is not None:
                        self.end_solitude(mailbox, mailbox.shelf, entry)
                        self.replenish(mailbox)
                case Return(mailbox, entry, was, failures, handouts):
                    self._leave_delay(mailbox, entry, was)
                    if mailbox.deleted:
                        mailbox.end(entry, "purged")
                        continue
                    if entry.number and mailbox.shelf is not None:
                        mailbox.shelf.lone -= entry.alone & MARK_ALONE
                        entry.alone = _marked_as(entry, was, failures, handouts)
                        mailbox.shelf.lone += entry.alone & MARK_ALONE
                    entry.failures, entry.handouts = failures, handouts
                    if was is not State.POSTPONED:
                        entry.redelivered = True
                    entry.move(State.READY)
                    if entry.lane is not NO_LANE:
                        mailbox.leave_lane(entry)
                    mailbox.restore(entry)
                    self._watch_expiry(mailbox)
                    if mailbox.shelf is not None:
                        self.end_solitude(mailbox, mailbox.shelf, entry)
                case Delay(mailbox, entry, due, failures, handouts):
                    entry.failures, entry.handouts, entry.redelivered = failures, handouts, True
                    entry.move(State.DELAYED)
                    mailbox.delayed += 1
                    self.delayed += 1
                    mailbox.wait_for(entry, self.timers.set(due, Release(mailbox, entry)))
                    if mailbox.shelf is not None:
                        self.end_solitude(mailbox, mailbox.shelf, entry)
                case SetTimer(defer, number):
                    self.timers.set(defer.due, defer.action.message, on_wall=defer.on_wall, number=number)
                case Sweep(mailbox, _, _, copies):
                    mailbox.pinned -= copies
                    mailbox.count("purged", copies)
                    assert mailbox.shelf is not None
                    for entry in mailbox.shelf.let_go():
                        entry.ended("purged")
                    mailbox.refresh()
                    mailbox.tell_room()
                case Save(owner, state):
                    self.saved[owner] = state
                    self._end_saving(change)
                case Forget() | Keep():
                    pass
        if self.on_applied is not None:
            self.on_applied(commit)

    def give_up(self, commit: Commit, *, again: float = -math.inf) -> None:
        """Take a prepared commit back: everything is as if it had never been prepared.

        What came due meanwhile, or was to be purged with its mailbox, is caught up with.

        Args:
            commit: it.
            again: mesh clock seconds before which what is due anyhow is not tried again.
        """
        caught_up = Commit()
        for change in reversed(commit.changes):
            match change:
                case Enter(mailbox, item, is_shelved):
                    mailbox.arriving -= 1
                    self._uninvite(mailbox, item, is_shelved=is_shelved)
                    mailbox.refresh()
                    mailbox.tell_room()
                    self.replenish(mailbox)
                case End(mailbox, entry, _, was) | Return(mailbox, entry, was):
                    self._let_go(caught_up, mailbox, entry, was, again)
                case Delay(_, entry):
                    entry.move(State.LEASED)
                case Sweep(mailbox, _, _, copies):
                    assert mailbox.shelf is not None
                    mailbox.pinned -= copies
                    mailbox.shelf.tail += copies
                case Save():
                    self._end_saving(change)
                case LeaveOut() | EndPlain() | SetTimer() | Forget() | Keep():
                    pass
        if caught_up.changes and self.on_applied is not None:
            self.on_applied(caught_up)

    def _let_go(self, caught_up: Commit, mailbox: Mailbox, entry: Entry, was: State, again: float) -> None:
        """Let a copy be what it was before a commit pinned it."""
        if mailbox.deleted and was is not State.LEASED:
            self._leave_delay(mailbox, entry, was)
            mailbox.end(entry, "purged")
            caught_up.changes.append(End(mailbox, entry, "purged", was))
        elif was is State.READY:
            mailbox.unpin(entry)
            self._watch_expiry(mailbox, again)
        else:
            entry.move(was)
            timer = mailbox.retries.get(entry)
            if timer is not None and not timer.is_set:
                mailbox.retries[entry] = self.timers.set(max(timer.due, again), Release(mailbox, entry))

    # Saved state

    def state_of(self, owner: Owner) -> bytes | None:
        """Return what an owner has saved last, also if it is still being written: its next turn builds on that.

        What then is not written is taken back with all that came after it.
        """
        saving = self.saving.get(owner)
        return saving[-1].state if saving else self.saved.get(owner)

    def _end_saving(self, save: Save) -> None:
        left = [other for other in self.saving[save.owner] if other is not save]
        if left:
            self.saving[save.owner] = left
        else:
            del self.saving[save.owner]

    # Copies in a store

    def enter_stored(self, mailbox: Mailbox, shelf: Shelf, entry: Entry, *, is_shelved: bool) -> None:
        """Let a copy enter that has been invited, and is on disk now."""
        is_swept = self._uninvite(mailbox, entry, is_shelved=is_shelved)
        if mailbox.deleted or is_swept:
            _leave_out(mailbox, entry, "purged")
            mailbox.tell_room()
            return
        number = self._number_of(mailbox, shelf, entry)
        if is_shelved and number > shelf.horizon:
            if entry.number:
                mailbox.entered += 1
                shelf.tail += 1
                if entry.watched:
                    shelf.awaited[number] = entry
                self.replenish(mailbox)
                return
            if shelf.tail:
                mailbox.put_behind(entry)
                self._watch_expiry(mailbox)
                return
            shelf.horizon = number
        # What was read meanwhile is of lower priority, if it was to be shelved.
        if entry.number and (is_shelved or mailbox.marks_each):
            entry.alone = MARK_ALONE
            shelf.lone += 1
        mailbox.put(entry)
        self._watch_expiry(mailbox)

    def replenish(self, mailbox: Mailbox) -> None:
        """Read on in a mailbox's tail, if it is time to."""
        shelf = mailbox.shelf
        if shelf is not None and shelf.tail and self.journal is not None and shelf.wants(mailbox.at_hand):
            shelf.is_reading = True
            self.journal.read(mailbox)

    def load(
        self,
        mailbox: Mailbox,
        rows: Sequence[tuple[Entry, float | None]],
        now: float,
        *,
        through: int,
        unusable: int,
        is_last: bool,
    ) -> None:
        """Take copies into memory that were read, in order.

        Args:
            mailbox: whose tail they are of.
            rows: entries, and until when each waits for its retry (mesh clock seconds), or None.
            now: mesh clock seconds.
            through: the number up to which the tail has been read.
            unusable: how many more were read that cannot be handed to anybody; they stay where they are.
            is_last: the tail ends with them; if it should be longer, the others were quarantined.
        """
        shelf = mailbox.shelf
        assert shelf is not None
        shelf.is_reading = False
        if mailbox.deleted or shelf.discards:
            shelf.discards = False
            self.replenish(mailbox)
            return
        shelf.tail -= len(rows) + unusable
        mailbox.entered -= unusable
        shelf.horizon = max(shelf.horizon, through)
        if is_last and shelf.tail:
            mailbox.entered -= shelf.tail
            shelf.tail = 0
        for read, due in rows:
            entry = shelf.awaited.pop(read.number, read)
            self._let_through(mailbox, shelf, entry.number)
            shelf.lone += entry.alone & MARK_ALONE
            if due is not None and due > now:
                entry.state = State.DELAYED
                mailbox.delayed += 1
                self.delayed += 1
                mailbox.wait_for(entry, self.timers.set(due, Release(mailbox, entry)))
            else:
                mailbox.stand(entry)
        self._let_through(mailbox, shelf, shelf.horizon if shelf.tail else shelf.last)
        mailbox.refresh()
        self._watch_expiry(mailbox)
        self.replenish(mailbox)

    def _let_through(self, mailbox: Mailbox, shelf: Shelf, through: int) -> None:
        """Let copies into line that are not stored, and that waited for the tail before them to be read up to this number."""
        while (entry := mailbox.first_behind()) is not None:
            number = self._number_of(mailbox, shelf, entry)
            if number > through:
                return
            shelf.horizon = max(shelf.horizon, number)
            mailbox.take_gathered(entry)
            mailbox.stand(entry)

    def pop(self, mailbox: Mailbox, now: float) -> Entry | Message | None:
        """Take the next copy out of the line that may be handed out; one that must be marked by itself is marked first."""
        shelf = mailbox.shelf
        if shelf is None:
            return mailbox.pop()
        if shelf.is_blocked:
            return None
        item = mailbox.pop()
        while isinstance(item, Entry) and item.alone & MARK_ALONE and self.journal is not None:
            if item.handouts < mailbox.options.max_deliveries:
                mailbox.put_back(item)
                shelf.marking = item
                self.journal.mark(mailbox, item)
                return None
            self._end_worn_out(mailbox, item, now)
            item = None if shelf.is_blocked else mailbox.pop()
        if isinstance(item, Entry) and is_grave(item, mailbox.options.max_deliveries) and mailbox.leased > 1:
            mailbox.put_back(item)
            shelf.solitary = item
            return None
        return item

    def _unmark(self, mailbox: Mailbox, entry: Entry) -> None:
        """Take back the mark of a copy that waits on: what its process dies of meanwhile is not held against it."""
        if mailbox.shelf is not None and self.journal is not None and entry.state in (State.ASIDE, State.POSTPONED):
            entry.alone = MARK_ALONE
            mailbox.shelf.lone += 1
            self.journal.unmark(entry)

    def end_solitude(self, mailbox: Mailbox, shelf: Shelf, entry: Entry) -> None:
        """Let a mailbox hand out again, if the copy that nothing was to be in hand with has ended, or its turn has come."""
        solitary = shelf.solitary
        if solitary is entry or (solitary is not None and not mailbox.leased):
            shelf.solitary = None
            self.unblock(mailbox)

    def _end_worn_out(self, mailbox: Mailbox, entry: Entry, now: float) -> None:
        """End a copy that has been in the hands of too many processes that died."""
        commit = Commit()
        detail = f"handed out {entry.handouts} times without a verdict: its process may have died of it"
        self._plan_death(commit, mailbox, entry, "delivery_limit", detail, now, State.READY)
        self._plan_burials(commit, now)
        self._end_by_itself(commit, mailbox, now)

    def marked(self, mailbox: Mailbox, entry: Entry, *, is_written: bool) -> None:
        """Take the news that a copy is marked, so that it may be handed out; or that this could not be written."""
        shelf = mailbox.shelf
        if is_written:
            if shelf is not None:
                shelf.lone -= entry.alone & MARK_ALONE
            entry.alone = MARKED_ALONE
        if shelf is not None:
            shelf.marking = None
        mailbox.refresh()
        self.unblock(mailbox)

    @staticmethod
    def unblock(mailbox: Mailbox) -> None:
        """Let a mailbox hand out again, if nothing keeps it from that."""
        mailbox.refresh()
        if mailbox.has_next:
            mailbox.tell_ready()

    # Handing out

    def take(
        self,
        mailbox: Mailbox,
        now: float,
        lane_of: Callable[[Entry], Any] | None = None,
        gates: Gates | None = None,
        postpone: Callable[[Entry], bool] | None = None,
        lodging: Lodging | None = None,
    ) -> Entry | Message | None:
        """Lease the next copy of a mailbox, or return None; expired ones end, those whose lane is busy are set aside.

        Looks at no more than LOOKED_AT copies: None does not mean that there is none, `has_next` tells.

        Args:
            mailbox: where to look.
            now: mesh clock seconds.
            lane_of: gives a copy's `by=` value; asked once per copy.
            gates: what may hold a copy back, or drop it. One that is leased has started there: `admission.end` ends that.
            postpone: asked once a copy has its lane; True, if it has postponed it.
            lodging: gives each lane a tenant before a copy of it is handed out.

        Raises:
            UnusableLane: from what `lane_of` or a gate's `by=` raised; the copy is leased and is the caller's to settle.
        """
        try:
            for _ in range(LOOKED_AT):
                item = self.pop(mailbox, now)
                if item is None:
                    return None
                if isinstance(item, Message):
                    if lane_of is None and gates is None and postpone is None:
                        return item
                    item = mailbox.adopt(item, mailbox.popped - 1, item.timestamp - self.wall_offset)
                if self.lease(mailbox, item, now, lane_of, gates, postpone=postpone, lodging=lodging):
                    if mailbox.shelf is not None and is_grave(item, mailbox.options.max_deliveries):
                        mailbox.shelf.solitary = item
                    return item
                if item.alone == MARKED_ALONE:
                    self._unmark(mailbox, item)
            return None
        finally:
            mailbox.refresh()
            mailbox.tell_room()
            if mailbox.shelf is not None:
                self.replenish(mailbox)

    def take_first(
        self, mailbox: Mailbox, by: Callable[[Any], Any], accepts: Any, lodging: Lodging | None = None
    ) -> Entry | None:
        """Lease the first copy, as `take` does, in the usual case: it is a plain one that never came back.

        None: look for one with `take`; this one is still the first, or its lane is busy and it has been set aside.

        Args:
            mailbox: where to look.
            by: gives a body's lane; asked if the body is one of what it
            accepts: a type, or several.
            lodging: as `take`.

        Raises:
            UnusableLane: as `take`.
        """
        fresh = mailbox.fresh
        message = fresh[0] if fresh else None
        if (
            mailbox.heap
            or mailbox.room_wanted
            or mailbox.shelf is not None
            or type(message) is not Message
            or not isinstance(message.body, accepts)
        ):
            return None
        fresh.popleft()
        place, body, since = mailbox.popped, message.body, message.timestamp - self.wall_offset
        mailbox.popped = place + 1
        try:
            value = by(body)
            lane = mailbox.lanes.get(value)
        except BaseException as error:
            raise UnusableLane(Entry(message, since, place, State.LEASED, body=body)) from error
        entry = Entry(message, since, place, lane=value, body=body)
        if lodging is not None:
            if lodging.line:
                lodging.make_way(value)
                lane = mailbox.lanes.get(value)
            if lane is None or lane.tenant is None:
                lodging.lodge(value)
        if not mailbox.enter_lane(entry):
            mailbox.refresh()
            return None
        entry.state = State.LEASED
        return entry

    def lease(
        self,
        mailbox: Mailbox,
        entry: Entry,
        now: float,
        lane_of: Callable[[Entry], Any] | None = None,
        gates: Gates | None = None,
        postpone: Callable[[Entry], bool] | None = None,
        lodging: Lodging | None = None,
    ) -> bool:
        """Lease a copy that was popped; False if it has expired, was set aside or postponed, or was dropped by a gate."""
        if self.has_lapsed(mailbox, entry, now):
            return False
        if lane_of is not None and entry.lane is NO_LANE:
            try:
                lane = lane_of(entry)
                hash(lane)
            except BaseException as error:
                entry.move(State.LEASED)
                raise UnusableLane(entry) from error
            entry.lane = lane
        if lodging is not None:
            if lodging.line:
                lodging.make_way(entry.lane)
            home = mailbox.lanes.get(entry.lane)
            if home is None or home.tenant is None:
                lodging.lodge(entry.lane)
        if entry.lane is not NO_LANE and not mailbox.enter_lane(entry):
            return False
        if postpone is not None:
            try:
                is_postponed = postpone(entry)
            except BaseException as error:
                entry.move(State.LEASED)
                raise UnusableLane(entry) from error
            if is_postponed:
                return False
        if gates is not None:
            try:
                admitted = self.admission.admit(mailbox, gates, entry, now)
            except UnusableValue as error:
                entry.move(State.LEASED)
                raise UnusableLane(entry, error.gate) from error.__cause__
            if not admitted:
                return False
        elif entry.gated is not None:
            self.admission.end(mailbox, entry, TurnEnd(), now)
            mailbox.pass_chance(entry)
        entry.move(State.LEASED)
        return True

    def _drop(self, mailbox: Mailbox, entry: Entry, now: float) -> None:
        """End a ready copy that a gate drops."""
        commit = Commit()
        mailbox.pin(entry)
        commit.changes.append(End(mailbox, entry, "dropped", State.READY))
        self._end_by_itself(commit, mailbox, now)

    def has_lapsed(self, mailbox: Mailbox, entry: Entry, now: float) -> bool:
        """End a copy that was popped, if it has expired; True if it had."""
        if entry.expires is None or entry.expires > now:
            return False
        commit = Commit()
        self._plan_death(commit, mailbox, entry, "expired", "", now, State.READY)
        self._plan_burials(commit, now)
        self._end_by_itself(commit, mailbox, now)
        return True

    # Timers

    def _leave_delay(self, mailbox: Mailbox, entry: Entry, was: State) -> None:
        if was is State.DELAYED:
            mailbox.delayed -= 1
            self.delayed -= 1
            timer = mailbox.retries.pop(entry, None)
            if timer is not None:
                self.timers.cancel(timer)


def _leave_out(mailbox: Mailbox, entry: Entry | None, outcome: Outcome) -> None:
    """Count a copy that enters and ends in one."""
    mailbox.entered += 1
    mailbox.count(outcome)
    if entry is not None:
        entry.state = State.ENDED
        entry.ended(outcome)


def _marked_as(entry: Entry, was: State, failures: int, handouts: int) -> int:
    """Return how a stored copy that is ready again is marked: what is counted is written with a mark of its own."""
    if was is State.DELAYED:
        return MARK_ALONE
    return MARKED_ALONE if (failures, handouts) != (entry.failures, entry.handouts) else entry.alone
