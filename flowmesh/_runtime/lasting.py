"""Values of `by=` that a store can give back: what is written of them, equal values alike, and what is read.

Text, numbers, bytes, None, UUIDs, dates, moments, members of a StrEnum or IntEnum, and tuples of these.  What comes back is
equal to what was given, so it finds the same lane, instance or claim; its type may be another one (1 for True and 1.0, a text
for a member of a StrEnum).
"""

import datetime
import enum
import uuid
from typing import Any, Final, cast

from msgspec.msgpack import Ext

__all__ = ["LASTING", "is_lasting", "packed", "unpacked"]

LASTING: Final = "a text, a number, bytes, a UUID, a date, a datetime, or a tuple of them (of an Enum its .value)"
"""What `by=` is to return, for messages to users."""

_SIMPLE: Final = frozenset({bool, bytes, type(None), uuid.UUID, datetime.date, datetime.datetime})
_UUID: Final = 1
_DATE: Final = 2
_MOMENT: Final = 3


def is_lasting(value: Any) -> bool:
    """Whether a store can give it back."""
    kind = cast("type[Any]", type(value))
    if kind is tuple:
        return all(map(is_lasting, cast("tuple[Any, ...]", value)))
    if kind is float:
        return value == value  # noqa: PLR0124 - not a number is not equal to itself
    if kind is int or isinstance(value, enum.IntEnum):
        return -(2**63) <= value < 2**64
    if kind is str or isinstance(value, enum.StrEnum):
        return not any("\ud800" <= character <= "\udfff" for character in value)  # no half of a surrogate pair
    if kind is datetime.datetime and value.tzinfo is not None:
        try:
            return bool(value == value.astimezone(datetime.UTC))  # An hour that comes twice, or not at all, is not.
        except OverflowError:
            return False
    return kind in _SIMPLE


def packed(value: Any) -> Any:
    """Return what MessagePack is given for a value that is lasting: the same for values that are equal."""
    match value:
        case tuple():
            return tuple(map(packed, cast("tuple[Any, ...]", value)))
        case bool() | enum.IntEnum():
            return int(value)
        case float():
            return int(value) if value.is_integer() and -(2**63) <= value < 2**64 else value
        case enum.StrEnum():
            return str.__str__(value)
        case uuid.UUID():
            return Ext(_UUID, value.bytes)
        case datetime.datetime():
            moment = value if value.tzinfo is None else value.astimezone(datetime.UTC)
            return Ext(_MOMENT, moment.isoformat().encode())
        case datetime.date():
            return Ext(_DATE, value.isoformat().encode())
        case _:
            return value


def unpacked(written: Any) -> Any:
    """Return the value again, or one that is equal to it.

    Raises:
        ValueError: it was written by a version that knows more kinds of values.
    """
    if isinstance(written, list):
        return tuple(map(unpacked, cast("list[Any]", written)))
    if not isinstance(written, Ext):
        return written
    match written.code:
        case 1:
            return uuid.UUID(bytes=bytes(written.data))
        case 2:
            return datetime.date.fromisoformat(bytes(written.data).decode())
        case 3:
            return datetime.datetime.fromisoformat(bytes(written.data).decode())
        case code:
            raise ValueError(f"a value of kind {code} is not known to this version")
