"""The journal: commits on their way to the store, and back.

The ledger prepares a commit and hands it over; what it changes of durable mailboxes, timers and kept values becomes a batch
of the store.  When the store has written it, or says why it has not, the commit is applied or given up in the mesh's thread,
in the order of the batches, and whoever waits for it is told.  Nothing that is handed over can be taken back.

States: working; full (a batch that grows found no room: the next one finds out whether there is some, and actors of which a
turn was handed back rest a while); broken (nobody knows what is on disk: nothing more is confirmed, or handed out of durable
mailboxes, until the mesh is started anew).

What comes back is dealt with in a callback of the event loop, not in a task: whoever waits for it may be a handler on its way
out, when all tasks of the mesh have been cancelled.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from os import getpid
from typing import Final

from flowmesh._core.commits import (
    Commit,
    Delay,
    End,
    EndPlain,
    Enter,
    Forget,
    Keep,
    LeaveOut,
    Return,
    Save,
    SetTimer,
    Sweep,
)
from flowmesh._core.entry import Entry, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.records import PLACE_BITS, Batch, Row, Trial, place_of
from flowmesh._core.shelf import MARK_ALONE, SUSPECT, Shelf
from flowmesh._core.timers import Timer
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.owners import key_of
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.recording import Recording
from flowmesh._runtime.unions import Unions
from flowmesh.errors import ForkedProcessError, StoreCorrupt, StoreError, StoreFull, Unencodable
from flowmesh.message import Message
from flowmesh.ports import Store

__all__ = ["REST", "Journal"]

REST: Final = 1.0
"""Seconds that an actor, or a mailbox, is left alone after the store did not take what came of it."""

PATIENCE: Final = 2
"""Turns of the loop that a union waits for handlers that are busy, beyond the two that it always does."""

Then = Callable[[StoreError | None], None] | None


class Journal:
    """The way to the store of one run of a mesh. `ground.storing`: batches and readings that have not come back.

    `note_broken` is called when nothing is confirmed any more; `broken` says why. `is_full`: the last batch that grows
    found no room. `quarantined`: copies that were damaged when they were to be read. `timers`: ids of deferred messages that
    are stored. `undo` and `reopen`: as for Unions. `is_busy`: there are actors that have something to do at once.
    """

    def __init__(
        self,
        ground: Ground,
        store: Store,
        recording: Recording,
        *,
        undo: Callable[[Cell, Entry, StoreError], None],
        reopen: Callable[[Cell], None],
        is_busy: Callable[[], bool],
        note_broken: Callable[[], None],
    ) -> None:
        self._ground = ground
        self._store = store
        self.recording = recording
        self.broken: StoreError | None = None
        self._process = getpid()
        self.is_full = False
        self.quarantined = 0
        self.timers: set[int] = set()
        self._setting: dict[int, bool] = {}  # timers on their way to the store: whether they have been cancelled meanwhile
        self._returned: deque[Callable[[], None]] = deque()
        self._is_called = False
        self._written = Waiter()
        self._reader: Waiter | None = None
        self._context = ground.context.copy()
        self._note_broken = note_broken
        self._is_busy = is_busy
        self._patience = 0
        self._unions_given: list[Batch] = []
        self.unions = Unions(
            ground,
            recording,
            batch=self._batch_of_union,
            begin=self._begin_union,
            undo=undo,
            reopen=reopen,
        )

    def check_process(self) -> None:
        """Refuse what a fork of the mesh's process asks for.

        Raises:
            ForkedProcessError: this is one.
        """
        if getpid() != self._process:
            name = self._ground.name
            raise ForkedProcessError(
                f"the store of mesh {name!r} belongs to the process that this one (pid {getpid()}) is a fork of: use it there, "
                "or start this one without fork"
            )

    # To the store

    def _batch_of_union(self, told: Callable[[StoreError | None], None]) -> Batch:
        batch = Batch(lambda error: self._come_back(lambda: self._end(batch, told, error)))
        self._unions_given.append(batch)
        return batch

    def _hand_over_union(self) -> None:
        self.unions.hand_over()
        given, self._unions_given = self._unions_given, []
        for batch in given:
            if not self._give(batch):
                self._ground.storing += 1
                batch.done(self.broken)

    def append(self, commit: Commit, then: Then, /, *, strict: bool) -> bool:
        """As `commits.Journal.append`."""
        batch = Batch(lambda error: self._come_back(lambda: self._settle(commit, batch, then, error)))
        has_to_wait = self._translate(commit, batch, strict=strict)
        before = None if commit.after is None else commit.after.batch
        if batch.is_empty and not has_to_wait and before is None:
            return False
        batch.after = before
        if self.broken is None and self._hand_over(batch):
            commit.batch = batch
            return True
        assert self.broken is not None
        if strict:
            raise self.unions.refusal(self.broken)
        self._give_up(commit)
        if then is not None:
            then(self.broken)
        return True

    def _hand_over(self, batch: Batch) -> bool:
        """Give it to the store, after what has come together: order is order. False as of `_give`."""
        self._hand_over_union()
        return self._give(batch)

    def _give(self, batch: Batch) -> bool:
        """Give it to the store; False if that takes nothing, and so is broken: a fork of its owner, say."""
        try:
            self._store.append(batch)
        except StoreError as error:
            self._note(error)
            return False
        self._ground.storing += 1
        return True

    def _give_up(self, commit: Commit) -> None:
        for change in commit.changes:
            if isinstance(change, SetTimer):
                self.timers.discard(change.id)
                self._setting.pop(change.id, None)
        self._ground.ledger.give_up(commit, again=self._ground.now() + REST)

    def write(self, batch_of: Callable[[Batch], None], then: Then = None) -> None:
        """Write something that is not of a commit; nothing if the store is broken: then nothing is told either."""
        batch = Batch(lambda error: self._come_back(lambda: self._end(batch, then, error)))
        batch_of(batch)
        if self.broken is None and not batch.is_empty:
            self._hand_over(batch)

    def read(self, mailbox: Mailbox, /) -> None:
        """As `commits.Journal.read`."""
        shelf = mailbox.shelf
        assert shelf is not None
        limit = int(min(shelf.window, 1 << 20))
        first, last = shelf.horizon + 1, shelf.last

        def done(rows: list[Row] | StoreError) -> None:
            self._come_back(lambda: self._load(mailbox, shelf, rows, limit))

        if self.broken is not None:
            return
        self._hand_over_union()
        try:
            self._store.read(first, last, limit=limit, done=done)
        except StoreError as error:
            self._note(error)
        else:
            self._ground.storing += 1

    def mark(self, mailbox: Mailbox, entry: Entry, /) -> None:
        """As `commits.Journal.mark`."""
        trial = Trial(entry.failures, entry.handouts, redelivered=entry.redelivered, marked=True)

        def then(error: StoreError | None) -> None:
            if error is not None:
                self.rest(mailbox)
            self._ground.ledger.marked(mailbox, entry, is_written=error is None)

        self.write(lambda batch: batch.trials.append((entry.number, trial)), then)

    def unmark(self, entry: Entry, /) -> None:
        """As `commits.Journal.unmark`."""
        trial = Trial(entry.failures, entry.handouts, redelivered=entry.redelivered)
        self.write(lambda batch: batch.trials.append((entry.number, trial)))

    def keep(self, kind: str, key: str, value: bytes | None) -> None:
        """Keep a value that no commit is about."""
        self.write(lambda batch: batch.kept.append((kind, key, value)))

    def change_timer(self, timer: int, message: Message, due: float | None, *, on_wall: bool = False) -> None:
        """Store when a deferred message is due now, or that it will not be; `due` as its timer has it."""
        if timer not in self.timers:
            return
        if due is None:
            self.timers.discard(timer)
            self.write(lambda batch: batch.timers.append((timer, None)))
        else:
            record = self._deferred(message, due, on_wall=on_wall)
            self.write(lambda batch: batch.timers.append((timer, record)))

    def cancel_early(self, timer: int) -> bool:
        """Cancel a deferred message that is still on its way to the store; False if there is none of this id."""
        if self._setting.get(timer, True):
            return False
        self._setting[timer] = True
        return True

    def adopt_timer(self, timer: Timer) -> None:
        """Store a deferred message that has been in memory only."""
        if self.is_lasting(timer.action):
            try:
                record = self._deferred(timer.action, timer.due, on_wall=timer.on_wall)
            except Unencodable as error:
                self._ground.log.error("%s; it is kept in memory only", error)  # noqa: TRY400 - it says all
                return
            self.timers.add(timer.id)
            self.write(lambda batch: batch.timers.append((timer.id, record)))

    def _deferred(self, message: Message, due: float, *, on_wall: bool) -> bytes:
        offset = self._ground.wall_offset
        return self.recording.encode_deferred(message, due if on_wall else due + offset, on_wall=on_wall, wall_offset=offset)

    def _translate(self, commit: Commit, batch: Batch, *, strict: bool) -> bool:
        """Put into a batch what is stored of a commit; True if it has to wait for others in any case: order is order."""
        has_to_wait = False
        entering: dict[Mailbox, int] = {}
        for change in commit.changes:
            match change:
                case Enter(mailbox, item, is_shelved):
                    entering[mailbox] = entering.get(mailbox, 0) + 1
                    if mailbox.arriving > entering[mailbox] or (mailbox.shelf is not None and self.broken is not None):
                        has_to_wait = True
                    if isinstance(item, Entry) and item.number:
                        try:
                            self._put(batch, mailbox, item, is_shelved=is_shelved)
                        except Unencodable as error:
                            if strict and not item.message.properties.deaths:
                                raise
                            self._keep_in_memory(item, error)
                case End(mailbox, entry) if entry.number:
                    if not mailbox.deleted:  # Its rows go with it, once and for all.
                        batch.drops.append(entry.number)
                case Return(_, entry, was, failures, handouts) if entry.number:
                    if was is State.LEASED and (failures, handouts) != (entry.failures, entry.handouts):
                        batch.trials.append((entry.number, Trial(failures, handouts, marked=True)))
                case Delay(_, entry, due, failures, handouts) if entry.number:
                    trial = Trial(failures, handouts, due=due + self._ground.wall_offset)
                    batch.trials.append((entry.number, trial))
                case SetTimer(defer, number):
                    if self.is_lasting(defer.action.message):
                        record = self._deferred(defer.action.message, defer.due, on_wall=defer.on_wall)
                        batch.timers.append((number, record))
                        self.timers.add(number)
                        self._setting[number] = False
                case Forget(number):
                    if number in self.timers:
                        batch.timers.append((number, None))
                case Sweep(_, first, last):
                    batch.sweeps.append((first, last))
                case Save(owner, state):
                    batch.kept.append((*key_of(owner), state))
                case Keep(kind, key, value):
                    batch.kept.append((kind, key, value))
                case End() | EndPlain() | Return() | Delay() | LeaveOut():
                    pass
        return has_to_wait

    def _put(self, batch: Batch, mailbox: Mailbox, entry: Entry, *, is_shelved: bool) -> None:
        offset = self._ground.wall_offset
        number = entry.number
        batch.puts.append((number, self.recording.encode(entry.message, entry.since + offset, mailbox, offset)))
        if not is_shelved:
            line = number >> PLACE_BITS
            batch.marks[line] = max(place_of(number), batch.marks.get(line, 0))

    def _keep_in_memory(self, entry: Entry, error: Unencodable) -> None:
        """Let a copy enter that nobody can be told about: it is lost with the process, not now."""
        self._ground.log.error("%s; message %s is kept in memory only", error, entry.message.id)
        entry.number = 0

    def is_lasting(self, message: Message) -> bool:
        """A deferred message is stored, unless it goes to an exchange, or straight to a mailbox, that is not durable."""
        if message.exchange:
            exchange = self._ground.router.find_exchange(message.exchange)
            return exchange is None or exchange.durable is not False
        mailbox = self._ground.router.find_mailbox(message.key)
        return mailbox is None or mailbox.shelf is not None

    # And back

    def _come_back(self, what: Callable[[], None]) -> None:
        """Let something be done in the mesh's thread, soon; called in any thread."""
        self._returned.append(what)
        if not self._is_called:
            self._is_called = True
            self._ground.parking.call_soon(self._carry_on_here)

    def _begin_union(self) -> None:
        """Have what has come together handed over, once all that can come at this moment has."""
        # Two turns of the loop: in the first the senders have theirs, in the second those who handle what came before.
        self._patience = PATIENCE
        self._ground.parking.call_next(lambda: self._ground.parking.call_next(self._hand_over_due))

    def _hand_over_due(self) -> None:
        if not self.unions.is_due:
            return
        if self._patience and self._is_busy():
            # A handler's turn may end early; if what it leaves were always left for the next union, it would become a tail.
            self._patience -= 1
            self._ground.parking.call_next(self._hand_over_due)
        else:
            self._hand_over_union()

    def _carry_on_here(self) -> None:
        """Carry on in the mesh's context: this one may be that of the store's thread.

        In no task: one of the mesh's would end with it, and handlers may wait for what is still to come back.
        """
        self._context.run(self._carry_on)

    async def until_written(self) -> None:
        """Wait until everything that was handed over has come back.

        Cancellation: none.
        """
        if self._ground.storing:
            await self._ground.parking.outwait(self._written, lambda: not self._ground.storing)

    def _carry_on(self) -> None:
        """Do what came back, in its order."""
        self._is_called = False
        self._ground.new_turn()
        while self._returned:
            action = self._returned.popleft()
            self._ground.storing -= 1
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - a bug of ours, which nobody else would hear of; the rest goes on
                self._ground.fail(error)
        # Those who have been woken have not had a turn yet: each sends at most once before it waits again.
        self._ground.new_turn()
        self._ground.budget += self.unions.woken
        self.unions.woken = 0
        if self.unions.is_due:
            self._begin_union()
        if self._reader is not None:
            self._ground.parking.wake(self._reader)
        self._ground.look_idle()
        if not self._ground.storing:
            self._ground.parking.wake(self._written)

    async def until_read(self, mailboxes: Iterable[Mailbox]) -> None:
        """Wait until what comes first of each mailbox has been read: a window; of one without a limit in memory, all.

        Cancellation: none.
        """
        shelves = [mailbox.shelf for mailbox in mailboxes]
        left = [(shelf, shelf.horizon) for shelf in shelves if shelf is not None and shelf.is_reading]

        def is_over() -> bool:
            while left and self.broken is None:
                shelf, horizon = left[-1]
                if shelf.tail if shelf.window == math.inf else shelf.is_reading and shelf.horizon == horizon:
                    return False
                left.pop()
            return True

        if left:
            self._reader = Waiter()
            await self._ground.parking.outwait(self._reader, is_over)
            self._reader = None

    def _settle(self, commit: Commit, batch: Batch, then: Then, error: StoreError | None) -> None:
        commit.batch = commit.after = None
        if error is None:
            self._ground.ledger.apply(commit, self._ground.now())
            for change in commit.changes:
                if isinstance(change, Forget):
                    self.timers.discard(change.timer)
                elif isinstance(change, SetTimer) and self._setting.pop(change.id, False):
                    timer = self._ground.ledger.timers.find(change.id)
                    assert timer is not None
                    self.change_timer(timer.id, timer.action, None)
                    self._ground.ledger.timers.cancel(timer)
        else:
            self._give_up(commit)
        self._end(batch, then, error)

    def _end(self, batch: Batch, then: Then, error: StoreError | None) -> None:
        batch.after = None  # Or all that ever were would hang on one another,
        batch.done = _forget  # and each on itself, with all that came in it, until the garbage collector comes.
        if error is not None:
            self._note(error)
        elif self.is_full and batch.grows:
            self.is_full = False
            self._ground.log.warning("the store has room again: it takes what is new")
        if then is not None:
            then(error)

    def _note(self, error: StoreError) -> None:
        if isinstance(error, StoreFull):
            if not self.is_full:
                self.is_full = True
                self._ground.log.error("%s; what ends is still written, what is new is refused until there is room", error)
            return
        if self.broken is None:
            self.broken = error
            self._ground.log.critical(
                "%s; nothing more is confirmed or handed out of durable mailboxes until the mesh is started anew", error
            )
            for mailbox in (*self._ground.router.mailboxes.values(), self._ground.ledger.dead_letters):
                if mailbox.shelf is not None:
                    mailbox.shelf.is_closed = True
                    mailbox.is_open = False
                    mailbox.refresh()
            self._note_broken()

    def rest(self, mailbox: Mailbox, /) -> None:
        """As `commits.Journal.rest`."""
        shelf = mailbox.shelf
        if shelf is None or shelf.is_resting:
            return
        shelf.is_resting = True
        ledger = self._ground.ledger

        def go_on(_now: float) -> None:
            shelf.is_resting = False
            ledger.unblock(mailbox)

        ledger.timers.set(self._ground.now() + REST, go_on)

    def _load(self, mailbox: Mailbox, shelf: Shelf, rows: list[Row] | StoreError, limit: int) -> None:
        if mailbox.shelf is not shelf:
            shelf.is_reading = False
            return
        if isinstance(rows, StoreError):
            shelf.is_reading = False
            self._note(rows)
            return
        now, offset = self._ground.now(), self._ground.wall_offset
        loaded: list[tuple[Entry, float | None]] = []
        unusable = 0
        for row in rows:
            try:
                entry = self.recording.decode(row.record, mailbox, offset)
            except StoreCorrupt as error:  # The store says that it is what was written: a newer version has.
                self._ground.log.error("mailbox %r: %s; it stays in the store", mailbox.name, error)  # noqa: TRY400 - it says all
                unusable += 1
                continue
            entry.number = row.number
            entry.place = place_of(row.number)
            due = None
            trial = row.trial
            if trial is not None:
                entry.failures, entry.handouts = trial.failures, trial.handouts + trial.marked
                entry.redelivered = trial.redelivered
                entry.alone = SUSPECT if trial.marked else MARK_ALONE
                due = None if trial.due is None else trial.due - offset
            elif mailbox.marks_each:
                entry.alone = MARK_ALONE
            elif shelf.is_suspect(row.number):
                entry.handouts, entry.redelivered, entry.alone = 1, True, SUSPECT
            if entry.handouts >= mailbox.options.max_deliveries:
                self._ground.log.error(
                    "message %s of mailbox %r has been handed out %d times without a verdict, and may be what its process died "
                    "of: it is a dead letter",
                    entry.message.id,
                    mailbox.name,
                    entry.handouts,
                )
            loaded.append((entry, due))
        through = rows[-1].number if rows else 0
        is_last = len(rows) < limit
        if is_last and not (mailbox.deleted or shelf.discards):
            self.quarantined += max(0, shelf.tail - len(rows))
        self._ground.ledger.load(mailbox, loaded, now, through=through, unusable=unusable, is_last=is_last)

    # The end

    def write_rest(self) -> None:
        """Write that nothing is in anybody's hands any more: the mesh has come to rest."""
        ground = self._ground

        def fill(batch: Batch) -> None:
            for mailbox in (*ground.router.mailboxes.values(), ground.ledger.dead_letters):
                shelf = mailbox.shelf
                if shelf is None:
                    continue
                for entry in mailbox.entries():
                    is_news = entry.redelivered if not entry.alone else entry.alone != MARK_ALONE
                    if entry.number and is_news:
                        batch.trials.append((entry.number, Trial(entry.failures, entry.handouts, entry.redelivered)))
                for entry in shelf.pulled:  # It is not settled, and will be handed out again.
                    batch.trials.append((entry.number, Trial(entry.failures, entry.handouts)))
                batch.marks.update(shelf.marks_at_rest())

        self.write(fill)


def _forget(_error: StoreError | None) -> None:
    """Take no news: it has been told."""
