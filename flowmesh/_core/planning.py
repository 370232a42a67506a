"""Plans: what each intent would change, worked out before anything has.

A plan changes only what makes its commit certain: it gives places, pins what it will end, and counts what is to come as room.
`ask_all` comes before it, and asks every mailbox that may refuse.  The ledger carries the changes out, or takes them back.
"""

import heapq
import math
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
    Forget,
    Gone,
    Intent,
    Journal,
    Keep,
    LeaveOut,
    Note,
    Owner,
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
    Sweep,
    Withdraw,
)
from flowmesh._core.deadletters import RESTING, bury, closes_cycle
from flowmesh._core.entry import Entry, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.records import place_of
from flowmesh._core.router import Router
from flowmesh._core.shelf import Shelf
from flowmesh._core.timers import Timer, Timers
from flowmesh.errors import MailboxFull
from flowmesh.message import DeathReason, Message
from flowmesh.policies import MailboxOptions

__all__ = ["LOOKED_AT", "Planning"]

LOOKED_AT: Final = 64
"""Copies that one call may look at, expire or set aside: a turn of the loop has room for no more."""


class Planning:
    """The part of the ledger that plans.

    `now` is the mesh clock's monotonic seconds; `wall_offset` is what to add to get the wall clock, told by the runtime.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        self.timers = Timers()
        self.wall_offset = 0.0
        self.journal: Journal | None = None  # where commits are written, while a mesh with a store runs
        self.dead_letters = Mailbox("mesh.dead_letters", 0, MailboxOptions(overflow="drop_oldest"))
        self.dead_letters.tracked = True
        self.saving: dict[Owner, list[Save]] = {}  # what has been planned to be saved, and neither carried out nor taken back
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
            Keep: self._plan_keep,
        }

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
        is_shelved = entry is not None and mailbox.shelf is not None and self._shelve(mailbox, mailbox.shelf, entry)
        mailbox.arriving += 1
        mailbox.refresh()
        if overflow == "drop_oldest":
            entering = commit.entering.setdefault(mailbox, [])
            heapq.heappush(entering, (mailbox.rank_of(message), len(commit.changes)))
        commit.changes.append(Enter(mailbox, message if entry is None else entry, is_shelved))
        return True

    @staticmethod
    def _number_of(mailbox: Mailbox, shelf: Shelf, entry: Entry) -> int:
        """Return the number of a copy, also of one that is not stored."""
        return entry.number or shelf.number_at(mailbox.level_of(entry.message), entry.place)

    def _uninvite(self, mailbox: Mailbox, item: Entry | Message, *, is_shelved: bool) -> bool:
        """Count a copy no longer that was to enter; True if it was to join a tail that has been purged meanwhile."""
        shelf = mailbox.shelf
        if shelf is None or not isinstance(item, Entry):
            return False
        return shelf.uninvite(self._number_of(mailbox, shelf, item), is_shelved=is_shelved)

    @staticmethod
    def _shelve(mailbox: Mailbox, shelf: Shelf, entry: Entry) -> bool:
        """Give a copy its number; True if it will lie on disk only."""
        number = shelf.place(mailbox.level_of(entry.message))
        entry.place = place_of(number)
        if not entry.fleeting:
            entry.number = number
        return not shelf.invite(number, mailbox.at_hand)

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
            self._plan_uninviting(commit, mailbox, heapq.heappop(entering)[1], now)
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

    def _plan_uninviting(self, commit: Commit, mailbox: Mailbox, number: int, now: float) -> None:
        """Leave out a copy that was to enter with this commit."""
        change = commit.changes[number]
        assert isinstance(change, Enter)
        item = change.item
        entry, message = (item, item.message) if isinstance(item, Entry) else (None, item)
        mailbox.arriving -= 1
        self._uninvite(mailbox, item, is_shelved=change.is_shelved)
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
        if entry.state in (State.DELAYED, State.POSTPONED):
            self._plan_return(commit, intent.mailbox, entry, now, entry.state, entry.failures, entry.handouts)

    def _plan_withdraw(self, commit: Commit, intent: Withdraw, now: float) -> None:
        entry, mailbox = intent.entry, intent.mailbox
        if entry.state in (State.DELAYED, State.POSTPONED):
            was = entry.state
            entry.move(State.SETTLING)
            commit.changes.append(End(mailbox, entry, "withdrawn", was))
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
        shelf = mailbox.shelf
        if shelf is not None and shelf.tail and intent.only is None:
            mailbox.pinned += shelf.tail
            commit.changes.append(Sweep(mailbox, shelf.horizon + 1, shelf.last, shelf.sweep()))
        mailbox.refresh()

    def _plan_replay(self, commit: Commit, intent: Replay, now: float) -> None:
        entry = intent.entry
        if entry.state is State.READY and entry.queued:  # otherwise it has been replayed, purged or dropped meanwhile
            self.dead_letters.pin(entry)
            commit.changes.append(End(self.dead_letters, entry, "acked", State.READY))
            self._plan_entering(commit, intent.mailbox, entry.message, now, Entry(entry.message, now))

    def _plan_due(self, commit: Commit, intent: PublishDue, now: float) -> None:
        exchange, message = intent.exchange, intent.message
        if intent.timer is not None and self.journal is not None:
            commit.changes.append(Forget(intent.timer))
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
            return PublishDue(self.router.find_exchange(action.exchange), action, action.properties.ttl, timer.id)
        return action

    def _plan_defer(self, commit: Commit, intent: Defer, now: float) -> None:
        number = self.timers.give_number()
        commit.timers.append(number)
        commit.changes.append(SetTimer(intent, number))

    def _plan_save(self, commit: Commit, intent: Save, now: float) -> None:
        commit.changes.append(intent)
        self.saving.setdefault(intent.owner, []).append(intent)

    def _plan_keep(self, commit: Commit, intent: Keep, now: float) -> None:
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

    def _watch_expiry(self, mailbox: Mailbox, again: float = -math.inf) -> None:
        if not mailbox.deadlines:
            return
        due = max(mailbox.deadlines[0][0], again)
        if mailbox.expiry is None or due < mailbox.expiry.due:
            if mailbox.expiry is not None:
                self.timers.cancel(mailbox.expiry)
            mailbox.expiry = self.timers.set(due, Expire(mailbox))
