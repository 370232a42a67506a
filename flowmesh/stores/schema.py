"""The tables of a store's file, and how a file of an older version becomes one of this version.

A version is the number of steps that a file has taken. Step 0 makes the tables in an empty file, each later one changes them.
All steps that a file lacks are taken in one transaction, with the new version in it: a crash leaves the file as it was. A file
that has taken more steps than are known here is refused, and left alone.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from flowmesh.errors import StoreCorrupt

__all__ = ["APPLICATION", "STEPS", "bring_up_to_date", "version_of"]

APPLICATION: Final = 0x464D5348
"""SQLite's application_id of a store: `FMSH`. What says something else is somebody else's database."""

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER, checksum INTEGER) WITHOUT ROWID",
        "CREATE TABLE mailboxes (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, checksum INTEGER)",
        "CREATE TABLE lines (line INTEGER PRIMARY KEY, placed INTEGER, marked INTEGER, copies INTEGER, checksum INTEGER)",
        "CREATE TABLE copies (number INTEGER PRIMARY KEY, record BLOB, checksum INTEGER)",
        "CREATE TABLE trials (number INTEGER PRIMARY KEY, record BLOB, checksum INTEGER)",
        "CREATE TABLE timers (id INTEGER PRIMARY KEY, record BLOB, checksum INTEGER)",
        "CREATE TABLE kept (kind TEXT, key TEXT, value BLOB, checksum INTEGER, PRIMARY KEY (kind, key)) WITHOUT ROWID",
        # `source`: the table it was in; `key`: its key there, or both of them as a text; `noticed`: seconds since the epoch.
        "CREATE TABLE quarantine (id INTEGER PRIMARY KEY, source TEXT, key, record, checksum, reason TEXT, noticed REAL)",
    ),
)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of an open file; 0: it is empty.

    Raises:
        StoreCorrupt: it is a database, but no store.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == APPLICATION and version > 0:
        return version
    if application or version or tables:
        raise StoreCorrupt("it is an SQLite database, but not a store of Flowmesh: give the store a file of its own")
    return 0


def bring_up_to_date(connection: sqlite3.Connection, steps: Sequence[Sequence[str]] | None = None) -> None:
    """Take the steps that the file lacks, all or none.

    Raises:
        StoreCorrupt: it is no store, or one of a newer version.
    """
    steps = STEPS if steps is None else steps
    version = version_of(connection)
    if version > len(steps):
        raise StoreCorrupt(
            f"it is of version {version}, and this Flowmesh knows versions up to {len(steps)}:"
            " use the Flowmesh that wrote it, or a newer one"
        )
    if version == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    for step in steps[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {len(steps)}")
    connection.execute("COMMIT")
