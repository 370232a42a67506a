"""What a handler sees of its turn, and what a source sees of its mesh.

What a Context collects (`publish`, `tell`, `save`, `timer`, `watch`) takes effect with the ack, in the same commit, or not
at all; what a hook asks of its ActorContext, at once.
"""

import logging
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, Unpack, overload

from msgspec import Struct

from flowmesh._core.batches import BatchLease
from flowmesh._core.commits import PublishDue
from flowmesh._core.entry import Entry
from flowmesh._core.exchanges import Exchange as CoreExchange
from flowmesh._runtime.batch_turns import BatchTurn
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import OutputOptions, compose, due_time
from flowmesh._runtime.effects import Effects, saved_state
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.statistics import Statistics
from flowmesh.errors import AccessRefused, AlreadySettled, NotFound, PreconditionFailed
from flowmesh.message import Fire, Message

__all__ = ["ActorContext", "Context", "Output", "Target", "Watched", "home_of", "is_asked", "starting"]


class Publishable(Protocol):
    """An exchange of this mesh."""

    @property
    def core(self) -> CoreExchange:
        """The core's exchange."""
        ...


Body = TypeVar("Body")
State = TypeVar("State")
Taken = TypeVar("Taken", contravariant=True)


class Watched(Protocol):
    """An actor of this mesh, which may be stopped."""

    @property
    def cell(self) -> Cell:
        """Its place in the scheduler."""
        ...

    async def stop(self) -> None:
        """Stop it."""
        ...


class Target(Protocol[Taken]):
    """An actor of this mesh that takes such bodies."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def cell(self) -> Cell:
        """Its place in the scheduler."""
        ...

    def check_body(self, body: Taken) -> None:
        """Raise WrongBody unless the actor takes it."""
        ...


class Output(Struct, frozen=True):
    """One message that leaves with the ack; `delay` counts from then, `at` is on the wall clock."""

    exchange: CoreExchange
    message: Message
    options: Mapping[str, Any]

    def action(self) -> PublishDue:
        """What routes it when its time has come."""
        return PublishDue(self.exchange, self.message, self.message.properties.ttl)

    def due(self, ground: Ground, now: float) -> tuple[float, bool] | None:
        """When that is, if not now."""
        return due_time(ground, self.options, now)


class TurnLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines begin with the actor and the message."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the place before the text, and the fields beside it."""
        fields = self.extra or {}
        place = " ".join(str(value) for value in fields.values())
        return f"[{place}] {msg}", {**kwargs, "extra": {**fields, **kwargs.get("extra", {})}}


class Context:
    """One turn, as its handler sees it. Do not keep it: when the turn has ended its calls raise AlreadySettled."""

    __slots__ = ("_batch", "_cell", "_ended", "_entry", "_ground", "_log", "_overview", "effects", "message", "outputs")

    def __init__(
        self, ground: Ground, cell: Acting, message: Message, entry: Entry | None, overview: Callable[[], Statistics]
    ) -> None:
        self._ground = ground
        self._cell = cell
        self._entry = entry
        self._overview = overview
        self._ended = False
        self._log: TurnLog | None = None
        self._batch: BatchTurn | None = None
        self.message = message
        self.outputs: list[Output] = []
        self.effects: Effects | None = None

    @property
    def attempt(self) -> int:
        """1 for the first attempt; one more for each exception or time limit before."""
        return 1 if self._entry is None else self._entry.failures + 1

    @property
    def redelivered(self) -> bool:
        """This copy was, or may have been, handed out before."""
        return False if self._entry is None else self._entry.redelivered

    @property
    def fire(self) -> Fire | None:
        """When its message was due and made, how many were missed, how the one before ended; None if no schedule made it."""
        return self.message.properties.fire

    @property
    def is_batch(self) -> bool:
        """The handler was given a list of messages: `batch` knows them."""
        return isinstance(self._entry, BatchLease)

    @property
    def batch(self) -> BatchTurn:
        """The batch that the handler was given; `message` is then its first message, without what concerns that one alone.

        Raises:
            PreconditionFailed: the actor has no `batch=`.
        """
        if self._batch is None:
            if not isinstance(self._entry, BatchLease):
                raise PreconditionFailed(
                    f"actor {self._cell.name!r} takes one message at a time: declare it with batch=Batch(...)"
                )
            self._batch = BatchTurn(self._entry)
        return self._batch

    @property
    def actor(self) -> str:
        """The actor's name."""
        return self._cell.actor.name

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines name the actor and the message."""
        if self._log is None:
            self._log = TurnLog(self._ground.log, {"actor": self._cell.name, "message_id": self.message.id})
        return self._log

    @property
    def statistics(self) -> Statistics:
        """The numbers of the whole mesh, as `mesh.statistics()` gives them."""
        return self._overview()

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far this turn is; `mesh.statistics()` shows it until the turn ends."""
        if not self._ended:
            self._cell.note_progress(self.message.id, done, total)

    def publish(self, exchange: Publishable, body: Any, *, key: str = "", **options: Unpack[OutputOptions]) -> None:
        """Publish a message with the ack; it is routed then, never waits and is never refused.

        May be called from a handler's worker thread. A message that nothing is bound for is counted and logged.

        Raises:
            AlreadySettled: the turn has ended.
            ValueError: as `Exchange.publish`.
        """
        self._collect(exchange.core, body, key, options)

    @overload
    def tell(self, actor: Target[None], body: None = None, **options: Unpack[OutputOptions]) -> None: ...
    @overload
    def tell(self, actor: Target[Body], body: Body, **options: Unpack[OutputOptions]) -> None: ...
    def tell(self, actor: Target[Any], body: Any = None, **options: Unpack[OutputOptions]) -> None:
        """Tell an actor something with the ack.

        Raises:
            WrongBody: the actor does not take it.
            AlreadySettled, ValueError: as `publish`.
        """
        actor.check_body(body)
        if not self._ground.router.has_mailbox(actor.cell.box):
            raise NotFound(f"actor {actor.name!r} is of another mesh, or its mailbox has been deleted: await its tell instead")
        self._collect(self._ground.router.default_exchange, body, actor.cell.box.name, options)

    def save(self, state: Struct) -> None:
        """Replace the state that this actor has saved, with the ack; only a class actor has one, with `by=` one for each value.

        It survives restarts and putting away, and the mesh's runs as long as the Mesh object lives; with a store, also the
        process. What becomes of the thing afterwards is not in it.

        Raises:
            PreconditionFailed: this is a function, which has no state.
            TypeError: it is no Struct, or cannot be encoded.
            AlreadySettled: the turn has ended.
        """
        self._affect().keep(state)

    def saved(self, type: type[State]) -> State | None:
        """Return what was saved last, before this turn, as a new thing of this type; None if nothing was.

        Raises:
            PreconditionFailed: it is not of this type; or this is a function.
        """
        return saved_state(self._ground, self._cell, type)

    def timer(self, name: str, delay: float, message: Any) -> None:
        """Let a message of this actor's own enter its mailbox `delay` seconds after the ack; it never waits for room.

        It dies with its incarnation: when the instance is made anew, when the actor stops or the mesh does, it does not fire,
        and its message is not handled if it has not been. Setting one of the same name replaces it. At the drain none fires.
        An instance for one value of `by=` is not put away while one of its timers is pending.

        Raises:
            WrongBody: the actor does not take the message.
            ValueError: an empty name, a delay that is none, or a message for the instance of another value.
            AlreadySettled: the turn has ended.
        """
        self._affect().set_timer(name, delay, message)

    def cancel_timer(self, name: str) -> None:
        """Let the timer of this name not fire, and its message not be handled if it has not been; with the ack.

        Raises:
            ValueError: an empty name.
            AlreadySettled: the turn has ended.
        """
        self._affect().cancel_timer(name)

    def watch(self, actor: Watched, message: Any) -> None:
        """Let a message enter this actor's mailbox when another one has stopped; at once, with the ack, if it has.

        That is `actor.stop()`, or the end of its group: neither a restart nor the end of the mesh. Watching the same one
        again replaces the message. It survives this actor's own restarts.

        Raises:
            WrongBody: this actor does not take the message.
            TypeError: what it would watch is no actor, or one instance of one.
            PreconditionFailed, InvalidBinding: it would watch itself, or an actor of another mesh.
            NotFound: the other one's mailbox has been deleted.
            AlreadySettled: the turn has ended.
        """
        self._affect().watch(actor, message)

    def _affect(self) -> Effects:
        self._check_running()
        if self.effects is None:
            self.effects = Effects(self._ground, self._cell, self.message)
        return self.effects

    def end(self) -> None:
        """Take nothing more: the turn has ended."""
        self._ended = True
        if self._cell.progress:
            self._cell.progress.pop(self.message.id, None)

    def _check_running(self) -> None:
        if self._ended:
            raise AlreadySettled(
                f"the turn of message {self.message.id} has ended: publish with the exchange itself instead of its Context",
                message=self.message,
            )

    def _collect(self, exchange: CoreExchange, body: Any, key: str, options: Mapping[str, Any]) -> None:
        self._check_running()
        if not self._ground.router.has_exchange(exchange):
            raise NotFound(
                f"exchange {exchange.name!r} is of another mesh, or has been deleted: a turn publishes in its own mesh"
            )
        if exchange.internal:
            raise AccessRefused(f"exchange {exchange.name!r} is internal: publish to an exchange that is bound to it")
        for name in ("mandatory", "require"):
            if name in options:
                raise TypeError(f"{name} is for a publish that is awaited: what a turn collected is routed with its ack")
        now = self._ground.now()
        message = compose(self._ground, body, exchange=exchange.name, key=key, options=options, parent=self.message, now=now)
        self.outputs.append(Output(exchange, message, options))


class ActorContext:
    """What a source sees of its mesh, and a hook of its actor.

    `name`: the source's, or the actor's; with `by=`, that of the instance, like "totals[42]".
    """

    __slots__ = ("_cell", "_ground", "_log", "_overview", "name")

    def __init__(
        self,
        name: str,
        log: logging.Logger,
        overview: Callable[[], Statistics],
        ground: Ground | None = None,
        cell: Acting | None = None,
    ) -> None:
        self.name = name
        self._log = TurnLog(log, {"actor": name})
        self._overview = overview
        self._ground = ground
        self._cell = cell

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines name the source or actor."""
        return self._log

    @property
    def statistics(self) -> Statistics:
        """The numbers of the whole mesh, as `mesh.statistics()` gives them."""
        return self._overview()

    def saved(self, type: type[State]) -> State | None:
        """Return the state that this actor has saved last (`ctx.save` in a handler), as a new thing of this type, or None.

        Raises:
            PreconditionFailed: it is not of this type; or this is a source.
        """
        return saved_state(*self._home(), type)

    def timer(self, name: str, delay: float, message: Any) -> None:
        """Let a message enter this actor's mailbox in `delay` seconds; as `Context.timer`, but at once.

        Raises:
            WrongBody, ValueError: as there.
            PreconditionFailed: this is a source, which takes no messages.
        """
        effects = Effects(*self._home(), None)
        effects.set_timer(name, delay, message)
        effects.carry_out()

    def cancel_timer(self, name: str) -> None:
        """Cancel a timer; as `Context.cancel_timer`, but at once.

        Raises:
            ValueError, PreconditionFailed: as `timer`.
        """
        effects = Effects(*self._home(), None)
        effects.cancel_timer(name)
        effects.carry_out()

    def watch(self, actor: Watched, message: Any) -> None:
        """Let a message enter this actor's mailbox when another one has stopped; as `Context.watch`, but at once.

        Raises:
            WrongBody, TypeError, PreconditionFailed, InvalidBinding, NotFound: as there; or this is a source.
        """
        effects = Effects(*self._home(), None)
        effects.watch(actor, message)
        effects.carry_out()

    def _home(self) -> tuple[Ground, Acting]:
        if self._ground is None or self._cell is None:
            raise PreconditionFailed(
                f"source {self.name!r} takes no messages and saves no state: write a class actor, and tell it what to do"
            )
        return self._ground, self._cell


def home_of(context: Context | ActorContext) -> tuple[Ground, Acting]:
    """Return the mesh and the actor of a context.

    Raises:
        PreconditionFailed: it is of a source.
    """
    return (context._ground, context._cell) if isinstance(context, Context) else context._home()  # pyright: ignore[reportPrivateUsage] - not for users


def is_asked(context: Context) -> bool:
    """Somebody waits for what the turn returns."""
    entry = context._entry  # pyright: ignore[reportPrivateUsage] - not for users
    return entry is not None and entry.asked


def starting(context: ActorContext, message: Message) -> Context:
    """Return the Context of a turn in which an actor begins: no copy is settled in it."""
    ground, cell = home_of(context)
    return Context(ground, cell, message, None, context._overview)  # pyright: ignore[reportPrivateUsage] - not for users
