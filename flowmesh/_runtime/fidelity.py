"""Whether a body comes back from its encoding as what it was.

An annotation that says of every part what it is, is certain: what msgspec encodes of such a body, it decodes to the same.
One with a part that may be anything (Any, a bare list, an abstract Sequence) is not: there a Struct comes back as a dict, a
tuple as a list.  Its bodies are compared with what comes back, one by one.
"""

import collections.abc
import dataclasses
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, Final, cast, get_args, get_origin, get_type_hints

from msgspec import Struct

__all__ = ["difference", "is_certain"]

_ABSTRACT: Final = frozenset(kind for kind in vars(collections.abc).values() if isinstance(kind, type))
_MISSING: Final = object()


def is_certain(annotation: Any) -> bool:
    """Whether a body of this annotation comes back as what it was, whatever is in it."""
    try:
        return _is_certain(annotation, set())
    except (TypeError, NameError):
        return False  # msgspec, or nobody, knows what it means.


def _is_certain(annotation: Any, seen: set[Any]) -> bool:
    origin = get_origin(annotation)
    kind = annotation if origin is None else origin
    if kind in _ABSTRACT or kind in (Any, object):
        return False
    if origin is None and kind in (list, dict, tuple, set, frozenset):
        return False  # bare: of anything
    if origin is None and getattr(kind, "__parameters__", ()):
        return False  # generic, of anything
    if isinstance(kind, type) and kind not in seen:
        found = cast("type[Any]", kind)
        seen.add(found)
        if issubclass(found, Struct) or dataclasses.is_dataclass(found):
            hints = get_type_hints(found)
            if not all(_is_certain(hints[name], seen) for name in _fields(found)):
                return False
        elif "__annotations__" in vars(found):
            return False  # a TypedDict, a NamedTuple, a class of attrs: each has ways of its own
    return all(_is_certain(argument, seen) for argument in get_args(annotation) if not _is_value(argument))


def _fields(kind: type[Any]) -> Iterable[str]:
    return kind.__struct_fields__ if issubclass(kind, Struct) else [field.name for field in dataclasses.fields(kind)]


def _is_value(argument: Any) -> bool:
    """An argument of Literal or Annotated, or the ellipsis of a tuple, and no annotation."""
    return argument is ... or not (isinstance(argument, type) or get_origin(argument) is not None or argument in (Any, None))


def difference(body: Any, found: Any, where: str = "") -> str | None:
    """Say what of a body has come back as something else, or None."""
    kind, came = cast("type[Any]", type(body)), cast("type[Any]", type(found))
    if kind is not came:
        is_number = isinstance(body, int | float) and isinstance(found, int | float) and body == found
        return (
            None
            if is_number
            else f"{f'its part {where}' if where else 'it'} is a {kind.__qualname__}, not a {came.__qualname__}"
        )
    parts: Iterable[tuple[Any, Any, str]]
    if issubclass(kind, Struct) or dataclasses.is_dataclass(kind):
        parts = [(getattr(body, name), getattr(found, name), f"{where}.{name}") for name in _fields(kind)]
    elif issubclass(kind, dict):
        parts = [
            part
            for (name, value), (came_name, came_value) in zip(body.items(), found.items(), strict=True)
            for part in ((name, came_name, f"{where} key {name!r}"), (value, came_value, f"{where}[{name!r}]"))
        ]
    elif issubclass(kind, list | tuple):
        pairs = zip_longest(body, found, fillvalue=_MISSING)
        parts = [(value, came_value, f"{where}[{index}]") for index, (value, came_value) in enumerate(pairs)]
    elif body == found or (body != body and found != found):  # noqa: PLR0124 - not a number is not equal to itself
        return None
    else:
        return f"{f'its part {where}' if where else 'it'} is {body!r:.80}, not {found!r:.80}"
    return next((told for part in parts if (told := difference(*part)) is not None), None)
