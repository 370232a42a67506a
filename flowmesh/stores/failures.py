"""What an error of SQLite means for a store.

Three kinds: there is no room (nothing was written, go on), the batch is not one that can be written (refuse it, go on), and all
others, after which nobody knows what is on the disk: the store is broken until it is opened anew.
"""

import enum
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flowmesh.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked

__all__ = ["Harm", "harm_of", "translate"]


class Harm(enum.Enum):
    """How far an error goes."""

    FULL = enum.auto()
    REFUSED = enum.auto()
    BROKEN = enum.auto()


_HARMS: Final = {
    sqlite3.SQLITE_FULL: Harm.FULL,
    sqlite3.SQLITE_CONSTRAINT: Harm.REFUSED,
    sqlite3.SQLITE_TOOBIG: Harm.REFUSED,
    sqlite3.SQLITE_MISMATCH: Harm.REFUSED,
}

_ERRORS: Final[dict[int, tuple[Callable[[str], StoreError], str]]] = {
    sqlite3.SQLITE_FULL: (StoreFull, "its disk is full: what ends is still written; make room on the disk"),
    sqlite3.SQLITE_CONSTRAINT: (StoreError, "a number is there already: nothing of this was written"),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "its file is damaged: stop, and run `flowmesh store salvage`"),
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, "its file is no SQLite database: give another path, or run `flowmesh store salvage`"),
    sqlite3.SQLITE_BUSY: (StoreLocked, "another program has its file open: close that one, or wait until it has ended"),
    sqlite3.SQLITE_IOERR: (
        StoreError,
        "its disk has failed, and nothing more is confirmed: look at the disk, then start again",
    ),
    sqlite3.SQLITE_READONLY: (StoreError, "its file cannot be written: give its user the right to"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "its file cannot be opened: look at the rights of the file and its folder"),
}


def code_of(error: BaseException) -> int:
    """Return SQLite's primary code of an error; 0: it does not come from SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def harm_of(error: Exception) -> Harm:
    """Return how far an error of a transaction goes."""
    # What Python itself refuses to bind (an integer of more than 64 bits, a value of a wrong type) has no code.
    if isinstance(error, sqlite3.Error | OverflowError | TypeError | ValueError) and code_of(error) == 0:
        return Harm.REFUSED
    return _HARMS.get(code_of(error), Harm.BROKEN)


def translate(path: Path, error: Exception) -> StoreError:
    """Return what to raise for it: each time a new one, with the error as its cause."""
    if isinstance(error, StoreError):
        again = type(error)(str(error) if str(path) in str(error) else f"store {path}: {error}")
        again.__dict__.update(error.__dict__)
    else:
        kind, meaning = _ERRORS.get(code_of(error), (StoreError, "it failed" if code_of(error) else "this cannot be stored"))
        again = kind(f"store {path}: {meaning} ({error})")
    again.__cause__ = error
    return again
