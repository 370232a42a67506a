"""The immutable envelope, the receipt of a publish, and the history of deaths.

A Message is made once per publish and shared by every mailbox that takes a copy; what differs from copy to copy (place,
attempts, lease) lives in the mailbox.  It is small on purpose: what most messages do not use stands in `Properties`, one
shared empty instance of which serves all plain messages.  Ids are counters; the text is made when somebody looks.
"""

import datetime
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar, cast, final

from msgspec import Struct
from msgspec.structs import replace

__all__ = [
    "PLAIN",
    "Death",
    "DeathReason",
    "Durability",
    "Encoded",
    "Fire",
    "Message",
    "Outcome",
    "Properties",
    "Receipt",
    "Request",
    "type_name",
]

DeathReason = Literal["rejected", "failed", "delivery_limit", "malformed", "expired", "maxlen"]
Durability = Literal["none", "process", "power"]
Outcome = Literal["acked", "dead", "expired", "dropped", "withdrawn", "purged"]
Reply = TypeVar("Reply", covariant=True)


class Request(Generic[Reply]):
    """A message that says what it is answered with, for type checkers; it adds nothing to the message.

        class GetTotal(Struct, Request[int], frozen=True):
            order: str

    `await totals.ask(GetTotal("42"))` of a class actor is then an int.
    """

    __slots__ = ()


class Death(Struct, frozen=True):
    """One entry of a message's history of deaths: RabbitMQ's x-death, one per (mailbox, reason), newest first.

    `count` grows and the entry moves to the front when the same death happens again; `time` (wall clock, seconds since the
    epoch), `exchange`, `keys` and `ttl` (the message's own, which dead-lettering removes) stay those of the first time;
    `detail` is the newest text: the reason given to `Reject`, or the exception.  `order` is how many deaths came before
    this entry's first.
    """

    mailbox: str
    reason: DeathReason
    count: int
    time: float
    exchange: str
    keys: tuple[str, ...]
    ttl: float | None = None
    detail: str = ""
    order: int = 0


class Fire(Struct, frozen=True):
    """What a schedule says about one of its messages.

    `schedule`: its name. `scheduled`: when the message was due, `fired`: when it was made; both aware, in the schedule's zone.
    `missed`: due times since the fire before this one that nobody was there for, and that were not made up for. `previous`:
    how the fire before this one ended: "acked", or how the first of its copies that was not acked ended; None if there was
    none, if it went nowhere, or if it is not settled yet.
    """

    schedule: str
    scheduled: datetime.datetime
    fired: datetime.datetime
    missed: int = 0
    previous: Outcome | None = None


class Encoded(Struct, frozen=True):
    """A body that came back from a store, and whose type is not among those of this mesh's actors.

    `type`: the name that it was stored with. `data`: the body in MessagePack.
    """

    type: str
    data: bytes


def type_name(kind: type[Any]) -> str:
    """Return the name by which bodies of a type are known outside the process: a Struct's tag, or its qualified name."""
    tag = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    return kind.__qualname__ if tag is None else str(tag)


class Properties(Struct, frozen=True):
    """What most messages do not carry (AMQP's basic properties and the mesh's own). Times are the mesh clock's seconds."""

    headers: Mapping[str, Any] = {}
    priority: int = 0
    ttl: float | None = None
    expires: float | None = None
    deadline: float | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    content_type: str | None = None
    deaths: tuple[Death, ...] = ()
    run: object | None = None
    trace: object | None = None
    fire: Fire | None = None


PLAIN: Final = Properties()


@final
class Message(Struct, frozen=True, gc=False):
    """An immutable envelope around a body.

    The body is shared between all copies, not copied: frozen Structs are the advice.  Not tracked by the garbage
    collector, so a body that refers to the mesh keeps an abandoned mesh alive while it is queued.
    """

    prefix: str
    serial: int | str
    body: Any
    exchange: str = ""
    key: str = ""
    timestamp: float = 0.0
    origin: int | str | None = None
    properties: Properties = PLAIN

    @property
    def id(self) -> str:
        """The message's id: unique among all meshes, or what the publisher gave as `message_id`."""
        return self.serial if isinstance(self.serial, str) else f"{self.prefix}{self.serial}"

    @property
    def cause(self) -> str | None:
        """The id of the message whose turn made this one, or None when no turn did."""
        origin = self.origin
        return f"{self.prefix}{origin}" if isinstance(origin, int) else origin

    @property
    def type(self) -> str:
        """The name of the body's type: a Struct's tag, otherwise the class's qualified name."""
        return self.body.type if isinstance(self.body, Encoded) else type_name(cast("type[Any]", type(self.body)))

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers, read-only."""
        return MappingProxyType(dict(self.properties.headers))

    @property
    def priority(self) -> int:
        """0 to 255, higher is handed out first; only mailboxes with `priorities=True` look at it."""
        return self.properties.priority

    @property
    def content_type(self) -> str | None:
        """The media type of a body that came encoded; None in process."""
        return self.properties.content_type

    @property
    def deadline(self) -> float | None:
        """When its asker stops waiting (mesh clock, seconds), or None."""
        return self.properties.deadline

    @property
    def expires(self) -> float | None:
        """When it expires by its own ttl (mesh clock, seconds), or None."""
        return self.properties.expires

    @property
    def reply_to(self) -> str | None:
        """The name of the mailbox that takes the handler's result, or None."""
        return self.properties.reply_to

    @property
    def correlation_id(self) -> str | None:
        """What ties messages of one piece of work together; outputs of a turn inherit it."""
        return self.properties.correlation_id

    @property
    def deaths(self) -> tuple[Death, ...]:
        """Its history of deaths, newest first."""
        return self.properties.deaths

    @property
    def first_death(self) -> Death | None:
        """The entry of the very first death (RabbitMQ's x-first-death), or None."""
        return min(self.properties.deaths, key=lambda death: death.order, default=None)

    @property
    def fire(self) -> Fire | None:
        """What its schedule says about it, or None when none made it."""
        return self.properties.fire

    @property
    def run(self) -> object | None:
        """The flow's run that it belongs to, or None."""
        return self.properties.run

    def __repr__(self) -> str:
        return f"Message(id={self.id!r}, exchange={self.exchange!r}, key={self.key!r}, body={self.body!r})"

    def with_properties(self, **changes: Any) -> "Message":
        """Return the same message (same id) with these properties changed."""
        return replace(self, properties=replace(self.properties, **changes))


class Receipt(Struct, frozen=True, gc=False):
    """What became of one publish.

    `routed`: mailboxes that took a copy. `dropped`: mailboxes whose overflow policy left their copy out.
    `durability`: the weakest of the mailboxes that took one. `timer_number`: what `timer` is made of; `routed` is then 0.
    """

    prefix: str
    serial: int | str
    routed: int
    dropped: int = 0
    durability: Durability = "none"
    timer_number: int | None = None

    @property
    def message_id(self) -> str:
        """The id of the message."""
        return self.serial if isinstance(self.serial, str) else f"{self.prefix}{self.serial}"

    @property
    def timer(self) -> str | None:
        """The id of its timer, if the message was deferred, or None."""
        return None if self.timer_number is None else str(self.timer_number)

    def __repr__(self) -> str:
        deferred = f", timer={self.timer!r}" if self.timer is not None else ""
        return (
            f"Receipt(message_id={self.message_id!r}, routed={self.routed}, dropped={self.dropped}, "
            f"durability={self.durability!r}{deferred})"
        )
