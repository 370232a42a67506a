"""The public Exchange: bind, and publish.

`publish` tries the fast path itself: no options, a cached route, room in every mailbox and nobody waiting there.  It suspends
only when a mailbox is full or the sender's turn (64 sends or 2 ms) is over: an awaited send is not always a checkpoint.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from threading import get_ident
from typing import Any, Literal, Protocol, Unpack

import anyio
from msgspec import Struct

from flowmesh._core.exchanges import Exchange as CoreExchange
from flowmesh._core.mailbox import EMPTY
from flowmesh._core.mailbox import Mailbox as CoreMailbox
from flowmesh._core.router import Router
from flowmesh._runtime.composing import PublishOptions, check_key, origin_of
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.worker import carries_trace, current_worker
from flowmesh.errors import InvalidBinding
from flowmesh.message import PLAIN, Message, Receipt

__all__ = ["Binding", "Destination", "Exchange", "Home"]


class Destination(Protocol):
    """What can be bound to an exchange: a mailbox, an exchange, or an actor (its mailbox)."""

    @property
    def endpoint(self) -> CoreExchange | CoreMailbox:
        """The core's end of the binding."""
        ...


class Home(Protocol):
    """The part that a thing was declared in, which keeps what is bound for the meshes that it is added to."""

    def keep_binding(
        self, source: "Exchange", destination: Any, *, key: str, arguments: Mapping[str, Any] | None, is_undone: bool
    ) -> None:
        """Bind, or unbind, here and wherever the part will be added."""
        ...


class Binding(Struct, frozen=True):
    """A binding without its destination, to hand to `actor(bind=...)`; made by `Exchange.on`."""

    exchange: "Exchange"
    key: str
    arguments: Mapping[str, Any]


class Exchange:
    """An exchange of a mesh; declare it with `mesh.exchange`."""

    __slots__ = ("_engine", "_ground", "core", "home")

    def __init__(self, engine: Engine, core: CoreExchange, home: Home | None = None) -> None:
        self.home = home
        self.attach(engine, core)

    def attach(self, engine: Engine, core: CoreExchange) -> None:
        """Stand for this exchange from now on: its part has been added to a mesh."""
        self._engine = engine
        self._ground = engine.ground
        self.core = core

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r} {self.type}>"

    @property
    def name(self) -> str:
        """Its name; "" is the default exchange."""
        return self.core.name

    @property
    def type(self) -> str:
        """Its type: direct, fanout, topic, headers or hash."""
        return self.core.type

    @property
    def unroutable(self) -> int:
        """How many messages it routed nowhere."""
        return self.core.unroutable

    @property
    def engine(self) -> Engine:
        """The engine that it is in."""
        return self._engine

    @property
    def endpoint(self) -> CoreExchange:
        """The core's end of a binding to it."""
        return self.core

    # Bindings

    def bind(self, destination: Destination, key: str = "", *, arguments: Mapping[str, Any] | None = None) -> None:
        """Route messages whose key (or headers) match to a mailbox, an exchange, or an actor's mailbox. Idempotent.

        Args:
            destination: of the same mesh.
            key: the binding key: exact on direct exchanges, with `*` and `#` on topic exchanges, a weight ("1") on hash
                exchanges, ignored on others.
            arguments: for headers exchanges what to match, with "x-match": "all" (default), "any", "all-with-x",
                "any-with-x"; part of the binding's identity on every exchange.

        Raises:
            InvalidBinding: the destination belongs to another mesh, or the key or the arguments make no sense.
            AccessRefused: this is the default exchange.
            NotFound: one of the two has been deleted.
            ValueError: the key is longer than 255 bytes.
        """
        end, home = self._end(destination), getattr(destination, "home", None) or self.home
        if home is None:
            self._ground.router.bind(self.core, end, check_key(key), arguments)
        else:
            home.keep_binding(self, destination, key=check_key(key), arguments=arguments, is_undone=False)

    def unbind(self, destination: Destination, key: str = "", *, arguments: Mapping[str, Any] | None = None) -> None:
        """Take a binding away; one that is not there is no error.

        Raises:
            AccessRefused: this is the default exchange.
        """
        end, home = self._end(destination), getattr(destination, "home", None) or self.home
        if home is None:
            self._ground.router.unbind(self.core, end, check_key(key), arguments)
        else:
            home.keep_binding(self, destination, key=check_key(key), arguments=arguments, is_undone=True)

    def on(
        self,
        key: str = "",
        *,
        headers: Mapping[str, Any] | None = None,
        match: Literal["all", "any", "all-with-x", "any-with-x"] = "all",
    ) -> Binding:
        """Return a binding without its destination, to hand to `actor(bind=...)`.

        Args:
            key: the binding key.
            headers: for headers exchanges: what to match.
            match: how: "all" of them, or "any"; "-with-x" looks at names that begin with "x-" too.

        Raises:
            InvalidBinding, AccessRefused, ValueError: as `bind`.
        """
        arguments: dict[str, Any] = {}
        if headers is not None:
            arguments = {"x-match": match, **headers}
        elif match != "all":
            raise InvalidBinding("match= says how headers= are matched: give headers= too")
        Router.check_binding(self.core, self.core, key=check_key(key), arguments=arguments)
        return Binding(self, key, arguments)

    def _end(self, destination: Destination) -> CoreExchange | CoreMailbox:
        end = getattr(destination, "endpoint", None)
        if not isinstance(end, CoreExchange | CoreMailbox):
            raise InvalidBinding(f"{destination!r} cannot be bound: bind a Mailbox, an Exchange or an Actor of this mesh")
        return end

    def delete(self, *, if_unused: bool = False) -> None:
        """Delete it with all bindings from and to it; one that is gone is no error.

        Raises:
            PreconditionFailed: `if_unused`, and it has bindings.
            AccessRefused: this is the default exchange.
        """
        self._ground.check_declared(self)
        self._ground.router.delete_exchange(self.core, if_unused=if_unused)
        self._engine.faces.pop(self.core, None)

    # Publishing

    async def publish(self, body: Any, key: str = "", **options: Unpack[PublishOptions]) -> Receipt:
        """Publish a message: one copy into every mailbox that the bindings lead to, or into none.

        Waits in the line of each full `wait` mailbox, once. Suspends only then, or when the sender's turn is over.
        Cancellation: before any copy has entered; once it is handed to the store, none.

        Args:
            body: shared with the receivers, not copied: give a frozen Struct.
            key: the routing key, at most 255 bytes.
            **options: headers, priority, ttl, delay, at, message_id, correlation_id, reply_to (see PublishOptions), and
                mandatory: raise Unroutable when no mailbox is bound; require: "process" or "power", refuse less.

        Returns:
            the receipt: how many mailboxes took a copy or left it out, or the timer of a deferred message.

        Raises:
            MailboxFull: a `reject` mailbox is full; no mailbox took a copy.
            DeadlockError: published in a turn, it would wait for room that only that turn can make.
            Unroutable: mandatory, and nothing is bound.
            Unencodable: a durable mailbox could not give the body back with the type that it has; no mailbox took a copy.
            DurabilityUnavailable: a mailbox promises less than is required; no mailbox took a copy.
            StoreError: it could not be stored; no mailbox took a copy.
            NotRunning, MeshStopped: the mesh takes no messages now.
            AccessRefused: the exchange is internal.
            NotFound: it has been deleted.
            ValueError, TypeError: an option is out of its range, or unknown.
        """
        ground = self._ground
        boxes = self.core.routes.get(key)
        if options or not boxes or get_ident() != ground.thread or self.core.internal:
            core = self.core
            if len(options) == 1 and "delay" in options and not (core.internal or core.deleted):
                receipt = self._engine.sending.defer_plain(core.name, body, check_key(key), options["delay"])
                if receipt is not None:
                    return receipt
            return await self._engine.sending.send(self.core, body, key, options)
        clock = ground.now  # as Actor.tell does
        now = clock()
        if ground.budget <= 0 or now >= ground.turn_ends:
            await ground.breathe()
            boxes = self.core.routes.get(key, ())
            now = clock()
        worker = current_worker.get()
        parent = None if worker is None else worker.message
        if parent is not None and parent.properties is not PLAIN:
            return await self._engine.sending.send(self.core, body, key, options)
        sender = ground.sender
        if sender is not None and (sender() if parent is None else carries_trace(sender, worker)):
            return await self._engine.sending.send(self.core, body, key, options)
        for box in boxes:
            if len(box.fresh) >= box.limit:
                unions, shelf = self._engine.storing.unions, box.shelf
                if (
                    unions is not None
                    and len(boxes) == 1
                    and shelf is not None
                    and (len(box.fresh) + shelf.arriving < shelf.quick or (shelf.is_deep and box.has_room()))
                ):
                    stamp, origin = now + ground.wall_offset, None if parent is None else origin_of(parent, ground.prefix)
                    message = Message(ground.prefix, next(ground.serials), body, self.core.name, key, stamp, origin)
                    arrival = unions.enter(box, shelf, message, now)
                    try:
                        await ground.parking.park_among(arrival)
                    except anyio.get_cancelled_exc_class() as error:
                        await unions.outwait(arrival, error)
                    if arrival.fate.error is not None:
                        raise unions.refusal(arrival.fate.error)
                    return Receipt(ground.prefix, message.serial, 1, 0, unions.level)
                boxes = ()
                break
        if not boxes:
            return await self._engine.sending.send(self.core, body, key, options)
        ground.budget -= 1
        prefix, serial = ground.prefix, next(ground.serials)
        origin = None if parent is None else origin_of(parent, prefix)
        message = Message(prefix, serial, body, self.core.name, key, now + ground.wall_offset, origin)
        for box in boxes:
            if box.fresh is EMPTY:
                box.fresh = ground.spare.pop() if ground.spare else deque()
            box.fresh.append(message)
            box.entered += 1
            if box.armed:
                box.armed = False
                box.on_ready()
        return Receipt(prefix, serial, len(boxes))

    def publish_nowait(self, body: Any, key: str = "", **options: Unpack[PublishOptions]) -> Receipt:
        """Publish a message at once.

        Args:
            body: as `publish`.
            key: as `publish`.
            **options: as `publish`.

        Raises:
            MailboxFull: where `publish` would wait, too.
        """
        return self._engine.sending.send_nowait(self.core, body, key, options)

    async def publish_many(self, items: Iterable[tuple[Any, str]], **options: Unpack[PublishOptions]) -> list[Receipt]:
        """Publish several messages in one commit: all enter, or none.

        Waits at the gate of each full `wait` mailbox once for all of them. Cancellation: before any has entered.

        Args:
            items: pairs of body and key.
            **options: as `publish`, for each of them.

        Returns:
            a receipt for each, in order.

        Raises:
            MailboxFull: a `reject` mailbox has no room for all that go there.
        """
        pairs = list(items)
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) == 2):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
                raise TypeError(f"publish_many takes pairs (body, key), not {pair!r}")
        return await self._engine.sending.send_many(self.core, pairs, options)
