"""Sending: from what a publisher gives to copies in mailboxes, on the careful path.

The handles try the fast path themselves (a plain message, room everywhere, nobody waiting) and come here with the rest:
options, full mailboxes, a mesh that drains.  Whatever happens, a message enters all of its mailboxes in one commit or none.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from threading import get_ident
from typing import Any, Final, NamedTuple, get_args

from msgspec.structs import replace

from flowmesh._core.commits import Commit, Defer, Publish, PublishDue
from flowmesh._core.entry import Entry
from flowmesh._core.exchanges import Exchange
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.composing import check_key, compose, due_time, origin_of
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.handover import Handover
from flowmesh._runtime.room import Room
from flowmesh._runtime.worker import current_worker
from flowmesh.errors import AccessRefused, DurabilityUnavailable, NotFound, Unroutable
from flowmesh.message import PLAIN, Durability, Message, Receipt

__all__ = ["Sending", "parent_of_turn"]


class Sent(NamedTuple):
    """What was committed: receipts, and if something of it is stored, what to wait for, and what each survives then."""

    receipts: list[Receipt]
    handover: Handover | None = None
    levels: Sequence[Durability] = ()


_PLAIN: Final = frozenset({"delay", "mandatory"})
"""The options that leave nothing on a deferred message: whether it is routed shows when it is due, mandatory or not."""
_LEVELS: Final[tuple[Durability, ...]] = get_args(Durability)
"""From the weakest to the strongest."""


def parent_of_turn() -> Message | None:
    """Return the message whose turn this code is part of, or None."""
    worker = current_worker.get()
    return None if worker is None else worker.message


class Sending:
    """The careful path of every send of one mesh."""

    def __init__(self, ground: Ground, room: Room) -> None:
        self._ground = ground
        self._ledger = ground.ledger
        self._timers = ground.ledger.timers
        self._room = room

    def compose(self, exchange: Exchange, body: Any, key: str, options: Mapping[str, Any]) -> Message:
        """Return the message, once it is certain that this mesh takes messages for this exchange."""
        ground = self._ground
        ground.check_sender()
        if exchange.deleted:
            raise NotFound(f"exchange {exchange.name!r} has been deleted: declare it again")
        if exchange.internal:
            raise AccessRefused(f"exchange {exchange.name!r} is internal: publish to an exchange that is bound to it")
        return compose(
            ground, body, exchange=exchange.name, key=key, options=options, parent=parent_of_turn(), now=ground.now()
        )

    async def send(self, exchange: Exchange, body: Any, key: str, options: Mapping[str, Any]) -> Receipt:
        """Publish one message, waiting for room where it must.

        Cancellation: before the message has entered; then no mailbox has a copy.
        """
        await self._take_turn()
        if "delay" in options and options.keys() <= _PLAIN and not (exchange.internal or exchange.deleted):
            # Its sender's turn was over, then; now it is not.
            receipt = self.defer_plain(exchange.name, body, check_key(key), options["delay"])
            if receipt is not None:
                return receipt
        self._ground.budget -= 1
        message = self.compose(exchange, body, key, options)
        deferred = self._defer([message], options)
        if deferred is not None:
            return (await self._confirmed(deferred))[0]
        entered = await self.enter(
            exchange, [message], mandatory=bool(options.get("mandatory")), require=options.get("require")
        )
        return entered[0]

    def send_nowait(self, exchange: Exchange, body: Any, key: str, options: Mapping[str, Any]) -> Receipt:
        """Publish one message at once. What cannot be written then, is lost and named in the log.

        Raises:
            MailboxFull: where the awaited form would wait.
        """
        message = self.compose(exchange, body, key, options)
        deferred = self._defer([message], options)
        if deferred is not None:
            self._expect([message], deferred)
            return deferred.receipts[0]
        mailboxes = self._route(exchange, message, mandatory=bool(options.get("mandatory")))
        if options.get("require", "none") not in ("none", None):
            raise DurabilityUnavailable(
                f"a _nowait send of message {message.id} returns before it is stored, and cannot promise "
                f"{options['require']!r}: await the send",
                message=message,
            )
        self._ground.budget -= 1
        sent = self._commit(exchange, [Publish(message, mailboxes, nowait=True)])
        self._expect([message], sent)
        return sent.receipts[0]

    def _expect(self, messages: Sequence[Message], sent: "Sent") -> None:
        """Have it logged if what nobody waits for is not written."""
        if sent.handover is not None:
            sent.handover.on_failure = lambda error: self._ground.log.error(
                "message %s was sent without waiting, and is lost: %s", messages[0].id, error
            )

    def defer_plain(self, exchange: str, body: Any, key: str, delay: Any) -> Receipt | None:
        """Defer a message that has no option but its delay: a timer, and no commit; None if it needs care.

        Needs care: a delay that is none, a sender whose turn is over or passes something on, a mesh that refuses it or that
        is observed or traced. That the exchange takes it is the caller's to know.
        """
        ground = self._ground
        clock = ground.now
        now = clock()
        if (
            now >= ground.turn_ends
            or ground.budget <= 0
            or (type(delay) is not float and type(delay) is not int)
            or not delay >= 0
            or not ground.defers_plainly
            or get_ident() != ground.thread
        ):
            return None
        worker = current_worker.get()
        if worker is None or worker.message is None:
            origin = None
        elif worker.message.properties is PLAIN:
            origin = origin_of(worker.message, ground.prefix)
        else:
            return None
        timers = self._timers
        try:
            due = now + delay
            bucket = timers.deferring.get(ceil(due * 1000 - 0.001))  # tick_of, without its frame
        except OverflowError:
            return None
        ground.budget -= 1
        prefix, serial = ground.prefix, next(ground.serials)
        message = Message(prefix, serial, body, exchange, key, due, origin)
        if type(bucket) is list:
            bucket.append(message)
        else:
            timers.defer(message)
        return Receipt(prefix, serial, 0, 0, "none", serial)

    async def send_many(
        self, exchange: Exchange, items: Sequence[tuple[Any, str]], options: Mapping[str, Any]
    ) -> list[Receipt]:
        """Publish several messages in one commit.

        Cancellation: before any has entered; then no mailbox has a copy.
        """
        await self._take_turn()
        self._ground.budget -= len(items)
        messages = [self.compose(exchange, body, key, options) for body, key in items]
        if not messages:
            return []
        if options.get("delay") is not None or options.get("at") is not None:
            deferred = self._defer(messages, options)
            assert deferred is not None
            return await self._confirmed(deferred)
        return await self.enter(exchange, messages, mandatory=bool(options.get("mandatory")), require=options.get("require"))

    async def enter(
        self,
        exchange: Exchange,
        messages: Sequence[Message],
        *,
        mandatory: bool,
        require: Durability | None = None,
        make_entry: Callable[[Message], Entry] | None = None,
    ) -> list[Receipt]:
        """Wait at each full mailbox once, one line after another by mailbox number, then let all copies in at once.

        Raises:
            Unroutable: a mandatory message has no mailbox.
            DurabilityUnavailable: one of its mailboxes promises less than is required.
            MailboxFull: a `reject` mailbox is full; asked before and after waiting.
            DeadlockError: waiting for room would close a ring of waits.
            MeshStopped: the mesh began to drain while this send, which is not part of a turn, waited.
        """
        passed: list[Mailbox] = []
        composed = self._ground.now()
        try:
            while True:
                publishes = [
                    Publish(message, self._route(exchange, message, mandatory=mandatory), make_entry=make_entry)
                    for message in messages
                ]
                if require is not None:
                    self._check_durability(publishes, require)
                blocked = {box for publish in publishes for box in publish.mailboxes if box not in passed}
                blocked = {box for box in blocked if self._room.is_blocked(box)}
                if not blocked:
                    break
                self._ground.ledger.ask_all(publishes)
                gate = min(blocked, key=lambda box: box.number)
                for box in passed:
                    self._room.look_again(box)
                await self._room.wait(gate, noted=make_entry is not None)
                passed.append(gate)
            if passed:
                publishes = [_restamped(publish, self._ground.now() - composed) for publish in publishes]
            sent = self._commit(exchange, publishes)
        finally:
            for box in passed:
                self._room.look_again(box)
            if passed:
                self._ground.look_idle()
        return await self._confirmed(sent)

    async def _confirmed(self, sent: "Sent") -> list[Receipt]:
        """Return the receipts, once they say what holds: a commit that was handed over has been written.

        Cancellation: none; what is handed over cannot be taken back.

        Raises:
            StoreError: it has not been written; no mailbox has a copy.
        """
        if sent.handover is None:
            return sent.receipts
        await sent.handover.wait()
        return [replace(receipt, durability=level) for receipt, level in zip(sent.receipts, sent.levels, strict=True)]

    def _check_durability(self, publishes: Sequence[Publish], require: Durability) -> None:
        for publish in publishes:
            for box in publish.mailboxes:
                promised = "none" if box.shelf is None else self._ground.durability
                if _LEVELS.index(promised) < _LEVELS.index(require):
                    is_left_out = box.shelf is None and _LEVELS.index(self._ground.durability) >= _LEVELS.index(require)
                    mend = "declare it without durable=False" if is_left_out else "give the mesh a store of that level"
                    raise DurabilityUnavailable(
                        f"message {publish.message.id} requires {require!r}, and mailbox {box.name!r} promises {promised!r}: "
                        f"no mailbox took a copy; {mend}, or require less",
                        message=publish.message,
                    )

    async def _take_turn(self) -> None:
        """Refuse a send that cannot be; let the others run if this sender's turn is over."""
        ground = self._ground
        ground.check_sender()
        if ground.budget <= 0 or ground.now() >= ground.turn_ends:
            await ground.breathe()
            ground.check_sender()

    def _commit(self, exchange: Exchange, publishes: Sequence[Publish]) -> "Sent":
        ground = self._ground
        handover = None if ground.ledger.journal is None else Handover(ground)
        commit = ground.ledger.commit(*publishes, now=ground.now(), then=handover, strict=True)
        if commit.notes:
            ground.tell(commit)
        receipts: list[Receipt] = []
        for publish, (routed, dropped) in zip(publishes, commit.counts, strict=True):
            message = publish.message
            if not publish.mailboxes:
                ground.note_unroutable(exchange.name, message.key, message.id)
            receipts.append(Receipt(message.prefix, message.serial, routed, dropped))
        if handover is None or handover.is_over:
            return Sent(receipts)
        return Sent(receipts, handover, [self._level(publish, commit) for publish in publishes])

    def _level(self, publish: Publish, commit: Commit) -> Durability:
        """Return what the copies of a publish survive: the weakest of its mailboxes says."""
        if not publish.mailboxes or publish.make_entry is not None:
            return "none"
        return self._ground.durability if all(box.shelf is not None for box in publish.mailboxes) else "none"

    def _route(self, exchange: Exchange, message: Message, *, mandatory: bool) -> tuple[Mailbox, ...]:
        if exchange.deleted:
            raise NotFound(f"exchange {exchange.name!r} was deleted while a send to it waited for room")
        mailboxes = self._ground.router.route(exchange, message.key, message.properties.headers)
        if mailboxes or not mandatory:
            return mailboxes
        exchange.unroutable += 1
        if not exchange.name:
            raise Unroutable(
                f"there is no mailbox {message.key!r}, or it has been deleted: declare it (again)", message=message
            )
        raise Unroutable(
            f"exchange {exchange.name!r} routes key {message.key!r} to no mailbox: bind one, give the exchange an "
            "alternate, or publish without mandatory=True",
            message=message,
        )

    def _defer(self, messages: Sequence[Message], options: Mapping[str, Any]) -> "Sent | None":
        ground = self._ground
        now = ground.now()
        due = due_time(ground, options, now)
        if due is None:
            return None
        require: Durability = options.get("require") or "none"
        journal = ground.ledger.journal
        for message in messages if require != "none" else ():
            survives = ground.durability if journal is not None and journal.is_lasting(message) else "none"
            if _LEVELS.index(survives) < _LEVELS.index(require):
                where = f"exchange {message.exchange!r}" if message.exchange else f"mailbox {message.key!r}"
                is_left_out = _LEVELS.index(ground.durability) >= _LEVELS.index(require)
                mend = "declare that without durable=False" if is_left_out else "give the mesh a store of that level"
                raise DurabilityUnavailable(
                    f"message {message.id} requires {require!r}, and what is deferred to {where} of {ground.label} survives "
                    f"{survives!r}: {mend}, or require less",
                    message=message,
                )
        defers = [
            Defer(
                PublishDue(ground.router.find_exchange(message.exchange), message, message.properties.ttl),
                due[0],
                on_wall=due[1],
            )
            for message in messages
        ]
        handover = None if ground.ledger.journal is None else Handover(ground)
        commit = ground.ledger.commit(*defers, now=now, then=handover, strict=True)
        receipts = [
            Receipt(message.prefix, message.serial, 0, timer_number=timer)
            for message, timer in zip(messages, commit.timers, strict=True)
        ]
        if handover is None or handover.is_over:
            return Sent(receipts)
        return Sent(receipts, handover, [ground.durability for _ in receipts])


def _restamped(publish: Publish, waited: float) -> Publish:
    """Count a message's ttl from now on: it enters only now."""
    message = publish.message
    if message.properties.expires is None:
        return publish
    message = message.with_properties(expires=message.properties.expires + waited)
    return Publish(message, publish.mailboxes, make_entry=publish.make_entry)
