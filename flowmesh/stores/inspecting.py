"""Look at a store's file that no mesh has open: what is in it, and whether all of it is as it was written.

Nothing is changed, neither in the file nor in its log, however damaged it is. While a function of this module looks, it
owns the file, so a mesh that wants to start finds it locked.
"""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from flowmesh._core.records import LAST_PLACE, PLACE_BITS, Row, Trial, lines_of, number_of
from flowmesh.errors import NotFound, StoreCorrupt, StoreError
from flowmesh.stores import checksums
from flowmesh.stores.connecting import abandon, look_into
from flowmesh.stores.failures import translate
from flowmesh.stores.files import Ownership, check_place
from flowmesh.stores.loading import decode_trial
from flowmesh.stores.schema import STEPS, version_of

__all__ = ["CheckReport", "StoreInfo", "check", "info", "looking_at", "rows_of"]

_PROBLEMS: Final = 100
"""So many are named; the others are counted."""


class StoreInfo(Struct, frozen=True):
    """What is in a store. `mailboxes`: copies by name; `kept`: values by kind; sizes in bytes."""

    path: str
    version: int
    size: int
    log_size: int
    mailboxes: dict[str, int]
    timers: int
    kept: dict[str, int]
    quarantined: int


class CheckReport(Struct, frozen=True):
    """Whether a file is as it was written.

    `rows`: that were compared with their checksums. `problems`: one line for each, a hundred at most; `more`: others.
    `quarantined`: rows that had been taken out of use before; they are kept, and are no problem of the file any more.
    """

    rows: int
    problems: tuple[str, ...]
    more: int
    quarantined: int

    @property
    def is_sound(self) -> bool:
        """Everything is as it was written."""
        return not self.problems


@contextmanager
def looking_at(path: Path) -> Generator[sqlite3.Connection]:
    """Own the file for as long as the context lasts, and give a connection that changes nothing.

    Raises:
        StoreLocked: a process has it open, `.pid`.
        StoreError: there is no such file, or it cannot be read.
    """
    path = path.absolute()
    check_place(path)
    if not path.exists():
        raise StoreError(f"store {path}: there is no such file")
    ownership = Ownership(path)
    ownership.take()
    try:
        connection = look_into(path)
        try:
            yield connection
        finally:
            abandon(connection)
    except sqlite3.Error as error:
        raise translate(path, error) from error
    finally:
        ownership.release()


def info(path: Path) -> StoreInfo:
    """Say what is in the store at `path`.

    Raises:
        StoreLocked: a process has it open, `.pid`.
        StoreError: it cannot be read, or is of another version.
    """
    with looking_at(path) as connection:
        version = _known_version(connection, path)
        copies: dict[int, int] = {}
        for line, count in connection.execute("SELECT line, copies FROM lines"):
            mailbox = line // len(lines_of(0))
            copies[mailbox] = copies.get(mailbox, 0) + count
        return StoreInfo(
            path=str(path),
            version=version,
            size=_size(path),
            log_size=_size(Path(f"{path}-wal")),
            mailboxes={
                name: copies.get(number, 0)
                for number, name in connection.execute("SELECT number, name FROM mailboxes ORDER BY name")
            },
            timers=_count(connection, "SELECT count(*) FROM timers"),
            kept=dict(connection.execute("SELECT kind, count(*) FROM kept GROUP BY kind ORDER BY kind").fetchall()),
            quarantined=_count(connection, "SELECT count(*) FROM quarantine"),
        )


def check(path: Path) -> CheckReport:
    """Compare every row with its checksum, every count with what is there, and every page with what SQLite expects.

    Raises:
        StoreLocked: a process has it open, `.pid`.
        StoreError: it is no store, or of another version.
    """
    problems: list[str] = []
    rows = quarantined = 0
    with looking_at(path) as connection:
        _known_version(connection, path)
        try:
            said = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_PROBLEMS})")]
            problems += [f"file: {line}" for line in said if line != "ok"]
            for problem in _wrong_rows(connection):
                rows += 1
                if problem is not None:
                    problems.append(problem)
            problems += _wrong_counts(connection)
            quarantined = _count(connection, "SELECT count(*) FROM quarantine")
        except sqlite3.DatabaseError as error:
            problems.append(f"file: {error}; what comes after that has not been looked at")
    return CheckReport(rows, tuple(problems[:_PROBLEMS]), max(0, len(problems) - _PROBLEMS), quarantined)


def rows_of(path: Path, mailbox: str, *, after: int = -1, limit: int = 1000) -> list[Row]:
    """Return copies of a mailbox, in order, without marking them; what is damaged is left out.

    Args:
        path: of the store.
        mailbox: its name.
        after: the number of the last copy that is known already.
        limit: at most so many copies.

    Raises:
        NotFound: the store has no such mailbox.
        StoreLocked: a process has it open, `.pid`.
        StoreError: it cannot be read, or is of another version.
    """
    with looking_at(path) as connection:
        _known_version(connection, path)
        found = connection.execute("SELECT number FROM mailboxes WHERE name = ?", (mailbox,)).fetchone()
        if found is None:
            raise NotFound(f"store {path} has no mailbox {mailbox!r}: `flowmesh store info` lists those that it has")
        lines = lines_of(found[0])
        given = (max(after + 1, number_of(lines[0], 0)), number_of(lines[-1], LAST_PLACE))
        rows: list[Row] = []
        sql = (
            "SELECT copies.number, copies.record, copies.checksum, trials.record, trials.checksum FROM copies"
            " LEFT JOIN trials USING (number) WHERE number BETWEEN ? AND ? ORDER BY number"
        )
        with closing(connection.execute(sql, given)) as read:
            for number, record, checksum, tried, tried_checksum in read:
                if len(rows) == limit:
                    break
                if checksums.is_right("copies", (number, record, checksum)):
                    is_known = checksums.is_right("trials", (number, tried, tried_checksum))
                    trial = decode_trial(tried) if is_known else None if tried is None else Trial()
                    rows.append(Row(number, record, trial))
        return rows


def _known_version(connection: sqlite3.Connection, path: Path) -> int:
    try:
        version = version_of(connection)
    except StoreCorrupt as error:
        raise StoreCorrupt(f"store {path}: {error}") from error
    if version == 0:
        raise StoreError(f"store {path} is empty: a mesh that is started with it makes it")
    if version != len(STEPS):
        raise StoreError(
            f"store {path} is of version {version}, this Flowmesh works with version {len(STEPS)}:"
            " start a mesh with it once to bring an older one up to date, or use the Flowmesh that wrote a newer one"
        )
    return version


def _wrong_rows(connection: sqlite3.Connection) -> Iterator[str | None]:
    """Yield for each row what is wrong with it."""
    for table, columns in checksums.COLUMNS.items():
        for row in connection.execute(f"SELECT {columns} FROM {table}"):  # noqa: S608 - names from above
            yield None if checksums.is_right(table, row) else f"{table}: the row {row[0]!r} is not what was written"


def _wrong_counts(connection: sqlite3.Connection) -> list[str]:
    counted = dict(connection.execute("SELECT number >> ?, count(*) FROM copies GROUP BY 1", (PLACE_BITS,)).fetchall())
    known = dict(connection.execute("SELECT line, copies FROM lines").fetchall())
    names = {number for (number,) in connection.execute("SELECT number FROM mailboxes")}
    problems = [
        f"lines: {known.get(line, 0)} copies in line {line}, of which {counted.get(line, 0)} are there"
        for line in sorted(counted.keys() | known.keys())
        if counted.get(line, 0) != known.get(line, 0)
    ]
    mailboxes = {line // len(lines_of(0)) for line in counted} - names
    return problems + [f"mailboxes: number {number} has copies and no name" for number in sorted(mailboxes)]


def _count(connection: sqlite3.Connection, sql: str) -> int:
    return connection.execute(sql).fetchone()[0]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
