"""Ledger, mailboxes and router against the model of `ledger_model`: any steps in any order, one phase or two."""

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from flowmesh._core.commits import (
    Ack,
    Back,
    Change,
    Commit,
    Dead,
    Delay,
    End,
    Enter,
    Expire,
    Gone,
    Intent,
    LeaveOut,
    Publish,
    PublishDue,
    Purge,
    Release,
    Replay,
    Return,
    Settle,
    Withdraw,
)
from flowmesh._core.entry import Entry, State
from flowmesh._core.ledger import Ledger, UnusableLane
from flowmesh._core.mailbox import EMPTY, Mailbox
from flowmesh._core.router import Router
from flowmesh.errors import MailboxFull
from flowmesh.message import DeathReason, Message
from flowmesh.policies import MailboxOptions
from tests.core.ledger_model import Box, Copy, Model, Plan
from tests.core.making import WALL_OFFSET, Asked

NAMES = ("a", "b", "c")
FOCUS = "focus"  # stands for one mailbox of the example, so that most steps meet there
NAMED = st.sampled_from([*NAMES, FOCUS, FOCUS, FOCUS, FOCUS])
SPLIT = [f"split {key}" for key in ("k1", "k3", "k5")]
WHERE = st.sampled_from(["all", "ring", "one", *SPLIT, *NAMES, FOCUS, FOCUS, FOCUS, FOCUS, FOCUS, FOCUS])
VERDICTS = st.sampled_from(
    ["ack", "gone", "back", "failure", "handout", "later", "later failure", "later handout", "later handout", "dead"]
)
REASONS: st.SearchStrategy[DeathReason] = st.sampled_from(["rejected", "failed", "malformed"])
HOLD = st.sampled_from([False, False, True])


class Watched(Ledger):
    """A ledger that remembers the commits it has applied."""

    def __init__(self, router: Router) -> None:
        super().__init__(router)
        self.applied: list[Commit] = []

    def apply(self, commit: Commit, now: float) -> None:
        self.applied.append(commit)
        super().apply(commit, now)


def lane_of(message: Message) -> Any:
    """Three lanes, and one message in seven that has none that can be used."""
    return [] if message.body % 7 == 6 else message.body % 3


@st.composite
def options(draw: st.DrawFn, *, laned: bool) -> MailboxOptions:
    """Small and mean."""
    dead_letter = draw(st.sampled_from([None, None, "", "ring", "one", "split", "gone"]))
    return MailboxOptions(
        capacity=draw(st.integers(1, 3)),
        overflow=draw(st.sampled_from(["wait", "reject", "drop_oldest", "drop_newest"])),
        ttl=draw(st.sampled_from([None, None, 2.0, 5.0])),
        priorities=not laned and draw(st.booleans()),
        dead_letter=dead_letter,
        dead_letter_key=None if dead_letter is None else draw(st.sampled_from([None, "a", "c"])),
        max_deliveries=draw(st.integers(1, 3)),
    )


class LedgerMachine(RuleBasedStateMachine):
    """Three mailboxes, the third with lanes; a third of all commits is held back, and what follows comes behind it."""

    @initialize(mine=st.tuples(options(laned=False), options(laned=False), options(laned=True)), focus=st.sampled_from(NAMES))
    def declare(self, mine: tuple[MailboxOptions, ...], focus: str) -> None:
        self.router, self.model = Router(), Model()
        self.ledger = Watched(self.router)
        self.ledger.wall_offset = WALL_OFFSET
        self.ledger.dead_letters = Mailbox("mesh.dead_letters", 0, self.model.dead_letters.options)
        self.ledger.dead_letters.tracked = True
        self.now, self.serial, self.focus = 100.0, 0, focus
        self.held: list[tuple[Commit, Plan]] = []
        self.items: dict[Copy, Entry | tuple[Message, int]] = {}  # what was handed out
        self.asked: list[tuple[Mailbox, Asked, Copy]] = []
        self.told_room: set[str] = set()
        self.was_full: set[str] = set()
        for name, chosen in zip(NAMES, mine, strict=True):
            mailbox = self.router.declare_mailbox(name, chosen)
            mailbox.is_open = True
            mailbox.refresh()
            by = (lambda message: None if lane_of(message) == [] else lane_of(message)) if name == "c" else None
            self.model.boxes[name] = Box(name, chosen, by)
        for exchange, bound in {"all": "abc", "ring": "ab", "one": "c"}.items():
            source = self.router.declare_exchange(exchange, "fanout")
            self.model.routes[exchange] = list(bound)
            for name in bound:
                self.router.bind(source, self.router.mailboxes[name])
        split = self.router.declare_exchange("split", "hash")
        self.model.routes["split"] = list(NAMES)
        self.model.shares = {"a": 1, "b": 1, "c": 2}
        for name, weight in self.model.shares.items():
            self.router.bind(split, self.router.mailboxes[name], str(weight))
        self.mailboxes = {**self.router.mailboxes, "mesh.dead_letters": self.ledger.dead_letters}
        self.boxes = {**self.model.boxes, "mesh.dead_letters": self.model.dead_letters}

    # How a step is carried out on both sides

    def message(self, exchange: str, key: str, priority: int = 0, ttl: float | None = None) -> Message:
        self.serial += 1
        message = Message("m-", self.serial, self.serial, exchange, key, self.now + WALL_OFFSET)
        if priority or ttl is not None:
            expires = None if ttl is None else self.now + ttl
            message = message.with_properties(priority=priority, ttl=ttl, expires=expires)
        return message

    def commit(self, plan: Plan, *intents: Intent, hold: bool, commit: Commit | None = None) -> None:
        """Prepare on the real side what `plan` says; apply both at once, or hold both back behind those held before."""
        commit = self.ledger.prepare(*intents, now=self.now) if commit is None else commit
        self.model.finish(plan, self.now)
        self.compare(commit, plan)
        self.held.append((commit, plan))
        while self.held and not hold:
            self.apply_first()

    def at(self, where: str) -> tuple[str, str]:
        """Return the exchange and the key."""
        if where.startswith("split"):
            return "split", where.removeprefix("split ")
        where = self.focus if where == FOCUS else where
        return ("", where) if where in NAMES else (where, "")

    def both(self, name: str) -> tuple[Mailbox, Box]:
        """Return a mailbox and its model."""
        name = self.focus if name == FOCUS else name
        return self.mailboxes[name], self.boxes[name]

    def compare(self, commit: Commit, plan: Plan) -> None:
        """The commit says what the plan says, in the same order."""
        assert [_named(change) for change in commit.changes] == [_step(step) for step in plan.steps]
        assert [(note.kind, note.place) for note in commit.notes] == plan.notes
        assert commit.counts == plan.counts

    def apply_first(self) -> None:
        commit, plan = self.held.pop(0)
        self.ledger.apply(commit, self.now)
        self.model.apply(plan)

    def own(self, copy: Copy) -> Entry | Message:
        """Return what was handed out for this copy, as an entry if need be."""
        item = self.items[copy]
        if isinstance(item, tuple):
            item = self.items[copy] = self.mailboxes[copy.box.name].lease_plain(*item, self.now)
        return item

    # Publishing

    @rule(
        where=WHERE,
        many=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, None, None, 1.0, 3.0])), min_size=1, max_size=3),
        nowait=st.booleans(),
        moved=st.booleans(),
        hold=HOLD,
    )
    def publish(self, where: str, many: list[tuple[int, float | None]], nowait: bool, moved: bool, hold: bool) -> None:
        """One or several messages in one commit; all of them enter, or none."""
        exchange, key = self.at(where)
        messages = [self.message(exchange, key, priority, ttl) for priority, ttl in many]
        source = self.router.exchanges[exchange]
        intents = [Publish(message, self.router.route(source, key, {}), moved=moved, nowait=nowait) for message in messages]
        boxes = self.model.route(exchange, key)
        assert [box.name for box in intents[0].mailboxes] == [box.name for box in boxes]
        if not moved:
            refusing = self.model.refusing([(box, nowait) for _ in messages for box in boxes])
            if refusing is not None:
                with pytest.raises(MailboxFull) as caught:
                    self.ledger.prepare(*intents, now=self.now)
                assert caught.value.message in messages
                assert caught.value.mailbox == refusing.name
                return
        plan = Plan()
        for message in messages:
            self.model.publish(plan, boxes, message, self.now)
        self.commit(plan, *intents, hold=hold)

    @rule(where=WHERE, ttl=st.sampled_from([None, 1.0]), hold=HOLD)
    def publish_due(self, where: str, ttl: float | None, hold: bool) -> None:
        """A deferred message is routed when it is due; it is never refused, and its ttl starts then."""
        exchange, key = self.at(where)
        message = self.message(exchange, key)
        boxes, plan = self.model.route(exchange, key), Plan()
        plan.notes += [] if boxes else [("unroutable", exchange)]
        late = message if ttl is None else message.with_properties(expires=self.now + ttl)
        self.model.publish(plan, boxes, late, self.now)
        self.commit(plan, PublishDue(self.router.exchanges[exchange], message, ttl), hold=hold)

    @rule(name=NAMED, asks=st.booleans())
    def publish_fast(self, name: str, asks: bool) -> None:
        """While `len(fresh) < limit` a plain append is what a careful publish would do."""
        mailbox, box = self.both(name)
        if len(mailbox.fresh) >= mailbox.limit:
            return
        message = self.message("", box.name)
        item = Asked(message, self.now) if asks else message
        if mailbox.fresh is EMPTY:
            mailbox.fresh = deque()
        if isinstance(item, Asked):
            item.queued = True
        mailbox.fresh.append(item)
        mailbox.entered += 1
        if mailbox.armed:
            mailbox.armed = False
            mailbox.on_ready()
        plan = Plan()
        self.model.publish(plan, [box], message, self.now, asked=asks)
        if isinstance(item, Asked):
            self.asked.append((mailbox, item, plan.steps[0][1]))
        self.model.apply(plan)

    @rule(name=NAMED, priority=st.integers(0, 2), ttl=st.sampled_from([None, 1.0]), hold=HOLD)
    def ask(self, name: str, priority: int, ttl: float | None, hold: bool) -> None:
        """A copy that somebody waits for has its entry from the start."""
        (mailbox, box), made = self.both(name), list[Asked]()
        message = self.message("", box.name, priority, ttl)

        def make(message: Message) -> Entry:
            made.append(Asked(message, self.now))
            return made[-1]

        if box.deleted or box.options.overflow == "reject":
            return
        plan = Plan()
        self.model.publish(plan, [box], message, self.now, asked=True)
        copy: Copy = plan.steps[-1][1]
        self.commit(plan, Publish(message, (mailbox,), make_entry=make), hold=hold)
        self.asked.append((mailbox, made[0], copy))

    # Handing out

    @rule(name=NAMED, fast=st.booleans())
    def take(self, name: str, fast: bool) -> None:
        """Whoever takes gets the copy that is next, and never an expired one."""
        self.hand_out(name, fast=fast)

    def hand_out(self, name: str, *, fast: bool) -> Copy | None:
        mailbox, box = self.both(name)
        if box.by is not None:
            self.fire()
        place: int | None = None
        item: Entry | Message | None = None
        self.ledger.applied.clear()
        if fast and box.by is None and not mailbox.careful:
            while item is None and mailbox.fresh and not mailbox.careful:
                item = mailbox.fresh.popleft()
                mailbox.popped += 1
                if isinstance(item, Entry):
                    item = self.begin(mailbox, item)
            if item is None and mailbox.careful:
                item = self.ledger.take(mailbox, self.now)
        else:
            try:
                item = self.ledger.take(mailbox, self.now, None if box.by is None else lambda entry: _lane(entry.message))
            except UnusableLane as error:
                item = error.entry
        place = mailbox.popped - 1
        copy, plans = self.model.take(box, self.now)
        for commit, plan in zip(self.ledger.applied, plans, strict=True):
            self.compare(commit, plan)
        if copy is None:
            assert item is None
            return None
        assert item is not None
        message = item if isinstance(item, Message) else item.message
        assert message == copy.message
        assert copy.expires > self.now
        if isinstance(item, Entry):
            assert item.state is State.LEASED
            assert (item.failures, item.handouts) == (copy.failures, copy.handouts)
        self.items[copy] = (item, place) if isinstance(item, Message) else item
        return copy

    def begin(self, mailbox: Mailbox, entry: Entry) -> Entry | None:
        """What a worker does with an entry that it popped itself."""
        entry.place, entry.queued = mailbox.popped - 1, False
        if entry.state is not State.READY:
            mailbox.ghosts -= 1
            return None
        return entry if self.ledger.lease(mailbox, entry, self.now) else None

    def leased(self) -> list[Copy]:
        return [copy for box in self.boxes.values() for copy in box.having("leased") if not copy.bound]

    @precondition(lambda self: self.leased())
    @rule(data=st.data())
    def ack_fast(self, data: st.DataObject) -> None:
        """An ack of a plain copy is one counter."""
        copy = data.draw(st.sampled_from(self.leased()))
        mailbox, item = self.mailboxes[copy.box.name], self.items[copy]
        mailbox.acked += 1
        if isinstance(item, Entry):
            item.state = State.ENDED
            if copy.lane is not None:
                mailbox.leave_lane(item)
            self.asked = [kept for kept in self.asked if kept[1] is not item]
        copy.box.end(copy, "acked")

    @precondition(lambda self: self.leased())
    @rule(data=st.data(), verdict=VERDICTS, reason=REASONS, output=st.sampled_from(["", FOCUS, "all", "split k3"]), hold=HOLD)
    def settle(self, data: st.DataObject, verdict: str, reason: DeathReason, output: str, hold: bool) -> None:
        """Every verdict, with or without outputs of the turn in the same commit."""
        self.end_turn(data.draw(st.sampled_from(self.leased())), verdict, reason, output, hold=hold)

    @rule(name=NAMED, fast=st.booleans(), verdict=VERDICTS, reason=REASONS, hold=HOLD)
    def turn(self, name: str, fast: bool, verdict: str, reason: DeathReason, hold: bool) -> None:
        """A whole turn: what is taken is settled at once."""
        copy = self.hand_out(name, fast=fast)
        if copy is not None:
            self.end_turn(copy, verdict, reason, "", hold=hold)

    def end_turn(self, copy: Copy, verdict: str, reason: DeathReason, output: str, *, hold: bool) -> None:
        if verdict == "gone" and not copy.asked:
            verdict = "ack"
        mailbox, entry, plan = self.mailboxes[copy.box.name], self.own(copy), Plan()
        failures, handouts = copy.failures + ("failure" in verdict), copy.handouts + ("handout" in verdict)
        intent: Intent
        match verdict:
            case "ack":
                intent = Settle(mailbox, entry, Ack())
                self.model.bind(plan, copy, "acked")
            case "gone":
                intent = Settle(mailbox, entry, Gone())
                self.model.bind(plan, copy, "withdrawn")
            case "dead":
                intent = Settle(mailbox, entry, Dead(reason, "why"))
                self.model.die(plan, copy, reason, self.now, "why")
            case _:
                delay = 2.0 if "later" in verdict else 0.0
                counted: Any = verdict.split()[-1] if failures + handouts > copy.failures + copy.handouts else None
                intent = Settle(mailbox, entry, Back(delay, counted))
                if handouts >= copy.box.options.max_deliveries:
                    detail = f"handed out {handouts} times without a verdict"
                    self.model.die(plan, copy, "delivery_limit", self.now, detail)
                elif delay and not copy.box.deleted:
                    copy.bound = True
                    plan.steps.append(("delay", copy, self.now + delay, failures, handouts))
                else:
                    self.model.back(plan, copy, self.now, failures, handouts)
        intents: list[Intent] = [intent]
        if output:
            exchange, key = self.at(output)
            message = self.message(exchange, key)
            intents.append(PublishDue(self.router.exchanges[exchange], message))
            boxes = self.model.route(exchange, key)
            plan.notes += [] if boxes else [("unroutable", exchange)]
            self.model.publish(plan, boxes, message, self.now)
        self.commit(plan, *intents, hold=hold)

    # Leaving the line by other ways

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), hold=HOLD)
    def withdraw(self, data: st.DataObject, hold: bool) -> None:
        """Its asker leaves: it ends if it is ready or awaits a retry, and nothing happens otherwise."""
        mailbox, entry, copy = data.draw(st.sampled_from(self.asked))
        plan = Plan()
        if copy.state in ("ready", "delayed") and not copy.bound:
            self.model.bind(plan, copy, "withdrawn")
        self.commit(plan, Withdraw(mailbox, entry), hold=hold)

    def plan_purge(self, plan: Plan, box: Box, commit: Commit, *, delayed: bool) -> None:
        """A purge ends copies in no particular order: the model takes the real one's."""
        expected = box.shown() + [copy for copy in box.having("delayed") if delayed and not copy.bound]
        found = [change.entry.message for change in commit.changes if isinstance(change, End)]
        assert sorted(message.serial for message in found) == sorted(copy.message.serial for copy in expected)
        for copy in expected:
            copy.aside = False
        for message in found:
            self.model.bind(plan, box.find(message), "purged")

    @rule(name=st.sampled_from(["mesh.dead_letters", FOCUS]), delayed=st.booleans(), hold=HOLD)
    def purge(self, name: str, delayed: bool, hold: bool) -> None:
        """What is ready ends as purged, and what awaits a retry if that is asked for; what is bound or leased stays."""
        (mailbox, box), plan = self.both(name), Plan()
        only = tuple(mailbox.entries()) if box is self.model.dead_letters else None
        intent = Purge(mailbox, delayed, only)
        commit = self.ledger.prepare(intent, now=self.now)
        self.plan_purge(plan, box, commit, delayed=delayed)
        self.commit(plan, hold=hold, commit=commit)

    @precondition(lambda self: self.serial > 20)
    @rule(name=NAMED, hold=HOLD)
    def delete(self, name: str, hold: bool) -> None:
        """A deleted mailbox purges what stands in it; what is leased is still settled, what is to enter ends at once."""
        (mailbox, box), plan = self.both(name), Plan()
        if box.deleted:
            return
        self.router.delete_mailbox(mailbox)
        box.deleted = True
        commit = self.ledger.prepare(Purge(mailbox, delayed=True), now=self.now)
        self.plan_purge(plan, box, commit, delayed=True)
        self.commit(plan, hold=hold, commit=commit)

    @precondition(lambda self: self.model.dead_letters.shown())
    @rule(data=st.data(), hold=HOLD)
    def replay(self, data: st.DataObject, hold: bool) -> None:
        """A dead letter goes back where it died, with fresh attempts and its history."""
        copy = data.draw(st.sampled_from(self.model.dead_letters.shown()))
        (entry,) = [entry for entry in self.ledger.dead_letters.entries() if entry.message == copy.message]
        name, plan = copy.message.deaths[0].mailbox, Plan()
        if name in NAMES and not self.boxes[name].deleted:
            self.model.bind(plan, copy, "acked")
            self.model.enter(plan, self.boxes[name], copy.message, self.now)
            self.commit(plan, Replay(entry, self.mailboxes[name]), hold=hold)

    # Time

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]), on_time=st.booleans())
    def advance(self, seconds: float, on_time: bool) -> None:
        """Time passes, and what is due then is done at once or late."""
        self.now += seconds
        if on_time:
            self.fire()

    def fire(self) -> None:
        """Do what is due; then nothing that has expired is left in line, and no retry that is due still waits."""
        while (timer := self.ledger.timers.pop_due(self.now, self.now + WALL_OFFSET)) is not None:
            plan, action = Plan(), timer.action
            commit = self.ledger.prepare(action, now=self.now)
            if isinstance(action, Release):
                copies = [copy for copy in self.boxes[action.mailbox.name].copies if copy.message == action.entry.message]
                for copy in copies:
                    if copy.state == "delayed" and not copy.bound:
                        assert copy.due <= self.now
                        self.model.back(plan, copy, self.now, copy.failures, copy.handouts)
            else:
                assert isinstance(action, Expire)
                box = self.boxes[action.mailbox.name]
                ends = [change for change in commit.changes if isinstance(change, End) and change.mailbox is action.mailbox]
                expired = [copy for copy in box.shown() if copy.expires <= self.now]
                order = [change.entry.message for change in ends]
                expired.sort(key=lambda copy: (copy.expires, order.index(copy.message)))
                for copy in expired:
                    self.model.die(plan, copy, "expired", self.now)
            self.commit(plan, hold=False, commit=commit)
        for box in self.boxes.values():
            assert not [copy for copy in box.shown() if copy.expires <= self.now]
            assert not [copy for copy in box.having("delayed") if copy.due <= self.now and not copy.bound]

    # The second phase

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 3))
    def apply_held(self, count: int) -> None:
        """Held commits are applied in the order in which they were prepared."""
        for _ in range(min(count, len(self.held))):
            self.apply_first()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """A commit that is given up leaves everything as if it had never been prepared."""
        commit, plan = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.ledger.give_up(commit)
        self.model.give_up(plan)
        given_up = [step[1] for step in plan.steps if step[0] == "enter"]
        self.asked = [kept for kept in self.asked if kept[2] not in given_up]

    # Being told

    @rule(name=NAMED)
    def arm(self, name: str) -> None:
        """A consumer that found nothing wants to be told."""
        mailbox, _ = self.both(name)
        mailbox.armed = mailbox.armed or not mailbox.has_next

    @rule(name=NAMED, wanted=st.booleans())
    def want_room(self, name: str, wanted: bool) -> None:
        """A sender waits for room, or no longer does."""
        mailbox, box = self.both(name)
        box.awaited = mailbox.room_wanted = wanted and mailbox.options.overflow == "wait"
        mailbox.on_room = lambda: self.told_room.add(box.name)
        mailbox.refresh()

    @invariant()
    def whoever_waits_is_told(self) -> None:
        """Armed means that there is nothing to hand out; room that appeared has been told."""
        for name in NAMES:
            mailbox, box = self.mailboxes[name], self.boxes[name]
            if mailbox.armed or not mailbox.has_next:
                assert not box.line()
            is_full = len(box.having("ready", "arriving")) >= box.options.capacity
            if mailbox.room_wanted and not is_full and name in self.was_full:
                assert name in self.told_room
            self.told_room.discard(name)
            (self.was_full.add if mailbox.room_wanted and is_full else self.was_full.discard)(name)

    @invariant()
    def numbers_and_order_agree(self) -> None:
        """Every number is the model's, the ready copies stand in its order, and no copy stands in two places."""
        for name, box in self.boxes.items():
            mailbox = self.mailboxes[name]
            states = Counter(copy.state for copy in box.copies)
            assert mailbox.ready == states["ready"]
            assert mailbox.leased == states["leased"]
            assert mailbox.delayed == states["delayed"] == len(mailbox.retries)
            assert mailbox.arriving == states["arriving"]
            assert mailbox.pinned == sum(copy.bound for copy in box.having("ready"))
            for counter in ("entered", "acked", "dead", "expired", "dropped", "withdrawn", "purged"):
                assert getattr(mailbox, counter) == box.ever[counter], counter
            assert mailbox.peek(1000) == [copy.message for copy in box.shown()]
            assert mailbox.aside == sum(copy.aside for copy in box.copies)
            entries = [entry for entry in mailbox.entries() if entry.state is not State.SETTLING]
            assert len(entries) == len(set(entries))
            busy = {copy.lane for copy in box.having("leased", "delayed", "ready") if copy.lane is not None}
            assert set(mailbox.lanes) <= busy
            if name != "mesh.dead_letters":
                self.fast_paths_are_legal(mailbox, box)
        assert self.ledger.delayed == sum(mailbox.delayed for mailbox in self.mailboxes.values())

    def fast_paths_are_legal(self, mailbox: Mailbox, box: Box) -> None:
        """Below `limit` a plain append, and while `careful` is False a plain pop, is what the careful way would do."""
        if len(mailbox.fresh) < mailbox.limit:
            assert not any((box.options.priorities, box.deleted, box.awaited))
            assert box.options.ttl is None
            assert not box.having("arriving")
            assert len(box.having("ready")) < box.options.capacity
        if not mailbox.careful and box.by is None:
            standing = [item for item in mailbox.fresh if isinstance(item, Message) or item.state is State.READY]
            messages = [item.message if isinstance(item, Entry) else item for item in standing]
            assert messages == [copy.message for copy in box.line()]

    @invariant()
    def askers_are_told_once(self) -> None:
        """Whoever waits for a copy is told its outcome when it ends, once."""
        for _, entry, copy in self.asked:
            assert len(entry.told) == (copy.state == "ended" or entry.state is State.ENDED)
            assert entry.has_ended == bool(entry.told)

    def teardown(self) -> None:
        """In the end, what was held back is applied and everything still agrees."""
        while getattr(self, "held", None):
            self.apply_first()
            self.numbers_and_order_agree()


def _lane(message: Message) -> Any:
    lane = lane_of(message)
    if lane == []:
        raise LookupError("no lane")
    return lane


def _named(change: Change) -> tuple[Any, ...]:
    match change:
        case Enter(mailbox, item):
            return ("enter", mailbox.name, item.message if isinstance(item, Entry) else item)
        case LeaveOut(mailbox, _, outcome):
            return ("leave out", mailbox.name, outcome)
        case End(mailbox, entry, outcome):
            return ("end", mailbox.name, entry.message, outcome)
        case Return(mailbox, entry, _, failures, handouts):
            return ("return", mailbox.name, entry.message, failures, handouts)
        case Delay(mailbox, entry, due, failures, handouts):
            return ("delay", mailbox.name, entry.message, due, failures, handouts)
        case _:
            raise AssertionError(change)


def _step(step: tuple[Any, ...]) -> tuple[Any, ...]:
    kind, copy, *details = step
    return (kind, copy.box.name, *([] if kind == "leave out" else [copy.message]), *details)


def test_ledger_and_model_agree() -> None:
    """Whatever is done, in whatever order, prepared and applied or given up: every copy is where the model has it."""
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=2 * settings().max_examples, stateful_step_count=50)
    )
