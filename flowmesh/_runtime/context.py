"""What a handler sees of its turn, and what a source sees of its mesh.

What a Context collects (`publish`, `tell`) takes effect with the ack, in the same commit, or not at all.
"""

import logging
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, Unpack, overload

from msgspec import Struct

from flowmesh._core.commits import PublishDue
from flowmesh._core.entry import Entry
from flowmesh._core.exchanges import Exchange as CoreExchange
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import OutputOptions, compose, due_time
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.statistics import Statistics
from flowmesh.errors import AccessRefused, AlreadySettled, NotFound
from flowmesh.message import Message

__all__ = ["ActorContext", "Context", "Output", "Target"]


class Publishable(Protocol):
    """An exchange of this mesh."""

    @property
    def core(self) -> CoreExchange:
        """The core's exchange."""
        ...


Body = TypeVar("Body")
Taken = TypeVar("Taken", contravariant=True)


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

    __slots__ = ("_cell", "_ended", "_entry", "_ground", "_log", "_overview", "message", "outputs")

    def __init__(
        self, ground: Ground, cell: Cell, message: Message, entry: Entry | None, overview: Callable[[], Statistics]
    ) -> None:
        self._ground = ground
        self._cell = cell
        self._entry = entry
        self._overview = overview
        self._ended = False
        self._log: TurnLog | None = None
        self.message = message
        self.outputs: list[Output] = []

    @property
    def attempt(self) -> int:
        """1 for the first attempt; one more for each exception or time limit before."""
        return 1 if self._entry is None else self._entry.failures + 1

    @property
    def redelivered(self) -> bool:
        """This copy was, or may have been, handed out before."""
        return False if self._entry is None else self._entry.redelivered

    @property
    def actor(self) -> str:
        """The actor's name."""
        return self._cell.name

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
            self._cell.progress[self.message.id] = (done, total)

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

    def end(self) -> None:
        """Take nothing more: the turn has ended."""
        self._ended = True
        if self._cell.progress:
            self._cell.progress.pop(self.message.id, None)

    def _collect(self, exchange: CoreExchange, body: Any, key: str, options: Mapping[str, Any]) -> None:
        if self._ended:
            raise AlreadySettled(
                f"the turn of message {self.message.id} has ended: publish with the exchange itself instead of its Context",
                message=self.message,
            )
        if not self._ground.router.has_exchange(exchange):
            raise NotFound(
                f"exchange {exchange.name!r} is of another mesh, or has been deleted: a turn publishes in its own mesh"
            )
        if exchange.internal:
            raise AccessRefused(f"exchange {exchange.name!r} is internal: publish to an exchange that is bound to it")
        if "mandatory" in options:
            raise TypeError("mandatory is for a publish that is awaited: what a turn collected is routed with its ack")
        now = self._ground.now()
        message = compose(self._ground, body, exchange=exchange.name, key=key, options=options, parent=self.message, now=now)
        self.outputs.append(Output(exchange, message, options))


class ActorContext:
    """What a source sees of its mesh."""

    __slots__ = ("_log", "_overview", "name")

    def __init__(self, name: str, log: logging.Logger, overview: Callable[[], Statistics]) -> None:
        self.name = name
        self._log = TurnLog(log, {"actor": name})
        self._overview = overview

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines name the source."""
        return self._log

    @property
    def statistics(self) -> Statistics:
        """The numbers of the whole mesh, as `mesh.statistics()` gives them."""
        return self._overview()
