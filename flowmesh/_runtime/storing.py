"""The store of a mesh: opened when it starts, its contents taken up, and closed when it has come to rest.

A mailbox is durable when the mesh has a store, unless its options say otherwise; it is known in the store by its name.  What is
in the store is taken up when a mailbox of that name is declared; until then it is kept, and shown.
"""

import contextlib

import anyio.lowlevel

from flowmesh._core.commits import Publish
from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.records import MAX_MAILBOXES, Batch, Contents, lines_of
from flowmesh._core.shelf import WINDOW, Shelf
from flowmesh._core.timers import Timer
from flowmesh._runtime.calling import call_in_thread
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.journal import Journal
from flowmesh._runtime.owners import SAVED, SAVED_OF, owner_of
from flowmesh._runtime.recording import Recording
from flowmesh._runtime.statistics import StoreStatistics
from flowmesh._runtime.turns import Turns
from flowmesh._runtime.unions import Unions
from flowmesh.errors import NotRunning, PreconditionFailed, StoreCorrupt
from flowmesh.message import Message
from flowmesh.ports import Store

__all__ = ["Storing"]


class Storing:
    """What a mesh knows of its store.

    `store` may be set until it starts. `journal`: the way to it while it runs; `unions`: the short one, while it works.
    `unclaimed`: copies of mailboxes that nothing declares, by name. `window`: copies of a mailbox in memory.
    """

    def __init__(self, ground: Ground, recording: Recording, turns: Turns) -> None:
        self._ground = ground
        self._turns = turns
        self.unions: Unions | None = None
        self.recording = recording
        self.store: Store | None = None
        self.journal: Journal | None = None
        self._contents = Contents({}, {}, {}, 0, {})
        self._last_number = 0
        self._left: dict[Mailbox, list[Message]] = {}
        self.unclaimed: dict[str, int] = {}
        self.window: float = WINDOW
        self._is_open = False
        self._stored_timers: set[int] = set()  # those that were stored when an earlier run ended
        self._forgotten: set[str] = set()  # mailboxes that were deleted between two runs

    async def open(self) -> None:
        """Take possession of the store.

        Cancellation: it is opened or not; `close` may be called in any case.

        Raises:
            PreconditionFailed: a mailbox, or an exchange, must be durable, and there is no store.
            StoreError: it cannot be opened; the reason is named.
        """
        store, mailboxes = self.store, self._ground.router.mailboxes.values()
        if store is None:
            for mailbox in mailboxes:
                self._check_store("mailbox", mailbox.name, durable=mailbox.options.durable)
            for exchange in self._ground.router.exchanges.values():
                self._check_store("exchange", exchange.name, durable=exchange.durable)
            return
        self._contents = await call_in_thread(store.open)
        self._is_open = True
        last = max(self._contents.mailboxes.values(), default=0)
        new = [box.name for box in mailboxes if box.options.durable is not False and box.name not in self._contents.mailboxes]
        if new and last + len(new) + 1 > MAX_MAILBOXES:
            raise self._too_many(new[-1])
        await anyio.lowlevel.checkpoint_if_cancelled()

    def _check_store(self, kind: str, name: str, *, durable: bool | None) -> None:
        if durable and self.store is None:
            raise PreconditionFailed(
                f"{kind} {name!r} is declared durable, and {self._ground.label} has no store: give it one, "
                "Mesh(..., store='some.db'), or leave durable= out"
            )

    def check_exchange(self, name: str, *, durable: bool | None) -> None:
        """Refuse an exchange that is declared while the mesh runs, and must be durable, if there is no store.

        Raises:
            PreconditionFailed: naming it.
        """
        if self._ground.thread is not None:
            self._check_store("exchange", name, durable=durable)

    def take_up(self) -> None:
        """Go on with what is stored; the mesh is about to run."""
        ground, contents = self._ground, self._contents
        ledger = ground.ledger
        ground.storing = 0
        every = [ledger.dead_letters, *ground.router.mailboxes.values()]
        if self.store is None:
            for mailbox in every:  # An earlier run may have had one, which has kept what was in it.
                self._convert(mailbox, None)
            self._publish_left()
            return
        self.recording.forget_types()
        ground.durability = self.store.durability
        journal = Journal(
            ground,
            self.store,
            self.recording,
            undo=self._turns.undo_ack,
            reopen=self._turns.reopen,
            is_busy=lambda: len(self._turns.ready) > 0,
            note_broken=self._forget_unions,
        )
        self.journal = ledger.journal = journal
        self.unions = self._turns.unions = journal.unions
        self._last_number = max(contents.mailboxes.values(), default=0)
        self._forget_deleted(journal)
        self.unclaimed = {
            name: copies
            for name, number in contents.mailboxes.items()
            if (copies := sum(line.copies for of, line in contents.lines.items() if of in lines_of(number)))
        }
        ledger.kept = dict(contents.kept)
        contents.kept.clear()
        for which in [which for which in ledger.kept if which[0] in (SAVED, SAVED_OF)]:
            with contextlib.suppress(ValueError):  # A newer version knows whose it is.
                owner = owner_of(*which)
                ledger.saved[owner] = ledger.kept.pop(which)
        self._take_up_timers(journal)
        for mailbox in every:
            self._convert(mailbox, None if mailbox.options.durable is False else self._shelf_of(mailbox, journal))
        self._publish_left()
        for name, copies in self.unclaimed.items():
            ground.log.warning(
                "the store holds %d messages of mailbox %r, which nothing has declared durable: they are kept; declare it to "
                "have them handled",
                copies,
                name,
            )

    def _forget_unions(self) -> None:
        self.unions = self._turns.unions = None

    def _publish_left(self) -> None:
        """Let what was only in memory enter anew, where it is stored from now on, or no longer."""
        for mailbox, messages in self._left.items():
            for message in messages:
                self._ground.ledger.commit(Publish(message, (mailbox,), moved=True), now=self._ground.now())
        self._left.clear()

    def _forget_deleted(self, journal: Journal) -> None:
        for name in self._forgotten:
            number = self._contents.mailboxes.pop(name, None)
            if number is not None:
                journal.write(lambda batch, number=number: batch.mailboxes.append((number, None)))
        self._forgotten.clear()

    def _take_up_timers(self, journal: Journal) -> None:
        timers, ground = self._ground.ledger.timers, self._ground
        timers.begin_after(self._contents.last_timer)
        ground.serials = timers.numbers
        only_here: list[Timer] = []
        for timer in [timer for timer in timers if isinstance(timer.action, Message)]:
            if timer.id in self._stored_timers:  # What is stored says all.
                timers.cancel(timer)
            elif timer.id in self._contents.timers:
                only_here.append(timers.set(timer.due, timer.action, on_wall=timer.on_wall))
                timers.cancel(timer)
            else:
                only_here.append(timer)
        self._stored_timers.clear()
        for number, record in sorted(self._contents.timers.items()):
            try:
                message, due, on_wall = self.recording.decode_deferred(record, ground.wall_offset)
            except StoreCorrupt as error:
                ground.log.error("timer %d: %s; it stays in the store", number, error)  # noqa: TRY400 - it says all
                continue
            timers.set(due if on_wall else due - ground.wall_offset, message, on_wall=on_wall, number=number)
            journal.timers.add(number)
        for timer in only_here:
            journal.adopt_timer(timer)

    def adopt(self, mailbox: Mailbox) -> None:
        """Let a mailbox that is declared while the mesh runs have what is stored of it.

        Raises:
            PreconditionFailed: it must be durable, and there is no store.
        """
        if self._ground.thread is None:
            return
        self._check_store("mailbox", mailbox.name, durable=mailbox.options.durable)
        if self.journal is not None and mailbox.shelf is None and mailbox.options.durable is not False:
            self._convert(mailbox, self._shelf_of(mailbox, self.journal))
            self._ground.ledger.replenish(mailbox)

    def _convert(self, mailbox: Mailbox, shelf: Shelf | None) -> None:
        """Let a mailbox begin with what is stored of it, or with nothing stored; what was only in memory enters anew."""
        if mailbox.shelf is None and shelf is None:
            return
        self._ground.leases -= 0 if mailbox.shelf is None else len(mailbox.shelf.pulled)
        left = [item for item in mailbox.unload() if not (isinstance(item, Entry) and item.number)]
        mailbox.shelf = shelf
        if shelf is not None:
            mailbox.entered += shelf.tail
        mailbox.refresh()
        if left:
            self._left[mailbox] = [item.message if isinstance(item, Entry) else item for item in left]

    @staticmethod
    def _too_many(name: str) -> PreconditionFailed:
        return PreconditionFailed(
            f"mailbox {name!r} cannot be durable: a store numbers {MAX_MAILBOXES} mailboxes in its life; declare short-lived "
            "ones with MailboxOptions(durable=False)"
        )

    def _shelf_of(self, mailbox: Mailbox, journal: Journal) -> Shelf:
        number = self._contents.mailboxes.get(mailbox.name)
        self.unclaimed.pop(mailbox.name, None)
        is_new = number is None
        if number is None:
            if self._last_number >= MAX_MAILBOXES:
                raise self._too_many(mailbox.name)
            number = self._last_number = self._last_number + 1
            self._contents.mailboxes[mailbox.name] = number
        is_looked_through = mailbox is self._ground.ledger.dead_letters
        shelf = Shelf.unlimited(number) if is_looked_through else Shelf(number, window=self.window)
        if is_new:
            named = (number, mailbox.name)
            journal.write(lambda batch: batch.mailboxes.append(named))
            return shelf
        for of, line in self._contents.lines.items():
            if of in lines_of(number):
                shelf.placed[of] = line.placed
                shelf.suspects[of] = line.marked
                shelf.tail += line.copies
        return shelf

    async def start_reading(self) -> None:
        """Read what comes first of every mailbox, and all dead letters, which are looked through, and wait for it.

        Cancellation: none.
        """
        ledger = self._ground.ledger
        if self.journal is not None:
            mailboxes = [ledger.dead_letters, *self._ground.router.mailboxes.values()]
            for mailbox in mailboxes:
                ledger.replenish(mailbox)
            await self.journal.until_read(mailboxes)

    def check_open(self, what: str) -> None:
        """Refuse to change what is stored while the store is closed: it would be there again.

        Raises:
            NotRunning: naming `what` it is.
        """
        if self.store is not None and self.journal is None:
            ground = self._ground
            raise NotRunning(f"{ground.label} {ground.phase.value}, and {what} is in its store: do it inside 'async with mesh'")

    def cancel_early(self, timer: int) -> bool:
        """Cancel a deferred message that is on its way to the store; False if there is none of this id."""
        return self.journal is not None and self.journal.cancel_early(timer)

    def change_timer(self, timer: Timer, due: tuple[float, bool] | None) -> None:
        """Store when a deferred message is due now (as `due_time` says it), or that it will not be."""
        if self.journal is not None:
            on_wall = due is not None and due[1]
            self.journal.change_timer(timer.id, timer.action, None if due is None else due[0], on_wall=on_wall)

    def forget(self, mailbox: Mailbox) -> None:
        """Forget a mailbox that has been deleted, with all that is stored of it."""
        shelf = mailbox.shelf
        if self.store is not None and self.journal is None:
            self._forgotten.add(mailbox.name)
        if self.journal is not None and shelf is not None:
            number = shelf.number
            self._contents.mailboxes.pop(mailbox.name, None)

            def fill(batch: Batch) -> None:
                batch.mailboxes.append((number, None))

            self.journal.write(fill)

    async def until_written(self) -> None:
        """Wait until what was handed over has come back.

        Cancellation: none.
        """
        if self.journal is not None:
            await self.journal.until_written()

    async def close(self) -> None:
        """Write that nothing is in anybody's hands any more, and let go of the store. Nothing if it is not open.

        Cancellation: none.
        """
        if self.journal is not None:
            self.journal.write_rest()
            await self.journal.until_written()
            self._stored_timers = self.journal.timers
        self._ground.ledger.journal = self.journal = None
        self._forget_unions()
        self._ground.durability = "none"
        if self._is_open and self.store is not None:
            self._is_open = False
            await call_in_thread(self.store.close)

    def statistics(self) -> StoreStatistics | None:
        """Return the numbers of this moment; None without a store."""
        if self.store is None:
            return None
        return StoreStatistics(
            durability=self.store.durability,
            in_flight=self._ground.storing,
            is_broken=self.journal is not None and self.journal.broken is not None,
            unclaimed=dict(self.unclaimed),
            quarantined=self._contents.quarantined + (0 if self.journal is None else self.journal.quarantined),
        )
