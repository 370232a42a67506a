"""The public Actor: tell it something, ask it something, pause it, stop it.

`tell` and `ask` try the fast path themselves, as `Exchange.publish` does; everything unusual goes to `Sending`.
"""

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

import anyio

from flowmesh._core.mailbox import EMPTY
from flowmesh._core.mailbox import Mailbox as CoreMailbox
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import OutputOptions, TellOptions, compose, origin_of
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Home
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.worker import carries_trace, current_worker
from flowmesh.checks import is_number, require
from flowmesh.errors import ActorStopped, WrongBody
from flowmesh.message import PLAIN, Message, Properties, Receipt

__all__ = ["Actor"]


class _Unresolved:
    """Accepts nothing: the first body is checked the long way."""


Body = TypeVar("Body", contravariant=True)
Reply = TypeVar("Reply", covariant=True)


class Actor(Generic[Body, Reply]):
    """An actor of a mesh: a handler fed from one mailbox. Declare it with `mesh.actor`.

    `Body` is the type of the messages that it takes (None: no body), `Reply` what its handler returns.
    """

    __slots__ = ("_accepts", "_box", "_engine", "_ground", "cell", "home")

    _accepts: Any
    _box: CoreMailbox
    _engine: Engine
    _ground: Ground
    cell: Cell

    def __init__(self, home: Home | None = None) -> None:
        self.home = home

    def attach(self, engine: Engine, cell: Cell) -> None:
        """Stand for this actor from now on: it has been declared in a mesh, or its part has been added to one."""
        self._engine = engine
        self._ground = engine.ground
        self._box = cell.box
        self.cell = cell
        self._accepts = _Unresolved

    def __repr__(self) -> str:
        return f"<Actor {self.name!r} on mailbox {self._box.name!r}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what an attribute is for that only some actors have."""
            if name == "at":
                raise AttributeError(
                    f"actor {self.name!r} has no instances to choose from: at() is for a class with by=, "
                    "as in mesh.actor(Totals, by=lambda body: body.account)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    @property
    def name(self) -> str:
        """Its name."""
        return self.cell.name

    @property
    def mailbox(self) -> Mailbox:
        """Its mailbox."""
        return Mailbox.of(self._engine, self._box)

    @property
    def engine(self) -> Engine:
        """The engine that it is in."""
        return self._engine

    @property
    def endpoint(self) -> CoreMailbox:
        """The core's end of a binding to it: its mailbox."""
        return self._box

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Reply]:
        """Call the handler itself, for unit tests: no mailbox, no policy. A plain `def` handler runs here, not in a thread."""
        function = self.cell.handler.function
        return function(*args, **kwargs) if self.cell.handler.is_async else _call(function, *args, **kwargs)

    def check_body(self, body: Body) -> None:
        """Check a body against the handler's type, shallowly.

        Raises:
            WrongBody: the actor does not take it.
        """
        handler = self.cell.handler
        if not handler.is_resolved:
            self.cell.resolve()
        self._accepts = handler.accepts
        if not isinstance(body, handler.accepts):
            raise WrongBody(f"actor {self.name!r} takes {handler.wanted}, not {type(body).__qualname__}: {_short(body)}")

    # Telling

    @overload
    async def tell(self: "Actor[None, Any]", body: None = None, **options: Unpack[TellOptions]) -> Receipt: ...
    @overload
    async def tell(self, body: Body, **options: Unpack[TellOptions]) -> Receipt: ...
    async def tell(self, body: Any = None, **options: Unpack[TellOptions]) -> Receipt:
        """Put a message into its mailbox; wait in line if that is full and its policy is `wait`.

        Suspends only then, or when the sender's turn (64 sends or 2 ms) is over: not always a checkpoint.
        Cancellation: before the message has entered; once it is handed to the store, none.

        Args:
            body: of the handler's type; shared with it, not copied.
            **options: headers, priority, ttl, delay, at, message_id, correlation_id, reply_to, require (see TellOptions).

        Returns:
            the receipt: in a durable mailbox the message is stored by then.

        Raises:
            WrongBody: the handler does not take this type.
            MailboxFull: the mailbox is full and its policy is `reject`.
            Unencodable: the mailbox is durable, and could not give the body back with the type that it has.
            DurabilityUnavailable: the mailbox promises less than is required.
            StoreError: it could not be stored; the mailbox has no copy.
            DeadlockError: told in a turn, it would wait for room that only that turn can make.
            NotRunning, MeshStopped: the mesh takes no messages now.
            ValueError, TypeError: an option is out of its range, or unknown.
        """
        ground = self._ground
        if not isinstance(body, self._accepts):
            self.check_body(body)
        box = self._box
        if options or get_ident() != ground.thread:
            if len(options) == 1 and "delay" in options:
                receipt = self._engine.sending.defer_plain("", body, box.name, options["delay"])
                if receipt is not None:
                    return receipt
            return await self._tell(body, options)
        clock = ground.now  # What a slot holds is called faster by a name of its own.
        now = clock()
        if ground.budget <= 0 or now >= ground.turn_ends:
            await ground.breathe()
            now = clock()
        worker = current_worker.get()
        parent = None if worker is None else worker.message
        fresh = box.fresh
        if len(fresh) >= box.limit or (parent is not None and parent.properties is not PLAIN):
            shelf = box.shelf
            unions = self._engine.storing.unions
            if (
                unions is not None
                and shelf is not None
                and (len(fresh) + shelf.arriving < shelf.quick or (shelf.is_deep and box.has_room()))
                and (parent is None or parent.properties is PLAIN)
                and ground.sender is None
            ):
                stamp, origin = now + ground.wall_offset, None if parent is None else origin_of(parent, ground.prefix)
                message = Message(ground.prefix, next(ground.serials), body, "", box.name, stamp, origin)
                arrival = unions.enter(box, shelf, message, now)
                try:
                    await ground.parking.park_among(arrival)
                except anyio.get_cancelled_exc_class() as error:
                    await unions.outwait(arrival, error)
                if arrival.fate.error is not None:
                    raise unions.refusal(arrival.fate.error)
                return Receipt(ground.prefix, message.serial, 1, 0, unions.level)
            return await self._tell(body, options)
        sender = ground.sender
        if sender is not None and (sender() if parent is None else carries_trace(sender, worker, box)):
            return await self._tell(body, options)
        ground.budget -= 1
        prefix, serial = ground.prefix, next(ground.serials)
        origin = None if parent is None else origin_of(parent, prefix)
        message = Message(prefix, serial, body, "", box.name, now + ground.wall_offset, origin)
        if fresh is EMPTY:
            fresh = box.fresh = ground.spare.pop() if ground.spare else deque()
        fresh.append(message)
        box.entered += 1
        if box.armed:
            box.armed = False
            box.on_ready()
        return Receipt(prefix, serial, 1)

    @overload
    def tell_nowait(self: "Actor[None, Any]", body: None = None, **options: Unpack[TellOptions]) -> Receipt: ...
    @overload
    def tell_nowait(self, body: Body, **options: Unpack[TellOptions]) -> Receipt: ...
    def tell_nowait(self, body: Any = None, **options: Unpack[TellOptions]) -> Receipt:
        """Put a message into its mailbox at once.

        Args:
            body: as `tell`.
            **options: as `tell`.

        Raises:
            MailboxFull: where `tell` would wait, too.
        """
        self.check_body(body)
        return self._engine.sending.send_nowait(
            self._ground.router.default_exchange, body, self._box.name, {**options, "mandatory": True}
        )

    async def _tell(self, body: Any, options: Mapping[str, Any]) -> Receipt:
        if "mandatory" in options:
            raise TypeError("tell is always mandatory: leave mandatory= out")
        return await self._engine.sending.send(
            self._ground.router.default_exchange, body, self._box.name, {**options, "mandatory": True}
        )

    # Asking

    @overload
    async def ask(
        self: "Actor[None, Reply]", body: None = None, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]
    ) -> Reply: ...
    @overload
    async def ask(self, body: Body, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Reply: ...
    async def ask(self, body: Any = None, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Any:
        """Put a question into its mailbox and wait for the handler's result.

        The deadline travels with the message: a nested ask inherits the earlier one, and retries do not go past it. An asked
        message is neither dead-lettered nor durable.
        Cancellation: as the end of the time limit: the message is withdrawn if it has not started; if it has, its handler is
        cancelled (one that runs in a thread runs on).

        Args:
            body: of the handler's type; shared with it, not copied.
            timeout: seconds, waiting for room included; None waits without limit.
            **options: headers, priority, ttl, message_id, correlation_id (see PublishOptions).

        Returns:
            what the handler returned.

        Raises:
            TimeoutError: the time limit has passed.
            Exception: what the handler raised, the last one if it was retried.
            NoReply: the message was expired, dropped, purged or rejected.
            ActorStopped, MeshStopped: the actor or the mesh stopped first.
            ActorFailed: the handler was cancelled by something inside it.
            DeadlockError: asked in a turn, it would wait for itself; nothing has been sent.
            WrongBody, MailboxFull, NotRunning, ValueError: as `tell`.
        """
        ground, engine, box = self._ground, self._engine, self._box
        if not isinstance(body, self._accepts):
            self.check_body(body)
        if self.cell.stopped:
            raise ActorStopped(f"actor {self.name!r} has been stopped: nobody would answer")
        if type(timeout) is not float or not timeout >= 0:
            require(
                timeout is None or (is_number(timeout) and timeout >= 0), "timeout", "zero or more seconds, or None", timeout
            )
        if get_ident() != ground.thread or not box.is_open:
            ground.check_sender()
        now = ground.now()
        worker = current_worker.get()
        parent = None if worker is None else worker.message
        deadline = None if timeout is None else now + timeout
        is_inherited = False
        inherited = None if parent is None else parent.properties.deadline
        if inherited is not None and (deadline is None or inherited < deadline):
            deadline, timeout = inherited, max(0.0, inherited - now)
            is_inherited = True
        sender = ground.sender
        is_traced = sender is not None and (bool(sender()) if parent is None else carries_trace(sender, worker, box))
        if options or parent is not None or is_traced:
            message = self._message(body, options, parent, deadline, now, is_traced)
        else:
            properties = PLAIN if deadline is None else Properties(deadline=deadline)
            wall = now + ground.wall_offset
            message = Message(ground.prefix, next(ground.serials), body, "", box.name, wall, None, properties)
        ask = Ask(message, now, parking=ground.parking)
        wait = None
        if worker is not None or engine.keepers.running:
            wait = engine.waits.ask(ask, box)
        if is_inherited and deadline is not None:
            engine.asks.limit_alone(ask, deadline)
        elif timeout is not None and deadline is not None:
            engine.asks.limit(ask, timeout, deadline)
        try:
            fresh = box.fresh
            if len(fresh) < box.limit and ask.message.properties.expires is None:
                ask.queued = True
                if fresh is EMPTY:
                    fresh = box.fresh = ground.spare.pop() if ground.spare else deque()
                fresh.append(ask)
                box.entered += 1
                if box.armed:
                    box.armed = False
                    box.on_ready()
            else:
                await self._enter(ask)
            while ask.is_open and not ask.timed_out:
                await ground.parking.park(ask)
        finally:
            if wait is not None:
                engine.waits.end(wait)
            if timeout is not None:
                engine.asks.lift(ask, timeout)
            if ask.is_open:
                engine.asks.leave(ask, box)
            else:
                ask.timed_out = False  # The answer came in the tick in which the limit passed.
        if ask.error is not None:
            raise ask.error
        if ask.timed_out:
            raise TimeoutError(f"actor {self.name!r} did not answer message {ask.message.id} within {timeout:.6g} s")
        return ask.value

    def _message(
        self, body: Any, options: Mapping[str, Any], parent: Message | None, deadline: float | None, now: float, is_traced: bool
    ) -> Message:
        ground = self._ground
        if not (options or is_traced) and (parent is None or parent.properties.correlation_id is None):
            return Message(
                ground.prefix,
                next(ground.serials),
                body,
                "",
                self._box.name,
                now + ground.wall_offset,
                origin_of(parent, ground.prefix),
                PLAIN if deadline is None else Properties(deadline=deadline),
            )
        for name in ("delay", "at", "reply_to", "mandatory", "require"):
            if options.get(name) is not None:
                raise TypeError(f"ask takes no {name}: its asker waits for the answer now")
        message = compose(ground, body, exchange="", key=self._box.name, options=options, parent=parent, now=now)
        return message.with_properties(deadline=deadline)

    async def _enter(self, ask: Ask) -> None:
        """Enter a mailbox that needs care: whose line the asker may have to wait in, within its time limit."""

        def make_entry(message: Message) -> Ask:
            ask.message = message  # Its ttl counts from entering, not from when it began to wait.
            return ask

        waiting = self.cell.asks_waiting()
        waiting.add(ask)
        try:
            with anyio.CancelScope() as ask.waiting_for_room:
                await self._engine.sending.enter(
                    self._ground.router.default_exchange, [ask.message], mandatory=True, make_entry=make_entry
                )
        finally:
            ask.waiting_for_room = None
            waiting.discard(ask)

    # Its life

    def pause(self) -> None:
        """Hand it nothing more until `resume`; what runs goes on. Idempotent."""
        self._ground.check_declared(self)
        self.cell.paused = True
        self.cell.reopen()
        self._ground.look_idle()

    def resume(self) -> None:
        """Hand it messages again. Idempotent."""
        self._ground.check_declared(self)
        self.cell.paused = False
        self._engine.scheduler.open(self.cell)

    async def stop(self) -> None:
        """Stop it: it is handed nothing more; wait until what it has in hand is finished.

        Its mailbox and bindings stay; its askers get ActorStopped at once. Idempotent.
        Cancellation: it is stopped all the same.

        Raises:
            DeadlockError: called from one of its own turns, or from a turn that one of them waits for.
            NotRunning: it belongs to a part that has not been added to a mesh.
        """
        self._ground.check_declared(self)
        await self._engine.residents.stop_cell(self.cell)


async def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _short(body: Any) -> str:
    text = repr(body)
    return text if len(text) <= 80 else f"{text[:77]}..."
