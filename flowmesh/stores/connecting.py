"""Open a connection to a store's file, and get rid of one that must not write any more."""

import ctypes
import sqlite3
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from flowmesh.errors import StoreError
from flowmesh.stores.schema import bring_up_to_date, version_of

__all__ = ["PAGE", "abandon", "connect", "leak", "look_into"]

PAGE: Final = 4096

_SYNCHRONOUS: Final = {"power": "FULL", "process": "NORMAL"}
_CACHE: Final = 8 << 10
"""KiB of pages in memory: the leaves that are written over and over."""


def connect(path: Path, *, durability: Literal["process", "power"] = "power") -> sqlite3.Connection:
    """Open the file, which is there, for this thread alone, and bring it up to date.

    Raises:
        sqlite3.Error: it cannot be opened.
        StoreCorrupt: it is no store, or of a newer version.
    """
    connection = _connect(path)
    try:
        execute = connection.execute
        execute(f"PRAGMA page_size = {PAGE}")
        execute("PRAGMA secure_delete = OFF")
        execute(f"PRAGMA cache_size = -{_CACHE}")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA fullfsync = ON")
        execute("PRAGMA checkpoint_fullfsync = ON")
        version_of(connection)  # Refuses what is no store before anything is changed in it.
        (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"its file system cannot hold it (SQLite's journal mode stays {mode}): choose a local disk")
        bring_up_to_date(connection)
        execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    except BaseException:
        abandon(connection)
        raise
    return connection


def look_into(path: Path) -> sqlite3.Connection:
    """Open the file, which is there, so that nothing can be written; close it with `abandon`, so that nothing is.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, timeout=0.0, cached_statements=64
    )
    # A damaged text is compared with its checksum like anything else.
    connection.text_factory = _decode
    # Before anything is read: so the index of the log is in this process's own memory from the beginning.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _decode(text: bytes) -> str:
    return text.decode(errors="replace")


def abandon(connection: sqlite3.Connection) -> None:
    """Close it, and write nothing on the way.

    SQLite makes a last checkpoint when it closes, and then deletes the log: both would be wrong after a failed fsync, when what
    is read back from the file need not be on the disk. A checkpoint looks whether it has been interrupted before it writes
    a page, and the mark of that stays until the next statement, of which there is none.
    """
    connection.interrupt()
    connection.close()


def leak(connection: sqlite3.Connection) -> None:
    """Keep it from ever being closed in this process: in a fork that would drag the log from under its owner.

    CPython happens to keep it as well, because it never cleans up the frames of threads that a fork has not got.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
