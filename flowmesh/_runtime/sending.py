"""Sending: from what a publisher gives to copies in mailboxes, on the careful path.

The handles try the fast path themselves (a plain message, room everywhere, nobody waiting) and come here with the rest:
options, full mailboxes, a mesh that drains.  Whatever happens, a message enters all of its mailboxes in one commit or none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from typing import Any, Final

from flowmesh._core.commits import Defer, Publish, PublishDue
from flowmesh._core.entry import Entry
from flowmesh._core.exchanges import Exchange
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.composing import check_key, compose, due_time, origin_of
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.room import Room
from flowmesh._runtime.worker import current_worker
from flowmesh.errors import AccessRefused, NotFound, Unroutable
from flowmesh.message import PLAIN, Message, Receipt

__all__ = ["Sending", "parent_of_turn"]

_NUMBERS: Final = (float, int)
_PLAIN: Final = frozenset({"delay", "mandatory"})
"""The options that leave nothing on a deferred message: whether it is routed shows when it is due, mandatory or not."""
_RUNNING: Final = Phase.RUNNING  # an Enum's members cost a look-up each


def parent_of_turn() -> Message | None:
    """Return the message whose turn this code is part of, or None."""
    worker = current_worker.get()
    return None if worker is None else worker.message


class Sending:
    """The careful path of every send of one mesh."""

    def __init__(self, ground: Ground, room: Room) -> None:
        self._ground = ground
        self._ledger = ground.ledger
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
        if "delay" in options and options.keys() <= _PLAIN:  # its turn was over, then; now it is not
            receipt = self.defer_plain(exchange, body, check_key(key), options["delay"])
            if receipt is not None:
                return receipt
        self._ground.budget -= 1
        message = self.compose(exchange, body, key, options)
        deferred = self._defer(exchange, message, options)
        if deferred is not None:
            return deferred
        return (await self.enter(exchange, [message], mandatory=bool(options.get("mandatory"))))[0]

    def send_nowait(self, exchange: Exchange, body: Any, key: str, options: Mapping[str, Any]) -> Receipt:
        """Publish one message at once.

        Raises:
            MailboxFull: where the awaited form would wait.
        """
        message = self.compose(exchange, body, key, options)
        deferred = self._defer(exchange, message, options)
        if deferred is not None:
            return deferred
        mailboxes = self._route(exchange, message, mandatory=bool(options.get("mandatory")))
        self._ground.budget -= 1
        return self._commit(exchange, [Publish(message, mailboxes, nowait=True)])[0]

    def defer_plain(self, exchange: Exchange, body: Any, key: str, delay: Any) -> Receipt | None:
        """Defer a message that has no option but its delay: a timer, and no commit; None if it needs care.

        Needs care: a delay that is none, a sender whose turn is over, an exchange or a mesh that may refuse it, observers and
        traces.
        """
        ground = self._ground
        now = ground.now()
        worker = current_worker.get()
        parent = None if worker is None else worker.message
        if (
            type(delay) not in _NUMBERS
            or not 0 <= delay < math.inf
            or ground.phase is not _RUNNING
            or get_ident() != ground.thread
            or ground.budget <= 0
            or now >= ground.turn_ends
            or (parent is not None and parent.properties is not PLAIN)
            or exchange.internal
            or exchange.deleted
            or self._ledger.on_applied is not None
            or ground.tracing is not None
        ):
            return None
        ground.budget -= 1
        prefix, serial = ground.prefix, next(ground.serials)
        origin = None if parent is None else origin_of(parent, prefix)
        timer = self._ledger.timers.set(
            now + delay, Message(prefix, serial, body, exchange.name, key, now + ground.wall_offset, origin)
        )
        return Receipt(prefix, serial, 0, 0, "none", str(timer.id))

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
            receipts = (self._defer(exchange, message, options) for message in messages)
            return [receipt for receipt in receipts if receipt is not None]
        return await self.enter(exchange, messages, mandatory=bool(options.get("mandatory")))

    async def enter(
        self,
        exchange: Exchange,
        messages: Sequence[Message],
        *,
        mandatory: bool,
        make_entry: Callable[[Message], Entry] | None = None,
    ) -> list[Receipt]:
        """Wait at each full mailbox once, one line after another by mailbox number, then let all copies in at once.

        Raises:
            Unroutable: a mandatory message has no mailbox.
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
            return self._commit(exchange, publishes)
        finally:
            for box in passed:
                self._room.look_again(box)
            if passed:
                self._ground.look_idle()

    async def _take_turn(self) -> None:
        """Refuse a send that cannot be; let the others run if this sender's turn is over."""
        ground = self._ground
        ground.check_sender()
        if ground.budget <= 0 or ground.now() >= ground.turn_ends:
            await ground.breathe()
            ground.check_sender()

    def _commit(self, exchange: Exchange, publishes: Sequence[Publish]) -> list[Receipt]:
        ground = self._ground
        commit = ground.ledger.commit(*publishes, now=ground.now())
        if commit.notes:
            ground.tell(commit)
        receipts: list[Receipt] = []
        for publish, (routed, dropped) in zip(publishes, commit.counts, strict=True):
            message = publish.message
            if not publish.mailboxes:
                ground.note_unroutable(exchange.name, message.key, message.id)
            receipts.append(Receipt(message.prefix, message.serial, routed, dropped))
        return receipts

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

    def _defer(self, exchange: Exchange, message: Message, options: Mapping[str, Any]) -> Receipt | None:
        ground = self._ground
        now = ground.now()
        due = due_time(ground, options, now)
        if due is None:
            return None
        action = PublishDue(exchange, message, message.properties.ttl)
        commit = ground.ledger.commit(Defer(action, due[0], on_wall=due[1]), now=now)
        return Receipt(message.prefix, message.serial, 0, timer=str(commit.timers[0]))


def _restamped(publish: Publish, waited: float) -> Publish:
    """Count a message's ttl from now on: it enters only now."""
    message = publish.message
    if message.properties.expires is None:
        return publish
    message = message.with_properties(expires=message.properties.expires + waited)
    return Publish(message, publish.mailboxes, make_entry=publish.make_entry)
