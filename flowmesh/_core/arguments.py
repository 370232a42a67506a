"""Arguments of bindings and headers of messages: compared by kind and value, copied, and matched.

Values are compared as RabbitMQ compares AMQP's types: first by kind, then by value.  So 1, True, 1.0 and "1" are four values.
(RabbitMQ takes integers of all widths for one kind and floats for another; so does this.)  Lists and tables are compared by
what is in them, tables without regard to order.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct

from flowmesh.errors import InvalidBinding

__all__ = ["NESTING", "Arguments", "Criteria", "compared", "copied", "criteria_of", "offered"]

Arguments: TypeAlias = Mapping[str, Any]
NESTING: Final = 32
"""How deep lists and tables may be nested to be compared."""

_MATCHES: Final = ("all", "any", "all-with-x", "any-with-x")


class Criteria(Struct, frozen=True):
    """What a binding of a headers exchange asks of a message: all of `wanted`, or any.

    A want is a header's name, for one that must be there, or the pair of its name and its value as it is compared.
    """

    needs_all: bool
    wanted: tuple[Hashable, ...]


def compared(arguments: Arguments | None) -> Hashable:
    """Return what a binding's arguments are compared by: equal for equal ones, in whatever order; empty for none.

    Raises:
        InvalidBinding: a name is no text, or a value is not hashable, or nested too deep.
    """
    if not arguments:
        return ()
    for name in arguments:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise InvalidBinding(f"the name of a binding's argument must be a text, not {name!r}")
    try:
        return frozenset((str.__str__(name), _typed(value)) for name, value in arguments.items())
    except _Incomparable as problem:
        raise InvalidBinding(f"the arguments of a binding must be comparable: {problem}") from None


def copied(arguments: Arguments) -> Arguments:
    """Return a copy that no change to the original reaches: what is nested in lists and tables is copied as well."""
    return {str.__str__(name): _copied(value) for name, value in arguments.items()}


def criteria_of(arguments: Arguments) -> Criteria:
    """Read the arguments as a headers exchange does.

    "x-match" says how many must be met: "all" (the default) or "any". A value of None asks only that the header is there.
    Names that begin with "x-" are left out, but "all-with-x" and "any-with-x" leave out "x-match" alone. Nothing wanted:
    "all" is met by every message, "any" by none.

    Raises:
        InvalidBinding: x-match is none of these.
    """
    match = arguments.get("x-match", "all")
    if not isinstance(match, str) or match not in _MATCHES:
        raise InvalidBinding(f"x-match must be one of {', '.join(_MATCHES)}, not {match!r}")
    with_x = match.endswith("-with-x")
    wanted: list[Hashable] = []
    for name, value in arguments.items():
        if name != "x-match" and (with_x or not name.startswith("x-")):
            wanted.append(name if value is None else (name, _typed(value)))
    return Criteria(match.startswith("all"), tuple(wanted))


def offered(headers: Arguments) -> Iterator[Hashable]:
    """Yield every want that a message's headers meet; a value that cannot be compared is only there."""
    for name, value in headers.items():
        yield name
        if value is not None:
            try:
                yield (name, _typed(value))
            except _Incomparable:
                continue


class _Incomparable(Exception):
    """The value has no equal that could be found."""


def _typed(value: Any, depth: int = 0) -> Hashable:
    """Return a hashable stand-in that is equal to another one only if kind and value are.

    Texts, by far the most frequent, stand for themselves; the others for a pair that no text can equal.
    """
    if type(value) is str or value is None:
        return value
    if depth > NESTING:
        raise _Incomparable(f"nested deeper than {NESTING}")
    match value:
        case bool():
            return (bool, value)
        case str():
            return str.__str__(value)  # an enum's member hashes by its name
        case int():
            return (int, int(value))
        case float():
            return (float, "nan" if value != value else float(value))  # noqa: PLR0124 - the one value that is not itself
        case bytes() | bytearray():
            return (bytes, bytes(value))
        case list() | tuple():
            return (list, tuple(_typed(item, depth + 1) for item in value))  # pyright: ignore[reportUnknownVariableType] - of anything
        case Mapping():
            items = ((_typed(name, depth + 1), _typed(item, depth + 1)) for name, item in value.items())  # pyright: ignore[reportUnknownVariableType] - of anything
            return (dict, frozenset(items))
        case _:
            try:
                hash(value)
            except (TypeError, ValueError):  # a writable memoryview says ValueError
                raise _Incomparable(f"{type(value).__name__} is not hashable") from None
            return (value.__class__, value)


def _copied(value: Any) -> Any:
    """Return a copy of what is nested in lists and tables; the depth has been checked."""
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType] - of anything
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]  # pyright: ignore[reportUnknownVariableType] - of anything
    return bytes(value) if isinstance(value, bytearray) else value
