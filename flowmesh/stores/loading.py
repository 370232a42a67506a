"""Read a store's file: all but the copies when it is opened, copies as they are asked for.

Every row is held against its checksum. One that does not pass goes into the table `quarantine`, with its key, what is there of
it and when that was noticed, and is logged; nobody is given it, and it is never deleted. What it has stood for is then put
together from what else is known, on the safe side: a line without its row begins far behind its last copy, and all of its
copies may have been in a handler's hands; a mailbox without its name keeps its copies under a name that says so.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from flowmesh._core.records import LAST_PLACE, PLACE_BITS, Contents, Line, Row, Trial, lines_of, number_of, place_of
from flowmesh.errors import StoreCorrupt
from flowmesh.stores import checksums
from flowmesh.stores.tables import Tables

__all__ = ["Quarantine", "decode_trial", "load", "read_copies"]

_MEND: Final = "stop, and run `flowmesh store salvage`"
_GAP: Final = 1 << 32
"""So many places a line without its row leaves out: more than it can have given since its last copy."""
_PLAIN: Final = "SELECT number, record, checksum, NULL, NULL FROM copies WHERE number BETWEEN ? AND ? ORDER BY number LIMIT ?"
_TRIED: Final = (
    "SELECT copies.number, copies.record, copies.checksum, trials.record, trials.checksum FROM copies"
    " LEFT JOIN trials USING (number) WHERE number BETWEEN ? AND ? ORDER BY number LIMIT ?"
)

decode_trial = msgspec.msgpack.Decoder(Trial).decode


class Quarantine:
    """Where rows go that are not what was written. Used within a transaction; `notice` is told of each."""

    def __init__(self, connection: sqlite3.Connection, notice: Callable[[str], None]) -> None:
        self._connection = connection
        self._notice = notice

    def put(self, source: str, key: object, record: object, checksum: object, *, reason: str = "its checksum is wrong") -> None:
        """Keep a row that is being taken out of its table."""
        self._connection.execute(
            "INSERT INTO quarantine (source, key, record, checksum, reason, noticed) VALUES (?,?,?,?,?,?)",
            (source, key, record, checksum, reason, time.time()),
        )
        self._notice(f"a row of {source} is damaged and has been put into quarantine ({reason}): {key!r}")

    def count(self) -> int:
        """Return how many rows there are."""
        return self._connection.execute("SELECT count(*) FROM quarantine").fetchone()[0]


def load(connection: sqlite3.Connection, quarantine: Quarantine) -> Contents:
    """Return what is in the file, and mend what can be mended. Within a transaction."""
    lines = {row[0]: Line(row[1], row[2], row[3]) for row in _sound_rows(connection, quarantine, "lines")}
    lines |= _lost_lines(connection, lines)
    mailboxes: dict[str, int] = {name: number for number, name, _ in _sound_rows(connection, quarantine, "mailboxes")}
    mailboxes |= _lost_mailboxes(connection, lines, mailboxes)
    timers: dict[int, bytes] = {id: record for id, record, _ in _sound_rows(connection, quarantine, "timers")}
    last_timer = max(_last_timer(connection, quarantine), max(timers, default=0))
    kept = {(kind, key): value for kind, key, value, _ in _sound_rows(connection, quarantine, "kept")}
    return Contents(mailboxes, lines, timers, last_timer, kept, quarantine.count())


def read_copies(
    connection: sqlite3.Connection, tables: Tables, quarantine: Quarantine, *, first: int, last: int, limit: int
) -> list[Row]:
    """Return the first copies from `first` to `last`, and mark them. Within a transaction.

    Raises:
        StoreCorrupt: the tree of the copies is damaged.
    """
    rows: list[Row] = []
    while len(rows) < limit and first <= last:
        wanted = limit - len(rows)
        found = connection.execute(_TRIED if tables.has_trials else _PLAIN, (first, last, wanted)).fetchall()
        for number, record, checksum, tried, tried_checksum in found:
            if number < first:  # A damaged tree may give its rows again and again.
                raise StoreCorrupt(f"its copies are not in order: {_MEND}")
            first = number + 1
            if type(record) is bytes and checksums.of_record(checksums.COPIES, number, record) == checksum:
                trial = None if tried is None else _trial(quarantine, connection, number, tried, tried_checksum)
                rows.append(Row(number, record, trial))
            else:
                quarantine.put("copies", number, record, checksum)
                if not connection.execute("DELETE FROM copies WHERE number = ?", (number,)).rowcount:
                    raise StoreCorrupt(f"a copy of it is not where it is looked for: {_MEND}")
                tables.take_away(number)
        if len(found) < wanted:
            break
    for line, number in {row.number >> PLACE_BITS: row.number for row in rows}.items():
        tables.mark(line, place_of(number))
    return rows


def _trial(quarantine: Quarantine, connection: sqlite3.Connection, number: int, record: Any, checksum: Any) -> Trial:
    if checksums.is_right("trials", (number, record, checksum)):
        return decode_trial(record)
    quarantine.put("trials", number, record, checksum)
    connection.execute("DELETE FROM trials WHERE number = ?", (number,))
    return Trial()


def _sound_rows(connection: sqlite3.Connection, quarantine: Quarantine, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table that are what was written, and take out the others."""
    columns = checksums.COLUMNS[table]
    keys = columns.split(", ")[: 2 if table == "kept" else 1]
    for row in connection.execute(f"SELECT {columns} FROM {table}").fetchall():  # noqa: S608 - names from above
        if checksums.is_right(table, row):
            yield row
        else:
            key = row[: len(keys)]
            quarantine.put(table, key[0] if len(key) == 1 else repr(key), repr(row[len(keys) : -1]), row[-1])
            where = " AND ".join(f"{name} IS ?" for name in keys)
            connection.execute(f"DELETE FROM {table} WHERE {where}", key)  # noqa: S608 - names from above


def _lost_lines(connection: sqlite3.Connection, known: dict[int, Line]) -> dict[int, Line]:
    """Find the lines that have copies and no row, by one look per line into the copies' tree."""
    lost: dict[int, Line] = {}
    number = -1
    while True:
        found = connection.execute("SELECT number FROM copies WHERE number > ? ORDER BY number LIMIT 1", (number,)).fetchone()
        if found is None:
            return lost
        line = found[0] >> PLACE_BITS
        number = number_of(line, LAST_PLACE)
        if line not in known:
            ends = (number_of(line, 0), number)
            sql = "SELECT count(*), max(number) FROM copies WHERE number BETWEEN ? AND ?"
            copies, top = connection.execute(sql, ends).fetchone()
            placed = min(place_of(top) + _GAP, LAST_PLACE)
            lost[line] = Line(placed, placed, copies)
            row = (line, placed, placed, copies, checksums.of_line(line, placed, placed, copies))
            connection.execute("INSERT INTO lines VALUES (?,?,?,?,?)", row)


def _lost_mailboxes(connection: sqlite3.Connection, lines: dict[int, Line], known: dict[str, int]) -> dict[str, int]:
    """Find the mailboxes that have lines and no name."""
    lost = {line // len(lines_of(0)) for line in lines} - set(known.values())
    names = {f"mailbox {number}, name lost": number for number in sorted(lost)}
    of_record, table = checksums.of_record, checksums.MAILBOXES
    rows = [(number, name, of_record(table, number, name.encode())) for name, number in names.items()]
    connection.executemany("INSERT INTO mailboxes VALUES (?,?,?)", rows)
    return names


def _last_timer(connection: sqlite3.Connection, quarantine: Quarantine) -> int:
    is_there = connection.execute("SELECT 1 FROM meta").fetchone() is not None
    last = [value for _, value, _ in _sound_rows(connection, quarantine, "meta")]
    # What is lost is made up for by more than any store has given: an id is not given twice.
    return last[0] if last else _GAP if is_there else 0
