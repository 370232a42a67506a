"""Copy every row that is still what was written out of a damaged file, into a new one.

The damaged file stays as it is. A page that cannot be read costs the rows that are on it, not those behind it. A row that can
be read and is not what was written goes into the new file's quarantine. A file whose first page is damaged, which says where
everything else is, gets that of a new store: the pages are where the tables were made, and a row that is read for one of
another table does not pass.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from msgspec import Struct

from flowmesh._core.records import LAST_PLACE, number_of
from flowmesh.errors import StoreError
from flowmesh.stores import checksums
from flowmesh.stores.connecting import PAGE, abandon, connect, look_into
from flowmesh.stores.files import Ownership, check_place, open_private_file
from flowmesh.stores.inspecting import looking_at
from flowmesh.stores.loading import Quarantine, load
from flowmesh.stores.schema import version_of

__all__ = ["SalvageReport", "salvage"]

_LAST: Final = (1 << 63) - 1
_NUMBERED: Final = {"mailboxes": "number", "lines": "line", "copies": "number", "trials": "number", "timers": "id"}
_KEYED: Final = {"kept": "kind, key", "meta": "key"}


class SalvageReport(Struct, frozen=True):
    """What came out of a damaged file.

    `saved`: rows by table. `quarantined`: rows that are not what was written, and are in the new file's quarantine, with
    those that had been in the old one's. `gaps`: which keys of which tables could not be read, from and to.
    """

    saved: dict[str, int]
    quarantined: int
    gaps: tuple[str, ...]


def salvage(path: Path, target: Path) -> SalvageReport:
    """Copy what is good in the store at `path` into a new one at `target`.

    Raises:
        StoreLocked: a process has the file open, `.pid`.
        StoreError: `path` is not there, `target` is, or nothing can be read at all.
    """
    target = target.absolute()
    if target.exists():
        raise StoreError(f"{target} is there already: give the path of a new file")
    check_place(target)
    with contextlib.ExitStack() as stack:
        source = _readable(path.absolute(), stack)
        ownership = Ownership(target)
        ownership.take()
        stack.callback(ownership.release)
        _make(target)
        new = connect(target)
        stack.callback(new.close)
        return _Salvage(source, new).run()


def _readable(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    """Return a connection to the file, or to a copy of it with a first page that can be read."""
    with contextlib.suppress(StoreError, sqlite3.DatabaseError), contextlib.ExitStack() as trying:
        connection = trying.enter_context(looking_at(path))
        if version_of(connection):
            connection.execute("SELECT count(*) FROM lines").fetchone()
            stack.push(trying.pop_all())
            return connection
    if not path.exists():
        raise StoreError(f"store {path}: there is no such file")
    ownership = Ownership(path)
    ownership.take()
    stack.callback(ownership.release)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="salvage-", dir=path.parent)))
    template, copy = folder / "template", folder / "copy"
    _make(template)
    connect(template).close()
    shutil.copyfile(path, copy)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
    with template.open("rb") as good, copy.open("r+b") as bad:
        first = bytearray(good.read(PAGE))
        first[28:32] = (path.stat().st_size // PAGE).to_bytes(4, "big")  # How many pages there are,
        first[32:40] = bytes(8)  # and none of them free. (SQLite's file format, 1.3)
        bad.write(first)
    connection = look_into(copy)
    stack.callback(abandon, connection)
    try:
        version_of(connection)
        return connection
    except (StoreError, sqlite3.DatabaseError) as error:
        raise StoreError(f"store {path}: nothing of it can be read ({error})") from error


def _make(path: Path) -> None:
    os.close(open_private_file(path))


class _Salvage:
    """One run: rows of the old file are read as they come, and written into the new one."""

    def __init__(self, source: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self._source = source
        self._new = new
        self._saved: dict[str, int] = {}
        self._gaps: list[str] = []
        self._quarantine = Quarantine(new, lambda _: None)

    def run(self) -> SalvageReport:
        """Copy everything, then put together what is missing, as a store does that is opened."""
        self._new.execute("BEGIN IMMEDIATE")
        for table, key in _NUMBERED.items():
            self._copy(table, self._numbered(table, key))
        for table, key in _KEYED.items():
            self._copy(table, self._keyed(table, key))
        for row in self._numbered("quarantine", "id"):
            source, at, record, checksum, reason, _ = row[1:]
            self._quarantine.put(str(source), at, record, checksum, reason=str(reason))
        self._recount()
        load(self._new, self._quarantine)
        quarantined = self._quarantine.count()
        self._new.execute("COMMIT")
        return SalvageReport(self._saved, quarantined, tuple(self._gaps))

    def _copy(self, table: str, rows: Iterator[tuple[Any, ...]]) -> None:
        saved = 0
        for row in rows:
            if checksums.is_right(table, row):
                marks = ",".join("?" * len(row))
                # Two rows of one key: damage has made one of them. Both pass, so they are equal.
                self._new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608 - a name from above
                saved += 1
            else:
                *columns, checksum = row
                self._quarantine.put(table, repr(columns[0]), columns[-1], checksum)
        self._saved[table] = saved

    def _numbered(self, table: str, key: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table with numbers for keys, and step over what cannot be read."""
        low = -_LAST - 1
        while True:
            try:
                sql = f"SELECT * FROM {table} WHERE {key} >= ? ORDER BY {key}"  # noqa: S608 - names from above
                for row in self._source.execute(sql, (low,)):
                    yield row
                    low = row[0] + 1
            except sqlite3.DatabaseError:
                probe = f"SELECT {key} FROM {table} WHERE {key} >= ? ORDER BY {key} LIMIT 1"  # noqa: S608
                following = self._next_readable(probe, low)
                self._gaps.append(f"{table}: from {low} to {'the end' if following is None else following - 1}")
                if following is None:
                    return
                low = following
            else:
                return

    def _next_readable(self, probe: str, low: int) -> int | None:
        """Return the least key from which on rows can be read again; None: there are none."""

        def reads(key: int) -> bool:
            try:
                self._source.execute(probe, (key,)).fetchone()
            except sqlite3.DatabaseError:
                return False
            return True

        bad, step = low, 1
        while not reads(min(bad + step, _LAST)):
            if bad + step >= _LAST:
                return None
            bad, step = bad + step, step * 2
        good = min(bad + step, _LAST)
        while good - bad > 1:
            middle = (good + bad) // 2
            bad, good = (bad, middle) if reads(middle) else (middle, good)
        return good

    def _keyed(self, table: str, key: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table with texts for keys: from its beginning, and where that ends, from its end."""
        seen: set[tuple[Any, ...]] = set()
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{column} {direction}" for column in key.split(", "))
            try:
                for row in self._source.execute(f"SELECT * FROM {table} ORDER BY {order}"):  # noqa: S608 - names from above
                    if row not in seen:
                        seen.add(row)
                        yield row
                return
            except sqlite3.DatabaseError:
                if direction == "DESC":
                    self._gaps.append(f"{table}: in the middle")

    def _recount(self) -> None:
        """Let each line have the copies that have been saved."""
        for line, placed, marked in self._new.execute("SELECT line, placed, marked FROM lines").fetchall():
            ends = (number_of(line, 0), number_of(line, LAST_PLACE))
            (copies,) = self._new.execute("SELECT count(*) FROM copies WHERE number BETWEEN ? AND ?", ends).fetchone()
            checksum = checksums.of_line(line, placed, marked, copies)
            self._new.execute("UPDATE lines SET copies = ?, checksum = ? WHERE line = ?", (copies, checksum, line))
