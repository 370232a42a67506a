"""The ledger: every change of mailboxes and timers is prepared, then applied.

`prepare` checks everything before it changes anything, gives places in order and pins what it touches; `apply` cannot fail;
`give_up` takes a prepared commit back.  Commits are applied in the order in which they were prepared.  A prepared commit is
invisible, counts as room, and what it pinned can be neither handed out, withdrawn, expired nor purged.  In memory the two
run back to back: `commit`.  The fast paths (append a plain Message below `limit`, count an ack) are commits of one change
that need no preparation; they are used only while no prepared commit is outstanding on the mailbox.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from flowmesh._core.commits import (
    Ack,
    Back,
    Commit,
    Dead,
    Defer,
    Delay,
    End,
    EndPlain,
    Enter,
    Expire,
    Gone,
    Intent,
    LeaveOut,
    Note,
    Publish,
    PublishDue,
    Purge,
    Release,
    Replay,
    Return,
    Save,
    SetTimer,
    Settle,
    Supersede,
    Superseded,
    Withdraw,
)
from flowmesh._core.deadletters import RESTING, bury, closes_cycle
from flowmesh._core.entry import NO_LANE, Entry, Outcome, State
from flowmesh._core.gates import Admission, Gates, UnusableValue
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.router import Router
from flowmesh._core.timers import Timer, Timers
from flowmesh.errors import MailboxFull
from flowmesh.message import DeathReason, Message
from flowmesh.policies import MailboxOptions

__all__ = ["Ledger", "UnusableLane"]


LOOKED_AT: Final = 64
"""Copies that one call may look at, expire or set aside: a turn of the loop has room for no more."""


class UnusableLane(Exception):
    """The `by=` of a copy raised, or gave a value that cannot be a lane; the copy, `.entry`, is leased.

    `gate` names the gate whose `by=` it was; None: the actor's own.
    """

    def __init__(self, entry: Entry, gate: str | None = None) -> None:
        super().__init__(entry.message.id)
        self.entry = entry
        self.gate = gate


class Ledger:
    """The one place where copies and timers change.

    `now` is the mesh clock's monotonic seconds; `wall_offset` is what to add to get the wall clock, told by the runtime.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        self.timers = Timers()
        self.admission = Admission(self.timers, drop=self._drop)
        self.wall_offset = 0.0
        self.delayed = 0  # copies of all mailboxes that wait for their retry
        self.saved: dict[str, bytes] = {}  # the state that actors have saved, by their names
        self.on_applied: Callable[[Commit], None] | None = None  # told of each commit, once all of it is done
        self.dead_letters = Mailbox("mesh.dead_letters", 0, MailboxOptions(overflow="drop_oldest"))
        self.dead_letters.tracked = True
        self._plans: dict[type, Callable[[Commit, Any, float], None]] = {
            Publish: self._plan_publish,
            Settle: self._plan_settle,
            Withdraw: self._plan_withdraw,
            Supersede: self._plan_supersede,
            Release: self._plan_release,
            Expire: self._plan_expire,
            Purge: self._plan_purge,
            Replay: self._plan_replay,
            PublishDue: self._plan_due,
            Defer: self._plan_defer,
            Save: self._plan_save,
        }

    # One commit

    def commit(self, *intents: Intent, now: float) -> Commit:
        """Prepare and apply at once.

        Raises:
            MailboxFull: as `prepare`; nothing has changed.
        """
        commit = self.prepare(*intents, now=now)
        self.apply(commit, now)
        return commit

    def prepare(self, *intents: Intent, now: float) -> Commit:
        """Check all intents, then plan them in order.

        Raises:
            MailboxFull: a mailbox refuses a copy; the first one is named and nothing has changed.
        """
        self.ask_all(intents)
        commit = Commit()
        for intent in intents:
            self._plans[type(intent)](commit, intent, now)
        self._plan_burials(commit, now)
        return commit

    def apply(self, commit: Commit, now: float) -> None:
        """Make it happen. Cannot fail."""
        for change in commit.changes:
            match change:
                case Enter(mailbox, item):
                    mailbox.arriving -= 1
                    if mailbox.deleted:
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
                case Return(mailbox, entry, was, failures, handouts):
                    self._leave_delay(mailbox, entry, was)
                    if mailbox.deleted:
                        mailbox.end(entry, "purged")
                        continue
                    entry.failures, entry.handouts, entry.redelivered = failures, handouts, True
                    entry.move(State.READY)
                    if entry.lane is not NO_LANE:
                        mailbox.leave_lane(entry)
                    mailbox.restore(entry)
                    self._watch_expiry(mailbox)
                case Delay(mailbox, entry, due, failures, handouts):
                    entry.failures, entry.handouts, entry.redelivered = failures, handouts, True
                    entry.move(State.DELAYED)
                    mailbox.delayed += 1
                    self.delayed += 1
                    mailbox.wait_for(entry, self.timers.set(due, Release(mailbox, entry)))
                case SetTimer(defer):
                    commit.timers.append(self.timers.set(defer.due, defer.action.message, on_wall=defer.on_wall).id)
                case Save(owner, state):
                    self.saved[owner] = state
        if self.on_applied is not None:
            self.on_applied(commit)

    def give_up(self, commit: Commit) -> None:
        """Take a prepared commit back: everything is as if it had never been prepared.

        What came due meanwhile, or was to be purged with its mailbox, is caught up with.
        """
        caught_up = Commit()
        for change in reversed(commit.changes):
            match change:
                case Enter(mailbox, _):
                    mailbox.arriving -= 1
                    mailbox.refresh()
                    mailbox.tell_room()
                case End(mailbox, entry, _, was) | Return(mailbox, entry, was):
                    self._let_go(caught_up, mailbox, entry, was)
                case Delay(_, entry):
                    entry.move(State.LEASED)
                case LeaveOut() | EndPlain() | SetTimer() | Save():
                    pass
        if caught_up.changes and self.on_applied is not None:
            self.on_applied(caught_up)

    def _let_go(self, caught_up: Commit, mailbox: Mailbox, entry: Entry, was: State) -> None:
        """Let a copy be what it was before a commit pinned it."""
        if mailbox.deleted and was is not State.LEASED:
            self._leave_delay(mailbox, entry, was)
            mailbox.end(entry, "purged")
            caught_up.changes.append(End(mailbox, entry, "purged", was))
        elif was is State.READY:
            mailbox.unpin(entry)
            self._watch_expiry(mailbox)
        else:
            entry.move(was)
            timer = mailbox.retries.get(entry)
            if timer is not None and not timer.is_set:
                mailbox.retries[entry] = self.timers.set(timer.due, Release(mailbox, entry))

    # Handing out

    def take(
        self,
        mailbox: Mailbox,
        now: float,
        lane_of: Callable[[Entry], Any] | None = None,
        gates: Gates | None = None,
    ) -> Entry | Message | None:
        """Lease the next copy of a mailbox, or return None; expired ones end, those whose lane is busy are set aside.

        Looks at no more than LOOKED_AT copies: None does not mean that there is none, `has_next` tells.

        Args:
            mailbox: where to look.
            now: mesh clock seconds.
            lane_of: gives a copy's `by=` value; asked once per copy.
            gates: what may hold a copy back, or drop it. One that is leased has started there: `admission.end` ends that.

        Raises:
            UnusableLane: from what `lane_of` or a gate's `by=` raised; the copy is leased and is the caller's to settle.
        """
        try:
            for _ in range(LOOKED_AT):
                item = mailbox.pop()
                if item is None:
                    return None
                if isinstance(item, Message):
                    if lane_of is None and gates is None:
                        return item
                    item = mailbox.adopt(item, mailbox.popped - 1, item.timestamp - self.wall_offset)
                if self.lease(mailbox, item, now, lane_of, gates):
                    return item
            return None
        finally:
            mailbox.refresh()
            mailbox.tell_room()

    def lease(
        self,
        mailbox: Mailbox,
        entry: Entry,
        now: float,
        lane_of: Callable[[Entry], Any] | None = None,
        gates: Gates | None = None,
    ) -> bool:
        """Lease a copy that was popped; False if it has expired, was set aside, or was dropped by a gate."""
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
        if entry.lane is not NO_LANE and not mailbox.enter_lane(entry):
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
            mailbox.pass_chance(entry)
        entry.move(State.LEASED)
        return True

    def _drop(self, mailbox: Mailbox, entry: Entry, now: float) -> None:
        """End a ready copy that a gate drops."""
        commit = Commit()
        mailbox.pin(entry)
        commit.changes.append(End(mailbox, entry, "dropped", State.READY))
        self.apply(commit, now)

    def has_lapsed(self, mailbox: Mailbox, entry: Entry, now: float) -> bool:
        """End a copy that was popped, if it has expired; True if it had."""
        if entry.expires is None or entry.expires > now:
            return False
        commit = Commit()
        self._plan_death(commit, mailbox, entry, "expired", "", now, State.READY)
        self._plan_burials(commit, now)
        self.apply(commit, now)
        return True

    # Plans: one per intent

    def ask_all(self, intents: Sequence[Intent]) -> None:
        """Ask every mailbox that may refuse a copy, before anything changes.

        Raises:
            MailboxFull: the first one that refuses.
        """
        wanted: dict[Mailbox, int] = {}
        for intent in intents:
            if not isinstance(intent, Publish) or intent.moved:
                continue
            for mailbox in intent.mailboxes:
                overflow = mailbox.options.overflow
                if overflow == "reject" or (overflow == "wait" and intent.nowait):
                    wanted[mailbox] = wanted.get(mailbox, 0) + 1
                    if not mailbox.has_room(wanted[mailbox]) or (mailbox.room_wanted and intent.nowait):
                        raise MailboxFull(
                            f"mailbox {mailbox.name!r} is full ({mailbox.ready} of {mailbox.options.capacity} ready, "
                            f"overflow={overflow!r}): no mailbox took a copy; publish again later, give it more capacity, "
                            "or handle its messages faster",
                            message=intent.message,
                            mailbox=mailbox.name,
                        )

    def _plan_publish(self, commit: Commit, intent: Publish, now: float) -> None:
        dropped = 0
        for mailbox in intent.mailboxes:
            entry = intent.make_entry(intent.message) if intent.make_entry is not None else None
            dropped += not self._plan_entering(commit, mailbox, intent.message, now, entry)
        commit.counts.append((len(intent.mailboxes) - dropped, dropped))

    def _plan_entering(
        self, commit: Commit, mailbox: Mailbox, message: Message, now: float, entry: Entry | None = None
    ) -> bool:
        """Plan one copy; False if the mailbox leaves it out."""
        overflow = mailbox.options.overflow
        is_full = overflow in ("drop_newest", "drop_oldest") and not mailbox.has_room_for_dropping()
        if is_full and (overflow == "drop_newest" or not self._plan_eviction(commit, mailbox, message, now)):
            commit.changes.append(self._leaving_out(commit, mailbox, message, entry, now))
            return False
        if entry is None and mailbox.needs_entry(message):
            entry = Entry(message, now)
        mailbox.arriving += 1
        mailbox.refresh()
        if overflow == "drop_oldest":
            entering = commit.entering.setdefault(mailbox, [])
            heapq.heappush(entering, (mailbox.rank_of(message), len(commit.changes)))
        commit.changes.append(Enter(mailbox, message if entry is None else entry))
        return True

    def _plan_eviction(self, commit: Commit, mailbox: Mailbox, newcomer: Message, now: float) -> bool:
        """Drop what would be handed out next; False when that is the newcomer itself.

        Next is what is first in line or enters with this very commit; what is set aside for its lane is dropped when there
        is neither. What another prepared commit brings cannot be dropped: then the mailbox is over capacity.
        """
        entering = commit.entering.get(mailbox)
        victim = mailbox.pop()
        if isinstance(victim, Message):
            victim = mailbox.adopt(victim, mailbox.popped - 1, victim.timestamp - self.wall_offset)
        if entering and (victim is None or entering[0][0] < mailbox.rank_of(victim.message)):
            if victim is not None:
                mailbox.put_back(victim)
            if mailbox.rank_of(newcomer) < entering[0][0]:
                return False
            self._uninvite(commit, mailbox, heapq.heappop(entering)[1], now)
            return True
        if victim is not None and mailbox.rank_of(newcomer) < mailbox.rank_of(victim.message):
            mailbox.put_back(victim)
            return False
        victim = victim or mailbox.pop_last_resort()
        if victim is None:
            return True
        if mailbox is self.dead_letters:
            mailbox.pin(victim)
            commit.changes.append(End(mailbox, victim, "dropped", State.READY))
            commit.notes.append(Note("evicted", mailbox.name, victim.message))
        else:
            # One whose time is over would not be handed out: it ends by that.
            reason = "expired" if victim.expires is not None and victim.expires <= now else "maxlen"
            self._plan_death(commit, mailbox, victim, reason, "", now, State.READY)
        return True

    def _uninvite(self, commit: Commit, mailbox: Mailbox, number: int, now: float) -> None:
        """Leave out a copy that was to enter with this commit."""
        change = commit.changes[number]
        assert isinstance(change, Enter)
        item = change.item
        entry, message = (item, item.message) if isinstance(item, Entry) else (None, item)
        mailbox.arriving -= 1
        commit.changes[number] = self._leaving_out(commit, mailbox, message, entry, now)
        if mailbox is self.dead_letters:
            commit.notes.append(Note("evicted", mailbox.name, message))

    def _leaving_out(self, commit: Commit, mailbox: Mailbox, message: Message, entry: Entry | None, now: float) -> LeaveOut:
        item = message if entry is None else entry
        if mailbox.options.dead_letter_name is None or (entry is not None and entry.asked):
            return LeaveOut(mailbox, item, "dropped")
        self._plan_burial(commit, mailbox, message, "maxlen", "", now)
        return LeaveOut(mailbox, item, "dead", "maxlen")

    def _plan_settle(self, commit: Commit, intent: Settle, now: float) -> None:
        mailbox, item, verdict = intent.mailbox, intent.item, intent.verdict
        if isinstance(item, Message):
            commit.changes.append(EndPlain(mailbox, item))
            return
        match verdict:
            case Ack():
                item.move(State.SETTLING)
                commit.changes.append(End(mailbox, item, "acked", State.LEASED))
            case Gone():
                item.move(State.SETTLING)
                commit.changes.append(End(mailbox, item, "withdrawn", State.LEASED))
            case Superseded():
                item.move(State.SETTLING)
                commit.changes.append(End(mailbox, item, "dropped", State.LEASED))
            case Dead(reason, detail):
                self._plan_death(commit, mailbox, item, reason, detail, now, State.LEASED)
            case Back(delay, counted):
                handouts = item.handouts + (counted == "handout")
                failures = item.failures + (counted == "failure")
                if handouts >= mailbox.options.max_deliveries:
                    detail = f"handed out {handouts} times without a verdict"
                    self._plan_death(commit, mailbox, item, "delivery_limit", detail, now, State.LEASED)
                elif delay > 0 and not mailbox.deleted:
                    item.move(State.SETTLING)
                    commit.changes.append(Delay(mailbox, item, now + delay, failures, handouts, delay))
                else:
                    self._plan_return(commit, mailbox, item, now, State.LEASED, failures, handouts)

    def _plan_return(
        self, commit: Commit, mailbox: Mailbox, entry: Entry, now: float, was: State, failures: int, handouts: int
    ) -> None:
        if mailbox.deleted:
            entry.move(State.SETTLING)
            commit.changes.append(End(mailbox, entry, "purged", was))
        elif entry.expires is not None and entry.expires <= now:
            self._plan_death(commit, mailbox, entry, "expired", "", now, was)
        else:
            entry.move(State.SETTLING)
            commit.changes.append(Return(mailbox, entry, was, failures, handouts))

    def _plan_release(self, commit: Commit, intent: Release, now: float) -> None:
        entry = intent.entry
        if entry.state is State.DELAYED:
            self._plan_return(commit, intent.mailbox, entry, now, State.DELAYED, entry.failures, entry.handouts)

    def _plan_withdraw(self, commit: Commit, intent: Withdraw, now: float) -> None:
        entry, mailbox = intent.entry, intent.mailbox
        if entry.state is State.DELAYED:
            entry.move(State.SETTLING)
            commit.changes.append(End(mailbox, entry, "withdrawn", State.DELAYED))
        elif entry.state in (State.READY, State.ASIDE) and entry.queued:  # otherwise it is still to enter
            mailbox.pin(entry)
            commit.changes.append(End(mailbox, entry, "withdrawn", State.READY))

    def _plan_supersede(self, commit: Commit, intent: Supersede, now: float) -> None:
        entry, mailbox = intent.entry, intent.mailbox
        if entry.state is State.DELAYED:
            entry.move(State.SETTLING)
            commit.changes.append(End(mailbox, entry, "dropped", State.DELAYED))
        elif entry.state in (State.READY, State.ASIDE):
            mailbox.pin(entry)
            commit.changes.append(End(mailbox, entry, "dropped", State.READY))

    def _plan_expire(self, commit: Commit, intent: Expire, now: float) -> None:
        mailbox = intent.mailbox
        mailbox.expiry = None
        for entry in mailbox.expired_by(now, LOOKED_AT):
            self._plan_death(commit, mailbox, entry, "expired", "", now, State.READY)
        self._watch_expiry(mailbox)

    def _plan_purge(self, commit: Commit, intent: Purge, now: float) -> None:
        mailbox = intent.mailbox
        for entry in mailbox.clear(self.wall_offset) if intent.only is None else intent.only:
            if entry.state in (State.READY, State.ASIDE):
                mailbox.pin(entry)
                commit.changes.append(End(mailbox, entry, "purged", State.READY))
        if intent.delayed:
            for entry in mailbox.retries:
                if entry.state is State.DELAYED:
                    entry.move(State.SETTLING)
                    commit.changes.append(End(mailbox, entry, "purged", State.DELAYED))
        mailbox.refresh()

    def _plan_replay(self, commit: Commit, intent: Replay, now: float) -> None:
        entry = intent.entry
        if entry.state is State.READY and entry.queued:  # otherwise it has been replayed, purged or dropped meanwhile
            self.dead_letters.pin(entry)
            commit.changes.append(End(self.dead_letters, entry, "acked", State.READY))
            self._plan_entering(commit, intent.mailbox, entry.message, now, Entry(entry.message, now))

    def _plan_due(self, commit: Commit, intent: PublishDue, now: float) -> None:
        exchange, message = intent.exchange, intent.message
        mailboxes = () if exchange is None else self.router.route(exchange, message.key, message.properties.headers)
        if not mailboxes:
            commit.notes.append(Note("unroutable", message.exchange, message))
        if intent.ttl is not None:
            message = message.with_properties(expires=now + intent.ttl)
        # Stamped anew: its copies are as old as their entering.
        late = replace(message, timestamp=now + self.wall_offset)
        self._plan_publish(commit, Publish(late, mailboxes, moved=True), now)

    def intent_of(self, timer: Timer) -> Intent:
        """Return what is to be committed when this timer is due: its action, or a publish of the message that it defers."""
        action: Any = timer.action
        if isinstance(action, Message):
            return PublishDue(self.router.find_exchange(action.exchange), action, action.properties.ttl)
        return action

    def _plan_defer(self, commit: Commit, intent: Defer, now: float) -> None:
        commit.changes.append(SetTimer(intent))

    def _plan_save(self, commit: Commit, intent: Save, now: float) -> None:
        commit.changes.append(intent)

    # Deaths

    def _plan_death(
        self, commit: Commit, mailbox: Mailbox, entry: Entry, reason: DeathReason, detail: str, now: float, was: State
    ) -> None:
        if was is State.READY:
            mailbox.pin(entry)
        else:
            entry.move(State.SETTLING)
        if entry.asked:
            outcome = "expired" if reason == "expired" else "dropped" if reason == "maxlen" else "acked"
            commit.changes.append(End(mailbox, entry, outcome, was))
        elif reason not in RESTING and mailbox.options.dead_letter_name is None:
            outcome = "expired" if reason == "expired" else "dropped"
            commit.changes.append(End(mailbox, entry, outcome, was))
        else:
            commit.changes.append(End(mailbox, entry, "dead", was, reason, detail))
            self._plan_burial(commit, mailbox, entry.message, reason, detail, now)

    def _plan_burial(
        self, commit: Commit, mailbox: Mailbox, message: Message, reason: DeathReason, detail: str, now: float
    ) -> None:
        wall = now + self.wall_offset
        name = mailbox.options.dead_letter_name
        exchange = None if name is None else self.router.find_exchange(name)
        if name is not None and exchange is not None:
            key = mailbox.options.dead_letter_key
            key = message.key if key is None else key
            dead = bury(message, mailbox.name, reason, wall=wall, detail=detail, exchange=name, key=key)
            targets: list[Mailbox] = []
            for target in self.router.route(exchange, key, message.properties.headers):
                if closes_cycle(dead.deaths, target.name):
                    commit.notes.append(Note("cut", target.name, dead))
                else:
                    targets.append(target)
            commit.burials.extend((target, dead) for target in targets)
            if targets:
                return
        dead = bury(message, mailbox.name, reason, wall=wall, detail=detail, exchange=message.exchange, key=message.key)
        commit.notes.append(Note("buried", mailbox.name, dead))
        commit.burials.append((self.dead_letters, dead))

    def _plan_burials(self, commit: Commit, now: float) -> None:
        # A loop, not a recursion: a burial may evict a copy, whose burial may evict another.
        while commit.burials:
            mailbox, message = commit.burials.popleft()
            # An entry for each, which knows when it entered: the message is older.
            self._plan_entering(commit, mailbox, message, now, Entry(message, now))

    # Timers

    def _leave_delay(self, mailbox: Mailbox, entry: Entry, was: State) -> None:
        if was is State.DELAYED:
            mailbox.delayed -= 1
            self.delayed -= 1
            timer = mailbox.retries.pop(entry, None)
            if timer is not None:
                self.timers.cancel(timer)

    def _watch_expiry(self, mailbox: Mailbox) -> None:
        if not mailbox.deadlines:
            return
        due = mailbox.deadlines[0][0]
        if mailbox.expiry is None or due < mailbox.expiry.due:
            if mailbox.expiry is not None:
                self.timers.cancel(mailbox.expiry)
            mailbox.expiry = self.timers.set(due, Expire(mailbox))


def _leave_out(mailbox: Mailbox, entry: Entry | None, outcome: Outcome) -> None:
    """Count a copy that enters and ends in one."""
    mailbox.entered += 1
    mailbox.count(outcome)
    if entry is not None:
        entry.state = State.ENDED
        entry.ended(outcome)
