"""Foreign text made harmless, and errors shown as their author needs them.

Names, bodies and messages come from the user's code and from outside: a control character in them must neither move the
cursor of a terminal nor forge a line of a log.
"""

import asyncio
import importlib
import traceback
from pathlib import Path
from typing import Final

import anyio
import trio

__all__ = ["INDENT", "error_text", "visible", "visible_lines"]

INDENT: Final = "    "

_MACHINERY: Final = tuple(
    str(Path(file).parent) + "/"
    for file in (str(Path(__file__).parent), anyio.__file__, trio.__file__, asyncio.__file__, importlib.__file__)
)
"""Folders whose frames stand between the command and the user's code: this package, the backends, the import system."""


def visible(text: str) -> str:
    """Return the text on one line, with whatever cannot be printed written as an escape."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def visible_lines(text: str, indent: str = INDENT) -> str:
    """Return the text with its lines and tabs kept, and everything else made visible; further lines are indented."""
    first, *rest = ("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))
    return "\n".join([first, *(f"{indent}{line}" for line in rest)])


def error_text(error: BaseException) -> str:
    """Return the error's traceback, beginning at the first frame of the user's own code; its causes and parts likewise."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    _forget_machinery(shown)
    return visible_lines("".join(shown.format()).rstrip("\n"), indent="")


def _forget_machinery(shown: traceback.TracebackException) -> None:
    frames = list(shown.stack)
    while frames and frames[0].filename.startswith((*_MACHINERY, "<frozen importlib")):
        del frames[0]
    shown.stack = traceback.StackSummary.from_list(frames)
    for part in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if part is not None:
            _forget_machinery(part)
