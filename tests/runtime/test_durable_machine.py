"""Ledger, journal and store, without an event loop: any steps in any order, commits in flight, refusals, crashes.

The model is what was confirmed: a message whose publish was told that it is written, until its end was told so.  At every
moment the numbers add up; whatever is handed out was confirmed, is next in order, and is nowhere else; what may have been in a
handler's hands when a process died says so; and in the end all that was confirmed comes out once, and nothing else.
"""

import contextvars
import copy
from collections.abc import Callable
from threading import get_ident
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from flowmesh._core.commits import Ack, Back, Publish, Purge, Settle, Verdict
from flowmesh._core.entry import Entry, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.recording import Recording
from flowmesh._runtime.storing import Storing
from flowmesh.errors import StoreError, StoreFull
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions
from flowmesh.stores import MemoryStore

WALL = 5000.0
DELIVERIES = 3
VERDICTS: dict[str, Verdict] = {
    "ack": Ack(),
    "back": Back(),
    "failure": Back(counted="failure"),
    "later": Back(3.0, "failure"),
}


class Fleeting(Entry, eq=False):
    """A copy that is not stored, as an ask's."""

    fleeting: ClassVar[bool] = True


class Manual(MemoryStore):
    """Carries out what it was given when it is told to. `refuses`: so many of the next batches that grow find no room."""

    def __init__(self) -> None:
        super().__init__(durability="process")
        self.steps: list[Callable[[], Callable[[], None]]] = []
        self.refuses = 0

    def _give(self, step: Callable[[], Callable[[], None]]) -> None:
        self.steps.append(step)

    def append(self, batch: Any, /) -> None:
        def step() -> Callable[[], None]:
            before = None if batch.after is None else batch.after.refused
            if before is None and batch.grows and self.refuses:
                self.refuses -= 1
                before = StoreFull("full")
            error = batch.refused = self._rows.write(batch) if before is None else before
            return lambda: batch.done(error)

        self.steps.append(step)

    def carry_out(self, count: int) -> None:
        """Carry out the first steps, all of them written before any is told of, as a group commit does."""
        group, self.steps = self.steps[:count], self.steps[count:]
        for tell in [step() for step in group]:
            tell()

    def image(self) -> "Manual":
        """What is left if the process dies now."""
        left = Manual()
        left._rows = copy.deepcopy(self._rows)
        return left

    def serials(self, storing: Storing, ground: Ground) -> set[int]:
        """What is on disk of the mailbox."""
        found: set[int] = set()
        box = ground.router.mailboxes["box"]
        assert box.shelf is not None
        for number, record in self._rows._copies.items():
            if box.shelf.first <= number <= box.shelf.last:
                found.add(int(storing.recording.decode(record, box, WALL).message.serial))
        return found


class Calls:
    """A parking of which only `call_soon` is used, which calls at once."""

    def call_soon(self, call: Callable[[], None]) -> None:
        call()

    def wake(self, waiter: object) -> None:
        del waiter


class NoTurns:
    """Nobody handles anything: what the journal would tell them."""

    unions = None

    def undo_ack(self, cell: object, entry: object, failure: object) -> None:
        raise AssertionError((cell, entry, failure))

    def reopen(self, cell: object) -> None:
        raise AssertionError(cell)


class Sundial:
    """A clock that the test moves."""

    def __init__(self, machine: "DurableMachine") -> None:
        self.machine = machine

    def start(self) -> None:
        pass

    def now(self) -> float:
        return self.machine.now

    def wall(self) -> float:
        return self.machine.now + WALL

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


class DurableMachine(RuleBasedStateMachine):
    """One durable mailbox with a window of four."""

    @initialize(priorities=st.booleans())
    def begin(self, priorities: bool) -> None:
        self.may_be_swept: set[int] = set()
        self.now, self.serial, self.priorities = 100.0, 0, priorities
        self.levels: dict[int, int] = {}
        self.live: set[int] = set()  # confirmed, and not confirmed to have ended
        self.asks: set[int] = set()
        self.coming: set[int] = set()
        self.in_hand: dict[int, Entry] = {}
        self.settling: set[int] = set()
        self.delayed: set[int] = set()
        self.purging: set[int] = set()
        self.wearing: dict[int, Entry] = {}
        self.may_be_swept: set[int] = set()
        self.touched: set[int] = set()  # handed out in an earlier life
        self.store = Manual()
        self.start()

    def start(self) -> None:
        self.ground = ground = Ground("shop", Sundial(self))
        ground.now = lambda: self.now
        ground.thread, ground.phase = get_ident(), Phase.RUNNING
        ground.parking = Calls()  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue] - all that is used
        ground.context = contextvars.copy_context()
        ground.wall_offset = ground.ledger.wall_offset = WALL
        options = MailboxOptions(capacity=1000, priorities=self.priorities, max_deliveries=DELIVERIES)
        self.box = ground.router.declare_mailbox("box", options)
        recording = Recording(list, lambda _: [], ground.router.find_mailbox)
        self.storing = Storing(ground, recording, NoTurns())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - all that is used
        self.storing.store, self.storing.window = self.store, 4
        self.storing._contents = self.store.open()
        self.storing.take_up()
        self.end_worn = ground.ledger._end_worn_out
        ground.ledger._end_worn_out = self.note_worn  # type: ignore[method-assign]
        ground.ledger.replenish(ground.ledger.dead_letters)
        ground.ledger.replenish(self.box)

    # What can happen

    def key(self, serial: int) -> tuple[int, int]:
        return (-self.levels[serial], serial)

    @property
    def worn(self) -> set[int]:
        """Those that have been in too many hands: their end is on its way, unless it was refused."""
        return {serial for serial, entry in self.wearing.items() if entry.state in (State.PINNED, State.ENDED)}

    def ready(self) -> list[int]:
        away = self.in_hand.keys() | self.settling | self.delayed | self.purging | self.worn
        return sorted((self.live | self.asks) - away, key=self.key)

    @rule(levels=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def publish(self, levels: list[int]) -> None:
        """One commit with several messages; they are there when it is told so."""
        messages: list[Message] = []
        for level in levels:
            self.serial += 1
            self.levels[self.serial] = level if self.priorities else 0
            message = Message("m-", self.serial, self.serial, "", "box", self.now + WALL)
            messages.append(message.with_properties(priority=level) if level else message)
        serials = {int(message.serial) for message in messages}
        self.coming |= serials

        def then(error: StoreError | None) -> None:
            self.coming -= serials
            if error is None:
                self.live |= serials - self.swept(serials)

        publishes = [Publish(message, (self.box,)) for message in messages]
        self.ground.ledger.commit(*publishes, now=self.now, then=then, strict=True)

    def swept(self, serials: set[int]) -> set[int]:
        """Which of these a purge has taken that was prepared while they were on their way: the ledger counts them as purged."""
        assert self.box.shelf is not None
        return {serial for serial in serials if serial in self.may_be_swept} - self.standing()

    def standing(self) -> set[int]:
        return self.store.serials(self.storing, self.ground)

    @rule(level=st.integers(0, 2))
    def ask(self, level: int) -> None:
        """A copy that is not stored stands at its place all the same."""
        self.serial += 1
        serial, self.levels[self.serial] = self.serial, level if self.priorities else 0
        message = Message("m-", serial, serial, "", "box", self.now + WALL).with_properties(priority=level)
        self.coming.add(serial)

        def then(error: StoreError | None) -> None:
            self.coming.discard(serial)
            if error is None and not made[0].has_ended:
                self.asks.add(serial)

        made: list[Entry] = []

        def make(message: Message) -> Entry:
            made.append(Fleeting(message, self.now))
            return made[0]

        self.ground.ledger.commit(Publish(message, (self.box,), make_entry=make), now=self.now, then=then, strict=True)

    @rule()
    def take(self) -> None:
        """What is handed out was confirmed, is next, is nowhere else, and says if it may have been handed out before."""
        self.hand_out()

    def hand_out(self) -> int | None:
        item = self.ground.ledger.take(self.box, self.now)
        if item is None:
            return None
        assert isinstance(item, Entry)
        serial = int(item.message.serial)
        expected = self.ready()  # without what has been in too many hands
        assert expected
        assert serial == expected[0]
        if serial in self.touched:
            assert item.redelivered
        self.in_hand[serial] = item
        return serial

    def note_worn(self, mailbox: Mailbox, entry: Entry, now: float) -> None:
        """One that has been in too many hands ends as a dead letter, as soon as that is written."""
        assert entry.redelivered
        assert entry.handouts >= 1
        self.wearing[int(entry.message.serial)] = entry
        self.end_worn(mailbox, entry, now)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), verdict=st.sampled_from(sorted(VERDICTS)))
    def settle(self, data: st.DataObject, verdict: str) -> None:
        """It ends when that is written; what goes back is ready again at its place."""
        self.end(data.draw(st.sampled_from(sorted(self.in_hand))), verdict)

    def end(self, serial: int, verdict: str) -> None:
        entry = self.in_hand.pop(serial)
        self.settling.add(serial)

        def then(error: StoreError | None) -> None:
            assert error is None, "nothing that only ends is refused"
            self.settling.discard(serial)
            if verdict == "ack":
                self.live.discard(serial)
                self.asks.discard(serial)
            elif verdict == "later":
                self.delayed.add(serial)

        self.ground.ledger.commit(Settle(self.box, entry, VERDICTS[verdict]), now=self.now, then=then)

    @precondition(lambda self: not self.coming)
    @rule()
    def purge(self) -> None:
        """What is ready ends. What of a tail's copies on their way is purged, the tests of the shelf say."""
        ready, coming = set(self.ready()), set(self.coming)
        self.purging |= ready
        self.may_be_swept = self.may_be_swept | coming

        def then(error: StoreError | None) -> None:
            assert error is None
            self.purging -= ready
            self.asks -= ready
            assert not ready & self.standing()
            self.live -= ready

        self.ground.ledger.commit(Purge(self.box), now=self.now, then=then)

    @rule(count=st.integers(1, 5))
    def write(self, count: int) -> None:
        """The store writes a group."""
        self.store.carry_out(count)
        self.find_worn()

    def find_worn(self) -> None:
        gone = self.live - self.standing()
        # What was on its way when a purge was prepared may be told that it has entered before the purge has taken it.
        self.live -= gone & self.may_be_swept - self.purging
        gone &= self.live
        assert gone <= self.worn | self.purging | self.settling, (gone, self.worn, self.purging, self.settling)
        ended = {serial for serial in self.worn if serial in gone and not self.store.steps}
        self.live -= ended
        for serial in ended:
            del self.wearing[serial]

    @rule(count=st.integers(1, 3))
    def fill_up(self, count: int) -> None:
        """The next batches that bring something new find no room: nobody is told that they are there."""
        self.store.refuses = count

    @rule(seconds=st.sampled_from([1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        """Retries come due."""
        self.now += seconds
        timers = self.ground.ledger.timers
        while (timer := timers.pop_due(self.now, self.now + WALL)) is not None:
            if callable(timer.action):
                timer.action(self.now)
            else:
                self.ground.ledger.commit(self.ground.ledger.intent_of(timer), now=self.now)
        self.delayed = {int(entry.message.serial) for entry in self.box.retries}

    # Lives

    @rule(count=st.integers(0, 5))
    def crash(self, count: int) -> None:
        """The process dies; what the store has written but nobody was told of may be there, whole."""
        store = self.store
        told, store.steps = store.steps[:count], []
        for step in told:
            step()  # Written, not told.
        self.store = store.image()
        self.begin_anew()
        there = self.standing()
        assert self.live - self.settling - self.purging - self.worn <= there
        assert there <= self.live | self.coming
        self.live = there
        self.coming, self.settling, self.purging, self.wearing = set(), set(), set(), {}
        self.store.carry_out(100)
        self.delayed = {int(entry.message.serial) for entry in self.box.retries}

    def begin_anew(self) -> None:
        for serial in self.in_hand.keys() | self.settling:
            self.touched.add(serial)
        self.in_hand, self.asks, self.delayed = {}, set(), set()
        self.may_be_swept = set()
        self.start()

    @precondition(lambda self: not self.in_hand)
    @rule()
    def stop_and_start(self) -> None:
        """The mesh comes to rest, and is entered again."""
        self.settle_down()
        journal = self.storing.journal
        assert journal is not None
        journal.write_rest()
        self.store.carry_out(1000)
        self.store = self.store.image()
        self.begin_anew()
        assert self.standing() == self.live
        self.settle_down()
        self.delayed = {int(entry.message.serial) for entry in self.box.retries}

    def settle_down(self) -> None:
        while self.store.steps:
            self.store.carry_out(1000)
        self.find_worn()

    # What always holds

    @invariant()
    def numbers_add_up(self) -> None:
        """Every copy is somewhere, once."""
        box = self.box
        assert box.leased == len(self.in_hand) + len(self.settling - self.delayed)
        assert min(box.ready, box.arriving, box.pinned, box.delayed) >= 0
        assert box.shelf is not None
        assert min(box.shelf.tail, box.shelf.arriving, box.shelf.coming) >= 0
        assert box.arriving == box.shelf.arriving + box.shelf.coming
        if not self.store.steps:
            self.find_worn()
            assert box.ready == len(self.ready())
            assert box.at_hand <= 3 * 4 + len(self.asks) or self.priorities
            assert self.standing() == self.live

    def teardown(self) -> None:
        """In the end, all that was confirmed comes out once."""
        if not hasattr(self, "store"):
            return
        for _ in range(100):
            self.settle_down()
            self.wait(4.0)
            while self.hand_out() is not None:
                pass
            for serial in sorted(self.in_hand):
                self.end(serial, "ack")
            if not (self.live or self.asks or self.store.steps):
                break
        assert not self.standing()
        assert self.box.ready == self.box.leased == self.box.delayed == 0


def test_whatever_happens_what_was_confirmed_comes_out_once() -> None:
    """See the module."""
    run_state_machine_as_test(DurableMachine, settings=settings(stateful_step_count=40))
