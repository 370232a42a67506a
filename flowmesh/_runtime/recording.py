"""Messages as a store keeps them, and bodies by the names of their types.

A record is MessagePack: the envelope as an array, in it the body as it was encoded, with the name of its type.  Times are the
wall clock's, since the monotonic one of another process says nothing.  A body is given back as the type of that name that an
actor of the mesh takes, first of all the one that is fed from the mailbox; nothing is imported for it.  What no actor takes by
that name is refused when it is to be stored, unless it is made of what MessagePack knows itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final, cast, get_args

import msgspec
from msgspec import Raw, Struct

from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.fidelity import difference, is_certain
from flowmesh.errors import StoreCorrupt, Unencodable
from flowmesh.message import PLAIN, Death, Encoded, Fire, Message, Properties, type_name

__all__ = ["Deferred", "Recording"]

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
"""What MessagePack gives back with the type that it had, whatever is in it."""
_CONTAINERS: Final = frozenset({dict, list})
"""What it gives back so if what is in it is such, too."""


class More(Struct, frozen=True, array_like=True):
    """Of a message's properties what is kept. `expires`: wall-clock seconds."""

    headers: dict[str, Any] = {}
    priority: int = 0
    ttl: float | None = None
    expires: float | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    content_type: str | None = None
    deaths: tuple[Death, ...] = ()
    fire: Fire | None = None


class Record(Struct, frozen=True, array_like=True):
    """One copy. `since`: when it entered; `timestamp`: of the message. Both wall-clock seconds."""

    prefix: str
    serial: int | str
    type: str
    body: Raw
    exchange: str
    key: str
    timestamp: float
    since: float
    origin: int | str | None = None
    more: More | None = None


class Deferred(Struct, frozen=True, array_like=True):
    """One deferred message. `due`: wall-clock seconds; `on_wall`: it is meant as such, and not as a delay."""

    due: float
    on_wall: bool
    record: Record


class Recording:
    """Encodes and decodes what one mesh stores.

    `cells`: its actors. `consumers_of`: those that are fed from a mailbox. `mailboxes`: by name.
    """

    def __init__(
        self,
        cells: Callable[[], Iterable[Cell]],
        consumers_of: Callable[[Mailbox], list[Cell]],
        find_mailbox: Callable[[str], Mailbox | None],
    ) -> None:
        self._cells = cells
        self._consumers_of = consumers_of
        self._find_mailbox = find_mailbox
        self._known: dict[str, Any] | None = None
        self._own: dict[Mailbox, dict[str, Any]] = {}
        self._names: defaultdict[Mailbox | None, dict[type[Any], str]] = defaultdict(dict)
        self._encoder = msgspec.msgpack.Encoder()
        self._encode = self._encoder.encode
        self._records = msgspec.msgpack.Decoder(Record)
        self._deferred = msgspec.msgpack.Decoder(Deferred)

    def forget_types(self) -> None:
        """Look at the actors again: one has come or gone."""
        self._known = None
        self._own.clear()
        self._names.clear()

    # Copies

    def encode(self, message: Message, since: float, mailbox: Mailbox | None, wall_offset: float) -> bytes:
        """Return a copy's record.

        Raises:
            Unencodable: it could not be given back with the type that it has.
        """
        return self._encoder.encode(self._record(message, since, mailbox, wall_offset))

    def encode_plain(self, message: Message, mailbox: Mailbox) -> bytes:
        """Return the record of a copy that enters with its message, which has no properties: as `encode`, in one go.

        Raises:
            Unencodable: as `encode`.
        """
        body: object = message.body
        name = self._names[mailbox].get(type(body))
        stamp = message.timestamp
        if name is None:  # The first of its type; or none that says all about its bodies.
            return self.encode(message, stamp, mailbox, 0.0)
        try:
            return self._encode(
                (message.prefix, message.serial, name, body, message.exchange, message.key, stamp, stamp, message.origin)
            )
        except Exception:  # noqa: BLE001 - what it says names neither the message nor the mend: ask again
            return self.encode(message, stamp, mailbox, 0.0)

    def decode(self, record: bytes, mailbox: Mailbox, wall_offset: float) -> Entry:
        """Return the entry of a copy that was read.

        Raises:
            StoreCorrupt: it is no record.
        """
        found = self._read(self._records, record)
        entry = Entry(self._message(found, mailbox, wall_offset), found.since - wall_offset)
        entry.redelivered = False
        return entry

    # Deferred messages

    def encode_deferred(self, message: Message, due: float, *, on_wall: bool, wall_offset: float) -> bytes:
        """Return a deferred message's record; `due` is on the wall clock.

        Raises:
            Unencodable: as `encode`.
        """
        mailbox = None if message.exchange else self._find_mailbox(message.key)
        return self._encoder.encode(Deferred(due, on_wall, self._record(message, message.timestamp, mailbox, wall_offset)))

    def decode_deferred(self, record: bytes, wall_offset: float) -> tuple[Message, float, bool]:
        """Return a deferred message, when it is due on the wall clock, and whether it is meant so.

        Raises:
            StoreCorrupt: it is no record.
        """
        found = self._read(self._deferred, record)
        mailbox = None if found.record.exchange else self._find_mailbox(found.record.key)
        return self._message(found.record, mailbox, wall_offset), found.due, found.on_wall

    @staticmethod
    def _read(decoder: msgspec.msgpack.Decoder[Any], record: bytes) -> Any:
        try:
            return decoder.decode(record)
        except msgspec.DecodeError as error:
            raise StoreCorrupt(f"what was stored of a message cannot be read: {error}") from error

    # Envelopes

    def _record(self, message: Message, since: float, mailbox: Mailbox | None, wall_offset: float) -> Record:
        kind, body = self._encode_body(message, mailbox)
        properties = message.properties
        more = None
        if properties is not PLAIN:
            expires = properties.expires
            more = More(
                headers=dict(properties.headers),
                priority=properties.priority,
                ttl=properties.ttl,
                expires=None if expires is None else expires + wall_offset,
                reply_to=properties.reply_to,
                correlation_id=properties.correlation_id,
                content_type=properties.content_type,
                deaths=properties.deaths,
                fire=properties.fire,
            )
            try:
                self._encoder.encode(more)
                self._check_headers(more.headers)
            except Exception as error:
                raise Unencodable(
                    f"{_where(mailbox)} cannot store {self._culprit(more)} of message {message.id}: {error}; give it a text, a "
                    "number, or what else msgspec can encode, or declare the mailbox with MailboxOptions(durable=False)",
                    message=message,
                ) from error
        return Record(
            message.prefix,
            message.serial,
            kind,
            Raw(body),
            message.exchange,
            message.key,
            message.timestamp,
            since,
            message.origin,
            more,
        )

    def _message(self, found: Record, mailbox: Mailbox | None, wall_offset: float) -> Message:
        more = found.more
        properties = PLAIN
        if more is not None:
            properties = Properties(
                headers=more.headers,
                priority=more.priority,
                ttl=more.ttl,
                expires=None if more.expires is None else more.expires - wall_offset,
                reply_to=more.reply_to,
                correlation_id=more.correlation_id,
                content_type=more.content_type,
                deaths=more.deaths,
                fire=more.fire,
            )
            if more.deaths:  # What rests among the dead letters is of a type of the mailbox that it died in.
                mailbox = self._find_mailbox(more.deaths[0].mailbox) or mailbox
        body = self._decode_body(found.type, found.body, mailbox)
        return Message(found.prefix, found.serial, body, found.exchange, found.key, found.timestamp, found.origin, properties)

    def _check_headers(self, headers: dict[str, Any]) -> None:
        """Raise what says that a header would come back as something else."""
        if any(type(value) not in _PLAIN for value in headers.values()):
            for value in headers.values():
                told = difference(value, msgspec.msgpack.decode(self._encoder.encode(value)))
                if told is not None:
                    raise TypeError(told)

    def _culprit(self, more: More) -> str:
        """Return what of properties that cannot be encoded is in the way: the first such header, or something else."""
        for name, value in more.headers.items():
            try:
                self._check_headers({name: value})
            except Exception:  # noqa: BLE001 - whatever it is, it is this header's
                return f"header {name!r}"
        return "a property"

    # Bodies

    def _encode_body(self, message: Message, mailbox: Mailbox | None) -> tuple[str, bytes]:
        body: Any = message.body
        if isinstance(body, Encoded):
            return body.type, body.data
        kind = cast("type[Any]", type(body))
        name = self._names[mailbox].get(kind)
        try:
            if name is None:
                return self._encode_checked(body, kind, mailbox)
            return name, self._encoder.encode(body)
        except Exception as error:
            raise Unencodable(
                f"{_where(mailbox)} cannot store {_short(body)} so that it comes back as {kind.__qualname__}: {error}; send "
                "what an actor of the mesh is annotated with, made of what msgspec can encode, or declare the mailbox with "
                "MailboxOptions(durable=False)",
                message=message,
            ) from error

    def _encode_checked(self, body: Any, kind: type[Any], mailbox: Mailbox | None) -> tuple[str, bytes]:
        """Return the name of a body's type, and it encoded, once it is certain that it would come back as what it is."""
        name = type_name(kind)
        found = self._find(name, mailbox)
        if found is None or (found is not kind and getattr(found, "__origin__", None) is not kind):
            if kind not in _PLAIN and kind not in _CONTAINERS:
                raise TypeError("no actor of the mesh takes that type")
            found = kind
        encoded = self._encoder.encode(body)
        if is_certain(found):
            self._names[mailbox][kind] = name
        elif (told := difference(body, msgspec.msgpack.decode(encoded, type=found))) is not None:
            raise TypeError(f"{told}: annotate what it is made of")
        return name, encoded

    def _decode_body(self, name: str, data: Raw, mailbox: Mailbox | None) -> Any:
        found = self._find(name, mailbox)
        try:
            if found is not None:
                return msgspec.msgpack.decode(data, type=found)
            if name in _BUILTIN:
                return msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, RecursionError):
            pass  # Whoever is handed it says what it takes.
        return Encoded(name, bytes(data))

    def _find(self, name: str, mailbox: Mailbox | None) -> Any:
        """Return the type of this name that an actor takes, first of all one that is fed from the mailbox."""
        if mailbox is not None:
            own = self._own.get(mailbox)
            if own is None:
                own = self._own[mailbox] = _types_of(self._consumers_of(mailbox))
            if name in own:
                return own[name]
        if self._known is None:
            self._known = _types_of(self._cells())
        return self._known.get(name)


_BUILTIN: Final = frozenset(type_name(kind) for kind in (*_PLAIN, *_CONTAINERS))


def _types_of(cells: Iterable[Cell]) -> dict[str, Any]:
    """Return the types of the bodies that actors take, by name; of two with the same name the first."""
    found: dict[str, Any] = {}
    for cell in cells:
        handler = cell.handler
        handlers = [method.handler for method in handler.methods.values()] if isinstance(handler, ClassHandler) else [handler]
        for one in handlers:
            for kind in _members(one.body_type if one.takes_body else type(None)):
                found.setdefault(type_name(getattr(kind, "__origin__", None) or kind), kind)
    return found


def _members(kind: Any) -> Iterable[Any]:
    """Return the classes of an annotation: of a union each, of others the one."""
    origin = getattr(kind, "__origin__", None)
    if isinstance(kind, type) or isinstance(origin, type):
        return (kind,)
    return [member for argument in get_args(kind) for member in _members(argument)]


def _where(mailbox: Mailbox | None) -> str:
    return "the exchange's mailboxes" if mailbox is None else f"mailbox {mailbox.name!r}"


def _short(body: Any) -> str:
    text = repr(body)
    return text if len(text) <= 80 else f"{text[:77]}..."
