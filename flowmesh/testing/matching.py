"""What a test expects of a message: a type, a condition on the body, or the very body."""

import inspect
from typing import Any

__all__ = ["described", "matches", "shown"]

_LONG = 120


def matches(expected: Any, body: object) -> bool:
    """Tell whether a body is of a type, fulfils a condition (a function of it), or is equal to a value."""
    if inspect.isclass(expected):
        return isinstance(body, expected)
    if callable(expected):
        return bool(expected(body))
    return bool(body == expected)


def described(expected: Any) -> str:
    """Return what is expected, for an error's text."""
    if inspect.isclass(expected):
        return f"a message of type {expected.__qualname__}"
    if callable(expected):
        code = getattr(expected, "__code__", None)
        if code is None or code.co_name != "<lambda>":
            return f"a message for which {getattr(expected, '__qualname__', None) or repr(expected)} holds"
        file = code.co_filename.replace("\\", "/").rpartition("/")[2]
        return f"a message for which the lambda in {file}:{code.co_firstlineno} holds"
    return shown(expected)


def shown(body: object) -> str:
    """Return a body as text that fits into a line."""
    text = repr(body)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
