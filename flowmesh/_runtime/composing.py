"""Make a Message from what a publisher gives, and refuse what cannot be one.

One list of options for everything that publishes; each is checked here, once.
"""

import datetime
from collections.abc import Mapping
from typing import Any, Final, TypedDict, get_args

from flowmesh._runtime.ground import Ground
from flowmesh.checks import is_seconds, require, suggestion
from flowmesh.message import PLAIN, Durability, Message, Properties
from flowmesh.policies import Named, name_of

__all__ = [
    "MAX_KEY_BYTES",
    "OutputOptions",
    "PublishOptions",
    "TellOptions",
    "check_due",
    "check_key",
    "compose",
    "due_time",
    "origin_of",
]

MAX_KEY_BYTES: Final = 255
"""AMQP 0-9-1's short string."""


class OutputOptions(TypedDict, total=False):
    """What may be said with a message.

    `headers`: names to values; for headers exchanges and for whoever reads them. `priority`: 0 to 255, higher first, for
    mailboxes with priorities. `ttl`: seconds after which a copy that is still ready expires. `delay`: seconds until it is
    routed, or `at`: an aware datetime. `message_id`: instead of a generated one. `correlation_id`: inherited from the
    message whose turn makes this one unless given. `reply_to`: a mailbox, or its name, that takes the handler's result.
    """

    headers: Mapping[str, Any] | None
    priority: int
    ttl: float | None
    delay: float | None
    at: datetime.datetime | None
    message_id: str | None
    correlation_id: str | None
    reply_to: Named | str | None


class TellOptions(OutputOptions, total=False):
    """What may be said with a message that is sent at once.

    `require`: raise DurabilityUnavailable, and send nothing, when one of its mailboxes promises less ("none", "process",
    "power").
    """

    require: Durability | None


class PublishOptions(TellOptions, total=False):
    """What may be said with a message that is published at once. `mandatory`: raise Unroutable when no mailbox is bound."""

    mandatory: bool


_KNOWN: Final = frozenset(PublishOptions.__annotations__) | frozenset(OutputOptions.__annotations__)


def compose(
    ground: Ground, body: Any, *, exchange: str, key: str, options: Mapping[str, Any], parent: Message | None, now: float
) -> Message:
    """Return the message that these options describe.

    Raises:
        ValueError: a value out of its range, naming it.
        TypeError: an unknown option, naming the one that was meant.
    """
    _check(options)
    serial: int | str = options.get("message_id") or next(ground.serials)
    origin = origin_of(parent, ground.prefix)
    correlation_id: str | None = options.get("correlation_id")
    if parent is not None and correlation_id is None:
        correlation_id = parent.properties.correlation_id
    headers = options.get("headers")
    ttl = options.get("ttl")
    reply_to = options.get("reply_to")
    tracing = ground.tracing
    trace = None
    if tracing is not None:
        trace = tracing.carried(
            headers or {}, mailbox=None if exchange else key, deferred=_is_deferred(options), in_turn=parent is not None
        )
    priority = options.get("priority") or 0
    properties = PLAIN
    if headers or priority or ttl is not None or reply_to is not None or correlation_id is not None or trace is not None:
        properties = Properties(
            headers=dict(headers) if headers else {},
            priority=priority,
            ttl=ttl,
            expires=None if ttl is None or _is_deferred(options) else now + ttl,
            reply_to=None if reply_to is None else name_of(reply_to),
            correlation_id=correlation_id,
            trace=trace,
        )
    return Message(ground.prefix, serial, body, exchange, check_key(key), now + ground.wall_offset, origin, properties)


def origin_of(parent: Message | None, prefix: str) -> int | str | None:
    """Return what a message of the mesh with this prefix names as its cause."""
    if parent is None:
        return None
    return parent.serial if parent.prefix == prefix else parent.id


def due_time(ground: Ground, options: Mapping[str, Any], now: float) -> tuple[float, bool] | None:
    """Return when a deferred message is due and whether that is on the wall clock; None if it is not deferred."""
    delay = options.get("delay")
    if delay is not None:
        return now + delay, False
    at: datetime.datetime | None = options.get("at")
    return None if at is None else (at.timestamp(), True)


def check_key(key: str) -> str:
    """Return the routing key.

    Raises:
        ValueError: it is no text, or longer than 255 bytes of UTF-8.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
        raise ValueError(f"key must be a text, not {key!r}")  # noqa: TRY004 - wrong arguments are ValueErrors (DESIGN 10)
    if len(key) > 63 and len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise ValueError(
            f"key must be at most {MAX_KEY_BYTES} bytes of UTF-8, "
            f"not {len(key.encode('utf-8', 'surrogatepass'))}: {key[:40]!r}..."
        )
    return key


def _is_deferred(options: Mapping[str, Any]) -> bool:
    return options.get("delay") is not None or options.get("at") is not None


def _check(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in _KNOWN:
            raise TypeError(f"unknown option {name!r}{suggestion(name, _KNOWN)}")
        if value is None:
            continue
        if name in ("ttl", "delay"):
            require(is_seconds(value), name, "zero or more seconds", value)
        elif name == "priority":
            require(type(value) is int and 0 <= value <= 255, name, "a whole number from 0 to 255", value)
        elif name == "at":
            require(
                isinstance(value, datetime.datetime) and value.tzinfo is not None, name, "a datetime with a time zone", value
            )
        elif name == "require":
            require(value in get_args(Durability), name, "one of none, process, power", value)
        elif name == "headers":
            require(_is_headers(value), name, "a mapping with texts as names", value)
        elif name in ("message_id", "correlation_id"):
            require(isinstance(value, str) and bool(value), name, "a text that is not empty", value)
        elif name == "reply_to":
            require(isinstance(getattr(value, "name", value), str), name, "a mailbox or its name", value)
            check_key(getattr(value, "name", value))
    if options.get("delay") is not None and options.get("at") is not None:
        raise ValueError("delay and at were both given: a message is due either after a delay or at a time")


def check_due(*, delay: Any, at: Any) -> None:
    """Check a due time that is given by itself.

    Raises:
        ValueError: one is out of its range, or both are given.
    """
    _check({"delay": delay, "at": at})


def _is_headers(value: Any) -> bool:
    return isinstance(value, Mapping) and _all_texts(value)


def _all_texts(names: Any) -> bool:
    return all(isinstance(name, str) for name in names)
