"""What checks of users' options have in common: errors that name the option, what it takes, and how it is written.

A wrong value is a ValueError, an unknown or a missing option a TypeError.  `Policy` is what policies are made of: a frozen
Struct whose class names itself, and the option that was meant, where msgspec would only say that an argument is wrong.
"""

import datetime
import difflib
import math
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, TypeGuard, TypeVar, cast

from msgspec import Struct, StructMeta

__all__ = [
    "Policy",
    "is_number",
    "is_seconds",
    "is_whole",
    "require",
    "require_by",
    "require_kinds",
    "suggestion",
]

Made = TypeVar("Made")


class _Named(StructMeta):
    """Makes policies; looks at the names of their options first."""

    def __call__(cls: type[Made], *values: Any, **options: Any) -> Made:  # noqa: N805 - of a metaclass
        """Make a policy.

        Raises:
            TypeError: an option is unknown, missing, or given twice.
        """
        _check_names(cls, len(values), options)
        return super().__call__(*values, **options)


class Policy(Struct, frozen=True, forbid_unknown_fields=True, metaclass=_Named):
    """What users configure. `written`: an example of how it is written, for those who left something out."""

    written: ClassVar[str] = ""


def _check_names(kind: Any, values: int, options: Iterable[str]) -> None:
    name, known = kind.__name__, kind.__struct_fields__
    if values > len(known):
        raise TypeError(f"{name} takes {len(known)} options ({', '.join(known)}), not {values}: give them by name")
    for option in options:
        if option not in known:
            listed = suggestion(option, known) or f": it takes {', '.join(known)}"
            raise TypeError(f"unknown option {option!r} of {name}{listed}")
        if option in known[:values]:
            raise TypeError(f"{name} is given {option} twice, by its place and by name: leave one of them out")
    required = known[: len(known) - len(kind.__struct_defaults__)]
    missing = [option for option in required[values:] if option not in options]
    if missing:
        raise TypeError(f"{name} needs {' and '.join(f'{option}=' for option in missing)}: write {kind.written}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ' (did you mean ...?)' for a name that is nearly one of the known ones, otherwise ''."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def require(holds: bool, name: str, what: str, value: object, *, written: str = "", whose: str = "") -> None:
    """Refuse a value that does not hold.

    Args:
        holds: whether it is one that the option takes.
        name: of the option.
        what: the option takes.
        value: what was given.
        written: how to write what was probably meant.
        whose: option it is, such as " of actor 'bill'".

    Raises:
        ValueError: naming the option, what it takes, and what was given.
    """
    if not holds:
        if isinstance(value, datetime.timedelta):
            written = written or f"{name}={value.total_seconds():g}, in seconds"
        raise ValueError(f"{name}{whose} must be {what}, not {value!r}{f': write {written}' if written else ''}")


def require_by(by: Any, *, optional: bool = True, whose: str = "") -> None:
    """Refuse a `by=` that is no function of a body; `whose`: as `require`.

    Raises:
        ValueError: it is none.
    """
    what = "a function of the body, or None" if optional else "a function of the body"
    written = f"by=lambda body: body.{by}" if isinstance(by, str) and by.isidentifier() else ""
    require(callable(by) or (optional and by is None), "by", what, by, written=written, whose=whose)


def require_kinds(name: str, kinds: Any) -> None:
    """Refuse what is no tuple of exception types.

    Raises:
        ValueError: it is none.
    """
    several = tuple(cast("Iterable[Any]", kinds)) if isinstance(kinds, list | tuple | set | frozenset) else (kinds,)
    are_kinds = all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in several)
    listed = ", ".join(kind.__name__ for kind in several) if are_kinds else ""
    written = f"{name}=({listed}{',' if len(several) == 1 else ''})" if are_kinds else ""
    require(are_kinds and isinstance(kinds, tuple), name, "a tuple of exception types", kinds, written=written)  # pyright: ignore[reportUnknownArgumentType] - as above


def is_whole(value: object) -> TypeGuard[int]:
    """It is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """It is a number that is one as a float, too; True and False are not."""
    return isinstance(value, float) or (is_whole(value) and -sys.float_info.max <= value <= sys.float_info.max)


def is_seconds(value: object) -> TypeGuard[float]:
    """It is a number of seconds, zero or more, and not without end."""
    return is_number(value) and 0 <= value < math.inf
