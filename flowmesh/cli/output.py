"""What commands write: results to stdout, everything else to stderr."""

import os
import sys
from typing import Final

from rich.console import Console, RenderableType

from flowmesh.cli.plain import visible

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "complain", "refuse", "show", "write"]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
PIPE_WIDTH: Final = 200
"""Columns of a table that nobody watches."""


def console() -> Console:
    """Return what renders for stdout. Only a terminal has an edge: what goes to a file or a pipe is not cut."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def show(what: RenderableType, on: Console) -> None:
    """Write a table, or several, to stdout."""
    with on.capture() as capture:
        on.print(what, crop=False)
    write(capture.get())


def write(text: str) -> None:
    """Write to stdout; a reader that has gone away changes nothing about the exit code."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it exits, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")


def refuse(text: str) -> int:
    """Say why a command is not carried out, and return the exit code of that."""
    complain(f"flowmesh: {visible(text)}")
    return EXIT_USAGE
